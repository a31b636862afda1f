import { InvalidInputError } from '../../core/errors.ts'
import { MAX_RECORD_BYTES } from '../../core/limits.ts'
import type { wire } from '../../wire/codec.ts'
import { SYNC_DIGEST_RECORDS, SYNC_RECORD_BYTES, SYNC_ROUNDS_MAX } from '../constants.ts'
import type { Scope } from '../federation.ts'
import type { Mesh } from '../mesh.ts'
import type { Part, RecordView, ViewEntry } from './view.ts'
import { kindOf, type Bodies, type Kind } from './signed.ts'

/**
 * Anti-entropy: one side sends a digest of what it has, the other answers with what is newer there
 * and names what it wants, which then follows. Gossip may lose; this does not.
 */
export interface SyncSource {
  viewOf (scope: Scope): RecordView<Bodies[Kind]>
  /** checks and merges. @throws InvalidInputError at the first record that is forged or malformed */
  takeAll (records: readonly wire.Record[], scope: Scope): Promise<void>
}

/** Bytes that a record takes in a message, at most. */
const weigh = (record: wire.Record): number => record.body.length + record.peer.length + 200

/** As they are now: with their age, so that a record does not live longer by being passed on. */
function aged (entries: ReadonlyArray<ViewEntry<unknown>>): wire.Record[] {
  const now = performance.now()
  return entries.filter(({ expiresMs }) => expiresMs > now).map(({ record, bornMs }) => ({ ...record, ageMs: Math.max(0, Math.round(now - bornMs)) }))
}

/** As many as fit into one message; at least one. */
function fill (records: readonly wire.Record[]): wire.Record[] {
  let bytes = 0
  const over = records.findIndex((record, index) => (bytes += weigh(record)) > SYNC_RECORD_BYTES && index > 0)
  return over === -1 ? [...records] : records.slice(0, over)
}

/** The reply was cut for size: more may be waiting. */
function isCut (records: readonly wire.Record[]): boolean {
  return records.reduce((bytes, record) => bytes + weigh(record), 0) > SYNC_RECORD_BYTES - MAX_RECORD_BYTES - 400
}

/** Serves one comparison. */
export async function answerSync (request: wire.SyncRequest, scope: Scope, source: SyncSource, signal: AbortSignal): Promise<wire.SyncReply> {
  const { bucket, have, offer } = request
  const buckets = request.buckets === 0 ? 1 : request.buckets
  if (bucket >= buckets) throw new InvalidInputError(`bucket ${bucket} of ${buckets}`)
  await source.takeAll(offer, scope)
  signal.throwIfAborted()
  // what was asked for is handed over: that is no digest
  if (have.length === 0 && offer.length > 0) return { records: [], want: [] }
  const kind = kindOf(scope)
  const theirs = new Map(have.filter(id => id.kind === kind).map(id => [id.peer, id]))
  const { give, want } = source.viewOf(scope).compare(theirs, { bucket, buckets })
  return { records: fill(aged(give)), want: want.slice(0, SYNC_DIGEST_RECORDS) }
}

/** @returns whether the other side may have more for us */
async function compareOnce (mesh: Mesh, peerId: string, scope: Scope, source: SyncSource, part: Part): Promise<boolean> {
  const view = source.viewOf(scope)
  const have = view.digest(part)
  const { records, want } = await mesh.call(peerId, 'sync', { scope, have, offer: [], ...part })
  await source.takeAll(records, scope)
  let offer = aged(want.flatMap(({ peer }) => view.get(peer) ?? []))
  while (offer.length > 0) {
    const batch = fill(offer)
    await mesh.call(peerId, 'sync', { scope, have: [], offer: batch, ...part })
    offer = offer.slice(batch.length)
  }
  return isCut(records)
}

/**
 * Compares a scope with one peer.
 *
 * @param all every bucket, else one at random (the next rounds take others)
 * @throws what `mesh.call` throws; InvalidInputError when the peer sent forged records
 */
export async function syncWith (mesh: Mesh, peerId: string, scope: Scope, source: SyncSource, all: boolean): Promise<void> {
  const buckets = Math.max(1, Math.ceil(source.viewOf(scope).size / SYNC_DIGEST_RECORDS))
  const first = all ? 0 : Math.floor(Math.random() * buckets)
  const last = all ? buckets - 1 : first
  for (let bucket = first; bucket <= last; bucket++) {
    for (let round = 0; round < SYNC_ROUNDS_MAX; round++) {
      if (!await compareOnce(mesh, peerId, scope, source, { bucket, buckets })) break
    }
  }
}
