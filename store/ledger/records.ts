/** How a ledger lies in its store: keys, and what each effect of the lease machine writes. */
import type { Effect } from '../../protocol/core/lease/events.ts'
import { extensionId } from '../../protocol/core/lease/state.ts'
import type { ClockMark } from '../clock.ts'
import type { StoreOperation } from '../store.ts'
import { RECORD_VERSION } from './migrations.ts'

/** Everything of the ledger lies under this prefix; the rest of the store belongs to others. */
export const PREFIX = 'ledger/'
export const META = `${PREFIX}meta`
/** of the agent's starts; who is master of a cluster is under `MASTERS` */
export const BOOT_EPOCH = `${PREFIX}epoch`
export const LEASES = `${PREFIX}lease/`
export const REPLAYS = `${PREFIX}replay/`
export const EXTENSIONS = `${PREFIX}extension/`
export const MASTERS = `${PREFIX}master/`
export const HISTORY = `${PREFIX}history/`
export const TABLES = `${PREFIX}table/`

export interface Meta {
  host: string
  counter: number
  clockMs: number
  bootId: string
  /** null when it was written without a clock of its own */
  mark: ClockMark | null
  /** number of the last record of the history */
  historySeq: number
  quarantineUntilMs: number
}

/** As it is after it was written and read: plain data without what JSON leaves out. */
export const asOnDisk = <T>(value: T): T => JSON.parse(JSON.stringify(value)) as T

export const put = (key: string, value: unknown): StoreOperation => ({ type: 'put', key, value, version: RECORD_VERSION })

export function operationOf (effect: Effect): StoreOperation {
  switch (effect.effect) {
    case 'lease': return put(LEASES + effect.lease.id, effect.lease)
    case 'forget': return { type: 'delete', key: LEASES + effect.leaseId }
    case 'replay': return put(REPLAYS + effect.replay.key, effect.replay)
    case 'forget-replay': return { type: 'delete', key: REPLAYS + effect.key }
    case 'extension': return put(EXTENSIONS + extensionId(effect.extension.clusterId, effect.extension.offerId), effect.extension)
    case 'forget-extension': return { type: 'delete', key: EXTENSIONS + extensionId(effect.clusterId, effect.offerId) }
    case 'epoch': return put(MASTERS + effect.epoch.clusterId, effect.epoch)
    case 'forget-epoch': return { type: 'delete', key: MASTERS + effect.clusterId }
  }
}
