/** What happens to leases that live: extended, grown, shrunk, revoked, confirmed, taken over by another master. */
import t from 'tap'
import { toldSteps } from '../../../agent/policy/shares.ts'
import { zero } from '../../../protocol/core/capacity.ts'
import type { HostExtendRequest } from '../../../protocol/core/gateway/events.ts'
import { heardOf } from '../../../protocol/core/lease/epoch.ts'
import { clusterState, emptyLedger, freeOf, freeQuotaOf } from '../../../protocol/core/lease/lease.ts'
import type { LeaseEvent } from '../../../protocol/core/lease/step.ts'
import { ACTIVATE_TTL_MS, CONFIRM_MS, MASTERLESS_MS, MAX_TERM_MS, REPLAY_KEEP_MS } from '../../../protocol/core/limits.ts'
import type { HoldRequest } from '../../../protocol/core/messages.ts'
import { HOUR, holdRequest, item } from '../../model/fixtures.ts'
import { LedgerHost } from '../../model/ledger-host.ts'

const T0 = 1_800_000_000_000
const one = { ...zero(), vcpus: 1 }

class Host extends LedgerHost {
  constructor () {
    super(emptyLedger('a1', { vcpus: 4, memoryMib: 4096, diskMib: 0, volumes: 2, bandwidthMbit: 100 }, { from: 100, to: 109 }), T0)
  }

  refused (event: LeaseEvent): { code: string, message: string } {
    const result = this.send(event)
    if (result.ok) throw new Error(`${event.type} was not refused`)
    return result.error
  }

  hold = (part: Partial<HoldRequest> = {}): LeaseEvent =>
    ({ type: 'hold', requester: part.masterPeer ?? 'peer1', request: holdRequest({ startMs: this.now, endMs: this.now + HOUR, items: [item('l1', { resources: one })], ...part }) })

  extend = (part: Partial<HostExtendRequest> = {}): LeaseEvent =>
    ({ type: 'extend', requester: 'gateway', request: { key: 'x1', clusterId: 'c1', offerId: 'e1', endMs: T0 + 2 * HOUR, ttlMs: 30_000, epoch: 1, leaseIds: [], ...part } })

  /** a lease l1 of cluster c1, active, with its frontend when this is the anchor */
  running (part: Partial<HoldRequest> = {}): this {
    this.ok(this.hold(part))
    const { receipts } = this.ok({ type: 'commit', clusterId: part.clusterId ?? 'c1', offerId: part.offerId ?? 'o1', epoch: 1 })
    this.ok({ type: 'activate', clusterId: part.clusterId ?? 'c1', receipts, epoch: 1 })
    return this
  }

  commit = (offerId: string, epoch = 1): LeaseEvent => ({ type: 'commit', clusterId: 'c1', offerId, epoch })
  claim = (epoch: number, holder: string, force = false): LeaseEvent => ({ type: 'claim', clusterId: 'c1', epoch, holder, force })
  keepAlive = (epoch: number, holder = ''): LeaseEvent => ({ type: 'keepAlive', clusterId: 'c1', epoch, holder })
  end = (id = 'l1'): number => this.state.leases.get(id)?.endMs ?? 0
  stateOf = (id: string): string => this.state.leases.get(id)?.state ?? ''
  free = (from: number, until: number): number => freeOf(this.state, from, until).vcpus
}
const anchored = (): Host => new Host().running({ items: [item('l1', { resources: one }), item('fe', { kind: 'frontend', resources: zero() })] })

