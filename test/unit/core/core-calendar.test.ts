import fc from 'fast-check'
import t from 'tap'
import { freeDuring, type Booking } from '../../../protocol/core/calendar/free.ts'
import { type FreeStep, Timeline } from '../../../protocol/core/calendar/timeline.ts'
import { calendarProblem, coarser, earliestTogether, leastIn, type SiteCalendar } from '../../../protocol/core/calendar/together.ts'
import { type Resources, clampToZero, fits, timesFitting, zero } from '../../../protocol/core/capacity.ts'
import { earliestStart, inWindow, nearestCount, nearestText } from '../../../protocol/core/master/negotiation/earliest.ts'
import { spec } from '../../model/fixtures.ts'

const CAPACITY: Resources = { vcpus: 4, memoryMib: 8, diskMib: 0, volumes: 0, bandwidthMbit: 0 }
const take = (vcpus: number, memoryMib = 0): Resources => ({ ...zero(), vcpus, memoryMib })
const END = 60

const booking = fc.record({ vcpus: fc.integer({ min: 0, max: 3 }), memoryMib: fc.integer({ min: 0, max: 5 }), fromMs: fc.integer({ min: 0, max: END }), lasts: fc.integer({ min: 0, max: 20 }) })
  .map(({ vcpus, memoryMib, fromMs, lasts }): Booking => ({ resources: take(vcpus, memoryMib), fromMs, untilMs: fromMs + lasts }))

/** By looking at every moment: all times here are whole and small. */
function bruteEarliest (bookings: readonly Booking[], need: Resources, durationMs: number, fromMs: number, latestMs: number): number | null {
  for (let start = fromMs; start <= latestMs; start++) {
    // as a host looks at it: of what is overdrawn nothing can be had, and what is not needed does not matter
    if (fits(need, clampToZero(freeDuring(CAPACITY, bookings, start, start + durationMs)))) return start
  }
  return null
}

t.test('a timeline says what a sweep over all bookings says, while bookings come and go', t => {
  fc.assert(fc.property(fc.array(booking, { maxLength: 60 }), fc.array(fc.nat(), { maxLength: 20 }), fc.integer({ min: 0, max: END }), fc.integer({ min: 1, max: 25 }), booking, (bookings, gone, fromMs, durationMs, { resources: need }) => {
    const timeline = new Timeline(CAPACITY, bookings)
    const left = [...bookings]
    for (const index of gone) for (const one of left.splice(index % (left.length + 1), 1)) timeline.unbook(one)
    const least = timeline.least(fromMs, fromMs + durationMs)
    if (JSON.stringify(least) !== JSON.stringify(freeDuring(CAPACITY, left, fromMs, fromMs + durationMs))) return false
    for (const latestMs of [END, END + 100, fromMs + 3]) {
      if (timeline.earliest(need, durationMs, fromMs, latestMs) !== bruteEarliest(left, need, durationMs, fromMs, latestMs)) return false
    }
    return timeline.steps(fromMs).every(({ atMs, free }) => JSON.stringify(free) === JSON.stringify(freeDuring(CAPACITY, left, atMs, atMs + 1)))
  }), { numRuns: 400 })
  t.end()
})

t.test('the same with thousands of points, where blocks split and empty', t => {
  let seed = 7
  const chance = (below: number): number => (seed = (seed * 48_271) % 0x7fff_ffff) % below
  const bookings = Array.from({ length: 3_000 }, (): Booking => { const fromMs = chance(40_000); return { resources: take(chance(3), chance(4)), fromMs, untilMs: fromMs + 1 + chance(200) } })
  const big = { ...CAPACITY, vcpus: 24, memoryMib: 40 }
  const timeline = new Timeline(big, bookings)
  t.ok(timeline.points > 4_000)
  for (let i = 0; i < 15; i++) {
    const fromMs = chance(40_000)
    const durationMs = 1 + chance(3_000)
    t.same(timeline.least(fromMs, fromMs + durationMs), freeDuring(big, bookings, fromMs, fromMs + durationMs))
    const need = take(8 + chance(8), chance(20))
    const found = timeline.earliest(need, durationMs, fromMs)
    t.ok(found !== null && fits(need, freeDuring(big, bookings, found, found + durationMs)), 'it fits there')
    // what is free grows only where something ends
    const before = [fromMs, ...bookings.map(one => one.untilMs)].filter(at => at >= fromMs && at < (found ?? 0))
    t.notOk(before.some(at => fits(need, freeDuring(big, bookings, at, at + durationMs))), 'and nowhere before')
  }
  for (const one of bookings) timeline.unbook(one)
  t.equal(timeline.points, 0)
  t.same(timeline.least(0, 50_000), big)
  t.end()
})

