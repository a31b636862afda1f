/**
 * What a lender checks of questions before it works on them: names, numbers and counts that come
 * from another site. Pure; every function says what is wrong in words, or null.
 */
import { type Resources, describe, fits as fitsWithin, isValid, zero } from '../capacity.ts'
import type { HostExtendRequest } from '../gateway/events.ts'
import {
  HOLD_TTL_MS, MAX_BANDWIDTH_MBIT, MAX_CERTIFICATE_BYTES, MAX_CHAIN, MAX_COPY_BYTES, MAX_EPOCH, MAX_MEMORY_MIB_PER_NODE, MAX_NODES_PER_CLUSTER, MAX_TERM_MS,
  MAX_VCPUS_PER_NODE, MAX_VNI, MAX_VOLUME_MIB, MAX_VOLUMES_PER_CLUSTER, MIN_TERM_MS
} from '../limits.ts'
import { isLocal } from '../network/local.ts'
import type { CommitRequest, ExtendRequest, HoldItem, HoldRequest, KeepAliveRequest, LeaseKind, ReleaseRequest, Request } from '../messages.ts'

const UUID = /^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/
const NAME = /^[a-z0-9][a-z0-9-]{0,62}$/
const ID = /^[A-Za-z0-9-]{1,64}$/
/** Idempotency keys; a gateway puts the offer's id behind the master's key, so a master's is shorter. */
const MAX_KEY = 256
const MAX_MASTER_KEY = MAX_KEY - 65
const KINDS: ReadonlySet<string> = new Set<LeaseKind>(['node', 'volume', 'frontend', 'segment', 'quota'])
/** One frontend, two segments and one share of a quota beside nodes and volumes. */
export const MAX_ITEMS = MAX_NODES_PER_CLUSTER + MAX_VOLUMES_PER_CLUSTER + 4
/** Why something is given back: a sentence for people. */
const MAX_REASON = 1024
/** Some hundred thousand years: what is beyond it is no time. */
const MAX_MS = Number.MAX_SAFE_INTEGER / 2
const MAX_UINT32 = 0xffff_ffff

/** Clusters are told apart by UUID: objects on a host carry its first eight characters. */
export const isUuid = (text: string): boolean => UUID.test(text)
/** Names of clusters, sites, hosts, nodes and volumes: they end up in host names, files and links. */
export const isName = (text: string): boolean => NAME.test(text)

const isKey = (text: string, most: number): boolean => text.length >= 1 && text.length <= most
const isWhole = (value: number, least: number, most: number): boolean => Number.isSafeInteger(value) && value >= least && value <= most

/** The first value that occurs a second time. */
export function twice<T> (values: readonly T[]): T | undefined {
  const seen = new Set<T>()
  return values.find(value => seen.has(value) || !seen.add(value))
}

const firstOf = (...checks: ReadonlyArray<readonly [boolean, string]>): string | null => checks.find(([ok]) => !ok)?.[1] ?? null

/** What makes a cluster's identity unusable here. */
function identityProblem ({ clusterId, cluster, masterSite }: { clusterId: string, cluster: string, masterSite: string }): string | null {
  return firstOf(
    [isUuid(clusterId), 'its id is no UUID in lower case'],
    [isName(cluster), 'its name is not made of lower-case letters, digits and dashes'],
    [isName(masterSite), 'the name of its master\'s site is malformed']
  )
}

type Part = readonly [boolean, string]
const isTime = (ms: number): boolean => isWhole(ms, 0, MAX_MS)
const cluster = (id: string): Part => [isUuid(id), 'its cluster is no UUID in lower case']
const key = (text: string, most: number): Part => [isKey(text, most), `its idempotency key is not 1 to ${most} characters long`]
const offer = (id: string): Part => [ID.test(id), 'its offer has a malformed id']
const ttl = (ms: number): Part => [isWhole(ms, 0, MAX_UINT32), `its time to live of ${ms} ms is none`]
const sent = (ms: number): Part => [isTime(ms), `it was sent at ${ms}, which is no time`]
const bandwidth = (mbit: number): Part => [isWhole(mbit, 0, MAX_BANDWIDTH_MBIT), `its bandwidth of ${mbit} Mbit/s is not within 0..${MAX_BANDWIDTH_MBIT}`]
/** Of a master: the first one has 1. */
const masterEpoch = (epoch: number): Part => [isWhole(epoch, 1, MAX_EPOCH), `its epoch ${epoch} is not within 1..${MAX_EPOCH}`]
/** Inside a site 0 stands for nobody: an operator, or the own gateway that clears up. */
const anyEpoch = (epoch: number): Part => [isWhole(epoch, 0, MAX_EPOCH), `its epoch ${epoch} is not within 0..${MAX_EPOCH}`]
const leases = (ids: readonly string[]): readonly Part[] => [
  [ids.length <= MAX_ITEMS && ids.every(id => ID.test(id)), 'an id of a lease is malformed, or there are too many'],
  [twice(ids) === undefined, `lease ${twice(ids) ?? ''} is named twice`]
]

