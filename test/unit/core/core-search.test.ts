import fc from 'fast-check'
import t from 'tap'
import type { SearchQuery, SearchReason, SiteResource } from '../../../protocol/api.ts'
import { clampToZero, timesFitting } from '../../../protocol/core/capacity.ts'
import { DEFAULT_SEARCH_LIMIT, MAX_TERM_MS, RECORD_TTL_MS } from '../../../protocol/core/limits.ts'
import { searchSites } from '../../../protocol/core/search.ts'

const HOUR = 3_600_000
const r = (vcpus: number, memoryMib: number, diskMib = 0): SiteResource['free'] => ({ vcpus, memoryMib, diskMib, volumes: 0, bandwidthMbit: 0 })
const site = (name: string, part: Partial<SiteResource> = {}): SiteResource => ({
  site: name, gateway: `${name}-1`, peerId: `peer-${name}`, addresses: [], hosts: 1, total: r(64, 65_536), free: r(64, 65_536), freeByHost: [r(64, 65_536)], volumeFreeMib: 4096, ageMs: 0,
  state: 'alive', path: 'direct', rttMs: 10, features: ['kvm'], roles: ['compute', 'gateway', 'storage'], priceMilli: 0, maxTermMs: 0, relay: false, ...part
})
const reasonsAt = (part: Partial<SiteResource>, query: Partial<SearchQuery>): SearchReason[] => searchSites(query, [site('tokyo', part)]).sites[0]?.reasons ?? []

// ---- by table -------------------------------------------------------------

t.test('every need that fails says by how much', t => {
  const table: Array<[SearchReason['code'], string, Partial<SiteResource>, Partial<SearchQuery>]> = [
    ['NOT_NAMED', 'the search is for osaka, kyoto only', {}, { sites: ['osaka', 'kyoto'] }],
    ['LEFT_OUT', 'the search leaves out tokyo', {}, { notSites: ['tokyo'] }],
    ['DEAD', 'the site is dead: its last sign of life is 31 s old', { state: 'dead', ageMs: 30_500 }, {}],
    ['STALE', 'advertisement is 155 s old, 150 s is the most', { ageMs: 155_000 }, {}],
    ['ROLE', 'no host is storage', { roles: ['compute', 'gateway'] }, { roles: ['compute', 'storage'] }],
    ['FEATURE', 'no host has kvm', { features: ['lio'] }, { features: ['kvm', 'lio'] }],
    ['RTT', 'RTT 80 ms is above 50 ms', { rttMs: 80 }, { maxRttMs: 50 }],
    ['RTT', 'RTT 50.00004 ms is above 50 ms', { rttMs: 50.000_04 }, { maxRttMs: 50 }],
    ['RTT', 'RTT 50.123 ms is above 50 ms', { rttMs: 50.123_456 }, { maxRttMs: 50 }],
    ['RTT', 'RTT is not known, 50 ms is the most', { rttMs: null }, { maxRttMs: 50 }],
    ['PRICE', 'price 15 is above 12.5 per vCPU and hour', { priceMilli: 15_000 }, { maxPriceMilli: 12_500 }],
    ['TERM', 'longest lease is 24 h, 48 h is needed', { maxTermMs: 24 * HOUR }, { startMs: 5, endMs: 5 + 48 * HOUR }],
    ['TERM', 'longest lease is 90 min, 5401 s is needed', { maxTermMs: 1.5 * HOUR }, { startMs: 0, endMs: 1.5 * HOUR + 1 }],
    ['NO_HOST', 'no compute host takes leases', { freeByHost: [] }, {}],
    ['VCPUS', 'largest free host has 8 vCPU, 16 are needed', { freeByHost: [r(8, 65_536), r(2, 65_536)] }, { vcpus: 16 }],
    ['VCPUS', 'largest free host has 0 vCPU, 1 is needed', { freeByHost: [r(-8, 65_536)] }, {}],
    ['MEMORY', 'largest free host has 1500 MiB memory, 64 GiB are needed', { freeByHost: [r(8, 1500), r(2, 100)] }, { memoryMib: 65_536 }],
    ['DISK', 'largest free host has 0 MiB disk, 20 GiB are needed', {}, { diskMib: 20_480 }],
    ['SHAPE', 'no single host has 8 vCPU, 4 GiB memory free together', { freeByHost: [r(8, 1024), r(1, 8192)] }, { vcpus: 8, memoryMib: 4096 }],
    ['SHAPE', 'no single host has 1 vCPU, 768 MiB memory, 1 GiB disk free together', { freeByHost: [r(1, 1024), r(0, 1024, 1024)] }, { diskMib: 1024 }],
    ['NODES', '3 of 8 nodes fit', { freeByHost: [r(5, 65_536), r(3, 65_536), r(1, 65_536)] }, { vcpus: 2, nodes: 8 }],
    ['VOLUME', 'largest volume that fits has 4 GiB, 5000 MiB are needed', {}, { volumeMib: 5000 }]
  ]
  for (const [code, message, part, query] of table) t.strictSame(reasonsAt(part, query), [{ code, message }])
  t.end()
})

