import type { SiteResource, SearchQuery, SearchResult } from '../api.ts'
import { timesFitting, clampToZero } from './capacity.ts'

/**
 * What each site could lend now for nodes of one shape, and how many nodes of it that is in all. The
 * same function answers at the coordinator and in an agent's own view, so both say the same.
 */
export function searchSites (query: SearchQuery, sites: readonly SiteResource[]): SearchResult {
  const need = { vcpus: query.vcpus, memoryMib: query.memoryMib, diskMib: 0 }
  const ranked = sites
    .map(site => ({ ...site, nodesThatFit: site.freeByHost.reduce((n, free) => n + timesFitting(need, clampToZero(free)), 0) }))
    .sort((a, b) => b.nodesThatFit - a.nodesThatFit || (a.site < b.site ? -1 : 1))
  const total = ranked.reduce((n, s) => n + s.nodesThatFit, 0)
  const volumeSites = ranked.filter(s => s.volumeFreeMib >= query.volumeMib).map(s => s.site)
  const volumeFits = query.volumeMib === 0 || volumeSites.length > 0
  const shape = `${query.vcpus} vCPU and ${query.memoryMib} MiB`
  const nodes = total >= query.nodes
    ? `${query.nodes} nodes of ${shape} fit: ${ranked.filter(s => s.nodesThatFit > 0).map(s => `${s.nodesThatFit} at ${s.site}`).join(', ')}.`
    : `${query.nodes} nodes of ${shape} do not fit: ${total} do${ranked.length === 0 ? ', as no site is known' : ` (${ranked.map(s => `${s.nodesThatFit} at ${s.site}`).join(', ')})`}.`
  const volume = query.volumeMib === 0 ? '' : volumeFits ? ` A volume of ${query.volumeMib} MiB fits at ${volumeSites.join(', ')}.` : ` A volume of ${query.volumeMib} MiB fits nowhere.`
  return { fits: total >= query.nodes && volumeFits, sites: ranked, explanation: nodes + volume }
}
