/**
 * Fewer and fuller packets. libp2p writes the length of each message, its parts and each frame of the
 * multiplexer by themselves, and tells the sender of every few bytes that they were read: a call and
 * its answer are eight packets. Each costs a system call here, one and a wake-up on the other side.
 */
import type { Socket } from 'node:net'
import type { Connection, MessageStream, Stream, StreamMuxerFactory, Transport, Upgrader } from '@libp2p/interface'
import { changedMuxer, onOpened } from './muxer.ts'

type Factory<C, T> = (components: C) => T

/** What the connections of libp2p's TCP transport have beyond their interface. */
interface OverSocket { readonly socket: Pick<Socket, 'cork' | 'uncork'>, sendData (data: unknown): unknown, sendReset (error: Error): void }

const isOverSocket = (connection: object): connection is OverSocket =>
  'socket' in connection && typeof (connection.socket as Partial<Socket> | null)?.cork === 'function' &&
  ['sendData', 'sendReset'].every(name => typeof (connection as Record<string, unknown>)[name] === 'function')

/** A turn may be long, as when connections are made: what is written first does not wait for all of it. */
const GATHER_MS = 1

/** What a connection is given in one turn of the event loop is written at once; other connections are left as they are. */
export function gatherWrites (connection: MessageStream, clock: () => number = () => performance.now()): void {
  if (!isOverSocket(connection)) return
  const { socket } = connection
  const send = connection.sendData.bind(connection)
  let sinceMs: number | null = null
  const flush = (): void => {
    sinceMs = null
    socket.uncork()
  }
  connection.sendData = data => {
    if (sinceMs === null) {
      sinceMs = clock()
      socket.cork()
      // after all promises that are settled now: what they send belongs to it
      process.nextTick(() => { if (sinceMs !== null) flush() })
    }
    const sent = send(data)
    if (clock() - sinceMs > GATHER_MS) flush()
    return sent
  }
  const reset = connection.sendReset.bind(connection)
  connection.sendReset = error => {
    // what was said before the end, such as why somebody is not let in, still leaves
    if (sinceMs !== null) flush()
    reset(error)
  }
}

/** What yamux's streams have beyond their interface: how much more the sender may send, of how much at most. */
interface Window { readonly state: number, readonly recvWindow: number, readonly recvWindowCapacity: number, sendWindowUpdate (): void }

/** yamux's number of the state in which an update carries nothing but the window. */
const ESTABLISHED = 3

const hasWindow = (stream: object): stream is Window =>
  'sendWindowUpdate' in stream && typeof stream.sendWindowUpdate === 'function' && 'state' in stream && 'recvWindow' in stream && 'recvWindowCapacity' in stream

/** Tells the sender when half of the window is used, so that it never waits, and not before. */
export function updateWindowLate (stream: Stream): void {
  if (!hasWindow(stream)) return
  const update = stream.sendWindowUpdate.bind(stream)
  stream.sendWindowUpdate = () => {
    if (stream.state !== ESTABLISHED || stream.recvWindowCapacity <= stream.recvWindow / 2) update()
  }
}

/** What libp2p's multiplexers have beyond their interface: where streams of the other side come in. */
interface Intake { onRemoteStream (stream: Stream): void }

const takesStreams = (muxer: object): muxer is Intake => 'onRemoteStream' in muxer && typeof muxer.onRemoteStream === 'function'

/** A transport whose connections gather what they write. */
export function gathering<C, T extends Transport> (transport: Factory<C, T>): Factory<C, T> {
  const through = (upgrader: Upgrader): Upgrader => Object.create(upgrader, {
    upgradeOutbound: {
      value: async (...[connection, how]: Parameters<Upgrader['upgradeOutbound']>): Promise<Connection> => {
        gatherWrites(connection)
        return await upgrader.upgradeOutbound(connection, how)
      }
    },
    upgradeInbound: {
      value: async (...[connection, how]: Parameters<Upgrader['upgradeInbound']>): Promise<void> => {
        gatherWrites(connection)
        await upgrader.upgradeInbound(connection, how)
      }
    }
  }) as Upgrader
  return components => {
    const made = transport(components)
    const dial = made.dial.bind(made)
    const listen = made.createListener.bind(made)
    made.dial = async (address, options) => await dial(address, { ...options, upgrader: through(options.upgrader) })
    made.createListener = options => listen({ ...options, upgrader: through(options.upgrader) })
    return made
  }
}

/** A multiplexer whose streams update their windows late. */
export const lateWindows = <C> (muxer: Factory<C, StreamMuxerFactory>): Factory<C, StreamMuxerFactory> => changedMuxer(muxer, made => {
  onOpened(made, updateWindowLate)
  if (!takesStreams(made)) return
  const take = made.onRemoteStream.bind(made)
  // not by a listener: streams that come before libp2p listens are kept for the first one
  made.onRemoteStream = stream => {
    updateWindowLate(stream)
    take(stream)
  }
})
