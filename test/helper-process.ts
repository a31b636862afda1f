/**
 * A helper with pretended drivers in a process of its own, for tests that count what it holds or end
 * it: `startHelperProcess` is the test's side; the file itself, run with a configuration, is the helper.
 */
import { fork } from 'node:child_process'
import { once } from 'node:events'
import { readdir } from 'node:fs/promises'
import { fileURLToPath } from 'node:url'
import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'
import { pino } from 'pino'
import { loadAgentConfig } from '../agent/config.ts'
import { startHelper } from '../agent/helper/helper.ts'

export interface HelperProcess extends AsyncDisposable {
  readonly pid: number
  alive (): boolean
  /** live bytes on its heap, after collecting garbage */
  heapBytes (): Promise<number>
  /** descriptors that it has open */
  descriptors (): Promise<number>
  kill (): Promise<void>
}

export interface HelperProcessOptions {
  /** whom it takes everybody for, instead of asking the kernel */
  peerUid?: number
  times?: { idleMs?: number, frameMs?: number, tickMs?: number }
}

/** Starts one and waits until it listens. @throws Error when it ends first */
export async function startHelperProcess (configFile: string, options: HelperProcessOptions = {}): Promise<HelperProcess> {
  const child = fork(fileURLToPath(import.meta.url), [configFile, JSON.stringify(options)], { stdio: ['ignore', 'ignore', 'inherit', 'ipc'], execArgv: [] })
  const ended = once(child, 'exit')
  const answer = async (): Promise<unknown> => {
    const first = await Promise.race([once(child, 'message'), ended.then(() => null)])
    if (first === null) throw new Error('the helper has ended')
    return (first as unknown[])[0]
  }
  await answer()
  const { pid } = child
  if (pid === undefined) throw new Error('no helper was started')
  const alive = (): boolean => child.exitCode === null && child.signalCode === null
  const kill = async (): Promise<void> => {
    child.kill('SIGKILL')
    await ended
  }
  return {
    pid, alive, kill,
    async heapBytes () {
      child.send('heap')
      return await answer() as number
    },
    descriptors: async () => (await readdir(`/proc/${pid}/fd`)).length,
    [Symbol.asyncDispose]: async () => { if (alive()) await kill() }
  }
}

async function serve (configFile: string, { peerUid, times }: HelperProcessOptions): Promise<void> {
  setFlagsFromString('--expose-gc')
  const gc = runInNewContext('gc') as () => void
  await startHelper(await loadAgentConfig(configFile), pino({ level: 'silent' }), {
    ...(peerUid === undefined ? {} : { credentials: () => Promise.resolve({ pid: 1, uid: peerUid, gid: peerUid }) }), ...(times === undefined ? {} : { times })
  })
  process.on('message', () => {
    gc()
    process.send?.(process.memoryUsage().heapUsed)
  })
  process.once('disconnect', () => { process.exit(0) })
  process.send?.('up')
}

const [, self, configFile, options] = process.argv
if (self === fileURLToPath(import.meta.url) && configFile !== undefined) await serve(configFile, JSON.parse(options ?? '{}') as HelperProcessOptions)
