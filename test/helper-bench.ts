/** A helper with pretended drivers in this process, and raw or proper connections to it. */
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { createConnection, type Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { pino } from 'pino'
import type { Test } from 'tap'
import { loadAgentConfig, type AgentConfig } from '../agent/config.ts'
import { createFakeDriver, createMemoryFakeStore, type FakeStore } from '../agent/drivers/fake.ts'
import type { HostDrivers } from '../agent/drivers/registry.ts'
import { createHelperClient, type HelperClient } from '../agent/helper/client/client.ts'
import { startHelper, type Helper, type HelperOverrides } from '../agent/helper/helper.ts'
import { createFrameReader, encodeFrame } from '../agent/helper/wire/frames.ts'
import { KIND_ORDER, type ObjectKind } from '../protocol/core/desired.ts'
import { helperConfig } from './helper.ts'

const LARGE = 64 * 1024 * 1024
const silent = pino({ level: 'silent' })

export interface Bench {
  dir: string
  config: AgentConfig
  socket: string
  objects: FakeStore
  /** `verb kind name` of every change, in order */
  calls: string[]
  /** throws or waits to hold a driver up */
  onCall: (verb: 'observe' | 'apply' | 'remove', kind: ObjectKind, name: string) => void | Promise<void>
  helper: Helper
  clock: { offMs: number }
  /** `kind name` of all that "runs" */
  standing (): Promise<string[]>
  restart (): Promise<void>
  client (options?: { ledgerMs?: () => number, persistent?: boolean }): HelperClient
}

const heldUp = (hold: () => void | Promise<void>): Promise<void> => Promise.resolve().then(hold)

/** Starts a helper that ends with the test. */
export async function startBench (t: Test, overrides: HelperOverrides = {}): Promise<Bench> {
  const dir = await mkdtemp(join(tmpdir(), 'mzh-'))
  const file = join(dir, 'agent.yaml')
  await writeFile(file, JSON.stringify({ name: 'h1', site: 'tokyo', roles: ['compute'], listen: ['/ip4/127.0.0.1/tcp/0'], underlayAddress: '127.0.0.1', stateDir: dir, runDir: dir, drivers: 'fake', helper: helperConfig(dir) }))
  const config = await loadAgentConfig(file)
  const objects = createMemoryFakeStore()
  const clients: HelperClient[] = []
  const clock = { offMs: 0 }
  const slow: FakeStore = {
    list: async kind => { await heldUp(() => bench.onCall('observe', kind, '')); return await objects.list(kind) },
    put: async (kind, object) => { await heldUp(() => bench.onCall('apply', kind, object.name)); await objects.put(kind, object) },
    delete: async (kind, name) => { await heldUp(() => bench.onCall('remove', kind, name)); await objects.delete(kind, name) }
  }
  const host = (): HostDrivers => ({
    drivers: Object.fromEntries(KIND_ORDER.map(kind => [kind, createFakeDriver(kind, { store: slow, onCall: (verb, name) => { if (verb !== 'observe') bench.calls.push(`${verb} ${kind} ${name}`) } })])),
    strays: [], details: { domainStats: () => Promise.resolve({ 'c1.n1': { state: 'running' } }) }, tunnelTracks: () => Promise.resolve([{ track: 0, publicKey: 'key', draining: false, epoch: 0, madeMs: 0 }])
  })
  const start = async (): Promise<Helper> => await startHelper(config, silent, { host: host(), now: () => Date.now() + clock.offMs, ...overrides, times: { tickMs: 20, ...overrides.times } })
  const bench: Bench = {
    dir, config, socket: config.helper.socket, objects, calls: [], onCall: () => undefined, clock, helper: null as never,
    async standing () { return (await Promise.all(KIND_ORDER.map(async kind => (await objects.list(kind)).map(one => `${kind} ${one.name}`)))).flat() },
    async restart () {
      await bench.helper.stop()
      bench.helper = await start()
    },
    client (options = {}) {
      const client = createHelperClient({ socketPath: config.helper.socket, log: silent, ...options })
      clients.push(client)
      return client
    }
  }
  bench.helper = await start()
  t.teardown(async () => {
    for (const client of clients) client.close()
    await bench.helper.stop()
    await rm(dir, { recursive: true, force: true })
  })
  return bench
}

type Answer = { id: number | null, result?: unknown, error?: { code: string, message: string } } | null

export interface Raw {
  socket: Socket
  send (message: unknown): void
  write (bytes: Buffer): void
  /** the next answer; null when the connection has ended */
  next (): Promise<Answer>
}

/** A connection on which anything can be said. */
export async function connectRaw (t: Test, path: string): Promise<Raw> {
  const socket = createConnection(path)
  const reader = createFrameReader(LARGE)
  const got: Answer[] = []
  const waiting: Array<(message: Answer) => void> = []
  let ended = false
  const give = (message: Answer): void => {
    const waiter = waiting.shift()
    if (waiter === undefined) got.push(message)
    else waiter(message)
  }
  socket.on('data', (chunk: Buffer) => { for (const message of reader.push(chunk)) give(message as Answer) })
  socket.on('error', () => undefined)
  socket.on('close', () => { ended = true; for (const waiter of waiting.splice(0)) waiter(null) })
  t.teardown(() => { socket.destroy() })
  await new Promise<void>((resolve, reject) => { socket.once('connect', resolve).once('error', reject) })
  return {
    socket,
    send: message => { socket.write(encodeFrame(message, LARGE)) },
    write: bytes => { socket.write(bytes) },
    next: async () => got.length > 0 ? got.shift() ?? null : ended ? null : await new Promise<Answer>(resolve => { waiting.push(resolve) })
  }
}
