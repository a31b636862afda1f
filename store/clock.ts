/** A difference to the wall clock beyond this is a jump, not a drift. */
const JUMP_MS = 60_000
/** Share of the time passed by which the ledger clock may be pulled towards the wall clock. */
const SLEW = 0.1

export interface LedgerClock {
  /** Unix ms, whole; never goes back and never jumps */
  now (): number
  /** Why no new promises should be made: the wall clock has jumped. Null when all is well. */
  frozen (): string | null
}

/**
 * The clock that starts and ends of leases are judged by. It runs on the monotonic clock and is
 * slewed towards the wall clock. When that jumps, forth or back, it runs on as before, so that
 * nothing ends early, until the wall clock is near again or the agent is started again.
 *
 * @param wall Unix ms, e.g. `Date.now`
 * @param monotonic ms from any beginning, e.g. `performance.now`
 */
export function createLedgerClock (wall: () => number, monotonic: () => number): LedgerClock {
  let at = wall()
  let seen = monotonic()
  let jump = 0

  function now (): number {
    const mark = monotonic()
    const elapsed = Math.max(0, mark - seen)
    seen = Math.max(seen, mark)
    at += elapsed
    const off = wall() - at
    jump = Math.abs(off) > JUMP_MS ? off : 0
    if (jump === 0) at += Math.max(-SLEW * elapsed, Math.min(SLEW * elapsed, off))
    return Math.floor(at)
  }
  return {
    now,
    frozen () {
      now()
      return jump === 0 ? null : `the wall clock has jumped ${jump > 0 ? 'forth' : 'back'} by ${Math.round(Math.abs(jump) / 1000)} s; set it right, or restart the agent to accept it`
    }
  }
}
