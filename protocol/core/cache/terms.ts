/**
 * What a cluster's specification says of its caches: read from what people write, carried by the document
 * as lines of text, checked by every host that gets it. Pure.
 */
import Type, { type Static } from 'typebox'
import type { CacheProfile } from '../desired.ts'
import { parseDuration } from '../notation/duration.ts'
import { InvalidInputError } from '../errors.ts'
import { MAX_CACHE_BUDGET_BYTES, MAX_CACHE_INDEXES, MAX_CACHE_PREFIX_CHARACTERS, MAX_CACHE_PREFIXES, MAX_CACHE_RATE_KBIT, MAX_CACHE_RETAIN_MS, MAX_CACHE_TERMS_CHARACTERS, MAX_SITES_PER_CLUSTER, MAX_VOLUME_MIB, MIN_CACHE_RETAIN_MS } from '../limits.ts'

const closed = { additionalProperties: false } as const
const Prefixes = (description: string) => Type.Optional(Type.Array(Type.String({ maxLength: MAX_CACHE_PREFIX_CHARACTERS }), { maxItems: MAX_CACHE_PREFIXES, description }))

/** `spec.cache` as a user writes it. */
export const cacheSectionSchema = Type.Object({
  size: Type.Optional(Type.String({ maxLength: 32, description: 'kept on each gateway, such as 8GiB; default 8GiB' })),
  profile: Type.Optional(Type.Object({
    immutable: Prefixes('path prefixes whose objects never change under one name'),
    validated: Prefixes('path prefixes that are kept as long as the frontend confirms them'),
    dynamic: Prefixes('path prefixes that are never kept'),
    indexes: Type.Optional(Type.Array(Type.Object({
      kind: Type.String({ maxLength: 16, description: 'debian (a Release), rpm (a repomd.xml) or manifest' }), path: Type.String({ maxLength: 512 })
    }, closed), { maxItems: MAX_CACHE_INDEXES, description: 'indexes on the frontend that name objects with their SHA-256' }))
  }, closed)),
  preheat: Type.Optional(Type.Union([Type.Literal(false), Type.Object({
    manifest: Type.Optional(Type.String({ maxLength: 512, description: 'path of a manifest on the frontend; default: that of the built-in frontend' })),
    rate: Type.Optional(Type.String({ maxLength: 32, description: 'such as 50Mbit/s; default: no limit' }))
  }, closed)])),
  budget: Type.Optional(Type.Object({
    rate: Type.Optional(Type.String({ maxLength: 32, description: 'of all that is fetched before nodes ask, at one site' })),
    total: Type.Optional(Type.String({ maxLength: 32, description: 'bytes over the WAN at one site, such as 20GB; beyond them nothing is fetched before nodes ask' }))
  }, closed)),
  retain: Type.Optional(Type.String({ maxLength: 32, description: 'how long a store outlives its cluster, for others of the same site, such as 7d; default: it does not' }))
}, closed)
export type CacheSection = Static<typeof cacheSectionSchema>

/** Of one site's cache; what is absent has no bound. */
export interface CacheBudget { rateKbitPerS?: number, totalBytes?: number }

/** What one site has otherwise; null: no bound there. */
export interface SiteCacheBudget { rateKbitPerS?: number | null, totalBytes?: number | null }

/** What is asked of the caches of a cluster; what is absent is left to the hosts. */
export interface CacheTerms {
  /** kept on each gateway */
  sizeMib?: number
  profile: Required<CacheProfile>
  /** false: nothing is fetched before nodes ask, unless a person says so */
  preheat?: false | { manifest?: string, rateKbitPerS?: number }
  /** of each site's cache, see `budgetAt` */
  budget: CacheBudget
  /** by site, where one has values of its own; absent: none has */
  budgetAt?: Record<string, SiteCacheBudget>
  /** how long a store outlives the cluster; absent: it does not */
  retainMs?: number
}

