import type { CallPeer, Caller } from '../peers.ts'
import type { GatewayFacts, Held, HoldItem, Offer, Request } from '../../protocol/core/messages.ts'
import { placeAtSite, type Assignment, type HostCapacity } from '../../protocol/core/placement.ts'
import { zero } from '../../protocol/core/capacity.ts'
import { errorCode, describeError, MusubiError, NoCapacityError } from '../../protocol/core/errors.ts'
import { HOLD_TTL_MS, MAX_TERM_MS, MIN_TERM_MS } from '../../protocol/core/limits.ts'
import { requestProblem } from '../../protocol/core/verify-request.ts'

/** A host of the site as the gateway sees it: capacity to place on, peer to call. */
export interface SiteHost extends HostCapacity { peer: string, underlayAddress: string }

/** A segment id that no other request gets until it is released; once a hold is answered the ledger knows of it. */
export interface ProposedId { id: number, release: () => void }

export interface OfferDeps {
  site: string
  call: CallPeer
  facts: () => Promise<GatewayFacts>
  siteHosts: () => SiteHost[]
  /** lowest free id of this gateway's slice; throws NoCapacityError when there is none */
  proposeSegmentId: () => ProposedId
  newId: () => string
  now: () => number
}

const HOLD_DEADLINE_MS = 5_000
/** Placements tried when a host refuses: its advertisement was older than its ledger. */
const ATTEMPTS = 3

function checkRequest (request: Request, now: number): void {
  const term = request.endMs - request.startMs
  const problem = requestProblem(request) ?? (request.nodes.length === 0 && !request.frontend && request.volumes.length === 0 ? 'it asks for nothing'
    : term < MIN_TERM_MS ? `its term of ${term} ms is below ${MIN_TERM_MS} ms`
    : term > MAX_TERM_MS ? `its term of ${term} ms is above ${MAX_TERM_MS} ms`
    : request.endMs <= now ? 'it ends in the past'
    : null)
  if (problem !== null) throw new MusubiError('INVALID_INPUT', `request for cluster ${request.cluster.slice(0, 64)}: ${problem}`)
}

/**
 * Places a request on the site's hosts and has every one of them hold its part on disk.
 * All or nothing: when one refuses, the others are released, and another placement is tried.
 *
 * @param remember called with the offer as planned, before the first hold leaves
 * @throws NoCapacityError with what is missing
 */
export async function makeOffer (deps: OfferDeps, request: Request, caller: Caller, remember: (planned: Offer) => Promise<void>): Promise<Offer> {
  checkRequest(request, deps.now())
  const segment: { proposed: ProposedId | null } = { proposed: null }
  try {
    return await tryOffers(deps, request, caller, remember, () => (segment.proposed ??= deps.proposeSegmentId()).id)
  } finally {
    segment.proposed?.release()
  }
}

async function tryOffers (deps: OfferDeps, request: Request, caller: Caller, remember: (planned: Offer) => Promise<void>, segmentId: () => number): Promise<Offer> {
  const ttlMs = Math.min(request.holdTtlMs === 0 ? HOLD_TTL_MS : request.holdTtlMs, HOLD_TTL_MS)
  const refusals: string[] = []
  const full = new Set<string>()
  for (let attempt = 0; attempt < ATTEMPTS; attempt++) {
    const hosts = deps.siteHosts().map(h => full.has(h.host) ? { ...h, free: zero() } : h)
    const placed = placeAtSite(request, hosts)
    if ('refusal' in placed) throw new NoCapacityError(`site ${deps.site}: ${[placed.refusal, ...refusals].join('; ')}`)
    const offer = await plan(deps, segmentId(), placed.assignments, hosts, ttlMs)
    await remember(offer)
    const outcome = await holdAll(deps, request, caller, offer)
    if (outcome.failed.length === 0) return { ...offer, held: offer.held.map(h => ({ ...h, token: outcome.tokens.get(h.leaseId) ?? 0 })) }
    await Promise.allSettled(peersOf(offer).map(peer => deps.call(peer, 'hostRelease', { clusterId: request.clusterId, reason: 'another host refused' }, { deadlineMs: HOLD_DEADLINE_MS })))
    for (const { host, error } of outcome.failed) {
      full.add(host)
      refusals.push(`${host}: ${describeError(error)}`)
      if (errorCode(error) === 'INVALID_INPUT') throw error
    }
  }
  throw new NoCapacityError(`site ${deps.site}: no host would hold it: ${refusals.join('; ')}`)
}

const peersOf = (offer: Offer): string[] => [...new Set(offer.held.map(h => h.peer))]

async function plan (deps: OfferDeps, segmentId: number, assignments: Assignment[], hosts: SiteHost[], ttlMs: number): Promise<Offer> {
  const gateway = await deps.facts()
  const byName = new Map(hosts.map(h => [h.host, h]))
  const held = assignments.map((a): Held => {
    const host = byName.get(a.host)
    if (host === undefined) throw new MusubiError('INTERNAL', `placement chose the unknown host ${a.host}`)
    return { leaseId: deps.newId(), kind: a.kind, name: a.name, host: a.host, peer: host.peer, underlayAddress: host.underlayAddress, resources: a.resources, token: 0 }
  })
  // The gateway always takes part: it carries the segment, and its ledger keeps the segment id.
  held.push({ leaseId: deps.newId(), kind: 'segment', name: 'segment', host: gateway.host, peer: gateway.peer, underlayAddress: gateway.underlayAddress, resources: zero(), token: 0 })
  return { offerId: deps.newId(), site: deps.site, segmentId, gateway, held, ttlMs }
}

async function holdAll (deps: OfferDeps, request: Request, caller: Caller, offer: Offer): Promise<{ tokens: Map<string, number>, failed: Array<{ host: string, error: unknown }> }> {
  const tokens = new Map<string, number>()
  const failed: Array<{ host: string, error: unknown }> = []
  await Promise.all(peersOf(offer).map(async peer => {
    const items = offer.held.filter(h => h.peer === peer)
    const host = items[0]?.host ?? peer
    try {
      const reply = await deps.call(peer, 'hold', {
        key: `${request.key}/${offer.offerId}`, clusterId: request.clusterId, cluster: request.cluster,
        masterSite: request.masterSite, masterPeer: caller.peerId, startMs: request.startMs, endMs: request.endMs,
        ttlMs: offer.ttlMs, offerId: offer.offerId,
        items: items.map((h): HoldItem => ({ leaseId: h.leaseId, kind: h.kind, name: h.name, resources: h.resources, segmentId: h.kind === 'segment' ? offer.segmentId : 0 }))
      }, { deadlineMs: HOLD_DEADLINE_MS })
      for (const receipt of reply.receipts) tokens.set(receipt.leaseId, receipt.token)
    } catch (error) {
      failed.push({ host, error })
    }
  }))
  return { tokens, failed }
}
