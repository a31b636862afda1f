/** `musubi cache` against the real routes, and what it makes of manifests, logs and mirrors. */
import { mkdir, writeFile } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { pino } from 'pino'
import t from 'tap'
import { addCacheRoutes, addRetainedRoutes } from '../../../agent/api/routes/cache.ts'
import type { Caches } from '../../../agent/cache/fleet.ts'
import { run } from '../../../agent/exec.ts'
import { exportManifest, fromAccessLog, fromManifest, fromMirror, partsOf } from '../../../cli/manifest.ts'
import { cachesText, HTTPS_NOTE, orderText, ordersByName, retainedText } from '../../../cli/render/cache.ts'
import type { CacheBudgetBody, CacheBudgetResource, CacheOrderResource, CachedObjectResource, PreheatBody, RetainedStoresResource, SiteCacheResource } from '../../../protocol/cache-api.ts'
import { NotFoundError } from '../../../protocol/core/errors.ts'
import { PREHEAT_PART_MAX } from '../../../protocol/core/limits.ts'
import { createApi } from '../../../protocol/rest/server.ts'

// each command is a process of its own, and tests run beside each other
t.setTimeout(180_000)

const CLI = join(dirname(dirname(dirname(import.meta.dirname))), 'cli', 'main.ts')
const HEX = 'a'.repeat(64)
const object = (path: string, part: Partial<CachedObjectResource> = {}): CachedObjectResource => ({ class: 'named', port: 80, path, bytes: 5, parts: 1, sizeBytes: 4, sha256: null, asked: 1, ...part })
const order = (name: string, part: Partial<CacheOrderResource> = {}): CacheOrderResource => ({ name, state: 'done', reason: '', objects: 2, objectsDone: 2, bytes: 10, bytesDone: 10, bytesFetched: 10, failures: 0, failed: [], indexErrors: [], ...part })
const siteOf = (site: string, part: Partial<SiteCacheResource> = {}): SiteCacheResource => ({
  site, host: `${site}-1`, error: '', requests: 10, hits: 7, bytesToNodes: 5e6, bytesFromUpstream: 2e6, savedBytes: 3e6, storedBytes: 2e6, wanBytes: { static: 2e6, dynamic: 1e5, https: 12e6 },
  classes: { named: { requests: 10, bytesToNodes: 5e6, bytesFromUpstream: 2e6 } }, nodes: [{ node: 'demo-osaka-002', requests: 10, bytes: 5e6 }], orders: [], aheadBytes: 0, room: true, budget: null, ...part
})

t.test('manifests are read strictly, and errors name the object', t => {
  t.same(fromManifest(JSON.stringify({ objects: [{ path: '/a', size: 5, sha256: HEX }, { path: '/b', port: 8080, more: 1 }] })), [{ path: '/a', sizeBytes: 5, sha256: HEX }, { path: '/b', port: 8080 }])
  for (const bad of ['', '[]', '{}', '{"objects":[]}', '{"objects":[{}]}', '{"objects":[{"path":"http://x/a"}]}', '{"objects":[{"path":"/a","size":-1}]}', '{"objects":[{"path":"/a","sha256":"x"}]}', '{"objects":[{"path":"/a\\tb"}]}', '{"objects":[{"path":"/a/../b"}]}', '{"objects":[null]}']) {
    t.throws(() => fromManifest(bad), { code: 'INVALID_INPUT' }, bad)
  }
  t.end()
})

t.test('of access logs the successful GETs count, the most asked first', t => {
  const lines = [
    '10.42.1.1 - - [23/Nov/2026:10:00:00 +0000] "GET /b.rpm HTTP/1.1" 200 512 "-" "dnf"', '10.42.1.2 - - [23/Nov/2026:10:00:00 +0000] "GET /b.rpm HTTP/1.1" 206 512 "-" "dnf"', '10.42.1.1 - bob [23/Nov/2026:10:00:01 +0000] "GET /a.rpm HTTP/1.0" 200 5',
    '10.42.1.1 - - [x] "POST /p HTTP/1.1" 200 5', '10.42.1.1 - - [x] "GET /none HTTP/1.1" 404 5', '10.42.1.1 - - [x] "GET http://other/x HTTP/1.1" 200 5', 'rubbish', '',
    JSON.stringify({ at: 1, node: '10.42.1.1', class: 'named', method: 'GET', target: '/c.img', status: 200, asked: 80 }), JSON.stringify({ node: '127.0.0.1', class: 'named', method: 'GET', target: '/own', status: 200, asked: 80 }),
    JSON.stringify({ node: '10.42.1.1', class: 'dynamic', method: 'GET', target: '/ks', status: 200, asked: 80 }), '{"broken'
  ]
  t.same(fromAccessLog(lines.join('\n')), [{ path: '/b.rpm' }, { path: '/a.rpm' }, { path: '/c.img' }])
  t.throws(() => fromAccessLog('rubbish\n'), { code: 'INVALID_INPUT', message: /names no object/ })
  t.end()
})

