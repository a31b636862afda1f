/**
 * What a gateway keeps of one cluster at its site, and the states that it goes through. A view on
 * what the hosts' ledgers say, kept so that commit, activation and release find the hosts.
 */
import type { Held, Offer } from '../messages.ts'
import { REPLAY_KEEP_MS } from '../limits.ts'

export type GatewayState = 'asking' | 'offered' | 'committed' | 'active' | 'releasing'
export type GatewayTrigger = 'ask' | 'hold' | 'refuse' | 'commit' | 'activate' | 'release' | 'restart' | 'supersede' | 'gone'

export interface GatewayTransition { from: GatewayState | null, trigger: GatewayTrigger, to: GatewayState | null, when: string }

/** The whole state machine; null is "no record". `step.ts` moves records along these rows and no others. */
export const gatewayTransitions: readonly GatewayTransition[] = [
  { from: null, trigger: 'ask', to: 'asking', when: 'a master asks, and a placement is found' },
  { from: 'asking', trigger: 'hold', to: 'offered', when: 'every host holds its part' },
  { from: 'asking', trigger: 'refuse', to: 'releasing', when: 'a host refused and no other placement is left' },
  { from: 'asking', trigger: 'restart', to: 'releasing', when: 'the gateway stopped while it asked, and not every host holds its part' },
  { from: 'asking', trigger: 'release', to: 'releasing', when: 'the master gives it up' },
  { from: 'offered', trigger: 'supersede', to: 'releasing', when: 'the master asks anew with another key' },
  { from: 'offered', trigger: 'commit', to: 'committed', when: 'every host has committed' },
  { from: 'offered', trigger: 'release', to: 'releasing', when: 'the master gives it up, or it has lapsed at a host while another cannot be looked at, and somebody has notice for it' },
  { from: 'offered', trigger: 'gone', to: null, when: 'no host has any of it any more' },
  { from: 'committed', trigger: 'activate', to: 'active', when: 'every host has activated' },
  { from: 'committed', trigger: 'release', to: 'releasing', when: 'the master gives it up' },
  { from: 'committed', trigger: 'gone', to: null, when: 'no host has any of it any more' },
  { from: 'active', trigger: 'release', to: 'releasing', when: 'the master gives it up, or the notice of its lender is over' },
  { from: 'active', trigger: 'gone', to: null, when: 'its end has come and no host has any of it any more' },
  { from: 'releasing', trigger: 'gone', to: null, when: 'every host has confirmed that it is gone, or has had to end it by itself' }
]

/** Where a trigger leads; undefined when the table has no such row. */
export const nextGatewayState = (from: GatewayState | null, trigger: GatewayTrigger): GatewayState | null | undefined =>
  gatewayTransitions.find(row => row.from === from && row.trigger === trigger)?.to

export type AmendmentState = 'asking' | 'offered' | 'committed' | 'done' | 'releasing'
export type AmendmentTrigger = 'ask' | 'hold' | 'refuse' | 'restart' | 'supersede' | 'commit' | 'activate' | 'release' | 'gone'
export interface AmendmentTransition { from: AmendmentState | null, trigger: AmendmentTrigger, to: AmendmentState | null, when: string }

/** What an amendment of live leases goes through; `done` is kept to answer the same question again. */
export const amendmentTransitions: readonly AmendmentTransition[] = [
  { from: null, trigger: 'ask', to: 'asking', when: 'a master asks for more, or for longer' },
  { from: 'asking', trigger: 'hold', to: 'offered', when: 'every host concerned holds it' },
  { from: 'asking', trigger: 'refuse', to: 'releasing', when: 'a host refused and no other placement is left' },
  { from: 'asking', trigger: 'restart', to: 'releasing', when: 'the gateway stopped before all hosts had answered' },
  { from: 'asking', trigger: 'release', to: 'releasing', when: 'the master gives it up' },
  { from: 'offered', trigger: 'supersede', to: 'releasing', when: 'the master asks anew with another key' },
  { from: 'offered', trigger: 'commit', to: 'committed', when: 'every host has committed' },
  { from: 'offered', trigger: 'release', to: 'releasing', when: 'the master gives it up' },
  { from: 'committed', trigger: 'activate', to: 'done', when: 'of an extension at once; of growth when every host has activated' },
  { from: 'committed', trigger: 'release', to: 'releasing', when: 'the master gives it up' },
  { from: 'done', trigger: 'ask', to: 'asking', when: 'the next amendment' },
  { from: 'done', trigger: 'release', to: 'releasing', when: 'another site could not commit it, and the master takes it back' },
  { from: 'releasing', trigger: 'gone', to: null, when: 'every host has confirmed that it is gone' }
]

