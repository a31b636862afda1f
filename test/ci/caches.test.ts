/** Questions about caches over a real mesh, with pretended drivers: what is asked at the master reaches the gateways, and nobody else's cluster. Needs root. */
import { readdir, readFile } from 'node:fs/promises'
import { join } from 'node:path'
import t from 'tap'
import { call } from '../../cli/client.ts'
import type { CacheBudgetResource, CacheDeedResource, ClusterCachesResource } from '../../protocol/cache-api.ts'
import type { CacheSpec } from '../../protocol/core/desired.ts'
import { until } from '../../lab/process.ts'
import { PATIENCE_MS, spec, startFederation } from '../e2e/federation.ts'

const skip = process.getuid?.() === 0 ? false : 'needs root to make namespaces'
t.setTimeout(200_000)

t.test('caches of a cluster over two sites', { skip, timeout: 190_000 }, async t => {
  const f = await startFederation(t)
  await f.views()
  const plain = spec('demo', 5) as { spec: object }
  await f.create('tokyo-1', { ...plain, spec: { ...plain.spec, cache: { size: '1GiB', profile: { dynamic: ['/ks/'] }, preheat: { rate: '8Mbit/s' }, budget: { total: '2GB' } } } })
  const dir = f.lab.host('tsukuba-1').pod.path('/var/lib/musubi-helper/fake/cache')
  const file = await until('the cache is made', PATIENCE_MS, async () => (await readdir(dir).catch(() => [])).find(name => name.endsWith('.json')) ?? null)
  const kept = await readFile(join(dir, file), 'utf8')
  const wanted: Partial<CacheSpec> = { maxSizeMiB: 1024, hosts: ['demo-fe', 'demo-fe.demo.internal'], preheat: { manifest: '/v1/preheat.json', rateMbitPerS: 8 }, budget: { totalBytes: 2e9 } }
  for (const [field, value] of Object.entries(wanted)) t.ok(kept.includes(`"${field}":${JSON.stringify(value)}`), `the far gateway's driver was given ${field}`)

  t.match(await f.get<ClusterCachesResource>('tokyo-1', '/v1/clusters/demo/cache'), { cluster: 'demo', sites: [{ site: 'tsukuba', host: 'tsukuba-1', error: '', requests: 0, budget: null }] }, 'it answers; pretended drivers have no figures')
  const post = async (what: string, body: object): Promise<CacheDeedResource> => await call<CacheDeedResource>({ socketPath: f.lab.api('tokyo-1'), what: 'agent' }, 'POST', `/v1/clusters/demo/cache/${what}`, body)
  t.match(await post('preheat', { order: 'mine', objects: [{ path: '/a.rpm' }] }), { sites: [{ site: 'tsukuba', error: /no real caches/ }] }, 'as far as the helper there')
  t.match(await post('purge', { prefix: '/a' }), { sites: [{ site: 'tsukuba', error: /no real caches/ }] })
  await t.rejects(post('preheat', { order: 'Mine!', objects: [{ path: '/a.rpm' }] }), { code: 'INVALID_INPUT' })
  await t.rejects(post('purge', { site: 'osaka' }), { code: 'NOT_FOUND' })

  const budget = async (body: object): Promise<CacheBudgetResource> => await call<CacheBudgetResource>({ socketPath: f.lab.api('tokyo-1'), what: 'agent' }, 'POST', '/v1/clusters/demo/cache/budget', body)
  t.match(await f.get<CacheBudgetResource>('tokyo-1', '/v1/clusters/demo/cache/budget'), { rateKbitPerS: null, totalBytes: 2e9, sites: [{ site: 'tsukuba', totalBytes: 2e9, own: false, error: '' }] })
  t.match(await budget({ rateKbitPerS: 9000, totalBytes: null }), { rateKbitPerS: 9000, totalBytes: null })
  const has = async (text: string): Promise<boolean | null> => (await readFile(join(dir, file), 'utf8').catch(() => '')).includes(text) || null
  t.ok(await until('the far gateway has the budget', PATIENCE_MS, async () => await has('"budget":{"rateMbitPerS":9}')))
  t.match(await budget({ site: 'tsukuba', rateKbitPerS: null, totalBytes: 7e9 }), { rateKbitPerS: 9000, sites: [{ site: 'tsukuba', rateKbitPerS: null, totalBytes: 7e9, own: true }] })
  t.ok(await until('the far gateway has its own budget', PATIENCE_MS, async () => await has('"budget":{"totalBytes":7000000000}')))
  await t.rejects(budget({ site: 'tokyo', totalBytes: 5 }), { code: 'NOT_FOUND' }, 'the frontend\'s site has no cache')
  await t.rejects(budget({ totalBytes: 'default' }), { code: 'INVALID_INPUT' })
  await t.rejects(budget({ totalBytes: 0 }), { code: 'INVALID_INPUT' })

  await t.rejects(f.get('osaka-1', '/v1/clusters/demo/cache'), { code: 'NOT_FOUND' }, 'another gateway is not its master')
  await t.rejects(f.get('tokyo-2', '/v1/clusters/demo/cache'), { code: 'NOT_A_GATEWAY' })
  await f.reset()
})
