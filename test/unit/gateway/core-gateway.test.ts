/** The gateway's state machine alone: what it asks hosts, answers masters and writes down. */
import t from 'tap'
import { MusubiError } from '../../../protocol/core/errors.ts'
import type { GatewayEffect } from '../../../protocol/core/gateway/events.ts'
import { emptyGateway, step } from '../../../protocol/core/gateway/step.ts'
import { HOLD_TTL_MS, MASTERLESS_MS, MAX_HOLD_TTL_MS, MAX_LONG_HOLDS_PER_SITE, MAX_WAITING_PER_CLUSTER } from '../../../protocol/core/limits.ts'
import type { Request } from '../../../protocol/core/messages.ts'
import { CLUSTER, GatewayBench, HOUR, MASTER, OTHER, SECOND } from '../../model/gateway-bench.ts'

const lost = (): MusubiError => new MusubiError('UNREACHABLE', 'no answer', { retryable: true })

t.test('a request is held everywhere, committed, activated and released; what is answered was kept before', t => {
  const b = new GatewayBench()
  const offer = b.offer()
  t.same(b.leases(), ['tokyo-1 segment held', 'tokyo-2 node held', 'tokyo-2 node held', 'tokyo-3 node held'])
  t.equal(offer.segmentId, 1000, 'chosen by the ledger of the gateway')
  t.ok(offer.held.every(h => h.token > 0 && h.leaseId.startsWith(`${offer.offerId}-`)))
  t.equal(b.state(), 'offered')
  const receipts = b.commit(offer.offerId)
  t.same(receipts.map(r => r.leaseId).sort(), offer.held.map(h => h.leaseId).sort())
  t.equal(b.state(), 'committed')
  b.settle(b.activating(b.document([offer]), receipts))
  t.equal(b.state(), 'active')
  t.match(b.record(), { anchor: 'tsukuba-1', epoch: 1, masterPeer: MASTER.peerId })
  t.ok(b.leases().every(l => l.endsWith('active')))
  t.match(b.settle(b.releasing()), { reply: { ended: 4 } })
  t.same([b.leases(), b.record(), b.disk.size], [[], undefined, 0])
  t.match(b.settle(b.releasing()), { reply: { ended: 0 } })
  t.same(b.notes, ['lease.offered', 'lease.committed', 'lease.activated', 'lease.released'])
  t.end()
})

t.test('the plan is saved before the first hold leaves, and step leaves its machine as it was', t => {
  const machine = emptyGateway('tokyo')
  const b = new GatewayBench()
  const { effects, state } = step(machine, { type: 'ask', askId: 1, caller: MASTER, ask: b.asking() }, b.now)
  t.same(effects.map((e: GatewayEffect) => e.effect), ['save', 'call', 'call', 'call'])
  t.match(effects[0], { effect: 'save', sync: false, record: { state: 'asking' } })
  t.same([machine.records.size, machine.calls.size, state.records.size, state.calls.size], [0, 0, 1, 3])
  t.end()
})

t.test('what is wrong with a request is said by name, and nothing changes', t => {
  const refusals: Array<[Partial<Request>, string, RegExp]> = [
    [{ masterSite: 'osaka' }, 'FORBIDDEN', /in the name of site osaka/],
    [{ nodes: [] }, 'INVALID_INPUT', /asks for nothing/],
    [{ endMs: Number.NaN }, 'INVALID_INPUT', /no time/],
    [{ startMs: -5 }, 'INVALID_INPUT', /no time/],
    [{ endMs: 1_800_000_000_001 }, 'INVALID_INPUT', /below/],
    [{ startMs: 0, endMs: HOUR }, 'INVALID_INPUT', /past/],
    [{ epoch: 0 }, 'INVALID_INPUT', /epoch 0/],
    [{ epoch: 1.5 }, 'INVALID_INPUT', /epoch/],
    [{ holdTtlMs: -1 }, 'INVALID_INPUT', /time to live/],
    [{ bandwidthMbit: -1 }, 'INVALID_INPUT', /bandwidth/],
    [{ vni: 0 }, 'INVALID_INPUT', /VNI/],
    [{ sentMs: 0 }, 'CLOCK_SKEW', /clock of site tokyo/],
    [{ sentMs: Number.NaN }, 'INVALID_INPUT', /no time/],
    [{ sentMs: 1_800_000_000_000 + 30_001 }, 'CLOCK_SKEW', /30 s/],
    [{ nodes: [{ name: 'big', vcpus: 200, memoryMib: 10 }] }, 'NO_CAPACITY', /site tokyo: .*needs 200 vCPU/]
  ]
  for (const [part, code, message] of refusals) {
    const b = new GatewayBench()
    const askId = b.ask(b.asking(part))
    t.match(b.outcomes.get(askId), { code, message }, `${code} ${String(message)}`)
    t.same([b.calls, b.disk.size, b.machine.records.size, b.machine.jobs.size], [[], 0, 0, 0])
  }
  t.end()
})

