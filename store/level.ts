import { mkdir } from 'node:fs/promises'
import { Level } from 'level'
import { MusubiError } from '../protocol/core/errors.ts'
import { decodeRecord, encodeRecord } from './envelope.ts'
import { createGroupCommit } from './group-commit.ts'
import { type Store, type StoreOperation, closedError } from './store.ts'

type RawOperation = { type: 'put', key: string, value: Uint8Array } | { type: 'del', key: string }

const causeCode = (error: unknown): unknown => ((error as { cause?: { code?: unknown } }).cause)?.code

function openError (folder: string, error: unknown): MusubiError {
  const code = causeCode(error)
  if (code === 'LEVEL_LOCKED') return new MusubiError('STORE_LOCKED', `the store in ${folder} is in use by another process`, { hint: 'is a second agent running with the same state folder?', cause: error })
  if (code === 'LEVEL_CORRUPTION') return new MusubiError('STORE_CORRUPT', `the store in ${folder} is damaged: ${String((error as { cause?: unknown }).cause)}`, { hint: 'restore the folder from a copy; a ledger that is lost must be declared', cause: error })
  return new MusubiError('STORE_UNUSABLE', `the store in ${folder} cannot be opened: ${String((error as { cause?: unknown }).cause ?? error)}`, { cause: error })
}

const raw = (op: StoreOperation): RawOperation =>
  op.type === 'put' ? { type: 'put', key: op.key, value: encodeRecord(op.key, op.value, op.version ?? 1) } : { type: 'del', key: op.key }

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
  return createLevelStore(db)
}

/** What of a level database is used: records by key, synced batches, ranges. */
export interface LevelDatabase {
  get (key: string): Promise<Uint8Array | undefined>
  batch (operations: RawOperation[], options: { sync: boolean }): Promise<void>
  iterator (range: { gte: string }): AsyncIterable<[string, Uint8Array]> & { close (): Promise<void> }
  close (): Promise<void>
}

/** The store on a database that is open. */
export function createLevelStore (db: LevelDatabase): Store {
  const writer = createGroupCommit<RawOperation>((operations, sync) => db.batch(operations, { sync }))
  let closing: Promise<void> | null = null

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
      const record = await db.get(key)
      return record === undefined ? undefined : decodeRecord<T>(key, record)
    },
    put: (key, value, options = {}) => write([{ type: 'put', key, value, version: options.version ?? 1 }], options.sync),
    delete: (key, options = {}) => write([{ type: 'delete', key }], options.sync),
    batch: (operations, options = {}) => write(operations, options.sync),
    iterate<T> (prefix: string) {
      if (closing !== null) throw closedError()
      // Made here, not at the first step: the iterator sees the store as of this call.
      const iterator = db.iterator({ gte: prefix })
      return (async function * () {
        try {
          for await (const [key, record] of iterator) {
            if (!key.startsWith(prefix)) return
            yield decodeRecord<T>(key, record)
          }
        } finally {
          await iterator.close()
        }
      })()
    },
    close () {
      closing ??= (async () => {
        await writer.idle()
        await db.close()
      })()
      return closing
    }
  }
  return store
}
