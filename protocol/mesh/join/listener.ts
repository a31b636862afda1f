import type { Connection, Libp2p, MultiaddrConnection, Stream } from '@libp2p/interface'
import { InvalidInputError, MusubiError } from '../../core/errors.ts'
import { JOIN_TIMEOUT_MS, MAX_JOIN_BYTES, MAX_JOIN_CONNECTIONS } from '../../core/limits.ts'
import { decode, encode, type wire } from '../../wire/codec.ts'
import { peerIdOf, type NodeKey } from '../identity.ts'
import { isTcpAddress } from '../roles.ts'
import type { Chain } from '../trust/certificate.ts'
import type { KnownPeer } from '../trust/credentials.ts'
import { checkJoinRequest } from './invitations.ts'
import { replyBytes, verifySubject } from './proof.ts'
import { encodeToken } from './token.ts'
import type { Invitation, Invitations, JoinListener, NewInvitation } from './types.ts'

export const JOIN_PROTOCOL = '/musubi/join/1'

export interface JoinListenerOptions {
  /** the member's node key: tokens name its PeerId */
  readonly key: NodeKey
  /** PeerId of the coordinator key */
  readonly federation: string
  /** multiaddrs such as `/ip4/10.1.2.3/tcp/4002`; port 0 takes a free one and keeps it */
  readonly listen: readonly string[]
  /** what tokens say instead of the addresses listened on */
  readonly announce?: readonly string[]
  readonly invitations: Invitations
  /** Certifies, or says why not; see `authoriseHosts` and `authoriseSites`. */
  readonly authorise: (request: wire.JoinRequest, invitation: Invitation) => Promise<Chain>
  /** whom the new member connects to first; the first ones go out */
  readonly peers: () => readonly KnownPeer[]
  readonly log?: (level: 'debug' | 'info' | 'warn' | 'error', text: string, data: Readonly<Record<string, unknown>>) => void
  readonly now: () => number
  /** default JOIN_TIMEOUT_MS; for tests */
  readonly timeoutMs?: number
}

/** Of one address at a time: somebody who only opens connections leaves room for others. */
const MAX_PER_ADDRESS = MAX_JOIN_CONNECTIONS / 2
/** Hosts of a site often sit behind one address and are set up at once. */
const CONNECTIONS_PER_SECOND = 50
const MAX_PEERS = 16
/** Timers are bounded; the invitations are looked at again at least this often. */
const LOOK_AGAIN_MS = 3_600_000
/** When its port was in use. */
const OPEN_AGAIN_MS = 10_000
const NONE = new Uint8Array()
/** How long the caller is given to close after the answer. */
const PARTING_MS = 2_000

const failureOf = (error: unknown): wire.Failure => error instanceof MusubiError
  ? { code: error.code, message: error.message, retryable: error.retryable, hint: error.hint ?? '', site: '', host: '' }
  : { code: 'INTERNAL', message: 'the issuer failed at this join', retryable: true, hint: 'its log says why', site: '', host: '' }

/** As many peers as fit the frame beside the chain. */
function bounded (reply: wire.JoinReply, peers: readonly KnownPeer[]): wire.JoinReply {
  const out: wire.JoinReply = { ...reply, peers: [] }
  for (const { peerId, addresses, chain } of peers.slice(0, MAX_PEERS)) {
    const peer: wire.KnownPeer = { peer: peerId, addresses: addresses.slice(0, 8), chain: [...chain] }
    if (encode('JoinReply', { ...out, peers: [...out.peers, peer] }).length > MAX_JOIN_BYTES - 1024) break
    out.peers.push(peer)
  }
  return out
}

/** Counts what is open by remote address, so that each has its share. */
class Shares {
  readonly #open = new Map<string, number>()

