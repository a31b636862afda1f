/** Around the search: what people type, what they see, what a site says of itself, and REST. */
import { Writable } from 'node:stream'
import { pino } from 'pino'
import t from 'tap'
import { foldSite } from '../../../agent/advertise.ts'
import { searchQueryOf, type SearchOptions } from '../../../cli/commands/search.ts'
import { searchText } from '../../../cli/render/search.ts'
import { SearchResultSchema, SearchSchema, type SearchResult, type SiteResource } from '../../../protocol/api.ts'
import { parseWith } from '../../../protocol/config-file.ts'
import { MAX_FEATURES, MAX_SEARCH_NAMES } from '../../../protocol/core/limits.ts'
import { searchSites } from '../../../protocol/core/search.ts'
import { siteResourceOf } from '../../../protocol/mesh/site-resource.ts'
import { createApi } from '../../../protocol/rest/server.ts'
import { decode, encode } from '../../../protocol/wire/codec.ts'
import type { HostAd } from '../../../protocol/wire/gen/types.ts'

const NOW = Date.parse('2026-11-22T12:00:00Z')
const HOUR = 3_600_000

t.test('what is typed becomes the query', t => {
  t.strictSame(searchQueryOf({}, NOW), {}, 'what is not typed is left to the API')
  t.strictSame(searchQueryOf({
    nodes: '8', vcpus: '16', memory: '64GiB', disk: '1.5TiB', volume: '500', role: ['storage'], feature: ['kvm', 'lio'], site: ['tokyo'], notSite: ['osaka', 'a-1'],
    maxRtt: '50ms', maxPrice: '12.5', start: '2026-12-01T08:00Z', for: '8h', limit: '10'
  }, NOW), {
    nodes: 8, vcpus: 16, memoryMib: 65_536, diskMib: 1_572_864, volumeMib: 500, roles: ['storage'], features: ['kvm', 'lio'], sites: ['tokyo'], notSites: ['osaka', 'a-1'],
    maxRttMs: 50, maxPriceMilli: 12_500, startMs: Date.parse('2026-12-01T08:00Z'), endMs: Date.parse('2026-12-01T16:00Z'), limit: 10
  })
  const sizes: Array<[string, number]> = [['768', 768], ['768MiB', 768], ['0.5GiB', 512], ['1.5 GiB', 1536], ['2TiB', 2_097_152]]
  for (const [memory, memoryMib] of sizes) t.strictSame(searchQueryOf({ memory }, NOW), { memoryMib }, memory)
  const times: Array<[string, number]> = [['50', 50], ['0.5ms', 0.5], ['2s', 2000], ['0.2s', 200]]
  for (const [maxRtt, maxRttMs] of times) t.strictSame(searchQueryOf({ maxRtt }, NOW), { maxRttMs }, maxRtt)
  t.strictSame(searchQueryOf({ maxPrice: '0.001' }, NOW), { maxPriceMilli: 1 })
  t.strictSame(searchQueryOf({ for: '90m' }, NOW), { startMs: NOW, endMs: NOW + 1.5 * HOUR }, 'from now')
  t.strictSame(searchQueryOf({ end: '2026-11-22T13:00Z' }, NOW), { startMs: NOW, endMs: NOW + HOUR })
  t.strictSame(searchQueryOf({ start: '2028-02-29T10:00:30+09:00', for: 'PT1H' }, NOW).startMs, Date.UTC(2028, 1, 29, 1, 0, 30))
  const local = searchQueryOf({ start: '2026-12-01T08:00', end: '2026-12-02' }, NOW)
  t.strictSame([local.startMs, local.endMs], [new Date(2026, 11, 1, 8).getTime(), new Date(2026, 11, 2).getTime()], 'in the time of this machine')
  t.end()
})

