/**
 * Records that are kept as they are instead of as bytes: in most schedules, because bytes would take a
 * quarter of the time. In one of REAL_CODEC_EVERY they are bytes, as on a real disk.
 */
import { decodeRecord } from '../../../store/envelope.ts'
import type { RecordCodec } from '../../../store/level.ts'
import type { StoreEntry } from '../../../store/store.ts'

export const REAL_CODEC_EVERY = 32

class Kept {
  readonly value: unknown
  readonly version: number
  constructor (value: unknown, version: number) {
    this.value = value
    this.version = version
  }
}

/** Nobody changes records in place; whoever does is found by the schedules with bytes. */
export const plainCodec: RecordCodec = {
  encode: (_key, value, version) => new Kept(value, version) as unknown as Uint8Array,
  decode<T> (key: string, bytes: Uint8Array): StoreEntry<T> {
    const { value, version } = bytes as unknown as Kept
    return { key, value: value as T, version }
  }
}

const decoded = new WeakMap<Uint8Array, object>()
/** A record as it lies on a disk; the same bytes give the same object. */
// eslint-disable-next-line @typescript-eslint/no-unnecessary-type-parameters -- what a key's record is, only the reader knows
export function valueOf<T> (key: string, bytes: Uint8Array | undefined): T | null {
  if (bytes === undefined) return null
  if ((bytes as unknown) instanceof Kept) return (bytes as unknown as Kept).value as T
  let value = decoded.get(bytes)
  if (value === undefined) decoded.set(bytes, value = decodeRecord<object>(key, bytes).value)
  return value as T
}
