import { MusubiError } from '../../protocol/core/errors.ts'
import type { StoreEntry } from '../store.ts'

/** Version of the ledger's records as this release writes them. */
export const RECORD_VERSION = 2

/**
 * Upgrades by kind of record (`meta`, `epoch`, `lease`, `replay`, ..., or the name of a table): the
 * function at index v turns a record of version v into one of version v + 1. Records are upgraded
 * when they are read and written back in the new form when they next change.
 */
export type Migrations = Record<string, Record<number, (value: unknown) => unknown>>

type Fields = Record<string, unknown>
const fieldsOf = (value: unknown): Fields => typeof value === 'object' && value !== null ? value as Fields : {}
const listOf = (value: unknown): Fields[] => Array.isArray(value) ? value.map(fieldsOf) : []

/** Version 2 counts volumes and bandwidth, and knows advance reservations, epochs and extensions. */
const fromOne: Record<string, (value: unknown) => unknown> = {
  meta: value => ({ mark: null, historySeq: 0, quarantineUntilMs: 0, ...fieldsOf(value) }),
  lease (value) {
    const lease = fieldsOf(value)
    return { ...lease, resources: { ...fieldsOf(lease['resources']), volumes: lease['kind'] === 'volume' ? 1 : 0, bandwidthMbit: 0 }, confirmByMs: 0 }
  },
  replay: value => ({ ...fieldsOf(value), kind: 'hold', asked: '' }),
  document (value) {
    const record = fieldsOf(value)
    const document = fieldsOf(record['document'])
    return {
      ...record,
      document: { ...document, sites: listOf(document['sites']).map(site => ({ ...site, leaseId: '' })), version: 1, startMs: document['createdMs'] }
    }
  }
}
const unchanged = (value: unknown): unknown => value

/** Upgrades that this release knows. What is not named has not changed. */
const known = (kind: string, version: number): ((value: unknown) => unknown) | undefined =>
  version === 1 ? fromOne[kind] ?? unchanged : undefined

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
    const upgrade = migrations[kind]?.[version] ?? known(kind, version)
    if (upgrade === undefined) throw new MusubiError('RECORD_TOO_OLD', `record "${entry.key}" has version ${version} and nothing turns it into ${version + 1}`)
    value = upgrade(value)
  }
  return value
}
