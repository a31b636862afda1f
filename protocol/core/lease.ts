/**
 * The leases of one host: states, transitions as data, and questions about them. What events do is
 * in `lease-step.ts`. Pure: `now` is the ledger clock in Unix ms, which never goes back.
 */
import type { Booking } from './calendar.ts'
import { freeDuring } from './calendar.ts'
import type { Resources } from './capacity.ts'
import type { IdUse, Slice } from './ids.ts'
import type { Receipt } from './messages.ts'

export type LeaseState = 'held' | 'committed' | 'active' | 'ended'
export type LeaseTrigger = 'hold' | 'commit' | 'activate' | 'expire' | 'release'

/** One row of the state machine; `from` is null for a lease that does not exist yet. */
export interface Transition { from: LeaseState | null, trigger: LeaseTrigger, to: LeaseState, when: string }

/** The whole state machine. `lease-step.ts` moves leases along these rows and no others. */
export const transitions: readonly Transition[] = [
  { from: null, trigger: 'hold', to: 'held', when: 'everything asked for is free for the whole interval' },
  { from: 'held', trigger: 'commit', to: 'committed', when: 'the master has written its decision' },
  { from: 'held', trigger: 'expire', to: 'ended', when: 'the time to live of the hold has passed' },
  { from: 'held', trigger: 'release', to: 'ended', when: 'the master or the gateway gives it up' },
  { from: 'committed', trigger: 'activate', to: 'active', when: 'the commit receipts of all members are there and the start has come' },
  { from: 'committed', trigger: 'expire', to: 'ended', when: 'nobody activated it in time' },
  { from: 'committed', trigger: 'release', to: 'ended', when: 'the master gives it up' },
  { from: 'active', trigger: 'expire', to: 'ended', when: 'its end has come' },
  { from: 'active', trigger: 'release', to: 'ended', when: 'the master gives it up' }
]

/** Where a trigger leads; undefined when the table has no such row. */
export const nextState = (from: LeaseState | null, trigger: LeaseTrigger): LeaseState | undefined =>
  transitions.find(row => row.from === from && row.trigger === trigger)?.to

/** Never changed in place: every change makes a new object. */
export interface Lease {
  readonly id: string
  readonly offerId: string
  readonly clusterId: string
  readonly cluster: string
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
  /** when a hold, or a committed lease that is not activated, ends */
  readonly deadlineMs: number
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
}

/** What a hold was answered, kept under its idempotency key. */
export interface Replay {
  readonly key: string
  readonly offerId: string
  readonly startMs: number
  readonly endMs: number
  readonly leaseIds: readonly string[]
  readonly answer: Answer
}

export interface Answer {
  /** one for each lease of the event, with its fencing token */
  receipts: Receipt[]
  /** segment id that the hold got, 0 when it asked for none */
  segmentId: number
  /** leases that a release ended */
  ended: number
  /** true when nothing changed because this had been answered before */
  replay: boolean
}

export interface LedgerState {
  readonly host: string
  capacity: Resources
  /** segment ids this host may give out; null unless it is a gateway */
  slice: Slice | null
  /** raised at every change: fencing tokens come from here */
  counter: number
  clockMs: number
  /** nothing ends and nothing is forgotten before this moment */
  dueMs: number
  leases: Map<string, Lease>
  replays: Map<string, Replay>
}

/** A ledger state that can be looked at only. */
export type ReadonlyLedgerState = Readonly<Omit<LedgerState, 'leases' | 'replays'>> & {
  readonly leases: ReadonlyMap<string, Lease>
  readonly replays: ReadonlyMap<string, Replay>
}

/** How long an ended lease that ran still counts, unless `vacate` says earlier that it is gone. */
export const END_GUARD_MS = 60_000
/** A segment id that was in use rests this long: other hosts of the site may still carry it. */
export const ID_QUARANTINE_MS = 120_000

export const emptyLedger = (host: string, capacity: Resources, slice: Slice | null = null): LedgerState => ({
  host, capacity, slice, counter: 0, clockMs: 0, dueMs: Number.POSITIVE_INFINITY, leases: new Map(), replays: new Map()
})

export const isLive = (lease: Lease): boolean => lease.state !== 'ended'

/** The leases of a cluster on this host, by id. */
export const leasesOf = (state: ReadonlyLedgerState, clusterId: string): Lease[] =>
  [...state.leases.values()].filter(lease => lease.clusterId === clusterId)

/** One word for a cluster on this host: the furthest state of its leases, or '' without any. */
export function clusterState (state: ReadonlyLedgerState, clusterId: string): LeaseState | '' {
  const states = new Set(leasesOf(state, clusterId).map(lease => lease.state))
  return (['active', 'committed', 'held', 'ended'] as const).find(one => states.has(one)) ?? ''
}

/** Until when an ended lease still takes its share: not at all once it is known to be gone. */
const lingersUntil = (lease: Lease): number => lease.vacated ? lease.endedMs : lease.endedMs + END_GUARD_MS

/** Every promise as an interval, and what has ended and may still run. */
export function * bookings (state: ReadonlyLedgerState): Generator<Booking> {
  for (const lease of state.leases.values()) {
    if (isLive(lease)) yield { resources: lease.resources, fromMs: lease.startMs, untilMs: lease.endMs }
    else if (!lease.vacated) yield { resources: lease.resources, fromMs: lease.startMs, untilMs: lingersUntil(lease) }
  }
}

/** The least that is free in [fromMs, untilMs); without an interval, at this moment. */
export const freeOf = (state: ReadonlyLedgerState, fromMs = state.clockMs, untilMs = fromMs + 1): Resources =>
  freeDuring(state.capacity, bookings(state), fromMs, untilMs)

/** What runs, or may still run, at this moment. */
export function * running (state: ReadonlyLedgerState): Generator<Lease> {
  for (const lease of state.leases.values()) {
    if (lease.state === 'active' || (!isLive(lease) && !lease.vacated && lingersUntil(lease) > state.clockMs)) yield lease
  }
}

/**
 * Segment ids that cannot be given out. What was only held or committed was never plugged in and
 * need not rest.
 *
 * @param exceptCluster live leases of this cluster do not count: it may use its id again
 */
export function * idUses (state: ReadonlyLedgerState, exceptCluster?: string): Generator<IdUse> {
  for (const lease of state.leases.values()) {
    if (lease.kind !== 'segment' || (lease.clusterId === exceptCluster && isLive(lease))) continue
    if (isLive(lease)) yield { id: lease.segmentId, untilMs: Number.POSITIVE_INFINITY }
    else if (lease.activatedMs > 0) yield { id: lease.segmentId, untilMs: lease.endedMs + ID_QUARANTINE_MS }
  }
}
