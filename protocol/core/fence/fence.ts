/**
 * The helper's fence: what may be done to a resource, judged by the counter of the ledger at which it
 * was decided. Engines (libvirt, targets, WireGuard) check no tokens, so this is where a command that
 * was decided earlier, and arrives later, is stopped. Pure.
 */

/** `granted`: may run for the cluster; `revoking`: being stopped; `gone`: found to be gone, free for another cluster. */
export type FenceState = 'granted' | 'revoking' | 'gone'
export type FenceTrigger = 'grant' | 'revoke' | 'gone' | 'expire'

export interface FenceTransition { from: FenceState | null, trigger: FenceTrigger, to: FenceState, when: string }

/** The whole state machine; null is a resource never heard of. */
export const fenceTransitions: readonly FenceTransition[] = [
  { from: null, trigger: 'grant', to: 'granted', when: 'the counter is newer than that of anything forgotten' },
  { from: null, trigger: 'revoke', to: 'revoking', when: 'something may be there that this helper has no record of' },
  { from: 'gone', trigger: 'grant', to: 'granted', when: 'the counter is newer than that of the revocation' },
  { from: 'granted', trigger: 'grant', to: 'granted', when: 'again for the same cluster, with a counter that is not older' },
  { from: 'granted', trigger: 'revoke', to: 'revoking', when: 'the counter is not older' },
  { from: 'granted', trigger: 'expire', to: 'revoking', when: 'its end and the guard have passed, whether or not the agent lives' },
  { from: 'revoking', trigger: 'revoke', to: 'revoking', when: 'again: stopping is tried again' },
  { from: 'revoking', trigger: 'gone', to: 'gone', when: 'the engine was looked at and has it no more' },
  { from: 'gone', trigger: 'revoke', to: 'gone', when: 'again: nothing to do' }
]

/** Never changed in place. */
export interface FenceRecord {
  /** as drivers name it, `<kind> <name>`: one holder at a time */
  readonly resource: string
  readonly state: FenceState
  readonly clusterId: string
  /** highest counter seen for this resource */
  readonly counter: number
  /** end of the lease, Unix ms on the ledger clock; of what is gone: when that was seen */
  readonly endMs: number
}

export interface FenceStore {
  readonly records: Map<string, FenceRecord>
  /** highest counter of a record that was forgotten: of a resource never heard of nothing older counts */
  floor: number
}

export type FenceEvent =
  | { type: 'grant', resource: string, clusterId: string, counter: number, endMs: number }
  | { type: 'revoke', resource: string, clusterId: string, counter: number }
  /** the engine was looked at after a revoke and does not have it */
  | { type: 'gone', resource: string, counter: number }
  | { type: 'tick' }

export type FenceEffect =
  | { effect: 'save', record: FenceRecord }
  | { effect: 'forget', resource: string }
  /** `floor` as it is from now on; written together with what is forgotten */
  | { effect: 'floor', counter: number }
  /** only after the save is on the disk */
  | { effect: 'start', resource: string, clusterId: string, counter: number }
  | { effect: 'stop', resource: string, clusterId: string, counter: number }
