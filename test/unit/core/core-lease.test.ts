import t from 'tap'
import { type LeaseEvent, MAX_ENDED_KEPT, advance, step } from '../../../protocol/core/lease/step.ts'
import {
  type Answer, END_GUARD_MS, ID_QUARANTINE_MS, clusterState, emptyLedger, freeOf, transitions
} from '../../../protocol/core/lease/lease.ts'
import { epochTransitions, extensionTransitions } from '../../../protocol/core/lease/tables.ts'
import { ACTIVATE_TTL_MS, CONFIRM_MS, MAX_HOLD_TTL_MS, MAX_HOLDS_PER_PEER, MAX_LEASES_PER_HOST, MAX_TERM_MS, REPLAY_KEEP_MS } from '../../../protocol/core/limits.ts'
import type { HoldRequest } from '../../../protocol/core/messages.ts'
import { HOUR, essence, holdRequest, item } from '../../model/fixtures.ts'
import { LedgerHost } from '../../model/ledger-host.ts'

const capacity = { vcpus: 4, memoryMib: 4096, diskMib: 10_000, volumes: 0, bandwidthMbit: 0 }
const T0 = 1_800_000_000_000

/** A ledger with a clock that tests set. */
class Host extends LedgerHost {
  constructor () {
    super(emptyLedger('a1', capacity, { from: 100, to: 101 }), T0)
  }

  refused (event: LeaseEvent): { code: string, message: string } {
    const result = this.send(event)
    if (result.ok) throw new Error(`${event.type} was not refused`)
    return result.error
  }

  hold = (part: Partial<HoldRequest> = {}, requester = 'peer1'): LeaseEvent =>
    ({ type: 'hold', requester, request: holdRequest({ startMs: this.now, endMs: this.now + HOUR, ...part }) })

  stateOf = (id: string): string => this.state.leases.get(id)?.state ?? ''
  free = (): number => freeOf(this.state).vcpus

  /** hold, commit and activate in one go */
  activate (clusterId: string, part: Partial<HoldRequest> = {}): Answer {
    this.ok(this.hold({ clusterId, key: `k-${clusterId}`, offerId: `o-${clusterId}`, items: [item(`l-${clusterId}`)], ...part }))
    const { receipts } = this.ok({ type: 'commit', clusterId, offerId: part.offerId ?? `o-${clusterId}` })
    return this.ok({ type: 'activate', clusterId, receipts })
  }
}

t.test('a lease goes from held to ended, its token growing at each step', t => {
  const host = new Host()
  const held = host.ok(host.hold())
  t.equal(host.stateOf('l1'), 'held')
  t.equal(host.free(), 3, 'a hold takes its share')
  const committed = host.ok({ type: 'commit', clusterId: 'c1', offerId: 'o1' })
  t.equal(host.stateOf('l1'), 'committed')
  const active = host.ok({ type: 'activate', clusterId: 'c1', receipts: committed.receipts })
  t.equal(host.stateOf('l1'), 'active')
  t.equal(clusterState(host.state, 'c1'), 'active')
  const released = host.ok({ type: 'release', clusterId: 'c1', reason: 'deleted' })
  t.equal(released.ended, 1)
  t.equal(host.stateOf('l1'), 'ended')
  t.equal(host.state.leases.get('l1')?.endReason, 'deleted')
  const tokens = [held, committed, active, released].map(answer => answer.receipts[0]?.token ?? 0)
  t.same(tokens, tokens.toSorted((a, b) => a - b))
  t.equal(new Set(tokens).size, 4)
  t.equal(tokens[3], host.state.counter)
  t.equal(held.receipts[0]?.host, 'a1')
  t.end()
})

t.test('the state given to step is left alone', t => {
  const host = new Host()
  const before = host.state
  host.ok(host.hold())
  t.equal(before.leases.size, 0)
  t.equal(before.counter, 0)
  t.equal(host.state.leases.size, 1)
  t.end()
})

