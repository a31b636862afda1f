/** From a cluster document to what one host must run. */
import { parseCidr } from './network/addresses.ts'
import { budgetAt } from './cache/budget.ts'
import { parseCacheTerms } from './cache/terms.ts'
import {
  type CacheSpec, type DesiredObject, type DomainSpec, type ObjectKind, type SegmentMember, type SegmentSpec, type SpecByKind, type TunnelSpec, type TunnelTrack, hostBridgeName, tapName
} from './desired.ts'
import { bareAddress } from './document.ts'
import { sharedEndpoint } from './network/endpoints.ts'
import { ConflictError, NotFoundError } from './errors.ts'
import { LOCAL, localOf, localVniOf } from './network/local.ts'
import type { ClusterDocument, ClusterNode, ClusterVolume, MemberHost, MemberSite, Secret } from './messages.ts'
import type { Self } from './verify/document.ts'

/** Port of iSCSI portals. */
export const PORTAL_PORT = 3260
/** Ports that a site's cache intercepts. */
export const CACHE_PORTS: readonly number[] = [80]
/** Bound on what one cluster's cache keeps on a gateway, in MiB. */
export const CACHE_MAX_SIZE_MIB = 8192
/** Manifest of the built-in frontend: the files of its image, for caches to fetch before nodes ask. */
export const PREHEAT_PATH = '/v1/preheat.json'
/** The tunnel of a host has one name whatever clusters use it. */
export const TUNNEL_NAME = 'wg'

/** Name of an object of a cluster: unique on a host together with its kind. */
export const objectName = (clusterId: string, short: string): string => `${clusterId.slice(0, 8)}.${short}`

const object = <K extends ObjectKind>(kind: K, name: string, spec: SpecByKind[K]): DesiredObject<K> => ({ kind, name, spec })

/** Which parts of a document concern one host. */
interface View {
  document: ClusterDocument
  site: MemberSite
  member: MemberHost
  /** nodes that run on this host */
  nodes: ClusterNode[]
  chap: (volume: ClusterVolume) => { user: string, secret: string }
  trunk: string | undefined
}

function volumes ({ document, site, member, chap }: View): DesiredObject[] {
  return document.volumes.filter(volume => volume.site === site.site && volume.host === member.host).map(volume => {
    const users = document.nodes.filter(node => node.name === volume.node).map(node => node.host)
    return object('volume', objectName(document.id, volume.name), {
      sizeMiB: volume.sizeMib, iqn: volume.iqn, portalAddress: volume.portalAddress, chap: chap(volume),
      allow: site.hosts.filter(host => users.includes(host.host)).map(host => host.underlayAddress).sort()
    })
  })
}

function tunnel ({ document, site, member }: View): DesiredObject[] {
  if (!member.gateway || document.sites.length < 2) return []
  const port = Number(/:(\d+)$/.exec(site.gateway.tunnelEndpoint)?.[1])
  if (!(port > 0 && port < 65536)) throw new ConflictError(`gateway ${member.host} of site ${site.site} has the tunnel endpoint "${site.gateway.tunnelEndpoint}", which names no port`)
  return [object('tunnel', TUNNEL_NAME, {
    listenPort: port,
    address: site.gateway.tunnelAddress,
    peers: document.sites.filter(other => other.site !== site.site).map(({ site: name, gateway }) => ({
      site: name, publicKey: gateway.tunnelPublicKey, endpoint: sharedEndpoint(site.gateway.tunnelEndpoint, gateway.tunnelEndpoint) ?? gateway.tunnelEndpoint, address: gateway.tunnelAddress
    }))
  })]
}

/**
 * Everybody on the segment, as one host sees them. Between sites frames take the gateways: a host that
 * is none sends all that is elsewhere to its own.
 */
