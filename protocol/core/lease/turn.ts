/** One event being worked on. All changes of a ledger's state go through here, along the tables. */
import { ConflictError } from '../errors.ts'
import { MAX_EXTENSIONS_KEPT, REPLAY_KEEP_MS } from '../limits.ts'
import type { Receipt } from '../messages.ts'
import type { Effect } from './events.ts'
import { type ClusterEpoch, type Extension, type Lease, type Replay, END_GUARD_MS, ID_QUARANTINE_MS, isLive, restsUntil } from './lease.ts'
import { type LedgerState, dropExtension, dropLease, dropReplay, extensionId, putExtension, putLease, putReplay } from './state.ts'
import { type EpochTrigger, type ExtensionTrigger, type LeaseTrigger, nextEpochState, nextExtensionState, nextState } from './tables.ts'

/** When time alone changes this lease next. */
export function dueOf (lease: Lease): number {
  if (lease.state === 'active') return lease.endMs
  if (!isLive(lease)) return Math.max(lease.endedMs + REPLAY_KEEP_MS, restsUntil(lease))
  const due = Math.min(lease.deadlineMs, lease.endMs)
  return lease.state === 'committed' && lease.confirmByMs !== 0 ? Math.min(due, lease.confirmByMs) : due
}

/** When time alone changes this extension next; one that is committed lives as long as its leases. */
export function dueOfExtension (extension: Extension): number {
  if (extension.state === 'held') return extension.deadlineMs
  return extension.state === 'ended' ? extension.endedMs + REPLAY_KEEP_MS : Number.POSITIVE_INFINITY
}

export class Turn {
  readonly state: LedgerState
  readonly effects: Effect[] = []
  constructor (state: LedgerState) { this.state = state }

  get now (): number { return this.state.clockMs }

  receipt = (lease: Lease, token = lease.token): Receipt => ({ leaseId: lease.id, host: this.state.host, token })

  /** A lease that begins: with the next fencing token. */
  begin (lease: Omit<Lease, 'state' | 'token' | 'heldToken'>): Lease {
    const state = nextState(null, 'hold')
    if (state === undefined || state === null) throw new ConflictError(`lease ${lease.id} on ${this.state.host} cannot be held`)
    return this.#put({ ...lease, state, token: 0, heldToken: this.state.counter + 1 }, null, 'hold')
  }

  /** Moves a lease along the table of transitions, with a new fencing token. */
  move (lease: Lease, trigger: LeaseTrigger, change: Partial<Lease> = {}): Lease {
    const to = nextState(lease.state, trigger)
    if (to === undefined || to === null) throw new ConflictError(`lease ${lease.id} on ${this.state.host} is ${lease.state}: ${trigger} is not possible`)
    return this.#put({ ...lease, ...change, state: to }, lease.state, trigger)
  }