t.test('a new cluster is held for as long as its master asks, within the bound; without a word for the default', t => {
  for (const [askedMs, heldMs] of [[0, HOLD_TTL_MS], [10_000, 10_000], [120_000, 120_000], [MAX_HOLD_TTL_MS, MAX_HOLD_TTL_MS], [4_000_000_000, MAX_HOLD_TTL_MS]] as const) {
    const b = new GatewayBench()
    t.match(b.settle(b.asking({ holdTtlMs: askedMs })), { reply: { ttlMs: heldMs } }, `the offer for ${askedMs}`)
    t.same(b.asked.flatMap(({ ask }) => ask.method === 'hold' ? [ask.request.ttlMs] : []), [heldMs, heldMs, heldMs], `its hosts for ${askedMs}`)
  }
  t.end()
})

t.test('one site has a bounded number of offers held for long; further ones are held as long as any, and say so', t => {
  const b = new GatewayBench()
  const ttlOf = (n: number, part: Partial<Request> = {}): unknown => {
    const clusterId = `${String(n).padStart(8, '0')}-89ab-4cde-8f01-23456789abcd`
    const answer = b.settle(b.asking({ clusterId, key: `k${n}`, cluster: `demo${n}`, nodes: [{ name: `demo${n}-tokyo-001`, vcpus: 1, memoryMib: 16 }], holdTtlMs: MAX_HOLD_TTL_MS, ...part }))
    return answer.method === 'request' ? answer.reply.ttlMs : null
  }
  for (let n = 1; n <= MAX_LONG_HOLDS_PER_SITE; n++) t.equal(ttlOf(n), MAX_HOLD_TTL_MS)
  t.equal(ttlOf(90), HOLD_TTL_MS)
  t.equal(ttlOf(1, { key: 'again' }), MAX_HOLD_TTL_MS, 'one that is asked for anew is none more')
  b.tick(MAX_HOLD_TTL_MS)
  t.equal(ttlOf(91, { sentMs: b.now }), MAX_HOLD_TTL_MS, 'when those are over')
  t.end()
})

t.test('the gateway lets go of its segment when all other hosts have confirmed, and not before', t => {
  const b = new GatewayBench()
  b.active()
  b.fate = peer => peer === 'peer-tokyo-3' ? lost() : null
  t.throws(() => b.settle(b.releasing()), { code: 'UNREACHABLE' })
  t.same(b.leases(), ['tokyo-1 segment active', 'tokyo-3 node active'])
  b.tick(60_000)
  t.same(b.leases(), ['tokyo-1 segment active', 'tokyo-3 node active'], 'nor when it is tried again')
  b.fate = () => null
  b.tick(60_000)
  t.same([b.leases(), b.record()], [[], undefined])
  const [last] = b.asked.slice(-1)
  t.match(last, { peer: 'peer-tokyo-1', ask: { method: 'hostRelease' } })
  t.end()
})

t.test('a release that is tried again names the offer of what was never activated', t => {
  const b = new GatewayBench()
  const offer = b.offer()
  b.commit(offer.offerId)
  b.fate = () => lost()
  t.throws(() => b.settle(b.releasing()), { code: 'UNREACHABLE' })
  b.tick(60_000)
  const named = b.asked.filter(one => one.ask.method === 'hostRelease').map(one => (one.ask.request as { offerId: string }).offerId)
  t.ok(named.length >= 4)
  t.same([...new Set(named)], [offer.offerId])
  t.end()
})

