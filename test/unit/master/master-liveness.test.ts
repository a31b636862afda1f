/** A master goes on through full disks, absent sites, liars and its own age. */
import t, { type Test } from 'tap'
import { createEventLog } from '../../../agent/events.ts'
import type { Master } from '../../../agent/master/master.ts'
import { createMaster } from '../../../agent/master/master.ts'
import { KEEP_ENDED_MS } from '../../../protocol/core/master/pace.ts'
import type { CallPeer } from '../../../agent/peers.ts'
import { UnreachableError } from '../../../protocol/core/errors.ts'
import { MAX_CLUSTERS, MAX_ENDED_KEPT } from '../../../protocol/core/limits.ts'
import { createMemoryStore } from '../../../store/memory.ts'
import type { Store } from '../../../store/store.ts'
import { eventually, host, silent, startFederation, wanted, type FederationModel } from '../../model/federation.ts'

const PLANS = [host('tokyo', 1, 'gateway compute', 2), host('tsukuba', 1, 'gateway', 1), host('tsukuba', 2, 'compute', 2)]

async function federation (t: Test): Promise<FederationModel> {
  const model = await startFederation(PLANS)
  t.teardown(() => model.stop())
  return model
}
const reached = (model: FederationModel, id: string, state: string): Promise<void> => eventually(`${id} is ${state}`, () => model.master('tokyo-1').get(id).state === state)

/** The disk takes no records of clusters any more. */
function fullDisk (model: FederationModel): { mend: () => void, refused: () => number } {
  const { disk } = model.machine('tokyo-1')
  const batch = disk.batch.bind(disk)
  let refused = 0
  disk.batch = (operations, options) => {
    if (!operations.some(o => o.key.startsWith('cluster/'))) return batch(operations, options)
    refused++
    return Promise.reject(new Error('no space left'))
  }
  return { mend: () => { disk.batch = batch }, refused: () => refused }
}

t.test('a cluster that never had a document is deleted when all holds have ended, however long its term', async t => {
  const model = await federation(t)
  const { promise: go, resolve: finish } = Promise.withResolvers<undefined>()
  let asked = false
  model.fate = async ({ to, method }) => {
    if (to !== 'tsukuba-1' || method === 'status') return 'deliver' as const
    if (method === 'request') { asked = true; await go }
    return 'lose request' as const
  }
  const { id } = await model.master('tokyo-1').create(wanted('demo', 3, { term: '30d' }))
  await eventually('tsukuba is asked', () => asked)
  await model.master('tokyo-1').remove(id)
  finish(undefined)
  await eventually('tokyo has let go', () => model.leases().length === 0)
  t.equal(model.master('tokyo-1').get(id).state, 'deleting', 'tsukuba may still hold something')
  model.clockMs += 136_000
  await reached(model, id, 'deleted')
})

t.test('what ran is waited for, however long the site is away', async t => {
  const model = await federation(t)
  const { id } = await model.master('tokyo-1').create(wanted('demo', 3, { term: '30d' }))
  await reached(model, id, 'building')
  let away = true
  model.fate = ({ to, method }) => away && to === 'tsukuba-1' && method === 'release' ? 'lose request' : 'deliver'
  await model.master('tokyo-1').remove(id)
  model.clockMs += 24 * 3_600_000
  const tries = (): number => model.calls.filter(c => c.to === 'tsukuba-1' && c.method === 'release').length
  await eventually('it has been tried again', () => tries() >= 2)
  t.equal(model.master('tokyo-1').get(id).state, 'deleting')
  away = false
  await reached(model, id, 'deleted')
})

t.test('a request that could not be kept is refused, and its name is free', async t => {
  const model = await federation(t)
  const disk = fullDisk(model)
  await t.rejects(model.master('tokyo-1').create(wanted('demo', 1)), /no space left/)
  t.same(model.master('tokyo-1').list(), [])
  disk.mend()
  const { id } = await model.master('tokyo-1').create(wanted('demo', 1))
  await reached(model, id, 'building')
})

t.test('a disk that is full for a while before the decision: it fails, and nothing is left', async t => {
  const model = await federation(t)
  let disk: ReturnType<typeof fullDisk> | undefined
  model.fate = ({ method }) => { if (method === 'hold') disk ??= fullDisk(model); return 'deliver' }
  const { id } = await model.master('tokyo-1').create(wanted('demo', 3))
  await eventually('the disk is full', () => (disk?.refused() ?? 0) >= 2)
  t.notOk(model.calls.some(c => c.method === 'commit'), 'nobody is told of what is not on the disk')
  disk?.mend()
  await reached(model, id, 'failed')
  t.match(model.master('tokyo-1').get(id).error, { code: 'MASTER_RESTARTED' })
  await model.pass(31_000)
  t.same(model.leases(), [])
  t.same(await model.objects(), [])
})

