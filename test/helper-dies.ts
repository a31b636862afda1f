/**
 * Preloaded into a helper (`--import`): counts the programs that it starts to change something, and
 * ends it with SIGKILL where the file that MUSUBI_TEST_DIES names says so: `NUMBER before|during`,
 * counted from when the file was written. What was counted is appended to `FILE.log`. Without the file
 * it does nothing. `0 all` counts also those that only look.
 */
import childProcess, { type ChildProcess, type SpawnOptions } from 'node:child_process'
import { appendFileSync, readFileSync } from 'node:fs'
import { syncBuiltinESMExports } from 'node:module'

const file = process.env.MUSUBI_TEST_DIES ?? ''
const { spawn } = childProcess
/** Programs that look: between two of them nothing is different. */
const LOOKS = / -json | -j | --op show|(^| )wg (show|genkey|pubkey)|netns (list|pids)|link show|virsh .*(domstats|secret-list|metadata|domstate|dominfo)|nft list|(^| )id |spaces\.pl /
let order = ''
let count = 0

function toldTo (): string {
  try {
    return readFileSync(file, 'utf8').trim()
  } catch {
    return ''
  }
}

const counted = (program: string, args: readonly string[] = [], options: SpawnOptions = {}): ChildProcess => {
  const now = toldTo()
  if (now !== order) {
    order = now
    count = 0
  }
  const line = [program.replace(/^.*\//, ''), ...args].join(' ')
  // who has connected is asked at every connection, and is no deed
  const asksWho = Array.isArray(options.stdio) && options.stdio[3] !== undefined
  if (now === '' || asksWho || (!now.endsWith(' all') && LOOKS.test(line))) return spawn(program, [...args], options)
  count++
  const [at, when] = now.split(' ')
  appendFileSync(`${file}.log`, `${line}\n`)
  if (count === Number(at) && when === 'before') process.kill(process.pid, 'SIGKILL')
  const child = spawn(program, [...args], options)
  if (count === Number(at) && when === 'during') process.kill(process.pid, 'SIGKILL')
  return child
}
childProcess.spawn = counted as typeof childProcess.spawn
syncBuiltinESMExports()
