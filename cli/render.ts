import { PHASES, type AgentStatus, type CertificateResource, type ClusterResource, type HostDetail, type HostResource, type InventoryResource, type InvitationResource, type SiteResource } from '../protocol/api.ts'
import { formatDuration } from '../protocol/core/notation/duration.ts'
import { bytes, duration, indented, mib, skewText, table, timeLeft } from './output.ts'

export { historyTable, leasesTable, leaseText } from './render/lease.ts'
import { heldLines, heldTable } from './render/plan.ts'

export { searchText } from './render/search.ts'

/** How each resource looks to people; pure, so that demo and CLI print the same. */

const free = (f: { vcpus: number, memoryMib: number }, t: { vcpus: number, memoryMib: number }): string[] =>
  [`${f.vcpus}/${t.vcpus}`, `${mib(f.memoryMib)} / ${mib(t.memoryMib)}`]

const hostState = (h: HostResource): string => h.cordoned ? `${h.state}, cordoned` : h.state

export function hostsTable (hosts: HostResource[]): string {
  if (hosts.length === 0) return 'No host is known yet.'
  return table(['host', 'site', 'state', 'path', 'roles', 'vcpu free', 'memory free', 'disk free', 'accel', 'seen'],
    hosts.map(h => [h.host, h.site, hostState(h), h.path ?? '-', h.roles.join(','), ...free(h.free, h.total), mib(h.free.diskMib), h.accelerator, `${duration(h.ageMs)} ago`]))
}

const rtt = (ms: number | null): string => ms === null ? '' : `, RTT ${ms < 10 ? ms.toFixed(1) : Math.round(ms)}ms`
const day = (ms: number): string => new Date(ms).toISOString().slice(0, 16).replace('T', ' ')

function certificateLine (c: CertificateResource): string {
  const slice = c.segmentIds === null ? '' : `, segment ids ${c.segmentIds.from}-${c.segmentIds.to}`
  return `${c.roles.join(', ')}${slice}, until ${day(c.notAfterMs)} UTC, by ${c.issuer}`
}

function inventoryLines (i: InventoryResource): string[] {
  const many = (n: number, what: string): string => `${n} ${what}${n === 1 ? '' : 's'}`
  const known = (text: string, what: string): string => text === '' ? '' : `, ${what} ${text}`
  return [
    `cpu          ${i.cpuModel}, ${i.architecture}: ${many(i.sockets, 'socket')}, ${many(i.cores, 'core')}, ${many(i.threads, 'thread')}; guests by ${i.virtualization}`,
    `memory       ${mib(i.memoryMib)}${i.numa.length > 1 ? `: ${i.numa.map(n => `node ${n.node} ${n.cpus} threads ${mib(n.memoryMib)}`).join(', ')}` : ''}`,
    `system       ${i.os}, kernel ${i.kernel}${known(i.libvirtVersion, 'libvirt')}${known(i.qemuVersion, 'QEMU')}`,
    ...i.disks.map(d => `disk         ${d.name}  ${bytes(d.sizeBytes)}  ${[d.transport, d.rotational ? 'rotating' : 'solid state', d.model].filter(w => w !== '').join(', ')}`),
    ...i.volumeGroups.map(v => `volume group ${v.name}  ${bytes(v.freeBytes)} free of ${bytes(v.sizeBytes)}`),
    ...i.nics.map(n => `nic          ${n.name}  ${n.up ? 'up' : 'down'}${n.speedMbit > 0 ? `, ${n.speedMbit} Mbit/s` : ''}, MTU ${n.mtu}${n.trunk ? ', trunk' : ''}${n.driver === '' ? '' : `, ${n.driver}`}  ${n.mac}  ${n.addresses.join(' ')}`.trimEnd())
  ]
}

export function hostText (h: HostDetail): string {
  const share = (f: 'total' | 'free' | 'promised'): string => `${h[f].vcpus} vCPU, ${mib(h[f].memoryMib)}, disk ${mib(h[f].diskMib)}`
  return [
    `host         ${h.host} (${h.site})  ${h.roles.join(', ')}  ${hostState(h)}  musubi ${h.version}, seen ${duration(h.ageMs)} ago`,
    `peer         ${h.peerId}`,
    `path         ${h.path ?? 'no connection now'}${rtt(h.rttMs)}  ${h.addresses.join(' ')}`.trimEnd(),
    `certificate  ${h.certificate === null ? 'not known here' : certificateLine(h.certificate)}`,
    `underlay     ${h.underlayAddress}`,
    `lends        ${share('total')}`, `promised     ${share('promised')}`, `free         ${share('free')}`,
    `features     ${h.features.join(', ') || '-'}`,
    ...(h.inventory === null ? ['inventory    not read yet'] : inventoryLines(h.inventory))
  ].join('\n')
}

