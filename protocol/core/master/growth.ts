/** Documents and placements of clusters that change while they run. */
import { type Resources, clampToZero, describe, describeShortfall, timesFitting } from '../capacity.ts'
import { memberHosts } from '../document.ts'
import { MAX_NODES_PER_CLUSTER, MAX_SITES_PER_CLUSTER } from '../limits.ts'
import type { ClusterDocument, Held, Offer, Receipt } from '../messages.ts'
import { type Refusal, type SiteCapacity, largestOf, nodeResources, refuse } from '../placement.ts'
import type { ClusterSpec } from '../spec.ts'
import { type SitePart, nodeName } from '../spread.ts'
import type { MasterRecord } from './record.ts'

const byText = (a: string, b: string): number => a < b ? -1 : a > b ? 1 : 0

/** Numbers for more nodes: the next ones; then what is free below. */
export function nextIndexes (taken: readonly number[], count: number): number[] {
  const last = Math.max(0, ...taken)
  const above = Array.from({ length: MAX_NODES_PER_CLUSTER - last }, (_, i) => last + 1 + i)
  const below = Array.from({ length: last }, (_, i) => i + 1).filter(index => !taken.includes(index))
  return [...above, ...below].slice(0, count).sort((a, b) => a - b)
}

/**
 * Where more nodes of a live cluster go: to its member sites first, then to those that take most.
 *
 * @returns parts with nodes only; or what is missing and where
 */
export function placeGrowth (record: MasterRecord, count: number, sites: readonly SiteCapacity[]): { parts: SitePart[] } | Refusal {
  const { spec, document } = record
  const members = record.offers.map(offer => offer.site)
  const need = nodeResources({ vcpus: spec.nodes.vcpus, memoryMib: spec.nodes.memoryMiB })
  const slotsOf = (free: readonly Resources[]): number => free.reduce((total, host) => total + timesFitting(need, clampToZero(host)), 0)
  const ranked = sites.map(site => ({ site: site.site, slots: slotsOf(site.freeByHost), member: members.includes(site.site) }))
    .sort((a, b) => Number(b.member) - Number(a.member) || b.slots - a.slots || byText(a.site, b.site))
  const indexes = nextIndexes((document?.nodes ?? []).map(node => node.index), count)
  const parts: SitePart[] = []
  let newSites = 0
  for (const { site, slots, member } of ranked) {
    const mine = slots > 0 && (member || members.length + newSites < MAX_SITES_PER_CLUSTER) ? indexes.splice(0, slots) : []
    if (mine.length === 0) continue
    if (!member) newSites++
    parts.push({ site, volumes: [], frontend: false, nodes: mine.map(index => ({ name: nodeName(record.name, site, index), vcpus: spec.nodes.vcpus, memoryMib: spec.nodes.memoryMiB })) })
  }
  if (indexes.length === 0) return { parts }
  return refuse(`no room for ${indexes.length} of ${count} more nodes with ${describe(need)} each`, sites.toSorted((a, b) => byText(a.site, b.site)).map(site => {
    const shortfall = describeShortfall(need, largestOf(site.freeByHost))
    return `${site.site}: takes ${parts.find(part => part.site === site.site)?.nodes.length ?? 0} of them; ${shortfall === '' ? 'no host has room for more' : `a node ${shortfall} on its largest host`}`
  }))
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
  const offers = record.offers.filter(offer => offer.held.some(carries)).map(offer => ({ ...offer, held: offer.held.filter(held => !goes(held)) }))
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
