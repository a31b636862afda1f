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

/** Whether two bins together have room for item `u`: else nothing that goes between them makes room for it. */
function haveRoom (p: Packing, u: number, b: number, c: number): boolean {
  const { dims, need, free } = p
  for (let d = 0, n = u * dims, f = b * dims, g = c * dims; d < dims; d++) {
    if ((need[n + d] as number) > (free[f + d] as number) + (free[g + d] as number)) return false
  }
  return true
}

function move (p: Packing, i: number, to: number): void {
  take(p, i)
  put(p, i, to)
}

/** Puts item `u` into bin `b`, from which another goes to `c`, for nothing or for one of `c`. */
function intoPair (p: Packing, u: number, b: number, c: number, budget: Budget): boolean {
  const more = (p.count[b] as number) < p.maxPerBin
  for (let i = p.first[b] as number; i !== NOWHERE; i = p.next[i] as number) {
    budget.looks--
    if (!fitsWithout(p, u, b, i)) continue
    if (fitsIn(p, i, c)) {
      move(p, i, c)
      put(p, u, b)
      return true
    }
    if (!more) continue
    for (let j = p.first[c] as number; j !== NOWHERE; j = p.next[j] as number) {
      budget.looks--
      if (!fitsWithout(p, i, c, j) || !fitsAfterSwap(p, u, b, i, j)) continue
      take(p, i)
      move(p, j, b)
      put(p, i, c)
      put(p, u, b)
      return true
    }
  }
  return false
}

/** Puts item `u` where it fits, or where a move or a swap between two bins makes room. */
function place (p: Packing, u: number, budget: Budget): boolean {
  const { bins, changed } = p
  let best = NOWHERE
  let least = Number.POSITIVE_INFINITY
  budget.looks -= bins
  for (let b = 0; b < bins; b++) {
    if (changed[b] === 0 || !fitsIn(p, u, b)) continue
    const left = leftIn(p, b)
    if (left < least) [best, least] = [b, left]
  }
  if (best !== NOWHERE) {
    put(p, u, best)
    return true
  }
  for (let b = 1; b < bins && budget.looks > 0; b++) {
    for (let c = 0; c < b; c++) {
      if (changed[b] === 0 && changed[c] === 0) continue
      budget.looks--
      if (haveRoom(p, u, b, c) && (intoPair(p, u, b, c, budget) || intoPair(p, u, c, b, budget))) return true
    }
  }
  return false
}

/** Two items that are not placed for one that is. */
function byTwo (p: Packing, out: readonly number[], budget: Budget): boolean {
  for (let b = 0; b < p.bins && budget.looks > 0; b++) {
    if (p.changed[b] === 0 || (p.count[b] as number) >= p.maxPerBin) continue
    for (let i = p.first[b] as number; i !== NOWHERE; i = p.next[i] as number) {
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
  }
  return false
}

/** A smaller item for a placed larger one: as many are placed, and more is left. */
function byExchange (p: Packing, out: readonly number[], budget: Budget): boolean {
  let best = -1
  let bestFor = -1
  let gain = 1e-12
  for (let b = 0; b < p.bins && budget.looks > 0; b++) {
    if (p.changed[b] === 0) continue
    for (let i = p.first[b] as number; i !== NOWHERE; i = p.next[i] as number) {
      const size = p.size[i] as number
      for (const u of out) {
        budget.looks--
        if (size - (p.size[u] as number) <= gain) break
        if (!fitsWithout(p, u, b, i)) continue
        ;[best, bestFor, gain] = [i, u, size - (p.size[u] as number)]
      }
    }
  }
  if (best === -1) return false
  const b = p.at[best] as number
  take(p, best)
  put(p, bestFor, b)
  p.changed.fill(1)
  return true
}

/** The smallest first. */
const unplaced = (p: Packing): number[] => {
  const out: number[] = []
  for (let i = 0; i < p.items; i++) if (p.at[i] === NOWHERE) out.push(i)
  return out.sort((a, b) => (p.size[a] as number) - (p.size[b] as number) || a - b)
}

/** One more item placed, or what is placed made smaller; false when nothing of that is possible. */
function improve (p: Packing, budget: Budget): boolean {
  const out = unplaced(p)
  for (const u of out) if (place(p, u, budget)) return true
  if (byTwo(p, out, budget) || byExchange(p, out, budget)) return true
  p.changed.fill(0)
  return false
}

/** xorshift32 of a fixed seed: shakes the same way each time. */
function chance (seed: number): (below: number) => number {
  let state = seed | 1
  return below => {
    state ^= state << 13
    state ^= state >>> 17
    state ^= state << 5
    return Math.floor((state >>> 0) * 2 ** -32 * below)
  }
}

/** Whether placed items may change places: `i` fits without `j` where that is, and the reverse. */
function canSwap (p: Packing, i: number, j: number): boolean {
  const { dims, need, free, at } = p
  for (let d = 0, n = i * dims, m = j * dims, f = (at[i] as number) * dims, g = (at[j] as number) * dims; d < dims; d++) {
    const more = (need[n + d] as number) - (need[m + d] as number)
    if (more > (free[g + d] as number) || -more > (free[f + d] as number)) return false
  }
  return true
}

/** Swaps items between bins at random where they fit, so that what is left lies elsewhere. */
function shake (p: Packing, swaps: number, next: (below: number) => number, budget: Budget): void {
  for (let n = 0, tries = 0; n < swaps && tries < 20 * swaps; tries++) {
    const i = next(p.items)
    const j = next(p.items)
    const a = p.at[i] as number
    const b = p.at[j] as number
    budget.looks--
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
      if (!canSwap(p, i, j)) continue
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
  p.changed.fill(1)
  let best = { at: p.at.slice(), ...worth(p) }
  // Goes on from where least is taken, which leaves most room for one more.
  let from = best
  for (;;) {
    while (budget.looks > 0 && improve(p, budget)) { /* as long as it gets better */ }
    const now = { at: p.at.slice(), ...worth(p) }
    if (now.placed > best.placed || (now.placed === best.placed && now.size > best.size)) best = now
    if (now.placed > from.placed || (now.placed === from.placed && now.size <= from.size)) from = now
    else {
      restore(p, from.at)
      p.changed.fill(0)
    }
    if (budget.looks <= 0 || best.placed >= most) break
    shake(p, 3 + next(4), next, budget)
  }
  restore(p, best.at)
}

function restore (p: Packing, at: Int32Array): void {
  for (let i = 0; i < p.items; i++) if (p.at[i] !== NOWHERE && p.at[i] !== at[i]) take(p, i)
  for (let i = 0; i < p.items; i++) if (p.at[i] !== at[i]) put(p, i, at[i] as number)
}
