/** What goes into a host's ledger and what comes out. Plain data. */
import type { MusubiError } from '../errors.ts'
import type { HostExtendRequest } from '../gateway/events.ts'
import type { HoldRequest, Receipt } from '../messages.ts'
import type { Answer, ClusterEpoch, Extension, Lease, Replay } from './lease.ts'
import type { EpochTrigger, ExtensionState, ExtensionTrigger, LeaseState, LeaseTrigger } from './tables.ts'

/** An `epoch` of 0, or none, is not checked: the operator, or the own gateway's clean-up. */
export type LeaseEvent =
  /** `requester` is the peer on whose behalf it is held, as proved by the connection */
  | { type: 'hold', request: HoldRequest, requester: string }
  | { type: 'extend', request: HostExtendRequest, requester: string }
  | { type: 'commit', clusterId: string, offerId: string, epoch?: number }
  /** `receipts`: of all members; those of this host must be among them */
  | { type: 'activate', clusterId: string, receipts: readonly Receipt[], epoch?: number }
  /** `offerId`: what that offer holds, leases or an extension; `leaseIds`: only these; neither: everything */
  | { type: 'release', clusterId: string, reason: string, offerId?: string, leaseIds?: readonly string[], epoch?: number }
  /** the lender's operator ends everything of a cluster */
  | { type: 'revoke', clusterId: string, reason: string }
  /** the lender has given a cluster notice: its leases end by `endMs`. `seq` grows with every notice of it and every one that is withdrawn for good */
  | { type: 'curtail', clusterId: string, seq: number, endMs: number, reason: string }
  /** the notice `seq` is withdrawn: the former ends again, if they are still free */
  | { type: 'restore', clusterId: string, seq: number, endMs?: number }
  /** `holder`: who is master in this epoch, as the gateway has verified it; '' when it does not say */
  | { type: 'keepAlive', clusterId: string, epoch: number, holder: string }
  /** a new master asks the anchor host for a higher epoch */
  | { type: 'claim', clusterId: string, epoch: number, holder: string, force: boolean }
  /**
   * What has ended of this cluster is gone from the host. `seenCounter` is the ledger's counter when
   * the host looked: leases that ended later are not meant.
   */
  | { type: 'vacate', clusterId: string, seenCounter?: number }
  /** time passes */
  | { type: 'tick' }
  /** the host has booted: durations start again, because nobody knows how long it was off */
  | { type: 'restart' }

export type EventOf<T extends LeaseEvent['type']> = Extract<LeaseEvent, { type: T }>

/** What changed, in order; the ledger writes it down, then the agent acts on it. */
export type Effect =
  | { effect: 'lease', lease: Lease, from: LeaseState | null, trigger: LeaseTrigger }
  | { effect: 'forget', leaseId: string }
  | { effect: 'replay', replay: Replay }
  | { effect: 'forget-replay', key: string }
  | { effect: 'extension', extension: Extension, from: ExtensionState | null, trigger: ExtensionTrigger }
  | { effect: 'forget-extension', clusterId: string, offerId: string }
  | { effect: 'epoch', epoch: ClusterEpoch, trigger: EpochTrigger }
  | { effect: 'forget-epoch', clusterId: string }

export type Result = { ok: true, answer: Answer } | { ok: false, error: MusubiError }
export interface Outcome { effects: Effect[], result: Result }

export const answerWith = (part: Partial<Answer>): Answer => ({ receipts: [], segmentId: 0, ended: 0, replay: false, ...part })