t.test('over many blocks, the earliest start is that of a scan over every point', t => {
  let seed = 11
  const chance = (below: number): number => (seed = (seed * 48_271) % 0x7fff_ffff) % below
  const big = { ...CAPACITY, vcpus: 60, memoryMib: 200 }
  let [found, none] = [0, 0]
  for (let round = 0; round < 6; round++) {
    const bookings = Array.from({ length: 1_500 }, (): Booking => { const fromMs = chance(60_000); return { resources: take(1 + chance(4), chance(12)), fromMs, untilMs: fromMs + 1 + chance(round % 2 === 0 ? 900 : 12_000) } })
    const timeline = new Timeline(big, bookings)
    for (const one of bookings.splice(0, 300)) timeline.unbook(one)
    const steps = timeline.steps(0)
    t.same(steps.filter((_, i) => i % 97 === 0).map(({ atMs, free }) => [atMs, free]), steps.filter((_, i) => i % 97 === 0).map(({ atMs }) => [atMs, freeDuring(big, bookings, atMs, atMs + 1)]))
    // by a scan, as a start is followed until it fails
    const scan = (need: Resources, durationMs: number, fromMs: number, latestMs: number): number | null => {
      let start: number | null = null
      for (const [i, { atMs, free }] of steps.entries()) {
        if ((steps[i + 1]?.atMs ?? Infinity) <= fromMs) continue
        if (start !== null && atMs >= start + durationMs) break
        if (!fits(need, clampToZero(free))) start = null
        else start ??= Math.max(atMs, fromMs)
      }
      return start !== null && start <= latestMs ? start : null
    }
    for (let i = 0; i < 400; i++) {
      const need = take(chance(round % 2 === 0 ? 50 : 30), chance(120))
      const [durationMs, fromMs] = [1 + chance([20, 500, 5_000, 80_000][i % 4] ?? 1), chance(70_000)]
      const latestMs = i % 3 === 0 ? fromMs + chance(5_000) : Infinity
      const expected = scan(need, durationMs, fromMs, latestMs)
      if (expected === null) none++
      else found++
      if (timeline.earliest(need, durationMs, fromMs, latestMs) !== expected) t.fail(`round ${round}, question ${i}: ${String(expected)}`)
    }
  }
  t.ok(found > 500 && none > 50, `${found} found, ${none} not`)
  t.end()
})

t.test('intervals are half open, and what never fits is never found', t => {
  const timeline = new Timeline(CAPACITY, [{ resources: take(4), fromMs: 10, untilMs: 20 }, { resources: take(4), fromMs: 30, untilMs: 40 }])
  t.equal(timeline.earliest(take(1), 10, 0), 0, 'up to the moment at which the next begins')
  t.equal(timeline.earliest(take(1), 10, 1), 20, 'from the moment at which one ends')
  t.equal(timeline.earliest(take(1), 11, 1), 40)
  t.equal(timeline.earliest(take(1), 11, 1, 39), null)
  t.equal(timeline.earliest(take(5), 1, 0), null)
  timeline.book({ resources: take(4), fromMs: 20, untilMs: 30 })
  t.equal(timeline.points, 2, 'bookings that follow on each other change nothing between them')
  t.end()
})

t.test('what is told coarsely is never more than there is', t => {
  fc.assert(fc.property(fc.array(booking, { maxLength: 40 }), fc.integer({ min: 3, max: 12 }), fc.integer({ min: 0, max: END }), fc.integer({ min: 1, max: 25 }), (bookings, most, fromMs, durationMs) => {
    const steps = new Timeline(CAPACITY, bookings).steps(0)
    const coarse = coarser(steps, most)
    const exact = leastIn(steps, fromMs, fromMs + durationMs)
    return coarse.length <= most && fits(leastIn(coarse, fromMs, fromMs + durationMs), exact) && JSON.stringify(exact) === JSON.stringify(freeDuring(CAPACITY, bookings, fromMs, fromMs + durationMs)) &&
      JSON.stringify(leastIn(coarse, 1_000, 1_001)) === JSON.stringify(leastIn(steps, 1_000, 1_001))
  }), { numRuns: 300 })
  t.end()
})

