/** `spec.placement` of a cluster: read, negotiated, held to at gateways, and obeyed by growth. */
import t, { type Test } from 'tap'
import { zero } from '../../../protocol/core/capacity.ts'
import { InvalidInputError } from '../../../protocol/core/errors.ts'
import { placeGrowth } from '../../../protocol/core/master/changes/growth.ts'
import type { MasterRecord } from '../../../protocol/core/master/record.ts'
import type { SiteCapacity } from '../../../protocol/core/placement/site-capacity.ts'
import type { PlacementTerms } from '../../../protocol/core/placement/terms.ts'
import { parseClusterSpec } from '../../../protocol/core/spec.ts'
import { decode, encode } from '../../../protocol/wire/codec.ts'
import { eventually, host, startFederation, wanted, type FederationModel } from '../../model/federation.ts'
import { spec } from '../../model/fixtures.ts'

const withPlacement = (name: string, count: number, placement: object): object => {
  const { spec: inner, ...rest } = wanted(name, count) as { spec: object }
  return { ...rest, spec: { ...inner, placement } }
}
function problems (placement: object, count = 4): string[] {
  try {
    parseClusterSpec(withPlacement('demo', count, placement))
  } catch (error) {
    if (error instanceof InvalidInputError) return error.message.split('\n').slice(1)
    throw error
  }
  return []
}

t.test('terms are read, and what contradicts itself is named', t => {
  t.equal('placement' in parseClusterSpec(wanted('demo', 1)), false, 'nothing asked, nothing kept')
  t.strictSame(parseClusterSpec(withPlacement('demo', 4, {
    hosts: 'spread', maxNodesPerHost: 2, sites: 'most', maxNodesPerSite: 3, onlySites: ['b', 'a', 'c'], notSites: ['c'], maxRttMs: 12.5, maxPrice: 0.29, minBandwidthMbit: 100, preferWarmCache: false
  })).placement, { spread: true, maxNodesPerHost: 2, mostSites: true, maxNodesPerSite: 3, onlySites: ['a', 'b'], notSites: ['c'], maxRttMs: 12.5, maxPriceMilli: 290, minBandwidthMbit: 100, preferWarmCache: false })
  t.strictSame(parseClusterSpec(withPlacement('demo', 4, { hosts: 'pack', sites: 'fewest', oneSiteFirst: true, preferWarmCache: true })).placement, { oneSiteFirst: true })
  t.strictSame(problems({ hosts: 'tight', sites: 'all', onlySites: ['Tokyo', 'a'], notSites: ['a', 'Tokyo'] }), [
    'spec.placement.hosts: must be pack or spread, not "tight"', 'spec.placement.sites: must be fewest or most, not "all"',
    'spec.placement.onlySites[0]: "Tokyo" is no name of a site', 'spec.placement.notSites[1]: "Tokyo" is no name of a site', 'spec.placement.onlySites: notSites names all of them, so no site is left'
  ])
  t.strictSame(problems({ maxNodesPerSite: 1, onlySites: ['a', 'b'], oneSiteFirst: true, sites: 'most' }), [
    'spec.placement.maxNodesPerSite: 4 nodes do not go on 2 sites of 1 each', 'spec.placement.oneSiteFirst: contradicts sites: most; leave one of them out',
    'spec.placement.oneSiteFirst: contradicts maxNodesPerSite: 1, as there are 4 nodes; leave one of them out'
  ])
  t.strictSame(problems({ maxNodesPerSite: 1 }, 65), ['spec.placement.maxNodesPerSite: 65 nodes do not go on 64 sites of 1 each, and a cluster spans at most 64'])
  t.strictSame(problems({ maxRtMs: 3, maxNodesPerHost: 0 }), ['spec.placement.maxRtMs: unknown field; did you mean "maxRttMs"?', 'spec.placement.maxNodesPerHost: must be >= 1, not 0'])
  t.end()
})

const PLANS = [host('tokyo', 1, 'gateway compute', 5), host('tokyo', 2, 'compute', 4), host('tsukuba', 1, 'gateway', 1), host('tsukuba', 2, 'compute', 4), host('tsukuba', 3, 'compute', 4)]