t.test('a mirror: paths below the prefix, sizes and digests; links are left out', async t => {
  const dir = t.testdir({ 'a.rpm': 'hello', sub: { 'b.rpm': '' }, link: t.fixture('symlink', '/etc/passwd') })
  t.same(await fromMirror(dir, '/install/'), [
    { path: '/install/a.rpm', sizeBytes: 5, sha256: '2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824' },
    { path: '/install/sub/b.rpm', sizeBytes: 0, sha256: 'e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855' }
  ])
  await t.rejects(fromMirror(dir, 'install'), { code: 'INVALID_INPUT' })
  await t.rejects(fromMirror(join(dir, 'nothing'), '/'), { code: 'INVALID_INPUT' })
})

t.test('parts fit one question each, and together are all', t => {
  const many = Array.from({ length: 2 * PREHEAT_PART_MAX + 1 }, (_, i) => ({ path: `/${i}` }))
  t.same(partsOf(many).map(part => part.length), [PREHEAT_PART_MAX, PREHEAT_PART_MAX, 1])
  t.same(partsOf(many).flat(), many)
  const long = Array.from({ length: 200 }, (_, i) => ({ path: `/${i}/${'x'.repeat(500)}` }))
  t.ok(partsOf(long).every(part => JSON.stringify(part).length < 70_000))
  t.same(partsOf(long).flat(), long)
  t.same(partsOf([]), [])
  t.end()
})

t.test('an export is a manifest of what nodes asked for', t => {
  const objects = [object('/a', { asked: 1 }), object('/b', { asked: 5, sha256: HEX, port: 8080 }), object('/c', { asked: 0 }), object('/a', { class: 'listed', asked: 2, sha256: HEX, sizeBytes: 9 })]
  const wanted = [{ path: '/b', port: 8080, size: 4, sha256: HEX }, { path: '/a', size: 9, sha256: HEX }]
  t.same(exportManifest(objects, false), { objects: wanted })
  t.same(exportManifest(objects, true), { objects: [...wanted, { path: '/c', size: 4 }] })
  t.same(fromManifest(JSON.stringify(exportManifest(objects, false))).map(({ path }) => path), ['/b', '/a'], 'which preheat takes')
  t.end()
})

t.test('parts of an order are told as one, and what waits says why', t => {
  t.match(orderText(order('profile', { indexErrors: [{ path: '/dists/stable/Release', error: 'it names 80 lists, 64 at most' }] })), /done, 2\/2 objects, .*; index \/dists\/stable\/Release: it names 80 lists, 64 at most$/)
  t.same(ordersByName([order('big-p000'), order('big-p001', { state: 'running', objectsDone: 1, failures: 1, failed: [{ path: '/x', error: '404' }] }), order('other')]), [
    order('big', { state: 'running', objects: 4, objectsDone: 3, bytes: 20, bytesDone: 20, bytesFetched: 20, failures: 1, failed: [{ path: '/x', error: '404' }] }), order('other')
  ])
  const text = cachesText([{
    cluster: 'demo', id: 'i', total: { bytesToNodes: 0, bytesFromUpstream: 0, savedBytes: 0, wanBytes: 0, storedBytes: 0 },
    sites: [siteOf('osaka', { room: false, orders: [order('mine', { state: 'paused', reason: 'used up' })], budget: { rateMbitPerS: 8, totalBytes: 2e6, usedBytes: 2.1e6, paused: 'used up' } }), siteOf('kyoto', { error: 'does not answer' })]
  }], true)
  for (const part of ['HTTPS from the frontend: 12.0 MB, passes through, not cached', '3.0 MB', 'preheat mine: paused (used up), 2/2 objects', '2.1 MB of 2.0 MB over the WAN, 8 Mbit/s before nodes ask; PAUSED: used up; more: musubi cache budget demo --total AMOUNT', 'NO ROOM', 'demo-osaka-002', 'kyoto-1): does not answer', HTTPS_NOTE]) t.ok(text.includes(part), part)
  t.notMatch(text, /TFTP/, 'nobody asked')
  const withTftp = cachesText([{ cluster: 'demo', id: 'i', total: { bytesToNodes: 5e6, bytesFromUpstream: 2e6, savedBytes: 3e6, wanBytes: 2.1e6, storedBytes: 2e6 }, sites: [siteOf('osaka', { classes: { tftp: { requests: 3, bytesToNodes: 225_000, bytesFromUpstream: 0 } } })] }], false)
  t.match(withTftp, /tftp +3 +225 kB +0 B[\s\S]*TFTP is counted in packets/)
  t.match(cachesText([], false), /No cache is running/)
  t.end()
})

