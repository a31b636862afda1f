import { uptime } from 'node:os'

/** Between two looks at the coarse clock; each reads a file of the kernel. */
const LOOK_MS = 100
/** The coarse clock is cut to 10 ms: a difference beyond this is a suspension of the machine. */
const SUSPENDED_MS = 100

/**
 * Milliseconds since the machine has booted, going on while it is suspended (CLOCK_BOOTTIME): the same
 * for every process of a boot, to 10 ms. Never goes back.
 *
 * Node shows that clock in steps of 10 ms only; the time between is taken from the fine clock, which
 * stands still during a suspension.
 *
 * @param coarseMs CLOCK_BOOTTIME, e.g. `os.uptime() * 1000`
 * @param fineMs CLOCK_MONOTONIC, e.g. `performance.now()`
 */
export function createBootClock (coarseMs: () => number = () => uptime() * 1000, fineMs: () => number = () => performance.now()): () => number {
  let lookedMs = fineMs()
  let offset = coarseMs() - lookedMs
  return () => {
    const fine = fineMs()
    if (fine - lookedMs >= LOOK_MS) {
      lookedMs = fine
      const seen = coarseMs() - fine
      if (seen - offset > SUSPENDED_MS) offset = seen
    }
    return fine + offset
  }
}
