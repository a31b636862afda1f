/** The fence on its disk, and the reconciler that asks it before it does anything. */
import t, { type Test } from 'tap'
import { pino } from 'pino'
import { createFakeDriver, createMemoryFakeStore, type FakeStore } from '../../../agent/drivers/fake.ts'
import { type Fence, openFence } from '../../../agent/helper/fence/store.ts'
import type { Tenancy } from '../../../agent/helper/fence/permits.ts'
import { createReconciler, type DriverSet, type Reconciler } from '../../../agent/reconcile/reconciler.ts'
import { type DesiredObject, type ObjectKind, KIND_ORDER } from '../../../protocol/core/desired.ts'
import { MusubiError } from '../../../protocol/core/errors.ts'
import { END_GUARD_MS } from '../../../protocol/core/lease/lease.ts'
import { createMemoryStore } from '../../../store/memory.ts'
import type { Store } from '../../../store/store.ts'

const T0 = 1_800_000_000_000
const END = T0 + 3_600_000
const claim = (counter: number, clusterId = 'c1', endMs = END): { clusterId: string, counter: number, endMs: number } => ({ clusterId, counter, endMs })

t.test('what a fence was told it knows after any stop', async t => {
  const store = createMemoryStore()
  const clock = { ms: T0 }
  const before = await openFence({ store, now: () => clock.ms })
  await before.grant('domain c1.n1', claim(5))
  await before.grant('volume c1.data', claim(5))
  await before.revoke('volume c1.data', 'c1', 6)
  const after = await openFence({ store, now: () => clock.ms })
  t.strictSame(after.records(), before.records())
  await t.rejects(after.grant('domain c1.n1', claim(4)), { code: 'STALE_COUNTER' })
  await t.rejects(after.grant('volume c1.data', claim(9)), { code: 'RESOURCE_HELD' })
  await after.gone('volume c1.data', 6)
  clock.ms = END + END_GUARD_MS
  await after.tick()
  t.match(after.get('domain c1.n1'), { state: 'revoking' })
  t.equal(after.get('volume c1.data'), undefined, 'long gone and forgotten')
  const last = await openFence({ store, now: () => clock.ms })
  await t.rejects(last.grant('volume c1.data', claim(5)), { code: 'STALE_COUNTER' }, 'and nothing older gets in by that')
})

t.test('nothing is granted before it is on the disk, and after a failure the disk is right', async t => {
  const store = createMemoryStore()
  const fence = await openFence({ store, now: () => T0 })
  await fence.grant('domain c1.n1', claim(5))
  const write = store.batch.bind(store)
  store.batch = () => Promise.reject(new MusubiError('STORE_WRITE_FAILED', 'no space left'))
  await t.rejects(fence.grant('domain c1.n2', claim(6)), { code: 'STORE_WRITE_FAILED' })
  await t.rejects(fence.revoke('domain c1.n1', 'c1', 7), { code: 'STORE_WRITE_FAILED' })
  store.batch = write
  await fence.grant('domain c1.n1', claim(6))
  t.strictSame(fence.records().map(record => [record.resource, record.counter, record.state]), [['domain c1.n1', 6, 'granted']])
})

interface Bench { reconciler: Reconciler, fence: Fence, objects: FakeStore, calls: string[], desired: DesiredObject[], tenancy: { counter: number, clusters: Map<string, { clusterId: string, endMs: number }> }, store: Store, clock: { ms: number }, on: { apply: (name: string) => void } }
async function bench (t: Test): Promise<Bench> {
  const objects = createMemoryFakeStore()
  const store = createMemoryStore()
  const clock = { ms: T0 }
  const calls: string[] = []
  const desired: DesiredObject[] = []
  const on: Bench['on'] = { apply: () => undefined }
  const tenancy = { counter: 1, clusters: new Map([['c1', { clusterId: 'c1', endMs: END }]]) }
  const fence = await openFence({ store, now: () => clock.ms })
  const drivers = Object.fromEntries(KIND_ORDER.map(kind => [kind, createFakeDriver(kind, {
    store: objects, latencyMs: 0,
    onCall: (verb, name) => {
      if (verb === 'apply') on.apply(name)
      if (verb !== 'observe') calls.push(`${verb} ${kind} ${name}`)
    }
  })])) as DriverSet
  const reconciler = createReconciler({
    drivers, desired: () => [...desired], log: pino({ level: 'silent' }), monotonic: () => clock.ms,
    fence: { fence, tenancy: (): Tenancy => ({ counter: tenancy.counter, clusters: new Map(tenancy.clusters) }) }
  })
  t.teardown(() => reconciler.stop())
  return { reconciler, fence, objects, calls, desired, tenancy, store, clock, on }
}
const want = (kind: ObjectKind, name: string, value = 1): DesiredObject => ({ kind, name, spec: { value } as never })
const standing = async ({ objects }: Bench): Promise<string[]> => (await Promise.all(KIND_ORDER.map(async kind => (await objects.list(kind)).map(one => `${kind} ${one.name}`)))).flat()

