/**
 * 100,000 frames that are no requests, or hardly, over connections that come and go, sent to a helper
 * in a process of its own. Meanwhile somebody who behaves is served, and the helper does not grow.
 */
import { once } from 'node:events'
import { createConnection, type Socket } from 'node:net'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { pino } from 'pino'
import t from 'tap'
import { createHelperClient } from '../../agent/helper/client/client.ts'
import { createFrameReader, encodeFrame } from '../../agent/helper/wire/frames.ts'
import { VERBS } from '../../agent/helper/wire/verbs.ts'
import { errorCode } from '../../protocol/core/errors.ts'
import { HELPER_MAX_CALLS, HELPER_MAX_CONNECTIONS, HELPER_REQUEST_BYTES } from '../../protocol/core/limits.ts'
import { helperConfig } from '../helper.ts'
import { startHelperProcess } from '../helper-process.ts'
import { createRandom, type Random } from '../agents/random.ts'

const FRAMES = 100_000
/** The well-behaved client has one more. */
const FUZZERS = 4
/** What a helper with a hundred dead connections, or a leak of 200 bytes a frame, would exceed. */
const HEAP_GROWTH = 16 * 1024 * 1024
/** Store, logs and libraries open one now and then. */
const MORE_DESCRIPTORS = HELPER_MAX_CONNECTIONS + 8
const FRAME_MS = 5_000
const UID = process.getuid?.() ?? 0

t.setTimeout(110_000)

/** `ends`: whether the last of these frames ends the connection; `atOnce`: they mean something else when they come in pieces. */
interface Shot { bytes: Buffer, frames: number, ends: boolean, atOnce: boolean }

const VERB_NAMES = Object.keys(VERBS)
const ODD_NAMES = ['__proto__', 'constructor', 'prototype', 'toString', '', 'verb', 'id', '\u0000', '\ud800', 'kind']

const below = (random: Random, bound: number): number => random.between(0, bound - 1)

function raw (text: string | Buffer): Buffer {
  const body = Buffer.from(text)
  const header = Buffer.alloc(4)
  header.writeUInt32BE(body.length)
  return Buffer.concat([header, body])
}
const frame = (message: unknown): Buffer => encodeFrame(message, HELPER_REQUEST_BYTES)

function oddValue (random: Random, depth = 0): unknown {
  const kind = below(random, depth > 3 ? 9 : 11)
  switch (kind) {
    case 0: return null
    case 1: return random.chance(0.5)
    case 2: return random.pick([0, -0, -1, 1.5, 2 ** 53, 2 ** 64, 1e308, -1e308, 5e-324])
    case 3: return random.pick(ODD_NAMES)
    case 4: return 'x'.repeat(below(random, 3_000))
    case 5: return random.pick(['domain', 'tunnel wg', '../etc', '-rf', '$(id)', 'volume a'])
    case 6: return random.pick(VERB_NAMES)
    case 7: return below(random, 2 ** 31)
    case 8: return ''
    case 9: return Array.from({ length: below(random, 5) }, () => oddValue(random, depth + 1))
    default: return Object.fromEntries(Array.from({ length: below(random, 5) }, () => [random.pick([...ODD_NAMES, 'name', 'spec', 'claim']), oddValue(random, depth + 1)]))
  }
}

/** Ids of a connection: none is under way twice unless it is meant to be. */
interface Ids { next: number }

function harmless (random: Random, ids: Ids): Buffer {
  const id = (): number => ids.next++
  const deadlineMs = 1 + below(random, 10_000)
  switch (below(random, 9)) {
    case 0: return frame({ cancel: 1 + below(random, 2 ** 40) })
    case 1: return frame({ cancel: Number.MAX_SAFE_INTEGER })
    case 2: return frame({ id: id(), verb: random.pick(['constructor', 'to-string', 'shell', 'x', 'exec']), params: oddValue(random), deadlineMs })
    case 3: return frame({ id: id(), verb: random.pick(VERB_NAMES), params: oddValue(random), deadlineMs })
    // an own property of that name, as no object literal can have it
    case 4: return raw(`{"id":${id()},"verb":"${random.pick(VERB_NAMES)}","params":{"__proto__":{"kind":"domain","name":"a"},"constructor":1},"deadlineMs":${deadlineMs}}`)
    case 5: { const depth = 1 + below(random, random.chance(0.02) ? 100_000 : 100); return raw(`{"id":${id()},"verb":"observe","params":${'['.repeat(depth)}${']'.repeat(depth)},"deadlineMs":1}`) }
    case 6: { const depth = 1 + below(random, 500); return raw(`{"id":${id()},"verb":"apply","params":{"kind":"domain","spec":${'{"a":'.repeat(depth)}1${'}'.repeat(depth)}},"deadlineMs":1}`) }
    case 7: return raw(`{"id":${id()},"verb":"hello","params":{"ledgerMs":${random.pick(['1e999', '-1', '1.5', '9007199254740993', '0.1e-400'])}},"deadlineMs":1}`)
    default: return frame({ id: id(), verb: 'noop', params: {}, deadlineMs })
  }
}

