import { errorCode, InvalidInputError } from '../../core/errors.ts'
import { MAX_REVOCATIONS } from '../../core/limits.ts'
import { encode, type wire } from '../../wire/codec.ts'
import { REVOCATION_ROUNDS_MAX, SYNC_RECORD_BYTES } from '../constants.ts'
import type { Mesh } from '../mesh.ts'
import { idFromBytes, idToBytes } from '../trust/revocation.ts'
import type { Trust } from '../trust/trust.ts'

const weigh = ({ envelope, chain }: wire.SignedRevocation): number => chain.reduce((bytes, { length }) => bytes + length + 8, envelope.length + 16)

/** As many as fit into one message; at least one. */
function fill (revocations: readonly wire.SignedRevocation[]): wire.SignedRevocation[] {
  let bytes = 0
  const over = revocations.findIndex((revocation, index) => (bytes += weigh(revocation)) > SYNC_RECORD_BYTES && index > 0)
  return over === -1 ? [...revocations] : revocations.slice(0, over)
}

const signedOf = (trust: Trust): Map<string, wire.SignedRevocation> => new Map(trust.revocations.all().map(({ id, signed }) => [id, signed]))

/** Takes what a peer says. @returns how many were new. @throws InvalidInputError at the first that is forged */
function takeAll (trust: Trust, revocations: readonly wire.SignedRevocation[]): number {
  return revocations.filter(signed => {
    try {
      return trust.takeRevocation(signed) !== null
    } catch (error) {
      // by the clock of its author, which keeps no others out; it is asked for again
      if (errorCode(error) === 'FUTURE_DATED') return false
      throw error
    }
  }).length
}

/** Serves `revocations`: what the caller lacks, and what this member lacks of the caller's. */
export function answerRevocations (trust: Trust, { ids, offer }: wire.RevocationsRequest): wire.RevocationsReply {
  if (ids.length > MAX_REVOCATIONS || ids.some(({ length }) => length > 64)) throw new InvalidInputError(`${ids.length} ids of revocations`)
  takeAll(trust, offer)
  // what was asked for is handed over: that is no list
  if (ids.length === 0 && offer.length > 0) return { revocations: [], want: [] }
  const theirs = new Set(ids.map(idFromBytes))
  const mine = signedOf(trust)
  const lacking = [...mine].filter(([id]) => !theirs.has(id)).map(([, signed]) => signed)
  return { revocations: fill(lacking), want: [...theirs].filter(id => !mine.has(id)).map(idToBytes) }
}

/**
 * Makes both sides know the revocations of both. Run it when a comparison shows different digests.
 *
 * @throws what `mesh.call` throws; InvalidInputError when the peer sent what is none
 */
export async function exchangeRevocations (mesh: Mesh, peerId: string): Promise<void> {
  const { trust } = mesh
  let want: Uint8Array[] = []
  for (let round = 0; round < REVOCATION_ROUNDS_MAX; round++) {
    const reply = await mesh.call(peerId, 'revocations', { ids: trust.revocations.ids().map(idToBytes), offer: [] })
    want = reply.want
    // the last ones may be such as we do not keep
    if (takeAll(trust, reply.revocations) === 0) break
  }
  const mine = signedOf(trust)
  let offer = want.flatMap(id => mine.get(idFromBytes(id)) ?? [])
  for (let round = 0; round < REVOCATION_ROUNDS_MAX && offer.length > 0; round++) {
    const batch = fill(offer)
    await mesh.call(peerId, 'revocations', { ids: [], offer: batch })
    offer = offer.slice(batch.length)
  }
}

/** One revocation as gossip. */
export function revocationMessage (signed: wire.SignedRevocation): Uint8Array {
  return encode('Gossip', { record: null, suspicion: null, revocation: signed })
}
