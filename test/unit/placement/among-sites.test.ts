/** Among sites: what the terms forbid, what they prefer, and the reason of each choice. */
import fc from 'fast-check'
import t from 'tap'
import { type Resources, zero } from '../../../protocol/core/capacity.ts'
import { placeAmongSites, type Placed } from '../../../protocol/core/placement/among-sites.ts'
import type { SiteCapacity } from '../../../protocol/core/placement/site-capacity.ts'
import type { PlacementTerms } from '../../../protocol/core/placement/terms.ts'
import { spec } from '../../model/fixtures.ts'

const IMAGE = `sha256:${'ab'.repeat(32)}`
const room = (nodes: number): Resources => ({ ...zero(), vcpus: nodes, memoryMib: nodes * 768 })
const site = (name: string, hosts: readonly number[], facts: Partial<SiteCapacity> = {}): SiteCapacity => ({ site: name, freeByHost: hosts.map(room), volumeFreeByHost: [], gateway: { free: room(1) }, ...facts })
const wanted = (count: number, placement?: PlacementTerms, volumes: Array<{ name: string, sizeMiB: number, node: number }> = []): ReturnType<typeof spec> =>
  spec({ nodes: { count, vcpus: 1, memoryMiB: 768 }, volumes, ...placement === undefined ? {} : { placement } })

function placed (outcome: ReturnType<typeof placeAmongSites>): Placed {
  if ('refusal' in outcome) throw new Error(outcome.refusal)
  return outcome
}
const counts = (outcome: ReturnType<typeof placeAmongSites>): Record<string, number> => Object.fromEntries(placed(outcome).parts.map(part => [part.site, part.nodes.length]))

t.test('each choice and each site left out has its reason', t => {
  const sites = [
    site('tokyo', [2]), site('osaka', [4], { priceMilli: 2000, rttMs: 8 }), site('kyoto', [4], { priceMilli: 1500, rttMs: 12.5 }), site('nara', [9], { priceMilli: 9000, rttMs: 1 }),
    site('ueno', [9], { rttMs: 40, priceMilli: 0 }), site('kobe', [9], { priceMilli: 0 }), site('full', [0], { priceMilli: 0, rttMs: 2 }), site('none', [], { priceMilli: 0, rttMs: 2 }), site('dear', [9], { rttMs: 2 }), site('bad', [9], { rttMs: 99, priceMilli: 7000 })
  ]
  const outcome = placed(placeAmongSites(wanted(5, { maxRttMs: 20, maxPriceMilli: 5000, notSites: ['nara'] }), sites, 'tokyo'))
  t.strictSame(outcome.why, [
    'tokyo: 2 nodes, 0 of them with volumes and the frontend (master); the master\'s own, which comes first',
    'kyoto: 3 nodes, 0 of them with volumes; as few sites as possible; price 1.5, RTT 12.5 ms'
  ])
  t.strictSame(outcome.left.map(({ site: name, reason }) => `${name}: ${reason}`), [
    'bad: its RTT of 99 ms is above 20 ms; its price of 7 per vCPU and hour is above 5',
    'dear: its price is not known, 5 is the most',
    'full: a node needs 1 vCPU, 0 free; needs 768 MiB memory, 0 free on its largest host',
    'kobe: its RTT is not known, 20 ms is the most',
    'nara: it is to have no nodes; its price of 9 per vCPU and hour is above 5',
    'none: no compute host takes leases',
    'osaka: not needed: it could take 4 nodes; price 2, RTT 8 ms',
    'ueno: its RTT of 40 ms is above 20 ms'
  ])
  const refused = placeAmongSites(wanted(9, { onlySites: ['osaka', 'kyoto'], maxNodesPerSite: 3 }), sites.slice(0, 4), 'tokyo')
  t.match(refused, { refusal: /^no room for 3 of 9 nodes/, missing: [
    'kyoto: takes 3 of 9 nodes; it has 3 nodes, the most that the cluster allows at one site', 'nara: nodes are for osaka, kyoto only',
    'osaka: takes 3 of 9 nodes; it has 3 nodes, the most that the cluster allows at one site', 'tokyo: nodes are for osaka, kyoto only'
  ] })
  t.end()
})

t.test('of sites that do as well: the image, then the price, then the RTT, then the name', t => {
  const other = (facts: Record<string, Partial<SiteCapacity>>, terms?: PlacementTerms): string | undefined =>
    Object.keys(counts(placeAmongSites(wanted(3, terms), [site('tokyo', [0]), ...Object.entries(facts).map(([name, of]) => site(name, [3], of))], 'tokyo', IMAGE))).at(-1)
  t.equal(other({ b: {}, a: {} }), 'a')
  t.equal(other({ a: { priceMilli: 1, rttMs: 9 }, b: { priceMilli: 1, rttMs: 3 } }), 'b')
  t.equal(other({ a: { rttMs: 3 }, b: { priceMilli: 5, rttMs: 9 } }), 'b', 'a price that is not known comes last')
  t.equal(other({ a: { priceMilli: 0, rttMs: 3 }, b: { priceMilli: 5, rttMs: 9, warmImages: ['sha256:0', IMAGE] } }), 'b')
  t.equal(other({ a: { priceMilli: 0, rttMs: 3 }, b: { priceMilli: 5, rttMs: 9, warmImages: [IMAGE] } }, { preferWarmCache: false }), 'a')
  t.strictSame(counts(placeAmongSites(wanted(6), [site('tokyo', [1]), site('a', [2], { priceMilli: 1 }), site('b', [3], { priceMilli: 2 }), site('c', [3], { priceMilli: 3 }), site('d', [1], { priceMilli: 0 })], 'tokyo')), { tokyo: 1, a: 2, b: 3 }, 'the best of the smallest sets')
  t.end()
})

