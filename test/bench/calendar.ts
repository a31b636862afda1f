/** `npm run bench -- calendar`: the earliest slot among very many reservations. */
import { type Booking } from '../../protocol/core/calendar/free.ts'
import { Timeline } from '../../protocol/core/calendar/timeline.ts'
import { type SiteCalendar, earliestTogether, leastIn } from '../../protocol/core/calendar/together.ts'
import { type Resources, timesFitting, zero } from '../../protocol/core/capacity.ts'
import { type Bench, type Figure, alone, percentile } from './figures.ts'

const RESERVATIONS = 100_000
const MINUTE = 60_000
const HOUR = 60 * MINUTE
/** A year of reservations. */
const SPAN_MS = 366 * 24 * HOUR
const HOSTS = 128
const HOST: Resources = { vcpus: 64, memoryMib: 256 * 1024, diskMib: 4_000_000, volumes: 64, bandwidthMbit: 0 }

/** Always the same sequence: figures of two runs are of the same questions. */
function chanceOf (seed: number): (below: number) => number {
  let state = seed
  return below => (state = (state * 48_271) % 0x7fff_ffff) % below
}

const need = (vcpus: number): Resources => ({ ...zero(), vcpus, memoryMib: vcpus * 4_096 })

/** Reservations of 1 to 8 vCPU for one hour to a day, on the minute; together some nine tenths of `capacity`. */
function reservations (count: number, capacity: Resources, spanMs: number, chance: (below: number) => number): Booking[] {
  const meanMs = 0.9 * capacity.vcpus * spanMs / (count * 4.5)
  return Array.from({ length: count }, (): Booking => {
    const fromMs = chance(spanMs / MINUTE) * MINUTE
    return { resources: need(1 + chance(8)), fromMs, untilMs: fromMs + MINUTE * Math.max(1, Math.round(meanMs * (0.2 + 1.6 * chance(1_000) / 1_000) / MINUTE)) }
  })
}

/** One timeline with 100,000 reservations: the earliest slot, and the reservation of it, one after the other. */
const oneTimeline: Bench = function * (): Iterable<Figure> {
  const chance = chanceOf(4_711)
  const capacity = { ...HOST, vcpus: HOST.vcpus * HOSTS, memoryMib: HOST.memoryMib * HOSTS }
  const timeline = new Timeline(capacity, reservations(RESERVATIONS, capacity, SPAN_MS, chance))
  const points = timeline.points
  const both: number[] = []
  const worst: number[] = []
  for (let i = 0; i < 2_200; i++) {
    // wide and long ones are found far behind, small ones at once
    const wanted = need([1, 8, 64, 512, 2_048, 4_096][i % 6] ?? 1)
    const durationMs = [HOUR, 12 * HOUR, 72 * HOUR][chance(3)] ?? HOUR
    const fromMs = chance(SPAN_MS / MINUTE) * MINUTE
    const begun = performance.now()
    const found = timeline.earliest(wanted, durationMs, fromMs)
    if (found !== null) timeline.book({ resources: wanted, fromMs: found, untilMs: found + durationMs })
    const took = performance.now() - begun
    if (found !== null) timeline.unbook({ resources: wanted, fromMs: found, untilMs: found + durationMs })
    if (i >= 200) both.push(took)
  }
  for (let i = 0; i < 220; i++) {
    // what is free on average, for longer than it ever is: it fits and fits no more in every block, so very many points are looked at one by one
    const begun = performance.now()
    timeline.earliest(need(Math.round(capacity.vcpus * (0.08 + 0.04 * i / 220))), SPAN_MS, 0)
    if (i >= 20) worst.push(performance.now() - begun)
  }
  yield {
    ...alone({ bench: 'calendar-100k', figure: 'earliest slot among 100,000 reservations, and its booking: p99', value: percentile(both, 0.99), unit: 'ms', better: 'lower', limit: 5 }, both),
    note: `one timeline of ${points} changes, nine tenths of it promised; slots of 1 to 4096 vCPU for 1 to 72 h, from any moment of a year`
  }
  yield alone({ bench: 'calendar-100k', figure: 'the same where it nearly fits all along, and nowhere before the end: p99', value: percentile(worst, 0.99), unit: 'ms', better: 'lower', limit: 5 }, worst)
}

/** 100,000 reservations over 128 hosts: when could 8 to 200 nodes start together? */
const manyHosts: Bench = function * (): Iterable<Figure> {
  const chance = chanceOf(815)
  const hosts = Array.from({ length: HOSTS }, (_, i) => ({ host: String(i), roles: ['compute'], steps: new Timeline(HOST, reservations(Math.round(RESERVATIONS / HOSTS), HOST, SPAN_MS, chance)).steps(0) }))
  const sites: SiteCalendar[] = [{ site: 'a', hosts }]
  const samples: number[] = []
  let found = 0
  for (let i = 0; i < 320; i++) {
    const node = need([2, 8, 16][i % 3] ?? 2)
    const nodes = [8, 32, 100, 200][chance(4)] ?? 8
    const durationMs = [HOUR, 12 * HOUR, 72 * HOUR][chance(3)] ?? HOUR
    const fromMs = chance(SPAN_MS / MINUTE) * MINUTE
    const nodesIn = (free: Resources): number => timesFitting(node, free)
    const begun = performance.now()
    const startMs = earliestTogether(sites, {
      fromMs, latestMs: Number.MAX_SAFE_INTEGER, durationMs, nodes, nodesIn, watch: [], tries: 256,
      fits: start => hosts.reduce((sum, { steps }) => sum + nodesIn(leastIn(steps, start, start + durationMs)), 0) >= nodes
    })
    if (i >= 20) samples.push(performance.now() - begun)
    if (startMs !== null) found++
  }
  yield {
    ...alone({ bench: 'calendar-hosts', figure: 'earliest common start on 128 hosts with 100,000 reservations: p99', value: percentile(samples, 0.99), unit: 'ms', better: 'lower' }, samples),
    note: `${found} of 320 have one; from the steps that hosts tell, which are read anew for each question, as a master does`
  }
}

export const benches: Readonly<Record<string, Bench>> = { 'one-timeline': oneTimeline, 'many-hosts': manyHosts }
