/** Changes to a cluster that runs: held at all its lenders, decided on disk, committed; or given up everywhere. */
import { ConflictError, MusubiError, NotFoundError, UnreachableError } from '../../errors.ts'
import { HOLD_TTL_MS, MAX_NODES_PER_CLUSTER, MAX_TERM_MS, MIN_TERM_MS } from '../../limits.ts'
import type { ClusterDocument, Offer, Receipt } from '../../messages.ts'
import { allRefused, commitFor, extendFor, heldTooShort, notActivated, notCommitted, placeError, refusedBy, releaseFor, requestFor } from '../say.ts'
import { activateAt, commitDeadlineMs, documentProblem, isBusy, receiptsOf } from '../carry.ts'
import type { KnownSite } from '../events.ts'
import { documentSource, mergeOffers, nextVersion, placeGrowth, without } from './growth.ts'
import { type Call, type Round, type Turn, membersOf, attempt } from '../machine.ts'
import { alsoAsked, firstEnd, isAnswered, staleHolds, takeOffer, takeRefusal, validUntil } from '../negotiation/negotiate.ts'
import { ACTIVATE_DEADLINE_MS, ACTIVATE_PATIENCE_MS, ADOPTED_PATIENCE_MS, LAST_TRY_MS, RELEASE_DEADLINE_MS, REQUEST_DEADLINE_MS } from '../pace.ts'
import type { Asked, ClusterAmendment, Dropped, MasterRecord } from '../record.ts'
import { holdTimeOf } from '../../verify/request.ts'

export const answer = (turn: Turn, clusterId: string, id: string, error: MusubiError | null): void => { turn.effects.push({ effect: 'amended', clusterId, id, error }) }

/** A change that begins so long before the start of a reservation is done, or given up, by then. */
const QUIET_BEFORE_START_MS = REQUEST_DEADLINE_MS + HOLD_TTL_MS

/** A cluster whose leases are all committed, and which is some time from its start. */
export const isReserved = (record: Pick<MasterRecord, 'state' | 'startMs'>, now: number): boolean => record.state === 'activating' && now < record.startMs

/**
 * What speaks against a change whatever lenders say.
 *
 * @param now given: the change may be made to a reservation too
 */
export function obstacle (record: MasterRecord | undefined, clusterId: string, now?: number): MusubiError | null {
  if (record === undefined) return new NotFoundError(`there is no cluster ${clusterId} here`)
  if (now !== undefined && isReserved(record, now)) {
    if (now > record.startMs - QUIET_BEFORE_START_MS) return new MusubiError('NOT_READY', `cluster ${record.name} is about to start: it cannot be changed before it runs`, { retryable: true, hint: 'try again when it runs: musubi cluster show' })
    return record.amendment === null ? null : new ConflictError(`cluster ${record.name} is being changed already`, 'wait until that is done, then try again')
  }
  if (record.state === 'activating') return new ConflictError(`cluster ${record.name} starts at ${new Date(record.startMs).toISOString()}: before that its nodes cannot be changed`, 'delete the reservation and ask anew, or wait for its start')
  if (record.state !== 'active') return new ConflictError(`cluster ${record.name} is ${record.state}: it cannot be changed`)
  if (record.amendment !== null) return new ConflictError(`cluster ${record.name} is being changed already`, 'wait until that is done, then try again')
  return null
}

function begin (turn: Turn, record: MasterRecord, kind: ClusterAmendment['kind'], id: string, endMs: number, count: number): MasterRecord {
  const work = turn.work(record.id)
  work.problems.clear()
  work.amendReceipts.clear()
  work.amendActivated.clear()
  work.amendReady = false
  return turn.save({ ...record, amendment: { kind, id, state: 'asking', endMs, count, offers: [], receipts: [], commitByMs: 0, document: null } })
}

