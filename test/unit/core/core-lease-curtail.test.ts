/** Leases whose lender has given notice: they end earlier, others can have what comes free, and it is given back if nobody does. */
import t from 'tap'
import { zero } from '../../../protocol/core/capacity.ts'
import { emptyLedger, freeOf, freeQuotaOf } from '../../../protocol/core/lease/lease.ts'
import type { LeaseEvent } from '../../../protocol/core/lease/step.ts'
import type { HoldRequest } from '../../../protocol/core/messages.ts'
import { createFencing } from '../../../agent/lessor/fencing.ts'
import type { HostObjects } from '../../../agent/lessor/objects.ts'
import { openFence } from '../../../agent/helper/fence/store.ts'
import { openLedger, type Ledger } from '../../../store/ledger.ts'
import { createMemoryStore } from '../../../store/memory.ts'
import { HOUR, holdRequest, item } from '../../model/fixtures.ts'
import { LedgerHost } from '../../model/ledger-host.ts'

const T0 = 1_800_000_000_000
const MINUTE = 60_000
const CUT = T0 + 10 * MINUTE
const one = { ...zero(), vcpus: 1 }
const capacity = { vcpus: 4, memoryMib: 4096, diskMib: 0, volumes: 2, bandwidthMbit: 100 }

/** A gateway on which a cluster of kyoto runs: a node, its segment, and what kyoto borrows by it. */
class Host extends LedgerHost {
  constructor () {
    super({ ...emptyLedger('a1', capacity, { from: 100, to: 101 }), quotas: new Map([['kyoto', { ...zero(), vcpus: 3 }]]) }, T0)
    this.ok(this.hold({ items: [item('l1', { resources: { ...zero(), vcpus: 3 } }), item('s1', { kind: 'segment', resources: { ...zero(), bandwidthMbit: 60 } }), item('q1', { kind: 'quota', resources: { ...zero(), vcpus: 3 } })] }))
    const { receipts } = this.ok({ type: 'commit', clusterId: 'c1', offerId: 'o1', epoch: 1 })
    this.ok({ type: 'activate', clusterId: 'c1', receipts, epoch: 1 })
  }

  code (event: LeaseEvent): string {
    const result = this.send(event)
    return result.ok ? 'ok' : result.error.code
  }

  hold = (part: Partial<HoldRequest> = {}): LeaseEvent =>
    ({ type: 'hold', requester: part.masterPeer ?? 'peer1', request: holdRequest({ masterSite: 'kyoto', startMs: this.now, endMs: T0 + HOUR, items: [item('l1', { resources: one })], ...part }) })

  /** of a cluster of another site, after the notice */
  later = (vcpus: number, part: Partial<HoldRequest> = {}): LeaseEvent =>
    this.hold({ key: 'k2', clusterId: 'd2', offerId: 'o2', masterSite: 'osaka', masterPeer: 'peer2', startMs: CUT, endMs: T0 + 2 * HOUR, items: [item('l2', { resources: { ...zero(), vcpus } })], ...part })

  curtail = (seq = 1, endMs = CUT): LeaseEvent => ({ type: 'curtail', clusterId: 'c1', seq, endMs, reason: 'notice' })
  restore = (seq = 1): LeaseEvent => ({ type: 'restore', clusterId: 'c1', seq })
  extend = (): LeaseEvent => ({ type: 'extend', requester: 'gateway', request: { key: 'x1', clusterId: 'c1', offerId: 'e1', endMs: T0 + 2 * HOUR, ttlMs: 30_000, epoch: 1, leaseIds: [] } })
  ends = (): number[] => ['l1', 's1', 'q1'].map(id => this.state.leases.get(id)?.endMs ?? 0)
}

t.test('every lease of the cluster ends earlier, what comes free can be had, and the counter grows', t => {
  const host = new Host()
  t.equal(host.code(host.later(2)), 'NO_CAPACITY')
  const { counter } = host.state
  t.equal(host.ok(host.curtail()).receipts.length, 3)
  t.equal(host.state.counter, counter + 3)
  t.same(host.ends(), [CUT, CUT, CUT], 'segment and quota as well')
  t.same([freeOf(host.state, CUT, CUT + 1).vcpus, freeOf(host.state, CUT, CUT + 1).bandwidthMbit, freeQuotaOf(host.state, 'kyoto', CUT, CUT + 1)?.vcpus], [4, 100, 3])
  t.equal(freeOf(host.state, CUT - 1, CUT).vcpus, 1)
  t.equal(host.ok(host.curtail()).replay, true, 'again it changes nothing')
  t.equal(host.code(host.later(2)), 'ok')
  host.now = CUT
  host.ok({ type: 'tick' })
  t.match([...host.state.leases.values()].filter(lease => lease.clusterId === 'c1').map(({ state, endReason }) => `${state}: ${endReason}`), ['ended: the term is over', 'ended: the term is over', 'ended: the term is over'])
  t.end()
})

