/** The agent's end of the helper: connections that come and go, and what is known of a fence in another process. */
import { rm } from 'node:fs/promises'
import { createServer } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import { pino } from 'pino'
import t from 'tap'
import { createHelperClient, type HelperClient } from '../../../agent/helper/client/client.ts'
import { createRemoteFence } from '../../../agent/helper/client/fence.ts'
import { createRemoteHost } from '../../../agent/helper/client/remote.ts'
import type { Tenancy } from '../../../agent/helper/fence/permits.ts'
import { createReconciler } from '../../../agent/reconcile/reconciler.ts'
import { KIND_ORDER, type DesiredObject } from '../../../protocol/core/desired.ts'
import type { FenceRecord } from '../../../protocol/core/fence/fence.ts'
import { eventually } from '../../model/federation.ts'
import { startBench, type Bench } from '../../helper-bench.ts'
import { SAMPLES } from '../../helper-samples.ts'

const HOUR_MS = 3_600_000
const silent = pino({ level: 'silent' })
const CLUSTER = { clusterId: '01234567-0000-4000-8000-000000000000', endMs: Date.now() + HOUR_MS }

t.test('a helper that is away is named, with the next step, and answers again by itself', async t => {
  const bench = await startBench(t)
  const client = bench.client()
  const hellos: string[] = []
  client.onConnect(({ instance }) => { hellos.push(instance) })
  await client.call('noop', {})
  t.equal(client.problem(), null)
  await bench.helper.stop()
  await t.rejects(client.call('noop', {}), { code: 'HELPER_UNREACHABLE', retryable: true, message: bench.socket, hint: /systemctl status musubi-helper/ })
  t.match(client.problem(), /does not answer at .*sock.*systemctl/)
  await bench.restart()
  await eventually('it is connected anew', () => hellos.length === 2)
  t.not(hellos[0], hellos[1], 'to another process')
  t.equal(client.problem(), null)
  await client.call('noop', {})
})

t.test('what was asked of a helper that dies is not known to be done', async t => {
  const bench = await startBench(t)
  const client = bench.client()
  bench.onCall = async verb => { if (verb === 'apply') await sleep(300) }
  const asked = client.call('apply', { ...SAMPLES[0]!, claim: { ...CLUSTER, counter: 5 } })
  await eventually('it is under way', () => bench.calls.length === 1)
  const stopping = bench.helper.stop()
  await t.rejects(asked, { code: 'HELPER_UNREACHABLE', message: /before apply was answered/ })
  await stopping
  t.strictSame(await bench.standing(), [`volume ${SAMPLES[0]!.name}`], 'though it came to its end')
  await bench.restart()
})

t.test('it waits for a helper that is not there yet, as long as it is told to', async t => {
  const bench = await startBench(t)
  await bench.helper.stop()
  const client = bench.client()
  await t.rejects(client.ready(AbortSignal.timeout(50)), { name: 'TimeoutError' })
  const ready = client.ready(AbortSignal.timeout(20_000))
  await bench.restart()
  t.match(await ready, { roles: ['compute'], kinds: [...KIND_ORDER], bootId: /-/ })
})

t.test('an answer that is none ends the connection, and a signal the call', async t => {
  const bench = await startBench(t)
  const path = `${bench.dir}/false.sock`
  const server = createServer(socket => { socket.on('data', () => { socket.write(Buffer.from('\0\0\0\x02{}')) }).on('error', () => undefined) })
  await new Promise<void>(resolve => { server.listen(path, resolve) })
  const fooled = createHelperClient({ socketPath: path, log: silent, persistent: false })
  await t.rejects(fooled.call('noop', {}), { code: 'HELPER_UNREACHABLE', message: /no answer/ })
  fooled.close()
  server.close()
  await rm(path, { force: true })
  bench.onCall = () => sleep(200)
  const client = bench.client()
  await client.call('noop', {})
  await t.rejects(client.call('observe', { kind: 'domain' }, { signal: AbortSignal.timeout(20) }), { name: 'TimeoutError' })
  await t.rejects(client.call('noop', {}, { signal: AbortSignal.abort(new Error('no')) }), { message: 'no' })
  t.same(await client.call('noop', {}), null, 'others go on')
})

// --- the fence from afar ----------------------------------------------------

type Ask = (verb: string) => Promise<unknown>
const fenceOver = (ask: Ask): { fence: ReturnType<typeof createRemoteFence>, reconnect: () => void } => {
  let reconnect = (): void => undefined
  const client = { call: (verb: string) => ask(verb), onConnect: (listener: () => void) => { reconnect = listener; return () => undefined } } as unknown as HelperClient
  return { fence: createRemoteFence(client), reconnect: () => { reconnect() } }
}
const record = (state: FenceRecord['state'], counter: number, resource = 'domain a.b'): FenceRecord => ({ resource, state, clusterId: 'c1', counter, endMs: 1 })

t.test('what is under way is unknown, what was answered is known', async t => {
  const { promise: go, resolve: finish } = Promise.withResolvers<undefined>()
  const { fence, reconnect } = fenceOver(async verb => { if (verb === 'fence-grant') await go; return [] })
  const granting = fence.grant('domain a.b', { clusterId: 'c1', counter: 5, endMs: 9 })
  t.equal(fence.get('domain a.b'), undefined)
  finish(undefined)
  await granting
  t.strictSame(fence.get('domain a.b'), { resource: 'domain a.b', state: 'granted', clusterId: 'c1', counter: 5, endMs: 9 })
  await fence.revoke('domain a.b', 'c1', 6)
  t.match(fence.records(), [{ state: 'revoking', counter: 6 }])
  reconnect()
  t.strictSame(fence.records(), [], 'another helper: nothing is known of it')
})

