/** A request, or growth, on its way through the hosts of a site: placed, held everywhere or nowhere, offered. */
import { type Resources, add, fits, sum, zero } from '../capacity.ts'
import { ConflictError, describeError, MusubiError, NoCapacityError } from '../errors.ts'
import { HOLD_TTL_MS, MAX_GATEWAY_RECORDS, MAX_HOLD_TTL_MS, MAX_LONG_HOLDS_PER_SITE, MAX_PLACEMENTS, MAX_VNI } from '../limits.ts'
import { isLocal, LOCAL } from '../network/local.ts'
import type { Held, HoldItem, HoldRequest, Offer, Receipt, Request } from '../messages.ts'
import { type Assignment, FRONTEND_RESOURCES, nodeResources, nodesByHost, placeAtSite, volumeResources } from '../placement/at-site.ts'
import { checkGrowth, checkRequest, holdTtlMs, mustBeInTime, mustOwn } from './checks.ts'
import type { SiteHost, SiteView } from './events.ts'
import { type HostCall, type Job, type Placing, type Turn, type WaitingFor, answersOf, failuresOf } from './machine.ts'
import { giveNotice, holdByNoticeMs, mustHaveNoNotice, noticeRefusal } from './notice.ts'
import { type Amendment, type GatewayRecord, allHeld, digestOf, heldUnder, hostsOf } from './record.ts'
import { releaseAllCalls, releaseCalls, released } from './release.ts'
import { divideShare, noShare, OWN_SHARE, type ShareView, sharesByHost, toldOffer } from './shares.ts'

const requestDigest = (r: Request): string => digestOf([r.cluster, r.vni, r.startMs, r.endMs, r.nodes, r.volumes, r.frontend, r.bandwidthMbit, r.grow, ...r.local === true ? [LOCAL] : [], ...r.spread === true ? ['spread'] : [], ...(r.maxNodesPerHost ?? 0) === 0 ? [] : [`max ${r.maxNodesPerHost}`]])

/** The offer that answers a growth: only what is new, with the site's facts as they are. */
const growthOffer = ({ offer }: GatewayRecord, amendment: Amendment): Offer => ({
  ...offer, offerId: amendment.offerId, held: [...amendment.held], ttlMs: amendment.ttlMs, nowMs: amendment.nowMs
})

/** What was answered to the same key before; null when this is a new question. @throws ConflictError for a key that is used twice */
function replayOf (turn: Turn, record: GatewayRecord, request: Request): Offer | null {
  const { amendment } = record
  const known = record.key === request.key && record.state !== 'releasing' ? { digest: record.digest, offer: { ...record.offer, held: heldUnder(record, record.offer.offerId) } }
    : amendment?.kind === 'grow' && amendment.key === request.key && amendment.state !== 'releasing' ? { digest: amendment.digest, offer: growthOffer(record, amendment) }
    : null
  if (known === null) return null
  if (known.digest !== requestDigest(request)) throw new ConflictError(`site ${turn.site}: the idempotency key ${request.key.slice(0, 64)} was used for another request of cluster ${request.cluster.slice(0, 64)}`, 'a new question needs a new key')
  return toldOffer(known.offer)
}

/** What a record holds, by host, that a new question of its master would set free. */
export function freedBy (record: GatewayRecord | undefined): ReadonlyMap<string, Resources> {
  const parts = freedParts(record)
  return new Map(hostsOf(parts).map(({ host }) => [host, sum(parts.filter(held => held.host === host && held.kind !== 'quota').map(held => held.resources))]))
}

/** The same of shares of the quota, by the gateway that counts them. */
export const freedShares = (record: GatewayRecord | undefined): ReadonlyMap<string, Resources> => sharesByHost(freedParts(record))

function freedParts (record: GatewayRecord | undefined): readonly Held[] {
  return record === undefined || record.state === 'committed' || (record.state === 'active' && record.amendment?.state === 'done') ? []
    : record.state === 'active' ? record.amendment?.held ?? []
    : allHeld(record)
}

