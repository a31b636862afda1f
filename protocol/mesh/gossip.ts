import { createHash } from 'node:crypto'
import { gossipsub, StrictNoSign, TopicValidatorResult, type GossipSub, type GossipSubComponents } from '@libp2p/gossipsub'
import { GOSSIP_BURST, GOSSIP_EXCESS, GOSSIP_PER_SECOND, MAX_COUNTED_PEERS } from '../core/limits.ts'
import { GOSSIP_HEARTBEAT_MS, MAX_GOSSIP_RPC_BYTES, SEEN_TTL_MS } from './constants.ts'
import { topicOf, type Scope } from './roles.ts'

type Registrar = GossipSubComponents['registrar']
type ConnectionManager = GossipSubComponents['connectionManager']

/** What to do with a received message: pass it on, drop it, or drop it and hold it against the sender. */
export type Verdict = 'accept' | 'ignore' | 'reject'

/** Looks at a message before it is passed on. */
export type Inspect = (data: Uint8Array, from: string) => Verdict

const VERDICTS: { readonly [verdict in Verdict]: TopicValidatorResult } = {
  accept: TopicValidatorResult.Accept,
  ignore: TopicValidatorResult.Ignore,
  reject: TopicValidatorResult.Reject
}

/** Shows gossipsub only the members of a scope: others can neither join it nor be told anything. */
function membersOnly (registrar: Registrar, connectionManager: ConnectionManager, isMember: (peerId: string) => boolean): Registrar {
  return {
    getProtocols: () => registrar.getProtocols(),
    getHandler: protocol => registrar.getHandler(protocol),
    getMiddleware: protocol => registrar.getMiddleware(protocol),
    getTopologies: protocol => registrar.getTopologies(protocol),
    use: (protocol, middleware) => { registrar.use(protocol, middleware) },
    unuse: protocol => { registrar.unuse(protocol) },
    unhandle: async (protocol, options) => { await registrar.unhandle(protocol, options) },
    unregister: id => { registrar.unregister(id) },
    handle: async (protocol, handler, options) => {
      await registrar.handle(protocol, async (stream, connection) => {
        if (isMember(connection.remotePeer.toString())) await handler(stream, connection)
        else stream.abort(new Error('not a member of this scope'))
      }, options)
    },
    register: async (protocol, topology, options) => await registrar.register(protocol, {
      ...topology,
      onConnect: async (peerId, connection) => {
        if (!isMember(peerId.toString())) return
        // gossipsub keeps to the connection that it was told of first: of two it must hear when that one ends
        connection.addEventListener('close', () => {
          setTimeout(() => {
            const other = connectionManager.getConnections(peerId).find(({ status }) => status === 'open')
            if (other !== undefined) void topology.onConnect?.(peerId, other)
          }, 0)
        }, { once: true })
        await topology.onConnect?.(peerId, connection)
      }
    }, options)
  }
}

function digest (data: Uint8Array): Buffer {
  return createHash('sha256').update(data).digest()
}

/**
 * Gossip of one scope, over a protocol and a set of peers of its own. Messages are not signed here:
 * what they carry is signed by its author, and checked once by `inspect` before it is passed on.
 */
export function scopedGossip (scope: Scope, isMember: (peerId: string) => boolean): (components: GossipSubComponents) => GossipSub {
  const create = gossipsub({
    allowedTopics: [topicOf(scope)],
    globalSignaturePolicy: StrictNoSign,
    msgIdFn: ({ data }) => digest(data),
    // without it every duplicate would be inspected, signature and all
    fastMsgIdFn: ({ data }) => digest(data ?? new Uint8Array()).toString('latin1'),
    allowPublishToZeroTopicPeers: true,
    ignoreDuplicatePublishError: true,
    fallbackToFloodsub: false,
    doPX: false,
    // each message is remembered for so long, also one that was refused; copies of it come within seconds
    seenTTL: SEEN_TTL_MS,
    // what its heartbeat repairs, comparisons of records repair too; at rest it is most of what is sent
    heartbeatInterval: GOSSIP_HEARTBEAT_MS,
    // a relayed connection carries gossip like any other
    runOnLimitedConnection: true,
    // 3.6 copies of a message instead of 5.4 with the default 6, and it arrives sooner
    D: 4,
    Dlo: 3,
    Dhi: 8,
    Dout: 1,
    // sites sit behind one address: with the default weight their peers lose messages
    scoreParams: { IPColocationFactorWeight: 0 },
    maxInboundDataLength: MAX_GOSSIP_RPC_BYTES,
    maxOutboundBufferSize: 2 * MAX_GOSSIP_RPC_BYTES,
    decodeRpcLimits: { maxSubscriptions: 16, maxMessages: 512, maxIhaveMessageIDs: 5000, maxIwantMessageIDs: 5000, maxIdontwantMessageIDs: 512, maxControlMessages: 512, maxPeerInfos: 0 }
  })
  return ({ privateKey, peerId, peerStore, registrar, connectionManager, logger }) => {
    const gossip = create({ privateKey, peerId, peerStore, registrar: membersOnly(registrar, connectionManager, isMember), connectionManager, logger })
    // the option of this name is not looked at (gossipsub 17.1); two on one node need two names
    gossip.protocols = [`/musubi/1/gossip/${scope === 'directory' ? scope : 'site'}`]
    return gossip
  }
}

/** What each neighbour may still pass on: so many at once, and so many more each second. */
class Allowance {
  readonly #left = new Map<string, { count: number, atMs: number }>()

  /** @returns how many are left: negative when it was too many */
  take (peerId: string, nowMs: number): number {
    const { count, atMs } = this.#left.get(peerId) ?? { count: GOSSIP_BURST, atMs: nowMs }
    const now = Math.min(GOSSIP_BURST, count + (nowMs - atMs) / 1000 * GOSSIP_PER_SECOND)
    this.#left.delete(peerId)
    this.#left.set(peerId, { count: now - 1, atMs: nowMs })
    if (this.#left.size > MAX_COUNTED_PEERS) {
      for (const oldest of this.#left.keys()) { this.#left.delete(oldest); break }
    }
    return now - 1
  }

  reset (peerId: string): void {
    this.#left.delete(peerId)
  }
}

/**
 * Subscribes to the scope's topic; every message passes `inspect` first. What one neighbour passes
 * on beyond its allowance is not looked at: anti-entropy brings what was true of it.
 *
 * @param onFlood told of every message that was too many, and once when it was much too many
 */
export function listen (gossip: GossipSub, scope: Scope, inspect: Inspect, onFlood: (from: string, much: boolean) => void = () => undefined): void {
  const topic = topicOf(scope)
  const allowance = new Allowance()
  gossip.topicValidators.set(topic, (from, { data }) => {
    const peer = from.toString()
    const left = allowance.take(peer, performance.now())
    if (left >= 0) return VERDICTS[inspect(data, peer)]
    const much = left < -GOSSIP_EXCESS
    if (much) allowance.reset(peer)
    onFlood(peer, much)
    return VERDICTS.ignore
  })
  gossip.subscribe(topic)
}
