/**
 * REST resources of agent and coordinator: the server validates with these schemas, OpenAPI is
 * generated from them, CLI and dashboard take their types from here. Times are epoch milliseconds
 * unless a name says otherwise. Later releases add fields and rename none.
 */
import Type, { type Static } from 'typebox'
import {
  HOLD_TTL_MS, INVITATION_TTL_MAX_MS, MAX_HOLD_TTL_MS, MAX_MEMORY_MIB_PER_NODE, MAX_NODES_PER_CLUSTER, MAX_PRICE_MILLI, MAX_RECORDS, MAX_SEARCH_NAMES, MAX_TERM_MS, MAX_VCPUS_PER_NODE, MAX_VOLUME_MIB, MIN_TERM_MS, RPC_DEADLINE_MAX_MS
} from './core/limits.ts'
import { searchDefaults } from './core/search/query.ts'

const text = (description: string) => Type.String({ description, maxLength: 4096 })
const count = (description: string) => Type.Number({ description, minimum: 0 })

export const ResourcesSchema = Type.Object({
  vcpus: count('virtual CPUs'), memoryMib: count('memory, MiB'), diskMib: count('disk, MiB'),
  volumes: count('volumes that can be exported'), bandwidthMbit: count('of the WAN, Mbit/s')
})

const MaybeMs = Type.Union([Type.Number(), Type.Null()])
const MaybeSlice = Type.Union([Type.Object({ from: count('first'), to: count('last') }), Type.Null()], { description: 'gateways: ids of in-site segments that it alone gives out' })
const PathSchema = Type.Union([Type.Literal('self'), Type.Literal('direct'), Type.Literal('relay'), Type.Null()], { description: 'how this agent is connected to it; null: not now' })

export const HostSchema = Type.Object({
  site: text('site'), host: text('host name'), peerId: text('libp2p PeerId'),
  roles: Type.Array(Type.String()), addresses: Type.Array(Type.String()), underlayAddress: text('where tunnels and volumes of this host end'),
  total: ResourcesSchema, free: ResourcesSchema, accelerator: text('kvm, tcg, or auto: the host finds out itself'), version: text('release'),
  ageMs: count('age of the advertisement, ms'), connected: Type.Boolean(),
  state: Type.Union([Type.Literal('alive'), Type.Literal('suspect'), Type.Literal('dead'), Type.Literal('leaving')], { description: 'suspect: not heard from; dead: nor by others' }),
  cordoned: Type.Boolean({ description: 'takes no new leases' }), path: PathSchema
})
export type HostResource = Static<typeof HostSchema>

const InventorySchema = Type.Object({
  cpuModel: text('processor'), sockets: count('sockets'), cores: count('cores'), threads: count('threads'), architecture: text('e.g. x86_64'), memoryMib: count('memory, MiB'),
  numa: Type.Array(Type.Object({ node: count('number'), cpus: count('threads'), memoryMib: count('memory, MiB') })),
  disks: Type.Array(Type.Object({ name: text('device'), sizeBytes: count('bytes'), model: text('model'), rotational: Type.Boolean(), transport: text('e.g. nvme, sata') })),
  volumeGroups: Type.Array(Type.Object({ name: text('volume group'), sizeBytes: count('bytes'), freeBytes: count('bytes') })),
  nics: Type.Array(Type.Object({
    name: text('device'), mac: text('MAC'), mtu: count('bytes'), speedMbit: count('0: not known'), up: Type.Boolean(), trunk: Type.Boolean({ description: 'carries VLANs' }),
    driver: text('kernel driver'), addresses: Type.Array(Type.String())
  })),
  virtualization: text('kvm when guests can use it, else tcg'), kernel: text('release'), libvirtVersion: text('empty: none'), qemuVersion: text('empty: none'), os: text('distribution')
})
export type InventoryResource = Static<typeof InventorySchema>

