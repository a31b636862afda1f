import { createHash, randomBytes } from 'node:crypto'
import { chmod, mkdir, readdir, rm, stat, symlink, utimes, writeFile } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import type { Test } from 'tap'
import { createCacheDriver } from '../../agent/drivers/cache/driver.ts'
import type { CacheStats } from '../../agent/drivers/cache/driver.ts'
import type { StoredObject } from '../../agent/drivers/cache/store.ts'
import { createPidfileServices } from '../../agent/services/pidfile.ts'
import type { CacheSpec } from '../../protocol/core/desired.ts'
import { CACHE_LIST_MAX } from '../../protocol/core/limits.ts'
import { LAB_SPEC, createCacheLab } from '../bench/cache-lab.ts'
import { inPod, runInPod } from '../bench/cache-pod.ts'
import { until } from '../cache/until.ts'

// What people ask of a cache: what it has, to give it up, and what it may bring over the WAN.
const isRoot = process.getuid?.() === 0
if (isRoot && !inPod()) process.exit(await runInPod(import.meta.filename))
const { default: t } = await import('tap')

const NAME = 'lab.cache'
const DIR = '/run/mz-cache-store'
const SPEC: CacheSpec = { ...LAB_SPEC, ports: [80], clusterId: 'c-1', preheat: { manifest: '/install/manifest.json' } }
const signal = (): AbortSignal => AbortSignal.timeout(60_000)
const sha256 = (data: Buffer): string => createHash('sha256').update(data).digest('hex')

