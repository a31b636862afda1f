/** Where and when a cluster would fit, from what sites say of their calendars. Nothing of it is promised. */
import { type Resources, fits, timesFitting } from '../../capacity.ts'
import { type Lending, closedFor, startsIn } from '../../calendar/lending.ts'
import { type HostCalendar, type SiteCalendar, type TogetherAsk, earliestTogether, leastIn } from '../../calendar/together.ts'
import { MAX_EARLIEST_TRIES, MAX_TERM_MS } from '../../limits.ts'
import { placeAmongSites } from '../../placement/among-sites.ts'
import { FRONTEND_RESOURCES, nodeResources } from '../../placement/at-site.ts'
import { type SiteCapacity, siteCapacityOf } from '../../placement/site-capacity.ts'
import type { ClusterSpec } from '../../spec.ts'

/** A site that can be asked, with its calendar; null: it said nothing, and what it advertises is taken for all of the time. */
export type SiteOverTime<T extends SiteCapacity> = T & { calendar: readonly HostCalendar[] | null, lending?: Lending }

/** What each site has free in the whole of [fromMs, untilMs), and whether it lends then. */
export function inWindow<T extends SiteCapacity> (sites: ReadonlyArray<SiteOverTime<T>>, fromMs: number, untilMs: number): T[] {
  return sites.map(({ calendar, lending, ...site }) => calendar === null
    ? site as unknown as T
    : { ...site as unknown as T, ...closedIn(lending, fromMs, untilMs), ...siteCapacityOf(site.site, calendar.map(({ host, roles, steps }) => ({ host, roles, free: leastIn(steps, fromMs, untilMs) }))) })
}

function closedIn (lending: Lending | undefined, fromMs: number, untilMs: number): { closed?: string } {
  const closed = lending === undefined ? null : closedFor(lending, fromMs, untilMs)
  return closed === null ? {} : { closed }
}

/** What a site advertises, as a calendar in which nothing changes. */
function constant (site: SiteCapacity): HostCalendar[] {
  const steps = (free: Resources): HostCalendar['steps'] => [{ atMs: 0, free }]
  return site.freeByHost.map((free, i) => ({ host: String(i), roles: ['compute'], steps: steps(free) }))
}

/**
 * The earliest moment of [fromMs, latestMs] from which on the whole cluster could be placed for its term.
 *
 * @returns null when there is none, or none of the first `MAX_EARLIEST_TRIES` that looked like one was
 */
export function earliestStart<T extends SiteCapacity> (spec: ClusterSpec, sites: ReadonlyArray<SiteOverTime<T>>, masterSite: string, fromMs: number, latestMs = fromMs + MAX_TERM_MS): number | null {
  const need = nodeResources({ vcpus: spec.nodes.vcpus, memoryMib: spec.nodes.memoryMiB })
  const watch: TogetherAsk['watch'] = [
    { role: 'gateway', figure: free => Number(fits(FRONTEND_RESOURCES, free)) },
    ...spec.volumes.length === 0 ? [] : [{ role: 'storage', figure: (free: Resources) => free.volumes > 0 ? free.diskMib : 0 }]
  ]
  const { onlySites, notSites } = spec.placement ?? {}
  // Room where no node may go is no reason to try.
  const allowed = sites.filter(({ site }) => site === masterSite || (onlySites?.includes(site) !== false && notSites?.includes(site) !== true))
  const calendars = allowed.map((site): SiteCalendar => ({ site: site.site, hosts: site.calendar ?? constant(site), ...site.lending === undefined ? {} : { starts: startsIn(site.lending, spec.termMs) } }))
  return earliestTogether(calendars, {
    fromMs, latestMs, durationMs: spec.termMs, nodes: spec.nodes.count, nodesIn: free => Math.min(spec.placement?.maxNodesPerHost ?? Infinity, timesFitting(need, free)), watch, tries: MAX_EARLIEST_TRIES,
    fits: startMs => !('refusal' in placeAmongSites(spec, inWindow(sites, startMs, startMs + spec.termMs), masterSite))
  })
}

/** The most nodes of that shape, with the volumes of those, that would fit as things are; 0: not even one. */
export function nearestCount (spec: ClusterSpec, sites: readonly SiteCapacity[], masterSite: string): number {
  const fitting = (count: number): boolean => !('refusal' in placeAmongSites({ ...spec, nodes: { ...spec.nodes, count }, volumes: spec.volumes.filter(volume => volume.node <= count) }, sites, masterSite))
  let least = 0
  let most = spec.nodes.count
  while (least < most) {
    const middle = Math.ceil((least + most) / 2)
    if (fitting(middle)) least = middle
    else most = middle - 1
  }
  return least
}

const when = (ms: number): string => new Date(Math.ceil(ms / 1000) * 1000).toISOString().replace('.000Z', 'Z')

/** What would fit instead, for people; '' when nothing is known to. */
export function nearestText (spec: ClusterSpec, count: number, earliestMs: number | null): string {
  const size = count === 0 ? '' : `${count} of ${spec.nodes.count} nodes would fit in that time`
  const later = earliestMs === null ? '' : `all of it would fit from ${when(earliestMs)} on`
  return [size, later].filter(text => text !== '').join('; ')
}
