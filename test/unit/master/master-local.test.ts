/** The second segment of each site through negotiation: its lease, its id, refusals, growth and end. */
import t, { type Test } from 'tap'
import { MusubiError } from '../../../protocol/core/errors.ts'
import { advance as advanceLedger } from '../../../protocol/core/lease/step.ts'
import { type Answer, emptyLedger, ID_QUARANTINE_MS, type LedgerState } from '../../../protocol/core/lease/lease.ts'
import { zero } from '../../../protocol/core/capacity.ts'
import type { ClusterDocument, HoldItem } from '../../../protocol/core/messages.ts'
import { holdProblem } from '../../../protocol/core/verify/request.ts'
import { eventually, host, startFederation, wanted, type FederationModel } from '../../model/federation.ts'
import { holdRequest, HOUR, item } from '../../model/fixtures.ts'
import { CLUSTER, GatewayBench } from '../../model/gateway-bench.ts'

const T0 = 1_800_000_000_000
const PLANS = [host('tokyo', 1, 'gateway compute', 3), host('tokyo', 2, 'compute', 1), host('tsukuba', 1, 'gateway', 1), host('tsukuba', 2, 'compute', 4)]
const local = (name: string, count: number): object => {
  const { spec, ...rest } = wanted(name, count) as { spec: object }
  return { ...rest, spec: { ...spec, network: { local: true } } }
}

async function federation (t: Test): Promise<FederationModel> {
  const model = await startFederation(PLANS)
  t.teardown(() => model.stop())
  return model
}
const isActive = (model: FederationModel, id: string) => (): boolean => model.master('tokyo-1').get(id).state === 'building'
const locals = async (model: FederationModel): Promise<string[]> => (await model.objects()).filter(one => /segment .*\.local/.test(one)).map(one => one.split(' ')[0] ?? '').sort()

t.test('every member site leases a second id, hosts with nodes carry it, growth takes it along, and nothing is left', async t => {
  const model = await federation(t)
  const { id } = await model.master('tokyo-1').create(local('demo', 4))
  await eventually('the leases', isActive(model, id))
  const segments = (): string[] => model.leases().filter(lease => lease.includes(' segment ')).sort()
  t.strictSame(segments(), ['tokyo-1 segment local active', 'tokyo-1 segment segment active', 'tsukuba-1 segment local active', 'tsukuba-1 segment segment active'])
  await eventually('its objects', async () => (await locals(model)).length === 3)
  t.strictSame(await locals(model), ['tokyo-1', 'tokyo-2', 'tsukuba-2'], 'the gateway of tsukuba has no node')
  const shown = model.master('tokyo-1').get(id)
  t.match(shown.segment, { ids: { tokyo: 1000, tsukuba: 1000 }, local: { vni: shown.segment.vni ^ 0x800000, cidr: '10.43.0.0/16', ids: { tokyo: 1001, tsukuba: 1001 } } })
  t.match(shown.nodes.map(node => [node.name, node.local?.ip]), [['demo-tokyo-001', '10.43.1.1'], ['demo-tokyo-002', '10.43.1.2'], ['demo-tokyo-003', '10.43.1.3'], ['demo-tsukuba-004', '10.43.2.4']])

  const second = await model.master('tsukuba-1').create(wanted('other', 1))
  await eventually('another cluster', () => model.master('tsukuba-1').get(second.id).state === 'building')
  const { segment } = model.master('tsukuba-1').get('other')
  t.strictSame([segment.ids, 'local' in segment], [{ tsukuba: 1002 }, false], 'the next free id, and only one')

  await model.master('tokyo-1').scale('demo', 6)
  const grown = model.master('tokyo-1').get(id)
  t.strictSame(grown.segment, shown.segment, 'growth keeps the ids')
  t.match(grown.nodes.map(node => node.local?.ip), ['10.43.1.1', '10.43.1.2', '10.43.1.3', '10.43.2.4', '10.43.2.5', '10.43.2.6'])
  t.strictSame(segments().filter(lease => lease.includes('local')).length, 2)
  await model.master('tokyo-1').scale('demo', 3)
  await eventually('the site that has no node any more is free of it', async () => (await locals(model)).every(one => one.startsWith('tokyo')))
  t.match(model.master('tokyo-1').get(id).segment.local, { ids: { tokyo: 1001 } })

  await model.master('tokyo-1').remove('demo')
  await model.master('tsukuba-1').remove('other')
  await eventually('the end', async () => model.leases().length === 0 && (await model.objects()).length === 0)
})