t.test('a look that was asked before an order ended does not tell of it', async t => {
  const { promise: go, resolve: finish } = Promise.withResolvers<undefined>()
  let records = [record('gone', 4)]
  const { fence } = fenceOver(async verb => {
    if (verb === 'fence-records') return records
    await go
    return null
  })
  await fence.tick()
  t.match(fence.get('domain a.b'), { state: 'gone' })
  const granting = fence.grant('domain a.b', { clusterId: 'c1', counter: 5, endMs: 9 })
  await fence.tick()
  t.equal(fence.get('domain a.b'), undefined, 'the old word does not count while the order is under way')
  finish(undefined)
  await granting
  t.match(fence.get('domain a.b'), { state: 'granted', counter: 5 })
  records = [record('revoking', 5)]
  await fence.tick()
  t.match(fence.get('domain a.b'), { state: 'revoking' })
})

t.test('an order that was not answered, and of two at once both, leave it unknown until the next look', async t => {
  let fail = true
  const { fence } = fenceOver(async verb => {
    if (verb === 'fence-records') return [record('granted', 7)]
    await sleep(verb === 'fence-grant' ? 20 : 5)
    if (fail) throw new Error('lost')
    return null
  })
  await t.rejects(fence.grant('domain a.b', { clusterId: 'c1', counter: 5, endMs: 9 }))
  t.equal(fence.get('domain a.b'), undefined)
  await fence.tick()
  t.match(fence.get('domain a.b'), { counter: 7 })
  fail = false
  await Promise.all([fence.grant('domain a.b', { clusterId: 'c1', counter: 8, endMs: 9 }), fence.revoke('domain a.b', 'c1', 9)])
  t.equal(fence.get('domain a.b'), undefined)
  await fence.tick()
  t.match(fence.get('domain a.b'), { counter: 7 })
})

t.test('a look that fails leaves nothing known', async t => {
  let up = true
  const { fence } = fenceOver(() => up ? Promise.resolve([record('gone', 4)]) : Promise.reject(new Error('away')))
  await fence.tick()
  up = false
  await t.rejects(fence.tick())
  t.strictSame(fence.records(), [])
})

// --- a reconciler over the socket ---------------------------------------------

function agentOf (bench: Bench): { client: HelperClient, desired: DesiredObject[], tenancy: { counter: number, clusters: Map<string, { clusterId: string, endMs: number }> }, reconciler: ReturnType<typeof createReconciler> } {
  const client = bench.client({ ledgerMs: () => Date.now() })
  const host = createRemoteHost(client, KIND_ORDER)
  const desired: DesiredObject[] = []
  const tenancy = { counter: 5, clusters: new Map([['01234567', CLUSTER]]) }
  const reconciler = createReconciler({
    drivers: host.observers, hands: host.hands, desired: () => [...desired], log: silent,
    fence: { fence: host.fence, tenancy: (): Tenancy => ({ counter: tenancy.counter, clusters: new Map(tenancy.clusters) }) }
  })
  return { client, desired, tenancy, reconciler }
}
const all = SAMPLES.map(({ kind, name }) => `${kind} ${name}`)

t.test('a whole host is made and removed over the socket; a new agent finds it as it is', async t => {
  const bench = await startBench(t)
  const first = agentOf(bench)
  first.desired.push(...SAMPLES)
  await first.reconciler.pass()
  t.strictSame(await bench.standing(), all)
  await first.reconciler.stop()
  first.client.close()
  bench.calls.length = 0
  const second = agentOf(bench)
  t.teardown(() => second.reconciler.stop())
  second.desired.push(...SAMPLES)
  await second.reconciler.pass()
  t.strictSame(bench.calls, [], 'nothing is done')
  t.ok(second.reconciler.states().every(({ state }) => state === 'ok'))
  second.desired.length = 0
  second.tenancy.counter = 6
  second.tenancy.clusters.clear()
  await second.reconciler.pass()
  t.strictSame(await bench.standing(), [])
  t.ok(bench.helper.fence.records().every(({ state, counter }) => state === 'gone' && counter === 6))
})

t.test('without its helper an agent sees nothing and removes nothing; with it again it goes on', async t => {
  const bench = await startBench(t)
  const agent = agentOf(bench)
  t.teardown(() => agent.reconciler.stop())
  agent.desired.push(...SAMPLES)
  await agent.reconciler.pass()
  await bench.helper.stop()
  bench.calls.length = 0
  agent.desired.length = 0
  agent.tenancy.counter = 6
  await agent.reconciler.pass()
  t.strictSame([...agent.reconciler.unseen().keys()].sort(), [...KIND_ORDER].sort())
  t.match(agent.reconciler.unseen().get('domain'), /does not answer/)
  t.strictSame(await bench.standing(), all)
  t.ok(agent.reconciler.states().every(({ state, error }) => state === 'failed' && error.includes('does not answer')), 'and says so of each')
  await bench.restart()
  await eventually('all of it is removed', async () => (await bench.standing()).length === 0)
})
