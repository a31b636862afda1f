import Type from 'typebox'
import type { Planner } from '../../quote/planner.ts'
import { PlanQuerySchema, PlanSchema } from '../../../protocol/plan-api.ts'
import type { Api } from '../../../protocol/rest/server.ts'

/** Names with commas between them. */
export const namesIn = (text: string): string[] => text.split(',').map(name => name.trim()).filter(name => name !== '')

/** What a cluster would get, and from whom. */
export function addPlanRoutes (api: Api, planner: () => Planner): void {
  api.post('/v1/plans', {
    schema: {
      summary: 'offers of all sites for a cluster, side by side, and where it would go; nothing is held', querystring: PlanQuerySchema,
      body: Type.Unknown({ description: 'cluster specification' }), response: { 200: PlanSchema }
    }
  }, request => {
    const { sites = '', ...when } = request.query
    return planner().plan(request.body, when, namesIn(sites))
  })
}
