import type { ResourceFacts } from '../../observation.ts'
import type { Invariant } from '../invariant.ts'
import { type HostModel, type LeaseModel, type World, field, isLive, leaseText, listOf, numberOf, textOf, violated } from '../model.ts'

/** What hosts have; of quotas the number of nodes as well. */
export const DIMENSIONS = ['vcpus', 'memoryMib', 'diskMib', 'volumes', 'bandwidthMbit'] as const
export const QUOTA_DIMENSIONS = [...DIMENSIONS, 'nodes'] as const

/** Until when a lease takes its share: its end, a later one that is held for it, or while it may still run. */
export function takesUntilMs (host: HostModel, lease: LeaseModel, guardMs: number): number {
  const { facts } = lease
  if (!lease.there) return Number.NEGATIVE_INFINITY
  if (facts.state === 'ended') return facts.vacated ? Number.NEGATIVE_INFINITY : facts.endedMs + guardMs
  let until = facts.endMs
  for (const extension of host.extensions.values()) {
    if (extension.state === 'held' && extension.clusterId === facts.clusterId && extension.endMs > until && extension.leases.some(one => one.id === facts.id)) until = extension.endMs
  }
  return until
}

/** The most that is taken of one dimension at any moment of [from, until). */
export function mostTaken (host: HostModel, of: (lease: LeaseModel) => boolean, guardMs: number, fromMs: number, untilMs: number): Required<ResourceFacts> {
  const most: Required<ResourceFacts> = { vcpus: 0, memoryMib: 0, diskMib: 0, volumes: 0, bandwidthMbit: 0, nodes: 0 }
  const bookings: Array<{ from: number, until: number, resources: ResourceFacts }> = []
  const points = [fromMs]
  for (const lease of host.leases.values()) {
    if (!of(lease)) continue
    const until = takesUntilMs(host, lease, guardMs)
    const from = lease.facts.startMs
    if (until <= fromMs || from >= untilMs) continue
    bookings.push({ from, until, resources: lease.facts.resources })
    // Use is highest where something begins.
    if (from > fromMs) points.push(from)
  }
  for (const point of points) {
    for (const dimension of QUOTA_DIMENSIONS) {
      let taken = 0
      for (const booking of bookings) if (booking.from <= point && booking.until > point) taken += booking.resources[dimension] ?? 0
      if (taken > most[dimension]) most[dimension] = taken
    }
  }
  return most
}

/** @param by who takes nothing of a dimension does not exceed it */
export const firstExcess = (taken: ResourceFacts, capacity: ResourceFacts, by: ResourceFacts = taken): string | null => {
  const over = QUOTA_DIMENSIONS.find(dimension => (by[dimension] ?? 0) > 0 && (taken[dimension] ?? 0) > (capacity[dimension] ?? Infinity))
  return over === undefined ? null : `${taken[over] ?? 0} ${over} are promised, there are ${capacity[over] ?? 0}`
}

/** Nothing of a host is promised twice: at no moment of the future do promises, and what may still run, take more than there is. */
export function calendar (world: World): Invariant {
  const NAME = 'promised-twice'
  const { endGuardMs } = world.description.bounds
  const grown: LeaseModel[] = []

  function judge (host: HostModel, lease: LeaseModel): void {
    const { facts } = lease
    const quota = facts.kind === 'quota'
    const site = facts.masterSite
    const capacity = quota ? host.facts?.quotas.find(one => one.masterSite === site)?.resources : host.facts?.capacity
    if (capacity === undefined) return
    const counts = quota ? (one: LeaseModel) => one.facts.kind === 'quota' && one.facts.masterSite === site : (one: LeaseModel) => one.facts.kind !== 'quota'
    const excess = firstExcess(mostTaken(host, counts, endGuardMs, facts.startMs, takesUntilMs(host, lease, endGuardMs)), capacity, facts.resources)
    if (excess !== null) violated(world, quota ? 'quota-exceeded' : NAME, host.name, `${excess}${quota ? ` for ${site}` : ''}, by the time of ${leaseText(facts)}`)
  }

  return {
    name: NAME,
    lease ({ lease, before, after }) {
      if (after === null || after.state === 'ended') return
      if (before === null || after.endMs > before.endMs || before.state === 'ended') grown.push(lease)
    },
    extension (host, _before, after) {
      if (after?.state !== 'held') return
      for (const { id } of after.leases) {
        const lease = host.leases.get(id)
        if (lease !== undefined && isLive(lease)) grown.push(lease)
      }
    },
    host (host) {
      if (grown.length === 0) return
      for (const lease of grown) if (lease.host === host && isLive(lease)) judge(host, lease)
      grown.length = 0
    }
  }
}

