/**
 * Items into bins of several dimensions: what is where, what is left, and the greedy rules that
 * make a first packing of it. Everything is an index: names, and their order, are the caller's.
 */
import type { Resources } from '../capacity.ts'

export interface Bin {
  free: Resources
  /** items of the same cluster that are there already: they count against `maxPerBin` */
  taken: number
}

/** `pack`: on as few bins as possible; `spread`: as evenly as possible; `roomiest`: each where most is free. */
export type PackRule = 'pack' | 'spread' | 'roomiest'

export interface PackTerms {
  rule: PackRule
  /** at most so many items in a bin, with those that are there already; infinite: no limit */
  maxPerBin: number
}

const FIELDS = ['vcpus', 'memoryMib', 'diskMib', 'volumes', 'bandwidthMbit'] as const satisfies ReadonlyArray<keyof Resources>

/** Not placed. */
export const NOWHERE = -1

/** A packing that changes: `at[i]` is the bin of item `i`, or `NOWHERE`. */
export interface Packing {
  readonly items: number
  readonly bins: number
  /** dimensions that any item needs */
  readonly dims: number
  /** by item and dimension */
  readonly need: Float64Array
  /** by bin and dimension: never below zero where an item was put */
  readonly free: Float64Array
  readonly at: Int32Array
  /** items of the cluster in each bin */
  readonly count: Int32Array
  readonly maxPerBin: number
  /**
   * How much an item is, in one figure: its part of all that is free, each dimension weighed by how
   * scarce it is. The weights are the averages of R. Panigrahy, K. Talwar, L. Uyeda and U. Wieder,
   * "Heuristics for Vector Bin Packing" (Microsoft Research, 2011): demand by supply.
   */
  readonly size: Float64Array
  /** weight of one unit of each dimension in `size` */
  readonly weight: Float64Array
}

/** A packing with nothing placed. */
export function emptyPacking (needs: readonly Resources[], bins: readonly Bin[], { maxPerBin }: PackTerms): Packing {
  const fields = FIELDS.filter(field => needs.some(need => need[field] > 0))
  const dims = fields.length
  const need = Float64Array.from(needs.flatMap(one => fields.map(field => one[field])))
  const free = Float64Array.from(bins.flatMap(bin => fields.map(field => Math.max(0, bin.free[field]))))
  const weight = Float64Array.from(fields, (_, d) => {
    let [demand, supply] = [0, 0]
    for (let i = d; i < need.length; i += dims) demand += need[i] as number
    for (let b = d; b < free.length; b += dims) supply += free[b] as number
    return supply === 0 ? 0 : demand / supply / supply
  })
  const size = Float64Array.from(needs, (_, i) => weight.reduce((sum, w, d) => sum + w * (need[i * dims + d] as number), 0))
  return {
    items: needs.length, bins: bins.length, dims, need, free, at: new Int32Array(needs.length).fill(NOWHERE),
    count: Int32Array.from(bins, bin => bin.taken), maxPerBin, size, weight
  }
}

/** Whether item `i` goes into bin `b` as it is. */
export function fitsIn (p: Packing, i: number, b: number): boolean {
  if ((p.count[b] as number) >= p.maxPerBin) return false
  const { dims, need, free } = p
  for (let d = 0, n = i * dims, f = b * dims; d < dims; d++) {
    if ((need[n + d] as number) > (free[f + d] as number)) return false
  }
  return true
}

/** Puts an item where it fits; the caller has looked. */
export function put (p: Packing, i: number, b: number): void {
  const { dims, need, free } = p
  for (let d = 0; d < dims; d++) free[b * dims + d] = (free[b * dims + d] as number) - (need[i * dims + d] as number)
  p.at[i] = b
  p.count[b] = (p.count[b] as number) + 1
}

/** Takes an item out of its bin. */
export function take (p: Packing, i: number): void {
  const b = p.at[i] as number
  const { dims, need, free } = p
  for (let d = 0; d < dims; d++) free[b * dims + d] = (free[b * dims + d] as number) + (need[i * dims + d] as number)
  p.at[i] = NOWHERE
  p.count[b] = (p.count[b] as number) - 1
}

/** What is left in a bin, in the measure of `size`. */
export function leftIn (p: Packing, b: number): number {
  let left = 0
  for (let d = 0; d < p.dims; d++) left += (p.weight[d] as number) * (p.free[b * p.dims + d] as number)
  return left
}

