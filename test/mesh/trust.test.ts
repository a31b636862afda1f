/** Who is let in: real libp2p over loopback, several members in this process. */
import { setTimeout as sleep } from 'node:timers/promises'
import t, { type Test } from 'tap'
import { noise } from '@chainsafe/libp2p-noise'
import { tcp } from '@libp2p/tcp'
import { yamux } from '@libp2p/yamux'
import { multiaddr } from '@multiformats/multiaddr'
import { createLibp2p } from 'libp2p'
import { createMesh, type Mesh } from '../../protocol/mesh/mesh.ts'
import { createKey, peerIdOf, type NodeKey } from '../../protocol/mesh/identity.ts'
import { admission } from '../../protocol/mesh/trust/admission.ts'
import { issue, readMember, type Chain } from '../../protocol/mesh/trust/certificate.ts'
import type { KnownPeer } from '../../protocol/mesh/trust/credentials.ts'
import { revoke } from '../../protocol/mesh/trust/revocation.ts'
import { createTrust } from '../../protocol/mesh/trust/trust.ts'
import { createKit, type Kit, type KitMember } from '../trust-kit.ts'

const DAY_MS = 24 * 3_600_000
const address = `127.${1 + Math.floor(Math.random() * 250)}.${Math.floor(Math.random() * 250)}.1`

interface Part { mesh: Mesh, known: KnownPeer }

/** Starts a member; it dials nobody unless it is told of peers. */
async function start (t: Test, kit: Kit, member: KitMember, options: { peers?: KnownPeer[] } = {}): Promise<Part> {
  const trust = createTrust({ peerId: member.peerId, federation: kit.federation, chain: member.chain, now: Date.now })
  const mesh = await createMesh({ key: member.key, trust, listen: [`/ip4/${address}/tcp/0`], peers: options.peers ?? [] })
  mesh.serve('status', ({ clusterId }) => ({ hosts: [{ site: clusterId, host: '', leaseState: '', objects: [], reachable: true, nowMs: 0 }] }))
  await mesh.start()
  t.teardown(async () => { await mesh.close() })
  return { mesh, known: { peerId: mesh.peerId, addresses: mesh.addresses(), chain: member.chain } }
}

async function eventually (what: string, check: () => boolean, timeoutMs = 10_000): Promise<void> {
  for (const end = performance.now() + timeoutMs; !check();) {
    if (performance.now() > end) throw new Error(`not within ${timeoutMs} ms: ${what}`)
    await sleep(20)
  }
}

const plan = {
  coordinators: ['main'],
  sites: [
    { name: 'tokyo', hosts: [{ name: 'gw1', roles: ['gateway'], segmentIds: { from: 1, to: 9 } }, { name: 'w1', roles: ['compute'] }, { name: 'w2', roles: ['compute'] }] },
    { name: 'osaka', hosts: [{ name: 'gw2', roles: ['gateway'], segmentIds: { from: 1, to: 9 } }, { name: 'w3', roles: ['compute'] }] }
  ]
} as const

const ask = async (from: Part, to: Part): Promise<string | undefined> => (await from.mesh.call(to.mesh.peerId, 'status', { clusterId: 'hello' }, { deadlineMs: 3000 })).hosts[0]?.site

void t.test('members find each other by their certificates, and know who calls', async t => {
  const kit = await createKit(plan)
  const gateway = await start(t, kit, kit.member('tokyo/gw1'))
  const host = await start(t, kit, kit.member('tokyo/w1'), { peers: [gateway.known] })
  const other = await start(t, kit, kit.member('osaka/gw2'), { peers: [gateway.known] })
  const coordinator = await start(t, kit, kit.member('main'), { peers: [gateway.known] })
  await eventually('all are connected to the gateway', () => gateway.mesh.connected().length === 3)
  t.equal(await ask(host, gateway), 'hello')
  t.same(gateway.mesh.roleOf(host.mesh.peerId), { kind: 'host', site: 'tokyo', host: 'w1', roles: ['compute'] })
  t.same(gateway.mesh.roleOf(coordinator.mesh.peerId), { kind: 'coordinator', name: 'main' })
  t.equal(gateway.mesh.path(other.mesh.peerId), 'direct')
  t.same(gateway.mesh.refusals(), { us: {}, them: {} })
})

/** Dials with any key and any chain, whatever the rules of an honest member say. */
async function intrude (to: Part, key: NodeKey, chain: Chain): Promise<void> {
  const node = await createLibp2p({
    privateKey: key,
    transports: [tcp()],
    streamMuxers: [yamux()],
    connectionEncrypters: [admission(noise(), { chain: () => chain, admitConnection: (_peer, theirs) => readMember(theirs, to.mesh.trust.federation), onRefused: () => undefined })]
  })
  try {
    const connection = await node.dial(multiaddr(to.mesh.addresses()[0] ?? ''), { signal: AbortSignal.timeout(5000) })
    await connection.newStream('/musubi/rpc/1', { signal: AbortSignal.timeout(5000) })
  } finally {
    await node.stop()
  }
}

