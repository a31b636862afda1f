import type { SearchReason, SiteResource } from '../../api.ts'
import { RECORD_TTL_MS } from '../limits.ts'
import { largestOf } from '../placement/at-site.ts'
import type { FullQuery } from './query.ts'
import { mibText, priceText, rttText, shapeText, spanText } from './text.ts'

/** One thing that keeps a whole site out of an answer, however much it has free. */
export interface Rule {
  code: SearchReason['code']
  /** `3 sites by RTT`: how it is counted in the explanation */
  by: string
  /** whether the query asks for it at all; what it does not ask for costs nothing */
  asked: (query: FullQuery) => boolean
  breaks: (site: SiteResource, query: FullQuery) => boolean
  /** every breach, one sentence each */
  why: (site: SiteResource, query: FullQuery) => string[]
}

const always = (): boolean => true
const without = (wanted: readonly string[], has: readonly string[]): string[] => wanted.filter(one => !has.includes(one))
const lacksAny = (wanted: readonly string[], has: readonly string[]): boolean => wanted.some(one => !has.includes(one))

export const RULES: readonly Rule[] = [
  {
    code: 'NOT_NAMED', by: 'not being named', asked: q => q.sites.length > 0,
    breaks: (site, q) => !q.sites.includes(site.site), why: (_site, q) => [`the search is for ${q.sites.join(', ')} only`]
  },
  {
    code: 'LEFT_OUT', by: 'being left out', asked: q => q.notSites.length > 0,
    breaks: (site, q) => q.notSites.includes(site.site), why: site => [`the search leaves out ${site.site}`]
  },
  {
    code: 'DEAD', by: 'being dead', asked: always,
    breaks: site => site.state === 'dead', why: site => [`the site is dead: its last sign of life is ${spanText(site.ageMs)} old`]
  },
  {
    // Nobody has to have called it dead: what has outlived its time to live says nothing about now.
    code: 'STALE', by: 'an old advertisement', asked: always,
    breaks: site => site.ageMs > RECORD_TTL_MS, why: site => [`advertisement is ${spanText(site.ageMs)} old, ${spanText(RECORD_TTL_MS)} is the most`]
  },
  {
    code: 'ROLE', by: 'role', asked: q => q.roles.length > 0,
    breaks: (site, q) => lacksAny(q.roles, site.roles), why: (site, q) => without(q.roles, site.roles).map(role => `no host is ${role}`)
  },
  {
    code: 'FEATURE', by: 'feature', asked: q => q.features.length > 0,
    breaks: (site, q) => lacksAny(q.features, site.features), why: (site, q) => without(q.features, site.features).map(feature => `no host has ${feature}`)
  },
  {
    code: 'RTT', by: 'RTT', asked: q => q.maxRttMs !== null,
    breaks: (site, { maxRttMs }) => maxRttMs !== null && (site.rttMs === null || site.rttMs > maxRttMs),
    why: (site, { maxRttMs }) => [site.rttMs === null ? `RTT is not known, ${maxRttMs ?? 0} ms is the most` : `RTT ${rttText(site.rttMs, maxRttMs ?? 0)} is above ${maxRttMs ?? 0} ms`]
  },
  {
    code: 'PRICE', by: 'price', asked: q => q.maxPriceMilli !== null,
    breaks: (site, { maxPriceMilli }) => maxPriceMilli !== null && site.priceMilli > maxPriceMilli,
    why: (site, { maxPriceMilli }) => [`price ${priceText(site.priceMilli)} is above ${priceText(maxPriceMilli ?? 0)} per vCPU and hour`]
  },
  {
    code: 'TERM', by: 'longest lease', asked: q => q.termMs !== null,
    breaks: (site, { termMs }) => termMs !== null && site.maxTermMs > 0 && termMs > site.maxTermMs,
    why: (site, { termMs }) => [`longest lease is ${spanText(site.maxTermMs)}, ${spanText(termMs ?? 0)} is needed`]
  }
]

/**
 * How many nodes of the wanted shape the hosts of a site take, each host by itself.
 * Written out rather than by `timesFitting`: this line runs for every host of the federation.
 */
export function nodesIn (freeByHost: SiteResource['freeByHost'], need: FullQuery): number {
  const { vcpus, memoryMib, diskMib } = need
  let nodes = 0
  for (const free of freeByHost) {
    if (free.vcpus < vcpus || free.memoryMib < memoryMib || free.diskMib < diskMib) continue
    let times = Math.floor(free.vcpus / vcpus)
    const byMemory = Math.floor(free.memoryMib / memoryMib)
    if (byMemory < times) times = byMemory
    if (diskMib > 0) {
      const byDisk = Math.floor(free.diskMib / diskMib)
      if (byDisk < times) times = byDisk
    }
    nodes += times
  }
  return nodes
}

/** What a site lacks to take the whole search by itself; empty when it takes it. */
function shortfalls (site: SiteResource, query: FullQuery): SearchReason[] {
  const reasons: SearchReason[] = []
  const nodes = nodesIn(site.freeByHost, query)
  if (site.freeByHost.length === 0) {
    reasons.push({ code: 'NO_HOST', message: 'no compute host takes leases' })
  } else if (nodes === 0) {
    const largest = largestOf(site.freeByHost)
    if (largest.vcpus < query.vcpus) reasons.push({ code: 'VCPUS', message: `largest free host has ${largest.vcpus} vCPU, ${query.vcpus} ${query.vcpus === 1 ? 'is' : 'are'} needed` })
    if (largest.memoryMib < query.memoryMib) reasons.push({ code: 'MEMORY', message: `largest free host has ${mibText(largest.memoryMib)} memory, ${mibText(query.memoryMib)} are needed` })
    if (largest.diskMib < query.diskMib) reasons.push({ code: 'DISK', message: `largest free host has ${mibText(largest.diskMib)} disk, ${mibText(query.diskMib)} are needed` })
    if (reasons.length === 0) reasons.push({ code: 'SHAPE', message: `no single host has ${shapeText(query)} free together` })
  } else if (nodes < query.nodes) {
    reasons.push({ code: 'NODES', message: `${nodes} of ${query.nodes} nodes fit` })
  }
  if (site.volumeFreeMib < query.volumeMib) reasons.push({ code: 'VOLUME', message: `largest volume that fits has ${mibText(site.volumeFreeMib)}, ${mibText(query.volumeMib)} are needed` })
  return reasons
}

/** Everything that keeps a site from taking the whole search by itself, in a fixed order. */
export function reasonsOf (site: SiteResource, query: FullQuery, rules: readonly Rule[]): SearchReason[] {
  const ruledOut = rules.filter(rule => rule.breaks(site, query)).flatMap(rule => rule.why(site, query).map(message => ({ code: rule.code, message })))
  return [...ruledOut, ...shortfalls(site, query)]
}
