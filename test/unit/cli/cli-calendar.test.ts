/** The chart of a calendar and the list of a drain, as people see them, and the times that they type. */
import t from 'tap'
import { futureMoment } from '../../../cli/quantity.ts'
import { clustersTable } from '../../../cli/render.ts'
import { calendarChart, drainText } from '../../../cli/render/calendar.ts'
import type { ClusterResource } from '../../../protocol/api.ts'
import type { CalendarResource, DrainResource } from '../../../protocol/calendar-api.ts'

const T0 = Date.UTC(2026, 11, 1, 8, 0)
const HOUR = 3_600_000
type Promised = CalendarResource['hosts'][number]['leases'][number]
const lease = (cluster: string, kind: string, name: string, state: string, from: number, until: number): Promised =>
  ({ clusterId: `id-${cluster}`, cluster, masterSite: 'tokyo', kind, name, state, startMs: T0 + from * HOUR, endMs: T0 + until * HOUR, masterless: false })
const quiet = { error: '', takesLeases: true, why: '', steps: [], leftOut: 0 }
const calendar: CalendarResource = {
  site: 'osaka', nowMs: T0 + HOUR, fromMs: T0, untilMs: T0 + 24 * HOUR,
  hosts: [
    { ...quiet, host: 'osaka-1', leases: [lease('demo', 'segment', 'segment', 'active', -2, 6), lease('demo', 'node', 'a', 'active', -2, 6), lease('next', 'node', 'c', 'committed', 6, 12), lease('next', 'node', 'd', 'committed', 6, 12), lease('late', 'volume', 'v', 'held', 23, 80)] },
    { ...quiet, host: 'osaka-2', leases: [] },
    { ...quiet, host: 'osaka-3', leases: [], takesLeases: false, why: 'cordoned: new memory' },
    { ...quiet, host: 'osaka-4', leases: [], takesLeases: false, error: 'cannot reach osaka/osaka-4' }
  ]
}

t.test('a line for each cluster on each host, in the width there is', t => {
  const chart = calendarChart(calendar, { width: 80, colour: false })
  t.equal(chart, [
    'osaka: 2026-12-01 08:00 to 2026-12-02 08:00 UTC, 29m23s a column',
    '                               12-01 08:00   14:51         21:42',
    'osaka-1',
    '  demo (tokyo) 1 node, segment #############....................................',
    '  next (tokyo) 2 nodes         ..|.........=============........................',
    '  late (tokyo) volume          ..|...........................................---',
    'osaka-2                        ..|..............................................',
    'osaka-3  takes no new leases: cordoned: new memory',
    'osaka-4  does not answer: cannot reach osaka/osaka-4',
    '',
    '# active  = reserved, or about to start  - held for a moment  . nothing  | now'
  ].join('\n'))
  for (const width of [60, 80, 100, 200]) t.ok(calendarChart(calendar, { width, colour: false }).split('\n').every(line => line.length <= Math.max(width, 80)), `no line is longer than ${width}`)
  const coloured = calendarChart(calendar, { width: 80, colour: true })
  t.match(coloured, /\x1b\[32m#\x1b\[0m/)
  t.equal(coloured.replaceAll(/\x1b\[\d+m/g, ''), chart, 'colour changes nothing else')
  t.end()
})

t.test('what ends where a column begins is not in it', t => {
  const one = { ...calendar, nowMs: 0, untilMs: T0 + 20 * HOUR, hosts: [{ ...quiet, host: 'h', leases: [lease('a', 'node', 'n', 'active', 0, 10), lease('b', 'node', 'n', 'active', 10, 20)] }] }
  const lines = calendarChart(one, { width: 20, colour: false }).split('\n')
  t.match(lines[3], / #{10}\.{10}$/)
  t.match(lines[4], / \.{10}#{10}$/)
  t.end()
})

t.test('a drain says what must go, what can be done, and when the host is empty', t => {
  const drain: DrainResource = {
    host: 'osaka-1', cordoned: true, nowMs: T0, emptyMs: T0 + 12 * HOUR, leftOut: 0,
    leases: [{ ...lease('next', 'node', 'c', 'committed', 6, 12), movable: false, advice: 'has not started' }, { ...lease('demo', 'node', 'a', 'active', -2, 6), movable: false, advice: 'delete it' }]
  }
  t.equal(drainText(drain), [
    'osaka-1 takes no new leases. Back into use: musubi host uncordon osaka-1',
    '',
    'CLUSTER  MASTER  KIND  NAME  STATE     END (UTC)         IN      WHAT CAN BE DONE',
    'next     tokyo   node  c     reserved  2026-12-01 20:00  12h00m  has not started',
    'demo     tokyo   node  a     active    2026-12-01 14:00  6h00m   delete it',
    '',
    'empty by itself at 2026-12-01 20:00 UTC, in 12h00m, unless leases are extended. Nothing is moved to another host by itself.'
  ].join('\n'))
  t.equal(drainText({ ...drain, leases: [], emptyMs: 0 }), 'osaka-1 takes no new leases. Back into use: musubi host uncordon osaka-1\nIt is empty.')
  t.end()
})

t.test('a reservation is shown with the time until it starts', t => {
  const reserved = { name: 'demo', state: 'reserved', startsAt: T0 + 3 * HOUR, expiresAt: T0 + 5 * HOUR, masterSite: 'tokyo', nodes: [], segment: { vni: 7 } } as unknown as ClusterResource
  t.match(clustersTable([reserved], T0), /demo +reserved, starts in 3h00m/)
  t.end()
})

t.test('moments to come, as people type them', t => {
  const now = new Date(2026, 10, 30, 12, 34, 56).getTime()
  t.equal(futureMoment('+3h', '--start', now), now + 3 * HOUR)
  t.equal(futureMoment('tomorrow 08:00', '--start', now), new Date(2026, 11, 1, 8, 0).getTime())
  t.equal(futureMoment('today 18:30', '--start', now), new Date(2026, 10, 30, 18, 30).getTime())
  t.equal(futureMoment('2026-12-01T08:00+09:00', '--start', now), Date.UTC(2026, 10, 30, 23, 0))
  for (const wrong of ['tomorrow', 'tomorrow 25:00', '+3', '+', 'next week', '2026-02-30T08:00', '']) t.throws(() => futureMoment(wrong, '--start', now), { code: 'INVALID_INPUT', message: /--start/ }, wrong)
  t.end()
})
