import { setTimeout as sleep } from 'node:timers/promises'
import type { Connection, Libp2p, PeerId } from '@libp2p/interface'
import { InvalidInputError, MusubiError, UnreachableError } from '../../core/errors.ts'
import { DIAL_TIMEOUT_MS, JOIN_PATIENCE_MS, JOIN_TIMEOUT_MS, MAX_JOIN_BYTES } from '../../core/limits.ts'
import { decode, encode, type wire } from '../../wire/codec.ts'
import { peerIdOf, type NodeKey } from '../identity.ts'
import { NAME } from '../roles.ts'
import { checkDates, readChain, readMember, type Member } from '../trust/certificate.ts'
import type { KnownPeer } from '../trust/credentials.ts'
import { JOIN_PROTOCOL } from './listener.ts'
import { hmac, replyBytes, requestBytes, sameProof, signSubject } from './proof.ts'
import { parseToken } from './token.ts'
import type { Redeemed, RedeemOptions } from './types.ts'

const NONE = new Uint8Array()
/** A second address is tried beside the first when that has not answered so long. */
const STAGGER_MS = 250
const RETRY_MIN_MS = 250
const RETRY_MAX_MS = 4_000

interface Line { readonly connection: Connection, close (): Promise<void> }
interface Modules { make (key: NodeKey): Promise<Libp2p>, peerId: PeerId, target (address: string): Parameters<Libp2p['dial']>[0] }

async function load (issuer: string): Promise<Modules> {
  const [{ createLibp2p }, { noise }, { yamux }, { tcp }, { multiaddr }, { peerIdFromString }] = await Promise.all([
    import('libp2p'), import('@chainsafe/libp2p-noise'), import('@libp2p/yamux'), import('@libp2p/tcp'), import('@multiformats/multiaddr'), import('@libp2p/peer-id')
  ])
  return {
    make: async key => await createLibp2p({
      privateKey: key,
      transports: [tcp()],
      connectionEncrypters: [noise()],
      streamMuxers: [yamux({ maxInboundStreams: 1 })],
      connectionManager: { maxConnections: 1, dialTimeout: DIAL_TIMEOUT_MS },
      connectionMonitor: { enabled: false }
    }),
    peerId: peerIdFromString(issuer),
    // with the PeerId: whoever else answers there is not spoken to
    target: address => multiaddr(`${address}/p2p/${issuer}`)
  }
}

/** What to try again: the listener is there but busy, or was just being opened. */
const isPassing = (errors: readonly unknown[]): boolean => errors.some(error => !/ECONNREFUSED|EHOSTUNREACH|ENETUNREACH|ENOTFOUND|does not match expected remote identity/.test(String(error)))

const because = (error: unknown): string => {
  const text = error instanceof Error ? error.message : String(error)
  // names PeerIds, in which anything may stand
  if (text.includes('does not match expected remote identity')) return 'another peer answers there than the one that the token names'
  const system = /(?<![A-Za-z0-9])E[A-Z]{4,}(?![A-Za-z0-9])/.exec(text)?.[0]
  if (system === 'ECONNREFUSED') return 'nobody listens there'
  if (system !== undefined) return system
  if (error instanceof Error && (error.name === 'TimeoutError' || error.name === 'AbortError')) return 'no answer in time'
  return text.split('\n')[0]?.slice(0, 120) ?? ''
}

/** All addresses side by side, each a little after the one before; the first that answers is taken. */
async function connect (modules: Modules, key: NodeKey, addresses: readonly string[], signal: AbortSignal): Promise<Line> {
  const won = new AbortController()
  let taken = false
  const dial = async (address: string, index: number): Promise<Line> => {
    if (index > 0) await sleep(index * STAGGER_MS, undefined, { signal: won.signal })
    // a node for each: libp2p would try the addresses of one peer one after the other
    const node = await modules.make(key)
    try {
      const connection = await node.dial(modules.target(address), { signal: AbortSignal.any([signal, won.signal, AbortSignal.timeout(DIAL_TIMEOUT_MS)]) })
      if (taken) throw new Error('another address was faster')
      taken = true
      return { connection, close: async () => { await node.stop() } }
    } catch (error) {
      await node.stop()
      throw error
    }
  }
  const tries = addresses.map(async (address, index) => await dial(address, index))
  try {
    return await Promise.any(tries)
  } finally {
    won.abort(new Error('another address was faster'))
    await Promise.allSettled(tries)
  }
}

