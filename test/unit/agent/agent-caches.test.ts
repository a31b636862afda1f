/** Masters and gateways about caches: who may ask what, and what a site says is judged before it is shown. */
import t from 'tap'
import { METRIC_NODES_MAX } from '../../../agent/api/metrics/cache.ts'
import { metricsText } from '../../../agent/api/metrics/metrics.ts'
import { createCaches, siteCache } from '../../../agent/cache/fleet.ts'
import { createRetainedStores } from '../../../agent/cache/retained.ts'
import { createSiteCaches } from '../../../agent/cache/site.ts'
import { cacheLines } from '../../../agent/diagnose/seen.ts'
import { cacheFigures, type CacheFigures } from '../../../agent/master/caches.ts'
import type { CallPeer, HostStatus } from '../../../agent/peers.ts'
import type { HelperClient } from '../../../agent/helper/client/client.ts'
import { checkParams, type VerbName } from '../../../agent/helper/wire/verbs.ts'
import type { RetainedStoreResource } from '../../../protocol/cache-api.ts'
import { NotFoundError } from '../../../protocol/core/errors.ts'
import { MAX_CACHE_ASKS } from '../../../protocol/core/limits.ts'
import type { ClusterDocument, MemberSite } from '../../../protocol/core/messages.ts'

const ID = '01234567-89ab-4def-8123-456789abcdef'
const site = (name: string, cache: boolean): MemberSite => ({
  site: name, segmentId: 1, gateway: { host: `${name}-1`, peer: `peer-${name}`, underlayAddress: '', tunnelPublicKey: '', tunnelEndpoint: '', tunnelAddress: '', chain: [] }, hosts: [], gatewayAddress: '', gatewayMac: '', cache, leaseId: ''
})
const DOCUMENT = {
  id: ID, name: 'demo', frontend: { ip: '10.42.0.1' }, sites: [site('tokyo', false), site('osaka', true), site('kyoto', true)], nodes: [{ name: 'demo-osaka-002', ip: '10.42.2.2' }]
} as unknown as ClusterDocument
const STATS = {
  requests: 10, hits: 7, bytesToNodes: 1_000, bytesFromUpstream: 400, stored: 500, classes: { named: { requests: 9, bytesToNodes: 900, bytesFromUpstream: 300 } },
  nodes: { '10.42.2.2': { requests: 4, bytes: 600 }, '10.42.9.9': { requests: 6, bytes: 400 } }, wire: { static: 350, dynamic: 90 },
  budget: { rateMbitPerS: null, totalBytes: 440, usedBytes: 440, paused: 'the WAN budget of 440 bytes is used up' },
  fetch: { aheadParts: 1, aheadBytes: 5, listed: 3, room: true, orders: { mine: { state: 'paused', reason: 'used up', objects: 3, objectsDone: 1, bytes: 30, bytesDone: 10, bytesFetched: 10, failures: 4, failed: Array.from({ length: 4 }, (_, i) => ({ path: `/${i}`, error: '404' })), indexErrors: [{ path: '/i', error: 'x' }] } } }
}
type Asked = Array<{ verb: VerbName, params: unknown }>
function helperWith (asked: Asked, answer: (verb: VerbName) => unknown = () => null): Pick<HelperClient, 'call'> {
  const call = (verb: VerbName, params: unknown): Promise<unknown> => {
    asked.push({ verb, params: checkParams(verb, params) })
    return Promise.resolve(answer(verb))
  }
  return { call: call as HelperClient['call'] }
}
/** The master at tokyo and the gateways of the others, without a network. */
function federation (asked: Asked, answer: (verb: VerbName) => unknown, failing: readonly string[] = [], document: ClusterDocument = DOCUMENT): ReturnType<typeof createCaches> {
  const gateways = new Map(['osaka', 'kyoto'].map(name => [`peer-${name}`, createSiteCaches({ site: name, helper: helperWith(asked, answer), masterSite: id => id === ID ? 'tokyo' : null })]))
  const call = async (peer: string, _method: string, request: { clusterId: string, ask: string, params: string }): Promise<{ result: string }> => {
    const gateway = gateways.get(peer)
    if (gateway === undefined || failing.includes(peer)) throw new NotFoundError(`${peer} is away`)
    return await gateway.answer(request, { site: 'tokyo' })
  }
  return createCaches({ call: call as unknown as CallPeer, document: name => name === 'new' ? null : document, setBudget: () => Promise.resolve() })
}

