import t from 'tap'
import { bytes, duration, indented, mib, table, timeLeft } from '../../../cli/output.ts'
import { clustersTable, clusterText, historyTable, hostsTable, hostText, invitationsTable, leasesTable, leaseText, nodesTable, searchText, sitesTable, statusText } from '../../../cli/render.ts'
import type { AgentStatus, CertificateResource, ClusterResource, HostDetail, HostResource, InvitationResource, LeaseDetail, LeaseEventResource, LeaseResource, NodeResource, SiteResource } from '../../../protocol/api.ts'
import { changesText, checkText, policyText } from '../../../cli/render/policy.ts'
import type { PolicyResource } from '../../../protocol/policy-api.ts'

const free = { vcpus: 1, memoryMib: 1024, diskMib: 500, volumes: 4, bandwidthMbit: 0 }
const total = { vcpus: 4, memoryMib: 16_384, diskMib: 500, volumes: 8, bandwidthMbit: 0 }
const node = (name: string, part: Partial<NodeResource> = {}): NodeResource => ({
  name, site: 'tokyo', host: 'tokyo-1', mac: '52:54:00:00:01:01', ip: '10.42.1.1', ready: false, state: 'leased', rxBytes: 0,
  phases: { leased: 12, defined: 900, dhcp: null, boot: null, image: null, ready: null }, ...part
})
const certificate: CertificateResource = { site: 'tokyo', name: 'tokyo-1', roles: ['gateway', 'compute'], issuer: '12D3site', notBeforeMs: 0, notAfterMs: 86_400_000, joinedMs: 0, segmentIds: { from: 1000, to: 1999 } }
const cluster: ClusterResource = {
  id: 'abc', name: 'demo', state: 'building', error: null, createdAt: 0, startsAt: 0, expiresAt: 7_200_000, masterSite: 'tokyo', epoch: 1, lenders: [], cidr: '10.42.0.0/16', domain: 'demo.internal',
  frontend: { name: 'demo-fe', site: 'tokyo', host: 'tokyo-1', ip: '10.42.0.1', mac: '52:54:00:00:00:01' },
  nodes: [node('demo-tokyo-001'), node('demo-tsukuba-002', { site: 'tsukuba', ready: true, state: 'ready', phases: { leased: 12, defined: 900, dhcp: 1500, boot: 20_000, image: 40_000, ready: 125_000 } })],
  volumes: [{ name: 'data', site: 'tokyo', host: 'tokyo-2', node: 'demo-tokyo-001', sizeMib: 64, iqn: 'iqn.x' }],
  lease: { sites: 2, holds: 7, negotiateMs: 61, rttMs: 20.1 }, segment: { vni: 77, ids: { tokyo: 1000, tsukuba: 2000 }, mtuInner: 1500, firstPingMs: null },
  wan: { bytes: 1_000_000, bytesWithoutCache: 3_500_000 }, caches: [{ site: 'tsukuba', requests: 10, hits: 7, bytesToNodes: 3_500_000, bytesFromUpstream: 900_000 }], heldUntil: null, held: null, cacheRetainMs: 604_800_000,
  timings: { createMs: null, deleteMs: null }, problems: [{ site: 'tsukuba', host: 'tsukuba-2', kind: 'domain', name: 'abc.n', error: 'libvirtd is down' }]
}

t.test('figures are short and have units', t => {
  t.same([0, 999, 1000, 1500, 123_456, 12_345_678, 5e9, 7e15].map(bytes), ['0 B', '999 B', '1.0 kB', '1.5 kB', '123 kB', '12.3 MB', '5.0 GB', '7000 TB'])
  t.same([null, 0, 999.4, 1000, 61_000, 119_999, 120_000, 3_661_000].map(duration), ['-', '0ms', '999ms', '1.0s', '61.0s', '120.0s', '2m00s', '61m01s'])
  t.same([0, 1023, 10_239, 10_240, 15_000].map(mib), ['0 MiB', '1023 MiB', '10239 MiB', '10 GiB', '14.6 GiB'])
  t.end()
})

