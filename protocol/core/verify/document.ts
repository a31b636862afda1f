/**
 * What a lender checks of a cluster document before anything of it runs. The document was written by
 * a master of another site: nothing in it is believed that this host, its ledger or the roster can
 * tell. Pure; the first problem is told in words.
 */
import { cidrProblem, networksOverlap, parseCidr, parseIp } from '../network/addresses.ts'
import { sameButBudget } from '../cache/budget.ts'
import { cacheTermsProblem } from '../cache/terms.ts'
import { bareAddress, memberHosts, volumeIqn } from '../document.ts'
import { endpointClash, isUnderlayAddress, parseEndpoints } from '../network/endpoints.ts'
import { ConflictError, MusubiError } from '../errors.ts'
import { fits } from '../capacity.ts'
import { type Lease, isLive } from '../lease/lease.ts'
import { isLocal, vnisOf } from '../network/local.ts'
import {
  MAX_EPOCH, MAX_MEMORY_MIB_PER_NODE, MAX_NODES_PER_CLUSTER, MAX_SITES_PER_CLUSTER, MAX_VCPUS_PER_NODE, MAX_VNI, MAX_VOLUME_MIB, MAX_VOLUMES_PER_CLUSTER
} from '../limits.ts'
import type { ClusterDocument, GatewayFacts, MemberSite, Offer } from '../messages.ts'
import { FRONTEND_RESOURCES, nodeResources, volumeResources } from '../placement/at-site.ts'
import { isTunnelKey } from '../network/tracks.ts'
import { holdTimeOf, isName, isUuid, twice } from './request.ts'

const MAC = /^[0-9a-f][02468ace](:[0-9a-f]{2}){5}$/
/** 0 where there is none, as in all that earlier releases wrote. */
const localIdOf = ({ localSegmentId = 0 }: { localSegmentId?: number }): number => localSegmentId
const hasLocal = ({ localCidr = '' }: Pick<ClusterDocument, 'localCidr'>): boolean => localCidr !== ''

const isWhole = (value: number, least: number, most: number): boolean => Number.isSafeInteger(value) && value >= least && value <= most

export interface Self {
  site: string
  host: string
  /** NIC that carries the segments inside the site by VLAN; absent where VXLAN does */
  trunk?: string
}

/** What the roster and the tunnel's address scheme say of gateways, whoever claims otherwise. */
export interface GatewayTruth {
  /** @param chain the certificates that came with the claim, base64 */
  isGatewayOf: (peer: string, site: string, host: string, chain: readonly string[]) => boolean
  /** address of a gateway inside tunnels, without prefix length */
  tunnelAddressFor: (peer: string) => string
}

/** What a host knows of itself and its site. */
export interface HostTruth extends GatewayTruth {
  peer: string
  underlayAddress: string
  /** where this gateway's tunnel is reached, as documents carry it */
  tunnelEndpoint: string
  /** where another host of the own site says it is; null when nothing is known of it */
  addressOf: (host: string) => string | null
  /**
   * Tunnel keys of a gateway as it says itself in records that it has signed, the own ones included; null
   * when it has said nothing yet. What documents say of its key counts until then.
   */
  heardKeys?: (peer: string) => readonly string[] | null
}

/** A document that this host keeps of another cluster; one that is not active may still have something here. */
export interface OtherDocument { document: ClusterDocument, active: boolean }

type Check = readonly [ok: boolean, problem: string]
const firstOf = (checks: Iterable<Check>): string | null => {
  for (const [ok, problem] of checks) if (!ok) return problem
  return null
}

/** Whether a host of a site can be reached there by the others: in-site VXLAN and iSCSI portals are IPv4. */
const isHostAddress = (text: string): boolean => parseIp(text) !== null && isUnderlayAddress(text)

