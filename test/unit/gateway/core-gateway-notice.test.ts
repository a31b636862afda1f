/** The gateway's state machine: clusters whose lender has given notice, for one of a higher priority. */
import t from 'tap'
import { MusubiError } from '../../../protocol/core/errors.ts'
import { HOLD_TTL_MS, HOST_DEADLINE_MS, MAX_HOLD_TTL_MS, MAX_NOTICES_PER_SITE, NOTICE_RETURN_MS } from '../../../protocol/core/limits.ts'
import { CLUSTER, Crash, GatewayBench, HOUR, OTHER } from '../../model/gateway-bench.ts'
import { MINUTE, T0, HIGH, TERM, CUT, bench, high, commitHigh, releaseHigh, offerOf, noticeOf, methods } from '../../model/notice-bench.ts'

t.test('who has no room but after a notice gets it held: first the others end earlier, the gateway last, then it is placed', t => {
  const b = bench()
  b.asked = []
  const answer = b.settle(high(b), OTHER)
  t.match(answer, { method: 'request' })
  t.same(methods(b).filter(line => line.startsWith('hostCurtail')), ['hostCurtail tokyo-2', 'hostCurtail tokyo-3', 'hostCurtail tokyo-1'])
  t.ok(methods(b).findIndex(line => line.startsWith('hold')) > methods(b).lastIndexOf('hostCurtail tokyo-1'))
  t.same(b.ends(), CUT)
  t.match(b.record(), { state: 'active', endMs: T0 + HOUR, notice: { state: 'given', endMs: T0 + 15 * MINUTE, beneficiary: HIGH, site: 'osaka', reason: /preempted by the policy of tokyo, for site osaka/ } })
  t.match(b.settle(b.alive()), { reply: { state: 'active, preempted', endMs: T0 + 15 * MINUTE, notice: /for site osaka/ } }, 'told with the next keep-alive')
  for (const ask of [b.extending(), b.asking({ key: 'g1', grow: true, nodes: [{ name: 'demo-tokyo-004', vcpus: 1, memoryMib: 512 }] })]) t.throws(() => b.settle(ask), { code: 'POLICY_PREEMPTED', message: /end at .*preempted by the policy of tokyo/ }, ask.method)
  const node = b.record()?.offer.held.find(held => held.kind === 'node')?.leaseId ?? ''
  t.match(b.settle(b.releasing({ leaseIds: [node] })), { reply: { ended: 1 } }, 'it may shrink')
  commitHigh(b, offerOf(answer))
  b.settle(b.alive())
  b.tick(15 * MINUTE - 1)
  t.equal(b.state(), 'active', 'not a moment earlier')
  b.tick(1)
  t.equal(b.state(), '')
  t.same(b.ends(), [], 'all of it is released')
  t.equal(b.state(HIGH), 'committed')
  t.end()
})

t.test('for now, for too soon, for growth, or beyond the bounds nobody gets notice, and nothing is asked of hosts', t => {
  const b = bench()
  b.asked = []
  for (const startMs of [T0, T0 + 10 * MINUTE - 1]) t.throws(() => b.settle(high(b, { startMs, key: `h${startMs}` }), OTHER), { code: 'NO_CAPACITY' })
  const room = b.byNotice
  b.byNotice = undefined
  t.throws(() => b.settle(high(b), OTHER), { code: 'NO_CAPACITY' }, 'who has no higher priority is told of no such room')
  b.byNotice = room
  const record = b.record()
  if (record === undefined) throw new Error('no record')
  for (let i = 0; i < MAX_NOTICES_PER_SITE; i++) {
    const clusterId = `d${String(i).padStart(7, '0')}-0000-4000-8000-000000000000`
    b.machine.records.set(clusterId, { ...record, clusterId, notice: { endMs: T0 + HOUR / 2, reason: '', seq: 1, site: 'osaka', beneficiary: '', state: 'given' } })
  }
  t.throws(() => b.settle(high(b), OTHER), { code: 'NO_CAPACITY' }, 'too many wait for their end')
  t.same([noticeOf(b), methods(b)], [undefined, []])
  t.end()
})

