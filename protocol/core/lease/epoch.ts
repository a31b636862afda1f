/** Who is master of a cluster: the epoch that every call of a master carries, and how it is raised. */
import { ConflictError, InvalidInputError, MusubiError, NotFoundError } from '../errors.ts'
import { CONFIRM_MS, MASTERLESS_MS, MAX_EPOCH } from '../limits.ts'
import { type EventOf, answerWith } from './events.ts'
import { type Answer, type ClusterEpoch, type ReadonlyLedgerState, isAnchor, isLive, leasesOf } from './lease.ts'
import type { Turn } from './turn.ts'

export const isEpoch = (epoch: number): boolean => Number.isInteger(epoch) && epoch >= 1 && epoch <= MAX_EPOCH

const stale = (host: string, known: ClusterEpoch, epoch: number): MusubiError =>
  new MusubiError('STALE_EPOCH', `cluster ${known.clusterId} on ${host} has ${known.holder === '' ? 'another master' : `the master ${known.holder}`} since epoch ${known.epoch}, this is from epoch ${epoch}`, { hint: 'another gateway has taken the cluster over; this one must not act for it any more' })

/** When the master of a cluster was last heard of; null for a cluster that has no leases here. */
export const heardOf = (state: ReadonlyLedgerState, clusterId: string): number | null =>
  state.byCluster.has(clusterId) ? Math.max(state.heard.get(clusterId) ?? 0, state.openedMs) : null

/**
 * Refuses what comes from a former master, without a change. An epoch of 0 is not checked.
 *
 * @throws MusubiError STALE_EPOCH; ConflictError for an epoch that this host, as the anchor, has not granted
 */
export function checkEpoch ({ state }: Turn, clusterId: string, epoch = 0, holder = ''): void {
  if (epoch === 0) return
  if (!isEpoch(epoch)) throw new InvalidInputError(`the epoch ${epoch} of cluster ${clusterId} is not a whole number within 1..${MAX_EPOCH}`)
  const known = state.epochs.get(clusterId)
  if (known === undefined) return
  if (epoch < known.epoch || (epoch === known.epoch && holder !== '' && known.holder !== '' && holder !== known.holder)) throw stale(state.host, known, epoch)
  // The anchor's ledger alone decides: what it has not granted does not exist.
  if (epoch > known.epoch && isAnchor(state, clusterId)) throw new ConflictError(`${state.host} decides who is master of cluster ${clusterId}, and has granted epoch ${known.epoch}, not ${epoch}`, 'a new master claims its epoch from this host first')
}

/** Takes in who asks, after `checkEpoch` and everything else has passed. */
export function hear (turn: Turn, clusterId: string, epoch = 0, holder = ''): void {
  if (epoch === 0) return
  const { state } = turn
  const known = state.epochs.get(clusterId)
  if (known === undefined) turn.setEpoch(clusterId, epoch, holder, 'hear')
  else if (epoch > known.epoch || (known.holder === '' && holder !== '')) turn.setEpoch(clusterId, epoch, holder, 'raise')
  state.heard.set(clusterId, turn.now)
}

const unknown = (clusterId: string, host: string): NotFoundError => new NotFoundError(`host ${host} has no leases of cluster ${clusterId}`)

export function keepAlive ({ clusterId, epoch, holder }: EventOf<'keepAlive'>, turn: Turn): Answer {
  const { state, now } = turn
  checkEpoch(turn, clusterId, epoch, holder)
  const leases = leasesOf(state, clusterId)
  if (leases.length === 0) throw unknown(clusterId, state.host)
  if (epoch === 0) return answerWith({ replay: true })
  const before = state.counter
  hear(turn, clusterId, epoch, holder)
  for (const lease of leases) {
    if (lease.state === 'committed' && lease.confirmByMs !== 0 && lease.startMs - now <= CONFIRM_MS) turn.move(lease, 'confirm', { confirmByMs: 0 })
  }
  return answerWith({ replay: state.counter === before })
}

export function claim ({ clusterId, epoch, holder, force }: EventOf<'claim'>, turn: Turn): Answer {
  const { state, now } = turn
  if (!isEpoch(epoch) || holder === '') throw new InvalidInputError(`a claim of cluster ${clusterId} on ${state.host} names its holder and an epoch within 1..${MAX_EPOCH}`)
  if (!leasesOf(state, clusterId).some(isLive)) throw unknown(clusterId, state.host)
  if (!isAnchor(state, clusterId)) throw new MusubiError('NOT_ANCHOR', `host ${state.host} does not decide who is master of cluster ${clusterId}: its frontend is leased elsewhere`)
  const known = state.epochs.get(clusterId)
  if (known?.epoch === epoch && known.holder === holder) {
    state.heard.set(clusterId, now)
    return answerWith({ replay: true })
  }
  if (known !== undefined && epoch <= known.epoch) throw stale(state.host, known, epoch)
  const silentMs = now - (heardOf(state, clusterId) ?? now)
  if (!force && known !== undefined && known.holder !== holder && silentMs < MASTERLESS_MS) {
    throw new MusubiError('MASTER_ALIVE', `the master ${known.holder} of cluster ${clusterId} was heard of by ${state.host} ${silentMs} ms ago`, { retryable: true, hint: `it may be taken over when it was silent for ${MASTERLESS_MS} ms` })
  }
  turn.setEpoch(clusterId, epoch, holder, known === undefined ? 'hear' : force ? 'force' : 'claim')
  state.heard.set(clusterId, now)
  return answerWith({})
}
