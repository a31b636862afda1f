import t from 'tap'
import { createEventLog } from '../../../agent/events.ts'
import { createGateway } from '../../../agent/gateway/gateway.ts'
import { createLessor } from '../../../agent/lessor/lessor.ts'
import { tunnelAddressFor } from '../../../agent/drivers/network/address.ts'
import type { CallPeer } from '../../../agent/peers.ts'
import type { GatewayRecord } from '../../../protocol/core/gateway/record.ts'
import type { HoldRequest, Request } from '../../../protocol/core/messages.ts'
import { roomByNotice } from '../../../protocol/policy/preempt.ts'
import { emptyLedger } from '../../../protocol/core/lease/lease.ts'
import { checkPolicy, quotasOf } from '../../../protocol/policy/rules.ts'
import type { PolicyDocument } from '../../../protocol/policy-api.ts'
import { openLedger } from '../../../store/ledger.ts'
import { createMemoryStore } from '../../../store/memory.ts'
import { silent } from '../../model/federation.ts'
import { facts, holdRequest, item } from '../../model/fixtures.ts'

const T0 = 1_800_000_000_000
const HOUR = 3_600_000
const idOf = (n: number): string => `0000000${n}-0000-4000-8000-000000000000`
const hold = (key: string, n: number, masterSite: string, part: Partial<HoldRequest> = {}): HoldRequest =>
  holdRequest({ key, clusterId: idOf(n), offerId: idOf(n + 4), masterSite, items: [item(idOf(n), { name: 'demo-tokyo-001' })], startMs: T0, endMs: T0 + HOUR, ...part })

t.test('a host judges by the policy itself, whatever its gateway asks for; what it has promised it keeps', async t => {
  let document: PolicyDocument = { sites: { kyoto: { deny: true } }, default: { longestLease: '2h', latestStart: '1h', windows: [{ zone: 'UTC' }] } }
  const ledger = await openLedger({ store: createMemoryStore(), now: () => T0, host: 'tokyo-2', capacity: { vcpus: 8, memoryMib: 8192, diskMib: 1000, volumes: 8, bandwidthMbit: 0 } })
  const lessor = createLessor({
    site: 'tokyo', host: 'tokyo-2', ledger, reconciler: () => { throw new Error('nothing runs here') }, details: { of: () => Promise.resolve({}) }, events: createEventLog(() => T0), now: () => T0, monotonic: () => 0, sleep: () => Promise.resolve(), signGrant: () => ({ envelope: new Uint8Array(), chain: [] }),
    policy: { check: ask => { checkPolicy(document, 'tokyo', { ...ask, nowMs: T0 }) } },
    truth: { isGatewayOf: () => true, tunnelAddressFor, peer: 'peer-tokyo-2', underlayAddress: '192.0.2.2', tunnelEndpoint: '192.0.2.2:51820', addressOf: () => null }
  })
  await t.rejects(lessor.hold(hold('denied', 1, 'kyoto')), { code: 'POLICY_DENIED' })
  await t.rejects(lessor.hold(hold('long', 1, 'osaka', { endMs: T0 + 3 * HOUR })), { code: 'POLICY_TERM' })
  await t.rejects(lessor.hold(hold('far', 1, 'osaka', { startMs: T0 + 2 * HOUR, endMs: T0 + 3 * HOUR })), { code: 'POLICY_START' })
  await t.resolves(lessor.hold(hold('skewed', 1, 'osaka', { startMs: T0 + HOUR + 20_000, endMs: T0 + 2 * HOUR })), 'the clock of its gateway may differ a little')
  await t.resolves(lessor.hold(hold('own', 2, 'tokyo', { endMs: T0 + 100 * HOUR })), 'the own site is not subject to it')
  const kept = hold('kept', 3, 'osaka')
  const held = await lessor.hold(kept)
  t.equal(ledger.state().leases.size, 3)
  await lessor.commit({ clusterId: idOf(3), offerId: idOf(7), epoch: 1 })
  const extension = { key: 'x', clusterId: idOf(3), offerId: idOf(9), endMs: T0 + 90 * 60_000, ttlMs: 30_000, epoch: 1, leaseIds: [idOf(3)] }
  await t.rejects(lessor.extend({ ...extension, endMs: T0 + 2 * HOUR + 60_000 }), { code: 'POLICY_TERM' }, 'the whole term counts')
  const longer = await lessor.extend(extension)
  document = { default: { deny: true } }
  t.same(await lessor.hold(kept), held, 'the same question gets the same answer')
  t.same(await lessor.extend(extension), longer)
  await lessor.commit({ clusterId: idOf(3), offerId: idOf(9), epoch: 1 })
  await t.rejects(lessor.hold(hold('new', 4, 'osaka')), { code: 'POLICY_DENIED' })
  t.equal(ledger.leases(idOf(3))[0]?.endMs, extension.endMs, 'and what was promised is kept')
})

