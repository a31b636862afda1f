/** The state of a host's ledger, with what makes questions about it quick. Only `turn.ts` and whoever loads a ledger change it. */
import type { Resources } from '../capacity.ts'
import type { Slice } from '../ids.ts'
import type { Effect } from './events.ts'
import type { ClusterEpoch, Extension, Lease, Replay } from './lease.ts'

/** Live leases of a peer, and how many leases each offer holds for it. */
export interface PeerUse { live: number, held: Map<string, number> }

/**
 * What sites may borrow of one gateway, by site; null: without a bound. `OTHER_SITES` is for those that are
 * not named; without it they borrow without a bound.
 */
export type Quotas = ReadonlyMap<string, Resources | null>
/** In `Quotas`: no site can have this name. */
export const OTHER_SITES = '*'

/** What a site may borrow; null: without a bound. */
export function quotaFor (quotas: Quotas, site: string): Resources | null {
  const own = quotas.get(site)
  return own === undefined ? quotas.get(OTHER_SITES) ?? null : own
}

export interface LedgerState {
  readonly host: string
  capacity: Resources
  /** what each site may borrow of this gateway, see `quotaFor` */
  quotas: Quotas
  /** segment ids this host may give out; null unless it is a gateway */
  slice: Slice | null
  /** no segment id is given out before: an earlier ledger was lost */
  quarantineUntilMs: number
  /** raised at every change: fencing tokens come from here */
  counter: number
  clockMs: number
  /** nothing ends and nothing is forgotten before this moment */
  dueMs: number
  /** a master that was not heard of since counts as heard of then: the start of the agent */
  openedMs: number
  leases: Map<string, Lease>
  replays: Map<string, Replay>
  /** by `extensionId` */
  extensions: Map<string, Extension>
  /** by cluster */
  epochs: Map<string, ClusterEpoch>
  /** when the master of a cluster was last heard of; lost with a restart, see `openedMs` */
  heard: Map<string, number>

  // Indexes: they follow from the maps above.
  readonly byCluster: Map<string, Map<string, Lease>>
  /** live, or ended and perhaps still running: what the calendar is made of */
  readonly occupying: Map<string, Lease>
  /** ended ones, the oldest first */
  readonly ended: Map<string, Lease>
  /** of kind segment: live, or ended after they were active */
  readonly segments: Map<string, Lease>
  readonly peers: Map<string, PeerUse>
  /** clusters with something on this host, by the first characters of their ids */
  readonly prefixes: Map<string, Map<string, number>>
  /** extensions that are held */
  readonly pending: Map<string, Extension>
  /** extensions of each cluster, the oldest first */
  readonly extensionsOf: Map<string, Map<string, Extension>>
  /** idempotency key of the hold that made a lease */
  readonly keyOf: Map<string, string>
}

type ReadonlyIn<T> = T extends Map<infer K, infer V> ? ReadonlyMap<K, V extends Map<infer A, infer B> ? ReadonlyMap<A, B> : V> : T
/** A ledger state that can be looked at only. */
export type ReadonlyLedgerState = { readonly [P in keyof LedgerState]: ReadonlyIn<LedgerState[P]> }

/** Objects on a host are told apart by so much of the cluster's id. */
export const prefixOf = (clusterId: string): string => clusterId.slice(0, 8)

/** An offer is named by its master: it means something within a cluster only. */
export const extensionId = (clusterId: string, offerId: string): string => `${clusterId}/${offerId}`

export const emptyLedger = (host: string, capacity: Resources, slice: Slice | null = null): LedgerState => ({
  host, capacity, slice, quotas: new Map(), quarantineUntilMs: 0, counter: 0, clockMs: 0, dueMs: Number.POSITIVE_INFINITY, openedMs: 0,
  leases: new Map(), replays: new Map(), extensions: new Map(), epochs: new Map(), heard: new Map(),
  byCluster: new Map(), occupying: new Map(), ended: new Map(), segments: new Map(), peers: new Map(), prefixes: new Map(),
  pending: new Map(), extensionsOf: new Map(), keyOf: new Map()
})

const isOccupying = (lease: Lease): boolean => lease.state !== 'ended' || !lease.vacated

function inner<V> (map: Map<string, Map<string, V>>, key: string): Map<string, V> {
  let found = map.get(key)
  if (found === undefined) map.set(key, found = new Map<string, V>())
  return found
}

function count (map: Map<string, number>, key: string, by: number): void {
  const next = (map.get(key) ?? 0) + by
  if (next === 0) map.delete(key)
  else map.set(key, next)
}

/** Adds (`by` 1) or takes away (-1) what a lease counts for its peer and its cluster. */
function tally (state: LedgerState, lease: Lease, by: 1 | -1): void {
  if (isOccupying(lease)) {
    const prefix = prefixOf(lease.clusterId)
    const clusters = inner(state.prefixes, prefix)
    count(clusters, lease.clusterId, by)
    if (clusters.size === 0) state.prefixes.delete(prefix)
  }
  if (lease.state === 'ended') return
  let use = state.peers.get(lease.requester)
  if (use === undefined) state.peers.set(lease.requester, use = { live: 0, held: new Map() })
  use.live += by
  if (lease.state === 'held') count(use.held, lease.offerId, by)
  if (use.live === 0) state.peers.delete(lease.requester)
}

