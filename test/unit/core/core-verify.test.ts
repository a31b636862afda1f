import { createHash } from 'node:crypto'
import t from 'tap'
import { tunnelAddressFor } from '../../../agent/drivers/network/address.ts'
import { type Resources, zero } from '../../../protocol/core/capacity.ts'
import { buildClusterDocument } from '../../../protocol/core/document.ts'
import { advance, type LeaseEvent } from '../../../protocol/core/lease/step.ts'
import { emptyLedger, type Lease, leasesOf, type LedgerState } from '../../../protocol/core/lease/lease.ts'
import { MAX_COPY_BYTES, MAX_LEASES_PER_PEER, MAX_NODES_PER_CLUSTER, MAX_TERM_MS } from '../../../protocol/core/limits.ts'
import type { ClusterDocument, GatewayFacts, HoldItem, HoldRequest, MemberSite, Offer, Request } from '../../../protocol/core/messages.ts'
import type { HostCapacity } from '../../../protocol/core/placement/at-site.ts'
import { siteCapacityOf } from '../../../protocol/core/placement/site-capacity.ts'
import { placeAmongSites } from '../../../protocol/core/placement/among-sites.ts'
import { checkAgainstLeases, documentProblem, type GatewayTruth, growthProblem, type HostTruth, offeredProblem, offerProblem } from '../../../protocol/core/verify/document.ts'
import {
  claimProblem, commitProblem, copyProblem, extendProblem, holdProblem, holdTimeOf, hostCommitProblem, hostCurtailProblem, hostExtendProblem, hostKeepAliveProblem, hostRestoreProblem, isUuid, keepAliveProblem, releaseProblem, requestProblem, termProblem
} from '../../../protocol/core/verify/request.ts'
import { HOUR, facts, holdRequest, item, offerFor, spec } from '../../model/fixtures.ts'

const T0 = 1_800_000_000_000
const ID = '01234567-89ab-4def-8123-456789abcdef'
const hash = (text: string): string => createHash('sha256').update(text).digest('hex')
const keyOf = (text: string): string => createHash('sha256').update(text).digest('base64')
const host = (name: string, roles: string[], vcpus: number, diskMib = 0): HostCapacity => ({ host: name, roles, free: { vcpus, memoryMib: vcpus * 1024, diskMib, volumes: 8, bandwidthMbit: 1000 } })
const SITES: Record<string, HostCapacity[]> = {
  tokyo: [host('tokyo-1', ['gateway', 'compute'], 2), host('tokyo-2', ['compute'], 1)],
  tsukuba: [host('tsukuba-1', ['gateway', 'compute'], 1), host('tsukuba-2', ['compute', 'storage'], 2, 100)]
}
const demo = spec({ name: 'demo', nodes: { count: 5, vcpus: 1, memoryMiB: 512 }, volumes: [{ name: 'data', sizeMiB: 64, node: 4 }] })
const gatewayTruth: GatewayTruth = { isGatewayOf: (peer, site, name) => peer === `peer-${name}` && name === `${site}-1`, tunnelAddressFor }
const real = (gateway: GatewayFacts): GatewayFacts => ({ ...gateway, tunnelPublicKey: keyOf(gateway.host), tunnelAddress: tunnelAddressFor(gateway.peer) })

function offersFor (): Offer[] {
  const placed = placeAmongSites(demo, Object.entries(SITES).map(([site, list]) => siteCapacityOf(site, list)), 'tokyo')
  if ('refusal' in placed) throw new Error(placed.refusal)
  return placed.parts.map(part => offerFor(part.site, part.site === 'tokyo' ? 0 : 1, part, SITES[part.site] ?? [])).map(offer => ({ ...offer, gateway: real(offer.gateway) }))
}
const OFFERS = offersFor()
const offerOf = (site: string): Offer => OFFERS.find(offer => offer.site === site) ?? OFFERS[0] as Offer
const build = (id = ID, vni = 0x0a0b0c): ClusterDocument => buildClusterDocument({
  id, name: 'demo', spec: demo, offers: OFFERS, masterSite: 'tokyo', masterPeer: 'peer-tokyo-1', vni, nowMs: T0, sshPublicKey: 'ssh-ed25519 AAAA', imageDigest: `sha256:${'0'.repeat(64)}`, hash
})

/** The ledger of a host after its part of the offers was held. */
function ledgerOf (name: string, id = ID): LedgerState {
  const state = emptyLedger(name, { vcpus: 100, memoryMib: 100_000, diskMib: 1000, volumes: 8, bandwidthMbit: 1000 }, { from: 1, to: 9999 })
  const offer = offerOf(name.split('-')[0] ?? '')
  const items = offer.held.filter(held => held.host === name).map(held => item(held.leaseId, { kind: held.kind, name: held.name, resources: held.resources, segmentId: held.kind === 'segment' ? offer.segmentId : 0 }))
  const { result } = advance(state, { type: 'hold', requester: 'peer-tokyo-1', request: holdRequest({ clusterId: id, startMs: T0, endMs: T0 + HOUR, items }) }, T0)
  if (!result.ok) throw result.error
  return state
}
const leases = (name: string, id = ID): Lease[] => leasesOf(ledgerOf(name, id), id)
const addresses = new Map(build().sites.flatMap(site => site.hosts.map(one => [one.host, one.underlayAddress])))
const truthOf = (name: string): HostTruth => ({ ...gatewayTruth, peer: `peer-${name}`, underlayAddress: addresses.get(name) ?? '', tunnelEndpoint: `${addresses.get(name) ?? ''}:51820`, addressOf: other => addresses.get(other) ?? null })
const selfOf = (name: string): { site: string, host: string } => ({ site: name.split('-')[0] ?? '', host: name })