t.test('what is met exactly is met', t => {
  const part: Partial<SiteResource> = { rttMs: 50, priceMilli: 12_500, maxTermMs: 24 * HOUR, ageMs: RECORD_TTL_MS, state: 'suspect', freeByHost: [r(4, 1536, 20), r(2, 768, 10)] }
  const query = { nodes: 3, vcpus: 2, memoryMib: 768, diskMib: 10, volumeMib: 4096, sites: ['tokyo'], roles: ['storage'], features: ['kvm'], maxRttMs: 50, maxPriceMilli: 12_500, startMs: 0, endMs: 24 * HOUR }
  t.match(searchSites(query, [site('tokyo', part)]), { fits: true, nodesThatFit: 3, known: 1, matching: 1, sites: [{ fits: true, nodesThatFit: 3, reasons: [] }] })
  t.end()
})

t.test('all reasons at once, each missing feature by itself, in a fixed order', t => {
  const reasons = reasonsAt(
    { state: 'dead', ageMs: 155_000, features: [], roles: [], rttMs: null, priceMilli: 2, maxTermMs: HOUR, freeByHost: [r(0, 0)], volumeFreeMib: 0 },
    { sites: ['osaka'], notSites: ['tokyo'], features: ['lio', 'kvm', 'lio'], roles: ['storage'], maxRttMs: 1, maxPriceMilli: 1, startMs: 0, endMs: 2 * HOUR, diskMib: 1, volumeMib: 1 })
  t.same(reasons.map(reason => reason.code), ['NOT_NAMED', 'LEFT_OUT', 'DEAD', 'STALE', 'ROLE', 'FEATURE', 'FEATURE', 'RTT', 'PRICE', 'TERM', 'VCPUS', 'MEMORY', 'DISK', 'VOLUME'])
  t.same(reasons.filter(reason => reason.code === 'FEATURE').map(reason => reason.message), ['no host has lio', 'no host has kvm'])
  t.end()
})

t.test('ranked by wanted nodes that fit, whether all does, RTT, price, name', t => {
  const hosts = (n: number): SiteResource['freeByHost'] => Array.from({ length: n }, () => r(1, 768))
  const sites = [
    site('dead', { freeByHost: hosts(9), state: 'dead', rttMs: 0 }), site('two', { freeByHost: hosts(2), rttMs: 0 }), site('unknown', { freeByHost: hosts(9), rttMs: null }),
    site('far', { freeByHost: hosts(9), rttMs: 30 }), site('near', { freeByHost: hosts(4), rttMs: 3 }), site('b', { freeByHost: hosts(4), rttMs: 5 }), site('a', { freeByHost: hosts(4), rttMs: 5 }),
    site('dear', { freeByHost: hosts(4), rttMs: 5, priceMilli: 1 }), site('no-volume', { freeByHost: hosts(4), rttMs: 0, volumeFreeMib: 0 })
  ]
  const result = searchSites({ nodes: 4, volumeMib: 1 }, sites)
  t.same(result.sites.map(s => s.site), ['near', 'a', 'b', 'dear', 'far', 'unknown', 'no-volume', 'two', 'dead'])
  t.same(searchSites({ nodes: 4, volumeMib: 1, limit: 2 }, sites).sites.map(s => s.site), ['near', 'a'])
  t.same({ ...searchSites({ nodes: 4, volumeMib: 1, limit: 2 }, sites), sites: [] }, { ...result, sites: [] }, 'a limit changes what is shown, not what is said')
  t.equal(result.sites.at(-1)?.nodesThatFit, 0, 'the dead lend nothing')
  t.end()
})

