import Type from 'typebox'
import type { Caches } from '../../cache/fleet.ts'
import type { RetainedStores } from '../../cache/retained.ts'
import { CacheBudgetBodySchema, CacheBudgetSchema, CacheDeedSchema, CachedObjectsSchema, CancelBodySchema, ClusterCachesSchema, ForgetBodySchema, PreheatBodySchema, PurgeBodySchema, RetainedDeedSchema, RetainedStoresSchema } from '../../../protocol/cache-api.ts'
import type { Api } from '../../../protocol/rest/server.ts'

/** A site, and where its page ends. */
const MAX_AFTER = 64 + 1 + 540
const ByName = Type.Object({ name: Type.String({ maxLength: 64 }) })
const short = (maxLength: number) => Type.Optional(Type.String({ minLength: 1, maxLength }))

/** What the master of a cluster is asked about its caches. @param caches throws on a host that is no gateway */
export function addCacheRoutes (api: Api, caches: () => Caches): void {
  api.get('/v1/clusters/:name/cache', { schema: { summary: 'figures of the caches of a cluster, by site, class and node', params: ByName, response: { 200: ClusterCachesSchema } } }, request => caches().status(request.params.name))
  api.get('/v1/clusters/:name/cache/objects', {
    schema: { summary: 'what caches have, a page at a time; without a site one site after the other', params: ByName, querystring: Type.Object({ site: short(64), prefix: short(512), after: short(MAX_AFTER) }), response: { 200: CachedObjectsSchema } }
  }, request => caches().list(request.params.name, request.query))
  api.post('/v1/clusters/:name/cache/preheat', { schema: { summary: 'objects to fetch before nodes ask', params: ByName, body: PreheatBodySchema, response: { 200: CacheDeedSchema } } }, request => caches().preheat(request.params.name, request.body))
  api.post('/v1/clusters/:name/cache/cancel', { schema: { summary: 'takes an order away; what was fetched stays', params: ByName, body: CancelBodySchema, response: { 200: CacheDeedSchema } } }, request => caches().cancel(request.params.name, request.body.order, request.body.site))
  api.post('/v1/clusters/:name/cache/purge', { schema: { summary: 'removes objects from the stores', params: ByName, body: PurgeBodySchema, response: { 200: CacheDeedSchema } } }, request => caches().purge(request.params.name, request.body))
  api.get('/v1/clusters/:name/cache/budget', { schema: { summary: 'the WAN budget of the caches of a cluster, by site', params: ByName, response: { 200: CacheBudgetSchema } } }, request => caches().budget(request.params.name))
  api.post('/v1/clusters/:name/cache/budget', { schema: { summary: 'another WAN budget, of all sites or of one', params: ByName, body: CacheBudgetBodySchema, response: { 200: CacheBudgetSchema } } }, request => caches().setBudget(request.params.name, request.body))
}

/** What a gateway keeps of caches whose clusters are over. @param retained throws where there is nothing of the kind */
export function addRetainedRoutes (api: Api, retained: () => RetainedStores): void {
  api.get('/v1/cache/retained', { schema: { summary: 'stores of this gateway that outlive their clusters', response: { 200: RetainedStoresSchema } } }, () => retained().list())
  api.post('/v1/cache/retained/purge', { schema: { summary: 'drops those of one site\'s clusters, or all', body: ForgetBodySchema, response: { 200: RetainedDeedSchema } } }, request => retained().purge('owner' in request.body ? request.body.owner : null))
}
