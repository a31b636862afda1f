/** From a user's wish to the decision: requests to all sites of a placement, all offers or another placement. */
import { MusubiError } from '../../errors.ts'
import { HOLD_MARGIN, HOLD_TTL_MS, MAX_EARLIEST_ROUNDS } from '../../limits.ts'
import { isLocal } from '../../network/local.ts'
import type { Offer } from '../../messages.ts'
import { nodesByHost } from '../../placement/at-site.ts'
import { type SitePart, placeAmongSites } from '../../placement/among-sites.ts'
import { holdTimeOf } from '../../verify/request.ts'
import { type Refused, allRefused, errorOf, heldTooShort, noStart, placeError, refusedBy, releaseFor, requestFor } from '../say.ts'
import type { Looked, NewCluster } from '../events.ts'
import { type Call, type Round, type Turn } from '../machine.ts'
import { GIVE_UP_DEADLINE_MS, REQUEST_DEADLINE_MS, ROUNDS } from '../pace.ts'
import { type Asked, type MasterRecord, acceptUntilMs } from '../record.ts'

/** The record of a cluster that nobody has been asked for. */
export function newRecord ({ id, spec, vni, imageDigest, startMs, endMs, earliest, holdMs }: NewCluster, masterSite: string, now: number): MasterRecord {
  return {
    id, name: spec.name, state: 'negotiating', spec, vni, createdMs: now, startMs, endMs, ...earliest === undefined ? {} : { earliest }, ...holdMs === undefined ? {} : { hold: { ttlMs: holdMs, endsMs: 0 } },
    epoch: 1, grant: null, masterSite, error: null,
    asked: [], offers: [], receipts: [], document: null, secrets: [], imageDigest, amendment: null, dropped: [], behind: [], decidedMs: 0, commitByMs: 0, negotiateMs: 0, endedMs: 0
  }
}

export function create (turn: Turn, cluster: NewCluster): void {
  if (turn.record(cluster.id) !== undefined) return
  const { spec } = cluster
  const record = newRecord(cluster, turn.machine.site, turn.now)
  turn.move(record, null, 'create', {}, `${spec.nodes.count} nodes of ${spec.nodes.vcpus} vCPU and ${spec.nodes.memoryMiB} MiB`)
  look(turn, record)
}

/** What sites have free now says nothing of a time to come: then their calendars are asked. */
function look (turn: Turn, record: MasterRecord): void {
  const work = turn.work(record.id)
  work.looking = true
  work.inTime ||= record.earliest !== undefined || record.startMs > turn.now
  turn.effects.push({ effect: 'look', clusterId: record.id, calendars: work.inTime, without: [...work.excluded] })
}

/** Gives a cluster up: it is over for the user at once, sites are told to release until they have confirmed. */
export function fail (turn: Turn, record: MasterRecord, error: MusubiError): void {
  turn.move(record, record.state, 'fail', { error: errorOf(error), endedMs: turn.now }, error.message)
}

/** Asks every site of a placement for its part, all at once. @param id fresh, for idempotency keys */
export function startRound (turn: Turn, before: MasterRecord, { sites: known, startMs, nearest }: Looked, id: string): void {
  const work = turn.work(before.id)
  work.looking = false
  work.nearest = nearest ?? ''
  if (work.startedMs === 0) work.startedMs = turn.now
  const record = startMs === undefined ? before : beginAt(turn, before, startMs)
  const sites = known.filter(site => !work.excluded.has(site.site))
  const placed = placeAmongSites(record.spec, sites, turn.machine.site, record.imageDigest)
  if ('refusal' in placed) {
    if (record.earliest !== undefined && startMs === undefined) fail(turn, record, noStart(record.name, record.earliest.latestMs, placed.refusal, work.nearest))
    else if (work.inTime) fail(turn, record, placeError(record.name, placed.refusal, work.refusals, work.lastCode, work.nearest))
    else {
      // What is booked for later, and when it would fit, only calendars say.
      work.inTime = true
      look(turn, record)
    }
    return
  }
  if (record.earliest !== undefined && startMs === undefined) { fail(turn, record, noStart(record.name, record.earliest.latestMs, placed.why.join('; '), work.nearest)); return }
  const round: Round = { ref: id, parts: new Map(), held: new Map(), refused: new Map() }
  for (const part of placed.parts) {
    const site = sites.find(one => one.site === part.site)
    if (site !== undefined) round.parts.set(part.site, { part, peer: site.peer, gatewayHost: site.gatewayHost, grow: false })
  }
  work.round = round
  turn.progress(record, `asking ${placed.parts.map(p => `${p.site} for ${p.nodes.length} nodes${p.volumes.length === 0 ? '' : ` and ${p.volumes.length} volumes`}`).join(', ')}`)
  // Not worth a sync before the requests leave: whoever is forgotten in a crash has a hold at most.
  const asked = turn.keep({ ...record, asked: alsoAsked(record.asked, [...round.parts].map(([site, { peer }]) => ({ site, peer }))) })
  for (const [site, { part, peer }] of round.parts) turn.call(asked, 'request', { site, peer }, id, requestFor(asked, part, id, turn.now), REQUEST_DEADLINE_MS)
}