const RETAINED: RetainedStoresResource = {
  site: 'osaka', host: 'osaka-1', limits: { totalBytes: 20e9, ownerBytes: 10e9, maxMs: 30 * 86_400_000 },
  stores: [{ id: 'x', owner: 'tokyo', cluster: 'demo', bytes: 3e6, objects: 12, lastUsedMs: 1_790_000_000_000, untilMs: 1_790_000_000_000 + 7 * 86_400_000, checked: true }]
}

t.test('stores that outlive their clusters, for people', t => {
  const now = 1_790_000_000_000 + 86_400_000
  const text = retainedText(RETAINED, now)
  for (const part of ['tokyo  demo', '3.0 MB', '6d00h', '3.0 MB of 20.0 GB on osaka-1; at most 10.0 GB for one site, 30d after the last use']) t.ok(text.includes(part), `${part} in ${text}`)
  t.match(retainedText({ ...RETAINED, stores: RETAINED.stores.map(one => ({ ...one, checked: false })) }, now), /checking/)
  t.match(retainedText({ ...RETAINED, stores: [] }, now), /spec\.cache\.retain/)
  t.match(retainedText({ ...RETAINED, stores: [], limits: { ...RETAINED.limits, maxMs: 0 } }, now), /osaka-1 keeps no store/)
  t.match(cachesText([{ cluster: 'demo', id: 'i', retainMs: 604_800_000, total: { bytesToNodes: 0, bytesFromUpstream: 0, savedBytes: 0, wanBytes: 0, storedBytes: 0 }, sites: [siteOf('osaka')] }], false), /demo: retain 7d/)
  t.end()
})

