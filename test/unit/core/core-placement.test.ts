import fc from 'fast-check'
import t from 'tap'
import { type Resources, fits, subtract, timesFitting } from '../../../protocol/core/capacity.ts'
import { FRONTEND_RESOURCES, type HostCapacity, placeAtSite } from '../../../protocol/core/placement/at-site.ts'
import { type SiteCapacity, siteCapacityOf } from '../../../protocol/core/placement/site-capacity.ts'
import { type SitePart, placeAmongSites } from '../../../protocol/core/placement/among-sites.ts'
import { spec } from '../../model/fixtures.ts'

const r = (vcpus: number, memoryMib: number, diskMib = 0): Resources => ({ vcpus, memoryMib, diskMib, volumes: diskMib > 0 ? 64 : 0, bandwidthMbit: 0 })
const host = (name: string, roles: string[], free: Resources, cordoned = false): HostCapacity => ({ host: name, roles, free, cordoned })
const node = (name: string, vcpus = 1, memoryMib = 512): { name: string, vcpus: number, memoryMib: number } => ({ name, vcpus, memoryMib })
const nothing = { nodes: [], volumes: [], frontend: false }

function assigned (placed: ReturnType<typeof placeAtSite>): string[] {
  if ('refusal' in placed) throw new Error(placed.refusal)
  return placed.assignments.map(one => `${one.kind} ${one.name} ${one.host}`)
}
function parts (placed: ReturnType<typeof placeAmongSites>): SitePart[] {
  if ('refusal' in placed) throw new Error(placed.refusal)
  return placed.parts
}
const missing = (placed: object): string[] => 'missing' in placed ? placed.missing as string[] : []

t.test('at a site: the largest first, the frontend on a gateway, a volume where most is free', t => {
  const hosts = [host('b', ['compute'], r(4, 4096)), host('a', ['gateway', 'compute'], r(2, 2048)), host('s1', ['storage'], r(0, 0, 500)), host('s2', ['storage'], r(0, 0, 900))]
  const request = {
    nodes: [node('n1'), node('n2', 4, 4096)], volumes: [{ name: 'v1', sizeMib: 450, node: 'n1' }, { name: 'v2', sizeMib: 500, node: 'n1' }], frontend: true
  }
  t.strictSame(assigned(placeAtSite(request, hosts)), ['frontend frontend a', 'volume v1 s1', 'volume v2 s2', 'node n1 a', 'node n2 b'])
  t.strictSame(placeAtSite(request, hosts), placeAtSite(request, hosts.toReversed()), 'whatever the order of the hosts')
  const full = placeAtSite({ ...request, nodes: [...request.nodes, node('n3')] }, hosts)
  t.strictSame(missing(full), ['node n3: needs 1 vCPU, 0 free on a, the nearest of 2 compute hosts'])
  t.match(full, { refusal: /1 of 6 parts do not fit/ })
  t.end()
})

t.test('at a site: what is missing is named', t => {
  t.strictSame(missing(placeAtSite({ ...nothing, frontend: true }, [host('a', ['compute'], r(4, 4096))])), ['the frontend: no gateway host takes leases here'])
  t.strictSame(missing(placeAtSite({ ...nothing, nodes: [node('n1')] }, [host('a', ['compute'], r(4, 4096), true)])), ['node n1: no compute host takes leases here'], 'a cordoned host takes nothing')
  t.strictSame(missing(placeAtSite({ ...nothing, volumes: [{ name: 'v', sizeMib: 10, node: 'n' }] }, [host('s', ['storage'], r(0, 0, 9))])), ['volume v: needs 10 MiB disk, 9 free on s, the nearest of 1 storage host'])
  t.end()
})

const site = (name: string, freeByHost: Resources[], volumeFreeByHost: number[] = []): SiteCapacity => ({ site: name, freeByHost, volumeFreeByHost })
const room = (nodes: number): Resources => r(nodes, nodes * 768)

