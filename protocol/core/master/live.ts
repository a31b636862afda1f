/** A cluster that runs, and one that is let go: keep-alives, the end of the term, releases until confirmed, adoption. */
import { describeError, type MusubiError } from '../errors.ts'
import { END_GUARD_MS } from '../lease/lease.ts'
import { KEEP_ALIVE_MS, MAX_ENDED_KEPT, MAX_TERM_MS } from '../limits.ts'
import { keepAliveFor, releaseFor } from './say.ts'
import { dropAmendment } from './changes/amend.ts'
import { alsoAsked } from './negotiation/negotiate.ts'
import { type Call, type Contact, type Turn, membersOf, nextMasterState, taskKey, attempt } from './machine.ts'
import { ADOPTED_PATIENCE_MS, ASK_OWN_MS, GIVE_UP_DEADLINE_MS, KEEP_ALIVE_DEADLINE_MS, KEEP_ENDED_MS, NEVER_ACTIVE_MS, RELEASE_DEADLINE_MS, REQUEST_DEADLINE_MS } from './pace.ts'
import { type Asked, type MasterRecord, isOver } from './record.ts'

/** Sites that a growth was to bring in, and that its former master alone has spoken to: they release nothing for this one before they have seen its grant. */
function strangers (record: MasterRecord): Asked[] {
  if (record.epoch === 1 || record.grant === null) return []
  const members = new Set(record.offers.map(offer => offer.site))
  return alsoAsked([], record.dropped.filter(({ site }) => !members.has(site)).map(({ site, peer }) => ({ site, peer })))
}

/** All that may have something of an adopted cluster: a growth that its former master has begun is given up, not forgotten. */
const heirs = (record: MasterRecord): Asked[] =>
  alsoAsked(membersOf(record), [...record.amendment?.offers.map(({ site, gateway }) => ({ site, peer: gateway.peer })) ?? [], ...record.dropped.map(({ site, peer }) => ({ site, peer }))])

/** Who does not hear from the master shows the cluster as masterless; a start in the future is confirmed by it. */
export function keepAlive (turn: Turn, record: MasterRecord): void {
  for (const member of [...membersOf(record), ...strangers(record)]) attempt(turn, record, 'keep-alive', member, '', () => keepAliveFor(record, turn.now), KEEP_ALIVE_DEADLINE_MS)
}

const contactOf = (turn: Turn, call: Call): Contact =>
  turn.work(call.clusterId).contacts.get(call.site) ?? { heardMs: 0, state: '', endMs: 0, skewMs: 0, error: '' }

/** A word, and some hosts: another site writes it. */
const MAX_STATE = 64
const MAX_NOTICE = 200
/** What moves a cursor, or hides: not in a line for people. */
const lineOf = (text: string): string => text.slice(0, MAX_NOTICE).toWellFormed().replace(/[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]+/gu, ' ')

export function heard (turn: Turn, record: MasterRecord, call: Call, { nowMs, endMs, ...reply }: { state: string, endMs: number, nowMs: number, notice?: string }): void {
  const state = reply.state.slice(0, MAX_STATE)
  const notice = lineOf(reply.notice ?? '')
  const work = turn.work(record.id)
  const before = contactOf(turn, call)
  work.tasks.set(taskKey('keep-alive', call.site, ''), { busy: false, tries: 0, dueMs: call.sentMs + KEEP_ALIVE_MS })
  // Half the round trip is the best guess of when the other side looked at its clock.
  work.contacts.set(call.site, { heardMs: turn.now, state, endMs, skewMs: Math.round(nowMs - (call.sentMs + turn.now) / 2), error: '', ...notice === '' ? {} : { notice } })
  // The copy may be from before an extension: a cluster is not called over while leases of it run. What
  // was said before the last change was decided counts for nothing.
  const mayTell = record.epoch > 1 && record.amendment === null && record.dropped.length === 0 && call.sentMs > work.amendedMs
  if (mayTell && Number.isSafeInteger(endMs) && endMs > record.endMs && endMs - record.startMs <= MAX_TERM_MS) turn.save({ ...record, endMs })
  if (notice !== '' && notice !== before.notice) turn.progress(record, `${call.site}: ${notice}`)
  if (before.heardMs > 0 && before.state !== state) turn.progress(record, `${call.site}: its leases are ${state === '' ? 'gone' : state}`)
}

