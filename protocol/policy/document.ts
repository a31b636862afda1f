/** A policy as people write it: everything that is wrong with it, and what may not be meant so. */
import { parseWith } from '../config-file.ts'
import { describeError, InvalidInputError } from '../core/errors.ts'
import { MAX_POLICY_BYTES, MAX_TERM_MS, MIN_TERM_MS, OWN_PRIORITY } from '../core/limits.ts'
import { mebibytes } from '../core/notation/size.ts'
import { parseDuration } from '../core/notation/duration.ts'
import { NAME } from '../mesh/roles.ts'
import { type PolicyDocument, PolicyDocumentSchema, type PolicyRule } from '../policy-api.ts'
import { changesBetween } from './diff.ts'
import { quotaOf, ruleOf } from './rules.ts'
import { isZone, longestStretches, windowText } from './windows.ts'

/** What was found; a document with errors is not put in force. */
export interface Findings { errors: string[], warnings: string[] }

/** How far ahead windows are looked at: over both changes of the clocks of a year, whatever the day. */
const LOOK_MS = 366 * 86_400_000

/**
 * Checks a policy as people write it.
 *
 * @param site the own one: what it does with its own machines is no policy towards others; null: not known here
 * @throws InvalidInputError with every problem, one per line
 */
export function parsePolicy (data: unknown, site: string | null, source: string): PolicyDocument {
  const { document, errors } = read(data, site, source)
  if (errors.length > 0) throw new InvalidInputError(`${source} is not valid:\n${errors.map(p => `  ${p}`).join('\n')}`)
  return document
}

/**
 * The same, told and not thrown, with what may not be meant so.
 *
 * @param nowMs windows are looked at from then on, Unix ms
 */
export function judgePolicy (data: unknown, site: string | null, nowMs: number): Findings & { document: PolicyDocument | null } {
  try {
    const { document, errors } = read(data, site, 'the policy')
    if (errors.length > 0) return { document: null, errors, warnings: [] }
    const { errors: late, warnings } = judgeTimes(document, nowMs)
    return { document: late.length > 0 ? null : document, errors: late, warnings: [...warnings, ...rulesOf(document).flatMap(([at, rule]) => ruleWarnings(document, rule, at === 'default').map(w => `${at}.${w}`)), ...documentWarnings(document)] }
  } catch (error) {
    if (!(error instanceof InvalidInputError)) throw error
    const [, ...lines] = error.message.split('\n')
    return { document: null, errors: lines.length === 0 ? [describeError(error)] : lines.map(line => line.trim()), warnings: [] }
  }
}

const rulesOf = (document: PolicyDocument): Array<[string, PolicyRule]> => [
  ['default', document.default ?? {}], ...Object.entries(document.sites ?? {}).map(([name, rule]): [string, PolicyRule] => [`sites.${name}`, rule])
]

/** @throws InvalidInputError for what does not fit the schema, or no record */
function read (data: unknown, site: string | null, source: string): { document: PolicyDocument, errors: string[] } {
  // an empty file would pass for "everything is allowed"
  if (typeof data !== 'object' || data === null || Array.isArray(data)) throw new InvalidInputError(`${source} is not valid:\n  a policy has the fields default, sites and own`, 'to allow everything: {default: {}}')
  const document = parseWith(PolicyDocumentSchema, data, source)
  const size = Buffer.byteLength(JSON.stringify(document))
  if (size > MAX_POLICY_BYTES) throw new InvalidInputError(`${source} is not valid:\n  it takes ${size} bytes, at most ${MAX_POLICY_BYTES} fit; say in default what holds for most sites`)
  const errors = rulesOf(document).flatMap(([at, rule]) => ruleErrors(rule).map(p => `${at}.${p}`))
  for (const name of Object.keys(document.sites ?? {})) if (!NAME.test(name)) errors.push(`sites: ${JSON.stringify(name.slice(0, 40))} is no site name`)
  if (site !== null && ruleOf(document, site) !== null) errors.push(`sites.${site}: that is this site; a policy is for the others`)
  return { document, errors }
}

/** A time span, and what is wrong with it. */
function spanProblem (field: string, text: string | undefined, leastMs: number, none: string): string[] {
  if (text === undefined) return []
  const ms = parseDuration(text)
  if (ms === null) return [`${field}: "${text}" is no time span: write 8h, 2d, 90m or PT90M`]
  if (ms < leastMs) return [`${field}: ${text} is below the shortest lease there is, ${MIN_TERM_MS / 1000}s${none}`]
  return ms > MAX_TERM_MS ? [`${field}: ${text} is above the longest lease there is, ${MAX_TERM_MS / 86_400_000}d; leave it out`] : []
}

