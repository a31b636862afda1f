/** A cluster that all sites hold and whose user is to decide: it is taken, or it lapses. Nothing is renewed. */
import { ConflictError, MusubiError, NotFoundError } from '../../errors.ts'
import { answer } from '../changes/amend.ts'
import type { Turn } from '../machine.ts'
import { fail } from './negotiate.ts'
import { type Hold, type MasterRecord, acceptUntilMs } from '../record.ts'
import { lapsed } from '../say.ts'

/** States of one that was accepted and lives. */
const TAKEN: ReadonlySet<string> = new Set(['committing', 'preparing', 'activating', 'active'])

/** @returns whether it has lapsed */
function lapse (turn: Turn, record: MasterRecord, hold: Hold): boolean {
  const untilMs = acceptUntilMs(hold)
  if (turn.now < untilMs) return false
  fail(turn, record, lapsed(record.name, untilMs))
  return true
}

export function waitForUser (turn: Turn, record: MasterRecord): void {
  if (record.hold !== undefined) lapse(turn, record, record.hold)
}

/** Why there is nothing to be taken. */
function unacceptable ({ name, state, hold, error }: MasterRecord): MusubiError {
  if (hold === undefined) return new ConflictError(`cluster ${name} was asked for without --hold, so there is nothing to accept`, `see: musubi cluster show ${name}`)
  if (state === 'negotiating') return new MusubiError('CONFLICT', `cluster ${name} cannot be accepted yet: sites are still being asked`, { retryable: true, hint: `try again when all have offered: musubi cluster show ${name}` })
  if (error !== null) return new MusubiError(error.code, error.message, { hint: error.hint ?? 'ask again: musubi cluster plan --hold' })
  return new ConflictError(`cluster ${name} cannot be accepted any more: it was given back, or is over`, 'ask again: musubi cluster plan --hold')
}

/** The decision of its user, which is on the disk before the first commit leaves. Said again, it is answered again. @param id of the answer */
export function accept (turn: Turn, clusterId: string, id: string): void {
  const record = turn.record(clusterId)
  const say = (error: MusubiError | null): void => { answer(turn, clusterId, id, error) }
  if (record === undefined) { say(new NotFoundError(`there is no cluster ${clusterId} here`)); return }
  const { hold } = record
  if (hold !== undefined && TAKEN.has(record.state)) { say(null); return }
  if (hold === undefined || record.state !== 'offered') { say(unacceptable(record)); return }
  if (lapse(turn, record, hold)) { say(lapsed(record.name, acceptUntilMs(hold))); return }
  const work = turn.work(clusterId)
  // How long its user thought says nothing of how long sites took.
  if (work.startedMs > 0) work.startedMs += turn.now - work.sinceMs
  turn.move(record, 'offered', 'accept', { decidedMs: turn.now, commitByMs: hold.endsMs }, `accepted, ${record.offers.length} sites hold everything`)
  say(null)
}
