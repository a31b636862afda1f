/** What events do to the leases of one host. See `transitions` in `lease.ts` for the state machine. */
import { describeShortfall, fits, isValid, subtract, sum } from './capacity.ts'
import { ConflictError, InvalidInputError, MusubiError, NoCapacityError, NotFoundError } from './errors.ts'
import { allocateId, inSlice, isFree } from './ids.ts'
import {
  type Answer, END_GUARD_MS, ID_QUARANTINE_MS, type Lease, type LeaseTrigger, type LedgerState, type ReadonlyLedgerState, type Replay,
  freeOf, idUses, isLive, leasesOf, nextState, running
} from './lease.ts'
import { ACTIVATE_TTL_MS, HOLD_TTL_MS, MAX_HOLDS_PER_PEER, MAX_LEASES_PER_HOST, MAX_LEASES_PER_PEER, MAX_TERM_MS, MIN_TERM_MS, REPLAY_KEEP_MS } from './limits.ts'
import type { HoldItem, HoldRequest, Receipt } from './messages.ts'

/** A start this near counts as now: clocks of master and host differ. */
export const START_IS_NOW_MS = 60_000
/** Longest time to live of a hold that a host agrees to. */
export const MAX_HOLD_TTL_MS = 10 * HOLD_TTL_MS
/** Ended leases kept to answer replays; beyond this the oldest are forgotten before their day is over. */
export const MAX_ENDED_KEPT = 4 * MAX_LEASES_PER_HOST

export type LeaseEvent =
  /** `requester` is the peer on whose behalf it is held, as proved by the connection */
  | { type: 'hold', request: HoldRequest, requester: string }
  | { type: 'commit', clusterId: string, offerId: string }
  /** `receipts`: of all members; those of this host must be among them */
  | { type: 'activate', clusterId: string, receipts: readonly Receipt[] }
  | { type: 'release', clusterId: string, reason: string, offerId?: string }
  /**
   * What has ended of this cluster is gone from the host. `seenCounter` is the ledger's counter when
   * the host looked: leases that ended later are not meant.
   */
  | { type: 'vacate', clusterId: string, seenCounter?: number }
  /** time passes */
  | { type: 'tick' }
  /** the host has booted: durations start again, because nobody knows how long it was off */
  | { type: 'restart' }

/** What changed, in order; the ledger writes it down, then the agent acts on it. */
export type Effect =
  | { effect: 'lease', lease: Lease, from: Lease['state'] | null }
  | { effect: 'forget', leaseId: string }
  | { effect: 'replay', replay: Replay }
  | { effect: 'forget-replay', key: string }

export type Result = { ok: true, answer: Answer } | { ok: false, error: MusubiError }
export interface Outcome { effects: Effect[], result: Result }

type EventOf<T extends LeaseEvent['type']> = Extract<LeaseEvent, { type: T }>

const answerWith = (part: Partial<Answer>): Answer => ({ receipts: [], segmentId: 0, ended: 0, replay: false, ...part })

/** When time alone changes this lease next. */
const dueOf = (lease: Lease): number =>
  lease.state === 'active' ? lease.endMs
  : isLive(lease) ? Math.min(lease.deadlineMs, lease.endMs)
  : lease.endedMs + REPLAY_KEEP_MS

/** One event being worked on: the state that it changes, and the list of what it changed. */
class Turn {
  readonly state: LedgerState
  readonly effects: Effect[] = []
  constructor (state: LedgerState) { this.state = state }

  get now (): number { return this.state.clockMs }

  receipt = (lease: Lease, token = lease.token): Receipt => ({ leaseId: lease.id, host: this.state.host, token })

  /** Writes a lease with a new fencing token. */
  put (lease: Lease, from: Lease['state'] | null): Lease {
    const next: Lease = { ...lease, token: ++this.state.counter }
    this.state.leases.set(next.id, next)
    this.state.dueMs = Math.min(this.state.dueMs, dueOf(next))
    this.effects.push({ effect: 'lease', lease: next, from })
    return next
  }

  /** Moves a lease along the table of transitions. */
  move (lease: Lease, trigger: LeaseTrigger, change: Partial<Lease> = {}): Lease {
    const to = nextState(lease.state, trigger)
    if (to === undefined) throw new ConflictError(`lease ${lease.id} on ${this.state.host} is ${lease.state}: ${trigger} is not possible`)
    return this.put({ ...lease, ...change, state: to }, lease.state)
  }

