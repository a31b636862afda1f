/**
 * Plants bugs, one at a time, in a copy of the product and runs the simulator on it:
 * `npm run sim:mutants -- [--only NAME] [--jobs J] [--seeds N] [--seed S]`.
 * Exit code 1 when one survives, or a patch does not apply any more.
 */
import { spawn } from 'node:child_process'
import { cp, mkdtemp, readFile, rm, symlink, writeFile } from 'node:fs/promises'
import { availableParallelism, tmpdir } from 'node:os'
import { join } from 'node:path'
import { argumentsOf, whole } from '../arguments.ts'
import { diskMutants } from './list/disk.ts'
import { gatewayMutants } from './list/gateway.ts'
import { helperMutants } from './list/helper.ts'
import { leaseMutants } from './list/lease.ts'
import { ledgerMutants } from './list/ledger.ts'
import { masterMutants } from './list/master.ts'
import { negotiationMutants } from './list/negotiation.ts'
import { storeMutants } from './list/store.ts'
import type { Mutant } from './mutant.ts'

const ROOT = join(import.meta.dirname, '../../..')
/** What the simulator runs. */
const COPIED = ['protocol', 'store', 'agent', 'test/sim', 'package.json', 'tsconfig.json']
/** A schedule takes milliseconds; a mutant that loops is not caught, it hangs. */
const PATIENCE_MS = 20 * 60_000

interface Verdict { mutant: Mutant, outcome: 'caught' | 'survived' | 'does not apply' | 'hangs' | 'does not run', invariant: string, schedules: number, seconds: number, text: string }

const all: readonly Mutant[] = [
  ...ledgerMutants, ...leaseMutants, ...storeMutants, ...diskMutants, ...negotiationMutants, ...gatewayMutants, ...masterMutants, ...helperMutants
]

const USAGE = `npm run sim:mutants -- [--only NAME]... [--list] [--seeds N] [--seed S] [--jobs J]

Plants bugs, one at a time, in a copy of the product and runs the simulator on it.
Exit code 1 when one survives, or a patch does not apply any more.

  --only NAME  only this one; may be given again
  --list       print them all, with what each does
  --seeds N    schedules that may be needed to catch one, default 5000
  --seed S     the first of them, default 1
  --jobs J     how many at once, default one for each core`

const values = argumentsOf(USAGE, { only: { type: 'string', multiple: true }, jobs: { type: 'string' }, seeds: { type: 'string' }, seed: { type: 'string' }, list: { type: 'boolean' } })
const jobs = whole(values.jobs, 'jobs', availableParallelism(), 1)
const seeds = whole(values.seeds, 'seeds', 5_000, 1)
const seed = whole(values.seed, 'seed', 1, 1)

const unknown = (values.only ?? []).filter(name => !all.some(mutant => mutant.name === name))
if (unknown.length > 0) {
  console.error(`there is no mutant ${unknown.join(', ')}; see --list`)
  process.exit(2)
}
if (values.list === true) {
  for (const { name, file, why } of all) console.log(`${name.padEnd(28)} ${file.padEnd(40)} ${why}`)
  process.exit(0)
}

/** Applies a patch in a folder. @returns why it does not apply; null when it does */
async function apply (folder: string, { file, find, replace }: Mutant): Promise<string | null> {
  const path = join(folder, file)
  const source = await readFile(path, 'utf8').catch(() => null)
  if (source === null) return `there is no ${file}`
  const found = source.split(find).length - 1
  if (found !== 1) return `its text occurs ${found} times in ${file}`
  await writeFile(path, source.replace(find, () => replace))
  return null
}

