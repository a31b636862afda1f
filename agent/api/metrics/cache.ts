import type { CacheFigures } from '../../master/caches.ts'
import type { ClusterResource } from '../../../protocol/api.ts'
import type { RetainedStoreResource } from '../../../protocol/cache-api.ts'
import { family, type Sample } from './families.ts'

/** Nodes with series of their own, of all clusters together: what is beyond is counted as `other` of its cache. */
export const METRIC_NODES_MAX = 1_000

/** Nodes by name in the order of clusters and sites, so that the same ones have series at each scrape. */
function nodeSamples (figures: readonly CacheFigures[], of: (node: { requests: number, bytes: number }) => number): Sample[] {
  let left = METRIC_NODES_MAX
  return figures.flatMap(({ cluster, site, nodes }) => {
    const samples: Sample[] = []
    let other = 0
    for (const [node, counted] of [...nodes].sort(([a], [b]) => a < b ? -1 : 1)) {
      if (node === 'other' || left-- <= 0) other += of(counted)
      else samples.push([{ cluster, site, node }, of(counted)])
    }
    return other === 0 ? samples : [...samples, [{ cluster, site, node: 'other' }, other]]
  })
}

/** Families of the caches of this master. Pure. @param figures of those that have answered */
export function cacheFamilies (clusters: ReadonlyArray<Pick<ClusterResource, 'name' | 'caches'>>, figures: readonly CacheFigures[]): string[] {
  const caches = clusters.flatMap(({ name, caches: list }) => list.map(cache => ({ at: { cluster: name, site: cache.site }, cache })))
  if (caches.length === 0) return []
  const byClass = (samples: (labels: Record<string, string>, counted: CacheFigures['classes'][string]) => Sample[]): Sample[] =>
    figures.flatMap(({ cluster, site, classes }) => Object.entries(classes).flatMap(([name, counted]) => samples({ cluster, site, class: name }, counted)))
  return [
    ...family('musubi_cache_bytes_total', 'counter', 'Bytes of caches: served to nodes and fetched from the frontend (HTTP), and packets from the frontend (wan). HTTPS is in none.',
      caches.flatMap(({ at, cache }): Sample[] => [[{ ...at, way: 'nodes' }, cache.bytesToNodes], [{ ...at, way: 'frontend' }, cache.bytesFromUpstream], [{ ...at, way: 'wan' }, cache.wanBytes ?? 0]])),
    ...family('musubi_cache_requests_total', 'counter', 'Requests of nodes to caches, by whether the store alone answered.',
      caches.flatMap(({ at, cache }): Sample[] => [[{ ...at, answer: 'store' }, cache.hits], [{ ...at, answer: 'frontend' }, Math.max(0, cache.requests - cache.hits)]])),
    ...family('musubi_cache_paused', 'gauge', '1 when the WAN budget is used up and nothing is fetched before nodes ask.', caches.map(({ at, cache }) => [at, (cache.paused ?? '') === '' ? 0 : 1])),
    ...figures.length === 0 ? [] : [
      ...family('musubi_cache_class_bytes_total', 'counter', 'Bytes of caches by class; of the class tftp those of packets, which are in no other family.',
        byClass((labels, counted) => [[{ ...labels, way: 'nodes' }, counted.bytesToNodes], [{ ...labels, way: 'frontend' }, counted.bytesFromUpstream]])),
      ...family('musubi_cache_class_requests_total', 'counter', 'Requests of nodes to caches by class.', byClass((labels, counted) => [[labels, counted.requests]])),
      ...family('musubi_cache_node_bytes_total', 'counter', `Bytes served by HTTP, by node: of at most ${METRIC_NODES_MAX} nodes; other is everybody else.`, nodeSamples(figures, ({ bytes }) => bytes)),
      ...family('musubi_cache_node_requests_total', 'counter', 'Requests by HTTP, by node, likewise.', nodeSamples(figures, ({ requests }) => requests)),
      ...family('musubi_cache_https_bytes_total', 'counter', 'Packets of HTTPS from the frontend, which pass caches untouched.', figures.map(({ cluster, site, httpsBytes }) => [{ cluster, site }, httpsBytes]))
    ]
  ]
}

/** Families of the stores of this gateway that outlive their clusters. Pure. */
export function retainedFamilies (retained: ReadonlyArray<Pick<RetainedStoreResource, 'owner' | 'bytes'>>): string[] {
  const kept = Object.entries(Object.groupBy(retained, ({ owner }) => owner)).map(([owner, list = []]) => ({ at: { owner }, stores: list.length, bytes: list.reduce((sum, { bytes }) => sum + bytes, 0) }))
  if (kept.length === 0) return []
  return [
    ...family('musubi_cache_retained_bytes', 'gauge', 'Bytes of stores that outlive their clusters on this gateway, by the site that they are kept for.', kept.map(({ at, bytes }) => [at, bytes])),
    ...family('musubi_cache_retained_stores', 'gauge', 'Such stores.', kept.map(({ at, stores }) => [at, stores]))
  ]
}
