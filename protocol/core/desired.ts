/**
 * What a host is asked to run, as plain data. Each object belongs to one driver (its kind) and is
 * reconciled by name: `diff` compares these with what drivers observe, nothing else.
 */

export type ObjectKind = 'volume' | 'tunnel' | 'segment' | 'frontend' | 'cache' | 'domain'

/** Creation order; removal runs backwards. A domain needs its segment, a cache its tunnel. */
export const KIND_ORDER: readonly ObjectKind[] = ['volume', 'tunnel', 'segment', 'frontend', 'cache', 'domain']

/** One file-backed or LVM volume, exported by iSCSI with CHAP. */
export interface VolumeSpec {
  sizeMiB: number
  /** `iqn.2026-11.org.musubi:<cluster id>.<volume>` */
  iqn: string
  /** address that the portal listens on (the storage host's own underlay address) */
  portalAddress: string
  chap: { user: string, secret: string }
  /** initiator addresses that may log in: the compute hosts' underlay addresses */
  allow: string[]
}

/**
 * A gateway may have two WireGuard interfaces at once, one per key: while one key is exchanged for
 * another, traffic moves from track to track. Sessions are between equal tracks of two gateways.
 */
export type Track = 0 | 1

/** One track of a gateway as others see it. */
export interface TunnelTrack {
  track: Track
  publicKey: string
  /** `host:port`; an IPv6 address stands in brackets */
  endpoint: string
  /** true: its owner is about to give it up, traffic is to move to the other one */
  draining: boolean
}

export interface TunnelPeer {
  site: string
  /** as the cluster's document says: track 0, unless `tracks` are given */
  publicKey: string
  endpoint: string
  /** its address inside the tunnel */
  address: string
  /** as that gateway itself says now; this counts, not the document */
  tracks?: TunnelTrack[]
}

/** The host's one tunnel; peers are the union over all clusters of the host. */
export interface TunnelSpec {
  /** UDP port of track 0 */
  listenPort: number
  /** UDP port of track 1; by default the next one */
  secondPort?: number
  /** own address inside the tunnel, a /32 of the federation's tunnel range */
  address: string
  /** own keys that were made under a smaller number are exchanged for new ones; 0 by default */
  keyEpoch?: number
  peers: TunnelPeer[]
}

/** Ids of IEEE 802.1Q are twelve bits; 0 and 4095 are reserved. */
export const MAX_VLAN_ID = 4094

/** The flat layer-2 network of one cluster, as far as this host carries it. */
export interface SegmentSpec {
  cluster: string
  vni: number
  /** Between the hosts of this site, under an id chosen by this site: VXLAN, or on the NIC `trunk` the VLAN (802.1Q) of that id. */
  site: { segmentId: number, localAddress: string, remoteAddresses: string[], trunk?: string }
  /** true: a bridge in the host's own namespace takes the taps of virtual machines */
  compute: boolean
  /** only on the site's gateway: the cluster's namespace and the way to the other sites */
  gateway?: {
    /** own address on the segment, with prefix length, e.g. `10.42.255.2/16` */
    address: string
    bridgeMac: string
    tunnel: { localAddress: string, remoteAddresses: string[] } | null
  }
  /** Who is known; absent where nobody is: then broadcasts are all there is. */
  known?: SegmentKnown
}

export interface SegmentKnown {
  /** true: a node sends from its own MAC and IPv4 address only */
  antiSpoof: boolean
  members: SegmentMember[]
}

/** One station of a segment whose addresses are known, as one host sees it. */
export interface SegmentMember {
  role: 'node' | 'frontend' | 'gateway'
  mac: string
  /** IPv4 on the segment, without prefix length; null of nodes whose frontend hands out addresses by itself: its answers are learnt from */
  address: string | null
  /** `host`: on this host; `site`: on another host of the own site; `remote`: at another site */
  where: 'host' | 'site' | 'remote'
  /** underlay address of the next host on the way, or tunnel address of the far gateway; absent on this host */
  via?: string
  /** of a node on this host: its tap */
  tap?: string
}

/** The built-in frontend: DHCP, DNS, TFTP by dnsmasq and HTTP by nginx, in a namespace of its own. */
export interface FrontendSpec {
  cluster: string
  clusterId: string
  vni: number
  name: string
  /** own address with prefix length, e.g. `10.42.0.1/16` */
  address: string
  mac: string
  domain: string
  image: ImageRef
  /** `local`: the second card, on the segment of its site; `address` with prefix length */
  nodes: Array<{ name: string, mac: string, ip: string, site: string, local?: { mac: string, address: string } }>
  sshPublicKey: string
}

