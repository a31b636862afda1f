import { createHash } from 'node:crypto'
import { mkdir, writeFile } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { pino } from 'pino'
import t, { type Test } from 'tap'
import { createFrontendDriver } from '../../../agent/drivers/boot/frontend.ts'
import { checkFrontendSpec } from '../../../agent/drivers/boot/render.ts'
import { createFakeDriver, createMemoryFakeStore, type FakeStore } from '../../../agent/drivers/fake.ts'
import { tunnelAddressFor } from '../../../agent/drivers/network/address.ts'
import { createRecords } from '../../../agent/drivers/network/records.ts'
import { createPidfileServices } from '../../../agent/services/pidfile.ts'
import { createSegmentDriver } from '../../../agent/drivers/network/segment.ts'
import { createEventLog } from '../../../agent/events.ts'
import { type Fence, openFence } from '../../../agent/helper/fence/store.ts'
import { createLessor, type Lessor } from '../../../agent/lessor/lessor.ts'
import type { Activate, Caller } from '../../../agent/peers.ts'
import { createReconciler, type Reconciler } from '../../../agent/reconcile/reconciler.ts'
import { zero } from '../../../protocol/core/capacity.ts'
import type { FrontendSpec, SegmentSpec } from '../../../protocol/core/desired.ts'
import { buildClusterDocument } from '../../../protocol/core/document.ts'
import { MusubiError } from '../../../protocol/core/errors.ts'
import { MASTERLESS_MS } from '../../../protocol/core/limits.ts'
import type { ClusterDocument, EpochGrant, Offer, Receipt, ReleaseRequest } from '../../../protocol/core/messages.ts'
import { nodeResources } from '../../../protocol/core/placement/at-site.ts'
import type { GatewayTruth } from '../../../protocol/core/verify/document.ts'
import { openLedger, type Ledger } from '../../../store/ledger.ts'
import { createMemoryStore } from '../../../store/memory.ts'
import type { Store } from '../../../store/store.ts'
import { HOUR, holdRequest, item, offerFor, spec } from '../../model/fixtures.ts'

const T0 = 1_800_000_000_000
const hash = (text: string): string => createHash('sha256').update(text).digest('hex')
const keyOf = (text: string): string => createHash('sha256').update(text).digest('base64')
const idOf = (n: number): string => `${String(n).padStart(8, '0')}-0000-4000-8000-000000000000`
const gatewayTruth: GatewayTruth = { isGatewayOf: (peer, site, host) => peer === `peer-${host}` && host === `${site}-1`, tunnelAddressFor }
const GATEWAY: Caller = { peerId: 'peer-tokyo-2', site: 'tokyo', host: 'tokyo-2', gateway: true }
const CAPACITY = { vcpus: 8, memoryMib: 8192, diskMib: 1000, volumes: 8, bandwidthMbit: 0 }
const TOKYO = [{ host: 'tokyo-1', roles: ['gateway', 'compute', 'storage'], free: CAPACITY }]

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

