/**
 * Where things go, inside one site: the frontend on a gateway, volumes where most is free, nodes as
 * the cluster's terms say. Hosts are taken in the order of their names, so equal input gives equal output.
 */
import { type Resources, add, clampToZero, describe, describeShortfall, fits, max, subtract, sum, zero } from '../capacity.ts'
import type { WantedNode, WantedVolume } from '../messages.ts'
import { NOWHERE, type PackTerms } from './packing.ts'
import { placeMost } from './place-most.ts'

/** What the built-in frontend takes on the master's gateway host. */
export const FRONTEND_RESOURCES: Readonly<Resources> = { vcpus: 1, memoryMib: 256, diskMib: 0, volumes: 0, bandwidthMbit: 0 }

export interface HostCapacity {
  host: string
  /** `compute`, `storage`, `gateway`, in any mix */
  roles: readonly string[]
  free: Resources
  /** takes no new leases */
  cordoned?: boolean
}

export interface SiteRequest {
  nodes: readonly WantedNode[]
  volumes: readonly WantedVolume[]
  frontend: boolean
  /** nodes evenly over hosts, rather than on as few as possible */
  spread?: boolean
  /** of the whole cluster on one host; 0 or absent: no limit */
  maxNodesPerHost?: number
}

export interface Assignment {
  kind: 'node' | 'volume' | 'frontend'
  name: string
  host: string
  resources: Resources
}

/** Why it cannot be placed: `refusal` says all of it in one line, `missing` one thing an entry. */
export interface Refusal { refusal: string, missing: string[] }

/** `fitting`: names of the nodes that would fit, as many as were found; their volumes may not. */
export interface SiteRefusal extends Refusal { fitting: string[] }

export const nodeResources = (node: { vcpus: number, memoryMib: number }): Resources => ({ ...zero(), vcpus: node.vcpus, memoryMib: node.memoryMib })
export const volumeResources = (volume: { sizeMib: number }): Resources => ({ ...zero(), diskMib: volume.sizeMib, volumes: 1 })

const byText = (a: string, b: string): number => a < b ? -1 : a > b ? 1 : 0

/** The order "decreasing" means: memory first, because it is what runs out first. */
export const bySizeDown = (a: Resources, b: Resources): number =>
  b.memoryMib - a.memoryMib || b.vcpus - a.vcpus || b.diskMib - a.diskMib

export const refuse = (reason: string, missing: string[]): Refusal => ({ refusal: [reason, ...missing].join('; '), missing })

/** The host where least is missing of a need, memory before vCPU before disk; of equals the first. */
function nearestFree (need: Resources, hosts: readonly HostCapacity[]): HostCapacity | undefined {
  let nearest: HostCapacity | undefined
  let least = [Infinity, Infinity, Infinity] as const
  for (const host of hosts) {
    const memory = Math.max(0, need.memoryMib - host.free.memoryMib)
    if (memory > least[0]) continue
    const vcpus = Math.max(0, need.vcpus - host.free.vcpus)
    const disk = Math.max(0, need.diskMib - host.free.diskMib)
    if (memory < least[0] || vcpus < least[1] || (vcpus === least[1] && disk < least[2])) [nearest, least] = [host, [memory, vcpus, disk]]
  }
  return nearest
}

/** Items whose shortfall is told; of more it is only said that they do not fit. */
const MAX_TOLD = 32

type Open = HostCapacity & { free: Resources }

/** All of one kind onto hosts of a role, or as many as fit; what is placed is taken from `open`. */
function placeKind (kind: 'node' | 'volume', wanted: ReadonlyArray<{ name: string, need: Resources }>, open: readonly Open[], terms: PackTerms, taken: ReadonlyMap<string, number>): { assignments: Assignment[], missing: string[] } {
  const role = kind === 'node' ? 'compute' : 'storage'
  const hosts = open.filter(host => host.roles.includes(role))
  const items = wanted.toSorted((a, b) => bySizeDown(a.need, b.need) || byText(a.name, b.name))
  const at = placeMost(items.map(item => item.need), hosts.map(({ host, free }) => ({ free, taken: taken.get(host) ?? 0 })), terms)
  const assignments: Assignment[] = []
  const left: typeof items = []
  for (const [i, item] of items.entries()) {
    const host = hosts[at[i] ?? NOWHERE]
    if (host === undefined) {
      left.push(item)
      continue
    }
    host.free = subtract(host.free, item.need)
    assignments.push({ kind, name: item.name, host: host.host, resources: item.need })
  }
  const put = Map.groupBy(assignments, one => one.host)
  const full = ({ host }: Open): boolean => (taken.get(host) ?? 0) + (put.get(host)?.length ?? 0) >= terms.maxPerBin
  const room = hosts.filter(host => !full(host))
  const missing = left.map(({ name, need }, n) => {
    const what = `${kind} ${name}`
    if (hosts.length === 0) return `${what}: no ${role} host takes leases here`
    if (n >= MAX_TOLD) return `${what}: no room either`
    const of = `${hosts.length} ${role} ${hosts.length === 1 ? 'host' : 'hosts'}`
    const near = nearestFree(need, room)
    const shortfall = near === undefined ? '' : describeShortfall(need, near.free)
    if (near !== undefined && shortfall !== '') return `${what}: ${shortfall} on ${near.host}, the nearest of ${room.length === hosts.length ? of : `the ${room.length} of ${of} that have not ${terms.maxPerBin} nodes of the cluster`}`
    return `${what}: ${near === undefined ? `each of ${of} has ${terms.maxPerBin} ${terms.maxPerBin === 1 ? 'node' : 'nodes'} of the cluster, the most that it allows` : `no way was found to fit it beside the others on ${of}`}`
  })
  return { assignments, missing }
}

