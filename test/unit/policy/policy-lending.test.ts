/** What a site says beforehand of when it lends, against what it says to each request. */
import fc from 'fast-check'
import t from 'tap'
import { lendingFrom, toLending } from '../../../agent/calendar/lending.ts'
import { closedFor, lendingProblem, startsIn, type Lending } from '../../../protocol/core/calendar/lending.ts'
import { MAX_OPEN_STRETCHES, MAX_TERM_MS } from '../../../protocol/core/limits.ts'
import { DAYS, type PolicyRule } from '../../../protocol/policy-api.ts'
import { lendingOf } from '../../../protocol/policy/lending.ts'
import { checkPolicy } from '../../../protocol/policy/rules.ts'
import { decode, encode } from '../../../protocol/wire/codec.ts'

const MINUTE = 60_000
const HOUR = 60 * MINUTE
const DAY = 24 * HOUR
const T0 = Date.UTC(2026, 11, 1)

const clock = fc.tuple(fc.nat(23), fc.constantFrom(0, 15, 30, 45)).map(([h, m]) => `${String(h).padStart(2, '0')}:${String(m).padStart(2, '0')}`)
const window = fc.record({ days: fc.subarray([...DAYS], { minLength: 1 }), from: clock, to: clock, zone: fc.constantFrom('UTC', 'Asia/Tokyo', 'Europe/Zurich', 'America/St_Johns') }).filter(w => w.from !== w.to)
const rule = fc.record({
  windows: fc.option(fc.array(window, { minLength: 1, maxLength: 4 }), { nil: undefined }), longestLease: fc.constantFrom(undefined, undefined, '2h', '3d'), latestStart: fc.constantFrom(undefined, undefined, '0s', '5h', '9d'),
  deny: fc.constantFrom(undefined, undefined, undefined, undefined, true)
}).map(({ deny, ...rest }): PolicyRule => deny === true ? { deny } : Object.fromEntries(Object.entries(rest).filter(([, value]) => value !== undefined)))

/** As another gateway reads it. */
const heard = (lending: Lending | null): Lending | undefined => lendingFrom(lending === null ? null : decode('CalendarReply', encode('CalendarReply', { site: 'osaka', nowMs: T0, hosts: [], held: [], lending: toLending(lending) })).lending)

t.test('it says open when a request would be taken, and not when it would not', t => {
  const seen = { open: 0, shut: 0, later: 0 }
  // a minute apart from the edges, at them, and beside them
  const moment = fc.tuple(fc.nat(14 * 96), fc.constantFrom(0, 0, 0, -1, 1, 7 * MINUTE)).map(([quarter, off]) => T0 + quarter * 15 * MINUTE + off)
  fc.assert(fc.property(rule, moment, fc.integer({ min: -2 * 96, max: 20 * 96 }), fc.oneof(fc.integer({ min: 1, max: 40 }), fc.integer({ min: 1, max: 400 })), fc.constantFrom(0, 0, 1, -1), (one, nowMs, ahead, quarters, off) => {
    const startMs = Math.floor(nowMs / (15 * MINUTE)) * 15 * MINUTE + ahead * 15 * MINUTE + off
    const endMs = startMs + quarters * 15 * MINUTE
    if (endMs <= nowMs) return true
    const taken = ((): boolean => {
      try {
        checkPolicy({ sites: { tokyo: one } }, 'osaka', { masterSite: 'tokyo', startMs, endMs, nowMs })
        return true
      } catch {
        return false
      }
    })()
    const lending = heard(lendingOf({ sites: { tokyo: one } }, 'osaka', 'tokyo', nowMs))
    const open = lending === undefined || closedFor(lending, startMs, endMs) === null
    seen[open ? 'open' : 'shut']++
    if (startMs < nowMs || lending === undefined) return open === taken
    const starts = startsIn(lending, endMs - startMs)
    const next = starts.find(({ lastMs }) => lastMs >= startMs)
    if (next !== undefined && next.fromMs > startMs) seen.later++
    return open === taken && open === (next !== undefined && next.fromMs <= startMs)
  }), { numRuns: 3_000 })
  t.comment(seen)
  t.ok(Math.min(...Object.values(seen)) > 200, 'it is tried both ways')
  t.end()
})

t.test('beyond what is said nothing is left out, and the own site is always open', t => {
  const busy: PolicyRule = { windows: [{ from: '08:00', to: '12:00', zone: 'UTC' }, { from: '14:00', to: '18:00', zone: 'UTC' }] }
  const document = { default: busy }
  t.equal(lendingOf(document, 'osaka', 'osaka', T0), null)
  t.equal(lendingOf({ default: { priority: 7 } }, 'osaka', 'tokyo', T0), null)
  const lending = lendingOf(document, 'osaka', 'tokyo', T0)
  if (lending === null) throw new Error('it says nothing')
  t.equal(lendingProblem(lending), null)
  t.equal(lending.open?.length, MAX_OPEN_STRETCHES)
  t.equal(lending.knownUntilMs, T0 + 512 * DAY + 8 * HOUR)
  t.match(closedFor(lending, T0 + 511 * DAY + 12 * HOUR, T0 + 511 * DAY + 13 * HOUR), /^it lends at certain times only.*; so long from 2028-04-25T14:00:00Z on$/)
  t.equal(closedFor(lending, T0 + 513 * DAY, T0 + 513 * DAY + HOUR), null)
  t.match(closedFor(lending, T0, T0 + 5 * HOUR), /lends at certain times only.*; so long from 2028-04-26T08:00:00Z on$/)
  const daily = lendingOf({ default: { windows: busy.windows?.slice(0, 1) ?? [] } }, 'osaka', 'tokyo', T0)
  t.equal(daily?.knownUntilMs, T0 + 2 * MAX_TERM_MS, 'a window for each day is told as far as any lease can reach')
  t.same(lendingOf(document, 'osaka', 'tokyo', T0 + 9 * HOUR)?.open?.[0], { fromMs: 0, untilMs: T0 + 12 * HOUR }, 'what has passed is not judged')
  t.same(lendingOf(document, 'osaka', 'tokyo', T0 + 13 * HOUR)?.open?.[0], { fromMs: T0 + 14 * HOUR, untilMs: T0 + 18 * HOUR })
  t.end()
})

t.test('what a site says of itself is looked at before it is searched', t => {
  const fine = toLending({ open: [{ fromMs: 0, untilMs: 5 }, { fromMs: 6, untilMs: 9 }], knownUntilMs: 100, longestMs: null, latestStartMs: 7 })
  t.same(lendingFrom(fine), { open: [{ fromMs: 0, untilMs: 5 }, { fromMs: 6, untilMs: 9 }], knownUntilMs: 100, longestMs: null, latestStartMs: 7 })
  for (const open of [[{ fromMs: 5, untilMs: 5 }], [{ fromMs: 0, untilMs: 5 }, { fromMs: 5, untilMs: 9 }], [{ fromMs: 4, untilMs: 9 }, { fromMs: 0, untilMs: 2 }], [{ fromMs: 0.5, untilMs: 2 }], Array.from({ length: MAX_OPEN_STRETCHES + 1 }, (_, i) => ({ fromMs: i * 2, untilMs: i * 2 + 1 }))]) {
    t.equal(lendingFrom({ ...fine, open }), undefined, 'it counts as having said nothing')
  }
  t.equal(lendingFrom({ ...fine, longestMs: -1 }), undefined)
  t.end()
})
