/** Keys and certificates of a whole federation in memory, for tests that need members and not the way they joined. */
import { createKey, peerIdOf, type NodeKey } from '../protocol/mesh/identity.ts'
import type { HostRoleName } from '../protocol/mesh/roles.ts'
import { issue, type Chain } from '../protocol/mesh/trust/certificate.ts'

export interface KitHost { name: string, roles: readonly HostRoleName[], segmentIds?: { from: number, to: number }, quotaPercent?: number }
export interface KitPlan { coordinators?: readonly string[], sites: ReadonlyArray<{ name: string, hosts: readonly KitHost[] }> }
export interface KitMember { name: string, site: string, key: NodeKey, peerId: string, chain: Chain }
export interface Kit {
  coordinatorKey: NodeKey
  /** PeerId of the coordinator key */
  federation: string
  siteKeys: ReadonlyMap<string, NodeKey>
  /** chain of each site's key */
  siteChains: ReadonlyMap<string, Chain>
  members: readonly KitMember[]
  /** by `site/host`, or the name of a coordinator */
  member (name: string): KitMember
}

/** @param lifetimeMs of host certificates; default as in production */
export async function createKit (plan: KitPlan, nowMs: number = Date.now(), lifetimeMs?: number): Promise<Kit> {
  const coordinatorKey = await createKey()
  const federation = peerIdOf(coordinatorKey)
  const siteKeys = new Map<string, NodeKey>()
  const siteChains = new Map<string, Chain>()
  const members: KitMember[] = []
  for (const name of plan.coordinators ?? []) {
    const key = await createKey()
    const own = issue(coordinatorKey, { federation, kind: 'coordinator', subject: peerIdOf(key), site: '', name, roles: [] }, nowMs)
    members.push({ name, site: '', key, peerId: peerIdOf(key), chain: [own] })
  }
  for (const site of plan.sites) {
    const siteKey = await createKey()
    const siteChain = [issue(coordinatorKey, { federation, kind: 'site', subject: peerIdOf(siteKey), site: site.name, name: '', roles: [] }, nowMs)]
    siteKeys.set(site.name, siteKey)
    siteChains.set(site.name, siteChain)
    for (const host of site.hosts) {
      const key = await createKey()
      const own = issue(siteKey, {
        federation, kind: 'host', subject: peerIdOf(key), site: site.name, name: host.name, roles: host.roles,
        segmentIds: host.segmentIds ?? null, quotaPercent: host.quotaPercent ?? 0, ...(lifetimeMs === undefined ? {} : { lifetimeMs })
      }, nowMs)
      members.push({ name: `${site.name}/${host.name}`, site: site.name, key, peerId: peerIdOf(key), chain: [own, ...siteChain] })
    }
  }
  return {
    coordinatorKey, federation, siteKeys, siteChains, members,
    member: name => {
      const member = members.find(m => m.name === name)
      if (member === undefined) throw new Error(`the kit has no ${name}`)
      return member
    }
  }
}
