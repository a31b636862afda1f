import { createHash, randomBytes } from 'node:crypto'
import { mkdir, readFile, rm, utimes, writeFile } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { gzipSync } from 'node:zlib'
import type { Test } from 'tap'
import { createCacheDriver } from '../../agent/drivers/cache/driver.ts'
import type { CacheStats } from '../../agent/drivers/cache/driver.ts'
import { run } from '../../agent/exec.ts'
import { createPidfileServices } from '../../agent/services/pidfile.ts'
import type { CacheSpec } from '../../protocol/core/desired.ts'
import { LAB_SPEC, createCacheLab } from '../bench/cache-lab.ts'
import type { LabNode } from '../bench/cache-lab.ts'
import { inPod, runInPod } from '../bench/cache-pod.ts'
import { until } from '../cache/until.ts'

// What an unmodified frontend of somebody else has: packages under plain names, indexes, private files.
const isRoot = process.getuid?.() === 0
if (isRoot && !inPod()) process.exit(await runInPod(import.meta.filename))
const { default: t } = await import('tap')

const MIB = 1024 * 1024
const NAME = 'lab.cache'
const DIR = '/run/mz-cache-static'
const SPEC: CacheSpec = {
  ...LAB_SPEC,
  ports: [80],
  clusterId: 'c-1',
  hosts: ['fe.lab'],
  profile: {
    dynamic: ['/install/ks/'],
    indexes: [{ kind: 'rpm', path: '/install/repodata/repomd.xml' }, { kind: 'debian', path: '/debian/dists/stable/Release' }]
  },
  preheat: { manifest: '/install/manifest.json' }
}
const LOCATIONS = `
    location /install/private/ { add_header Cache-Control "private, max-age=60"; }
    location /install/nostore/ { add_header Cache-Control no-store; }
    location /install/cookie/ { add_header Set-Cookie "node=1"; }
    location /install/weak/ { etag off; add_header ETag 'W/"1"'; }
    location /install/short/ { expires 1s; }
    location /install/agents/ { add_header Vary User-Agent; }`
const signal = (): AbortSignal => AbortSignal.timeout(60_000)
const sha256 = (data: Buffer): string => createHash('sha256').update(data).digest('hex')