t.test('figures of all sites, with names of nodes; one that is away is named', async t => {
  const found = await federation([], () => STATS, ['peer-kyoto']).status('demo')
  t.match(found, {
    cluster: 'demo', id: ID, total: { bytesToNodes: 1_000, bytesFromUpstream: 400, savedBytes: 600, wanBytes: 440, storedBytes: 500 },
    sites: [{
      site: 'osaka', host: 'osaka-1', error: '', requests: 10, hits: 7, savedBytes: 600, wanBytes: { static: 350, dynamic: 90 }, classes: { named: { requests: 9 }, dynamic: { requests: 0 } },
      nodes: [{ node: '10.42.9.9', requests: 6 }, { node: 'demo-osaka-002', bytes: 600 }], orders: [{ name: 'mine', state: 'paused', failures: 4, indexErrors: [{ path: '/i', error: 'x' }] }], budget: { totalBytes: 440, paused: /used up/ }, room: true
    }, { site: 'kyoto', error: /peer-kyoto is away/, requests: 0, budget: null }]
  })
  t.equal(found.sites[0]?.orders[0]?.failed.length, 2, 'the first failures only: a message holds them')
  await t.rejects(federation([], () => null).status('new'), { code: 'CONFLICT' })
})

t.test('what a site says may be anything', t => {
  const [, osaka] = DOCUMENT.sites
  if (osaka === undefined) throw new Error('no site')
  for (const odd of [null, 7, 'x', [], { requests: -1, nodes: 5, classes: [], fetch: { orders: { a: null } }, wire: 'x', budget: 'x' }, { nodes: { a: null }, budget: { paused: 5 }, fetch: { orders: { a: { failed: [null, 5] } } } }]) {
    t.match(siteCache(DOCUMENT, osaka, odd), { site: 'osaka', requests: 0, savedBytes: 0 }, JSON.stringify(odd))
  }
  t.end()
})

t.test('orders and purges go to every site with a cache, or to one, by name of its object', async t => {
  const asked: Asked = []
  const caches = federation(asked, verb => verb === 'cache-purge' ? { parts: 3, bytes: 30 } : null)
  t.same(await caches.preheat('demo', { order: 'mine', objects: [{ path: '/a' }], rateKbitPerS: 8 }), { cluster: 'demo', sites: ['osaka', 'kyoto'].map(name => ({ site: name, error: '', parts: 0, bytes: 0, orders: [] })) })
  t.same(asked, Array.from({ length: 2 }, () => ({ verb: 'cache-preheat', params: { name: '01234567.cache', order: 'mine', objects: [{ path: '/a' }], rateKbitPerS: 8 } })))
  t.match(await caches.purge('demo', { prefix: '/a', site: 'kyoto', refetch: true }), { sites: [{ site: 'kyoto', parts: 3, bytes: 30, orders: [] }] }, 'a release that tells no orders')
  t.same(asked.at(-1), { verb: 'cache-purge', params: { name: '01234567.cache', prefix: '/a', refetch: true } })
  await caches.cancel('demo', 'mine', 'osaka')
  t.same(asked.at(-1), { verb: 'cache-cancel', params: { name: '01234567.cache', order: 'mine' } })
  await t.rejects(caches.purge('demo', { prefix: '/a', site: 'tokyo' }), { code: 'NOT_FOUND', message: /no cache at site "tokyo"/ })
  t.match(await caches.preheat('demo', { order: 'mine', objects: [{ path: 'no path' }] }), { sites: [{ error: /path/ }, { error: /path/ }] }, 'the far side judges too')
})

