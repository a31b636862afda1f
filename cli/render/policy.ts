/** How a policy looks to people. */
import { stringify } from 'yaml'
import { table } from '../output.ts'
import { describe, zero } from '../../protocol/core/capacity.ts'
import type { PolicyChange } from '../../protocol/policy/diff.ts'
import type { PolicyCheck, PolicyResource, PolicyUsage } from '../../protocol/policy-api.ts'

const amount = (bound: PolicyUsage['quota']): string => bound === null || Object.keys(bound).length === 0 ? 'no limit' : describe({ ...zero(), ...bound })

/** One line for each site that borrows, or that the policy names. */
const usageLines = (usage: readonly PolicyUsage[]): string[] => usage.map(({ site, lent, most, toOthers, fromOthers, quota, share, overdrawn }) => {
  const later = describe(most) === describe(lent) ? '' : `, with what is reserved up to ${describe(most)}`
  const bound = quota === null ? 'no quota' : `${amount(share)} of ${amount(quota)} can be lent by this gateway`
  const others = `${toOthers === undefined ? '' : `, of it ${describe(toOthers)} for requests to other gateways`}${fromOthers === undefined ? '' : `, and ${describe(fromOthers)} more by other gateways for requests to this one`}`
  return `${site}: ${describe(lent)} lent${others}${later}; ${bound}${overdrawn.length === 0 ? '' : `; OVERDRAWN: ${overdrawn.join(', ')}`}`
})

/** A file to edit, with what is so now as comments. */
export function policyText (p: PolicyResource): string {
  const comments = [
    p.version === 0 ? `${p.site} has no policy yet: it lends everything to everybody` : `policy of ${p.site}, version ${p.version}, set on ${p.setBy}`,
    ...p.usage.length === 0 ? [] : [`this gateway has ${p.quotaPercent} % of every quota`, ...usageLines(p.usage)], ...p.warnings.map(w => `warning: ${w}`)
  ]
  return [...comments.map(line => `# ${line}`), p.version === 0 ? 'default: {}' : stringify(p.document).trimEnd()].join('\n')
}

export function checkText (file: string, { warnings, usage, agent }: PolicyCheck & { agent: boolean }): string {
  return [
    `${file} is valid`, ...warnings.map(w => `warning: ${w}`), ...usageLines(usage),
    ...agent ? [] : ['the agent was not reached: what is lent now was not compared, nor whether it names this site']
  ].join('\n')
}

export function changesText (changes: readonly PolicyChange[], before: string): string {
  if (changes.length === 0) return `it changes nothing of ${before}`
  return table(['for', 'what', 'now', 'then'], changes.map(c => [c.site === '' ? c.field.startsWith('own.') ? '(own requests)' : '(every other site)' : c.site, c.field, c.before, c.after]))
}
