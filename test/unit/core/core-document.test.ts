import { createHash } from 'node:crypto'
import fc from 'fast-check'
import t from 'tap'
import type { DesiredObject, DomainSpec, ObjectKind, SpecByKind, TunnelSpec } from '../../../protocol/core/desired.ts'
import { type DocumentInput, buildClusterDocument, missingReceipts, uuidFrom } from '../../../protocol/core/document.ts'
import type { ClusterDocument, Offer, Secret } from '../../../protocol/core/messages.ts'
import type { HostCapacity } from '../../../protocol/core/placement/at-site.ts'
import { siteCapacityOf } from '../../../protocol/core/placement/site-capacity.ts'
import { desiredFor, mergeTunnels, segmentFor } from '../../../protocol/core/plan.ts'
import type { ClusterSpec } from '../../../protocol/core/spec.ts'
import { placeAmongSites } from '../../../protocol/core/placement/among-sites.ts'
import { facts, offerFor, spec } from '../../model/fixtures.ts'

const hash = (text: string): string => createHash('sha256').update(text).digest('hex')
const ID = '0123456789abcdef0123456789abcdef'
const host = (name: string, roles: string[], vcpus: number, diskMib = 0): HostCapacity => ({ host: name, roles, free: { vcpus, memoryMib: vcpus * 1024, diskMib, volumes: diskMib > 0 ? 64 : 0, bandwidthMbit: 0 } })

/** tokyo: gateway + compute, compute, storage; tsukuba: gateway only, compute. */
const hosts: Record<string, HostCapacity[]> = {
  tokyo: [host('tokyo-1', ['gateway', 'compute'], 2), host('tokyo-2', ['compute'], 1), host('tokyo-3', ['storage'], 0, 1000)],
  tsukuba: [host('tsukuba-1', ['gateway'], 0), host('tsukuba-2', ['compute'], 9)]
}
const demo = spec({ volumes: [{ name: 'data', sizeMiB: 64, node: 2 }] })
const secrets: Secret[] = [{ name: 'data', user: 'u', secret: 's' }]

function offersFor (cluster: ClusterSpec): Offer[] {
  const placed = placeAmongSites(cluster, Object.entries(hosts).map(([site, list]) => siteCapacityOf(site, list)), 'tokyo')
  if ('refusal' in placed) throw new Error(placed.refusal)
  return placed.parts.map(part => offerFor(part.site, part.site === 'tokyo' ? 0 : 1, part, hosts[part.site] ?? []))
}
const documentInput = (part: Partial<DocumentInput> = {}): DocumentInput => ({
  id: ID, name: 'demo', spec: demo, offers: offersFor(part.spec ?? demo), masterSite: 'tokyo', masterPeer: 'peer-tokyo-1', vni: 0x0a0b0c, nowMs: 1000,
  sshPublicKey: 'ssh-ed25519 AAAA', imageDigest: `sha256:${'0'.repeat(64)}`, hash, ...part
})
const build = (part: Partial<DocumentInput> = {}): ClusterDocument => buildClusterDocument(documentInput(part))
const named = (objects: readonly DesiredObject[]): string[] => objects.map(one => `${one.kind} ${one.name}`)
const specOf = <K extends ObjectKind>(objects: readonly DesiredObject[], kind: K): SpecByKind[K] => {
  const found = objects.find((one): one is DesiredObject<K> => one.kind === kind)
  if (found === undefined) throw new Error(`no ${kind}`)
  return found.spec
}