  /** @returns whether this one is too many */
  take (connection: MultiaddrConnection): boolean {
    const address = connection.remoteAddr.getComponents().find(({ name }) => name.startsWith('ip'))?.value ?? ''
    const open = this.#open.get(address) ?? 0
    if (open >= MAX_PER_ADDRESS) return true
    this.#open.set(address, open + 1)
    connection.addEventListener('close', () => {
      const left = (this.#open.get(address) ?? 1) - 1
      if (left === 0) this.#open.delete(address)
      else this.#open.set(address, left)
    }, { once: true })
    return false
  }
}

/**
 * The listener for joining: a libp2p node of its own, with one protocol that takes one request and
 * gives one reply. Anybody may connect, so it is there only while an invitation is, and everything
 * about it is small and short.
 */
export function createJoinListener (options: JoinListenerOptions): JoinListener {
  const { key, federation, invitations, authorise, now, log = () => undefined, timeoutMs = JOIN_TIMEOUT_MS } = options
  const issuer = peerIdOf(key)
  const counts: Record<string, number> = {}
  let listen = [...options.listen]
  let node: Libp2p | null = null
  let following = false
  let timer: NodeJS.Timeout | undefined
  let unsubscribe = (): void => undefined
  let turn: Promise<unknown> = Promise.resolve()
  /** requests under way: they get their answer before the sockets close */
  const serving = new Set<Promise<void>>()

  for (const address of [...listen, ...options.announce ?? []]) if (!isTcpAddress(address)) throw new InvalidInputError(`'${address}' is not an address of the form /ip4/ADDRESS/tcp/PORT`)
  /** @returns how often by now */
  const count = (code: string): number => counts[code] = (counts[code] ?? 0) + 1

  const answer = async (request: wire.JoinRequest, caller: string): Promise<wire.JoinReply> => {
    let proved = false
    let reply: wire.JoinReply
    try {
      const invitation = await invitations.check(request, issuer, caller)
      proved = true
      checkJoinRequest(request)
      if (invitation.kind === 'host' && request.subject !== caller) throw new InvalidInputError('a host joins with its own key')
      if (invitation.kind === 'site' && !verifySubject(request, issuer, caller)) throw new InvalidInputError(`the site key ${request.subject} has not signed this request`)
      const chain = await invitations.redeem(request.tokenId, request.subject, request.name, async current => await authorise(request, current))
      reply = bounded({ failure: null, chain: [...chain], peers: [], proof: NONE }, options.peers())
      count('OK')
      log('info', 'joined by a token', { kind: invitation.kind, name: request.name, subject: request.subject, invitation: request.tokenId })
    } catch (error) {
      const failure = failureOf(error)
      const times = count(failure.code)
      // anybody can come as often as he likes: the log tells of some
      log(failure.code === 'INTERNAL' ? 'error' : times <= 20 || times % 100 === 0 ? 'warn' : 'debug', 'a join was refused', { times, caller, name: request.name.slice(0, 64), code: failure.code, err: error })
      reply = { failure, chain: [], peers: [], proof: NONE }
    }
    // who has not shown that he knows the secret gets nothing made with it
    const proof = proved ? invitations.prove(request.tokenId, replyBytes(reply, request, issuer, caller)) : null
    return { ...reply, proof: proof ?? NONE }
  }

  const serve = async (stream: Stream, connection: Connection): Promise<void> => {
    const { lpStream } = await import('@libp2p/utils')
    const signal = AbortSignal.timeout(timeoutMs)
    const caller = connection.remotePeer.toString()
    try {
      const frames = lpStream(stream, { maxDataLength: MAX_JOIN_BYTES, maxBufferSize: 2 * MAX_JOIN_BYTES })
      const bytes = await frames.read({ signal })
      const request = decode('JoinRequest', bytes.subarray(), { maxBytes: MAX_JOIN_BYTES })
      await frames.write(encode('JoinReply', await answer(request, caller), { maxBytes: MAX_JOIN_BYTES }), { signal })
      await stream.close({ signal })
    } catch (error) {
      const code = error instanceof MusubiError ? error.code : signal.aborted ? 'TOO_SLOW' : 'BAD_FRAME'
      count(code)
      log('debug', 'a join broke off', { caller, code, err: error })
      stream.abort(error instanceof Error ? error : new Error('broken off'))
    }
    // the caller closes when it has read; who does not is closed
    setTimeout(() => { connection.abort(new Error('one join per connection')) }, PARTING_MS).unref()
  }

  const open = async (): Promise<Libp2p> => {
    const [{ createLibp2p }, { noise }, { yamux }, { tcp }] = await Promise.all([import('libp2p'), import('@chainsafe/libp2p-noise'), import('@libp2p/yamux'), import('@libp2p/tcp')])
    const shares = new Shares()
    const fresh = await createLibp2p({
      start: false,
      privateKey: key,
      addresses: { listen },
      transports: [tcp()],
      connectionEncrypters: [noise()],
      streamMuxers: [yamux({ maxInboundStreams: 2, maxOutboundStreams: 1, streamOptions: { maxStreamWindowSize: 256 * 1024 } })],
      connectionGater: { denyInboundConnection: maConn => shares.take(maConn) },
      connectionManager: {
        maxConnections: MAX_JOIN_CONNECTIONS, maxIncomingPendingConnections: MAX_JOIN_CONNECTIONS,
        inboundConnectionThreshold: CONNECTIONS_PER_SECOND, inboundUpgradeTimeout: timeoutMs
      },
      connectionMonitor: { enabled: false }
    })
    await fresh.handle(JOIN_PROTOCOL, (stream, connection) => {
      const served = serve(stream, connection).finally(() => { serving.delete(served) })
      serving.add(served)
    }, { maxInboundStreams: 1, maxOutboundStreams: 0 })
    fresh.addEventListener('connection:open', ({ detail: connection }) => {
      const end = setTimeout(() => { connection.abort(new Error('too slow')) }, timeoutMs + PARTING_MS)
      connection.addEventListener('close', () => { clearTimeout(end) }, { once: true })
    })
    try {
      await fresh.start()
    } catch (cause) {
      await fresh.stop()
      const why = cause instanceof Error ? /listen E[A-Z]+: ([a-z ]+)/.exec(cause.message)?.[1]?.trim() ?? cause.message.split('\n')[0] ?? '' : 'refused'
      throw new MusubiError('CANNOT_LISTEN', `cannot listen for joins on ${listen.join(', ')}: ${why}`, { cause, hint: 'another program may use the port: set joinListen to a free one' })
    }
    return fresh
  }
  const withoutPeer = (text: string): string => text.replace(/\/p2p\/[^/]+$/, '')
  const isLoopback = (text: string): boolean => /^\/ip4\/127\.|^\/ip6\/::1\//.test(text)
  const bound = (): string[] => {
    const all = node === null ? [] : [...new Set(node.getMultiaddrs().map(address => withoutPeer(address.toString())))]
    // a token names few: first those that others can reach
    return [...all.filter(text => !isLoopback(text)), ...all.filter(isLoopback)]
  }

  const follow = async (): Promise<void> => {
    clearTimeout(timer)
    const untilMs = following ? invitations.answerableUntilMs() : null
    if (untilMs === null) {
      if (node === null) return
      const closing = node
      node = null
      await Promise.allSettled(serving)
      await closing.stop()
      log('info', 'no invitation is open: the listener for joins is closed', {})
      return
    }
    timer = setTimeout(() => { void refresh().catch(failed) }, Math.max(1, Math.min(untilMs - now(), LOOK_AGAIN_MS)))
    timer.unref()
    if (node !== null) return
    node = await open()
    // tokens name the port: a free one that was taken stays the same
    listen = listen.map(address => address.endsWith('/tcp/0') ? bound().find(have => have.startsWith(address.slice(0, -'0'.length))) ?? address : address)
    log('info', 'listening for joins', { addresses: bound() })
  }
  const refresh = async (): Promise<void> => {
    const mine = turn.then(follow, follow)
    turn = mine.catch(() => undefined)
    await mine
  }
  const failed = (error: unknown): void => {
    log('error', 'the listener for joins cannot be opened', { err: error })
    clearTimeout(timer)
    timer = setTimeout(() => { void refresh().catch(failed) }, OPEN_AGAIN_MS)
    timer.unref()
  }
  const addresses = (): string[] => {
    const announce = options.announce ?? []
    return node === null ? [] : announce.length > 0 ? [...announce] : bound()
  }

  return {
    start: async () => {
      following = true
      unsubscribe = invitations.onChange(() => { void refresh().catch(failed) })
      await refresh()
    },
    refresh,
    addresses,
    token: async ({ id, kind, secret, expiresMs, site }: NewInvitation) => {
      await refresh()
      if (node === null) throw new MusubiError('CANNOT_LISTEN', `invitation ${id} is not open any more, or joins are not served here`)
      return encodeToken({ id, kind, issuer, addresses: addresses().slice(0, 8), secret, federation, expiresMs, site })
    },
    counts: () => ({ ...counts }),
    stop: async () => {
      following = false
      unsubscribe()
      await refresh()
    }
  }
}
