import t from 'tap'
import { decode, encode, type wire } from '../../protocol/wire/codec.ts'
import { MAX_OFFENCES_PER_MINUTE } from '../../protocol/core/limits.ts'
import type { Bodies } from '../../protocol/mesh/records.ts'
import { signRecord, type Statement } from '../../protocol/mesh/records/signed.ts'
import { CLOCK_SKEW_MS } from '../../protocol/mesh/trust/certificate.ts'
import { createKit } from '../trust-kit.ts'
import type { Operations } from './member.ts'
import { CALM, DEMO, eventually, makeLab, type Member, names, sees, type Timing } from './federation.ts'

t.setTimeout(110_000)

const QUICK: Timing = { ttlMs: 4000, heartbeatMs: 1500, syncIntervalMs: 1000, ping: null }

t.test('members converge to complete views, and a site keeps its hosts to itself', async t => {
  const lab = await makeLab(t)
  const members = await Promise.all(Object.keys(DEMO).map(async name => await lab.start(name, QUICK)))
  const of = (name: string): Member => {
    const found = members.find(member => member.name === name)
    if (found === undefined) throw new Error(name)
    return found
  }
  await Promise.all(members.map(async member => await member.ask('publish', { version: 'a', site: member.name.endsWith('/g1') })))
  const tokyo = ['tokyo/c1 a', 'tokyo/g1 a', 'tokyo/s1 a']
  const sites = ['kyoto/g1 a', 'tokyo/g1 a']
  for (const name of ['tokyo/g1', 'tokyo/c1', 'tokyo/s1']) await sees(of(name), 'host', tokyo)
  for (const name of ['kyoto/g1', 'kyoto/c1']) await sees(of(name), 'host', ['kyoto/c1 a', 'kyoto/g1 a'])
  for (const name of ['main', 'tokyo/g1', 'kyoto/g1']) await sees(of(name), 'site', sites)
  t.strictSame(await names(of('main'), 'host'), [], 'the coordinator learns of no host')
  for (const name of ['tokyo/c1', 'tokyo/s1', 'kyoto/c1']) t.strictSame(await names(of(name), 'site'), [], `${name} takes no part in the directory`)

  await t.test('a change reaches everybody it concerns', async () => {
    await of('tokyo/g1').ask('publish', { version: 'b', site: true })
    await sees(of('tokyo/s1'), 'host', ['tokyo/c1 a', 'tokyo/g1 b', 'tokyo/s1 a'])
    await sees(of('main'), 'site', ['kyoto/g1 a', 'tokyo/g1 b'])
    await sees(of('kyoto/g1'), 'site', ['kyoto/g1 a', 'tokyo/g1 b'])
  })

  await t.test('heartbeats keep records alive beyond their time to live', async t => {
    const before = await of('tokyo/c1').ask('view', 'host')
    await eventually('three more heartbeats', async () => {
      const now = await of('tokyo/c1').ask('view', 'host')
      return now.length === 3 && now.every(row => row.seq >= (before.find(({ peer }) => peer === row.peer)?.seq ?? 0) + 3)
    })
    for (const { ageMs } of await of('tokyo/c1').ask('view', 'host')) t.ok(ageMs < QUICK.ttlMs)
  })

  await t.test('a killed member is unreachable at once, and its record expires everywhere', async t => {
    const dead = of('tokyo/s1')
    t.equal((await of('tokyo/g1').ask('call', { peerId: dead.peerId, clusterId: 'hello' })).replies.length, 1)
    await dead.kill()
    const { errors, ms } = await of('tokyo/g1').ask('call', { peerId: dead.peerId, clusterId: 'hello', deadlineMs: 30_000 })
    t.match(errors, [{ name: 'UnreachableError', code: 'UNREACHABLE', retryable: true }])
    t.ok(errors[0]?.message.includes('tokyo/s1') && errors[0].message.includes(dead.peerId) && errors[0].message.includes(dead.address), errors[0]?.message ?? 'no error')
    t.ok(ms < 15_000, 'long before the deadline')
    for (const name of ['tokyo/g1', 'tokyo/c1']) await sees(of(name), 'host', ['tokyo/c1 a', 'tokyo/g1 b'])
  })

  await t.test('it comes back with a higher epoch, and that counts', async t => {
    const again = await lab.start('tokyo/s1', QUICK, { epoch: 2 })
    await again.ask('publish', { version: 'c', site: false })
    for (const name of ['tokyo/g1', 'tokyo/c1']) await sees(of(name), 'host', ['tokyo/c1 a', 'tokyo/g1 b', 'tokyo/s1 c'])
    await sees(again, 'host', ['tokyo/c1 a', 'tokyo/g1 b', 'tokyo/s1 c'])
    const row = (await of('tokyo/c1').ask('view', 'host')).find(({ peer }) => peer === again.peerId)
    t.equal(row?.epoch, 2)
    t.equal((await of('tokyo/g1').ask('call', { peerId: again.peerId, clusterId: 'back' })).replies[0], 'back -> back', 'and calls reach it over a new stream')
  })
  for (const member of members) {
    if (!member.alive) continue
    const { forged, malformed, refused } = await member.ask('counts', null)
    t.strictSame({ forged, malformed, refused }, { forged: 0, malformed: 0, refused: 0 }, `${member.name} had nothing to complain about`)
  }
})

