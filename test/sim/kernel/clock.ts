/**
 * The clocks of one host, none of which tells the true time: a crystal that is off by some ppm drives
 * the monotonic clock; the wall clock follows true time (as under NTP) or the crystal, and jumps.
 */
import type { Kernel } from './kernel.ts'

export interface HostClock {
  /** Unix ms as the host's wall clock shows it */
  wall (): number
  /** ms since the boot, as CLOCK_BOOTTIME */
  monotonic (): number
  jump (byMs: number): void
  /** the wall clock is right again, as NTP steps it */
  settle (): void
  /** a new boot: the monotonic clock begins anew */
  reboot (): void
  wallOffMs (): number
  readonly ratePpm: number
}

/** Beginning of every run in true time, Unix ms. */
export const EPOCH_MS = 1_800_000_000_000

/**
 * @param ratePpm error of the crystal
 * @param disciplined whether the wall clock is kept right by others; else it runs by the crystal
 */
export function createHostClock (kernel: Kernel, ratePpm: number, disciplined: boolean): HostClock {
  const rate = 1 + ratePpm / 1e6
  let bootMs = kernel.now()
  let jumpedMs = 0
  const startMs = kernel.now()
  const drift = (): number => disciplined ? 0 : (kernel.now() - startMs) * (rate - 1)
  return {
    wall: () => Math.floor(EPOCH_MS + kernel.now() + drift() + jumpedMs),
    monotonic: () => (kernel.now() - bootMs) * rate,
    jump (byMs) { jumpedMs += byMs },
    settle () { jumpedMs = -drift() },
    reboot () { bootMs = kernel.now() },
    wallOffMs: () => drift() + jumpedMs,
    ratePpm
  }
}
