/** How fast this gateway has sent to others through its tunnel: what a plan takes for the way out where nobody has configured it. */

/** A session is one peer's key on one interface. */
interface Counter { fromMs: number, untilMs: number, sentBytes: number }

/** Less in one look is no transfer: it says nothing of what the way carries. */
const LEAST_BYTES = 8 * 2 ** 20
/** Longer apart, and what was idle counts as busy. */
const MOST_MS = 60_000
/** Links change. */
const KEPT_MS = 24 * 3_600_000

export interface WanRates {
  /** Takes in what the tunnel's driver has last seen; the same again changes nothing. */
  note (detail: Readonly<Record<string, unknown>> | undefined): void
  /** Mbit/s to the gateway with this address inside tunnels, the most of any look of the last day; null: nothing was sent that would tell */
  of (address: string): number | null
}

const isNumber = (value: unknown): value is number => typeof value === 'number' && Number.isFinite(value)

/** @param now Unix ms */
export function createWanRates (now: () => number): WanRates {
  let counters = new Map<string, Counter>()
  const best = new Map<string, { mbit: number, atMs: number }>()

  return {
    note (detail) {
      const [fromMs, untilMs] = Array.isArray(detail?.readMs) ? detail.readMs as unknown[] : []
      if (!isNumber(fromMs) || !isNumber(untilMs) || !Array.isArray(detail?.peers)) return
      const next = new Map<string, Counter>()
      const sent = new Map<string, { bytes: number, ms: number }>()
      for (const { address, track, publicKey, txBytes } of detail.peers as Array<Record<string, unknown>>) {
        if (typeof address !== 'string' || !isNumber(txBytes)) continue
        const key = JSON.stringify([address, track, publicKey])
        next.set(key, { fromMs, untilMs, sentBytes: txBytes })
        const before = counters.get(key)
        // an interface that was made anew counts from nothing
        if (before === undefined || txBytes < before.sentBytes) continue
        const sum = sent.get(address)
        // when the counters were read in these looks is not known: at most so long apart, so never more than it was
        sent.set(address, { bytes: (sum?.bytes ?? 0) + txBytes - before.sentBytes, ms: untilMs - before.fromMs })
      }
      counters = next
      for (const [address, { atMs }] of best) if (now() - atMs > KEPT_MS) best.delete(address)
      for (const [address, { bytes, ms }] of sent) {
        if (bytes < LEAST_BYTES || ms <= 0 || ms > MOST_MS) continue
        const mbit = bytes * 8 / (ms * 1000)
        const known = best.get(address)
        if (known === undefined || mbit >= known.mbit) best.set(address, { mbit, atMs: now() })
      }
    },
    of (address) {
      const found = best.get(address)
      return found === undefined || now() - found.atMs > KEPT_MS ? null : found.mbit
    }
  }
}
