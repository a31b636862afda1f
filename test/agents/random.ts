/** Choices that a printed seed repeats, as far as the timing of processes lets them. */
export interface Random {
  readonly seed: number
  /** 0 up to 1 */
  next (): number
  /** a whole number, both ends included */
  between (low: number, high: number): number
  chance (part: number): boolean
  /** @throws RangeError for an empty list */
  pick<T> (list: readonly T[]): T
}

/** mulberry32 */
export function createRandom (seed: number): Random {
  let state = seed >>> 0
  const next = (): number => {
    state = (state + 0x6d2b79f5) >>> 0
    let t = state
    t = Math.imul(t ^ (t >>> 15), t | 1)
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61)
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32
  }
  const between = (low: number, high: number): number => low + Math.floor(next() * (high - low + 1))
  return {
    seed, next, between,
    chance: part => next() < part,
    pick: list => {
      const one = list[between(0, list.length - 1)]
      if (one === undefined) throw new RangeError('nothing to choose from')
      return one
    }
  }
}
