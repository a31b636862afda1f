import { createHash } from 'node:crypto'
import { gossipsub, StrictNoSign, TopicValidatorResult, type GossipSub, type GossipSubComponents } from '@libp2p/gossipsub'
import { MAX_GOSSIP_RPC_BYTES } from './constants.ts'
import { topicOf, type Scope } from './federation.ts'

type Registrar = GossipSubComponents['registrar']

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
function membersOnly (registrar: Registrar, isMember: (peerId: string) => boolean): Registrar {
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
        if (isMember(peerId.toString())) await topology.onConnect?.(peerId, connection)
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
    const gossip = create({ privateKey, peerId, peerStore, registrar: membersOnly(registrar, isMember), connectionManager, logger })
    // the option of this name is not looked at (gossipsub 17.1); two on one node need two names
    gossip.protocols = [`/musubi/1/gossip/${scope === 'directory' ? scope : 'site'}`]
    return gossip
  }
}

/** Subscribes to the scope's topic; every message passes `inspect` first. */
export function listen (gossip: GossipSub, scope: Scope, inspect: Inspect): void {
  const topic = topicOf(scope)
  gossip.topicValidators.set(topic, (from, { data }) => VERDICTS[inspect(data, from.toString())])
  gossip.subscribe(topic)
}
