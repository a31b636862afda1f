import { setTimeout as sleep } from 'node:timers/promises'
import { identify } from '@libp2p/identify'
import type { Libp2p, Stream } from '@libp2p/interface'
import { tcp } from '@libp2p/tcp'
import { yamux } from '@libp2p/yamux'
import { multiaddr } from '@multiformats/multiaddr'
import * as lp from 'it-length-prefixed'
import { createLibp2p } from 'libp2p'
import t, { type Test } from 'tap'
import { MAX_IN_FLIGHT_PER_PEER, MAX_MESSAGE_BYTES } from '../../protocol/core/limits.ts'
import { RPC_PROTOCOL } from '../../protocol/mesh/constants.ts'
import { encodeCall } from '../../protocol/mesh/rpc/handlers.ts'
import { decode } from '../../protocol/wire/codec.ts'
import { CALM, eventually, makeLab, showing, type Lab, type Member } from './federation.ts'

t.setTimeout(110_000)

const LAYOUT = { 'tokyo/g1': 'gateway', 'tokyo/c1': 'compute', 'tokyo/bad': 'compute' }

/** A libp2p node with the key of an admitted member that does not keep to the protocol. */
async function badMember (t: Test, lab: Lab): Promise<Libp2p> {
  const { key, chain } = lab.kit.member('tokyo/bad')
  const node = await createLibp2p({
    privateKey: key, transports: [tcp()], connectionEncrypters: [showing(chain)], streamMuxers: [yamux()], services: { identify: identify() }
  })
  t.teardown(async () => { await node.stop() })
  return node
}

async function rpcStream (node: Libp2p, target: Member): Promise<Stream> {
  return await node.dialProtocol(multiaddr(`${target.address}/p2p/${target.peerId}`), RPC_PROTOCOL)
}

/** Resolves when the stream has ended, however. */
async function ended (stream: Stream): Promise<void> {
  if (stream.status !== 'open') return
  await new Promise<void>(resolve => { stream.addEventListener('close', () => { resolve() }, { once: true }) })
}

