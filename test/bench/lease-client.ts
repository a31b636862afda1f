/**
 * The asking side of `cycles-vs-etcd*`, a process of its own: a member of the mesh with the certificate
 * of a gateway, which asks a host of its site as gateways do; and clients of etcd. Told what to do over IPC.
 */
import { randomUUID } from 'node:crypto'
import { privateKeyFromProtobuf } from '@libp2p/crypto/keys'
import { peerIdOf } from '../../protocol/mesh/identity.ts'
import { createMesh, type Mesh } from '../../protocol/mesh/mesh.ts'
import { createTrust } from '../../protocol/mesh/trust/trust.ts'
import { EtcdClient } from './lease-etcd.ts'

/** All as text, for IPC. `host`: the peer that is asked */
export interface ClientPlan { key: string, federation: string, chain: string[], listen: string, host: { peerId: string, addresses: string[], chain: string[] } }
/** `etcd`: url of a leader; null: the host over the mesh */
export interface ClientRun { etcd: string | null, clients: number, ms: number }
export type ClientOrder = { op: 'start', plan: ClientPlan } | { op: 'run', run: ClientRun } | { op: 'ping', times: number }
/** `ms`: each cycle, or each ping; `tookMs`: the run */
export type ClientNews = { kind: 'ready' } | { kind: 'done', ms: number[], tookMs: number } | { kind: 'failed', why: string }

const TERM_MS = 3_600_000
const TTL_MS = 30_000
/** About what a lease is as a record in our ledger. */
const VALUE = 'x'.repeat(400)

const bytesOf = (text: string): Uint8Array => Uint8Array.from(Buffer.from(text, 'base64'))

let asked: { mesh: Mesh, host: string } | null = null

async function start ({ key: text, federation, chain, listen, host }: ClientPlan): Promise<void> {
  const key = privateKeyFromProtobuf(Buffer.from(text, 'base64'))
  if (key.type !== 'Ed25519') throw new Error('not an Ed25519 key')
  const trust = createTrust({ peerId: peerIdOf(key), federation, chain: chain.map(bytesOf), now: Date.now })
  const mesh = await createMesh({ key, trust, listen: [listen], peers: [{ ...host, chain: host.chain.map(bytesOf) }] })
  await mesh.start()
  asked = { mesh, host: host.peerId }
}

/** hold, commit, release: each is on the host's disk before it is answered. */
async function cycle (mesh: Mesh, host: string): Promise<void> {
  const clusterId = randomUUID()
  const offerId = randomUUID()
  const leaseId = `${offerId}-1`
  const startMs = Date.now()
  const { receipts } = await mesh.call(host, 'hold', {
    key: clusterId, clusterId, cluster: 'bench', masterSite: 'tokyo', masterPeer: mesh.peerId, startMs, endMs: startMs + TERM_MS, ttlMs: TTL_MS, offerId, epoch: 1,
    items: [{ leaseId, kind: 'node', name: 'bench-tokyo-001', resources: { vcpus: 1, memoryMib: 512, diskMib: 0, volumes: 0, bandwidthMbit: 0 }, segmentId: 0 }]
  })
  const committed = await mesh.call(host, 'hostCommit', { clusterId, offerId, epoch: 1 })
  const { ended } = await mesh.call(host, 'hostRelease', { clusterId, reason: 'bench', offerId: '', leaseIds: [], epoch: 1 })
  if (receipts.length !== 1 || committed.receipts.length !== 1 || ended !== 1) throw new Error(`a cycle had ${receipts.length} holds, ${committed.receipts.length} commits, ${ended} ends`)
}

async function run ({ etcd, clients, ms }: ClientRun): Promise<ClientNews> {
  const times: number[] = []
  const opened: EtcdClient[] = []
  const makeCycle = (): (() => Promise<void>) => {
    if (etcd === null) {
      if (asked === null) throw new Error('not started')
      const { mesh, host } = asked
      return async () => { await cycle(mesh, host) }
    }
    const client = new EtcdClient(etcd)
    opened.push(client)
    return async () => { await client.cycle(`/leases/${randomUUID()}`, VALUE) }
  }
  const from = performance.now()
  await Promise.all(Array.from({ length: clients }, makeCycle).map(async work => {
    while (performance.now() - from < ms) {
      const start = performance.now()
      await work()
      times.push(performance.now() - start)
    }
  }))
  const tookMs = performance.now() - from
  for (const client of opened) client.close()
  return { kind: 'done', ms: times, tookMs }
}

async function ping (count: number): Promise<ClientNews> {
  if (asked === null) throw new Error('not started')
  const times: number[] = []
  const from = performance.now()
  for (let n = 0; n < count; n++) {
    const start = performance.now()
    await asked.mesh.call(asked.host, 'hostStatus', { clusterId: 'none' })
    times.push(performance.now() - start)
  }
  return { kind: 'done', ms: times, tookMs: performance.now() - from }
}

async function obey (order: ClientOrder): Promise<ClientNews> {
  if (order.op === 'run') return await run(order.run)
  if (order.op === 'ping') return await ping(order.times)
  await start(order.plan)
  return { kind: 'ready' }
}

if (process.argv[2] === 'lease-client' && process.send !== undefined) {
  process.on('message', (order: ClientOrder) => {
    obey(order).then(news => process.send?.(news), (error: unknown) => process.send?.({ kind: 'failed', why: error instanceof Error ? error.stack ?? error.message : String(error) }))
  })
  // the parent is gone: nobody needs this process
  process.on('disconnect', () => { process.exit(0) })
}