t.test('an extension occupies the calendar while it is held, and is the end once committed', t => {
  const host = new Host().running()
  const held = host.ok(host.extend())
  t.same(held.receipts.map(receipt => receipt.leaseId), ['l1'])
  t.equal(host.end(), T0 + HOUR, 'held: the end is as before')
  t.equal(host.free(T0 + HOUR, T0 + 2 * HOUR), 3, 'but nobody else gets that time')
  t.equal(host.free(T0 + 2 * HOUR, T0 + 3 * HOUR), 4, 'the end does not belong to it')
  t.equal(host.free(T0, T0 + HOUR), 3, 'and it counts once before')
  const { counter } = host.state
  t.same(host.ok(host.extend()), { ...held, replay: true })
  t.equal(host.state.counter, counter)
  const committed = host.ok(host.commit('e1'))
  t.equal(host.end(), T0 + 2 * HOUR)
  t.equal(host.free(T0 + HOUR, T0 + 2 * HOUR), 3, 'once')
  t.same(host.ok(host.commit('e1')), { ...committed, replay: true })
  t.same(host.ok(host.extend()), { ...held, replay: true }, 'the question is answered the same after the commit')
  host.now = T0 + 2 * HOUR - 1
  host.ok({ type: 'tick' })
  t.equal(host.stateOf('l1'), 'active')
  host.now++
  host.ok({ type: 'tick' })
  t.equal(host.stateOf('l1'), 'ended')
  t.match(host.refused(host.commit('e1')).message, /extension e1 on a1 has ended: its leases have ended/)
  host.now += REPLAY_KEEP_MS
  host.ok({ type: 'tick' })
  t.same([host.state.extensions.size, host.state.replays.size, host.state.epochs.size, host.state.leases.size], [0, 0, 0, 0], 'forgotten together')
  t.end()
})

t.test('an extension that nobody commits goes, one that is given up gives its time back', t => {
  const host = new Host().running()
  host.ok(host.extend({ ttlMs: 5_000 }))
  host.now += 5_000
  t.match(host.refused(host.commit('e1')).message, /was not committed in time/)
  t.equal(host.free(T0 + HOUR, T0 + 2 * HOUR), 4)
  host.ok(host.extend({ key: 'x2', offerId: 'e2' }))
  host.ok({ type: 'release', clusterId: 'c1', reason: 'no', offerId: 'e2', epoch: 1 })
  t.equal(host.free(T0 + HOUR, T0 + 2 * HOUR), 4)
  t.equal(host.stateOf('l1'), 'active', 'the lease lives on')
  t.equal(host.ok({ type: 'release', clusterId: 'c1', reason: 'no', offerId: 'e2', epoch: 1 }).replay, true)

  host.ok(host.extend({ key: 'x3', offerId: 'e3' }))
  host.ok(host.commit('e3'))
  host.ok({ type: 'release', clusterId: 'c1', reason: 'another site could not', offerId: 'e3', epoch: 1 })
  t.equal(host.end(), T0 + HOUR, 'committed and released: back to the former end')
  t.equal(host.stateOf('l1'), 'active')
  host.ok(host.extend({ key: 'x4', offerId: 'e4' }))
  host.ok(host.commit('e4'))
  host.now = T0 + HOUR + 1
  t.equal(host.ok({ type: 'release', clusterId: 'c1', reason: 'too late', offerId: 'e4', epoch: 1 }).ended, 1)
  t.equal(host.stateOf('l1'), 'ended', 'its former end has passed')
  t.end()
})

t.test('of extensions one after the other only the last can be given back', t => {
  const host = new Host().running()
  host.ok(host.extend())
  host.ok(host.commit('e1'))
  host.ok(host.extend({ key: 'x2', offerId: 'e2', endMs: T0 + 3 * HOUR }))
  t.match(host.refused(host.extend({ key: 'x3', offerId: 'e3', endMs: T0 + 4 * HOUR })).message, /e2 of cluster c1 is held on a1: one at a time/)
  host.ok({ type: 'release', clusterId: 'c1', reason: 'x', offerId: 'e1', epoch: 1 })
  t.equal(host.end(), T0 + HOUR)
  t.match(host.refused(host.commit('e2')).message, /on which it builds, was released/)
  host.ok(host.extend({ key: 'x4', offerId: 'e4' }))
  host.ok(host.commit('e4'))
  host.ok(host.extend({ key: 'x5', offerId: 'e5', endMs: T0 + 3 * HOUR }))
  host.ok(host.commit('e5'))
  t.equal(host.ok({ type: 'release', clusterId: 'c1', reason: 'x', offerId: 'e4', epoch: 1 }).replay, true, 'the earlier is part of the later')
  t.equal(host.end(), T0 + 3 * HOUR)
  t.end()
})