t.test('a live cluster takes it to a site that is new to it', async t => {
  const model = await federation(t)
  const { id } = await model.master('tokyo-1').create(local('demo', 2))
  await eventually('the leases', isActive(model, id))
  t.strictSame(model.leases().filter(lease => lease.includes(' local ')), ['tokyo-1 segment local active'], 'a cluster at one site has one')
  await model.master('tokyo-1').scale('demo', 5)
  t.strictSame(model.leases().filter(lease => lease.includes(' local ')).sort(), ['tokyo-1 segment local active', 'tsukuba-1 segment local active'])
  await eventually('its objects', async () => (await locals(model)).includes('tsukuba-2'))
})

t.test('a site whose release has none is refused by name, and nothing is kept', async t => {
  const model = await federation(t)
  // what an earlier release makes of the question: it does not see what it does not know
  model.fate = ({ to, method, request }) => {
    if (to === 'tsukuba-1' && method === 'request') delete (request as { local?: boolean }).local
    return 'deliver'
  }
  const { id } = await model.master('tokyo-1').create(local('demo', 5))
  await eventually('the failure', () => model.master('tokyo-1').get(id).state === 'failed')
  const { error } = model.master('tokyo-1').get(id)
  t.match(error?.message, /tsukuba \(tsukuba-1\): site tsukuba offered no site-local segment/)
  t.match(error?.message, /release without them: have it upgraded, or leave spec\.network\.local out/)
  const plain = await model.master('tokyo-1').create(wanted('plain', 5))
  await eventually('without it the site lends', isActive(model, plain.id), 40_000)
})

t.test('a gateway holds both, and leaves out hosts whose release would not plug them in', t => {
  const b = new GatewayBench()
  const offer = b.offer({ local: true })
  t.strictSame(offer.held.filter(held => held.kind === 'segment').map(held => [held.name, held.host, held.resources]), [['segment', 'tokyo-1', zero()], ['local', 'tokyo-1', zero()]])
  t.strictSame([offer.segmentId, offer.localSegmentId], [1000, 2000])
  t.strictSame(b.offer({ local: true }).localSegmentId, 2000, 'asked again')
  t.throws(() => b.offer(), { code: 'CONFLICT', message: /used for another request/ }, 'it is part of the question')
  const receipts = b.commit(offer.offerId)
  const document = b.document([offer])
  t.throws(() => b.settle(b.activating(document, receipts)), { code: 'CONFLICT', message: /offered a site-local segment/ })
  const whole: ClusterDocument = { ...document, localCidr: '10.43.0.0/16', sites: document.sites.map(site => ({ ...site, localSegmentId: 2000, localLeaseId: offer.held.at(-1)?.leaseId ?? '' })) }
  b.settle(b.activating(whole, receipts))
  t.equal(b.state(), 'active')
  t.throws(() => b.settle(b.releasing({ leaseIds: [offer.held.at(-1)?.leaseId ?? ''] })), { code: 'INVALID_INPUT', message: /segment alone/ })
  t.match(b.settle(b.releasing()), { reply: { ended: offer.held.length } })
  t.strictSame(b.leases(), [])

  const old = new GatewayBench()
  const view = old.view.bind(old)
  old.view = () => { const seen = view(); return { ...seen, hosts: seen.hosts.map(one => one.host === 'tokyo-3' ? { ...one, lacksLocal: true } : one) } }
  t.throws(() => old.offer({ local: true }), { code: 'NO_CAPACITY', message: /tokyo-3: of a release without site-local segments/ })
  t.equal(old.offer({ key: 'k2', sentMs: old.now + 1 }).held.length, 4, 'without it the host is used')

  const mute = new GatewayBench()
  mute.localId = 0
  t.throws(() => mute.offer({ local: true }), { code: 'CONFLICT', message: /gave out no segment id/ })
  t.equal(mute.record(CLUSTER)?.state ?? 'gone', 'gone')
  t.end()
})

