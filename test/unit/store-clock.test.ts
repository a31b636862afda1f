import fc from 'fast-check'
import t from 'tap'
import { createLedgerClock } from '../../store/clock.ts'

t.test('a small difference is slewed away, a jump freezes and moves nothing', t => {
  let wall = 1_000_000
  let mono = 5
  const clock = createLedgerClock(() => wall, () => mono)
  const pass = (ms: number, drift = 0): number => {
    mono += ms
    wall += ms + drift
    return clock.now()
  }
  t.equal(clock.now(), 1_000_000)
  t.equal(pass(1000), 1_001_000)
  t.equal(pass(1000, 500), 1_002_100, 'a tenth of the time passed, no more')
  t.equal(pass(4000), 1_006_500, 'until it is there')
  t.equal(pass(1000, -500), 1_007_400, 'back by going slower')
  pass(10_000)
  t.equal(clock.frozen(), null)
  const before = clock.now()
  t.equal(pass(1000, 3_600_000), before + 1000)
  t.match(clock.frozen(), /jumped forth by 3600 s/)
  t.equal(pass(1000, -7_200_000), before + 2000)
  t.match(clock.frozen(), /jumped back by 3600 s/)
  wall += 3_600_000
  t.equal(clock.frozen(), null, 'set right again')
  t.end()
})

t.test('it never goes back and never runs a tenth faster than time', t => {
  fc.assert(fc.property(fc.array(fc.record({ mono: fc.integer({ min: -5, max: 5000 }), wall: fc.integer({ min: -200_000, max: 200_000 }) })), moves => {
    let wall = 1e9
    let mono = 0
    const clock = createLedgerClock(() => wall, () => mono)
    let last = clock.now()
    for (const move of moves) {
      mono += move.mono
      wall += move.wall
      const next = clock.now()
      if (next < last || next - last > Math.max(0, move.mono) * 1.1 + 1) throw new Error(`from ${last} to ${next} in ${move.mono} ms`)
      last = next
    }
  }))
  t.pass()
  t.end()
})
