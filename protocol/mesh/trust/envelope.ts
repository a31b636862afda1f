import { publicKeyFromProtobuf, publicKeyToProtobuf } from '@libp2p/crypto/keys'
import { peerIdFromPublicKey } from '@libp2p/peer-id'
import { InvalidInputError } from '../../core/errors.ts'
import { MAX_CERTIFICATE_BYTES } from '../../core/limits.ts'
import { decode, encode, type MessageName, type Messages } from '../../wire/codec.ts'
import { sign, verify, type NodeKey } from '../identity.ts'

/** What an envelope may carry; the domain keeps its signature from passing for any other. */
export type Sealed = 'Certificate' | 'Revocation' | 'EpochGrant'

const LIMIT = { maxBytes: MAX_CERTIFICATE_BYTES }
const utf8 = new TextEncoder()
const domainOf = (type: Sealed): Uint8Array => utf8.encode(`musubi-${type.toLowerCase()}`)
const payloadTypeOf = (type: Sealed): Uint8Array => utf8.encode(`/musubi/${type.toLowerCase()}/1`)

/** Unsigned varint (LEB128); lengths here are far below 2^28. */
function varint (value: number): Uint8Array {
  const bytes: number[] = []
  for (let rest = value; ; rest >>>= 7) {
    if (rest < 0x80) return Uint8Array.from([...bytes, rest])
    bytes.push((rest & 0x7f) | 0x80)
  }
}

/** The bytes that libp2p signs for an envelope (libp2p RFC 0002): each part with its length before it. */
function signedBytes (domain: Uint8Array, payloadType: Uint8Array, payload: Uint8Array): Uint8Array {
  return Buffer.concat([domain, payloadType, payload].flatMap(part => [varint(part.length), part]))
}

/**
 * Signs a document as a libp2p signed envelope.
 *
 * @throws InvalidInputError when it does not fit its schema or is larger than MAX_CERTIFICATE_BYTES
 */
export function seal<T extends Sealed> (key: NodeKey, type: T, document: Messages[T]): Uint8Array {
  const payloadType = payloadTypeOf(type)
  const payload = encode<MessageName>(type, document, LIMIT)
  const signature = sign(key, signedBytes(domainOf(type), payloadType, payload))
  return encode('Envelope', { publicKey: publicKeyToProtobuf(key.publicKey), payloadType, payload, signature }, LIMIT)
}

/** Whose key an envelope names; whether it has signed is not looked at. @throws Error for what is none */
export function signerOf (bytes: Uint8Array): string {
  return peerIdFromPublicKey(publicKeyFromProtobuf(decode('Envelope', bytes, LIMIT).publicKey)).toString()
}

/** What an envelope says, and whose key signed it. */
export interface Opened<T extends Sealed> { readonly signer: string, readonly document: Messages[T] }

/**
 * Opens an envelope and checks its signature.
 *
 * @throws InvalidInputError when it is none, carries something else, or is not signed by the key it names
 */
export function unseal<T extends Sealed> (type: T, bytes: Uint8Array): Opened<T> {
  const { publicKey, payloadType, payload, signature } = decode('Envelope', bytes, LIMIT)
  if (Buffer.compare(payloadType, payloadTypeOf(type)) !== 0) throw new InvalidInputError(`this envelope carries no ${type.toLowerCase()}`)
  let signer: string
  try {
    signer = peerIdFromPublicKey(publicKeyFromProtobuf(publicKey)).toString()
  } catch {
    throw new InvalidInputError(`the key of this ${type.toLowerCase()} cannot be read`)
  }
  if (!verify(signer, signedBytes(domainOf(type), payloadType, payload), signature)) throw new InvalidInputError(`the signature of this ${type.toLowerCase()} is wrong`)
  return { signer, document: decode(type, payload, LIMIT) }
}
