import { MAX_HELLO_BYTES } from '../../core/limits.ts'
import { encode, type wire } from '../../wire/codec.ts'
import { peerIdOf, sign, verify, type NodeKey } from '../identity.ts'
import type { Version } from '../records/view.ts'

/** Separates these signatures from all others that the same key makes. */
const PURPOSE = new TextEncoder().encode('musubi suspicion 1\0')

function signedBytes (suspicion: wire.Suspicion): Uint8Array {
  return Buffer.concat([PURPOSE, encode('Suspicion', { ...suspicion, signature: new Uint8Array() }, { maxBytes: MAX_HELLO_BYTES })])
}

/** Says that `peer` was lost when `version` was the last that was heard of it. */
export function signSuspicion (key: NodeKey, peer: string, kind: string, { epoch, seq }: Version): wire.Suspicion {
  const suspicion: wire.Suspicion = { peer, kind, epoch, seq, by: peerIdOf(key), signature: new Uint8Array() }
  return { ...suspicion, signature: sign(key, signedBytes(suspicion)) }
}

/** Whether the member that it names has said it. */
export function isSuspicionAuthentic (suspicion: wire.Suspicion): boolean {
  return verify(suspicion.by, signedBytes(suspicion), suspicion.signature)
}