export function extend (turn: Turn, clusterId: string, endMs: number, id: string): void {
  const record = turn.record(clusterId)
  const problem = obstacle(record, clusterId, turn.now)
  if (record === undefined || problem !== null) { answer(turn, clusterId, id, problem); return }
  const term = endMs - record.startMs
  if (!Number.isSafeInteger(endMs) || endMs <= record.endMs || term > MAX_TERM_MS || term < MIN_TERM_MS) {
    answer(turn, clusterId, id, new MusubiError('INVALID_INPUT', `cluster ${record.name} ends at ${new Date(record.endMs).toISOString()}: a new end must be later, and within ${MAX_TERM_MS / 86_400_000} days of its start`))
    return
  }
  const asking = begin(turn, record, 'extend', id, endMs, document(record).nodes.length)
  const nothing = { nodes: [], volumes: [], frontend: false }
  turn.work(clusterId).round = {
    ref: id, held: new Map(), refused: new Map(),
    parts: new Map(record.offers.map(offer => [offer.site, { part: { site: offer.site, ...nothing }, peer: offer.gateway.peer, gatewayHost: offer.gateway.host, grow: false }]))
  }
  turn.progress(record, `asking ${record.offers.map(offer => offer.site).join(', ')} for leases until ${new Date(endMs).toISOString()}`)
  for (const member of membersOf(record)) turn.call(asking, 'extend', member, id, extendFor(asking, id, endMs, turn.now), REQUEST_DEADLINE_MS)
}

/** Member sites that have not confirmed the last change: a host that still knows a node that went takes no other of its name. */
function unsettled (record: MasterRecord | undefined): MusubiError | null {
  const open = (record?.offers ?? []).map(offer => offer.site).filter(site => record?.behind.includes(site) === true || record?.dropped.some(part => part.site === site) === true)
  return open.length === 0 ? null : new MusubiError('NOT_READY', `cluster ${record?.name ?? ''}: ${open.join(', ')} ${open.length === 1 ? 'has' : 'have'} not confirmed the last change yet`, { retryable: true, hint: 'try again in some seconds' })
}

export function grow (turn: Turn, clusterId: string, count: number, id: string): void {
  const record = turn.record(clusterId)
  const problem = obstacle(record, clusterId) ?? unsettled(record)
  if (record === undefined || problem !== null) { answer(turn, clusterId, id, problem); return }
  const nodes = document(record).nodes.length
  if (!Number.isSafeInteger(count) || count <= nodes || count > MAX_NODES_PER_CLUSTER) {
    answer(turn, clusterId, id, new MusubiError('INVALID_INPUT', `cluster ${record.name} has ${nodes} nodes: it can grow to ${MAX_NODES_PER_CLUSTER} at most`))
    return
  }
  begin(turn, record, 'grow', id, record.endMs, count)
  turn.work(clusterId).looking = true
  turn.effects.push({ effect: 'look', clusterId, calendars: true, growth: true, without: [] })
}

/** Asks sites for the nodes of a growth. @param id fresh, for idempotency keys */
export function startGrowth (turn: Turn, record: MasterRecord, amendment: ClusterAmendment, known: readonly KnownSite[], id: string): void {
  const work = turn.work(record.id)
  work.looking = false
  const members = new Map(membersOf(record).map(one => [one.site, one.peer]))
  // A member site is asked at the gateway that has its leases, whichever of its gateways is in view.
  const sites = known.filter((site, i) => known.findIndex(one => one.site === site.site) === i).map(site => ({ ...site, peer: members.get(site.site) ?? site.peer }))
  // A site that has not confirmed that it let go may yet be told so: that must not end what is new there.
  const settled = sites.filter(site => !record.dropped.some(part => part.site === site.site))
  const placed = placeGrowth(record, amendment.count - document(record).nodes.length, settled)
  if ('refusal' in placed) { reject(turn, record, placeError(record.name, placed.refusal, [], '')); return }
  const round: Round = { ref: id, parts: new Map(), held: new Map(), refused: new Map() }
  for (const part of placed.parts) {
    const site = sites.find(one => one.site === part.site)
    if (site !== undefined) round.parts.set(part.site, { part, peer: site.peer, gatewayHost: site.gatewayHost, grow: members.has(part.site) })
  }
  work.round = round
  turn.progress(record, `asking ${placed.parts.map(p => `${p.site} for ${p.nodes.length} more nodes`).join(', ')}`)
  for (const [site, { part, peer, grow: more }] of round.parts) turn.call(record, 'request', { site, peer }, id, requestFor(record, part, id, turn.now, more, turn.now), REQUEST_DEADLINE_MS)
}

