import t from 'tap'
import { createEventLog } from '../../../agent/events.ts'
import { type Gateway, createGateway } from '../../../agent/gateway/gateway.ts'
import { createLessor } from '../../../agent/lessor/lessor.ts'
import { tunnelAddressFor } from '../../../agent/drivers/network/address.ts'
import type { CallPeer } from '../../../agent/peers.ts'
import type { GatewayRecord } from '../../../protocol/core/gateway/record.ts'
import type { HoldRequest, Request } from '../../../protocol/core/messages.ts'
import { createPreempt, roomByNotice } from '../../../protocol/policy/preempt.ts'
import type { Resources } from '../../../protocol/core/capacity.ts'
import type { HostCalendar } from '../../../protocol/core/calendar/together.ts'
import { type LedgerState, emptyLedger } from '../../../protocol/core/lease/lease.ts'
import { MAX_GIVEN_BACK, MAX_NOTICED_PER_REQUEST, MAX_NOTICES_PER_SITE, NOTICE_MARGIN_MS } from '../../../protocol/core/limits.ts'
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

const MINUTE = 60_000
const none = { vcpus: 0, memoryMib: 0, diskMib: 0, volumes: 0, bandwidthMbit: 0 }
/** Each host has the same free all the time. */
const always = (hosts: ReadonlyArray<{ host: string, roles: readonly string[], free: Resources }>): HostCalendar[] => hosts.map(({ host: name, roles, free }) => ({ host: name, roles, steps: [{ atMs: T0, free }] }))

