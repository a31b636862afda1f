import { readFileSync, writeFileSync } from 'node:fs'
import t, { type Test } from 'tap'
import { segmentPlans } from '../../../agent/api/view/segments.ts'
import { checkKnown, ipv6Of } from '../../../agent/drivers/network/broadcast/entries.ts'
import { planSegment } from '../../../agent/drivers/network/plan.ts'
import { renderPlan } from '../../../agent/drivers/network/render.ts'
import type { SegmentSpec } from '../../../protocol/core/desired.ts'
import type { ClusterDocument, MemberSite } from '../../../protocol/core/messages.ts'

const VNI = 0xabc
const gatewayFacts = (n: number): MemberSite['gateway'] =>
  ({ host: `s${n}-1`, peer: `peer${n}`, underlayAddress: `192.0.2.${n}1`, tunnelPublicKey: `key${n}`, tunnelEndpoint: `192.0.2.${n}1:51820`, tunnelAddress: `100.64.0.${n}/32`, chain: [] })

/** A cluster over so many sites: at each a gateway, and a compute host with one node; at the first the gateway has a node too. */
function documentOf (sites: number): ClusterDocument {
  const all = Array.from({ length: sites }, (_, i) => i + 1)
  const node = (index: number, site: number, host: number) => ({
    name: `demo-s${site}-${index}`, site: `s${site}`, host: `s${site}-${host}`, ip: `10.42.${site}.${index}`, mac: `52:54:0a:bc:0${site}:0${index}`, uuid: '', vcpus: 1, memoryMib: 512, leaseId: '', index
  })
  return {
    id: '01234567-0000-4000-8000-000000000000', name: 'demo', epoch: 1, vni: VNI, cidr: '10.42.0.0/16', domain: 'demo.internal', masterSite: 's1', masterPeer: 'peer1', createdMs: 1, endMs: 2,
    frontend: { name: 'demo-fe', site: 's1', host: 's1-1', ip: '10.42.0.1', mac: '52:54:0a:bc:00:01', mode: 'builtin', leaseId: '' },
    sites: all.map((n) => ({
      site: `s${n}`, segmentId: 1000 + n, gateway: gatewayFacts(n), gatewayAddress: `10.42.255.${n}`, gatewayMac: `52:54:0a:bc:ff:0${n}`, cache: n > 1, leaseId: '',
      hosts: [1, 2, 3].map((h) => ({ host: `s${n}-${h}`, peer: '', underlayAddress: `192.0.2.${n}${h}`, gateway: h === 1 }))
    })),
    nodes: [node(1, 1, 1), ...all.map((n) => node(n + 1, n, 2))],
    volumes: [], imageDigest: '', antiSpoofOff: false, sshPublicKey: '', version: 1, startMs: 1
  }
}

/** Compares with a text that lies beside the test; `UPDATE=1` writes it anew, to be looked at before it is kept. */
function same (t: Test, name: string, text: string): void {
  const path = new URL(`../../fixtures/segment-plans/${name}.txt`, import.meta.url)
  if (process.env.UPDATE === '1') writeFileSync(path, text)
  t.equal(text, readFileSync(path, 'utf8'), name)
}

const OWN = { site: 's1' }
const planOf = (sites: number, host: string): string => segmentPlans([documentOf(sites)], OWN, 'demo', host).hosts[0]?.plan ?? ''