export function invitationsTable (invitations: InvitationResource[]): string {
  if (invitations.length === 0) return 'No invitation. Make one with: musubi site invite'
  return table(['id', 'state', 'roles', 'until (utc)', 'used by', 'note'],
    invitations.map(i => [i.id, i.wrongProofs === 0 ? i.state : `${i.state}, ${i.wrongProofs} wrong proofs`, i.roles.join(',') || '-', day(i.expiresMs), i.used === null ? '-' : i.used.name, i.note]))
}

export function sitesTable (sites: SiteResource[]): string {
  if (sites.length === 0) return 'No site is known yet.'
  return table(['site', 'gateway', 'hosts', 'vcpu free', 'memory free', 'largest volume', 'state', 'path', 'rtt', 'seen'],
    sites.map(s => [s.site, s.gateway, String(s.hosts), ...free(s.free, s.total), mib(s.volumeFreeMib), s.state, s.path ?? '-', duration(s.rttMs), `${duration(s.ageMs)} ago`]))
}

/** A reservation with how long it is until it starts, what is held for its user with the time until which it is. */
const clusterState = (c: ClusterResource, nowMs: number): string =>
  c.state === 'reserved' ? `reserved, starts in ${timeLeft(Math.max(0, c.startsAt - nowMs))}`
  : c.heldUntil != null ? `${c.state}, held until ${new Date(c.heldUntil).toISOString()}` : c.state

export function clustersTable (clusters: ClusterResource[], nowMs = Date.now()): string {
  if (clusters.length === 0) return 'No cluster. Create one with: musubi cluster create -f cluster.yaml'
  const rows = table(['name', 'state', 'nodes ready', 'sites', 'vni', 'master', 'expires'],
    clusters.map(c => [c.name, clusterState(c, nowMs), `${c.nodes.filter(n => n.ready).length}/${c.held?.reduce((all, one) => all + one.nodes, 0) ?? c.nodes.length}`,
      [...new Set((c.held ?? c.nodes).map(n => n.site))].join(','), String(c.segment.vni), c.masterSite, new Date(c.expiresAt).toISOString().slice(0, 16)]))
  const lost = clusters.filter(c => c.state === 'masterless').map(c => c.name)
  return lost.length === 0 ? rows : `${rows}\n\nmasterless: the gateway that was master of ${lost.join(', ')} is not heard of; this one can take over: musubi cluster adopt NAME`
}

/** Where each node is and when it reached each phase, in time since the request. */
export function nodesTable (cluster: ClusterResource): string {
  const local = cluster.segment.local !== undefined
  return table(['node', 'site', 'host', 'ip', 'mac', ...local ? ['local ip'] : [], ...PHASES, 'state'],
    cluster.nodes.map(n => [n.name, n.site, n.host, n.ip, n.mac, ...local ? [n.local?.ip ?? '-'] : [], ...PHASES.map(p => duration(n.phases[p])), n.state]))
}

function lenderText ({ state, heardAgoMs, skewMs, error, priceMilli, endsAt, notice }: ClusterResource['lenders'][number]): string {
  const heard = heardAgoMs === null ? 'not heard of yet' : `${state === '' ? 'has no leases any more' : state}, heard of ${timeLeft(heardAgoMs)} ago, clock ${skewText(skewMs)}${endsAt === undefined ? '' : `, by its policy until ${new Date(endsAt).toISOString()} only`}${priceMilli === undefined ? '' : `, ${priceMilli / 1000} per vCPU and hour`}`
  return [heard, notice, error].filter(part => part !== undefined && part !== '').join('; ')
}

