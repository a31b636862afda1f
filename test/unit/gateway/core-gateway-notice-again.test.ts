/** The gateway's state machine: clusters that get notice more than once. */
import t from 'tap'
import type { SiteAsk } from '../../../protocol/core/gateway/events.ts'
import { MusubiError } from '../../../protocol/core/errors.ts'
import { GIVEN_BACK_MS, HOLD_TTL_MS, MAX_GIVEN_BACK, MAX_HOLD_TTL_MS, NOTICE_RETURN_MS } from '../../../protocol/core/limits.ts'
import { isLeftAlone, pendingNotices } from '../../../protocol/core/gateway/notice.ts'
import { CLUSTER, Crash, type GatewayBench, OTHER } from '../../model/gateway-bench.ts'
import { MINUTE, T0, HIGH, TERM, CUT, bench, high, commitHigh, releaseHigh, offerOf, noticeOf } from '../../model/notice-bench.ts'

const TOP = 'c3000000-0000-4000-8000-000000000000'
const NAGOYA = { peerId: 'peer-nagoya-1', site: 'nagoya', host: 'nagoya-1', gateway: true }
const SOON = ['tokyo-1 720000', 'tokyo-2 720000', 'tokyo-3 720000']
/** Nagoya, of a higher priority than osaka, asks for a start before that of osaka. */
function top (b: GatewayBench, part: { key?: string, startMs?: number } = {}, seq = b.record()?.notice?.seq ?? 0): Extract<SiteAsk, { method: 'request' }> {
  b.byNotice = { clusters: [{ clusterId: CLUSTER, cluster: 'demo', site: 'tsukuba', priority: 10, noticeMs: 10 * MINUTE, seq }], hosts: b.view().hosts }
  const asking = b.asking({ clusterId: TOP, cluster: 'top', masterSite: 'nagoya', startMs: T0 + 12 * MINUTE, endMs: T0 + 20 * MINUTE, key: 't1', sentMs: b.now, ...part })
  return { ...asking, view: { ...asking.view, hosts: asking.view.hosts.map(host => ({ ...host, free: { ...host.free, vcpus: 0 } })) } }
}
const releaseTop = (b: GatewayBench): unknown => b.settle({ method: 'release', request: { clusterId: TOP, reason: 'given up', offerId: '', leaseIds: [], epoch: 1 } }, NAGOYA)

t.test('how often a site gives notices back is counted, for an hour', t => {
  const b = bench()
  for (let i = 0; i < MAX_GIVEN_BACK; i++) {
    b.settle(high(b, { key: `h${i}`, sentMs: b.now, startMs: b.now + 15 * MINUTE }), OTHER)
    releaseHigh(b)
    b.tick(1000)
    if (i === 1) b.crash(true)
  }
  t.same(b.record()?.givenBack, [{ site: 'osaka', sinceMs: T0 + 1000, times: MAX_GIVEN_BACK }])
  const record = b.record()
  if (record === undefined) throw new Error('no record')
  t.same([isLeftAlone(record, 'osaka', b.now), isLeftAlone(record, 'nagoya', b.now), isLeftAlone(record, 'osaka', T0 + 1000 + GIVEN_BACK_MS)], [true, false, false])
  b.settle(top(b), NAGOYA)
  releaseTop(b)
  b.tick(1000)
  t.same(b.record()?.givenBack?.map(({ site, times }) => [site, times]), [['osaka', MAX_GIVEN_BACK], ['nagoya', 1]])
  t.end()
})

t.test('notice for one does not keep another of still higher priority from an earlier time; given back, the first one holds again', t => {
  const b = bench()
  b.settle(high(b), OTHER)
  t.throws(() => b.settle(top(b, { startMs: T0 + 15 * MINUTE }), NAGOYA), { code: 'NO_CAPACITY' }, 'later than its end nothing comes free')
  t.throws(() => b.settle(top(b, {}, 1), NAGOYA), { code: 'NO_CAPACITY' }, 'what has changed since was not looked at')
  t.match(b.settle(top(b), NAGOYA), { method: 'request' })
  t.same([b.ends(), pendingNotices(b.machine.records.values(), 'osaka'), pendingNotices(b.machine.records.values(), 'nagoya')], [SOON, 1, 1])
  t.match(noticeOf(b), { state: 'given', beneficiary: TOP, site: 'nagoya', under: { beneficiary: HIGH, endMs: T0 + 15 * MINUTE } })
  releaseTop(b)
  b.tick(1000)
  b.tick(1000)
  t.same([b.ends(), b.state(HIGH)], [CUT, 'offered'])
  t.match(noticeOf(b), { state: 'given', beneficiary: HIGH, site: 'osaka', under: undefined })
  t.match(b.settle(b.alive()), { reply: { endMs: T0 + 15 * MINUTE, notice: /for site osaka/ } })
  releaseHigh(b)
  b.tick(1000)
  t.same([b.ends(), noticeOf(b)], [TERM, undefined])

  const both = bench()
  both.settle(high(both), OTHER)
  both.settle(top(both), NAGOYA)
  releaseHigh(both)
  both.tick(1000)
  t.same(both.ends(), SOON, 'the first was given up first')
  releaseTop(both)
  both.tick(1000)
  t.same([both.ends(), noticeOf(both)], [TERM, undefined])

  const over = bench()
  commitHigh(over, offerOf(over.settle(high(over), OTHER)))
  over.settle(top(over), NAGOYA)
  over.now = T0 + 12 * MINUTE - 1
  over.tick()
  t.equal(over.state(), 'active')
  over.tick(1)
  t.same([over.state(), over.ends()], ['', []])
  t.end()
})