/** What is wrong with what a gateway says of itself, as far as the roster can tell. */
export function gatewayProblem (site: string, gateway: GatewayFacts, truth: GatewayTruth): string | null {
  return firstOf([
    [truth.isGatewayOf(gateway.peer, site, gateway.host, gateway.chain), `${gateway.host} with the key ${gateway.peer} is no gateway of site ${site}`],
    [bareAddress(gateway.tunnelAddress) === truth.tunnelAddressFor(gateway.peer), `gateway ${gateway.host} of site ${site} has not the tunnel address of its key`],
    [isTunnelKey(gateway.tunnelPublicKey), `the tunnel key of gateway ${gateway.host} of site ${site} is no WireGuard key`],
    [parseEndpoints(gateway.tunnelEndpoint) !== null, `gateway ${gateway.host} of site ${site} has the tunnel endpoint "${gateway.tunnelEndpoint}", which is no address and port`],
    [isHostAddress(gateway.underlayAddress), `gateway ${gateway.host} of site ${site} has the address "${gateway.underlayAddress}"`]
  ])
}

/** What is wrong with an offer beyond what it holds. @param asked the gateway that was asked */
export function offerProblem (offer: Offer, asked: { site: string, peer: string }, truth: GatewayTruth): string | null {
  return firstOf([
    [offer.site === asked.site, `it is of site ${offer.site}`],
    [offer.gateway.peer === asked.peer, `it names another gateway than was asked, ${offer.gateway.peer}`],
    [holdTimeOf(offer) !== null, 'it is held for no time at all'],
    [isWhole(offer.segmentId, 1, MAX_VNI), `its segment id is ${offer.segmentId}`],
    [isWhole(localIdOf(offer), 0, MAX_VNI) && localIdOf(offer) !== offer.segmentId, `its site-local segment id is ${localIdOf(offer)}`],
    // People are shown what is held for them, in a terminal, before anything of it is in a document.
    [offer.held.every(held => isName(held.host) && isName(held.name)), 'a host, or something that is held, has a malformed name'],
    [offer.held.every(held => isHostAddress(held.underlayAddress)), 'a host of it has no usable address']
  ]) ?? gatewayProblem(offer.site, offer.gateway, truth)
}

/**
 * What a document says of a site must be what that site has offered: hosts, addresses, tunnel,
 * segment id, and who holds what.
 */
export function offeredProblem (document: ClusterDocument, offer: Offer): string | null {
  const member = document.sites.find(one => one.site === offer.site)
  if (member === undefined) return `it leaves out site ${offer.site}`
  const facts = (g: GatewayFacts): string => JSON.stringify([g.host, g.peer, g.underlayAddress, g.tunnelPublicKey, g.tunnelEndpoint, g.tunnelAddress])
  const hosts = (list: MemberSite['hosts']): string => JSON.stringify(list.map(h => [h.host, h.peer, h.underlayAddress, h.gateway]).sort())
  const parts = [
    ...document.nodes.map(part => ({ kind: 'node', part, name: part.name })), ...document.volumes.map(part => ({ kind: 'volume', part, name: part.name })),
    { kind: 'frontend', part: document.frontend, name: 'frontend' }
  ].filter(({ part }) => part.site === offer.site)
  const stray = parts.find(({ kind, part, name }) => !offer.held.some(held => held.leaseId === part.leaseId && held.kind === kind && held.name === name && held.host === part.host))
  return firstOf([
    [offer.held.some(held => held.kind === 'segment' && !isLocal(held) && held.leaseId === member.leaseId), `the lease of the segment at site ${offer.site} is not as offered`],
    [member.segmentId === offer.segmentId, `site ${offer.site} offered the segment id ${offer.segmentId}, not ${member.segmentId}`],
    [hasLocal(document) === offer.held.some(isLocal), `site ${offer.site} offered ${offer.held.some(isLocal) ? 'a' : 'no'} site-local segment`],
    [!hasLocal(document) || offer.held.some(held => isLocal(held) && held.leaseId === member.localLeaseId), `the lease of the site-local segment at site ${offer.site} is not as offered`],
    [localIdOf(member) === localIdOf(offer), `site ${offer.site} offered the site-local segment id ${localIdOf(offer)}, not ${localIdOf(member)}`],
    [facts(member.gateway) === facts(offer.gateway), `the gateway of site ${offer.site} is not as offered`],
    [hosts(member.hosts) === hosts(memberHosts(offer)), `the hosts of site ${offer.site} are not as offered`],
    [stray === undefined, `site ${offer.site} did not offer ${stray?.kind ?? ''} ${stray?.name ?? ''} on ${stray?.part.host ?? ''}`]
  ])
}

