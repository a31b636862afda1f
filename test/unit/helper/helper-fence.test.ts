/** The fence where it lives now: what the helper ends by itself, what it takes to be gone, and by which clock. */
import { open, readFile, readdir, type FileHandle } from 'node:fs/promises'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import t from 'tap'
import { openHelperClock } from '../../../agent/helper/fence/clock.ts'
import { openFence } from '../../../agent/helper/fence/store.ts'
import { openDeedRecord, type Deed } from '../../../agent/helper/record.ts'
import { MusubiError } from '../../../protocol/core/errors.ts'
import { END_GUARD_MS } from '../../../protocol/core/lease/lease.ts'
import { FENCE_COUNTER_MAX, FENCE_COUNTER_STEP, FENCE_MAX_RECORDS } from '../../../protocol/core/limits.ts'
import { createMemoryStore } from '../../../store/memory.ts'
import { eventually } from '../../model/federation.ts'
import { startBench } from '../../helper-bench.ts'
import { SAMPLES } from '../../helper-samples.ts'

const HOUR_MS = 3_600_000
const of = (kind: string) => SAMPLES.find(one => one.kind === kind)!
const claim = (endMs: number, counter = 5): { clusterId: string, counter: number, endMs: number } => ({ clusterId: 'c1', counter, endMs })

t.test('what has outlived its lease is ended without an agent, against the order of creation', async t => {
  const bench = await startBench(t)
  const client = bench.client({ persistent: false })
  const ends = Date.now() + 10_000
  for (const kind of ['volume', 'segment', 'domain']) await client.call('apply', { ...of(kind), claim: claim(ends) })
  await client.call('apply', { ...of('tunnel'), claim: null })
  const stays = { ...of('domain'), name: '89abcdef.n1' }
  await client.call('apply', { ...stays, claim: { clusterId: 'c2', counter: 6, endMs: ends + HOUR_MS } })
  client.close()
  bench.calls.length = 0
  bench.clock.offMs = 10_000 + END_GUARD_MS - 5_000
  await bench.restart() // a clock of this boot does not follow the wall clock at once
  await sleep(100)
  t.strictSame(bench.calls, [], 'not before its end and the guard')
  const again = bench.client({ ledgerMs: () => Date.now() + 10_000 + END_GUARD_MS + 1, persistent: false })
  await again.call('noop', {})
  again.close()
  await eventually('it is ended', async () => (await bench.standing()).length === 2)
  t.strictSame(bench.calls, [`remove domain ${of('domain').name}`, `remove segment ${of('segment').name}`, `remove volume ${of('volume').name}`])
  t.strictSame(await bench.standing(), ['tunnel wg', 'domain 89abcdef.n1'], 'the other cluster keeps what it needs')
  await eventually('it is known to be gone', () => ['volume', 'segment', 'domain'].every(kind => bench.helper.fence.get(`${kind} ${of(kind).name}`)?.state === 'gone'))
  const last = bench.client({ ledgerMs: () => Date.now() + HOUR_MS + 2 * END_GUARD_MS, persistent: false })
  await last.call('noop', {})
  last.close()
  await eventually('all is ended, the shared tunnel too', async () => (await bench.standing()).length === 0)
})

t.test('what would not go is tried again', async t => {
  const bench = await startBench(t)
  const client = bench.client({ persistent: false, ledgerMs: () => Date.now() })
  await client.call('apply', { ...of('domain'), claim: claim(Date.now() + 10_000) })
  let failures = 2
  bench.onCall = verb => { if (verb === 'remove' && failures-- > 0) throw new Error('libvirt hangs') }
  const late = bench.client({ persistent: false, ledgerMs: () => Date.now() + 10_000 + END_GUARD_MS })
  await late.call('noop', {})
  await eventually('it is gone', async () => (await bench.standing()).length === 0)
  t.equal(bench.calls.filter(call => call.startsWith('remove')).length, 3)
})

