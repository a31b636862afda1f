import { DEFAULT_UNDERLAY_MTU } from '../../drivers/network/names.ts'
import { planSegment } from '../../drivers/network/plan.ts'
import { renderPlan } from '../../drivers/network/render.ts'
import type { SegmentPlanResource } from '../../../protocol/api.ts'
import { NotFoundError } from '../../../protocol/core/errors.ts'
import type { SegmentSpec } from '../../../protocol/core/desired.ts'
import type { ClusterDocument } from '../../../protocol/core/messages.ts'
import { LOCAL } from '../../../protocol/core/network/local.ts'
import { localSegmentFor, objectName, segmentFor } from '../../../protocol/core/plan.ts'
import type { Self } from '../../../protocol/core/verify/document.ts'

/**
 * What every host of a cluster is to have of its segment. Pure: nobody is asked, so the MTU of each underlay
 * is taken to be 1500 bytes, and every kernel to have IPv6.
 *
 * @param documents that this agent has, in any order
 * @param own the site of this agent, whose hosts are shown with the trunk NIC of this one; how others do it inside is
 *   not known here, and shown as VXLAN
 * @param name of the cluster, or its id
 * @param host only that one
 * @throws NotFoundError when no document is of that cluster, or the host carries nothing of it
 */
export function segmentPlans (documents: Iterable<ClusterDocument>, own: Pick<Self, 'site' | 'trunk'>, name: string, host?: string): SegmentPlanResource {
  // of several with one name, or several versions, the one that was written last
  const [document] = [...documents].filter((one) => one.id === name || one.name === name).sort((a, b) => b.createdMs - a.createdMs || b.version - a.version)
  if (document === undefined) throw new NotFoundError(`this host knows no document of a cluster "${name}"`, 'ask a host that lends to it, or its master')
  const hosts = document.sites.flatMap(({ site, hosts: members }) => members.filter((member) => host === undefined || member.host === host).flatMap((member) => {
    const self = { ...(site === own.site ? own : { site }), host: member.host }
    const spec = segmentFor(document, self)
    const local = localSegmentFor(document, self)
    const text = (short: string, of: SegmentSpec): string => renderPlan(planSegment(objectName(document.id, short), of, DEFAULT_UNDERLAY_MTU))
    return spec === null ? [] : [{ site, host: member.host, gateway: member.gateway, plan: `${text('segment', spec)}${local === null ? '' : `segment that does not leave the site, ${document.localCidr ?? ''}\n${text(LOCAL, local)}`}` }]
  }))
  if (hosts.length === 0) throw new NotFoundError(`host ${host ?? ''} carries nothing of the segment of ${document.name}`, `it is on ${document.sites.flatMap((one) => one.hosts.map((member) => member.host)).join(', ')}`)
  return { cluster: document.name, vni: document.vni, version: document.version, hosts }
}