t.test('replays', t => {
  const host = new Host()
  const hold = host.hold({ items: [item('l1'), item('l2')] })
  const first = host.ok(hold)
  const counter = host.state.counter
  t.same(host.ok(hold), { ...first, replay: true }, 'the same key has the same answer')
  t.equal(host.state.counter, counter, 'and changes nothing')
  const committed = host.ok({ type: 'commit', clusterId: 'c1', offerId: 'o1' })
  t.same(host.ok(hold).receipts, first.receipts, 'also after the commit')
  t.same(host.ok({ type: 'commit', clusterId: 'c1', offerId: 'o1' }).receipts, committed.receipts)
  const active = host.ok({ type: 'activate', clusterId: 'c1', receipts: committed.receipts })
  t.same(host.ok({ type: 'activate', clusterId: 'c1', receipts: committed.receipts }).receipts, active.receipts)
  t.same(host.ok({ type: 'commit', clusterId: 'c1', offerId: 'o1' }).receipts, committed.receipts, 'a commit answers with commit receipts also when active')
  host.ok({ type: 'release', clusterId: 'c1', reason: 'x' })
  const after = host.state.counter
  t.same(host.ok({ type: 'release', clusterId: 'c1', reason: 'y' }), { receipts: [], segmentId: 0, ended: 0, replay: true })
  t.equal(host.state.counter, after)
  t.same(host.ok(hold).receipts, first.receipts, 'also after the end')
  t.equal(host.refused({ type: 'commit', clusterId: 'c1', offerId: 'o1' }).code, 'CONFLICT', 'but no receipt for a lease that has ended')
  t.match(host.refused(host.hold({ items: [item('l1'), item('l3')] })).message, /key k1 was used for another hold/)
  t.match(host.refused(host.hold({ items: [item('l1', { name: 'other' }), item('l2')] })).message, /was used for another/)
  host.now += REPLAY_KEEP_MS
  host.ok({ type: 'tick' })
  t.equal(host.state.replays.size, 0, 'forgotten after a day')
  t.equal(host.state.leases.size, 0)
  t.end()
})

t.test('what does not fit is refused by name, and changes nothing', t => {
  const host = new Host()
  host.ok(host.hold({ items: [item('l1', { resources: { vcpus: 2, memoryMib: 100, diskMib: 0, volumes: 0, bandwidthMbit: 0 } })] }))
  const counter = host.state.counter
  const refusal = host.refused(host.hold({ key: 'k2', offerId: 'o2', clusterId: 'c2', items: [item('l2', { resources: { vcpus: 2, memoryMib: 100, diskMib: 0, volumes: 0, bandwidthMbit: 0 } }), item('l3', { resources: { vcpus: 2, memoryMib: 100, diskMib: 0, volumes: 0, bandwidthMbit: 0 } })] }))
  t.equal(refusal.code, 'NO_CAPACITY')
  t.equal(refusal.message, 'host a1: needs 4 vCPU, 2 free', 'items count together')
  t.equal(host.state.counter, counter)
  t.equal(host.state.leases.size, 1)
  host.ok({ type: 'release', clusterId: 'c1', reason: 'x' })
  host.ok(host.hold({ key: 'k2', offerId: 'o2', clusterId: 'c2', items: [item('l2', { resources: { vcpus: 4, memoryMib: 100, diskMib: 0, volumes: 0, bandwidthMbit: 0 } })] }))
  t.equal(host.free(), 0, 'a refused key may be tried again')
  t.end()
})

