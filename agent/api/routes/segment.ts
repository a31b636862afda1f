import Type from 'typebox'
import type { Diagnose } from '../../diagnose/diagnose.ts'
import { DiagnosisSchema, PingBodySchema, PingResultSchema } from '../../../protocol/network-api.ts'
import { NotFoundError } from '../../../protocol/core/errors.ts'
import type { Api } from '../../../protocol/rest/server.ts'

const ByName = Type.Object({ name: Type.String({ maxLength: 64 }) })

/** What people ask when nodes cannot reach each other. Both send packets, so neither is a GET. */
export function addSegmentRoutes (api: Api, deps: { diagnose: Diagnose | null }): void {
  const diagnose = (): Diagnose => {
    if (deps.diagnose === null) throw new NotFoundError('this host has no real segments', 'see drivers in its configuration')
    return deps.diagnose
  }
  api.post('/v1/segments/pings', { schema: { summary: 'ping over a segment, or each hop of the way; on a gateway', body: PingBodySchema, response: { 200: PingResultSchema } } }, request => diagnose().ping(request.body))
  api.post('/v1/segments/:name/diagnosis', { schema: { summary: 'what is wrong with the segment of a cluster, as seen from this host', params: ByName, response: { 200: DiagnosisSchema } } }, request => diagnose().doctor(request.params.name))
}