t.test('a budget is what the document says, beside what sites say', async t => {
  const document = { ...DOCUMENT, cacheTerms: 'budget-total 440\nbudget-rate-at kyoto 8000\nbudget-total-at kyoto 0' }
  t.strictSame(await federation([], () => STATS, [], document).budget('demo'), {
    cluster: 'demo', rateKbitPerS: null, totalBytes: 440,
    sites: [
      { site: 'osaka', rateKbitPerS: null, totalBytes: 440, own: false, usedBytes: 440, paused: 'the WAN budget of 440 bytes is used up', inForce: true, error: '' },
      { site: 'kyoto', rateKbitPerS: 8000, totalBytes: null, own: true, usedBytes: 440, paused: 'the WAN budget of 440 bytes is used up', inForce: false, error: '' }
    ]
  })
  t.match(await federation([], () => ({ ...STATS, budget: null }), ['peer-kyoto']).setBudget('demo', { totalBytes: null }), { totalBytes: null, sites: [{ inForce: true, usedBytes: 440 }, { inForce: false, error: /away/ }] })
  await t.rejects(federation([], () => STATS).setBudget('demo', { site: 'tokyo', totalBytes: 5 }), { code: 'NOT_FOUND' })
})

t.test('lists come in pages of the right form, of one site or of all, one after the other', async t => {
  const object = { class: 'named', port: 80, path: '/a', bytes: 5, parts: 1, sizeBytes: null, sha256: null, asked: 2 }
  const asked: Asked = []
  t.same(await federation(asked, () => ({ objects: [object], next: '/a 80 named' })).list('demo', { site: 'kyoto', prefix: '/a', after: '/0 80 named' }), { site: 'kyoto', error: '', objects: [object], next: '/a 80 named' })
  t.same(asked, [{ verb: 'cache-list', params: { name: '01234567.cache', prefix: '/a', after: '/0 80 named' } }])
  await t.rejects(federation([], () => ({ objects: [{ path: 5 }], next: null })).list('demo', { site: 'osaka' }), { code: 'BAD_ANSWER' })

  const pages = [{ objects: [object], next: '/a 80 named' }, { objects: [{ ...object, path: '/b' }], next: null }]
  let page = 0
  const caches = federation([], () => pages[page++ % 2])
  const seen: string[] = []
  for (let after: string | null = null; seen.length < 9;) {
    const one = await caches.list('demo', after === null ? {} : { after })
    seen.push(`${one.site} ${one.objects.map(({ path }) => path).join()} > ${one.next ?? 'the end'}`)
    if (one.next === null) break
    after = one.next
  }
  t.strictSame(seen, ['osaka /a > osaka /a 80 named', 'osaka /b > kyoto', 'kyoto /a > kyoto /a 80 named', 'kyoto /b > the end'])
  t.match(await federation([], () => pages[1], ['peer-osaka']).list('demo', {}), { site: 'osaka', error: /peer-osaka is away/, objects: [], next: 'kyoto' }, 'the others are listed all the same')
  t.match(await federation([], () => ({ objects: 5 })).list('demo', { after: 'kyoto' }), { site: 'kyoto', error: /another form/, next: null })
  for (const after of ['nobody', '', '/a 80 named']) await t.rejects(federation([], () => pages[1]).list('demo', { after }), { code: 'INVALID_INPUT' }, after)
})

