import { noise } from '@chainsafe/libp2p-noise'
import type { GossipSub } from '@libp2p/gossipsub'
import { identify } from '@libp2p/identify'
import type { CircuitRelayService } from '@libp2p/circuit-relay-v2'
import type { Connection, Libp2p } from '@libp2p/interface'
import { ping } from '@libp2p/ping'
import { peerIdFromString } from '@libp2p/peer-id'
import { tcp } from '@libp2p/tcp'
import { yamux } from '@libp2p/yamux'
import { multiaddr, type Multiaddr } from '@multiformats/multiaddr'
import { createLibp2p } from 'libp2p'
import { InvalidInputError, MusubiError } from '../core/errors.ts'
import { DIAL_TIMEOUT_MS, INBOUND_CONNECTIONS_PER_SECOND, MAX_CONNECTIONS, MAX_PENDING_CONNECTIONS } from '../core/limits.ts'
import { HOP_PROTOCOL, MAX_READ_BUFFER_BYTES, MAX_STREAM_WINDOW_BYTES, PING_INTERVAL_MS, PING_TIMEOUT_MAX_MS, PING_TIMEOUT_MIN_MS, RELAY_DIAL_MS, RPC_PROTOCOL } from './constants.ts'
import { earlyEncryption, earlyStreams } from './transport/early.ts'
import { pendingShares } from './gate.ts'
import { scopedGossip } from './gossip.ts'
import type { NodeKey } from './identity.ts'
import { gathering, lateWindows } from './transport/packets.ts'
import type { DialFrom } from './relays/punch.ts'
import { isRelayAddress, isTcpAddress, type Scope } from './roles.ts'
import { admission, ADMISSION_PROTOCOL, type AdmissionPolicy } from './trust/admission.ts'

/** One line for the log: a constant text, and data as keys. */
export type MeshLog = (level: 'debug' | 'info' | 'warn' | 'error', text: string, data: Readonly<Record<string, unknown>>) => void

/** How soon a hung peer is given up, ms. */
export interface FailureDetection { readonly pingIntervalMs: number, readonly pingTimeoutMinMs: number, readonly pingTimeoutMaxMs: number }

export interface NodeOptions {
  readonly key: NodeKey
  /** multiaddrs such as `/ip4/10.1.2.3/tcp/4001`; port 0 takes a free one */
  readonly listen: readonly string[]
  /** what to say to others instead of the addresses listened on */
  readonly announce: readonly string[]
  readonly admission: AdmissionPolicy
  readonly scopes: readonly Scope[]
  isMember (scope: Scope, peerId: string): boolean
  readonly failureDetection: FailureDetection | undefined
  /** whether it dials through relays and is dialled through them */
  readonly relayed: boolean
  /** streams that a peer may open on one connection */
  readonly maxStreams: number
  /** given: it relays for others; see `relayServer` */
  readonly mayRelay: ((from: string, to: string | null) => boolean) | null
}

/** @throws InvalidInputError naming the address */
function checkAddresses (addresses: readonly string[]): void {
  for (const address of addresses) {
    if (!isTcpAddress(address)) throw new InvalidInputError(`'${address}' is not an address of the form /ip4/ADDRESS/tcp/PORT`)
  }
}

/** `dialFrom`: null where it is not `relayed` */
export interface Node { readonly node: Libp2p, readonly gossips: ReadonlyMap<Scope, GossipSub>, readonly dialFrom: DialFrom | null }

