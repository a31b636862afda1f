/** What a gateway checks of a master's questions before anything changes. */
import { missingReceipts } from '../document.ts'
import { ConflictError, InvalidInputError, MusubiError, NotFoundError } from '../errors.ts'
import { HOLD_TTL_MS, MAX_CLOCK_SKEW_MS, MAX_TERM_MS } from '../limits.ts'
import type { ActivateRequest, ExtendRequest, Offer, Request } from '../messages.ts'
import { offeredProblem } from '../verify/document.ts'
import { commitProblem, extendProblem, isUuid, keepAliveProblem, releaseProblem, requestProblem, termProblem } from '../verify/request.ts'
import type { Asker, SiteAsk } from './events.ts'
import { type GatewayRecord, allHeld } from './record.ts'
import { toldOffer } from './shares.ts'

/** Text from elsewhere in a message: not longer than a name. */
export const brief = (text: string): string => text.length > 64 ? `${text.slice(0, 61)}...` : text

/** A question without what the gateway has added to it. */
type Question = SiteAsk extends infer A ? A extends SiteAsk ? Pick<A, 'method' | 'request'> : never : never

/** What is wrong with the form of a question, whoever asks. @throws InvalidInputError */
export function checkForm (ask: Question, now: number): void {
  const { request } = ask
  const problem = ask.method === 'request' ? requestProblem(ask.request)
    : ask.method === 'extend' ? extendProblem(ask.request, now)
    : ask.method === 'commit' ? commitProblem(ask.request)
    : ask.method === 'release' ? releaseProblem(ask.request)
    : ask.method === 'keepAlive' ? keepAliveProblem(ask.request)
    : isUuid(ask.request.clusterId) ? null : 'its cluster is no UUID in lower case'
  if (problem !== null) throw new InvalidInputError(`${ask.method} for cluster ${brief('cluster' in request ? request.cluster : request.clusterId)}: ${problem}`)
}

/**
 * Only the master of a cluster may change it: the site that asked for it, and of its gateways the
 * one that holds the highest epoch that was proved here.
 */
export function mustOwn (site: string, record: GatewayRecord, caller: Asker, epoch: number): void {
  const { clusterId, masterSite, masterPeer } = record
  if (caller.site !== masterSite) throw new ConflictError(`cluster ${clusterId} at site ${site} belongs to another master`)
  if (epoch < 1) throw new InvalidInputError(`cluster ${clusterId} at site ${site}: the epoch ${epoch} is none`, 'a master names its epoch, from 1, in every call')
  if (epoch < record.epoch) throw new MusubiError('STALE_EPOCH', `cluster ${clusterId} at site ${site} is led by ${masterPeer} in epoch ${record.epoch}; epoch ${epoch} is over`, { hint: 'another gateway of that site has adopted the cluster' })
  if (epoch > record.epoch) throw new MusubiError('GRANT_NEEDED', `cluster ${clusterId} at site ${site} is led by ${masterPeer} in epoch ${record.epoch}; nobody has proved epoch ${epoch} here`, { retryable: true, hint: 'send the grant of the anchor host with a keep-alive first' })
  if (caller.peerId !== masterPeer) throw new ConflictError(`cluster ${clusterId} at site ${site} belongs to another master, ${masterPeer} of the same site`)
}

/** @throws NotFoundError */
export function mustHave (site: string, clusterId: string, record: GatewayRecord | undefined): GatewayRecord {
  if (record === undefined) throw new NotFoundError(`site ${site} holds nothing for cluster ${brief(clusterId)}`, 'ask for it again')
  return record
}

/** @param arrivedMs when the question arrived: what it waited here is no difference of clocks */
export function mustBeInTime (site: string, what: string, sentMs: number, arrivedMs: number): void {
  const skewMs = arrivedMs - sentMs
  if (Number.isSafeInteger(sentMs) && Math.abs(skewMs) <= MAX_CLOCK_SKEW_MS) return
  throw new MusubiError('CLOCK_SKEW', `${what}: the clock of site ${site} and that of the master are ${Math.round(Math.abs(skewMs) / 1000)} s apart, more than ${MAX_CLOCK_SKEW_MS / 1000} s`, { retryable: true, hint: 'set the clocks by NTP on both sides' })
}

export const holdTtlMs = (asked: number, mostMs = HOLD_TTL_MS): number => asked === 0 ? HOLD_TTL_MS : Math.min(asked, mostMs)

