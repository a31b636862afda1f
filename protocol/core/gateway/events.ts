/** What goes into a gateway's state machine and what comes out. Plain data; ids, views and times are brought along. */
import type { ClosedHost } from '../calendar/together.ts'
import type { MusubiError } from '../errors.ts'
import type {
  ActivateRequest, CommitRequest, ExtendRequest, GatewayFacts, HoldRequest, KeepAliveRequest, Offer, Receipt, ReleaseRequest, Request
} from '../messages.ts'
import type { HostCapacity } from '../placement/at-site.ts'
import type { GatewayRecord } from './record.ts'
import type { ShareView } from './shares.ts'

/** Who asks, as proved by the connection; `site` is null for a coordinator. */
export interface Asker { peerId: string, site: string | null, host: string, gateway: boolean }

/** A host of the site as the gateway sees it: capacity to place on, peer to call. */
export interface SiteHost extends HostCapacity {
  peer: string
  underlayAddress: string
  /** when the next of its promises begins that has not begun; absent: none does */
  nextStartMs?: number
  /** an earlier release, which would run nodes without their card on the segment of the site */
  lacksLocal?: boolean
}

/** Clusters whose leases would end at the start of a request, and its hosts as they would be from then on. */
export interface RoomByNotice {
  /** `noticeMs`: what they are to be given at least; `seq`: the notice that they have for a site of lower priority than the asking one; 0: none */
  clusters: ReadonlyArray<{ clusterId: string, cluster: string, site: string, priority: number, noticeMs: number, seq: number }>
  hosts: readonly SiteHost[]
}

/** What the gateway knows of its site at the moment of a request. */
export interface SiteView {
  hosts: readonly SiteHost[]
  /** those of them that were asked and take nothing new, though they are not cordoned; absent: none were asked */
  closed?: readonly ClosedHost[]
  facts: GatewayFacts
  /** a fresh UUID: offer and lease ids are made from it */
  id: string
  /** cordon or policy refuses; null when neither does */
  refusal: MusubiError | null
  /** whether the ledger of this gateway counts what the master's site borrows */
  quota: boolean
  /** what may still be lent to the master's site; absent: its ledger alone decides, or there is no bound */
  share?: ShareView
  /** what there would be room on if some running clusters of lower priority got notice; absent: nothing more, or that is not needed */
  byNotice?: RoomByNotice
  /** what the master's site is to pay per vCPU and hour, thousandths; absent: nothing */
  priceMilli?: number
}

/** A master's question to a gateway. */
export type SiteAsk =
  | { method: 'request', request: Request, view: SiteView }
  /** `refusal`: policy refuses the longer term; null when it does not */
  | { method: 'extend', request: ExtendRequest, refusal: MusubiError | null }
  | { method: 'commit', request: CommitRequest }
  | { method: 'activate', request: ActivateRequest }
  | { method: 'release', request: ReleaseRequest }
  /** `holder`: who the verified grant that came with it names for `epoch`; null without a grant */
  | { method: 'keepAlive', request: KeepAliveRequest, holder: { epoch: number, peer: string } | null }

export interface HostExtendRequest { key: string, clusterId: string, offerId: string, endMs: number, ttlMs: number, epoch: number, leaseIds: string[] }

/** A gateway's question to one of its hosts, itself included. */
export type HostAsk =
  | { method: 'hold', request: HoldRequest }
  | { method: 'hostExtend', request: HostExtendRequest }
  | { method: 'hostCurtail', request: { clusterId: string, seq: number, endMs: number, reason: string } }
  | { method: 'hostRestore', request: { clusterId: string, seq: number, endMs?: number } }
  | { method: 'hostCommit', request: { clusterId: string, offerId: string, epoch: number } }
  | { method: 'hostActivate', request: ActivateRequest }
  | { method: 'hostRelease', request: ReleaseRequest }
  | { method: 'hostKeepAlive', request: { clusterId: string, epoch: number, holder: string } }
  /** whether anything of a cluster is left; unlike a keep-alive it says nothing about the master */
  | { method: 'hostStatus', request: { clusterId: string } }

/** What hosts answer, by method. */
export type HostAnswer =
  | { method: 'hold', reply: { receipts: Receipt[], segmentId: number, localSegmentId?: number } }
  | { method: 'hostExtend', reply: { receipts: Receipt[] } }
  | { method: 'hostCurtail', reply: { endMs: number } }
  | { method: 'hostRestore', reply: { endMs: number } }
  | { method: 'hostCommit', reply: { receipts: Receipt[] } }
  | { method: 'hostActivate', reply: { site: string } }
  | { method: 'hostRelease', reply: { ended: number } }
  | { method: 'hostKeepAlive', reply: { state: string, endMs: number, epoch: number, nowMs: number } }
  | { method: 'hostStatus', reply: { leaseState: string, objects: readonly unknown[] } }

export type SiteAnswer =
  | { method: 'request', reply: Offer }
  | { method: 'extend', reply: { site: string, ttlMs: number, nowMs: number } }
  | { method: 'commit', reply: { site: string, receipts: Receipt[] } }
  | { method: 'activate', reply: { site: string } }
  | { method: 'release', reply: { site: string, ended: number } }
  | { method: 'keepAlive', reply: { site: string, state: string, endMs: number, epoch: number, nowMs: number, notice?: string } }

export type GatewayEvent =
  /** `askId` comes back in the answer; it is not an idempotency key */
  | { type: 'ask', askId: number, caller: Asker, ask: SiteAsk }
  /** every call gets exactly one of these two, within its deadline */
  | { type: 'reply', callId: number, answer: HostAnswer }
  | { type: 'failed', callId: number, error: MusubiError }
  /** the process has started: records are as on the disk, no call is under way */
  | { type: 'start' }
  /** time passes: releases that were not confirmed are tried again, records that no host backs are dropped */
  | { type: 'tick' }

export type GatewayEffect =
  /** `sync` false: it may be lost in a crash, or kept by a later synced write; see ADR 16 */
  | { effect: 'save', record: GatewayRecord, sync: boolean }
  | { effect: 'forget', clusterId: string }
  | { effect: 'call', callId: number, peer: string, ask: HostAsk, deadlineMs: number }
  | { effect: 'answer', askId: number, answer: SiteAnswer }
  | { effect: 'refuse', askId: number, error: MusubiError }
  /** for the event log: `type` as in docs/operations.md */
  | { effect: 'note', type: string, message: string, cluster: string }
