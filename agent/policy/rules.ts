import type { PolicyDocument } from '../../protocol/api.ts'
import { PolicyDocumentSchema } from '../../protocol/api.ts'
import { parseWith } from '../../protocol/config-file.ts'
import { InvalidInputError, MusubiError } from '../../protocol/core/errors.ts'
import { MAX_POLICY_BYTES, MAX_TERM_MS, MIN_TERM_MS } from '../../protocol/core/limits.ts'
import { NAME } from '../../protocol/mesh/roles.ts'
import { parseDuration } from '../../protocol/core/duration.ts'

type Rule = NonNullable<PolicyDocument['default']>

/**
 * Checks a policy as people write it.
 *
 * @param site the own one: what it does with its own machines is no policy towards others
 * @throws InvalidInputError with every problem, one per line
 */
export function parsePolicy (data: unknown, site: string, source: string): PolicyDocument {
  // an empty file would pass for "everything is allowed"
  if (typeof data !== 'object' || data === null || Array.isArray(data)) throw new InvalidInputError(`${source} is not valid:\n  a policy has the fields default and sites`, 'to allow everything: {default: {}}')
  const document = parseWith(PolicyDocumentSchema, data, source)
  const rules: Array<[string, Rule]> = [['default', document.default ?? {}], ...Object.entries(document.sites ?? {}).map(([name, rule]): [string, Rule] => [`sites.${name}`, rule])]
  const problems = rules.flatMap(([at, rule]) => ruleProblems(rule).map(p => `${at}.${p}`))
  for (const name of Object.keys(document.sites ?? {})) if (!NAME.test(name)) problems.push(`sites: ${JSON.stringify(name.slice(0, 40))} is no site name`)
  if (ruleOf(document, site) !== null) problems.push(`sites.${site}: that is this site; a policy is for the others`)
  if (problems.length > 0) throw new InvalidInputError(`${source} is not valid:\n${problems.map(p => `  ${p}`).join('\n')}`)
  const size = Buffer.byteLength(JSON.stringify(document))
  if (size > MAX_POLICY_BYTES) throw new InvalidInputError(`${source} takes ${size} bytes, at most ${MAX_POLICY_BYTES} fit`, 'say in default what holds for most sites')
  return document
}

function ruleProblems (rule: Rule): string[] {
  if (rule.longestLease === undefined) return []
  const ms = parseDuration(rule.longestLease)
  if (ms === null) return [`longestLease: "${rule.longestLease}" is no time span: write 8h, 2d, 90m or PT90M`]
  if (ms < MIN_TERM_MS) return [`longestLease: ${rule.longestLease} is below the shortest lease there is, ${MIN_TERM_MS / 1000}s; to lend nothing: deny: true`]
  if (ms > MAX_TERM_MS) return [`longestLease: ${rule.longestLease} is above the longest lease there is, ${MAX_TERM_MS / 86_400_000}d; leave it out`]
  return rule.deny === true ? ['longestLease: has no meaning beside deny: true'] : []
}

/** Own fields only: `constructor` is a name that a site can have. */
const ruleOf = (document: PolicyDocument, site: string): Rule | null => document.sites !== undefined && Object.hasOwn(document.sites, site) ? document.sites[site] ?? null : null
const ruleFor = (document: PolicyDocument, site: string): Rule => ruleOf(document, site) ?? document.default ?? {}

/** Longest lease by the default rule, ms; 0: no limit of its own. What the site advertises. */
export function maxTermOf (document: PolicyDocument): number {
  return parseDuration(document.default?.longestLease ?? '') ?? 0
}

/**
 * Whether the policy of `site` lets `masterSite` have a lease from start to end, Unix ms.
 *
 * @throws MusubiError POLICY_DENIED, POLICY_TERM, with the reason that the site gives
 */
export function checkPolicy (document: PolicyDocument, site: string, masterSite: string, startMs: number, endMs: number): void {
  if (masterSite === site) return
  const rule = ruleFor(document, masterSite)
  const why = rule.reason === undefined || rule.reason === '' ? '' : `: ${rule.reason}`
  if (rule.deny === true) throw new MusubiError('POLICY_DENIED', `site ${site} lends nothing to ${masterSite}${why}`, { hint: `ask the administrator of ${site}, or leave that site out` })
  const longest = parseDuration(rule.longestLease ?? '')
  if (longest !== null && endMs - startMs > longest) {
    throw new MusubiError('POLICY_TERM', `site ${site} lends to ${masterSite} for at most ${rule.longestLease ?? ''}, ${Math.ceil((endMs - startMs) / 60_000)} minutes were asked for${why}`, { hint: `ask for a shorter term, or leave ${site} out` })
  }
}
