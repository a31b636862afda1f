/** The simulator over many schedules: no invariant is broken. The long suite runs many more. */
import t from 'tap'
import { runSim } from '../sim/process.ts'

t.setTimeout(1_200_000)

/** A fixed part of the seeds, so that a change that breaks an invariant is seen where it is made. */
const SEEDS = '5000'

t.test('schedules from a fixed seed', async t => {
  const { code, lines, counting } = await runSim(['--seeds', SEEDS], line => { t.comment(line) })
  t.equal(code, 0, 'no violation')
  t.match(lines.at(-1), /^no violation$/)
  t.ok(counting >= 4_000, `${counting} schedules count`)
})

t.test('a schedule is the same whenever it is run', async t => {
  const [first, second] = await Promise.all([runSim(['--seed', '77', '--trace']), runSim(['--seed', '77', '--trace'])])
  t.equal(first.code, 0)
  t.ok(first.lines.length > 100)
  t.same(first.lines, second.lines)
})
