/**
 * A frontend that says what no server says. usage: odd-frontend.ts ADDRESS PORT LOG. The last part of a path says what it does; each
 * request is noted in LOG, one JSON object a line.
 */
import { appendFileSync } from 'node:fs'
import { createServer } from 'node:http'
import type { IncomingMessage, ServerResponse } from 'node:http'

const [address, port, log = ''] = process.argv.slice(2)
const MIB = 1024 * 1024
const CHUNK = Buffer.alloc(MIB, 'x')
const PAUSE_MS = 20

/** Sends much more than any cache may keep, some 50 MB/s, until nobody wants it. */
function pour (response: ServerResponse): void {
  const timer = setInterval(() => { if (response.writableLength < 4 * MIB) response.write(CHUNK) }, PAUSE_MS)
  response.on('close', () => { clearInterval(timer) })
}

/** An object of `size` bytes, whole or in part. */
function ranged (request: IncomingMessage, response: ServerResponse, size: number, headers: Record<string, string> = {}): void {
  const [, first = '0', last = ''] = /^bytes=(\d+)-(\d*)$/.exec(request.headers.range ?? '') ?? []
  const from = Number(first)
  const to = Math.min(last === '' ? size - 1 : Number(last), size - 1)
  const of = request.headers.range === undefined ? {} : { 'content-range': `bytes ${from}-${to}/${size}` }
  response.writeHead(request.headers.range === undefined ? 200 : 206, { 'content-length': to - from + 1, etag: '"r"', ...of, ...headers })
  if (request.method === 'HEAD') return void response.end()
  for (let left = to - from + 1; left > MIB; left -= MIB) response.write(CHUNK)
  response.end(CHUNK.subarray(0, (to - from) % MIB + 1))
}

const seen = new Set<string>()

const deeds: Readonly<Record<string, (request: IncomingMessage, response: ServerResponse) => void>> = {
  /** says that it has a petabyte, and begins with it */
  huge: (request, response) => {
    response.writeHead(200, { 'content-length': 1e15, etag: '"h"' })
    if (request.method !== 'HEAD') pour(response)
  },
  /** the right range, and a length that is not that of the range */
  stretched: (request, response) => {
    const [, from = '0', to = ''] = /^bytes=(\d+)-(\d+)$/.exec(request.headers.range ?? '') ?? []
    response.writeHead(to === '' ? 200 : 206, { 'content-length': 1e15, etag: '"s"', ...to === '' ? {} : { 'content-range': `bytes ${from}-${to}/1000000000000000` } })
    if (request.method !== 'HEAD') pour(response)
  },
  large: (request, response) => { ranged(request, response, 60 * MIB) },
  small: (request, response) => { ranged(request, response, 2_000) },
  private: (request, response) => { ranged(request, response, 100_000, { 'cache-control': 'no-store' }) },
  /** claims to be the cache */
  told: (request, response) => { ranged(request, response, 2_000, { 'x-musubi-store': 'named HIT' }) },
  /** asked what it has it says one thing, and sends another the first time */
  turncoat: (request, response) => {
    const another = request.method !== 'HEAD' && !seen.has(request.url ?? '')
    if (request.method !== 'HEAD') seen.add(request.url ?? '')
    response.writeHead(200, { 'content-length': 1, etag: another ? '"2"' : '"1"' }).end(another ? 'b' : 'a')
  },
  early: (_, response) => {
    response.writeEarlyHints({ link: '</a>; rel=preload' })
    setTimeout(() => { response.writeHead(200, { 'content-length': 2 }).end('ok') }, PAUSE_MS)
  },
  /** holds its answer back */
  never: () => undefined
}

createServer({ requestTimeout: 0, headersTimeout: 0, keepAliveTimeout: 0 }, (request, response) => {
  const target = request.url ?? ''
  appendFileSync(log, `${JSON.stringify({ from: request.socket.remoteAddress, method: request.method, target, range: request.headers.range ?? '' })}\n`)
  const deed = deeds[target.split('?')[0]?.split('/').at(-1) ?? '']
  request.resume()
  if (deed === undefined) response.writeHead(200, { 'content-length': 2 }).end('ok')
  else deed(request, response)
}).listen(Number(port), address)