void t.test('whoever is no member reaches no protocol, and is told why', async t => {
  const kit = await createKit(plan)
  const gateway = await start(t, kit, kit.member('tokyo/gw1'))
  const other = await createKit(plan)
  const siteKey = kit.siteKeys.get('tokyo')
  const siteChain = kit.siteChains.get('tokyo')
  const elsewhere = kit.siteKeys.get('osaka')
  if (siteKey === undefined || siteChain === undefined || elsewhere === undefined) throw new Error('no site key')
  const key = await createKey()
  const made = (signer: NodeKey, nowMs: number): Chain => [issue(signer, { federation: kit.federation, kind: 'host', subject: peerIdOf(key), site: 'tokyo', name: 'x', roles: ['compute'] }, nowMs), ...siteChain]
  const now = Date.now()
  const [own, ...above] = made(siteKey, now)
  const forged = Uint8Array.from(own ?? [])
  forged[forged.length - 1] = (forged.at(-1) ?? 0) ^ 1
  const strangers: Array<[what: string, code: string, key: NodeKey, chain: Chain]> = [
    ['another federation', 'OTHER_FEDERATION', other.member('tokyo/w1').key, other.member('tokyo/w1').chain],
    ['nothing to show', 'NO_CERTIFICATE', key, []],
    ['an expired certificate', 'CERTIFICATE_EXPIRED', key, made(siteKey, now - 60 * DAY_MS)],
    ['one of tomorrow', 'CERTIFICATE_NOT_YET_VALID', key, made(siteKey, now + DAY_MS)],
    ['a certificate of somebody else', 'BAD_CERTIFICATE', key, kit.member('tokyo/w1').chain],
    ['one that another site signed', 'BAD_CERTIFICATE', key, made(elsewhere, now)],
    ['a forged signature', 'BAD_CERTIFICATE', key, [forged, ...above]],
    ['a host certificate without its site', 'BAD_CERTIFICATE', key, made(siteKey, now).slice(0, 1)],
    ['a compute host of another site', 'NOT_ALLOWED', kit.member('osaka/w3').key, kit.member('osaka/w3').chain]
  ]
  for (const [what, code, strangerKey, chain] of strangers) {
    const before = gateway.mesh.refusals().us[code] ?? 0
    await t.rejects(intrude(gateway, strangerKey, chain), `${what}: no stream`)
    await eventually(`${what}: counted as ${code}`, () => (gateway.mesh.refusals().us[code] ?? 0) > before)
    t.same(gateway.mesh.connected(), [], `${what}: no connection`)
  }
  // the same way with a good chain works: it is the chain that decides
  await intrude(gateway, kit.member('tokyo/w1').key, kit.member('tokyo/w1').chain)
})

void t.test('a program that speaks libp2p without admission gets nothing', async t => {
  const kit = await createKit(plan)
  const gateway = await start(t, kit, kit.member('tokyo/gw1'))
  const node = await createLibp2p({ transports: [tcp()], streamMuxers: [yamux()], connectionEncrypters: [noise()] })
  t.teardown(async () => { await node.stop() })
  await t.rejects(node.dial(multiaddr(gateway.mesh.addresses()[0] ?? ''), { signal: AbortSignal.timeout(5000) }))
  t.same(gateway.mesh.connected(), [])
})

void t.test('a revocation closes the connection, and the revoked one is not let in again', async t => {
  const kit = await createKit(plan)
  const gateway = await start(t, kit, kit.member('tokyo/gw1'))
  const host = await start(t, kit, kit.member('tokyo/w1'), { peers: [gateway.known] })
  await eventually('connected', () => gateway.mesh.connected().length === 1)
  const siteKey = kit.siteKeys.get('tokyo')
  const siteChain = kit.siteChains.get('tokyo')
  if (siteKey === undefined || siteChain === undefined) throw new Error('no site key')
  const signed = revoke(siteKey, siteChain, { federation: kit.federation, kind: 'host', subject: host.mesh.peerId, site: 'tokyo', name: 'w1', reason: 'stolen' }, Date.now())
  t.ok(gateway.mesh.trust.takeRevocation(signed), 'is new')
  t.equal(gateway.mesh.trust.takeRevocation(signed), null, 'is known the second time')
  await eventually('the connection is closed', () => gateway.mesh.connected().length === 0)
  t.equal(gateway.mesh.roleOf(host.mesh.peerId), null)
  await eventually('it tries again and is refused', () => (gateway.mesh.refusals().us['CERTIFICATE_REVOKED'] ?? 0) > 0)
  await eventually('it is told why', () => (host.mesh.refusals().them['CERTIFICATE_REVOKED'] ?? 0) > 0)
  // joined again after the revocation: that one does not cover it
  const again = [issue(siteKey, { federation: kit.federation, kind: 'host', subject: host.mesh.peerId, site: 'tokyo', name: 'w1', roles: ['compute'] }, Date.now() + 5), ...siteChain]
  host.mesh.trust.renewed(again)
  await eventually('it is back', () => gateway.mesh.connected().length === 1, 20_000)
})