function * siteChecks (document: ClusterDocument, member: MemberSite, truth: GatewayTruth): Generator<Check> {
  const { site, hosts, gateway } = member
  const gateways = hosts.filter(host => host.gateway)
  yield [isName(site) && hosts.every(host => isName(host.host)), `site ${JSON.stringify(site)} or one of its hosts has a malformed name`]
  yield [twice(hosts.map(host => host.host)) === undefined && twice(hosts.map(host => host.peer)) === undefined, `site ${site} names a host twice`]
  yield [hosts.every(host => isHostAddress(host.underlayAddress)), `a host of site ${site} has no usable address`]
  yield [twice(hosts.map(host => host.underlayAddress)) === undefined, `two hosts of site ${site} have one address`]
  yield [gateways.length === 1 && gateways[0]?.host === gateway.host && gateways[0].peer === gateway.peer && gateways[0].underlayAddress === gateway.underlayAddress, `the gateway of site ${site} is not one of its hosts`]
  yield [isWhole(member.segmentId, 1, MAX_VNI), `the segment id ${member.segmentId} of site ${site} is not within 1..${MAX_VNI}`]
  yield [hasLocal(document) ? isWhole(localIdOf(member), 1, MAX_VNI) && localIdOf(member) !== member.segmentId : localIdOf(member) === 0, `site ${site} has the site-local segment id ${localIdOf(member)}`]
  yield [hasLocal(document) === ((member.localLeaseId ?? '') !== ''), `site ${site} has ${hasLocal(document) ? 'no' : 'a'} lease of a site-local segment`]
  yield [!member.cache || site !== document.frontend.site, `site ${site} has the frontend and needs no cache`]
  const problem = gatewayProblem(site, gateway, truth)
  yield [problem === null, problem ?? '']
}

function * partChecks (document: ClusterDocument): Generator<Check> {
  const { nodes, volumes, frontend, sites } = document
  const hostAt = (site: string, host: string): { underlayAddress: string } | undefined => sites.find(one => one.site === site)?.hosts.find(one => one.host === host)
  for (const part of [frontend, ...nodes, ...volumes]) {
    yield [isName(part.name), `${JSON.stringify(part.name)} is no name`]
    yield [hostAt(part.site, part.host) !== undefined, `${part.name} is on ${part.host} of site ${part.site}, which is no member`]
  }
  const names = twice([frontend.name, ...nodes.map(node => node.name)]) ?? twice(volumes.map(volume => volume.name))
  yield [names === undefined, `${names ?? ''} is there twice`]
  const leases = twice([...[frontend, ...nodes, ...volumes, ...sites].map(part => part.leaseId), ...sites.flatMap(site => hasLocal(document) ? site.localLeaseId ?? '' : [])])
  yield [leases === undefined, `lease ${leases ?? ''} is named twice`]
  for (const node of nodes) {
    yield [isWhole(node.index, 1, MAX_NODES_PER_CLUSTER), `node ${node.name} has the number ${node.index}`]
    yield [isWhole(node.vcpus, 1, MAX_VCPUS_PER_NODE) && isWhole(node.memoryMib, 1, MAX_MEMORY_MIB_PER_NODE), `node ${node.name} is of no possible size`]
    yield [isUuid(node.uuid), `node ${node.name} has no UUID`]
  }
  // The number makes the tap's name on a host.
  yield [twice(nodes.map(node => node.index)) === undefined, `two nodes have the number ${twice(nodes.map(node => node.index)) ?? ''}`]
  yield [twice(nodes.map(node => node.uuid)) === undefined, 'two nodes have one UUID']
  for (const volume of volumes) {
    yield [isWhole(volume.sizeMib, 1, MAX_VOLUME_MIB), `volume ${volume.name} is not within 1..${MAX_VOLUME_MIB} MiB`]
    yield [volume.iqn === volumeIqn(document.id, volume.name), `volume ${volume.name} has the target name of another, ${JSON.stringify(volume.iqn)}`]
    yield [volume.portalAddress === hostAt(volume.site, volume.host)?.underlayAddress, `volume ${volume.name} is offered at ${JSON.stringify(volume.portalAddress)}, not at its host`]
    yield [nodes.some(node => node.name === volume.node && node.site === volume.site), `volume ${volume.name} is for ${JSON.stringify(volume.node)}, no node of its site`]
  }
}

