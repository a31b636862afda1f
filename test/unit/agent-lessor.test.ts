import { createHash } from 'node:crypto'
import { mkdir, writeFile } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import t, { type Test } from 'tap'
import { createFrontendDriver } from '../../agent/drivers/boot/frontend.ts'
import { checkFrontendSpec } from '../../agent/drivers/boot/render.ts'
import { createFakeDriver, createMemoryFakeStore, type FakeStore } from '../../agent/drivers/fake.ts'
import { tunnelAddressFor } from '../../agent/drivers/network/address.ts'
import { createRecords } from '../../agent/drivers/network/records.ts'
import { createSegmentDriver } from '../../agent/drivers/network/segment.ts'
import { createEventLog } from '../../agent/events.ts'
import { makeOffer, type OfferDeps } from '../../agent/gateway/offer.ts'
import { createLessor, type Lessor } from '../../agent/lessor.ts'
import { negotiate, type KnownSite, type NegotiationDeps } from '../../agent/master/negotiate.ts'
import type { ClusterRecord } from '../../agent/master/record.ts'
import type { Activate, Caller, CallPeer } from '../../agent/peers.ts'
import { createReconciler, type Reconciler } from '../../agent/reconciler.ts'
import type { FrontendSpec, SegmentSpec } from '../../protocol/core/desired.ts'
import { buildClusterDocument } from '../../protocol/core/document.ts'
import { UnreachableError } from '../../protocol/core/errors.ts'
import type { ClusterDocument, Offer, Receipt, Request } from '../../protocol/core/messages.ts'
import { placeAtSite, siteCapacityOf } from '../../protocol/core/placement.ts'
import type { GatewayTruth } from '../../protocol/core/verify.ts'
import { openLedger, type Ledger } from '../../store/ledger.ts'
import { createMemoryStore } from '../../store/memory.ts'
import { HOUR, holdRequest, item, offerFor, spec } from '../model/fixtures.ts'
import { eventually, host as planned, silent, startFederation, wanted } from '../model/federation.ts'

const T0 = 1_800_000_000_000
const hash = (text: string): string => createHash('sha256').update(text).digest('hex')
const keyOf = (text: string): string => createHash('sha256').update(text).digest('base64')
const idOf = (n: number): string => `${String(n).padStart(8, '0')}-0000-4000-8000-000000000000`
const gatewayTruth: GatewayTruth = { isGatewayOf: (peer, site, host) => peer === `peer-${host}` && host === `${site}-1`, tunnelAddressFor }
const TOKYO = [{ host: 'tokyo-1', roles: ['gateway', 'compute', 'storage'], free: { vcpus: 8, memoryMib: 8192, diskMib: 1000 } }]

/** The offer of tokyo for a cluster of two nodes, with ids of its own. */
function offerOf (id: string, name: string, segmentId: number): Offer {
  const part = { site: 'tokyo', nodes: [1, 2].map(i => ({ name: `${name}-tokyo-00${i}`, vcpus: 1, memoryMib: 512 })), volumes: [{ name: 'data', sizeMib: 64, node: `${name}-tokyo-001` }], frontend: true }
  const offer = offerFor('tokyo', 0, part, TOKYO)
  return {
    ...offer, segmentId, offerId: `o-${id}`, held: offer.held.map((held, i) => ({ ...held, leaseId: `l${i}-${id}` })),
    gateway: { ...offer.gateway, tunnelPublicKey: keyOf('tokyo-1'), tunnelAddress: tunnelAddressFor('peer-tokyo-1') }
  }
}

interface Cluster { id: string, document: ClusterDocument, offer: Offer }
function cluster (n: number, { vni = n, segmentId = 1000 + n } = {}): Cluster {
  const id = idOf(n)
  const offer = offerOf(id, 'demo', segmentId)
  const document = buildClusterDocument({
    id, name: 'demo', spec: spec({ nodes: { count: 2, vcpus: 1, memoryMiB: 512 }, volumes: [{ name: 'data', sizeMiB: 64, node: 1 }] }), offers: [offer],
    masterSite: 'tokyo', masterPeer: 'peer-tokyo-1', vni, nowMs: T0, sshPublicKey: 'ssh-ed25519 AAAA', imageDigest: `sha256:${'0'.repeat(64)}`, hash
  })
  return { id, document, offer }
}

