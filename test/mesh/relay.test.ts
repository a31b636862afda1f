/**
 * Gateways that accept no connection: real libp2p over loopback, several members in this process.
 * Such a gateway does not listen at all here, so nothing but a relay or a dial of its own reaches it.
 */
import { setTimeout as sleep } from 'node:timers/promises'
import t, { type Test } from 'tap'
import { noise } from '@chainsafe/libp2p-noise'
import { circuitRelayServer, circuitRelayTransport } from '@libp2p/circuit-relay-v2'
import { identify } from '@libp2p/identify'
import { ping } from '@libp2p/ping'
import { tcp } from '@libp2p/tcp'
import { yamux } from '@libp2p/yamux'
import { lpStream } from '@libp2p/utils'
import { multiaddr } from '@multiformats/multiaddr'
import { createLibp2p, type Libp2p } from 'libp2p'
import { createKey, type NodeKey } from '../../protocol/mesh/identity.ts'
import { createMesh, type Mesh } from '../../protocol/mesh/mesh.ts'
import { hopStatus, reserve } from '../../protocol/mesh/relays/reservations.ts'
import { admission } from '../../protocol/mesh/trust/admission.ts'
import { readMember, type Chain } from '../../protocol/mesh/trust/certificate.ts'
import type { KnownPeer } from '../../protocol/mesh/trust/credentials.ts'
import { createTrust } from '../../protocol/mesh/trust/trust.ts'
import { createKit, type Kit, type KitMember } from '../trust-kit.ts'

const address = `127.${1 + Math.floor(Math.random() * 250)}.${Math.floor(Math.random() * 250)}.1`

interface Part { mesh: Mesh, known: KnownPeer, stop (): Promise<void> }
interface StartOptions { peers?: KnownPeer[], relay?: boolean, reachable?: boolean, relays?: () => string[] }

async function start (t: Test, kit: Kit, member: KitMember, { peers = [], relay = false, reachable = true, relays = () => [] }: StartOptions = {}): Promise<Part> {
  const trust = createTrust({ peerId: member.peerId, federation: kit.federation, chain: member.chain, now: Date.now })
  const mesh = await createMesh({ key: member.key, trust, listen: reachable ? [`/ip4/${address}/tcp/0`] : [], peers, relay, reachable, relays, failureDetection: { pingIntervalMs: 1000, pingTimeoutMinMs: 10_000, pingTimeoutMaxMs: 20_000 } })
  mesh.serve('status', async ({ clusterId }, { signal }) => {
    await sleep(clusterId === 'slow' ? 1500 : 0, undefined, { signal })
    return { hosts: [{ site: clusterId, host: '', leaseState: '', objects: [], reachable: true, nowMs: 0 }] }
  })
  await mesh.start()
  let stopped: Promise<void> | null = null
  const stop = async (): Promise<void> => { await (stopped ??= mesh.close()) }
  t.teardown(stop)
  return { mesh, known: { peerId: mesh.peerId, addresses: mesh.addresses(), chain: member.chain }, stop }
}

async function eventually (what: string, check: () => boolean, timeoutMs = 20_000): Promise<void> {
  for (const end = performance.now() + timeoutMs; !check();) {
    if (performance.now() > end) throw new Error(`not within ${timeoutMs} ms: ${what}`)
    await sleep(20)
  }
}

const gateway = (name: string): { name: string, roles: ['gateway'] } => ({ name, roles: ['gateway'] })
const plan = {
  coordinators: ['main', 'second'],
  sites: [
    { name: 'tokyo', hosts: [gateway('gw1')] },
    { name: 'osaka', hosts: [gateway('gw1'), { name: 'w1', roles: ['compute'] }] },
    { name: 'kyoto', hosts: [gateway('gw1')] }
  ]
} as const

const ask = async (from: Part, to: Part, text = 'hello'): Promise<string | undefined> => (await from.mesh.call(to.mesh.peerId, 'status', { clusterId: text }, { deadlineMs: 10_000 })).hosts[0]?.site
/** What a site record does: tells `to` how `from` is reached. */
const introduce = (from: Part, member: KitMember, to: Part): void => {
  to.mesh.trust.admit(member.peerId, member.chain)
  to.mesh.learn(member.peerId, from.mesh.relayAddresses().length > 0 ? from.mesh.relayAddresses() : from.mesh.addresses())
}

