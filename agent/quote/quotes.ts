import type { Caller, Methods } from '../peers.ts'
import type { Calendar } from '../calendar/calendar.ts'
import { type QuotaShares, quotaSteps } from '../policy/shares.ts'
import { within } from './within.ts'
import type { HostCalendar } from '../../protocol/core/calendar/together.ts'
import { InvalidInputError, MusubiError, NoCapacityError } from '../../protocol/core/errors.ts'
import { clampToZero, fits } from '../../protocol/core/capacity.ts'
import { brief, checkRequest, mustBeInTime } from '../../protocol/core/gateway/checks.ts'
import type { RoomByNotice, SiteHost, SiteView } from '../../protocol/core/gateway/events.ts'
import { freeQuotaOf, idUses } from '../../protocol/core/lease/lease.ts'
import { borrowedBy, ownParts, wantedOf } from '../../protocol/core/gateway/place.ts'
import { lentInAll, type ShareView } from '../../protocol/core/gateway/shares.ts'
import type { ReadonlyLedgerState } from '../../protocol/core/lease/state.ts'
import { COUNTER_OFFER_MS, MAX_QUOTES, MAX_QUOTES_PER_MINUTE } from '../../protocol/core/limits.ts'
import type { Request } from '../../protocol/core/messages.ts'
import { toMessage } from '../../protocol/core/quote/check.ts'
import { isTaken, quoteFor, type QuoteView } from '../../protocol/core/quote/quote.ts'
import { counterText } from '../../protocol/core/quote/text.ts'
import { requestProblem } from '../../protocol/core/verify/request.ts'
import { MinuteCounter } from '../../protocol/mesh/records/offences.ts'

/** What a gateway knows beside what requests are judged by. */
export interface QuoteFacts {
  /** ledger of this gateway: what a site may borrow, and which segment ids are free */
  ledger: () => ReadonlyLedgerState
  /** per vCPU and hour, thousandths of the federation's unit */
  priceMilli: (masterSite: string) => number
}

export interface QuotesDeps {
  site: string
  /** ledger clock, Unix ms */
  now: () => number
  /** as for a request */
  view: (request: Request) => Promise<SiteView>
  /** what cordon and policy say to a request */
  refusal: (request: Request) => MusubiError | null
  /** absent: no later start is looked for */
  calendar?: Pick<Calendar, 'site'>
  facts?: QuoteFacts
  /** what other gateways of the site lend of a quota; absent: nothing */
  shares?: QuotaShares
  /** what could be had by notice to others; absent: nothing */
  preempt?: {
    room: (request: Request, hosts: readonly SiteHost[], calendars: readonly HostCalendar[]) => RoomByNotice | null
    noticed: (masterSite: string) => ((hosts: readonly HostCalendar[]) => HostCalendar[]) | undefined
  }
}

/** What would be answered to requests. Nothing is held, kept or written. */
export interface Quotes {
  /** @throws MusubiError BUSY for too many; as the request for one that cannot be */
  answer (request: Request, caller: Caller): Promise<Methods['quote']['reply']>
  /** Whether a request would be taken if there were room: its site may borrow so much, and there is an id for its segment. */
  lacksOnlyRoom (request: Request, share?: ShareView): boolean
  /** A refusal for lack of room, with what could be given instead as its hint; anything else as it is. */
  explained (error: unknown, request: Request, view: SiteView): Promise<unknown>
}

/** More are never needed at once: a segment, and one that does not leave the site. */
const IDS_COUNTED = 8

function freeIds (state: ReadonlyLedgerState, now: number): number {
  const { slice } = state
  if (slice === null || now < state.quarantineUntilMs) return 0
  const taken = new Set<number>()
  for (const use of idUses(state)) if (use.untilMs > now) taken.add(use.id)
  let free = 0
  for (let id = slice.from; id <= slice.to && free < IDS_COUNTED; id++) if (!taken.has(id)) free++
  return free
}