interface Bench { lessor: Lessor, ledger: Ledger, reconciler: Reconciler, objects: FakeStore, lend: (one: Cluster) => Promise<Activate>, running: () => Promise<string[]> }
async function bench (t: Test): Promise<Bench> {
  const now = (): number => T0
  const ledger = await openLedger({ store: createMemoryStore(), now, host: 'tokyo-1', capacity: { vcpus: 8, memoryMib: 8192, diskMib: 1000 }, slice: { from: 1000, to: 1999 } })
  const objects = createMemoryFakeStore()
  const reconciler = createReconciler({
    drivers: {
      volume: createFakeDriver('volume', { store: objects }), tunnel: createFakeDriver('tunnel', { store: objects }), segment: createFakeDriver('segment', { store: objects }),
      frontend: createFakeDriver('frontend', { store: objects }), cache: createFakeDriver('cache', { store: objects }), domain: createFakeDriver('domain', { store: objects })
    },
    desired: () => lessor.desired(), leaveAlone: () => lessor.undecided(), log: silent
  })
  t.teardown(() => reconciler.stop())
  const lessor: Lessor = createLessor({
    site: 'tokyo', host: 'tokyo-1', ledger, reconciler: () => reconciler, details: { of: () => Promise.resolve({}) }, events: createEventLog(now), now,
    truth: { ...gatewayTruth, peer: 'peer-tokyo-1', underlayAddress: '192.0.2.1', tunnelPort: 51820, addressOf: () => null }
  })
  return {
    lessor, ledger, reconciler, objects,
    async lend ({ id, offer, document }) {
      const items = offer.held.map(held => item(held.leaseId, { kind: held.kind, name: held.name, resources: held.resources, segmentId: held.kind === 'segment' ? offer.segmentId : 0 }))
      await lessor.hold(holdRequest({ key: `k-${id}`, clusterId: id, offerId: offer.offerId, startMs: T0, endMs: T0 + HOUR, items }))
      const { receipts } = await lessor.commit({ clusterId: id, offerId: offer.offerId })
      return { clusterId: id, document, receipts, secrets: [{ name: 'data', user: `user-${id}`, secret: 'secret-secret' }] }
    },
    async running () {
      await reconciler.pass()
      return (await objects.list('domain')).map(one => one.name).sort()
    }
  }
}

t.test('a hold of nonsense changes nothing', async t => {
  const { lessor, ledger } = await bench(t)
  const good = { clusterId: idOf(1), startMs: T0, endMs: T0 + HOUR }
  await t.rejects(lessor.hold(holdRequest({ ...good, clusterId: 'c1' })), { code: 'INVALID_INPUT', message: /no UUID/ })
  await t.rejects(lessor.hold(holdRequest({ ...good, items: [item('l1', { name: 'x'.repeat(200_000) })] })), { code: 'INVALID_INPUT', message: /malformed name/ })
  await t.rejects(lessor.hold(holdRequest({ ...good, items: [item('l1', { resources: { vcpus: 0, memoryMib: 0, diskMib: 0 } })] })), { code: 'INVALID_INPUT', message: /no possible size/ })
  t.equal(ledger.state().leases.size, 0)
})

t.test('a document that asks for more than was promised starts nothing and keeps nobody from running', async t => {
  const { lessor, ledger, lend, running } = await bench(t)
  const [honest, evil] = [cluster(1), cluster(2)]
  await lessor.activate(await lend(honest))
  const asked = await lend(evil)
  const nodes = evil.document.nodes
  const more: Receipt[] = [{ leaseId: 'fake', host: 'x', token: 1 }]
  const bad: Array<[RegExp, Partial<ClusterDocument>]> = [
    [/larger than its lease/, { nodes: nodes.map(node => ({ ...node, vcpus: 64 })) }],
    [/has no lease fake/, { nodes: nodes.map((node, i) => i === 0 ? { ...node, leaseId: 'fake' } : node) }],
    [/is there twice/, { nodes: nodes.map(node => ({ ...node, name: 'demo-tokyo-001' })) }],
    [/VNI 1 belongs to cluster demo/, { vni: 1 }],
    [/segment id at site tokyo/, { sites: evil.document.sites.map(site => ({ ...site, segmentId: 1001 })) }]
  ]
  for (const [why, part] of bad) await t.rejects(lessor.activate({ ...asked, receipts: [...asked.receipts, ...more], document: { ...evil.document, ...part } }), { code: 'CONFLICT', message: why }, String(why))
  await t.rejects(lessor.activate({ ...asked, secrets: [{ name: 'data', user: `user-${honest.id}`, secret: 'other-secret' }] }), { code: 'CONFLICT', message: /CHAP user .* belongs to another cluster/ })
  t.equal(ledger.clusterState(evil.id), 'committed')
  t.strictSame(await running(), ['00000001.demo-tokyo-001', '00000001.demo-tokyo-002'])
  await lessor.release({ clusterId: honest.id, reason: 'x' })
  t.strictSame(await running(), [])
  t.strictSame(await lessor.activate(asked), { site: 'tokyo' }, 'and the honest document of the same leases is accepted')
})

