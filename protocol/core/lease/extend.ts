/** A later end for leases: held like anything else, theirs once committed, and given back by a release. */
import { ConflictError, InvalidInputError, NotFoundError } from '../errors.ts'
import { MAX_TERM_MS } from '../limits.ts'
import { checkEpoch, hear, isEpoch } from './epoch.ts'
import { type EventOf, answerWith } from './events.ts'
import { checkRoom, isId, ttlOf } from './hold.ts'
import { type Answer, type Extension, type Lease, isLive, leasesOf, mustNotBeCurtailed, unnoticed } from './lease.ts'
import type { Turn } from './turn.ts'

const canonical = ({ request: r }: EventOf<'extend'>): string => JSON.stringify([r.clusterId, r.offerId, r.endMs, r.ttlMs, r.leaseIds])

/** The stored answer of a key, if this is the same question. */
function replayed (event: EventOf<'extend'>, { state }: Turn): Answer | null {
  const { key } = event.request
  const replay = state.replays.get(key)
  if (replay === undefined) return null
  if (replay.kind !== 'extend' || replay.asked !== canonical(event)) throw new ConflictError(`the idempotency key ${key} was used for another question on ${state.host}`)
  return { ...replay.answer, replay: true }
}

/** The leases that are meant: those named, else all that are committed or active. */
function meant ({ request }: EventOf<'extend'>, { state }: Turn): Lease[] {
  const { clusterId, leaseIds } = request
  const live = leasesOf(state, clusterId).filter(isLive)
  if (live.length === 0) throw new NotFoundError(`host ${state.host} has no leases of cluster ${clusterId}`)
  if (new Set(leaseIds).size !== leaseIds.length) throw new InvalidInputError(`extension ${request.offerId} of cluster ${clusterId} on ${state.host} names a lease twice`)
  const all = leaseIds.length === 0 ? live : leaseIds.map(id => {
    const lease = live.find(one => one.id === id)
    if (lease === undefined) throw new NotFoundError(`host ${state.host} has no live lease ${id} of cluster ${clusterId}`)
    return lease
  })
  const held = all.find(lease => lease.state === 'held')
  if (held !== undefined) throw new ConflictError(`lease ${held.id} of cluster ${clusterId} on ${state.host} is held, not committed: it cannot be extended yet`)
  mustNotBeCurtailed(clusterId, all, state.host)
  return all
}

/** Everything the leases take must be free from the end of each until the later end. */
function checkCalendar (leases: readonly Lease[], endMs: number, turn: Turn): void {
  const ends = [...new Set(leases.map(lease => lease.endMs))].sort((a, b) => a - b)
  for (const [i, fromMs] of ends.entries()) {
    const untilMs = ends[i + 1] ?? endMs
    const open = leases.filter(lease => lease.endMs <= fromMs)
    for (const site of new Set(open.map(lease => lease.masterSite))) checkRoom(turn, open, site, fromMs, untilMs)
  }
}