/** A request whose turn has come. @throws MusubiError for the asker; then nothing has changed */
export function beginRequest (turn: Turn, entry: WaitingFor<'request'>): void {
  const { askId, caller, arrivedMs, ask: { request, view } } = entry
  const record = turn.record(request.clusterId)
  checkRequest(request, caller, turn.now)
  if (record !== undefined) {
    mustOwn(turn.site, record, caller, request.epoch)
    const before = replayOf(turn, record, request)
    if (before !== null && record.state === 'asking') {
      rehold(turn, record, entry)
      return
    }
    if (before !== null) {
      turn.answer([askId], { method: 'request', reply: before })
      return
    }
    // The network may bring an old question after a newer one: it must not give up what that one got.
    if (request.sentMs < record.sentMs) throw new ConflictError(`site ${turn.site} was asked for cluster ${request.cluster} anew since this request was sent`)
  }
  mustBeInTime(turn.site, `request for cluster ${request.cluster}`, request.sentMs, arrivedMs)
  if (view.refusal !== null) throw view.refusal
  if (record !== undefined && !mayAskAnew(turn, record, entry)) return
  if (record === undefined && turn.machine.records.size >= MAX_GATEWAY_RECORDS) throw new NoCapacityError(`the gateway of site ${turn.site} takes part in ${turn.machine.records.size} clusters, no more than ${MAX_GATEWAY_RECORDS} at a time`)
  turn.mustHaveRoom()
  const placing = { entry, attempt: 0, full: entry.avoid, dry: [], refusals: [] }
  const outcome = tryPlacement(turn, placing)
  if (outcome !== null && !giveNotice(turn, placing)) throw outcome
}

/** Goes on with a request for which clusters of lower priority have got notice. @throws MusubiError for the asker; what was given is withdrawn by the next tick */
export function placeByNotice (turn: Turn, placing: Placing): void {
  turn.mustHaveRoom()
  const outcome = tryPlacement(turn, { ...placing, byNotice: true })
  if (outcome !== null) throw outcome
}

/** Whether a question with a new key can be worked on at once; false when what was there before is released first. */
function mayAskAnew (turn: Turn, record: GatewayRecord, entry: WaitingFor<'request'>): boolean {
  const { request } = entry.ask
  const { clusterId, amendment } = record
  const clear = (scope: 'all' | 'amendment'): false => {
    const reason = 'asked again'
    const { first, last } = scope === 'all' ? releaseAllCalls(record, reason, 0, record.anchor !== '') : { first: releaseCalls(record, { kind: scope }, reason, 0), last: [] }
    turn.start(clusterId, { kind: 'clear', scope: { kind: scope }, reason, entry }, [entry.askId], first, last)
    return false
  }
  if (record.state === 'active' && request.grow) {
    mustHaveNoNotice(turn.site, record)
    checkGrowth(turn.site, record, request)
    if (amendment === null || amendment.state === 'done') return true
    if (amendment.state === 'committed') throw new ConflictError(`cluster ${request.cluster} at site ${turn.site} has a change that is committed and not yet activated`)
    if (amendment.state === 'offered') turn.amend(record, 'supersede')
    return clear('amendment')
  }
  if (record.state === 'committed' || record.state === 'active') throw new ConflictError(`cluster ${request.cluster} (${clusterId}) already has leases at site ${turn.site}`)
  if (record.state === 'offered') turn.move(record, 'supersede', { reason: 'asked again' })
  if (record.state === 'asking') turn.move(record, 'restart', { reason: 'asked again' })
  return clear('all')
}

/** What was there before has been released, or not: then a new question has its turn, or is refused. */
export function finishClear (turn: Turn, clusterId: string, job: Job & { phase: { kind: 'clear' } }): void {
  const record = turn.record(clusterId)
  const { entry, scope } = job.phase
  const failed = failuresOf(job)
  // What was never sent an activation ends by itself where a host does not answer: that host is left out
  // this time. What ran must be confirmed gone, and the gateway takes part in any case.
  const dispensable = scope.kind === 'all' && record?.anchor === '' && failed.every(({ host }) => host !== record.offer.gateway.host)
  const confirmed = failed.length === 0 || dispensable
  if (!confirmed) {
    turn.refuse([entry.askId], new MusubiError('UNREACHABLE', `site ${turn.site} could not confirm the release at ${failed.map(f => `${f.host}: ${describeError(f.error)}`).join('; ')}`, { retryable: true, hint: 'it is tried again' }))
    return
  }
  if (record !== undefined) released(turn, record, scope)
  turn.enqueue(clusterId, { ...entry, avoid: failed.map(({ host }) => host) }, true)
}