async function main (t: Test): Promise<void> {
  await mkdir(DIR)
  const lab = await createCacheLab(DIR, 6, { locations: LOCATIONS })
  t.teardown(async () => { await lab.close() })
  const driver = createCacheDriver({ stateDir: join(DIR, 'cache'), services: createPidfileServices({ dir: join(DIR, 'services') }) })
  const www = join(DIR, 'www')
  const engine = join(DIR, 'cache', 'lab%2Ecache', 'engine')
  const node = (n: number): LabNode => {
    const found = lab.nodes[n - 1]
    if (found === undefined) throw new Error(`the lab has no node ${n}`)
    return found
  }
  let clock = 1_790_000_000
  /** Each file has a date of its own: a frontend's validators are made of dates and sizes. */
  const publish = async (path: string, data: Buffer | number): Promise<Buffer> => {
    const bytes = typeof data === 'number' ? randomBytes(data) : data
    const file = join(www, path)
    await mkdir(dirname(file), { recursive: true })
    await writeFile(file, bytes)
    clock += 10
    await utimes(file, clock, clock)
    return bytes
  }
  const url = (path: string): string => `http://${SPEC.frontendAddress}${path}`
  const fetch = async (one: LabNode, path: string, args: readonly string[] = []): Promise<string> => {
    const file = join(DIR, `got-${one.namespace}`)
    await rm(file, { force: true })
    await run('curl', ['-sS', '-m', '60', '-o', file, ...args, url(path)], { netns: one.namespace, timeoutMs: 70_000 })
    return sha256(await readFile(file))
  }
  const stats = async (): Promise<CacheStats> => {
    const found = await driver.stats(NAME)
    if (found === null) throw new Error('no cache')
    return found
  }
  const asked = async (path: string): Promise<Array<{ from: string, method: string, status: number }>> =>
    (await lab.originRequests()).filter(request => request.target === path).map(({ from, method, status }) => ({ from, method, status }))

  const manifest: Array<{ path: string, size: number, sha256: string }> = []
  const objects = new Map<string, Buffer>()
  for (const [path, size] of [['/install/images/stage2.img', 30 * MIB], ['/install/images/vmlinuz-6', 3 * MIB], ['/install/odd/blob', 100_000]] as const) {
    const data = await publish(path, size)
    objects.set(path, data)
    manifest.push({ path, size, sha256: sha256(data) })
  }
  // names a digest that is not that of the object
  const wrong = await publish('/install/odd/wrong', 50_000)
  manifest.push({ path: '/install/odd/wrong', size: 50_000, sha256: sha256(Buffer.from('other')) }, { path: '/install/odd/missing', size: 5, sha256: sha256(Buffer.from('x')) })
  await publish('/install/manifest.json', Buffer.from(JSON.stringify({ objects: manifest })))

  const rpms = ['a-1.rpm', 'libc++-2.rpm', 'd-3.rpm']
  const packages: string[] = []
  for (const name of rpms) {
    const data = await publish(`/install/Packages/${name}`, 200_000)
    objects.set(`/install/Packages/${name}`, data)
    packages.push(`<package type="rpm"><name>x</name><checksum type="sha256" pkgid="YES">${sha256(data)}</checksum><size package="${data.length}" installed="1"/><location href="Packages/${name}"/></package>`)
  }
  const primary = await publish('/install/repodata/primary.xml.gz', gzipSync(`<?xml version="1.0"?><metadata packages="3">${packages.join('\n')}</metadata>`))
  await publish('/install/repodata/repomd.xml', Buffer.from(`<repomd><data type="primary"><checksum type="sha256">${sha256(primary)}</checksum><location href="repodata/primary.xml.gz"/><size>${primary.length}</size></data></repomd>`))
  const deb = await publish('/debian/pool/main/m/musubi_1.deb', 300_000)
  const list = await publish('/debian/dists/stable/main/binary-amd64/Packages.gz', gzipSync(`Package: musubi\nFilename: pool/main/m/musubi_1.deb\nSize: ${deb.length}\nSHA256: ${sha256(deb)}\n\nPackage: out\nFilename: ../../etc/passwd\nSize: 1\nSHA256: ${sha256(deb)}\n`))
  await publish('/debian/dists/stable/Release', Buffer.from(`Origin: x\nMD5Sum:\n 00 1 main/binary-amd64/Packages.gz\nSHA256:\n ${sha256(list)} ${list.length} main/binary-amd64/Packages.gz\n`))

  await t.test('what the manifest names is fetched before anybody asks, once, and compared with its digest', async t => {
    await driver.apply(NAME, SPEC, signal())
    await until('it was fetched', async () => (await stats()).fetch?.orders['profile']?.state === 'done')
    t.match((await stats()).fetch, {
      room: true,
      orders: { profile: { objects: 5, objectsDone: 3, failures: 2, bytesFetched: Number, failed: [{ path: '/install/odd/wrong', error: /not what its index says/ }, { path: '/install/odd/missing', error: /404/ }] } }
    })
    const start = await lab.wanBytes()
    await lab.originRequests()
    for (const { path } of manifest.slice(0, 3)) t.equal(await fetch(node(1), path), sha256(objects.get(path) ?? Buffer.alloc(0)), path)
    t.same((await lab.originRequests()).map(({ target }) => target).filter(target => manifest.slice(0, 3).some(({ path }) => path === target)), [], 'the frontend hears nothing of it')
    t.ok(await lab.wanBytes() - start < 100_000)
    t.equal(await fetch(node(1), '/install/odd/wrong'), sha256(wrong), 'what an index names wrongly is what the frontend has')
  })

  await t.test('packages that indexes list: no question to the frontend once they are here', async t => {
    await until('indexes are read', async () => ((await stats()).fetch?.listed ?? 0) >= 11, stats)
    for (const path of [...rpms.map(name => `/install/Packages/${name}`)]) {
      const digest = sha256(objects.get(path) ?? Buffer.alloc(0))
      await lab.originRequests()
      for (const one of lab.nodes) t.equal(await fetch(one, path), digest)
      t.same(await asked(path), [{ from: SPEC.ownAddress, method: 'GET', status: 206 }], `${path}: once`)
    }
    t.equal(await fetch(node(2), '/install/Packages/libc%2b%2b-2.rpm'), sha256(objects.get('/install/Packages/libc++-2.rpm') ?? Buffer.alloc(0)), 'as apt spells it')
    t.same(await asked('/install/Packages/libc%2b%2b-2.rpm'), [])
    t.match(await lab.get(node(2), '/install/packages/a-1.rpm'), { status: 404 }, 'names are told apart by case')
    t.equal(await fetch(node(2), '/debian/pool/main/m/musubi_1.deb', ['-H', 'Host: fe.lab']), sha256(deb))
    t.equal(await fetch(node(3), '/debian/pool/main/m/musubi_1.deb'), sha256(deb))
    t.equal((await asked('/debian/pool/main/m/musubi_1.deb')).length, 1, 'by any of its names')
    t.equal(await fetch(node(3), '/debian/pool/main/m/musubi_1.deb', ['-H', 'Host: other']), sha256(deb))
    t.match(await asked('/debian/pool/main/m/musubi_1.deb'), [{ method: 'HEAD' }, { method: 'GET' }], 'of another host nothing is known')
  })

  await t.test('a manifest says what nodes will ask for next: it comes before they do', async t => {
    const next = Array.from({ length: 12 }, (_, i) => `/install/next/${String(i).padStart(2, '0')}.bin`)
    const sizes = next.map((_, i) => i === 0 ? 30 * MIB : 300_000)
    const data = await Promise.all(next.map(async (path, i) => await publish(path, sizes[i] ?? 0)))
    const odd = await publish('/install/next/odd.bin', 40_000)
    const listing = next.map((path, i) => ({ path, size: sizes[i], sha256: sha256(data[i] ?? Buffer.alloc(0)) }))
    await publish('/install/next.json', Buffer.from(JSON.stringify({ objects: [...listing, { path: '/install/next/odd.bin', size: 40_000, sha256: sha256(Buffer.from('another')) }] })))
    // what turned out to be another object than its index says is listed no more, a moment after it was asked for
    await until('what is wrong is taken out', async () => (await stats()).fetch?.listed === 11, stats)
    await driver.apply(NAME, { ...SPEC, profile: { ...SPEC.profile, indexes: [...SPEC.profile?.indexes ?? [], { kind: 'manifest', path: '/install/next.json' }] } }, signal())
    await until('it is read', async () => ((await stats()).fetch?.listed ?? 0) >= 11 + next.length + 1, stats)
    await lab.originRequests()
    let isThere = false
    const first = fetch(node(1), next[0] ?? '', ['--limit-rate', '3M']).finally(() => { isThere = true })
    const heard = new Set<string>()
    await until('the others have come', async () => {
      for (const { target } of await lab.originRequests()) heard.add(target)
      return next.every(path => heard.has(path))
    })
    t.notOk(isThere, 'while the node is getting the first')
    t.equal(await first, sha256(data[0] ?? Buffer.alloc(0)))
    await until('what is not what the manifest says comes from the frontend again', async () => {
      await lab.originRequests()
      t.equal(await fetch(node(3), '/install/next/odd.bin'), sha256(odd))
      return (await asked('/install/next/odd.bin')).some(({ from }) => from === node(3).address)
    })
    for (const [i, path] of next.entries()) t.equal(await fetch(node(2), path), sha256(data[i] ?? Buffer.alloc(0)))
    t.same((await lab.originRequests()).filter(({ target }) => next.includes(target)), [], 'once')
  })

  await t.test('plain names: one download for all, a question each, and never a stale byte', async t => {
    const path = '/other/b.rpm'
    for (let version = 0; version < 3; version++) {
      const digest = sha256(await publish(path, 400_000))
      await lab.originRequests()
      for (const got of await Promise.all(lab.nodes.map(async one => await fetch(one, path)))) t.equal(got, digest, `version ${version}`)
      const seen = await asked(path)
      t.equal(seen.filter(({ method }) => method === 'GET').length, 1, 'one download')
      t.equal(seen.filter(({ method }) => method === 'HEAD').length, lab.nodes.length, 'asked for each node')
    }
    const digest = sha256(await publish('/install/short/c.rpm', 50_000))
    t.equal(await fetch(node(1), '/install/short/c.rpm'), digest)
    await delay(1500)
    await lab.originRequests()
    t.equal(await fetch(node(2), '/install/short/c.rpm'), digest)
    t.match(await asked('/install/short/c.rpm'), [{ method: 'HEAD' }], 'a lifetime that the frontend names does not end what is asked for anyway')
  })

  await t.test('what is somebody\'s own comes from the frontend, to the address of the node, each time', async t => {
    for (const path of ['/install/private/p.rpm', '/install/nostore/p.rpm', '/install/cookie/p.rpm', '/install/weak/p.rpm', '/install/ks/node.img', '/other/list.txt', '/other/x.rpm?node=1']) {
      const data = await publish(path.replace(/\?.*/, ''), 20_000)
      for (const one of lab.nodes.slice(0, 2)) {
        await lab.originRequests()
        t.equal(await fetch(one, path), sha256(data))
        t.match((await asked(path)).filter(({ method }) => method === 'GET'), [{ from: one.address }], path)
      }
    }
    const agents = await publish('/install/agents/v.rpm', 20_000)
    await lab.originRequests()
    for (const one of lab.nodes) t.equal(await fetch(one, '/install/agents/v.rpm', ['-A', one.namespace]), sha256(agents))
    t.equal((await asked('/install/agents/v.rpm')).filter(({ method }) => method === 'GET').length, 1, 'variants with one validator are one')
  })

  await t.test('parts of a large object are fetched ahead of the node, each once', async t => {
    const path = '/other/large.iso'
    const data = await publish(path, 60 * MIB)
    await lab.originRequests()
    const before = (await stats()).fetch?.aheadParts ?? 0
    // without a limit the engine has all of it before anybody could be ahead of it
    await lab.limitWan(200)
    t.equal(await fetch(node(4), path), sha256(data))
    await lab.limitWan(null)
    const ranges = (await lab.originRequests()).filter(request => request.target === path && request.method === 'GET').map(({ range }) => range)
    t.equal(new Set(ranges).size, ranges.length, 'no part twice')
    await until('it says so', async () => ((await stats()).fetch?.aheadParts ?? 0) > before)
  })

  await t.test('an order: progress, reasons, another rate, and its end', async t => {
    const paths = Array.from({ length: 8 }, (_, i) => `/other/order-${i}.rpm`)
    const data = await Promise.all(paths.map(async path => await publish(path, 500_000)))
    await t.rejects(driver.preheat('nobody', 'mine', { objects: [] }), { code: 'NOT_FOUND' })
    await t.rejects(driver.preheat(NAME, 'profile', { objects: [] }), { code: 'INVALID_INPUT' })
    await t.rejects(driver.preheat(NAME, 'mine', { objects: [{ path: 'x\ty' }] }), { code: 'INVALID_INPUT' })
    await t.rejects(driver.preheat(NAME, 'mine', { objects: [{ path: '/x', port: 99 }] }), { code: 'INVALID_INPUT' })
    await driver.preheat(NAME, 'mine', { objects: [...paths.map(path => ({ path })), { path: '/other/none.rpm' }, { path: '/who' }] })
    await until('it ends', async () => (await stats()).fetch?.orders['mine']?.state === 'done')
    t.match((await stats()).fetch?.orders['mine'], { objects: 10, objectsDone: 8, bytesDone: 4_000_000, failures: 2 })
    await lab.originRequests()
    for (const [i, path] of paths.entries()) t.equal(await fetch(node(5), path), sha256(data[i] ?? Buffer.alloc(0)))
    t.same([...new Set((await lab.originRequests()).filter(({ target }) => target.startsWith('/other/order')).map(({ method }) => method))], ['HEAD'])
    await driver.preheat(NAME, 'mine', null)
    await until('it is gone', async () => (await stats()).fetch?.orders['mine'] === undefined)
    const slow = Array.from({ length: 6 }, (_, i) => `/other/slow-${i}.rpm`)
    for (const path of slow) await publish(path, 500_000)
    const begun = performance.now()
    await driver.preheat(NAME, 'slow', { objects: slow.map(path => ({ path })), rateMbitPerS: 8 })
    await until('it ends', async () => (await stats()).fetch?.orders['slow']?.state === 'done')
    t.ok(performance.now() - begun > 1500, '3 MB at 1 MB/s, four at once')
  })

  await t.test('bytes of packets are those that the port counted', async t => {
    const before = { wan: await lab.wanBytes(), wire: (await stats()).wire }
    await publish('/other/wire.rpm', 10 * MIB)
    await fetch(node(1), '/other/wire.rpm')
    await fetch(node(2), '/other/wire.rpm?dynamic')
    const { wire } = await stats()
    const counted = wire.static - before.wire.static + wire.dynamic - before.wire.dynamic
    const wan = await lab.wanBytes() - before.wan
    t.ok(Math.abs(counted / wan - 1) < 0.02, `${counted} counted, ${wan} by the port`)
    t.ok(wire.static - before.wire.static > 10 * MIB && wire.dynamic - before.wire.dynamic > 10 * MIB)
  })

  await t.test('no room: everything comes from the frontend, whole; and with room again it is kept', async t => {
    await run('mount', ['-t', 'tmpfs', '-o', 'size=24m,mode=777', 'tmpfs', join(engine, 'store')])
    const data = await publish('/other/big.rpm', 40 * MIB)
    await run('dd', ['if=/dev/zero', `of=${join(engine, 'store', 'filler')}`, 'bs=1M', 'count=23'], { okCodes: [1] })
    // the store is another file system than its folder here, so the fetcher is told by hand
    await rm(join(engine, 'room'))
    t.equal(await fetch(node(1), '/other/big.rpm'), sha256(data))
    await run('umount', ['-l', join(engine, 'store')])
    await until('there is room', async () => (await stats()).fetch?.room === true)
    t.equal(await fetch(node(1), '/other/big.rpm'), sha256(data))
  })

  await t.test('a store that is deleted under the engine is made anew', async t => {
    await rm(join(engine, 'store'), { recursive: true })
    const data = await publish('/other/after.rpm', 2 * MIB)
    for (let i = 0; i < 3; i++) t.equal(await fetch(node(1), '/other/after.rpm'), sha256(data))
    t.equal(await fetch(node(2), '/install/images/stage2.img'), sha256(objects.get('/install/images/stage2.img') ?? Buffer.alloc(0)))
    await until('it is kept again', async () => {
      await fetch(node(1), '/other/after.rpm')
      await lab.originRequests()
      await fetch(node(2), '/other/after.rpm')
      return (await asked('/other/after.rpm')).every(({ method }) => method === 'HEAD')
    })
  })
}

t.setTimeout(300_000)
t.test('a frontend of somebody else', isRoot ? {} : { skip: 'needs root' }, main)