const members: NonNullable<SegmentSpec['known']>['members'] = [
  { role: 'frontend', mac: '52:54:0a:bc:00:01', address: '10.42.0.1', where: 'host' },
  { role: 'gateway', mac: '52:54:0a:bc:ff:01', address: '10.42.255.1', where: 'host' },
  { role: 'node', mac: '52:54:0a:bc:01:01', address: '10.42.1.1', where: 'host', tap: 'mzt000abc01' }
]
t.test('whole states of hosts', (t) => {
  same(t, 'compute-host', planOf(2, 's1-2'))
  same(t, 'compute-host-away-from-the-frontend', planOf(2, 's2-2'))
  same(t, 'gateway-of-the-only-site', planOf(1, 's1-1'))
  same(t, 'gateway-with-nodes-and-frontend', planOf(2, 's1-1'))
  same(t, 'gateway-away-from-the-frontend', planOf(2, 's2-1'))
  same(t, 'gateway-of-three-sites', planOf(3, 's3-1'))
  const ofVlan = (host: string): string => segmentPlans([documentOf(2)], { site: 's1', trunk: 'eth1' }, 'demo', host).hosts[0]?.plan ?? ''
  same(t, 'compute-host-with-vlan', ofVlan('s1-2'))
  same(t, 'gateway-with-vlan', ofVlan('s1-1'))
  t.equal(ofVlan('s2-2'), planOf(2, 's2-2'), 'what other sites do inside is not known here')
  const local = { ...documentOf(2), localCidr: '10.43.0.0/16' }
  local.sites = local.sites.map((site, i) => ({ ...site, localSegmentId: 2001 + i, localLeaseId: `l${i}` }))
  local.nodes = local.nodes.map((node) => ({ ...node, localMac: node.mac.replace('52:54', '52:55'), localIp: node.ip.replace('10.42', '10.43') }))
  const ofSite = (host: string, own = OWN): string => segmentPlans([local], own, 'demo', host).hosts[0]?.plan ?? ''
  const rest = (host: string, own = OWN): string => ofSite(host, own).replace(segmentPlans([documentOf(2)], own, 'demo', host).hosts[0]?.plan ?? 'nothing', '')
  same(t, 'compute-host-of-site-local-segment', rest('s1-2'))
  same(t, 'gateway-of-site-local-segment', rest('s1-1'))
  same(t, 'vlan-of-site-local-segment', rest('s1-2', { site: 's1', trunk: 'eth1' } as typeof OWN))
  t.equal(ofSite('s2-1'), planOf(2, 's2-1'), 'a gateway without nodes has none of it')
  for (const host of ['s1-1', 's1-2']) t.notMatch(rest(host).replace('udp dport 4789-4790 udp dport . @th,96,24 vmap @ways', 'the chain that all segments of a host share'), /namespace mz|wan0|4789|100\.64\.|192\.0\.2\.2|52:54|10\.42/, `${host}: no way out of the site, nothing of the other segment`)
  const external = { ...documentOf(2), frontend: { ...documentOf(2).frontend, mode: 'external' as const } }
  const learning = (host: string): string => segmentPlans([external], OWN, 'demo', host).hosts[0]?.plan ?? ''
  same(t, 'compute-host-of-a-frontend-of-its-own', learning('s1-2'))
  same(t, 'gateway-with-nodes-of-a-frontend-of-its-own', learning('s1-1'))
  same(t, 'gateway-away-from-a-frontend-of-its-own', learning('s2-1'))
  const unknown = specOf()
  delete unknown.known
  same(t, 'gateway-of-unknown-members', renderPlan(planSegment('c', unknown, 1500)))
  const away = members.map((one) => one.role === 'node' ? one : { ...one, where: 'site' as const, via: '192.0.2.2' })
  const guests: SegmentSpec = { ...specOf(), site: { segmentId: 1, localAddress: '192.0.2.1', remoteAddresses: ['192.0.2.2'] }, known: { antiSpoof: false, members: away } }
  delete guests.gateway
  same(t, 'host-with-guests-and-without-ipv6', renderPlan(planSegment('c', guests, 9000, false)))
  t.end()
})

function specOf (): SegmentSpec {
  return {
    cluster: 'c', vni: VNI, site: { segmentId: 7, localAddress: '192.0.2.1', remoteAddresses: [] }, compute: true,
    gateway: { address: '10.42.255.1/16', bridgeMac: '52:54:0a:bc:ff:01', tunnel: { localAddress: '100.64.0.1', remoteAddresses: ['100.64.0.2'] } },
    known: { antiSpoof: true, members }
  }
}

