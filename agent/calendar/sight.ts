import { bytesOf, type FactsOf, type ImageFacts } from '../images/facts.ts'
import type { CallPeer } from '../peers.ts'
import { lendingFrom } from './lending.ts'
import { calendarProblem, type HostCalendar } from '../../protocol/core/calendar/together.ts'
import { errorCode } from '../../protocol/core/errors.ts'
import { CALENDAR_DEADLINE_MS, MAX_CALENDAR_SITES, MAX_HELD_OBJECTS, WARM_DEADLINE_MS } from '../../protocol/core/limits.ts'
import { earliestStart, inWindow, nearestCount, nearestText, type SiteOverTime } from '../../protocol/core/master/negotiation/earliest.ts'
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
  /** what an image is, for clusters whose caches may begin with it; absent: nobody is asked for it */
  image?: FactsOf
}

/** What a cluster is wanted for: from when to when, or as early as it can be. */
export type Wish = Pick<MasterRecord, 'spec' | 'startMs' | 'endMs' | 'earliest' | 'imageDigest'>

/** Asks the gateways in view for their calendars, and sees where and when a cluster would fit. */
export interface Sight {
  /** @param view default: all that are known */
  look (wish: Wish, view?: readonly KnownSite[]): Promise<Looked>
  /** The sites with what their caches would begin with of the image, as far as they say so. */
  warm (wish: Pick<Wish, 'spec' | 'imageDigest'>, view: readonly KnownSite[]): Promise<readonly KnownSite[]>
  /** What each site in view has free in the whole of [startMs, endMs); one that does not answer is left out. @param of whose image may be there */
  freeIn (startMs: number, endMs: number, view?: readonly KnownSite[], of?: Pick<Wish, 'spec' | 'imageDigest'>): Promise<KnownSite[]>
}

/** A start so soon is at once: by the clock of a lender it is no reservation. */
const AT_ONCE_MS = 1_000

/** How far ahead a site lends it says as of its answer: what begins at once is no reservation, however long others took to answer. */
function lendingAtOnce (site: SiteOverTime<KnownSite>, atOnceMs: number): SiteOverTime<KnownSite> {
  const { lending } = site
  return lending === undefined || lending.latestStartMs === null ? site : { ...site, lending: { ...lending, latestStartMs: Math.max(lending.latestStartMs, atOnceMs) } }
}

/** The own site first, then those that have most: of very many not all can be asked. */
function asked (sites: readonly KnownSite[], own: string): KnownSite[] {
  const memory = (site: KnownSite): number => site.freeByHost.reduce((total, free) => total + free.memoryMib, 0)
  return sites.toSorted((a, b) => Number(b.site === own) - Number(a.site === own) || memory(b) - memory(a) || (a.site < b.site ? -1 : 1))
}

/** A site that would have most of an image is as good as one that has it. */
const MOST = 0.5

/** What a site has said, as placement takes it. */
function warmed (known: KnownSite, held: readonly string[], image: ImageFacts): KnownSite {
  const warmBytes = bytesOf({ ...image, files: image.files.filter(({ sha256 }) => held.includes(sha256)) })
  if (warmBytes === 0) return known
  return { ...known, warmBytes, ...warmBytes >= MOST * bytesOf(image) ? { warmImages: [image.digest] } : {} }
}

export function createSight ({ site: own, call, sites, now, image: factsOf }: SightDeps): Sight {
  /** Only a cluster that leaves its stores to others begins with one that was left to it. */
  async function imageFor ({ spec, imageDigest }: Pick<Wish, 'spec' | 'imageDigest'>): Promise<ImageFacts | null> {
    return spec.cache?.retainMs === undefined || imageDigest === '' || factsOf === undefined ? null : await factsOf(imageDigest)
  }

  /** The own site's nodes ask no cache. */
  const digestsOf = (known: KnownSite, image: ImageFacts | null): string[] => known.site === own ? [] : image?.files.slice(0, MAX_HELD_OBJECTS).map(({ sha256 }) => sha256) ?? []

  /** A site that does not answer is left out: it could not be asked to hold anything either. */
  async function overTime (known: KnownSite, image: ImageFacts | null): Promise<Array<SiteOverTime<KnownSite>>> {
    try {
      const { hosts, held, lending: said } = await call(known.peer, 'calendar', { sentMs: now(), objects: digestsOf(known, image) }, { deadlineMs: CALENDAR_DEADLINE_MS })
      const calendar = hosts.map(({ roles, steps }, i): HostCalendar => ({ host: String(i).padStart(5, '0'), roles, steps }))
      const lending = known.site === own ? undefined : lendingFrom(said)
      return calendarProblem(calendar) === null ? [{ ...image === null ? known : warmed(known, held, image), calendar, ...lending === undefined ? {} : { lending } }] : []
    } catch (error) {
      // an earlier release has none: what it advertises has to do
      return errorCode(error) === 'UNREACHABLE' ? [] : [{ ...known, calendar: null }]
    }
  }

  async function allOverTime (view: readonly KnownSite[] = sites(), image: ImageFacts | null = null): Promise<Array<SiteOverTime<KnownSite>>> {
    const known = asked(view, own)
    const told = (await Promise.all(known.slice(0, MAX_CALENDAR_SITES).map(one => overTime(one, image)))).flat()
    const atOnceMs = now() + AT_ONCE_MS
    return [...told.map(site => lendingAtOnce(site, atOnceMs)), ...known.slice(MAX_CALENDAR_SITES).map(site => ({ ...site, calendar: null }))]
  }

  const find = (spec: ClusterSpec, all: ReadonlyArray<SiteOverTime<KnownSite>>, fromMs: number, latestMs?: number): number | null => earliestStart(spec, all, own, fromMs, latestMs)

  return {
    freeIn: async (startMs, endMs, view, of) => inWindow(await allOverTime(view, of === undefined ? null : await imageFor(of)), Math.max(now(), startMs), endMs),
    async warm (wish, view) {
      const image = await imageFor(wish)
      const far = asked(view, own).filter(({ site }) => site !== own).slice(0, MAX_CALENDAR_SITES)
      // it decides between sites that are alike: of one there is nothing to decide
      if (image === null || far.length < 2 || wish.spec.placement?.preferWarmCache === false) return view
      const told = new Map(await Promise.all(far.map(async known => {
        const held = await call(known.peer, 'calendar', { sentMs: now(), objects: digestsOf(known, image), onlyObjects: true }, { deadlineMs: WARM_DEADLINE_MS }).then(reply => reply.held, () => [])
        return [known, warmed(known, held, image)] as const
      })))
      return view.map(known => told.get(known) ?? known)
    },
    async look (wish, view) {
      const { spec, startMs, endMs, earliest, imageDigest } = wish
      const all = await allOverTime(view, await imageFor(wish))
      const fromMs = Math.max(now(), startMs)
      const soonest = earliest === undefined ? null : find(spec, all, Math.max(now(), earliest.fromMs), earliest.latestMs)
      if (soonest !== null) {
        const begins = soonest <= now() + AT_ONCE_MS ? now() : soonest
        return { sites: inWindow(all, begins, begins + spec.termMs), startMs: begins }
      }
      const found = inWindow(all, fromMs, endMs)
      if (earliest === undefined && !('refusal' in placeAmongSites(spec, found, own, imageDigest))) return { sites: found }
      return { sites: found, nearest: nearestText(spec, nearestCount(spec, found, own), find(spec, all, fromMs)) }
    }
  }
}
