import { setTimeout as sleep } from 'node:timers/promises'
import type { Logger } from 'pino'
import type { CallPeer } from '../peers.ts'
import type { ClusterRecord } from './record.ts'
import type { Offer, Receipt } from '../../protocol/core/messages.ts'
import type { SiteCapacity } from '../../protocol/core/placement.ts'
import { placeAmongSites, type SitePart } from '../../protocol/core/spread.ts'
import { ConflictError, describeError, errorCode, MusubiError, NoCapacityError, UnreachableError } from '../../protocol/core/errors.ts'
import { CLOCK_RATE_ERROR, HOLD_TTL_MS } from '../../protocol/core/limits.ts'
import { type GatewayTruth, offerProblem } from '../../protocol/core/verify.ts'
import { holdTimeOf } from '../../protocol/core/verify-request.ts'

/** A site as the master's own view has it: what it could lend, and the gateway to ask. */
export interface KnownSite extends SiteCapacity { peer: string, gatewayHost: string }

export interface NegotiationDeps {
  site: string
  call: CallPeer
  sites: () => KnownSite[]
  /** monotonic milliseconds, for hold validity (lease-protocol.md) */
  monotonic: () => number
  newId: () => string
  log: Logger
  /** what is known of gateways whatever offers say */
  truth: GatewayTruth
  /** keeps the record, synced to disk */
  save: (record: ClusterRecord) => Promise<void>
  progress: (message: string) => void
}

const REQUEST_DEADLINE_MS = 15_000
const COMMIT_DEADLINE_MS = 10_000
/** A release is confirmed when nothing runs any more: guests are stopped, links and volumes gone. */
const RELEASE_DEADLINE_MS = 100_000
/** Nothing runs yet: a site that does not answer at once is not waited for, its holds end by themselves. */
const GIVE_UP_DEADLINE_MS = 5_000
const REPEAT_MS = 250
/** Placements tried among sites: a site that refused or vanished is left out of the next. */
const ROUNDS = 3

interface Held { part: SitePart, site: KnownSite, offer: Offer, validUntil: number }
interface Refused { part: SitePart, site: KnownSite, error: unknown }

/**
 * request -> held offers -> decision record -> commits. All or nothing: on return every member site
 * has committed; on an error every asked site has been told to release, and holds end by themselves.
 *
 * @throws NoCapacityError with every refusal and its site; UnreachableError; ConflictError
 */
export async function negotiate (deps: NegotiationDeps, record: ClusterRecord): Promise<void> {
  const started = deps.monotonic()
  const refusals: string[] = []
  const excluded = new Set<string>()
  let lastError: unknown
  for (let round = 0; round < ROUNDS; round++) {
    const sites = deps.sites().filter(s => !excluded.has(s.site))
    const placed = placeAmongSites(record.spec, sites, deps.site)
    if ('refusal' in placed) {
      const why = [placed.refusal, ...refusals]
      const message = `cluster ${record.name}: ${why.join('\n  ')}`
      // When the sites that would have fitted did not answer, that is the news, not the capacity.
      if (lastError !== undefined && errorCode(lastError) === 'UNREACHABLE') throw new UnreachableError(message, 'try again when the site answers; see: musubi search', lastError)
      throw new NoCapacityError(message, 'ask for less, wait for leases to end, or see what is free: musubi search')
    }
    deps.progress(`asking ${placed.parts.map(p => `${p.site} for ${p.nodes.length} nodes${p.volumes.length === 0 ? '' : ` and ${p.volumes.length} volumes`}`).join(', ')}`)
    const { held, refused } = await requestAll(deps, record, placed.parts, sites)
    if (refused.length === 0) {
      try {
        await commitAll(deps, record, held)
        record.negotiateMs = Math.round(deps.monotonic() - started)
        await deps.save(record)
        return
      } catch (error) {
        await giveUp(deps, record, 'not every site could commit')
        throw error
      }
    }
    await giveUp(deps, record, 'another site refused')
    for (const { site, error } of refused) {
      // The master's own site cannot be left out: it carries the frontend.
      if (site.site === deps.site && errorCode(error) !== 'NO_CAPACITY') throw error
      excluded.add(site.site)
      lastError = error
      refusals.push(`${site.site} (${site.gatewayHost}): ${describeError(error)}`)
      deps.log.warn({ site: site.site, error: describeError(error) }, 'site refused')
    }
    if (excluded.has(deps.site)) break
  }
  throw new NoCapacityError(`cluster ${record.name}: refused by ${refusals.join('\n  ')}`, 'see what is free: musubi search')
}