t.test('what cannot be meant is refused with the option and what it takes', t => {
  const table: Array<[SearchOptions, RegExp, RegExp?]> = [
    [{ nodes: 'many' }, /^--nodes must be a whole number, not "many"$/], [{ vcpus: '1.5' }, /^--vcpus .*"1\.5"/], [{ nodes: '-1' }, /^--nodes/], [{ nodes: '' }, /^--nodes/], [{ limit: '1e3' }, /^--limit/],
    [{ memory: '64GB' }, /^--memory: "64GB"/, /did you mean 64GiB\?/], [{ memory: '64g' }, /"64g"/, /64GiB\?/], [{ memory: '64gib' }, /"64gib"/, /64GiB/], [{ memory: '5 bananas' }, /bananas/, /MiB, GiB and TiB/],
    [{ memory: 'GiB' }, /^--memory must be a size such as 64GiB, not "GiB"/], [{ memory: '-5' }, /^--memory/], [{ memory: '0x10' }, /^--memory/], [{ disk: '1.3MiB' }, /^--disk.*not a whole number of MiB/], [{ volume: '' }, /^--volume/],
    [{ maxRtt: '50us' }, /^--max-rtt must be a time such as 50ms, not "50us"/], [{ maxRtt: 'fast' }, /fast/], [{ maxPrice: '12,5' }, /^--max-price must be a price such as 12\.5/], [{ maxPrice: '0.0001' }, /^--max-price/, /three decimals/],
    [{ role: ['compute', 'router'] }, /^--role: "router" is no role \(compute, storage, gateway\)/], [{ feature: ['kvm', ''] }, /^--feature: ""/], [{ site: ['Tokyo'] }, /^--site: "Tokyo"/], [{ notSite: ['a b'] }, /^--not-site: "a b"/],
    [{ start: '2026-12-01T08:00' }, /^--start without an end/, /--for 8h/], [{ end: '2026-12-01', for: '8h' }, /^--end and --for/], [{ for: 'long' }, /^--for must be a duration such as 8h, not "long"/], [{ for: '0h' }, /^--for/], [{ for: '' }, /^--for/],
    [{ start: 'tomorrow', for: '8h' }, /^--start must be a time such as 2026-12-01T08:00, not "tomorrow"/], [{ start: '2026-12-01 08:00', for: '8h' }, /^--start must/], [{ start: '1', for: '8h' }, /^--start must/],
    [{ start: '2026-02-30T08:00', for: '8h' }, /^--start: there is no time 2026-02-30T08:00/], [{ end: '2026-13-01' }, /^--end: there is no time/], [{ end: '2026-12-01T24:30' }, /^--end: there is no time/], [{ end: '2027-02-29' }, /^--end: there is no time/],
    [{ start: '2026-12-01T08:00Z', end: '2026-12-01T08:00Z' }, /^--end 2026-12-01T08:00Z is not after --start 2026-12-01T08:00Z/], [{ end: '2026-11-22T12:00Z' }, /^--end .* is not after now/],
    [{ start: '2026-11-01T08:00Z', for: '8h' }, /the time window is over/]
  ]
  for (const [options, message, hint] of table) t.throws(() => searchQueryOf(options, NOW), { code: 'INVALID_INPUT', message, ...(hint === undefined ? {} : { hint }) }, JSON.stringify(options))
  t.end()
})

t.test('the API takes what the CLI sends, fills the rest, and refuses what is out of bounds', t => {
  t.strictSame(parseWith(SearchSchema, {}, 'q'), { nodes: 1, vcpus: 1, memoryMib: 768, diskMib: 0, volumeMib: 0, roles: [], features: [], sites: [], notSites: [], limit: 100 })
  t.doesNotThrow(() => parseWith(SearchSchema, searchQueryOf({ feature: ['vlan-filtering', '8021q'], role: ['gateway'], site: ['tokyo'], for: '8h', maxRtt: '0.5ms', maxPrice: '1' }, NOW), 'q'))
  const wrong: object[] = [
    { nodes: 0 }, { nodes: 1.5 }, { vcpus: 257 }, { memoryMib: 63 }, { diskMib: -1 }, { roles: ['router'] }, { features: ['a b'] }, { sites: ['Tokyo'] }, { sites: 'tokyo' }, { notSites: Array.from({ length: MAX_SEARCH_NAMES + 1 }, (_, i) => `s${i}`) },
    { maxRttMs: -1 }, { maxRttMs: null }, { maxPriceMilli: 0.5 }, { startMs: 'now' }, { endMs: 9e15 }, { limit: 0 }, { limit: 1e9 }, { colour: 'red' }
  ]
  for (const query of wrong) t.throws(() => parseWith(SearchSchema, query, 'q'), { code: 'INVALID_INPUT', message: new RegExp(Object.keys(query)[0] ?? '') }, JSON.stringify(query).slice(0, 60))
  t.end()
})

const host = (name: string, part: Partial<HostAd> = {}): HostAd => ({
  site: 'tokyo', host: name, roles: ['compute'], addresses: [], underlayAddress: '', total: { vcpus: 8, memoryMib: 8192, diskMib: 100, volumes: 64, bandwidthMbit: 0 }, free: { vcpus: 4, memoryMib: 4096, diskMib: 50, volumes: 64, bandwidthMbit: 0 },
  cordoned: false, accelerator: 'kvm', version: '0', inventory: null, features: [], ...part
})
const gateway = { host: 'gw', addresses: ['/ip4/192.0.2.1/tcp/4180'] }

