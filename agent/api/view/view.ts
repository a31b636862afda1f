import type { ClusterRecord } from '../../master/record.ts'
import type { LeaseView } from './leases.ts'
import type { AgentMetrics } from '../metrics/metrics.ts'
import type { AgentStatus, ConsoleResource, HostDetail, HostResource, SegmentPlanResource, SiteResource } from '../../../protocol/api.ts'
import { frontendNamespace } from '../../../protocol/core/desired.ts'
import { ConflictError, NotFoundError } from '../../../protocol/core/errors.ts'

/** What the read routes show; agent/agent.ts fills it in from ledger, mesh and reconciler. */
export interface AgentView extends LeaseView {
  status (): Promise<AgentStatus>
  hosts (): HostResource[]
  /** One host of the site in full, see `hostDetail` of host.ts. @throws NotFoundError */
  host (name: string): HostDetail
  sites (): SiteResource[]
  metrics (): AgentMetrics
  /** See `segmentPlans`. @throws NotFoundError */
  segmentPlan (cluster: string, host?: string): SegmentPlanResource
  console (record: ClusterRecord, node: string): ConsoleResource
}

/** How to get a root shell on a node from the master's gateway. @throws NotFoundError, ConflictError */
export function consoleOf (record: ClusterRecord, nodeName: string, keyFile: string): ConsoleResource {
  const document = record.document
  if (document === null || record.state === 'deleted') throw new ConflictError(`cluster ${record.name} is ${record.state}: it has no nodes`)
  const node = document.nodes.find(n => n.name === nodeName || String(n.index) === nodeName)
  if (node === undefined) throw new NotFoundError(`cluster ${record.name} has no node "${nodeName}"`, `it has ${document.nodes.map(n => n.name).join(', ')}`)
  const namespace = frontendNamespace(record.vni)
  return {
    node: node.name, ip: node.ip, namespace, keyFile,
    // Host keys are made at each boot of a node that lives in memory: there is nothing to remember.
    argv: ['ip', 'netns', 'exec', namespace, 'ssh', '-q', '-i', keyFile, '-o', 'StrictHostKeyChecking=no', '-o', 'UserKnownHostsFile=/dev/null', '-o', 'ConnectTimeout=10', '-o', 'ConnectionAttempts=3', `root@${node.ip}`]
  }
}