/** A node image in a host's image store, named by the digest of its manifest. */
export interface ImageRef {
  /** `sha256:<hex>` of the manifest file, which names kernel, initrd and root with their digests */
  digest: string
}

/** What the frontend's own software says about its paths; what it does not say is judged by names and headers. */
export interface CacheProfile {
  /** path prefixes whose objects never change under one name */
  immutable?: string[]
  /** path prefixes that are kept as long as the frontend confirms their validator */
  validated?: string[]
  /** path prefixes that are never kept, whatever their names */
  dynamic?: string[]
  /** indexes on the frontend that name objects with their SHA-256 */
  indexes?: Array<{ kind: 'debian' | 'rpm' | 'manifest', path: string }>
}

/** Transparent HTTP cache of one cluster at a site without the frontend. */
export interface CacheSpec {
  cluster: string
  /** tells objects of this cluster from those of another one with the same addresses; absent: `cluster` */
  clusterId?: string
  vni: number
  frontendAddress: string
  /** the gateway's own address on the segment, without prefix: upstream source of static fetches */
  ownAddress: string
  bridgeMac: string
  ports: number[]
  maxSizeMiB: number
  /** names under which nodes may know the frontend, besides its address */
  hosts?: string[]
  profile?: CacheProfile
  /** the way to the frontend, from which the size of parts follows; absent: the gateway measures the RTT when the cache is made */
  link?: { rttMs: number, rateMbitPerS: number }
  /** manifest on the frontend (a path) of what is to be fetched before nodes ask, and how fast */
  preheat?: { manifest: string, rateMbitPerS?: number }
  /** of all that is fetched before nodes ask: its rate, and the bytes over the WAN, those of nodes included, after which it waits */
  budget?: { rateMbitPerS?: number, totalBytes?: number }
  /** TFTP is served inside the site, and none leaves it; absent: it goes to the frontend as it is */
  tftp?: CacheTftp
  /** what is kept under verified digests outlives the cluster, for others of the same owner; absent: the store ends with it */
  retain?: CacheRetain
}

/** For whom a store outlives its cluster, and how long; the host's own limits go before it. */
export interface CacheRetain {
  /** the site of the cluster's master: a federation tells nobody smaller apart */
  owner: string
  ms: number
}

/** Where the files come from that a site serves by TFTP. */
export interface CacheTftp {
  /** the gateway's address on the segment at the site of an external frontend, without prefix: its relay is asked; absent: the built-in frontend, whose files each gateway has */
  relay?: string
}

/** One node: a persistent libvirt domain that boots from the network. */
export interface DomainSpec {
  cluster: string
  clusterId: string
  node: string
  uuid: string
  vcpus: number
  memoryMiB: number
  mac: string
  /** host bridge of the segment, see `hostBridgeName` */
  bridge: string
  /** name of the tap on this host, at most 15 characters, with our prefix */
  tap: string
  /** the second card, on the segment that does not leave the site */
  local?: { mac: string, bridge: string, tap: string }
  volumes: Array<{ name: string, iqn: string, portalAddress: string, portalPort: number, chap: { user: string, secret: string } }>
}

export interface SpecByKind {
  volume: VolumeSpec
  tunnel: TunnelSpec
  segment: SegmentSpec
  frontend: FrontendSpec
  cache: CacheSpec
  domain: DomainSpec
}

export interface DesiredObject<K extends ObjectKind = ObjectKind> {
  kind: K
  name: string
  spec: SpecByKind[K]
}

// --- names of ours on a host: one prefix, so that sweeps know what is ours ------------------
/** Prefix of every link, namespace and table that Musubi makes. */
export const PREFIX = 'mz'

const hex6 = (vni: number): string => vni.toString(16).padStart(6, '0')

/** Namespace of a cluster on a gateway: bridge `br0`, WAN port `wan0`/`wan0m`, site port, cache. */
export const clusterNamespace = (vni: number): string => `${PREFIX}-${hex6(vni)}`
/** Namespace of the built-in frontend on the master's gateway. */
export const frontendNamespace = (vni: number): string => `${PREFIX}f-${hex6(vni)}`
/** Bridge in the host's own namespace that takes the taps of nodes. */
export const hostBridgeName = (vni: number): string => `${PREFIX}b${hex6(vni)}`
/** Tap of the n-th node of a cluster. */
export const tapName = (vni: number, index: number): string => `${PREFIX}t${hex6(vni)}${index.toString(16).padStart(2, '0')}`
