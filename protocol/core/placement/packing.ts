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
  /** of each bin one of its items, and of each item another of the same bin: lists that end with `NOWHERE` */
  readonly first: Int32Array
  readonly next: Int32Array
  readonly before: Int32Array
  /** bins that have changed since it was last cleared: 1 */
  readonly changed: Uint8Array
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
  const need = new Float64Array(needs.length * dims)
  const free = new Float64Array(bins.length * dims)
  const weight = Float64Array.from(fields, (field, d) => {
    let [demand, supply] = [0, 0]
    for (const [i, one] of needs.entries()) demand += need[i * dims + d] = one[field]
    for (const [b, bin] of bins.entries()) supply += free[b * dims + d] = Math.max(0, bin.free[field])
    return supply === 0 ? 0 : demand / supply / supply
  })
  const size = Float64Array.from(needs, (_, i) => weight.reduce((sum, w, d) => sum + w * (need[i * dims + d] as number), 0))
  return {
    items: needs.length, bins: bins.length, dims, need, free, at: new Int32Array(needs.length).fill(NOWHERE),
    count: Int32Array.from(bins, bin => bin.taken), first: new Int32Array(bins.length).fill(NOWHERE), next: new Int32Array(needs.length), before: new Int32Array(needs.length),
    changed: new Uint8Array(bins.length), maxPerBin, size, weight
  }
}

/** The same items and bins, with what is placed so far, to go on with apart from it. */
export const copyOf = (p: Packing): Packing => ({
  ...p, free: p.free.slice(), at: p.at.slice(), count: p.count.slice(), first: p.first.slice(), next: p.next.slice(), before: p.before.slice(), changed: p.changed.slice()
})

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
  p.changed[b] = 1
  const second = p.first[b] as number
  p.first[b] = i
  p.next[i] = second
  p.before[i] = NOWHERE
  if (second !== NOWHERE) p.before[second] = i
}

/** Takes an item out of its bin. */
export function take (p: Packing, i: number): void {
  const b = p.at[i] as number
  const { dims, need, free } = p
  for (let d = 0; d < dims; d++) free[b * dims + d] = (free[b * dims + d] as number) + (need[i * dims + d] as number)
  p.at[i] = NOWHERE
  p.count[b] = (p.count[b] as number) - 1
  p.changed[b] = 1
  const [before, next] = [p.before[i] as number, p.next[i] as number]
  if (before === NOWHERE) p.first[b] = next
  else p.next[before] = next
  if (next !== NOWHERE) p.before[next] = before
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
 * The bin where least is left, of these that take item `i`: the norm-based greedy of Panigrahy et al.,
 * so that no dimension is stranded.
 */
function tightest (p: Packing, i: number, among: readonly number[]): number {
  const { dims, need, free, weight } = p
  let best = NOWHERE
  let least = Number.POSITIVE_INFINITY
  for (const b of among) {
    if (!fitsIn(p, i, b)) continue
    let norm = 0
    for (let d = 0; d < dims; d++) {
      const left = (weight[d] as number) * ((free[b * dims + d] as number) - (need[i * dims + d] as number))
      norm += left * left
    }
    if (norm < least) [best, least] = [b, norm]
  }
  return best
}

/** How many of the mean item each bin takes. */
function timesOf (p: Packing, order: readonly number[]): Float64Array {
  const { dims, need, free, count, maxPerBin } = p
  const mean = new Float64Array(dims)
  for (const i of order) for (let d = 0; d < dims; d++) mean[d] = (mean[d] as number) + (need[i * dims + d] as number) / order.length
  return Float64Array.from(count, (taken, b) => {
    let times = maxPerBin - taken
    for (let d = 0; d < dims; d++) {
      const of = mean[d] as number
      // what is the mean of equal numbers may be a last digit above them
      if (of > 0) times = Math.min(times, Math.floor((free[b * dims + d] as number) / of + 1e-9))
    }
    return times
  })
}

/**
 * Fewest bins: those that the cluster is in are filled, the tightest first, before another is opened:
 * the one that takes most of the mean item, at most all that are left; of equals the first.
 */
function packInto (p: Packing, order: readonly number[]): void {
  const used: number[] = []
  for (let b = 0; b < p.bins; b++) if ((p.count[b] as number) > 0) used.push(b)
  const times = timesOf(p, order)
  const closed = Array.from({ length: p.bins }, (_, b) => b).filter(b => p.count[b] === 0).sort((a, b) => (times[b] as number) - (times[a] as number) || a - b)
  let left = order.length
  for (const i of order) {
    let bin = tightest(p, i, used)
    if (bin === NOWHERE) {
      for (const b of closed) {
        const enough = (times[b] as number) >= left
        if (bin !== NOWHERE && !(enough && b < bin)) {
          if (enough) continue
          break
        }
        if (p.count[b] === 0 && fitsIn(p, i, b)) bin = b
        if (bin !== NOWHERE && !enough) break
      }
      if (bin !== NOWHERE) used.push(bin)
    }
    left--
    if (bin !== NOWHERE) put(p, i, bin)
  }
}

/** Evenly: each where the fewest are; of equals where most is left. */
function spreadOver (p: Packing, order: readonly number[], byCount: boolean): void {
  const room = Float64Array.from({ length: p.bins }, (_, b) => leftIn(p, b))
  for (const i of order) {
    let best = NOWHERE
    for (let b = 0; b < p.bins; b++) {
      const fewer = byCount && best !== NOWHERE ? (p.count[best] as number) - (p.count[b] as number) : 0
      const better = best === NOWHERE || fewer > 0 || (fewer === 0 && (room[b] as number) > (room[best] as number))
      if (better && fitsIn(p, i, b)) best = b
    }
    if (best === NOWHERE) continue
    put(p, i, best)
    room[best] = leftIn(p, best)
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
    let dot = 0
    let length = 0
    for (let d = 0, n = i * dims, f = b * dims; d < dims; d++) {
      const left = (free[f + d] as number) * (weight[d] as number)
      dot += left * (need[n + d] as number) * (weight[d] as number)
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

export function placedIn ({ at, items }: Packing): number {
  let placed = 0
  for (let i = 0; i < items; i++) if (at[i] !== NOWHERE) placed++
  return placed
}
