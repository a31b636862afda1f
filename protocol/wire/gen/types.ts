// Generated from musubi.proto by `npm run codegen`. Do not edit.
// Plain data: every field is present; a nested message that is not set is null.

export interface Resources {
  vcpus: number
  memoryMib: number
  diskMib: number
}

export interface HostAd {
  site: string
  host: string
  roles: string[]
  addresses: string[]
  underlayAddress: string
  total: Resources | null
  free: Resources | null
  cordoned: boolean
  accelerator: string
  version: string
}

export interface SiteAd {
  site: string
  gateway: string
  addresses: string[]
  hosts: number
  total: Resources | null
  free: Resources | null
  freeByHost: Resources[]
  volumeFreeMib: number
  version: string
}

export interface Record {
  peer: string
  kind: string
  epoch: number
  seq: number
  ttlMs: number
  body: Uint8Array
  signature: Uint8Array
  ageMs: number
}

export interface RecordId {
  peer: string
  kind: string
  epoch: number
  seq: number
}

export interface SyncRequest {
  scope: string
  have: RecordId[]
  offer: Record[]
  bucket: number
  buckets: number
}

export interface SyncReply {
  records: Record[]
  want: RecordId[]
}

export interface WantedNode {
  name: string
  vcpus: number
  memoryMib: number
}

export interface WantedVolume {
  name: string
  sizeMib: number
  node: string
}

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
  resources: Resources | null
  token: number
}

export interface GatewayFacts {
  host: string
  peer: string
  underlayAddress: string
  tunnelPublicKey: string
  tunnelEndpoint: string
  tunnelAddress: string
}

export interface Offer {
  offerId: string
  site: string
  segmentId: number
  gateway: GatewayFacts | null
  held: Held[]
  ttlMs: number
}

export interface CommitRequest {
  clusterId: string
  offerId: string
  key: string
}

export interface Receipt {
  leaseId: string
  host: string
  token: number
}

export interface CommitReply {
  site: string
  receipts: Receipt[]
}

export interface Secret {
  name: string
  user: string
  secret: string
}

export interface ActivateRequest {
  clusterId: string
  document: ClusterDocument | null
  receipts: Receipt[]
  secrets: Secret[]
}

export interface ActivateReply {
  site: string
}

export interface ReleaseRequest {
  clusterId: string
  reason: string
}

export interface ReleaseReply {
  site: string
  ended: number
}

export interface StatusRequest {
  clusterId: string
}

export interface ObjectStatus {
  kind: string
  name: string
  state: string
  detail: string
  error: string
}

export interface HostStatus {
  site: string
  host: string
  leaseState: string
  objects: ObjectStatus[]
  reachable: boolean
  nowMs: number
}

export interface StatusReply {
  hosts: HostStatus[]
}

export interface HoldItem {
  leaseId: string
  kind: string
  name: string
  resources: Resources | null
  segmentId: number
}

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

export interface HoldReply {
  receipts: Receipt[]
}

export interface HostCommitRequest {
  clusterId: string
  offerId: string
}

export interface HostCommitReply {
  receipts: Receipt[]
}

export interface MemberHost {
  host: string
  peer: string
  underlayAddress: string
  gateway: boolean
}

export interface MemberSite {
  site: string
  segmentId: number
  gateway: GatewayFacts | null
  hosts: MemberHost[]
  gatewayAddress: string
  gatewayMac: string
  cache: boolean
}

export interface ClusterNode {
  name: string
  site: string
  host: string
  mac: string
  ip: string
  uuid: string
  vcpus: number
  memoryMib: number
  leaseId: string
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
  frontend: Frontend | null
  sites: MemberSite[]
  nodes: ClusterNode[]
  volumes: ClusterVolume[]
  imageDigest: string
  sshPublicKey: string
}

export interface SearchRequest {
  nodes: WantedNode[]
  volumeMib: number
}

export interface SearchReply {
  sites: SiteAd[]
}

export interface Failure {
  code: string
  message: string
  retryable: boolean
  hint: string
  site: string
  host: string
}

export interface Call {
  id: number
  deadlineMs: number
  sync: SyncRequest | null
  request: Request | null
  commit: CommitRequest | null
  activate: ActivateRequest | null
  release: ReleaseRequest | null
  status: StatusRequest | null
  search: SearchRequest | null
  hold: HoldRequest | null
  hostCommit: HostCommitRequest | null
  hostActivate: ActivateRequest | null
  hostRelease: ReleaseRequest | null
  hostStatus: StatusRequest | null
}

