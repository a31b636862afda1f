/** What keeps a gateway's records true: keep-alives of masters, its own looks at hosts, and starts after a crash. */
import { NotFoundError } from '../errors.ts'
import { ACTIVATE_TTL_MS, MASTERLESS_MS, MAX_HOST_CALLS, MAX_TIDIED, PROBE_MS } from '../limits.ts'
import { brief, mustOwn } from './checks.ts'
import { type HostCall, type Job, type Turn, type WaitingFor, answersOf, failuresOf } from './machine.ts'
import { type GatewayRecord, allHeld, backedUntilMs, hostsOf, overSinceMs } from './record.ts'
import { isNoticedFor, isNoticeOver, noticeText, tendNotice, toldEndMs } from './notice.ts'
import { rehold } from './place.ts'
import { releaseAgain } from './release.ts'
import { toldOffer } from './shares.ts'

/** The master of a cluster has called, and is who it says. */
export function hear (turn: Turn, record: GatewayRecord, skewMs?: number): void {
  const before = turn.machine.heard.get(record.clusterId)
  if (before?.masterless === true) turn.note('lease.master-back', `the master of cluster ${record.cluster} is heard of again`, record.cluster)
  turn.machine.heard.set(record.clusterId, { ms: turn.now, skewMs: skewMs ?? before?.skewMs ?? 0, masterless: false, over: before?.over ?? [] })
}

/**
 * Answered at once, whatever is under way for the cluster: a slow host must not make its master
 * look gone. The hosts are told beside it.
 *
 * @throws MusubiError for the asker
 */
export function keepAlive (turn: Turn, { askId, caller, ask: { request, holder } }: WaitingFor<'keepAlive'>): void {
  const { clusterId } = request
  let record = turn.record(clusterId)
  if (record === undefined) throw new NotFoundError(`site ${turn.site} has nothing of cluster ${brief(clusterId)}`)
  // A verified grant counts whoever brings it; whether the caller is who it names is asked after that.
  if (holder !== null && holder.epoch > record.epoch && caller.site === record.masterSite) {
    record = turn.save({ ...record, epoch: holder.epoch, masterPeer: holder.peer }, true)
    turn.note('lease.adopted', `cluster ${record.cluster} is led by ${holder.peer} in epoch ${holder.epoch}`, record.cluster)
  }
  mustOwn(turn.site, record, caller, request.epoch)
  hear(turn, record, turn.now - request.sentMs)
  const { state, epoch, masterPeer } = record
  turn.answer([askId], { method: 'keepAlive', reply: { site: turn.site, state: shownState(turn, record), endMs: toldEndMs(record), epoch, nowMs: turn.now, ...noticeText(record) === '' ? {} : { notice: noticeText(record) } } })
  // While it asks no host has said that it lends to this master: the cluster may be another's there.
  if (state === 'asking' || state === 'releasing' || turn.machine.calls.size >= MAX_HOST_CALLS) return
  const busy = new Set([...turn.machine.calls.values()].filter(call => call.clusterId === clusterId && call.method === 'hostKeepAlive').map(call => call.peer))
  for (const { host, peer } of hostsOf(allHeld(record)).filter(one => !busy.has(one.peer))) {
    turn.call(clusterId, 0, { host, peer, ask: { method: 'hostKeepAlive', request: { clusterId, epoch, holder: masterPeer } } })
  }
}

/** As far as hosts have told: what one operator has revoked, or one host has ended early, is not hidden by the others. */
function shownState (turn: Turn, record: GatewayRecord): string {
  const { clusterId, state } = record
  const heard = state === 'active' ? turn.machine.heard.get(clusterId)?.over ?? [] : []
  // A host that a shrink has emptied is no part of it any more, and a gateway that only lends a share never was for its master.
  const over = heard.filter(host => toldOffer({ ...record.offer, held: allHeld(record) }).held.some(held => held.host === host))
  const known = state === 'active' && record.notice !== undefined ? `${state}, preempted` : state
  return over.length === 0 ? known : brief(`${known}, ended on ${over.join(' ')}`)
}

/** A host that says in passing that it has nothing more makes the next tick look. */
export function afterKeepAlive (turn: Turn, clusterId: string, host: string, state: string): void {
  const isOver = state === '' || state === 'ended'
  if (isOver) turn.machine.tidiedMs.delete(clusterId)
  const heard = turn.machine.heard.get(clusterId)
  if (heard !== undefined && heard.over.includes(host) !== isOver) turn.machine.heard.set(clusterId, { ...heard, over: isOver ? [...heard.over, host].sort() : heard.over.filter(one => one !== host) })
}

