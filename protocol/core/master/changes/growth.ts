/** Documents and placements of clusters that change while they run. */
import { describe } from '../../capacity.ts'
import { memberHosts } from '../../document.ts'
import { MAX_NODES_PER_CLUSTER, MAX_SITES_PER_CLUSTER } from '../../limits.ts'
import type { ClusterDocument, Held, Offer, Receipt } from '../../messages.ts'
import { type Refusal, nodeResources, nodesByHost, refuse } from '../../placement/at-site.ts'
import type { ClusterSpec } from '../../spec.ts'
import { type SitePart, nodeName } from '../../placement/among-sites.ts'
import { type Asked, type Candidate, bySite, noRoom, ruledOut, slotsIn } from '../../placement/candidates.ts'
import { type Shares, onFewest, onMost } from '../../placement/shares.ts'
import type { SiteCapacity } from '../../placement/site-capacity.ts'
import { sharesGoing } from '../../quota-share.ts'
import type { MasterRecord } from '../record.ts'

const byText = (a: string, b: string): number => a < b ? -1 : a > b ? 1 : 0

/** Numbers for more nodes: the next ones; then what is free below. */
export function nextIndexes (taken: readonly number[], count: number): number[] {
  const last = Math.max(0, ...taken)
  const above = Array.from({ length: MAX_NODES_PER_CLUSTER - last }, (_, i) => last + 1 + i)
  const below = Array.from({ length: last }, (_, i) => i + 1).filter(index => !taken.includes(index))
  return [...above, ...below].slice(0, count).sort((a, b) => a - b)
}

/**
 * Where more nodes of a live cluster go, by the terms of its placement and counting the nodes that it
 * has: to its member sites first, then on as few others as possible; or evenly.
 *
 * @returns parts with nodes only; or what is missing and where
 */
export function placeGrowth (record: MasterRecord, count: number, sites: readonly SiteCapacity[]): { parts: SitePart[] } | Refusal {
  const { spec, document, offers } = record
  const terms = spec.placement ?? {}
  const need = nodeResources({ vcpus: spec.nodes.vcpus, memoryMib: spec.nodes.memoryMiB })
  const members = new Set(offers.map(offer => offer.site))
  const master = sites.find(site => site.site === record.masterSite) ?? { site: record.masterSite, freeByHost: [], volumeFreeByHost: [] }
  const asked: Asked = { need, terms, master, image: record.imageDigest }
  const has = (site: string): number => document?.nodes.filter(node => node.site === site).length ?? 0
  const taken = (site: string): Map<string, number> => nodesByHost(offers.filter(offer => offer.site === site).flatMap(offer => offer.held))
  const out = new Map(sites.map(site => [site.site, ruledOut(site, asked, members.has(site.site))]))
  const ranked = sites.filter(site => out.get(site.site)?.length === 0).sort(bySite(asked))
  const indexes = nextIndexes((document?.nodes ?? []).map(node => node.index), count)
  // Advertisements name no hosts, so which of them have nodes of the cluster is not known. At least the first figure fits, at most the second.
  for (const slotsOf of [atLeast, possibly]) {
    const open = ranked.map(site => ({ site: site.site, has: has(site.site), slots: Math.max(0, Math.min((terms.maxNodesPerSite ?? Infinity) - has(site.site), slotsOf(site, asked, taken(site.site)))) }))
    const shares = terms.mostSites === true ? onMost(count, open, members, MAX_SITES_PER_CLUSTER) : membersFirst(count, open, members)
    if (shares === null) continue
    const left = [...indexes]
    return {
      parts: [...shares].map(([site, nodes]) => ({
        site, volumes: [], frontend: false,
        nodes: left.splice(0, nodes).map(index => ({ name: nodeName(record.name, site, index), vcpus: spec.nodes.vcpus, memoryMib: spec.nodes.memoryMiB })),
        ...terms.minBandwidthMbit === undefined || members.has(site) ? {} : { bandwidthMbit: terms.minBandwidthMbit }
      }))
    }
  }
  const most = ranked.map(site => ({ site: site.site, member: members.has(site.site), slots: Math.max(0, Math.min((terms.maxNodesPerSite ?? Infinity) - has(site.site), possibly(site, asked, taken(site.site)))) }))
    .sort((a, b) => Number(b.member) - Number(a.member) || b.slots - a.slots).slice(0, MAX_SITES_PER_CLUSTER)
  const takes = new Map(most.map(({ site, slots }) => [site, slots]))
  const room = Math.min(count - 1, [...takes.values()].reduce((a, b) => a + b, 0))
  return refuse(`no room for ${count - room} of ${count} more nodes with ${describe(need)} each`, sites.toSorted((a, b) => byText(a.site, b.site)).map(site => {
    const reasons = out.get(site.site) ?? []
    return `${site.site}: ${reasons.length > 0 ? reasons.join('; ') : `takes ${takes.get(site.site) ?? 0} of them; ${noRoom(site, asked, has(site.site))}`}`
  }))
}

