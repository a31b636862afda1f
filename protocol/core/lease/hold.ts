/** The hold: everything asked for, for the whole interval, or a refusal that changes nothing. */
import { type Resources, clampToZero, describeShortfall, fits, isValid, sum } from '../capacity.ts'
import { ConflictError, InvalidInputError, MusubiError, NoCapacityError } from '../errors.ts'
import { allocateId, inSlice, isFree } from '../ids.ts'
import {
  HOLD_TTL_MS, MAX_HOLD_TTL_MS, MAX_HOLDS_PER_PEER, MAX_LEASES_PER_HOST, MAX_LEASES_PER_PEER, MAX_PAST_START_MS, MAX_TERM_MS, MIN_TERM_MS
} from '../limits.ts'
import { isLocal } from '../network/local.ts'
import type { HoldRequest, LeaseKind } from '../messages.ts'
import { checkEpoch, hear, isEpoch } from './epoch.ts'
import { type EventOf, answerWith } from './events.ts'
import { type Answer, freeOf, freeQuotaOf, idUses, isLive, isQuota, leasesOf, mustNotBeCurtailed } from './lease.ts'
import { prefixOf } from './state.ts'
import { boundEnded } from './sweep.ts'
import type { Turn } from './turn.ts'

/** A start this near counts as now: clocks of master and host differ. */
export const START_IS_NOW_MS = 60_000
/** Ids and keys are parts of keys in the store, and of messages: not longer than this. */
const MAX_ID = 256
const KINDS: ReadonlySet<string> = new Set<LeaseKind>(['node', 'volume', 'frontend', 'segment', 'quota'])

export const isId = (text: unknown): boolean => typeof text === 'string' && text.length >= 1 && text.length <= MAX_ID && text.isWellFormed()

/** @throws InvalidInputError for a time to live that no hold may have. 0 means the default. */
export function ttlOf (asked: number, refuse: (why: string) => never): number {
  const ttlMs = asked === 0 ? HOLD_TTL_MS : asked
  if (!(Number.isInteger(ttlMs) && ttlMs > 0 && ttlMs <= MAX_HOLD_TTL_MS)) refuse(`a hold lasts at most ${MAX_HOLD_TTL_MS} ms`)
  return ttlMs
}

function checkHold ({ request, requester }: EventOf<'hold'>, { now, state }: Turn): { startMs: number, ttlMs: number } {
  const refuse = (why: string): never => { throw new InvalidInputError(`hold of offer ${request.offerId} for cluster ${request.cluster} on ${state.host}: ${why}`) }
  const { items, startMs, endMs } = request
  if (![request.key, request.clusterId, request.offerId, requester].every(isId)) refuse('key, cluster, offer and requester must be named')
  if (items.length === 0) refuse('nothing is asked for')
  if (new Set(items.map(item => item.leaseId)).size !== items.length || !items.every(item => isId(item.leaseId))) refuse('every item needs a lease id of its own')
  if (!items.every(item => KINDS.has(item.kind))) refuse(`an item is one of ${[...KINDS].join(', ')}`)
  if (!items.every(item => isValid(item.resources) && Number.isSafeInteger(item.segmentId) && item.segmentId >= 0)) refuse('resources and ids must be whole numbers, none below zero')
  if (!isEpoch(request.epoch)) refuse('the epoch of a master is a whole number from 1')
  if (!Number.isSafeInteger(startMs) || !Number.isSafeInteger(endMs) || endMs <= now) refuse('it is over already')
  if (endMs - startMs < MIN_TERM_MS || endMs - startMs > MAX_TERM_MS) refuse(`a term is between ${MIN_TERM_MS} and ${MAX_TERM_MS} ms, this one is ${endMs - startMs}`)
  if (startMs > now + MAX_TERM_MS) refuse('it starts too far in the future')
  if (startMs < now - MAX_PAST_START_MS) refuse(`it starts ${now - startMs} ms in the past`)
  const ttlMs = ttlOf(request.ttlMs, refuse)
  return { startMs: startMs <= now + START_IS_NOW_MS ? now : startMs, ttlMs }
}

/** The question in a canonical form. The epoch is left out: a repeated question is the same under a later one. */
const canonical = ({ request, requester }: EventOf<'hold'>): string => JSON.stringify([
  request.clusterId, request.cluster, request.masterSite, request.masterPeer, requester, request.offerId, request.startMs, request.endMs, request.ttlMs,
  request.items.map(({ leaseId, kind, name, segmentId, resources: r }) => [leaseId, kind, name, segmentId, r.vcpus, r.memoryMib, r.diskMib, r.volumes, r.bandwidthMbit, ...(r.nodes ?? 0) === 0 ? [] : [r.nodes]])
])

