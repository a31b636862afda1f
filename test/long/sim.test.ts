/** A million schedules that count. About an hour on two cores. */
import t from 'tap'
import { runSim } from '../sim/process.ts'

t.setTimeout(2 * 3_600_000)

t.test('a million schedules, other seeds than in CI', async t => {
  const { code, counting } = await runSim(['--seed', '1000000', '--seeds', '1080000'], line => { t.comment(line) })
  t.equal(code, 0, 'no violation')
  t.ok(counting >= 1_000_000, `${counting} schedules count`)
})
