import { InvalidInputError } from '../../core/errors.ts'
import { MAX_RECORD_BYTES } from '../../core/limits.ts'
import type { wire } from '../../wire/codec.ts'
import { PROBE_TIMEOUT_MS, SYNC_DIGEST_RECORDS, SYNC_RECORD_BYTES, SYNC_ROUNDS_MAX } from '../constants.ts'
import type { Mesh } from '../mesh.ts'
import type { Scope } from '../roles.ts'
import type { Part, RecordView, ViewEntry } from './view.ts'
import { isKind, kindsOf, type Bodies, type Kind } from './signed.ts'

/**
 * Anti-entropy: one side sends a digest of what it has, the other answers with what is newer there
 * and names what it wants, which then follows. Gossip may lose; this does not. Suspicions, and a
 * digest of the revocations, go along.
 */
export interface SyncSource {
  readonly views: { readonly [K in Kind]: RecordView<Bodies[K]> }
  /** checks and merges. @throws MusubiError at the first record that is forged or malformed */
  takeAll (records: readonly wire.Record[], scope: Scope, from: string): Promise<void>
  /** what this member believes of others, at most SYNC_SUSPICIONS */
  suspicions (scope: Scope): wire.Suspicion[]
  /** checks and believes, or not */
  takeSuspicions (suspicions: readonly wire.Suspicion[], scope: Scope, from: string): void
  revocationDigest (): Uint8Array
  /** certificates of an author as they are known here: maybe renewed since the record was made */
  chainOf (record: wire.Record): Uint8Array[]
}

/** Buckets are not equally full, and each kind of record counts. */
const MAX_DIGEST = 4 * SYNC_DIGEST_RECORDS
/** Bytes that a record takes in a message, at most. */
const weigh = (record: wire.Record): number => record.chain.reduce((bytes, { length }) => bytes + length + 8, record.body.length + record.peer.length + 200)

/** As they are now: with their age, so that a record does not live longer by being passed on. */
function aged (entries: ReadonlyArray<ViewEntry<unknown>>, source: SyncSource): wire.Record[] {
  const now = performance.now()
  return entries.filter(({ expiresMs }) => expiresMs > now).map(({ record, bornMs }) => ({ ...record, ageMs: Math.max(0, Math.round(now - bornMs)), chain: source.chainOf(record) }))
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

function compare (have: readonly wire.RecordId[], scope: Scope, source: SyncSource, part: Part): { give: Array<ViewEntry<unknown>>, want: wire.RecordId[] } {
  const parts = kindsOf(scope).map(kind => source.views[kind].compare(new Map(have.filter(id => id.kind === kind).map(id => [id.peer, id])), part))
  return { give: parts.flatMap(({ give }): Array<ViewEntry<unknown>> => give), want: parts.flatMap(({ want }) => want) }
}

/** Serves one comparison. @throws MusubiError when an offered record is an offence, or the caller's own is refused */
export async function answerSync (request: wire.SyncRequest, scope: Scope, source: SyncSource, from: string, signal: AbortSignal): Promise<wire.SyncReply> {
  const { bucket, have, offer } = request
  const buckets = request.buckets === 0 ? 1 : request.buckets
  if (have.length > MAX_DIGEST) throw new InvalidInputError(`a digest of ${have.length} records; a bucket has about ${SYNC_DIGEST_RECORDS}`)
  if (bucket >= buckets) throw new InvalidInputError(`bucket ${bucket} of ${buckets}`)
  await source.takeAll(offer, scope, from)
  source.takeSuspicions(request.suspicions, scope, from)
  signal.throwIfAborted()
  const rest = { revocations: source.revocationDigest(), suspicions: source.suspicions(scope) }
  // what was asked for is handed over: that is no digest
  if (request.ping || (have.length === 0 && offer.length > 0)) return { records: [], want: [], ...rest }
  const { give, want } = compare(have, scope, source, { bucket, buckets })
  return { records: fill(aged(give, source)), want: want.slice(0, SYNC_DIGEST_RECORDS), ...rest }
}

const nothing = { have: [], offer: [], bucket: 0, buckets: 1, suspicions: [], ping: false }

/** @returns whether the other side may have more for us, and whether it knows other revocations */
async function compareOnce (mesh: Mesh, peerId: string, scope: Scope, source: SyncSource, part: Part): Promise<{ more: boolean, differ: boolean }> {
  const have = kindsOf(scope).flatMap(kind => source.views[kind].digest(part))
  const revocations = source.revocationDigest()
  const reply = await mesh.call(peerId, 'sync', { ...nothing, scope, have, ...part, revocations, suspicions: source.suspicions(scope) })
  await source.takeAll(reply.records, scope, peerId)
  // after the records: a suspicion is about a version of one
  source.takeSuspicions(reply.suspicions, scope, peerId)
  const wanted = reply.want.flatMap(({ peer, kind }): Array<ViewEntry<unknown>> => {
    const entry = isKind(kind) && kindsOf(scope).includes(kind) ? source.views[kind].get(peer) : undefined
    return entry === undefined ? [] : [entry]
  })
  let offer = aged(wanted, source)
  while (offer.length > 0) {
    const batch = fill(offer)
    await mesh.call(peerId, 'sync', { ...nothing, scope, offer: batch, revocations })
    offer = offer.slice(batch.length)
  }
  return { more: isCut(reply.records), differ: Buffer.compare(reply.revocations, revocations) !== 0 }
}

/**
 * Compares a scope with one peer.
 *
 * @param all every bucket, else one at random (the next rounds take others)
 * @returns whether the peer knows other revocations than this member
 * @throws what `mesh.call` throws; MusubiError when the peer sent forged records
 */
export async function syncWith (mesh: Mesh, peerId: string, scope: Scope, source: SyncSource, all: boolean): Promise<boolean> {
  const size = kindsOf(scope).reduce((sum, kind) => sum + source.views[kind].size, 0)
  const buckets = Math.max(1, Math.ceil(size / SYNC_DIGEST_RECORDS))
  const first = all ? 0 : Math.floor(Math.random() * buckets)
  const last = all ? buckets - 1 : first
  let revocationsDiffer = false
  for (let bucket = first; bucket <= last; bucket++) {
    for (let round = 0; round < SYNC_ROUNDS_MAX; round++) {
      const { more, differ } = await compareOnce(mesh, peerId, scope, source, { bucket, buckets })
      revocationsDiffer = differ
      if (!more) break
    }
  }
  return revocationsDiffer
}

/** Hands records to a peer that has not asked. @throws what `mesh.call` throws */
export async function hand (mesh: Mesh, peerId: string, scope: Scope, source: SyncSource, records: readonly wire.Record[]): Promise<void> {
  await mesh.call(peerId, 'sync', { ...nothing, scope, offer: fill(records), revocations: source.revocationDigest() }, { deadlineMs: PROBE_TIMEOUT_MS })
}

/** Asks a peer whether it is there, and tells it what it is suspected of. @throws what `mesh.call` throws */
export async function probe (mesh: Mesh, peerId: string, scope: Scope, source: SyncSource, suspicions: readonly wire.Suspicion[]): Promise<void> {
  await mesh.call(peerId, 'sync', { ...nothing, scope, revocations: source.revocationDigest(), suspicions: [...suspicions], ping: true }, { deadlineMs: PROBE_TIMEOUT_MS })
}
