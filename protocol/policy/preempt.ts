/** Whose leases could make room for a site of a higher priority, by what the policy has agreed with theirs. */
import { type Resources, fits, sum, zero } from '../core/capacity.ts'
import { type GatewayRecord, allHeld } from '../core/gateway/record.ts'
import type { Request } from '../core/messages.ts'
import type { PolicyDocument } from '../policy-api.ts'
import { noticeOf, priorityOf, ruleFor } from './rules.ts'

/** Enough clusters of lower priority, the lowest first. */
export interface RoomByNotice {
  clusters: Array<{ clusterId: string, cluster: string, site: string, priority: number, /** when its notice would be over, Unix ms */ fromMs: number }>
  /** when the notice of all of them would be over, Unix ms */
  earliestMs: number
}

/** What a request takes of hosts; where it is placed is not known before. */
const needOf = ({ nodes, volumes, frontend }: Request): Resources => ({
  ...zero(), vcpus: nodes.reduce((all, node) => all + node.vcpus, frontend ? 1 : 0), memoryMib: nodes.reduce((all, node) => all + node.memoryMib, 0),
  diskMib: volumes.reduce((all, volume) => all + volume.sizeMib, 0), volumes: volumes.length
})

/**
 * The clusters that could make room for a request that was refused for want of it: running ones of lower priority whose sites have
 * agreed to a notice that is over before their end. Nothing is ended here.
 *
 * @param own the site that lends
 * @returns null when they would not be enough
 */
export function roomByNotice (document: PolicyDocument, own: string, request: Request, records: Iterable<GatewayRecord>, nowMs: number): RoomByNotice | null {
  const priority = priorityOf(document, own, request.masterSite)
  const candidates = [...records].flatMap(record => {
    const noticeMs = record.masterSite === own ? null : noticeOf(ruleFor(document, record.masterSite))
    const its = priorityOf(document, own, record.masterSite)
    if (noticeMs === null || its >= priority || record.state !== 'active' || nowMs + noticeMs >= record.endMs) return []
    const held = sum(allHeld(record).filter(part => part.kind !== 'quota' && part.kind !== 'segment').map(part => part.resources))
    return [{ clusterId: record.clusterId, cluster: record.cluster, site: record.masterSite, priority: its, fromMs: nowMs + noticeMs, held }]
  }).sort((a, b) => a.priority - b.priority || a.fromMs - b.fromMs || (a.clusterId < b.clusterId ? -1 : 1))
  const need = needOf(request)
  const chosen: typeof candidates = []
  for (const candidate of candidates) {
    chosen.push(candidate)
    if (!fits(need, sum(chosen.map(one => one.held)))) continue
    return { clusters: chosen.map(({ clusterId, cluster, site, priority: its, fromMs }) => ({ clusterId, cluster, site, priority: its, fromMs })), earliestMs: Math.max(...chosen.map(one => one.fromMs)) }
  }
  return null
}
