/** The one place where these tests say what they ask of the engine, and what they read out of its figures. */
import type { CacheStats } from '../../agent/drivers/cache/driver.ts'
import type { CacheSpec } from '../../protocol/core/desired.ts'
import { LAB_SPEC } from '../bench/cache-lab.ts'
import { FILES_PREFIX } from './resources.ts'
import type { WireSaid } from './wire-accounting.ts'

/** The cache of the differential test and of the hostile one. */
export const DIFFERENTIAL_SPEC: CacheSpec = { ...LAB_SPEC, profile: { validated: [FILES_PREFIX] } }

/** Bytes that the cache says it moved over the link, as frames; null while it only tells bytes of HTTP. */
export const wireBytesSaid: (stats: CacheStats) => WireSaid | null = ({ wire }) => ({ received: wire.static + wire.dynamic, sent: null })