t.test('the id of a cluster never looks like that of another one here', async t => {
  const { lend } = await bench(t)
  await lend(cluster(1))
  const twin = cluster(2)
  twin.id = `${idOf(1).slice(0, 8)}${idOf(2).slice(8, 35)}1`
  await t.rejects(lend(twin), { code: 'CONFLICT', message: /begins as that of another cluster/ })
})

t.test('what runs is never exchanged', async t => {
  const { lessor, ledger, lend } = await bench(t)
  const one = cluster(1)
  const asked = await lend(one)
  await lessor.activate(asked)
  await lessor.activate(structuredClone(asked))
  await lessor.activate({ ...asked, document: JSON.parse(JSON.stringify(Object.fromEntries(Object.entries(one.document).reverse()))) as ClusterDocument })
  await t.rejects(lessor.activate({ ...asked, document: { ...one.document, sshPublicKey: 'ssh-ed25519 BBBB' } }), { code: 'CONFLICT', message: /active on tokyo-1 with another document/ })
  await t.rejects(ledger.activate(one.id, asked.receipts, { document: { ...one.document, epoch: 2 }, secrets: [] }), { code: 'CONFLICT' })
  t.strictSame(ledger.activeDocuments(), [{ document: one.document, secrets: asked.secrets }])
})

t.test('of two that claim one VNI at the same time one runs', async t => {
  const { lessor, ledger, lend } = await bench(t)
  const asked = [await lend(cluster(1, { vni: 7 })), await lend(cluster(2, { vni: 7 }))]
  const results = await Promise.allSettled(asked.map(one => lessor.activate(one)))
  t.strictSame(results.map(one => one.status).sort(), ['fulfilled', 'rejected'])
  t.equal(ledger.activeDocuments().length, 1)
})

t.test('what was activated last comes last', async t => {
  const { lessor, ledger, lend } = await bench(t)
  const [second, first] = [await lend(cluster(1)), await lend(cluster(2))]
  await lessor.activate(first)
  await lessor.activate(second)
  t.strictSame(ledger.activeDocuments().map(one => one.document.id), [idOf(2), idOf(1)])
})

const PLANS = [planned('tokyo', 1, 'gateway compute', 2), planned('tsukuba', 1, 'gateway', 1), planned('tsukuba', 2, 'compute storage', 2)]

t.test('a site learns the secrets of its own volumes', async t => {
  const model = await startFederation(PLANS)
  t.teardown(() => model.stop())
  const { id } = await model.master('tokyo-1').create(wanted('demo', 2, { volumes: [{ name: 'data', sizeMiB: 64, node: 2 }] }))
  await eventually('the cluster', () => model.master('tokyo-1').get(id).state === 'building')
  const told = model.calls.filter(call => call.method === 'activate').map(call => [call.to, (call.request as Activate).secrets.map(secret => secret.name)])
  t.strictSame(told.sort(), [['tokyo-1', []], ['tsukuba-1', ['data']]])
})

