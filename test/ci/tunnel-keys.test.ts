/** Keys that are exchanged between real tunnels whose agents hear of them by signed records: no ping may be lost. */
import t, { type Test } from 'tap'
import { setTimeout as sleep } from 'node:timers/promises'
import { addVxlan, answers, INNER, noneLost, startPings, V4, V6, type Side } from '../host/tunnel-lab.ts'
import { startAgentsLab, type AgentsLab } from '../host/tunnel-agents.ts'

t.setTimeout(280_000)
const root = { skip: process.getuid?.() === 0 ? false as const : 'needs root' }

const keyOf = async (lab: AgentsLab, side: Side): Promise<string> => (await lab.gateways[side].publicTracks()).map(({ publicKey }) => publicKey).join()

/** Asks for new keys so many times, in turn, under pings both ways. */
async function rotations (t: Test, lab: AgentsLab, count: number): Promise<void> {
  const stops = [await startPings(lab.gateways.a, INNER.b), await startPings(lab.gateways.b, INNER.a)]
  const known = new Set([await keyOf(lab, 'a'), await keyOf(lab, 'b')])
  const started = performance.now()
  for (let i = 0; i < count; i++) {
    const side: Side = i % 2 === 0 ? 'a' : 'b'
    const before = await keyOf(lab, side)
    await lab.tunnels[side].rotate(false)
    await lab.settle()
    t.not(await keyOf(lab, side), before, `${side} has another key`)
    known.add(await keyOf(lab, side))
  }
  const ms = performance.now() - started
  await noneLost(t, stops, { ms, count, keys: known.size })
  t.equal(known.size, count + 2)
}

t.test('over IPv4', root, async t => {
  const lab = await startAgentsLab(t)
  for (const side of ['a', 'b'] as const) await lab.pass(side)
  await addVxlan(lab, lab.addresses)
  t.ok(await answers(lab.gateways.a, INNER.b), 'with the keys of the document, before anybody was heard')
  await lab.settle()

  await t.test('asked for 3 times, pinged every 10 ms both ways', async t => { await rotations(t, lab, 3) })

  await t.test('what is shown says where it stands', async t => {
    const shown = await lab.tunnels.a.show()
    t.match(shown, { state: 'ok', epoch: 2, exchanging: false, tracks: [{ epoch: 2, draining: false, mode: /kernel|userspace/ }], gateways: [{ site: 'b', host: 'gw', heard: true, keyFrom: 'record', tracks: [{ draining: false }] }], problems: [], waiting: [] })
    const session = shown.gateways[0]?.sessions.find(one => one.inUse)
    t.match(session, { endpoint: new RegExp(`^${V4.b}:5182[01]$`), publicKey: await keyOf(lab, 'b') })
    t.ok((session?.handshakeAgeMs ?? Infinity) < 180_000)
    t.not(shown.gateways[0]?.tracks[0]?.publicKey, lab.document.sites[1]?.gateway.tunnelPublicKey, 'the document still has the first one')
  })

  await t.test('an agent that starts anew and hears nobody goes on with what it heard last', async t => {
    const stop = await startPings(lab.gateways.a, INNER.b)
    for (const side of ['a', 'b'] as const) lab.records[side].stop()
    const keys = [await keyOf(lab, 'a'), await keyOf(lab, 'b')]
    for (const side of ['a', 'b'] as const) await lab.restart(side)
    for (let i = 0; i < 3; i++) for (const side of ['a', 'b'] as const) t.equal((await lab.pass(side)).healthy, true)
    t.strictSame([await keyOf(lab, 'a'), await keyOf(lab, 'b')], keys)
    t.strictSame(['b', 'a'].map(side => lab.spec(side as Side).peers[0]?.tracks?.map(({ publicKey }) => publicKey).join()), keys)
    await sleep(500)
    const { sent, lost } = await stop()
    t.ok(sent > 20)
    t.strictSame(lost, [])
  })
})

t.test('over IPv6, as one end has nothing else', root, async t => {
  const lab = await startAgentsLab(t, { a: [V4.a, V6.a], b: [V6.b] })
  for (const side of ['a', 'b'] as const) await lab.pass(side)
  await addVxlan(lab, lab.addresses)
  t.ok(await answers(lab.gateways.a, INNER.b), 'with the document\'s endpoints')
  await lab.settle()
  await rotations(t, lab, 1)
  for (const [side, far] of [['a', V6.b], ['b', V6.a]] as const) {
    const { gateways, mtu } = await lab.tunnels[side].show()
    t.match(gateways[0]?.sessions.find(one => one.inUse)?.endpoint, new RegExp(`^\\[${far}\\]:5182[01]$`))
    t.equal(mtu, 1420)
  }
})
