import { MusubiError } from '../protocol/core/errors.ts'
import type { StoreEntry } from './store.ts'

/** Version of the ledger's records as this release writes them. */
export const RECORD_VERSION = 1

/**
 * Upgrades by kind of record (`meta`, `epoch`, `lease`, `replay`, or the name of a table): the
 * function at index v turns a record of version v into one of version v + 1. Records are upgraded
 * when they are read and written back in the new form when they next change.
 */
export type Migrations = Record<string, Record<number, (value: unknown) => unknown>>

/**
 * The value of a record in today's form.
 *
 * @throws MusubiError RECORD_TOO_NEW, or RECORD_TOO_OLD when a step is missing, naming the key
 */
export function migrated (entry: StoreEntry<unknown>, kind: string, migrations: Migrations = {}): unknown {
  if (entry.version > RECORD_VERSION) {
    throw new MusubiError('RECORD_TOO_NEW', `record "${entry.key}" was written by a newer release (version ${entry.version}, known is ${RECORD_VERSION})`, { hint: 'install that release again; nothing was changed' })
  }
  let { value } = entry
  for (let version = entry.version; version < RECORD_VERSION; version++) {
    const upgrade = migrations[kind]?.[version]
    if (upgrade === undefined) throw new MusubiError('RECORD_TOO_OLD', `record "${entry.key}" has version ${version} and nothing turns it into ${version + 1}`)
    value = upgrade(value)
  }
  return value
}