t.test('room for a higher priority: of whom it was agreed, the lowest first, and only where the request fits then', t => {
  const document: PolicyDocument = {
    default: { priority: 20, preempt: { notice: '15m' } }, sites: { osaka: { priority: 60 }, kyoto: { priority: 10, preempt: { notice: '30m' } }, nara: { priority: 0 }, kobe: { priority: 20, preempt: { notice: '2h' } } }
  }
  const records = [running('a', 'otsu', 4), running('b', 'kyoto', 4), running('c', 'nara', 50), running('d', 'kobe', 50), running('e', 'tokyo', 50), running('f', 'otsu', 50, { state: 'committed' })]
  const hosts = [{ ...host, free: { ...none, vcpus: 1 } }]
  const startMs = T0 + HOUR / 2
  const room = (site: string, vcpus: number, part: Partial<Request> = {}, all = records, calendars = always(hosts)): unknown => roomByNotice(document, 'tokyo', { ...asked(site, vcpus), startMs, ...part }, all, hosts, calendars, T0)
  t.match(room('osaka', 5), { clusters: [{ clusterId: 'b', cluster: 'of-kyoto', site: 'kyoto', priority: 10, noticeMs: HOUR / 2 }], hosts: [{ host: 'tokyo-1', free: { vcpus: 5, memoryMib: 4096 } }] })
  t.match(room('osaka', 9), { clusters: [{ clusterId: 'b' }, { clusterId: 'a' }] })
  t.match(room('osaka', 5, { startMs: T0 + HOUR / 4 }), { clusters: [{ clusterId: 'a', noticeMs: HOUR / 4 }] }, 'kyoto is to be told earlier')
  t.equal(room('osaka', 5, { startMs: T0 + HOUR / 4 - 1 }), null)
  t.equal(room('osaka', 5, { startMs: T0 }), null, 'nobody goes at once')
  t.equal(room('osaka', 10), null, 'nara has agreed to none, the notice of kobe is longer than what is left, the own are not lent')
  t.match(room('tokyo', 9), { clusters: [{}, {}] }, 'the own site has the highest where nothing else is said')
  t.equal(room('kobe', 9), null, 'who has the same priority is not before others')
  t.match(room('osaka', 5, {}, records.map(record => record.clusterId === 'b' ? { ...record, notice: { endMs: startMs, reason: '' } } : record)), { clusters: [{ clusterId: 'a' }] }, 'what comes free of who has notice is in the ledgers')
  const noticed = (site: string, endMs: number, part: Partial<GatewayRecord['notice'] & object> = {}): GatewayRecord[] => [running('b', 'kyoto', 4, { notice: { endMs, reason: '', seq: 7, site, beneficiary: 'x', state: 'given', ...part } })]
  t.match(room('osaka', 5, { endMs: startMs + 10 * MINUTE }, noticed('otsu', startMs + 10 * MINUTE)), { clusters: [{ clusterId: 'b', seq: 7 }] }, 'notice for a lower priority is no shelter from a higher one')
  t.equal(room('osaka', 5, { endMs: startMs + 10 * MINUTE + 1 }, noticed('otsu', startMs + 10 * MINUTE)), null, 'what comes free by that notice is in the ledgers')
  for (const [site, part] of [['osaka', {}], ['tokyo', {}], ['otsu', { state: 'withdrawing' }], ['otsu', { under: { endMs: 3, reason: '', under: { endMs: 4, reason: '', under: { endMs: 5, reason: '' } } } }]] as const) t.equal(room('osaka', 5, { endMs: startMs + 10 * MINUTE }, noticed(site, startMs + 10 * MINUTE, part)), null, site)
  const flapping = (times: number, site = 'osaka', sinceMs = T0 - 59 * MINUTE): GatewayRecord[] => [running('b', 'kyoto', 4, { givenBack: [{ site, sinceMs, times }] })]
  t.equal(room('osaka', 5, {}, flapping(MAX_GIVEN_BACK)), null, 'who lets others have notice again and again for nothing has to leave them alone')
  for (const records of [flapping(MAX_GIVEN_BACK - 1), flapping(MAX_GIVEN_BACK, 'otsu'), flapping(MAX_GIVEN_BACK, 'osaka', T0 - HOUR)]) t.match(room('osaka', 5, {}, records), { clusters: [{ clusterId: 'b' }] })
  const busy = (fromMs: number): HostCalendar[] => [{ host: 'tokyo-1', roles: host.roles, steps: [{ atMs: T0, free: { ...none, vcpus: 1 } }, { atMs: T0 + HOUR, free: { ...none, vcpus: 5, memoryMib: 4096 } }, { atMs: fromMs, free: none }] }]
  t.match(room('osaka', 5, { endMs: T0 + 2 * HOUR }, records, busy(T0 + 2 * HOUR)), { clusters: [{ clusterId: 'b' }] }, 'after their end others may be there')
  t.equal(room('osaka', 5, { endMs: T0 + 2 * HOUR }, records, busy(T0 + 2 * HOUR - 1)), null)
  t.equal(roomByNotice({}, 'tokyo', { ...asked('osaka', 1), startMs }, records, hosts, always(hosts), T0), null, 'without a policy nobody is')
  t.equal(room('osaka', 1, { grow: true }), null, 'growth begins now')
  t.end()
})

