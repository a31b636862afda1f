/**
 * `npm test`: all suites in order, one line per file, the whole output of what failed, totals at the
 * end. `node test/run.ts unit host` runs only those groups. With CI set nothing may be skipped.
 */
import { spawn } from 'node:child_process'
import { readdirSync } from 'node:fs'
import { join } from 'node:path'
import { createInterface } from 'node:readline'

interface Group { name: string, dirs: string[], jobs: number, timeoutS: number }

/** Two at a time even where tests take links and domains: each has namespaces of its own, and most of them wait. */
const GROUPS: readonly Group[] = [
  { name: 'unit', dirs: ['test/unit', 'test/contract', 'test/model'], jobs: 2, timeoutS: 120 },
  { name: 'mesh', dirs: ['test/mesh'], jobs: 2, timeoutS: 180 },
  { name: 'host', dirs: ['test/host'], jobs: 2, timeoutS: 400 },
  { name: 'e2e', dirs: ['test/e2e'], jobs: 2, timeoutS: 500 },
  { name: 'ci', dirs: ['test/ci'], jobs: 2, timeoutS: 1200 },
  { name: 'long', dirs: ['test/long'], jobs: 1, timeoutS: 7200 },
  // inside the guest of `npm run test:vm`: what depends on the kernel
  { name: 'vm', dirs: ['test/vm'], jobs: 1, timeoutS: 600 }
]
const DEFAULT = ['unit', 'mesh', 'host', 'e2e']

interface Totals { passed: number, failed: number, skipped: string[] }

function testFiles (dirs: readonly string[]): string[] {
  return dirs.flatMap(dir => {
    try {
      return readdirSync(dir, { recursive: true, encoding: 'utf8' }).filter(f => f.endsWith('.test.ts')).map(f => join(dir, f))
    } catch {
      return []
    }
  }).sort()
}

/** Counts the points of one file's TAP, subtests included; a file that says nothing has failed. */
function count (lines: readonly string[], totals: Totals): void {
  for (const line of lines) {
    const point = /^\s*(not )?ok \d+(?: - (.*))?$/.exec(line)
    if (point === null) continue
    const text = point[2] ?? ''
    if (/# SKIP/i.test(text)) totals.skipped.push(text)
    else if (point[1] === undefined) totals.passed++
    else totals.failed++
  }
}

/** One file in a process of its own: what hangs or leaks there does not reach the next. */
function runFile (file: string, timeoutS: number): Promise<{ lines: string[], code: number, ms: number }> {
  const started = performance.now()
  return new Promise(resolve => {
    const lines: string[] = []
    const child = spawn(process.execPath, [file], {
      stdio: ['ignore', 'pipe', 'pipe'],
      env: { ...process.env, TAP: '1', TAP_TIMEOUT: String(timeoutS), PATH: `${join(import.meta.dirname, '..', 'node_modules', '.bin')}:${process.env.PATH ?? ''}` }
    })
    // A test that does not end by its own time-out is ended here, first with a chance to clean up.
    const term = setTimeout(() => { lines.push(`not ok - ${file} did not end within ${timeoutS} s`); child.kill('SIGTERM') }, (timeoutS + 20) * 1000)
    const kill = setTimeout(() => child.kill('SIGKILL'), (timeoutS + 50) * 1000)
    for (const stream of [child.stdout, child.stderr]) createInterface({ input: stream }).on('line', line => { lines.push(line) })
    child.on('close', code => {
      clearTimeout(term)
      clearTimeout(kill)
      resolve({ lines, code: code ?? 1, ms: performance.now() - started })
    })
  })
}

/** The output of a file that failed, shortened to where it first went wrong and how it ended. */
function telling (lines: readonly string[]): string[] {
  if (lines.length <= 400) return [...lines]
  const first = Math.max(0, lines.findIndex(line => /^\s*not ok /.test(line)) - 40)
  const around = lines.slice(first, first + 120)
  const end = Math.max(first + around.length, lines.length - 280)
  return [...around, ...end > first + around.length ? ['...'] : [], ...lines.slice(end)]
}

async function runGroup (group: Group, totals: Totals): Promise<string[]> {
  const failedFiles: string[] = []
  const queue = testFiles(group.dirs)
  const worker = async (): Promise<void> => {
    for (let file = queue.shift(); file !== undefined; file = queue.shift()) {
      const { lines, code, ms } = await runFile(file, group.timeoutS)
      const before = totals.failed
      const points = totals.passed + totals.failed + totals.skipped.length
      count(lines, totals)
      const silent = totals.passed + totals.failed + totals.skipped.length === points
      const bad = code !== 0 || totals.failed > before || silent
      if (bad && totals.failed === before) totals.failed++
      process.stdout.write(`${bad ? 'FAILED' : 'ok    '}  ${(ms / 1000).toFixed(1).padStart(6)}s  ${file}\n`)
      if (bad) {
        failedFiles.push(file)
        process.stdout.write(`${telling(lines).map(l => `        ${l}`).join('\n')}\n`)
      }
    }
  }
  await Promise.all(Array.from({ length: group.jobs }, worker))
  return failedFiles
}

const asked = process.argv.slice(2)
const unknown = asked.filter(name => !GROUPS.some(g => g.name === name))
if (unknown.length > 0) {
  process.stderr.write(`there is no test group ${unknown.join(', ')}; there are ${GROUPS.map(g => g.name).join(', ')}\n`)
  process.exit(2)
}
const chosen = GROUPS.filter(g => (asked.length === 0 ? DEFAULT : asked).includes(g.name))
const totals: Totals = { passed: 0, failed: 0, skipped: [] }
const failed: string[] = []
const started = performance.now()
for (const group of chosen) failed.push(...await runGroup(group, totals))

for (const reason of totals.skipped) process.stdout.write(`skipped: ${reason}\n`)
if (failed.length > 0) process.stdout.write(`failed files: ${failed.join(' ')}\n`)
process.stdout.write(`${chosen.map(g => g.name).join(', ')}: ${Math.round((performance.now() - started) / 1000)} s\n`)
process.stdout.write(`${totals.passed} passed, ${totals.failed} failed, ${totals.skipped.length} skipped\n`)
const skippedInCi = process.env.CI !== undefined && totals.skipped.length > 0
if (skippedInCi) process.stdout.write('in CI nothing may be skipped\n')
process.exitCode = totals.failed > 0 || failed.length > 0 || skippedInCi || totals.passed === 0 ? 1 : 0
