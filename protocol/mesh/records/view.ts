import type { wire } from '../../wire/codec.ts'

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

const BUCKET_SEED = 0x811c9dc5

/** Bucket of a peer among `buckets`: both sides of a comparison sort peers the same way (FNV-1a). */
export function bucketOf (peer: string, buckets: number): number {
  let hash = BUCKET_SEED
  for (let index = 0; index < peer.length; index++) hash = Math.imul(hash ^ peer.charCodeAt(index), 0x01000193) >>> 0
  return hash % buckets
}

/** A part of the view: peers of one bucket. `{ bucket: 0, buckets: 1 }` is all of it. */
export interface Part { readonly bucket: number, readonly buckets: number }

/**
 * The records of one kind, one per peer. Pure: time comes in. The outcome does not depend on the
 * order in which records arrive, as long as there is room for all.
 */
export class RecordView<T> {
  readonly #entries = new Map<string, ViewEntry<T>>()
  /** Versions that expired: the same record must not come back by way of a peer that kept it. */
  readonly #floors = new Map<string, Version>()
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

  /** What merging this version would give; cheap, so that stale records cost no signature check. */
  judge (peer: string, version: Version, ttlMs: number, ageMs: number): Merge {
    const known = this.#entries.get(peer)?.record ?? this.#floors.get(peer)
    if (known !== undefined && !isNewer(version, known)) return 'stale'
    if (ageMs >= ttlMs) return 'expired'
    return this.#entries.has(peer) || this.#entries.size < this.#maxRecords ? 'taken' : 'full'
  }

  /** @param record its signature was checked; @param nowMs monotonic clock */
  merge (record: wire.Record, body: T, nowMs: number): Merge {
    const verdict = this.judge(record.peer, record, record.ttlMs, record.ageMs)
    if (verdict === 'taken') {
      const bornMs = nowMs - record.ageMs
      this.#entries.set(record.peer, { record, body, bornMs, expiresMs: bornMs + record.ttlMs })
      this.#floors.delete(record.peer)
    }
    return verdict
  }

  /** Drops what has run out. @returns the peers whose record went */
  expire (nowMs: number): string[] {
    const gone: string[] = []
    for (const [peer, { record, expiresMs }] of this.#entries) {
      if (expiresMs > nowMs) continue
      this.#entries.delete(peer)
      this.#floors.set(peer, { epoch: record.epoch, seq: record.seq })
      gone.push(peer)
    }
    for (const peer of this.#floors.keys()) {
      if (this.#floors.size <= this.#maxRecords) break
      this.#floors.delete(peer)
    }
    return gone
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
    const want = [...have.values()].filter(id => this.judge(id.peer, id, 1, 0) === 'taken')
    return { give, want }
  }

  #inPart ({ bucket, buckets }: Part): Array<ViewEntry<T>> {
    const all = [...this.#entries.values()]
    return buckets === 1 ? all : all.filter(({ record }) => bucketOf(record.peer, buckets) === bucket)
  }
}