/** An answer to a question of the round under way. */
export function offered (turn: Turn, record: MasterRecord, round: Round, call: Call, reply: Offer | { ttlMs: number }): void {
  if ('held' in reply) {
    takeOffer(record, round, call, reply, offer => {
      const before = record.offers.find(one => one.site === offer.site)
      return before === undefined || (before.segmentId === offer.segmentId && (before.localSegmentId ?? 0) === (offer.localSegmentId ?? 0)) ? null : `site ${offer.site} offered another segment id than the cluster has there`
    })
  } else {
    const ttlMs = holdTimeOf(reply)
    if (ttlMs === null) takeRefusal(round, call, new MusubiError('BAD_OFFER', 'it is held for no time at all'))
    else round.held.set(call.site, { offer: null, validUntilMs: validUntil(call.sentMs, ttlMs) })
  }
}

/** When all have answered: the decision, or the end of the change. */
export function settleAmendment (turn: Turn, record: MasterRecord, amendment: ClusterAmendment): void {
  const { round } = turn.work(record.id)
  if (round === null || !isAnswered(round)) return
  const stale = staleHolds(round, turn.now)
  if (round.refused.size > 0) reject(turn, record, oneOf(record, round))
  else if (stale.length > 0) reject(turn, record, heldTooShort(stale))
  else {
    turn.work(record.id).round = null
    const offers = [...round.parts.keys()].flatMap(site => round.held.get(site)?.offer ?? [])
    turn.save({
      ...record, asked: alsoAsked(record.asked, offers.map(offer => ({ site: offer.site, peer: offer.gateway.peer }))),
      amendment: { ...amendment, state: 'committing', offers, commitByMs: firstEnd(round) }
    })
    copyExtension(turn, record.id)
  }
}

/** An extension counts as soon as it is committed: who might have to end it, one way or the other, knows of it before. */
export function copyExtension (turn: Turn, clusterId: string): void {
  const record = turn.record(clusterId)
  if (record?.amendment?.kind === 'extend' && record.amendment.state === 'committing') turn.effects.push({ effect: 'copy', record })
}

/**
 * An extension that a master decided which is lost since. Its holds have run out, so nobody commits it
 * any more: it stands when all lenders say that they have, and is taken back when one has not.
 */
function settleInherited (turn: Turn, record: MasterRecord, amendment: ClusterAmendment): void {
  const { contacts, sinceMs } = turn.work(record.id)
  const members = membersOf(record)
  const told = members.flatMap(({ site }) => contacts.get(site) ?? []).filter(contact => contact.heardMs > 0)
  if (told.some(contact => !(contact.endMs >= amendment.endMs))) reject(turn, record, new ConflictError('its former master was lost before all lenders had committed the extension'))
  else if (told.length === members.length) finish(turn, { ...record, endMs: amendment.endMs }, amendment, `its leases run until ${new Date(amendment.endMs).toISOString()}`)
  else if (turn.now > sinceMs + ADOPTED_PATIENCE_MS) reject(turn, record, new UnreachableError('not all lenders say whether they have committed the extension of its former master'))
}

/** Whether what has just been copied is what this change waits for: the answer to an earlier copy may come after the next one has left. */
export function isCopied ({ kind, state, id, document: next }: ClusterAmendment, copy: ClusterAmendment | null): boolean {
  if (copy?.id !== id || copy.state !== state) return false
  return kind === 'extend' ? state === 'committing' : state === 'activating' && next !== null && copy.document?.version === next.version
}

/** One site alone is quoted with its own code: a policy's refusal is told as such. */
function oneOf (record: MasterRecord, round: Round): MusubiError {
  const refusals = [...round.refused.values()]
  const [first, ...others] = refusals
  const all = allRefused(record.name, refusals.map(one => one.text))
  return first === undefined || others.length > 0 ? all : new MusubiError(first.code, all.message, first.hint === '' ? {} : { hint: first.hint })
}