export const CertificateSchema = Type.Object({
  site: text('site'), name: text('host'), roles: Type.Array(Type.String()), issuer: text('PeerId of the key that signed it'),
  notBeforeMs: count('valid from'), notAfterMs: count('valid until: the first of its chain to end'), joinedMs: count('first admitted'),
  segmentIds: MaybeSlice
})
export type CertificateResource = Static<typeof CertificateSchema>

/** One host in full: what it has, what it can do, what proves who it is. */
export const HostDetailSchema = Type.Object({
  ...HostSchema.properties,
  promised: ResourcesSchema, features: Type.Array(Type.String({ description: 'what it can do, e.g. kvm, wireguard' })),
  rttMs: MaybeMs, inventory: Type.Union([InventorySchema, Type.Null()], { description: 'null: not read yet' }), certificate: Type.Union([CertificateSchema, Type.Null()])
})
export type HostDetail = Static<typeof HostDetailSchema>

export const CordonBodySchema = Type.Object({
  cordoned: Type.Boolean(), reason: Type.Optional(Type.String({ maxLength: 200, description: 'for people' }))
}, { additionalProperties: false })
export const CordonSchema = Type.Object({ host: text('host'), cordoned: Type.Boolean() })
export type CordonResource = Static<typeof CordonSchema>

const HostRoleSchema = Type.Union([Type.Literal('gateway'), Type.Literal('compute'), Type.Literal('storage')])
export const InviteBodySchema = Type.Object({
  roles: Type.Optional(Type.Array(HostRoleSchema, { minItems: 1, uniqueItems: true, description: 'that the host may take; default compute, storage' })),
  ttlMs: Type.Optional(Type.Integer({ minimum: 1_000, maximum: INVITATION_TTL_MAX_MS, description: 'default one hour' })),
  note: Type.Optional(Type.String({ maxLength: 200, description: 'for people' })),
  quotaPercent: Type.Optional(Type.Integer({ minimum: 0, maximum: 100, description: 'a gateway: its share of every quota of the site; those of all gateways are at most 100 together; default 0' }))
}, { additionalProperties: false })
export type InviteBody = Static<typeof InviteBodySchema>
/** A token as it is known to whoever gave it out: without its secret. */
export const InvitationSchema = Type.Object({
  id: text('what it is withdrawn by'), kind: text('host or site'), site: text('site; empty: the one that joins chooses'), roles: Type.Array(Type.String()),
  segmentIds: MaybeSlice, note: text('for people'), createdMs: count('when it was made'), expiresMs: count('until when it can be used'),
  state: text('open, used, expired, withdrawn, or burnt: too many wrong proofs'), wrongProofs: count('who tried it without its secret'),
  used: Type.Union([Type.Object({ subject: text('PeerId'), name: text('who joined with it'), atMs: count('when') }), Type.Null()])
})
export type InvitationResource = Static<typeof InvitationSchema>
/** The token is shown once, to whoever asked for it. */
export const InvitedSchema = Type.Object({ token: text('secret: hand it over privately'), invitation: InvitationSchema })
export type InvitedResource = Static<typeof InvitedSchema>

export const RevokeBodySchema = Type.Object({
  host: Type.String({ minLength: 1, maxLength: 128, description: 'host name, or its PeerId' }), reason: Type.Optional(Type.String({ maxLength: 200 }))
}, { additionalProperties: false })
export const RevokedSchema = Type.Object({ site: text('site'), host: text('host'), peerId: text('libp2p PeerId'), revokedMs: count('when'), reason: text('for people') })
export type RevokedResource = Static<typeof RevokedSchema>

