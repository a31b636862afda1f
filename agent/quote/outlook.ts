import type { Sight } from '../calendar/sight.ts'
import { type Term, termOf, type When } from '../master/term.ts'
import type { KnownSite } from '../../protocol/core/master/events.ts'
import type { ClusterSpec } from '../../protocol/core/spec.ts'
import { placeAmongSites } from '../../protocol/core/placement/among-sites.ts'

export interface Outlook {
  /** with the term that is wanted */
  spec: ClusterSpec
  /** as it would begin */
  startMs: number
  endMs: number
  sites: readonly KnownSite[]
  placed: ReturnType<typeof placeAmongSites>
  /** no start is known at which all of it would fit, in words; null: there is one, or none was looked for */
  noStart: string | null
  /** what would fit instead, for people; '' when nothing is known to */
  nearest: string
}

/**
 * Where and when a cluster would go by what sites advertise and what their calendars say: the first half of what
 * create does. Nothing is asked for.
 *
 * @param now ledger clock, Unix ms
 * @param imageDigest of the node image; empty: there is none here
 * @throws InvalidInputError for a time that cannot be
 */
export async function outlookOf (sight: Sight, site: string, spec: ClusterSpec, when: When, now: number, imageDigest: string): Promise<Outlook> {
  const term: Term = termOf(spec, when, now)
  const termMs = term.endMs - term.startMs
  const wish = { ...term, spec: { ...spec, termMs }, imageDigest }
  const { sites, startMs, nearest = '' } = await sight.look(wish)
  const begins = startMs ?? term.startMs
  return {
    spec: wish.spec, sites, nearest, startMs: begins, endMs: begins + termMs, placed: placeAmongSites(wish.spec, sites, site, imageDigest),
    noStart: term.earliest !== undefined && startMs === undefined ? `no start until ${new Date(term.earliest.latestMs).toISOString()} is known at which all of it would fit` : null
  }
}