export function createQuotes ({ site, now, view: viewFor, refusal, calendar, facts, shares, preempt }: QuotesDeps): Quotes {
  let running = 0
  const asked = new MinuteCounter(MAX_QUOTES_PER_MINUTE)

  /** Counts one more of a site. @returns why there are too many; null: there are not */
  function tooMany (of: string): string | null {
    if (running >= MAX_QUOTES) return `works on ${running} quotes`
    return asked.add(of, now()) ? `has given ${MAX_QUOTES_PER_MINUTE} quotes to site ${of} within a minute` : null
  }

  /** @param others what other gateways of the site lend */
  function quoteView (request: Request, view: SiteView, others: ReadonlyArray<HostCalendar['steps']>): QuoteView {
    const state = facts?.ledger()
    const own = state === undefined ? null : quotaSteps(state, request.masterSite, now())
    return {
      hosts: view.hosts, gateway: view.facts.host, counted: view.quota, calendars: null, nowMs: now(),
      quota: own === null ? null : [own, ...others],
      ids: state === undefined ? IDS_COUNTED : freeIds(state, now()),
      refusal: (startMs, endMs) => refusal({ ...request, startMs, endMs }),
      priceMilli: facts?.priceMilli(request.masterSite) ?? 0
    }
  }

  /** With what the site has free over time. */
  function overTime (request: Request, view: QuoteView, calendars: readonly HostCalendar[] | null): QuoteView {
    const noticed = calendars === null ? undefined : preempt?.noticed(request.masterSite)
    if (calendars === null || noticed === undefined) return { ...view, calendars }
    return { ...view, calendars, byNotice: { calendars: noticed(calendars), room: asked => preempt?.room(asked, view.hosts, calendars) ?? null } }
  }

  /** What other gateways of the site lend to a site that has a quota. */
  async function others (request: Request, { quota }: SiteView, waitMs: number | null): Promise<ReadonlyArray<HostCalendar['steps']>> {
    if (!quota || shares === undefined || shares.own(request.masterSite) === null) return []
    return (await within(shares.others(request.masterSite), waitMs, [])).map(({ steps }) => steps)
  }

  /** All that a refusal is explained by: what hosts have over time, and what other gateways lend. What comes late is missing from the quote, not from the truth. */
  async function wholeView (request: Request, view: SiteView, waitMs: number | null): Promise<QuoteView> {
    const look = calendar === undefined ? null : calendar.site().then(({ hosts }) => hosts)
    const [calendars, lent] = await Promise.all([look === null ? null : within<readonly HostCalendar[] | null>(look, waitMs, null), others(request, view, waitMs)])
    return overTime(request, quoteView(request, view, lent), calendars)
  }

  return {
    async answer (request, caller) {
      const arrivedMs = now()
      const busy = tooMany(caller.site ?? caller.peerId)
      if (busy !== null) throw new MusubiError('BUSY', `site ${site} ${busy}`, { retryable: true, hint: 'try again in a minute' })
      running++
      try {
        const problem = requestProblem(request)
        if (problem !== null) throw new InvalidInputError(`quote for cluster ${brief(request.cluster)}: ${problem}`)
        checkRequest(request, caller, now())
        if (request.grow) throw new InvalidInputError(`quote for cluster ${request.cluster}: it is for clusters that are not there yet, not for more of one`)
        mustBeInTime(site, `quote for cluster ${request.cluster}`, request.sentMs, arrivedMs)
        const seen = await viewFor(request)
        const lends = seen.share === undefined || seen.share.lenders.length === 0 ? [] : await others(request, seen, null)
        const view = quoteView(request, seen, lends)
        // hosts are asked only where a later start is to be found
        return toMessage(site, now(), quoteFor(request, isTaken(request, view) ? view : await wholeView(request, seen, null)))
      } finally {
        running--
      }
    },

    lacksOnlyRoom (request, share) {
      const state = facts?.ledger()
      if (state === undefined) return true
      const left = share === undefined ? freeQuotaOf(state, request.masterSite, Math.max(request.startMs, now()), request.endMs) : lentInAll(share)
      const own = ownParts({ quota: false }, request, request.grow, wantedOf(request))
      return own.length <= freeIds(state, now()) && (left === null || fits(borrowedBy(request), clampToZero(left)))
    },

    async explained (error, request, view) {
      if (!(error instanceof NoCapacityError) || request.grow || tooMany(request.masterSite) !== null) return error
      running++
      try {
        const text = counterText(quoteFor(request, await wholeView(request, view, COUNTER_OFFER_MS)), request.nodes.length)
        return text === '' ? error : new NoCapacityError(error.message, error.hint === undefined ? text : `${text}; ${error.hint}`)
      } catch {
        return error // what is told beside a refusal must not take its place
      } finally {
        running--
      }
    }
  }
}