t.test('extensions that are refused', t => {
  const host = new Host()
  t.equal(host.refused(host.extend()).code, 'NOT_FOUND')
  host.ok(host.hold())
  t.match(host.refused(host.extend()).message, /is held, not committed/)
  host.ok(host.commit('o1'))
  host.ok(host.hold({ key: 'next', offerId: 'next', clusterId: 'next', items: [item('n', { resources: { ...one, vcpus: 4 } })], startMs: T0 + HOUR, endMs: T0 + 2 * HOUR }))
  t.match(host.refused(host.extend()), { code: 'NO_CAPACITY', message: 'host a1: needs 1 vCPU, 0 free' })
  host.ok({ type: 'release', clusterId: 'next', reason: 'x' })
  const bad: Array<[string, string, Partial<HostExtendRequest>]> = [
    ['INVALID_INPUT', 'as late already', { endMs: T0 + HOUR }], ['INVALID_INPUT', 'as late already', { endMs: NaN }], ['INVALID_INPUT', 'as late already', { endMs: T0 + HOUR + 0.5 }],
    ['INVALID_INPUT', 'at most', { endMs: T0 + MAX_TERM_MS + 1 }], ['INVALID_INPUT', 'at most', { ttlMs: Infinity }], ['INVALID_INPUT', 'must be named', { key: '' }],
    ['INVALID_INPUT', 'whole number', { epoch: 0 }], ['INVALID_INPUT', 'twice', { leaseIds: ['l1', 'l1'] }], ['NOT_FOUND', 'no live lease l9', { leaseIds: ['l9'] }],
    ['CONFLICT', 'under another key', { offerId: 'o1' }], ['CONFLICT', 'for another question', { key: 'k1' }], ['INVALID_INPUT', 'whole number', { epoch: 0.5 }]
  ]
  for (const [code, message, part] of bad) t.match(host.refused(host.extend(part)), { code, message: new RegExp(message) }, `${code} ${message}`)
  host.ok(host.extend())
  for (const part of [{ endMs: T0 + 3 * HOUR }, { ttlMs: 1 }, { offerId: 'e2' }, { leaseIds: ['l1'] }]) t.match(host.refused(host.extend(part)).message, /key x1 was used for another question/)
  t.match(host.refused(host.hold({ key: 'x1', offerId: 'o2', items: [item('l2')] })).message, /was used for another/)
  t.match(host.refused(host.hold({ key: 'k2', offerId: 'e1', items: [item('l2', { resources: one })] })).message, /is an extension/)
  t.end()
})

t.test('a boot gives a held extension its time again', t => {
  const host = new Host().running()
  host.ok(host.extend({ ttlMs: 5_000 }))
  host.now += 60_000
  host.ok({ type: 'restart' })
  host.now += 4_999
  host.ok(host.commit('e1'))
  t.equal(host.end(), T0 + 2 * HOUR)
  t.end()
})

t.test('a cluster grows by another offer and shrinks by releasing leases', t => {
  const host = new Host().running()
  host.ok(host.hold({ key: 'k2', offerId: 'o2', items: [item('l2', { resources: one }), item('l3', { resources: one })] }))
  t.equal(clusterState(host.state, 'c1'), 'active', 'what runs is not touched by what is held')
  const { receipts } = host.ok(host.commit('o2'))
  host.ok({ type: 'activate', clusterId: 'c1', receipts, epoch: 1 })
  t.same(['l1', 'l2', 'l3'].map(host.stateOf), ['active', 'active', 'active'])
  t.equal(host.ok({ type: 'release', clusterId: 'c1', reason: 'shrink', leaseIds: ['l2', 'unknown'], epoch: 1 }).ended, 1)
  t.same(['l1', 'l2', 'l3'].map(host.stateOf), ['active', 'ended', 'active'])
  t.equal(host.ok({ type: 'release', clusterId: 'c1', reason: 'shrink', leaseIds: ['l2'], epoch: 1 }).replay, true)
  t.equal(host.ok({ type: 'release', clusterId: 'c1', reason: 'x', leaseIds: [], epoch: 1 }).ended, 0, 'an empty list is nothing, not everything')
  host.ok(host.hold({ key: 'k4', offerId: 'o4', items: [item('l4', { resources: one })] }))
  t.equal(host.ok({ type: 'release', clusterId: 'c1', reason: 'no', offerId: 'o4' }).ended, 1, 'an offer that did not come about')
  t.equal(host.stateOf('l1'), 'active')
  t.match(host.refused(host.hold({ key: 'k5', offerId: 'o4', items: [item('l5', { resources: one })] })).message, /offer o4 is already held/, 'also when it has ended')
  t.end()
})

