/** Pure readers of what `ip -json`, `bridge -json` and `nft -json` print. Unknown shapes read as absent. */

/** One link as the kernel has it. */
export interface LinkState {
  name: string
  kind: string | undefined
  up: boolean
  mtu: number
  mac: string
  master: string | undefined
  lower: string | undefined
  alias: string | undefined
  /** `address/prefix` of IPv4 */
  ipv4: string[]
  /** true when it has an IPv6 address */
  ipv6: boolean
  /** vxlan: id, own address and port */
  vxlan: { id: number, local: string, port: number, learning: boolean } | undefined
  macvlanMode: string | undefined
  bridge: { stp: boolean, snooping: boolean } | undefined
  hairpin: boolean
}

/** One chain of ours and the comments of its rules, in order. */
export interface ChainState { family: string, table: string, name: string, marks: string[] }

/** What one network namespace holds. */
export interface SpaceState {
  links: LinkState[]
  /** per VXLAN link: the remotes that unknown frames are copied to */
  floods: Map<string, Set<string>>
  chains: ChainState[]
}

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
    kind,
    up: Array.isArray(link.flags) && link.flags.includes('UP'),
    mtu: number(link.mtu),
    mac: text(link.address) ?? '',
    master: text(link.master),
    lower: text(link.link),
    alias: text(link.ifalias),
    ipv4: addresses.filter(({ family }) => family === 'inet').map((a) => `${text(a.local) ?? ''}/${number(a.prefixlen)}`),
    ipv6: addresses.some(({ family }) => family === 'inet6'),
    vxlan: kind === 'vxlan' ? { id: number(data.id), local: text(data.local) ?? '', port: number(data.port), learning: data.learning === true } : undefined,
    macvlanMode: kind === 'macvlan' ? text(data.mode) : undefined,
    bridge: kind === 'bridge' ? { stp: data.stp_state !== 0, snooping: data.mcast_snooping !== 0 } : undefined,
    hairpin: fields(info.info_slave_data).hairpin === true
  }
}

/** `ip -json -details address show` */
export function parseLinks (json: unknown): LinkState[] {
  return list(json).map(parseLink).filter((link) => link !== null)
}

/** Takes up one forwarding entry, if it is one of those that unknown frames follow. */
export function addFlood (floods: SpaceState['floods'], mac: unknown, link: string | undefined, remote: string | undefined): void {
  if (mac !== '00:00:00:00:00:00' || link === undefined || remote === undefined) return
  const remotes = floods.get(link) ?? new Set<string>()
  floods.set(link, remotes.add(remote))
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
