/** REST resources of caches, see api.ts. */
import Type, { type Static } from 'typebox'
import { MAX_CACHE_BUDGET_BYTES, MAX_CACHE_RATE_KBIT, PREHEAT_PART_MAX } from './core/limits.ts'

const count = (description: string) => Type.Number({ description, minimum: 0 })
const text = (description: string, maxLength = 4096) => Type.String({ description, maxLength })
const closed = { additionalProperties: false } as const

const Counters = Type.Object({ requests: count('of nodes'), bytesToNodes: count('of HTTP'), bytesFromUpstream: count('of HTTP, also what was fetched before nodes asked') })
export const CacheOrderSchema = Type.Object({
  name: text('order'), state: text('running, paused or done'), reason: text('why it is paused'), objects: count('named by it'), objectsDone: count('here'),
  bytes: count('of objects whose size is known'), bytesDone: count('of them'), bytesFetched: count('over the WAN for it; the rest was here'), failures: count('objects that did not come'),
  failed: Type.Array(Type.Object({ path: text('object'), error: text('why') }), { description: 'the first of them' }),
  indexErrors: Type.Array(Type.Object({ path: text('index'), error: text('why it is not followed') }), { description: 'the first of them; their objects are as if no index named them' })
})
export type CacheOrderResource = Static<typeof CacheOrderSchema>

export const SiteCacheSchema = Type.Object({
  site: text('site'), host: text('its gateway'), error: text('why nothing is known; empty: it answers'),
  requests: count('of nodes'), hits: count('answered from the store'), bytesToNodes: count('served'), bytesFromUpstream: count('of HTTP from the frontend'),
  savedBytes: count('served and not fetched; HTTPS passes and is in none of these'), storedBytes: count('on the disk'),
  wanBytes: Type.Object({ static: count('of packets for the cache'), dynamic: count('of packets for nodes'), https: count('of packets from port 443 of the frontend: they pass untouched, and are in no sum') }),
  classes: Type.Record(Type.String(), Counters, { description: 'listed, named, validated, dynamic; and tftp, of packets and in no sum of the others' }), nodes: Type.Array(Type.Object({ node: text('name, or address'), requests: count('requests'), bytes: count('served') })),
  orders: Type.Array(CacheOrderSchema), aheadBytes: count('parts of large objects that were fetched while nodes read'), room: Type.Boolean({ description: 'false: nothing is kept, the disk is full' }),
  budget: Type.Union([Type.Object({ rateMbitPerS: Type.Union([Type.Number(), Type.Null()]), totalBytes: Type.Union([Type.Number(), Type.Null()]), usedBytes: count('over the WAN'), paused: text('why nothing is fetched before nodes ask; empty: it is') }), Type.Null()])
})
export type SiteCacheResource = Static<typeof SiteCacheSchema>

export const ClusterCachesSchema = Type.Object({
  cluster: text('name'), id: text('id'), sites: Type.Array(SiteCacheSchema),
  retainMs: Type.Optional(count('how long the stores are to outlive the cluster; absent: they do not')),
  total: Type.Object({ bytesToNodes: count('served'), bytesFromUpstream: count('fetched'), savedBytes: count('saved'), wanBytes: count('of packets from the frontend'), storedBytes: count('on disks') })
})
export type ClusterCachesResource = Static<typeof ClusterCachesSchema>

export const PreheatObjectSchema = Type.Object({
  path: text('on the frontend', 512), port: Type.Optional(Type.Integer({ minimum: 1, maximum: 65_535 })),
  sizeBytes: Type.Optional(Type.Integer({ minimum: 0, maximum: Number.MAX_SAFE_INTEGER })), sha256: Type.Optional(Type.String({ pattern: '^[0-9a-f]{64}$' }))
}, closed)
export type PreheatObjectResource = Static<typeof PreheatObjectSchema>
const Site = Type.Optional(Type.String({ minLength: 1, maxLength: 64, description: 'only there; default: all sites with a cache' }))
export const PreheatBodySchema = Type.Object({
  order: Type.String({ pattern: '^[a-z0-9][a-z0-9-]{0,63}$', description: 'another one of that name is replaced' }), site: Site,
  rateKbitPerS: Type.Optional(Type.Integer({ minimum: 1, maximum: MAX_CACHE_RATE_KBIT })), objects: Type.Array(PreheatObjectSchema, { minItems: 1, maxItems: PREHEAT_PART_MAX })
}, closed)
export type PreheatBody = Static<typeof PreheatBodySchema>
export const CancelBodySchema = Type.Object({ order: Type.String({ pattern: '^[a-z0-9][a-z0-9-]{0,63}$' }), site: Site }, closed)
export const PurgeBodySchema = Type.Object({ prefix: Type.Optional(Type.String({ minLength: 1, maxLength: 512, description: 'of paths; default: all' })), refetch: Type.Optional(Type.Boolean({ description: 'orders that name what is removed fetch it again' })), site: Site }, closed)
export type PurgeBody = Static<typeof PurgeBodySchema>

