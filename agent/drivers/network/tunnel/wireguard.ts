import { isIP, isIPv4, isIPv6 } from 'node:net'
import { InvalidInputError } from '../../../../protocol/core/errors.ts'
import { isTunnelKey } from '../../../../protocol/core/network/tracks.ts'
import type { Track, TunnelPeer, TunnelSpec, TunnelTrack } from '../../../../protocol/core/desired.ts'
import { defaultSecondPort, TRACKS } from './names.ts'

/** Keeps the way through NAT open; 25 s is below every common UDP time-out. */
const KEEPALIVE_SECONDS = 25
/** WireGuard drops a session that is older; a peer silent for longer is not there. */
export const SESSION_MAX_SECONDS = 180

/** One peer as `wg show ... dump` prints it. */
export interface PeerState {
  publicKey: string
  /** `host:port`, null when none is known */
  endpoint: string | null
  allowedIps: string[]
  /** seconds since the epoch, 0 when there was none */
  latestHandshake: number
  rxBytes: number
  txBytes: number
  keepaliveSeconds: number
}

/** The interface as `wg show ... dump` prints it; the private key is left out. */
export interface WireGuardState {
  publicKey: string
  listenPort: number
  peers: PeerState[]
}

/** A peer on one interface. */
export interface TrackPeer {
  publicKey: string
  endpoint: string
  address: string
  /** false: a session that nobody uses may fall asleep, so that what still arrives on it is somebody's traffic */
  keepalive: boolean
}

/** One interface as it should be. */
export interface TrackConfig {
  listenPort: number
  peers: TrackPeer[]
}

/** A spec whose values are checked, with every peer's tracks spelt out. */
export type CheckedTunnel = Omit<TunnelSpec, 'peers'> & { secondPort: number, keyEpoch: number, peers: Array<Omit<TunnelPeer, 'tracks'> & { tracks: TunnelTrack[] }> }

/** Own and peers' tunnel addresses may be given with or without `/32`. */
export const bareAddress = (address: string): string => address.replace(/\/32$/, '')

const ENDPOINT = /^(?:[A-Za-z0-9.-]+|\[[0-9a-fA-F:.]+\]):(\d{1,5})$/

function check (ok: boolean, what: string): void {
  if (!ok) throw new InvalidInputError(`tunnel: ${what}`)
}

const isPort = (port: number): boolean => Number.isInteger(port) && port >= 1 && port <= 65_535

/** An endpoint as `wg` prints it: an IPv6 address in its one short form. */
export function normalEndpoint (endpoint: string): string {
  const [, host = '', port = ''] = /^\[(.*)\]:(\d+)$/.exec(endpoint) ?? []
  const url = `http://[${host}]`
  return host !== '' && URL.canParse(url) ? `${new URL(url).hostname}:${Number(port)}` : endpoint
}

/** Host of an endpoint without port and brackets. */
export const hostOf = (endpoint: string): string => endpoint.slice(0, endpoint.lastIndexOf(':')).replace(/^\[(.*)\]$/, '$1')

function checkTracks (peer: TunnelPeer): TunnelTrack[] {
  // what the document says counts until the gateway itself has said something
  const given = peer.tracks ?? [{ track: 0, publicKey: peer.publicKey, endpoint: peer.endpoint, draining: false }]
  return given.map(({ track, publicKey, endpoint, draining }) => {
    check(TRACKS.includes(track), `track ${String(track)} of ${peer.site} is neither 0 nor 1`)
    check(given.filter((one) => one.track === track).length === 1, `${peer.site} has two keys on track ${track}`)
    check(isTunnelKey(publicKey), `public key of ${peer.site} is no WireGuard key`)
    check(isPort(Number(ENDPOINT.exec(endpoint)?.[1])), `endpoint ${endpoint} of ${peer.site} is not host:port`)
    const host = hostOf(endpoint)
    check(!endpoint.startsWith('[') || isIPv6(host), `endpoint ${endpoint} of ${peer.site} has no IPv6 address in its brackets`)
    return { track, publicKey, endpoint: normalEndpoint(endpoint), draining }
  }).sort((a, b) => a.track - b.track)
}

/**
 * Every value ends in a configuration file or an argument: nothing passes unchecked.
 * Equal peers (one gateway in two clusters) count once.
 *
 * @returns the spec with bare addresses, peers in a fixed order, and what was left out filled in
 * @throws InvalidInputError that names the value
 */
export function checkTunnel (spec: TunnelSpec): CheckedTunnel {
  check(isPort(spec.listenPort), `${spec.listenPort} is no UDP port`)
  const secondPort = spec.secondPort ?? defaultSecondPort(spec.listenPort)
  check(isPort(secondPort), `${secondPort} is no UDP port`)
  check(secondPort !== spec.listenPort, `both tracks have the UDP port ${secondPort}`)
  const keyEpoch = spec.keyEpoch ?? 0
  check(Number.isSafeInteger(keyEpoch) && keyEpoch >= 0, `the key epoch ${keyEpoch} is none`)
  const address = bareAddress(spec.address)
  check(isIPv4(address), `own address ${spec.address} is no IPv4 address`)
  const byAddress = new Map<string, CheckedTunnel['peers'][number]>()
  const holders = new Map<string, { address: string, site: string }>()
  for (const given of spec.peers) {
    const peer = { ...given, address: bareAddress(given.address), tracks: checkTracks(given) }
    check(isIPv4(peer.address), `address ${peer.address} of ${peer.site} is no IPv4 address`)
    check(peer.address !== address, `${peer.site} has the tunnel address ${peer.address} of this gateway`)
    for (const { publicKey } of peer.tracks) {
      const holder = holders.get(publicKey)
      check(holder === undefined || holder.address === peer.address, `${holder?.site ?? ''} and ${peer.site} have one key and different addresses`)
      holders.set(publicKey, peer)
    }
    const same = byAddress.get(peer.address)
    const facts = (one: typeof peer): string => JSON.stringify(one.tracks)
    check(same === undefined || facts(same) === facts(peer), `${peer.site} has the tunnel address ${peer.address} of ${same?.site ?? ''}`)
    if (same === undefined) byAddress.set(peer.address, peer)
  }
  return { ...spec, address, secondPort, keyEpoch, peers: [...byAddress.values()].sort((a, b) => (a.address < b.address ? -1 : 1)) }
}

