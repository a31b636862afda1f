import { spawn } from 'node:child_process'
import type { ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { createInterface } from 'node:readline'

const INSIDE = 'MZ_CACHE_POD'

/** True in the process that `runInPod` or `readPod` started. */
export const inPod = (): boolean => process.env[INSIDE] === '1'

/**
 * Runs a script as the work of namespaces of its own (network, mounts, pids, host name), with its
 * own /run. Whatever it leaves ends with it, however it ends.
 */
function startPod (script: string, args: readonly string[], stdout: 'inherit' | 'pipe'): ChildProcess {
  // the shell stays as process 1: it buries orphans
  const shell = 'mount -t tmpfs tmpfs /run && mkdir -p /run/netns /run/lock && "$@"'
  // pdeathsig: the pod ends with this process even when that is killed
  return spawn('setpriv', ['--pdeathsig', 'KILL', '--', 'unshare', '-n', '-m', '-u', '-p', '-f', '--kill-child', '--mount-proc',
    'sh', '-c', shell, 'sh', process.execPath, ...process.execArgv, script, ...args], { stdio: ['ignore', stdout, 'inherit'], env: { ...process.env, [INSIDE]: '1' } })
}

/** Runs a script in a pod, with this process's output. @returns its exit code */
export async function runInPod (script: string, args: readonly string[] = []): Promise<number> {
  const child = startPod(script, args, 'inherit')
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.on(signal, () => { child.kill('SIGKILL') })
  const [code] = await once(child, 'exit') as [number | null]
  return code ?? 1
}

/** Runs a script in a pod and yields what it prints, line by line. @throws Error when it fails */
export async function * readPod (script: string, args: readonly string[] = []): AsyncGenerator<string> {
  const child = startPod(script, args, 'pipe')
  const exited = once(child, 'exit') as Promise<[number | null]>
  try {
    if (child.stdout !== null) yield * createInterface({ input: child.stdout })
    const [code] = await exited
    if (code !== 0) throw new Error(`${script} ended with ${String(code)}`)
  } finally {
    child.kill('SIGKILL')
  }
}
