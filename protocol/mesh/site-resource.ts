import type { SiteResource } from '../api.ts'
import { zero } from '../core/capacity.ts'
import type { SiteAd } from '../wire/gen/types.ts'

/** A site's advertisement as the API shows it, at agents and coordinators alike. */
export function siteResourceOf (peerId: string, ageMs: number, ad: SiteAd): SiteResource {
  return {
    site: ad.site, gateway: ad.gateway, peerId, addresses: ad.addresses, hosts: ad.hosts, total: ad.total ?? zero(), free: ad.free ?? zero(),
    freeByHost: ad.freeByHost, volumeFreeMib: ad.volumeFreeMib, ageMs
  }
}
