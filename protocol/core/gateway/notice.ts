/**
 * Running clusters that end earlier for one of a higher priority. Notice is given when that one asks for a time after it and
 * has no room otherwise; the ledgers of its hosts get the earlier end, so that the room can be held; and it is withdrawn when
 * what it was given for is gone. Its master is told with every keep-alive, and at the end it is released.
 */
import { describeError, MusubiError } from '../errors.ts'
import { GIVEN_BACK_MS, HOLD_TTL_MS, MAX_GIVEN_BACK, MAX_HOLD_TTL_MS, MAX_NOTICED_PER_REQUEST, MAX_NOTICES_PER_CLUSTER, MAX_NOTICES_PER_SITE, MIN_TERM_MS, NOTICE_RETURN_MS } from '../limits.ts'
import type { Request } from '../messages.ts'
import { type HostCall, type Job, type Placing, type Turn, failuresOf, hasNothingBack } from './machine.ts'
import { type GatewayRecord, type HostPeer, type Notice, allHeld, hostsOf } from './record.ts'
import { onlyLenders } from './shares.ts'

const at = (ms: number): string => new Date(ms).toISOString()

/** When a cluster ends here, as its master is told. */
export const toldEndMs = ({ endMs, notice }: GatewayRecord): number => Math.min(endMs, notice?.endMs ?? endMs)

/** Why it ends before its term, or that it does not any more, as its master is told; '' for neither. */
export const noticeText = ({ notice, withdrawn }: GatewayRecord): string =>
  notice !== undefined ? notice.reason : withdrawn === undefined ? '' : `the notice was withdrawn at ${at(withdrawn.atMs)}`

/** Whether the time of its notice is over. */
export const isNoticeOver = ({ state, notice }: GatewayRecord, now: number): boolean => state === 'active' && notice !== undefined && notice.endMs <= now

/** What ends early is not made longer, nor larger; null: it has no notice. */
export const noticeRefusal = (site: string, { cluster, notice }: GatewayRecord): MusubiError | null => notice === undefined ? null
  : new MusubiError('POLICY_PREEMPTED', `the leases of cluster ${cluster} at site ${site} end at ${at(notice.endMs)}: ${notice.reason}`, { hint: 'what is needed beyond that time must be asked of other sites' })

/** @throws MusubiError POLICY_PREEMPTED */
export function mustHaveNoNotice (site: string, record: GatewayRecord): void {
  const refusal = noticeRefusal(site, record)
  if (refusal !== null) throw refusal
}

/** A notice and those that it has put off, the earliest end first. */
function noticesOf ({ notice }: Pick<GatewayRecord, 'notice'>): Notice[] {
  const found: Notice[] = []
  for (let one = notice; one !== undefined; one = one.under) found.push(one)
  return found
}

/** Notices that wait for their end for clusters of one site. */
export const pendingNotices = (records: Iterable<GatewayRecord>, site: string): number =>
  [...records].filter(record => record.state === 'active' && noticesOf(record).some(notice => notice.site === site)).length

/**
 * The site for which a cluster has notice, where one of higher priority could have it end earlier still; null: it has none, undefined:
 * it cannot get another.
 */
export function noticedFor (record: GatewayRecord): string | null | undefined {
  const { notice } = record
  if (notice === undefined) return null
  return notice.seq === undefined || notice.state === 'withdrawing' || noticesOf(record).length >= MAX_NOTICES_PER_CLUSTER ? undefined : notice.site
}

/** Whether a cluster is to be left alone by a site that has had it get notice again and again, and has taken nothing. */
export const isLeftAlone = ({ givenBack = [] }: Pick<GatewayRecord, 'givenBack'>, site: string, now: number): boolean =>
  givenBack.some(one => one.site === site && one.times >= MAX_GIVEN_BACK && now < one.sinceMs + GIVEN_BACK_MS)

/** Counts a notice that is given back. */
function withGivenBack ({ givenBack = [], notice }: GatewayRecord, now: number): Pick<GatewayRecord, 'givenBack'> {
  const site = notice?.site ?? ''
  const recent = givenBack.filter(one => now < one.sinceMs + GIVEN_BACK_MS)
  const { sinceMs, times } = recent.find(one => one.site === site) ?? { sinceMs: now, times: 0 }
  return { givenBack: [...recent.filter(one => one.site !== site).slice(1 - MAX_NOTICED_PER_REQUEST), { site, sinceMs, times: times + 1 }] }
}

/** How many clusters may get notice for a request of a site beside those that have it. */
export const noticesLeft = (records: Iterable<GatewayRecord>, site: string): number =>
  Math.max(0, Math.min(MAX_NOTICED_PER_REQUEST, MAX_NOTICES_PER_SITE - pendingNotices(records, site)))

/** Growth that hosts may be told of after they were told of a notice. */
const isGrowing = ({ amendment }: GatewayRecord): boolean => amendment?.kind === 'grow' && ['asking', 'offered', 'committed'].includes(amendment.state)

