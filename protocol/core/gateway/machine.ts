/** The state of a gateway's machine while it runs, and one event being worked into it. */
import type { Resources } from '../capacity.ts'
import { MusubiError } from '../errors.ts'
import { HOST_DEADLINE_MS, HOST_RELEASE_DEADLINE_MS, HOST_STATUS_DEADLINE_MS, HOLD_DEADLINE_MS, MAX_HOST_CALLS, MAX_WAITING, MAX_WAITING_PER_CLUSTER } from '../limits.ts'
import type { Receipt } from '../messages.ts'
import type { Asker, GatewayEffect, GatewayEvent, HostAnswer, HostAsk, SiteAnswer, SiteAsk } from './events.ts'
import { type Amendment, type AmendmentTrigger, type GatewayRecord, type GatewayTrigger, type HostPeer, type Notice, type NoticeTrigger, nextAmendmentState, nextGatewayState, nextNoticeState } from './record.ts'

/** A master's question that waits for its turn. */
export interface Waiting {
  readonly askId: number
  readonly caller: Asker
  readonly ask: SiteAsk
  readonly arrivedMs: number
  /** what its own cluster held when it arrived, by host: its view was made while that was not free yet */
  readonly freed: ReadonlyMap<string, Resources>
  /** the same of shares of the quota, by gateway */
  readonly freedShares: ReadonlyMap<string, Resources>
  /** hosts that may still have something of what its master gave up; it ends by itself, in their own time */
  readonly avoid: readonly string[]
}

export type WaitingFor<M extends SiteAsk['method']> = Waiting & { readonly ask: Extract<SiteAsk, { method: M }> }

/** A request on its way through the site's hosts. */
export interface Placing {
  readonly entry: WaitingFor<'request'>
  /** placements that have been tried */
  readonly attempt: number
  /** hosts that refused or did not answer */
  readonly full: readonly string[]
  /** gateways that have lent all of their share */
  readonly dry: readonly string[]
  readonly refusals: readonly string[]
  /** notice has been given for it: hosts are seen as they are by that */
  readonly byNotice?: boolean
}

/** What of a cluster is released. */
export type Scope = { readonly kind: 'all' } | { readonly kind: 'amendment' } | { readonly kind: 'leases', readonly leaseIds: readonly string[] }

/** What a cluster's hosts are being asked for; one at a time. */
export type Phase =
  /** what was there before is released, then `entry` has its turn again */
  | { readonly kind: 'clear', readonly scope: Scope, readonly reason: string, readonly entry: Waiting }
  | { readonly kind: 'hold', readonly placing: Placing }
  /** one host refused: the others let go */
  | { readonly kind: 'undo', readonly placing: Placing, readonly final: MusubiError | null }
  /** after a restart: the same holds again, which hosts that have them answer as before */
  | { readonly kind: 'rehold' }
  | { readonly kind: 'commit', readonly offerId: string }
  /** receipts of shares that other gateways lend, which the master knows nothing of; then `entry` goes on */
  | { readonly kind: 'lenders', readonly entry: WaitingFor<'activate'>, readonly growth: boolean }
  /** the gateway's own host first, `then` the others */
  | { readonly kind: 'activate', readonly growth: boolean, readonly then: readonly HostCall[] }
  | { readonly kind: 'extend' }
  | { readonly kind: 'release', readonly scope: Scope, readonly reason: string }
  /** clusters with notice end earlier; then `placing` goes on, of a request that there is room for by that */
  | { readonly kind: 'curtail', readonly placing: Placing | null }
  /** a notice is withdrawn: the gateway's own host first; `under`: the one that holds again, null where none does */
  | { readonly kind: 'restore', readonly under: Notice | null }
  /** looks whether hosts still have anything */
  | { readonly kind: 'probe' }

export interface HostResult extends HostPeer { readonly answer: HostAnswer | null, readonly error: MusubiError | null }

/** Never changed in place. */
export interface Job {
  readonly id: number
  readonly phase: Phase
  /** answered when it is done */
  readonly askers: readonly number[]
  /** calls without an answer yet */
  readonly open: number
  readonly results: readonly HostResult[]
  /** asked only when all others have answered well */
  readonly last: readonly HostCall[]
}

/** `jobId` 0: nobody waits for it. The answer of a job that was overtaken is looked at no more. */
export interface Call extends HostPeer { readonly clusterId: string, readonly jobId: number, readonly method: HostAsk['method'] }

/**
 * What is known of a cluster by the calls of its master, and by what hosts said to those; not kept over
 * a restart. `over`: hosts that had nothing live of it.
 */
export interface Heard { readonly ms: number, readonly skewMs: number, readonly masterless: boolean, readonly over: readonly string[] }

