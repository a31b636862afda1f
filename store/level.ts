import { mkdir } from 'node:fs/promises'
import { Level } from 'level'
import { MusubiError } from '../protocol/core/errors.ts'
import { decodeOr, encodeRecord } from './envelope.ts'
import { createGroupCommit } from './group-commit.ts'
import { type CorruptRecordError, type Store, type StoreEntry, type StoreOperation, type StoreValue, closedError } from './store.ts'

type RawOperation = { type: 'put', key: string, value: Uint8Array } | { type: 'del', key: string }

const causeCode = (error: unknown): unknown => ((error as { cause?: { code?: unknown } }).cause)?.code

function openError (folder: string, error: unknown): MusubiError {
  const code = causeCode(error)
  if (code === 'LEVEL_LOCKED') return new MusubiError('STORE_LOCKED', `the store in ${folder} is in use by another process`, { hint: 'is a second agent running with the same state folder?', cause: error })
  if (code === 'LEVEL_CORRUPTION') return new MusubiError('STORE_CORRUPT', `the store in ${folder} is damaged: ${String((error as { cause?: unknown }).cause)}`, { hint: 'restore the folder from a copy; a ledger that is lost must be declared', cause: error })
  return new MusubiError('STORE_UNUSABLE', `the store in ${folder} cannot be opened: ${String((error as { cause?: unknown }).cause ?? error)}`, { cause: error })
}

/** How values become bytes. Another one is of use only to whoever simulates millions of writes. */
export interface RecordCodec {
  encode (key: string, value: StoreValue, version: number): Uint8Array
  decode<T>(key: string, bytes: Uint8Array, onDamaged?: (damage: CorruptRecordError) => void): StoreEntry<T> | null
}

const envelope: RecordCodec = { encode: encodeRecord, decode: decodeOr }

/**
 * Opens, or creates with mode 0700, a store in a folder. Concurrent writes share syncs,
 * see `createGroupCommit`.
 *
 * @throws MusubiError STORE_LOCKED, STORE_CORRUPT or STORE_UNUSABLE, naming the folder
 */
export async function openLevelStore (folder: string): Promise<Store> {
  const db = new Level<string, Uint8Array>(folder, { keyEncoding: 'utf8', valueEncoding: 'view' })
  try {
    await mkdir(folder, { recursive: true, mode: 0o700 })
    await db.open()
  } catch (error) {
    throw openError(folder, error)
  }
  return createLevelStore(db, folder)
}

/** What of a level database is used: records by key, synced batches, ranges. */
export interface LevelDatabase {
  get (key: string): Promise<Uint8Array | undefined>
  batch (operations: RawOperation[], options: { sync: boolean }): Promise<void>
  iterator (range: { gte: string }): AsyncIterable<[string, Uint8Array]> & { close (): Promise<void> }
  open (): Promise<void>
  close (): Promise<void>
}

/** The store on a database that is open. @param folder for messages */
export function createLevelStore (db: LevelDatabase, folder = 'memory', codec: RecordCodec = envelope): Store {
  const raw = (op: StoreOperation): RawOperation =>
    op.type === 'put' ? { type: 'put', key: op.key, value: codec.encode(op.key, op.value, op.version ?? 1) } : { type: 'del', key: op.key }
  const writer = createGroupCommit<RawOperation>((operations, sync) => db.batch(operations, { sync }))
  let closing: Promise<void> | null = null
  let reopening: Promise<void> | null = null

  async function reopen (): Promise<void> {
    try {
      await writer.idle()
      await db.close()
      await db.open()
      writer.resume()
    } catch (error) {
      throw openError(folder, error)
    } finally {
      reopening = null
    }
  }

  // Async, so that an operation that cannot be encoded is a rejection.
  const write = async (operations: readonly StoreOperation[], sync = false): Promise<void> => {
    if (closing !== null) throw closedError()
    await writer.write(operations.map(raw), sync)
  }

  const store: Store = {
    async get<T> (key: string) {
      return (await store.read<T>(key))?.value
    },
    async read<T> (key: string) {
      if (closing !== null) throw closedError()
      if (reopening !== null) await reopening
      const record = await db.get(key)
      return record === undefined ? undefined : codec.decode<T>(key, record) ?? undefined
    },
    put: (key, value, options = {}) => write([{ type: 'put', key, value, version: options.version ?? 1 }], options.sync),
    delete: (key, options = {}) => write([{ type: 'delete', key }], options.sync),
    batch: (operations, options = {}) => write(operations, options.sync),
    iterate<T> (prefix: string, onDamaged?: (damage: CorruptRecordError) => void) {
      if (closing !== null) throw closedError()
      // Made here, not at the first step: the iterator sees the store as of this call.
      const begun = reopening === null ? db.iterator({ gte: prefix }) : null
      return (async function * () {
        if (begun === null) await reopening
        const iterator = begun ?? db.iterator({ gte: prefix })
        try {
          for await (const [key, record] of iterator) {
            if (!key.startsWith(prefix)) return
            const entry = codec.decode<T>(key, record, onDamaged)
            if (entry !== null) yield entry
          }
        } finally {
          await iterator.close()
        }
      })()
    },
    reopen () {
      if (closing !== null) return Promise.reject(closedError())
      if (writer.failure() !== null) reopening ??= reopen()
      return reopening ?? Promise.resolve()
    },
    close () {
      closing ??= (async () => {
        await reopening?.catch(() => undefined)
        await writer.idle()
        await db.close()
      })()
      return closing
    }
  }
  return store
}
