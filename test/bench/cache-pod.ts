import { spawn } from 'node:child_process'
import { once } from 'node:events'

const INSIDE = 'MZ_CACHE_POD'

/** True in the process that `runInPod` started. */
export const inPod = (): boolean => process.env[INSIDE] === '1'

/**
 * Runs this script again as the first process of namespaces of its own (network, mounts, pids, host
 * name), with its own /run. Whatever it leaves ends with it, however it ends.
 *
 * @returns its exit code
 */
export async function runInPod (script: string, args: readonly string[] = []): Promise<number> {
  // the shell stays as process 1: it buries orphans
  const shell = 'mount -t tmpfs tmpfs /run && mkdir -p /run/netns /run/lock && "$@"'
  // pdeathsig: the pod ends with this process even when that is killed
  const child = spawn('setpriv', ['--pdeathsig', 'KILL', '--', 'unshare', '-n', '-m', '-u', '-p', '-f', '--kill-child', '--mount-proc',
    'sh', '-c', shell, 'sh', process.execPath, ...process.execArgv, script, ...args], { stdio: 'inherit', env: { ...process.env, [INSIDE]: '1' } })
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.on(signal, () => { child.kill('SIGKILL') })
  const [code] = await once(child, 'exit') as [number | null]
  return code ?? 1
}