void t.test('two gateways that nobody can connect to meet through a relay, and again when that one is gone', async t => {
  const kit = await createKit(plan)
  const main = await start(t, kit, kit.member('main'), { relay: true })
  const second = await start(t, kit, kit.member('second'), { relay: true, peers: [main.known] })
  const peers = [main.known, second.known]
  const tokyo = await start(t, kit, kit.member('tokyo/gw1'), { reachable: false, peers })
  const osaka = await start(t, kit, kit.member('osaka/gw1'), { reachable: false, peers })
  t.same(tokyo.mesh.addresses(), [], 'it accepts no connection')
  const changes: string[][] = []
  t.teardown(tokyo.mesh.onRelayAddresses(addresses => { changes.push(addresses) }))
  await eventually('both have two relays', () => [tokyo, osaka].every(({ mesh }) => mesh.relayAddresses().length === 2))
  t.same(tokyo.mesh.relayAddresses().map(a => a.split('/p2p/')[1]?.split('/')[0]).sort(), [main, second].map(({ mesh }) => mesh.peerId).sort())
  t.same(changes.at(-1), tokyo.mesh.relayAddresses(), 'whoever advertises them is told')
  t.same(main.mesh.relayAddresses(), [], 'who is reachable has none')

  const heard: string[] = []
  for (const { mesh } of [tokyo, osaka, main, second]) {
    mesh.subscribe('directory', data => {
      if (mesh === osaka.mesh) heard.push(Buffer.from(data).toString())
      // the relays pass no gossip on: it can only come through the connection of the two
      return mesh === osaka.mesh || mesh === tokyo.mesh ? 'accept' : 'ignore'
    })
  }
  introduce(tokyo, kit.member('tokyo/gw1'), osaka)
  introduce(osaka, kit.member('osaka/gw1'), tokyo)
  t.equal(await ask(tokyo, osaka), 'hello')
  t.equal(await ask(osaka, tokyo), 'hello')
  t.equal(tokyo.mesh.path(osaka.mesh.peerId), 'relay')
  t.equal(osaka.mesh.path(tokyo.mesh.peerId), 'relay')
  t.equal(tokyo.mesh.path(main.mesh.peerId), 'direct', 'to who can be reached it connects itself')
  t.same(osaka.mesh.roleOf(tokyo.mesh.peerId), { kind: 'host', site: 'tokyo', host: 'gw1', roles: ['gateway'] }, 'it is known who calls')
  await eventually('gossip passes', () => {
    void tokyo.mesh.publish('directory', Buffer.from(`news ${heard.length}`))
    return heard.length > 0
  })
  await eventually('pings pass', () => tokyo.mesh.rttMs(osaka.mesh.peerId) !== null)

  // tokyo asked first, so it has taken the first address of osaka
  const used = osaka.mesh.relayAddresses()[0]?.includes(main.mesh.peerId) === true ? main : second
  const other = used === main ? second : main
  await used.stop()
  await eventually('the lost relay is no longer advertised', () => tokyo.mesh.relayAddresses().length === 1 && osaka.mesh.relayAddresses().length === 1)
  t.match(tokyo.mesh.relayAddresses()[0], other.mesh.peerId)
  await eventually('they are connected again', () => tokyo.mesh.path(osaka.mesh.peerId) === 'relay')
  let answer: string | undefined
  for (const end = performance.now() + 20_000; answer === undefined && performance.now() < end;) {
    // the one call that meets the old connection may fail
    answer = await ask(tokyo, osaka).catch(() => undefined)
  }
  t.equal(answer, 'hello', 'through the other relay')
})

