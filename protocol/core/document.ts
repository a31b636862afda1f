import { layout } from './network/addresses.ts'
import { renderCacheTerms } from './cache/terms.ts'
import { endpointClash } from './network/endpoints.ts'
import { ConflictError } from './errors.ts'
import { isLocal } from './network/local.ts'
import { MAX_NODES_PER_CLUSTER, MAX_SITES_PER_CLUSTER } from './limits.ts'
import type { ClusterDocument, ClusterNode, ClusterVolume, Frontend, Held, MemberHost, MemberSite, Offer, Receipt } from './messages.ts'
import type { ClusterSpec } from './spec.ts'
import { frontendName, nodeName } from './placement/among-sites.ts'

export interface DocumentInput {
  id: string
  name: string
  spec: ClusterSpec
  /** one of each member site, in any order */
  offers: readonly Offer[]
  masterSite: string
  masterPeer: string
  vni: number
  nowMs: number
  /** end of the leases as promised in the request, Unix ms */
  endMs?: number
  /** default `nowMs` */
  startMs?: number
  /** of the master, default 1 */
  epoch?: number
  /** default 1; the next for every change of a live cluster */
  version?: number
  /** what runs already: its sites keep their addresses, and its nodes their numbers */
  previous?: ClusterDocument | null
  sshPublicKey: string
  /** `sha256:<hex>`; `default` in the spec is resolved by the caller */
  imageDigest: string
  /** hex digest, 32 digits or more, of a text: uuids are made from it */
  hash: (text: string) => string
}

const byText = (a: string, b: string): number => a < b ? -1 : a > b ? 1 : 0

/** A uuid that the same names give again: version 8 (made from a hash of one's own choice), RFC 9562. */
export function uuidFrom (hex: string): string {
  const text = hex.slice(0, 32).padEnd(32, '0')
  const variant = ((Number.parseInt(text.charAt(16), 16) & 0x3) | 0x8).toString(16)
  return [text.slice(0, 8), text.slice(8, 12), `8${text.slice(13, 16)}`, `${variant}${text.slice(17, 20)}`, text.slice(20)].join('-')
}

/** Target name of a volume. */
export const volumeIqn = (clusterId: string, volume: string): string => `iqn.2026-11.org.musubi:${clusterId}.${volume}`

/** The master's site is the first, the others follow by name: a site's index is in every address. */
function inOrder (offers: readonly Offer[], masterSite: string): Offer[] {
  const sorted = offers.toSorted((a, b) => Number(b.site === masterSite) - Number(a.site === masterSite) || byText(a.site, b.site))
  for (const [i, offer] of sorted.entries()) {
    if (i > 0 && sorted[i - 1]?.site === offer.site) throw new ConflictError(`two offers from site ${offer.site}`)
  }
  if (sorted[0]?.site !== masterSite) throw new ConflictError(`no offer from the master's site ${masterSite}`)
  return sorted
}

/** A site's index is in the addresses of everything there: a member keeps it, a new one gets the lowest that is free. */
function siteIndexes (offers: readonly Offer[], { previous, spec, vni }: DocumentInput): Map<string, number> {
  const net = layout(spec.cidr, vni)
  const all = Array.from({ length: MAX_SITES_PER_CLUSTER }, (_, i) => i)
  const indexes = new Map((previous?.sites ?? []).flatMap(({ site, gatewayAddress }) => all.filter(i => net.gateway(i).ip === gatewayAddress).map(i => [site, i] as const)))
  const free = all.filter(i => ![...indexes.values()].includes(i))
  for (const { site } of offers) if (!indexes.has(site)) indexes.set(site, free.shift() ?? MAX_SITES_PER_CLUSTER)
  return indexes
}

/** Two gateways behind one tunnel address would get each other's frames: refused before anything starts. */
function checkTunnels (offers: readonly Offer[]): void {
  if (offers.length < 2) return
  const clash = endpointClash(offers.map(({ site, gateway }) => ({ site, ...gateway })))
  if (clash !== null) throw new ConflictError(clash, 'give one of them an address of the other version too: tunnelAddresses in its configuration')
  const seen = new Map<string, Offer>()
  for (const offer of offers) {
    const address = bareAddress(offer.gateway.tunnelAddress)
    if (address === '') throw new ConflictError(`gateway ${offer.gateway.host} of site ${offer.site} has no tunnel address`)
    const other = seen.get(address)
    if (other !== undefined) {
      throw new ConflictError(
        `gateways ${other.gateway.host} of site ${other.site} and ${offer.gateway.host} of site ${offer.site} both use the tunnel address ${address}`,
        'give one of them another tunnel key or address'
      )
    }
    seen.set(address, offer)
  }
}

