import type { CalendarHostResource, CalendarResource, DrainResource } from '../../protocol/calendar-api.ts'
import { table, timeLeft } from '../output.ts'

type Promised = CalendarHostResource['leases'][number]
export interface Paper {
  /** characters of a line */
  width: number
  colour: boolean
}

/** Columns of time: fewer say nothing. */
const LEAST_COLUMNS = 20
/** Characters of the name of a host or a cluster. */
const MOST_LABEL = 34
const MARKS = { active: '#', committed: '=', held: '-' } as const
const COLOURS = { active: '\x1b[32m', committed: '\x1b[36m', held: '\x1b[33m' } as const
const PLAIN = '\x1b[0m'
const stateOf = (lease: Promised): keyof typeof MARKS => lease.state === 'active' || lease.state === 'held' ? lease.state : 'committed'
/** Of two in one lane and column the one that is further is shown. */
const RANK = { held: 0, committed: 1, active: 2 } as const

const day = (ms: number): string => new Date(ms).toISOString().slice(0, 10)
const minute = (ms: number): string => new Date(ms).toISOString().slice(11, 16)
const cut = (text: string, most: number): string => text.length > most ? `${text.slice(0, most - 1)}~` : text

/** One line of the chart: a cluster on a host. */
interface Lane { label: string, leases: Promised[] }

function lanesOf ({ leases }: CalendarHostResource): Lane[] {
  const clusters = Map.groupBy(leases, lease => lease.clusterId)
  return [...clusters.values()].map(own => {
    const [first] = own
    const nodes = own.filter(lease => lease.kind === 'node').length
    const others = [...new Set(own.filter(lease => lease.kind !== 'node').map(lease => lease.kind))]
    const what = [...nodes === 0 ? [] : [`${nodes} node${nodes === 1 ? '' : 's'}`], ...others].join(', ')
    const preempted = own.some(lease => lease.formerEndMs !== undefined) ? ', preempted' : ''
    return { label: `  ${first?.cluster ?? ''} (${first?.masterSite ?? ''}) ${what}${preempted}`, leases: own }
  })
}

/** The state that each column shows, ' ' for none. */
function columns (leases: readonly Promised[], fromMs: number, cellMs: number, count: number): Array<keyof typeof MARKS | null> {
  const cells = Array.from({ length: count }, (): keyof typeof MARKS | null => null)
  for (const lease of leases) {
    const state = stateOf(lease)
    const begin = Math.max(0, Math.floor((lease.startMs - fromMs) / cellMs))
    // half open: what ends where a column begins is not in it
    const end = Math.min(count, Math.max(begin + 1, Math.ceil((lease.endMs - fromMs) / cellMs)))
    for (let i = begin; i < end; i++) {
      const shown = cells[i] ?? null
      if (shown === null || RANK[state] > RANK[shown]) cells[i] = state
    }
  }
  return cells
}

function bar (cells: ReadonlyArray<keyof typeof MARKS | null>, now: number | null, colour: boolean): string {
  return cells.map((state, i) => {
    const mark = state === null ? (i === now ? '|' : '.') : MARKS[state]
    return state === null || !colour ? mark : `${COLOURS[state]}${mark}${PLAIN}`
  }).join('')
}

/** Times above the columns, as many as have room; the date where it is another than before. */
function axis (fromMs: number, cellMs: number, count: number): string {
  const gap = 14
  let line = ''
  let last = ''
  for (let i = 0; i + gap <= count + 2 || i === 0; i += gap) {
    const atMs = fromMs + i * cellMs
    const date = day(atMs)
    line = line.padEnd(i) + (date === last ? minute(atMs) : `${date.slice(5)} ${minute(atMs)}`)
    last = date
  }
  return line.slice(0, Math.max(count, 11))
}

function cellText (ms: number): string {
  return ms >= 60_000 ? timeLeft(ms) : `${Math.round(ms / 1000)}s`
}

/** The calendar as a chart: a line for each cluster on each host. Pure; no line is longer than the paper is wide. */
export function calendarChart (calendar: CalendarResource, { width, colour }: Paper): string {
  const { fromMs, untilMs, nowMs, hosts, site } = calendar
  const lanes = hosts.map(host => ({ host, lanes: lanesOf(host) }))
  const label = Math.min(MOST_LABEL, Math.max(8, ...lanes.flatMap(({ host, lanes: own }) => [host.host.length, ...own.map(lane => lane.label.length)])))
  const count = Math.max(LEAST_COLUMNS, width - label - 1)
  const cellMs = Math.max(1, Math.ceil((untilMs - fromMs) / count))
  const now = nowMs >= fromMs && nowMs < untilMs ? Math.floor((nowMs - fromMs) / cellMs) : null
  const lines = [
    `${site}: ${day(fromMs)} ${minute(fromMs)} to ${day(untilMs)} ${minute(untilMs)} UTC, ${cellText(cellMs)} a column`,
    `${''.padEnd(label)} ${axis(fromMs, cellMs, count)}`
  ]
  for (const { host, lanes: own } of lanes) {
    const why = host.error !== '' ? `does not answer: ${host.error}` : host.takesLeases ? '' : `takes no new leases: ${host.why}`
    lines.push(why === '' ? `${cut(host.host, label).padEnd(label)} ${own.length === 0 ? bar(columns([], fromMs, cellMs, count), now, colour) : ''}`.trimEnd() : cut(`${host.host}  ${why}`, width))
    for (const lane of own) lines.push(`${cut(lane.label, label).padEnd(label)} ${bar(columns(lane.leases, fromMs, cellMs, count), now, colour)}`)
    if (host.leftOut > 0) lines.push(`  and ${host.leftOut} more leases that are not shown`)
  }
  lines.push('', '# active  = reserved, or about to start  - held for a moment  . nothing  | now')
  return lines.join('\n')
}

const second = (ms: number): string => new Date(ms).toISOString().slice(0, 16).replace('T', ' ')

/** What a host that is being drained still has. */
export function drainText (drain: DrainResource): string {
  const { host, leases, nowMs, emptyMs, leftOut } = drain
  const head = drain.cordoned ? `${host} takes no new leases. Back into use: musubi host uncordon ${host}` : `${host} takes new leases`
  if (leases.length === 0) return `${head}\nIt is empty.`
  const rows = table(['cluster', 'master', 'kind', 'name', 'state', 'end (utc)', 'in', 'what can be done'],
    leases.map(lease => [lease.cluster, lease.masterSite, lease.kind, lease.name, lease.masterless ? `${lease.state}, masterless` : lease.startMs > nowMs ? 'reserved' : lease.state, second(lease.endMs), timeLeft(Math.max(0, lease.endMs - nowMs)), lease.advice]))
  return `${head}\n\n${rows}\n\n${leftOut > 0 ? `and ${leftOut} more; ` : ''}empty by itself at ${second(emptyMs)} UTC, in ${timeLeft(Math.max(0, emptyMs - nowMs))}, unless leases are extended. Nothing is moved to another host by itself.`
}
