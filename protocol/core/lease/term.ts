/** The life of leases after their hold: commit, activate, release, revoke, vacate, and what a boot does. */
import { describeShortfall, fits, subtract, sum } from '../capacity.ts'
import { ConflictError, MusubiError, NotFoundError } from '../errors.ts'
import { ACTIVATE_TTL_MS, CONFIRM_MS } from '../limits.ts'
import { checkEpoch, hear } from './epoch.ts'
import { type EventOf, answerWith } from './events.ts'
import { commitExtension, releaseExtension } from './extend.ts'
import { type Answer, type Lease, isLive, isQuota, leasesOf, running } from './lease.ts'
import type { Turn } from './turn.ts'

const ended = (what: string, host: string, leases: readonly Lease[]): ConflictError =>
  new ConflictError(`${what} on ${host} has ended: ${leases.find(lease => !isLive(lease))?.endReason ?? 'unknown'}`, 'ask for it again')

export function commit ({ clusterId, offerId, epoch }: EventOf<'commit'>, turn: Turn): Answer {
  const { host } = turn.state
  checkEpoch(turn, clusterId, epoch)
  const extension = turn.extension(clusterId, offerId)
  const answer = extension === undefined ? commitLeases(clusterId, offerId, host, turn) : commitExtension(extension, turn)
  hear(turn, clusterId, epoch)
  return answer
}

function commitLeases (clusterId: string, offerId: string, host: string, turn: Turn): Answer {
  const leases = leasesOf(turn.state, clusterId).filter(lease => lease.offerId === offerId)
  if (leases.length === 0) throw new NotFoundError(`host ${host} holds no offer ${offerId} for cluster ${clusterId}`, 'ask for it again')
  // A receipt says "this is committed": it is never repeated for a lease that has ended since.
  if (!leases.every(isLive)) throw ended(`offer ${offerId}`, host, leases)
  if (leases.every(lease => lease.state !== 'held')) {
    return answerWith({ receipts: leases.map(lease => turn.receipt(lease, lease.commitToken)), replay: true })
  }
  const committed = leases.map(lease => turn.move(lease, 'commit', {
    deadlineMs: Math.max(turn.now, lease.startMs) + ACTIVATE_TTL_MS,
    // A decision so shortly before the start is a confirmation.
    confirmByMs: lease.startMs - turn.now > CONFIRM_MS ? lease.startMs : 0,
    commitToken: turn.state.counter + 1
  }))
  return answerWith({ receipts: committed.map(lease => turn.receipt(lease)) })
}

export function activate ({ clusterId, receipts, epoch }: EventOf<'activate'>, turn: Turn): Answer {
  const { host } = turn.state
  checkEpoch(turn, clusterId, epoch)
  const leases = leasesOf(turn.state, clusterId)
  const live = leases.filter(isLive)
  const committed = live.filter(lease => lease.state === 'committed')
  const active = live.filter(lease => lease.state === 'active')
  if (live.length === 0) throw leases.length === 0 ? new NotFoundError(`host ${host} has no leases of cluster ${clusterId}`) : ended(`cluster ${clusterId}`, host, leases)
  if (committed.length === 0 && active.length > 0) {
    hear(turn, clusterId, epoch)
    return answerWith({ receipts: active.map(lease => turn.receipt(lease)), replay: true })
  }
  const held = live.find(lease => lease.state === 'held')
  if (held !== undefined) throw new ConflictError(`offer ${held.offerId} of cluster ${clusterId} on ${host} is held, not committed`)
  for (const lease of committed) {
    const receipt = receipts.find(one => one.leaseId === lease.id && one.host === host)
    if (receipt === undefined) throw new ConflictError(`the commit receipt of lease ${lease.id} (${lease.kind} ${lease.name}) on ${host} is missing`)
    if (receipt.token !== lease.commitToken) throw new ConflictError(`the commit receipt of lease ${lease.id} on ${host} has token ${receipt.token}, the lease ${lease.commitToken}`)
    if (lease.startMs > turn.now) throw new MusubiError('TOO_EARLY', `lease ${lease.id} on ${host} starts in ${lease.startMs - turn.now} ms`, { retryable: true })
  }
  checkGone(committed, turn)
  const answer = answerWith({ receipts: committed.map(lease => turn.receipt(turn.move(lease, 'activate', { activatedMs: turn.now, confirmByMs: 0 }))) })
  hear(turn, clusterId, epoch)
  return answer
}

