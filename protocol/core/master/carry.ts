/** From the decision to a cluster that is active: commits, document, copies, activation. */
import { missingReceipts } from '../document.ts'
import { MusubiError } from '../errors.ts'
import { ACTIVATE_TTL_MS } from '../limits.ts'
import type { ClusterDocument, Offer, Receipt, Secret } from '../messages.ts'
import { type Refused, activateFor, commitFor, notActivated, notCommitted, refusedBy } from './say.ts'
import { type Call, type Purpose, type Turn, type Work, membersOf, attempt } from './machine.ts'
import { fail } from './negotiation/negotiate.ts'
import { ACTIVATE_DEADLINE_MS, ACTIVATE_PATIENCE_MS, COMMIT_DEADLINE_MS, LAST_TRY_MS } from './pace.ts'
import type { Asked, MasterRecord } from './record.ts'

export const isBusy = (work: Work, purpose: Purpose): boolean => [...work.tasks].some(([key, task]) => task.busy && key.startsWith(`${purpose} `))

const ranOut: Refused = { code: 'UNREACHABLE', text: 'its hold ran out before it had committed', hint: 'ask again' }

/** Commits go out while all holds count; they are idempotent, so one that got lost is sent again. */
export function commitAll (turn: Turn, record: MasterRecord): void {
  const work = turn.work(record.id)
  for (const offer of record.offers) {
    if (work.receipts.has(offer.site) || work.problems.size > 0) continue
    if (turn.now >= record.commitByMs) work.problems.set(offer.site, ranOut)
    else attempt(turn, record, 'commit', { site: offer.site, peer: offer.gateway.peer }, offer.offerId, () => commitFor(record, offer.offerId), commitDeadlineMs(turn.now, record.commitByMs))
  }
  if (work.problems.size > 0 && !isBusy(work, 'commit')) fail(turn, record, notCommitted(record, work.problems))
}

export const commitDeadlineMs = (now: number, untilMs: number): number => Math.min(COMMIT_DEADLINE_MS, Math.max(LAST_TRY_MS, Math.ceil(untilMs - now)))

/** What an offer's receipts must be: one for each lease of it; of others it cannot speak. */
export function receiptsOf (offer: Offer, receipts: readonly Receipt[]): { own: Receipt[], missing: string[] } {
  const own = offer.held.flatMap(held => receipts.find(receipt => receipt.leaseId === held.leaseId && receipt.host === held.host) ?? [])
  const missing = offer.held.filter(held => !own.some(receipt => receipt.leaseId === held.leaseId)).map(held => `${held.kind} ${held.name} at ${held.host}`)
  return { own, missing }
}

export function committed (turn: Turn, record: MasterRecord, call: Call, receipts: readonly Receipt[]): void {
  const work = turn.work(record.id)
  const offer = record.offers.find(one => one.site === call.site && one.offerId === call.ref)
  if (offer === undefined || work.receipts.has(offer.site)) return
  const { own, missing } = receiptsOf(offer, receipts)
  if (missing.length > 0) {
    work.problems.set(call.site, { code: 'BAD_RECEIPT', text: `no receipt for ${missing.join(', ')}`, hint: '' })
    return
  }
  work.receipts.set(offer.site, own)
  turn.progress(record, `${call.site} committed`)
  if (work.problems.size > 0 || !record.offers.every(one => work.receipts.has(one.site))) return
  const all = record.offers.flatMap(one => work.receipts.get(one.site) ?? [])
  const negotiateMs = Math.round(turn.now - (work.startedMs === 0 ? record.createdMs : work.startedMs))
  const next = turn.move(record, 'committing', 'committed', { receipts: all, negotiateMs }, `${all.length} leases at ${record.offers.length} sites committed in ${negotiateMs} ms`)
  turn.effects.push({ effect: 'prepare', record: next })
}

/** @param untilMs when trying again is of no use any more */
export function refusedHere (turn: Turn, record: MasterRecord, call: Call, error: MusubiError, untilMs: number): void {
  const final = !error.retryable || turn.now + LAST_TRY_MS >= untilMs
  if (final) turn.work(record.id).problems.set(call.site, refusedBy('', error))
}

