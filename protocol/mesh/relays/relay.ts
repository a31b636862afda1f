/** The parts of libp2p's circuit relay; loaded only where a member relays or may be relayed. */
import { AsyncLocalStorage } from 'node:async_hooks'
import { circuitRelayServer, circuitRelayTransport, type CircuitRelayServerComponents, type CircuitRelayService, type CircuitRelayTransportComponents } from '@libp2p/circuit-relay-v2'
import type { Connection, MultiaddrConnection, Stream, Transport, UpgraderOptions } from '@libp2p/interface'
import { tcp } from '@libp2p/tcp'
import { DIAL_TIMEOUT_MS, MAX_RELAY_RESERVATIONS, MAX_RELAYED_CONNECTIONS, MAX_RELAYED_FROM_PEER, MAX_RELAYED_TO_PEER, RELAY_BUFFER_BYTES } from '../../core/limits.ts'
import type { DialFrom } from './punch.ts'

/** `target` with some methods of ours. */
function override<T extends object> (target: T, changes: Partial<T>): T {
  return new Proxy(target, {
    get: (_, key) => {
      if (key in changes) return Reflect.get(changes, key) as unknown
      const value: unknown = Reflect.get(target, key, target)
      return typeof value === 'function' ? value.bind(target) as unknown : value
    }
  })
}

/**
 * Dials through relays, and takes what a relay hands over. Reservations are not made here: libp2p
 * would never again ask a relay that failed once, so `Reservations` does it.
 *
 * @param onReady is given the way to dial from a chosen port, which libp2p's dial queue has not
 */
export function relayTransport (onReady: (dialFrom: DialFrom) => void): (components: CircuitRelayTransportComponents) => Transport {
  return components => {
    const { peerId, upgrader, addressManager, connectionGater, peerStore, connectionManager, transportManager, registrar, logger, randomWalk, events } = components
    const direct = tcp()({ logger })
    onReady(async (address, localPort, first, signal) => {
      const listening = override(upgrader, {
        upgradeOutbound: async (socket: MultiaddrConnection, options: UpgraderOptions) => {
          // the muxer goes by this, and both sides have dialled
          if (!first) socket.direction = 'inbound'
          return await upgrader.upgradeOutbound(socket, options)
        }
      })
      const options = { upgrader: listening, signal, localPort, initiator: first }
      return await direct.dial(address, options)
    })
    return circuitRelayTransport({ maxInboundStopStreams: MAX_RELAYED_TO_PEER, maxOutboundStopStreams: MAX_RELAYED_TO_PEER })({
      peerId, upgrader, addressManager, connectionGater, peerStore, connectionManager, registrar, logger, randomWalk, events,
      // it would make a second reservation of its own with every relay that hands a connection over
      transportManager: override(transportManager, { listen: async () => { await Promise.reject(new Error('reservations are made elsewhere')) } })
    })
  }
}

/** Pauses `from` while too much of it waits for `to`: libp2p reads as fast as it can and keeps the rest in memory. */
function couple (from: Stream, to: Stream): void {
  let waiting = 0
  const isOpen = (): boolean => from.readStatus === 'readable' || from.readStatus === 'paused'
  from.addEventListener('message', ({ data }) => {
    waiting += data.byteLength
    if (waiting > RELAY_BUFFER_BYTES && isOpen()) from.pause()
  })
  const send = to.send.bind(to)
  to.send = data => {
    waiting -= data.byteLength
    if (waiting <= RELAY_BUFFER_BYTES / 2 && from.readStatus === 'paused') from.resume()
    return send(data)
  }
}

/**
 * Relays between members that may connect to each other. Whoever gets here is admitted, and both
 * ends admit each other again through the relay, which sees only ciphertext.
 *
 * The owner of the node takes reservations of peers that went away out of `reservations`.
 *
 * @param mayRelay whether `from` may connect to `to`; `to` is null for a reservation of `from`
 */
export function relayServer (mayRelay: (from: string, to: string | null) => boolean): (components: CircuitRelayServerComponents) => CircuitRelayService {
  return components => {
    const { peerStore, addressManager, peerId, privateKey, logger, registrar, connectionManager } = components
    const incoming = new AsyncLocalStorage<Stream>()
    let relayed = 0
    /** Opens the far half of a relayed connection: couples the halves and counts them. */
    const farSide = (connection: Connection): Connection => override(connection, {
      newStream: async (...args) => {
        const far = await connection.newStream(...args)
        const near = incoming.getStore()
        if (near === undefined) return far
        couple(near, far)
        couple(far, near)
        relayed++
        far.addEventListener('close', () => { relayed-- }, { once: true })
        return far
      }
    })
    const server = circuitRelayServer({
      hopTimeout: 2 * DIAL_TIMEOUT_MS,
      maxInboundHopStreams: MAX_RELAYED_FROM_PEER,
      maxOutboundStopStreams: MAX_RELAYED_TO_PEER,
      reservations: { maxReservations: MAX_RELAY_RESERVATIONS, applyDefaultLimit: false }
    })({
      peerStore, addressManager, peerId, privateKey, logger,
      registrar: override(registrar, {
        handle: async (protocol, handler, options) => {
          await registrar.handle(protocol, async (stream, connection) => { await incoming.run(stream, async () => { await handler(stream, connection) }) }, options)
        }
      }),
      connectionManager: override(connectionManager, {
        // a connection that is itself relayed carries no further one
        getConnections: peer => connectionManager.getConnections(peer).filter(({ direct, status }) => direct && status === 'open').map(farSide)
      }),
      connectionGater: {
        denyInboundRelayReservation: from => !mayRelay(from.toString(), null),
        denyOutboundRelayedConnection: (from, to) => relayed >= MAX_RELAYED_CONNECTIONS || !mayRelay(from.toString(), to.toString())
      }
    })
    const { reservations } = server
    const set = reservations.set.bind(reservations)
    // They end with the connection of their owner, not by time: libp2p's timer, once it was set
    // anew, cannot be stopped any more, and would cut every connection that is relayed then.
    reservations.set = (peer, reservation) => {
      reservation.signal.clear()
      reservation.signal.reset = () => undefined
      set(peer, reservation)
    }
    return server
  }
}