/** Connects to the issuer, again and again while it is only busy. @throws UnreachableError naming every address */
async function reach (token: wire.Token, key: NodeKey, signal: AbortSignal): Promise<Line> {
  const modules = await load(token.issuer)
  const patience = AbortSignal.any([signal, AbortSignal.timeout(JOIN_PATIENCE_MS)])
  for (let pauseMs = RETRY_MIN_MS; ; pauseMs = Math.min(RETRY_MAX_MS, pauseMs * 2)) {
    try {
      return await connect(modules, key, token.addresses, patience)
    } catch (cause) {
      signal.throwIfAborted()
      const errors = cause instanceof AggregateError ? cause.errors as unknown[] : [cause]
      if (patience.aborted || !isPassing(errors)) {
        const what = token.addresses.map((address, index) => `${address}: ${because(errors[index])}`).join('; ')
        throw new UnreachableError(`the issuer of this token (${token.issuer}) cannot be reached: ${what}`, 'is its daemon running, and is the port open from here? It listens for joins only while an invitation is open: list them where the token was made', cause)
      }
      await sleep(pauseMs * (0.5 + Math.random()), undefined, { signal: patience }).catch(() => undefined)
    }
  }
}

async function exchange (line: Line, request: wire.JoinRequest, where: string, signal: AbortSignal): Promise<wire.JoinReply> {
  const deadline = AbortSignal.any([signal, AbortSignal.timeout(JOIN_TIMEOUT_MS)])
  try {
    const { lpStream } = await import('@libp2p/utils')
    const stream = await line.connection.newStream(JOIN_PROTOCOL, { signal: deadline })
    const frames = lpStream(stream, { maxDataLength: MAX_JOIN_BYTES, maxBufferSize: 2 * MAX_JOIN_BYTES })
    await frames.write(encode('JoinRequest', request, { maxBytes: MAX_JOIN_BYTES }), { signal: deadline })
    const bytes = await frames.read({ signal: deadline })
    return decode('JoinReply', bytes.subarray(), { maxBytes: MAX_JOIN_BYTES })
  } catch (cause) {
    signal.throwIfAborted()
    throw new UnreachableError(`the issuer at ${where} took the request and gave no answer: ${because(cause)}`, 'run the same command again: the token still holds for this host', cause)
  }
}

/** @throws MusubiError saying in whose clock the fault may lie */
function checkClock (token: wire.Token, nowMs: number): void {
  if (token.expiresMs > nowMs) return
  const agoMs = nowMs - token.expiresMs
  throw new MusubiError('TOKEN_EXPIRED', `this token ended ${new Date(token.expiresMs).toISOString()}; the clock here says ${new Date(nowMs).toISOString()}`, {
    hint: agoMs > 366 * 24 * 3_600_000 ? 'compare the clocks of both hosts, then ask for a new token' : 'ask for a new token; if it was made just now, compare the clocks of both hosts'
  })
}

/** Only what stands on the same coordinator key is kept. */
function peersOf (reply: wire.JoinReply, federation: string): KnownPeer[] {
  return reply.peers.flatMap(({ peer, addresses, chain }) => {
    try {
      return readMember(chain, federation).peerId === peer ? [{ peerId: peer, addresses, chain }] : []
    } catch {
      return []
    }
  })
}

/**
 * Redeems a token: asks the issuer that it names, and checks that the answer is of one who knows the
 * token, for us, and under the federation of the token. Running it again after a break is right.
 *
 * @throws InvalidInputError for a bad token; UnreachableError naming addresses; MusubiError TOKEN_USED,
 * TOKEN_EXPIRED, TOKEN_UNKNOWN, TOKEN_BURNT, TOKEN_WITHDRAWN, TOKEN_WRONG_KIND, BAD_PROOF, BAD_REPLY
 * and what the issuer's authority says (NAME_TAKEN, SLICE_OVERLAPS, ROLE_NEEDS_SITE_KEY ...);
 * NotAdmittedError CERTIFICATE_NOT_YET_VALID when the clocks differ
 */
