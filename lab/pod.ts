import { spawn } from 'node:child_process'
import { mkdir, open, readFile, realpath } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import type { Readable } from 'node:stream'
import { CommandError, run, type RunOptions, type RunResult } from '../agent/exec.ts'
import { InvalidInputError, MusubiError } from '../protocol/core/errors.ts'
import { COMMAND_TIMEOUT_MS } from '../protocol/core/limits.ts'
import { childrenOf, isAlive, processesOfPod, processRef, signalProcess, waitGone, type ProcessRef } from './process.ts'

/** The work tree that this file belongs to. */
export const WORK_TREE = dirname(import.meta.dirname)
const SCRIPTS = join(WORK_TREE, 'lab', 'scripts')
/** Mounts and an overlay take some ten milliseconds; a busy machine may need a hundred times that. */
const START_TIMEOUT_MS = 20_000
const STOP_TIMEOUT_MS = 10_000
/** What systemd gives a unit, not what the starter's shell or test runner has set. */
const POD_ENV = { PATH: '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin', HOME: '/root', LANG: 'C.UTF-8', LC_ALL: 'C' }
/** On top of a command's own time, for entering the pod and reporting back. */
const EXEC_GRACE_MS = 5_000

/**
 * What a pod has for itself below its folder, under the same path. The rest of /etc, /var/lib,
 * /var/log and /var/cache is an overlay in memory: written by nobody else, lost at the end.
 */
export const PRIVATE_PATHS = [
  '/run', '/tmp', '/etc/musubi', '/var/lib/musubi', '/var/lib/musubi-helper', '/var/lib/nginx', '/var/log/nginx'
] as const

/** Number of the user `musubi` inside: like that of no account of a distribution. */
export const AGENT_UID = 64_000
/** argv before that of a program which runs as an agent does: as its user, without capabilities and without a way to get any. */
export const AS_AGENT = ['setpriv', '--reuid=musubi', '--regid=musubi', '--clear-groups', '--inh-caps=-all', '--bounding-set=-all', '--no-new-privs', '--'] as const

export interface PodOptions {
  /** host name inside; letters, digits and dashes */
  name: string
  /** folder for the pod's private files, made when missing; keep it short, sockets live below */
  dir: string
  /** true: it outlives its starter and ends only by `stop` or by its pids */
  keep?: boolean
  /** further folders that must look the same inside wherever they lie; the work tree always does */
  visible?: readonly string[]
  /** folders of this machine under other names inside, mounted in this order */
  mounts?: ReadonlyArray<{ source: string, target: string }>
  signal?: AbortSignal
}

/** A program started inside a pod; it belongs to the pod's init and ends with the pod. */
export interface SpawnedProcess extends ProcessRef {
  innerPid: number
  alive (): boolean
  /** @returns false when it is gone */
  kill (signal: NodeJS.Signals): boolean
}

/** One host of the lab: a process tree with namespaces of its own. Killing `pid` ends all of it. */
export interface Pod extends AsyncDisposable {
  readonly name: string
  readonly dir: string
  /** its init, in our pid namespace */
  readonly pid: number
  readonly init: ProcessRef
  /** the `unshare` that waits for the init */
  readonly keeper: ProcessRef
  alive (): boolean
  /** Runs a program inside to its end. @throws CommandError like `run` */
  exec (argv: readonly string[], options?: RunOptions): Promise<RunResult>
  /** Starts a program that stays. `log`: file on this machine that takes its output */
  spawn (argv: readonly string[], options: { log: string, env?: Record<string, string>, netns?: string }): Promise<SpawnedProcess>
  /** Where a private file of the pod is on this machine. @throws MusubiError for shared paths */
  path (inside: string): string
  /** A command line for people: a shell inside */
  readonly shell: string
  stop (): Promise<void>
}

/** argv that enters a running pod; `setpriv` ends the program with the `nsenter` that waits for it. */
function enter (pid: number): string[] {
  return ['nsenter', '-t', String(pid), '-n', '-m', '-u', '-i', '-p', '--wdns=/', '--', 'setpriv', '--pdeathsig', 'KILL', '--']
}

const inNetns = (netns: string | undefined): string[] => netns === undefined ? [] : ['ip', 'netns', 'exec', netns]