const host = { host: 'tokyo-1', roles: ['gateway', 'compute'], cordoned: false, peer: facts('tokyo', 0).peer, underlayAddress: '192.0.2.1' }
const asked = (masterSite: string, vcpus: number): Request => ({
  key: 'k', clusterId: 'c1000000-0000-4000-8000-000000000000', cluster: 'demo', vni: 7, masterSite, startMs: T0, endMs: T0 + HOUR, nodes: [{ name: 'demo-tokyo-001', vcpus, memoryMib: 512 }],
  volumes: [], frontend: false, holdTtlMs: 30_000, bandwidthMbit: 0, epoch: 1, sentMs: T0, grow: false
})
const running = (clusterId: string, masterSite: string, vcpus: number, part: Partial<GatewayRecord> = {}): GatewayRecord => ({
  clusterId, cluster: `of-${masterSite}`, key: '', digest: '', masterSite, masterPeer: '', epoch: 1, vni: 1, startMs: T0, endMs: T0 + HOUR, sentMs: T0, state: 'active', reason: '', amendment: null, shrinking: [], anchor: '',
  offer: { offerId: clusterId, site: 'tokyo', segmentId: 1, gateway: facts('tokyo', 0), ttlMs: 1, nowMs: T0, held: ['node', 'quota'].map((kind, i) => ({ leaseId: `${clusterId}-${i + 1}`, kind, name: kind, host: 'tokyo-1', peer: 'p', underlayAddress: '', token: 1, resources: { vcpus, memoryMib: 4096, diskMib: 0, volumes: 0, bandwidthMbit: 0 } })) },
  ...part
})

t.test('room for a higher priority: of whom it was agreed, the lowest first, and only where the request fits then', t => {
  const document: PolicyDocument = {
    default: { priority: 20, preempt: { notice: '15m' } }, sites: { osaka: { priority: 60 }, kyoto: { priority: 10, preempt: { notice: '30m' } }, nara: { priority: 0 }, kobe: { priority: 20, preempt: { notice: '2h' } } }
  }
  const records = [running('a', 'otsu', 4), running('b', 'kyoto', 4), running('c', 'nara', 50), running('d', 'kobe', 50), running('e', 'tokyo', 50), running('f', 'otsu', 50, { state: 'committed' })]
  const hosts = [{ ...host, free: { vcpus: 1, memoryMib: 0, diskMib: 0, volumes: 0, bandwidthMbit: 0 } }]
  const room = (site: string, vcpus: number, part: Partial<Request> = {}, all = records): unknown => roomByNotice(document, 'tokyo', { ...asked(site, vcpus), ...part }, all, hosts, T0)
  t.same(room('osaka', 5), { clusters: [{ clusterId: 'b', cluster: 'of-kyoto', site: 'kyoto', priority: 10, endMs: T0 + HOUR / 2, noticeMs: HOUR / 2 }], earliestMs: T0 + HOUR / 2 })
  t.match(room('osaka', 9), { clusters: [{ clusterId: 'b' }, { clusterId: 'a', endMs: T0 + HOUR / 4 }], earliestMs: T0 + HOUR / 2 })
  t.equal(room('osaka', 10), null, 'nara has agreed to none, the notice of kobe is longer than what is left, the own are not lent')
  t.match(room('tokyo', 9), { earliestMs: T0 + HOUR / 2 }, 'the own site has the highest where nothing else is said')
  t.equal(room('kobe', 9), null, 'who has the same priority is not before others')
  t.equal(room('osaka', 5, { startMs: T0 + HOUR }), null, 'what is free later is not known')
  t.match(room('osaka', 5, {}, [...records, running('g', 'otsu', 4, { notice: { endMs: T0 + 60_000, reason: '' } })]), { clusters: [{ clusterId: 'g', noticeMs: 0 }], earliestMs: T0 + 60_000 }, 'asked again nobody else gets notice')
  t.equal(roomByNotice({}, 'tokyo', asked('osaka', 1), records, hosts, T0), null, 'without a policy nobody is')
  t.end()
})

