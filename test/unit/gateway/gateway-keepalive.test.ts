/** What a master learns by its keep-alives, from lenders that tell the truth and from others. */
import t from 'tap'
import { createEventLog } from '../../../agent/events.ts'
import { MAX_EVENT_CHARACTERS } from '../../../protocol/core/limits.ts'
import { GatewayBench } from '../../model/gateway-bench.ts'
import { ID, World } from '../../model/master.ts'

t.test('the master is told of hosts whose leases were ended by their operator', t => {
  const b = new GatewayBench()
  const { offer } = b.active()
  const revoked = offer.held.find(held => held.kind === 'node')?.host ?? ''
  t.match(b.settle(b.alive()), { reply: { state: 'active' } })
  for (const lease of b.host(revoked).leases.values()) lease.state = 'ended'
  b.settle(b.alive())
  t.match(b.settle(b.alive()), { reply: { state: `active, ended on ${revoked}` } })
  b.tick(20_000)
  t.match(b.settle(b.alive()), { reply: { state: `active, ended on ${revoked}` } }, 'also after a look')
  b.settle(b.releasing())
  t.equal(b.machine.heard.size, 0)
  t.end()
})

t.test('what a lender says of its state is not kept longer than a word', t => {
  const world = new World({ tokyo: 3, tsukuba: 0, ueno: 4 })
  world.create({ nodes: { count: 4, vcpus: 1, memoryMiB: 768 } })
  world.settle()
  let n = 0
  world.twist = (site, ask) => site === 'ueno' && ask.method === 'keepAlive' ? { method: 'keepAlive', reply: { site, state: `${n++}`.padEnd(250_000, 'x'), endMs: 0, epoch: 1, nowMs: world.now } } : null
  world.pass(60_000, 1_000)
  t.ok(n >= 2)
  const contact = world.machine.works.get(ID)?.contacts.get('ueno')
  t.ok((contact?.state.length ?? 0) <= 200, `${contact?.state.length ?? 0} characters`)
  t.end()
})

t.test('an event is of bounded length, whoever wrote its text', t => {
  const log = createEventLog(() => 0)
  log.add('x', 'y'.repeat(1_000_000))
  t.equal(log.list()[0]?.message.length, MAX_EVENT_CHARACTERS)
  t.end()
})