/** The process has started: what was being asked is asked again or given up; masters get their time to call. */
export function start (turn: Turn): void {
  turn.machine.startedMs = turn.now
  for (const record of turn.machine.records.values()) {
    turn.machine.heard.set(record.clusterId, { ms: turn.now, skewMs: 0, masterless: false, over: [] })
    if (record.amendment?.state === 'asking') turn.amend(record, 'restart')
  }
}

/** Time passes: whatever stands open is taken up, the longest untouched first. */
export function tick (turn: Turn): void {
  const { records, tidiedMs, jobs } = turn.machine
  let room = MAX_TIDIED - [...jobs.values()].filter(job => job.askers.length === 0).length
  const due = [...records.values()].filter(record => !jobs.has(record.clusterId))
    .map(record => ({ record, lastMs: tidiedMs.get(record.clusterId) ?? Number.NEGATIVE_INFINITY })).sort((a, b) => a.lastMs - b.lastMs)
  for (const { record, lastMs } of due) {
    if (room <= 0 || turn.machine.calls.size >= MAX_HOST_CALLS) break
    if (!tidy(turn, record, lastMs)) continue
    tidiedMs.set(record.clusterId, turn.now)
    room--
  }
  for (const record of records.values()) watchMaster(turn, record)
}

/** @returns whether hosts are asked something */
function tidy (turn: Turn, record: GatewayRecord, lastMs: number): boolean {
  const { clusterId } = record
  if (record.state === 'releasing' && turn.now > overSinceMs(record)) {
    turn.gone(record)
    return false
  }
  if (isNoticeOver(record, turn.now)) return releaseAgain(turn, turn.move(record, 'release', { reason: record.notice?.reason ?? '' }))
  // In turns: a host that does not confirm the one must not keep all others from hearing of the other.
  if (turn.machine.triedLast.delete(clusterId) && tendNotice(turn, record)) return true
  if (releaseAgain(turn, record)) {
    turn.machine.triedLast.add(clusterId)
    return true
  }
  if (tendNotice(turn, record)) return true
  if (record.state === 'asking') {
    if (turn.now <= Math.max(record.offer.nowMs, turn.machine.startedMs) + record.offer.ttlMs) rehold(turn, record, null)
    else releaseAgain(turn, turn.move(record, 'restart', { reason: 'the gateway was restarted' }))
    return true
  }
  // As long as the master calls and time has ended nothing, keep-alives say what hosts have.
  const heard = turn.machine.heard.get(clusterId)
  const trusted = turn.now <= backedUntilMs(record, ACTIVATE_TTL_MS) && (turn.now < lastMs + PROBE_MS || (lastMs !== Number.NEGATIVE_INFINITY && heard !== undefined && turn.now < heard.ms + MASTERLESS_MS))
  if (trusted) return false
  turn.start(clusterId, { kind: 'probe' }, [], hostsOf(allHeld(record)).map(({ host, peer }): HostCall => ({ host, peer, ask: { method: 'hostStatus', request: { clusterId } } })))
  return true
}

function watchMaster (turn: Turn, record: GatewayRecord): void {
  const heard = turn.machine.heard.get(record.clusterId)
  if (heard === undefined || heard.masterless || record.state !== 'active' || turn.now - heard.ms < MASTERLESS_MS) return
  turn.machine.heard.set(record.clusterId, { ...heard, masterless: true })
  turn.note('lease.masterless', `the master of cluster ${record.cluster} at ${record.masterSite} has not been heard of for ${Math.round((turn.now - heard.ms) / 1000)} s; it runs on to its end`, record.cluster)
}

const RANK: Readonly<Record<string, number>> = { held: 1, committed: 2, active: 3 }

/** Holds, inactive and ended leases end at the hosts by themselves: what no host has any more is forgotten. */
export function finishProbe (turn: Turn, clusterId: string, job: Job): void {
  const record = turn.record(clusterId)
  if (record === undefined || record.state === 'asking' || record.state === 'releasing') return
  const states = answersOf(job, 'hostStatus').map(({ reply }) => reply)
  if (failuresOf(job).length > 0) {
    // An offer that one host has ended is over: whoever had to make room for it must not wait for a host that cannot be looked at.
    if (record.state === 'offered' && isNoticedFor(turn, clusterId) && states.some(({ leaseState }) => RANK[leaseState] === undefined)) turn.move(record, 'release', { reason: 'its hold has lapsed' })
    return
  }
  if (states.length < hostsOf(allHeld(record)).length) return
  if (states.every(({ leaseState, objects }) => RANK[leaseState] === undefined && objects.length === 0)) {
    turn.gone(record)
    return
  }
  // A crash may have lost how far it was: hosts know.
  const least = Math.min(...states.map(({ leaseState }) => RANK[leaseState] ?? 0))
  const committed = record.state === 'offered' && least >= 2 ? turn.move(record, 'commit') : record
  if (committed.state === 'committed' && least >= 3) turn.move(committed, 'activate', {}, true)
}
