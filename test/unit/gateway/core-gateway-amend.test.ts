/** The gateway's state machine: longer terms, growth, and clusters that shrink. */
import t from 'tap'
import { MusubiError } from '../../../protocol/core/errors.ts'
import { GatewayBench, HOUR } from '../../model/gateway-bench.ts'

const lost = (): MusubiError => new MusubiError('UNREACHABLE', 'no answer', { retryable: true })

t.test('a longer term is held at all hosts and holds once it is committed', t => {
  const b = new GatewayBench()
  const { offer } = b.active()
  const endMs = b.request().endMs
  t.throws(() => b.settle(b.extending({ endMs })), { code: 'INVALID_INPUT', message: /no later/ })
  t.throws(() => b.settle(b.extending({ offerId: offer.offerId })), { code: 'INVALID_INPUT' })
  t.throws(() => b.settle(b.extending({ sentMs: b.now - 60_000 })), { code: 'CLOCK_SKEW' })
  t.throws(() => b.settle({ ...b.extending(), refusal: new MusubiError('POLICY_TERM', 'too long') }), { code: 'POLICY_TERM' })
  t.match(b.settle(b.extending()), { reply: { site: 'tokyo', ttlMs: 30_000 } })
  t.equal(b.record()?.endMs, endMs, 'not yet')
  const calls = b.asked.length
  t.match(b.settle(b.extending()), { reply: { ttlMs: 30_000 } })
  t.equal(b.asked.length, calls, 'a repetition asks nobody')
  t.throws(() => b.settle(b.extending({ endMs: endMs + 5 })), { code: 'CONFLICT', message: /key/ })
  b.crash(true)
  t.equal(b.commit('ext-1').length, 4)
  t.equal(b.record()?.endMs, endMs + HOUR)
  t.equal(b.commit('ext-1').length, 4, 'again')
  t.ok([...b.host('tokyo-2').leases.values()].every(l => l.endMs === endMs + HOUR))
  t.equal(b.state(), 'active')
  b.settle(b.releasing({ offerId: 'ext-1' }))
  t.equal(b.record()?.endMs, endMs, 'another site could not: it is taken back')
  t.ok([...b.host('tokyo-2').leases.values()].every(l => l.endMs === endMs && l.state === 'active'))
  t.equal(b.record()?.amendment, null)
  t.end()
})

t.test('an extension that a host refuses is taken back everywhere; another key supersedes one that is offered', t => {
  const b = new GatewayBench()
  b.active()
  b.fate = (peer, ask) => peer === 'peer-tokyo-3' && ask.method === 'hostExtend' ? new MusubiError('NO_CAPACITY', 'full by then') : null
  t.throws(() => b.settle(b.extending()), { code: 'NO_CAPACITY' })
  t.same([b.host('tokyo-2').extensions.size, b.record()?.amendment], [0, null])
  b.fate = () => null
  b.settle(b.extending())
  b.settle(b.extending({ key: 'x2', offerId: 'ext-2' }))
  t.same([...b.host('tokyo-2').extensions.keys()], ['ext-2'])
  t.throws(() => b.commit('ext-1'), { code: 'CONFLICT' })
  b.commit('ext-2')
  b.settle(b.extending({ key: 'x3', offerId: 'ext-3', endMs: b.request().endMs + 2 * HOUR }))
  t.equal(b.record()?.amendment?.offerId, 'ext-3', 'one after the other')
  t.end()
})

