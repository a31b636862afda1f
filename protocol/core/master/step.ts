/**
 * The master's state machine: what events do to records, and what is to be called next. Level, not
 * edge: whatever happened before, `carryOn` looks at a record and does what its state asks for.
 */
import { MusubiError } from '../errors.ts'
import type { SiteAnswer } from '../gateway/events.ts'
import { accept, waitForUser } from './negotiation/accept.ts'
import * as amend from './changes/amend.ts'
import { setCacheBudget } from './changes/budget.ts'
import * as carry from './carry.ts'
import type { MasterEffect, MasterEvent } from './events.ts'
import * as live from './live.ts'
import { type Call, type MasterMachine, Turn, taskKey } from './machine.ts'
import * as negotiate from './negotiation/negotiate.ts'
import { pauseMs } from './pace.ts'
import { restarted, restartedWhileHeld } from './say.ts'
import { type MasterRecord, isOver } from './record.ts'

/** A reservation: its master shows that it is there, which confirms it; nothing of it exists before its start. */
function reserve (turn: Turn, record: MasterRecord): void {
  live.keepAlive(turn, record)
  amend.drop(turn, record)
  if (record.amendment !== null) amend.amendOn(turn, record, record.amendment)
}

/** What the state of a record asks for at this moment; also what time has made of it. */
function carryOn (turn: Turn, record: MasterRecord): void {
  switch (record.state) {
    case 'offered': waitForUser(turn, record); break
    case 'committing': carry.commitAll(turn, record); break
    case 'preparing': carry.waitForDocument(turn, record); break
    case 'activating':
      if (amend.isReserved(record, turn.now)) reserve(turn, record)
      // A master that was away until its start: what it was changing is not part of what starts.
      else carry.activateAll(turn, record.amendment?.state === 'asking' ? amend.dropAmendment(turn, record, `cluster ${record.name} starts`) : record)
      break
    case 'active':
      if (live.isExpired(turn, record)) { live.letGo(turn, record, 'expire', 'its term is over'); break }
      live.keepAlive(turn, record)
      amend.tidy(turn, record)
      if (record.amendment !== null) amend.amendOn(turn, record, record.amendment)
      break
    case 'releasing':
    case 'failed':
      if (record.amendment !== null) { amend.dropAmendment(turn, record, `cluster ${record.name} has failed`); break }
      // Lenders listen to a successor when they have seen its grant.
      if (record.grant !== null && record.asked.length > 0) live.keepAlive(turn, record)
      live.releaseAll(turn, record)
      break
    case 'superseded': amend.dropOwn(turn, record); break
    case 'negotiating':
    case 'ended': break
  }
}

/** Once more when that has led to another state, e.g. from a failure to releases. */
function pump (turn: Turn, id: string): void {
  for (let record = turn.record(id), state = ''; record !== undefined && record.state !== state; record = turn.record(id)) {
    state = record.state
    carryOn(turn, record)
  }
}

/** States in which a cluster can be changed: a reservation can get a later end. */
const isAmendable = ({ state, amendment }: MasterRecord): boolean => state === 'active' || (state === 'activating' && amendment !== null)

