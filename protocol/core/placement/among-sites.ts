/**
 * Where things go, among sites, in the order of `docs/adr/0029-placement.md`. A node that has a
 * volume goes where its volumes fit, because iSCSI stays inside a site.
 */
import { type Resources, describe, describeShortfall, fits, subtract } from '../capacity.ts'
import { MAX_SITES_PER_CLUSTER } from '../limits.ts'
import type { WantedNode, WantedVolume } from '../messages.ts'
import type { ClusterSpec } from '../spec.ts'
import { FRONTEND_RESOURCES, type Refusal, largestOf, nodeResources, refuse } from './at-site.ts'
import { type Asked, type Candidate, bySite, factsOf, noRoom, ruledOut, slotsIn } from './candidates.ts'
import { onFewest, onMost } from './shares.ts'
import type { SiteCapacity } from './site-capacity.ts'

/** What one site is to be asked for. */
export interface SitePart {
  site: string
  nodes: WantedNode[]
  volumes: WantedVolume[]
  frontend: boolean
  /** of its WAN, to be reserved; absent: what is left over */
  bandwidthMbit?: number
}

/** `<cluster>-<site>-<nnn>`; nnn is the node's number in the spec, unique in the cluster. */
export const nodeName = (cluster: string, site: string, index: number): string => `${cluster}-${site}-${String(index).padStart(3, '0')}`

export const frontendName = (cluster: string): string => `${cluster}-fe`

type SpecVolume = ClusterSpec['volumes'][number]
/** A node that has volumes, with these; `mib` is their sum. */
interface Bundle { node: number, volumes: SpecVolume[], mib: number }

/** What a site could take of the rest: bundles, and plain nodes beside them. */
interface Take { bundles: Bundle[], plain: number }

/** Sites of a placement, in the order in which they were chosen. */
type Chosen = Map<string, Take & { because: string }>

/** Why a site has no part in a placement. */
export interface LeftOut { site: string, reason: string }

export interface Placed { parts: SitePart[], why: string[], left: LeftOut[] }

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

/** A candidate with what it is made from. */
interface Open extends Candidate { of: SiteCapacity }

/** Sites that are chosen, and what is left to be placed. */
class Choice {
  readonly chosen: Chosen = new Map()
  readonly #master: string
  #bundles: Bundle[]
  #plain: number

  constructor (master: string, bundles: readonly Bundle[], plain: number) {
    this.#master = master
    this.#bundles = [...bundles]
    this.#plain = plain
  }

