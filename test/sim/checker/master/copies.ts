import type { Invariant } from '../invariant.ts'
import { type World, textOf, violated } from '../model.ts'

/** How long another host of the site must have been there, so that its master knows of it. */
const KNOWN_MS = 1_000

/** Before an activation leaves, the decision was offered to other agents of the site, so that one of them can take the cluster over. */
export function copies (world: World): Invariant {
  const NAME = 'copied-before-active'
  /** clusters of which a host has sent copies */
  const sent = new Set<string>()
  /** since when a host prepares a cluster */
  const preparing = new Map<string, number>()

  return {
    name: NAME,
    decision ({ host, clusterId, record }) {
      const key = `${host} ${clusterId}`
      if (record !== null && textOf(record, 'state') === 'preparing' && !preparing.has(key)) preparing.set(key, world.nowMs)
    },
    call (call) {
      const key = `${call.from} ${textOf(call.request, 'clusterId')}`
      if (call.method === 'copy') sent.add(key)
      const sinceMs = preparing.get(key)
      if (call.method !== 'activate' || call.forged || sent.has(key) || sinceMs === undefined) return
      const from = world.hosts.get(call.from)
      const other = world.sites.get(from?.site ?? '')?.find(host => host !== from && host.readySinceMs <= sinceMs - KNOWN_MS)
      if (from !== undefined && other !== undefined && !from.malicious) violated(world, NAME, call.from, `cluster ${textOf(call.request, 'clusterId').slice(0, 8)} is activated, and nobody was given a copy, not even ${other.name}`)
    }
  }
}