function answered (turn: Turn, record: MasterRecord, call: Call, answer: SiteAnswer): void {
  const { state, amendment } = record
  const round = turn.work(record.id).round
  const ofRound = round !== null && round.ref === call.ref
  if (amendment !== null && isAmendable(record)) {
    if (ofRound && (answer.method === 'request' || answer.method === 'extend')) {
      amend.offered(turn, record, round, call, answer.reply)
      if (answer.method === 'request') negotiate.giveBack(turn, record, round, call, answer.reply)
      amend.settleAmendment(turn, record, amendment)
    } else if (call.purpose === 'amend-commit' && answer.method === 'commit') amend.amendCommitted(turn, record, amendment, call, answer.reply.receipts)
    else if (call.purpose === 'amend-activate') amend.amendActivated(turn, record, amendment, call)
  }
  switch (call.purpose) {
    case 'request':
      if (answer.method !== 'request') break
      if (state === 'negotiating' && ofRound) {
        negotiate.takeOffer(record, round, call, answer.reply)
        if (round.held.has(call.site)) turn.progress(record, `${call.site} holds ${answer.reply.held.filter(held => held.kind === 'node').length} nodes`)
        else negotiate.giveBack(turn, record, round, call, answer.reply)
        negotiate.settle(turn, record)
      } else if (!ofRound && state !== 'superseded') negotiate.declineLate(turn, record, call, answer.reply)
      break
    case 'give-up': if (state === 'negotiating') negotiate.gaveUp(turn, record, call, true); break
    case 'commit': if (state === 'committing' && answer.method === 'commit') carry.committed(turn, record, call, answer.reply.receipts); break
    case 'activate': if (state === 'activating') carry.activated(turn, record, call); break
    case 'release': if (state === 'releasing' || state === 'failed') live.released(turn, record, call.peer); break
    case 'keep-alive': if (answer.method === 'keepAlive') live.heard(turn, record, call, answer.reply); break
    case 'drop': if (state === 'active' || state === 'activating' || state === 'superseded') amend.dropConfirmed(turn, record, call); break
    case 'update': if (state === 'active') amend.updated(turn, record, call); break
    case 'extend':
    case 'amend-commit':
    case 'amend-activate': break
  }
}

function refused (turn: Turn, record: MasterRecord, call: Call, error: MusubiError): void {
  const { state, amendment } = record
  if (error.code === 'STALE_EPOCH' && live.stale(turn, record, call)) return
  const round = turn.work(record.id).round
  const ofRound = round !== null && round.ref === call.ref
  switch (call.purpose) {
    case 'request':
    case 'extend':
      if (!ofRound) break
      negotiate.takeRefusal(round, call, error)
      if (state === 'negotiating') negotiate.settle(turn, record)
      else if (amendment !== null && isAmendable(record)) amend.settleAmendment(turn, record, amendment)
      break
    case 'give-up': if (state === 'negotiating') negotiate.gaveUp(turn, record, call, false); break
    case 'commit': if (state === 'committing') carry.refusedHere(turn, record, call, error, record.commitByMs); break
    case 'activate': if (state === 'activating') carry.activateProblem(turn, record, call, error); break
    case 'keep-alive': if (!isOver(state)) live.notHeard(turn, record, call, error); break
    case 'release': if (state === 'releasing') turn.progress(record, `waiting for ${call.site}: ${error.message}`); break
    case 'amend-commit':
    case 'amend-activate': if (amendment !== null) amend.amendProblem(turn, record, amendment, call, error); break
    case 'drop': if (state === 'superseded' && !error.retryable) amend.dropConfirmed(turn, record, call); break
    case 'update': break
  }
}

/** An answer belongs to a call that is under way; any other is late, doubled or forged and counts for nothing. */
function settled (turn: Turn, event: Extract<MasterEvent, { type: 'reply' | 'failed' }>): string | null {
  const call = turn.machine.calls.get(event.callId)
  if (call === undefined) return null
  turn.machine.calls.delete(event.callId)
  const record = turn.record(call.clusterId)
  if (record === undefined) return null
  const { tasks } = turn.work(record.id)
  const key = taskKey(call.purpose, call.site, call.ref)
  const tries = (tasks.get(key)?.tries ?? 0) + 1
  if (event.type === 'reply') tasks.delete(key)
  else tasks.set(key, { busy: false, tries, dueMs: turn.now + pauseMs(call.purpose, tries) })
  if (event.type === 'reply') answered(turn, record, call, event.answer)
  else refused(turn, record, call, event.error)
  return record.id
}

function looked (turn: Turn, event: Extract<MasterEvent, { type: 'looked' }>): void {
  const record = turn.record(event.clusterId)
  if (record === undefined || !turn.work(record.id).looking) return
  if (record.state === 'negotiating') negotiate.startRound(turn, record, event, event.id)
  else if (record.state === 'active' && record.amendment?.state === 'asking') amend.startGrowth(turn, record, record.amendment, event.sites, event.id)
}

