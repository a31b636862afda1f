import { decodeOr, decodeRecord, encodeRecord } from './envelope.ts'
import { type CorruptRecordError, type Store, type StoreOperation, closedError } from './store.ts'

const compare = (a: string, b: string): number => Buffer.compare(Buffer.from(a), Buffer.from(b))

/** A store that lasts as long as the process. Values are kept encoded, so nobody shares an object with it. */
export function createMemoryStore (): Store {
  const records = new Map<string, Uint8Array>()
  let closed = false

  const write = (operations: readonly StoreOperation[]): Promise<void> => {
    if (closed) return Promise.reject(closedError())
    try {
      const encoded = operations.map(op => ({ key: op.key, record: op.type === 'put' ? encodeRecord(op.key, op.value, op.version ?? 1) : null }))
      for (const { key, record } of encoded) {
        if (record === null) records.delete(key)
        else records.set(key, record)
      }
      return Promise.resolve()
    } catch (error) {
      return Promise.reject(error instanceof Error ? error : new Error(String(error)))
    }
  }

  const store: Store = {
    async get<T> (key: string) {
      return (await store.read<T>(key))?.value
    },
    // Async so that a damaged record is a rejection, never a throw.
    async read<T> (key: string) {
      if (closed) throw closedError()
      const record = records.get(key)
      return record === undefined ? undefined : await Promise.resolve(decodeRecord<T>(key, record))
    },
    put: (key, value, options = {}) => write([{ type: 'put', key, value, version: options.version ?? 1 }]),
    delete: key => write([{ type: 'delete', key }]),
    batch: operations => write(operations),
    iterate<T> (prefix: string, onDamaged?: (damage: CorruptRecordError) => void) {
      if (closed) throw closedError()
      const snapshot = [...records].filter(([key]) => key.startsWith(prefix)).sort(([a], [b]) => compare(a, b))
      return (async function * () {
        for (const [key, record] of snapshot) {
          const entry = await Promise.resolve(decodeOr<T>(key, record, onDamaged))
          if (entry !== null) yield entry
        }
      })()
    },
    // Its writes do not fail halfway, so there is nothing to read anew.
    reopen: () => closed ? Promise.reject(closedError()) : Promise.resolve(),
    close () {
      closed = true
      return Promise.resolve()
    }
  }
  return store
}
