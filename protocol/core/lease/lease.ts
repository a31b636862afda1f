/**
 * The leases of one host: their types, and questions about them. What events do is in `step.ts` and
 * the files beside it. Pure: `now` is the ledger clock in Unix ms.
 */
import { type Booking, freeDuring } from '../calendar/free.ts'
import { type Resources, subtract, zero } from '../capacity.ts'
import { MusubiError } from '../errors.ts'
import type { IdUse } from '../ids.ts'
import type { Receipt } from '../messages.ts'
import { type ReadonlyLedgerState, quotaFor } from './state.ts'
import type { ExtensionState, LeaseState } from './tables.ts'

export { emptyLedger, type LedgerState, type ReadonlyLedgerState } from './state.ts'
export { type LeaseState, transitions } from './tables.ts'

/** Never changed in place: every change makes a new object. */
export interface Lease {
  readonly id: string
  readonly offerId: string
  readonly clusterId: string
  readonly cluster: string
  /** a `LeaseKind`; `quota` takes from what the master's site may borrow, others from the host */
  readonly kind: string
  readonly name: string
  readonly resources: Resources
  /** 0 when the lease is not about a segment id */
  readonly segmentId: number
  readonly masterSite: string
  readonly masterPeer: string
  /** peer on whose behalf it is held: bound of holds, owner of the cluster here */
  readonly requester: string
  readonly state: LeaseState
  /** occupies [startMs, endMs) */
  readonly startMs: number
  readonly endMs: number
  readonly ttlMs: number
  /** when a hold, or a committed lease that is not activated, ends; of an ended segment that was committed: until when its id rests */
  readonly deadlineMs: number
  /** when a committed lease ends unless its master is heard of shortly before; 0 when that is not needed (any more) */
  readonly confirmByMs: number
  /** fencing token: the ledger's counter at the last change of this lease */
  readonly token: number
  /** token at hold: leases are answered in this order, also after a restart */
  readonly heldToken: number
  /** token at commit, 0 before; the receipt that activation asks for */
  readonly commitToken: number
  /** 0 when it never became active */
  readonly activatedMs: number
  readonly endedMs: number
  readonly endReason: string
  /** false only for an ended lease that ran and is not yet known to be gone from the host */
  readonly vacated: boolean
  /** the end before its lender gave notice; absent: it has none, or an earlier release wrote this */
  readonly formerEndMs?: number
  /** number of the latest notice that changed its end; absent: none ever did */
  readonly noticeSeq?: number
}

/** A later end for leases of one cluster. Held it occupies the calendar; committed it is their end. Never changed in place. */
export interface Extension {
  readonly clusterId: string
  readonly offerId: string
  readonly key: string
  readonly requester: string
  readonly state: ExtensionState
  readonly endMs: number
  /** each lease with the end that it goes back to */
  readonly leases: ReadonlyArray<{ readonly id: string, readonly formerEndMs: number }>
  readonly ttlMs: number
  readonly deadlineMs: number
  /** the ledger's counter at the last change */
  readonly token: number
  /** what its commit was answered; empty before */
  readonly receipts: readonly Receipt[]
  readonly endedMs: number
  readonly endReason: string
}

/** Who is master of a cluster from which epoch on. Never changed in place. */
export interface ClusterEpoch {
  readonly clusterId: string
  readonly epoch: number
  /** PeerId; '' when nobody has said it yet */
  readonly holder: string
  readonly token: number
}

/** What a hold or an extension was answered, kept under its idempotency key. */
export interface Replay {
  readonly key: string
  readonly kind: 'hold' | 'extend'
  readonly offerId: string
  readonly startMs: number
  readonly endMs: number
  readonly leaseIds: readonly string[]
  readonly answer: Answer
  /** the whole question in a canonical form; '' for one that an older release has kept */
  readonly asked: string
}

export interface Answer {
  /** one for each lease of the event, with its fencing token */
  receipts: Receipt[]
  /** segment id that the hold got, 0 when it asked for none */
  segmentId: number
  /** that of the segment which does not leave the site; absent when it asked for none */
  localSegmentId?: number
  /** leases that a release ended */
  ended: number
  /** true when nothing changed because this had been answered before */
  replay: boolean
}

