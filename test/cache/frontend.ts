/**
 * The frontend of the differential test: an honest HTTP server with ranges, conditions, and bodies of every framing.
 * usage: frontend.ts SEED ADDRESS PORT... (the resources: see resources.ts). `POST /control?alias=A&version=N` changes all
 * resources of an alias.
 */
import { createHash } from 'node:crypto'
import { createServer } from 'node:http'
import type { IncomingMessage, ServerResponse } from 'node:http'
import { bodyOf, makeResources, resourceFinder, validatorsOf } from './resources.ts'
import type { Resource, Validators } from './resources.ts'

const [seed, address, ...ports] = process.argv.slice(2)
const find = resourceFinder(makeResources(Number(seed)))
const versions = new Map<string, number>()
const MULTIPART_RANGES_MAX = 8

/** Headers between two neighbours only (RFC 9110, 7.6.1), and those that a proxy answers or frames anew by itself. */
const HOP = new Set(['connection', 'keep-alive', 'transfer-encoding', 'te', 'expect', 'content-length', 'proxy-connection', 'trailer'])

function echoOf (request: IncomingMessage, target: string, body: Buffer): Buffer {
  const headers: string[] = []
  for (let i = 0; i + 1 < request.rawHeaders.length; i += 2) {
    const name = (request.rawHeaders[i] ?? '').toLowerCase()
    if (!HOP.has(name)) headers.push(`${name}: ${request.rawHeaders[i + 1] ?? ''}`)
  }
  const told = { method: request.method, target, from: request.socket.remoteAddress, sent: body.length, sha256: createHash('sha256').update(body).digest('hex'), headers: headers.sort() }
  return Buffer.from(JSON.stringify(told))
}