/** What is committed where for the change. */
const commitsOf = (record: MasterRecord, amendment: ClusterAmendment): Array<Asked & { offerId: string, offer: Offer | null }> => amendment.kind === 'extend'
  ? membersOf(record).map(member => ({ ...member, offerId: amendment.id, offer: null }))
  : amendment.offers.map(offer => ({ site: offer.site, peer: offer.gateway.peer, offerId: offer.offerId, offer }))

/** What is to be called for the change now. */
export function amendOn (turn: Turn, record: MasterRecord, amendment: ClusterAmendment): void {
  const work = turn.work(record.id)
  if (amendment.state === 'committing' && amendment.commitByMs === 0) settleInherited(turn, record, amendment)
  else if (amendment.state === 'committing') {
    for (const { site, peer, offerId } of commitsOf(record, amendment)) {
      if (work.amendReceipts.has(site) || work.problems.size > 0) continue
      if (turn.now >= amendment.commitByMs) work.problems.set(site, { code: 'UNREACHABLE', text: 'its hold ran out before it had committed', hint: '' })
      else if (amendment.kind === 'grow' || work.amendReady) attempt(turn, record, 'amend-commit', { site, peer }, offerId, () => commitFor(record, offerId), commitDeadlineMs(turn.now, amendment.commitByMs))
    }
    if (work.problems.size > 0 && !isBusy(work, 'amend-commit')) reject(turn, record, notCommitted({ name: record.name }, work.problems))
  } else if (amendment.state === 'activating' && amendment.document !== null && work.amendReady) {
    const untilMs = activateUntilMs(turn, record, amendment)
    const ownIsLeft = !work.amendActivated.has(record.masterSite)
    for (const member of growthMembers(record, amendment)) {
      if (work.amendActivated.has(member.site) || work.problems.size > 0) continue
      // A new site has heard of no other master: the own one, whose anchor would know, goes first.
      if (ownIsLeft && member.site !== record.masterSite) continue
      if (turn.now >= untilMs) work.problems.set(member.site, { code: 'UNREACHABLE', text: 'it did not in time', hint: '' })
      else activateAt(turn, record, 'amend-activate', member, amendment.document, [...record.receipts, ...amendment.receipts], untilMs)
    }
    if (work.problems.size > 0 && !isBusy(work, 'amend-activate')) reject(turn, record, notActivated(work.problems))
  } else if (amendment.state === 'activating' && turn.now > activateUntilMs(turn, record, amendment)) {
    reject(turn, record, new MusubiError('DEADLINE', `cluster ${record.name}: its next document was not ready in time`, { retryable: true }))
  }
}

const growthMembers = (record: MasterRecord, amendment: ClusterAmendment): Asked[] => membersOf({ ...record, offers: mergeOffers(record.offers, amendment.offers) })

const activateUntilMs = (turn: Turn, record: MasterRecord, amendment: ClusterAmendment): number =>
  Math.max(amendment.commitByMs + ACTIVATE_PATIENCE_MS, turn.work(record.id).sinceMs + ACTIVATE_DEADLINE_MS)

export function amendCommitted (turn: Turn, record: MasterRecord, amendment: ClusterAmendment, call: Call, receipts: readonly Receipt[]): void {
  const work = turn.work(record.id)
  const commits = commitsOf(record, amendment)
  const commit = commits.find(one => one.site === call.site && one.offerId === call.ref)
  if (commit === undefined || amendment.state !== 'committing' || work.amendReceipts.has(call.site)) return
  // Of an extension the leases have receipts already; that it is answered says that all is longer now.
  const { own, missing } = commit.offer === null ? { own: [], missing: [] } : receiptsOf(commit.offer, receipts)
  if (missing.length > 0) { work.problems.set(call.site, { code: 'BAD_RECEIPT', text: `no receipt for ${missing.join(', ')}`, hint: '' }); return }
  work.amendReceipts.set(call.site, own)
  if (work.problems.size > 0 || !commits.every(one => work.amendReceipts.has(one.site))) return
  if (amendment.kind === 'extend') {
    finish(turn, { ...record, endMs: amendment.endMs }, amendment, `its leases run until ${new Date(amendment.endMs).toISOString()}`)
  } else {
    const next = turn.save({ ...record, amendment: { ...amendment, state: 'activating', receipts: commits.flatMap(one => work.amendReceipts.get(one.site) ?? []) } })
    work.sinceMs = turn.now
    turn.effects.push({ effect: 'prepare', record: next })
  }
}