/** How long an ended lease that ran still counts, unless `vacate` says earlier that it is gone. */
export const END_GUARD_MS = 60_000
/** A segment id that was in use rests this long: other hosts of the site may still carry it. */
export const ID_QUARANTINE_MS = 120_000

export const isLive = (lease: Lease): boolean => lease.state !== 'ended'

/** A lease as it is without the notice that it has: with its present end, and none to go back to. */
export function unnoticed (lease: Lease): Lease {
  const plain: Lease & { formerEndMs?: number } = { ...lease }
  delete plain.formerEndMs
  return plain
}

/** What ends early gets nothing beside it, nor a later end. @throws MusubiError POLICY_PREEMPTED */
export function mustNotBeCurtailed (clusterId: string, leases: readonly Lease[], host: string): void {
  const lease = leases.find(one => isLive(one) && one.formerEndMs !== undefined)
  if (lease === undefined) return
  throw new MusubiError('POLICY_PREEMPTED', `the leases of cluster ${clusterId} on ${host} end at ${new Date(lease.endMs).toISOString()}: their lender has given notice`, { hint: 'what is needed beyond that time must be asked of other sites' })
}

/** The leases of a cluster on this host, in the order in which they were held. */
export const leasesOf = (state: ReadonlyLedgerState, clusterId: string): Lease[] => [...state.byCluster.get(clusterId)?.values() ?? []]

/** One word for a cluster on this host: the furthest state of its leases, or '' without any. */
export const clusterState = (state: ReadonlyLedgerState, clusterId: string): LeaseState | '' => furthest(state, clusterId, () => true)

/** The same of what takes something of the host: a gateway that only counts what a site borrows has no part in what runs. */
export const usageState = (state: ReadonlyLedgerState, clusterId: string): LeaseState | '' => furthest(state, clusterId, lease => !isQuota(lease))

function furthest (state: ReadonlyLedgerState, clusterId: string, counts: (lease: Lease) => boolean): LeaseState | '' {
  const states = new Set<LeaseState>()
  for (const lease of state.byCluster.get(clusterId)?.values() ?? []) if (counts(lease)) states.add(lease.state)
  return (['active', 'committed', 'held', 'ended'] as const).find(one => states.has(one)) ?? ''
}

/** Until when an ended lease still takes its share: not at all once it is known to be gone. */
const lingersUntil = (lease: Lease): number => lease.vacated ? lease.endedMs : lease.endedMs + END_GUARD_MS

/** Quota is what a site may borrow; everything else is the host's. */
export const isQuota = (one: { kind: string }): boolean => one.kind === 'quota'

/** Every promise as an interval, what has ended and may still run, and later ends that are held. */
function * bookings (state: ReadonlyLedgerState, counts: (lease: Lease) => boolean): Generator<Booking> {
  for (const lease of state.occupying.values()) {
    if (counts(lease)) yield { resources: lease.resources, fromMs: lease.startMs, untilMs: isLive(lease) ? lease.endMs : lingersUntil(lease) }
  }
  for (const extension of state.pending.values()) {
    for (const { id } of extension.leases) {
      const lease = state.leases.get(id)
      if (lease !== undefined && isLive(lease) && counts(lease)) yield { resources: lease.resources, fromMs: lease.endMs, untilMs: extension.endMs }
    }
  }
}

/** The least that is free in [fromMs, untilMs); without an interval, at this moment. */
export const freeOf = (state: ReadonlyLedgerState, fromMs = state.clockMs, untilMs = fromMs + 1): Resources =>
  freeDuring(state.capacity, hostBookings(state), fromMs, untilMs)

/** Every promise of this host as an interval, whoever it is for. */
export const hostBookings = (state: ReadonlyLedgerState): Generator<Booking> => bookings(state, lease => !isQuota(lease))

/** When the next promise begins that has not begun; null without one. */
export function nextStartOf (state: ReadonlyLedgerState): number | null {
  let first = Number.POSITIVE_INFINITY
  for (const lease of state.occupying.values()) if (isLive(lease) && lease.startMs > state.clockMs) first = Math.min(first, lease.startMs)
  return first === Number.POSITIVE_INFINITY ? null : first
}

