/** What outlives its cluster, and for how long: for any stores, times and limits. */
import fc from 'fast-check'
import t from 'tap'
import { endOf, RETAIN_NOTHING, storeBytesMax, toDrop, type RetainLimits, type Stay } from '../../../agent/drivers/cache/retained/policy.ts'
import { RETAINED_STORES_MAX } from '../../../protocol/core/limits.ts'

const NOW = 1_000_000
const store = (id: string, part: Partial<Stay> = {}): Stay => ({ id, owner: 'tokyo', bytes: 10, lastUsedMs: NOW - 100, untilMs: NOW + 1000, ...part })
const LIMITS: RetainLimits = { totalBytes: 100, ownerBytes: 50, maxMs: 10_000 }

t.test('time, quotas and the order of use', t => {
  t.same(toDrop([], NOW, LIMITS), [])
  t.same(toDrop([store('a'), store('b', { untilMs: NOW })], NOW, LIMITS), ['b'], 'its time is over')
  t.same(toDrop([store('a', { lastUsedMs: NOW - 10_000 })], NOW, LIMITS), ['a'], 'the site grants less than was asked')
  t.equal(endOf(store('a', { untilMs: NOW + 1e9 }), LIMITS), NOW - 100 + 10_000)
  const old = store('old', { bytes: 30, lastUsedMs: NOW - 300 })
  const young = store('young', { bytes: 30, lastUsedMs: NOW - 200 })
  t.same(toDrop([old, young], NOW, LIMITS), ['old'], 'an owner has too much: the least recently used goes')
  t.same(toDrop([old, { ...young, owner: 'kyoto' }], NOW, LIMITS), [], 'two owners')
  t.same(toDrop([old, store('huge', { bytes: 51 })], NOW, LIMITS), ['huge'], 'what never fits makes no other one go')
  t.same(toDrop(['a', 'b', 'c'].map((owner, i) => store(owner, { owner, bytes: 40, lastUsedMs: NOW - 10 * (i + 1) })), NOW, LIMITS), ['c'], 'the gateway has too much')
  for (const off of [RETAIN_NOTHING, { ...LIMITS, totalBytes: 0 }, { ...LIMITS, ownerBytes: 0 }, { ...LIMITS, maxMs: 0 }]) {
    t.same(toDrop([store('a', { bytes: 0 })], NOW, off), ['a'])
    t.equal(storeBytesMax(off), 0)
  }
  const many = Array.from({ length: RETAINED_STORES_MAX + 3 }, (_, i) => store(`s${String(i).padStart(3, '0')}`, { owner: `o${i}`, bytes: 0, lastUsedMs: NOW - i }))
  t.same(toDrop(many, NOW, LIMITS), many.slice(RETAINED_STORES_MAX).map(({ id }) => id))
  t.end()
})

t.test('whatever there is: within limits, nothing used later goes for something used earlier, and no room is left that the next one would fit', t => {
  const stays = fc.uniqueArray(fc.record({
    id: fc.string({ minLength: 1, maxLength: 4 }), owner: fc.constantFrom('tokyo', 'kyoto', 'osaka'), bytes: fc.nat(60), lastUsedMs: fc.integer({ min: NOW - 2000, max: NOW }), untilMs: fc.integer({ min: NOW - 500, max: NOW + 5000 })
  }), { selector: ({ id }) => id, maxLength: 12 })
  const limits = fc.record({ totalBytes: fc.nat(200), ownerBytes: fc.nat(100), maxMs: fc.nat(3000) })
  fc.assert(fc.property(stays, limits, (all, limits) => {
    const dropped = new Set(toDrop(all, NOW, limits))
    const kept = all.filter(({ id }) => !dropped.has(id))
    const sum = (list: readonly Stay[]): number => list.reduce((total, { bytes }) => total + bytes, 0)
    const ofOwner = (owner: string): Stay[] => kept.filter(one => one.owner === owner)
    const alive = all.filter(one => storeBytesMax(limits) > 0 && endOf(one, limits) > NOW)
    if (sum(kept) > limits.totalBytes || !kept.every(one => alive.includes(one))) return false
    if (!kept.every(({ owner }) => sum(ofOwner(owner)) <= limits.ownerBytes)) return false
    for (const one of alive.filter(({ id, bytes }) => dropped.has(id) && bytes <= storeBytesMax(limits))) {
      if (ofOwner(one.owner).some(({ lastUsedMs }) => lastUsedMs < one.lastUsedMs)) return false
    }
    // the most recently used of all that has gone did not fit
    const [last] = alive.filter(({ id, bytes }) => dropped.has(id) && bytes <= storeBytesMax(limits)).toSorted((a, b) => b.lastUsedMs - a.lastUsedMs || (a.id < b.id ? -1 : 1))
    return last === undefined || sum([...kept, last]) > limits.totalBytes || sum([...ofOwner(last.owner), last]) > limits.ownerBytes
  }), { numRuns: 3000 })
  t.same(toDrop([store('a')], NOW, LIMITS), toDrop([store('a')], NOW, LIMITS))
  t.end()
})