t.test('who restarts before its old record has expired replaces it at once', async t => {
  const slow: Timing = { ttlMs: 60_000, heartbeatMs: 8000, syncIntervalMs: 500, ping: null }
  const lab = await makeLab(t)
  const gateway = await lab.start('tokyo/g1', slow)
  const first = await lab.start('tokyo/c1', slow, { epoch: 7 })
  await first.ask('publish', { version: 'old', site: false })
  await sees(gateway, 'host', ['tokyo/c1 old'])
  await first.kill()
  const second = await lab.start('tokyo/c1', slow, { epoch: 8 })
  await second.ask('publish', { version: 'new', site: false })
  await sees(gateway, 'host', ['tokyo/c1 new'])
  await second.kill()
  const amnesiac = await lab.start('tokyo/c1', slow, { epoch: 3 })
  await amnesiac.ask('publish', { version: 'lost its epoch', site: false })
  await sees(gateway, 'host', ['tokyo/c1 lost its epoch'])
  t.ok(((await gateway.ask('view', 'host'))[0]?.epoch ?? 0) > 8, 'it went beyond what it said before')
})

t.test('who was not there when it was said learns it by comparing', async t => {
  // one publication, no heartbeat within the test: only anti-entropy can bring it
  const silent: Timing = { ttlMs: 300_000, heartbeatMs: 300_000, syncIntervalMs: 500, ping: null }
  const lab = await makeLab(t)
  const first = await lab.start('tokyo/c1', silent)
  await first.ask('publish', { version: 'said once', site: false })
  await sees(first, 'host', ['tokyo/c1 said once'])
  const gateway = await lab.start('tokyo/g1', silent)
  await sees(gateway, 'host', ['tokyo/c1 said once'])
  await first.kill()
  const late = await lab.start('tokyo/s1', silent)
  await sees(late, 'host', ['tokyo/c1 said once'])
  const [row] = await late.ask('view', 'host')
  t.ok((row?.ageMs ?? 0) > 500, 'with the age it has')
})

t.test('kinds of a scope: coordinators and policies spread like any other record', async t => {
  const lab = await makeLab(t, { main: 'coordinator', spare: 'coordinator', 'tokyo/g1': 'gateway', 'tokyo/c1': 'compute', 'kyoto/g1': 'gateway' })
  const [main, spare, g1, c1, kyoto] = await Promise.all(['main', 'spare', 'tokyo/g1', 'tokyo/c1', 'kyoto/g1'].map(async name => await lab.start(name, QUICK)))
  if (main === undefined || spare === undefined || g1 === undefined || c1 === undefined || kyoto === undefined) throw new Error('not started')
  await main.ask('say', { kind: 'coordinator', version: 1 })
  await g1.ask('say', { kind: 'policy', version: 7 })
  await g1.ask('publish', { version: 'a', site: true })
  const says = async (member: Member, kind: 'coordinator' | 'policy' | 'site', name: string): Promise<void> => {
    await eventually(`${member.name} hears ${name}`, async () => (await member.ask('view', kind)).some(row => row.name === name))
  }
  for (const member of [spare, g1, kyoto]) {
    await says(member, 'coordinator', 'coordinator main 1')
    if (member !== g1) await says(member, 'site', 'tokyo/g1 a')
  }
  await says(c1, 'policy', 'tokyo/g1 7')
  await sees(c1, 'host', ['tokyo/g1 a'])
  t.strictSame(await c1.ask('view', 'coordinator'), [], 'a host takes no part in the directory')
  t.strictSame(await kyoto.ask('view', 'policy'), [], 'nor another site in the policy')
})

