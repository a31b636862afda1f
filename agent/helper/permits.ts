import { clusterOf, type Action } from '../diff.ts'
import type { ObservedObject } from '../drivers/driver.ts'
import { ConflictError, errorCode, MusubiError } from '../../protocol/core/errors.ts'
import type { DesiredObject, ObjectKind } from '../../protocol/core/desired.ts'
import type { Fence, FenceClaim } from './fence-store.ts'

/** Who uses this host, at one moment of its ledger. */
export interface Tenancy {
  /** of the ledger at that moment */
  counter: number
  /** clusters with an active lease here, by the first part of object names (`clusterOf`) */
  clusters: ReadonlyMap<string, { clusterId: string, endMs: number }>
}

/** What the reconciler asks the fence, pass by pass. */
export interface Permits {
  /** Tells the fence what was found by a pass: what is gone, and ends that have moved. */
  begin (tenancy: Tenancy, observed: readonly ObservedObject[], blind: ReadonlyMap<ObjectKind, string>): Promise<void>
  /** False for what was revoked and is not gone: it is removed before it is made again. */
  mayStand (object: Pick<DesiredObject, 'kind' | 'name'>): boolean
  /** Resolves when the action may be done. @throws MusubiError STALE_COUNTER, RESOURCE_HELD, LEASE_ENDED */
  ask (action: Pick<Action, 'op' | 'kind' | 'name'>): Promise<void>
  /**
   * Asked last, with nothing awaited between this and the action: whoever waited for `ask` may have
   * been overtaken by a revocation. @throws MusubiError RESOURCE_HELD
   */
  still (action: Pick<Action, 'op' | 'kind' | 'name'>): void
}

/** As the fence calls an object. */
export const resourceOf = ({ kind, name }: { kind: ObjectKind, name: string }): string => `${kind} ${name}`
/** Whether the fence has refused; anything else is trouble with its disk. */
export const isRefusal = (error: unknown): boolean => ['STALE_COUNTER', 'RESOURCE_HELD', 'LEASE_ENDED'].includes(errorCode(error))
/** The host's tunnel serves all its clusters, and belongs to none. */
export const isShared = (kind: ObjectKind): boolean => kind === 'tunnel'

/** Turns a pass of the reconciler into questions to the fence, each with the counter of the ledger at which the pass began. */
export function createPermits (fence: Fence): Permits {
  let tenancy: Tenancy = { counter: 0, clusters: new Map() }

  function claimOf (name: string): FenceClaim {
    const cluster = tenancy.clusters.get(clusterOf(name))
    if (cluster === undefined) throw new ConflictError(`no live lease stands behind ${name}`)
    return { ...cluster, counter: tenancy.counter }
  }

  return {
    async begin (now, observed, blind) {
      tenancy = now
      await fence.tick().catch(() => undefined) // it cannot be written; what has ended is removed nevertheless, see `ask`
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

    async ask ({ op, kind, name }) {
      if (isShared(kind)) return
      const resource = resourceOf({ kind, name })
      if (op === 'apply') { await fence.grant(resource, claimOf(name)); return }
      const record = fence.get(resource)
      const holder = record?.clusterId ?? tenancy.clusters.get(clusterOf(name))?.clusterId ?? clusterOf(name)
      // Tried again it is the same decision: what was granted since the first must not look older.
      const counter = record?.state === 'revoking' ? record.counter : tenancy.counter
      await fence.revoke(resource, holder, counter).catch((error: unknown) => {
        // With a disk that takes no writes nothing is started any more, but what must go still goes.
        if (isRefusal(error)) throw error
      })
    },

    still ({ op, kind, name }) {
      if (op !== 'apply' || isShared(kind)) return
      const resource = resourceOf({ kind, name })
      const record = fence.get(resource)
      if (record?.state === 'granted' && record.clusterId === tenancy.clusters.get(clusterOf(name))?.clusterId) return
      throw new MusubiError('RESOURCE_HELD', `${resource} was revoked just before it was made`, { retryable: true, hint: 'it is decided anew' })
    }
  }
}
