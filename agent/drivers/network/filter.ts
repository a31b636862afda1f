import { fingerprint } from '../../fingerprint.ts'
import { chainName, FORWARD_SET, GUARD_CHAIN, GUARD_TABLE, GUARD_WAYS, INNER_MTU, isForwardChain, MSS_TABLE, SITE_VXLAN_PORT, WAN_VXLAN_PORT, WG_PREFIX } from './names.ts'
import { learnedOfPorts } from './snoop/rules.ts'
import type { SegmentSpec } from '../../../protocol/core/desired.ts'
import type { SpaceState } from './observe/observed.ts'

/** One chain of nftables; segments share a table and a chain that leads to theirs, never one of their own. */
export interface FilterChain {
  family: 'inet' | 'bridge'
  table: string
  name: string
  /** type, hook and priority; null: others lead here */
  base: string | null
  /** rules without their comment */
  rules: string[]
  /** set of port names with time-outs that the rules ask, of the same table and of this chain alone */
  gate?: string
  /** set of pairs of MAC and IPv4 address with time-outs that the rules ask, of the same table and of this chain alone */
  learned?: string
  /** keys of the map `GUARD_WAYS` of the same table that lead here */
  ways?: string[]
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
 * datagrams whole, fragments are put together before it. `accept` ends this hook's chain only: the host's
 * own firewall still has its say.
 *
 * However many segments there are, a packet that is no VXLAN pays for one rule, and a frame finds its
 * segment's chain by one look into a map.
 *
 * @returns the chain that all segments share, and the segment's own; none for a VLAN without other sites
 */
export function guardChains (vni: number, site: SegmentSpec['site'], tunnel: NonNullable<SegmentSpec['gateway']>['tunnel']): FilterChain[] {
  const rules: string[] = []
  const ways: string[] = []
  const guard = (port: number, id: number, from: string, members: readonly string[]): void => {
    if (members.length > 0) rules.push(`udp dport ${port} ${from} ip saddr ${set(members)} accept`)
    ways.push(`${port} . ${id}`)
  }
  // a VLAN has no datagrams: who is on it is the switch's business
  if (site.trunk === undefined) guard(SITE_VXLAN_PORT, site.segmentId, `iifname != "${WG_PREFIX}*"`, site.remoteAddresses)
  if (tunnel !== null) guard(WAN_VXLAN_PORT, vni, `iifname "${WG_PREFIX}*"`, tunnel.remoteAddresses)
  if (ways.length === 0) return []
  const table = { family: 'inet', table: GUARD_TABLE } as const
  return [
    { ...table, name: GUARD_CHAIN, base: 'type filter hook input priority -10', rules: [`udp dport ${WAN_VXLAN_PORT}-${SITE_VXLAN_PORT} udp dport . @th,96,24 vmap @${GUARD_WAYS}`] },
    { ...table, name: chainName('guard', vni), base: null, rules: [...rules, 'drop'], ways }
  ]
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
  // bulk first: what begins no connection is looked at by two rules, not by two for each port
  const bulk = ['meta l4proto != tcp accept', 'tcp flags & syn != syn accept']
  const clamps = (match: string): string[] => ports.flatMap(({ port, mtu }) => {
    const { ipv4, ipv6 } = clampedMss(mtu)
    const clamp = (type: string, mss: number): string =>
      `${match} "${port}" ether type ${type} tcp flags & syn == syn tcp option maxseg size > ${mss} tcp option maxseg size set ${mss}`
    return [clamp('ip', ipv4), clamp('ip6', ipv6)]
  })
  const chain = (use: 'in' | 'out', hook: string, match: string): FilterChain => ({
    family: 'bridge', table: MSS_TABLE, name: chainName(use, vni), base: `type filter hook ${hook}`, rules: ports.length === 0 ? [] : [...bulk, ...clamps(match)]
  })
  return [chain('in', 'prerouting priority -310', 'iifname'), chain('out', 'postrouting priority 0', 'oifname')]
}

const LEARNED_TYPE = 'type ether_addr . ipv4_addr; flags timeout;'

/** What was learnt goes with the chain that asks for it; added first, as it may not be there. */
function dropLearned ({ family, table, name }: { family: string, table: string, name: string }): string[] {
  const set = learnedOfPorts(name)
  return set === null ? [] : [`add set ${family} ${table} ${set} { ${LEARNED_TYPE} }`, `delete set ${family} ${table} ${set}`]
}

/** What is there, as far as chains are concerned. */
type Have = Pick<SpaceState, 'chains' | 'ways'>

/** Whether a chain is there, with its rules and all that leads to it. */
export function chainStateOf (chain: FilterChain, { chains, ways }: Have): 'ok' | 'missing' | 'changed' {
  const found = chains.find((one) => chainKey(one) === chainKey(chain))
  if (found === undefined) return 'missing'
  const lead = keysOf(chain.name, ways)
  const led = chain.ways === undefined || (lead.length === chain.ways.length && chain.ways.every((key) => lead.includes(key)))
  return led && found.marks.join(' ') === chainMarks(chain).join(' ') ? 'ok' : 'changed'
}

const keysOf = (name: string, ways: Have['ways']): string[] => [...ways].flatMap(([key, target]) => target === name ? [key] : [])
const inGuard = (verb: string, elements: readonly string[]): string[] => elements.length === 0 ? [] : [`${verb} element inet ${GUARD_TABLE} ${GUARD_WAYS} { ${elements.join(', ')} }`]

/**
 * nft text that makes these chains in one transaction. One that is there, of whatever kind, goes in the same
 * transaction, and before it what leads to it. Nothing is deleted that is not there: a transaction with a deletion waits
 * for all processors to be done with it, some 15 ms more (Linux 6.18).
 */
export function renderChains (chains: readonly FilterChain[], have: Have): string {
  return chains.flatMap((chain) => {
    const { family, table, name, base, rules, ways } = chain
    const marks = chainMarks(chain)
    return [
      `add table ${family} ${table}`,
      ...(chain.gate === undefined ? [] : [`add set ${family} ${table} ${chain.gate} { type ifname; flags timeout; }`]),
      ...(chain.learned === undefined ? [] : [`add set ${family} ${table} ${chain.learned} { ${LEARNED_TYPE} }`]),
      ...(table === GUARD_TABLE ? [`add map ${family} ${table} ${GUARD_WAYS} { typeof udp dport . @th,96,24 : verdict; }`] : []),
      ...(ways === undefined ? [] : inGuard('delete', [...new Set([...keysOf(name, have.ways), ...ways.filter((key) => have.ways.has(key))])])),
      ...(have.chains.some((one) => chainKey(one) === chainKey(chain))
        ? [`flush chain ${family} ${table} ${name}`, `delete chain ${family} ${table} ${name}`, ...(chain.learned === undefined ? dropLearned(chain) : [])]
        : []),
      `add chain ${family} ${table} ${name}${base === null ? '' : ` { ${base}; policy accept; }`}`,
      ...rules.map((rule, index) => `add rule ${family} ${table} ${name} ${rule} comment "${marks[index] ?? ''}"`),
      ...inGuard('add', (ways ?? []).map((key) => `${key} : jump ${name}`))
    ]
  }).map((line) => `${line}\n`).join('')
}

type Named = Pick<FilterChain, 'table' | 'name'> & { family: string }
/** It is of no segment: it goes when no segment has a chain in its table any more. */
export const isShared = ({ table, name }: Named): boolean => table === GUARD_TABLE && name === GUARD_CHAIN

/** nft text that removes chains, and tables that hold no segment's chain without them. */
export function renderRemoval (gone: readonly Named[], { chains, ways }: Have): string {
  const goneKeys = new Set(gone.map(chainKey))
  const tables = new Map(gone.map(({ family, table }) => [`${family} ${table}`, true]))
  for (const chain of chains) if (!goneKeys.has(chainKey(chain)) && !isShared(chain)) tables.set(`${chain.family} ${chain.table}`, false)
  const lines: string[] = []
  for (const { family, table, name } of gone) {
    if (tables.get(`${family} ${table}`) === true) continue
    if (table === GUARD_TABLE) lines.push(...inGuard('delete', keysOf(name, ways)))
    lines.push(`flush chain ${family} ${table} ${name}`, `delete chain ${family} ${table} ${name}`)
    // added first: somebody may have taken it away
    lines.push(...dropLearned({ family, table, name }))
    if (isForwardChain(name)) lines.push(`add set ${family} ${table} ${FORWARD_SET} { type ifname; flags timeout; }`, `delete set ${family} ${table} ${FORWARD_SET}`)
  }
  for (const [table, empty] of tables) if (empty) lines.push(`delete table ${table}`)
  return lines.map((line) => `${line}\n`).join('')
}
