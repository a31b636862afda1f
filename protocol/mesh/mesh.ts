import { MusubiError } from '../core/errors.ts'
import { DIAL_TIMEOUT_MS, MAX_MESSAGE_BYTES } from '../core/limits.ts'
import { decode, type MethodName, type Methods } from '../wire/codec.ts'
import { Callers, Deadline, unwrapReply, type CallOptions } from './rpc/callers.ts'
import { MAX_RPC_STREAMS, RPC_PROTOCOL } from './constants.ts'
import { admissionBy, describeRole, scopesOf, topicOf, type Admission, type Neighbour, type Role, type Roster, type Scope } from './federation.ts'
import { listen as listenTo, type Inspect } from './gossip.ts'
import { encodeCall, Handlers, type Handler } from './rpc/handlers.ts'
import { peerIdOf, type NodeKey } from './identity.ts'
import { Neighbours, type NeighbourGroup } from './neighbours.ts'
import { connect, createNode, startNode, usableAddresses, type FailureDetection } from './node.ts'
import { serveStream } from './rpc/streams.ts'

export type { CallOptions } from './rpc/callers.ts'
export type { CallContext, Handler } from './rpc/handlers.ts'
export type { FailureDetection } from './node.ts'

/** One line for the log: a constant text, and data as keys. */
export type MeshLog = (level: 'debug' | 'info' | 'warn' | 'error', text: string, data: Readonly<Record<string, unknown>>) => void

export interface MeshOptions {
  readonly key: NodeKey
  /** who is who; the key must be one of its members */
  readonly roster: Roster
  /** multiaddrs such as `/ip4/10.1.2.3/tcp/4001`; port 0 takes a free one */
  readonly listen: readonly string[]
  /** what to say to others instead of the addresses listened on */
  readonly announce?: readonly string[]
  /** default: by the roster, see `admissionBy` */
  readonly admission?: Admission
  /** peers that may be connected to, and where: usually `federation.members` */
  readonly bootstrap: readonly Neighbour[]
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
  roleOf (peerId: string): Role | null
  /** @throws MusubiError CANNOT_LISTEN */
  start (): Promise<void>
  /** multiaddrs with PeerId under which this member is reached now; empty before the start */
  addresses (): string[]
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
  /** Remembers where else a peer may be reached, besides `bootstrap`; what is no usable address is left out. */
  learn (peerId: string, addresses: readonly string[]): void
  /** peers that a connection is open to */
  connected (): string[]
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

/** Per scope: everybody who may be dialled; coordinators are always kept. */
function groupsOf (scopes: readonly Scope[], bootstrap: readonly Neighbour[], self: string, roster: Roster, admission: Admission): NeighbourGroup[] {
  return scopes.map(scope => {
    const candidates = bootstrap.map(({ peerId }) => peerId).filter(peerId => {
      const role = roster.roleOf(peerId)
      return peerId !== self && role !== null && scopesOf(role).includes(scope) && admission.admits(peerId)
    })
    return { candidates, always: new Set(candidates.filter(peerId => roster.roleOf(peerId)?.kind === 'coordinator')) }
  })
}

/**
 * A member of the mesh, not started yet.
 *
 * @throws MusubiError NOT_A_MEMBER when the roster does not know the key; InvalidInputError for
 * addresses that are none
 */
export async function createMesh (options: MeshOptions): Promise<Mesh> {
  const { key, roster, bootstrap } = options
  const peerId = peerIdOf(key)
  const role = roster.roleOf(peerId)
  if (role === null) throw new MusubiError('NOT_A_MEMBER', `this key (${peerId}) is no member of the federation`, { hint: 'add its PeerId to the federation file, or use the right key file' })
  const log = options.log ?? (() => undefined)
  const admission = options.admission ?? admissionBy(roster, peerId)
  const scopes = scopesOf(role)
  const known = new Map(bootstrap.map(({ peerId, addresses }) => [peerId, addresses]))
  const learned = new Map<string, readonly string[]>()
  const addressesOf = (peer: string): string[] => [...new Set([...known.get(peer) ?? [], ...learned.get(peer) ?? []])]
  const describe = (peer: string): string => {
    const other = roster.roleOf(peer)
    const where = [peer, ...addressesOf(peer)].join(', ')
    return other === null ? `peer ${where}` : `${describeRole(other)} (${where})`
  }
  const isMember = (scope: Scope, peer: string): boolean => {
    const other = roster.roleOf(peer)
    return other !== null && scopesOf(other).includes(scope) && admission.admits(peer)
  }

  const { node, gossips } = await createNode({
    key, listen: options.listen, announce: options.announce ?? [], admission, scopes, isMember, failureDetection: options.failureDetection
  })
  const handlers = new Handlers({
    self: role.kind === 'host' ? role : { site: '', host: role.name },
    roleOf: peer => roster.roleOf(peer),
    onInternalError: (method, peer, error) => { log('error', 'a handler failed', { method, peer, err: error }) }
  })
  await node.handle(RPC_PROTOCOL, async (stream, connection) => {
    await serveStream(stream, connection.remotePeer.toString(), handlers)
  }, { maxInboundStreams: MAX_RPC_STREAMS, maxOutboundStreams: MAX_RPC_STREAMS })

  const dial = async (peer: string, signal: AbortSignal): ReturnType<typeof connect> => await connect(node, peer, addressesOf(peer), signal)
  const callers = new Callers({
    describe,
    open: async (peer, signal) => await (await dial(peer, signal)).newStream(RPC_PROTOCOL, { signal, maxOutboundStreams: MAX_RPC_STREAMS })
  })
  const connected = (): string[] => node.getPeers().map(peer => peer.toString())
  const neighbours = new Neighbours({
    groups: groupsOf(scopes, bootstrap, peerId, roster, admission),
    isConnected: peer => connected().includes(peer),
    dial: async peer => { await dial(peer, AbortSignal.timeout(DIAL_TIMEOUT_MS)) },
    onFailure: (peer, failures, error) => { log(failures === 1 ? 'info' : 'debug', 'cannot connect to a peer', { peer: describe(peer), failures, err: error }) }
  })
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
    roleOf: peer => roster.roleOf(peer),
    addresses: () => node.getMultiaddrs().map(address => address.toString()),
    serve: (method, handler) => { handlers.serve(method, handler) },
    call: async (peer, method, request, callOptions = {}) => peer === peerId
      ? await callSelf(method, request, callOptions)
      : await callers.call(peer, method, request, callOptions),
    learn: (peer, addresses) => {
      if (admission.admits(peer)) learned.set(peer, usableAddresses(peer, addresses))
    },
    connected,
    describe,
    publish: async (scope, data) => { await gossipOf(scope).publish(topicOf(scope), data) },
    subscribe: (scope, inspect) => {
      const gossip = gossipOf(scope)
      if (started) listenTo(gossip, scope, inspect)
      else pendingSubscriptions.push(() => { listenTo(gossip, scope, inspect) })
    },
    onConnect: listener => on(connects, listener),
    onDisconnect: listener => on(disconnects, listener),
    start: async () => {
      await startNode(node, options.listen)
      started = true
      for (const subscribe of pendingSubscriptions.splice(0)) subscribe()
      neighbours.start()
    },
    close: async () => {
      neighbours.stop()
      gone.abort(new Error('the mesh is closed here'))
      callers.close()
      await node.stop()
    }
  }
}
