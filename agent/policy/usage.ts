import { borrowedOf } from '../../protocol/core/lease/lease.ts'
import type { ReadonlyLedgerState } from '../../protocol/core/lease/state.ts'
import type { Resources } from '../../protocol/core/capacity.ts'
import { quotaOf, ruleFor, shareOf } from '../../protocol/policy/rules.ts'
import type { PolicyDocument, PolicyUsage } from '../../protocol/policy-api.ts'

const DIMENSIONS = ['nodes', 'vcpus', 'memoryMib', 'diskMib', 'volumes', 'bandwidthMbit'] as const

/** Without what is not bounded. */
const bounded = (quota: Required<Resources> | null): PolicyUsage['quota'] =>
  quota === null ? null : Object.fromEntries(Object.entries(quota).filter(([, bound]) => Number.isFinite(bound)))

/**
 * What a gateway lends to each site that borrows of it or that the policy names, against its share of the quotas.
 *
 * @param own the own site, whose use of its machines is no loan
 * @param percent of the gateway's certificate
 */
export function usageOf (state: ReadonlyLedgerState, document: PolicyDocument, own: string, percent: number): PolicyUsage[] {
  const borrowers = [...state.occupying.values()].filter(lease => lease.kind === 'quota').map(lease => lease.masterSite)
  return [...new Set([...Object.keys(document.sites ?? {}), ...borrowers])].filter(site => site !== own).sort().map(site => {
    const quota = quotaOf(ruleFor(document, site))
    const share = quota === null ? null : shareOf(quota, percent)
    const most = borrowedOf(state, site, state.clockMs, Number.POSITIVE_INFINITY)
    return {
      site, lent: borrowedOf(state, site), most, quota: bounded(quota), share: bounded(share),
      overdrawn: share === null ? [] : DIMENSIONS.filter(dimension => (most[dimension] ?? 0) > share[dimension])
    }
  })
}
