import { MusubiError } from '../protocol/core/errors.ts'

/** Plain JSON data, or bytes. `undefined` inside objects is dropped, as JSON does. */
export type StoreValue = unknown

export interface WriteOptions {
  /** true: the promise resolves when the write is on the disk, and so is everything written before it */
  sync?: boolean
  /** version of the record's shape, kept beside it for migrations; default 1 */
  version?: number
}

export type StoreOperation =
  | { type: 'put', key: string, value: StoreValue, version?: number }
  | { type: 'delete', key: string }

export interface StoreEntry<T> { key: string, value: T, version: number }

/**
 * A small ordered key-value store. Keys are non-empty strings, ordered by code unit of UTF-8.
 * Writes take effect in the order of the calls; a batch is all or nothing, also in a crash.
 *
 * After a failed write all writes fail until `reopen`: see there.
 *
 * Contract: test/contract/store.ts runs against every implementation.
 */
export interface Store {
  /** @throws CorruptRecordError naming the key */
  get<T = StoreValue>(key: string): Promise<T | undefined>
  /** As `get`, with the version that the record was written with. */
  read<T = StoreValue>(key: string): Promise<StoreEntry<T> | undefined>
  put (key: string, value: StoreValue, options?: WriteOptions): Promise<void>
  /** Unknown keys are no error. */
  delete (key: string, options?: { sync?: boolean }): Promise<void>
  batch (operations: readonly StoreOperation[], options?: { sync?: boolean }): Promise<void>
  /**
   * Entries whose key starts with the prefix, in the order of the keys, as of the call.
   *
   * @param onDamaged told of records that cannot be read, which are then left out; without it they are thrown
   */
  iterate<T = StoreValue>(prefix: string, onDamaged?: (damage: CorruptRecordError) => void): AsyncIterable<StoreEntry<T>>
  /**
   * Goes on after a failed write: closes what is under the store and opens it again, so that reads say
   * what the disk has. From the failure on, and until then, every write fails: nothing is appended
   * behind a torn record, and nothing is written that was decided on what is not there. Does nothing
   * when no write has failed.
   *
   * @throws when it cannot be opened; may be called again
   */
  reopen (): Promise<void>
  /** Finishes what is under way, then closes; later calls fail with STORE_CLOSED. */
  close (): Promise<void>
}

/** A record that is there and cannot be read. Nothing is guessed: the operator decides. */
export class CorruptRecordError extends MusubiError {
  override readonly name = 'CorruptRecordError'
  readonly key: string
  constructor (key: string, why: string, cause?: unknown) {
    super('CORRUPT_RECORD', `record "${key}" of the store is damaged: ${why}`, { hint: 'restore the state folder from a copy, or remove the record if it can be rebuilt', cause })
    this.key = key
  }
}

export const closedError = (): MusubiError => new MusubiError('STORE_CLOSED', 'the store is closed')
