import { isIPv4 } from 'node:net'
import { clusterNamespace, hostBridgeName, MAX_VLAN_ID } from '../../../protocol/core/desired.ts'
import { InvalidInputError } from '../../../protocol/core/errors.ts'
import { MAX_VNI } from '../../../protocol/core/limits.ts'
import { clusterPortChains, hostPortChains } from './broadcast/chains.ts'
import { checkKnown, clusterEntries, hostEntries } from './broadcast/entries.ts'
import { forwardChain } from './forward/gate.ts'
import { guardChains, mssChains } from './filter.ts'
import { aliasOf, hostBridgeMac, hostPortName, hostVethName, hostVxlanName, INNER, INNER_MTU, SITE_VXLAN_PORT, TUNNEL_MTU, vlanName, WAN_VXLAN_PORT } from './names.ts'
import { isLinkName, isVlanId } from './vlan/trunk.ts'
import { NOTHING_LEARNED, type LearnedOf } from './snoop/snooping.ts'
import type { SegmentSpec } from '../../../protocol/core/desired.ts'
import type { ForwardPlan, NeighbourPlan } from './broadcast/entries.ts'
import type { FilterChain } from './filter.ts'

/** One link as it should be. A veth's inner end is a link of its own, see `SegmentPlan.veth`. */
export interface LinkPlan {
  name: string
  kind: 'bridge' | 'vxlan' | 'vlan' | 'macvlan' | 'veth'
  mtu: number
  /** bridge that it is a port of */
  master?: string
  mac?: string
  /** IPv4 with prefix length; all others on the link go */
  address?: string
  alias?: string
  /** lower link of a macvlan, in the same namespace */
  lower?: string
  vxlan?: { id: number, local: string, port: number, remotes: string[] }
  /** sub-interface of a NIC of the host's own namespace */
  vlan?: { trunk: string, id: number }
  /** port of a bridge: requests for members behind it are answered instead of sent out by it (`neigh_suppress`) */
  suppress?: boolean
  /** bridge: IPv6 without an address, as the kernel has neighbours only where IPv6 is on; all other links have none */
  ipv6?: 'silent'
}

/** What all VXLAN links have: frames are larger than the way (`df unset`), checked (`udpcsum`), and tell where unknown senders are. */
export const VXLAN_FIXED = 'df unset udpcsum learning'

/** What one network namespace should hold of one segment. */
export interface SpacePlan {
  links: LinkPlan[]
  /** permanent forwarding entries of known members; other permanent ones on these links go */
  forwards: ForwardPlan[]
  /** permanent neighbour entries of known members; other permanent ones on bridges go */
  neighbours: NeighbourPlan[]
  chains: FilterChain[]
}

/** A whole segment on this host, as data. */
export interface SegmentPlan {
  vni: number
  host: SpacePlan
  /** only on gateways */
  cluster: SpacePlan & { namespace: string } | null
  /** true: `mzh<vni6>` (host) and `host0` (cluster) are two ends of one veth */
  veth: boolean
  /** bridge that takes stray taps of this segment, null without compute */
  tapBridge: string | null
}

const MAC = /^[0-9a-f]{2}(:[0-9a-f]{2}){5}$/i
const NAME = /^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$/

function check (ok: boolean, what: string): void {
  if (!ok) throw new InvalidInputError(`segment: ${what}`)
}

const isId = (value: number): boolean => Number.isInteger(value) && value >= 1 && value <= MAX_VNI

/**
 * Every value of a spec ends in the text of an `ip` or `nft` batch: nothing passes unchecked.
 * @throws InvalidInputError that names the value
 */