export interface Reply {
  id: number
  failure: Failure | null
  sync: SyncReply | null
  request: Offer | null
  commit: CommitReply | null
  activate: ActivateReply | null
  release: ReleaseReply | null
  status: StatusReply | null
  search: SearchReply | null
  hold: HoldReply | null
  hostCommit: HostCommitReply | null
  hostActivate: ActivateReply | null
  hostRelease: ReleaseReply | null
  hostStatus: HostStatus | null
}

export interface Frame {
  call: Call | null
  reply: Reply | null
}

export interface Messages {
  Resources: Resources
  HostAd: HostAd
  SiteAd: SiteAd
  Record: Record
  RecordId: RecordId
  SyncRequest: SyncRequest
  SyncReply: SyncReply
  WantedNode: WantedNode
  WantedVolume: WantedVolume
  Request: Request
  Held: Held
  GatewayFacts: GatewayFacts
  Offer: Offer
  CommitRequest: CommitRequest
  Receipt: Receipt
  CommitReply: CommitReply
  Secret: Secret
  ActivateRequest: ActivateRequest
  ActivateReply: ActivateReply
  ReleaseRequest: ReleaseRequest
  ReleaseReply: ReleaseReply
  StatusRequest: StatusRequest
  ObjectStatus: ObjectStatus
  HostStatus: HostStatus
  StatusReply: StatusReply
  HoldItem: HoldItem
  HoldRequest: HoldRequest
  HoldReply: HoldReply
  HostCommitRequest: HostCommitRequest
  HostCommitReply: HostCommitReply
  MemberHost: MemberHost
  MemberSite: MemberSite
  ClusterNode: ClusterNode
  ClusterVolume: ClusterVolume
  Frontend: Frontend
  ClusterDocument: ClusterDocument
  SearchRequest: SearchRequest
  SearchReply: SearchReply
  Failure: Failure
  Call: Call
  Reply: Reply
  Frame: Frame
}

export interface Methods {
  sync: { request: SyncRequest, reply: SyncReply }
  request: { request: Request, reply: Offer }
  commit: { request: CommitRequest, reply: CommitReply }
  activate: { request: ActivateRequest, reply: ActivateReply }
  release: { request: ReleaseRequest, reply: ReleaseReply }
  status: { request: StatusRequest, reply: StatusReply }
  search: { request: SearchRequest, reply: SearchReply }
  hold: { request: HoldRequest, reply: HoldReply }
  hostCommit: { request: HostCommitRequest, reply: HostCommitReply }
  hostActivate: { request: ActivateRequest, reply: ActivateReply }
  hostRelease: { request: ReleaseRequest, reply: ReleaseReply }
  hostStatus: { request: StatusRequest, reply: HostStatus }
}

export interface Field { readonly name: string, readonly type: string, readonly repeated: boolean, readonly oneof?: string }

export const METHODS: readonly (keyof Methods)[] = ['sync', 'request', 'commit', 'activate', 'release', 'status', 'search', 'hold', 'hostCommit', 'hostActivate', 'hostRelease', 'hostStatus']