/** What a site has borrowed by this host's word, as intervals. */
export const quotaBookings = (state: ReadonlyLedgerState, site: string): Generator<Booking> => bookings(state, lease => isQuota(lease) && lease.masterSite === site)

/** What has no bound has no end either, however much of it is lent. */
const bounded = (quota: Resources): Resources => {
  const of = (bound = 0): number => Number.isFinite(bound) ? bound : 0
  return { vcpus: of(quota.vcpus), memoryMib: of(quota.memoryMib), diskMib: of(quota.diskMib), volumes: of(quota.volumes), bandwidthMbit: of(quota.bandwidthMbit), nodes: of(quota.nodes) }
}

/**
 * The same with what a lost ledger may have lent: nobody knows how much of the quota, so it is all of it until that has ended for certain.
 * Other gateways of the site ask for shares of it, and need no segment id of this one.
 */
export function * quotaTaken (state: ReadonlyLedgerState, site: string): Generator<Booking> {
  const quota = quotaFor(state.quotas, site)
  if (quota !== null && state.quarantineUntilMs > state.clockMs) yield { resources: bounded(quota), fromMs: 0, untilMs: state.quarantineUntilMs }
  yield * quotaBookings(state, site)
}

/** The least that a site may still borrow in [fromMs, untilMs); null when it may borrow without a bound. */
export function freeQuotaOf (state: ReadonlyLedgerState, site: string, fromMs = state.clockMs, untilMs = fromMs + 1): Resources | null {
  const quota = quotaFor(state.quotas, site)
  // a quota that says nothing of the number of nodes does not bound it
  return quota === null ? null : freeDuring({ nodes: Number.POSITIVE_INFINITY, ...quota }, quotaTaken(state, site), fromMs, untilMs)
}

/** The most that a site borrows at any moment of [fromMs, untilMs), with what is held for it. */
export function borrowedOf (state: ReadonlyLedgerState, site: string, fromMs = state.clockMs, untilMs = fromMs + 1): Resources {
  const none: Resources = { ...zero(), nodes: 0 }
  return subtract(none, freeDuring(none, quotaBookings(state, site), fromMs, untilMs))
}

/** What runs, or may still run, at this moment. */
export function * running (state: ReadonlyLedgerState): Generator<Lease> {
  for (const lease of state.occupying.values()) {
    if (lease.state === 'active' || (!isLive(lease) && lingersUntil(lease) > state.clockMs)) yield lease
  }
}

/**
 * Until when the id of an ended segment rests; 0 when it need not, as it was never more than held. While
 * nobody has seen that this host itself has let go, a helper that could not may run it until its end.
 */
export function restsUntil (lease: Lease): number {
  if (lease.kind !== 'segment' || lease.commitToken === 0) return 0
  const lastMs = lease.activatedMs > 0 && !lease.vacated ? lease.endMs + END_GUARD_MS : 0
  return Math.max(lease.endedMs + ID_QUARANTINE_MS, lease.deadlineMs, lastMs)
}

/**
 * Segment ids that cannot be given out. What was only held was never plugged in and need not rest;
 * with what was committed another host of the site may have been activated.
 *
 * @param exceptCluster live leases of this cluster do not count: it may use its id again
 */
export function * idUses (state: ReadonlyLedgerState, exceptCluster?: string): Generator<IdUse> {
  for (const lease of state.segments.values()) {
    if (isLive(lease)) {
      if (lease.clusterId !== exceptCluster) yield { id: lease.segmentId, untilMs: Number.POSITIVE_INFINITY }
    } else yield { id: lease.segmentId, untilMs: restsUntil(lease) }
  }
}

/** Whether this host decides who is master of a cluster: it has the lease of its frontend. */
export function isAnchor (state: ReadonlyLedgerState, clusterId: string): boolean {
  for (const lease of state.byCluster.get(clusterId)?.values() ?? []) if (lease.kind === 'frontend' && isLive(lease)) return true
  return false
}

/** Whether anything here depends on the time going on as it did: promises, what may still run, ids that rest. */
export function isIdle (state: ReadonlyLedgerState): boolean {
  if (state.occupying.size > 0) return false
  for (const { untilMs } of idUses(state)) if (untilMs > state.clockMs) return false
  return state.quarantineUntilMs <= state.clockMs
}
