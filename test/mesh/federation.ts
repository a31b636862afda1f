/** Starts the members of a small federation, each in a process of its own, for one test. */
import { fork, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { fileURLToPath } from 'node:url'
import { setTimeout as sleep } from 'node:timers/promises'
import { privateKeyToProtobuf } from '@libp2p/crypto/keys'
import type { Test } from 'tap'
import { parseFederation, type Federation, type FederationDocument, type HostRoleName } from '../../protocol/mesh/federation.ts'
import { createKey, peerIdOf, type NodeKey } from '../../protocol/mesh/identity.ts'
import type { Answer, MemberConfig, Operation, Operations, Order } from './member.ts'

const MEMBER = fileURLToPath(new URL('./member.ts', import.meta.url))

/** A loopback network of its own per test, so that ports of parallel tests cannot clash. */
const loopback = (): string => `127.${1 + Math.floor(Math.random() * 250)}.${Math.floor(Math.random() * 250)}`

export type Timing = Pick<MemberConfig, 'ttlMs' | 'heartbeatMs' | 'syncIntervalMs' | 'ping'>
export const CALM: Timing = { ttlMs: 30_000, heartbeatMs: 10_000, syncIntervalMs: 2000, ping: null }

export class Member {
  readonly name: string
  readonly peerId: string
  readonly address: string
  readonly key: NodeKey
  readonly #process: ChildProcess
  readonly #pending = new Map<number, PromiseWithResolvers<unknown>>()
  #lastId = 0

  constructor (name: string, key: NodeKey, address: string) {
    this.name = name
    this.key = key
    this.peerId = peerIdOf(key)
    this.address = address
    const env = Object.fromEntries(Object.entries(process.env).filter(([name]) => name !== 'NODE_OPTIONS'))
    this.#process = fork(MEMBER, { execArgv: [], env, stdio: ['ignore', 'inherit', 'inherit', 'ipc'] })
    this.#process.on('message', ({ id, value, error }: Answer) => {
      const pending = this.#pending.get(id)
      this.#pending.delete(id)
      if (error === undefined) pending?.resolve(value)
      else pending?.reject(new Error(`${name}: ${error}`))
    })
    this.#process.on('exit', () => {
      for (const { reject } of this.#pending.values()) reject(new Error(`${name} has ended`))
    })
  }

  get alive (): boolean {
    return this.#process.exitCode === null && this.#process.signalCode === null
  }

  async ask<O extends Operation> (op: O, args: Operations[O]['in']): Promise<Operations[O]['out']> {
    const id = ++this.#lastId
    const pending = Promise.withResolvers<unknown>()
    this.#pending.set(id, pending)
    const order: Order = { id, op, args }
    this.#process.send(order, error => { if (error !== null) pending.reject(new Error(`${this.name} cannot be asked: ${error.message}`)) })
    return await pending.promise as Operations[O]['out']
  }

  /** Ends the process at once, like a power cut; resolves when it is gone. */
  async kill (): Promise<void> {
    if (!this.alive) return
    const gone = once(this.#process, 'exit')
    this.#process.kill('SIGKILL')
    await gone
  }

  signal (signal: NodeJS.Signals): void {
    this.#process.kill(signal)
  }
}

/** `tokyo/g1: gateway compute`; a name without site is a coordinator. */
export type Layout = Readonly<Record<string, string>>

/** Five hosts at two sites, and a coordinator. */
export const DEMO: Layout = {
  main: 'coordinator',
  'tokyo/g1': 'gateway compute',
  'tokyo/c1': 'compute',
  'tokyo/s1': 'storage',
  'kyoto/g1': 'gateway compute',
  'kyoto/c1': 'compute'
}

export interface Lab {
  readonly federation: Federation
  readonly text: string
  readonly keys: ReadonlyMap<string, NodeKey>
  addressOf (name: string): string
  /** a running member; starts again after `kill` with another epoch */
  start (name: string, timing?: Timing, epoch?: number): Promise<Member>
}

/** Keys and federation file for a layout; no process runs yet. All that is started ends with the test. */
export async function makeLab (t: Test, layout: Layout = DEMO): Promise<Lab> {
  const net = loopback()
  const names = Object.keys(layout)
  const keys = new Map(await Promise.all(names.map(async name => [name, await createKey()] as const)))
  const addressOf = (name: string): string => `/ip4/${net}.${names.indexOf(name) + 1}/tcp/4001`
  const keyOf = (name: string): NodeKey => {
    const key = keys.get(name)
    if (key === undefined) throw new Error(`no member ${name}`)
    return key
  }
  const hosts = names.filter(name => name.includes('/')).map(name => {
    const [site = '', host = ''] = name.split('/')
    return { site, entry: { name: host, peerId: peerIdOf(keyOf(name)), roles: (layout[name] ?? '').split(' ') as HostRoleName[], addresses: [addressOf(name)] } }
  })
  const document: FederationDocument = {
    name: 'lab',
    coordinators: names.filter(name => !name.includes('/')).map(name => ({ name, peerId: peerIdOf(keyOf(name)), addresses: [addressOf(name)] })),
    sites: [...Map.groupBy(hosts, ({ site }) => site)].map(([name, members]) => ({ name, hosts: members.map(({ entry }) => entry) }))
  }
  const text = JSON.stringify(document)
  const running = new Set<Member>()
  t.teardown(async () => { await Promise.all([...running].map(async member => { await member.kill() })) })
  return {
    federation: parseFederation(text),
    text,
    keys,
    addressOf,
    start: async (name, timing = CALM, epoch = 1) => {
      const key = keyOf(name)
      const member = new Member(name, key, addressOf(name))
      running.add(member)
      await member.ask('init', { ...timing, epoch, federation: text, listen: addressOf(name), key: Buffer.from(privateKeyToProtobuf(key)).toString('base64') })
      await member.ask('start', null)
      return member
    }
  }
}

/** Waits until `check` gives something else than null or false. @throws Error saying what never came */
export async function eventually<T> (what: string, check: () => Promise<T | null | false>, withinMs = 45_000): Promise<T> {
  const end = performance.now() + withinMs
  for (;;) {
    const found = await check()
    if (found !== null && found !== false) return found
    if (performance.now() > end) throw new Error(`${what}: not within ${withinMs} ms`)
    await sleep(50)
  }
}
