/** Whose leases make room for a site of a higher priority, by what the policy has agreed with theirs. */
import { add, zero } from '../core/capacity.ts'
import type { SiteHost } from '../core/gateway/events.ts'
import { freedBy, lacksLocal } from '../core/gateway/place.ts'
import { type GatewayRecord, allHeld } from '../core/gateway/record.ts'
import type { Request } from '../core/messages.ts'
import { nodesByHost, placeAtSite } from '../core/placement/at-site.ts'
import type { PolicyDocument } from '../policy-api.ts'
import { noticeOf, priorityOf, ruleFor } from './rules.ts'

/** As few clusters as make the request fit, the lowest priority first. */
export interface RoomByNotice {
  /** `endMs`: when their notice is over, Unix ms; `noticeMs`: what they are to be given, 0: they have one already */
  clusters: Array<{ clusterId: string, cluster: string, site: string, priority: number, endMs: number, noticeMs: number }>
  /** when there is room, Unix ms */
  earliestMs: number
}

/** A start so near is now. */
const NOW_MS = 60_000
/** Placements that are tried to spare clusters whose notice would not help: each may take tens of ms. */
const MAX_SPARED = 64

/**
 * The clusters that would make room for a request that was refused for want of it: running ones of lower priority, whose sites have
 * agreed to a notice that is over before their end. Those that have a notice already come first.
 *
 * @param own the site that lends; its clusters are nobody's to preempt
 * @param hosts of the site, with what is free now: the request is placed on them as it would be then
 * @returns null when it would not fit even then, or is for a later time: what is free then is not known here
 */
export function roomByNotice (document: PolicyDocument, own: string, request: Request, records: Iterable<GatewayRecord>, hosts: readonly SiteHost[], nowMs: number): RoomByNotice | null {
  if (request.startMs > nowMs + NOW_MS) return null
  const priority = priorityOf(document, own, request.masterSite)
  const all = [...records]
  const candidates = all.flatMap(record => {
    const { clusterId, cluster, masterSite: site, notice } = record
    const noticeMs = notice === undefined ? noticeOf(ruleFor(document, site)) : 0
    const its = priorityOf(document, own, site)
    if (site === own || clusterId === request.clusterId || record.state !== 'active' || its >= priority || noticeMs === null) return []
    const endMs = notice?.endMs ?? nowMs + noticeMs
    if (endMs >= record.endMs) return []
    return [{ clusterId, cluster, site, priority: its, endMs, noticeMs, held: allHeld(record).filter(part => part.kind !== 'quota') }]
  }).sort((a, b) => Number(a.noticeMs > 0) - Number(b.noticeMs > 0) || a.priority - b.priority || a.endMs - b.endMs || (a.clusterId < b.clusterId ? -1 : 1))
  const mine = all.find(record => record.clusterId === request.clusterId)
  const taken = mine?.state === 'active' ? nodesByHost(mine.offer.held) : new Map<string, number>()
  const fitting = (chosen: typeof candidates): boolean => {
    const freed = new Map(freedBy(mine))
    for (const { host, resources } of chosen.flatMap(one => one.held)) freed.set(host, add(freed.get(host) ?? zero(), resources))
    const then = hosts.map(host => ({ ...host, free: lacksLocal(request, host) ? zero() : add(host.free, freed.get(host.host) ?? zero()) }))
    return !('refusal' in placeAtSite(request, then, taken))
  }
  // Where it fits already something else is missing, which no notice mends; and most requests do not fit whoever goes.
  if (candidates.length === 0 || fitting([]) || !fitting(candidates)) return null
  let least = 1
  let most = candidates.length
  while (least < most) {
    const middle = (least + most) >> 1
    if (fitting(candidates.slice(0, middle))) most = middle
    else least = middle + 1
  }
  let chosen = candidates.slice(0, most)
  // Who has its leases where they are of no use keeps them, the highest priority first.
  for (const one of chosen.slice(0, -1).reverse().slice(0, MAX_SPARED)) {
    const others = chosen.filter(other => other !== one)
    if (fitting(others)) chosen = others
  }
  return { clusters: chosen.map(({ clusterId, cluster, site, priority, endMs, noticeMs }) => ({ clusterId, cluster, site, priority, endMs, noticeMs })), earliestMs: Math.max(...chosen.map(one => one.endMs)) }
}
