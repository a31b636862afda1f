/** Plain nodes over sites: on the fewest, or evenly over the most. */
import type { Candidate } from './candidates.ts'

export type Shares = Map<string, number>

const sumOf = (slots: readonly number[]): number => slots.reduce((a, b) => a + b, 0)

/** `best[i]`: the sum of the `k` largest slots from candidate `i` on, for each `k` up to `most`. */
function largestFrom (candidates: readonly Candidate[], most: number): number[][] {
  const best: number[][] = Array.from({ length: candidates.length + 1 }, () => [])
  let top: number[] = []
  for (let i = candidates.length - 1; i >= 0; i--) {
    const slots = candidates[i]?.slots ?? 0
    const at = top.findIndex(one => one < slots)
    top = [...top.slice(0, at < 0 ? top.length : at), slots, ...at < 0 ? [] : top.slice(at)].slice(0, most)
    let sum = 0
    best[i] = [0, ...top.map(one => (sum += one))]
  }
  best[candidates.length] = [0]
  return best
}

/**
 * On as few sites as possible; of sets with as few, the one that comes first when compared site by
 * site in the order of `candidates`.
 *
 * @returns null when they do not go on `mostSites` of them
 */
export function onFewest (count: number, candidates: readonly Candidate[], mostSites: number): Shares | null {
  const shares: Shares = new Map()
  if (count === 0) return shares
  const able = candidates.filter(one => one.slots > 0)
  const sorted = able.map(one => one.slots).sort((a, b) => b - a)
  let sites = 1
  while (sites <= sorted.length && sumOf(sorted.slice(0, sites)) < count) sites++
  if (sites > sorted.length || sites > mostSites) return null
  const best = largestFrom(able, sites)
  let left = count
  for (const [i, { site, slots }] of able.entries()) {
    // Without it the rest must still do with one site less; with it, too.
    const others = best[i + 1]?.[Math.min(sites - 1, (best[i + 1]?.length ?? 1) - 1)] ?? 0
    if (slots + others < left) continue
    shares.set(site, Math.min(slots, left))
    left -= slots
    sites--
    if (left <= 0) break
  }
  return shares
}

/**
 * Evenly, counting what the cluster has there already: each node where the fewest are, of equals at
 * the first in the order of `candidates`.
 *
 * @param used sites of the cluster so far, which count against `mostSites`
 * @returns null when they do not go on `mostSites` of them
 */
export function onMost (count: number, candidates: readonly Candidate[], used: ReadonlySet<string>, mostSites: number): Shares | null {
  const shares: Shares = new Map()
  const sites = new Set(used)
  const of = (site: string): number => shares.get(site) ?? 0
  for (let n = 0; n < count; n++) {
    let best: Candidate | undefined
    for (const one of candidates) {
      if (of(one.site) >= one.slots || (!sites.has(one.site) && sites.size >= mostSites)) continue
      if (best === undefined || one.has + of(one.site) < best.has + of(best.site)) best = one
    }
    if (best === undefined) return null
    shares.set(best.site, of(best.site) + 1)
    sites.add(best.site)
  }
  return shares
}