t.test('policy and cordon refuse what is new, not what is promised', t => {
  const b = new GatewayBench()
  const offer = b.offer()
  b.refusal = new MusubiError('POLICY_DENIED', 'not you')
  t.same(b.offer(), offer)
  t.throws(() => b.offer({ key: 'k2' }), { code: 'POLICY_DENIED' })
  t.equal(b.state(), 'offered', 'and what was offered stays')
  t.end()
})

t.test('the same question has the same answer as long as the record lives; another under its key is refused', t => {
  const b = new GatewayBench()
  const offer = b.offer()
  const calls = b.asked.length
  b.now += 120_000
  t.same(b.offer({ sentMs: 0 }), offer, 'also when it comes late')
  t.throws(() => b.offer({ endMs: b.request().endMs + 1 }), { code: 'CONFLICT', message: /key k1 was used for another request/ })
  t.equal(b.asked.length, calls)
  const receipts = b.commit(offer.offerId)
  t.same(b.offer(), offer)
  t.throws(() => b.offer({ key: 'k2' }), { code: 'CONFLICT', message: /already has leases/ })
  b.settle(b.activating(b.document([offer]), receipts))
  t.same(b.offer(), offer)
  t.throws(() => b.offer({ key: 'k2' }), { code: 'CONFLICT', message: /already has leases/ })
  t.end()
})

t.test('questions about one cluster come one after the other, bounded; those about others do not wait', t => {
  const b = new GatewayBench()
  const first = b.ask(b.asking())
  const same = b.ask(b.asking())
  const commit = b.ask(b.committing('guess'))
  t.equal(b.calls.length, 3, 'one hold for each host')
  const other = 'c2000000-0000-4000-8000-000000000000'
  b.ask(b.asking({ clusterId: other, cluster: 'other' }))
  t.equal(b.calls.length, 6)
  for (let i = 2; i < MAX_WAITING_PER_CLUSTER; i++) b.ask(b.asking())
  const tooMany = b.ask(b.asking())
  t.equal(b.code(tooMany), 'BUSY')
  b.deliverAll()
  t.same([b.code(first), b.code(same), b.code(commit)], ['ok', 'ok', 'CONFLICT'])
  t.same(b.outcome(first), b.outcome(same))
  t.equal(b.machine.waiting.size, 0)
  t.end()
})

t.test('a host that refuses is left out of the next placement, and what was held is let go', t => {
  const b = new GatewayBench()
  b.fate = (peer, ask) => ask.method === 'hold' && peer === 'peer-tokyo-2' ? new MusubiError('NO_CAPACITY', 'full') : null
  const offer = b.offer({ nodes: b.request().nodes.slice(0, 1) })
  t.same(offer.held.map(h => h.host).sort(), ['tokyo-1', 'tokyo-3'])
  t.same(b.leases(), ['tokyo-1 segment held', 'tokyo-3 node held'])
  t.match(offer.offerId, /-2$/)
  t.end()
})

t.test('when no placement is left the reasons are told and nothing is held', t => {
  const b = new GatewayBench()
  b.fate = (peer, ask) => ask.method !== 'hold' || peer === 'peer-tokyo-1' ? null : new MusubiError('NO_CAPACITY', `${peer} is full`)
  t.throws(() => b.offer(), { code: 'NO_CAPACITY', message: /site tokyo: .*peer-tokyo-2 is full.*peer-tokyo-3 is full/s })
  t.same([b.leases(), b.disk.size], [[], 0])
  b.fate = (peer, ask) => ask.method === 'hold' && peer === 'peer-tokyo-1' ? new MusubiError('NO_CAPACITY', 'no free segment id') : null
  b.asked = []
  t.throws(() => b.offer(), { code: 'NO_CAPACITY', message: /no free segment id/ })
  t.equal(b.asked.filter(a => a.ask.method === 'hold').length, 3, 'the segment has no other place: no second try')
  b.fate = (_, ask) => ask.method === 'hold' ? new MusubiError('INVALID_INPUT', 'never') : null
  t.throws(() => b.offer(), { code: 'INVALID_INPUT', message: 'never' })
  t.end()
})

