import { CLOCK_JUMP_MS, CLOCK_SLEW } from '../protocol/core/limits.ts'

/** The clocks of a machine. Values are ms and may have fractions. */
export interface ClockInputs {
  /** Unix ms, e.g. `Date.now` */
  wall: () => number
  /** ms since the machine has booted, going on while it is suspended (CLOCK_BOOTTIME); never back */
  sinceBoot: () => number
  /** another one for every boot of the machine */
  bootId: string
}

/** Where the ledger clock stood at a moment of a boot: it goes on from here after a start of the agent. */
export interface ClockMark { atMs: number, sinceBootMs: number, bootId: string }

export interface LedgerClock {
  /** Unix ms, whole; never goes back and never jumps */
  now (): number
  /** Why no new promises should be made: the wall clock has jumped. Null when all is well. */
  frozen (): string | null
  mark (): ClockMark
}

/** Where a clock begins: see `createLedgerClock`. */
function beginning (inputs: ClockInputs, mark: ClockMark | null, free: boolean): number {
  const wall = inputs.wall()
  if (mark === null || free) return wall
  // Nobody knows how long the machine was off: the wall clock says it, but it is never earlier than it was.
  if (mark.bootId !== inputs.bootId) return Math.max(mark.atMs, wall)
  return mark.atMs + Math.max(0, inputs.sinceBoot() - mark.sinceBootMs)
}

/**
 * The clock that starts and ends of leases are judged by. It runs on the clock since boot and is slewed
 * towards the wall clock by at most CLOCK_SLEW, so that durations measured on it are known to that bound.
 * When the wall clock jumps, forth or back, it runs on as before, so that nothing ends early, until the
 * wall clock is near again, or the agent is started while nothing depends on it.
 *
 * @param mark where it stood when it was last written down: within the same boot it goes on from there,
 * so a jump is seen although the agent was off; after a boot it starts at the wall clock, never earlier
 * @param free nothing that was promised depends on the time: the wall clock is taken as it is
 */
export function createLedgerClock (inputs: ClockInputs, mark: ClockMark | null = null, free = mark === null): LedgerClock {
  let at = beginning(inputs, mark, free)
  // Time that the mark has counted is not counted again, should that clock stand before it.
  let seen = Math.max(inputs.sinceBoot(), !free && mark?.bootId === inputs.bootId ? mark.sinceBootMs : 0)
  let jump = 0

  function advance (): void {
    const since = inputs.sinceBoot()
    const elapsed = Math.max(0, since - seen)
    seen = Math.max(seen, since)
    at += elapsed
    const off = inputs.wall() - at
    jump = Math.abs(off) > CLOCK_JUMP_MS ? off : 0
    if (jump === 0) at += Math.max(-CLOCK_SLEW * elapsed, Math.min(CLOCK_SLEW * elapsed, off))
  }
  advance()
  return {
    now () {
      advance()
      return Math.floor(at)
    },
    frozen () {
      advance()
      return jump === 0 ? null : `the wall clock has jumped ${jump > 0 ? 'forth' : 'back'} by ${Math.round(Math.abs(jump) / 1000)} s; set it right, or restart the agent when it has no leases to accept it`
    },
    mark () {
      advance()
      return { atMs: at, sinceBootMs: seen, bootId: inputs.bootId }
    }
  }
}