/** Whether a host is of a release that has no site-local segments, and one is asked for. */
export const lacksLocal = (request: Request, host: SiteHost): boolean => request.local === true && host.lacksLocal === true

/** @param taken nodes that the cluster has here already, by host */
function placed (placing: Placing, taken: ReadonlyMap<string, number>): { assignments: Assignment[], hosts: readonly SiteHost[] } | { refusal: string } {
  const { entry, full } = placing
  const hosts = (freed: ReadonlyMap<string, Resources>): SiteHost[] => ((placing.byNotice === true ? entry.ask.view.byNotice : undefined) ?? entry.ask.view).hosts.map(host =>
    lacksLocal(entry.ask.request, host) ? { ...host, free: { ...host.free, vcpus: 0, memoryMib: 0 } } : full.includes(host.host) ? { ...host, free: zero() } : { ...host, free: add(host.free, freed.get(host.host) ?? zero()) })
  for (const view of [hosts(new Map()), hosts(entry.freed)]) {
    const outcome = placeAtSite(entry.ask.request, view, taken)
    if (!('refusal' in outcome)) return { assignments: outcome.assignments, hosts: view }
    if (entry.freed.size === 0) return outcome
  }
  return { refusal: 'nothing fits' }
}

/** What the parts of a request take together, wherever they go. */
export const wantedOf = ({ nodes, volumes, frontend }: Pick<Request, 'nodes' | 'volumes' | 'frontend'>): Resources =>
  sum([...nodes.map(nodeResources), ...volumes.map(volumeResources), ...frontend ? [FRONTEND_RESOURCES] : []])

/** What the gateway itself holds for a cluster: the segment, and what its master's site borrows. */
export function ownParts (view: Pick<SiteView, 'quota'>, request: Request, grow: boolean, borrowed: Resources): Array<{ kind: string, name: string, resources: Resources }> {
  return [
    ...grow ? [] : [{ kind: 'segment', name: 'segment', resources: { ...zero(), bandwidthMbit: request.bandwidthMbit } }],
    ...!grow && request.local === true ? [{ kind: 'segment', name: LOCAL, resources: zero() }] : [],
    ...view.quota ? [{ kind: 'quota', name: OWN_SHARE, resources: { ...borrowed, nodes: request.nodes.length, bandwidthMbit: grow ? 0 : request.bandwidthMbit } }] : []
  ]
}

/** What a request would take of the quota of its master's site. */
export const borrowedBy = (request: Request): Resources => sum(ownParts({ quota: true }, request, request.grow, wantedOf(request)).filter(part => part.kind === 'quota').map(part => part.resources))

type Part = Pick<Held, 'kind' | 'name' | 'host' | 'peer' | 'underlayAddress' | 'resources'>

/**
 * Divides what is borrowed among the own share and those of other gateways, where the own one does not suffice.
 *
 * @param own what the gateway itself holds, see `ownParts`
 */
function withLenders (site: string, placing: Placing, own: readonly Part[]): Part[] | MusubiError {
  const { entry: { ask: { request, view }, freedShares }, full, dry } = placing
  const share = own.find(part => part.kind === 'quota')
  if (share === undefined || view.share === undefined) return [...own]
  // Shares of this cluster's own former offer are free by now: it was given back before this question had its turn.
  const withFreed = (host: string, free: Resources): Resources => dry.includes(host) ? zero() : add(free, freedShares.get(host) ?? zero())
  const open: ShareView = { own: withFreed(share.host, view.share.own), lenders: view.share.lenders.filter(({ host }) => !full.includes(host)).map(one => ({ ...one, free: withFreed(one.host, one.free) })) }
  const divided = divideShare(share.resources, open.own, open.lenders.map(({ free }) => free))
  if (divided === null) return noShare(site, request.masterSite, share.resources, open)
  return [
    ...own.filter(part => part !== share), ...divided.parts.size > 0 && fits(divided.own, zero()) ? [] : [{ ...share, resources: divided.own }],
    ...open.lenders.flatMap(({ host, peer, underlayAddress }, i): Part[] => {
      const resources = divided.parts.get(i)
      return resources === undefined ? [] : [{ kind: 'quota', name: share.host, host, peer, underlayAddress, resources }]
    })
  ]
}