export const SiteSchema = Type.Object({
  site: text('site'), gateway: text('gateway host'), peerId: text('libp2p PeerId of the gateway'),
  addresses: Type.Array(Type.String()), hosts: count('hosts'), total: ResourcesSchema, free: ResourcesSchema,
  freeByHost: Type.Array(ResourcesSchema), volumeFreeMib: count('largest volume that fits, MiB'), ageMs: count('age of the advertisement, ms'),
  state: Type.Union([Type.Literal('alive'), Type.Literal('suspect'), Type.Literal('dead')], { description: 'whether its gateway is heard of' }),
  path: Type.Union([Type.Literal('self'), Type.Literal('direct'), Type.Literal('relay'), Type.Null()], { description: 'how its gateway is reached from here; null: not connected' }),
  rttMs: Type.Union([Type.Number({ minimum: 0 }), Type.Null()], { description: 'round trip to its gateway from here, ms; null: not known' }),
  features: Type.Array(Type.String(), { description: 'what at least one of its hosts can do' }),
  roles: Type.Array(Type.String(), { description: 'roles that its hosts have' }),
  priceMilli: count('price per vCPU and hour, thousandths of the unit of the federation; 0: free'),
  maxTermMs: count('longest lease it gives, ms; 0: no limit of its own'),
  relay: Type.Boolean({ description: 'whether its gateway relays for gateways that nobody can reach' })
})
export type SiteResource = Static<typeof SiteSchema>

const Skew = Type.Union([Type.Number(), Type.Null()], { description: 'clock of the master less the clock of this host, ms, as of its last keep-alive; null: not known' })
export const LeaseSchema = Type.Object({
  leaseId: text('lease'), clusterId: text('cluster'), cluster: text('cluster name'), host: text('host'),
  kind: text('node, volume, frontend, segment or quota'), name: text('what it is for'), state: text('held, committed, active or ended'),
  resources: ResourcesSchema, segmentId: count('in-site id of a segment; 0: it is about none'),
  startMs: count('start'), endMs: count('end'), formerEndMs: count('end before its lender gave notice; 0: it has none'), remainsMs: count('until it ends by itself, ms: of a hold its time to live, of a committed lease the time to be activated in'),
  token: count('fencing token'), masterSite: text('who asked'), epoch: count('highest epoch of a master that was heard of'),
  masterless: Type.Boolean({ description: 'its master has not been heard of for a while; it goes on to its end, and may be adopted' }),
  heardAgoMs: Type.Union([Type.Number({ minimum: 0 }), Type.Null()], { description: 'since its master was last heard of, ms; null: not since the start of this agent' }),
  skewMs: Skew
})
export type LeaseResource = Static<typeof LeaseSchema>

export const LeaseEventSchema = Type.Object({
  seq: count('of the event; what one event changed has the same'), at: count('when, on the ledger clock'),
  what: Type.Union([Type.Literal('lease'), Type.Literal('extension'), Type.Literal('epoch')], { description: 'what changed' }),
  event: text('as in docs/lease-states.md: hold, commit, activate, extend, release, expire, revoke ...'),
  leaseId: text('lease; empty: it is not about one'), offerId: text('offer; empty: it is not about one'), clusterId: text('cluster'), cluster: text('cluster name; its id where no lease of it is left'),
  kind: text('kind of lease'), name: text('what it is for'), from: Type.Union([text('state before'), Type.Null()], { description: 'null: it is new' }), state: text('state afterwards'),
  endMs: count('end afterwards'), token: count('fencing token of the change'), reason: text('why it ended, or who became master')
})
export type LeaseEventResource = Static<typeof LeaseEventSchema>

/** One lease in full, with what happened to it. */
export const LeaseDetailSchema = Type.Object({
  ...LeaseSchema.properties,
  offerId: text('offer that it was part of'), masterPeer: text('PeerId of the master that asked'), requester: text('PeerId of the gateway on whose behalf it is held'),
  epochHolder: text('PeerId of the master of that epoch; empty: not known'), deadlineMs: count('when a hold, or a committed lease that is not activated, ends; 0: it is neither'), confirmByMs: count('a reservation ends then unless its master is heard of shortly before; 0: not needed'),
  commitToken: count('the receipt that activation asks for; 0: not committed'), activatedMs: count('0: never'), endedMs: count('0: not yet'), endReason: text('empty while it lives'),
  vacated: Type.Boolean({ description: 'false: it has ended and may still run here' }), history: Type.Array(LeaseEventSchema, { description: 'oldest first' })
})
export type LeaseDetail = Static<typeof LeaseDetailSchema>

