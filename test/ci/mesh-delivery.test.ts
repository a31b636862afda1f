/** Loss-proof: with processes that die and return, everybody ends with everything, and revocations reach all. */
import t from 'tap'
import { eventually, type Layout, makeLab, type Member, revocationOf, sees, type Timing } from '../mesh/federation.ts'

t.setTimeout(150_000)

const TWELVE: Layout = {
  main: 'coordinator',
  ...Object.fromEntries(['g1', 'g2', 'c1', 'c2', 'c3', 'c4', 'c5', 'c6'].map(host => [`tokyo/${host}`, host.startsWith('g') ? 'gateway' : 'compute'])),
  'kyoto/g1': 'gateway', 'kyoto/c1': 'compute', 'kyoto/c2': 'compute'
}

t.test('twelve processes, of which some die and return: everybody ends with everything', async t => {
  const timing: Timing = { ttlMs: 60_000, heartbeatMs: 20_000, syncIntervalMs: 1000, ping: null }
  const lab = await makeLab(t, TWELVE)
  const names = Object.keys(TWELVE)
  const members = new Map(await Promise.all(names.map(async name => [name, await lab.start(name, timing, { loses: 'revocations' })] as const)))
  const of = (name: string): Member => {
    const found = members.get(name)
    if (found === undefined) throw new Error(name)
    return found
  }
  const version = new Map<string, string>()
  const epochs = new Map<string, number>()
  const say = async (name: string, text: string): Promise<void> => {
    version.set(name, text)
    await of(name).ask('publish', { version: text, site: TWELVE[name] === 'gateway' })
  }
  const hostsOf = (site: string): string[] => names.filter(name => name.startsWith(`${site}/`))
  const gateways = names.filter(name => TWELVE[name] === 'gateway')
  const said = (list: readonly string[]): string[] => list.map(name => `${name} ${version.get(name) ?? ''}`).sort()
  const complete = async (): Promise<void> => {
    for (const name of names) {
      const [site = ''] = name.split('/')
      if (name !== 'main') await sees(of(name), 'host', said(hostsOf(site)))
      if (name === 'main' || gateways.includes(name)) await sees(of(name), 'site', said(gateways))
    }
  }
  await Promise.all(names.filter(name => name !== 'main').map(async name => { await say(name, 'first') }))
  await complete()

  const victims = names.filter(name => name !== 'main').sort(() => Math.random() - 0.5)
  t.comment(`killed in turn: ${victims.slice(0, 6).join(', ')}`)
  for (let round = 0; round < 3; round++) {
    const pair = victims.slice(round * 2, round * 2 + 2)
    await Promise.all(pair.map(async name => { await of(name).kill() }))
    // others go on while they are away
    await Promise.all(names.filter(name => name !== 'main' && !pair.includes(name)).map(async name => { await say(name, `round ${round}`) }))
    await Promise.all(pair.map(async name => {
      const epoch = (epochs.get(name) ?? 1) + 1
      epochs.set(name, epoch)
      members.set(name, await lab.start(name, timing, { epoch, loses: 'revocations' }))
      await say(name, `back ${round}`)
    }))
  }
  await complete()
  t.pass('every live member has every live record')
  for (const name of names) {
    const { forged, malformed, refused, future, replayed, notAdmitted, dropped } = await of(name).ask('counts', null)
    t.strictSame({ forged, malformed, refused, future, replayed, notAdmitted, dropped }, { forged: 0, malformed: 0, refused: 0, future: 0, replayed: 0, notAdmitted: {}, dropped: 0 }, `${name} had nothing to complain about`)
  }

  await t.test('a revocation of which all gossip is lost reaches all by comparing, and closes connections', async t => {
    const revoked = of('tokyo/c3')
    const intervals = Math.ceil(Math.log2(names.length)) + 3
    const others = names.filter(name => name !== 'tokyo/c3')
    // a busy machine compares less often: what counts is how many comparisons it takes, not how long those take
    const rounds = async (): Promise<number[]> => await Promise.all(others.map(async name => (await of(name).ask('counts', null)).rounds))
    const before = await rounds()
    const fromMs = performance.now()
    t.ok(await of('kyoto/c2').ask('revoke', revocationOf(lab.kit, 'tokyo/c3', 'stolen')), 'told to the one that is furthest')
    const times = await Promise.all(others.map(async name => await eventually(`${name} knows of the revocation`, async () => await of(name).ask('revocations', null) === 1 && performance.now() - fromMs)))
    const made = (await rounds()).map((count, index) => count - (before[index] ?? 0)).sort((a, b) => a - b)
    const usual = made[Math.floor(made.length / 2)] ?? Infinity
    t.ok(usual <= intervals, `all know after ${Math.round(Math.max(...times))} ms, in which most made ${usual} comparisons (${made.join(', ')}); ${intervals} are allowed`)
    for (const name of others) {
      await eventually(`${name} has closed its connection`, async () => !(await of(name).ask('connected', null)).includes(revoked.peerId))
      if (name.startsWith('tokyo/')) t.notOk((await of(name).ask('everyone', 'host')).some(({ peer }) => peer === revoked.peerId), `${name} has forgotten it`)
    }
    await eventually('it is told why', async () => ((await revoked.ask('refusals', null)).them['CERTIFICATE_REVOKED'] ?? 0) > 0)
    // it goes on trying, so a connection may be there until the other side has read who it is
    await eventually('nobody keeps a connection to it', async () => (await revoked.ask('connected', null)).length === 0)
  })
})
