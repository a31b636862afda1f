import t, { type Test } from 'tap'
import type { Gateway } from '../../../agent/gateway/gateway.ts'
import type { Caller } from '../../../agent/peers.ts'
import type { Offer, ReleaseRequest, Request } from '../../../protocol/core/messages.ts'
import { eventually, host, startFederation, type FederationModel } from '../../model/federation.ts'

const HOUR = 3_600_000
const C1 = 'c1000000-0000-4000-8000-000000000000'
const C2 = 'c2000000-0000-4000-8000-000000000000'
const PLANS = [host('tokyo', 1, 'gateway', 1), host('tokyo', 2, 'compute storage', 2), host('tokyo', 3, 'compute', 2), host('tsukuba', 1, 'gateway', 1)]
const MASTER: Caller = { peerId: 'peer-tsukuba-1', site: 'tsukuba', host: 'tsukuba-1', gateway: true }
const OTHER: Caller = { ...MASTER, peerId: 'peer-osaka-1', site: 'osaka', host: 'osaka-1' }

const committing = (offerId: string, clusterId = C1): { clusterId: string, offerId: string, key: string, epoch: number } => ({ clusterId, offerId, key: 'x', epoch: 1 })
const releasing = (clusterId = C1, reason = 'test'): ReleaseRequest => ({ clusterId, reason, offerId: '', leaseIds: [], epoch: 1 })
const sweep = async (gateway: Gateway): Promise<void> => { await gateway.tick(); await gateway.swept() }

interface Bench { model: FederationModel, gateway: Gateway, request: (part?: Partial<Request>) => Request }

async function bench (t: Test): Promise<Bench> {
  const model = await startFederation(PLANS)
  t.teardown(() => model.stop())
  const { gateway } = model.alive('tokyo-1')
  if (gateway === null) throw new Error('tokyo-1 is no gateway')
  const node = (i: number): Request['nodes'][number] => ({ name: `demo-tokyo-00${i}`, vcpus: 1, memoryMib: 512 })
  return {
    model, gateway,
    request: part => ({
      key: 'k1', clusterId: C1, cluster: 'demo', vni: 7, masterSite: 'tsukuba', startMs: model.clockMs, endMs: model.clockMs + HOUR,
      nodes: [node(1), node(2), node(3), node(4)], volumes: [{ name: 'data', sizeMib: 64, node: 'demo-tokyo-001' }], frontend: false, holdTtlMs: 30_000,
      bandwidthMbit: 0, epoch: 1, sentMs: model.clockMs, grow: false, ...part
    })
  }
}

const holds = (offer: Offer): string[] => offer.held.map(h => `${h.host} ${h.kind} ${h.name}`).sort()

t.test('an offer is held on every host before it is given, with the gateway for the segment', async t => {
  const { model, gateway, request } = await bench(t)
  const offer = await gateway.request(request(), MASTER)
  t.same(holds(offer), [
    'tokyo-1 segment segment', 'tokyo-2 node demo-tokyo-001', 'tokyo-2 node demo-tokyo-002', 'tokyo-2 volume data', 'tokyo-3 node demo-tokyo-003', 'tokyo-3 node demo-tokyo-004'
  ])
  t.same(model.leases().sort(), holds(offer).map(h => `${h} held`))
  t.ok(offer.held.every(h => h.token > 0), 'every part has the token of its host')
  t.equal(offer.segmentId, 1000)
})

t.test('one host that refuses: the others let go, and another placement is tried', async t => {
  const { model, gateway, request } = await bench(t)
  model.belief.set('tokyo-2', { vcpus: 8, memoryMib: 8192, diskMib: 500, volumes: 8, bandwidthMbit: 0 })
  const offer = await gateway.request(request({ volumes: [], nodes: request().nodes.slice(0, 2).map(n => ({ ...n, memoryMib: 2000 })) }), MASTER).catch((error: unknown) => error)
  t.match(offer, { code: 'NO_CAPACITY', message: /site tokyo: .*tokyo-2: host tokyo-2: needs 4000 MiB memory, 2048 free/s })
  t.same(model.leases(), [], 'nobody holds anything')
  model.belief.clear()
  t.same(holds(await gateway.request(request({ volumes: [], nodes: request().nodes.slice(0, 2).map(n => ({ ...n, memoryMib: 2000 })), key: 'k2' }), MASTER)),
    ['tokyo-1 segment segment', 'tokyo-2 node demo-tokyo-001', 'tokyo-3 node demo-tokyo-002'])
})

