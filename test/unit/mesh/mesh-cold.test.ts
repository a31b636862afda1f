/** The first thing that is said on a new connection, however long it is, arrives. */
import { once } from 'node:events'
import { setTimeout as sleep } from 'node:timers/promises'
import { noise } from '@chainsafe/libp2p-noise'
import { tcp } from '@libp2p/tcp'
import { yamux } from '@libp2p/yamux'
import { createLibp2p, type Libp2p } from 'libp2p'
import t, { type Test } from 'tap'
import { MAX_MESSAGE_BYTES } from '../../../protocol/core/limits.ts'
import { MAX_STREAM_WINDOW_BYTES } from '../../../protocol/mesh/constants.ts'
import { earlyEncryption, earlyStreams } from '../../../protocol/mesh/transport/early.ts'
import { createKey } from '../../../protocol/mesh/identity.ts'
import { admission, ADMISSION_PROTOCOL } from '../../../protocol/mesh/trust/admission.ts'
import type { Member } from '../../../protocol/mesh/trust/certificate.ts'

const PROTOCOL = '/musubi/test'

async function node (t: Test, policy: { isKnown: boolean, admits: () => Member }): Promise<Libp2p> {
  const made = await createLibp2p({
    privateKey: await createKey(),
    addresses: { listen: ['/ip4/127.0.0.1/tcp/0'] },
    transports: [earlyEncryption(tcp(), ADMISSION_PROTOCOL)],
    connectionEncrypters: [admission(noise(), { chain: () => [], admitConnection: policy.admits, isKnown: () => policy.isKnown, onRefused: () => undefined })],
    streamMuxers: [earlyStreams(yamux({ streamOptions: { maxStreamWindowSize: MAX_STREAM_WINDOW_BYTES } }), PROTOCOL)]
  })
  t.teardown(async () => { await made.stop() })
  return made
}

t.test('a long first message to a member that is known', async t => {
  const admits = (): Member => ({}) as Member
  const listener = await node(t, { isKnown: false, admits })
  const dialler = await node(t, { isKnown: true, admits })
  let bytes = 0
  await listener.handle(PROTOCOL, stream => { stream.addEventListener('message', ({ data }) => { bytes += data.byteLength }) })
  const [address] = listener.getMultiaddrs()
  if (address === undefined) throw new Error('no address')
  for (const length of [1000, 20_000, 60_000, MAX_MESSAGE_BYTES]) {
    bytes = 0
    const connection = await dialler.dial(address)
    const stream = await connection.newStream(PROTOCOL)
    const left = Buffer.alloc(length)
    for (let n = 0; n < length; n += 32 * 1024) if (!stream.send(left.subarray(n, n + 32 * 1024))) await once(stream, 'drain')
    for (let tries = 0; tries < 40 && bytes < length; tries++) await sleep(25)
    t.equal(bytes, length, `${length} bytes`)
    await connection.close()
  }
})
