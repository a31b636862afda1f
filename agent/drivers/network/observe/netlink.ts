/**
 * Pure readers of netlink messages: what the kernel answers when it is asked for all links, addresses,
 * forwarding entries, chains and rules of a namespace. Unknown and cut-off parts read as absent. Numbers
 * are those of linux/rtnetlink.h, if_link.h, if_addr.h, neighbour.h, netfilter/nf_tables.h and of libnftnl's udata.h.
 */
import { endianness } from 'node:os'
import { canonicalIpv6 } from '../broadcast/entries.ts'
import { addFlood, addForward, addNeighbour } from './observed.ts'
import type { ChainState, LinkState, SpaceState } from './observed.ts'

/** The lists of one namespace, each as the messages that the kernel sent. */
export interface SpaceLists { links: Buffer, addresses: Buffer, forwards: Buffer, neighbours: Buffer, chains: Buffer, rules: Buffer, elements: Buffer, guardChains: Buffer, guardRules: Buffer, guardWays: Buffer }

type Attributes = ReadonlyMap<number, Buffer>

const HEADER_BYTES = 16
const LINK = { new: 16, headBytes: 16, address: 1, name: 3, mtu: 4, lower: 5, master: 10, info: 18, alias: 20, lowerElsewhere: 37, isUp: 1, hasCarrier: 0x1_0000 } as const
const INFO = { kind: 1, data: 2, slaveData: 5 } as const
const VXLAN = { id: 1, local: 4, learning: 7, port: 15 } as const
const BRIDGE = { stp: 5, filtering: 7, snooping: 23 } as const
const VLAN = { id: 1, protocol: 5 } as const
const VLAN_PROTOCOLS: Readonly<Record<number, string>> = { 0x8100: '802.1Q', 0x88a8: '802.1ad' }
const PORT = { hairpin: 4, suppress: 32 } as const
const MACVLAN_MODE = 1
const MACVLAN_MODES: Readonly<Record<number, string>> = { 1: 'private', 2: 'vepa', 4: 'bridge', 8: 'passthru', 16: 'source' }
const ADDRESS = { new: 20, headBytes: 8, address: 1, local: 2, inet: 2, inet6: 10 } as const
const NEIGHBOUR = { new: 28, headBytes: 12, destination: 1, mac: 2, master: 9, isPermanent: 0x80, isSticky: 0x40 } as const
const CHAIN = { new: 10 << 8 | 3, headBytes: 4, table: 1, name: 3 } as const
const RULE = { new: 10 << 8 | 6, table: 1, chain: 2, userData: 7, comment: 0 } as const
const ELEMENT = { new: 10 << 8 | 12, list: 3, key: 1, data: 2, value: 1, verdict: 2, code: 1, chain: 2, jump: 0xffff_fffd } as const
const FAMILIES: Readonly<Record<number, string>> = { 1: 'inet', 2: 'ip', 3: 'arp', 5: 'netdev', 7: 'bridge', 10: 'ip6' }

const little = endianness() === 'LE'
const u16 = (bytes: Buffer | undefined, at = 0): number => bytes === undefined || bytes.length < at + 2 ? Number.NaN : little ? bytes.readUInt16LE(at) : bytes.readUInt16BE(at)
const u32 = (bytes: Buffer | undefined, at = 0): number => bytes === undefined || bytes.length < at + 4 ? Number.NaN : little ? bytes.readUInt32LE(at) : bytes.readUInt32BE(at)
const u8 = (bytes: Buffer | undefined): number => bytes?.[0] ?? Number.NaN
/** As on the wire, not as this machine has it. */
const portOf = (bytes: Buffer | undefined): number => bytes === undefined || bytes.length < 2 ? Number.NaN : bytes.readUInt16BE()
const text = (bytes: Buffer | undefined): string | undefined => bytes?.toString('utf8').replace(/\0.*$/s, '')
const padded = (bytes: number): number => (bytes + 3) & ~3

const hexOf = (bytes: Buffer): string[] => [...bytes].map((byte) => byte.toString(16).padStart(2, '0'))
const mac = (bytes: Buffer | undefined): string => bytes === undefined ? '' : hexOf(bytes).join(':')
const ip = (bytes: Buffer | undefined): string => bytes === undefined ? '' : bytes.length === 4 ? [...bytes].join('.') : canonicalIpv6(hexOf(bytes).join('').replaceAll(/(....)(?=.)/g, '$1:'))

