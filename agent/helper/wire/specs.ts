/**
 * What the helper takes for the spec of an object: closed objects, every string with a pattern and a
 * length, every number with bounds. Drivers check again what they alone can know.
 */
import Type from 'typebox'
import { CACHE_PREFIX, FETCH_PATH } from '../../../protocol/core/cache/terms.ts'
import type { ObjectKind } from '../../../protocol/core/desired.ts'
import { MAX_CACHE_BUDGET_BYTES, MAX_CACHE_INDEXES, MAX_CACHE_PREFIX_CHARACTERS, MAX_CACHE_PREFIXES, MAX_CACHE_RATE_KBIT, MAX_CACHE_RETAIN_MS, MAX_MEMORY_MIB_PER_NODE, MAX_NODES_PER_CLUSTER, MAX_SEGMENT_MEMBERS, MAX_SITES_PER_CLUSTER, MAX_VCPUS_PER_NODE, MAX_VNI, MAX_VOLUMES_PER_CLUSTER, MAX_VOLUME_MIB, MIN_CACHE_RETAIN_MS } from '../../../protocol/core/limits.ts'

const OCTET = '(25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])'
const IPV4 = `${OCTET}\\.${OCTET}\\.${OCTET}\\.${OCTET}`
const text = (pattern: string, maxLength: number) => Type.String({ pattern: `^${pattern}$`, maxLength })
const whole = (minimum: number, maximum: number) => Type.Integer({ minimum, maximum })
const closed = { additionalProperties: false } as const

export const Ipv4 = text(IPV4, 15)
export const Ipv6 = text('[0-9a-fA-F]{0,4}(:[0-9a-fA-F]{0,4}){2,7}', 39)
/** As `tunnelAddressFor` gives them out: what else is routed into the tunnel is the host's own traffic. */
const TunnelAddress = text(`100\\.(6[4-9]|[7-9][0-9]|1[01][0-9]|12[0-7])\\.${OCTET}\\.${OCTET}(/32)?`, 18)
const Cidr = text(`${IPV4}/([1-9]|[12][0-9]|3[0-2])`, 18)
const Mac = text('[0-9a-fA-F]{2}(:[0-9a-fA-F]{2}){5}', 17)
/** A host name's part, or the name of a cluster, site or node. */
export const Label = text('[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?', 63)
const Domain = text('[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?', 253)
const ClusterId = text('[A-Za-z0-9][A-Za-z0-9-]*', 64)
const Iqn = text('iqn\\.[0-9]{4}-[0-9]{2}\\.[A-Za-z0-9.:_-]+', 223)
const VolumeName = text('[A-Za-z0-9][A-Za-z0-9._-]*', 64)
const Chap = Type.Object({ user: text('[A-Za-z0-9][A-Za-z0-9._-]*', 128), secret: text('[!-~]{8,128}', 128) }, closed)
const Port = whole(1, 65_535)
export const Vni = whole(1, MAX_VNI)
const WireGuardKey = text('[A-Za-z0-9+/]{43}=', 44)
/** No name: root would look it up. */
const Endpoint = text(`(${IPV4}|\\[[0-9a-fA-F:.]+\\]):[0-9]{1,5}`, 64)
/** Of the administrator's, as the configuration names it. */
const TrunkName = text('[A-Za-z0-9][A-Za-z0-9._-]{0,14}', 15)
const LinkName = text('mz[A-Za-z0-9-]+', 15)
/** On a frontend, as it stands in a request. */
export const FetchPath = Type.String({ pattern: FETCH_PATH.source, maxLength: 512 })
/** On a frontend as well: part of a regular expression there, never of a path on this host. */
const Prefixes = Type.Optional(Type.Array(Type.String({ pattern: CACHE_PREFIX.source, maxLength: MAX_CACHE_PREFIX_CHARACTERS }), { maxItems: MAX_CACHE_PREFIXES }))
/** Mbit/s */
const Rate = Type.Number({ exclusiveMinimum: 0, maximum: MAX_CACHE_RATE_KBIT / 1000 })
/** Hosts of a site, and gateways of clusters: more than any of them has. */
const MANY = 4096

