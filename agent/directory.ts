import type { Logger } from 'pino'
import { foldSite, hostCapacityOf, siteCapacityOfAd } from './advertise.ts'
import { hostDetail } from './api/view/host.ts'
import type { AgentConfig } from './config.ts'
import { logFor } from './serve.ts'
import type { HostDetail, HostResource, SiteResource } from '../protocol/api.ts'
import { clampToZero, type Resources, zero } from '../protocol/core/capacity.ts'
import type { TunnelTrack } from '../protocol/core/desired.ts'
import { describeError, NotFoundError } from '../protocol/core/errors.ts'
import type { SiteHost } from '../protocol/core/gateway/events.ts'
import { nextStartOf } from '../protocol/core/lease/lease.ts'
import { LOCAL_FEATURE } from '../protocol/core/network/local.ts'
import type { KnownSite } from '../protocol/core/master/events.ts'
import { siteCapacityOf } from '../protocol/core/placement/site-capacity.ts'
import type { Mesh } from '../protocol/mesh/mesh.ts'
import { createRecords, type Records } from '../protocol/mesh/records.ts'
import { siteResourceOf } from '../protocol/mesh/site-resource.ts'
import { maxTermOf, priceOf } from '../protocol/policy/rules.ts'
import type { PolicyRule } from '../protocol/policy-api.ts'
import { VERSION } from '../protocol/version.ts'
import type { HostAd, Inventory, SiteAd } from '../protocol/wire/gen/types.ts'
import type { Ledger } from '../store/ledger.ts'

export interface DirectoryOptions {
  mesh: Mesh
  epoch: number
  config: AgentConfig
  ledger: Ledger
  total: Resources
  now: () => number
  log: Logger
  cordoned: () => boolean
  /** nothing could be made here now, so nothing is offered */
  blind: () => boolean
  /** null until it was read */
  inventory: () => { inventory: Inventory, features: string[] } | null
  /** what the policy says of sites that it does not name */
  rule: () => PolicyRule
  /** this gateway's tunnel keys */
  tunnel: () => readonly TunnelTrack[]
}

/** What this agent says of itself, and what it has heard: hosts of its site, sites of the federation. */
export interface Directory {
  readonly records: Records
  start (): void
  /** Says that this host leaves, so that nobody waits for it. */
  leave (): Promise<void>
  stop (): void
  /** The ledger, cordon, policy or inventory has changed: say so soon. */
  changed (): void
  /** the dead ones too, for people */
  hosts (): HostResource[]
  /** @throws NotFoundError */
  host (name: string): HostDetail
  sites (): SiteResource[]
  siteAds (): SiteAd[]
  /** PeerIds of gateways that say they relay */
  relays (): string[]
  /** live hosts of the own site that can be placed on, this one as its ledger says */
  siteHosts (): SiteHost[]
  /** sites that a master can ask, the own one as its hosts say */
  knownSites (): KnownSite[]
}

type State = HostResource['state']
interface HostRow { peer: string, ageMs: number, state: State, body: HostAd }
interface SiteRow { peer: string, ageMs: number, state: SiteResource['state'], body: SiteAd }

const RANK: Readonly<Record<SiteResource['state'], number>> = { alive: 0, suspect: 1, dead: 2 }

/** One row per site: of several gateways the one in the best state, then the first by name. */
function onePerSite (rows: readonly SiteRow[], self: string): SiteRow[] {
  const best = new Map<string, SiteRow>()
  for (const row of rows) {
    const other = best.get(row.body.site)
    const first = other === undefined || (other.peer !== self && (row.peer === self || RANK[row.state] < RANK[other.state] || (row.state === other.state && row.body.gateway < other.body.gateway)))
    if (first) best.set(row.body.site, row)
  }
  return [...best.values()].sort((a, b) => a.body.site < b.body.site ? -1 : 1)
}

