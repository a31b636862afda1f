// Generated from musubi.proto by `npm run codegen`. Do not edit.
// Plain data: every field is present, an optional one where it was read; a nested message that is not set is null.

export interface Resources {
  vcpus: number
  memoryMib: number
  diskMib: number
  volumes: number
  bandwidthMbit: number
  nodes?: number
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
  inventory: Inventory | null
  features: string[]
  nextStartMs?: number
}

export interface Disk {
  name: string
  sizeBytes: number
  model: string
  rotational: boolean
  transport: string
}

export interface VolumeGroup {
  name: string
  sizeBytes: number
  freeBytes: number
}

export interface Nic {
  name: string
  mac: string
  mtu: number
  speedMbit: number
  up: boolean
  trunk: boolean
  driver: string
  addresses: string[]
}

export interface NumaNode {
  node: number
  cpus: number
  memoryMib: number
}

export interface Inventory {
  cpuModel: string
  sockets: number
  cores: number
  threads: number
  architecture: string
  memoryMib: number
  numa: NumaNode[]
  disks: Disk[]
  volumeGroups: VolumeGroup[]
  nics: Nic[]
  virtualization: string
  kernel: string
  libvirtVersion: string
  qemuVersion: string
  os: string
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
  features: string[]
  roles: string[]
  priceMilli: number
  maxTermMs: number
  relay: boolean
  tunnel: TunnelTrackAd[]
}

export interface TunnelTrackAd {
  track: number
  publicKey: string
  endpoint: string
  draining: boolean
}

export interface CoordinatorAd {
  name: string
  addresses: string[]
  version: string
}

export interface PolicyAd {
  site: string
  host: string
  version: number
  document: Uint8Array
  setBy: string
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
  madeMs: number
  leaving: boolean
  chain: Uint8Array[]
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
  revocations: Uint8Array
  suspicions: Suspicion[]
  ping: boolean
}

export interface SyncReply {
  records: Record[]
  want: RecordId[]
  revocations: Uint8Array
  suspicions: Suspicion[]
}

export interface Suspicion {
  peer: string
  kind: string
  epoch: number
  seq: number
  by: string
  signature: Uint8Array
}

export interface Gossip {
  record: Record | null
  suspicion: Suspicion | null
  revocation: SignedRevocation | null
}

export interface Envelope {
  publicKey: Uint8Array
  payloadType: Uint8Array
  payload: Uint8Array
  signature: Uint8Array
}

export interface IdSlice {
  from: number
  to: number
}

export interface Certificate {
  federation: string
  kind: string
  subject: string
  site: string
  name: string
  roles: string[]
  joinedMs: number
  notBeforeMs: number
  notAfterMs: number
  segmentIds: IdSlice | null
  quotaPercent: number
  via: string
}

export interface Revocation {
  federation: string
  kind: string
  subject: string
  site: string
  name: string
  revokedMs: number
  reason: string
}

export interface SignedRevocation {
  envelope: Uint8Array
  chain: Uint8Array[]
}

export interface KnownPeer {
  peer: string
  addresses: string[]
  chain: Uint8Array[]
}

export interface Hello {
  chain: Uint8Array[]
  refusal: Failure | null
}

export interface RevocationsRequest {
  ids: Uint8Array[]
  offer: SignedRevocation[]
}

export interface RevocationsReply {
  revocations: SignedRevocation[]
  want: Uint8Array[]
}

export interface RenewRequest {
  chain: Uint8Array[]
  issuer: boolean
}

export interface RenewReply {
  chain: Uint8Array[]
}

export interface JoinRequest {
  tokenId: string
  kind: string
  subject: string
  name: string
  roles: string[]
  segmentIds: IdSlice | null
  addresses: string[]
  proof: Uint8Array
  subjectSignature: Uint8Array
}

export interface JoinReply {
  failure: Failure | null
  chain: Uint8Array[]
  peers: KnownPeer[]
  proof: Uint8Array
}

export interface Token {
  id: string
  kind: string
  issuer: string
  addresses: string[]
  secret: Uint8Array
  federation: string
  expiresMs: number
  site: string
}

export interface CordonRequest {
  cordoned: boolean
  reason: string
}

export interface CordonReply {
  cordoned: boolean
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
  bandwidthMbit: number
  epoch: number
  sentMs: number
  grow: boolean
  local?: boolean
  spread?: boolean
  maxNodesPerHost?: number
}

export interface ExtendRequest {
  key: string
  clusterId: string
  offerId: string
  endMs: number
  ttlMs: number
  epoch: number
  sentMs: number
}

export interface ExtendReply {
  site: string
  ttlMs: number
  nowMs: number
}

export interface KeepAliveRequest {
  clusterId: string
  epoch: number
  sentMs: number
  grant: Grant | null
}

export interface KeepAliveReply {
  site: string
  state: string
  endMs: number
  epoch: number
  nowMs: number
  notice?: string
}

export interface EpochGrant {
  clusterId: string
  epoch: number
  holder: string
  site: string
  host: string
  grantedMs: number
}

export interface Grant {
  envelope: Uint8Array
  chain: Uint8Array[]
}

export interface ClaimRequest {
  clusterId: string
  epoch: number
  force: boolean
}

export interface ClaimReply {
  epoch: number
  grant: Grant | null
}

export interface CopyRequest {
  clusterId: string
  epoch: number
  record: Uint8Array
}

export interface CopyReply {
  epoch: number
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
  tunnelAddress: string
  tunnelEndpoint: string
  chain: string[]
}

export interface Offer {
  offerId: string
  site: string
  segmentId: number
  gateway: GatewayFacts | null
  held: Held[]
  ttlMs: number
  nowMs: number
  localSegmentId?: number
  priceMilli?: number
}

export interface CommitRequest {
  clusterId: string
  offerId: string
  key: string
  epoch: number
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
  epoch: number
}

export interface ActivateReply {
  site: string
}

export interface ReleaseRequest {
  clusterId: string
  reason: string
  offerId: string
  leaseIds: string[]
  epoch: number
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
  epoch: number
}

export interface HoldReply {
  receipts: Receipt[]
  segmentId: number
  localSegmentId?: number
}

export interface HostExtendRequest {
  key: string
  clusterId: string
  offerId: string
  endMs: number
  ttlMs: number
  epoch: number
  leaseIds: string[]
}

export interface HostExtendReply {
  receipts: Receipt[]
}

export interface HostKeepAliveRequest {
  clusterId: string
  epoch: number
  holder: string
}

export interface HostKeepAliveReply {
  state: string
  endMs: number
  epoch: number
  nowMs: number
}

export interface HostCurtailRequest {
  clusterId: string
  seq: number
  endMs: number
  reason: string
}

export interface HostCurtailReply {
  endMs: number
  nowMs: number
}

export interface HostRestoreRequest {
  clusterId: string
  seq: number
  endMs?: number
}

export interface HostRestoreReply {
  endMs: number
  nowMs: number
}

export interface HostCommitRequest {
  clusterId: string
  offerId: string
  epoch: number
}

export interface HostCommitReply {
  receipts: Receipt[]
}

export interface CalendarStep {
  atMs: number
  free: Resources | null
}

export interface HostCalendarRequest {
  leases: boolean
  quotaOf: string
}

export interface CalendarLease {
  clusterId: string
  cluster: string
  masterSite: string
  kind: string
  name: string
  state: string
  startMs: number
  endMs: number
  masterless: boolean
  formerEndMs?: number
}

