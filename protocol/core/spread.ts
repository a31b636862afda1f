/**
 * Where things go, among sites: the master's site first, then as few further sites as possible.
 * A node that has a volume goes where its volumes fit, because iSCSI stays inside a site.
 */
import { type Resources, clampToZero, describe, describeShortfall, fits, subtract, timesFitting } from './capacity.ts'
import { MAX_SITES_PER_CLUSTER } from './limits.ts'
import type { WantedNode, WantedVolume } from './messages.ts'
import { FRONTEND_RESOURCES, type Refusal, type SiteCapacity, largestOf, nodeResources, refuse } from './placement.ts'
import type { ClusterSpec } from './spec.ts'

/** What one site is to be asked for. */
export interface SitePart {
  site: string
  nodes: WantedNode[]
  volumes: WantedVolume[]
  frontend: boolean
}

/** `<cluster>-<site>-<nnn>`; nnn is the node's number in the spec, unique in the cluster. */
export const nodeName = (cluster: string, site: string, index: number): string => `${cluster}-${site}-${String(index).padStart(3, '0')}`

export const frontendName = (cluster: string): string => `${cluster}-fe`

type SpecVolume = ClusterSpec['volumes'][number]
/** A node that has volumes, with these; `mib` is their sum. */
interface Bundle { node: number, volumes: SpecVolume[], mib: number }

/** What a site could take of the rest: bundles, and plain nodes beside them. */
interface Take { bundles: Bundle[], plain: number }

const byText = (a: string, b: string): number => a < b ? -1 : a > b ? 1 : 0

const bundlesOf = (spec: ClusterSpec): Bundle[] => {
  const byNode = Map.groupBy(spec.volumes, volume => volume.node)
  return [...byNode]
    .map(([node, volumes]) => ({ node, volumes: volumes.toSorted((a, b) => b.sizeMiB - a.sizeMiB || byText(a.name, b.name)), mib: volumes.reduce((total, v) => total + v.sizeMiB, 0) }))
    .sort((a, b) => b.mib - a.mib || a.node - b.node)
}

/** Puts volumes on storage hosts as `placeAtSite` would, each where most is free; null when one does not fit. */
function putVolumes (volumes: readonly SpecVolume[], free: readonly number[]): number[] | null {
  const left = [...free]
  for (const { sizeMiB } of volumes) {
    const most = Math.max(...left)
    if (!(most >= sizeMiB)) return null
    left[left.indexOf(most)] = most - sizeMiB
  }
  return left
}

/**
 * How many nodes a site can run, and which volumes it can hold, of what is left. The volumes taken
 * so far are put again in order of size with each bundle tried, as the site itself will do.
 */
function takeOf (slots: number, storage: readonly number[], bundles: readonly Bundle[], plain: number): Take {
  const taken: Bundle[] = []
  for (const bundle of bundles) {
    if (taken.length >= slots) break
    const together = [...taken, bundle].flatMap(b => b.volumes).sort((a, b) => b.sizeMiB - a.sizeMiB || byText(a.name, b.name))
    if (putVolumes(together, storage) !== null) taken.push(bundle)
  }
  return { bundles: taken, plain: Math.min(plain, slots - taken.length) }
}

/** Free per compute host of the master, less the frontend; null with nowhere to put the frontend. */
function withoutFrontend (master: SiteCapacity): readonly Resources[] | null {
  const gateway = master.gateway
  if (gateway !== undefined && 'free' in gateway) return fits(FRONTEND_RESOURCES, gateway.free) ? master.freeByHost : null
  const at = gateway === undefined ? master.freeByHost.findIndex(free => fits(FRONTEND_RESOURCES, free)) : gateway.computeIndex
  const host = master.freeByHost[at]
  if (host === undefined || !fits(FRONTEND_RESOURCES, host)) return null
  return master.freeByHost.with(at, subtract(host, FRONTEND_RESOURCES))
}

function frontendRefusal (master: SiteCapacity): Refusal {
  const gateway = master.gateway
  const free = gateway === undefined ? largestOf(master.freeByHost) : 'free' in gateway ? gateway.free : master.freeByHost[gateway.computeIndex]
  const what = free === undefined ? `needs ${describe(FRONTEND_RESOURCES)}, no host known` : describeShortfall(FRONTEND_RESOURCES, free)
  return refuse(`the frontend does not fit at ${master.site}`, [`${master.site}: the frontend ${what} on the gateway`])
}

/**
 * Splits a cluster over sites.
 *
 * Among plain nodes the number of sites is the smallest possible. With volumes, the site that takes
 * most of the volumes left (then most nodes) goes first, which is not always the fewest.
 *
 * @param sites what is known of each site; the order does not matter
 * @returns parts, the master's first; or what is missing and where
 */
