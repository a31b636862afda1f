import fc from 'fast-check'
import t from 'tap'
import { coveredUntil, isZone, longestStretches, nextOpen, windowText, type Window } from '../../../protocol/policy/windows.ts'
import { DAYS } from '../../../protocol/policy-api.ts'

const HOUR = 3_600_000
const DAY = 24 * HOUR
const utc = (...at: [number, number, number, number?, number?]): number => Date.UTC(at[0], at[1] - 1, at[2], at[3] ?? 0, at[4] ?? 0)
const weekend: Window = { days: ['sat', 'sun'], from: '08:00', to: '20:00', zone: 'Europe/Zurich' }

t.test('a lease lies in the windows as a whole, in the time of the zone, summer and winter', t => {
  // Saturdays: 10 January 2026 at +01:00, 11 July at +02:00
  for (const [day, offset] of [[utc(2026, 1, 10), 1], [utc(2026, 7, 11), 2]] as const) {
    const [opens, closes] = [day + (8 - offset) * HOUR, day + (20 - offset) * HOUR]
    t.equal(coveredUntil([weekend], opens, closes), closes, 'from the first moment to the last')
    t.equal(coveredUntil([weekend], opens - 1, closes), opens - 1, 'not before')
    t.equal(coveredUntil([weekend], opens, closes + 1), closes, 'nor after')
    t.equal(coveredUntil([weekend], opens + 2 * DAY, closes + 2 * DAY), opens + 2 * DAY, 'nor on a Monday')
    t.same(nextOpen([weekend], closes, 8 * DAY), { fromMs: opens + DAY, untilMs: closes + DAY }, 'Sunday is next')
    t.same(nextOpen([weekend], opens + HOUR, 8 * DAY), { fromMs: opens + HOUR, untilMs: closes }, 'open now')
  }
  t.equal(nextOpen([weekend], utc(2026, 1, 12), DAY), null, 'not within a day')
  t.end()
})

t.test('windows that touch are one, over midnight and over zones', t => {
  const night: Window = { days: ['fri'], from: '22:00', to: '06:00', zone: 'UTC' }
  const morning: Window = { days: ['sat'], from: '06:00', to: '12:00', zone: 'UTC' }
  const friday = utc(2026, 1, 9, 22)
  t.equal(coveredUntil([night], friday, friday + 9 * HOUR), friday + 8 * HOUR, 'until six on the next day')
  t.equal(coveredUntil([morning, night], friday, friday + 14 * HOUR), friday + 14 * HOUR, 'in whatever order')
  t.equal(coveredUntil([{ zone: 'Asia/Tokyo' }], friday, friday + 300 * DAY), friday + 300 * DAY, 'every day of whole days is always')
  t.equal(coveredUntil([{ ...night, to: '22:00', from: '23:00' }], friday + HOUR, friday + 24 * HOUR), friday + 24 * HOUR, 'almost a day')
  t.end()
})

t.test('when the clocks change a window is as long as the clock on the wall says', t => {
  const zone = 'Europe/Zurich'
  // 29 March 2026: 02:00 becomes 03:00; 25 October: 03:00 becomes 02:00
  const [spring, autumn] = [utc(2026, 3, 29), utc(2026, 10, 25)]
  const window = (from: string, to: string): Window => ({ days: ['sun'], from, to, zone })
  const onDay = (day: number, one: Window): unknown => nextOpen([one], day - HOUR, 20 * HOUR)
  t.same(onDay(spring, window('01:00', '04:00')), { fromMs: spring, untilMs: spring + 2 * HOUR }, 'an hour is missing')
  t.same(onDay(spring, window('02:30', '04:00')), { fromMs: spring + HOUR, untilMs: spring + 2 * HOUR }, 'what does not exist begins with the jump')
  t.equal(onDay(spring, window('02:15', '02:45')), null, 'and is nothing where its end does not exist either')
  t.same(onDay(autumn, window('01:00', '04:00')), { fromMs: autumn - HOUR, untilMs: autumn + 3 * HOUR }, 'an hour comes twice')
  t.same(onDay(autumn, window('02:30', '02:45')), { fromMs: autumn + HOUR / 2, untilMs: autumn + 1.75 * HOUR }, 'from the first of both to the last')
  t.same(longestStretches([window('02:15', '02:45')], utc(2026, 3, 23), 7 * DAY), { openMs: 0, closedMs: 7 * DAY })
  t.end()
})

t.test('stretches, texts and zones', t => {
  t.same(longestStretches([weekend], utc(2026, 1, 5), 28 * DAY), { openMs: 12 * HOUR, closedMs: (5 * 24 + 12) * HOUR })
  t.equal(windowText(weekend), 'sat, sun 08:00-20:00 Europe/Zurich')
  t.equal(windowText({ zone: 'UTC' }), 'every day 00:00-24:00 UTC')
  t.ok(isZone('Asia/Kathmandu'))
  for (const none of ['Mars/Base', '', 'Europe', '+25:00']) t.notOk(isZone(none), JSON.stringify(none))
  t.end()
})

/** The plain reading: what a clock on the wall shows at a moment. */
function isOpenAt ({ days = [...DAYS], from = '00:00', to = '24:00', zone }: Window, ms: number): boolean {
  const parts = Object.fromEntries(new Intl.DateTimeFormat('en-GB', { timeZone: zone, weekday: 'short', hour: '2-digit', minute: '2-digit', hourCycle: 'h23' }).formatToParts(ms).map(p => [p.type, p.value]))
  const now = `${parts.hour ?? ''}:${parts.minute ?? ''}`
  const today = (parts.weekday ?? '').toLowerCase() as typeof DAYS[number]
  const yesterday = DAYS[(DAYS.indexOf(today) + 6) % 7] ?? 'mon'
  return to > from ? days.includes(today) && now >= from && now < to : (days.includes(today) && now >= from) || (days.includes(yesterday) && now < to)
}

t.test('on days on which no clock changes it is what a clock on the wall says, minute by minute', t => {
  const time = fc.tuple(fc.nat(23), fc.constantFrom(0, 15, 30, 45)).map(([h, m]) => `${String(h).padStart(2, '0')}:${String(m).padStart(2, '0')}`)
  const window = fc.record({ days: fc.subarray([...DAYS], { minLength: 1 }), from: time, to: time, zone: fc.constantFrom('UTC', 'Asia/Tokyo', 'Asia/Kathmandu', 'Pacific/Kiritimati', 'America/St_Johns') }).filter(w => w.from !== w.to)
  // the first week of December: no clock of these changes
  const minute = fc.nat(7 * 24 * 60 - 1).map(m => utc(2026, 12, 1) + m * 60_000)
  fc.assert(fc.property(fc.array(window, { minLength: 1, maxLength: 3 }), minute, fc.integer({ min: 1, max: 600 }), (windows, from, minutes) => {
    let expected = from
    while (expected < from + minutes * 60_000 && windows.some(one => isOpenAt(one, expected))) expected += 60_000
    return coveredUntil(windows, from, from + minutes * 60_000) === expected
  }), { numRuns: 150 })
  t.end()
})
