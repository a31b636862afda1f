/** When several hosts, of one site or of several, could take something together. Pure; a hint, as hosts alone promise. */
import { type Resources, min, zero } from '../capacity.ts'
import { MAX_CALENDAR_HOSTS } from '../limits.ts'
import type { Starts } from './lending.ts'
import type { FreeStep } from './timeline.ts'

/** What one host has free over time; `host` need not be its name. */
export interface HostCalendar { host: string, roles: readonly string[], steps: readonly FreeStep[] }
/** A host that takes no new lease, with the reason in words. */
export interface ClosedHost { host: string, why: string }
/** `starts`: when something of the duration that is asked about may begin there, in order; absent: at any time */
export interface SiteCalendar { site: string, hosts: readonly HostCalendar[], starts?: readonly Starts[], closed?: readonly ClosedHost[] }

/** What makes a calendar that somebody sent unusable; null: nothing. Searches rely on steps that go forward. */
export function calendarProblem (hosts: readonly HostCalendar[]): string | null {
  if (hosts.length > MAX_CALENDAR_HOSTS) return `it has more than ${MAX_CALENDAR_HOSTS} hosts`
  const odd = hosts.find(({ steps }) => steps.length === 0 || steps.some((step, i) => !Number.isSafeInteger(step.atMs) || step.atMs <= (steps[i - 1]?.atMs ?? -1)))
  return odd === undefined ? null : `the steps of host ${odd.host} are none, or not in order`
}

/** Steps of one host that travel at most: what is far ahead is told coarsely, never as more than it is. */
export const MAX_HOST_STEPS = 1024

/** The same in at most `most` (3 or more) steps: the first ones and the last as they are, the least of all between them as one. */
export function coarser (steps: readonly FreeStep[], most: number): FreeStep[] {
  const last = steps.at(-1)
  const first = steps.slice(0, most - 2)
  const middle = steps.slice(most - 2, -1)
  const [begin] = middle
  if (steps.length <= most || last === undefined || begin === undefined) return [...steps]
  return [...first, { atMs: begin.atMs, free: middle.reduce((least, step) => min(least, step.free), begin.free) }, last]
}

/** Index of the step that holds at a moment; the first holds from ever. */
function stepAt (steps: readonly FreeStep[], atMs: number): number {
  let from = 0
  let until = steps.length
  while (from < until) {
    const middle = (from + until) >> 1
    if ((steps[middle]?.atMs ?? 0) > atMs) until = middle
    else from = middle + 1
  }
  return Math.max(0, from - 1)
}

/** The least that a host has free at any moment of [fromMs, untilMs). */
export function leastIn (steps: readonly FreeStep[], fromMs: number, untilMs: number): Resources {
  const begin = stepAt(steps, fromMs)
  let least = steps[begin]?.free ?? zero()
  for (let i = begin + 1; i < steps.length; i++) {
    const step = steps[i]
    if (step === undefined || step.atMs >= untilMs) break
    least = min(least, step.free)
  }
  return least
}

/** One figure of a host over time, from which follows whether something could fit; worked out only as far as it is looked at. */
interface Track {
  readonly steps: readonly FreeStep[]
  readonly figure: (free: Resources) => number
  /** of each step that came into the window */
  readonly value: Float64Array
  /** of the sliding window: indices whose values rise from `head` on, which is the least */
  readonly window: number[]
  head: number
  /** first index that is not in the window yet */
  next: number
  current: number
}

const trackOf = (steps: readonly FreeStep[], figure: Track['figure'], fromMs: number): Track =>
  ({ steps, figure, value: new Float64Array(steps.length), window: [], head: 0, next: stepAt(steps, fromMs), current: Number.NEGATIVE_INFINITY })

const timeOf = (track: Track, index: number): number => track.steps[index]?.atMs ?? Number.POSITIVE_INFINITY

/** Moves a track's window to [fromMs, untilMs): its least is `current` afterwards. */
function slide (track: Track, fromMs: number, untilMs: number): void {
  const { steps, value, window } = track
  for (let step = steps[track.next]; step !== undefined && (window.length === 0 || step.atMs < untilMs); step = steps[track.next]) {
    const now = track.figure(step.free)
    while (window.length > track.head && (value[window.at(-1) ?? 0] ?? 0) >= now) window.pop()
    value[track.next] = now
    window.push(track.next++)
  }
  // a value leaves when the step after it holds at the beginning of the window already
  while (window.length > track.head + 1 && timeOf(track, (window[track.head] ?? 0) + 1) <= fromMs) track.head++
  track.current = value[window[track.head] ?? 0] ?? 0
}

/** When the window's least can next be another: its first value is left behind, or a new one comes in. */
function nextMs (track: Track, durationMs: number): number {
  // what comes in at its moment is in a window that begins a little later
  return Math.min(timeOf(track, (track.window[track.head] ?? 0) + 1), timeOf(track, track.next) - durationMs + 1)
}