export const LeaseRevokeBodySchema = Type.Object({
  cluster: Type.String({ minLength: 1, maxLength: 64, description: 'name or id' }), reason: Type.String({ minLength: 1, maxLength: 200, description: 'kept with the leases and in the history' })
}, { additionalProperties: false })
export const LeaseRevokedSchema = Type.Object({ host: text('host'), clusterId: text('cluster'), cluster: text('cluster name'), masterSite: text('who asked'), ended: count('leases that were ended'), reason: text('for people') })
export type LeaseRevoked = Static<typeof LeaseRevokedSchema>

export const ClusterStateSchema = Type.Union([
  Type.Literal('negotiating'), Type.Literal('offered'), Type.Literal('committing'), Type.Literal('preparing'), Type.Literal('activating'), Type.Literal('building'),
  Type.Literal('ready'), Type.Literal('degraded'), Type.Literal('failed'), Type.Literal('deleting'), Type.Literal('deleted'),
  Type.Literal('masterless'), Type.Literal('superseded'), Type.Literal('reserved')
], { description: 'offered: sites hold it for its user, who has to accept it by heldUntil; reserved: every lease is committed, and startsAt is to come; masterless: known from a copy, its master is not heard of; superseded: another host is its master now' })
export type ClusterState = Static<typeof ClusterStateSchema>

export const PhasesSchema = Type.Object({
  leased: MaybeMs, defined: MaybeMs, dhcp: MaybeMs, boot: MaybeMs, image: MaybeMs, ready: MaybeMs
}, { description: 'milliseconds since the cluster was asked for; null: not yet' })
export type Phases = Static<typeof PhasesSchema>
export const PHASES = ['leased', 'defined', 'dhcp', 'boot', 'image', 'ready'] as const

export const NodeSchema = Type.Object({
  name: text('node'), site: text('site'), host: text('host'), mac: text('MAC'), ip: text('address'),
  local: Type.Optional(Type.Object({ mac: text('MAC'), ip: text('address') }, { description: 'its second card, on the segment that does not leave its site' })),
  ready: Type.Boolean(), state: text('latest phase, or the error'), phases: PhasesSchema, rxBytes: count('bytes received by its card on the cluster\'s segment')
})
export type NodeResource = Static<typeof NodeSchema>

