/**
 * REST resources of agent and coordinator: the server validates with these schemas, OpenAPI is
 * generated from them, CLI and dashboard take their types from here. Times are epoch milliseconds
 * unless a name says otherwise. Later releases add fields and rename none.
 */
import Type, { type Static } from 'typebox'

const text = (description: string) => Type.String({ description, maxLength: 4096 })
const count = (description: string) => Type.Number({ description, minimum: 0 })

export const ResourcesSchema = Type.Object({
  vcpus: count('virtual CPUs'), memoryMib: count('memory, MiB'), diskMib: count('disk, MiB')
})

export const HostSchema = Type.Object({
  site: text('site'), host: text('host name'), peerId: text('libp2p PeerId'),
  roles: Type.Array(Type.String()), addresses: Type.Array(Type.String()), underlayAddress: text('where tunnels and volumes of this host end'),
  total: ResourcesSchema, free: ResourcesSchema, accelerator: text('kvm, tcg, or auto: the host finds out itself'), version: text('release'),
  ageMs: count('age of the advertisement, ms'), connected: Type.Boolean()
})
export type HostResource = Static<typeof HostSchema>

export const SiteSchema = Type.Object({
  site: text('site'), gateway: text('gateway host'), peerId: text('libp2p PeerId of the gateway'),
  addresses: Type.Array(Type.String()), hosts: count('hosts'), total: ResourcesSchema, free: ResourcesSchema,
  freeByHost: Type.Array(ResourcesSchema), volumeFreeMib: count('largest volume that fits, MiB'), ageMs: count('age of the advertisement, ms')
})
export type SiteResource = Static<typeof SiteSchema>

export const LeaseSchema = Type.Object({
  leaseId: text('lease'), clusterId: text('cluster'), cluster: text('cluster name'), host: text('host'),
  kind: text('node, volume, frontend or segment'), name: text('what it is for'), state: text('held, committed, active or ended'),
  resources: ResourcesSchema, startMs: count('start'), endMs: count('end'), token: count('fencing token'), masterSite: text('who asked')
})
export type LeaseResource = Static<typeof LeaseSchema>

export const ClusterStateSchema = Type.Union([
  Type.Literal('negotiating'), Type.Literal('committing'), Type.Literal('activating'), Type.Literal('building'),
  Type.Literal('ready'), Type.Literal('degraded'), Type.Literal('failed'), Type.Literal('deleting'), Type.Literal('deleted')
])
export type ClusterState = Static<typeof ClusterStateSchema>

const MaybeMs = Type.Union([Type.Number(), Type.Null()])
export const PhasesSchema = Type.Object({
  leased: MaybeMs, defined: MaybeMs, dhcp: MaybeMs, boot: MaybeMs, image: MaybeMs, ready: MaybeMs
}, { description: 'milliseconds since the cluster was asked for; null: not yet' })
export type Phases = Static<typeof PhasesSchema>
export const PHASES = ['leased', 'defined', 'dhcp', 'boot', 'image', 'ready'] as const

export const NodeSchema = Type.Object({
  name: text('node'), site: text('site'), host: text('host'), mac: text('MAC'), ip: text('address'),
  ready: Type.Boolean(), state: text('latest phase, or the error'), phases: PhasesSchema, rxBytes: count('bytes received by its NIC')
})
export type NodeResource = Static<typeof NodeSchema>

