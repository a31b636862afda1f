/** One fault at a time, as data: which finding it gives, where, at which address, port and size, and that nothing else is told. */
import t, { type Test } from 'tap'
import type { AnswerFact, Echo, LinkFact, PeerFact, ReachFact, SegmentFacts, TunnelFact } from '../../../agent/diagnose/facts.ts'
import { judge } from '../../../agent/diagnose/judge.ts'
import { documentWith, memberCalled } from '../../../agent/diagnose/members.ts'
import type { ClusterDocument } from '../../../protocol/core/messages.ts'

const NOW = 1_800_000_000
const NS = 'mz-000101'
const good = (bytes = 84): Echo => ({ sent: 3, received: 3, bytes, rttMs: { min: 1, avg: 1, max: 1 }, toldMtu: null, why: '' })
const none = (why = ''): Echo => ({ ...good(), received: 0, rttMs: null, why })
const link = (space: string | null, name: string, kind: string, master: string | null = null): LinkFact => {
  const vxlan = kind !== 'vxlan' ? null : { id: 7, local: '10.77.0.1', port: 4790 }
  return { space, name, role: kind, want: { kind, mtu: 1500, master, address: null, vxlan }, have: { kind, up: true, mtu: 1500, master, addresses: [], vxlan } }
}
const reach = (of: Partial<ReachFact> = {}): ReachFact => ({ what: 'site-host', address: '10.77.0.2', port: 4790, site: null, echo: good(), udp: 'silent', largestBytes: 1500, wantBytes: 1500, ...of })
const endpoint = (of: Partial<ReachFact> = {}): ReachFact => reach({ what: 'endpoint', address: '10.77.0.3', port: 51820, site: 'osaka', largestBytes: 1484, wantBytes: 1484, ...of })
const peer = (of: Partial<PeerFact> = {}): PeerFact => ({
  site: 'osaka', address: '100.64.0.3', wantEndpoint: '10.77.0.3:51820', endpoint: '10.77.0.3:51820', present: true, routed: true, latestHandshake: NOW - 30, rxBytes: 1, txBytes: 1, echo: good(), largestBytes: 1420, ...of
})
const tunnel = (of: Partial<TunnelFact> = {}): TunnelFact => ({
  interface: 'mzwg0', have: { up: true, mtu: 1420, addresses: ['100.64.0.1/32'], mode: 'userspace' }, wantMtu: 1420, wantAddress: '100.64.0.1', wantPort: 51820, listenPort: 51820, peers: [peer()], ...of
})
const answer = (of: Partial<AnswerFact> = {}): AnswerFact => ({ kind: 'node', name: 'n2', site: 'tokyo', host: 'a2', underlayAddress: '10.77.0.2', address: '10.42.1.2', echo: good(1500), largestBytes: 1500, ...of })
const far = (of: Partial<AnswerFact> = {}): AnswerFact => answer({ kind: 'gateway', name: 'b1', site: 'osaka', host: 'b1', underlayAddress: '10.77.0.3', address: '10.42.255.2', ...of })
const farNode = (of: Partial<AnswerFact> = {}): AnswerFact => answer({ name: 'n3', site: 'osaka', host: 'b1', underlayAddress: '10.77.0.3', address: '10.42.2.1', ...of })

const forwarding = (of: Partial<NonNullable<SegmentFacts['forwarding']>> = {}): SegmentFacts['forwarding'] => ({ space: NS, port: 'wan0m', open: true, unit: 'musubi-svc-mz-forward', keeper: true, leftMs: 3_600_000, ...of })
const facts = (of: Partial<SegmentFacts> = {}): SegmentFacts => ({
  name: '01234567.segment', cluster: 'c1', vni: 0x101, nowSeconds: NOW, site: { segmentId: 7, port: 4790, localAddress: '10.77.0.1', remoteAddresses: ['10.77.0.2'] },
  trunk: null, underlay: { link: 'eth0', up: true, mtu: 1500 }, namespace: { name: NS, state: 'ok' },
  links: [link(null, 'mzb000101', 'bridge'), link(NS, 'br0', 'bridge'), link(NS, 'site0', 'vxlan'), link(NS, 'site0m', 'macvlan', 'br0'), link(NS, 'wan0', 'vxlan'), link(NS, 'wan0m', 'macvlan', 'br0')],
  floods: [], chains: [{ space: null, table: 'inet mz_guard', name: 'guard_000101', state: 'ok' }], forwarding: forwarding(), drops: [], idUsers: [], tunnel: tunnel(), reach: [reach(), endpoint()], bridge: null, ...of
})
const changed = (name: string, have: Partial<NonNullable<LinkFact['have']>> | null): LinkFact[] =>
  facts().links.map(one => one.name !== name || one.have === null ? one : { ...one, have: have === null ? null : { ...one.have, ...have } })