t.test('the operator of the lender can end everything of a cluster', t => {
  const host = new Host().running()
  host.ok(host.hold({ key: 'k2', offerId: 'o2', items: [item('l2', { resources: one })] }))
  t.equal(host.ok({ type: 'revoke', clusterId: 'c1', reason: 'maintenance' }).ended, 2)
  t.equal(host.state.leases.get('l1')?.endReason, 'maintenance')
  t.equal(host.refused({ type: 'revoke', clusterId: 'c1', reason: 'again' }).code, 'NOT_FOUND')
  t.end()
})

t.test('an advance reservation is confirmed shortly before its start, or ends', t => {
  const book = (host: Host): void => {
    host.ok(host.hold({ startMs: T0 + 5 * HOUR, endMs: T0 + 6 * HOUR }))
    host.ok(host.commit('o1'))
  }
  const silent = new Host()
  book(silent)
  silent.now = T0 + 5 * HOUR - CONFIRM_MS - 1
  t.equal(silent.ok(silent.keepAlive(1)).replay, true, 'too early to be a confirmation')
  silent.now = T0 + 5 * HOUR
  silent.ok({ type: 'tick' })
  t.match(silent.state.leases.get('l1'), { state: 'ended', endReason: 'not confirmed by its master' })

  const heard = new Host()
  book(heard)
  heard.now = T0 + 5 * HOUR - CONFIRM_MS
  t.equal(heard.ok(heard.keepAlive(1)).replay, false)
  t.equal(heard.ok(heard.keepAlive(1)).replay, true)
  heard.now = T0 + 5 * HOUR + ACTIVATE_TTL_MS - 1
  heard.ok({ type: 'tick' })
  t.equal(heard.stateOf('l1'), 'committed')

  const off = new Host()
  book(off)
  off.now = T0 + 5 * HOUR + 1
  off.ok({ type: 'restart' })
  t.equal(off.stateOf('l1'), 'committed', 'while it was off nobody could confirm')
  t.end()
})

t.test('a former master is refused', t => {
  const host = new Host().running()
  host.ok(host.keepAlive(3, 'peer2'))
  t.same(host.state.epochs.get('c1'), { clusterId: 'c1', epoch: 3, holder: 'peer2', token: host.state.counter })
  const late: LeaseEvent[] = [
    host.hold(), host.hold({ key: 'k2', offerId: 'o2', items: [item('l2')] }), host.commit('o1', 2), { type: 'activate', clusterId: 'c1', receipts: [], epoch: 2 },
    { type: 'release', clusterId: 'c1', reason: 'x', epoch: 1 }, host.extend({ epoch: 2 }), host.keepAlive(2), host.keepAlive(3, 'peer3')
  ]
  for (const event of late) t.match(host.refused(event), { code: 'STALE_EPOCH', message: /the master peer2 since epoch 3/ }, event.type)
  for (const epoch of [NaN, -1, 1.5, 2 ** 32]) t.equal(host.refused(host.commit('o1', epoch)).code, 'INVALID_INPUT')
  host.ok(host.hold({ key: 'k3', offerId: 'o3', items: [item('l3', { resources: one })], masterPeer: 'peer2', epoch: 3 }))
  t.equal(host.stateOf('l3'), 'held', 'the new master goes on with the cluster')
  t.equal(host.ok({ type: 'release', clusterId: 'c1', reason: 'clean-up' }).ended, 2, 'without an epoch nothing is checked')
  t.end()
})

