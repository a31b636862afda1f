import { isIPv4 } from 'node:net'
import { InvalidInputError } from '../../../protocol/core/errors.ts'
import type { TunnelSpec } from '../../../protocol/core/desired.ts'

/** Keeps the way through NAT open; 25 s is below every common UDP time-out. */
const KEEPALIVE_SECONDS = 25
/** WireGuard drops a session that is older; a peer silent for longer is not there. */
const SESSION_MAX_SECONDS = 180

type TunnelPeer = TunnelSpec['peers'][number]

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

/** Own and peers' tunnel addresses may be given with or without `/32`. */
export const bareAddress = (address: string): string => address.replace(/\/32$/, '')

const KEY = /^[A-Za-z0-9+/]{42}[AEIMQUYcgkosw048]=$/
const ENDPOINT = /^(?:[A-Za-z0-9.-]+|\[[0-9a-fA-F:.]+\]):(\d{1,5})$/

function check (ok: boolean, what: string): void {
  if (!ok) throw new InvalidInputError(`tunnel: ${what}`)
}

/**
 * Every value ends in a configuration file or an argument: nothing passes unchecked.
 * Equal peers (one gateway in two clusters) count once.
 *
 * @returns the spec with bare addresses and peers in a fixed order
 * @throws InvalidInputError that names the value
 */
export function checkTunnel (spec: TunnelSpec): TunnelSpec {
  const isPort = (port: number): boolean => Number.isInteger(port) && port >= 1 && port <= 65_535
  check(isPort(spec.listenPort), `${spec.listenPort} is no UDP port`)
  const address = bareAddress(spec.address)
  check(isIPv4(address), `own address ${spec.address} is no IPv4 address`)
  const byKey = new Map<string, TunnelPeer>()
  const byAddress = new Map<string, string>([[address, 'this gateway']])
  for (const given of spec.peers) {
    const peer = { ...given, address: bareAddress(given.address) }
    check(KEY.test(peer.publicKey), `public key of ${peer.site} is no WireGuard key`)
    check(isIPv4(peer.address), `address ${peer.address} of ${peer.site} is no IPv4 address`)
    check(isPort(Number(ENDPOINT.exec(peer.endpoint)?.[1])), `endpoint ${peer.endpoint} of ${peer.site} is not host:port`)
    const same = byKey.get(peer.publicKey)
    if (same !== undefined) {
      check(same.address === peer.address && same.endpoint === peer.endpoint, `${same.site} and ${peer.site} have one key and different addresses`)
      continue
    }
    const holder = byAddress.get(peer.address)
    check(holder === undefined, `${peer.site} has the tunnel address ${peer.address} of ${holder ?? ''}`)
    byKey.set(peer.publicKey, peer)
    byAddress.set(peer.address, peer.site)
  }
  return { ...spec, address, peers: [...byKey.values()].sort((a, b) => (a.publicKey < b.publicKey ? -1 : 1)) }
}

/** Text for `wg syncconf`. It holds the private key: a file of mode 0600, removed after use. */
export function renderConfig (spec: TunnelSpec, privateKey: string): string {
  const peers = spec.peers.map((peer) => [
    '[Peer]', `PublicKey = ${peer.publicKey}`, `AllowedIPs = ${peer.address}/32`, `Endpoint = ${peer.endpoint}`, `PersistentKeepalive = ${KEEPALIVE_SECONDS}`, ''
  ].join('\n'))
  return ['[Interface]', `PrivateKey = ${privateKey}`, `ListenPort = ${spec.listenPort}`, '', ...peers].join('\n')
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
 * Whether `wg syncconf` is needed. A peer's endpoint may rightly differ from the spec: WireGuard
 * follows a peer that moves. It is set again only when the spec says something new, or when that
 * peer has been silent for longer than a session lives.
 *
 * @param applied the spec of the last `apply`, null when unknown
 * @param nowSeconds since the epoch
 */
export function needsSync (spec: TunnelSpec, state: WireGuardState, publicKey: string, applied: TunnelSpec | null, nowSeconds: number): boolean {
  if (state.publicKey !== publicKey || state.listenPort !== spec.listenPort || state.peers.length !== spec.peers.length) return true
  const byKey = new Map(state.peers.map((peer) => [peer.publicKey, peer]))
  return spec.peers.some((want) => {
    const have = byKey.get(want.publicKey)
    if (have === undefined || have.keepaliveSeconds !== KEEPALIVE_SECONDS || have.allowedIps.join() !== `${want.address}/32` || have.endpoint === null) return true
    const isNumeric = isIPv4(want.endpoint.slice(0, want.endpoint.lastIndexOf(':')))
    if (have.endpoint === want.endpoint) return false
    const isNew = applied?.peers.find(({ publicKey: key }) => key === want.publicKey)?.endpoint !== want.endpoint
    const silent = nowSeconds - have.latestHandshake > SESSION_MAX_SECONDS
    return isNew || (isNumeric && silent)
  })
}