function segmentMembers (document: ClusterDocument, site: MemberSite, self: MemberHost): SegmentMember[] {
  const underlayOf = (name: string): string => site.hosts.find(host => host.host === name)?.underlayAddress ?? site.gateway.underlayAddress
  const place = (at: string, host: string): Pick<SegmentMember, 'where' | 'via'> => {
    if (at === site.site) return host === self.host ? { where: 'host' } : { where: 'site', via: underlayOf(host) }
    const far = document.sites.find(one => one.site === at)?.gateway.tunnelAddress ?? ''
    return { where: 'remote', via: self.gateway ? bareAddress(far) : site.gateway.underlayAddress }
  }
  const { frontend: fe } = document
  // the built-in frontend gives every node the address that the document says; another one has a DHCP server of its own
  const gives = fe.mode === 'builtin'
  return [
    { role: 'frontend', mac: fe.mac, address: fe.ip, ...place(fe.site, fe.host) },
    ...document.sites.map(({ site: at, gateway, gatewayMac, gatewayAddress }): SegmentMember => ({ role: 'gateway', mac: gatewayMac, address: gatewayAddress, ...place(at, gateway.host) })),
    ...document.nodes.map(({ site: at, host, mac, ip, index }): SegmentMember => {
      const there = place(at, host)
      return { role: 'node', mac, address: gives ? ip : null, ...there, ...(there.where === 'host' ? { tap: tapName(document.vni, index) } : {}) }
    })
  ]
}

/** What one host has of a cluster's segment; null when it carries none of it. */
export function segmentFor (document: ClusterDocument, self: Self): SegmentSpec | null {
  const site = document.sites.find(one => one.site === self.site)
  const member = site?.hosts.find(one => one.host === self.host)
  return site === undefined || member === undefined ? null : segmentSpec(document, site, member, self.trunk)
}

function segmentSpec (document: ClusterDocument, site: MemberSite, member: MemberHost, trunk?: string): SegmentSpec | null {
  const nodes = document.nodes.filter(node => node.site === site.site && node.host === member.host)
  if (!member.gateway && nodes.length === 0) return null
  const carries = (host: MemberHost): boolean => host.gateway || document.nodes.some(node => node.site === site.site && node.host === host.host)
  const spec: SegmentSpec = {
    cluster: document.name,
    vni: document.vni,
    site: {
      segmentId: site.segmentId,
      localAddress: member.underlayAddress,
      remoteAddresses: site.hosts.filter(host => host.host !== member.host && carries(host)).map(host => host.underlayAddress).sort(),
      ...(trunk === undefined ? {} : { trunk })
    },
    compute: nodes.length > 0,
    known: { antiSpoof: document.antiSpoofOff !== true, members: segmentMembers(document, site, member) }
  }
  if (member.gateway) {
    const others = document.sites.filter(other => other.site !== site.site)
    spec.gateway = {
      address: withPrefix(document, site.gatewayAddress),
      bridgeMac: site.gatewayMac,
      tunnel: others.length === 0
        ? null
        : { localAddress: bareAddress(site.gateway.tunnelAddress), remoteAddresses: others.map(other => bareAddress(other.gateway.tunnelAddress)).sort() }
    }
  }
  return spec
}

function segment ({ document, site, member, trunk }: View): DesiredObject[] {
  const spec = segmentSpec(document, site, member, trunk)
  const local = localSpec(document, site, member, trunk)
  return [...spec === null ? [] : [object('segment', objectName(document.id, 'segment'), spec)], ...local === null ? [] : [object('segment', objectName(document.id, LOCAL), local)]]
}

/** What one host has of the segment that does not leave its site; null when it carries none of it. */
export function localSegmentFor (document: ClusterDocument, self: Self): SegmentSpec | null {
  const site = document.sites.find(one => one.site === self.site)
  const member = site?.hosts.find(one => one.host === self.host)
  return site === undefined || member === undefined ? null : localSpec(document, site, member, self.trunk)
}

/**
 * Between hosts that have nodes, and nobody else: no gateway takes part, so there is no way out. The site's gateway
 * has given out the id and carries it only where it has nodes itself, as any other host.
 */
function localSpec (document: ClusterDocument, site: MemberSite, member: MemberHost, trunk?: string): SegmentSpec | null {
  const nodes = document.nodes.flatMap(({ site: at, host, index, ...node }) => {
    const local = at === site.site ? localOf(document, node) : null
    return local === null ? [] : [{ host, index, ...local }]
  })
  if (!nodes.some(node => node.host === member.host)) return null
  const vni = localVniOf(document.vni)
  const others = site.hosts.filter(host => host.host !== member.host && nodes.some(node => node.host === host.host))
  const members = nodes.map(({ host, index, mac, ip }): SegmentMember => host === member.host
    ? { role: 'node', mac, address: ip, where: 'host', tap: tapName(vni, index) }
    : { role: 'node', mac, address: ip, where: 'site', via: others.find(one => one.host === host)?.underlayAddress ?? '' })
  return {
    cluster: document.name,
    vni,
    site: { segmentId: site.localSegmentId ?? 0, localAddress: member.underlayAddress, remoteAddresses: others.map(host => host.underlayAddress).sort(), ...(trunk === undefined ? {} : { trunk }) },
    compute: true,
    // its addresses are those of the document whoever installs the nodes: nobody gives out others there
    known: { antiSpoof: document.antiSpoofOff !== true, members }
  }
}

