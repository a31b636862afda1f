import { isLent, OWN_SHARE } from '../../protocol/core/gateway/shares.ts'
import { type GatewayRecord, allHeld } from '../../protocol/core/gateway/record.ts'
import { borrowedOf, isLive, isQuota } from '../../protocol/core/lease/lease.ts'
import type { ReadonlyLedgerState } from '../../protocol/core/lease/state.ts'
import { type Resources, sum, zero } from '../../protocol/core/capacity.ts'
import { quotaOf, ruleFor, shareOf } from '../../protocol/policy/rules.ts'
import type { PolicyDocument, PolicyUsage } from '../../protocol/policy-api.ts'

const DIMENSIONS = ['nodes', 'vcpus', 'memoryMib', 'diskMib', 'volumes', 'bandwidthMbit'] as const

/** Without what is not bounded. */
const bounded = (quota: Required<Resources> | null): PolicyUsage['quota'] =>
  quota === null ? null : Object.fromEntries(Object.entries(quota).filter(([, bound]) => Number.isFinite(bound)))

/** What some shares are together, where there are any. */
const named = <F extends string>(field: F, shares: ReadonlyArray<{ resources: Resources }>): Partial<Record<F, Resources>> =>
  shares.length === 0 ? {} : { [field]: { ...zero(), ...sum(shares.map(one => one.resources)) } } as Partial<Record<F, Resources>>

/**
 * What a gateway lends to each site that borrows of it or that the policy names, against its share of the quotas.
 *
 * @param own the own site, whose use of its machines is no loan
 * @param percent of the gateway's certificate
 * @param records of the gateway: what others count for requests to it
 */
export function usageOf (state: ReadonlyLedgerState, document: PolicyDocument, own: string, percent: number, records: readonly GatewayRecord[] = []): PolicyUsage[] {
  const now = state.clockMs
  const borrowers = [...state.occupying.values()].filter(lease => lease.kind === 'quota').map(lease => lease.masterSite)
  return [...new Set([...Object.keys(document.sites ?? {}), ...borrowers])].filter(site => site !== own).sort().map(site => {
    const quota = quotaOf(ruleFor(document, site))
    const share = quota === null ? null : shareOf(quota, percent)
    const most = borrowedOf(state, site, state.clockMs, Number.POSITIVE_INFINITY)
    return {
      site, lent: borrowedOf(state, site), most,
      ...named('toOthers', [...state.occupying.values()].filter(lease => isQuota(lease) && lease.masterSite === site && lease.name !== OWN_SHARE && isLive(lease) && lease.startMs <= now)),
      ...named('fromOthers', records.filter(record => record.masterSite === site && record.state !== 'releasing' && record.startMs <= now && record.endMs > now).flatMap(record => allHeld(record).filter(held => isLent(held, record.offer.gateway)))),
      quota: bounded(quota), share: bounded(share),
      overdrawn: share === null ? [] : DIMENSIONS.filter(dimension => (most[dimension] ?? 0) > share[dimension])
    }
  })
}
