/** Pure readers of what `ip -json`, `bridge -json` and `nft -json` print. Unknown shapes read as absent. */
import { canonicalIpv6 } from '../broadcast/entries.ts'

/** One link as the kernel has it. */
export interface LinkState {
  name: string
  index: number
  kind: string | undefined
  up: boolean
  /** something is at the other end of its cable */
  carrier: boolean
  mtu: number
  mac: string
  master: string | undefined
  lower: string | undefined
  /** index of the lower link where that is in another namespace */
  lowerIndex: number | undefined
  alias: string | undefined
  /** `address/prefix` of IPv4 */
  ipv4: string[]
  /** true when it has an IPv6 address */
  ipv6: boolean
  /** vxlan: id, own address and port */
  vxlan: { id: number, local: string, port: number, learning: boolean } | undefined
  vlan: { id: number, protocol: string } | undefined
  macvlanMode: string | undefined
  /** `filtering`: by VLAN, as only administrators' bridges do */
  bridge: { stp: boolean, snooping: boolean, filtering: boolean } | undefined
  hairpin: boolean
  /** port of a bridge that answers for those behind it */
  suppress: boolean
}

/** One chain of ours and the comments of its rules, in order. */
export interface ChainState { family: string, table: string, name: string, marks: string[] }

/** What one network namespace holds. */
export interface SpaceState {
  links: LinkState[]
  /** per VXLAN link: the remotes that unknown frames are copied to */
  floods: Map<string, Set<string>>
  /** per link: permanent ways to single MACs; `sticky` or `static` on a port of a bridge, else the far end of a VXLAN */
  forwards: Map<string, Map<string, string>>
  /** per link: MACs of permanent neighbours by address */
  neighbours: Map<string, Map<string, string>>
  chains: ChainState[]
  /** UDP port and VNI of VXLAN, as nft writes them, and the chain that the map of guards leads to; '' for anything else than a jump */
  ways: Map<string, string>
  /** ports that may forward at this moment; how long they still may is not told, it changes all the time */
  open: Set<string>
}

const NOBODY = '00:00:00:00:00:00'

type Fields = Record<string, unknown>

const fields = (value: unknown): Fields => (typeof value === 'object' && value !== null ? value as Fields : {})
const list = (value: unknown): Fields[] => (Array.isArray(value) ? value.map(fields) : [])
const text = (value: unknown): string | undefined => (typeof value === 'string' ? value : undefined)
const number = (value: unknown): number => (typeof value === 'number' ? value : Number.NaN)

function parseLink (link: Fields): LinkState | null {
  const name = text(link.ifname)
  if (name === undefined) return null
  const info = fields(link.linkinfo)
  const data = fields(info.info_data)
  const kind = text(info.info_kind)
  const addresses = list(link.addr_info)
  return {
    name,
    index: number(link.ifindex),
    kind,
    up: Array.isArray(link.flags) && link.flags.includes('UP'),
    carrier: Array.isArray(link.flags) && link.flags.includes('LOWER_UP'),
    mtu: number(link.mtu),
    mac: text(link.address) ?? '',
    master: text(link.master),
    lower: text(link.link),
    lowerIndex: typeof link.link_index === 'number' ? link.link_index : undefined,
    alias: text(link.ifalias),
    ipv4: addresses.filter(({ family }) => family === 'inet').map((a) => `${text(a.local) ?? ''}/${number(a.prefixlen)}`),
    ipv6: addresses.some(({ family }) => family === 'inet6'),
    vxlan: kind === 'vxlan' ? { id: number(data.id), local: text(data.local) ?? '', port: number(data.port), learning: data.learning === true } : undefined,
    vlan: kind === 'vlan' ? { id: number(data.id), protocol: text(data.protocol) ?? '' } : undefined,
    macvlanMode: kind === 'macvlan' ? text(data.mode) : undefined,
    bridge: kind === 'bridge' ? { stp: data.stp_state !== 0, snooping: data.mcast_snooping !== 0, filtering: data.vlan_filtering === 1 } : undefined,
    hairpin: fields(info.info_slave_data).hairpin === true,
    suppress: fields(info.info_slave_data).neigh_suppress === true
  }
}

/** `ip -json -details address show` */
export function parseLinks (json: unknown): LinkState[] {
  return list(json).map(parseLink).filter((link) => link !== null)
}

/** Takes up one forwarding entry, if it is one of those that unknown frames follow. */
export function addFlood (floods: SpaceState['floods'], mac: unknown, link: string | undefined, remote: string | undefined): void {
  if (mac !== NOBODY || link === undefined || remote === undefined) return
  const remotes = floods.get(link) ?? new Set<string>()
  floods.set(link, remotes.add(remote))
}