/** Items from the largest to the smallest; of equals the first. */
export const bySize = (p: Packing): number[] =>
  Array.from({ length: p.items }, (_, i) => i).sort((a, b) => (p.size[b] as number) - (p.size[a] as number) || a - b)

/**
 * The bin where least is left, of those that take item `i`: what is left is compared with the item's
 * own proportions (the norm-based greedy of Panigrahy et al.), so that no dimension is stranded.
 */
function tightest (p: Packing, i: number, used: Uint8Array | null): number {
  const { dims, need, free, weight } = p
  let best = NOWHERE
  let least = Number.POSITIVE_INFINITY
  for (let b = 0; b < p.bins; b++) {
    if ((used !== null && used[b] === 0) || !fitsIn(p, i, b)) continue
    let norm = 0
    for (let d = 0; d < dims; d++) {
      const left = (weight[d] as number) * ((free[b * dims + d] as number) - (need[i * dims + d] as number))
      norm += left * left
    }
    if (norm < least) [best, least] = [b, norm]
  }
  return best
}

/** The bin that takes most of the mean of the items left, at most all; of equals the first. */
function opened (p: Packing, i: number, mean: Float64Array, left: number): number {
  const { dims, free, count, maxPerBin } = p
  let best = NOWHERE
  let most = -1
  for (let b = 0; b < p.bins; b++) {
    if (!fitsIn(p, i, b)) continue
    let times = Math.min(left, maxPerBin - (count[b] as number))
    for (let d = 0; d < dims; d++) {
      const of = mean[d] as number
      if (of > 0) times = Math.min(times, Math.floor((free[b * dims + d] as number) / of + 1e-9))
    }
    if (times > most) [best, most] = [b, times]
  }
  return best
}

/** Fewest bins: one is filled, the tightest first, before another is opened. */
function packInto (p: Packing, order: readonly number[]): void {
  const used = Uint8Array.from(p.count, taken => taken > 0 ? 1 : 0)
  const mean = new Float64Array(p.dims)
  let left = order.length
  for (const i of order) for (let d = 0; d < p.dims; d++) mean[d] = (mean[d] as number) + (p.need[i * p.dims + d] as number) / order.length
  for (const i of order) {
    const within = tightest(p, i, used)
    const bin = within === NOWHERE ? opened(p, i, mean, left) : within
    left--
    if (bin === NOWHERE) continue
    used[bin] = 1
    put(p, i, bin)
  }
}

/** Evenly: each where the fewest are; of equals where most is left. */
function spreadOver (p: Packing, order: readonly number[], byCount: boolean): void {
  for (const i of order) {
    let best = NOWHERE
    let room = 0
    for (let b = 0; b < p.bins; b++) {
      const fewer = byCount && best !== NOWHERE ? (p.count[best] as number) - (p.count[b] as number) : 0
      if (fewer < 0 || !fitsIn(p, i, b)) continue
      const left = leftIn(p, b)
      if (best === NOWHERE || fewer > 0 || left > room) [best, room] = [b, left]
    }
    if (best !== NOWHERE) put(p, i, best)
  }
}

/** Puts items in by a rule, in this order, each where the rule says or nowhere. */
export function fill (p: Packing, order: readonly number[], rule: PackRule): void {
  if (rule === 'pack') packInto(p, order)
  else spreadOver(p, order, rule === 'spread')
}

/**
 * The bin whose free resources are most like what item `i` needs: the largest cosine of both, each
 * dimension in its weight (the dot-product heuristic of Panigrahy et al.). Of equals the first.
 */
function aligned (p: Packing, i: number): number {
  const { dims, need, free, weight } = p
  let best = NOWHERE
  let most = -1
  for (let b = 0; b < p.bins; b++) {
    if (!fitsIn(p, i, b)) continue
    let [dot, length] = [0, 0]
    for (let d = 0; d < dims; d++) {
      const left = (free[b * dims + d] as number) * (weight[d] as number)
      dot += left * (need[i * dims + d] as number) * (weight[d] as number)
      length += left * left
    }
    const like = length === 0 ? 0 : dot * dot / length
    if (like > most) [best, most] = [b, like]
  }
  return best
}

/** Puts items in, in this order, each where it is most like what is free. */
export function fillAligned (p: Packing, order: readonly number[]): void {
  for (const i of order) {
    const bin = aligned(p, i)
    if (bin !== NOWHERE) put(p, i, bin)
  }
}

export const placedIn = (p: Packing): number => p.at.reduce((n, b) => n + (b === NOWHERE ? 0 : 1), 0)
