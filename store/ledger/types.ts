/** What the ledger of a host can do, and what it is opened with. */
import type { Resources } from '../../protocol/core/capacity.ts'
import type { MusubiError } from '../../protocol/core/errors.ts'
import type { HostExtendRequest } from '../../protocol/core/gateway/events.ts'
import type { Slice } from '../../protocol/core/ids.ts'
import type { Answer, Lease, LeaseState } from '../../protocol/core/lease/lease.ts'
import type { Quotas, ReadonlyLedgerState } from '../../protocol/core/lease/state.ts'
import type { Effect } from '../../protocol/core/lease/step.ts'
import type { ClusterDocument, HoldRequest, Receipt, Secret } from '../../protocol/core/messages.ts'
import type { ClockInputs } from '../clock.ts'
import type { Store } from '../store.ts'
import type { Migrations } from './migrations.ts'
import type { Table } from './tables.ts'

/** A cluster as this host runs it, with the secrets of its volumes here. */
export interface DocumentRecord { document: ClusterDocument, secrets: Secret[] }

export interface LedgerOptions {
  store: Store
  /**
   * The clocks that the ledger clock is made of. It continues over starts within one boot, and takes
   * the wall clock as it is when nothing that it promised depends on time.
   */
  clock?: ClockInputs
  /** instead of `clock`: a clock that is the ledger clock already, Unix ms */
  now?: () => number
  /** with `now`: why no new promises are made now, e.g. after a jump of the clock; null when they are */
  frozen?: () => string | null
  /** with `now`: changes with every boot of the machine: holds then get their full time again */
  bootId?: string
  /** a ledger belongs to one host, and refuses to be opened by another */
  host: string
  capacity: Resources
  /** segment ids that this gateway may give out */
  slice?: Slice
  /** what each site may borrow, see `quotaFor` */
  quotas?: Quotas
  /**
   * No segment id is given out before this moment, Unix ms: the ledger before this one was lost, and
   * ids that it gave out may still be in use. Kept durably; a later moment wins.
   */
  quarantineUntilMs?: number
  migrations?: Migrations
}

/** Which of a cluster's leases end; without `offerId` and `leaseIds` all of them. */
export interface ReleaseScope { offerId?: string, leaseIds?: readonly string[], epoch?: number }

/** What a host says to a keep-alive. */
export interface KeepAliveAnswer {
  state: LeaseState | ''
  /** latest end of the live leases, 0 without any */
  endMs: number
  /** highest epoch that is known here, 0 when none is */
  epoch: number
  nowMs: number
}

/** One line of the log of promises, kept in the same write as the promise itself. */
export interface HistoryEntry {
  /** of the event; several lines may have the same */
  seq: number
  atMs: number
  /** `lease`, `extension` or `epoch` */
  what: 'lease' | 'extension' | 'epoch'
  clusterId: string
  /** of a lease; '' otherwise */
  leaseId: string
  offerId: string
  kind: string
  name: string
  /** as in the tables of transitions */
  trigger: string
  from: string | null
  to: string
  /** fencing token of the change */
  token: number
  endMs: number
  /** why it ended, or who became master */
  reason: string
}

/**
 * The durable record of what one host has promised. A promise that it returns is resolved only when
 * the change is on the disk; while one change is being synced the next ones gather behind it.
 *
 * Every method may reject with LEDGER_FAILED (retryable): a write has failed. The ledger then reads
 * its state from the disk anew, as `tick` is called, and goes on.
 * An epoch of 0, or none, is not checked: for the operator and for the own gateway's clean-up.
 */