interface Bench {
  lessor: Lessor, ledger: Ledger, reconciler: Reconciler, fence: Fence, objects: FakeStore, store: Store, clock: { ms: number }, signed: EpochGrant[]
  lend: (one: Cluster) => Promise<Activate>
  running: () => Promise<string[]>
}
async function bench (t: Test): Promise<Bench> {
  const clock = { ms: T0 }
  const now = (): number => clock.ms
  const store = createMemoryStore()
  const signed: EpochGrant[] = []
  const ledger = await openLedger({ store, now, host: 'tokyo-1', capacity: CAPACITY, slice: { from: 1000, to: 1999 } })
  const fence = await openFence({ store, now })
  const objects = createMemoryFakeStore()
  const reconciler = createReconciler({
    drivers: {
      volume: createFakeDriver('volume', { store: objects }), tunnel: createFakeDriver('tunnel', { store: objects }), segment: createFakeDriver('segment', { store: objects }),
      frontend: createFakeDriver('frontend', { store: objects }), cache: createFakeDriver('cache', { store: objects }), domain: createFakeDriver('domain', { store: objects })
    },
    desired: () => lessor.desired(), leaveAlone: () => lessor.undecided(), log: pino({ level: 'silent' }), fence: { fence, tenancy: () => lessor.tenancy() }
  })
  t.teardown(() => reconciler.stop())
  const lessor: Lessor = createLessor({
    site: 'tokyo', host: 'tokyo-1', ledger, reconciler: () => reconciler, details: { of: () => Promise.resolve({}) }, events: createEventLog(now), now, fence,
    monotonic: () => performance.now(), sleep: ms => new Promise(resolve => { setTimeout(resolve, ms) }),
    signGrant: grant => { signed.push(grant); return { envelope: new Uint8Array(1), chain: [] } },
    truth: { ...gatewayTruth, peer: 'peer-tokyo-1', underlayAddress: '192.0.2.1', tunnelEndpoint: '192.0.2.1:51820', addressOf: () => null }
  })
  return {
    lessor, ledger, reconciler, fence, objects, store, clock, signed,
    async lend ({ id, offer, document }) {
      const items = offer.held.map(held => item(held.leaseId, { kind: held.kind, name: held.name, resources: held.resources, segmentId: held.kind === 'segment' ? offer.segmentId : 0 }))
      await lessor.hold(holdRequest({ key: `k-${id}`, clusterId: id, offerId: offer.offerId, startMs: T0, endMs: T0 + HOUR, items }))
      const { receipts } = await lessor.commit({ clusterId: id, offerId: offer.offerId, epoch: 1 })
      return { clusterId: id, document, receipts, secrets: [{ name: 'data', user: `user-${id}`, secret: 'secret-secret' }], epoch: 1 }
    },
    async running () {
      await reconciler.pass()
      return (await objects.list('domain')).map(one => one.name).sort()
    }
  }
}
const release = (part: Partial<ReleaseRequest>): ReleaseRequest => ({ clusterId: idOf(1), reason: 'x', offerId: '', leaseIds: [], epoch: 0, ...part })

t.test('a hold of nonsense changes nothing', async t => {
  const { lessor, ledger } = await bench(t)
  const good = { clusterId: idOf(1), startMs: T0, endMs: T0 + HOUR }
  await t.rejects(lessor.hold(holdRequest({ ...good, clusterId: 'c1' })), { code: 'INVALID_INPUT', message: /no UUID/ })
  await t.rejects(lessor.hold(holdRequest({ ...good, items: [item('l1', { name: 'x'.repeat(200_000) })] })), { code: 'INVALID_INPUT', message: /malformed name/ })
  await t.rejects(lessor.hold(holdRequest({ ...good, items: [item('l1', { resources: zero() })] })), { code: 'INVALID_INPUT', message: /no possible size/ })
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
  await lessor.release(release({ clusterId: honest.id }))
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
  const { lessor, ledger, lend, clock } = await bench(t)
  const [second, first] = [await lend(cluster(1)), await lend(cluster(2))]
  await lessor.activate(first)
  clock.ms += 1
  await lessor.activate(second)
  t.strictSame(ledger.activeDocuments().map(one => one.document.id), [idOf(2), idOf(1)])
})

/** The next version of a document, with a node more; and its lease. */
function grown (one: Cluster): { document: ClusterDocument, leaseId: string } {
  const leaseId = `grown-${one.id}`
  const [node] = one.document.nodes
  if (node === undefined) throw new Error('no node')
  const more = { ...node, name: 'demo-tokyo-003', index: 3, leaseId, uuid: idOf(333), ip: '10.42.0.77', mac: '52:54:00:77:77:77' }
  return { leaseId, document: { ...one.document, version: 2, nodes: [...one.document.nodes, more] } }
}

t.test('a cluster grows: the next document takes the place of the first, and nothing that runs is exchanged', async t => {
  const { lessor, ledger, lend, running } = await bench(t)
  const one = cluster(1)
  const asked = await lend(one)
  await lessor.activate(asked)
  const { document, leaseId } = grown(one)
  await t.rejects(lessor.activate({ ...asked, document, receipts: [...asked.receipts, { leaseId, host: 'tokyo-1', token: 1 }] }), { code: 'CONFLICT', message: /has no lease grown/ }, 'not without a lease')
  await lessor.hold(holdRequest({ key: 'more', clusterId: one.id, offerId: 'more', startMs: T0, endMs: T0 + HOUR, items: [item(leaseId, { name: 'demo-tokyo-003', resources: nodeResources({ vcpus: 1, memoryMib: 512 }) })] }))
  const { receipts } = await lessor.commit({ clusterId: one.id, offerId: 'more', epoch: 1 })
  const all = [...asked.receipts, ...receipts]
  await t.rejects(lessor.activate({ ...asked, document, receipts: asked.receipts }), { code: 'CONFLICT', message: /no receipt for demo-tokyo-003/ })
  await t.rejects(lessor.activate({ ...asked, document: { ...document, vni: 77 }, receipts: all }), { code: 'CONFLICT', message: /its vni is another than in version 1/ })
  await t.rejects(lessor.activate({ ...asked, document: { ...document, nodes: document.nodes.map((node, i) => i === 0 ? { ...node, uuid: idOf(9) } : node) }, receipts: all }), { code: 'CONFLICT', message: /is another than in version 1/ })
  t.strictSame(await running(), ['00000001.demo-tokyo-001', '00000001.demo-tokyo-002'])
  await lessor.activate({ ...asked, document, receipts: all })
  t.strictSame(await running(), ['00000001.demo-tokyo-001', '00000001.demo-tokyo-002', '00000001.demo-tokyo-003'])
  t.equal(ledger.documents.get(one.id)?.document.version, 2)
  await t.rejects(lessor.activate(asked), { code: 'CONFLICT' }, 'and the first one does not come back')
})

