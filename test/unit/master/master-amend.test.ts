/** Clusters that change while they run: longer, larger, smaller; or as before. */
import t from 'tap'
import { MusubiError } from '../../../protocol/core/errors.ts'
import { nextIndexes } from '../../../protocol/core/master/changes/growth.ts'
import { ID, lost, World } from '../../model/master.ts'

/** At first there is no room at tsukuba, which comes before ueno by name. */
const ROOMS = { tokyo: 3, tsukuba: 0, ueno: 4 }
const HOUR = 3_600_000

function active (volumes = false): World {
  const world = new World(ROOMS)
  world.create({ nodes: { count: 4, vcpus: 1, memoryMiB: 768 }, ...(volumes ? { volumes: [{ name: 'data', sizeMiB: 10, node: 4 }] } : {}) })
  world.settle()
  if (world.record().state !== 'active') throw new Error(`it is ${world.record().state}: ${world.record().error?.message ?? ''}`)
  return world
}
const extend = (world: World, byMs = HOUR): void => { world.submit({ type: 'extend', clusterId: ID, endMs: world.record().endMs + byMs, id: 'amendment' }) }
const grow = (world: World, count: number): void => { world.submit({ type: 'grow', clusterId: ID, count, id: 'amendment' }) }
const names = (world: World): string[] => world.record().document?.nodes.map(n => n.name) ?? []
const members = (world: World): string[] => world.record().offers.map(o => o.site)
/** Takes the room of a cluster's first nodes out of what the master believes to be free. */
const left = (world: World, rooms: Record<string, number>): World => {
  const known = world.known.bind(world)
  world.known = () => known().map(one => ({ ...one, freeByHost: [{ vcpus: rooms[one.site] ?? 0, memoryMib: 99_999, diskMib: 0, volumes: 0, bandwidthMbit: 0 }] }))
  return world
}

t.test('an extension is held everywhere, decided, committed', t => {
  const world = active()
  const endMs = world.record().endMs + HOUR
  extend(world)
  world.settle()
  t.match(world.record(), { endMs, amendment: null, state: 'active' })
  t.equal(world.disk.get(ID)?.endMs, endMs)
  t.same(world.amended, [null])
  t.same(members(world).map(site => world.lender(site).endMs), [endMs, endMs])
  t.same(world.problems, [])
  t.equal(world.record().document?.version, 1, 'what runs stays as it is')
  t.end()
})

t.test('an extension that one site refuses changes nothing anywhere, and says which', t => {
  const world = active()
  const { endMs } = world.record()
  world.twist = (site, ask) => ask.method === 'extend' && site === 'ueno' ? new MusubiError('POLICY', 'two hours are enough') : null
  extend(world)
  world.settle()
  t.match(world.amended[0], { code: 'POLICY', message: /ueno \(ueno-1\): two hours are enough/ })
  t.match(world.record(), { endMs, amendment: null, dropped: [], state: 'active' })
  t.same([...world.lenders.values()].map(l => l.extensions.size), [0, 0, 0])
  t.end()
})

t.test('an extension that cannot be committed everywhere is taken back where it was', t => {
  const world = active()
  const { endMs } = world.record()
  world.twist = (site, ask) => site === 'ueno' && (ask.method === 'commit' || (ask.method === 'release' && world.now < 1_800_000_060_000)) ? lost(site) : null
  extend(world)
  world.settle()
  world.pass(45_000)
  t.match(world.amended[0], { code: 'UNREACHABLE', message: /ueno did not answer/ })
  t.equal(world.lender('tokyo').endMs, endMs, 'the former end')
  t.match(world.record(), { endMs, dropped: [{ site: 'ueno', offerId: 'amendment' }] })
  world.crash(false)
  world.pass(60_000, 1_000)
  t.same(world.record().dropped, [], 'told again until it has confirmed')
  t.equal(world.running().length, 7)
  t.end()
})

t.test('after a long stop, what was decided is not committed any more', t => {
  const world = active()
  extend(world)
  for (const sent of [...world.pending]) world.deliver(sent)
  t.equal(world.record().amendment?.state, 'committing')
  world.pending = []
  world.now += 31_000
  const { length } = world.sent
  world.crash(false)
  t.notOk(world.sent.slice(length).some(ask => ask.method === 'commit'), 'the holds do not count any more')
  t.match(world.record(), { amendment: null, state: 'active' })
  t.end()
})