t.test('nothing ends within a minute of its notice, nor later than it did', t => {
  const host = new Host()
  for (const endMs of [T0, T0 + MINUTE - 1]) t.equal(host.code(host.curtail(1, endMs)), 'TOO_SOON')
  t.equal(host.code(host.curtail(1, Number.NaN)), 'INVALID_INPUT')
  t.equal(host.ok(host.curtail(1, T0 + 2 * HOUR)).receipts.length, 0)
  t.same(host.ends(), [T0 + HOUR, T0 + HOUR, T0 + HOUR])
  host.ok(host.curtail(2))
  host.ok(host.curtail(3, CUT + MINUTE))
  t.same(host.ends(), [CUT, CUT, CUT], 'a later notice does not make it longer')
  host.ok(host.restore(3))
  t.same(host.ends(), [T0 + HOUR, T0 + HOUR, T0 + HOUR], 'and what is given back is the end from before both')
  t.equal(host.ok({ type: 'curtail', clusterId: 'none', seq: 1, endMs: CUT, reason: '' }).replay, true, 'of what is not there nothing is to be done')
  t.end()
})

t.test('the end from before comes back for all of it or for nothing, and takes what nobody was promised', t => {
  const host = new Host()
  host.ok(host.curtail())
  host.ok(host.later(2))
  t.equal(host.code(host.restore()), 'NO_CAPACITY')
  t.same(host.ends(), [CUT, CUT, CUT])
  host.ok({ type: 'release', clusterId: 'd2', reason: 'given up', offerId: 'o2' })
  t.equal(host.ok(host.restore()).receipts.length, 3)
  t.same(host.ends(), [T0 + HOUR, T0 + HOUR, T0 + HOUR])
  t.equal(host.ok(host.restore()).replay, true)
  t.equal(host.code(host.later(2, { key: 'k9', offerId: 'o9', items: [item('l9', { resources: { ...zero(), vcpus: 2 } })] })), 'NO_CAPACITY')
  const borrowed = new Host()
  borrowed.ok(borrowed.curtail())
  borrowed.ok(borrowed.hold({ key: 'k3', clusterId: 'd3', offerId: 'o3', startMs: CUT, endMs: T0 + HOUR, items: [item('q3', { kind: 'quota', resources: one })] }))
  t.equal(borrowed.code(borrowed.restore()), 'QUOTA_EXCEEDED', 'its site has borrowed something else since')
  t.end()
})

t.test('where an earlier notice still holds its end comes back, and the one from before both is kept', t => {
  const host = new Host()
  const SOON = T0 + 5 * MINUTE
  const back = (seq: number, endMs: number): LeaseEvent => ({ type: 'restore', clusterId: 'c1', seq, endMs })
  host.ok(host.curtail())
  host.ok(host.later(2))
  host.ok(host.curtail(2, SOON))
  host.ok(host.hold({ key: 'k3', clusterId: 'd3', offerId: 'o3', masterSite: 'nara', masterPeer: 'peer3', startMs: SOON, endMs: CUT, items: [item('l3', { resources: { ...zero(), vcpus: 2 } })] }))
  t.equal(host.code(back(2, CUT)), 'NO_CAPACITY', 'as long as somebody has that room')
  t.same(host.ends(), [SOON, SOON, SOON])
  host.ok({ type: 'release', clusterId: 'd3', reason: 'given up', offerId: 'o3' })
  t.equal(host.ok(back(2, CUT)).receipts.length, 3)
  t.same([host.ends(), host.state.leases.get('l1')?.formerEndMs], [[CUT, CUT, CUT], T0 + HOUR])
  t.equal(host.ok(back(2, CUT)).replay, true)
  t.equal(host.ok(host.curtail(2, SOON)).replay, true, 'an order that comes late')
  t.equal(host.code(host.hold({ key: 'k4', offerId: 'o4', items: [item('l4', { resources: one })] })), 'POLICY_PREEMPTED', 'it has notice still')
  host.ok(host.curtail(3))
  t.equal(host.code(host.restore(3)), 'NO_CAPACITY')
  host.ok({ type: 'release', clusterId: 'd2', reason: 'given up', offerId: 'o2' })
  host.ok(host.restore(3))
  t.same(host.ends(), [T0 + HOUR, T0 + HOUR, T0 + HOUR])
  const missed = new Host()
  missed.ok(back(2, CUT))
  t.same(missed.ends(), [T0 + HOUR, T0 + HOUR, T0 + HOUR], 'what has heard of neither is as it was')
  t.equal(missed.code(missed.curtail(2)), 'STALE_NOTICE')
  missed.ok(missed.curtail(3))
  t.same(missed.ends(), [CUT, CUT, CUT])
  t.end()
})

