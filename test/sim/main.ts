/**
 * The simulator: `npm run sim -- --seeds N [--seed S] [--trace] [--all] [--jobs J]`.
 * Exit code 1 and a seed that replays exactly when an invariant is broken.
 */
import { availableParallelism } from 'node:os'
import { Worker } from 'node:worker_threads'
import { argumentsOf, whole } from './arguments.ts'
import { MIN_COMPETING, MIN_EVENTS, MIN_SITES, mergeTotals, noTotals, runSeed, type Totals } from './run.ts'
import { allRows } from './world/coverage.ts'
import { REAL_CODEC_EVERY } from './world/plain.ts'
import { CONVERGE_MS } from './world/world.ts'

/** Garbage of a schedule dies young: room for it saves most collections. */
const YOUNG_MIB = 96
/** Lines before a violation that are shown. */
const LAST_LINES = 60

const USAGE = `npm run sim -- [--seeds N] [--seed S] [--all] [--jobs J] [--trace]

Runs schedules of the lease protocol with faults, and checks all invariants at every event.
Exit code 1 when one is violated.

  --seeds N  how many schedules; default 1000, with --seed 1
  --seed S   the first of them, default 1
  --all      go on after a violation and list all of them
  --jobs J   threads, default one for each core
  --trace    print the history of every schedule

  npm run sim -- --seeds 10000           many schedules
  npm run sim -- --seed 4711 --trace     one of them again, with its history`

const values = argumentsOf(USAGE, { seeds: { type: 'string' }, seed: { type: 'string' }, trace: { type: 'boolean' }, jobs: { type: 'string' }, all: { type: 'boolean' } })

const seed = whole(values.seed, 'seed', 1, 0)
const seeds = whole(values.seeds, 'seeds', values.seed === undefined ? 1_000 : 1, 1)
const jobs = Math.min(whole(values.jobs, 'jobs', availableParallelism(), 1), seeds)

const line = (trueMs: number, host: string, text: string): string => `${(trueMs / 1000).toFixed(3).padStart(9)} ${host.padEnd(4)} ${text}`
const percent = (part: number, of: number): string => `${(100 * part / of).toFixed(1)} %`

/** One seed with its history. @returns whether it went well */
async function replay (one: number, print: (text: string) => void): Promise<boolean> {
  const outcome = await runSeed(one, (trueMs, host, text) => { print(line(trueMs, host, text)) })
  console.log(`seed ${one}: ${outcome.events} events, ${outcome.sites} sites, ${outcome.competing} clusters that compete, converged ${Math.round(outcome.convergedMs / 1000)} s after the faults`)
  console.log(`faults: ${Object.entries(outcome.faults).map(([kind, count]) => `${kind} ${count}`).join(', ')}`)
  if (outcome.violation !== null) console.log(`VIOLATED ${outcome.violation.invariant}\n${outcome.violation.message}`)
  return outcome.violation === null
}

function runThread (shared: SharedArrayBuffer): Promise<Totals> {
  return new Promise((resolve, reject) => {
    const worker = new Worker(new URL('./worker.ts', import.meta.url), { workerData: { firstSeed: seed, seeds, shared, all: values.all === true }, resourceLimits: { maxYoungGenerationSizeMb: YOUNG_MIB } })
    worker.on('message', resolve)
    worker.on('error', reject)
    worker.on('exit', code => { if (code !== 0) reject(new Error(`a thread ended with code ${code}`)) })
  })
}

function report (totals: Totals, seconds: number): void {
  const { user, system } = process.cpuUsage()
  const missing = allRows.filter(row => !totals.rows.includes(row))
  console.log(`${totals.schedules} schedules from seed ${seed}, ${totals.counting} count (${percent(totals.counting, totals.schedules)}): at least ${MIN_SITES} sites, ${MIN_COMPETING} clusters competing for the same hosts, ${MIN_EVENTS} events that changed something`)
  console.log(`  not counted: ${totals.short.events} with fewer events, ${totals.short.competing} without competition`)
  console.log(`${totals.events} events, ${Math.round(totals.events / totals.schedules)} a schedule, ${Math.round(totals.events / seconds)} a second; ${seconds.toFixed(1)} s with ${jobs} ${jobs === 1 ? 'thread' : 'threads'}, ${((user + system) / 1000 / totals.schedules).toFixed(2)} ms of CPU a schedule`)
  console.log(`records lie on disks as bytes in one schedule of ${REAL_CODEC_EVERY}, as they are in the others; messages are copied, not encoded`)
  console.log(`transitions covered: ${allRows.length - missing.length} of ${allRows.length}${missing.length === 0 ? '' : '; not covered:'}`)
  for (const row of missing) console.log(`  ${row}`)
  console.log('faults and deeds injected:')
  for (const [kind, count] of Object.entries(totals.faults).sort()) console.log(`  ${kind.padEnd(24)} ${count}`)
  console.log(`convergence after the faults: bound ${CONVERGE_MS / 1000} s, mean ${(totals.convergedMsSum / totals.schedules / 1000).toFixed(1)} s, longest ${(totals.convergedMsMax / 1000).toFixed(1)} s (seed ${totals.convergedSeed})`)
}

if (values.trace === true) {
  let well = true
  for (let i = 0; i < seeds && well; i++) well = await replay(seed + i, console.log)
  process.exit(well ? 0 : 1)
}

const started = performance.now()
const shared = new SharedArrayBuffer(12)
const totals = noTotals()
const timer = setInterval(() => {
  const done = new Int32Array(shared)[2] ?? 0
  console.log(`... ${done} of ${seeds} schedules, ${((performance.now() - started) / 1000).toFixed(0)} s`)
}, 30_000)
for (const share of await Promise.all(Array.from({ length: jobs }, () => runThread(shared)))) mergeTotals(totals, share)
clearInterval(timer)
report(totals, (performance.now() - started) / 1000)
if (values.all === true) for (const one of totals.violations) console.log(`VIOLATED ${one.invariant} with seed ${one.seed}: ${one.message.slice(0, 300)}`)
if (totals.violation !== null) {
  const { seed: failed } = totals.violation
  const last: string[] = []
  console.log(`\nVIOLATION with seed ${failed}; its last events:`)
  const well = await replay(failed, text => { last.push(text); if (last.length > LAST_LINES) last.shift() })
  for (const text of last) console.log(text)
  console.log(`\nVIOLATED ${totals.violation.invariant}\n${totals.violation.message}`)
  if (well) console.log('the replay went well: something is not deterministic')
  console.log(`replay: npm run sim -- --seed ${failed} --trace`)
  process.exitCode = 1
} else {
  console.log('no violation')
}