export const nextAmendmentState = (from: AmendmentState | null, trigger: AmendmentTrigger): AmendmentState | null | undefined =>
  amendmentTransitions.find(row => row.from === from && row.trigger === trigger)?.to

export type NoticeState = 'ordered' | 'given' | 'withdrawing'
export type NoticeTrigger = 'notice' | 'curtail' | 'withdraw' | 'restore' | 'resume' | 'promised'
export interface NoticeTransition { from: NoticeState | null, trigger: NoticeTrigger, to: NoticeState | null, when: string }

/** What a notice goes through that a running cluster gets for one of a higher priority. */
export const noticeTransitions: readonly NoticeTransition[] = [
  { from: null, trigger: 'notice', to: 'ordered', when: 'somebody of a higher priority asks for a time at which there is no room otherwise' },
  { from: 'ordered', trigger: 'notice', to: 'ordered', when: 'somebody of a still higher priority asks for an earlier time: the notice from before holds again when that is withdrawn' },
  { from: 'ordered', trigger: 'curtail', to: 'given', when: 'the ledgers of all its hosts have the earlier end, but for those of a release that has none' },
  { from: 'ordered', trigger: 'withdraw', to: 'withdrawing', when: 'who it was given for is gone' },
  { from: 'given', trigger: 'notice', to: 'ordered', when: 'somebody of a still higher priority asks for an earlier time: the notice from before holds again when that is withdrawn' },
  { from: 'given', trigger: 'withdraw', to: 'withdrawing', when: 'who it was given for is gone' },
  { from: 'withdrawing', trigger: 'restore', to: null, when: 'all its hosts have the former end again' },
  { from: 'withdrawing', trigger: 'resume', to: 'ordered', when: 'all its hosts have the end of the notice from before again' },
  { from: 'withdrawing', trigger: 'promised', to: 'ordered', when: 'a host has promised to others by now what came free, or the gateway has let go of the segment: it stays, for nobody in particular' }
]

export const nextNoticeState = (from: NoticeState | null, trigger: NoticeTrigger): NoticeState | null | undefined =>
  noticeTransitions.find(row => row.from === from && row.trigger === trigger)?.to

/** What a lender has told the master of a running cluster: when its leases end here. Never changed in place. */
export interface Notice {
  readonly endMs: number
  readonly reason: string
  /** grows with every notice of the cluster, and when one that could not be withdrawn is ordered again; absent: an earlier release gave it, in the record alone */
  readonly seq?: number
  /** cluster that it was given for; '' : nobody any more, it stays */
  readonly beneficiary?: string
  /** site of that cluster */
  readonly site?: string
  readonly state?: NoticeState
  /** when it began to be withdrawn, the gateway's clock */
  readonly withdrawnMs?: number
  /** the notice that it had before, with a later end, for a site of lower priority */
  readonly under?: Notice
}

/** A change to live leases that is being negotiated: more of them, or a later end. One at a time. */
export interface Amendment {
  readonly kind: 'grow' | 'extend'
  readonly key: string
  /** of what was asked under `key`, see `digestOf` */
  readonly digest: string
  readonly offerId: string
  /** what is held in addition; of an extension empty */
  readonly held: readonly Held[]
  /** the end that is asked for */
  readonly endMs: number
  /** the end before it: what an extension goes back to when it is taken back */
  readonly formerEndMs: number
  readonly ttlMs: number
  /** when it was offered, the gateway's clock */
  readonly nowMs: number
  readonly state: AmendmentState
}

