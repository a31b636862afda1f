import { setTimeout as sleep } from 'node:timers/promises'
import { noise } from '@chainsafe/libp2p-noise'
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
import { createKey, type NodeKey } from '../../protocol/mesh/identity.ts'
import { createMesh } from '../../protocol/mesh/mesh.ts'
import { signRecord, type Bodies } from '../../protocol/mesh/records/signed.ts'
import { decode, encode } from '../../protocol/wire/codec.ts'
import { CALM, eventually, makeLab, type Lab, type Member } from './federation.ts'

t.setTimeout(110_000)

const LAYOUT = { main: 'coordinator', 'tokyo/g1': 'gateway compute', 'tokyo/c1': 'compute', 'kyoto/g1': 'gateway', 'kyoto/c1': 'compute' }

function keyOf (lab: Lab, name: string): NodeKey {
  const key = lab.keys.get(name)
  if (key === undefined) throw new Error(`no key of ${name}`)
  return key
}

type Plain = Libp2p<{ gossip: GossipSub }>

/** A libp2p node of nobody's making: no gater, all the protocols a member has. */
async function plainNode (t: Test, key: NodeKey, protocol = '/musubi/1/gossip/site'): Promise<Plain> {
  const node = await createLibp2p({
    privateKey: key,
    transports: [tcp()],
    connectionEncrypters: [noise()],
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
  const nothing = { bytes: 0, identified: false, opened: [] }
  for (const target of [gateway, compute]) {
    t.strictSame(await harvest(await plainNode(t, await createKey()), target), nothing, `a stranger at ${target.name}`)
    t.strictSame(await harvest(await plainNode(t, keyOf(lab, 'kyoto/c1')), target), nothing, `a host of another site at ${target.name}`)
  }
  t.strictSame(await harvest(await plainNode(t, keyOf(lab, 'kyoto/g1')), compute), nothing, 'a gateway of another site at a host that is none')
  const control = await harvest(await plainNode(t, keyOf(lab, 'kyoto/g1')), gateway)
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
    const spy = await plainNode(t, keyOf(lab, 'kyoto/g1'))
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
    const thief = await createMesh({ key: keyOf(lab, 'kyoto/g1'), roster: lab.federation, listen: [lab.addressOf('kyoto/g1')], bootstrap: lab.federation.members })
    t.teardown(async () => { await thief.close() })
    await thief.start()
    const ask = async (scope: string): Promise<unknown> => await thief.call(gateway.peerId, 'sync', { scope, have: [], offer: [], bucket: 0, buckets: 1 })
    await t.rejects(ask('site/tokyo'), { code: 'FORBIDDEN' })
    await t.rejects(ask('site/kyoto'), { code: 'FORBIDDEN' })
    await t.rejects(ask('nonsense'), { code: 'FORBIDDEN' })
    t.match(await ask('directory'), { records: [{ peer: gateway.peerId, kind: 'site' }] }, 'the directory is shared')
    t.throws(() => { thief.subscribe('site/tokyo', () => 'ignore') }, { code: 'NOT_IN_SCOPE' })
    await t.rejects(thief.publish('site/tokyo', new Uint8Array()), { code: 'NOT_IN_SCOPE' })

    const lie: Bodies['site'] = { site: 'tokyo', gateway: 'g1', addresses: [], hosts: 99, total: null, free: null, freeByHost: [], volumeFreeMib: 0, version: 'false' }
    const signedByThief = signRecord(thief.key, 'site', { epoch: 99, seq: 1 }, 30_000, lie)
    const forged = { ...signedByThief, peer: gateway.peerId }
    // the coordinator judges it: it has heard nothing of tokyo's gateway that would be newer
    const main = await lab.start('main', CALM)
    for (const record of [forged, { ...forged, peer: lab.federation.members.at(-1)?.peerId ?? '' }, signedByThief]) {
      await thief.call(main.peerId, 'sync', { scope: 'directory', have: [], offer: [record], bucket: 0, buckets: 1 }).catch(() => undefined)
    }
    await eventually('it hears the truth', async () => (await main.ask('view', 'site')).some(({ name }) => name === 'tokyo/g1 true'))
    t.strictSame((await main.ask('view', 'site')).map(({ name }) => name), ['tokyo/g1 true'])
    t.match(await main.ask('counts', null), { forged: 1, refused: 2 }, 'one in the name of another, one out of its scope, one of a site that is not its own')

    await eventually('the gossip of the directory is joined', async () => {
      await thief.publish('directory', encode('Record', { ...forged, seq: Math.floor(performance.now()) }))
      return (await gateway.ask('counts', null)).malformed + (await main.ask('counts', null)).forged > 1
    })
    t.strictSame((await main.ask('view', 'site')).map(({ name }) => name), ['tokyo/g1 true'], 'nor by gossip')
    t.strictSame((await gateway.ask('view', 'site')).map(({ name }) => name), ['tokyo/g1 true'])
    t.equal(decode('SiteAd', signedByThief.body).hosts, 99, 'the lie was readable')
  })
})

t.test('a member must be one, and its port free', async t => {
  const lab = await makeLab(t, LAYOUT)
  const bootstrap = lab.federation.members
  await t.rejects(createMesh({ key: await createKey(), roster: lab.federation, listen: [], bootstrap }), { code: 'NOT_A_MEMBER', message: /12D3Koo/ })
  await t.rejects(createMesh({ key: keyOf(lab, 'main'), roster: lab.federation, listen: ['0.0.0.0:4001'], bootstrap }), { code: 'INVALID_INPUT' })
  const first = await createMesh({ key: keyOf(lab, 'main'), roster: lab.federation, listen: [lab.addressOf('main')], bootstrap: [] })
  t.teardown(async () => { await first.close() })
  await first.start()
  const second = await createMesh({ key: keyOf(lab, 'kyoto/g1'), roster: lab.federation, listen: [lab.addressOf('main')], bootstrap: [] })
  await t.rejects(second.start(), { code: 'CANNOT_LISTEN', message: `cannot listen on ${lab.addressOf('main')}: address already in use` })
})