t.test('the anchor alone raises the epoch, and to one holder', t => {
  const host = anchored()
  t.match(host.refused(host.keepAlive(2, 'peer2')), { code: 'CONFLICT', message: /a1 decides who is master .* has granted epoch 1, not 2/ })
  t.match(host.refused(host.claim(2, 'peer2')), { code: 'MASTER_ALIVE', retryable: true })
  host.now += MASTERLESS_MS - 1
  host.ok(host.keepAlive(1, 'peer1'))
  t.equal(heardOf(host.state, 'c1'), host.now)
  host.now += MASTERLESS_MS - 1
  t.equal(host.refused(host.claim(2, 'peer2')).code, 'MASTER_ALIVE')
  host.now++
  host.ok(host.claim(2, 'peer2'))
  const { counter } = host.state
  t.equal(host.ok(host.claim(2, 'peer2')).replay, true)
  t.equal(host.state.counter, counter)
  t.equal(host.refused(host.claim(2, 'peer3')).code, 'STALE_EPOCH')
  t.equal(host.refused(host.claim(1, 'peer1')).code, 'STALE_EPOCH')
  t.equal(host.refused(host.claim(3, 'peer3')).code, 'MASTER_ALIVE', 'the new one was just heard of')
  host.ok(host.claim(3, 'peer2'))
  host.ok(host.claim(7, 'peer3', true))
  t.match(host.state.epochs.get('c1'), { epoch: 7, holder: 'peer3' })
  for (const epoch of [0, -1, NaN, 2 ** 32]) t.equal(host.refused(host.claim(epoch, 'p', true)).code, 'INVALID_INPUT')
  const elsewhere = new Host().running()
  t.equal(elsewhere.refused(elsewhere.claim(2, 'peer2', true)).code, 'NOT_ANCHOR')
  t.equal(elsewhere.refused({ type: 'claim', clusterId: 'c9', epoch: 2, holder: 'p', force: true }).code, 'NOT_FOUND')
  t.end()
})

t.test('quotas count what a site borrows, not what the host has', t => {
  const host = new Host()
  host.state.quotas = new Map([['tokyo', { ...zero(), vcpus: 2 }]])
  const quota = (name: string, vcpus: number, part: Partial<HoldRequest> = {}): LeaseEvent =>
    host.hold({ key: name, offerId: name, clusterId: name, items: [item(name, { kind: 'quota', resources: { ...zero(), vcpus } })], ...part })
  host.ok(quota('a', 2))
  t.equal(host.free(T0, T0 + HOUR), 4, 'nothing of the host')
  t.match(host.refused(quota('b', 1)), { code: 'QUOTA_EXCEEDED', retryable: true, message: 'gateway a1 lends no more to site tokyo: needs 1 vCPU, 0 free' })
  host.ok(quota('c', 2, { startMs: T0 + HOUR, endMs: T0 + 2 * HOUR }))
  host.ok(quota('d', 99, { masterSite: 'osaka' }))
  t.same(freeQuotaOf(host.state, 'tokyo', T0 + 2 * HOUR, T0 + 3 * HOUR), { ...zero(), vcpus: 2, nodes: Infinity }, 'the number of nodes is not bounded where nothing is said of it')
  host.ok({ type: 'commit', clusterId: 'a', offerId: 'a' })
  t.equal(host.refused({ type: 'extend', requester: 'g', request: { key: 'x', clusterId: 'a', offerId: 'e', endMs: T0 + 2 * HOUR, ttlMs: 0, epoch: 1, leaseIds: [] } }).code, 'QUOTA_EXCEEDED')
  host.ok({ type: 'release', clusterId: 'c', reason: 'x' })
  host.ok({ type: 'extend', requester: 'g', request: { key: 'x', clusterId: 'a', offerId: 'e', endMs: T0 + 2 * HOUR, ttlMs: 0, epoch: 1, leaseIds: [] } })
  t.equal(host.refused(quota('f', 1, { startMs: T0 + HOUR, endMs: T0 + 2 * HOUR })).code, 'QUOTA_EXCEEDED', 'held extensions count')
  t.end()
})

