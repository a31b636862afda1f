/** Calendars of hosts and sites, drains, and that a cordoned host gets nothing new, whenever it would start. */
import t from 'tap'
import { createCalendar } from '../../../agent/calendar/calendar.ts'
import { createTold } from '../../../agent/calendar/told.ts'
import { createDrain } from '../../../agent/calendar/drain.ts'
import { createCordon } from '../../../agent/cordon.ts'
import { createEventLog } from '../../../agent/events.ts'
import { createLessor } from '../../../agent/lessor/lessor.ts'
import type { CallPeer, Methods } from '../../../agent/peers.ts'
import { addCalendarRoutes } from '../../../agent/api/routes/calendar.ts'
import { type Lending, startsIn } from '../../../protocol/core/calendar/lending.ts'
import { type HostCalendar, earliestTogether, leastIn } from '../../../protocol/core/calendar/together.ts'
import { zero } from '../../../protocol/core/capacity.ts'
import { UnreachableError } from '../../../protocol/core/errors.ts'
import { MAX_CALENDAR_LEASES, MAX_HELD_OBJECTS } from '../../../protocol/core/limits.ts'
import type { HoldItem, HoldRequest } from '../../../protocol/core/messages.ts'
import { createApi } from '../../../protocol/rest/server.ts'
import { openLedger, type Ledger } from '../../../store/ledger.ts'
import { createMemoryStore } from '../../../store/memory.ts'
import { silent } from '../../model/federation.ts'

const HOUR = 3_600_000
const T0 = 1_800_000_000_000
const CAPACITY = { vcpus: 8, memoryMib: 8192, diskMib: 500, volumes: 8, bandwidthMbit: 0 }
const uuid = (n: number): string => `${String(n).padStart(8, '0')}-0000-4000-8000-000000000000`
const node = (leaseId: string): HoldItem => ({ leaseId, kind: 'node', name: `n-${leaseId}`, resources: { vcpus: 2, memoryMib: 1024, diskMib: 0, volumes: 0, bandwidthMbit: 0 }, segmentId: 0 })
const hold = (n: number, from: number, until: number, part: Partial<HoldRequest> = {}): HoldRequest => ({
  key: `k${n}`, clusterId: uuid(n), cluster: `c${n}`, masterSite: 'tokyo', masterPeer: 'master', startMs: T0 + from * HOUR, endMs: T0 + until * HOUR, ttlMs: 30_000, offerId: `o${n}`, epoch: 1, items: [node(`l${n}`)], ...part
})
const opened = (host: string): Promise<Ledger> => openLedger({ store: createMemoryStore(), now: () => T0, host, capacity: CAPACITY })
const nobody: CallPeer = () => Promise.reject(new UnreachableError('nobody is asked'))
const calendarOf = (ledger: Ledger, part: Partial<Parameters<typeof createCalendar>[0]> = {}): ReturnType<typeof createCalendar> =>
  createCalendar({ site: 'osaka', peer: 'p1', ledger, hosts: () => [{ host: 'osaka-1', peer: 'p1', roles: ['gateway', 'compute'] }], refusal: () => null, call: nobody, ...part })

t.test('a host tells what is free when, and what is promised to whom', async t => {
  const ledger = await opened('osaka-1')
  await ledger.hold(hold(1, 0, 2))
  await ledger.hold(hold(2, 1, 3))
  await ledger.commit(uuid(2), 'o2')
  const { nowMs, takesLeases, steps, leases, leftOut } = calendarOf(ledger).own(true)
  t.same([nowMs, takesLeases, leftOut], [T0, true, 0])
  t.same(steps.map(({ atMs, free }) => [(atMs - T0) / HOUR, free.vcpus]), [[0, 6], [1, 4], [2, 6], [3, 8]])
  t.match(leases, [{ cluster: 'c1', kind: 'node', state: 'held', startMs: T0 }, { cluster: 'c2', state: 'committed', startMs: T0 + HOUR, endMs: T0 + 3 * HOUR }])
  t.same(calendarOf(ledger).own(false).leases, [])
  t.match(calendarOf(ledger, { refusal: () => 'cordoned: new memory' }).own(false), { takesLeases: false, why: 'cordoned: new memory' })
  const full = await opened('osaka-9')
  await full.hold(hold(1, 0, 2, { items: Array.from({ length: MAX_CALENDAR_LEASES }, (_, i) => ({ ...node(`x${i}`), resources: { vcpus: 0, memoryMib: 1, diskMib: 0, volumes: 0, bandwidthMbit: 0 } })) }))
  await full.hold(hold(2, 0, 2, { masterPeer: 'other' }))
  t.match(calendarOf(full).own(true), { leases: { length: MAX_CALENDAR_LEASES }, leftOut: 1 })
})

