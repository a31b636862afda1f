import { mkdtemp, rm } from 'node:fs/promises'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { startPod, type Pod } from '../../lab/pod.ts'
import { until } from '../../lab/process.ts'
import { startWan, type Wan } from '../../lab/wan.ts'

const skip = process.getuid?.() === 0 ? false : 'needs root to make namespaces'

interface Underlay extends AsyncDisposable { wan: Wan, hosts: Record<'a1' | 'a2' | 'b1' | 'outside', Pod> }

async function underlay (t: Test, rttMs: number, rateMbit?: number): Promise<Underlay> {
  const dir = await mkdtemp('/tmp/mzwan-')
  t.teardown(() => rm(dir, { recursive: true, force: true }))
  const stack = new AsyncDisposableStack()
  try {
    const wan = stack.use(await startWan({ dir: join(dir, 'wan'), sites: ['a', 'b'], rttMs, ...(rateMbit === undefined ? {} : { rateMbit }) }))
    const pod = async (name: string): Promise<Pod> => stack.use(await startPod({ name, dir: join(dir, name) }))
    const hosts = { a1: await pod('a1'), a2: await pod('a2'), b1: await pod('b1'), outside: await pod('outside') }
    await Promise.all([wan.attach(hosts.a1, 'a', 1), wan.attach(hosts.a2, 'a', 2), wan.attach(hosts.b1, 'b', 1), wan.attach(hosts.outside, null, 1)])
    const all = stack.move()
    return { wan, hosts, [Symbol.asyncDispose]: () => all.disposeAsync() }
  } catch (error) {
    await stack.disposeAsync()
    throw error
  }
}

/** Shortest of some round trips, ms; null when none came back. */
async function rtt (from: Pod, to: string, more: readonly string[] = []): Promise<number | null> {
  const { stdout } = await from.exec(['ping', '-c', '6', '-i', '0.1', '-W', '2', ...more, to], { okCodes: [1] })
  const min = /= ([\d.]+)\//.exec(stdout)?.[1]
  return min === undefined ? null : Number(min)
}

/** Sends bytes from one host to another by TCP; what is under way at the end is sent, not received. */
async function transfer (from: Pod, to: Pod, address: string, bytes: number): Promise<{ sent: number, received: number, mbitPerSecond: number }> {
  const server = await to.spawn(['iperf3', '-s', '-1'], { log: join(to.dir, 'iperf.log') })
  await until('iperf3', 10_000, async () => (await to.exec(['ss', '-Hltn', 'sport = :5201'])).stdout !== '')
  const { stdout } = await from.exec(['iperf3', '-c', address, '-n', String(bytes), '-J'], { timeoutMs: 60_000 })
  server.kill('SIGKILL')
  const { end } = JSON.parse(stdout) as { end: { sum_sent: { bytes: number }, sum_received: { bytes: number, seconds: number } } }
  const { bytes: received, seconds } = end.sum_received
  return { sent: end.sum_sent.bytes, received, mbitPerSecond: received * 8 / 1e6 / seconds }
}

t.test('sites are as far apart as asked, hosts of one site are near', { skip }, async t => {
  await using lab = await underlay(t, 60)
  const { a1, outside } = lab.hosts
  const across = await rtt(a1, '10.99.2.1')
  const near = await rtt(a1, '10.99.1.2')
  const half = await rtt(outside, '10.99.1.1')
  t.comment({ method: lab.wan.method, across, near, half })
  t.ok(across !== null && across >= 59, 'never less than asked')
  t.ok(across !== null && across < 120, 'and not far more')
  t.ok(near !== null && near < 59, 'a site has no delay in itself')
  t.ok(half !== null && half >= 29, 'the coordinator is half as far')
  t.not(await rtt(a1, '10.99.2.1', ['-M', 'do', '-s', '1472']), null, 'full frames pass')
  await lab.wan.setRtt(160)
  await until('the new delay', 10_000, async () => ((await rtt(a1, '10.99.2.1')) ?? 0) >= 159)
  await t.rejects(lab.wan.setRtt(-1), { code: 'INVALID_INPUT' })
})

t.test('what crosses is counted at both ends', { skip }, async t => {
  await using lab = await underlay(t, 20)
  const { a1, a2, b1 } = lab.hosts
  const bytes = 40 * 1024 * 1024
  const { sent, received, mbitPerSecond } = await transfer(a1, b1, '10.99.2.1', bytes)
  t.comment(`${Math.round(mbitPerSecond)} Mbit/s at 20 ms`)
  t.ok(received > bytes / 2)
  const [from, to] = [await lab.wan.counters('a'), await lab.wan.counters('b')]
  for (const [what, counted] of [['sent', from.txBytes], ['received', to.rxBytes]] as const) {
    t.ok(counted >= received && counted < sent * 1.15, `${what}: ${counted}`)
  }
  t.ok(from.rxBytes < bytes / 5, 'only acknowledgements came back')
  await transfer(a1, a2, '10.99.1.2', bytes)
  t.ok((await lab.wan.counters('a')).txBytes - from.txBytes < bytes / 100, 'what stays in a site does not count')
  await t.rejects(lab.wan.counters('nowhere'), { code: 'NOT_FOUND' })
})

t.test('an uplink carries no more than its rate', { skip }, async t => {
  await using lab = await underlay(t, 8, 20)
  const { mbitPerSecond } = await transfer(lab.hosts.a1, lab.hosts.b1, '10.99.2.1', 6 * 1024 * 1024)
  t.ok(mbitPerSecond < 24, `${mbitPerSecond} Mbit/s`)
})

t.test('a site that is cut off loses the others but not itself, and comes back', { skip }, async t => {
  await using lab = await underlay(t, 4)
  const { a1, b1, outside } = lab.hosts
  t.not(await rtt(a1, '10.99.2.1'), null)
  await lab.wan.partition('a', true)
  t.equal((await a1.exec(['ping', '-c', '2', '-i', '0.2', '-W', '1', '10.99.2.1'], { okCodes: [1] })).exitCode, 1)
  t.equal((await outside.exec(['ping', '-c', '2', '-i', '0.2', '-W', '1', '10.99.1.1'], { okCodes: [1] })).exitCode, 1)
  t.not(await rtt(a1, '10.99.1.2'), null, 'its own LAN goes on')
  t.not(await rtt(b1, '10.99.0.1'), null, 'so do the others')
  await lab.wan.partition('a', false)
  await until('the way back', 20_000, async () => (await rtt(a1, '10.99.2.1')) !== null)
})