t.test('calls between processes', async t => {
  const lab = await makeLab(t, LAYOUT)
  const [gateway, compute] = await Promise.all([lab.start('tokyo/g1'), lab.start('tokyo/c1')])

  await t.test('300 calls at once are each answered with their own reply', async t => {
    const { replies, errors } = await gateway.ask('call', { peerId: compute.peerId, clusterId: 'n', times: 300 })
    t.strictSame(errors, [])
    t.strictSame(replies.sort(), Array.from({ length: 300 }, (_, n) => `n ${n} -> n ${n}`).sort())
  })

  await t.test('many large replies pass a window that is smaller than they are', async t => {
    const { replies, errors } = await gateway.ask('call', { peerId: compute.peerId, clusterId: 'big 200000', times: 40, deadlineMs: 60_000 })
    t.strictSame(errors, [])
    t.strictSame(new Set(replies.map(reply => reply.length > 200_000)), new Set([true]))
  })

  await t.test('both directions, and to oneself', async t => {
    t.strictSame((await compute.ask('call', { peerId: gateway.peerId, clusterId: 'up' })).replies, ['up -> up'])
    t.strictSame((await gateway.ask('call', { peerId: gateway.peerId, clusterId: 'self' })).replies, ['self -> self'])
    t.match(await gateway.ask('call', { peerId: gateway.peerId, clusterId: 'full' }), { errors: [{ name: 'NoCapacityError', site: 'tokyo', host: 'g1' }] })
    t.match(await gateway.ask('call', { peerId: gateway.peerId, clusterId: 'slow 60000', deadlineMs: 50 }), { errors: [{ name: 'UnreachableError' }] })
  })

  await t.test('errors come back as they were thrown, and only those meant for us', async t => {
    t.match(await gateway.ask('call', { peerId: compute.peerId, clusterId: 'full' }), {
      errors: [{ name: 'NoCapacityError', code: 'NO_CAPACITY', message: 'no room for 4 nodes', retryable: true, hint: 'ask for fewer', site: 'tokyo', host: 'c1' }]
    })
    t.match(await gateway.ask('call', { peerId: compute.peerId, clusterId: 'odd' }), {
      errors: [{ name: 'MusubiError', code: 'LEASE_STALE', retryable: false, hint: 'h' }]
    })
    const { errors } = await gateway.ask('call', { peerId: compute.peerId, clusterId: 'crash' })
    t.match(errors, [{ code: 'INTERNAL', message: 'internal error at tokyo/c1' }])
    t.match(await gateway.ask('call', { peerId: compute.peerId, clusterId: 'big 400000' }), { errors: [{ code: 'INVALID_INPUT', message: /at most/ }] }, 'a reply that is too large')
    t.match(await gateway.ask('call', { peerId: compute.peerId, clusterId: 'x'.repeat(MAX_MESSAGE_BYTES) }), { errors: [{ code: 'INVALID_INPUT' }] }, 'a request that is too large is not sent')
  })

  await t.test('a deadline ends the wait on both sides, and the stream lives on', async t => {
    const { errors } = await gateway.ask('call', { peerId: compute.peerId, clusterId: 'slow 60000', deadlineMs: 200 })
    // whichever of the two sides sees first that the time is over
    t.match(errors[0]?.message, /(^|: )(tokyo\/c1 \(.*\) did not answer status within 200 ms|status did not end within 200 ms)/)
    t.strictSame((await gateway.ask('call', { peerId: compute.peerId, clusterId: 'next' })).replies, ['next -> next'])
  })

  await t.test('a slow call does not hold up a fast one', async t => {
    const slow = gateway.ask('call', { peerId: compute.peerId, clusterId: 'slow 1500' })
    let slowIsDone = false
    void slow.then(() => { slowIsDone = true })
    t.strictSame((await gateway.ask('call', { peerId: compute.peerId, clusterId: 'fast' })).replies, ['fast -> fast'])
    t.notOk(slowIsDone)
    t.equal((await slow).replies.length, 1)
  })

  await t.test('a peer that breaks the protocol loses its stream, and nobody else is hurt', async t => {
    const bad = await badMember(t, lab)
    const cases: Array<[string, Uint8Array]> = [
      ['a frame larger than allowed', Uint8Array.from([0x81, 0x80, 0x20])],
      ['a length without end', new Uint8Array(20).fill(0xff)],
      ['a frame that is no message', lp.encode.single(new Uint8Array([0x0a, 0x7f, 0x01])).subarray()]
    ]
    for (const [name, bytes] of cases) {
      const stream = await rpcStream(bad, compute)
      stream.send(bytes)
      await ended(stream)
      t.not(stream.status, 'open', name)
    }
    const good = await rpcStream(bad, compute)
    good.send(lp.encode.single(encodeCall(5, 1000, 'status', { clusterId: 'still here' })))
    for await (const frame of lp.decode(good)) {
      const { reply } = decode('Frame', frame.subarray())
      t.strictSame([reply?.id, reply?.status?.hosts[0]?.site], [5, 'still here'])
      break
    }
    good.abort(new Error('done'))
    t.strictSame((await gateway.ask('call', { peerId: compute.peerId, clusterId: 'fine' })).replies, ['fine -> fine'])
  })

  await t.test('who sends more than its share is told BUSY', async t => {
    const bad = await badMember(t, lab)
    const stream = await rpcStream(bad, compute)
    const count = MAX_IN_FLIGHT_PER_PEER + 10
    for (let id = 1; id <= count; id++) stream.send(lp.encode.single(encodeCall(id, 5000, 'status', { clusterId: 'slow 1000' })))
    const codes: string[] = []
    for await (const frame of lp.decode(stream)) {
      codes.push(decode('Frame', frame.subarray()).reply?.failure?.code ?? 'ok')
      if (codes.length === count) break
    }
    stream.abort(new Error('done'))
    t.equal(codes.filter(code => code === 'BUSY').length, 10)
    t.equal(codes.filter(code => code === 'ok').length, MAX_IN_FLIGHT_PER_PEER)
  })

  await t.test('who asks and never reads is stopped before it fills our memory', async t => {
    const bad = await badMember(t, lab)
    const stream = await rpcStream(bad, compute)
    stream.pause()
    const before = await compute.ask('memory', null)
    // 2000 answers of 200 kB would be 400 MB
    for (let id = 1; id <= 2000 && stream.status === 'open'; id++) {
      stream.send(lp.encode.single(encodeCall(id, 60_000, 'status', { clusterId: 'big 200000' })))
      if (id % 50 === 0) await sleep(20)
    }
    await sleep(500)
    const grown = await compute.ask('memory', null) - before
    t.ok(grown < 150e6, `${Math.round(grown / 1e6)} MB`)
    stream.abort(new Error('done'))
    t.strictSame((await gateway.ask('call', { peerId: compute.peerId, clusterId: 'fine' })).replies, ['fine -> fine'])
  })
})

t.test('a hung peer costs a deadline, then it is dropped, and used again when it wakes', async t => {
  const lab = await makeLab(t, LAYOUT)
  const alert = { ...CALM, ping: { pingIntervalMs: 500, pingTimeoutMinMs: 1000, pingTimeoutMaxMs: 1500 } }
  const [gateway, compute] = await Promise.all([lab.start('tokyo/g1', alert), lab.start('tokyo/c1', alert)])
  t.equal((await gateway.ask('call', { peerId: compute.peerId, clusterId: 'a' })).replies.length, 1)
  compute.signal('SIGSTOP')
  t.match(await gateway.ask('call', { peerId: compute.peerId, clusterId: 'b', deadlineMs: 300 }), { errors: [{ name: 'UnreachableError', message: /within 300 ms/ }] })
  await eventually('the hung peer is dropped', async () => !(await gateway.ask('connected', null)).includes(compute.peerId))
  compute.signal('SIGCONT')
  await eventually('it is called again', async () => (await gateway.ask('call', { peerId: compute.peerId, clusterId: 'c' })).replies.length === 1)
  t.pass('over a new connection')
})

t.test('members find each other again after one was away for long', async t => {
  const lab = await makeLab(t, LAYOUT)
  const [gateway, compute] = await Promise.all([lab.start('tokyo/g1'), lab.start('tokyo/c1')])
  await eventually('connected', async () => (await gateway.ask('connected', null)).includes(compute.peerId))
  await compute.kill()
  t.notOk((await gateway.ask('connected', null)).includes(compute.peerId), 'the closed socket is seen')
  await sleep(8000) // more than the five attempts after which libp2p itself forgets a peer
  const again = await lab.start('tokyo/c1', CALM, { epoch: 2 })
  await eventually('connected again without being called', async () => (await gateway.ask('connected', null)).includes(again.peerId))
  t.pass('supervised')
})
