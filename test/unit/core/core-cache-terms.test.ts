import t from 'tap'
import { Value } from 'typebox/value'
import { checkParams } from '../../../agent/helper/wire/verbs.ts'
import { SPECS } from '../../../agent/helper/wire/specs.ts'
import { planCache } from '../../../agent/drivers/cache/plan.ts'
import { amountBytes, cacheSectionSchema, cacheSizeMib, cacheTermsProblem, parseCacheTerms, rateKbit, readCacheSection, renderCacheTerms } from '../../../protocol/core/cache/terms.ts'
import type { CacheSpec, DesiredObject } from '../../../protocol/core/desired.ts'
import { buildClusterDocument } from '../../../protocol/core/document.ts'
import { InvalidInputError } from '../../../protocol/core/errors.ts'
import { MAX_CACHE_TERMS_CHARACTERS } from '../../../protocol/core/limits.ts'
import type { ClusterDocument } from '../../../protocol/core/messages.ts'
import type { HostCapacity } from '../../../protocol/core/placement/at-site.ts'
import { siteCapacityOf } from '../../../protocol/core/placement/site-capacity.ts'
import { desiredFor } from '../../../protocol/core/plan.ts'
import { parseClusterSpec } from '../../../protocol/core/spec.ts'
import { placeAmongSites } from '../../../protocol/core/placement/among-sites.ts'
import { documentProblem, growthProblem } from '../../../protocol/core/verify/document.ts'
import { decode, encode } from '../../../protocol/wire/codec.ts'
import { offerFor } from '../../model/fixtures.ts'

const SECTION = {
  size: '20GiB',
  profile: { immutable: ['/install/images/'], dynamic: ['/install/ks/'], indexes: [{ kind: 'rpm', path: '/install/repodata/repomd.xml' }] },
  preheat: { manifest: '/install/manifest.json', rate: '50Mbit/s' }, budget: { rate: '0.1Gbit/s', total: '20GB' }, retain: '7d'
}
const input = (cache?: unknown): unknown => ({ apiVersion: 'musubi/v1', kind: 'Cluster', metadata: { name: 'demo' }, spec: { nodes: { count: 3 }, ...cache === undefined ? {} : { cache } } })
const problems = (cache: unknown): string[] => {
  try {
    parseClusterSpec(input(cache))
    return []
  } catch (error) {
    if (error instanceof InvalidInputError) return error.message.split('\n').slice(1)
    throw error
  }
}
const host = (name: string, roles: string[], vcpus: number): HostCapacity => ({ host: name, roles, free: { vcpus, memoryMib: vcpus * 1024, diskMib: 0, volumes: 0, bandwidthMbit: 0 } })
const SITES = { tokyo: [host('tokyo-1', ['gateway', 'compute'], 1)], tsukuba: [host('tsukuba-1', ['gateway', 'compute'], 9)] }

function documentOf (cache?: unknown): ClusterDocument {
  const spec = parseClusterSpec(input(cache))
  const placed = placeAmongSites(spec, Object.entries(SITES).map(([site, list]) => siteCapacityOf(site, list)), 'tokyo')
  if ('refusal' in placed) throw new Error(placed.refusal)
  const offers = placed.parts.map(part => offerFor(part.site, part.site === 'tokyo' ? 0 : 1, part, part.site === 'tokyo' ? SITES.tokyo : SITES.tsukuba))
  return buildClusterDocument({
    id: '01234567-89ab-4def-8123-456789abcdef', name: 'demo', spec, offers, masterSite: 'tokyo', masterPeer: 'peer-tokyo-1', vni: 0x201, nowMs: 1_000,
    sshPublicKey: 'ssh-ed25519 AAAA', imageDigest: `sha256:${'0'.repeat(64)}`, hash: text => Buffer.from(text).toString('hex').padEnd(32, '0')
  })
}
function cacheOf (document: ClusterDocument): DesiredObject<'cache'> {
  const found = desiredFor(document, { site: 'tsukuba', host: 'tsukuba-1' }, []).find((one): one is DesiredObject<'cache'> => one.kind === 'cache')
  if (found === undefined) throw new Error('no cache')
  return found
}

t.test('quantities are read strictly', t => {
  t.strictSame(['8GiB', '1.5TiB', '512 MiB', '8GB', '8', 'GiB', '8gib', '-1GiB', '8constructor'].map(cacheSizeMib), [8192, 1_572_864, 512, null, null, null, null, null, null])
  t.strictSame(['50Mbit/s', '0.1Gbit/s', '64kbit/s', '50', '50MB/s'].map(rateKbit), [50_000, 100_000, 64, null, null])
  t.strictSame(['20GB', '1TiB', '20Gb'].map(amountBytes), [20e9, 2 ** 40, null])
  t.end()
})

