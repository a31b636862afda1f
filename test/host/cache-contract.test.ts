import { mkdir, readdir, readFile, rm } from 'node:fs/promises'
import type { Test } from 'tap'
import { createCacheDriver } from '../../agent/drivers/cache/driver.ts'
import { OWN_ORDER, putOrder } from '../../agent/drivers/cache/fetcher/orders.ts'
import { readRecord } from '../../agent/drivers/cache/folder.ts'
import { serviceNames } from '../../agent/drivers/cache/plan.ts'
import { run } from '../../agent/exec.ts'
import { createPidfileServices } from '../../agent/services/pidfile.ts'
import { clusterNamespace } from '../../protocol/core/desired.ts'
import type { CacheSpec } from '../../protocol/core/desired.ts'
import { driverContract } from '../contract/driver.ts'
import { killService } from '../contract/services.ts'
import { inPod, runInPod } from '../bench/cache-pod.ts'

// Two segments as their driver leaves them, without anybody on them: what a cache needs to come up.
const isRoot = process.getuid?.() === 0
if (isRoot && !inPod()) process.exit(await runInPod(import.meta.filename))
const { default: t } = await import('tap')

const spec: CacheSpec = { cluster: 'c1', vni: 0x301, frontendAddress: '10.42.0.1', ownAddress: '10.42.255.2', bridgeMac: '02:00:00:00:b1:01', ports: [80], maxSizeMiB: 64, tftp: {}, profile: { indexes: [{ kind: 'debian', path: '/debian/dists/stable/Release' }] }, budget: { rateMbitPerS: 50 } }
const changed: CacheSpec = { ...spec, ports: [80, 8080], maxSizeMiB: 128, tftp: { relay: '10.42.255.1' } }
const second: CacheSpec = { ...spec, cluster: 'c2', vni: 0x302 }
const DIR = '/run/mz-cache-contract'
const services = createPidfileServices({ dir: `${DIR}/services` })

async function makeSegment ({ vni, bridgeMac, ownAddress }: CacheSpec): Promise<void> {
  const namespace = clusterNamespace(vni)
  await run('ip', ['netns', 'add', namespace])
  await run('ip', ['-n', namespace, '-batch', '-'], { input: `link add br0 address ${bridgeMac} type bridge\naddr add ${ownAddress}/16 dev br0\nlink set br0 up\n` })
}

/** Tables, rules, processes and files of ours. */
async function leftovers (): Promise<string[]> {
  const found = (await readdir(`${DIR}/cache`)).map(file => `file ${file}`)
  for (const { vni } of [spec, second]) {
    const netns = clusterNamespace(vni)
    const { stdout: tables } = await run('nft', ['list', 'tables'], { netns })
    const { stdout: rules } = await run('ip', ['-n', netns, 'rule', 'show', 'priority', '7734'])
    const { stdout: routes } = await run('ip', ['-n', netns, 'route', 'show', 'table', '7734'], { okCodes: [2] })
    const { stdout: pids } = await run('ip', ['netns', 'pids', netns])
    found.push(...[tables, rules, routes, pids].filter(text => text !== '' && text !== 'table bridge other\n'))
  }
  found.push(...(await services.list()).map(service => `service ${service.name}`))
  return found
}

const kill = async (name: string): Promise<void> => { await killService(services, name) }

const NETNS = clusterNamespace(spec.vni)
const ORDERS = `${DIR}/cache/c1/orders`