t.test('a gateway answers the site of the master alone, known questions, a few at a time', async t => {
  const waiting: Array<(value: unknown) => void> = []
  const hang = async (): Promise<unknown> => await new Promise<unknown>(resolve => { waiting.push(resolve) })
  const helper = { call: hang as HelperClient['call'] }
  const gateway = createSiteCaches({ site: 'osaka', helper, masterSite: id => id === ID ? 'tokyo' : null })
  const ask = async (what: string, params = '{}', from = 'tokyo', clusterId = ID): Promise<unknown> => await gateway.answer({ clusterId, ask: what, params }, { site: from })
  await t.rejects(ask('status', '{}', 'kyoto'), { code: 'CONFLICT' })
  await t.rejects(ask('status', '{}', 'tokyo', 'other'), { code: 'NOT_FOUND' })
  for (const what of ['sweep', 'apply', 'remove', 'segment-capture', '', '__proto__']) await t.rejects(ask(what), { code: 'INVALID_INPUT' }, what)
  for (const params of ['', 'null', '[]', '{"name":"other.cache"}', '{"prefix":"x"}', '{"extra":1}']) await t.rejects(ask('cache-purge', params), { code: 'INVALID_INPUT' }, params)
  const many = Array.from({ length: MAX_CACHE_ASKS }, async () => await ask('status'))
  await t.rejects(ask('status'), { code: 'BUSY', retryable: true })
  for (const answer of waiting) answer({})
  t.equal((await Promise.all(many)).length, MAX_CACHE_ASKS)
  const large = createSiteCaches({ site: 'osaka', helper: helperWith([], () => ({ text: 'x'.repeat(200_000) })), masterSite: () => 'tokyo' })
  await t.rejects(large.answer({ clusterId: ID, ask: 'status', params: '{}' }, { site: 'tokyo' }), { code: 'TOO_LARGE' })
})

t.test('metrics have the caches of this master', t => {
  const status = (name: string, detail: object): HostStatus => ({ site: name, host: `${name}-1`, leaseState: 'active', reachable: true, nowMs: 0, objects: [{ kind: 'cache', name: '01234567.cache', state: 'ok', error: '', detail: JSON.stringify(detail) }] })
  const tftp = { requests: 2, bytesToNodes: 150, bytesFromUpstream: 70 }
  const figures = cacheFigures(DOCUMENT, [status('osaka', { ...STATS, classes: { ...STATS.classes, tftp }, wire: { ...STATS.wire, https: 12 } }), status('kyoto', { nodes: 'x' })])
  t.equal(figures.length, 1, 'kyoto has told nothing')
  const none = { admissionRefusals: { us: {}, them: {} }, joins: {}, records: [], recordOutcomes: {}, peers: {}, leases: {}, masterless: 0, frozen: false, ledgerFailed: false, revocations: 0, certificateNotAfterMs: 0, cordoned: false, uptimeMs: 0 }
  t.notMatch(metricsText(none), 'musubi_cache')
  const text = metricsText(none, [{ name: 'demo', caches: [{ site: 'osaka', requests: 10, hits: 7, bytesToNodes: 1_000, bytesFromUpstream: 400, wanBytes: 440, paused: 'used up' }] }], figures)
  for (const line of ['musubi_cache_bytes_total{cluster="demo",site="osaka",way="wan"} 440', 'musubi_cache_requests_total{cluster="demo",site="osaka",answer="frontend"} 3', 'musubi_cache_paused{cluster="demo",site="osaka"} 1',
    'musubi_cache_class_bytes_total{cluster="demo",site="osaka",class="named",way="nodes"} 900', 'musubi_cache_class_bytes_total{cluster="demo",site="osaka",class="tftp",way="frontend"} 70',
    'musubi_cache_class_requests_total{cluster="demo",site="osaka",class="tftp"} 2', 'musubi_cache_class_requests_total{cluster="demo",site="osaka",class="listed"} 0',
    'musubi_cache_node_bytes_total{cluster="demo",site="osaka",node="demo-osaka-002"} 600', 'musubi_cache_node_requests_total{cluster="demo",site="osaka",node="other"} 6', 'musubi_cache_https_bytes_total{cluster="demo",site="osaka"} 12']) t.ok(text.split('\n').includes(line), line)
  const many = Array.from({ length: 30 }, (_, cluster): CacheFigures => ({ cluster: `c${cluster}`, site: 'osaka', classes: {}, httpsBytes: 0, nodes: new Map(Array.from({ length: 50 }, (_, i) => [`n${i}`, { requests: 1, bytes: 2 }])) }))
  const lines = metricsText(none, [{ name: 'demo', caches: [{ site: 'osaka', requests: 0, hits: 0, bytesToNodes: 0, bytesFromUpstream: 0 }] }], many).split('\n').filter(line => line.startsWith('musubi_cache_node_bytes_total{'))
  t.equal(lines.length, METRIC_NODES_MAX + 10, 'a bound of all of them, and one series for the rest of each cache')
  t.equal(lines.reduce((sum, line) => sum + Number(line.split(' ').at(-1)), 0), 30 * 50 * 2, 'nothing is lost by it')
  t.end()
})