export interface HostCalendarReply {
  nowMs: number
  takesLeases: boolean
  why: string
  steps: CalendarStep[]
  leases: CalendarLease[]
  leftOut: number
  quota: CalendarStep[]
}

export interface CalendarRequest {
  sentMs: number
  objects: string[]
  onlyObjects?: boolean
}

export interface CalendarHost {
  roles: string[]
  steps: CalendarStep[]
}

export interface Stretch {
  fromMs: number
  untilMs: number
}

export interface Lending {
  windows: boolean
  open: Stretch[]
  knownUntilMs: number
  longestMs: number
  latestStartMs: number
}

export interface CalendarReply {
  site: string
  nowMs: number
  hosts: CalendarHost[]
  held: string[]
  lending: Lending | null
}

export interface QuoteRequest {
  request: Request | null
}

export interface QuoteReason {
  code: string
  message: string
}

export interface QuoteReply {
  site: string
  nowMs: number
  taken: boolean
  reasons: QuoteReason[]
  priceMilli: number
  totalMilli: number
  nodes: number
  earliestMs: number
  vcpus: number
  memoryMib: number
  wanMbit: number
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
  leaseId: string
  localSegmentId?: number
  localLeaseId?: string
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
  localMac?: string
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
  version: number
  startMs: number
  antiSpoofOff?: boolean
  localCidr?: string
  cacheTerms?: string
}

export interface CacheRequest {
  clusterId: string
  ask: string
  params: string
}

export interface CacheReply {
  result: string
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
  revocations: RevocationsRequest | null
  renew: RenewRequest | null
  hostCordon: CordonRequest | null
  extend: ExtendRequest | null
  keepAlive: KeepAliveRequest | null
  claim: ClaimRequest | null
  copy: CopyRequest | null
  hostExtend: HostExtendRequest | null
  hostKeepAlive: HostKeepAliveRequest | null
  cache: CacheRequest | null
  calendar: CalendarRequest | null
  hostCalendar: HostCalendarRequest | null
  quote: QuoteRequest | null
  hostCurtail: HostCurtailRequest | null
  hostRestore: HostRestoreRequest | null
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
  revocations: RevocationsReply | null
  renew: RenewReply | null
  hostCordon: CordonReply | null
  extend: ExtendReply | null
  keepAlive: KeepAliveReply | null
  claim: ClaimReply | null
  copy: CopyReply | null
  hostExtend: HostExtendReply | null
  hostKeepAlive: HostKeepAliveReply | null
  cache: CacheReply | null
  calendar: CalendarReply | null
  hostCalendar: HostCalendarReply | null
  quote: QuoteReply | null
  hostCurtail: HostCurtailReply | null
  hostRestore: HostRestoreReply | null
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
  Disk: Disk
  VolumeGroup: VolumeGroup
  Nic: Nic
  NumaNode: NumaNode
  Inventory: Inventory
  SiteAd: SiteAd
  TunnelTrackAd: TunnelTrackAd
  CoordinatorAd: CoordinatorAd
  PolicyAd: PolicyAd
  Record: Record
  RecordId: RecordId
  SyncRequest: SyncRequest
  SyncReply: SyncReply
  Suspicion: Suspicion
  Gossip: Gossip
  Envelope: Envelope
  IdSlice: IdSlice
  Certificate: Certificate
  Revocation: Revocation
  SignedRevocation: SignedRevocation
  KnownPeer: KnownPeer
  Hello: Hello
  RevocationsRequest: RevocationsRequest
  RevocationsReply: RevocationsReply
  RenewRequest: RenewRequest
  RenewReply: RenewReply
  JoinRequest: JoinRequest
  JoinReply: JoinReply
  Token: Token
  CordonRequest: CordonRequest
  CordonReply: CordonReply
  WantedNode: WantedNode
  WantedVolume: WantedVolume
  Request: Request
  ExtendRequest: ExtendRequest
  ExtendReply: ExtendReply
  KeepAliveRequest: KeepAliveRequest
  KeepAliveReply: KeepAliveReply
  EpochGrant: EpochGrant
  Grant: Grant
  ClaimRequest: ClaimRequest
  ClaimReply: ClaimReply
  CopyRequest: CopyRequest
  CopyReply: CopyReply
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
  HostExtendRequest: HostExtendRequest
  HostExtendReply: HostExtendReply
  HostKeepAliveRequest: HostKeepAliveRequest
  HostKeepAliveReply: HostKeepAliveReply
  HostCurtailRequest: HostCurtailRequest
  HostCurtailReply: HostCurtailReply
  HostRestoreRequest: HostRestoreRequest
  HostRestoreReply: HostRestoreReply
  HostCommitRequest: HostCommitRequest
  HostCommitReply: HostCommitReply
  CalendarStep: CalendarStep
  HostCalendarRequest: HostCalendarRequest
  CalendarLease: CalendarLease
  HostCalendarReply: HostCalendarReply
  CalendarRequest: CalendarRequest
  CalendarHost: CalendarHost
  Stretch: Stretch
  Lending: Lending
  CalendarReply: CalendarReply
  QuoteRequest: QuoteRequest
  QuoteReason: QuoteReason
  QuoteReply: QuoteReply
  MemberHost: MemberHost
  MemberSite: MemberSite
  ClusterNode: ClusterNode
  ClusterVolume: ClusterVolume
  Frontend: Frontend
  ClusterDocument: ClusterDocument
  CacheRequest: CacheRequest
  CacheReply: CacheReply
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
  revocations: { request: RevocationsRequest, reply: RevocationsReply }
  renew: { request: RenewRequest, reply: RenewReply }
  hostCordon: { request: CordonRequest, reply: CordonReply }
  extend: { request: ExtendRequest, reply: ExtendReply }
  keepAlive: { request: KeepAliveRequest, reply: KeepAliveReply }
  claim: { request: ClaimRequest, reply: ClaimReply }
  copy: { request: CopyRequest, reply: CopyReply }
  hostExtend: { request: HostExtendRequest, reply: HostExtendReply }
  hostKeepAlive: { request: HostKeepAliveRequest, reply: HostKeepAliveReply }
  cache: { request: CacheRequest, reply: CacheReply }
  calendar: { request: CalendarRequest, reply: CalendarReply }
  hostCalendar: { request: HostCalendarRequest, reply: HostCalendarReply }
  quote: { request: QuoteRequest, reply: QuoteReply }
  hostCurtail: { request: HostCurtailRequest, reply: HostCurtailReply }
  hostRestore: { request: HostRestoreRequest, reply: HostRestoreReply }
  hold: { request: HoldRequest, reply: HoldReply }
  hostCommit: { request: HostCommitRequest, reply: HostCommitReply }
  hostActivate: { request: ActivateRequest, reply: ActivateReply }
  hostRelease: { request: ReleaseRequest, reply: ReleaseReply }
  hostStatus: { request: StatusRequest, reply: HostStatus }
}

export interface Field { readonly name: string, readonly id: number, readonly type: string, readonly repeated: boolean, readonly oneof?: string, readonly optional?: true }

export const METHODS: readonly (keyof Methods)[] = ['sync', 'request', 'commit', 'activate', 'release', 'status', 'search', 'revocations', 'renew', 'hostCordon', 'extend', 'keepAlive', 'claim', 'copy', 'hostExtend', 'hostKeepAlive', 'cache', 'calendar', 'hostCalendar', 'quote', 'hostCurtail', 'hostRestore', 'hold', 'hostCommit', 'hostActivate', 'hostRelease', 'hostStatus']

