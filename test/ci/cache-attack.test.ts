import { spawn } from 'node:child_process'
import { createHash } from 'node:crypto'
import { once } from 'node:events'
import { mkdir, readFile, rm, truncate, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import type { Test } from 'tap'
import { createCacheDriver } from '../../agent/drivers/cache/driver.ts'
import { run } from '../../agent/exec.ts'
import { createPidfileServices } from '../../agent/services/pidfile.ts'
import { LAB_SPEC, SITE, createCacheLab } from '../bench/cache-lab.ts'
import type { LabNode } from '../bench/cache-lab.ts'
import { inPod, runInPod } from '../bench/cache-pod.ts'

// What a frontend, a node, or an engine in other hands can take from others: room on the disk, connections, the truth.
const isRoot = process.getuid?.() === 0
if (isRoot && !inPod()) process.exit(await runInPod(import.meta.filename))
const { default: t } = await import('tap')

const NAME = 'lab.cache'
const DIR = '/run/mz-cache-attack'
const MAX_MIB = 128
/** More than the engine has connections for, were each of them served. */
const HELD = 4_500
/** Of one node, as nginx-conf.ts has it, and those that are on their way in or out. */
const SERVED_MAX = 600
const signal = (): AbortSignal => AbortSignal.timeout(60_000)
const digest = (text: string): string => createHash('sha256').update(text).digest('hex')
const url = (path: string): string => `http://${LAB_SPEC.frontendAddress}:8080${path}`

interface Noted { from: string, method: string, target: string, range: string }

/** Opens many requests that are never answered; prints a line when all were tried. */
const HOLDER = `const net = require('node:net'); let left = ${HELD}
const one = () => { if (left-- <= 0) return void console.log('all'); const socket = net.connect(8080, '${LAB_SPEC.frontendAddress}')
  socket.on('error', () => {}); socket.on('connect', () => socket.write('GET /cgi-bin/never HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n')); setTimeout(one, left % 4 === 0 ? 1 : 0) }
one(); setTimeout(() => process.exit(), 60_000)`

async function main (t: Test): Promise<void> {
  await mkdir(DIR)
  const log = join(DIR, 'odd.log')
  const lab = await createCacheLab(DIR, 3, { program: [join(import.meta.dirname, 'attacks', 'odd-frontend.ts'), LAB_SPEC.frontendAddress, '8080', log] })
  t.teardown(async () => { await lab.close() })
  const services = createPidfileServices({ dir: join(DIR, 'services') })
  const driver = createCacheDriver({ stateDir: join(DIR, 'cache'), services })
  const spec = { ...LAB_SPEC, maxSizeMiB: MAX_MIB, profile: { validated: ['/files/'] } }
  await driver.apply(NAME, spec, signal())
  const engine = join(DIR, 'cache', 'lab%2Ecache', 'engine')
  const [bad, good, third] = lab.nodes as [LabNode, LabNode, LabNode]
  const noted = async (target: string): Promise<Noted[]> => (await readFile(log, 'utf8')).split('\n').filter(line => line !== '').map(line => JSON.parse(line) as Noted).filter(one => one.target === target)
  const ordered = async (order: string): Promise<Record<string, unknown>> => {
    for (let tries = 0; tries < 200; tries++) {
      const found = (await driver.stats(NAME))?.fetch?.orders[order]
      if (found?.state === 'done') return found
      await delay(100)
    }
    throw new Error(`order ${order} never ends`)
  }
  const live = async (): Promise<boolean> => (await run('nft', ['list', 'set', 'bridge', 'mz_cache', 'live'], { netns: SITE })).stdout.includes('expires')

  await t.test('a part of a dynamic answer is asked for by its node alone, and only once', async t => {
    t.equal((await lab.get(bad, url('/cgi-bin/large'), ['-r', '0-4194303'])).bytes, 4_194_304)
    await delay(1_000)
    t.same((await noted('/cgi-bin/large')).map(({ from, range }) => `${from} ${range}`), [`${bad.address} bytes=0-4194303`])
  })

  await t.test('an object without an end is not fetched for nobody', async t => {
    for (const name of ['huge', 'stretched']) {
      t.equal((await lab.get(bad, url(`/images/${digest(name)}/${name}`), ['-m', '2'])).exitCode, 28, `${name} is poured out`)
      await delay(1_500)
      const { stdout } = await run('du', ['-sm', engine])
      t.ok(Number.parseInt(stdout) < MAX_MIB, `${name}: ${stdout.trim()} MiB, of ${MAX_MIB} that the cache may have`)
      const peers = (await run('ss', ['-Htn', 'state', 'established', 'dst', `${LAB_SPEC.frontendAddress}:8080`], { netns: SITE })).stdout
      t.notMatch(peers, `${LAB_SPEC.ownAddress}:`, 'and nothing comes any more')
    }
    const large = `/images/${digest('large')}/large`
    t.equal((await lab.get(bad, url(large))).bytes, 60 * 1024 * 1024)
    const before = (await noted(large)).length
    t.equal((await lab.get(good, url(large))).bytes, 60 * 1024 * 1024)
    t.equal((await noted(large)).length, before, 'what has room is kept')
  })

  await t.test('an answer that is not the object that was asked about is not kept as that', async t => {
    t.equal(await lab.text(bad, url('/files/turncoat')), 'b', 'what the frontend said')
    t.equal(await lab.text(good, url('/files/turncoat')), 'a', 'and what it says now')
    t.equal(await lab.text(third, url('/files/turncoat')), 'a')
    t.equal((await noted('/files/turncoat')).filter(({ method }) => method === 'GET').length, 2, 'which is kept')
  })

  await t.test('what is fetched before nodes ask is what they find, on any port, and a frontend cannot say that it is kept', async t => {
    const path = `/images/${digest('small')}/small`
    await driver.preheat(NAME, 'mine', { objects: [{ path, port: 8080 }, { path: '/cgi-bin/told', port: 8080 }] })
    t.match(await ordered('mine'), { objectsDone: 1, bytesFetched: 2_000, failures: 1, failed: [{ path: '/cgi-bin/told', error: /not kept/ }] })
    t.equal((await noted(path)).length, 1)
    t.equal((await lab.get(good, url(path))).bytes, 2_000)
    t.equal((await noted(path)).length, 1, 'it was there')
  })

  await t.test('a node that holds all the requests that it can takes none from others', async t => {
    const holder = spawn('ip', ['netns', 'exec', bad.namespace, process.execPath, '-e', HOLDER], { stdio: ['ignore', 'pipe', 'inherit'] })
    const all = once(holder.stdout, 'data')
    let tried = 0
    const failed: number[] = []
    const ask = async (): Promise<void> => {
      const { status, exitCode } = await lab.get(good, '/who', ['-m', '10'])
      tried++
      if (status !== 200) failed.push(exitCode)
    }
    const opened = all.then(() => true)
    while (!await Promise.race([opened, ask().then(() => false)]) || tried < 40);
    t.same(failed, [], `of ${tried} requests of another node`)
    const { stdout } = await run('ss', ['-Htn', 'state', 'established', 'src', bad.address, 'dst', `${LAB_SPEC.frontendAddress}:8080`], { netns: SITE })
    const served = stdout.split('\n').length
    t.ok(served > 100 && served < SERVED_MAX, `${served} of its requests are at the frontend`)
    holder.kill('SIGKILL')
    await once(holder, 'exit')
    t.ok(await live())
  })

  await t.test('the prober goes on, whatever the engine puts into its folder', async t => {
    const pid = await readFile(join(engine, 'nginx.pid'), 'utf8')
    await rm(join(engine, 'nginx.pid'))
    await run('mkfifo', [join(engine, 'nginx.pid')])
    await truncate(join(engine, 'access.log'), 17 * 1024 * 1024)
    await delay(6_000)
    t.ok(await live(), 'the cache is still in use')
    await rm(join(engine, 'nginx.pid'))
    await writeFile(join(engine, 'nginx.pid'), pid)
  })

  await t.test('an engine that does not start with its list of digests starts without', async t => {
    await writeFile(join(engine, 'listed.map'), Buffer.alloc(4096))
    await services.stop('mz-cache-00ca5e')
    await driver.apply(NAME, spec, signal())
    t.match((await driver.observe(signal())).find(object => object.name === NAME), { healthy: true })
    t.equal((await lab.get(good, '/who')).status, 200)
  })
}

t.setTimeout(180_000)
t.test('attacks on what others share', isRoot ? {} : { skip: 'needs root' }, main)
