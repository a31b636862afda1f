/** The lease benches: `two-site-*`, `cycles-vs-etcd*`, `sites-64`. */
import type { Bench } from './figures.ts'
import { benches as cycles } from './lease-cycles.ts'
import { benches as twoSites } from './lease-rtt.ts'
import { benches as sites } from './lease-sites.ts'

export const benches: Readonly<Record<string, Bench>> = { ...twoSites, ...cycles, ...sites }