/** What one interface is to have; a peer is on it when its own gateway lists that track. */
export function trackConfig (spec: CheckedTunnel, track: Track, keepsAlive: (address: string) => boolean): TrackConfig {
  const peers = spec.peers.flatMap(({ address, tracks }) => tracks.filter((one) => one.track === track).map(({ publicKey, endpoint }) =>
    ({ publicKey, endpoint, address, keepalive: keepsAlive(address) })))
  return { listenPort: track === 0 ? spec.listenPort : spec.secondPort, peers: peers.sort((a, b) => (a.publicKey < b.publicKey ? -1 : 1)) }
}

/** Reads `wg show INTERFACE dump`. */
export function parseDump (text: string): WireGuardState {
  const [own, ...rest] = text.split('\n').filter((line) => line !== '').map((line) => line.split('\t'))
  return {
    publicKey: own?.[1] ?? '',
    listenPort: Number(own?.[2] ?? 0),
    peers: rest.map(([publicKey, , endpoint, allowed, handshake, rx, tx, keepalive]) => ({
      publicKey: publicKey ?? '',
      endpoint: endpoint === undefined || endpoint === '(none)' ? null : endpoint,
      allowedIps: allowed === undefined || allowed === '(none)' ? [] : allowed.split(','),
      latestHandshake: Number(handshake ?? 0),
      rxBytes: Number(rx ?? 0),
      txBytes: Number(tx ?? 0),
      keepaliveSeconds: keepalive === undefined || keepalive === 'off' ? 0 : Number(keepalive)
    }))
  }
}

/**
 * Whether a peer's endpoint is to be set. It may rightly differ from the spec: WireGuard follows a peer
 * that moves. It is set again only when the spec says something new, or when that peer has been
 * silent for longer than a session lives.
 */
function isElsewhere (want: TrackPeer, have: PeerState, applied: ReadonlyMap<string, string>, nowSeconds: number): boolean {
  if (have.endpoint === null) return true
  if (have.endpoint === want.endpoint) return false
  const isNew = applied.get(want.publicKey) !== want.endpoint
  const silent = nowSeconds - have.latestHandshake > SESSION_MAX_SECONDS
  return isNew || (isIP(hostOf(want.endpoint)) !== 0 && silent)
}

/**
 * What `wg set INTERFACE` has to be told, empty when nothing: only what differs. wireguard-go opens its socket anew
 * whenever it is told a port, be it the one that it has, and loses what is under way; between taking a peer's addresses
 * and giving them again it drops what is for that peer. `wg syncconf` does both, each time.
 *
 * @param publicKey that the interface should have, with its private half in `keyFile`
 * @param applied endpoint by public key of the last `apply`; empty when unknown
 * @param nowSeconds since the epoch
 */
export function setArguments (config: TrackConfig, state: WireGuardState, own: { publicKey: string, keyFile: string }, applied: ReadonlyMap<string, string>, nowSeconds: number): string[] {
  const had = new Map(state.peers.map((peer) => [peer.publicKey, peer]))
  const wanted = new Set(config.peers.map((peer) => peer.publicKey))
  const changes = config.peers.flatMap((want) => {
    const have = had.get(want.publicKey)
    const keepalive = want.keepalive ? KEEPALIVE_SECONDS : 0
    const facts = [
      ...(have?.allowedIps.join() === `${want.address}/32` ? [] : ['allowed-ips', `${want.address}/32`]),
      ...(have !== undefined && !isElsewhere(want, have, applied, nowSeconds) ? [] : ['endpoint', want.endpoint]),
      ...((have?.keepaliveSeconds ?? 0) === keepalive ? [] : ['persistent-keepalive', String(keepalive)])
    ]
    return facts.length === 0 ? [] : ['peer', want.publicKey, ...facts]
  })
  return [
    ...(state.listenPort === config.listenPort ? [] : ['listen-port', String(config.listenPort)]),
    ...(state.publicKey === own.publicKey ? [] : ['private-key', own.keyFile]),
    // first: an address that goes from one peer to another is taken before it is given
    ...state.peers.flatMap((peer) => (wanted.has(peer.publicKey) ? [] : ['peer', peer.publicKey, 'remove'])),
    ...changes
  ]
}

/** Endpoints of a spec by key, over both tracks. */
export const endpointsOf = (spec: CheckedTunnel | null): Map<string, string> =>
  new Map(spec?.peers.flatMap(({ tracks }) => tracks.map(({ publicKey, endpoint }): [string, string] => [publicKey, endpoint])))
