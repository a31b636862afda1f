import t, { type Test } from 'tap'
import { pino } from 'pino'
import { createFakeDriver, createMemoryFakeStore, type FakeStore } from '../../../agent/drivers/fake.ts'
import { createReconciler, type DriverSet, type ObjectState, type Reconciler } from '../../../agent/reconcile/reconciler.ts'
import { type DesiredObject, type ObjectKind, KIND_ORDER } from '../../../protocol/core/desired.ts'

interface Bench { reconciler: Reconciler, store: FakeStore, calls: string[], told: string[], running: () => number, highest: Map<ObjectKind, number>, fail: Set<string>, desired: DesiredObject[], clock: { ms: number } }

/** Driver calls as `verb kind name`; a name in `fail` (`verb kind name`, or `observe kind`) throws. */
function bench (t: Test, options: { kinds?: readonly ObjectKind[], latencyMs?: number } = {}): Bench {
  const store = createMemoryFakeStore()
  const parts = { calls: [] as string[], told: [] as string[], fail: new Set<string>(), desired: [] as DesiredObject[], highest: new Map<ObjectKind, number>(), clock: { ms: 0 } }
  let running = 0
  const driverFor = <K extends ObjectKind>(kind: K): ReturnType<typeof createFakeDriver<K>> => {
    const driver = createFakeDriver(kind, {
      store, latencyMs: options.latencyMs ?? 0,
      onCall: (verb, name) => {
        const what = verb === 'observe' ? `observe ${kind}` : `${verb} ${kind} ${name}`
        if (verb !== 'observe') parts.calls.push(what)
        if (parts.fail.has(what)) throw new Error(`${what} is made to fail`)
      }
    })
    const counted = async (work: Promise<void>): Promise<void> => {
      running++
      parts.highest.set(kind, Math.max(parts.highest.get(kind) ?? 0, running))
      try { await work } finally { running-- }
    }
    return { ...driver, apply: (name, spec, signal) => counted(driver.apply(name, spec, signal)), remove: (name, signal) => counted(driver.remove(name, signal)) }
  }
  const drivers = Object.fromEntries((options.kinds ?? KIND_ORDER).map(kind => [kind, driverFor(kind)])) as DriverSet
  const reconciler = createReconciler({
    drivers, desired: () => parts.desired, log: pino({ level: 'silent' }), monotonic: () => parts.clock.ms,
    onChange: (o: ObjectState) => { parts.told.push(`${o.kind} ${o.name} ${o.state}${o.error === '' ? '' : `: ${o.error}`}`) }
  })
  t.teardown(() => reconciler.stop())
  return { ...parts, reconciler, store, running: () => running }
}

/** Specs are opaque to the reconciler: any plain data will do. */
const want = (kind: ObjectKind, name: string, value = 1): DesiredObject => ({ kind, name, spec: { value } as never })
const stateOf = ({ reconciler }: Bench, name: string): string => reconciler.states().filter(s => s.name === name).map(s => `${s.kind} ${s.state} ${s.error}`.trim()).join()

t.test('it creates in order, reports, then does nothing more', async t => {
  const b = bench(t)
  b.desired.push(want('domain', 'c1.n1'), want('segment', 'c1.segment'), want('volume', 'c1.data'), want('tunnel', 'wg'))
  t.equal(b.reconciler.unseen().size, KIND_ORDER.length, 'before the first pass nothing is known')
  await b.reconciler.pass()
  t.same(b.calls, ['apply volume c1.data', 'apply tunnel wg', 'apply segment c1.segment', 'apply domain c1.n1'])
  t.same(b.reconciler.states().map(s => s.state), ['ok', 'ok', 'ok', 'ok'])
  t.equal(b.reconciler.unseen().size, 0)
  await b.reconciler.pass()
  t.equal(b.calls.length, 4, 'what is as desired is left alone')
  t.same(b.told.filter(line => line.startsWith('volume')), ['volume c1.data pending', 'volume c1.data ok'])
})

t.test('it looks at levels: whatever happened meanwhile is mended, what nobody wants is removed in reverse order', async t => {
  const b = bench(t)
  b.desired.push(want('segment', 'c1.segment'), want('domain', 'c1.n1'), want('volume', 'c1.data'))
  await b.reconciler.pass()
  b.calls.length = 0
  await b.store.delete('domain', 'c1.n1')
  const [volume] = await b.store.list('volume')
  if (volume !== undefined) await b.store.put('volume', { ...volume, healthy: false })
  b.desired[0] = want('segment', 'c1.segment', 2)
  await b.reconciler.pass()
  t.same(b.calls, ['apply volume c1.data', 'apply segment c1.segment', 'apply domain c1.n1'])
  b.calls.length = 0
  b.desired.length = 0
  await b.reconciler.pass()
  t.same(b.calls, ['remove domain c1.n1', 'remove segment c1.segment', 'remove volume c1.data'])
  t.same(b.reconciler.states(), [])
  await b.store.put('domain', { name: 'foreign.n1', fingerprint: 'x', healthy: true, spec: {} })
  await b.reconciler.pass()
  t.same(await b.store.list('domain'), [], 'an orphan that an earlier process left is removed')
})

