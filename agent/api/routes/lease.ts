import Type from 'typebox'
import type { AgentView } from '../view/view.ts'
import {
  AdoptBodySchema, ClusterSchema, ExtendBodySchema, LeaseDetailSchema, LeaseEventSchema, LeaseRevokeBodySchema, LeaseRevokedSchema, LeaseSchema, ScaleBodySchema
} from '../../../protocol/api.ts'
import { MAX_HISTORY_ANSWERED } from '../../../protocol/core/limits.ts'
import type { Api } from '../../../protocol/rest/server.ts'
import type { Master } from '../../master/master.ts'

const DEFAULT_HISTORY = 50
const ByName = Type.Object({ name: Type.String({ maxLength: 64 }) })

/** The ledger of this host: what it has promised, what it recorded, and its operator's way to end it. */
export function addLeaseRoutes (api: Api, view: AgentView): void {
  api.get('/v1/leases', { schema: { summary: 'leases in the ledger of this host', querystring: Type.Object({ all: Type.Optional(Type.Boolean()) }), response: { 200: Type.Array(LeaseSchema) } } }, request => view.leases(request.query.all === true))
  api.get('/v1/leases/:id', { schema: { summary: 'one lease, with what happened to it', params: Type.Object({ id: Type.String({ maxLength: 128 }) }), response: { 200: LeaseDetailSchema } } }, request => view.lease(request.params.id))
  api.get('/v1/ledger/history', {
    schema: {
      summary: 'what the ledger of this host recorded, oldest first',
      querystring: Type.Object({
        cluster: Type.Optional(Type.String({ minLength: 1, maxLength: 64, description: 'name or id' })), lease: Type.Optional(Type.String({ minLength: 1, maxLength: 128 })),
        limit: Type.Optional(Type.Integer({ minimum: 1, maximum: MAX_HISTORY_ANSWERED, description: 'the latest so many' }))
      }),
      response: { 200: Type.Array(LeaseEventSchema) }
    }
  }, request => view.history({ limit: DEFAULT_HISTORY, ...request.query }))
  api.post('/v1/ledger/revocations', { schema: { summary: 'end all leases of a cluster on this host', body: LeaseRevokeBodySchema, response: { 200: LeaseRevokedSchema } } }, request => view.revoke(request.body.cluster, request.body.reason))
}

/** What changes a cluster that is there: whether it is taken, its term, its size, its master. */
export function addAmendmentRoutes (api: Api, master: () => Master): void {
  api.post('/v1/clusters/:name/accept', { schema: { summary: 'take what sites hold for its user', params: ByName, response: { 202: ClusterSchema } } }, async (request, reply) =>
    await reply.status(202).send(await master().accept(request.params.name)))
  api.post('/v1/clusters/:name/extend', { schema: { summary: 'let a cluster last longer', params: ByName, body: ExtendBodySchema, response: { 200: ClusterSchema } } }, request => master().extend(request.params.name, request.body.termMs))
  api.post('/v1/clusters/:name/scale', { schema: { summary: 'more nodes, or fewer', params: ByName, body: ScaleBodySchema, response: { 200: ClusterSchema } } }, request => master().scale(request.params.name, request.body.nodes))
  api.post('/v1/clusters/:name/retry', { schema: { summary: 'ask anew for a cluster that failed', params: ByName, response: { 202: ClusterSchema } } }, async (request, reply) =>
    await reply.status(202).send(await master().retry(request.params.name)))
  api.post('/v1/clusters/:name/adopt', { schema: { summary: 'become the master of a cluster of this site whose master is gone', params: ByName, body: AdoptBodySchema, response: { 200: ClusterSchema } } }, request =>
    master().adopt(request.params.name, { force: request.body.force === true }))
}
