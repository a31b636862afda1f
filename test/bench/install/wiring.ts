/** The one place where the reference workload says what it asks of the engine. */
import { setTimeout as delay } from 'node:timers/promises'
import { createCacheDriver } from '../../../agent/drivers/cache/driver.ts'
import type { CacheDriver } from '../../../agent/drivers/cache/driver.ts'
import { createPidfileServices } from '../../../agent/services/pidfile.ts'
import type { CacheSpec } from '../../../protocol/core/desired.ts'
import { LAB_SPEC } from '../cache-lab.ts'
import type { Workload } from './workload.ts'

export const CACHE = 'bench.cache'
const ORDER = 'bench'
const PREHEAT_MS_MAX = 600_000
const READY_MS_MAX = 60_000

/** The cache that a cluster with this frontend would get; what it knows of the workload goes in here. */
export const installSpec = ({ manifest }: Workload): CacheSpec => ({
  ...LAB_SPEC, ports: [80], maxSizeMiB: 4_096,
  profile: { validated: ['/install/'], indexes: [{ kind: 'rpm', path: '/install/repodata/repomd.xml' }, { kind: 'manifest', path: manifest }] }
})

/** A cluster's cache is there before its nodes boot: long enough to read the frontend's indexes, with nothing in its store. */
export async function ready (driver: CacheDriver, { objects }: Workload): Promise<void> {
  for (const deadline = performance.now() + READY_MS_MAX; performance.now() < deadline;) {
    await delay(100)
    if (((await driver.stats(CACHE))?.fetch?.listed ?? 0) >= objects.filter(({ path }) => !path.includes('/repodata/')).length) return
  }
  throw new Error('the indexes of the frontend are not read')
}

/** Fills the store ahead of the nodes. @returns false when this engine cannot: one node's download then does it */
export const preheat: (driver: CacheDriver, workload: Workload) => Promise<boolean> = async (driver, { objects, bytes }) => {
  await driver.preheat(CACHE, ORDER, { objects: objects.map(({ path, bytes: sizeBytes, sha256 }) => ({ path, sizeBytes, sha256 })) })
  for (const deadline = performance.now() + PREHEAT_MS_MAX; performance.now() < deadline;) {
    await delay(200)
    const stats = await driver.stats(CACHE)
    if ((stats?.stored ?? 0) >= bytes) return true
  }
  throw new Error('preheating does not end')
}

export const makeDriver = (dir: string): CacheDriver => createCacheDriver({ stateDir: `${dir}/cache`, services: createPidfileServices({ dir: `${dir}/services` }) })