/** Every node of the cluster may be on a host that would have had room for another. */
function atLeast (site: SiteCapacity, asked: Asked, taken: ReadonlyMap<string, number>): number {
  const slots = slotsIn(site.freeByHost, asked)
  return asked.terms.maxNodesPerHost === undefined ? slots : slots - [...taken.values()].reduce((a, b) => a + b, 0)
}

/** None may be. */
function possibly (site: SiteCapacity, asked: Asked, taken: ReadonlyMap<string, number>): number {
  const slots = slotsIn(site.freeByHost, asked)
  const most = asked.terms.maxNodesPerHost
  return most === undefined ? slots : Math.min(slots, Math.max(0, most * Math.max(site.freeByHost.length, taken.size) - [...taken.values()].reduce((a, b) => a + b, 0)))
}

/** Member sites, in order, then as few others as possible. */
function membersFirst (count: number, open: readonly Candidate[], members: ReadonlySet<string>): Shares | null {
  const shares: Shares = new Map()
  let left = count
  const inside = open.filter(one => members.has(one.site)).toSorted((a, b) => b.slots - a.slots)
  for (const { site, slots } of inside) {
    const nodes = Math.min(slots, left)
    if (nodes > 0) shares.set(site, nodes)
    left -= nodes
  }
  const outside = onFewest(left, open.filter(one => !members.has(one.site)), MAX_SITES_PER_CLUSTER - members.size)
  return outside === null ? null : new Map([...shares, ...outside])
}

/** One offer of each site: what was offered later is held beside what was offered first. */
export function mergeOffers (offers: readonly Offer[], more: readonly Offer[]): Offer[] {
  const known = new Set(offers.map(offer => offer.site))
  const merged = offers.map(offer => {
    const ids = new Set(offer.held.map(held => held.leaseId))
    return { ...offer, held: [...offer.held, ...more.filter(one => one.site === offer.site).flatMap(one => one.held).filter(held => !ids.has(held.leaseId))] }
  })
  return [...merged, ...more.filter(one => !known.has(one.site))]
}

/** What the next document of a cluster is made from: with the growth that is under way, if any. */
export interface DocumentSource { spec: ClusterSpec, offers: readonly Offer[], receipts: readonly Receipt[], version: number, previous: ClusterDocument | null }

export function documentSource (record: MasterRecord): DocumentSource {
  const { spec, offers, receipts, document, amendment } = record
  if (amendment?.kind !== 'grow') return { spec, offers, receipts, version: nextVersion(record), previous: document }
  return {
    spec: { ...spec, nodes: { ...spec.nodes, count: amendment.count } }, offers: mergeOffers(offers, amendment.offers), receipts: [...receipts, ...amendment.receipts],
    version: nextVersion(record), previous: document
  }
}

/** Above anything that a former master may have given out behind the back of its copies. */
export const nextVersion = ({ document, epoch }: MasterRecord): number => Math.max((document?.version ?? 0) + 1, (epoch - 1) * 0x1_0000 + 1)

/** What is left of a cluster without some nodes, and the leases that end with them. */
export function without (record: MasterRecord, document: ClusterDocument, names: ReadonlySet<string>): { record: MasterRecord, gone: Map<string, Held[]> } {
  const volumes = new Set(document.volumes.filter(volume => names.has(volume.node)).map(volume => volume.name))
  const goes = (held: Held): boolean => (held.kind === 'node' && names.has(held.name)) || (held.kind === 'volume' && volumes.has(held.name))
  const carries = (held: Held): boolean => held.kind !== 'segment' && held.kind !== 'quota' && !goes(held)
  const gone = new Map(record.offers.map(offer => [offer.site, offer.held.filter(held => goes(held))] as const).filter(([, held]) => held.length > 0))
  // the gateway gives shares of a quota back with the last of what they were borrowed for, unasked
  const stays = ({ held }: Offer): Held[] => {
    const shares = sharesGoing(held, new Set(held.filter(goes).map(one => one.leaseId)))
    return held.filter(one => !goes(one) && !shares.includes(one))
  }
  const offers = record.offers.filter(offer => offer.held.some(carries)).map(offer => ({ ...offer, held: stays(offer) }))
  const left = new Set(offers.flatMap(offer => offer.held.map(held => held.leaseId)))
  const nodes = document.nodes.filter(node => !names.has(node.name))
  const { spec } = record
  const next: ClusterDocument = {
    ...document, version: nextVersion(record), epoch: record.epoch, endMs: record.endMs, nodes, volumes: document.volumes.filter(volume => !volumes.has(volume.name)),
    sites: document.sites.flatMap(site => {
      const offer = offers.find(one => one.site === site.site)
      return offer === undefined ? [] : [{ ...site, hosts: memberHosts(offer) }]
    })
  }
  return {
    gone,
    record: {
      ...record, offers, receipts: record.receipts.filter(receipt => left.has(receipt.leaseId)), document: next,
      secrets: record.secrets.filter(secret => !volumes.has(secret.name)),
      spec: { ...spec, nodes: { ...spec.nodes, count: nodes.length }, volumes: spec.volumes.filter(volume => !volumes.has(volume.name)) }
    }
  }
}
