import t from 'tap'
import { DEMO, eventually, makeLab, type Member, type Timing } from './federation.ts'

t.setTimeout(110_000)

const QUICK: Timing = { ttlMs: 4000, heartbeatMs: 1500, syncIntervalMs: 1000, ping: null }

async function names (member: Member, kind: 'host' | 'site'): Promise<string[]> {
  return (await member.ask('view', kind)).map(({ name }) => name).sort()
}
async function sees (member: Member, kind: 'host' | 'site', expected: string[]): Promise<void> {
  let last: string[] = []
  await eventually(`${member.name} sees ${expected.join(', ')}`, async () => {
    last = await names(member, kind)
    return JSON.stringify(last) === JSON.stringify(expected)
  }).catch((error: unknown) => { throw new Error(`${String(error)}; it saw ${last.join(', ')}`) })
}

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
    const again = await lab.start('tokyo/s1', QUICK, 2)
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
  const first = await lab.start('tokyo/c1', slow, 7)
  await first.ask('publish', { version: 'old', site: false })
  await sees(gateway, 'host', ['tokyo/c1 old'])
  await first.kill()
  const second = await lab.start('tokyo/c1', slow, 8)
  await second.ask('publish', { version: 'new', site: false })
  await sees(gateway, 'host', ['tokyo/c1 new'])
  await second.kill()
  const amnesiac = await lab.start('tokyo/c1', slow, 3)
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
