import { setImmediate as nextTurn } from 'node:timers/promises'
import type { NewStreamOptions } from '@libp2p/interface'
import { peerIdFromString } from '@libp2p/peer-id'
import { describeError, MusubiError } from '../core/errors.ts'
import { DIAL_TIMEOUT_MS, MAX_COUNTED_PEERS, MAX_MESSAGE_BYTES, MAX_STREAMS_OF_RELAY, MAX_STREAMS_PER_CONNECTION } from '../core/limits.ts'
import { decode, type MethodName, type Methods } from '../wire/codec.ts'
import { Callers, Deadline, unwrapReply, type CallOptions } from './rpc/callers.ts'
import { MAX_RPC_STREAMS, MEMBERSHIP_CHECK_MS, RPC_PROTOCOL } from './constants.ts'
import { Gate, Refusals } from './gate.ts'
import { listen as listenTo, type Inspect } from './gossip.ts'
import { encodeCall, Handlers, type Handler } from './rpc/handlers.ts'
import type { NodeKey } from './identity.ts'
import { Neighbours, type NeighbourGroup } from './neighbours.ts'
import { connect, createNode, cutOff, openConnection, startNode, type FailureDetection, type MeshLog } from './node.ts'
import { PeerBook } from './peer-book.ts'
import { createReachability } from './relays/reachability.ts'
import { describeRole, isGateway, isTcpAddress, mayConnect, scopesOf, topicOf, type Role, type Scope } from './roles.ts'
import { serveStream } from './rpc/streams.ts'
import type { KnownPeer } from './trust/credentials.ts'
import type { Trust } from './trust/trust.ts'

export type { CallOptions } from './rpc/callers.ts'
export type { CallContext, Handler } from './rpc/handlers.ts'
export type { FailureDetection, MeshLog } from './node.ts'

export interface MeshOptions {
  readonly key: NodeKey
  /** who is who, the own certificates among it */
  readonly trust: Trust
  /** multiaddrs such as `/ip4/10.1.2.3/tcp/4001`; port 0 takes a free one */
  readonly listen: readonly string[]
  /** what to say to others instead of the addresses listened on */
  readonly announce?: readonly string[]
  /** whom to connect to first */
  readonly peers: readonly KnownPeer[]
  /** false, of gateways: nobody can connect to it, so it keeps reservations with relays; default true */
  readonly reachable?: boolean
  /** relays for gateways that nobody can connect to; default false */
  readonly relay?: boolean
  /** members that say they relay: an unreachable gateway connects to some when it knows no relay else */
  readonly relays?: () => readonly string[]
  readonly failureDetection?: FailureDetection
  readonly log?: MeshLog
}