t.test('what will not go for hours takes no more lines of the record than what has changed', async t => {
  const bench = await startBench(t)
  const client = bench.client({ persistent: false, ledgerMs: () => Date.now() })
  await client.call('apply', { ...of('domain'), claim: claim(Date.now() + 10_000) })
  let tries = 0
  bench.onCall = verb => {
    if (verb !== 'remove') return
    tries++
    if (tries <= 5) throw new Error('libvirt hangs')
    if (tries <= 10) throw new MusubiError('UNREACHABLE', 'libvirt is away')
  }
  const late = bench.client({ persistent: false, ledgerMs: () => Date.now() + 10_000 + END_GUARD_MS })
  await late.call('noop', {})
  await eventually('it is gone', async () => (await bench.standing()).length === 0)
  await bench.helper.stop()
  const deeds = (await readFile(join(bench.config.helper.stateDir, 'record.jsonl'), 'utf8')).trim().split('\n').map(line => JSON.parse(line) as Deed)
  t.equal(tries, 11)
  t.strictSame(deeds.filter(({ verb }) => verb === 'expire').map(({ outcome }) => outcome), ['begun', 'INTERNAL', 'UNREACHABLE', 'done'])
})

t.test('the fence has no say about what clusters share', async t => {
  const bench = await startBench(t)
  const client = bench.client()
  await t.rejects(client.call('fence-grant', { resource: 'tunnel wg', claim: claim(Date.now() + HOUR_MS) }), { code: 'INVALID_INPUT' })
  await t.rejects(client.call('fence-revoke', { resource: 'tunnel wg', clusterId: 'c1', counter: 5 }), { code: 'INVALID_INPUT' })
  t.strictSame(await client.call('fence-records', {}), [])
})

t.test('a counter that no ledger reaches is refused, and shuts nobody out', async t => {
  const bench = await startBench(t)
  const client = bench.client()
  const { name } = of('domain')
  await client.call('apply', { ...of('domain'), claim: claim(Date.now() + HOUR_MS, 7) })
  const revoke = (counter: number) => client.call('fence-revoke', { resource: 'domain a.gone', clusterId: 'c1', counter })
  await t.rejects(revoke(Number.MAX_SAFE_INTEGER), { code: 'INVALID_INPUT' })
  await t.rejects(revoke(8 + FENCE_COUNTER_STEP), { code: 'COUNTER_TOO_HIGH', message: /above 7/ })
  await t.rejects(client.call('fence-grant', { resource: 'domain a.gone', claim: claim(Date.now() + HOUR_MS, FENCE_COUNTER_MAX) }), { code: 'COUNTER_TOO_HIGH' })
  await t.rejects(client.call('remove', { kind: 'domain', name, claim: { clusterId: 'c1', counter: FENCE_COUNTER_MAX } }), { code: 'COUNTER_TOO_HIGH' })
  t.strictSame(await bench.standing(), [`domain ${name}`], 'nor is anything removed by it')
  await revoke(7 + FENCE_COUNTER_STEP)
  await client.call('apply', { ...of('domain'), claim: claim(Date.now() + HOUR_MS, 8) })
  t.match(bench.helper.fence.get(`domain ${name}`), { state: 'granted', counter: 8 })
})

t.test('a fence knows so many resources, and goes on with those', async t => {
  const store = createMemoryStore()
  const records = Array.from({ length: FENCE_MAX_RECORDS }, (_, n) => ({ resource: `domain a.n${n}`, state: 'granted', clusterId: 'c1', counter: 5, endMs: HOUR_MS }))
  await store.batch(records.map(value => ({ type: 'put' as const, key: `fence/record/${value.resource}`, value, version: 1 })), { sync: true })
  const fence = await openFence({ store, now: () => 1_000 })
  await t.rejects(fence.grant('domain a.more', claim(HOUR_MS, 6)), { code: 'FENCE_FULL' })
  await t.rejects(fence.revoke('domain a.more', 'c1', 6), { code: 'FENCE_FULL' })
  await fence.grant('domain a.n1', claim(HOUR_MS, 6))
  t.match(fence.get('domain a.n1'), { counter: 6 })
  t.equal(fence.records().length, FENCE_MAX_RECORDS)
})