/** What is wrong with a term that is asked for. @param nowMs of who lends */
export function termProblem ({ startMs, endMs }: { startMs: number, endMs: number }, nowMs: number): string | null {
  const term = endMs - startMs
  return firstOf(
    [isTime(startMs) && isTime(endMs), 'its start or its end is no time'],
    [endMs > nowMs, 'it ends in the past'],
    [term >= MIN_TERM_MS, `its term of ${term} ms is below ${MIN_TERM_MS} ms`],
    [term <= MAX_TERM_MS, `its term of ${term} ms is above ${MAX_TERM_MS} ms`],
    [startMs <= nowMs + MAX_TERM_MS, 'it starts too far in the future']
  )
}

/** What is wrong with a later end that is asked for. @param nowMs of who lends */
const endProblem = (endMs: number, nowMs: number): string | null => firstOf(
  [isTime(endMs), `its end ${endMs} is no time`],
  [endMs > nowMs, 'it ends in the past'],
  [endMs <= nowMs + 2 * MAX_TERM_MS, 'it ends too far in the future']
)

/** What is wrong with the wish for a later end. @param nowMs of who lends */
export const extendProblem = (request: ExtendRequest, nowMs: number): string | null => firstOf(
  cluster(request.clusterId), key(request.key, MAX_MASTER_KEY), offer(request.offerId), ttl(request.ttlMs), masterEpoch(request.epoch), sent(request.sentMs)
) ?? endProblem(request.endMs, nowMs)

/** As `extendProblem`, of a gateway's question to its host. */
export const hostExtendProblem = (request: HostExtendRequest, nowMs: number): string | null => firstOf(
  cluster(request.clusterId), key(request.key, MAX_KEY), offer(request.offerId), ttl(request.ttlMs), anyEpoch(request.epoch), ...leases(request.leaseIds),
  [request.leaseIds.length > 0, 'it names no lease']
) ?? endProblem(request.endMs, nowMs)

export const commitProblem = (request: CommitRequest): string | null =>
  firstOf(cluster(request.clusterId), offer(request.offerId), [request.key.length <= MAX_KEY, 'its idempotency key is too long'], masterEpoch(request.epoch))

export const hostCommitProblem = (request: Omit<CommitRequest, 'key'>): string | null =>
  firstOf(cluster(request.clusterId), offer(request.offerId), anyEpoch(request.epoch))

/** Of masters and of gateways: giving back is never refused for anything but its form. */
export const releaseProblem = (request: ReleaseRequest): string | null => firstOf(
  cluster(request.clusterId), [request.reason.length <= MAX_REASON, `its reason is longer than ${MAX_REASON} characters`], anyEpoch(request.epoch), ...leases(request.leaseIds),
  [request.offerId === '' || ID.test(request.offerId), 'its offer has a malformed id'],
  [request.offerId === '' || request.leaseIds.length === 0, 'it names an offer and leases, so it contradicts itself']
)

export const keepAliveProblem = ({ clusterId, epoch, sentMs, grant }: KeepAliveRequest): string | null => firstOf(
  cluster(clusterId), masterEpoch(epoch), sent(sentMs),
  [grant === null || (isBytes(grant.envelope) && grant.chain.length <= MAX_CHAIN && grant.chain.every(isBytes)), 'its grant has no signature, or too many certificates']
)
const isBytes = (bytes: Uint8Array): boolean => bytes.length >= 1 && bytes.length <= MAX_CERTIFICATE_BYTES

