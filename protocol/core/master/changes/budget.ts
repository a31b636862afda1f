/** The WAN budget of a cluster's caches, changed while it runs: another document, which no lender can refuse. */
import { changeBudget, type BudgetChange } from '../../cache/budget.ts'
import { cacheTermsProblem, renderCacheTerms } from '../../cache/terms.ts'
import { InvalidInputError, type MusubiError } from '../../errors.ts'
import { answer, obstacle } from './amend.ts'
import { nextVersion } from './growth.ts'
import type { Turn } from '../machine.ts'
import type { MasterRecord } from '../record.ts'

function misfit (record: MasterRecord, { site, rateKbitPerS, totalBytes }: BudgetChange, terms: string): MusubiError | null {
  const cached = (record.document?.sites ?? []).filter(one => one.cache).map(one => one.site)
  if (site !== undefined && !cached.includes(site)) return new InvalidInputError(`cluster ${record.name} has no cache at site "${site.slice(0, 64)}"`, `it has caches at ${cached.join(', ') || 'no site: all of it is at the site of its frontend'}`)
  if (site === undefined && [rateKbitPerS, totalBytes].includes('default')) return new InvalidInputError('"default" is what holds at all sites: a site is to be named with it')
  const problem = cacheTermsProblem(terms)
  return problem === null ? null : new InvalidInputError(`cluster ${record.name}: ${problem}`)
}

/** Decided when it is on the disk; every site is told until it has confirmed. @param id of the answer */
export function setCacheBudget (turn: Turn, clusterId: string, change: BudgetChange, id: string): void {
  const record = turn.record(clusterId)
  const cache = changeBudget(record?.spec.cache, change)
  const cacheTerms = renderCacheTerms(cache)
  const problem = obstacle(record, clusterId) ?? (record === undefined ? null : misfit(record, change, cacheTerms))
  if (record?.document == null || problem !== null) { answer(turn, clusterId, id, problem); return }
  if (cacheTerms !== (record.document.cacheTerms ?? '')) {
    const document = { ...record.document, version: nextVersion(record), epoch: record.epoch, endMs: record.endMs, cacheTerms }
    const next = turn.save({ ...record, spec: { ...record.spec, cache }, document, behind: record.offers.map(offer => offer.site) })
    turn.effects.push({ effect: 'copy', record: next })
    turn.note('cluster.amended', `${record.name}: the WAN budget of its caches${change.site === undefined ? '' : ` at ${change.site}`} is now ${said(change.rateKbitPerS, 'kbit/s')}, ${said(change.totalBytes, 'bytes')}`, record.name)
  }
  answer(turn, clusterId, id, null)
}

const said = (value: number | string | null | undefined, unit: string): string =>
  value === undefined ? `${unit} as before` : value === null ? `${unit} without a bound` : typeof value === 'number' ? `${value} ${unit}` : `${unit} as at all sites`
