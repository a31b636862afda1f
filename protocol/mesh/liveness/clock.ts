/**
 * A clock for judging others: it does not run while this process itself is late. A process that was
 * stopped, or that waits for a busy core, has missed what others said meanwhile; by this clock no
 * time has passed for it, so it takes nobody for dead before it has read what waits in its sockets.
 */
export class PatientClock {
  readonly #stepMs: number
  #lastMs: number
  #passedMs = 0
  #lateMs = 0

  /**
   * @param stepMs how often `advance` is meant to be called
   * @param nowMs monotonic clock
   */
  constructor (stepMs: number, nowMs: number) {
    // timers are always a little late
    this.#stepMs = stepMs * 1.2
    this.#lastMs = nowMs
  }

  /** ms that have passed, without those in which this process was late */
  get nowMs (): number {
    return this.#passedMs
  }

  /** ms that were left out in all */
  get lateMs (): number {
    return this.#lateMs
  }

  /** @param nowMs monotonic clock. @returns the patient time */
  advance (nowMs: number): number {
    const elapsedMs = Math.max(0, nowMs - this.#lastMs)
    const countedMs = Math.min(elapsedMs, this.#stepMs)
    this.#lastMs = Math.max(this.#lastMs, nowMs)
    this.#passedMs += countedMs
    this.#lateMs += elapsedMs - countedMs
    return this.#passedMs
  }
}
