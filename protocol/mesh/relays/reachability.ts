import type { Connection, Libp2p } from '@libp2p/interface'
import { DIAL_TIMEOUT_MS } from '../../core/limits.ts'
import { PUNCH_PROTOCOL } from '../constants.ts'
import { connect, connectDirectly, openConnection, openConnections, relaysOf, speaks, type MeshLog } from '../node.ts'
import { Paths } from './paths.ts'
import type { PeerBook } from '../peer-book.ts'
import { answerPunch, punch, type DialFrom } from './punch.ts'
import { Reservations } from './reservations.ts'
import { isTcpAddress } from '../roles.ts'
import type { Callers } from '../rpc/callers.ts'

/** Addresses of one relay that are passed on: records are small, and one of them is usually enough. */
const MAX_ADDRESSES_OF_RELAY = 2

export interface ReachabilityOptions {
  readonly node: Libp2p
  readonly dialFrom: DialFrom | null
  readonly book: PeerBook
  readonly callers: Callers
  /** false: it needs reservations with relays */
  readonly reachable: boolean
  /** members that are said to relay */
  relays (): readonly string[]
  describe (peerId: string): string
  readonly log: MeshLog
}

export interface Reachability {
  relayAddresses (): string[]
  /** @returns a function that ends it */
  onRelayAddresses (listener: (addresses: string[]) => void): () => void
  start (): Promise<void>
  stop (): void
}

/** `/ip4/10.1.2.3/tcp/4001/p2p/X` -> `/ip4/10.1.2.3/tcp/4001` */
const withoutPeer = (address: string): string => address.replace(/\/p2p\/[^/]*$/, '')

/** Being reached through relays where nothing else works, and directly where it does. */
export function createReachability (options: ReachabilityOptions): Reachability {
  const { node, book, callers, log } = options
  const describe = (peerId: string): string => options.describe(peerId)
  const listeners = new Set<(addresses: string[]) => void>()
  const isConnected = (peerId: string): boolean => openConnection(node, peerId)?.path === 'direct'

  /** Where others reach the relay at the other end: as we do, and as it says itself. */
  const addressesOf = ({ remoteAddr, remotePeer, direction }: Connection): string[] => {
    const peerId = remotePeer.toString()
    const dialled = direction === 'outbound' ? [withoutPeer(remoteAddr.toString())] : []
    const all = [...dialled, ...book.addressesOf(peerId)].filter(isTcpAddress)
    return [...new Set(all)].slice(0, MAX_ADDRESSES_OF_RELAY).map(address => `${address}/p2p/${peerId}/p2p-circuit`)
  }
  const isCoordinator = ({ remotePeer }: Connection): boolean => book.roleOf(remotePeer.toString())?.kind === 'coordinator'
  const reservations = new Reservations({
    relays: async () => (await relaysOf(node))
      .filter(connection => addressesOf(connection).length > 0)
      .sort((a, b) => Number(isCoordinator(b)) - Number(isCoordinator(a)) || (a.rtt ?? Infinity) - (b.rtt ?? Infinity)),
    seek: missing => {
      for (const peer of options.relays().filter(peer => !isConnected(peer)).slice(0, missing)) {
        connect(node, peer, book.addressesOf(peer).filter(isTcpAddress), AbortSignal.timeout(DIAL_TIMEOUT_MS)).catch((error: unknown) => {
          log('debug', 'cannot connect to a relay', { peer: describe(peer), err: error })
        })
      }
    },
    addressesOf,
    onChange: addresses => {
      log(addresses.length === 0 ? 'warn' : 'info', addresses.length === 0 ? 'no relay reaches this host' : 'reached through relays', { addresses })
      for (const listener of listeners) listener([...addresses])
    },
    onFailure: (peer, error) => { log('warn', 'a relay gave no reservation', { peer: describe(peer), err: error }) }
  })
  /** Between two that accept no connection; where one does, the other dials it. */
  const punching = options.reachable || options.dialFrom === null ? null : { node, dialFrom: options.dialFrom }
  const paths = new Paths({
    connections: peer => openConnections(node, peer),
    goDirect: async relayed => {
      const peer = relayed.remotePeer.toString()
      const addresses = book.addressesOf(peer).filter(isTcpAddress)
      const canPunch = punching !== null && relayed.direction === 'inbound' && await speaks(node, peer, PUNCH_PROTOCOL)
      if (addresses.length > 0) {
        try {
          await connectDirectly(node, peer, addresses, AbortSignal.timeout(DIAL_TIMEOUT_MS))
          return true
        } catch (error) {
          if (!canPunch) throw error
        }
      }
      if (canPunch) await punch(punching, relayed)
      return canPunch
    },
    renewCalls: (peer, connection) => { callers.renew(peer, connection.streams) },
    onDirect: peer => { log('info', 'connected directly, no longer through a relay', { peer: describe(peer) }) },
    onFailure: (peer, error) => { log('debug', 'no direct connection', { peer: describe(peer), err: error }) }
  })
  const opened = ({ detail }: CustomEvent<Connection>): void => {
    paths.opened(detail)
  }
  const changed = (): void => { reservations.check() }
  return {
    relayAddresses: () => [...reservations.addresses],
    onRelayAddresses: listener => {
      listeners.add(listener)
      return () => { listeners.delete(listener) }
    },
    start: async () => {
      node.addEventListener('connection:open', opened)
      if (options.reachable) return
      if (punching !== null) {
        await node.handle(PUNCH_PROTOCOL, async (stream, connection) => { await answerPunch(punching, stream, connection) }, { maxInboundStreams: 1, maxOutboundStreams: 1, runOnLimitedConnection: true })
      }
      // who relays is known after identify
      node.addEventListener('peer:identify', changed)
      node.addEventListener('connection:close', changed)
      reservations.start()
    },
    stop: () => {
      paths.stop()
      reservations.stop()
      node.removeEventListener('connection:open', opened)
      node.removeEventListener('peer:identify', changed)
      node.removeEventListener('connection:close', changed)
    }
  }
}