t.test('every action carries the counter at which it was decided', async t => {
  const b = await bench(t)
  b.desired.push(want('tunnel', 'wg'), want('domain', 'c1.n1'))
  b.tenancy.counter = 5
  await b.reconciler.pass()
  t.strictSame(b.fence.records(), [{ resource: 'domain c1.n1', state: 'granted', clusterId: 'c1', counter: 5, endMs: END }], 'the tunnel is nobody\'s')
  t.strictSame(b.calls, ['apply tunnel wg', 'apply domain c1.n1'])
  b.desired.length = 0
  b.tenancy.counter = 6
  b.tenancy.clusters.clear()
  await b.reconciler.pass()
  t.match(b.fence.get('domain c1.n1'), { state: 'gone', clusterId: 'c1', counter: 6 })
  t.strictSame(await standing(b), [])
})

t.test('a command from before the end of its lease starts nothing', async t => {
  const b = await bench(t)
  b.desired.push(want('volume', 'c1.data'), want('domain', 'c1.n1'))
  b.tenancy.counter = 5
  await b.fence.grant('domain c1.n1', claim(5))
  // the lease ends after the pass has decided, and before its turn comes
  b.on.apply = name => { if (name === 'c1.data') void b.fence.revoke('domain c1.n1', 'c1', 6) }
  await b.reconciler.pass()
  t.strictSame(await standing(b), ['volume c1.data'])
  t.strictSame(b.calls, ['apply volume c1.data'], 'the engine has not even been asked')
  t.match(b.reconciler.states().find(o => o.kind === 'domain'), { state: 'pending' }, 'no failure: it is decided anew')
})

t.test('a revocation between the grant and its action comes in time', async t => {
  const b = await bench(t)
  b.desired.push(want('domain', 'c1.n1'))
  b.tenancy.counter = 5
  const grant = b.fence.grant.bind(b.fence)
  b.fence.grant = async (resource, one) => {
    await grant(resource, one)
    void b.fence.revoke(resource, one.clusterId, 6)
  }
  await b.reconciler.pass()
  t.strictSame([b.calls, await standing(b)], [[], []], 'the engine has not been asked')
  t.match(b.reconciler.states(), [{ kind: 'domain', state: 'pending' }])
})

t.test('objects are handed to another cluster only when they are gone', async t => {
  const b = await bench(t)
  b.desired.push(want('domain', 'c1.n1'))
  await b.reconciler.pass()
  b.tenancy.counter = 9
  b.tenancy.clusters.set('c1', { clusterId: 'c1-again', endMs: END })
  b.desired[0] = want('domain', 'c1.n1', 2)
  await b.reconciler.pass()
  t.strictSame(b.calls, ['apply domain c1.n1'], 'it still runs for the first one')
  await b.fence.revoke('domain c1.n1', 'c1', 10)
  b.tenancy.counter = 11
  b.clock.ms += 60_000
  await b.reconciler.pass()
  b.clock.ms += 60_000
  await b.reconciler.pass()
  t.strictSame(b.calls, ['apply domain c1.n1', 'remove domain c1.n1', 'apply domain c1.n1'])
  t.match(b.fence.get('domain c1.n1'), { state: 'granted', clusterId: 'c1-again' })
})

t.test('what has ended goes although it is still asked for', async t => {
  const b = await bench(t)
  b.desired.push(want('domain', 'c1.n1'))
  await b.reconciler.pass()
  b.clock.ms = END + END_GUARD_MS - 1
  await b.reconciler.pass()
  t.strictSame(await standing(b), ['domain c1.n1'])
  b.clock.ms += 1
  await b.reconciler.pass()
  b.clock.ms += 60_000
  await b.reconciler.pass()
  t.strictSame(await standing(b), [])
  b.tenancy.counter++
  b.clock.ms += 60_000
  await b.reconciler.pass()
  t.strictSame(await standing(b), [], 'and does not come back, whatever else the ledger does')
})

t.test('what was extended stays, also what nobody can read at the moment', async t => {
  const b = await bench(t)
  b.desired.push(want('domain', 'c1.n1'))
  await b.reconciler.pass()
  b.tenancy.counter = 2
  b.tenancy.clusters.set('c1', { clusterId: 'c1', endMs: END + END_GUARD_MS + 5 })
  await b.reconciler.pass()
  b.clock.ms = END + END_GUARD_MS
  await b.reconciler.pass()
  t.match(b.fence.get('domain c1.n1'), { state: 'granted', endMs: END + END_GUARD_MS + 5 })
  t.strictSame(b.calls, ['apply domain c1.n1'])
})

t.test('what an earlier release has left running is known from the first pass on', async t => {
  const b = await bench(t)
  b.desired.push(want('domain', 'c1.n1'))
  await b.reconciler.pass()
  const again = await openFence({ store: createMemoryStore(), now: () => T0 })
  const reconciler = createReconciler({
    drivers: { domain: createFakeDriver('domain', { store: b.objects }) }, desired: () => b.desired, log: pino({ level: 'silent' }),
    fence: { fence: again, tenancy: () => b.tenancy }
  })
  t.teardown(() => reconciler.stop())
  await reconciler.pass()
  t.match(again.get('domain c1.n1'), { state: 'granted', clusterId: 'c1' })
})

t.test('a disk that takes no writes starts nothing and stops what must go', async t => {
  const b = await bench(t)
  b.desired.push(want('domain', 'c1.n1'))
  await b.reconciler.pass()
  b.store.batch = () => Promise.reject(new MusubiError('STORE_WRITE_FAILED', 'no space left'))
  b.desired.splice(0, 1, want('domain', 'c1.n2'))
  await b.reconciler.pass()
  t.strictSame(await standing(b), [])
  t.match(b.reconciler.states().find(o => o.name === 'c1.n2'), { state: 'failed', error: /no space left/ })
})
