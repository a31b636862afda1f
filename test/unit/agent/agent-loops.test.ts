/** What runs by itself on a host must not wait for what hangs there, and must not call gone what nobody has seen. */
import t, { type Test } from 'tap'
import { createMemoryStore } from '../../../store/memory.ts'
import { openLedger } from '../../../store/ledger.ts'
import { eventually, host, startFederation, wanted, type FederationModel } from '../../model/federation.ts'
import { holdRequest } from '../../model/fixtures.ts'

const MINUTE = 60_000
const PLANS = [host('tokyo', 1, 'gateway compute storage', 12)]

async function federation (t: Test): Promise<FederationModel> {
  const model = await startFederation(PLANS)
  t.teardown(() => model.stop())
  return model
}

/** Makes a cluster and waits until all of it runs. @returns its id */
async function made (model: FederationModel, name: string, more: Parameters<typeof wanted>[2] = {}): Promise<string> {
  const before = (await model.objects()).length
  const { id } = await model.master('tokyo-1').create(wanted(name, 2, { memoryMiB: 512, ...more }))
  await eventually(`${name} runs`, async () => model.master('tokyo-1').get(id).state === 'building' && (await model.objects()).length >= before + 4)
  return id
}
const objectsOf = async (model: FederationModel, id: string): Promise<string[]> => (await model.objects()).filter(o => o.includes(` ${id.slice(0, 8)}.`))

t.test('leases end in time while the removal of another cluster hangs', async t => {
  const model = await federation(t)
  const first = await made(model, 'first', { term: '10m' })
  const second = await made(model, 'second', { term: '20m' })
  model.fate = ({ method }) => method === 'release' || method === 'hostRelease' ? 'lose request' : 'deliver'
  const { promise: go, resolve: finish } = Promise.withResolvers<undefined>()
  const { objects } = model.machine('tokyo-1')
  const remove = objects.delete.bind(objects)
  objects.delete = async (kind, name) => { if (name.startsWith(first.slice(0, 8))) await go; await remove(kind, name) }
  const { lessor, ledger } = model.alive('tokyo-1')
  model.clockMs += 11 * MINUTE
  await lessor.tick()
  t.equal(ledger.clusterState(first), 'ended')
  await eventually('the removal that hangs', async () => (await objectsOf(model, first)).length > 0)
  const vacating = lessor.vacate()
  model.clockMs += 10 * MINUTE
  await lessor.tick()
  t.equal(ledger.clusterState(second), 'ended')
  t.ok(ledger.documents.get(first), 'it is not gone yet')
  finish(undefined)
  await vacating
  await eventually('both are gone', async () => { await lessor.vacate(); return ledger.documents.list().length === 0 })
})

t.test('what ends is removed at once, without anybody asking for it', async t => {
  const model = await federation(t)
  const id = await made(model, 'demo', { term: '10m' })
  model.fate = ({ method }) => method === 'release' || method === 'hostRelease' ? 'lose request' : 'deliver'
  const passes: string[] = []
  const life = model.alive('tokyo-1')
  const { reconciler } = life
  life.reconciler = { ...reconciler, trigger () { passes.push('trigger'); reconciler.trigger() } }
  model.clockMs += 11 * MINUTE
  await life.lessor.tick()
  t.same(passes, ['trigger'])
  await eventually('its objects are gone', async () => (await objectsOf(model, id)).every(o => !o.startsWith('tokyo-1 ')))
})

t.test('one look serves all clusters that are over', async t => {
  const model = await federation(t)
  const ids = [await made(model, 'one', { term: '10m' }), await made(model, 'two', { term: '10m' }), await made(model, 'three', { term: '10m' })]
  model.fate = ({ method }) => method === 'release' || method === 'hostRelease' ? 'lose request' : 'deliver'
  const life = model.alive('tokyo-1')
  model.clockMs += 11 * MINUTE
  await life.lessor.tick()
  await eventually('all is removed', async () => (await model.objects()).every(o => !o.startsWith('tokyo-1 ')))
  let looks = 0
  const { reconciler } = life
  life.reconciler = { ...reconciler, look () { looks++; return reconciler.look() } }
  await life.lessor.vacate()
  t.equal(looks, 1)
  for (const id of ids) t.equal(life.ledger.documents.get(id), undefined)
  await life.lessor.vacate()
  t.equal(looks, 1, 'nothing is looked for when nothing is over')
})

