/**
 * What anybody may send us: refused by name, counted, its sender shut out, and nobody honest hurt.
 * The victim and the honest are processes of their own, over loopback.
 */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtemp, readFile, rm } from 'node:fs/promises'
import type { Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import { setTimeout as sleep } from 'node:timers/promises'
import { privateKeyToProtobuf } from '@libp2p/crypto/keys'
import t, { type Test } from 'tap'
import { DIAL_TIMEOUT_MS, GOSSIP_EXCESS, MAX_MESSAGE_BYTES, MAX_OFFENCES_PER_MINUTE, MAX_PENDING_PER_ADDRESS } from '../../protocol/core/limits.ts'
import { createKey, peerIdOf } from '../../protocol/mesh/identity.ts'
import { redeem } from '../../protocol/mesh/join/redeem.ts'
import type { Mesh } from '../../protocol/mesh/mesh.ts'
import { MAX_RPC_STREAMS, RPC_PROTOCOL } from '../../protocol/mesh/constants.ts'
import { encodeCall } from '../../protocol/mesh/rpc/handlers.ts'
import { signRecord, type Bodies, type Statement } from '../../protocol/mesh/records/signed.ts'
import { signSuspicion } from '../../protocol/mesh/liveness/suspicion.ts'
import { CLOCK_SKEW_MS, issue } from '../../protocol/mesh/trust/certificate.ts'
import { encode, type wire } from '../../protocol/wire/codec.ts'
import { createKit } from '../trust-kit.ts'
import { CALM, eventually, makeLab, revocationOf, type Lab, type Member } from '../mesh/federation.ts'
import { attacker, emptyRecords, ended, framed, nestedGroups, push, repeatedIds, silent, type Attacker } from './attacks/attacker.ts'
import { during, MAX_GROWTH_BYTES, withstand, type Figures } from './attacks/watch.ts'

t.setTimeout(150_000)

const BAD = ['bad1', 'bad2', 'bad3', 'bad4', 'bad5', 'bad6', 'bad7', 'bad8']
const LAYOUT = { 'tokyo/g1': 'gateway compute', 'tokyo/c1': 'compute', 'tokyo/c2': 'compute', 'osaka/c1': 'compute', ...Object.fromEntries(BAD.map(name => [`tokyo/${name}`, 'compute'])) }
const DAY_MS = 24 * 3_600_000

interface Scene { readonly lab: Lab, readonly victim: Member, readonly honest: Member, readonly before: Figures }

const refused = async ({ victim }: Scene, code: string): Promise<number> => (await victim.ask('refusals', null)).us[code] ?? 0
const bad = async (t: Test, { lab, victim }: Scene, name: string): Promise<Attacker> => await attacker(t, victim, lab.kit.member(`tokyo/${name}`))

/** After too much of it the peer is cut off, and not let in again at once. */
async function isShutOut (t: Test, scene: Scene, by: Attacker): Promise<void> {
  const before = await refused(scene, 'SHUT_OUT')
  await eventually('its connection is closed', () => Promise.resolve(by.node.getConnections().length === 0), 10_000)
  await t.rejects(by.dial().then(async connection => await connection.newStream(RPC_PROTOCOL, { signal: AbortSignal.timeout(3000) })), 'it is not let in again')
  await eventually('and that is counted', async () => await refused(scene, 'SHUT_OUT') > before, 10_000)
}

/** Sends frames, each on a stream of its own, one more than is forgiven. */
async function sendFrames (by: Attacker, frames: readonly Uint8Array[]): Promise<void> {
  for (let n = 0; n <= MAX_OFFENCES_PER_MINUTE; n++) {
    const frame = frames[n % frames.length]
    if (frame === undefined) return
    const stream = await by.stream()
    await push(stream, frame)
    await ended(stream)
  }
}

const scene = await (async (): Promise<Scene> => {
  const lab = await makeLab(t, LAYOUT)
  const [victim, honest] = await Promise.all(['tokyo/g1', 'tokyo/c1'].map(async name => await lab.start(name, CALM, { knows: ['tokyo/g1', 'tokyo/c1'] })))
  if (victim === undefined || honest === undefined) throw new Error('not started')
  await victim.ask('publish', { version: 'true', site: true })
  await honest.ask('publish', { version: 'true', site: false })
  await eventually('they know each other', async () => (await victim.ask('view', 'host')).length === 2)
  // what is compiled and allocated once is no growth
  await during(victim, honest, async () => { await sleep(1500) })
  await honest.ask('call', { peerId: victim.peerId, clusterId: 'big 200000', times: 100 })
  const before = await during(victim, honest, async () => { await sleep(3000) })
  t.comment(`before: p99 ${before.p99.toFixed(1)} ms over ${before.calls} calls, p50 ${before.p50.toFixed(1)} ms, memory ${(before.peakBytes / 1024 / 1024).toFixed(0)} MiB`)
  return { lab, victim, honest, before }
})()

t.test('oversize frames', async t => {
  const by = await bad(t, scene, 'bad1')
  const before = await refused(scene, 'FRAME_TOO_LARGE')
  // also one that claims to be of 4 GiB
  const frames = [framed(new Uint8Array(MAX_MESSAGE_BYTES + 1)), Uint8Array.from([0xff, 0xff, 0xff, 0xff, 0x0f, 1, 2, 3])]
  await withstand(t, 'oversize frames', scene, async () => { await sendFrames(by, frames) })
  t.ok(await refused(scene, 'FRAME_TOO_LARGE') > before + MAX_OFFENCES_PER_MINUTE, 'each is counted')
  await isShutOut(t, scene, by)
})

t.test('truncated frames', async t => {
  const by = await bad(t, scene, 'bad2')
  const before = await refused(scene, 'TRUNCATED_FRAME')
  const half = framed(encodeCall(1, 1000, 'status', { clusterId: 'x'.repeat(10_000) })).subarray(0, 5000)
  await withstand(t, 'truncated frames', scene, async () => {
    for (let n = 0; n < 50; n++) {
      const stream = await by.stream()
      await push(stream, half)
      await stream.close({ signal: AbortSignal.timeout(3000) }).catch(() => undefined)
    }
  })
  await eventually('each is counted', async () => await refused(scene, 'TRUNCATED_FRAME') >= before + 50, 10_000)
  t.equal(by.node.getConnections().length, 1, 'whoever goes away leaves half a frame: that is no offence')
})

t.test('protobuf bombs: groups within groups, and millions of empty items', async t => {
  const by = await bad(t, scene, 'bad3')
  const before = await refused(scene, 'BAD_FRAME')
  const bombs = [nestedGroups(MAX_MESSAGE_BYTES), emptyRecords(MAX_MESSAGE_BYTES), framed(new Uint8Array())].map(body => body.length === 1 ? body : framed(body))
  await withstand(t, 'bombs', scene, async () => {
    // what is just long is read, and forgotten
    const stream = await by.stream()
    for (let n = 0; n < 40; n++) await push(stream, framed(repeatedIds(MAX_MESSAGE_BYTES)))
    await sendFrames(by, bombs)
  })
  t.ok(await refused(scene, 'BAD_FRAME') > before + MAX_OFFENCES_PER_MINUTE, 'each is counted')
  await isShutOut(t, scene, by)
})

t.test('a flood of streams', async t => {
  const by = await bad(t, scene, 'bad4')
  const connection = await by.dial()
  let most = 0
  await withstand(t, 'streams', scene, async () => {
    for (let round = 0; round < 4; round++) {
      const opened = await Promise.allSettled(Array.from({ length: 1000 }, async () => {
        const stream = await connection.newStream(RPC_PROTOCOL, { signal: AbortSignal.timeout(4000), maxOutboundStreams: 100_000 })
        await push(stream, framed(encodeCall(1, 1000, 'status', { clusterId: 'slow 900' })))
        return stream
      }))
      await sleep(300)
      const open = opened.flatMap(result => result.status === 'fulfilled' && result.value.status === 'open' ? [result.value] : [])
      most = Math.max(most, open.length)
      for (const stream of open) stream.abort(new Error('enough'))
    }
  })
  t.ok(most <= MAX_RPC_STREAMS, `${most} of 1000 streams stay open, at most ${MAX_RPC_STREAMS}`)
})

t.test('who asks and does not read', async t => {
  const by = await bad(t, scene, 'bad5')
  await withstand(t, 'slow reader', scene, async () => {
    const streams = await Promise.all(Array.from({ length: MAX_RPC_STREAMS }, async () => await by.stream()))
    for (const stream of streams) stream.pause()
    const calls = Array.from({ length: 1000 }, (_, n) => framed(encodeCall(n + 1, 20_000, 'status', { clusterId: 'big 200000' })))
    for (const stream of streams) await push(stream, Buffer.concat(calls), 500)
    await sleep(3000)
  })
  for (const connection of by.node.getConnections()) connection.abort(new Error('enough'))
})

t.test('1,000 connections that say nothing', async t => {
  const { lab, victim } = scene
  const [, host = '', , port = ''] = victim.address.slice(1).split('/')
  const net = host.split('.').slice(0, 3).join('.')
  const open = new Set<Socket>()
  // who is too many is closed as soon as it is looked at, who waits when its time is up
  let waited = 0
  let joined = 0
  await withstand(t, 'half-open connections', scene, async () => {
    const sockets = await Promise.all(Array.from({ length: 1000 }, async (_, n) => await silent(host, Number(port), `${net}.${200 + n % 4}`, livedMs => { if (livedMs > 0.8 * DIAL_TIMEOUT_MS) waited++ })))
    for (const socket of sockets) {
      if (socket === null || socket.destroyed) continue
      open.add(socket)
      socket.on('close', () => { open.delete(socket) })
      socket.resume()
    }
    await sleep(500)
    const from = performance.now()
    // somebody else is let in meanwhile
    const late = await lab.start('tokyo/c2', CALM, { knows: ['tokyo/g1'] })
    await eventually('another peer gets in', async () => (await victim.ask('connected', null)).includes(late.peerId), 4500)
    joined = performance.now() - from
    await eventually('all are closed', () => Promise.resolve(open.size === 0), 10_000)
  })
  t.ok(waited > 0 && waited <= 4 * MAX_PENDING_PER_ADDRESS, `${waited} of 1000 could wait, at most ${4 * MAX_PENDING_PER_ADDRESS}`)
  t.comment(`another peer started and was connected within ${Math.round(joined)} ms`)
})

t.test('certificates that do not hold, a hundred connections a second', async t => {
  const { lab, victim } = scene
  const { kit } = lab
  const siteKey = kit.siteKeys.get('tokyo')
  const siteChain = kit.siteChains.get('tokyo')
  if (siteKey === undefined || siteChain === undefined) throw new Error('no site key')
  const other = (await createKit({ sites: [{ name: 'tokyo', hosts: [{ name: 'c1', roles: ['compute'] }] }] })).member('tokyo/c1')
  const key = await createKey()
  const old = [issue(siteKey, { federation: kit.federation, kind: 'host', subject: peerIdOf(key), site: 'tokyo', name: 'x', roles: ['compute'] }, Date.now() - 60 * DAY_MS), ...siteChain]
  t.ok(await victim.ask('revoke', revocationOf(kit, 'tokyo/bad8', 'stolen')), 'revoked')
  const cases = { OTHER_FEDERATION: other, CERTIFICATE_EXPIRED: { key, chain: old }, CERTIFICATE_REVOKED: kit.member('tokyo/bad8'), NOT_ALLOWED: kit.member('osaka/c1'), NO_CERTIFICATE: { key: await createKey(), chain: [] } }
  const each = 60
  const nodes = await Promise.all(Object.entries(cases).map(async ([code, who]) => ({ code, by: await attacker(t, victim, who), before: await refused(scene, code) })))
  const told: string[] = []
  await withstand(t, 'refused certificates', scene, async () => {
    for (let n = 0; n < each; n++) {
      const from = performance.now()
      await Promise.all(nodes.map(async ({ code, by }) => {
        const error: unknown = await by.dial().then(async connection => await connection.newStream(RPC_PROTOCOL, { signal: AbortSignal.timeout(3000) })).then(() => null, (error: unknown) => error)
        if (error === null) told.push(`${code} was let in`)
      }))
      await sleep(Math.max(0, 50 - (performance.now() - from)))
    }
  })
  t.strictSame(told, [], 'nobody is let in')
  for (const { code, before } of nodes) {
    const times = await refused(scene, code) - before
    t.ok(times >= each * 0.5, `${code}: ${times} of ${each} connections came so far and are counted`)
  }
})

const body = (host: string, roles: string[] = ['compute']): Bodies['host'] => ({ site: 'tokyo', host, roles, addresses: [], underlayAddress: '', total: null, free: null, cordoned: false, accelerator: '', version: 'false', inventory: null, features: [] })

async function member (t: Test, { lab, victim }: Scene, name: string): Promise<{ mesh: Mesh, record: (seq: number, part?: Partial<Statement>, about?: Bodies['host']) => wire.Record, offer: (record: wire.Record) => Promise<unknown> }> {
  const mesh = await lab.mesh(`tokyo/${name}`, ['tokyo/g1'])
  mesh.subscribe('site/tokyo', () => 'ignore')
  await mesh.start()
  t.teardown(async () => { await mesh.close() })
  await eventually('connected', () => Promise.resolve(mesh.connected().includes(victim.peerId)), 15_000)
  const { chain } = lab.kit.member(`tokyo/${name}`)
  return {
    mesh,
    record: (seq, part = {}, about = body(name)) => signRecord(mesh.key, 'host', { version: { epoch: 1, seq }, ttlMs: 30_000, madeMs: Date.now(), leaving: false, chain, ...part }, about),
    offer: async record => await mesh.call(victim.peerId, 'sync', { scope: 'site/tokyo', have: [], offer: [record], bucket: 0, buckets: 1, revocations: new Uint8Array(), suspicions: [], ping: false })
  }
}

t.test('advertisements: forged, stale, replayed, future-dated, in a name or role of others', async t => {
  const { victim, lab } = scene
  const { mesh, record, offer } = await member(t, scene, 'bad6')
  const from = await victim.ask('counts', null)
  await withstand(t, 'advertisements', scene, async () => {
    await offer(record(1000))
    for (let n = 0; n < 100; n++) await offer(record(n))
    for (let n = 0; n < 100; n++) await offer(record(2000 + n, { madeMs: Date.now() + CLOCK_SKEW_MS + 60_000 })).then(() => { t.fail('from the future') }, () => undefined)
    for (let n = 0; n < 100; n++) await offer(record(2000 + n, { madeMs: Date.now() - CLOCK_SKEW_MS - 60_000 })).then(() => { t.fail('from the past') }, () => undefined)
    await t.rejects(offer(record(2000, {}, body('g1'))), { code: 'REFUSED_RECORD' }, 'as another host')
    await t.rejects(offer(record(2000, {}, body('bad6', ['gateway']))), { code: 'REFUSED_RECORD' }, 'in a role that it has not')
    await t.rejects(offer(record(2 ** 50)), { code: 'INVALID_INPUT' }, 'a version that leaves no room')
    await offer({ ...record(1001), ageMs: 29_999 })
    await offer(record(1001))
  })
  const now = await victim.ask('counts', null)
  t.ok(now.stale >= from.stale + 100, 'stale ones are counted')
  t.equal(now.future, from.future + 100, 'future-dated ones too')
  t.equal(now.replayed, from.replayed + 100, 'replayed ones too')
  t.equal(now.refused, from.refused + 2)
  // a suspicion that would make the victim count beyond what numbers can hold
  const own = (await victim.ask('view', 'host')).find(({ peer }) => peer === victim.peerId)
  await mesh.call(victim.peerId, 'sync', { scope: 'site/tokyo', have: [], offer: [], bucket: 0, buckets: 1, revocations: new Uint8Array(), suspicions: [signSuspicion(mesh.key, victim.peerId, 'host', { epoch: own?.epoch ?? 1, seq: Number.MAX_SAFE_INTEGER })], ping: false })
  await victim.ask('publish', { version: 'still true', site: true })
  await eventually('the victim is still heard', async () => (await scene.honest.ask('view', 'host')).some(({ name, seq }) => name === 'tokyo/g1 still true' && seq < 10_000))
  const truth = (await scene.honest.ask('view', 'host')).find(({ name }) => name.startsWith('tokyo/c1'))
  const forgeries = Array.from({ length: MAX_OFFENCES_PER_MINUTE + 1 }, (_, n) => ({ ...record(9000 + n), peer: lab.kit.member('tokyo/c1').peerId, chain: [...lab.kit.member('tokyo/c1').chain], epoch: 99 }))
  for (const forged of forgeries) await offer(forged).catch(() => undefined)
  t.ok((await victim.ask('counts', null)).forged >= from.forged + MAX_OFFENCES_PER_MINUTE, 'forged ones are counted')
  await eventually('who forges is shut out', async () => await refused(scene, 'SHUT_OUT') > 0 && (await victim.ask('counts', null)).dropped > from.dropped, 20_000)
  t.equal((await victim.ask('view', 'host')).find(({ name }) => name.startsWith('tokyo/c1'))?.epoch, truth?.epoch, 'nobody else is changed by it')
  t.equal((await victim.ask('view', 'host')).find(({ peer }) => peer === mesh.peerId)?.state, 'alive')
})

t.test('100,000 tiny messages of gossip', async t => {
  const { victim } = scene
  const { mesh } = await member(t, scene, 'bad7')
  await eventually('its gossip arrives', async () => {
    const from = (await victim.ask('counts', null)).suspicionsStale
    await mesh.publish('site/tokyo', encode('Gossip', { record: null, suspicion: signSuspicion(mesh.key, mesh.peerId, 'host', { epoch: 1, seq: Math.floor(performance.now()) }), revocation: null }))
    await sleep(200)
    return (await victim.ask('counts', null)).suspicionsStale > from
  })
  const stranger = peerIdOf(await createKey())
  const shutOut = await refused(scene, 'SHUT_OUT')
  // nothing is wrong with them, so nobody is blamed: they are just too many
  const tiny = (seq: number): Uint8Array => encode('Gossip', { record: null, suspicion: { peer: stranger, kind: 'host', epoch: 1, seq, by: mesh.peerId, signature: new Uint8Array() }, revocation: null })
  await withstand(t, 'tiny messages', scene, async () => {
    for (let n = 0; n < 100_000; n++) {
      await mesh.publish('site/tokyo', tiny(n)).catch(() => undefined)
      if (n % 1000 === 999) await sleep(1)
    }
  })
  t.comment(`not looked at: ${await refused(scene, 'GOSSIP_FLOOD')}`)
  t.ok(await refused(scene, 'GOSSIP_FLOOD') > GOSSIP_EXCESS, 'what is too much is counted and not looked at')
  await eventually('who goes on is shut out', async () => await refused(scene, 'SHUT_OUT') > shutOut, 20_000)
})

t.test('a token is used once', async t => {
  const { lab } = scene
  const folder = await mkdtemp(join(tmpdir(), 'musubi-attack-'))
  t.teardown(async () => { await rm(folder, { recursive: true, force: true }) })
  const base64 = (bytes: Uint8Array): string => Buffer.from(bytes).toString('base64')
  const { key } = lab.kit.member('tokyo/g1')
  const siteKey = lab.kit.siteKeys.get('tokyo')
  if (siteKey === undefined) throw new Error('no site key')
  const config = { folder, key: base64(privateKeyToProtobuf(key)), siteKey: base64(privateKeyToProtobuf(siteKey)), siteChain: (lab.kit.siteChains.get('tokyo') ?? []).map(base64), federation: lab.kit.federation, listen: `${scene.victim.address.replace(/\/tcp\/.*/, '')}/tcp/0`, invite: true, die: 'never' }
  const issuer = spawn(process.execPath, [fileURLToPath(new URL('../mesh/issuer.ts', import.meta.url)), JSON.stringify(config)], { stdio: ['ignore', 'pipe', 'ignore'] })
  t.teardown(async () => {
    const gone = once(issuer, 'exit')
    issuer.kill('SIGKILL')
    await gone
  })
  const [token] = await once(createInterface(issuer.stdout), 'line') as [string]
  const rss = async (): Promise<number> => Number(/VmRSS:\s+(\d+) kB/.exec(await readFile(`/proc/${issuer.pid ?? 0}/status`, 'utf8'))?.[1]) * 1024
  const first = await createKey()
  const take = async (key: typeof first, name: string): Promise<string> => (await redeem(token, { key, name, now: Date.now })).kind
  t.equal(await take(first, 'c7'), 'host', 'the first one joins')
  const fromBytes = await rss()
  for (let n = 0; n < 10; n++) await t.rejects(take(await createKey(), `c${8 + n}`), { code: 'TOKEN_USED' }, 'nobody else does')
  t.equal(await take(first, 'c7'), 'host', 'the first one gets its answer again')
  t.ok(await rss() - fromBytes < MAX_GROWTH_BYTES)
})

t.test('afterwards', async t => {
  const { victim, honest } = scene
  const after = await during(victim, honest, async () => { await sleep(2000) })
  t.comment(`after: p99 ${after.p99.toFixed(1)} ms, memory ${(after.peakBytes / 1024 / 1024).toFixed(0)} MiB, ${((after.peakBytes - scene.before.peakBytes) / 1024 / 1024).toFixed(1)} MiB more than before; refused: ${JSON.stringify(await victim.ask('refusals', null))}`)
  t.ok((await victim.ask('view', 'host')).some(({ name, state }) => name === 'tokyo/c1 true' && state === 'alive'), 'the honest are as they were')
  const { errors } = await honest.ask('call', { peerId: victim.peerId, clusterId: 'fine', times: 100 })
  t.equal(errors.length, 0)
})
