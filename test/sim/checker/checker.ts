/** The checker of the simulator: a model of its own, and invariants that are told what changed. See docs/lease-protocol. */
import type { Checker, HostFacts, Observation, RunningFacts, WorldDescription } from '../observation.ts'
import type { Invariant } from './invariant.ts'
import { invariantsOf } from './invariants.ts'
import { type Arrival, type HostModel, type LeaseModel, type World, EPOCH_MS, clusterOf, createWorld, rankOf, unixMs } from './model.ts'

type Told<K extends keyof Invariant> = Array<Invariant & Required<Pick<Invariant, K>>>
const thoseWith = <K extends keyof Invariant>(all: readonly Invariant[], hook: K): Told<K> => all.filter((one): one is Invariant & Required<Pick<Invariant, K>> => one[hook] !== undefined)

/** @param make other invariants than all, for tests */
export function createChecker (description: WorldDescription, make: (world: World) => Invariant[] = invariantsOf): Checker {
  const world = createWorld(description)
  const all = make(world)
  const onLease = thoseWith(all, 'lease')
  const onExtension = thoseWith(all, 'extension')
  const onHost = thoseWith(all, 'host')
  const onRunning = thoseWith(all, 'running')
  const onCall = thoseWith(all, 'call')
  const onArrive = thoseWith(all, 'arrive')
  const onAnswer = thoseWith(all, 'answer')
  const onDecision = thoseWith(all, 'decision')
  const onCommand = thoseWith(all, 'command')
  const onHelper = thoseWith(all, 'helper')
  const onCrash = thoseWith(all, 'crash')
  const onBoot = thoseWith(all, 'boot')
  const onDiskLost = thoseWith(all, 'diskLost')
  const onOperator = thoseWith(all, 'operator')
  const onDue = thoseWith(all, 'due')
  const onEnd = thoseWith(all, 'end')
  const arrivals = new Map<string, Arrival>()

  function hostNamed (name: string): HostModel {
    const host = world.hosts.get(name)
    if (host === undefined) throw new Error(`the world has no host ${name}`)
    return host
  }

  function takeLeases (host: HostModel, facts: HostFacts, reread: boolean): void {
    let present = 0
    // In one step a ledger ends what is over, and gives it to somebody else: that is the order.
    for (const after of facts.leases) {
      if (after.state !== 'ended') continue
      const known = host.leases.get(after.id)
      if (known === undefined || !known.there || known.facts.state === 'ended') continue
      const before = known.facts
      known.facts = after
      told(host, known, before, after, reread)
    }
    for (const after of facts.leases) {
      const known = host.leases.get(after.id)
      if (known === undefined || !known.there) {
        // Never answered and lost with a crash, it may be held anew: then it is another one of the same id.
        const before = known === undefined || known.promised === 0 ? null : known.facts
        const lease = known === undefined || before === null ? newLease(host, after) : Object.assign(known, { there: true })
        if (known !== undefined && before === null) world.clusters.get(known.facts.clusterId)?.leases.delete(known)
        lease.facts = after
        present++
        told(host, lease, before, after, reread)
      } else {
        present++
        if (known.facts !== after && !sameLease(known.facts, after)) {
          const before = known.facts
          known.facts = after
          told(host, known, before, after, reread)
        } else known.facts = after
      }
    }
    if (present === thereOf(host)) return
    const now = new Set(facts.leases.map(lease => lease.id))
    for (const lease of host.leases.values()) {
      if (!lease.there || now.has(lease.id)) continue
      lease.there = false
      told(host, lease, lease.facts, null, reread)
    }
  }

  function newLease (host: HostModel, facts: HostFacts['leases'][number]): LeaseModel {
    const lease: LeaseModel = {
      id: facts.id, host, facts, there: true, heldTrueMs: world.nowMs, firstTtlMs: facts.ttlMs, countsFromMs: world.nowMs, countsLatestMs: world.nowMs, committedTrueMs: 0, endedTrueMs: 0,
      promised: 0, promisedEndMs: 0, promisedToken: 0, over: false, lost: false, releasedMs: 0, givenBack: false
    }
    host.leases.set(lease.id, lease)
    clusterOf(world, facts.clusterId).leases.add(lease)
    return lease
  }

  function told (host: HostModel, lease: LeaseModel, before: LeaseModel['facts'] | null, after: LeaseModel['facts'] | null, reread: boolean): void {
    host.changes++
    if (before === null || (before.state !== 'ended' && !(before.state === 'active' && after?.state === 'ended' && after.endedMs >= after.endMs))) world.lastChangeMs = world.nowMs
    const from = before === null ? 0 : rankOf(before.state)
    const to = after === null ? 0 : rankOf(after.state)
    if (to === 2 && from !== 2) lease.committedTrueMs = lease.countsFromMs = lease.countsLatestMs = world.nowMs
    if (to === 4 && from !== 4) lease.endedTrueMs = world.nowMs
    const change = { host, lease, before, after, reread }
    for (const one of onLease) one.lease(change)
  }

  function takeExtensions (host: HostModel, facts: HostFacts, reread: boolean): void {
    const seen = new Set<string>()
    for (const after of facts.extensions) {
      const key = `${after.clusterId}/${after.offerId}`
      seen.add(key)
      const before = host.extensions.get(key) ?? null
      if (before === after || (before !== null && before.state === after.state && before.token === after.token && before.deadlineMs === after.deadlineMs)) continue
      host.extensions.set(key, after)
      host.changes++
      world.lastChangeMs = world.nowMs
      for (const one of onExtension) one.extension(host, before, after, reread)
    }
    if (seen.size === host.extensions.size) return
    for (const [key, before] of [...host.extensions]) {
      if (seen.has(key)) continue
      host.extensions.delete(key)
      host.changes++
      for (const one of onExtension) one.extension(host, before, null, reread)
    }
  }

  function takeRunning (host: HostModel, list: readonly RunningFacts[]): void {
    const seen = new Set<string>()
    for (const facts of list) {
      seen.add(facts.resource)
      const known = host.running.get(facts.resource)
      if (known !== undefined && (known.facts === facts || (known.facts.clusterId === facts.clusterId && known.facts.counter === facts.counter && known.facts.sinceTrueMs === facts.sinceTrueMs && known.facts.leaseId === facts.leaseId))) continue
      const after = { facts, sinceMs: world.nowMs, lease: facts.leaseId === '' ? null : host.leases.get(facts.leaseId) ?? null }
      host.running.set(facts.resource, after)
      for (const one of onRunning) one.running(host, facts.resource, after, known ?? null)
    }
    if (seen.size === host.running.size) return
    for (const [resource, before] of [...host.running]) {
      if (seen.has(resource)) continue
      host.running.delete(resource)
      for (const one of onRunning) one.running(host, resource, null, before)
    }
  }

  function takeHost (facts: HostFacts): void {
    const host = hostNamed(facts.host)
    const before = host.facts
    const reread = before === null || before.up !== facts.up || before.failed || facts.failed || !facts.up || host.ledgerLostMs === world.nowMs
    host.facts = facts
    host.up = facts.up
    host.failed = facts.failed
    ready(host)
    if (before?.leases !== facts.leases) takeLeases(host, facts, reread)
    if (before?.extensions !== facts.extensions) takeExtensions(host, facts, reread)
    if (before?.running !== facts.running) takeRunning(host, facts.running)
    for (const one of onHost) one.host(host, before, reread)
  }

  function ready (host: HostModel): void {
    const is = host.up && !host.failed && !host.failing
    if (!is) host.readySinceMs = Number.POSITIVE_INFINITY
    else if (host.readySinceMs === Number.POSITIVE_INFINITY) host.readySinceMs = world.nowMs
  }

  function boot (observation: Extract<Observation, { type: 'boot' }>): void {
    const host = hostNamed(observation.host)
    host.life++
    host.readySinceMs = Number.POSITIVE_INFINITY
    if (observation.newBoot) {
      host.bootTrueMs = world.nowMs
      host.booting = true
      for (const lease of waiting(host)) lease.countsFromMs = lease.countsLatestMs = world.nowMs
    } else if (host.booting) {
      host.booting = false
      for (const lease of waiting(host)) lease.countsLatestMs = world.nowMs
    }
    for (const one of onBoot) one.boot(observation)
  }

  /** Where its wall clock is until it is set. */
  function keepWall (host: HostModel): void {
    if (host.facts !== null) host.wallsMs.push(host.facts.wallOffMs)
  }

  function crash (observation: Extract<Observation, { type: 'crash' }>): void {
    const host = hostNamed(observation.host)
    host.up = false
    host.life++
    host.wallsMs = []
    host.readySinceMs = Number.POSITIVE_INFINITY
    for (const one of onCrash) one.crash(observation)
  }

  function diskLost (observation: Extract<Observation, { type: 'disk-lost' }>): void {
    const host = hostNamed(observation.host)
    host.ledgerLostMs = world.nowMs
    for (const lease of host.leases.values()) if (lease.there || !lease.over) lease.lost = true
    for (const one of onDiskLost) one.diskLost(observation)
  }

  function take (observation: Observation): void {
    switch (observation.type) {
      case 'host': takeHost(observation.facts); break
      case 'call':
        world.calls.set(observation.id, observation)
        for (const one of onCall) one.call(observation)
        break
      case 'arrive': {
        const call = world.calls.get(observation.id)
        if (call === undefined) throw new Error(`call ${observation.id} arrives and was never made`)
        const host = hostNamed(observation.to)
        const arrival: Arrival = { id: observation.id, copy: observation.copy, atMs: world.nowMs, call, changesAtHost: host.changes, life: host.life }
        arrivals.set(`${observation.id}/${observation.copy}`, arrival)
        for (const one of onArrive) one.arrive(host, arrival)
        break
      }
      case 'answer': {
        const host = hostNamed(world.calls.get(observation.id)?.to ?? '')
        const key = `${observation.id}/${observation.copy}`
        const arrival = arrivals.get(key)
        arrivals.delete(key)
        for (const one of onAnswer) one.answer(host, observation, arrival)
        break
      }
      case 'decision': for (const one of onDecision) one.decision(observation); break
      case 'command': for (const one of onCommand) one.command(observation); break
      case 'helper': for (const one of onHelper) one.helper(observation); break
      case 'crash': crash(observation); break
      case 'boot': boot(observation); break
      case 'disk-lost': diskLost(observation); break
      case 'disk-failing': {
        const host = hostNamed(observation.host)
        host.failing = observation.errno !== null
        host.failingMs = world.nowMs
        ready(host)
        break
      }
      case 'operator':
        if (observation.action === 'create' && observation.refused === '') clusterOf(world, observation.clusterId).creator = observation.host
        for (const one of onOperator) one.operator(observation)
        break
      case 'heal':
        world.healedMs = world.lastChangeMs = world.nowMs
        for (const host of world.hosts.values()) keepWall(host)
        break
      case 'clock-jump': {
        const host = hostNamed(observation.host)
        keepWall(host)
        host.jumpedMs = world.nowMs
        break
      }
      case 'partition': break
    }
  }

  return {
    observe (observation) {
      world.nowMs = unixMs(observation.trueMs)
      for (const one of onDue) if (one.nextDueMs === undefined || one.nextDueMs() < world.nowMs) one.due()
      take(observation)
    },
    end (trueMs) {
      world.nowMs = unixMs(trueMs)
      for (const one of onDue) if (one.nextDueMs === undefined || one.nextDueMs() < world.nowMs) one.due()
      for (const one of onEnd) one.end()
      return { convergedMs: Math.max(0, world.lastChangeMs - (world.healedMs === Number.POSITIVE_INFINITY ? EPOCH_MS : world.healedMs)) }
    }
  }
}

/** Leases that end unless something happens to them. */
const waiting = (host: HostModel): LeaseModel[] => [...host.leases.values()].filter(lease => lease.there && (lease.facts.state === 'held' || lease.facts.state === 'committed'))

function thereOf (host: HostModel): number {
  let count = 0
  for (const lease of host.leases.values()) if (lease.there) count++
  return count
}

/** Read from the disk it is another object. Every change raises the token, so whoever has the same one and differs is found by `lease-table`. */
const sameLease = (a: HostFacts['leases'][number], b: HostFacts['leases'][number]): boolean =>
  a.token === b.token && a.state === b.state && a.endMs === b.endMs && a.deadlineMs === b.deadlineMs && a.vacated === b.vacated && a.segmentId === b.segmentId &&
  a.commitToken === b.commitToken && a.startMs === b.startMs && a.confirmByMs === b.confirmByMs