async function federation (t: Test, plans = PLANS): Promise<FederationModel> {
  const model = await startFederation(plans)
  t.teardown(() => model.stop())
  return model
}
function nodesByHost (model: FederationModel, id: string): Record<string, number> {
  const counts: Record<string, number> = {}
  for (const node of model.master('tokyo-1').get(id).nodes) counts[node.host] = (counts[node.host] ?? 0) + 1
  return counts
}

t.test('at most one node on a host: at creation, in growth, and when no host is left', async t => {
  const model = await federation(t)
  const { id } = await model.master('tokyo-1').create(withPlacement('demo', 3, { maxNodesPerHost: 1 }))
  await eventually('the leases', () => model.master('tokyo-1').get(id).state === 'building')
  t.strictSame(nodesByHost(model, id), { 'tokyo-1': 1, 'tokyo-2': 1, 'tsukuba-2': 1 })
  await model.master('tokyo-1').scale('demo', 4)
  t.strictSame(nodesByHost(model, id), { 'tokyo-1': 1, 'tokyo-2': 1, 'tsukuba-2': 1, 'tsukuba-3': 1 }, 'growth goes where none is')
  await t.rejects(model.master('tokyo-1').scale('demo', 5), { code: 'NO_CAPACITY' })
  t.equal(model.master('tokyo-1').get(id).nodes.length, 4, 'and nothing is kept of what did not fit')
})

t.test('spread over hosts and most sites, where pack takes one host', async t => {
  const model = await federation(t, [host('tokyo', 1, 'gateway compute', 6), ...PLANS.slice(1)])
  const packed = await model.master('tokyo-1').create(wanted('packed', 3))
  await eventually('the leases', () => model.master('tokyo-1').get(packed.id).state === 'building')
  t.equal(Object.keys(nodesByHost(model, packed.id)).length, 1)
  const even = await model.master('tokyo-1').create(withPlacement('even', 4, { hosts: 'spread', sites: 'most' }))
  await eventually('the leases', () => model.master('tokyo-1').get(even.id).state === 'building')
  t.strictSame(Object.entries(nodesByHost(model, even.id)).filter(([name]) => name.startsWith('tsukuba')).sort(), [['tsukuba-2', 1], ['tsukuba-3', 1]])
})

t.test('a limit of the RTT: gateways that nobody has measured are asked, and left out when they do not answer', async t => {
  const model = await federation(t)
  const { id } = await model.master('tokyo-1').create(withPlacement('near', 3, { maxRttMs: 60_000, notSites: ['tokyo'] }))
  await eventually('the leases', () => model.master('tokyo-1').get(id).state === 'building')
  t.ok(model.master('tokyo-1').get(id).nodes.every(node => node.site === 'tsukuba'))
  model.fate = ({ to, method }) => to === 'tsukuba-1' && method === 'status' ? 'lose request' : 'deliver'
  const far = await model.master('tokyo-1').create(withPlacement('far', 5, { maxRttMs: 60_000, notSites: ['tokyo'] }))
  await eventually('the end', () => model.master('tokyo-1').get(far.id).state === 'failed')
  t.match(model.master('tokyo-1').get(far.id).error?.message, /tsukuba: its RTT is not known, 60000 ms is the most/)
})

t.test('a gateway of a release that knows no limit is found out, and its site left out', async t => {
  const model = await federation(t, [host('tokyo', 1, 'gateway compute', 2), host('tsukuba', 1, 'gateway', 1), host('tsukuba', 2, 'compute', 4), host('tsukuba', 3, 'compute', 4)])
  // what an earlier release makes of the question: it does not see what it does not know
  model.fate = ({ to, method, request }) => {
    if (to === 'tsukuba-1' && method === 'request') delete (request as { maxNodesPerHost?: number }).maxNodesPerHost
    return 'deliver'
  }
  const { id } = await model.master('tokyo-1').create(withPlacement('demo', 3, { maxNodesPerHost: 1 }))
  await eventually('the end', () => model.master('tokyo-1').get(id).state === 'failed')
  t.match(model.master('tokyo-1').get(id).error?.message, /site tsukuba offered 2 nodes on host tsukuba-2, 1 is the most that the cluster allows/)
  await eventually('nothing is kept', () => model.leases().length === 0)
})

