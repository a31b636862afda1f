/** The pure ledger of one host, driven by events: what it refuses changes nothing. */
import t from 'tap'
import type { Answer, LedgerState } from '../../protocol/core/lease/lease.ts'
import { type LeaseEvent, step } from '../../protocol/core/lease/step.ts'
import { essence } from './fixtures.ts'

export class LedgerHost {
  state: LedgerState
  now: number

  constructor (state: LedgerState, now: number) {
    this.state = state
    this.now = now
  }

  send (event: LeaseEvent): ReturnType<typeof step>['result'] {
    const before = this.state
    const { state, result } = step(before, event, this.now)
    if (!result.ok) t.same(essence(state), essence(step(before, { type: 'tick' }, this.now).state), `a refused ${event.type} changes nothing`)
    this.state = state
    return result
  }

  ok (event: LeaseEvent): Answer {
    const result = this.send(event)
    if (!result.ok) throw result.error
    return result.answer
  }
}
