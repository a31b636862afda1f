/** What the master knows of one cluster: the decision record and the states that it goes through. */
import type { ClusterDocument, Grant, Offer, Receipt, Secret } from '../messages.ts'
import type { ClusterSpec } from '../spec.ts'
import { ACCEPT_MARGIN_MS } from './pace.ts'

export type MasterState = 'negotiating' | 'offered' | 'committing' | 'preparing' | 'activating' | 'active' | 'releasing' | 'failed' | 'ended' | 'superseded'
export type MasterTrigger = 'create' | 'offer' | 'accept' | 'decide' | 'committed' | 'prepared' | 'activated' | 'fail' | 'delete' | 'expire' | 'released' | 'supersede' | 'adopt'

export interface MasterTransition { from: MasterState | null, trigger: MasterTrigger, to: MasterState, when: string }

/** The whole state machine; `step.ts` moves records along these rows and no others. */
export const masterTransitions: readonly MasterTransition[] = [
  { from: null, trigger: 'create', to: 'negotiating', when: 'a user asks for a cluster' },
  { from: null, trigger: 'adopt', to: 'active', when: 'the anchor host has granted a higher epoch for a running cluster' },
  { from: null, trigger: 'adopt', to: 'activating', when: 'the anchor host has granted a higher epoch for a cluster whose start is still to come' },
  { from: null, trigger: 'adopt', to: 'releasing', when: 'the anchor host has granted a higher epoch for a cluster that never became active' },
  { from: 'negotiating', trigger: 'decide', to: 'committing', when: 'every site asked has offered, and all holds are valid' },
  { from: 'negotiating', trigger: 'fail', to: 'failed', when: 'sites refused and no other placement is left, or the master restarted' },
  { from: 'negotiating', trigger: 'delete', to: 'releasing', when: 'the user deletes it' },
  { from: 'negotiating', trigger: 'offer', to: 'offered', when: 'every site asked has offered, all holds are valid, and its user is to decide' },
  { from: 'offered', trigger: 'accept', to: 'committing', when: 'its user takes it, in time for all holds to be committed' },
  { from: 'offered', trigger: 'fail', to: 'failed', when: 'its user has not taken it in time, or the master restarted' },
  { from: 'offered', trigger: 'delete', to: 'releasing', when: 'the user gives it back' },
  { from: 'committing', trigger: 'committed', to: 'preparing', when: 'the receipts of all leases are there' },
  { from: 'committing', trigger: 'fail', to: 'failed', when: 'a site could not commit' },
  { from: 'committing', trigger: 'delete', to: 'releasing', when: 'the user deletes it' },
  { from: 'preparing', trigger: 'prepared', to: 'activating', when: 'the cluster document is written and copied to other agents of the site' },
  { from: 'preparing', trigger: 'fail', to: 'failed', when: 'the document could not be made, or leases ran out' },
  { from: 'preparing', trigger: 'delete', to: 'releasing', when: 'the user deletes it' },
  { from: 'activating', trigger: 'activated', to: 'active', when: 'every site has activated' },
  { from: 'activating', trigger: 'fail', to: 'failed', when: 'a site refused to activate, or did not in time' },
  { from: 'activating', trigger: 'delete', to: 'releasing', when: 'the user deletes it' },
  { from: 'activating', trigger: 'supersede', to: 'superseded', when: 'another master holds a higher epoch' },
  { from: 'active', trigger: 'delete', to: 'releasing', when: 'the user deletes it' },
  { from: 'active', trigger: 'expire', to: 'releasing', when: 'the term is over' },
  { from: 'active', trigger: 'supersede', to: 'superseded', when: 'another master holds a higher epoch' },
  { from: 'releasing', trigger: 'released', to: 'ended', when: 'every site has confirmed, or nothing can run any more' },
  { from: 'releasing', trigger: 'supersede', to: 'superseded', when: 'another master holds a higher epoch' },
  { from: 'failed', trigger: 'delete', to: 'releasing', when: 'the user deletes it while sites have not confirmed' },
  { from: 'failed', trigger: 'released', to: 'ended', when: 'every site has confirmed and the user deletes it' }
]

