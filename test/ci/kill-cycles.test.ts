/** Agents of three sites are killed (kill -9) again and again under load, and keep every promise. MUSUBI_KILL_CYCLES, MUSUBI_KILL_SEED. */
import t from 'tap'
import { killCycles } from '../agents/kill-cycles.ts'

t.setTimeout(600_000)
const { MUSUBI_KILL_CYCLES: cycles = '50', MUSUBI_KILL_SEED: seed } = process.env

t.test(`${cycles} kills under load`, { timeout: 590_000 }, async t => {
  await killCycles(t, Number(cycles), seed === undefined ? undefined : Number(seed))
})