/** What a request alone can have wrong beside its form. @throws InvalidInputError, MusubiError FORBIDDEN */
export function checkRequest (request: Request, caller: Asker, now: number): void {
  if (request.masterSite !== caller.site) throw new MusubiError('FORBIDDEN', `${caller.host} of ${caller.site ?? 'the coordinators'} may not ask in the name of site ${brief(request.masterSite)}`)
  const problem = request.nodes.length === 0 && !request.frontend && request.volumes.length === 0 ? 'it asks for nothing' : termProblem(request, now)
  if (problem !== null) throw new InvalidInputError(`request for cluster ${brief(request.cluster)}: ${problem}`)
}

/** What a growth may not differ in from the cluster that is there. */
export function checkGrowth (site: string, record: GatewayRecord, request: Request): void {
  const names = new Set(allHeld(record).map(held => `${held.kind} ${held.name}`))
  const twice = [...request.nodes.map(node => `node ${node.name}`), ...request.volumes.map(volume => `volume ${volume.name}`)].find(name => names.has(name))
  const problem = request.frontend ? 'a cluster has one frontend'
    : request.cluster !== record.cluster ? `the cluster is called ${record.cluster} here`
    : request.vni !== record.vni ? `it has VNI ${request.vni}, the cluster ${record.vni}`
    : request.endMs !== record.endMs ? `it ends at ${request.endMs}, the cluster at ${record.endMs}`
    : twice !== undefined ? `${twice} is leased already`
    : null
  if (problem !== null) throw new InvalidInputError(`growth of cluster ${brief(request.cluster)} at site ${site}: ${problem}`)
}

/** @throws InvalidInputError */
export function checkExtension (site: string, record: GatewayRecord, request: ExtendRequest, now: number): void {
  const problem = request.offerId === record.offer.offerId ? 'its offer id is in use'
    : request.endMs <= record.endMs ? `it ends at ${request.endMs}, no later than the leases, ${record.endMs}`
    : request.endMs - record.startMs > MAX_TERM_MS || request.endMs > now + MAX_TERM_MS ? `the term would be above ${MAX_TERM_MS} ms`
    : null
  if (problem !== null) throw new InvalidInputError(`extension of cluster ${record.cluster} at site ${site}: ${problem}`)
}

/** The record's offer with the growth that has been committed beside it. */
export const grownOffer = (record: GatewayRecord): Offer => ({ ...record.offer, held: allHeld(record) })

/**
 * Hosts trust their own gateway: what a master writes about this site must be what was offered to
 * that master, and nothing starts before every lender has committed.
 *
 * @returns whether the document takes in the growth that has been committed here
 */
export function mustBeAsOffered (site: string, { clusterId, document, receipts }: ActivateRequest, record: GatewayRecord, caller: Asker): boolean {
  const refuse = (problem: string): never => { throw new ConflictError(`the document for cluster ${brief(clusterId)} is refused by site ${site}: ${problem}`) }
  if (document.id !== clusterId) refuse(`it is of cluster ${brief(document.id)}`)
  if (document.masterSite !== caller.site || document.masterPeer !== caller.peerId) refuse(`its master is not ${caller.host} of ${caller.site ?? 'the coordinators'}`)
  if (document.vni !== record.vni) refuse(`it has VNI ${document.vni}, the request had ${record.vni}`)
  const named = new Set([document.frontend, ...document.nodes, ...document.volumes].map(part => part.leaseId))
  const added = record.amendment?.kind === 'grow' && record.amendment.state !== 'done' ? record.amendment.held : []
  const growth = added.some(held => named.has(held.leaseId))
  if (growth && record.amendment?.state !== 'committed') refuse('it takes in what has not been committed')
  const offer = toldOffer(growth ? grownOffer(record) : record.offer)
  // A cluster that shrinks leaves out what its document no longer names, and hosts with nothing else.
  const shrunk = { ...offer, held: offer.held.filter(held => named.has(held.leaseId) || held.kind === 'segment') }
  const problem = offeredProblem(document, offer)
  if (problem !== null && (record.state !== 'active' || offeredProblem(document, shrunk) !== null)) refuse(problem)
  const missing = missingReceipts(document, receipts)
  if (missing.length > 0) refuse(`not every lender has committed: no receipt for ${missing.slice(0, 8).join(', ')}`)
  const proved = new Set(receipts.map(receipt => receipt.leaseId))
  const unproved = offer.held.filter(held => !proved.has(held.leaseId) && (record.state !== 'active' || named.has(held.leaseId)))
  if (unproved.length > 0) refuse(`no receipt for ${unproved.slice(0, 8).map(held => `${held.kind} ${held.name} on ${held.host}`).join(', ')}`)
  return growth
}
