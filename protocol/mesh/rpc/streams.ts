import { setImmediate as nextTurn } from 'node:timers/promises'
import { messageStreamToDuplex } from '@libp2p/utils'
import * as lp from 'it-length-prefixed'
import { pipe } from 'it-pipe'
import type { Stream } from '@libp2p/interface'
import { Uint8ArrayList } from 'uint8arraylist'
import { InvalidInputError, MusubiError } from '../../core/errors.ts'
import { MAX_MESSAGE_BYTES } from '../../core/limits.ts'
import { decode, type wire } from '../../wire/codec.ts'
import { READ_HIGH_WATER_BYTES, WRITE_HIGH_WATER_BYTES } from '../constants.ts'
import type { Handlers } from './handlers.ts'

type Chunk = Uint8Array | Uint8ArrayList

/** Frames that go together: Noise encrypts at most 64 KiB at once. */
const BATCH_BYTES = 32 * 1024

/**
 * Frames on their way out: an endless source for a pipe, bounded by whoever waits for `room`. What
 * waits when the stream can take more goes together, as one message to encrypt and one write.
 */
export class Outbox implements AsyncIterable<Uint8Array[]> {
  #queue: Uint8Array[] = []
  #bytes = 0
  #ended = false
  #wake: PromiseWithResolvers<undefined> | null = null
  #room: PromiseWithResolvers<undefined> | null = null

  push (frame: Uint8Array): void {
    if (this.#ended) return
    this.#queue.push(frame)
    this.#bytes += frame.length
    this.#wake?.resolve(undefined)
  }

  /** Nothing more is sent, not even what waits. */
  end (): void {
    this.#ended = true
    this.#queue = []
    this.#bytes = 0
    this.#wake?.resolve(undefined)
    this.#room?.resolve(undefined)
  }

  /** Resolves when little enough waits to accept more, or at the end. */
  async room (): Promise<void> {
    while (this.#bytes > WRITE_HIGH_WATER_BYTES && !this.#ended) {
      this.#room ??= Promise.withResolvers<undefined>()
      await this.#room.promise
    }
  }

  /** The next frames, together not much larger than the largest that is encrypted at once. */
  #take (): Uint8Array[] {
    let bytes = 0
    let count = 0
    while (count < this.#queue.length && (count === 0 || bytes < BATCH_BYTES)) bytes += this.#queue[count++]?.length ?? 0
    return this.#queue.splice(0, count)
  }

  async * [Symbol.asyncIterator] (): AsyncGenerator<Uint8Array[]> {
    for (;;) {
      const batch = this.#take()
      if (batch.length > 0) {
        yield batch
        // asked for the next ones: the stream has taken these
        this.#bytes = Math.max(0, this.#bytes - batch.reduce((sum, frame) => sum + frame.length, 0))
        this.#room?.resolve(undefined)
        this.#room = null
      } else if (this.#ended) {
        return
      } else {
        this.#wake = Promise.withResolvers<undefined>()
        await this.#wake.promise
        this.#wake = null
      }
    }
  }
}

/**
 * libp2p pushes what it receives, however slow the reader is. This pauses the stream while too
 * much waits, so that the sender's window runs out.
 */
function throttle (stream: Stream): (source: AsyncIterable<Chunk>) => AsyncGenerator<Chunk> {
  let waiting = 0
  const isOpen = (): boolean => stream.readStatus === 'readable' || stream.readStatus === 'paused'
  stream.addEventListener('message', ({ data }) => {
    waiting += data.byteLength
    if (waiting > READ_HIGH_WATER_BYTES && isOpen()) stream.pause()
  })
  return async function * (source) {
    for await (const chunk of source) {
      yield chunk
      waiting -= chunk.byteLength
      if (waiting <= READ_HIGH_WATER_BYTES / 2 && stream.readStatus === 'paused') stream.resume()
    }
  }
}

const lengths = (source: AsyncIterable<Chunk>): AsyncGenerator<Uint8ArrayList> => lp.decode(source, { maxDataLength: MAX_MESSAGE_BYTES })
async function * prefixed (source: AsyncIterable<Uint8Array[]>): AsyncGenerator<Uint8ArrayList> {
  for await (const batch of source) yield new Uint8ArrayList(...batch.map(frame => lp.encode.single(frame, { maxDataLength: MAX_MESSAGE_BYTES })))
}

/** What is read before others have a turn: thousands of small frames arrive in one packet, and a large one takes a while. */
const FRAMES_PER_TURN = 32
const BYTES_PER_TURN = 32 * 1024

async function * frames (source: AsyncIterable<Uint8ArrayList>): AsyncGenerator<wire.Frame> {
  let read = 0
  let bytesRead = 0
  for await (const bytes of source) {
    if (bytes.byteLength === 0) throw new InvalidInputError('an empty frame')
    bytesRead += bytes.byteLength
    if (++read >= FRAMES_PER_TURN || bytesRead > BYTES_PER_TURN) {
      read = bytesRead = 0
      await nextTurn()
    }
    yield decode('Frame', bytes.subarray())
  }
}

/** What was wrong with what was read, by name; null when the stream just broke. */
function frameError (error: unknown): MusubiError | null {
  if (error instanceof InvalidInputError) return new MusubiError('BAD_FRAME', error.message)
  if (!(error instanceof Error)) return null
  switch (error.name) {
    case 'InvalidDataLengthError':
    case 'InvalidDataLengthLengthError':
    case 'InvalidMessageLengthError': return new MusubiError('FRAME_TOO_LARGE', `a frame of more than ${MAX_MESSAGE_BYTES} bytes`)
    case 'UnexpectedEOFError': return new MusubiError('TRUNCATED_FRAME', 'the stream ended within a frame')
    default: return null
  }
}

function close (stream: Stream, error: unknown): void {
  stream.abort(error instanceof Error ? error : new Error('the stream has ended'))
}

/**
 * Answers the calls that arrive on a stream, many at a time, until it ends. Never throws.
 *
 * @param onBadFrame told once when what arrives is no frame: BAD_FRAME, FRAME_TOO_LARGE, TRUNCATED_FRAME
 */
export async function serveStream (stream: Stream, peerId: string, handlers: Handlers, onBadFrame: (error: MusubiError) => void = () => undefined): Promise<void> {
  const gone = new AbortController()
  const outbox = new Outbox()
  stream.addEventListener('close', () => {
    gone.abort(new Error('the caller is gone'))
    outbox.end()
  }, { once: true })
  const answers = (source: AsyncIterable<wire.Frame>): AsyncIterable<Uint8Array[]> => {
    const reading = async (): Promise<void> => {
      for await (const { call } of source) {
        // a body that this release does not know is none of its business
        if (call === null) continue
        await outbox.room()
        void handlers.answer(call, peerId, gone.signal).then(frame => { outbox.push(frame) })
      }
    }
    reading().then(() => { outbox.end() }, (error: unknown) => {
      const bad = frameError(error)
      if (bad !== null) onBadFrame(bad)
      close(stream, error)
    })
    return outbox
  }
  try {
    const duplex = messageStreamToDuplex(stream)
    await pipe(duplex, throttle(stream), lengths, frames, answers, prefixed, duplex)
    close(stream, null)
  } catch (error) {
    close(stream, error)
  }
}

interface Pending { readonly resolve: (reply: wire.Reply) => void, readonly reject: (error: Error) => void }

/** The caller's end of a stream that stays open: many calls under way, answers in any order. */
export class CallStream {
  readonly #stream: Stream
  readonly #outbox = new Outbox()
  readonly #pending = new Map<number, Pending>()
  #lastId = 0
  #closed = false
  #retired = false