t.test('several gateways of a site lend its hosts once, and the one that lives speaks', t => {
  const twice = [site('tokyo', { peerId: 'a', ageMs: 0, state: 'dead' }), site('tokyo', { peerId: 'b', ageMs: 9 }), site('tokyo', { peerId: 'c', ageMs: 5 })]
  for (const sites of [twice, twice.toReversed()]) t.match(searchSites({ memoryMib: 65_536 }, sites), { nodesThatFit: 1, known: 1, sites: [{ peerId: 'c' }] })
  t.end()
})

t.test('the explanation in one line', t => {
  const two = [site('osaka', { freeByHost: [r(16, 65_536)], rttMs: 90 }), site('tokyo', { freeByHost: [r(40, 262_144)], rttMs: 1 })]
  const need = { vcpus: 16, memoryMib: 65_536 }
  const table: Array<[Partial<SearchQuery>, SiteResource[], string]> = [
    [{ ...need, nodes: 3 }, two, 'It fits. Nodes of 16 vCPU, 64 GiB memory that fit: 2 at tokyo, 1 at osaka; 3 in all, 3 wanted.'],
    [{ ...need, nodes: 4, volumeMib: 1024 }, two, 'It does not fit. Nodes of 16 vCPU, 64 GiB memory that fit: 2 at tokyo, 1 at osaka; 3 in all, 4 wanted. A volume of 1 GiB fits at osaka, tokyo.'],
    [{ ...need, volumeMib: 5000 }, two, 'It does not fit. Nodes of 16 vCPU, 64 GiB memory that fit: 2 at tokyo, 1 at osaka; 3 in all, 1 wanted. A volume of 5000 MiB fits nowhere.'],
    [{ ...need, nodes: 3, maxRttMs: 50, sites: ['tokyo', 'osaka', 'tokio'] }, two, 'It does not fit. Nodes of 16 vCPU, 64 GiB memory that fit: 2 at tokyo; 2 in all, 3 wanted. Ruled out: 1 site by RTT. Not known here: tokio.'],
    [{ vcpus: 99, features: ['sgx'] }, two, 'It does not fit. No node of 99 vCPU, 768 MiB memory fits anywhere, 1 wanted. Ruled out: 2 sites by feature.'],
    [{}, [], 'It does not fit. No site is known.'],
    [{ memoryMib: 65_536 }, Array.from({ length: 11 }, (_, i) => site(`s${i}`)), 'It fits. Nodes of 1 vCPU, 64 GiB memory that fit: 1 at s0, 1 at s1, 1 at s10, 1 at s2, 1 at s3, 1 at s4, 1 at s5, 1 at s6 and 3 more sites; 11 in all, 1 wanted.']
  ]
  for (const [query, sites, text] of table) t.equal(searchSites(query, sites).explanation, text)
  t.equal(searchSites({ nodes: 3 }, two).explanation, searchSites({ nodes: 3 }, two.map(s => ({ ...s, rttMs: 100 - (s.rttMs ?? 0), ageMs: 77 }))).explanation, 'wherever it is asked')
  t.end()
})

t.test('a time window that no lease can have is refused', t => {
  const table: Array<[Partial<SearchQuery>, RegExp]> = [
    [{ startMs: 1 }, /startMs without endMs/], [{ endMs: 1 }, /endMs without startMs/], [{ startMs: 5, endMs: 5 }, /ends before it starts/], [{ startMs: 6, endMs: 5 }, /ends before it starts/],
    [{ startMs: 0, endMs: 59_999 }, /60 s cannot be leased/], [{ startMs: 0, endMs: MAX_TERM_MS + 1 }, /cannot be leased/]
  ]
  for (const [query, message] of table) t.throws(() => searchSites(query, []), { code: 'INVALID_INPUT', message })
  t.doesNotThrow(() => searchSites({ startMs: 0, endMs: MAX_TERM_MS }, []))
  t.equal(searchSites({}, Array.from({ length: DEFAULT_SEARCH_LIMIT + 1 }, (_, i) => site(`s${i}`))).sites.length, DEFAULT_SEARCH_LIMIT)
  t.end()
})