t.test('wherever the master is stopped, an extension is everywhere or nowhere', t => {
  const ends = new Set<number>()
  for (let fuel = 1; fuel < 14; fuel++) {
    const world = active()
    const { endMs } = world.record()
    world.fuel = fuel
    extend(world)
    world.settle()
    world.crash(true)
    world.pass(120_000, 1_000)
    const now = members(world).map(site => world.lender(site).endMs)
    t.ok(now.every(one => one === world.record().endMs), `stopped after ${fuel}: ${now.map(one => one - endMs).join(', ')}, the record ${world.record().endMs - endMs}`)
    t.match(world.record(), { amendment: null, dropped: [], state: 'active' })
    t.same(world.problems, [])
    ends.add(world.record().endMs - endMs)
  }
  t.same([...ends].sort(), [0, HOUR])
  t.end()
})

t.test('a growth gets the next numbers, members first, and the next document', t => {
  const world = left(active(), { tokyo: 0, tsukuba: 9, ueno: 4 })
  const before = world.record().document
  grow(world, 7)
  world.settle()
  t.same(world.amended, [null])
  t.same(names(world), ['demo-tokyo-001', 'demo-tokyo-002', 'demo-tokyo-003', 'demo-ueno-004', 'demo-ueno-005', 'demo-ueno-006', 'demo-ueno-007'])
  t.match(world.record(), { document: { version: 2 }, spec: { nodes: { count: 7 } }, amendment: null })
  t.same(world.record().document?.nodes.slice(0, 4), before?.nodes, 'what runs keeps its addresses')
  t.same(world.running().filter(n => n.startsWith('demo-')), names(world).sort())
  t.same(world.problems, [])

  const wide = left(active(), { tokyo: 0, tsukuba: 2, ueno: 0 })
  const old = wide.record().document
  grow(wide, 6)
  wide.settle()
  t.same(wide.record().asked.map(a => a.site), ['tokyo', 'ueno', 'tsukuba'])
  t.same(wide.record().document?.nodes.slice(0, 4), old?.nodes, 'also when the new site comes before others by name')
  t.same(wide.record().document?.nodes.slice(4).map(n => n.ip), ['10.42.3.5', '10.42.3.6'])
  t.equal(wide.lender('tsukuba').version, 2)
  t.end()
})

t.test('a growth without room, or that a site refuses or does not activate, leaves what was', t => {
  const full = left(active(), { tokyo: 0, tsukuba: 1, ueno: 0 })
  grow(full, 7)
  full.settle()
  t.match(full.amended[0], { code: 'NO_CAPACITY', message: /no room for 2 of 3 more nodes[^]*tsukuba: takes 1/ })

  for (const method of ['request', 'commit', 'activate']) {
    const world = left(active(), { tokyo: 1, tsukuba: 2, ueno: 0 })
    const before = names(world)
    world.twist = (site, ask) => ask.method === method && site === 'tsukuba' ? new MusubiError('CONFLICT', 'no') : null
    grow(world, 7)
    world.settle()
    world.pass(30_000)
    t.match(world.amended[0], { message: /tsukuba[^]*no/ }, method)
    t.same(names(world), before, method)
    t.same(world.running().filter(n => n.startsWith('demo-')), before, method)
    t.equal(world.lender('tsukuba').live().length, 0, method)
    t.match(world.record(), { dropped: [], behind: [], amendment: null, asked: [{ site: 'tokyo' }, { site: 'ueno' }] }, method)
    t.same(world.lender('tokyo').nodes, before, `${method}: all have the former document`)
    grow(world, 5)
    world.twist = () => null
    world.settle()
    t.equal(names(world).length, 5, `${method}: and the next growth works`)
  }
  t.end()
})

