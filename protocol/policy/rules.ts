/** The rules of a policy, read: what is lent to whom. Which rule is for whom, and what it says of a lease. */
import { describe, type Resources } from '../core/capacity.ts'
import { MusubiError } from '../core/errors.ts'
import { type Quotas, OTHER_SITES } from '../core/lease/state.ts'
import { DEFAULT_PRIORITY, OWN_PRIORITY } from '../core/limits.ts'
import { mebibytes } from '../core/notation/size.ts'
import { parseDuration } from '../core/notation/duration.ts'
import type { PolicyDocument, PolicyRule } from '../policy-api.ts'
import { coveredUntil, nextOpen, windowText } from './windows.ts'

/** Rules of a document that has been checked. Own fields only: `constructor` is a name that a site can have. */
export const ruleOf = (document: PolicyDocument, site: string): PolicyRule | null => document.sites !== undefined && Object.hasOwn(document.sites, site) ? document.sites[site] ?? null : null
export const ruleFor = (document: PolicyDocument, site: string): PolicyRule => ruleOf(document, site) ?? document.default ?? {}

/** Longest lease of a rule, ms; 0: no limit of its own. */
export const maxTermOf = ({ longestLease }: PolicyRule): number => parseDuration(longestLease ?? '') ?? 0

/** What a rule asks per vCPU and hour, thousandths; null: what the configuration says. */
export const priceOf = ({ price }: PolicyRule): number | null => price === undefined ? null : Math.round(price * 1000)

/** Of requests of a site; the own one is a site like the others here. */
export const priorityOf = (document: PolicyDocument, own: string, site: string): number => site === own ? document.own?.priority ?? OWN_PRIORITY : ruleFor(document, site).priority ?? DEFAULT_PRIORITY

/** How long before its end a site is told that its leases are cut, ms; null: they are not. */
export const noticeOf = ({ preempt }: PolicyRule): number | null => preempt === undefined ? null : parseDuration(preempt.notice)

/** What is not named is not bounded. */
const UNBOUNDED: Required<Resources> = { vcpus: Infinity, memoryMib: Infinity, diskMib: Infinity, volumes: Infinity, bandwidthMbit: Infinity, nodes: Infinity }

/** The quota of a rule, of the whole site; null: none. */
export function quotaOf ({ quota }: PolicyRule): Required<Resources> | null {
  if (quota === undefined) return null
  const { nodes, vcpus, memory, disk, volumes, bandwidth } = quota
  const known: Partial<Resources> = {
    ...nodes === undefined ? {} : { nodes }, ...vcpus === undefined ? {} : { vcpus }, ...volumes === undefined ? {} : { volumes }, ...bandwidth === undefined ? {} : { bandwidthMbit: bandwidth },
    ...memory === undefined ? {} : { memoryMib: mebibytes(String(memory), 'memory') }, ...disk === undefined ? {} : { diskMib: mebibytes(String(disk), 'disk') }
  }
  return { ...UNBOUNDED, ...known }
}

/**
 * What one gateway may lend of a quota. Rounded down: the shares of all gateways together are never more than the quota,
 * and what is left over is nobody's.
 *
 * @param percent of the gateway's certificate, 0 to 100; those of a site's gateways are at most 100 together
 */
export function shareOf (quota: Required<Resources>, percent: number): Required<Resources> {
  const share = (whole: number): number => whole === Infinity ? Infinity : Number(BigInt(whole) * BigInt(percent) / 100n)
  return {
    vcpus: share(quota.vcpus), memoryMib: share(quota.memoryMib), diskMib: share(quota.diskMib),
    volumes: share(quota.volumes), bandwidthMbit: share(quota.bandwidthMbit), nodes: share(quota.nodes)
  }
}

/** What a gateway's ledger is to count: its share for every site, the own one without a bound. */
export function quotasOf (document: PolicyDocument, own: string, percent: number): Quotas {
  const share = (rule: PolicyRule): Resources | null => {
    const quota = quotaOf(rule)
    return quota === null ? null : shareOf(quota, percent)
  }
  return new Map([
    [OTHER_SITES, share(document.default ?? {})],
    ...Object.entries(document.sites ?? {}).map(([site, rule]): [string, Resources | null] => [site, share(rule)]),
    [own, null]
  ])
}