t.test('a site is all of its hosts that answer and take leases; others learn no names', async t => {
  const ledger = await opened('osaka-1')
  const replies: Record<string, Methods['hostCalendar']['reply']> = {
    p2: { nowMs: T0, takesLeases: true, why: '', steps: [{ atMs: T0, free: CAPACITY }], leases: [], leftOut: 0, quota: [] },
    p3: { nowMs: T0, takesLeases: false, why: 'cordoned', steps: [{ atMs: T0, free: CAPACITY }], leases: [], leftOut: 0, quota: [] }
  }
  let asked = 0
  const call: CallPeer = (peer, method) => {
    asked++
    const reply = replies[peer]
    return reply === undefined ? Promise.reject(new UnreachableError(`cannot reach ${peer} for ${method}`)) : Promise.resolve(reply as never)
  }
  const hosts = ['p1', 'p2', 'p3', 'p4'].map((peer, i) => ({ host: `osaka-${i + 1}`, peer, roles: ['compute'] }))
  const calendar = calendarOf(ledger, { hosts: () => hosts, call })
  const [site, again] = await Promise.all([calendar.site(), calendar.site()])
  t.equal(site, again, 'asked at the same time they are asked once')
  t.equal(asked, 3)
  t.same(site.hosts.map(one => one.host), ['osaka-1', 'osaka-2'])
  const [told, too] = await Promise.all([calendar.told(), calendar.told()])
  t.equal(told, too, 'and what they say is put together once')
  t.same(told.hosts.map(one => Object.keys(one)), [['roles', 'steps'], ['roles', 'steps']])
  const all = await calendar.hosts(true)
  t.match(all.map(({ host, error, reply }) => [host, error === '', reply === null]), [['osaka-1', true, false], ['osaka-2', true, false], ['osaka-3', true, false], ['osaka-4', false, true]])
})

t.test('a host that is drained gets nothing new, whenever it would start; what it has is listed until it has gone', async t => {
  const ledger = await opened('osaka-1')
  const cordon = await createCordon(createMemoryStore(), 'osaka-1')
  const lessor = createLessor({
    site: 'osaka', host: 'osaka-1', ledger, reconciler: () => null as never, details: { of: () => Promise.resolve({}) }, events: createEventLog(() => T0), now: () => T0, monotonic: () => 0, sleep: () => Promise.resolve(),
    truth: null as never, signGrant: () => null as never, cordon
  })
  await lessor.hold(hold(1, 0, 5))
  await lessor.commit({ clusterId: uuid(1), offerId: 'o1', epoch: 1 })
  await lessor.hold(hold(2, 4, 6, { masterSite: 'osaka' }))
  await lessor.commit({ clusterId: uuid(2), offerId: 'o2', epoch: 1 })
  const calendar = calendarOf(ledger, { refusal: () => cordon.get().cordoned ? 'cordoned' : null })
  const drain = createDrain({
    site: 'osaka', host: 'osaka-1', isGateway: false, calendar, call: nobody, hosts: () => [{ host: 'osaka-2', peerId: 'p2' }],
    cordonHost: async (host, cordoned, reason) => { await cordon.set(cordoned, reason); return { host, cordoned } }
  })
  t.match(await drain.look('osaka-1'), { cordoned: false, leases: { length: 2 } }, 'to look changes nothing')
  const begun = await drain.begin('osaka-1', '')
  t.match(begun, { host: 'osaka-1', cordoned: true, emptyMs: T0 + 6 * HOUR, leftOut: 0 })
  t.match(begun.leases, [
    { cluster: 'c2', movable: false, advice: 'has not started: musubi cluster delete c2, and ask anew' },
    { cluster: 'c1', movable: false, advice: /musubi cluster scale c1 .* musubi cluster delete c1, at site tokyo$/ }
  ])
  t.equal(cordon.get().reason, 'it is being drained')
  await t.rejects(lessor.hold(hold(3, 0, 1)), { code: 'HOST_CORDONED' })
  await t.rejects(lessor.hold(hold(4, 24, 30)), { code: 'HOST_CORDONED' }, 'nor in the future')
  await t.rejects(lessor.hold(hold(1, 0, 5, { key: 'grow', offerId: 'grow', items: [node('more')] })), { code: 'HOST_CORDONED' }, 'nor for a cluster that is here and grows')
  await lessor.keepAlive({ clusterId: uuid(1), epoch: 1, holder: 'master' })
  await ledger.release(uuid(1), 'deleted')
  await ledger.release(uuid(2), 'deleted')
  t.match(await drain.look('osaka-1'), { leases: [], emptyMs: 0 })
  await t.rejects(drain.look('osaka-2'), { code: 'NOT_A_GATEWAY', hint: /on osaka-2 itself/ })
  await t.rejects(drain.begin('osaka-7', ''), { code: 'NOT_FOUND', hint: /osaka-2/ })
})