type Change = (document: ClusterDocument) => void
const changed = (change: Change): ClusterDocument => {
  const document = structuredClone(build())
  change(document)
  return document
}
const at = (document: ClusterDocument, site: string): MemberSite => {
  const found = document.sites.find(one => one.site === site)
  if (found === undefined) throw new Error(`no ${site}`)
  return found
}
const first = <T>(list: readonly T[], where: (one: T) => boolean = () => true): T => {
  const found = list.find(where)
  if (found === undefined) throw new Error('there is none')
  return found
}
const check = (name: string, document: ClusterDocument, others: Parameters<typeof checkAgainstLeases>[3] = []): void => {
  checkAgainstLeases(document, selfOf(name), leases(name), others, truthOf(name))
}

t.test('what an honest master writes is accepted by every host', t => {
  const document = build()
  t.strictSame(document.volumes.map(volume => [volume.host, volume.node]), [['tsukuba-2', 'demo-tsukuba-004']])
  t.equal(documentProblem(document, gatewayTruth), null)
  for (const [name] of addresses) t.doesNotThrow(() => { check(name, document) }, name)
  for (const offer of OFFERS) t.equal(offeredProblem(document, offer), null)
  t.doesNotThrow(() => { checkAgainstLeases(document, selfOf('tsukuba-2'), leases('tsukuba-2'), [], { ...truthOf('tsukuba-2'), addressOf: () => null }) }, 'other hosts that nothing is known of yet')
  t.end()
})

t.test('leases bound what runs', t => {
  const refused = (why: RegExp, change: Change, name = 'tsukuba-2'): void => { t.throws(() => { check(name, changed(change)) }, { code: 'CONFLICT', message: why }, String(why)) }
  const mine = (document: ClusterDocument, name = 'tsukuba-2'): ClusterDocument['nodes'][number] => first(document.nodes, node => node.host === name)
  refused(/larger than its lease/, d => { mine(d).vcpus = 2 })
  refused(/larger than its lease/, d => { mine(d).memoryMib = 513 })
  refused(/larger than its lease/, d => { first(d.volumes).sizeMib = 65 })
  refused(/has no lease fake for node/, d => { mine(d).leaseId = 'fake' })
  refused(/has no lease .* for node other/, d => { mine(d, 'tsukuba-1').name = 'other' }, 'tsukuba-1')
  refused(/has no lease .* for node/, d => { Object.assign(first(d.nodes, node => node.site === 'tokyo'), { site: 'tsukuba', host: 'tsukuba-2' }) })
  refused(/no lease .* for frontend/, d => { d.frontend.host = 'tokyo-2' }, 'tokyo-2')
  refused(/its segment id at site tsukuba is 1001, not 7/, d => { at(d, 'tsukuba').segmentId = 7 }, 'tsukuba-1')
  refused(/no lease other for the segment/, d => { at(d, 'tsukuba').leaseId = 'other' }, 'tsukuba-1')
  refused(/asked for under another name/, d => { d.name = 'other' })
  t.throws(() => { checkAgainstLeases(build(), selfOf('tsukuba-2'), [], [], truthOf('tsukuba-2')) }, { message: /has no lease/ }, 'a host without leases runs nothing')
  t.throws(() => { checkAgainstLeases(build(), selfOf('tsukuba-1'), leases('tsukuba-1').filter(lease => lease.kind !== 'segment'), [], truthOf('tsukuba-1')) }, { message: /no lease as its gateway/ })
  const ended = leases('tsukuba-2').map(lease => ({ ...lease, state: 'ended' as const }))
  t.throws(() => { checkAgainstLeases(build(), selfOf('tsukuba-2'), ended, [], truthOf('tsukuba-2')) }, { message: /has no lease/ })
  t.throws(() => { checkAgainstLeases(build(), selfOf('tsukuba-2'), leases('tsukuba-2', 'another'), [], truthOf('tsukuba-2')) }, { message: /has no lease/ }, 'the leases of another cluster are none of this one')
  const small = leases('tokyo-1').map(lease => lease.kind === 'frontend' ? { ...lease, resources: { ...lease.resources, memoryMib: 1 } } : lease)
  t.throws(() => { checkAgainstLeases(build(), selfOf('tokyo-1'), small, [], truthOf('tokyo-1')) }, { message: /frontend frontend is larger/ })
  t.end()
})