export function amendPrepared (turn: Turn, record: MasterRecord, amendment: ClusterAmendment, next: ClusterDocument): void {
  if (amendment.state !== 'activating' || amendment.document !== null) return
  const problem = documentProblem(record, next, documentSource(record).receipts)
  if (problem !== null) { reject(turn, record, problem); return }
  const saved = turn.save({ ...record, amendment: { ...amendment, document: next } })
  turn.effects.push({ effect: 'copy', record: saved })
}

export function amendActivated (turn: Turn, record: MasterRecord, amendment: ClusterAmendment, call: Call): void {
  const { amendActivated: done, problems } = turn.work(record.id)
  if (amendment.document === null || call.ref !== String(amendment.document.version)) return
  done.add(call.site)
  if (problems.size > 0 || !growthMembers(record, amendment).every(member => done.has(member.site))) return
  const { spec, offers, receipts } = documentSource(record)
  finish(turn, { ...record, spec, offers, receipts, document: amendment.document, behind: [] }, amendment, `it has ${amendment.count} nodes`)
}

export function amendProblem (turn: Turn, record: MasterRecord, amendment: ClusterAmendment, call: Call, error: MusubiError): void {
  const untilMs = call.purpose === 'amend-commit' ? amendment.commitByMs : activateUntilMs(turn, record, amendment)
  if (!error.retryable || turn.now + LAST_TRY_MS >= untilMs) turn.work(record.id).problems.set(call.site, refusedBy('', error))
}

function finish (turn: Turn, record: MasterRecord, amendment: ClusterAmendment, what: string): void {
  const next = turn.save({ ...record, amendment: null })
  turn.effects.push({ effect: 'copy', record: next })
  turn.note('cluster.amended', `${record.name}: ${what}`, record.name)
  answer(turn, record.id, amendment.id, null)
}

/** The change is given up: every site that may hold something of it is told, until it has confirmed. */
export function reject (turn: Turn, record: MasterRecord, error: MusubiError): void {
  const { amendment } = record
  if (amendment === null) return
  const { round } = turn.work(record.id)
  const asked = [...round?.parts ?? []].map(([site, { peer }]) => ({ site, peer }))
  const offerIds = new Map(amendment.offers.map(offer => [offer.site, offer.offerId]))
  const targets = amendment.kind === 'extend' ? membersOf(record) : amendment.offers.length === 0 ? asked : commitsOf(record, amendment)
  const members = new Set(record.offers.map(offer => offer.site))
  const dropped = targets.flatMap(({ site, peer }): Dropped[] => {
    const offer = round?.held.get(site)?.offer
    const offerId = amendment.kind === 'extend' ? amendment.id : offerIds.get(site) ?? offer?.offerId ?? ''
    // Whoever never answered has a hold at most, which ends by itself; a release of everything could end what follows.
    return offerId === '' ? [] : [{ site, peer, offerId, leaseIds: [], endMs: amendment.state === 'asking' ? record.endMs : amendment.endMs }]
  })
  turn.work(record.id).round = null
  const given = amendment.document
  turn.save({
    ...record, amendment: null, dropped: [...record.dropped, ...dropped],
    // Sites that took the larger document get the former one again, under a higher number.
    ...(given === null || record.document === null ? {} : { document: { ...record.document, version: nextVersion({ ...record, document: given }) }, behind: [...members] })
  })
  turn.note('cluster.amended', `${record.name}: not changed, ${error.message}`, record.name)
  answer(turn, record.id, amendment.id, error)
}

