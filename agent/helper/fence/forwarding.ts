import { partsOf } from '../wire/verbs.ts'
import type { TermOf } from '../../drivers/network/forward/forwarding.ts'
import type { Fence } from './store.ts'

/** Time for one file and, of what is over, one `nft` each. */
const SYNC_MS = 20_000

/**
 * Until when a segment may forward between sites: as long as the lease that its grant came with. Without the
 * minute that `expire` waits: what is to end then is the machines, and nobody was promised more.
 *
 * @param ledgerNow the helper's ledger clock, Unix ms
 * @param sinceBoot ms since boot
 */
export function termsOf (fence: Pick<Fence, 'get'>, ledgerNow: () => number, sinceBoot: () => number): TermOf {
  return name => {
    const record = fence.get(`segment ${name}`)
    return record?.state === 'granted' ? sinceBoot() + record.endMs - ledgerNow() : null
  }
}

/**
 * The same fence, and whatever it decides about segments is known to the keeper of forwarding leases before
 * anybody acts on it. What cannot be written down is told to `onError`: no promise depends on it, as leases that are not
 * renewed end by themselves.
 */
export function withForwarding (fence: Fence, sync: (signal: AbortSignal) => Promise<void>, onError: (error: unknown) => void): Fence {
  const heed = async (): Promise<void> => { await sync(AbortSignal.timeout(SYNC_MS)).catch(onError) }
  const isSegment = (resource: string): boolean => partsOf(resource).kind === 'segment'
  return {
    async grant (resource, claim) {
      await fence.grant(resource, claim)
      if (isSegment(resource)) await heed()
    },
    async revoke (resource, clusterId, counter) {
      await fence.revoke(resource, clusterId, counter)
      if (isSegment(resource)) await heed()
    },
    gone: (resource, counter) => fence.gone(resource, counter),
    async tick () {
      try {
        await fence.tick()
      } finally {
        // also what only the clock has ended, or put off
        if (fence.records().some(({ resource }) => isSegment(resource))) await heed()
      }
    },
    get: resource => fence.get(resource),
    records: () => fence.records()
  }
}