t.test('a helper that is started anew refuses what is stale, as the one before', async t => {
  const bench = await startBench(t)
  const client = bench.client()
  await client.call('apply', { ...of('domain'), claim: claim(Date.now() + HOUR_MS, 7) })
  await client.call('fence-revoke', { resource: 'domain a.gone', clusterId: 'c1', counter: 9 })
  await bench.restart()
  await t.rejects(client.call('apply', { ...of('domain'), claim: claim(Date.now() + HOUR_MS, 6) }), { code: 'STALE_COUNTER' })
  await t.rejects(client.call('fence-grant', { resource: 'domain a.gone', claim: claim(Date.now() + HOUR_MS, 9) }), { code: 'RESOURCE_HELD' })
  t.strictSame((await client.call('fence-records', {})).map(({ resource, counter }) => `${resource} ${counter}`).sort(), [`domain ${of('domain').name} 7`, 'domain a.gone 9'].sort())
})

t.test('gone is what the helper has looked for itself', async t => {
  const bench = await startBench(t)
  const client = bench.client()
  const { name } = of('domain')
  const resource = `domain ${name}`
  const { promise: go, resolve: finish } = Promise.withResolvers<undefined>()
  const { promise: begun, resolve: begin } = Promise.withResolvers<undefined>()
  bench.onCall = async verb => { if (verb === 'apply') { begin(undefined); await go } }
  const making = client.call('apply', { ...of('domain'), claim: claim(Date.now() + HOUR_MS) })
  await begun
  // its lease ends; another agent, that knows nothing of what is under way, looks and sees nothing
  const other = bench.client()
  await other.call('fence-revoke', { resource, clusterId: 'c1', counter: 6 })
  t.strictSame(await other.call('observe', { kind: 'domain' }), [])
  await t.rejects(other.call('fence-gone', { resource, counter: 6 }), { code: 'RESOURCE_HELD', message: /was not looked at/ })
  finish(undefined)
  await making
  await t.rejects(other.call('fence-gone', { resource, counter: 6 }), { code: 'RESOURCE_HELD', message: /was not looked at/ }, 'the look was before its end')
  await other.call('observe', { kind: 'domain' })
  await t.rejects(other.call('fence-gone', { resource, counter: 6 }), { code: 'RESOURCE_HELD', message: /still there/ })
  await other.call('remove', { kind: 'domain', name, claim: { clusterId: 'c1', counter: 6 } })
  await other.call('observe', { kind: 'domain' })
  await other.call('fence-gone', { resource, counter: 6 })
  t.match(bench.helper.fence.get(resource), { state: 'gone' })
})

t.test('a revocation that overtakes its grant is in time', async t => {
  const bench = await startBench(t)
  const client = bench.client()
  const grant = bench.helper.fence.grant.bind(bench.helper.fence)
  bench.helper.fence.grant = async (resource, one) => {
    await grant(resource, one)
    await bench.helper.fence.revoke(resource, one.clusterId, one.counter + 1)
  }
  await t.rejects(client.call('apply', { ...of('domain'), claim: claim(Date.now() + HOUR_MS) }), { code: 'RESOURCE_HELD' })
  t.strictSame(bench.calls, [])
})

t.test('the clock goes on by itself, and follows the agent where the two differ', async t => {
  const store = createMemoryStore()
  const inputs = { atMs: 1_000_000, sinceBootMs: 5_000 }
  const machine = { wall: () => inputs.atMs, sinceBoot: () => inputs.sinceBootMs, bootId: 'b1' }
  const clock = await openHelperClock(store, machine)
  t.equal(clock.now(), 1_000_000)
  inputs.atMs += 10 * HOUR_MS // a jump of the wall clock ends nothing
  t.equal(clock.now(), 1_000_000)
  t.equal(clock.follow(1_000_500), 0, 'they agree well enough')
  t.equal(clock.follow(9_000_000), 8_000_000)
  t.equal(clock.now(), 9_000_000)
  inputs.sinceBootMs += 1_000
  t.equal(clock.now(), 9_001_000)
  await clock.tick()
  inputs.sinceBootMs += 500
  const next = await openHelperClock(store, machine)
  t.equal(next.now(), 9_001_500, 'over a restart, within a boot')
})

