/** Reservations among real agents: made, shown, started when their time has come, and ended when nobody comes. */
import t from 'tap'
import type { RealAgent } from '../agents/agent.ts'
import { makeFederation, until, type SitePlan } from '../agents/federation.ts'
import { LEASED, show, spec } from '../agents/load.ts'
import type { ClusterResource, EventResource, LeaseEventResource } from '../../protocol/api.ts'
import type { CalendarResource, DrainResource } from '../../protocol/calendar-api.ts'

t.setTimeout(600_000)
/** T_activate, and a busy machine: nothing ends an unused lease sooner, so this is how long the file takes. What else it waits for passes meanwhile, at other sites. */
const NO_SHOW_MS = 150_000
const PATIENCE_MS = 60_000
/** Beyond what counts as now for a lender (a minute), with room for a slow negotiation. */
const AHEAD_MS = 75_000
const HOUR = 3_600_000

/** Gateways carry frontend and segments, the other hosts two nodes each: a cluster of four needs all of them. */
const SITES: SitePlan[] = [
  ...['tokyo', 'osaka'].map((name): SitePlan => ({
    name,
    hosts: [
      { name: `${name}-1`, roles: ['gateway'], vcpus: 1, memoryMiB: 1024, diskMiB: 0 },
      { name: `${name}-2`, roles: ['compute'], vcpus: 2, memoryMiB: 4096, diskMiB: 0 }
    ]
  })),
  // the same on one host each: agents take their time to start
  { name: 'kyoto', hosts: [{ name: 'kyoto-1', roles: ['gateway', 'compute'], vcpus: 3, memoryMiB: 5120, diskMiB: 0 }] },
  { name: 'nara', hosts: [{ name: 'nara-1', roles: ['gateway', 'compute'], vcpus: 2, memoryMiB: 4096, diskMiB: 0 }] }
]

async function reachAt (master: RealAgent, name: string, states: readonly string[], withinMs = PATIENCE_MS): Promise<ClusterResource> {
  const seen: ClusterResource[] = []
  await until(`${name} is ${states.join(' or ')}`, async () => {
    const found = await show(master, name)
    if (found !== null) seen.push(found)
    return found !== null && states.includes(found.state)
  }, withinMs).catch((error: unknown) => { throw new Error(`${String(error)}: it is ${seen.at(-1)?.state ?? 'unknown'} ${seen.at(-1)?.error?.message ?? ''}`) })
  const last = seen.at(-1)
  if (last === undefined) throw new Error(`${name} is not known`)
  return last
}

/** A cluster of four that has two sites to itself, as others are busy at the same time. */
function specAt (onlySites: readonly string[], name: string): object {
  const whole = spec(name, 4) as { spec: object }
  return { ...whole, spec: { ...whole.spec, placement: { onlySites } } }
}

const statesAt = async (agents: readonly RealAgent[]): Promise<string[]> => [...new Set((await Promise.all(agents.filter(agent => agent.running).map(agent => agent.leases()))).flat().map(lease => lease.state))]
const objectsAt = async (agents: readonly RealAgent[]): Promise<number> => (await Promise.all(agents.filter(agent => agent.running).map(agent => agent.objects()))).flat().length

interface Lost { reserved: string[], events: EventResource[], history: LeaseEventResource[], objects: number, cluster: ClusterResource }

/** A reservation whose master dies before its start, until nothing of it is left; then the master comes back. */
async function loseMaster (agents: readonly RealAgent[], master: RealAgent, lender: RealAgent): Promise<Lost> {
  await master.post(`/v1/clusters?startMs=${Date.now() + 20_000}`, specAt(['kyoto', 'nara'], 'lost'))
  await reachAt(master, 'lost', ['reserved'])
  await master.end('SIGKILL')
  const reserved = await statesAt(agents)
  await until('nothing of it is left', async () => (await statesAt(agents)).length === 0, NO_SHOW_MS, 500)
  const [events, history, objects] = [await lender.get<EventResource[]>('/v1/events'), await lender.get<LeaseEventResource[]>('/v1/ledger/history?cluster=lost'), await objectsAt(agents)]
  await master.start()
  return { reserved, events, history, objects, cluster: await reachAt(master, 'lost', ['failed', ...LEASED]) }
}

