/** What a policy says of times, as masters of other sites are told: `checkPolicy` beforehand, for all of the time ahead. */
import type { Lending, Stretch } from '../core/calendar/lending.ts'
import { MAX_OPEN_STRETCHES, MAX_TERM_MS } from '../core/limits.ts'
import { parseDuration } from '../core/notation/duration.ts'
import type { PolicyDocument, PolicyRule } from '../policy-api.ts'
import { ruleFor } from './rules.ts'
import { nextOpen } from './windows.ts'

/** As far as any lease can reach that can be asked for now. */
const HORIZON_MS = 2 * MAX_TERM_MS
/** Worked out anew after so long: a peer may ask again and again. */
const KEPT_MS = 3_600_000

interface Known { atMs: number, open: Stretch[], knownUntilMs: number }
const known = new WeakMap<NonNullable<PolicyRule['windows']>, Known>()

function openIn (windows: NonNullable<PolicyRule['windows']>, nowMs: number): Known {
  const before = known.get(windows)
  if (before !== undefined && nowMs >= before.atMs && nowMs - before.atMs < KEPT_MS) return before
  const untilMs = nowMs + HORIZON_MS
  const found: Known = { atMs: nowMs, open: [], knownUntilMs: untilMs }
  for (let atMs = nowMs; atMs < untilMs;) {
    const next = nextOpen(windows, atMs, untilMs - atMs)
    if (next === null) break
    if (found.open.length === MAX_OPEN_STRETCHES) {
      found.knownUntilMs = next.fromMs
      break
    }
    found.open.push(next)
    atMs = next.untilMs
  }
  known.set(windows, found)
  return found
}

/**
 * When `site` lends to a master.
 *
 * @param nowMs Unix ms; what has passed then is not judged, so a stretch that is open goes back for ever
 * @returns null where the policy says nothing of times
 */
export function lendingOf (document: PolicyDocument, site: string, masterSite: string, nowMs: number): Lending | null {
  if (masterSite === site) return null
  const { deny, longestLease, latestStart, windows } = ruleFor(document, masterSite)
  const [longestMs, latestMs] = [parseDuration(longestLease ?? ''), parseDuration(latestStart ?? '')]
  const bounds = { longestMs, latestStartMs: latestMs === null ? null : nowMs + latestMs }
  if (deny === true) return { ...bounds, open: [], knownUntilMs: Number.MAX_SAFE_INTEGER }
  if (windows === undefined) return longestMs === null && latestMs === null ? null : { ...bounds, open: null, knownUntilMs: Number.MAX_SAFE_INTEGER }
  const { open, knownUntilMs } = openIn(windows, nowMs)
  return { ...bounds, knownUntilMs, open: open.filter(({ untilMs }) => untilMs > nowMs).map(({ fromMs, untilMs }) => ({ fromMs: fromMs <= nowMs ? 0 : fromMs, untilMs })) }
}
