import { createHash } from 'node:crypto'
import { mkdir, readdir, readFile, readlink, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import type { Test } from 'tap'
import { DYNAMIC_HEADERS, classify } from '../../agent/drivers/cache/classes.ts'
import type { RequestHead } from '../../agent/drivers/cache/classes.ts'
import { createCacheDriver } from '../../agent/drivers/cache/driver.ts'
import { run } from '../../agent/exec.ts'
import { fingerprint } from '../../agent/fingerprint.ts'
import { createPidfileServices } from '../../agent/services/pidfile.ts'
import { SITE, LAB_SPEC, createCacheLab } from '../bench/cache-lab.ts'
import type { CacheLab, LabNode } from '../bench/cache-lab.ts'
import { inPod, runInPod } from '../bench/cache-pod.ts'
import { until } from '../cache/until.ts'

// The cache in the namespaces of a far site: a pod of its own, see cache-pod.ts.
const isRoot = process.getuid?.() === 0
if (isRoot && !inPod()) process.exit(await runInPod(import.meta.filename))
const { default: t } = await import('tap')

const MIB = 1024 * 1024
const NAME = 'lab.cache'
const signal = (): AbortSignal => AbortSignal.timeout(60_000)

/** Everything that the cache could leave in the namespace, as text. */
async function traces (): Promise<string> {
  const parts = await Promise.all([
    run('nft', ['list', 'ruleset'], { netns: SITE }),
    run('ip', ['-n', SITE, 'rule', 'show']),
    run('ip', ['-n', SITE, 'route', 'show', 'table', '7734'], { okCodes: [2] })
  ])
  return parts.map(part => part.stdout).join('---\n')
}

/** Command lines of all living processes in the site's namespace. */
async function siteProcesses (): Promise<Array<{ pid: number, command: string }>> {
  const inode = await run('stat', ['-L', '-c', '%i', `/run/netns/${SITE}`])
  const found: Array<{ pid: number, command: string }> = []
  for (const entry of await readdir('/proc')) {
    if (!/^\d+$/.test(entry)) continue
    const netns = await readlink(`/proc/${entry}/ns/net`).catch(() => '')
    if (netns !== `net:[${inode.stdout.trim()}]`) continue
    const command = (await readFile(`/proc/${entry}/cmdline`, 'utf8').catch(() => '')).replaceAll('\0', ' ').trim()
    if (command !== '') found.push({ pid: Number(entry), command })
  }
  return found
}

const enginePids = async (): Promise<number[]> => (await siteProcesses()).filter(one => one.command.startsWith('nginx')).map(one => one.pid)

/** What the fetcher does with a list is done by a process of its own, which is there for a moment. */
async function settledPids (): Promise<string> {
  const pids = async (): Promise<string> => (await siteProcesses()).map(one => one.pid).join()
  let seen = await pids()
  await until('no process comes or goes', async () => {
    await delay(300)
    const last = seen
    seen = await pids()
    return seen === last
  })
  return seen
}

async function setup (): Promise<{ lab: CacheLab, dir: string, node: (n: number) => LabNode }> {
  const dir = '/run/mz-cache-test'
  await mkdir(dir)
  const lab = await createCacheLab(dir, 8)
  const node = (n: number): LabNode => {
    const found = lab.nodes[n - 1]
    if (found === undefined) throw new Error(`the lab has no node ${n}`)
    return found
  }
  return { lab, dir, node }
}

async function main (t: Test): Promise<void> {
  const { lab, dir, node } = await setup()
  t.teardown(async () => { await lab.close() })
  const services = createPidfileServices({ dir: join(dir, 'services') })
  const driver = createCacheDriver({ stateDir: join(dir, 'cache'), services })
  const before = await traces()
  const observed = async () => (await driver.observe(signal())).find(object => object.name === NAME)

  await t.test('the host can do it, and has none yet', async t => {
    t.same(await driver.probe(signal()), [])
    t.same(await driver.observe(signal()), [])
    t.equal(await driver.stats(NAME), null)
    await driver.remove('unknown', signal())
  })

  const image = await lab.publish(100 * MIB)
  let directBytes = 0
  await t.test('one direct download, for comparison', async t => {
    const start = await lab.wanBytes()
    const answer = await lab.get(node(1), image.path)
    directBytes = await lab.wanBytes() - start
    t.equal(answer.bytes, 100 * MIB)
    t.ok(directBytes > 100 * MIB)
  })

  await t.test('apply brings it up, and a second one changes nothing', async t => {
    await driver.apply(NAME, LAB_SPEC, signal())
    t.match(await observed(), { kind: 'cache', healthy: true, fingerprint: fingerprint(LAB_SPEC) })
    const pids = await settledPids()
    const rules = await traces()
    await driver.apply(NAME, LAB_SPEC, signal())
    t.equal(await settledPids(), pids)
    t.equal((await traces()).replaceAll(/expires \w+/g, ''), rules.replaceAll(/expires \w+/g, ''))
    t.match(await driver.stats(NAME), { requests: 0, hits: 0, stored: 0 })
  })

  await t.test('eight cold nodes get 100 MB, the link carries it once, all follow the first download', async t => {
    await lab.originRequests()
    await lab.limitWan(400)
    const start = await lab.wanBytes()
    const answers = await Promise.all(lab.nodes.map(async one => await lab.get(one, image.path)))
    const wan = await lab.wanBytes() - start
    await lab.limitWan(null)
    t.same(answers.map(answer => [answer.status, answer.bytes]), lab.nodes.map(() => [200, 100 * MIB]))
    t.ok(wan <= 1.05 * directBytes, `${wan} bytes on the link, ${directBytes} for one direct download`)
    t.ok(Math.max(...answers.map(answer => answer.firstByteS)) < Math.min(...answers.map(answer => answer.totalS)), 'every node had bytes before any had all')
    const asked = (await lab.originRequests()).filter(request => request.target === image.path)
    t.same([...new Set(asked.map(request => request.from))], [LAB_SPEC.ownAddress], 'static: asked from the address of the cache')
    t.ok(new Set(asked.map(request => request.port)).size < asked.length, 'connections to the frontend were used again')
    t.comment(`link ${wan} / direct ${directBytes} = ${(wan / directBytes).toFixed(4)}; ${asked.length} upstream requests; total s ${answers.map(answer => answer.totalS).join(' ')}`)
  })

  await t.test('warm: the same bytes, nothing on the link', async t => {
    const start = await lab.wanBytes()
    await run('curl', ['-sS', '-m', '60', '-o', join(dir, 'warm'), `http://${LAB_SPEC.frontendAddress}${image.path}`], { netns: node(2).namespace })
    t.equal(createHash('sha256').update(await readFile(join(dir, 'warm'))).digest('hex'), image.sha256)
    t.ok(await lab.wanBytes() - start < MIB)
    await until('all are logged', async () => (await driver.stats(NAME))?.requests === 9)
    const stats = await driver.stats(NAME)
    t.ok((stats?.hits ?? 0) >= 1 && (stats?.hits ?? 0) <= 8)
    t.ok((stats?.bytesToNodes ?? 0) > 900 * MIB && (stats?.bytesToNodes ?? 0) < 905 * MIB)
    t.ok((stats?.bytesFromUpstream ?? 0) > 100 * MIB && (stats?.bytesFromUpstream ?? 0) < 101 * MIB)
    t.ok((stats?.stored ?? 0) > 100 * MIB && (stats?.stored ?? 0) < 101 * MIB)
  })

  await t.test('a node that gives up half-way costs the link nothing', async t => {
    const { path } = await lab.publish(48 * MIB)
    await lab.limitWan(400)
    const start = await lab.wanBytes()
    await Promise.all([
      run('curl', ['-sS', '-m', '0.5', '-o', '/dev/null', `http://${LAB_SPEC.frontendAddress}${path}`], { netns: node(1).namespace, okCodes: [28] }),
      run('curl', ['-sS', '-m', '60', '--limit-rate', '25M', '-o', '/dev/null', `http://${LAB_SPEC.frontendAddress}${path}`], { netns: node(2).namespace }),
      delay(200).then(async () => { t.match(await lab.get(node(3), path), { status: 200, bytes: 48 * MIB }) })
    ])
    const wan = await lab.wanBytes() - start
    await lab.limitWan(null)
    t.ok(wan <= 1.05 * directBytes * 48 / 100, `${wan} bytes on the link for ${48 * MIB}`)
  })

  await t.test('ranges are those of the object', async t => {
    const body = await readFile(image.file)
    for (const [range, from, to] of [['0-0', 0, 1], ['16777210-16777225', 16777210, 16777226], ['50000000-50999999', 50000000, 51000000], ['-1000', 100 * MIB - 1000, 100 * MIB], ['104857000-', 104857000, 100 * MIB]] as const) {
      await run('curl', ['-sS', '-m', '60', '-r', range, '-o', join(dir, 'part'), `http://${LAB_SPEC.frontendAddress}${image.path}`], { netns: node(3).namespace })
      t.ok(body.subarray(from, to).equals(await readFile(join(dir, 'part'))), range)
    }
    t.match(await lab.get(node(3), image.path, ['-r', '0-99']), { status: 206, bytes: 100 })
    t.match(await lab.get(node(3), image.path, ['-r', '0-9,20-29']), { status: 206 }, 'several at once go to the frontend')
    t.match(await lab.get(node(3), image.path, ['-r', '900000000-']), { status: 416 })
    t.match(await lab.get(node(3), image.path, ['-I']), { status: 200 })
    const cold = await lab.publish(40 * MIB)
    await run('curl', ['-sS', '-m', '60', '-r', '20000000-36000000', '-o', join(dir, 'part'), `http://${LAB_SPEC.frontendAddress}${cold.path}`], { netns: node(4).namespace })
    t.ok((await readFile(cold.file)).subarray(20000000, 36000001).equals(await readFile(join(dir, 'part'))), 'across two parts, cold')
  })

  await t.test('dynamic: the address of the node, a connection each, never stored', async t => {
    const stored = (await driver.stats(NAME))?.stored
    for (const one of lab.nodes) t.equal(await lab.text(one, '/who'), one.address)
    const ports = new Set<number>()
    for (let i = 0; i < 3; i++) {
      const answer = JSON.parse(await lab.text(node(5), `http://${LAB_SPEC.frontendAddress}:8080/kickstart`)) as { remote: string, port: number }
      t.equal(answer.remote, node(5).address)
      ports.add(answer.port)
    }
    t.equal(ports.size, 3)
    for (const header of ['Cookie: a=b', 'Authorization: Basic eDp5', 'Cache-Control: no-store']) {
      await lab.originRequests()
      t.match(await lab.get(node(6), image.path, ['-H', header, '-r', '0-99']), { status: 206, bytes: 100 })
      t.match(await lab.originRequests(), [{ from: node(6).address, target: image.path }], header)
    }
    t.equal((await driver.stats(NAME))?.stored, stored)
  })

  await t.test('the engine decides as the rules do', async t => {
    const { path, sha256 } = await lab.publish(1000)
    const requests: RequestHead[] = [
      ...[path, `${path}?a=1`, '/images/latest', `/images/../${path}`, `/x${path}`, path.replaceAll(/[0-9]/g, 'A'), `${path}/../root`, `/images/a%3a${sha256}`, `/images/%2e/${sha256}`, `/images/${'b'.repeat(600)}${sha256}`]
        .map(target => ({ method: 'GET', target, headers: {} })),
      ...['HEAD', 'POST', 'OPTIONS', 'DELETE'].map(method => ({ method, target: path, headers: {} })),
      ...DYNAMIC_HEADERS.filter(header => header !== 'transfer-encoding').map(header => ({ method: 'GET', target: path, headers: { [header]: 'x' } })),
      ...['bytes=0-9', 'bytes=-9', 'bytes=5-', 'bytes=0-1,4-5', 'lines=1-2'].map(range => ({ method: 'GET', target: path, headers: { range } })),
      ...['0', '3'].map(length => ({ method: 'GET', target: path, headers: { 'content-length': length } }))
    ]
    const before = (await driver.stats(NAME))?.requests ?? 0
    for (const request of requests) {
      const headers = Object.entries(request.headers).flatMap(([name, value]) => ['-H', `${name}: ${value}`])
      const body = request.headers['content-length'] === '3' ? ['--data-binary', 'abc'] : []
      await lab.get(node(1), request.target, ['--path-as-is', ...(request.method === 'HEAD' ? ['-I'] : ['-X', request.method]), ...headers, ...body])
    }
    const logged = async () => (await readFile(join(dir, 'cache', 'lab%2Ecache', 'engine', 'access.log'), 'utf8')).split('\n').slice(0, -1)
      .map(line => JSON.parse(line) as { node: string, asked: number, class: string, method: string, target: string }).filter(entry => entry.asked > 0 && entry.node !== '127.0.0.1')
    await until('the last one is logged', async () => (await logged()).length === before + requests.length)
    const log = (await logged()).slice(before)
    t.same(log.map(entry => [entry.method, entry.target, entry.class]), requests.map(request => [request.method, request.target, classify(request)]))
  })

  await t.test('POST bodies pass whole', async t => {
    const file = join(dir, 'upload')
    await writeFile(file, Buffer.alloc(30 * MIB, 'musubi '))
    const sha256 = createHash('sha256').update(await readFile(file)).digest('hex')
    const url = `http://${LAB_SPEC.frontendAddress}:8080${image.path}`
    const expected = { remote: node(7).address, method: 'POST', bytes: 30 * MIB, sha256 }
    t.match(JSON.parse(await lab.text(node(7), url, ['--data-binary', `@${file}`])), expected)
    t.match(JSON.parse(await lab.text(node(7), url, ['-T', file, '-X', 'POST', '-H', 'Transfer-Encoding: chunked'])), expected, 'chunked')
  })

  await t.test('an object that is not there stays not there, and is not remembered', async t => {
    const name = createHash('sha256').update('later').digest('hex')
    t.match(await lab.get(node(1), `/images/${name}/root`), { status: 404 })
    await mkdir(join(dir, 'www', 'images', name))
    await writeFile(join(dir, 'www', 'images', name, 'root'), 'here now')
    t.equal(await lab.text(node(1), `/images/${name}/root`), 'here now')
  })

  const direct = async (one: LabNode): Promise<boolean> => {
    await lab.originRequests()
    const answer = await lab.get(one, image.path, ['-r', '0-99'])
    if (answer.status !== 206) return false
    return (await lab.originRequests()).some(request => request.from === one.address && request.target === image.path)
  }

  await t.test('kill -9 of the engine: nodes go to the frontend directly, at once', async t => {
    for (const pid of await enginePids()) process.kill(pid, 'SIGKILL')
    t.ok(await direct(node(1)))
    t.match(await lab.get(node(1), image.path), { status: 200, bytes: 100 * MIB })
    t.match(await observed(), { healthy: false })
    await driver.apply(NAME, LAB_SPEC, signal())
    t.match(await observed(), { healthy: true })
    t.notOk(await direct(node(1)), 'and back')
  })

  await t.test('kill -9 of the main process alone: apply clears its worker away and starts anew', async t => {
    const { pid } = await services.status('mz-cache-00ca5e')
    const pids = await enginePids()
    process.kill(pid ?? 0, 'SIGKILL')
    t.notOk(await direct(node(1)), 'the worker goes on meanwhile')
    await driver.apply(NAME, LAB_SPEC, signal())
    t.match(await observed(), { healthy: true })
    t.same((await enginePids()).filter(one => pids.includes(one)), [])
  })

  await t.test('SIGSTOP of the engine: the dead-man set takes it out, apply replaces it', async t => {
    const held = run('curl', ['-sS', '-m', '60', '--limit-rate', '40M', '-o', join(dir, 'held'), `http://${LAB_SPEC.frontendAddress}${image.path}`], { netns: node(8).namespace })
    await delay(500)
    const pids = await enginePids()
    for (const pid of pids) process.kill(pid, 'SIGSTOP')
    await until('direct', async () => await run('curl', ['-sS', '-m', '1', `http://${LAB_SPEC.frontendAddress}/who`], { netns: node(2).namespace, okCodes: [28] }).then(result => result.stdout === node(2).address))
    t.ok(await direct(node(2)))
    t.match(await observed(), { healthy: false })
    for (const pid of pids) process.kill(pid, 'SIGCONT')
    await held
    t.equal(createHash('sha256').update(await readFile(join(dir, 'held'))).digest('hex'), image.sha256, 'a flow of its own goes on afterwards')
    await until('back', async () => !await direct(node(2)))
    for (const pid of pids) process.kill(pid, 'SIGSTOP')
    await until('direct again', async () => await run('curl', ['-sS', '-m', '1', `http://${LAB_SPEC.frontendAddress}/who`], { netns: node(2).namespace, okCodes: [28] }).then(result => result.stdout === node(2).address))
    await until('empty set', async () => (await observed())?.healthy === false)
    await driver.apply(NAME, LAB_SPEC, signal())
    t.match(await observed(), { healthy: true })
    t.same((await enginePids()).filter(one => pids.includes(one)), [])
  })

  await t.test('without an agent the cache goes on: another driver adopts it', async t => {
    const again = createCacheDriver({ stateDir: join(dir, 'cache'), services: createPidfileServices({ dir: join(dir, 'services') }) })
    const pids = await settledPids()
    await again.apply(NAME, LAB_SPEC, signal())
    t.equal(await settledPids(), pids)
    t.ok(((await again.stats(NAME))?.requests ?? 0) > 9, 'figures are kept')
  })

  await t.test('an upgrade that brings another prober starts that one: its service is told apart by the program', async t => {
    const { pid } = await services.status('mz-cacheprobe-00ca5e')
    const program = await readFile(new URL('../../agent/drivers/cache/prober.pl', import.meta.url), 'utf8')
    t.ok((await readFile(`/proc/${String(pid)}/environ`, 'utf8')).split('\0').includes(`MZ_KEEPER=${fingerprint(program)}`))
  })

  await t.test('apply mends what was broken by hand', async t => {
    for (const [what, seamless, breakIt] of [
      ['table bridge', true, async () => await run('nft', ['delete', 'table', 'bridge', 'mz_cache'], { netns: SITE })],
      ['table ip', true, async () => await run('nft', ['delete', 'table', 'ip', 'mz_cache'], { netns: SITE })],
      ['rule', false, async () => await run('ip', ['-n', SITE, 'rule', 'del', 'priority', '7734'])],
      ['route', false, async () => await run('ip', ['-n', SITE, 'route', 'flush', 'table', '7734'])],
      ['prober', true, async () => { await services.stop('mz-cacheprobe-00ca5e') }]
    ] as const) {
      await breakIt()
      t.match(await observed(), { healthy: false }, what)
      if (seamless) t.equal(await lab.text(node(3), '/who'), node(3).address, `${what}: nodes do not notice`)
      await driver.apply(NAME, LAB_SPEC, signal())
      t.match(await observed(), { healthy: true }, what)
      t.notOk(await direct(node(3)), what)
    }
  })

  await t.test('another spec is taken over', async t => {
    const spec = { ...LAB_SPEC, ports: [80], maxSizeMiB: 512 }
    await driver.apply(NAME, spec, signal())
    t.match(await observed(), { healthy: true, fingerprint: fingerprint(spec) })
    t.notOk(await direct(node(4)), 'the store is kept')
    const { port } = JSON.parse(await lab.text(node(4), `http://${LAB_SPEC.frontendAddress}:8080/`)) as { port: number }
    t.ok(port > 0, 'a port that is not intercepted any more')
    await t.rejects(driver.apply('other', spec, signal()), { code: 'CONFLICT' })
    await t.rejects(driver.apply(NAME, { ...spec, frontendAddress: '10.42.0.1; drop' }, signal()), { code: 'INVALID_INPUT' })
    await t.rejects(driver.apply('elsewhere', { ...spec, vni: 77 }, signal()), { code: 'SEGMENT_MISSING' })
    t.equal((await driver.observe(signal())).length, 1)
  })

  await t.test('remove leaves nothing', async t => {
    await driver.remove(NAME, signal())
    t.same(await siteProcesses(), [])
    t.equal(await traces(), before)
    t.same(await readdir(join(dir, 'cache')), [])
    t.same(await services.list(), [])
    t.same(await driver.observe(signal()), [])
    t.equal(await driver.stats(NAME), null)
    t.ok(await direct(node(1)))
    await driver.remove(NAME, signal())
  })
}

t.setTimeout(300_000)
t.test('transparent cache', isRoot ? {} : { skip: 'needs root' }, main)
