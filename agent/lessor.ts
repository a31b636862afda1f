import { setTimeout as sleep } from 'node:timers/promises'
import type { Activate, HostStatus, Methods, Release } from './peers.ts'
import type { EventLog } from './events.ts'
import type { Reconciler } from './reconciler.ts'
import type { Details } from './details.ts'
import type { Ledger } from '../store/ledger.ts'
import type { DesiredObject } from '../protocol/core/desired.ts'
import { missingReceipts } from '../protocol/core/document.ts'
import { ConflictError, MusubiError } from '../protocol/core/errors.ts'
import type { HoldRequest } from '../protocol/core/messages.ts'
import { desiredFor, mergeTunnels, objectName } from '../protocol/core/plan.ts'

export interface LessorDeps {
  site: string
  host: string
  ledger: Ledger
  reconciler: () => Reconciler
  details: Details
  events: EventLog
  now: () => number
}

export interface Lessor {
  hold (request: HoldRequest): Promise<Methods['hold']['reply']>
  commit (request: Methods['hostCommit']['request']): Promise<Methods['hostCommit']['reply']>
  activate (request: Activate): Promise<Methods['hostActivate']['reply']>
  release (request: Release): Promise<Methods['hostRelease']['reply']>
  status (clusterId: string): Promise<HostStatus>
  /** What this host must run now: the objects of clusters whose leases are active. */
  desired (): DesiredObject[]
  /** Time passes: holds and terms end, documents of ended clusters are forgotten once their objects are gone. */
  tick (): Promise<void>
}

/** How long a release waits for guests to stop and links to go before it says "still removing". */
const REMOVAL_MS = 80_000
const REMOVAL_POLL_MS = 200

/**
 * The lender's side on one host, around the pure lease core: every promise goes through the ledger
 * first (synced), effects follow from what the ledger says is active.
 */
export function createLessor (deps: LessorDeps): Lessor {
  const { ledger, events, site, host } = deps

  const isActive = (clusterId: string): boolean => ledger.clusterState(clusterId) === 'active'
  const prefixOf = (clusterId: string): string => objectName(clusterId, '')
  const objectsOf = (clusterId: string): ReturnType<Reconciler['states']> => {
    const states = deps.reconciler().states()
    const mine = states.filter(o => o.name.startsWith(prefixOf(clusterId)))
    // The tunnel is the host's, shared by its clusters; it is shown with each that uses it.
    const tunnel = isActive(clusterId) && (ledger.documents.get(clusterId)?.document.sites.length ?? 0) > 1 ? states.filter(o => o.kind === 'tunnel') : []
    return [...mine, ...tunnel]
  }

  /** Why nobody can tell whether objects of a cluster are gone: their drivers could not look. */
  function unseenOf (clusterId: string): string[] {
    const record = ledger.documents.get(clusterId)
    if (record === undefined) return []
    const kinds = new Set(desiredFor(record.document, { site, host }, record.secrets).map(o => o.kind))
    return [...deps.reconciler().unseen()].filter(([kind]) => kinds.has(kind)).map(([kind, why]) => `what it cannot see: ${kind} (${why})`)
  }

  /** What nobody has looked at since the counter was read stays promised: it may have been started after the look. */
  async function vacateIfGone (clusterId: string): Promise<boolean> {
    const seenCounter = ledger.state().counter
    await deps.reconciler().pass()
    if (objectsOf(clusterId).length > 0 || unseenOf(clusterId).length > 0) return false
    await ledger.vacate(clusterId, seenCounter)
    return true
  }

  async function removed (clusterId: string): Promise<void> {
    const deadline = performance.now() + REMOVAL_MS
    while (!await vacateIfGone(clusterId)) {
      if (performance.now() > deadline) {
        const left = [...objectsOf(clusterId).map(o => `${o.kind} ${o.name}${o.error === '' ? '' : ` (${o.error})`}`), ...unseenOf(clusterId)]
        throw new MusubiError('STILL_REMOVING', `host ${host} still has ${left.join(', ')}`, { retryable: true, hint: 'it is tried again' })
      }
      await sleep(REMOVAL_POLL_MS)
    }
  }

  return {
    async hold (request) {
      const { receipts } = await ledger.hold(request)
      events.add('lease.held', `${request.items.map(i => `${i.kind} ${i.name}`).join(', ')} held for cluster ${request.cluster} of ${request.masterSite}`, request.cluster)
      return { receipts }
    },

    async commit (request) {
      const { receipts } = await ledger.commit(request.clusterId, request.offerId)
      return { receipts }
    },

    async activate ({ clusterId, document, receipts, secrets }) {
      if (document.id !== clusterId) throw new ConflictError(`the document of cluster ${document.id} cannot activate ${clusterId}`)
      const missing = missingReceipts(document, receipts)
      if (missing.length > 0) throw new ConflictError(`cluster ${document.name}: not every lender has committed: no receipt for ${missing.join(', ')}`)
      desiredFor(document, { site, host }, secrets) // refuses a document that this host could not run, before anything changes
      await ledger.activate(clusterId, receipts, { document, secrets })
      events.add('lease.active', `${ledger.leases(clusterId).length} leases of cluster ${document.name} are active`, document.name)
      deps.reconciler().trigger()
      return { site }
    },

    async release ({ clusterId, reason }) {
      const ran = ledger.documents.get(clusterId) !== undefined
      const { ended } = await ledger.release(clusterId, reason)
      if (ended > 0) events.add('lease.ended', `${ended} leases of cluster ${clusterId} ended: ${reason}`)
      if (ran || objectsOf(clusterId).length > 0) await removed(clusterId)
      return { site, ended }
    },

    async status (clusterId) {
      const objects = await Promise.all(objectsOf(clusterId).map(async o => ({
        kind: o.kind, name: o.name, state: o.state, error: o.error,
        detail: JSON.stringify({ ...o.detail, ...await deps.details.of(o.kind, o.name) })
      })))
      return { site, host, leaseState: ledger.clusterState(clusterId), objects, reachable: true, nowMs: deps.now() }
    },

    desired () {
      return mergeTunnels(ledger.activeDocuments().flatMap(c => desiredFor(c.document, { site, host }, c.secrets)))
    },

    async tick () {
      await ledger.tick()
      const over = ledger.documents.list().map(c => c.document.id).filter(id => ['ended', ''].includes(ledger.clusterState(id)))
      for (const clusterId of over) await vacateIfGone(clusterId)
    }
  }
}
