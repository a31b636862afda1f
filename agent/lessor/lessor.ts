import type { Activate, Caller, HostStatus, Methods } from '../peers.ts'
import { createTurns } from '../turns.ts'
import type { EventLog } from '../events.ts'
import type { Reconciler } from '../reconcile/reconciler.ts'
import type { Details } from '../details.ts'
import type { Cordon } from '../cordon.ts'
import type { Policy } from '../policy/policy.ts'
import type { Fence } from '../helper/fence/store.ts'
import type { Tenancy } from '../helper/fence/permits.ts'
import { brief, mustBeRunnable } from './acceptance.ts'
import { createFencing } from './fencing.ts'
import { createHostObjects, prefixOf, type TunnelTruth } from './objects.ts'
import { createRemoval } from './removal.ts'
import { wayReady } from './way.ts'
import type { Ledger } from '../../store/ledger.ts'
import type { DesiredObject } from '../../protocol/core/desired.ts'
import { missingReceipts } from '../../protocol/core/document.ts'
import { ConflictError, InvalidInputError, MusubiError } from '../../protocol/core/errors.ts'
import { isLive, isQuota } from '../../protocol/core/lease/lease.ts'
import { MAX_CLOCK_SKEW_MS } from '../../protocol/core/limits.ts'
import type { EpochGrant, Grant, HoldRequest, ReleaseRequest } from '../../protocol/core/messages.ts'
import { OWN_SHARE } from '../../protocol/core/gateway/shares.ts'
import type { HostTruth } from '../../protocol/core/verify/document.ts'
import { claimProblem, hostCommitProblem, hostCurtailProblem, hostExtendProblem, hostKeepAliveProblem, hostRestoreProblem, holdProblem, releaseProblem } from '../../protocol/core/verify/request.ts'

export interface LessorDeps {
  site: string
  host: string
  ledger: Ledger
  reconciler: () => Reconciler
  details: Details
  events: EventLog
  /** ledger clock, Unix ms */
  now: () => number
  /** ms from any beginning; never goes back */
  monotonic: () => number
  sleep: (ms: number) => Promise<void>
  /** NIC that carries segments inside the site by VLAN; absent: VXLAN does */
  trunk?: string
  /** what this host knows by itself, against which documents are checked */
  truth: HostTruth
  /** signs in the name of this host who is master of a cluster */
  signGrant: (grant: EpochGrant) => Grant
  /** whether this host takes new leases; absent: always */
  cordon?: Pick<Cordon, 'check'>
  /** what the site lends to whom, as this host knows it: a gateway that is behind, or in wrong hands, cannot lend more of it */
  policy?: Pick<Policy, 'check'>
  /** whether it is a gateway, which counts what sites borrow; absent: it is */
  isGateway?: boolean
  /** told at once of what has ended, so that no command from before brings it back */
  fence?: Fence
  /** what is known of tunnels beyond documents; absent: nothing */
  tunnels?: TunnelTruth
}

export interface Lessor {
  /** @param from host name of the gateway that asks; absent: it was asked by nobody else */
  hold (request: HoldRequest, from?: string): Promise<Methods['hold']['reply']>
  /** Holds leases for longer; it is so once the request's offer is committed. */
  extend (request: Methods['hostExtend']['request']): Promise<Methods['hostExtend']['reply']>
  commit (request: Methods['hostCommit']['request']): Promise<Methods['hostCommit']['reply']>
  activate (request: Activate): Promise<Methods['hostActivate']['reply']>
  release (request: ReleaseRequest): Promise<Methods['hostRelease']['reply']>
  /** The leases of a cluster end earlier, by a notice of this site's gateway. @throws as the ledger: TOO_SOON, STALE_NOTICE */
  curtail (request: Methods['hostCurtail']['request']): Promise<Methods['hostCurtail']['reply']>
  /** Takes that back. @throws as the ledger: NoCapacityError, QUOTA_EXCEEDED, STALE_NOTICE */
  restore (request: Methods['hostRestore']['request']): Promise<Methods['hostRestore']['reply']>
  keepAlive (request: Methods['hostKeepAlive']['request']): Promise<Methods['hostKeepAlive']['reply']>
  /**
   * Makes the caller master of a cluster whose frontend is leased here, and says so with a signature.
   *
   * @throws MusubiError NOT_ANCHOR, FORBIDDEN; what the ledger says: STALE_EPOCH, MASTER_ALIVE
   */
  claim (request: Methods['claim']['request'], caller: Pick<Caller, 'peerId' | 'site' | 'host' | 'gateway'>): Promise<{ epoch: number, grant: Grant }>
  status (clusterId: string): Promise<HostStatus>
  /** What this host must run now: the objects whose leases are active. */
  desired (): DesiredObject[]
  /** Active clusters whose document cannot be read into objects, by the first part of object names, with the reason: left as they are. */
  undecided (): ReadonlyMap<string, string>
  /** Who uses this host at this moment of the ledger, for the fence. */
  tenancy (): Tenancy
  /** Time passes: holds and terms end, and the removal of what ran begins. Waits for no removal. */
  tick (): Promise<void>
  /** Tells the ledger what is gone of what has ended, and forgets the documents of ended clusters. */
  vacate (): Promise<void>
}