async function contract (t: Test): Promise<void> {
  await mkdir(`${DIR}/cache`, { recursive: true })
  await makeSegment(spec)
  await makeSegment(second)
  await driverContract(t, {
    // there is no frontend whose lists could be waited for
    make: () => createCacheDriver({ stateDir: `${DIR}/cache`, listMs: 300, services: createPidfileServices({ dir: `${DIR}/services` }) }),
    specs: { name: 'c1', spec, changed, second: { name: 'c2', spec: second } },
    identity: async () => `${(await Promise.all(Object.values(serviceNames(spec.vni)).map(async name => String((await services.status(name)).pid)))).join(' ')} ${(await run('nft', ['-a', 'list', 'table', 'ip', 'mz_cache'], { netns: NETNS })).stdout}`,
    breaks: {
      'the engine was killed': async () => await kill('mz-cache-000301'),
      'the prober was killed': async () => await kill('mz-cacheprobe-000301'),
      'the fetcher was killed': async () => await kill('mz-cachefetch-000301'),
      'the TFTP server was killed': async () => await kill('mz-cachetftp-000301'),
      'the engine\'s folder is gone': async () => { await rm(`${DIR}/cache/c1/engine`, { recursive: true }) },
      'the folder of TFTP is gone': async () => { await rm(`${DIR}/cache/c1/tftp`, { recursive: true }) },
      'a table is gone': async () => { await run('nft', ['delete', 'table', 'bridge', 'mz_cache'], { netns: NETNS }) },
      'the routing rule is gone': async () => { await run('ip', ['-n', NETNS, 'rule', 'del', 'priority', '7734']) },
      'the namespace was made anew': async () => {
        await run('ip', ['netns', 'del', NETNS])
        await makeSegment(spec)
      },
      'an order does not say what the budget allows': async () => { await putOrder(ORDERS, 'manual', 'object\t80\t/a\t-\t-\n') },
      'an order of a person says what another budget allowed': async () => { await putOrder(ORDERS, 'manual', 'cap\t8\npause\tused up\nobject\t80\t/a\t-\t-\n') },
      'the order of the specification is gone': async () => { await putOrder(ORDERS, OWN_ORDER, '') },
      'the record is torn': async () => { await run('truncate', ['-s', '20', `${DIR}/cache/c1/cache.json`]) }
    },
    foreign: {
      make: async () => { await run('nft', ['add', 'table', 'bridge', 'other'], { netns: clusterNamespace(second.vni) }) },
      look: async () => (await run('nft', ['list', 'tables'], { netns: clusterNamespace(second.vni) })).stdout,
      remove: async () => { await run('nft', ['delete', 'table', 'bridge', 'other'], { netns: clusterNamespace(second.vni) }) }
    },
    leftovers,
    abortAfterMs: [15, 80, 300]
  })

  await t.test('looking changes no order; applying mends it', async t => {
    const driver = createCacheDriver({ stateDir: `${DIR}/cache`, services, listMs: 300 })
    await driver.apply('c1', spec, AbortSignal.timeout(30_000))
    await putOrder(ORDERS, 'manual', 'object\t80\t/a\t-\t-\n')
    const text = async (): Promise<string> => await readFile(`${ORDERS}/manual.tsv`, 'utf8')
    await driver.stats('c1')
    t.match(await driver.observe(AbortSignal.timeout(30_000)), [{ healthy: false, detail: { state: 'caching', problem: /manual/ } }])
    t.equal(await text(), 'object\t80\t/a\t-\t-\n')
    await driver.apply('c1', spec, AbortSignal.timeout(30_000))
    t.equal(await text(), 'cap\t50\nobject\t80\t/a\t-\t-\n')
    t.match(await driver.observe(AbortSignal.timeout(30_000)), [{ healthy: true }])
    await driver.remove('c1', AbortSignal.timeout(30_000))
  })

  await t.test('a frontend that does not answer is not asked at each change', async t => {
    const driver = createCacheDriver({ stateDir: `${DIR}/cache`, services, listMs: 300 })
    const known = async (): Promise<unknown> => (await readRecord(`${DIR}/cache/c1`))?.linkAsked
    await driver.apply('c1', spec, AbortSignal.timeout(30_000))
    const first = await known()
    t.match(first, { tries: 1, lastMs: Number })
    await driver.apply('c1', changed, AbortSignal.timeout(30_000))
    t.strictSame(await known(), first)
    await driver.remove('c1', AbortSignal.timeout(30_000))
  })

  await t.test('services whose files were deleted are seen, and can be removed', async t => {
    const driver = createCacheDriver({ stateDir: `${DIR}/cache`, services, listMs: 300 })
    await driver.apply('c1', spec, AbortSignal.timeout(30_000))
    await rm(`${DIR}/cache/c1`, { recursive: true })
    const [seen] = await driver.observe(AbortSignal.timeout(30_000))
    t.match(seen, { kind: 'cache', fingerprint: null, healthy: false })
    await driver.remove(seen?.name ?? '', AbortSignal.timeout(30_000))
    t.same(await driver.observe(AbortSignal.timeout(30_000)), [])
    t.same(await leftovers(), [])
  })

  await t.test('remove works when the segment went first', async t => {
    const driver = createCacheDriver({ stateDir: `${DIR}/cache`, services, listMs: 300 })
    await driver.apply('c1', spec, AbortSignal.timeout(30_000))
    await run('ip', ['netns', 'del', NETNS])
    t.match(await driver.observe(AbortSignal.timeout(30_000)), [{ name: 'c1', healthy: false }])
    await t.rejects(driver.apply('c1', spec, AbortSignal.timeout(30_000)), { code: 'SEGMENT_MISSING' })
    await driver.remove('c1', AbortSignal.timeout(30_000))
    t.same(await driver.observe(AbortSignal.timeout(30_000)), [])
    t.same(await services.list(), [])
    const commands = await Promise.all((await readdir('/proc')).filter(entry => /^\d+$/.test(entry)).map(async pid => await readFile(`/proc/${pid}/cmdline`, 'utf8').catch(() => '')))
    t.same(commands.filter(command => /nginx|prober|server\.pl/.test(command)), [])
  })
}

t.setTimeout(300_000)
t.test('the cache driver keeps the contract of drivers', isRoot ? {} : { skip: 'needs root' }, contract)
