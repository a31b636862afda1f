import { existsSync } from 'node:fs'
import { appendFile, mkdir, readFile, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { pino } from 'pino'
import { createHelperClient } from '../agent/helper/client/client.ts'
import { call } from '../cli/client.ts'
import { describeError, MusubiError } from '../protocol/core/errors.ts'
import { WORK_TREE, type Pod } from './pod.ts'
import { processesOfPod, until, type ProcessRef } from './process.ts'

/** An agent loads in about a second; a lab starts all of its agents at once on few cores. */
export const DAEMON_TIMEOUT_MS = 90_000
const SUPERVISOR = join(WORK_TREE, 'lab', 'scripts', 'supervise.sh')
/** Files between a supervisor and us, inside the pod: one folder for each daemon. */
const controlDir = ({ kind }: Daemon): string => `/run/lab-${kind}`
const ENDS_MAX = 3

/** A daemon in a pod, under a supervisor that starts it again as systemd would. */
export interface Daemon {
  kind: 'agent' | 'helper' | 'coordinator'
  name: string
  pod: Pod
  argv: readonly string[]
  env?: Record<string, string>
  /** where it answers, as seen from this machine */
  socket: string
  /** its output over all starts, as seen from this machine */
  log: string
}

/** Starts a daemon under its supervisor and waits for its API. @throws MusubiError DAEMON_FAILED with the end of its log */
export async function startDaemon (daemon: Daemon, signal: AbortSignal | undefined): Promise<void> {
  await mkdir(daemon.pod.path(controlDir(daemon)), { recursive: true })
  await appendFile(daemon.log, '')
  await daemon.pod.spawn(['/bin/sh', SUPERVISOR, controlDir(daemon), ...daemon.argv], { log: daemon.log, ...(daemon.env === undefined ? {} : { env: daemon.env }) })
  await waitDaemon(daemon, DAEMON_TIMEOUT_MS, signal)
}

/** Waits until the daemon's API answers. @throws MusubiError DAEMON_FAILED with the end of its log */
export async function waitDaemon (daemon: Daemon, timeoutMs: number, signal: AbortSignal | undefined): Promise<void> {
  let last = 'it was never asked'
  const before = await endsOf(daemon)
  try {
    await until(`the API of ${daemon.name}`, timeoutMs, async () => {
      // Its configuration will not get better by starting it again and again.
      if (await endsOf(daemon) >= before + ENDS_MAX) throw new MusubiError('DAEMON_FAILED', 'it ends again and again')
      if (!existsSync(daemon.socket)) return false
      return await answers(daemon).then(() => true, (error: unknown) => {
        last = describeError(error)
        return false
      })
    }, { everyMs: 50, ...(signal === undefined ? {} : { signal }) })
  } catch (error) {
    signal?.throwIfAborted()
    throw new MusubiError('DAEMON_FAILED', `musubi ${daemon.kind} run on ${daemon.name} did not come up (${describeError(error)}; ${last}): ${await logEnd(daemon.log)}`, { cause: error })
  }
}

/** Asks a daemon something that costs nothing. @throws when it does not answer */
async function answers ({ kind, socket }: Daemon): Promise<void> {
  if (kind !== 'helper') {
    await call({ socketPath: socket, what: kind }, 'GET', '/v1/status')
    return
  }
  const client = createHelperClient({ socketPath: socket, log: pino({ level: 'silent' }), persistent: false })
  try {
    await client.call('noop', {})
  } finally {
    client.close()
  }
}

/** The process that the supervisor runs now; null between an end and the next start. */
export async function daemonProcess (daemon: Daemon): Promise<ProcessRef | null> {
  const inner = Number(await readFile(daemon.pod.path(`${controlDir(daemon)}/pid`), 'utf8').catch(() => ''))
  return (await processesOfPod(daemon.pod.pid)).find(p => p.innerPid === inner) ?? null
}

/** While held, a daemon that ends is not started again. */
export async function holdDaemon (daemon: Daemon, hold: boolean): Promise<void> {
  const file = daemon.pod.path(`${controlDir(daemon)}/hold`)
  await (hold ? writeFile(file, '') : rm(file, { force: true }))
}

async function endsOf (daemon: Daemon): Promise<number> {
  return (await readFile(daemon.pod.path(`${controlDir(daemon)}/exits`), 'utf8').catch(() => '')).split('\n').length
}

/** Starts a pod's own libvirtd and waits for its socket. */
export async function startLibvirt (pod: Pod, argv: readonly string[], signal: AbortSignal | undefined): Promise<void> {
  const log = join(pod.dir, 'libvirtd.log')
  const daemon = await pod.spawn(argv, { log })
  await until(`libvirtd on ${pod.name}`, DAEMON_TIMEOUT_MS, async () => {
    if (!daemon.alive()) throw new MusubiError('DAEMON_FAILED', `libvirtd on ${pod.name} ended: ${await logEnd(log)}`)
    return existsSync(pod.path('/run/libvirt/libvirt-sock'))
  }, signal === undefined ? {} : { signal })
}

async function logEnd (path: string): Promise<string> {
  const text = await readFile(path, 'utf8').catch(() => '')
  return text.trim() === '' ? 'its log is empty' : text.trim().split('\n').slice(-8).join('\n')
}