t.test('a gateway passes on what it offered, to the master that asked in its own name', async t => {
  const model = await startFederation(PLANS)
  t.teardown(() => model.stop())
  const { gateway } = model.alive('tsukuba-1')
  if (gateway === null) throw new Error('tsukuba-1 is no gateway')
  const caller: Caller = { peerId: 'peer-tokyo-1', site: 'tokyo', host: 'tokyo-1', gateway: true }
  const ask: Request = {
    key: 'k', clusterId: idOf(1), cluster: 'demo', vni: 7, masterSite: 'tokyo', startMs: model.clockMs, endMs: model.clockMs + HOUR,
    nodes: [{ name: 'demo-tsukuba-001', vcpus: 1, memoryMib: 512 }], volumes: [], frontend: false, holdTtlMs: 30_000
  }
  await t.rejects(gateway.request({ ...ask, masterSite: 'osaka' }, caller), { code: 'FORBIDDEN', message: /in the name of site osaka/ })
  await t.rejects(gateway.request({ ...ask, clusterId: 'c1' }, caller), { code: 'INVALID_INPUT', message: /no UUID/ })
  t.strictSame(model.calls, [], 'no host was asked')
  const { id } = await model.master('tokyo-1').create(wanted('demo', 3))
  await eventually('the cluster', () => model.master('tokyo-1').get(id).state === 'building')
  const { document, receipts } = model.master('tokyo-1').record(id)
  if (document === null) throw new Error('no document')
  const refused = async (why: RegExp, part: Partial<ClusterDocument>): Promise<void> => {
    await t.rejects(gateway.activate({ clusterId: id, document: { ...document, ...part }, receipts, secrets: [] }, caller), { code: 'CONFLICT', message: why }, String(why))
  }
  await refused(/had/, { vni: document.vni + 1 })
  await refused(/its master is not tokyo-1/, { masterSite: 'tsukuba' })
  await refused(/its master is not tokyo-1/, { masterPeer: 'peer-tsukuba-1' })
  await refused(/it is of cluster/, { id: idOf(9) })
  await refused(/not as offered/, { sites: document.sites.map(site => ({ ...site, gateway: { ...site.gateway, tunnelEndpoint: '192.0.2.66:1' } })) })
  await gateway.activate({ clusterId: id, document, receipts, secrets: [] }, caller)
})

t.test('a request takes one segment id however often it tries, and gives it back', async t => {
  const taken = new Set<number>()
  let proposals = 0
  const deps: OfferDeps = {
    site: 'tokyo', newId: () => `id-${++proposals}`, now: () => T0,
    call: (_peer, method) => method === 'hold' ? Promise.reject(new UnreachableError('gone')) : Promise.resolve({} as never),
    facts: () => Promise.resolve(offerOf(idOf(1), 'demo', 1).gateway),
    siteHosts: () => ['tokyo-1', 'tokyo-2', 'tokyo-3', 'tokyo-4'].map(host => ({ host, peer: `peer-${host}`, underlayAddress: '192.0.2.1', roles: ['gateway', 'compute'], free: { vcpus: 1, memoryMib: 1024, diskMib: 0 } })),
    proposeSegmentId () {
      if (taken.size > 0) throw new Error('a second id for one request')
      taken.add(1)
      return { id: 1, release: () => { taken.clear() } }
    }
  }
  const caller: Caller = { peerId: 'peer-osaka-1', site: 'osaka', host: 'osaka-1', gateway: true }
  const request: Request = {
    key: 'k', clusterId: idOf(1), cluster: 'demo', vni: 7, masterSite: 'osaka', startMs: T0, endMs: T0 + HOUR,
    nodes: [{ name: 'n', vcpus: 1, memoryMib: 512 }], volumes: [], frontend: false, holdTtlMs: 0
  }
  const tried: number[] = []
  for (let i = 0; i < 3; i++) await t.rejects(makeOffer(deps, request, caller, offer => { tried.push(offer.segmentId); return Promise.resolve() }), { code: 'NO_CAPACITY' })
  t.equal(tried.length, 9, 'three placements each')
  t.equal(taken.size, 0)
})

