import Type from 'typebox'
import type { AgentView } from './view/view.ts'
import type { EventLog } from '../events.ts'
import type { Master } from '../master/master.ts'
import type { Api } from '../../protocol/rest/server.ts'
import { metricsText } from './metrics/metrics.ts'
import { addAmendmentRoutes, addLeaseRoutes } from './routes/lease.ts'
import type { Caches } from '../cache/fleet.ts'
import type { RetainedStores } from '../cache/retained.ts'
import { addCacheRoutes, addRetainedRoutes } from './routes/cache.ts'
import { addCalendarRoutes, type CalendarRouteDeps } from './routes/calendar.ts'
import { addSegmentRoutes } from './routes/segment.ts'
import { addSiteRoutes } from './routes/site.ts'
import { addTunnelRoutes } from './routes/tunnel.ts'
import { addPlanRoutes, namesIn } from './routes/plan.ts'
import type { Diagnose } from '../diagnose/diagnose.ts'
import type { PolicyView } from '../policy/view.ts'
import type { Planner } from '../quote/planner.ts'
import type { SiteIssuer } from '../site/issuer.ts'
import type { Tunnels } from '../tunnel/tunnels.ts'
import { InvalidInputError, MusubiError } from '../../protocol/core/errors.ts'
import { searchSites } from '../../protocol/core/search.ts'
import {
  AgentStatusSchema, ClusterSchema, ConsoleSchema, CordonBodySchema, CreateQuerySchema, CordonSchema, EventSchema, HostDetailSchema, HostSchema, type CordonResource, type SearchQuery, SearchResultSchema, SearchSchema, SegmentPlanSchema, type SiteResource, SiteSchema
} from '../../protocol/api.ts'

export interface RouteDeps {
  view: AgentView
  events: EventLog
  /** null on a host that is no gateway */
  master: Master | null
  /** left out, or null, on a host that is no gateway */
  planner?: Planner | null
  /** host names of this site's gateways, for the error that sends people there */
  gateways: () => string[]
  /** null on a host that is no gateway */
  policy: PolicyView | null
  /** null on a host that is no gateway */
  issuer: Pick<SiteIssuer, 'invite' | 'invitations' | 'withdraw' | 'revoke'> | null
  /** left out, or null, with pretended drivers: there are no segments */
  diagnose?: Diagnose | null
  /** left out, or null, on a host that is no gateway */
  tunnels?: Pick<Tunnels, 'show' | 'rotate'> | null
  /** left out, or null, on a host that is no gateway */
  caches?: Caches | null
  /** left out, or null, on a host that is no gateway */
  retained?: RetainedStores | null
  /** left out: nothing is told of calendars */
  calendar?: CalendarRouteDeps
  cordonHost: (host: string, cordoned: boolean, reason: string) => Promise<CordonResource>
}

const ByName = Type.Object({ name: Type.String({ maxLength: 64 }) })

/** Sites with what they have free in the time that is looked for: what they advertise is of now. One that tells no calendar has nothing then. */
async function sitesFor ({ startMs, endMs }: SearchQuery, sites: SiteResource[], master: Pick<Master, 'freeIn'> | null): Promise<SiteResource[]> {
  if (startMs === undefined || endMs === undefined || endMs <= startMs || master === null) return sites
  const then = new Map((await master.freeIn(startMs, endMs)).map(site => [site.site, site]))
  return sites.map(site => {
    const known = then.get(site.site)
    return site.state === 'dead' ? site : { ...site, freeByHost: (known?.freeByHost ?? []).map(free => ({ ...free })), volumeFreeMib: Math.max(0, ...known?.volumeFreeByHost ?? []) }
  })
}

