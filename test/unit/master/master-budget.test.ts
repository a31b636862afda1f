/** The WAN budget of a cluster that runs: on the disk at once, at its sites as soon as they hear of it. */
import t from 'tap'
import type { BudgetChange } from '../../../protocol/core/cache/budget.ts'
import { ID, lost, World } from '../../model/master.ts'

function active (): World {
  const world = new World({ tokyo: 3, tsukuba: 0, ueno: 4 })
  world.create({ nodes: { count: 4, vcpus: 1, memoryMiB: 768 } })
  world.settle()
  if (world.record().state !== 'active') throw new Error(`it is ${world.record().state}: ${world.record().error?.message ?? ''}`)
  return world
}
const change = (world: World, part: BudgetChange): void => { world.submit({ type: 'budget', clusterId: ID, change: part, id: 'b' }) }

t.test('all members get the next document, and nothing that runs is touched', t => {
  const world = active()
  const running = world.running()
  change(world, { totalBytes: 5 })
  t.same(world.amended, [null], 'answered at once')
  t.match(world.disk.get(ID), { document: { version: 2, cacheTerms: 'budget-total 5' }, behind: ['tokyo', 'ueno'], spec: { cache: { budget: { totalBytes: 5 } } } })
  world.settle()
  t.match(world.record(), { state: 'active', behind: [] })
  t.same(['tokyo', 'ueno'].map(site => world.lender(site).version), [2, 2])
  t.same(world.running(), running)
  change(world, { site: 'ueno', totalBytes: null })
  world.settle()
  t.match(world.record(), { document: { version: 3, cacheTerms: 'budget-total 5\nbudget-total-at ueno 0' } })
  change(world, { site: 'ueno', totalBytes: null })
  t.equal(world.record().document?.version, 3, 'the same again is no change')
  t.same(world.amended, [null, null, null])
  t.same(world.problems, [])
  t.end()
})

t.test('it survives a stop, and sites that are away', t => {
  const world = active()
  world.twist = (site, ask) => ask.method === 'activate' && site === 'ueno' ? lost(site) : null
  change(world, { rateKbitPerS: 8000 })
  world.crash(false)
  world.settle()
  t.match(world.record(), { behind: ['ueno'], document: { cacheTerms: 'budget-rate 8000' } })
  world.twist = () => null
  world.pass(40_000, 1_000)
  t.match(world.record(), { behind: [], state: 'active' })
  t.equal(world.lender('ueno').version, 2)
  t.end()
})

t.test('a cluster that grows or shrinks keeps it', t => {
  const world = active()
  change(world, { totalBytes: 5 })
  world.settle()
  world.submit({ type: 'grow', clusterId: ID, count: 5, id: 'g' })
  change(world, { totalBytes: 6 })
  t.match(world.amended.at(-1), { code: 'CONFLICT', message: /is being changed already/ })
  world.settle()
  t.match(world.record(), { amendment: null, document: { cacheTerms: 'budget-total 5' } })
  t.equal(world.record().document?.nodes.length, 5)
  world.submit({ type: 'shrink', clusterId: ID, nodes: [world.record().document?.nodes.at(-1)?.name ?? ''], id: 's' })
  world.settle()
  t.match(world.record(), { document: { cacheTerms: 'budget-total 5' } })
  t.end()
})

t.test('what cannot be is refused, and changes nothing', t => {
  const world = active()
  const before = structuredClone(world.record())
  for (const part of [{ totalBytes: 'default' }, { site: 'tokyo', totalBytes: 5 }, { site: 'kobe', totalBytes: 5 }, { totalBytes: 1e18 }, { rateKbitPerS: 0.5 }] as const) {
    change(world, part)
    t.match(world.amended.at(-1), { code: 'INVALID_INPUT' }, JSON.stringify(part))
  }
  world.submit({ type: 'budget', clusterId: 'unknown', change: { totalBytes: 5 }, id: 'b' })
  t.match(world.amended.at(-1), { code: 'NOT_FOUND' })
  t.same(world.record(), before)
  world.submit({ type: 'delete', clusterId: ID, reason: '' })
  change(world, { totalBytes: 5 })
  t.match(world.amended.at(-1), { code: 'CONFLICT' })
  t.end()
})