t.test('documents that contradict themselves or the roster', t => {
  const bad: Array<[RegExp, Change]> = [
    [/no UUID/, d => { d.id = 'c1' }],
    [/VNI 0/, d => { d.vni = 0 }],
    [/epoch 0/, d => { d.epoch = 0 }],
    [/version 0/, d => { d.version = 0 }],
    [/ends before it starts/, d => { d.startMs = d.endMs }],
    [/ends before it starts/, d => { d.endMs = NaN }],
    [/lease .* is named twice/, d => { at(d, 'tokyo').leaseId = at(d, 'tsukuba').leaseId }],
    [/is there twice/, d => { d.nodes.push({ ...first(d.nodes), index: 9 }) }],
    [/is there twice/, d => { d.volumes.push({ ...first(d.volumes) }) }],
    [/lease .* is named twice/, d => { first(d.volumes).leaseId = first(d.nodes).leaseId }],
    [/two nodes have the number 1/, d => { first(d.nodes, n => n.index === 2).index = 1 }],
    [/two nodes have one UUID/, d => { first(d.nodes, n => n.index === 2).uuid = first(d.nodes).uuid }],
    [/address .* is given twice/, d => { first(d.nodes).ip = d.frontend.ip }],
    [/of the mode "external"/, d => { d.frontend.mode = 'external' }],
    [/MAC address .* is given twice/, d => { first(d.nodes).mac = at(d, 'tokyo').gatewayMac }],
    [/no unicast MAC/, d => { first(d.nodes).mac = 'x' }],
    [/is no address of a host in 10.42.0.0\/16/, d => { first(d.nodes).ip = '10.43.0.1' }],
    [/is no address of a host/, d => { at(d, 'tokyo').gatewayAddress = '10.42.0.0' }],
    [/10\.42\.0\.0\/16 of the cluster overlaps the underlay: 10\.42\.9\.9 is host tsukuba-2 of site tsukuba/, d => { first(at(d, 'tsukuba').hosts, h => !h.gateway).underlayAddress = first(d.volumes).portalAddress = '10.42.9.9' }],
    [/overlaps the underlay: 10\.42\.9\.9:51820 is the tunnel of gateway tsukuba-1/, d => { at(d, 'tsukuba').gateway.tunnelEndpoint = '10.42.9.9:51820' }],
    [/private range/, d => { d.cidr = '8.0.0.0/8' }],
    [/is no name/, d => { first(d.nodes).name = '../x' }],
    [/no member/, d => { first(d.nodes).host = 'nowhere' }],
    [/number 201/, d => { first(d.nodes).index = 201 }],
    [/no possible size/, d => { first(d.nodes).vcpus = 0 }],
    [/target name of another/, d => { first(d.volumes).iqn = 'iqn.2026-11.org.musubi:other.data' }],
    [/is offered at "8.8.8.8", not at its host/, d => { first(d.volumes).portalAddress = '8.8.8.8' }],
    [/no node of its site/, d => { first(d.volumes).node = 'demo-tokyo-001' }],
    [/needs no cache/, d => { at(d, 'tokyo').cache = true }],
    [/not at its master/, d => { d.masterSite = 'tsukuba' }],
    [/names a host twice/, d => { at(d, 'tokyo').hosts.push({ ...first(at(d, 'tokyo').hosts), gateway: false }) }],
    [/have one address/, d => { for (const one of at(d, 'tsukuba').hosts) one.underlayAddress = at(d, 'tsukuba').gateway.underlayAddress }],
    [/no usable address/, d => { first(at(d, 'tsukuba').hosts, h => !h.gateway).underlayAddress = '127.0.0.1' }],
    [/is not one of its hosts/, d => { for (const one of at(d, 'tsukuba').hosts) one.gateway = false }],
    [/site tokyo is there twice/, d => { d.sites.push(at(d, 'tokyo')) }],
    [/is no gateway of site tsukuba/, d => { const { gateway, hosts } = at(d, 'tsukuba'); gateway.peer = first(hosts, h => h.gateway).peer = 'peer-evil-1' }],
    [/not the tunnel address of its key/, d => { at(d, 'tsukuba').gateway.tunnelAddress = at(d, 'tokyo').gateway.tunnelAddress }],
    [/no WireGuard key/, d => { at(d, 'tsukuba').gateway.tunnelPublicKey = 'fake' }],
    [/which is no address and port/, d => { at(d, 'tsukuba').gateway.tunnelEndpoint = 'evil.example:53' }],
    [/which is no address and port/, d => { at(d, 'tsukuba').gateway.tunnelEndpoint = '127.0.0.1:53' }],
    [/two gateways have one tunnel key/, d => { at(d, 'tsukuba').gateway.tunnelPublicKey = at(d, 'tokyo').gateway.tunnelPublicKey }]
  ]
  for (const [why, change] of bad) t.match(documentProblem(changed(change), gatewayTruth), why, String(why))
  t.end()
})

t.test('what a document says of this host must be so', t => {
  const refused = (name: string, why: RegExp, change: Change): void => { t.throws(() => { check(name, changed(change)) }, { code: 'CONFLICT', message: why }, String(why)) }
  refused('tsukuba-1', /listens at 192.0.2.11:51820, not at 192.0.2.11:1/, d => { at(d, 'tsukuba').gateway.tunnelEndpoint = '192.0.2.11:1' })
  refused('tsukuba-1', /is at 192.0.2.11, not at 192.0.2.99/, d => { at(d, 'tsukuba').gateway.underlayAddress = first(at(d, 'tsukuba').hosts, h => h.gateway).underlayAddress = '192.0.2.99' })
  refused('tsukuba-1', /host tsukuba-2 of site tsukuba is at 192.0.2.12, not at 192.0.2.99/, d => { first(at(d, 'tsukuba').hosts, h => !h.gateway).underlayAddress = first(d.volumes).portalAddress = '192.0.2.99' })
  t.end()
})

t.test('what a document says of a site must be what that site offered', t => {
  const bad: Array<[RegExp, Change]> = [
    [/leaves out/, d => { d.sites = d.sites.filter(site => site.site !== 'tsukuba') }],
    [/lease of the segment at site tsukuba is not as offered/, d => { at(d, 'tsukuba').leaseId = 'x' }],
    [/segment id 1001, not 1000/, d => { at(d, 'tsukuba').segmentId = 1000 }],
    [/gateway of site tsukuba is not as offered/, d => { at(d, 'tsukuba').gateway.tunnelPublicKey = keyOf('evil') }],
    [/hosts of site tsukuba are not as offered/, d => { first(at(d, 'tsukuba').hosts, h => !h.gateway).underlayAddress = '192.0.2.99' }],
    [/did not offer node .* on tsukuba-1/, d => { first(d.nodes, n => n.host === 'tsukuba-2').host = 'tsukuba-1' }],
    [/did not offer volume data/, d => { first(d.volumes).leaseId = 'x' }]
  ]
  for (const [why, change] of bad) t.match(offeredProblem(changed(change), offerOf('tsukuba')), why, String(why))
  t.end()
})