function * segmentChecks (document: ClusterDocument): Generator<Check> {
  const { cidr, localCidr = '', frontend, nodes, sites } = document
  yield * networkChecks(document, cidr, [frontend.ip, ...nodes.map(node => node.ip), ...sites.map(site => site.gatewayAddress)], 'cidr')
  yield [nodes.every(node => hasLocal(document) === ((node.localIp ?? '') !== '') && hasLocal(document) === ((node.localMac ?? '') !== '')), `a node has ${hasLocal(document) ? 'no' : 'an'} address on a site-local segment`]
  const localIps = hasLocal(document) ? nodes.map(node => node.localIp ?? '') : []
  if (hasLocal(document)) {
    yield * networkChecks(document, localCidr, localIps, 'local.cidr')
    yield [!networksOverlap(cidr, localCidr), `the networks ${cidr} and ${localCidr} of the cluster overlap; give it another spec.network.local.cidr`]
  }
  const macs = [frontend.mac, ...nodes.map(node => node.mac), ...sites.map(site => site.gatewayMac), ...localIps.length === 0 ? [] : nodes.map(node => node.localMac ?? '')]
  for (const mac of macs) yield [MAC.test(mac), `${JSON.stringify(mac)} is no unicast MAC address in lower case`]
  yield [twice(macs) === undefined, `the MAC address ${twice(macs) ?? ''} is given twice`]
}

/** @param field of the spec's network */
function * networkChecks ({ sites }: ClusterDocument, cidr: string, ips: readonly string[], field: string): Generator<Check> {
  const bad = cidrProblem(cidr)
  yield [bad === null, bad ?? '']
  const network = parseCidr(cidr)
  const size = 2 ** (32 - (network?.prefixLength ?? 32))
  for (const text of ips) {
    const ip = parseIp(text)
    const host = ip === null || network === null ? 0 : ip - network.base
    yield [host > 0 && host < size - 1, `${JSON.stringify(text)} is no address of a host in ${cidr}`]
  }
  const inside = (text: string): boolean => {
    const ip = parseIp(text)
    return ip !== null && network !== null && ip >= network.base && ip < network.base + size
  }
  // a host would look for its own site, or for another gateway, on the cluster's network, and nodes for others of theirs outside of it
  for (const { site, hosts, gateway } of sites) {
    for (const { host, underlayAddress } of hosts) yield [!inside(underlayAddress), `the network ${cidr} of the cluster overlaps the underlay: ${underlayAddress} is host ${host} of site ${site}; give the cluster another spec.network.${field}`]
    const reached = parseEndpoints(gateway.tunnelEndpoint) ?? []
    yield [!reached.some(({ address }) => inside(address)), `the network ${cidr} of the cluster overlaps the underlay: ${gateway.tunnelEndpoint} is the tunnel of gateway ${gateway.host} of site ${site}; give the cluster another spec.network.${field}`]
  }
  yield [twice(ips) === undefined, `the address ${twice(ips) ?? ''} is given twice`]
}

function * documentChecks (document: ClusterDocument, truth: GatewayTruth): Generator<Check> {
  const { sites, nodes, volumes } = document
  yield [isUuid(document.id), 'its id is no UUID in lower case']
  const cache = cacheTermsProblem(document.cacheTerms)
  yield [cache === null, cache ?? '']
  yield [isName(document.name) && isName(document.masterSite), 'its name or its master\'s site is malformed']
  yield [isWhole(document.vni, 1, MAX_VNI), `its VNI ${document.vni} is not within 1..${MAX_VNI}`]
  yield [isWhole(document.epoch, 1, MAX_EPOCH) && isWhole(document.version, 1, MAX_EPOCH), `its epoch ${document.epoch} or its version ${document.version} is none`]
  yield [isWhole(document.startMs, 0, document.endMs) && document.startMs < document.endMs, 'it ends before it starts']
  yield [sites.length >= 1 && sites.length <= MAX_SITES_PER_CLUSTER, `it spans ${sites.length} sites`]
  yield [nodes.length <= MAX_NODES_PER_CLUSTER && volumes.length <= MAX_VOLUMES_PER_CLUSTER, `it has more than ${MAX_NODES_PER_CLUSTER} nodes or ${MAX_VOLUMES_PER_CLUSTER} volumes`]
  yield [twice(sites.map(one => one.site)) === undefined, `site ${twice(sites.map(one => one.site)) ?? ''} is there twice`]
  for (const member of sites) yield * siteChecks(document, member, truth)
  for (const [what, of] of [['peer', (g: GatewayFacts) => g.peer], ['tunnel key', (g: GatewayFacts) => g.tunnelPublicKey], ['tunnel address', (g: GatewayFacts) => bareAddress(g.tunnelAddress)]] as const) {
    yield [twice(sites.map(one => of(one.gateway))) === undefined, `two gateways have one ${what}`]
  }
  const clash = endpointClash(sites.map(({ site, gateway }) => ({ site, ...gateway })))
  yield [clash === null, clash ?? '']
  yield [document.frontend.mode === 'builtin', `its frontend is of the mode ${JSON.stringify(document.frontend.mode)}, which is not known here`]
  yield [document.frontend.site === document.masterSite, `its frontend is at ${document.frontend.site}, not at its master`]
  yield * partChecks(document)
  yield * segmentChecks(document)
}

