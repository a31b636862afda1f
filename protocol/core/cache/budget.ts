/** The WAN budget of a cluster's caches: what one site's comes to, and how it is changed while the cluster runs. Pure. */
import type { CacheBudget, CacheTerms, SiteCacheBudget } from './terms.ts'

/** A change of the budget; what is absent stays as it is. */
export interface BudgetChange {
  /** of this site alone; absent: of all sites that have no value of their own */
  site?: string
  /** null: no bound; `default`: as all sites, of one site only */
  rateKbitPerS?: number | null | 'default'
  totalBytes?: number | null | 'default'
}

const FIELDS = ['rateKbitPerS', 'totalBytes'] as const

/** What holds at one site. */
export function budgetAt ({ budget, budgetAt: sites }: Pick<CacheTerms, 'budget' | 'budgetAt'>, site: string): CacheBudget {
  const own = sites !== undefined && Object.hasOwn(sites, site) ? sites[site] ?? {} : {}
  const found: CacheBudget = {}
  for (const field of FIELDS) {
    const value = own[field] === undefined ? budget[field] : own[field]
    if (value !== undefined && value !== null) found[field] = value
  }
  return found
}

/** Terms with another budget; of a cluster that had none, the rest is what hosts do anyway. */
export function changeBudget (terms: CacheTerms | undefined, { site, ...change }: BudgetChange): CacheTerms {
  const before: CacheTerms = terms ?? { profile: { immutable: [], validated: [], dynamic: [], indexes: [] }, budget: {} }
  const { budgetAt: sites = {}, ...rest } = before
  const budget: CacheBudget = { ...before.budget }
  const own: SiteCacheBudget = site !== undefined && Object.hasOwn(sites, site) ? { ...sites[site] } : {}
  for (const field of FIELDS) {
    const value = change[field]
    if (value === undefined) continue
    if (site === undefined) {
      if (typeof value === 'number') budget[field] = value
      else Reflect.deleteProperty(budget, field)
    } else if (value === 'default') Reflect.deleteProperty(own, field)
    else own[field] = value
  }
  const others = Object.entries(sites).filter(([name]) => name !== site)
  const left = Object.fromEntries(site === undefined || Object.keys(own).length === 0 ? others : [...others, [site, own]])
  return { ...rest, budget, ...Object.keys(left).length === 0 ? {} : { budgetAt: left } }
}

/** Whether two texts of terms, as documents carry them, differ in the budget at most. */
export function sameButBudget (before: string, after: string): boolean {
  const rest = (text: string): string => text.split('\n').filter(line => !line.startsWith('budget-')).join('\n')
  return rest(before) === rest(after)
}
