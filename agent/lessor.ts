import { setTimeout as sleep } from 'node:timers/promises'
import type { Activate, HostStatus, Methods, Release } from './peers.ts'
import { createTurns } from './turns.ts'
import type { EventLog } from './events.ts'
import { conflicts } from './diff.ts'
import { clusterOf, type Reconciler } from './reconciler.ts'
import type { Details } from './details.ts'
import type { Cordon } from './cordon.ts'
import type { DocumentRecord, Ledger } from '../store/ledger.ts'
import type { DesiredObject, ObjectKind } from '../protocol/core/desired.ts'
import { missingReceipts } from '../protocol/core/document.ts'
import { ConflictError, describeError, InvalidInputError, MusubiError } from '../protocol/core/errors.ts'
import type { HoldRequest } from '../protocol/core/messages.ts'
import { desiredFor, mergeTunnels, objectName, TUNNEL_NAME } from '../protocol/core/plan.ts'
import { checkAgainstLeases, type HostTruth } from '../protocol/core/verify.ts'
import { holdProblem } from '../protocol/core/verify-request.ts'

export interface LessorDeps {
  site: string
  host: string
  ledger: Ledger
  reconciler: () => Reconciler
  details: Details
  events: EventLog
  now: () => number
  /** what this host knows by itself, against which documents are checked */
  truth: HostTruth
  /** whether this host takes new leases; absent: always */
  cordon?: Pick<Cordon, 'check'>
}

export interface Lessor {
  hold (request: HoldRequest): Promise<Methods['hold']['reply']>
  commit (request: Methods['hostCommit']['request']): Promise<Methods['hostCommit']['reply']>
  activate (request: Activate): Promise<Methods['hostActivate']['reply']>
  release (request: Release): Promise<Methods['hostRelease']['reply']>
  status (clusterId: string): Promise<HostStatus>
  /** What this host must run now: the objects of clusters whose leases are active. */
  desired (): DesiredObject[]
  /** Active clusters whose document cannot be read into objects, by the first part of object names, with the reason: left as they are. */
  undecided (): ReadonlyMap<string, string>
  /** Time passes: holds and terms end, and the removal of what ran begins. Waits for no removal. */
  tick (): Promise<void>
  /** Forgets the documents of ended clusters whose objects are gone. */
  vacate (): Promise<void>
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

  const asDesired = ({ document, secrets }: DocumentRecord): DesiredObject[] => desiredFor(document, { site, host }, secrets)
  // However a lease ends: what ran under it is removed now.
  ledger.onChange(effects => {
    if (effects.some(e => e.effect === 'lease' && e.lease.state === 'ended' && ledger.documents.get(e.lease.clusterId) !== undefined)) deps.reconciler().trigger()
  })

  const isActive = (clusterId: string): boolean => ledger.clusterState(clusterId) === 'active'
  const isOver = (clusterId: string): boolean => ['ended', ''].includes(ledger.clusterState(clusterId))
  const prefixOf = (clusterId: string): string => objectName(clusterId, '')
  const objectsOf = (clusterId: string): ReturnType<Reconciler['states']> => {
    const states = deps.reconciler().states()
    const mine = states.filter(o => o.name.startsWith(prefixOf(clusterId)))
    // The tunnel is the host's, shared by its clusters; it is shown with each that uses it.
    const tunnel = isActive(clusterId) && (ledger.documents.get(clusterId)?.document.sites.length ?? 0) > 1 ? states.filter(o => o.kind === 'tunnel') : []
    return [...mine, ...tunnel]
  }

  /** Kinds of which nobody can tell whether objects of a cluster are there, with the reason: their drivers could not look. */
  function unseenOf (clusterId: string): Array<{ kind: ObjectKind, why: string }> {
    const record = ledger.documents.get(clusterId)
    if (record === undefined) return []
    const unseen = [...deps.reconciler().unseen()].map(([kind, why]) => ({ kind, why }))
    try {
      const kinds = new Set(asDesired(record).map(o => o.kind))
      return unseen.filter(({ kind }) => kinds.has(kind))
    } catch {
      return unseen // of a document that cannot be read any kind may be there
    }
  }

  /**
   * One look for all. What nobody has looked at since the counter was read stays promised: it may
   * have been started after the look.
   *
   * @returns the clusters of which something is left
   */
  async function vacateGone (clusterIds: readonly string[]): Promise<string[]> {
    const seenCounter = ledger.state().counter
    await deps.reconciler().look()
    const gone = clusterIds.filter(id => objectsOf(id).length === 0 && unseenOf(id).length === 0)
    await Promise.all(gone.map(id => ledger.vacate(id, seenCounter)))
    return clusterIds.filter(id => !gone.includes(id))
  }

  async function removed (clusterId: string): Promise<void> {
    const deadline = performance.now() + REMOVAL_MS
    while ((await vacateGone([clusterId])).length > 0) {
      if (performance.now() > deadline) {
        const left = [...objectsOf(clusterId).map(o => `${o.kind} ${o.name}${o.error === '' ? '' : ` (${o.error})`}`), ...unseenOf(clusterId).map(({ kind, why }) => `what it cannot see: ${kind} (${why})`)]
        throw new MusubiError('STILL_REMOVING', `host ${host} still has ${left.join(', ')}`, { retryable: true, hint: 'it is tried again' })
      }
      await sleep(REMOVAL_POLL_MS)
    }
  }

