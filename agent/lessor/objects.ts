import type { Reconciler, ObjectState } from '../reconcile/reconciler.ts'
import { isShared, resourceOf, type Tenancy } from '../helper/fence/permits.ts'
import { clusterOf } from '../reconcile/diff.ts'
import type { DocumentRecord, Ledger } from '../../store/ledger.ts'
import type { DesiredObject, ObjectKind, TunnelSpec } from '../../protocol/core/desired.ts'
import { describeError } from '../../protocol/core/errors.ts'
import { bareAddress } from '../../protocol/core/document.ts'
import { isQuota } from '../../protocol/core/lease/lease.ts'
import type { GatewayFacts } from '../../protocol/core/messages.ts'
import { desiredFor, type GatewayNews, mergeTunnels, objectName, TUNNEL_NAME, withNews } from '../../protocol/core/plan.ts'
import type { Self } from '../../protocol/core/verify/document.ts'

/** What clusters have on a host, and what they are to have: the ledger says it, the reconciler has seen it. */
export interface HostObjects {
  /** What this host must run now: the objects whose leases are active. */
  desired (): DesiredObject[]
  /** Of these clusters; one whose document cannot be read asks for nothing, and is told by `undecided`. */
  desiredOf (clusterIds: readonly string[]): DesiredObject[]
  undecided (): ReadonlyMap<string, string>
  tenancy (): Tenancy
  /** Everything that is shown of a cluster, the shared tunnel included. */
  shown (clusterId: string): ObjectState[]
  /** What is there of a cluster without a lease: all of it when the cluster is not active. */
  left (clusterId: string): ObjectState[]
  /** Everything that its document gives this host alone, with a lease or without, as the fence calls it. */
  resourcesOf (clusterId: string): string[]
  /** Kinds of which nobody can tell whether objects of a cluster are there, with the reason: their drivers could not look. */
  unseen (clusterId: string): Array<{ kind: ObjectKind, why: string }>
}

/** Objects of a cluster share the beginning of their names. */
export const prefixOf = (clusterId: string): string => objectName(clusterId, '')

/** What a gateway knows of tunnels beyond what documents say. */
export interface TunnelTruth {
  /** of gateways of other sites: what they say themselves counts, and who is revoked has no part any more; null: nothing */
  news: (gateway: GatewayFacts, site: string) => GatewayNews | null
  /** of the own end */
  own: () => Pick<TunnelSpec, 'secondPort' | 'keyEpoch'>
}

const NO_TRUTH: TunnelTruth = { news: () => null, own: () => ({}) }

