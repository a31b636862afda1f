import type { Logger } from 'pino'
import type { Activate, CallPeer, Caller, HostStatus, Methods, Release } from '../peers.ts'
import { createTurns } from '../turns.ts'
import type { EventLog } from '../events.ts'
import type { Offer, Receipt, Request } from '../../protocol/core/messages.ts'
import type { Store } from '../../store/store.ts'
import { ConflictError, describeError, MusubiError, NotFoundError, UnreachableError } from '../../protocol/core/errors.ts'
import { offeredProblem } from '../../protocol/core/verify.ts'
import { makeOffer, type OfferDeps } from './offer.ts'
import type { Cordon } from '../cordon.ts'
import type { Policy } from '../policy/policy.ts'

/** What the gateway keeps of an offer: which hosts hold for which cluster. Rebuildable, kept for speed. */
export interface OfferRecord {
  key: string
  offer: Offer
  masterPeer: string
  /** as asked for: what is activated must be the same */
  vni: number
  /** `asking`: hosts are being asked to hold what was planned; it is no offer yet */
  state: 'asking' | 'offered' | 'committed' | 'active' | 'releasing'
  reason: string
}

export interface GatewayDeps extends OfferDeps {
  site: string
  call: CallPeer
  store: Store
  events: EventLog
  log: Logger
  /** what this site lends to whom; absent: everything to everybody */
  policy?: Pick<Policy, 'check'>
  /** a gateway carries the segment of every cluster at its site: cordoned it takes none */
  cordon?: Pick<Cordon, 'check'>
}

export interface Gateway {
  request (request: Request, caller: Caller): Promise<Offer>
  commit (request: Methods['commit']['request'], caller: Caller): Promise<Methods['commit']['reply']>
  activate (request: Activate, caller: Caller): Promise<{ site: string }>
  release (request: Release, caller: Caller): Promise<{ site: string, ended: number }>
  status (request: { clusterId: string }, caller: Caller): Promise<{ hosts: HostStatus[] }>
  /** Tries again what a crash or an unreachable host left: releases not yet confirmed. */
  sweep (): Promise<void>
}

const PREFIX = 'offer/'
const HOST_DEADLINE_MS = 8_000
const STATUS_DEADLINE_MS = 3_000
/** A host confirms a release when its objects are gone, not before. */
const RELEASE_DEADLINE_MS = 90_000
/** Offers that are swept side by side: one whose hosts do not answer takes up to `RELEASE_DEADLINE_MS`. */
const SWEEP_PARALLEL = 8

const hostsOf = (offer: Offer): Array<{ host: string, peer: string }> =>
  [...new Map(offer.held.map(h => [h.peer, { host: h.host, peer: h.peer }])).values()]

/**
 * The gateway answers for its site: places a request on the site's hosts, has each of them hold it,
 * and passes commit, activation and release on. It promises nothing itself but segment ids.
 */
