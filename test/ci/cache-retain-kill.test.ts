import { spawn } from 'node:child_process'
import { createHash, randomBytes, randomUUID } from 'node:crypto'
import { once } from 'node:events'
import { chown, lstat, mkdir, readFile, readdir, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import type { Test } from 'tap'
import { createRetained, type Retained } from '../../agent/drivers/cache/retained/retained.ts'
import type { RetainedRecord } from '../../agent/drivers/cache/retained/record.ts'
import { cacheFolder, writeRecord } from '../../agent/drivers/cache/folder.ts'
import { keeperId } from '../../agent/services/keepers.ts'
import type { CacheSpec } from '../../protocol/core/desired.ts'
import { inPod, runInPod } from '../bench/cache-pod.ts'

// A store on its way from one cluster to the next, with whoever moves it killed at any moment. No nginx: its files are made here.
const isRoot = process.getuid?.() === 0
const [, , keepIn] = process.argv
if (isRoot && keepIn === undefined && !inPod()) process.exit(await runInPod(import.meta.filename))

const DIR = '/run/mz-cache-retain-kill'
const LINK = { rttMs: 0, rateMbitPerS: 200 }
const SLICE = 4 * 2 ** 20
const spec = (part: Partial<CacheSpec> = {}): CacheSpec => ({ cluster: 'c1', vni: 0x00ca5f, frontendAddress: '10.42.0.1', ownAddress: '10.42.255.2', bridgeMac: '02:00:00:00:b1:01', ports: [80], maxSizeMiB: 64, retain: { owner: 'tokyo', ms: 1e9 }, ...part })
const LIMITS = { totalBytes: 2 ** 30, ownerBytes: 2 ** 29, maxMs: 1e9 }
const ENGINE = keeperId('engine', spec().vni)
const signal = (): AbortSignal => AbortSignal.timeout(60_000)
const make = (stateDir: string, limits = LIMITS, now = Date.now): Retained => createRetained({ stateDir, limits, now })

// the process that is killed
if (keepIn !== undefined) {
  process.stdout.write('begun\n')
  await make(keepIn).keep({ name: 'c1.cache', spec: spec(), applied: null, link: LINK }, signal())
  process.exit(0)
}
const { default: t } = await import('tap')

interface Part { key: string, headers: string, body: Buffer, name?: string }

/** A file of nginx 1.22's store: its header of fixed length, the key, the headers of the answer, the body. */
async function putPart (store: string, { key, headers, body, name = createHash('md5').update(key).digest('hex') }: Part, owner = ENGINE): Promise<string> {
  const fixed = Buffer.alloc(336)
  const begin = fixed.length + `\nKEY: ${key}\n`.length
  const text = `HTTP/1.1 ${headers}\r\n\r\n`
  fixed.writeBigUInt64LE(5n)
  fixed.writeUInt16LE(begin, 54)
  fixed.writeUInt16LE(begin + text.length, 56)
  const folder = join(store, name.slice(-1), name.slice(-3, -1))
  await mkdir(folder, { recursive: true })
  const path = join(folder, name)
  await writeFile(path, Buffer.concat([fixed, Buffer.from(`\nKEY: ${key}\n${text}`), body]))
  await chown(path, owner, owner)
  return path
}
const listed = (body: Buffer, digest = createHash('sha256').update(body).digest('hex')): Part => ({ key: `L ${digest} bytes=0-${SLICE - 1}`, headers: `206 Partial Content\r\nContent-Length: ${body.length}\r\nContent-Range: bytes 0-${body.length - 1}/${body.length}`, body })

/** The folder of an ended cluster's cache with objects of 1,000 bytes. */
async function ended (stateDir: string, objects: number, name = 'c1.cache'): Promise<string> {
  const folder = cacheFolder(stateDir, name)
  await writeRecord(folder, name, spec(), true, { link: LINK })
  const store = join(folder, 'engine', 'store')
  await mkdir(store, { recursive: true })
  for (let i = 0; i < objects; i++) await putPart(store, listed(randomBytes(1_000)))
  await chown(join(folder, 'engine'), ENGINE, ENGINE)
  await chown(store, ENGINE, ENGINE)
  return store
}
const files = async (folder: string): Promise<string[]> => (await readdir(folder, { recursive: true }).catch(() => [])).filter(path => /[0-9a-f]{32}$/.test(path))
const RECORD: RetainedRecord = { owner: 'tokyo', cluster: 'c0', link: LINK, engineId: ENGINE, bytes: 5_000, objects: 5, lastUsedMs: Date.now(), untilMs: Date.now() + 1e9, checked: true }

async function tests (t: Test): Promise<void> {
  await mkdir(DIR)
  let number = 0
  const fresh = async (): Promise<string> => {
    const dir = join(DIR, String(number++))
    await mkdir(dir)
    return dir
  }
  /** A store at rest, and its folder. */
  const atRest = async (dir: string, part: Partial<RetainedRecord> = {}, objects = 2): Promise<string> => {
    const folder = join(dir, '.retained', randomUUID())
    await mkdir(join(folder, 'store'), { recursive: true })
    for (let i = 0; i < objects; i++) await putPart(join(folder, 'store'), listed(randomBytes(1_000)), keeperId('retained'))
    await writeFile(join(folder, 'record.json'), JSON.stringify({ ...RECORD, ...part }))
    return folder
  }
  const settled = async (retained: Retained): Promise<number> => {
    await retained.tend()
    return (await retained.list()).length
  }

  await t.test('killed at any moment of taking a store: the next pass has it whole, or nothing is left', async t => {
    const OBJECTS = 400
    const outcomes = { before: 0, kept: 0, nothing: 0 }
    for (const ms of [0, 1, 2, 3, 5, 8, 12, 20, 30, 45, 60, 80, 100, 130, 170, 220]) {
      const dir = await fresh()
      const store = await ended(dir, OBJECTS)
      const child = spawn(process.execPath, [...process.execArgv, import.meta.filename, dir], { stdio: ['ignore', 'pipe', 'inherit'] })
      const exited = once(child, 'exit')
      await once(child.stdout, 'data')
      await Promise.race([delay(ms), exited])
      child.kill('SIGKILL')
      await exited
      const retained = make(dir)
      const found = await settled(retained)
      const [kept] = await retained.list()
      if ((await files(store)).length === OBJECTS) {
        // it had not been moved yet: the removal is done again
        t.equal(found, 0, `${ms} ms: nothing yet`)
        await retained.keep({ name: 'c1.cache', spec: spec(), applied: null, link: LINK }, signal())
        t.equal(await settled(retained), 1)
        t.match(await retained.list(), [{ objects: OBJECTS, checked: true }])
        outcomes.before++
      } else if (found === 1) {
        t.match(kept, { owner: 'tokyo', cluster: 'c1', objects: OBJECTS, checked: true }, `${ms} ms: all of it`)
        outcomes.kept++
      } else {
        outcomes.nothing++
        t.fail(`${ms} ms: the store is lost`)
      }
      t.same(await files(store).then(left => left.filter(() => found === 1)), [], 'never in two places')
      await retained.purge(null)
      t.same(await readdir(dir), [encodeURIComponent('c1') + '%2Ecache'])
      await rm(dir, { recursive: true })
    }
    t.comment(JSON.stringify(outcomes))
  })

  await t.test('what a killed process leaves: no record, no store, half a record, something on its way out', async t => {
    const dir = await fresh()
    const area = join(dir, '.retained')
    await mkdir(join(area, randomUUID(), 'store'), { recursive: true })
    await rm(join(await atRest(dir), 'store'), { recursive: true })
    await writeFile(join(await atRest(dir), 'record.json'), '{"owner":"tok')
    await mkdir(join(area, `gone-${randomUUID()}`, 'store', 'a'), { recursive: true })
    await atRest(dir, { takenBy: '01234567.cache' }) // for a cache that was never made
    t.equal(await settled(make(dir)), 0)
    t.same(await readdir(dir), [])
  })

  await t.test('a store that was set aside: the cache gets it however often whoever makes it is killed', async t => {
    const dir = await fresh()
    await atRest(dir, {}, 5)
    const engine = join(cacheFolder(dir, 'b.cache'), 'engine')
    const owners = async (): Promise<number[]> => [...new Set(await Promise.all((await files(join(engine, 'store'))).map(async path => (await lstat(join(engine, 'store', path))).uid)))]
    t.same(await make(dir).claim('b.cache', spec({ vni: 7 })), LINK)
    // another process: nothing was written of the cache itself
    t.same(await make(dir).claim('b.cache', spec({ vni: 7 })), LINK, 'the same one')
    t.equal(await make(dir).claim('d.cache', spec({ vni: 8 })), undefined, 'nobody else gets it')
    await writeRecord(cacheFolder(dir, 'b.cache'), 'b.cache', spec({ vni: 7 }), false, { link: LINK })
    const later = make(dir)
    t.equal(await settled(later), 0, 'it is on its way')
    await later.handOver('b.cache', spec({ vni: 7 }), signal())
    t.equal((await files(join(engine, 'store'))).length, 5)
    t.same(await owners(), [keeperId('engine', 7)])
    t.same((await readdir(join(dir, '.retained'))), [])
    await later.handOver('b.cache', spec({ vni: 7 }), signal())
    t.equal((await files(join(engine, 'store'))).length, 5)
    t.equal(await settled(later), 0)
    // after the move and before the record went
    const rest = await atRest(dir, { takenBy: 'b.cache' })
    await make(dir).handOver('b.cache', spec({ vni: 7 }), signal())
    await t.rejects(lstat(rest), { code: 'ENOENT' })
    t.equal((await files(join(engine, 'store'))).length, 5, 'what the cache has is its own')
    // the cluster ends before its cache was made
    await atRest(dir, { takenBy: 'e.cache' })
    await make(dir).keep({ name: 'e.cache', spec: spec({ vni: 9 }), applied: null }, signal())
    t.equal(await settled(make(dir)), 0)
  })

  await t.test('who gets what', async t => {
    const dir = await fresh()
    await atRest(dir, { owner: 'tokyo', lastUsedMs: Date.now() - 50, cluster: 'older' })
    await atRest(dir, { owner: 'tokyo', link: { rttMs: 400, rateMbitPerS: 1_000 }, cluster: 'younger' })
    await atRest(dir, { owner: 'osaka', checked: false })
    const retained = make(dir)
    t.equal(await retained.claim('k.cache', spec({ retain: { owner: 'kyoto', ms: 1e9 } })), undefined)
    t.equal(await retained.claim('o.cache', spec({ retain: { owner: 'osaka', ms: 1e9 } })), undefined, 'nobody before its bytes are compared')
    const without = spec()
    delete without.retain
    t.equal(await retained.claim('n.cache', without), undefined)
    t.same(await retained.claim('s.cache', spec({ link: { rttMs: 1, rateMbitPerS: 200 } })), LINK, 'the one with parts of its size')
    t.same(await retained.claim('a.cache', spec()), { rttMs: 400, rateMbitPerS: 1_000 }, 'and whoever leaves that open goes on with the size that is there')
    t.equal(await retained.claim('b.cache', spec()), undefined)
    const late = make(dir, LIMITS, () => Date.now() + 2e9)
    await atRest(dir)
    t.equal(await late.claim('l.cache', spec()), undefined, 'its time is over')
  })

  await t.test('only what an honest engine could have written, and what is whole, is left', async t => {
    const dir = await fresh()
    const store = await ended(dir, 3)
    const large = randomBytes(SLICE + 500)
    const digest = createHash('sha256').update(large).digest('hex')
    const parts = (of: string): Part[] => [large.subarray(0, SLICE), large.subarray(SLICE)].map((body, i) => ({
      key: `L ${of} bytes=${i * SLICE}-${(i + 1) * SLICE - 1}`, headers: `206 Partial Content\r\nContent-Range: bytes ${i * SLICE}-${i * SLICE + body.length - 1}/${large.length}\r\nETag: "x"`, body
    }))
    for (const part of parts(digest)) await putPart(store, part)
    const other = createHash('sha256').update('other').digest('hex')
    await putPart(store, parts(other)[0] ?? listed(large)) // its second part is missing
    const one = listed(randomBytes(900))
    const own = createHash('sha256').update(one.body).digest('hex')
    const range = 'Content-Range: bytes 0-899/900'
    const variants: Part[] = [
      { ...one, key: one.key.replace(own, other) },
      { ...one, name: 'f'.repeat(32) },
      { ...one, headers: `206 Partial Content\r\n${range}\r\nContent-Encoding: gzip` },
      { ...one, headers: `206 Partial Content\r\n${range}\r\nSet-Cookie: a=b` },
      { ...one, headers: `206 Partial Content\r\n${range}\r\nX-Accel-Redirect: /secret` },
      { ...one, headers: `206 Partial Content\r\n${range}\r\nContent-Length: 5` },
      { ...one, headers: '206 Partial Content\r\nContent-Range: bytes 0-899/1800' },
      { ...one, headers: '200 OK' },
      { ...one, headers: `404 Not Found\r\n${range}` },
      { ...one, headers: `206 Partial Content\r\n${range}\r\n\r\nHTTP/1.1 200 OK` },
      { ...one, key: `L ${own} bytes=0-1048575` },
      { ...one, key: `V c-1 80 10.42.0.1 /x/${own} "e" - 900 bytes=0-${SLICE - 1}` },
      { ...one, key: `N 80 10.42.0.1 /images/${other}/x bytes=0-${SLICE - 1}` },
      { ...one, key: `N 80 10.42.0.1 /images/${own}a/x bytes=0-${SLICE - 1}` }
    ]
    // one after the other: some have the same name
    for (const [i, variant] of variants.entries()) {
      const at = await fresh()
      const path = await putPart(await ended(at, 1), variant)
      const retained = make(at)
      await retained.keep({ name: 'c1.cache', spec: spec(), applied: null, link: LINK }, signal())
      t.equal(await settled(retained), 1)
      t.match(await retained.list(), [{ objects: 1 }], `variant ${i}: ${variant.headers.replaceAll('\r\n', ' | ')} ${variant.key.slice(0, 40)} ${path.slice(-6)}`)
    }
    await putPart(store, { ...one, key: `N 80 10.42.0.1 /x/sha256:${own} bytes=0-${SLICE - 1}`, headers: '200 OK\r\nContent-Length: 900' })
    const torn = await putPart(store, one)
    await writeFile(torn, (await readFile(torn)).subarray(0, 200))
    const retained = make(dir)
    await retained.keep({ name: 'c1.cache', spec: spec(), applied: null, link: LINK }, signal())
    t.equal(await settled(retained), 1)
    t.match(await retained.list(), [{ objects: 5 }], 'three small ones, the large one, the named one')
    t.equal((await files(join(dir, '.retained'))).length, 6)
  })

  await t.test('limits: what is too much goes, the least recently used first; without any nothing is kept', async t => {
    const dir = await fresh()
    await ended(dir, 20)
    const small = make(dir, { ...LIMITS, ownerBytes: 10_000 })
    await small.keep({ name: 'c1.cache', spec: spec(), applied: null, link: LINK }, signal())
    await settled(small)
    const [kept] = await small.list()
    t.ok((kept?.objects ?? 0) >= 5 && (kept?.bytes ?? Infinity) <= 10_000, `a part of a store that is too large: ${kept?.objects ?? 0} objects`)
    await atRest(dir, { bytes: 8_000, lastUsedMs: Date.now() - 9_000, cluster: 'older' })
    await settled(small)
    t.same((await small.list()).map(({ cluster }) => cluster), ['c1'])
    const none = make(dir, { ...LIMITS, totalBytes: 0 })
    t.equal(await settled(none), 0)
    const other = await fresh()
    const left = await ended(other, 2)
    await make(other, { ...LIMITS, maxMs: 0 }).keep({ name: 'c1.cache', spec: spec(), applied: null, link: LINK }, signal())
    t.equal((await files(left)).length, 2)
    t.notOk((await readdir(other)).includes('.retained'))
  })

  await t.test('a process of the engine\'s user is still there: nothing of it is believed', async t => {
    const dir = await fresh()
    await ended(dir, 2)
    const child = spawn('setpriv', [`--reuid=${ENGINE}`, `--regid=${ENGINE}`, '--clear-groups', 'sleep', '30'])
    t.teardown(() => child.kill('SIGKILL'))
    await delay(200)
    const retained = make(dir)
    await retained.keep({ name: 'c1.cache', spec: spec(), applied: null, link: LINK }, signal())
    t.equal(await settled(retained), 0)
    t.same(await readdir(dir), ['c1%2Ecache'])
  })

  await t.test('where nothing can be written a removal is not held up', async t => {
    const dir = await fresh()
    await ended(dir, 2)
    await writeFile(join(dir, '.retained'), 'in the way')
    const retained = make(dir)
    await retained.keep({ name: 'c1.cache', spec: spec(), applied: null, link: LINK }, signal())
    await retained.tend()
    t.equal(await retained.claim('b.cache', spec({ vni: 7 })), undefined)
  })
}

t.setTimeout(180_000)
t.test('a store between two clusters', isRoot ? {} : { skip: 'needs root' }, tests)
