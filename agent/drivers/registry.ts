import { createHash } from 'node:crypto'
import { dirname, join } from 'node:path'
import { retainLimitsOf, type AgentConfig } from '../config.ts'
import type { DetailSources } from '../details.ts'
import type { DriverSet } from '../reconcile/reconciler.ts'
import type { ServiceManager } from '../services.ts'
import { createFrontendDriver } from './boot/frontend.ts'
import { createCacheDriver, type CacheDriver } from './cache/driver.ts'
import { createLibvirtDriver } from './compute/libvirt.ts'
import { createDirectoryFakeStore, createFakeComputeDriver, createFakeDriver } from './fake.ts'
import { createDiagnosis, type Diagnosis } from './network/diagnose/diagnosis.ts'
import type { TermOf } from './network/forward/forwarding.ts'
import { createSegmentDriver } from './network/segment.ts'
import { createTunnelDriver, type PublicTrack } from './network/tunnel/driver.ts'
import type { Trunk } from './network/vlan/trunk.ts'
import { createVolumeDriver } from './storage/volume.ts'
import { KIND_ORDER, type ObjectKind } from '../../protocol/core/desired.ts'

/** Things of ours that a driver's engine has and that no object of its kind explains. */
export interface Strays {
  /** what they are, for people */
  readonly what: string
  list (signal: AbortSignal): Promise<string[]>
  /** Removes them all. */
  drop (signal: AbortSignal): Promise<void>
}

export interface HostDrivers {
  drivers: DriverSet
  strays: readonly Strays[]
  details: DetailSources
  /** public halves of this gateway's tunnel keys; one is made on first use */
  tunnelTracks: (signal?: AbortSignal) => Promise<PublicTrack[]>
  /** not there with pretended drivers: they have no segments */
  diagnosis?: Diagnosis
  /** what people ask of caches; not there with pretended drivers */
  cache?: Pick<CacheDriver, 'preheat' | 'list' | 'purge' | 'retained'>
  /** terms of forwarding leases have changed; not there with pretended drivers */
  syncForwarding?: (signal: AbortSignal) => Promise<void>
}

/** The kinds that this host has drivers for: all that its roles need. */
export function kindsOf ({ drivers, roles }: Pick<AgentConfig, 'drivers' | 'roles'>): ObjectKind[] {
  const gateway = roles.includes('gateway')
  const compute = roles.includes('compute')
  const has: Record<ObjectKind, boolean> = { volume: roles.includes('storage'), tunnel: gateway, segment: gateway || compute, frontend: gateway, cache: gateway, domain: compute }
  return KIND_ORDER.filter(kind => drivers === 'fake' || has[kind])
}

/** Where what drivers start leaves its sockets, logs and pid records. */
export const helperRunDir = ({ helper }: Pick<AgentConfig, 'helper'>): string => dirname(helper.socket)

/** The NIC that carries the segments inside the site, where VLANs do. */
const trunkOption = ({ inSite }: Pick<AgentConfig, 'inSite'>): { trunk?: Trunk } => inSite.technique === 'vlan' ? { trunk: { nic: inSite.trunk, ids: inSite.ids } } : {}

/**
 * The drivers that this host's roles need, real ones, over the folders of the helper.
 *
 * @param term until when a segment may forward between sites; without it as long as it is there
 */
export function createRealDrivers (config: AgentConfig, services: ServiceManager, term?: TermOf): HostDrivers {
  const { stateDir } = config.helper
  const dir = (name: string): string => join(stateDir, name)
  const tunnel = createTunnelDriver({ stateDir: dir('network'), services })
  const segment = createSegmentDriver({ stateDir: dir('network'), services, ...(term === undefined ? {} : { term }), ...trunkOption(config) })
  const frontend = createFrontendDriver({ stateDir, imageStoreDir: config.imageStore, services })
  const cache = createCacheDriver({ stateDir: dir('caches'), services, limits: retainLimitsOf(config) })
  const volume = createVolumeDriver({ stateDir: dir('storage'), runDir: helperRunDir(config), services })
  const domain = createLibvirtDriver({ stateDir: dir('compute'), ...(config.accelerator === undefined ? {} : { accelerator: config.accelerator }) })
  const kinds = kindsOf(config)
  const all = { volume, tunnel, segment, frontend, cache, domain }
  return {
    drivers: Object.fromEntries(kinds.map(kind => [kind, all[kind]])),
    strays: kinds.includes('volume') ? [{ what: 'target', list: signal => volume.strays(signal), drop: signal => volume.dropStrays(signal) }] : [],
    details: {
      phases: async name => ({ ...await frontend.phases(name) }),
      cacheStats: name => cache.stats(name),
      segmentCounters: name => segment.counters(name),
      ...(kinds.includes('domain') ? { domainStats: () => domain.stats() } : {})
    },
    tunnelTracks: signal => tunnel.publicTracks(signal),
    diagnosis: createDiagnosis({ stateDir: dir('network'), services }),
    ...(kinds.includes('cache') ? { cache } : {}),
    ...(kinds.includes('segment') ? { syncForwarding: signal => segment.syncForwarding(signal) } : {})
  }
}

/** Pretended drivers over a folder: for trying the protocol where nothing may be changed, and for tests. */
export function createFakeDrivers (config: AgentConfig): HostDrivers {
  const store = createDirectoryFakeStore(join(config.helper.stateDir, 'fake'))
  const domain = createFakeComputeDriver({ store })
  return {
    drivers: {
      volume: createFakeDriver('volume', { store }), tunnel: createFakeDriver('tunnel', { store }), segment: createFakeDriver('segment', { store }),
      frontend: createFakeDriver('frontend', { store }), cache: createFakeDriver('cache', { store }), domain
    },
    strays: [],
    details: { domainStats: () => domain.stats() },
    // of the form of a key, and another on every host
    tunnelTracks: () => Promise.resolve([{ track: 0, publicKey: createHash('sha256').update(config.name).digest('base64'), draining: false, epoch: 0, madeMs: Date.now() }])
  }
}