/**
 * Hosts that hear of a notice. Not gateways that only lend a share of the quota: nothing comes free there for who the notice is for, and
 * what runs must not depend on them. Their part is given back with the rest.
 */
function toldHosts (record: GatewayRecord): HostPeer[] {
  const held = allHeld(record)
  const lenders = onlyLenders(held, record.offer.gateway)
  return hostsOf(held.filter(({ peer }) => !lenders.has(peer)))
}

/**
 * What tells hosts of a notice. The gateway's own host comes last, and not while the cluster grows: its ledger gives out the
 * segment id, which must not come free before the leases of all other hosts have ended.
 */
function curtailCalls (record: GatewayRecord): { first: HostCall[], last: HostCall[] } {
  const { clusterId, notice, offer } = record
  if (notice?.seq === undefined) return { first: [], last: [] }
  const request = { clusterId, seq: notice.seq, endMs: notice.endMs, reason: notice.reason }
  const calls = toldHosts(record).map(({ host, peer }): HostCall => ({ host, peer, ask: { method: 'hostCurtail', request } }))
  return { first: calls.filter(({ peer }) => peer !== offer.gateway.peer), last: isGrowing(record) ? [] : calls.filter(({ peer }) => peer === offer.gateway.peer) }
}

/**
 * Gives notice to those that make room for a request, and tells their hosts; when those have answered the request is placed.
 *
 * @returns false when there is nobody to give it to any more: then nothing has changed
 */
export function giveNotice (turn: Turn, placing: Placing): boolean {
  const { askId, ask: { request, view: { byNotice } } } = placing.entry
  if (byNotice === undefined || request.grow || byNotice.clusters.length > noticesLeft(turn.machine.records.values(), request.masterSite)) return false
  const chosen = byNotice.clusters.flatMap(({ clusterId, noticeMs, seq }) => {
    const record = turn.record(clusterId)
    // a notice that has come since was not looked at
    const isAsSeen = record !== undefined && noticedFor(record) !== undefined && (record.notice?.seq ?? 0) === seq
    const agreed = isAsSeen && record.state === 'active' && request.startMs >= turn.now + Math.max(noticeMs, MIN_TERM_MS) && request.startMs < toldEndMs(record)
    return agreed ? [record] : []
  })
  if (chosen.length < byNotice.clusters.length) return false
  const reason = `preempted by the policy of ${turn.site}, for site ${request.masterSite}, which has a higher priority`
  const calls = chosen.map(record => {
    // On the disk before any host is told: whatever happens, the next tick knows what must be taken back.
    const seq = Math.max(turn.now, (record.withdrawn?.seq ?? 0) + 1, (record.notice?.seq ?? 0) + 1)
    const next = turn.notify(record, 'notice', { endMs: request.startMs, reason, seq, beneficiary: request.clusterId, site: request.masterSite, ...record.notice === undefined ? {} : { under: record.notice } })
    turn.note('lease.notice', `the leases of cluster ${record.cluster} of ${record.masterSite} end at ${at(request.startMs)}: ${reason}`, record.cluster)
    return curtailCalls(next)
  })
  turn.start(request.clusterId, { kind: 'curtail', placing }, [askId], calls.flatMap(({ first }) => first), calls.flatMap(({ last }) => last))
  return true
}

/** What hosts cannot do is not asked of them again: an earlier release does not know it. */
const isUnknown = ({ error }: { error: MusubiError }): boolean => error.code === 'UNIMPLEMENTED'

/** The hosts have been told, all of one cluster, or of those that make room for one. */
export function finishCurtail (turn: Turn, clusterId: string, job: Job & { phase: { kind: 'curtail' } }): void {
  const failed = failuresOf(job)
  // The next tick tells them again, each cluster by itself: of several nobody knows here whose host it was.
  if (job.phase.placing === null ? !failed.every(isUnknown) : failed.length > 0) return
  for (const record of [...turn.machine.records.values()]) {
    const { notice, state } = record
    const isMeant = job.phase.placing === null ? record.clusterId === clusterId : notice?.beneficiary === clusterId
    if (state !== 'active' || notice?.state !== 'ordered' || !isMeant || isGrowing(record)) continue
    turn.notify(record, 'curtail')
    if (failed.length > 0) turn.note('lease.notice', `hosts of an earlier release keep the leases of cluster ${record.cluster} until it is released: ${failed.map(({ host }) => host).slice(0, 8).join(' ')}`, record.cluster)
  }
}

/** Whether somebody still has, or is being asked for, what a notice was given for: room from its end on, and from no other time. */
function isWanted (turn: Turn, { beneficiary = '', endMs }: Notice): boolean {
  const record = turn.record(beneficiary)
  if (record !== undefined && record.state !== 'releasing') return record.startMs === endMs
  const phase = turn.machine.jobs.get(beneficiary)?.phase
  const asked = phase?.kind === 'curtail' ? phase.placing?.entry.ask : phase?.kind === 'clear' ? phase.entry.ask : undefined
  return asked?.method === 'request' && asked.request.startMs === endMs
}