/** Never changed in place. */
export interface GatewayRecord {
  readonly clusterId: string
  readonly cluster: string
  /** idempotency key of the request that made `offer` */
  readonly key: string
  /** of what was asked under `key`, see `digestOf` */
  readonly digest: string
  /** while `asking`: as planned, without tokens and segment id; what growth has added is part of it */
  readonly offer: Offer
  readonly masterSite: string
  readonly masterPeer: string
  /** highest epoch of the master that was heard of */
  readonly epoch: number
  /** as asked for: what is activated must be the same */
  readonly vni: number
  readonly startMs: number
  readonly endMs: number
  /** master's clock at its latest request: an older one that comes late gives nothing up */
  readonly sentMs: number
  readonly state: GatewayState
  readonly reason: string
  readonly amendment: Amendment | null
  /** leases that the master has given up and that not every host has confirmed */
  readonly shrinking: readonly string[]
  /** host of the master's site whose ledger decides who is master; '' until an activation was sent to hosts */
  readonly anchor: string
  /** absent: its lender has given no notice; else when its leases end before their term, and why */
  readonly notice?: Notice
  /** the latest notice that was withdrawn, and when; absent: none was */
  readonly withdrawn?: { readonly atMs: number, readonly seq: number, readonly reason: string }
  /** how often notices for a site were withdrawn since a moment; absent: none was */
  readonly givenBack?: ReadonlyArray<{ readonly site: string, readonly sinceMs: number, readonly times: number }>
}

export interface HostPeer { host: string, peer: string }

/** The hosts of some parts, each once. */
export const hostsOf = (parts: readonly HostPeer[]): HostPeer[] =>
  [...new Map(parts.map(part => [part.peer, { host: part.host, peer: part.peer }])).values()]

/** Everything that hosts may have of a cluster; growth that is done is part of the offer already. */
export function allHeld ({ offer, amendment }: Pick<GatewayRecord, 'offer' | 'amendment'>): Held[] {
  const known = new Set(offer.held.map(held => held.leaseId))
  return [...offer.held, ...(amendment?.held ?? []).filter(held => !known.has(held.leaseId))]
}

/** What one offer holds: lease ids are made of its id and a number. */
export const heldUnder = (record: GatewayRecord, offerId: string): Held[] =>
  allHeld(record).filter(held => held.leaseId.startsWith(`${offerId}-`) && /^\d+$/.test(held.leaseId.slice(offerId.length + 1)))

/** Until when hosts have it for certain, if nobody has ended it: later they may have ended it by themselves. */
export function backedUntilMs (record: GatewayRecord, activateTtlMs: number): number {
  const heldUntilMs = record.offer.nowMs + record.offer.ttlMs
  if (record.state === 'active') return record.endMs
  return record.state === 'committed' ? Math.max(heldUntilMs, record.startMs) + activateTtlMs : heldUntilMs
}

/** From then on no host has any of it, whether it says so or not: each has ended it by itself long ago. */
export const overSinceMs = (record: GatewayRecord): number => Math.max(record.endMs, record.amendment?.endMs ?? 0) + REPLAY_KEEP_MS

/**
 * A short mark of what was asked, to tell a repetition from another question under the same key.
 * Twice 32 bits of FNV-1a: it finds mistakes, nobody's safety depends on it.
 */
export function digestOf (asked: unknown): string {
  const text = JSON.stringify(asked)
  let [a, b] = [0x811c9dc5, 0xc9dc5118]
  for (let i = 0; i < text.length; i++) {
    a = Math.imul(a ^ text.charCodeAt(i), 0x01000193)
    b = Math.imul(b ^ text.charCodeAt(i), 0x85ebca6b)
  }
  return `${(a >>> 0).toString(16)}-${(b >>> 0).toString(16)}`
}