t.test('a host that does not answer is left out of the next placement', async t => {
  const { model, gateway, request } = await bench(t)
  model.fate = ({ to, method }) => to === 'tokyo-2' && method === 'hold' ? 'lose reply' : 'deliver'
  const offer = await gateway.request(request({ volumes: [], nodes: request().nodes.slice(0, 2) }), MASTER)
  t.same(holds(offer), ['tokyo-1 segment segment', 'tokyo-3 node demo-tokyo-001', 'tokyo-3 node demo-tokyo-002'])
  t.notOk(model.leases().some(l => l.startsWith('tokyo-2')), 'and told to let go')
})

t.test('what is nonsense is refused before anybody is asked', async t => {
  const { model, gateway, request } = await bench(t)
  const refused = async (part: Partial<Request>, why: RegExp): Promise<void> => { await t.rejects(gateway.request(request(part), MASTER), { code: 'INVALID_INPUT', message: why }) }
  await refused({ nodes: [], volumes: [] }, /asks for nothing/)
  await refused({ endMs: model.clockMs + 1 }, /below/)
  await refused({ endMs: model.clockMs + 400 * 24 * HOUR }, /above/)
  await refused({ startMs: model.clockMs - 3 * HOUR, endMs: model.clockMs - HOUR }, /past/)
  t.same(model.calls, [])
})

t.test('the same question gets the same answer, at every step', async t => {
  const { model, gateway, request } = await bench(t)
  const offer = await gateway.request(request(), MASTER)
  const calls = model.calls.length
  t.same(await gateway.request(request(), MASTER), offer)
  t.equal(model.calls.length, calls, 'no host is asked again')
  const commit = committing(offer.offerId)
  const first = await gateway.commit(commit, MASTER)
  t.same(await gateway.commit(commit, MASTER), first)
  t.equal(first.receipts.length, offer.held.length)
  await t.rejects(gateway.commit({ ...commit, offerId: 'another' }, MASTER), { code: 'CONFLICT' })
  await t.rejects(gateway.request(request({ key: 'k2' }), MASTER), { code: 'CONFLICT', message: /already has leases at site tokyo/ })
  const release = releasing()
  t.equal((await gateway.release(release, MASTER)).ended, offer.held.length)
  t.equal((await gateway.release(release, MASTER)).ended, 0)
  t.same(model.leases(), [])
})

t.test('a request that failed half-way is not an offer when it is repeated', async t => {
  const { model, gateway, request } = await bench(t)
  model.fate = ({ method }) => method === 'hold' ? 'lose request' : 'deliver'
  await t.rejects(gateway.request(request(), MASTER), { code: 'NO_CAPACITY' })
  await t.rejects(gateway.commit(committing('guess'), MASTER), { code: 'NOT_FOUND' })
  model.fate = () => 'deliver'
  const offer = await gateway.request(request(), MASTER)
  t.ok(offer.held.every(h => h.token > 0))
  t.equal(model.leases().length, offer.held.length)
})

t.test('questions that come at the same time are answered once', async t => {
  const { model, gateway, request } = await bench(t)
  const offers = await Promise.all([1, 2, 3].map(() => gateway.request(request(), MASTER)))
  t.same(offers[1], offers[0])
  t.same(offers[2], offers[0])
  t.equal(model.calls.filter(c => c.method === 'hold').length, 3, 'one hold for each host')
})

t.test('another master may neither see nor touch it', async t => {
  const { model, gateway, request } = await bench(t)
  const offer = await gateway.request(request(), MASTER)
  const { clusterId } = request()
  await t.rejects(gateway.request(request({ masterSite: 'osaka' }), OTHER), { code: 'CONFLICT', message: /another master/ })
  await t.rejects(gateway.request(request({ key: 'k2', masterSite: 'osaka' }), OTHER), { code: 'CONFLICT', message: /another master/ })
  await t.rejects(gateway.commit(committing(offer.offerId), OTHER), { code: 'CONFLICT' })
  await t.rejects(gateway.release(releasing(clusterId, 'mine now'), OTHER), { code: 'CONFLICT' })
  await t.rejects(gateway.status({ clusterId }, OTHER), { code: 'CONFLICT' })
  t.equal(model.leases().length, offer.held.length, 'everything is still held')
})

t.test('a master that asks anew gives up what it held before', async t => {
  const { model, gateway, request } = await bench(t)
  await gateway.request(request(), MASTER)
  const offer = await gateway.request(request({ key: 'k2', nodes: request().nodes.slice(0, 1) }), MASTER)
  t.same(model.leases().sort(), holds(offer).map(h => `${h} held`))
})