/**
 * Whether its user may have time to decide. Not about what changes a cluster that runs, which its
 * master does; nor when others of the same site have enough of what nobody else can get.
 */
function mayThink (turn: Turn, request: Request): boolean {
  if (request.grow || request.holdTtlMs <= HOLD_TTL_MS) return false
  let long = 0
  for (const { clusterId, masterSite, state, offer } of turn.machine.records.values()) {
    if (masterSite === request.masterSite && clusterId !== request.clusterId && (state === 'asking' || state === 'offered') && offer.ttlMs > HOLD_TTL_MS && turn.now < offer.nowMs + offer.ttlMs) long++
  }
  return long < MAX_LONG_HOLDS_PER_SITE
}

/** Places what is asked for and asks the hosts to hold it; or says why it cannot be placed. */
function tryPlacement (turn: Turn, placing: Placing): MusubiError | null {
  const { entry: { askId, caller, ask: { request, view } }, attempt, refusals } = placing
  const record = turn.record(request.clusterId)
  const grown = record?.state === 'active' ? record : null
  // It may have come while other hosts were asked: where the cluster has nothing yet its hosts were not told.
  if (grown?.notice !== undefined) return noticeRefusal(turn.site, grown)
  const outcome = placed(placing, grown === null ? new Map() : nodesByHost(grown.offer.held))
  if ('refusal' in outcome) {
    const old = view.hosts.filter(host => lacksLocal(request, host)).map(host => host.host)
    const without = old.length === 0 ? [] : [`${old.slice(0, 8).join(', ')}: of a release without site-local segments`]
    const shut = (view.closed ?? []).slice(0, 8).map(({ host, why }) => `${host} takes no new leases for now: ${why}`)
    return new NoCapacityError(`site ${turn.site}: ${[outcome.refusal, ...shut, ...without, ...refusals].join('; ')}`)
  }
  const offerId = attempt === 0 ? view.id : `${view.id}-${attempt + 1}`
  const gateway = grown?.offer.gateway ?? view.facts
  // The gateway always takes part: it carries the segment, and its ledger chooses and keeps the segment id.
  const own = withLenders(turn.site, placing, ownParts(view, request, grown !== null, sum(outcome.assignments.map(part => part.resources)))
    .map(part => ({ ...part, host: gateway.host, peer: gateway.peer, underlayAddress: gateway.underlayAddress })))
  if (own instanceof MusubiError) return own
  const parts = [
    ...outcome.assignments.flatMap(part => outcome.hosts.filter(host => host.host === part.host).slice(0, 1).map(host => ({ ...part, peer: host.peer, underlayAddress: host.underlayAddress }))),
    ...own
  ]
  const held = parts.map((part, i): Held => ({ leaseId: `${offerId}-${i + 1}`, kind: part.kind, name: part.name, host: part.host, peer: part.peer, underlayAddress: part.underlayAddress, resources: part.resources, token: 0 }))
  const ttlMs = holdTtlMs(request.holdTtlMs, mayThink(turn, request) ? Math.min(MAX_HOLD_TTL_MS, holdByNoticeMs(turn, request)) : HOLD_TTL_MS)
  // Known before the first hold leaves: after a crash nothing is held that nobody remembers.
  if (grown !== null) {
    const amendment = { kind: 'grow', key: request.key, digest: requestDigest(request), offerId, held, endMs: request.endMs, formerEndMs: grown.endMs, ttlMs, nowMs: turn.now } as const
    if (grown.amendment?.state === 'asking') turn.save({ ...grown, amendment: { ...amendment, state: 'asking' } }, true)
    else turn.amend(grown, 'ask', amendment, { sentMs: request.sentMs })
  } else {
    turn.begin({
      clusterId: request.clusterId, cluster: request.cluster, key: request.key, digest: requestDigest(request),
      offer: { offerId, site: turn.site, segmentId: 0, gateway, held, ttlMs, nowMs: turn.now, ...view.priceMilli === undefined ? {} : { priceMilli: view.priceMilli } },
      masterSite: request.masterSite, masterPeer: caller.peerId, epoch: request.epoch, vni: request.vni, startMs: request.startMs, endMs: request.endMs,
      sentMs: request.sentMs, reason: '', amendment: null, shrinking: [], anchor: ''
    })
  }
  const of = { ...request, masterPeer: caller.peerId, ttlMs, offerId }
  turn.start(request.clusterId, { kind: 'hold', placing }, [askId], holdCalls(held, of))
  return null
}

