/** Nodes that keep to no rule of ours: they show any chain, and send any bytes. */
import { connect, type Socket } from 'node:net'
import type { Connection, Libp2p, Stream } from '@libp2p/interface'
import { tcp } from '@libp2p/tcp'
import { yamux } from '@libp2p/yamux'
import { multiaddr } from '@multiformats/multiaddr'
import { createLibp2p } from 'libp2p'
import type { Test } from 'tap'
import { RPC_PROTOCOL } from '../../../protocol/mesh/constants.ts'
import type { NodeKey } from '../../../protocol/mesh/identity.ts'
import type { Chain } from '../../../protocol/mesh/trust/certificate.ts'
import { showing, type Member } from '../../mesh/federation.ts'

const PATIENCE_MS = 8_000

export interface Attacker {
  /** a new connection; rejects when it is not admitted */
  dial (): Promise<Connection>
  /** a stream for calls, on the connection that is open or a new one */
  stream (protocol?: string): Promise<Stream>
  node: Libp2p
}

/** A node with any key that shows any chain. */
export async function attacker (t: Test, target: Member, { key, chain }: { key: NodeKey, chain: Chain }): Promise<Attacker> {
  const node = await createLibp2p({
    privateKey: key, transports: [tcp()], streamMuxers: [yamux({ maxOutboundStreams: 100_000 })], connectionEncrypters: [showing(chain)],
    connectionMonitor: { enabled: false }, connectionManager: { maxParallelDials: 1000 }
  })
  t.teardown(async () => { await node.stop() })
  const address = multiaddr(`${target.address}/p2p/${target.peerId}`)
  const dial = async (force: boolean): Promise<Connection> => await node.dial(address, { signal: AbortSignal.timeout(PATIENCE_MS), force })
  return {
    node,
    dial: async () => await dial(true),
    stream: async (protocol = RPC_PROTOCOL) => await (await dial(false)).newStream(protocol, { signal: AbortSignal.timeout(PATIENCE_MS), maxOutboundStreams: 100_000 })
  }
}

/** Sends all of it, as fast as the other side takes it; ends quietly when that ends the stream. */
export async function push (stream: Stream, bytes: Uint8Array, withinMs = PATIENCE_MS): Promise<void> {
  try {
    if (stream.send(bytes)) return
    const { promise, resolve } = Promise.withResolvers<null>()
    stream.addEventListener('drain', () => { resolve(null) }, { once: true })
    stream.addEventListener('close', () => { resolve(null) }, { once: true })
    const timer = setTimeout(() => { resolve(null) }, withinMs)
    await promise
    clearTimeout(timer)
  } catch {
    // the other side has closed it
  }
}

/** Resolves when the other side has ended the stream. */
export async function ended (stream: Stream, withinMs = PATIENCE_MS): Promise<boolean> {
  if (stream.status !== 'open' && stream.status !== 'closing') return true
  const { promise, resolve } = Promise.withResolvers<boolean>()
  stream.addEventListener('close', () => { resolve(true) }, { once: true })
  const timer = setTimeout(() => { resolve(false) }, withinMs)
  const is = await promise
  clearTimeout(timer)
  return is
}

/** A TCP connection that says nothing. @returns null when it was not even accepted */
export async function silent (host: string, port: number, from: string, onClose: (livedMs: number) => void): Promise<Socket | null> {
  const { promise, resolve } = Promise.withResolvers<Socket | null>()
  const socket = connect({ host, port, localAddress: from })
  socket.on('error', () => { resolve(null) })
  socket.on('connect', () => {
    const fromMs = performance.now()
    socket.on('close', () => { onClose(performance.now() - fromMs) })
    resolve(socket)
  })
  return await promise
}

const varint = (value: number): number[] => value < 0x80 ? [value] : [(value & 0x7f) | 0x80, ...varint(value >>> 7)]
const field = (tag: number, body: Uint8Array): Uint8Array => Buffer.concat([Uint8Array.from([...varint(tag), ...varint(body.length)]), body])
/** A frame as it goes over a stream. */
export const framed = (body: Uint8Array): Uint8Array => Buffer.concat([Uint8Array.from(varint(body.length)), body])

const repeated = (bytes: readonly number[], size: number): Uint8Array => {
  const out = new Uint8Array(size - size % bytes.length)
  for (let at = 0; at < out.length; at += bytes.length) out.set(bytes, at)
  return out
}
const GROUP_2047 = varint(2047 << 3 | 3)
const LENGTH_DELIMITED = 2

/** Groups within groups, of a field that nobody knows. */
export const nestedGroups = (size: number): Uint8Array => repeated(GROUP_2047, size)
/** Frame { call { sync { offer: [{}, {}, ...] } } }: two bytes for a whole record. */
export const emptyRecords = (size: number): Uint8Array => field(1 << 3 | LENGTH_DELIMITED, field(10 << 3 | LENGTH_DELIMITED, repeated([3 << 3 | LENGTH_DELIMITED, 0], size - 20)))
/** Frame { call { id, id, id, ... } } */
export const repeatedIds = (size: number): Uint8Array => field(1 << 3 | LENGTH_DELIMITED, repeated([1 << 3, 1], size - 10))
