/** The log of promises: one record for each event that changed something, in the same write as the change. */
import type { Effect } from '../../protocol/core/lease/events.ts'
import { MAX_HISTORY_KEPT } from '../../protocol/core/limits.ts'
import type { Store, StoreOperation } from '../store.ts'
import { type Migrations, migrated } from './migrations.ts'
import { HISTORY, put } from './records.ts'
import type { HistoryEntry } from './types.ts'

/** Digits that keep the order of the keys the order of the numbers. */
const DIGITS = 16
export const historyKey = (seq: number): string => HISTORY + String(seq).padStart(DIGITS, '0')

/** As it lies in the store. */
export interface HistoryRecord { seq: number, atMs: number, lines: Array<Omit<HistoryEntry, 'seq' | 'atMs'>> }

const nothing = { leaseId: '', offerId: '', kind: '', name: '', endMs: 0, reason: '' }

function lineOf (effect: Effect): HistoryRecord['lines'] {
  switch (effect.effect) {
    case 'lease': {
      const { lease, trigger, from } = effect
      return [{ what: 'lease', clusterId: lease.clusterId, leaseId: lease.id, offerId: lease.offerId, kind: lease.kind, name: lease.name, trigger, from, to: lease.state, token: lease.token, endMs: lease.endMs, reason: lease.endReason }]
    }
    case 'extension': {
      const { extension, trigger, from } = effect
      return [{ ...nothing, what: 'extension', clusterId: extension.clusterId, offerId: extension.offerId, trigger, from, to: extension.state, token: extension.token, endMs: extension.endMs, reason: extension.endReason }]
    }
    case 'epoch': return [{ ...nothing, what: 'epoch', clusterId: effect.epoch.clusterId, trigger: effect.trigger, from: null, to: String(effect.epoch.epoch), token: effect.epoch.token, reason: effect.epoch.holder }]
    default: return []
  }
}

/**
 * What the log gets for an event: its record, and the oldest one gives way.
 *
 * @returns nothing when no promise has changed
 */
export function historyOperations (seq: number, atMs: number, effects: readonly Effect[]): StoreOperation[] {
  const lines = effects.flatMap(lineOf)
  if (lines.length === 0) return []
  const written: StoreOperation[] = [put(historyKey(seq), { seq, atMs, lines } satisfies HistoryRecord)]
  if (seq > MAX_HISTORY_KEPT) written.push({ type: 'delete', key: historyKey(seq - MAX_HISTORY_KEPT) })
  return written
}

/** The latest lines that are meant, oldest first. */
export async function readHistory (store: Store, filter: { clusterId?: string, leaseId?: string, limit?: number }, migrations?: Migrations): Promise<HistoryEntry[]> {
  const { clusterId, leaseId, limit = MAX_HISTORY_KEPT } = filter
  const found: HistoryEntry[] = []
  for await (const entry of store.iterate(HISTORY)) {
    const { seq, atMs, lines } = migrated(entry, 'history', migrations) as HistoryRecord
    for (const line of lines) {
      // What happens to an extension or an epoch concerns every lease of the cluster.
      if (clusterId !== undefined && line.clusterId !== clusterId) continue
      if (leaseId !== undefined && line.leaseId !== leaseId) continue
      found.push({ seq, atMs, ...line })
    }
    if (found.length > 2 * limit) found.splice(0, found.length - limit)
  }
  return limit <= 0 ? [] : found.slice(-limit)
}
