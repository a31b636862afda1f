import fc from 'fast-check'
import t from 'tap'
import { freeDuring, type Booking } from '../../../protocol/core/calendar/free.ts'
import { type Resources, add, clampToZero, describe, describeShortfall, fits, isValid, max, min, subtract, sum, timesFitting, zero } from '../../../protocol/core/capacity.ts'
import { allocateId, isFree } from '../../../protocol/core/ids.ts'

const r = (vcpus: number, memoryMib = 0, diskMib = 0, volumes = 0, bandwidthMbit = 0): Resources => ({ vcpus, memoryMib, diskMib, volumes, bandwidthMbit })
const resources = fc.record({ vcpus: fc.nat(8), memoryMib: fc.nat(8), diskMib: fc.nat(8), volumes: fc.nat(8), bandwidthMbit: fc.nat(8) })

t.test('capacity vectors', t => {
  t.same(add(r(1, 2, 3), r(4, 5, 6)), r(5, 7, 9))
  t.same(subtract(r(1, 2, 3), r(4, 1, 3)), r(-3, 1, 0))
  t.same(clampToZero(r(-3, 1, 0)), r(0, 1, 0))
  t.same(min(r(1, 5), r(2, 4)), r(1, 4))
  t.same(max(r(1, 5), r(2, 4)), r(2, 5))
  t.same(sum([r(1), r(2), r(0, 3)]), r(3, 3))
  t.equal(fits(r(2, 2, 2), r(2, 2, 2)), true)
  t.equal(fits(r(2, 3, 2), r(2, 2, 2)), false)
  t.equal(timesFitting(r(2, 100), r(5, 1000)), 2)
  t.equal(timesFitting(r(2, 100), r(-1, 1000)), 0)
  t.equal(timesFitting(zero(), r(1)), Number.POSITIVE_INFINITY)
  t.equal(isValid(r(1, -1)), false)
  t.equal(isValid(r(1.5)), false)
  t.equal(describe(r(4, 768)), '4 vCPU, 768 MiB memory')
  t.equal(describe(zero()), 'nothing')
  t.equal(describeShortfall(r(4, 100, 9), r(2, 100, 8)), 'needs 4 vCPU, 2 free; needs 9 MiB disk, 8 free')
  t.equal(describeShortfall(r(1), r(-2)), 'needs 1 vCPU, 0 free', 'nobody reads negative figures')
  t.end()
})

t.test('what is free in an interval is the least over its moments', t => {
  const booking = fc.record({ resources, fromMs: fc.nat(20), untilMs: fc.nat(20) })
  fc.assert(fc.property(fc.array(booking, { maxLength: 12 }), fc.nat(19), fc.integer({ min: 1, max: 10 }), (bookings, from, length) => {
    const at = (moment: number): ReturnType<typeof r> =>
      bookings.filter((b: Booking) => b.fromMs <= moment && moment < b.untilMs).reduce((free, b) => subtract(free, b.resources), r(10, 10, 10, 10, 10))
    let least = at(from)
    for (let moment = from + 1; moment < from + length; moment++) least = min(least, at(moment))
    t.strictSame(freeDuring(r(10, 10, 10, 10, 10), bookings, from, from + length), least)
  }), { numRuns: 300 })
  t.end()
})

t.test('ids: the lowest that nobody has and that does not rest', t => {
  const slice = { from: 10, to: 13 }
  t.equal(allocateId(slice, [], 0), 10)
  t.equal(allocateId(slice, [{ id: 10, untilMs: Infinity }, { id: 11, untilMs: 50 }], 49), 12)
  t.equal(allocateId(slice, [{ id: 10, untilMs: Infinity }, { id: 11, untilMs: 50 }], 50), 11)
  t.equal(allocateId(slice, [10, 11, 12, 13].map(id => ({ id, untilMs: Infinity })), 0), null)
  t.equal(isFree(10, [{ id: 10, untilMs: 5 }], 4), false)
  t.equal(isFree(10, [{ id: 10, untilMs: 5 }], 5), true)
  t.end()
})