t.test('a cluster shrinks: what is given back goes, the rest runs on', async t => {
  const { lessor, ledger, fence, lend, running } = await bench(t)
  const one = cluster(1)
  await lessor.activate(await lend(one))
  await running()
  const gone = one.document.nodes.find(node => node.name === 'demo-tokyo-002')?.leaseId ?? ''
  const free = ledger.free().vcpus
  t.strictSame(await lessor.release(release({ leaseIds: [gone] })), { site: 'tokyo', ended: 1 })
  t.strictSame(await running(), ['00000001.demo-tokyo-001'], 'it is gone when the release is answered')
  t.equal(ledger.free().vcpus, free + 1)
  t.match(fence.get('domain 00000001.demo-tokyo-002'), { state: 'gone' })
  t.match(fence.get('domain 00000001.demo-tokyo-001'), { state: 'granted' })
  t.equal(ledger.clusterState(one.id), 'active')
  await t.rejects(lessor.release(release({ leaseIds: [gone], offerId: 'o' })), { code: 'INVALID_INPUT', message: /contradicts itself/ })
})

t.test('what ends is fenced off before anybody removes it', async t => {
  const { lessor, ledger, fence, lend, running } = await bench(t)
  const one = cluster(1)
  await lessor.activate(await lend(one))
  await running()
  const before = ledger.state().counter
  await ledger.release(one.id, 'by the operator')
  t.match(fence.get('domain 00000001.demo-tokyo-001'), { state: 'revoking' })
  await t.rejects(fence.grant('domain 00000001.demo-tokyo-001', { clusterId: one.id, counter: before, endMs: T0 + HOUR }), { code: 'STALE_COUNTER' }, 'a command that was on its way')
})

t.test('nothing is given to others while a command for it may be on its way', async t => {
  const { lessor, ledger, fence, lend, reconciler } = await bench(t)
  const one = cluster(1)
  await lessor.activate(await lend(one))
  await reconciler.stop() // nothing was made yet, but it may have been asked for
  const before = ledger.state().counter
  await ledger.release(one.id, 'test')
  await lessor.vacate().catch(() => undefined)
  t.ok(ledger.leases(one.id).some(lease => !lease.vacated), 'nobody has looked')
  await t.rejects(fence.grant('domain 00000001.demo-tokyo-001', { clusterId: one.id, counter: before, endMs: T0 + HOUR }), { code: 'STALE_COUNTER' }, 'of a resource that the fence had never heard of')
})

t.test('leases are extended in two steps, and the fence knows the new end', async t => {
  const { lessor, ledger, fence, lend, running } = await bench(t)
  const one = cluster(1)
  await lessor.activate(await lend(one))
  await running()
  const ask = { key: 'x', clusterId: one.id, offerId: 'ext', endMs: T0 + 2 * HOUR, ttlMs: 30_000, epoch: 1, leaseIds: one.offer.held.map(held => held.leaseId) }
  await t.rejects(lessor.extend({ ...ask, endMs: T0 - 1 }), { code: 'INVALID_INPUT', message: /in the past/ })
  await t.rejects(lessor.extend({ ...ask, endMs: NaN }), { code: 'INVALID_INPUT', message: /no time/ })
  t.equal((await lessor.extend(ask)).receipts.length, ask.leaseIds.length)
  const ends = (): number[] => [...new Set(ledger.leases(one.id).map(lease => lease.endMs))]
  t.strictSame(ends(), [T0 + HOUR], 'held, not yet so')
  await lessor.commit({ clusterId: one.id, offerId: 'ext', epoch: 1 })
  t.strictSame(ends(), [T0 + 2 * HOUR])
  await running()
  t.match(fence.get('domain 00000001.demo-tokyo-001'), { state: 'granted', endMs: T0 + 2 * HOUR })
})