export function notHeard (turn: Turn, record: MasterRecord, call: Call, error: MusubiError): void {
  const before = contactOf(turn, call)
  turn.work(record.id).contacts.set(call.site, { ...before, error: describeError(error) })
  if (before.error === '') turn.progress(record, `${call.site} does not answer: ${describeError(error)}`)
}

/** Everything that was asked of anybody is to be let go. */
export function letGo (turn: Turn, record: MasterRecord, trigger: 'delete' | 'expire', why: string): void {
  const current = dropAmendment(turn, record, `cluster ${record.name} is being deleted`)
  turn.move(current, current.state, trigger, {}, why)
}

export function remove (turn: Turn, record: MasterRecord, reason: string): void {
  if (record.state === 'releasing' || record.state === 'ended') return
  if (record.state === 'superseded') turn.forget(record.id) // another master looks after it
  else if (record.state === 'failed' && record.asked.length === 0) turn.move(record, 'failed', 'released', { endedMs: turn.now }, '')
  else letGo(turn, record, 'delete', reason)
}

/** An adopted cluster may have been extended since its copy was made: until its lenders have been heard they may still tell of a later end. */
const patienceMs = (turn: Turn, record: MasterRecord): number =>
  record.epoch > 1 && membersOf(record).some(({ site }) => (turn.work(record.id).contacts.get(site)?.heardMs ?? 0) === 0) ? ADOPTED_PATIENCE_MS : 0

/** Whether the end of the term has come, as far as anybody can tell. */
export const isExpired = (turn: Turn, record: MasterRecord): boolean => turn.now >= record.endMs + patienceMs(turn, record)

/** Until when somebody may still run something. */
function mayRunUntilMs (turn: Turn, record: MasterRecord): number {
  const endMs = Math.max(record.endMs, ...record.dropped.map(one => one.endMs))
  return record.document === null ? Math.min(endMs, turn.work(record.id).sinceMs + Math.max(NEVER_ACTIVE_MS, (record.hold?.ttlMs ?? 0) + REQUEST_DEADLINE_MS)) : endMs + END_GUARD_MS + patienceMs(turn, record)
}

function releaseReason (turn: Turn, record: MasterRecord): string {
  if (record.error !== null) return 'the cluster failed'
  return turn.now >= record.endMs ? 'its term is over' : 'deleted by the user'
}

/** Says it again until every site has confirmed; one that is away gets it when it is back. */
export function releaseAll (turn: Turn, record: MasterRecord): void {
  const { tasks } = turn.work(record.id)
  const inVain = ({ site, peer }: Asked): boolean => {
    const task = tasks.get(taskKey('release', site, peer))
    return task !== undefined && !task.busy && task.tries > 0
  }
  // Beyond the end of the term, or without an activation, nothing runs anywhere: hosts end leases by themselves.
  if (turn.now > mayRunUntilMs(turn, record) && record.asked.every(inVain)) { released(turn, record, null); return }
  const deadlineMs = record.document === null ? GIVE_UP_DEADLINE_MS : RELEASE_DEADLINE_MS
  for (const asked of record.asked) attempt(turn, record, 'release', asked, asked.peer, () => releaseFor(record, releaseReason(turn, record)), deadlineMs)
}

