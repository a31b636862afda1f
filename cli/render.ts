import { PHASES, type AgentStatus, type ClusterResource, type HostResource, type LeaseResource, type SearchResult, type SiteResource } from '../protocol/api.ts'
import { bytes, duration, mib, table } from './output.ts'

/** How each resource looks to people; pure, so that demo and CLI print the same. */

const free = (f: { vcpus: number, memoryMib: number }, t: { vcpus: number, memoryMib: number }): string[] =>
  [`${f.vcpus}/${t.vcpus}`, `${mib(f.memoryMib)} / ${mib(t.memoryMib)}`]

export function hostsTable (hosts: HostResource[]): string {
  if (hosts.length === 0) return 'No host is known yet.'
  return table(['host', 'site', 'roles', 'vcpu free', 'memory free', 'disk free', 'accel', 'seen'],
    hosts.map(h => [h.host, h.site, h.roles.join(','), ...free(h.free, h.total), mib(h.free.diskMib), h.accelerator, `${duration(h.ageMs)} ago`]))
}

export function sitesTable (sites: SiteResource[]): string {
  if (sites.length === 0) return 'No site is known yet.'
  return table(['site', 'gateway', 'hosts', 'vcpu free', 'memory free', 'largest volume', 'seen'],
    sites.map(s => [s.site, s.gateway, String(s.hosts), ...free(s.free, s.total), mib(s.volumeFreeMib), `${duration(s.ageMs)} ago`]))
}

export function searchText (result: SearchResult): string {
  return `${table(['site', 'gateway', 'nodes that fit', 'vcpu free', 'memory free'],
    result.sites.map(s => [s.site, s.gateway, String(s.nodesThatFit), ...free(s.free, s.total)]))}\n${result.explanation}`
}

export function leasesTable (leases: LeaseResource[]): string {
  if (leases.length === 0) return 'No lease.'
  return table(['lease', 'cluster', 'host', 'kind', 'name', 'state', 'vcpu', 'memory', 'disk', 'ends'],
    leases.map(l => [l.leaseId.slice(0, 13), l.cluster, l.host, l.kind, l.name, l.state, String(l.resources.vcpus), mib(l.resources.memoryMib), mib(l.resources.diskMib), new Date(l.endMs).toISOString().slice(0, 16)]))
}

export function clustersTable (clusters: ClusterResource[]): string {
  if (clusters.length === 0) return 'No cluster. Create one with: musubi cluster create -f cluster.yaml'
  return table(['name', 'state', 'nodes ready', 'sites', 'vni', 'master', 'expires'],
    clusters.map(c => [c.name, c.state, `${c.nodes.filter(n => n.ready).length}/${c.nodes.length}`,
      [...new Set(c.nodes.map(n => n.site))].join(','), String(c.segment.vni), c.masterSite, new Date(c.expiresAt).toISOString().slice(0, 16)]))
}

/** Where each node is and when it reached each phase, in time since the request. */
export function nodesTable (cluster: ClusterResource): string {
  return table(['node', 'site', 'host', 'ip', 'mac', ...PHASES, 'state'],
    cluster.nodes.map(n => [n.name, n.site, n.host, n.ip, n.mac, ...PHASES.map(p => duration(n.phases[p])), n.state]))
}

export function clusterText (c: ClusterResource): string {
  const lines = [
    `cluster    ${c.name}  ${c.state}   id ${c.id}   master ${c.masterSite}   until ${new Date(c.expiresAt).toISOString()}`,
    `leases     ${c.lease.holds} at ${c.lease.sites} sites, negotiated in ${duration(c.lease.negotiateMs)} at RTT ${duration(c.lease.rttMs)}`,
    `segment    VNI ${c.segment.vni}, ${c.cidr}, in-site ids ${Object.entries(c.segment.ids).map(([site, id]) => `${site}=${id}`).join(' ')}, packets of ${c.segment.mtuInner} bytes, first ping across after ${duration(c.segment.firstPingMs)}`
  ]
  if (c.frontend !== null) lines.push(`frontend   ${c.frontend.name}  ${c.frontend.ip}  on ${c.frontend.host} (${c.frontend.site})`)
  for (const v of c.volumes) lines.push(`volume     ${v.name}  ${mib(v.sizeMib)}  on ${v.host} for ${v.node}  ${v.iqn}`)
  const saved = c.wan.bytesWithoutCache - c.wan.bytes
  lines.push(`WAN        ${bytes(c.wan.bytes)} crossed; the far nodes received ${bytes(c.wan.bytesWithoutCache)}${c.wan.bytes > 0 && saved > 0 ? ` (${(c.wan.bytesWithoutCache / c.wan.bytes).toFixed(1)} x)` : ''}`)
  for (const cache of c.caches) lines.push(`cache      ${cache.site}: ${cache.hits} of ${cache.requests} requests from the cache, ${bytes(cache.bytesToNodes)} to nodes, ${bytes(cache.bytesFromUpstream)} from the frontend`)
  if (c.error !== null) lines.push(`error      ${c.error.message}${c.error.hint === undefined ? '' : ` (${c.error.hint})`}`)
  for (const p of c.problems) lines.push(`problem    ${p.host} (${p.site}) ${p.kind} ${p.name}: ${p.error}`)
  return `${lines.join('\n')}\n\n${nodesTable(c)}`
}

export function statusText (s: AgentStatus): string {
  const lines = [
    `${s.name} (${s.site})  ${s.roles.join(',')}  musubi ${s.version}  start ${s.epoch}, up ${duration(s.uptimeMs)}`,
    `peer      ${s.peerId}`,
    `peers     ${s.peers.map(p => p.name).join(', ') || 'none connected'}`,
    `free      ${s.free.vcpus} of ${s.total.vcpus} vCPU, ${mib(s.free.memoryMib)} of ${mib(s.total.memoryMib)}, disk ${mib(s.free.diskMib)} of ${mib(s.total.diskMib)}`
  ]
  for (const o of s.objects) lines.push(`object    ${o.kind} ${o.name}: ${o.state}${o.error === '' ? '' : ` ${o.error}`}`)
  for (const p of s.problems) lines.push(`problem   ${p}`)
  return lines.join('\n')
}
