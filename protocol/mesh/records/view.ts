import type { wire } from '../../wire/codec.ts'
import { DEAD_SHOWN_MS, FLOOR_KEEP_MS } from '../constants.ts'

/** A position in the sequence of records of one peer: the epoch grows at each start, seq within it. */
export interface Version { readonly epoch: number, readonly seq: number }

/** Whether `a` came after `b`. Only the author can make newer versions, so there is nothing to merge. */
export function isNewer (a: Version, b: Version): boolean {
  return a.epoch > b.epoch || (a.epoch === b.epoch && a.seq > b.seq)
}

export interface ViewEntry<T> {
  readonly record: wire.Record
  readonly body: T
  /** when it was made, on the local monotonic clock, ms */
  readonly bornMs: number
  readonly expiresMs: number
}

/** `taken`: it is in the view now. `stale`: that or a newer one was seen. `expired`: its life is over. */
export type Merge = 'taken' | 'stale' | 'expired' | 'full'

/** Ages of the same record that differ by less came by different ways. */
const SAME_AGE_MS = 1_000

/** The same record, not as old as it was said to be: ages are not signed, and somebody may have made it old to end it. */
function isYounger (version: Version, bornMs: number, known: ViewEntry<unknown> | undefined): boolean {
  return known !== undefined && version.epoch === known.record.epoch && version.seq === known.record.seq && bornMs > known.bornMs + SAME_AGE_MS
}

const BUCKET_SEED = 0x811c9dc5

/** Bucket of a peer among `buckets`: both sides of a comparison sort peers the same way (FNV-1a). */
export function bucketOf (peer: string, buckets: number): number {
  let hash = BUCKET_SEED
  for (let index = 0; index < peer.length; index++) hash = Math.imul(hash ^ peer.charCodeAt(index), 0x01000193) >>> 0
  return hash % buckets
}

/** A part of the view: peers of one bucket. `{ bucket: 0, buckets: 1 }` is all of it. */
export interface Part { readonly bucket: number, readonly buckets: number }

/** What one look at the clock has changed: `expired` are only shown from now on, `forgotten` not even that. */
export interface Expiry { readonly expired: string[], readonly forgotten: string[] }

/**
 * The records of one kind, one per peer. Pure: time comes in. The outcome does not depend on the
 * order in which records arrive, as long as there is room for all. A record that says `leaving` is
 * kept and spread like any other until it expires, and shown to nobody.
 */
export class RecordView<T> {
  readonly #entries = new Map<string, ViewEntry<T>>()
  /** Expired ones that are still shown. They are neither compared nor given to others. */
  readonly #past = new Map<string, ViewEntry<T>>()
  /** Versions that are over: the same record must not come back by way of a peer that kept it. */
  readonly #floors = new Map<string, { readonly version: Version, readonly untilMs: number }>()
  readonly #maxRecords: number

  constructor (maxRecords: number) {
    this.#maxRecords = maxRecords
  }

  get size (): number {
    return this.#entries.size
  }

  get (peer: string): ViewEntry<T> | undefined {
    return this.#entries.get(peer)
  }

  entries (): IterableIterator<ViewEntry<T>> {
    return this.#entries.values()
  }

  /** Expired records, for people to see who was there. */
  past (): IterableIterator<ViewEntry<T>> {
    return this.#past.values()
  }

  has (peer: string): boolean {
    return this.#entries.has(peer) || this.#past.has(peer)
  }

  /** What merging this version would give; cheap, so that stale records cost no signature check. */
  judge (peer: string, version: Version, ttlMs: number, ageMs: number, nowMs: number): Merge {
    const entry = this.#entries.get(peer)
    const known = entry?.record ?? this.#floors.get(peer)?.version
    if (known !== undefined && !isNewer(version, known) && !isYounger(version, nowMs - ageMs, entry)) return 'stale'
    if (ageMs >= ttlMs) return 'expired'
    return this.#entries.has(peer) || this.#entries.size < this.#maxRecords ? 'taken' : 'full'
  }

  /** @param record its signature was checked; @param nowMs monotonic clock */
  merge (record: wire.Record, body: T, nowMs: number): Merge {
    const verdict = this.judge(record.peer, record, record.ttlMs, record.ageMs, nowMs)
    if (verdict === 'taken') {
      const bornMs = nowMs - record.ageMs
      this.#entries.set(record.peer, { record, body, bornMs, expiresMs: bornMs + record.ttlMs })
      this.#floors.delete(record.peer)
      this.#past.delete(record.peer)
    }
    return verdict
  }

  /** Takes out what has run out. */
  expire (nowMs: number): Expiry {
    const expired: string[] = []
    const forgotten: string[] = []
    for (const [peer, entry] of this.#entries) {
      if (entry.expiresMs > nowMs) continue
      this.#end(peer, entry, nowMs)
      if (entry.record.leaving) {
        forgotten.push(peer)
      } else {
        this.#past.set(peer, entry)
        expired.push(peer)
      }
    }
    for (const [peer, { expiresMs }] of this.#past) {
      if (expiresMs + DEAD_SHOWN_MS > nowMs && this.#past.size <= this.#maxRecords) continue
      this.#past.delete(peer)
      forgotten.push(peer)
    }
    for (const [peer, { untilMs }] of this.#floors) {
      if (untilMs <= nowMs || this.#floors.size > this.#maxRecords) this.#floors.delete(peer)
    }
    return { expired, forgotten }
  }

  /** Takes a peer out for good: it is no member any more. @returns whether it was there */
  remove (peer: string, nowMs: number): boolean {
    const entry = this.#entries.get(peer)
    if (entry !== undefined) this.#end(peer, entry, nowMs)
    return this.#past.delete(peer) || entry !== undefined
  }

  /** Ids of the records in a part. */
  digest (part: Part): wire.RecordId[] {
    return this.#inPart(part).map(({ record: { peer, kind, epoch, seq } }) => ({ peer, kind, epoch, seq }))
  }

  /** Entries of a part that a holder of `have` lacks, and ids in `have` that this view lacks. */
  compare (have: ReadonlyMap<string, wire.RecordId>, part: Part): { give: Array<ViewEntry<T>>, want: wire.RecordId[] } {
    const give = this.#inPart(part).filter(({ record }) => {
      const theirs = have.get(record.peer)
      return theirs === undefined || isNewer(record, theirs)
    })
    const want = [...have.values()].filter(id => this.judge(id.peer, id, 1, 0, -Infinity) === 'taken')
    return { give, want }
  }

  #end (peer: string, { record: { epoch, seq } }: ViewEntry<T>, nowMs: number): void {
    this.#entries.delete(peer)
    // not for ever: who lost its epoch must be heard again one day
    this.#floors.set(peer, { version: { epoch, seq }, untilMs: nowMs + FLOOR_KEEP_MS })
  }

  #inPart ({ bucket, buckets }: Part): Array<ViewEntry<T>> {
    const all = [...this.#entries.values()]
    return buckets === 1 ? all : all.filter(({ record }) => bucketOf(record.peer, buckets) === bucket)
  }
}