export async function redeem (text: string, options: RedeemOptions): Promise<Redeemed> {
  const { key, name, siteKey, now, signal = new AbortController().signal } = options
  const token = parseToken(text)
  const own = peerIdOf(key)
  if (!NAME.test(name)) throw new InvalidInputError(`'${name.slice(0, 40)}' is no name`, 'names are lower case letters, digits and hyphens, at most 32')
  if (token.kind === 'site' && siteKey === undefined) throw new MusubiError('TOKEN_WRONG_KIND', 'this token admits a site, not a host', { hint: 'musubi site init --join TOKEN; for a host ask a gateway of its site: musubi site invite' })
  if (token.kind === 'host' && siteKey !== undefined) throw new MusubiError('TOKEN_WRONG_KIND', 'this token admits a host, not a site', { hint: 'musubi agent join TOKEN; for a site ask the coordinator: musubi coordinator invite' })
  if (token.issuer === own) throw new InvalidInputError('this token was made by this very host', 'use it on the host that is to join')
  checkClock(token, now())

  const subject = siteKey === undefined ? own : peerIdOf(siteKey)
  const plain: wire.JoinRequest = {
    tokenId: token.id, kind: token.kind, subject, name, roles: [...options.roles ?? []], segmentIds: options.segmentIds === undefined || options.segmentIds === null ? null : { ...options.segmentIds },
    addresses: [...options.addresses ?? []].slice(0, 16), proof: NONE, subjectSignature: NONE
  }
  const request: wire.JoinRequest = {
    ...plain,
    proof: hmac(token.secret, requestBytes(plain, token.issuer, own)),
    subjectSignature: siteKey === undefined ? NONE : signSubject(siteKey, plain, token.issuer, own)
  }
  const line = await reach(token, key, signal)
  const where = line.connection.remoteAddr.toString()
  let reply: wire.JoinReply
  try {
    reply = await exchange(line, request, where, signal)
  } finally {
    await line.close()
  }
  if (reply.failure !== null) {
    const { code, message, retryable, hint } = reply.failure
    throw new MusubiError(code, `${message} (said by the issuer at ${where})`, { retryable, ...(hint === '' ? {} : { hint }) })
  }
  return accept({ token, request, caller: own, where }, reply, now())
}

interface Asked { readonly token: wire.Token, readonly request: wire.JoinRequest, readonly caller: string, readonly where: string }

/** @throws MusubiError BAD_REPLY; NotAdmittedError */
function accept ({ token, request, caller, where }: Asked, reply: wire.JoinReply, nowMs: number): Redeemed {
  const { federation, issuer, secret } = token
  const bad = (why: string, hint: string): never => { throw new MusubiError('BAD_REPLY', `the issuer at ${where} answered with ${why}; nothing was kept`, { hint }) }
  if (!sameProof(hmac(secret, replyBytes(reply, request, issuer, caller)), reply.proof)) bad('no proof that it knows the token', 'ask for a new token')
  let member: Member
  try {
    member = readChain(reply.chain, federation)
  } catch (error) {
    return bad(`certificates that do not hold: ${error instanceof Error ? error.message : ''}`, 'the issuer is not of the federation that the token names: ask for a new token')
  }
  const [certificate] = member.certificates
  const named = request.kind === 'site' ? certificate?.site : certificate?.name
  if (certificate?.kind !== request.kind || certificate.subject !== request.subject || named !== request.name || (token.site !== '' && certificate.site !== token.site)) {
    return bad('a certificate for somebody else', 'ask for a new token')
  }
  checkDates(member, nowMs)
  const peers = peersOf(reply, federation)
  return request.kind === 'site'
    ? { kind: 'site', site: certificate.site, federation, siteChain: reply.chain, peers }
    : { kind: 'host', site: certificate.site, credentials: { federation, chain: reply.chain, peers } }
}
