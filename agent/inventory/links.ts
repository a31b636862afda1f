import Type, { type Static } from 'typebox'
import { PREFIX } from '../../protocol/core/desired.ts'
import { MAX_INVENTORY_NIC_ADDRESSES, MAX_INVENTORY_NICS } from '../../protocol/core/limits.ts'
import type { Nic } from '../../protocol/wire/types.ts'
import { byName } from './hardware.ts'
import { parseJson, plain, shape, type Parsed } from './text.ts'

const Kind = Type.Optional(Type.String())
const Link = Type.Object({
  ifname: Type.String({ pattern: '^[^/\\s]{1,15}$' }),
  link_type: Type.Optional(Type.String()),
  link: Type.Optional(Type.Union([Type.String(), Type.Null()])),
  master: Kind,
  flags: Type.Optional(Type.Array(Type.String())),
  mtu: Type.Optional(Type.Integer({ minimum: 0, maximum: 0xffff_ffff })),
  address: Kind,
  linkinfo: Type.Optional(Type.Object({
    info_kind: Kind, info_slave_kind: Kind, info_data: Type.Optional(Type.Record(Type.String(), Type.Unknown()))
  })),
  addr_info: Type.Optional(Type.Array(Type.Unknown()))
})
type Link = Static<typeof Link>
const Address = Type.Object({
  family: Type.String(), local: Type.String({ maxLength: 64 }), prefixlen: Type.Integer({ minimum: 0, maximum: 128 }), scope: Type.String(),
  temporary: Type.Optional(Type.Boolean()), deprecated: Type.Optional(Type.Boolean()), tentative: Type.Optional(Type.Boolean())
})
const isLink = shape(Link)
const isAddress = shape(Address)
const isList = shape(Type.Array(Type.Unknown()))

/**
 * What carries a host's traffic, most solid first. Real cards have no kind; a host in a namespace
 * (lab, container) has a veth or macvlan for its card. All else is made by somebody for guests or tunnels.
 */
const KINDS: ReadonlyArray<string | undefined> = [undefined, 'bond', 'team', 'bridge', 'vlan', 'veth', 'macvlan', 'ipvlan']
const CARDS: ReadonlySet<string | undefined> = new Set([undefined, 'bond', 'team', 'veth'])
const LINK_TYPES: ReadonlySet<string | undefined> = new Set(['ether', 'infiniband'])

/** A NIC whose driver and speed are still to be read from sysfs. */
export interface FoundNic {
  nic: Nic
  /** of the link; undefined for a card */
  kind: string | undefined
}

/**
 * Reads `ip -json -details address`: cards and what an administrator built on them, without the
 * loopback, Musubi's own links and those of guests. `left` is how many more there are.
 */
export function parseNics (text: string): Parsed<{ nics: FoundNic[], left: number }> {
  const parsed = parseJson(text, isList, 'ip')
  if ('reason' in parsed) return parsed
  const links = parsed.value.filter(isLink)
  const tagged = new Set(links.flatMap(link => kindOf(link) === 'vlan' && typeof link.link === 'string' ? [link.link] : []))
  const filtering = new Set(links.flatMap(link => kindOf(link) === 'bridge' && link.linkinfo?.info_data?.vlan_filtering === 1 ? [link.ifname] : []))
  const found = links.filter(isNic).map(link => ({
    kind: kindOf(link),
    nic: {
      name: plain(link.ifname, 15),
      mac: plain(link.address ?? '', 64),
      mtu: link.mtu ?? 0,
      speedMbit: 0,
      up: ['UP', 'LOWER_UP'].every(flag => link.flags?.includes(flag) === true),
      trunk: CARDS.has(kindOf(link)) && (tagged.has(link.ifname) || (link.master !== undefined && filtering.has(link.master))),
      driver: '',
      addresses: addressesOf(link)
    }
  }))
  found.sort((a, b) => KINDS.indexOf(a.kind) - KINDS.indexOf(b.kind) || byName(a.nic.name, b.nic.name))
  return { value: { nics: found.slice(0, MAX_INVENTORY_NICS), left: Math.max(0, found.length - MAX_INVENTORY_NICS) } }
}

function kindOf (link: Link): string | undefined {
  return link.linkinfo?.info_kind
}

function isNic (link: Link): boolean {
  const kind = kindOf(link)
  // every link that Musubi makes in the host's namespace carries the prefix; a veth in a bridge is a guest's or container's
  return link.ifname !== 'lo' && !/^\.+$/.test(link.ifname) && !link.ifname.startsWith(PREFIX) && LINK_TYPES.has(link.link_type) && KINDS.includes(kind) &&
    !(kind === 'veth' && link.linkinfo?.info_slave_kind !== undefined)
}

/** Lasting ones only: privacy addresses come and go, and a change of inventory is told to the site. */
function addressesOf (link: Link): string[] {
  return (link.addr_info ?? []).filter(isAddress)
    .filter(one => one.scope === 'global' && /^[0-9a-f.:]+$/.test(one.local) && one.temporary !== true && one.deprecated !== true && one.tentative !== true)
    .slice(0, MAX_INVENTORY_NIC_ADDRESSES).map(one => `${one.local}/${one.prefixlen}`)
}
