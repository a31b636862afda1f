/** The helper's socket: who is let in, what is cut off, and that nobody else notices. */
import { chmod, stat } from 'node:fs/promises'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import t from 'tap'
import { agentAccount, type PeerCredentials } from '../../../agent/helper/credentials.ts'
import { HELPER_MAX_CALLS, HELPER_MAX_CONNECTIONS, HELPER_REQUEST_BYTES } from '../../../protocol/core/limits.ts'
import { eventually } from '../../model/federation.ts'
import { connectRaw, startBench } from '../../helper-bench.ts'
import { SAMPLES } from '../../helper-samples.ts'

const UID = process.getuid?.() ?? 0
const as = (uid: number): { credentials: () => Promise<PeerCredentials> } => ({ credentials: () => Promise.resolve({ pid: 4711, uid, gid: uid }) })
const noop = (id: number): object => ({ id, verb: 'noop', params: {}, deadlineMs: 1_000 })
const domain = SAMPLES.find(one => one.kind === 'domain')!
const apply = (id: number, counter = 5): object => ({ id, verb: 'apply', params: { ...domain, claim: { clusterId: 'c1', counter, endMs: Date.now() + 3_600_000 } }, deadlineMs: 5_000 })

t.test('the kernel says who has connected, and the agent\'s user may ask', async t => {
  const { socket } = await startBench(t)
  const raw = await connectRaw(t, socket)
  raw.send(noop(1))
  t.strictSame(await raw.next(), { id: 1, result: null })
  const { mode } = await stat(socket)
  t.equal(mode & 0o777, 0o660)
})

t.test('a user who is not there is a bad configuration; a question that failed is asked again', async t => {
  const path = process.env.PATH ?? ''
  t.teardown(() => { process.env.PATH = path })
  const says = async (code: number): Promise<void> => {
    const dir = t.testdir({ id: `#!/bin/sh\nexit ${code}\n` })
    await chmod(join(dir, 'id'), 0o755)
    process.env.PATH = `${dir}:${path}`
  }
  await says(1)
  await t.rejects(agentAccount('musubi-nobody'), { code: 'INVALID_INPUT' })
  t.strictSame(await agentAccount(64_001), { uid: 64_001, gid: 64_001 }, 'a number needs no account')
  await says(3)
  await t.rejects(agentAccount('musubi-nobody'), { code: 'COMMAND_FAILED' })
  await t.rejects(agentAccount(64_001), { code: 'COMMAND_FAILED' })
})

t.test('others are told that they may not, and cut off; what they sent is not looked at', async t => {
  const bench = await startBench(t, as(UID + 1_000))
  const raw = await connectRaw(t, bench.socket)
  raw.send(apply(1))
  t.match(await raw.next(), { id: null, error: { code: 'HELPER_REFUSED', message: new RegExp(`user ${UID + 1_000}`) } })
  t.equal(await raw.next(), null)
  t.strictSame(bench.calls, [])
})

t.test('who cannot be told from others is refused as well', async t => {
  const bench = await startBench(t, { credentials: () => Promise.reject(new Error('no perl')) })
  const raw = await connectRaw(t, bench.socket)
  t.match(await raw.next(), { id: null })
  t.equal(await raw.next(), null)
})

t.test('root may look and clean, and change nothing else', async t => {
  const bench = await startBench(t, as(0))
  const config = bench.config.helper
  if (UID === 0) {
    // the agent's user is root here: let it be another
    await bench.helper.stop()
    config.agentUser = 64_001
    await bench.restart()
  }
  const raw = await connectRaw(t, bench.socket)
  raw.send(noop(1))
  t.strictSame(await raw.next(), { id: 1, result: null })
  raw.send(apply(2))
  t.match(await raw.next(), { id: 2, error: { code: 'HELPER_REFUSED', message: /apply/ } })
  for (const [id, verb, params] of [[3, 'fence-revoke', { resource: 'domain a.b', clusterId: 'c', counter: 1 }], [4, 'remove', { kind: 'domain', name: 'a', claim: null }], [5, 'tunnel-tracks', {}], [6, 'segment-ping', { vni: 1, address: '10.0.0.1' }]] as const) {
    raw.send({ id, verb, params, deadlineMs: 1_000 })
    t.match(await raw.next(), { id, error: { code: 'HELPER_REFUSED' } }, verb)
  }
  raw.send({ id: 7, verb: 'owned', params: {}, deadlineMs: 5_000 })
  t.match(await raw.next(), { id: 7, result: { objects: [], orphans: [] } })
  raw.send({ id: 8, verb: 'sweep', params: { keep: [], dryRun: true }, deadlineMs: 5_000 })
  t.match(await raw.next(), { id: 8, result: { removed: [] } })
  t.strictSame(bench.calls, [])
})