export function extend (event: EventOf<'extend'>, turn: Turn): Answer {
  const { request, requester } = event
  const { clusterId, offerId, endMs, key } = request
  const { state, now } = turn
  const refuse = (why: string): never => { throw new InvalidInputError(`extension ${offerId} of cluster ${clusterId} on ${state.host}: ${why}`) }
  checkEpoch(turn, clusterId, request.epoch)
  const known = replayed(event, turn)
  if (known !== null) return known
  if (![key, clusterId, offerId, requester].every(isId)) refuse('key, cluster, offer and requester must be named')
  if (!isEpoch(request.epoch)) refuse('the epoch of a master is a whole number from 1')
  const ttlMs = ttlOf(request.ttlMs, refuse)
  const leases = meant(event, turn)
  if (!Number.isSafeInteger(endMs) || leases.some(lease => lease.endMs >= endMs)) refuse('a lease ends as late already')
  if (leases.some(lease => endMs - Math.max(now, lease.startMs) > MAX_TERM_MS)) refuse(`a term is at most ${MAX_TERM_MS} ms`)
  if (turn.extension(clusterId, offerId) !== undefined || leasesOf(state, clusterId).some(lease => lease.offerId === offerId)) throw new ConflictError(`offer ${offerId} is known on ${state.host} under another key`)
  const other = [...state.extensionsOf.get(clusterId)?.values() ?? []].find(one => one.state === 'held')
  if (other !== undefined) throw new ConflictError(`extension ${other.offerId} of cluster ${clusterId} is held on ${state.host}: one at a time`, 'commit or release that one first')
  checkCalendar(leases, endMs, turn)
  const extension = turn.beginExtension({
    clusterId, offerId, key, requester, endMs, ttlMs, deadlineMs: now + ttlMs, receipts: [], endedMs: 0, endReason: '',
    leases: leases.map(lease => ({ id: lease.id, formerEndMs: lease.endMs }))
  })
  const answer = answerWith({ receipts: leases.map(lease => turn.receipt(lease, extension.token)) })
  turn.keepReplay({ key, kind: 'extend', offerId, startMs: 0, endMs, leaseIds: leases.map(lease => lease.id), answer, asked: canonical(event) })
  hear(turn, clusterId, request.epoch)
  return answer
}

/** The leases of a held extension get its end. */
export function commitExtension (extension: Extension, turn: Turn): Answer {
  const { host, leases } = turn.state
  if (extension.state === 'ended') throw new ConflictError(`extension ${extension.offerId} on ${host} has ended: ${extension.endReason}`, 'ask for it again')
  const live = extension.leases.map(({ id }) => leases.get(id)).filter(lease => lease !== undefined && isLive(lease)) as Lease[]
  // A receipt says "this ends so late": it is never given, nor repeated, when one of them has ended since.
  if (live.length !== extension.leases.length) throw new ConflictError(`extension ${extension.offerId} on ${host} names a lease that has ended`, 'release it, and ask again for what is left')
  if (extension.state === 'committed') return answerWith({ receipts: [...extension.receipts], replay: true })
  const receipts = live.map(lease => turn.receipt(turn.move(lease, 'extend', { endMs: extension.endMs })))
  for (const one of [...turn.state.extensionsOf.get(extension.clusterId)?.values() ?? []]) {
    if (one.state === 'committed') turn.endExtension(one, 'supersede', `extension ${extension.offerId} goes further`)
  }
  turn.moveExtension(extension, 'commit', { receipts })
  return answerWith({ receipts })
}

/** Shortening is always possible: leases that have its end go back to their former one, and end if that has passed. */
export function releaseExtension (extension: Extension, reason: string, turn: Turn): Answer {
  if (extension.state === 'ended') return answerWith({ replay: true })
  const committed = extension.state === 'committed'
  turn.endExtension(extension, 'release', reason)
  if (!committed) return answerWith({})
  // What is held on top of an end that is no more would not follow on.
  for (const one of [...turn.state.extensionsOf.get(extension.clusterId)?.values() ?? []]) {
    if (one.state === 'held') turn.endExtension(one, 'release', `extension ${extension.offerId}, on which it builds, was released`)
  }
  let ended = 0
  const receipts = []
  for (const { id, formerEndMs } of extension.leases) {
    const lease = turn.state.leases.get(id)
    if (lease === undefined || !isLive(lease)) continue
    // What has notice ends earlier: only the end that it would get back is another.
    if (lease.formerEndMs === extension.endMs && formerEndMs > lease.endMs) {
      receipts.push(turn.receipt(turn.move(lease, 'shorten', { formerEndMs })))
      continue
    }
    if (lease.endMs !== extension.endMs && lease.formerEndMs !== extension.endMs) continue
    const shorter = turn.move(unnoticed(lease), 'shorten', { endMs: formerEndMs })
    receipts.push(turn.receipt(formerEndMs > turn.now ? shorter : turn.end(shorter, 'release', reason)))
    if (formerEndMs <= turn.now) ended++
  }
  return answerWith({ receipts, ended })
}
