import { setTimeout as sleep } from 'node:timers/promises'
import { gossipsub, StrictNoSign, type GossipSub } from '@libp2p/gossipsub'
import { identify } from '@libp2p/identify'
import type { Libp2p } from '@libp2p/interface'
import { ping } from '@libp2p/ping'
import { tcp } from '@libp2p/tcp'
import { yamux } from '@libp2p/yamux'
import { multiaddr } from '@multiformats/multiaddr'
import * as lp from 'it-length-prefixed'
import { createLibp2p } from 'libp2p'
import t, { type Test } from 'tap'
import { RPC_PROTOCOL } from '../../protocol/mesh/constants.ts'
import { encodeCall } from '../../protocol/mesh/rpc/handlers.ts'
import { createKey, peerIdOf } from '../../protocol/mesh/identity.ts'
import { createMesh } from '../../protocol/mesh/mesh.ts'
import { signRecord, type Bodies } from '../../protocol/mesh/records/signed.ts'
import { decode, encode } from '../../protocol/wire/codec.ts'
import { createTrust } from '../../protocol/mesh/trust/trust.ts'
import { createKit, type KitMember } from '../trust-kit.ts'
import { CALM, eventually, makeLab, showing, type Member } from './federation.ts'

t.setTimeout(110_000)

const LAYOUT = { main: 'coordinator', 'tokyo/g1': 'gateway compute', 'tokyo/c1': 'compute', 'kyoto/g1': 'gateway', 'kyoto/c1': 'compute' }

type Plain = Libp2p<{ gossip: GossipSub }>

/** A libp2p node of nobody's making: it shows what it is given, takes everybody, and has all the protocols a member has. */
async function plainNode (t: Test, { key, chain }: Pick<KitMember, 'key' | 'chain'>, protocol = '/musubi/1/gossip/site'): Promise<Plain> {
  const node = await createLibp2p({
    privateKey: key,
    transports: [tcp()],
    connectionEncrypters: [showing(chain)],
    streamMuxers: [yamux()],
    services: {
      identify: identify(),
      ping: ping(),
      gossip: (components: Parameters<ReturnType<typeof gossipsub>>[0]) => {
        const gossip = gossipsub({ globalSignaturePolicy: StrictNoSign, allowPublishToZeroTopicPeers: true })(components)
        gossip.protocols = [protocol]
        return gossip
      }
    }
  })
  t.teardown(async () => { await node.stop() })
  return node
}

/** Everything that `node` gets from `target` over any protocol, in bytes of streams. */
async function harvest (node: Plain, target: Member): Promise<{ bytes: number, identified: boolean, opened: string[] }> {
  const seen = { bytes: 0, identified: false, opened: [] as string[] }
  node.addEventListener('peer:identify', () => { seen.identified = true })
  const address = multiaddr(`${target.address}/p2p/${target.peerId}`)
  for (const protocol of [RPC_PROTOCOL, '/ipfs/id/1.0.0', '/ipfs/ping/1.0.0', '/musubi/1/gossip/site', '/musubi/1/gossip/directory']) {
    try {
      const stream = await node.dialProtocol(address, protocol, { signal: AbortSignal.timeout(3000) })
      stream.addEventListener('message', ({ data }) => { seen.bytes += data.byteLength })
      stream.send(lp.encode.single(encodeCall(1, 1000, 'status', { clusterId: 'let me in' })))
      await sleep(300)
      if (stream.status === 'open') seen.opened.push(protocol)
    } catch {
      // refused: what is hoped for
    }
  }
  return seen
}

t.test('strangers and hosts of other sites get no application byte', async t => {
  const lab = await makeLab(t, LAYOUT)
  const [gateway, compute, far] = await Promise.all([lab.start('tokyo/g1'), lab.start('tokyo/c1'), lab.start('kyoto/c1')])
  const foreign = await createKit({ sites: [{ name: 'tokyo', hosts: [{ name: 'c1', roles: ['compute'] }] }] })
  const nothing = { bytes: 0, identified: false, opened: [] }
  for (const target of [gateway, compute]) {
    t.strictSame(await harvest(await plainNode(t, { key: await createKey(), chain: [] }), target), nothing, `a stranger at ${target.name}`)
    t.strictSame(await harvest(await plainNode(t, foreign.member('tokyo/c1')), target), nothing, `a member of another federation at ${target.name}`)
    t.strictSame(await harvest(await plainNode(t, { key: await createKey(), chain: lab.kit.member('tokyo/c1').chain }), target), nothing, `somebody with stolen certificates at ${target.name}`)
    t.strictSame(await harvest(await plainNode(t, lab.kit.member('kyoto/c1')), target), nothing, `a host of another site at ${target.name}`)
  }
  t.strictSame(await harvest(await plainNode(t, lab.kit.member('kyoto/g1')), compute), nothing, 'a gateway of another site at a host that is none')
  const control = await harvest(await plainNode(t, lab.kit.member('kyoto/g1')), gateway)
  t.ok(control.identified && control.bytes > 0 && control.opened.includes(RPC_PROTOCOL), 'a gateway of another site at a gateway: this one is admitted')

  for (const [from, to] of [[far, gateway], [gateway, far], [far, compute]] as const) {
    const { errors } = await from.ask('call', { peerId: to.peerId, clusterId: 'x' })
    t.match(errors, [{ code: 'UNREACHABLE' }], `${from.name} does not reach ${to.name}`)
    t.ok(errors[0]?.message.includes(to.name))
  }
  t.match(await gateway.ask('call', { peerId: 'garbage', clusterId: 'x' }), { errors: [{ code: 'UNREACHABLE' }] })
})

