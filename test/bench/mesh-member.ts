/**
 * Members of a mesh for benches: mesh and records with the times of production, without the rest of
 * an agent. Forked, this file is one member, or many of them in one process, told what to do over IPC.
 */
import { setTimeout as sleep } from 'node:timers/promises'
import { runInNewContext } from 'node:vm'
import { setFlagsFromString } from 'node:v8'
import { privateKeyFromProtobuf, privateKeyToProtobuf } from '@libp2p/crypto/keys'
import { peerIdOf, type NodeKey } from '../../protocol/mesh/identity.ts'
import { createMesh, type Mesh } from '../../protocol/mesh/mesh.ts'
import { createRecords, type Records } from '../../protocol/mesh/records.ts'
import { createTrust } from '../../protocol/mesh/trust/trust.ts'
import { createKit } from '../trust-kit.ts'

/** All as text, for IPC. */
export interface MemberPlan {
  name: string
  key: string
  federation: string
  chain: string[]
  listen: string
  /** whom it knows at first, as after joining: the gateways */
  peers: Array<{ peerId: string, addresses: string[], chain: string[] }>
}

export interface ManyPlan { count: number, updates: number }
export interface ManyResult { connectedMs: number, completeMs: number, updatesMs: number[], deliveries: number, expected: number, rssMiB: number, heapMiB: number }

export type Order = { op: 'start', plan: MemberPlan } | { op: 'publish', update: number } | { op: 'many', plan: ManyPlan }
/** `seen`: update of the member `by` has arrived; `hosts`: members known by now */
export type News = { kind: 'seen', by: string, update: number } | { kind: 'hosts', count: number } | { kind: 'done' } | { kind: 'many', result: ManyResult } | { kind: 'failed', why: string }

const base64 = (bytes: Uint8Array): string => Buffer.from(bytes).toString('base64')
const bytesOf = (text: string): Uint8Array => Uint8Array.from(Buffer.from(text, 'base64'))

/** A site of `count` hosts, two of them gateways, on a loopback network of its own. */
export async function planSite (count: number): Promise<MemberPlan[]> {
  const net = `127.${1 + Math.floor(Math.random() * 250)}.${Math.floor(Math.random() * 250)}`
  const names = Array.from({ length: count }, (_, n) => `h${n}`)
  const kit = await createKit({ sites: [{ name: 'tokyo', hosts: names.map((name, n) => ({ name, roles: n < 2 ? ['gateway', 'compute'] : ['compute'] })) }] })
  const listenOf = (n: number): string => `/ip4/${net}.${n + 1}/tcp/4001`
  const gateways = names.slice(0, 2).map((name, n) => {
    const { peerId, chain } = kit.member(`tokyo/${name}`)
    return { peerId, addresses: [listenOf(n)], chain: chain.map(base64) }
  })
  return names.map((name, n) => {
    const { key, chain, peerId } = kit.member(`tokyo/${name}`)
    return { name, key: base64(privateKeyToProtobuf(key)), federation: kit.federation, chain: chain.map(base64), listen: listenOf(n), peers: gateways.filter(g => g.peerId !== peerId) }
  })
}

function keyOf (text: string): NodeKey {
  const key = privateKeyFromProtobuf(Buffer.from(text, 'base64'))
  if (key.type !== 'Ed25519') throw new Error('not an Ed25519 key')
  return key
}

export interface Member {
  readonly mesh: Mesh
  readonly records: Records
  /** says how many vCPUs it has free */
  publish (vcpus: number): void
  close (): Promise<void>
}

/** A member that runs. @param onUpdate told of every change of somebody's free vCPUs */
export async function startMember (plan: MemberPlan, onUpdate: (by: string, vcpus: number) => void): Promise<Member> {
  const key = keyOf(plan.key)
  const trust = createTrust({ peerId: peerIdOf(key), federation: plan.federation, chain: plan.chain.map(bytesOf), now: Date.now })
  const mesh = await createMesh({ key, trust, listen: [plan.listen], peers: plan.peers.map(peer => ({ ...peer, chain: peer.chain.map(bytesOf) })) })
  const records = createRecords({ mesh, epoch: 1 })
  const last = new Map<string, number>()
  records.onChange((kind, peer) => {
    if (kind !== 'host' || peer === mesh.peerId) return
    const body = records.view('host').find(row => row.peer === peer)?.body
    const vcpus = body?.free?.vcpus
    if (body === undefined || vcpus === undefined || last.get(peer) === vcpus) return
    last.set(peer, vcpus)
    onUpdate(body.host, vcpus)
  })
  await mesh.start()
  const publish = (vcpus: number): void => {
    const total = { vcpus: 1_000_000, memoryMib: 65_536, diskMib: 100_000, volumes: 64, bandwidthMbit: 0 }
    records.publish('host', {
      site: 'tokyo', host: plan.name, roles: ['compute'], addresses: [plan.listen], underlayAddress: '10.0.0.1', total, free: { ...total, vcpus }, cordoned: false,
      accelerator: 'tcg', version: '0.1.0', inventory: null, features: ['8021q', 'kvm', 'wireguard']
    })
  }
  publish(0)
  return {
    mesh, records, publish,
    close: async () => {
      records.stop()
      await mesh.close()
    }
  }
}