t.test('minutes never show sixty seconds', t => {
  t.same([119_999.9, 120_000, 179_499, 179_500, 179_999].map(duration), ['120.0s', '2m00s', '2m59s', '3m00s', '3m00s'])
  t.end()
})

t.test('tables are aligned, without blanks at the end of a line', t => {
  t.equal(table(['a', 'long'], [['wide cell', 'x'], ['y', '']]), 'A          LONG\nwide cell  x\ny')
  t.equal(table(['only'], []), 'ONLY')
  t.end()
})

t.test('what is empty says what to do', t => {
  t.match(hostsTable([]), /No host/)
  t.match(sitesTable([]), /No site/)
  t.match(leasesTable([]), /No lease/)
  t.match(clustersTable([]), /musubi cluster create -f/)
  t.end()
})

t.test('hosts, sites, search, status', t => {
  const host: HostResource = { site: 'tokyo', host: 'tokyo-1', peerId: 'p', roles: ['gateway', 'compute'], addresses: [], underlayAddress: '192.0.2.1', total, free, accelerator: 'tcg', version: '0.1.0', ageMs: 2_500, connected: true, state: 'alive', cordoned: false, path: 'direct' }
  t.match(hostsTable([host]), /tokyo-1 +tokyo +alive +direct +gateway,compute +1\/4 +1024 MiB \/ 16 GiB +500 MiB +tcg +2\.5s ago/)
  t.match(hostsTable([{ ...host, state: 'suspect', cordoned: true, path: null }]), /suspect, cordoned +- +gateway/)
  const site: SiteResource = { site: 'tokyo', gateway: 'tokyo-1', peerId: 'p', addresses: [], hosts: 2, total, free, freeByHost: [free], volumeFreeMib: 500, ageMs: 0, state: 'alive', path: 'direct', rttMs: 20, features: ['kvm'], roles: ['compute'], priceMilli: 12_500, maxTermMs: 0, relay: false }
  t.match(sitesTable([site]), /tokyo +tokyo-1 +2 +1\/4/)
  t.match(searchText({ fits: true, nodesThatFit: 3, known: 1, matching: 1, sites: [{ ...site, nodesThatFit: 3, fits: true, reasons: [] }], explanation: 'It fits.' }), /tokyo +tokyo-1 +3 +yes +20ms +12\.5 [^]*\nIt fits\.$/)
  const status: AgentStatus = { name: 'tokyo-1', site: 'tokyo', roles: ['gateway'], peerId: '12D3', version: '0.1.0', federation: '12D3fed', certificate, cordoned: true, cordonReason: 'new memory', addresses: [], peers: [], epoch: 3, uptimeMs: 1_000, total, free, objects: [{ kind: 'domain', name: 'n', state: 'failed', error: 'boom' }], problems: ['compute: no libvirt'] }
  const text = statusText(status)
  for (const part of [/start 3, up 1\.0s  cordoned: new memory/, /none connected/, /federation +12D3fed/, /certificate +gateway, compute, segment ids 1000-1999, until 1970-01-02 00:00 UTC, by 12D3site/, /domain n: failed boom/, /problem +compute: no libvirt/]) t.match(text, part)
  t.end()
})

const none = { vcpus: 0, memoryMib: 0, diskMib: 0, volumes: 0, bandwidthMbit: 0 }
const lease: LeaseResource = {
  leaseId: '0123456789abcdef', clusterId: 'abc', cluster: 'demo', host: 'tokyo-1', kind: 'node', name: 'demo-tokyo-001', state: 'active', resources: { ...none, vcpus: 1, memoryMib: 768 }, segmentId: 0,
  startMs: 60_000, endMs: 7_200_000, formerEndMs: 0, remainsMs: 93_784_000, token: 5, masterSite: 'tokyo', epoch: 1, masterless: false, heardAgoMs: 2_000, skewMs: 1_500
}
const hold: LeaseEventResource = { seq: 1, at: 61_000, what: 'lease', event: 'hold', leaseId: lease.leaseId, offerId: 'o', clusterId: 'abc', cluster: 'demo', kind: 'node', name: 'demo-tokyo-001', from: null, state: 'held', endMs: 7_200_000, token: 3, reason: '' }