void t.test('a relayed connection becomes a direct one where one side can be reached, and no call is lost', async t => {
  const kit = await createKit(plan)
  const main = await start(t, kit, kit.member('main'), { relay: true })
  const hidden = await start(t, kit, kit.member('tokyo/gw1'), { reachable: false, peers: [main.known] })
  const open = await start(t, kit, kit.member('osaka/gw1'), { peers: [main.known] })
  await eventually('it has a relay', () => hidden.mesh.relayAddresses().length > 0)
  introduce(hidden, kit.member('tokyo/gw1'), open)
  const slow = ask(open, hidden, 'slow')
  await eventually('they are connected through the relay', () => hidden.mesh.path(open.mesh.peerId) === 'relay')
  introduce(open, kit.member('osaka/gw1'), hidden)
  await eventually('both call it direct', () => [hidden.mesh.path(open.mesh.peerId), open.mesh.path(hidden.mesh.peerId)].every(path => path === 'direct'))
  t.equal(await slow, 'slow', 'the call that was under way')
  const answers = await Promise.all(Array.from({ length: 20 }, async (_, index) => {
    await sleep(index * 100)
    return await ask(index % 2 === 0 ? open : hidden, index % 2 === 0 ? hidden : open)
  }))
  t.same(new Set(answers), new Set(['hello']), 'calls while the relayed connection goes')
  // the relay goes: were anything still relayed, it would be noticed
  let lost = 0
  hidden.mesh.onDisconnect(peer => { if (peer === open.mesh.peerId) lost++ })
  const heard: string[] = []
  hidden.mesh.subscribe('directory', () => 'accept')
  open.mesh.subscribe('directory', data => { heard.push(Buffer.from(data).toString()); return 'accept' })
  await main.stop()
  t.equal(await ask(open, hidden), 'hello')
  t.equal(lost, 0)
  await eventually('gossip goes on over the direct connection', () => {
    void hidden.mesh.publish('directory', Buffer.from(`news ${Math.random()}`))
    return heard.length > 0
  })
})

void t.test('gateways relay where they are willing, and are found when no coordinator is there', async t => {
  const kit = await createKit(plan)
  const unwilling = await start(t, kit, kit.member('osaka/gw1'))
  const hidden = await start(t, kit, kit.member('tokyo/gw1'), { reachable: false, peers: [unwilling.known], relays: () => [kit.member('kyoto/gw1').peerId] })
  await eventually('connected', () => hidden.mesh.connected().length === 1)
  const willing = await start(t, kit, kit.member('kyoto/gw1'), { relay: true })
  t.same(hidden.mesh.relayAddresses(), [], 'nobody is made a relay')
  introduce(willing, kit.member('kyoto/gw1'), hidden)
  await eventually('it is used', () => hidden.mesh.relayAddresses().length === 1)
  t.match(hidden.mesh.relayAddresses()[0], willing.mesh.peerId)
})

/** Any libp2p program, with any key and chain, that can use relays. */
async function intruder (t: Test, key: NodeKey, chain: Chain, federation: string, relays = false): Promise<Libp2p> {
  const node = await createLibp2p({
    privateKey: key,
    addresses: relays ? { listen: [`/ip4/${address}/tcp/0`] } : {},
    transports: [tcp(), circuitRelayTransport()],
    streamMuxers: [yamux()],
    connectionEncrypters: [admission(noise(), { chain: () => chain, admitConnection: (_peer, theirs) => readMember(theirs, federation), onRefused: () => undefined })],
    services: { identify: identify(), ping: ping(), ...(relays ? { relay: circuitRelayServer() } : {}) }
  })
  t.teardown(async () => { await node.stop() })
  return node
}

void t.test('strangers get nowhere: not to a relay, nor through one', async t => {
  const kit = await createKit(plan)
  const elsewhere = await createKit(plan)
  const main = await start(t, kit, kit.member('main'), { relay: true })
  const hidden = await start(t, kit, kit.member('tokyo/gw1'), { reachable: false, peers: [main.known] })
  await eventually('it has a relay', () => hidden.mesh.relayAddresses().length > 0)
  const through = (relayAddress: string | undefined): ReturnType<typeof multiaddr> => multiaddr(`${relayAddress ?? ''}/p2p/${hidden.mesh.peerId}`)
  const target = through(hidden.mesh.relayAddresses()[0])
  const dial = async (node: Libp2p, to = target): Promise<unknown> => await node.dial(to, { signal: AbortSignal.timeout(5000) })

  const stranger = await intruder(t, await createKey(), [], kit.federation)
  await t.rejects(dial(stranger), 'without certificates')
  t.equal(main.mesh.refusals().us['NO_CERTIFICATE'], 1, 'the relay has refused it')
  const foreign = elsewhere.member('osaka/gw1')
  await t.rejects(dial(await intruder(t, foreign.key, foreign.chain, kit.federation)), 'of another federation')
  t.equal(main.mesh.refusals().us['OTHER_FEDERATION'], 1)
  const compute = kit.member('osaka/w1')
  const member = await intruder(t, compute.key, compute.chain, kit.federation)
  await t.rejects(dial(member), /PERMISSION_DENIED/, 'the relay does not connect whom rules keep apart')
  t.same(hidden.mesh.refusals().us, {}, 'none of them came as far as the gateway')

  // a coordinator that breaks the rules, and relays for anybody
  const second = kit.member('second')
  const rogue = await intruder(t, second.key, second.chain, kit.federation, true)
  const at = rogue.getMultiaddrs()[0]?.toString().replace(/\/p2p\/.*$/, '') ?? ''
  hidden.mesh.trust.admit(second.peerId, second.chain)
  hidden.mesh.learn(second.peerId, [at])
  await eventually('the gateway uses it', () => hidden.mesh.relayAddresses().some(a => a.includes(second.peerId)))
  const relayed = through(`${at}/p2p/${second.peerId}/p2p-circuit`)
  await t.rejects(dial(member, relayed), 'the far end refuses it')
  t.equal(hidden.mesh.refusals().us['NOT_ALLOWED'], 1, 'by its own check')
  t.notOk(hidden.mesh.connected().includes(compute.peerId))
  const good = kit.member('osaka/gw1')
  await dial(await intruder(t, good.key, good.chain, kit.federation), relayed)
  t.equal(hidden.mesh.path(good.peerId), 'relay', 'the same way works for who may')
})

