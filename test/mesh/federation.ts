/** Starts the members of a small federation, each in a process of its own, for one test. */
import { fork, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { fileURLToPath } from 'node:url'
import { setTimeout as sleep } from 'node:timers/promises'
import { privateKeyToProtobuf } from '@libp2p/crypto/keys'
import { noise } from '@chainsafe/libp2p-noise'
import type { Test } from 'tap'
import { peerIdOf, type NodeKey } from '../../protocol/mesh/identity.ts'
import { createMesh, type Mesh } from '../../protocol/mesh/mesh.ts'
import type { HostRoleName } from '../../protocol/mesh/roles.ts'
import { admission } from '../../protocol/mesh/trust/admission.ts'
import type { Chain } from '../../protocol/mesh/trust/certificate.ts'
import type { KnownPeer } from '../../protocol/mesh/trust/credentials.ts'
import { revoke } from '../../protocol/mesh/trust/revocation.ts'
import { createTrust } from '../../protocol/mesh/trust/trust.ts'
import { createKit, type Kit } from '../trust-kit.ts'
import { AS_AGENT } from './as-agent.ts'
import type { Answer, MemberConfig, Operation, Operations, Order } from './member.ts'

const MEMBER = fileURLToPath(new URL('./member.ts', import.meta.url))

type NoiseComponents = Parameters<ReturnType<typeof noise>>[0]

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
    this.#process = fork(MEMBER, { execArgv: [...AS_AGENT], env, stdio: ['ignore', 'inherit', 'inherit', 'ipc'] })
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

export interface StartOptions {
  epoch?: number
  /** names of those it is told of at first; default: everybody */
  knows?: readonly string[]
  /** how far its wall clock is ahead */
  clockMs?: number
  /** what of its gossip is lost */
  loses?: 'revocations' | 'all'
}

export interface Lab {
  readonly kit: Kit
  addressOf (name: string): string
  /** where a member is and what it is, as others remember it */
  known (name: string): KnownPeer
  /** a running member; starts again after `kill` with another epoch */
  start (name: string, timing?: Timing, options?: StartOptions): Promise<Member>
  /** a mesh in this process under the name of a member, not started; it ends with the test */
  mesh (name: string, knows?: readonly string[]): Promise<Mesh>
}

const base64 = (bytes: Uint8Array): string => Buffer.from(bytes).toString('base64')

/** Keys and certificates for a layout; no process runs yet. All that is started ends with the test. */
export async function makeLab (t: Test, layout: Layout = DEMO): Promise<Lab> {
  const net = loopback()
  const names = Object.keys(layout)
  const hosts = names.filter(name => name.includes('/')).map(name => {
    const [site = '', host = ''] = name.split('/')
    return { site, entry: { name: host, roles: (layout[name] ?? '').split(' ') as HostRoleName[] } }
  })
  const kit = await createKit({
    coordinators: names.filter(name => !name.includes('/')),
    sites: [...Map.groupBy(hosts, ({ site }) => site)].map(([name, members]) => ({ name, hosts: members.map(({ entry }) => entry) }))
  })
  const addressOf = (name: string): string => `/ip4/${net}.${names.indexOf(name) + 1}/tcp/4001`
  const known = (name: string): KnownPeer => ({ peerId: kit.member(name).peerId, addresses: [addressOf(name)], chain: kit.member(name).chain })
  const knownTo = (name: string, knows: readonly string[] | undefined): KnownPeer[] => (knows ?? names).filter(other => other !== name).map(known)
  const running = new Set<Member>()
  t.teardown(async () => { await Promise.all([...running].map(async member => { await member.kill() })) })
  return {
    kit,
    addressOf,
    known,
    start: async (name, timing = CALM, { knows, epoch = 1, ...rest } = {}) => {
      const { key, chain } = kit.member(name)
      const member = new Member(name, key, addressOf(name))
      running.add(member)
      await member.ask('init', {
        ...timing, ...rest, epoch, listen: addressOf(name), key: base64(privateKeyToProtobuf(key)), chain: chain.map(base64), federation: kit.federation,
        peers: knownTo(name, knows).map(peer => ({ peerId: peer.peerId, addresses: [...peer.addresses], chain: peer.chain.map(base64) }))
      })
      await member.ask('start', null)
      return member
    },
    mesh: async (name, knows) => {
      const { key, peerId, chain } = kit.member(name)
      const trust = createTrust({ peerId, federation: kit.federation, chain, now: Date.now })
      const mesh = await createMesh({ key, trust, listen: [addressOf(name)], peers: knownTo(name, knows) })
      t.teardown(async () => { await mesh.close() })
      return mesh
    }
  }
}

/** Admission for a node that is not ours: it shows `chain` to others and takes whatever they show. */
export function showing (chain: Chain): ReturnType<typeof admission<NoiseComponents>> {
  const nobody = { peerId: '', role: { kind: 'coordinator', name: '' }, siteKey: null, issuer: '', notBeforeMs: 0, notAfterMs: 0, joinedMs: 0, siteJoinedMs: 0, segmentIds: null, quotaPercent: 0, certificates: [], chain } as const
  return admission(noise(), { chain: () => chain, admitConnection: () => nobody, onRefused: () => undefined })
}

/** A revocation of a member by its site, as text for IPC. */
export function revocationOf (kit: Kit, name: string, reason = ''): { envelope: string, chain: string[] } {
  const { site, peerId } = kit.member(name)
  const siteKey = kit.siteKeys.get(site)
  const siteChain = kit.siteChains.get(site)
  if (siteKey === undefined || siteChain === undefined) throw new Error(`no site key of ${name}`)
  const { envelope, chain } = revoke(siteKey, siteChain, { federation: kit.federation, kind: 'host', subject: peerId, site, name: name.split('/')[1] ?? '', reason }, Date.now())
  return { envelope: base64(envelope), chain: chain.map(base64) }
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

/** What a member's view of a kind holds, sorted. */
export async function names (member: Member, kind: 'host' | 'site'): Promise<string[]> {
  return (await member.ask('view', kind)).map(({ name }) => name).sort()
}

/** Waits until that is what it holds. */
export async function sees (member: Member, kind: 'host' | 'site', expected: string[]): Promise<void> {
  let last: string[] = []
  await eventually(`${member.name} sees ${expected.join(', ')}`, async () => {
    last = await names(member, kind)
    return JSON.stringify(last) === JSON.stringify(expected)
  }).catch((error: unknown) => { throw new Error(`${String(error)}; it saw ${last.join(', ')}`) })
}
