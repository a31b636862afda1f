import type { ConnectionEncrypter, MessageStream, PeerId, SecureConnectionOptions, SecuredConnection } from '@libp2p/interface'
import * as lp from 'it-length-prefixed'
import { Uint8ArrayList } from 'uint8arraylist'
import { errorCode, MusubiError, UnreachableError } from '../../core/errors.ts'
import { MAX_HELLO_BYTES } from '../../core/limits.ts'
import { decode, encode } from '../../wire/codec.ts'
import { firstFrame, onFirstFrame } from '../transport/early.ts'
import { NotAdmittedError, type Chain, type Member, type NotAdmittedCode } from './certificate.ts'

/** Part of its name goes into the choice of encrypter, so that other libp2p programs get no further. */
export const ADMISSION_PROTOCOL = '/musubi/admission/1'
/** How long a refused peer is given to read why. */
const REFUSAL_MS = 500
const LIMIT = { maxBytes: MAX_HELLO_BYTES }

export interface AdmissionPolicy {
  /** what this member shows of itself */
  chain (): Chain
  /** @throws NotAdmittedError */
  admitConnection (peerId: string, chain: Chain): Member
  /** Whether a peer that is dialled has proved before who it is, so that it can be spoken to while its word is under way. */
  isKnown? (peerId: string): boolean
  /** told of every peer that was not let in, and of every refusal by one */
  onRefused (peerId: string, error: MusubiError, by: 'us' | 'them'): void
}

/** The other side has refused us: its words, with what to do. */
export class RefusedError extends MusubiError {
  override readonly name = 'RefusedError'
}

function say (connection: MessageStream, chain: Chain, refusal: MusubiError | null): void {
  const failure = refusal === null ? null : { code: refusal.code, message: refusal.message, retryable: false, hint: refusal.hint ?? '', site: '', host: '' }
  connection.send(lp.encode.single(encode('Hello', { chain: [...chain], refusal: failure }, LIMIT)))
}

/**
 * The first frame that arrives. What follows it, and may be long as it was sent without waiting, stays
 * with the stream for whoever reads next.
 */
async function hear (connection: MessageStream, signal: AbortSignal | undefined): Promise<Chain> {
  const { promise, resolve, reject } = Promise.withResolvers<Uint8Array>()
  const ended = new AbortController()
  const arrived = new Uint8ArrayList()
  const till = { signal: ended.signal }
  connection.addEventListener('message', ({ data }) => {
    arrived.append(data)
    try {
      const found = firstFrame(arrived, MAX_HELLO_BYTES)
      if (found === null) return
      ended.abort()
      arrived.consume(found.total)
      if (arrived.byteLength > 0) connection.unshift(arrived)
      resolve(found.frame)
    } catch (error) {
      reject(error instanceof Error ? error : new Error(String(error)))
    }
  }, till)
  const gone = (error?: Error): void => { reject(error ?? new UnreachableError('the other side has gone before it said who it is')) }
  connection.addEventListener('close', ({ error }) => { gone(error) }, till)
  connection.addEventListener('remoteCloseWrite', () => { gone() }, till)
  signal?.addEventListener('abort', () => { gone(signal.reason as Error) }, till)
  if (signal?.aborted === true) gone(signal.reason as Error)
  else if (connection.status !== 'open') gone()
  try {
    return chainOf(await promise)
  } finally {
    ended.abort()
  }
}

/** @throws RefusedError when the other side refuses; InvalidInputError for what is no hello */
function chainOf (bytes: Uint8Array): Chain {
  const { chain, refusal } = decode('Hello', bytes, LIMIT)
  if (refusal !== null) throw new RefusedError(refusal.code, refusal.message, refusal.hint === '' ? {} : { hint: refusal.hint })
  return chain
}

/** Waits for the other side to have read and closed, but not long. What it still sends is dropped. */
async function parting (connection: MessageStream): Promise<void> {
  if (connection.status !== 'open') return
  connection.addEventListener('message', () => undefined)
  const { promise, resolve } = Promise.withResolvers<null>()
  const timer = setTimeout(() => { resolve(null) }, REFUSAL_MS)
  connection.addEventListener('close', () => { resolve(null) }, { once: true })
  await promise
  clearTimeout(timer)
}

/**
 * Admission before the multiplexer: on the channel that `inner` (Noise) has secured, both sides show
 * their certificates and check the other's. Only then the connection exists for identify, gossip
 * and all protocols; who is refused costs one frame of at most MAX_HELLO_BYTES.
 *
 * The dialler speaks first, so that a stranger who dials learns no certificate of ours. Towards a peer
 * whose certificates it holds already, proved by the key that Noise has just seen, it goes on at
 * once: what it sends is read only if it is admitted, and what it gets begins with the other's hello.
 */
export function admission<C> (inner: (components: C) => ConnectionEncrypter, policy: AdmissionPolicy): (components: C) => ConnectionEncrypter {
  return components => {
    const noise = inner(components)
    const check = (peer: PeerId, chain: Chain): MusubiError | null => {
      try {
        policy.admitConnection(peer.toString(), chain)
        return null
      } catch (error) {
        if (error instanceof MusubiError) return error
        throw error
      }
    }
    const fail = ({ connection, remotePeer }: SecuredConnection, error: unknown): void => {
      if (error instanceof RefusedError) policy.onRefused(remotePeer.toString(), error, 'them')
      else if (!(error instanceof NotAdmittedError) && error instanceof MusubiError) policy.onRefused(remotePeer.toString(), new NotAdmittedError(badHello(error), error.message), 'us')
      connection.abort(error instanceof Error ? error : new Error('not admitted'))
    }
    /** The hello of a known peer, when it comes. @returns whether the connection goes on */
    const hearLate = (secured: SecuredConnection, bytes: Uint8Array): boolean => {
      try {
        const refusal = check(secured.remotePeer, chainOf(bytes))
        if (refusal === null) return true
        policy.onRefused(secured.remotePeer.toString(), refusal, 'us')
        throw refusal
      } catch (error) {
        fail(secured, error)
        return false
      }
    }
    const talk = async (secured: SecuredConnection, inbound: boolean, signal: AbortSignal | undefined): Promise<SecuredConnection> => {
      const { connection, remotePeer } = secured
      try {
        if (!inbound) {
          const early = policy.isKnown?.(remotePeer.toString()) === true && onFirstFrame(connection, MAX_HELLO_BYTES, bytes => hearLate(secured, bytes))
          say(connection, policy.chain(), null)
          if (early) return secured
        }
        const refusal = check(remotePeer, await hear(connection, signal))
        if (refusal !== null) {
          policy.onRefused(remotePeer.toString(), refusal, 'us')
          if (inbound) {
            say(connection, [], refusal)
            await parting(connection)
          }
          throw refusal
        }
        if (inbound) say(connection, policy.chain(), null)
      } catch (error) {
        fail(secured, error)
        throw error
      }
      return secured
    }
    return {
      protocol: ADMISSION_PROTOCOL,
      secureInbound: async (connection: MessageStream, options?: SecureConnectionOptions) => await talk(await noise.secureInbound(connection, options), true, options?.signal),
      secureOutbound: async (connection: MessageStream, options?: SecureConnectionOptions) => await talk(await noise.secureOutbound(connection, options), false, options?.signal)
    }
  }
}

const badHello = (error: MusubiError): NotAdmittedCode => errorCode(error) === 'INVALID_INPUT' ? 'BAD_CERTIFICATE' : 'NO_CERTIFICATE'
