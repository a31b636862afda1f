/**
 * A host that systemd runs, in a systemd-nspawn container: the root file system of this machine
 * under a throw-away overlay, a network of its own with nothing but loopback.
 *
 * `startSystemdHost` is the test's side; the file itself, run with the argument `enter`, is the
 * first process of the namespaces around the container. It ends with its standard input, so the
 * container ends with the test however that ends.
 */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, mkdirSync, readFileSync, readdirSync, rmdirSync, writeFileSync } from 'node:fs'
import { mkdir } from 'node:fs/promises'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { run } from '../../agent/exec.ts'
import type { RunOptions, RunResult } from '../../agent/exec.ts'
import { listProcesses } from '../../agent/services/proc.ts'

/** Where the work tree is inside. */
export const TREE_INSIDE = '/opt/musubi'
/** A folder that the test and the host share. */
export const SHARE_INSIDE = '/srv/share'

const BOOT_MS = 60_000
const END_MS = 10_000
const POLL_MS = 50
const TREE = fileURLToPath(new URL('../..', import.meta.url))
const SELF = fileURLToPath(import.meta.url)
/** Hierarchies of control groups that systemd-nspawn works in, whatever the machine has of them. */
const CGROUPS = ['/sys/fs/cgroup', '/sys/fs/cgroup/unified', '/sys/fs/cgroup/systemd']

export interface SystemdHost {
  /** Runs a program inside; argv as ever, no shell. */
  exec (argv: readonly string[], options?: RunOptions): Promise<RunResult>
  /** argv that runs another argv inside */
  enter (argv: readonly string[]): string[]
  /** the shared folder, as seen from outside */
  readonly share: string
  /** Ends all processes inside and takes back what the host had outside. */
  stop (): Promise<void>
}

const groupDirs = (): string[] => CGROUPS.filter(dir => existsSync(join(dir, 'cgroup.procs'))).map(dir => join(dir, `mz-test-${process.pid}`))

/** @param dir empty scratch folder of the test */
export async function startSystemdHost (dir: string): Promise<SystemdHost> {
  const root = join(dir, 'root')
  const share = join(dir, 'share')
  await mkdir(root)
  await mkdir(share)
  const groups = groupDirs()
  const child = spawn('unshare', ['-m', '-p', '-f', '--kill-child', '--mount-proc', process.execPath, SELF, 'enter', root, share, ...groups],
    { stdio: ['pipe', 'ignore', 'pipe'] })
  let said = ''
  child.stderr.setEncoding('utf8').on('data', (text: string) => { said = (said + text).slice(-2_000) })
  const ended = once(child, 'exit')
  let leader = 0
  const enter = (argv: readonly string[]): string[] => ['nsenter', '-t', String(leader), '-m', '-u', '-i', '-n', '-p', '--', ...argv]
  const exec = async (argv: readonly string[], options: RunOptions = {}): Promise<RunResult> => {
    const [file = '', ...args] = enter(argv)
    return await run(file, args, options)
  }
  const stop = async (): Promise<void> => {
    child.stdin.destroy()
    const late = setTimeout(() => { child.kill('SIGKILL') }, END_MS)
    if (child.exitCode === null && child.signalCode === null) await ended
    clearTimeout(late)
    await Promise.all(groups.map(removeGroup))
  }
  try {
    const deadline = Date.now() + BOOT_MS
    for (;;) {
      if (child.exitCode !== null || Date.now() > deadline) throw new Error(`the systemd host did not start: ${said}`)
      leader = leaderBelow(child.pid ?? 0) ?? 0
      if (leader !== 0 && (await exec(['systemctl', 'is-active', 'basic.target'], { okCodes: [1, 3, 4] })).stdout.trim() === 'active') break
      await sleep(POLL_MS)
    }
  } catch (error) {
    await stop()
    throw error
  }
  return { exec, enter, share, stop }
}

/** The first process of the container: pid 1 of a namespace two below ours. */
function leaderBelow (ancestor: number): number | null {
  const all = new Map(listProcesses().map(one => [one.pid, one]))
  for (const { pid } of all.values()) {
    let at = pid
    while (at > 1 && at !== ancestor) at = all.get(at)?.parent ?? 0
    if (at !== ancestor) continue
    const pids = /^NSpid:\s*(.*)$/m.exec(statusOf(pid))?.[1]?.split(/\s+/) ?? []
    if (pids.length >= 3 && pids.at(-1) === '1') return pid
  }
  return null
}

function statusOf (pid: number): string {
  try {
    return readFileSync(`/proc/${pid}/status`, 'utf8')
  } catch {
    return ''
  }
}

/** The kernel lets a group go only when its last process is reaped. */
async function removeGroup (dir: string): Promise<void> {
  const deadline = Date.now() + END_MS
  for (;;) {
    try {
      removeTree(dir)
      return
    } catch (error) {
      if (Date.now() > deadline) throw error
      await sleep(POLL_MS)
    }
  }
}

function removeTree (dir: string): void {
  if (!existsSync(dir)) return
  for (const entry of readdirSync(dir, { withFileTypes: true })) {
    if (entry.isDirectory()) removeTree(join(dir, entry.name))
  }
  rmdirSync(dir)
}

async function serve (root: string, share: string, groups: readonly string[]): Promise<void> {
  for (const group of groups) {
    mkdirSync(group, { recursive: true })
    writeFileSync(join(group, 'cgroup.procs'), '0')
  }
  await run('mount', ['--make-rprivate', '/'])
  await run('mount', ['--bind', '/', root])
  // One by one: the work tree itself may be root's alone, and the agent inside is not root.
  const tree = readdirSync(TREE).map(entry => `--bind-ro=${join(TREE, entry)}:${TREE_INSIDE}/${entry}`)
  const container = spawn('systemd-nspawn', [
    '--quiet', '--register=no', '--keep-unit', `--directory=${root}`, '--volatile=overlay', '--private-network', '--capability=all',
    `--machine=mz-test-${process.pid}`, '--bind=/dev/net/tun', ...tree, `--bind=${share}:${SHARE_INSIDE}`,
    '--console=read-only', '--boot',
    // nothing of what this machine happens to have enabled
    'systemd.unit=basic.target'
  ], { stdio: ['ignore', 'ignore', 'inherit'] })
  process.stdin.resume().on('end', () => { process.exit(0) }).on('error', () => { process.exit(0) })
  await once(container, 'exit')
  process.exit(1)
}

const [, , verb, root, share, ...groups] = process.argv
if (verb === 'enter' && root !== undefined && share !== undefined) await serve(root, share, groups)