export async function until (what: string, check: () => boolean, withinMs = 90_000): Promise<void> {
  for (const end = performance.now() + withinMs; !check();) {
    if (performance.now() > end) throw new Error(`${what}: not within ${withinMs} ms`)
    await sleep(5)
  }
}

/** What a late update is waited for: three comparisons between neighbours. */
export const PATIENCE_MS = 30_000

const MiB = 2 ** 20
function memory (): { rssMiB: number, heapMiB: number } {
  setFlagsFromString('--expose-gc')
  const collect = runInNewContext('gc') as () => void
  collect()
  const { rss, heapUsed } = process.memoryUsage()
  return { rssMiB: rss / MiB, heapMiB: heapUsed / MiB }
}

/** Members of one process that start together. */
const AT_ONCE = 5

/** `count` members in this process. */
async function many ({ count, updates }: ManyPlan): Promise<ManyResult> {
  const plans = await planSite(count)
  const before = memory()
  let seen = 0
  let watched = 0
  let lastMs = 0
  const from = performance.now()
  const members: Member[] = []
  const connected = (): boolean => members.every(({ mesh }) => mesh.connected().length > 0)
  for (let n = 0; n < count; n += AT_ONCE) {
    // all at once they would hold up each other's handshakes, on the one thread that they share, beyond every time limit
    members.push(...await Promise.all(plans.slice(n, n + AT_ONCE).map(async plan => await startMember(plan, (_by, vcpus) => {
      if (vcpus !== watched) return
      seen++
      lastMs = performance.now()
    }))))
    await until(`${members.length} members have connections`, connected)
  }
  const connectedMs = performance.now() - from
  await until(`${count} members know each other`, () => members.every(({ records }) => records.view('host').length === count))
  const completeMs = performance.now() - from
  await sleep(3000)
  const after = memory()
  const updatesMs: number[] = []
  let deliveries = 0
  for (let update = 1; update <= updates; update++) {
    await sleep(300 + Math.random() * 400)
    seen = 0
    watched = update
    const start = performance.now()
    members[update % count]?.publish(update)
    const complete = await until(`update ${update} is everywhere`, () => seen >= count - 1, PATIENCE_MS).then(() => true, () => false)
    updatesMs.push(complete ? lastMs - start : PATIENCE_MS)
    deliveries += seen
  }
  return { connectedMs, completeMs, updatesMs, deliveries, expected: updates * (count - 1), rssMiB: (after.rssMiB - before.rssMiB) / count, heapMiB: (after.heapMiB - before.heapMiB) / count }
}

function tell (news: News): void {
  process.send?.(news)
}

let member: Member | null = null

async function obey (order: Order): Promise<void> {
  if (order.op === 'many') {
    tell({ kind: 'many', result: await many(order.plan) })
  } else if (order.op === 'publish') {
    member?.publish(order.update)
  } else {
    const known = new Set<string>()
    member = await startMember(order.plan, (by, update) => {
      if (update > 0) tell({ kind: 'seen', by, update })
      if (known.has(by)) return
      known.add(by)
      tell({ kind: 'hosts', count: known.size + 1 })
    })
    tell({ kind: 'done' })
  }
}

if (process.argv[2] === 'bench-member' && process.send !== undefined) {
  process.on('message', (order: Order) => {
    obey(order).catch((error: unknown) => { tell({ kind: 'failed', why: error instanceof Error ? error.stack ?? error.message : String(error) }) })
  })
  // the parent is gone: nobody needs this process
  process.on('disconnect', () => { process.exit(0) })
}