/** The stored answer of a key, if this is the same question. */
function replayed (event: EventOf<'hold'>, { state }: Turn): Answer | null {
  const { request } = event
  const replay = state.replays.get(request.key)
  if (replay === undefined) return null
  const same = replay.kind === 'hold' && (replay.asked === '' ? isSameOfOld(event, state.leases, replay) : replay.asked === canonical(event))
  if (!same) throw new ConflictError(`the idempotency key ${request.key} was used for another hold on ${state.host}`)
  return { ...replay.answer, replay: true }
}

/** For answers that an older release has kept: without the whole question, compared with what is left of the leases. */
const isSameOfOld = ({ request, requester }: EventOf<'hold'>, leases: Turn['state']['leases'], replay: { offerId: string, startMs: number, endMs: number, leaseIds: readonly string[] }): boolean =>
  replay.offerId === request.offerId && replay.startMs === request.startMs && replay.endMs === request.endMs &&
  replay.leaseIds.length === request.items.length && request.items.every((item, i) => {
    const lease = leases.get(item.leaseId)
    return replay.leaseIds[i] === item.leaseId && (lease === undefined || (
      lease.clusterId === request.clusterId && lease.requester === requester && lease.kind === item.kind && lease.name === item.name &&
      fits(lease.resources, item.resources) && fits(item.resources, lease.resources)))
  })

function checkBounds ({ request, requester }: EventOf<'hold'>, { state }: Turn): void {
  const { host } = state
  // Objects on a host are told apart by these characters: two such clusters would remove each other's.
  for (const other of state.prefixes.get(prefixOf(request.clusterId))?.keys() ?? []) {
    if (other !== request.clusterId) throw new ConflictError(`the id of cluster ${request.cluster} begins as that of another cluster on ${host}`, 'ask again: a new cluster has a new id')
  }
  const known = state.epochs.get(request.clusterId)
  for (const lease of leasesOf(state, request.clusterId)) {
    // Also when it has ended: an offer means one thing for as long as anybody may ask about it.
    if (lease.offerId === request.offerId) throw new ConflictError(`offer ${request.offerId} is already held on ${host} under another key`)
    // A cluster that was taken over belongs to who holds its epoch.
    if (isLive(lease) && lease.requester !== requester && known?.holder !== requester) throw new ConflictError(`cluster ${request.clusterId} on ${host} belongs to another peer`)
    if (isLive(lease) && lease.masterSite !== request.masterSite) throw new ConflictError(`cluster ${request.clusterId} on ${host} belongs to site ${lease.masterSite}, not ${request.masterSite}`)
  }
  if (state.extensionsOf.get(request.clusterId)?.has(`${request.clusterId}/${request.offerId}`) === true) throw new ConflictError(`offer ${request.offerId} is an extension on ${host}`)
  const use = state.peers.get(requester) ?? { live: 0, held: new Map<string, number>() }
  const live = state.occupying.size
  if (use.held.size >= MAX_HOLDS_PER_PEER) throw new MusubiError('TOO_MANY_HOLDS', `host ${host} holds ${use.held.size} offers for peer ${requester}, no more than ${MAX_HOLDS_PER_PEER} at a time`, { retryable: true, hint: 'commit or release some first' })
  if (live + request.items.length > MAX_LEASES_PER_HOST) throw new NoCapacityError(`host ${host} has ${live} leases, no more than ${MAX_LEASES_PER_HOST} at a time`)
  if (use.live + request.items.length > MAX_LEASES_PER_PEER) throw new NoCapacityError(`host ${host} has ${use.live} leases for peer ${requester}, no more than ${MAX_LEASES_PER_PEER} at a time`)
  for (const { leaseId } of request.items) {
    if (state.leases.has(leaseId)) throw new ConflictError(`lease ${leaseId} exists already on ${host}`)
  }
}

/** What somebody wants to take in addition for an interval. */
export interface Want { kind: string, resources: Resources }

/**
 * Whether the host, and what its site lends to the master's, have room for something.
 *
 * @throws NoCapacityError; MusubiError QUOTA_EXCEEDED
 */
export function checkRoom ({ state }: Turn, wants: readonly Want[], masterSite: string, fromMs: number, untilMs: number): void {
  const need = sum(wants.filter(one => !isQuota(one)).map(one => one.resources))
  // Of a dimension that is overdrawn (an operator may shrink a host) nothing can still be had.
  const free = clampToZero(freeOf(state, fromMs, untilMs))
  if (!fits(need, free)) throw new NoCapacityError(`host ${state.host}: ${describeShortfall(need, free)}`)
  const borrowed = wants.filter(isQuota)
  const quota = borrowed.length === 0 ? null : freeQuotaOf(state, masterSite, fromMs, untilMs)
  if (quota === null) return
  const more = sum(borrowed.map(one => one.resources))
  const left = clampToZero(quota)
  if (!fits(more, left)) throw new MusubiError('QUOTA_EXCEEDED', `gateway ${state.host} lends no more to site ${masterSite}: ${describeShortfall(more, left)}`, {
    retryable: true,
    hint: state.quarantineUntilMs > state.clockMs ? `its former ledger was lost: what that had lent counts until ${new Date(state.quarantineUntilMs).toISOString()}; use another gateway of the site until then` : 'release some of what this site has borrowed, or ask its administrators for more'
  })
}

