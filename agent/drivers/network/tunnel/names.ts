import { TUNNEL_MTU, WG_INTERFACE, WG_SERVICE } from '../names.ts'
import { PREFIX, type Track } from '../../../../protocol/core/desired.ts'

/** In this order everywhere. */
export const TRACKS: readonly Track[] = [0, 1]
export const otherTrack = (track: Track): Track => (track === 0 ? 1 : 0)

/** The WireGuard interface of a track; a prefix in common, so that filters can name both as `mzwg*`. */
export const wgInterface = (track: Track): string => (track === 0 ? WG_INTERFACE : `${PREFIX}wg1`)
/** Service of wireguard-go for a track, where the kernel has no WireGuard. */
export const wgService = (track: Track): string => (track === 0 ? WG_SERVICE : `${WG_SERVICE}-1`)
/** UDP port of track 1 unless another is wished: the next one. */
export const defaultSecondPort = (port: number): number => (port === 65_535 ? 65_534 : port + 1)
/** nftables table in the host's namespace: who may talk to WireGuard, and what may leave only through it. */
export const TUNNEL_TABLE = `${PREFIX}_tunnel`

/** MTU, bytes, of what goes between sites now: of the tunnel's interfaces as they are, 1420 while there are none. For whoever clamps TCP. */
export function tunnelMtuOf (links: ReadonlyArray<{ name: string, mtu: number }>): number {
  const own = links.filter(({ name }) => TRACKS.some((track) => name === wgInterface(track)))
  return own.length === 0 ? TUNNEL_MTU : Math.min(...own.map(({ mtu }) => mtu))
}
