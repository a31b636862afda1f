/** The second segment of a site: what the spec asks for, what a document says of it, and what hosts make of that. */
import { createHash } from 'node:crypto'
import t from 'tap'
import { type DesiredObject, type DomainSpec, type FrontendSpec, hostBridgeName, type SegmentSpec, tapName } from '../../../protocol/core/desired.ts'
import { buildClusterDocument, missingReceipts } from '../../../protocol/core/document.ts'
import { type Lease, leasesOf } from '../../../protocol/core/lease/lease.ts'
import { emptyLedger } from '../../../protocol/core/lease/state.ts'
import { advance } from '../../../protocol/core/lease/step.ts'
import { isLocal, localVniOf, vnisOf } from '../../../protocol/core/network/local.ts'
import type { ClusterDocument, Offer } from '../../../protocol/core/messages.ts'
import type { HostCapacity } from '../../../protocol/core/placement/at-site.ts'
import { siteCapacityOf } from '../../../protocol/core/placement/site-capacity.ts'
import { desiredFor, localSegmentFor } from '../../../protocol/core/plan.ts'
import { parseClusterSpec } from '../../../protocol/core/spec.ts'
import { placeAmongSites } from '../../../protocol/core/placement/among-sites.ts'
import { checkAgainstLeases, documentProblem, type GatewayTruth, growthProblem, type HostTruth, offeredProblem, offerProblem } from '../../../protocol/core/verify/document.ts'
import { tunnelAddressFor } from '../../../agent/drivers/network/address.ts'
import { holdRequest, HOUR, item, offerFor, spec, withLocal } from '../../model/fixtures.ts'

const ID = '01234567-89ab-4cde-8f01-23456789abcd'
const OTHER = 'ffffffff-89ab-4cde-8f01-23456789abcd'
const VNI = 0x0a0b0c
const T0 = 1_800_000_000_000
const hash = (text: string): string => createHash('sha256').update(text).digest('hex')
const host = (name: string, roles: string[], vcpus: number): HostCapacity => ({ host: name, roles, free: { vcpus, memoryMib: vcpus * 1024, diskMib: 0, volumes: 0, bandwidthMbit: 0 } })
/** tokyo: nodes on two hosts, one of them the gateway; tsukuba: on two hosts besides the gateway. */
const SITES: Record<string, HostCapacity[]> = {
  tokyo: [host('tokyo-1', ['gateway', 'compute'], 3), host('tokyo-2', ['compute'], 1)],
  tsukuba: [host('tsukuba-1', ['gateway'], 0), host('tsukuba-2', ['compute'], 1), host('tsukuba-3', ['compute'], 1)]
}
const asked = (network: object): unknown => ({ apiVersion: 'musubi/v1', kind: 'Cluster', metadata: { name: 'demo' }, spec: { network, nodes: { count: 4 } } })
const demo = spec({ nodes: { count: 4, vcpus: 1, memoryMiB: 512 }, localCidr: '10.43.0.0/16' })

function offersOf (of = demo): Offer[] {
  const placed = placeAmongSites(of, Object.entries(SITES).map(([site, list]) => siteCapacityOf(site, list)), 'tokyo')
  if ('refusal' in placed) throw new Error(placed.refusal)
  return placed.parts.map(part => offerFor(part.site, part.site === 'tokyo' ? 0 : 1, part, SITES[part.site] ?? [])).map(offer => {
    const { gateway } = offer
    const real = { ...gateway, tunnelPublicKey: createHash('sha256').update(gateway.host).digest('base64'), tunnelAddress: tunnelAddressFor(gateway.peer) }
    return of.localCidr === undefined ? { ...offer, gateway: real } : withLocal({ ...offer, gateway: real })
  })
}
const OFFERS = offersOf()
const build = (of = demo, offers = OFFERS, id = ID, vni = VNI): ClusterDocument => buildClusterDocument({
  id, name: 'demo', spec: of, offers, masterSite: 'tokyo', masterPeer: 'peer-tokyo-1', vni, nowMs: T0, sshPublicKey: 'ssh-ed25519 AAAA', imageDigest: `sha256:${'0'.repeat(64)}`, hash
})
const selfOf = (name: string): { site: string, host: string } => ({ site: name.split('-')[0] ?? '', host: name })
const specsOf = (document: ClusterDocument, name: string, kind: string): object[] => desiredFor(document, selfOf(name), []).filter(one => one.kind === kind).map(one => one.spec)
const namesOf = (objects: readonly DesiredObject[]): string[] => objects.map(one => `${one.kind} ${one.name.replace('01234567.', '')}`)
/** As an earlier release has stored it: without any of the fields that came later. */
function ofOld (document: ClusterDocument): ClusterDocument {
  const old = structuredClone(document)
  delete old.localCidr
  for (const site of old.sites) { delete site.localSegmentId; delete site.localLeaseId }
  for (const node of old.nodes) { delete node.localMac; delete node.localIp }
  return old
}
/** As the wire gives a document without such segments. */
const sent = (document: ClusterDocument): ClusterDocument => ({
  ...structuredClone(document), localCidr: '', sites: document.sites.map(site => ({ ...site, localSegmentId: 0, localLeaseId: '' })), nodes: document.nodes.map(node => ({ ...node, localMac: '', localIp: '' }))
})

