/** What goes into a master's state machine and what comes out. Plain data; ids, views and times are brought along. */
import type { BudgetChange } from '../cache/budget.ts'
import type { MusubiError } from '../errors.ts'
import type { SiteAnswer } from '../gateway/events.ts'
import type { ActivateRequest, ClusterDocument, CommitRequest, ExtendRequest, KeepAliveRequest, ReleaseRequest, Request, Secret } from '../messages.ts'
import type { SiteCapacity } from '../placement/site-capacity.ts'
import type { ClusterSpec } from '../spec.ts'
import type { Earliest, MasterRecord } from './record.ts'

/** A site as the master's own view has it: what it could lend, and the gateway to ask. */
export interface KnownSite extends SiteCapacity { peer: string, gatewayHost: string }

/** The master's question to a gateway. */
export type LenderAsk =
  | { method: 'request', request: Request }
  | { method: 'extend', request: ExtendRequest }
  | { method: 'commit', request: CommitRequest }
  | { method: 'activate', request: ActivateRequest }
  | { method: 'release', request: ReleaseRequest }
  | { method: 'keepAlive', request: KeepAliveRequest }

/** `earliest`: `startMs` is not yet known, the term is that of the spec; `holdMs`: sites are to hold it so long, and its user decides */
export interface NewCluster { id: string, spec: ClusterSpec, vni: number, imageDigest: string, startMs: number, endMs: number, earliest?: Earliest, holdMs?: number }

/** Sites in view, as they are in the time that a cluster is wanted for. */
export interface Looked {
  sites: readonly KnownSite[]
  /** of a cluster that is to begin as early as it can: when that is */
  startMs?: number
  /** what would fit instead, for people; absent: it fits, or nobody has asked for calendars; empty: nothing is known to fit */
  nearest?: string
}

export type MasterEvent =
  | { type: 'create', cluster: NewCluster }
  /** answer to `look`; `id`: a fresh UUID for the keys of this round */
  | { type: 'looked', clusterId: string, id: string } & Looked
  /** every call gets exactly one of these two, within its deadline */
  | { type: 'reply', callId: number, answer: SiteAnswer }
  | { type: 'failed', callId: number, error: MusubiError }
  /** answers to `prepare` */
  | { type: 'prepared', clusterId: string, document: ClusterDocument, secrets: readonly Secret[] }
  | { type: 'unprepared', clusterId: string, error: MusubiError }
  /** answer to `copy`: how many other agents of the site keep `record`, which is the one of the effect */
  | { type: 'copied', clusterId: string, record: MasterRecord, copies: number }
  | { type: 'delete', clusterId: string, reason: string }
  /** its user takes what is held for it */
  | { type: 'accept', clusterId: string, id: string }
  | { type: 'extend', clusterId: string, endMs: number, id: string }
  | { type: 'grow', clusterId: string, count: number, id: string }
  /** ends the leases of these nodes; never refused by a lender */
  | { type: 'shrink', clusterId: string, nodes: readonly string[], id: string }
  /** another WAN budget of its caches; never refused by a lender */
  | { type: 'budget', clusterId: string, change: BudgetChange, id: string }
  /** the anchor has granted `record.epoch` to this host; `record.state` is `active`, `activating` before its start, or `releasing` when it never ran; for an epoch that this host has already: its `grant` that came later, or `superseded` when the anchor has given the epoch to another */
  | { type: 'adopt', record: MasterRecord }
  /** the process has started: records are as on the disk, no call is under way */
  | { type: 'start' }
  | { type: 'tick' }

export type MasterEffect =
  /** always synced before anything that comes after it leaves */
  | { effect: 'save', record: MasterRecord }
  | { effect: 'forget', clusterId: string }
  | { effect: 'call', callId: number, peer: string, ask: LenderAsk, deadlineMs: number }
  /** asks for the sites in view but those of `without`; `calendars`: as they are in the time that the cluster is wanted for, not now; `growth`: in what is left of its term */
  | { effect: 'look', clusterId: string, calendars: boolean, growth?: true, without: readonly string[] }
  /** asks for document and secrets (of an amendment: the next document) */
  | { effect: 'prepare', record: MasterRecord }
  /** asks other agents of the site to keep the record */
  | { effect: 'copy', record: MasterRecord }
  | { effect: 'note', type: string, message: string, cluster: string }
  /** an amendment has been decided: error null when it is part of the cluster now; of `accept`: it is decided */
  | { effect: 'amended', clusterId: string, id: string, error: MusubiError | null }
