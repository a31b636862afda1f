import type { Invariant } from '../invariant.ts'
import { type World, field, numberOf, textOf, violated } from '../model.ts'

/** How long another host of the site must have been there, so that its master knows of it. */
const KNOWN_MS = 1_000
/** So long an activation waits for who was given a copy and does not answer, and a bit less. */
const WAIT_MS = 2_900

interface Sent { id: number, to: string, atMs: number, version: number, isAnswered: boolean }
interface Age { epoch: number, version: number }

/** Of a copy as a host keeps it. */
const ageOf = (copy: unknown): Age | null => copy === null || copy === undefined ? null : { epoch: numberOf(copy, 'epoch'), version: numberOf(field(field(copy, 'record'), 'document'), 'version') }

/**
 * Before an activation leaves, the decision was given to other agents of the site, so that one of them
 * can take the cluster over: the first one, and every growth. What they keep never goes back.
 */
export function copies (world: World): Invariant {
  const NAME = 'copied-before-active'
  const disks = world.description.disks
  /** copies of a cluster, by host and cluster */
  const sent = new Map<string, Sent[]>()
  /** since when a host prepares a cluster */
  const preparing = new Map<string, number>()
  /** since when a document of a growth is on the disk: by host, cluster and version */
  const growing = new Map<string, number>()
  /** clusters that are activated for the first time, by host and cluster */
  const activating = new Set<string>()
  const keptBefore = new Map<string, Age | null>()

  function versionOf (json: unknown): number {
    const record: unknown = json instanceof Uint8Array && json.length > 0 ? JSON.parse(Buffer.from(json).toString()) : null
    return Math.max(numberOf(field(record, 'document'), 'version'), numberOf(field(field(record, 'amendment'), 'document'), 'version'))
  }

  return {
    name: NAME,
    decision ({ host, clusterId, record }) {
      const key = `${host} ${clusterId}`
      if (record === null) return
      const state = textOf(record, 'state')
      if (state === 'preparing' && !preparing.has(key)) preparing.set(key, world.nowMs)
      if (state === 'activating') activating.add(key)
      else activating.delete(key)
      const version = numberOf(field(field(record, 'amendment'), 'document'), 'version')
      if (version > 0 && !growing.has(`${key} ${version}`)) growing.set(`${key} ${version}`, world.nowMs)
    },
    arrive (host, { id, copy, call }) {
      if (call.method === 'copy') keptBefore.set(`${id}/${copy}`, ageOf(disks.copy?.(host.name, textOf(call.request, 'clusterId'))))
    },
    answer (host, { id, copy, method, request }) {
      if (method !== 'copy') return
      const clusterId = textOf(request, 'clusterId')
      for (const one of sent.get(`${world.calls.get(id)?.from ?? ''} ${clusterId}`) ?? []) if (one.id === id) one.isAnswered = true
      const before = keptBefore.get(`${id}/${copy}`) ?? null
      const now = ageOf(disks.copy?.(host.name, clusterId))
      keptBefore.delete(`${id}/${copy}`)
      if (before !== null && now !== null && (now.epoch < before.epoch || (now.epoch === before.epoch && now.version < before.version))) violated(world, 'copies-go-forward', host.name, `its copy of cluster ${clusterId.slice(0, 8)} was of epoch ${before.epoch} and version ${before.version}, it is of ${now.epoch} and ${now.version}`)
    },
    call (call) {
      const key = `${call.from} ${textOf(call.request, 'clusterId')}`
      if (call.method === 'copy') sent.set(key, [...sent.get(key) ?? [], { id: call.id, to: call.to, atMs: world.nowMs, version: versionOf(field(call.request, 'record')), isAnswered: false }])
      if (call.method !== 'activate' || call.forged) return
      const version = numberOf(field(call.request, 'document'), 'version')
      const grownMs = growing.get(`${key} ${version}`)
      const sinceMs = grownMs ?? preparing.get(key)
      const from = world.hosts.get(call.from)
      if (sinceMs === undefined || from?.malicious !== false || (grownMs === undefined && !activating.has(key))) return
      const fail: (why: string) => never = why => violated(world, NAME, call.from, `cluster ${textOf(call.request, 'clusterId').slice(0, 8)} is activated${grownMs === undefined ? '' : ' larger'}, ${why}`)
      const given = (sent.get(key) ?? []).filter(one => one.version >= version)
      const other = world.sites.get(from.site)?.find(host => host !== from && host.readySinceMs <= sinceMs - KNOWN_MS)
      if (given.length === 0 && other !== undefined) fail(`and nobody was given a copy, not even ${other.name}`)
      const lastMs = given.at(-1)?.atMs ?? 0
      // Who was there all the while has answered, or was waited for; of others the network may say at once that they are not.
      const there = given.filter(one => one.atMs === lastMs && (world.hosts.get(one.to)?.readySinceMs ?? 0) <= lastMs)
      if (there.length > 0 && world.nowMs - lastMs < WAIT_MS && there.every(one => !given.some(same => same.to === one.to && same.isAnswered)) && there.length === given.filter(one => one.atMs === lastMs).length && from.readySinceMs <= lastMs) fail(`${Math.round(world.nowMs - lastMs)} ms after ${there.map(one => one.to).join(', ')} got copies that nobody has answered`)
    }
  }
}
