/** Reservations among real agents: made, shown, started when their time has come, and ended when nobody comes. */
import t from 'tap'
import { makeFederation, until } from '../agents/federation.ts'
import { LEASED, show, spec } from '../agents/load.ts'
import type { ClusterResource, EventResource, LeaseEventResource } from '../../protocol/api.ts'
import type { CalendarResource, DrainResource } from '../../protocol/calendar-api.ts'

t.setTimeout(600_000)
/** T_activate, and a busy machine. */
const NO_SHOW_MS = 150_000
const PATIENCE_MS = 60_000
/** Beyond what counts as now for a lender (a minute), with room for a slow negotiation. */
const AHEAD_MS = 75_000
const HOUR = 3_600_000

/** Gateways carry frontend and segments, the other hosts two nodes each: a cluster of four needs all of them. */
const SITES = ['tokyo', 'osaka'].map(name => ({
  name,
  hosts: [
    { name: `${name}-1`, roles: ['gateway' as const], vcpus: 1, memoryMiB: 1024, diskMiB: 0 },
    { name: `${name}-2`, roles: ['compute' as const], vcpus: 2, memoryMiB: 4096, diskMiB: 0 }
  ]
}))

t.test('reservations of two sites', { timeout: 590_000 }, async t => {
  const f = await makeFederation(SITES)
  t.teardown(() => f.close())
  await f.start()
  const [master, lender, gateway] = [f.agent('tokyo-1'), f.agent('osaka-2'), f.agent('osaka-1')]
  const reach = async (name: string, states: readonly string[], withinMs = PATIENCE_MS): Promise<ClusterResource> => {
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
  const states = async (): Promise<string[]> => [...new Set((await Promise.all(f.agents.filter(agent => agent.running).map(agent => agent.leases()))).flat().map(lease => lease.state))]
  const objects = async (): Promise<number> => (await Promise.all(f.agents.filter(agent => agent.running).map(agent => agent.objects()))).flat().length

  await t.test('nothing runs before the start, and all of it afterwards', async t => {
    const startMs = Date.now() + AHEAD_MS
    await master.post(`/v1/clusters?startMs=${startMs}&forMs=${HOUR}`, spec('early', 4))
    const cluster = await reach('early', ['reserved', 'failed'])
    t.match(cluster, { state: 'reserved', startsAt: startMs, expiresAt: startMs + HOUR })
    t.same(await states(), ['committed'])
    t.equal(await objects(), 0)
    const site = await gateway.get<CalendarResource>(`/v1/calendar?site=osaka&fromMs=${Date.now()}&untilMs=${startMs + HOUR}`)
    t.same(site.hosts.map(({ host, error, leases }) => [host, error, leases.map(lease => `${lease.cluster} ${lease.kind} ${lease.state}`)]), [
      ['osaka-1', '', ['early segment committed', 'early quota committed']], ['osaka-2', '', ['early node committed', 'early node committed']]
    ])
    await master.post(`/v1/clusters?startMs=${startMs + 1_000}`, spec('beside', 4))
    t.match((await reach('beside', ['reserved', 'failed'])).error, { code: 'NO_CAPACITY', hint: /would fit from/ })
    await master.post('/v1/clusters?earliest=true', spec('after', 4))
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
    await master.post(`/v1/clusters?startMs=${Date.now() + 3 * HOUR}`, spec('later', 4))
    t.match((await reach('later', ['reserved', 'failed'])).error, { code: 'NO_CAPACITY' }, 'nor in the future')
    await master.delete('/v1/clusters/early')
    await reach('early', ['deleted'])
    t.match(await gateway.get<DrainResource>('/v1/hosts/osaka-2/drain'), { leases: [], emptyMs: 0 })
    await gateway.post('/v1/hosts/osaka-2/cordon', { cordoned: false })
    await until('it is taken for open again', async () => !(await master.get<Array<{ site: string, freeByHost: unknown[] }>>('/v1/sites')).some(site => site.site === 'osaka' && site.freeByHost.length === 0), PATIENCE_MS)
  })

  await t.test('a master that dies before the start: what it had reserved ends by itself', async t => {
    await master.post(`/v1/clusters?startMs=${Date.now() + 20_000}`, spec('lost', 4))
    await reach('lost', ['reserved'])
    await master.end('SIGKILL')
    await until('nothing of it is left', async () => (await states()).length === 0, NO_SHOW_MS, 500)
    t.match((await lender.get<EventResource[]>('/v1/events')).filter(event => event.type === 'lease.no_show'), [{ cluster: 'lost', message: /2 leases of cluster lost of tokyo ended unused/ }])
    const history = await lender.get<LeaseEventResource[]>('/v1/ledger/history?cluster=lost')
    t.match(history.at(-1), { event: 'expire', from: 'committed', state: 'ended', reason: /not activated in time|not confirmed/ })
    t.equal(await objects(), 0)
    await master.start()
    t.match(await reach('lost', ['failed', ...LEASED]), { state: 'failed' })
  })
})
