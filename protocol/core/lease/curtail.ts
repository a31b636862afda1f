/**
 * An earlier end for the leases of a cluster whose lender has given it notice, and the former one again. The room that
 * comes free is booked like any other, so it is the ledger that says whether it can be given back.
 */
import { InvalidInputError, MusubiError } from '../errors.ts'
import { MIN_TERM_MS } from '../limits.ts'
import { type EventOf, answerWith } from './events.ts'
import { checkRoom } from './hold.ts'
import { type Answer, type Lease, isLive, leasesOf, unnoticed } from './lease.ts'
import type { Turn } from './turn.ts'

/** The live leases of the cluster. @throws MusubiError STALE_NOTICE for the word of an earlier notice */
function meant ({ clusterId, seq }: { clusterId: string, seq: number }, { state }: Turn): Lease[] {
  const live = leasesOf(state, clusterId).filter(isLive)
  if (!Number.isSafeInteger(seq) || seq < 1) throw new InvalidInputError(`a notice of cluster ${clusterId} on ${state.host} has a number from 1, not ${seq}`)
  const last = Math.max(0, ...live.map(lease => lease.noticeSeq ?? 0))
  if (seq < last) throw new MusubiError('STALE_NOTICE', `host ${state.host} knows notice ${last} of cluster ${clusterId}, this is about ${seq}`)
  return live
}

/**
 * Leases that would end later end at `endMs`; later ends that are held are given up. The answer has a receipt for each lease
 * that has changed; without live ones there is nothing to do.
 *
 * @throws MusubiError TOO_SOON when that is less than `MIN_TERM_MS` ahead of this host's clock; STALE_NOTICE
 */
export function curtail (event: EventOf<'curtail'>, turn: Turn): Answer {
  const { clusterId, seq, endMs, reason } = event
  const { state, now } = turn
  const live = meant(event, turn)
  if (!Number.isSafeInteger(endMs)) throw new InvalidInputError(`the notice of cluster ${clusterId} on ${state.host} ends at ${endMs}, which is no time`)
  // What was withdrawn is not given again under its number: an order that comes late must not undo that.
  if (live.some(lease => lease.noticeSeq === seq && lease.formerEndMs === undefined)) throw new MusubiError('STALE_NOTICE', `notice ${seq} of cluster ${clusterId} was withdrawn on ${state.host}`)
  const before = state.counter
  const later = live.filter(lease => lease.noticeSeq !== seq && (lease.formerEndMs !== undefined || lease.endMs > endMs))
  if (later.some(lease => lease.endMs > endMs) && endMs < now + MIN_TERM_MS) throw new MusubiError('TOO_SOON', `host ${state.host} ends the leases of cluster ${clusterId} no less than ${MIN_TERM_MS / 1000} s after their notice, not at ${new Date(endMs).toISOString()}`)
  for (const one of [...state.extensionsOf.get(clusterId)?.values() ?? []]) if (one.state === 'held') turn.endExtension(one, 'release', reason)
  // Under an earlier notice that still holds: it keeps the end from before both.
  const receipts = later.map(lease => turn.receipt(turn.move(lease, 'curtail', { endMs: Math.min(endMs, lease.endMs), formerEndMs: lease.formerEndMs ?? lease.endMs, noticeSeq: seq })))
  return answerWith({ receipts, replay: state.counter === before })
}

/** Everything that came free of the leases must be free still, of all of them together. */
function checkCameFree (leases: readonly Lease[], formerMs: (lease: Lease) => number, turn: Turn): void {
  const moments = [...new Set(leases.flatMap(lease => [lease.endMs, formerMs(lease)]))].sort((a, b) => a - b)
  for (const [i, fromMs] of moments.entries()) {
    const untilMs = moments[i + 1]
    if (untilMs === undefined) return
    const open = leases.filter(lease => lease.endMs <= fromMs && formerMs(lease) >= untilMs)
    for (const site of new Set(open.map(lease => lease.masterSite))) checkRoom(turn, open, site, fromMs, untilMs)
  }
}

/**
 * The ends from before the notice, for all leases of the cluster or for none; where an earlier notice still holds, that of it.
 *
 * @throws NoCapacityError, MusubiError QUOTA_EXCEEDED when somebody else has been promised what came free: then nothing changes
 */
export function restore (event: EventOf<'restore'>, turn: Turn): Answer {
  const { seq, endMs = 0 } = event
  const live = meant(event, turn)
  const before = turn.state.counter
  const formerMs = (lease: Lease): number => lease.formerEndMs ?? lease.endMs
  const nextMs = (lease: Lease): number => endMs === 0 ? formerMs(lease) : Math.max(lease.endMs, Math.min(endMs, formerMs(lease)))
  checkCameFree(live.filter(lease => lease.formerEndMs !== undefined), nextMs, turn)
  // What was never curtailed takes the number too: the order that it missed may still be on its way.
  const receipts = live.filter(lease => nextMs(lease) > lease.endMs || lease.noticeSeq !== seq || (lease.formerEndMs !== undefined && formerMs(lease) === lease.endMs))
    .map(lease => turn.receipt(turn.move(nextMs(lease) < formerMs(lease) ? lease : unnoticed(lease), 'restore', { endMs: nextMs(lease), noticeSeq: seq })))
  return answerWith({ receipts, replay: turn.state.counter === before })
}