const OTHER = 'fedcba98-7654-4210-8fed-cba987654321'
const other = (change: Change = () => undefined): ClusterDocument => {
  const document = structuredClone(build(OTHER, 0x0d0e0f))
  document.name = 'other'
  for (const site of document.sites) site.segmentId += 100
  change(document)
  return document
}

t.test('clusters share nothing on a host but the tunnel', t => {
  const against = (document: ClusterDocument, active = true, name = 'tsukuba-1'): (() => void) => () => { check(name, build(), [{ document, active }]) }
  t.doesNotThrow(against(other()))
  for (const name of ['tsukuba-1', 'tsukuba-2']) {
    t.throws(against(other(d => { d.vni = build().vni }), true, name), { code: 'CONFLICT', message: /VNI .* belongs to cluster other/ })
    t.throws(against(other(d => { at(d, 'tsukuba').segmentId = 1001 }), true, name), { code: 'CONFLICT', message: /segment id 1001 belongs to cluster other/ })
    t.throws(against(other(d => { d.vni = build().vni }), false, name), { code: 'NOT_READY', retryable: true }, 'only remains are in the way')
  }
  t.doesNotThrow(against(other(d => { at(d, 'tokyo').segmentId = 1000 })), 'segment ids of another site are that site\'s affair')
  t.throws(against(other(d => { d.id = `${ID.slice(0, 8)}${OTHER.slice(8)}` })), { code: 'CONFLICT', message: /its id begins as that of/ })
  t.throws(against(other(d => { first(d.nodes, n => n.host === 'tsukuba-1').uuid = first(build().nodes, n => n.host === 'tsukuba-1').uuid })), { message: /UUID of a node of/ })
  t.doesNotThrow(() => { check('tsukuba-1', build(), [{ document: build(), active: true }]) }, 'the same cluster again')

  const foreign = (document: ClusterDocument): ClusterDocument => ({ ...document, masterPeer: 'peer-osaka-1' })
  const moved = (): ClusterDocument => other(d => { at(d, 'tokyo').gateway.tunnelPublicKey = keyOf('old') })
  const claims = (document: ClusterDocument): (() => void) => () => { checkAgainstLeases(document, selfOf('tsukuba-1'), leases('tsukuba-1'), [{ document: moved(), active: true }], truthOf('tsukuba-1')) }
  t.throws(claims(foreign(build())), { code: 'CONFLICT', message: /another key or endpoint than in cluster other/ }, 'a third party moves nobody\'s tunnel')
  t.doesNotThrow(claims(build()), 'the gateway itself may, as a master')
  t.throws(() => { checkAgainstLeases(foreign(build()), selfOf('tsukuba-1'), leases('tsukuba-1'), [{ document: other(d => { at(d, 'tokyo').gateway.tunnelEndpoint = '192.0.2.1:9' }), active: true }], truthOf('tsukuba-1')) }, { message: /another key or endpoint/ })
  const stolen = other(d => { Object.assign(at(d, 'tokyo').gateway, { peer: 'peer-osaka-1', tunnelPublicKey: keyOf('tokyo-1'), tunnelAddress: tunnelAddressFor('peer-osaka-1') }) })
  t.throws(against(stolen), { message: /tunnel key of another gateway/ })
  t.end()
})

t.test('once a gateway has said its keys itself, documents need not agree about them', t => {
  const foreign = (document: ClusterDocument): ClusterDocument => ({ ...document, masterPeer: 'peer-osaka-1' })
  const moved = (): ClusterDocument => other(d => { Object.assign(at(d, 'tokyo').gateway, { tunnelPublicKey: keyOf('old'), tunnelEndpoint: '192.0.2.1:9' }) })
  const claims = (document: ClusterDocument, before: ClusterDocument, heard: Record<string, string[]>): (() => void) => () => {
    checkAgainstLeases(document, selfOf('tsukuba-1'), leases('tsukuba-1'), [{ document: before, active: true }], { ...truthOf('tsukuba-1'), heardKeys: peer => heard[peer] ?? null })
  }
  t.throws(claims(foreign(build()), moved(), {}), { message: /another key or endpoint/ }, 'nothing was heard: the first word stands')
  t.throws(claims(foreign(build()), moved(), { 'peer-osaka-1': [keyOf('x')] }), { message: /another key or endpoint/ }, 'somebody else was heard')
  t.doesNotThrow(claims(foreign(build()), moved(), { 'peer-tokyo-1': [keyOf('newest')] }), 'its key was exchanged meanwhile, and what it says itself counts')

  const osaka = other(d => { Object.assign(at(d, 'tokyo').gateway, { peer: 'peer-osaka-1', tunnelPublicKey: keyOf('osaka long ago'), tunnelAddress: tunnelAddressFor('peer-osaka-1') }) })
  t.doesNotThrow(claims(build(), osaka, { 'peer-osaka-1': [keyOf('osaka now')] }))
  t.throws(claims(build(), osaka, { 'peer-osaka-1': [keyOf('tokyo-1')] }), { message: /tunnel key of another gateway/ }, 'a key that its owner says is its own')
  t.throws(claims(build(), osaka, { 'peer-tsukuba-1': [keyOf('tokyo-1')] }), { message: /gateway tokyo-1 has the tunnel key of tsukuba-1/ }, 'or that is ours')
  t.end()
})

