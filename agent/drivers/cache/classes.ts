/**
 * The classes of requests, as data: the same rules are rendered into nginx's configuration and
 * evaluated here for tests and tools. Anything that is not positively known to be safe to share is
 * **dynamic**.
 *
 * - `listed`: a verified index gives the digest of what lies there; stored under that digest, for ever
 * - `named`: the name itself is a digest, or the profile says that objects never change; stored for ever
 * - `validated`: stored under its validator, for which the frontend is asked at each request
 * - `dynamic`: sent on with the node's own address, never stored
 *
 * The first three are *static*: fetched from the gateway's own address, once, and served to all nodes.
 */
import { CACHE_PREFIX } from '../../../protocol/core/cache/terms.ts'
import { InvalidInputError } from '../../../protocol/core/errors.ts'
import { MAX_CACHE_PREFIX_CHARACTERS, MAX_CACHE_PREFIXES } from '../../../protocol/core/limits.ts'
import type { CacheProfile } from '../../../protocol/core/desired.ts'

export const REQUEST_CLASSES = ['listed', 'named', 'validated', 'dynamic'] as const
export type RequestClass = typeof REQUEST_CLASSES[number]

/** One condition: the nginx variable it looks at, and what its value must match. */
export interface ClassRule {
  /** suffix of the nginx variable that holds the verdict */
  name: string
  /** nginx expression, made of variables only */
  source: string
  /** regular expression in the subset that PCRE and JavaScript read alike */
  accept: RegExp
}

/**
 * Headers whose mere presence makes a request dynamic: they carry somebody's identity, switch the
 * protocol, announce a body, or set conditions that a frontend may judge otherwise than nginx. Lower
 * case, as in `$http_*` with dashes.
 */
export const DYNAMIC_HEADERS = [
  'authorization', 'cookie', 'proxy-authorization', 'expect', 'upgrade', 'transfer-encoding', 'x-http-method-override',
  'if-match', 'if-unmodified-since', 'if-range'
] as const

/** Names of what package repositories and installers hold; kept when the frontend gives a validator. */
const ASSET = /^.*(?:\.(?:rpm|drpm|deb|udeb|apk|img|iso|squashfs|sfs|qcow2|raw|vmdk|tar|tgz|tbz2|txz|gz|xz|zst|bz2|lz4|lzma|cpio|efi|kpxe|wim|whl|jar|zip)|\/(?:vmlinuz|linux|kernel|initrd|initramfs)[A-Za-z0-9._-]*|\/repomd\.xml|\/(?:InRelease|Release|Packages))$/
/** A segment that says that it is a digest, or a file that bears one before its suffix, as repositories' own indexes do. */
const DIGEST_NAMED = /^(?:\/images\/(?:.*[^0-9a-f])?[0-9a-f]{64}(?:[^0-9a-f].*)?|.*\/sha256(?:-|:|%3[Aa])[0-9a-f]{64}(?:[\/.].*)?|.*\/[0-9a-f]{64}-[A-Za-z0-9._-]+\.[a-z0-9]+)$/

const NUMBER = '(?:0|[1-9]\\d{0,14})'
const LENGTHS = Array.from({ length: 15 }, (_, i) => i + 1)

/**
 * Pattern of two numbers of which the second one is larger: it has more digits, or as many and the larger one where they first differ.
 * @param between what stands between them @param after what stands behind the second @param group number of the pattern's first group in the whole
 */
function ascending (between: string, after: string, group: number): string {
  const longer = LENGTHS.slice(0, -1).map(n => `(?=\\d{${n}}${between}\\d{${n + 1}})`).join('|')
  const asLong = LENGTHS.map(n => `(?=\\d{${n}}${between}\\d{${n}}${after})`).join('|')
  const larger = [0, 1, 2, 3, 4, 5, 6, 7, 8].map(digit => `${digit}\\d*${between}\\${group}[${digit + 1}-9]`).join('|')
  return `(?:(?:${longer})${NUMBER}${between}${NUMBER}|(?:${asLong})(?=${NUMBER}${between}${NUMBER}${after})(\\d*)(?:${larger})\\d*)`
}

/** One range of a GET, of which the end is not before the beginning: frontends ignore another one, nginx does not. */
const rangePattern = (): RegExp => new RegExp(`^(?:HEAD |GET (?:bytes=(?:${NUMBER}-|-[1-9]\\d{0,14}|(${NUMBER})-\\1|${ascending('-', '$', 2)}))?)$`)

/** A range header, `:`, and a length: the range, if any, begins inside, and there is a first byte. */
export const INSIDE = new RegExp(`^(?::[1-9]\\d{0,14}|bytes=-\\d+:[1-9]\\d{0,14}|bytes=${ascending('-\\d*:', '$', 1)})$`)