/** An address without its prefix length. */
export const bareAddress = (address: string): string => address.split('/')[0] ?? ''

/** Every host that an offer names, its gateway first marked as such. */
export function memberHosts (offer: Offer): MemberHost[] {
  const hosts = new Map<string, MemberHost>()
  const { gateway } = offer
  hosts.set(gateway.host, { host: gateway.host, peer: gateway.peer, underlayAddress: gateway.underlayAddress, gateway: true })
  for (const { host, peer, underlayAddress } of offer.held) {
    if (!hosts.has(host)) hosts.set(host, { host, peer, underlayAddress, gateway: false })
  }
  return [...hosts.values()].sort((a, b) => byText(a.host, b.host))
}

/** What an offer holds of one kind, by name. */
function byName (offer: Offer, kind: string): Map<string, Held> {
  const names = new Map<string, Held>()
  for (const held of offer.held.filter(one => one.kind === kind)) {
    if (names.has(held.name)) throw new ConflictError(`site ${offer.site} holds ${kind} ${held.name} twice`)
    names.set(held.name, held)
  }
  return names
}

/**
 * Writes down what a cluster is, from its spec and the offers held for it. The same input gives the
 * same document.
 *
 * @throws ConflictError when the offers are not what the spec asks for, or tunnel addresses collide
 */
export function buildClusterDocument (input: DocumentInput): ClusterDocument {
  const { id, name, spec, vni } = input
  const offers = inOrder(input.offers, input.masterSite)
  checkTunnels(offers)
  const net = layout(spec.cidr, vni)
  const local = spec.localCidr === undefined ? null : layout(spec.localCidr, vni, 'site')
  const nodes: ClusterNode[] = []
  const volumes: ClusterVolume[] = []
  const frontends: Frontend[] = []
  const indexes = siteIndexes(offers, input)
  const indexOf = (site: string): number => indexes.get(site) ?? 0
  // The numbers of a new cluster are those of its spec; later ones go on from there.
  const lastIndex = input.previous == null ? spec.nodes.count : MAX_NODES_PER_CLUSTER

  for (const offer of offers) {
    const { site } = offer
    const siteIndex = indexOf(site)
    const heldBy = (kind: string): Map<string, Held> => byName(offer, kind)
    const heldNodes = heldBy('node')
    for (let index = 1; index <= lastIndex; index++) {
      const held = heldNodes.get(nodeName(name, site, index))
      if (held === undefined) continue
      heldNodes.delete(held.name)
      if (held.resources.vcpus < spec.nodes.vcpus || held.resources.memoryMib < spec.nodes.memoryMiB) {
        throw new ConflictError(`site ${site} holds too little for node ${held.name}`)
      }
      const second = local?.node(siteIndex, index)
      nodes.push({
        name: held.name, site, host: held.host, ...net.node(siteIndex, index), uuid: uuidFrom(input.hash(`${id}/${held.name}`)),
        vcpus: spec.nodes.vcpus, memoryMib: spec.nodes.memoryMiB, leaseId: held.leaseId, index,
        ...(second === undefined ? {} : { localMac: second.mac, localIp: second.ip })
      })
    }
    for (const stray of heldNodes.keys()) throw new ConflictError(`site ${site} holds ${stray}, which is no node of cluster ${name}`)
    for (const held of heldBy('volume').values()) {
      const wanted = spec.volumes.find(volume => volume.name === held.name)
      if (wanted === undefined || held.resources.diskMib < wanted.sizeMiB) throw new ConflictError(`site ${site} holds volume ${held.name}, which is not as cluster ${name} asks`)
      volumes.push({
        name: held.name, site, host: held.host, node: nodeName(name, site, wanted.node), sizeMib: wanted.sizeMiB,
        iqn: volumeIqn(id, held.name), portalAddress: held.underlayAddress, leaseId: held.leaseId
      })
    }
    for (const held of heldBy('frontend').values()) {
      frontends.push({ name: frontendName(name), site, host: held.host, ...net.frontend, mode: spec.frontend.mode, leaseId: held.leaseId })
    }
  }
  nodes.sort((a, b) => a.index - b.index)
  volumes.sort((a, b) => byText(a.name, b.name))
  const frontend = checkComplete(input, { nodes, volumes, frontends })

  const sites = offers.map((offer): MemberSite => {
    const gateway = net.gateway(indexOf(offer.site))
    return {
      site: offer.site, segmentId: offer.segmentId, gateway: offer.gateway, hosts: memberHosts(offer),
      gatewayAddress: gateway.ip, gatewayMac: gateway.mac, cache: offer.site !== frontend.site,
      leaseId: offer.held.find(held => held.kind === 'segment' && !isLocal(held))?.leaseId ?? '',
      ...(local === null ? {} : { localSegmentId: offer.localSegmentId ?? 0, localLeaseId: offer.held.find(isLocal)?.leaseId ?? '' })
    }
  })
  return {
    id, name, epoch: input.epoch ?? 1, vni, cidr: spec.cidr, domain: `${name}.internal`, masterSite: input.masterSite, masterPeer: input.masterPeer,
    createdMs: input.nowMs, endMs: input.endMs ?? input.nowMs + spec.termMs, frontend, sites, nodes, volumes,
    imageDigest: input.imageDigest, sshPublicKey: input.sshPublicKey, version: input.version ?? 1, startMs: input.startMs ?? input.nowMs,
    // a record of an earlier release does not say it
    antiSpoofOff: (spec.antiSpoof as boolean | undefined) === false,
    ...(spec.localCidr === undefined ? {} : { localCidr: spec.localCidr }),
    ...(spec.cache === undefined ? {} : { cacheTerms: renderCacheTerms(spec.cache) })
  }
}