/** Takes a lease in as it is now. */
export function putLease (state: LedgerState, lease: Lease): void {
  const before = state.leases.get(lease.id)
  if (before !== undefined) tally(state, before, -1)
  tally(state, lease, 1)
  state.leases.set(lease.id, lease)
  inner(state.byCluster, lease.clusterId).set(lease.id, lease)
  if (isOccupying(lease)) state.occupying.set(lease.id, lease)
  else state.occupying.delete(lease.id)
  if (lease.state === 'ended') state.ended.set(lease.id, lease)
  if (lease.kind === 'segment' && (lease.state !== 'ended' || lease.commitToken > 0)) state.segments.set(lease.id, lease)
  else state.segments.delete(lease.id)
}

export function dropLease (state: LedgerState, id: string): void {
  const lease = state.leases.get(id)
  if (lease === undefined) return
  tally(state, lease, -1)
  for (const map of [state.leases, state.occupying, state.ended, state.segments, state.keyOf]) map.delete(id)
  const cluster = state.byCluster.get(lease.clusterId)
  cluster?.delete(id)
  if (cluster?.size === 0) state.byCluster.delete(lease.clusterId)
}

export function putReplay (state: LedgerState, replay: Replay): void {
  state.replays.set(replay.key, replay)
  // An extension's replay goes with the extension, a hold's with its leases.
  if (replay.kind === 'hold') for (const id of replay.leaseIds) state.keyOf.set(id, replay.key)
}

export function dropReplay (state: LedgerState, key: string): void {
  state.replays.delete(key)
}

export function putExtension (state: LedgerState, extension: Extension): void {
  const id = extensionId(extension.clusterId, extension.offerId)
  state.extensions.set(id, extension)
  inner(state.extensionsOf, extension.clusterId).set(id, extension)
  if (extension.state === 'held') state.pending.set(id, extension)
  else state.pending.delete(id)
}

export function dropExtension (state: LedgerState, { clusterId, offerId }: { clusterId: string, offerId: string }): void {
  const id = extensionId(clusterId, offerId)
  state.extensions.delete(id)
  state.pending.delete(id)
  const cluster = state.extensionsOf.get(clusterId)
  cluster?.delete(id)
  if (cluster?.size === 0) state.extensionsOf.delete(clusterId)
}

/** What a ledger has on its disk. */
export interface LedgerRecords { leases: Lease[], replays: Replay[], extensions: Extension[], epochs: ClusterEpoch[] }

/** Fills an empty state with records, in an order that does not depend on theirs. */
export function fillLedger (state: LedgerState, records: LedgerRecords): void {
  // Held order first, as answers follow it; then the order in which they ended.
  for (const lease of records.leases.toSorted((a, b) => a.heldToken - b.heldToken)) putLease(state, lease)
  for (const lease of [...state.ended.values()].sort((a, b) => a.endedMs - b.endedMs || a.token - b.token)) {
    state.ended.delete(lease.id)
    state.ended.set(lease.id, lease)
  }
  for (const replay of records.replays) putReplay(state, replay)
  for (const extension of records.extensions.toSorted((a, b) => a.token - b.token)) putExtension(state, extension)
  for (const epoch of records.epochs) state.epochs.set(epoch.clusterId, epoch)
}

/** A state of its own with the same content: neither sees what is done to the other. */
export function copyLedger (state: ReadonlyLedgerState): LedgerState {
  const copy: LedgerState = {
    ...emptyLedger(state.host, state.capacity, state.slice), quotas: state.quotas, quarantineUntilMs: state.quarantineUntilMs,
    counter: state.counter, clockMs: state.clockMs, dueMs: state.dueMs, openedMs: state.openedMs, heard: new Map(state.heard)
  }
  for (const lease of state.leases.values()) putLease(copy, lease)
  // The order in which they ended is the order of that map, not of the leases.
  copy.ended.clear()
  for (const [id, lease] of state.ended) copy.ended.set(id, lease)
  for (const replay of state.replays.values()) putReplay(copy, replay)
  for (const clusters of state.extensionsOf.values()) for (const extension of clusters.values()) putExtension(copy, extension)
  for (const epoch of state.epochs.values()) copy.epochs.set(epoch.clusterId, epoch)
  return copy
}

/** Takes in what an event has changed elsewhere: a state that follows another one, step by step. */
export function applyEffect (state: LedgerState, effect: Effect): void {
  switch (effect.effect) {
    case 'lease': { putLease(state, effect.lease); return }
    case 'forget': { dropLease(state, effect.leaseId); return }
    case 'replay': { putReplay(state, effect.replay); return }
    case 'forget-replay': { dropReplay(state, effect.key); return }
    case 'extension': { putExtension(state, effect.extension); return }
    case 'forget-extension': { dropExtension(state, effect); return }
    case 'epoch': state.epochs.set(effect.epoch.clusterId, effect.epoch); return
    case 'forget-epoch': state.epochs.delete(effect.clusterId)
  }
}
