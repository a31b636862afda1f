/** Shares of a quota go with the last lease of their offer: a master and a gateway that differ count differently. */
import t from 'tap'
import { zero } from '../../../protocol/core/capacity.ts'
import type { Held } from '../../../protocol/core/messages.ts'
import { sharesGoing } from '../../../protocol/core/quota-share.ts'

const held = (leaseId: string, kind: string): Held => ({ leaseId, kind, name: leaseId, host: 'a', peer: 'p', underlayAddress: '192.0.2.1', resources: zero(), token: 1 })
const HELD = [held('x-1', 'node'), held('x-2', 'segment'), held('x-3', 'quota'), held('y-2-1', 'node'), held('y-2-2', 'node'), held('y-2-3', 'quota')]

t.test('a share goes with the last lease of its offer, and with no other', t => {
  const going = (...ids: string[]): string[] => sharesGoing(HELD, new Set(ids)).map(one => one.leaseId)
  t.same(going('y-2-1'), [])
  t.same(going('y-2-1', 'y-2-2'), ['y-2-3'])
  t.same(going('x-1'), [], 'the segment stays')
  t.same(going('x-1', 'x-2', 'y-2-1', 'y-2-2'), ['x-3', 'y-2-3'])
  t.same(going('y-2-1', 'y-2-2', 'y-2-3'), [], 'what is named is not named again')
  t.end()
})