function ruleErrors (rule: PolicyRule): string[] {
  const { deny, longestLease, latestStart, preempt, quota, windows = [], price } = rule
  if (deny === true) return Object.keys(rule).filter(field => field !== 'deny' && field !== 'reason').map(field => `${field}: has no meaning beside deny: true`)
  const errors = [
    ...spanProblem('longestLease', longestLease, MIN_TERM_MS, '; to lend nothing: deny: true'), ...spanProblem('latestStart', latestStart, 0, ''),
    ...spanProblem('preempt.notice', preempt?.notice, MIN_TERM_MS, '; leave preempt out to keep what was lent'),
    ...sizeProblems(quota),
    ...windows.flatMap((window, i) => [
      ...isZone(window.zone) ? [] : [`windows.${i}.zone: "${window.zone}" is no time zone that is known here; write such as Europe/Zurich`],
      ...window.from !== undefined && window.from === window.to ? [`windows.${i}: it never opens: ${window.from} is its begin and its end; for the whole day: 00:00 to 24:00`] : []
    ])
  ]
  const [longestMs, noticeMs] = [parseDuration(longestLease ?? ''), parseDuration(preempt?.notice ?? '')]
  if (longestMs !== null && noticeMs !== null && noticeMs > longestMs) errors.push(`preempt.notice: ${preempt?.notice ?? ''} is longer than longestLease, ${longestLease ?? ''}: no lease would ever be cut`)
  if (quota !== undefined && Object.keys(quota).length === 0) errors.push('quota: it bounds nothing; leave it out, or name nodes, vcpus, memory, disk, volumes or bandwidth')
  if (price !== undefined && Math.abs(price * 1000 - Math.round(price * 1000)) > 1e-6) errors.push(`price: ${price} has more than three decimals`)
  if (price !== undefined && errors.length === 0 && lendsNothing(rule)) errors.push('price: has no meaning beside a quota of which no node can be had; write deny: true, or a quota')
  return errors
}

function sizeProblems (quota: PolicyRule['quota']): string[] {
  return (['memory', 'disk'] as const).flatMap(field => {
    const size = quota?.[field]
    if (size === undefined) return []
    try {
      mebibytes(String(size), `quota.${field}`)
      return []
    } catch (error) {
      return [describeError(error)]
    }
  })
}

/** Nothing is lent without a node: volumes are for nodes. */
function lendsNothing (rule: PolicyRule): boolean {
  const quota = quotaOf(rule)
  return quota !== null && (quota.nodes === 0 || quota.vcpus === 0 || quota.memoryMib === 0)
}

/** What depends on when windows are open. */
function judgeTimes (document: PolicyDocument, nowMs: number): Findings {
  const found: Findings = { errors: [], warnings: [] }
  for (const [at, { windows, longestLease, latestStart }] of rulesOf(document)) {
    if (windows === undefined) continue
    for (const [i, window] of windows.entries()) {
      const { openMs } = longestStretches([window], nowMs, LOOK_MS)
      if (openMs === 0) found.errors.push(`${at}.windows.${i}: ${windowText(window)} never opens`)
    }
    const { openMs, closedMs } = longestStretches(windows, nowMs, LOOK_MS)
    if (openMs > 0 && openMs < MIN_TERM_MS) found.errors.push(`${at}.windows: they are open for ${openMs / 1000}s at most, the shortest lease takes ${MIN_TERM_MS / 1000}s`)
    const [longestMs, latestMs] = [parseDuration(longestLease ?? ''), parseDuration(latestStart ?? '')]
    if (longestMs !== null && longestMs > openMs) found.warnings.push(`${at}.longestLease: ${longestLease ?? ''} is longer than the windows are ever open, ${minutes(openMs)}`)
    if (latestMs !== null && latestMs < closedMs) found.warnings.push(`${at}.latestStart: ${latestStart ?? ''} is shorter than the windows are closed, up to ${minutes(closedMs)}: in between nothing can be reserved`)
  }
  return found
}

const minutes = (ms: number): string => ms % 3_600_000 === 0 ? `${ms / 3_600_000}h` : `${Math.floor(ms / 60_000)}m`

function ruleWarnings (document: PolicyDocument, rule: PolicyRule, isDefault: boolean): string[] {
  const { quota, preempt } = rule
  const bound = quotaOf(rule)
  const others = [document.own?.priority ?? OWN_PRIORITY, ...rulesOf(document).filter(([, other]) => other !== rule || isDefault).map(([, other]) => priorityIn(other))]
  return [
    ...lendsNothing(rule) ? ['quota: no node can be had of it: nothing is lent; deny: true says so'] : [],
    ...bound !== null && quota?.disk !== undefined && quota.volumes !== undefined && (bound.diskMib === 0) !== (bound.volumes === 0) ? ['quota: of disk and volumes one is 0: no volume is lent'] : [],
    ...preempt !== undefined && others.every(other => other <= priorityIn(rule)) ? ['preempt: nobody has a higher priority: no lease is ever cut'] : []
  ]
}

const priorityIn = ({ priority = 50 }: PolicyRule): number => priority

function documentWarnings (document: PolicyDocument): string[] {
  return Object.entries(document.sites ?? {})
    .filter(([, rule]) => Object.keys(rule).length > 0 && changesBetween({ default: rule }, { default: document.default ?? {} }).length === 0)
    .map(([site]) => `sites.${site}: says what the default says`)
}