t.test('time that is left has two units, and is never rounded up', t => {
  t.same([0, 999, 45_999, 60_000, 125_000, 3_599_999, 3_600_000, 7_199_999, 86_400_000, 93_784_000, 31_536_000_000].map(timeLeft), ['0s', '0s', '45s', '1m00s', '2m05s', '59m59s', '1h00m', '1h59m', '1d00h', '1d02h', '365d00h'])
  t.end()
})

t.test('leases: what each kind promises, what remains, how far the clock of the master is off', t => {
  t.match(leasesTable([lease]), /0123456789abc +demo +tokyo +node +demo-tokyo-001 +active +1 vCPU, 768 MiB +1970-01-01 00:01 +1970-01-01 02:00 +1d02h +\+1\.5s$/)
  const of = (resources: Partial<typeof none>, segmentId = 0): string => leasesTable([{ ...lease, resources: { ...none, ...resources }, segmentId, skewMs: null }])
  t.match(of({ diskMib: 64, volumes: 1 }), / disk 64 MiB, 1 volume .* -$/)
  t.match(of({ diskMib: 64, volumes: 3 }), /3 volumes/)
  t.match(of({ bandwidthMbit: 100 }, 1042), / id 1042, 100 Mbit\/s /)
  t.match(of({}), /active +- +1970/)
  t.notMatch(leasesTable([lease]), /masterless|preempted/)
  t.match(leasesTable([{ ...lease, formerEndMs: 10_800_000 }]), /active, preempted .* 02:00 /, 'the end that it has now')
  t.match(leasesTable([{ ...lease, masterless: true }, { ...lease, masterless: true }]), /active, masterless[^]*\n\nmasterless: the master of demo \(tokyo\) is not heard of.*musubi cluster adopt NAME$/)
  t.end()
})

t.test('a lease in full, and its history', t => {
  const detail: LeaseDetail = {
    ...lease, offerId: 'o', masterPeer: '12D3a', requester: '12D3b', epochHolder: '12D3a', deadlineMs: 0, confirmByMs: 0, commitToken: 4, activatedMs: 70_000, endedMs: 0, endReason: '', vacated: true, history: [hold]
  }
  const text = leaseText(detail)
  for (const part of [/^lease +0123456789abcdef +active$/m, /^term +1970-01-01 00:01:00 to 1970-01-01 02:00:00 UTC, 1d02h left$/m, /epoch 1, heard of 2s ago, its clock is \+1\.5s off$/m, /^tokens +5 now, 4 at commit$/m, /hold +0123456789abc +demo +node demo-tokyo-001 +held +3/]) t.match(text, part)
  t.match(leaseText({ ...detail, formerEndMs: 10_800_000 }), /^lease +0123456789abcdef +active, preempted\n[^]*^notice +its end was 1970-01-01 03:00:00 UTC, before this site needed the room/m)
  for (const absent of [/deadline/, /confirm/, /why/, /held by/, /notice/]) t.notMatch(text, absent)
  t.match(leaseText({ ...detail, state: 'held', deadlineMs: 90_000 }), /deadline +1970-01-01 00:01:30 UTC: ends then unless it is committed/)
  t.match(leaseText({ ...detail, state: 'committed', deadlineMs: 90_000, confirmByMs: 80_000 }), /unless it is activated\nconfirm +by 1970-01-01 00:01:20 UTC/)
  t.match(leaseText({ ...detail, state: 'ended', endedMs: 95_000, endReason: 'power off', vacated: false, masterless: true, heardAgoMs: null, skewMs: null, commitToken: 0, epochHolder: '12D3z' }),
    /ended 1970-01-01 00:01:35[^]*why +power off; what ran may still be there[^]*held by 12D3z, not heard of since the start of this agent\n[^]*not committed/)
  t.match(historyTable([{ ...hold, from: 'held', state: 'ended', event: 'expire', reason: 'nobody committed it' }]), /expire .* held > ended .* nobody committed it$/)
  t.match(historyTable([{ ...hold, what: 'epoch', leaseId: '', offerId: '', kind: '', name: '', from: 'known', state: 'known', event: 'claim', reason: '12D3z' }]), /claim .* epoch +known .* 12D3z$/)
  t.match(historyTable([]), /Nothing is recorded/)
  t.end()
})