function attributes (bytes: Buffer | undefined): Attributes {
  const found = new Map<number, Buffer>()
  for (let at = 0; bytes !== undefined && at + 4 <= bytes.length;) {
    const size = u16(bytes, at)
    if (size < 4 || at + size > bytes.length) break
    // the two highest bits say how the value is written
    found.set(u16(bytes, at + 2) & 0x3fff, bytes.subarray(at + 4, at + size))
    at += padded(size)
  }
  return found
}

/** Bodies of the messages of one type: the fixed head, and what follows it. */
function messages (bytes: Buffer, type: number, headBytes: number): Array<{ head: Buffer, attrs: Attributes }> {
  const found = []
  for (let at = 0; at + HEADER_BYTES <= bytes.length;) {
    const size = u32(bytes, at)
    if (size < HEADER_BYTES || at + size > bytes.length) break
    if (u16(bytes, at + 4) === type && size >= HEADER_BYTES + headBytes) {
      found.push({ head: bytes.subarray(at + HEADER_BYTES, at + HEADER_BYTES + headBytes), attrs: attributes(bytes.subarray(at + HEADER_BYTES + headBytes, at + size)) })
    }
    at += padded(size)
  }
  return found
}

function parseLinks (links: Buffer, addresses: Buffer): { links: LinkState[], names: Map<number, string> } {
  const listed = messages(links, LINK.new, LINK.headBytes).map(({ head, attrs }) => ({ index: u32(head, 4), flags: u32(head, 8), attrs, name: text(attrs.get(LINK.name)) ?? '' }))
  const names = new Map(listed.map(({ index, name }) => [index, name]))
  const owned = messages(addresses, ADDRESS.new, ADDRESS.headBytes).map(({ head, attrs }) => ({
    family: u8(head), index: u32(head, 4), text: `${ip(attrs.get(ADDRESS.local) ?? attrs.get(ADDRESS.address))}/${head[1] ?? 0}`
  }))
  return {
    names,
    links: listed.map(({ index, flags, attrs, name }): LinkState => {
      const info = attributes(attrs.get(LINK.info))
      const kind = text(info.get(INFO.kind))
      const data = attributes(info.get(INFO.data))
      const port = attributes(info.get(INFO.slaveData))
      // a number of another namespace's link means nothing here
      const lower = attrs.has(LINK.lowerElsewhere) ? undefined : names.get(u32(attrs.get(LINK.lower)))
      return {
        name,
        index,
        kind,
        up: (flags & LINK.isUp) !== 0,
        carrier: (flags & LINK.hasCarrier) !== 0,
        mtu: u32(attrs.get(LINK.mtu)),
        mac: mac(attrs.get(LINK.address)),
        master: names.get(u32(attrs.get(LINK.master))),
        lower,
        lowerIndex: attrs.has(LINK.lowerElsewhere) ? u32(attrs.get(LINK.lower)) || undefined : undefined,
        alias: text(attrs.get(LINK.alias)),
        ipv4: owned.filter((one) => one.index === index && one.family === ADDRESS.inet).map((one) => one.text),
        ipv6: owned.some((one) => one.index === index && one.family === ADDRESS.inet6),
        vxlan: kind === 'vxlan' ? { id: u32(data.get(VXLAN.id)), local: ip(data.get(VXLAN.local)), port: portOf(data.get(VXLAN.port)), learning: u8(data.get(VXLAN.learning)) === 1 } : undefined,
        vlan: kind === 'vlan' ? { id: u16(data.get(VLAN.id)), protocol: VLAN_PROTOCOLS[portOf(data.get(VLAN.protocol))] ?? '' } : undefined,
        macvlanMode: kind === 'macvlan' ? MACVLAN_MODES[u32(data.get(MACVLAN_MODE))] : undefined,
        bridge: kind === 'bridge' ? { stp: u32(data.get(BRIDGE.stp)) !== 0, snooping: u8(data.get(BRIDGE.snooping)) !== 0, filtering: u8(data.get(BRIDGE.filtering)) === 1 } : undefined,
        hairpin: u8(port.get(PORT.hairpin)) === 1,
        suppress: u8(port.get(PORT.suppress)) === 1
      }
    })
  }
}

/** What `nft` calls the comment of a rule: it keeps it in bytes that the kernel does not look into. */
function commentOf (userData: Buffer | undefined): string {
  for (let at = 0; userData !== undefined && at + 2 <= userData.length;) {
    const size = userData[at + 1] ?? 0
    if (userData[at] === RULE.comment) return text(userData.subarray(at + 2, at + 2 + size)) ?? ''
    at += 2 + size
  }
  return ''
}