t.test('among sites: the master first, then as few further sites as possible', t => {
  const sites = [site('tokyo', [r(2, 1800)]), site('osaka', [room(1)]), site('tsukuba', [room(2), room(1)]), site('kyoto', [room(1)])]
  const placed = parts(placeAmongSites(spec(), sites, 'tokyo'))
  t.strictSame(placed.map(part => [part.site, part.nodes.map(n => n.name), part.frontend]), [
    ['tokyo', ['demo-tokyo-001'], true],
    ['tsukuba', ['demo-tsukuba-002', 'demo-tsukuba-003', 'demo-tsukuba-004'], false]
  ])
  t.strictSame(placed, parts(placeAmongSites(spec(), sites.toReversed(), 'tokyo')), 'whatever the order of the sites')
  t.strictSame(parts(placeAmongSites(spec({ nodes: { count: 1, vcpus: 1, memoryMiB: 768 } }), sites, 'tokyo')).map(part => part.site), ['tokyo'])
  t.end()
})

t.test('among sites: a node is where its volumes are', t => {
  const sites = [site('tokyo', [room(4)], [100]), site('osaka', [room(9)], []), site('tsukuba', [room(2)], [50, 500])]
  const placed = parts(placeAmongSites(spec({
    nodes: { count: 6, vcpus: 1, memoryMiB: 768 },
    volumes: [{ name: 'big', sizeMiB: 400, node: 1 }, { name: 'small', sizeMiB: 60, node: 2 }, { name: 'tiny', sizeMiB: 60, node: 6 }, { name: 'log', sizeMiB: 40, node: 6 }]
  }), sites, 'tokyo'))
  t.strictSame(placed.map(part => [part.site, part.nodes.map(n => n.name), part.volumes.map(v => `${v.name} ${v.node}`)]), [
    ['tokyo', ['demo-tokyo-003', 'demo-tokyo-004', 'demo-tokyo-006'], ['log demo-tokyo-006', 'tiny demo-tokyo-006']],
    ['tsukuba', ['demo-tsukuba-001', 'demo-tsukuba-002'], ['big demo-tsukuba-001', 'small demo-tsukuba-002']],
    ['osaka', ['demo-osaka-005'], []]
  ])
  t.end()
})