t.test('at whatever effect the gateway dies between two notices, the one that is left holds everywhere', t => {
  for (let crashAfter = 1; ; crashAfter++) {
    const b = bench()
    commitHigh(b, offerOf(b.settle(high(b), OTHER)))
    b.effects = 0
    b.crashAfter = crashAfter
    let done = false
    try {
      b.settle(top(b), NAGOYA)
      releaseTop(b)
      b.tick(1000)
      b.tick(1000)
      done = true
    } catch (error) {
      if (!(error instanceof Crash)) throw error
    }
    b.crash(true)
    for (let i = 0; i < 12; i++) {
      b.now += 5_000
      for (const host of b.hosts.values()) for (const lease of host.leases.values()) if (lease.clusterId === TOP && b.now > T0 + HOLD_TTL_MS + 5_000) lease.state = 'ended'
      b.tick()
      b.settle(b.alive())
    }
    t.same(b.ends(), CUT, `at effect ${crashAfter}`)
    t.match(noticeOf(b), { state: 'given', beneficiary: HIGH })
    if (done) break
  }
  t.end()
})

t.test('where the gateway has let go of the segment nobody gets a later end than its id rests for', t => {
  for (const attempts of [0, 1]) {
    const b = bench()
    b.settle(high(b), OTHER)
    t.same(b.ends(), CUT)
    releaseHigh(b)
    if (attempts > 0) {
      // One of them has its end back before.
      b.fate = (peer, ask) => ask.method === 'hostRestore' && peer === 'peer-tokyo-3' ? new MusubiError('UNREACHABLE', 'no route', { retryable: true }) : null
      b.tick(1000)
      t.same(b.ends(), ['tokyo-1 3600000', 'tokyo-2 3600000', 'tokyo-3 900000'])
      b.fate = () => null
    }
    // Its operator revokes what is on the gateway's own host, or it ends there while the disk is slow.
    for (const lease of b.host('tokyo-1').leases.values()) lease.state = 'ended'
    b.tick(1000)
    t.match(noticeOf(b), { state: 'ordered', beneficiary: '', reason: /at its gateway have ended/ })
    b.tick(1000)
    t.same(b.ends(), CUT.slice(1), 'at all hosts that have something of it')
    t.match(noticeOf(b), { state: 'given', beneficiary: '' })
    b.tick(15 * MINUTE)
    t.same([b.state(), b.leases()], ['', []], 'and it goes as its notice says')
  }
  t.end()
})

t.test('of a cluster with two notices nobody has the gateway\'s segment for longer either', t => {
  const b = bench()
  b.settle(high(b), OTHER)
  commitHigh(b, b.record(HIGH)?.offer.offerId ?? '')
  b.tick(1000)
  b.settle(top(b), NAGOYA)
  t.same(b.ends(), SOON)
  for (const lease of b.host('tokyo-1').leases.values()) if (lease.clusterId === CLUSTER) lease.state = 'ended'
  releaseTop(b)
  b.tick(1000)
  b.tick(1000)
  t.same(b.ends(), SOON.slice(1), 'the notice from before holds again only with all of it')
  t.end()
})

t.test('what somebody has notice for is not held for long under the notice of another, either', t => {
  const b = bench()
  b.settle(high(b), OTHER)
  b.settle(top(b), NAGOYA)
  t.match(noticeOf(b), { beneficiary: TOP, under: { beneficiary: HIGH } })
  releaseHigh(b)
  const late = high(b, { key: 'h2', sentMs: b.now })
  b.now = T0 + 12 * MINUTE
  const ttlMs = (b.settle({ ...late, request: { ...late.request, sentMs: b.now, holdTtlMs: MAX_HOLD_TTL_MS }, view: b.view() }, OTHER) as { reply: { ttlMs: number } }).reply.ttlMs
  t.equal(ttlMs, 15 * MINUTE - 12 * MINUTE - NOTICE_RETURN_MS)
  t.end()
})

t.test('nobody ends for what has lapsed, though a host of it cannot be reached; nothing is given up that no host has ended', t => {
  for (const lapsed of [true, false]) {
    const b = bench()
    b.settle(high(b), OTHER)
    b.fate = (peer, { method, request }) => ['hostStatus', 'hostRelease'].includes(method) && peer === 'peer-tokyo-3' && request.clusterId === HIGH ? new MusubiError('UNREACHABLE', 'no route', { retryable: true }) : null
    b.now += HOLD_TTL_MS + 1
    if (lapsed) for (const lease of b.host('tokyo-2').leases.values()) if (lease.clusterId === HIGH) lease.state = 'ended'
    b.tick(1000)
    b.tick(1000)
    t.same([b.state(HIGH), b.ends()], lapsed ? ['releasing', TERM] : ['offered', CUT])
    t.equal(noticeOf(b) === undefined, lapsed)
    if (!lapsed) continue
    b.tick(15 * MINUTE)
    t.equal(b.state(), 'active')
    b.fate = () => null
    b.tick(1000)
    t.equal(b.state(HIGH), '', 'and what is left of it goes when that host is back')
  }
  t.end()
})