t.test('a host that does not even confirm letting go is told again until it does', t => {
  const b = new GatewayBench()
  b.fate = peer => peer === 'peer-tokyo-1' ? null : lost()
  t.throws(() => b.offer(), { code: 'NO_CAPACITY' })
  t.equal(b.state(), 'releasing')
  t.throws(() => b.commit(b.record()?.offer.offerId ?? ''), { code: 'CONFLICT', message: /being released/ })
  b.fate = () => null
  b.tick()
  t.equal(b.record(), undefined)
  t.end()
})

t.test('a master that asks anew gives up what was offered; an older question gives up nothing', t => {
  const b = new GatewayBench()
  const first = b.offer()
  const late = b.asking({ key: 'k0' })
  b.now += 1_000
  const second = b.offer({ key: 'k2', nodes: [...b.request().nodes, { name: 'demo-tokyo-004', vcpus: 2, memoryMib: 2048 }] })
  t.not(second.offerId, first.offerId)
  t.equal(b.leases().length, 5)
  t.throws(() => b.settle(late), { code: 'CONFLICT', message: /anew/ })
  t.throws(() => b.commit(first.offerId), { code: 'CONFLICT' })
  t.equal(b.state(), 'offered')
  b.fate = (peer, ask) => peer === 'peer-tokyo-2' && ask.method === 'hostRelease' ? lost() : null
  b.now += 1_000
  t.equal(b.offer({ key: 'k3', nodes: b.request().nodes.slice(0, 1) }).held.length, 2, 'what never ran ends by itself where it is not confirmed')
  t.end()
})

t.test('what was activated must be confirmed gone before the same cluster is taken in again', t => {
  const b = new GatewayBench()
  b.active()
  b.fate = (peer, ask) => peer === 'peer-tokyo-2' && ask.method === 'hostRelease' ? lost() : null
  t.throws(() => b.settle(b.releasing()), { code: 'UNREACHABLE', message: /tokyo-2/ })
  t.throws(() => b.offer({ key: 'k2' }), { code: 'UNREACHABLE' })
  t.equal(b.state(), 'releasing')
  b.fate = () => null
  b.offer({ key: 'k2' })
  t.equal(b.leases().length, 4)
  t.end()
})

t.test('only its master may touch it', t => {
  const b = new GatewayBench()
  const offer = b.offer()
  for (const ask of [b.asking({ masterSite: 'osaka' }), b.committing(offer.offerId), b.releasing(), b.alive(), b.extending()]) t.throws(() => b.settle(ask, OTHER), { code: 'CONFLICT', message: /another master/ }, ask.method)
  for (const ask of [b.committing(offer.offerId), b.releasing()]) t.throws(() => b.settle(ask, SECOND), { code: 'CONFLICT', message: /another master, peer-tsukuba-1/ })
  t.throws(() => b.commit(offer.offerId, 2), { code: 'GRANT_NEEDED', message: /nobody has proved epoch 2/ })
  t.throws(() => b.commit(offer.offerId, 0), { code: 'INVALID_INPUT' })
  t.equal(b.leases().length, 4)
  t.end()
})