/** Path inside a pod -> path on this machine. */
function hostPath (dir: string, inside: string): string {
  if (!PRIVATE_PATHS.some(p => inside === p || inside.startsWith(`${p}/`)) || inside.split('/').includes('..')) {
    throw new InvalidInputError(`${inside} is not a private path of a pod`, `private are ${PRIVATE_PATHS.join(', ')}`)
  }
  return `${dir}${inside}`
}

/** Reads the init's one line; null when it ended without. */
async function firstLine (stream: Readable): Promise<string | null> {
  stream.setEncoding('utf8')
  let text = ''
  for await (const chunk of stream) {
    text += String(chunk)
    if (text.includes('\n')) return text.split('\n')[0] ?? null
  }
  return null
}

/**
 * Starts a pod. Without `keep` it dies with this process, even by kill -9.
 *
 * @throws MusubiError POD_FAILED with the init's own words; nothing is left running then
 */
export async function startPod (options: PodOptions): Promise<Pod> {
  const { name, dir, keep = false, signal } = options
  if (!/^[a-z0-9][a-z0-9-]{0,62}$/.test(name)) throw new InvalidInputError(`${JSON.stringify(name)} is no host name`)
  signal?.throwIfAborted()
  await mkdir(dir, { recursive: true })
  const visible = new Set([WORK_TREE, ...options.visible ?? []])
  await realpath(join(WORK_TREE, 'node_modules')).then(path => visible.add(dirname(path)), () => undefined)
  const mounts = [...visible].flatMap(path => ['-v', path]).concat((options.mounts ?? []).flatMap(m => ['-b', m.source, m.target]))
  const logPath = join(dir, 'init.log')
  const unshare = ['unshare', '-n', '-m', '-u', '-i', '-p', '-f', '--kill-child', '--mount-proc', '--', '/bin/sh', join(SCRIPTS, 'pod-init.sh'), name, dir, String(AGENT_UID), ...mounts]
  const argv = keep ? unshare : ['setpriv', '--pdeathsig', 'KILL', '--', '/bin/sh', join(SCRIPTS, 'pod-start.sh'), String(process.pid), ...unshare]
  const log = await open(logPath, 'a')
  let keeperPid: number | undefined
  let ready: Readable
  let ended: Promise<void>
  try {
    // A session of its own: Ctrl-C in the terminal must reach only us, who end pods in order.
    const child = spawn(argv[0] ?? 'unshare', argv.slice(1), { detached: true, stdio: ['ignore', log.fd, log.fd, 'pipe'], cwd: '/', env: POD_ENV })
    ended = new Promise(resolve => { child.once('exit', () => { resolve() }).once('error', () => { resolve() }) })
    keeperPid = child.pid
    ready = child.stdio[3] as Readable
    child.unref()
  } finally {
    await log.close()
  }
  try {
    if (keeperPid === undefined) throw new MusubiError('POD_FAILED', `pod ${name}: ${argv[0] ?? ''} is not installed`)
    const timeout = AbortSignal.timeout(START_TIMEOUT_MS)
    const limit = signal === undefined ? timeout : AbortSignal.any([signal, timeout])
    limit.addEventListener('abort', () => ready.destroy())
    const line = await Promise.race([firstLine(ready), ended.then(() => null)]).catch(() => null)
    signal?.throwIfAborted()
    const initPid = (await childrenOf(keeperPid))[0]
    const init = initPid === undefined ? null : processRef(initPid)
    const keeper = processRef(keeperPid)
    if (line !== 'ready' || init === null || keeper === null) {
      const words = (await readFile(logPath, 'utf8')).trim().split('\n').slice(-3).join(' / ')
      throw new MusubiError('POD_FAILED', `pod ${name} did not start: ${words === '' ? (timeout.aborted ? `not within ${START_TIMEOUT_MS} ms` : 'its init ended') : words}`)
    }
    ready.destroy()
    return createPod(name, dir, init, keeper)
  } catch (error) {
    ready.destroy()
    if (keeperPid !== undefined) {
      const keeper = processRef(keeperPid)
      if (keeper !== null) signalProcess(keeper, 'SIGKILL')
      if (keeper !== null) await waitGone(keeper, STOP_TIMEOUT_MS)
    }
    throw error
  }
}

