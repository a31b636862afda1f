/** Who is gone is known, and nobody else is taken for it: real processes over loopback, with the times of production. */
import { setTimeout as sleep } from 'node:timers/promises'
import t from 'tap'
import { LIVENESS_DIRECTORY, LIVENESS_SITE } from '../../protocol/mesh/constants.ts'
import { CALM, eventually, makeLab, type Layout, type Member } from './federation.ts'
import type { Seen } from './member.ts'

t.setTimeout(110_000)

const LAYOUT: Layout = {
  main: 'coordinator', 'tokyo/g1': 'gateway', 'tokyo/c1': 'compute', 'tokyo/c2': 'compute', 'tokyo/c3': 'compute', 'tokyo/c4': 'compute', 'kyoto/g1': 'gateway'
}
const SITE_MS = 10_000
const DIRECTORY_MS = 30_000

/** When a member first saw that state of `peer` after `fromMs`, as ms since then. */
async function sawWithin (member: Member, peer: Member, kind: Seen['kind'], state: Seen['state'], fromMs: number): Promise<number> {
  const found = await eventually(`${member.name} sees ${peer.name} ${state}`, async () => (
    (await member.ask('seen', null)).find(seen => seen.peer === peer.peerId && seen.kind === kind && seen.state === state && seen.atMs >= fromMs) ?? null
  ))
  return found.atMs - fromMs
}

t.test('the dead, the hung and those who leave', async t => {
  const lab = await makeLab(t, LAYOUT)
  const members = await Promise.all(Object.keys(LAYOUT).map(async name => await lab.start(name, CALM)))
  const of = (name: string): Member => {
    const found = members.find(member => member.name === name)
    if (found === undefined) throw new Error(name)
    return found
  }
  await Promise.all(members.map(async member => await member.ask('publish', { version: 'a', site: member.name.endsWith('g1') })))
  const [g1, c1, c2, c3, c4, kyoto, main] = [of('tokyo/g1'), of('tokyo/c1'), of('tokyo/c2'), of('tokyo/c3'), of('tokyo/c4'), of('kyoto/g1'), of('main')]
  for (const member of [g1, c1, c2, c3, c4]) await eventually(`${member.name} sees its site`, async () => (await member.ask('view', 'host')).length === 5)
  for (const member of [main, g1, kyoto]) await eventually(`${member.name} sees the sites`, async () => (await member.ask('view', 'site')).length === 2)

  // the far site dies while the rest goes on in this one
  const farFromMs = Date.now()
  await kyoto.kill()

  await t.test('a killed process', async t => {
    const fromMs = Date.now()
    await c4.kill()
    for (const member of [g1, c1, c2, c3]) {
      t.ok(await sawWithin(member, c4, 'host', 'suspect', fromMs) < SITE_MS, `${member.name} suspects it`)
      const ms = await sawWithin(member, c4, 'host', 'dead', fromMs)
      t.ok(ms < SITE_MS && ms >= LIVENESS_SITE.suspicionMs, `${member.name} knows after ${ms} ms`)
      t.notOk((await member.ask('view', 'host')).some(({ peer }) => peer === c4.peerId), 'it is not in the view any more')
      t.match((await member.ask('everyone', 'host')).find(({ peer }) => peer === c4.peerId), { state: 'dead', name: 'tokyo/c4 a' }, 'but shown')
    }
  })

  await t.test('one that comes back', async () => {
    const fromMs = Date.now()
    const again = await lab.start('tokyo/c4', CALM, { epoch: 2 })
    members[members.indexOf(c4)] = again
    await again.ask('publish', { version: 'b', site: false })
    for (const member of [g1, c1, c2, c3]) {
      await sawWithin(member, again, 'host', 'alive', fromMs)
      await eventually(`${member.name} hears it`, async () => (await member.ask('view', 'host')).some(({ name, state }) => name === 'tokyo/c4 b' && state === 'alive'))
    }
  })

  await t.test('a hung process, and its waking up', async t => {
    const fromMs = Date.now()
    c3.signal('SIGSTOP')
    const times = await Promise.all([g1, c1, c2].map(async member => await sawWithin(member, c3, 'host', 'dead', fromMs)))
    for (const ms of times) t.ok(ms < SITE_MS, `known after ${ms} ms`)
    const awakeMs = Date.now()
    c3.signal('SIGCONT')
    for (const member of [g1, c1, c2]) await sawWithin(member, c3, 'host', 'alive', awakeMs)
    // it was away for long, and takes nobody for dead for that
    const { lateMs } = await c3.ask('counts', null)
    t.ok(lateMs > 2000, `it has missed ${lateMs} ms`)
    t.strictSame((await c3.ask('seen', null)).filter(({ state, atMs }) => state === 'dead' && atMs > awakeMs - 500), [])
  })

  await t.test('one that leaves', async t => {
    const fromMs = Date.now()
    await c2.ask('leave', null)
    await c2.kill()
    for (const member of [g1, c1, c3]) {
      const ms = await sawWithin(member, c2, 'host', 'gone', fromMs)
      t.ok(ms < LIVENESS_SITE.suspicionMs, `${member.name} knows after ${ms} ms`)
      t.notOk((await member.ask('everyone', 'host')).some(({ peer }) => peer === c2.peerId), 'nothing is left of it')
    }
  })

  await t.test('a dead site', async t => {
    for (const member of [main, g1]) {
      const ms = await sawWithin(member, kyoto, 'site', 'dead', farFromMs)
      t.ok(ms < DIRECTORY_MS && ms >= LIVENESS_DIRECTORY.suspicionMs, `${member.name} knows after ${ms} ms`)
    }
  })

  await sleep(500)
  for (const member of [g1, c1, main]) {
    const wrong = (await member.ask('seen', null)).filter(({ peer, state }) => state === 'dead' && ![c4, c3, kyoto].some(({ peerId }) => peerId === peer))
    t.strictSame(wrong, [], `${member.name} took nobody else for dead`)
    t.match(await member.ask('counts', null), { forged: 0, malformed: 0, refused: 0, suspicionsRefused: 0, dropped: 0 })
  }
})
