import type { Invariant } from '../invariant.ts'
import { type HostModel, type LeaseModel, type RunningModel, type World, isLive, violated } from '../model.ts'
import { DIMENSIONS, firstExcess } from '../ledger/calendar.ts'

/** A host's tunnel serves all its clusters and stands under no lease of one. */
const isShared = (one: RunningModel): boolean => one.facts.kind === 'tunnel' || one.facts.clusterId === ''

/**
 * Nothing runs that is not active in the durable ledger of its host, nothing starts before its time,
 * what runs never takes more than there is, and nothing runs beyond its end and the guard.
 */
export function running (world: World): Invariant {
  const NAME = 'runs-under-lease'
  const LATE = 'nothing-after-end'
  const { endGuardMs, helperDelayMs, clockRate, clockGrainMs, tickMs } = world.description.bounds
  const disks = world.description.disks
  const slackMs = endGuardMs + helperDelayMs + tickMs + clockGrainMs
  /** of the observation that is being worked in */
  const vacated: LeaseModel[] = []
  let next = Number.POSITIVE_INFINITY

  /** leases that it may stand under */
  function behind (host: HostModel, one: RunningModel): LeaseModel[] {
    if (one.facts.leaseId !== '') {
      const lease = host.leases.get(one.facts.leaseId)
      return lease === undefined ? [] : [lease]
    }
    return [...world.clusters.get(one.facts.clusterId)?.leases ?? []].filter(lease => lease.host === host)
  }

  function started (host: HostModel, one: RunningModel): void {
    const { facts } = one
    const what = `${facts.resource} of cluster ${facts.clusterId.slice(0, 8)}`
    const leases = behind(host, one)
    // A command that was under way when the lease ended may still arrive: it ends with the guard.
    const right = leases.find(lease => lease.facts.state === 'active' || (lease.facts.state === 'ended' && lease.facts.activatedMs > 0 && world.nowMs - lease.endedTrueMs <= slackMs) || lease.lost)
    if (right === undefined) violated(world, NAME, host.name, `${what} runs, and ${leases.length === 0 ? 'no lease stands behind it' : `its lease is ${leases[0]?.facts.state ?? ''}`}`)
    if (!right.lost) {
      const kept = disks.lease(host.name, right.id)
      if (kept === null || (kept.state !== 'active' && kept.state !== 'ended')) violated(world, NAME, host.name, `${what} runs, and on the disk its lease is ${kept === null ? 'not there' : kept.state}`)
      if (host.up && host.facts !== null && host.facts.clockMs + clockGrainMs < right.facts.startMs) violated(world, 'not-before-start', host.name, `${what} runs ${right.facts.startMs - host.facts.clockMs} ms before its start`)
    }
    if (host.facts === null) return
    const taken = { vcpus: 0, memoryMib: 0, diskMib: 0, volumes: 0, bandwidthMbit: 0 }
    for (const other of host.running.values()) for (const dimension of DIMENSIONS) taken[dimension] += other.facts.resources[dimension]
    const excess = firstExcess(taken, host.facts.capacity)
    if (excess !== null) violated(world, 'runs-beside', host.name, `${what} runs beside others: ${excess.replace('promised', 'in use')}`)
  }

  /** True time until which it may run. */
  function untilMs (host: HostModel, one: RunningModel): number {
    let until = 0
    for (const lease of behind(host, one)) {
      if (lease.lost) return Number.POSITIVE_INFINITY
      const { facts } = lease
      // On the ledger clock, which may be behind; counted with its rate from when it was promised.
      const behindMs = Math.max(0, host.facts?.clockErrorMs ?? 0, -(host.facts?.ledgerOffMs ?? 0)) + (facts.endMs - facts.startMs) * clockRate
      let mine = facts.endMs + behindMs + slackMs
      if (facts.state === 'ended' && host.readySinceMs !== Number.POSITIVE_INFINITY) mine = Math.min(mine, Math.max(lease.endedTrueMs, host.readySinceMs) + slackMs)
      until = Math.max(until, mine)
    }
    return until
  }

  function schedule (): void {
    next = Number.POSITIVE_INFINITY
    for (const host of world.hosts.values()) for (const one of host.running.values()) if (!isShared(one)) next = Math.min(next, untilMs(host, one))
  }

  return {
    name: NAME,
    running (host, _resource, after) {
      if (after === null || isShared(after)) return
      started(host, after)
      next = Math.min(next, untilMs(host, after))
    },
    lease ({ host, lease, before, after }) {
      if (after?.state === 'ended' && before !== null && before.state === 'active' && host.running.size > 0) next = Math.min(next, lease.endedTrueMs + slackMs)
      if (after?.state === 'ended' && after.vacated && before !== null && (before.state !== 'ended' || !before.vacated)) vacated.push(lease)
    },
    host (host) {
      for (const lease of vacated) {
        const left = [...host.running.values()].find(one => one.facts.leaseId === lease.id)
        if (left !== undefined) violated(world, 'vacated-when-gone', host.name, `lease ${lease.id} was said to be gone, and ${left.facts.resource} runs`)
      }
      vacated.length = 0
    },
    answer (host, { method, error, request }) {
      if (method !== 'hostRelease' || error !== null) return
      const { clusterId, offerId, leaseIds } = request as { clusterId: string, offerId?: string, leaseIds?: string[] }
      for (const one of host.running.values()) {
        if (one.facts.clusterId !== clusterId || isShared(one)) continue
        const lease = host.leases.get(one.facts.leaseId)
        const partly = (offerId ?? '') !== '' || (leaseIds ?? []).length > 0
        if (lease === undefined ? partly : isLive(lease) || ((offerId ?? '') !== '' && lease.facts.offerId !== offerId) || ((leaseIds ?? []).length > 0 && leaseIds?.includes(lease.id) !== true)) continue
        violated(world, 'release-confirmed-when-gone', host.name, `the release of cluster ${clusterId.slice(0, 8)} was confirmed, and ${one.facts.resource} runs`)
      }
    },
    nextDueMs: () => next,
    due () {
      for (const host of world.hosts.values()) {
        for (const one of host.running.values()) {
          if (isShared(one)) continue
          const until = untilMs(host, one)
          if (until < world.nowMs) violated(world, LATE, host.name, `${one.facts.resource} of cluster ${one.facts.clusterId.slice(0, 8)} runs ${Math.round((world.nowMs - until + slackMs) / 1000)} s after its end`)
        }
      }
      schedule()
    }
  }
}
