import type { Caller } from '../peers.ts'
import type { HelperClient } from '../helper/client/client.ts'
import { CACHE_ASKS, checkParams } from '../helper/wire/verbs.ts'
import { ConflictError, InvalidInputError, MusubiError } from '../../protocol/core/errors.ts'
import { MAX_CACHE_ASKS, MAX_MESSAGE_BYTES } from '../../protocol/core/limits.ts'
import { objectName } from '../../protocol/core/plan.ts'

/** What a master may ask a gateway about its cluster's cache: `status`, and the verbs of the helper for caches. */
export type CacheAsk = 'status' | keyof typeof CACHE_ASKS

export interface SiteCaches {
  /** Result of one question, as JSON. @throws ConflictError, InvalidInputError, MusubiError BUSY, and what the helper throws */
  answer (request: { clusterId: string, ask: string, params: string }, caller: Pick<Caller, 'site'>): Promise<{ result: string }>
}

export interface SiteCachesDeps {
  site: string
  helper: Pick<HelperClient, 'call'>
  /** site of the master of a cluster that this gateway has a record of */
  masterSite: (clusterId: string) => string | null
}

/** Failures of an order that are told one by one: the texts of all would not fit a message. */
const TOLD_FAILURES = 2

/** Caches of this gateway, for the masters of their clusters. */
export function createSiteCaches ({ site, helper, masterSite }: SiteCachesDeps): SiteCaches {
  let asked = 0

  async function ask (name: string, what: string, params: unknown): Promise<unknown> {
    const given = typeof params === 'object' && params !== null && !Array.isArray(params) && !('name' in params) ? { ...params, name } : null
    if (given === null) throw new InvalidInputError(`${what}: parameters are an object without a name`)
    switch (what) {
      case 'status': return brief(await helper.call('detail', { kind: 'cache', name }))
      case 'cache-preheat': return await helper.call(what, checkParams(what, given))
      case 'cache-cancel': return await helper.call(what, checkParams(what, given))
      case 'cache-list': return await helper.call(what, checkParams(what, given))
      case 'cache-purge': return await helper.call(what, checkParams(what, given))
      default: throw new InvalidInputError('a cache is not asked that', 'the sites run different releases')
    }
  }

  return {
    async answer ({ clusterId, ask: what, params }, caller) {
      const master = masterSite(clusterId)
      if (master === null) throw new MusubiError('NOT_FOUND', `site ${site} lends nothing to cluster ${clusterId.slice(0, 64)}`)
      if (master !== caller.site) throw new ConflictError(`cluster ${clusterId} at site ${site} belongs to another master`)
      if (asked >= MAX_CACHE_ASKS) throw new MusubiError('BUSY', `the gateway of site ${site} answers ${asked} questions about caches`, { retryable: true, hint: 'try again in some seconds' })
      asked++
      try {
        const result = JSON.stringify(await ask(objectName(clusterId, 'cache'), what, parsed(params)))
        if (result.length > MAX_MESSAGE_BYTES / 2) throw new MusubiError('TOO_LARGE', `what the cache at site ${site} says is too long for a message`, { hint: 'ask for a longer --prefix' })
        return { result }
      } finally {
        asked--
      }
    }
  }
}

function parsed (text: string): unknown {
  try {
    return JSON.parse(text)
  } catch {
    throw new InvalidInputError('parameters are no JSON')
  }
}

/** Figures with few failures of each order. */
function brief (stats: Record<string, unknown>): Record<string, unknown> {
  const { fetch } = stats
  if (typeof fetch !== 'object' || fetch === null || !('orders' in fetch) || typeof fetch.orders !== 'object' || fetch.orders === null) return stats
  const orders = Object.fromEntries(Object.entries(fetch.orders as Record<string, { failed?: unknown[], indexErrors?: unknown[] }>).map(([name, order]) => [name, { ...order, failed: (order.failed ?? []).slice(0, TOLD_FAILURES), indexErrors: (order.indexErrors ?? []).slice(0, TOLD_FAILURES) }]))
  return { ...stats, fetch: { ...fetch, orders } }
}