t.test('one site first, most sites, limits for hosts and sites', t => {
  const sites = [site('tokyo', [2, 2]), site('osaka', [3, 3], { priceMilli: 2 }), site('kyoto', [9], { priceMilli: 3 })]
  t.strictSame(counts(placeAmongSites(wanted(6), sites, 'tokyo')), { tokyo: 4, osaka: 2 })
  t.strictSame(counts(placeAmongSites(wanted(6, { oneSiteFirst: true }), sites, 'tokyo')), { tokyo: 0, osaka: 6 })
  t.strictSame(counts(placeAmongSites(wanted(4, { oneSiteFirst: true }), sites, 'tokyo')), { tokyo: 4 })
  t.strictSame(counts(placeAmongSites(wanted(16, { oneSiteFirst: true }), sites, 'tokyo')), { tokyo: 4, osaka: 6, kyoto: 6 }, 'a wish, not a condition')
  t.strictSame(counts(placeAmongSites(wanted(7, { mostSites: true }), sites, 'tokyo')), { tokyo: 3, osaka: 2, kyoto: 2 })
  t.strictSame(counts(placeAmongSites(wanted(13, { mostSites: true }), sites, 'tokyo')), { tokyo: 4, osaka: 5, kyoto: 4 })
  t.strictSame(counts(placeAmongSites(wanted(4, { maxNodesPerHost: 1 }), sites, 'tokyo')), { tokyo: 2, osaka: 2 })
  t.match(placeAmongSites(wanted(6, { maxNodesPerHost: 1 }), sites, 'tokyo'), { refusal: /no room for 1 of 6 nodes/, missing: [/^kyoto: takes 1 of 6.*at most 1 on a host\)$/, /^osaka: takes 2/, /^tokyo: takes 2/] })
  t.strictSame(counts(placeAmongSites(wanted(6, { maxNodesPerSite: 2 }), sites, 'tokyo')), { tokyo: 2, osaka: 2, kyoto: 2 })
  t.strictSame(counts(placeAmongSites(wanted(3, { notSites: ['tokyo'] }), sites, 'tokyo')), { tokyo: 0, osaka: 3 }, 'the master\'s site has the frontend all the same')
  t.end()
})

t.test('volumes stay beside their nodes, also over most sites', t => {
  const sites = [site('tokyo', [4], { volumeFreeByHost: [100] }), site('osaka', [4], { volumeFreeByHost: [50] }), site('kyoto', [4])]
  const volumes = [{ name: 'a', sizeMiB: 60, node: 1 }, { name: 'b', sizeMiB: 40, node: 2 }]
  const outcome = placed(placeAmongSites(wanted(5, { mostSites: true }, volumes), sites, 'tokyo'))
  t.strictSame(outcome.parts.map(part => [part.site, part.nodes.length, part.volumes.map(v => `${v.name} ${v.node}`)]), [
    ['tokyo', 2, ['a demo-tokyo-001']], ['osaka', 1, ['b demo-osaka-002']], ['kyoto', 2, []]
  ])
  t.strictSame(counts(placeAmongSites(wanted(5, { mostSites: true }, [{ name: 'a', sizeMiB: 60, node: 1 }, { name: 'b', sizeMiB: 60, node: 1 }, { name: 'c', sizeMiB: 40, node: 2 }]), [site('tokyo', [4], { volumeFreeByHost: [100, 60] }), ...sites.slice(1)], 'tokyo')), { tokyo: 2, osaka: 1, kyoto: 2 })
  t.strictSame(counts(placeAmongSites(wanted(2, { oneSiteFirst: true }, volumes), sites, 'tokyo')), { tokyo: 2 })
  t.end()
})

t.test('bandwidth is asked of both ends, and reserved where the cluster spans sites', t => {
  const sites = (own: number): SiteCapacity[] => [site('tokyo', [2], { wanFreeMbit: own }), site('osaka', [4], { wanFreeMbit: 400, rttMs: 1 }), site('kyoto', [4], { wanFreeMbit: 1000 }), site('nara', [4])]
  const outcome = placed(placeAmongSites(wanted(3, { minBandwidthMbit: 500 }), sites(600), 'tokyo'))
  t.strictSame(outcome.parts.map(part => [part.site, part.bandwidthMbit]), [['tokyo', 500], ['kyoto', 500]])
  t.strictSame(outcome.left.map(one => one.reason), ['the bandwidth of its WAN is not known, 500 Mbit/s are needed', 'its WAN has 400 Mbit/s free, 500 are needed'])
  t.strictSame(placed(placeAmongSites(wanted(2, { minBandwidthMbit: 500 }), sites(600), 'tokyo')).parts.map(part => part.bandwidthMbit), [undefined], 'inside one site nothing is needed')
  t.match(placeAmongSites(wanted(3, { minBandwidthMbit: 500 }), sites(100), 'tokyo'), { missing: ['kyoto: the WAN of the master\'s site tokyo has 100 Mbit/s free, 500 are needed', /^nara/, /^osaka: its WAN has 400/, /^tokyo: takes 2/] })
  t.end()
})