/** What ran before may still run: its share is not handed on before it is known to be gone. */
function checkGone (committed: readonly Lease[], { state }: Turn): void {
  const own = (lease: Lease): boolean => !isQuota(lease)
  const free = subtract(state.capacity, sum([...running(state)].filter(own).map(lease => lease.resources)))
  const need = sum(committed.filter(own).map(lease => lease.resources))
  if (!fits(need, free)) throw new MusubiError('NOT_READY', `host ${state.host}: ${describeShortfall(need, free)} until leases that have ended are gone`, { retryable: true, hint: 'try again in some seconds' })
}

export function release ({ clusterId, reason, offerId, leaseIds, epoch }: EventOf<'release'>, turn: Turn): Answer {
  checkEpoch(turn, clusterId, epoch)
  const { state } = turn
  const extension = offerId === undefined ? undefined : turn.extension(clusterId, offerId)
  const wanted = leaseIds === undefined ? null : new Set(leaseIds)
  const before = state.counter
  let answer = answerWith({})
  if (extension !== undefined && wanted === null) answer = releaseExtension(extension, reason, turn)
  else {
    const live = leasesOf(state, clusterId).filter(lease => isLive(lease) && (offerId === undefined || lease.offerId === offerId) && (wanted === null || wanted.has(lease.id)))
    const receipts = live.map(lease => turn.receipt(turn.end(lease, 'release', reason)))
    answer = answerWith({ receipts, ended: receipts.length })
  }
  answer.replay = state.counter === before
  if (state.byCluster.has(clusterId)) hear(turn, clusterId, epoch)
  return answer
}

export function revoke ({ clusterId, reason }: EventOf<'revoke'>, turn: Turn): Answer {
  const live = leasesOf(turn.state, clusterId).filter(isLive)
  if (live.length === 0) throw new NotFoundError(`host ${turn.state.host} has no live leases of cluster ${clusterId}`)
  const receipts = live.map(lease => turn.receipt(turn.end(lease, 'revoke', reason)))
  return answerWith({ receipts, ended: receipts.length })
}

export function vacate ({ clusterId, seenCounter = Number.POSITIVE_INFINITY }: EventOf<'vacate'>, turn: Turn): Answer {
  const gone = leasesOf(turn.state, clusterId).filter(lease => !isLive(lease) && !lease.vacated && lease.token <= seenCounter)
  return answerWith({ receipts: gone.map(lease => turn.receipt(turn.move(lease, 'vacate', { vacated: true }))), replay: gone.length === 0 })
}

/** Longer, never shorter: a hold that was answered must not end while its master counts on it. */
export function restart (turn: Turn): Answer {
  const { state, now } = turn
  for (const lease of [...state.occupying.values()]) {
    if (lease.state === 'held') turn.move(lease, 'restart', { deadlineMs: now + lease.ttlMs })
    if (lease.state !== 'committed') continue
    // While the host was off nobody could confirm: there is time for it again.
    const confirmByMs = lease.confirmByMs === 0 ? 0 : Math.max(lease.confirmByMs, now + ACTIVATE_TTL_MS)
    turn.move(lease, 'restart', { deadlineMs: Math.max(now, lease.startMs) + ACTIVATE_TTL_MS, confirmByMs })
  }
  // In the order in which they were held, whatever the order in which they were read: the numbers that they get must be the same.
  for (const extension of [...state.pending.values()].sort((a, b) => a.token - b.token)) turn.moveExtension(extension, 'restart', { deadlineMs: now + extension.ttlMs })
  return answerWith({})
}