t.test('a notice is withdrawn when what it was for is given up, lapses, or is never held', t => {
  const stories: Array<[string, (b: GatewayBench) => void]> = [
    ['released before its commit', b => { b.settle(high(b), OTHER); releaseHigh(b) }],
    ['released before its start', b => { commitHigh(b, offerOf(b.settle(high(b), OTHER))); releaseHigh(b) }],
    ['its hold lapses', b => {
      b.settle(high(b), OTHER)
      b.now += HOLD_TTL_MS + 1
      for (const host of b.hosts.values()) for (const lease of host.leases.values()) if (lease.clusterId === HIGH) lease.state = 'ended'
      b.tick()
    }],
    ['the hold is refused', b => {
      b.fate = (_, ask) => ask.method === 'hold' ? new MusubiError('NO_CAPACITY', 'somebody was faster') : null
      t.throws(() => b.settle(high(b), OTHER), { code: 'NO_CAPACITY' })
      b.fate = () => null
    }],
    ['given up while hosts are told', b => {
      const askId = b.ask(high(b), OTHER)
      releaseHigh(b)
      b.deliverAll()
      t.equal(b.code(askId), 'CONFLICT')
      t.equal(b.state(HIGH), '')
    }]
  ]
  for (const [name, play] of stories) {
    const b = bench()
    play(b)
    const before = b.asked.length
    b.tick(1000)
    t.same(b.ends(), TERM, name)
    t.equal(noticeOf(b), undefined)
    t.same(methods(b).slice(before).filter(line => line.startsWith('hostRestore')), ['hostRestore tokyo-1', 'hostRestore tokyo-2', 'hostRestore tokyo-3'], 'the gateway first')
    t.match(b.settle(b.alive()), { reply: { state: 'active', endMs: T0 + HOUR, notice: /^the notice was withdrawn at / } })
    t.ok(b.notes.includes('lease.notice-withdrawn'))
    t.match(b.settle(b.extending()), { method: 'extend' }, 'and it can be extended again')
    t.match(b.settle(high(b, { key: 'again', sentMs: b.now }), OTHER), { method: 'request' }, 'and get another one')
    t.same(b.ends(), CUT)
  }
  t.end()
})

t.test('what somebody else has been promised since stays with them: the notice stays, everywhere', t => {
  const b = bench()
  b.settle(high(b), OTHER)
  releaseHigh(b)
  b.fate = (peer, ask) => ask.method === 'hostRestore' && peer === 'peer-tokyo-2' ? new MusubiError('NO_CAPACITY', 'needs 2 vCPU, 0 free') : null
  b.tick(1000)
  t.match(noticeOf(b), { state: 'withdrawing' }, 'a hold that nobody released may be what is in the way')
  b.tick(MAX_HOLD_TTL_MS)
  t.match(noticeOf(b), { state: 'withdrawing' }, 'for as long as any hold lasts')
  b.tick(HOLD_TTL_MS)
  b.tick(1000)
  b.tick(1000)
  t.match(noticeOf(b), { state: 'given', beneficiary: '', endMs: T0 + 15 * MINUTE, reason: /promised to others/ })
  t.same(b.ends(), CUT, 'at the hosts that had given it back as well')
  t.match(b.settle(b.alive()), { reply: { endMs: T0 + 15 * MINUTE, notice: /promised to others since/ } })
  b.fate = () => null
  b.tick(15 * MINUTE)
  t.same([b.state(), b.ends()], ['', []])
  t.end()
})

t.test('a host that does not answer is told again; one of an earlier release keeps its leases until they are released', t => {
  const b = bench()
  b.fate = (peer, ask) => ask.method === 'hostCurtail' && peer === 'peer-tokyo-3' ? new MusubiError('UNREACHABLE', 'no answer', { retryable: true }) : null
  b.settle(high(b), OTHER)
  t.match(noticeOf(b), { state: 'ordered' })
  t.same(b.ends(), ['tokyo-1 3600000', 'tokyo-2 900000', 'tokyo-3 3600000'], 'the segment does not end before what uses it')
  b.fate = () => null
  b.tick(1000)
  t.same([b.ends(), (noticeOf(b) as { state: string }).state], [CUT, 'given'])
  const old = bench()
  old.fate = (peer, ask) => ask.method === 'hostCurtail' && peer === 'peer-tokyo-3' ? new MusubiError('UNIMPLEMENTED', 'not served here') : null
  const offer = old.settle(high(old), OTHER)
  old.tick(1000)
  t.match(noticeOf(old), { state: 'given' })
  t.same(old.ends(), ['tokyo-1 3600000', 'tokyo-2 900000', 'tokyo-3 3600000'])
  commitHigh(old, offerOf(offer))
  old.tick(15 * MINUTE)
  t.same([old.state(), old.ends()], ['', []], 'as before there were such ends')
  t.end()
})