t.test('promises are intervals', t => {
  const host = new Host()
  const all = (id: string): ReturnType<typeof item>[] => [item(id, { resources: { vcpus: 4, memoryMib: 1, diskMib: 0, volumes: 0, bandwidthMbit: 0 } })]
  const book = (name: string, from: number, until: number): LeaseEvent =>
    host.hold({ key: name, offerId: name, clusterId: name, items: all(name), startMs: T0 + from * HOUR, endMs: T0 + until * HOUR })
  host.ok(book('a', 2, 4))
  host.ok(book('b', 0, 2))
  t.equal(host.refused(book('c', 3, 5)).code, 'NO_CAPACITY')
  t.equal(host.refused(book('d', 1, 6)).code, 'NO_CAPACITY')
  host.ok(book('e', 4, 5))
  t.equal(freeOf(host.state, T0 + 5 * HOUR, T0 + 6 * HOUR).vcpus, 4)
  const { receipts } = host.ok({ type: 'commit', clusterId: 'a', offerId: 'a' })
  t.equal(host.refused({ type: 'activate', clusterId: 'a', receipts }).code, 'TOO_EARLY')
  host.now = T0 + 2 * HOUR - CONFIRM_MS
  host.ok({ type: 'keepAlive', clusterId: 'a', epoch: 1, holder: 'peer1' })
  host.now = T0 + 2 * HOUR + ACTIVATE_TTL_MS - 1
  host.ok({ type: 'activate', clusterId: 'a', receipts })
  t.equal(host.stateOf('a'), 'active', 'an advance reservation waits for its start, then T_activate')
  t.end()
})

t.test('time ends what nobody carries on', t => {
  const host = new Host()
  host.ok(host.hold({ ttlMs: 5_000 }))
  host.now += 4_999
  host.ok({ type: 'tick' })
  t.equal(host.stateOf('l1'), 'held')
  host.now += 1
  t.match(host.refused({ type: 'commit', clusterId: 'c1', offerId: 'o1' }).message, /has ended: the hold was not committed in time/)
  t.equal(host.free(), 4, 'free again at once')

  host.ok(host.hold({ key: 'k2', offerId: 'o2', clusterId: 'c2', items: [item('l2')] }))
  const { receipts } = host.ok({ type: 'commit', clusterId: 'c2', offerId: 'o2' })
  host.now += ACTIVATE_TTL_MS
  t.match(host.refused({ type: 'activate', clusterId: 'c2', receipts }).message, /was not activated in time/)

  host.activate('c3')
  host.now += HOUR
  host.ok({ type: 'tick' })
  t.equal(host.stateOf('l-c3'), 'ended')
  t.equal(host.state.leases.get('l-c3')?.endReason, 'the term is over')
  t.end()
})

t.test('a clock that goes back stands still', t => {
  const host = new Host()
  host.ok(host.hold())
  host.now -= HOUR
  host.ok({ type: 'tick' })
  t.equal(host.state.clockMs, T0)
  t.equal(host.stateOf('l1'), 'held')
  t.end()
})

t.test('after a reboot holds and committed leases have their full time again', t => {
  const host = new Host()
  host.ok(host.hold({ ttlMs: 5_000 }))
  host.ok(host.hold({ key: 'k2', offerId: 'o2', clusterId: 'c2', items: [item('l2')] }))
  host.ok({ type: 'commit', clusterId: 'c2', offerId: 'o2' })
  host.activate('c3')
  host.now += 20 * 60_000
  host.ok({ type: 'restart' })
  t.same(['l1', 'l2', 'l-c3'].map(host.stateOf), ['held', 'committed', 'active'])
  host.now += 4_999
  host.ok({ type: 'tick' })
  t.equal(host.stateOf('l1'), 'held')
  host.now += 1
  host.ok({ type: 'tick' })
  t.equal(host.stateOf('l1'), 'ended')
  t.equal(host.stateOf('l2'), 'committed')
  t.end()
})