/** Whether others have got notice for a cluster, be it under that for another. */
export const isNoticedFor = (turn: Turn, clusterId: string): boolean =>
  [...turn.machine.records.values()].some(record => noticesOf(record).some(({ beneficiary }) => beneficiary === clusterId))

/**
 * How long something may be held for its user that others have got notice for: it has lapsed early enough for them to have their ends
 * again, as they must not end for what nobody has decided.
 */
export const holdByNoticeMs = (turn: Turn, { clusterId, startMs }: Request): number =>
  isNoticedFor(turn, clusterId) ? Math.max(HOLD_TTL_MS, startMs - turn.now - NOTICE_RETURN_MS) : MAX_HOLD_TTL_MS

/** Looks after a notice. @returns whether hosts are asked something */
export function tendNotice (turn: Turn, record: GatewayRecord): boolean {
  const { notice } = record
  if (record.state !== 'active' || notice?.seq === undefined) return false
  const { beneficiary = '', state } = notice
  if (state === 'withdrawing') return takeBack(turn, record)
  if (beneficiary !== '' && !isWanted(turn, notice)) return takeBack(turn, turn.notify(record, 'withdraw', { withdrawnMs: turn.now }, withGivenBack(record, turn.now)))
  if (state !== 'ordered' || turn.machine.jobs.get(beneficiary)?.phase.kind === 'curtail') return false
  const { first, last } = curtailCalls(record)
  turn.start(record.clusterId, { kind: 'curtail', placing: null }, [], first, last)
  return true
}

/** The gateway's own host first: the segment must not end before what uses it. */
function takeBack (turn: Turn, record: GatewayRecord): boolean {
  const { clusterId, notice, offer } = record
  // One that nobody wants any more would be withdrawn at once.
  const under = noticesOf(record).slice(1).find(one => one.beneficiary === '' || isWanted(turn, one)) ?? null
  const request = { clusterId, seq: notice?.seq ?? 0, ...under === null ? {} : { endMs: under.endMs } }
  const calls = toldHosts(record).map(({ host, peer }): HostCall => ({ host, peer, ask: { method: 'hostRestore', request } }))
  turn.start(clusterId, { kind: 'restore', under }, [], calls.filter(({ peer }) => peer === offer.gateway.peer), calls.filter(({ peer }) => peer !== offer.gateway.peer))
  return true
}

/** What was asked for last may still be held by hosts that a release has not reached: as long as any hold lasts that is no reason. */
const LAPSED_MS = MAX_HOLD_TTL_MS + HOLD_TTL_MS
const PROMISED = new Set(['NO_CAPACITY', 'QUOTA_EXCEEDED'])

/** Everywhere, or nowhere: a cluster that goes on at some of its hosts only is of no use. */
export function finishRestore (turn: Turn, clusterId: string, job: Job & { phase: { kind: 'restore' } }): void {
  const record = turn.record(clusterId)
  const { notice } = record ?? {}
  if (record?.state !== 'active' || notice?.state !== 'withdrawing') return
  const failed = failuresOf(job).filter(one => !isUnknown(one))
  const seq = notice.seq ?? 0
  const { under } = job.phase
  if (hasNothingBack(job, record)) {
    // Some may have had their former end back before: with a number of its own all are told once more.
    const reason = `preempted by the policy of ${turn.site}; the leases at its gateway have ended since`
    turn.notify(record, 'promised', { seq: seq + 1, beneficiary: '', reason })
    turn.note('lease.notice', `the leases of cluster ${record.cluster} still end at ${at(notice.endMs)}: those on ${record.offer.gateway.host}, with the segment, have ended already`, record.cluster)
    return
  }
  if (failed.length === 0 && under !== null) {
    // With a number of its own: a host may have heard of neither.
    const next = turn.notify(record, 'resume', { ...under, seq: seq + 1 })
    turn.note('lease.notice', `the leases of cluster ${record.cluster} end at ${at(toldEndMs(next))}, as before: ${under.reason}`, record.cluster)
    return
  }
  if (failed.length === 0) {
    turn.notify(record, 'restore', {}, { withdrawn: { atMs: turn.now, seq, reason: notice.reason } })
    turn.note('lease.notice-withdrawn', `the leases of cluster ${record.cluster} of ${record.masterSite} end at ${at(record.endMs)} again: nobody needs what would have come free`, record.cluster)
    return
  }
  const promised = failed.find(({ error }) => PROMISED.has(error.code))
  const beneficiary = turn.record(notice.beneficiary ?? '')
  const isGone = (beneficiary === undefined || beneficiary.startMs !== notice.endMs) && turn.now > (notice.withdrawnMs ?? 0) + LAPSED_MS
  if (promised === undefined || !isGone) return
  // With a number of its own: hosts that have given the former end back are told once more.
  const reason = `preempted by the policy of ${turn.site}; what comes free has been promised to others since`
  turn.notify(record, 'promised', { seq: seq + 1, beneficiary: '', reason })
  turn.note('lease.notice', `the leases of cluster ${record.cluster} of ${record.masterSite} still end at ${at(notice.endMs)}: ${promised.host}: ${describeError(promised.error)}`, record.cluster)
}
