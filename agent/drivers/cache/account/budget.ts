import type { CacheSpec } from '../../../../protocol/core/desired.ts'
import type { WireBytes } from './wire.ts'

/** What a cache may bring over the WAN, and what it has. */
export interface BudgetState {
  rateMbitPerS: number | null
  totalBytes: number | null
  /** bytes of packets from the frontend, those of dynamic requests included */
  usedBytes: number
  /** why nothing is fetched before nodes ask; empty: it is */
  paused: string
}

/** The budget of a cache as it is now; null without one. Pure. */
export function budgetState ({ budget }: Pick<CacheSpec, 'budget'>, wire: Pick<WireBytes, 'static' | 'dynamic'>): BudgetState | null {
  if (budget === undefined) return null
  const { rateMbitPerS = null, totalBytes = null } = budget
  const usedBytes = wire.static + wire.dynamic
  // no figure that grows: the text is written into orders, which are read again when they differ
  const paused = totalBytes !== null && usedBytes >= totalBytes ? `the WAN budget of ${totalBytes} bytes is used up` : ''
  return { rateMbitPerS, totalBytes, usedBytes, paused }
}

/** An order with what the budget allows: what it said before of that is taken out. Pure. */
export function withBudget (order: string, budget: Pick<BudgetState, 'rateMbitPerS' | 'paused'> | null): string {
  const lines = order.split('\n').filter(line => !/^(?:cap|pause)\t/.test(line)).join('\n')
  if (lines === '' || budget === null) return lines
  return `${budget.rateMbitPerS === null ? '' : `cap\t${budget.rateMbitPerS}\n`}${budget.paused === '' ? '' : `pause\t${budget.paused}\n`}${lines}`
}