t.test('among sites: what is missing and where', t => {
  const sites = [site('tokyo', [r(2, 2048)]), site('osaka', [r(8, 100)], [30])]
  const refused = placeAmongSites(spec({ volumes: [{ name: 'data', sizeMiB: 64, node: 2 }] }), sites, 'tokyo')
  t.match(refused, { refusal: /no room for 3 of 4 nodes with 1 vCPU, 768 MiB memory each, nor for volumes data \(64 MiB\) beside their nodes/ })
  t.strictSame(missing(refused), [
    'osaka: takes 0 of 4 nodes; a node needs 768 MiB memory, 100 free on its largest host; largest free volume 30 MiB',
    'tokyo: takes 1 of 4 nodes; no host has room for more (1 vCPU, 768 MiB memory each); largest free volume 0 MiB'
  ])
  t.match(placeAmongSites(spec(), sites, 'nara'), { refusal: /nothing is known of the master's site nara/ })
  t.match(placeAmongSites(spec(), [{ ...site('tokyo', [room(9)]), gateway: { free: r(0, 999) } }], 'tokyo'), { refusal: /frontend does not fit at tokyo; tokyo: the frontend needs 1 vCPU, 0 free on the gateway/ })
  t.end()
})

const small = fc.record({ vcpus: fc.nat(4), memoryMib: fc.nat(4), diskMib: fc.nat(6), volumes: fc.constant(8), bandwidthMbit: fc.constant(0) })
const anyHosts = fc.array(fc.record({ free: small, roles: fc.subarray(['compute', 'storage', 'gateway'], { minLength: 1 }), cordoned: fc.boolean() }), { maxLength: 5 })
  .map(hosts => hosts.map((one, i): HostCapacity => ({ host: `h${i}`, ...one })))

t.test('no placement at a site takes more than a host has, or puts anything on a host without the role', t => {
  let placedOnce = false
  fc.assert(fc.property(anyHosts, fc.array(fc.record({ vcpus: fc.nat(2), memoryMib: fc.nat(2) }), { maxLength: 5 }), fc.array(fc.nat(3), { maxLength: 3 }), (hosts, nodes, volumes) => {
    const placed = placeAtSite({
      nodes: nodes.map((n, i) => ({ name: `n${i}`, ...n })), volumes: volumes.map((sizeMib, i) => ({ name: `v${i}`, sizeMib, node: 'n0' })), frontend: false
    }, hosts)
    if ('refusal' in placed) {
      t.ok(placed.missing.length > 0)
      return
    }
    placedOnce = true
    t.equal(placed.assignments.length, nodes.length + volumes.length)
    const left = new Map(hosts.map(one => [one.host, one.free]))
    for (const { kind, host: name, resources } of placed.assignments) {
      const on = hosts.find(one => one.host === name)
      t.ok(on?.roles.includes(kind === 'node' ? 'compute' : 'storage') === true && on.cordoned !== true)
      const free = left.get(name) ?? r(0, 0)
      t.ok(fits(resources, free), 'no host is overcommitted')
      left.set(name, subtract(free, resources))
    }
  }), { numRuns: 300 })
  t.ok(placedOnce)
  t.end()
})

const anySites = fc.array(fc.record({ freeByHost: fc.array(fc.record({ vcpus: fc.nat(4), memoryMib: fc.nat(2000), diskMib: fc.constant(0), volumes: fc.constant(0), bandwidthMbit: fc.constant(0) }), { maxLength: 3 }), volumeFreeByHost: fc.array(fc.nat(100), { maxLength: 2 }) }), { minLength: 1, maxLength: 5 })
  .map(sites => sites.map((one, i): SiteCapacity => ({ site: `s${i}`, ...one })))

t.test('plain nodes: placed exactly when there is room, on the fewest sites', t => {
  const seen = { placed: 0, refused: 0 }
  fc.assert(fc.property(anySites, fc.integer({ min: 1, max: 8 }), (sites, count) => {
    const cluster = spec({ nodes: { count, vcpus: 1, memoryMiB: 500 } })
    const placed = placeAmongSites(cluster, sites, 's0')
    const slots = (one: SiteCapacity): number => {
      const at = one.site === 's0' ? one.freeByHost.findIndex(free => fits(FRONTEND_RESOURCES, free)) : -1
      return one.freeByHost.reduce((n, free, i) => n + timesFitting(r(1, 500), i === at ? subtract(free, FRONTEND_RESOURCES) : free), 0)
    }
    const [master, ...others] = sites.map(slots)
    const frontendFits = sites[0]?.freeByHost.some(free => fits(FRONTEND_RESOURCES, free)) === true
    let rest = count - (master ?? 0)
    let further = 0
    for (const n of others.sort((a, b) => b - a)) {
      if (rest <= 0) break
      rest -= n
      further++
    }
    const possible = frontendFits && rest <= 0
    t.equal('parts' in placed, possible)
    if ('parts' in placed) {
      seen.placed++
      t.equal(placed.parts.length, 1 + further)
      t.equal(new Set(placed.parts.flatMap(part => part.nodes.map(n => n.name))).size, count)
    } else seen.refused++
  }), { numRuns: 400 })
  t.ok(seen.placed > 20 && seen.refused > 20, 'both outcomes were tried')
  t.end()
})

t.test('what is placed among sites is then placed at each of them', t => {
  let withVolumes = 0
  fc.assert(fc.property(fc.array(anyHosts, { minLength: 1, maxLength: 3 }), fc.integer({ min: 1, max: 5 }), fc.array(fc.record({ sizeMiB: fc.integer({ min: 1, max: 4 }), node: fc.integer({ min: 1, max: 5 }) }), { maxLength: 3 }), (siteHosts, count, volumes) => {
    const big = siteHosts.map(hosts => hosts.map(one => ({ ...one, free: { ...one.free, memoryMib: one.free.memoryMib * 512 } })))
    const cluster = spec({ nodes: { count, vcpus: 1, memoryMiB: 512 }, volumes: volumes.map((v, i) => ({ name: `v${i}`, sizeMiB: v.sizeMiB, node: 1 + (v.node - 1) % count })) })
    const placed = placeAmongSites(cluster, big.map((hosts, i) => siteCapacityOf(`s${i}`, hosts)), 's0')
    if ('refusal' in placed) return
    if (cluster.volumes.length > 0) withVolumes++
    t.strictSame(placed.parts.flatMap(part => part.volumes.map(v => v.name)).sort(), cluster.volumes.map(v => v.name).sort())
    for (const part of placed.parts) {
      t.equal(part.frontend, part.site === 's0')
      for (const volume of part.volumes) t.ok(part.nodes.some(n => n.name === volume.node), 'beside its node')
      const local = placeAtSite(part, big[Number(part.site.slice(1))] ?? [])
      t.ok('assignments' in local, 'refusal' in local ? `${part.site}: ${local.refusal}` : 'placed')
    }
  }), { numRuns: 500 })
  t.ok(withVolumes > 10)
  t.end()
})