t.test('the ledger gives out two ids of the slice, rests both, and says which one is missing', t => {
  let state: LedgerState = emptyLedger('a1', { ...zero(), vcpus: 4 }, { from: 100, to: 102 })
  let now = T0
  const send = (event: Parameters<typeof advanceLedger>[1]): Answer => {
    const { result } = advanceLedger(state, event, now)
    if (!result.ok) throw result.error
    return result.answer
  }
  const both = (id: string, ids: [number, number] = [0, 0]): HoldItem[] => [item(`s-${id}`, { kind: 'segment', name: 'segment', resources: zero(), segmentId: ids[0] }), item(`l-${id}`, { kind: 'segment', name: 'local', resources: zero(), segmentId: ids[1] })]
  const hold = (id: string, items = both(id), offerId = id): Answer => send({ type: 'hold', requester: 'peer1', request: holdRequest({ key: offerId, offerId, clusterId: id, startMs: now, endMs: now + HOUR, items }) })
  const refused = (work: () => unknown): MusubiError => {
    try { work() } catch (error) { if (error instanceof MusubiError) return error }
    throw new Error('it was not refused')
  }
  t.match(hold('a'), { segmentId: 100, localSegmentId: 101 })
  t.match(hold('a'), { segmentId: 100, localSegmentId: 101, replay: true })
  t.match([state.leases.get('s-a')?.segmentId, state.leases.get('l-a')?.segmentId], [100, 101])
  t.match(refused(() => hold('b')), { code: 'NO_CAPACITY', message: /no free segment id in 100\.\.102 for the site-local segment of cluster demo/, hint: /spec\.network\.local|segmentIds/ })
  t.equal(state.leases.has('s-b'), false, 'all or nothing')
  t.notOk('localSegmentId' in hold('b', both('b').slice(0, 1)), 'who asks for none gets none')
  const { receipts } = send({ type: 'commit', clusterId: 'a', offerId: 'a' })
  send({ type: 'activate', clusterId: 'a', receipts })
  t.match(hold('a', [item('l-a2', { kind: 'segment', name: 'local', resources: zero() })], 'a2'), { segmentId: 0, localSegmentId: 101 }, 'a cluster keeps it')
  t.match(refused(() => hold('a', [item('l-a3', { kind: 'segment', name: 'local', resources: zero(), segmentId: 100 })], 'a3')), { code: 'CONFLICT', message: /has the site-local segment id 101/ })
  send({ type: 'release', clusterId: 'a', reason: 'x' })
  send({ type: 'vacate', clusterId: 'a' })
  t.match(refused(() => hold('c')), { code: 'NO_CAPACITY' }, 'both rest')
  now += ID_QUARANTINE_MS
  send({ type: 'tick' })
  t.match(hold('c'), { segmentId: 100, localSegmentId: 101 })
  state = emptyLedger('a1', { ...zero(), vcpus: 4 }, { from: 100, to: 102 })
  t.match(refused(() => hold('d', both('d', [100, 100]))), { code: 'CONFLICT', message: /segment id 100 of gateway a1 is in use/ }, 'one id is not for both')

  const problem = (items: HoldItem[]): string | null => holdProblem(holdRequest({ clusterId: CLUSTER, offerId: 'o', items }))
  t.equal(problem(both('x')), null)
  t.match(problem([...both('x'), item('y', { kind: 'segment', name: 'more', resources: zero() })]), /one segment besides the site-local one/)
  t.match(problem([...both('x'), item('y', { kind: 'segment', name: 'local', resources: zero() })]), /segment local is asked for twice/)
  t.match(problem([item('y', { kind: 'node', name: 'local', segmentId: 5 })]), /has the segment id 5/, 'a node may be called so')
  t.end()
})