  #put (lease: Lease, from: Lease['state'] | null, trigger: LeaseTrigger): Lease {
    const next: Lease = { ...lease, token: ++this.state.counter }
    putLease(this.state, next)
    this.due(dueOf(next))
    this.effects.push({ effect: 'lease', lease: next, from, trigger })
    return next
  }

  end (lease: Lease, trigger: 'expire' | 'release' | 'revoke', reason: string): Lease {
    const ended = this.move(lease, trigger, { endedMs: this.now, endReason: reason, vacated: lease.state !== 'active', ...this.#rest(lease, trigger) })
    this.#settleExtensions(lease.clusterId)
    return ended
  }

  /**
   * A gateway releases its segment when all other hosts have confirmed. However else it ends, they may
   * have it plugged in until their own leases have ended, which an extension may have made longer. Not
   * so before it was active: the gateway's own host is activated first, so no other has it. Who only
   * commits must not take an id from others for the whole term that was asked for.
   */
  #rest (lease: Lease, trigger: 'expire' | 'release' | 'revoke'): Partial<Lease> {
    if (lease.kind !== 'segment' || lease.state === 'held') return {}
    const restedMs = this.now + ID_QUARANTINE_MS
    if (trigger === 'release' || lease.activatedMs === 0) return { deadlineMs: restedMs }
    // The gateway's own host is curtailed last, and restored first: no other host has it plugged in for longer.
    if (lease.formerEndMs !== undefined) return { deadlineMs: Math.max(restedMs, lease.endMs + END_GUARD_MS) }
    const ends = [...this.state.extensionsOf.get(lease.clusterId)?.values() ?? []].filter(one => one.state !== 'ended').map(one => one.endMs)
    return { deadlineMs: Math.max(restedMs, Math.max(lease.endMs, ...ends) + END_GUARD_MS) }
  }

  /** Forgets an ended lease, and with it what is only there for its cluster. */
  forget (lease: Lease): void {
    const { state } = this
    if (nextState(lease.state, 'forget') !== null) throw new ConflictError(`lease ${lease.id} on ${state.host} is ${lease.state}: it cannot be forgotten`)
    const replay = state.replays.get(state.keyOf.get(lease.id) ?? '')
    dropLease(state, lease.id)
    this.effects.push({ effect: 'forget', leaseId: lease.id })
    // An answer is kept as long as any of its leases is.
    if (replay !== undefined && !replay.leaseIds.some(id => state.leases.has(id))) this.#forgetReplay(replay.key)
    if (state.byCluster.has(lease.clusterId)) return
    state.heard.delete(lease.clusterId)
    for (const extension of [...state.extensionsOf.get(lease.clusterId)?.values() ?? []]) this.forgetExtension(extension)
    if (nextEpochState('known', 'forget') === null && state.epochs.delete(lease.clusterId)) this.effects.push({ effect: 'forget-epoch', clusterId: lease.clusterId })
  }

  keepReplay (replay: Replay): void {
    putReplay(this.state, replay)
    this.effects.push({ effect: 'replay', replay })
  }

  #forgetReplay (key: string): void {
    dropReplay(this.state, key)
    this.effects.push({ effect: 'forget-replay', key })
  }

  extension (clusterId: string, offerId: string): Extension | undefined {
    return this.state.extensions.get(extensionId(clusterId, offerId))
  }

  beginExtension (extension: Omit<Extension, 'state' | 'token'>): Extension {
    const state = nextExtensionState(null, 'extend')
    if (state === undefined || state === null) throw new ConflictError(`extension ${extension.offerId} on ${this.state.host} cannot be held`)
    const begun = this.#putExtension({ ...extension, state, token: 0 }, null, 'extend')
    const all = [...this.state.extensionsOf.get(extension.clusterId)?.values() ?? []]
    for (const old of all.filter(one => one.state === 'ended').slice(0, Math.max(0, all.length - MAX_EXTENSIONS_KEPT))) this.forgetExtension(old)
    return begun
  }

  moveExtension (extension: Extension, trigger: ExtensionTrigger, change: Partial<Extension> = {}): Extension {
    const to = nextExtensionState(extension.state, trigger)
    if (to === undefined || to === null) throw new ConflictError(`extension ${extension.offerId} on ${this.state.host} is ${extension.state}: ${trigger} is not possible`)
    return this.#putExtension({ ...extension, ...change, state: to }, extension.state, trigger)
  }

  #putExtension (extension: Extension, from: Extension['state'] | null, trigger: ExtensionTrigger): Extension {
    const next: Extension = { ...extension, token: ++this.state.counter }
    putExtension(this.state, next)
    this.due(dueOfExtension(next))
    this.effects.push({ effect: 'extension', extension: next, from, trigger })
    return next
  }

  endExtension (extension: Extension, trigger: 'expire' | 'release' | 'supersede', reason: string): Extension {
    return this.moveExtension(extension, trigger, { endedMs: this.now, endReason: reason })
  }

  forgetExtension (extension: Extension): void {
    if (nextExtensionState(extension.state, 'forget') !== null) throw new ConflictError(`extension ${extension.offerId} on ${this.state.host} is ${extension.state}: it cannot be forgotten`)
    dropExtension(this.state, extension)
    this.effects.push({ effect: 'forget-extension', clusterId: extension.clusterId, offerId: extension.offerId })
    if (this.state.replays.has(extension.key)) this.#forgetReplay(extension.key)
  }

  /** An extension without any live lease is over. */
  #settleExtensions (clusterId: string): void {
    for (const extension of [...this.state.extensionsOf.get(clusterId)?.values() ?? []]) {
      if (extension.state === 'ended') continue
      const live = extension.leases.some(({ id }) => {
        const lease = this.state.leases.get(id)
        return lease !== undefined && isLive(lease)
      })
      if (!live) this.endExtension(extension, 'expire', 'its leases have ended')
    }
  }

  /** Takes down who is master of a cluster. */
  setEpoch (clusterId: string, epoch: number, holder: string, trigger: EpochTrigger): ClusterEpoch {
    const from = this.state.epochs.has(clusterId) ? 'known' : null
    if (nextEpochState(from, trigger) !== 'known') throw new ConflictError(`the epoch of cluster ${clusterId} on ${this.state.host} cannot change by ${trigger}`)
    const next: ClusterEpoch = { clusterId, epoch, holder, token: ++this.state.counter }
    this.state.epochs.set(clusterId, next)
    this.effects.push({ effect: 'epoch', epoch: next, trigger })
    return next
  }

  due (atMs: number): void {
    this.state.dueMs = Math.min(this.state.dueMs, atMs)
  }
}
