/**
 * A lab host for the network tests: a process tree with namespaces of its own (network, mounts,
 * pids) in which a small server runs drivers and commands. The namespaces have no names and end
 * with that process, which ends with its standard input: nothing can be left behind.
 *
 * `startPod` is the test's side; the file itself, run with the argument `serve`, is the pod's side.
 */
import { spawn } from 'node:child_process'
import { mkdir } from 'node:fs/promises'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import { createSegmentDriver } from '../../agent/drivers/network/segment.ts'
import { createTunnelDriver } from '../../agent/drivers/network/tunnel/driver.ts'
import { run } from '../../agent/exec.ts'
import { createPidfileServices } from '../../agent/services/pidfile.ts'
import type { SegmentCounters } from '../../agent/drivers/network/segment.ts'
import type { PublicTrack } from '../../agent/drivers/network/tunnel/driver.ts'
import type { ObservedObject } from '../../agent/drivers/driver.ts'
import type { RunOptions, RunResult } from '../../agent/exec.ts'
import { carryTagged } from './vlan-stand-in.ts'
import type { ObjectKind, SegmentSpec } from '../../protocol/core/desired.ts'

/** State of a pod's drivers; /run is private to the pod. */
export const POD_STATE = '/run/state'
const CALL_TIMEOUT_MS = 60_000

export type TunnelTimes = Pick<Parameters<typeof createTunnelDriver>[0], 'rotation' | 'pathMtu'>
/** `trunk`: as the configuration of a host says it. */
export type PodOptions = TunnelTimes & Pick<Parameters<typeof createSegmentDriver>[0], 'trunk'>

/** Drivers as a freshly started agent makes them, over the state folder of the pod. */
export function podDrivers ({ trunk, ...times }: PodOptions = {}) {
  const services = createPidfileServices({ dir: `${POD_STATE}/services` })
  return {
    services,
    segment: createSegmentDriver({ stateDir: POD_STATE, services, ...(trunk === undefined ? {} : { trunk }) }),
    tunnel: createTunnelDriver({ stateDir: POD_STATE, services, ...times })
  }
}

/** First steps inside a pod's namespaces. */
export async function enterPod (): Promise<void> {
  await run('mount', ['-t', 'tmpfs', 'tmpfs', '/run'])
  await mkdir('/run/netns')
  await run('ip', ['link', 'set', 'dev', 'lo', 'up'])
}

interface Call { id: number, target: 'run' | 'restart' | 'tunnel' | 'segment', method: string, args: unknown[] }
interface Answer { id: number, value?: unknown, error?: { message: string, code: string } }

async function serve (times: PodOptions): Promise<void> {
  await enterPod()
  let drivers = podDrivers(times)
  const signal = (): AbortSignal => AbortSignal.timeout(CALL_TIMEOUT_MS)
  const answer = async ({ target, method, args }: Call): Promise<unknown> => {
    if (target === 'run') return await run(method, args[0] as string[], { ...args[1] as RunOptions, okCodes: Array.from({ length: 256 }, (_, code) => code) })
    if (target === 'restart') {
      drivers = podDrivers(times)
      return null
    }
    const [name, spec] = args as [string, never]
    const { tunnel, segment } = drivers
    switch (method) {
      case 'observe': return await drivers[target].observe(signal())
      case 'apply': await drivers[target].apply(name, spec, signal()); return null
      case 'carryTagged': return await carryTagged(name, spec, signal())
      case 'remove': await drivers[target].remove(name, signal()); return null
      case 'publicTracks': return await tunnel.publicTracks()
      case 'mode': return await tunnel.mode()
      case 'counters': return await segment.counters(name)
      case 'clusterNamespace': return await segment.clusterNamespace(name)
      default: throw new Error(`no method ${method}`)
    }
  }
  for await (const line of createInterface({ input: process.stdin })) {
    const call = JSON.parse(line) as Call
    const say = (result: Omit<Answer, 'id'>): void => { process.stdout.write(`${JSON.stringify({ id: call.id, ...result })}\n`) }
    // not awaited: calls may overlap
    void answer(call).then(
      (value) => { say({ value: value ?? null }) },
      (error: unknown) => { say({ error: { message: error instanceof Error ? error.message : String(error), code: (error as { code?: string }).code ?? 'INTERNAL' } }) }
    )
  }
  process.exit(0)
}

