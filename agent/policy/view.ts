import type { Policy, PolicyVersion } from './policy.ts'
import { usageOf } from './usage.ts'
import type { GatewayRecord } from '../../protocol/core/gateway/record.ts'
import type { ReadonlyLedgerState } from '../../protocol/core/lease/state.ts'
import type { PolicyCheck, PolicyDocument, PolicyResource } from '../../protocol/policy-api.ts'

export interface PolicyViewOptions {
  site: string
  policy: Policy
  ledger: () => ReadonlyLedgerState
  /** this gateway's share of every quota, by its certificate */
  quotaPercent: () => number
  /** what this gateway keeps of clusters; absent: nothing */
  records?: () => readonly GatewayRecord[]
}

/** The policy as a gateway shows it: with what it lends now. */
export interface PolicyView {
  get (): PolicyResource
  /** @throws InvalidInputError with every problem */
  set (document: unknown): Promise<PolicyResource>
  check (document: unknown): PolicyCheck
}

export function createPolicyView ({ site, policy, ledger, quotaPercent, records }: PolicyViewOptions): PolicyView {
  const usage = (document: PolicyDocument): PolicyResource['usage'] => usageOf(ledger(), document, site, quotaPercent(), records?.() ?? [])
  const shares = (document: PolicyDocument): string[] => usage(document).flatMap(({ site: borrower, share, quota, overdrawn }) => [
    ...overdrawn.length === 0 ? [] : [`sites.${borrower}: more is lent to it than its quota: ${overdrawn.join(', ')}; that is kept to its end, and nothing new is lent`],
    ...share === null || quota === null || !Object.entries(share).some(([dimension, bound]) => bound === 0 && quota[dimension as keyof typeof quota] !== 0) ? [] : [`sites.${borrower}: the share of this gateway, ${quotaPercent()} %, leaves nothing of some dimension`]
  ])
  const shown = (version: PolicyVersion): PolicyResource => {
    const { document } = version
    return { ...version, quotaPercent: quotaPercent(), usage: usage(document), warnings: [...policy.judge(document).warnings, ...shares(document)] }
  }
  return {
    get: () => shown(policy.get()),
    set: async document => shown(await policy.set(document)),
    check: input => {
      const { document, errors, warnings } = policy.judge(input)
      return { errors, warnings: document === null ? warnings : [...warnings, ...shares(document)], usage: document === null ? [] : usage(document) }
    }
  }
}