t.test('nobody is told that nothing runs before somebody has looked', async t => {
  const model = await federation(t)
  const id = await made(model, 'demo')
  const life = model.alive('tokyo-1')
  const { promise: looked, resolve: nowLooked } = Promise.withResolvers<undefined>()
  const { reconciler } = life
  life.reconciler = { ...reconciler, looked: () => looked }
  let answered = false
  const status = life.lessor.status(id).then(s => { answered = true; return s })
  await new Promise(resolve => { setImmediate(resolve) })
  t.equal(answered, false)
  nowLooked(undefined)
  t.ok((await status).objects.length > 0)
})

t.test('what a host cannot see is a failed object of its status', async t => {
  const model = await federation(t)
  const id = await made(model, 'demo')
  const life = model.alive('tokyo-1')
  life.reconciler = { ...life.reconciler, states: () => [], unseen: () => new Map([['domain', 'libvirtd is down'], ['cache', 'not of this cluster']]) }
  t.match((await life.lessor.status(id)).objects, [{ kind: 'domain', state: 'failed', error: /cannot be seen: libvirtd is down/ }])
})

t.test('an ended cluster whose document is kept is not gone, whatever has been seen', async t => {
  const model = await federation(t)
  const id = await made(model, 'demo')
  const life = model.alive('tokyo-1')
  await life.ledger.release(id, 'test')
  const { reconciler } = life
  life.reconciler = { ...reconciler, states: () => [], unseen: () => new Map() }
  t.match((await life.lessor.status(id)).objects, [{ kind: 'cluster', state: 'removing' }])
  life.reconciler = reconciler
  await eventually('it is gone', async () => { await life.lessor.vacate(); return life.ledger.documents.get(id) === undefined })
  t.same((await life.lessor.status(id)).objects, [])
})

t.test('a document that cannot be read keeps only its own cluster back, and nothing of it is removed', async t => {
  const model = await federation(t)
  const broken = await made(model, 'broken', { volumes: [{ name: 'data', sizeMiB: 64, node: 1 }] })
  const fine = await made(model, 'fine')
  const { lessor, ledger, reconciler } = model.alive('tokyo-1')
  const kept = ledger.documents.get(broken)
  if (kept === undefined) throw new Error('no document')
  const before = await objectsOf(model, broken)
  await ledger.documents.put(broken, { ...kept, secrets: [] })
  t.same([...new Set(lessor.desired().map(o => o.name.split('.')[0]))], [fine.slice(0, 8)])
  t.match(lessor.undecided().get(broken.slice(0, 8)), /no secret for volume data/)
  await model.machine('tokyo-1').objects.delete('segment', `${fine.slice(0, 8)}.segment`)
  await reconciler.pass()
  t.same(await objectsOf(model, broken), before)
  t.ok((await objectsOf(model, fine)).includes(`tokyo-1 segment ${fine.slice(0, 8)}.segment`), 'the other is mended')
  t.match((await lessor.status(broken)).objects.map(o => o.state), ['failed'])
  await lessor.vacate()
  await ledger.documents.put(broken, kept)
  await reconciler.pass()
  t.same(lessor.undecided(), new Map())
  t.ok((await lessor.status(broken)).objects.every(o => o.state === 'ok'))
})

t.test('whoever depends on the ledger is told when it has failed, early or late', async t => {
  const store = createMemoryStore()
  const ledger = await openLedger({ store, now: () => 1, host: 'a1', capacity: { vcpus: 4, memoryMib: 4096, diskMib: 0, volumes: 0, bandwidthMbit: 0 } })
  const told: string[] = []
  ledger.onFailure(e => { told.push(e.code) })
  store.batch = () => Promise.reject(new Error('no space left'))
  await t.rejects(ledger.hold(holdRequest({ startMs: 1, endMs: 3_600_001 })), { code: 'LEDGER_FAILED' })
  await t.rejects(ledger.tick(), { code: 'LEDGER_FAILED' })
  t.same(told, ['LEDGER_FAILED'], 'once')
  ledger.onFailure(e => { told.push(`late ${e.code}`) })
  t.same(told, ['LEDGER_FAILED', 'late LEDGER_FAILED'])
})