export const ClusterSchema = Type.Object({
  id: text('cluster id'), name: text('name'), state: ClusterStateSchema,
  error: Type.Union([Type.Object({ code: Type.String(), message: Type.String(), hint: Type.Optional(Type.String()) }), Type.Null()]),
  createdAt: count('created'), startsAt: count('start of the leases'), expiresAt: count('end of the leases'), masterSite: text('master'), epoch: count('of its master: grows with every take-over'), cidr: text('addresses'), domain: text('DNS domain'),
  frontend: Type.Union([Type.Object({ name: Type.String(), site: Type.String(), host: Type.String(), ip: Type.String(), mac: Type.String() }), Type.Null()]),
  nodes: Type.Array(NodeSchema),
  volumes: Type.Array(Type.Object({ name: Type.String(), site: Type.String(), host: Type.String(), node: Type.String(), sizeMib: Type.Number(), iqn: Type.String() })),
  lease: Type.Object({ sites: count('member sites'), holds: count('leases held'), negotiateMs: count('request to last receipt'), rttMs: count('slowest ping among member gateways') }),
  heldUntil: Type.Union([count('until when it can be accepted; what is held then is given back'), Type.Null()], { description: 'null: it is not offered' }),
  held: Type.Union([Type.Array(Type.Object({
    site: text('site'), nodes: count('of the cluster'), volumes: Type.Array(Type.String()), frontend: Type.Boolean(), hosts: Type.Array(Type.String(), { description: 'that hold something' }),
    priceMilli: Type.Union([Type.Number({ minimum: 0 }), Type.Null()], { description: 'as offered, per vCPU and hour, thousandths; null: its release says none' }),
    totalMilli: Type.Union([Type.Number({ minimum: 0 }), Type.Null()], { description: 'for its nodes over the term; null: not known' })
  })), Type.Null()], { description: 'offered: what each site holds, at which price; null: it is not' }),
  lenders: Type.Array(Type.Object({
    site: text('site'), gateway: text('gateway host'), state: text('of its leases: held, committed, active, ended; empty: not known, or none'),
    heardAgoMs: Type.Union([Type.Number({ minimum: 0 }), Type.Null()], { description: 'since it last answered a keep-alive, ms; null: not yet' }),
    skewMs: Type.Union([Type.Number(), Type.Null()], { description: 'its clock less that of the master, ms, give or take half the round trip' }),
    error: text('why it does not answer; empty: it does'),
    endsAt: Type.Optional(count('when its leases end before those of the cluster: preempted by its policy')),
    notice: Type.Optional(text('for whom they end earlier, or that a notice was withdrawn; as the lender says it')),
    priceMilli: Type.Optional(count('what it asks of this site per vCPU and hour, thousandths of the unit of the federation'))
  })),
  segment: Type.Object({
    vni: count('VNI'), ids: Type.Record(Type.String(), Type.Number()), mtuInner: count('largest inner packet'),
    firstPingMs: MaybeMs,
    local: Type.Optional(Type.Object({
      vni: count('what its links are named by'), cidr: text('addresses'), ids: Type.Record(Type.String(), Type.Number(), { description: 'in-site id by site' })
    }, { description: 'the second segment of each site, which does not leave it' }))
  }),
  wan: Type.Object({ bytes: count('received on the WAN ports of the far sites'), bytesWithoutCache: count('received by the nodes there') }),
  caches: Type.Array(Type.Object({ site: Type.String(), requests: Type.Number(), hits: Type.Number(), bytesToNodes: Type.Number(), bytesFromUpstream: Type.Number(), wanBytes: Type.Optional(count('of packets from the frontend')), paused: Type.Optional(text('why nothing is fetched before nodes ask; empty: it is')) })),
  cacheRetainMs: Type.Union([count('how long stores of its caches are to outlive it'), Type.Null()], { description: 'null: they do not' }),
  timings: Type.Object({ createMs: MaybeMs, deleteMs: MaybeMs }),
  problems: Type.Array(Type.Object({ site: Type.String(), host: Type.String(), kind: Type.String(), name: Type.String(), error: Type.String() }))
})
export type ClusterResource = Static<typeof ClusterSchema>

const Moment = (description: string) => Type.Integer({ minimum: 0, maximum: 8.64e15, description })
/** Names of sites in one word of a query. */
export const SiteNamesSchema = Type.Optional(Type.String({ minLength: 1, maxLength: 4096, description: 'only these, with commas between them, beside the own one' }))
/** What is said of a new cluster beside its specification. */
export const CreateQuerySchema = Type.Object({
  dryRun: Type.Optional(Type.Boolean({ description: 'say where it would go, hold nothing' })),
  startMs: Type.Optional(Moment('start, instead of spec.start; default now')),
  endMs: Type.Optional(Moment('end, instead of spec.end and spec.term')),
  forMs: Type.Optional(Type.Integer({ minimum: MIN_TERM_MS, maximum: MAX_TERM_MS, description: 'how long, instead of an end' })),
  earliest: Type.Optional(Type.Boolean({ description: 'as early as all of it fits, no sooner than the start' })),
  withinMs: Type.Optional(Type.Integer({ minimum: 0, maximum: MAX_TERM_MS, description: 'with earliest: how long after that it starts at the latest' })),
  holdMs: Type.Optional(Type.Integer({ minimum: HOLD_TTL_MS, maximum: MAX_HOLD_TTL_MS, description: 'sites hold it so long, and nothing is decided until it is accepted' })),
  sites: SiteNamesSchema
}, { additionalProperties: false })