/** Nobody holds anything yet: a cluster that is to begin as early as it can gets its term. */
function beginAt (turn: Turn, record: MasterRecord, startMs: number): MasterRecord {
  if (startMs === record.startMs) return record
  if (startMs > turn.now) turn.progress(record, `the earliest start that sites know of is ${new Date(startMs).toISOString()}`)
  return turn.save({ ...record, startMs, endMs: startMs + record.spec.termMs })
}

export const alsoAsked = (asked: readonly Asked[], more: readonly Asked[]): Asked[] =>
  [...new Map([...asked, ...more].map(one => [one.peer, one])).values()]

/** What was offered must be what was asked: a gateway's answer is input like any other. */
export function offerMismatch (part: SitePart, offer: Offer): string | null {
  const wanted = [...part.nodes.map(n => `node ${n.name}`), ...part.volumes.map(v => `volume ${v.name}`), ...(part.frontend ? ['frontend frontend'] : [])].sort()
  const got = offer.held.filter(h => h.kind !== 'segment' && h.kind !== 'quota').map(h => `${h.kind} ${h.name}`).sort()
  return offer.site === part.site && JSON.stringify(wanted) === JSON.stringify(got) ? null : `site ${part.site} offered something else than was asked`
}

/** Whether an offer puts more nodes on a host than the cluster allows, with those that are there; null when not. */
function crowdedHost ({ spec: { placement }, offers }: MasterRecord, offer: Offer): string | null {
  const most = placement?.maxNodesPerHost
  if (most === undefined) return null
  const held = [...offers.filter(one => one.site === offer.site).flatMap(one => one.held), ...offer.held]
  const crowded = [...nodesByHost(held)].find(([, nodes]) => nodes > most)
  return crowded === undefined ? null : `site ${offer.site} offered ${crowded[1]} nodes on host ${crowded[0]}, ${most} ${most === 1 ? 'is' : 'are'} the most that the cluster allows`
}

/** What an offer asks above what the cluster may cost; null: nothing. The own site costs nothing, an earlier release says no price. */
function dearOffer ({ spec: { placement }, masterSite }: MasterRecord, { site, priceMilli }: Offer): string | null {
  const most = placement?.maxPriceMilli
  return most === undefined || priceMilli === undefined || priceMilli <= most || site === masterSite ? null : `site ${site} asks ${priceMilli / 1000} per vCPU and hour, ${most / 1000} is the most that the cluster allows`
}

/** Every release holds what it offers for `HOLD_TTL_MS`: with less, the user of what is held would be left no time, by one site of all. */
function tooShort ({ hold }: MasterRecord, { grow }: { grow: boolean }, { site }: Offer, ttlMs: number): string | null {
  return hold === undefined || grow || ttlMs >= Math.min(hold.ttlMs, HOLD_TTL_MS) ? null : `site ${site} would hold it for ${ttlMs} ms, which leaves its user no time`
}