  /** @param onClose told once, when no more calls can be made */
  constructor (stream: Stream, onClose: () => void) {
    this.#stream = stream
    stream.addEventListener('close', ({ error }) => { this.#end(error, onClose) }, { once: true })
    void this.#run().then(() => { this.#end(undefined, onClose) }, (error: unknown) => { this.#end(error, onClose) })
  }

  get closed (): boolean {
    return this.#closed
  }

  async #run (): Promise<void> {
    const settle = async (source: AsyncIterable<wire.Frame>): Promise<void> => {
      for await (const { reply } of source) {
        if (reply === null) continue
        // unknown ids belong to calls that were given up
        const pending = this.#pending.get(reply.id)
        this.#pending.delete(reply.id)
        pending?.resolve(reply)
      }
    }
    await pipe(this.#outbox, prefixed, messageStreamToDuplex(this.#stream), throttle(this.#stream), lengths, frames, settle)
  }

  /**
   * @param encodeWith gives the frame for an id
   * @throws Error when the stream ends first; the reason of `signal` when it aborts
   */
  async call (encodeWith: (id: number) => Uint8Array, signal: AbortSignal): Promise<wire.Reply> {
    signal.throwIfAborted()
    const id = this.#nextId()
    const frame = encodeWith(id)
    if (this.#closed) throw new Error('the stream has ended')
    const { promise, resolve, reject } = Promise.withResolvers<wire.Reply>()
    const giveUp = (): void => { reject(signal.reason as Error) }
    signal.addEventListener('abort', giveUp, { once: true })
    this.#pending.set(id, { resolve, reject })
    this.#outbox.push(frame)
    try {
      return await promise
    } finally {
      this.#pending.delete(id)
      signal.removeEventListener('abort', giveUp)
      if (this.#retired && this.#pending.size === 0) this.close()
    }
  }

  isOneOf (streams: readonly Stream[]): boolean {
    return streams.includes(this.#stream)
  }

  /** Closes when the last call under way has ended. */
  retire (): void {
    this.#retired = true
    if (this.#pending.size === 0) this.close()
  }

  close (): void {
    close(this.#stream, new Error('closed here'))
  }

  #nextId (): number {
    do {
      this.#lastId = this.#lastId >= 0xffff_ffff ? 1 : this.#lastId + 1
    } while (this.#pending.has(this.#lastId))
    return this.#lastId
  }

  #end (error: unknown, onClose: () => void): void {
    if (this.#closed) return
    this.#closed = true
    this.#outbox.end()
    close(this.#stream, error)
    for (const { reject } of this.#pending.values()) reject(error instanceof Error ? error : new Error('the stream has ended'))
    this.#pending.clear()
    onClose()
  }
}