function deadly (random: Random, ids: Ids): Buffer {
  const header = Buffer.alloc(4)
  switch (below(random, 12)) {
    case 0: header.writeUInt32BE(random.pick([HELPER_REQUEST_BYTES + 1, 2 ** 31, 2 ** 32 - 1])); return Buffer.concat([header, Buffer.from('{}')])
    case 1: return header
    case 2: return raw(random.pick(['{', '{"id":1', 'x', 'nul', '{}{}', '[1,]', '\ufeff{}', "{'id':1}", '{"id":1,}', '\u0000']))
    case 3: return raw(Buffer.from(Array.from({ length: 1 + below(random, 64) }, () => 0x80 + below(random, 0x80))))
    case 4: return raw(JSON.stringify(random.pick([null, 1, 'x', [], {}, true])))
    case 5: return raw(JSON.stringify({ id: random.pick([0, -1, 1.5, '1', null, 2 ** 54, [], {}]), verb: 'noop', params: {}, deadlineMs: 1 }))
    case 6: return raw(`{"id":${random.pick(['1e999', '-1e999', '1e400', '99999999999999999999'])},"verb":"noop","params":{},"deadlineMs":1}`)
    case 7: return frame({ id: ids.next++, verb: random.pick([...ODD_NAMES.filter(name => !/^[a-z][a-z-]*$/.test(name)), 'NOOP', 'x'.repeat(33), 'no op', 1, null]), params: {}, deadlineMs: 1 })
    case 8: return frame({ id: ids.next++, verb: 'noop', params: {}, deadlineMs: random.pick([0, -1, 1e9, '1', null, 1.5]) })
    case 9: return frame({ id: ids.next++, verb: 'noop', params: {}, deadlineMs: 1, [random.pick(['more', 'constructor', 'signal'])]: oddValue(random) })
    case 10: return frame({ cancel: random.pick([0, -1, '1', null, 1.5, {}]), id: below(random, 3) })
    default: return frame({ id: ids.next++, verb: 'noop', params: {} })
  }
}

/** Up to so many frames for one write, the last of which may end the connection. All of them find room among the calls under way. */
function shot (random: Random, ids: Ids): Shot {
  if (random.chance(0.05)) {
    const twice = frame({ id: ids.next++, verb: 'observe', params: { kind: 'domain' }, deadlineMs: 5_000 })
    return { bytes: Buffer.concat([twice, twice]), frames: 2, ends: true, atOnce: true }
  }
  const parts = Array.from({ length: 1 + below(random, HELPER_MAX_CALLS / FUZZERS - 6) }, () => harmless(random, ids))
  const ends = random.chance(0.4)
  if (ends) parts.push(deadly(random, ids))
  return { bytes: Buffer.concat(parts), frames: parts.length, ends, atOnce: false }
}

/** In pieces: frames do not come one by one. */
async function write (socket: Socket, { bytes, atOnce }: Shot, random: Random): Promise<void> {
  if (atOnce || random.chance(0.7)) { socket.write(bytes); return }
  let at = 0
  while (at < bytes.length) {
    const end = at + 1 + below(random, Math.max(1, bytes.length / 3))
    if (!socket.destroyed) socket.write(bytes.subarray(at, end))
    at = end
    await new Promise(resolve => { setImmediate(resolve) })
  }
}

async function connected (path: string): Promise<Socket> {
  for (;;) {
    const socket = createConnection(path)
    socket.on('error', () => undefined)
    await Promise.race([once(socket, 'connect'), once(socket, 'close')]).catch(() => undefined)
    if (!socket.destroyed) return socket
    await sleep(5)
  }
}

