import type { CallPeer } from '../peers.ts'
import { CachedObjectSchema, CachedObjectsSchema, type CacheBudgetBody, type CacheBudgetResource, type CacheDeedResource, type CachedObjectsResource, type ClusterCachesResource, type PreheatBody, type PurgeBody, type SiteCacheResource } from '../../protocol/cache-api.ts'
import { parseCacheTerms } from '../../protocol/core/cache/terms.ts'
import type { BudgetChange } from '../../protocol/core/cache/budget.ts'
import { ConflictError, describeError, InvalidInputError, MusubiError, NotFoundError } from '../../protocol/core/errors.ts'
import { CACHE_ORDERS_MAX } from '../../protocol/core/limits.ts'
import type { ClusterDocument, MemberSite } from '../../protocol/core/messages.ts'
import Type from 'typebox'
import { Value } from 'typebox/value'
import { clusterBudget } from './budget.ts'
import type { CacheAsk } from './site.ts'

/** Longest path that is shown, and so on: other sites write these texts. */
const TEXT_MAX = 512
/** What a cache tells apart, as its driver names it. */
export const CACHE_CLASSES = ['listed', 'named', 'validated', 'dynamic', 'tftp'] as const
/** A purge or list reads a whole store. */
const DEADLINE_MS = 90_000
const STATUS_DEADLINE_MS = 10_000

/** What people ask of all caches of a cluster, at its master. */
export interface Caches {
  /** @param cluster name or id. @throws NotFoundError */
  status (cluster: string): Promise<ClusterCachesResource>
  preheat (cluster: string, body: PreheatBody): Promise<CacheDeedResource>
  cancel (cluster: string, order: string, site?: string): Promise<CacheDeedResource>
  purge (cluster: string, body: PurgeBody): Promise<CacheDeedResource>
  budget (cluster: string): Promise<CacheBudgetResource>
  /** Another budget, in the document of the cluster: sites that are away get it later. @throws InvalidInputError, ConflictError */
  setBudget (cluster: string, change: CacheBudgetBody): Promise<CacheBudgetResource>
  /** One page of what one site has; without `site` of all, one after the other. A site that does not answer is a page of its own then, with its error. */
  list (cluster: string, query: { site?: string, prefix?: string, after?: string }): Promise<CachedObjectsResource>
}

export interface CachesDeps {
  call: CallPeer
  /** document of a cluster of this master; null before it has one. @throws NotFoundError */
  document: (cluster: string) => ClusterDocument | null
  /** as `Master.cacheBudget` */
  setBudget: (cluster: string, change: BudgetChange) => Promise<void>
}

const Page = Type.Object({ objects: Type.Array(CachedObjectSchema), next: CachedObjectsSchema.properties.next })
/** A release before this one tells no orders. */
const Purged = Type.Object({ parts: Type.Number({ minimum: 0 }), bytes: Type.Number({ minimum: 0 }), orders: Type.Optional(Type.Array(Type.String({ maxLength: 64 }), { maxItems: CACHE_ORDERS_MAX + 1 })) })

type Fields = Record<string, unknown>
const fields = (value: unknown): Fields => typeof value === 'object' && value !== null && !Array.isArray(value) ? value as Fields : {}
const figure = (value: unknown): number => typeof value === 'number' && Number.isFinite(value) && value >= 0 ? value : 0
const words = (value: unknown): string => typeof value === 'string' ? value.slice(0, TEXT_MAX) : ''

