/**
 * Makes room for what a greedy packing left out: moves, swaps and exchanges of placed items, each
 * checked before it is made. Bounded by looks (one item against one bin), not by time: equal input
 * gives equal output on any machine.
 */
import { NOWHERE, type Packing, fitsIn, leftIn, put, take } from './packing.ts'

/** Counts down; at nothing the repair ends with what it has. */
export interface Budget { looks: number }

/** Whether item `i` fits in bin `b` once item `out`, which is there, has gone. */
function fitsWithout (p: Packing, i: number, b: number, out: number): boolean {
  const { dims, need, free } = p
  for (let d = 0, n = i * dims, f = b * dims, o = out * dims; d < dims; d++) {
    if ((need[n + d] as number) > (free[f + d] as number) + (need[o + d] as number)) return false
  }
  return true
}

/** Whether item `i` fits in bin `b` once `out` has gone from it and `back` has come. */
function fitsAfterSwap (p: Packing, i: number, b: number, out: number, back: number): boolean {
  const { dims, need, free } = p
  for (let d = 0; d < dims; d++) {
    if ((need[i * dims + d] as number) + (need[back * dims + d] as number) > (free[b * dims + d] as number) + (need[out * dims + d] as number)) return false
  }
  return true
}

/** The bin that takes an item, other than `not`, with least left; `NOWHERE` when none does. */
export function binFor (p: Packing, i: number, not: number, budget: Budget): number {
  let best = NOWHERE
  let least = Number.POSITIVE_INFINITY
  budget.looks -= p.bins
  for (let b = 0; b < p.bins; b++) {
    if (b === not || !fitsIn(p, i, b)) continue
    const left = leftIn(p, b)
    if (left < least) [best, least] = [b, left]
  }
  return best
}

function move (p: Packing, i: number, to: number): void {
  take(p, i)
  put(p, i, to)
}

/** Puts an item into the bin of another, which goes elsewhere. */
function byMove (p: Packing, u: number, budget: Budget): boolean {
  for (let i = 0; i < p.items && budget.looks > 0; i++) {
    const b = p.at[i] as number
    budget.looks--
    if (b === NOWHERE || !fitsWithout(p, u, b, i)) continue
    const to = binFor(p, i, b, budget)
    if (to === NOWHERE) continue
    move(p, i, to)
    put(p, u, b)
    return true
  }
  return false
}

/** Puts an item into a bin where a swap with another bin makes room. */
function bySwap (p: Packing, u: number, budget: Budget): boolean {
  for (let i = 0; i < p.items && budget.looks > 0; i++) {
    const b = p.at[i] as number
    budget.looks--
    if (b === NOWHERE || (p.count[b] as number) >= p.maxPerBin || !fitsWithout(p, u, b, i)) continue
    for (let j = 0; j < p.items; j++) {
      const other = p.at[j] as number
      budget.looks--
      if (other === NOWHERE || other === b || !fitsWithout(p, i, other, j) || !fitsAfterSwap(p, u, b, i, j)) continue
      take(p, i)
      move(p, j, b)
      put(p, i, other)
      put(p, u, b)
      return true
    }
  }
  return false
}

/** Two items that are not placed for one that is. */
function byTwo (p: Packing, out: readonly number[], budget: Budget): boolean {
  for (let i = 0; i < p.items && budget.looks > 0; i++) {
    const b = p.at[i] as number
    if (b === NOWHERE || (p.count[b] as number) + 1 > p.maxPerBin) continue
    for (let x = 0; x < out.length; x++) {
      const first = out[x] as number
      budget.looks--
      if (!fitsWithout(p, first, b, i)) continue
      for (let y = x + 1; y < out.length; y++) {
        budget.looks--
        if (!fitsAfterSwap(p, out[y] as number, b, i, first)) continue
        take(p, i)
        put(p, first, b)
        put(p, out[y] as number, b)
        return true
      }
    }
  }
  return false
}