/**
 * The one segment id of a hold: as asked, else the cluster's own, else the lowest free one. 0 when none is asked for.
 *
 * @param local of the segment that does not leave the site, not of the cluster's
 * @param beside the id that this hold got for the other of the two
 */
function segmentIdFor (request: HoldRequest, { state, now }: Turn, local: boolean, beside: number): number {
  const wanting = request.items.filter(item => item.kind === 'segment' && isLocal(item) === local)
  const asked = [...new Set(wanting.map(item => item.segmentId).filter(id => id !== 0))]
  if (wanting.length === 0) return 0
  const { slice, host } = state
  if (slice === null) throw new ConflictError(`host ${host} gives out no segment ids`)
  if (asked.length > 1) throw new InvalidInputError(`hold of offer ${request.offerId}: a cluster has one ${local ? 'site-local ' : ''}segment id at a site, not ${asked.join(', ')}`)
  const ofCluster = leasesOf(state, request.clusterId).filter(lease => isLive(lease) && lease.kind === 'segment')
  const own = ofCluster.find(lease => isLocal(lease) === local)?.segmentId
  if (own === undefined && now < state.quarantineUntilMs) throw new MusubiError('QUARANTINE', `gateway ${host} gives out no segment ids before ${new Date(state.quarantineUntilMs).toISOString()}: its former ledger was lost, and ids that it gave out may still be in use`, { retryable: true, hint: 'use another gateway of the site until then' })
  // its own two are no more alike than those of two clusters
  const others = [beside, ...ofCluster.filter(lease => isLocal(lease) !== local).map(lease => lease.segmentId)]
  const uses = [...idUses(state, request.clusterId), ...others.map(id => ({ id, untilMs: Number.POSITIVE_INFINITY }))]
  const id = asked[0] ?? own ?? allocateId(slice, uses, now)
  if (id === null) throw new NoCapacityError(`gateway ${host} has no free segment id in ${slice.from}..${slice.to}${local ? ` for the site-local segment of cluster ${request.cluster}` : ''}`, ...local ? ['leave spec.network.local out, or ask for more segmentIds at that gateway'] : [])
  if (own !== undefined && id !== own) throw new ConflictError(`cluster ${request.cluster} has the ${local ? 'site-local ' : ''}segment id ${own} at ${host}, not ${id}`)
  if (!inSlice(slice, id)) throw new ConflictError(`segment id ${id} is outside the slice ${slice.from}..${slice.to} of gateway ${host}`)
  if (!isFree(id, uses, now)) throw new MusubiError('CONFLICT', `segment id ${id} of gateway ${host} is in use or resting`, { retryable: true, hint: 'ask for another id' })
  return id
}

export function hold (event: EventOf<'hold'>, turn: Turn): Answer {
  const { request, requester } = event
  checkEpoch(turn, request.clusterId, request.epoch, request.masterPeer)
  const known = replayed(event, turn)
  if (known !== null) return known
  const { startMs, ttlMs } = checkHold(event, turn)
  checkBounds(event, turn)
  mustNotBeCurtailed(request.clusterId, leasesOf(turn.state, request.clusterId), turn.state.host)
  checkRoom(turn, request.items, request.masterSite, startMs, request.endMs)
  const segmentId = segmentIdFor(request, turn, false, 0)
  const localSegmentId = segmentIdFor(request, turn, true, segmentId)
  const receipts = request.items.map(item => turn.receipt(turn.begin({
    id: item.leaseId, offerId: request.offerId, clusterId: request.clusterId, cluster: request.cluster, kind: item.kind, name: item.name,
    resources: { ...item.resources }, segmentId: isLocal(item) ? localSegmentId : item.kind === 'segment' ? segmentId : item.segmentId,
    masterSite: request.masterSite, masterPeer: request.masterPeer, requester,
    startMs, endMs: request.endMs, ttlMs, deadlineMs: turn.now + ttlMs, confirmByMs: 0,
    commitToken: 0, activatedMs: 0, endedMs: 0, endReason: '', vacated: true
  })))
  const answer = answerWith({ receipts, segmentId, ...(localSegmentId === 0 ? {} : { localSegmentId }) })
  turn.keepReplay({
    key: request.key, kind: 'hold', offerId: request.offerId, startMs: request.startMs, endMs: request.endMs,
    leaseIds: request.items.map(item => item.leaseId), answer, asked: canonical(event)
  })
  hear(turn, request.clusterId, request.epoch, request.masterPeer)
  boundEnded(turn)
  return answer
}
