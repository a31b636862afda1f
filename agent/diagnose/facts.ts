/** What a helper saw of one segment on its host, as data: nothing in here is a judgement. */

/** Answers to some pings of one size that must not be broken up. */
export interface Echo {
  sent: number
  received: number
  /** of those answered; null when none was */
  rttMs: { min: number, avg: number, max: number } | null
  /** size of the packets, bytes of IP */
  bytes: number
  /** largest size that somebody on the way, or this host itself, said it would let through, bytes of IP */
  toldMtu: number | null
  /** what else was said: `Destination Host Unreachable`; empty when nothing was */
  why: string
}

/** What came of one datagram to a port: `silent` is all that a good VXLAN or WireGuard port says. */
export type UdpAnswer = 'silent' | 'refused' | 'blocked' | 'unreachable'

/** A link as it should be and as it is. */
export interface LinkFact {
  /** namespace that it is in; null: the host's own */
  space: string | null
  name: string
  /** what it is for: `host bridge`, `in-site VXLAN` ... */
  role: string
  want: { kind: string, mtu: number, master: string | null, address: string | null, vxlan: VxlanFact | null, vlan?: VlanFact }
  have: { kind: string, up: boolean, mtu: number, master: string | null, addresses: string[], vxlan: VxlanFact | null, vlan?: VlanFact } | null
}
/** `nic`: empty when it is none of this host's own. */
export interface VlanFact { id: number, nic: string }
export interface VxlanFact { id: number, local: string, port: number }

/** A chain of ours: `changed` when its rules are not those that this segment asks for. */
export interface ChainFact { space: string | null, table: string, name: string, state: 'ok' | 'missing' | 'changed' }

/** The forwarding lease of a gateway of several sites. */
export interface ForwardFact {
  space: string
  /** the port that frames of other sites come and go by */
  port: string
  /** whether frames pass at this moment */
  open: boolean
  /** service that renews it, and whether that runs as it should */
  unit: string
  keeper: boolean
  /** what is left of the promised term, ms, negative when it is over; null: nothing was promised */
  leftMs: number | null
}

/** Learning of addresses, where the frontend hands them out by itself. */
export interface SnoopFact {
  /** service that learns, and whether it runs as it should */
  unit: string
  keeper: boolean
  /** nodes of this host, and of them those whose address is known */
  nodes: number
  learned: number
}

/** A rule of others, or the policy of a chain of theirs, that drops datagrams of this segment. */
export interface DropFact {
  chain: string
  /** of the rule; null: it is the chain's policy */
  handle: number | null
  hook: string
  port: number
  rule: string
}

/** A host of the site, or the endpoint of another gateway, on the underlay. */
export interface ReachFact {
  what: 'site-host' | 'endpoint'
  address: string
  port: number
  /** of the other gateway; null for a host of the own site */
  site: string | null
  echo: Echo
  udp: UdpAnswer
  /** largest packet that got an answer, bytes of IP, of at most `wantBytes`; null: not even a small one */
  largestBytes: number | null
  wantBytes: number
}

export interface PeerFact {
  site: string
  /** its address in the tunnel */
  address: string
  wantEndpoint: string
  /** where WireGuard sends to; null when it knows nothing, or not the peer */
  endpoint: string | null
  present: boolean
  routed: boolean
  /** seconds since the epoch by this host's clock, 0: never */
  latestHandshake: number
  rxBytes: number
  txBytes: number
  echo: Echo
  largestBytes: number | null
}

export interface TunnelFact {
  interface: string
  /** null: there is no such link */
  have: { up: boolean, mtu: number, addresses: string[], mode: 'kernel' | 'userspace' } | null
  wantMtu: number
  wantAddress: string
  wantPort: number
  /** null: WireGuard does not answer */
  listenPort: number | null
  peers: PeerFact[]
}

/** On a host that is no gateway: what its bridge gets from the gateway's address by ARP. */
export interface BridgeFact { link: string, address: string, answered: boolean, mac: string, largestBytes: number | null }

export interface SegmentFacts {
  name: string
  cluster: string
  vni: number
  /** wall clock, Unix seconds */
  nowSeconds: number
  site: { segmentId: number, port: number, localAddress: string, remoteAddresses: string[] }
  /** the NIC that carries the segment inside the site by VLAN, with what the driver says of it; null where VXLAN does */
  trunk: { nic: string, carrier: boolean, mtu: number | null, problem: { code: string, message: string, hint: string } | null } | null
  underlay: { link: string, up: boolean, mtu: number } | null
  /** null: this host is not the gateway */
  namespace: { name: string, state: 'ok' | 'missing' | 'broken' | 'unread' } | null
  links: LinkFact[]
  /** remotes that a VXLAN link should flood to and does not */
  floods: Array<{ space: string | null, link: string, missing: string[] }>
  chains: ChainFact[]
  /** null: not the gateway, or no other site, or its namespace could not be looked into */
  forwarding: ForwardFact | null
  /** null or absent: addresses are those of the cluster's document */
  snoop?: SnoopFact | null
  drops: DropFact[]
  /** other VXLAN links with the id and port of ours */
  idUsers: Array<{ space: string | null, link: string, id: number, port: number }>
  /** null: no other site, or not the gateway */
  tunnel: TunnelFact | null
  reach: ReachFact[]
  bridge: BridgeFact | null
}

/** Somebody with an address on the segment, asked from the gateway's namespace. */
export interface AnswerFact {
  kind: 'gateway' | 'node'
  name: string
  site: string
  host: string
  /** underlay address of that host, '' when it is not known */
  underlayAddress: string
  address: string
  echo: Echo
  largestBytes: number | null
}
