import type { ObjectState } from '../reconcile/reconciler.ts'
import { WAY_READY_MS } from '../../protocol/core/limits.ts'
import type { ClusterDocument } from '../../protocol/core/messages.ts'

export interface WayDeps {
  site: string
  host: string
  /** objects of a cluster on this host, as the reconciler has seen them */
  shown: (clusterId: string) => ReadonlyArray<Pick<ObjectState, 'kind' | 'state'>>
  /** ms from any beginning; never goes back */
  monotonic: () => number
  sleep: (ms: number) => Promise<void>
}

const POLL_MS = 100

/**
 * Waits on a gateway for the way that nodes of its site take: hosts with nodes are told after it has answered, and a node
 * that boots before its cache is there fetches the image over the WAN by itself. It ends in vain after `WAY_READY_MS`, or
 * when something of it cannot be made: nodes then go without the cache, or try again.
 */
export async function wayReady ({ site, host, shown, monotonic, sleep }: WayDeps, { id, sites }: Pick<ClusterDocument, 'id' | 'sites'>): Promise<void> {
  if (!sites.some(one => one.site === site && one.gateway.host === host && one.cache)) return
  const isUnderWay = (): boolean => {
    const way = shown(id).filter(({ kind }) => kind === 'segment' || kind === 'cache')
    if (way.some(({ state }) => state === 'failed')) return false
    return way.length < 2 || way.some(({ state }) => state !== 'ok')
  }
  for (const deadline = monotonic() + WAY_READY_MS; isUnderWay() && monotonic() < deadline;) await sleep(POLL_MS)
}