t.test('while a cluster grows the segment keeps its end, until its hosts are all told', t => {
  const b = bench()
  const grow = { key: 'g1', grow: true, nodes: [{ name: 'demo-tokyo-004', vcpus: 1, memoryMib: 512 }] }
  b.settle(b.asking(grow))
  b.settle(high(b), OTHER)
  t.match(noticeOf(b), { state: 'ordered' })
  t.ok(b.ends().includes('tokyo-1 3600000'))
  b.settle(b.releasing({ offerId: b.record()?.amendment?.offerId ?? '' }))
  b.tick(1000)
  t.same(b.ends(), CUT)
  t.end()
})

t.test('an extension that was offered before the notice does not outlive it', t => {
  const b = bench()
  b.settle(b.extending())
  b.settle(high(b), OTHER)
  t.throws(() => b.commit('ext-1'), { code: 'CONFLICT' }, 'the hosts have given it up')
  t.same(b.ends(), CUT)
  t.end()
})

t.test('a later end that a host does not give up keeps nobody from having the former one again', t => {
  const b = bench()
  b.settle(b.extending())
  b.fate = (peer, ask) => peer === 'peer-tokyo-3' && ask.method === 'hostRelease' && ask.request.clusterId === CLUSTER ? new MusubiError('UNREACHABLE', 'no answer', { retryable: true }) : null
  t.throws(() => b.settle(b.releasing({ offerId: 'ext-1' })), { code: 'UNREACHABLE' })
  t.ok(b.asked.filter(({ ask }) => ask.method === 'hostRelease').every(({ deadlineMs }) => deadlineMs <= HOST_DEADLINE_MS), 'nothing is stopped for it: it is not waited for as long as for that')
  b.settle(high(b), OTHER)
  t.match(noticeOf(b), { state: 'given' })
  releaseHigh(b)
  for (let i = 0; i < 4; i++) b.tick(5_000)
  t.same([b.ends(), noticeOf(b), b.record()?.amendment?.state], [TERM, undefined, 'releasing'], 'both are tried')
  b.fate = () => null
  b.tick(5_000)
  b.tick(5_000)
  t.equal(b.record()?.amendment, null)
  t.end()
})

t.test('who wants another time than it was given notice for gives it back', t => {
  const again = (b: GatewayBench): void => {
    b.settle(high(b), OTHER)
    const asking = b.asking({ clusterId: HIGH, cluster: 'high', masterSite: 'osaka', startMs: T0 + 50 * MINUTE, endMs: T0 + 2 * HOUR, key: 'h2', sentMs: b.now })
    t.match(b.settle(asking, OTHER), { method: 'request' })
  }
  const b = bench()
  again(b)
  b.tick(1000)
  t.same([b.ends(), noticeOf(b), b.state(HIGH)], [TERM, undefined, 'offered'])

  const taken = bench()
  again(taken)
  commitHigh(taken, taken.record(HIGH)?.offer.offerId ?? '')
  taken.fate = (peer, ask) => ask.method === 'hostRestore' && peer === 'peer-tokyo-2' ? new MusubiError('NO_CAPACITY', 'needs 2 vCPU, 0 free') : null
  taken.tick(1000)
  taken.tick(MAX_HOLD_TTL_MS + HOLD_TTL_MS)
  for (let i = 0; i < 3; i++) taken.tick(1000)
  t.match(noticeOf(taken), { state: 'given', beneficiary: '', reason: /promised to others/ }, 'where it has taken the room the end stays, and says why')
  t.end()
})

t.test('what others have notice for is not held for its user until they have gone: it lapses in time for their former end', t => {
  for (const [startMs, ttlMs] of [[T0 + 15 * MINUTE, MAX_HOLD_TTL_MS], [T0 + 5 * MINUTE, 5 * MINUTE - NOTICE_RETURN_MS], [T0 + 70_000, HOLD_TTL_MS]] as const) {
    const b = bench()
    b.byNotice = { clusters: [{ clusterId: CLUSTER, cluster: 'demo', site: 'tsukuba', priority: 10, noticeMs: 60_000, seq: 0 }], hosts: b.view().hosts }
    const asking = high(b, { startMs })
    t.match(b.settle({ ...asking, request: { ...asking.request, holdTtlMs: MAX_HOLD_TTL_MS } }, OTHER), { reply: { ttlMs } })
    // its user says nothing
    b.now += ttlMs + 1
    for (const host of b.hosts.values()) for (const lease of host.leases.values()) if (lease.clusterId === HIGH) lease.state = 'ended'
    while (b.now < startMs - 5_000) b.tick(5_000)
    t.same([b.state(), b.ends(), noticeOf(b)], ['active', TERM, undefined], `a start in ${(startMs - T0) / 1000} s`)
  }
  const b = bench()
  const asking = b.asking({ clusterId: HIGH, cluster: 'high', masterSite: 'osaka', startMs: T0 + 70_000, endMs: T0 + HOUR, holdTtlMs: MAX_HOLD_TTL_MS, key: 'h1' })
  t.match(b.settle(asking, OTHER), { reply: { ttlMs: MAX_HOLD_TTL_MS } }, 'where nobody has notice it may be thought about')
  t.end()
})

