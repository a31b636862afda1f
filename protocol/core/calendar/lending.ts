/** When a site lends to whoever has asked, whatever it has free. Pure; a hint, as its gateway judges each request. */
import { MAX_OPEN_STRETCHES } from '../limits.ts'

/** [fromMs, untilMs), Unix ms. */
export interface Stretch { fromMs: number, untilMs: number }

/** What a policy says of times, for one asking site. */
export interface Lending {
  /** in order and apart from one another: a lease lies in one of them as a whole. Null: at any time; none: it lends nothing */
  open: readonly Stretch[] | null
  /** nothing is known of what is later, Unix ms: it counts as open */
  knownUntilMs: number
  /** ms; null: no bound of its own */
  longestMs: number | null
  /** Unix ms; null: no bound */
  latestStartMs: number | null
}

/** First and last moment at which something may start, both included. */
export interface Starts { fromMs: number, lastMs: number }

/** What makes a lending that somebody sent unusable; null: nothing. Searches rely on stretches that go forward. */
export function lendingProblem ({ open, knownUntilMs, longestMs, latestStartMs }: Lending): string | null {
  if (open !== null && open.length > MAX_OPEN_STRETCHES) return `it is open more than ${MAX_OPEN_STRETCHES} times`
  const whole = (value: number | null): boolean => value === null || (Number.isSafeInteger(value) && value >= 0)
  if (![knownUntilMs, longestMs, latestStartMs].every(whole)) return 'its bounds are no times'
  const odd = open?.some(({ fromMs, untilMs }, i) => !whole(fromMs) || !whole(untilMs) || untilMs <= fromMs || fromMs <= (open[i - 1]?.untilMs ?? -1)) === true
  return odd ? 'the times at which it is open are none, or not in order' : null
}

/** With what is not known at the end: open, so that nothing is left out which might be had. */
function stretches ({ open, knownUntilMs }: Lending): readonly Stretch[] {
  if (open === null) return [{ fromMs: 0, untilMs: Infinity }]
  const last = open.at(-1)
  if (last !== undefined && last.untilMs >= knownUntilMs) return [...open.slice(0, -1), { fromMs: last.fromMs, untilMs: Infinity }]
  return [...open, { fromMs: knownUntilMs, untilMs: Infinity }]
}

/** When leases of a duration may start, in order. */
export function startsIn (lending: Lending, durationMs: number): Starts[] {
  const { longestMs, latestStartMs } = lending
  if (longestMs !== null && durationMs > longestMs) return []
  return stretches(lending)
    .map(({ fromMs, untilMs }) => ({ fromMs, lastMs: Math.min(untilMs - durationMs, latestStartMs ?? Infinity) }))
    .filter(({ fromMs, lastMs }) => fromMs <= lastMs)
}

/** The last moment that a date can have; what a site says of later ones nobody lives to see. */
const LAST_DATE_MS = 8.64e15

const at = (ms: number): string => new Date(ms).toISOString().replace(/\.\d+Z$/, 'Z')
const minutes = (ms: number): string => `${Math.ceil(ms / 60_000)} minutes`

/** Why a site would not lend for the whole of [startMs, endMs), for people; null when it would. */
export function closedFor (lending: Lending, startMs: number, endMs: number): string | null {
  const { open, longestMs, latestStartMs } = lending
  if (longestMs !== null && endMs - startMs > longestMs) return `it lends for at most ${minutes(longestMs)}, ${minutes(endMs - startMs)} were asked for`
  if (latestStartMs !== null && startMs > latestStartMs) return `it lends no later than from ${at(latestStartMs)} on, ${at(startMs)} was asked for`
  const all = stretches(lending)
  if (all.some(({ fromMs, untilMs }) => fromMs <= startMs && endMs <= untilMs)) return null
  if (open?.length === 0) return 'it lends nothing here'
  const next = all.find(({ fromMs, untilMs }) => untilMs > startMs && untilMs - Math.max(fromMs, startMs) >= endMs - startMs)
  return `it lends at certain times only, not in all of ${at(startMs)} to ${at(endMs)}${next === undefined || next.fromMs <= startMs || next.fromMs > LAST_DATE_MS ? '' : `; so long from ${at(next.fromMs)} on`}`
}
