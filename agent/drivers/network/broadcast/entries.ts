/**
 * Who is known needs no broadcast to be found: forwarding entries name the one way to every member, and
 * neighbour entries let the bridge answer ARP and ND for those behind the ports towards other hosts and sites.
 */
import { isIPv4 } from 'node:net'
import { InvalidInputError } from '../../../../protocol/core/errors.ts'
import { MAX_SEGMENT_MEMBERS } from '../../../../protocol/core/limits.ts'
import { INNER, tapPrefix, FRONTEND_PORT } from '../names.ts'
import { isSnooped } from '../snoop/rules.ts'
import type { SegmentMember, SegmentSpec } from '../../../../protocol/core/desired.ts'
import type { Learned } from '../snoop/snooping.ts'

/** One way to a MAC: of a VXLAN the far end of its tunnel, of a bridge's port null. */
export interface ForwardPlan { link: string, mac: string, remote: string | null }

/** Whom the kernel answers for. */
export interface NeighbourPlan { link: string, address: string, mac: string }

const MAC = /^[0-9a-f][02468ace](:[0-9a-f]{2}){5}$/

function check (ok: boolean, what: string): void {
  if (!ok) throw new InvalidInputError(`segment: ${what}`)
}

/**
 * Values end in the text of batches and rules: nothing passes unchecked.
 * @throws InvalidInputError that names the value
 */
export function checkKnown ({ vni, known, site, gateway }: SegmentSpec): void {
  if (known === undefined) return
  const { members } = known
  check(members.length <= MAX_SEGMENT_MEMBERS, `${members.length} members are more than ${MAX_SEGMENT_MEMBERS}`)
  check(members.filter(({ role }) => role === 'frontend').length <= 1, 'it has two frontends')
  for (const [what, values] of [['MAC', members.map(({ mac }) => mac)], ['address', members.flatMap(({ address }) => address ?? [])], ['tap', members.flatMap(({ tap }) => tap ?? [])]] as const) {
    const twice = values.find((value, index) => values.indexOf(value) !== index)
    check(twice === undefined, `two members have the ${what} ${twice ?? ''}`)
  }
  const nodes = members.filter(({ role }) => role === 'node')
  const snooped = nodes.filter(isSnooped)
  check(snooped.length === 0 || snooped.length === nodes.length, 'the addresses of some nodes are known, and those of others not')
  check(snooped.length === 0 || members.some(({ role }) => role === 'frontend'), 'addresses of its nodes are to be learnt, and it has no frontend that gives them')
  // a host without gateway reaches all others by hosts of its site
  const far = gateway === undefined ? site.remoteAddresses : gateway.tunnel?.remoteAddresses ?? []
  for (const member of members) {
    const { role, mac, where, via, tap } = member
    check(MAC.test(mac), `${mac} is no MAC address of one station, in lower case`)
    const address = member.address ?? mac
    check(member.address === null ? role === 'node' : isIPv4(member.address), `${address} is no IPv4 address of a member`)
    check((where === 'host') === (via === undefined), `${role} ${address}: there is a way to members elsewhere, and to no other`)
    const ways = where === 'site' ? site.remoteAddresses : far
    check(via === undefined || ways.includes(via), `${role} ${address} is said to be behind ${via ?? ''}, which is no member's host`)
    const onTap = role === 'node' && where === 'host'
    check(onTap === (tap !== undefined), `${role} ${address}: a node on this host has a tap, and no other member`)
    check(tap === undefined || (tap.startsWith(tapPrefix(vni)) && /^[0-9a-f]{2}$/.test(tap.slice(tapPrefix(vni).length))), `${tap ?? ''} is no tap of VNI ${vni}`)
    check(role === 'node' || where !== 'host' || gateway !== undefined, `${role} ${address} is on this host, which is no gateway`)
  }
}

const hexByte = (byte: number): string => byte.toString(16).padStart(2, '0')

/** Interface part of an IPv6 address that follows from a MAC (modified EUI-64, RFC 4291 appendix A). */
function interfaceId (mac: string): string {
  const [a = 0, b = 0, c = 0, d = 0, e = 0, f = 0] = mac.split(':').map((byte) => Number.parseInt(byte, 16))
  return [[a ^ 2, b], [c, 0xff], [0xfe, d], [e, f]].map(([high = 0, low = 0]) => hexByte(high) + hexByte(low)).join(':')
}