export interface Ledger {
  /**
   * @param requester peer on whose behalf it is held, default the master's
   * @throws NoCapacityError, ConflictError, STALE_EPOCH, QUOTA_EXCEEDED, FROZEN
   */
  hold (request: HoldRequest, requester?: string): Promise<Answer>
  /** Commits what an offer holds: leases, or an extension of leases. */
  commit (clusterId: string, offerId: string, epoch?: number): Promise<Answer>
  /** Holds a later end for leases of a cluster; it is theirs once `offerId` is committed. */
  extend (request: HostExtendRequest, requester?: string): Promise<Answer>
  /**
   * Makes committed leases active and keeps the document in the same write. A document with a higher
   * version takes the place of the one that is active.
   *
   * @throws ConflictError when a receipt of any member is missing: nothing starts unless all have committed;
   * or when the cluster is active with another document of the same or a higher version
   */
  activate (clusterId: string, receipts: readonly Receipt[], record?: DocumentRecord, epoch?: number): Promise<Answer>
  /**
   * Ends leases. With the offer of an extension that was committed: the leases go back to their former
   * end.
   */
  release (clusterId: string, reason: string, scope?: ReleaseScope): Promise<Answer>
  /** The lender's operator ends all leases of a cluster. */
  revoke (clusterId: string, reason: string): Promise<Answer>
  /**
   * The leases of a cluster end by `endMs`, as its gateway has given it notice under the number `seq`.
   *
   * @returns the latest end of its live leases, Unix ms; 0: there are none
   * @throws TOO_SOON, STALE_NOTICE, FROZEN
   */
  curtail (request: { clusterId: string, seq: number, endMs: number, reason: string }): Promise<{ endMs: number }>
  /**
   * Takes a notice back: the leases have their former ends again.
   *
   * @throws NoCapacityError and QUOTA_EXCEEDED when those are promised to somebody else by now; STALE_NOTICE, FROZEN
   */
  restore (request: { clusterId: string, seq: number, endMs?: number }): Promise<{ endMs: number }>
  /**
   * The master is there; `holder` is who that is, as the gateway has verified it, '' when it does not
   * say. Confirms advance reservations whose start is near.
   *
   * @throws STALE_EPOCH, NotFoundError
   */
  keepAlive (request: { clusterId: string, epoch: number, holder: string }): Promise<KeepAliveAnswer>
  /**
   * Raises the epoch of a cluster whose frontend is here, for a new master.
   *
   * @param request.force also when the present master is alive
   * @throws STALE_EPOCH, MASTER_ALIVE, NOT_ANCHOR, NotFoundError
   */
  claim (request: { clusterId: string, epoch: number, holder: string, force: boolean }): Promise<{ epoch: number }>
  /**
   * Says that what ended of a cluster is gone from this host: its share is free at once. Forgets the
   * document when no lease of the cluster is left.
   *
   * @param seenCounter `state().counter` from before the host was looked at
   */
  vacate (clusterId: string, seenCounter?: number): Promise<Answer>
  /** Ends what time has ended, and tries to recover after a failed write. Call it at `nextDueMs()`, and every second or so. */
  tick (): Promise<void>
  nextDueMs (): number
  /** The ledger clock, Unix ms. */
  now (): number
  /** Why no new promises are made now; null when they are. */
  frozen (): string | null
  /** What the disk knows, as far as answered; a view, valid until the next event. */
  state (): ReadonlyLedgerState
  /** The least free in an interval, default now. */
  free (fromMs?: number, untilMs?: number): Resources
  leases (clusterId: string): Lease[]
  clusterState (clusterId: string): LeaseState | ''
  /** The same without shares of quotas: of what takes something of the host. */
  usageState (clusterId: string): LeaseState | ''
  /** Who is master of a cluster, as far as this host knows. */
  epochOf (clusterId: string): { epoch: number, holder: string } | null
  /** When its master was last heard of, on the ledger clock; null for a cluster that has no leases here. */
  heardMs (clusterId: string): number | null
  /** Lowest free id of the slice; null without a slice or when all are taken. A hint until it is held. */
  nextSegmentId (): number | null
  setCapacity (capacity: Resources): void
  /** What each site may borrow from now on; what is lent stays, and counts. */
  setQuotas (quotas: Quotas): void
  /** The latest promises, oldest first. */
  history (filter?: { clusterId?: string, leaseId?: string, limit?: number }): Promise<HistoryEntry[]>
  /** Documents of clusters with an active lease here: what this host must run. The latest activated comes last. */
  activeDocuments (): DocumentRecord[]
  readonly documents: Table<DocumentRecord>
  /** A durable table of records of any kind; writes are synced. */
  table<T>(name: string): Table<T>
  /** Raises the boot epoch, durably: call it once per start. */
  nextEpoch (): Promise<number>
  /** Called after every durable change of leases. @returns stops it */
  onChange (listener: (effects: readonly Effect[]) => void): () => void
  /** Called when a write has failed, at once when it has already. Nothing is answered until `onRecovered`. @returns stops it */
  onFailure (listener: (failure: MusubiError) => void): () => void
  /** Called when the state has been read from the disk anew: what was in doubt is now as the disk says. @returns stops it */
  onRecovered (listener: () => void): () => void
  /** Why nothing is answered; null when all is well. */
  failure (): MusubiError | null
  /** Tries at once to open the store again and to read it; `tick` does so now and then. @returns whether it works */
  recover (): Promise<boolean>
  /** Waits for writes under way. Does not close the store. */
  close (): Promise<void>
}