export const AdoptBodySchema = Type.Object({ force: Type.Optional(Type.Boolean({ description: 'although its master is heard of, or the anchor host does not answer' })) }, { additionalProperties: false })
export const ExtendBodySchema = Type.Object({ termMs: Type.Integer({ minimum: MIN_TERM_MS, maximum: MAX_TERM_MS, description: 'how long it is to last from now, ms' }) }, { additionalProperties: false })
export const ScaleBodySchema = Type.Object({ nodes: Type.Integer({ minimum: 1, maximum: MAX_NODES_PER_CLUSTER, description: 'nodes in all' }) }, { additionalProperties: false })

export const EventSchema = Type.Object({
  seq: count('grows by one'), time: count('when'), type: text('e.g. cluster.state, node.phase, lease.held'),
  cluster: Type.Optional(Type.String()), message: text('for people')
})
export type EventResource = Static<typeof EventSchema>

export const AgentStatusSchema = Type.Object({
  name: text('host'), site: text('site'), roles: Type.Array(Type.String()), peerId: text('libp2p PeerId'), version: text('release'),
  federation: text('PeerId of the coordinator key that all trust starts from'), certificate: CertificateSchema,
  addresses: Type.Array(Type.String()), peers: Type.Array(Type.Object({ peerId: Type.String(), name: Type.String(), path: PathSchema, rttMs: MaybeMs })),
  epoch: count('starts of this agent'), uptimeMs: count('since start'), total: ResourcesSchema, free: ResourcesSchema,
  cordoned: Type.Boolean(), cordonReason: text('for people'),
  objects: Type.Array(Type.Object({ kind: Type.String(), name: Type.String(), state: Type.String(), error: Type.String() })),
  problems: Type.Array(Type.String({ description: 'what this host cannot do, and the next step' }))
})
export type AgentStatus = Static<typeof AgentStatusSchema>

const CoordinatorPathSchema = Type.Union([Type.Literal('direct'), Type.Literal('relay'), Type.Null()], { description: 'how it is connected; null: not now' })
const CountsByCode = (description: string) => Type.Record(Type.String(), Type.Number(), { description })
export const CoordinatorStatusSchema = Type.Object({
  name: text('coordinator'), peerId: text('libp2p PeerId'), federation: text('PeerId of the coordinator key: the federation'), version: text('release'),
  addresses: Type.Array(Type.String()), joinAddresses: Type.Array(Type.String({ description: 'where invited sites join; empty while nobody is invited' })),
  sites: count('sites known'), peers: Type.Array(Type.Object({ peerId: Type.String(), name: Type.String(), path: CoordinatorPathSchema, rttMs: MaybeMs })),
  certificate: Type.Object({ expiresAt: count('end of the own certificate'), renewsAt: count('when it renews itself'), error: Type.Union([Type.String(), Type.Null()]) }),
  invitations: count('open invitations'), revocations: count('revocations known'),
  refusals: Type.Object({ us: CountsByCode('connections that this coordinator refused, by reason'), them: CountsByCode('connections that others refused') }),
  joins: CountsByCode('answers to those who came with a token'), records: CountsByCode('received records by what became of them'),
  recordsNotAdmitted: CountsByCode('records whose author is no member, by reason'),
  epoch: count('starts'), uptimeMs: count('since start')
})
export type CoordinatorStatus = Static<typeof CoordinatorStatusSchema>