t.test('offers that nobody commits are forgotten once the holds have ended', async t => {
  const { model, gateway, request } = await bench(t)
  await gateway.request(request(), MASTER)
  const kept = async (): Promise<number> => (await Array.fromAsync(model.machine('tokyo-1').disk.iterate('offer/'))).length
  await model.pass(1_000)
  t.equal(await kept(), 1)
  model.crash('tokyo-3')
  await model.pass(31_000)
  t.equal(await kept(), 1, 'a host that is away may still hold it')
  await model.start('tokyo-3')
  await model.pass(0)
  t.equal(await kept(), 0)
})

t.test('a release that a host did not confirm is repeated, and does not keep others waiting', async t => {
  const { model, gateway, request } = await bench(t)
  const one = await gateway.request(request({ nodes: request().nodes.slice(0, 2) }), MASTER)
  t.ok(one.held.some(h => h.host === 'tokyo-2'))
  const other = request({ clusterId: C2, cluster: 'other', key: 'k2', nodes: request().nodes.slice(2), volumes: [] })
  const two = await gateway.request(other, MASTER)
  t.same([...new Set(two.held.map(h => h.host))].sort(), ['tokyo-1', 'tokyo-3'])
  model.crash('tokyo-2')
  await t.rejects(gateway.release(releasing(), MASTER), { code: 'UNREACHABLE', message: /tokyo-2/ })
  model.fate = ({ to, method }) => to === 'tokyo-3' && method === 'hostRelease' ? 'lose request' : 'deliver'
  await t.rejects(gateway.release(releasing(C2), MASTER), { code: 'UNREACHABLE', message: /tokyo-3/ })
  await t.rejects(gateway.commit(committing(two.offerId, C2), MASTER), { code: 'CONFLICT', message: /being released/ })
  model.fate = () => 'deliver'
  await sweep(gateway)
  t.notOk(model.leases().some(l => l.startsWith('tokyo-3')), 'the second, behind the first which still waits')
  await model.start('tokyo-2')
  await sweep(gateway)
  t.same(model.leases(), [])
})

t.test('a sweep that comes late does not end what was asked anew meanwhile', async t => {
  const { model, gateway, request } = await bench(t)
  await gateway.request(request(), MASTER)
  model.fate = ({ method }) => method === 'hostRelease' ? 'lose request' : 'deliver'
  await t.rejects(gateway.release(releasing(), MASTER))
  model.fate = () => 'deliver'
  // The master's new request is in front of the sweep, which has already seen the old record.
  const asked = gateway.request(request({ key: 'k2' }), MASTER)
  const swept = sweep(gateway)
  const offer = await asked
  await swept
  t.same(model.leases().sort(), holds(offer).map(h => `${h} held`))
  t.equal((await gateway.commit(committing(offer.offerId), MASTER)).receipts.length, offer.held.length)
})

t.test('a gateway that was killed still knows its offers', async t => {
  const { model, gateway, request } = await bench(t)
  const offer = await gateway.request(request(), MASTER)
  model.crash('tokyo-1')
  const again = (await model.start('tokyo-1')).gateway
  t.same(await again?.request(request(), MASTER), offer)
  t.equal((await again?.commit(committing(offer.offerId), MASTER))?.receipts.length, offer.held.length)
})

t.test('what a host cannot see is not called gone, and its share stays taken', async t => {
  const { model } = await bench(t)
  const master = model.master('tsukuba-1')
  const spec = { apiVersion: 'musubi/v1', kind: 'Cluster', metadata: { name: 'demo' }, spec: { nodes: { count: 2, memoryMiB: 512 } } }
  const { id } = await master.create(spec)
  await eventually('the nodes', async () => (await model.objects()).filter(o => o.includes(' domain ')).length === 2)
  await eventually('the cluster', () => master.get(id).state === 'building')
  const machine = model.machine('tokyo-2')
  machine.onDriver = (kind, verb) => { if (kind === 'domain' && verb === 'observe') throw new Error('libvirtd is down') }
  await master.remove(id)
  await model.pass(1_000)
  t.equal(master.get(id).state, 'deleting')
  t.equal(model.alive('tokyo-2').ledger.free().vcpus, 0)
  machine.onDriver = () => undefined
  await eventually('the end of the nodes', async () => { await model.pass(1_000); return master.get(id).state === 'deleted' })
  t.same((await model.objects()).filter(o => o.includes(' domain ')), [])
  t.equal(model.alive('tokyo-2').ledger.free().vcpus, 2)
})