/** What is wrong with a document whoever reads it. */
export const documentProblem = (document: ClusterDocument, truth: GatewayTruth): string | null => firstOf(documentChecks(document, truth))

/**
 * What is wrong with the next version of a document: a live cluster gets more, or gives back, and has
 * a new master. What runs is never exchanged.
 */
export function growthProblem (before: ClusterDocument, after: ClusterDocument): string | null {
  const same = (...fields: ReadonlyArray<keyof ClusterDocument>): string | undefined => fields.find(field => JSON.stringify(canonical(before[field])) !== JSON.stringify(canonical(after[field])))
  const changed = same('id', 'name', 'vni', 'cidr', 'domain', 'masterSite', 'createdMs', 'startMs', 'frontend', 'imageDigest', 'sshPublicKey')
  // what an earlier release wrote does not say it
  const spoofing = ({ antiSpoofOff = false }: Partial<ClusterDocument>): boolean => antiSpoofOff
  /** the first of both lists that has become another */
  const exchanged = <T>(list: (document: ClusterDocument) => readonly T[], name: (one: T) => string): string | undefined => {
    const next = new Map(list(after).map(one => [name(one), JSON.stringify(canonical(one))]))
    const other = list(before).find(one => next.has(name(one)) && next.get(name(one)) !== JSON.stringify(canonical(one)))
    return other === undefined ? undefined : name(other)
  }
  const part = exchanged(d => d.nodes, node => node.name) ?? exchanged(d => d.volumes, volume => volume.name)
  // New hosts come, the rest of a site stays; its certificates may have been renewed.
  const site = exchanged(d => d.sites.map(one => ({ ...one, hosts: [], gateway: { ...one.gateway, chain: [] } })), one => one.site)
  const moved = exchanged(d => d.sites.flatMap(one => one.hosts.map(host => ({ ...host, host: `${one.site}/${host.host}` }))), host => host.host)
  return firstOf([
    [after.version > before.version, `version ${after.version} is not newer than ${before.version}`],
    [after.epoch >= before.epoch, `its epoch ${after.epoch} is older than ${before.epoch}`],
    [changed === undefined, `its ${changed ?? ''} is another than in version ${before.version}`],
    [(before.localCidr ?? '') === (after.localCidr ?? ''), `its localCidr is another than in version ${before.version}`],
    [sameButBudget(before.cacheTerms ?? '', after.cacheTerms ?? ''), `its cacheTerms are others than in version ${before.version}, and not in the budget alone`],
    [spoofing(before) === spoofing(after), `its antiSpoofOff is another than in version ${before.version}`],
    [part === undefined, `${part ?? ''} is another than in version ${before.version}`],
    [site === undefined, `site ${site ?? ''} is another than in version ${before.version}`],
    [moved === undefined, `host ${moved ?? ''} is another than in version ${before.version}`]
  ])
}

/** What an earlier release does not write, and the wire fills in. */
const LATER: ReadonlySet<string> = new Set(['localSegmentId', 'localLeaseId', 'localMac', 'localIp'])

