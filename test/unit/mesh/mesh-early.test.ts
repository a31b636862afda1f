/** What is sent before the other side has said that it may: its word is looked at when it comes. */
import t from 'tap'
import type { MessageStream } from '@libp2p/interface'
import { Uint8ArrayList } from 'uint8arraylist'
import { assumeSpoken, onFirstFrame } from '../../../protocol/mesh/transport/early.ts'

/** As much of a stream of libp2p as is used: what its reader gets, and how it ended. */
class Stream extends EventTarget {
  read = ''
  aborted: Error | null = null
  onData (data: Uint8Array | Uint8ArrayList): void { if (this.aborted === null) this.read += Buffer.from(data.subarray()).toString() }
  push (data: Uint8Array): void { this.read += Buffer.from(data).toString() }
  abort (error: Error): void {
    this.aborted = error
    this.dispatchEvent(new Event('close'))
  }
}

const LINES = '\x13/multistream/1.0.0\n\x03/x\n'
const inPieces = (stream: Stream, text: string, size: number): void => {
  for (let n = 0; n < text.length; n += size) stream.onData(Buffer.from(text.slice(n, n + size)))
}

t.test('a protocol that is taken for spoken', t => {
  for (const size of [1, 7, 100]) {
    const stream = new Stream()
    assumeSpoken(stream as unknown as MessageStream, '/x')
    t.equal(stream.read, LINES, 'whoever waits for the answer has it')
    inPieces(stream, `${LINES}hello`, size)
    t.equal(stream.read, `${LINES}hello`, 'the true one is not read again')
    t.equal(stream.aborted, null)
  }
  for (const answer of ['\x13/multistream/1.0.0\n\x03na\n', 'HTTP/1.1 400 Bad Request']) {
    const stream = new Stream()
    assumeSpoken(stream as unknown as MessageStream, '/x')
    inPieces(stream, `${answer}hello`, 5)
    t.match(stream.aborted, { code: 'WRONG_PROTOCOL' })
    t.equal(stream.read, LINES, 'nothing else is read')
  }
  t.end()
})

t.test('a first frame that somebody else looks at', t => {
  const long = 'y'.repeat(200)
  for (const [text, size, goesOn, seen, rest] of [['\x02hi rest', 1, true, 'hi', ' rest'], ['\x02hi rest', 100, false, 'hi', ''], [`\xc8\x01${long} rest`, 3, true, long, ' rest']] as const) {
    const stream = new Stream()
    let frame = ''
    t.ok(onFirstFrame(stream as unknown as MessageStream, 300, bytes => {
      frame = Buffer.from(bytes).toString()
      return goesOn
    }))
    for (let n = 0; n < text.length; n += size) stream.onData(Buffer.from(text.slice(n, n + size), 'latin1'))
    t.equal(frame, seen)
    t.equal(stream.read, rest)
    stream.abort(new Error('the end'))
  }
  for (const bytes of ['\xff\xff\xff\x7f', '\xad\x02', '\xff\xff\xff\xff\xff']) {
    const stream = new Stream()
    onFirstFrame(stream as unknown as MessageStream, 300, () => true)
    stream.onData(Buffer.from(bytes, 'latin1'))
    t.match(stream.aborted, { code: 'INVALID_INPUT' }, 'one that is too long')
  }
  t.end()
})
