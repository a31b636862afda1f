/** Ids of segments: given out once, not before everybody has let go, and not kept from others for nothing. */
import t from 'tap'
import { zero } from '../../../protocol/core/capacity.ts'
import { MusubiError } from '../../../protocol/core/errors.ts'
import { END_GUARD_MS, ID_QUARANTINE_MS, type LedgerState, emptyLedger } from '../../../protocol/core/lease/lease.ts'
import { type LeaseEvent, step } from '../../../protocol/core/lease/step.ts'
import { ACTIVATE_TTL_MS, MAX_TERM_MS } from '../../../protocol/core/limits.ts'
import { holdRequest, item } from '../../model/fixtures.ts'
import { GatewayBench } from '../../model/gateway-bench.ts'

const T0 = 1_800_000_000_000

t.test('who commits and never activates does not take ids from a gateway for the term that was asked for', t => {
  let state: LedgerState = emptyLedger('g1', zero(), { from: 100, to: 109 })
  let now = T0
  const send = (event: LeaseEvent): ReturnType<typeof step>['result'] => {
    const next = step(state, event, now)
    state = next.state
    return next.result
  }
  const segment = (name: string): LeaseEvent => ({
    type: 'hold', requester: 'peer1',
    request: holdRequest({ key: name, offerId: name, clusterId: name, startMs: now, endMs: now + MAX_TERM_MS, items: [item(`s-${name}`, { kind: 'segment', resources: zero() })] })
  })
  for (let i = 0; i < 10; i++) {
    t.ok(send(segment(`evil-${i}`)).ok)
    t.ok(send({ type: 'commit', clusterId: `evil-${i}`, offerId: `evil-${i}` }).ok)
  }
  t.match(send(segment('good')), { ok: false, error: { code: 'NO_CAPACITY' } })
  now += ACTIVATE_TTL_MS
  send({ type: 'tick' })
  t.match(send(segment('good')), { ok: false, error: { code: 'NO_CAPACITY' } }, 'they rest for a while')
  now += ID_QUARANTINE_MS
  t.match(send(segment('good')), { ok: true, answer: { segmentId: 100 } })
  t.end()
})

t.test('an id that this host itself has not let go of rests until nothing can use it any more', t => {
  const HOUR = 3_600_000
  let state: LedgerState = emptyLedger('g1', zero(), { from: 100, to: 100 })
  let now = T0
  const send = (event: LeaseEvent): ReturnType<typeof step>['result'] => {
    const next = step(state, event, now)
    state = next.state
    return next.result
  }
  const segment = (name: string): LeaseEvent => ({
    type: 'hold', requester: 'peer1',
    request: holdRequest({ key: name, offerId: name, clusterId: name, startMs: now, endMs: now + HOUR, items: [item(`s-${name}`, { kind: 'segment', resources: zero() })] })
  })
  send(segment('first'))
  const committed = send({ type: 'commit', clusterId: 'first', offerId: 'first' })
  t.ok(send({ type: 'activate', clusterId: 'first', receipts: committed.ok ? committed.answer.receipts : [] }).ok)
  now += 1000
  t.ok(send({ type: 'release', clusterId: 'first', reason: 'deleted' }).ok)
  now += 2 * ID_QUARANTINE_MS
  t.match(send(segment('second')), { ok: false, error: { code: 'NO_CAPACITY' } }, 'released, and the helper has not said that it is gone')
  const before = state
  t.ok(send({ type: 'vacate', clusterId: 'first' }).ok)
  t.match(send(segment('second')), { ok: true, answer: { segmentId: 100 } }, 'gone')
  state = before
  now = T0 + HOUR + END_GUARD_MS + 1
  t.match(send(segment('second')), { ok: true, answer: { segmentId: 100 } }, 'over')
  t.end()
})

t.test('a question for a cluster that is being released frees its id after all other hosts have let go', t => {
  const b = new GatewayBench()
  const { offer } = b.active()
  const away = offer.held.find(held => held.kind === 'node')?.host ?? ''
  b.fate = peer => peer === `peer-${away}` ? new MusubiError('UNREACHABLE', 'away', { retryable: true }) : null
  t.throws(() => b.settle(b.releasing()), { code: 'UNREACHABLE' })
  t.ok(b.leases().includes('tokyo-1 segment active'), 'the gateway keeps the id as long as a host may have it plugged in')
  b.now += 1000
  t.throws(() => b.offer({ key: 'k2' }), { code: 'UNREACHABLE' })
  t.ok(b.leases().includes('tokyo-1 segment active'), 'also when it is asked for anew')
  b.fate = () => null
  b.tick(1000)
  t.same(b.leases(), [])
  t.end()
})

t.test('what was activated is released in that order although a loss of power has hidden the commit', t => {
  const b = new GatewayBench()
  const offer = b.offer()
  const receipts = b.commit(offer.offerId)
  b.crash(true)
  t.equal(b.state(), 'offered', 'what the disk says')
  const nodes = [...new Set(offer.held.filter(held => held.kind === 'node').map(held => `peer-${held.host}`))]
  // One host is activated and then away, the other refuses: the master gives all of it up.
  b.fate = (peer, ask) => ask.method === 'hostActivate' && peer === nodes[1] ? new MusubiError('CONFLICT', 'no') : null
  t.throws(() => b.settle(b.activating(b.document([offer]), receipts)), { code: 'CONFLICT' })
  b.fate = peer => peer === nodes[0] ? new MusubiError('UNREACHABLE', 'away', { retryable: true }) : null
  t.throws(() => b.settle(b.releasing()), { code: 'UNREACHABLE' })
  t.ok(b.leases().includes('tokyo-1 segment active'))
  t.end()
})