t.test('over REST: the own calendar in a span, the site on a gateway, a drain', async t => {
  const ledger = await opened('osaka-1')
  await ledger.hold(hold(1, 0, 2))
  await ledger.hold(hold(2, 30, 33))
  const api = await createApi({ title: 'test', description: 'test', logger: silent })
  t.teardown(() => api.close())
  const calendar = calendarOf(ledger)
  const drain = createDrain({ site: 'osaka', host: 'osaka-1', isGateway: true, calendar, call: nobody, hosts: () => [], cordonHost: (host, cordoned) => Promise.resolve({ host, cordoned }) })
  const routes = { site: 'osaka', host: 'osaka-1', gateways: () => ['osaka-1'], calendar, drain }
  addCalendarRoutes(api, { ...routes, isGateway: true })
  const get = async (path: string): Promise<{ status: number, body: unknown }> => {
    const reply = await api.inject({ method: 'GET', url: path })
    return { status: reply.statusCode, body: reply.json() }
  }
  const day = await get('/v1/calendar')
  t.match(day.body, { site: 'osaka', fromMs: T0, untilMs: T0 + 24 * HOUR, hosts: [{ host: 'osaka-1', error: '', leases: [{ cluster: 'c1' }], steps: { length: 2 } }] })
  t.match((await get(`/v1/calendar?site=osaka&fromMs=${T0 + 2 * HOUR}&untilMs=${T0 + 40 * HOUR}`)).body, { hosts: [{ leases: [{ cluster: 'c2' }] }] }, 'half open: what ends at its beginning is not in it')
  t.match(await get('/v1/calendar?site=tokyo'), { status: 400, body: { code: 'INVALID_INPUT', detail: /of site osaka/, hint: /dry-run --start/ } })
  t.match(await get(`/v1/calendar?fromMs=${T0}&untilMs=${T0}`), { status: 400 })
  t.match((await get('/v1/hosts/osaka-1/drain')).body, { cordoned: false, leases: [{ cluster: 'c2' }, { cluster: 'c1', advice: /decided within a minute/ }] })
  const posted = await api.inject({ method: 'POST', url: '/v1/hosts/osaka-1/drain', payload: { reason: 'x' } })
  t.equal(posted.statusCode, 200)
})