t.test('the commands over the routes', async t => {
  const posted: PreheatBody[] = []
  const cancelled: string[] = []
  const budgets: CacheBudgetBody[] = []
  const budgetOf = (cluster: string): CacheBudgetResource => ({
    cluster, rateKbitPerS: 500, totalBytes: null,
    sites: [{ site: 'osaka', rateKbitPerS: 500, totalBytes: null, own: false, usedBytes: 3e6, paused: '', inForce: true, error: '' }, { site: 'kyoto', rateKbitPerS: 8000, totalBytes: 2e9, own: true, usedBytes: 2e9, paused: 'used up', inForce: true, error: '' }]
  })
  let looks = 0
  let away = false
  const caches: Caches = {
    status: cluster => Promise.resolve({
      cluster, id: 'i', total: { bytesToNodes: 5e6, bytesFromUpstream: 2e6, savedBytes: 3e6, wanBytes: 2.1e6, storedBytes: 2e6 },
      sites: [siteOf('osaka', { orders: posted.filter(one => !cancelled.includes(one.order)).map(one => order(one.order, { objects: one.objects.length, objectsDone: one.objects.length, state: looks++ > 1 ? 'done' : 'running' })) })]
    }),
    preheat: (cluster, body) => { posted.push(body); return Promise.resolve({ cluster, sites: [{ site: 'osaka', error: body.order === 'bad' ? 'refused' : '', parts: 0, bytes: 0, orders: [] }] }) },
    cancel: (cluster, name) => { cancelled.push(name); return Promise.resolve({ cluster, sites: [{ site: 'osaka', error: '', parts: 0, bytes: 0, orders: [] }] }) },
    purge: (cluster, { prefix, site, refetch }) => Promise.resolve({ cluster, sites: [{ site: site ?? 'osaka', error: '', parts: prefix === undefined ? 9 : 3, bytes: 3e6, orders: prefix === '/none' ? [] : refetch === true ? ['profile'] : ['mine-p000', 'mine-p001'] }] }),
    budget: cluster => Promise.resolve(budgetOf(cluster)),
    setBudget: (cluster, change) => { budgets.push(change); return Promise.resolve({ ...budgetOf(cluster), totalBytes: 5e9 }) },
    list: (_cluster, { after, site }) => Promise.resolve(after === undefined ? { site: 'osaka', error: '', objects: [object('/a')], next: '/a 80 named' } : after === 'kyoto' ? { site: 'kyoto', error: '', objects: [object('/b', { asked: 2 })], next: away ? 'kobe' : null } : after === 'kobe' ? { site: 'kobe', error: 'is away', objects: [], next: null } : { site: 'osaka', error: '', objects: [object('/b', { asked: 7 })], next: site === undefined ? 'kyoto' : null })
  }
  const api = await createApi({ title: 'test', description: 'test', logger: pino({ level: 'silent' }) })
  addCacheRoutes(api, () => caches)
  const forgotten: Array<string | null> = []
  addRetainedRoutes(api, () => ({
    list: () => Promise.resolve(RETAINED), figures: () => [], tick: () => Promise.resolve(),
    purge: owner => { forgotten.push(owner); return owner === 'kyoto' ? Promise.reject(new NotFoundError('keeps no store for site kyoto')) : Promise.resolve({ stores: 2, bytes: 3e6 }) }
  }))
  const dir = t.testdir({})
  const socket = join(dir, 'agent.sock')
  await api.listen({ path: socket })
  t.teardown(() => api.close())
  const musubi = async (...args: string[]): Promise<{ stdout: string, stderr: string, exitCode: number }> => await run(process.execPath, [CLI, '--socket', socket, 'cache', ...args], { okCodes: [1, 2], timeoutMs: 60_000 })

  t.match((await musubi('status', 'demo', '--nodes')).stdout, /saved +over the wan[\s\S]*demo +osaka[\s\S]*demo-osaka-002[\s\S]*HTTPS passes/i)
  t.match(JSON.parse((await musubi('status', 'demo', '--json')).stdout), [{ cluster: 'demo', total: { savedBytes: 3e6 } }])
  t.match(await musubi('list', 'demo'), { exitCode: 0, stdout: /SITE +PATH[^\n]*\nosaka +\/a +named[^\n]*\nosaka +\/b +named[^\n]*\nkyoto +\/b +named[^\n]*\n\n2 objects, 10 B at osaka\n1 object, 5 B at kyoto/ })
  t.match(JSON.parse((await musubi('list', 'demo', '--site', 'osaka', '--json')).stdout), { sites: [{ site: 'osaka', error: '' }], objects: [{ site: 'osaka', path: '/a' }, { site: 'osaka', path: '/b' }] })
  t.match(await musubi('purge', 'demo', '--prefix', '/a'), { exitCode: 2, stderr: /--yes/ })
  t.match(await musubi('purge', 'demo', '--prefix', '/a', '--yes'), { exitCode: 0, stdout: /osaka: 3 parts, 3.0 MB removed; the order mine may name it, and does not fetch it again once done: musubi cache purge demo --prefix \/a --refetch/ })
  t.match(await musubi('purge', 'demo', '--prefix', '/a', '--refetch', '--yes'), { exitCode: 0, stdout: /removed; what it names of that is fetched again by the order profile/ })
  t.match(await musubi('purge', 'demo', '--prefix', '/none', '--yes'), { exitCode: 0, stdout: /3.0 MB removed\n$/ })
  t.match(await musubi('purge', 'demo', '--prefix', '/none', '--refetch', '--yes'), { stdout: /no order names it, so it comes when nodes ask/ })
  const shown = await musubi('budget', 'demo')
  t.match(shown.stdout, /All sites of demo, each: rate 500 kbit\/s, total none[\s\S]*osaka +500 kbit\/s +none +3.0 MB +as all sites +in force\nkyoto +8 Mbit\/s +2.0 GB +2.0 GB +its own +PAUSED: used up[\s\S]*More: musubi cache budget demo --total/)
  t.same(budgets, [], 'a look changes nothing')
  t.match(await musubi('budget', 'demo', '--rate', '100Mbit/s', '--total', '5GB'), { exitCode: 0, stdout: /total 5.0 GB/ })
  t.match(JSON.parse((await musubi('budget', 'demo', '--site', 'kyoto', '--total', 'none', '--rate', 'default', '--json')).stdout), { sites: [{ site: 'kyoto' }] })
  t.strictSame(budgets, [{ rateKbitPerS: 100_000, totalBytes: 5e9 }, { rateKbitPerS: 'default', totalBytes: null, site: 'kyoto' }])
  for (const args of [['--rate', '5'], ['--total', 'much'], ['--total', '0GB']]) t.match(await musubi('budget', 'demo', ...args), { exitCode: 2, stderr: /units are/ }, args.join(' '))
  t.match(await musubi('budget', 'demo', '--site', 'tokyo'), { exitCode: 1, stderr: /no cache at site "tokyo"/ })
  const exported = (await musubi('export', 'demo')).stdout
  t.same(JSON.parse(exported), { objects: [{ path: '/b', size: 4 }, { path: '/a', size: 4 }] })
  away = true
  t.match(await musubi('list', 'demo'), { exitCode: 1, stdout: /kobe is left out: is away/ })
  const partial = await musubi('export', 'demo')
  t.match(partial, { exitCode: 1, stderr: /kobe is left out: is away/ })
  t.equal(partial.stdout, exported, 'and still of the others')

  t.match((await musubi('retained')).stdout, /OWNER[\s\S]*tokyo +demo +3\.0 MB +12/)
  t.same(JSON.parse((await musubi('retained', '--json')).stdout), RETAINED)
  t.match(await musubi('retained', 'purge', 'tokyo'), { exitCode: 2, stderr: /--yes/ })
  t.match(await musubi('retained', 'purge', 'tokyo', '--yes'), { exitCode: 0, stdout: /2 stores, 3\.0 MB dropped/ })
  t.match(await musubi('retained', 'purge', '--all', '--yes'), { exitCode: 0 })
  t.match(await musubi('retained', 'purge', 'kyoto', '--yes'), { exitCode: 1, stderr: /keeps no store for site kyoto/ })
  for (const args of [[], ['tokyo', '--all'], ['../x']]) t.match(await musubi('retained', 'purge', ...args, '--yes'), { exitCode: 2 }, args.join(' '))
  t.same(forgotten, ['tokyo', null, 'kyoto'])

  await mkdir(join(dir, 'mirror'))
  await writeFile(join(dir, 'mirror', 'x'), 'x')
  await writeFile(join(dir, 'm.json'), exported)
  t.match(await musubi('preheat', 'demo', '--manifest', join(dir, 'm.json'), '--rate', '8Mbit/s', '--wait'), { exitCode: 0, stdout: /osaka: 2 objects ordered as manual/, stderr: /done, 2\/2 objects/ })
  t.same(posted, [{ order: 'manual', objects: [{ path: '/b', sizeBytes: 4 }, { path: '/a', sizeBytes: 4 }], rateKbitPerS: 8_000 }])
  t.match(await musubi('preheat', 'demo', '--mirror', join(dir, 'mirror'), '--prefix', '/i', '--order', 'mirror', '--site', 'osaka'), { exitCode: 0 })
  t.match(posted.at(-1), { order: 'mirror', site: 'osaka', objects: [{ path: '/i/x', sizeBytes: 1 }] })
  t.match(await musubi('preheat', 'demo', '--order', 'mirror', '--cancel'), { exitCode: 0, stdout: /mirror is taken away/ })
  t.same(cancelled, ['mirror'])
  t.match(await musubi('preheat', 'demo', '--order', 'mirror', '--cancel'), { exitCode: 1, stderr: /no cache of demo has an order "mirror"/ })
  t.match(await musubi('preheat', 'demo', '--manifest', join(dir, 'm.json'), '--order', 'bad'), { exitCode: 1, stdout: /FAILED: refused/ })
  for (const args of [[], ['--manifest', 'a', '--log', 'b'], ['--mirror', dir], ['--prefix', '/a', '--log', 'b'], ['--manifest', join(dir, 'm.json'), '--rate', 'fast'], ['--manifest', join(dir, 'm.json'), '--order', 'Profile!'], ['--manifest', join(dir, 'no.json')]]) {
    t.match(await musubi('preheat', 'demo', ...args), { exitCode: 2 }, args.join(' '))
  }
})
