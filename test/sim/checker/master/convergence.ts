import type { Invariant } from '../invariant.ts'
import { type ClusterModel, type LeaseModel, type World, isLive, leaseText, listOf, numberOf, textOf, violated } from '../model.ts'
import type { Decisions } from './decisions.ts'

/** How long something may take to run after its lease became active, ms. */
const STARTS_WITHIN_MS = 60_000

/** Once faults have stopped every cluster comes to all or nothing: all leases of the decision active and running, or none left. */
export function convergence (world: World, known: Decisions): Invariant {
  const NAME = 'converges'
  const { convergeMs } = world.description.bounds
  /** clusters of which a lender or an operator has taken something, or a ledger was lost */
  const disturbed = new Set<string>()
  let ledgersLost = false

  /** The record of whoever leads it: of the highest epoch. */
  function recordOf (clusterId: string): { host: string, record: unknown } | null {
    let best: { host: string, record: unknown } | null = null
    for (const [key, record] of known.records) {
      if (!key.endsWith(` ${clusterId}`) || record === null) continue
      if (best === null || numberOf(record, 'epoch') > numberOf(best.record, 'epoch')) best = { host: key.slice(0, key.indexOf(' ')), record }
    }
    return best
  }

  /** Its end is near enough that hosts may have ended it, or not yet. */
  const isNearEnd = (lease: LeaseModel): boolean => lease.facts.endMs - world.nowMs <= Math.abs(lease.host.facts?.clockErrorMs ?? 0) + STARTS_WITHIN_MS

  function settled (cluster: ClusterModel): void {
    const live = [...cluster.leases].filter(lease => isLive(lease) && !lease.lost && !lease.host.malicious)
    if (live.length === 0 || cluster.creator === '') return
    const led = recordOf(cluster.id)
    const state = textOf(led?.record, 'state')
    const fail: (why: string) => never = why => violated(world, NAME, led?.host ?? cluster.creator, `cluster ${cluster.id.slice(0, 8)} (${state === '' ? 'no record' : state}) after ${Math.round((world.nowMs - world.healedMs) / 1000)} s without faults: ${why}`)
    const held = live.find(lease => lease.facts.state === 'held')
    if (held !== undefined) fail(`${leaseText(held.facts)} on ${held.host.name}`)
    if (disturbed.has(cluster.id) || ledgersLost) return
    const active = live.find(lease => lease.facts.state === 'active' && !isNearEnd(lease))
    const waiting = live.find(lease => lease.facts.state === 'committed' && lease.facts.startMs <= world.nowMs - Math.abs(lease.host.facts?.clockErrorMs ?? 0) - STARTS_WITHIN_MS)
    if (waiting !== undefined) fail(`${leaseText(waiting.facts)} on ${waiting.host.name} was not activated`)
    if (active === undefined) return
    if (state === 'superseded') return // granted to somebody who never took it: shown as masterless, until its end
    // By the clock of its master its term was over; after a boot that may be wrong, and hosts end it by theirs.
    if (state === 'ended' && numberOf(led?.record, 'endedMs') >= active.facts.endMs) return
    // What was answered a moment ago is not on the disk yet; who still activates at the end of the time has failed.
    if (state !== 'active' && (state !== 'activating' || world.nowMs - world.healedMs >= convergeMs)) fail(`an orphan: ${leaseText(active.facts)} on ${active.host.name}`)
    for (const offer of listOf(led?.record, 'offers')) {
      for (const one of listOf(offer, 'held')) {
        const host = world.hosts.get(textOf(one, 'host'))
        const lease = host?.leases.get(textOf(one, 'leaseId'))
        // A gateway gives back the quota of what has shrunk.
        if (textOf(one, 'kind') === 'quota' || host === undefined || host.malicious || lease?.lost === true || lease?.givenBack === true || isDropped(led?.record, textOf(one, 'leaseId'), textOf(offer, 'offerId'))) continue
        if (lease === undefined || lease.facts.state !== 'active') { if (lease === undefined || !isNearEnd(lease)) fail(`not all of it: lease ${textOf(one, 'leaseId')} on ${host.name} is ${lease?.facts.state ?? 'not there'} (${lease?.facts.endReason ?? ''})`) }
        else runs(lease, fail)
      }
    }
  }

  const isDropped = (record: unknown, leaseId: string, offerId: string): boolean =>
    listOf(record, 'dropped').some(one => listOf(one, 'leaseIds').includes(leaseId) || textOf(one, 'offerId') === offerId)

  function runs (lease: LeaseModel, fail: (why: string) => never): void {
    const { host, facts } = lease
    if (facts.kind !== 'node' || host.readySinceMs > world.nowMs - STARTS_WITHIN_MS || isNearEnd(lease)) return
    if (world.nowMs + (host.facts?.ledgerOffMs ?? 0) - facts.activatedMs < STARTS_WITHIN_MS) return
    for (const one of host.running.values()) if (one.facts.leaseId === lease.id) return
    fail(`${leaseText(facts)} on ${host.name} does not run`)
  }

  return {
    name: NAME,
    operator ({ action, clusterId, refused }) {
      if (action === 'revoke' && refused === '') disturbed.add(clusterId)
    },
    diskLost () { ledgersLost = true },
    end () {
      for (const cluster of world.clusters.values()) settled(cluster)
    }
  }
}
