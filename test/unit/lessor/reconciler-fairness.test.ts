/** One cluster's trouble must not become another's: contradictions, failures, hangs. */
import t, { type Test } from 'tap'
import { pino } from 'pino'
import type { Driver } from '../../../agent/drivers/driver.ts'
import { createFakeDriver, createMemoryFakeStore, type FakeStore } from '../../../agent/drivers/fake.ts'
import { createReconciler, type DriverSet, type Reconciler, type ReconcilerOptions } from '../../../agent/reconcile/reconciler.ts'
import { type DesiredObject, type ObjectKind, KIND_ORDER } from '../../../protocol/core/desired.ts'
import { eventually } from '../../model/federation.ts'

type Verb = 'observe' | 'apply' | 'remove'
interface Bench {
  reconciler: Reconciler
  store: FakeStore
  calls: string[]
  desired: DesiredObject[]
  clock: { ms: number }
  /** throws or waits, to fail or hang a call: `apply volume c1.data` */
  before: { call: (what: string) => void | Promise<void> }
}

function bench (t: Test, options: Partial<ReconcilerOptions> = {}): Bench {
  const parts: Omit<Bench, 'reconciler'> = { store: createMemoryFakeStore(), calls: [], desired: [], clock: { ms: 0 }, before: { call: () => undefined } }
  const begin = async (verb: Verb, kind: ObjectKind, name: string): Promise<void> => {
    parts.calls.push(`${verb} ${kind} ${name}`)
    await parts.before.call(`${verb} ${kind} ${name}`)
  }
  const driverFor = (kind: ObjectKind): Driver => {
    const driver: Driver = createFakeDriver<ObjectKind>(kind, { store: parts.store })
    return {
      ...driver,
      async apply (name, spec, signal) { await begin('apply', kind, name); await driver.apply(name, spec, signal) },
      async remove (name, signal) { await begin('remove', kind, name); await driver.remove(name, signal) }
    }
  }
  const drivers = Object.fromEntries(KIND_ORDER.map(kind => [kind, driverFor(kind)])) as DriverSet
  const reconciler = createReconciler({ drivers, desired: () => [...parts.desired], log: pino({ level: 'silent' }), monotonic: () => parts.clock.ms, ...options })
  t.teardown(() => reconciler.stop())
  return { ...parts, reconciler }
}

const want = (kind: ObjectKind, name: string, value = 1): DesiredObject => ({ kind, name, spec: { value } as never })
const stateOf = ({ reconciler }: Bench, name: string): string => reconciler.states().filter(s => s.name === name).map(s => `${s.state} ${s.error}`.trim()).join()
const count = ({ calls }: Bench, what: string): number => calls.filter(call => call === what).length

t.test('a cluster that contradicts itself is left as it is and shown; the others go on', async t => {
  const b = bench(t)
  b.desired.push(want('volume', 'c1.data'), want('segment', 'c1.segment'), want('volume', 'c2.data'))
  await b.reconciler.pass()
  b.calls.length = 0
  b.desired.push(want('volume', 'c1.data', 2), want('domain', 'c1.n1'), want('domain', 'c2.n1'))
  b.desired.splice(1, 1)
  await b.reconciler.pass()
  t.same(b.calls, ['apply domain c2.n1'])
  t.match(stateOf(b, 'c1.data'), /failed volume c1.data is desired twice/)
  t.match(stateOf(b, 'c1.segment'), /failed .*desired twice/, 'what it still has is not called gone, though nothing asks for it')
  t.same([stateOf(b, 'c2.data'), stateOf(b, 'c2.n1')], ['ok', 'ok'])
  t.equal(b.reconciler.unseen().size, 0)
  b.desired.splice(0, 1)
  await b.reconciler.pass()
  t.same(b.calls.slice(1), ['remove segment c1.segment', 'apply volume c1.data', 'apply domain c1.n1'])
})

t.test('a cluster whose wishes cannot be told keeps what it has', async t => {
  const held = new Map<string, string>()
  const b = bench(t, { leaveAlone: () => held })
  b.desired.push(want('volume', 'c1.data'), want('volume', 'c2.data'))
  await b.reconciler.pass()
  held.set('c1', 'no secret')
  b.desired.length = 0
  await b.reconciler.pass()
  t.same(b.calls.slice(2), ['remove volume c2.data'])
  t.equal(stateOf(b, 'c1.data'), 'failed no secret')
})

t.test('wishes that cannot be asked for change nothing, and are asked for again', async t => {
  let broken = true
  const b: Bench = bench(t, { desired: () => { if (broken) throw new Error('no wishes'); return b.desired } })
  await b.reconciler.look()
  t.match(b.reconciler.unseen().get('volume'), 'no wishes', 'nothing is concluded from it')
  await b.reconciler.looked()
  broken = false
  b.desired.push(want('volume', 'c1.data'))
  await b.reconciler.pass()
  t.equal(stateOf(b, 'c1.data'), 'ok')
})

