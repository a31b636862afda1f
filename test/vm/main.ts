/**
 * `npm run test:vm`: what this machine's kernel may not have (802.1Q, VLAN filtering of bridges, WireGuard),
 * tested in a QEMU guest with Debian's. `npm run test:vm -- GROUP...` runs other groups of `test/run.ts` there, `-- FILE` one test file.
 */
import { mkdir, readdir, rm } from 'node:fs/promises'
import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { guestImage, packagesImage, treeImage } from './image.ts'
import { runGuest } from './machine.ts'

const TREE = join(import.meta.dirname, '..', '..')
const STORE = join(TREE, '.cache/musubi/vm')
/** Several times what they take on two processors that nobody else uses. */
const TESTS_TIMEOUT_MS = 1_500_000
const BUILD_TIMEOUT_MS = 900_000

const interrupted = new AbortController()
for (const name of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.on(name, () => { interrupted.abort(new Error(`stopped by ${name}`)) })
const within = (ms: number): AbortSignal => AbortSignal.any([interrupted.signal, AbortSignal.timeout(ms)])
const say = (line: string): void => { process.stdout.write(`${line}\n`) }

/** Folders of runs that were killed. */
async function sweep (): Promise<void> {
  for (const name of await readdir(STORE)) {
    const pid = /^run-(\d+)$/.exec(name)?.[1]
    if (pid !== undefined && !existsSync(`/proc/${pid}`)) await rm(join(STORE, name), { recursive: true, force: true })
  }
}

async function main (): Promise<number> {
  const asked = process.argv.slice(2)
  const tests = asked.length === 0 ? ['vm'] : asked
  if (tests.some(word => !/^[a-z0-9/.-]+$/.test(word))) throw new Error(`there is no test group ${tests.join(' ')}`)
  await mkdir(STORE, { recursive: true })
  await sweep()
  const workDir = join(STORE, `run-${process.pid}`)
  await mkdir(workDir)
  const started = performance.now()
  const seconds = (): string => ((performance.now() - started) / 1000).toFixed(1)
  try {
    const building = within(BUILD_TIMEOUT_MS)
    const image = await guestImage(STORE, building)
    const packages = await packagesImage(STORE, TREE, building)
    const tree = await treeImage(workDir, TREE, building)
    say(`guest: images after ${seconds()} s`)
    const running = within(TESTS_TIMEOUT_MS)
    const code = await runGuest({ image, packages, tree, tests, workDir, signal: running, onLine: say })
    if (running.aborted && !interrupted.signal.aborted) say(`not ok - the guest did not end within ${TESTS_TIMEOUT_MS / 1000} s`)
    else if (code === null && !running.aborted) say('not ok - the guest ended before its tests')
    say(`vm: ${seconds()} s`)
    return code ?? 1
  } finally {
    await rm(workDir, { recursive: true, force: true })
  }
}

try {
  process.exitCode = await main()
} catch (error) {
  process.stderr.write(`test:vm: ${error instanceof Error ? error.message : String(error)}\n`)
  process.exitCode = 1
}
// a signal ends it as it would have without a handler
if (interrupted.signal.aborted) process.exitCode = 130