/** What a site says of its cache, every figure checked: it may be missing or odd. Pure. */
export function siteCache (document: ClusterDocument, { site, gateway }: MemberSite, said: unknown, error = ''): SiteCacheResource {
  const stats = fields(said)
  const wire = fields(stats.wire)
  const fetch = fields(stats.fetch)
  const counters = (value: unknown): { requests: number, bytesToNodes: number, bytesFromUpstream: number } => {
    const of = fields(value)
    return { requests: figure(of.requests), bytesToNodes: figure(of.bytesToNodes), bytesFromUpstream: figure(of.bytesFromUpstream) }
  }
  const all = counters(stats)
  const budget = fields(stats.budget)
  const maybe = (value: unknown): number | null => typeof value === 'number' && Number.isFinite(value) ? value : null
  const nameOf = (address: string): string => document.nodes.find(node => node.ip === address)?.name ?? address.slice(0, 64)
  return {
    site, host: gateway.host, error, ...all, hits: figure(stats.hits), savedBytes: Math.max(0, all.bytesToNodes - all.bytesFromUpstream), storedBytes: figure(stats.stored),
    wanBytes: { static: figure(wire.static), dynamic: figure(wire.dynamic), https: figure(wire.https) },
    classes: Object.fromEntries(CACHE_CLASSES.map(name => [name, counters(fields(stats.classes)[name])])),
    nodes: Object.entries(fields(stats.nodes)).map(([address, of]) => ({ node: nameOf(address), requests: figure(fields(of).requests), bytes: figure(fields(of).bytes) })).sort((a, b) => a.node < b.node ? -1 : 1),
    orders: Object.entries(fields(fetch.orders)).map(([name, value]) => {
      const of = fields(value)
      const whyOf = (list: unknown): Array<{ path: string, error: string }> => Array.isArray(list) ? list.map(fields).map(({ path, error: why }) => ({ path: words(path), error: words(why) })) : []
      return {
        name: words(name), state: words(of.state), reason: words(of.reason), objects: figure(of.objects), objectsDone: figure(of.objectsDone), bytes: figure(of.bytes), bytesDone: figure(of.bytesDone),
        bytesFetched: figure(of.bytesFetched), failures: figure(of.failures), failed: whyOf(of.failed), indexErrors: whyOf(of.indexErrors)
      }
    }).sort((a, b) => a.name < b.name ? -1 : 1),
    aheadBytes: figure(fetch.aheadBytes), room: fetch.room !== false,
    budget: stats.budget === undefined || stats.budget === null ? null : { rateMbitPerS: maybe(budget.rateMbitPerS), totalBytes: maybe(budget.totalBytes), usedBytes: figure(budget.usedBytes), paused: words(budget.paused) }
  }
}

/** Where a page over all sites begins: `SITE`, or `SITE` and the end of its page before. @throws InvalidInputError */
function pageOf (after: string | undefined, sites: readonly MemberSite[]): { one: MemberSite | undefined, after?: string } {
  if (after === undefined) return { one: sites[0] }
  const [name = ''] = after.split(' ', 1)
  const one = sites.find(({ site }) => site === name)
  if (one === undefined) throw new InvalidInputError(`${JSON.stringify(after.slice(0, 80))} is no end of a page over all sites`)
  return { one, ...after.length > name.length ? { after: after.slice(name.length + 1) } : {} }
}

