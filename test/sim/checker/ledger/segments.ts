import type { Invariant } from '../invariant.ts'
import { type HostModel, type LeaseModel, type World, isLive, leaseText, textOf, violated } from '../model.ts'

/** A release is worked in, and seen to be, in so long. */
const TOLD_MS = 1_000

/** Of a resource: whether it is the segment that does not leave its site. */
const isLocal = (resource: string): boolean => resource.endsWith('.local')

/** A segment id of a site belongs to one live cluster, and is given out again only after every holder has let go or the guard has passed. */
export function segments (world: World): Invariant {
  const NAME = 'segment-id'
  const { idQuarantineMs, endGuardMs, clockGrainMs, clockRate } = world.description.bounds
  /** leases that ever had an id, by site and id */
  const uses = new Map<string, Set<LeaseModel>>()
  /** when a host was last told to release something of a cluster */
  const toldMs = new Map<string, number>()
  /** by its lender, who asks nobody: by host and cluster */
  const revoked = new Set<string>()
  const plugged = new Map<string, Map<string, string>>()

  /** Nothing of a cluster is left at a site, as far as its hosts' ledgers and engines say. */
  function isGone (site: string, clusterId: string): boolean {
    for (const lease of world.clusters.get(clusterId)?.leases ?? []) {
      if (lease.host.site === site && (lease.lost || isLive(lease) || (lease.there && !lease.facts.vacated))) return false
    }
    for (const host of world.sites.get(site) ?? []) for (const one of host.running.values()) if (one.facts.clusterId === clusterId) return false
    return true
  }

  /** A lease of a cluster that still runs at a site, for all that is known, and whose end is ahead by the clock of who gives its id out. */
  function leftOf (giver: HostModel, clusterId: string): LeaseModel | null {
    for (const lease of world.clusters.get(clusterId)?.leases ?? []) {
      const { facts, host } = lease
      if (host.site !== giver.site || lease.lost || !lease.there || facts.kind === 'quota' || (facts.state !== 'active' && (facts.state !== 'ended' || facts.vacated))) continue
      if (world.nowMs < facts.endMs + endGuardMs - Math.max(Math.abs(host.facts?.clockErrorMs ?? 0), Math.abs(giver.facts?.clockErrorMs ?? 0)) - clockGrainMs) return lease
    }
    return null
  }

  function mayTake (host: HostModel, lease: LeaseModel): void {
    const { segmentId, clusterId } = lease.facts
    const { slice } = host.description
    const fail: (why: string) => never = why => violated(world, NAME, host.name, `segment id ${segmentId} is given to cluster ${clusterId.slice(0, 8)}: ${why}`)
    if (slice === null || segmentId < slice.from || segmentId > slice.to) fail('it is not of the slice of this host')
    for (const other of uses.get(`${host.site}/${segmentId}`) ?? []) {
      if (other.facts.clusterId === clusterId) {
        if (other !== lease && other.facts.name !== lease.facts.name && isLive(other) && !other.lost) fail(`its other segment has it (${leaseText(other.facts)})`)
        continue
      }
      if (isLive(other) && !other.lost) fail(`cluster ${other.facts.clusterId.slice(0, 8)} has it (${leaseText(other.facts)})`)
      if (other.lost) {
        const overMs = other.facts.endMs + idQuarantineMs
        if (world.nowMs < overMs * 1 - Math.abs(host.facts?.clockErrorMs ?? 0) - clockGrainMs && !isGone(host.site, other.facts.clusterId) && !confirmed.has(`${other.host.name} ${other.facts.clusterId}`)) fail(`cluster ${other.facts.clusterId.slice(0, 8)} may still use it, its ledger was lost`)
        continue
      }
      if (other.facts.activatedMs === 0) continue
      // A machine that has booted believes its wall clock, which alone knows how long it was off.
      const booted = other.host === host && host.bootTrueMs >= other.endedTrueMs
      const rested = booted ? (host.facts?.clockMs ?? 0) - other.facts.endedMs : world.nowMs - other.endedTrueMs
      const left = leftOf(host, other.facts.clusterId)
      if (left !== null) fail(`${leaseText(left.facts)} on ${left.host.name} has not let go, and its end and the guard have not passed`)
      if (rested < idQuarantineMs * (1 - clockRate) - clockGrainMs && !isGone(host.site, other.facts.clusterId)) fail(`it has rested ${Math.round(rested)} ms after cluster ${other.facts.clusterId.slice(0, 8)} had it, and not everybody has let go`)
    }
  }
  const confirmed = new Set<string>()

  /** The gateway that gives an id out has it active before anybody plugs it in: what it has only committed may end there alone. */
  function mustBeActive (host: HostModel, clusterId: string, segmentId: number): void {
    const leases = [...world.clusters.get(clusterId)?.leases ?? []].filter(lease => lease.host.site === host.site && lease.facts.kind === 'segment' && lease.facts.segmentId === segmentId)
    if (leases.length > 0 && leases.every(lease => lease.facts.activatedMs === 0 && !lease.lost)) violated(world, NAME, host.name, `segment id ${segmentId} is plugged for cluster ${clusterId.slice(0, 8)}, and its gateway has not activated it`)
  }

  /** A gateway that is told to let go of an id tells its own ledger last: until all others of the site have, somebody may carry it. A gateway that only lends a share of a quota carries none. */
  function letsGoLast (host: HostModel, lease: LeaseModel): void {
    const { clusterId, endMs } = lease.facts
    const told = toldMs.get(`${host.name} ${clusterId}`) ?? 0
    if (world.nowMs - told > TOLD_MS || revoked.has(`${host.name} ${clusterId}`) || (host.facts?.clockMs ?? 0) >= endMs) return
    for (const other of world.clusters.get(clusterId)?.leases ?? []) {
      if (other.host === host || other.host.site !== host.site || other.facts.state !== 'active' || other.facts.kind === 'quota' || !other.there || other.lost) continue
      violated(world, NAME, host.name, `it lets go of segment id ${lease.facts.segmentId} of cluster ${clusterId.slice(0, 8)}, and ${leaseText(other.facts)} on ${other.host.name} has not`)
    }
  }

  return {
    name: NAME,
    arrive (host, { call }) {
      if (call.method === 'hostRelease') toldMs.set(`${host.name} ${textOf(call.request, 'clusterId')}`, world.nowMs)
    },
    lease ({ host, lease, before, after }) {
      if (after === null || after.kind !== 'segment') return
      if (before?.state === 'active' && after.state === 'ended') letsGoLast(host, lease)
      if (before !== null && before.state !== 'ended') return
      if (after.state === 'ended') return
      if (lease.facts.segmentId !== 0) {
        mayTake(host, lease)
        const key = `${host.site}/${after.segmentId}`
        const set = uses.get(key)
        if (set === undefined) uses.set(key, new Set([lease]))
        else set.add(lease)
      }
    },
    operator ({ host, action, clusterId }) {
      if (action === 'revoke') revoked.add(`${host} ${clusterId}`)
      if (action === 'confirm-gone') confirmed.add(`${host} ${clusterId}`)
    },
    running (host, resource, after, before) {
      for (const [facts, there] of [[before?.facts, false], [after?.facts, true]] as const) {
        if (facts === undefined || facts.segmentId === 0) continue
        const key = `${host.site}/${facts.segmentId}`
        let map = plugged.get(key)
        if (map === undefined) plugged.set(key, map = new Map<string, string>())
        const who = `${host.name} ${resource}`
        if (!there) { map.delete(who); continue }
        if (before === null) mustBeActive(host, facts.clusterId, facts.segmentId)
        for (const [other, clusterId] of map) {
          if (clusterId === facts.clusterId && isLocal(other) !== isLocal(resource)) violated(world, NAME, host.name, `segment id ${facts.segmentId} is plugged for both segments of cluster ${clusterId.slice(0, 8)}`)
          if (clusterId !== facts.clusterId) violated(world, NAME, host.name, `segment id ${facts.segmentId} is plugged for cluster ${facts.clusterId.slice(0, 8)}, while ${other} is plugged for ${clusterId.slice(0, 8)}`)
        }
        map.set(who, facts.clusterId)
      }
    }
  }
}