t.test('nobody takes the tunnel address of a gateway of another cluster, with whichever key it was found', t => {
  const ground = tunnelAddressFor('peer-tokyo-1')
  const truth = { ...truthOf('tsukuba-1'), tunnelAddressFor: (peer: string) => peer === 'peer-osaka-1' ? ground : tunnelAddressFor(peer), heardKeys: () => [] }
  const before = other(d => { Object.assign(at(d, 'tokyo').gateway, { peer: 'peer-osaka-1', tunnelPublicKey: keyOf('osaka'), tunnelAddress: `${ground}/32` }) })
  const claims = (active: boolean) => () => { checkAgainstLeases(build(), selfOf('tsukuba-1'), leases('tsukuba-1'), [{ document: before, active }], truth) }
  const message = new RegExp(`gateway tokyo-1 has the tunnel address ${ground} of gateway tokyo-1 of cluster other`)
  t.throws(claims(true), { code: 'CONFLICT', message })
  t.throws(claims(false), { code: 'NOT_READY', message }, 'nor while it is being removed: its segment still sends there')
  t.doesNotThrow(() => { checkAgainstLeases(build(), selfOf('tsukuba-1'), leases('tsukuba-1'), [{ document: other(), active: true }], truth) }, 'the gateway itself, in two clusters')
  t.end()
})

t.test('gateways of a cluster have an IP version in common', t => {
  const at6 = (endpoint: string): ClusterDocument => changed(d => { at(d, 'tokyo').gateway.tunnelEndpoint = endpoint })
  t.equal(documentProblem(at6('192.0.2.1:51820,[2001:db8::1]:51820'), gatewayTruth), null)
  t.equal(documentProblem(at6('[2001:db8::1]:51820'), gatewayTruth), 'gateway tsukuba-1 of site tsukuba has its tunnel at 192.0.2.11:51820, gateway tokyo-1 of site tokyo at [2001:db8::1]:51820: they have no IP version in common')
  for (const bad of ['[fe80::1]:51820', '[::1]:51820', '[2001:DB8::1]:51820', '2001:db8::1:51820', '[2001:db8::1]:51820,[2001:db8::2]:51820', 'gw.example:51820']) t.match(documentProblem(at6(bad), gatewayTruth) ?? '', /has the tunnel endpoint ".*", which is no address and port/)
  const offers = OFFERS.map(offer => offer.site === 'tokyo' ? { ...offer, gateway: { ...offer.gateway, tunnelEndpoint: '[2001:db8::1]:51820' } } : offer)
  t.throws(() => buildClusterDocument({ id: ID, name: 'demo', spec: demo, offers, masterSite: 'tokyo', masterPeer: 'peer-tokyo-1', vni: 7, nowMs: T0, sshPublicKey: 'x', imageDigest: `sha256:${'0'.repeat(64)}`, hash }), { code: 'CONFLICT', message: /192\.0\.2\.11:51820, .* at \[2001:db8::1\]:51820: they have no IP version in common/, hint: /tunnelAddresses/ }, 'before anybody is committed to it')
  t.end()
})

t.test('an offer is of the gateway that was asked', t => {
  const offer = offerOf('tsukuba')
  const asked = { site: 'tsukuba', peer: 'peer-tsukuba-1' }
  t.equal(offerProblem(offer, asked, gatewayTruth), null)
  const bad: Array<[RegExp, Partial<Offer>]> = [
    [/is of site osaka/, { site: 'osaka' }],
    [/another gateway than was asked/, { gateway: { ...offer.gateway, peer: 'peer-tokyo-1' } }],
    [/not the tunnel address/, { gateway: { ...offer.gateway, tunnelAddress: '100.64.0.1' } }],
    [/no WireGuard key/, { gateway: { ...offer.gateway, tunnelPublicKey: '' } }],
    [/is no gateway of/, { gateway: { ...offer.gateway, host: 'tsukuba-2' } }],
    [/no time at all/, { ttlMs: 0 }],
    [/segment id is 0/, { segmentId: 0 }],
    [/malformed name/, { held: offer.held.map(held => ({ ...held, host: '\x1b[1A\x1b[2Ktsukuba-1' })) }],
    [/malformed name/, { held: offer.held.map(held => ({ ...held, name: `${held.name}\ntotal 0` })) }],
    [/malformed name/, { held: offer.held.map(held => ({ ...held, host: 'h'.repeat(64) })) }]
  ]
  for (const [why, part] of bad) t.match(offerProblem({ ...offer, ...part }, asked, gatewayTruth), why)
  t.strictSame([holdTimeOf({ ttlMs: 4_000_000_000 }), holdTimeOf({ ttlMs: 5000 }), holdTimeOf({ ttlMs: 0 })], [30_000, 5000, null], 'a hold lasts no longer than was asked for')
  t.equal(offerProblem({ ...offer, gateway: facts('tsukuba', 1) }, asked, gatewayTruth) === null, false)
  t.end()
})