t.test('a segment that does not leave its site is shown where there is one', t => {
  t.notMatch(clusterText(cluster), /^local|LOCAL IP/m)
  t.match(clusterText(cluster), /^retain +7d: /m)
  t.notMatch(clusterText({ ...cluster, cacheRetainMs: null }), /^retain/m)
  const local = { ...cluster, segment: { ...cluster.segment, local: { vni: 9, cidr: '10.43.0.0/16', ids: { tokyo: 1001, osaka: 17 } } }, nodes: cluster.nodes.map((node, i) => i === 0 ? { ...node, local: { mac: '52:55:00:00:01:01', ip: '10.43.1.1' } } : node) }
  t.match(clusterText(local), /^local +VNI 9, 10\.43\.0\.0\/16, inside each site, in-site ids tokyo=1001 osaka=17$/m)
  t.match(nodesTable(local), /LOCAL IP/)
  t.match(nodesTable(local), / 10\.43\.1\.1 /)
  t.end()
})

t.test('an error of several lines keeps them, below the first', t => {
  t.equal(indented('refused by\n  osaka: full\n  kyoto: policy', 4), 'refused by\n    osaka: full\n    kyoto: policy')
  t.match(clusterText({ ...cluster, error: { code: 'X', message: 'refused by\n  osaka: full' } }), /error +refused by\n {11}osaka: full\n/)
  t.end()
})

t.test('peers are shown with their path', t => {
  const status: AgentStatus = {
    name: 'tokyo-1', site: 'tokyo', roles: ['gateway'], peerId: '12D3', version: '0.1.0', federation: 'f', certificate, cordoned: false, cordonReason: '', addresses: [], epoch: 1, uptimeMs: 0, total, free, objects: [], problems: [],
    peers: [{ peerId: 'a', name: 'osaka/gw1', path: 'relay', rttMs: 31.4 }, { peerId: 'b', name: 'tokyo/tokyo-2', path: 'direct', rttMs: 0.42 }, { peerId: 'c', name: 'coordinator main', path: 'direct', rttMs: null }]
  }
  t.match(statusText(status), /connected +osaka\/gw1 +relay, RTT 31ms\nconnected +tokyo\/tokyo-2 +direct, RTT 0\.4ms\nconnected +coordinator main +direct$/)
  t.notMatch(statusText(status), /cordoned/)
  t.end()
})