t.test('growth is offered, committed and activated with the next document, and shrinks again', t => {
  const b = new GatewayBench()
  b.quota = true
  const { offer, receipts } = b.active()
  const more = { key: 'g1', grow: true, nodes: [{ name: 'demo-tokyo-004', vcpus: 1, memoryMib: 512 }] }
  t.throws(() => b.offer({ ...more, nodes: b.request().nodes }), { code: 'INVALID_INPUT', message: /is leased already/ })
  t.throws(() => b.offer({ ...more, vni: 8 }), { code: 'INVALID_INPUT', message: /VNI/ })
  t.throws(() => b.offer({ ...more, endMs: b.request().endMs + 1 }), { code: 'INVALID_INPUT', message: /ends at/ })
  const grown = b.offer(more)
  t.same(grown.held.map(h => `${h.kind} ${h.name}`), ['node demo-tokyo-004', 'quota quota'])
  t.same([grown.segmentId, grown.gateway], [offer.segmentId, offer.gateway])
  t.same(b.offer(more), grown, 'the same question')
  t.same(b.offer(), offer, 'and the first one')
  const document = b.document([offer, grown], { version: 2 })
  t.throws(() => b.settle(b.activating(document, receipts)), { code: 'CONFLICT', message: /not been committed/ })
  b.crash(true)
  const added = b.commit(grown.offerId)
  t.throws(() => b.offer({ ...more, key: 'g2', nodes: [{ name: 'demo-tokyo-005', vcpus: 1, memoryMib: 512 }] }), { code: 'CONFLICT', message: /not yet activated/ })
  b.settle(b.activating(document, [...receipts, ...added]))
  t.equal(b.leases().length, 7)
  t.ok(b.leases().every(l => l.endsWith('active')))
  t.equal(b.commit(grown.offerId).length, 2, 'again')
  const node = grown.held.find(h => h.kind === 'node')
  t.throws(() => b.settle(b.releasing({ leaseIds: [offer.held.find(h => h.kind === 'segment')?.leaseId ?? ''] })), { code: 'INVALID_INPUT', message: /segment alone/ })
  t.match(b.settle(b.releasing({ leaseIds: [node?.leaseId ?? ''] })), { reply: { ended: 2 } }, 'with the quota of that offer, of which nothing else is left')
  t.match(b.settle(b.releasing({ leaseIds: [node?.leaseId ?? ''] })), { reply: { ended: 0 } })
  t.equal(b.state(), 'active')
  b.settle(b.activating(b.document([offer], { version: 3 }), receipts))
  t.match(b.settle(b.releasing()), { reply: { ended: 5 } })
  t.end()
})

t.test('a host that does not confirm a smaller cluster is told again, also after a restart', t => {
  const b = new GatewayBench()
  const { offer } = b.active()
  const [node] = offer.held.filter(h => h.kind === 'node')
  b.fate = (_, ask) => ask.method === 'hostRelease' ? lost() : null
  t.throws(() => b.settle(b.releasing({ leaseIds: [node?.leaseId ?? ''] })), { code: 'UNREACHABLE' })
  b.crash()
  b.fate = () => null
  b.tick()
  t.same([b.leases().length, b.record()?.offer.held.length, b.record()?.shrinking], [3, 3, []])
  t.same([...b.host('tokyo-3').leases.values()].map(l => l.state), ['active'])
  t.end()
})

t.test('growth that no host holds leaves the cluster as it is; growth that is given up as well', t => {
  const b = new GatewayBench()
  b.active()
  const more = { key: 'g1', grow: true, nodes: [{ name: 'demo-tokyo-004', vcpus: 1, memoryMib: 512 }] }
  b.fate = (_, ask) => ask.method === 'hold' ? new MusubiError('NO_CAPACITY', 'full') : null
  t.throws(() => b.offer(more), { code: 'NO_CAPACITY' })
  t.match(b.record(), { state: 'active', amendment: null })
  b.fate = () => null
  const grown = b.offer(more)
  t.match(b.settle(b.releasing({ offerId: grown.offerId })), { reply: { ended: 1 } })
  const under = b.ask(b.asking({ ...more, key: 'g2' }))
  b.crash()
  t.equal(b.code(under), 'open')
  t.match(b.record()?.amendment, { state: 'releasing' })
  b.tick()
  t.same([b.record()?.amendment, b.leases().length], [null, 4])
  t.end()
})

t.test('a growth at a site that has nothing of the cluster is a request like others', t => {
  const b = new GatewayBench()
  t.equal(b.offer({ grow: true, epoch: 3 }).held.length, 4)
  t.equal(b.record()?.epoch, 3)
  t.end()
})
