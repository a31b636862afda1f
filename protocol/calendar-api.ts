/** REST resources of calendars and drains; as `api.ts`, which has the rest. */
import Type, { type Static } from 'typebox'
import { ResourcesSchema } from './api.ts'

const text = (description: string) => Type.String({ description, maxLength: 4096 })
const count = (description: string) => Type.Number({ description, minimum: 0 })

const PromisedSchema = Type.Object({
  clusterId: text('cluster'), cluster: text('cluster name'), masterSite: text('who asked'), kind: text('node, volume, frontend, segment or quota'), name: text('what it is for'),
  state: text('held, committed or active'), startMs: count('start'), endMs: count('end'), formerEndMs: Type.Optional(count('end before its lender gave notice; absent: it has none')), masterless: Type.Boolean({ description: 'its master is not heard of' })
})
const DrainLeaseSchema = Type.Object({
  ...PromisedSchema.properties, movable: Type.Boolean({ description: 'whether it can be moved to another host while it runs; not yet in this release' }), advice: text('what can be done about it')
})
export type DrainLease = Static<typeof DrainLeaseSchema>
export const DrainBodySchema = Type.Object({ reason: Type.Optional(Type.String({ maxLength: 200, description: 'for people' })) }, { additionalProperties: false })
/** A host that is being taken out of use. */
export const DrainSchema = Type.Object({
  host: text('host'), cordoned: Type.Boolean({ description: 'takes no new leases' }), nowMs: count('its clock'), emptyMs: count('when the last of its leases ends, if none ends before and none is extended; 0: it is empty'),
  leases: Type.Array(DrainLeaseSchema, { description: 'what must go, the last to end first' }), leftOut: count('leases that are not in the list')
})
export type DrainResource = Static<typeof DrainSchema>

export const CalendarQuerySchema = Type.Object({
  site: Type.Optional(Type.String({ maxLength: 64, description: 'of the own site: all of its hosts, on a gateway; absent: this host' })),
  fromMs: Type.Optional(Type.Integer({ minimum: 0, maximum: 8.64e15, description: 'default now' })), untilMs: Type.Optional(Type.Integer({ minimum: 0, maximum: 8.64e15, description: 'default a day later' }))
}, { additionalProperties: false })
const CalendarHostSchema = Type.Object({
  host: text('host'), error: text('why it says nothing; empty: it does'), takesLeases: Type.Boolean(), why: text('why it takes none'),
  steps: Type.Array(Type.Object({ atMs: count('from then on'), free: ResourcesSchema }), { description: 'what is free, until the next step; the first may begin before the span' }),
  leases: Type.Array(PromisedSchema, { description: 'by start' }), leftOut: count('leases that are not in the list')
})
export type CalendarHostResource = Static<typeof CalendarHostSchema>
export const CalendarSchema = Type.Object({ site: text('site'), nowMs: count('clock of who answers'), fromMs: count('begin of the span'), untilMs: count('its end, not part of it'), hosts: Type.Array(CalendarHostSchema) })
export type CalendarResource = Static<typeof CalendarSchema>