t.test('wherever the master is stopped, a growth is whole or not there', t => {
  const sizes = new Set<number>()
  for (const arrive of [true, false]) {
    for (let fuel = 1; fuel < 30; fuel++) {
      const world = left(active(), { tokyo: 0, tsukuba: 2, ueno: 1 })
      world.fuel = fuel
      grow(world, 7)
      world.settle()
      world.crash(arrive)
      world.pass(200_000, 1_000)
      t.same(world.running().filter(n => n.startsWith('demo-')), names(world).sort(), `stopped after ${fuel}`)
      t.match(world.record(), { amendment: null, dropped: [], behind: [], state: 'active' })
      t.same(world.problems, [])
      sizes.add(names(world).length)
    }
  }
  t.same([...sizes].sort(), [4, 7])
  t.end()
})

t.test('a cluster shrinks by nodes, with their volumes, and leaves sites that have nothing more', t => {
  const world = active(true)
  t.same(members(world), ['tokyo', 'ueno'])
  world.submit({ type: 'shrink', clusterId: ID, nodes: ['demo-tokyo-002'], id: 'a' })
  world.settle()
  t.same(names(world), world.lender('ueno').nodes)
  t.match(world.record(), { document: { version: 2 }, spec: { nodes: { count: 3 } }, dropped: [], behind: [] })
  t.notOk(world.running().includes('demo-tokyo-002'))
  const far = world.record().document?.nodes.filter(n => n.site === 'ueno').map(n => n.name) ?? []
  world.submit({ type: 'shrink', clusterId: ID, nodes: far, id: 'b' })
  world.settle()
  t.same(members(world), ['tokyo'])
  t.equal(world.lender('ueno').live().length, 0)
  t.match(world.record(), { asked: [{ site: 'tokyo' }], document: { sites: [{ site: 'tokyo' }] } })
  t.same(world.amended, [null, null])
  t.end()
})

t.test('a shrink survives sites that are away, and a stop', t => {
  const world = active()
  world.twist = (_site, ask) => ask.method === 'release' || ask.method === 'activate' ? lost('all') : null
  world.submit({ type: 'shrink', clusterId: ID, nodes: ['demo-tokyo-002'], id: 'a' })
  world.settle()
  world.crash(false)
  grow(world, 4)
  t.match(world.amended.at(-1), { code: 'NOT_READY', message: /tokyo, ueno have not confirmed the last change/, retryable: true })
  world.twist = () => null
  world.pass(40_000, 1_000)
  t.notOk(world.running().includes('demo-tokyo-002'))
  t.match(world.record(), { dropped: [], behind: [] })
  t.same(world.lender('ueno').nodes, names(world))
  t.end()
})

t.test('what cannot be is refused by name, and changes nothing', t => {
  const world = active()
  const before = structuredClone(world.record())
  const { endMs } = before
  for (const event of [
    { type: 'extend', clusterId: ID, endMs, id: 'x' }, { type: 'extend', clusterId: ID, endMs: Number.NaN, id: 'x' }, { type: 'extend', clusterId: ID, endMs: endMs * 2, id: 'x' },
    { type: 'grow', clusterId: ID, count: 4, id: 'x' }, { type: 'grow', clusterId: ID, count: 1e9, id: 'x' }, { type: 'grow', clusterId: ID, count: 4.5, id: 'x' },
    { type: 'shrink', clusterId: ID, nodes: [], id: 'x' }, { type: 'shrink', clusterId: ID, nodes: ['stranger'], id: 'x' }, { type: 'shrink', clusterId: ID, nodes: names(world), id: 'x' }
  ] as const) {
    world.submit(event)
    t.match(world.amended.at(-1), { code: 'INVALID_INPUT' }, JSON.stringify(event))
  }
  world.submit({ type: 'extend', clusterId: 'unknown', endMs, id: 'x' })
  t.match(world.amended.at(-1), { code: 'NOT_FOUND' })
  t.same(world.record(), before)
  extend(world)
  grow(world, 5)
  t.match(world.amended.at(-1), { code: 'CONFLICT', message: /is being changed already/ })
  world.submit({ type: 'delete', clusterId: ID, reason: '' })
  t.match(world.amended.at(-1), { code: 'CONFLICT', message: /is being deleted/ })
  extend(world)
  t.match(world.amended.at(-1), { code: 'CONFLICT', message: /is releasing/ })
  world.settle()
  t.equal(world.record().state, 'ended')
  t.same(nextIndexes([1, 2, 5], 2), [6, 7])
  t.same(nextIndexes([1, 199], 3), [2, 3, 200])
  t.end()
})