function parseChains (chains: Buffer, rules: Buffer, table: string): ChainState[] {
  const found = new Map<string, ChainState>()
  for (const { head, attrs } of messages(chains, CHAIN.new, CHAIN.headBytes)) {
    const name = text(attrs.get(CHAIN.name))
    if (name !== undefined && text(attrs.get(CHAIN.table)) === table) found.set(name, { family: FAMILIES[u8(head)] ?? '', table, name, marks: [] })
  }
  for (const { attrs } of messages(rules, RULE.new, CHAIN.headBytes)) {
    if (text(attrs.get(RULE.table)) === table) found.get(text(attrs.get(RULE.chain)) ?? '')?.marks.push(commentOf(attrs.get(RULE.userData)))
  }
  return [...found.values()]
}

/** Attributes of one type that stand in a row. */
function allOf (bytes: Buffer | undefined): Attributes[] {
  const found: Attributes[] = []
  for (let at = 0; bytes !== undefined && at + 4 <= bytes.length;) {
    const size = u16(bytes, at)
    if (size < 4 || at + size > bytes.length) break
    found.push(attributes(bytes.subarray(at + 4, at + size)))
    at += padded(size)
  }
  return found
}

function parseElements (elements: Buffer): Set<string> {
  const keys = messages(elements, ELEMENT.new, CHAIN.headBytes).flatMap(({ attrs }) => allOf(attrs.get(ELEMENT.list)))
  return new Set(keys.map((element) => text(attributes(element.get(ELEMENT.key)).get(ELEMENT.value))).filter((name) => name !== undefined))
}

/** Keys are a UDP port and a VNI, each in the order of the wire and padded to four bytes, and values verdicts. */
function parseWays (elements: Buffer): SpaceState['ways'] {
  const ways: SpaceState['ways'] = new Map()
  for (const element of messages(elements, ELEMENT.new, CHAIN.headBytes).flatMap(({ attrs }) => allOf(attrs.get(ELEMENT.list)))) {
    const key = attributes(element.get(ELEMENT.key)).get(ELEMENT.value)
    if (key === undefined || key.length < 7) continue
    const verdict = attributes(attributes(element.get(ELEMENT.data)).get(ELEMENT.verdict))
    const code = verdict.get(ELEMENT.code)
    const jumps = code?.length === 4 && code.readUInt32BE() === ELEMENT.jump
    ways.set(`${key.readUInt16BE()} . ${key.readUIntBE(4, 3)}`, jumps ? text(verdict.get(ELEMENT.chain)) ?? '' : '')
  }
  return ways
}

/** What one network namespace holds. @param table the nftables table of the family `bridge` whose chains are wanted @param guard the same of `inet` */
export function parseSpace (lists: SpaceLists, table: string, guard: string): SpaceState {
  const { links, names } = parseLinks(lists.links, lists.addresses)
  const floods: SpaceState['floods'] = new Map()
  const forwards: SpaceState['forwards'] = new Map()
  const neighbours: SpaceState['neighbours'] = new Map()
  for (const { head, attrs } of messages(lists.forwards, NEIGHBOUR.new, NEIGHBOUR.headBytes)) {
    const link = names.get(u32(head, 4))
    const [to, remote] = [mac(attrs.get(NEIGHBOUR.mac)), attrs.has(NEIGHBOUR.destination) ? ip(attrs.get(NEIGHBOUR.destination)) : undefined]
    const isLocal = (u16(head, 8) & NEIGHBOUR.isPermanent) !== 0
    addFlood(floods, to, link, remote)
    addForward(forwards, { mac: to, link, remote, onPort: !isLocal && attrs.has(NEIGHBOUR.master), sticky: ((head[10] ?? 0) & NEIGHBOUR.isSticky) !== 0 })
  }
  for (const { head, attrs } of messages(lists.neighbours, NEIGHBOUR.new, NEIGHBOUR.headBytes)) {
    if ((u16(head, 8) & NEIGHBOUR.isPermanent) === 0 || !attrs.has(NEIGHBOUR.mac)) continue
    addNeighbour(neighbours, names.get(u32(head, 4)), ip(attrs.get(NEIGHBOUR.destination)), mac(attrs.get(NEIGHBOUR.mac)))
  }
  return { links, floods, forwards, neighbours, chains: [...parseChains(lists.guardChains, lists.guardRules, guard), ...parseChains(lists.chains, lists.rules, table)], ways: parseWays(lists.guardWays), open: parseElements(lists.elements) }
}
