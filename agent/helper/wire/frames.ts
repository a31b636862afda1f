import { MusubiError } from '../../../protocol/core/errors.ts'

const HEADER_BYTES = 4

/** One message: its length in 4 bytes, big-endian, then JSON in UTF-8. @throws MusubiError FRAME_TOO_LARGE */
export function encodeFrame (value: unknown, maxBytes: number): Buffer {
  const text = Buffer.from(JSON.stringify(value), 'utf8')
  if (text.length > maxBytes) throw new MusubiError('FRAME_TOO_LARGE', `a message of ${text.length} bytes; at most ${maxBytes} fit`)
  const frame = Buffer.allocUnsafe(HEADER_BYTES + text.length)
  frame.writeUInt32BE(text.length)
  text.copy(frame, HEADER_BYTES)
  return frame
}

export interface FrameReader {
  /**
   * The messages that these bytes complete. What an announced length does not allow for is never kept.
   *
   * @throws MusubiError FRAME_TOO_LARGE, BAD_FRAME: nothing that comes after can be read
   */
  push (chunk: Buffer): unknown[]
  /** Whether a message has begun and not ended. */
  partial (): boolean
}

function parsed (bytes: Buffer): unknown {
  try {
    return JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(bytes)) as unknown
  } catch {
    throw new MusubiError('BAD_FRAME', `a message of ${bytes.length} bytes is not JSON`)
  }
}

/** Takes a stream of bytes apart into messages, with memory for one of them at most. */
export function createFrameReader (maxBytes: number): FrameReader {
  let chunks: Buffer[] = []
  let held = 0

  /** The first `count` bytes; null while they are not all there. */
  function take (count: number): Buffer | null {
    if (held < count) return null
    const all = chunks.length === 1 && chunks[0] !== undefined ? chunks[0] : Buffer.concat(chunks, held)
    chunks = all.length === count ? [] : [all.subarray(count)]
    held -= count
    return all.subarray(0, count)
  }

  let length: number | null = null
  return {
    push (chunk) {
      if (chunk.length > 0) chunks.push(chunk)
      held += chunk.length
      const messages: unknown[] = []
      for (;;) {
        if (length === null) {
          const header = take(HEADER_BYTES)
          if (header === null) return messages
          length = header.readUInt32BE()
          if (length > maxBytes) throw new MusubiError('FRAME_TOO_LARGE', `a message of ${length} bytes is announced; at most ${maxBytes} are read`)
          if (length === 0) throw new MusubiError('BAD_FRAME', 'a message of no bytes')
        }
        const body = take(length)
        if (body === null) return messages
        length = null
        messages.push(parsed(body))
      }
    },
    partial: () => held > 0 || length !== null
  }
}