t.test('a host in full', t => {
  const detail: HostDetail = {
    site: 'tokyo', host: 'tokyo-2', peerId: '12D3x', roles: ['compute'], addresses: ['/ip4/192.0.2.2/tcp/4100'], underlayAddress: '192.0.2.2', total, free, promised: { vcpus: 3, memoryMib: 15_360, diskMib: 0, volumes: 4, bandwidthMbit: 0 },
    accelerator: 'kvm', version: '0.2.0', ageMs: 1_000, connected: true, state: 'alive', cordoned: true, path: 'relay', rttMs: 12, features: ['kvm', 'wireguard'], certificate,
    inventory: {
      cpuModel: 'EPYC 9354', sockets: 2, cores: 64, threads: 128, architecture: 'x86_64', memoryMib: 524_288, numa: [{ node: 0, cpus: 64, memoryMib: 262_144 }, { node: 1, cpus: 64, memoryMib: 262_144 }],
      disks: [{ name: 'nvme0n1', sizeBytes: 2e12, model: 'PM9A3', rotational: false, transport: 'nvme' }], volumeGroups: [{ name: 'vg0', sizeBytes: 2e12, freeBytes: 5e11 }],
      nics: [{ name: 'eth0', mac: '52:54:00:00:00:01', mtu: 9000, speedMbit: 25_000, up: true, trunk: true, driver: 'mlx5_core', addresses: ['192.0.2.2/24'] }], virtualization: 'kvm', kernel: '6.1.0', libvirtVersion: '9.0.0', qemuVersion: '', os: 'Debian 12'
    }
  }
  const text = hostText(detail)
  for (const part of [
    /tokyo-2 \(tokyo\) +compute +alive, cordoned/, /path +relay, RTT 12ms +\/ip4\/192/, /certificate +gateway, compute, segment ids 1000-1999/, /lends +4 vCPU, 16 GiB, disk 500 MiB/, /promised +3 vCPU, 15 GiB, disk 0 MiB/, /free +1 vCPU/,
    /features +kvm, wireguard/, /EPYC 9354, x86_64: 2 sockets, 64 cores, 128 threads; guests by kvm/, /memory +512 GiB: node 0 64 threads 256 GiB, node 1/, /Debian 12, kernel 6\.1\.0, libvirt 9\.0\.0$/m, /disk +nvme0n1 +2\.0 TB +nvme, solid state, PM9A3/,
    /volume group vg0 +500 GB free of 2\.0 TB/, /nic +eth0 +up, 25000 Mbit\/s, MTU 9000, trunk, mlx5_core +52:54:00:00:00:01 +192/
  ]) t.match(text, part)
  const bare = hostText({ ...detail, inventory: null, certificate: null, path: null, rttMs: null, features: [], addresses: [] })
  for (const part of [/inventory +not read yet/, /certificate +not known here/, /path +no connection now$/m, /features +-/]) t.match(bare, part)
  t.end()
})

t.test('invitations show who used them and who tried to guess', t => {
  t.match(invitationsTable([]), /musubi site invite/)
  const invitation: InvitationResource = { id: 'abc', kind: 'host', site: 'tokyo', roles: ['compute'], segmentIds: null, note: 'rack 4', createdMs: 0, expiresMs: 3_600_000, state: 'used', wrongProofs: 0, used: { subject: 'p', name: 'tokyo-2', atMs: 5 } }
  t.match(invitationsTable([invitation]), /abc +used +compute +1970-01-01 01:00 +tokyo-2 +rack 4/)
  t.match(invitationsTable([{ ...invitation, used: null, state: 'burnt', wrongProofs: 5 }]), /burnt, 5 wrong proofs +compute .* - /)
  t.end()
})