export interface GatewayMachine {
  readonly site: string
  records: Map<string, GatewayRecord>
  jobs: Map<string, Job>
  waiting: Map<string, readonly Waiting[]>
  calls: Map<number, Call>
  heard: Map<string, Heard>
  /** when a cluster was last tidied up after */
  tidiedMs: Map<string, number>
  /** clusters of which a release was tried again last: what is to be said of their notice comes first the next time */
  triedLast: Set<string>
  /** of calls and jobs */
  lastId: number
  /** when the process started: a boot may have moved the clock, and holds have their full time again */
  startedMs: number
}

const DEADLINES_MS: Readonly<Record<HostAsk['method'], number>> = {
  hold: HOLD_DEADLINE_MS, hostExtend: HOLD_DEADLINE_MS, hostCurtail: HOLD_DEADLINE_MS, hostRestore: HOLD_DEADLINE_MS, hostCommit: HOST_DEADLINE_MS, hostActivate: HOST_DEADLINE_MS,
  hostKeepAlive: HOST_DEADLINE_MS, hostRelease: HOST_RELEASE_DEADLINE_MS, hostStatus: HOST_STATUS_DEADLINE_MS
}

export interface HostCall extends HostPeer { readonly ask: HostAsk, readonly deadlineMs?: number }

/** One event being worked in: the machine that it changes, and what is to be done about it. */
export class Turn {
  readonly machine: GatewayMachine
  readonly now: number
  readonly effects: GatewayEffect[] = []
  /** clusters whose queues are to be looked at before the event is done */
  readonly touched = new Set<string>()

  constructor (machine: GatewayMachine, now: number) {
    this.machine = machine
    this.now = now
  }

  get site (): string { return this.machine.site }

  record (clusterId: string): GatewayRecord | undefined { return this.machine.records.get(clusterId) }

  /** @param sync false where the ledger of this gateway syncs it in passing, or where it may be lost; see ADR 16 */
  save (record: GatewayRecord, sync: boolean): GatewayRecord {
    this.machine.records.set(record.clusterId, record)
    this.effects.push({ effect: 'save', record, sync })
    return record
  }

  /** The first record of a cluster. */
  begin (record: Omit<GatewayRecord, 'state'>): GatewayRecord {
    const state = nextGatewayState(null, 'ask')
    if (state === undefined || state === null) throw new MusubiError('INTERNAL', `site ${this.site} has no state for cluster ${record.clusterId} to begin in`)
    return this.save({ ...record, state }, false)
  }

  /** Moves a record along the table of transitions to a state that is kept. */
  move (record: GatewayRecord, trigger: GatewayTrigger, change: Partial<GatewayRecord> = {}, sync = false): GatewayRecord {
    const to = nextGatewayState(record.state, trigger)
    if (to === undefined || to === null) throw new MusubiError('INTERNAL', `cluster ${record.clusterId} at site ${this.site} is ${record.state}: ${trigger} does not lead on`)
    return this.save({ ...record, ...change, state: to }, sync)
  }

  /** Moves a record out of the table: nothing of it is left. */
  gone (record: GatewayRecord): void {
    if (nextGatewayState(record.state, 'gone') !== null) throw new MusubiError('INTERNAL', `cluster ${record.clusterId} at site ${this.site} is ${record.state}: it cannot be gone`)
    const { clusterId } = record
    this.machine.records.delete(clusterId)
    this.machine.heard.delete(clusterId)
    this.machine.tidiedMs.delete(clusterId)
    this.machine.triedLast.delete(clusterId)
    this.effects.push({ effect: 'forget', clusterId })
  }

  /** Moves a record's amendment along its table; always synced, as no host's write needs to follow. */
  amend (record: GatewayRecord, trigger: AmendmentTrigger, fresh: Omit<Amendment, 'state'> | null = null, change: Partial<GatewayRecord> = {}): GatewayRecord {
    const to = nextAmendmentState(record.amendment?.state ?? null, trigger)
    if (to === undefined) throw new MusubiError('INTERNAL', `the amendment of cluster ${record.clusterId} at site ${this.site} is ${record.amendment?.state ?? 'none'}: ${trigger} is not possible`)
    const base = fresh ?? record.amendment
    return this.save({ ...record, ...change, amendment: to === null || base === null ? null : { ...base, state: to } }, true)
  }

  /** Moves the notice of a record along its table; always synced, as hosts are told what it says. `fresh`: of a notice that begins or changes; `null` it is over */
  notify (record: GatewayRecord, trigger: NoticeTrigger, fresh: Partial<Notice> = {}, change: Partial<GatewayRecord> = {}): GatewayRecord {
    const to = nextNoticeState(record.notice === undefined ? null : record.notice.state ?? 'given', trigger)
    if (to === undefined) throw new MusubiError('INTERNAL', `the notice of cluster ${record.clusterId} at site ${this.site} is ${record.notice?.state ?? 'none'}: ${trigger} is not possible`)
    const { notice, ...rest } = record
    // What begins, or holds again, says all of itself.
    const base = trigger === 'notice' || trigger === 'resume' ? {} : notice
    return this.save({ ...rest, ...change, ...to === null ? {} : { notice: { endMs: record.endMs, reason: '', ...base, ...fresh, state: to } } }, true)
  }