const all = [far(), answer(), farNode()]
const silentOsaka = [far({ echo: none(), largestBytes: null }), answer(), farNode({ echo: none(), largestBytes: null })]
const deadPeer = (of: Partial<PeerFact> = {}): TunnelFact => tunnel({ peers: [peer({ echo: none(), largestBytes: null, ...of })] })

/** By VLAN inside the site: the same gateway without a VXLAN there. */
const trunk = (of: Partial<NonNullable<SegmentFacts['trunk']>> = {}): Partial<SegmentFacts> => {
  const vlan = { id: 7, nic: 'eth1' }
  const port = link(NS, 'site0m', 'vlan', 'br0')
  const links = facts().links.filter(({ name }) => name !== 'site0').map(one => one.name === 'site0m' ? { ...port, want: { ...port.want, vlan }, have: port.have === null ? null : { ...port.have, vlan } } : one)
  return { trunk: { nic: 'eth1', carrier: true, mtu: 1500, problem: null, ...of }, links, reach: [endpoint()] }
}
const anotherVlan = (): Partial<SegmentFacts> => {
  const of = trunk()
  return { ...of, links: of.links?.map(one => one.have?.vlan === undefined ? one : { ...one, have: { ...one.have, vlan: { id: 8, nic: 'eth1' } } }) ?? [] }
}
const noLink = (code: string, message: string): Partial<SegmentFacts> => {
  const of = trunk({ carrier: false, problem: { code, message, hint: 'ip link show eth1' } })
  return { ...of, links: of.links?.map(one => one.want.vlan === undefined ? one : { ...one, have: null }) ?? [] }
}

