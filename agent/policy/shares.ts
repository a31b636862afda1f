import type { CallPeer } from '../peers.ts'
import { type HostCalendar, coarser, leastIn, MAX_HOST_STEPS } from '../../protocol/core/calendar/together.ts'
import { Timeline } from '../../protocol/core/calendar/timeline.ts'
import { type Resources, clampToZero, fits, min } from '../../protocol/core/capacity.ts'
import { borrowedBy } from '../../protocol/core/gateway/place.ts'
import type { Lender, ShareView } from '../../protocol/core/gateway/shares.ts'
import { quotaTaken } from '../../protocol/core/lease/lease.ts'
import { quotaFor, type ReadonlyLedgerState } from '../../protocol/core/lease/state.ts'
import type { Request } from '../../protocol/core/messages.ts'
import { CALENDAR_DEADLINE_MS, MAX_GATEWAYS_PER_SITE } from '../../protocol/core/limits.ts'

type Steps = HostCalendar['steps']

/** Another gateway of the site, with what it still lends over time. */
export interface LenderSteps extends Omit<Lender, 'free'> { steps: Steps }

/** What is still lent to a site over time: by the own ledger, and by those of other gateways. */
export interface ShareSteps { own: Steps, lenders: readonly LenderSteps[] }

export interface QuotaSharesDeps {
  ledger: () => ReadonlyLedgerState
  /** ledger clock, Unix ms */
  now: () => number
  /** the other gateways of the site that live */
  gateways: () => ReadonlyArray<Omit<Lender, 'free'>>
  call: CallPeer
}

/** What the gateways of a site still lend of its quotas. Nothing is held by any of it. */
export interface QuotaShares {
  /** By the own ledger; null: without a bound. */
  own (masterSite: string): Steps | null
  /** By other gateways, which are asked now; one that does not answer within CALENDAR_DEADLINE_MS lends nothing. Questions at the same time share one look. */
  others (masterSite: string): Promise<readonly LenderSteps[]>
}

/** The largest number of the wire: what is not bounded is more than anybody asks for. */
const MOST = 0xffff_ffff
const MOST_OF_ALL: Resources = { vcpus: MOST, memoryMib: MOST, diskMib: MOST, volumes: MOST, bandwidthMbit: MOST, nodes: MOST }

/** What a ledger still lends to a site over time; null: without a bound. */
export function quotaSteps (state: ReadonlyLedgerState, masterSite: string, now: number): Steps | null {
  const quota = quotaFor(state.quotas, masterSite)
  // a quota that says nothing of the number of nodes does not bound it
  return quota === null ? null : new Timeline({ nodes: Number.POSITIVE_INFINITY, ...quota }, quotaTaken(state, masterSite)).steps(now)
}

/** The same as it is told to another gateway of the site. */
export const toldSteps = (state: ReadonlyLedgerState, masterSite: string, now: number): Array<{ atMs: number, free: Resources }> =>
  coarser(quotaSteps(state, masterSite, now) ?? [{ atMs: now, free: MOST_OF_ALL }], MAX_HOST_STEPS).map(({ atMs, free }) => ({ atMs, free: min(clampToZero(free), MOST_OF_ALL) }))

/** What can be lent in the whole of [fromMs, untilMs). */
const shareIn = ({ own, lenders }: ShareSteps, fromMs: number, untilMs: number): ShareView =>
  ({ own: leastIn(own, fromMs, untilMs), lenders: lenders.map(({ steps, ...lender }) => ({ ...lender, free: leastIn(steps, fromMs, untilMs) })) })

/**
 * What may still be lent in the term of a request. Other gateways are asked only where the own share does not suffice.
 *
 * @param now ledger clock, Unix ms
 * @returns null: without a bound, or the own ledger alone decides
 */
export async function shareFor (shares: QuotaShares | undefined, request: Request, now: number): Promise<ShareView | null> {
  const own = shares?.own(request.masterSite) ?? null
  if (shares === undefined || own === null) return null
  const fromMs = Math.max(request.startMs, now)
  const alone = shareIn({ own, lenders: [] }, fromMs, request.endMs)
  return fits(borrowedBy(request), clampToZero(alone.own)) ? alone : shareIn({ own, lenders: await shares.others(request.masterSite) }, fromMs, request.endMs)
}

export function createQuotaShares ({ ledger, now, gateways, call }: QuotaSharesDeps): QuotaShares {
  const looks = new Map<string, Promise<readonly LenderSteps[]>>()

  async function ask (gateway: Omit<Lender, 'free'>, masterSite: string): Promise<LenderSteps[]> {
    try {
      const { takesLeases, quota } = await call(gateway.peer, 'hostCalendar', { leases: false, quotaOf: masterSite }, { deadlineMs: CALENDAR_DEADLINE_MS })
      // an earlier release says nothing of it, and would not know what to do with such a lease
      return takesLeases && quota.length > 0 ? [{ ...gateway, steps: quota }] : []
    } catch {
      return [] // its part cannot be had now
    }
  }

  return {
    own: masterSite => quotaSteps(ledger(), masterSite, now()),
    others (masterSite) {
      const under = looks.get(masterSite)
      if (under !== undefined) return under
      const look = Promise.all(gateways().slice(0, MAX_GATEWAYS_PER_SITE).map(one => ask(one, masterSite))).then(all => all.flat().sort((a, b) => a.host < b.host ? -1 : 1)).finally(() => { looks.delete(masterSite) })
      looks.set(masterSite, look)
      return look
    }
  }
}
