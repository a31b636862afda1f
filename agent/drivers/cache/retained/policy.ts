/** What a gateway keeps of caches whose clusters are over, and what goes first. Pure. */
import { RETAINED_STORES_MAX } from '../../../../protocol/core/limits.ts'

/** What a site grants to stores that outlive their clusters, on one gateway; any of them 0: nothing is kept. */
export interface RetainLimits {
  totalBytes: number
  ownerBytes: number
  /** since the last cluster that used the store */
  maxMs: number
}

/** Nothing outlives its cluster. */
export const RETAIN_NOTHING: RetainLimits = { totalBytes: 0, ownerBytes: 0, maxMs: 0 }

/** A store as far as its stay depends on it. */
export interface Stay {
  id: string
  owner: string
  bytes: number
  /** when the cluster that used it was removed, Unix ms */
  lastUsedMs: number
  /** end of what its cluster asked for, Unix ms */
  untilMs: number
}

/** When a store goes, whatever room there is, Unix ms. */
export const endOf = ({ lastUsedMs, untilMs }: Pick<Stay, 'lastUsedMs' | 'untilMs'>, { maxMs }: Pick<RetainLimits, 'maxMs'>): number => Math.min(untilMs, lastUsedMs + maxMs)

/** The largest store that these limits let stay; 0: none. */
export const storeBytesMax = ({ totalBytes, ownerBytes, maxMs }: RetainLimits): number => maxMs > 0 ? Math.min(totalBytes, ownerBytes) : 0

/** The most recently used ones that fit. */
function lastUsed (stores: readonly Stay[], bytesMax: number, countMax = Infinity): Stay[] {
  const kept: Stay[] = []
  let sum = 0
  for (const store of stores) {
    sum += store.bytes
    if (sum > bytesMax || kept.length >= countMax) break
    kept.push(store)
  }
  return kept
}

/** Ids of the stores that go: those whose time is over, then the least recently used, of an owner that has too much first. */
export function toDrop (stores: readonly Stay[], nowMs: number, limits: RetainLimits): string[] {
  // what would be too large alone makes no other one go
  const most = storeBytesMax(limits)
  const alive = stores.filter(store => most > 0 && store.bytes <= most && endOf(store, limits) > nowMs)
    .toSorted((a, b) => b.lastUsedMs - a.lastUsedMs || (a.id < b.id ? -1 : 1))
  const fair = new Set([...new Set(alive.map(({ owner }) => owner))].flatMap(owner => lastUsed(alive.filter(one => one.owner === owner), limits.ownerBytes)))
  const kept = new Set(lastUsed(alive.filter(one => fair.has(one)), limits.totalBytes, RETAINED_STORES_MAX).map(({ id }) => id))
  return stores.filter(({ id }) => !kept.has(id)).map(({ id }) => id)
}