t.test('a plan is made of a document and of nothing else', (t) => {
  const [first, second] = [documentOf(2), { ...documentOf(3), id: 'other', createdMs: 5 }]
  t.strictSame(segmentPlans([first], OWN, 'demo').hosts.map(({ host, gateway }) => [host, gateway]), [['s1-1', true], ['s1-2', false], ['s2-1', true], ['s2-2', false]], 'a host without nodes has none of it')
  t.equal(segmentPlans([first, second], OWN, 'demo').hosts.length, 6, 'of two with one name the later')
  t.equal(segmentPlans([first, second], OWN, first.id).hosts.length, 4)
  t.strictSame(segmentPlans([first], OWN, 'demo', 's1-2'), segmentPlans([structuredClone(first)], OWN, 'demo', 's1-2'))
  t.throws(() => segmentPlans([first], OWN, 'nobody'), { code: 'NOT_FOUND', message: /nobody/ })
  t.throws(() => segmentPlans([first], OWN, 'demo', 's1-3'), { code: 'NOT_FOUND', message: /s1-3 carries nothing/ })
  t.end()
})

t.test('members that cannot be are refused', (t) => {
  const bad = (what: RegExp, change: Partial<(typeof members)[number]>, of = 2): void => {
    const changed = members.map((one, i) => i === of ? { ...one, ...change } : one)
    t.throws(() => { checkKnown({ ...specOf(), known: { antiSpoof: true, members: changed } }) }, { code: 'INVALID_INPUT', message: what })
  }
  bad(/no MAC/, { mac: '01:00:5e:00:00:01' })
  bad(/no MAC/, { mac: '52:54:0A:bc:00:09' })
  bad(/no MAC/, { mac: '52:54:0a:bc:00:09 drop' })
  bad(/no IPv4/, { address: '10.42.1.1/16' })
  bad(/two members have the MAC/, { mac: members[0]?.mac ?? '' })
  bad(/two members have the address/, { address: '10.42.0.1' })
  bad(/no tap/, { tap: 'mzt000abd01' })
  bad(/no tap/, { tap: 'eth0' })
  bad(/has a tap/, { role: 'gateway' })
  bad(/no member's host/, { where: 'remote', via: '100.64.0.9' }, 0)
  bad(/there is a way/, { where: 'remote' }, 0)
  bad(/two frontends/, { role: 'frontend' })
  bad(/no IPv4/, { role: 'gateway', address: null }, 1)
  const mixed = [...members, { role: 'node' as const, mac: '52:54:0a:bc:00:0a', address: null, where: 'remote' as const, via: '100.64.0.2' }]
  t.throws(() => { checkKnown({ ...specOf(), known: { antiSpoof: true, members: mixed } }) }, { code: 'INVALID_INPUT', message: /some nodes are known, and those of others not/ })
  const nobodyGives = members.filter(({ role }) => role === 'node').map((one) => ({ ...one, address: null }))
  t.throws(() => { checkKnown({ ...specOf(), known: { antiSpoof: true, members: nobodyGives } }) }, { code: 'INVALID_INPUT', message: /no frontend that gives/ })
  t.throws(() => { checkKnown({ ...specOf(), known: { antiSpoof: true, members: Array.from({ length: 300 }, () => members).flat().slice(0, 300) } }) }, { message: /300 members/ })
  t.end()
})

t.test('IPv6 addresses follow from MAC and VNI', (t) => {
  t.strictSame(ipv6Of(0xabcdef, '52:54:00:12:34:56'), ['fe80::5054:ff:fe12:3456', 'fd6d:7aab:cdef:0:5054:ff:fe12:3456'])
  t.strictSame(ipv6Of(1, '02:00:00:00:00:01'), ['fe80::ff:fe00:1', 'fd6d:7a00:1:0:0:ff:fe00:1'].map((one) => one.replace('1:0:0:ff', '1::ff')))
  t.end()
})
