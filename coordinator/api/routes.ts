import Type from 'typebox'
import type { Coordinator } from '../coordinator.ts'
import { coordinatorMetrics, renderMetrics } from '../metrics.ts'
import {
  CoordinatorExportSchema, CoordinatorInvitedSchema, CoordinatorInviteSchema, CoordinatorRevokedSchema, CoordinatorRevokeSchema, CoordinatorSiteSchema, CoordinatorStatusSchema,
  InvitationSchema, SearchResultSchema, SearchSchema, SiteSchema
} from '../../protocol/api.ts'
import { MusubiError } from '../../protocol/core/errors.ts'
import { searchSites } from '../../protocol/core/search.ts'
import type { Api } from '../../protocol/rest/server.ts'

const SITE = Type.Object({ site: Type.String({ maxLength: 64 }) })
const ID = Type.Object({ id: Type.String({ minLength: 1, maxLength: 64 }) })

/** The read routes, on the unix socket and on TCP: a repository that answers, never one that decides. */
export function addReadRoutes (api: Api, coordinator: Coordinator): void {
  api.get('/v1/status', { schema: { summary: 'identity, peers, certificate and counts of the coordinator', response: { 200: CoordinatorStatusSchema } } }, () => coordinator.status())
  api.get('/v1/sites', { schema: { summary: 'sites that advertise', response: { 200: Type.Array(SiteSchema) } } }, () => coordinator.sites())
  api.get('/v1/sites/:site', { schema: { summary: 'one site', params: SITE, response: { 200: SiteSchema } } }, async (request, reply) => {
    const site = coordinator.sites().find(s => s.site === request.params.site)
    if (site === undefined) { reply.callNotFound(); return await reply }
    return site
  })
  api.get('/v1/admissions', { schema: { summary: 'sites that were admitted or are heard of, and how they are', response: { 200: Type.Array(CoordinatorSiteSchema) } } }, () => coordinator.admissions())
  api.post('/v1/search', { schema: { summary: 'which sites could lend what now', body: SearchSchema, response: { 200: SearchResultSchema } } }, request => searchSites(request.body, coordinator.sites()))
  api.get('/metrics', { schema: { hide: true } }, async (_request, reply) => {
    await reply.type('text/plain; version=0.0.4; charset=utf-8').send(renderMetrics(coordinatorMetrics(coordinator.status(), await coordinator.admissions())))
  })
}

/** What decides who is in the federation: on the unix socket only, whose mode says who may. */
export function addAdmissionRoutes (api: Api, coordinator: Coordinator): void {
  api.get('/v1/invitations', { schema: { summary: 'invitations, without their secrets', response: { 200: Type.Array(InvitationSchema) } } }, () => coordinator.invitations())
  api.post('/v1/invitations', { schema: { summary: 'a one-time token for a site; shown once', body: CoordinatorInviteSchema, response: { 200: CoordinatorInvitedSchema } } }, async request => await coordinator.invite(request.body))
  api.delete('/v1/invitations/:id', { schema: { summary: 'withdraws an invitation', params: ID, response: { 200: InvitationSchema } } }, async request => await coordinator.withdraw(request.params.id))
  api.post('/v1/revocations', { schema: { summary: 'puts a site out of the federation', body: CoordinatorRevokeSchema, response: { 200: CoordinatorRevokedSchema } } }, async request => await coordinator.revoke(request.body))
  api.post('/v1/export', { schema: { summary: 'what another coordinator must know, without any key', response: { 200: CoordinatorExportSchema } } }, async () => ({ state: await coordinator.exportState() }))
}

/** On TCP nobody is asked who he is: say where these are. */
export function refuseAdmissionRoutes (api: Api): void {
  const refuse = (): never => {
    throw new MusubiError('FORBIDDEN', 'this is not served over TCP, where nobody is asked who he is', { hint: 'use the unix socket, on the host of the coordinator: musubi coordinator ... without --url' })
  }
  for (const url of ['/v1/invitations', '/v1/invitations/:id', '/v1/revocations', '/v1/export']) api.route({ method: ['GET', 'POST', 'DELETE'], url, schema: { hide: true }, handler: refuse })
}