t.test('the spec asks for one, with a network of its own', t => {
  const cidrOf = (network: object): string | undefined => parseClusterSpec(asked(network)).localCidr
  t.equal(cidrOf({ local: true }), '10.43.0.0/16')
  t.equal(cidrOf({ local: { cidr: '172.20.0.0/16' } }), '172.20.0.0/16')
  for (const none of [{}, { local: false }]) t.notOk('localCidr' in parseClusterSpec(asked(none)), JSON.stringify(none))
  const refused = (network: object, why: RegExp): void => { t.throws(() => parseClusterSpec(asked(network)), { code: 'INVALID_INPUT', message: why }, JSON.stringify(network)) }
  refused({ local: 'yes' }, /^the cluster spec has a problem:\nspec\.network\.local: must be true, false or \{cidr: NETWORK\}, not "yes"$/)
  refused({ local: {} }, /spec\.network\.local/)
  refused({ local: { subnet: '10.43.0.0/16' } }, /spec\.network\.local/)
  refused({ local: { cidr: '10.43.0.0/24' } }, /spec\.network\.local\.cidr: "10\.43\.0\.0\/24" is too small/)
  refused({ local: { cidr: '8.8.0.0/16' } }, /spec\.network\.local\.cidr: .*private/)
  refused({ local: { cidr: '10.42.0.0/16' } }, /spec\.network\.local: its network 10\.42\.0\.0\/16 overlaps 10\.42\.0\.0\/16 of spec\.network\.cidr/)
  refused({ cidr: '10.0.0.0/8', local: true }, /spec\.network\.local: its network 10\.43\.0\.0\/16 overlaps 10\.0\.0\.0\/8.*local: \{cidr:/)
  t.end()
})

t.test('it has a VNI, an id at each site, MACs and addresses of its own', t => {
  const document = build()
  t.strictSame(document.nodes.map(n => [n.name, n.ip, n.mac, n.localIp, n.localMac]), [
    ['demo-tokyo-001', '10.42.1.1', '52:54:0b:0c:01:01', '10.43.1.1', '52:55:0b:0c:01:01'], ['demo-tokyo-002', '10.42.1.2', '52:54:0b:0c:01:02', '10.43.1.2', '52:55:0b:0c:01:02'],
    ['demo-tokyo-003', '10.42.1.3', '52:54:0b:0c:01:03', '10.43.1.3', '52:55:0b:0c:01:03'], ['demo-tsukuba-004', '10.42.2.4', '52:54:0b:0c:02:04', '10.43.2.4', '52:55:0b:0c:02:04']
  ])
  t.strictSame(document.sites.map(s => [s.site, s.segmentId, s.localSegmentId, s.leaseId, s.localLeaseId]), [
    ['tokyo', 1000, 2000, 'lease-tokyo-segment', 'lease-tokyo-local'], ['tsukuba', 1001, 2001, 'lease-tsukuba-segment', 'lease-tsukuba-local']
  ])
  for (const vni of [1, VNI, 0x7fffff, 0x800000, 0xffffff]) {
    t.ok(localVniOf(vni) >= 1 && localVniOf(vni) <= 0xffffff && localVniOf(vni) !== vni, `${vni} and ${localVniOf(vni)}`)
  }
  t.strictSame([vnisOf(document), vnisOf(ofOld(document))], [[VNI, 0x8a0b0c], [VNI]])
  const receipts = OFFERS.flatMap(offer => offer.held).map(held => ({ leaseId: held.leaseId, host: held.host, token: 1 }))
  t.strictSame(missingReceipts(document, receipts), [])
  t.strictSame(missingReceipts(document, receipts.filter(one => one.leaseId !== 'lease-tsukuba-local')), ['the site-local segment at tsukuba'], 'no node starts without it')
  t.end()
})

t.test('hosts with nodes carry it, among themselves, and nobody else', t => {
  const document = build()
  t.strictSame(namesOf(desiredFor(document, selfOf('tokyo-1'), [])), ['tunnel wg', 'segment segment', 'segment local', 'frontend frontend', 'domain demo-tokyo-001', 'domain demo-tokyo-002'])
  t.strictSame(namesOf(desiredFor(document, selfOf('tokyo-2'), [])), ['segment segment', 'segment local', 'domain demo-tokyo-003'])
  t.strictSame(namesOf(desiredFor(document, selfOf('tsukuba-1'), [])), ['tunnel wg', 'segment segment', 'cache cache'], 'a gateway without nodes has no port to it at all')
  const local = (name: string, of = document): SegmentSpec | null => localSegmentFor(of, selfOf(name))
  t.strictSame(local('tokyo-2'), {
    cluster: 'demo', vni: 0x8a0b0c, site: { segmentId: 2000, localAddress: '192.0.2.2', remoteAddresses: ['192.0.2.1'] }, compute: true,
    known: { antiSpoof: true, members: [
      { role: 'node', mac: '52:55:0b:0c:01:01', address: '10.43.1.1', where: 'site', via: '192.0.2.1' }, { role: 'node', mac: '52:55:0b:0c:01:02', address: '10.43.1.2', where: 'site', via: '192.0.2.1' },
      { role: 'node', mac: '52:55:0b:0c:01:03', address: '10.43.1.3', where: 'host', tap: tapName(0x8a0b0c, 3) }
    ] }
  })
  t.match(local('tokyo-1'), { site: { localAddress: '192.0.2.1', remoteAddresses: ['192.0.2.2'] } })
  t.notOk('gateway' in (local('tokyo-1') ?? {}), 'the gateway is a host like others, without namespace or tunnel')
  t.match(local('tsukuba-2'), { site: { segmentId: 2001, remoteAddresses: [] }, known: { members: [{ address: '10.43.2.4' }] } }, 'the only host of its site that has a node')
  t.strictSame([local('tsukuba-1'), local('tsukuba-3'), local('elsewhere-1'), local('tokyo-2', ofOld(document))], [null, null, null, null])
  t.match(localSegmentFor(document, { ...selfOf('tokyo-2'), trunk: 'eth1' }), { site: { trunk: 'eth1' } })
  t.match(local('tokyo-2', build({ ...demo, antiSpoof: false })), { known: { antiSpoof: false } })
  t.match(specsOf(document, 'tokyo-2', 'domain'), [{ mac: '52:54:0b:0c:01:03', local: { mac: '52:55:0b:0c:01:03', bridge: hostBridgeName(0x8a0b0c), tap: tapName(0x8a0b0c, 3) } }])
  t.strictSame((specsOf(document, 'tokyo-1', 'frontend') as FrontendSpec[])[0]?.nodes.at(-1), { name: 'demo-tsukuba-004', mac: '52:54:0b:0c:02:04', ip: '10.42.2.4', site: 'tsukuba', local: { mac: '52:55:0b:0c:02:04', address: '10.43.2.4/16' } })
  const alone = { ...demo, nodes: { ...demo.nodes, count: 3 } }
  const single = build(alone, offersOf(alone))
  t.match([single.sites.length, local('tokyo-1', single)], [1, { known: { members: [{}, {}, {}] } }], 'a cluster at one site has it as well')
  t.end()
})

t.test('a document without it, as earlier releases write them, means none, and nothing of it changes', t => {
  const plain = { ...demo }
  delete plain.localCidr
  const document = build(plain, offersOf(plain))
  t.strictSame(ofOld(document), document, 'nothing of it is written down')
  for (const name of ['tokyo-1', 'tokyo-2', 'tsukuba-2']) t.strictSame(desiredFor(sent(document), selfOf(name), []), desiredFor(document, selfOf(name), []), name)
  t.notOk((specsOf(document, 'tokyo-2', 'domain') as DomainSpec[]).some(domain => 'local' in domain), 'specs are what they were: no node is started anew by an upgrade')
  const truth: GatewayTruth = { isGatewayOf: () => true, tunnelAddressFor }
  t.strictSame([documentProblem(sent(document), truth), documentProblem(document, truth)], [null, null])
  t.equal(growthProblem(document, { ...sent(document), version: 2 }), null, 'stored and sent are the same')
  t.equal(growthProblem(sent(document), { ...document, version: 2 }), null)
  t.end()
})

const gatewayTruth: GatewayTruth = { isGatewayOf: (peer, site, name) => peer === `peer-${name}` && name === `${site}-1`, tunnelAddressFor }
function leases (name: string, id = ID, offers = OFFERS): Lease[] {
  const state = emptyLedger(name, { vcpus: 100, memoryMib: 100_000, diskMib: 1000, volumes: 8, bandwidthMbit: 1000 }, { from: 1, to: 9999 })
  const offer = offers.find(one => one.site === name.split('-')[0])
  const idOf = (held: Offer['held'][number]): number => (isLocal(held) ? offer?.localSegmentId : held.kind === 'segment' ? offer?.segmentId : 0) ?? 0
  const items = (offer?.held ?? []).filter(held => held.host === name).map(held => item(held.leaseId, { kind: held.kind, name: held.name, resources: held.resources, segmentId: idOf(held) }))
  const { result } = advance(state, { type: 'hold', requester: 'peer-tokyo-1', request: holdRequest({ clusterId: id, startMs: T0, endMs: T0 + HOUR, items }) }, T0)
  if (!result.ok) throw result.error
  return leasesOf(state, id)
}
const addresses = new Map(build().sites.flatMap(site => site.hosts.map(one => [one.host, one.underlayAddress])))
const truthOf = (name: string): HostTruth => ({ ...gatewayTruth, peer: `peer-${name}`, underlayAddress: addresses.get(name) ?? '', tunnelEndpoint: `${addresses.get(name) ?? ''}:51820`, addressOf: other => addresses.get(other) ?? null })
type Change = (document: ClusterDocument) => void
const changed = (change: Change, of = build()): ClusterDocument => {
  const document = structuredClone(of)
  change(document)
  return document
}

t.test('lies about it are refused by name', t => {
  const check = (name: string, document: ClusterDocument, own = leases(name)): void => { checkAgainstLeases(document, selfOf(name), own, [], truthOf(name)) }
  for (const name of addresses.keys()) t.doesNotThrow(() => { check(name, build()) }, name)
  for (const offer of OFFERS) t.strictSame([offeredProblem(build(), offer), offerProblem(offer, { site: offer.site, peer: offer.gateway.peer }, gatewayTruth)], [null, null])
  const refused = (why: RegExp, change: Change, name = 'tokyo-1'): void => { t.throws(() => { check(name, changed(change)) }, { code: 'CONFLICT', message: why }, String(why)) }
  const site = (d: ClusterDocument, n = 0) => d.sites[n] as ClusterDocument['sites'][number]
  const node = (d: ClusterDocument, n = 0) => d.nodes[n] as ClusterDocument['nodes'][number]
  refused(/site tokyo has the site-local segment id 0/, d => { site(d).localSegmentId = 0 })
  refused(/site tokyo has the site-local segment id 1000/, d => { site(d).localSegmentId = 1000 })
  refused(/site-local segment id 16777216/, d => { site(d).localSegmentId = 0x1000000 })
  refused(/the site-local segment id at site tokyo is 2000 by lease lease-tokyo-local, not 7/, d => { site(d).localSegmentId = 7 })
  refused(/is 2000 by lease lease-tokyo-local, not 2000/, d => { site(d).localLeaseId = 'other' })
  refused(/has no lease of a site-local segment/, d => { site(d, 1).localLeaseId = '' })
  refused(/lease lease-tokyo-segment is named twice/, d => { site(d).localLeaseId = 'lease-tokyo-segment' })
  refused(/a node has no address on a site-local segment/, d => { node(d).localIp = '' })
  refused(/a node has no address on a site-local segment/, d => { delete node(d).localMac })
  refused(/a node has an address on a site-local segment/, d => { const old = ofOld(d); Object.assign(d, { localCidr: '', sites: old.sites }) })
  refused(/"10\.42\.1\.1" is no address of a host in 10\.43/, d => { node(d).localIp = '10.42.1.1' })
  refused(/address 10\.43\.1\.1 is given twice/, d => { node(d, 1).localIp = '10.43.1.1' })
  refused(/MAC address 52:54:0b:0c:01:01 is given twice/, d => { node(d).localMac = '52:54:0b:0c:01:01' })
  refused(/no unicast MAC/, d => { node(d).localMac = '52:55:0B:0c:01:01' })
  refused(/the networks 10\.42\.0\.0\/16 and 10\.0\.0\.0\/8 of the cluster overlap/, d => { d.localCidr = '10.0.0.0/8' })
  refused(/too small/, d => { d.localCidr = '10.43.0.0/24' })
  refused(/network 10\.43\.0\.0\/16 of the cluster overlaps the underlay: 10\.43\.0\.9 is host tokyo-2.*spec\.network\.local\.cidr/, d => { const [, second] = site(d).hosts; if (second !== undefined) second.underlayAddress = '10.43.0.9' })
  t.throws(() => { check('tokyo-1', build(), leases('tokyo-1').filter(lease => !isLocal(lease))) }, { message: /tokyo-1 has no lease of a site-local segment/ })
  const plain = { ...demo }
  delete plain.localCidr
  t.throws(() => { check('tokyo-1', build(plain, offersOf(plain))) }, { message: /tokyo-1 has a lease of a site-local segment/ })
  t.match(offeredProblem(build(plain, offersOf(plain)), OFFERS[0] as Offer), /offered a site-local segment/)
  t.match(offeredProblem(build(), offersOf(plain)[0] as Offer), /offered no site-local segment/)
  t.match(offeredProblem(changed(d => { site(d).localSegmentId = 9 }), OFFERS[0] as Offer), /offered the site-local segment id 2000, not 9/)
  t.match(offeredProblem(changed(d => { site(d).leaseId = 'lease-tokyo-local' }), OFFERS[0] as Offer), /lease of the segment at site tokyo is not as offered/)
  t.match(offerProblem({ ...(OFFERS[0] as Offer), localSegmentId: 1000 }, { site: 'tokyo', peer: 'peer-tokyo-1' }, gatewayTruth), /site-local segment id is 1000/)
  t.end()
})

t.test('a live cluster keeps it as it is', t => {
  const before = build()
  const next = (change: Change): ClusterDocument => changed(d => { d.version = 2; change(d) })
  t.equal(growthProblem(before, next(() => undefined)), null)
  t.match(growthProblem(before, next(d => { d.localCidr = '10.44.0.0/16' })), /localCidr is another/)
  t.match(growthProblem(before, ofOld(next(() => undefined))), /localCidr is another/)
  t.match(growthProblem(ofOld(before), next(() => undefined)), /localCidr is another/)
  t.match(growthProblem(before, next(d => { Object.assign(d.sites[1] ?? {}, { localSegmentId: 7 }) })), /site tsukuba is another/)
  t.match(growthProblem(before, next(d => { Object.assign(d.nodes[1] ?? {}, { localIp: '10.43.1.9' }) })), /demo-tokyo-002 is another/)
  t.end()
})

t.test('two clusters on one host share neither ids nor what their links are named by', t => {
  const clash = (of: Partial<{ vni: number, local: number, segment: number, plain: boolean }>): string => {
    const plain = { ...demo }
    if (of.plain === true) delete plain.localCidr
    const offers = offersOf(plain).map((offer, i) => ({ ...offer, segmentId: (of.segment ?? 5000) + i, ...(of.plain === true ? {} : { localSegmentId: (of.local ?? 6000) + i }) }))
    const other = build(plain, offers, OTHER, of.vni ?? 0x111111)
    const rename = changed(d => { for (const node of d.nodes) node.uuid = `${node.uuid.slice(0, 35)}${node.uuid.endsWith('0') ? '1' : '0'}` }, other)
    try {
      checkAgainstLeases(build(), selfOf('tokyo-1'), leases('tokyo-1'), [{ document: rename, active: true }], truthOf('tokyo-1'))
      return ''
    } catch (error) {
      return String(error)
    }
  }
  t.equal(clash({}), '')
  t.match(clash({ vni: localVniOf(VNI) }), /VNI .* belongs to cluster demo/)
  t.match(clash({ vni: localVniOf(VNI), plain: true }), /VNI 9046796 belongs to cluster demo/, 'also one that has no such segment')
  t.match(clash({ local: 2000 }), /segment id 2000 belongs/)
  t.match(clash({ local: 1000 }), /segment id 1000 belongs/)
  t.match(clash({ segment: 2000 }), /segment id 2000 belongs/)
  t.end()
})
