import { spawn } from 'node:child_process'
import type { ChildProcess } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { mkdirSync, readFileSync, realpathSync, renameSync, writeFileSync } from 'node:fs'
import { mkdir, open, readFile, rename, rm, stat, truncate, writeFile } from 'node:fs/promises'
import { join, resolve } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { ConflictError, MusubiError, NotFoundError } from '../../protocol/core/errors.ts'
import { resolvedArgv } from '../exec.ts'
import { fingerprint } from '../fingerprint.ts'
import type { ServiceManager, ServiceSpec, ServiceStatus } from '../services.ts'
import { bootId, environmentOf, listProcesses, outputsOf, ownerOf, readProcess } from './proc.ts'
import type { ProcessStat } from './proc.ts'
import { isKeeperId } from './keepers.ts'
import { assertServiceName, LOG_MAX_BYTES, logTail, namesIn, SETTLE_MS, STOP_GRACE_MS } from './common.ts'
import { createTurns } from '../turns.ts'

/** After SIGKILL only a process stuck in the kernel is left. */
const KILL_WAIT_MS = 3_000
const POLL_MS = 10
/** In the environment of every process of a service: finds those that no record names. */
const MARKER = 'MUSUBI_SERVICE'
const MARKER_SPEC = 'MUSUBI_SERVICE_SPEC'
/** Anybody can write a mark into an environment; only what was started here has read this. */
const MARKER_KEY = 'MUSUBI_SERVICE_KEY'
const KEY_FILE = '.key'
const KEY_BYTES = 16
/** Whom a service that overwrites its environment may run as, beside root and users that are only ours: nginx. */
const SERVICE_USER = 'www-data'

interface ServiceRecord {
  fingerprint: string
  bootId: string
  /** null: about to be started; the process, if any, is found by its marker */
  pid: number | null
  startTicks: string | null
}

interface Found { main: ProcessStat | null, record: ServiceRecord | null, adopted: boolean }

function parseRecord (text: string): ServiceRecord | null {
  try {
    const value = JSON.parse(text) as Partial<Record<keyof ServiceRecord, unknown>> | null
    if (value === null || typeof value !== 'object') return null
    const { fingerprint, bootId, pid, startTicks } = value
    if (typeof fingerprint !== 'string' || typeof bootId !== 'string') return null
    if (typeof pid === 'number' && typeof startTicks === 'string') return { fingerprint, bootId, pid, startTicks }
    return { fingerprint, bootId, pid: null, startTicks: null }
  } catch {
    return null
  }
}

/**
 * Services as plain detached processes, for hosts without systemd. `dir` holds per service a record
 * `<name>.json` and its output `<name>.log`, and must be private to one pid namespace.
 *
 * Crash safety: the intent is on disk before the process starts and the process carries a marker
 * in its environment (and writes to its log), so a process that was started but not recorded is
 * found by looking through /proc. Programs that overwrite their environment (nginx) are known by
 * their output. Processes of other users cannot pass for a service: marks come with a key that only
 * root can read, outputs count only of root's and nginx's processes.
 */