t.test('each failure doubles the pause, up to a minute; another spec or a success begins anew', async t => {
  const b = bench(t)
  let broken = true
  b.before.call = what => { if (broken && what === 'apply volume c1.data') throw new Error('no disk') }
  b.desired.push(want('volume', 'c1.data'))
  const pauses: number[] = []
  await b.reconciler.pass()
  for (let tries = 1; tries < 9; tries++) {
    const since = b.clock.ms
    while (count(b, 'apply volume c1.data') === tries) { b.clock.ms += 500; await b.reconciler.pass() }
    pauses.push(b.clock.ms - since)
  }
  t.same(pauses, [1, 2, 4, 8, 16, 32, 60, 60].map(s => s * 1_000))
  b.desired[0] = want('volume', 'c1.data', 2)
  await b.reconciler.pass()
  t.equal(count(b, 'apply volume c1.data'), 10, 'another spec is tried at once')
  broken = false
  b.clock.ms += 1_000
  await b.reconciler.pass()
  t.equal(stateOf(b, 'c1.data'), 'ok')
  broken = true
  await b.store.delete('volume', 'c1.data')
  await b.reconciler.pass()
  b.clock.ms += 1_000
  await b.reconciler.pass()
  t.equal(count(b, 'apply volume c1.data'), 13, 'after a success the first pause is short again')
})

t.test('what takes long to fail rests as long; removals, which somebody waits for, at most 10 s else', async t => {
  const b = bench(t)
  b.before.call = what => {
    if (what === 'apply volume c1.data') b.clock.ms += 45_000
    throw new Error('no disk')
  }
  b.desired.push(want('volume', 'c1.data'))
  await b.reconciler.pass()
  b.clock.ms += 44_000
  await b.reconciler.pass()
  t.equal(count(b, 'apply volume c1.data'), 1)
  b.clock.ms += 1_000
  await b.reconciler.pass()
  t.equal(count(b, 'apply volume c1.data'), 2)
  b.desired.length = 0
  await b.store.put('volume', { name: 'c2.data', fingerprint: 'x', healthy: true, spec: {} })
  for (let i = 0; i < 8; i++) { await b.reconciler.pass(); b.clock.ms += 10_000 }
  t.equal(count(b, 'remove volume c2.data'), 8)
})

t.test('what is made without an error and never works is made less and less often', async t => {
  const b = bench(t)
  const put = b.store.put.bind(b.store)
  b.store.put = (kind, object) => put(kind, { ...object, healthy: false })
  b.desired.push(want('volume', 'c1.data'))
  for (let i = 0; i < 10; i++) await b.reconciler.pass()
  t.equal(b.calls.length, 3)
  b.clock.ms += 1_000
  await b.reconciler.pass()
  t.equal(b.calls.length, 4)
})

t.test('a removal that somebody waits for does not wait behind what other clusters want made', async t => {
  const b = bench(t)
  b.desired.push(want('volume', 'old.data'))
  await b.reconciler.pass()
  b.calls.length = 0
  const { promise: go, resolve: finish } = Promise.withResolvers<undefined>()
  b.before.call = async what => { if (what === 'apply volume new.data1') await go }
  b.desired.splice(0, 1, ...Array.from({ length: 9 }, (_, i) => want('volume', `new.data${i}`)), want('domain', 'new.n1'), want('volume', 'old.data'))
  const first = b.reconciler.pass()
  await eventually('the slow one has begun', () => b.calls.includes('apply volume new.data1'))
  await eventually('others of its kind do not wait for it', () => b.calls.length === 9)
  b.desired.pop()
  const look = b.reconciler.look()
  finish(undefined)
  await look
  await first
  t.ok(b.calls.indexOf('remove volume old.data') < b.calls.indexOf('apply domain new.n1'), b.calls.join(', '))
  t.ok(b.reconciler.states().every(s => s.state === 'ok'))
})

t.test('a look ends when all has been looked at, before what is slow is done', async t => {
  const b = bench(t)
  const { promise: go, resolve: finish } = Promise.withResolvers<undefined>()
  b.before.call = () => go
  b.desired.push(want('volume', 'c1.data'))
  await b.store.put('domain', { name: 'c2.n1', fingerprint: 'x', healthy: true, spec: {} })
  await b.reconciler.look()
  await b.reconciler.looked()
  t.same(b.reconciler.states().map(s => [s.name, s.state]).sort(), [['c1.data', 'pending'], ['c2.n1', 'removing']], 'what waits for its turn is shown')
  finish(undefined)
  await b.reconciler.pass()
  t.same(b.reconciler.states().map(s => [s.name, s.state]), [['c1.data', 'ok']])
})

t.test('who waits for a look is told when there is none any more', async t => {
  const b = bench(t)
  const { promise: go, resolve: finish } = Promise.withResolvers<undefined>()
  b.before.call = () => go
  b.desired.push(want('volume', 'c1.data'))
  await b.reconciler.look()
  const late = b.reconciler.look()
  const stopped = b.reconciler.stop()
  finish(undefined)
  await t.rejects(late, { code: 'STOPPING' })
  await stopped
  await t.rejects(b.reconciler.look(), { code: 'STOPPING' })
})