  /**
   * Refuses what this host could not run, or not beside what it runs already, before anything changes:
   * one document must not keep the reconciler from all others.
   */
  function mustBeRunnable (record: DocumentRecord): void {
    const { document, secrets } = record
    const others = ledger.documents.list().filter(other => other.document.id !== document.id)
    checkAgainstLeases(document, { site, host }, ledger.leases(document.id), others.map(other => ({ document: other.document, active: isActive(other.document.id) })), deps.truth)
    const accounts = new Set(others.flatMap(other => other.secrets.map(secret => secret.user)))
    const taken = secrets.find(secret => accounts.has(secret.user))
    // A target daemon's accounts are global: the second cluster would get, or change, the first one's secret.
    if (taken !== undefined) throw new ConflictError(`the CHAP user ${brief(taken.user)} of cluster ${document.name} belongs to another cluster on ${host}`)
    const [conflict] = conflicts([...desiredOf(others.map(other => other.document.id)), ...asDesired(record)].filter(object => object.kind !== 'tunnel'))
    if (conflict !== undefined) throw new ConflictError(`cluster ${document.name} on ${host}: ${conflict.why}`)
  }

  /** What active clusters ask for; one whose document cannot be read asks for nothing, and is told by `undecided`. */
  const desiredOf = (clusterIds: readonly string[]): DesiredObject[] => ledger.activeDocuments().filter(record => clusterIds.includes(record.document.id)).flatMap(record => {
    try {
      return asDesired(record)
    } catch {
      return []
    }
  })

  /** Activations come one after the other: each is compared with all that are active. */
  const turns = createTurns()

  return {
    async hold (request) {
      const problem = holdProblem(request)
      if (problem !== null) throw new InvalidInputError(`hold of offer ${brief(request.offerId)} for cluster ${brief(request.cluster)} on ${host}: ${problem}`)
      // what is promised stays promised: only what is new is refused
      if (!ledger.state().replays.has(request.key)) deps.cordon?.check()
      const { receipts } = await ledger.hold(request)
      events.add('lease.held', `${request.items.map(i => `${i.kind} ${i.name}`).join(', ')} held for cluster ${request.cluster} of ${request.masterSite}`, request.cluster)
      return { receipts }
    },

    async commit (request) {
      const { receipts } = await ledger.commit(request.clusterId, request.offerId)
      return { receipts }
    },

    activate: ({ clusterId, document, receipts, secrets }) => turns('activate', async () => {
      if (document.id !== clusterId) throw new ConflictError(`the document of cluster ${document.id} cannot activate ${clusterId}`)
      const missing = missingReceipts(document, receipts)
      if (missing.length > 0) throw new ConflictError(`cluster ${document.name}: not every lender has committed: no receipt for ${missing.join(', ')}`)
      mustBeRunnable({ document, secrets })
      await ledger.activate(clusterId, receipts, { document, secrets })
      events.add('lease.active', `${ledger.leases(clusterId).length} leases of cluster ${document.name} are active`, document.name)
      deps.reconciler().trigger()
      return { site }
    }),

    async release ({ clusterId, reason }) {
      const ran = ledger.documents.get(clusterId) !== undefined
      const { ended } = await ledger.release(clusterId, reason)
      if (ended > 0) events.add('lease.ended', `${ended} leases of cluster ${clusterId} ended: ${reason}`)
      if (ran || objectsOf(clusterId).length > 0) await removed(clusterId)
      return { site, ended }
    },

    async status (clusterId) {
      await deps.reconciler().looked() // before that "no objects" would say that nothing runs
      const objects: HostStatus['objects'] = await Promise.all(objectsOf(clusterId).map(async o => ({
        kind: o.kind, name: o.name, state: o.state, error: o.error,
        detail: JSON.stringify({ ...o.detail, ...await deps.details.of(o.kind, o.name) })
      })))
      for (const { kind, why } of unseenOf(clusterId)) {
        if (!objects.some(o => o.kind === kind)) objects.push({ kind, name: prefixOf(clusterId), state: 'failed', error: `cannot be seen: ${why}`, detail: '' })
      }
      // As long as the document is kept nobody has found everything gone.
      if (objects.length === 0 && isOver(clusterId) && ledger.documents.get(clusterId) !== undefined) objects.push({ kind: 'cluster', name: prefixOf(clusterId), state: 'removing', error: '', detail: '' })
      return { site, host, leaseState: ledger.clusterState(clusterId), objects, reachable: true, nowMs: deps.now() }
    },

    desired () {
      return mergeTunnels(desiredOf(ledger.activeDocuments().map(record => record.document.id)))
    },

    undecided () {
      const held = new Map<string, string>()
      let tunnel = false
      for (const record of ledger.activeDocuments()) {
        try {
          tunnel ||= asDesired(record).some(o => o.kind === 'tunnel')
        } catch (error) {
          held.set(clusterOf(prefixOf(record.document.id)), describeError(error))
        }
      }
      // It may be the only one that needs the tunnel: then that stays too.
      if (held.size > 0 && !tunnel) held.set(TUNNEL_NAME, 'a cluster that may need it cannot be read')
      return held
    },

    tick: () => ledger.tick(),

    async vacate () {
      const over = ledger.documents.list().map(c => c.document.id).filter(isOver)
      if (over.length > 0) await vacateGone(over)
    }
  }
}

/** Text from elsewhere in a message: not longer than a name. */
const brief = (text: string): string => text.length > 64 ? `${text.slice(0, 61)}...` : text
