/**
 * Weekly time windows in a time zone, as stretches of real time. A local time that the clocks jump over
 * stands for the moment of the jump; of one that comes twice `from` means the first and `to` the last.
 */
import { DAYS, type PolicyRule } from '../policy-api.ts'

export type Window = NonNullable<PolicyRule['windows']>[number]
/** [fromMs, untilMs), Unix ms. */
export interface Stretch { fromMs: number, untilMs: number }

const DAY_MS = 86_400_000
const MINUTE_MS = 60_000
/** Names come from policies: few, but not bounded. */
const MAX_ZONES_KNOWN = 64
const formats = new Map<string, Intl.DateTimeFormat>()

/** @throws RangeError for a zone that this machine does not know */
function formatOf (zone: string): Intl.DateTimeFormat {
  let format = formats.get(zone)
  if (format === undefined) {
    format = new Intl.DateTimeFormat('en-US', { timeZone: zone, hourCycle: 'h23', calendar: 'gregory', numberingSystem: 'latn', year: 'numeric', month: 'numeric', day: 'numeric', hour: 'numeric', minute: 'numeric', second: 'numeric' })
    if (formats.size >= MAX_ZONES_KNOWN) formats.clear()
    formats.set(zone, format)
  }
  return format
}

export function isZone (zone: string): boolean {
  try {
    formatOf(zone)
    return true
  } catch {
    return false
  }
}

/** What a clock on the wall of the zone shows, as if it were UTC, ms. */
function wallOf (zone: string, ms: number): number {
  const part: Partial<Record<Intl.DateTimeFormatPartTypes, number>> = {}
  for (const { type, value } of formatOf(zone).formatToParts(ms)) part[type] = Number(value)
  return Date.UTC(part.year ?? 0, (part.month ?? 1) - 1, part.day, part.hour, part.minute, part.second)
}

const exactOffset = (zone: string, ms: number): number => wallOf(zone, ms) - Math.floor(ms / 1000) * 1000

/** Offsets at the beginnings of days, by zone: asking for one takes long, and almost every day is like the next. */
const daily = new Map<string, Map<number, number>>()
const MAX_OFFSETS_KNOWN = 2_000

function offsetOnDay (zone: string, day: number): number {
  let days = daily.get(zone)
  if (days === undefined || days.size >= MAX_OFFSETS_KNOWN) {
    if (daily.size >= MAX_ZONES_KNOWN) daily.clear()
    daily.set(zone, days = new Map<number, number>())
  }
  let offset = days.get(day)
  if (offset === undefined) days.set(day, offset = exactOffset(zone, day * DAY_MS))
  return offset
}

function offsetOf (zone: string, ms: number): number {
  const day = Math.floor(ms / DAY_MS)
  const offset = offsetOnDay(zone, day)
  return offset === offsetOnDay(zone, day + 1) ? offset : exactOffset(zone, ms)
}

/** The moment at which the wall clock of the zone shows `wallMs`. */
function momentOf (zone: string, wallMs: number, which: 'first' | 'last'): number {
  // A zone's clocks change at most once in two days: these are the offsets before and after.
  const [before, after] = [offsetOf(zone, wallMs - DAY_MS), offsetOf(zone, wallMs + DAY_MS)]
  const moments = [wallMs - before, wallMs - after].filter((ms, i) => offsetOf(zone, ms) === (i === 0 ? before : after))
  if (moments.length > 0) return which === 'first' ? Math.min(...moments) : Math.max(...moments)
  let [low, high] = [wallMs - DAY_MS, wallMs + DAY_MS]
  while (high - low > 1000) {
    const middle = Math.floor((low + high) / 2000) * 1000
    if (offsetOf(zone, middle) === before) low = middle
    else high = middle
  }
  return high
}

const minutesOf = (text: string): number => Number(text.slice(0, 2)) * 60 + Number(text.slice(3))
const dayOf = (wallMs: number): typeof DAYS[number] => DAYS[(new Date(wallMs).getUTCDay() + 6) % 7] ?? 'mon'

/** Days that were worked out, by window: a peer may ask about a year, again and again. */
const known = new WeakMap<Window, Map<number, Stretch | null>>()
/** A longest lease has so many days, and the search of `longestStretches` some more. */
const MAX_DAYS_KNOWN = 400