t.test('what nobody should say: forged, stale, replayed, future-dated, of strangers', async t => {
  const lab = await makeLab(t, { main: 'coordinator', 'tokyo/g1': 'gateway', 'tokyo/c1': 'compute', 'tokyo/bad': 'compute' })
  const [g1, c1] = await Promise.all([lab.start('tokyo/g1', CALM), lab.start('tokyo/c1', CALM)])
  await c1.ask('publish', { version: 'true', site: false })
  await g1.ask('publish', { version: 'true', site: false })
  await sees(g1, 'host', ['tokyo/c1 true', 'tokyo/g1 true'])
  const bad = await lab.mesh('tokyo/bad')
  const heard: wire.Record[] = []
  bad.subscribe('site/tokyo', data => {
    const { record } = decode('Gossip', data)
    if (record !== null) heard.push(record)
    return 'ignore'
  })
  await bad.start()
  const body = (host: string): Bodies['host'] => ({ site: 'tokyo', host, roles: [], addresses: [], underlayAddress: '', total: null, free: null, cordoned: false, accelerator: '', version: 'false', inventory: null, features: [] })
  const { key, chain } = lab.kit.member('tokyo/bad')
  const own = (seq: number, part: Partial<Statement> = {}): wire.Record => signRecord(key, 'host', { version: { epoch: 1, seq }, ttlMs: 30_000, madeMs: Date.now(), leaving: false, chain, ...part }, body('bad'))
  const offer = async (record: wire.Record): Promise<unknown> => await bad.call(g1.peerId, 'sync', { scope: 'site/tokyo', have: [], offer: [record], bucket: 0, buckets: 1, revocations: new Uint8Array(), suspicions: [], ping: false })
  const gossiped = async (record: wire.Record, counted: (counts: Operations['counts']['out']) => number): Promise<void> => {
    const before = counted(await counts())
    let { ageMs } = record
    await eventually('gossip of it is counted', async () => {
      // another age makes another message: the same one is not passed on twice
      await bad.publish('site/tokyo', encode('Gossip', { record: { ...record, ageMs: ageMs++ }, suspicion: null, revocation: null }))
      return counted(await counts()) > before
    })
  }
  const counts = async (): Promise<Operations['counts']['out']> => await g1.ask('counts', null)

  const truth = signRecord(key, 'host', { version: { epoch: 9, seq: 1 }, ttlMs: 30_000, madeMs: Date.now(), leaving: false, chain }, body('c1'))
  await t.rejects(offer({ ...truth, peer: c1.peerId, chain: [...lab.kit.member('tokyo/c1').chain] }), { code: 'FORGED_RECORD' }, 'in the name of another')
  await t.rejects(offer(own(1, { madeMs: Date.now() + CLOCK_SKEW_MS + 60_000 })), { code: 'FUTURE_DATED', hint: /clocks/ })
  await t.rejects(offer(own(1, { madeMs: Date.now() - CLOCK_SKEW_MS - 60_000 })), { code: 'REPLAYED_RECORD' })
  await t.rejects(offer(truth), { code: 'REFUSED_RECORD' }, 'about another host')
  const stranger = (await createKit({ sites: [{ name: 'tokyo', hosts: [{ name: 'c9', roles: ['compute'] }] }] })).member('tokyo/c9')
  await t.rejects(offer(signRecord(stranger.key, 'host', { version: { epoch: 1, seq: 1 }, ttlMs: 30_000, madeMs: Date.now(), leaving: false, chain: stranger.chain }, body('c9'))), { code: 'OTHER_FEDERATION' })
  t.match(await counts(), { forged: 1, future: 1, replayed: 1, refused: 1, notAdmitted: { OTHER_FEDERATION: 1 } })

  await offer(own(5))
  await eventually('an honest one is taken', async () => (await g1.ask('view', 'host')).some(({ name }) => name === 'tokyo/bad false'))
  const { stale } = await counts()
  await offer(own(4))
  await offer(own(5))
  t.equal((await counts()).stale, stale + 2, 'what is older than what is known')
  await gossiped({ ...own(6), seq: 7 }, ({ forged }) => forged)
  await gossiped(own(8, { madeMs: Date.now() + CLOCK_SKEW_MS + 60_000 }), ({ future }) => future)
  await gossiped(own(8, { madeMs: Date.now() - CLOCK_SKEW_MS - 60_000 }), ({ replayed }) => replayed)
  t.match((await g1.ask('view', 'host')).find(({ peer }) => peer === bad.peerId), { seq: 5 }, 'none of them counts')
  for (const member of [g1, c1]) t.strictSame((await names(member, 'host')).filter(name => !name.startsWith('tokyo/bad')), ['tokyo/c1 true', 'tokyo/g1 true'], 'and nobody else is hurt')

  await t.test('who goes on is cut off', async t => {
    for (let n = 0; n <= 2 * MAX_OFFENCES_PER_MINUTE && (await counts()).dropped === 0; n++) await offer({ ...own(20), seq: 21 + n }).catch(() => undefined)
    t.equal((await counts()).dropped, 1)
    await eventually('it may come back', async () => (await g1.ask('connected', null)).includes(bad.peerId))
  })
})

t.test('a member whose clock is wrong is told so, and the others go on', async t => {
  const lab = await makeLab(t, { 'tokyo/g1': 'gateway', 'tokyo/c1': 'compute', 'tokyo/c2': 'compute' })
  const [g1, c1] = await Promise.all([lab.start('tokyo/g1', QUICK), lab.start('tokyo/c1', QUICK), lab.start('tokyo/c2', QUICK, { clockMs: 20 * 60_000 }).then(async late => { await late.ask('publish', { version: 'a', site: false }) })])
  await g1.ask('publish', { version: 'a', site: false })
  await c1.ask('publish', { version: 'a', site: false })
  await sees(g1, 'host', ['tokyo/c1 a', 'tokyo/g1 a'])
  await sees(c1, 'host', ['tokyo/c1 a', 'tokyo/g1 a'])
  await eventually('it is counted', async () => (await g1.ask('counts', null)).future > 0)
  t.match(await g1.ask('counts', null), { dropped: 0, forged: 0 })
})
