import type { Calendar } from '../calendar/calendar.ts'
import { within } from '../quote/within.ts'
import { type Resources, add, zero } from '../../protocol/core/capacity.ts'
import { type ClosedHost, type HostCalendar, leastIn } from '../../protocol/core/calendar/together.ts'
import type { SiteHost } from '../../protocol/core/gateway/events.ts'
import { START_IS_NOW_MS } from '../../protocol/core/lease/hold.ts'
import { COUNTER_OFFER_MS } from '../../protocol/core/limits.ts'
import type { Request } from '../../protocol/core/messages.ts'
import { placeAtSite } from '../../protocol/core/placement/at-site.ts'

/** What a site has for a request: `calendars` when its hosts were asked, `closed` those of them that take nothing new. */
export interface HostsFor { hosts: readonly SiteHost[], calendars: readonly HostCalendar[] | null, closed: readonly ClosedHost[] }

/**
 * Hosts with what they have free in the whole time that is wanted. What they advertise is of this moment: only where nothing
 * begins in that time, and it suffices, they need not be asked. It may be seconds old, e.g. that of a host that has just
 * started: nobody is refused by it where the host itself can still say otherwise.
 *
 * @param hosts as advertised
 * @param freed what the same cluster has on them and would give up for it: the same question again needs no look
 * @param calendar absent: what is advertised is taken for the whole time
 * @param now ledger clock, Unix ms
 */
export async function hostsFor (request: Request, hosts: readonly SiteHost[], freed: ReadonlyMap<string, Resources>, calendar: Pick<Calendar, 'site'> | undefined, now: () => number): Promise<HostsFor> {
  const { startMs, endMs } = request
  const isNow = startMs <= now() + START_IS_NOW_MS && hosts.every(({ nextStartMs }) => nextStartMs === undefined || nextStartMs >= endMs)
  const advertised = { hosts, calendars: null, closed: [] }
  const suffices = (): boolean => !('refusal' in placeAtSite(request, hosts.map(host => ({ ...host, free: add(host.free, freed.get(host.host) ?? zero()) }))))
  if (calendar === undefined || (isNow && suffices())) return advertised
  const look = calendar.site()
  // a host that hangs must not keep a refusal long
  const seen = isNow ? await within(look, COUNTER_OFFER_MS, null) : await look
  if (seen === null) return advertised
  const { hosts: calendars, closed = [] } = seen
  const stepsOf = new Map(calendars.map(({ host, steps }) => [host, steps]))
  const shut = new Set(closed.map(({ host }) => host))
  const free = (host: SiteHost): Resources => {
    const steps = stepsOf.get(host.host)
    if (steps !== undefined) return leastIn(steps, Math.max(startMs, now()), endMs)
    // one that does not answer could not hold it either; what it has now, it has said before
    return isNow && !shut.has(host.host) ? host.free : zero()
  }
  return {
    hosts: hosts.map(host => ({ ...host, free: free(host) })), calendars,
    closed: closed.filter(({ host: name }) => hosts.some(({ host, cordoned }) => host === name && cordoned !== true))
  }
}
