/** Inside a site: pack and spread, at most so many on a host, and what is said when not all fit. */
import fc from 'fast-check'
import t from 'tap'
import { type Resources, fits, subtract, timesFitting } from '../../../protocol/core/capacity.ts'
import { type HostCapacity, type SiteRequest, placeAtSite } from '../../../protocol/core/placement/at-site.ts'
import { NOWHERE } from '../../../protocol/core/placement/packing.ts'
import { placeMost } from '../../../protocol/core/placement/place-most.ts'
import { instances } from '../../bench/placement-instances.ts'

const r = (vcpus: number, memoryMib: number, diskMib = 0): Resources => ({ vcpus, memoryMib, diskMib, volumes: 0, bandwidthMbit: 0 })
const host = (name: string, vcpus: number, memoryMib = vcpus * 1024): HostCapacity => ({ host: name, roles: ['compute'], free: r(vcpus, memoryMib) })
const nodes = (count: number, vcpus = 1, memoryMib = 1024): SiteRequest['nodes'] => Array.from({ length: count }, (_, i) => ({ name: `n${String(i + 1).padStart(3, '0')}`, vcpus, memoryMib }))
const ask = (count: number, more: Partial<SiteRequest> = {}): SiteRequest => ({ nodes: nodes(count), volumes: [], frontend: false, ...more })

function perHost (placed: ReturnType<typeof placeAtSite>): Record<string, number> {
  if ('refusal' in placed) throw new Error(placed.refusal)
  const counts: Record<string, number> = {}
  for (const one of placed.assignments) counts[one.host] = (counts[one.host] ?? 0) + 1
  return counts
}

t.test('pack fills as few hosts as possible, spread takes all of them evenly', t => {
  const hosts = [host('a', 2), host('b', 6), host('c', 3)]
  t.strictSame(perHost(placeAtSite(ask(5), hosts)), { b: 5 })
  t.strictSame(perHost(placeAtSite(ask(7), hosts)), { a: 1, b: 6 }, 'what is left goes to the first that takes it')
  t.strictSame(perHost(placeAtSite(ask(6, { spread: true }), hosts)), { a: 2, b: 2, c: 2 })
  t.strictSame(perHost(placeAtSite(ask(9, { spread: true }), hosts)), { a: 2, b: 4, c: 3 })
  t.end()
})

t.test('growth: pack goes where the cluster is, spread where it is not, and nodes that are there count', t => {
  const hosts = [host('a', 4), host('b', 2), host('c', 4)]
  const taken = new Map([['b', 1]])
  t.strictSame(perHost(placeAtSite(ask(2), hosts, taken)), { b: 2 })
  t.strictSame(perHost(placeAtSite(ask(2, { spread: true }), hosts, taken)), { a: 1, c: 1 })
  t.strictSame(perHost(placeAtSite(ask(3, { maxNodesPerHost: 2 }), hosts, taken)), { a: 2, b: 1 })
  t.match(placeAtSite(ask(6, { maxNodesPerHost: 2 }), hosts, taken), {
    refusal: /^1 of 6 parts do not fit \(6 vCPU, 6144 MiB memory wanted in all; 5 of 6 nodes would fit\)/,
    missing: ['node n006: each of 3 compute hosts has 2 nodes of the cluster, the most that it allows'], fitting: ['n001', 'n002', 'n003', 'n004', 'n005']
  })
  t.end()
})

t.test('a limit for hosts and what hosts lack are told apart', t => {
  t.match(placeAtSite(ask(3, { maxNodesPerHost: 1 }), [host('a', 8), host('b', 8), host('c', 0)]), {
    missing: ['node n003: needs 1 vCPU, 0 free; needs 1024 MiB memory, 0 free on c, the nearest of the 1 of 3 compute hosts that have not 1 nodes of the cluster'], fitting: ['n001', 'n002']
  })
  const many = placeAtSite(ask(50), [host('a', 1)])
  t.equal('missing' in many && many.missing.length, 49, 'every part is named')
  t.equal('missing' in many && many.missing.at(-1), 'node n050: no room either')
  t.end()
})

t.test('what a greedy packing leaves out is fitted in by moves and swaps', t => {
  // 20 into two hosts of 10: only 6+2+2 and 5+5 will do
  const needs = [6, 5, 5, 2, 2].map(n => r(n, n))
  const at = placeMost(needs, [{ free: r(10, 10), taken: 0 }, { free: r(10, 10), taken: 0 }], { rule: 'pack', maxPerBin: Infinity })
  t.notOk(at.includes(NOWHERE))
  // two dimensions that greedy rules by one figure strand
  const planted = [r(9, 1), r(8, 2), r(1, 9), r(2, 8), r(7, 3), r(3, 7), r(5, 5), r(5, 5)]
  t.notOk(placeMost(planted, Array.from({ length: 4 }, () => ({ free: r(10, 10), taken: 0 })), { rule: 'pack', maxPerBin: Infinity }).includes(NOWHERE))
  t.end()
})

