/** As in test/ci, ten times as many. MUSUBI_KILL_CYCLES, MUSUBI_KILL_SEED. */
import t from 'tap'
import { killCycles } from '../agents/kill-cycles.ts'

t.setTimeout(3_600_000)
const { MUSUBI_KILL_CYCLES: cycles = '500', MUSUBI_KILL_SEED: seed } = process.env

t.test(`${cycles} kills under load`, { timeout: 3_590_000 }, async t => {
  await killCycles(t, Number(cycles), seed === undefined ? undefined : Number(seed))
})