export function createGateway (deps: GatewayDeps): Gateway {
  const { store, call, log, events, site } = deps
  /** One negotiation per cluster at a time: replays wait for the first to finish. */
  const alone = createTurns()
  /** Releases under way or in line, by cluster and master: who asks again meanwhile waits for the same one. */
  const releases = new Map<string, Promise<{ site: string, ended: number }>>()

  const releaseKey = (clusterId: string, master: string): string => `${clusterId}/${master}`

  function releaseOnce (key: string, work: () => Promise<{ site: string, ended: number }>): Promise<{ site: string, ended: number }> {
    const under = releases.get(key)
    if (under !== undefined) return under
    const mine = work().finally(() => { if (releases.get(key) === mine) releases.delete(key) })
    releases.set(key, mine)
    return mine
  }

  /** As `alone`, for what a release from before does not cover: who releases after it joins none of those. */
  function aloneAnew<T> (clusterId: string, caller: Caller, work: () => Promise<T>): Promise<T> {
    releases.delete(releaseKey(clusterId, caller.peerId))
    return alone(clusterId, work)
  }

  const load = (clusterId: string): Promise<OfferRecord | undefined> => store.get<OfferRecord>(PREFIX + clusterId)
  const save = (clusterId: string, record: OfferRecord): Promise<void> => store.put(PREFIX + clusterId, record, { sync: true })

  function mustOwn (clusterId: string, record: OfferRecord, caller: Caller): void {
    if (record.masterPeer !== caller.peerId) throw new ConflictError(`cluster ${clusterId} at site ${site} belongs to another master`)
  }

  /** Hosts trust their own gateway: what a master writes about this site must be what was offered to that master. */
  function mustBeAsOffered ({ clusterId, document }: Activate, record: OfferRecord, caller: Caller): void {
    const problem = document.id !== clusterId ? `it is of cluster ${document.id}`
      : document.masterSite !== caller.site || document.masterPeer !== caller.peerId ? `its master is not ${caller.host} of ${caller.site ?? 'the coordinators'}`
      : document.vni !== record.vni ? `it has VNI ${document.vni}, the request had ${record.vni}`
      : offeredProblem(document, record.offer)
    if (problem !== null) throw new ConflictError(`the document for cluster ${clusterId} is refused by site ${site}: ${problem}`)
  }

  /** Only the master that negotiated an offer may change it. */
  async function mine (clusterId: string, caller: Caller): Promise<OfferRecord> {
    const record = await load(clusterId)
    if (record === undefined || record.state === 'asking') throw new NotFoundError(`site ${site} holds nothing for cluster ${clusterId}`, 'ask for it again')
    mustOwn(clusterId, record, caller)
    return record
  }

  async function releaseHosts (clusterId: string, offer: Offer, reason: string): Promise<number> {
    const results = await Promise.allSettled(hostsOf(offer).map(h => call(h.peer, 'hostRelease', { clusterId, reason }, { deadlineMs: RELEASE_DEADLINE_MS })))
    let ended = 0
    const failed: string[] = []
    results.forEach((r, i) => {
      if (r.status === 'fulfilled') ended += r.value.ended
      else failed.push(`${hostsOf(offer)[i]?.host ?? '?'}: ${describeError(r.reason)}`)
    })
    if (failed.length > 0) {
      log.warn({ clusterId, failed }, 'some hosts did not confirm the release; it is tried again')
      throw new UnreachableError(`site ${site} could not confirm the release at ${failed.join('; ')}`, 'it is tried again; inactive leases end by themselves')
    }
    await store.delete(PREFIX + clusterId, { sync: true })
    return ended
  }

  return {
    request: (request, caller) => aloneAnew(request.clusterId, caller, async () => {
      if (request.masterSite !== caller.site) throw new MusubiError('FORBIDDEN', `${caller.host} of ${caller.site ?? 'the coordinators'} may not ask in the name of site ${request.masterSite.slice(0, 64)}`)
      const old = await load(request.clusterId)
      if (old !== undefined) {
        mustOwn(request.clusterId, old, caller)
        if (old.state === 'offered' || old.state === 'committed' || old.state === 'active') {
          if (old.key === request.key) return old.offer
          if (old.state !== 'offered') throw new ConflictError(`cluster ${request.cluster} (${request.clusterId}) already has leases at site ${site}`)
        }
        // What was only held ends by itself where a host does not answer; what ran must be confirmed gone.
        const released = releaseHosts(request.clusterId, old.offer, 'asked again')
        await (old.state === 'releasing' ? released : released.catch(() => undefined))
      }
      deps.cordon?.check()
      deps.policy?.check(request.masterSite, request.startMs, request.endMs)
      const offer = await makeOffer(deps, request, caller, async partial => {
        // Known before the first hold leaves: after a crash the sweep ends what nobody will commit.
        await save(request.clusterId, { key: request.key, offer: partial, masterPeer: caller.peerId, vni: request.vni, state: 'asking', reason: '' })
      })
      await save(request.clusterId, { key: request.key, offer, masterPeer: caller.peerId, vni: request.vni, state: 'offered', reason: '' })
      events.add('lease.offered', `${offer.held.filter(h => h.kind === 'node').length} nodes held for cluster ${request.cluster} of ${request.masterSite}`, request.cluster)
      return offer
    }),

    commit: (request, caller) => alone(request.clusterId, async () => {
      const record = await mine(request.clusterId, caller)
      if (record.state === 'releasing') throw new ConflictError(`cluster ${request.clusterId} is being released at site ${site}`)
      if (record.offer.offerId !== request.offerId) throw new ConflictError(`site ${site} has another offer for cluster ${request.clusterId}`, 'ask for it again')
      const replies = await Promise.all(hostsOf(record.offer).map(h =>
        call(h.peer, 'hostCommit', { clusterId: request.clusterId, offerId: request.offerId }, { deadlineMs: HOST_DEADLINE_MS })))
      const receipts: Receipt[] = replies.flatMap(r => r.receipts)
      if (record.state === 'offered') await save(request.clusterId, { ...record, state: 'committed' })
      events.add('lease.committed', `${receipts.length} leases committed for cluster ${request.clusterId}`)
      return { site, receipts }
    }),

    activate: (request, caller) => alone(request.clusterId, async () => {
      const record = await mine(request.clusterId, caller)
      const document = request.document
      if (record.state === 'releasing') throw new ConflictError(`cluster ${document.name} is being released at site ${site}`)
      mustBeAsOffered(request, record, caller)
      await Promise.all(hostsOf(record.offer).map(async h => {
        const names = new Set(document.volumes.filter(v => v.host === h.host || document.nodes.some(n => n.name === v.node && n.host === h.host)).map(v => v.name))
        await call(h.peer, 'hostActivate', { ...request, secrets: request.secrets.filter(s => names.has(s.name)) }, { deadlineMs: HOST_DEADLINE_MS })
      }))
      await save(request.clusterId, { ...record, state: 'active' })
      events.add('lease.activated', `cluster ${document.name} of ${document.masterSite} is active here`, document.name)
      return { site }
    }),

    async release (request, caller) {
      const seen = await load(request.clusterId)
      if (seen !== undefined) mustOwn(request.clusterId, seen, caller)
      return await releaseOnce(releaseKey(request.clusterId, caller.peerId), () => alone(request.clusterId, async () => {
        const record = await load(request.clusterId)
        if (record === undefined) return { site, ended: 0 }
        mustOwn(request.clusterId, record, caller)
        await save(request.clusterId, { ...record, state: 'releasing', reason: request.reason })
        const ended = await releaseHosts(request.clusterId, record.offer, request.reason)
        events.add('lease.released', `${ended} leases of cluster ${request.clusterId} ended: ${request.reason}`)
        return { site, ended }
      }))
    },

    async status (request, caller) {
      const record = await load(request.clusterId)
      if (record === undefined) return { hosts: [] }
      mustOwn(request.clusterId, record, caller)
      const hosts = await Promise.all(hostsOf(record.offer).map(async (h): Promise<HostStatus> => {
        try {
          return await call(h.peer, 'hostStatus', { clusterId: request.clusterId }, { deadlineMs: STATUS_DEADLINE_MS })
        } catch (error) {
          log.debug({ host: h.host, error: describeError(error) }, 'no status from host')
          return { site, host: h.host, leaseState: '', objects: [], reachable: false, nowMs: 0 }
        }
      }))
      return { hosts }
    },

    async sweep () {
      const left: string[] = []
      for await (const { key } of store.iterate<OfferRecord>(PREFIX)) left.push(key.slice(PREFIX.length))
      const worker = async (): Promise<void> => {
        for (let clusterId = left.shift(); clusterId !== undefined; clusterId = left.shift()) {
          // One host that does not answer must not keep the others from being swept.
          await sweepOne(clusterId).catch((error: unknown) => { log.debug({ clusterId, error: describeError(error) }, 'an offer could not be swept') })
        }
      }
      await Promise.all(Array.from({ length: SWEEP_PARALLEL }, worker))
    }
  }

  async function sweepOne (clusterId: string): Promise<void> {
    const seen = await load(clusterId)
    if (seen === undefined) return
    // Looked at again when it is its turn: the master may have released, or asked anew, since.
    const unchanged = async (): Promise<boolean> => {
      const current = await load(clusterId)
      return current !== undefined && current.offer.offerId === seen.offer.offerId && current.state === seen.state
    }
    if (seen.state === 'releasing') {
      await alone(clusterId, async () => {
        // Whoever releases it stands in line behind this, and must not be waited for here.
        const key = releaseKey(clusterId, seen.masterPeer)
        if (await unchanged() && !releases.has(key)) await releaseOnce(key, async () => ({ site, ended: await releaseHosts(clusterId, seen.offer, seen.reason) }))
      })
      return
    }
    // Holds, inactive and ended leases end at the hosts by themselves; forget what no host has any more.
    const states = await Promise.allSettled(hostsOf(seen.offer).map(h => call(h.peer, 'hostStatus', { clusterId }, { deadlineMs: STATUS_DEADLINE_MS })))
    const allGone = states.every(s => s.status === 'fulfilled' && (s.value.leaseState === '' || s.value.leaseState === 'ended') && s.value.objects.length === 0)
    if (allGone) await alone(clusterId, async () => { if (await unchanged()) await store.delete(PREFIX + clusterId, { sync: true }) })
  }
}
