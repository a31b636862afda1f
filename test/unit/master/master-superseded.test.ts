/** A master that another one has followed, and that did not know it yet, leaves nothing behind. */
import t from 'tap'
import { MusubiError } from '../../../protocol/core/errors.ts'
import { ID, World } from '../../model/master.ts'

const over = new MusubiError('STALE_EPOCH', 'tokyo-2 leads it in epoch 2')

/** It grows onto a site that has heard of no other master. */
function growing (): World {
  const world = new World({ tokyo: 3, tsukuba: 0, ueno: 4 })
  world.create({ nodes: { count: 3, vcpus: 1, memoryMiB: 768 } })
  world.settle()
  t.same(world.record().offers.map(offer => offer.site), ['tokyo'])
  const known = world.known.bind(world)
  world.known = () => known().map(one => one.site === 'ueno' ? one : { ...one, freeByHost: [] })
  return world
}

t.test('nothing starts at a new site before the own site, whose anchor decides, has agreed', t => {
  const world = growing()
  world.twist = (site, ask) => site === 'tokyo' && ask.method === 'activate' ? over : null
  const before = world.sent.length
  world.submit({ type: 'grow', clusterId: ID, count: 5, id: 'amendment' })
  for (let n = 0; n < 20; n++) for (const sent of [...world.pending].sort((a, b) => Number(a.peer.includes('tokyo')) - Number(b.peer.includes('tokyo')))) world.deliver(sent)
  t.equal(world.sent.slice(before).filter(ask => ask.method === 'activate').length, 1)
  t.same(world.lender('ueno').running(), [])
  t.equal(world.record().state, 'superseded')
  t.end()
})

t.test('what only this master knows of it lets go itself', t => {
  const world = growing()
  let stale = false
  world.twist = (site, ask) => stale && site === 'tokyo' ? over : site === 'ueno' && ask.method === 'activate' ? 'lose reply' : null
  world.submit({ type: 'grow', clusterId: ID, count: 5, id: 'amendment' })
  for (let n = 0; n < 6; n++) for (const sent of [...world.pending]) world.deliver(sent)
  t.equal(world.lender('ueno').running().filter(name => name !== 'segment').length, 2, 'it was followed after the own site had agreed')
  stale = true
  world.pass(30_000, 500)
  t.equal(world.record().state, 'superseded')
  t.same(world.lender('ueno').running(), [])
  t.equal(world.lender('tokyo').running().length > 0, true, 'what the other one leads runs on')
  t.same(world.record().dropped, [])
  t.end()
})

t.test('a site that listens to another master, or is away for ever, is not asked for ever', t => {
  for (const error of [over, new MusubiError('UNREACHABLE', 'away', { retryable: true })]) {
    const world = growing()
    let stale = false
    world.twist = (site, ask) => stale && site === 'tokyo' ? over : stale && site === 'ueno' ? error : site === 'ueno' && ask.method === 'activate' ? 'lose reply' : null
    world.submit({ type: 'grow', clusterId: ID, count: 5, id: 'amendment' })
    for (let n = 0; n < 6; n++) for (const sent of [...world.pending]) world.deliver(sent)
    stale = true
    world.pass(30_000, 500)
    t.equal(world.record().dropped.length, error.retryable ? 1 : 0)
    world.now = world.record().endMs + 3_600_000
    world.submit({ type: 'tick' })
    t.same(world.record().dropped, [])
  }
  t.end()
})
