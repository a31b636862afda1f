/** What a port of a segment's bridge lets in: nftables chains of the family `bridge`. */
import { FLOOD_BURST, FLOOD_PER_SECOND, PORT_FLOOD_BURST, PORT_FLOOD_PER_SECOND } from '../../../../protocol/core/limits.ts'
import { FRONTEND_PORT, INNER, MSS_TABLE, chainName, tapPrefix } from '../names.ts'
import { innerPort } from './entries.ts'
import { askRules, isSnooped, learnedOnly, learnedSet, rawMac, snoopRules, snoops } from '../snoop/rules.ts'
import type { SegmentMember, SegmentSpec } from '../../../../protocol/core/desired.ts'
import type { FilterChain } from '../filter.ts'

const set = (values: readonly string[]): string => `{ ${[...new Set(values)].sort().join(', ')} }`
const named = (port: string): string => `"${port}"`

const untagged = (ports: string): string => `${ports} ether type { 8021q, 8021ad, 0x9100 } drop`

/**
 * A segment is one flat network: a tag could only lead to somebody else's (VLAN hopping). Frames to
 * 01:80:c2:00:00:0X (802.1D, table 7-10) are between neighbouring switches; a node that is no switch sends none.
 */
const switching = (ports: string): string[] => [
  untagged(ports),
  `${ports} ether daddr & ff:ff:ff:ff:ff:f0 == 01:80:c2:00:00:00 drop`
]

/** Answers of DHCP (RFC 2131, RFC 8415) and routers (RFC 4861): extension headers before ICMPv6 are skipped by the kernel. */
const servers = (ports: string): string[] => [
  `${ports} udp sport { 67, 547 } drop`,
  `${ports} icmpv6 type { nd-router-advert, nd-redirect } drop`
]

/** What is not for a known member is copied to many: broadcasts, multicasts, and frames for stations that nobody knows. */
const cap = (port: string, perSecond: number, burst: number): string => `iifname ${port} limit rate over ${perSecond}/second burst ${burst} packets drop`

const macs = (members: readonly SegmentMember[]): string => set(members.map(({ mac }) => mac))

const chain = (use: 'ports' | 'local', vni: number, hook: string, rules: string[], learned = false): FilterChain =>
  ({ family: 'bridge', table: MSS_TABLE, name: chainName(use, vni), base: `type filter hook ${hook}`, rules, ...(learned ? { learned: learnedSet(vni) } : {}) })

/**
 * Bulk first: what is TCP between known members, and comes where it may, needs no other look. The type is read
 * from the frame: of a tagged one it is that of the tag. No other rule here is about TCP.
 */
const bulk = (type: string, from: string, to: readonly SegmentMember[]): string => `ether type ${type} meta l4proto tcp ether daddr ${macs(to)} ${from} accept`

/** Before the clamp and before the cache's interception: what is dropped is seen by neither. */
const FIRST = 'prerouting priority -330'

/**
 * The bridge of a host that has nodes.
 *
 * @param uplink port to all others
 * @returns what its ports let in, and a chain that keeps every frame from the host itself: its bridge has no
 *   address, but the kernel would take packets for any address of the host that come in by it
 */