/** Takes an offer into the round, or what speaks against it. */
export function takeOffer (record: MasterRecord, round: Round, call: Call, offer: Offer, more: (offer: Offer) => string | null = () => null): void {
  const asked = round.parts.get(call.site)
  if (asked === undefined) return
  const local = record.spec.localCidr !== undefined
  if (local && ((offer.localSegmentId ?? 0) === 0 || !(asked.grow || offer.held.some(isLocal)))) {
    takeRefusal(round, call, new MusubiError('NO_LOCAL_SEGMENT', `site ${call.site} offered no site-local segment`, { hint: 'its gateway is of a release without them: have it upgraded, or leave spec.network.local out' }))
    return
  }
  // What is added to a cluster later is held as long as anything else.
  const ttlMs = holdTimeOf(offer, asked.grow ? undefined : record.hold?.ttlMs)
  const crowded = crowdedHost(record, offer)
  if (crowded !== null) {
    takeRefusal(round, call, new MusubiError('ANTI_AFFINITY', crowded, { hint: 'its gateway is of a release that knows no limit, or of another view: leave the site out (notSites), or spec.placement.maxNodesPerHost' }))
    return
  }
  const dear = dearOffer(record, offer)
  if (dear !== null) {
    takeRefusal(round, call, new MusubiError('PRICE_ABOVE', dear, { hint: 'it has a price of its own for this site, or a new one: allow a higher spec.placement.maxPrice, or leave the site out (notSites)' }))
    return
  }
  const problem = offerMismatch(asked.part, offer) ?? (ttlMs === null ? `the offer of site ${call.site} is held for no time at all` : tooShort(record, asked, offer, ttlMs) ?? more(offer))
  if (problem !== null || ttlMs === null) {
    takeRefusal(round, call, new MusubiError('BAD_OFFER', problem ?? '', { hint: 'its agent may be of another release' }))
  } else {
    round.held.set(call.site, { offer, validUntilMs: validUntil(call.sentMs, ttlMs) })
  }
}

/** Counted from when the request was sent, less what both clocks may be off by (lease-protocol.md). */
export const validUntil = (sentMs: number, ttlMs: number): number => Math.floor(sentMs + ttlMs * (1 - HOLD_MARGIN))

export function takeRefusal (round: Round, call: Call, error: MusubiError): void {
  const asked = round.parts.get(call.site)
  if (asked !== undefined) round.refused.set(call.site, refusedBy(`${call.site} (${asked.gatewayHost})`, error))
}

export const isAnswered = (round: Round): boolean => round.held.size + round.refused.size >= round.parts.size

/** Sites whose hold does not count any more. */
export const staleHolds = (round: Round, now: number): string[] => [...round.held].filter(([, { validUntilMs }]) => now >= validUntilMs).map(([site]) => site)

export const firstEnd = (round: Round): number => Math.min(...[...round.held.values()].map(one => one.validUntilMs))

/** When all have answered: the decision, another placement, or the end. */
export function settle (turn: Turn, record: MasterRecord): void {
  const { round } = turn.work(record.id)
  if (round === null || !isAnswered(round)) return
  if (round.refused.size === 0) decide(turn, record, round)
  else refused(turn, record, round)
}

function decide (turn: Turn, record: MasterRecord, round: Round): void {
  const stale = staleHolds(round, turn.now)
  if (stale.length > 0) { fail(turn, record, heldTooShort(stale)); return }
  const offers = [...round.parts.keys()].flatMap(site => round.held.get(site)?.offer ?? [])
  // Who was asked in vain and never answered has a hold at most, which ends by itself: a deletion must not wait for it.
  const asked = offers.map(offer => ({ site: offer.site, peer: offer.gateway.peer }))
  const { hold } = record
  if (hold !== undefined) {
    const held = { ...hold, endsMs: Math.min(firstEnd(round), record.endMs) }
    turn.move(record, 'negotiating', 'offer', { offers, asked, hold: held }, `${offers.length} sites hold everything, to be accepted until ${new Date(acceptUntilMs(held)).toISOString()}`)
    return
  }
  turn.work(record.id).round = null
  turn.move(record, 'negotiating', 'decide', {
    offers, asked, decidedMs: turn.now, commitByMs: firstEnd(round)
  }, `${offers.length} sites hold everything`)
}