t.test('the host with the frontend decides who is master, and signs it', async t => {
  const { lessor, ledger, lend, clock, signed } = await bench(t)
  const one = cluster(1)
  await lessor.activate(await lend(one))
  await lessor.keepAlive({ clusterId: one.id, epoch: 1, holder: 'peer1' })
  const ask = { clusterId: one.id, epoch: 2, force: false }
  await t.rejects(lessor.claim(ask, { ...GATEWAY, site: 'osaka' }), { code: 'FORBIDDEN' })
  await t.rejects(lessor.claim(ask, { ...GATEWAY, gateway: false }), { code: 'FORBIDDEN' })
  await t.rejects(lessor.claim({ ...ask, epoch: 1 }, GATEWAY), { code: 'INVALID_INPUT', message: /first master/ })
  await t.rejects(lessor.claim({ ...ask, clusterId: idOf(9) }, GATEWAY), { code: 'NOT_ANCHOR' })
  await t.rejects(lessor.claim(ask, GATEWAY), { code: 'MASTER_ALIVE' })
  t.strictSame(signed, [])
  clock.ms += MASTERLESS_MS
  t.match(await lessor.claim(ask, GATEWAY), { epoch: 2 })
  t.strictSame(signed, [{ clusterId: one.id, epoch: 2, holder: GATEWAY.peerId, site: 'tokyo', host: 'tokyo-1', grantedMs: clock.ms }])
  await t.rejects(lessor.keepAlive({ clusterId: one.id, epoch: 1, holder: 'peer1' }), { code: 'STALE_EPOCH' }, 'the former master')
  await t.rejects(lessor.commit({ clusterId: one.id, offerId: one.offer.offerId, epoch: 1 }), { code: 'STALE_EPOCH' })
  t.strictSame(await lessor.keepAlive({ clusterId: one.id, epoch: 2, holder: GATEWAY.peerId }), { state: 'active', endMs: T0 + HOUR, epoch: 2, nowMs: clock.ms })
  t.match(await lessor.claim({ ...ask, epoch: 3, force: true }, { ...GATEWAY, peerId: 'peer-tokyo-3', host: 'tokyo-3' }), { epoch: 3 }, 'by force')
  t.equal(ledger.epochOf(one.id)?.holder, 'peer-tokyo-3')
})

t.test('a disk that fails refuses by name, and the host goes on afterwards', async t => {
  const { lessor, ledger, store, lend, running, clock } = await bench(t)
  const one = cluster(1)
  await lessor.activate(await lend(one))
  await running()
  const write = store.batch.bind(store)
  store.batch = () => Promise.reject(new MusubiError('STORE_WRITE_FAILED', 'ENOSPC: no space left on device', { retryable: true }))
  await t.rejects(lend(cluster(2)), { code: 'LEDGER_FAILED', retryable: true, message: /ENOSPC/ })
  await t.rejects(lessor.release(release({ clusterId: one.id })), { code: 'LEDGER_FAILED' })
  await t.rejects(lessor.tick(), { code: 'LEDGER_FAILED' })
  t.ok(ledger.failure())
  t.match(await lessor.status(one.id), { leaseState: 'active' }, 'what runs runs on, as the disk says')
  t.strictSame(await running(), ['00000001.demo-tokyo-001', '00000001.demo-tokyo-002'])
  store.batch = write
  clock.ms += 10_000
  await lessor.tick()
  t.equal(ledger.failure(), null)
  await lend(cluster(2))
  t.strictSame(await lessor.release(release({ clusterId: one.id })), { site: 'tokyo', ended: one.offer.held.length })
  t.strictSame(await running(), [])
})

t.test('drivers take no second segment or frontend on one id', async t => {
  const stateDir = t.testdir()
  const segment: SegmentSpec = { cluster: 'demo', vni: 1, site: { segmentId: 1000, localAddress: '192.0.2.1', remoteAddresses: [] }, compute: true }
  await createRecords<SegmentSpec>(join(stateDir, 'segments')).put('a.segment', segment)
  const signal = AbortSignal.timeout(10_000)
  await t.rejects(createSegmentDriver({ stateDir, services: createPidfileServices({ dir: join(stateDir, 'services') }) }).apply('b.segment', { ...segment, vni: 2 }, signal), { code: 'CONFLICT', message: /segment id 1000 is a.segment's/ })

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