/** `16 vCPU, 8 nodes`, or `no limit` */
export function boundText (quota: Required<Resources> | null): string {
  if (quota === null) return 'no limit'
  const named = Object.entries(quota).filter(([, bound]) => Number.isFinite(bound))
  const text = describe({ vcpus: 0, memoryMib: 0, diskMib: 0, volumes: 0, bandwidthMbit: 0, ...Object.fromEntries(named) })
  return text === 'nothing' && named.length === 0 ? 'no limit' : text
}

/** A lease that a policy is asked about; times Unix ms. */
export interface LeaseAsk {
  masterSite: string
  startMs: number
  endMs: number
  /** what is new of it begins here: the former end of a lease that is extended; absent: all is new */
  fromMs?: number
  nowMs: number
  /** by how much the clock that has judged it before may differ, ms */
  slackMs?: number
}

const minutes = (ms: number): string => `${Math.ceil(ms / 60_000)} minutes`
const at = (ms: number): string => new Date(ms).toISOString().replace(/\.\d+Z$/, 'Z')
/** How far ahead a refusal looks for when a window opens. */
const LOOK_AHEAD_MS = 8 * 86_400_000

/**
 * Whether the policy of `site` lets a master have a lease. What it borrows in all is counted by the ledger.
 *
 * @throws MusubiError POLICY_DENIED, POLICY_TERM, POLICY_START, POLICY_WINDOW, with the reason that the site gives
 */
export function checkPolicy (document: PolicyDocument, site: string, ask: LeaseAsk): void {
  const { masterSite, startMs, endMs, nowMs, slackMs = 0 } = ask
  if (masterSite === site) return
  const rule = ruleFor(document, masterSite)
  const why = rule.reason === undefined || rule.reason === '' ? '' : `: ${rule.reason}`
  const refuse = (code: string, what: string, hint: string): never => { throw new MusubiError(code, `site ${site} lends ${what}${why}`, { hint: `${hint}, or leave ${site} out` }) }
  if (rule.deny === true) refuse('POLICY_DENIED', `nothing to ${masterSite}`, `ask the administrator of ${site}`)
  const longest = parseDuration(rule.longestLease ?? '')
  if (longest !== null && endMs - startMs > longest + slackMs) {
    refuse('POLICY_TERM', `to ${masterSite} for at most ${rule.longestLease ?? ''}, ${minutes(endMs - startMs)} were asked for`, 'ask for a shorter term')
  }
  // What has passed is nobody's to judge: more for a cluster that runs begins now.
  const fromMs = Math.max(ask.fromMs ?? startMs, Math.min(nowMs, endMs))
  const latest = parseDuration(rule.latestStart ?? '')
  // A lease that is there has begun as it was agreed.
  if (latest !== null && ask.fromMs === undefined && startMs - nowMs > latest + slackMs) {
    refuse('POLICY_START', `to ${masterSite} at most ${rule.latestStart ?? ''} ahead, this starts in ${minutes(startMs - nowMs)}`, `ask again after ${at(startMs - latest)}`)
  }
  const { windows } = rule
  if (windows === undefined) return
  const coveredMs = coveredUntil(windows, fromMs, endMs)
  if (coveredMs >= endMs) return
  const within = `to ${masterSite} within ${windows.map(windowText).join('; ')} only`
  if (coveredMs > fromMs) refuse('POLICY_WINDOW', `${within}, which is over at ${at(coveredMs)}; ${at(endMs)} was asked for`, `ask for an end by ${at(coveredMs)}`)
  const open = nextOpen(windows, fromMs, LOOK_AHEAD_MS)
  refuse('POLICY_WINDOW', `${within}, not at ${at(fromMs)}`, open === null ? `ask the administrator of ${site}` : `ask for a start at ${at(open.fromMs)} and an end by ${at(open.untilMs)}`)
}
