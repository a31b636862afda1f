import { clusterOf } from '../../reconcile/diff.ts'
import type { ObservedObject } from '../../drivers/driver.ts'
import type { HostDrivers } from '../../drivers/registry.ts'
import type { ServiceManager } from '../../services.ts'
import { KIND_ORDER, type ObjectKind } from '../../../protocol/core/desired.ts'
import { describeError } from '../../../protocol/core/errors.ts'
import { HELPER_MAX_NAMES } from '../../../protocol/core/limits.ts'
import type { FenceState } from '../../../protocol/core/fence/fence.ts'
import type { Fence } from '../fence/store.ts'
import type { Hands } from '../hands.ts'
import { isShared, resourceOf } from '../fence/permits.ts'
import { findOrphans, removeOrphan, type Orphan } from './orphans.ts'

/** One object of ours on a host. */
export interface OwnedObject {
  kind: ObjectKind
  name: string
  healthy: boolean
  /** what the fence knows of it; null: nothing */
  state: FenceState | null
  /** in whose name it is there; empty: nobody's */
  clusterId: string
}

/** Everything of ours on a host. */
export interface Owned {
  objects: OwnedObject[]
  /** what carries our prefix and belongs to no object */
  orphans: Orphan[]
  /** kinds that could not be looked at, with the reason */
  unseen: Array<{ kind: ObjectKind, why: string }>
}

/** What a sweep did, or would do: in words such as `domain 1a2b.n1` or `link mzb000001`. */
export interface Swept {
  removed: string[]
  failed: Array<{ what: string, why: string }>
  /** kinds that could not be looked at, and were left alone */
  unseen: Array<{ kind: ObjectKind, why: string }>
}

export interface OwnedDeps {
  host: HostDrivers
  hands: Hands
  fence: Fence
  /** null with pretended drivers: there is nothing of ours but what they pretend */
  services: ServiceManager | null
}

export interface OwnedView {
  list (signal: AbortSignal): Promise<Owned>
  /**
   * Removes what the fence has not granted and nobody wants to keep, against the order of creation,
   * then what belongs to no object. What cannot be looked at is left alone.
   *
   * @param keep resources, as the fence names them
   */
  sweep (keep: ReadonlySet<string>, dryRun: boolean, signal: AbortSignal): Promise<Swept>
}

const orphanText = ({ what, name }: Orphan): string => `${what} ${name}`

export function createOwned ({ host, hands, fence, services }: OwnedDeps): OwnedView {
  async function look (signal: AbortSignal): Promise<{ observed: ObservedObject[], unseen: Owned['unseen'] }> {
    const observed: ObservedObject[] = []
    const unseen: Owned['unseen'] = []
    await Promise.all(KIND_ORDER.filter(kind => host.drivers[kind] !== undefined).map(async kind => {
      try {
        observed.push(...await hands.observe(kind, signal))
      } catch (error) {
        unseen.push({ kind, why: describeError(error) })
      }
    }))
    const rank = (kind: ObjectKind): number => KIND_ORDER.indexOf(kind)
    observed.sort((a, b) => rank(a.kind) - rank(b.kind) || (a.name < b.name ? -1 : 1))
    return { observed, unseen }
  }

  /** Only where every kind was seen: what an unseen object explains is no orphan. Names come first, or what is made between two looks would be one. */
  async function orphansBeside (signal: AbortSignal): Promise<{ orphans: Orphan[], observed: ObservedObject[], unseen: Owned['unseen'] }> {
    if (services === null) return { orphans: [], ...await look(signal) }
    let now: Awaited<ReturnType<typeof look>> = { observed: [], unseen: [] }
    const orphans = await findOrphans({ observed: async () => (now = await look(signal)).observed, services, strays: host.strays }, signal)
    return { orphans: now.unseen.length > 0 ? [] : orphans, ...now }
  }

  function wanted ({ kind, name }: ObservedObject, keep: ReadonlySet<string>): boolean {
    if (keep.has(resourceOf({ kind, name }))) return true
    // the tunnel serves whoever has a grant
    if (isShared(kind)) return fence.records().some(record => record.state === 'granted')
    return fence.get(resourceOf({ kind, name }))?.state === 'granted'
  }

  return {
    async list (signal) {
      const { observed, unseen, orphans } = await orphansBeside(signal)
      return {
        objects: observed.slice(0, HELPER_MAX_NAMES).map(({ kind, name, healthy }) => {
          const record = fence.get(resourceOf({ kind, name }))
          return { kind, name, healthy, state: record?.state ?? null, clusterId: record?.clusterId ?? (isShared(kind) ? '' : clusterOf(name)) }
        }),
        orphans,
        unseen
      }
    },

    async sweep (keep, dryRun, signal) {
      const swept: Swept = { removed: [], failed: [], unseen: [] }
      const attempt = async (what: string, work: () => Promise<void>): Promise<void> => {
        try {
          if (!dryRun) await work()
          swept.removed.push(what)
        } catch (error) {
          swept.failed.push({ what, why: describeError(error) })
        }
      }
      const { observed, unseen } = await look(signal)
      swept.unseen = unseen
      for (const object of observed.toReversed()) {
        if (!wanted(object, keep)) await attempt(resourceOf(object), () => hands.clear(object, signal))
      }
      // what went with its objects is no orphan: look again
      for (const orphan of (await orphansBeside(signal)).orphans) {
        await attempt(orphanText(orphan), () => removeOrphan(orphan, { services, strays: host.strays }, signal))
      }
      return swept
    }
  }
}