  end (lease: Lease, trigger: 'expire' | 'release', reason: string): Lease {
    return this.move(lease, trigger, { endedMs: this.now, endReason: reason, vacated: lease.state !== 'active' })
  }

  forget (lease: Lease): void {
    this.state.leases.delete(lease.id)
    this.effects.push({ effect: 'forget', leaseId: lease.id })
  }
}

/** Ends what is over and forgets what nobody asks about any more. */
function sweep (turn: Turn): void {
  const { state, now } = turn
  if (now < state.dueMs) return
  for (const lease of [...state.leases.values()]) {
    if (dueOf(lease) > now) continue
    if (lease.state === 'held') turn.end(lease, 'expire', 'the hold was not committed in time')
    else if (lease.state === 'committed') turn.end(lease, 'expire', 'the lease was not activated in time')
    else if (lease.state === 'active') turn.end(lease, 'expire', 'the term is over')
    else turn.forget(lease)
  }
  forgetReplays(turn)
  state.dueMs = [...state.leases.values()].reduce((due, lease) => Math.min(due, dueOf(lease)), Number.POSITIVE_INFINITY)
}

/** An answer is kept as long as any of its leases is. */
function forgetReplays (turn: Turn): void {
  for (const [key, replay] of [...turn.state.replays]) {
    if (replay.leaseIds.some(id => turn.state.leases.has(id))) continue
    turn.state.replays.delete(key)
    turn.effects.push({ effect: 'forget-replay', key })
  }
}

/** Keeps the number of ended leases bounded whatever peers do; those that rest or may still run stay. */
function boundEnded (turn: Turn): void {
  const over = turn.state.leases.size - MAX_LEASES_PER_HOST - MAX_ENDED_KEPT
  if (over <= 0) return
  const rest = Math.max(END_GUARD_MS, ID_QUARANTINE_MS)
  const ended = [...turn.state.leases.values()].filter(lease => !isLive(lease) && (lease.activatedMs === 0 || lease.endedMs + rest <= turn.now))
  for (const lease of ended.sort((a, b) => a.endedMs - b.endedMs || a.token - b.token).slice(0, over)) turn.forget(lease)
  forgetReplays(turn)
}

function checkHold ({ request, requester }: EventOf<'hold'>, { now, state }: Turn): { startMs: number, ttlMs: number } {
  const refuse = (why: string): never => { throw new InvalidInputError(`hold of offer ${request.offerId} for cluster ${request.cluster} on ${state.host}: ${why}`) }
  const { items, startMs, endMs } = request
  if (request.key === '' || request.clusterId === '' || request.offerId === '' || requester === '') refuse('key, cluster, offer and requester must be named')
  if (items.length === 0) refuse('nothing is asked for')
  if (new Set(items.map(item => item.leaseId)).size !== items.length || items.some(item => item.leaseId === '')) refuse('every item needs a lease id of its own')
  if (!items.every(item => isValid(item.resources) && Number.isInteger(item.segmentId) && item.segmentId >= 0)) refuse('resources and ids must be whole numbers, none below zero')
  if (!Number.isSafeInteger(startMs) || !Number.isSafeInteger(endMs) || endMs <= now) refuse('it is over already')
  if (endMs - startMs < MIN_TERM_MS || endMs - startMs > MAX_TERM_MS) refuse(`a term is between ${MIN_TERM_MS} and ${MAX_TERM_MS} ms, this one is ${endMs - startMs}`)
  if (startMs > now + MAX_TERM_MS) refuse('it starts too far in the future')
  const ttlMs = request.ttlMs === 0 ? HOLD_TTL_MS : request.ttlMs
  if (!(ttlMs > 0 && ttlMs <= MAX_HOLD_TTL_MS)) refuse(`a hold lasts at most ${MAX_HOLD_TTL_MS} ms`)
  return { startMs: startMs <= now + START_IS_NOW_MS ? now : startMs, ttlMs }
}