void t.test('only gateways get a reservation', async t => {
  const kit = await createKit(plan)
  const main = await start(t, kit, kit.member('main'), { relay: true })
  const compute = kit.member('osaka/w1')
  const node = await intruder(t, compute.key, compute.chain, kit.federation)
  const connection = await node.dial(multiaddr(main.mesh.addresses()[0] ?? ''))
  await t.rejects(reserve(connection), { code: 'RELAY_REFUSED', message: /does not relay for this host/ })
  t.throws(() => hopStatus(Uint8Array.of(8)), { code: 'INVALID_INPUT' })
  t.throws(() => hopStatus(Uint8Array.of(8, 1, 40, 100)), { code: 'INVALID_INPUT' }, 'a question is no answer')
  t.equal(hopStatus(Uint8Array.of(8, 2, 40, 100)), 100)
})

void t.test('a relay keeps little for a side that does not read', async t => {
  const kit = await createKit(plan)
  const main = await start(t, kit, kit.member('main'), { relay: true })
  const sender = kit.member('tokyo/gw1')
  const reader = kit.member('osaka/gw1')
  const from = await intruder(t, sender.key, sender.chain, kit.federation)
  const to = await createLibp2p({
    privateKey: reader.key,
    transports: [tcp()],
    streamMuxers: [yamux()],
    connectionEncrypters: [admission(noise(), { chain: () => reader.chain, admitConnection: (_peer, theirs) => readMember(theirs, kit.federation), onRefused: () => undefined })],
    services: { identify: identify() }
  })
  t.teardown(async () => { await to.stop() })
  await to.handle('/libp2p/circuit/relay/0.2.0/stop', async stream => {
    const wire = lpStream(stream)
    await wire.read()
    await wire.write(Uint8Array.of(8, 1, 32, 100)) // StopMessage { type: STATUS, status: OK }
    wire.unwrap().pause()
  })
  const relay = multiaddr(main.mesh.addresses()[0] ?? '')
  await reserve(await to.dial(relay))
  const stream = await (await from.dial(relay)).newStream('/libp2p/circuit/relay/0.2.0/hop')
  const wire = lpStream(stream)
  const id = to.peerId.toMultihash().bytes
  await wire.write(Uint8Array.of(8, 1, 18, id.length + 2, 10, id.length, ...id)) // HopMessage { type: CONNECT, peer: { id } }
  t.equal(hopStatus((await wire.read()).subarray()), 100)
  const raw = wire.unwrap()
  const chunk = new Uint8Array(64 * 1024)
  let sent = 0
  for (let goes = true; goes && sent < 64 * 1024 * 1024; sent += chunk.length) {
    if (raw.send(chunk)) continue
    const drained = Promise.withResolvers<boolean>()
    raw.addEventListener('drain', () => { drained.resolve(true) }, { once: true })
    goes = await Promise.race([drained.promise, sleep(1000, false)])
  }
  t.comment({ sent })
  t.ok(sent < 8 * 1024 * 1024, 'the sender has to wait')
  raw.abort(new Error('done'))
})
