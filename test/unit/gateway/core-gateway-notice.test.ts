/** The gateway's state machine: clusters whose lender has given notice. */
import t from 'tap'
import { MusubiError } from '../../../protocol/core/errors.ts'
import { GatewayBench, HOUR } from '../../model/gateway-bench.ts'

const MINUTE = 60_000
const CLUSTER_END = (b: GatewayBench): number => b.request().endMs
const notice = (b: GatewayBench, endMs: number): void => { b.submit({ type: 'notice', clusterId: b.request().clusterId, noticeMs: endMs - b.now, reason: 'preempted by the policy of tokyo' }) }
const releases = (b: GatewayBench): string[] => b.asked.filter(({ ask }) => ask.method === 'hostRelease').map(({ peer }) => peer)

t.test('a master is told at once, nothing ends before the notice is over, and then everything does, the gateway last', t => {
  const b = new GatewayBench()
  b.quota = true
  b.active()
  const endMs = b.now + 15 * MINUTE
  notice(b, endMs)
  t.match(b.settle(b.alive()), { reply: { state: 'active, preempted', endMs } }, 'with the next keep-alive')
  t.ok(b.notes.includes('lease.notice'))
  for (const ask of [b.extending(), b.asking({ key: 'g1', grow: true, nodes: [{ name: 'demo-tokyo-004', vcpus: 1, memoryMib: 512 }] })]) t.throws(() => b.settle(ask), { code: 'POLICY_PREEMPTED', message: /end at .*preempted by the policy of tokyo/ }, ask.method)
  const before = b.leases()
  b.tick(15 * MINUTE - 1)
  t.same([b.state(), b.leases(), releases(b)], ['active', before, []], 'not a moment earlier')
  b.tick(1)
  t.same([b.state(), b.leases()], ['', []])
  t.equal(releases(b).at(-1), 'peer-tokyo-1')
  t.match(b.asked.find(({ ask }) => ask.method === 'hostRelease')?.ask, { request: { reason: 'preempted by the policy of tokyo' } })
  t.throws(() => b.settle(b.alive()), { code: 'NOT_FOUND' })
  t.end()
})

t.test('a notice is given once, is at least as long as the shortest lease, and only to what runs on beyond it', t => {
  const b = new GatewayBench()
  const offer = b.offer()
  notice(b, b.now + 10 * MINUTE)
  t.equal(b.record()?.notice, undefined, 'what is only offered ends by itself')
  const receipts = b.commit(offer.offerId)
  b.settle(b.activating(b.document([offer]), receipts))
  for (const endMs of [b.now + MINUTE - 1, b.now - HOUR, CLUSTER_END(b), CLUSTER_END(b) + HOUR, Number.NaN, 1.5]) notice(b, endMs)
  t.equal(b.record()?.notice, undefined)
  notice(b, b.now + 10 * MINUTE)
  notice(b, b.now + 5 * MINUTE)
  t.equal(b.record()?.notice?.endMs, b.now + 10 * MINUTE, 'it is not made shorter')
  b.submit({ type: 'notice', clusterId: 'c9000000-0000-4000-8000-000000000000', noticeMs: HOUR, reason: '' })
  t.end()
})

t.test('a notice survives a loss of power, and a release that not every host confirms is tried again', t => {
  const b = new GatewayBench()
  b.active()
  const endMs = b.now + 5 * MINUTE
  notice(b, endMs)
  b.crash(true)
  t.match(b.settle(b.alive()), { reply: { endMs } })
  b.now = endMs - 5_000
  b.crash(true)
  b.fate = (peer, ask) => peer === 'peer-tokyo-3' && ask.method === 'hostRelease' ? new MusubiError('UNREACHABLE', 'no answer', { retryable: true }) : null
  b.tick(5_000)
  t.equal(b.state(), 'releasing')
  t.ok(b.leases().some(line => line.startsWith('tokyo-1 segment active')), 'the segment is the last to go')
  b.crash(true)
  b.fate = () => null
  b.tick(5_000)
  t.same([b.state(), b.leases()], ['', []])
  t.end()
})

t.test('an extension that was offered before the notice does not outlive it; a master may give up earlier', t => {
  const b = new GatewayBench()
  b.active()
  b.settle(b.extending())
  const endMs = b.now + 5 * MINUTE
  notice(b, endMs)
  b.commit('ext-1')
  t.equal(b.record()?.endMs, CLUSTER_END(b) + HOUR)
  t.match(b.settle(b.alive()), { reply: { endMs } })
  b.tick(5 * MINUTE)
  t.same([b.state(), b.leases()], ['', []])
  const other = new GatewayBench()
  other.active()
  notice(other, other.now + 5 * MINUTE)
  t.match(other.settle(other.releasing()), { reply: { ended: 4 } })
  t.equal(other.state(), '')
  t.end()
})
