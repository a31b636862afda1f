import type { Invariant } from '../invariant.ts'
import { type ClusterModel, type LeaseModel, type World, field, isLive, leaseText, listOf, numberOf, textOf, violated } from '../model.ts'
import type { Decisions } from './decisions.ts'

/** How long something may take to run after its lease became active, ms. */
const STARTS_WITHIN_MS = 60_000
/** A master calls a lender at least so often, also one that did not answer the last time. */
const CALLS_WITHIN_MS = 60_000
/** Every so often somebody looks whether all is settled. */
const LOOK_MS = 10_000

/** Once faults have stopped every cluster comes to all or nothing: all leases of the decision active and running, or none left. */
export function convergence (world: World, known: Decisions): Invariant {
  const NAME = 'converges'
  const { convergeMs } = world.description.bounds
  /** The time for it is up, give or take a look; who has settled before is not looked at any longer. */
  const isOver = (): boolean => world.nowMs - world.healedMs >= convergeMs - LOOK_MS
  /** clusters of which a lender or an operator has taken something, or a ledger was lost */
  const disturbed = new Set<string>()
  let ledgersLost = false
  /** since when a host leads a cluster, and when it last called a lender: by host, cluster and gateway */
  const activeSince = new Map<string, number>()
  const calledAt = new Map<string, number>()

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

  /** A reservation may start whenever it is looked at. */
  const hasJustBegun = ({ host, facts }: LeaseModel): boolean => world.nowMs + (host.facts?.ledgerOffMs ?? 0) - facts.activatedMs < STARTS_WITHIN_MS

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
    // What was answered a moment ago is not on the disk yet; who still activates at the end of the time has failed, unless it has only begun to.
    if (state === 'activating' && isOver() && hasJustBegun(active)) return
    if (state !== 'active' && (state !== 'activating' || isOver())) fail(`an orphan: ${leaseText(active.facts)} on ${active.host.name}`)
    noStrays(cluster, led?.record, fail)
    for (const offer of listOf(led?.record, 'offers')) {
      for (const one of listOf(offer, 'held')) {
        const host = world.hosts.get(textOf(one, 'host'))
        const lease = host?.leases.get(textOf(one, 'leaseId'))
        // A gateway gives back the quota of what has shrunk.
        if (textOf(one, 'kind') === 'quota' || host === undefined || host.malicious || lease?.lost === true || lease?.givenBack === true || isDropped(led?.record, textOf(one, 'leaseId'), textOf(offer, 'offerId'))) continue
        // Taken over while it was being activated: what did not run by then ends by itself.
        if (numberOf(led?.record, 'epoch') > 1 && lease?.facts.state === 'ended' && lease.facts.activatedMs === 0) continue
        if (lease === undefined || lease.facts.state !== 'active') { if (lease === undefined || !isNearEnd(lease)) fail(`not all of it: lease ${textOf(one, 'leaseId')} on ${host.name} is ${lease?.facts.state ?? 'not there'} (${lease?.facts.endReason ?? ''})`) }
        else runs(lease, fail)
      }
    }
  }

  /** Whoever has offered what runs still knows of it: how else could it be ended. */
  function remembered (cluster: ClusterModel): void {
    if (ledgersLost) return
    for (const lease of cluster.leases) {
      const gateway = known.offered.get(`${cluster.id}/${lease.facts.offerId}`)?.gateway
      if (gateway === undefined || lease.host.malicious || !isLive(lease) || lease.lost || lease.facts.state !== 'active' || isNearEnd(lease) || world.hosts.get(gateway)?.failing !== false) continue
      if (world.description.disks.gatewayRecord(gateway, cluster.id) === null) violated(world, NAME, gateway, `it has no record of cluster ${cluster.id.slice(0, 8)}, and ${leaseText(lease.facts)} on ${lease.host.name} lives`)
    }
  }

  /** What runs is part of the cluster as its first master has it, who forgets nothing; a successor may know less. */
  function noStrays (cluster: ClusterModel, record: unknown, fail: (why: string) => never): void {
    if (numberOf(record, 'epoch') > 1 || textOf(record, 'state') !== 'active' || listOf(record, 'dropped').length > 0 || field(record, 'amendment') !== null) return
    const ids = new Set(listOf(record, 'offers').flatMap(offer => listOf(offer, 'held').map(one => textOf(one, 'leaseId'))))
    for (const lease of cluster.leases) {
      if (!isLive(lease) || lease.lost || lease.host.malicious || lease.facts.state !== 'active' || lease.facts.kind === 'quota' || isNearEnd(lease)) continue
      if (!ids.has(lease.id)) fail(`${leaseText(lease.facts)} on ${lease.host.name} is no part of it`)
      if (lease.facts.endMs > numberOf(record, 'endMs')) fail(`${leaseText(lease.facts)} on ${lease.host.name} lasts until ${lease.facts.endMs}, its master knows of ${numberOf(record, 'endMs')}`)
    }
  }

  const isDropped = (record: unknown, leaseId: string, offerId: string): boolean =>
    listOf(record, 'dropped').some(one => listOf(one, 'leaseIds').includes(leaseId) || textOf(one, 'offerId') === offerId)

  function runs (lease: LeaseModel, fail: (why: string) => never): void {
    const { host, facts } = lease
    if (facts.kind !== 'node' || host.readySinceMs > world.nowMs - STARTS_WITHIN_MS || isNearEnd(lease)) return
    if (hasJustBegun(lease)) return
    for (const one of host.running.values()) if (one.facts.leaseId === lease.id) return
    fail(`${leaseText(facts)} on ${host.name} does not run`)
  }

  /** Whoever has a record goes on with it: nobody waits for ever for an answer, or for a change. */
  function goesOn (): void {
    for (const [key, record] of known.records) {
      const [name = '', clusterId = ''] = key.split(' ')
      const host = world.hosts.get(name)
      if (record === null || host === undefined || host.malicious || host.readySinceMs > world.healedMs + STARTS_WITHIN_MS || !isOver()) continue
      const state = textOf(record, 'state')
      const fail: (why: string) => never = why => violated(world, NAME, name, `cluster ${clusterId.slice(0, 8)} (${state}) after ${Math.round((world.nowMs - world.healedMs) / 1000)} s without faults: ${why}`)
      if (state === 'negotiating' || state === 'offered' || state === 'committing' || state === 'preparing') fail('its master has come to no end')
      // What a former master has decided is settled by what lenders say; those never heard are waited for longer.
      if (state === 'active' && field(record, 'amendment') !== null && !(numberOf(record, 'epoch') > 1 && numberOf(field(record, 'amendment'), 'commitByMs') === 0)) fail('a change of it has come to no end')
      if (state === 'active' && !ledgersLost && listOf(record, 'dropped').some(one => isHonest(textOf(one, 'peer')))) fail('what it has given up was never released')
    }
  }
  /** Who leads a cluster says so to all of its lenders, again and again. */
  function calls (): void {
    for (const [key, sinceMs] of activeSince) {
      const [name = '', clusterId = ''] = key.split(' ')
      const host = world.hosts.get(name)
      const record = known.records.get(key)
      if (host === undefined || host.malicious || world.nowMs - Math.max(sinceMs, host.readySinceMs) < CALLS_WITHIN_MS) continue
      for (const offer of listOf(record, 'offers')) {
        const gateway = textOf(field(offer, 'gateway'), 'host')
        const silentMs = world.nowMs - Math.max(sinceMs, host.readySinceMs, calledAt.get(`${key} ${gateway}`) ?? 0)
        if (silentMs > CALLS_WITHIN_MS) violated(world, NAME, name, `it leads cluster ${clusterId.slice(0, 8)} and has not called ${gateway} for ${Math.round(silentMs / 1000)} s`)
      }
    }
  }

  const isHonest = (peer: string): boolean => world.byPeer.get(peer)?.malicious === false

  return {
    name: NAME,
    decision ({ host, clusterId, record }) {
      const key = `${host} ${clusterId}`
      if (textOf(record, 'state') !== 'active') activeSince.delete(key)
      else if (!activeSince.has(key)) activeSince.set(key, world.nowMs)
    },
    call (call) {
      if (call.method === 'keepAlive' && !call.forged) calledAt.set(`${call.from} ${textOf(call.request, 'clusterId')} ${call.to}`, world.nowMs)
    },
    operator ({ action, clusterId, refused }) {
      if ((action === 'revoke' || action === 'notice') && refused === '') disturbed.add(clusterId)
    },
    diskLost () { ledgersLost = true },
    end () {
      for (const cluster of world.clusters.values()) remembered(cluster)
      for (const cluster of world.clusters.values()) settled(cluster)
      goesOn()
      calls()
    }
  }
}