export const CoordinatorSiteSchema = Type.Object({
  site: text('site'), key: Type.Union([text('PeerId of its key'), Type.Null()]),
  state: Type.Union([Type.Literal('alive'), Type.Literal('suspect'), Type.Literal('dead'), Type.Literal('never seen'), Type.Literal('revoked')]),
  admittedHere: Type.Boolean({ description: 'by this coordinator, not by another one' }), admittedAt: MaybeMs, certificateExpiresAt: MaybeMs,
  hosts: count('hosts'), total: Type.Union([ResourcesSchema, Type.Null()]), free: Type.Union([ResourcesSchema, Type.Null()]),
  gateways: Type.Array(Type.Object({ host: text('host'), peerId: text('libp2p PeerId'), state: text('alive, suspect or dead'), ageMs: count('age of its advertisement'), path: CoordinatorPathSchema })),
  revoked: Type.Union([Type.Object({ at: count('when'), reason: text('for people') }), Type.Null()])
})
export type CoordinatorSite = Static<typeof CoordinatorSiteSchema>

const SiteName = Type.String({ pattern: '^[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?$' })
export const CoordinatorInviteSchema = Type.Object({
  site: SiteName, ttlMs: Type.Optional(Type.Integer({ minimum: 1_000, maximum: INVITATION_TTL_MAX_MS, description: 'default one hour' })), note: Type.Optional(Type.String({ maxLength: 200, description: 'for people' }))
}, { additionalProperties: false })
export type CoordinatorInvite = Static<typeof CoordinatorInviteSchema>
/** Shown once: the token is secret. */
export const CoordinatorInvitedSchema = Type.Object({ id: text('what it is withdrawn by'), site: text('site'), expiresAt: count('until when it can be used'), token: text('secret: hand it over privately') })
export type CoordinatorInvited = Static<typeof CoordinatorInvitedSchema>

export const CoordinatorRevokeSchema = Type.Object({
  site: SiteName, reason: Type.Optional(Type.String({ maxLength: 200 })), key: Type.Optional(Type.String({ maxLength: 128, description: 'PeerId of the site key, where two hold one name' }))
}, { additionalProperties: false })
export type CoordinatorRevoke = Static<typeof CoordinatorRevokeSchema>
export const CoordinatorRevokedSchema = Type.Object({
  site: text('site'), key: text('PeerId of its key'), revokedAt: count('when'), reason: text('for people'),
  already: Type.Boolean({ description: 'it was before' }), withdrawn: Type.Array(Type.String({ description: 'open invitations of that site that were withdrawn with it' }))
})
export type CoordinatorRevoked = Static<typeof CoordinatorRevokedSchema>

/** What an export takes from a coordinator that runs; keys are read from their files, never sent. */
export const CoordinatorExportSchema = Type.Object({ state: Type.Unknown({ description: 'as in the file' }) })

const names = (what: string, pattern: string) => Type.Array(Type.String({ pattern, maxLength: 64 }), { maxItems: MAX_SEARCH_NAMES, default: [], description: what })
const NAME = '^[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?$'

export const SearchSchema = Type.Object({
  nodes: Type.Integer({ minimum: 1, maximum: MAX_NODES_PER_CLUSTER, default: searchDefaults.nodes, description: 'how many nodes' }),
  vcpus: Type.Integer({ minimum: 1, maximum: MAX_VCPUS_PER_NODE, default: searchDefaults.vcpus, description: 'virtual CPUs of each' }),
  memoryMib: Type.Integer({ minimum: 64, maximum: MAX_MEMORY_MIB_PER_NODE, default: searchDefaults.memoryMib, description: 'memory of each, MiB' }),
  diskMib: Type.Integer({ minimum: 0, maximum: MAX_VOLUME_MIB, default: searchDefaults.diskMib, description: 'disk of each on its host, MiB' }),
  volumeMib: Type.Integer({ minimum: 0, maximum: MAX_VOLUME_MIB, default: searchDefaults.volumeMib, description: 'one data volume, MiB' }),
  roles: names('roles that hosts of the site must have: compute, storage, gateway', '^(compute|storage|gateway)$'),
  features: names('what hosts of the site must be able to do, e.g. kvm', '^[a-zA-Z0-9][a-zA-Z0-9._-]{0,63}$'),
  sites: names('only these sites', NAME),
  notSites: names('all but these sites', NAME),
  maxRttMs: Type.Optional(Type.Number({ minimum: 0, maximum: RPC_DEADLINE_MAX_MS, description: 'longest round trip from where the search is asked, ms' })),
  maxPriceMilli: Type.Optional(Type.Integer({ minimum: 0, maximum: MAX_PRICE_MILLI, description: 'highest price per vCPU and hour, thousandths of the unit of the federation' })),
  startMs: Type.Optional(Type.Integer({ minimum: 0, maximum: 8.64e15, description: 'start of the time window, with endMs' })),
  endMs: Type.Optional(Type.Integer({ minimum: 0, maximum: 8.64e15, description: 'end of the time window, with startMs' })),
  limit: Type.Integer({ minimum: 1, maximum: MAX_RECORDS, default: searchDefaults.limit, description: 'how many sites to answer with; all are counted' })
}, { additionalProperties: false })
export type SearchQuery = Static<typeof SearchSchema>

