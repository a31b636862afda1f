/**
 * Saves the round trips in which libp2p waits for the other side to say that it speaks a protocol.
 * Members do: what follows is sent at once, behind the question, and the answer is looked at when it
 * comes. On the way to a far site that nobody is connected to, this takes two round trips off seven.
 */
import type { ComponentLogger, Connection, MessageStream, StreamMuxerFactory, Transport, Upgrader } from '@libp2p/interface'
import { Uint8ArrayList } from 'uint8arraylist'
import { InvalidInputError, MusubiError, UnreachableError } from '../../core/errors.ts'
import { changedMuxer, onOpened } from './muxer.ts'

/** What the streams and connections of libp2p have beyond their interface: where arriving bytes go in. */
interface Intake { onData (data: Uint8Array | Uint8ArrayList): void }

const hasIntake = (stream: object): stream is Intake => 'onData' in stream && typeof stream.onData === 'function'

/** multistream-select: each line with its length before it; these are all shorter than 128 bytes. */
function answerFor (protocol: string): Uint8Array {
  return Buffer.concat(['/multistream/1.0.0', protocol].map(line => Buffer.concat([Uint8Array.of(line.length + 1), Buffer.from(`${line}\n`)])))
}

/**
 * Takes it that the other side will speak `protocol` on a stream that has just been opened: whoever
 * asks for it reads the answer without waiting. The true answer is taken off what arrives; another one
 * ends the stream.
 */
export function assumeSpoken (stream: MessageStream, protocol: string): void {
  if (!hasIntake(stream)) return
  const expected = answerFor(protocol)
  const take = stream.onData.bind(stream)
  const arrived = new Uint8ArrayList()
  stream.onData = data => {
    arrived.append(data)
    const seen = Math.min(arrived.byteLength, expected.byteLength)
    if (Buffer.compare(arrived.subarray(0, seen), expected.subarray(0, seen)) !== 0) {
      stream.abort(new MusubiError('WRONG_PROTOCOL', `the other side does not speak ${protocol}`, { hint: 'it runs another release, or is no member of a federation' }))
      return
    }
    if (seen < expected.byteLength) return
    stream.onData = take
    arrived.consume(seen)
    take(arrived)
  }
  stream.push(expected)
}

/** How long the first frame may be on its way before the stream ends. */
const FIRST_FRAME_MS = 10_000
/** Longest varint of a length that is taken. */
const LENGTH_BYTES = 4

/** A frame with its length before it, and what it takes in all; null while more is needed. @throws InvalidInputError beyond `maxBytes` */
export function firstFrame (bytes: Uint8ArrayList, maxBytes: number): { frame: Uint8Array, total: number } | null {
  let length = 0
  for (let n = 0; n < Math.min(bytes.byteLength, LENGTH_BYTES); n++) {
    const byte = bytes.get(n)
    length += (byte & 0x7f) * 128 ** n
    if (byte >= 0x80) continue
    if (length > maxBytes) break
    return bytes.byteLength < n + 1 + length ? null : { frame: bytes.subarray(n + 1, n + 1 + length), total: n + 1 + length }
  }
  if (bytes.byteLength < LENGTH_BYTES && length <= maxBytes) return null
  throw new InvalidInputError(`the first frame is longer than ${maxBytes} bytes`)
}

/**
 * Looks at the first frame that arrives on a stream, which then belongs to nobody else.
 *
 * @param look says whether the stream goes on; when not, nothing more is read
 * @returns false where that is not possible, and nothing was done
 */
export function onFirstFrame (stream: MessageStream, maxBytes: number, look: (frame: Uint8Array) => boolean): boolean {
  if (!hasIntake(stream)) return false
  const take = stream.onData.bind(stream)
  const arrived = new Uint8ArrayList()
  const late = setTimeout(() => { stream.abort(new UnreachableError(`the other side said nothing within ${FIRST_FRAME_MS} ms`)) }, FIRST_FRAME_MS)
  stream.addEventListener('close', () => { clearTimeout(late) }, { once: true })
  stream.onData = data => {
    arrived.append(data)
    try {
      const found = firstFrame(arrived, maxBytes)
      if (found === null) return
      clearTimeout(late)
      stream.onData = look(found.frame) ? take : () => undefined
      arrived.consume(found.total)
      stream.onData(arrived)
    } catch (error) {
      stream.abort(error instanceof Error ? error : new Error(String(error)))
    }
  }
  return true
}

type Factory<C, T> = (components: C) => T

/** A transport whose connections do not wait for the word that the only encrypter, `protocol`, is spoken. */
export function earlyEncryption<C, T extends Transport> (transport: Factory<C, T>, protocol: string): Factory<C, T> {
  return components => {
    const made = transport(components)
    const dial = made.dial.bind(made)
    made.dial = async (address, options) => {
      const upgrader = Object.create(options.upgrader, {
        upgradeOutbound: {
          value: async (...[connection, how]: Parameters<Upgrader['upgradeOutbound']>): Promise<Connection> => {
            assumeSpoken(connection, protocol)
            return await options.upgrader.upgradeOutbound(connection, how)
          }
        }
      }) as Upgrader
      return await dial(address, { ...options, upgrader })
    }
    return made
  }
}

/** A multiplexer whose outgoing streams of `protocol` can be written to at once. */
export const earlyStreams = <C extends { logger: ComponentLogger }> (muxer: Factory<C, StreamMuxerFactory>, protocol: string): Factory<C, StreamMuxerFactory> =>
  changedMuxer(muxer, made => {
    onOpened(made, (stream, wanted) => { if (wanted === protocol) assumeSpoken(stream, protocol) })
  })
