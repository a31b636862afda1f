import t from 'tap'
import type { Calendar } from '../../../agent/calendar/calendar.ts'
import { createEventLog } from '../../../agent/events.ts'
import { createGateway, type Gateway } from '../../../agent/gateway/gateway.ts'
import { hostsFor } from '../../../agent/gateway/hosts-for.ts'
import type { Resources } from '../../../protocol/core/capacity.ts'
import type { SiteCalendar } from '../../../protocol/core/calendar/together.ts'
import type { SiteHost } from '../../../protocol/core/gateway/events.ts'
import type { HoldRequest, Request } from '../../../protocol/core/messages.ts'
import { createMemoryStore } from '../../../store/memory.ts'
import { silent } from '../../model/federation.ts'
import { facts } from '../../model/fixtures.ts'

const T0 = 1_800_000_000_000
const HOUR = 3_600_000
const MASTER = { peerId: 'peer-osaka', site: 'osaka', host: 'osaka-1', gateway: true }
const size = (vcpus: number): Resources => ({ vcpus, memoryMib: vcpus * 1024, diskMib: 0, volumes: 0, bandwidthMbit: 0 })
const NONE: Resources = { vcpus: 0, memoryMib: 0, diskMib: 0, volumes: 0, bandwidthMbit: 0 }
const advertised = (host: string, free: Resources, part: Partial<SiteHost> = {}): SiteHost => ({ host, roles: ['compute'], cordoned: false, peer: `peer-${host}`, underlayAddress: '192.0.2.9', free, ...part })
const asked = (part: Partial<Request> = {}): Request => ({
  key: 'k', clusterId: 'c1000000-0000-4000-8000-000000000000', cluster: 'demo', vni: 7, masterSite: 'osaka', startMs: T0, endMs: T0 + HOUR, nodes: [{ name: 'demo-tokyo-001', vcpus: 2, memoryMib: 512 }],
  volumes: [], frontend: false, holdTtlMs: 30_000, bandwidthMbit: 0, epoch: 1, sentMs: T0, grow: false, ...part
})
const steps = (vcpus: number): SiteCalendar['hosts'][number]['steps'] => [{ atMs: T0, free: size(vcpus) }]

/** A calendar that counts how often its site is looked at. */
function calendarOf (all: Omit<SiteCalendar, 'site'> | Promise<SiteCalendar>): Pick<Calendar, 'site'> & { looks: number } {
  const calendar = { looks: 0, site: () => { calendar.looks++; return all instanceof Promise ? all : Promise.resolve({ site: 'tokyo', ...all }) } }
  return calendar
}

t.test('a request for now costs no look where what is advertised suffices, and is refused by no advertisement', async t => {
  const calendar = calendarOf({ hosts: [{ host: 'a', roles: ['compute'], steps: steps(2) }, { host: 'b', roles: ['compute'], steps: steps(0) }] })
  t.same(await hostsFor(asked(), [advertised('a', size(2))], new Map(), calendar, () => T0), { hosts: [advertised('a', size(2))], calendars: null, closed: [] })
  await hostsFor(asked(), [advertised('a', NONE)], new Map([['a', size(2)]]), calendar, () => T0)
  t.equal(calendar.looks, 0, 'nor does the same question, asked again')
  const { hosts } = await hostsFor(asked(), [advertised('a', NONE), advertised('b', size(1))], new Map(), calendar, () => T0)
  t.same(hosts.map(({ host, free }) => [host, free.vcpus]), [['a', 2], ['b', 0]], 'hosts say themselves what they have')
  t.equal(calendar.looks, 1)
})

t.test('who takes nothing new has nothing and says why; who is silent has now what it has said, and nothing later', async t => {
  const calendar = calendarOf({ hosts: [], closed: [{ host: 'shut', why: 'the helper has not answered yet' }, { host: 'gone', why: 'cordoned' }] })
  const hosts = [advertised('shut', size(1)), advertised('silent', size(1)), advertised('gone', size(8), { cordoned: true })]
  const free = (seen: Awaited<ReturnType<typeof hostsFor>>): unknown => seen.hosts.map(host => [host.host, host.free.vcpus])
  const now = await hostsFor(asked(), hosts, new Map(), calendar, () => T0)
  t.same(free(now), [['shut', 0], ['silent', 1], ['gone', 0]])
  t.same(now.closed, [{ host: 'shut', why: 'the helper has not answered yet' }], 'what everybody knows to be cordoned is no news')
  t.same(free(await hostsFor(asked({ startMs: T0 + HOUR, endMs: T0 + 2 * HOUR }), hosts, new Map(), calendar, () => T0)), [['shut', 0], ['silent', 0], ['gone', 0]])
})

t.test('a host that hangs keeps no refusal long', async t => {
  const never = Promise.withResolvers<SiteCalendar>()
  t.same(await hostsFor(asked(), [advertised('a', NONE)], new Map(), calendarOf(never.promise), () => T0), { hosts: [advertised('a', NONE)], calendars: null, closed: [] })
})

t.test('the gateway offers what a host has that was advertised before it was ready, and says why one that is not ready has nothing', async t => {
  const gatewayOf = (calendar: Pick<Calendar, 'site'>): Gateway => createGateway({
    site: 'tokyo', store: createMemoryStore(), events: createEventLog(() => T0), log: silent, now: () => T0, newId: () => 'c2000000-0000-4000-8000-000000000000', calendar, facts: () => Promise.resolve(facts('tokyo', 0)),
    siteHosts: () => [advertised('tokyo-2', NONE)],
    call: ((_peer: string, method: string, request: HoldRequest) => method !== 'hold' ? Promise.resolve({ site: 'tokyo', host: 'h', ended: 0 })
      : Promise.resolve({ segmentId: 1000, localSegmentId: 0, receipts: request.items.map(({ leaseId }) => ({ leaseId, token: 1 })) })) as never
  })
  const ready = gatewayOf(calendarOf({ hosts: [{ host: 'tokyo-2', roles: ['compute'], steps: steps(2) }] }))
  await ready.start()
  t.match(await ready.request(asked(), MASTER), { site: 'tokyo', held: [{ kind: 'node', host: 'tokyo-2' }, { kind: 'segment' }] })
  const starting = gatewayOf(calendarOf({ hosts: [], closed: [{ host: 'tokyo-2', why: 'the helper has not answered yet' }] }))
  await starting.start()
  await t.rejects(starting.request(asked(), MASTER), { code: 'NO_CAPACITY', message: /needs 2 vCPU, 0 free.* on tokyo-2.*; tokyo-2 takes no new leases for now: the helper has not answered yet/ })
})