t.test('every deed is on record, in whose name, and without what is secret', async t => {
  const bench = await startBench(t)
  const client = bench.client()
  await client.call('apply', { ...of('volume'), claim: claim(Date.now() + HOUR_MS) })
  await t.rejects(client.call('apply', { ...of('volume'), claim: claim(Date.now() + HOUR_MS, 1) }))
  await client.call('remove', { kind: 'volume', name: of('volume').name, claim: { clusterId: 'c1', counter: 6 } })
  const text = await readFile(join(bench.config.helper.stateDir, 'record.jsonl'), 'utf8')
  const deeds = text.trim().split('\n').map(line => JSON.parse(line) as Deed)
  t.strictSame(deeds.map(({ verb, outcome, counter }) => [verb, outcome, counter]), [['apply', 'begun', 5], ['apply', 'done', 5], ['apply', 'begun', 1], ['apply', 'STALE_COUNTER', 1], ['remove', 'begun', 6], ['remove', 'done', 6]])
  t.match(deeds[1], { resource: `volume ${of('volume').name}`, clusterId: 'c1', boot: /^[0-9a-f-]{36}$/, time: Number, ms: Number })
  t.notMatch(text, /0123456789abcdef/)
})

t.test('the record is bounded', async t => {
  const dir = t.testdir()
  const record = await openDeedRecord(join(dir, 'r'), 300, 2)
  for (let n = 0; n < 40; n++) await record.write({ time: n, boot: 'b', verb: 'apply', outcome: 'done' }, n % 2 === 0)
  await record.close()
  t.strictSame((await readdir(dir)).sort(), ['r', 'r.1', 'r.2'])
  t.match(await readFile(join(dir, 'r'), 'utf8'), /"time":39/)
  for (const file of await readdir(dir)) t.ok((await readFile(join(dir, file))).length <= 300)
  const again = await openDeedRecord(join(dir, 'r'), 300, 2)
  await again.write({ time: 40, boot: 'b', verb: 'apply', outcome: 'done' }, true)
  await again.close()
  t.match(await readFile(join(dir, 'r'), 'utf8'), /"time":40/)
})

t.test('nobody waits for the disk of the record, and what it could not take is said at the next line', async t => {
  const path = join(t.testdir(), 'r')
  const record = await openDeedRecord(path)
  const file = await open(path)
  const prototype = Object.getPrototypeOf(file) as FileHandle
  await file.close()
  const before = Object.getOwnPropertyDescriptor(prototype, 'datasync') ?? {}
  t.teardown(() => { Object.defineProperty(prototype, 'datasync', before) })
  const waiting: Array<{ resolve: () => void, reject: (error: Error) => void }> = []
  prototype.datasync = async () => { await new Promise<void>((resolve, reject) => { waiting.push({ resolve, reject }) }) }
  const write = async (time: number, durable: boolean): Promise<void> => { await record.write({ time, boot: 'b', verb: 'apply', outcome: 'done' }, durable) }
  await write(1, false)
  t.equal(waiting.length, 0)
  await write(2, true)
  await write(3, true)
  await write(4, true)
  t.equal(waiting.length, 1, 'one at a time')
  t.match(await readFile(path, 'utf8'), /"time":4/, 'written it is')
  waiting[0]?.resolve()
  while (waiting.length < 2) await sleep(5)
  waiting[1]?.reject(new Error('EIO'))
  await t.rejects(async () => { for (let time = 5; time < 50; time++) await write(time, false) }, { message: 'EIO' })
  await write(60, true)
  const closed = record.close()
  t.equal(await Promise.race([closed.then(() => 'closed'), sleep(50, 'waits')]), 'waits', 'but the end does')
  waiting[2]?.resolve()
  await closed
})