/** The stored answer of a key, if this is the same question. */
function replayed ({ request, requester }: EventOf<'hold'>, { state }: Turn): Answer | null {
  const replay = state.replays.get(request.key)
  if (replay === undefined) return null
  const same = replay.offerId === request.offerId && replay.startMs === request.startMs && replay.endMs === request.endMs &&
    replay.leaseIds.length === request.items.length && request.items.every((item, i) => {
    const lease = state.leases.get(item.leaseId)
    // A lease forgotten early (boundEnded) cannot be compared; its id in the right place is enough.
    return replay.leaseIds[i] === item.leaseId && (lease === undefined || (
      lease.clusterId === request.clusterId && lease.requester === requester && lease.kind === item.kind && lease.name === item.name &&
      fits(lease.resources, item.resources) && fits(item.resources, lease.resources)))
  })
  if (!same) throw new ConflictError(`the idempotency key ${request.key} was used for another hold on ${state.host}`)
  return { ...replay.answer, replay: true }
}

function checkBounds ({ request, requester }: EventOf<'hold'>, { state }: Turn): void {
  let live = 0
  let ofPeer = 0
  const offers = new Set<string>()
  const prefix = request.clusterId.slice(0, 8)
  for (const lease of state.leases.values()) {
    // Objects on a host are told apart by these characters: two such clusters would remove each other's.
    if (lease.clusterId !== request.clusterId && lease.clusterId.slice(0, 8) === prefix && (isLive(lease) || !lease.vacated)) {
      throw new ConflictError(`the id of cluster ${request.cluster} begins as that of another cluster on ${state.host}`, 'ask again: a new cluster has a new id')
    }
    if (!isLive(lease)) continue
    live++
    if (lease.requester === requester) ofPeer++
    if (lease.offerId === request.offerId) throw new ConflictError(`offer ${request.offerId} is already held on ${state.host} under another key`)
    if (lease.clusterId === request.clusterId && lease.requester !== requester) throw new ConflictError(`cluster ${request.clusterId} on ${state.host} belongs to another peer`)
    if (lease.state === 'held' && lease.requester === requester) offers.add(lease.offerId)
  }
  if (offers.size >= MAX_HOLDS_PER_PEER) throw new MusubiError('TOO_MANY_HOLDS', `host ${state.host} holds ${offers.size} offers for peer ${requester}, no more than ${MAX_HOLDS_PER_PEER} at a time`, { retryable: true, hint: 'commit or release some first' })
  if (live + request.items.length > MAX_LEASES_PER_HOST) throw new NoCapacityError(`host ${state.host} has ${live} leases, no more than ${MAX_LEASES_PER_HOST} at a time`)
  if (ofPeer + request.items.length > MAX_LEASES_PER_PEER) throw new NoCapacityError(`host ${state.host} has ${ofPeer} leases for peer ${requester}, no more than ${MAX_LEASES_PER_PEER} at a time`)
  for (const { leaseId } of request.items) {
    if (state.leases.has(leaseId)) throw new ConflictError(`lease ${leaseId} exists already on ${state.host}`)
  }
}

/** The one segment id of a hold: as asked, else the cluster's own, else the lowest free one. 0 when none is asked for. */
function segmentIdFor (request: HoldRequest, { state, now }: Turn): number {
  const wanting = request.items.filter(item => item.kind === 'segment')
  const asked = [...new Set(wanting.map(item => item.segmentId).filter(id => id !== 0))]
  if (wanting.length === 0) return 0
  const { slice, host } = state
  if (slice === null) throw new ConflictError(`host ${host} gives out no segment ids`)
  if (asked.length > 1) throw new InvalidInputError(`hold of offer ${request.offerId}: a cluster has one segment id at a site, not ${asked.join(', ')}`)
  const uses = [...idUses(state, request.clusterId)]
  const own = leasesOf(state, request.clusterId).find(lease => isLive(lease) && lease.kind === 'segment')?.segmentId
  const id = asked[0] ?? own ?? allocateId(slice, uses, now)
  if (id === null) throw new NoCapacityError(`gateway ${host} has no free segment id in ${slice.from}..${slice.to}`)
  if (own !== undefined && id !== own) throw new ConflictError(`cluster ${request.cluster} has the segment id ${own} at ${host}, not ${id}`)
  if (!inSlice(slice, id)) throw new ConflictError(`segment id ${id} is outside the slice ${slice.from}..${slice.to} of gateway ${host}`)
  if (!isFree(id, uses, now)) throw new MusubiError('CONFLICT', `segment id ${id} of gateway ${host} is in use or resting`, { retryable: true, hint: 'ask for another id' })
  return id
}