export const SCHEMA: { readonly [name in keyof Messages]: readonly Field[] } = {
  Resources: [
    { name: 'vcpus', type: 'uint32', repeated: false },
    { name: 'memoryMib', type: 'uint32', repeated: false },
    { name: 'diskMib', type: 'uint32', repeated: false }
  ],
  HostAd: [
    { name: 'site', type: 'string', repeated: false },
    { name: 'host', type: 'string', repeated: false },
    { name: 'roles', type: 'string', repeated: true },
    { name: 'addresses', type: 'string', repeated: true },
    { name: 'underlayAddress', type: 'string', repeated: false },
    { name: 'total', type: 'Resources', repeated: false },
    { name: 'free', type: 'Resources', repeated: false },
    { name: 'cordoned', type: 'bool', repeated: false },
    { name: 'accelerator', type: 'string', repeated: false },
    { name: 'version', type: 'string', repeated: false }
  ],
  SiteAd: [
    { name: 'site', type: 'string', repeated: false },
    { name: 'gateway', type: 'string', repeated: false },
    { name: 'addresses', type: 'string', repeated: true },
    { name: 'hosts', type: 'uint32', repeated: false },
    { name: 'total', type: 'Resources', repeated: false },
    { name: 'free', type: 'Resources', repeated: false },
    { name: 'freeByHost', type: 'Resources', repeated: true },
    { name: 'volumeFreeMib', type: 'uint32', repeated: false },
    { name: 'version', type: 'string', repeated: false }
  ],
  Record: [
    { name: 'peer', type: 'string', repeated: false },
    { name: 'kind', type: 'string', repeated: false },
    { name: 'epoch', type: 'uint64', repeated: false },
    { name: 'seq', type: 'uint64', repeated: false },
    { name: 'ttlMs', type: 'uint32', repeated: false },
    { name: 'body', type: 'bytes', repeated: false },
    { name: 'signature', type: 'bytes', repeated: false },
    { name: 'ageMs', type: 'uint32', repeated: false }
  ],
  RecordId: [
    { name: 'peer', type: 'string', repeated: false },
    { name: 'kind', type: 'string', repeated: false },
    { name: 'epoch', type: 'uint64', repeated: false },
    { name: 'seq', type: 'uint64', repeated: false }
  ],
  SyncRequest: [
    { name: 'scope', type: 'string', repeated: false },
    { name: 'have', type: 'RecordId', repeated: true },
    { name: 'offer', type: 'Record', repeated: true },
    { name: 'bucket', type: 'uint32', repeated: false },
    { name: 'buckets', type: 'uint32', repeated: false }
  ],
  SyncReply: [
    { name: 'records', type: 'Record', repeated: true },
    { name: 'want', type: 'RecordId', repeated: true }
  ],
  WantedNode: [
    { name: 'name', type: 'string', repeated: false },
    { name: 'vcpus', type: 'uint32', repeated: false },
    { name: 'memoryMib', type: 'uint32', repeated: false }
  ],
  WantedVolume: [
    { name: 'name', type: 'string', repeated: false },
    { name: 'sizeMib', type: 'uint32', repeated: false },
    { name: 'node', type: 'string', repeated: false }
  ],
  Request: [
    { name: 'key', type: 'string', repeated: false },
    { name: 'clusterId', type: 'string', repeated: false },
    { name: 'cluster', type: 'string', repeated: false },
    { name: 'vni', type: 'uint32', repeated: false },
    { name: 'masterSite', type: 'string', repeated: false },
    { name: 'startMs', type: 'uint64', repeated: false },
    { name: 'endMs', type: 'uint64', repeated: false },
    { name: 'nodes', type: 'WantedNode', repeated: true },
    { name: 'volumes', type: 'WantedVolume', repeated: true },
    { name: 'frontend', type: 'bool', repeated: false },
    { name: 'holdTtlMs', type: 'uint32', repeated: false }
  ],
  Held: [
    { name: 'leaseId', type: 'string', repeated: false },
    { name: 'kind', type: 'string', repeated: false },
    { name: 'name', type: 'string', repeated: false },
    { name: 'host', type: 'string', repeated: false },
    { name: 'peer', type: 'string', repeated: false },
    { name: 'underlayAddress', type: 'string', repeated: false },
    { name: 'resources', type: 'Resources', repeated: false },
    { name: 'token', type: 'uint64', repeated: false }
  ],
  GatewayFacts: [
    { name: 'host', type: 'string', repeated: false },
    { name: 'peer', type: 'string', repeated: false },
    { name: 'underlayAddress', type: 'string', repeated: false },
    { name: 'tunnelPublicKey', type: 'string', repeated: false },
    { name: 'tunnelEndpoint', type: 'string', repeated: false },
    { name: 'tunnelAddress', type: 'string', repeated: false }
  ],
  Offer: [
    { name: 'offerId', type: 'string', repeated: false },
    { name: 'site', type: 'string', repeated: false },
    { name: 'segmentId', type: 'uint32', repeated: false },
    { name: 'gateway', type: 'GatewayFacts', repeated: false },
    { name: 'held', type: 'Held', repeated: true },
    { name: 'ttlMs', type: 'uint32', repeated: false }
  ],
  CommitRequest: [
    { name: 'clusterId', type: 'string', repeated: false },
    { name: 'offerId', type: 'string', repeated: false },
    { name: 'key', type: 'string', repeated: false }
  ],
  Receipt: [
    { name: 'leaseId', type: 'string', repeated: false },
    { name: 'host', type: 'string', repeated: false },
    { name: 'token', type: 'uint64', repeated: false }
  ],
  CommitReply: [
    { name: 'site', type: 'string', repeated: false },
    { name: 'receipts', type: 'Receipt', repeated: true }
  ],
  Secret: [
    { name: 'name', type: 'string', repeated: false },
    { name: 'user', type: 'string', repeated: false },
    { name: 'secret', type: 'string', repeated: false }
  ],
  ActivateRequest: [
    { name: 'clusterId', type: 'string', repeated: false },
    { name: 'document', type: 'ClusterDocument', repeated: false },
    { name: 'receipts', type: 'Receipt', repeated: true },
    { name: 'secrets', type: 'Secret', repeated: true }
  ],
  ActivateReply: [
    { name: 'site', type: 'string', repeated: false }
  ],
  ReleaseRequest: [
    { name: 'clusterId', type: 'string', repeated: false },
    { name: 'reason', type: 'string', repeated: false }
  ],
  ReleaseReply: [
    { name: 'site', type: 'string', repeated: false },
    { name: 'ended', type: 'uint32', repeated: false }
  ],
  StatusRequest: [
    { name: 'clusterId', type: 'string', repeated: false }
  ],
  ObjectStatus: [
    { name: 'kind', type: 'string', repeated: false },
    { name: 'name', type: 'string', repeated: false },
    { name: 'state', type: 'string', repeated: false },
    { name: 'detail', type: 'string', repeated: false },
    { name: 'error', type: 'string', repeated: false }
  ],
  HostStatus: [
    { name: 'site', type: 'string', repeated: false },
    { name: 'host', type: 'string', repeated: false },
    { name: 'leaseState', type: 'string', repeated: false },
    { name: 'objects', type: 'ObjectStatus', repeated: true },
    { name: 'reachable', type: 'bool', repeated: false },
    { name: 'nowMs', type: 'uint64', repeated: false }
  ],
  StatusReply: [
    { name: 'hosts', type: 'HostStatus', repeated: true }
  ],
  HoldItem: [
    { name: 'leaseId', type: 'string', repeated: false },
    { name: 'kind', type: 'string', repeated: false },
    { name: 'name', type: 'string', repeated: false },
    { name: 'resources', type: 'Resources', repeated: false },
    { name: 'segmentId', type: 'uint32', repeated: false }
  ],
  HoldRequest: [
    { name: 'key', type: 'string', repeated: false },
    { name: 'clusterId', type: 'string', repeated: false },
    { name: 'cluster', type: 'string', repeated: false },
    { name: 'masterSite', type: 'string', repeated: false },
    { name: 'masterPeer', type: 'string', repeated: false },
    { name: 'startMs', type: 'uint64', repeated: false },
    { name: 'endMs', type: 'uint64', repeated: false },
    { name: 'ttlMs', type: 'uint32', repeated: false },
    { name: 'items', type: 'HoldItem', repeated: true },
    { name: 'offerId', type: 'string', repeated: false }
  ],
  HoldReply: [
    { name: 'receipts', type: 'Receipt', repeated: true }
  ],
  HostCommitRequest: [
    { name: 'clusterId', type: 'string', repeated: false },
    { name: 'offerId', type: 'string', repeated: false }
  ],
  HostCommitReply: [
    { name: 'receipts', type: 'Receipt', repeated: true }
  ],
  MemberHost: [
    { name: 'host', type: 'string', repeated: false },
    { name: 'peer', type: 'string', repeated: false },
    { name: 'underlayAddress', type: 'string', repeated: false },
    { name: 'gateway', type: 'bool', repeated: false }
  ],
  MemberSite: [
    { name: 'site', type: 'string', repeated: false },
    { name: 'segmentId', type: 'uint32', repeated: false },
    { name: 'gateway', type: 'GatewayFacts', repeated: false },
    { name: 'hosts', type: 'MemberHost', repeated: true },
    { name: 'gatewayAddress', type: 'string', repeated: false },
    { name: 'gatewayMac', type: 'string', repeated: false },
    { name: 'cache', type: 'bool', repeated: false }
  ],
  ClusterNode: [
    { name: 'name', type: 'string', repeated: false },
    { name: 'site', type: 'string', repeated: false },
    { name: 'host', type: 'string', repeated: false },
    { name: 'mac', type: 'string', repeated: false },
    { name: 'ip', type: 'string', repeated: false },
    { name: 'uuid', type: 'string', repeated: false },
    { name: 'vcpus', type: 'uint32', repeated: false },
    { name: 'memoryMib', type: 'uint32', repeated: false },
    { name: 'leaseId', type: 'string', repeated: false },
    { name: 'index', type: 'uint32', repeated: false }
  ],
  ClusterVolume: [
    { name: 'name', type: 'string', repeated: false },
    { name: 'site', type: 'string', repeated: false },
    { name: 'host', type: 'string', repeated: false },
    { name: 'node', type: 'string', repeated: false },
    { name: 'sizeMib', type: 'uint32', repeated: false },
    { name: 'iqn', type: 'string', repeated: false },
    { name: 'portalAddress', type: 'string', repeated: false },
    { name: 'leaseId', type: 'string', repeated: false }
  ],
  Frontend: [
    { name: 'name', type: 'string', repeated: false },
    { name: 'site', type: 'string', repeated: false },
    { name: 'host', type: 'string', repeated: false },
    { name: 'mac', type: 'string', repeated: false },
    { name: 'ip', type: 'string', repeated: false },
    { name: 'mode', type: 'string', repeated: false },
    { name: 'leaseId', type: 'string', repeated: false }
  ],
  ClusterDocument: [
    { name: 'id', type: 'string', repeated: false },
    { name: 'name', type: 'string', repeated: false },
    { name: 'epoch', type: 'uint32', repeated: false },
    { name: 'vni', type: 'uint32', repeated: false },
    { name: 'cidr', type: 'string', repeated: false },
    { name: 'domain', type: 'string', repeated: false },
    { name: 'masterSite', type: 'string', repeated: false },
    { name: 'masterPeer', type: 'string', repeated: false },
    { name: 'createdMs', type: 'uint64', repeated: false },
    { name: 'endMs', type: 'uint64', repeated: false },
    { name: 'frontend', type: 'Frontend', repeated: false },
    { name: 'sites', type: 'MemberSite', repeated: true },
    { name: 'nodes', type: 'ClusterNode', repeated: true },
    { name: 'volumes', type: 'ClusterVolume', repeated: true },
    { name: 'imageDigest', type: 'string', repeated: false },
    { name: 'sshPublicKey', type: 'string', repeated: false }
  ],
  SearchRequest: [
    { name: 'nodes', type: 'WantedNode', repeated: true },
    { name: 'volumeMib', type: 'uint32', repeated: false }
  ],
  SearchReply: [
    { name: 'sites', type: 'SiteAd', repeated: true }
  ],
  Failure: [
    { name: 'code', type: 'string', repeated: false },
    { name: 'message', type: 'string', repeated: false },
    { name: 'retryable', type: 'bool', repeated: false },
    { name: 'hint', type: 'string', repeated: false },
    { name: 'site', type: 'string', repeated: false },
    { name: 'host', type: 'string', repeated: false }
  ],
  Call: [
    { name: 'id', type: 'uint32', repeated: false },
    { name: 'deadlineMs', type: 'uint32', repeated: false },
    { name: 'sync', type: 'SyncRequest', repeated: false, oneof: 'method' },
    { name: 'request', type: 'Request', repeated: false, oneof: 'method' },
    { name: 'commit', type: 'CommitRequest', repeated: false, oneof: 'method' },
    { name: 'activate', type: 'ActivateRequest', repeated: false, oneof: 'method' },
    { name: 'release', type: 'ReleaseRequest', repeated: false, oneof: 'method' },
    { name: 'status', type: 'StatusRequest', repeated: false, oneof: 'method' },
    { name: 'search', type: 'SearchRequest', repeated: false, oneof: 'method' },
    { name: 'hold', type: 'HoldRequest', repeated: false, oneof: 'method' },
    { name: 'hostCommit', type: 'HostCommitRequest', repeated: false, oneof: 'method' },
    { name: 'hostActivate', type: 'ActivateRequest', repeated: false, oneof: 'method' },
    { name: 'hostRelease', type: 'ReleaseRequest', repeated: false, oneof: 'method' },
    { name: 'hostStatus', type: 'StatusRequest', repeated: false, oneof: 'method' }
  ],
  Reply: [
    { name: 'id', type: 'uint32', repeated: false },
    { name: 'failure', type: 'Failure', repeated: false, oneof: 'result' },
    { name: 'sync', type: 'SyncReply', repeated: false, oneof: 'result' },
    { name: 'request', type: 'Offer', repeated: false, oneof: 'result' },
    { name: 'commit', type: 'CommitReply', repeated: false, oneof: 'result' },
    { name: 'activate', type: 'ActivateReply', repeated: false, oneof: 'result' },
    { name: 'release', type: 'ReleaseReply', repeated: false, oneof: 'result' },
    { name: 'status', type: 'StatusReply', repeated: false, oneof: 'result' },
    { name: 'search', type: 'SearchReply', repeated: false, oneof: 'result' },
    { name: 'hold', type: 'HoldReply', repeated: false, oneof: 'result' },
    { name: 'hostCommit', type: 'HostCommitReply', repeated: false, oneof: 'result' },
    { name: 'hostActivate', type: 'ActivateReply', repeated: false, oneof: 'result' },
    { name: 'hostRelease', type: 'ReleaseReply', repeated: false, oneof: 'result' },
    { name: 'hostStatus', type: 'HostStatus', repeated: false, oneof: 'result' }
  ],
  Frame: [
    { name: 'call', type: 'Call', repeated: false, oneof: 'body' },
    { name: 'reply', type: 'Reply', repeated: false, oneof: 'body' }
  ]
}
