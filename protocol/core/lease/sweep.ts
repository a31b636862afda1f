/** What time alone does to a ledger: ends what is over, forgets what nobody asks about any more. */
import { MAX_LEASES_PER_HOST } from '../limits.ts'
import { END_GUARD_MS, ID_QUARANTINE_MS, restsUntil } from './lease.ts'
import { type Turn, dueOf, dueOfExtension } from './turn.ts'

/** Ended leases kept to answer replays; beyond this the oldest are forgotten before their day is over. */
export const MAX_ENDED_KEPT = 4 * MAX_LEASES_PER_HOST

export function sweep (turn: Turn): void {
  const { state, now } = turn
  if (now < state.dueMs) return
  for (const extension of [...state.extensions.values()]) {
    if (dueOfExtension(extension) > now) continue
    if (extension.state === 'held') turn.endExtension(extension, 'expire', 'the extension was not committed in time')
    else turn.forgetExtension(extension)
  }
  for (const lease of [...state.leases.values()]) {
    if (dueOf(lease) > now) continue
    if (lease.state === 'held') turn.end(lease, 'expire', lease.deadlineMs <= now ? 'the hold was not committed in time' : 'the term is over')
    else if (lease.state === 'committed') turn.end(lease, 'expire', lease.confirmByMs !== 0 && lease.confirmByMs <= now ? 'not confirmed by its master' : 'the lease was not activated in time')
    else if (lease.state === 'active') turn.end(lease, 'expire', 'the term is over')
    else turn.forget(lease)
  }
  let due = Number.POSITIVE_INFINITY
  for (const lease of state.leases.values()) due = Math.min(due, dueOf(lease))
  for (const extension of state.extensions.values()) due = Math.min(due, dueOfExtension(extension))
  state.dueMs = due
}

/** Keeps the number of ended leases bounded whatever peers do; those that rest or may still run stay. */
export function boundEnded (turn: Turn): void {
  const { state, now } = turn
  let over = state.leases.size - MAX_LEASES_PER_HOST - MAX_ENDED_KEPT
  if (over <= 0) return
  const rest = Math.max(END_GUARD_MS, ID_QUARANTINE_MS)
  for (const lease of state.ended.values()) {
    if (over <= 0) return
    if ((lease.activatedMs > 0 && lease.endedMs + rest > now) || restsUntil(lease) > now) continue
    turn.forget(lease)
    over--
  }
}