t.test('a cluster tells where its nodes are, what crossed the WAN, and what is wrong', t => {
  const text = clusterText(cluster)
  for (const part of [
    /demo +building +id abc +master tokyo +until 1970-01-01T02:00/, /7 at 2 sites, negotiated in 61ms at RTT 20ms/, /VNI 77.*tokyo=1000 tsukuba=2000.*first ping across after -/,
    /demo-fe +10\.42\.0\.1 +on tokyo-1/, /volume +data +64 MiB +on tokyo-2 for demo-tokyo-001/, /1\.0 MB crossed; the far nodes received 3\.5 MB \(3\.5 x\)/,
    /tsukuba: 7 of 10 requests/, /problem +tsukuba-2 \(tsukuba\) domain abc\.n: libvirtd is down/, /demo-tsukuba-002 .* 20\.0s +40\.0s +2m05s +ready/
  ]) t.match(text, part)
  t.notMatch(clusterText({ ...cluster, wan: { bytes: 0, bytesWithoutCache: 0 } }), / x\)/)
  t.match(clusterText({ ...cluster, frontend: null, error: { code: 'X', message: 'why', hint: 'what next' } }), /error +why\n {11}what next\n/)
  const lender: ClusterResource['lenders'][number] = { site: 'osaka', gateway: 'osaka-1', state: 'active', heardAgoMs: 3_000, skewMs: -12, error: '' }
  t.notMatch(text, /lender|epoch/)
  t.match(clusterText({ ...cluster, lenders: [{ ...lender, priceMilli: 1_250 }] }), /lender +osaka .*, 1\.25 per vCPU and hour/)
  t.match(clusterText({ ...cluster, epoch: 2, lenders: [lender, { ...lender, site: 'kyoto', heardAgoMs: 125_000, skewMs: 1_500, error: 'no answer within 8 s' }, { ...lender, site: 'nara', state: '', heardAgoMs: null, skewMs: null }, { ...lender, site: 'kobe', state: '' }] }),
    /epoch 2\n[^]*lender +osaka \(osaka-1\) +active, heard of 3s ago, clock -12ms\nlender +kyoto .*heard of 2m05s ago, clock \+1\.5s; no answer within 8 s\nlender +nara .*not heard of yet\nlender +kobe .*has no leases any more, heard/)
  t.match(clustersTable([cluster]), /demo +building +1\/2 +tokyo,tsukuba +77 +tokyo/)
  t.notMatch(clustersTable([cluster]), /masterless/)
  t.match(clustersTable([cluster, { ...cluster, name: 'lost', state: 'masterless' }]), /lost +masterless[^]*\n\nmasterless: the gateway that was master of lost is not heard of.*musubi cluster adopt NAME$/)
  t.match(nodesTable(cluster), /LEASED +DEFINED +DHCP +BOOT +IMAGE +READY +STATE/)
  t.end()
})

t.test('a policy is a file to edit, with what is lent as comments; differences and doubts are told', t => {
  const none: PolicyResource = { site: 'tokyo', version: 0, setBy: '', document: {}, quotaPercent: 100, usage: [], warnings: [] }
  t.equal(policyText(none), '# tokyo has no policy yet: it lends everything to everybody\ndefault: {}')
  const empty = { vcpus: 0, memoryMib: 0, diskMib: 0, volumes: 0, bandwidthMbit: 0 }
  const usage = { site: 'osaka', lent: { ...empty, vcpus: 4, nodes: 2 }, most: { ...empty, vcpus: 8, nodes: 4 }, quota: { vcpus: 10 }, share: { vcpus: 6 }, overdrawn: ['vcpus'] }
  const text = policyText({ ...none, version: 3, setBy: 'gw1', document: { default: { quota: { vcpus: 10 } } }, quotaPercent: 60, usage: [usage], warnings: ['sites.osaka: odd'] })
  t.match(text, /# osaka: 4 vCPU, 2 nodes lent, with what is reserved up to 8 vCPU, 4 nodes; 6 vCPU of 10 vCPU can be lent by this gateway; OVERDRAWN: vcpus/)
  t.match(text, /# this gateway has 60 % of every quota\n[^]*# warning: sites.osaka: odd\ndefault:\n {2}quota:\n {4}vcpus: 10/)
  t.match(checkText('p.yaml', { errors: [], warnings: ['w'], usage: [], agent: false }), /p.yaml is valid\nwarning: w\nthe agent was not reached/)
  t.equal(changesText([], 'version 3'), 'it changes nothing of version 3')
  t.match(changesText([{ site: '', field: 'price', before: 'as advertised', after: '1' }, { site: '', field: 'own.priority', before: '100', after: '1' }, { site: 'osaka', field: 'deny', before: 'no', after: 'yes' }], 'version 3'), /\(every other site\) +price +as advertised +1\n\(own requests\) +own.priority[^]*osaka +deny +no +yes/)
  t.end()
})