// ---- by chance, against an oracle ------------------------------------------

const maybe = <T>(value: fc.Arbitrary<T>): fc.Arbitrary<T | undefined> => fc.option(value, { nil: undefined })
const some = (...values: string[]): fc.Arbitrary<string[]> => fc.subarray(values)
const NAMES = ['a', 'b', 'c', 'd', 'e', 'f']
const free = fc.record({ vcpus: fc.integer({ min: -1, max: 8 }), memoryMib: fc.integer({ min: -1, max: 8 }).map(n => n * 512), diskMib: fc.integer({ min: 0, max: 4 }), volumes: fc.constant(64), bandwidthMbit: fc.constant(0) })
const anySite = fc.record({
  site: fc.constantFrom(...NAMES), freeByHost: fc.array(free, { maxLength: 4 }), volumeFreeMib: fc.nat(4), ageMs: fc.constantFrom(0, 10, RECORD_TTL_MS, RECORD_TTL_MS + 1), state: fc.constantFrom('alive', 'suspect', 'dead'),
  rttMs: fc.constantFrom(null, 0, 1, 2), features: some('x', 'y'), roles: some('compute', 'storage'), priceMilli: fc.nat(2), maxTermMs: fc.constantFrom(0, HOUR, 2 * HOUR)
})
/** About one site in two has nothing wrong with it, or everything would be a refusal. */
const goodSite = anySite.map(s => ({ ...s, ageMs: 0, state: 'alive' as const, rttMs: 0, features: ['x', 'y'], roles: ['compute', 'storage'], priceMilli: 0, maxTermMs: 0 }))
const federation = fc.array(fc.oneof(anySite, goodSite), { maxLength: 8 }).map(list => list.map((s, i) => site(s.site, { ...s, peerId: `p${i}` })))
const anyQuery: fc.Arbitrary<Partial<SearchQuery>> = fc.record({
  nodes: maybe(fc.integer({ min: 1, max: 6 })), vcpus: maybe(fc.integer({ min: 1, max: 4 })), memoryMib: maybe(fc.constantFrom(512, 768, 1024)), diskMib: maybe(fc.nat(2)), volumeMib: maybe(fc.nat(4)),
  roles: maybe(some('compute', 'storage')), features: maybe(some('x', 'y')), sites: maybe(some(...NAMES)), notSites: maybe(some('a', 'b')),
  maxRttMs: maybe(fc.nat(2)), maxPriceMilli: maybe(fc.nat(2)), window: maybe(fc.integer({ min: 1, max: 3 }))
}).map(({ window, ...query }) => Object.fromEntries(Object.entries({ ...query, ...(window === undefined ? {} : { startMs: 1, endMs: 1 + window * HOUR }) }).filter(([, value]) => value !== undefined)))

/** The codes that hold of one site, said again in other words. */
function oracle (s: SiteResource, q: Partial<SearchQuery>): { codes: Set<string>, nodes: number } {
  const need = { vcpus: q.vcpus ?? 1, memoryMib: q.memoryMib ?? 768, diskMib: q.diskMib ?? 0, volumes: 0, bandwidthMbit: 0 }
  const fitting = s.freeByHost.map(f => timesFitting(need, clampToZero(f))).reduce((a, b) => a + b, 0)
  const nowhere = (field: 'vcpus' | 'memoryMib' | 'diskMib'): boolean => fitting === 0 && s.freeByHost.length > 0 && s.freeByHost.every(f => Math.max(0, f[field]) < need[field])
  const filters = {
    NOT_NAMED: (q.sites ?? []).length > 0 && !new Set(q.sites).has(s.site), LEFT_OUT: new Set(q.notSites).has(s.site), DEAD: s.state === 'dead', STALE: s.ageMs > RECORD_TTL_MS,
    ROLE: !new Set(q.roles).isSubsetOf(new Set(s.roles)), FEATURE: !new Set(q.features).isSubsetOf(new Set(s.features)),
    RTT: q.maxRttMs !== undefined && !((s.rttMs ?? Infinity) <= q.maxRttMs), PRICE: s.priceMilli > (q.maxPriceMilli ?? Infinity),
    TERM: q.endMs !== undefined && q.startMs !== undefined && s.maxTermMs !== 0 && q.endMs - q.startMs > s.maxTermMs
  }
  const lacking = { VCPUS: nowhere('vcpus'), MEMORY: nowhere('memoryMib'), DISK: nowhere('diskMib') }
  const capacity = {
    ...lacking, NO_HOST: s.freeByHost.length === 0, SHAPE: fitting === 0 && s.freeByHost.length > 0 && !Object.values(lacking).includes(true),
    NODES: fitting > 0 && fitting < (q.nodes ?? 1), VOLUME: s.volumeFreeMib < (q.volumeMib ?? 0)
  }
  const codes = new Set(Object.entries({ ...filters, ...capacity }).filter(([, holds]) => holds).map(([code]) => code))
  return { codes, nodes: Object.values(filters).includes(true) ? 0 : fitting }
}