/** A cluster that ends, or gets another master, is not changed any more. */
export function dropAmendment (turn: Turn, record: MasterRecord, why: string): MasterRecord {
  if (record.amendment !== null) reject(turn, record, new ConflictError(why))
  return turn.record(record.id) ?? record
}

/** Ends the leases of some nodes, and of their volumes. */
export function shrink (turn: Turn, clusterId: string, nodes: readonly string[], id: string): void {
  const record = turn.record(clusterId)
  const problem = obstacle(record, clusterId)
  if (record === undefined || problem !== null) { answer(turn, clusterId, id, problem); return }
  const names = new Set(nodes)
  const unknown = nodes.filter(name => !document(record).nodes.some(node => node.name === name))
  if (unknown.length > 0 || names.size === 0 || names.size >= document(record).nodes.length) {
    answer(turn, clusterId, id, new MusubiError('INVALID_INPUT', `cluster ${record.name} ${unknown.length > 0 ? `has no node ${unknown.join(', ')}` : 'keeps at least one node, and loses at least one'}`))
    return
  }
  const { record: left, gone } = without(record, document(record), names)
  const stays = new Set(left.offers.map(offer => offer.site))
  // By name, also where all of a site goes: a release that comes late must not end what a growth gets there.
  const dropped = record.offers.flatMap(({ site, gateway, held }): Dropped[] => {
    if (!gone.has(site)) return []
    const ends = stays.has(site) ? gone.get(site) ?? [] : held.filter(one => one.kind !== 'quota')
    return [{ site, peer: gateway.peer, offerId: '', leaseIds: ends.map(one => one.leaseId), endMs: record.endMs }]
  })
  const next = turn.save({ ...left, dropped: [...record.dropped, ...dropped], behind: [...stays] })
  turn.effects.push({ effect: 'copy', record: next })
  turn.note('cluster.amended', `${record.name}: ${[...names].join(', ')} ${names.size === 1 ? 'goes' : 'go'}`, record.name)
  answer(turn, clusterId, id, null)
}

/** Releases that are open. */
export function drop (turn: Turn, record: MasterRecord): void {
  for (const part of record.dropped) {
    attempt(turn, record, 'drop', part, dropRef(part), () => releaseFor(record, 'no part of the cluster any more', part), RELEASE_DEADLINE_MS)
  }
}

/** What a master that another one has followed still lets go: leases that only this one knows of. By their end they end by themselves. */
export function dropOwn (turn: Turn, record: MasterRecord): void {
  const open = record.dropped.filter(part => turn.now <= part.endMs)
  drop(turn, open.length === record.dropped.length ? record : turn.save({ ...record, dropped: open }))
}

/** Releases that are open, and documents that sites may not have yet. */
export function tidy (turn: Turn, record: MasterRecord): void {
  drop(turn, record)
  if (record.amendment !== null || record.document === null) return
  for (const member of membersOf(record)) {
    // Not before the releases: a gateway compares a document with what it lends.
    if (!record.behind.includes(member.site) || record.dropped.some(part => part.site === member.site)) continue
    activateAt(turn, record, 'update', member, record.document, record.receipts)
  }
}

const dropRef = (part: Dropped): string => `${part.offerId} ${part.leaseIds.join(' ')}`

export function dropConfirmed (turn: Turn, record: MasterRecord, call: Call): void {
  const dropped = record.dropped.filter(part => part.site !== call.site || dropRef(part) !== call.ref)
  if (dropped.length === record.dropped.length) return
  // A site that was only asked for the change, or has nothing left, is told nothing more.
  const done = !dropped.some(part => part.site === call.site) && !record.offers.some(offer => offer.site === call.site)
  turn.save({ ...record, dropped, asked: done ? record.asked.filter(one => one.site !== call.site) : record.asked })
}

export function updated (turn: Turn, record: MasterRecord, call: Call): void {
  if (call.ref !== String(record.document?.version) || !record.behind.includes(call.site)) return
  turn.save({ ...record, behind: record.behind.filter(site => site !== call.site) })
}

function document (record: MasterRecord): ClusterDocument {
  if (record.document === null) throw new MusubiError('INTERNAL', `cluster ${record.name} is ${record.state} and has no document`)
  return record.document
}