export const SearchReasonSchema = Type.Object({
  code: Type.Union([
    Type.Literal('NOT_NAMED'), Type.Literal('LEFT_OUT'), Type.Literal('DEAD'), Type.Literal('STALE'), Type.Literal('ROLE'), Type.Literal('FEATURE'),
    Type.Literal('RTT'), Type.Literal('PRICE'), Type.Literal('TERM'), Type.Literal('NO_HOST'), Type.Literal('VCPUS'), Type.Literal('MEMORY'),
    Type.Literal('DISK'), Type.Literal('SHAPE'), Type.Literal('NODES'), Type.Literal('VOLUME')
  ], { description: 'which need failed' }),
  message: text('by how much')
})
export type SearchReason = Static<typeof SearchReasonSchema>

export const SearchResultSchema = Type.Object({
  fits: Type.Boolean({ description: 'whether the sites take it together' }),
  nodesThatFit: count('nodes of that shape that fit at all sites together'), known: count('sites looked at'), matching: count('sites that take it alone'),
  sites: Type.Array(Type.Intersect([SiteSchema, Type.Object({
    nodesThatFit: count('nodes of that shape that fit there now; 0 where a reason rules the whole site out'),
    fits: Type.Boolean({ description: 'whether this site takes it alone' }),
    reasons: Type.Array(SearchReasonSchema, { description: 'every reason why it does not' })
  })]), { description: 'by how many of the wanted nodes fit, RTT, price, name' }),
  explanation: text('how it would be placed, or what is missing and where')
})
export type SearchResult = Static<typeof SearchResultSchema>

/** RFC 9457 problem details; `code` is stable, `hint` says what to try next. */
export const ProblemSchema = Type.Object({
  type: Type.String(), title: Type.String(), status: Type.Number(), detail: Type.String(), code: Type.String(), hint: Type.Optional(Type.String())
})
export type Problem = Static<typeof ProblemSchema>

/** What hosts have of a cluster's segment, from its document; nothing is looked at. */
export const SegmentPlanSchema = Type.Object({
  cluster: text('cluster'), vni: count('id of the segment'), version: count('of the document that this follows from'),
  hosts: Type.Array(Type.Object({
    site: text('site'), host: text('host'), gateway: Type.Boolean(),
    plan: Type.String({ description: 'links, forwarding and neighbour entries, settings of the kernel and nftables chains, one fact a line', maxLength: 1024 * 1024 })
  }))
})
export type SegmentPlanResource = Static<typeof SegmentPlanSchema>

export const ConsoleSchema = Type.Object({
  node: text('node'), ip: text('address'), namespace: text('network namespace of the frontend'), keyFile: text('private key on the master gateway'),
  argv: Type.Array(Type.String(), { description: 'command that opens a shell on the node, to be run as root on the master gateway' })
})
export type ConsoleResource = Static<typeof ConsoleSchema>