/** What every static request fulfils. */
const STATIC_RULES: readonly ClassRule[] = [
  { name: 'method', source: '$request_method', accept: /^(GET|HEAD)$/ },
  // Raw as sent: the decoded form would let two spellings of a path share one verdict. No query, no dot
  // segment, and of escapes only those of `:`, `+` and `~`, which stand in names of packages.
  { name: 'plain', source: '$request_uri', accept: /^\/(?!.{512})(?!(?:.*\/)?\.)(?:[A-Za-z0-9._:@+~\/-]|%3[Aa]|%2[Bb]|%7[Ee])+$/ },
  { name: 'headers', source: DYNAMIC_HEADERS.map(header => `$http_${header.replaceAll('-', '_')}`).join(''), accept: /^$/ },
  { name: 'length', source: '$http_content_length', accept: /^0?$/ },
  // Several ranges at once: nginx would answer with the whole object, the frontend need not. Ranges are for GET only.
  { name: 'range', source: '$request_method $http_range', accept: rangePattern() },
  // who asks for a fresh answer gets one: whatever a validator is asked for is fresh
  { name: 'patient', source: '$http_cache_control$http_pragma', accept: /^(no-cache|max-age=0|no-cacheno-cache)?$/ }
]

/** @throws InvalidInputError for a prefix that is no plain path */
function prefixes (list: readonly string[] | undefined): string {
  const all = list ?? []
  if (all.length > MAX_CACHE_PREFIXES) throw new InvalidInputError(`a cache profile has at most ${MAX_CACHE_PREFIXES} prefixes of one sort, not ${all.length}`)
  for (const prefix of all) {
    if (!CACHE_PREFIX.test(prefix) || prefix.length > MAX_CACHE_PREFIX_CHARACTERS) throw new InvalidInputError(`${JSON.stringify(prefix)} is no path prefix of a cache profile`, 'like /install/RPMS/')
  }
  return all.map(prefix => prefix.replaceAll(/[.+]/g, '\\$&').replaceAll('/', '\\/')).join('|')
}

const either = (list: readonly string[] | undefined, pattern: RegExp | null): RegExp => {
  const own = prefixes(list)
  const parts = [...(own === '' ? [] : [`^(?:${own})`]), ...(pattern === null ? [] : [pattern.source])]
  return parts.length === 0 ? /^(?!)/ : new RegExp(parts.join('|'))
}

/** Rules of one cache: `every` must hold for all static requests, the others tell the classes apart. */
export interface ClassRules {
  every: readonly ClassRule[]
  /** profile: never kept, whatever its name */
  never: ClassRule
  /** no wish for a fresh answer */
  fresh: ClassRule
  named: ClassRule
  kept: ClassRule
}

/** @throws InvalidInputError for a profile that cannot be rendered */
export function classRules (profile: CacheProfile = {}): ClassRules {
  const path = (name: string, accept: RegExp): ClassRule => ({ name, source: '$request_uri', accept })
  return {
    every: STATIC_RULES,
    never: path('never', either(profile.dynamic, null)),
    fresh: { name: 'fresh', source: '$http_cache_control$http_pragma', accept: /^$/ },
    named: path('named', either(profile.immutable, DIGEST_NAMED)),
    kept: path('kept', either(profile.validated, ASSET))
  }
}

/** What is known of a request, one verdict each. */
export interface Verdicts { never: boolean, fresh: boolean, listed: boolean, named: boolean, kept: boolean }

/** The class of a request that fulfils all of `every`. */
export function decide ({ never, fresh, listed, named, kept }: Verdicts): RequestClass {
  if (never) return 'dynamic'
  if (listed && fresh) return 'listed'
  if (named && fresh) return 'named'
  return listed || named || kept ? 'validated' : 'dynamic'
}

/** A request as its sender wrote it; header names in lower case. */
export interface RequestHead {
  method: string
  /** request target exactly as sent */
  target: string
  headers: Readonly<Record<string, string>>
}

/** The class of a request, by the rules that nginx gets. @param listed whether a verified index names its path */
export function classify (request: RequestHead, { rules = classRules(), listed = false }: { rules?: ClassRules, listed?: boolean } = {}): RequestClass {
  const holds = (rule: ClassRule): boolean => rule.accept.test(valueOf(rule.source, request))
  if (!rules.every.every(holds)) return 'dynamic'
  return decide({ never: holds(rules.never), fresh: holds(rules.fresh), listed, named: holds(rules.named), kept: holds(rules.kept) })
}

/** Evaluates an nginx expression of variables for one request. */
function valueOf (source: string, request: RequestHead): string {
  return source.replaceAll(/\$([a-z_]+)/g, (_, variable: string) => {
    if (variable === 'request_method') return request.method
    if (variable === 'request_uri') return request.target
    return request.headers[variable.slice('http_'.length).replaceAll('_', '-')] ?? ''
  })
}