export const ClusterSchema = Type.Object({
  id: text('cluster id'), name: text('name'), state: ClusterStateSchema,
  error: Type.Union([Type.Object({ code: Type.String(), message: Type.String(), hint: Type.Optional(Type.String()) }), Type.Null()]),
  createdAt: count('created'), expiresAt: count('end of the leases'), masterSite: text('master'), cidr: text('addresses'), domain: text('DNS domain'),
  frontend: Type.Union([Type.Object({ name: Type.String(), site: Type.String(), host: Type.String(), ip: Type.String(), mac: Type.String() }), Type.Null()]),
  nodes: Type.Array(NodeSchema),
  volumes: Type.Array(Type.Object({ name: Type.String(), site: Type.String(), host: Type.String(), node: Type.String(), sizeMib: Type.Number(), iqn: Type.String() })),
  lease: Type.Object({ sites: count('member sites'), holds: count('leases held'), negotiateMs: count('request to last receipt'), rttMs: count('slowest ping among member gateways') }),
  segment: Type.Object({
    vni: count('VNI'), ids: Type.Record(Type.String(), Type.Number()), mtuInner: count('largest inner packet'),
    firstPingMs: MaybeMs
  }),
  wan: Type.Object({ bytes: count('received on the WAN ports of the far sites'), bytesWithoutCache: count('received by the nodes there') }),
  caches: Type.Array(Type.Object({ site: Type.String(), requests: Type.Number(), hits: Type.Number(), bytesToNodes: Type.Number(), bytesFromUpstream: Type.Number() })),
  timings: Type.Object({ createMs: MaybeMs, deleteMs: MaybeMs }),
  problems: Type.Array(Type.Object({ site: Type.String(), host: Type.String(), kind: Type.String(), name: Type.String(), error: Type.String() }))
})
export type ClusterResource = Static<typeof ClusterSchema>

export const EventSchema = Type.Object({
  seq: count('grows by one'), time: count('when'), type: text('e.g. cluster.state, node.phase, lease.held'),
  cluster: Type.Optional(Type.String()), message: text('for people')
})
export type EventResource = Static<typeof EventSchema>

export const AgentStatusSchema = Type.Object({
  name: text('host'), site: text('site'), roles: Type.Array(Type.String()), peerId: text('libp2p PeerId'), version: text('release'),
  addresses: Type.Array(Type.String()), peers: Type.Array(Type.Object({ peerId: Type.String(), name: Type.String() })),
  epoch: count('starts of this agent'), uptimeMs: count('since start'), total: ResourcesSchema, free: ResourcesSchema,
  objects: Type.Array(Type.Object({ kind: Type.String(), name: Type.String(), state: Type.String(), error: Type.String() })),
  problems: Type.Array(Type.String({ description: 'what this host cannot do, and the next step' }))
})
export type AgentStatus = Static<typeof AgentStatusSchema>

export const CoordinatorStatusSchema = Type.Object({
  name: text('coordinator'), peerId: text('libp2p PeerId'), version: text('release'), addresses: Type.Array(Type.String()),
  sites: count('sites known'), peers: Type.Array(Type.Object({ peerId: Type.String(), name: Type.String() })), epoch: count('starts'), uptimeMs: count('since start')
})
export type CoordinatorStatus = Static<typeof CoordinatorStatusSchema>

export const SearchSchema = Type.Object({
  nodes: Type.Integer({ minimum: 1, maximum: 200, default: 1 }), vcpus: Type.Integer({ minimum: 1, maximum: 256, default: 1 }),
  memoryMib: Type.Integer({ minimum: 64, maximum: 4 * 1024 * 1024, default: 768 }), volumeMib: Type.Integer({ minimum: 0, maximum: 16 * 1024 * 1024, default: 0 })
}, { additionalProperties: false })
export type SearchQuery = Static<typeof SearchSchema>

export const SearchResultSchema = Type.Object({
  fits: Type.Boolean(), sites: Type.Array(Type.Intersect([SiteSchema, Type.Object({ nodesThatFit: count('nodes of that shape that fit there now') })])),
  explanation: text('how it would be placed, or what is missing and where')
})
export type SearchResult = Static<typeof SearchResultSchema>

/** RFC 9457 problem details; `code` is stable, `hint` says what to try next. */
export const ProblemSchema = Type.Object({
  type: Type.String(), title: Type.String(), status: Type.Number(), detail: Type.String(), code: Type.String(), hint: Type.Optional(Type.String())
})
export type Problem = Static<typeof ProblemSchema>

export const ConsoleSchema = Type.Object({
  node: text('node'), ip: text('address'), namespace: text('network namespace of the frontend'), keyFile: text('private key on the master gateway'),
  argv: Type.Array(Type.String(), { description: 'command that opens a shell on the node, to be run as root on the master gateway' })
})
export type ConsoleResource = Static<typeof ConsoleSchema>
