/** The WAN budget of a cluster's caches: at one site, changed, in a document. */
import { deepStrictEqual } from 'node:assert/strict'
import t from 'tap'
import { budgetAt, changeBudget, sameButBudget, type BudgetChange } from '../../../protocol/core/cache/budget.ts'
import { cacheTermsProblem, parseCacheTerms, renderCacheTerms, type CacheTerms } from '../../../protocol/core/cache/terms.ts'

const TERMS: CacheTerms = { profile: { immutable: ['/a/'], validated: [], dynamic: [], indexes: [] }, budget: { rateKbitPerS: 8000, totalBytes: 2e9 } }
const after = (...changes: BudgetChange[]): CacheTerms => changes.reduce(changeBudget, TERMS)

t.test('a change is of all sites, or of one, and leaves the rest as it is', t => {
  t.strictSame(after({ totalBytes: 3e9 }), { ...TERMS, budget: { rateKbitPerS: 8000, totalBytes: 3e9 } })
  t.strictSame(after({ rateKbitPerS: null, totalBytes: null }), { ...TERMS, budget: {} })
  t.strictSame(changeBudget(undefined, { totalBytes: 5 }), { profile: { immutable: [], validated: [], dynamic: [], indexes: [] }, budget: { totalBytes: 5 } })
  const osaka = after({ site: 'osaka', totalBytes: 9e9 }, { site: 'kyoto', rateKbitPerS: null })
  t.strictSame(budgetAt(osaka, 'osaka'), { rateKbitPerS: 8000, totalBytes: 9e9 })
  t.strictSame(budgetAt(osaka, 'kyoto'), { totalBytes: 2e9 }, 'no bound at all')
  t.strictSame(budgetAt(osaka, 'tokyo'), TERMS.budget)
  t.strictSame(budgetAt(osaka, 'constructor'), TERMS.budget)
  t.strictSame(budgetAt(changeBudget(osaka, { totalBytes: 4e9 }), 'osaka'), { rateKbitPerS: 8000, totalBytes: 9e9 }, 'its own stays')
  t.strictSame(changeBudget(changeBudget(osaka, { site: 'osaka', totalBytes: 'default' }), { site: 'kyoto', rateKbitPerS: 'default' }), TERMS)
  t.strictSame(TERMS.budget, { rateKbitPerS: 8000, totalBytes: 2e9 }, 'changed in no place')
  t.end()
})

t.test('a document carries it, in one way only', t => {
  const terms = after({ site: 'constructor', totalBytes: 7 }, { site: 'kyoto', rateKbitPerS: 5 }, { site: 'osaka', totalBytes: 9e9, rateKbitPerS: null })
  const text = renderCacheTerms(terms)
  // a site of this name is no object of a class, which is what tap takes it for
  t.doesNotThrow(() => { deepStrictEqual(parseCacheTerms(text), terms) })
  t.match(text, /budget-total 2000000000\nbudget-total-at constructor 7\nbudget-rate-at kyoto 5\nbudget-rate-at osaka 0\nbudget-total-at osaka 9000000000$/)
  for (const bad of ['budget-rate-at osaka', 'budget-rate-at osaka 05', 'budget-rate-at osaka -1', 'budget-rate-at Osaka! 5', 'budget-rate-at __proto__ 5', 'budget-rate-at osaka 99999999999999', 'budget-total-at osaka 5\nbudget-rate-at osaka 5', 'budget-rate-at osaka 5\nbudget-rate-at kyoto 5']) t.type(cacheTermsProblem(bad), 'string', bad)
  t.type(cacheTermsProblem(Array.from({ length: 65 }, (_, i) => `budget-rate-at s${100 + i} 5`).join('\n')), 'string', 'more sites than a cluster has')
  t.equal(cacheTermsProblem(Array.from({ length: 64 }, (_, i) => `budget-rate-at s${100 + i} 5`).join('\n')), null)
  t.ok(sameButBudget(renderCacheTerms(TERMS), text))
  t.ok(sameButBudget('', renderCacheTerms(changeBudget(undefined, { totalBytes: 5 }))))
  t.notOk(sameButBudget(renderCacheTerms(TERMS), renderCacheTerms({ ...TERMS, sizeMib: 5 })))
  t.end()
})