t.test('reservations of two sites', { timeout: 590_000 }, async t => {
  const f = await makeFederation(SITES)
  t.teardown(() => f.close())
  await f.start()
  const [master, gateway] = [f.agent('tokyo-1'), f.agent('osaka-1')]
  const group = (...sites: string[]): RealAgent[] => f.agents.filter(agent => sites.includes(agent.site))
  const lost = loseMaster(group('kyoto', 'nara'), f.agent('kyoto-1'), f.agent('nara-1')).then(found => ({ found, error: null }), (error: unknown) => ({ found: null, error }))
  const reach = async (name: string, states: readonly string[], withinMs = PATIENCE_MS): Promise<ClusterResource> => await reachAt(master, name, states, withinMs)
  const states = async (): Promise<string[]> => await statesAt(group('tokyo', 'osaka'))
  const objects = async (): Promise<number> => await objectsAt(group('tokyo', 'osaka'))
  const wanted = (name: string): object => specAt(['tokyo', 'osaka'], name)

  await t.test('nothing runs before the start, and all of it afterwards', async t => {
    const startMs = Date.now() + AHEAD_MS
    await master.post(`/v1/clusters?startMs=${startMs}&forMs=${HOUR}`, wanted('early'))
    const cluster = await reach('early', ['reserved', 'failed'])
    t.match(cluster, { state: 'reserved', startsAt: startMs, expiresAt: startMs + HOUR })
    t.same(await states(), ['committed'])
    t.equal(await objects(), 0)
    const site = await gateway.get<CalendarResource>(`/v1/calendar?site=osaka&fromMs=${Date.now()}&untilMs=${startMs + HOUR}`)
    t.same(site.hosts.map(({ host, error, leases }) => [host, error, leases.map(lease => `${lease.cluster} ${lease.kind} ${lease.state}`)]), [
      ['osaka-1', '', ['early segment committed', 'early quota committed']], ['osaka-2', '', ['early node committed', 'early node committed']]
    ])
    await master.post(`/v1/clusters?startMs=${startMs + 1_000}`, wanted('beside'))
    t.match((await reach('beside', ['reserved', 'failed'])).error, { code: 'NO_CAPACITY', hint: /would fit from/ })
    await master.post('/v1/clusters?earliest=true', wanted('after'))
    t.match(await reach('after', ['reserved', 'failed']), { state: 'reserved', startsAt: startMs + HOUR, expiresAt: startMs + 2 * HOUR })
    await master.delete('/v1/clusters/after')
    await reach('after', ['deleted'])
    t.same(await states(), ['committed'])
    await reach('early', [...LEASED, 'failed'], AHEAD_MS + PATIENCE_MS)
    t.ok(Date.now() >= startMs, 'not before its time')
    t.match(await show(master, 'early'), { error: null })
    await until('all of it is active', async () => JSON.stringify(await states()) === '["active"]', PATIENCE_MS)
    await until('its objects', async () => await objects() > 0, PATIENCE_MS)
  })

  await t.test('a host is drained: it lists what must go, and gets nothing new', async t => {
    const drain = await gateway.post<DrainResource>('/v1/hosts/osaka-2/drain', { reason: 'new memory' })
    t.match(drain, { host: 'osaka-2', cordoned: true, leases: [{ cluster: 'early', masterSite: 'tokyo', movable: false }, { cluster: 'early' }] })
    t.equal(drain.emptyMs, (await show(master, 'early'))?.expiresAt)
    await master.post(`/v1/clusters?startMs=${Date.now() + 3 * HOUR}`, wanted('later'))
    t.match((await reach('later', ['reserved', 'failed'])).error, { code: 'NO_CAPACITY' }, 'nor in the future')
    await master.delete('/v1/clusters/early')
    await reach('early', ['deleted'])
    t.match(await gateway.get<DrainResource>('/v1/hosts/osaka-2/drain'), { leases: [], emptyMs: 0 })
    await gateway.post('/v1/hosts/osaka-2/cordon', { cordoned: false })
    await until('it is taken for open again', async () => !(await master.get<Array<{ site: string, freeByHost: unknown[] }>>('/v1/sites')).some(site => site.site === 'osaka' && site.freeByHost.length === 0), PATIENCE_MS)
  })

  await t.test('a master that dies before the start: what it had reserved ends by itself', async t => {
    const { found, error } = await lost
    if (found === null) throw error
    t.same(found.reserved, ['committed'])
    t.match(found.events.filter(event => event.type === 'lease.no_show'), [{ cluster: 'lost', message: /^4 leases of cluster lost of kyoto ended unused/ }])
    t.match(found.history.at(-1), { event: 'expire', from: 'committed', state: 'ended', reason: /not activated in time|not confirmed/ })
    t.equal(found.objects, 0)
    t.match(found.cluster, { state: 'failed' })
  })
})
