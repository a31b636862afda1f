import { createHash, randomBytes } from 'node:crypto'
import { chown, lstat, mkdir, readFile, readdir, utimes, writeFile } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import type { Test } from 'tap'
import { createCacheDriver, type CacheDriver } from '../../agent/drivers/cache/driver.ts'
import type { RetainedStore } from '../../agent/drivers/cache/retained/retained.ts'
import { run } from '../../agent/exec.ts'
import { keeperId } from '../../agent/services/keepers.ts'
import { createPidfileServices } from '../../agent/services/pidfile.ts'
import type { CacheSpec } from '../../protocol/core/desired.ts'
import { LAB_SPEC, createCacheLab } from '../bench/cache-lab.ts'
import { inPod, runInPod } from '../bench/cache-pod.ts'

// The store of a cache outlives its cluster: who gets it, what of it, and what comes over the WAN then.
const isRoot = process.getuid?.() === 0
if (isRoot && !inPod()) process.exit(await runInPod(import.meta.filename))
const { default: t } = await import('tap')

const DIR = '/run/mz-cache-retain'
const DAY_MS = 86_400_000
const MANIFEST = '/install/manifest.json'
const signal = (): AbortSignal => AbortSignal.timeout(60_000)
const sha256 = (data: Buffer): string => createHash('sha256').update(data).digest('hex')
/** One cluster after the other at the lab's site: each with a VNI of its own would need a segment of its own. */
const specOf = (clusterId: string, owner: string | null, more: Partial<CacheSpec> = {}): CacheSpec => ({
  ...LAB_SPEC, ports: [80], clusterId, preheat: { manifest: MANIFEST }, profile: { immutable: ['/fixed/'] }, ...owner === null ? {} : { retain: { owner, ms: 7 * DAY_MS } }, ...more
})

async function until<T> (what: string, look: () => Promise<T | null | false>): Promise<T> {
  for (let tries = 0; tries < 600; tries++) {
    const found = await look()
    if (found !== null && found !== false) return found
    await delay(100)
  }
  throw new Error(`never happened: ${what}`)
}