t.test('nobody gets a notice that is of no use: where room is not what is missing, or not there, or not for a cluster that grows', t => {
  const document: PolicyDocument = { default: { priority: 20, preempt: { notice: '15m' } }, sites: { osaka: { priority: 60 } } }
  const on = (record: GatewayRecord, name: string, site = record.masterSite): GatewayRecord => ({ ...record, masterSite: site, offer: { ...record.offer, held: record.offer.held.map(held => ({ ...held, host: name })) } })
  const none = { vcpus: 0, memoryMib: 0, diskMib: 0, volumes: 0, bandwidthMbit: 0 }
  const [one, two] = [{ ...host, free: none }, { ...host, host: 'tokyo-2', roles: ['compute'], free: none }]
  const small = on(running('a', 'otsu', 1), 'tokyo-1')
  const large = on(running('b', 'otsu', 8), 'tokyo-2')
  const room = (request: Request, records: GatewayRecord[], hosts = [one, two]): unknown => roomByNotice(document, 'tokyo', request, records, hosts, T0)
  t.match(room(asked('osaka', 4), [small, large]), { clusters: [{ clusterId: 'b' }] })
  t.equal((room(asked('osaka', 4), [small, large]) as { clusters: unknown[] }).clusters.length, 1, 'the first of them would help nobody')
  t.equal(room(asked('osaka', 1), [small], [{ ...one, free: { ...none, vcpus: 2, memoryMib: 2048 } }]), null, 'there is room already: a bound on leases, or an id, is what is missing')
  const own = on(running(asked('osaka', 1).clusterId, 'osaka', 1), 'tokyo-2', 'osaka')
  const grown = { ...asked('osaka', 4), grow: true, maxNodesPerHost: 1 }
  t.equal(room(grown, [own, large]), null, 'the host that would be emptied has a node of the cluster, which allows no second')
  t.match(room(grown, [own, on(large, 'tokyo-1')]), { clusters: [{ clusterId: 'b' }] })
  t.equal(room({ ...asked('osaka', 4), local: true }, [large], [one, { ...two, lacksLocal: true } as typeof two]), null, 'a host of an earlier release does not take it empty either')
  let placements = 0
  const watched = Array.from({ length: 20 }, (_, i) => ({ ...host, host: `h${i}`, get roles () { placements++; return ['compute'] }, free: none }))
  const many = Array.from({ length: 1000 }, (_, i) => on(running(`c${i}`, 'otsu', 1), `h${i % 20}`))
  room(asked('osaka', 4000), many, watched)
  t.ok(placements < 20 * 10, `a request that never fits is not tried with each of a thousand clusters: ${placements}`)
  t.end()
})