/** What each site said; one that failed keeps no other from it. */
export const CacheDeedSchema = Type.Object({ cluster: text('name'), sites: Type.Array(Type.Object({ site: text('site'), error: text('empty: done'), parts: count('removed'), bytes: count('of them'), orders: Type.Array(text('order'), { description: 'that name what was removed, or may: by an index' }) })) })
export type CacheDeedResource = Static<typeof CacheDeedSchema>

export const CachedObjectSchema = Type.Object({
  class: text('listed, named or validated'), port: count('of the frontend'), path: text('object'), bytes: count('in the store'), parts: count('in the store'),
  sizeBytes: Type.Union([Type.Number(), Type.Null()], { description: 'of the whole; null: not known' }), sha256: Type.Union([Type.String(), Type.Null()], { description: 'null: not known' }), asked: count('requests of nodes that the log still has')
})
export type CachedObjectResource = Static<typeof CachedObjectSchema>
export const CachedObjectsSchema = Type.Object({
  site: text('that all of this page are of'), error: text('why this site tells nothing; empty: it answers'), objects: Type.Array(CachedObjectSchema), next: Type.Union([Type.String(), Type.Null()], { description: 'after= of the next page; null: this is the last' })
})
export type CachedObjectsResource = Static<typeof CachedObjectsSchema>

export const RetainedStoreSchema = Type.Object({
  id: text('store'), owner: text('site for whose clusters it is'), cluster: text('that used it last'), bytes: count('on the disk'), objects: count('0 until they are checked'),
  lastUsedMs: count('when that cluster was removed, Unix ms'), untilMs: count('when it goes at the latest, Unix ms'), checked: Type.Boolean({ description: 'false: its bytes are being compared with their digests, and nobody gets it yet' }),
  held: Type.Optional(Type.Array(Type.String(), { description: 'SHA-256 of its largest objects; none until they are checked' }))
})
export type RetainedStoreResource = Static<typeof RetainedStoreSchema>
export const RetainedStoresSchema = Type.Object({
  site: text('site'), host: text('gateway'), stores: Type.Array(RetainedStoreSchema, { description: 'the last used first' }),
  limits: Type.Object({ totalBytes: count('of all'), ownerBytes: count('of one site\'s clusters'), maxMs: count('since the last use') }, { description: 'of this gateway; any 0: nothing is kept' })
})
export type RetainedStoresResource = Static<typeof RetainedStoresSchema>
export const ForgetBodySchema = Type.Union([
  Type.Object({ owner: Type.String({ pattern: '^[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?$', maxLength: 63 }) }, closed), Type.Object({ all: Type.Literal(true) }, closed)
])
export const RetainedDeedSchema = Type.Object({ stores: count('dropped'), bytes: count('of them') })
export type RetainedDeedResource = Static<typeof RetainedDeedSchema>
const orNull = (description: string) => Type.Union([Type.Number({ minimum: 0 }), Type.Null()], { description: `${description}; null: no bound` })
const Bounds = { rateKbitPerS: orNull('of all that is fetched before nodes ask, at one site'), totalBytes: orNull('over the WAN at one site; beyond them nothing is fetched before nodes ask') }
/** What the document says, and how far sites have taken it. */
export const CacheBudgetSchema = Type.Object({
  cluster: text('name'), ...Bounds,
  sites: Type.Array(Type.Object({
    site: text('site'), ...Bounds, own: Type.Boolean({ description: 'it has values of its own' }), usedBytes: count('of packets from the frontend'), paused: text('why nothing is fetched before nodes ask; empty: it is'),
    inForce: Type.Boolean({ description: 'its cache says the same; else it will, as soon as it has heard of it' }), error: text('why nothing is known; empty: it answers')
  }))
})
export type CacheBudgetResource = Static<typeof CacheBudgetSchema>
const bound = (maximum: number) => Type.Optional(Type.Union([Type.Integer({ minimum: 1, maximum }), Type.Null(), Type.Literal('default')], { description: 'null: no bound; default: as all sites, with a site only; absent: as before' }))
export const CacheBudgetBodySchema = Type.Object({
  site: Type.Optional(Type.String({ minLength: 1, maxLength: 64, description: 'only there; default: all sites that have no value of their own' })), rateKbitPerS: bound(MAX_CACHE_RATE_KBIT), totalBytes: bound(MAX_CACHE_BUDGET_BYTES)
}, closed)
export type CacheBudgetBody = Static<typeof CacheBudgetBodySchema>