async function main (t: Test): Promise<void> {
  await mkdir(DIR)
  const lab = await createCacheLab(DIR, 2, {})
  t.teardown(async () => { await lab.close() })
  const driver = createCacheDriver({ stateDir: join(DIR, 'cache'), services: createPidfileServices({ dir: join(DIR, 'services') }) })
  const store = join(DIR, 'cache', 'lab%2Ecache', 'engine', 'store')
  const [first, second] = lab.nodes
  if (first === undefined || second === undefined) throw new Error('no nodes')
  let clock = 1_790_000_000
  const publish = async (path: string, bytes: number | Buffer): Promise<Buffer> => {
    const data = typeof bytes === 'number' ? randomBytes(bytes) : bytes
    const file = join(DIR, 'www', path)
    await mkdir(dirname(file), { recursive: true })
    await writeFile(file, data)
    clock += 10
    await utimes(file, clock, clock)
    return data
  }
  const get = async (path: string, one = first): Promise<number> => (await lab.get(one, path)).status
  const stats = async (): Promise<CacheStats> => {
    const found = await driver.stats(NAME)
    if (found === null) throw new Error('no cache')
    return found
  }
  const list = async (prefix = ''): Promise<StoredObject[]> => (await driver.list(NAME, prefix, '', signal())).objects
  const order = async (name: string): Promise<{ state: string, reason: string, objectsDone: number } | undefined> => (await stats()).fetch?.orders[name]

  const listed = await publish('/install/odd/blob', 100_000)
  await publish('/install/manifest.json', Buffer.from(JSON.stringify({ objects: [{ path: '/install/odd/blob', size: listed.length, sha256: sha256(listed) }] })))

  await t.test('objects are told by path and class, with what nodes asked for', async t => {
    await t.rejects(driver.list('nobody', '', '', signal()), { code: 'NOT_FOUND' })
    await t.rejects(driver.purge('nobody', '', false, signal()), { code: 'NOT_FOUND' })
    await driver.apply(NAME, SPEC, signal())
    t.match(await driver.list(NAME, '', '', signal()), { next: null })
    await until('the manifest is read', async () => (await order('profile'))?.state === 'done')
    await publish('/a/one.rpm', 300_000)
    await publish('/a/two.rpm', 200_000)
    const named = `/images/${'ab'.repeat(32)}/x.bin`
    await publish(named, 50_000)
    for (const path of ['/a/one.rpm', '/a/two.rpm', '/a/one.rpm', named]) t.equal(await get(path), 200)
    t.equal(await get('/a/one.rpm', second), 200)
    t.match(await list(), [
      { class: 'validated', port: 80, path: '/a/one.rpm', parts: 1, sizeBytes: 300_000, sha256: null, asked: 3 },
      { class: 'validated', path: '/a/two.rpm', sizeBytes: 200_000, asked: 1 },
      { class: 'named', path: named, sizeBytes: 50_000, sha256: 'ab'.repeat(32), asked: 1 },
      { class: 'listed', path: '/install/odd/blob', sizeBytes: 100_000, sha256: sha256(listed), asked: 0 }
    ])
    t.ok((await list()).every(({ bytes, sizeBytes }) => bytes > (sizeBytes ?? 0)))
    t.same((await list('/a/t')).map(({ path }) => path), ['/a/two.rpm'])
    for (const prefix of ['a', '../x', '/a b', '/a\n']) await t.rejects(driver.list(NAME, prefix, '', signal()), { code: 'INVALID_INPUT' })
    await t.rejects(driver.list(NAME, '', 'x', signal()), { code: 'INVALID_INPUT' })
  })

  await t.test('what is purged is gone, comes back when asked, and nothing else goes', async t => {
    // whoever has taken over the engine lays links to what is root's
    const precious = join(DIR, 'precious')
    await mkdir(precious)
    const file = join(precious, 'a'.repeat(32))
    await writeFile(file, '\nKEY: N 80 h /a/one.rpm bytes=0-1\n')
    await chmod(precious, 0o755)
    await mkdir(join(store, 'f'), { recursive: true })
    await symlink(precious, join(store, 'f', 'ff'))
    await symlink(file, join(store, 'f', 'b'.repeat(32)))
    t.match(await driver.purge(NAME, '/a/one', false, signal()), { parts: 1, orders: ['profile'] })
    t.same((await list('/a/')).map(({ path, parts, asked }) => ({ path, parts, asked })), [{ path: '/a/one.rpm', parts: 0, asked: 3 }, { path: '/a/two.rpm', parts: 1, asked: 1 }], 'what nodes asked for is still known')
    t.ok((await stat(file)).isFile(), 'links lead nowhere')
    await lab.originRequests()
    t.equal(await get('/a/one.rpm'), 200)
    t.ok((await lab.originRequests()).some(({ method, target }) => method === 'GET' && target === '/a/one.rpm'), 'from the frontend')
    t.equal((await list('/a/one'))[0]?.parts, 1)
    const gone = await driver.purge(NAME, '', false, signal())
    t.match(gone, { parts: 4 })
    t.ok(gone.bytes > 650_000)
    t.same((await readdir(store, { recursive: true })).filter(name => /[0-9a-f]{32}$/.test(name) && !name.startsWith('f/')), [])
    for (const path of ['/a/one.rpm', '/a/two.rpm', '/install/odd/blob']) t.equal(await get(path), 200, path)
    t.ok((await stat(file)).isFile())
    // the folder is root's here, and the engine's parts go there too
    await rm(join(store, 'f'), { recursive: true })
  })

  await t.test('what is purged is fetched again by orders that name it, when that is asked for', async t => {
    const paths = ['/r/one.rpm', '/r/two.rpm', '/s/three.rpm']
    for (const path of paths) await publish(path, 100_000)
    await driver.preheat(NAME, 'again', { objects: paths.map(path => ({ path })) })
    const fetched = async (): Promise<number> => (await stats()).fetch?.orders['again']?.bytesFetched ?? 0
    await until('it ends', async () => (await order('again'))?.state === 'done')
    t.match(await driver.purge(NAME, '/r/', false, signal()), { parts: 2, orders: ['again', 'profile'] })
    await delay(2_500)
    t.match((await list('/r/')).filter(({ parts }) => parts > 0), [], 'not by itself')
    await lab.originRequests()
    const before = await fetched()
    t.match(await driver.purge(NAME, '/r/', true, signal()), { parts: 0, orders: ['again', 'profile'] })
    await until('they are back', async () => (await list('/r/')).filter(({ parts }) => parts === 1).length === 2)
    await until('it is done again', async () => (await order('again'))?.objectsDone === 3 && await fetched() >= before + 200_000)
    t.same((await lab.originRequests()).filter(({ method, target }) => method === 'GET' && target.startsWith('/s/')), [], 'what was not purged is not asked for')
    t.match(await driver.purge(NAME, '/install/odd/', true, signal()), { orders: ['profile'] })
    await until('an order by an index fetches again as well', async () => (await list('/install/odd/'))[0]?.parts === 1)
    t.match((await driver.observe(signal()))[0], { healthy: true }, 'orders are as they should be')
    await driver.preheat(NAME, 'again', null)
  })

  await t.test('pages', async t => {
    const paths = Array.from({ length: CACHE_LIST_MAX + 20 }, (_, i) => `/p/${String(i).padStart(4, '0')}.rpm`)
    for (const path of paths) await publish(path, 100)
    await driver.preheat(NAME, 'many', { objects: paths.map(path => ({ path })) })
    await until('it ends', async () => (await order('many'))?.state === 'done')
    t.match((await stats()).fetch?.orders['many'], { failures: 0, objectsDone: paths.length })
    const one = await driver.list(NAME, '/p/', '', signal())
    t.equal(one.objects.length, CACHE_LIST_MAX)
    const two = await driver.list(NAME, '/p/', one.next ?? '', signal())
    t.equal(two.next, null)
    t.same([...one.objects, ...two.objects].map(({ path }) => path), paths)
  })

  await t.test('a budget: nothing more before nodes ask once it is used up; nodes get what they ask for; more budget, and it goes on', async t => {
    const used = (({ wire }) => wire.static + wire.dynamic)(await stats())
    const total = used + 2_000_000
    await driver.apply(NAME, { ...SPEC, budget: { totalBytes: total } }, signal())
    t.match((await stats()).budget, { totalBytes: total, paused: '' })
    const paths = Array.from({ length: 40 }, (_, i) => `/b/${i}.rpm`)
    for (const path of paths) await publish(path, 500_000)
    await driver.preheat(NAME, 'large', { objects: paths.map(path => ({ path })), rateMbitPerS: 8 })
    // as the reconcile loop does it
    const budget = { totalBytes: total }
    const pass = async (): Promise<void> => { if ((await driver.observe(signal()))[0]?.healthy === false) await driver.apply(NAME, { ...SPEC, budget }, signal()) }
    await until('it is paused', async () => {
      await pass()
      return (await order('large'))?.state === 'paused'
    })
    t.match((await stats()).budget, { paused: /the WAN budget of \d+ bytes is used up/ })
    t.match(await order('large'), { reason: /used up/ })
    // what was under way comes to its end
    await delay(2_000)
    const done = (await order('large'))?.objectsDone ?? 0
    t.ok(done < 40, `${done} of 40`)
    await delay(2_000)
    t.equal((await order('large'))?.objectsDone, done)
    for (const path of paths.slice(30)) t.equal(await get(path), 200, `${path} for a node`)
    await publish('/b/later.rpm', 1_000)
    await driver.preheat(NAME, 'later', { objects: [{ path: '/b/later.rpm' }] })
    await until('a later one is paused, too', async () => (await order('later'))?.state === 'paused')
    await driver.apply(NAME, { ...SPEC, budget: { totalBytes: total + 100_000_000 } }, signal())
    await until('it goes on', async () => (await order('large'))?.state === 'running' || (await order('large'))?.state === 'done')
    await until('and ends', async () => (await order('later'))?.state === 'done')
    t.match((await stats()).budget, { paused: '' })
  })

  await t.test('the rate of a budget is that of all orders together', async t => {
    for (const name of ['large', 'many', 'later']) await driver.preheat(NAME, name, null)
    await driver.apply(NAME, { ...SPEC, budget: { rateMbitPerS: 8 } }, signal())
    const paths = Array.from({ length: 8 }, (_, i) => `/c/${i}.rpm`)
    for (const path of paths) await publish(path, 500_000)
    await until('the fetcher has no other order', async () => Object.keys((await stats()).fetch?.orders ?? {}).join() === 'profile')
    const begun = performance.now()
    for (const [i, path] of paths.entries()) await driver.preheat(NAME, `c${i}`, { objects: [{ path }] })
    await until('they end', async () => (await Promise.all(paths.map((_, i) => order(`c${i}`)))).every(one => one?.state === 'done'))
    t.ok(performance.now() - begun > 1_500, '4 MB at 1 MB/s, whatever number of orders: the first 2 MB at once')
  })

  await driver.remove(NAME, signal())
}

t.setTimeout(300_000)
t.test('a cache and its people', isRoot ? {} : { skip: 'needs root' }, main)