export const hostKeepAliveProblem = (request: { clusterId: string, epoch: number, holder: string }): string | null =>
  firstOf(cluster(request.clusterId), masterEpoch(request.epoch), [isKey(request.holder, 128), 'its holder is not named'])

export const hostCurtailProblem = (request: { clusterId: string, seq: number, endMs: number, reason: string }, nowMs: number): string | null => firstOf(
  cluster(request.clusterId), noticeSeq(request.seq), [request.reason.length <= MAX_REASON, `its reason is longer than ${MAX_REASON} characters`]
) ?? endProblem(request.endMs, nowMs)

export const hostRestoreProblem = ({ clusterId, seq, endMs = 0 }: { clusterId: string, seq: number, endMs?: number }): string | null =>
  firstOf(cluster(clusterId), noticeSeq(seq), [Number.isSafeInteger(endMs) && endMs >= 0, `the end ${endMs} is no time`])
const noticeSeq = (seq: number): Part => [Number.isSafeInteger(seq) && seq >= 1, `the number ${seq} of its notice is none`]

/** A take-over raises the epoch, and the first master had 1. */
export const claimProblem = (request: { clusterId: string, epoch: number }): string | null =>
  firstOf(cluster(request.clusterId), masterEpoch(request.epoch), [request.epoch > 1, 'epoch 1 is that of the first master'])

/** What is wrong with the copy of a decision record, apart from what stands in it; an empty one says that it is over. */
export const copyProblem = (request: { clusterId: string, epoch: number, record: Uint8Array }): string | null => firstOf(
  cluster(request.clusterId), masterEpoch(request.epoch), [request.record.length <= MAX_COPY_BYTES, `its record of ${request.record.length} bytes is above ${MAX_COPY_BYTES}`]
)

/** What is wrong with a master's request, apart from its term (`termProblem`) and from what there is room for. */
export function requestProblem (request: Request): string | null {
  const { nodes, volumes } = request
  const names = nodes.map(node => node.name)
  return identityProblem(request) ?? firstOf(
    [isKey(request.key, MAX_MASTER_KEY), `its idempotency key is not 1 to ${MAX_MASTER_KEY} characters long`],
    [isWhole(request.vni, 1, MAX_VNI), `its VNI ${request.vni} is not within 1..${MAX_VNI}`],
    masterEpoch(request.epoch), sent(request.sentMs), ttl(request.holdTtlMs), bandwidth(request.bandwidthMbit),
    [isTime(request.startMs) && isTime(request.endMs), 'its start or its end is no time'],
    [isWhole(request.maxNodesPerHost ?? 0, 0, MAX_NODES_PER_CLUSTER), `its limit of ${request.maxNodesPerHost ?? 0} nodes on a host is not within 0..${MAX_NODES_PER_CLUSTER}`],
    [!(request.grow && request.frontend), 'it grows and asks for a frontend, so it contradicts itself'],
    [nodes.length <= MAX_NODES_PER_CLUSTER, `it asks for more than ${MAX_NODES_PER_CLUSTER} nodes`],
    [volumes.length <= MAX_VOLUMES_PER_CLUSTER, `it asks for more than ${MAX_VOLUMES_PER_CLUSTER} volumes`],
    [names.every(isName) && volumes.every(volume => isName(volume.name)), 'a node or volume has a malformed name'],
    [twice(names) === undefined, `node ${twice(names) ?? ''} is asked for twice`],
    [twice(volumes.map(volume => volume.name)) === undefined, 'a volume is asked for twice'],
    [nodes.every(node => isWhole(node.vcpus, 1, MAX_VCPUS_PER_NODE) && isWhole(node.memoryMib, 1, MAX_MEMORY_MIB_PER_NODE)), 'a node has no vCPU or no memory, or more than any host has'],
    [volumes.every(volume => isWhole(volume.sizeMib, 1, MAX_VOLUME_MIB)), `a volume is not within 1..${MAX_VOLUME_MIB} MiB`],
    [volumes.every(volume => names.includes(volume.node)), 'a volume is for a node that is not asked for here']
  )
}

