/**
 * Makes room for what a greedy packing left out: moves, swaps and exchanges of placed items, each
 * checked before it is made. A bin that has not changed since all was tried is not tried again but with one
 * that has. Bounded by looks (one item against one bin), not by time: equal input
 * gives equal output on any machine.
 */
import { NOWHERE, type Packing, fitsIn, leftIn, put, take } from './packing.ts'

/** Counts down; at nothing the repair ends with what it has. */
export interface Budget { looks: number }

/** Items that are not placed. */
interface Waiting {
  /** the smallest first */
  items: number[]
  /** of these, those that all that is free would take */
  able: number[]
  /** in each dimension the least that one of `items` needs: where this does not fit, none does */
  least: Float64Array
  /** the same of two of them */
  leastOfTwo: Float64Array
}

/** Whether a need, at `n` in `needs`, fits in bin `b` as it is. */
function hasRoom ({ dims, free }: Packing, needs: Float64Array, n: number, b: number): boolean {
  for (let d = 0, f = b * dims; d < dims; d++) if ((needs[n + d] as number) > (free[f + d] as number)) return false
  return true
}

/** Whether it fits there once item `out`, which is there, has gone. */
function fitsWithout ({ dims, need, free }: Packing, needs: Float64Array, n: number, b: number, out: number): boolean {
  for (let d = 0, f = b * dims, o = out * dims; d < dims; d++) {
    if ((needs[n + d] as number) > (free[f + d] as number) + (need[o + d] as number)) return false
  }
  return true
}

/** Whether item `i` fits in bin `b` once `out` has gone from it and `back` has come. */
function fitsAfterSwap ({ dims, need, free }: Packing, i: number, b: number, out: number, back: number): boolean {
  for (let d = 0, n = i * dims, f = b * dims, o = out * dims, m = back * dims; d < dims; d++) {
    if ((need[n + d] as number) + (need[m + d] as number) > (free[f + d] as number) + (need[o + d] as number)) return false
  }
  return true
}

/** Whether two bins together have room for it: else nothing that goes between them makes room for it. */
function haveRoom ({ dims, free }: Packing, needs: Float64Array, n: number, b: number, c: number): boolean {
  for (let d = 0, f = b * dims, g = c * dims; d < dims; d++) {
    if ((needs[n + d] as number) > (free[f + d] as number) + (free[g + d] as number)) return false
  }
  return true
}

/** Whether placed items may change places: each fits where the other goes. */
function canSwap ({ dims, need, free }: Packing, i: number, a: number, j: number, b: number): boolean {
  for (let d = 0, n = i * dims, m = j * dims, f = a * dims, g = b * dims; d < dims; d++) {
    const more = (need[n + d] as number) - (need[m + d] as number)
    if (more > (free[g + d] as number) || -more > (free[f + d] as number)) return false
  }
  return true
}

function move (p: Packing, i: number, to: number): void {
  take(p, i)
  put(p, i, to)
}

/** Puts an item where it fits, into a bin that has changed. */
function byRoom (p: Packing, { able, least }: Waiting, budget: Budget): boolean {
  for (let b = 0; b < p.bins; b++) {
    if (p.changed[b] === 0) continue
    budget.looks--
    if (!hasRoom(p, least, 0, b)) continue
    for (const u of able) {
      budget.looks--
      if (!fitsIn(p, u, b)) continue
      put(p, u, b)
      return true
    }
  }
  return false
}

/** Puts item `u` into bin `b`, from which another goes to `c`, for nothing or for one of `c`. */
function intoOneOf (p: Packing, u: number, b: number, c: number, budget: Budget): boolean {
  const { need, dims, next } = p
  const more = (p.count[b] as number) < p.maxPerBin
  for (let i = p.first[b] as number; i !== NOWHERE; i = next[i] as number) {
    budget.looks--
    if (!fitsWithout(p, need, u * dims, b, i)) continue
    if (fitsIn(p, i, c)) {
      move(p, i, c)
      put(p, u, b)
      return true
    }
    if (!more) continue
    for (let j = p.first[c] as number; j !== NOWHERE; j = next[j] as number) {
      budget.looks--
      if (!fitsWithout(p, need, i * dims, c, j) || !fitsAfterSwap(p, u, b, i, j)) continue
      take(p, i)
      move(p, j, b)
      put(p, i, c)
      put(p, u, b)
      return true
    }
  }
  return false
}