t.test('a document says where everything is and what it is called', t => {
  const document = build()
  t.strictSame(document.nodes.map(n => [n.name, n.site, n.host, n.ip, n.mac, n.index]), [
    ['demo-tokyo-001', 'tokyo', 'tokyo-1', '10.42.1.1', '52:54:0b:0c:01:01', 1],
    ['demo-tokyo-002', 'tokyo', 'tokyo-2', '10.42.1.2', '52:54:0b:0c:01:02', 2],
    ['demo-tsukuba-003', 'tsukuba', 'tsukuba-2', '10.42.2.3', '52:54:0b:0c:02:03', 3],
    ['demo-tsukuba-004', 'tsukuba', 'tsukuba-2', '10.42.2.4', '52:54:0b:0c:02:04', 4]
  ])
  t.strictSame(document.frontend, { name: 'demo-fe', site: 'tokyo', host: 'tokyo-1', ip: '10.42.0.1', mac: '52:54:0b:0c:00:01', mode: 'builtin', leaseId: 'lease-tokyo-frontend-frontend' })
  t.strictSame(document.volumes, [{
    name: 'data', site: 'tokyo', host: 'tokyo-3', node: 'demo-tokyo-002', sizeMib: 64, iqn: `iqn.2026-11.org.musubi:${ID}.data`, portalAddress: '192.0.2.3', leaseId: 'lease-tokyo-volume-data'
  }])
  t.strictSame(document.sites.map(s => [s.site, s.segmentId, s.gatewayAddress, s.gatewayMac, s.cache, s.hosts.map(h => h.host), s.hosts.filter(h => h.gateway).length]), [
    ['tokyo', 1000, '10.42.255.1', '52:54:0b:0c:ff:01', false, ['tokyo-1', 'tokyo-2', 'tokyo-3'], 1],
    ['tsukuba', 1001, '10.42.255.2', '52:54:0b:0c:ff:02', true, ['tsukuba-1', 'tsukuba-2'], 1]
  ])
  t.match(document, { epoch: 1, domain: 'demo.internal', cidr: '10.42.0.0/16', endMs: 1000 + demo.termMs, createdMs: 1000 })
  t.strictSame(build({ offers: offersFor(demo).toReversed() }), document, 'whatever the order of the offers')
  const known = (of: ClusterDocument): boolean | undefined => segmentFor(of, { site: 'tokyo', host: 'tokyo-2' })?.known?.antiSpoof
  const open = build({ spec: { ...demo, antiSpoof: false } })
  t.strictSame([document.antiSpoofOff, known(document), open.antiSpoofOff, known(open)], [false, true, true, false], 'nodes speak for themselves only, unless the specification says otherwise')
  const { antiSpoof, ...earlier } = demo
  const fromRecord = build({ spec: earlier as ClusterSpec })
  t.strictSame([antiSpoof, fromRecord.antiSpoofOff], [true, false], 'a record of an earlier release does not say it, and means it')
  const { antiSpoofOff, ...old } = document
  t.strictSame([antiSpoofOff, known(old as ClusterDocument)], [false, true], 'nor does a document')
  t.match(document.nodes[0]?.uuid, /^[0-9a-f]{8}-[0-9a-f]{4}-8[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/)
  t.not(uuidFrom(hash('a')), uuidFrom(hash('b')))
  t.end()
})

t.test('offers that are not what the spec asks for are refused by name', t => {
  const offers = offersFor(demo)
  const [tokyo, tsukuba] = offers as [Offer, Offer]
  const without = (kind: string, name: string): Offer => ({ ...tokyo, held: tokyo.held.filter(h => h.kind !== kind || h.name !== name) })
  const refused = (changed: Offer[], message: RegExp): void => { t.throws(() => build({ offers: changed }), { code: 'CONFLICT', message }) }
  refused([tokyo], /the offers hold 2 nodes for cluster demo, which asks for 4/)
  refused([tsukuba], /no offer from the master's site tokyo/)
  refused([tokyo, tsukuba, tsukuba], /two offers from site tsukuba/)
  refused([without('volume', 'data'), tsukuba], /hold 0 volumes/)
  refused([without('frontend', 'frontend'), tsukuba], /hold 0 frontends/)
  refused([tokyo, { ...tsukuba, held: [...tsukuba.held, ...tsukuba.held] }], /site tsukuba holds node demo-tsukuba-003 twice/)
  refused([tokyo, { ...tsukuba, held: tsukuba.held.map(h => h.kind === 'node' ? { ...h, resources: { ...h.resources, memoryMib: 1 } } : h) }], /holds too little for node demo-tsukuba-003/)
  refused([tokyo, { ...tsukuba, held: tsukuba.held.map(h => h.name.endsWith('003') ? { ...h, name: 'stranger' } : h) }], /holds stranger, which is no node/)
  refused([tokyo, { ...tsukuba, gateway: { ...tsukuba.gateway, tunnelAddress: `${tokyo.gateway.tunnelAddress}/32` } }],
    /gateways tokyo-1 of site tokyo and tsukuba-1 of site tsukuba both use the tunnel address 100\.64\.0\.1/)
  refused([tokyo, { ...tsukuba, gateway: { ...tsukuba.gateway, tunnelAddress: '' } }], /tsukuba-1 of site tsukuba has no tunnel address/)
  t.end()
})

t.test('a document that follows another keeps the addresses of sites and takes later numbers', t => {
  const before = build({ offers: offersFor(demo).map(offer => offer.site === 'tsukuba' ? { ...offer, site: 'uji', held: offer.held.map(h => ({ ...h, name: h.name.replace('tsukuba', 'uji') })) } : offer) })
  const more: Offer = { ...(offersFor(demo)[1] as Offer), held: (offersFor(demo)[1] as Offer).held.filter(h => !h.name.endsWith('003')).map(h => ({ ...h, name: h.name.replace('004', '009') })), gateway: facts('nara', 7), site: 'tsukuba' }
  const offers = offersFor(demo).map(offer => offer.site === 'tsukuba' ? { ...offer, site: 'uji', held: offer.held.map(h => ({ ...h, name: h.name.replace('tsukuba', 'uji') })) } : offer)
  const grown = spec({ ...demo, nodes: { ...demo.nodes, count: 5 } })
  const after = build({ spec: grown, offers: [...offers, more], previous: before, version: 2, epoch: 3 })
  t.strictSame(after.nodes.slice(0, 4), before.nodes)
  t.strictSame(after.sites.filter(s => s.site !== 'tsukuba'), before.sites)
  t.match(after, { version: 2, epoch: 3, nodes: [{}, {}, {}, {}, { name: 'demo-tsukuba-009', index: 9, ip: '10.42.3.9' }] })
  t.throws(() => build({ spec: grown, offers: [...offers, more] }), { code: 'CONFLICT', message: /holds demo-tsukuba-009, which is no node/ }, 'a new cluster has the numbers of its spec')
  t.end()
})

t.test('receipts of all parts must be there', t => {
  const document = build()
  const receipts = [document.frontend, ...document.nodes, ...document.volumes, ...document.sites].map(part => ({ leaseId: part.leaseId, host: 'h', token: 1 }))
  t.strictSame(missingReceipts(document, receipts), [])
  t.strictSame(missingReceipts(document, receipts.slice(1, -1)), ['demo-fe', 'the segment at tsukuba'])
  t.end()
})

t.test('what each host must run', t => {
  const document = build()
  const of = (site: string, name: string): DesiredObject[] => desiredFor(document, { site, host: name }, secrets)
  t.strictSame(named(of('tokyo', 'tokyo-1')), ['tunnel wg', 'segment 01234567.segment', 'frontend 01234567.frontend', 'domain 01234567.demo-tokyo-001'])
  t.strictSame(named(of('tokyo', 'tokyo-2')), ['segment 01234567.segment', 'domain 01234567.demo-tokyo-002'])
  t.strictSame(named(of('tokyo', 'tokyo-3')), ['volume 01234567.data'])
  t.strictSame(named(of('tsukuba', 'tsukuba-1')), ['tunnel wg', 'segment 01234567.segment', 'cache 01234567.cache'])
  t.strictSame(named(of('tsukuba', 'tsukuba-2')), ['segment 01234567.segment', 'domain 01234567.demo-tsukuba-003', 'domain 01234567.demo-tsukuba-004'])
  t.strictSame(of('tsukuba', 'tokyo-1'), [], 'a host of that name at another site')
  t.strictSame(of('nara', 'x'), [])

  t.match(specOf(of('tokyo', 'tokyo-1'), 'segment'), {
    cluster: 'demo', vni: 0x0a0b0c, site: { segmentId: 1000, localAddress: '192.0.2.1', remoteAddresses: ['192.0.2.2'] }, compute: true,
    gateway: { address: '10.42.255.1/16', bridgeMac: '52:54:0b:0c:ff:01', tunnel: { localAddress: '100.64.0.1', remoteAddresses: ['100.64.0.2'] } }
  }, 'a storage host is no end of the in-site segment')
  t.match(specOf(of('tokyo', 'tokyo-2'), 'segment'), {
    cluster: 'demo', vni: 0x0a0b0c, site: { segmentId: 1000, localAddress: '192.0.2.2', remoteAddresses: ['192.0.2.1'] }, compute: true
  })
  t.equal(specOf(of('tsukuba', 'tsukuba-1'), 'segment').compute, false)
  const known = (site: string, name: string): string[] => (specOf(of(site, name), 'segment').known?.members ?? []).map(({ role, address, where, via, tap }) => [role, address, where, via ?? tap ?? ''].join(' ').trimEnd())
  t.strictSame(known('tokyo', 'tokyo-1'), [
    'frontend 10.42.0.1 host', 'gateway 10.42.255.1 host', 'gateway 10.42.255.2 remote 100.64.0.2',
    'node 10.42.1.1 host mzt0a0b0c01', 'node 10.42.1.2 site 192.0.2.2', 'node 10.42.2.3 remote 100.64.0.2', 'node 10.42.2.4 remote 100.64.0.2'
  ])
  t.strictSame(known('tsukuba', 'tsukuba-2').slice(0, 5), [
    'frontend 10.42.0.1 remote 192.0.2.11', 'gateway 10.42.255.1 remote 192.0.2.11', 'gateway 10.42.255.2 site 192.0.2.11', 'node 10.42.1.1 remote 192.0.2.11', 'node 10.42.1.2 remote 192.0.2.11'
  ], 'a host that is no gateway reaches other sites by its own')
  t.strictSame(segmentFor(document, { site: 'tsukuba', host: 'tsukuba-2' }), specOf(of('tsukuba', 'tsukuba-2'), 'segment'))
  t.equal(segmentFor(document, { site: 'tokyo', host: 'tokyo-3' }), null, 'it carries no segment')
  const external = { ...document, frontend: { ...document.frontend, mode: 'external' } }
  t.strictSame(segmentFor(external, { site: 'tokyo', host: 'tokyo-1' })?.known?.members.map(({ role, address }) => [role, address]), [
    ['frontend', '10.42.0.1'], ['gateway', '10.42.255.1'], ['gateway', '10.42.255.2'], ['node', null], ['node', null], ['node', null], ['node', null]
  ], 'a frontend that gives out addresses of its own: those of nodes are learnt')
  t.strictSame(specOf(of('tsukuba', 'tsukuba-1'), 'tunnel'), {
    listenPort: 51820, address: '100.64.0.2', peers: [{ site: 'tokyo', publicKey: 'key-tokyo', endpoint: '192.0.2.1:51820', address: '100.64.0.1' }]
  })
  t.match(specOf(of('tokyo', 'tokyo-3'), 'volume'), { allow: ['192.0.2.2'], chap: { user: 'u', secret: 's' }, portalAddress: '192.0.2.3', sizeMiB: 64 })
  t.match(specOf(of('tokyo', 'tokyo-2'), 'domain'), {
    bridge: 'mzb0a0b0c', tap: 'mzt0a0b0c02', volumes: [{ name: 'data', portalPort: 3260, chap: { user: 'u', secret: 's' } }]
  })
  t.match(specOf(of('tokyo', 'tokyo-1'), 'frontend'), { address: '10.42.0.1/16', nodes: document.nodes.map(({ name, mac, ip, site }) => ({ name, mac, ip, site })) })
  t.match(specOf(of('tsukuba', 'tsukuba-1'), 'cache'), { frontendAddress: '10.42.0.1', ownAddress: '10.42.255.2', ports: [80], tftp: {} })
  t.notOk('tftp' in specOf(desiredFor(external, { site: 'tsukuba', host: 'tsukuba-1' }, secrets), 'cache'), 'the files of another frontend are not those of a gateway')
  const trunks = (self: { site: string, host: string, trunk?: string }): unknown[] => desiredFor(document, self, secrets).flatMap(one => one.kind === 'segment' ? [(one as DesiredObject<'segment'>).spec.site.trunk] : [])
  t.strictSame(trunks({ site: 'tokyo', host: 'tokyo-1', trunk: 'eth1' }), ['eth1'], 'the NIC is what the host itself says')
  t.strictSame(trunks({ site: 'tokyo', host: 'tokyo-1' }), [undefined])
  t.throws(() => desiredFor(document, { site: 'tokyo', host: 'tokyo-3' }, []), { code: 'NOT_FOUND', message: /no secret for volume data/ })
  t.strictSame(named(desiredFor(document, { site: 'tsukuba', host: 'tsukuba-2' }, [])), named(of('tsukuba', 'tsukuba-2')), 'secrets are needed only where they are used')
  t.end()
})

t.test('a cluster at one site has no tunnel', t => {
  const document = build({ spec: spec({ nodes: { count: 1, vcpus: 1, memoryMiB: 768 } }) })
  const objects = desiredFor(document, { site: 'tokyo', host: 'tokyo-1' }, [])
  t.notOk(objects.some(one => one.kind === 'tunnel'))
  t.equal(specOf(objects, 'segment').gateway?.tunnel, null)
  t.end()
})

t.test('the tunnels of several clusters become one', t => {
  const peer = (n: number, key = `key${n}`): TunnelSpec['peers'][number] => ({ site: `s${n}`, publicKey: key, endpoint: `192.0.2.${n}:51820`, address: `100.64.0.${n}` })
  const tunnel = (...peers: TunnelSpec['peers']): DesiredObject => ({ kind: 'tunnel', name: 'wg', spec: { listenPort: 51820, address: '100.64.0.9', peers } })
  const volume: DesiredObject = { kind: 'volume', name: 'v', spec: { sizeMiB: 1, iqn: 'i', portalAddress: 'a', chap: { user: 'u', secret: 's' }, allow: [] } }
  const merged = mergeTunnels([tunnel(peer(3), peer(1)), volume, tunnel(peer(2), peer(1, 'newer'))])
  t.strictSame(named(merged), ['volume v', 'tunnel wg'])
  t.strictSame(specOf(merged, 'tunnel').peers.map(p => [p.address, p.publicKey]), [['100.64.0.1', 'newer'], ['100.64.0.2', 'key2'], ['100.64.0.3', 'key3']], 'the later document wins')
  t.strictSame(mergeTunnels([volume]), [volume])
  t.end()
})

t.test('in every document names, addresses, MACs, uuids and taps are unique, and every part runs on exactly one host', t => {
  const runs = { many: 0 }
  fc.assert(fc.property(fc.integer({ min: 1, max: 60 }), fc.integer({ min: 1, max: 6 }), fc.nat(0xffffff), (count, siteCount, vni) => {
    const cluster = spec({ nodes: { count, vcpus: 1, memoryMiB: 512 }, volumes: [{ name: 'v', sizeMiB: 1, node: count }] })
    const share = Math.ceil(count / siteCount)
    const sites = Array.from({ length: siteCount }, (_, i) => ({ site: `s${i}`, hosts: [host(`s${i}-1`, ['gateway', 'compute', 'storage'], share + (i === 0 ? 1 : 0), 10), host(`s${i}-2`, ['compute'], 1)] }))
    const placed = placeAmongSites(cluster, sites.map(one => siteCapacityOf(one.site, one.hosts)), 's0')
    if ('refusal' in placed) throw new Error(placed.refusal)
    if (placed.parts.length > 2) runs.many++
    const offers = placed.parts.map(part => offerFor(part.site, Number(part.site.slice(1)), part, sites.find(one => one.site === part.site)?.hosts ?? []))
    const document = buildClusterDocument({ ...documentInput({ offers: [] }), spec: cluster, offers, masterSite: 's0', vni })
    const unique = (what: string, values: unknown[]): void => { t.equal(new Set(values).size, values.length, what) }
    const ends = [document.frontend, ...document.nodes]
    unique('names', ends.map(one => one.name))
    unique('addresses', [...ends.map(one => one.ip), ...document.sites.map(s => s.gatewayAddress)])
    unique('macs', [...ends.map(one => one.mac), ...document.sites.map(s => s.gatewayMac)])
    unique('uuids', document.nodes.map(n => n.uuid))
    const all = document.sites.flatMap(s => s.hosts.flatMap(h => desiredFor(document, { site: s.site, host: h.host }, [{ name: 'v', user: 'u', secret: 's' }])))
    const of = (kind: string): DesiredObject[] => all.filter(one => one.kind === kind)
    t.strictSame(of('domain').map(one => (one.spec as DomainSpec).node).sort(), document.nodes.map(n => n.name).sort())
    unique('taps', of('domain').map(one => (one.spec as DomainSpec).tap))
    t.strictSame([of('volume').length, of('frontend').length, of('cache').length], [1, 1, document.sites.length - 1])
    t.equal(of('tunnel').length, document.sites.length > 1 ? document.sites.length : 0)
  }), { numRuns: 60 })
  t.ok(runs.many > 5)
  t.equal(facts('x', 0).host, 'x-1')
  t.end()
})