t.test('a verified grant changes the master; the former one is refused from then on', t => {
  const b = new GatewayBench()
  const { offer } = b.active()
  t.throws(() => b.settle(b.alive({ epoch: 2 }), SECOND), { code: 'GRANT_NEEDED' }, 'not without a grant')
  const grant = { epoch: 2, peer: SECOND.peerId }
  t.throws(() => b.settle(b.alive({ epoch: 2, holder: grant }), OTHER), { code: 'CONFLICT' }, 'nor for another site')
  t.throws(() => b.settle(b.alive({ epoch: 2, holder: { epoch: 2, peer: 'peer-tsukuba-3' } }), SECOND), { code: 'CONFLICT' }, 'nor one for somebody else; but that is who leads now')
  t.throws(() => b.settle(b.alive()), { code: 'STALE_EPOCH', message: /led by peer-tsukuba-3 in epoch 2/ })
  t.match(b.settle(b.alive({ epoch: 3, holder: { epoch: 3, peer: SECOND.peerId } }), SECOND), { reply: { epoch: 3, state: 'active' } })
  t.match(b.host('tokyo-2'), { holder: SECOND.peerId, epoch: 3 }, 'hosts are told')
  for (const ask of [b.committing(offer.offerId), b.releasing(), b.alive(), b.asking()]) t.throws(() => b.settle(ask), { code: 'STALE_EPOCH' }, ask.method)
  t.throws(() => b.settle(b.alive({ epoch: 2, holder: grant }), SECOND), { code: 'STALE_EPOCH' }, 'an old grant changes nothing')
  b.ask(b.alive({ epoch: 4, holder: { epoch: 4, peer: SECOND.peerId } }), SECOND)
  b.crash(true)
  t.match(b.record(), { epoch: 4, masterPeer: SECOND.peerId }, 'and it is on the disk, before any host has heard of it')
  t.match(b.settle(b.releasing({ epoch: 4 }), SECOND), { reply: { ended: 4 } })
  t.end()
})

t.test('activation takes only what was offered, committed and proved', t => {
  const b = new GatewayBench()
  const offer = b.offer()
  t.throws(() => b.settle(b.activating(b.document([offer]), [])), { code: 'CONFLICT', message: /no receipt/ })
  const receipts = b.commit(offer.offerId)
  const right = b.document([offer])
  const refused = (document: typeof right, message: RegExp, r = receipts): void => {
    t.throws(() => b.settle(b.activating(document, r)), { code: 'CONFLICT', message }, String(message))
    t.equal(b.record()?.anchor, '')
  }
  refused({ ...right, id: 'c2000000-0000-4000-8000-000000000000' }, /is of cluster c2/)
  refused({ ...right, masterPeer: SECOND.peerId }, /its master is not/)
  refused({ ...right, vni: 8 }, /VNI 8/)
  refused({ ...right, sites: [] }, /leaves out site tokyo/)
  refused({ ...right, nodes: right.nodes.map(n => ({ ...n, host: 'tokyo-3' })) }, /did not offer/)
  refused({ ...right, sites: right.sites.map(s => ({ ...s, segmentId: 5 })) }, /segment id/)
  for (const r of receipts) refused(right, /no receipt/, receipts.filter(one => one !== r))
  const elsewhere = b.activating(right, receipts)
  t.throws(() => b.settle({ ...elsewhere, request: { ...elsewhere.request, receipts } }), { code: 'CONFLICT', message: /no receipt for frontend/ }, 'another site has not committed')
  t.match(b.settle(b.activating(right, receipts)), { reply: { site: 'tokyo' } })
  t.match(b.settle(b.activating(right, receipts)), { reply: { site: 'tokyo' } }, 'and once more')
  refusedAnchor()
  function refusedAnchor (): void {
    t.throws(() => b.settle(b.activating({ ...right, frontend: { ...right.frontend, host: 'tsukuba-9' } }, receipts)), { code: 'CONFLICT', message: /its frontend is on tsukuba-9/ })
  }
  t.end()
})

t.test('a host that does not commit or activate: refused, and all can be asked again', t => {
  const b = new GatewayBench()
  const offer = b.offer()
  b.fate = (peer, ask) => peer === 'peer-tokyo-3' && ask.method === 'hostCommit' ? lost() : null
  t.throws(() => b.commit(offer.offerId), { code: 'UNREACHABLE' })
  t.equal(b.state(), 'offered')
  b.fate = () => null
  const receipts = b.commit(offer.offerId)
  b.fate = (peer, ask) => peer === 'peer-tokyo-3' && ask.method === 'hostActivate' ? lost() : null
  t.throws(() => b.settle(b.activating(b.document([offer]), receipts)), { code: 'UNREACHABLE' })
  t.equal(b.state(), 'committed')
  b.fate = () => null
  b.settle(b.activating(b.document([offer]), receipts))
  t.equal(b.state(), 'active')
  t.end()
})

