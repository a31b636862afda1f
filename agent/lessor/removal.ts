import { isLive } from '../../protocol/core/lease/lease.ts'
import { MusubiError } from '../../protocol/core/errors.ts'
import type { Ledger } from '../../store/ledger.ts'
import type { Reconciler } from '../reconcile/reconciler.ts'
import { resourceOf } from '../helper/fence/permits.ts'
import type { Fencing } from './fencing.ts'
import type { HostObjects } from './objects.ts'

export interface RemovalDeps {
  host: string
  ledger: Ledger
  reconciler: () => Reconciler
  objects: HostObjects
  fencing: Fencing
  /** ms from any beginning; never goes back */
  monotonic: () => number
  sleep: (ms: number) => Promise<void>
}

export interface Removal {
  /** Waits until what has ended of a cluster is gone. @throws MusubiError STILL_REMOVING with what is left */
  finished (clusterId: string): Promise<void>
  /** Looks once for all clusters of which something has ended, and tells the ledger what is gone. */
  vacate (): Promise<void>
}

/** How long a release waits for guests to stop and links to go before it says "still removing". */
const REMOVAL_MS = 80_000
const REMOVAL_POLL_MS = 200

/** From the end of a lease until nothing of it is left: only then its share is given to others. */
export function createRemoval ({ host, ledger, reconciler, objects, fencing, monotonic, sleep }: RemovalDeps): Removal {
  /**
   * One look for all. What nobody has looked at since the counter was read stays promised: it may
   * have been started after the look.
   *
   * @returns the clusters of which something is left
   */
  async function vacateGone (clusterIds: readonly string[]): Promise<string[]> {
    const seenCounter = ledger.state().counter
    // Before the look: what is not there now cannot come later, by a command that is still on its way.
    await fencing.off(clusterIds)
    await reconciler().look()
    const gone = clusterIds.filter(id => objects.left(id).length === 0 && fencing.left(id).length === 0 && objects.unseen(id).length === 0)
    await Promise.all(gone.map(id => ledger.vacate(id, seenCounter)))
    return clusterIds.filter(id => !gone.includes(id))
  }

  /** Clusters that may have left something: ended leases that ran, and documents without a live lease. */
  function ending (): string[] {
    const ids = new Set<string>()
    for (const lease of ledger.state().leases.values()) if (!isLive(lease) && !lease.vacated) ids.add(lease.clusterId)
    for (const { document } of ledger.documents.list()) if (['ended', ''].includes(ledger.usageState(document.id))) ids.add(document.id)
    return [...ids]
  }

  return {
    async finished (clusterId) {
      const deadline = monotonic() + REMOVAL_MS
      while ((await vacateGone([clusterId])).length > 0) {
        if (monotonic() > deadline) {
          const seen = objects.left(clusterId)
          const known = new Set(seen.map(resourceOf))
          const left = [...fencing.left(clusterId).filter(resource => !known.has(resource)), ...seen.map(o => `${o.kind} ${o.name}${o.error === '' ? '' : ` (${o.error})`}`), ...objects.unseen(clusterId).map(({ kind, why }) => `what it cannot see: ${kind} (${why})`)]
          throw new MusubiError('STILL_REMOVING', `host ${host} still has ${left.join(', ')}`, { retryable: true, hint: 'it is tried again' })
        }
        await sleep(REMOVAL_POLL_MS)
      }
    },

    async vacate () {
      const ids = ending()
      if (ids.length > 0) await vacateGone(ids)
    }
  }
}