t.test('nothing becomes active without its own commit receipts', t => {
  const host = new Host()
  t.equal(host.refused({ type: 'activate', clusterId: 'c1', receipts: [] }).code, 'NOT_FOUND')
  const held = host.ok(host.hold({ items: [item('l1'), item('l2')] }))
  t.match(host.refused({ type: 'activate', clusterId: 'c1', receipts: held.receipts }).message, /is held, not committed/)
  const { receipts } = host.ok({ type: 'commit', clusterId: 'c1', offerId: 'o1' })
  t.match(host.refused({ type: 'activate', clusterId: 'c1', receipts: receipts.slice(1) }).message, /receipt of lease l1 .* is missing/)
  t.match(host.refused({ type: 'activate', clusterId: 'c1', receipts: held.receipts }).message, /has token 1, the lease 4/)
  t.same(['l1', 'l2'].map(host.stateOf), ['committed', 'committed'])
  host.ok({ type: 'activate', clusterId: 'c1', receipts: [...receipts, { leaseId: 'elsewhere', host: 'b1', token: 9 }] })
  t.same(['l1', 'l2'].map(host.stateOf), ['active', 'active'])
  t.end()
})

t.test('what ran keeps its share until it is known to be gone', t => {
  const host = new Host()
  const whole = { vcpus: 4, memoryMib: 1, diskMib: 0, volumes: 0, bandwidthMbit: 0 }
  host.activate('c1', { items: [item('l-c1', { resources: whole })] })
  host.ok(host.hold({ key: 'next', offerId: 'next', clusterId: 'next', items: [item('next', { resources: whole })], startMs: host.now + HOUR, endMs: host.now + 3 * HOUR }))
  const { receipts } = host.ok({ type: 'commit', clusterId: 'next', offerId: 'next' })
  host.now += HOUR - CONFIRM_MS
  host.ok({ type: 'keepAlive', clusterId: 'next', epoch: 1, holder: 'peer1' })
  const seen = host.state.counter
  host.now += CONFIRM_MS
  t.match(host.refused({ type: 'activate', clusterId: 'next', receipts }), { code: 'NOT_READY', retryable: true }, 'its predecessor may still run')
  host.ok({ type: 'vacate', clusterId: 'c1', seenCounter: seen })
  t.equal(host.refused({ type: 'activate', clusterId: 'next', receipts }).code, 'NOT_READY', 'looked at before it had ended')
  t.equal(host.ok({ type: 'vacate', clusterId: 'c1' }).receipts.length, 1)
  t.equal(host.ok({ type: 'vacate', clusterId: 'c1' }).replay, true)
  host.ok({ type: 'activate', clusterId: 'next', receipts })
  t.equal(host.stateOf('next'), 'active')

  host.ok({ type: 'release', clusterId: 'next', reason: 'x' })
  t.equal(host.free(), 0)
  host.now += END_GUARD_MS
  t.equal(freeOf(host.state, host.now).vcpus, 4, 'or until the guard has passed')
  t.end()
})