t.test('what has notice is neither extended nor added to, and a later end that was only held is given up', t => {
  const host = new Host()
  host.state.quotas = new Map()
  host.ok(host.extend())
  host.ok(host.curtail())
  t.equal(host.state.extensions.get('c1/e1')?.state, 'ended')
  t.equal(host.code({ type: 'commit', clusterId: 'c1', offerId: 'e1', epoch: 1 }), 'CONFLICT')
  t.equal(host.code({ ...host.extend(), request: { ...(host.extend() as Extract<LeaseEvent, { type: 'extend' }>).request, key: 'x2', offerId: 'e2' } } as LeaseEvent), 'POLICY_PREEMPTED')
  t.equal(host.code(host.hold({ key: 'k4', offerId: 'o4', items: [item('l4', { resources: one })] })), 'POLICY_PREEMPTED')
  t.equal(host.code({ type: 'release', clusterId: 'c1', reason: 'shrink', leaseIds: ['l1'] }), 'ok', 'it can shrink')
  t.end()
})

t.test('a committed extension that is taken back takes its end from what would be restored', t => {
  const host = new Host()
  host.state.quotas = new Map()
  host.ok(host.extend())
  host.ok({ type: 'commit', clusterId: 'c1', offerId: 'e1', epoch: 1 })
  host.ok(host.curtail())
  host.ok({ type: 'release', clusterId: 'c1', reason: 'taken back', offerId: 'e1' })
  t.same(host.ends(), [CUT, CUT, CUT])
  host.ok(host.restore())
  t.same(host.ends(), [T0 + HOUR, T0 + HOUR, T0 + HOUR])
  t.end()
})

t.test('what comes late from an earlier notice changes nothing', t => {
  const host = new Host()
  host.ok(host.restore(5))
  t.equal(host.code(host.curtail(5)), 'STALE_NOTICE', 'it was withdrawn before it came')
  t.equal(host.code(host.curtail(4)), 'STALE_NOTICE')
  host.ok(host.curtail(6))
  t.equal(host.code(host.restore(5)), 'STALE_NOTICE')
  t.same(host.ends(), [CUT, CUT, CUT])
  t.equal(host.code(host.curtail(0)), 'INVALID_INPUT')
  t.end()
})

t.test('the id of a segment that was curtailed rests as after any end', t => {
  const host = new Host()
  host.ok(host.curtail())
  host.now = CUT
  host.ok({ type: 'tick' })
  host.ok({ type: 'vacate', clusterId: 'c1' })
  t.equal(host.state.leases.get('s1')?.deadlineMs, CUT + 2 * MINUTE, 'other hosts were told before, so it is not the end from before that counts')
  t.end()
})

t.test('a ledger knows its notices after a restart, reads what an earlier release has written, and the fence hears of them', async t => {
  const store = createMemoryStore()
  const open = (): Promise<Ledger> => openLedger({ store, now: () => T0, host: 'a1', capacity })
  const first = await open()
  await first.hold(holdRequest({ startMs: T0, endMs: T0 + HOUR, items: [item('l1', { resources: one })] }))
  const { receipts } = await first.commit('c1', 'o1')
  await first.activate('c1', receipts)
  t.notMatch(JSON.stringify(await store.get('ledger/lease/l1')), /formerEndMs|noticeSeq/, 'as an earlier release writes it')
  t.same(await (await open()).curtail({ clusterId: 'c1', seq: 7, endMs: CUT, reason: 'notice' }), { endMs: CUT })
  const ledger = await open()
  t.match(ledger.leases('c1'), [{ endMs: CUT, formerEndMs: T0 + HOUR, noticeSeq: 7 }])
  const fence = await openFence({ store: createMemoryStore(), now: () => T0 })
  await fence.grant('domain c1.n1', { clusterId: 'c1', counter: 1, endMs: T0 + HOUR })
  const tenancy = (): ReturnType<HostObjects['tenancy']> => ({ counter: ledger.state().counter, clusters: new Map([['c1', { clusterId: 'c1', endMs: CUT }]]) })
  await createFencing(fence, ledger, { tenancy } as HostObjects).shortened('c1')
  t.match(fence.get('domain c1.n1'), { endMs: CUT, state: 'granted' }, 'it ends by itself, with or without the agent')
  t.same(await ledger.restore({ clusterId: 'c1', seq: 7 }), { endMs: T0 + HOUR })
  t.notMatch(JSON.stringify(await store.get('ledger/lease/l1')), /formerEndMs/)
})
