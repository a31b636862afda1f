import { fingerprint } from '../../fingerprint.ts'
import { chainName, FORWARD_SET, GUARD_TABLE, INNER_MTU, isForwardChain, MSS_TABLE, SITE_VXLAN_PORT, WAN_VXLAN_PORT, WG_PREFIX } from './names.ts'
import type { SegmentSpec } from '../../../protocol/core/desired.ts'

/** One base chain of nftables; segments share a table, never a chain. */
export interface FilterChain {
  family: 'inet' | 'bridge'
  table: string
  name: string
  /** type, hook and priority */
  base: string
  /** rules without their comment */
  rules: string[]
  /** set of port names with time-outs that the rules ask, of the same table and of this chain alone */
  gate?: string
}

/** Table and chain in one word, to compare with what was observed. */
export const chainKey = (chain: { family: string, table: string, name: string }): string => `${chain.family} ${chain.table} ${chain.name}`

/**
 * The comments that a chain's rules carry: a digest of the whole chain and a running number. nft
 * prints rules in its own words, so these, not the words, tell whether a chain is as it should be.
 */
export function chainMarks (chain: FilterChain): string[] {
  const digest = fingerprint([chain.base, chain.rules])
  return chain.rules.map((_, index) => `${digest}.${index}`)
}

const set = (addresses: readonly string[]): string => `{ ${[...new Set(addresses)].sort().join(', ')} }`

/**
 * VXLAN has no authentication and its socket listens on all addresses. So a frame enters this
 * segment only from its own members: between sites only out of the tunnel, where WireGuard has
 * proved the source address, and only from the gateways of this cluster (a gateway that shares
 * another cluster with us cannot write into this one); inside the site only from the site's hosts.
 * `@th,96,24` is the VNI: 8 bytes of UDP and 4 of VXLAN flags before it. The input hook sees
 * datagrams whole, fragments are put together before it. `accept` ends this chain only: the host's
 * own firewall still has its say.
 */
export function guardChain (vni: number, site: SegmentSpec['site'], tunnel: NonNullable<SegmentSpec['gateway']>['tunnel']): FilterChain {
  const rules: string[] = []
  const guard = (port: number, id: number, from: string, members: readonly string[]): void => {
    const frames = `udp dport ${port} @th,96,24 ${id}`
    if (members.length > 0) rules.push(`${frames} ${from} ip saddr ${set(members)} accept`)
    rules.push(`${frames} drop`)
  }
  // a VLAN has no datagrams: who is on it is the switch's business
  if (site.trunk === undefined) guard(SITE_VXLAN_PORT, site.segmentId, `iifname != "${WG_PREFIX}*"`, site.remoteAddresses)
  if (tunnel !== null) guard(WAN_VXLAN_PORT, vni, `iifname "${WG_PREFIX}*"`, tunnel.remoteAddresses)
  return { family: 'inet', table: GUARD_TABLE, name: chainName('guard', vni), base: 'type filter hook input priority -10', rules }
}

/** Outer IPv4 20 + UDP 8 + VXLAN 8 + inner Ethernet 14. */
export const VXLAN_OVERHEAD_BYTES = 50

/**
 * Largest TCP segment, in bytes, whose frame still fits one outer packet. The option counts what
 * follows a TCP header without options, and senders subtract their options themselves.
 * Tunnel of 1420: 1420 - 50 = 1370 of inner IP; less IPv4 20 + TCP 20 = 1330; less IPv6 40 + TCP 20
 * = 1310. Underlay of 1500: 1450 of inner IP, 1410 and 1390.
 */
export function clampedMss (outerMtu: number): { ipv4: number, ipv6: number } {
  const inner = Math.min(outerMtu - VXLAN_OVERHEAD_BYTES, INNER_MTU)
  return { ipv4: inner - 40, ipv6: inner - 60 }
}

/**
 * Clamp on both directions of every VXLAN port: what a SYN announces bounds what comes back, so
 * clamping those that leave and those that arrive bounds both flows, also towards a site that
 * clamps nothing. Other packets than TCP stay full size and may be fragmented outside.
 */
export function mssChains (vni: number, ports: ReadonlyArray<{ port: string, mtu: number }>): FilterChain[] {
  const rules = (match: string): string[] => ports.flatMap(({ port, mtu }) => {
    const { ipv4, ipv6 } = clampedMss(mtu)
    const clamp = (type: string, mss: number): string =>
      `${match} "${port}" ether type ${type} tcp flags & syn == syn tcp option maxseg size > ${mss} tcp option maxseg size set ${mss}`
    return [clamp('ip', ipv4), clamp('ip6', ipv6)]
  })
  const chain = (use: 'in' | 'out', hook: string, match: string): FilterChain => ({
    family: 'bridge', table: MSS_TABLE, name: chainName(use, vni), base: `type filter hook ${hook}`, rules: rules(match)
  })
  return [chain('in', 'prerouting priority -310', 'iifname'), chain('out', 'postrouting priority 0', 'oifname')]
}

/**
 * nft text that makes these chains in one transaction, whatever was there before.
 * A chain is first added without a hook, which an existing one of any kind accepts.
 */
export function renderChains (chains: readonly FilterChain[]): string {
  return chains.flatMap((chain) => {
    const { family, table, name, base, rules } = chain
    const marks = chainMarks(chain)
    return [
      `add table ${family} ${table}`,
      ...(chain.gate === undefined ? [] : [`add set ${family} ${table} ${chain.gate} { type ifname; flags timeout; }`]),
      `add chain ${family} ${table} ${name}`,
      `flush chain ${family} ${table} ${name}`,
      `delete chain ${family} ${table} ${name}`,
      `add chain ${family} ${table} ${name} { ${base}; policy accept; }`,
      ...rules.map((rule, index) => `add rule ${family} ${table} ${name} ${rule} comment "${marks[index] ?? ''}"`)
    ]
  }).map((line) => `${line}\n`).join('')
}

/** nft text that removes chains, and tables that are empty without them. */
export function renderRemoval (gone: ReadonlyArray<{ family: string, table: string, name: string }>, all: ReadonlyArray<{ family: string, table: string, name: string }>): string {
  const goneKeys = new Set(gone.map(chainKey))
  const tables = new Map(gone.map(({ family, table }) => [`${family} ${table}`, true]))
  for (const chain of all) if (!goneKeys.has(chainKey(chain))) tables.set(`${chain.family} ${chain.table}`, false)
  const lines: string[] = []
  for (const { family, table, name } of gone) {
    if (tables.get(`${family} ${table}`) === true) continue
    lines.push(`flush chain ${family} ${table} ${name}`, `delete chain ${family} ${table} ${name}`)
    // added first: somebody may have taken it away
    if (isForwardChain(name)) lines.push(`add set ${family} ${table} ${FORWARD_SET} { type ifname; flags timeout; }`, `delete set ${family} ${table} ${FORWARD_SET}`)
  }
  for (const [table, empty] of tables) if (empty) lines.push(`delete table ${table}`)
  return lines.map((line) => `${line}\n`).join('')
}