const withPrefix = (document: ClusterDocument, ip: string): string => `${ip}/${parseCidr(document.cidr)?.prefixLength ?? 16}`

function frontend ({ document, site, member }: View): DesiredObject[] {
  const { frontend: fe } = document
  if (fe.site !== site.site || fe.host !== member.host) return []
  return [object('frontend', objectName(document.id, 'frontend'), {
    cluster: document.name, clusterId: document.id, vni: document.vni, name: fe.name, address: withPrefix(document, fe.ip), mac: fe.mac,
    domain: document.domain, image: { digest: document.imageDigest },
    nodes: document.nodes.map(node => {
      const { name, mac, ip, site: at } = node
      const local = localOf(document, node)
      return { name, mac, ip, site: at, ...(local === null ? {} : { local: { mac: local.mac, address: `${local.ip}/${local.prefixLength}` } }) }
    }),
    sshPublicKey: document.sshPublicKey
  })]
}

function cache ({ document, site, member }: View): DesiredObject[] {
  if (!member.gateway || !site.cache) return []
  const { frontend: fe } = document
  const terms = parseCacheTerms(document.cacheTerms)
  const { sizeMib, profile, preheat, retainMs } = terms
  const budget = budgetAt(terms, site.site)
  const manifest = preheat === false ? undefined : preheat?.manifest ?? (fe.mode === 'builtin' ? PREHEAT_PATH : undefined)
  const rate = preheat === undefined || preheat === false ? undefined : preheat.rateKbitPerS
  const spec: CacheSpec = {
    cluster: document.name, clusterId: document.id, vni: document.vni, frontendAddress: fe.ip, ownAddress: site.gatewayAddress,
    bridgeMac: site.gatewayMac, ports: [...CACHE_PORTS], maxSizeMiB: sizeMib ?? CACHE_MAX_SIZE_MIB, hosts: [fe.name, `${fe.name}.${document.domain}`]
  }
  if (Object.values(profile).some(list => list.length > 0)) spec.profile = profile
  if (manifest !== undefined) spec.preheat = { manifest, ...rate === undefined ? {} : { rateMbitPerS: rate / 1000 } }
  if (budget.rateKbitPerS !== undefined || budget.totalBytes !== undefined) {
    spec.budget = { ...budget.rateKbitPerS === undefined ? {} : { rateMbitPerS: budget.rateKbitPerS / 1000 }, ...budget.totalBytes === undefined ? {} : { totalBytes: budget.totalBytes } }
  }
  // what the built-in frontend serves by TFTP each gateway has; another one's files need the relay at its site
  if (fe.mode === 'builtin') spec.tftp = {}
  if (retainMs !== undefined) spec.retain = { owner: document.masterSite, ms: retainMs }
  return [object('cache', objectName(document.id, 'cache'), spec)]
}

function domains ({ document, nodes, chap }: View): DesiredObject[] {
  return nodes.map(node => {
    const local = localOf(document, node)
    const localVni = localVniOf(document.vni)
    const spec: DomainSpec = {
      cluster: document.name, clusterId: document.id, node: node.name, uuid: node.uuid, vcpus: node.vcpus, memoryMiB: node.memoryMib, mac: node.mac,
      bridge: hostBridgeName(document.vni), tap: tapName(document.vni, node.index),
      ...(local === null ? {} : { local: { mac: local.mac, bridge: hostBridgeName(localVni), tap: tapName(localVni, node.index) } }),
      volumes: document.volumes.filter(volume => volume.node === node.name).map(volume => ({
        name: volume.name, iqn: volume.iqn, portalAddress: volume.portalAddress, portalPort: PORTAL_PORT, chap: chap(volume)
      }))
    }
    return object('domain', objectName(document.id, node.name), spec)
  })
}