t.test('a master may give up earlier, and a release that not every host confirms is tried again after a loss of power', t => {
  const other = bench()
  other.settle(high(other), OTHER)
  t.match(other.settle(other.releasing()), { reply: { ended: 5 } })
  t.equal(other.state(), '')
  const b = bench()
  commitHigh(b, offerOf(b.settle(high(b), OTHER)))
  b.crash(true)
  t.match(b.settle(b.alive()), { reply: { endMs: T0 + 15 * MINUTE } })
  b.now = T0 + 15 * MINUTE - 5_000
  b.crash(true)
  b.fate = (peer, ask) => peer === 'peer-tokyo-3' && ask.method === 'hostRelease' ? new MusubiError('UNREACHABLE', 'no answer', { retryable: true }) : null
  b.tick(5_000)
  t.equal(b.state(), 'releasing')
  t.ok(b.leases().some(line => line.startsWith('tokyo-1 segment active')), 'the segment is the last to go')
  b.crash(true)
  b.fate = () => null
  b.tick(5_000)
  t.same([b.state(), b.ends()], ['', []])
  t.end()
})

t.test('a record of an earlier release keeps its notice as it is', t => {
  const b = bench()
  const record = b.record()
  if (record === undefined) throw new Error('no record')
  b.disk.set(CLUSTER, JSON.stringify({ ...record, notice: { endMs: T0 + 5 * MINUTE, reason: 'preempted' } }))
  b.crash()
  b.asked = []
  b.tick(1000)
  t.same(methods(b).filter(line => /Curtail|Restore/.test(line)), [])
  t.match(b.settle(b.alive()), { reply: { endMs: T0 + 5 * MINUTE, notice: 'preempted' } })
  b.tick(5 * MINUTE)
  t.equal(b.state(), '')
  t.end()
})

t.test('at whatever effect the gateway dies, what runs has its end back or somebody holds the room', t => {
  for (const power of [false, true]) {
    for (let crashAfter = 1; ; crashAfter++) {
      const b = bench()
      b.effects = 0
      b.crashAfter = crashAfter
      let done = false
      try {
        const offer = b.settle(high(b), OTHER)
        commitHigh(b, offerOf(offer))
        done = true
      } catch (error) {
        if (!(error instanceof Crash)) throw error
      }
      // What hosts were told may still arrive.
      const late = done ? [] : b.calls.splice(0)
      b.crash(power)
      for (const { peer, ask } of late) try { b.answer(peer, ask) } catch { /* it came too late */ }
      for (let i = 0; i < 20; i++) {
        b.now += 5_000
        for (const host of b.hosts.values()) for (const lease of host.leases.values()) if (lease.clusterId === HIGH && lease.state === 'held' && b.now > T0 + HOLD_TTL_MS + 5_000) lease.state = 'ended'
        b.tick()
        b.settle(b.alive())
      }
      const holds = b.ends(HIGH).length > 0
      t.same(b.ends(), holds ? CUT : TERM, `${power ? 'power' : 'kill'} at effect ${crashAfter}: ${holds ? 'held' : 'not held'}`)
      t.equal(noticeOf(b) === undefined, !holds)
      if (done) break
    }
  }
  t.end()
})

t.test('at whatever effect the gateway dies while it withdraws, all of it has its end back', t => {
  for (let crashAfter = 1; ; crashAfter++) {
    const b = bench()
    b.settle(high(b), OTHER)
    releaseHigh(b)
    b.effects = 0
    b.crashAfter = crashAfter
    let done = false
    try {
      b.tick(1000)
      done = true
    } catch (error) {
      if (!(error instanceof Crash)) throw error
    }
    b.crash(true)
    b.tick(1000)
    b.tick(1000)
    t.same([b.ends(), noticeOf(b)], [TERM, undefined], `at effect ${crashAfter}`)
    if (done) break
  }
  t.end()
})