/** A member's part in the mesh. Serve the methods first, then start. */
export interface Mesh {
  readonly peerId: string
  readonly key: NodeKey
  readonly role: Role
  /** scopes that this member takes part in */
  readonly scopes: readonly Scope[]
  readonly trust: Trust
  /** null for strangers, and for members whose certificates have ended or were revoked */
  roleOf (peerId: string): Role | null
  /** @throws MusubiError CANNOT_LISTEN */
  start (): Promise<void>
  /** multiaddrs with PeerId under which this member is reached directly now; empty before the start */
  addresses (): string[]
  /**
   * What a member that is not reachable advertises to other sites: multiaddrs through relays, without
   * its PeerId. Empty for reachable ones, and while there is no relay.
   */
  relayAddresses (): string[]
  /** Told when they have changed. @returns ends it */
  onRelayAddresses (listener: (addresses: string[]) => void): () => void
  /**
   * Answers calls of `method`, from peers and from oneself. Errors travel to the caller.
   *
   * @throws MusubiError ALREADY_SERVED
   */
  serve<M extends MethodName> (method: M, handler: Handler<M>): void
  /**
   * Calls a peer, or oneself by the own PeerId through the same handlers and checks.
   *
   * @throws MusubiError of the far side (`originOf` tells where it arose); UnreachableError when
   * there is no answer in time; the reason of `options.signal` when that aborts
   */
  call<M extends MethodName> (peerId: string, method: M, request: Methods[M]['request'], options?: CallOptions): Promise<Methods[M]['reply']>
  /** Remembers where a member is reached; what is no usable address is left out. */
  learn (peerId: string, addresses: readonly string[]): void
  /** For the disk: whom to connect to after the next start. */
  knownPeers (): KnownPeer[]
  /** peers that a connection is open to */
  connected (): string[]
  /** how a peer is connected now; null when it is not */
  path (peerId: string): 'direct' | 'relay' | null
  /** latest round trip to a connected peer, ms; null before the first ping */
  rttMs (peerId: string): number | null
  /** Closes the connections to a peer; it may connect again. */
  disconnect (peerId: string, reason: string): void
  /** Closes the connections to a peer, which has sent what nobody honest sends, and lets it in again only later. */
  shutOut (peerId: string, reason: string): void
  /** connections that were not admitted, and frames of members that were not taken, by code: `us` refused others, `them` refused us */
  refusals (): { us: Record<string, number>, them: Record<string, number> }
  /** what the last peer said that did not admit us, with its next step; null when none did */
  lastRefusal (): string | null
  /** `tokyo/gw1 (12D3Koo..., /ip4/...)`: a peer as messages name it */
  describe (peerId: string): string
  /** Sends to all members of a scope; may lose. @throws MusubiError NOT_IN_SCOPE */
  publish (scope: Scope, data: Uint8Array): Promise<void>
  /** Every message of the scope passes `inspect` before it is passed on. @throws MusubiError NOT_IN_SCOPE */
  subscribe (scope: Scope, inspect: Inspect): void
  /** @returns a function that ends the subscription */
  onConnect (listener: (peerId: string) => void): () => void
  onDisconnect (listener: (peerId: string) => void): () => void
  /** Calls under way fail; resolves when every socket and timer is gone. */
  close (): Promise<void>
}

const rpcStream = (signal: AbortSignal): NewStreamOptions => ({ signal, maxOutboundStreams: MAX_RPC_STREAMS, runOnLimitedConnection: true })

/**
 * A member of the mesh, not started yet.
 *
 * @throws InvalidInputError for addresses that are none
 */