async function requestAll (deps: NegotiationDeps, record: ClusterRecord, parts: SitePart[], sites: KnownSite[]): Promise<{ held: Held[], refused: Refused[] }> {
  const targets = parts.map(part => {
    const site = sites.find(s => s.site === part.site)
    if (site === undefined) throw new MusubiError('INTERNAL', `placement chose the unknown site ${part.site}`)
    return { part, site }
  })
  // Kept before anything is asked: after a crash each of these is told to release.
  record.asked = [...new Map([...record.asked, ...targets.map(t => ({ site: t.site.site, peer: t.site.peer }))].map(a => [a.peer, a])).values()]
  await deps.save(record)
  const held: Held[] = []
  const refused: Refused[] = []
  await Promise.all(targets.map(async ({ part, site }) => {
    const sentAt = deps.monotonic()
    try {
      const offer = await deps.call(site.peer, 'request', {
        key: deps.newId(), clusterId: record.id, cluster: record.name, vni: record.vni, masterSite: deps.site,
        startMs: record.createdMs, endMs: record.endMs, nodes: part.nodes, volumes: part.volumes, frontend: part.frontend, holdTtlMs: HOLD_TTL_MS
      }, { deadlineMs: REQUEST_DEADLINE_MS })
      const ttlMs = checkOffer(part, site, offer, deps.truth)
      // Counted from when the request was sent, less twice the clock-rate error (lease-protocol.md).
      held.push({ part, site, offer, validUntil: sentAt + ttlMs * (1 - 2 * CLOCK_RATE_ERROR) })
      deps.progress(`${site.site} holds ${part.nodes.length} nodes for ${Math.round(ttlMs / 1000)} s`)
    } catch (error) {
      refused.push({ part, site, error })
    }
  }))
  return { held, refused }
}

/** What was offered must be what was asked: a gateway's answer is input like any other. @returns how long it is held, ms */
function checkOffer (part: SitePart, site: KnownSite, offer: Offer, truth: GatewayTruth): number {
  const wanted = [...part.nodes.map(n => `node ${n.name}`), ...part.volumes.map(v => `volume ${v.name}`), ...(part.frontend ? ['frontend frontend'] : [])].sort()
  const got = offer.held.filter(h => h.kind !== 'segment').map(h => `${h.kind} ${h.name}`).sort()
  if (offer.site !== site.site || JSON.stringify(wanted) !== JSON.stringify(got)) {
    throw new MusubiError('BAD_OFFER', `site ${site.site} offered something else than was asked`, { hint: 'its agent may be of another release' })
  }
  const problem = offerProblem(offer, { site: site.site, peer: site.peer }, truth)
  if (problem !== null) throw new MusubiError('BAD_OFFER', `the offer of site ${site.site} is refused: ${problem}`)
  return holdTimeOf(offer) ?? 0
}

