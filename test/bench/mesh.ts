/**
 * Mesh figures. `rpc-call`: one call over the stream that stays open, against the same call over a
 * stream opened for it, in the same run, between two processes, alternating in blocks so that
 * whatever else the machine does hits both.
 */
import { fork, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { fileURLToPath } from 'node:url'
import { privateKeyFromProtobuf, privateKeyToProtobuf } from '@libp2p/crypto/keys'
import { noise } from '@chainsafe/libp2p-noise'
import { identify } from '@libp2p/identify'
import type { Libp2p } from '@libp2p/interface'
import { tcp } from '@libp2p/tcp'
import { lpStream } from '@libp2p/utils'
import { yamux } from '@libp2p/yamux'
import { multiaddr, type Multiaddr } from '@multiformats/multiaddr'
import { createLibp2p } from 'libp2p'
import { parseFederation } from '../../protocol/mesh/federation.ts'
import { createKey, peerIdOf, type NodeKey } from '../../protocol/mesh/identity.ts'
import { createMesh } from '../../protocol/mesh/mesh.ts'
import { decode, encode } from '../../protocol/wire/codec.ts'

/** One line of the benchmark's output; ratio is against `peerValue` or `limit`. */
export interface Figure {
  bench: string
  figure: string
  value: number
  unit: string
  better: 'lower' | 'higher'
  peer: string | null
  peerValue: number | null
  limit: number | null
  ratio: number | null
  samples: number
  p50: number
  p99: number
}

interface ServerConfig { key: string, federation: string, listen: string }
interface ServerReady { addresses: string[], plain: string[] }

const PER_STREAM = '/musubi/bench/per-stream/1'
const REQUEST = { clusterId: 'bench' }
const REPLY = { hosts: [{ site: 'tokyo', host: 'c1', leaseState: 'active', objects: [], reachable: true, nowMs: 0 }] }

async function plainNode (): Promise<Libp2p> {
  return await createLibp2p({
    addresses: { listen: ['/ip4/127.0.0.1/tcp/0'] }, transports: [tcp()], connectionEncrypters: [noise()], streamMuxers: [yamux()], services: { identify: identify() }
  })
}

/** The answering side, in a process of its own. */
async function serve (config: ServerConfig): Promise<ServerReady> {
  const key = privateKeyFromProtobuf(Buffer.from(config.key, 'base64'))
  if (key.type !== 'Ed25519') throw new Error('not an Ed25519 key')
  const mesh = await createMesh({ key, roster: parseFederation(config.federation), listen: [config.listen], bootstrap: [] })
  mesh.serve('status', () => REPLY)
  await mesh.start()
  const plain = await plainNode()
  await plain.handle(PER_STREAM, async stream => {
    const frames = lpStream(stream)
    decode('StatusRequest', (await frames.read()).subarray())
    await frames.write(encode('StatusReply', REPLY))
    await stream.close()
  }, { maxInboundStreams: 64 })
  return { addresses: mesh.addresses(), plain: plain.getMultiaddrs().map(String) }
}

async function callOverNewStream (node: Libp2p, target: Multiaddr): Promise<void> {
  const stream = await node.dialProtocol(target, PER_STREAM)
  const frames = lpStream(stream)
  await frames.write(encode('StatusRequest', REQUEST))
  decode('StatusReply', (await frames.read()).subarray())
  await stream.close()
}

const round = (value: number): number => Math.round(value * 1000) / 1000

function percentile (samples: readonly number[], part: number): number {
  const sorted = [...samples].sort((a, b) => a - b)
  return round(sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * part))] ?? 0)
}

async function timeEach (times: number, work: () => Promise<unknown>, into: number[]): Promise<void> {
  for (let n = 0; n < times; n++) {
    const from = performance.now()
    await work()
    into.push(performance.now() - from)
  }
}

async function startServer (config: ServerConfig): Promise<{ server: ChildProcess, ready: ServerReady }> {
  const server = fork(fileURLToPath(import.meta.url), [], { execArgv: [], stdio: ['ignore', 'inherit', 'inherit', 'ipc'] })
  server.send(config)
  const [ready] = await once(server, 'message') as [ServerReady]
  return { server, ready }
}

async function * rpcCall ({ full = false }: { full?: boolean } = {}): AsyncGenerator<Figure> {
  const [own, other]: [NodeKey, NodeKey] = [await createKey(), await createKey()]
  const host = (name: string, key: NodeKey): object => ({ name, peerId: peerIdOf(key), roles: ['compute'], addresses: [] })
  const federation = JSON.stringify({ name: 'bench', coordinators: [], sites: [{ name: 'tokyo', hosts: [host('g1', own), host('c1', other)] }] })
  const { server, ready } = await startServer({ federation, key: Buffer.from(privateKeyToProtobuf(other)).toString('base64'), listen: '/ip4/127.0.0.1/tcp/0' })
  const mesh = await createMesh({ key: own, roster: parseFederation(federation), listen: [], bootstrap: [] })
  const plain = await plainNode()
  try {
    await mesh.start()
    const peer = peerIdOf(other)
    mesh.learn(peer, ready.addresses)
    const target = multiaddr(ready.plain[0] ?? '')
    const overOpen = async (): Promise<unknown> => await mesh.call(peer, 'status', REQUEST)
    const overNew = async (): Promise<void> => { await callOverNewStream(plain, target) }
    await timeEach(200, overOpen, [])
    await timeEach(200, overNew, [])
    const open: number[] = []
    const fresh: number[] = []
    for (let block = 0; block < (full ? 40 : 10); block++) {
      await timeEach(100, overOpen, open)
      await timeEach(100, overNew, fresh)
    }
    const [value, peerValue] = [percentile(open, 0.5), percentile(fresh, 0.5)]
    yield {
      bench: 'rpc-call', figure: 'round trip over the open stream', value, unit: 'ms', better: 'lower', peer: 'a new stream per request, same run', peerValue, limit: null,
      ratio: round(value / peerValue), samples: open.length, p50: value, p99: percentile(open, 0.99)
    }
    const total = full ? 20_000 : 4000
    const times: number[] = []
    const from = performance.now()
    await Promise.all(Array.from({ length: 128 }, async () => { await timeEach(Math.floor(total / 128), overOpen, times) }))
    const perSecond = Math.round(times.length / (performance.now() - from) * 1000)
    yield {
      bench: 'rpc-call', figure: 'calls with 128 under way', value: perSecond, unit: '1/s', better: 'higher', peer: null, peerValue: null, limit: null,
      ratio: null, samples: times.length, p50: percentile(times, 0.5), p99: percentile(times, 0.99)
    }
  } finally {
    const gone = once(server, 'exit')
    server.kill('SIGKILL')
    await gone
    await mesh.close()
    await plain.stop()
  }
}

export const benches: Readonly<Record<string, (options?: { full?: boolean }) => AsyncGenerator<Figure>>> = { 'rpc-call': rpcCall }

// the same file is the answering process, when it was forked
if (process.argv[1] === fileURLToPath(import.meta.url) && process.send !== undefined) {
  process.once('message', (config: ServerConfig) => {
    void serve(config).then(ready => process.send?.(ready))
  })
  process.on('disconnect', () => { process.exit(0) })
}