t.test('where nothing fits anywhere, and where one bin is all there is, it ends', t => {
  const bins = (...sizes: number[]): Array<{ free: Resources, taken: number }> => sizes.map(n => ({ free: r(n, n), taken: 0 }))
  const terms = { rule: 'pack', maxPerBin: Infinity } as const
  t.strictSame([...placeMost([r(6, 6), r(7, 7)], bins(5, 5), terms)], [NOWHERE, NOWHERE], 'in sum there is room for one')
  t.equal(placeMost([r(9, 1), r(1, 9), r(5, 4), r(4, 5), r(3, 3)], bins(10), terms).filter(b => b !== NOWHERE).length, 2)
  t.end()
})

t.test('many of different sizes: the same answer each time, with and without a limit for hosts', t => {
  const needs = Array.from({ length: 40 }, (_, i) => r(1 + (i * 7919) % 13, 1024 * (1 + (i * 104729) % 17)))
  const bins = Array.from({ length: 6 }, (_, b) => ({ free: r(40 + b, 1024 * (52 - b)), taken: b % 2 }))
  for (const [maxPerBin, least] of [[Infinity, 37], [6, 33]] as const) {
    const at = placeMost(needs, bins, { rule: 'pack', maxPerBin })
    t.strictSame(placeMost(needs, bins, { rule: 'pack', maxPerBin }), at)
    t.ok(at.filter(b => b !== NOWHERE).length >= least, 'of these a first packing leaves out more')
    for (const [b, { free, taken }] of bins.entries()) {
      const mine = needs.filter((_, i) => at[i] === b)
      t.ok(fits(mine.reduce((all, one) => ({ ...all, vcpus: all.vcpus + one.vcpus, memoryMib: all.memoryMib + one.memoryMib }), r(0, 0)), free), 'not overcommitted')
      t.ok(mine.length + taken <= maxPerBin, 'not crowded')
    }
  }
  t.end()
})

t.test('the hundred instances of the benchmark: as many are placed as ever', t => {
  const placed = instances().map(({ hosts, vms }) => placeMost(vms, hosts.map(free => ({ free, taken: 0 })), { rule: 'pack', maxPerBin: Infinity }).filter(b => b !== NOWHERE).length)
  t.ok(placed.reduce((a, b) => a + b, 0) >= 3836)
  t.end()
})

const resources = (vcpus: number, memory: number): fc.Arbitrary<Resources> => fc.record({ vcpus: fc.nat(vcpus), memoryMib: fc.nat(memory), diskMib: fc.constant(0), volumes: fc.constant(0), bandwidthMbit: fc.constant(0) })
const anyHosts = fc.array(fc.record({ free: resources(8, 8), taken: fc.nat(2) }), { minLength: 1, maxLength: 6 })
const anyNodes = fc.array(fc.record({ vcpus: fc.integer({ min: 1, max: 4 }), memoryMib: fc.integer({ min: 1, max: 4 }) }), { minLength: 1, maxLength: 10 })

t.test('whatever is asked: no host overcommitted, no limit broken, the same for any order, most of what can be placed', t => {
  const seen = { placed: 0, refused: 0 }
  fc.assert(fc.property(anyHosts, anyNodes, fc.boolean(), fc.nat(3), (hosts, wanted, spread, maxNodesPerHost) => {
    const named = hosts.map(({ free }, h): HostCapacity => ({ host: `h${h}`, roles: ['compute'], free }))
    const taken = new Map(hosts.map((one, h) => [`h${h}`, one.taken]))
    const request = { nodes: wanted.map((one, i) => ({ name: `n${i}`, ...one })), volumes: [], frontend: false, spread, maxNodesPerHost }
    const placed = placeAtSite(request, named, taken)
    t.strictSame(placeAtSite({ ...request, nodes: request.nodes.toReversed() }, named.toReversed(), new Map([...taken].reverse())), placed)
    if ('refusal' in placed) {
      seen.refused++
      t.equal(placed.missing.length + placed.fitting.length, wanted.length, 'each node fits or is named')
      return
    }
    seen.placed++
    t.equal(placed.assignments.length, wanted.length)
    for (const [h, { free, taken: before }] of hosts.entries()) {
      const mine = placed.assignments.filter(one => one.host === `h${h}`)
      const left = mine.reduce((rest, one) => subtract(rest, one.resources), free)
      t.ok(fits(r(0, 0), left), 'not overcommitted')
      if (maxNodesPerHost > 0 && mine.length > 0) t.ok(mine.length + before <= maxNodesPerHost, 'not crowded')
    }
  }), { numRuns: 400 })
  t.ok(seen.placed > 50 && seen.refused > 50, 'both outcomes were tried')
  t.end()
})