/** A smaller item for a placed larger one: as many are placed, and more is left. */
function byExchange (p: Packing, out: readonly number[], budget: Budget): boolean {
  let best = -1
  let bestFor = -1
  let gain = 1e-12
  for (const u of out) {
    for (let i = 0; i < p.items; i++) {
      const b = p.at[i] as number
      if (b === NOWHERE || (p.size[i] as number) - (p.size[u] as number) <= gain) continue
      budget.looks--
      if (!fitsWithout(p, u, b, i)) continue
      ;[best, bestFor, gain] = [i, u, (p.size[i] as number) - (p.size[u] as number)]
    }
    if (budget.looks <= 0) break
  }
  if (best === -1) return false
  const b = p.at[best] as number
  take(p, best)
  put(p, bestFor, b)
  return true
}

/** Swaps are looked for by pairs of placed items: for the smallest that are not placed, which is where most are found. */
const MAX_SWAPPED_IN = 3

/** The smallest first. */
const unplaced = (p: Packing): number[] => {
  const out: number[] = []
  for (let i = 0; i < p.items; i++) if (p.at[i] === NOWHERE) out.push(i)
  return out.sort((a, b) => (p.size[a] as number) - (p.size[b] as number) || a - b)
}

/** One more item placed, or what is placed made smaller; false when nothing of that is possible. */
function improve (p: Packing, budget: Budget): boolean {
  const out = unplaced(p)
  for (const u of out) {
    const b = binFor(p, u, NOWHERE, budget)
    if (b === NOWHERE) continue
    put(p, u, b)
    return true
  }
  for (const u of out) if (byMove(p, u, budget)) return true
  for (const u of out.slice(0, MAX_SWAPPED_IN)) if (bySwap(p, u, budget)) return true
  return byTwo(p, out, budget) || byExchange(p, out, budget)
}

/** xorshift32 of a fixed seed: shakes the same way each time. */
function chance (seed: number): (below: number) => number {
  let state = seed | 1
  return below => {
    state ^= state << 13
    state ^= state >>> 17
    state ^= state << 5
    return (state >>> 0) % below
  }
}

/** Swaps items between bins at random where they fit, so that what is left lies elsewhere. */
function shake (p: Packing, swaps: number, next: (below: number) => number, budget: Budget): void {
  for (let n = 0, tries = 0; n < swaps && tries < 20 * swaps; tries++) {
    const [i, j] = [next(p.items), next(p.items)]
    const [a, b] = [p.at[i] as number, p.at[j] as number]
    budget.looks -= 2
    if (a === b) continue
    if (b === NOWHERE) {
      if (!fitsWithout(p, j, a, i)) continue
      take(p, i)
      put(p, j, a)
    } else if (a === NOWHERE) {
      if (!fitsWithout(p, i, b, j)) continue
      take(p, j)
      put(p, i, b)
    } else {
      if (!fitsWithout(p, i, b, j) || !fitsWithout(p, j, a, i)) continue
      take(p, i)
      move(p, j, a)
      put(p, i, b)
    }
    n++
  }
}

/** How many are placed, and how much they are together. */
function worth (p: Packing): { placed: number, size: number } {
  let [placed, size] = [0, 0]
  for (let i = 0; i < p.items; i++) {
    if (p.at[i] === NOWHERE) continue
    placed++
    size += p.size[i] as number
  }
  return { placed, size }
}

/**
 * Places as many items as it finds room for; of as many the larger ones, where it has met both.
 *
 * @param most ends there: no more can fit
 * @param budget looks that may be spent
 */
export function repair (p: Packing, most: number, budget: Budget): void {
  const next = chance(0x9E3779B9)
  let best = { at: p.at.slice(), ...worth(p) }
  // Goes on from where least is taken, which leaves most room for one more.
  let from = best
  for (;;) {
    while (budget.looks > 0 && improve(p, budget)) { /* as long as it gets better */ }
    const now = { at: p.at.slice(), ...worth(p) }
    if (now.placed > best.placed || (now.placed === best.placed && now.size > best.size)) best = now
    if (now.placed > from.placed || (now.placed === from.placed && now.size <= from.size)) from = now
    else restore(p, from.at)
    if (budget.looks <= 0 || best.placed >= most) break
    shake(p, 3 + next(4), next, budget)
  }
  restore(p, best.at)
}

function restore (p: Packing, at: Int32Array): void {
  for (let i = 0; i < p.items; i++) if (p.at[i] !== NOWHERE) take(p, i)
  for (let i = 0; i < p.items; i++) if (at[i] !== NOWHERE) put(p, i, at[i] as number)
}
