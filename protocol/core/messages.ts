/**
 * The messages of the lease protocol as plain data, field by field as in `protocol/wire/musubi.proto`
 * (camelCase as protobufjs writes it). The wire maps its generated types onto these by structure.
 */
import type { Resources } from './capacity.ts'

/** What a lease is about. `segment` is the gateway's promise of one segment id of its slice. */
export type LeaseKind = 'node' | 'volume' | 'frontend' | 'segment'

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
  holdTtlMs: number
}

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
  /** `address:port` on the underlay */
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
}