/** Objects with their keys in order: a document that was stored or sent is the same one. */
function canonical (value: unknown): unknown {
  if (Array.isArray(value)) return value.map(canonical)
  if (typeof value !== 'object' || value === null) return value
  const parts = Object.entries(value).filter(([key, one]) => !(LATER.has(key) && (one === '' || one === 0)))
  return Object.fromEntries(parts.sort(([a], [b]) => a < b ? -1 : 1).map(([key, one]) => [key, canonical(one)]))
}

function * leaseChecks (document: ClusterDocument, self: Self, leases: readonly Lease[]): Generator<Check> {
  const mine = leases.filter(lease => isLive(lease) && lease.clusterId === document.id)
  const here = (part: { site: string, host: string }): boolean => part.site === self.site && part.host === self.host
  const parts = [
    ...document.nodes.filter(here).map(node => ({ kind: 'node', name: node.name, leaseId: node.leaseId, needs: nodeResources(node) })),
    ...document.volumes.filter(here).map(volume => ({ kind: 'volume', name: volume.name, leaseId: volume.leaseId, needs: volumeResources(volume) })),
    ...[document.frontend].filter(here).map(frontend => ({ kind: 'frontend', name: 'frontend', leaseId: frontend.leaseId, needs: FRONTEND_RESOURCES }))
  ]
  for (const { kind, name, leaseId, needs } of parts) {
    const lease = mine.find(one => one.id === leaseId && one.kind === kind && one.name === name)
    yield [lease !== undefined, `${self.host} has no lease ${leaseId} for ${kind} ${name}`]
    if (lease !== undefined) yield [fits(needs, lease.resources), `${kind} ${name} is larger than its lease on ${self.host}`]
  }
  yield [mine.every(lease => lease.cluster === document.name), `its leases on ${self.host} were asked for under another name`]
  const site = document.sites.find(one => one.site === self.site)
  const member = site?.hosts.find(one => one.host === self.host)
  if (site === undefined || member === undefined) return
  const segment = mine.find(lease => lease.kind === 'segment' && !isLocal(lease))
  const local = mine.find(isLocal)
  yield [member.gateway === (segment !== undefined), member.gateway ? `${self.host} has no lease as its gateway` : `${self.host} is its gateway by its lease`]
  yield [segment === undefined || segment.id === site.leaseId, `${self.host} has no lease ${site.leaseId} for the segment of site ${self.site}`]
  yield [segment === undefined || segment.segmentId === site.segmentId, `its segment id at site ${self.site} is ${segment?.segmentId ?? 0}, not ${site.segmentId}`]
  yield [(member.gateway && hasLocal(document)) === (local !== undefined), `${self.host} has ${local === undefined ? 'no' : 'a'} lease of a site-local segment`]
  yield [local === undefined || (local.id === site.localLeaseId && local.segmentId === localIdOf(site)), `the site-local segment id at site ${self.site} is ${local?.segmentId ?? 0} by lease ${local?.id ?? ''}, not ${localIdOf(site)}`]
  yield [mine.length > 0, `${self.host} has no lease of it`]
}

function * selfChecks (document: ClusterDocument, self: Self, truth: HostTruth): Generator<Check> {
  const site = document.sites.find(one => one.site === self.site)
  for (const host of site?.hosts ?? []) {
    const known = host.host === self.host ? truth.underlayAddress : truth.addressOf(host.host)
    // Nothing known of a host yet: its address has the form of one, and the own gateway has compared it with what it offered.
    yield [known === null || known === host.underlayAddress, `host ${host.host} of site ${self.site} is at ${known ?? ''}, not at ${host.underlayAddress}`]
  }
  if (site?.gateway.host !== self.host) return
  yield [site.gateway.peer === truth.peer, `gateway ${self.host} has another key`]
  const own = truth.heardKeys?.(truth.peer) ?? []
  const thief = tunnelPeers(document, self).find(peer => own.includes(peer.tunnelPublicKey))
  yield [thief === undefined, `gateway ${thief?.host ?? ''} has the tunnel key of ${self.host}`]
  yield [site.gateway.tunnelEndpoint === truth.tunnelEndpoint, `gateway ${self.host} listens at ${truth.tunnelEndpoint}, not at ${site.gateway.tunnelEndpoint}`]
}

