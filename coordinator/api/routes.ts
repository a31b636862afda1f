import Type from 'typebox'
import { CoordinatorStatusSchema, SearchResultSchema, SearchSchema, SiteSchema, type CoordinatorStatus, type SiteResource } from '../../protocol/api.ts'
import { searchSites } from '../../protocol/core/search.ts'
import type { Api } from '../../protocol/rest/server.ts'

/** The coordinator's read routes: a repository that answers, never one that decides. */
export function addCoordinatorRoutes (api: Api, deps: { status: () => CoordinatorStatus, sites: () => SiteResource[] }): void {
  api.get('/v1/status', { schema: { summary: 'identity and peers of the coordinator', response: { 200: CoordinatorStatusSchema } } }, () => deps.status())
  api.get('/v1/sites', { schema: { summary: 'sites that advertise', response: { 200: Type.Array(SiteSchema) } } }, () => deps.sites())
  api.get('/v1/sites/:site', { schema: { summary: 'one site', params: Type.Object({ site: Type.String({ maxLength: 64 }) }), response: { 200: SiteSchema } } }, async (request, reply) => {
    const site = deps.sites().find(s => s.site === request.params.site)
    if (site === undefined) { reply.callNotFound(); return await reply }
    return site
  })
  api.post('/v1/search', { schema: { summary: 'which sites could lend what now', body: SearchSchema, response: { 200: SearchResultSchema } } }, request => searchSites(request.body, deps.sites()))
}
