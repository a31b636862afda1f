import type { ResourceFacts } from '../../observation.ts'
import type { Invariant } from '../invariant.ts'
import { type HostModel, type LeaseModel, type World, isLive, leaseText, violated } from '../model.ts'
import { QUOTA_DIMENSIONS, takesUntilMs } from './calendar.ts'

type Dimension = typeof QUOTA_DIMENSIONS[number]

/**
 * What a site borrows of all gateways of another together is never more than the quota, nor of one of them more than its
 * share: each counts by itself, and none asks the others.
 */
export function shares (world: World): Invariant {
  const NAME = 'quota-shared'
  const { endGuardMs } = world.description.bounds
  const grown: LeaseModel[] = []

  /** The most that a site borrows of some gateways at any moment of an interval, and never counted more than once. */
  function most (gateways: readonly HostModel[], borrower: string, dimension: Dimension, fromMs: number, untilMs: number): number {
    const loans = gateways.flatMap(host => [...host.leases.values()].filter(({ facts }) => facts.kind === 'quota' && facts.masterSite === borrower).map(lease => ({
      from: lease.facts.startMs, until: takesUntilMs(host, lease, endGuardMs), amount: lease.facts.resources[dimension] ?? 0
    }))).filter(({ from, until }) => until > fromMs && from < untilMs)
    return Math.max(0, ...[fromMs, ...loans.map(loan => loan.from)].filter(at => at >= fromMs).map(at => loans.reduce((sum, { from, until, amount }) => from <= at && until > at ? sum + amount : sum, 0)))
  }

  function judge (host: HostModel, lease: LeaseModel): void {
    const { facts } = lease
    const quota = host.facts?.quotas.find(one => one.masterSite === facts.masterSite)
    if (quota?.whole === undefined) return
    const gateways = (world.sites.get(host.site) ?? []).filter(one => one.malicious === host.malicious)
    const exceeds = (of: readonly HostModel[], bound: ResourceFacts, whose: string): void => {
      for (const dimension of QUOTA_DIMENSIONS) {
        const limit = bound[dimension]
        if (limit === undefined || (facts.resources[dimension] ?? 0) === 0) continue
        const taken = most(of, facts.masterSite, dimension, facts.startMs, takesUntilMs(host, lease, endGuardMs))
        if (taken > limit) violated(world, NAME, host.name, `${taken} ${dimension} are lent to ${facts.masterSite}, ${whose} ${limit}, by the time of ${leaseText(facts)}`)
      }
    }
    exceeds([host], quota.resources, 'the share of this gateway is')
    exceeds(gateways, quota.whole, `the quota of site ${host.site} is`)
  }

  return {
    name: NAME,
    lease ({ lease, before, after }) {
      if (after === null || after.state === 'ended' || after.kind !== 'quota') return
      if (before === null || after.endMs > before.endMs || before.state === 'ended') grown.push(lease)
    },
    extension (host, _before, after) {
      if (after?.state !== 'held') return
      for (const { id } of after.leases) {
        const lease = host.leases.get(id)
        if (lease !== undefined && isLive(lease) && lease.facts.kind === 'quota') grown.push(lease)
      }
    },
    host (host) {
      if (grown.length === 0) return
      for (const lease of grown) if (lease.host === host && isLive(lease)) judge(host, lease)
      grown.length = 0
    }
  }
}