/** Peers that a document makes this host's tunnel talk to. */
const tunnelPeers = (document: ClusterDocument, self: Self): GatewayFacts[] =>
  document.sites.some(one => one.site === self.site && one.gateway.host === self.host) ? document.sites.filter(one => one.site !== self.site).map(one => one.gateway) : []

/**
 * What two clusters may not share on one host. A peer's tunnel is shared by all clusters: only that peer
 * itself, as a master or by its records, may say that its key or endpoint has changed. Once it has been
 * heard its records count and documents do not, so theirs need not agree.
 */
function * clashChecks (document: ClusterDocument, self: Self, { document: other, active }: OtherDocument, heardKeys: (peer: string) => readonly string[] | null): Generator<Check> {
  const what = `cluster ${other.name}${active ? '' : ', which is being removed,'} on ${self.host}`
  const here = (one: ClusterDocument): string[] => one.nodes.filter(node => node.site === self.site && node.host === self.host).map(node => node.uuid)
  const idsOf = (one: ClusterDocument): number[] => one.sites.filter(member => member.site === self.site).flatMap(member => [member.segmentId, localIdOf(member)]).filter(id => id !== 0)
  const vni = vnisOf(document).find(one => vnisOf(other).includes(one))
  const id = idsOf(document).find(one => idsOf(other).includes(one))
  yield [document.id.slice(0, 8) !== other.id.slice(0, 8), `its id begins as that of ${what}`]
  yield [vni === undefined, `VNI ${vni ?? 0} belongs to ${what}`]
  yield [id === undefined, `segment id ${id ?? 0} belongs to ${what}`]
  yield [!here(document).some(uuid => here(other).includes(uuid)), `a node has the UUID of a node of ${what}`]
  const used = tunnelPeers(other, self)
  const wanted = tunnelPeers(document, self)
  // 22 bits of a hash: whoever wants the address of another finds a key for it in minutes, and would be sent what is meant for that one
  for (const peer of wanted) {
    const holder = used.find(one => one.peer !== peer.peer && bareAddress(one.tunnelAddress) === bareAddress(peer.tunnelAddress))
    yield [holder === undefined, `gateway ${peer.host} has the tunnel address ${bareAddress(peer.tunnelAddress)} of gateway ${holder?.host ?? ''} of ${what}; its site has to make it another key`]
  }
  if (!active) return
  for (const peer of wanted) {
    const same = used.find(one => one.peer === peer.peer)
    yield [same === undefined || heardKeys(peer.peer) !== null || peer.peer === document.masterPeer || (same.tunnelPublicKey === peer.tunnelPublicKey && same.tunnelEndpoint === peer.tunnelEndpoint), `gateway ${peer.host} has another key or endpoint than in ${what}, and does not say so itself`]
    yield [!used.some(one => one.peer !== peer.peer && (heardKeys(one.peer) ?? [one.tunnelPublicKey]).includes(peer.tunnelPublicKey)), `gateway ${peer.host} has the tunnel key of another gateway of ${what}`]
  }
}

/**
 * Leases bound what runs: refuses a document that asks this host for more than its ledger has
 * promised, that says of this host or of other gateways what is not so, or that would take something
 * of another cluster.
 *
 * @param leases of this host
 * @param others documents of other clusters that are active here or not yet known to be gone
 * @throws ConflictError; NOT_READY, retryable, when only the remains of an ended cluster are in the way
 */
export function checkAgainstLeases (document: ClusterDocument, self: Self, leases: readonly Lease[], others: readonly OtherDocument[], truth: HostTruth): void {
  const problem = documentProblem(document, truth) ?? firstOf(leaseChecks(document, self, leases)) ?? firstOf(selfChecks(document, self, truth))
  if (problem !== null) throw new ConflictError(`the document of cluster ${document.name} is refused: ${problem}`)
  const clashes = others.filter(({ document: other }) => other.id !== document.id).toSorted((a, b) => Number(b.active) - Number(a.active))
  for (const other of clashes) {
    const clash = firstOf(clashChecks(document, self, other, truth.heardKeys ?? (() => null)))
    if (clash === null) continue
    if (other.active) throw new ConflictError(`the document of cluster ${document.name} is refused: ${clash}`)
    throw new MusubiError('NOT_READY', `cluster ${document.name} cannot be activated yet: ${clash}`, { retryable: true, hint: 'try again in some seconds' })
  }
}