export async function createMesh (options: MeshOptions): Promise<Mesh> {
  const { key, trust } = options
  const { peerId } = trust
  const { role } = trust.own()
  const log = options.log ?? (() => undefined)
  const scopes = scopesOf(role)
  const book = new PeerBook(trust, options.peers)
  const describe = (peer: string): string => {
    const other = book.roleOf(peer)
    const where = [peer, ...book.addressesOf(peer)].join(', ')
    return other === null ? `peer ${where}` : `${describeRole(other)} (${where})`
  }
  const isMember = (scope: Scope, peer: string): boolean => {
    const other = trust.roleOf(peer)
    return other !== null && scopesOf(other).includes(scope)
  }
  const refusals = new Refusals()
  /** Peers that did not let us in the last time: their word is waited for, as it is the reason that people are told. */
  const wary = new Set<string>()
  /** Those that meet other sites dial through relays, and relay themselves if they are willing. */
  const wide = scopes.includes('directory')
  const mayRelay = (from: string, to: string | null): boolean => {
    const source = trust.roleOf(from)
    if (source === null) return false
    if (to === null) return isGateway(source)
    const target = trust.roleOf(to)
    return target !== null && mayConnect(source, target)
  }
  const { node, gossips, dialFrom } = await createNode({
    key,
    listen: options.listen,
    announce: options.announce ?? [],
    scopes,
    isMember,
    failureDetection: options.failureDetection,
    relayed: wide,
    maxStreams: wide && (options.reachable === false || options.relay === true) ? MAX_STREAMS_OF_RELAY : MAX_STREAMS_PER_CONNECTION,
    mayRelay: wide && options.relay === true ? mayRelay : null,
    admission: {
      chain: () => trust.own().chain,
      admitConnection: (peer, chain) => {
        const member = trust.admitConnection(peer, chain)
        gate.check(member, performance.now())
        wary.delete(peer)
        return member
      },
      isKnown: peer => {
        const member = trust.memberOf(peer)
        // through a relay two often dial each other at once, and the word decides which connection stays
        if (member === null || wary.has(peer) || !book.addressesOf(peer).every(isTcpAddress)) return false
        try {
          gate.check(member, performance.now())
          return true
        } catch {
          return false // told with its reason when its word is waited for
        }
      },
      onRefused: (peer, error, by) => {
        // strangers can knock as often as they like; the log tells of some
        const times = refusals.count(by, error.code)
        if (by === 'them') {
          if (wary.size >= MAX_COUNTED_PEERS) wary.clear()
          wary.add(peer)
        }
        if (by === 'them') refusals.last = describeError(error).slice(0, 400)
        log(times <= 5 || times % 100 === 0 ? 'warn' : 'debug', by === 'us' ? 'did not admit a peer' : 'a peer did not admit us', { peer: describe(peer), code: error.code, why: describeError(error), times })
      }
    }
  })
  const gate = new Gate({
    site: role.kind === 'host' ? role.site : null,
    roleOf: peer => trust.roleOf(peer),
    connections: peer => node.getConnections(peer === undefined ? undefined : peerIdFromString(peer))
  })
  const badFrame = (peer: string, { code, message }: MusubiError): void => {
    const times = refusals.count('us', code)
    // whoever goes away may leave half a frame
    const shut = code !== 'TRUNCATED_FRAME' && gate.offend(peer, performance.now())
    if (shut || times <= 5 || times % 100 === 0) log('warn', shut ? 'closed the connection to a peer that keeps sending bad frames' : 'a peer sent a bad frame', { peer: describe(peer), code, why: message, times })
    if (shut) cutOff(node, peer, new Error('too many bad frames'))
  }
  const handlers = new Handlers({
    self: role.kind === 'host' ? role : { site: '', host: role.name },
    roleOf: peer => trust.roleOf(peer),
    onInternalError: (method, peer, error) => { log('error', 'a handler failed', { method, peer, err: error }) }
  })
  await node.handle(RPC_PROTOCOL, async (stream, connection) => {
    const peer = connection.remotePeer.toString()
    await serveStream(stream, peer, handlers, error => { badFrame(peer, error) })
  }, { maxInboundStreams: MAX_RPC_STREAMS, maxOutboundStreams: MAX_RPC_STREAMS, runOnLimitedConnection: true })

  const dial = async (peer: string, signal: AbortSignal): ReturnType<typeof connect> => await connect(node, peer, book.addressesOf(peer), signal)
  const callers = new Callers({
    describe,
    open: async (peer, signal) => {
      const connection = await dial(peer, signal)
      try {
        return await connection.newStream(RPC_PROTOCOL, rpcStream(signal))
      } catch (error) {
        if (connection.status === 'open') throw error
        // it was about to end, as when a relay went away: nothing was sent yet
        return await (await dial(peer, signal)).newStream(RPC_PROTOCOL, rpcStream(signal))
      }
    }
  })
  const reachability = createReachability({
    node, dialFrom, book, callers, describe, log,
    reachable: options.reachable !== false || !isGateway(role),
    relays: options.relays ?? (() => [])
  })
  const connected = (): string[] => node.getPeers().map(peer => peer.toString())
  const groups = (): NeighbourGroup[] => scopes.map(scope => {
    const candidates = book.candidates(scope)
    return { candidates, always: new Set(candidates.filter(peer => book.roleOf(peer)?.kind === 'coordinator')) }
  })
  const neighbours = new Neighbours({
    groups,
    connected: () => new Set(connected()),
    dial: async peer => { await dial(peer, AbortSignal.timeout(DIAL_TIMEOUT_MS)) },
    onFailure: (peer, failures, error) => { log(failures === 1 ? 'info' : 'debug', 'cannot connect to a peer', { peer: describe(peer), failures, err: error }) }
  })
  /** Certificates end, and are revoked, while connections are open. */
  const cutStrangers = (): void => {
    for (const peer of connected()) {
      if (trust.roleOf(peer) !== null) continue
      log('warn', 'closed the connection to a peer whose certificate was revoked or has ended', { peer: describe(peer) })
      cutOff(node, peer, new Error('not a member any more'))
    }
  }
  const stopListening = trust.onRevoked(cutStrangers)
  const membershipTimer = setInterval(cutStrangers, MEMBERSHIP_CHECK_MS)
  const connects = new Set<(peerId: string) => void>()
  const disconnects = new Set<(peerId: string) => void>()
  node.addEventListener('peer:connect', ({ detail }) => {
    for (const listener of connects) listener(detail.toString())
  })
  node.addEventListener('peer:disconnect', ({ detail }) => {
    neighbours.lost(detail.toString())
    for (const listener of disconnects) listener(detail.toString())
  })
  const gossipOf = (scope: Scope): Parameters<typeof listenTo>[0] => {
    const gossip = gossips.get(scope)
    if (gossip === undefined) throw new MusubiError('NOT_IN_SCOPE', `${describeRole(role)} takes no part in ${scope}`)
    return gossip
  }
  const on = (set: Set<(peerId: string) => void>, listener: (peerId: string) => void): () => void => {
    set.add(listener)
    return () => { set.delete(listener) }
  }
  const pendingSubscriptions: Array<() => void> = []
  const gone = new AbortController()
  let started = false

  const callSelf = async <M extends MethodName>(method: M, request: Methods[M]['request'], callOptions: CallOptions): Promise<Methods[M]['reply']> => {
    using deadline = new Deadline(callOptions, totalMs => `${method} did not end here within ${totalMs} ms`)
    // calls to others that are made in the same breath leave first: they have the longer way
    await nextTurn()
    const { call } = decode('Frame', encodeCall(0, deadline.totalMs, method, request), { maxBytes: MAX_MESSAGE_BYTES })
    if (call === null) throw new MusubiError('INTERNAL', 'a call to oneself lost its body')
    const { reply } = decode('Frame', await deadline.race(handlers.answer(call, peerId, AbortSignal.any([deadline.signal, gone.signal]))))
    if (reply === null) throw new MusubiError('INTERNAL', 'a call to oneself got no reply')
    return unwrapReply(method, reply, peerId)
  }

  return {
    peerId,
    key,
    role,
    scopes,
    trust,
    roleOf: peer => trust.roleOf(peer),
    addresses: () => node.getMultiaddrs().map(address => address.toString()),
    relayAddresses: () => reachability.relayAddresses(),
    onRelayAddresses: listener => reachability.onRelayAddresses(listener),
    serve: (method, handler) => { handlers.serve(method, handler) },
    call: async (peer, method, request, callOptions = {}) => peer === peerId
      ? await callSelf(method, request, callOptions)
      : await callers.call(peer, method, request, callOptions),
    learn: (peer, addresses) => { book.learn(peer, addresses) },
    knownPeers: () => book.known(),
    connected,
    path: peer => openConnection(node, peer)?.path ?? null,
    rttMs: peer => openConnection(node, peer)?.connection.rtt ?? null,
    disconnect: (peer, reason) => { cutOff(node, peer, new Error(reason)) },
    shutOut: (peer, reason) => {
      gate.shutOut(peer, performance.now())
      cutOff(node, peer, new Error(reason))
    },
    refusals: () => refusals.get(),
    lastRefusal: () => refusals.last,
    describe,
    publish: async (scope, data) => { await gossipOf(scope).publish(topicOf(scope), data) },
    subscribe: (scope, inspect) => {
      const gossip = gossipOf(scope)
      const onFlood = (peer: string, much: boolean): void => {
        const times = refusals.count('us', 'GOSSIP_FLOOD')
        if (times === 1 || much) log('warn', 'a peer passes on more than is looked at', { peer: describe(peer), scope, times })
        if (!much) return
        gate.shutOut(peer, performance.now())
        cutOff(node, peer, new Error('too much gossip'))
      }
      if (started) listenTo(gossip, scope, inspect, onFlood)
      else pendingSubscriptions.push(() => { listenTo(gossip, scope, inspect, onFlood) })
    },
    onConnect: listener => on(connects, listener),
    onDisconnect: listener => on(disconnects, listener),
    start: async () => {
      await startNode(node, options.listen)
      started = true
      for (const subscribe of pendingSubscriptions.splice(0)) subscribe()
      neighbours.start()
      await reachability.start()
    },
    close: async () => {
      neighbours.stop()
      reachability.stop()
      stopListening()
      clearInterval(membershipTimer)
      gone.abort(new Error('the mesh is closed here'))
      callers.close()
      await node.stop()
    }
  }
}