t.test('a release overtakes what is under way and what waits; late answers of hosts change nothing', t => {
  for (const stage of ['request', 'commit', 'activate'] as const) {
    const b = new GatewayBench()
    const offer = stage === 'request' ? null : b.offer()
    const receipts = offer === null || stage === 'commit' ? [] : b.commit(offer.offerId)
    const under = b.ask(offer === null ? b.asking() : stage === 'commit' ? b.committing(offer.offerId) : b.activating(b.document([offer]), receipts))
    const waits = b.ask(b.asking({ key: 'again' }))
    const late = b.calls.splice(0)
    const release = b.ask(b.releasing())
    t.same([b.code(under), b.code(waits)], ['CONFLICT', 'CONFLICT'], stage)
    const joined = b.ask(b.releasing())
    b.deliverAll()
    t.same([b.code(release), b.code(joined)], ['ok', 'ok'])
    b.calls = late
    b.deliverAll()
    t.equal(b.record(), undefined)
    t.equal(b.machine.calls.size, 0)
    t.notOk(b.leases().some(l => !l.endsWith('held')), 'a stray hold ends by itself')
  }
  t.end()
})

t.test('holds that nobody commits: the record goes when every host says so', t => {
  const b = new GatewayBench()
  b.offer()
  b.tick(1_000)
  t.notOk(b.asked.some(a => a.ask.method === 'hostStatus'), 'nobody is asked before its time')
  b.tick(HOLD_TTL_MS)
  t.equal(b.state(), 'offered', 'hosts still have it')
  for (const name of ['tokyo-1', 'tokyo-2', 'tokyo-3']) for (const lease of b.host(name).leases.values()) lease.state = 'ended'
  b.fate = peer => peer === 'peer-tokyo-3' ? lost() : null
  b.tick(1_000)
  t.equal(b.state(), 'offered', 'one has not said')
  b.fate = () => null
  b.tick(1_000)
  t.equal(b.record(), undefined)
  t.end()
})

t.test('a cluster whose master is silent is shown, not ended; and hosts that lost it make it go', t => {
  const b = new GatewayBench()
  b.active()
  b.tick(MASTERLESS_MS - 1)
  t.notOk(b.notes.includes('lease.masterless'))
  b.tick(1)
  b.tick(1_000)
  t.equal(b.notes.filter(n => n === 'lease.masterless').length, 1)
  b.settle(b.alive({ sentMs: b.now - 5 }))
  t.match(b.machine.heard.get(CLUSTER), { masterless: false, skewMs: 5 })
  t.equal(b.notes.at(-1), 'lease.master-back')
  t.equal(b.leases().length, 4)
  for (const name of ['tokyo-1', 'tokyo-2', 'tokyo-3']) for (const lease of b.host(name).leases.values()) lease.state = 'ended'
  b.settle(b.alive())
  b.tick(1_000)
  t.equal(b.record(), undefined)
  t.throws(() => b.settle(b.alive()), { code: 'NOT_FOUND' })
  t.end()
})

t.test('a release that no host can confirm ends with the term and a day', t => {
  const b = new GatewayBench()
  b.active()
  b.fate = () => lost()
  t.throws(() => b.settle(b.releasing()), { code: 'UNREACHABLE' })
  b.tick(HOUR)
  t.equal(b.state(), 'releasing')
  b.tick(25 * HOUR)
  t.equal(b.record(), undefined)
  t.end()
})

t.test('what the master\'s site borrows is a lease of the gateway where there is a quota', t => {
  const b = new GatewayBench()
  b.quota = true
  const offer = b.offer({ bandwidthMbit: 10 })
  t.match(offer.held.find(h => h.kind === 'quota'), { host: 'tokyo-1', resources: { vcpus: 6, memoryMib: 6144, bandwidthMbit: 10 } })
  t.match(offer.held.find(h => h.kind === 'segment'), { resources: { vcpus: 0, bandwidthMbit: 10 } })
  t.end()
})