/** The agent's REST routes. Reading works on every host; clusters are made on gateways. */
export function addAgentRoutes (api: Api, deps: RouteDeps): void {
  const { view, events } = deps
  const onGateway = <T>(part: T | null, what: string): T => {
    if (part !== null) return part
    const gateways = deps.gateways()
    throw new MusubiError('NOT_A_GATEWAY', `this host is no gateway, so ${what}`, { hint: gateways.length === 0 ? 'no gateway of this site is known yet' : `run it on ${gateways.join(' or ')}` })
  }
  const master = (): Master => onGateway(deps.master, 'it is not the master of clusters')

  api.get('/v1/status', { schema: { summary: 'identity, peers, capacity and objects of this agent', response: { 200: AgentStatusSchema } } }, () => view.status())
  api.get('/v1/hosts', { schema: { summary: 'hosts of this site', response: { 200: Type.Array(HostSchema) } } }, () => view.hosts())
  api.get('/v1/hosts/:name', { schema: { summary: 'one host of this site: inventory, certificate, path', params: ByName, response: { 200: HostDetailSchema } } }, request => view.host(request.params.name))
  api.post('/v1/hosts/:name/cordon', { schema: { summary: 'take a host out of use for new leases, or back into it', params: ByName, body: CordonBodySchema, response: { 200: CordonSchema } } }, request => deps.cordonHost(request.params.name, request.body.cordoned, request.body.reason ?? ''))
  api.get('/v1/sites', { schema: { summary: 'sites of the federation, as this agent sees them', response: { 200: Type.Array(SiteSchema) } } }, () => view.sites())
  api.post('/v1/search', { schema: { summary: 'which sites could lend what now', body: SearchSchema, response: { 200: SearchResultSchema } } }, async request => searchSites(request.body, await sitesFor(request.body, view.sites(), deps.master)))
  addLeaseRoutes(api, view)
  if (deps.calendar !== undefined) addCalendarRoutes(api, deps.calendar)

  addSiteRoutes(api, deps, onGateway)
  api.get('/metrics', { schema: { summary: 'figures in the text format of Prometheus' } }, async (_request, reply) => await reply.type('text/plain; version=0.0.4; charset=utf-8').send(metricsText(view.metrics(), deps.master?.list(), deps.master?.caches(), deps.retained?.figures())))

  api.get('/v1/clusters', { schema: { summary: 'clusters of this master, and masterless ones of its site', response: { 200: Type.Array(ClusterSchema) } } }, () => deps.master?.list() ?? [])
  api.post('/v1/clusters', {
    schema: {
      summary: 'ask for a cluster; follow it at its name', querystring: CreateQuerySchema, body: Type.Unknown({ description: 'cluster specification' }),
      response: { 200: Type.Object({ explanation: Type.String() }), 202: ClusterSchema }
    }
  }, async (request, reply) => {
    const { dryRun, holdMs, sites = '', ...when } = request.query
    if (dryRun === true && (holdMs !== undefined || sites !== '')) throw new InvalidInputError('a dry run holds nothing and asks no site', 'leave dryRun out, or holdMs and sites')
    if (dryRun === true) return await reply.send(await master().plan(request.body, when))
    const cluster = await master().create(request.body, when, { ...holdMs === undefined ? {} : { holdMs }, only: namesIn(sites) })
    return await reply.status(202).header('location', `/v1/clusters/${cluster.name}`).send(cluster)
  })
  api.get('/v1/clusters/:name', { schema: { summary: 'one cluster, by name or id', params: ByName, response: { 200: ClusterSchema } } }, request => master().get(request.params.name))
  api.delete('/v1/clusters/:name', { schema: { summary: 'delete a cluster and give back its leases', params: ByName, response: { 202: ClusterSchema } } }, async (request, reply) => {
    return await reply.status(202).send(await master().remove(request.params.name))
  })
  addAmendmentRoutes(api, master)
  addPlanRoutes(api, () => onGateway(deps.planner ?? null, 'it plans no clusters'))
  addCacheRoutes(api, () => onGateway(deps.caches ?? null, 'it is not the master of clusters'))
  addRetainedRoutes(api, () => onGateway(deps.retained ?? null, 'it has no caches'))
  addSegmentRoutes(api, { diagnose: deps.diagnose ?? null })
  addTunnelRoutes(api, () => onGateway(deps.tunnels ?? null, 'it has no tunnel to other sites'))
  api.get('/v1/clusters/:name/segment', {
    schema: {
      summary: 'what hosts are to have of the segment of a cluster', params: ByName,
      querystring: Type.Object({ host: Type.Optional(Type.String({ minLength: 1, maxLength: 64 })) }), response: { 200: SegmentPlanSchema }
    }
  }, request => view.segmentPlan(request.params.name, request.query.host))
  api.get('/v1/clusters/:name/nodes/:node/console', {
    schema: { summary: 'how to get a shell on a node', params: Type.Object({ name: Type.String({ maxLength: 64 }), node: Type.String({ maxLength: 64 }) }), response: { 200: ConsoleSchema } }
  }, request => view.console(master().record(request.params.name), request.params.node))

  api.get('/v1/events', { schema: { summary: 'what happened, as far as this process remembers', querystring: Type.Object({ since: Type.Optional(Type.Integer({ minimum: 0 })) }), response: { 200: Type.Array(EventSchema) } } }, request => events.list(request.query.since ?? 0))
  api.get('/v1/events/stream', { schema: { summary: 'server-sent events: what was, then what happens' } }, (request, reply) => {
    reply.hijack()
    const out = reply.raw
    out.writeHead(200, { 'content-type': 'text/event-stream', 'cache-control': 'no-store' })
    const write = (event: object): void => {
      // A reader that does not read is let go rather than buffered for.
      if (out.writableLength > 1024 * 1024) out.destroy()
      else out.write(`data: ${JSON.stringify(event)}\n\n`)
    }
    for (const event of events.list()) write(event)
    const end = events.subscribe(write)
    request.raw.on('close', end)
  })
}