t.test('segment ids come from the slice, one for each cluster, and rest after use', t => {
  const host = new Host()
  const segment = (name: string, segmentId = 0): LeaseEvent => host.hold({ key: name, offerId: name, clusterId: name, items: [item(`s-${name}`, { kind: 'segment', segmentId, resources: { vcpus: 0, memoryMib: 0, diskMib: 0, volumes: 0, bandwidthMbit: 0 } })] })
  t.equal(host.ok(segment('a')).segmentId, 100)
  t.equal(host.ok(segment('a')).segmentId, 100, 'replay')
  t.equal(host.refused(segment('b', 100)).code, 'CONFLICT', 'taken')
  t.match(host.refused(segment('b', 99)).message, /outside the slice 100\.\.101/)
  t.equal(host.ok(segment('b', 101)).segmentId, 101)
  t.equal(host.refused(segment('c')).code, 'NO_CAPACITY')
  host.ok({ type: 'release', clusterId: 'a', reason: 'x' })
  t.equal(host.ok(segment('c')).segmentId, 100, 'never plugged in: free at once')
  const { receipts } = host.ok({ type: 'commit', clusterId: 'c', offerId: 'c' })
  host.ok({ type: 'activate', clusterId: 'c', receipts })
  const grown = host.ok(host.hold({ key: 'c2', offerId: 'c2', clusterId: 'c', items: [item('s-c2', { kind: 'segment' })] }))
  t.equal(grown.segmentId, 100, 'a cluster keeps its id')
  host.ok({ type: 'release', clusterId: 'c', reason: 'x' })
  host.ok({ type: 'vacate', clusterId: 'c' })
  t.equal(host.refused(segment('d')).code, 'NO_CAPACITY', 'resting')
  host.now += ID_QUARANTINE_MS
  host.ok({ type: 'tick' })
  t.equal(host.ok(segment('d')).segmentId, 100)

  const silent = new Host()
  silent.ok(segment('e'))
  silent.ok(silent.hold({ key: 'f', offerId: 'f', clusterId: 'f', items: [item('s-f', { kind: 'segment', resources: { vcpus: 0, memoryMib: 0, diskMib: 0, volumes: 0, bandwidthMbit: 0 } })] }))
  const held = silent.ok({ type: 'commit', clusterId: 'f', offerId: 'f' })
  silent.ok({ type: 'activate', clusterId: 'f', receipts: held.receipts })
  const endMs = silent.state.leases.get('s-f')?.endMs ?? 0
  silent.ok({ type: 'revoke', clusterId: 'f', reason: 'x' })
  silent.ok({ type: 'vacate', clusterId: 'f' })
  const again = (n: number): LeaseEvent => silent.hold({ key: `g${n}`, offerId: `g${n}`, clusterId: `g${n}`, startMs: silent.now, endMs: silent.now + HOUR, items: [item(`s-g${n}`, { kind: 'segment', segmentId: 101, resources: { vcpus: 0, memoryMib: 0, diskMib: 0, volumes: 0, bandwidthMbit: 0 } })] })
  t.equal(silent.stateOf('s-f'), 'ended', 'gone from here')
  silent.now = endMs + END_GUARD_MS - 1
  t.equal(silent.refused(again(1)).code, 'CONFLICT', 'another host may have it until its end')
  silent.now += 1
  t.equal(silent.ok(again(2)).segmentId, 101)

  const plain = new Host()
  plain.state = emptyLedger('a2', capacity)
  t.match(plain.refused(plain.hold({ items: [item('l1', { kind: 'segment' })] })).message, /a2 gives out no segment ids/)
  t.end()
})

t.test('bounds', t => {
  const host = new Host()
  host.state = emptyLedger('a1', { vcpus: 1000, memoryMib: 1_000_000, diskMib: 0, volumes: 0, bandwidthMbit: 0 })
  const nth = (i: number, requester: string): LeaseEvent => host.hold({ key: `k${i}`, offerId: `o${i}`, clusterId: `c${i}`, items: [item(`l${i}`)] }, requester)
  for (let i = 0; i < MAX_HOLDS_PER_PEER; i++) host.ok(nth(i, 'greedy'))
  t.match(host.refused(nth(1000, 'greedy')), { code: 'TOO_MANY_HOLDS', retryable: true })
  host.ok(nth(1001, 'modest'))
  host.ok({ type: 'commit', clusterId: 'c0', offerId: 'o0' })
  host.ok(nth(1002, 'greedy'))
  t.match(host.refused(nth(1003, 'greedy')).message, /holds 64 offers for peer greedy/)
  t.end()
})

