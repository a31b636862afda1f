import type { SearchResult } from '../../protocol/api.ts'
import { duration, mib, table } from '../output.ts'

/** Ranked sites, why each of them does not take all of it, and the verdict last, where people look. */
export function searchText (result: SearchResult): string {
  if (result.sites.length === 0) return result.explanation
  const rows = table(['site', 'gateway', 'nodes that fit', 'fits', 'rtt', 'price', 'vcpu free', 'memory free'],
    result.sites.map(s => [
      s.site, s.gateway, String(s.nodesThatFit), s.fits ? 'yes' : s.nodesThatFit > 0 ? 'in part' : 'no', duration(s.rttMs), String(s.priceMilli / 1000),
      `${s.free.vcpus}/${s.total.vcpus}`, `${mib(s.free.memoryMib)} / ${mib(s.total.memoryMib)}`
    ]))
  const why = result.sites.filter(s => s.reasons.length > 0).map(s => `${s.site}: ${s.reasons.map(r => r.message).join('; ')}`)
  const hidden = result.known - result.sites.length
  const more = hidden > 0 ? [`${hidden} more ${hidden === 1 ? 'site is' : 'sites are'} not shown: raise --limit`] : []
  return [rows, ...why, ...more, result.explanation].join('\n')
}