export function createPidfileServices (options: { dir: string }): ServiceManager {
  const dir = resolve(options.dir)
  const turns = createTurns()
  const recordPath = (name: string): string => join(dir, `${name}.json`)
  const logPath = (name: string): string => join(dir, `${name}.log`)
  const marker = (name: string): string => join(dir, name)
  const users = new Set([process.geteuid?.() ?? 0, userId(SERVICE_USER)])
  let key: string | undefined

  /** Made by the first that starts something; '' while nothing was ever started here. */
  function keyOf (create: boolean): string {
    if (key !== undefined) return key
    const path = join(dir, KEY_FILE)
    const found = readKey(path)
    if (found !== null) return key = found
    if (!create) return ''
    mkdirSync(dir, { recursive: true, mode: 0o700 })
    writeFileSync(`${path}.tmp`, randomBytes(KEY_BYTES).toString('hex'), { mode: 0o600 })
    renameSync(`${path}.tmp`, path)
    return key = readKey(path) ?? ''
  }
  /** /proc shows outputs without symbolic links */
  const realFolder = (): string => {
    try {
      return realpathSync(dir)
    } catch {
      return dir
    }
  }

  async function readRecord (name: string): Promise<ServiceRecord | null> {
    try {
      return parseRecord(await readFile(recordPath(name), 'utf8'))
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === 'ENOENT') return null
      throw error
    }
  }

  async function writeRecord (name: string, record: ServiceRecord): Promise<void> {
    await mkdir(dir, { recursive: true, mode: 0o700 })
    const temporary = `${recordPath(name)}.tmp`
    await writeFile(temporary, JSON.stringify(record), { mode: 0o600 })
    await rename(temporary, recordPath(name))
  }

  function recordedProcess (record: ServiceRecord | null): ProcessStat | null {
    if (record === null || record.pid === null || record.bootId !== bootId()) return null
    const found = readProcess(record.pid)
    return found !== null && found.startTicks === record.startTicks ? found : null
  }

  /** Main processes (session leaders) by name of service, for this folder only. */
  function scan (): Map<string, ProcessStat> {
    const found = new Map<string, ProcessStat>()
    for (const candidate of listProcesses()) {
      if (candidate.session !== candidate.pid) continue
      const name = nameOf(candidate.pid)
      if (name !== null) found.set(name, candidate)
    }
    return found
  }

  function nameOf (pid: number): string | null {
    const mark = environmentOf(pid, MARKER)
    if (mark !== null) {
      const known = keyOf(false)
      if (!mark.startsWith(`${dir}/`) || known === '' || environmentOf(pid, MARKER_KEY) !== known) return null
      return serviceNameOrNull(mark.slice(dir.length + 1))
    }
    const owner = ownerOf(pid) ?? -1
    if (!users.has(owner) && !isKeeperId(owner)) return null
    const folder = realFolder()
    const log = outputsOf(pid).find(path => path.startsWith(`${folder}/`) && path.endsWith('.log'))
    return log === undefined ? null : serviceNameOrNull(log.slice(folder.length + 1, -'.log'.length))
  }

  /** The living main process, by record or, where a crash lost that, by marker (`adopted` then). */
  async function findMain (name: string, scanned?: Map<string, ProcessStat>): Promise<Found> {
    const record = await readRecord(name)
    const recorded = recordedProcess(record)
    if (recorded !== null) return { main: recorded, record, adopted: false }
    const orphan = (scanned ?? scan()).get(name)
    if (orphan === undefined) return { main: null, record, adopted: false }
    const mended: ServiceRecord = {
      fingerprint: environmentOf(orphan.pid, MARKER_SPEC) ?? record?.fingerprint ?? '',
      bootId: bootId(),
      pid: orphan.pid,
      startTicks: orphan.startTicks
    }
    return { main: orphan, record: mended, adopted: true }
  }

  async function statusOf (name: string, scanned?: Map<string, ProcessStat>): Promise<ServiceStatus> {
    const { main, record, adopted } = await findMain(name, scanned)
    if (adopted && record !== null) await writeRecord(name, record)
    return { name, running: main !== null, pid: main?.pid ?? null, fingerprint: record === null || record.fingerprint === '' ? null : record.fingerprint }
  }

  /** Every process of the service: the session of its main process, and whoever bears its mark. */
  function members (name: string, session: number | null): ProcessStat[] {
    const found: ProcessStat[] = []
    for (const candidate of listProcesses()) {
      if (candidate.session === session || nameOf(candidate.pid) === name) found.push(candidate)
    }
    return found
  }

  async function stopProcesses (name: string, graceMs: number): Promise<void> {
    const { main } = await findMain(name)
    if (main !== null) {
      signalPid(main.pid, 'SIGTERM')
      await waitGone([main], graceMs)
    }
    // workers may outlive their main process; without it a session number proves nothing, the mark does
    const deadline = Date.now() + KILL_WAIT_MS
    for (;;) {
      const left = members(name, main?.pid ?? null)
      if (left.length === 0) return
      if (Date.now() > deadline) {
        throw new ConflictError(`service ${name}: process ${left.map(one => one.pid).join(', ')} does not end after SIGKILL`, 'it hangs in the kernel; look at /proc/PID/stack')
      }
      for (const one of left) signalPid(one.pid, 'SIGKILL')
      await waitGone(left, 200)
    }
  }

  async function start (name: string, spec: ServiceSpec): Promise<ServiceStatus> {
    if (spec.argv.length === 0) throw new MusubiError('SERVICE_FAILED', `service ${name}: empty argv`)
    const argv = resolvedArgv(spec.argv, spec.netns)
    const file = argv[0] ?? ''
    const intent: ServiceRecord = { fingerprint: fingerprint(spec), bootId: bootId(), pid: null, startTicks: null }
    await writeRecord(name, intent)
    await rm(logPath(name), { force: true })
    const log = await open(logPath(name), 'a', 0o600)
    let outcome: string | null = null
    let pid: number | undefined
    try {
      // the one long-running child that exec.ts cannot hold: it must outlive this process
      const child = spawn(file, argv.slice(1), {
        detached: true,
        stdio: ['ignore', log.fd, log.fd],
        cwd: spec.cwd ?? '/',
        env: {
          PATH: process.env['PATH'] ?? '/usr/sbin:/usr/bin:/sbin:/bin',
          HOME: process.env['HOME'] ?? '/root',
          LC_ALL: 'C',
          ...spec.env,
          [MARKER]: marker(name),
          [MARKER_KEY]: keyOf(true),
          [MARKER_SPEC]: intent.fingerprint
        }
      })
      child.unref()
      child.on('error', () => undefined)
      pid = child.pid
      const ended = new AbortController()
      const failed = endOf(child, file, ended.signal)
      if (pid !== undefined) {
        const started = readProcess(pid)
        if (started !== null) await writeRecord(name, { ...intent, pid, startTicks: started.startTicks })
      }
      outcome = await Promise.race([failed, sleep(SETTLE_MS, null)])
      ended.abort()
    } finally {
      await log.close()
    }
    if (outcome !== null || pid === undefined) {
      const tail = await logTail(logPath(name))
      await stopProcesses(name, 0)
      await forget(name)
      throw new MusubiError('SERVICE_FAILED', `service ${name} ended at once (${outcome ?? 'not started'})${tail === '' ? '' : `: ${tail}`}`, { retryable: true })
    }
    return await statusOf(name)
  }

  async function forget (name: string): Promise<void> {
    await rm(logPath(name), { force: true })
    await rm(`${recordPath(name)}.tmp`, { force: true })
    await rm(recordPath(name), { force: true })
  }

  return {
    async ensure (name, spec) {
      assertServiceName(name)
      return await turns(name, async () => {
        const now = await statusOf(name)
        if (now.running && now.fingerprint === fingerprint(spec)) {
          await boundLog(logPath(name))
          return now
        }
        await stopProcesses(name, STOP_GRACE_MS)
        return await start(name, spec)
      })
    },
    async stop (name, graceMs = STOP_GRACE_MS) {
      assertServiceName(name)
      await turns(name, async () => {
        await stopProcesses(name, graceMs)
        await forget(name)
      })
    },
    async kill (name, signal) {
      assertServiceName(name)
      await turns(name, async () => {
        const { main } = await findMain(name)
        if (main === null) throw new NotFoundError(`service ${name} does not run`)
        signalPid(main.pid, signal)
      })
    },
    async status (name) {
      assertServiceName(name)
      return await turns(name, async () => await statusOf(name))
    },
    async list () {
      const scanned = scan()
      const files = await namesIn(dir)
      const names = new Set([...scanned.keys(), ...files.filter(file => file.endsWith('.json')).map(file => file.slice(0, -'.json'.length))])
      const found: ServiceStatus[] = []
      for (const name of [...names].sort()) {
        found.push(await turns(name, async () => await statusOf(name, scanned)))
      }
      return found
    }
  }
}