t.test(`the helper serves on through ${FRAMES} frames that nobody should send`, async t => {
  const dir = await mkdtemp(join(tmpdir(), 'mzf-'))
  t.teardown(async () => { await rm(dir, { recursive: true, force: true }) })
  const file = join(dir, 'agent.yaml')
  await writeFile(file, JSON.stringify({ name: 'h1', site: 'tokyo', roles: ['compute'], listen: ['/ip4/127.0.0.1/tcp/0'], underlayAddress: '127.0.0.1', stateDir: dir, runDir: dir, drivers: 'fake', helper: helperConfig(dir) }))
  const { socket: path } = helperConfig(dir)
  await using helper = await startHelperProcess(file, { peerUid: UID, times: { frameMs: FRAME_MS } })
  const counts = { frames: 0, connections: 0, answers: 0, cut: 0 }

  /** Sends until there are enough; every connection is seen to the end that it should have. */
  async function fuzz (seed: number, until: number): Promise<void> {
    const random = createRandom(seed)
    while (counts.frames < until) {
      const socket = await connected(path)
      counts.connections++
      const ids: Ids = { next: 1 }
      const reader = createFrameReader(64 * 1024 * 1024)
      const waiting = new Map<number, () => void>()
      let refusals = 0
      socket.on('data', (chunk: Buffer) => {
        for (const message of reader.push(chunk)) {
          const { id, error } = message as { id: number | null, error?: { code: string } }
          counts.answers++
          if (id !== null) waiting.get(id)?.()
          if (error?.code === 'INTERNAL') t.fail(`an answer of INTERNAL: ${JSON.stringify(message).slice(0, 300)}`)
          if (error?.code === 'BAD_FRAME' || error?.code === 'FRAME_TOO_LARGE') refusals++
        }
      })
      const closed = once(socket, 'close')
      for (let shots = 0; shots < 12 && counts.frames < until; shots++) {
        const fired = shot(random, ids)
        const { bytes, frames, ends } = fired
        counts.frames += frames
        await write(socket, fired, random)
        if (ends) {
          const inTime = await Promise.race([closed.then(() => true), sleep(FRAME_MS * 4, false, { ref: false })])
          if (!inTime) { t.fail(`not cut off after ${bytes.subarray(-80).toString('latin1')}`); break }
          counts.cut++
          if (refusals === 0) t.fail(`cut off without a word after ${bytes.subarray(-80).toString('latin1')}`)
          break
        }
        // the stream is still understood: what is asked properly is answered
        const id = ids.next++
        const answered = new Promise<boolean>(resolve => { waiting.set(id, () => { resolve(true) }) })
        socket.write(frame({ id, verb: 'noop', params: {}, deadlineMs: 10_000 }))
        if (!await Promise.race([answered, closed.then(() => false), sleep(FRAME_MS * 4, false, { ref: false })])) { t.fail(`not answered after ${bytes.subarray(-200).toString('latin1')}`); break }
      }
      // half a frame now and then
      if (!socket.destroyed && random.chance(0.5)) socket.write(frame({ id: ids.next, verb: 'noop', params: {}, deadlineMs: 1 }).subarray(0, 1 + below(random, 20)))
      socket.destroy()
      await closed.catch(() => undefined)
    }
  }
  const rush = async (until: number): Promise<void> => { await Promise.all(Array.from({ length: FUZZERS }, (_, i) => fuzz(until + i, until))) }

  // somebody who behaves, on one connection all the time
  const client = createHelperClient({ socketPath: path, log: pino({ level: 'silent' }) })
  t.teardown(() => { client.close() })
  let connects = 0
  client.onConnect(() => { connects++ })
  const served = { calls: 0, busy: 0, slowestMs: 0 }
  let over = false
  const behave = async (): Promise<void> => {
    while (!over) {
      const started = performance.now()
      try {
        const kinds = (await client.call('hello', {})).kinds.length
        const records = await client.call('fence-records', {})
        if (kinds === 0 || records.length > 0) t.fail('a wrong answer')
        served.calls += 2
      } catch (error) {
        if (errorCode(error) !== 'BUSY') { t.fail(`who behaves was not served: ${String(error)}`); return }
        served.busy++
      }
      served.slowestMs = Math.max(served.slowestMs, performance.now() - started)
      await sleep(2)
    }
  }
  const behaving = behave()

  await rush(FRAMES / 10)
  const before = { heap: await helper.heapBytes(), descriptors: await helper.descriptors() }
  await rush(FRAMES)
  over = true
  await behaving
  const after = { heap: await helper.heapBytes(), descriptors: await helper.descriptors() }

  t.comment(`${counts.frames} frames over ${counts.connections} connections, ${counts.answers} answers, ${counts.cut} cut off; ${served.calls} calls of who behaves, busy ${served.busy}, slowest ${Math.round(served.slowestMs)} ms; heap ${Math.round(before.heap / 1024)} -> ${Math.round(after.heap / 1024)} KiB, descriptors ${before.descriptors} -> ${after.descriptors}`)
  t.ok(helper.alive())
  t.ok(counts.frames >= FRAMES)
  t.equal(connects, 1, 'who behaves kept one connection')
  t.ok(served.calls > 100, 'and was served all the time')
  t.ok(served.busy < served.calls, 'and rarely asked to wait')
  t.ok(after.heap - before.heap < HEAP_GROWTH, 'its heap does not grow')
  t.ok(after.descriptors <= before.descriptors + MORE_DESCRIPTORS, 'no connection is left')

  await t.test('of more connections than there are places none takes that of somebody else', async t => {
    const many = Array.from({ length: 60 }, () => createConnection(path).on('error', () => undefined))
    for (let i = 0; i < 10; i++) {
      t.equal(await client.call('noop', {}), null)
      t.ok(await helper.descriptors() <= before.descriptors + MORE_DESCRIPTORS, 'only so many are open')
      await sleep(5)
    }
    for (const socket of many) socket.destroy()
    let free: Socket | null = null
    for (let i = 0; i < 200 && free === null; i++) {
      const socket = await connected(path)
      socket.write(frame({ id: 1, verb: 'noop', params: {}, deadlineMs: 1_000 }))
      if (await new Promise<boolean>(resolve => { socket.once('data', () => { resolve(true) }).once('close', () => { resolve(false) }) })) free = socket
      else await sleep(10)
    }
    t.ok(free !== null, 'places that are given up can be taken')
    free?.destroy()
  })
})