/** A cluster that begins as early as it can: no sooner than `fromMs`, and no later than `latestMs`. */
export interface Earliest { fromMs: number, latestMs: number }

/** Of a cluster whose user wants to look at what is held before it is decided. */
export interface Hold {
  /** what sites are asked to hold it for */
  ttlMs: number
  /** the first hold counts until then, master's clock; 0 until all sites have offered */
  endsMs: number
}

/** A gateway that was asked; it is told to release until it has confirmed. */
export interface Asked { site: string, peer: string }

/** A change to a live cluster: held at all sites, decided on disk, committed; then part of the cluster. */
export interface ClusterAmendment {
  kind: 'grow' | 'extend'
  /** a fresh UUID; offers of an extension carry it */
  id: string
  state: 'asking' | 'committing' | 'activating'
  endMs: number
  /** nodes in all afterwards */
  count: number
  /** of growth: what each site offered */
  offers: Offer[]
  receipts: Receipt[]
  /** commits are sent no later than this, master's clock; 0 before the decision, and when a former master has decided */
  commitByMs: number
  /** the document as it will be; null until it is prepared */
  document: ClusterDocument | null
}

/**
 * Leases that are no part of the cluster any more, at one site: nodes of a cluster that shrank, or an
 * amendment that was given up. Its gateway is told to release them until it has confirmed.
 */
export interface Dropped {
  site: string
  peer: string
  /** of an amendment; with neither this nor `leaseIds` it is everything at the site */
  offerId: string
  leaseIds: readonly string[]
  /** end of what may run there meanwhile */
  endMs: number
}

/**
 * Never changed in place. `offers` with state `committing` or later is the decision record: it is
 * synced before the first commit leaves (lease-protocol.md). With state `offered` nothing is decided.
 */
export interface MasterRecord {
  readonly id: string
  readonly name: string
  readonly state: MasterState
  readonly spec: ClusterSpec
  readonly vni: number
  readonly createdMs: number
  /** in the future, the cluster is a reservation until then */
  readonly startMs: number
  readonly endMs: number
  /** of one that has not found its start yet, or had to look for it; absent: the user said when */
  readonly earliest?: Earliest
  /** absent: it is decided as soon as every site has offered */
  readonly hold?: Hold
  /** of this master, as granted by the anchor; a new cluster begins with 1 */
  readonly epoch: number
  /** proof of `epoch`, sent with keep-alives until every site has taken it; null for the first master */
  readonly grant: Grant | null
  readonly masterSite: string
  readonly error: { code: string, message: string, hint?: string } | null
  /** whatever happens, these are told to release */
  readonly asked: readonly Asked[]
  readonly offers: readonly Offer[]
  readonly receipts: readonly Receipt[]
  readonly document: ClusterDocument | null
  readonly secrets: readonly Secret[]
  readonly imageDigest: string
  readonly amendment: ClusterAmendment | null
  readonly dropped: readonly Dropped[]
  /** member sites that may have an older document */
  readonly behind: readonly string[]
  /** when the decision was made, before any commit left; 0 before */
  readonly decidedMs: number
  /** the first hold counts until then: commits are sent no later; 0 before the decision */
  readonly commitByMs: number
  /** from the first request to the last receipt, without the time that its user took */
  readonly negotiateMs: number
  /** when it came to `failed` or `ended`; 0 before */
  readonly endedMs: number
}

/** When its user can last take what is held, master's clock: a commit takes some time. */
export const acceptUntilMs = ({ endsMs }: Pick<Hold, 'endsMs'>): number => endsMs - ACCEPT_MARGIN_MS

export const isOver = (state: MasterState): boolean => state === 'failed' || state === 'ended' || state === 'superseded'
