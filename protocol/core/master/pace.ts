/** How long a master waits for what, and how often it tries again. */
import { ACTIVATE_TTL_MS, KEEP_ALIVE_MS } from '../limits.ts'
import type { Purpose } from './machine.ts'

export const REQUEST_DEADLINE_MS = 15_000
export const COMMIT_DEADLINE_MS = 10_000
export const ACTIVATE_DEADLINE_MS = 15_000
export const KEEP_ALIVE_DEADLINE_MS = 10_000
/** After a lender has said that there is another master. */
export const ASK_OWN_MS = 1_000
/** A release is confirmed when nothing runs any more: guests are stopped, links and volumes gone. */
export const RELEASE_DEADLINE_MS = 100_000
/** What is held for a user is taken no later than this before the first hold ends: as long as a commit may take. */
export const ACCEPT_MARGIN_MS = 10_000
/** Nothing runs yet: a site that does not answer at once is not waited for, its holds end by themselves. */
export const GIVE_UP_DEADLINE_MS = 5_000
/** A gateway that restarts is back by then; committed leases live twice as long. */
export const ACTIVATE_PATIENCE_MS = ACTIVATE_TTL_MS / 2
/** Placements tried among sites: a site that refused or vanished is left out of the next. */
export const ROUNDS = 3
/** An answer that can only come later than this before the end of a hold is not waited for. */
export const LAST_TRY_MS = 1_000
/** Without a document nothing was ever activated: what a site still holds ends by itself within T_activate, and a message under way. */
export const NEVER_ACTIVE_MS = ACTIVATE_TTL_MS + REQUEST_DEADLINE_MS
/** Leases of an adopted cluster may run longer than its copy says: lenders that were never heard are waited for, this long beyond its end. */
export const ADOPTED_PATIENCE_MS = 10 * 60_000
/** Ended clusters are kept for people to look at, this long. */
export const KEEP_ENDED_MS = 24 * 3_600_000

/** First and longest pause before something is tried again; it doubles from try to try. */
const pauses: Record<Purpose, readonly [firstMs: number, longestMs: number]> = {
  request: [0, 0],
  'give-up': [0, 0],
  extend: [0, 0],
  commit: [250, 1_000],
  'amend-commit': [250, 1_000],
  activate: [250, 2_000],
  'amend-activate': [250, 2_000],
  release: [1_000, 30_000],
  drop: [1_000, 30_000],
  update: [1_000, 30_000],
  'keep-alive': [KEEP_ALIVE_MS / 4, KEEP_ALIVE_MS]
}

/** @param tries how often it has failed, from 1 */
export function pauseMs (purpose: Purpose, tries: number): number {
  const [firstMs, longestMs] = pauses[purpose]
  return Math.min(longestMs, firstMs * 2 ** Math.min(tries - 1, 16))
}