t.test('nobody gets a notice that is of no use: where room is not what is missing, or not there, or too many would have to go', t => {
  const document: PolicyDocument = { default: { priority: 20, preempt: { notice: '15m' } }, sites: { osaka: { priority: 60 } } }
  const on = (record: GatewayRecord, name: string): GatewayRecord => ({ ...record, offer: { ...record.offer, held: record.offer.held.map(held => ({ ...held, host: name })) } })
  const [one, two] = [{ ...host, free: none }, { ...host, host: 'tokyo-2', roles: ['compute'], free: none }]
  const small = on(running('a', 'otsu', 1), 'tokyo-1')
  const large = on(running('b', 'otsu', 8), 'tokyo-2')
  const startMs = T0 + HOUR / 2
  const room = (request: Request, records: GatewayRecord[], hosts = [one, two]): unknown => roomByNotice(document, 'tokyo', { ...request, startMs }, records, hosts, always(hosts), T0)
  t.match(room(asked('osaka', 4), [small, large]), { clusters: [{ clusterId: 'b' }] })
  t.equal((room(asked('osaka', 4), [small, large]) as { clusters: unknown[] }).clusters.length, 1, 'the first of them would help nobody')
  t.equal(room(asked('osaka', 1), [small], [{ ...one, free: { ...none, vcpus: 2, memoryMib: 2048 } }]), null, 'there is room already: a bound on leases, or an id, is what is missing')
  t.equal(room({ ...asked('osaka', 4), local: true }, [large], [one, { ...two, lacksLocal: true } as typeof two]), null, 'a host of an earlier release does not take it empty either')
  const few = Array.from({ length: MAX_NOTICED_PER_REQUEST + 1 }, (_, i) => on(running(`c${String(i).padStart(2, '0')}`, 'otsu', 1), 'tokyo-1'))
  t.equal((room(asked('osaka', MAX_NOTICED_PER_REQUEST), few) as { clusters: unknown[] }).clusters.length, MAX_NOTICED_PER_REQUEST)
  t.equal(room(asked('osaka', MAX_NOTICED_PER_REQUEST + 1), few), null)
  const pending = Array.from({ length: MAX_NOTICES_PER_SITE }, (_, i) => running(`d${i}`, 'otsu', 1, { notice: { endMs: T0 + HOUR, reason: '', site: 'osaka' } }))
  t.equal(room(asked('osaka', 1), [small, ...pending]), null, 'as many wait for their end as one site may cause')
  t.match(room(asked('osaka', 1), [small, ...pending.slice(1)]), { clusters: [{ clusterId: 'a' }] })
  let placements = 0
  const watched = Array.from({ length: 20 }, (_, i) => ({ ...host, host: `h${i}`, get roles () { placements++; return ['compute'] }, free: none }))
  const many = Array.from({ length: 1000 }, (_, i) => on(running(`c${i}`, 'otsu', 1), `h${i % 20}`))
  room(asked('osaka', 4000), many, watched)
  t.ok(placements < 20 * 10, `a request that never fits is not tried with each of a thousand clusters: ${placements}`)
  t.end()
})

t.test('calendars tell a site of a higher priority what it could have, from the notice on and a little, and nobody else', t => {
  const document: PolicyDocument = { default: { priority: 20, preempt: { notice: '15m' } }, sites: { osaka: { priority: 60 } } }
  const preempt = createPreempt(() => document, 'tokyo', () => T0)
  const records = [running('a', 'otsu', 4)]
  const calendars = always([{ ...host, free: { ...none, vcpus: 1 } }])
  t.equal(preempt.noticed('kobe', records), undefined)
  t.equal(preempt.noticed('osaka', [running('a', 'otsu', 4, { notice: { endMs: T0 + HOUR / 2, reason: '' } })]), undefined)
  const fromMs = T0 + 15 * MINUTE + NOTICE_MARGIN_MS
  const told = preempt.noticed('osaka', records)?.(calendars)
  t.match(told, [{ host: 'tokyo-1', steps: [{ atMs: T0, free: { vcpus: 1 } }, { atMs: fromMs, free: { vcpus: 5 } }, { atMs: T0 + HOUR, free: { vcpus: 1 } }] }])
  t.equal(told?.[0]?.steps.length, 3)
  t.end()
})

