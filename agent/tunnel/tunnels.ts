import { secondPortOf, tunnelAddressesOf, tunnelEndpointOf, type AgentConfig } from '../config.ts'
import { tunnelAddressFor } from '../drivers/network/address.ts'
import type { PublicTrack } from '../drivers/network/tunnel/driver.ts'
import type { EventLog } from '../events.ts'
import { newsOf } from '../gateway-news.ts'
import type { TunnelTruth } from '../lessor/objects.ts'
import { createTrackBook, type NamedGateway } from './book.ts'
import { createOwnKeys } from './own.ts'
import { tunnelResource, type TunnelObserved } from './view.ts'
import type { RotationResource, TunnelResource } from '../../protocol/network-api.ts'
import type { TunnelTrack } from '../../protocol/core/desired.ts'
import type { ClusterDocument } from '../../protocol/core/messages.ts'
import type { Records } from '../../protocol/mesh/records.ts'
import type { Trust } from '../../protocol/mesh/trust/trust.ts'
import type { Store } from '../../store/store.ts'

const HOUR_MS = 3_600_000
/** A document that is newer is taken in by the next pass. */
const NAMED_MS = 500

/** All that a gateway's agent knows of tunnels: its own keys, and what others say of theirs. */
export interface Tunnels {
  truth: TunnelTruth
  /** for checks of documents, see `HostTruth` */
  heardKeys: (peer: string) => readonly string[] | null
  /** as this gateway's record says */
  tracks (): TunnelTrack[]
  /** for new offers. @throws MusubiError HELPER_UNREACHABLE */
  currentKey (): Promise<string>
  tick (): Promise<void>
  problems (): string[]
  show (): Promise<TunnelResource>
  /** @throws ConflictError, MusubiError GATEWAYS_UNHEARD */
  rotate (force: boolean): Promise<RotationResource>
  stop (): void
}

export interface TunnelsOptions {
  config: Pick<AgentConfig, 'name' | 'site' | 'underlayAddress' | 'tunnelPort' | 'tunnelSecondPort' | 'tunnelAddresses' | 'tunnelKeyMaxAgeHours'>
  store: Store
  records: Pick<Records, 'view' | 'onChange'>
  trust: Pick<Trust, 'roleOf' | 'revocations' | 'federation' | 'peerId'>
  events: Pick<EventLog, 'add'>
  log: { info (facts: object, message: string): void, warn (facts: object, message: string): void }
  /** wall clock, Unix ms */
  now: () => number
  /** of active clusters of this host */
  documents: () => readonly ClusterDocument[]
  helperTracks: () => Promise<PublicTrack[]>
  observe: (signal: AbortSignal) => Promise<readonly TunnelObserved[]>
  /** own record: say it anew soon */
  advertise: () => void
  /** the tunnel is to be another one: a pass of the reconciler */
  trigger: () => void
}

export async function createTunnels (options: TunnelsOptions): Promise<Tunnels> {
  const { config, store, records, trust, events, log } = options
  const endpoint = tunnelEndpointOf(config)

  /** Asked for many times in one pass, and who has no live certificates is looked up by signatures each time. */
  let list: { atMs: number, gateways: NamedGateway[] } | null = null
  const named = (): NamedGateway[] => {
    if (list === null || performance.now() - list.atMs > NAMED_MS) list = { atMs: performance.now(), gateways: readNamed() }
    return list.gateways
  }
  const readNamed = (): NamedGateway[] => options.documents().filter(({ sites }) => sites.some(one => one.site === config.site && one.gateway.host === config.name))
    .flatMap(({ sites }) => sites.filter(({ site, gateway }) => site !== config.site && !newsOf(trust, gateway, site, null).revoked)
      .map(({ site, gateway: { host, peer, tunnelPublicKey } }) => ({ site, host, peer, tunnelPublicKey })))

  const book = await createTrackBook({
    store, records, named, endpoint, log, ownKeys: () => own.tracks().map(({ publicKey }) => publicKey), onChange: options.trigger
  })
  const own = await createOwnKeys({
    store, ask: options.helperTracks, addresses: tunnelAddressesOf(config), ports: [config.tunnelPort, secondPortOf(config)], maxAgeMs: config.tunnelKeyMaxAgeHours * HOUR_MS, now: options.now,
    unheard: () => book.unheard(), onTracks: options.advertise,
    onEpoch (epoch, why) {
      log.info({ epoch, why }, 'the keys of the tunnel are exchanged')
      events.add('tunnel.rotate', `the keys of the tunnel are exchanged, epoch ${epoch}: ${why}`)
      options.trigger()
    }
  })

  return {
    truth: {
      news: (gateway, site) => newsOf(trust, gateway, site, book),
      own: () => ({ secondPort: secondPortOf(config), keyEpoch: own.epoch() })
    },
    heardKeys: peer => peer === trust.peerId ? own.tracks().map(({ publicKey }) => publicKey) : book.keysOf(peer),
    tracks: () => own.tracks(),
    currentKey: () => own.current(),
    async tick () {
      await book.tick()
      await own.tick()
    },
    problems: () => [...book.problems(), ...own.problems()],
    async show () {
      const [object] = await options.observe(AbortSignal.timeout(30_000))
      const live = new Set(book.unheard().map(({ peer }) => peer))
      const gateways = [...new Map(named().map(one => [one.peer, one])).values()]
      return tunnelResource({
        host: config.name, site: config.site, endpoint, address: tunnelAddressFor(trust.peerId), maxAgeHours: config.tunnelKeyMaxAgeHours, own: own.state(), published: own.tracks(), nowMs: options.now(),
        gateways: gateways.map(one => ({ ...one, address: tunnelAddressFor(one.peer), heard: !live.has(one.peer), tracks: book.tracksOf(one) })),
        observed: object ?? null, problems: [...book.problems(), ...own.problems()]
      })
    },
    async rotate (force) {
      const unheard = book.unheard()
      return { epoch: await own.rotate(force), unheard: unheard.map(({ site, host }) => ({ site, host })) }
    },
    stop: () => book.stop()
  }
}