/** What is wrong with a document before it leaves. */
export function documentProblem (record: MasterRecord, document: ClusterDocument, receipts: readonly Receipt[]): MusubiError | null {
  if (document.id !== record.id) return new MusubiError('INTERNAL', `the document of cluster ${record.name} is of ${document.id}`)
  const missing = missingReceipts(document, receipts)
  return missing.length === 0 ? null : new MusubiError('BAD_RECEIPT', `cluster ${record.name}: no receipt for ${missing.join(', ')}`)
}

export function prepared (turn: Turn, record: MasterRecord, document: ClusterDocument, secrets: readonly Secret[]): void {
  if (record.document !== null) return
  const problem = documentProblem(record, document, record.receipts)
  if (problem !== null) { fail(turn, record, problem); return }
  const next = turn.save({ ...record, document, secrets })
  turn.effects.push({ effect: 'copy', record: next })
}

/** @param copy what the other hosts keep: an answer may come late, and be about what the record was before */
export function copied (turn: Turn, record: MasterRecord, copy: MasterRecord, copies: number): void {
  if (record.document === null || copy.document?.version !== record.document.version || copy.epoch !== record.epoch) return
  const starts = record.startMs > turn.now ? `; it is reserved, and starts at ${new Date(record.startMs).toISOString()}` : ''
  turn.move(record, 'preparing', 'prepared', {}, `its document is kept by ${copies} other ${copies === 1 ? 'host' : 'hosts'} of the site${starts}`)
}

export function prepareAgain (turn: Turn, record: MasterRecord): void {
  turn.effects.push(record.document === null ? { effect: 'prepare', record } : { effect: 'copy', record })
}

const activateFromMs = (record: MasterRecord): number => Math.max(record.decidedMs, record.startMs)
/** A master that was away itself gets one more try: its lenders know what has ended. */
const activateUntilMs = (record: MasterRecord, work: Work): number => Math.max(activateFromMs(record) + ACTIVATE_PATIENCE_MS, work.sinceMs + ACTIVATE_DEADLINE_MS)

export function waitForDocument (turn: Turn, record: MasterRecord): void {
  if (turn.now <= Math.max(activateFromMs(record), turn.work(record.id).sinceMs) + ACTIVATE_TTL_MS) return
  fail(turn, record, new MusubiError('DEADLINE', `cluster ${record.name}: its document was not ready before its leases ran out`, { retryable: true, hint: 'ask again' }))
}

export function activateAll (turn: Turn, record: MasterRecord): void {
  const work = turn.work(record.id)
  const { document } = record
  if (document === null) { fail(turn, record, new MusubiError('INTERNAL', 'a cluster without a document cannot be activated')); return }
  const untilMs = activateUntilMs(record, work)
  for (const member of membersOf(record)) {
    if (work.activated.has(member.site) || work.problems.size > 0) continue
    if (turn.now >= untilMs) work.problems.set(member.site, { code: 'UNREACHABLE', text: 'it did not in time', hint: 'ask again' })
    else activateAt(turn, record, 'activate', member, document, record.receipts, untilMs)
  }
  if (work.problems.size > 0 && !isBusy(work, 'activate')) fail(turn, record, notActivated(work.problems))
}

export function activateAt (turn: Turn, record: MasterRecord, purpose: Purpose, member: Asked, document: ClusterDocument, receipts: readonly Receipt[], untilMs = Number.POSITIVE_INFINITY): void {
  const deadlineMs = Math.min(ACTIVATE_DEADLINE_MS, Math.max(LAST_TRY_MS, untilMs - turn.now))
  attempt(turn, record, purpose, member, String(document.version), () => activateFor(record, member.site, document, receipts), deadlineMs)
}

export function activated (turn: Turn, record: MasterRecord, call: Call): void {
  const work = turn.work(record.id)
  work.activated.add(call.site)
  if (work.problems.size > 0 || !record.offers.every(offer => work.activated.has(offer.site))) return
  turn.move(record, 'activating', 'activated', {}, '')
}

export const activateProblem = (turn: Turn, record: MasterRecord, call: Call, error: MusubiError): void => {
  refusedHere(turn, record, call, error, activateUntilMs(record, turn.work(record.id)))
}