t.test('several hosts together: the earliest start is that of brute force', t => {
  const host = fc.array(booking, { maxLength: 25 })
  fc.assert(fc.property(fc.array(host, { minLength: 1, maxLength: 4 }), fc.integer({ min: 1, max: 6 }), fc.integer({ min: 1, max: 25 }), fc.integer({ min: 0, max: 40 }), fc.integer({ min: 0, max: 90 }), (hosts, nodes, durationMs, fromMs, ahead) => {
    const need = take(1, 2)
    const steps = hosts.map(bookings => new Timeline(CAPACITY, bookings).steps(0))
    const sites: SiteCalendar[] = [{ site: 'a', hosts: steps.map((own, i) => ({ host: String(i), roles: ['compute'], steps: own })) }]
    const slots = (startMs: number): number => steps.reduce((sum, own) => sum + timesFitting(need, leastIn(own, startMs, startMs + durationMs)), 0)
    let asked = 0
    const found = earliestTogether(sites, {
      fromMs, latestMs: fromMs + ahead, durationMs, nodes, nodesIn: free => timesFitting(need, free), watch: [], tries: 1_000,
      fits: startMs => { asked++; return slots(startMs) >= nodes }
    })
    let brute: number | null = null
    for (let startMs = fromMs; startMs <= fromMs + ahead && brute === null; startMs++) if (slots(startMs) >= nodes) brute = startMs
    return found === brute && asked <= 1
  }), { numRuns: 500 })
  t.end()
})

t.test('sites that lend at certain times only: the earliest start is that of brute force', t => {
  const range = fc.record({ fromMs: fc.integer({ min: 0, max: END + 30 }), lasts: fc.nat(25) }).map(({ fromMs, lasts }) => ({ fromMs, lastMs: fromMs + lasts }))
  const starts = fc.array(range, { maxLength: 4 }).map(all => all.sort((a, b) => a.fromMs - b.fromMs).filter((one, i, list) => i === 0 || one.fromMs > (list[i - 1]?.lastMs ?? 0) + 1))
  const siteOf = fc.record({ hosts: fc.array(fc.array(booking, { maxLength: 8 }), { minLength: 1, maxLength: 3 }), starts: fc.option(starts, { nil: undefined }) })
  fc.assert(fc.property(fc.array(siteOf, { minLength: 1, maxLength: 4 }), booking, fc.integer({ min: 1, max: 10 }), fc.integer({ min: 0, max: END }), fc.integer({ min: 1, max: 25 }), fc.nat(80), (given, { resources }, nodes, fromMs, durationMs, ahead) => {
    const need = { ...resources, vcpus: resources.vcpus + 1 }
    const sites = given.map(({ hosts, starts: open }, n): SiteCalendar => ({
      site: String(n), hosts: hosts.map((bookings, i) => ({ host: String(i), roles: ['compute'], steps: new Timeline(CAPACITY, bookings).steps(0).map(step => ({ ...step, free: clampToZero(step.free) })) })),
      ...open === undefined ? {} : { starts: open }
    }))
    const slots = (startMs: number): number => sites.filter(one => one.starts?.some(range => range.fromMs <= startMs && startMs <= range.lastMs) !== false)
      .flatMap(({ hosts }) => hosts).reduce((sum, { steps }) => sum + timesFitting(need, leastIn(steps, startMs, startMs + durationMs)), 0)
    let asked = 0
    const found = earliestTogether(sites, {
      fromMs, latestMs: fromMs + ahead, durationMs, nodes, nodesIn: free => timesFitting(need, free), watch: [], tries: 1_000, fits: startMs => { asked++; return slots(startMs) >= nodes }
    })
    let brute: number | null = null
    for (let startMs = fromMs; startMs <= fromMs + ahead && brute === null; startMs++) if (slots(startMs) >= nodes) brute = startMs
    return found === brute && asked <= 1
  }), { numRuns: 600 })
  t.end()
})

t.test('a calendar of somebody else is looked at before it is searched', t => {
  const steps = (...at: number[]): FreeStep[] => at.map(atMs => ({ atMs, free: take(1) }))
  t.equal(calendarProblem([{ host: '1', roles: [], steps: steps(0, 5, 9) }]), null)
  for (const wrong of [steps(), steps(5, 5), steps(5, 4), steps(0.5), [{ atMs: -1, free: take(1) }]]) t.match(calendarProblem([{ host: '1', roles: [], steps: wrong }]), /not in order/)
  t.match(calendarProblem(Array.from({ length: 2_000 }, () => ({ host: '1', roles: [], steps: steps(0) }))), /more than 1024 hosts/)
  t.end()
})