async function commitAll (deps: NegotiationDeps, record: ClusterRecord, held: Held[]): Promise<void> {
  const stale = held.filter(h => deps.monotonic() >= h.validUntil)
  if (record.state !== 'negotiating') throw new ConflictError(`cluster ${record.name} was deleted while it was being negotiated`)
  if (stale.length > 0) throw new UnreachableError(`the hold at ${stale.map(h => h.site.site).join(', ')} ran out before all sites had answered`, 'try again')
  record.offers = held.map(h => h.offer)
  // Who was asked in vain and never answered has a hold at most, which ends by itself: a deletion must not wait for it.
  record.asked = held.map(h => ({ site: h.site.site, peer: h.site.peer }))
  record.state = 'committing'
  await deps.save(record) // the decision: synced before the first commit leaves
  const results = await Promise.allSettled(held.map(h => commitOne(deps, record, h)))
  const failed = results.flatMap((r, i) => r.status === 'rejected' ? [{ site: held[i]?.site.site ?? '?', error: r.reason as unknown }] : [])
  if (failed.length > 0) {
    const text = failed.map(f => `${f.site}: ${describeError(f.error)}`).join('\n  ')
    throw new UnreachableError(`cluster ${record.name}: not every site could commit, so none keeps anything:\n  ${text}`, 'holds end by themselves within 30 s; then try again', failed[0]?.error)
  }
  record.receipts = results.flatMap((r): Receipt[] => r.status === 'fulfilled' ? r.value : [])
  const missing = held.flatMap(h => h.offer.held).filter(h => !record.receipts.some(r => r.leaseId === h.leaseId))
  if (missing.length > 0) throw new MusubiError('BAD_RECEIPT', `no receipt for ${missing.map(m => `${m.kind} ${m.name} at ${m.host}`).join(', ')}`)
}

/** Commits are idempotent: one that got lost is sent again while the hold is valid. */
async function commitOne (deps: NegotiationDeps, record: ClusterRecord, h: Held): Promise<Receipt[]> {
  return await repeated(deps.monotonic, h.validUntil, async leftMs => {
    if (record.state !== 'committing') throw new ConflictError(`cluster ${record.name} was deleted while it was being committed`)
    const request = { clusterId: record.id, offerId: h.offer.offerId, key: `${record.id}/${h.offer.offerId}` }
    const reply = await deps.call(h.site.peer, 'commit', request, { deadlineMs: Math.min(COMMIT_DEADLINE_MS, leftMs) })
    deps.progress(`${h.site.site} committed`)
    return reply.receipts
  })
}

/**
 * Does something idempotent again while it fails with an error that may pass, there is time, and
 * nobody has called it off.
 *
 * @param monotonic milliseconds  @param untilMs on that clock
 */
export async function repeated<T> (monotonic: () => number, untilMs: number, work: (leftMs: number) => Promise<T>, signal?: AbortSignal): Promise<T> {
  for (;;) {
    try {
      return await work(Math.max(1_000, untilMs - monotonic()))
    } catch (error) {
      const retryable = error instanceof MusubiError && error.retryable
      if (!retryable || signal?.aborted === true || monotonic() + 1_000 >= untilMs) throw error
      await sleep(REPEAT_MS)
    }
  }
}

/** Lets go of what is only held or committed. */
const giveUp = (deps: NegotiationDeps, record: ClusterRecord, reason: string): Promise<string[]> => releaseAll(deps, record, reason, GIVE_UP_DEADLINE_MS)

/**
 * Tells every site that was asked, and has not confirmed since, to let go; those that confirm are
 * taken off `record.asked`, which the caller keeps. What does not answer is returned: its holds and
 * inactive leases end by themselves, active ones are released by trying again.
 */
export async function releaseAll (deps: Pick<NegotiationDeps, 'call' | 'log'>, record: ClusterRecord, reason: string, deadlineMs = RELEASE_DEADLINE_MS): Promise<string[]> {
  const open = await Promise.all(record.asked.map(async asked => {
    try {
      await deps.call(asked.peer, 'release', { clusterId: record.id, reason }, { deadlineMs })
      return null
    } catch (error) {
      deps.log.warn({ site: asked.site, error: describeError(error) }, 'release not confirmed')
      return { asked, why: `${asked.site}: ${describeError(error)}` }
    }
  }))
  const left = open.filter(o => o !== null)
  record.asked = left.map(l => l.asked)
  return left.map(l => l.why)
}