t.test('a site that may not borrow so much, or for whose segment there is no id, costs nobody a notice', async t => {
  const ledger = emptyLedger('tokyo-1', { vcpus: 8, memoryMib: 8192, diskMib: 0, volumes: 0, bandwidthMbit: 0 })
  const store = createMemoryStore()
  await store.put(`offer/${idOf(8)}`, running(idOf(8), 'kyoto', 4), { sync: true, version: 2 })
  const gateway = createGateway({
    site: 'tokyo', store, events: createEventLog(() => T0), log: silent, now: () => T0, newId: () => 'c2000000-0000-4000-8000-000000000000', quota: () => true, quotes: { ledger: () => ledger, priceMilli: () => 0 },
    preempt: (request, records, hosts) => roomByNotice({ default: { priority: 10, preempt: { notice: '15m' } }, sites: { osaka: {} } }, 'tokyo', request, records, hosts, T0),
    call: () => Promise.reject(new Error('nobody is asked')), siteHosts: () => [{ ...host, free: { vcpus: 0, memoryMib: 8192, diskMib: 0, volumes: 0, bandwidthMbit: 0 } }], facts: () => Promise.resolve(facts('tokyo', 0))
  })
  await gateway.start()
  const ask = (key: string): Promise<unknown> => gateway.request({ ...asked('osaka', 4), key }, { peerId: 'peer-osaka', site: 'osaka', host: 'osaka-1', gateway: true })
  const noticed = (): boolean => gateway.list().some(record => record.notice !== undefined)
  ledger.slice = { from: 2, to: 9 }
  ledger.quotas = quotasOf({ sites: { osaka: { quota: { nodes: 1, vcpus: 3 } } } }, 'tokyo', 100)
  await t.rejects(ask('k1'), { code: 'NO_CAPACITY' })
  t.notOk(noticed(), 'above its quota')
  ledger.quotas = quotasOf({ sites: { osaka: { quota: { nodes: 1, vcpus: 4 } } } }, 'tokyo', 100)
  ledger.slice = null
  await t.rejects(ask('k2'), { code: 'NO_CAPACITY' })
  t.notOk(noticed(), 'no id')
  ledger.slice = { from: 2, to: 9 }
  await t.rejects(ask('k3'), { code: 'NO_CAPACITY' })
  t.ok(noticed())
})

t.test('a refusal for want of room gives notice, says when there is some, and keeps to itself whose leases it takes; an offer says its price', async t => {
  const events = createEventLog(() => T0)
  let full = true
  const store = createMemoryStore()
  await store.put(`offer/${idOf(8)}`, running(idOf(8), 'kyoto', 4), { sync: true, version: 2 })
  const gateway = createGateway({
    site: 'tokyo', store, events, log: silent, now: () => T0, newId: () => 'c2000000-0000-4000-8000-000000000000', priceMilli: site => site === 'osaka' ? 500 : 0,
    preempt: (request, records, hosts) => roomByNotice({ default: { priority: 10, preempt: { notice: '15m' } }, sites: { osaka: {} } }, 'tokyo', request, records, hosts, T0),
    call: ((_peer: string, _method: string, request: HoldRequest) => Promise.resolve({ receipts: request.items.map(one => ({ leaseId: one.leaseId, host: 'tokyo-1', token: 1 })), segmentId: 5 })) as unknown as CallPeer,
    siteHosts: () => [{ ...host, free: { vcpus: full ? 0 : 8, memoryMib: 8192, diskMib: 0, volumes: 0, bandwidthMbit: 0 } }],
    facts: () => Promise.resolve(facts('tokyo', 0))
  })
  await gateway.start()
  const caller = { peerId: 'peer-osaka', site: 'osaka', host: 'osaka-1', gateway: true }
  const refused: unknown = await gateway.request(asked('osaka', 4), caller).catch((error: unknown) => error)
  t.match(refused, { code: 'NO_CAPACITY', hint: /leases of lower priority have notice: ask again at 2027-01-15T08:15:00.000Z/ })
  t.notMatch(JSON.stringify(refused), /kyoto/)
  t.match(gateway.list(), [{ clusterId: idOf(8), notice: { endMs: T0 + HOUR / 4, reason: /preempted by the policy of tokyo/ } }])
  t.match(await store.get(`offer/${idOf(8)}`), { notice: { endMs: T0 + HOUR / 4 } }, 'it is on the disk')
  t.ok(events.list().some(({ type, message }) => type === 'lease.notice' && message.includes('of-kyoto of kyoto')))
  full = false
  t.match(await gateway.request({ ...asked('osaka', 4), key: 'k2', sentMs: T0 + 1 }, caller), { site: 'tokyo', priceMilli: 500 })
})