t.test('a message that is none ends its connection, and no other', async t => {
  const bench = await startBench(t)
  const good = await connectRaw(t, bench.socket)
  good.send(noop(1))
  await good.next()
  const header = Buffer.alloc(4)
  header.writeUInt32BE(HELPER_REQUEST_BYTES + 1)
  for (const [what, bytes, code] of [['too long', header, 'FRAME_TOO_LARGE'], ['no JSON', Buffer.from('\0\0\0\x01{'), 'BAD_FRAME'], ['HTTP', Buffer.from('GET /v1/status HTTP/1.1\r\n\r\n'), 'FRAME_TOO_LARGE']] as const) {
    const bad = await connectRaw(t, bench.socket)
    bad.write(bytes)
    t.match(await bad.next(), { id: null, error: { code } }, what)
    t.equal(await bad.next(), null, `${what}: cut off`)
  }
  for (const [message, id] of [[{ id: 9, verb: 'noop' }, 9], [{ verb: 'noop' }, null], [['noop'], null], [{ ...noop(8), deadlineMs: -1 }, 8]] as const) {
    const bad = await connectRaw(t, bench.socket)
    bad.send(message)
    t.match(await bad.next(), { id, error: { code: 'BAD_FRAME' } })
    t.equal(await bad.next(), null)
  }
  good.send(noop(2))
  t.strictSame(await good.next(), { id: 2, result: null })
})

t.test('a bad call is answered, and its connection goes on', async t => {
  const bench = await startBench(t)
  const raw = await connectRaw(t, bench.socket)
  raw.send({ id: 1, verb: 'reboot', params: {}, deadlineMs: 1_000 })
  t.match(await raw.next(), { id: 1, error: { code: 'UNIMPLEMENTED' } })
  raw.send({ id: 2, verb: 'observe', params: { kind: 'shell' }, deadlineMs: 1_000 })
  t.match(await raw.next(), { id: 2, error: { code: 'INVALID_INPUT' } })
  raw.send({ id: 3, verb: 'toString', params: {}, deadlineMs: 1_000 })
  t.match(await raw.next(), { id: 3 })
  const again = await connectRaw(t, bench.socket)
  again.send(noop(4))
  t.strictSame(await again.next(), { id: 4, result: null })
})

t.test('half a message, and a connection without a call, are cut off in time', async t => {
  const bench = await startBench(t, { times: { idleMs: 300, frameMs: 100 } })
  const [half, idle] = [await connectRaw(t, bench.socket), await connectRaw(t, bench.socket)]
  half.write(Buffer.from([0, 0, 1]))
  t.equal(await half.next(), null)
  t.equal(await idle.next(), null)
  // a byte now and then is no message either
  const drip = await connectRaw(t, bench.socket)
  const dripping = setInterval(() => { drip.write(Buffer.from([0])) }, 40)
  t.teardown(() => { clearInterval(dripping) })
  drip.write(Buffer.from([0, 0, 1]))
  t.equal(await drip.next(), null)
  clearInterval(dripping)
  // a long call is no idleness
  bench.onCall = async () => { await sleep(600) }
  const busy = await connectRaw(t, bench.socket)
  busy.send({ id: 1, verb: 'observe', params: { kind: 'domain' }, deadlineMs: 5_000 })
  t.strictSame(await busy.next(), { id: 1, result: [] })
})

