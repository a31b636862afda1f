/**
 * What a lender checks of questions before it works on them: names, numbers and counts that come
 * from another site. Pure; every function says what is wrong in words, or null.
 */
import type { Resources } from './capacity.ts'
import {
  HOLD_TTL_MS, MAX_MEMORY_MIB_PER_NODE, MAX_NODES_PER_CLUSTER, MAX_VCPUS_PER_NODE, MAX_VNI, MAX_VOLUME_MIB, MAX_VOLUMES_PER_CLUSTER
} from './limits.ts'
import type { HoldItem, HoldRequest, LeaseKind, Request } from './messages.ts'

const UUID = /^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/
const NAME = /^[a-z0-9][a-z0-9-]{0,62}$/
const ID = /^[A-Za-z0-9-]{1,64}$/
/** Idempotency keys; a gateway puts the offer's id behind the master's key, so a master's is shorter. */
const MAX_KEY = 256
const MAX_MASTER_KEY = MAX_KEY - 65
const KINDS: ReadonlySet<string> = new Set<LeaseKind>(['node', 'volume', 'frontend', 'segment'])
/** One frontend and one segment beside nodes and volumes. */
const MAX_ITEMS = MAX_NODES_PER_CLUSTER + MAX_VOLUMES_PER_CLUSTER + 2

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

/** What is wrong with a master's request, apart from its times and from what there is room for. */
export function requestProblem (request: Request): string | null {
  const { nodes, volumes } = request
  const names = nodes.map(node => node.name)
  return identityProblem(request) ?? firstOf(
    [isKey(request.key, MAX_MASTER_KEY), `its idempotency key is not 1 to ${MAX_MASTER_KEY} characters long`],
    [isWhole(request.vni, 1, MAX_VNI), `its VNI ${request.vni} is not within 1..${MAX_VNI}`],
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

/** What is wrong with the size of an item: whoever takes a place in the ledger takes something of the host. */
function sizeProblem ({ kind, name, resources: r, segmentId }: HoldItem): string | null {
  const fits: Record<string, (r: Resources) => boolean> = {
    node: r => isWhole(r.vcpus, 1, MAX_VCPUS_PER_NODE) && isWhole(r.memoryMib, 1, MAX_MEMORY_MIB_PER_NODE) && r.diskMib === 0,
    volume: r => r.vcpus === 0 && r.memoryMib === 0 && isWhole(r.diskMib, 1, MAX_VOLUME_MIB),
    frontend: r => isWhole(r.vcpus, 1, MAX_VCPUS_PER_NODE) && isWhole(r.memoryMib, 1, MAX_MEMORY_MIB_PER_NODE) && r.diskMib === 0,
    segment: r => r.vcpus === 0 && r.memoryMib === 0 && r.diskMib === 0
  }
  return firstOf(
    [fits[kind]?.(r) === true, `${kind} ${name} is of no possible size (${r.vcpus} vCPU, ${r.memoryMib} MiB memory, ${r.diskMib} MiB disk)`],
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
    [items.length <= MAX_ITEMS && count('node') <= MAX_NODES_PER_CLUSTER && count('volume') <= MAX_VOLUMES_PER_CLUSTER, `it asks for more than ${MAX_NODES_PER_CLUSTER} nodes or ${MAX_VOLUMES_PER_CLUSTER} volumes`],
    [items.every(item => KINDS.has(item.kind)), 'it asks for something of an unknown kind'],
    [items.every(item => isName(item.name)), 'something has a malformed name'],
    [twice(items.map(item => `${item.kind} ${item.name}`)) === undefined, `${twice(items.map(item => `${item.kind} ${item.name}`)) ?? ''} is asked for twice`],
    [count('frontend') <= 1 && count('segment') <= 1, 'a cluster has one frontend and one segment']
  ) ?? items.map(sizeProblem).find(problem => problem !== null) ?? null
}

/** How long a lender's hold counts for the master, ms; null when it is no time at all. */
export const holdTimeOf = (offer: { ttlMs: number }): number | null =>
  Number.isFinite(offer.ttlMs) && offer.ttlMs > 0 ? Math.min(offer.ttlMs, HOLD_TTL_MS) : null