t.test('who has the image of a cluster is told to the site that left it there, and to no other', async t => {
  const [one = '', two = '', three = ''] = ['1', '2', '3'].map(digit => digit.repeat(64))
  const stores = [
    { owner: 'tokyo', checked: false, untilMs: T0 + HOUR, held: [three] }, { owner: 'tokyo', checked: true, untilMs: T0 + HOUR, held: [one] },
    { owner: 'tokyo', checked: true, untilMs: T0 + HOUR, held: [two] }, { owner: 'kyoto', checked: true, untilMs: T0 + HOUR, held: [two] }, { owner: 'nara', checked: true, untilMs: T0, held: [one] }
  ]
  const told = createTold({ site: 'osaka', now: () => T0, retained: () => stores, calendar: { told: () => Promise.resolve({ site: 'osaka', nowMs: T0, hosts: [{ roles: ['compute'], steps: [] }] }) } })
  const held = async (objects: string[], site: string | null): Promise<string[]> => (await told.answer({ sentMs: T0, objects, onlyObjects: true }, { site })).held
  t.same(await held([one, two, three, one], 'tokyo'), [one], 'of the store that its next cluster gets, which is the last one that was checked')
  t.same(await held([one, two, three], 'kyoto'), [two])
  for (const site of ['nara', 'osaka', '', null]) t.same(await held([one, two, three], site), [], String(site))
  t.match(await told.answer({ sentMs: T0, objects: [one] }, { site: 'tokyo' }), { hosts: [{ roles: ['compute'] }], held: [one] }, 'beside the calendar')
  t.same((await told.answer({ sentMs: T0, objects: [], onlyObjects: true }, { site: 'tokyo' })).hosts, [])
  for (const objects of [['x'], [one.toUpperCase().replaceAll('1', 'A')], [`${one}1`], Array.from({ length: MAX_HELD_OBJECTS + 1 }, () => one)]) await t.rejects(told.answer({ sentMs: T0, objects }, { site: 'tokyo' }), { code: 'INVALID_INPUT' })
})

t.test('a site of higher priority hears what it could have by notice and when it is lent anything, in one answer, and nobody else does', async t => {
  const all: HostCalendar[] = [{ host: 'osaka-1', roles: ['compute'], steps: [{ atMs: T0, free: zero() }] }]
  const lending: Lending = { open: [{ fromMs: T0 + 2 * HOUR, untilMs: T0 + 4 * HOUR }], longestMs: null, latestStartMs: null, knownUntilMs: T0 + 10 * HOUR }
  const byNotice = (hosts: readonly HostCalendar[]): HostCalendar[] => hosts.map(host => ({ ...host, steps: [...host.steps, { atMs: T0 + HOUR, free: { ...zero(), vcpus: 4 } }] }))
  const told = createTold({
    site: 'osaka', now: () => T0, noticed: site => site === 'tokyo' ? byNotice : undefined, lending: site => site === 'tokyo' ? lending : null,
    calendar: { told: noticed => Promise.resolve({ site: 'osaka', nowMs: T0, hosts: (noticed?.(all) ?? all).map(({ roles, steps }) => ({ roles: [...roles], steps: [...steps] })) }) }
  })
  t.match(await told.answer({ sentMs: T0, objects: [] }, { site: 'tokyo' }), { hosts: [{ steps: { length: 2 } }], lending: { open: [{ fromMs: T0 + 2 * HOUR, untilMs: T0 + 4 * HOUR }] } })
  for (const site of ['kyoto', null]) t.match(await told.answer({ sentMs: T0, objects: [] }, { site }), { hosts: [{ steps: { length: 1 } }], lending: null })
  const start = (hosts: readonly HostCalendar[], of: Lending | null): number | null => earliestTogether([{ site: 'osaka', hosts, ...of === null ? {} : { starts: startsIn(of, HOUR) } }], {
    fromMs: T0, latestMs: T0 + 9 * HOUR, durationMs: HOUR, nodes: 4, nodesIn: ({ vcpus }) => vcpus, watch: [], tries: 8,
    fits: startMs => hosts.every(({ steps }) => leastIn(steps, startMs, startMs + HOUR).vcpus >= 4)
  })
  t.equal(start(byNotice(all), null), T0 + HOUR, 'from the notice on')
  t.equal(start(byNotice(all), lending), T0 + 2 * HOUR, 'not before the site lends')
  t.equal(start(all, lending), null, 'an earlier release says nothing of notices')
})
