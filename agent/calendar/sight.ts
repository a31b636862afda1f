import type { CallPeer } from '../peers.ts'
import { calendarProblem, type HostCalendar } from '../../protocol/core/calendar/together.ts'
import { errorCode } from '../../protocol/core/errors.ts'
import { CALENDAR_DEADLINE_MS, MAX_CALENDAR_SITES } from '../../protocol/core/limits.ts'
import { earliestStart, inWindow, nearestCount, nearestText, type SiteOverTime } from '../../protocol/core/master/earliest.ts'
import type { KnownSite, Looked } from '../../protocol/core/master/events.ts'
import type { MasterRecord } from '../../protocol/core/master/record.ts'
import type { ClusterSpec } from '../../protocol/core/spec.ts'
import { placeAmongSites } from '../../protocol/core/placement/among-sites.ts'

export interface SightDeps {
  site: string
  call: CallPeer
  sites: () => readonly KnownSite[]
  /** ledger clock, Unix ms */
  now: () => number
}

/** What a cluster is wanted for: from when to when, or as early as it can be. */
export type Wish = Pick<MasterRecord, 'spec' | 'startMs' | 'endMs' | 'earliest'>

/** Asks the gateways in view for their calendars, and sees where and when a cluster would fit. */
export interface Sight {
  /** @param view default: all that are known */
  look (wish: Wish, view?: readonly KnownSite[]): Promise<Looked>
  /** What each site in view has free in the whole of [startMs, endMs); one that does not answer is left out. */
  freeIn (startMs: number, endMs: number): Promise<KnownSite[]>
}

/** A start so soon is at once: by the clock of a lender it is no reservation. */
const AT_ONCE_MS = 1_000

/** The own site first, then those that have most: of very many not all can be asked. */
function asked (sites: readonly KnownSite[], own: string): KnownSite[] {
  const memory = (site: KnownSite): number => site.freeByHost.reduce((total, free) => total + free.memoryMib, 0)
  return sites.toSorted((a, b) => Number(b.site === own) - Number(a.site === own) || memory(b) - memory(a) || (a.site < b.site ? -1 : 1))
}

export function createSight ({ site: own, call, sites, now }: SightDeps): Sight {
  /** A site that does not answer is left out: it could not be asked to hold anything either. */
  async function overTime (known: KnownSite): Promise<Array<SiteOverTime<KnownSite>>> {
    try {
      const { hosts } = await call(known.peer, 'calendar', { sentMs: now() }, { deadlineMs: CALENDAR_DEADLINE_MS })
      const calendar = hosts.map(({ roles, steps }, i): HostCalendar => ({ host: String(i).padStart(5, '0'), roles, steps }))
      return calendarProblem(calendar) === null ? [{ ...known, calendar }] : []
    } catch (error) {
      // an earlier release has none: what it advertises has to do
      return errorCode(error) === 'UNREACHABLE' ? [] : [{ ...known, calendar: null }]
    }
  }

  async function allOverTime (view: readonly KnownSite[] = sites()): Promise<Array<SiteOverTime<KnownSite>>> {
    const known = asked(view, own)
    const told = await Promise.all(known.slice(0, MAX_CALENDAR_SITES).map(overTime))
    return [...told.flat(), ...known.slice(MAX_CALENDAR_SITES).map(site => ({ ...site, calendar: null }))]
  }

  const find = (spec: ClusterSpec, all: ReadonlyArray<SiteOverTime<KnownSite>>, fromMs: number, latestMs?: number): number | null => earliestStart(spec, all, own, fromMs, latestMs)

  return {
    freeIn: async (startMs, endMs) => inWindow(await allOverTime(), Math.max(now(), startMs), endMs),
    async look ({ spec, startMs, endMs, earliest }, view) {
      const all = await allOverTime(view)
      const fromMs = Math.max(now(), startMs)
      const soonest = earliest === undefined ? null : find(spec, all, Math.max(now(), earliest.fromMs), earliest.latestMs)
      if (soonest !== null) {
        const begins = soonest <= now() + AT_ONCE_MS ? now() : soonest
        return { sites: inWindow(all, begins, begins + spec.termMs), startMs: begins }
      }
      const found = inWindow(all, fromMs, endMs)
      if (earliest === undefined && !('refusal' in placeAmongSites(spec, found, own))) return { sites: found }
      return { sites: found, nearest: nearestText(spec, nearestCount(spec, found, own), find(spec, all, fromMs)) }
    }
  }
}