/** @param peer who has confirmed; null when nobody needs to any more */
export function released (turn: Turn, record: MasterRecord, peer: string | null): void {
  const asked = peer === null ? [] : record.asked.filter(one => one.peer !== peer)
  if (record.state === 'releasing' && asked.length === 0) {
    // Releases of parts are open no longer: all of it is let go, and nobody needs to keep the record for them.
    const ended = turn.move(record, 'releasing', 'released', { asked, dropped: [], endedMs: turn.now }, '')
    turn.effects.push({ effect: 'copy', record: ended }) // who keeps a copy need not
  } else if (asked.length !== record.asked.length) turn.save({ ...record, asked })
}

/**
 * A lender has heard of a higher epoch. Only the own site is believed, where the anchor's ledger
 * decides it: a lender elsewhere could end anybody's work with a word.
 */
export function stale (turn: Turn, record: MasterRecord, call: Call): boolean {
  if (call.site !== record.masterSite) {
    // Then the own site is asked soon whether it is so.
    const key = taskKey('keep-alive', record.masterSite, '')
    const task = turn.work(record.id).tasks.get(key)
    if (task !== undefined && !task.busy) turn.work(record.id).tasks.set(key, { ...task, dueMs: Math.min(task.dueMs, turn.now + ASK_OWN_MS) })
    return false
  }
  return supersede(turn, record)
}

/** Another host of the site is its master now: this one lets go of it, and ends nothing. */
function supersede (turn: Turn, record: MasterRecord): boolean {
  if (record.state === 'failed') { turn.save({ ...record, asked: [] }); return true }
  if (nextMasterState(record.state, 'supersede') === undefined) return false
  const current = dropAmendment(turn, record, `cluster ${record.name} has another master now`)
  // Sites that a growth was to bring in know this master only, and nobody else knows of them.
  const own = current.dropped.filter(part => part.offerId !== '' && !current.offers.some(offer => offer.site === part.site))
  turn.move(current, current.state, 'supersede', { asked: [], dropped: own, behind: [], endedMs: turn.now }, 'another host of the site is its master now')
  return true
}

export function adopt (turn: Turn, record: MasterRecord): void {
  const known = turn.record(record.id)
  if (known?.epoch === record.epoch && known.state !== 'ended' && known.state !== 'superseded') {
    // Taken on an operator's word, or the anchor's answer was lost: it has decided since, for this host or for another.
    if (record.state === 'superseded') supersede(turn, known)
    else if (known.grant === null && record.grant !== null) proved(turn, known, record.grant)
    return
  }
  if (known !== undefined && (known.epoch >= record.epoch || known.state !== 'superseded')) return
  turn.machine.works.delete(record.id)
  const to = record.state === 'active' ? 'active' : record.state === 'activating' && record.document !== null && turn.now < record.startMs ? 'activating' : 'releasing'
  // Some lenders may have committed it, and others not: their keep-alives tell.
  const { amendment } = record
  const open = amendment?.kind === 'extend' && amendment.state === 'committing' ? { ...amendment, commitByMs: 0 } : amendment
  const adopted = turn.move({ ...record, amendment: open, asked: heirs(record), endedMs: 0 },
    null, 'adopt', {}, `this host is its master now, epoch ${record.epoch}`, to)
  turn.effects.push({ effect: 'copy', record: adopted })
}

/** Lenders that have refused this master listen to it now: they are told at once. */
function proved (turn: Turn, record: MasterRecord, grant: NonNullable<MasterRecord['grant']>): void {
  const { tasks } = turn.work(record.id)
  for (const [key, task] of tasks) if (!task.busy) tasks.set(key, { ...task, dueMs: turn.now })
  turn.effects.push({ effect: 'copy', record: turn.save({ ...record, grant }) })
}

/** Forgets clusters that ended long ago, and the oldest of very many. */
export function prune (turn: Turn): void {
  const over = [...turn.machine.records.values()].filter(record => isOver(record.state) && record.asked.length === 0 && record.dropped.length === 0).sort((a, b) => b.endedMs - a.endedMs)
  for (const [i, record] of over.entries()) {
    if (i >= MAX_ENDED_KEPT || turn.now - record.endedMs > KEEP_ENDED_MS) turn.forget(record.id)
  }
}
