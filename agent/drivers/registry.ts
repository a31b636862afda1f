import { createHash } from 'node:crypto'
import { join } from 'node:path'
import type { AgentConfig } from '../config.ts'
import type { DetailSources } from '../details.ts'
import type { DriverSet } from '../reconciler.ts'
import type { ServiceManager } from '../services.ts'
import { createFrontendDriver } from './boot/frontend.ts'
import { createCacheDriver } from './cache/driver.ts'
import { createLibvirtDriver } from './compute/libvirt.ts'
import { createDirectoryFakeStore, createFakeComputeDriver, createFakeDriver } from './fake.ts'
import { createSegmentDriver } from './network/segment.ts'
import { createTunnelDriver } from './network/tunnel.ts'
import { createVolumeDriver } from './storage/volume.ts'

export interface HostDrivers {
  drivers: DriverSet
  details: DetailSources
  /** public half of this gateway's tunnel key; made on first use */
  tunnelPublicKey: () => Promise<string>
}

/** The drivers that this host's roles need, real ones. Every kind is there, so that leftovers of former roles are swept. */
export function createRealDrivers (config: AgentConfig, services: ServiceManager): HostDrivers {
  const dir = (name: string): string => join(config.stateDir, name)
  const tunnel = createTunnelDriver({ stateDir: dir('network'), services })
  const segment = createSegmentDriver({ stateDir: dir('network') })
  const frontend = createFrontendDriver({ stateDir: config.stateDir, imageStoreDir: config.imageStore, services })
  const cache = createCacheDriver({ stateDir: dir('caches'), services })
  const volume = createVolumeDriver({ stateDir: dir('storage'), runDir: config.runDir, services })
  const gateway = config.roles.includes('gateway') ? { tunnel, frontend, cache } : {}
  const compute = config.roles.includes('compute') ? createLibvirtDriver({ stateDir: dir('compute'), ...(config.accelerator === undefined ? {} : { accelerator: config.accelerator }) }) : undefined
  return {
    drivers: {
      ...gateway,
      ...(config.roles.includes('gateway') || compute !== undefined ? { segment } : {}),
      ...(config.roles.includes('storage') ? { volume } : {}),
      ...(compute === undefined ? {} : { domain: compute })
    },
    details: {
      phases: async name => ({ ...await frontend.phases(name) }),
      cacheStats: name => cache.stats(name),
      segmentCounters: name => segment.counters(name),
      ...(compute === undefined ? {} : { domainStats: () => compute.stats() })
    },
    tunnelPublicKey: () => tunnel.publicKey()
  }
}

/** Pretended drivers over a folder: for trying the protocol where nothing may be changed, and for tests. */
export function createFakeDrivers (config: AgentConfig): HostDrivers {
  const store = createDirectoryFakeStore(join(config.stateDir, 'fake'))
  const domain = createFakeComputeDriver({ store })
  return {
    drivers: {
      volume: createFakeDriver('volume', { store }), tunnel: createFakeDriver('tunnel', { store }), segment: createFakeDriver('segment', { store }),
      frontend: createFakeDriver('frontend', { store }), cache: createFakeDriver('cache', { store }), domain
    },
    details: { domainStats: () => domain.stats() },
    // of the form of a key, and another on every host
    tunnelPublicKey: () => Promise.resolve(createHash('sha256').update(config.name).digest('base64'))
  }
}