t.test('the number of leases is bounded, live and ended', t => {
  const state = emptyLedger('a1', { vcpus: 0, memoryMib: 0, diskMib: 0, volumes: 0, bandwidthMbit: 0 })
  const free = { vcpus: 0, memoryMib: 0, diskMib: 0, volumes: 0, bandwidthMbit: 0 }
  const send = (event: LeaseEvent): ReturnType<typeof step>['result'] => advance(state, event, T0).result
  const batch = (i: number, size: number): LeaseEvent => ({
    type: 'hold',
    requester: `peer${i}`,
    request: holdRequest({ key: `k${i}`, offerId: `o${i}`, clusterId: `c${i}`, startMs: T0, endMs: T0 + HOUR, items: Array.from({ length: size }, (_, n) => item(`l${i}-${n}`, { resources: free })) })
  })
  const size = MAX_LEASES_PER_HOST / 4
  for (let i = 0; i < 4; i++) t.equal(send(batch(i, size)).ok, true)
  t.match(send(batch(4, 1)), { ok: false, error: { code: 'NO_CAPACITY', message: /has 1024 leases/ } })
  for (let i = 0; i < 4; i++) send({ type: 'release', clusterId: `c${i}`, reason: 'x' })
  // One that runs and one that ended first but had run: neither may be forgotten for room.
  send(batch(4, 1))
  const committed = send({ type: 'commit', clusterId: 'c4', offerId: 'o4' })
  send({ type: 'activate', clusterId: 'c4', receipts: committed.ok ? committed.answer.receipts : [] })
  send({ type: 'release', clusterId: 'c4', reason: 'x' })
  for (let i = 5; i < 40; i++) {
    send(batch(i, size))
    send({ type: 'release', clusterId: `c${i}`, reason: 'x' })
    t.ok(state.leases.size <= MAX_LEASES_PER_HOST + MAX_ENDED_KEPT)
  }
  t.equal(state.leases.has('l0-0'), false, 'the oldest is forgotten')
  t.equal(state.replays.has('k0'), false, 'with its answer')
  t.equal(state.leases.has('l39-0'), true)
  t.equal(state.leases.has('l4-0'), true, 'not what may still run')
  t.end()
})

t.test('requests that make no sense', t => {
  const host = new Host()
  const bad: Array<[string, Partial<HoldRequest>]> = [
    ['nothing is asked for', { items: [] }],
    ['a lease id of its own', { items: [item('a'), item('a')] }],
    ['whole numbers', { items: [item('a', { resources: { vcpus: -1, memoryMib: 0, diskMib: 0, volumes: 0, bandwidthMbit: 0 } })] }],
    ['whole numbers', { items: [item('a', { resources: { vcpus: 0.5, memoryMib: 0, diskMib: 0, volumes: 0, bandwidthMbit: 0 } })] }],
    ['whole numbers', { items: [item('a', { resources: { vcpus: NaN, memoryMib: 0, diskMib: 0, volumes: 0, bandwidthMbit: 0 } })] }],
    ['whole numbers', { items: [item('a', { resources: { vcpus: 2 ** 53, memoryMib: 0, diskMib: 0, volumes: 0, bandwidthMbit: 0 } })] }],
    ['whole numbers', { items: [item('a', { segmentId: -1 })] }],
    ['an item is one of', { items: [item('a', { kind: 'moon' })] }],
    ['a lease id of its own', { items: [item('\ud800')] }],
    ['must be named', { offerId: 'x'.repeat(257) }],
    ['epoch of a master', { epoch: 0 }],
    ['over already', { startMs: NaN }],
    ['over already', { endMs: Infinity }],
    ['in the past', { startMs: T0 - 2 * HOUR, endMs: T0 + HOUR }],
    ['too far in the future', { startMs: T0 + MAX_TERM_MS + 1, endMs: T0 + MAX_TERM_MS + HOUR }],
    ['a term is between', { endMs: T0 + MAX_TERM_MS + 1 }],
    ['at most', { ttlMs: NaN }],
    ['at most', { ttlMs: 0.5 }],
    ['at most', { ttlMs: -1 }],
    ['over already', { startMs: T0 - 2 * HOUR, endMs: T0 }],
    ['a term is between', { endMs: T0 + 1000 }],
    ['at most', { ttlMs: MAX_HOLD_TTL_MS + 1 }],
    ['must be named', { key: '' }]
  ]
  for (const [message, part] of bad) t.match(host.refused(host.hold(part)), { code: 'INVALID_INPUT', message: new RegExp(message) }, message)
  t.equal(host.refused(host.hold({ epoch: 1.5 })).code, 'INVALID_INPUT')
  t.equal(host.state.counter, 0)
  t.equal(host.state.leases.size, 0)
  host.ok(host.hold())
  t.match(host.refused(host.hold({ key: 'k2' })).message, /already held on a1 under another key/)
  t.match(host.refused(host.hold({ key: 'k2', offerId: 'o2', items: [item('l2')], masterPeer: 'thief' }, 'thief')).code, 'STALE_EPOCH')
  t.match(host.refused(host.hold({ key: 'k2', offerId: 'o2', items: [item('l2')] }, 'thief')).message, /belongs to another peer/)
  t.match(host.refused(host.hold({ key: 'k2', offerId: 'o2' })).message, /lease l1 exists already/)
  t.equal(host.refused({ type: 'commit', clusterId: 'c1', offerId: 'o9' }).code, 'NOT_FOUND')
  t.end()
})

