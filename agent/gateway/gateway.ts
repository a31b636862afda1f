import type { Logger } from 'pino'
import type { Activate, CallPeer, Caller, HostStatus, Methods, Release } from '../peers.ts'
import type { EventLog } from '../events.ts'
import type { Offer, Receipt, Request } from '../../protocol/core/messages.ts'
import type { Store } from '../../store/store.ts'
import { ConflictError, describeError, NotFoundError, UnreachableError } from '../../protocol/core/errors.ts'
import { makeOffer, type OfferDeps } from './offer.ts'

/** What the gateway keeps of an offer: which hosts hold for which cluster. Rebuildable, kept for speed. */
export interface OfferRecord {
  key: string
  offer: Offer
  masterPeer: string
  state: 'offered' | 'committed' | 'active' | 'releasing'
  reason: string
}

export interface GatewayDeps extends OfferDeps {
  site: string
  call: CallPeer
  store: Store
  events: EventLog
  log: Logger
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

const hostsOf = (offer: Offer): Array<{ host: string, peer: string }> =>
  [...new Map(offer.held.map(h => [h.peer, { host: h.host, peer: h.peer }])).values()]

/**
 * The gateway answers for its site: places a request on the site's hosts, has each of them hold it,
 * and passes commit, activation and release on. It promises nothing itself but segment ids.
 */
export function createGateway (deps: GatewayDeps): Gateway {
  const { store, call, log, events, site } = deps
  /** One negotiation per cluster at a time: replays wait for the first to finish. */
  const busy = new Map<string, Promise<unknown>>()

  async function alone<T> (clusterId: string, work: () => Promise<T>): Promise<T> {
    const before = busy.get(clusterId) ?? Promise.resolve()
    const mine = before.then(work, work)
    busy.set(clusterId, mine.catch(() => undefined))
    try {
      return await mine
    } finally {
      if (busy.size > 1024) busy.delete(clusterId)
    }
  }

  const load = (clusterId: string): Promise<OfferRecord | undefined> => store.get<OfferRecord>(PREFIX + clusterId)
  const save = (clusterId: string, record: OfferRecord): Promise<void> => store.put(PREFIX + clusterId, record, { sync: true })

  /** Only the master that negotiated an offer, or this gateway itself, may change it. */
  async function mine (clusterId: string, caller: Caller): Promise<OfferRecord> {
    const record = await load(clusterId)
    if (record === undefined) throw new NotFoundError(`site ${site} holds nothing for cluster ${clusterId}`, 'ask for it again')
    if (record.masterPeer !== caller.peerId) throw new ConflictError(`cluster ${clusterId} at site ${site} belongs to another master`)
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
    request: (request, caller) => alone(request.clusterId, async () => {
      const old = await load(request.clusterId)
      if (old !== undefined && old.key === request.key && old.state !== 'releasing') {
        if (old.masterPeer !== caller.peerId) throw new ConflictError(`request ${request.key} belongs to another master`)
        return old.offer
      }
      if (old !== undefined && old.state !== 'offered' && old.state !== 'releasing') {
        throw new ConflictError(`cluster ${request.cluster} (${request.clusterId}) already has leases at site ${site}`)
      }
      if (old !== undefined) await releaseHosts(request.clusterId, old.offer, 'asked again')
      const offer = await makeOffer(deps, request, caller, async partial => {
        // Known before the first hold leaves: after a crash the sweep ends what nobody will commit.
        await save(request.clusterId, { key: request.key, offer: partial, masterPeer: caller.peerId, state: 'offered', reason: '' })
      })
      await save(request.clusterId, { key: request.key, offer, masterPeer: caller.peerId, state: 'offered', reason: '' })
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
      await Promise.all(hostsOf(record.offer).map(async h => {
        const names = new Set(document.volumes.filter(v => v.host === h.host || document.nodes.some(n => n.name === v.node && n.host === h.host)).map(v => v.name))
        await call(h.peer, 'hostActivate', { ...request, secrets: request.secrets.filter(s => names.has(s.name)) }, { deadlineMs: HOST_DEADLINE_MS })
      }))
      await save(request.clusterId, { ...record, state: 'active' })
      events.add('lease.activated', `cluster ${document.name} of ${document.masterSite} is active here`, document.name)
      return { site }
    }),

    release: (request, caller) => alone(request.clusterId, async () => {
      const record = await load(request.clusterId)
      if (record === undefined) return { site, ended: 0 }
      if (record.masterPeer !== caller.peerId) throw new ConflictError(`cluster ${request.clusterId} at site ${site} belongs to another master`)
      await save(request.clusterId, { ...record, state: 'releasing', reason: request.reason })
      const ended = await releaseHosts(request.clusterId, record.offer, request.reason)
      events.add('lease.released', `${ended} leases of cluster ${request.clusterId} ended: ${request.reason}`)
      return { site, ended }
    }),

    async status (request, caller) {
      const record = await load(request.clusterId)
      if (record === undefined) return { hosts: [] }
      if (record.masterPeer !== caller.peerId) throw new ConflictError(`cluster ${request.clusterId} at site ${site} belongs to another master`)
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
      for await (const { key, value } of store.iterate<OfferRecord>(PREFIX)) {
        const clusterId = key.slice(PREFIX.length)
        if (value.state === 'releasing') {
          await alone(clusterId, () => releaseHosts(clusterId, value.offer, value.reason))
          continue
        }
        // Holds, inactive and ended leases end at the hosts by themselves; forget what no host has any more.
        const states = await Promise.allSettled(hostsOf(value.offer).map(h => call(h.peer, 'hostStatus', { clusterId }, { deadlineMs: STATUS_DEADLINE_MS })))
        const allGone = states.every(s => s.status === 'fulfilled' && (s.value.leaseState === '' || s.value.leaseState === 'ended') && s.value.objects.length === 0)
        if (allGone) {
          await alone(clusterId, async () => {
            const current = await load(clusterId)
            if (current !== undefined && current.offer.offerId === value.offer.offerId && current.state === value.state) await store.delete(PREFIX + clusterId, { sync: true })
          })
        }
      }
    }
  }
}
