import { MAX_COUNTED_PEERS } from '../../core/limits.ts'

const MINUTE_MS = 60_000

/** Counts events per peer and minute. Bounded: of too many peers the ones counted longest ago are forgotten. */
export class MinuteCounter {
  readonly #max: number
  readonly #peers = new Map<string, { fromMs: number, count: number }>()

  /** @param max events per minute that are still within bounds */
  constructor (max: number) {
    this.#max = max
  }

  /** Counts one event. @param nowMs monotonic clock. @returns whether it was one too many */
  add (peerId: string, nowMs: number): boolean {
    let entry = this.#peers.get(peerId)
    if (entry === undefined || nowMs - entry.fromMs >= MINUTE_MS) {
      entry = { fromMs: nowMs, count: 0 }
      this.#peers.delete(peerId)
      this.#peers.set(peerId, entry)
      if (this.#peers.size > MAX_COUNTED_PEERS) {
        for (const oldest of this.#peers.keys()) { this.#peers.delete(oldest); break }
      }
    }
    entry.count++
    return entry.count > this.#max
  }

  /** Forgets what a peer has done: it was made to pay for it. */
  reset (peerId: string): void {
    this.#peers.delete(peerId)
  }
}