t.test('an admitted gateway of another site can neither read a site nor speak for it', async t => {
  const lab = await makeLab(t, LAYOUT)
  const [gateway, compute] = await Promise.all([lab.start('tokyo/g1'), lab.start('tokyo/c1')])
  await gateway.ask('publish', { version: 'true', site: true })
  await compute.ask('publish', { version: 'true', site: false })
  await eventually('the site has its view', async () => (await gateway.ask('view', 'host')).length === 2)

  await t.test('not by its gossip', async t => {
    const spy = await plainNode(t, lab.kit.member('kyoto/g1'))
    const heard: string[] = []
    spy.services.gossip.addEventListener('message', ({ detail }) => { heard.push(detail.topic) })
    spy.services.gossip.subscribe('musubi/1/site/tokyo')
    await spy.dial(multiaddr(`${gateway.address}/p2p/${gateway.peerId}`))
    await sleep(1500)
    for (const version of ['1', '2', '3']) {
      await compute.ask('publish', { version, site: false })
      await sleep(400)
    }
    t.strictSame(heard, [])
    t.strictSame(spy.services.gossip.getSubscribers('musubi/1/site/tokyo'), [], 'it is not even told who is there')
  })

  await t.test('not by comparing, and forged records are dropped and counted', async t => {
    const thief = await lab.mesh('kyoto/g1')
    await thief.start()
    const compare = { have: [], offer: [], bucket: 0, buckets: 1, revocations: new Uint8Array(), suspicions: [], ping: false }
    const ask = async (scope: string): Promise<unknown> => await thief.call(gateway.peerId, 'sync', { ...compare, scope })
    await t.rejects(ask('site/tokyo'), { code: 'FORBIDDEN' })
    await t.rejects(ask('site/kyoto'), { code: 'FORBIDDEN' })
    await t.rejects(ask('nonsense'), { code: 'FORBIDDEN' })
    t.match(await ask('directory'), { records: [{ peer: gateway.peerId, kind: 'site' }] }, 'the directory is shared')
    t.throws(() => { thief.subscribe('site/tokyo', () => 'ignore') }, { code: 'NOT_IN_SCOPE' })
    await t.rejects(thief.publish('site/tokyo', new Uint8Array()), { code: 'NOT_IN_SCOPE' })

    const lie: Bodies['site'] = { site: 'tokyo', gateway: 'g1', addresses: [], hosts: 99, total: null, free: null, freeByHost: [], volumeFreeMib: 0, version: 'false', features: [], roles: [], priceMilli: 0, maxTermMs: 0, relay: false, tunnel: [] }
    const signedByThief = signRecord(thief.key, 'site', { version: { epoch: 99, seq: 1 }, ttlMs: 30_000, madeMs: Date.now(), leaving: false, chain: lab.kit.member('kyoto/g1').chain }, lie)
    const forged = { ...signedByThief, peer: gateway.peerId, chain: [...lab.kit.member('tokyo/g1').chain] }
    // the coordinator judges it: it has heard nothing of tokyo's gateway that would be newer
    const main = await lab.start('main', CALM)
    for (const record of [forged, { ...forged, peer: lab.kit.member('kyoto/c1').peerId, chain: [...lab.kit.member('kyoto/c1').chain] }, signedByThief]) {
      await thief.call(main.peerId, 'sync', { ...compare, scope: 'directory', offer: [record] }).catch(() => undefined)
    }
    await eventually('it hears the truth', async () => (await main.ask('view', 'site')).some(({ name }) => name === 'tokyo/g1 true'))
    t.strictSame((await main.ask('view', 'site')).map(({ name }) => name), ['tokyo/g1 true'])
    t.match(await main.ask('counts', null), { forged: 1, refused: 2 }, 'one in the name of another, one out of its scope, one of a site that is not its own')

    await eventually('the gossip of the directory is joined', async () => {
      await thief.publish('directory', encode('Gossip', { record: { ...forged, seq: Math.floor(performance.now()) }, suspicion: null, revocation: null }))
      return (await gateway.ask('counts', null)).stale + (await main.ask('counts', null)).forged > 1
    })
    t.strictSame((await main.ask('view', 'site')).map(({ name }) => name), ['tokyo/g1 true'], 'nor by gossip')
    t.strictSame((await gateway.ask('view', 'site')).map(({ name }) => name), ['tokyo/g1 true'])
    t.equal(decode('SiteAd', signedByThief.body).hosts, 99, 'the lie was readable')
  })
})

t.test('a member must be one, and its port free', async t => {
  const lab = await makeLab(t, LAYOUT)
  const { chain, key, peerId } = lab.kit.member('main')
  const stranger = peerIdOf(await createKey())
  t.throws(() => createTrust({ peerId: stranger, federation: lab.kit.federation, chain, now: Date.now }), { code: 'BAD_CERTIFICATE', hint: /join again/ })
  const trust = createTrust({ peerId, federation: lab.kit.federation, chain, now: Date.now })
  await t.rejects(createMesh({ key, trust, listen: ['0.0.0.0:4001'], peers: [] }), { code: 'INVALID_INPUT' })
  await (await lab.mesh('main', [])).start()
  const other = lab.kit.member('kyoto/g1')
  const second = await createMesh({ key: other.key, trust: createTrust({ peerId: other.peerId, federation: lab.kit.federation, chain: other.chain, now: Date.now }), listen: [lab.addressOf('main')], peers: [] })
  t.teardown(async () => { await second.close() })
  await t.rejects(second.start(), { code: 'CANNOT_LISTEN', message: `cannot listen on ${lab.addressOf('main')}: address already in use` })
})