t.test('a disk that is full for a while after the decision: it goes on where it was', async t => {
  const model = await federation(t)
  let disk: ReturnType<typeof fullDisk> | undefined
  model.fate = ({ method }) => { if (method === 'commit') disk ??= fullDisk(model); return 'deliver' }
  const { id } = await model.master('tokyo-1').create(wanted('demo', 3))
  await eventually('the disk is full', () => (disk?.refused() ?? 0) >= 2)
  t.notOk(model.calls.some(c => c.method === 'activate'))
  disk?.mend()
  await reached(model, id, 'building')
  t.ok(model.leases().every(l => l.endsWith(' active')))
})

t.test('a disk that is full for a while during a deletion: it goes on after', async t => {
  const model = await federation(t)
  const { id } = await model.master('tokyo-1').create(wanted('demo', 3))
  await reached(model, id, 'building')
  let disk = fullDisk(model)
  await t.rejects(model.master('tokyo-1').remove(id), /no space left/)
  t.equal(model.master('tokyo-1').get(id).state, 'building', 'a deletion that was refused has not begun')
  disk.mend()
  await model.master('tokyo-1').remove(id)
  disk = fullDisk(model)
  await eventually('the disk is full', () => disk.refused() >= 2)
  disk.mend()
  await reached(model, id, 'deleted')
  t.same(model.leases(), [])
})

t.test('a site speaks for its own hosts that take part, and not at length', async t => {
  const model = await federation(t)
  const gateway = model.alive('tsukuba-1').gateway
  if (gateway === null) throw new Error('no gateway')
  const of = (site: string, name: string, error: string): object => ({ site, host: name, leaseState: 'active', reachable: true, nowMs: 0, objects: [{ kind: 'domain', name: 'x', state: 'failed', error, detail: '' }] })
  gateway.status = () => Promise.resolve({
    hosts: [of('tokyo', 'tokyo-1', 'forged'), of('tsukuba', 'tokyo-1', 'forged'), of('tsukuba', 'tsukuba-9', 'forged'), of('tsukuba', 'tsukuba-2', 'e'.repeat(10_000)), of('tsukuba', 'tsukuba-2', 'twice')]
  } as never)
  const { id } = await model.master('tokyo-1').create(wanted('demo', 3))
  await reached(model, id, 'building')
  await eventually('its status', () => model.master('tokyo-1').get(id).problems.some(p => p.host === 'tsukuba-2'))
  t.same(model.master('tokyo-1').get(id).problems.map(p => [p.host, p.error.length]), [['tsukuba-2', 200]])
})

/** A master alone, whose calls go as told. */
function alone (t: Test, call: (method: string) => Promise<unknown>): { master: Master, store: Store, clock: { ms: number } } {
  const clock = { ms: 1_800_000_000_000 }
  let ids = 0
  const store = createMemoryStore()
  const master = createMaster({
    site: 'tokyo', peer: 'p', store, events: createEventLog(() => clock.ms), log: silent, now: () => clock.ms, monotonic: () => clock.ms, newId: () => `id${++ids}`,
    sites: () => [{ site: 'tokyo', peer: 'p', gatewayHost: 'tokyo-1', freeByHost: [{ vcpus: 9, memoryMib: 9_000, diskMib: 0, volumes: 0, bandwidthMbit: 0 }], volumeFreeByHost: [] }],
    call: ((_peer: string, method: string) => call(method)) as CallPeer,
    builder: { imageFor: () => Promise.resolve('d'), vniFor: () => 5, prepare: () => Promise.reject(new Error('no document is asked for')), forget: () => Promise.resolve(), keyFile: () => '' },
    probe: () => Promise.resolve(false), truth: { isGatewayOf: () => true, tunnelAddressFor: () => '100.64.0.1' }
  })
  return { master, store, clock }
}

t.test('ended clusters are forgotten: after a day, and the oldest of very many', async t => {
  t.setTimeout(60_000)
  const { master, store, clock } = alone(t, method => method === 'release' ? Promise.resolve({ site: 'tokyo', ended: 0 }) : Promise.reject(new UnreachableError('away')))
  const failed = async (name: string): Promise<void> => {
    const { id } = await master.create(wanted(name, 1))
    clock.ms += 1
    await eventually(name, () => master.get(id).state === 'failed')
  }
  for (let i = 0; i < MAX_ENDED_KEPT + 5; i++) await failed(`c${i}`)
  t.ok(master.list().length <= MAX_ENDED_KEPT + 1, `${master.list().length} kept`)
  t.throws(() => master.get('c0'), { code: 'NOT_FOUND' })
  t.equal(master.get(`c${MAX_ENDED_KEPT}`).state, 'failed')
  t.equal((await Array.fromAsync(store.iterate('cluster/'))).length, master.list().length, 'the disk has no more')
  clock.ms += KEEP_ENDED_MS + 1
  await failed('late')
  t.same(master.list().map(c => c.name), ['late'])
})

t.test('a master takes so many clusters, and no more', async t => {
  const { master } = alone(t, () => new Promise(() => undefined))
  for (let i = 0; i < MAX_CLUSTERS; i++) await master.create(wanted(`c${i}`, 1))
  await t.rejects(master.create(wanted('more', 1)), { code: 'NO_CAPACITY', message: /256 clusters/ })
})
