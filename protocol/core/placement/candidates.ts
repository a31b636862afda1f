/** Which sites may have nodes of a cluster, how many each takes, and which of them come first. */
import { type Resources, clampToZero, describe, describeShortfall, timesFitting } from '../capacity.ts'
import { largestOf } from './at-site.ts'
import type { SiteCapacity } from './site-capacity.ts'
import type { PlacementTerms } from './terms.ts'

/** A site that the terms allow. */
export interface Candidate {
  site: string
  /** nodes that it can take */
  slots: number
  /** nodes that the cluster has there already */
  has: number
}

/** What the choice of sites is about, whichever of them it is. */
export interface Asked {
  need: Resources
  terms: PlacementTerms
  master: SiteCapacity
  /** digest of the node image; empty: not known yet */
  image: string
}

const byText = (a: string, b: string): number => a < b ? -1 : a > b ? 1 : 0
const ms = (rttMs: number): string => `${Math.round(rttMs * 1000) / 1000} ms`
const money = (milli: number): string => String(milli / 1000)

/**
 * Everything in the terms that keeps nodes off a site; empty when nothing does. What is not known of
 * a site speaks against it where the terms ask for it. The master's own site costs nothing, and is near.
 */
export function ruledOut (site: SiteCapacity, { terms, master }: Asked, member = false): string[] {
  const reasons: string[] = []
  const { onlySites, notSites, maxRttMs, maxPriceMilli, minBandwidthMbit } = terms
  if (onlySites !== undefined && !onlySites.includes(site.site)) reasons.push(`nodes are for ${onlySites.join(', ')} only`)
  if (notSites?.includes(site.site) === true) reasons.push('it is to have no nodes')
  if (site === master) return reasons
  if (site.closed !== undefined) reasons.push(site.closed)
  if (maxRttMs !== undefined && site.rttMs === undefined) reasons.push(`its RTT is not known, ${maxRttMs} ms is the most`)
  else if (maxRttMs !== undefined && (site.rttMs ?? 0) > maxRttMs) reasons.push(`its RTT of ${ms(site.rttMs ?? 0)} is above ${maxRttMs} ms`)
  if (maxPriceMilli !== undefined && site.priceMilli === undefined) reasons.push(`its price is not known, ${money(maxPriceMilli)} is the most`)
  else if (maxPriceMilli !== undefined && (site.priceMilli ?? 0) > maxPriceMilli) reasons.push(`its price of ${money(site.priceMilli ?? 0)} per vCPU and hour is above ${money(maxPriceMilli)}`)
  // A member site has reserved its share.
  if (minBandwidthMbit !== undefined && !member) {
    for (const [who, { wanFreeMbit = 0 }] of [['its WAN', site], [`the WAN of the master's site ${master.site}`, master]] as const) {
      if (wanFreeMbit === 0) reasons.push(`the bandwidth of ${who} is not known, ${minBandwidthMbit} Mbit/s are needed`)
      else if (wanFreeMbit < minBandwidthMbit) reasons.push(`${who} has ${wanFreeMbit} Mbit/s free, ${minBandwidthMbit} are needed`)
    }
  }
  return reasons
}

/** Nodes that hosts with this free take, by the terms. */
export function slotsIn (freeByHost: readonly Resources[], { need, terms }: Pick<Asked, 'need' | 'terms'>): number {
  const most = terms.maxNodesPerHost ?? Infinity
  return freeByHost.reduce((total, host) => total + Math.min(most, timesFitting(need, clampToZero(host))), 0)
}

const isWarm = ({ warmImages }: SiteCapacity, { terms, image }: Asked): boolean => terms.preferWarmCache !== false && image !== '' && warmImages?.includes(image) === true

/** Not by subtraction: what is not known is infinite. */
const byNumber = (a = Infinity, b = Infinity): number => a < b ? -1 : a > b ? 1 : 0

/**
 * Which of two sites comes first when they would do as well: the master's own, one that has the
 * image, the cheaper, the nearer, the first by name. What is not known comes last.
 */
export const bySite = (asked: Asked) => (a: SiteCapacity, b: SiteCapacity): number =>
  Number(b === asked.master) - Number(a === asked.master) || Number(isWarm(b, asked)) - Number(isWarm(a, asked)) ||
  byNumber(a.priceMilli, b.priceMilli) || byNumber(a.rttMs, b.rttMs) || byText(a.site, b.site)

/** What was looked at of a site when it was chosen among others: `has the image, price 2, RTT 12 ms`. */
export function factsOf (site: SiteCapacity, asked: Asked): string {
  if (site === asked.master) return 'the master\'s own'
  return [
    ...isWarm(site, asked) ? ['has the image'] : [],
    site.priceMilli === undefined ? 'price not known' : `price ${money(site.priceMilli)}`,
    site.rttMs === undefined ? 'RTT not known' : `RTT ${ms(site.rttMs)}`
  ].join(', ')
}

/** Why a site that the terms allow takes no (more) nodes. @param count nodes that it was given */
export function noRoom (site: SiteCapacity, { need, terms }: Asked, count: number): string {
  if (site.freeByHost.length === 0) return 'no compute host takes leases'
  if (terms.maxNodesPerSite !== undefined && count >= terms.maxNodesPerSite) return `it has ${count} nodes, the most that the cluster allows at one site`
  const shortfall = describeShortfall(need, largestOf(site.freeByHost))
  if (shortfall !== '') return `a node ${shortfall} on its largest host`
  return `no host has room for more (${describe(need)} each${terms.maxNodesPerHost === undefined ? '' : `, at most ${terms.maxNodesPerHost} on a host`})`
}
