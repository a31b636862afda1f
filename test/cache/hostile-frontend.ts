/**
 * A frontend that does what none should. usage: hostile-frontend.ts ADDRESS PORT LOG. The last part of a path says what it does; it
 * reads requests as leniently as any server might, and notes each in LOG, one JSON object a line.
 */
import { appendFileSync } from 'node:fs'
import { createServer } from 'node:http'
import type { IncomingMessage, ServerResponse } from 'node:http'
import type { Socket } from 'node:net'

const [address, port, log = ''] = process.argv.slice(2)
/** Larger than any part that a cache may fetch an object in. */
const HALF_BYTES = 160 * 1024 * 1024
const MIB = 1024 * 1024
const TRICKLE_MS = 200
const POUR_MS = 10
const POUR_CHUNKS = 8

const letters = { a: Buffer.alloc(MIB, 'a'), b: Buffer.alloc(MIB, 'b') }
const note = (entry: Record<string, unknown>): void => { appendFileSync(log, `${JSON.stringify(entry)}\n`) }

/** Writes without end, some 50 MB/s and no faster than it is read: what is tested is the end of it, not the machine. */
function pour (socket: Socket, chunk: Buffer): void {
  const timer = setInterval(() => {
    for (let i = 0; i < POUR_CHUNKS && socket.writableLength < MIB; i++) socket.write(chunk)
  }, POUR_MS)
  socket.on('close', () => { clearInterval(timer) })
}

const seen = new Set<string>()

/** An object that is another one from its second request on; ranges are honoured. */
function half (request: IncomingMessage, socket: Socket): void {
  const target = request.url ?? ''
  const version = seen.has(target) ? 'b' : 'a'
  seen.add(target)
  const range = /^bytes=(\d+)-(\d*)$/.exec(request.headers.range ?? '')
  const from = Number(range?.[1] ?? 0)
  const to = range?.[2] === undefined || range[2] === '' ? HALF_BYTES - 1 : Math.min(Number(range[2]), HALF_BYTES - 1)
  const head = range === null ? '200 OK' : `206 Partial Content\r\nContent-Range: bytes ${from}-${to}/${HALF_BYTES}`
  socket.write(`HTTP/1.1 ${head}\r\nETag: "${version}"\r\nConnection: close\r\nContent-Length: ${to - from + 1}\r\n\r\n`)
  // node takes no other request on a connection whose answer it has not made itself
  if (request.method === 'HEAD') return void socket.end()
  for (let left = to - from + 1; left > 0; left -= MIB) socket.write(letters[version].subarray(0, Math.min(left, MIB)))
  socket.end()
}

/** What each name does with the connection. */
const deeds: Readonly<Record<string, (socket: Socket, request: IncomingMessage, response: ServerResponse) => void>> = {
  slow: socket => {
    socket.write('HTTP/1.1 200 OK\r\nETag: "s"\r\nContent-Length: 100000\r\n\r\n')
    const timer = setInterval(() => socket.write('x'), TRICKLE_MS)
    socket.on('close', () => { clearInterval(timer) })
  },
  dead: () => undefined,
  closes: socket => socket.destroy(),
  resets: socket => socket.resetAndDestroy(),
  short: socket => socket.end(`HTTP/1.1 200 OK\r\nETag: "s"\r\nContent-Length: 100000\r\n\r\n${'x'.repeat(5_000)}`),
  long: socket => socket.end(`HTTP/1.1 200 OK\r\nETag: "l"\r\nContent-Length: 1000\r\n\r\n${'x'.repeat(1_000)}HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nsmuggled`),
  half: (socket, request) => { half(request, socket) },
  badchunk: socket => socket.end('HTTP/1.1 200 OK\r\nETag: "c"\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nzz\r\nhello\r\n0\r\n\r\n'),
  cutchunk: socket => socket.end('HTTP/1.1 200 OK\r\nETag: "c"\r\nTransfer-Encoding: chunked\r\n\r\nffff\r\nhello'),
  endless: socket => {
    socket.write('HTTP/1.1 200 OK\r\nETag: "e"\r\nTransfer-Encoding: chunked\r\n\r\n')
    pour(socket, Buffer.concat([Buffer.from('10000\r\n'), Buffer.alloc(0x10000, 'e'), Buffer.from('\r\n')]))
  },
  headers: socket => socket.end(`HTTP/1.1 200 OK\r\nX-Large: ${'h'.repeat(MIB)}\r\nContent-Length: 2\r\n\r\nok`),
  loop: (_, request, response) => response.writeHead(302, { location: request.url ?? '/', 'content-length': 0 }).end(),
  garbage: socket => socket.end('\0\x01\x02 no HTTP at all\r\n\r\n'),
  host: (_, request, response) => response.writeHead(200, { etag: '"h"' }).end(`for ${request.headers.host ?? 'nobody'}`)
}

let endless = 0
const server = createServer({ insecureHTTPParser: true, requestTimeout: 0, headersTimeout: 0, keepAliveTimeout: 0, maxHeaderSize: 4 * MIB }, (request, response) => {
  const target = request.url ?? ''
  const { socket } = request
  socket.on('error', () => socket.destroy())
  note({ from: socket.remoteAddress, method: request.method, target, host: request.headers.host })
  const name = target.split('?')[0]?.split('/').at(-1) ?? ''
  const deed = deeds[name]
  if (name === 'endless') {
    note({ endless: ++endless })
    socket.on('close', () => { note({ endless: --endless }) })
  }
  request.resume()
  if (deed === undefined) response.writeHead(200, { 'content-length': 2 }).end('ok')
  else deed(socket, request, response)
})
server.on('clientError', (_, socket) => { socket.destroy() })
server.listen(Number(port), address)