export function checkSegment (name: string, spec: SegmentSpec): void {
  check(NAME.test(name), `the name ${JSON.stringify(name)} has characters other than letters, digits, dot, dash, underscore`)
  check(isId(spec.vni), `VNI ${spec.vni} is not within 1..${MAX_VNI}`)
  check(isId(spec.site.segmentId), `segment id ${spec.site.segmentId} is not within 1..${MAX_VNI}`)
  if (spec.site.trunk !== undefined) {
    check(isLinkName(spec.site.trunk), `${JSON.stringify(spec.site.trunk)} is no name of a trunk NIC`)
    check(isVlanId(spec.site.segmentId), `segment id ${spec.site.segmentId} is no VLAN id, 1..${MAX_VLAN_ID}: segmentIds of the gateway of a site with inSite.technique vlan`)
  }
  for (const address of [spec.site.localAddress, ...spec.site.remoteAddresses]) check(isIPv4(address), `${address} is no IPv4 address of a site host`)
  check(!spec.site.remoteAddresses.includes(spec.site.localAddress), `${spec.site.localAddress} is its own remote host`)
  check(spec.compute || spec.gateway !== undefined, 'a host that is neither compute nor gateway carries no segment')
  checkKnown(spec)
  const gateway = spec.gateway
  if (gateway === undefined) return
  const [address, prefix, rest] = gateway.address.split('/')
  check(isIPv4(address ?? '') && /^(?:[89]|[12]\d|30)$/.test(prefix ?? '') && rest === undefined, `${gateway.address} is no IPv4 address with prefix length`)
  check(MAC.test(gateway.bridgeMac), `${gateway.bridgeMac} is no MAC address`)
  const tunnel = gateway.tunnel
  if (tunnel === null) return
  for (const remote of [tunnel.localAddress, ...tunnel.remoteAddresses]) check(isIPv4(remote), `${remote} is no IPv4 address of a tunnel`)
  check(!tunnel.remoteAddresses.includes(tunnel.localAddress), `${tunnel.localAddress} is its own remote gateway`)
}

/**
 * VXLAN never is a bridge port itself: the kernel then answers large frames with "mtu 1450". A
 * macvlan in passthru mode between the two lets full frames through, and it has no `dev`, which
 * would lower its MTU in the same way. Flooding goes to every remote (head-end replication); what
 * came from one remote is never sent to another, as a bridge sends nothing back through the port it
 * came from and every remote is behind the same port.
 */
function vxlanPort (names: { vxlan: string, port: string, bridge: string }, vxlan: NonNullable<LinkPlan['vxlan']>, suppress: boolean): LinkPlan[] {
  return [
    { name: names.vxlan, kind: 'vxlan', mtu: INNER_MTU, vxlan: { ...vxlan, remotes: [...new Set(vxlan.remotes)].sort() } },
    { name: names.port, kind: 'macvlan', mtu: INNER_MTU, lower: names.vxlan, master: names.bridge, suppress }
  ]
}

/** The way to the other hosts of the site: its ports, and the VXLAN behind them, which a VLAN does without. */
function sitePort (spec: SegmentSpec, names: { vxlan: string, port: string, bridge: string }, suppress: boolean): LinkPlan[] {
  const { segmentId: id, localAddress: local, remoteAddresses: remotes, trunk } = spec.site
  if (trunk === undefined) return vxlanPort(names, { id, local, port: SITE_VXLAN_PORT, remotes }, suppress)
  // the kernel takes the tag off, and puts it on: the bridge sees frames as nodes send them
  return [{ name: names.port, kind: 'vlan', mtu: INNER_MTU, vlan: { trunk, id }, master: names.bridge, suppress }]
}

/** A chain without rules lets everything pass: there is no use in it. */
const useful = (chains: FilterChain[]): FilterChain[] => chains.filter(({ rules }) => rules.length > 0)

/**
 * The whole desired state of one segment on this host.
 *
 * Requests are answered on the way out of a host and on the way out of a site. Not on a gateway's port into
 * its site: the kernel answers nothing that came in by such a port, and nodes of the site ask through it.
 *
 * @param underlayMtu MTU in bytes of the link that has `spec.site.localAddress`
 * @param ipv6 false: this kernel has none
 * @param tunnelMtu MTU in bytes of what goes between sites now, see `tunnelMtuOf`
 * @param learned addresses of members that only their frontend knows
 */