t.test('holds and requests have names and sizes within bounds', t => {
  const none = zero()
  const quota = (resources: Partial<Resources>): HoldItem => item('q', { kind: 'quota', name: 'quota', resources: { ...none, ...resources } })
  const good = holdRequest({
    clusterId: ID,
    items: [item('l1'), item('v', { kind: 'volume', resources: { ...none, diskMib: 1, volumes: 1 } }), item('s', { kind: 'segment', resources: { ...none, bandwidthMbit: 100 }, segmentId: 7 }), item('f', { kind: 'frontend' }), quota({ vcpus: 3, volumes: 2, bandwidthMbit: 9 })]
  })
  t.equal(holdProblem(good), null)
  const badHolds: Array<[RegExp, Partial<HoldRequest>]> = [
    [/no UUID/, { clusterId: 'c1' }], [/no UUID/, { clusterId: ID.toUpperCase() }], [/lower-case/, { cluster: 'x\ny' }], [/master's site/, { masterSite: '' }],
    [/idempotency key/, { key: 'x'.repeat(257) }], [/an id is malformed/, { offerId: 'x'.repeat(65) }], [/an id is malformed/, { items: [item('a b')] }],
    [/unknown kind/, { items: [item('l1', { kind: 'tunnel' })] }], [/malformed name/, { items: [item('l1', { name: 'x'.repeat(64) })] }], [/malformed name/, { items: [item('l1', { name: 'a/b' })] }],
    [/asked for twice/, { items: [item('l1'), item('l2', { name: 'l1' })] }],
    [/one frontend/, { items: [item('a', { kind: 'frontend' }), item('b', { kind: 'frontend' })] }], [/one segment/, { items: ['a', 'b'].map(id => item(id, { kind: 'segment', resources: none })) }], [/share of the quota/, { items: [quota({ vcpus: 1 }), { ...quota({ vcpus: 1 }), leaseId: 'r', name: 'other' }] }],
    [/no possible size/, { items: [item('l1', { resources: none })] }], [/no possible size/, { items: [item('l1', { kind: 'volume', resources: { ...none, volumes: 1 } })] }],
    [/no possible size/, { items: [item('l1', { kind: 'volume', resources: { ...none, diskMib: 1 } })] }], [/no possible size/, { items: [item('l1', { kind: 'volume', resources: { ...none, diskMib: 1, volumes: 2 } })] }],
    [/no possible size/, { items: [item('l1', { resources: { ...none, vcpus: 1, memoryMib: 1, volumes: 1 } })] }], [/no possible size/, { items: [item('l1', { resources: { ...none, vcpus: 1, memoryMib: 1, bandwidthMbit: 1 } })] }],
    [/no possible size/, { items: [item('l1', { resources: { ...none, vcpus: NaN, memoryMib: 1 } })] }], [/no possible size/, { items: [item('l1', { resources: { ...none, vcpus: -1, memoryMib: 1 } })] }],
    [/no possible size/, { items: [item('l1', { kind: 'segment', resources: { ...none, bandwidthMbit: -1 } })] }], [/no possible size/, { items: [item('l1', { kind: 'segment', resources: { ...none, bandwidthMbit: 2 ** 40 } })] }],
    [/no possible size/, { items: [quota({})] }], [/no possible size/, { items: [quota({ vcpus: 2 ** 40 })] }], [/no possible size/, { items: [quota({ vcpus: 1.5 })] }],
    [/no possible size/, { items: [item('l1', { kind: 'segment' })] }], [/segment id 5/, { items: [item('l1', { segmentId: 5 })] }],
    [/asks for nothing/, { items: [] }], [/l1 is named twice/, { items: [item('l1'), item('l1', { name: 'other' })] }],
    [/epoch -1/, { epoch: -1 }], [/epoch NaN/, { epoch: NaN }], [/no time/, { endMs: Infinity }], [/no time/, { startMs: -1 }], [/time to live/, { ttlMs: -1 }], [/time to live/, { ttlMs: 0.5 }],
    [/more than 200 nodes/, { items: Array.from({ length: MAX_NODES_PER_CLUSTER + 1 }, (_, i) => item(`l${i}`)) }]
  ]
  for (const [why, part] of badHolds) t.match(holdProblem({ ...good, ...part }), why, JSON.stringify(part).slice(0, 80))

  const request: Request = {
    key: 'k', clusterId: ID, cluster: 'demo', vni: 7, masterSite: 'tokyo', startMs: T0, endMs: T0 + HOUR, nodes: [{ name: 'n', vcpus: 1, memoryMib: 1 }],
    volumes: [{ name: 'v', sizeMib: 1, node: 'n' }], frontend: false, holdTtlMs: 0, bandwidthMbit: 0, epoch: 1, sentMs: T0, grow: false
  }
  t.equal(requestProblem(request), null)
  const badRequests: Array<[RegExp, Partial<Request>]> = [
    [/no UUID/, { clusterId: 'x' }], [/VNI 0/, { vni: 0 }], [/idempotency key/, { key: '' }], [/node n is asked for twice/, { nodes: [...request.nodes, ...request.nodes] }],
    [/volume is asked for twice/, { volumes: [...request.volumes, ...request.volumes] }], [/no vCPU/, { nodes: [{ name: 'n', vcpus: 0, memoryMib: 1 }] }],
    [/not within/, { volumes: [{ name: 'v', sizeMib: 0, node: 'n' }] }], [/not asked for here/, { volumes: [{ name: 'v', sizeMib: 1, node: 'm' }] }], [/malformed/, { nodes: [{ name: '', vcpus: 1, memoryMib: 1 }], volumes: [] }],
    [/epoch 0/, { epoch: 0 }], [/epoch 4294967296/, { epoch: 2 ** 32 }], [/no time/, { sentMs: NaN }], [/no time/, { sentMs: -1 }], [/bandwidth of -1/, { bandwidthMbit: -1 }], [/bandwidth of 1e\+21/, { bandwidthMbit: 1e21 }],
    [/time to live/, { holdTtlMs: NaN }], [/no time/, { endMs: NaN }], [/contradicts itself/, { grow: true, frontend: true }], [/more than 64 volumes/, { volumes: Array.from({ length: 65 }, (_, i) => ({ name: `v${i}`, sizeMib: 1, node: 'n' })) }],
    [/more than 200 nodes/, { volumes: [], nodes: Array.from({ length: MAX_NODES_PER_CLUSTER + 1 }, (_, i) => ({ name: `n${i}`, vcpus: 1, memoryMib: 1 })) }]
  ]
  for (const [why, part] of badRequests) t.match(requestProblem({ ...request, ...part }), why, JSON.stringify(part).slice(0, 80))
  t.ok(isUuid(ID))
  t.end()
})

t.test('terms are asked for in time', t => {
  t.equal(termProblem({ startMs: T0, endMs: T0 + HOUR }, T0), null)
  const bad: Array<[RegExp, number, number]> = [
    [/ends in the past/, T0 - 2 * HOUR, T0 - HOUR], [/below/, T0, T0 + 1], [/below/, T0 + HOUR, T0 + 1], [/above/, T0, T0 + MAX_TERM_MS + 1],
    [/too far/, T0 + 2 * MAX_TERM_MS, T0 + 2 * MAX_TERM_MS + HOUR], [/no time/, NaN, T0 + HOUR], [/no time/, T0, Infinity], [/no time/, -1, T0 + HOUR]
  ]
  for (const [why, startMs, endMs] of bad) t.match(termProblem({ startMs, endMs }, T0), why, `${startMs} ${endMs}`)
  t.end()
})

t.test('what is said about live clusters has form and measure', t => {
  const grant = { envelope: new Uint8Array(100), chain: [new Uint8Array(100)] }
  const good = {
    extend: { key: 'k', clusterId: ID, offerId: 'o1', endMs: T0 + HOUR, ttlMs: 30_000, epoch: 1, sentMs: T0 },
    hostExtend: { key: 'k', clusterId: ID, offerId: 'o1', endMs: T0 + HOUR, ttlMs: 30_000, epoch: 0, leaseIds: ['l1', 'l2'] },
    commit: { key: 'k', clusterId: ID, offerId: 'o1', epoch: 1 },
    hostCommit: { clusterId: ID, offerId: 'o1', epoch: 0 },
    release: { clusterId: ID, reason: 'x', offerId: '', leaseIds: ['l1'], epoch: 0 },
    keepAlive: { clusterId: ID, epoch: 1, sentMs: T0, grant },
    hostKeepAlive: { clusterId: ID, epoch: 1, holder: 'peer-tokyo-1' },
    claim: { clusterId: ID, epoch: 2, force: false },
    copy: { clusterId: ID, epoch: 1, record: new Uint8Array(10) }
  }
  const check = {
    extend: (r: typeof good.extend) => extendProblem(r, T0), hostExtend: (r: typeof good.hostExtend) => hostExtendProblem(r, T0), commit: commitProblem, hostCommit: hostCommitProblem,
    release: releaseProblem, keepAlive: keepAliveProblem, hostKeepAlive: hostKeepAliveProblem, claim: claimProblem, copy: copyProblem
  }
  const says = (kind: keyof typeof good, part: object = {}): string | null => (check[kind] as (request: object) => string | null)({ ...good[kind], ...part })
  for (const kind of Object.keys(good) as Array<keyof typeof good>) {
    t.equal(says(kind), null, kind)
    t.match(says(kind, { clusterId: 'c1' }), /no UUID/, kind)
    for (const epoch of [-1, NaN, 0.5, 2 ** 32]) t.match(says(kind, { epoch }), /epoch/, `${kind} ${epoch}`)
  }
  for (const kind of ['extend', 'commit', 'keepAlive', 'hostKeepAlive', 'claim', 'copy'] as const) t.match(says(kind, { epoch: 0 }), /epoch 0/, kind)
  for (const kind of ['extend', 'hostExtend'] as const) {
    for (const [why, part] of [[/in the past/, { endMs: T0 }], [/no time/, { endMs: NaN }], [/no time/, { endMs: -1 }], [/too far/, { endMs: T0 + 3 * MAX_TERM_MS }], [/time to live/, { ttlMs: -1 }], [/key/, { key: '' }], [/key/, { key: 'x'.repeat(257) }], [/offer/, { offerId: '' }]] as const) t.match(says(kind, part), why, kind)
  }
  const bad: Array<[keyof typeof good, RegExp, object]> = [
    ['hostExtend', /names no lease/, { leaseIds: [] }], ['hostExtend', /l1 is named twice/, { leaseIds: ['l1', 'l1'] }], ['hostExtend', /malformed/, { leaseIds: ['a b'] }],
    ['hostExtend', /too many/, { leaseIds: Array.from({ length: 1000 }, (_, i) => `l${i}`) }],
    ['extend', /no time/, { sentMs: -1 }], ['keepAlive', /no time/, { sentMs: NaN }], ['commit', /offer/, { offerId: 'x'.repeat(65) }], ['commit', /key/, { key: 'x'.repeat(257) }], ['hostCommit', /offer/, { offerId: 'a/b' }],
    ['release', /reason/, { reason: 'x'.repeat(1025) }], ['release', /contradicts itself/, { offerId: 'o1' }], ['release', /malformed/, { leaseIds: [''] }], ['release', /offer/, { offerId: 'a b', leaseIds: [] }],
    ['keepAlive', /grant/, { grant: { ...grant, envelope: new Uint8Array(4096) } }], ['keepAlive', /grant/, { grant: { ...grant, chain: Array.from({ length: 4 }, () => new Uint8Array(1)) } }],
    ['hostKeepAlive', /holder/, { holder: '' }], ['hostKeepAlive', /holder/, { holder: 'x'.repeat(129) }], ['claim', /first master/, { epoch: 1 }],
    ['copy', /record/, { record: new Uint8Array(MAX_COPY_BYTES + 1) }]
  ]
  for (const [kind, why, part] of bad) t.match(says(kind, part), why, `${kind} ${String(why)}`)
  t.equal(says('keepAlive', { grant: null }), null)
  t.equal(says('release', { leaseIds: [] }), null)
  const notice = { clusterId: ID, seq: 1, endMs: T0 + HOUR, reason: 'preempted' }
  t.same([hostCurtailProblem(notice, T0), hostRestoreProblem(notice)], [null, null])
  for (const part of [{ clusterId: 'c1' }, { seq: 0 }, { seq: 1.5 }, { seq: NaN }]) t.ok([hostCurtailProblem({ ...notice, ...part }, T0), hostRestoreProblem({ ...notice, ...part })].every(problem => problem !== null))
  for (const part of [{ endMs: T0 }, { endMs: NaN }, { endMs: T0 + 3 * MAX_TERM_MS }, { reason: 'x'.repeat(1025) }]) t.not(hostCurtailProblem({ ...notice, ...part }, T0), null)
  t.end()
})

t.test('the next version of a document adds, and exchanges nothing', t => {
  const before = build()
  const next = (change: Change = () => undefined): ClusterDocument => changed(d => { d.version = 2; d.epoch = 2; d.masterPeer = 'peer-tokyo-2'; change(d) })
  t.equal(growthProblem(before, next()), null)
  t.equal(growthProblem(before, JSON.parse(JSON.stringify(Object.fromEntries(Object.entries(next()).reverse()))) as ClusterDocument), null, 'the order of keys is nothing')
  t.equal(growthProblem(before, next(d => {
    d.nodes.push({ ...first(d.nodes), name: 'demo-tokyo-009', index: 9, leaseId: 'new', uuid: ID })
    at(d, 'tokyo').hosts.push({ ...first(at(d, 'tokyo').hosts), host: 'tokyo-9', gateway: false })
    d.endMs += HOUR
  })), null, 'more of it')
  t.equal(growthProblem(before, next(d => { d.nodes.pop() })), null, 'less of it')
  t.equal(growthProblem(changed(d => { delete (d as Partial<ClusterDocument>).antiSpoofOff }), next()), null, 'of one that an earlier release wrote')
  const bad: Array<[RegExp, Change]> = [
    [/version 1 is not newer/, d => { d.version = 1 }], [/epoch 0 is older/, d => { d.epoch = 0 }], [/vni is another/, d => { d.vni = 9 }], [/frontend is another/, d => { d.frontend.ip = '10.42.0.99' }],
    [/imageDigest is another/, d => { d.imageDigest = 'x' }], [/sshPublicKey is another/, d => { d.sshPublicKey = 'x' }], [/antiSpoofOff is another/, d => { d.antiSpoofOff = true }], [/demo-.* is another/, d => { first(d.nodes).uuid = ID }], [/data is another/, d => { first(d.volumes).leaseId = 'x' }],
    [/site tsukuba is another/, d => { at(d, 'tsukuba').gateway.tunnelEndpoint = '192.0.2.66:1' }], [/site tsukuba is another/, d => { at(d, 'tsukuba').segmentId = 7 }],
    [/host tsukuba\/tsukuba-2 is another/, d => { first(at(d, 'tsukuba').hosts, h => !h.gateway).underlayAddress = '192.0.2.66' }]
  ]
  for (const [why, change] of bad) t.match(growthProblem(before, next(change)), why, String(why))
  t.end()
})

t.test('no peer fills a host\'s ledger, and no id looks like another\'s', t => {
  const state = emptyLedger('a1', { ...zero(), vcpus: 10_000, memoryMib: 10_000_000 })
  const hold = (i: number, requester: string, size: number, clusterId = `cluster-${i}`): LeaseEvent => ({
    type: 'hold', requester, request: holdRequest({ key: `k${i}`, offerId: `o${i}`, clusterId, startMs: T0, endMs: T0 + HOUR, items: Array.from({ length: size }, (_, n) => item(`l${i}-${n}`)) })
  })
  const send = (event: LeaseEvent): ReturnType<typeof advance>['result'] => advance(state, event, T0).result
  t.equal(send(hold(1, 'greedy', MAX_LEASES_PER_PEER, 'a0000000-1')).ok, true)
  t.match(send(hold(2, 'greedy', 1, 'b0000000-1')), { ok: false, error: { code: 'NO_CAPACITY', message: /leases for peer greedy/ } })
  t.equal(send(hold(3, 'modest', 1, 'c0000000-1')).ok, true)
  t.match(send(hold(4, 'modest', 1, 'c0000000-2')), { ok: false, error: { code: 'CONFLICT', message: /begins as that of another cluster/ } })
  const committed = send({ type: 'commit', clusterId: 'c0000000-1', offerId: 'o3' })
  send({ type: 'activate', clusterId: 'c0000000-1', receipts: committed.ok ? committed.answer.receipts : [] })
  send({ type: 'release', clusterId: 'c0000000-1', reason: 'x' })
  t.equal(send(hold(4, 'modest', 1, 'c0000000-2')).ok, false, 'its objects may still be there')
  send({ type: 'vacate', clusterId: 'c0000000-1' })
  t.equal(send(hold(4, 'modest', 1, 'c0000000-2')).ok, true)
  t.end()
})
