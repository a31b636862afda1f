import { bytes, table, timeLeft } from '../output.ts'
import type { CacheBudgetResource, CacheDeedResource, CachedObjectResource, CacheOrderResource, ClusterCachesResource, RetainedStoresResource } from '../../protocol/cache-api.ts'
import { formatDuration } from '../../protocol/core/notation/duration.ts'

/** Said wherever figures of caches are shown, as they would mislead without. */
export const HTTPS_NOTE = 'HTTPS passes a cache untouched: it is in no other figure here, and nothing of it is saved.'
const TFTP_NOTE = 'TFTP is counted in packets, and is in no sum: requested, to nodes, and from a relay at the site of the frontend.'

/** `3/8 objects, 1.5 MB/4.0 MB`, and why it waits or what did not come. */
export function orderText ({ state, reason, objects, objectsDone, bytes: all, bytesDone, failures, failed, indexErrors }: Omit<CacheOrderResource, 'name'>): string {
  const lost = failures === 0 ? '' : `; ${failures} did not come${failed[0] === undefined ? '' : `: ${failed[0].path}: ${failed[0].error}`}`
  return `${state}${reason === '' ? '' : ` (${reason})`}, ${objectsDone}/${objects} objects, ${bytes(bytesDone)}/${bytes(all)}${lost}${indexErrors.map(({ path, error }) => `; index ${path}: ${error}`).join('')}`
}

/** Parts of one order, as the CLI numbers them, put together again. */
export function ordersByName (orders: readonly CacheOrderResource[]): CacheOrderResource[] {
  const whole = new Map<string, CacheOrderResource>()
  for (const order of orders) {
    const name = order.name.replace(/-p\d{3}$/, '')
    const known = whole.get(name)
    if (known === undefined) {
      whole.set(name, { ...order, name })
      continue
    }
    for (const field of ['objects', 'objectsDone', 'bytes', 'bytesDone', 'bytesFetched', 'failures'] as const) known[field] += order[field]
    known.failed = [...known.failed, ...order.failed].slice(0, 2)
    known.indexErrors = [...known.indexErrors, ...order.indexErrors].slice(0, 2)
    if (order.state === 'paused' || known.state === 'paused') known.state = 'paused'
    else if (order.state !== 'done') known.state = order.state
    if (known.reason === '') known.reason = order.reason
  }
  return [...whole.values()]
}

export function cachesText (clusters: readonly ClusterCachesResource[], nodes: boolean): string {
  const rows = clusters.flatMap(({ cluster, sites, total }) => [
    ...sites.map(one => [cluster, one.site, one.error === '' ? String(one.requests) : '-', String(one.hits), bytes(one.bytesToNodes), bytes(one.bytesFromUpstream), bytes(one.savedBytes), bytes(one.wanBytes.static + one.wanBytes.dynamic), bytes(one.storedBytes)]),
    ...sites.length > 1 ? [[cluster, 'all', '', '', bytes(total.bytesToNodes), bytes(total.bytesFromUpstream), bytes(total.savedBytes), bytes(total.wanBytes), bytes(total.storedBytes)]] : []
  ])
  if (rows.length === 0) return 'No cache is running: a cluster has one at each site without its frontend.'
  const lines = [table(['cluster', 'site', 'requests', 'hits', 'to nodes', 'from frontend', 'saved', 'over the wan', 'stored'], rows)]
  for (const { cluster, sites, retainMs } of clusters) {
    if (retainMs !== undefined) lines.push('', `${cluster}: retain ${formatDuration(retainMs)} after its end`)
    for (const one of sites) {
      const at = `${cluster} at ${one.site}`
      if (one.error !== '') { lines.push('', `${at} (${one.host}): ${one.error}`); continue }
      const classes = Object.entries(one.classes).filter(([, of]) => of.requests > 0 || of.bytesFromUpstream > 0).map(([name, of]) => [name, String(of.requests), bytes(of.bytesToNodes), bytes(of.bytesFromUpstream)])
      if (classes.length > 0) lines.push('', at, table(['class', 'requests', 'to nodes', 'from frontend'], classes))
      if (one.wanBytes.https > 0) lines.push(`HTTPS from the frontend: ${bytes(one.wanBytes.https)}, passes through, not cached`)
      for (const order of ordersByName(one.orders)) lines.push(`preheat ${order.name}: ${orderText(order)}`)
      if (one.budget !== null) lines.push(`budget: ${bytes(one.budget.usedBytes)}${one.budget.totalBytes === null ? '' : ` of ${bytes(one.budget.totalBytes)}`} over the WAN${one.budget.rateMbitPerS === null ? '' : `, ${one.budget.rateMbitPerS} Mbit/s before nodes ask`}${one.budget.paused === '' ? '' : `; PAUSED: ${one.budget.paused}; more: musubi cache budget ${cluster} --total AMOUNT`}`)
      if (!one.room) lines.push('NO ROOM: nothing is kept until the disk has some')
      if (nodes && one.nodes.length > 0) lines.push('', table(['node', 'requests', 'to it'], one.nodes.map(({ node, requests, bytes: got }) => [node, String(requests), bytes(got)])))
    }
  }
  const tftp = clusters.some(({ sites }) => sites.some(({ classes }) => (classes['tftp']?.requests ?? 0) > 0))
  return [...lines, '', ...tftp ? [TFTP_NOTE] : [], HTTPS_NOTE].join('\n')
}

