/** Items into bins: all of them by the rule that is asked for, or else as many as are found to fit. */
import type { Resources } from '../capacity.ts'
import { type Bin, type PackTerms, type Packing, bySize, copyOf, emptyPacking, fill, fillAligned, placedIn } from './packing.ts'
import { repair } from './repair.ts'

/**
 * Looks that a repair may spend, some 12 ns each. Of the items of the benchmark (`npm run bench -- placement`)
 * half as many looks place 0.3 % less, twice as many 0.2 % more.
 */
const MAX_LOOKS = 11_000
/** And one for so many pairs of an item and a bin: it is by these that a large site is gone through once. */
const PAIRS_A_LOOK = 8
/** First packings that are tried, each of one item less: as many as these looks allow, none for hundreds of items and bins. */
const MAX_SUBSETS = 24
const MAX_SUBSET_LOOKS = 120_000

/** At most so many items can ever be placed: in each dimension the smallest ones into all that is free. */
function atMost (p: Packing): number {
  let most = p.items
  for (let d = 0; d < p.dims; d++) {
    let supply = 0
    for (let b = d; b < p.free.length; b += p.dims) supply += p.free[b] as number
    let fit = 0
    const needs = new Float64Array(p.items)
    for (let i = 0; i < p.items; i++) needs[i] = p.need[i * p.dims + d] as number
    for (const need of needs.sort()) {
      supply -= need
      if (supply < 0) break
      fit++
    }
    most = Math.min(most, fit)
  }
  return most
}

const allAlike = ({ items, dims, need }: Packing): boolean => {
  for (let k = dims; k < items * dims; k++) if (need[k] !== need[k - dims]) return false
  return true
}

/**
 * Where each item goes. When the rule's greedy packing takes all of them that is the answer. Else the
 * smallest that could fit together are put in from the largest down, each where it is most like what
 * is free; the best of these is repaired. What counts then is how many are placed, each as one.
 *
 * @returns by item its bin, or `NOWHERE`; equal input gives equal output, in bounded steps
 */
export function placeMost (needs: readonly Resources[], bins: readonly Bin[], terms: PackTerms): Int32Array {
  const empty = emptyPacking(needs, bins, terms)
  const first = copyOf(empty)
  const order = bySize(first)
  fill(first, order, terms.rule)
  // Alike, none is in the way of another: the greedy packing has as many as there can be.
  if (placedIn(first) === needs.length || allAlike(first)) return first.at
  const most = atMost(empty)
  let best = first
  const subsets = Math.min(MAX_SUBSETS, Math.floor(MAX_SUBSET_LOOKS / (first.items * first.bins + 1)))
  for (let k = most; k > most - subsets && k > placedIn(best); k--) {
    const p = copyOf(empty)
    fillAligned(p, order.slice(p.items - k))
    fillAligned(p, order.slice(0, p.items - k).reverse())
    if (placedIn(p) > placedIn(best)) best = p
  }
  if (placedIn(best) < most) repair(best, most, { looks: MAX_LOOKS + Math.floor(best.items * best.bins / PAIRS_A_LOOK) })
  return best.at
}
