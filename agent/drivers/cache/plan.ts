import { join } from 'node:path'
import { PREFIX, clusterNamespace } from '../../../protocol/core/desired.ts'
import type { CacheSpec } from '../../../protocol/core/desired.ts'
import { FETCH_PATH, INDEX_KINDS } from '../../../protocol/core/cache/terms.ts'
import { InvalidInputError } from '../../../protocol/core/errors.ts'
import { MAX_CACHE_INDEXES, MAX_VNI } from '../../../protocol/core/limits.ts'
import { classRules } from './classes.ts'
import type { ClassRules } from './classes.ts'

/** The engine's own ports, on the loopback address only: TPROXY hands connections over whatever their destination. */
const LISTEN_PORT_FIRST = 3130
/** Answers the prober; same worker process, so it is silent when the engine hangs. */
const HEALTH_PORT = 3129
const PORTS_MAX = 16
const HOSTS_MAX = 16
const MIB = 1024 * 1024
const SLICE_MIN_BYTES = 4 * MIB
const SLICE_MAX_BYTES = 64 * MIB

/** The way to the frontend, as far as it decides how large parts of an object are. */
export interface Link { rttMs: number, rateMbitPerS: number }

/** What a way is taken for that nobody has measured. */
export const DEFAULT_LINK: Link = { rttMs: 20, rateMbitPerS: 200 }

/**
 * Bytes of one stored part of an object: what is under way on the link, eight times over, as a power of
 * two. Each part that nobody fetched ahead costs one round trip, an eighth more at this size; nodes that
 * wait for a part that another one fetches get it when it is whole, so parts are no larger than that.
 */
export function sliceBytes ({ rttMs, rateMbitPerS }: Link): number {
  const underWay = rttMs / 1000 * rateMbitPerS * 1e6 / 8
  return Math.min(SLICE_MAX_BYTES, Math.max(SLICE_MIN_BYTES, 2 ** Math.floor(Math.log2(Math.max(1, 8 * underWay)))))
}

const CANONICAL_IPV4 = /^(?:(?:25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)(?:\.(?!$)|$)){4}$/
const CLUSTER_ID = /^[A-Za-z0-9-]{1,64}$/
const HOST = /^[a-z0-9](?:[a-z0-9.-]{0,252}[a-z0-9])?$/
const MAC = /^[0-9a-f]{2}(?::[0-9a-f]{2}){5}$/

/** Everything that follows from a CacheSpec and the place of its files: names, ports, paths. */
export interface CachePlan {
  spec: CacheSpec
  namespace: string
  /** one inherited listening socket per intercepted port */
  listeners: ReadonlyArray<{ port: number, listenPort: number }>
  healthPort: number
  /** bytes of one stored part */
  sliceBytes: number
  rules: ClassRules
  services: { engine: string, prober: string, fetcher: string, tftp: string }
  paths: {
    /** root's: record, configuration, sums */
    dir: string
    config: string
    /** the engine's own: nothing else may it write to, and it makes all that is in there */
    engine: string
    store: string
    log: string
    errorLog: string
    /** parts of large objects that nodes asked for: the fetcher reads it */
    partsLog: string
    /** map of paths to digests, as verified indexes say; the fetcher's */
    listed: string
    /** exists while there is room to store: the fetcher's */
    room: string
    /** root's orders to the fetcher */
    orders: string
    /** what was fetched for TFTP, the TFTP server's own */
    tftp: string
    pid: string
  }
}

/** Names of the services of a cluster's cache. */
export function serviceNames (vni: number): CachePlan['services'] {
  const hex = vni.toString(16).padStart(6, '0')
  return { engine: `${PREFIX}-cache-${hex}`, prober: `${PREFIX}-cacheprobe-${hex}`, fetcher: `${PREFIX}-cachefetch-${hex}`, tftp: `${PREFIX}-cachetftp-${hex}` }
}

/** The cluster that a service of this driver belongs to; null for services of others. */
export function vniOfService (name: string): number | null {
  const hex = new RegExp(`^${PREFIX}-cache(?:probe|fetch|tftp)?-([0-9a-f]{6})$`).exec(name)?.[1]
  return hex === undefined ? null : Number.parseInt(hex, 16)
}

/**
 * @param dir absolute folder of this cache alone
 * @param measured the way to the frontend as found when the cache was made; what the spec says goes before it
 * @throws InvalidInputError when the spec could not be rendered safely: its strings end up in
 *   configuration files of programs that run as root
 */