interface Case { fault: string, facts: Partial<SegmentFacts>, answers?: AnswerFact[], skews?: Array<{ site: string, ms: number }>, findings: Array<Record<string, unknown>> }
const CASES: Case[] = [
  { fault: 'none', facts: {}, findings: [] },
  { fault: 'no link has the underlay address', facts: { underlay: null }, findings: [{ code: 'underlay-address', address: '10.77.0.1' }] },
  { fault: 'underlay link down', facts: { underlay: { link: 'eth0', up: false, mtu: 1500 }, tunnel: deadPeer(), reach: [reach({ echo: none(), largestBytes: null })] }, answers: silentOsaka, findings: [{ code: 'underlay-down', interface: 'eth0', address: '10.77.0.1' }] },
  { fault: 'underlay MTU below 1280', facts: { underlay: { link: 'eth0', up: true, mtu: 1200 } }, findings: [{ code: 'underlay-mtu', interface: 'eth0', bytes: 1200 }] },
  { fault: 'namespace gone, its links with it', facts: { namespace: { name: NS, state: 'missing' }, links: facts().links.map(one => one.space === null ? one : { ...one, have: null }) }, answers: [], findings: [{ code: 'namespace', interface: NS }] },
  { fault: 'link missing', facts: { links: changed('br0', null) }, answers: silentOsaka, findings: [{ code: 'link-missing', interface: `br0 in namespace ${NS}` }] },
  { fault: 'VXLAN missing, its port with it', facts: { links: changed('site0', null).map(one => one.name === 'site0m' ? { ...one, have: null } : one) }, findings: [{ code: 'link-missing', interface: `site0 in namespace ${NS}` }] },
  { fault: 'link down', facts: { links: changed('wan0m', { up: false }) }, answers: silentOsaka, findings: [{ code: 'link-down', interface: `wan0m in namespace ${NS}` }] },
  { fault: 'port at no bridge', facts: { links: changed('site0m', { master: null }) }, findings: [{ code: 'link-loose', what: /at no bridge, not at br0/ }] },
  { fault: 'VXLAN with another id', facts: { links: changed('site0', { vxlan: { id: 8, local: '10.77.0.1', port: 4790 } }) }, findings: [{ code: 'link-wrong', port: 4790, what: /id 8 .*id 7/ }] },
  { fault: 'MTU of a port lowered, the bridge follows', facts: { links: changed('wan0m', { mtu: 1400 }).map(one => one.name === 'br0' && one.have !== null ? { ...one, have: { ...one.have, mtu: 1400 } } : one) }, answers: all.map(one => ({ ...one, largestBytes: 1400 })), findings: [{ code: 'mtu-lowered', interface: `wan0m in namespace ${NS}`, bytes: 1400 }] },
  { fault: 'forwarding entry missing in the site', facts: { floods: [{ space: NS, link: 'site0', missing: ['10.77.0.2'] }] }, answers: [far(), answer({ echo: none(), largestBytes: null })], findings: [{ code: 'fdb-missing', address: '10.77.0.2', port: 4790 }] },
  { fault: 'forwarding entry missing to the other site', facts: { floods: [{ space: NS, link: 'wan0', missing: ['100.64.0.3'] }] }, answers: [far({ echo: none(), largestBytes: null })], findings: [{ code: 'fdb-missing', address: '100.64.0.3', port: 4789 }] },
  { fault: 'guard missing', facts: { chains: [{ space: null, table: 'inet mz_guard', name: 'guard_000101', state: 'missing' }] }, findings: [{ code: 'chain', what: /anybody on the underlay can write/ }] },
  { fault: 'guard changed', facts: { chains: [{ space: null, table: 'inet mz_guard', name: 'guard_000101', state: 'changed' }] }, findings: [{ code: 'chain', what: /10\.77\.0\.2, 100\.64\.0\.3/ }] },
  { fault: 'keeper of the forwarding lease killed, and it has run out', facts: { forwarding: forwarding({ open: false, keeper: false }) }, findings: [{ code: 'forward-lapsed', severity: 'fault', where: 'forwarding lease', interface: `wan0m in namespace ${NS}`, what: /musubi-svc-mz-forward, which renews it, does not run .* no frame passes/, try: /^systemctl status musubi-svc-mz-forward/ }] },
  { fault: 'keeper of the forwarding lease killed just now', facts: { forwarding: forwarding({ keeper: false }) }, findings: [{ code: 'forward-ending', severity: 'warning', what: /some seconds more/ }] },
  { fault: 'keeper runs and does nothing', facts: { forwarding: forwarding({ open: false }) }, findings: [{ code: 'forward-lapsed', what: /runs and has not renewed it/, try: /systemctl restart musubi-svc-mz-forward/ }] },
  { fault: 'term of the forwarding lease over', facts: { forwarding: forwarding({ open: false, leftMs: -61_000 }) }, findings: [{ code: 'forward-lapsed', what: /its term ended 61 s ago/, try: /musubi lease list/ }] },
  { fault: 'nobody learns addresses', facts: { snoop: { unit: 'musubi-svc-mz-snoop', keeper: false, nodes: 2, learned: 2 } }, findings: [{ code: 'snoop-stopped', severity: 'fault', where: 'addresses by DHCP', what: /musubi-svc-mz-snoop, which learns .* no answer/, try: /^systemctl status musubi-svc-mz-snoop/ }] },
  { fault: 'a node without a lease', facts: { snoop: { unit: 'musubi-svc-mz-snoop', keeper: true, nodes: 2, learned: 1 } }, findings: [{ code: 'no-lease', severity: 'warning', what: /^1 of the 2 nodes/ }] },
  { fault: 'no forwarding lease promised', facts: { forwarding: forwarding({ open: false, leftMs: null }) }, findings: [{ code: 'forward-lapsed', what: /promised no term/ }] },
  { fault: 'the id of a VLAN is that of a VXLAN, which is none', facts: { ...trunk(), idUsers: [{ space: null, link: 'foreign', id: 7, port: 4790 }] }, findings: [] },
  { fault: 'in-site id in use', facts: { idUsers: [{ space: null, link: 'foreign', id: 7, port: 4790 }] }, findings: [{ code: 'id-in-use', interface: 'foreign', port: 4790 }] },
  { fault: 'own filter drops', facts: { drops: [{ chain: 'inet filter input', handle: 7, hook: 'input', port: 4790, rule: 'udp dport 4790 drop' }] }, answers: [far(), answer({ echo: none(), largestBytes: null })], findings: [{ code: 'udp-dropped-here', interface: 'inet filter input', port: 4790, try: /handle 7/ }] },
  { fault: 'own filter drops the tunnel', facts: { tunnel: deadPeer(), drops: [{ chain: 'inet filter input', handle: null, hook: 'input', port: 51820, rule: 'policy drop' }] }, answers: silentOsaka, findings: [{ code: 'udp-dropped-here', where: 'tunnel', port: 51820, try: /udp dport 51820 accept/ }] },
  { fault: 'a host of the site silent', facts: { reach: [reach({ echo: none('Destination Host Unreachable'), largestBytes: null }), endpoint()] }, answers: [far(), answer({ echo: none(), largestBytes: null })], findings: [{ code: 'underlay-silent', address: '10.77.0.2', what: /Destination Host Unreachable/ }] },
  { fault: 'a host of the site without VXLAN', facts: { reach: [reach({ udp: 'refused' }), endpoint()] }, findings: [{ code: 'udp-refused', address: '10.77.0.2', port: 4790 }] },
  { fault: 'black hole in the site', facts: { reach: [reach({ largestBytes: 1400 }), endpoint()] }, answers: [far(), answer({ largestBytes: 1350 })], findings: [{ code: 'black-hole', address: '10.77.0.2', port: 4790, bytes: 1400, what: /black hole/ }] },
  { fault: 'UDP of the site dropped on the way', facts: {}, answers: [far(), answer({ echo: none(), largestBytes: null })], findings: [{ code: 'in-site-silent', severity: 'fault', address: '10.77.0.2', port: 4790 }] },
  { fault: 'one node of a host down', facts: {}, answers: [far(), answer(), answer({ name: 'n4', address: '10.42.1.4', echo: none(), largestBytes: null })], findings: [{ code: 'node-silent', severity: 'warning', what: /n4 \(10\.42\.1\.4\)/ }] },
  { fault: 'tunnel gone', facts: { tunnel: tunnel({ have: null, listenPort: null, peers: [peer({ present: false, echo: none() })] }) }, answers: silentOsaka, findings: [{ code: 'tunnel-missing', interface: 'mzwg0', port: 51820 }] },
  { fault: 'wireguard-go hangs', facts: { tunnel: tunnel({ listenPort: null, peers: [peer({ present: false, echo: none() })] }) }, answers: silentOsaka, findings: [{ code: 'tunnel-dead', what: /wireguard-go hangs/ }] },
  { fault: 'tunnel down', facts: { tunnel: tunnel({ have: { up: false, mtu: 1420, addresses: [], mode: 'kernel' } }) }, answers: silentOsaka, findings: [{ code: 'tunnel-down' }] },
  { fault: 'another port', facts: { tunnel: tunnel({ listenPort: 4711 }) }, findings: [{ code: 'tunnel-port', port: 4711 }] },
  { fault: 'tunnel MTU', facts: { tunnel: tunnel({ have: { up: true, mtu: 1280, addresses: ['100.64.0.1/32'], mode: 'kernel' } }) }, findings: [{ code: 'mtu-lowered', interface: 'mzwg0', bytes: 1280 }] },
  { fault: 'peer unknown', facts: { tunnel: deadPeer({ present: false }) }, answers: silentOsaka, findings: [{ code: 'peer-missing', site: 'osaka' }] },
  { fault: 'route missing', facts: { tunnel: deadPeer({ routed: false }) }, answers: silentOsaka, findings: [{ code: 'route-missing', address: '100.64.0.3' }] },
  { fault: 'clock set back after a handshake', facts: { tunnel: deadPeer({ latestHandshake: NOW + 3_600 }) }, answers: silentOsaka, findings: [{ code: 'clock', site: 'osaka', what: /60 min in the future/ }] },
  { fault: 'clocks apart, never a handshake', facts: { tunnel: deadPeer({ latestHandshake: 0 }) }, skews: [{ site: 'osaka', ms: 90_000 }], answers: silentOsaka, findings: [{ code: 'clock', what: /90 s apart/ }] },
  { fault: 'endpoint changed', facts: { tunnel: deadPeer({ endpoint: '10.77.0.99:51820' }) }, answers: silentOsaka, findings: [{ code: 'endpoint-wrong', address: '10.77.0.99:51820' }] },
  { fault: 'endpoint unreachable', facts: { tunnel: deadPeer({ latestHandshake: 0 }), reach: [reach(), endpoint({ echo: none(), largestBytes: null })] }, answers: silentOsaka, findings: [{ code: 'endpoint-unreachable', address: '10.77.0.3', port: 51820, what: /never was a handshake/ }] },
  { fault: 'nobody at the endpoint', facts: { tunnel: deadPeer(), reach: [reach(), endpoint({ udp: 'refused' })] }, answers: silentOsaka, findings: [{ code: 'udp-refused', address: '10.77.0.3', port: 51820 }] },
  { fault: 'own output filter', facts: { tunnel: deadPeer(), reach: [reach(), endpoint({ udp: 'blocked' })] }, answers: silentOsaka, findings: [{ code: 'udp-blocked-here', port: 51820 }] },
  { fault: 'UDP dropped', facts: { tunnel: deadPeer({ latestHandshake: NOW - 400 }) }, answers: silentOsaka, findings: [{ code: 'udp-dropped', address: '10.77.0.3', port: 51820, what: /7 min ago/ }] },
  { fault: 'black hole under the tunnel', facts: { tunnel: tunnel({ peers: [peer({ largestBytes: 1240 })] }), reach: [reach(), endpoint({ largestBytes: 1300 })] }, answers: [far({ largestBytes: 1190 })], findings: [{ code: 'black-hole', address: '10.77.0.3', bytes: 1240, what: /1300 bytes pass, and 1480/ }] },
  { fault: 'far namespace gone', facts: {}, answers: silentOsaka, findings: [{ code: 'far-gateway-silent', site: 'osaka', address: '10.42.255.2', port: 4789 }] },
  { fault: 'far node down', facts: {}, answers: [far(), answer(), farNode({ echo: none(), largestBytes: null })], findings: [{ code: 'node-silent', where: 'far host', site: 'osaka' }] },
  { fault: 'less than full size to the far gateway', facts: {}, answers: [far({ largestBytes: 1370 })], findings: [{ code: 'segment-size', bytes: 1370 }] },
  { fault: 'none, by VLAN', facts: trunk(), findings: [] },
  { fault: 'the trunk NIC is gone, and the port with it', facts: noLink('TRUNK_MISSING', 'the trunk NIC eth1 is not here'), answers: [far(), answer({ echo: none(), largestBytes: null })], findings: [{ code: 'trunk-missing', where: 'in-site VLAN', interface: 'eth1', what: /eth1/, try: 'ip link show eth1' }] },
  { fault: 'no cable', facts: trunk({ carrier: false }), answers: [far(), answer({ echo: none(), largestBytes: null })], findings: [{ code: 'trunk-carrier', interface: 'eth1', what: /VLAN 7/ }] },
  { fault: 'the port has another VLAN', facts: anotherVlan(), findings: [{ code: 'link-wrong', what: /VLAN 8 on eth1, not VLAN 7 on eth1/ }] },
  { fault: 'the switch does not carry the VLAN', facts: trunk(), answers: [far(), answer({ echo: none(), largestBytes: null })], findings: [{ code: 'in-site-silent', where: 'in-site VLAN', interface: 'eth1', address: '10.77.0.2', what: /VLAN 7 between eth1/ }] },
  { fault: 'one node of a host down, by VLAN', facts: trunk(), answers: [far(), answer(), answer({ name: 'n4', address: '10.42.1.4', echo: none(), largestBytes: null })], findings: [{ code: 'node-silent', severity: 'warning', port: null }] },
  { fault: 'gateway silent to a host, by VLAN', facts: { ...trunk(), namespace: null, tunnel: null, links: [], reach: [], bridge: { link: 'mzb000101', address: '10.42.255.1', answered: false, mac: '', largestBytes: null } }, findings: [{ code: 'gateway-silent', port: null, what: /VLAN 7 between eth1/ }] },
  { fault: 'gateway silent to a host', facts: { namespace: null, tunnel: null, reach: [reach()], bridge: { link: 'mzb000101', address: '10.42.255.1', answered: false, mac: '', largestBytes: null } }, findings: [{ code: 'gateway-silent', interface: 'mzb000101', address: '10.42.255.1', port: 4790 }] },
  { fault: 'gateway answers small frames', facts: { namespace: null, tunnel: null, reach: [reach()], links: [], bridge: { link: 'mzb000101', address: '10.42.255.1', answered: true, mac: '02:00:00:00:00:01', largestBytes: 46 } }, findings: [{ code: 'segment-size', bytes: 46 }] }
]