/** Takes hold of a pod that an earlier process started. @throws MusubiError when it is gone */
export function adoptPod (record: { name: string, dir: string, init: ProcessRef, keeper: ProcessRef }): Pod {
  if (!isAlive(record.init)) throw new MusubiError('NOT_FOUND', `pod ${record.name} does not run any more`)
  return createPod(record.name, record.dir, record.init, record.keeper)
}

/** Ends a pod by its pids; gone ones are no error. @throws MusubiError when it would not die */
export async function stopPod (record: { name: string, init: ProcessRef, keeper: ProcessRef }): Promise<void> {
  // The init first: its death takes the whole pid namespace along, and the kernel waits for that.
  signalProcess(record.init, 'SIGKILL')
  const gone = await waitGone(record.init, STOP_TIMEOUT_MS)
  signalProcess(record.keeper, 'SIGKILL')
  if (!gone || !(await waitGone(record.keeper, STOP_TIMEOUT_MS))) {
    throw new MusubiError('POD_STUCK', `pod ${record.name} (pid ${record.init.pid}) does not end`, { retryable: true })
  }
}

/** Runs `argv`, whose stdout is one pid and whose stderr the program keeps as its log. */
async function startInside (name: string, argv: readonly string[], log: string, env: Record<string, string> = {}): Promise<number> {
  const file = await open(log, 'a')
  try {
    const child = spawn(argv[0] ?? '', argv.slice(1), { detached: true, stdio: ['ignore', 'pipe', file.fd], cwd: '/', timeout: START_TIMEOUT_MS, env: { ...POD_ENV, ...env } })
    const output = child.stdout as Readable
    child.once('error', () => { output.destroy() })
    const pid = Number(await firstLine(output).catch(() => null))
    if (!Number.isInteger(pid) || pid <= 0) throw new MusubiError('PROCESS_ENDED', `cannot start a program in pod ${name}; see ${log}`)
    return pid
  } finally {
    await file.close()
  }
}

function createPod (name: string, dir: string, init: ProcessRef, keeper: ProcessRef): Pod {
  const entered = (argv: readonly string[]): string[] => [...enter(init.pid), ...argv]
  const mustLive = (): void => {
    if (!isAlive(init)) throw new MusubiError('POD_GONE', `pod ${name} does not run any more`)
  }

  return {
    name, dir, pid: init.pid, init, keeper,
    shell: `nsenter -t ${init.pid} -n -m -u -i -p --wdns=/ -- bash`,
    alive: () => isAlive(init),
    path: inside => hostPath(dir, inside),
    exec: async (argv, options = {}) => {
      mustLive()
      const { netns, timeoutMs = COMMAND_TIMEOUT_MS, ...rest } = options
      // Time runs out inside: were `nsenter` killed, its child would be left to the machine's init,
      // and a zombie that nobody collects keeps a whole pod from ending.
      const [file = '', ...args] = entered(['timeout', '-s', 'KILL', String(timeoutMs / 1000), ...inNetns(netns), ...argv])
      const startMs = performance.now()
      try {
        return await run(file, args, { ...rest, timeoutMs: timeoutMs + EXEC_GRACE_MS, env: { ...POD_ENV, NODE_OPTIONS: '', ...rest.env } })
      } catch (error) {
        if (!(error instanceof CommandError) || performance.now() - startMs < timeoutMs || rest.signal?.aborted === true) throw error
        throw new CommandError([`${name}:`, ...argv], undefined, error.stderr, `timed out after ${timeoutMs} ms`)
      }
    },
    spawn: async (argv, { log, env, netns }) => {
      mustLive()
      const inner = await startInside(name, entered(['/bin/sh', join(SCRIPTS, 'pod-spawn.sh'), ...inNetns(netns), ...argv]), log, env)
      const found = (await processesOfPod(init.pid)).find(p => p.innerPid === inner)
      if (found === undefined) {
        const words = await readFile(log, 'utf8').then(text => text.trim().split('\n').slice(-3).join(' / '), () => '')
        throw new MusubiError('PROCESS_ENDED', `${argv.join(' ')} in pod ${name} ended at once${words === '' ? '' : `: ${words}`}`)
      }
      const ref = { pid: found.pid, startTicks: found.startTicks }
      return { ...ref, innerPid: inner, alive: () => isAlive(ref), kill: signal => signalProcess(ref, signal) }
    },
    stop: async () => { await stopPod({ name, init, keeper }) },
    [Symbol.asyncDispose]: async () => { await stopPod({ name, init, keeper }) }
  }
}
