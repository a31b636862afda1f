/** One thread's share: takes seeds from a shared counter, in blocks, until none are left or one has failed. */
import { parentPort, workerData } from 'node:worker_threads'
import { addOutcome, noTotals, rows, runSeed } from './run.ts'

export interface Share {
  firstSeed: number
  seeds: number
  /** [0]: next block; [1]: 1 + number of the lowest seed known to fail, 0 when none does; [2]: seeds done */
  shared: SharedArrayBuffer
  /** go on after a violation */
  all: boolean
}

/** Seeds taken at a time. */
const BLOCK = 50

process.on('unhandledRejection', error => { throw error })
// A stack for every refusal costs as much as the refusal; a replay has them.
Error.stackTraceLimit = 0

const { firstSeed, seeds, shared, all } = workerData as Share
const counters = new Int32Array(shared)
const totals = noTotals()

for (;;) {
  const from = Atomics.add(counters, 0, BLOCK)
  const failed = Atomics.load(counters, 1)
  // Blocks before the one that failed are run to the end, so that the lowest seed is told whatever the jobs.
  if (from >= seeds || (failed !== 0 && from >= failed)) break
  for (let i = from; i < Math.min(seeds, from + BLOCK); i++) {
    const outcome = await runSeed(firstSeed + i)
    addOutcome(totals, outcome)
    Atomics.add(counters, 2, 1)
    if (outcome.violation !== null && !all) {
      const known = Atomics.load(counters, 1)
      if (known === 0 || i + 1 < known) Atomics.store(counters, 1, i + 1)
      break
    }
  }
  // Lets messages and signals through.
  await new Promise(resolve => { setImmediate(resolve) })
}
totals.rows = rows()
parentPort?.postMessage(totals)
