/** Fewer and fuller packets: what is sent in one turn is written at once, and windows are updated late. */
import { once } from 'node:events'
import { Socket } from 'node:net'
import { setImmediate as nextTurn, setTimeout as sleep } from 'node:timers/promises'
import { noise } from '@chainsafe/libp2p-noise'
import type { MessageStream, Stream } from '@libp2p/interface'
import { tcp } from '@libp2p/tcp'
import { yamux } from '@libp2p/yamux'
import { createLibp2p, type Libp2p } from 'libp2p'
import t, { type Test } from 'tap'
import { createKey } from '../../../protocol/mesh/identity.ts'
import { gathering, gatherWrites, lateWindows, updateWindowLate } from '../../../protocol/mesh/transport/packets.ts'

const PROTOCOL = '/musubi/test'

t.test('what is sent in one turn is written at once', async t => {
  const done: string[] = []
  const connection = {
    socket: { cork: () => done.push('cork'), uncork: () => done.push('uncork') },
    sendData: (data: string) => done.push(data),
    sendReset: () => { done.push('reset') }
  }
  let now = 0
  gatherWrites(connection as unknown as MessageStream, () => now)
  connection.sendData('a')
  await Promise.resolve()
  connection.sendData('b')
  t.strictSame(done, ['cork', 'a', 'b'], 'promises belong to the turn')
  await nextTurn()
  connection.sendData('c')
  connection.sendReset()
  t.strictSame(done.splice(0), ['cork', 'a', 'b', 'uncork', 'cork', 'c', 'uncork', 'reset'], 'what was sent before a reset leaves')
  await nextTurn()
  connection.sendData('d')
  now = 2
  for (const data of ['e', 'f']) connection.sendData(data)
  await nextTurn()
  t.strictSame(done, ['cork', 'd', 'e', 'uncork', 'cork', 'f', 'uncork'], 'a long turn is not waited for')
  const relayed = { sendData: () => undefined }
  const { sendData } = relayed
  gatherWrites(relayed as unknown as MessageStream)
  t.equal(relayed.sendData, sendData, 'one without a socket is left alone')
})

t.test('windows', t => {
  let updates = 0
  const stream = { state: 3, recvWindow: 100, recvWindowCapacity: 51, sendWindowUpdate: () => { updates++ } }
  updateWindowLate(stream as unknown as Stream)
  stream.sendWindowUpdate()
  t.equal(updates, 0, 'more than half is left')
  stream.recvWindowCapacity = 50
  stream.sendWindowUpdate()
  t.equal(updates, 1, 'half is used')
  Object.assign(stream, { state: 0, recvWindowCapacity: 100 })
  stream.sendWindowUpdate()
  t.equal(updates, 2, 'the frame that opens a stream')
  t.end()
})

/** @param plain as libp2p makes it */
async function node (t: Test, plain: boolean): Promise<Libp2p> {
  const made = await createLibp2p({
    privateKey: await createKey(), addresses: { listen: ['/ip4/127.0.0.1/tcp/0'] }, connectionEncrypters: [noise()],
    transports: [plain ? tcp() : gathering(tcp())], streamMuxers: [plain ? yamux() : lateWindows(yamux())],
    connectionMonitor: { enabled: false }
  })
  await made.handle(PROTOCOL, async stream => {
    for await (const data of stream) if (!stream.send(data)) await once(stream, 'drain')
  })
  t.teardown(async () => { await made.stop() })
  return made
}

/** Says something and waits until as much has come back. */
async function echo (stream: Stream, bytes: number): Promise<number> {
  let heard = 0
  const all = Promise.withResolvers<undefined>()
  const hear = ({ data }: { data: { byteLength: number } }): void => {
    heard += data.byteLength
    if (heard >= bytes) all.resolve(undefined)
  }
  stream.addEventListener('message', hear)
  for (let left = bytes; left > 0; left -= 32 * 1024) if (!stream.send(Buffer.alloc(Math.min(left, 32 * 1024)))) await once(stream, 'drain')
  await Promise.race([all.promise, sleep(10_000, undefined, { ref: false })])
  stream.removeEventListener('message', hear)
  return heard
}

/** Counts writes to all sockets. @returns ends it and gives their number */
function countWrites (t: Test): () => number {
  let count = 0
  const ends = (['_write', '_writev'] as const).map(name => {
    const write = Reflect.get(Socket.prototype, name) as (...given: unknown[]) => unknown
    Reflect.set(Socket.prototype, name, function (this: Socket, ...given: unknown[]) {
      count++
      return Reflect.apply(write, this, given)
    })
    return () => { Reflect.set(Socket.prototype, name, write) }
  })
  const stop = (): number => {
    for (const end of ends) end()
    return count
  }
  t.teardown(stop)
  return stop
}

/** Writes, each of which is a packet, that 20 small questions and their answers take. */
async function packets (t: Test, plain: boolean): Promise<number> {
  const [asked, asking] = [await node(t, plain), await node(t, plain)]
  const stream = await (await asking.dial(asked.getMultiaddrs())).newStream(PROTOCOL)
  await echo(stream, 100)
  const stop = countWrites(t)
  for (let n = 0; n < 20; n++) await echo(stream, 100)
  const count = stop()
  for (const bytes of [1000, 300_000, 3_000_000]) t.equal(await echo(stream, bytes), bytes, `${bytes} bytes there and back`)
  return count
}

t.test('with the streams of libp2p as it is', async t => {
  const [as, before] = [await packets(t, false), await packets(t, true)]
  t.ok(as <= before / 2, `${as} packets for 20 questions and answers, ${before} when nothing is done`)
})
