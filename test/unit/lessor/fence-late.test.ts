/** A command that comes when the fence has long forgotten what it was about. */
import t from 'tap'
import { emptyFence, step } from '../../../protocol/core/fence/step.ts'
import type { FenceEvent } from '../../../protocol/core/fence/fence.ts'
import { FENCE_KEEP_MS } from '../../../protocol/core/limits.ts'

t.test('what was granted and revoked at one counter is not granted again at it', t => {
  let state = emptyFence()
  const send = (event: FenceEvent, now: number): string => {
    const next = step(state, event, now)
    state = next.state
    return next.refusal?.code ?? 'ok'
  }
  const grant = (resource: string, counter: number): FenceEvent => ({ type: 'grant', resource, clusterId: 'c', counter, endMs: 1e12 })
  t.equal(send(grant('domain a', 49), 1000), 'ok')
  t.equal(send({ type: 'revoke', resource: 'domain a', clusterId: 'c', counter: 49 }, 2000), 'ok')
  t.equal(send({ type: 'gone', resource: 'domain a', counter: 49 }, 3000), 'ok')
  t.equal(send(grant('domain a', 49), 4000), 'STALE_COUNTER', 'while it is remembered')
  send({ type: 'tick' }, 3000 + FENCE_KEEP_MS)
  t.equal(state.records.size, 0)
  t.equal(send(grant('domain a', 49), 4000 + FENCE_KEEP_MS), 'STALE_COUNTER', 'and when it is not')
  t.equal(send({ type: 'revoke', resource: 'domain a', clusterId: 'c', counter: 49 }, 4000 + FENCE_KEEP_MS), 'ok', 'stopping is always possible')
  t.equal(send(grant('domain b', 50), 4000 + FENCE_KEEP_MS), 'ok')
  const fresh = step(emptyFence(), grant('domain a', 0), 1000)
  t.equal(fresh.refusal, null, 'nothing was forgotten yet')
  t.end()
})
