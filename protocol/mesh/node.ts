import { noise } from '@chainsafe/libp2p-noise'
import type { GossipSub } from '@libp2p/gossipsub'
import { identify } from '@libp2p/identify'
import type { Connection, ConnectionGater, Libp2p, PeerId } from '@libp2p/interface'
import { ping } from '@libp2p/ping'
import { peerIdFromString } from '@libp2p/peer-id'
import { tcp } from '@libp2p/tcp'
import { yamux } from '@libp2p/yamux'
import { multiaddr, type Multiaddr } from '@multiformats/multiaddr'
import { createLibp2p } from 'libp2p'
import { InvalidInputError, MusubiError } from '../core/errors.ts'
import { DIAL_TIMEOUT_MS, INBOUND_CONNECTIONS_PER_SECOND, MAX_CONNECTIONS, MAX_PENDING_CONNECTIONS } from '../core/limits.ts'
import { MAX_STREAM_WINDOW_BYTES, PING_INTERVAL_MS, PING_TIMEOUT_MAX_MS, PING_TIMEOUT_MIN_MS } from './constants.ts'
import { isTcpAddress, type Admission, type Scope } from './federation.ts'
import { scopedGossip } from './gossip.ts'
import type { NodeKey } from './identity.ts'

const MAX_LEARNED_ADDRESSES = 8

/** How soon a hung peer is given up, ms. */
export interface FailureDetection { readonly pingIntervalMs: number, readonly pingTimeoutMinMs: number, readonly pingTimeoutMaxMs: number }

export interface NodeOptions {
  readonly key: NodeKey
  /** multiaddrs such as `/ip4/10.1.2.3/tcp/4001`; port 0 takes a free one */
  readonly listen: readonly string[]
  /** what to say to others instead of the addresses listened on */
  readonly announce: readonly string[]
  readonly admission: Admission
  readonly scopes: readonly Scope[]
  isMember (scope: Scope, peerId: string): boolean
  readonly failureDetection: FailureDetection | undefined
}

/** Asked at every stage that knows the PeerId; strangers get no further than the Noise handshake. */
function gater (admission: Admission): ConnectionGater {
  const denied = (peerId: PeerId): boolean => !admission.admits(peerId.toString())
  return {
    denyDialPeer: denied,
    denyOutboundConnection: denied,
    denyInboundEncryptedConnection: denied,
    denyOutboundEncryptedConnection: denied,
    denyInboundUpgradedConnection: denied,
    denyOutboundUpgradedConnection: denied
  }
}

/** @throws InvalidInputError naming the address */
function checkAddresses (addresses: readonly string[]): void {
  for (const address of addresses) {
    if (!isTcpAddress(address)) throw new InvalidInputError(`'${address}' is not an address of the form /ip4/ADDRESS/tcp/PORT`)
  }
}

/** The libp2p node of a mesh, not started yet, and its gossip by scope. */
export async function createNode (options: NodeOptions): Promise<{ node: Libp2p, gossips: ReadonlyMap<Scope, GossipSub> }> {
  checkAddresses([...options.listen, ...options.announce])
  const gossips = new Map<Scope, GossipSub>()
  const services = Object.fromEntries(options.scopes.map(scope => [`gossip-${scope}`, (components: Parameters<ReturnType<typeof scopedGossip>>[0]) => {
    const gossip = scopedGossip(scope, peerId => options.isMember(scope, peerId))(components)
    gossips.set(scope, gossip)
    return gossip
  }]))
  const { pingIntervalMs, pingTimeoutMinMs, pingTimeoutMaxMs } = options.failureDetection ?? { pingIntervalMs: PING_INTERVAL_MS, pingTimeoutMinMs: PING_TIMEOUT_MIN_MS, pingTimeoutMaxMs: PING_TIMEOUT_MAX_MS }
  const node = await createLibp2p({
    start: false,
    privateKey: options.key,
    nodeInfo: { name: 'musubi', version: '1', userAgent: 'musubi' },
    addresses: { listen: [...options.listen], announce: [...options.announce] },
    transports: [tcp()],
    connectionEncrypters: [noise()],
    streamMuxers: [yamux({ streamOptions: { maxStreamWindowSize: MAX_STREAM_WINDOW_BYTES } })],
    connectionGater: gater(options.admission),
    connectionManager: {
      maxConnections: MAX_CONNECTIONS,
      inboundConnectionThreshold: INBOUND_CONNECTIONS_PER_SECOND,
      maxIncomingPendingConnections: MAX_PENDING_CONNECTIONS,
      dialTimeout: DIAL_TIMEOUT_MS,
      inboundUpgradeTimeout: DIAL_TIMEOUT_MS
    },
    connectionMonitor: {
      pingInterval: pingIntervalMs,
      pingTimeout: { minTimeout: pingTimeoutMinMs, maxTimeout: pingTimeoutMaxMs }
    },
    services: { identify: identify(), ping: ping(), ...services }
  })
  return { node, gossips }
}

/** Addresses that a peer says it has, without its PeerId; anything odd is left out. */
export function usableAddresses (peerId: string, addresses: readonly string[]): string[] {
  const suffix = `/p2p/${peerId}`
  return addresses.slice(0, MAX_LEARNED_ADDRESSES)
    .map(address => address.endsWith(suffix) ? address.slice(0, -suffix.length) : address)
    .filter(isTcpAddress)
}

/** @throws MusubiError CANNOT_LISTEN naming the addresses */
export async function startNode (node: Libp2p, listen: readonly string[]): Promise<void> {
  try {
    await node.start()
  } catch (cause) {
    await node.stop()
    // libp2p's message is a report over many lines; the system's error stands in it
    const why = cause instanceof Error ? /listen E[A-Z]+: ([a-z ]+)/.exec(cause.message)?.[1]?.trim() ?? cause.message.split('\n')[0] ?? '' : 'refused'
    throw new MusubiError('CANNOT_LISTEN', `cannot listen on ${listen.join(', ')}: ${why}`, { cause, hint: 'another program may use the port, or the address is not of this host' })
  }
}

function openConnection (node: Libp2p, peerId: PeerId): Connection | undefined {
  return node.getConnections(peerId).find(connection => connection.status === 'open')
}

/** The open connection to a peer, dialled where there is none. */
export async function connect (node: Libp2p, peerId: string, addresses: readonly string[], signal: AbortSignal): Promise<Connection> {
  const id = peerIdFromString(peerId)
  const open = openConnection(node, id)
  if (open !== undefined) return open
  const targets: Multiaddr[] = addresses.map(address => multiaddr(`${address}/p2p/${peerId}`))
  return await node.dial(targets.length > 0 ? targets : id, { signal })
}