function segmentLines ({ segment, cidr }: ClusterResource): string[] {
  const ids = (of: Record<string, number>): string => Object.entries(of).map(([site, id]) => `${site}=${id}`).join(' ')
  const { local } = segment
  return [
    `segment    VNI ${segment.vni}, ${cidr}, in-site ids ${ids(segment.ids)}, packets of ${segment.mtuInner} bytes, first ping across after ${duration(segment.firstPingMs)}`,
    ...local === undefined ? [] : [`local      VNI ${local.vni}, ${local.cidr}, inside each site, in-site ids ${ids(local.ids)}`]
  ]
}

/** What runs, who lends it, and what crossed. */
function partsLines (c: ClusterResource): string[] {
  const saved = c.wan.bytesWithoutCache - c.wan.bytes
  return [
    ...segmentLines(c),
    ...c.frontend === null ? [] : [`frontend   ${c.frontend.name}  ${c.frontend.ip}  on ${c.frontend.host} (${c.frontend.site})`],
    ...c.lenders.map(l => `lender     ${l.site} (${l.gateway})  ${lenderText(l)}`),
    ...c.volumes.map(v => `volume     ${v.name}  ${mib(v.sizeMib)}  on ${v.host} for ${v.node}  ${v.iqn}`),
    `WAN        ${bytes(c.wan.bytes)} crossed; the far nodes received ${bytes(c.wan.bytesWithoutCache)}${c.wan.bytes > 0 && saved > 0 ? ` (${(c.wan.bytesWithoutCache / c.wan.bytes).toFixed(1)} x)` : ''}`,
    ...c.caches.map(cache => `cache      ${cache.site}: ${cache.hits} of ${cache.requests} requests from the cache, ${bytes(cache.bytesToNodes)} to nodes, ${bytes(cache.bytesFromUpstream)} from the frontend`)
  ]
}

export function clusterText (c: ClusterResource, nowMs = Date.now()): string {
  const head = `cluster    ${c.name}  ${clusterState(c, nowMs)}   id ${c.id}   master ${c.masterSite}   ${c.state === 'reserved' ? `from ${new Date(c.startsAt).toISOString()} ` : ''}until ${new Date(c.expiresAt).toISOString()}${c.epoch > 1 ? `   epoch ${c.epoch}` : ''}`
  // of what is only held nothing is there that could be told
  if (c.held != null) return [head, '', heldTable(c.held), '', ...heldLines(c, nowMs)].join('\n')
  const lines = [head, `leases     ${c.lease.holds} at ${c.lease.sites} sites, negotiated in ${duration(c.lease.negotiateMs)} at RTT ${duration(c.lease.rttMs)}`, ...partsLines(c)]
  if (c.cacheRetainMs !== null) lines.push(`retain     ${formatDuration(c.cacheRetainMs)}: so long the stores of its caches outlive it for other clusters of ${c.masterSite}`)
  if (c.error !== null) lines.push(`error      ${indented(c.error.message, 11)}`, ...c.error.hint === undefined ? [] : [`           ${c.error.hint}`])
  for (const p of c.problems) lines.push(`problem    ${p.host} (${p.site}) ${p.kind} ${p.name}: ${p.error}`)
  return `${lines.join('\n')}\n\n${nodesTable(c)}`
}

export function statusText (s: AgentStatus): string {
  const lines = [
    `${s.name} (${s.site})  ${s.roles.join(',')}  musubi ${s.version}  start ${s.epoch}, up ${duration(s.uptimeMs)}${s.cordoned ? `  cordoned${s.cordonReason === '' ? '' : `: ${s.cordonReason}`}` : ''}`,
    `peer         ${s.peerId}`,
    `federation   ${s.federation}`,
    `certificate  ${certificateLine(s.certificate)}`,
    `free         ${s.free.vcpus} of ${s.total.vcpus} vCPU, ${mib(s.free.memoryMib)} of ${mib(s.total.memoryMib)}, disk ${mib(s.free.diskMib)} of ${mib(s.total.diskMib)}`
  ]
  if (s.peers.length === 0) lines.push('peers        none connected')
  for (const p of s.peers) lines.push(`connected    ${p.name}  ${p.path ?? '-'}${rtt(p.rttMs)}`)
  for (const o of s.objects) lines.push(`object       ${o.kind} ${o.name}: ${o.state}${o.error === '' ? '' : ` ${o.error}`}`)
  for (const p of s.problems) lines.push(`problem      ${p}`)
  return lines.join('\n')
}
