import type { LeaseDetail, LeaseEventResource, LeaseResource, LeaseRevoked } from '../../../protocol/api.ts'
import { ConflictError, InvalidInputError, NotFoundError } from '../../../protocol/core/errors.ts'
import { type Lease, type ReadonlyLedgerState, isLive } from '../../../protocol/core/lease/lease.ts'
import { MASTERLESS_MS } from '../../../protocol/core/limits.ts'
import { shortId } from '../../../protocol/core/notation/short-id.ts'
import type { EventLog } from '../../events.ts'
import type { HistoryEntry, Ledger } from '../../../store/ledger/types.ts'

export interface LeaseViewDeps {
  host: string
  ledger: Pick<Ledger, 'state' | 'now' | 'history' | 'revoke' | 'epochOf' | 'heardMs'>
  events: Pick<EventLog, 'add'>
  /** how far the clock of a cluster's master is behind the own, as the gateway measures it, ms; null when it was not */
  skewMs: (clusterId: string) => number | null
}

/** What is shown of the leases of a host, and what its operator can do to them. */
export interface LeaseView {
  leases (all: boolean): Promise<LeaseResource[]>
  /** @param id in full, as in tables, or its beginning  @throws NotFoundError, ConflictError when several begin so */
  lease (id: string): Promise<LeaseDetail>
  /** The latest `limit` entries, oldest first. @param filter.cluster name or id */
  history (filter: { cluster?: string, lease?: string, limit: number }): Promise<LeaseEventResource[]>
  /** Ends all leases of a cluster here. @param cluster name or id  @throws NotFoundError, ConflictError, InvalidInputError */
  revoke (cluster: string, reason: string): Promise<LeaseRevoked>
}

/** When it ends by itself as things are: the end of its term, or of the time that it may stay undecided. */
const endsMs = (lease: Lease): number => lease.state === 'held' || lease.state === 'committed' ? Math.min(lease.endMs, lease.deadlineMs) : lease.endMs

function pick (state: ReadonlyLedgerState, id: string): Lease {
  const exact = state.leases.get(id)
  if (exact !== undefined) return exact
  const all = [...state.leases.values()]
  const shown = all.filter(lease => shortId(lease.id) === id)
  const found = shown.length > 0 ? shown : all.filter(lease => lease.id.startsWith(id))
  const [one] = found
  if (one === undefined) throw new NotFoundError(`there is no lease "${id}" on ${state.host}`, 'see: musubi lease list --all; ended ones are forgotten after a day')
  if (found.length > 1) throw new ConflictError(`${found.length} leases on ${state.host} begin with "${id}"`, `such as ${found.slice(0, 3).map(lease => shortId(lease.id)).join(', ')}`)
  return one
}

/** Whether its master is missed. Only what runs, or waits for its start, has one to miss: the rest ends within minutes. */
export function isMasterless (lease: Lease, ledger: Pick<Ledger, 'now' | 'heardMs'>): boolean {
  const heardMs = ledger.heardMs(lease.clusterId)
  const now = ledger.now()
  return (lease.state === 'active' || (lease.state === 'committed' && lease.startMs > now)) && heardMs !== null && now - heardMs > MASTERLESS_MS
}

const eventResource = (e: HistoryEntry, cluster: string): LeaseEventResource => ({
  seq: e.seq, at: e.atMs, what: e.what, event: e.trigger, leaseId: e.leaseId, offerId: e.offerId, clusterId: e.clusterId, cluster,
  kind: e.kind, name: e.name, from: e.from, state: e.to, endMs: e.endMs, token: e.token, reason: e.reason
})

/** The lease resources, from the ledger itself. */
export function createLeaseView ({ host, ledger, events, skewMs }: LeaseViewDeps): LeaseView {
  const now = (): number => ledger.now()

  function resource (l: Lease): LeaseResource {
    const heardMs = ledger.heardMs(l.clusterId)
    const behindMs = skewMs(l.clusterId)
    return {
      leaseId: l.id, clusterId: l.clusterId, cluster: l.cluster, host, kind: l.kind, name: l.name, state: l.state,
      resources: l.resources, segmentId: l.segmentId, startMs: l.startMs, endMs: l.endMs, formerEndMs: l.formerEndMs ?? 0, remainsMs: isLive(l) ? Math.max(0, endsMs(l) - now()) : 0,
      token: l.token, masterSite: l.masterSite, epoch: ledger.epochOf(l.clusterId)?.epoch ?? 0,
      masterless: isMasterless(l, ledger), heardAgoMs: heardMs === null ? null : Math.max(0, now() - heardMs), skewMs: behindMs === null ? null : 0 - behindMs // people compare others with the clock that they see
    }
  }

  /** Ids of clusters with this name or id that have, or had, leases here. */
  const clustersCalled = (nameOrId: string, leases: readonly Lease[]): string[] =>
    [...new Set(leases.filter(l => l.clusterId === nameOrId || l.cluster === nameOrId).map(l => l.clusterId))]

  const view: LeaseView = {
    leases: all => Promise.resolve([...ledger.state().leases.values()].filter(l => all || isLive(l)).map(resource)),
    async lease (id) {
      const l = pick(ledger.state(), id)
      const undecided = l.state === 'held' || l.state === 'committed'
      return {
        ...resource(l), offerId: l.offerId, masterPeer: l.masterPeer, requester: l.requester, epochHolder: ledger.epochOf(l.clusterId)?.holder ?? '',
        deadlineMs: undecided ? l.deadlineMs : 0, confirmByMs: undecided ? l.confirmByMs : 0, commitToken: l.commitToken, activatedMs: l.activatedMs, endedMs: l.endedMs, endReason: l.endReason, vacated: l.vacated,
        history: await view.history({ lease: l.id, limit: 100 })
      }
    },
    async history ({ cluster, lease, limit }) {
      const leases = [...ledger.state().leases.values()]
      const [clusterId = cluster, ...others] = cluster === undefined ? [] : clustersCalled(cluster, leases)
      if (others.length > 0) throw new ConflictError(`several clusters on ${host} are called "${cluster ?? ''}"`, `say which, by id: ${[clusterId, ...others].join(', ')}`)
      const leaseId = lease === undefined || leases.every(l => shortId(l.id) !== lease) ? lease : pick(ledger.state(), lease).id
      const names = new Map(leases.map(l => [l.clusterId, l.cluster]))
      const entries = await ledger.history({ ...clusterId === undefined ? {} : { clusterId }, ...leaseId === undefined ? {} : { leaseId }, limit })
      return entries.map(entry => eventResource(entry, names.get(entry.clusterId) ?? entry.clusterId))
    },
    async revoke (cluster, reason) {
      if (reason.trim() === '') throw new InvalidInputError('a revocation needs a reason: it is kept with the leases')
      const live = [...ledger.state().leases.values()].filter(isLive)
      const [clusterId, ...others] = clustersCalled(cluster, live)
      const one = live.find(l => l.clusterId === clusterId)
      if (clusterId === undefined || one === undefined) throw new NotFoundError(`cluster "${cluster}" has no lease on ${host}`, 'see: musubi lease list; every host revokes its own')
      if (others.length > 0) throw new ConflictError(`several clusters on ${host} are called "${cluster}"`, `say which, by id: ${[clusterId, ...others].join(', ')}`)
      const { ended } = await ledger.revoke(clusterId, reason)
      events.add('lease.revoked', `${one.cluster}: ${ended} leases of ${one.masterSite} revoked, ${reason}`, one.cluster)
      return { host, clusterId, cluster: one.cluster, masterSite: one.masterSite, ended, reason }
    }
  }
  return view
}