async function main (t: Test): Promise<void> {
  await mkdir(DIR)
  const lab = await createCacheLab(DIR, 1, {})
  t.teardown(async () => { await lab.close() })
  let clock = Date.now()
  const services = createPidfileServices({ dir: join(DIR, 'services') })
  const limits = { totalBytes: 200 * 2 ** 20, ownerBytes: 100 * 2 ** 20, maxMs: 30 * DAY_MS }
  const make = (): CacheDriver => createCacheDriver({ stateDir: join(DIR, 'cache'), services, limits, now: () => clock })
  const driver = make()
  const [node] = lab.nodes
  if (node === undefined) throw new Error('no node')
  let written = 1_790_000_000
  const publish = async (path: string, data: Buffer): Promise<Buffer> => {
    const file = join(DIR, 'www', path)
    await mkdir(dirname(file), { recursive: true })
    await writeFile(file, data)
    written += 10
    await utimes(file, written, written)
    return data
  }
  const list = async (objects: ReadonlyArray<readonly [path: string, data: Buffer]>): Promise<void> => {
    await publish(MANIFEST, Buffer.from(JSON.stringify({ objects: objects.map(([path, data]) => ({ path, size: data.length, sha256: sha256(data) })) })))
  }
  const fetchAs = async (path: string): Promise<string> => {
    await run('curl', ['-sS', '-f', '-m', '60', '-o', join(DIR, 'got'), `http://${LAB_SPEC.frontendAddress}${path}`], { netns: node.namespace, timeoutMs: 70_000 })
    return sha256(await readFile(join(DIR, 'got')))
  }
  const ready = async (name: string): Promise<void> => { await until('the manifest is read', async () => (await driver.stats(name))?.fetch?.orders['profile']?.state === 'done') }
  const checked = async (count: number): Promise<RetainedStore[]> => await until('what is kept is checked', async () => {
    await driver.retained.tend()
    const found = await driver.retained.list()
    return found.length === count && found.every(one => one.checked) ? found : null
  })
  const fromFrontend = async (): Promise<string[]> => [...new Set((await lab.originRequests()).filter(({ method }) => method === 'GET').map(({ target }) => target))].sort()
  const area = join(DIR, 'cache', '.retained')

  const large = randomBytes(9 * 2 ** 20)
  const small = randomBytes(100_000)
  const own = randomBytes(50_000)
  const digestNamed = `/blobs/sha256:${sha256(own)}`
  const folderNamed = `/images/${'ab'.repeat(32)}/root.img`
  const first = new Map<string, Buffer>()
  for (const [path, data] of [['/install/large.img', large], ['/install/small.rpm', small], [digestNamed, own], [folderNamed, randomBytes(60_000)], ['/fixed/a.bin', randomBytes(70_000)], ['/a/one.rpm', randomBytes(80_000)]] as const) first.set(path, await publish(path, data))
  await list([['/install/large.img', large], ['/install/small.rpm', small]])

  await t.test('what outlives a cluster: whole objects whose bytes are those of their digest', async t => {
    await driver.apply('a.cache', specOf('c-a', 'tokyo'), signal())
    await ready('a.cache')
    for (const [path, data] of first) t.equal(await fetchAs(path), sha256(data), path)
    t.same((await driver.list('a.cache', '', '', signal())).objects.map(one => one.class).sort(), ['listed', 'listed', 'named', 'named', 'named', 'validated'])
    await driver.remove('a.cache', signal())
    const [kept] = await checked(1)
    t.match(kept, { owner: 'tokyo', cluster: 'lab', objects: 3, checked: true, lastUsedMs: clock, untilMs: clock + 7 * DAY_MS })
    t.same(kept?.held, [large, small, own].map(sha256), 'the largest first, by the digests of what is there')
    t.ok((kept?.bytes ?? 0) > large.length + small.length + own.length)
    t.ok((kept?.bytes ?? 0) < large.length + small.length + own.length + 10_000, 'nothing of what only its own frontend can vouch for')
    t.equal((await lstat(area)).mode & 0o777, 0o700)
    const owners = new Set<number>()
    for (const entry of await readdir(join(area, kept?.id ?? '', 'store'), { recursive: true })) owners.add((await lstat(join(area, kept?.id ?? '', 'store', entry))).uid)
    t.same([...owners], [keeperId('retained')], 'and no engine can write there')
  })

  await t.test('another owner gets nothing of it, nor does a cluster that does not ask', async t => {
    for (const [id, owner] of [['c-c', 'kyoto'], ['c-d', null]] as const) {
      await lab.originRequests()
      await driver.apply(`${id}.cache`, specOf(id, owner), signal())
      await ready(`${id}.cache`)
      for (const path of ['/install/large.img', '/install/small.rpm', digestNamed]) t.equal(await fetchAs(path), sha256(first.get(path) ?? Buffer.alloc(0)), path)
      t.same((await fromFrontend()).filter(path => path !== MANIFEST), [digestNamed, '/install/large.img', '/install/small.rpm'].sort(), 'all of it from the frontend')
      t.equal((await driver.retained.list()).length, 1)
      await driver.remove(`${id}.cache`, signal())
      // what the other owner kept is no concern of this test
      t.match(await driver.retained.purge('kyoto'), { stores: owner === null ? 0 : 1 })
    }
  })

  await t.test('the next cluster of the owner gets it without a byte from the frontend, whatever lies there under the same names', async t => {
    const other = new Map<string, Buffer>()
    for (const path of first.keys()) other.set(path, await publish(path, randomBytes(90_000)))
    // this frontend's index still has the large one, and another small one
    const newSmall = other.get('/install/small.rpm') ?? Buffer.alloc(0)
    await publish('/install/moved.rpm', newSmall)
    await publish(MANIFEST, Buffer.from(JSON.stringify({
      objects: [['/install/large.img', large], ['/install/small.rpm', newSmall], ['/install/moved.rpm', small]].map(([path, data]) => ({ path, size: (data as Buffer).length, sha256: sha256(data as Buffer) }))
    })))
    await lab.originRequests()
    await driver.apply('b.cache', specOf('c-b', 'tokyo'), signal())
    t.same(await driver.retained.list(), [], 'one cluster has it')
    await ready('b.cache')
    t.equal(await fetchAs('/install/large.img'), sha256(large))
    t.equal(await fetchAs('/install/moved.rpm'), sha256(small), 'under another name')
    t.equal(await fetchAs(digestNamed), sha256(own))
    t.same(await fromFrontend(), [MANIFEST, '/install/small.rpm'].sort(), 'of the objects only the one that is new')
    t.equal(await fetchAs('/install/small.rpm'), sha256(newSmall))
    for (const path of [folderNamed, '/fixed/a.bin', '/a/one.rpm']) t.equal(await fetchAs(path), sha256(other.get(path) ?? Buffer.alloc(0)), `${path} is this frontend's`)
    t.match(await driver.stats('b.cache'), { classes: { listed: { bytesFromUpstream: Number } } })
    // a part is lost: the rest of the object is of another frontend, with another ETag
    const store = join(DIR, 'cache', 'b%2Ecache', 'engine', 'store')
    const [name = ''] = (await readdir(store, { recursive: true })).filter(file => file.endsWith(createHash('md5').update(`L ${sha256(large)} bytes=4194304-8388607`).digest('hex')))
    t.not(name, '')
    await publish('/install/large.img', large)
    await run('rm', [join(store, name)])
    t.equal(await fetchAs('/install/large.img'), sha256(large), 'parts of two frontends are one object')
    await driver.remove('b.cache', signal())
    t.match(await checked(1), [{ owner: 'tokyo', objects: 4 }])
  })

  await t.test('a store whose parts have another size is for nobody who says which size it wants', async t => {
    const wide = specOf('c-e', 'tokyo', { link: { rttMs: 200, rateMbitPerS: 1_000 }, preheat: { manifest: '/none.json' } })
    await driver.apply('e.cache', wide, signal())
    t.equal((await driver.retained.list()).length, 1, 'left alone')
    await driver.remove('e.cache', signal())
  })

  await t.test('a cache whose store is empty keeps nothing, and a second one starts with nothing', async t => {
    t.equal((await checked(1)).length, 1)
    await driver.apply('f.cache', specOf('c-f', 'tokyo', { preheat: { manifest: '/none.json' } }), signal())
    t.same(await driver.retained.list(), [])
    t.match(await driver.purge('f.cache', '', false, signal()), { parts: Number })
    await driver.remove('f.cache', signal())
    await checked(0)
    await t.rejects(lstat(area), { code: 'ENOENT' }, 'not even a folder')
  })

  await t.test('a hostile engine: what is no object of its own stays behind', async t => {
    await list([['/install/large.img', large], ['/install/small.rpm', small]])
    await publish('/install/small.rpm', small)
    await driver.apply('g.cache', specOf('c-g', 'tokyo'), signal())
    await ready('g.cache')
    for (const path of ['/install/large.img', '/install/small.rpm']) await fetchAs(path)
    const store = join(DIR, 'cache', 'g%2Ecache', 'engine', 'store')
    const precious = join(DIR, 'precious')
    await writeFile(precious, 'root\'s', { mode: 0o600 })
    const id = keeperId('engine', LAB_SPEC.vni)
    const place = async (letter: string): Promise<string> => {
      const folder = join(store, '0', '00')
      await mkdir(folder, { recursive: true })
      return join(folder, letter.repeat(32))
    }
    await run('ln', ['-s', precious, await place('a')])
    // as it could where fs.protected_hardlinks is 0
    await run('ln', [precious, await place('b')])
    await run('mkfifo', [await place('c')])
    await run('mknod', [await place('d'), 'b', '7', '0'])
    await writeFile(await place('e'), 'of root')
    const twice = await place('f')
    await writeFile(twice, 'its own, by two names')
    await chown(twice, id, id)
    await run('ln', [twice, join(DIR, 'second-name')])
    await run('ln', ['-s', '/etc', join(store, '0', '11')])
    // an object that is not what it is kept as: its last byte
    const bad = join(store, (await readdir(store, { recursive: true })).find(file => file.endsWith(createHash('md5').update(`L ${sha256(small)} bytes=0-4194303`).digest('hex'))) ?? '')
    const bytes = await readFile(bad)
    bytes[bytes.length - 1] = (bytes.at(-1) ?? 0) ^ 1
    await writeFile(bad, bytes)
    await chown(bad, id, id)
    await driver.remove('g.cache', signal())
    t.match(await checked(1), [{ objects: 1 }], 'the large one')
    t.match(await lstat(precious), { uid: 0, nlink: 1 }, 'the second name is gone, the file is still root\'s')
    t.equal(await readFile(precious, 'utf8'), 'root\'s')
    t.match(await lstat(join(DIR, 'second-name')), { uid: id, nlink: 1 }, 'it was not taken, as whoever has the other name could still write to it')
    t.ok((await lstat('/etc/passwd')).isFile(), 'what a linked folder led to')
    t.notOk((await readdir(area, { recursive: true })).some(path => /[0-9a-f]\/[0-9a-f]{2}\/(a{32}|b{32}|c{32}|d{32}|e{32}|f{32})$/.test(path)))
  })

  await t.test('its time is over, or people want it gone', async t => {
    t.equal((await checked(1)).length, 1)
    clock += 7 * DAY_MS - 1000
    t.equal((await checked(1)).length, 1)
    clock += 2000
    await checked(0)
    await driver.apply('h.cache', specOf('c-h', 'tokyo'), signal())
    await ready('h.cache')
    await fetchAs('/install/large.img')
    await driver.remove('h.cache', signal())
    await checked(1)
    t.same(await driver.retained.purge('kyoto'), { stores: 0, bytes: 0 })
    t.match(await driver.retained.purge('tokyo'), { stores: 1 })
    await t.rejects(lstat(area), { code: 'ENOENT' })
  })
}

t.setTimeout(300_000)
t.test('stores that outlive their clusters', isRoot ? {} : { skip: 'needs root' }, main)