function hold (event: EventOf<'hold'>, turn: Turn): Answer {
  const known = replayed(event, turn)
  if (known !== null) return known
  const { request, requester } = event
  const { startMs, ttlMs } = checkHold(event, turn)
  checkBounds(event, turn)
  const need = sum(request.items.map(item => item.resources))
  const free = freeOf(turn.state, startMs, request.endMs)
  if (!fits(need, free)) throw new NoCapacityError(`host ${turn.state.host}: ${describeShortfall(need, free)}`)
  const segmentId = segmentIdFor(request, turn)
  const lease = (item: HoldItem): Lease => ({
    id: item.leaseId, offerId: request.offerId, clusterId: request.clusterId, cluster: request.cluster, kind: item.kind, name: item.name,
    resources: { ...item.resources }, segmentId: item.kind === 'segment' ? segmentId : item.segmentId,
    masterSite: request.masterSite, masterPeer: request.masterPeer, requester, state: nextState(null, 'hold') ?? 'held',
    startMs, endMs: request.endMs, ttlMs, deadlineMs: turn.now + ttlMs, token: 0, heldToken: turn.state.counter + 1, commitToken: 0, activatedMs: 0, endedMs: 0, endReason: '', vacated: true
  })
  const receipts = request.items.map(item => turn.receipt(turn.put(lease(item), null)))
  const answer = answerWith({ receipts, segmentId })
  const replay: Replay = {
    key: request.key, offerId: request.offerId, startMs: request.startMs, endMs: request.endMs, leaseIds: request.items.map(item => item.leaseId), answer
  }
  turn.state.replays.set(replay.key, replay)
  turn.effects.push({ effect: 'replay', replay })
  boundEnded(turn)
  return answer
}

const ended = (what: string, host: string, leases: readonly Lease[]): ConflictError =>
  new ConflictError(`${what} on ${host} has ended: ${leases.find(lease => !isLive(lease))?.endReason ?? 'unknown'}`, 'ask for it again')

function commit ({ clusterId, offerId }: EventOf<'commit'>, turn: Turn): Answer {
  const { host } = turn.state
  const leases = leasesOf(turn.state, clusterId).filter(lease => lease.offerId === offerId)
  if (leases.length === 0) throw new NotFoundError(`host ${host} holds no offer ${offerId} for cluster ${clusterId}`, 'ask for it again')
  // A receipt says "this is committed": it is never repeated for a lease that has ended since.
  if (!leases.every(isLive)) throw ended(`offer ${offerId}`, host, leases)
  if (leases.every(lease => lease.state !== 'held')) {
    return answerWith({ receipts: leases.map(lease => turn.receipt(lease, lease.commitToken)), replay: true })
  }
  const committed = leases.map(lease => turn.move(lease, 'commit', {
    deadlineMs: Math.max(turn.now, lease.startMs) + ACTIVATE_TTL_MS,
    commitToken: turn.state.counter + 1
  }))
  return answerWith({ receipts: committed.map(lease => turn.receipt(lease)) })
}

