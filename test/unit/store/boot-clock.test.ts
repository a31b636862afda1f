import { uptime } from 'node:os'
import t from 'tap'
import { createBootClock } from '../../../agent/system/boot-clock.ts'

t.test('it goes on by the fine clock, and over a suspension by the coarse one', t => {
  const clock = { bootMs: 5_000_003, fineMs: 77.25 }
  const now = createBootClock(() => Math.floor(clock.bootMs / 10) * 10, () => clock.fineMs)
  const pass = (ms: number): void => { clock.bootMs += ms; clock.fineMs += ms }
  t.equal(now(), 5_000_000)
  pass(3.5)
  t.equal(now(), 5_000_003.5)
  let last = now()
  for (let i = 0; i < 1000; i++) {
    pass(7.3)
    const next = now()
    if (next <= last || Math.abs(next - clock.bootMs) > 10) t.fail(`${next} after ${last}, at ${clock.bootMs}`)
    last = next
  }
  clock.bootMs += 3_600_000 // asleep
  pass(150)
  t.ok(Math.abs(now() - clock.bootMs) <= 10)
  t.ok(now() >= last)
  t.end()
})

t.test('two processes of one boot agree', t => {
  const now = createBootClock()
  t.ok(Math.abs(now() - uptime() * 1000) < 1_000)
  t.end()
})
