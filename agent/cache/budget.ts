import type { CacheBudgetResource, SiteCacheResource } from '../../protocol/cache-api.ts'
import { budgetAt } from '../../protocol/core/cache/budget.ts'
import { parseCacheTerms } from '../../protocol/core/cache/terms.ts'
import type { ClusterDocument } from '../../protocol/core/messages.ts'

/** What a document says of the WAN budget, beside what its sites say. Pure. */
export function clusterBudget (document: ClusterDocument, sites: readonly SiteCacheResource[]): CacheBudgetResource {
  const terms = parseCacheTerms(document.cacheTerms)
  return {
    cluster: document.name, rateKbitPerS: terms.budget.rateKbitPerS ?? null, totalBytes: terms.budget.totalBytes ?? null,
    sites: sites.map(({ site, budget, wanBytes, error }) => {
      const { rateKbitPerS = null, totalBytes = null } = budgetAt(terms, site)
      const rate = budget?.rateMbitPerS ?? null
      return {
        site, rateKbitPerS, totalBytes, own: Object.hasOwn(terms.budgetAt ?? {}, site), usedBytes: budget?.usedBytes ?? wanBytes.static + wanBytes.dynamic, paused: budget?.paused ?? '',
        inForce: error === '' && (rate === null ? null : Math.round(rate * 1000)) === rateKbitPerS && (budget?.totalBytes ?? null) === totalBytes, error
      }
    })
  }
}
