import { createLedgerClock, type ClockInputs, type ClockMark } from '../../../store/clock.ts'
import { CLOCK_MARK_MS, HELPER_CLOCK_OFF_MS } from '../../../protocol/core/limits.ts'
import type { Store } from '../../../store/store.ts'

const MARK = 'clock/mark'

/** The clock by which the helper ends what nobody else ends. */
export interface HelperClock {
  /** Unix ms; jumps only when it is set */
  now (): number
  /**
   * The agent's ledger clock at this moment. Ends of leases are told by that clock, so where the two
   * differ (the agent was started anew after the wall clock had been put right) it is taken over.
   *
   * @returns by how many ms this clock was set; 0 when they agree
   */
  follow (ledgerMs: number): number
  /** Time passes: where the clock stands is written down now and then. */
  tick (): Promise<void>
}

/** A ledger clock of the helper's own; without an agent it goes on by itself, also over its restarts. */
export async function openHelperClock (store: Store, inputs: ClockInputs): Promise<HelperClock> {
  let clock = createLedgerClock(inputs, await store.get<ClockMark>(MARK) ?? null)
  let markedMs = -Infinity
  return {
    now: () => clock.now(),
    follow (ledgerMs) {
      const off = ledgerMs - clock.now()
      if (Math.abs(off) <= HELPER_CLOCK_OFF_MS) return 0
      clock = createLedgerClock(inputs, { atMs: ledgerMs, sinceBootMs: inputs.sinceBoot(), bootId: inputs.bootId })
      markedMs = -Infinity
      return off
    },
    async tick () {
      if (inputs.sinceBoot() - markedMs < CLOCK_MARK_MS) return
      markedMs = inputs.sinceBoot()
      await store.put(MARK, { ...clock.mark() })
    }
  }
}
