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
import { peerIdOf } from '../../protocol/mesh/identity.ts'
import { createMesh } from '../../protocol/mesh/mesh.ts'
import { createTrust, type Trust } from '../../protocol/mesh/trust/trust.ts'
import { decode, encode } from '../../protocol/wire/codec.ts'
import { createKit, type Kit, type KitMember } from '../trust-kit.ts'
import { percentile, round, type Bench, type BenchOptions, type Figure } from './figures.ts'

interface ServerConfig { key: string, federation: string, chain: string[], listen: string }
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
  const chain = config.chain.map(text => Uint8Array.from(Buffer.from(text, 'base64')))
  const trust = createTrust({ peerId: peerIdOf(key), federation: config.federation, chain, now: Date.now })
  const mesh = await createMesh({ key, trust, listen: [config.listen], peers: [] })
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

const trustOf = ({ federation }: Kit, { peerId, chain }: KitMember): Trust => createTrust({ peerId, federation, chain, now: Date.now })

async function * rpcCall ({ full = false }: BenchOptions = {}): AsyncGenerator<Figure> {
  const kit = await createKit({ sites: [{ name: 'tokyo', hosts: [{ name: 'g1', roles: ['gateway'] }, { name: 'c1', roles: ['compute'] }] }] })
  const [own, other] = [kit.member('tokyo/g1'), kit.member('tokyo/c1')]
  const { server, ready } = await startServer({
    federation: kit.federation, key: Buffer.from(privateKeyToProtobuf(other.key)).toString('base64'), chain: other.chain.map(bytes => Buffer.from(bytes).toString('base64')), listen: '/ip4/127.0.0.1/tcp/0'
  })
  const mesh = await createMesh({ key: own.key, trust: trustOf(kit, own), listen: [], peers: [{ peerId: other.peerId, addresses: ready.addresses, chain: other.chain }] })
  const plain = await plainNode()
  try {
    await mesh.start()
    const peer = other.peerId
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

export const benches: Readonly<Record<string, Bench>> = { 'rpc-call': rpcCall }

// the same file is the answering process, when it was forked
if (process.argv[1] === fileURLToPath(import.meta.url) && process.send !== undefined) {
  process.once('message', (config: ServerConfig) => {
    void serve(config).then(ready => process.send?.(ready))
  })
  process.on('disconnect', () => { process.exit(0) })
}