/**
 * The lender's side on one host, around the pure lease core: every promise goes through the ledger
 * first (synced), effects follow from what the ledger says is active.
 */
export function createLessor (deps: LessorDeps): Lessor {
  const { ledger, events, site, host, trunk } = deps
  const self = { site, host, ...(trunk === undefined ? {} : { trunk }) }
  const objects = createHostObjects(self, ledger, deps.reconciler, deps.tunnels)
  const fencing = createFencing(deps.fence, ledger, objects)
  const removal = createRemoval({ host, ledger, objects, fencing, reconciler: deps.reconciler, monotonic: deps.monotonic, sleep: deps.sleep })

  // Nobody came for what was reserved: told once a cluster, as people look there first.
  ledger.onChange(effects => {
    const missed = effects.flatMap(e => e.effect === 'lease' && e.from === 'committed' && e.trigger === 'expire' ? [e.lease] : [])
    for (const [clusterId, leases] of Map.groupBy(missed, lease => lease.clusterId)) {
      const { cluster = clusterId, masterSite = '', endReason = '' } = leases[0] ?? {}
      events.add('lease.no_show', `${leases.length} leases of cluster ${cluster} of ${masterSite} ended unused: ${endReason}`, cluster)
    }
  })

  // However a lease ends: what ran under it is removed now.
  ledger.onChange(effects => {
    const ended = effects.flatMap(e => e.effect === 'lease' && e.lease.state === 'ended' && ledger.documents.get(e.lease.clusterId) !== undefined ? [e.lease.clusterId] : [])
    if (ended.length === 0) return
    fencing.off([...new Set(ended)]).catch(() => undefined) // asked again before anything counts as gone
    deps.reconciler().trigger()
  })

  const isOver = (clusterId: string): boolean => ['ended', ''].includes(ledger.usageState(clusterId))
  const clusterName = (clusterId: string): string => ledger.leases(clusterId).find(isLive)?.cluster ?? clusterId
  /** Refuses by name what is not a question at all. */
  const mustBe = (problem: string | null, what: string): void => {
    if (problem !== null) throw new InvalidInputError(`${what} on ${host}: ${problem}`)
  }
  /** Shares of quotas are the gateways': each counts in its own name, and its lease at another says whose request it is. */
  function mustBeShare ({ items }: HoldRequest, from: string): void {
    const share = items.find(isQuota)
    if (share === undefined) return
    if (deps.isGateway === false) throw new MusubiError('FORBIDDEN', `host ${host} is no gateway: it counts no quota`, { hint: 'ask a gateway of its site' })
    const name = from === host ? OWN_SHARE : from
    if (share.name !== name) throw new MusubiError('FORBIDDEN', `gateway ${brief(from)} asks ${host} for a share of the quota as "${brief(share.name)}"`, { hint: `a lease of a share on another gateway has the name of the one that asks, ${brief(name)} here` })
  }

  /** Activations come one after the other: each is compared with all that are active. */
  const turns = createTurns()

  return {
    async hold (request, from = host) {
      mustBe(holdProblem(request), `hold of offer ${brief(request.offerId)} for cluster ${brief(request.cluster)}`)
      mustBeShare(request, from)
      // what is promised stays promised: only what is new is refused
      if (!ledger.state().replays.has(request.key)) {
        deps.cordon?.check()
        deps.policy?.check({ masterSite: request.masterSite, startMs: request.startMs, endMs: request.endMs, slackMs: MAX_CLOCK_SKEW_MS })
      }
      const { receipts, segmentId, localSegmentId = 0 } = await ledger.hold(request)
      events.add('lease.held', `${request.items.map(i => `${i.kind} ${i.name}`).join(', ')} held for cluster ${request.cluster} of ${request.masterSite}`, request.cluster)
      return { receipts, segmentId, localSegmentId }
    },

    async extend (request) {
      mustBe(hostExtendProblem(request, deps.now()), `extension of cluster ${brief(request.clusterId)}`)
      const [lease] = ledger.leases(request.clusterId).filter(isLive)
      if (lease !== undefined && !ledger.state().replays.has(request.key)) {
        deps.policy?.check({ masterSite: lease.masterSite, startMs: lease.startMs, fromMs: lease.endMs, endMs: request.endMs, slackMs: MAX_CLOCK_SKEW_MS })
      }
      const { receipts } = await ledger.extend(request)
      return { receipts }
    },

    async commit (request) {
      mustBe(hostCommitProblem(request), `commit of offer ${brief(request.offerId)}`)
      const { receipts } = await ledger.commit(request.clusterId, request.offerId, request.epoch)
      return { receipts }
    },

    async activate ({ clusterId, document, receipts, secrets, epoch }) {
      await turns('activate', async () => {
        if (document.id !== clusterId) throw new ConflictError(`the document of cluster ${document.id} cannot activate ${clusterId}`)
        const missing = missingReceipts(document, receipts)
        if (missing.length > 0) throw new ConflictError(`cluster ${document.name}: not every lender has committed: no receipt for ${missing.join(', ')}`)
        const live = ledger.leases(clusterId).filter(isLive)
        if (live.length > 0 && live.every(isQuota)) {
          // Nothing of it is here: what another gateway of the site borrows is counted, and the document is no affair of this host.
          await ledger.activate(clusterId, receipts, undefined, epoch)
          return
        }
        mustBeRunnable({ document, secrets }, self, ledger, objects, deps.truth)
        await ledger.activate(clusterId, receipts, { document, secrets }, epoch)
        events.add('lease.active', `${ledger.leases(clusterId).filter(lease => lease.state === 'active').length} leases of cluster ${document.name} are active`, document.name)
        deps.reconciler().trigger()
      })
      await wayReady({ site, host, shown: id => objects.shown(id), monotonic: deps.monotonic, sleep: deps.sleep }, document)
      return { site }
    },

    async release (request) {
      mustBe(releaseProblem(request), `release of cluster ${brief(request.clusterId)}`)
      const { clusterId, reason, offerId, leaseIds, epoch } = request
      const ran = ledger.documents.get(clusterId) !== undefined
      const { ended } = await ledger.release(clusterId, reason, { ...(offerId === '' ? {} : { offerId }), ...(leaseIds.length === 0 ? {} : { leaseIds }), epoch })
      if (ended > 0) events.add('lease.ended', `${ended} leases of cluster ${clusterId} ended: ${reason}`)
      if (ran || objects.left(clusterId).length > 0) await removal.finished(clusterId)
      return { site, ended }
    },

    async curtail (request) {
      mustBe(hostCurtailProblem(request, deps.now()), `notice of cluster ${brief(request.clusterId)}`)
      const { endMs } = await ledger.curtail(request)
      if (endMs > 0) events.add('lease.curtailed', `the leases of cluster ${clusterName(request.clusterId)} end at ${new Date(endMs).toISOString()}: ${request.reason}`, clusterName(request.clusterId))
      await fencing.shortened(request.clusterId)
      deps.reconciler().trigger()
      return { endMs, nowMs: deps.now() }
    },

    async restore (request) {
      mustBe(hostRestoreProblem(request), `notice of cluster ${brief(request.clusterId)}`)
      const { endMs } = await ledger.restore(request)
      if (endMs > 0) events.add('lease.restored', `the leases of cluster ${clusterName(request.clusterId)} end at ${new Date(endMs).toISOString()} again`, clusterName(request.clusterId))
      deps.reconciler().trigger()
      return { endMs, nowMs: deps.now() }
    },

    async keepAlive (request) {
      mustBe(hostKeepAliveProblem(request), `keep-alive of cluster ${brief(request.clusterId)}`)
      const { clusterId, epoch, holder } = request
      return await ledger.keepAlive({ clusterId, epoch, holder })
    },

    async claim (request, caller) {
      mustBe(claimProblem(request), `claim of cluster ${brief(request.clusterId)}`)
      if (!caller.gateway || caller.site !== site) throw new MusubiError('FORBIDDEN', `${caller.host} of ${caller.site ?? 'the coordinators'} may not be master of a cluster of site ${site}`)
      const { clusterId, force } = request
      const anchors = ledger.leases(clusterId).some(lease => isLive(lease) && lease.kind === 'frontend' && lease.masterSite === site)
      if (!anchors) throw new MusubiError('NOT_ANCHOR', `host ${host} of ${site} has no frontend of cluster ${clusterId}: it does not decide who is its master`, { hint: 'ask the host that has it' })
      const { epoch } = await ledger.claim({ clusterId, epoch: request.epoch, holder: caller.peerId, force })
      events.add('cluster.claimed', `${caller.host} is master of cluster ${clusterId} from epoch ${epoch} on${force ? ', by force' : ''}`)
      return { epoch, grant: deps.signGrant({ clusterId, epoch, holder: caller.peerId, site, host, grantedMs: deps.now() }) }
    },

    async status (clusterId) {
      await deps.reconciler().looked() // before that "no objects" would say that nothing runs
      const shown: HostStatus['objects'] = await Promise.all(objects.shown(clusterId).map(async o => ({
        kind: o.kind, name: o.name, state: o.state, error: o.error,
        detail: JSON.stringify({ ...o.detail, ...await deps.details.of(o.kind, o.name) })
      })))
      for (const { kind, why } of objects.unseen(clusterId)) {
        if (!shown.some(o => o.kind === kind)) shown.push({ kind, name: prefixOf(clusterId), state: 'failed', error: `cannot be seen: ${why}`, detail: '' })
      }
      // As long as the document is kept nobody has found everything gone.
      if (shown.length === 0 && isOver(clusterId) && ledger.documents.get(clusterId) !== undefined) shown.push({ kind: 'cluster', name: prefixOf(clusterId), state: 'removing', error: '', detail: '' })
      return { site, host, leaseState: ledger.clusterState(clusterId), objects: shown, reachable: true, nowMs: deps.now() }
    },

    desired: () => objects.desired(),
    undecided: () => objects.undecided(),
    tenancy: () => objects.tenancy(),
    tick: () => ledger.tick(),
    vacate: () => removal.vacate()
  }
}