/** One spelling of an IPv6 address (RFC 5952), as `ip` prints it; text that is none stays as it is. */
export function canonicalIpv6 (text: string): string {
  const url = `http://[${text}]/`
  return URL.canParse(url) ? new URL(url).hostname.slice(1, -1) : text
}

/**
 * IPv6 addresses that a station gives itself: link-local, and in the prefix that the built-in frontend
 * advertises (`fd6d:7aVV:VVVV::/64`). One that makes up others instead (RFC 7217, RFC 8981) is asked for by
 * multicast, like everything that is not known.
 */
export function ipv6Of (vni: number, mac: string): string[] {
  const hex = vni.toString(16).padStart(6, '0')
  return [`fe80:0:0:0:${interfaceId(mac)}`, `fd6d:7a${hex.slice(0, 2)}:${hex.slice(2)}:0:${interfaceId(mac)}`].map(canonicalIpv6)
}

/** @param ipv6 false: this kernel has no IPv6, and answers nothing in it */
function neighbours (vni: number, link: string, members: readonly SegmentMember[], learned: readonly Learned[], ipv6: boolean): NeighbourPlan[] {
  // the kernel answers for what a member was given; where it has not seen that, somebody asks
  const given = new Map(learned.map(({ mac, address }) => [mac, address]))
  const addressOf = ({ address, mac }: SegmentMember): string[] => [address ?? given.get(mac) ?? []].flat()
  return members.flatMap((member) => [...addressOf(member), ...(ipv6 ? ipv6Of(vni, member.mac) : [])].map((one) => ({ link, address: one, mac: member.mac })))
}

/**
 * On the bridge of a host that has nodes.
 * @param names its bridge, the port to everybody else, and the VXLAN behind that; null on a gateway, whose port leads to its own namespace
 */
export function hostEntries (spec: SegmentSpec, names: { bridge: string, uplink: string, vxlan: string | null }, ipv6: boolean, learned: readonly Learned[] = []): { forwards: ForwardPlan[], neighbours: NeighbourPlan[] } {
  const members = spec.known?.members ?? []
  const away = members.filter(({ tap }) => tap === undefined)
  const { vxlan, uplink } = names
  return {
    // nodes of this host are learnt: their taps come and go with them
    forwards: spec.compute || vxlan !== null
      ? away.flatMap(({ mac, via }) => [...(vxlan === null ? [] : [{ link: vxlan, mac, remote: via ?? null }]), ...(spec.compute ? [{ link: uplink, mac, remote: null }] : [])])
      : [],
    neighbours: spec.compute ? neighbours(spec.vni, names.bridge, members, learned, ipv6) : []
  }
}

/** Port of the cluster's bridge that a member is behind; null for the bridge itself. */
export function innerPort ({ role, where }: SegmentMember): string | null {
  if (where === 'site') return INNER.sitePort
  if (where === 'remote') return INNER.wanPort
  return role === 'node' ? INNER.hostPort : role === 'frontend' ? FRONTEND_PORT : null
}

/** On the bridge of a gateway's namespace. */
export function clusterEntries (spec: SegmentSpec, ipv6: boolean, learned: readonly Learned[] = []): { forwards: ForwardPlan[], neighbours: NeighbourPlan[] } {
  const members = spec.known?.members ?? []
  return {
    forwards: members.flatMap((member) => {
      const { mac, where, via } = member
      const port = innerPort(member)
      // the frontend's port is made by its own driver, after this one
      if (port === null || port === FRONTEND_PORT) return []
      const vxlan = where === 'site' ? INNER.siteVxlan : INNER.wanVxlan
      const direct = via === undefined || (where === 'site' && spec.site.trunk !== undefined)
      return [...(direct ? [] : [{ link: vxlan, mac, remote: via }]), { link: port, mac, remote: null }]
    }),
    neighbours: neighbours(spec.vni, INNER.bridge, members.filter((member) => innerPort(member) !== null), learned, ipv6)
  }
}
