import type { DriverSet } from '../reconcile/reconciler.ts'
import type { Driver, ObservedObject } from '../drivers/driver.ts'
import { createTurns } from '../turns.ts'
import type { DesiredObject, ObjectKind } from '../../protocol/core/desired.ts'
import { InvalidInputError, MusubiError, NotFoundError } from '../../protocol/core/errors.ts'
import type { Fence, FenceClaim } from './fence/store.ts'
import { isRefusal, isShared, resourceOf } from './fence/permits.ts'

/** In whose name something is removed, and at which state of the ledger that was decided. */
export type FenceOrder = Pick<FenceClaim, 'clusterId' | 'counter'>

/** What acts on a host: never before the fence has let it, and for one object one deed at a time. */
export interface Hands {
  observe (kind: ObjectKind, signal: AbortSignal): Promise<ObservedObject[]>
  /**
   * Asks the fence, waits for its disk, asks whether it is still so, and acts; nothing is awaited
   * between the last two. A revocation that comes later finds the deed in its turn before the removal.
   *
   * @param claim null for what the clusters of a host share, and for nothing else
   * @throws MusubiError STALE_COUNTER, RESOURCE_HELD, LEASE_ENDED with nothing changed, and what drivers throw
   */
  apply (object: DesiredObject, claim: FenceClaim | null, signal: AbortSignal): Promise<void>
  /** Fences it off, then removes it. @throws as `apply` */
  remove (object: Pick<DesiredObject, 'kind' | 'name'>, order: FenceOrder | null, signal: AbortSignal): Promise<void>
  /** Removes what no grant stands behind, whoever made it. @throws MusubiError RESOURCE_HELD */
  clear (object: Pick<DesiredObject, 'kind' | 'name'>, signal: AbortSignal): Promise<void>
  /**
   * Somebody says that what was revoked is gone. It counts when these hands have looked since they
   * last worked on it, and it was not there.
   *
   * @throws MusubiError RESOURCE_HELD, STALE_COUNTER
   */
  gone (object: Pick<DesiredObject, 'kind' | 'name'>, counter: number): Promise<void>
  /** Resolves when no deed is under way. */
  idle (): Promise<void>
}

/** @param fence null: nothing is fenced, for tests of drivers and decisions */
export function createHands ({ drivers, fence }: { drivers: DriverSet, fence: Fence | null }): Hands {
  const turns = createTurns()
  /** grows with every look and every deed: tells which came first */
  let clock = 0
  const looks = new Map<ObjectKind, { at: number, names: ReadonlySet<string> }>()
  const busy = new Map<string, number>()
  const made = new Map<string, number>()
  const waiting: Array<() => void> = []

  function driverOf<K extends ObjectKind> (kind: K): Driver<K> {
    const driver = drivers[kind]
    if (driver === undefined) throw new NotFoundError(`this host has no driver for a ${kind}`, 'see roles in its configuration')
    return driver
  }

  function mustMatch (kind: ObjectKind, order: FenceOrder | null): void {
    if (fence !== null && isShared(kind) !== (order === null)) throw new InvalidInputError(order === null ? `a ${kind} belongs to a cluster, and nobody is named` : `a ${kind} belongs to no cluster`)
  }

  /** In the turn of its resource; what it does is younger than any look before its end. */
  async function deed (resource: string, work: () => Promise<void>): Promise<void> {
    await turns(resource, async () => {
      busy.set(resource, (busy.get(resource) ?? 0) + 1)
      try {
        await work()
      } finally {
        made.set(resource, ++clock)
        const left = (busy.get(resource) ?? 1) - 1
        if (left > 0) busy.set(resource, left)
        else busy.delete(resource)
        if (busy.size === 0) for (const resolve of waiting.splice(0)) resolve()
      }
    })
  }

  function mustStand (resource: string, { clusterId }: FenceClaim): void {
    const record = fence?.get(resource)
    if (record?.state === 'granted' && record.clusterId === clusterId) return
    throw new MusubiError('RESOURCE_HELD', `${resource} was revoked just before it was made`, { retryable: true, hint: 'it is decided anew' })
  }

  return {
    async observe (kind, signal) {
      const at = ++clock
      const found = await driverOf(kind).observe(signal)
      if ((looks.get(kind)?.at ?? 0) < at) looks.set(kind, { at, names: new Set(found.map(object => object.name)) })
      // deeds from before every look of their kind tell nothing any more
      for (const [resource, when] of made) if (when < at && resource.startsWith(`${kind} `)) made.delete(resource)
      return found
    },

    async apply ({ kind, name, spec }, claim, signal) {
      const driver = driverOf(kind)
      mustMatch(kind, claim)
      const resource = resourceOf({ kind, name })
      await deed(resource, async () => {
        signal.throwIfAborted()
        if (fence !== null && claim !== null) {
          await fence.grant(resource, claim)
          mustStand(resource, claim)
        }
        await driver.apply(name, spec, signal)
      })
    },

    async remove ({ kind, name }, order, signal) {
      const driver = driverOf(kind)
      mustMatch(kind, order)
      const resource = resourceOf({ kind, name })
      await deed(resource, async () => {
        signal.throwIfAborted()
        if (fence !== null && order !== null) {
          await fence.revoke(resource, order.clusterId, order.counter).catch((error: unknown) => {
            // With a disk that takes no writes nothing is started any more, but what must go still goes.
            if (isRefusal(error)) throw error
          })
        }
        await driver.remove(name, signal)
      })
    },

    async clear ({ kind, name }, signal) {
      const driver = driverOf(kind)
      const resource = resourceOf({ kind, name })
      await deed(resource, async () => {
        signal.throwIfAborted()
        const record = fence?.get(resource)
        if (record?.state === 'granted') throw new MusubiError('RESOURCE_HELD', `${resource} runs for cluster ${record.clusterId}`, { hint: 'it goes when its lease ends' })
        await driver.remove(name, signal)
      })
    },

    async gone ({ kind, name }, counter) {
      const resource = resourceOf({ kind, name })
      const look = looks.get(kind)
      const stale = look === undefined || busy.has(resource) || (made.get(resource) ?? 0) > look.at
      // what has no driver here was never made here
      if (drivers[kind] !== undefined && (stale || look.names.has(name))) {
        throw new MusubiError('RESOURCE_HELD', `${resource} ${stale ? 'was not looked at since it was worked on' : 'is still there'}`, { retryable: true, hint: 'it is looked at anew' })
      }
      await fence?.gone(resource, counter)
    },

    idle: () => busy.size === 0 ? Promise.resolve() : new Promise(resolve => { waiting.push(resolve) })
  }
}