/** The libp2p node of a mesh, not started yet, and its gossip by scope. */
export async function createNode (options: NodeOptions): Promise<Node> {
  checkAddresses([...options.listen, ...options.announce])
  const gossips = new Map<Scope, GossipSub>()
  const services: Record<string, (components: never) => unknown> = Object.fromEntries(options.scopes.map(scope => [`gossip-${scope}`, (components: Parameters<ReturnType<typeof scopedGossip>>[0]) => {
    const gossip = scopedGossip(scope, peerId => options.isMember(scope, peerId))(components)
    gossips.set(scope, gossip)
    return gossip
  }]))
  const { pingIntervalMs, pingTimeoutMinMs, pingTimeoutMaxMs } = options.failureDetection ?? { pingIntervalMs: PING_INTERVAL_MS, pingTimeoutMinMs: PING_TIMEOUT_MIN_MS, pingTimeoutMaxMs: PING_TIMEOUT_MAX_MS }
  // some megabytes that most hosts do not need
  const relay = options.relayed || options.mayRelay !== null ? await import('./relays/relay.ts') : null
  const dialling: { from: DialFrom | null } = { from: null }
  const served: { service: CircuitRelayService | null } = { service: null }
  if (relay !== null && options.mayRelay !== null) {
    const create = relay.relayServer(options.mayRelay)
    services['relay'] = (components: Parameters<typeof create>[0]) => (served.service = create(components))
  }
  const shares: { isTooMany: ReturnType<typeof pendingShares> | null } = { isTooMany: null }
  const early = earlyEncryption(gathering(tcp()), ADMISSION_PROTOCOL)
  const node = await createLibp2p({
    start: false,
    privateKey: options.key,
    nodeInfo: { name: 'musubi', version: '1', userAgent: 'musubi' },
    addresses: { listen: [...options.listen], announce: [...options.announce] },
    transports: relay === null || !options.relayed ? [early] : [early, relay.relayTransport(dial => { dialling.from = dial })],
    connectionEncrypters: [admission(noise(), options.admission)],
    streamMuxers: [earlyStreams(lateWindows(yamux({ maxInboundStreams: options.maxStreams, streamOptions: { maxStreamWindowSize: MAX_STREAM_WINDOW_BYTES, maxReadBufferLength: MAX_READ_BUFFER_BYTES } })), RPC_PROTOCOL)],
    connectionGater: { denyInboundConnection: connection => shares.isTooMany?.(connection) ?? false },
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
  shares.isTooMany = pendingShares(node)
  node.addEventListener('peer:disconnect', ({ detail }) => {
    served.service?.reservations.delete(detail)
    // where members are is kept elsewhere; libp2p would remember each one that ever came for hours
    if (node.getConnections(detail).length === 0) void node.peerStore.delete(detail).catch(() => undefined)
  })
  return { node, gossips, dialFrom: dialling.from }
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

/** The open connection to a peer; of several a direct one. */
export function openConnection (node: Libp2p, peerId: string): { connection: Connection, path: 'direct' | 'relay' } | null {
  const open = openConnections(node, peerId)
  const connection = open.find(({ direct }) => direct) ?? open[0]
  return connection === undefined ? null : { connection, path: connection.direct ? 'direct' : 'relay' }
}

export function openConnections (node: Libp2p, peerId: string): Connection[] {
  return node.getConnections(peerIdFromString(peerId)).filter(({ status }) => status === 'open')
}

/** Ends every connection to a peer, at once. */
export function cutOff (node: Libp2p, peerId: string, reason: Error): void {
  for (const connection of node.getConnections(peerIdFromString(peerId))) connection.abort(reason)
}

/** The multiaddrs of a peer's addresses. */
function targetsOf (peerId: string, addresses: readonly string[]): Multiaddr[] {
  return addresses.map(address => multiaddr(`${address}/p2p/${peerId}`))
}

/**
 * The open connection to a peer, dialled where there is none. Who says that relays reach it is
 * dialled through them first: its other addresses may swallow what is sent there.
 */
export async function connect (node: Libp2p, peerId: string, addresses: readonly string[], signal: AbortSignal): Promise<Connection> {
  const open = openConnection(node, peerId)
  if (open !== null) return open.connection
  const relays = addresses.filter(isRelayAddress)
  const direct = addresses.filter(isTcpAddress)
  const groups = [...relays.map(address => [address]), ...(direct.length > 0 ? [direct] : [])]
  for (const group of groups.slice(0, -1)) {
    try {
      return await node.dial(targetsOf(peerId, group), { signal: AbortSignal.any([signal, AbortSignal.timeout(RELAY_DIAL_MS)]) })
    } catch {
      signal.throwIfAborted()
    }
  }
  const last = groups.at(-1)
  return await node.dial(last === undefined ? peerIdFromString(peerId) : targetsOf(peerId, last), { signal })
}

/** A direct connection to a peer, beside the relayed one that is open. */
export async function connectDirectly (node: Libp2p, peerId: string, addresses: readonly string[], signal: AbortSignal): Promise<Connection> {
  return await node.dial(targetsOf(peerId, addresses.filter(isTcpAddress)), { signal, force: true })
}

/** Whether a peer has said that it speaks a protocol. */
export async function speaks (node: Libp2p, peerId: string, protocol: string): Promise<boolean> {
  const peer = await node.peerStore.get(peerIdFromString(peerId)).catch(() => null)
  return peer?.protocols.includes(protocol) === true
}

/** Direct connections to peers that relay, as they said themselves. */
export async function relaysOf (node: Libp2p): Promise<Connection[]> {
  const direct = node.getConnections().filter(connection => connection.direct && connection.status === 'open')
  const relays = await Promise.all(direct.map(async connection => await speaks(node, connection.remotePeer.toString(), HOP_PROTOCOL) ? connection : null))
  return relays.filter(connection => connection !== null)
}
