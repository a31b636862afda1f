/** What a policy would change, for each site, by what it means: 60m and 1h are the same. */
import { describe, type Resources, zero } from '../core/capacity.ts'
import { DEFAULT_PRIORITY, OWN_PRIORITY } from '../core/limits.ts'
import { parseDuration } from '../core/notation/duration.ts'
import type { PolicyDocument, PolicyRule } from '../policy-api.ts'
import { noticeOf, priceOf, quotaOf, ruleFor } from './rules.ts'
import { windowText } from './windows.ts'

export interface PolicyChange {
  /** a site; empty: all that are not named, and the own one */
  site: string
  field: string
  before: string
  after: string
}

const span = (ms: number | null, none: string): string => ms === null ? none : ms % 3_600_000 === 0 ? `${ms / 3_600_000}h` : ms % 60_000 === 0 ? `${ms / 60_000}m` : `${ms / 1000}s`
const DIMENSIONS: ReadonlyArray<[string, keyof Resources]> = [['nodes', 'nodes'], ['vcpus', 'vcpus'], ['memory', 'memoryMib'], ['disk', 'diskMib'], ['volumes', 'volumes'], ['bandwidth', 'bandwidthMbit']]

/** What a rule means, as text by field. */
function meaning (rule: PolicyRule): Map<string, string> {
  const quota = quotaOf(rule)
  const bound = (field: keyof Resources): string => {
    const value = quota?.[field] ?? Infinity
    return value === Infinity ? 'no limit' : value === 0 ? '0' : describe({ ...zero(), [field]: value })
  }
  const price = priceOf(rule)
  return new Map([
    ['deny', rule.deny === true ? 'yes' : 'no'],
    ...DIMENSIONS.map(([name, field]): [string, string] => [`quota.${name}`, bound(field)]),
    ['longestLease', span(parseDuration(rule.longestLease ?? ''), 'no limit')],
    ['latestStart', span(parseDuration(rule.latestStart ?? ''), 'no limit')],
    ['windows', rule.windows === undefined ? 'always' : rule.windows.map(windowText).sort().join('; ')],
    ['priority', String(rule.priority ?? DEFAULT_PRIORITY)],
    ['preempt.notice', span(noticeOf(rule), 'never preempted')],
    ['price', price === null ? 'as advertised' : String(price / 1000)],
    ['reason', rule.reason ?? '']
  ])
}

/** Every difference in what holds for a site, whichever rule says it. */
export function changesBetween (before: PolicyDocument, after: PolicyDocument): PolicyChange[] {
  const named = [...new Set([...Object.keys(before.sites ?? {}), ...Object.keys(after.sites ?? {})])].sort()
  const rules: Array<[string, PolicyRule, PolicyRule]> = [
    ['', before.default ?? {}, after.default ?? {}], ...named.map((site): [string, PolicyRule, PolicyRule] => [site, ruleFor(before, site), ruleFor(after, site)])
  ]
  const own: PolicyChange = { site: '', field: 'own.priority', before: String(before.own?.priority ?? OWN_PRIORITY), after: String(after.own?.priority ?? OWN_PRIORITY) }
  return [
    ...rules.flatMap(([site, was, will]) => {
      const [old, next] = [meaning(was), meaning(will)]
      return [...next].flatMap(([field, text]): PolicyChange[] => old.get(field) === text ? [] : [{ site, field, before: old.get(field) ?? '', after: text }])
    }),
    ...own.before === own.after ? [] : [own]
  ]
}