t.test('reasons are exactly those that hold, and sums are right', t => {
  let [fitting, refused] = [0, 0]
  fc.assert(fc.property(anyQuery, federation, (query, sites) => {
    const result = searchSites(query, sites)
    let total = 0
    let volume = (query.volumeMib ?? 0) === 0
    for (const found of result.sites) {
      const { codes, nodes } = oracle(found, query)
      t.strictSame(new Set<string>(found.reasons.map(reason => reason.code)), codes)
      t.equal(found.fits, codes.size === 0)
      t.equal(found.fits, found.reasons.length === 0)
      t.equal(found.nodesThatFit, nodes)
      total += nodes
      const filtered = ['NOT_NAMED', 'LEFT_OUT', 'DEAD', 'STALE', 'ROLE', 'FEATURE', 'RTT', 'PRICE', 'TERM'].some(code => codes.has(code))
      if (!filtered && found.volumeFreeMib >= (query.volumeMib ?? 0)) volume = true
      if (found.fits) fitting++
      else refused++
    }
    t.equal(result.nodesThatFit, total)
    t.equal(result.matching, result.sites.filter(s => s.fits).length)
    t.equal(result.known, new Set(sites.map(s => s.site)).size)
    t.equal(result.sites.length, result.known)
    t.equal(result.fits, total >= (query.nodes ?? 1) && volume)
  }), { numRuns: 400, seed: 7 })
  t.ok(fitting > 50 && refused > 50, `${fitting} sites that fit and ${refused} that do not were looked at`)
  t.end()
})

t.test('the order of the sites changes nothing, and nothing is written to', t => {
  fc.assert(fc.property(anyQuery, federation.chain(sites => fc.tuple(fc.constant(sites), fc.shuffledSubarray(sites, { minLength: sites.length }))), (query, [sites, shuffled]) => {
    const before = JSON.stringify([query, sites])
    t.strictSame(searchSites(query, shuffled), searchSites(query, sites))
    t.equal(JSON.stringify([query, sites]), before)
  }), { numRuns: 200 })
  t.end()
})

t.test('more capacity never loses a match', t => {
  const more = fc.record({ at: fc.nat(7), host: free.map(clampToZero), by: free.map(clampToZero), volume: fc.nat(3) })
  fc.assert(fc.property(anyQuery, federation, more, (query, sites, { at, host, by, volume }) => {
    const name = sites[at % Math.max(1, sites.length)]?.site
    const grown = sites.map(s => s.site !== name
      ? s
      : { ...s, volumeFreeMib: s.volumeFreeMib + volume, freeByHost: [...s.freeByHost.map((f, i) => i === 0 ? { vcpus: f.vcpus + by.vcpus, memoryMib: f.memoryMib + by.memoryMib, diskMib: f.diskMib + by.diskMib, volumes: 64, bandwidthMbit: 0 } : f), host] })
    const [less, now] = [searchSites(query, sites), searchSites(query, grown)]
    if (less.fits) t.ok(now.fits)
    t.ok(now.nodesThatFit >= less.nodesThatFit)
    for (const s of less.sites.filter(found => found.fits)) t.ok(now.sites.find(other => other.site === s.site)?.fits)
  }), { numRuns: 200 })
  t.end()
})