/**
 * Places one part of a cluster on the hosts of a site, all of it or nothing.
 *
 * @param taken nodes that the cluster has here already, by host
 * @returns assignments in the order frontend, volumes, nodes, each by name; or what is missing
 */
export function placeAtSite (request: SiteRequest, hosts: readonly HostCapacity[], taken: ReadonlyMap<string, number> = new Map()): { assignments: Assignment[] } | SiteRefusal {
  const open = hosts
    .filter(host => host.cordoned !== true)
    .map(host => ({ ...host, free: clampToZero(host.free) }))
    .sort((a, b) => byText(a.host, b.host))
  const frontend = request.frontend ? placeFrontend(open) : { assignments: [], missing: [] }
  const volumes = placeKind('volume', request.volumes.map(({ name, sizeMib }) => ({ name, need: volumeResources({ sizeMib }) })), open, { rule: 'roomiest', maxPerBin: Infinity }, new Map())
  const maxPerBin = request.maxNodesPerHost === undefined || request.maxNodesPerHost === 0 ? Infinity : request.maxNodesPerHost
  const nodes = placeKind('node', request.nodes.map(node => ({ name: node.name, need: nodeResources(node) })), open, { rule: request.spread === true ? 'spread' : 'pack', maxPerBin }, taken)
  const missing = [...frontend.missing, ...volumes.missing, ...nodes.missing]
  const assignments = [...frontend.assignments, ...volumes.assignments, ...nodes.assignments]
  if (missing.length > 0) {
    const wanted = add(sum(request.nodes.map(nodeResources)), add(sum(request.volumes.map(volumeResources)), request.frontend ? FRONTEND_RESOURCES : zero()))
    const fitting = nodes.assignments.map(one => one.name).sort(byText)
    const fewer = nodes.missing.length > 0 && fitting.length > 0 ? `; ${fitting.length} of ${request.nodes.length} nodes would fit` : ''
    const refused = refuse(`${missing.length} of ${missing.length + assignments.length} parts do not fit (${describe(wanted)} wanted in all${fewer})`, missing)
    return { ...refused, fitting }
  }
  const order = { frontend: 0, volume: 1, node: 2 }
  return { assignments: assignments.sort((a, b) => order[a.kind] - order[b.kind] || byText(a.name, b.name)) }
}

function placeFrontend (open: readonly Open[]): { assignments: Assignment[], missing: string[] } {
  const gateways = open.filter(host => host.roles.includes('gateway'))
  const target = gateways.find(host => fits(FRONTEND_RESOURCES, host.free))
  if (target !== undefined) {
    target.free = subtract(target.free, FRONTEND_RESOURCES)
    return { assignments: [{ kind: 'frontend', name: 'frontend', host: target.host, resources: { ...FRONTEND_RESOURCES } }], missing: [] }
  }
  const near = nearestFree(FRONTEND_RESOURCES, gateways)
  const why = near === undefined ? 'no gateway host takes leases here'
    : `${describeShortfall(FRONTEND_RESOURCES, near.free)} on ${near.host}, the nearest of ${gateways.length} gateway ${gateways.length === 1 ? 'host' : 'hosts'}`
  return { assignments: [], missing: [`the frontend: ${why}`] }
}

/** How many nodes of a cluster each host has, of what is held for it. */
export function nodesByHost (held: ReadonlyArray<{ kind: string, host: string }>): Map<string, number> {
  const counts = new Map<string, number>()
  for (const { kind, host } of held) if (kind === 'node') counts.set(host, (counts.get(host) ?? 0) + 1)
  return counts
}

/** Largest free per dimension over hosts, for messages about what would have to be smaller. */
export const largestOf = (free: readonly Resources[]): Resources => free.reduce((a, b) => max(a, b), zero())
