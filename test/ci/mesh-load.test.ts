/** A machine that has no core to spare is not taken for a dead one. */
import { spawn } from 'node:child_process'
import { availableParallelism } from 'node:os'
import { setTimeout as sleep } from 'node:timers/promises'
import t, { type Test } from 'tap'
import { CALM, eventually, makeLab, type Layout, type Member } from '../mesh/federation.ts'

t.setTimeout(170_000)

const LOAD_MS = 60_000
const HOSTS = 18
const LAYOUT: Layout = {
  main: 'coordinator', 'kyoto/g1': 'gateway', 'tokyo/g1': 'gateway',
  ...Object.fromEntries(Array.from({ length: HOSTS - 1 }, (_, n) => [`tokyo/c${n + 1}`, 'compute']))
}

/** Keeps every core busy. The processes end by themselves, with or without us. */
function loadAllCores (t: Test, ms: number): void {
  for (let n = 0; n < 2 * availableParallelism(); n++) {
    const busy = spawn(process.execPath, ['-e', `for (const end = Date.now() + ${ms}; Date.now() < end;);`], { stdio: 'ignore' })
    t.teardown(() => { busy.kill('SIGKILL') })
  }
}

t.test('20 agents on a machine at 100 % CPU for a minute: only the dead is taken for dead', async t => {
  const lab = await makeLab(t, LAYOUT)
  const members: Member[] = []
  // a few at a time: this is not about starting
  for (let names = Object.keys(LAYOUT); names.length > 0; names = names.slice(10)) {
    members.push(...await Promise.all(names.slice(0, 10).map(async name => await lab.start(name, CALM))))
  }
  await Promise.all(members.map(async member => await member.ask('publish', { version: 'a', site: member.name.endsWith('g1') })))
  const site = members.filter(({ name }) => name.startsWith('tokyo/'))
  for (const member of site) await eventually(`${member.name} sees its site`, async () => (await member.ask('view', 'host')).length === HOSTS, 90_000)

  const victim = members.at(-1)
  if (victim === undefined) throw new Error('nobody was started')
  loadAllCores(t, LOAD_MS)
  const started = Date.now()
  // what happens meanwhile: work for everybody
  let killedMs: number | null = null
  while (Date.now() - started < LOAD_MS) {
    if (killedMs === null && Date.now() - started > LOAD_MS / 2) {
      killedMs = Date.now()
      await victim.kill()
    }
    for (const member of site.slice(0, 4)) await member.ask('publish', { version: `b ${Date.now()}`, site: false })
    await sleep(500)
  }
  let suspicions = 0
  let lateMs = 0
  for (const member of members.slice(0, -1)) {
    const seen = (await member.ask('seen', null)).filter(({ peer }) => peer !== victim.peerId)
    t.strictSame(seen.filter(({ state }) => state === 'dead' || state === 'gone'), [], `${member.name} took nobody for dead who lives`)
    suspicions += seen.filter(({ state }) => state === 'suspect').length
    lateMs += (await member.ask('counts', null)).lateMs
  }
  t.comment(`${suspicions} suspicions, all refuted; processes were late by ${Math.round(lateMs / members.length)} ms each`)
  for (const member of site.slice(0, -1)) {
    await eventually(`${member.name} sees its site, without the one that was killed`, async () => (await member.ask('view', 'host')).length === HOSTS - 1)
    const known = (await member.ask('seen', null)).find(({ peer, state }) => peer === victim.peerId && state === 'dead')
    t.ok(known !== undefined && known.atMs - (killedMs ?? 0) < LOAD_MS / 2, `${member.name} knew of the dead one during the load, after ${(known?.atMs ?? 0) - (killedMs ?? 0)} ms`)
  }
})
