/** What a site has for a placement among sites: its hosts without names, and facts of its gateway. */
import { type Resources, clampToZero, fits, zero } from '../capacity.ts'
import { FRONTEND_RESOURCES, type HostCapacity } from './at-site.ts'

/** What one site offers to a placement among sites, as its advertisement tells it. */
export interface SiteCapacity {
  site: string
  /** free on each compute host */
  freeByHost: readonly Resources[]
  /** free disk on each storage host; an advertisement with one figure is a list of one */
  volumeFreeByHost: readonly number[]
  /**
   * The gateway that would take the frontend: its index in `freeByHost` when it is compute as well,
   * else what it has free. Absent: not known, the frontend is counted on any compute host.
   */
  gateway?: { computeIndex: number } | { free: Resources }
  /** round trip from the master to the gateway that is asked, ms; absent: not known */
  rttMs?: number
  /** per vCPU and hour, thousandths of the federation's unit; absent: not known */
  priceMilli?: number
  /** of the WAN of the gateway that is asked, what nobody has reserved; absent or 0: it does not say */
  wanFreeMbit?: number
  /** why it would not lend in the time that is wanted, whatever is free; absent: nothing is known to be in the way */
  closed?: string
  /** digests of node images that a cache here would have without fetching them, or most of their bytes; absent: it does not say */
  warmImages?: readonly string[]
  /** of the files of the image that was asked about, those that it would have; absent: it does not say */
  warmBytes?: number
}

/** Folds the hosts of a site into what `placeAmongSites` and advertisements use. */
export function siteCapacityOf (site: string, hosts: readonly HostCapacity[]): SiteCapacity {
  const open = hosts.filter(host => host.cordoned !== true).toSorted((a, b) => a.host < b.host ? -1 : a.host > b.host ? 1 : 0)
  const withRole = (role: string): HostCapacity[] => open.filter(host => host.roles.includes(role))
  const compute = withRole('compute')
  // The gateway that placeAtSite would pick: the first by name that takes the frontend.
  const gateways = withRole('gateway')
  const gateway = gateways.find(host => fits(FRONTEND_RESOURCES, host.free)) ?? gateways[0]
  const computeIndex = gateway === undefined ? -1 : compute.indexOf(gateway)
  return {
    site,
    freeByHost: compute.map(host => clampToZero(host.free)),
    volumeFreeByHost: withRole('storage').map(host => host.free.volumes > 0 ? Math.max(0, host.free.diskMib) : 0),
    ...(gateway === undefined ? { gateway: { free: zero() } } : { gateway: computeIndex >= 0 ? { computeIndex } : { free: clampToZero(gateway.free) } })
  }
}