export function planSegment (name: string, spec: SegmentSpec, underlayMtu: number, ipv6 = true, tunnelMtu = TUNNEL_MTU, learned: LearnedOf = NOTHING_LEARNED): SegmentPlan {
  checkSegment(name, spec)
  const { vni, gateway } = spec
  const bridge = hostBridgeName(vni)
  const tagged = spec.site.trunk !== undefined
  const guard = guardChains(vni, spec.site, gateway?.tunnel ?? null)
  const answers = (spec.known?.members.length ?? 0) > 0
  const silent = answers && ipv6 ? { ipv6: 'silent' as const } : {}
  const hostBridge: LinkPlan[] = spec.compute ? [{ name: bridge, kind: 'bridge', mtu: INNER_MTU, mac: hostBridgeMac(vni), alias: aliasOf(name), ...silent }] : []
  const tapBridge = spec.compute ? bridge : null

  if (gateway === undefined) {
    const names = { vxlan: hostVxlanName(vni), port: tagged ? vlanName(vni) : hostPortName(vni), bridge }
    return {
      vni,
      host: {
        links: [...hostBridge, ...sitePort(spec, names, answers)],
        ...hostEntries(spec, { bridge, uplink: names.port, vxlan: tagged ? null : names.vxlan }, ipv6, learned.host),
        chains: useful([...guard, ...hostPortChains(spec, names.port), ...mssChains(vni, tagged ? [] : [{ port: names.port, mtu: underlayMtu }])])
      },
      cluster: null,
      veth: false,
      tapBridge
    }
  }

  const veth: LinkPlan = { name: INNER.hostPort, kind: 'veth', mtu: INNER_MTU, master: INNER.bridge, suppress: false }
  const uplink = hostVethName(vni)
  const wan = gateway.tunnel === null ? [] : vxlanPort(
    { vxlan: INNER.wanVxlan, port: INNER.wanPort, bridge: INNER.bridge },
    { id: vni, local: gateway.tunnel.localAddress, port: WAN_VXLAN_PORT, remotes: gateway.tunnel.remoteAddresses }, answers
  )
  return {
    vni,
    host: {
      links: spec.compute ? [...hostBridge, { ...veth, name: uplink, master: bridge, suppress: answers }] : [],
      ...hostEntries(spec, { bridge, uplink, vxlan: null }, ipv6, learned.host),
      chains: useful([...guard, ...(spec.compute ? hostPortChains(spec, uplink) : [])])
    },
    cluster: {
      namespace: clusterNamespace(vni),
      links: [
        { name: INNER.bridge, kind: 'bridge', mtu: INNER_MTU, mac: gateway.bridgeMac.toLowerCase(), address: gateway.address, alias: aliasOf(name), ...silent },
        ...sitePort(spec, { vxlan: INNER.siteVxlan, port: INNER.sitePort, bridge: INNER.bridge }, false),
        ...wan,
        ...(spec.compute ? [veth] : [])
      ],
      ...clusterEntries(spec, ipv6, learned.cluster),
      chains: useful([
        ...clusterPortChains(spec),
        ...(gateway.tunnel === null ? [] : [forwardChain(vni)]),
        ...mssChains(vni, [
          ...(tagged ? [] : [{ port: INNER.sitePort, mtu: underlayMtu }]),
          ...(gateway.tunnel === null ? [] : [{ port: INNER.wanPort, mtu: tunnelMtu }])
        ])
      ])
    },
    veth: spec.compute,
    tapBridge
  }
}

/** What can be done of a plan while its sub-interface cannot be made: all but that, and but what is said of it. */
export function withoutVlan (plan: SegmentPlan): SegmentPlan {
  const rest = <Space extends SpacePlan>(space: Space): Space => {
    const vlans = new Set(space.links.filter(({ kind }) => kind === 'vlan').map(({ name }) => name))
    return { ...space, links: space.links.filter(({ name }) => !vlans.has(name)), forwards: space.forwards.filter(({ link }) => !vlans.has(link)) }
  }
  return { ...plan, host: rest(plan.host), cluster: plan.cluster === null ? null : rest(plan.cluster) }
}