  get bundles (): readonly Bundle[] { return this.#bundles }
  get plain (): number { return this.#plain }
  get left (): number { return this.#bundles.length + this.#plain }
  /** sites of the cluster: the master's is one of them, as it has the frontend */
  get sites (): Set<string> { return new Set([this.#master, ...this.chosen.keys()]) }
  get room (): number { return MAX_SITES_PER_CLUSTER - this.sites.size }

  /** What a site could take of what is left. */
  offer ({ of, slots }: Open): Take { return takeOf(slots, of.volumeFreeByHost, this.#bundles, this.#plain) }

  give (site: string, take: Take, because: string): void {
    const before = this.chosen.get(site)
    this.chosen.set(site, { bundles: [...before?.bundles ?? [], ...take.bundles], plain: (before?.plain ?? 0) + take.plain, because: before?.because ?? because })
    this.#bundles = this.#bundles.filter(bundle => !take.bundles.includes(bundle))
    this.#plain -= take.plain
  }
}

const sizeOf = ({ bundles, plain }: Take): number => bundles.length + plain

/** All at one site, the first in order that takes all; false when none does. */
function atOne (choice: Choice, open: readonly Open[]): boolean {
  const whole = open.find(site => sizeOf(choice.offer(site)) === choice.left)
  if (whole !== undefined) choice.give(whole.site, choice.offer(whole), 'takes the whole cluster')
  return whole !== undefined
}

/** The master's site first, then with volumes whoever takes most, then on as few sites as possible. */
function fewest (choice: Choice, open: readonly Open[], asked: Asked): void {
  const own = open.find(({ of }) => of === asked.master)
  if (own !== undefined) choice.give(own.site, choice.offer(own), 'the master\'s own, which comes first')
  while (choice.bundles.length > 0 && choice.room > 0) {
    const best = open
      .map((site, rank) => ({ site, rank, take: choice.offer(site) }))
      .filter(({ site, take }) => !choice.chosen.has(site.site) && sizeOf(take) > 0)
      .sort((a, b) => b.take.bundles.length - a.take.bundles.length || b.take.plain - a.take.plain || a.rank - b.rank)[0]
    if (best === undefined) break
    choice.give(best.site.site, best.take, `takes most of what is left; ${factsOf(best.site.of, asked)}`)
  }
  const others = open.filter(({ site }) => !choice.chosen.has(site))
  const { room } = choice
  // Where not all fit, the largest take what they can: it is said how many.
  const shares = onFewest(choice.plain, others, room) ?? new Map(others.toSorted((a, b) => b.slots - a.slots).slice(0, room).map(({ site, slots }) => [site, slots]))
  for (const { site, of } of others) {
    const plain = Math.min(choice.plain, shares.get(site) ?? 0)
    if (plain > 0) choice.give(site, { bundles: [], plain }, `as few sites as possible; ${factsOf(of, asked)}`)
  }
}

/** Evenly over all sites; false when not everything finds a place that way. */
function most (choice: Choice, open: readonly Open[], asked: Asked): boolean {
  const because = (of: SiteCapacity): string => `as many sites as possible; ${factsOf(of, asked)}`
  const has = (site: string): number => sizeOf(choice.chosen.get(site) ?? { bundles: [], plain: 0 })
  for (const bundle of choice.bundles) {
    const target = open
      .filter(({ site, of, slots }) => {
        const there = choice.chosen.get(site)?.bundles ?? []
        return there.length < slots && (choice.sites.has(site) || choice.room > 0) && takeOf(slots, of.volumeFreeByHost, [...there, bundle], 0).bundles.length === there.length + 1
      })
      .sort((a, b) => has(a.site) - has(b.site))[0]
    if (target === undefined) return false
    choice.give(target.site, { bundles: [bundle], plain: 0 }, because(target.of))
  }
  const shares = onMost(choice.plain, open.map(one => ({ ...one, slots: one.slots - has(one.site), has: has(one.site) })), choice.sites, MAX_SITES_PER_CLUSTER)
  if (shares === null) return false
  for (const { site, of } of open) if (shares.has(site)) choice.give(site, { bundles: [], plain: shares.get(site) ?? 0 }, because(of))
  return true
}

/**
 * Splits a cluster over sites, as its `placement` asks.
 *
 * Among plain nodes the number of sites is the smallest possible. With volumes, the site that takes
 * most of the volumes left (then most nodes) goes first, which is not always the fewest.
 *
 * @param sites what is known of each site; the order does not matter
 * @param image digest of the node image: a site that has it may be preferred
 * @returns parts, the master's first, with the reason of each choice and of each site left out; or what is missing and where
 */
export function placeAmongSites (spec: ClusterSpec, sites: readonly SiteCapacity[], masterSite: string, image = ''): Placed | Refusal {
  const master = sites.find(site => site.site === masterSite)
  if (master === undefined) return refuse(`nothing is known of the master's site ${masterSite}`, [`${masterSite}: no host of the site advertises`])
  const atMaster = withoutFrontend(master)
  if (atMaster === null) return frontendRefusal(master)
  const terms = spec.placement ?? {}
  const need = nodeResources({ vcpus: spec.nodes.vcpus, memoryMib: spec.nodes.memoryMiB })
  const asked: Asked = { need, terms, master, image }
  const out = new Map(sites.map(site => [site.site, ruledOut(site, asked)]))
  const open = sites.toSorted(bySite(asked)).filter(({ site }) => out.get(site)?.length === 0).map((of): Open => ({
    site: of.site, of, has: 0, slots: Math.min(terms.maxNodesPerSite ?? Infinity, slotsIn(of === master ? atMaster : of.freeByHost, asked))
  }))

  const bundles = bundlesOf(spec)
  const begin = (): Choice => new Choice(masterSite, bundles, spec.nodes.count - bundles.length)
  let choice = begin()
  let done = terms.oneSiteFirst === true && atOne(choice, open)
  if (!done && terms.mostSites === true) done = most(choice, open, asked)
  if (!done) {
    choice = begin()
    fewest(choice, open, asked)
  }
  if (choice.left > 0) return capacityRefusal(spec, asked, sites, choice, out)
  const chosen: Chosen = new Map([[masterSite, { bundles: [], plain: 0, because: 'the master\'s own, which has the frontend' }]])
  for (const [site, take] of choice.chosen) if (sizeOf(take) > 0) chosen.set(site, take)
  const reserve = chosen.size > 1 && terms.minBandwidthMbit !== undefined ? { bandwidthMbit: terms.minBandwidthMbit } : {}
  return {
    parts: numbered(spec, chosen, masterSite).map(part => ({ ...part, ...reserve })),
    why: [...chosen].map(([site, take]) => `${site}: ${sizeOf(take)} nodes, ${take.bundles.length} of them with volumes${site === masterSite ? ' and the frontend (master)' : ''}; ${take.because}`),
    left: sites.filter(({ site }) => !chosen.has(site)).sort((a, b) => byText(a.site, b.site)).map(site => ({ site: site.site, reason: reasonFor(site, asked, out, open) }))
  }
}

/** Why a site has no part in a placement that was found without it. */
function reasonFor (site: SiteCapacity, asked: Asked, out: ReadonlyMap<string, readonly string[]>, open: readonly Open[]): string {
  const reasons = out.get(site.site) ?? []
  if (reasons.length > 0) return reasons.join('; ')
  const slots = open.find(one => one.site === site.site)?.slots ?? 0
  return slots === 0 ? noRoom(site, asked, 0) : `not needed: it could take ${slots} nodes; ${factsOf(site, asked)}`
}

function capacityRefusal (spec: ClusterSpec, asked: Asked, sites: readonly SiteCapacity[], choice: Choice, out: ReadonlyMap<string, readonly string[]>): Refusal {
  const { need } = asked
  const missing = sites.toSorted((a, b) => byText(a.site, b.site)).map(site => {
    const reasons = out.get(site.site) ?? []
    if (reasons.length > 0) return `${site.site}: ${reasons.join('; ')}`
    const count = sizeOf(choice.chosen.get(site.site) ?? { bundles: [], plain: 0 })
    const disk = choice.bundles.length === 0 ? '' : `; largest free volume ${Math.max(0, ...site.volumeFreeByHost)} MiB`
    return `${site.site}: takes ${count} of ${spec.nodes.count} nodes; ${noRoom(site, asked, count)}${disk}`
  })
  const volumes = choice.bundles.flatMap(bundle => bundle.volumes.map(volume => `${volume.name} (${volume.sizeMiB} MiB)`))
  const tooMany = choice.room === 0 ? `, and a cluster spans at most ${MAX_SITES_PER_CLUSTER} sites` : ''
  return refuse(
    `no room for ${choice.left} of ${spec.nodes.count} nodes with ${describe(need)} each${volumes.length === 0 ? '' : `, nor for volumes ${volumes.join(', ')} beside their nodes`}${tooMany}`,
    missing
  )
}

/** Gives numbers to nodes: those with volumes keep the number in the spec, the others fill up in order. */
function numbered (spec: ClusterSpec, chosen: ReadonlyMap<string, Take>, masterSite: string): SitePart[] {
  const pinned = new Set(spec.volumes.map(volume => volume.node))
  const loose = Array.from({ length: spec.nodes.count }, (_, i) => i + 1).filter(index => !pinned.has(index))
  return [...chosen].map(([site, take]) => {
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