const room = (nodes: number): SiteCapacity['freeByHost'][number] => ({ ...zero(), vcpus: nodes, memoryMib: nodes * 768 })
const site = (name: string, hosts: readonly number[], facts: Partial<SiteCapacity> = {}): SiteCapacity => ({ site: name, freeByHost: hosts.map(room), volumeFreeByHost: [], ...facts })
/** A cluster with a node at each of these hosts. */
function running (placement: PlacementTerms, on: ReadonlyArray<[site: string, host: string]>): MasterRecord {
  const held = (at: string): object[] => on.filter(([name]) => name === at).map(([, name]) => ({ kind: 'node', host: name }))
  return {
    name: 'demo', masterSite: 'tokyo', imageDigest: '', spec: spec({ nodes: { count: on.length, vcpus: 1, memoryMiB: 768 }, placement }),
    document: { nodes: on.map(([name], i) => ({ site: name, index: i + 1 })) }, offers: [...new Set(on.map(([name]) => name))].map(name => ({ site: name, held: held(name) }))
  } as unknown as MasterRecord
}
function grown (outcome: ReturnType<typeof placeGrowth>): Record<string, number> {
  if ('refusal' in outcome) throw new Error([outcome.refusal, ...outcome.missing].join('\n'))
  return Object.fromEntries(outcome.parts.map(part => [part.site, part.nodes.length]))
}

t.test('growth obeys the terms, counting the nodes that are there', t => {
  const on: Array<[string, string]> = [['tokyo', 't1'], ['tokyo', 't2'], ['osaka', 'o1']]
  const sites = [site('tokyo', [3, 3]), site('osaka', [3, 3], { rttMs: 5 }), site('kyoto', [9], { rttMs: 2 })]
  t.strictSame(grown(placeGrowth(running({}, on), 8, sites)), { tokyo: 6, osaka: 2 })
  t.strictSame(grown(placeGrowth(running({ maxNodesPerSite: 3 }, on), 4, sites)), { tokyo: 1, osaka: 2, kyoto: 1 })
  t.strictSame(grown(placeGrowth(running({ maxNodesPerHost: 2 }, on), 6, sites)), { tokyo: 2, osaka: 3, kyoto: 1 })
  t.strictSame(grown(placeGrowth(running({ mostSites: true }, on), 5, sites)), { tokyo: 1, osaka: 1, kyoto: 3 }, 'evenly with those that are there')
  t.strictSame(grown(placeGrowth(running({ maxRttMs: 3 }, on), 9, sites)), { tokyo: 6, kyoto: 3 })
  t.match(placeGrowth(running({ notSites: ['kyoto'], maxNodesPerHost: 1 }, on), 3, sites), { refusal: /^no room for 2 of 3 more nodes/, missing: ['kyoto: it is to have no nodes', /^osaka: takes 1/, /^tokyo: takes 0/] })
  t.strictSame(grown(placeGrowth(running({ maxNodesPerHost: 1 }, [['tokyo', 't1'], ['tokyo', 't2']]), 1, [site('tokyo', [0, 0, 1])])), { tokyo: 1 }, 'hosts that are full with its nodes are not counted twice')
  const wide = placeGrowth(running({ minBandwidthMbit: 100 }, on), 13, [site('tokyo', [3, 3], { wanFreeMbit: 100 }), site('osaka', [3, 3]), site('kyoto', [9], { wanFreeMbit: 100 })])
  t.strictSame('parts' in wide && wide.parts.map(part => [part.site, part.bandwidthMbit]), [['tokyo', undefined], ['osaka', undefined], ['kyoto', 100]], 'members have reserved theirs')
  t.end()
})

t.test('on the wire: what an earlier release does not send means no limit', t => {
  const request = { key: 'k', clusterId: 'c', cluster: 'demo', vni: 1, masterSite: 'tokyo', startMs: 1, endMs: 2, nodes: [], volumes: [], frontend: false, holdTtlMs: 1, bandwidthMbit: 0, epoch: 1, sentMs: 1, grow: false }
  t.match(decode('Request', encode('Request', { ...request, spread: true, maxNodesPerHost: 3 })), { spread: true, maxNodesPerHost: 3 })
  t.match(decode('Request', encode('Request', request)), { spread: false, maxNodesPerHost: 0 })
  t.end()
})
