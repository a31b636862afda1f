/** A master that is lost with its disk while some lenders have committed an extension, and others not. */
import t from 'tap'
import type { MasterEffect } from '../../../protocol/core/master/events.ts'
import type { MasterRecord } from '../../../protocol/core/master/record.ts'
import { emptyMaster } from '../../../protocol/core/master/step.ts'
import { ID, lost, World } from '../../model/master.ts'

const HOUR = 3_600_000

/** Lost when these have committed and it has not been told; its successor has the last copy that was sent before. */
function extended (...committed: string[]): { world: World, formerMs: number } {
  const world = new World({ tokyo: 3, tsukuba: 0, ueno: 4 })
  let copy: MasterRecord | null = null
  const perform = world['perform'].bind(world)
  world['perform'] = (effect: MasterEffect) => {
    if (effect.effect === 'copy') copy = JSON.parse(JSON.stringify(effect.record)) as MasterRecord
    perform(effect)
  }
  world.create({ nodes: { count: 4, vcpus: 1, memoryMiB: 768 } })
  world.settle()
  const formerMs = world.record().endMs
  world.twist = (site, ask) => ask.method !== 'commit' ? null : committed.includes(site) ? 'lose reply' : lost(site)
  world.submit({ type: 'extend', clusterId: ID, endMs: formerMs + HOUR, id: 'amendment' })
  for (let n = 0; n < 5; n++) for (const sent of [...world.pending]) world.deliver(sent)
  for (const site of ['tokyo', 'ueno']) t.equal(world.lender(site).endMs, committed.includes(site) ? formerMs + HOUR : formerMs)
  const kept = copy as MasterRecord | null
  if (kept === null) throw new Error('nothing was copied')
  world.machine = emptyMaster('tokyo')
  world.disk.clear()
  world.pending = []
  world.now += 100_000
  world.twist = () => null
  world.submit({ type: 'adopt', record: { ...kept, epoch: 2, grant: { envelope: new Uint8Array(1), chain: [] }, state: 'active' } })
  return { world, formerMs }
}

t.test('what all have committed stands, although nobody was told', t => {
  const { world, formerMs } = extended('tokyo', 'ueno')
  world.pass(60_000, 1_000)
  t.same([world.lender('tokyo').endMs, world.lender('ueno').endMs], [formerMs + HOUR, formerMs + HOUR])
  t.match(world.record(), { state: 'active', amendment: null, endMs: formerMs + HOUR })
  t.end()
})

t.test('what one has not committed is taken back everywhere', t => {
  const { world, formerMs } = extended('tokyo')
  world.pass(60_000, 1_000)
  t.same([world.lender('tokyo').endMs, world.lender('ueno').endMs], [formerMs, formerMs])
  t.match(world.record(), { state: 'active', amendment: null, endMs: formerMs, dropped: [] })
  t.equal(world.running().length, 7)
  t.end()
})

t.test('no lender is told to commit before others of the site know of the decision', t => {
  const world = new World({ tokyo: 3, tsukuba: 0, ueno: 4 })
  world.create({ nodes: { count: 4, vcpus: 1, memoryMiB: 768 } })
  world.settle()
  const perform = world['perform'].bind(world)
  world['perform'] = (effect: MasterEffect) => { if (effect.effect !== 'copy') perform(effect) }
  const before = world.sent.length
  const { endMs } = world.record()
  world.submit({ type: 'extend', clusterId: ID, endMs: endMs + HOUR, id: 'amendment' })
  world.settle()
  world.pass(10_000, 1_000)
  t.notOk(world.sent.slice(before).some(ask => ask.method === 'commit'))
  // an answer to what was copied before the decision says nothing
  world.submit({ type: 'copied', clusterId: ID, record: { ...world.record(), amendment: null }, copies: 1 })
  world.settle()
  t.notOk(world.sent.slice(before).some(ask => ask.method === 'commit'))
  world.submit({ type: 'copied', clusterId: ID, record: world.record(), copies: 1 })
  world.settle()
  t.match(world.record(), { amendment: null, endMs: endMs + HOUR })
  t.end()
})