function activate ({ clusterId, receipts }: EventOf<'activate'>, turn: Turn): Answer {
  const { host } = turn.state
  const leases = leasesOf(turn.state, clusterId)
  const live = leases.filter(isLive)
  const committed = live.filter(lease => lease.state === 'committed')
  const active = live.filter(lease => lease.state === 'active')
  if (live.length === 0) throw leases.length === 0 ? new NotFoundError(`host ${host} has no leases of cluster ${clusterId}`) : ended(`cluster ${clusterId}`, host, leases)
  if (committed.length === 0 && active.length > 0) {
    return answerWith({ receipts: active.map(lease => turn.receipt(lease)), replay: true })
  }
  const held = live.find(lease => lease.state === 'held')
  if (held !== undefined) throw new ConflictError(`offer ${held.offerId} of cluster ${clusterId} on ${host} is held, not committed`)
  for (const lease of committed) {
    const receipt = receipts.find(one => one.leaseId === lease.id)
    if (receipt === undefined) throw new ConflictError(`the commit receipt of lease ${lease.id} (${lease.kind} ${lease.name}) on ${host} is missing`)
    if (receipt.token !== lease.commitToken) throw new ConflictError(`the commit receipt of lease ${lease.id} on ${host} has token ${receipt.token}, the lease ${lease.commitToken}`)
    if (lease.startMs > turn.now) throw new MusubiError('TOO_EARLY', `lease ${lease.id} on ${host} starts in ${lease.startMs - turn.now} ms`, { retryable: true })
  }
  const used = sum([...running(turn.state)].map(lease => lease.resources))
  const free = subtract(turn.state.capacity, used)
  const need = sum(committed.map(lease => lease.resources))
  if (!fits(need, free)) throw new MusubiError('NOT_READY', `host ${host}: ${describeShortfall(need, free)} until leases that have ended are gone`, { retryable: true, hint: 'try again in some seconds' })
  return answerWith({ receipts: committed.map(lease => turn.receipt(turn.move(lease, 'activate', { activatedMs: turn.now }))) })
}

function release ({ clusterId, reason, offerId }: EventOf<'release'>, turn: Turn): Answer {
  const live = leasesOf(turn.state, clusterId).filter(lease => isLive(lease) && (offerId === undefined || lease.offerId === offerId))
  const receipts = live.map(lease => turn.receipt(turn.end(lease, 'release', reason)))
  return answerWith({ receipts, ended: receipts.length, replay: receipts.length === 0 })
}

function vacate ({ clusterId, seenCounter = Number.POSITIVE_INFINITY }: EventOf<'vacate'>, turn: Turn): Answer {
  const gone = leasesOf(turn.state, clusterId).filter(lease => !isLive(lease) && !lease.vacated && lease.token <= seenCounter)
  return answerWith({ receipts: gone.map(lease => turn.receipt(turn.put({ ...lease, vacated: true }, lease.state))), replay: gone.length === 0 })
}

/** Longer, never shorter: a hold that was answered must not end while its master counts on it. */
function restart (turn: Turn): Answer {
  for (const lease of [...turn.state.leases.values()]) {
    if (lease.state === 'held') turn.put({ ...lease, deadlineMs: turn.now + lease.ttlMs }, lease.state)
    if (lease.state === 'committed') turn.put({ ...lease, deadlineMs: Math.max(turn.now, lease.startMs) + ACTIVATE_TTL_MS }, lease.state)
  }
  return answerWith({})
}

function handle (event: LeaseEvent, turn: Turn): Answer {
  switch (event.type) {
    case 'hold': return hold(event, turn)
    case 'commit': return commit(event, turn)
    case 'activate': return activate(event, turn)
    case 'release': return release(event, turn)
    case 'vacate': return vacate(event, turn)
    case 'restart': return restart(turn)
    case 'tick': return answerWith({})
  }
}

/**
 * Works one event into a ledger state **in place**; for the single writer that owns the state.
 * A refusal changes nothing but what time has ended anyway.
 *
 * @param now ledger clock, Unix ms; one that goes back counts as standing still
 */
export function advance (state: LedgerState, event: LeaseEvent, now: number): Outcome {
  state.clockMs = Math.max(state.clockMs, Math.floor(now))
  const turn = new Turn(state)
  // Not before a restart is worked in: what was promised before the boot gets its full time again.
  if (event.type !== 'restart') sweep(turn)
  try {
    return { effects: turn.effects, result: { ok: true, answer: handle(event, turn) } }
  } catch (error) {
    if (error instanceof MusubiError) return { effects: turn.effects, result: { ok: false, error } }
    throw error
  } finally {
    if (event.type === 'restart') sweep(turn)
  }
}

/** The pure form of `advance`: the given state stays as it is. */
export function step (state: ReadonlyLedgerState, event: LeaseEvent, now: number): Outcome & { state: LedgerState } {
  const next: LedgerState = { ...state, leases: new Map(state.leases), replays: new Map(state.replays) }
  return { ...advance(next, event, now), state: next }
}

/** When the next `tick` changes something, Unix ms; Infinity when nothing is pending. */
export const nextDueMs = (state: ReadonlyLedgerState): number => state.dueMs