export const SCHEMA: { readonly [name in keyof Messages]: readonly Field[] } = {
  Resources: [
    { name: 'vcpus', id: 1, type: 'uint32', repeated: false },
    { name: 'memoryMib', id: 2, type: 'uint32', repeated: false },
    { name: 'diskMib', id: 3, type: 'uint32', repeated: false },
    { name: 'volumes', id: 4, type: 'uint32', repeated: false },
    { name: 'bandwidthMbit', id: 5, type: 'uint32', repeated: false },
    { name: 'nodes', id: 6, type: 'uint32', repeated: false, optional: true }
  ],
  HostAd: [
    { name: 'site', id: 1, type: 'string', repeated: false },
    { name: 'host', id: 2, type: 'string', repeated: false },
    { name: 'roles', id: 3, type: 'string', repeated: true },
    { name: 'addresses', id: 4, type: 'string', repeated: true },
    { name: 'underlayAddress', id: 5, type: 'string', repeated: false },
    { name: 'total', id: 6, type: 'Resources', repeated: false },
    { name: 'free', id: 7, type: 'Resources', repeated: false },
    { name: 'cordoned', id: 8, type: 'bool', repeated: false },
    { name: 'accelerator', id: 9, type: 'string', repeated: false },
    { name: 'version', id: 10, type: 'string', repeated: false },
    { name: 'inventory', id: 11, type: 'Inventory', repeated: false },
    { name: 'features', id: 12, type: 'string', repeated: true },
    { name: 'nextStartMs', id: 13, type: 'uint64', repeated: false, optional: true }
  ],
  Disk: [
    { name: 'name', id: 1, type: 'string', repeated: false },
    { name: 'sizeBytes', id: 2, type: 'uint64', repeated: false },
    { name: 'model', id: 3, type: 'string', repeated: false },
    { name: 'rotational', id: 4, type: 'bool', repeated: false },
    { name: 'transport', id: 5, type: 'string', repeated: false }
  ],
  VolumeGroup: [
    { name: 'name', id: 1, type: 'string', repeated: false },
    { name: 'sizeBytes', id: 2, type: 'uint64', repeated: false },
    { name: 'freeBytes', id: 3, type: 'uint64', repeated: false }
  ],
  Nic: [
    { name: 'name', id: 1, type: 'string', repeated: false },
    { name: 'mac', id: 2, type: 'string', repeated: false },
    { name: 'mtu', id: 3, type: 'uint32', repeated: false },
    { name: 'speedMbit', id: 4, type: 'uint32', repeated: false },
    { name: 'up', id: 5, type: 'bool', repeated: false },
    { name: 'trunk', id: 6, type: 'bool', repeated: false },
    { name: 'driver', id: 7, type: 'string', repeated: false },
    { name: 'addresses', id: 8, type: 'string', repeated: true }
  ],
  NumaNode: [
    { name: 'node', id: 1, type: 'uint32', repeated: false },
    { name: 'cpus', id: 2, type: 'uint32', repeated: false },
    { name: 'memoryMib', id: 3, type: 'uint32', repeated: false }
  ],
  Inventory: [
    { name: 'cpuModel', id: 1, type: 'string', repeated: false },
    { name: 'sockets', id: 2, type: 'uint32', repeated: false },
    { name: 'cores', id: 3, type: 'uint32', repeated: false },
    { name: 'threads', id: 4, type: 'uint32', repeated: false },
    { name: 'architecture', id: 5, type: 'string', repeated: false },
    { name: 'memoryMib', id: 6, type: 'uint32', repeated: false },
    { name: 'numa', id: 7, type: 'NumaNode', repeated: true },
    { name: 'disks', id: 8, type: 'Disk', repeated: true },
    { name: 'volumeGroups', id: 9, type: 'VolumeGroup', repeated: true },
    { name: 'nics', id: 10, type: 'Nic', repeated: true },
    { name: 'virtualization', id: 11, type: 'string', repeated: false },
    { name: 'kernel', id: 12, type: 'string', repeated: false },
    { name: 'libvirtVersion', id: 13, type: 'string', repeated: false },
    { name: 'qemuVersion', id: 14, type: 'string', repeated: false },
    { name: 'os', id: 15, type: 'string', repeated: false }
  ],
  SiteAd: [
    { name: 'site', id: 1, type: 'string', repeated: false },
    { name: 'gateway', id: 2, type: 'string', repeated: false },
    { name: 'addresses', id: 3, type: 'string', repeated: true },
    { name: 'hosts', id: 4, type: 'uint32', repeated: false },
    { name: 'total', id: 5, type: 'Resources', repeated: false },
    { name: 'free', id: 6, type: 'Resources', repeated: false },
    { name: 'freeByHost', id: 7, type: 'Resources', repeated: true },
    { name: 'volumeFreeMib', id: 8, type: 'uint32', repeated: false },
    { name: 'version', id: 9, type: 'string', repeated: false },
    { name: 'features', id: 10, type: 'string', repeated: true },
    { name: 'roles', id: 11, type: 'string', repeated: true },
    { name: 'priceMilli', id: 12, type: 'uint32', repeated: false },
    { name: 'maxTermMs', id: 13, type: 'uint64', repeated: false },
    { name: 'relay', id: 14, type: 'bool', repeated: false },
    { name: 'tunnel', id: 15, type: 'TunnelTrackAd', repeated: true }
  ],
  TunnelTrackAd: [
    { name: 'track', id: 1, type: 'uint32', repeated: false },
    { name: 'publicKey', id: 2, type: 'string', repeated: false },
    { name: 'endpoint', id: 3, type: 'string', repeated: false },
    { name: 'draining', id: 4, type: 'bool', repeated: false }
  ],
  CoordinatorAd: [
    { name: 'name', id: 1, type: 'string', repeated: false },
    { name: 'addresses', id: 2, type: 'string', repeated: true },
    { name: 'version', id: 3, type: 'string', repeated: false }
  ],
  PolicyAd: [
    { name: 'site', id: 1, type: 'string', repeated: false },
    { name: 'host', id: 2, type: 'string', repeated: false },
    { name: 'version', id: 3, type: 'uint64', repeated: false },
    { name: 'document', id: 4, type: 'bytes', repeated: false },
    { name: 'setBy', id: 5, type: 'string', repeated: false }
  ],
  Record: [
    { name: 'peer', id: 1, type: 'string', repeated: false },
    { name: 'kind', id: 2, type: 'string', repeated: false },
    { name: 'epoch', id: 3, type: 'uint64', repeated: false },
    { name: 'seq', id: 4, type: 'uint64', repeated: false },
    { name: 'ttlMs', id: 5, type: 'uint32', repeated: false },
    { name: 'body', id: 6, type: 'bytes', repeated: false },
    { name: 'signature', id: 7, type: 'bytes', repeated: false },
    { name: 'ageMs', id: 8, type: 'uint32', repeated: false },
    { name: 'madeMs', id: 9, type: 'uint64', repeated: false },
    { name: 'leaving', id: 10, type: 'bool', repeated: false },
    { name: 'chain', id: 11, type: 'bytes', repeated: true }
  ],
  RecordId: [
    { name: 'peer', id: 1, type: 'string', repeated: false },
    { name: 'kind', id: 2, type: 'string', repeated: false },
    { name: 'epoch', id: 3, type: 'uint64', repeated: false },
    { name: 'seq', id: 4, type: 'uint64', repeated: false }
  ],
  SyncRequest: [
    { name: 'scope', id: 1, type: 'string', repeated: false },
    { name: 'have', id: 2, type: 'RecordId', repeated: true },
    { name: 'offer', id: 3, type: 'Record', repeated: true },
    { name: 'bucket', id: 4, type: 'uint32', repeated: false },
    { name: 'buckets', id: 5, type: 'uint32', repeated: false },
    { name: 'revocations', id: 6, type: 'bytes', repeated: false },
    { name: 'suspicions', id: 7, type: 'Suspicion', repeated: true },
    { name: 'ping', id: 8, type: 'bool', repeated: false }
  ],
  SyncReply: [
    { name: 'records', id: 1, type: 'Record', repeated: true },
    { name: 'want', id: 2, type: 'RecordId', repeated: true },
    { name: 'revocations', id: 3, type: 'bytes', repeated: false },
    { name: 'suspicions', id: 4, type: 'Suspicion', repeated: true }
  ],
  Suspicion: [
    { name: 'peer', id: 1, type: 'string', repeated: false },
    { name: 'kind', id: 2, type: 'string', repeated: false },
    { name: 'epoch', id: 3, type: 'uint64', repeated: false },
    { name: 'seq', id: 4, type: 'uint64', repeated: false },
    { name: 'by', id: 5, type: 'string', repeated: false },
    { name: 'signature', id: 6, type: 'bytes', repeated: false }
  ],
  Gossip: [
    { name: 'record', id: 1, type: 'Record', repeated: false, oneof: 'body' },
    { name: 'suspicion', id: 2, type: 'Suspicion', repeated: false, oneof: 'body' },
    { name: 'revocation', id: 3, type: 'SignedRevocation', repeated: false, oneof: 'body' }
  ],
  Envelope: [
    { name: 'publicKey', id: 1, type: 'bytes', repeated: false },
    { name: 'payloadType', id: 2, type: 'bytes', repeated: false },
    { name: 'payload', id: 3, type: 'bytes', repeated: false },
    { name: 'signature', id: 5, type: 'bytes', repeated: false }
  ],
  IdSlice: [
    { name: 'from', id: 1, type: 'uint32', repeated: false },
    { name: 'to', id: 2, type: 'uint32', repeated: false }
  ],
  Certificate: [
    { name: 'federation', id: 1, type: 'string', repeated: false },
    { name: 'kind', id: 2, type: 'string', repeated: false },
    { name: 'subject', id: 3, type: 'string', repeated: false },
    { name: 'site', id: 4, type: 'string', repeated: false },
    { name: 'name', id: 5, type: 'string', repeated: false },
    { name: 'roles', id: 6, type: 'string', repeated: true },
    { name: 'joinedMs', id: 7, type: 'uint64', repeated: false },
    { name: 'notBeforeMs', id: 8, type: 'uint64', repeated: false },
    { name: 'notAfterMs', id: 9, type: 'uint64', repeated: false },
    { name: 'segmentIds', id: 10, type: 'IdSlice', repeated: false },
    { name: 'quotaPercent', id: 11, type: 'uint32', repeated: false },
    { name: 'via', id: 12, type: 'string', repeated: false }
  ],
  Revocation: [
    { name: 'federation', id: 1, type: 'string', repeated: false },
    { name: 'kind', id: 2, type: 'string', repeated: false },
    { name: 'subject', id: 3, type: 'string', repeated: false },
    { name: 'site', id: 4, type: 'string', repeated: false },
    { name: 'name', id: 5, type: 'string', repeated: false },
    { name: 'revokedMs', id: 6, type: 'uint64', repeated: false },
    { name: 'reason', id: 7, type: 'string', repeated: false }
  ],
  SignedRevocation: [
    { name: 'envelope', id: 1, type: 'bytes', repeated: false },
    { name: 'chain', id: 2, type: 'bytes', repeated: true }
  ],
  KnownPeer: [
    { name: 'peer', id: 1, type: 'string', repeated: false },
    { name: 'addresses', id: 2, type: 'string', repeated: true },
    { name: 'chain', id: 3, type: 'bytes', repeated: true }
  ],
  Hello: [
    { name: 'chain', id: 1, type: 'bytes', repeated: true },
    { name: 'refusal', id: 2, type: 'Failure', repeated: false }
  ],
  RevocationsRequest: [
    { name: 'ids', id: 1, type: 'bytes', repeated: true },
    { name: 'offer', id: 2, type: 'SignedRevocation', repeated: true }
  ],
  RevocationsReply: [
    { name: 'revocations', id: 1, type: 'SignedRevocation', repeated: true },
    { name: 'want', id: 2, type: 'bytes', repeated: true }
  ],
  RenewRequest: [
    { name: 'chain', id: 1, type: 'bytes', repeated: true },
    { name: 'issuer', id: 2, type: 'bool', repeated: false }
  ],
  RenewReply: [
    { name: 'chain', id: 1, type: 'bytes', repeated: true }
  ],
  JoinRequest: [
    { name: 'tokenId', id: 1, type: 'string', repeated: false },
    { name: 'kind', id: 2, type: 'string', repeated: false },
    { name: 'subject', id: 3, type: 'string', repeated: false },
    { name: 'name', id: 4, type: 'string', repeated: false },
    { name: 'roles', id: 5, type: 'string', repeated: true },
    { name: 'segmentIds', id: 6, type: 'IdSlice', repeated: false },
    { name: 'addresses', id: 7, type: 'string', repeated: true },
    { name: 'proof', id: 8, type: 'bytes', repeated: false },
    { name: 'subjectSignature', id: 9, type: 'bytes', repeated: false }
  ],
  JoinReply: [
    { name: 'failure', id: 1, type: 'Failure', repeated: false },
    { name: 'chain', id: 2, type: 'bytes', repeated: true },
    { name: 'peers', id: 3, type: 'KnownPeer', repeated: true },
    { name: 'proof', id: 4, type: 'bytes', repeated: false }
  ],
  Token: [
    { name: 'id', id: 1, type: 'string', repeated: false },
    { name: 'kind', id: 2, type: 'string', repeated: false },
    { name: 'issuer', id: 3, type: 'string', repeated: false },
    { name: 'addresses', id: 4, type: 'string', repeated: true },
    { name: 'secret', id: 5, type: 'bytes', repeated: false },
    { name: 'federation', id: 6, type: 'string', repeated: false },
    { name: 'expiresMs', id: 7, type: 'uint64', repeated: false },
    { name: 'site', id: 8, type: 'string', repeated: false }
  ],
  CordonRequest: [
    { name: 'cordoned', id: 1, type: 'bool', repeated: false },
    { name: 'reason', id: 2, type: 'string', repeated: false }
  ],
  CordonReply: [
    { name: 'cordoned', id: 1, type: 'bool', repeated: false }
  ],
  WantedNode: [
    { name: 'name', id: 1, type: 'string', repeated: false },
    { name: 'vcpus', id: 2, type: 'uint32', repeated: false },
    { name: 'memoryMib', id: 3, type: 'uint32', repeated: false }
  ],
  WantedVolume: [
    { name: 'name', id: 1, type: 'string', repeated: false },
    { name: 'sizeMib', id: 2, type: 'uint32', repeated: false },
    { name: 'node', id: 3, type: 'string', repeated: false }
  ],
  Request: [
    { name: 'key', id: 1, type: 'string', repeated: false },
    { name: 'clusterId', id: 2, type: 'string', repeated: false },
    { name: 'cluster', id: 3, type: 'string', repeated: false },
    { name: 'vni', id: 4, type: 'uint32', repeated: false },
    { name: 'masterSite', id: 5, type: 'string', repeated: false },
    { name: 'startMs', id: 6, type: 'uint64', repeated: false },
    { name: 'endMs', id: 7, type: 'uint64', repeated: false },
    { name: 'nodes', id: 8, type: 'WantedNode', repeated: true },
    { name: 'volumes', id: 9, type: 'WantedVolume', repeated: true },
    { name: 'frontend', id: 10, type: 'bool', repeated: false },
    { name: 'holdTtlMs', id: 11, type: 'uint32', repeated: false },
    { name: 'bandwidthMbit', id: 12, type: 'uint32', repeated: false },
    { name: 'epoch', id: 13, type: 'uint32', repeated: false },
    { name: 'sentMs', id: 14, type: 'uint64', repeated: false },
    { name: 'grow', id: 15, type: 'bool', repeated: false },
    { name: 'local', id: 16, type: 'bool', repeated: false, optional: true },
    { name: 'spread', id: 20, type: 'bool', repeated: false, optional: true },
    { name: 'maxNodesPerHost', id: 21, type: 'uint32', repeated: false, optional: true }
  ],
  ExtendRequest: [
    { name: 'key', id: 1, type: 'string', repeated: false },
    { name: 'clusterId', id: 2, type: 'string', repeated: false },
    { name: 'offerId', id: 3, type: 'string', repeated: false },
    { name: 'endMs', id: 4, type: 'uint64', repeated: false },
    { name: 'ttlMs', id: 5, type: 'uint32', repeated: false },
    { name: 'epoch', id: 6, type: 'uint32', repeated: false },
    { name: 'sentMs', id: 7, type: 'uint64', repeated: false }
  ],
  ExtendReply: [
    { name: 'site', id: 1, type: 'string', repeated: false },
    { name: 'ttlMs', id: 2, type: 'uint32', repeated: false },
    { name: 'nowMs', id: 3, type: 'uint64', repeated: false }
  ],
  KeepAliveRequest: [
    { name: 'clusterId', id: 1, type: 'string', repeated: false },
    { name: 'epoch', id: 2, type: 'uint32', repeated: false },
    { name: 'sentMs', id: 3, type: 'uint64', repeated: false },
    { name: 'grant', id: 4, type: 'Grant', repeated: false }
  ],
  KeepAliveReply: [
    { name: 'site', id: 1, type: 'string', repeated: false },
    { name: 'state', id: 2, type: 'string', repeated: false },
    { name: 'endMs', id: 3, type: 'uint64', repeated: false },
    { name: 'epoch', id: 4, type: 'uint32', repeated: false },
    { name: 'nowMs', id: 5, type: 'uint64', repeated: false },
    { name: 'notice', id: 6, type: 'string', repeated: false, optional: true }
  ],
  EpochGrant: [
    { name: 'clusterId', id: 1, type: 'string', repeated: false },
    { name: 'epoch', id: 2, type: 'uint32', repeated: false },
    { name: 'holder', id: 3, type: 'string', repeated: false },
    { name: 'site', id: 4, type: 'string', repeated: false },
    { name: 'host', id: 5, type: 'string', repeated: false },
    { name: 'grantedMs', id: 6, type: 'uint64', repeated: false }
  ],
  Grant: [
    { name: 'envelope', id: 1, type: 'bytes', repeated: false },
    { name: 'chain', id: 2, type: 'bytes', repeated: true }
  ],
  ClaimRequest: [
    { name: 'clusterId', id: 1, type: 'string', repeated: false },
    { name: 'epoch', id: 2, type: 'uint32', repeated: false },
    { name: 'force', id: 3, type: 'bool', repeated: false }
  ],
  ClaimReply: [
    { name: 'epoch', id: 1, type: 'uint32', repeated: false },
    { name: 'grant', id: 2, type: 'Grant', repeated: false }
  ],
  CopyRequest: [
    { name: 'clusterId', id: 1, type: 'string', repeated: false },
    { name: 'epoch', id: 2, type: 'uint32', repeated: false },
    { name: 'record', id: 3, type: 'bytes', repeated: false }
  ],
  CopyReply: [
    { name: 'epoch', id: 1, type: 'uint32', repeated: false }
  ],
  Held: [
    { name: 'leaseId', id: 1, type: 'string', repeated: false },
    { name: 'kind', id: 2, type: 'string', repeated: false },
    { name: 'name', id: 3, type: 'string', repeated: false },
    { name: 'host', id: 4, type: 'string', repeated: false },
    { name: 'peer', id: 5, type: 'string', repeated: false },
    { name: 'underlayAddress', id: 6, type: 'string', repeated: false },
    { name: 'resources', id: 7, type: 'Resources', repeated: false },
    { name: 'token', id: 8, type: 'uint64', repeated: false }
  ],
  GatewayFacts: [
    { name: 'host', id: 1, type: 'string', repeated: false },
    { name: 'peer', id: 2, type: 'string', repeated: false },
    { name: 'underlayAddress', id: 3, type: 'string', repeated: false },
    { name: 'tunnelPublicKey', id: 4, type: 'string', repeated: false },
    { name: 'tunnelAddress', id: 6, type: 'string', repeated: false },
    { name: 'tunnelEndpoint', id: 5, type: 'string', repeated: false },
    { name: 'chain', id: 7, type: 'string', repeated: true }
  ],
  Offer: [
    { name: 'offerId', id: 1, type: 'string', repeated: false },
    { name: 'site', id: 2, type: 'string', repeated: false },
    { name: 'segmentId', id: 3, type: 'uint32', repeated: false },
    { name: 'gateway', id: 4, type: 'GatewayFacts', repeated: false },
    { name: 'held', id: 5, type: 'Held', repeated: true },
    { name: 'ttlMs', id: 6, type: 'uint32', repeated: false },
    { name: 'nowMs', id: 7, type: 'uint64', repeated: false },
    { name: 'localSegmentId', id: 8, type: 'uint32', repeated: false, optional: true },
    { name: 'priceMilli', id: 9, type: 'uint32', repeated: false, optional: true }
  ],
  CommitRequest: [
    { name: 'clusterId', id: 1, type: 'string', repeated: false },
    { name: 'offerId', id: 2, type: 'string', repeated: false },
    { name: 'key', id: 3, type: 'string', repeated: false },
    { name: 'epoch', id: 4, type: 'uint32', repeated: false }
  ],
  Receipt: [
    { name: 'leaseId', id: 1, type: 'string', repeated: false },
    { name: 'host', id: 2, type: 'string', repeated: false },
    { name: 'token', id: 3, type: 'uint64', repeated: false }
  ],
  CommitReply: [
    { name: 'site', id: 1, type: 'string', repeated: false },
    { name: 'receipts', id: 2, type: 'Receipt', repeated: true }
  ],
  Secret: [
    { name: 'name', id: 1, type: 'string', repeated: false },
    { name: 'user', id: 2, type: 'string', repeated: false },
    { name: 'secret', id: 3, type: 'string', repeated: false }
  ],
  ActivateRequest: [
    { name: 'clusterId', id: 1, type: 'string', repeated: false },
    { name: 'document', id: 2, type: 'ClusterDocument', repeated: false },
    { name: 'receipts', id: 3, type: 'Receipt', repeated: true },
    { name: 'secrets', id: 4, type: 'Secret', repeated: true },
    { name: 'epoch', id: 5, type: 'uint32', repeated: false }
  ],
  ActivateReply: [
    { name: 'site', id: 1, type: 'string', repeated: false }
  ],
  ReleaseRequest: [
    { name: 'clusterId', id: 1, type: 'string', repeated: false },
    { name: 'reason', id: 2, type: 'string', repeated: false },
    { name: 'offerId', id: 3, type: 'string', repeated: false },
    { name: 'leaseIds', id: 4, type: 'string', repeated: true },
    { name: 'epoch', id: 5, type: 'uint32', repeated: false }
  ],
  ReleaseReply: [
    { name: 'site', id: 1, type: 'string', repeated: false },
    { name: 'ended', id: 2, type: 'uint32', repeated: false }
  ],
  StatusRequest: [
    { name: 'clusterId', id: 1, type: 'string', repeated: false }
  ],
  ObjectStatus: [
    { name: 'kind', id: 1, type: 'string', repeated: false },
    { name: 'name', id: 2, type: 'string', repeated: false },
    { name: 'state', id: 3, type: 'string', repeated: false },
    { name: 'detail', id: 4, type: 'string', repeated: false },
    { name: 'error', id: 5, type: 'string', repeated: false }
  ],
  HostStatus: [
    { name: 'site', id: 1, type: 'string', repeated: false },
    { name: 'host', id: 2, type: 'string', repeated: false },
    { name: 'leaseState', id: 3, type: 'string', repeated: false },
    { name: 'objects', id: 4, type: 'ObjectStatus', repeated: true },
    { name: 'reachable', id: 5, type: 'bool', repeated: false },
    { name: 'nowMs', id: 6, type: 'uint64', repeated: false }
  ],
  StatusReply: [
    { name: 'hosts', id: 1, type: 'HostStatus', repeated: true }
  ],
  HoldItem: [
    { name: 'leaseId', id: 1, type: 'string', repeated: false },
    { name: 'kind', id: 2, type: 'string', repeated: false },
    { name: 'name', id: 3, type: 'string', repeated: false },
    { name: 'resources', id: 4, type: 'Resources', repeated: false },
    { name: 'segmentId', id: 5, type: 'uint32', repeated: false }
  ],
  HoldRequest: [
    { name: 'key', id: 1, type: 'string', repeated: false },
    { name: 'clusterId', id: 2, type: 'string', repeated: false },
    { name: 'cluster', id: 3, type: 'string', repeated: false },
    { name: 'masterSite', id: 4, type: 'string', repeated: false },
    { name: 'masterPeer', id: 5, type: 'string', repeated: false },
    { name: 'startMs', id: 6, type: 'uint64', repeated: false },
    { name: 'endMs', id: 7, type: 'uint64', repeated: false },
    { name: 'ttlMs', id: 8, type: 'uint32', repeated: false },
    { name: 'items', id: 9, type: 'HoldItem', repeated: true },
    { name: 'offerId', id: 10, type: 'string', repeated: false },
    { name: 'epoch', id: 11, type: 'uint32', repeated: false }
  ],
  HoldReply: [
    { name: 'receipts', id: 1, type: 'Receipt', repeated: true },
    { name: 'segmentId', id: 2, type: 'uint32', repeated: false },
    { name: 'localSegmentId', id: 3, type: 'uint32', repeated: false, optional: true }
  ],
  HostExtendRequest: [
    { name: 'key', id: 1, type: 'string', repeated: false },
    { name: 'clusterId', id: 2, type: 'string', repeated: false },
    { name: 'offerId', id: 3, type: 'string', repeated: false },
    { name: 'endMs', id: 4, type: 'uint64', repeated: false },
    { name: 'ttlMs', id: 5, type: 'uint32', repeated: false },
    { name: 'epoch', id: 6, type: 'uint32', repeated: false },
    { name: 'leaseIds', id: 7, type: 'string', repeated: true }
  ],
  HostExtendReply: [
    { name: 'receipts', id: 1, type: 'Receipt', repeated: true }
  ],
  HostKeepAliveRequest: [
    { name: 'clusterId', id: 1, type: 'string', repeated: false },
    { name: 'epoch', id: 2, type: 'uint32', repeated: false },
    { name: 'holder', id: 3, type: 'string', repeated: false }
  ],
  HostKeepAliveReply: [
    { name: 'state', id: 1, type: 'string', repeated: false },
    { name: 'endMs', id: 2, type: 'uint64', repeated: false },
    { name: 'epoch', id: 3, type: 'uint32', repeated: false },
    { name: 'nowMs', id: 4, type: 'uint64', repeated: false }
  ],
  HostCurtailRequest: [
    { name: 'clusterId', id: 1, type: 'string', repeated: false },
    { name: 'seq', id: 2, type: 'uint64', repeated: false },
    { name: 'endMs', id: 3, type: 'uint64', repeated: false },
    { name: 'reason', id: 4, type: 'string', repeated: false }
  ],
  HostCurtailReply: [
    { name: 'endMs', id: 1, type: 'uint64', repeated: false },
    { name: 'nowMs', id: 2, type: 'uint64', repeated: false }
  ],
  HostRestoreRequest: [
    { name: 'clusterId', id: 1, type: 'string', repeated: false },
    { name: 'seq', id: 2, type: 'uint64', repeated: false },
    { name: 'endMs', id: 3, type: 'uint64', repeated: false, optional: true }
  ],
  HostRestoreReply: [
    { name: 'endMs', id: 1, type: 'uint64', repeated: false },
    { name: 'nowMs', id: 2, type: 'uint64', repeated: false }
  ],
  HostCommitRequest: [
    { name: 'clusterId', id: 1, type: 'string', repeated: false },
    { name: 'offerId', id: 2, type: 'string', repeated: false },
    { name: 'epoch', id: 3, type: 'uint32', repeated: false }
  ],
  HostCommitReply: [
    { name: 'receipts', id: 1, type: 'Receipt', repeated: true }
  ],
  CalendarStep: [
    { name: 'atMs', id: 1, type: 'uint64', repeated: false },
    { name: 'free', id: 2, type: 'Resources', repeated: false }
  ],
  HostCalendarRequest: [
    { name: 'leases', id: 1, type: 'bool', repeated: false },
    { name: 'quotaOf', id: 2, type: 'string', repeated: false }
  ],
  CalendarLease: [
    { name: 'clusterId', id: 1, type: 'string', repeated: false },
    { name: 'cluster', id: 2, type: 'string', repeated: false },
    { name: 'masterSite', id: 3, type: 'string', repeated: false },
    { name: 'kind', id: 4, type: 'string', repeated: false },
    { name: 'name', id: 5, type: 'string', repeated: false },
    { name: 'state', id: 6, type: 'string', repeated: false },
    { name: 'startMs', id: 7, type: 'uint64', repeated: false },
    { name: 'endMs', id: 8, type: 'uint64', repeated: false },
    { name: 'masterless', id: 9, type: 'bool', repeated: false },
    { name: 'formerEndMs', id: 10, type: 'uint64', repeated: false, optional: true }
  ],
  HostCalendarReply: [
    { name: 'nowMs', id: 1, type: 'uint64', repeated: false },
    { name: 'takesLeases', id: 2, type: 'bool', repeated: false },
    { name: 'why', id: 3, type: 'string', repeated: false },
    { name: 'steps', id: 4, type: 'CalendarStep', repeated: true },
    { name: 'leases', id: 5, type: 'CalendarLease', repeated: true },
    { name: 'leftOut', id: 6, type: 'uint32', repeated: false },
    { name: 'quota', id: 7, type: 'CalendarStep', repeated: true }
  ],
  CalendarRequest: [
    { name: 'sentMs', id: 1, type: 'uint64', repeated: false },
    { name: 'objects', id: 10, type: 'string', repeated: true },
    { name: 'onlyObjects', id: 11, type: 'bool', repeated: false, optional: true }
  ],
  CalendarHost: [
    { name: 'roles', id: 1, type: 'string', repeated: true },
    { name: 'steps', id: 2, type: 'CalendarStep', repeated: true }
  ],
  Stretch: [
    { name: 'fromMs', id: 1, type: 'uint64', repeated: false },
    { name: 'untilMs', id: 2, type: 'uint64', repeated: false }
  ],
  Lending: [
    { name: 'windows', id: 1, type: 'bool', repeated: false },
    { name: 'open', id: 2, type: 'Stretch', repeated: true },
    { name: 'knownUntilMs', id: 3, type: 'uint64', repeated: false },
    { name: 'longestMs', id: 4, type: 'uint64', repeated: false },
    { name: 'latestStartMs', id: 5, type: 'uint64', repeated: false }
  ],
  CalendarReply: [
    { name: 'site', id: 1, type: 'string', repeated: false },
    { name: 'nowMs', id: 2, type: 'uint64', repeated: false },
    { name: 'hosts', id: 3, type: 'CalendarHost', repeated: true },
    { name: 'held', id: 10, type: 'string', repeated: true },
    { name: 'lending', id: 11, type: 'Lending', repeated: false }
  ],
  QuoteRequest: [
    { name: 'request', id: 1, type: 'Request', repeated: false }
  ],
  QuoteReason: [
    { name: 'code', id: 1, type: 'string', repeated: false },
    { name: 'message', id: 2, type: 'string', repeated: false }
  ],
  QuoteReply: [
    { name: 'site', id: 1, type: 'string', repeated: false },
    { name: 'nowMs', id: 2, type: 'uint64', repeated: false },
    { name: 'taken', id: 3, type: 'bool', repeated: false },
    { name: 'reasons', id: 4, type: 'QuoteReason', repeated: true },
    { name: 'priceMilli', id: 5, type: 'uint32', repeated: false },
    { name: 'totalMilli', id: 6, type: 'uint64', repeated: false },
    { name: 'nodes', id: 7, type: 'uint32', repeated: false },
    { name: 'earliestMs', id: 8, type: 'uint64', repeated: false },
    { name: 'vcpus', id: 9, type: 'uint32', repeated: false },
    { name: 'memoryMib', id: 10, type: 'uint32', repeated: false },
    { name: 'wanMbit', id: 11, type: 'uint32', repeated: false }
  ],
  MemberHost: [
    { name: 'host', id: 1, type: 'string', repeated: false },
    { name: 'peer', id: 2, type: 'string', repeated: false },
    { name: 'underlayAddress', id: 3, type: 'string', repeated: false },
    { name: 'gateway', id: 4, type: 'bool', repeated: false }
  ],
  MemberSite: [
    { name: 'site', id: 1, type: 'string', repeated: false },
    { name: 'segmentId', id: 2, type: 'uint32', repeated: false },
    { name: 'gateway', id: 3, type: 'GatewayFacts', repeated: false },
    { name: 'hosts', id: 4, type: 'MemberHost', repeated: true },
    { name: 'gatewayAddress', id: 5, type: 'string', repeated: false },
    { name: 'gatewayMac', id: 6, type: 'string', repeated: false },
    { name: 'cache', id: 7, type: 'bool', repeated: false },
    { name: 'leaseId', id: 8, type: 'string', repeated: false },
    { name: 'localSegmentId', id: 9, type: 'uint32', repeated: false, optional: true },
    { name: 'localLeaseId', id: 10, type: 'string', repeated: false, optional: true }
  ],
  ClusterNode: [
    { name: 'name', id: 1, type: 'string', repeated: false },
    { name: 'site', id: 2, type: 'string', repeated: false },
    { name: 'host', id: 3, type: 'string', repeated: false },
    { name: 'mac', id: 4, type: 'string', repeated: false },
    { name: 'ip', id: 5, type: 'string', repeated: false },
    { name: 'uuid', id: 6, type: 'string', repeated: false },
    { name: 'vcpus', id: 7, type: 'uint32', repeated: false },
    { name: 'memoryMib', id: 8, type: 'uint32', repeated: false },
    { name: 'leaseId', id: 9, type: 'string', repeated: false },
    { name: 'index', id: 10, type: 'uint32', repeated: false },
    { name: 'localMac', id: 11, type: 'string', repeated: false, optional: true },
    { name: 'localIp', id: 12, type: 'string', repeated: false, optional: true }
  ],
  ClusterVolume: [
    { name: 'name', id: 1, type: 'string', repeated: false },
    { name: 'site', id: 2, type: 'string', repeated: false },
    { name: 'host', id: 3, type: 'string', repeated: false },
    { name: 'node', id: 4, type: 'string', repeated: false },
    { name: 'sizeMib', id: 5, type: 'uint32', repeated: false },
    { name: 'iqn', id: 6, type: 'string', repeated: false },
    { name: 'portalAddress', id: 7, type: 'string', repeated: false },
    { name: 'leaseId', id: 8, type: 'string', repeated: false }
  ],
  Frontend: [
    { name: 'name', id: 1, type: 'string', repeated: false },
    { name: 'site', id: 2, type: 'string', repeated: false },
    { name: 'host', id: 3, type: 'string', repeated: false },
    { name: 'mac', id: 4, type: 'string', repeated: false },
    { name: 'ip', id: 5, type: 'string', repeated: false },
    { name: 'mode', id: 6, type: 'string', repeated: false },
    { name: 'leaseId', id: 7, type: 'string', repeated: false }
  ],
  ClusterDocument: [
    { name: 'id', id: 1, type: 'string', repeated: false },
    { name: 'name', id: 2, type: 'string', repeated: false },
    { name: 'epoch', id: 3, type: 'uint32', repeated: false },
    { name: 'vni', id: 4, type: 'uint32', repeated: false },
    { name: 'cidr', id: 5, type: 'string', repeated: false },
    { name: 'domain', id: 6, type: 'string', repeated: false },
    { name: 'masterSite', id: 7, type: 'string', repeated: false },
    { name: 'masterPeer', id: 8, type: 'string', repeated: false },
    { name: 'createdMs', id: 9, type: 'uint64', repeated: false },
    { name: 'endMs', id: 10, type: 'uint64', repeated: false },
    { name: 'frontend', id: 11, type: 'Frontend', repeated: false },
    { name: 'sites', id: 12, type: 'MemberSite', repeated: true },
    { name: 'nodes', id: 13, type: 'ClusterNode', repeated: true },
    { name: 'volumes', id: 14, type: 'ClusterVolume', repeated: true },
    { name: 'imageDigest', id: 15, type: 'string', repeated: false },
    { name: 'sshPublicKey', id: 16, type: 'string', repeated: false },
    { name: 'version', id: 17, type: 'uint32', repeated: false },
    { name: 'startMs', id: 18, type: 'uint64', repeated: false },
    { name: 'antiSpoofOff', id: 19, type: 'bool', repeated: false, optional: true },
    { name: 'localCidr', id: 20, type: 'string', repeated: false, optional: true },
    { name: 'cacheTerms', id: 21, type: 'string', repeated: false, optional: true }
  ],
  CacheRequest: [
    { name: 'clusterId', id: 1, type: 'string', repeated: false },
    { name: 'ask', id: 2, type: 'string', repeated: false },
    { name: 'params', id: 3, type: 'string', repeated: false }
  ],
  CacheReply: [
    { name: 'result', id: 1, type: 'string', repeated: false }
  ],
  SearchRequest: [
    { name: 'nodes', id: 1, type: 'WantedNode', repeated: true },
    { name: 'volumeMib', id: 2, type: 'uint32', repeated: false }
  ],
  SearchReply: [
    { name: 'sites', id: 1, type: 'SiteAd', repeated: true }
  ],
  Failure: [
    { name: 'code', id: 1, type: 'string', repeated: false },
    { name: 'message', id: 2, type: 'string', repeated: false },
    { name: 'retryable', id: 3, type: 'bool', repeated: false },
    { name: 'hint', id: 4, type: 'string', repeated: false },
    { name: 'site', id: 5, type: 'string', repeated: false },
    { name: 'host', id: 6, type: 'string', repeated: false }
  ],
  Call: [
    { name: 'id', id: 1, type: 'uint32', repeated: false },
    { name: 'deadlineMs', id: 2, type: 'uint32', repeated: false },
    { name: 'sync', id: 10, type: 'SyncRequest', repeated: false, oneof: 'method' },
    { name: 'request', id: 11, type: 'Request', repeated: false, oneof: 'method' },
    { name: 'commit', id: 12, type: 'CommitRequest', repeated: false, oneof: 'method' },
    { name: 'activate', id: 13, type: 'ActivateRequest', repeated: false, oneof: 'method' },
    { name: 'release', id: 14, type: 'ReleaseRequest', repeated: false, oneof: 'method' },
    { name: 'status', id: 15, type: 'StatusRequest', repeated: false, oneof: 'method' },
    { name: 'search', id: 16, type: 'SearchRequest', repeated: false, oneof: 'method' },
    { name: 'revocations', id: 17, type: 'RevocationsRequest', repeated: false, oneof: 'method' },
    { name: 'renew', id: 18, type: 'RenewRequest', repeated: false, oneof: 'method' },
    { name: 'hostCordon', id: 25, type: 'CordonRequest', repeated: false, oneof: 'method' },
    { name: 'extend', id: 26, type: 'ExtendRequest', repeated: false, oneof: 'method' },
    { name: 'keepAlive', id: 27, type: 'KeepAliveRequest', repeated: false, oneof: 'method' },
    { name: 'claim', id: 28, type: 'ClaimRequest', repeated: false, oneof: 'method' },
    { name: 'copy', id: 29, type: 'CopyRequest', repeated: false, oneof: 'method' },
    { name: 'hostExtend', id: 30, type: 'HostExtendRequest', repeated: false, oneof: 'method' },
    { name: 'hostKeepAlive', id: 31, type: 'HostKeepAliveRequest', repeated: false, oneof: 'method' },
    { name: 'cache', id: 32, type: 'CacheRequest', repeated: false, oneof: 'method' },
    { name: 'calendar', id: 33, type: 'CalendarRequest', repeated: false, oneof: 'method' },
    { name: 'hostCalendar', id: 34, type: 'HostCalendarRequest', repeated: false, oneof: 'method' },
    { name: 'quote', id: 35, type: 'QuoteRequest', repeated: false, oneof: 'method' },
    { name: 'hostCurtail', id: 38, type: 'HostCurtailRequest', repeated: false, oneof: 'method' },
    { name: 'hostRestore', id: 39, type: 'HostRestoreRequest', repeated: false, oneof: 'method' },
    { name: 'hold', id: 20, type: 'HoldRequest', repeated: false, oneof: 'method' },
    { name: 'hostCommit', id: 21, type: 'HostCommitRequest', repeated: false, oneof: 'method' },
    { name: 'hostActivate', id: 22, type: 'ActivateRequest', repeated: false, oneof: 'method' },
    { name: 'hostRelease', id: 23, type: 'ReleaseRequest', repeated: false, oneof: 'method' },
    { name: 'hostStatus', id: 24, type: 'StatusRequest', repeated: false, oneof: 'method' }
  ],
  Reply: [
    { name: 'id', id: 1, type: 'uint32', repeated: false },
    { name: 'failure', id: 9, type: 'Failure', repeated: false, oneof: 'result' },
    { name: 'sync', id: 10, type: 'SyncReply', repeated: false, oneof: 'result' },
    { name: 'request', id: 11, type: 'Offer', repeated: false, oneof: 'result' },
    { name: 'commit', id: 12, type: 'CommitReply', repeated: false, oneof: 'result' },
    { name: 'activate', id: 13, type: 'ActivateReply', repeated: false, oneof: 'result' },
    { name: 'release', id: 14, type: 'ReleaseReply', repeated: false, oneof: 'result' },
    { name: 'status', id: 15, type: 'StatusReply', repeated: false, oneof: 'result' },
    { name: 'search', id: 16, type: 'SearchReply', repeated: false, oneof: 'result' },
    { name: 'revocations', id: 17, type: 'RevocationsReply', repeated: false, oneof: 'result' },
    { name: 'renew', id: 18, type: 'RenewReply', repeated: false, oneof: 'result' },
    { name: 'hostCordon', id: 25, type: 'CordonReply', repeated: false, oneof: 'result' },
    { name: 'extend', id: 26, type: 'ExtendReply', repeated: false, oneof: 'result' },
    { name: 'keepAlive', id: 27, type: 'KeepAliveReply', repeated: false, oneof: 'result' },
    { name: 'claim', id: 28, type: 'ClaimReply', repeated: false, oneof: 'result' },
    { name: 'copy', id: 29, type: 'CopyReply', repeated: false, oneof: 'result' },
    { name: 'hostExtend', id: 30, type: 'HostExtendReply', repeated: false, oneof: 'result' },
    { name: 'hostKeepAlive', id: 31, type: 'HostKeepAliveReply', repeated: false, oneof: 'result' },
    { name: 'cache', id: 32, type: 'CacheReply', repeated: false, oneof: 'result' },
    { name: 'calendar', id: 33, type: 'CalendarReply', repeated: false, oneof: 'result' },
    { name: 'hostCalendar', id: 34, type: 'HostCalendarReply', repeated: false, oneof: 'result' },
    { name: 'quote', id: 35, type: 'QuoteReply', repeated: false, oneof: 'result' },
    { name: 'hostCurtail', id: 38, type: 'HostCurtailReply', repeated: false, oneof: 'result' },
    { name: 'hostRestore', id: 39, type: 'HostRestoreReply', repeated: false, oneof: 'result' },
    { name: 'hold', id: 20, type: 'HoldReply', repeated: false, oneof: 'result' },
    { name: 'hostCommit', id: 21, type: 'HostCommitReply', repeated: false, oneof: 'result' },
    { name: 'hostActivate', id: 22, type: 'ActivateReply', repeated: false, oneof: 'result' },
    { name: 'hostRelease', id: 23, type: 'ReleaseReply', repeated: false, oneof: 'result' },
    { name: 'hostStatus', id: 24, type: 'HostStatus', repeated: false, oneof: 'result' }
  ],
  Frame: [
    { name: 'call', id: 1, type: 'Call', repeated: false, oneof: 'body' },
    { name: 'reply', id: 2, type: 'Reply', repeated: false, oneof: 'body' }
  ]
}
