import { createHmac, timingSafeEqual } from 'node:crypto'
import { encode, type wire } from '../../wire/codec.ts'
import { sign, verify, type NodeKey } from '../identity.ts'

/**
 * Who knows the secret of a token proves it without sending it: an HMAC over what is said and over
 * both PeerIds, which the connection has proved, so that it holds for nobody else.
 */
const REQUEST = 'musubi join 1'
const REPLY = 'musubi join reply 1'
const SUBJECT = 'musubi join subject 1'
const utf8 = new TextEncoder()

/** Each part with its length before it: no two lists give the same bytes. */
function joined (parts: ReadonlyArray<string | Uint8Array>): Uint8Array {
  return Buffer.concat(parts.flatMap(part => {
    const bytes = typeof part === 'string' ? utf8.encode(part) : part
    const length = Buffer.alloc(4)
    length.writeUInt32BE(bytes.length)
    return [length, bytes]
  }))
}

const NONE = new Uint8Array()
const plainRequest = (request: wire.JoinRequest): Uint8Array => encode('JoinRequest', { ...request, proof: NONE, subjectSignature: NONE })

/** What the proof of a request is made over. */
export function requestBytes (request: wire.JoinRequest, issuer: string, caller: string): Uint8Array {
  return joined([REQUEST, plainRequest(request), issuer, caller])
}

/** What the proof of a reply is made over: it answers this request and no other. */
export function replyBytes (reply: wire.JoinReply, request: wire.JoinRequest, issuer: string, caller: string): Uint8Array {
  return joined([REPLY, encode('JoinReply', { ...reply, proof: NONE }), request.proof, issuer, caller])
}

export function hmac (secret: Uint8Array, bytes: Uint8Array): Uint8Array {
  return Uint8Array.from(createHmac('sha256', secret).update(bytes).digest())
}

/** In a time that does not depend on where they differ. */
export function sameProof (a: Uint8Array, b: Uint8Array): boolean {
  return a.length === b.length && timingSafeEqual(a, b)
}

/** By a site key, so that it is really held by who asks for its certificate. */
export function signSubject (key: NodeKey, request: wire.JoinRequest, issuer: string, caller: string): Uint8Array {
  return sign(key, joined([SUBJECT, plainRequest(request), issuer, caller]))
}

export function verifySubject (request: wire.JoinRequest, issuer: string, caller: string): boolean {
  return verify(request.subject, joined([SUBJECT, plainRequest(request), issuer, caller]), request.subjectSignature)
}
