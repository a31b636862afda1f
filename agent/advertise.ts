import type { HostCapacity } from '../protocol/core/placement/at-site.ts'
import { siteCapacityOf, type SiteCapacity } from '../protocol/core/placement/site-capacity.ts'
import { clampToZero, sum, zero, type Resources } from '../protocol/core/capacity.ts'
import type { TunnelTrack } from '../protocol/core/desired.ts'
import { MAX_FEATURES } from '../protocol/core/limits.ts'
import type { HostAd, SiteAd } from '../protocol/wire/gen/types.ts'

const orZero = (r: Resources | null): Resources => r ?? zero()

/** A host's advertisement as placement takes it. */
export function hostCapacityOf (ad: HostAd): HostCapacity {
  return { host: ad.host, roles: ad.roles, free: orZero(ad.free), cordoned: ad.cordoned }
}

/** What the operator of a gateway adds to what its hosts say. */
export interface SiteTerms {
  /** per vCPU and hour, thousandths of the federation's unit; 0: free */
  priceMilli: number
  /** longest lease that the policy gives; 0: no limit of its own */
  maxTermMs: number
  /** this gateway relays for gateways that nobody can reach */
  relay: boolean
  /** this gateway's tunnel keys as others are to know them; empty before the helper has told */
  tunnel: readonly TunnelTrack[]
}

const union = (lists: ReadonlyArray<readonly string[]>): string[] => [...new Set(lists.flat())].sort()

/**
 * Folds the live hosts of a site into the one record that leaves it: sums, and free by host without
 * names. A cordoned host counts as a host and in the total; it lends nothing, so neither what it has
 * free nor its features and roles are offered.
 */
export function foldSite (site: string, gateway: { host: string, addresses: string[] }, ads: readonly HostAd[], version: string, terms: SiteTerms = { priceMilli: 0, maxTermMs: 0, relay: false, tunnel: [] }): SiteAd {
  const open = ads.filter(ad => !ad.cordoned)
  // A cluster's way out is that of the gateway that is asked: another gateway's says so itself.
  const wanOf = (hosts: ReadonlyArray<readonly [host: string, has: Resources | null]>): number => Math.max(0, hosts.find(([host]) => host === gateway.host)?.[1]?.bandwidthMbit ?? 0)
  const capacity = siteCapacityOf(site, open.map(hostCapacityOf))
  return {
    site, gateway: gateway.host, addresses: gateway.addresses, hosts: ads.length,
    total: { ...sum(ads.map(ad => orZero(ad.total))), bandwidthMbit: wanOf(ads.map(ad => [ad.host, ad.total])) },
    free: { ...sum(open.map(ad => clampToZero(orZero(ad.free)))), bandwidthMbit: wanOf(open.map(ad => [ad.host, ad.free])) },
    freeByHost: capacity.freeByHost.map(r => ({ ...r })), volumeFreeMib: Math.max(0, ...capacity.volumeFreeByHost), version,
    features: union(open.map(ad => ad.features)).slice(0, MAX_FEATURES), roles: union(open.map(ad => ad.roles)),
    priceMilli: terms.priceMilli, maxTermMs: terms.maxTermMs, relay: terms.relay, tunnel: terms.tunnel.map(track => ({ ...track }))
  }
}

/** Another site's advertisement as placement takes it: one figure for its largest volume. */
export function siteCapacityOfAd (ad: SiteAd): SiteCapacity {
  return { site: ad.site, freeByHost: ad.freeByHost, volumeFreeByHost: ad.volumeFreeMib > 0 ? [ad.volumeFreeMib] : [], priceMilli: ad.priceMilli, wanFreeMbit: ad.free?.bandwidthMbit ?? 0 }
}