  answer (askIds: readonly number[], answer: SiteAnswer): void {
    for (const askId of askIds) this.effects.push({ effect: 'answer', askId, answer })
  }

  refuse (askIds: readonly number[], error: MusubiError): void {
    for (const askId of askIds) this.effects.push({ effect: 'refuse', askId, error })
  }

  note (type: string, message: string, cluster: string): void {
    this.effects.push({ effect: 'note', type, message, cluster })
  }

  /** @throws MusubiError BUSY when more calls are under way than can be kept */
  mustHaveRoom (): void {
    if (this.machine.calls.size >= MAX_HOST_CALLS) throw new MusubiError('BUSY', `the gateway of site ${this.site} has ${this.machine.calls.size} calls to its hosts under way`, { retryable: true, hint: 'try again in some seconds' })
  }

  /** Asks hosts; when all have answered, or failed to, the job is finished by its phase. */
  start (clusterId: string, phase: Phase, askers: readonly number[], calls: readonly HostCall[], last: readonly HostCall[] = []): void {
    const id = ++this.machine.lastId
    this.machine.jobs.set(clusterId, { id, phase, askers, open: calls.length, results: [], last })
    this.touched.add(clusterId)
    for (const call of calls) this.call(clusterId, id, call)
  }

  /** Asks who comes last. @returns false when nobody does, or somebody before has failed, or has nothing to give back */
  goOn (clusterId: string, job: Job): boolean {
    if (job.last.length === 0 || failuresOf(job).length > 0 || hasNothingBack(job, this.record(clusterId))) return false
    this.machine.jobs.set(clusterId, { ...job, open: job.last.length, last: [] })
    for (const call of job.last) this.call(clusterId, job.id, call)
    return true
  }

  call (clusterId: string, jobId: number, { host, peer, ask, deadlineMs }: HostCall): void {
    const callId = ++this.machine.lastId
    this.machine.calls.set(callId, { clusterId, jobId, host, peer, method: ask.method })
    this.effects.push({ effect: 'call', callId, peer, ask, deadlineMs: deadlineMs ?? DEADLINES_MS[ask.method] })
  }

  /** Puts a question in line; `first` gives it its turn back. @throws MusubiError BUSY */
  enqueue (clusterId: string, entry: Waiting, first = false): void {
    const line = this.machine.waiting.get(clusterId) ?? []
    if (!first && (line.length >= MAX_WAITING_PER_CLUSTER || total(this.machine.waiting) >= MAX_WAITING)) {
      throw new MusubiError('BUSY', `site ${this.site} has ${line.length} questions about cluster ${clusterId} waiting`, { retryable: true, hint: 'wait for their answers' })
    }
    this.machine.waiting.set(clusterId, first ? [entry, ...line] : [...line, entry])
    this.touched.add(clusterId)
  }

  /** The next in line, which leaves it. */
  dequeue (clusterId: string): Waiting | undefined {
    const [entry, ...rest] = this.machine.waiting.get(clusterId) ?? []
    if (rest.length === 0) this.machine.waiting.delete(clusterId)
    else this.machine.waiting.set(clusterId, rest)
    return entry
  }
}

const total = (waiting: GatewayMachine['waiting']): number => {
  let count = 0
  for (const line of waiting.values()) count += line.length
  return count
}

export type EventOf<T extends GatewayEvent['type']> = Extract<GatewayEvent, { type: T }>

export interface Replies {
  hold: { receipts: Receipt[], segmentId: number, localSegmentId?: number }
  hostExtend: { receipts: Receipt[] }
  hostCommit: { receipts: Receipt[] }
  hostStatus: { leaseState: string, objects: readonly unknown[] }
  hostCurtail: { endMs: number }
  hostRestore: { endMs: number }
}

/** What hosts answered to one method, with who did. */
export function answersOf<M extends keyof Replies> (job: Job, method: M): Array<HostPeer & { reply: Replies[M] }> {
  // By the tag of the union each answer is what the method says.
  return job.results.flatMap(({ host, peer, answer }) => answer?.method === method ? [{ host, peer, reply: answer.reply as Replies[M] }] : [])
}

export const failuresOf = (job: Job): Array<{ host: string, error: MusubiError }> =>
  job.results.flatMap(({ host, error }) => error === null ? [] : [{ host, error }])

/**
 * Whether a notice is being withdrawn of a cluster of which the gateway's own host has nothing any more: its operator has revoked it, or
 * the end has come meanwhile. Its segment id rests no longer than until the end by that notice, so no other host may have it for longer.
 */
export const hasNothingBack = (job: Job, record: GatewayRecord | undefined): boolean =>
  job.phase.kind === 'restore' && answersOf(job, 'hostRestore').some(({ peer, reply }) => peer === record?.offer.gateway.peer && reply.endMs === 0)
