/** What events do to the fence of a host; the states are in `fence.ts`. Pure: `now` is the ledger clock. */
import { MusubiError } from '../errors.ts'
import { END_GUARD_MS } from '../lease/lease.ts'
import { FENCE_KEEP_MS } from '../limits.ts'
import { type FenceEffect, type FenceEvent, type FenceRecord, type FenceState, type FenceStore, type FenceTrigger, fenceTransitions } from './fence.ts'

/** `refusal`: why nothing may be done; null when what is asked for stands. */
export interface FenceOutcome { effects: FenceEffect[], refusal: MusubiError | null }

type Asked = Extract<FenceEvent, { resource: string }>

export const emptyFence = (): FenceStore => ({ records: new Map(), floor: 0 })

/** Where a trigger leads; undefined when the table has no such row. */
export const nextFenceState = (from: FenceState | null, trigger: FenceTrigger): FenceState | undefined =>
  fenceTransitions.find(row => row.from === from && row.trigger === trigger)?.to

const stale = ({ type, resource, counter }: Asked, seen: number): MusubiError =>
  new MusubiError('STALE_COUNTER', `${type} of ${resource} was decided at counter ${counter} of the ledger, ${seen} has been seen since`, { retryable: true, hint: 'it is decided anew' })

const held = ({ resource, clusterId, state }: FenceRecord, why: string): MusubiError =>
  new MusubiError('RESOURCE_HELD', `${resource} ${state === 'granted' ? 'runs for' : 'is being removed for'} cluster ${clusterId}: ${why}`, { retryable: true, hint: 'it is handed on once it is gone' })

/** Why an event of this counter and holder must not be worked in. */
function refusalOf (event: Asked, record: FenceRecord | undefined, floor: number, now: number): MusubiError | null {
  const seen = record?.counter ?? floor
  if (event.counter < seen) return stale(event, seen)
  if (event.type === 'grant' && now >= event.endMs + END_GUARD_MS) return new MusubiError('LEASE_ENDED', `${event.resource} is not made for cluster ${event.clusterId}: its lease has ended`)
  // The latest that was forgotten may have been of this resource, revoked at that counter.
  if (record === undefined) return event.type === 'grant' && floor > 0 && event.counter === floor ? stale(event, floor) : null
  // What was decided at the moment of the revocation, or before it, must not bring back what it took away.
  if (event.type === 'grant' && record.state === 'gone' && event.counter === seen) return stale(event, seen)
  if (event.type === 'grant' && record.state === 'revoking') return held(record, 'it is not gone yet')
  if (event.type !== 'gone' && record.state !== 'gone' && record.clusterId !== event.clusterId) return held(record, `cluster ${event.clusterId} has no say about it`)
  return null
}

function put (state: FenceStore, record: FenceRecord, effects: FenceEffect[]): void {
  state.records.set(record.resource, record)
  effects.push({ effect: 'save', record })
}

function ask (state: FenceStore, event: Asked, now: number): FenceOutcome {
  const record = state.records.get(event.resource)
  const refusal = refusalOf(event, record, state.floor, now)
  if (refusal !== null) return { effects: [], refusal }
  const to = nextFenceState(record?.state ?? null, event.type)
  // Gone, and nobody has revoked it: it was never ours, or it is said twice.
  if (to === undefined) return { effects: [], refusal: null }
  const { resource, counter } = event
  const effects: FenceEffect[] = []
  switch (event.type) {
    case 'grant':
      put(state, { resource, state: to, clusterId: event.clusterId, counter, endMs: event.endMs }, effects)
      effects.push({ effect: 'start', resource, clusterId: event.clusterId, counter })
      break
    case 'revoke':
      put(state, { resource, state: to, clusterId: record?.clusterId ?? event.clusterId, counter, endMs: record?.endMs ?? Math.floor(now) }, effects)
      if (to === 'revoking') effects.push({ effect: 'stop', resource, clusterId: record?.clusterId ?? event.clusterId, counter })
      break
    case 'gone':
      // From now on nobody holds it: this is when it may begin to be forgotten. The counter stays that of the revocation.
      put(state, { resource, state: to, clusterId: record?.clusterId ?? '', counter: record?.counter ?? counter, endMs: Math.floor(now) }, effects)
  }
  return { effects, refusal: null }
}

function tick (state: FenceStore, now: number): FenceOutcome {
  const effects: FenceEffect[] = []
  for (const record of [...state.records.values()]) {
    if (record.state === 'granted' && now >= record.endMs + END_GUARD_MS) {
      put(state, { ...record, state: nextFenceState(record.state, 'expire') ?? 'revoking' }, effects)
      effects.push({ effect: 'stop', resource: record.resource, clusterId: record.clusterId, counter: record.counter })
    } else if (record.state === 'gone' && now >= record.endMs + FENCE_KEEP_MS) {
      state.records.delete(record.resource)
      state.floor = Math.max(state.floor, record.counter)
      effects.push({ effect: 'floor', counter: state.floor }, { effect: 'forget', resource: record.resource })
    }
  }
  return { effects, refusal: null }
}

/**
 * Works one event into a fence **in place**; for the single writer that owns it. A refusal changes
 * nothing: STALE_COUNTER for what was decided before something that has been seen since,
 * RESOURCE_HELD for what another cluster has, or what is not gone yet, LEASE_ENDED for what comes
 * after its end.
 *
 * @param now ledger clock, Unix ms
 */
export const advance = (state: FenceStore, event: FenceEvent, now: number): FenceOutcome =>
  event.type === 'tick' ? tick(state, now) : ask(state, event, now)

/** The pure form of `advance`: the given state stays as it is. */
export function step (state: FenceStore, event: FenceEvent, now: number): FenceOutcome & { state: FenceStore } {
  const next: FenceStore = { records: new Map(state.records), floor: state.floor }
  return { ...advance(next, event, now), state: next }
}
