import fc from 'fast-check'
import t from 'tap'
import { CLOCK_JUMP_MS, CLOCK_SLEW } from '../../../protocol/core/limits.ts'
import { type ClockMark, type LedgerClock, createLedgerClock } from '../../../store/clock.ts'

const HOUR = 3_600_000
const T0 = 1_800_000_000_000

/** A machine with a wall clock that can be set, and agents that are started on it. */
class Machine {
  wall = T0
  sinceBoot = 5
  boot = 'one'
  clock: LedgerClock
  constructor () { this.clock = this.start(null) }
  start (mark: ClockMark | null, free?: boolean): LedgerClock {
    this.clock = createLedgerClock({ wall: () => this.wall, sinceBoot: () => this.sinceBoot, bootId: this.boot }, mark, free)
    return this.clock
  }

  pass (ms: number, drift = 0): number {
    this.sinceBoot += ms
    this.wall += ms + drift
    return this.clock.now()
  }

  reboot (offMs: number): void {
    this.wall += offMs
    this.sinceBoot = 1
    this.boot += '+'
  }
}

t.test('a small difference is slewed away at the stated rate, a jump freezes and moves nothing', t => {
  const machine = new Machine()
  t.equal(machine.clock.now(), T0)
  t.equal(machine.pass(1000), T0 + 1000)
  t.equal(machine.pass(100_000, 500), T0 + 101_050, '500 ppm of the time passed, no more')
  t.equal(machine.pass(900_000), T0 + 1_001_500, 'until it is there')
  t.equal(machine.pass(100_000, -500), T0 + 1_101_450, 'back by going slower')
  machine.pass(2_000_000)
  t.equal(machine.clock.now(), machine.wall)
  t.equal(machine.clock.frozen(), null)
  const before = machine.clock.now()
  t.equal(machine.pass(1000, HOUR), before + 1000)
  t.match(machine.clock.frozen(), /jumped forth by 3600 s/)
  t.equal(machine.pass(1000, -2 * HOUR), before + 2000)
  t.match(machine.clock.frozen(), /jumped back by 3600 s/)
  machine.wall += HOUR
  t.equal(machine.clock.frozen(), null, 'set right again')
  machine.wall += CLOCK_JUMP_MS
  t.equal(machine.clock.frozen(), null, 'a minute is no jump')
  machine.wall += 1
  t.type(machine.clock.frozen(), 'string')
  t.end()
})

t.test('it goes on over a start of the agent in the same boot, so that a jump is seen', t => {
  const machine = new Machine()
  machine.pass(HOUR)
  const mark = machine.clock.mark()
  t.match(mark, { atMs: T0 + HOUR, bootId: 'one' })
  machine.sinceBoot += 60_000
  machine.wall += 60_000 + HOUR
  t.equal(machine.start(mark).now(), T0 + HOUR + 60_000, 'time that passed, whatever the wall clock says')
  t.match(machine.clock.frozen(), /jumped forth by 3600 s/)
  t.equal(machine.start(mark, true).now(), machine.wall, 'with nothing to lose the wall clock is taken')
  t.equal(machine.clock.frozen(), null)
  t.end()
})

t.test('after a boot it starts at the wall clock, and never before where it was', t => {
  const machine = new Machine()
  machine.pass(HOUR)
  const mark = machine.clock.mark()
  machine.reboot(120_000)
  t.equal(machine.start(mark).now(), T0 + HOUR + 120_000)
  machine.wall -= 2 * HOUR
  t.equal(machine.start(mark).now(), T0 + HOUR, 'a wall clock that is back')
  t.match(machine.clock.frozen(), /jumped back/)
  t.end()
})

t.test('whatever the clocks do, it never goes back and a duration on it is within the stated rate', t => {
  const move = fc.record({ passes: fc.integer({ min: -5, max: 500_000 }), jumps: fc.integer({ min: -200_000, max: 200_000 }), starts: fc.boolean() })
  fc.assert(fc.property(fc.array(move), moves => {
    const machine = new Machine()
    let last = machine.clock.now()
    let since = machine.sinceBoot
    for (const { passes, jumps, starts } of moves) {
      if (starts) machine.start(machine.clock.mark())
      machine.sinceBoot += passes
      machine.wall += passes + jumps
      const next = machine.clock.now()
      const passed = Math.max(0, machine.sinceBoot - since)
      since = Math.max(since, machine.sinceBoot)
      if (next < last || Math.abs(next - last - passed) > passed * CLOCK_SLEW + 1) throw new Error(`from ${last} to ${next} in ${passed} ms`)
      last = next
    }
  }))
  t.pass()
  t.end()
})
