/**
 * The messages of the lease protocol as plain data, field by field as in `protocol/wire/musubi.proto`
 * (camelCase as protobufjs writes it). The wire maps its generated types onto these by structure.
 */
import type { Resources } from './capacity.ts'

/**
 * What a lease is about. `segment` is the gateway's promise of one segment id of its slice, with
 * bandwidth: one of the cluster, and one more of the name `local` for what does not leave the site; `quota` takes from what the gateway may lend to the master's site, not from the host.
 */
export type LeaseKind = 'node' | 'volume' | 'frontend' | 'segment' | 'quota'

export interface WantedNode { name: string, vcpus: number, memoryMib: number }
/** `node` is the name of the node that uses the volume. */
export interface WantedVolume { name: string, sizeMib: number, node: string }

/** Master to gateway: hold all of this at your site, or nothing. Times are Unix milliseconds. */
export interface Request {
  key: string
  clusterId: string
  cluster: string
  vni: number
  masterSite: string
  startMs: number
  endMs: number
  nodes: WantedNode[]
  volumes: WantedVolume[]
  frontend: boolean
  /** 0: the default; a new cluster may be held for longer, until its user has decided */
  holdTtlMs: number
  /** of the site's WAN; 0: what is left over */
  bandwidthMbit: number
  /** of the master, from the anchor's ledger; a new cluster begins with 1 */
  epoch: number
  /** master's clock when it was sent */
  sentMs: number
  /** more for a cluster that has leases here already */
  grow: boolean
  /** with a second segment that does not leave the site */
  local?: boolean
  /** nodes evenly over hosts, rather than on as few as possible */
  spread?: boolean
  /** of the whole cluster on one host; 0 or absent: no limit */
  maxNodesPerHost?: number
}

/** Master to gateway: hold the leases of a cluster for longer; it is so once `offerId` is committed. */
export interface ExtendRequest { key: string, clusterId: string, offerId: string, endMs: number, ttlMs: number, epoch: number, sentMs: number }
export interface CommitRequest { clusterId: string, offerId: string, key: string, epoch: number }
/** `offerId`: only what that offer holds; `leaseIds`: only these; neither: everything of the cluster. */
export interface ReleaseRequest { clusterId: string, reason: string, offerId: string, leaseIds: string[], epoch: number }
export interface ActivateRequest { clusterId: string, document: ClusterDocument, receipts: Receipt[], secrets: Secret[], epoch: number }
/** A signed statement of the anchor host, opaque to the core; see `EpochGrant` for what it says. */
export interface Grant { envelope: Uint8Array, chain: Uint8Array[] }
export interface KeepAliveRequest { clusterId: string, epoch: number, sentMs: number, grant: Grant | null }

/** Who is master of a cluster from an epoch on, as the ledger of the anchor host decided. */
export interface EpochGrant { clusterId: string, epoch: number, holder: string, site: string, host: string, grantedMs: number }

export interface Held {
  leaseId: string
  kind: string
  name: string
  host: string
  peer: string
  underlayAddress: string
  resources: Resources
  token: number
}

export interface GatewayFacts {
  host: string
  peer: string
  underlayAddress: string
  tunnelPublicKey: string
  /** `address:port` on the underlay, an IPv6 address in brackets; two with a comma between them where it has both IP versions */
  tunnelEndpoint: string
  tunnelAddress: string
  /** its certificates, base64, the own first: hosts that never meet the gateway can check who it is */
  chain: string[]
}

export interface Offer {
  offerId: string
  site: string
  segmentId: number
  gateway: GatewayFacts
  held: Held[]
  ttlMs: number
  /** lender's clock */
  nowMs: number
  /** of the second segment, which does not leave the site; 0 or absent: none was asked for, or an earlier release answers */
  localSegmentId?: number
  /** per vCPU and hour, thousandths of the unit of the federation, for this master; 0 or absent: free, or an earlier release answers */
  priceMilli?: number
}

/** Proof that a host has held or committed a lease: its fencing token at that moment. */
export interface Receipt { leaseId: string, host: string, token: number }

/** CHAP credentials of one volume; travel beside the document, never inside it. */
export interface Secret { name: string, user: string, secret: string }

export interface HoldItem { leaseId: string, kind: string, name: string, resources: Resources, segmentId: number }

export interface HoldRequest {
  key: string
  clusterId: string
  cluster: string
  masterSite: string
  masterPeer: string
  startMs: number
  endMs: number
  ttlMs: number
  items: HoldItem[]
  offerId: string
  epoch: number
}

export interface MemberHost { host: string, peer: string, underlayAddress: string, gateway: boolean }

export interface MemberSite {
  site: string
  segmentId: number
  gateway: GatewayFacts
  /** every host that holds anything of the cluster, the gateway included */
  hosts: MemberHost[]
  /** the gateway's own address on the segment, without prefix length */
  gatewayAddress: string
  gatewayMac: string
  cache: boolean
  /** of the segment at this site */
  leaseId: string
  /** of the segment that does not leave this site; 0 and empty, or absent: there is none */
  localSegmentId?: number
  localLeaseId?: string
}

export interface ClusterNode {
  name: string
  site: string
  host: string
  mac: string
  /** without prefix length */
  ip: string
  uuid: string
  vcpus: number
  memoryMib: number
  leaseId: string
  /** the node's number in the spec, from 1; unique in the cluster */
  index: number
  /** on the segment that does not leave its site; empty or absent: there is none */
  localMac?: string
  /** without prefix length */
  localIp?: string
}

export interface ClusterVolume {
  name: string
  site: string
  host: string
  node: string
  sizeMib: number
  iqn: string
  portalAddress: string
  leaseId: string
}

export interface Frontend {
  name: string
  site: string
  host: string
  mac: string
  /** without prefix length */
  ip: string
  mode: string
  leaseId: string
}

export interface ClusterDocument {
  id: string
  name: string
  epoch: number
  vni: number
  cidr: string
  domain: string
  masterSite: string
  masterPeer: string
  createdMs: number
  endMs: number
  frontend: Frontend
  sites: MemberSite[]
  nodes: ClusterNode[]
  volumes: ClusterVolume[]
  imageDigest: string
  sshPublicKey: string
  /** grows with every change of a live cluster, from 1 */
  version: number
  startMs: number
  /** true: nodes may send with addresses that are none of theirs, but none of another member's; a document of an earlier release has none of this */
  antiSpoofOff?: boolean
  /** every site has a second segment with this network, which does not leave it; empty or absent: there is none */
  localCidr?: string
  /** what is asked of its caches, see `parseCacheTerms`; empty or absent: nothing */
  cacheTerms?: string
}
