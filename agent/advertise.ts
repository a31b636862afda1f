import type { HostCapacity } from '../protocol/core/placement.ts'
import { siteCapacityOf, type SiteCapacity } from '../protocol/core/placement.ts'
import { add, zero, type Resources } from '../protocol/core/capacity.ts'
import type { HostAd, SiteAd } from '../protocol/wire/gen/types.ts'

const orZero = (r: Resources | null): Resources => r ?? zero()

/** A host's advertisement as placement takes it. */
export function hostCapacityOf (ad: HostAd): HostCapacity {
  return { host: ad.host, roles: ad.roles, free: orZero(ad.free), cordoned: ad.cordoned }
}

/** Folds the hosts of a site into the one record that leaves it: sums, and free by host without names. */
export function foldSite (site: string, gateway: { host: string, addresses: string[] }, ads: readonly HostAd[], version: string): SiteAd {
  const capacity = siteCapacityOf(site, ads.map(hostCapacityOf))
  const total = ads.reduce((sum, ad) => add(sum, orZero(ad.total)), zero())
  const free = ads.reduce((sum, ad) => add(sum, orZero(ad.free)), zero())
  return {
    site, gateway: gateway.host, addresses: gateway.addresses, hosts: ads.length, total, free,
    freeByHost: capacity.freeByHost.map(r => ({ ...r })), volumeFreeMib: Math.max(0, ...capacity.volumeFreeByHost), version
  }
}

/** Another site's advertisement as placement takes it: one figure for its largest volume. */
export function siteCapacityOfAd (ad: SiteAd): SiteCapacity {
  return { site: ad.site, freeByHost: ad.freeByHost, volumeFreeByHost: ad.volumeFreeMib > 0 ? [ad.volumeFreeMib] : [] }
}
