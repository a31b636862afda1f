/** What events do to the leases of one host. See `tables.ts` for the state machines. */
import { MusubiError } from '../errors.ts'
import { curtail, restore } from './curtail.ts'
import { claim, keepAlive } from './epoch.ts'
import { type LeaseEvent, type Outcome, answerWith } from './events.ts'
import { extend } from './extend.ts'
import { hold } from './hold.ts'
import type { Answer } from './lease.ts'
import { type LedgerState, type ReadonlyLedgerState, copyLedger } from './state.ts'
import { sweep } from './sweep.ts'
import { activate, commit, release, restart, revoke, vacate } from './term.ts'
import { Turn } from './turn.ts'

export type { Effect, LeaseEvent, Outcome } from './events.ts'
export { MAX_ENDED_KEPT } from './sweep.ts'

function handle (event: LeaseEvent, turn: Turn): Answer {
  switch (event.type) {
    case 'hold': return hold(event, turn)
    case 'extend': return extend(event, turn)
    case 'commit': return commit(event, turn)
    case 'activate': return activate(event, turn)
    case 'release': return release(event, turn)
    case 'revoke': return revoke(event, turn)
    case 'curtail': return curtail(event, turn)
    case 'restore': return restore(event, turn)
    case 'keepAlive': return keepAlive(event, turn)
    case 'claim': return claim(event, turn)
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
  if (Number.isFinite(now)) state.clockMs = Math.max(state.clockMs, Math.floor(now))
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
  const next = copyLedger(state)
  return { ...advance(next, event, now), state: next }
}

/** When the next `tick` changes something, Unix ms; Infinity when nothing is pending. */
export const nextDueMs = (state: ReadonlyLedgerState): number => state.dueMs
