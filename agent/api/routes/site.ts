import Type from 'typebox'
import type { RouteDeps } from '../routes.ts'
import { InvitationSchema, InviteBodySchema, InvitedSchema, RevokeBodySchema, RevokedSchema } from '../../../protocol/api.ts'
import { PolicyCheckSchema, PolicySchema } from '../../../protocol/policy-api.ts'
import type { Api } from '../../../protocol/rest/server.ts'

const ById = Type.Object({ id: Type.String({ maxLength: 64 }) })

/** What only gateways do for their site: invite and revoke hosts, keep the policy. */
export function addSiteRoutes (api: Api, deps: Pick<RouteDeps, 'policy' | 'issuer'>, onGateway: <T>(part: T | null, what: string) => T): void {
  const policy = (): NonNullable<RouteDeps['policy']> => onGateway(deps.policy, 'it does not keep the policy of the site')
  const issuer = (): NonNullable<RouteDeps['issuer']> => onGateway(deps.issuer, 'it admits nobody to the site')

  api.get('/v1/policy', { schema: { summary: 'what this site lends to whom, and what this gateway lends now', response: { 200: PolicySchema } } }, () => policy().get())
  api.put('/v1/policy', { schema: { summary: 'put another policy in force, at all gateways of the site', body: Type.Unknown({ description: 'policy: {default, sites, own}' }), response: { 200: PolicySchema } } }, request => policy().set(request.body))
  api.post('/v1/policy/checks', { schema: { summary: 'what would be wrong with a policy, and what is lent now against it; nothing is set', body: Type.Unknown({ description: 'policy: {default, sites, own}' }), response: { 200: PolicyCheckSchema } } }, request => policy().check(request.body))

  api.get('/v1/site/invitations', { schema: { summary: 'invitations to this site, newest first, without their secrets', response: { 200: Type.Array(InvitationSchema) } } }, () => issuer().invitations())
  api.post('/v1/site/invitations', { schema: { summary: 'make a token with which one host joins this site', body: InviteBodySchema, response: { 201: InvitedSchema } } }, async (request, reply) => {
    // the answer holds a secret: nothing on the way may keep it
    return await reply.status(201).header('cache-control', 'no-store').send(await issuer().invite(request.body))
  })
  api.delete('/v1/site/invitations/:id', { schema: { summary: 'withdraw an invitation that was not used', params: ById, response: { 200: InvitationSchema } } }, request => issuer().withdraw(request.params.id))
  api.post('/v1/site/revocations', { schema: { summary: 'shut a host out of the site, for good', body: RevokeBodySchema, response: { 200: RevokedSchema } } }, request => issuer().revoke(request.body.host, request.body.reason ?? ''))
}
