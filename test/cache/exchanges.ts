/** What nodes ask for: exchanges of a few requests each on one resource, made from a seed. */
import { createPrng } from '../sim/kernel/prng.ts'
import type { Prng } from '../sim/kernel/prng.ts'
import { targetOf, validatorsOf } from './resources.ts'
import type { Resource } from './resources.ts'

export interface Request {
  method: string
  http: '1.1' | '1.0'
  headers: ReadonlyArray<readonly [string, string]>
  /** text that is sent; null for none */
  body: string | null
  chunked: boolean
}

export interface Step {
  request: Request
  /** the resource gets this version first; null leaves it */
  version: number | null
}

/** `fresh`: a connection for each; `aborted`: the first one is given up after some bytes. */
export type Mode = 'fresh' | 'kept' | 'pipelined' | 'aborted'

export interface Exchange {
  id: string
  resource: Resource
  mode: Mode
  steps: readonly Step[]
}

const HOST = '10.42.0.1:8080'
const plainGet: Request = { method: 'GET', http: '1.1', headers: [], body: null, chunked: false }

/** Spellings that a strict reader of RFC 9110 must take, and some that installers really send. */
const ODD_HEADERS: ReadonlyArray<ReadonlyArray<readonly [string, string]>> = [
  [['aCCept', '*/*']], [['X-Odd', '  a value   ']], [['X-Empty', '']], [['X_Under_Score', '1']], [['X.Dots', '1']], [['X-Twice', 'a'], ['x-twice', 'b']], [['X-Long', 'y'.repeat(6_000)]],
  [['User-Agent', 'anaconda/13.21'], ['X-Anaconda-Architecture', 'x86_64'], ['X-RHN-Provisioning-MAC-0', 'eth0 02:00:00:00:00:01']], [['Referer', 'http://10.42.0.1/']], [['TE', 'trailers']],
  [['X-Forwarded-For', '192.0.2.1']], [['Via', '1.0 fred']], [['Accept-Language', 'ja']], [['accept-encoding', 'identity']], [['Accept-Encoding', 'gzip, deflate']], [['ACCEPT-ENCODING', 'gzip']],
  [['User-Agent', 'one/1']], [['X-Colon', 'a:b:c']], [['X-Quote', '"a\\"b"']], Array.from({ length: 40 }, (_, i) => [`X-Many-${i}`, String(i)] as const), [['If-Unknown', '1']], [['Keep-Alive', '300']], [['From', 'a@example.org']]
]
const IDENTITY_HEADERS: ReadonlyArray<ReadonlyArray<readonly [string, string]>> = [
  [['Cookie', 'a=b']], [['Authorization', 'Basic eDp5']], [['Cache-Control', 'no-cache']], [['Cache-Control', 'no-store']], [['Cache-Control', 'max-age=0']], [['Pragma', 'no-cache']], [['Cache-Control', 'only-if-cached']],
  [['X-HTTP-Method-Override', 'DELETE']], [['Cookie', 'a=b'], ['Cookie', 'c=d']]
]

function rangeOf (chance: Prng, bytes: number): string {
  const inside = (): number => chance.int(0, Math.max(0, bytes - 1))
  const from = inside()
  return chance.pick([
    () => `bytes=${from}-${from + chance.int(0, 5_000)}`, () => `bytes=-${chance.int(1, 2_000)}`, () => `bytes=${from}-`, () => `bytes=0-0,${from}-${from + 10}`, () => 'bytes=0-9, 20-29 ,-5', () => `bytes=${bytes + 10}-${bytes + 20}`,
    () => `bytes=${bytes + 5}-`, () => 'bytes=0-', () => 'bytes=-0', () => 'bytes=9-3', () => 'lines=1-2', () => 'bytes=abc', () => `bytes=${bytes - 1}-${bytes + 100}`, () => 'Bytes=0-4', () => 'bytes=0-99999999999'
  ])()
}

function conditionOf (chance: Prng, resource: Resource): Array<readonly [string, string]> {
  const { etag, lastModified } = validatorsOf(resource, 0)
  const right = etag ?? '"none"'
  const weak = right.startsWith('W/') ? right.slice(2) : `W/${right}`
  const at = lastModified ?? new Date(1.6e12).toUTCString()
  const past = new Date(1e12).toUTCString()
  return chance.pick<Array<readonly [string, string]>>([
    [['If-None-Match', right]], [['If-None-Match', weak]], [['If-None-Match', '"other"']], [['If-None-Match', `"other", ${right}`]], [['If-None-Match', '*']], [['If-Modified-Since', at]], [['If-Modified-Since', past]],
    [['If-Modified-Since', 'no date']], [['If-Match', right]], [['If-Match', '"other"']], [['If-Match', '*']], [['If-Unmodified-Since', at]], [['If-Unmodified-Since', past]],
    [['If-None-Match', '"other"'], ['If-Modified-Since', at]], [['if-none-match', right]]
  ])
}

