import type { Logger } from 'pino'
import { foldSite, hostCapacityOf, siteCapacityOfAd } from './advertise.ts'
import type { AgentConfig } from './config.ts'
import type { SiteHost } from './gateway/offer.ts'
import type { KnownSite } from './master/negotiate.ts'
import { logFor } from './serve.ts'
import type { HostResource, SiteResource } from '../protocol/api.ts'
import { clampToZero, type Resources, zero } from '../protocol/core/capacity.ts'
import { describeError } from '../protocol/core/errors.ts'
import { siteCapacityOf } from '../protocol/core/placement.ts'
import type { Mesh } from '../protocol/mesh/mesh.ts'
import { createRecords } from '../protocol/mesh/records.ts'
import { siteResourceOf } from '../protocol/mesh/site-resource.ts'
import { VERSION } from '../protocol/version.ts'
import type { HostAd, SiteAd } from '../protocol/wire/gen/types.ts'
import type { Ledger } from '../store/ledger.ts'

export interface DirectoryOptions {
  mesh: Mesh
  epoch: number
  config: AgentConfig
  ledger: Ledger
  total: Resources
  now: () => number
  log: Logger
}

/** What this agent says of itself, and what it has heard: hosts of its site, sites of the federation. */
export interface Directory {
  start (): void
  stop (): void
  /** The ledger has changed: say so soon. */
  changed (): void
  hosts (): HostResource[]
  sites (): SiteResource[]
  siteAds (): SiteAd[]
  /** hosts of the own site that can be placed on, this one as its ledger says */
  siteHosts (): SiteHost[]
  /** sites that a master can ask, the own one as its hosts say */
  knownSites (): KnownSite[]
}

export function createDirectory (options: DirectoryOptions): Directory {
  const { mesh, config, ledger, log } = options
  const records = createRecords({ mesh, epoch: options.epoch, log: logFor(log) })
  const isGateway = config.roles.includes('gateway')

  const ownAd = (): HostAd => ({
    site: config.site, host: config.name, roles: config.roles, addresses: config.listen, underlayAddress: config.underlayAddress,
    total: options.total, free: clampToZero(ledger.free()), cordoned: false, accelerator: config.accelerator ?? 'auto', version: VERSION
  })

  /** Ads of the site's hosts; this host's own as of now, not as last published. */
  function hostAds (): Array<{ peer: string, ageMs: number, body: HostAd }> {
    const others = records.view('host').filter(r => r.peer !== mesh.peerId && r.body.site === config.site)
    return [{ peer: mesh.peerId, ageMs: 0, body: ownAd() }, ...others].sort((a, b) => a.body.host < b.body.host ? -1 : 1)
  }
  const ownSiteAd = (): SiteAd => foldSite(config.site, { host: config.name, addresses: config.listen }, hostAds().map(h => h.body), VERSION)

  function publish (): void {
    try {
      records.publish('host', ownAd())
      if (isGateway) records.publish('site', ownSiteAd())
    } catch (error) {
      log.warn({ error: describeError(error) }, 'cannot advertise')
    }
  }

  function siteRows (): Array<{ peer: string, ageMs: number, body: SiteAd }> {
    const rows = records.view('site').filter(r => r.peer !== mesh.peerId)
    return isGateway ? [{ peer: mesh.peerId, ageMs: 0, body: ownSiteAd() }, ...rows] : rows
  }

  const unsubscribe = records.onChange(kind => { if (kind === 'host' && isGateway) publish() })

  return {
    start: publish,
    stop () { unsubscribe(); records.stop() },
    changed: publish,
    hosts: () => hostAds().map(({ peer, ageMs, body }) => ({
      site: body.site, host: body.host, peerId: peer, roles: body.roles, addresses: body.addresses, underlayAddress: body.underlayAddress,
      total: body.total ?? zero(), free: body.free ?? zero(), accelerator: body.accelerator, version: body.version,
      ageMs, connected: peer === mesh.peerId || mesh.connected().includes(peer)
    })),
    sites: () => siteRows().map(r => siteResourceOf(r.peer, r.ageMs, r.body)).sort((a, b) => a.site < b.site ? -1 : 1),
    siteAds: () => siteRows().map(r => r.body),
    siteHosts: () => hostAds().map(({ peer, body }) => ({ ...hostCapacityOf(body), peer, underlayAddress: body.underlayAddress })),
    knownSites: () => siteRows().map(({ peer, body }): KnownSite => ({
      ...(body.site === config.site ? siteCapacityOf(config.site, hostAds().map(h => hostCapacityOf(h.body))) : siteCapacityOfAd(body)),
      peer, gatewayHost: body.gateway
    }))
  }
}