/** A cluster of the largest nodes and volumes. */
const MAX_QUOTA: Resources = {
  vcpus: (MAX_NODES_PER_CLUSTER + 1) * MAX_VCPUS_PER_NODE, memoryMib: (MAX_NODES_PER_CLUSTER + 1) * MAX_MEMORY_MIB_PER_NODE,
  diskMib: MAX_VOLUMES_PER_CLUSTER * MAX_VOLUME_MIB, volumes: MAX_VOLUMES_PER_CLUSTER, bandwidthMbit: MAX_BANDWIDTH_MBIT, nodes: MAX_NODES_PER_CLUSTER
}

/** What is wrong with the size of an item: whoever takes a place in the ledger takes something of the host. */
function sizeProblem ({ kind, name, resources: r, segmentId }: HoldItem): string | null {
  const machine = isWhole(r.vcpus, 1, MAX_VCPUS_PER_NODE) && isWhole(r.memoryMib, 1, MAX_MEMORY_MIB_PER_NODE)
  const only = (...used: ReadonlyArray<keyof Resources>): boolean => (Object.keys(zero()) as Array<keyof Resources>).every(field => used.includes(field) || r[field] === 0)
  const fits: Record<string, boolean> = {
    node: machine && only('vcpus', 'memoryMib'),
    volume: isWhole(r.diskMib, 1, MAX_VOLUME_MIB) && r.volumes === 1 && only('diskMib', 'volumes'),
    frontend: machine && only('vcpus', 'memoryMib'),
    segment: isWhole(r.bandwidthMbit, 0, MAX_BANDWIDTH_MBIT) && only('bandwidthMbit'),
    // what all the rest of the cluster takes here, or what is missing of it at another gateway
    quota: isValid(r) && (!only() || (r.nodes ?? 0) > 0) && fitsWithin(r, MAX_QUOTA)
  }
  return firstOf(
    [fits[kind] === true && (kind === 'quota' || (r.nodes ?? 0) === 0), `${kind} ${name} is of no possible size (${describe(r)})`],
    [kind === 'segment' ? isWhole(segmentId, 0, MAX_VNI) : segmentId === 0, `${kind} ${name} has the segment id ${segmentId}`]
  )
}

/** What is wrong with the form of a hold, apart from its times and from what there is room for. */
export function holdProblem (request: HoldRequest): string | null {
  const { items } = request
  const count = (kind: LeaseKind): number => items.filter(item => item.kind === kind).length
  return identityProblem(request) ?? firstOf(
    [isKey(request.key, MAX_KEY), `its idempotency key is not 1 to ${MAX_KEY} characters long`],
    [ID.test(request.offerId) && items.every(item => ID.test(item.leaseId)), 'an id is malformed'],
    [isKey(request.masterPeer, 128), 'its master is not named'],
    anyEpoch(request.epoch), ttl(request.ttlMs), [isTime(request.startMs) && isTime(request.endMs), 'its start or its end is no time'],
    [items.length > 0, 'it asks for nothing'],
    [twice(items.map(item => item.leaseId)) === undefined, `lease ${twice(items.map(item => item.leaseId)) ?? ''} is named twice`],
    [items.length <= MAX_ITEMS && count('node') <= MAX_NODES_PER_CLUSTER && count('volume') <= MAX_VOLUMES_PER_CLUSTER, `it asks for more than ${MAX_NODES_PER_CLUSTER} nodes or ${MAX_VOLUMES_PER_CLUSTER} volumes`],
    [items.every(item => KINDS.has(item.kind)), 'it asks for something of an unknown kind'],
    [items.every(item => isName(item.name)), 'something has a malformed name'],
    [twice(items.map(item => `${item.kind} ${item.name}`)) === undefined, `${twice(items.map(item => `${item.kind} ${item.name}`)) ?? ''} is asked for twice`],
    [count('frontend') <= 1 && items.filter(item => item.kind === 'segment' && !isLocal(item)).length <= 1 && count('quota') <= 1, 'a cluster has one frontend, one segment besides the site-local one, and one share of the quota']
  ) ?? items.map(sizeProblem).find(problem => problem !== null) ?? null
}

/** How long a lender's hold counts for the master, ms; null when it is no time at all. @param askedMs what it was asked for */
export const holdTimeOf = (offer: { ttlMs: number }, askedMs = HOLD_TTL_MS): number | null =>
  Number.isFinite(offer.ttlMs) && offer.ttlMs > 0 ? Math.min(offer.ttlMs, askedMs) : null
