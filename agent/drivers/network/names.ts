/**
 * Names and figures of the network drivers that the shared contract does not fix.
 * Everything in the host's own namespace carries the prefix, so that a sweep knows it is ours.
 */
import { PREFIX } from '../../../protocol/core/desired.ts'

/** What the names of WireGuard interfaces begin with: there are two while keys are exchanged. */
export const WG_PREFIX = `${PREFIX}wg`
/** The host's WireGuard interface. */
export const WG_INTERFACE = `${PREFIX}wg0`
/** Service name of wireguard-go where the kernel has no WireGuard. */
export const WG_SERVICE = `${PREFIX}-wireguard`

/** Inter-site VXLAN: the port that IANA assigned; only ever inside the tunnel. */
export const WAN_VXLAN_PORT = 4789
/**
 * In-site VXLAN has a port, hence a socket and an id space, of its own: a site's segment id may
 * equal the VNI of another cluster on the same host, and one socket cannot serve an id twice.
 */
export const SITE_VXLAN_PORT = 4790

/** Bytes of an inner frame's payload: full Ethernet, whatever the underlay. */
export const INNER_MTU = 1500
/** MTU of the tunnel, bytes: 1500 less 80 (outer IPv6 40, UDP 8, WireGuard 32). */
export const TUNNEL_MTU = 1420
/** What an underlay is taken for when the own address is on no link yet. */
export const DEFAULT_UNDERLAY_MTU = 1500

/** Least MTU of a link that has IPv6, bytes (RFC 8200, section 5): no underlay has less, and the kernel takes IPv6 from a link that has. */
export const IPV6_MIN_MTU = 1280

/** nftables table in the host's namespace: who may send VXLAN to us. */
export const GUARD_TABLE = `${PREFIX}_guard`
/** Its one chain with a hook: it leads VXLAN to the chain of the segment that the frame is of. */
export const GUARD_CHAIN = 'vxlan'
/** Its map: UDP port and VNI, and the chain of the segment that they are of. */
export const GUARD_WAYS = 'ways'
/** nftables bridge table, in the namespaces of bridges: MSS clamp, and what ports let pass. */
export const MSS_TABLE = `${PREFIX}_mss`

/** nftables set of a cluster's namespace: ports that may forward now. Its elements run out by themselves. */
export const FORWARD_SET = 'forward'

/** Names inside a cluster's namespace; these need no prefix, the namespace has it. */
export const INNER = {
  bridge: 'br0',
  hostPort: 'host0',
  siteVxlan: 'site0',
  sitePort: 'site0m',
  wanVxlan: 'wan0',
  wanPort: 'wan0m'
} as const

const hex6 = (vni: number): string => vni.toString(16).padStart(6, '0')

/**
 * MAC of a host's bridge: one that is not said follows from the ports, and each time that a tap comes or goes and
 * changes it, the kernel forgets all neighbours. It sends no frame, so it may be the same on every host.
 */
export const hostBridgeMac = (vni: number): string => `02:6d:7a:${(hex6(vni).match(/../g) ?? []).join(':')}`

/** Host end of the veth between host bridge and cluster namespace. */
export const hostVethName = (vni: number): string => `${PREFIX}h${hex6(vni)}`
/** In-site VXLAN on a host that is no gateway. */
export const hostVxlanName = (vni: number): string => `${PREFIX}s${hex6(vni)}`
/** Bridge port over that VXLAN. */
export const hostPortName = (vni: number): string => `${PREFIX}m${hex6(vni)}`
/** Sub-interface of the trunk NIC on a host that is no gateway, and bridge port at once. */
export const vlanName = (vni: number): string => `${PREFIX}v${hex6(vni)}`
/** nftables chain of one segment; `use` tells guard, inbound and outbound clamp, what ports let in, what is for the host itself, and what crosses between sites apart. */
export const chainName = (use: 'guard' | 'in' | 'out' | 'ports' | 'local' | 'forward', vni: number): string => `${use}_${hex6(vni)}`
/** What `observe` calls a segment whose name is lost. */
export const orphanName = (vni: number): string => `orphan-${hex6(vni)}`

/** The VNI in an orphan's name, or null. */
export function vniOfOrphan (name: string): number | null {
  const match = /^orphan-([0-9a-f]{6})$/.exec(name)
  return match?.[1] === undefined ? null : Number.parseInt(match[1], 16)
}

/** VNI of a link of a segment in the host's namespace (taps and frontend links are others' objects), or null. */
export function vniOfHostLink (name: string): number | null {
  const match = /^mz[bhsmv]([0-9a-f]{6})$/.exec(name)
  return match?.[1] === undefined ? null : Number.parseInt(match[1], 16)
}

/** VNI of a cluster's namespace, or null. */
export function vniOfNamespace (name: string): number | null {
  const match = /^mz-([0-9a-f]{6})$/.exec(name)
  return match?.[1] === undefined ? null : Number.parseInt(match[1], 16)
}

/** VNI of one of our nftables chains, or null. */
export function vniOfChain (name: string): number | null {
  const match = /^(?:guard|in|out|ports|local|forward)_([0-9a-f]{6})$/.exec(name)
  return match?.[1] === undefined ? null : Number.parseInt(match[1], 16)
}

/** The chain that asks `FORWARD_SET`. */
export const isForwardChain = (name: string): boolean => name.startsWith('forward_')

/** Port of the cluster's bridge that the frontend's driver makes. */
export const FRONTEND_PORT = 'fe0'

/** Prefix of the taps of a segment (`tapName` of the shared contract, without the index). */
export const tapPrefix = (vni: number): string => `${PREFIX}t${hex6(vni)}`

/** The bridge of a segment carries its object's name, so that it survives a lost record. */
export const aliasOf = (name: string): string => `${PREFIX}:${name}`

/** Object name in a link's alias, or null. */
export function nameOfAlias (alias: string | undefined): string | null {
  return alias?.startsWith(`${PREFIX}:`) === true ? alias.slice(PREFIX.length + 1) : null
}