/**
 * What one host must run of a cluster. A host that is no member gets an empty list.
 *
 * @param secrets CHAP credentials by volume name; only those of volumes this host exports or uses
 * @throws NotFoundError when such a volume has no secret
 */
export function desiredFor (document: ClusterDocument, self: Self, secrets: readonly Secret[]): DesiredObject[] {
  const site = document.sites.find(member => member.site === self.site)
  const member = site?.hosts.find(host => host.host === self.host)
  if (site === undefined || member === undefined) return []
  const view: View = {
    document,
    site,
    member,
    trunk: self.trunk,
    nodes: document.nodes.filter(node => node.site === site.site && node.host === member.host),
    chap: volume => {
      const found = secrets.find(secret => secret.name === volume.name)
      if (found === undefined) throw new NotFoundError(`no secret for volume ${volume.name} of cluster ${document.name}`)
      return { user: found.user, secret: found.secret }
    }
  }
  return [volumes, tunnel, segment, frontend, cache, domains].flatMap(part => part(view))
}

/**
 * Folds the tunnels that several clusters ask for into the host's one. Peers are told apart by
 * address and by key; where two objects differ about one, the later object wins, so pass newer
 * documents last. Other objects are passed through.
 *
 * @param saysItself whether a gateway, by its address inside the tunnel, has said which keys it has: the key in a document counts for nothing
 * then, so whoever writes a key that it had once into a document of its own takes nothing from it
 */
export function mergeTunnels (objects: readonly DesiredObject[], saysItself: (tunnelAddress: string) => boolean = () => false): DesiredObject[] {
  const tunnels = objects.filter((one): one is DesiredObject<'tunnel'> => one.kind === 'tunnel')
  const last = tunnels.at(-1)
  if (last === undefined) return [...objects]
  let peers: TunnelSpec['peers'] = []
  for (const peer of tunnels.flatMap(one => one.spec.peers)) {
    const byDocument = (one: TunnelSpec['peers'][number]): boolean => !saysItself(bareAddress(one.address))
    peers = peers.filter(other => other.address !== peer.address && !(other.publicKey === peer.publicKey && byDocument(other) && byDocument(peer)))
    peers.push(peer)
  }
  peers.sort((a, b) => a.address < b.address ? -1 : a.address > b.address ? 1 : 0)
  return [...objects.filter(one => one.kind !== 'tunnel'), object('tunnel', TUNNEL_NAME, { ...last.spec, peers })]
}

/** What is known of another gateway beyond what documents of clusters say of it. */
export interface GatewayNews {
  /** shut out of the federation or its site, for good: nothing is sent to it, nothing is taken from it */
  revoked: boolean
  /** its tunnel keys as it says itself; null when it has said nothing */
  tracks: TunnelTrack[] | null
}

/**
 * The same objects with what gateways themselves say, and without those that are shut out: their
 * tunnels end, and their clusters' segments neither send to them nor take from them.
 *
 * @param news by address inside the tunnel, without prefix length; null when nothing is known
 * @param own what no document says of the own end
 */
export function withNews (objects: readonly DesiredObject[], news: (tunnelAddress: string) => GatewayNews | null, own: Pick<TunnelSpec, 'secondPort' | 'keyEpoch'> = {}): DesiredObject[] {
  const stays = (address: string): boolean => news(bareAddress(address))?.revoked !== true
  return objects.map(one => {
    if (one.kind === 'tunnel') {
      const { spec } = one as DesiredObject<'tunnel'>
      const peers = spec.peers.filter(peer => stays(peer.address)).map(peer => {
        const tracks = news(bareAddress(peer.address))?.tracks ?? null
        return tracks === null ? peer : { ...peer, tracks }
      })
      return object('tunnel', one.name, { ...spec, ...own, peers })
    }
    if (one.kind !== 'segment') return one
    const { spec } = one as DesiredObject<'segment'>
    const tunnel = spec.gateway?.tunnel ?? null
    if (spec.gateway === undefined || tunnel === null) return one
    return object('segment', one.name, { ...spec, gateway: { ...spec.gateway, tunnel: { ...tunnel, remoteAddresses: tunnel.remoteAddresses.filter(stays) } } })
  })
}