export function deedText ({ sites }: CacheDeedResource, done: (site: CacheDeedResource['sites'][number]) => string): string {
  return sites.length === 0 ? 'This cluster has no cache: all of it is at the site of its frontend.' : sites.map(one => `${one.site}: ${one.error === '' ? done(one) : `FAILED: ${one.error}`}`).join('\n')
}

/** Objects of all sites that were asked, and which of these did not answer. */
export interface FoundObjects {
  sites: Array<{ site: string, error: string }>
  objects: Array<CachedObjectResource & { site: string }>
}

export function objectsText ({ sites, objects }: FoundObjects): string {
  const rows = objects.map(({ site, path, class: kind, sizeBytes, bytes: stored, asked, sha256 }) => [site, path, kind, sizeBytes === null ? '-' : bytes(sizeBytes), bytes(stored), String(asked), sha256 === null ? '-' : sha256.slice(0, 16)])
  const sums = sites.map(({ site, error }) => {
    const own = objects.filter(one => one.site === site)
    return error === '' ? `${own.length} ${own.length === 1 ? 'object' : 'objects'}, ${bytes(own.reduce((sum, one) => sum + one.bytes, 0))} at ${site}` : `${site} is left out: ${error}`
  })
  return [rows.length === 0 ? 'There is nothing of that.' : table(['site', 'path', 'class', 'size', 'stored', 'asked', 'sha256'], rows), '', ...sums].join('\n')
}

/** What a purge removed at one site, and what becomes of orders that name it. */
export function purgedText ({ parts, bytes: gone, orders }: CacheDeedResource['sites'][number], { cluster, prefix, refetch }: { cluster: string, prefix?: string, refetch?: boolean }): string {
  const names = [...new Set(orders.map(name => name.replace(/-p\d{3}$/, '')))].join(', ')
  const done = `${parts} parts, ${bytes(gone)} removed`
  if (names === '') return refetch === true ? `${done}; no order names it, so it comes when nodes ask` : done
  if (refetch === true) return `${done}; what it names of that is fetched again by the order ${names}`
  return `${done}; the order ${names} may name it, and does not fetch it again once done: musubi cache purge ${cluster}${prefix === undefined ? '' : ` --prefix ${prefix}`} --refetch`
}

const rateText = (kbit: number | null): string => kbit === null ? 'none' : kbit < 1000 ? `${kbit} kbit/s` : `${kbit / 1000} Mbit/s`

/** What holds at each site, and whether its cache has it yet. */
export function budgetText ({ cluster, rateKbitPerS, totalBytes, sites }: CacheBudgetResource): string {
  if (sites.length === 0) return `Cluster ${cluster} has no cache: all of it is at the site of its frontend.`
  const rows = sites.map(one => [
    one.site, rateText(one.rateKbitPerS), one.totalBytes === null ? 'none' : bytes(one.totalBytes), one.error === '' ? bytes(one.usedBytes) : '-', one.own ? 'its own' : 'as all sites',
    one.error !== '' ? `not known: ${one.error}` : !one.inForce ? 'changed, not in force there yet' : one.paused === '' ? 'in force' : `PAUSED: ${one.paused}`
  ])
  return [
    `All sites of ${cluster}, each: rate ${rateText(rateKbitPerS)}, total ${totalBytes === null ? 'none' : bytes(totalBytes)}`, '',
    table(['site', 'rate', 'total', 'used', 'value', 'state'], rows),
    ...sites.some(({ paused }) => paused !== '') ? ['', `Nothing is fetched before nodes ask where it is paused. More: musubi cache budget ${cluster} --total AMOUNT`] : []
  ].join('\n')
}

/** Stores that outlive their clusters on one gateway. @param now Unix ms */
export function retainedText ({ host, limits, stores }: RetainedStoresResource, now: number): string {
  const off = limits.totalBytes === 0 || limits.ownerBytes === 0 || limits.maxMs === 0
  const sum = stores.reduce((total, one) => total + one.bytes, 0)
  const room = off ? `${host} keeps no store of an ended cluster: see retain in its configuration.` : `${bytes(sum)} of ${bytes(limits.totalBytes)} on ${host}; at most ${bytes(limits.ownerBytes)} for one site, ${formatDuration(limits.maxMs)} after the last use`
  if (stores.length === 0) return off ? room : `No store outlives its cluster now: clusters ask for that with spec.cache.retain.\n${room}`
  const rows = stores.map(one => [one.owner, one.cluster, bytes(one.bytes), one.checked ? String(one.objects) : 'checking', new Date(one.lastUsedMs).toISOString(), new Date(one.untilMs).toISOString(), timeLeft(Math.max(0, one.untilMs - now))])
  return `${table(['owner', 'last cluster', 'stored', 'objects', 'last used', 'until', 'left'], rows)}\n\n${room}`
}
