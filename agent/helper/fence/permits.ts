import { clusterOf } from '../../reconcile/diff.ts'
import type { ObservedObject } from '../../drivers/driver.ts'
import { ConflictError, errorCode } from '../../../protocol/core/errors.ts'
import type { DesiredObject, ObjectKind } from '../../../protocol/core/desired.ts'
import type { Fence, FenceClaim } from './store.ts'

/** Who uses this host, at one moment of its ledger. */
export interface Tenancy {
  /** of the ledger at that moment */
  counter: number
  /** clusters with an active lease here, by the first part of object names (`clusterOf`) */
  clusters: ReadonlyMap<string, { clusterId: string, endMs: number }>
}

type Named = Pick<DesiredObject, 'kind' | 'name'>

/** In whose name a pass of the reconciler acts: the agent's end of the fence, which has the last word. */
export interface Permits {
  /** Tells the fence what was found by a pass: what is gone, and ends that have moved. */
  begin (tenancy: Tenancy, observed: readonly ObservedObject[], blind: ReadonlyMap<ObjectKind, string>): Promise<void>
  /** False for what was revoked and is not gone: it is removed before it is made again. */
  mayStand (object: Named): boolean
  /** In whose name an object is made, and until when; null for what all clusters share. @throws ConflictError without a live lease */
  claimFor (object: Named): FenceClaim | null
  /** In whose name an object is removed; null for what all clusters share. */
  orderFor (object: Named): Pick<FenceClaim, 'clusterId' | 'counter'> | null
}

/** As the fence calls an object. */
export const resourceOf = ({ kind, name }: { kind: ObjectKind, name: string }): string => `${kind} ${name}`
/** Whether the fence has refused; anything else is trouble with its disk. */
export const isRefusal = (error: unknown): boolean => ['STALE_COUNTER', 'RESOURCE_HELD', 'LEASE_ENDED', 'COUNTER_TOO_HIGH'].includes(errorCode(error))
/** The host's tunnel serves all its clusters, and belongs to none. */
export const isShared = (kind: ObjectKind): boolean => kind === 'tunnel'

/** Every claim and order of a pass carries the counter of the ledger at which the pass began. */
export function createPermits (fence: Fence): Permits {
  let tenancy: Tenancy = { counter: 0, clusters: new Map() }

  return {
    async begin (now, observed, blind) {
      tenancy = now
      await fence.tick().catch(() => undefined) // it cannot be written, or reached; it has the last word on every deed nevertheless
      const found = new Set(observed.map(resourceOf))
      const tasks: Array<Promise<void>> = []
      for (const record of fence.records()) {
        const kind = record.resource.split(' ')[0] as ObjectKind
        if (record.state === 'revoking' && !blind.has(kind) && !found.has(record.resource)) tasks.push(fence.gone(record.resource, now.counter).catch(() => undefined)) // found again by the next pass
        if (record.state !== 'granted') continue
        // Extended, or shortened: the fence must not end it earlier than its lease, nor later.
        const cluster = now.clusters.get(clusterOf(record.resource.slice(kind.length + 1)))
        if (cluster !== undefined && cluster.clusterId === record.clusterId && cluster.endMs !== record.endMs) {
          tasks.push(fence.grant(record.resource, { ...cluster, counter: now.counter }).catch(() => undefined)) // revoked meanwhile: it stays so
        }
      }
      for (const object of observed) {
        // Made by an earlier release, which kept no record: it ends like all others.
        const cluster = now.clusters.get(clusterOf(object.name))
        if (!isShared(object.kind) && cluster !== undefined && fence.get(resourceOf(object)) === undefined) {
          tasks.push(fence.grant(resourceOf(object), { ...cluster, counter: now.counter }).catch(() => undefined))
        }
      }
      await Promise.all(tasks)
    },

    mayStand: object => isShared(object.kind) || fence.get(resourceOf(object))?.state !== 'revoking',

    claimFor ({ kind, name }) {
      if (isShared(kind)) return null
      const cluster = tenancy.clusters.get(clusterOf(name))
      if (cluster === undefined) throw new ConflictError(`no live lease stands behind ${name}`)
      return { ...cluster, counter: tenancy.counter }
    },

    orderFor ({ kind, name }) {
      if (isShared(kind)) return null
      const record = fence.get(resourceOf({ kind, name }))
      return {
        clusterId: record?.clusterId ?? tenancy.clusters.get(clusterOf(name))?.clusterId ?? clusterOf(name),
        // Tried again it is the same decision: what was granted since the first must not look older.
        counter: record?.state === 'revoking' ? record.counter : tenancy.counter
      }
    }
  }
}
