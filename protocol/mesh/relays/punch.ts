import { createServer } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import type { Connection, IdentifyResult, Libp2p, Stream } from '@libp2p/interface'
import { lpStream } from '@libp2p/utils'
import { multiaddr, type Multiaddr } from '@multiformats/multiaddr'
import { InvalidInputError, MusubiError } from '../../core/errors.ts'
import { PUNCH_ATTEMPTS, PUNCH_PROTOCOL, PUNCH_TIMEOUT_MS } from '../constants.ts'
import { isTcpAddress } from '../roles.ts'

/**
 * Dials from a port of this host.
 *
 * @param first whether this side speaks first on the new connection, as both have dialled it
 */
export type DialFrom = (address: Multiaddr, localPort: number, first: boolean, signal: AbortSignal) => Promise<Connection>

export interface PunchOptions {
  readonly node: Libp2p
  readonly dialFrom: DialFrom
}

const LIMIT = { maxDataLength: 256 }
const NOTHING = new Uint8Array()

/** How others see a port of this host, as long as it is kept open. */
interface Observed extends AsyncDisposable { readonly port: number, readonly address: string }

/** A TCP address by number: names are not for strangers' ports. @throws InvalidInputError */
function checkAddress (text: string): string {
  if (!/^\/ip[46]\//.test(text) || !isTcpAddress(text)) throw new InvalidInputError('a peer named something else than its TCP address')
  return text
}

async function freePort (): Promise<number> {
  const { promise, resolve, reject } = Promise.withResolvers<number>()
  const server = createServer()
  server.once('error', reject)
  server.listen(0, () => {
    const address = server.address()
    server.close(() => { resolve(typeof address === 'object' ? address?.port ?? 0 : 0) })
  })
  return await promise
}

/**
 * A further connection to the relay, from a port that is free for more: the relay says what the
 * port looks like from outside, and the translation stays in place while the connection is open.
 */
async function observe ({ node, dialFrom }: PunchOptions, relayed: Connection, signal: AbortSignal): Promise<Observed> {
  const relay = relayed.remoteAddr.toString().split('/p2p-circuit')[0] ?? ''
  const seen = new Map<string, string | null>()
  const identified = ({ detail }: CustomEvent<IdentifyResult>): void => {
    // with our own PeerId at the end, where the relay knows it by then
    seen.set(detail.connection.id, detail.observedAddr?.toString().replace(/\/p2p\/[^/]*$/, '') ?? null)
  }
  let connection: Connection | null = null
  node.addEventListener('peer:identify', identified)
  try {
    const port = await freePort()
    const open = connection = await dialFrom(multiaddr(relay), port, true, signal)
    while (!seen.has(open.id)) await sleep(20, undefined, { signal })
    const address = seen.get(open.id)
    if (address == null) throw new MusubiError('NO_DIRECT_PATH', 'the relay does not say how it sees this host')
    return { port, address: checkAddress(address), [Symbol.asyncDispose]: async () => { await open.close().catch((error: unknown) => { open.abort(error instanceof Error ? error : new Error('closed')) }) } }
  } catch (error) {
    connection?.abort(error instanceof Error ? error : new Error('not needed'))
    throw error
  } finally {
    node.removeEventListener('peer:identify', identified)
  }
}

/** Both dial each other at the same time, from ports that their address translations have opened. */
async function meet ({ dialFrom }: PunchOptions, relayed: Connection, own: Observed, theirs: string, first: boolean, signal: AbortSignal): Promise<void> {
  const target = multiaddr(`${theirs}/p2p/${relayed.remotePeer.toString()}`)
  for (let attempt = 1; ; attempt++) {
    try {
      await dialFrom(target, own.port, first, signal)
      return
    } catch (error) {
      if (attempt === PUNCH_ATTEMPTS || signal.aborted) throw error
      await sleep(100)
    }
  }
}

/**
 * Opens a direct connection between two hosts that both accept none (hole punching as DCUtR does it:
 * over the relayed connection both tell how the relay sees them, and then dial at the same moment).
 * Not libp2p's DCUtR service: that dials from a new port each time, which is no way through any
 * address translation, and it knows only public addresses.
 *
 * Works where both translations keep a port for different destinations and drop unasked packets
 * silently; not where they pick ports at random. Whoever was dialled through the relay begins.
 *
 * @throws Error when it does not work; the relayed connection stays as it is
 */
export async function punch (options: PunchOptions, relayed: Connection): Promise<void> {
  const signal = AbortSignal.timeout(PUNCH_TIMEOUT_MS)
  await using own = await observe(options, relayed, signal)
  const stream = await relayed.newStream(PUNCH_PROTOCOL, { signal, runOnLimitedConnection: true })
  try {
    const wire = lpStream(stream, LIMIT)
    await wire.write(Buffer.from(own.address), { signal })
    const theirs = checkAddress(Buffer.from((await wire.read({ signal })).subarray()).toString())
    const asked = performance.now()
    await wire.write(NOTHING, { signal })
    await wire.read({ signal })
    const roundTripMs = performance.now() - asked
    await wire.write(NOTHING, { signal })
    // they dial when that arrives
    await sleep(roundTripMs / 2)
    await meet(options, relayed, own, theirs, false, signal)
    await stream.close({ signal })
  } catch (error) {
    stream.abort(error instanceof Error ? error : new Error('no direct connection'))
    throw error
  }
}

/** The other side of {@link punch}. Never throws. */
export async function answerPunch (options: PunchOptions, stream: Stream, relayed: Connection): Promise<void> {
  try {
    if (relayed.direct) throw new Error('connected directly already')
    const signal = AbortSignal.timeout(PUNCH_TIMEOUT_MS)
    const wire = lpStream(stream, LIMIT)
    const theirs = checkAddress(Buffer.from((await wire.read({ signal })).subarray()).toString())
    await using own = await observe(options, relayed, signal)
    await wire.write(Buffer.from(own.address), { signal })
    await wire.read({ signal })
    await wire.write(NOTHING, { signal })
    await wire.read({ signal })
    await meet(options, relayed, own, theirs, true, signal)
    await stream.close({ signal })
  } catch (error) {
    stream.abort(error instanceof Error ? error : new Error('no direct connection'))
  }
}