for (const { fault, facts: of, answers = all, skews = [], findings } of CASES) {
  t.test(fault, (t: Test) => {
    const given = facts(of)
    const found = judge(given.namespace === null ? { ...given, links: given.links.filter(({ space }) => space === null) } : given, { answers: given.namespace === null ? [] : answers, skews })
    t.match(found, findings)
    t.equal(found.length, findings.length, found.map(({ code }) => code).join(', '))
    for (const { what, try: next } of found) t.ok(what.length > 20 && next.length > 10, 'says what and what to try')
    t.end()
  })
}

t.test('names are of nodes, gateways, sites, addresses; a cluster is found by both ends', t => {
  const gateway = (host: string): ClusterDocument['sites'][number]['gateway'] => ({ host, peer: '', underlayAddress: '10.77.0.1', tunnelPublicKey: '', tunnelEndpoint: '', tunnelAddress: '', chain: [] })
  const document = (name: string, node: string): ClusterDocument => ({
    id: `id-${name}`, name, epoch: 1, vni: 1, cidr: '', domain: '', masterSite: 'tokyo', masterPeer: '', createdMs: 0, endMs: 0, startMs: 0, version: 1, imageDigest: '', antiSpoofOff: false, sshPublicKey: '', volumes: [],
    frontend: { name: `${name}-frontend`, site: 'tokyo', host: 'a1', mac: '', ip: '10.42.0.1', mode: 'builtin', leaseId: '' },
    sites: ['tokyo', 'osaka'].map((site, i) => ({ site, segmentId: 1, gateway: gateway(`${site}-1`), hosts: [], gatewayAddress: `10.42.255.${i + 1}`, gatewayMac: '', cache: false, leaseId: '' })),
    nodes: [{ name: node, site: 'osaka', host: 'b1', mac: '', ip: '10.42.2.1', uuid: '', vcpus: 1, memoryMib: 1, leaseId: '', index: 1 }]
  })
  const [one, two] = [document('c1', 'c1-osaka-001'), document('c2', 'c2-osaka-001')]
  for (const name of ['osaka', 'osaka-1', '10.42.255.2']) t.match(memberCalled(one, name), { kind: 'gateway', address: '10.42.255.2' }, name)
  t.match(memberCalled(one, 'c1-osaka-001'), { kind: 'node', address: '10.42.2.1' })
  t.throws(() => memberCalled(one, 'kyoto'), { code: 'NOT_FOUND', hint: /at tokyo, osaka/ })
  t.equal(documentWith([one, two], ['tokyo', 'c2-osaka-001']), two)
  t.equal(documentWith([one, two], ['tokyo', 'osaka'], 'id-c1'), one)
  t.throws(() => documentWith([one, two], ['tokyo', 'osaka']), { code: 'INVALID_INPUT', hint: /--cluster c1 or c2/ })
  t.throws(() => documentWith([one, two], ['tokyo', 'kyoto']), { code: 'NOT_FOUND' })
  t.end()
})
