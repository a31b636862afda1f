/** The differential test can fail: planted differences are found, told in one line, and made small; none is found where there is none. */
import { once } from 'node:events'
import { spawn } from 'node:child_process'
import { createServer, connect } from 'node:net'
import type { AddressInfo, Socket } from 'node:net'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import t from 'tap'
import { IGNORED_HEADERS, compare } from '../../cache/compare.ts'
import { runAll, runExchange } from '../../cache/both-ways.ts'
import type { Ways } from '../../cache/both-ways.ts'
import { makeExchanges } from '../../cache/exchanges.ts'
import type { RawAnswer } from '../../cache/raw-http.ts'
import { makeResources, resourceFinder, targetOf } from '../../cache/resources.ts'
import { WIRE_ERROR_MAX, wireDifference, wireError } from '../../cache/wire-accounting.ts'
import { freePort } from '../../free-port.ts'

const SEED = 5
const answer = (more: Partial<RawAnswer> = {}): RawAnswer => ({ status: 200, version: 'HTTP/1.1', headers: [['ETag', '"a"'], ['Content-Length', '5']], body: Buffer.from('hello'), framing: 'length', interim: [], ...more })

t.test('answers that a node cannot tell apart', t => {
  t.same(compare(answer(), answer()), [])
  t.same(compare(answer(), answer({ headers: [['content-length', '5'], ['etag', '"a"']] })), [], 'order and case of names mean nothing')
  for (const name of Object.keys(IGNORED_HEADERS)) {
    if (name !== 'content-length') t.same(compare(answer(), answer({ headers: [...answer().headers, [name, 'x']] })), [], name)
  }
  t.same(compare(answer({ headers: [], framing: 'chunked' }), answer({ headers: [['Content-Length', '5']] })), [], 'a length may be told')
  const multipart = (boundary: string): RawAnswer => answer({ status: 206, headers: [['Content-Type', `multipart/byteranges; boundary=${boundary}`]], body: Buffer.from(`--${boundary}\r\n\r\nx\r\n--${boundary}--\r\n`) })
  t.same(compare(multipart('A'), multipart('00012')), [], 'another boundary')
  t.same(compare('the connection ended', 'the connection ended'), [])
  t.end()
})

t.test('what it can tell apart', t => {
  const fields = (cached: RawAnswer | string, direct: RawAnswer | string = answer()): string[] => compare(direct, cached).map(one => one.field)
  t.same(fields(answer({ status: 206 })), ['status'])
  t.same(fields(answer({ body: Buffer.from('hellO') })), ['body'])
  t.match(compare(answer(), answer({ body: Buffer.from('hellO') })), [{ cached: /other from byte 4 on/ }])
  t.same(fields(answer({ headers: [['Content-Length', '5']] })), ['header etag'])
  t.same(fields(answer({ headers: [...answer().headers, ['Via', '1.1 x']] })), ['header via'])
  t.same(fields(answer({ headers: [['ETag', '"a"']] })), ['header content-length'], 'a length must not get lost')
  t.same(fields('no answer in time'), ['answer'])
  const cookies = (...values: string[]): RawAnswer => answer({ headers: values.map(value => ['Set-Cookie', value]) })
  t.same(fields(cookies('a=1'), cookies('a=1', 'b=2')), ['header set-cookie'])
  const echo = (headers: string[]): RawAnswer => answer({ headers: [['Content-Type', 'application/x-echo']], body: Buffer.from(JSON.stringify({ from: '10.42.1.1', headers })) })
  t.same(fields(echo(['host: a', 'via: x']), echo(['host: a'])), ['request header via, as the frontend saw it'])
  t.end()
})

t.test('how far accounts are off', t => {
  const counted = wireDifference({ received: 10, sent: 5 }, { received: 1_010, sent: 105 })
  t.same(counted, { received: 1_000, sent: 100 })
  t.same(wireError(counted, counted), { received: 0, sent: 0 })
  t.ok(wireError(counted, { received: 1_030, sent: 100 }).received > WIRE_ERROR_MAX, '3 % too much')
  t.ok((wireError(counted, { received: 1_000, sent: 97 }).sent ?? 0) < -WIRE_ERROR_MAX, '3 % missing')
  t.equal(wireError(counted, { received: 1_000, sent: null }).sent, null)
  t.ok(wireError({ received: 0, sent: 0 }, { received: 1, sent: 0 }).received > 1)
  t.end()
})

t.test('targets lead back to their resources', t => {
  const resources = makeResources(SEED)
  const find = resourceFinder(resources)
  for (const resource of resources) t.match(find(targetOf(resource, 'e7')), { alias: 'e7', resource: { name: resource.name } }, resource.template)
  t.equal(find('/nothing'), null)
  t.same(makeExchanges(SEED, 50, resources), makeExchanges(SEED, 50, makeResources(SEED)), 'a seed decides everything')
  t.end()
})

/** Passes bytes on, and lets `spoil` at what comes back. */
async function meddler (port: number, spoil: (bytes: Buffer) => Buffer): Promise<{ port: number, close: () => void }> {
  const open = new Set<Socket>()
  const server = createServer({ allowHalfOpen: true }, socket => {
    const upstream = connect({ port, host: '127.0.0.1', allowHalfOpen: true })
    open.add(socket).add(upstream)
    socket.pipe(upstream)
    upstream.on('data', bytes => { socket.write(spoil(bytes)) })
    upstream.on('end', () => socket.end())
    for (const one of [socket, upstream]) one.on('error', () => { socket.destroy(); upstream.destroy() })
    socket.on('close', () => upstream.destroy())
  }).listen(0, '127.0.0.1')
  await once(server, 'listening')
  return { port: (server.address() as AddressInfo).port, close: () => { server.close(); for (const socket of open) socket.destroy() } }
}

t.test('both ways', async t => {
  const port = await freePort('127.0.0.1')
  const frontend = spawn(process.execPath, [join(import.meta.dirname, '..', '..', 'cache', 'frontend.ts'), String(SEED), '127.0.0.1', String(port)], { stdio: 'inherit' })
  t.teardown(() => frontend.kill('SIGKILL'))
  for (let tries = 0; tries < 100 && !await fetch(`http://127.0.0.1:${port}/`).then(() => true, () => false); tries++) await delay(50)
  const exchanges = makeExchanges(SEED, 60, makeResources(SEED))
  const ways = (cachedPort: number): Ways => ({ host: '127.0.0.1', directPort: port, cachedPort })

  t.same(await runAll(ways(port), exchanges, 4), [], 'the same server twice is the same')

  const renamed = await meddler(port, bytes => Buffer.from(bytes.toString('latin1').replace('ETag: "', 'ETag: "x'), 'latin1'))
  const reports = await runAll(ways(renamed.port), exchanges, 4)
  renamed.close()
  t.match(reports.map(report => report.kind).filter(kind => !kind.includes('header etag')), [], 'one planted difference gives reports of it alone')
  t.ok(reports.length > 0)
  for (const { line } of reports) t.match(line, /^header etag: direct "/)
  t.ok(reports.some(({ line }) => /; (GET|HEAD); fresh;/.test(line)), 'made small: one request, no headers')

  const cut = await meddler(port, bytes => bytes.subarray(0, Math.max(1, bytes.length - 1)))
  const sized = exchanges.find(one => one.mode === 'fresh' && one.resource.framing === 'length' && one.resource.bytes > 0 && one.resource.status === 200 && one.steps[0]?.request.method === 'GET')
  t.ok(sized)
  if (sized !== undefined) t.not((await runExchange(ways(cut.port), sized, 'cut')).length, 0, 'a byte too few is found')
  cut.close()
})