function readKey (path: string): string | null {
  try {
    return readFileSync(path, 'utf8')
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return null
    throw error
  }
}

/** -1 where there is no such user. */
function userId (name: string): number {
  const line = readFileSync('/etc/passwd', 'utf8').split('\n').find(one => one.startsWith(`${name}:`))
  return Number(line?.split(':')[2] ?? -1)
}

/** Processes of anybody bear marks: a name of theirs is checked like one from a caller. */
function serviceNameOrNull (name: string): string | null {
  try {
    assertServiceName(name)
    return name
  } catch {
    return null
  }
}

/** How a child that just started ended, in words; null when the signal says that it was long enough. */
async function endOf (child: ChildProcess, file: string, signal: AbortSignal): Promise<string | null> {
  try {
    const [code, by] = await once(child, 'exit', { signal }) as [number | null, string | null]
    return code === null ? `ended by ${by ?? 'an unknown cause'}` : `exit code ${code}`
  } catch (error) {
    if (signal.aborted) return null
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return `${file} is not installed`
    return error instanceof Error ? error.message : String(error)
  }
}

function signalPid (pid: number, signal: NodeJS.Signals): void {
  try {
    process.kill(pid, signal)
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ESRCH') throw error
  }
}

async function waitGone (processes: readonly ProcessStat[], timeoutMs: number): Promise<void> {
  const deadline = Date.now() + timeoutMs
  for (;;) {
    const alive = processes.some(one => readProcess(one.pid)?.startTicks === one.startTicks)
    if (!alive || Date.now() >= deadline) return
    await sleep(POLL_MS)
  }
}

/** The process appends, so cutting the file to nothing is safe while it runs. */
async function boundLog (path: string): Promise<void> {
  const size = await stat(path).then(found => found.size, () => 0)
  if (size > LOG_MAX_BYTES) await truncate(path, 0)
}