/** What is free can be had: a host never refuses for want of what it has. */
export function conserved (world: World): Invariant {
  const NAME = 'capacity-conserved'
  const { endGuardMs } = world.description.bounds

  /** Whether all of it is free, give or take a second. */
  function fits (host: HostModel, wanted: ReadonlyArray<{ kind: string, resources: ResourceFacts }>, masterSite: string, fromMs: number, untilMs: number): boolean {
    for (const quota of [false, true]) {
      const mine = wanted.filter(item => (item.kind === 'quota') === quota)
      const capacity = quota ? host.facts?.quotas.find(one => one.masterSite === masterSite)?.resources : host.facts?.capacity
      if (mine.length === 0 || capacity === undefined) continue
      const taken = mostTaken(host, lease => (lease.facts.kind === 'quota') === quota && (!quota || lease.facts.masterSite === masterSite), endGuardMs + 1000, fromMs, untilMs)
      for (const { resources } of mine) for (const dimension of QUOTA_DIMENSIONS) taken[dimension] += resources[dimension] ?? 0
      if (firstExcess(taken, capacity) !== null) return false // of what it has not got, or would not get
    }
    return true
  }

  function extended (host: HostModel, request: unknown): boolean {
    const { clusterId, leaseIds, endMs } = request as { clusterId: string, leaseIds: string[], endMs: number }
    const leases = leaseIds.flatMap(id => host.leases.get(id) ?? []).filter(lease => isLive(lease) && lease.facts.clusterId === clusterId)
    if (leases.length !== leaseIds.length || leases.length === 0) return false
    // From where the first of them ends: an end more than all of it takes is enough.
    const fromMs = Math.min(...leases.map(lease => lease.facts.endMs))
    return leases.every(lease => lease.facts.endMs === fromMs) && fits(host, leases.map(lease => lease.facts), leases[0]?.facts.masterSite ?? '', fromMs, endMs)
  }

  /** What a request takes of the share of its master's site, where it asks for no frontend: that stays at the master's. */
  function borrowed (request: unknown): ResourceFacts {
    const [nodes, volumes] = [listOf(request, 'nodes'), listOf(request, 'volumes')]
    const sumOf = (list: readonly unknown[], name: string): number => list.reduce<number>((sum, one) => sum + numberOf(one, name), 0)
    return { vcpus: sumOf(nodes, 'vcpus'), memoryMib: sumOf(nodes, 'memoryMib'), diskMib: sumOf(volumes, 'sizeMib'), volumes: volumes.length, bandwidthMbit: numberOf(request, 'bandwidthMbit'), nodes: nodes.length }
  }

  /** A gateway refuses what a site may borrow before it asks any ledger: then its own share alone had not enough. */
  function lends (host: HostModel, request: unknown, why: string): void {
    if (field(request, 'frontend') === true || host.facts === null) return
    const [startMs, endMs] = [numberOf(request, 'startMs'), numberOf(request, 'endMs')]
    if (fits(host, [{ kind: 'quota', resources: borrowed(request) }], textOf(request, 'masterSite'), Math.min(startMs, host.facts.clockMs), endMs)) violated(world, NAME, host.name, `a request within its share was refused: ${why}`)
  }

  return {
    name: NAME,
    answer (host, { method, error, request }, arrival) {
      if (method === 'request' && error?.code === 'QUOTA_EXCEEDED' && arrival?.life === host.life && arrival.changesAtHost === host.changes && !host.malicious) lends(host, request, error.message)
      if ((method !== 'hold' && method !== 'hostExtend') || (error?.code !== 'NO_CAPACITY' && error?.code !== 'QUOTA_EXCEEDED') || host.facts === null || arrival === undefined || arrival.life !== host.life || arrival.changesAtHost !== host.changes) return
      if (host.leases.size > 400) return // bounds on their number are another reason
      if (method === 'hostExtend') {
        if (extended(host, request)) violated(world, NAME, host.name, `an extension that fits was refused: ${error.message}`)
        return
      }
      const { items, startMs, endMs, masterSite } = request as { items: Array<{ kind: string, resources: ResourceFacts }>, startMs: number, endMs: number, masterSite: string }
      const wantedIds = items.filter(item => item.kind === 'segment').length
      if (wantedIds > 0 && idsTaken(host) + wantedIds > (host.facts.slice === null ? 0 : host.facts.slice.to - host.facts.slice.from + 1)) return
      if (/segment id|quarantine|resting/i.test(error.message)) return
      if (fits(host, items, masterSite, Math.min(startMs, host.facts.clockMs), endMs)) violated(world, NAME, host.name, `a hold that fits was refused: ${error.message}`)
    }
  }

  /** at most */
  function idsTaken (host: HostModel): number {
    const ids = new Set<number>()
    for (const lease of host.leases.values()) if (lease.facts.kind === 'segment' && (isLive(lease) || lease.facts.activatedMs > 0 || lease.facts.commitToken > 0 || lease.lost)) ids.add(lease.facts.segmentId)
    return ids.size
  }
}