/** Puts an item into the bin of another, which goes elsewhere: by items, as there may be far more bins. */
function byMove (p: Packing, { able }: Waiting, budget: Budget): boolean {
  const { need, dims } = p
  for (const u of able) {
    for (let i = 0; i < p.items && budget.looks > 0; i++) {
      const b = p.at[i] as number
      budget.looks--
      if (b === NOWHERE || !fitsWithout(p, need, u * dims, b, i)) continue
      for (let c = 0; c < p.bins; c++) {
        budget.looks--
        if (c === b || !fitsIn(p, i, c)) continue
        move(p, i, c)
        put(p, u, b)
        return true
      }
    }
  }
  return false
}

/** Puts an item into a bin where a move or a swap with another bin makes room; one of both has changed. */
function byPair (p: Packing, { able, least }: Waiting, budget: Budget): boolean {
  const { bins, changed, need, dims } = p
  for (let b = 0; b < bins; b++) {
    if (changed[b] === 0) continue
    for (let c = 0; c < bins && budget.looks > 0; c++) {
      // both changed: once is enough
      if (c === b || (c > b && changed[c] === 1)) continue
      budget.looks--
      if (!haveRoom(p, least, 0, b, c)) continue
      for (const u of able) {
        budget.looks--
        if (haveRoom(p, need, u * dims, b, c) && (intoOneOf(p, u, b, c, budget) || intoOneOf(p, u, c, b, budget))) return true
      }
    }
  }
  return false
}

/** Two items that are not placed for one that is, in a bin that has changed. */
function byTwo (p: Packing, { items, leastOfTwo }: Waiting, budget: Budget): boolean {
  const { need, dims } = p
  for (let b = 0; b < p.bins && budget.looks > 0; b++) {
    if (p.changed[b] === 0 || (p.count[b] as number) >= p.maxPerBin) continue
    for (let i = p.first[b] as number; i !== NOWHERE; i = p.next[i] as number) {
      budget.looks--
      if (!fitsWithout(p, leastOfTwo, 0, b, i)) continue
      for (let x = 0; x < items.length; x++) {
        const one = items[x] as number
        budget.looks--
        if (!fitsWithout(p, need, one * dims, b, i)) continue
        for (let y = x + 1; y < items.length; y++) {
          const two = items[y] as number
          budget.looks--
          if (!fitsAfterSwap(p, two, b, i, one)) continue
          take(p, i)
          put(p, one, b)
          put(p, two, b)
          return true
        }
      }
    }
  }
  return false
}

/** A smaller item for a placed larger one, in a bin that has changed: as many are placed, and more is left. */
function byExchange (p: Packing, { items }: Waiting, budget: Budget): boolean {
  const { need, dims } = p
  let best = NOWHERE
  let bestFor = NOWHERE
  let gain = 1e-12
  for (let b = 0; b < p.bins && budget.looks > 0; b++) {
    if (p.changed[b] === 0) continue
    for (let i = p.first[b] as number; i !== NOWHERE; i = p.next[i] as number) {
      const size = p.size[i] as number
      for (const u of items) {
        const less = size - (p.size[u] as number)
        if (less <= gain) break
        budget.looks--
        if (fitsWithout(p, need, u * dims, b, i)) [best, bestFor, gain] = [i, u, less]
      }
    }
  }
  if (best === NOWHERE) return false
  const b = p.at[best] as number
  take(p, best)
  put(p, bestFor, b)
  // what has come out has not been tried anywhere
  p.changed.fill(1)
  return true
}

