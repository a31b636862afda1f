import t from 'tap'
import { type FenceEvent, type FenceState, type FenceStore, fenceTransitions } from '../../../protocol/core/fence/fence.ts'
import { advance, emptyFence, nextFenceState, step } from '../../../protocol/core/fence/step.ts'
import { END_GUARD_MS } from '../../../protocol/core/lease/lease.ts'
import { FENCE_KEEP_MS } from '../../../protocol/core/limits.ts'

const NOW = 1_800_000_000_000
const END = NOW + 3_600_000
const R = 'domain 01234567.n1'
const grant = (counter: number, clusterId = 'a', endMs = END): FenceEvent => ({ type: 'grant', resource: R, clusterId, counter, endMs })
const revoke = (counter: number, clusterId = 'a'): FenceEvent => ({ type: 'revoke', resource: R, clusterId, counter })
const gone = (counter: number): FenceEvent => ({ type: 'gone', resource: R, counter })
/** `effect effect | state`, or the code of a refusal. */
function does (state: FenceStore, event: FenceEvent, now = NOW): string {
  const { effects, refusal } = advance(state, event, now)
  return refusal?.code ?? `${effects.map(one => one.effect).join(' ')} | ${state.records.get(R)?.state ?? 'none'}`
}
const after = (...events: FenceEvent[]): FenceStore => {
  const state = emptyFence()
  for (const event of events) {
    const { refusal } = advance(state, event, NOW)
    if (refusal !== null) throw refusal
  }
  return state
}

t.test('a resource is granted, revoked, found gone, and handed on', t => {
  const state = emptyFence()
  t.equal(does(state, grant(5)), 'save start | granted')
  t.equal(does(state, grant(6)), 'save start | granted', 'again, for the same cluster')
  t.equal(does(state, revoke(7)), 'save stop | revoking')
  t.equal(does(state, revoke(7)), 'save stop | revoking', 'tried again')
  t.equal(does(state, gone(9)), 'save | gone')
  t.equal(does(state, grant(9, 'b')), 'save start | granted')
  t.match(state.records.get(R), { clusterId: 'b', counter: 9, endMs: END })
  t.end()
})

t.test('what was decided earlier is refused, whoever sends it', t => {
  t.equal(does(after(grant(5)), grant(4)), 'STALE_COUNTER')
  t.equal(does(after(grant(5)), revoke(4)), 'STALE_COUNTER')
  t.equal(does(after(grant(5), revoke(7)), gone(6)), 'STALE_COUNTER', 'it was looked for before it was revoked')
  t.equal(does(after(grant(5), revoke(7), gone(7)), grant(7)), 'STALE_COUNTER', 'a grant from the moment of the revocation')
  t.equal(does(after(grant(5), revoke(7), gone(7)), grant(6, 'b')), 'STALE_COUNTER')
  t.equal(does(after(grant(5)), grant(5)), 'save start | granted', 'the same decision, delivered twice')
  t.end()
})

t.test('nobody gets what another has before it is gone', t => {
  t.equal(does(after(grant(5)), grant(9, 'b')), 'RESOURCE_HELD')
  t.equal(does(after(grant(5)), revoke(9, 'b')), 'RESOURCE_HELD', 'nor takes it away')
  t.equal(does(after(grant(5), revoke(7)), grant(9, 'b')), 'RESOURCE_HELD')
  t.equal(does(after(grant(5), revoke(7)), grant(9)), 'RESOURCE_HELD', 'nor does its own cluster while it goes')
  t.match(advance(after(grant(5)), grant(9, 'b'), NOW).refusal, { retryable: true, message: /runs for cluster a/ })
  t.end()
})

t.test('what has ended is stopped without anybody saying so', t => {
  const state = after(grant(5))
  t.equal(does(state, { type: 'tick' }, END + END_GUARD_MS - 1), ' | granted')
  t.equal(does(state, { type: 'tick' }, END + END_GUARD_MS), 'save stop | revoking')
  t.equal(does(state, { type: 'tick' }, END + END_GUARD_MS + 1), ' | revoking')
  const extended = after(grant(5), grant(6, 'a', END + 1000))
  t.equal(does(extended, { type: 'tick' }, END + END_GUARD_MS), ' | granted', 'unless its end has moved')
  t.equal(does(emptyFence(), grant(9), END + END_GUARD_MS), 'LEASE_ENDED', 'nor does anything begin after its end')
  t.end()
})

t.test('what may be there without a record is revoked all the same', t => {
  const state = emptyFence()
  t.equal(does(state, gone(1)), ' | none', 'what nobody has and nobody had')
  t.equal(does(state, revoke(3)), 'save stop | revoking')
  t.equal(does(state, gone(3)), 'save | gone')
  t.equal(does(state, revoke(4)), 'save | gone')
  t.end()
})

t.test('forgetting lets nothing older in', t => {
  const state = after(grant(5), revoke(7), gone(8))
  t.equal(does(state, { type: 'tick' }, NOW + FENCE_KEEP_MS - 1), ' | gone')
  t.equal(does(state, { type: 'tick' }, NOW + FENCE_KEEP_MS), 'floor forget | none')
  t.equal(does(state, grant(6)), 'STALE_COUNTER')
  t.equal(does(state, grant(8)), 'save start | granted')
  t.end()
})

t.test('every row of the table is taken, and no other', t => {
  const before: Record<FenceState, FenceStore> = { granted: after(grant(5)), revoking: after(grant(5), revoke(6)), gone: after(grant(5), revoke(6), gone(6)) }
  const events: FenceEvent[] = [grant(7), revoke(7), gone(7)]
  for (const from of [null, 'granted', 'revoking', 'gone'] as const) {
    for (const event of events) {
      const start = from === null ? emptyFence() : before[from]
      const { state } = step(start, event, NOW)
      t.equal(state.records.get(R)?.state ?? null, nextFenceState(from, event.type as 'grant') ?? from, `${from ?? 'nothing'} ${event.type}`)
      t.equal(start.records.get(R)?.state ?? null, from, 'the given state stays as it is')
    }
  }
  t.equal(fenceTransitions.filter(row => row.trigger === 'expire').length, 1)
  t.end()
})