const plain = (tag: string): string => tag.replace(/^W\//, '')
const tagsOf = (header: string): string[] => header.split(',').map(tag => tag.trim())

/** 412, 304 or null: go on (RFC 9110, 13.2.2). */
function precondition (request: IncomingMessage, { etag, lastModified }: Validators): 412 | 304 | null {
  const h = request.headers
  const modified = lastModified === null ? null : Date.parse(lastModified)
  if (h['if-match'] !== undefined) {
    if (h['if-match'] !== '*' && !(etag !== null && !etag.startsWith('W/') && tagsOf(h['if-match']).includes(etag))) return 412
  } else if (h['if-unmodified-since'] !== undefined && modified !== null && modified > Date.parse(h['if-unmodified-since'])) return 412
  const reads = request.method === 'GET' || request.method === 'HEAD'
  if (h['if-none-match'] !== undefined) {
    const same = h['if-none-match'] === '*' || (etag !== null && tagsOf(h['if-none-match']).map(plain).includes(plain(etag)))
    if (same) return reads ? 304 : 412
  } else if (reads && h['if-modified-since'] !== undefined && modified !== null && modified <= Date.parse(h['if-modified-since'])) return 304
  return null
}

function ifRangeHolds (request: IncomingMessage, { etag, lastModified }: Validators): boolean {
  const condition = request.headers['if-range']
  if (condition === undefined) return true
  return String(condition).includes('"') ? condition === etag && !etag.startsWith('W/') : condition === lastModified
}

/** Ranges as [from, to]; null: the header is to be ignored; empty: none of them lies in the body. */
function rangesOf (header: string | undefined, bytes: number): Array<[number, number]> | null {
  const specs = /^bytes=([\d\s,-]+)$/i.exec(header ?? '')?.[1]?.split(',').map(spec => /^\s*(\d*)-(\d*)\s*$/.exec(spec))
  if (specs === undefined || specs.length > MULTIPART_RANGES_MAX || specs.includes(null)) return null
  const found: Array<[number, number]> = []
  for (const spec of specs) {
    const [, first = '', last = ''] = spec ?? []
    if (first === '' && last === '') return null
    if (first !== '' && last !== '' && Number(last) < Number(first)) return null
    const from = first === '' ? Math.max(0, bytes - Number(last)) : Number(first)
    const to = first === '' || last === '' ? bytes - 1 : Math.min(Number(last), bytes - 1)
    if (from <= to && !(first === '' && Number(last) === 0)) found.push([from, to])
  }
  return found
}

function answer (request: IncomingMessage, response: ServerResponse, resource: Resource, version: number, sent: Buffer, target: string): void {
  const variant = resource.varies === null ? '' : request.headers[resource.varies.toLowerCase()]?.toString() ?? ''
  const reads = request.method === 'GET' || request.method === 'HEAD'
  const whole = resource.echoes || !reads ? echoOf(request, target, sent) : bodyOf(resource, resource.kind === 'digest' ? 0 : version, variant)
  const validators = validatorsOf(resource, resource.kind === 'digest' ? 0 : version, variant)
  const many = new Map<string, string[]>()
  const set = (name: string, value: string): void => { many.set(name, [...many.get(name) ?? [], value]) }
  const end = (status: number, body: Buffer): void => {
    for (const [name, values] of many) response.setHeader(name, values.length === 1 ? values[0] ?? '' : values)
    response.writeHead(status)
    response.end(request.method === 'HEAD' || status === 304 || status === 204 ? '' : body)
  }
  set('Server', 'Apache/2.4.57 (Frontend)')
  for (const [name, value] of resource.headers) set(name, value)
  if (resource.varies !== null) set('Vary', resource.varies)
  if (validators.etag !== null) set('ETag', validators.etag)
  if (validators.lastModified !== null) set('Last-Modified', validators.lastModified)
  const authorised = resource.status === 401 && request.headers.authorization !== undefined
  if (resource.status === 200) {
    const early = precondition(request, validators)
    if (early === 412) set('Content-Length', '0')
    if (early !== null) { end(early, Buffer.alloc(0)); return }
  }
  if (resource.varies === 'Accept-Encoding' && variant.includes('gzip')) set('Content-Encoding', 'gzip')
  const type = resource.echoes || !reads ? 'application/x-echo' : resource.template.endsWith('.rpm') ? 'application/x-rpm' : 'application/octet-stream'
  const partial = resource.status === 200 && request.method === 'GET' && resource.ranges && request.headers.range !== undefined && ifRangeHolds(request, validators)
  const ranges = partial ? rangesOf(request.headers.range, whole.length) : null
  if (resource.ranges) set('Accept-Ranges', 'bytes')
  if (ranges?.length === 0) {
    set('Content-Range', `bytes */${whole.length}`)
    set('Content-Length', '0')
    end(416, Buffer.alloc(0))
    return
  }
  if (ranges !== null) {
    const [only] = ranges
    const boundary = 'THIS_STRING_SEPARATES'
    const parts = ranges.map(([from, to]) => Buffer.concat([Buffer.from(`\r\n--${boundary}\r\nContent-Type: ${type}\r\nContent-Range: bytes ${from}-${to}/${whole.length}\r\n\r\n`), whole.subarray(from, to + 1)]))
    const body = ranges.length === 1 && only !== undefined ? whole.subarray(only[0], only[1] + 1) : Buffer.concat([...parts, Buffer.from(`\r\n--${boundary}--\r\n`)])
    set('Content-Type', ranges.length === 1 ? type : `multipart/byteranges; boundary=${boundary}`)
    if (ranges.length === 1 && only !== undefined) set('Content-Range', `bytes ${only[0]}-${only[1]}/${whole.length}`)
    set('Content-Length', String(body.length))
    end(206, body)
    return
  }
  set('Content-Type', type)
  const status = authorised ? 200 : resource.status
  if (status !== 204) {
    if (resource.framing === 'length') set('Content-Length', String(whole.length))
    else if (resource.framing === 'close') response.removeHeader('transfer-encoding')
  }
  end(status, whole)
}

const handle = (request: IncomingMessage, response: ServerResponse): void => {
  const chunks: Buffer[] = []
  request.on('data', (chunk: Buffer) => chunks.push(chunk))
  request.on('end', () => {
    const target = (request.url ?? '/').replace(/^http:\/\/[^/]*/i, '')
    const control = /^\/control\?alias=([a-z0-9]+)&version=(\d+)$/.exec(target)
    if (control !== null) versions.set(control[1] ?? '', Number(control[2]))
    const found = find(target)
    if (found === null) response.writeHead(target === '/' || control !== null ? 200 : 404, { 'content-length': 0 }).end()
    else answer(request, response, found.resource, versions.get(found.alias) ?? 0, Buffer.concat(chunks), target)
  })
}
for (const port of ports) {
  const server = createServer({ requestTimeout: 0, headersTimeout: 0, keepAliveTimeout: 75_000, maxHeaderSize: 256 * 1024 }, handle)
  // a client that goes away half-way is no reason to end
  server.on('clientError', (_, socket) => { socket.destroy() })
  server.listen(Number(port), address)
}