t.test('a site is folded from its hosts: features and roles of those that lend, and its terms', t => {
  const hosts = [
    host('c1', { features: ['kvm', 'dm'] }), host('s1', { roles: ['storage', 'gateway'], features: ['lio', 'dm'], free: { vcpus: -2, memoryMib: 1, diskMib: 70, volumes: 64, bandwidthMbit: 0 } }),
    host('c2', { cordoned: true, roles: ['compute', 'storage'], features: ['sgx'], free: { vcpus: 8, memoryMib: 8192, diskMib: 100, volumes: 64, bandwidthMbit: 0 } })
  ]
  const ad = foldSite('tokyo', gateway, hosts, '0', { priceMilli: 5, maxTermMs: HOUR, relay: true, tunnel: [] })
  t.match(ad, {
    hosts: 3, total: { vcpus: 24, memoryMib: 24_576, diskMib: 300, volumes: 192, bandwidthMbit: 0 }, free: { vcpus: 4, memoryMib: 4097, diskMib: 120, volumes: 128, bandwidthMbit: 0 }, freeByHost: [{ vcpus: 4, memoryMib: 4096, diskMib: 50, volumes: 64, bandwidthMbit: 0 }], volumeFreeMib: 70,
    features: ['dm', 'kvm', 'lio'], roles: ['compute', 'gateway', 'storage'], priceMilli: 5, maxTermMs: HOUR, relay: true
  })
  t.equal(ad.freeByHost.length, 1, 'cordoned hosts lend nothing')
  t.strictSame(foldSite('tokyo', gateway, hosts.toReversed(), '0', { priceMilli: 5, maxTermMs: HOUR, relay: true, tunnel: [] }).features, ad.features)
  t.match(foldSite('tokyo', gateway, [], '0'), { hosts: 0, freeByHost: [], volumeFreeMib: 0, features: [], roles: [], priceMilli: 0, maxTermMs: 0, relay: false, tunnel: [] })
  t.equal(foldSite('tokyo', gateway, [host('c1', { features: Array.from({ length: 500 }, (_, i) => `f${i}`) })], '0').features.length, MAX_FEATURES)

  t.strictSame(siteResourceOf('p', 7, decode('SiteAd', encode('SiteAd', ad)), { rttMs: 3, path: 'relay', state: 'suspect' }), {
    site: 'tokyo', gateway: 'gw', peerId: 'p', addresses: gateway.addresses, hosts: 3, total: { ...ad.total, nodes: 0 }, free: { ...ad.free, nodes: 0 }, freeByHost: ad.freeByHost.map(free => ({ ...free, nodes: 0 })), volumeFreeMib: 70, ageMs: 7,
    state: 'suspect', path: 'relay', rttMs: 3, features: ad.features, roles: ad.roles, priceMilli: 5, maxTermMs: HOUR, relay: true
  })
  t.match(siteResourceOf('p', 7, ad), { rttMs: null, path: null, state: 'alive' })
  t.end()
})

const sites = (): SiteResource[] => [
  siteResourceOf('p1', 0, foldSite('tokyo', gateway, [host('c1')], '0'), { rttMs: 0, path: 'self' }),
  siteResourceOf('p2', 155_000, foldSite('osaka', gateway, [host('c1')], '0', { priceMilli: 12_500, maxTermMs: HOUR, relay: false, tunnel: [] }), { state: 'dead' })
]

t.test('people see the ranking, every reason, and the verdict last', t => {
  const lines = searchText(searchSites({ nodes: 2, memoryMib: 1024, features: ['kvm'] }, sites())).split('\n')
  t.match(lines[0], /^SITE +GATEWAY +NODES THAT FIT +FITS +RTT +PRICE +VCPU FREE +MEMORY FREE$/)
  t.match(lines[1], /^tokyo +gw +0 +no +0ms +0 +4\/8 +4096 MiB \/ 8192 MiB$/)
  t.match(lines[2], /^osaka +gw +0 +no +- +12\.5 /)
  t.equal(lines[3], 'tokyo: no host has kvm')
  t.equal(lines[4], 'osaka: the site is dead: its last sign of life is 155 s old; advertisement is 155 s old, 150 s is the most; no host has kvm')
  t.match(lines[5], /^It does not fit\..*Ruled out: 1 site by being dead, 1 site by an old advertisement, 2 sites by feature\.$/)
  t.match(searchText(searchSites({ nodes: 9 }, sites())), /tokyo +gw +4 +in part [^]*\ntokyo: 4 of 9 nodes fit\n/)
  t.match(searchText(searchSites({ limit: 1 }, sites())), /tokyo +gw +4 +yes [^]*\n1 more site is not shown: raise --limit\nIt fits\./)
  t.equal(searchText(searchSites({}, [])), 'It does not fit. No site is known.')
  t.end()
})

t.test('over REST nothing of the answer is lost, and a wrong time window is the caller\'s mistake', async t => {
  const silent = new Writable({ write (_chunk, _encoding, done) { done() } })
  const api = await createApi({ title: 'test', description: 'test', logger: pino(silent) })
  t.teardown(() => api.close())
  api.post('/v1/search', { schema: { body: SearchSchema, response: { 200: SearchResultSchema } } }, request => searchSites(request.body, sites()))
  const post = async (payload: object) => await api.inject({ method: 'POST', url: '/v1/search', payload })
  const query = searchQueryOf({ nodes: '4', maxRtt: '50ms', for: '2h' }, NOW)
  const answer = (await post(query)).json<SearchResult>()
  t.strictSame(answer, JSON.parse(JSON.stringify(searchSites(query, sites()))) as SearchResult)
  t.same(answer.sites.map(s => [s.site, s.rttMs, s.path, s.reasons.map(reason => reason.code)]), [['tokyo', 0, 'self', []], ['osaka', null, null, ['DEAD', 'STALE', 'RTT', 'TERM']]])
  t.match((await post({ startMs: 5 })).json(), { status: 400, code: 'INVALID_INPUT', detail: /startMs without endMs/, hint: /both/ })
})