export function createHostObjects (self: Self, ledger: Ledger, reconciler: () => Reconciler, { news, own: ownTunnel }: TunnelTruth = NO_TRUTH): HostObjects {
  const isActive = (clusterId: string): boolean => ledger.usageState(clusterId) === 'active'

  /** Objects of a document whose own lease is not active: given back one by one while the cluster lives on. */
  function lapsed ({ document }: DocumentRecord): Set<string> {
    const active = new Set(ledger.leases(document.id).filter(lease => lease.state === 'active').map(lease => lease.id))
    const here = (part: { site: string, host: string }): boolean => part.site === self.site && part.host === self.host
    const parts: Array<{ kind: ObjectKind, short: string, leaseId: string }> = [
      ...document.nodes.filter(here).map(node => ({ kind: 'domain' as const, short: node.name, leaseId: node.leaseId })),
      ...document.volumes.filter(here).map(volume => ({ kind: 'volume' as const, short: volume.name, leaseId: volume.leaseId })),
      ...[document.frontend].filter(here).map(frontend => ({ kind: 'frontend' as const, short: 'frontend', leaseId: frontend.leaseId }))
    ]
    return new Set(parts.filter(part => !active.has(part.leaseId)).map(({ kind, short }) => resourceOf({ kind, name: objectName(document.id, short) })))
  }

  const wanted = (record: DocumentRecord): DesiredObject[] => {
    const gone = lapsed(record)
    return desiredFor(record.document, self, record.secrets).filter(object => !gone.has(resourceOf(object)))
  }

  const desiredOf = (clusterIds: readonly string[]): DesiredObject[] => ledger.activeDocuments().filter(record => clusterIds.includes(record.document.id)).flatMap(record => {
    try {
      return wanted(record)
    } catch {
      return []
    }
  })

  const own = (clusterId: string): ObjectState[] => reconciler().states().filter(object => object.name.startsWith(prefixOf(clusterId)))

  return {
    desiredOf,

    desired () {
      const documents = ledger.activeDocuments().map(record => record.document)
      const others = new Map(documents.flatMap(({ sites }) => sites.filter(one => one.site !== self.site).map(({ site, gateway }) => [bareAddress(gateway.tunnelAddress), { site, gateway }])))
      const known = new Map([...others].map(([address, { site, gateway }]) => [address, news(gateway, site)]))
      const newsAt = (address: string): GatewayNews | null => known.get(address) ?? null
      return withNews(mergeTunnels(desiredOf(documents.map(({ id }) => id)), address => (newsAt(address)?.tracks ?? null) !== null), newsAt, ownTunnel())
    },

    undecided () {
      const held = new Map<string, string>()
      let tunnel = false
      for (const record of ledger.activeDocuments()) {
        try {
          tunnel ||= wanted(record).some(object => object.kind === 'tunnel')
        } catch (error) {
          held.set(clusterOf(prefixOf(record.document.id)), describeError(error))
        }
      }
      // It may be the only one that needs the tunnel: then that stays too.
      if (held.size > 0 && !tunnel) held.set(TUNNEL_NAME, 'a cluster that may need it cannot be read')
      return held
    },

    tenancy () {
      const clusters = new Map<string, { clusterId: string, endMs: number }>()
      for (const lease of ledger.state().leases.values()) {
        if (lease.state !== 'active' || isQuota(lease)) continue
        const name = clusterOf(prefixOf(lease.clusterId))
        clusters.set(name, { clusterId: lease.clusterId, endMs: Math.max(lease.endMs, clusters.get(name)?.endMs ?? 0) })
      }
      return { counter: ledger.state().counter, clusters }
    },

    shown (clusterId) {
      // The tunnel is the host's, shared by its clusters; it is shown with each that uses it.
      const tunnel = isActive(clusterId) && (ledger.documents.get(clusterId)?.document.sites.length ?? 0) > 1 ? reconciler().states().filter(object => object.kind === 'tunnel') : []
      return [...own(clusterId), ...tunnel]
    },

    left (clusterId) {
      if (!isActive(clusterId)) return own(clusterId)
      const record = ledger.documents.get(clusterId)
      if (record === undefined) return []
      try {
        const stays = new Set(wanted(record).map(resourceOf))
        return own(clusterId).filter(object => !stays.has(resourceOf(object)))
      } catch {
        const gone = lapsed(record)
        return own(clusterId).filter(object => gone.has(resourceOf(object)))
      }
    },

    resourcesOf (clusterId) {
      const record = ledger.documents.get(clusterId)
      try {
        return record === undefined ? [] : desiredFor(record.document, self, record.secrets).filter(object => !isShared(object.kind)).map(resourceOf)
      } catch {
        return [] // what cannot be read was never made from it by this process
      }
    },

    unseen (clusterId) {
      const record = ledger.documents.get(clusterId)
      if (record === undefined) return []
      const unseen = [...reconciler().unseen()].map(([kind, why]) => ({ kind, why }))
      try {
        const kinds = new Set(desiredFor(record.document, self, record.secrets).map(object => object.kind))
        return unseen.filter(({ kind }) => kinds.has(kind))
      } catch {
        return unseen // of a document that cannot be read any kind may be there
      }
    }
  }
}
