/** Whose leases make room for a site of a higher priority, by what the policy has agreed with theirs. */
import { freedBy as calendarWithout } from '../core/calendar/freed.ts'
import type { Booking } from '../core/calendar/free.ts'
import { type HostCalendar, leastIn } from '../core/calendar/together.ts'
import { add, zero } from '../core/capacity.ts'
import type { RoomByNotice, SiteHost } from '../core/gateway/events.ts'
import { isLeftAlone, noticedFor, noticesLeft, toldEndMs } from '../core/gateway/notice.ts'
import { freedBy, lacksLocal } from '../core/gateway/place.ts'
import type { GatewayRecord } from '../core/gateway/record.ts'
import { MIN_TERM_MS, NOTICE_MARGIN_MS, NOTICE_SLACK_MS } from '../core/limits.ts'
import type { Held, Request } from '../core/messages.ts'
import { placeAtSite } from '../core/placement/at-site.ts'
import type { PolicyDocument } from '../policy-api.ts'
import { noticeOf, priorityOf, ruleFor } from './rules.ts'

/** A running cluster that would end earlier for somebody else. */
interface Victim {
  clusterId: string
  cluster: string
  site: string
  priority: number
  /** at least; hosts whose clocks are ahead must still see the shortest of leases before them */
  noticeMs: number
  /** its end, as its master was told */
  untilMs: number
  /** number of the notice that it has; 0: none */
  seq: number
  held: readonly Held[]
}

/** Placements that are tried to spare clusters whose notice would not help: each may take tens of ms. */
const MAX_SPARED = 64
/** A notice is no shorter, whatever was agreed. */
const SHORTEST_MS = MIN_TERM_MS + NOTICE_SLACK_MS

/**
 * Running clusters of lower priority whose sites have agreed to a notice, the lowest priority first. Who has notice already is
 * among them for an earlier end, where it was given for a site of lower priority than the asking one: what comes free by it is in the ledgers.
 *
 * @param own the site that lends; its clusters are nobody's to preempt
 */
function victimsFor (document: PolicyDocument, own: string, masterSite: string, records: readonly GatewayRecord[], nowMs: number): Victim[] {
  const priority = priorityOf(document, own, masterSite)
  return records.flatMap((record): Victim[] => {
    const { clusterId, cluster, masterSite: site, state, notice, offer, shrinking } = record
    const agreed = noticeOf(ruleFor(document, site))
    const its = priorityOf(document, own, site)
    const noticed = noticedFor(record)
    const isForLower = noticed === null || (noticed !== undefined && priorityOf(document, own, noticed) < priority)
    if (site === own || state !== 'active' || !isForLower || its >= priority || agreed === null || isLeftAlone(record, masterSite, nowMs)) return []
    return [{ clusterId, cluster, site, priority: its, noticeMs: Math.max(agreed, SHORTEST_MS), untilMs: toldEndMs(record), seq: notice?.seq ?? 0, held: offer.held.filter(part => part.kind !== 'quota' && !shrinking.includes(part.leaseId)) }]
  }).sort((a, b) => a.priority - b.priority || a.noticeMs - b.noticeMs || (a.clusterId < b.clusterId ? -1 : 1))
}

/** What some clusters would set free at a host, each from a moment on. */
const bookingsAt = (host: string, victims: readonly Victim[], fromMs: (victim: Victim) => number): Booking[] =>
  victims.flatMap(victim => victim.held.filter(part => part.host === host).map(({ resources }) => ({ resources, fromMs: fromMs(victim), untilMs: victim.untilMs })))

/**
 * As few clusters as make room for a request that has none at its start: the lowest priority first, by the placement that
 * would be held, on what the hosts have free then.
 *
 * @param hosts of the site; `calendars`: what they have free over time
 * @returns null where there is room already, or none even then, or more clusters would be concerned than may be
 */
export function roomByNotice (document: PolicyDocument, own: string, request: Request, records: readonly GatewayRecord[], hosts: readonly SiteHost[], calendars: readonly HostCalendar[], nowMs: number): RoomByNotice | null {
  const { startMs, endMs } = request
  const most = noticesLeft(records, request.masterSite)
  const victims = victimsFor(document, own, request.masterSite, records, nowMs).filter(({ clusterId, noticeMs, untilMs }) => clusterId !== request.clusterId && startMs >= nowMs + noticeMs && startMs < untilMs)
  if (request.grow || most === 0 || victims.length === 0) return null
  const stepsOf = new Map(calendars.map(({ host, steps }) => [host, steps]))
  // what its own master would give up for it
  const mine = freedBy(records.find(record => record.clusterId === request.clusterId))
  const then = (chosen: readonly Victim[]): SiteHost[] => hosts.map(host => {
    const steps = stepsOf.get(host.host)
    if (steps === undefined || lacksLocal(request, host)) return { ...host, free: zero() }
    return { ...host, free: leastIn(calendarWithout(steps, bookingsAt(host.host, chosen, () => startMs)), startMs, endMs) }
  })
  const fitting = (chosen: readonly Victim[]): boolean =>
    !('refusal' in placeAtSite(request, then(chosen).map(host => ({ ...host, free: add(host.free, mine.get(host.host) ?? zero()) })), new Map()))
  // Where it fits already something else is missing, which no notice mends; and most requests do not fit whoever goes.
  if (fitting([]) || !fitting(victims)) return null
  let least = 1
  let enough = victims.length
  while (least < enough) {
    const middle = (least + enough) >> 1
    if (fitting(victims.slice(0, middle))) enough = middle
    else least = middle + 1
  }
  let chosen = victims.slice(0, enough)
  // Who has its leases where they are of no use keeps them, the highest priority first.
  for (const one of chosen.slice(0, -1).reverse().slice(0, MAX_SPARED)) {
    const others = chosen.filter(other => other !== one)
    if (fitting(others)) chosen = others
  }
  if (chosen.length > most) return null
  return { clusters: chosen.map(({ clusterId, cluster, site, priority, noticeMs, seq }) => ({ clusterId, cluster, site, priority, noticeMs, seq })), hosts: then(chosen) }
}

/** What the policy of a site says of room by notice. */
export interface Preempt {
  /** As `roomByNotice`. */
  room (request: Request, records: readonly GatewayRecord[], hosts: readonly SiteHost[], calendars: readonly HostCalendar[]): RoomByNotice | null
  /** What a site could have beside what is free, as calendars; undefined: nothing more. A hint, as calendars are. */
  noticed (masterSite: string, records: readonly GatewayRecord[]): ((hosts: readonly HostCalendar[]) => HostCalendar[]) | undefined
}

/** @param now ledger clock, Unix ms */
export const createPreempt = (document: () => PolicyDocument, own: string, now: () => number): Preempt => ({
  room: (request, records, hosts, calendars) => roomByNotice(document(), own, request, records, hosts, calendars, now()),
  noticed (masterSite, records) {
    // no more than may get notice together: a start that is found is one that is given
    const victims = victimsFor(document(), own, masterSite, records, now()).slice(0, noticesLeft(records, masterSite))
    if (victims.length === 0) return undefined
    const fromMs = ({ noticeMs }: Victim): number => now() + noticeMs + NOTICE_MARGIN_MS
    return hosts => hosts.map(calendar => ({ ...calendar, steps: calendarWithout(calendar.steps, bookingsAt(calendar.host, victims, fromMs).filter(one => one.fromMs < one.untilMs)) }))
  }
})