/** The smallest number of further sites that take the rest, by trying every set. */
function fewestByTrying (rest: number, slots: readonly number[]): number {
  let best = Infinity
  for (let set = 0; set < 1 << slots.length; set++) {
    const picked = slots.filter((_, i) => (set >> i & 1) === 1)
    if (picked.reduce((a, b) => a + b, 0) >= rest) best = Math.min(best, picked.length)
  }
  return best
}

const anySites = fc.array(fc.record({ hosts: fc.array(fc.nat(4), { maxLength: 3 }), priceMilli: fc.nat(2), rttMs: fc.option(fc.nat(2), { nil: undefined }), warm: fc.boolean() }), { minLength: 1, maxLength: 7 })
const anyTerms = fc.record({ maxNodesPerHost: fc.option(fc.integer({ min: 1, max: 3 }), { nil: undefined }), maxNodesPerSite: fc.option(fc.integer({ min: 1, max: 6 }), { nil: undefined }), maxRttMs: fc.option(fc.nat(2), { nil: undefined }), maxPriceMilli: fc.option(fc.nat(2), { nil: undefined }), mostSites: fc.boolean(), oneSiteFirst: fc.boolean(), notSites: fc.option(fc.constantFrom(['s1'], ['s0']), { nil: undefined }) })

t.test('plain nodes: placed exactly when the terms leave room, on the fewest sites or evenly, the same for any order', t => {
  const seen = { placed: 0, refused: 0, fewest: 0, most: 0 }
  const defined = (of: object): PlacementTerms => Object.fromEntries(Object.entries(of).filter(([, value]) => value !== undefined))
  fc.assert(fc.property(anySites, anyTerms, fc.integer({ min: 1, max: 9 }), (given, loose, count) => {
    const terms = defined(loose)
    const sites = given.map(({ hosts, priceMilli, rttMs, warm }, i) => site(`s${i}`, hosts, { priceMilli, ...rttMs === undefined ? {} : { rttMs }, ...warm ? { warmImages: [IMAGE] } : {} }))
    const outcome = placeAmongSites(wanted(count, terms), sites, 's0', IMAGE)
    t.strictSame(placeAmongSites(wanted(count, terms), sites.toReversed(), 's0', IMAGE), outcome)
    const slots = given.map(({ hosts, priceMilli, rttMs }, i) => {
      const ruledOut = terms.notSites?.includes(`s${i}`) === true || (i > 0 && ((terms.maxRttMs !== undefined && (rttMs ?? Infinity) > terms.maxRttMs) || (terms.maxPriceMilli !== undefined && priceMilli > terms.maxPriceMilli)))
      return ruledOut ? 0 : Math.min(terms.maxNodesPerSite ?? Infinity, hosts.reduce((sum, n) => sum + Math.min(n, terms.maxNodesPerHost ?? Infinity), 0))
    })
    const possible = slots.reduce((a, b) => a + b, 0) >= count
    t.equal('parts' in outcome, possible)
    if ('refusal' in outcome) {
      seen.refused++
      t.strictSame(outcome.missing.map(line => line.split(':')[0]), sites.map(one => one.site), 'each site says why')
      return
    }
    seen.placed++
    t.equal(outcome.parts.length + outcome.left.length, sites.length, 'each site has a part, or a reason')
    t.ok(outcome.why.length === outcome.parts.length && outcome.left.every(one => one.reason !== ''))
    t.equal(new Set(outcome.parts.flatMap(part => part.nodes.map(n => n.name.slice(-3)))).size, count)
    for (const part of outcome.parts) t.ok(part.nodes.length <= (slots[Number(part.site.slice(1))] ?? 0), 'within what the site may take')
    const others = outcome.parts.filter(part => part.nodes.length > 0 && part.site !== 's0').length
    if (terms.oneSiteFirst === true && slots.some(n => n >= count)) t.equal(outcome.parts.filter(part => part.nodes.length > 0).length, 1)
    else if (terms.mostSites === true) {
      seen.most++
      let level = 1
      while (slots.reduce((sum, n) => sum + Math.min(n, level), 0) < count) level++
      t.equal(Math.max(...outcome.parts.map(part => part.nodes.length)), level, 'evenly')
    } else {
      seen.fewest++
      t.equal(others, fewestByTrying(count - Math.min(count, slots[0] ?? 0), slots.slice(1)))
    }
  }), { numRuns: 600 })
  t.ok(Object.values(seen).every(n => n > 10), JSON.stringify(seen))
  t.end()
})