/** What an earlier process left: nothing is under way, and only what is on the disk has happened. */
function start (turn: Turn): void {
  turn.machine.calls.clear()
  turn.machine.works.clear()
  for (const record of [...turn.machine.records.values()]) {
    const { amendment } = record
    if (record.state === 'negotiating') negotiate.fail(turn, record, restarted(record.name))
    else if (record.state === 'preparing') carry.prepareAgain(turn, record)
    else if (record.state === 'offered') negotiate.fail(turn, record, restartedWhileHeld(record.name))
    else if (isAmendable(record) && amendment?.state === 'asking') amend.reject(turn, record, restarted(record.name))
    else if (isAmendable(record) && amendment?.state === 'committing') amend.copyExtension(turn, record.id)
    else if (record.state === 'active' && amendment?.state === 'activating') turn.effects.push({ effect: amendment.document === null ? 'prepare' : 'copy', record })
  }
}

/** @returns the cluster that it was about; null: all of them */
function handle (turn: Turn, event: MasterEvent): string | null {
  const of = (id: string, work: (record: MasterRecord) => void): string => {
    const record = turn.record(id)
    if (record !== undefined) work(record)
    return id
  }
  switch (event.type) {
    case 'create': negotiate.create(turn, event.cluster); live.prune(turn); return event.cluster.id
    case 'looked': looked(turn, event); return event.clusterId
    case 'reply':
    case 'failed': return settled(turn, event) ?? ''
    case 'prepared': return of(event.clusterId, record => {
      if (record.state === 'preparing') carry.prepared(turn, record, event.document, event.secrets)
      else if (record.state === 'active' && record.amendment !== null) amend.amendPrepared(turn, record, record.amendment, event.document)
    })
    case 'unprepared': return of(event.clusterId, record => {
      if (record.state === 'preparing' && record.document === null) negotiate.fail(turn, record, event.error)
      else if (record.state === 'active' && record.amendment?.state === 'activating' && record.amendment.document === null) amend.reject(turn, record, event.error)
    })
    case 'copied': return of(event.clusterId, record => {
      if (record.state === 'preparing') carry.copied(turn, record, event.record, event.copies)
      else if (record.amendment !== null && amend.isCopied(record.amendment, event.record.amendment)) turn.work(record.id).amendReady = true
    })
    case 'delete': return of(event.clusterId, record => { live.remove(turn, record, event.reason) })
    case 'accept': accept(turn, event.clusterId, event.id); return event.clusterId
    case 'extend': amend.extend(turn, event.clusterId, event.endMs, event.id); return event.clusterId
    case 'grow': amend.grow(turn, event.clusterId, event.count, event.id); return event.clusterId
    case 'shrink': amend.shrink(turn, event.clusterId, event.nodes, event.id); return event.clusterId
    case 'budget': setCacheBudget(turn, event.clusterId, event.change, event.id); return event.clusterId
    case 'adopt': live.adopt(turn, event.record); return event.record.id
    case 'start': start(turn); return null
    case 'tick': live.prune(turn); return null
  }
}

/**
 * Works an event into a machine **in place**; for the single writer that owns it.
 *
 * @param now ledger clock, Unix ms; one that goes back counts as standing still
 */
export function advance (machine: MasterMachine, event: MasterEvent, now: number): MasterEffect[] {
  const turn = new Turn(machine, now)
  const about = handle(turn, event)
  for (const id of about === null ? [...machine.records.keys()] : [about]) pump(turn, id)
  return turn.effects
}

/** The pure form of `advance`: the given machine stays as it is. */
export function step (machine: MasterMachine, event: MasterEvent, now: number): { state: MasterMachine, effects: MasterEffect[] } {
  // Records are never changed in place, the rest is plain data.
  const state: MasterMachine = { ...machine, records: new Map(machine.records), works: structuredClone(machine.works), calls: new Map(machine.calls) }
  return { effects: advance(state, event, now), state }
}

export { emptyMaster, loadMaster } from './machine.ts'
