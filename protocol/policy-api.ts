/** A site's policy as people write it and as REST shows it. */
import Type, { type Static } from 'typebox'
import { ResourcesSchema } from './api.ts'
import { MAX_BANDWIDTH_MBIT, MAX_POLICY_PRICE, MAX_POLICY_QUOTA, MAX_POLICY_WINDOWS } from './core/limits.ts'

const count = (description: string) => Type.Number({ description, minimum: 0 })
const span = (description: string) => Type.Optional(Type.String({ maxLength: 40, description: `${description}: 8h, 2d, 90m or ISO 8601 (PT90M)` }))
const whole = (description: string) => Type.Optional(Type.Integer({ minimum: 0, maximum: MAX_POLICY_QUOTA, description }))
const size = (description: string) => Type.Optional(Type.Union([Type.Integer({ minimum: 0, maximum: MAX_POLICY_QUOTA }), Type.String({ maxLength: 24 })], { description: `${description}: 64GiB, 2TiB, or a number of MiB` }))

export const DAYS = ['mon', 'tue', 'wed', 'thu', 'fri', 'sat', 'sun'] as const
const DaySchema = Type.Union([Type.Literal('mon'), Type.Literal('tue'), Type.Literal('wed'), Type.Literal('thu'), Type.Literal('fri'), Type.Literal('sat'), Type.Literal('sun')])

const PolicyQuotaSchema = Type.Object({
  nodes: whole('nodes of any size'), vcpus: whole('virtual CPUs'), memory: size('memory of nodes'), disk: size('disk of volumes'),
  volumes: whole('exported volumes'), bandwidth: Type.Optional(Type.Integer({ minimum: 0, maximum: MAX_BANDWIDTH_MBIT, description: 'of the WAN, Mbit/s' }))
}, { additionalProperties: false, description: 'the most that is lent at any moment; what is not named is not bounded' })
const PolicyWindowSchema = Type.Object({
  days: Type.Optional(Type.Array(DaySchema, { minItems: 1, maxItems: 7, uniqueItems: true, description: 'on which it opens; default every day' })),
  from: Type.Optional(Type.String({ pattern: '^([01]\\d|2[0-3]):[0-5]\\d$', description: 'HH:MM; default 00:00' })),
  to: Type.Optional(Type.String({ pattern: '^(([01]\\d|2[0-3]):[0-5]\\d|24:00)$', description: 'HH:MM; not later than from: on the next day; default 24:00' })),
  zone: Type.String({ minLength: 1, maxLength: 64, description: 'IANA time zone, such as Europe/Zurich' })
}, { additionalProperties: false })
const PolicyRuleSchema = Type.Object({
  deny: Type.Optional(Type.Boolean({ description: 'true: lends nothing' })),
  quota: Type.Optional(PolicyQuotaSchema),
  longestLease: span('longest lease'),
  latestStart: span('how far ahead a lease may start'),
  windows: Type.Optional(Type.Array(PolicyWindowSchema, { minItems: 1, maxItems: MAX_POLICY_WINDOWS, description: 'when leases may run, weekly; a lease lies in them as a whole' })),
  priority: Type.Optional(Type.Integer({ minimum: 0, maximum: 100, description: 'whose requests come before whose leases; default 50' })),
  preempt: Type.Optional(Type.Object({ notice: Type.String({ maxLength: 40, description: 'how long before it ends' }) }, { additionalProperties: false, description: 'its leases are ended for a site of a higher priority, with notice; absent: never' })),
  price: Type.Optional(Type.Number({ minimum: 0, maximum: MAX_POLICY_PRICE, description: 'per vCPU and hour, in the unit of the federation, at most three decimals; instead of the advertised one' })),
  reason: Type.Optional(Type.String({ maxLength: 200, description: 'told to whoever is refused' }))
}, { additionalProperties: false })
export type PolicyRule = Static<typeof PolicyRuleSchema>

/** What a site lends to whom. A rule for a site replaces the default as a whole. */
export const PolicyDocumentSchema = Type.Object({
  default: Type.Optional(PolicyRuleSchema),
  sites: Type.Optional(Type.Record(Type.String(), PolicyRuleSchema, { description: 'by the name of the site' })),
  own: Type.Optional(Type.Object({ priority: Type.Optional(Type.Integer({ minimum: 0, maximum: 100, description: 'of the own requests; default 100' })) }, { additionalProperties: false }))
}, { additionalProperties: false })
export type PolicyDocument = Static<typeof PolicyDocumentSchema>

const BoundSchema = Type.Object({
  nodes: Type.Optional(count('nodes')), vcpus: Type.Optional(count('virtual CPUs')), memoryMib: Type.Optional(count('memory, MiB')), diskMib: Type.Optional(count('disk, MiB')),
  volumes: Type.Optional(count('exported volumes')), bandwidthMbit: Type.Optional(count('of the WAN, Mbit/s'))
}, { description: 'what is not there is not bounded' })
const LentSchema = Type.Object({ ...ResourcesSchema.properties, nodes: Type.Optional(count('nodes')) })
export const PolicyUsageSchema = Type.Object({
  site: Type.String({ description: 'that borrows' }),
  lent: LentSchema, most: LentSchema,
  toOthers: Type.Optional({ ...LentSchema, description: 'of lent: for requests to other gateways of this site, whose share did not suffice; absent: nothing' }),
  fromOthers: Type.Optional({ ...LentSchema, description: 'beside lent: counted by other gateways of this site for requests to this one; absent: nothing' }),
  quota: Type.Union([BoundSchema, Type.Null()], { description: 'of the site at all gateways; null: none' }),
  share: Type.Union([BoundSchema, Type.Null()], { description: 'of this gateway; null: no quota' }),
  overdrawn: Type.Array(Type.String(), { description: 'dimensions of which more is promised than the share: kept, and nothing new' })
}, { description: 'what this gateway lends: lent at this moment, most at any moment from now on with what is held and reserved' })
export type PolicyUsage = Static<typeof PolicyUsageSchema>

export const PolicySchema = Type.Object({
  site: Type.String({ description: 'site' }), version: count('grows with every change; 0: none was ever set'), setBy: Type.String({ description: 'gateway on which it was set; empty: none' }),
  document: PolicyDocumentSchema,
  quotaPercent: count('share of this gateway in every quota, by its certificate'),
  usage: Type.Array(PolicyUsageSchema), warnings: Type.Array(Type.String({ description: 'what may not be meant so' }))
})
export type PolicyResource = Static<typeof PolicySchema>

/** What a policy would be: nothing is set. */
export const PolicyCheckSchema = Type.Object({
  errors: Type.Array(Type.String({ description: 'for which it would be refused' })), warnings: Type.Array(Type.String({ description: 'what may not be meant so' })),
  usage: Type.Array(PolicyUsageSchema, { description: 'what is lent now against the quotas that it has; empty when there are errors' })
})
export type PolicyCheck = Static<typeof PolicyCheckSchema>
