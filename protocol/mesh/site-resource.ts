import type { SiteResource } from '../api.ts'
import { zero } from '../core/capacity.ts'
import type { SiteAd } from '../wire/gen/types.ts'

/** What whoever looks knows of a site beside what the site says. */
export type SiteSeen = Pick<SiteResource, 'state' | 'path' | 'rttMs'>

/** A site's advertisement as the API shows it, at agents and coordinators alike. */
export function siteResourceOf (peerId: string, ageMs: number, ad: SiteAd, seen: Partial<SiteSeen> = {}): SiteResource {
  return {
    site: ad.site, gateway: ad.gateway, peerId, addresses: ad.addresses, hosts: ad.hosts, total: ad.total ?? zero(), free: ad.free ?? zero(),
    freeByHost: ad.freeByHost, volumeFreeMib: ad.volumeFreeMib, ageMs,
    state: seen.state ?? 'alive', path: seen.path ?? null, rttMs: seen.rttMs ?? null,
    features: ad.features, roles: ad.roles, priceMilli: ad.priceMilli, maxTermMs: ad.maxTermMs, relay: ad.relay
  }
}
