import type { SearchQuery } from '../../api.ts'
import { InvalidInputError } from '../errors.ts'
import { DEFAULT_SEARCH_LIMIT, MAX_TERM_MS, MIN_TERM_MS } from '../limits.ts'
import { spanText } from './text.ts'

/** What a search asks for where it does not say. */
export const searchDefaults = { nodes: 1, vcpus: 1, memoryMib: 768, diskMib: 0, volumeMib: 0, limit: DEFAULT_SEARCH_LIMIT } as const

/** A search with every default filled in; `termMs` is null where it names no time. */
export interface FullQuery {
  readonly nodes: number
  readonly vcpus: number
  readonly memoryMib: number
  readonly diskMib: number
  readonly volumeMib: number
  readonly roles: readonly string[]
  readonly features: readonly string[]
  readonly sites: readonly string[]
  readonly notSites: readonly string[]
  readonly maxRttMs: number | null
  readonly maxPriceMilli: number | null
  readonly termMs: number | null
  readonly limit: number
}

const unique = (names: readonly string[] | undefined): string[] => [...new Set(names ?? [])]

/** Length of the asked time window. @throws InvalidInputError when it is half, empty, or no lease can be that long or short */
function termOf ({ startMs, endMs }: Partial<SearchQuery>): number | null {
  if (startMs === undefined && endMs === undefined) return null
  if (startMs === undefined || endMs === undefined) throw new InvalidInputError(`${startMs === undefined ? 'endMs without startMs' : 'startMs without endMs'} is no time window`, 'give both, or neither')
  const termMs = endMs - startMs
  if (termMs <= 0) throw new InvalidInputError('the time window ends before it starts', 'endMs must be later than startMs')
  if (termMs < MIN_TERM_MS || termMs > MAX_TERM_MS) throw new InvalidInputError(`a time window of ${spanText(termMs)} cannot be leased`, `leases run from ${spanText(MIN_TERM_MS)} to ${spanText(MAX_TERM_MS)}`)
  return termMs
}

/** Fills the defaults. @throws InvalidInputError when its times contradict each other */
export function fullQuery (query: Partial<SearchQuery>): FullQuery {
  return {
    ...searchDefaults,
    ...query,
    roles: unique(query.roles), features: unique(query.features), sites: unique(query.sites), notSites: unique(query.notSites),
    maxRttMs: query.maxRttMs ?? null, maxPriceMilli: query.maxPriceMilli ?? null, termMs: termOf(query)
  }
}
