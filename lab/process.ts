import { readdir, readFile, readlink } from 'node:fs/promises'
import { setTimeout as delay } from 'node:timers/promises'
import { readProcess } from '../agent/services/proc.ts'
import { MusubiError } from '../protocol/core/errors.ts'

/** Names one process for good: a pid alone may have been given to another one since. */
export interface ProcessRef {
  pid: number
  /** clock ticks since boot, from /proc */
  startTicks: string
}

/** A reference to a living process; null when there is none. */
export function processRef (pid: number): ProcessRef | null {
  const stat = readProcess(pid)
  return stat === null ? null : { pid, startTicks: stat.startTicks }
}

/** True while exactly this process runs (a zombie does not). */
export function isAlive (ref: ProcessRef): boolean {
  return readProcess(ref.pid)?.startTicks === ref.startTicks
}

/** Sends a signal to exactly this process. @returns false when it is gone */
export function signalProcess (ref: ProcessRef, signal: NodeJS.Signals): boolean {
  if (!isAlive(ref)) return false
  try {
    process.kill(ref.pid, signal)
    return true
  } catch {
    return false
  }
}

/** Waits until the process is gone. @returns false when it still runs after `timeoutMs` */
export async function waitGone (ref: ProcessRef, timeoutMs: number): Promise<boolean> {
  for (let waited = 0; ; waited += 10) {
    if (!isAlive(ref)) return true
    if (waited >= timeoutMs) return false
    await delay(10)
  }
}

/** Pids of the direct children. */
export async function childrenOf (pid: number): Promise<number[]> {
  try {
    const text = await readFile(`/proc/${pid}/task/${pid}/children`, 'utf8')
    return text.split(' ').map(Number).filter(n => n > 0)
  } catch {
    return []
  }
}

/** `pid`, `net`, `mnt` ... namespace of a process as the kernel names it; null when it is gone. */
export async function namespaceOf (pid: number, kind: string): Promise<string | null> {
  try {
    return await readlink(`/proc/${pid}/ns/${kind}`)
  } catch {
    return null
  }
}

/** The argv of a process; empty for kernel threads, zombies and gone ones. */
export async function argvOf (pid: number): Promise<string[]> {
  try {
    const argv = (await readFile(`/proc/${pid}/cmdline`, 'utf8')).split('\0')
    argv.pop()
    return argv
  } catch {
    return []
  }
}

/** All pids that our /proc shows. */
export async function allPids (): Promise<number[]> {
  return (await readdir('/proc')).filter(entry => /^\d+$/.test(entry)).map(Number)
}

export interface PodProcess extends ProcessRef {
  /** pid inside the pod */
  innerPid: number
  argv: string[]
}

/** The living processes of the pid namespace whose init is `initPid`, seen from outside. */
export async function processesOfPod (initPid: number): Promise<PodProcess[]> {
  const namespace = await namespaceOf(initPid, 'pid')
  if (namespace === null) return []
  const found = await Promise.all((await allPids()).map(async (pid): Promise<PodProcess | null> => {
    if (await namespaceOf(pid, 'pid') !== namespace) return null
    const ref = processRef(pid)
    if (ref === null) return null
    try {
      const inner = /^NSpid:.*\s(\d+)$/m.exec(await readFile(`/proc/${pid}/status`, 'latin1'))?.[1]
      return inner === undefined ? null : { ...ref, innerPid: Number(inner), argv: await argvOf(pid) }
    } catch {
      return null
    }
  }))
  return found.filter(p => p !== null)
}

/** Repeats `check` until it gives a value. @throws MusubiError TIMEOUT naming what was awaited */
export async function until<T> (what: string, timeoutMs: number, check: () => Promise<T | null | undefined | false>, options: { signal?: AbortSignal, everyMs?: number } = {}): Promise<T> {
  const everyMs = options.everyMs ?? 20
  for (let waited = 0; ; waited += everyMs) {
    options.signal?.throwIfAborted()
    const value = await check()
    if (value !== null && value !== undefined && value !== false) return value
    if (waited >= timeoutMs) throw new MusubiError('TIMEOUT', `${what}: not within ${timeoutMs} ms`, { retryable: true })
    await delay(everyMs, undefined, options.signal === undefined ? {} : { signal: options.signal })
  }
}