type HoldOf = Pick<HoldRequest, 'key' | 'clusterId' | 'cluster' | 'masterSite' | 'masterPeer' | 'startMs' | 'endMs' | 'ttlMs' | 'offerId' | 'epoch'>

function holdCalls (held: readonly Held[], of: HoldOf): HostCall[] {
  const { clusterId, cluster, masterSite, masterPeer, startMs, endMs, ttlMs, offerId, epoch } = of
  return hostsOf(held).map(({ host, peer }) => ({
    host,
    peer,
    ask: {
      method: 'hold',
      request: {
        key: `${of.key}/${offerId}`, clusterId, cluster, masterSite, masterPeer, startMs, endMs, ttlMs, offerId, epoch,
        items: held.filter(part => part.peer === peer).map((part): HoldItem => ({ leaseId: part.leaseId, kind: part.kind, name: part.name, resources: part.resources, segmentId: 0 }))
      }
    }
  }))
}

type AsHeld = Pick<Offer, 'held' | 'segmentId' | 'localSegmentId'>

/** What was planned, with what the hosts have said to it; null with what is missing when that is not all. */
function asHeld (offer: Pick<Offer, 'held' | 'gateway' | 'segmentId' | 'localSegmentId'>, job: Job): AsHeld | { host: string, error: MusubiError } {
  const replies = answersOf(job, 'hold')
  const receipts = new Map<string, Receipt>(replies.flatMap(one => one.reply.receipts).map(receipt => [receipt.leaseId, receipt]))
  const without = offer.held.find(held => !receipts.has(held.leaseId))
  if (without !== undefined) return { host: without.host, error: new ConflictError(`host ${without.host} gave no receipt for ${without.kind} ${without.name}`) }
  const given = replies.find(one => one.peer === offer.gateway.peer)?.reply
  const segmentId = offer.held.some(held => held.kind === 'segment' && !isLocal(held)) ? given?.segmentId ?? 0 : offer.segmentId
  const localSegmentId = offer.held.some(isLocal) ? given?.localSegmentId ?? 0 : offer.localSegmentId
  const isId = (id: number): boolean => Number.isSafeInteger(id) && id >= 1 && id <= MAX_VNI
  if (!isId(segmentId) || (offer.held.some(isLocal) && !(isId(localSegmentId ?? 0) && localSegmentId !== segmentId))) return { host: offer.gateway.host, error: new ConflictError(`gateway ${offer.gateway.host} gave out no segment id`) }
  return { held: offer.held.map(held => ({ ...held, token: receipts.get(held.leaseId)?.token ?? 0 })), segmentId, ...(localSegmentId === undefined ? {} : { localSegmentId }) }
}

/** What was only held ends by itself: the master does not wait long for a host that does not answer. */
const UNDO_DEADLINE_MS = 5_000

/** Errors that another placement does not mend. */
const FINAL = new Set(['INVALID_INPUT', 'STALE_EPOCH', 'FORBIDDEN'])

export function finishHold (turn: Turn, clusterId: string, job: Job & { phase: { kind: 'hold' } }): void {
  const record = turn.record(clusterId)
  if (record === undefined) return
  const { placing } = job.phase
  const growing = record.state === 'active' ? record.amendment : null
  const parts = growing?.held ?? record.offer.held
  const failed = failuresOf(job)
  const outcome = failed.length > 0 ? null : asHeld({ ...record.offer, held: [...parts] }, job)
  if (outcome !== null && 'held' in outcome) {
    offered(turn, record, outcome, placing.entry.askId)
    return
  }
  if (outcome !== null) failed.push(outcome)
  const { gateway } = record.offer
  // A share that is used up keeps its host from lending more of it, not from all else; where shares are divided, others may have it.
  const dry = placing.entry.ask.view.share === undefined ? [] : failed.filter(({ error }) => error.code === 'QUOTA_EXCEEDED')
  const final = failed.find(({ error }) => FINAL.has(error.code))?.error ??
    // The segment has no other place to go.
    failed.find(one => one.host === gateway.host && !dry.includes(one) && !parts.some(held => held.host === gateway.host && held.kind !== 'segment' && held.kind !== 'quota'))?.error ?? null
  const next: Placing = {
    ...placing, attempt: placing.attempt + 1,
    full: [...placing.full, ...failed.filter(one => !dry.includes(one)).map(({ host }) => host)], dry: [...placing.dry, ...dry.map(({ host }) => host)], refusals: [...placing.refusals, ...failed.map(({ host, error }) => `${host}: ${describeError(error)}`)]
  }
  const offerId = growing?.offerId ?? record.offer.offerId
  const calls = hostsOf(parts).map(({ host, peer }): HostCall => ({
    host, peer, ask: { method: 'hostRelease', request: { clusterId, reason: 'another host refused', offerId, leaseIds: [], epoch: 0 } }, deadlineMs: UNDO_DEADLINE_MS
  }))
  turn.start(clusterId, { kind: 'undo', placing: next, final }, job.askers, calls)
}

