/**
 * Where things go, inside one site. First fit decreasing: the largest first, each on the first host
 * that still takes it. Hosts are tried in the order of their names, so equal input gives equal output.
 */
import { type Resources, add, clampToZero, describe, describeShortfall, fits, max, subtract, sum, zero } from './capacity.ts'
import type { WantedNode, WantedVolume } from './messages.ts'

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
}

export interface Assignment {
  kind: 'node' | 'volume' | 'frontend'
  name: string
  host: string
  resources: Resources
}

/** Why it cannot be placed: `refusal` says all of it in one line, `missing` one thing an entry. */
export interface Refusal { refusal: string, missing: string[] }

export const nodeResources = (node: { vcpus: number, memoryMib: number }): Resources => ({ ...zero(), vcpus: node.vcpus, memoryMib: node.memoryMib })
export const volumeResources = (volume: { sizeMib: number }): Resources => ({ ...zero(), diskMib: volume.sizeMib, volumes: 1 })

const byText = (a: string, b: string): number => a < b ? -1 : a > b ? 1 : 0

/** The order "decreasing" means: memory first, because it is what runs out first. */
export const bySizeDown = (a: Resources, b: Resources): number =>
  b.memoryMib - a.memoryMib || b.vcpus - a.vcpus || b.diskMib - a.diskMib

export const refuse = (reason: string, missing: string[]): Refusal => ({ refusal: [reason, ...missing].join('; '), missing })

/** The free resources that come nearest to a need, to say what is missing there. */
function nearestFree (need: Resources, hosts: readonly HostCapacity[]): HostCapacity | undefined {
  const lacking = (host: HostCapacity): Resources => clampToZero(subtract(need, host.free))
  return hosts.toSorted((a, b) => bySizeDown(lacking(b), lacking(a)) || byText(a.host, b.host))[0]
}

/**
 * Places one part of a cluster on the hosts of a site, all of it or nothing.
 *
 * @returns assignments in the order frontend, volumes, nodes, each by name; or what is missing
 */
export function placeAtSite (request: SiteRequest, hosts: readonly HostCapacity[]): { assignments: Assignment[] } | Refusal {
  const free = hosts
    .filter(host => host.cordoned !== true)
    .map(host => ({ ...host, free: clampToZero(host.free) }))
    .sort((a, b) => byText(a.host, b.host))
  const assignments: Assignment[] = []
  const missing: string[] = []

  const place = (kind: Assignment['kind'], name: string, need: Resources, role: string, pick: (fitting: HostCapacity[]) => HostCapacity | undefined): void => {
    const candidates = free.filter(host => host.roles.includes(role))
    const target = pick(candidates.filter(host => fits(need, host.free)))
    const what = kind === 'frontend' ? 'the frontend' : `${kind} ${name}`
    if (target !== undefined) {
      target.free = subtract(target.free, need)
      assignments.push({ kind, name, host: target.host, resources: need })
    } else if (candidates.length === 0) {
      missing.push(`${what}: no ${role} host takes leases here`)
    } else {
      const near = nearestFree(need, candidates)
      missing.push(`${what}: ${describeShortfall(need, near?.free ?? zero())} on ${near?.host ?? 'any host'}, the nearest of ${candidates.length} ${role} ${candidates.length === 1 ? 'host' : 'hosts'}`)
    }
  }
  const first = (fitting: HostCapacity[]): HostCapacity | undefined => fitting[0]
  const mostDisk = (fitting: HostCapacity[]): HostCapacity | undefined =>
    fitting.toSorted((a, b) => b.free.diskMib - a.free.diskMib || byText(a.host, b.host))[0]

  if (request.frontend) place('frontend', 'frontend', { ...FRONTEND_RESOURCES }, 'gateway', first)
  for (const volume of request.volumes.toSorted((a, b) => b.sizeMib - a.sizeMib || byText(a.name, b.name))) {
    place('volume', volume.name, volumeResources(volume), 'storage', mostDisk)
  }
  for (const node of request.nodes.toSorted((a, b) => bySizeDown(nodeResources(a), nodeResources(b)) || byText(a.name, b.name))) {
    place('node', node.name, nodeResources(node), 'compute', first)
  }
  if (missing.length > 0) {
    const wanted = add(sum(request.nodes.map(nodeResources)), add(sum(request.volumes.map(volumeResources)), request.frontend ? FRONTEND_RESOURCES : zero()))
    return refuse(`${missing.length} of ${missing.length + assignments.length} parts do not fit (${describe(wanted)} wanted in all)`, missing)
  }
  const order = { frontend: 0, volume: 1, node: 2 }
  return { assignments: assignments.sort((a, b) => order[a.kind] - order[b.kind] || byText(a.name, b.name)) }
}

/** What one site offers to a placement among sites, as its advertisement tells it. */
export interface SiteCapacity {
  site: string
  /** free on each compute host */
  freeByHost: readonly Resources[]
  /** free disk on each storage host; an advertisement with one figure is a list of one */
  volumeFreeByHost: readonly number[]
  /**
   * The gateway that would take the frontend: its index in `freeByHost` when it is compute as well,
   * else what it has free. Absent: not known, the frontend is counted on any compute host.
   */
  gateway?: { computeIndex: number } | { free: Resources }
}

/** Folds the hosts of a site into what `placeAmongSites` and advertisements use. */
export function siteCapacityOf (site: string, hosts: readonly HostCapacity[]): SiteCapacity {
  const open = hosts.filter(host => host.cordoned !== true).toSorted((a, b) => byText(a.host, b.host))
  const withRole = (role: string): HostCapacity[] => open.filter(host => host.roles.includes(role))
  const compute = withRole('compute')
  // The gateway that placeAtSite would pick: the first by name that takes the frontend.
  const gateways = withRole('gateway')
  const gateway = gateways.find(host => fits(FRONTEND_RESOURCES, host.free)) ?? gateways[0]
  const computeIndex = gateway === undefined ? -1 : compute.indexOf(gateway)
  return {
    site,
    freeByHost: compute.map(host => clampToZero(host.free)),
    volumeFreeByHost: withRole('storage').map(host => host.free.volumes > 0 ? Math.max(0, host.free.diskMib) : 0),
    ...(gateway === undefined ? { gateway: { free: zero() } } : { gateway: computeIndex >= 0 ? { computeIndex } : { free: clampToZero(gateway.free) } })
  }
}

/** Largest free per dimension over hosts, for messages about what would have to be smaller. */
export const largestOf = (free: readonly Resources[]): Resources => free.reduce((a, b) => max(a, b), zero())