function refused (turn: Turn, record: MasterRecord, round: Round): void {
  const work = turn.work(record.id)
  const ownAgain = record.earliest !== undefined || !work.inTime
  for (const [site, refusal] of round.refused) {
    const full = refusal.code === 'NO_CAPACITY'
    // Somebody was faster, and with what that one has got another start may be the earliest; or it is booked later in the time that is wanted.
    // Who refuses again what its calendar shows to be free has another bound, or is not to be believed: others may do.
    const again = full && site !== turn.machine.site && work.full.has(site)
    if (full) work.full.add(site)
    if (!full || again || (record.earliest === undefined && !(site === turn.machine.site && ownAgain))) work.excluded.add(site)
    work.inTime ||= full
    work.lastCode = refusal.code
    work.refusals.push(refusal.text)
    turn.progress(record, `refused by ${refusal.text}`)
  }
  const own = round.refused.get(turn.machine.site)
  // The master's own site cannot be left out: it carries the frontend.
  if (own !== undefined && own.code !== 'NO_CAPACITY') { fail(turn, record, asError(own)); return }
  const rounds = record.earliest === undefined ? ROUNDS : MAX_EARLIEST_ROUNDS
  if ((own !== undefined && !ownAgain) || ++work.rounds >= rounds) { fail(turn, record, allRefused(record.name, work.refusals, work.nearest)); return }
  // By its offer: one that comes late must not end what a later round, or growth, has got there. Who gave
  // none has let go by itself, or has a hold that ends by itself; it is not asked again.
  const offers = record.asked.flatMap(asked => {
    const offerId = round.held.get(asked.site)?.offer?.offerId
    return offerId === undefined ? [] : [{ asked, offerId }]
  })
  for (const { asked, offerId } of offers) turn.call(record, 'give-up', asked, round.ref, releaseFor(record, 'another site refused', { offerId, leaseIds: [] }), GIVE_UP_DEADLINE_MS)
  if (offers.length > 0) return
  work.round = null
  look(turn, record)
}

/** An offer that nobody waits for any more, e.g. after a deletion: given back rather than left to run out. */
export function declineLate (turn: Turn, record: MasterRecord, { site, peer, ref }: Call, { offerId }: Offer): void {
  turn.call(record, 'give-up', { site, peer }, ref, releaseFor(record, 'nobody waits for it any more', { offerId, leaseIds: [] }), GIVE_UP_DEADLINE_MS)
}

/**
 * An offer that was refused, e.g. for its price: what it holds is given back at once, not left to run out. By its name, and
 * only under one of its own: nothing that the cluster has there must end by it.
 */
export function giveBack (turn: Turn, record: MasterRecord, round: Round, { site, peer, ref }: Call, { offerId }: Offer): void {
  if (!round.refused.has(site) || offerId === '' || [...record.offers, ...record.amendment?.offers ?? []].some(offer => offer.offerId === offerId) || record.amendment?.id === offerId) return
  turn.call(record, 'give-up', { site, peer }, ref, releaseFor(record, 'the offer was refused', { offerId, leaseIds: [] }), GIVE_UP_DEADLINE_MS)
}

const asError = ({ code, text, hint }: Refused): MusubiError => new MusubiError(code, text, hint === '' ? {} : { hint })

/** A site has let go of the last round, or will not say so: with the last of them the next round begins. */
export function gaveUp (turn: Turn, record: MasterRecord, call: Call, confirmed: boolean): void {
  const work = turn.work(record.id)
  if (work.round?.ref !== call.ref) return
  // An offer that was refused is given back at once: others are still to answer.
  if (!isAnswered(work.round)) {
    if (confirmed) turn.keep({ ...record, asked: record.asked.filter(one => one.peer !== call.peer) })
    return
  }
  const current = confirmed ? turn.keep({ ...record, asked: record.asked.filter(one => one.peer !== call.peer) }) : record
  if ([...work.tasks].some(([key, task]) => key.startsWith('give-up ') && task.busy)) return
  work.round = null
  look(turn, current)
}
