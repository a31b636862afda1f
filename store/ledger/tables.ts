import type { Store, StoreOperation } from '../store.ts'
import { type Migrations, RECORD_VERSION, migrated } from './migrations.ts'

/** Records of one kind by key: read from memory, written to the disk before they are seen. */
export interface Table<T> {
  get (key: string): T | undefined
  /** In the order of the keys. */
  list (): T[]
  /** Resolves when it is on the disk. */
  put (key: string, value: T): Promise<void>
  delete (key: string): Promise<void>
}

export interface Tables {
  table<T>(name: string, write: (operation: StoreOperation) => Promise<void>): Table<T>
  /** Takes over operations that are on the disk; those on other keys are left alone. */
  written (operations: readonly StoreOperation[]): void
  /** Takes over what has been read from the disk, see `readTables`. Tables that were given out show it. */
  reset (records: ReadonlyMap<string, unknown>): void
}

/** Key of a record: table names contain no slash, keys may. */
export const tableKey = (prefix: string, name: string, key: string): string => `${prefix}${name}/${key}`

/** Reads all tables under a prefix. @throws CorruptRecordError */
export async function readTables (store: Store, prefix: string, migrations?: Migrations): Promise<Map<string, unknown>> {
  const records = new Map<string, unknown>()
  for await (const entry of store.iterate(prefix)) {
    const name = entry.key.slice(prefix.length).split('/')[0] ?? ''
    records.set(entry.key, migrated(entry, name, migrations))
  }
  return records
}

export function createTables (prefix: string): Tables {
  const records = new Map<string, unknown>()
  return {
    written (operations) {
      for (const operation of operations) {
        if (!operation.key.startsWith(prefix)) continue
        if (operation.type === 'delete') records.delete(operation.key)
        // A copy, as the disk has it: what the caller does to its object later must not show.
        else records.set(operation.key, JSON.parse(JSON.stringify(operation.value)))
      }
    },
    reset (fresh) {
      records.clear()
      for (const [key, value] of fresh) records.set(key, value)
    },
    table<T> (name: string, write: (operation: StoreOperation) => Promise<void>): Table<T> {
      const mine = tableKey(prefix, name, '')
      return {
        get: key => records.get(mine + key) as T | undefined,
        list: () => [...records].filter(([key]) => key.startsWith(mine)).sort(([a], [b]) => a < b ? -1 : 1).map(([, value]) => value as T),
        put: (key, value) => write({ type: 'put', key: mine + key, value, version: RECORD_VERSION }),
        delete: key => write({ type: 'delete', key: mine + key })
      }
    }
  }
}