export const SPECS = {
  volume: Type.Object({ sizeMiB: whole(1, MAX_VOLUME_MIB), iqn: Iqn, portalAddress: Ipv4, chap: Chap, allow: Type.Array(Ipv4, { maxItems: 1024 }) }, closed),
  tunnel: Type.Object({
    listenPort: Port, secondPort: Type.Optional(Port), address: TunnelAddress, keyEpoch: Type.Optional(whole(0, Number.MAX_SAFE_INTEGER)),
    peers: Type.Array(Type.Object({
      site: Label, publicKey: WireGuardKey, endpoint: Endpoint, address: TunnelAddress,
      tracks: Type.Optional(Type.Array(Type.Object({ track: Type.Union([Type.Literal(0), Type.Literal(1)]), publicKey: WireGuardKey, endpoint: Endpoint, draining: Type.Boolean() }, closed), { maxItems: 2 }))
    }, closed), { maxItems: MANY })
  }, closed),
  segment: Type.Object({
    cluster: Label, vni: Vni,
    site: Type.Object({ segmentId: Vni, localAddress: Ipv4, remoteAddresses: Type.Array(Ipv4, { maxItems: MANY }), trunk: Type.Optional(TrunkName) }, closed),
    compute: Type.Boolean(),
    known: Type.Optional(Type.Object({
      antiSpoof: Type.Boolean(),
      members: Type.Array(Type.Object({
        role: Type.Union([Type.Literal('node'), Type.Literal('frontend'), Type.Literal('gateway')]),
        mac: Mac, address: Type.Union([Ipv4, Type.Null()]), where: Type.Union([Type.Literal('host'), Type.Literal('site'), Type.Literal('remote')]), via: Type.Optional(Ipv4), tap: Type.Optional(LinkName)
      }, closed), { maxItems: MAX_SEGMENT_MEMBERS })
    }, closed)),
    gateway: Type.Optional(Type.Object({
      address: Cidr, bridgeMac: Mac,
      tunnel: Type.Union([Type.Object({ localAddress: Ipv4, remoteAddresses: Type.Array(Ipv4, { maxItems: MAX_SITES_PER_CLUSTER }) }, closed), Type.Null()])
    }, closed))
  }, closed),
  frontend: Type.Object({
    cluster: Label, clusterId: ClusterId, vni: Vni, name: Label, address: Cidr, mac: Mac, domain: Domain,
    image: Type.Object({ digest: text('sha256:[0-9a-f]{64}', 71) }, closed),
    nodes: Type.Array(Type.Object({ name: Label, mac: Mac, ip: Ipv4, site: Label, local: Type.Optional(Type.Object({ mac: Mac, address: Cidr }, closed)) }, closed), { maxItems: MAX_NODES_PER_CLUSTER }),
    sshPublicKey: text('[A-Za-z0-9@.-]+ [A-Za-z0-9+/=]+( [ -~]*)?', 4096)
  }, closed),
  cache: Type.Object({
    cluster: Label, clusterId: Type.Optional(ClusterId), vni: Vni, frontendAddress: Ipv4, ownAddress: Ipv4, bridgeMac: Mac, ports: Type.Array(Port, { minItems: 1, maxItems: 16 }), maxSizeMiB: whole(1, MAX_VOLUME_MIB),
    hosts: Type.Optional(Type.Array(Domain, { maxItems: 16 })),
    profile: Type.Optional(Type.Object({
      immutable: Prefixes, validated: Prefixes, dynamic: Prefixes,
      indexes: Type.Optional(Type.Array(Type.Object({ kind: Type.Union([Type.Literal('debian'), Type.Literal('rpm'), Type.Literal('manifest')]), path: FetchPath }, closed), { maxItems: MAX_CACHE_INDEXES }))
    }, closed)),
    link: Type.Optional(Type.Object({ rttMs: Type.Number({ minimum: 0, maximum: 10_000 }), rateMbitPerS: Rate }, closed)),
    preheat: Type.Optional(Type.Object({ manifest: FetchPath, rateMbitPerS: Type.Optional(Rate) }, closed)),
    budget: Type.Optional(Type.Object({ rateMbitPerS: Type.Optional(Rate), totalBytes: Type.Optional(whole(1, MAX_CACHE_BUDGET_BYTES)) }, closed)),
    tftp: Type.Optional(Type.Object({ relay: Type.Optional(Ipv4) }, closed)),
    retain: Type.Optional(Type.Object({ owner: Label, ms: whole(MIN_CACHE_RETAIN_MS, MAX_CACHE_RETAIN_MS) }, closed))
  }, closed),
  domain: Type.Object({
    cluster: Label, clusterId: ClusterId, node: Label, uuid: text('[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}', 36),
    vcpus: whole(1, MAX_VCPUS_PER_NODE), memoryMiB: whole(1, MAX_MEMORY_MIB_PER_NODE), mac: Mac, bridge: LinkName, tap: LinkName,
    local: Type.Optional(Type.Object({ mac: Mac, bridge: LinkName, tap: LinkName }, closed)),
    volumes: Type.Array(Type.Object({ name: VolumeName, iqn: Iqn, portalAddress: Ipv4, portalPort: Port, chap: Chap }, closed), { maxItems: MAX_VOLUMES_PER_CLUSTER })
  }, closed)
} as const satisfies Record<ObjectKind, object>