t.test('nodes alike: placed exactly when they fit, packed on the fewest hosts, spread with the least maximum', t => {
  fc.assert(fc.property(fc.array(fc.nat(6), { minLength: 1, maxLength: 6 }), fc.integer({ min: 1, max: 12 }), fc.nat(4), (slots, count, limit) => {
    const hosts = slots.map((n, h) => host(`h${h}`, n))
    const able = slots.map(n => limit === 0 ? n : Math.min(n, limit))
    const total = able.reduce((a, b) => a + b, 0)
    const packed = placeAtSite(ask(count, { maxNodesPerHost: limit }), hosts)
    const even = placeAtSite(ask(count, { maxNodesPerHost: limit, spread: true }), hosts)
    t.equal('assignments' in packed, total >= count)
    t.equal('assignments' in even, total >= count)
    if ('refusal' in packed || 'refusal' in even) {
      t.equal('fitting' in packed ? packed.fitting.length : -1, total, 'as many as fit are counted')
      return
    }
    let fewest = 0
    for (let rest = count, sorted = able.toSorted((a, b) => b - a); rest > 0; rest -= sorted[fewest++] ?? 0);
    t.equal(Object.keys(perHost(packed)).length, fewest)
    let level = 1
    while (able.reduce((sum, n) => sum + Math.min(n, level), 0) < count) level++
    t.equal(Math.max(...Object.values(perHost(even))), level)
  }), { numRuns: 400 })
  t.end()
})

/** Most items of one bin count that can be placed, by trying everything. */
function brute (needs: readonly Resources[], free: readonly Resources[], from = 0): number {
  const need = needs[from]
  if (need === undefined) return 0
  let best = brute(needs, free, from + 1)
  for (const [b, one] of free.entries()) if (fits(need, one)) best = Math.max(best, 1 + brute(needs, free.with(b, subtract(one, need)), from + 1))
  return best
}

t.test('small instances: nearly always as many as trying everything finds', t => {
  let [own, best] = [0, 0]
  fc.assert(fc.property(fc.array(resources(8, 8), { minLength: 1, maxLength: 3 }), fc.array(fc.record({ vcpus: fc.integer({ min: 1, max: 5 }), memoryMib: fc.integer({ min: 1, max: 5 }), diskMib: fc.nat(2), volumes: fc.constant(0), bandwidthMbit: fc.constant(0) }), { minLength: 1, maxLength: 7 }), (free, needs) => {
    const bins = free.map(one => ({ ...one, diskMib: 4 }))
    const most = brute(needs, bins)
    const placed = placeMost(needs, bins.map(one => ({ free: one, taken: 0 })), { rule: 'pack', maxPerBin: Infinity }).filter(b => b !== NOWHERE).length
    t.ok(placed <= most)
    own += placed
    best += most
  }), { numRuns: 300, seed: 11 })
  t.ok(own >= 0.99 * best, `${own} of ${best}`)
  t.end()
})

t.test('a thousand hosts and two hundred nodes of as many sizes end in bounded steps, whether they fit or not', t => {
  const hosts = Array.from({ length: 1000 }, (_, h) => host(`h${h}`, 1 + (h * 7919) % 64, 1024 * (1 + (h * 104729) % 128)))
  for (const scale of [1, 40]) {
    const request = { nodes: Array.from({ length: 200 }, (_, i) => ({ name: `n${i}`, vcpus: scale + i % 13, memoryMib: 1024 * (scale + i % 17) })), volumes: [], frontend: false }
    const from = performance.now()
    const placed = placeAtSite(request, hosts)
    const ms = performance.now() - from
    t.ok(ms < 2000, `${Math.round(ms)} ms, some 5 on a quiet machine`)
    const slots = hosts.reduce((sum, one) => sum + timesFitting(r(scale + 12, 1024 * (scale + 16)), one.free), 0)
    if (slots >= 200) t.ok('assignments' in placed)
  }
  t.end()
})