/** A gateway with one full host, on which a cluster of kyoto runs. */
async function lender (ledger: LedgerState | null, call: CallPeer): Promise<{ gateway: Gateway, ask: (key: string, startMs?: number) => Promise<unknown>, events: ReturnType<typeof createEventLog>, store: ReturnType<typeof createMemoryStore> }> {
  const events = createEventLog(() => T0)
  const store = createMemoryStore()
  await store.put(`offer/${idOf(8)}`, running(idOf(8), 'kyoto', 4), { sync: true, version: 2 })
  const hosts = [{ ...host, free: { ...none, memoryMib: 8192 } }]
  const gateway = createGateway({
    site: 'tokyo', store, events, log: silent, now: () => T0, newId: () => 'c2000000-0000-4000-8000-000000000000', call, siteHosts: () => hosts, facts: () => Promise.resolve(facts('tokyo', 0)),
    calendar: { site: () => Promise.resolve({ site: 'tokyo', hosts: [{ host: 'tokyo-1', roles: host.roles, steps: [{ atMs: T0, free: { ...none, memoryMib: 8192 } }, { atMs: T0 + HOUR, free: { ...none, vcpus: 4, memoryMib: 12_288 } }] }] }) },
    preempt: createPreempt(() => ({ default: { priority: 10, preempt: { notice: '15m' } }, sites: { osaka: {} } }), 'tokyo', () => T0),
    ...ledger === null ? { priceMilli: site => site === 'osaka' ? 500 : 0 } : { quota: () => true, quotes: { ledger: () => ledger, priceMilli: () => 0 } }
  })
  await gateway.start()
  const caller = { peerId: 'peer-osaka', site: 'osaka', host: 'osaka-1', gateway: true }
  return { gateway, events, store, ask: (key, startMs = T0 + HOUR / 2) => gateway.request({ ...asked('osaka', 4), key, startMs }, caller) }
}

t.test('a site that may not borrow so much, or for whose segment there is no id, costs nobody a notice', async t => {
  const ledger = emptyLedger('tokyo-1', { vcpus: 8, memoryMib: 8192, diskMib: 0, volumes: 0, bandwidthMbit: 0 })
  const { gateway, ask } = await lender(ledger, () => Promise.reject(new Error('nobody answers')))
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
  await t.rejects(ask('k3'))
  t.ok(noticed())
})

t.test('a refusal for now gives notice to nobody, and says from when on by whose notice; who asks for that start gets it, with its price', async t => {
  const { gateway, ask, events, store } = await lender(null, ((_peer: string, method: string, request: HoldRequest) => Promise.resolve(method === 'hold' ? { receipts: request.items.map(one => ({ leaseId: one.leaseId, host: 'tokyo-1', token: 1 })), segmentId: 5 } : { endMs: T0 + HOUR / 2, nowMs: T0 })) as unknown as CallPeer)
  const refused: unknown = await ask('k1', T0).catch((error: unknown) => error)
  t.match(refused, { code: 'NO_CAPACITY', hint: /all 1 from 2027-01-15T08:15:15Z, by notice to leases of kyoto: reserve it with --start 2027-01-15T08:15:15Z, or --earliest/ })
  t.notMatch(JSON.stringify(refused), /of-kyoto/, 'whose cluster it is stays here')
  t.notOk(gateway.list().some(record => record.notice !== undefined))
  const quoted = (masterSite: string, startMs: number): ReturnType<Gateway['quote']> =>
    gateway.quote({ request: { ...asked(masterSite, 4), startMs, endMs: startMs + HOUR } }, { peerId: `peer-${masterSite}`, site: masterSite, host: `${masterSite}-1`, gateway: true })
  t.match(await quoted('osaka', T0 + HOUR / 2), { taken: true, reasons: [], nodes: 1 }, 'a quote says the same')
  t.match(await quoted('osaka', T0), { taken: false, nodes: 0, earliestMs: T0 + 15 * MINUTE + NOTICE_MARGIN_MS })
  t.match(await quoted('kobe', T0 + HOUR / 2), { taken: false, earliestMs: T0 + HOUR }, 'who comes no earlier sees no such room')
  t.notOk(gateway.list().some(record => record.notice !== undefined), 'and costs nobody anything')
  t.match(await ask('k2'), { site: 'tokyo', priceMilli: 500 })
  t.match(gateway.list().filter(record => record.clusterId === idOf(8)), [{ notice: { endMs: T0 + HOUR / 2, reason: /preempted by the policy of tokyo/, beneficiary: asked('osaka', 1).clusterId, state: 'given' } }])
  t.match(await store.get(`offer/${idOf(8)}`), { notice: { endMs: T0 + HOUR / 2 } }, 'it is on the disk')
  t.ok(events.list().some(({ type, message }) => type === 'lease.notice' && message.includes('of-kyoto of kyoto')))
})