t.test('there is room for so many connections and calls', async t => {
  const bench = await startBench(t)
  const { promise: go, resolve: finish } = Promise.withResolvers<undefined>()
  bench.onCall = async () => { await go }
  const raws = await Promise.all(Array.from({ length: HELPER_MAX_CONNECTIONS }, () => connectRaw(t, bench.socket)))
  for (const [i, raw] of raws.entries()) { raw.send(noop(i + 1)); await raw.next() }
  const more = await connectRaw(t, bench.socket)
  t.equal(await more.next(), null, 'one more is not let in')
  const [first, second] = raws as [typeof raws[0], typeof raws[0]]
  for (let id = 100; id < 100 + HELPER_MAX_CALLS; id++) first.send({ id, verb: 'observe', params: { kind: 'domain' }, deadlineMs: 30_000 })
  await eventually('all are under way', async () => {
    second.send(noop(7))
    return (await second.next())?.error?.code === 'BUSY'
  })
  finish(undefined)
  for (let n = 0; n < HELPER_MAX_CALLS; n++) t.match(await first.next(), { result: [] })
  second.send(noop(8))
  t.strictSame(await second.next(), { id: 8, result: null })
})

t.test('a call has its time, and can be taken back', async t => {
  const bench = await startBench(t)
  const { promise: go, resolve: finish } = Promise.withResolvers<undefined>()
  bench.onCall = async verb => { if (verb === 'apply') await go }
  const raw = await connectRaw(t, bench.socket)
  raw.send(apply(1))
  // these wait for their turn behind it
  raw.send({ ...apply(2), deadlineMs: 30 })
  raw.send(apply(3))
  raw.send({ cancel: 3 })
  await sleep(60)
  finish(undefined)
  t.strictSame(await raw.next(), { id: 1, result: null })
  t.match(await raw.next(), { id: 2, error: { code: 'DEADLINE' } })
  t.match(await raw.next(), { id: 3, error: { code: 'STOPPED' } })
  t.strictSame(bench.calls, [`apply domain ${domain.name}`])
  raw.send({ cancel: 99 })
  raw.send(noop(4))
  t.strictSame(await raw.next(), { id: 4, result: null }, 'taking back what is over is nothing')
})

t.test('a change goes on when its asker dies', async t => {
  const bench = await startBench(t)
  const { promise: go, resolve: finish } = Promise.withResolvers<undefined>()
  const { promise: begun, resolve: begin } = Promise.withResolvers<undefined>()
  bench.onCall = async verb => { if (verb === 'apply') { begin(undefined); await go } }
  const raw = await connectRaw(t, bench.socket)
  raw.send(apply(1))
  await begun
  raw.socket.destroy()
  await sleep(20)
  finish(undefined)
  await eventually('it is made', async () => (await bench.standing()).length === 1)
  t.match(bench.helper.fence.get(`domain ${domain.name}`), { state: 'granted', counter: 5 })
})

t.test('a stale counter is refused, and nothing is changed', async t => {
  const bench = await startBench(t)
  const raw = await connectRaw(t, bench.socket)
  raw.send(apply(1, 5))
  t.strictSame(await raw.next(), { id: 1, result: null })
  raw.send({ id: 2, verb: 'remove', params: { kind: 'domain', name: domain.name, claim: { clusterId: 'c1', counter: 4 } }, deadlineMs: 1_000 })
  t.match(await raw.next(), { id: 2, error: { code: 'STALE_COUNTER' } })
  raw.send({ ...apply(3, 4) })
  t.match(await raw.next(), { id: 3, error: { code: 'STALE_COUNTER' } })
  raw.send({ id: 4, verb: 'remove', params: { kind: 'domain', name: domain.name, claim: { clusterId: 'c2', counter: 9 } }, deadlineMs: 1_000 })
  t.match(await raw.next(), { id: 4, error: { code: 'RESOURCE_HELD' } })
  raw.send({ id: 5, verb: 'remove', params: { kind: 'domain', name: domain.name, claim: null }, deadlineMs: 1_000 })
  t.match(await raw.next(), { id: 5, error: { code: 'INVALID_INPUT' } }, 'in nobody\'s name')
  t.strictSame(bench.calls, [`apply domain ${domain.name}`])
  t.strictSame(await bench.standing(), [`domain ${domain.name}`])
})