t.test('every dimension counts, and one that is overdrawn keeps nobody else out', t => {
  const host = new Host()
  const want = (name: string, part: Partial<typeof one>): LeaseEvent => host.hold({ key: name, offerId: name, clusterId: name, items: [item(name, { resources: { ...zero(), ...part } })] })
  host.ok(want('a', { volumes: 2, bandwidthMbit: 60 }))
  t.match(host.refused(want('b', { volumes: 1 })).message, /needs 1 exported volumes, 0 free/)
  t.match(host.refused(want('b', { bandwidthMbit: 41 })).message, /needs 41 Mbit\/s, 40 free/)
  host.state.capacity = { ...host.state.capacity, volumes: 0 }
  host.ok(want('b', { vcpus: 1 }))
  t.end()
})

t.test('after a declared loss no segment id is given out, except to who has one', t => {
  const host = new Host()
  host.state.quarantineUntilMs = T0 + HOUR
  const segment = (name: string, clusterId: string, segmentId = 0): LeaseEvent => host.hold({ key: name, offerId: name, clusterId, items: [item(name, { kind: 'segment', segmentId, resources: zero() })], endMs: T0 + 3 * HOUR })
  t.match(host.refused(segment('a', 'a')), { code: 'QUARANTINE', retryable: true })
  t.equal(host.refused(segment('a', 'a', 105)).code, 'QUARANTINE', 'nor one that is asked for')
  host.now = T0 + HOUR
  t.equal(host.ok(segment('a', 'a')).segmentId, 100)
  host.state.quarantineUntilMs = T0 + 2 * HOUR
  t.equal(host.ok(segment('a2', 'a')).segmentId, 100)
  t.end()
})

t.test('after a declared loss no quota is lent before all that may have been lent has ended, to nobody', t => {
  const host = new Host()
  const none = Number.POSITIVE_INFINITY
  host.state.quotas = new Map([['site-b', { vcpus: 4, memoryMib: none, diskMib: none, volumes: none, bandwidthMbit: none, nodes: 2 }], ['site-c', null]])
  host.state.quarantineUntilMs = T0 + HOUR
  // Of another gateway of the site: it needs no segment id of this one.
  const share = (name: string, masterSite: string, startMs: number, endMs: number): LeaseEvent =>
    host.hold({ key: name, offerId: name, clusterId: name, masterSite, startMs, endMs, items: [item(name, { kind: 'quota', name: 'a2', resources: { ...one, memoryMib: 512, nodes: 1 } })] })
  t.match(host.refused(share('a', 'site-b', T0, T0 + 2 * HOUR)), { code: 'QUOTA_EXCEEDED', message: /needs 1 vCPU, 0 free.*1 nodes, 0 free/, hint: /former ledger was lost/ })
  t.match(freeQuotaOf(host.state, 'site-b', T0, T0 + HOUR), { vcpus: 0, nodes: 0, memoryMib: none })
  t.same(toldSteps(host.state, 'site-b', T0).map(({ atMs, free }) => [atMs - T0, free.vcpus, free.nodes]), [[0, 0, 0], [HOUR, 4, 2]], 'as other gateways of the site are told')
  host.ok(share('c', 'site-c', T0, T0 + 2 * HOUR))
  host.ok(share('b', 'site-b', T0 + HOUR, T0 + 2 * HOUR))
  host.now = T0 + HOUR
  host.ok(share('a', 'site-b', T0 + HOUR, T0 + 2 * HOUR))
  t.equal(freeQuotaOf(host.state, 'site-b', T0 + HOUR, T0 + 2 * HOUR)?.nodes, 1, 'the hold from before has lapsed')
  t.end()
})