/** The test's handle on a pod. */
export interface Pod {
  /** pid of the pod's first process, as the test sees it */
  pid: number
  /** Runs a command in the pod's namespace; any exit code is an answer. */
  run (file: string, args: string[], options?: { input?: string, netns?: string, timeoutMs?: number }): Promise<RunResult>
  /** `run` of a command that must succeed; its stdout. */
  ok (command: string, options?: { input?: string, netns?: string, timeoutMs?: number }): Promise<string>
  /** Makes new drivers over the same state, as a restarted agent does. */
  restart (): Promise<void>
  observe (kind: ObjectKind & ('tunnel' | 'segment')): Promise<ObservedObject[]>
  apply (kind: 'tunnel' | 'segment', name: string, spec: unknown): Promise<void>
  remove (kind: 'tunnel' | 'segment', name: string): Promise<void>
  /** See `vlan-stand-in.ts`. */
  carryTagged (name: string, spec: SegmentSpec): Promise<boolean>
  publicKey (): Promise<string>
  publicTracks (): Promise<PublicTrack[]>
  counters (name: string): Promise<SegmentCounters | null>
  clusterNamespace (name: string): Promise<string | null>
  stop (): Promise<void>
}

/** Starts a pod; it has no link but `lo` yet. @param times of its tunnel driver, where a test cannot wait for the real ones; its trunk NIC */
export async function startPod (times: PodOptions = {}): Promise<Pod> {
  const unshare = ['--net', '--mount', '--uts', '--pid', '--fork', '--kill-child', '--mount-proc']
  const child = spawn('unshare', [...unshare, process.execPath, fileURLToPath(import.meta.url), 'serve', JSON.stringify(times)], { stdio: ['pipe', 'pipe', 'inherit'] })
  const waiting = new Map<number, (answer: Answer) => void>()
  let ended = false
  const gone = new Promise<void>((resolve) => child.once('exit', () => {
    ended = true
    for (const [id, settle] of waiting) settle({ id, error: { message: 'the pod ended', code: 'ENDED' } })
    resolve()
  }))
  createInterface({ input: child.stdout }).on('line', (line) => {
    const answer = JSON.parse(line) as Answer
    waiting.get(answer.id)?.(answer)
    waiting.delete(answer.id)
  })
  child.stdin.on('error', () => undefined)
  let next = 0
  const call = async (target: Call['target'], method: string, ...args: unknown[]): Promise<unknown> => {
    if (ended) throw new Error('the pod has ended')
    const id = next++
    const answer = await new Promise<Answer>((resolve) => {
      waiting.set(id, resolve)
      child.stdin.write(`${JSON.stringify({ id, target, method, args } satisfies Call)}\n`)
    })
    if (answer.error !== undefined) throw Object.assign(new Error(answer.error.message), { code: answer.error.code })
    return answer.value
  }
  const pod: Pod = {
    pid: 0,
    run: async (file, args, options = {}) => await call('run', file, args, options) as RunResult,
    ok: async (command, options = {}) => {
      const [file, ...args] = command.split(' ')
      const { exitCode, stdout, stderr } = await pod.run(file ?? '', args, options)
      if (exitCode !== 0) throw new Error(`${command}: ${exitCode}: ${stderr}${stdout}`)
      return stdout
    },
    restart: async () => { await call('restart', '') },
    observe: async (kind) => await call(kind, 'observe') as ObservedObject[],
    apply: async (kind, name, spec) => { await call(kind, 'apply', name, spec) },
    carryTagged: async (name, spec) => await call('segment', 'carryTagged', name, spec) === true,
    remove: async (kind, name) => { await call(kind, 'remove', name) },
    publicKey: async () => (await pod.publicTracks()).find(({ draining }) => !draining)?.publicKey ?? '',
    publicTracks: async () => await call('tunnel', 'publicTracks') as PublicTrack[],
    counters: async (name) => await call('segment', 'counters', name) as SegmentCounters | null,
    clusterNamespace: async (name) => await call('segment', 'clusterNamespace', name) as string | null,
    stop: async () => {
      child.stdin.end()
      await gone
    }
  }
  await pod.ok('true')
  // the pod's first process is the only child of unshare
  pod.pid = Number((await run('cat', [`/proc/${child.pid}/task/${child.pid}/children`])).stdout.trim())
  return pod
}

if (process.argv[1] === fileURLToPath(import.meta.url) && process.argv[2] === 'serve') await serve(JSON.parse(process.argv[3] ?? '{}') as PodOptions)
