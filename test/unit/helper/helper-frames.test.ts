/** What the helper reads from its socket: messages in any pieces, and nothing that is none. */
import fc from 'fast-check'
import t from 'tap'
import { createFrameReader, encodeFrame } from '../../../agent/helper/wire/frames.ts'

const MAX = 4096

/** The bytes in pieces that end at these places. */
function pieces (bytes: Buffer, cuts: readonly number[]): Buffer[] {
  const at = [0, ...cuts.map(cut => cut % (bytes.length + 1)).sort((a, b) => a - b), bytes.length]
  return at.slice(1).map((end, i) => bytes.subarray(at[i], end))
}

t.test('what is written is read again, however the stream is cut', t => {
  fc.assert(fc.property(fc.array(fc.jsonValue({ maxDepth: 3 }), { maxLength: 6 }), fc.array(fc.nat(MAX), { maxLength: 12 }), (messages, cuts) => {
    const stream = Buffer.concat(messages.map(message => encodeFrame(message, MAX * 16)))
    const reader = createFrameReader(MAX * 16)
    const read = pieces(stream, cuts).flatMap(piece => reader.push(piece))
    t.strictSame(JSON.stringify(read), JSON.stringify(messages))
    return !reader.partial()
  }), { numRuns: 200 })
  t.end()
})

t.test('one byte at a time, with letters of several bytes', t => {
  const reader = createFrameReader(MAX)
  const frame = encodeFrame({ id: 1, text: '結び' }, MAX)
  const read: unknown[] = []
  for (const [i, byte] of frame.entries()) {
    t.equal(reader.partial(), i > 0)
    read.push(...reader.push(Buffer.from([byte])))
  }
  t.strictSame(read, [{ id: 1, text: '結び' }])
  t.equal(reader.partial(), false)
  t.end()
})

t.test('a length beyond the limit is refused before its bytes are kept', t => {
  const header = (length: number): Buffer => { const bytes = Buffer.alloc(4); bytes.writeUInt32BE(length); return bytes }
  for (const length of [MAX + 1, 0xffff_ffff]) t.throws(() => createFrameReader(MAX).push(header(length)), { code: 'FRAME_TOO_LARGE' })
  t.throws(() => createFrameReader(MAX).push(header(0)), { code: 'BAD_FRAME' })
  t.throws(() => createFrameReader(MAX).push(Buffer.from('GET / HTTP/1.1\r\n\r\n')), { code: 'FRAME_TOO_LARGE' }, 'as of a browser')
  t.throws(() => encodeFrame('x'.repeat(MAX), MAX), { code: 'FRAME_TOO_LARGE' })
  t.strictSame(createFrameReader(MAX).push(encodeFrame('x'.repeat(MAX - 2), MAX)), ['x'.repeat(MAX - 2)], 'what just fits')
  t.end()
})

t.test('what is no JSON, or no UTF-8, is no message', t => {
  const framed = (body: Buffer): Buffer => { const header = Buffer.alloc(4); header.writeUInt32BE(body.length); return Buffer.concat([header, body]) }
  for (const body of ['{', 'undefined', "{'a': 1}", '{"a":1}x', '\0', '[1,]']) t.throws(() => createFrameReader(MAX).push(framed(Buffer.from(body))), { code: 'BAD_FRAME' }, body)
  t.throws(() => createFrameReader(MAX).push(framed(Buffer.from([0x22, 0xff, 0x22]))), { code: 'BAD_FRAME' })
  t.throws(() => createFrameReader(MAX * 64).push(framed(Buffer.from('['.repeat(100_000)))), { code: 'BAD_FRAME' }, 'deep and open')
  t.end()
})

t.test('no bytes at all make it throw anything else', t => {
  fc.assert(fc.property(fc.array(fc.uint8Array({ maxLength: 64 }), { maxLength: 8 }), chunks => {
    const reader = createFrameReader(MAX)
    try {
      for (const chunk of chunks) reader.push(Buffer.from(chunk))
    } catch (error) {
      return ['BAD_FRAME', 'FRAME_TOO_LARGE'].includes((error as { code?: string }).code ?? '')
    }
    return true
  }), { numRuns: 500 })
  t.pass()
  t.end()
})
