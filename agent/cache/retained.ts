import type { EventLog } from '../events.ts'
import type { HelperClient } from '../helper/client/client.ts'
import type { RetainedDeedResource, RetainedStoreResource, RetainedStoresResource } from '../../protocol/cache-api.ts'
import { NotFoundError } from '../../protocol/core/errors.ts'

/** Stores of this gateway that have outlived their clusters, for its people. */
export interface RetainedStores {
  list (): Promise<RetainedStoresResource>
  /** @param owner a site; null: of all. @throws NotFoundError when that one has none */
  purge (owner: string | null): Promise<RetainedDeedResource>
  /** As they were at the last look. */
  figures (): readonly RetainedStoreResource[]
  /** Looks what there is, and tells what has come and gone. The helper drops what has to go with each look. */
  tick (): Promise<void>
}

export interface RetainedStoresDeps {
  site: string
  host: string
  helper: Pick<HelperClient, 'call'>
  events: Pick<EventLog, 'add'>
  limits: RetainedStoresResource['limits']
}

export function createRetainedStores ({ site, host, helper, events, limits }: RetainedStoresDeps): RetainedStores {
  let last: readonly RetainedStoreResource[] | null = null

  async function look (): Promise<RetainedStoreResource[]> {
    const stores = await helper.call('cache-retained', {})
    const has = (list: readonly RetainedStoreResource[], { id }: RetainedStoreResource): boolean => list.some(one => one.id === id && one.checked)
    // what was there before this process is no news
    const before = last
    last = stores
    if (before === null) return stores
    for (const one of stores) if (one.checked && !has(before, one)) events.add('cache.retained', `the store of cluster ${one.cluster} outlives it for site ${one.owner}: ${one.objects} objects, ${one.bytes} bytes`, one.cluster)
    for (const one of before) if (one.checked && !has(stores, one)) events.add('cache.unretained', `the store of the ended cluster ${one.cluster} of site ${one.owner} is not kept any more: a new cluster has it, or its time or its room was over`, one.cluster)
    return stores
  }

  return {
    list: async () => ({ site, host, limits, stores: await look() }),
    async purge (owner) {
      const dropped = await helper.call('cache-forget', owner === null ? {} : { owner })
      if (owner !== null && dropped.stores === 0) throw new NotFoundError(`${host} keeps no store for site ${owner}`, 'see musubi cache retained')
      await look()
      return dropped
    },
    figures: () => last ?? [],
    async tick () { await look() }
  }
}
