import { clusterOf } from '../reconcile/diff.ts'
import type { Fence } from '../helper/fence/store.ts'
import { resourceOf } from '../helper/fence/permits.ts'
import type { Ledger } from '../../store/ledger.ts'
import { type HostObjects, prefixOf } from './objects.ts'

/** The lessor's word to the fence: what has no lease any more must not be made, whoever still says so. */
export interface Fencing {
  /**
   * Revoke first: whatever of these clusters is not wanted is fenced off before anybody removes it,
   * also what the fence has never heard of, as a command for it may be on its way.
   *
   * @throws MusubiError when the fence could not keep it
   */
  off (clusterIds: readonly string[]): Promise<void>
  /**
   * The leases of a cluster end earlier than the fence knows: what runs by them is not to run on, should the agent be gone by then.
   *
   * @throws MusubiError when the fence could not keep it
   */
  shortened (clusterId: string): Promise<void>
  /** What the fence does not yet know to be gone of what was fenced off. */
  left (clusterId: string): string[]
}

/** Without a fence there is nothing to do. */
export function createFencing (fence: Fence | undefined, ledger: Ledger, objects: HostObjects): Fencing {
  /** By resource, with the cluster. */
  function unwanted (clusterIds: readonly string[]): Map<string, string> {
    const found = new Map<string, string>()
    if (fence === undefined) return found
    const unread = objects.undecided()
    const ids = clusterIds.filter(id => !unread.has(clusterOf(prefixOf(id))))
    const stays = new Set(objects.desiredOf(ids).map(resourceOf))
    for (const id of ids) for (const resource of objects.resourcesOf(id)) if (!stays.has(resource)) found.set(resource, id)
    for (const { resource, clusterId } of fence.records()) if (ids.includes(clusterId) && !stays.has(resource)) found.set(resource, clusterId)
    return found
  }

  return {
    async off (clusterIds) {
      if (fence === undefined) return
      const { counter } = ledger.state()
      const open = [...unwanted(clusterIds)].filter(([resource, clusterId]) => {
        const record = fence.get(resource)
        return record === undefined || (record.clusterId === clusterId && record.state === 'granted')
      })
      await Promise.all(open.map(([resource, clusterId]) => fence.revoke(resource, clusterId, counter)))
    },

    async shortened (clusterId) {
      if (fence === undefined) return
      const { counter, clusters } = objects.tenancy()
      const claim = clusters.get(clusterOf(prefixOf(clusterId)))
      if (claim?.clusterId !== clusterId) return
      const longer = fence.records().filter(record => record.clusterId === clusterId && record.state === 'granted' && record.endMs > claim.endMs)
      await Promise.all(longer.map(({ resource }) => fence.grant(resource, { ...claim, counter })))
    },

    left (clusterId) {
      if (fence === undefined) return []
      return [...unwanted([clusterId]).keys()].filter(resource => {
        const record = fence.get(resource)
        // `off` has had a record made of each: of what there is none now nobody knows
        return record === undefined || (record.clusterId === clusterId && record.state !== 'gone')
      })
    }
  }
}