function offered (turn: Turn, record: GatewayRecord, got: AsHeld, askId: number | null): void {
  const { held } = got
  let reply: Offer
  if (record.state === 'active') {
    const { amendment } = record
    if (amendment === null) return
    const next = turn.amend(record, 'hold', { ...amendment, held, nowMs: turn.now })
    reply = toldOffer(growthOffer(next, next.amendment ?? amendment))
  } else {
    reply = toldOffer(turn.move(record, 'hold', { offer: { ...record.offer, ...got, nowMs: turn.now } }).offer)
  }
  // Known to be held at this moment: nobody needs to look for a while.
  turn.machine.tidiedMs.set(record.clusterId, turn.now)
  turn.note('lease.offered', `${held.filter(part => part.kind === 'node').length} nodes held for cluster ${record.cluster} of ${record.masterSite}`, record.cluster)
  if (askId !== null) turn.answer([askId], { method: 'request', reply })
}

export function finishUndo (turn: Turn, clusterId: string, job: Job & { phase: { kind: 'undo' } }): void {
  const record = turn.record(clusterId)
  if (record === undefined) return
  const { placing, final } = job.phase
  const refusal = final ?? (placing.attempt < MAX_PLACEMENTS ? tryPlacement(turn, placing)
    : new NoCapacityError(`site ${turn.site}: no host would hold it: ${placing.refusals.join('; ')}`))
  if (refusal === null) return
  const confirmed = failuresOf(job).length === 0
  if (record.state === 'active') {
    const releasing = turn.amend(record, 'refuse')
    if (confirmed) turn.amend(releasing, 'gone')
  } else {
    const releasing = turn.move(record, 'refuse', { reason: 'another host refused' })
    if (confirmed) turn.gone(releasing)
  }
  const full = final !== null && (final.code === 'NO_CAPACITY' || final.code === 'UNREACHABLE')
  turn.refuse(job.askers, full ? new NoCapacityError(`site ${turn.site}: ${placing.refusals.join('; ')}`) : refusal)
}

/** Asks the same hosts for the same again, after a restart; `entry` has its turn again when they have answered. */
export function rehold (turn: Turn, record: GatewayRecord, entry: WaitingFor<'request' | 'commit'> | null): void {
  if (entry !== null) turn.enqueue(record.clusterId, entry, true)
  const { offer } = record
  turn.start(record.clusterId, { kind: 'rehold' }, [], holdCalls(offer.held, { ...record, ttlMs: offer.ttlMs, offerId: offer.offerId }))
}

export function finishRehold (turn: Turn, clusterId: string, job: Job): void {
  const record = turn.record(clusterId)
  if (record?.state !== 'asking') return
  const failed = failuresOf(job)
  const outcome = failed.length > 0 ? null : asHeld(record.offer, job)
  if (outcome !== null && 'held' in outcome) {
    offered(turn, record, outcome, null)
    return
  }
  const why = failed[0]?.error ?? (outcome as { error: MusubiError }).error
  // Who waits for it would only start it anew; the next tick does that, as long as there may be holds.
  for (let entry = turn.dequeue(clusterId); entry !== undefined; entry = turn.dequeue(clusterId)) turn.refuse([entry.askId], why)
  if (failed.every(({ error }) => error.retryable) && failed.length > 0) return
  turn.move(record, 'restart', { reason: 'the gateway was restarted' })
}
