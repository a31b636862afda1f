/** What a plan of a cluster looks like over REST: offers of sites side by side, and where it would go. */
import Type, { type Static } from 'typebox'
import { CreateQuerySchema, SiteNamesSchema, type ClusterResource } from './api.ts'

const text = (description: string) => Type.String({ description })
const count = (description: string) => Type.Integer({ minimum: 0, description })
const orNull = (description: string) => Type.Union([Type.Integer({ minimum: 0 }), Type.Null()], { description })

const { startMs, endMs, forMs, earliest, withinMs } = CreateQuerySchema.properties
export const PlanQuerySchema = Type.Object({
  startMs, endMs, forMs, earliest, withinMs,
  sites: SiteNamesSchema
}, { additionalProperties: false })

const OfferSchema = Type.Object({
  site: text('who'), gateway: text('host that was asked'),
  answer: Type.Union([Type.Literal('quote'), Type.Literal('cannot-quote'), Type.Literal('none')], { description: 'cannot-quote: of an older release, known by what it advertises; none: the reasons say why' }),
  taken: Type.Boolean({ description: 'whether it would take all of it by itself' }), nodes: count('how many of the nodes it would take'),
  priceMilli: orNull('per vCPU and hour, thousandths; null: not known'), totalMilli: orNull('for all of it, over the term; null: not known'), rttMs: Type.Union([Type.Number(), Type.Null()], { description: 'null: not measured' }),
  earliestMs: orNull('all of it by itself from then on; null: no such start is known'),
  shape: Type.Union([Type.Object({ vcpus: count('each'), memoryMib: count('each') }), Type.Null()], { description: 'all of its nodes in this smaller shape; null: in none' }),
  counter: text('what it could give instead, for people; empty: nothing, or it takes all'),
  reasons: Type.Array(Type.Object({ code: text('as a request would be refused with'), message: text('for people') }))
})
export type PlanOffer = Static<typeof OfferSchema>

const PlannedPartSchema = Type.Object({
  site: text('where'), nodes: count('of the cluster'), volumes: Type.Array(Type.String()), frontend: Type.Boolean(),
  priceMilli: orNull('as in its offer'), totalMilli: orNull('for its nodes over the term; null: the price is not known'),
  wanBytes: orNull('of the node image, once into the cache of a site without the frontend; 0: none crosses; null: no image is known'),
  wanMs: orNull('how long those bytes take at the bandwidth that both gateways have free; null: not known')
})
export type PlannedPart = Static<typeof PlannedPartSchema>

export const PlanSchema = Type.Object({
  cluster: text('name'), fits: Type.Boolean({ description: 'whether create would get it now' }), startMs: count('begin that the offers are for'), endMs: count('their end'), nodes: count('wanted'),
  offers: Type.Array(OfferSchema, { description: 'the own site first, then by nodes and name' }), leftOut: count('sites that are known and were not asked'),
  placement: Type.Array(PlannedPartSchema, { description: 'what create would ask for; empty: it fits nowhere' }),
  totalMilli: orNull('for the whole placement; null: a price is not known'),
  problem: text('what is missing, first of the whole, then a line for each site; empty: it fits'), nearest: text('what would fit, and when; empty: nothing is known to')
})
export type PlanResource = Static<typeof PlanSchema>

/** What `cluster plan --hold --json` prints: the plan, and what is held of it, which may differ. */
export interface HeldPlan extends PlanResource {
  held: Pick<ClusterResource, 'id' | 'name' | 'startsAt' | 'expiresAt' | 'heldUntil'> & { sites: NonNullable<ClusterResource['held']>, differs: boolean }
}