t.test('it is asked no more often than said, and looks again when another figure rises', t => {
  const busy = (until: number): FreeStep[] => [{ atMs: 0, free: zero() }, { atMs: until, free: take(4, 8) }]
  const sites: SiteCalendar[] = [{ site: 'a', hosts: [{ host: '1', roles: ['compute'], steps: busy(0) }, { host: '2', roles: ['gateway'], steps: busy(50) }] }]
  const ask = { fromMs: 0, latestMs: 1_000, durationMs: 10, nodes: 1, nodesIn: (free: Resources) => timesFitting(take(1), free), tries: 10 }
  t.equal(earliestTogether(sites, { ...ask, watch: [{ role: 'gateway', figure: free => free.vcpus }], fits: startMs => startMs >= 50 }), 50)
  t.equal(earliestTogether(sites, { ...ask, watch: [], fits: startMs => startMs >= 50 }), null, 'nothing says that it could be another answer')
  t.equal(earliestTogether(sites, { ...ask, tries: 1, watch: [{ role: 'gateway', figure: free => free.vcpus }], fits: startMs => startMs >= 50 }), null)
  t.end()
})

t.test('a cluster with volumes and a frontend: when all of its sites have room for their parts at once', t => {
  const roomy: Resources = { vcpus: 4, memoryMib: 8_192, diskMib: 500, volumes: 4, bandwidthMbit: 0 }
  const from = (atMs: number): FreeStep[] => [{ atMs: 0, free: zero() }, { atMs, free: roomy }]
  const site = (name: string, steps: FreeStep[], roles: string[]): { site: string, freeByHost: Resources[], volumeFreeByHost: number[], calendar: SiteCalendar['hosts'] } =>
    ({ site: name, freeByHost: [], volumeFreeByHost: [], calendar: [{ host: '1', roles, steps }] })
  const wanted = spec({ name: 'demo', nodes: { count: 4, vcpus: 1, memoryMiB: 512 }, volumes: [{ name: 'data', sizeMiB: 64, node: 1 }], termMs: 100 })
  const sites = [site('tokyo', from(1_000), ['gateway', 'compute', 'storage']), site('osaka', from(3_000), ['gateway', 'compute'])]
  t.equal(earliestStart(wanted, sites, 'tokyo', 0), 3_000, 'three of its nodes and the frontend fit at tokyo')
  t.equal(earliestStart(wanted, sites, 'tokyo', 0, 2_999), null)
  t.equal(earliestStart({ ...wanted, nodes: { ...wanted.nodes, count: 3 } }, sites, 'tokyo', 0), 1_000)
  t.equal(earliestStart(wanted, sites, 'tokyo', 5_000), 5_000)
  t.equal(nearestCount(wanted, inWindow(sites, 1_000, 1_100), 'tokyo'), 3)
  t.equal(nearestCount(wanted, inWindow(sites, 0, 100), 'tokyo'), 0)
  t.equal(nearestText(wanted, 3, 3_000), '3 of 4 nodes would fit in that time; all of it would fit from 1970-01-01T00:00:03Z on')
  t.equal(nearestText(wanted, 0, null), '')
  // one host has room for all of it again and again, and the other takes its share late only
  const waves = Array.from({ length: 600 }, (_, i): FreeStep => ({ atMs: i * 200, free: i % 2 === 0 ? zero() : roomy }))
  const two = { ...site('tokyo', waves, ['compute']), calendar: [{ host: '1', roles: ['compute', 'gateway'], steps: waves }, { host: '2', roles: ['compute'], steps: from(118_000) }] }
  const apart = { ...wanted, nodes: { ...wanted.nodes, count: 2 }, volumes: [], placement: { maxNodesPerHost: 1 } }
  t.equal(earliestStart(apart, [two], 'tokyo', 0), 118_200, 'what terms do not allow takes no tries')
  const shut = { ...site('nara', waves, ['compute', 'gateway']) }
  const own = site('tokyo', from(118_000), ['gateway', 'compute'])
  t.equal(earliestStart({ ...apart, placement: { notSites: ['nara'] } }, [own, shut], 'tokyo', 0), 118_000)
  t.equal(earliestStart({ ...apart, placement: { onlySites: ['tokyo'] } }, [own, shut], 'tokyo', 0), 118_000)
  const told = [{ ...sites[0], site: 'tokyo', freeByHost: [roomy], volumeFreeByHost: [500], calendar: null }]
  t.equal(earliestStart({ ...wanted, nodes: { ...wanted.nodes, count: 3 }, volumes: [] }, told, 'tokyo', 7), 7, 'a site without a calendar is taken to stay as it is')
  t.equal(earliestStart(wanted, told, 'tokyo', 7), null)
  t.end()
})