export function planCache (spec: CacheSpec, dir: string, measured: Link = DEFAULT_LINK): CachePlan {
  const bad = (what: string): never => { throw new InvalidInputError(`cache of cluster ${JSON.stringify(spec.cluster)}: ${what}`) }
  if (!Number.isInteger(spec.vni) || spec.vni < 1 || spec.vni > MAX_VNI) bad(`VNI ${spec.vni} is out of range`)
  if (!CANONICAL_IPV4.test(spec.frontendAddress)) bad(`frontend address ${JSON.stringify(spec.frontendAddress)} is no IPv4 address`)
  if (!CANONICAL_IPV4.test(spec.ownAddress)) bad(`own address ${JSON.stringify(spec.ownAddress)} is no IPv4 address`)
  if (spec.ownAddress === spec.frontendAddress) bad('own address and frontend address are the same')
  if (!MAC.test(spec.bridgeMac)) bad(`bridge MAC ${JSON.stringify(spec.bridgeMac)} is not of the form 02:00:00:00:00:01`)
  if (spec.ports.length < 1 || spec.ports.length > PORTS_MAX) bad(`1 to ${PORTS_MAX} HTTP ports are needed, not ${spec.ports.length}`)
  if (new Set(spec.ports).size !== spec.ports.length) bad('an HTTP port is named twice')
  for (const port of spec.ports) if (!Number.isInteger(port) || port < 1 || port > 65_535) bad(`port ${port} is out of range`)
  if (!Number.isInteger(spec.maxSizeMiB) || spec.maxSizeMiB < 1) bad(`size ${spec.maxSizeMiB} MiB is out of range`)
  if (!/^\/[A-Za-z0-9._%/-]+$/.test(dir)) bad(`folder ${JSON.stringify(dir)} has characters that nginx would read otherwise`)
  const relay = spec.tftp?.relay
  if (relay !== undefined && (!CANONICAL_IPV4.test(relay) || relay === spec.ownAddress)) bad(`TFTP relay ${JSON.stringify(relay)} is no address of another gateway`)
  if (spec.clusterId !== undefined && !CLUSTER_ID.test(spec.clusterId)) bad(`cluster id ${JSON.stringify(spec.clusterId)} is out of shape`)
  const hosts = spec.hosts ?? []
  if (hosts.length > HOSTS_MAX || !hosts.every(host => HOST.test(host))) bad(`names of the frontend are host names, at most ${HOSTS_MAX}`)
  const link = spec.link ?? measured
  if (!(link.rttMs >= 0 && link.rttMs <= 10_000 && link.rateMbitPerS > 0 && link.rateMbitPerS <= 1_000_000)) bad(`a link of ${link.rttMs} ms and ${link.rateMbitPerS} Mbit/s is out of range`)
  checkFetches(spec, bad)
  const engine = join(dir, 'engine')
  return {
    spec,
    namespace: clusterNamespace(spec.vni),
    listeners: spec.ports.toSorted((a, b) => a - b).map((port, index) => ({ port, listenPort: LISTEN_PORT_FIRST + index })),
    healthPort: HEALTH_PORT,
    sliceBytes: sliceBytes(link),
    rules: classRules(spec.profile),
    services: serviceNames(spec.vni),
    paths: {
      dir,
      config: join(dir, 'nginx.conf'),
      engine,
      store: join(engine, 'store'),
      log: join(engine, 'access.log'),
      errorLog: join(engine, 'error.log'),
      partsLog: join(engine, 'parts.log'),
      listed: join(engine, 'listed.map'),
      room: join(engine, 'room'),
      orders: join(dir, 'orders'),
      tftp: join(dir, 'tftp'),
      pid: join(engine, 'nginx.pid')
    }
  }
}

function checkFetches ({ profile, preheat }: CacheSpec, bad: (what: string) => never): void {
  const indexes = profile?.indexes ?? []
  if (indexes.length > MAX_CACHE_INDEXES) bad(`at most ${MAX_CACHE_INDEXES} indexes, not ${indexes.length}`)
  for (const { kind, path } of indexes) {
    if (!INDEX_KINDS.includes(kind)) bad(`an index is one of ${INDEX_KINDS.join(', ')}, not ${JSON.stringify(kind)}`)
    if (!FETCH_PATH.test(path)) bad(`${JSON.stringify(path)} is no path of an index`)
  }
  if (preheat === undefined) return
  if (!FETCH_PATH.test(preheat.manifest)) bad(`${JSON.stringify(preheat.manifest)} is no path of a manifest`)
  if (preheat.rateMbitPerS !== undefined && !(preheat.rateMbitPerS > 0 && preheat.rateMbitPerS <= 1_000_000)) bad(`a rate of ${preheat.rateMbitPerS} Mbit/s is out of range`)
}