export function hostPortChains ({ vni, known, site, gateway }: SegmentSpec, uplink: string): FilterChain[] {
  const taps = `iifname "${tapPrefix(vni)}*"`
  const up = `iifname ${named(uplink)}`
  // answers alone may come in: diagnosis asks by ARP whether the gateway is there, and answers nobody itself
  const local = chain('local', vni, 'input priority 0', [`${taps} drop`, `${up} ether type arp arp operation reply accept`, `${up} drop`])
  // the kernel has taken one tag off there: of a frame with two the inner one is left
  const tags = [...switching(taps), ...(site.trunk === undefined || gateway !== undefined ? [] : [untagged(up)])]
  if (known === undefined) return [chain('ports', vni, FIRST, tags), local]
  const { members, antiSpoof } = known
  const nodes = members.flatMap(({ mac, address, tap }) => tap === undefined ? [] : [{ mac, address, tap: named(tap) }])
  const snooped = nodes.some(isSnooped)
  const frontend = members.find(({ role }) => role === 'frontend')
  // 0.0.0.0: asking for an address (RFC 2131), or whether somebody has it (RFC 5227)
  const sources = nodes.flatMap(({ mac, address, tap }) => [address ?? [], '0.0.0.0'].flat().map((ip) => ({ mac, ip, tap })))
  // guests of a node may have any MAC but those of members
  const places = set(nodes.map(({ tap, mac }) => `${tap} . ${mac}`))
  const ways = nodes.length === 0 ? '' : `iifname . ether saddr != ${places} `
  const own = nodes.length === 0
    ? [`${taps} drop`]
    : [
        `${taps} ${ways}drop`,
        ...(snooped ? [...learnedOnly(vni, taps, places), ...askRules(taps, set(nodes.map(({ tap, mac }) => `${tap} . ${rawMac(mac)}`)), null)] : []),
        ...(snooped ? [] : [`${taps} ether type arp iifname . arp saddr ether . arp saddr ip != ${set(sources.map(({ tap, mac, ip }) => `${tap} . ${mac} . ${ip}`))} drop`,
        `${taps} ether type ip iifname . ip saddr != ${set(sources.map(({ tap, ip }) => `${tap} . ${ip}`))} drop`])
      ]
  const away = members.filter(({ tap }) => tap === undefined)
  const givers = snoops({ known }) && frontend !== undefined && frontend.address !== null ? snoopRules(vni, up, { mac: frontend.mac, address: frontend.address }, antiSpoof && snooped) : []
  const sending = snooped
    ? `iifname . ether saddr ${places} ether saddr . ip saddr @${learnedSet(vni)}`
    : `iifname . ether saddr . ip saddr ${set(nodes.map(({ tap, mac, address }) => `${tap} . ${mac} . ${address ?? ''}`))}`
  return [
    chain('ports', vni, FIRST, [
      ...(antiSpoof && nodes.length > 0 ? [bulk('ip', sending, members)] : []),
      ...(away.length === 0 ? [] : [bulk('{ ip, ip6 }', `${up} ether saddr ${macs(away)}`, members)]),
      ...tags,
      ...(antiSpoof ? own : members.length === 0 ? [] : [`${taps} ether saddr ${macs(members)} ${ways}drop`]),
      ...(nodes.length === 0 ? [] : [`${up} ether saddr ${set(nodes.map(({ mac }) => mac))} drop`]),
      ...servers(taps),
      ...servers(frontend === undefined ? up : `${up} ether saddr != ${frontend.mac}`),
      ...givers,
      ...(members.length === 0 ? [] : [`ether daddr ${macs(members)} accept`]),
      ...nodes.map(({ tap }) => cap(tap, FLOOD_PER_SECOND, FLOOD_BURST)),
      // taps that no node is known to have share one measure
      ...(antiSpoof ? [] : [nodes.length === 0 ? cap(`"${tapPrefix(vni)}*"`, FLOOD_PER_SECOND, FLOOD_BURST) : `${taps} iifname != ${set(nodes.map(({ tap }) => tap))} limit rate over ${FLOOD_PER_SECOND}/second burst ${FLOOD_BURST} packets drop`])
    ], snoops({ known })),
    local
  ]
}

/**
 * The bridge of a gateway's namespace: a member's frames come by the port that it is behind, and no
 * other. Nodes of other hosts were looked at where they entered.
 */
export function clusterPortChains ({ vni, known, compute, gateway }: SegmentSpec): FilterChain[] {
  const inward = [INNER.sitePort, ...(compute ? [INNER.hostPort] : [])]
  const ports = [...inward, ...(gateway?.tunnel == null ? [] : [INNER.wanPort])]
  const all = `iifname ${set(ports.map(named))}`
  // the bridge has IPv6 only to answer for others, and no address of its own
  const local = chain('local', vni, 'input priority 0', ['ether type ip6 drop'])
  if (known === undefined) return [chain('ports', vni, FIRST, switching(all)), local]
  const { members } = known
  const frontend = members.find(({ role }) => role === 'frontend')
  const at = frontend === undefined ? null : innerPort(frontend)
  const places = members.flatMap((member) => {
    const port = innerPort(member)
    return port === null ? [] : [{ port: named(port), mac: member.mac }]
  })
  const ways = places.map(({ port, mac }) => `${port} . ${mac}`)
  return [
    chain('ports', vni, FIRST, [
      ...(ways.length === 0 ? [] : [bulk('{ ip, ip6 }', `iifname . ether saddr ${set(ways)}`, members)]),
      ...switching(all),
      ...(members.length === 0 ? [] : [`ether saddr ${macs(members)} ${ways.length === 0 ? '' : `iifname . ether saddr != ${set(ways)} `}drop`]),
      // its own MAC by another port was dropped just now
      ...(at === null || at === FRONTEND_PORT ? servers(all) : servers(`${all} ether saddr != ${frontend?.mac ?? ''}`)),
      ...(snoops({ known }) && places.length > 0 ? askRules(all, set(places.map(({ port, mac }) => `${port} . ${rawMac(mac)}`)), set(members.map(({ mac }) => rawMac(mac)))) : []),
      // who sends what is looked at where nodes are: here it is learnt to answer for them
      ...(at !== null && frontend !== undefined && frontend.address !== null && snoops({ known }) ? snoopRules(vni, `iifname ${named(at)}`, { mac: frontend.mac, address: frontend.address }, false) : []),
      ...(members.length === 0 ? [] : [`ether daddr ${macs(members)} accept`]),
      ...ports.map((port) => cap(named(port), PORT_FLOOD_PER_SECOND, PORT_FLOOD_BURST))
    ], snoops({ known })),
    local
  ]
}