function ifRangeOf (chance: Prng, resource: Resource): readonly [string, string] {
  const { etag, lastModified } = validatorsOf(resource, 0)
  return ['If-Range', chance.pick([etag ?? '"none"', '"other"', `W/${etag ?? '"none"'}`.replace('W/W/', 'W/'), lastModified ?? new Date(1e12).toUTCString(), new Date(1e12).toUTCString()])]
}

function requestOf (chance: Prng, resource: Resource): Request {
  const headers: Array<readonly [string, string]> = []
  const kind = chance.unit()
  let method = chance.chance(0.14) ? 'HEAD' : 'GET'
  let body: string | null = null
  if (kind < 0.1) {
    method = chance.pick(['POST', 'PUT', 'POST', 'DELETE', 'OPTIONS', 'PATCH', 'PROPFIND', 'PURGE'])
    body = chance.chance(0.75) ? 'data '.repeat(chance.pick([0, 1, 100, 30_000])) : null
    if (body !== null && chance.chance(0.2)) headers.push(['Expect', '100-continue'])
    if (body === null && method === 'POST') body = ''
  } else if (kind < 0.4) {
    headers.push([chance.pick(['Range', 'Range', 'range', 'RANGE']), rangeOf(chance, resource.bytes)])
    if (chance.chance(0.3)) headers.push(ifRangeOf(chance, resource))
  } else if (kind < 0.62) headers.push(...conditionOf(chance, resource))
  if (chance.chance(0.12)) headers.push(...chance.pick(IDENTITY_HEADERS))
  if (resource.status === 401 && chance.chance(0.5)) headers.push(['Authorization', 'Basic eDp5'])
  if (chance.chance(0.35)) headers.push(...chance.pick(ODD_HEADERS))
  const http = body === null && chance.chance(0.08) ? '1.0' : '1.1'
  return { method, http, headers, body, chunked: body !== null && chance.chance(0.3) }
}

function exchangeOf (chance: Prng, resource: Resource, id: string): Exchange {
  const request = requestOf(chance, resource)
  const step = (one: Request, version: number | null = null): Step => ({ request: one, version })
  const steps = chance.pick<Step[]>([
    [step(request), step(request), step(request, 1)], [step(request), step(request), step(request)], [step(plainGet), step(request), step(request, 2)],
    [step(request), step(plainGet, 1), step(request)], [step(plainGet), step({ ...plainGet, method: 'HEAD' }), step(request)], [step(request), step(requestOf(chance, resource)), step(requestOf(chance, resource), 1)]
  ])
  const bare = steps.every(one => one.request.body === null && one.request.http === '1.1' && one.version === null)
  const kept = steps.every(one => one.request.http === '1.1') && resource.framing !== 'close'
  const mode = chance.pick<Mode>(['fresh', 'fresh', kept ? 'kept' : 'fresh', bare && kept ? 'pipelined' : 'fresh', resource.bytes > 20_000 ? 'aborted' : 'fresh'])
  return { id, resource, mode, steps }
}

/** Exchanges of a seed; each has an alias, and so a key of its own, but for some that share one with their predecessor. */
export function makeExchanges (seed: number, count: number, resources: readonly Resource[]): Exchange[] {
  const chance = createPrng(seed).fork('exchanges')
  const weighted = [...resources, ...resources.filter(resource => resource.kind !== 'dynamic')]
  return Array.from({ length: count }, (_, i) => exchangeOf(chance.fork(String(i)), chance.pick(weighted), `e${i}`))
}

/** The bytes of a request. */
export function requestBytes (request: Request, resource: Resource, alias: string, last: boolean): Buffer {
  const lines = [`${request.method} ${targetOf(resource, alias)} HTTP/${request.http}`, `Host: ${HOST}`, ...request.headers.map(([name, value]) => `${name}: ${value}`)]
  if (last && request.http === '1.1') lines.push('Connection: close')
  const body = Buffer.from(request.body ?? '')
  if (request.body !== null) lines.push(request.chunked ? 'Transfer-Encoding: chunked' : `Content-Length: ${body.length}`)
  const framed = request.body === null ? [] : !request.chunked ? [body] : [...body.length === 0 ? [] : [Buffer.from(`${body.length.toString(16)}\r\n`), body, Buffer.from('\r\n')], Buffer.from('0\r\n\r\n')]
  return Buffer.concat([Buffer.from(`${lines.join('\r\n')}\r\n\r\n`, 'latin1'), ...framed])
}