t.test('a master believes no lender beyond what it asked for', async t => {
  const site: KnownSite = { ...siteCapacityOf('tokyo', TOKYO), peer: 'peer-tokyo-1', gatewayHost: 'tokyo-1' }
  const attempt = async (change: (offer: Offer) => Offer, laterMs = 0): Promise<unknown> => {
    let clock = 0
    const call = ((_peer: string, method: string, request: unknown) => {
      if (method !== 'request') return Promise.resolve(method === 'commit' ? { site: 'tokyo', receipts: offerOf(idOf(1), 'demo', 1000).held.map(held => ({ leaseId: held.leaseId, host: held.host, token: 1 })) } : { site: 'tokyo', ended: 0 })
      clock += laterMs
      const { nodes, volumes, frontend } = request as Request
      const placed = placeAtSite({ nodes, volumes, frontend }, TOKYO)
      if ('refusal' in placed) return Promise.reject(new Error(placed.refusal))
      return Promise.resolve(change(offerOf(idOf(1), 'demo', 1000)))
    }) as unknown as CallPeer
    const record = {
      id: idOf(1), name: 'demo', state: 'negotiating', spec: spec({ nodes: { count: 2, vcpus: 1, memoryMiB: 512 }, volumes: [{ name: 'data', sizeMiB: 64, node: 1 }] }),
      vni: 7, createdMs: T0, endMs: T0 + HOUR, asked: [], offers: [], receipts: []
    } as unknown as ClusterRecord
    const deps: NegotiationDeps = { site: 'tokyo', call, sites: () => [site], monotonic: () => clock, newId: () => idOf(2), log: silent, truth: gatewayTruth, save: () => Promise.resolve(), progress: () => undefined }
    return await negotiate(deps, record).then(() => 'committed', (error: unknown) => error)
  }
  t.equal(await attempt(offer => offer), 'committed')
  t.match(await attempt(offer => ({ ...offer, ttlMs: 4_000_000_000 }), 31_000), { code: 'UNREACHABLE', message: /ran out/ })
  t.match(await attempt(offer => ({ ...offer, ttlMs: 0 })), { code: 'BAD_OFFER', message: /no time at all/ })
  t.match(await attempt(offer => ({ ...offer, gateway: { ...offer.gateway, peer: 'peer-tsukuba-1' } })), { code: 'BAD_OFFER', message: /another gateway than was asked/ })
  t.match(await attempt(offer => ({ ...offer, gateway: { ...offer.gateway, tunnelAddress: '100.64.0.9' } })), { code: 'BAD_OFFER', message: /tunnel address/ })
})

t.test('drivers take no second segment or frontend on one id', async t => {
  const stateDir = t.testdir()
  const segment: SegmentSpec = { cluster: 'demo', vni: 1, site: { segmentId: 1000, localAddress: '192.0.2.1', remoteAddresses: [] }, compute: true }
  await createRecords<SegmentSpec>(join(stateDir, 'segments')).put('a.segment', segment)
  const signal = AbortSignal.timeout(10_000)
  await t.rejects(createSegmentDriver({ stateDir }).apply('b.segment', { ...segment, vni: 2 }, signal), { code: 'CONFLICT', message: /segment id 1000 is a.segment's/ })

  const frontend: FrontendSpec = {
    cluster: 'demo', clusterId: idOf(1), vni: 1, name: 'demo-fe', address: '10.42.0.1/16', mac: '52:54:00:00:00:01', domain: 'demo.internal', image: { digest: 'none' }, nodes: [], sshPublicKey: 'ssh-ed25519 AAAA'
  }
  const file = join(stateDir, 'frontends', 'a.frontend', 'record.json')
  await mkdir(dirname(file), { recursive: true })
  await writeFile(file, JSON.stringify({ fingerprint: 'x', spec: frontend }))
  const services = new Proxy({}, { get: () => () => { throw new Error('nothing is started') } }) as Parameters<typeof createFrontendDriver>[0]['services']
  await t.rejects(createFrontendDriver({ stateDir, imageStoreDir: stateDir, services }).apply('b.frontend', frontend, signal), { code: 'CONFLICT', message: /already has the frontend a.frontend/ })

  const node = { name: 'n', mac: '52:54:00:00:00:02', ip: '10.42.1.1', site: 'tokyo' }
  t.doesNotThrow(() => { checkFrontendSpec({ ...frontend, nodes: [node] }) })
  t.throws(() => { checkFrontendSpec({ ...frontend, clusterId: 'x\nauthorized-key ssh-ed25519 AAAA' }) }, { code: 'INVALID_INPUT', message: /no cluster id/ })
  t.throws(() => { checkFrontendSpec({ ...frontend, nodes: [{ ...node, site: 's\nhost 192.0.2.1 x' }] }) }, { code: 'INVALID_INPUT', message: /no site name/ })
})