function waiting (p: Packing): Waiting {
  const items: number[] = []
  for (let i = 0; i < p.items; i++) if (p.at[i] === NOWHERE) items.push(i)
  items.sort((a, b) => (p.size[a] as number) - (p.size[b] as number) || a - b)
  const { dims, need } = p
  const least = new Float64Array(dims).fill(Number.POSITIVE_INFINITY)
  const second = least.slice()
  const all = new Float64Array(dims)
  for (let d = 0; d < dims; d++) {
    for (const i of items) {
      const one = need[i * dims + d] as number
      second[d] = Math.min(second[d] as number, Math.max(one, least[d] as number))
      least[d] = Math.min(least[d] as number, one)
    }
    for (let b = 0; b < p.bins; b++) all[d] = (all[d] as number) + (p.free[b * dims + d] as number)
  }
  return { items, able: items.filter(i => all.every((free, d) => (need[i * dims + d] as number) <= free)), least, leastOfTwo: least.map((one, d) => one + (second[d] as number)) }
}

/** xorshift32 of a fixed seed: shakes the same way each time. In an array, as a closure would box it. */
const chance = (): Int32Array => Int32Array.of(0x9E3779B9)

/** The next 32 bits. */
function draw (state: Int32Array): number {
  let bits = state[0] as number
  bits ^= bits << 13
  bits ^= bits >>> 17
  bits ^= bits << 5
  state[0] = bits
  return bits
}

/** Tries for each swap of a shake: most do not fit. */
const TRIES = 40
/** An item drawn is tried against so many in a row: less to draw for each try. */
const ROW = 4

/**
 * Swaps items between bins at random where they fit: three times of four only where what is left gets
 * less even, as one more needs it in one bin; else anyhow, and with items that are not placed as well,
 * to get away from where no such swap is left.
 *
 * @returns whether other items are placed than before, as many
 */
function shake (p: Packing, state: Int32Array, budget: Budget): boolean {
  const { items, at, size } = p
  const how = draw(state)
  const anyhow = (how & 3) === 0
  let others = false
  let swaps = 3 + (how >>> 2 & 3)
  for (let tries = TRIES * swaps; swaps > 0 && tries > 0; tries -= ROW) {
    const bits = draw(state)
    const i = (bits & 0xFFFF) * items >>> 16
    let j = (bits >>> 16) * items >>> 16
    const a = at[i] as number
    budget.looks--
    if (a === NOWHERE) continue
    for (let row = 0; row < ROW; row++) {
      if (++j === items) j = 0
      const b = at[j] as number
      budget.looks--
      if (a === b) continue
      if (b === NOWHERE) {
        if (!anyhow || !fitsWithout(p, p.need, j * p.dims, a, i)) continue
        take(p, i)
        put(p, j, a)
        others = true
      } else {
        if (!canSwap(p, i, a, j, b)) continue
        const more = (size[i] as number) - (size[j] as number)
        if (!anyhow && more * (leftIn(p, a) - leftIn(p, b) + more) < 0) continue
        take(p, i)
        move(p, j, a)
        put(p, i, b)
      }
      swaps--
      break
    }
  }
  return others
}

/**
 * Places as many items as it finds room for.
 *
 * @param most ends there: no more can fit
 * @param budget looks that may be spent
 */
export function repair (p: Packing, most: number, budget: Budget): void {
  const state = chance()
  p.changed.fill(1)
  let out = waiting(p)
  // Nothing below ever places fewer; of as many, what follows the last that was placed has mostly smaller ones.
  let best = p.at.slice()
  let shaken = false
  while (budget.looks > 0) {
    const more = (!shaken && byMove(p, out, budget)) || byRoom(p, out, budget) || byTwo(p, out, budget) || byPair(p, out, budget)
    if (more) best = p.at.slice()
    if (more || byExchange(p, out, budget)) {
      out = waiting(p)
      if (p.items - out.items.length >= most) break
      continue
    }
    // All has been tried: only what changes from here on is worth a look.
    p.changed.fill(0)
    shaken = true
    if (shake(p, state, budget)) {
      out = waiting(p)
      p.changed.fill(1)
    }
  }
  restore(p, best)
}

function restore (p: Packing, at: Int32Array): void {
  for (let i = 0; i < p.items; i++) if (p.at[i] !== NOWHERE && p.at[i] !== at[i]) take(p, i)
  for (let i = 0; i < p.items; i++) if (p.at[i] !== at[i]) put(p, i, at[i] as number)
}