t.test('objects of one kind are made side by side, a few at a time, kinds one after the other', async t => {
  const b = bench(t, { latencyMs: 20 })
  for (let i = 0; i < 10; i++) b.desired.push(want('domain', `c1.n${i}`))
  b.desired.push(want('segment', 'c1.segment'), want('volume', 'c1.data'))
  await b.reconciler.pass()
  t.equal(b.highest.get('domain'), 4)
  t.equal(b.highest.get('segment'), 1)
  t.ok(b.reconciler.states().every(s => s.state === 'ok'))
})

t.test('what stands on something that failed waits; its siblings and other clusters do not', async t => {
  const b = bench(t)
  b.fail.add('apply segment c1.segment')
  b.desired.push(want('segment', 'c1.segment'), want('domain', 'c1.n1'), want('segment', 'c2.segment'), want('domain', 'c2.n1'))
  await b.reconciler.pass()
  t.same(b.calls.filter(c => c.includes('domain')), ['apply domain c2.n1'])
  t.match(stateOf(b, 'c1.segment'), /failed .*made to fail/)
  t.equal(stateOf(b, 'c2.n1'), 'domain ok')
  b.fail.clear()
  b.clock.ms += 1_000
  await b.reconciler.pass()
  t.same(['c1.segment', 'c1.n1', 'c2.n1'].map(n => stateOf(b, n)), ['segment ok', 'domain ok', 'domain ok'])

  const many = bench(t)
  many.fail.add('apply domain c1.n0')
  for (let i = 0; i < 9; i++) many.desired.push(want('domain', `c1.n${i}`))
  await many.reconciler.pass()
  t.equal((await many.store.list('domain')).length, 8, 'one node that cannot start keeps none of the others back')
})

t.test('a failed apply is tried again after a moment, not at once, and told once', async t => {
  const b = bench(t)
  b.fail.add('apply volume c1.data')
  b.desired.push(want('volume', 'c1.data'))
  await b.reconciler.pass()
  t.equal(b.calls.length, 1, 'one pass, one try')
  for (let i = 0; i < 5; i++) {
    await b.reconciler.pass()
    t.equal(b.calls.length, i + 1, 'not before its pause is over')
    b.clock.ms += 1_000 * 2 ** i
    await b.reconciler.pass()
    t.equal(b.calls.length, i + 2)
  }
  t.same(b.told, ['volume c1.data pending', 'volume c1.data failed: apply volume c1.data is made to fail'])
  b.fail.clear()
  b.clock.ms += 60_000
  await b.reconciler.pass()
  t.equal(b.told.at(-1), 'volume c1.data ok')
})

t.test('what never becomes healthy does not turn the loop into a busy one', async t => {
  const b = bench(t)
  b.desired.push(want('volume', 'c1.data'))
  const put = b.store.put.bind(b.store)
  b.store.put = (kind, object) => put(kind, { ...object, healthy: false })
  await b.reconciler.pass()
  t.ok(b.calls.length <= 3, `${b.calls.length} tries in a row`)
  t.match(stateOf(b, 'c1.data'), /pending/)
})

t.test('a kind that cannot be seen is left alone, and what was known of it stays known', async t => {
  const b = bench(t)
  b.desired.push(want('domain', 'c1.n1'), want('domain', 'c1.n2'), want('volume', 'c1.data'))
  await b.reconciler.pass()
  b.calls.length = 0
  b.fail.add('observe domain')
  b.desired.splice(1, 1)
  b.desired.push(want('domain', 'c1.n3'))
  await b.reconciler.pass()
  t.same(b.calls, [], 'neither made nor removed blindly')
  t.same([...b.reconciler.unseen().keys()], ['domain'])
  t.same(b.reconciler.states().filter(s => s.kind === 'domain').map(s => [s.name, s.state]).sort(), [['c1.n1', 'failed'], ['c1.n2', 'failed'], ['c1.n3', 'failed']], 'n2 is wanted no more, and may still run')
  b.fail.clear()
  await b.reconciler.pass()
  t.same(b.calls, ['remove domain c1.n2', 'apply domain c1.n3'])
  t.same(b.reconciler.states().map(s => s.state), ['ok', 'ok', 'ok'])
})

t.test('a removal that fails is tried again and shown', async t => {
  const b = bench(t)
  b.desired.push(want('volume', 'c1.data'))
  await b.reconciler.pass()
  b.desired.length = 0
  b.fail.add('remove volume c1.data')
  await b.reconciler.pass()
  t.match(stateOf(b, 'c1.data'), /volume failed .*made to fail/)
  b.fail.clear()
  b.clock.ms += 1_000
  await b.reconciler.pass()
  t.same(b.reconciler.states(), [])
})

t.test('an object without a driver fails by name, the rest goes on', async t => {
  const b = bench(t, { kinds: ['segment'] })
  b.desired.push(want('volume', 'c2.data'), want('segment', 'c1.segment'))
  await b.reconciler.pass()
  t.match(stateOf(b, 'c2.data'), /failed this host has no driver for a volume/)
  t.ok((await b.store.list('segment')).length === 1)
})

t.test('many triggers make few passes; after the stop nothing is done', async t => {
  const b = bench(t)
  let asked = 0
  const reconciler = createReconciler({ drivers: {}, desired: () => { asked++; return [] }, log: pino({ level: 'silent' }) })
  for (let i = 0; i < 100; i++) reconciler.trigger()
  await reconciler.pass()
  t.ok(asked <= 3, `${asked} passes`)
  await reconciler.stop()
  const before = asked
  reconciler.trigger()
  await reconciler.pass()
  t.equal(asked, before)
  t.same(b.calls, [])
})