t.test('stores that outlive their clusters: what comes and goes is told once, and counted', async t => {
  const store = (id: string, part: Partial<RetainedStoreResource> = {}): RetainedStoreResource => ({ id, owner: 'tokyo', cluster: 'demo', bytes: 100, objects: 2, lastUsedMs: 5, untilMs: 10, checked: true, ...part })
  const asked: Asked = []
  const told: string[] = []
  let stores = [store('a')]
  const retained = createRetainedStores({
    site: 'osaka', host: 'osaka-1', limits: { totalBytes: 5, ownerBytes: 4, maxMs: 3 }, events: { add: (type, message) => { told.push(`${type} ${message}`) } },
    helper: helperWith(asked, verb => verb === 'cache-retained' ? stores : { stores: stores.length, bytes: 100 })
  })
  t.same(retained.figures(), [])
  await retained.tick()
  t.same(told, [], 'what was there before is no news')
  stores = [store('a'), store('b', { owner: 'kyoto', checked: false, bytes: 7 })]
  await retained.tick()
  t.same(told, [], 'not before it is checked')
  stores = [store('b', { owner: 'kyoto', bytes: 7 })]
  await retained.tick()
  await retained.tick()
  t.match(told, [/^cache\.retained .*cluster demo outlives it for site kyoto: 2 objects, 7 bytes$/, /^cache\.unretained .*demo of site tokyo/])
  t.equal(told.length, 2)
  t.match(await retained.list(), { site: 'osaka', host: 'osaka-1', limits: { totalBytes: 5 }, stores: [{ id: 'b' }] })
  const text = metricsText({ admissionRefusals: { us: {}, them: {} }, joins: {}, records: [], recordOutcomes: {}, peers: {}, leases: {}, masterless: 0, frozen: false, ledgerFailed: false, revocations: 0, certificateNotAfterMs: 0, cordoned: false, uptimeMs: 0 }, [], [], [...retained.figures(), store('c', { owner: 'kyoto' })])
  for (const line of ['musubi_cache_retained_bytes{owner="kyoto"} 107', 'musubi_cache_retained_stores{owner="kyoto"} 2']) t.ok(text.includes(line), line)
  t.same(await retained.purge('kyoto'), { stores: 1, bytes: 100 })
  stores = []
  await t.rejects(retained.purge('kyoto'), { code: 'NOT_FOUND' })
  t.same(await retained.purge(null), { stores: 0, bytes: 100 })
  t.same(asked.filter(({ verb }) => verb === 'cache-forget').map(({ params }) => params), [{ owner: 'kyoto' }, { owner: 'kyoto' }, {}])
})

t.test('a diagnosis says what no cache sees', t => {
  t.match(cacheLines(DOCUMENT, 'osaka'), [/HTTP to 10\.42\.0\.1 on port 80 goes through the cache on osaka-1; HTTPS passes untouched and is not counted as saved/])
  t.match(cacheLines(DOCUMENT, 'tokyo'), [/none at this site, which has the frontend/])
  t.same(cacheLines(DOCUMENT, 'elsewhere'), [])
  t.end()
})