/** Adds to a map of maps. */
function put (maps: Map<string, Map<string, string>>, link: string, key: string, value: string): void {
  const found = maps.get(link) ?? new Map<string, string>()
  maps.set(link, found.set(key, value))
}

/** One permanent forwarding entry as both readers see it. */
export interface ForwardFound {
  mac: string | undefined
  link: string | undefined
  remote: string | undefined
  /** of a bridge, and not the MAC of one of its own ports */
  onPort: boolean
  sticky: boolean
}

/** Takes up one forwarding entry, if it is a way to a single MAC that somebody has put there. */
export function addForward (forwards: SpaceState['forwards'], { mac, link, remote, onPort, sticky }: ForwardFound): void {
  if (mac === undefined || mac === NOBODY || link === undefined) return
  if (remote !== undefined) put(forwards, link, mac, remote)
  else if (onPort) put(forwards, link, mac, sticky ? 'sticky' : 'static')
}

/** Takes up one permanent neighbour. */
export function addNeighbour (neighbours: SpaceState['neighbours'], link: string | undefined, address: string | undefined, mac: string | undefined): void {
  if (link !== undefined && address !== undefined && mac !== undefined) put(neighbours, link, canonicalIpv6(address), mac)
}

/** `bridge -json fdb show state permanent state static` */
export function parseForwards (json: unknown): SpaceState['forwards'] {
  const forwards: SpaceState['forwards'] = new Map()
  for (const entry of list(json)) {
    if (entry.state !== 'permanent' && entry.state !== 'static') continue // learnt
    addForward(forwards, {
      mac: text(entry.mac), link: text(entry.ifname), remote: text(entry.dst),
      onPort: entry.state === 'static' && entry.master !== undefined, sticky: Array.isArray(entry.flags) && entry.flags.includes('sticky')
    })
  }
  return forwards
}

/** `ip -json neighbour show nud permanent` */
export function parseNeighbours (json: unknown): SpaceState['neighbours'] {
  const neighbours: SpaceState['neighbours'] = new Map()
  for (const entry of list(json)) {
    if (Array.isArray(entry.state) && entry.state.includes('PERMANENT')) addNeighbour(neighbours, text(entry.dev), text(entry.dst), text(entry.lladdr))
  }
  return neighbours
}

/** `bridge -json fdb show`: the all-zero entries of VXLAN links. */
export function parseFloods (json: unknown): SpaceState['floods'] {
  const floods: SpaceState['floods'] = new Map()
  for (const entry of list(json)) addFlood(floods, entry.mac, text(entry.ifname), text(entry.dst))
  return floods
}

/** `ip -json route show`: destinations that lead to one link. */
export function parseRoutes (json: unknown, dev: string): string[] {
  return list(json).filter((route) => route.dev === dev).map((route) => text(route.dst) ?? '')
}

/** `nft -json list table ...`: its chains with the comments of their rules. */
export function parseChains (json: unknown): ChainState[] {
  const chains = new Map<string, ChainState>()
  for (const item of list(fields(json).nftables)) {
    const chain = fields(item.chain)
    const name = text(chain.name)
    if (name !== undefined) chains.set(name, { family: text(chain.family) ?? '', table: text(chain.table) ?? '', name, marks: [] })
    const rule = fields(item.rule)
    chains.get(text(rule.chain) ?? '')?.marks.push(text(rule.comment) ?? '')
  }
  return [...chains.values()]
}

/** `nft -json list set ...`: elements that are names, whatever time they have left. */
export function parseElements (json: unknown): Set<string> {
  const elements = list(fields(json).nftables).flatMap(({ set }) => fields(set).elem)
  return new Set(elements.map((one) => text(one) ?? text(fields(fields(one).elem).val)).filter((name) => name !== undefined))
}

/** `ip -json -statistics link show dev X`: bytes since the link was made, and whether it is up; null when absent. */
export function parseCounters (json: unknown): { rxBytes: number, txBytes: number, up: boolean } | null {
  const link = list(json).find(({ ifname }) => ifname !== undefined)
  if (link === undefined) return null
  const stats = fields(link.stats64)
  return {
    rxBytes: number(fields(stats.rx).bytes),
    txBytes: number(fields(stats.tx).bytes),
    up: Array.isArray(link.flags) && link.flags.includes('UP') && link.flags.includes('LOWER_UP')
  }
}