export function createDirectory (options: DirectoryOptions): Directory {
  const { mesh, config, ledger, log } = options
  const records = createRecords({ mesh, epoch: options.epoch, now: options.now, log: logFor(log) })
  const isGateway = config.roles.includes('gateway')
  const addresses = config.announce ?? config.listen
  /** A gateway that nobody can reach is found through its relays. */
  const outside = (): string[] => config.reachable ? addresses : mesh.relayAddresses()

  const ownAd = (): HostAd => ({
    site: config.site, host: config.name, roles: config.roles, addresses, underlayAddress: config.underlayAddress,
    total: options.total, free: options.blind() ? zero() : clampToZero(ledger.free()), cordoned: options.cordoned(), accelerator: config.accelerator ?? 'auto', version: VERSION,
    inventory: options.inventory()?.inventory ?? null, features: [...options.inventory()?.features ?? [], LOCAL_FEATURE],
    nextStartMs: nextStartOf(ledger.state()) ?? 0
  })

  /** Ads of the site's hosts; this host's own as of now, not as last published. */
  function hostAds (dead: boolean): HostRow[] {
    const others = records.view('host', { dead }).filter(r => r.peer !== mesh.peerId && r.body.site === config.site)
    const own: HostRow = { peer: mesh.peerId, ageMs: 0, state: 'alive', body: ownAd() }
    return [own, ...others].sort((a, b) => a.body.host < b.body.host ? -1 : 1)
  }
  const ownSiteAd = (): SiteAd => foldSite(config.site, { host: config.name, addresses: outside() }, hostAds(false).map(h => h.body), VERSION, { priceMilli: priceOf(options.rule()) ?? config.priceMilli, maxTermMs: maxTermOf(options.rule()), relay: config.relay, tunnel: options.tunnel() })

  function publish (): void {
    try {
      records.publish('host', ownAd())
      if (isGateway) records.publish('site', ownSiteAd())
    } catch (error) {
      log.warn({ error: describeError(error) }, 'cannot advertise')
    }
  }

  function siteRows (dead: boolean): SiteRow[] {
    const rows: SiteRow[] = records.view('site', { dead }).filter(r => r.peer !== mesh.peerId)
    return onePerSite(isGateway ? [{ peer: mesh.peerId, ageMs: 0, state: 'alive', body: ownSiteAd() }, ...rows] : rows, mesh.peerId)
  }

  const pathOf = (peer: string): HostResource['path'] => peer === mesh.peerId ? 'self' : mesh.path(peer)
  const hostResource = ({ peer, ageMs, state, body }: HostRow): HostResource => ({
    site: body.site, host: body.host, peerId: peer, roles: body.roles, addresses: body.addresses, underlayAddress: body.underlayAddress,
    total: body.total ?? zero(), free: body.free ?? zero(), accelerator: body.accelerator, version: body.version,
    ageMs, connected: pathOf(peer) !== null, state, cordoned: body.cordoned, path: pathOf(peer)
  })

  const ends = [
    records.onChange(kind => { if (kind === 'host' && isGateway) publish() }),
    mesh.onRelayAddresses(publish)
  ]

  return {
    records,
    start: publish,
    leave: async () => { await records.leave() },
    stop () {
      for (const end of ends) end()
      records.stop()
    },
    changed: publish,
    hosts: () => hostAds(true).map(hostResource),
    host: name => {
      const rows = hostAds(true)
      // a host that was set up anew has a dead row of its former key beside it
      const named = rows.filter(({ body }) => body.host === name)
      const row = named.find(({ state }) => state !== 'dead') ?? named[0]
      if (row === undefined) throw new NotFoundError(`this site has no host "${name}"`, `it has ${rows.map(({ body }) => body.host).slice(0, 20).join(', ')}`)
      return hostDetail(hostResource(row), row.body, row.peer === mesh.peerId ? mesh.trust.own() : mesh.trust.memberOf(row.peer), row.peer === mesh.peerId ? 0 : mesh.rttMs(row.peer))
    },
    sites: () => siteRows(true).map(r => siteResourceOf(r.peer, r.ageMs, r.body, { state: r.state, path: pathOf(r.peer), rttMs: r.peer === mesh.peerId ? 0 : mesh.rttMs(r.peer) })),
    siteAds: () => siteRows(false).map(r => r.body),
    relays: () => records.view('site').filter(({ body }) => body.relay).map(({ peer }) => peer),
    siteHosts: () => hostAds(false).map(({ peer, body }) => ({ ...hostCapacityOf(body), peer, underlayAddress: body.underlayAddress, ...((body.nextStartMs ?? 0) === 0 ? {} : { nextStartMs: body.nextStartMs ?? 0 }), ...(body.features.includes(LOCAL_FEATURE) ? {} : { lacksLocal: true }) })),
    knownSites: () => siteRows(false).map(({ peer, body }): KnownSite => {
      const ad = siteCapacityOfAd(body)
      const rttMs = peer === mesh.peerId ? 0 : mesh.rttMs(peer)
      return {
        ...ad, ...(body.site === config.site ? siteCapacityOf(config.site, hostAds(false).map(h => hostCapacityOf(h.body))) : {}),
        ...(rttMs === null ? {} : { rttMs }), peer, gatewayHost: body.gateway
      }
    })
  }
}
