import { CACHE_CLASSES } from '../cache/fleet.ts'
import type { HostStatus } from '../peers.ts'
import { detailOf, figure, inner } from './details.ts'
import type { ClusterDocument } from '../../protocol/core/messages.ts'

/** Of one site's cache, as the last status of its gateway told. */
export interface CacheFigures {
  cluster: string
  site: string
  classes: Readonly<Record<string, { requests: number, bytesToNodes: number, bytesFromUpstream: number }>>
  /** by name, those of the document alone; addresses that are no node's are `other` */
  nodes: ReadonlyMap<string, { requests: number, bytes: number }>
  httpsBytes: number
}

/** Whoever sends from an address that no node of the cluster has. */
const OTHER = 'other'

/** Figures of a cluster's caches by class and node; none of a site that has not answered. Pure. */
export function cacheFigures (document: ClusterDocument, statuses: readonly HostStatus[]): CacheFigures[] {
  const nameOf = new Map(document.nodes.map(node => [node.ip, node.name]))
  return document.sites.filter(({ cache }) => cache).flatMap(({ site, gateway }) => {
    const detail = detailOf(statuses.find(one => one.site === site && one.host === gateway.host), 'cache')
    if (detail.classes === undefined) return []
    const nodes = new Map<string, { requests: number, bytes: number }>()
    for (const [address, value] of Object.entries(inner(detail.nodes))) {
      const name = nameOf.get(address) ?? OTHER
      const known = nodes.get(name) ?? { requests: 0, bytes: 0 }
      nodes.set(name, { requests: known.requests + figure(inner(value).requests), bytes: known.bytes + figure(inner(value).bytes) })
    }
    const classes = Object.fromEntries(CACHE_CLASSES.map(name => {
      const of = inner(inner(detail.classes)[name])
      return [name, { requests: figure(of.requests), bytesToNodes: figure(of.bytesToNodes), bytesFromUpstream: figure(of.bytesFromUpstream) }]
    }))
    return [{ cluster: document.name, site, classes, nodes, httpsBytes: figure(inner(detail.wire).https) }]
  })
}