/** Runs the simulator in a folder. Its output is short: a report, and the last events of a failure. */
function simulate (folder: string): Promise<{ code: number | null, output: string }> {
  return new Promise((resolve, reject) => {
    const child = spawn(process.execPath, [join(folder, 'test/sim/main.ts'), '--seeds', String(seeds), '--seed', String(seed), '--jobs', '1'], { cwd: folder, stdio: ['ignore', 'pipe', 'pipe'] })
    let output = ''
    const take = (chunk: Buffer): void => { output = (output + chunk.toString()).slice(-200_000) }
    child.stdout.on('data', take)
    child.stderr.on('data', take)
    const timer = setTimeout(() => { child.kill('SIGKILL') }, PATIENCE_MS)
    child.on('error', reject)
    child.on('close', code => {
      clearTimeout(timer)
      resolve({ code, output })
    })
  })
}

/** Without a bug nothing may be caught, else being caught says nothing. */
const CONTROL: Mutant = { name: '(the product as it is)', file: '', find: '', replace: '', why: 'a violation without any planted bug' }

async function judge (mutant: Mutant): Promise<Verdict> {
  const started = performance.now()
  const folder = await mkdtemp(join(tmpdir(), 'musubi-mutant-'))
  const verdict = (outcome: Verdict['outcome'], text = '', invariant = '', schedules = 0): Verdict => ({ mutant, outcome, invariant, schedules, text, seconds: (performance.now() - started) / 1000 })
  try {
    for (const path of COPIED) await cp(join(ROOT, path), join(folder, path), { recursive: true })
    await symlink(join(ROOT, 'node_modules'), join(folder, 'node_modules'))
    const problem = mutant === CONTROL ? null : await apply(folder, mutant)
    if (problem !== null) return verdict('does not apply', problem)
    const { code, output } = await simulate(folder)
    if (code === 0) return verdict('survived')
    const failed = /VIOLATION with seed (\d+)/.exec(output)
    if (failed === null) return verdict(code === null ? 'hangs' : 'does not run', output.slice(-2_000))
    const lines = output.split('\n')
    const at = lines.findLastIndex(line => line.startsWith('VIOLATED '))
    return verdict('caught', lines[at + 1] ?? '', (lines[at] ?? '').slice('VIOLATED '.length), Number(failed[1]) - seed + 1)
  } finally {
    await rm(folder, { recursive: true, force: true })
  }
}

const chosen = values.only === undefined ? [...all] : all.filter(mutant => values.only?.includes(mutant.name))
const verdicts: Verdict[] = []
const waiting = [CONTROL, ...chosen]
const line = ({ mutant, outcome, invariant, schedules, seconds }: Verdict): string =>
  `${mutant.name.padEnd(28)} ${outcome.padEnd(15)} ${invariant.padEnd(30)} ${(outcome === 'caught' ? String(schedules) : '').padStart(9)} ${seconds.toFixed(1).padStart(8)}`

console.log(`${chosen.length} mutants, up to ${seeds} schedules each from seed ${seed}, ${jobs} at a time`)
console.log(`${'mutant'.padEnd(28)} ${'outcome'.padEnd(15)} ${'caught by'.padEnd(30)} ${'schedules'.padStart(9)} ${'seconds'.padStart(8)}`)
await Promise.all(Array.from({ length: Math.min(jobs, waiting.length) }, async () => {
  for (let mutant = waiting.shift(); mutant !== undefined; mutant = waiting.shift()) {
    const verdict = await judge(mutant)
    verdicts.push(verdict)
    console.log(line(verdict))
  }
}))

const bad = verdicts.filter(({ mutant, outcome }) => outcome !== (mutant === CONTROL ? 'survived' : 'caught'))
for (const { mutant, outcome, text } of bad) console.log(`\n${mutant.name} ${outcome}: ${mutant.why} (${mutant.file})${text === '' ? '' : `\n${text}`}`)
const mutants = verdicts.filter(({ mutant }) => mutant !== CONTROL)
console.log(`\n${mutants.filter(({ outcome }) => outcome === 'caught').length} of ${mutants.length} caught${bad.length === 0 ? '' : `; ${bad.map(({ mutant, outcome }) => `${mutant.name} ${outcome}`).join(', ')}`}`)
process.exitCode = bad.length === 0 ? 0 : 1