t.test('a known key with anything else in it is refused, whatever that is', t => {
  const host = new Host()
  host.ok(host.hold({ items: [item('l1'), item('l2', { kind: 'volume' })] }))
  const same = (part: Partial<HoldRequest>): LeaseEvent => host.hold({ items: [item('l1'), item('l2', { kind: 'volume' })], ...part })
  const before = essence(host.state)
  const other: Array<Partial<HoldRequest>> = [
    { clusterId: 'c2' }, { cluster: 'other' }, { masterSite: 'osaka' }, { offerId: 'o2' }, { startMs: T0 + 1 }, { endMs: T0 + HOUR + 1 }, { ttlMs: 29_999 },
    { items: [item('l1')] }, { items: [item('l2', { kind: 'volume' }), item('l1')] }, { items: [item('l1'), item('l2')] },
    { items: [item('l1', { segmentId: 3 }), item('l2', { kind: 'volume' })] },
    { items: [item('l1', { resources: { vcpus: 1, memoryMib: 512, diskMib: 0, volumes: 0, bandwidthMbit: 1 } }), item('l2', { kind: 'volume' })] }
  ]
  for (const part of other) t.match(host.refused(same(part)), { code: 'CONFLICT', message: /key k1 was used for another hold/ }, JSON.stringify(part))
  t.match(host.refused({ ...same({}), requester: 'thief' } as LeaseEvent).message, /was used for another/)
  t.same(essence(host.state), before, 'and nothing has changed')
  t.end()
})

t.test('the tables of transitions are complete and have no dead ends', t => {
  const reached = new Set(transitions.map(row => row.to ?? 'none'))
  t.same([...reached].sort(), ['active', 'committed', 'ended', 'held', 'none'])
  for (const state of ['held', 'committed', 'active'] as const) {
    for (const trigger of ['expire', 'release', 'revoke'] as const) t.ok(transitions.some(row => row.from === state && row.trigger === trigger && row.to === 'ended'), `${state} ends by ${trigger}`)
  }
  t.same(transitions.filter(row => row.from === 'ended').map(row => row.to), ['ended', null], 'ended is final')
  for (const state of ['held', 'committed'] as const) {
    for (const trigger of ['expire', 'release'] as const) t.ok(extensionTransitions.some(row => row.from === state && row.trigger === trigger && row.to === 'ended'), `an extension that is ${state} ends by ${trigger}`)
  }
  for (const table of [transitions, extensionTransitions, epochTransitions]) {
    const starts = table.map(row => `${row.from ?? ''} ${row.trigger}`)
    t.equal(new Set(starts).size, starts.length, 'one row for each state and trigger')
  }
  t.end()
})