export function createCaches ({ call, document: documentOf, setBudget }: CachesDeps): Caches {
  function sitesOf (cluster: string, only?: string): { document: ClusterDocument, sites: MemberSite[] } {
    const document = documentOf(cluster)
    if (document === null) throw new ConflictError(`cluster ${cluster} has no caches yet: its leases are not committed`)
    const cached = document.sites.filter(one => one.cache)
    const sites = cached.filter(({ site }) => only === undefined || site === only)
    if (only !== undefined && sites.length === 0) throw new NotFoundError(`cluster ${document.name} has no cache at site "${only}"`, `it has caches at ${cached.map(({ site }) => site).join(', ') || 'no site: all of it is at the site of its frontend'}`)
    return { document, sites }
  }

  async function ask (document: ClusterDocument, { gateway, site }: MemberSite, what: CacheAsk, params: object): Promise<unknown> {
    const { result } = await call(gateway.peer, 'cache', { clusterId: document.id, ask: what, params: JSON.stringify(params) }, { deadlineMs: what === 'status' ? STATUS_DEADLINE_MS : DEADLINE_MS })
    try {
      return JSON.parse(result)
    } catch {
      throw new MusubiError('BAD_ANSWER', `the gateway of site ${site} says something about its cache that is no JSON`)
    }
  }

  async function each (cluster: string, only: string | undefined, what: CacheAsk, params: object): Promise<CacheDeedResource> {
    const { document, sites } = sitesOf(cluster, only)
    return {
      cluster: document.name,
      sites: await Promise.all(sites.map(async one => {
        try {
          const said = await ask(document, one, what, params)
          return { site: one.site, error: '', ...Value.Check(Purged, said) ? { parts: said.parts, bytes: said.bytes, orders: said.orders ?? [] } : { parts: 0, bytes: 0, orders: [] } }
        } catch (error) {
          return { site: one.site, error: describeError(error).slice(0, TEXT_MAX), parts: 0, bytes: 0, orders: [] }
        }
      }))
    }
  }

  async function figures (document: ClusterDocument, members: readonly MemberSite[]): Promise<SiteCacheResource[]> {
    return await Promise.all(members.map(async one => {
      try {
        return siteCache(document, one, await ask(document, one, 'status', {}))
      } catch (error) {
        return siteCache(document, one, {}, describeError(error).slice(0, TEXT_MAX))
      }
    }))
  }

  async function budget (cluster: string): Promise<CacheBudgetResource> {
    const { document, sites } = sitesOf(cluster)
    return clusterBudget(document, await figures(document, sites))
  }

  return {
    budget,
    async setBudget (cluster, change) {
      sitesOf(cluster, change.site)
      await setBudget(cluster, change)
      return await budget(cluster)
    },
    async status (cluster) {
      const { document, sites: members } = sitesOf(cluster)
      const sites = await figures(document, members)
      const { retainMs } = parseCacheTerms(document.cacheTerms)
      const sum = (of: (one: SiteCacheResource) => number): number => sites.reduce((total, one) => total + of(one), 0)
      return {
        cluster: document.name, id: document.id, sites, ...retainMs === undefined ? {} : { retainMs },
        total: { bytesToNodes: sum(one => one.bytesToNodes), bytesFromUpstream: sum(one => one.bytesFromUpstream), savedBytes: sum(one => one.savedBytes), wanBytes: sum(({ wanBytes }) => wanBytes.static + wanBytes.dynamic), storedBytes: sum(one => one.storedBytes) }
      }
    },
    preheat: (cluster, { site, ...order }) => each(cluster, site, 'cache-preheat', order),
    cancel: (cluster, order, site) => each(cluster, site, 'cache-cancel', { order }),
    purge: (cluster, { site, ...what }) => each(cluster, site, 'cache-purge', what),
    async list (cluster, { site, prefix, after }) {
      const { document, sites } = sitesOf(cluster, site)
      const from = site === undefined ? pageOf(after, sites) : { one: sites[0], after }
      const { one } = from
      if (one === undefined) throw new NotFoundError(`cluster ${document.name} has no cache: all of it is at the site of its frontend`)
      const following = site === undefined ? sites[sites.indexOf(one) + 1]?.site ?? null : null
      try {
        const said = await ask(document, one, 'cache-list', { ...prefix === undefined ? {} : { prefix }, ...from.after === undefined ? {} : { after: from.after } })
        if (!Value.Check(Page, said)) throw new MusubiError('BAD_ANSWER', `what the gateway of site ${one.site} lists is of another form`, { hint: 'the sites run different releases' })
        return { site: one.site, error: '', objects: said.objects, next: said.next === null ? following : site === undefined ? `${one.site} ${said.next}` : said.next }
      } catch (error) {
        // the user's own mistakes are no site's
        if (site !== undefined || error instanceof InvalidInputError) throw error
        return { site: one.site, error: describeError(error).slice(0, TEXT_MAX), objects: [], next: following }
      }
    }
  }
}