/** Moments that `first` is given, ordered; a plain binary heap of track numbers by their times. */
class Due {
  readonly #items: number[] = []
  readonly #times: Float64Array
  constructor (count: number) { this.#times = new Float64Array(count) }
  get first (): number | undefined { return this.#items[0] }
  time (item: number): number { return this.#times[item] ?? Infinity }
  push (item: number, atMs: number): void {
    if (atMs === Infinity) return
    this.#times[item] = atMs
    let i = this.#items.push(item) - 1
    while (i > 0) {
      const up = (i - 1) >> 1
      if (this.time(this.#items[up] ?? 0) <= atMs) break
      this.#items[i] = this.#items[up] ?? 0
      i = up
    }
    this.#items[i] = item
  }

  pop (): void {
    const last = this.#items.pop()
    if (last === undefined || this.#items.length === 0) return
    const atMs = this.time(last)
    let i = 0
    for (;;) {
      let down = 2 * i + 1
      if (down >= this.#items.length) break
      if (down + 1 < this.#items.length && this.time(this.#items[down + 1] ?? 0) < this.time(this.#items[down] ?? 0)) down++
      const child = this.#items[down] ?? 0
      if (this.time(child) >= atMs) break
      this.#items[i] = child
      i = down
    }
    this.#items[i] = last
  }
}

/** A site's times to begin at, gone through once from the first to the last. */
class Gate {
  readonly #starts: readonly Starts[]
  #at = 0
  constructor (starts: readonly Starts[]) { this.#starts = starts }

  /** Whether something may begin at a moment, none before the last one asked about, and when that is next another. */
  ask (atMs: number): { open: boolean, untilMs: number } {
    while ((this.#starts[this.#at]?.lastMs ?? Infinity) < atMs) this.#at++
    const next = this.#starts[this.#at]
    if (next === undefined) return { open: false, untilMs: Infinity }
    return next.fromMs > atMs ? { open: false, untilMs: next.fromMs } : { open: true, untilMs: next.lastMs + 1 }
  }
}

export interface TogetherAsk {
  fromMs: number
  /** no start after it */
  latestMs: number
  durationMs: number
  /** how many nodes are wanted, and how many of them a host takes with so much free */
  nodes: number
  nodesIn: (free: Resources) => number
  /** further figures on which the answer depends, of hosts of a role: a rise of one is a moment to look again */
  watch: ReadonlyArray<{ role: string, figure: (free: Resources) => number }>
  /** whether all of it can be placed in [startMs, startMs + durationMs) */
  fits: (startMs: number) => boolean
  /** moments that `fits` is asked about at most */
  tries: number
}

/**
 * The earliest moment from which on all of it could be placed, at once, for the whole duration.
 *
 * What a host offers in a window grows only when the window leaves a busy moment behind: only such moments
 * and those at which a site opens are looked at, in order, and `fits`, which is dear, is asked only where the hosts together have
 * room for that many nodes.
 *
 * @returns null when there is none until `latestMs`, or `tries` are used up
 */
export function earliestTogether (sites: readonly SiteCalendar[], ask: TogetherAsk): number | null {
  const { fromMs, latestMs, durationMs } = ask
  const tracks: Track[] = []
  /** by track: whether it counts nodes, and its site */
  const counts: boolean[] = []
  const siteOf: number[] = []
  for (const [n, { hosts }] of sites.entries()) {
    for (const { roles, steps } of hosts) {
      const figures = [...roles.includes('compute') ? [ask.nodesIn] : [], ...ask.watch.filter(({ role }) => roles.includes(role)).map(({ figure }) => figure)]
      for (const figure of figures) {
        tracks.push(trackOf(steps, figure, fromMs))
        counts.push(figure === ask.nodesIn)
        siteOf.push(n)
      }
    }
  }
  const due = new Due(tracks.length + sites.length)
  /** by site: nodes that its hosts take, which count while it is open */
  const roomAt = new Float64Array(sites.length)
  const open = sites.map(() => true)
  let room = 0
  for (const [i, track] of tracks.entries()) {
    slide(track, fromMs, fromMs + durationMs)
    if (counts[i] === true) roomAt[siteOf[i] ?? 0] = (roomAt[siteOf[i] ?? 0] ?? 0) + Math.max(0, track.current)
    due.push(i, nextMs(track, durationMs))
  }
  const gates = sites.map(({ starts }) => starts === undefined ? null : new Gate(starts))
  for (const [n, way] of gates.entries()) {
    if (way !== null) {
      const gate = way.ask(fromMs)
      open[n] = gate.open
      due.push(tracks.length + n, gate.untilMs)
    }
    if (open[n] === true) room += roomAt[n] ?? 0
  }
  let tries = ask.tries
  for (let startMs = fromMs, risen = true; ;) {
    if (risen && room >= ask.nodes) {
      if (ask.fits(startMs)) return startMs
      if (--tries <= 0) return null
    }
    const first = due.first
    if (first === undefined) return null
    startMs = due.time(first)
    if (startMs > latestMs) return null
    risen = false
    for (let i = due.first; i !== undefined && due.time(i) <= startMs; i = due.first) {
      due.pop()
      const track = tracks[i]
      if (track === undefined) {
        const n = i - tracks.length
        const gate = gates[n]?.ask(startMs) ?? { open: true, untilMs: Infinity }
        if (gate.open !== open[n]) room += (gate.open ? 1 : -1) * (roomAt[n] ?? 0)
        risen ||= gate.open
        open[n] = gate.open
        due.push(i, gate.untilMs)
        continue
      }
      const before = track.current
      slide(track, startMs, startMs + durationMs)
      const n = siteOf[i] ?? 0
      const more = counts[i] === true ? Math.max(0, track.current) - Math.max(0, before) : 0
      roomAt[n] = (roomAt[n] ?? 0) + more
      if (open[n] === true) room += more
      risen ||= open[n] === true && track.current > before
      const then = nextMs(track, durationMs)
      // always so where steps are in order; a track that would stand still is left
      if (then > startMs) due.push(i, then)
    }
  }
}