export function placeAmongSites (spec: ClusterSpec, sites: readonly SiteCapacity[], masterSite: string): { parts: SitePart[], why: string[] } | Refusal {
  const master = sites.find(site => site.site === masterSite)
  if (master === undefined) return refuse(`nothing is known of the master's site ${masterSite}`, [`${masterSite}: no host of the site advertises`])
  const atMaster = withoutFrontend(master)
  if (atMaster === null) return frontendRefusal(master)

  const need = nodeResources({ vcpus: spec.nodes.vcpus, memoryMib: spec.nodes.memoryMiB })
  const slotsOf = (free: readonly Resources[]): number => free.reduce((total, host) => total + timesFitting(need, clampToZero(host)), 0)
  const all = new Map(sites.map(site => [site.site, { site, slots: slotsOf(site === master ? atMaster : site.freeByHost) }]))

  let bundles = bundlesOf(spec)
  let plain = spec.nodes.count - bundles.length
  const chosen: Array<{ site: string, take: Take }> = []
  const why: string[] = []
  const choose = (site: string, take: Take): void => {
    chosen.push({ site, take })
    all.delete(site)
    bundles = bundles.filter(bundle => !take.bundles.includes(bundle))
    plain -= take.plain
    why.push(`${site}: ${take.bundles.length + take.plain} nodes, ${take.bundles.length} of them with volumes${site === masterSite ? ' and the frontend (master)' : ''}`)
  }
  const offer = ({ site, slots }: { site: SiteCapacity, slots: number }): Take => takeOf(slots, site.volumeFreeByHost, bundles, plain)
  const masterEntry = all.get(masterSite)
  if (masterEntry !== undefined) choose(masterSite, offer(masterEntry))
  while (bundles.length + plain > 0 && chosen.length < MAX_SITES_PER_CLUSTER) {
    const best = [...all.values()]
      .map(entry => ({ name: entry.site.site, take: offer(entry) }))
      .filter(({ take }) => take.bundles.length + take.plain > 0)
      .sort((a, b) => b.take.bundles.length - a.take.bundles.length || b.take.plain - a.take.plain || byText(a.name, b.name))[0]
    if (best === undefined) break
    choose(best.name, best.take)
  }
  if (bundles.length + plain > 0) return capacityRefusal(spec, need, sites, { bundles, plain }, chosen)
  return { parts: numbered(spec, chosen, masterSite), why }
}

function capacityRefusal (spec: ClusterSpec, need: Resources, sites: readonly SiteCapacity[], rest: Take, chosen: ReadonlyArray<{ site: string, take: Take }>): Refusal {
  const taken = new Map(chosen.map(({ site, take }) => [site, take]))
  const missing = sites.toSorted((a, b) => byText(a.site, b.site)).map(site => {
    const take = taken.get(site.site)
    const count = take === undefined ? 0 : take.bundles.length + take.plain
    const largest = largestOf(site.freeByHost)
    const shortfall = describeShortfall(need, largest)
    const disk = rest.bundles.length === 0 ? '' : `; largest free volume ${Math.max(0, ...site.volumeFreeByHost)} MiB`
    return `${site.site}: takes ${count} of ${spec.nodes.count} nodes; ${shortfall === '' ? `no host has room for more (${describe(need)} each)` : `a node ${shortfall} on its largest host`}${disk}`
  })
  const nodes = rest.bundles.length + rest.plain
  const volumes = rest.bundles.flatMap(bundle => bundle.volumes.map(volume => `${volume.name} (${volume.sizeMiB} MiB)`))
  const tooMany = chosen.length >= MAX_SITES_PER_CLUSTER ? `, and a cluster spans at most ${MAX_SITES_PER_CLUSTER} sites` : ''
  return refuse(
    `no room for ${nodes} of ${spec.nodes.count} nodes with ${describe(need)} each${volumes.length === 0 ? '' : `, nor for volumes ${volumes.join(', ')} beside their nodes`}${tooMany}`,
    missing
  )
}

/** Gives numbers to nodes: those with volumes keep the number in the spec, the others fill up in order. */
function numbered (spec: ClusterSpec, chosen: ReadonlyArray<{ site: string, take: Take }>, masterSite: string): SitePart[] {
  const pinned = new Set(spec.volumes.map(volume => volume.node))
  const loose = Array.from({ length: spec.nodes.count }, (_, i) => i + 1).filter(index => !pinned.has(index))
  return chosen
    .filter(({ site, take }) => site === masterSite || take.bundles.length + take.plain > 0)
    .map(({ site, take }) => {
      const indices = [...take.bundles.map(bundle => bundle.node), ...loose.splice(0, take.plain)].sort((a, b) => a - b)
      return {
        site,
        nodes: indices.map(index => ({ name: nodeName(spec.name, site, index), vcpus: spec.nodes.vcpus, memoryMib: spec.nodes.memoryMiB })),
        volumes: take.bundles.flatMap(({ node, volumes }) => volumes.map(volume => ({ name: volume.name, sizeMib: volume.sizeMiB, node: nodeName(spec.name, site, node) })))
          .sort((a, b) => byText(a.name, b.name)),
        frontend: site === masterSite
      }
    })
}
