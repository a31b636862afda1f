import type { ClusterState, Phases } from '../../protocol/api.ts'
import type { MasterRecord } from '../../protocol/core/master/record.ts'

/**
 * What a master shows of a cluster beside its record: phases, first ping, how its nodes do. Kept for
 * people; nothing is decided on it, so a crash may lose the latest of it.
 */
export interface ClusterNotes {
  id: string
  /** how an active cluster does */
  health: 'building' | 'ready' | 'degraded'
  phases: Record<string, Phases>
  /** phase after which a node reported a failure */
  failures: Record<string, string>
  rttMs: number
  firstPingMs: number | null
  mtuInner: number
  readyMs: number | null
  deleteStartedMs: number | null
}

/** A cluster as people see it: what was decided, and what is seen of it. */
export type ClusterRecord = Omit<MasterRecord, 'state'> & Omit<ClusterNotes, 'health'> & { state: ClusterState }

export const noPhases = (): Phases => ({ leased: null, defined: null, dhcp: null, boot: null, image: null, ready: null })

export const newNotes = (id: string): ClusterNotes =>
  ({ id, health: 'building', phases: {}, failures: {}, rttMs: 0, firstPingMs: null, mtuInner: 0, readyMs: null, deleteStartedMs: null })

export const isEnded = (state: ClusterState): boolean => state === 'deleted' || state === 'failed' || state === 'superseded'

/**
 * The states of the protocol in the words that people know.
 *
 * @param now ledger clock, Unix ms
 */
export function shownState ({ state, startMs }: Pick<MasterRecord, 'state' | 'startMs'>, health: ClusterNotes['health'], now: number): ClusterState {
  switch (state) {
    case 'activating': return now < startMs ? 'reserved' : state
    case 'active': return health
    case 'releasing': return 'deleting'
    case 'ended': return 'deleted'
    default: return state
  }
}

/** @param now ledger clock, Unix ms */
export function clusterRecord (record: MasterRecord, notes: ClusterNotes, now: number): ClusterRecord {
  const { health, ...seen } = notes
  return { ...record, ...seen, state: shownState(record, health, now) }
}