/** When a window is open that opens on the local day `midnightMs` (as if it were UTC); null when it does not, or not that day. */
function openOn (window: Window, midnightMs: number): Stretch | null {
  if (window.days?.includes(dayOf(midnightMs)) === false) return null
  let days = known.get(window)
  if (days === undefined || days.size >= MAX_DAYS_KNOWN) known.set(window, days = new Map<number, Stretch | null>())
  let open = days.get(midnightMs)
  if (open === undefined) days.set(midnightMs, open = stretchOf(window, midnightMs))
  return open
}

function stretchOf ({ from = '00:00', to = '24:00', zone }: Window, midnightMs: number): Stretch | null {
  const [start, end] = [minutesOf(from), minutesOf(to)]
  const fromMs = momentOf(zone, midnightMs + start * MINUTE_MS, 'first')
  const untilMs = momentOf(zone, midnightMs + (end <= start ? end + 1440 : end) * MINUTE_MS, 'last')
  return fromMs < untilMs ? { fromMs, untilMs } : null
}

const midnightOf = (zone: string, ms: number): number => Math.floor((ms + offsetOf(zone, ms)) / DAY_MS) * DAY_MS

/** Until when the windows stay open that are open at a moment: one ends, another goes on. `atMs` itself when none is open. */
function openUntil (windows: readonly Window[], atMs: number, enoughMs: number): number {
  let untilMs = atMs
  for (;;) {
    const before = untilMs
    for (const window of windows) {
      const midnight = midnightOf(window.zone, untilMs)
      for (const day of [midnight - DAY_MS, midnight]) {
        const open = openOn(window, day)
        if (open !== null && open.fromMs <= untilMs && open.untilMs > untilMs) untilMs = open.untilMs
      }
    }
    if (untilMs === before || untilMs >= enoughMs) return untilMs
  }
}

/** Whether all of [fromMs, untilMs) lies within windows; where not, until when it does. */
export function coveredUntil (windows: readonly Window[], fromMs: number, untilMs: number): number {
  return Math.min(untilMs, openUntil(windows, fromMs, untilMs))
}

/** The next stretch in which a window is open at `afterMs` or later, within `withinMs`; null when none is. */
export function nextOpen (windows: readonly Window[], afterMs: number, withinMs: number): Stretch | null {
  let best: number | null = openUntil(windows, afterMs, afterMs + 1) > afterMs ? afterMs : null
  for (const window of windows) {
    const midnight = midnightOf(window.zone, afterMs)
    for (let day = midnight; day <= midnight + withinMs + DAY_MS && (best === null || best > afterMs); day += DAY_MS) {
      const open = openOn(window, day)
      if (open === null || open.untilMs <= afterMs) continue
      if (open.fromMs <= afterMs + withinMs && (best === null || open.fromMs < best)) best = Math.max(open.fromMs, afterMs)
      break
    }
  }
  return best === null ? null : { fromMs: best, untilMs: openUntil(windows, best, best + withinMs) }
}

/**
 * The longest stretch that windows are open, and the longest that they are closed, in the weeks after a moment.
 *
 * @param withinMs how far it looks; a stretch that goes on longer counts as so long
 */
export function longestStretches (windows: readonly Window[], afterMs: number, withinMs: number): { openMs: number, closedMs: number } {
  const endMs = afterMs + withinMs
  const longest = { openMs: 0, closedMs: 0 }
  for (let atMs = afterMs; atMs < endMs;) {
    const open = nextOpen(windows, atMs, endMs - atMs)
    longest.closedMs = Math.max(longest.closedMs, (open?.fromMs ?? endMs) - atMs)
    if (open === null) break
    longest.openMs = Math.max(longest.openMs, open.untilMs - open.fromMs)
    atMs = Math.max(open.untilMs, atMs + 1)
  }
  return longest
}

/** `mon, tue 08:00-20:00 Europe/Zurich` */
export const windowText = ({ days, from = '00:00', to = '24:00', zone }: Window): string => `${days === undefined || days.length === 7 ? 'every day' : days.join(', ')} ${from}-${to} ${zone}`
