import { mkdir } from 'node:fs/promises'
import { Level } from 'level'
import { MusubiError } from '../protocol/core/errors.ts'
import { decodeRecord, encodeRecord } from './envelope.ts'
import { type Store, type StoreOperation, closedError } from './store.ts'

/** Writes that one disk sync may carry; more wait for the next. Bounds memory and latency of a group. */
const MAX_GROUP_WRITES = 1024
/** Writes that may wait; beyond this the disk does not keep up and callers are told. */
const MAX_WAITING_WRITES = 16_384

type RawOperation = { type: 'put', key: string, value: Uint8Array } | { type: 'del', key: string }
interface Write { operations: RawOperation[], sync: boolean, resolve: () => void, reject: (error: unknown) => void }

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
 * Opens, or creates with mode 0700, a store in a folder. Concurrent writes are grouped: while one
 * sync is under way the next writes gather and share the following one, in the order of the calls.
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

  const waiting: Write[] = []
  let draining: Promise<void> | null = null
  let closing: Promise<void> | null = null

  async function drain (): Promise<void> {
    while (waiting.length > 0) {
      const group = waiting.splice(0, MAX_GROUP_WRITES)
      const options = { sync: group.some(write => write.sync) }
      try {
        await db.batch(group.flatMap(write => write.operations), options)
        for (const write of group) write.resolve()
      } catch (error) {
        const failure = new MusubiError('STORE_WRITE_FAILED', `writing to the store in ${folder} failed: ${String(error)}`, { cause: error })
        for (const write of group) write.reject(failure)
      }
    }
    draining = null
  }

  const write = (operations: readonly StoreOperation[], sync = false): Promise<void> => {
    if (closing !== null) return Promise.reject(closedError())
    if (waiting.length >= MAX_WAITING_WRITES) return Promise.reject(new MusubiError('BUSY', `the store in ${folder} has ${waiting.length} writes waiting`, { retryable: true }))
    return new Promise((resolve, reject) => {
      waiting.push({ operations: operations.map(raw), sync, resolve, reject })
      draining ??= drain()
    })
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
        await draining
        await db.close()
      })()
      return closing
    }
  }
  return store
}
