/** One real agent with pretended drivers: its process, its API, and what it left on its disk. */
import { spawn, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { open, readdir, readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import type { Helper } from '../../agent/helper/helper.ts'
import { call, events, type Endpoint } from '../../cli/client.ts'
import { describeError } from '../../protocol/core/errors.ts'
import type { ClusterResource, EventResource, LeaseResource } from '../../protocol/api.ts'
import { helperConfig, startHelperFor } from '../helper.ts'

const LAUNCHER = fileURLToPath(new URL('../../packaging/musubi', import.meta.url))
/** A machine on which everything starts at once takes many times what a quiet one does. */
const START_TIMEOUT_MS = 90_000

export class RealAgent {
  readonly site: string
  readonly name: string
  readonly peerId: string
  readonly gateway: boolean
  readonly address: string
  readonly #dir: string
  readonly #env: Readonly<Record<string, string>>
  #child: ChildProcess | null = null
  #helper: Helper | null = null
  #frozen = false

  constructor (at: { site: string, name: string, peerId: string, gateway: boolean, address: string, dir: string, env: Readonly<Record<string, string>> }) {
    this.site = at.site
    this.name = at.name
    this.peerId = at.peerId
    this.gateway = at.gateway
    this.address = at.address
    this.#dir = at.dir
    this.#env = at.env
  }

  get socket (): string { return join(this.#dir, 'run', 'agent.sock') }
  get endpoint (): Endpoint { return { socketPath: this.socket, what: 'agent' } }
  get stateDir (): string { return join(this.#dir, 'state') }
  get configFile (): string { return join(this.#dir, 'agent.yaml') }
  get pid (): number | null { return this.running ? this.#child?.pid ?? null : null }
  get running (): boolean { return this.#child !== null && this.#child.exitCode === null && this.#child.signalCode === null }
  get frozen (): boolean { return this.#frozen }

  /** Starts the helper beside it, which outlives the agent. */
  async startHelper (): Promise<void> {
    this.#helper ??= await startHelperFor(this.configFile)
  }

  async endHelper (): Promise<void> {
    await this.#helper?.stop()
    this.#helper = null
  }

  /** Starts the process and waits until its API answers. @throws Error with the end of its log */
  async start (): Promise<void> {
    await this.spawn()
    await this.up()
  }

  /** Starts the process and does not wait for it. */
  async spawn (): Promise<void> {
    if (this.running) throw new Error(`the agent of ${this.name} runs already`)
    const file = await open(join(this.#dir, 'log'), 'a')
    // the launcher replaces itself by the agent: the process id is the agent's
    const child = spawn(LAUNCHER, ['agent', 'run', '--config', this.configFile], { env: { ...process.env, NODE_OPTIONS: '', ...this.#env }, stdio: ['ignore', file.fd, file.fd] })
    child.once('error', error => { process.stderr.write(`${LAUNCHER}: ${describeError(error)}\n`) })
    await file.close()
    this.#child = child
  }

  async up (): Promise<void> {
    let last = ''
    for (const end = performance.now() + START_TIMEOUT_MS; ;) {
      if (!this.running) throw new Error(`the agent of ${this.name} ended while it was to come up: ${await this.logEnd()}`)
      if (await this.get('/v1/status').then(() => true, (error: unknown) => { last = describeError(error); return false })) return
      if (performance.now() > end) throw new Error(`the agent of ${this.name} did not come up (${last}): ${await this.logEnd()}`)
      await sleep(20)
    }
  }

  /** Ends the process and waits until it is gone. @returns false when it did not run */
  async end (signal: 'SIGKILL' | 'SIGTERM'): Promise<boolean> {
    const child = this.#child
    if (child === null || !this.running) return false
    const gone = once(child, 'exit')
    child.kill(signal)
    if (this.#frozen) this.freeze(false)
    const late = setTimeout(() => { child.kill('SIGKILL') }, 15_000)
    await gone
    clearTimeout(late)
    return true
  }

  /** At once, for the end of this process. */
  shoot (): void {
    this.#child?.kill('SIGKILL')
  }

  /** Stops the process in its tracks, or lets it go on. */
  freeze (frozen: boolean): void {
    this.#child?.kill(frozen ? 'SIGSTOP' : 'SIGCONT')
    this.#frozen = frozen
  }

  get = async <T>(path: string): Promise<T> => await call<T>(this.endpoint, 'GET', path)
  post = async <T>(path: string, body: unknown = {}): Promise<T> => await call<T>(this.endpoint, 'POST', path, body)
  put = async <T>(path: string, body: unknown): Promise<T> => await call<T>(this.endpoint, 'PUT', path, body)
  delete = async <T>(path: string): Promise<T> => await call<T>(this.endpoint, 'DELETE', path)
  leases = async (): Promise<LeaseResource[]> => await this.get<LeaseResource[]>('/v1/leases')
  clusters = async (): Promise<ClusterResource[]> => await this.get<ClusterResource[]>('/v1/clusters')

  /** Its events from now on, until the signal or its end. */
  async * events (signal: AbortSignal): AsyncGenerator<EventResource> {
    const seen = Math.max(0, ...(await this.get<EventResource[]>('/v1/events')).map(e => e.seq))
    for await (const event of events<EventResource>(this.endpoint, '/v1/events/stream', signal)) {
      if (event.seq > seen) yield event
    }
  }

  /** What "runs" on the pretended host, as it is on its disk: `kind name` */
  async objects (): Promise<string[]> {
    const dir = join(helperConfig(this.#dir).stateDir, 'fake')
    const lists = await Promise.all((await readdir(dir).catch(() => [])).map(async kind => (
      (await readdir(join(dir, kind)).catch(() => [])).filter(n => n.endsWith('.json')).map(n => `${kind} ${decodeURIComponent(n.slice(0, -5))}`)
    )))
    return lists.flat().sort()
  }

  async log (): Promise<string> {
    return await readFile(join(this.#dir, 'log'), 'utf8').catch(() => '')
  }

  async logEnd (lines = 6): Promise<string> {
    return (await this.log()).trimEnd().split('\n').slice(-lines).join('\n')
  }
}
