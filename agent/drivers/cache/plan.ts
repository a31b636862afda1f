import { join } from 'node:path'
import { PREFIX, clusterNamespace } from '../../../protocol/core/desired.ts'
import type { CacheSpec } from '../../../protocol/core/desired.ts'
import { InvalidInputError } from '../../../protocol/core/errors.ts'
import { MAX_VNI } from '../../../protocol/core/limits.ts'

/** The engine's own port, on the loopback address only: TPROXY hands connections over whatever their destination. */
const LISTEN_PORT_FIRST = 3130
/** Answers the prober; same worker process, so it is silent when the engine hangs. */
const HEALTH_PORT = 3129
const PORTS_MAX = 16
/**
 * Bytes of one stored part of an object. Larger parts cost fewer round trips (one per part); smaller
 * ones let waiting nodes follow the first download more closely. 16 MiB is 0.7 s at 200 Mbit/s.
 */
export const SLICE_BYTES = 16 * 1024 * 1024

const CANONICAL_IPV4 = /^(?:(?:25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)(?:\.(?!$)|$)){4}$/
const MAC = /^[0-9a-f]{2}(?::[0-9a-f]{2}){5}$/

/** Everything that follows from a CacheSpec and the place of its files: names, ports, paths. */
export interface CachePlan {
  spec: CacheSpec
  namespace: string
  /** one inherited listening socket per intercepted port */
  listeners: ReadonlyArray<{ port: number, listenPort: number }>
  healthPort: number
  services: { engine: string, prober: string }
  paths: {
    /** root's: record, configuration, sums */
    dir: string
    config: string
    /** the engine's own: nothing else may it write to, and it makes all that is in there */
    engine: string
    store: string
    log: string
    errorLog: string
    pid: string
  }
}

/** Names of the two services of a cluster's cache. */
export function serviceNames (vni: number): CachePlan['services'] {
  const hex = vni.toString(16).padStart(6, '0')
  return { engine: `${PREFIX}-cache-${hex}`, prober: `${PREFIX}-cacheprobe-${hex}` }
}

/** The cluster that a service of this driver belongs to; null for services of others. */
export function vniOfService (name: string): number | null {
  const hex = new RegExp(`^${PREFIX}-cache(?:probe)?-([0-9a-f]{6})$`).exec(name)?.[1]
  return hex === undefined ? null : Number.parseInt(hex, 16)
}

/**
 * @param dir absolute folder of this cache alone
 * @throws InvalidInputError when the spec could not be rendered safely: its strings end up in
 *   configuration files of programs that run as root
 */
export function planCache (spec: CacheSpec, dir: string): CachePlan {
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
  const engine = join(dir, 'engine')
  return {
    spec,
    namespace: clusterNamespace(spec.vni),
    listeners: spec.ports.toSorted((a, b) => a - b).map((port, index) => ({ port, listenPort: LISTEN_PORT_FIRST + index })),
    healthPort: HEALTH_PORT,
    services: serviceNames(spec.vni),
    paths: {
      dir,
      config: join(dir, 'nginx.conf'),
      engine,
      store: join(engine, 'store'),
      log: join(engine, 'access.log'),
      errorLog: join(engine, 'error.log'),
      pid: join(engine, 'nginx.pid')
    }
  }
}
