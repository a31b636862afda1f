/** The state machines of a host's ledger as data. The ledger moves along these rows and no others. */

export type LeaseState = 'held' | 'committed' | 'active' | 'ended'
export type LeaseTrigger =
  | 'hold' | 'commit' | 'confirm' | 'activate' | 'extend' | 'shorten' | 'curtail' | 'restore' | 'restart' | 'expire' | 'release' | 'revoke' | 'vacate' | 'forget'

/** One row of a state machine; null is "does not exist". */
export interface Transition { from: LeaseState | null, trigger: LeaseTrigger, to: LeaseState | null, when: string }

/** The life of a lease. */
export const transitions: readonly Transition[] = [
  { from: null, trigger: 'hold', to: 'held', when: 'everything asked for is free for the whole interval' },
  { from: 'held', trigger: 'commit', to: 'committed', when: 'the master has written its decision' },
  { from: 'held', trigger: 'curtail', to: 'held', when: 'its cluster has notice: growth ends with the rest' },
  { from: 'held', trigger: 'restore', to: 'held', when: 'the notice is withdrawn, and the former end is still free' },
  { from: 'held', trigger: 'restart', to: 'held', when: 'the host has booted: the time to live begins anew' },
  { from: 'held', trigger: 'expire', to: 'ended', when: 'the time to live of the hold has passed' },
  { from: 'held', trigger: 'release', to: 'ended', when: 'the master or the gateway gives it up' },
  { from: 'held', trigger: 'revoke', to: 'ended', when: 'the operator of the lender ends it' },
  { from: 'committed', trigger: 'activate', to: 'active', when: 'the commit receipts of all members are there and the start has come' },
  { from: 'committed', trigger: 'confirm', to: 'committed', when: 'the master was heard of shortly before the start of an advance reservation' },
  { from: 'committed', trigger: 'extend', to: 'committed', when: 'an extension of it is committed' },
  { from: 'committed', trigger: 'shorten', to: 'committed', when: 'a committed extension of it is given up' },
  { from: 'committed', trigger: 'curtail', to: 'committed', when: 'its lender has given notice: it ends earlier, and remembers its end' },
  { from: 'committed', trigger: 'restore', to: 'committed', when: 'the notice is withdrawn, and the former end is still free' },
  { from: 'committed', trigger: 'restart', to: 'committed', when: 'the host has booted: the time to activate begins anew' },
  { from: 'committed', trigger: 'expire', to: 'ended', when: 'nobody activated it in time, or its master did not confirm it before its start' },
  { from: 'committed', trigger: 'release', to: 'ended', when: 'the master gives it up' },
  { from: 'committed', trigger: 'revoke', to: 'ended', when: 'the operator of the lender ends it' },
  { from: 'active', trigger: 'extend', to: 'active', when: 'an extension of it is committed' },
  { from: 'active', trigger: 'shorten', to: 'active', when: 'a committed extension of it is given up' },
  { from: 'active', trigger: 'curtail', to: 'active', when: 'its lender has given notice: it ends earlier, and remembers its end' },
  { from: 'active', trigger: 'restore', to: 'active', when: 'the notice is withdrawn, and the former end is still free' },
  { from: 'active', trigger: 'expire', to: 'ended', when: 'its end has come' },
  { from: 'active', trigger: 'release', to: 'ended', when: 'the master gives it up, or the cluster shrinks' },
  { from: 'active', trigger: 'revoke', to: 'ended', when: 'the operator of the lender ends it' },
  { from: 'ended', trigger: 'vacate', to: 'ended', when: 'the host was looked at and has nothing of it any more' },
  { from: 'ended', trigger: 'forget', to: null, when: 'a day has passed, or too many are kept' }
]

const rows = new Map(transitions.map(row => [`${row.from ?? ''} ${row.trigger}`, row]))

/** Where a trigger leads; undefined when the table has no such row. */
export const nextState = (from: LeaseState | null, trigger: LeaseTrigger): LeaseState | null | undefined =>
  rows.get(`${from ?? ''} ${trigger}`)?.to

export type ExtensionState = 'held' | 'committed' | 'ended'
export type ExtensionTrigger = 'extend' | 'commit' | 'restart' | 'expire' | 'release' | 'supersede' | 'forget'
export interface ExtensionTransition { from: ExtensionState | null, trigger: ExtensionTrigger, to: ExtensionState | null, when: string }

/** The life of an extension: a later end for leases that are committed or active. */
export const extensionTransitions: readonly ExtensionTransition[] = [
  { from: null, trigger: 'extend', to: 'held', when: 'what the leases take is free until the later end' },
  { from: 'held', trigger: 'commit', to: 'committed', when: 'the master has written its decision: the leases have the later end' },
  { from: 'held', trigger: 'restart', to: 'held', when: 'the host has booted: the time to live begins anew' },
  { from: 'held', trigger: 'expire', to: 'ended', when: 'its time to live has passed, or its leases have ended' },
  { from: 'held', trigger: 'release', to: 'ended', when: 'the master gives it up' },
  { from: 'committed', trigger: 'release', to: 'ended', when: 'the master gives it up: the leases go back to their former end' },
  { from: 'committed', trigger: 'supersede', to: 'ended', when: 'a later extension is committed' },
  { from: 'committed', trigger: 'expire', to: 'ended', when: 'its leases have ended' },
  { from: 'ended', trigger: 'forget', to: null, when: 'a day has passed, its leases are forgotten, or too many are kept' }
]

/** Where a trigger leads; undefined when the table has no such row. */
export const nextExtensionState = (from: ExtensionState | null, trigger: ExtensionTrigger): ExtensionState | null | undefined =>
  extensionTransitions.find(row => row.from === from && row.trigger === trigger)?.to

export type EpochState = 'known'
export type EpochTrigger = 'hear' | 'raise' | 'claim' | 'force' | 'forget'
export interface EpochTransition { from: EpochState | null, trigger: EpochTrigger, to: EpochState | null, when: string }

/** Who is master of a cluster, as a host knows it. The epoch never goes back while it is known. */
export const epochTransitions: readonly EpochTransition[] = [
  { from: null, trigger: 'hear', to: 'known', when: 'the first hold of the cluster names its master' },
  { from: 'known', trigger: 'raise', to: 'known', when: 'the gateway has verified a higher epoch; never on the anchor host' },
  { from: 'known', trigger: 'claim', to: 'known', when: 'on the anchor host: the master has not been heard of for long, or claims itself' },
  { from: 'known', trigger: 'force', to: 'known', when: 'on the anchor host: an operator insists' },
  { from: 'known', trigger: 'forget', to: null, when: 'the last lease of the cluster is forgotten' }
]

/** Where a trigger leads; undefined when the table has no such row. */
export const nextEpochState = (from: EpochState | null, trigger: EpochTrigger): EpochState | null | undefined =>
  epochTransitions.find(row => row.from === from && row.trigger === trigger)?.to