/** Every part that the spec asks for is held exactly once, and volumes are beside their nodes. */
function checkComplete ({ name, spec, masterSite }: DocumentInput, got: { nodes: ClusterNode[], volumes: ClusterVolume[], frontends: Frontend[] }): Frontend {
  const numbers = new Set(got.nodes.map(node => node.index))
  if (got.nodes.length !== spec.nodes.count || numbers.size !== spec.nodes.count) {
    throw new ConflictError(`the offers hold ${got.nodes.length} nodes for cluster ${name}, which asks for ${spec.nodes.count}`)
  }
  const volumeNames = new Set(got.volumes.map(volume => volume.name))
  if (got.volumes.length !== spec.volumes.length || volumeNames.size !== spec.volumes.length) {
    throw new ConflictError(`the offers hold ${got.volumes.length} volumes for cluster ${name}, which asks for ${spec.volumes.length}`)
  }
  for (const volume of got.volumes) {
    if (!got.nodes.some(node => node.name === volume.node && node.site === volume.site)) {
      throw new ConflictError(`volume ${volume.name} is held at site ${volume.site}, its node is elsewhere`)
    }
  }
  const [frontend, ...others] = got.frontends
  if (frontend === undefined || others.length > 0) throw new ConflictError(`the offers hold ${got.frontends.length} frontends for cluster ${name}`)
  if (frontend.site !== masterSite) throw new ConflictError(`the frontend of cluster ${name} is held at ${frontend.site}, not at its master ${masterSite}`)
  return frontend
}

/**
 * Leases that the document names and that no receipt covers. A host activates only when this is
 * empty: no node starts anywhere unless every lender has committed.
 */
export function missingReceipts (document: ClusterDocument, receipts: readonly Receipt[]): string[] {
  const have = new Set(receipts.map(receipt => receipt.leaseId))
  const parts = [document.frontend, ...document.nodes, ...document.volumes, ...document.sites.flatMap(site => [{ leaseId: site.leaseId, name: `the segment at ${site.site}` }, ...(document.localCidr ?? '') === '' ? [] : [{ leaseId: site.localLeaseId ?? '', name: `the site-local segment at ${site.site}` }]])]
  return parts.filter(part => !have.has(part.leaseId)).map(part => part.name)
}