t.test('every problem of the section is named at its place', t => {
  t.strictSame(problems(SECTION), [])
  t.strictSame(problems({}), [])
  t.strictSame(problems({ preheat: false }), [])
  const found = problems({
    size: '8GB', profile: { immutable: ['install/'], validated: ['/a b'], dynamic: ['/x"{}'], indexes: [{ kind: 'apt', path: '/Release' }, { kind: 'rpm', path: 'repomd.xml' }] },
    preheat: { manifest: '/a\tb', rate: 'fast' }, budget: { rate: '0Mbit/s', total: '20' }, retain: 'long'
  })
  for (const place of ['size', 'profile.immutable[0]', 'profile.validated[0]', 'profile.dynamic[0]', 'profile.indexes[0].kind', 'profile.indexes[1].path', 'preheat.manifest', 'preheat.rate', 'budget.rate', 'budget.total', 'retain']) {
    t.equal(found.filter(line => line.startsWith(`spec.cache.${place}: `)).length, 1, place)
  }
  for (const retain of ['59s', '366d', '0d', '7']) t.match(problems({ retain }), [/spec\.cache\.retain: .* is not a duration such as 7d/], retain)
  for (const retain of ['60s', '365d', 'P7D']) t.strictSame(problems({ retain }), [], retain)
  t.match(problems({ sise: '1GiB' }), [/spec\.cache\.sise: unknown field; did you mean "size"\?/])
  t.match(problems({ preheat: true }), [/spec\.cache\.preheat: must be false or \{manifest: PATH/])
  t.match(problems({ profile: { immutable: Array.from({ length: 65 }, () => '/a') } }), [/spec\.cache\.profile\.immutable/])
  t.end()
})

t.test('terms go through a document and come out as they were', t => {
  for (const section of [SECTION, {}, { preheat: false as const }, { preheat: {} }, { budget: { total: '1MB' } }, { retain: '12h' }]) {
    const { terms } = readCacheSection(section)
    t.strictSame(parseCacheTerms(renderCacheTerms(terms)), terms)
    const document = documentOf(section)
    t.equal(decode('ClusterDocument', encode('ClusterDocument', document)).cacheTerms, renderCacheTerms(terms))
  }
  t.notOk('cacheTerms' in documentOf(), 'nothing asked, nothing said')
  t.equal(decode('ClusterDocument', encode('ClusterDocument', documentOf())).cacheTerms, '', 'as an earlier release writes it')
  t.end()
})

t.test('a host takes no terms that it would not write itself', t => {
  const good = renderCacheTerms(readCacheSection(SECTION).terms)
  t.equal(cacheTermsProblem(good), null)
  t.equal(cacheTermsProblem(undefined), null)
  for (const text of [
    'size 0', 'size 1e3', 'size 99999999999', 'sizes 4', `${good}\n`, `\n${good}`, good.split('\n').reverse().join('\n'), 'size 4\nsize 4', 'immutable /a b', 'immutable /a"; return 200', 'dynamic a', `validated /${'a'.repeat(256)}`,
    'index apt /a', 'index rpm', 'preheat', 'preheat-rate 5', 'preheat off\npreheat-rate 5', 'preheat on\npreheat-manifest /a\tb', 'budget-total 1e15', 'budget-rate -1', 'retain-ms 59999', 'retain-ms 31536000001', 'retain-ms 7d', 'retain-ms 600000\nsize 4',
    Array.from({ length: 65 }, () => 'dynamic /a').join('\n'), Array.from({ length: 17 }, () => 'index rpm /a').join('\n'), `immutable /${'a'.repeat(MAX_CACHE_TERMS_CHARACTERS)}`
  ]) t.type(cacheTermsProblem(text), 'string', text.slice(0, 60))
  const document = documentOf(SECTION)
  t.match(documentProblem({ ...document, cacheTerms: 'rm -rf' }, { isGatewayOf: () => true, tunnelAddressFor: () => '' }) ?? '', /its terms for caches: "rm -rf" is not understood here/)
  t.match(growthProblem(document, { ...document, version: 2, cacheTerms: 'size 5' }) ?? '', /its cacheTerms are others than in version 1/)
  t.equal(growthProblem(document, { ...document, version: 2, cacheTerms: `${document.cacheTerms ?? ''}\nbudget-total-at osaka 7` }), null, 'the budget alone may be another')
  t.equal(growthProblem({ ...document, cacheTerms: '' }, { ...documentOf(), version: 2 }), null, 'absent and empty are the same')
  t.end()
})

t.test('the cache of a site gets what was asked, and always who asks', t => {
  const plain = cacheOf(documentOf())
  t.strictSame(plain.spec, {
    cluster: 'demo', clusterId: '01234567-89ab-4def-8123-456789abcdef', vni: 0x201, frontendAddress: '10.42.0.1', ownAddress: '10.42.255.2', bridgeMac: plain.spec.bridgeMac, ports: [80], maxSizeMiB: 8192,
    hosts: ['demo-fe', 'demo-fe.demo.internal'], preheat: { manifest: '/v1/preheat.json' }, tftp: {}
  }, 'the built-in frontend has a manifest of its own')
  const full = cacheOf(documentOf(SECTION))
  t.match(full.spec, {
    maxSizeMiB: 20_480, preheat: { manifest: '/install/manifest.json', rateMbitPerS: 50 }, budget: { rateMbitPerS: 100, totalBytes: 20e9 },
    profile: { immutable: ['/install/images/'], validated: [], dynamic: ['/install/ks/'], indexes: [{ kind: 'rpm', path: '/install/repodata/repomd.xml' }] },
    retain: { owner: 'tokyo', ms: 604_800_000 }
  })
  t.notOk('retain' in plain.spec, 'nothing outlives a cluster that does not ask for it')
  t.notOk('preheat' in cacheOf(documentOf({ preheat: false })).spec)
  t.strictSame(cacheOf(documentOf({ preheat: { rate: '8Mbit/s' } })).spec.preheat, { manifest: '/v1/preheat.json', rateMbitPerS: 8 })
  const apply = (one: DesiredObject<'cache'>, change: Partial<Record<keyof CacheSpec, unknown>> = {}): unknown => checkParams('apply', { kind: 'cache', name: one.name, spec: { ...one.spec, ...change }, claim: null })
  for (const one of [plain, full]) {
    t.doesNotThrow(() => apply(one), 'the helper takes it')
    t.doesNotThrow(() => planCache(one.spec, '/state/cache'), 'and the driver')
  }
  for (const change of [{ hosts: ['a b'] }, { preheat: { manifest: 'http://x/' } }, { budget: { totalBytes: -1 } }, { profile: { dynamic: ['/a"'] } }, { profile: { other: [] } }, { clusterId: '../x' }, { retain: { owner: '../x', ms: 60_000 } }, { retain: { owner: 'tokyo', ms: 1 } }, { retain: { owner: 'tokyo' } }]) t.throws(() => apply(full, change), JSON.stringify(change))
  t.end()
})

t.test('whoever takes terms takes the same paths: the specification, the document, the helper and the driver', t => {
  const spec = { cluster: 'c1', vni: 1, frontendAddress: '10.42.0.1', ownAddress: '10.42.255.2', bridgeMac: '02:00:00:00:b1:01', ports: [80], maxSizeMiB: 64 }
  const says = (what: () => unknown): boolean => { try { what(); return true } catch { return false } }
  const prefixes = { '/install/RPMS/': true, '/': true, '/a/..b/c': true, '/a//b': false, '/a/../b': false, '/a/..': false, '/..': false, 'a': false, '/a b': false, [`/${'x'.repeat(256)}`]: false }
  for (const [prefix, good] of Object.entries(prefixes)) {
    const profile = { immutable: [prefix] }
    t.equal(Value.Check(cacheSectionSchema, { profile }) && readCacheSection({ profile }).problems.length === 0, good, `specification ${prefix.slice(0, 20)}`)
    t.equal(cacheTermsProblem(`immutable ${prefix}`) === null, good, `document ${prefix.slice(0, 20)}`)
    t.equal(Value.Check(SPECS.cache, { ...spec, profile }), good, `helper ${prefix.slice(0, 20)}`)
    t.equal(says(() => planCache({ ...spec, profile }, '/srv/c1')), good, `driver ${prefix.slice(0, 20)}`)
  }
  for (const [manifest, good] of Object.entries({ '/install/manifest.json': true, '/a//b?x=..': true, '/a/../b': false, '/a/..': false })) {
    t.equal(readCacheSection({ preheat: { manifest } }).problems.length === 0, good, `specification ${manifest}`)
    t.equal(cacheTermsProblem(`preheat on\npreheat-manifest ${manifest}`) === null, good, `document ${manifest}`)
    t.equal(Value.Check(SPECS.cache, { ...spec, preheat: { manifest } }), good, `helper ${manifest}`)
    t.equal(says(() => planCache({ ...spec, preheat: { manifest } }, '/srv/c1')), good, `driver ${manifest}`)
  }
  t.end()
})
