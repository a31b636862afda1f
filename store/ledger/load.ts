/** Reads a ledger from its store. */
import { ConflictError } from '../../protocol/core/errors.ts'
import type { ClusterEpoch, Extension, Lease, Replay } from '../../protocol/core/lease/lease.ts'
import { type LedgerState, emptyLedger, extensionId, fillLedger } from '../../protocol/core/lease/state.ts'
import { CorruptRecordError, type Store } from '../store.ts'
import { type Migrations, migrated } from './migrations.ts'
import { BOOT_EPOCH, EXTENSIONS, LEASES, MASTERS, META, type Meta, PREFIX, REPLAYS, TABLES } from './records.ts'
import { readTables } from './tables.ts'
import type { LedgerOptions } from './types.ts'

export interface Loaded { state: LedgerState, meta: Meta | null, bootEpoch: number, tables: Map<string, unknown> }

async function readAll<T> (store: Store, prefix: string, kind: string, keyOf: (value: T) => string, migrations?: Migrations): Promise<T[]> {
  const all: T[] = []
  for await (const entry of store.iterate(prefix)) {
    const value = migrated(entry, kind, migrations) as T
    if (prefix + keyOf(value) !== entry.key) throw new CorruptRecordError(entry.key, `it is the ${kind} ${keyOf(value)}`)
    all.push(value)
  }
  return all
}

/** @throws CorruptRecordError naming the record; ConflictError when it is another host's ledger */
export async function loadLedger ({ store, host, capacity, slice, quotas, migrations }: LedgerOptions): Promise<Loaded> {
  const read = async <T>(key: string): Promise<T | null> => {
    const entry = await store.read(key)
    return entry === undefined ? null : migrated(entry, key.slice(PREFIX.length), migrations) as T
  }
  const state = emptyLedger(host, capacity, slice ?? null)
  if (quotas !== undefined) state.quotas = quotas
  const meta = await read<Meta>(META)
  if (meta !== null) {
    if (meta.host !== host) throw new ConflictError(`the ledger belongs to host ${meta.host}, not to ${host}`, 'each host needs a state folder of its own')
    state.counter = meta.counter
    state.clockMs = meta.clockMs
    state.quarantineUntilMs = meta.quarantineUntilMs
  }
  const records = {
    leases: await readAll<Lease>(store, LEASES, 'lease', lease => lease.id, migrations),
    replays: await readAll<Replay>(store, REPLAYS, 'replay', replay => replay.key, migrations),
    extensions: await readAll<Extension>(store, EXTENSIONS, 'extension', one => extensionId(one.clusterId, one.offerId), migrations),
    epochs: await readAll<ClusterEpoch>(store, MASTERS, 'master', one => one.clusterId, migrations)
  }
  for (const lease of records.leases) {
    if (!(lease.token <= state.counter)) throw new CorruptRecordError(LEASES + lease.id, `lease ${lease.id} with token ${lease.token} does not belong to a ledger at ${state.counter}`)
  }
  fillLedger(state, records)
  state.dueMs = 0
  const tables = await readTables(store, TABLES, migrations)
  return { state, meta, bootEpoch: (await read<{ epoch: number }>(BOOT_EPOCH))?.epoch ?? 0, tables }
}