/** Kinds of indexes that a cache can follow. */
export const INDEX_KINDS = ['debian', 'rpm', 'manifest'] as const
/** A path prefix of a profile: each becomes part of a regular expression, see `classRules`. Names that clients resolve (`..`) match no request. */
export const CACHE_PREFIX = /^(?!.*\/\.\.(?:\/|$))\/(?:[A-Za-z0-9._@+~-]+\/)*[A-Za-z0-9._@+~-]*$/
/** A path on the frontend as it stands in a request, and in a line of the fetcher's orders. */
export const FETCH_PATH = /^(?!.*\/\.\.(?:\/|$))\/(?:[A-Za-z0-9._:@+~\/=?&-]|%[0-9A-Fa-f]{2}){0,511}$/
/** As sites are called. */
const SITE = /^[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?$/
const SORTS = ['immutable', 'validated', 'dynamic'] as const

const MIB = { MiB: 1, GiB: 1024, TiB: 1024 * 1024 } as const
const BYTES = { MB: 1e6, GB: 1e9, TB: 1e12, MiB: 2 ** 20, GiB: 2 ** 30, TiB: 2 ** 40 } as const
const KBIT = { 'kbit/s': 1, 'Mbit/s': 1000, 'Gbit/s': 1_000_000 } as const

/** A quantity with one of these units as a whole number of the smallest; null when it is none. */
function quantity (text: string, units: Readonly<Record<string, number>>): number | null {
  const [, number, unit = ''] = /^(\d{1,12}(?:\.\d{1,6})?) ?([A-Za-z/]+)$/.exec(text) ?? []
  const factor = Object.hasOwn(units, unit) ? units[unit] : undefined
  if (number === undefined || factor === undefined) return null
  const value = Math.round(Number(number) * factor)
  return Number.isSafeInteger(value) ? value : null
}

/** `8GiB` in MiB. */
export const cacheSizeMib = (text: string): number | null => quantity(text, MIB)
/** `50Mbit/s` in kbit/s. */
export const rateKbit = (text: string): number | null => quantity(text, KBIT)
/** `20GB` in bytes. */
export const amountBytes = (text: string): number | null => quantity(text, BYTES)

/** The terms that a section of a specification stands for, and what is wrong with it, one line each. */
export function readCacheSection (section: CacheSection): { terms: CacheTerms, problems: string[] } {
  const problems: string[] = []
  const read = (field: string, text: string | undefined, parse: (text: string) => number | null, example: string, max: number): number | undefined => {
    if (text === undefined) return undefined
    const value = parse(text)
    if (value === null || value < 1 || value > max) problems.push(`spec.cache.${field}: ${JSON.stringify(text)} is not a quantity such as ${example}${value === null ? '' : ', within bounds'}`)
    return value ?? undefined
  }
  const profile: Required<CacheProfile> = { immutable: [], validated: [], dynamic: [], indexes: [] }
  for (const sort of SORTS) {
    for (const [i, prefix] of (section.profile?.[sort] ?? []).entries()) {
      if (!CACHE_PREFIX.test(prefix)) problems.push(`spec.cache.profile.${sort}[${i}]: ${JSON.stringify(prefix)} is no path prefix such as /install/RPMS/`)
      profile[sort].push(prefix)
    }
  }
  for (const [i, { kind, path }] of (section.profile?.indexes ?? []).entries()) {
    const known = INDEX_KINDS.find(one => one === kind)
    if (known === undefined) problems.push(`spec.cache.profile.indexes[${i}].kind: must be ${INDEX_KINDS.join(', ')}, not ${JSON.stringify(kind)}`)
    if (!FETCH_PATH.test(path)) problems.push(`spec.cache.profile.indexes[${i}].path: ${JSON.stringify(path)} is no path on the frontend such as /debian/dists/stable/Release`)
    if (known !== undefined) profile.indexes.push({ kind: known, path })
  }
  const sizeMib = read('size', section.size, cacheSizeMib, '8GiB', MAX_VOLUME_MIB)
  const budgetRate = read('budget.rate', section.budget?.rate, rateKbit, '50Mbit/s', MAX_CACHE_RATE_KBIT)
  const totalBytes = read('budget.total', section.budget?.total, amountBytes, '20GB', MAX_CACHE_BUDGET_BYTES)
  const terms: CacheTerms = {
    ...sizeMib === undefined ? {} : { sizeMib }, profile,
    budget: { ...budgetRate === undefined ? {} : { rateKbitPerS: budgetRate }, ...totalBytes === undefined ? {} : { totalBytes } }
  }
  if (section.retain !== undefined) {
    const ms = parseDuration(section.retain)
    if (ms === null || ms < MIN_CACHE_RETAIN_MS || ms > MAX_CACHE_RETAIN_MS) problems.push(`spec.cache.retain: ${JSON.stringify(section.retain)} is not a duration such as 7d or 12h${ms === null ? '' : `, from ${MIN_CACHE_RETAIN_MS / 60_000}m to ${MAX_CACHE_RETAIN_MS / 86_400_000}d`}`)
    if (ms !== null) terms.retainMs = ms
  }
  if (section.preheat === false) terms.preheat = false
  else if (section.preheat !== undefined) {
    const { manifest } = section.preheat
    if (manifest !== undefined && !FETCH_PATH.test(manifest)) problems.push(`spec.cache.preheat.manifest: ${JSON.stringify(manifest)} is no path on the frontend such as /install/manifest.json`)
    const rateKbitPerS = read('preheat.rate', section.preheat.rate, rateKbit, '50Mbit/s', MAX_CACHE_RATE_KBIT)
    terms.preheat = { ...manifest === undefined ? {} : { manifest }, ...rateKbitPerS === undefined ? {} : { rateKbitPerS } }
  }
  return { terms, problems }
}

/** Terms as the document carries them: a line each, in one order. */
export function renderCacheTerms ({ sizeMib, profile, preheat, budget, budgetAt = {}, retainMs }: CacheTerms): string {
  const at = (what: string, site: string, value: number | null | undefined): string[] => value === undefined ? [] : [`${what} ${site} ${value ?? 0}`]
  const line = (what: string, value: string | number | undefined): string[] => value === undefined ? [] : [`${what} ${value}`]
  return [
    ...line('size', sizeMib),
    ...SORTS.flatMap(sort => profile[sort].map(prefix => `${sort} ${prefix}`)),
    ...profile.indexes.map(({ kind, path }) => `index ${kind} ${path}`),
    ...preheat === undefined ? [] : preheat === false ? ['preheat off'] : ['preheat on', ...line('preheat-manifest', preheat.manifest), ...line('preheat-rate', preheat.rateKbitPerS)],
    ...line('budget-rate', budget.rateKbitPerS), ...line('budget-total', budget.totalBytes),
    // 0 is no bound: none at all is the absence of the line
    ...Object.entries(budgetAt).sort(([a], [b]) => a < b ? -1 : 1).flatMap(([site, own]) => [...at('budget-rate-at', site, own.rateKbitPerS), ...at('budget-total-at', site, own.totalBytes)]),
    ...line('retain-ms', retainMs)
  ].join('\n')
}

/**
 * Terms out of a document, which another site has written.
 *
 * @param text empty or absent: nothing is asked
 * @throws InvalidInputError naming the line that is not as `renderCacheTerms` writes it, or is out of bounds
 */
export function parseCacheTerms (text = ''): CacheTerms {
  const bad = (what: string): never => { throw new InvalidInputError(`its terms for caches: ${what}`) }
  if (text.length > MAX_CACHE_TERMS_CHARACTERS) bad(`longer than ${MAX_CACHE_TERMS_CHARACTERS} characters`)
  const terms: CacheTerms = { profile: { immutable: [], validated: [], dynamic: [], indexes: [] }, budget: {} }
  const preheat = (): { manifest?: string, rateKbitPerS?: number } => typeof terms.preheat === 'object' ? terms.preheat : bad('a line of a preheat that is off')
  for (const line of text === '' ? [] : text.split('\n')) {
    const [what = '', first = '', second = ''] = line.split(' ')
    const wrong = (): never => bad(`${JSON.stringify(line.slice(0, 80))} is not understood here`)
    const whole = (max: number): number => /^[1-9]\d{0,15}$/.test(first) && Number(first) <= max ? Number(first) : wrong()
    const own = (): SiteCacheBudget => {
      const sites = terms.budgetAt ??= {}
      const known = Object.hasOwn(sites, first) ? sites[first] : undefined
      if (!SITE.test(first) || known === undefined && Object.keys(sites).length >= MAX_SITES_PER_CLUSTER) wrong()
      return sites[first] = known ?? {}
    }
    const orNone = (max: number): number | null => second === '0' ? null : /^[1-9]\d{0,15}$/.test(second) && Number(second) <= max ? Number(second) : wrong()
    const sort = SORTS.find(one => one === what)
    if (sort !== undefined) terms.profile[sort].push(CACHE_PREFIX.test(first) && first.length <= MAX_CACHE_PREFIX_CHARACTERS ? first : wrong())
    else if (what === 'size') terms.sizeMib = whole(MAX_VOLUME_MIB)
    else if (what === 'index') terms.profile.indexes.push({ kind: INDEX_KINDS.find(one => one === first) ?? wrong(), path: FETCH_PATH.test(second) ? second : wrong() })
    else if (what === 'preheat') terms.preheat = first === 'off' ? false : first === 'on' ? {} : wrong()
    else if (what === 'preheat-manifest') preheat().manifest = FETCH_PATH.test(first) ? first : wrong()
    else if (what === 'preheat-rate') preheat().rateKbitPerS = whole(MAX_CACHE_RATE_KBIT)
    else if (what === 'budget-rate') terms.budget.rateKbitPerS = whole(MAX_CACHE_RATE_KBIT)
    else if (what === 'budget-total') terms.budget.totalBytes = whole(MAX_CACHE_BUDGET_BYTES)
    else if (what === 'retain-ms' && whole(MAX_CACHE_RETAIN_MS) >= MIN_CACHE_RETAIN_MS) terms.retainMs = whole(MAX_CACHE_RETAIN_MS)
    else if (what === 'budget-rate-at') own().rateKbitPerS = orNone(MAX_CACHE_RATE_KBIT)
    else if (what === 'budget-total-at') own().totalBytes = orNone(MAX_CACHE_BUDGET_BYTES)
    else wrong()
  }
  if (SORTS.some(sort => terms.profile[sort].length > MAX_CACHE_PREFIXES)) bad(`more than ${MAX_CACHE_PREFIXES} prefixes of one sort`)
  if (terms.profile.indexes.length > MAX_CACHE_INDEXES) bad(`more than ${MAX_CACHE_INDEXES} indexes`)
  // lines in another order, or twice: two texts would mean one thing, and documents are compared
  if (renderCacheTerms(terms) !== text) bad('lines are not in order')
  return terms
}

/** What is wrong with the terms of a document; null when nothing is. */
export function cacheTermsProblem (text: string | undefined): string | null {
  try {
    parseCacheTerms(text)
    return null
  } catch (error) {
    return error instanceof Error ? error.message : String(error)
  }
}
