import t from 'tap'
import { addVxlan, answers, INNER, otherSide, settle, startPings, startTunnelLab } from './tunnel-lab.ts'
import type { Side } from './tunnel-lab.ts'

t.setTimeout(240_000)

const ROTATIONS = Number(process.env.MUSUBI_ROTATIONS ?? 5)

t.test('keys are exchanged while frames pass', { skip: process.getuid?.() === 0 ? false : 'needs root' }, async (t) => {
  const lab = await startTunnelLab()
  t.teardown(async () => { await lab.stop() })
  const { a, b } = lab.gateways
  await settle(lab)
  await addVxlan(lab)
  t.ok(await answers(a, INNER.b), 'frames pass')
  const keys = async (): Promise<string[]> => (await Promise.all([a.publicTracks(), b.publicTracks()])).flat().map(({ publicKey }) => publicKey)

  await t.test(`${ROTATIONS} times on either side, pinged every 10 ms both ways`, async (t) => {
    const stops = [await startPings(a, INNER.b), await startPings(b, INNER.a)]
    const known = new Set(await keys())
    for (let i = 0; i < ROTATIONS; i++) {
      const side: Side = i % 2 === 0 ? 'a' : 'b'
      lab.epochs[side]++
      await settle(lab, i % 3 === 0 ? side : otherSide(side))
      for (const key of await keys()) known.add(key)
    }
    for (const [i, stop] of stops.entries()) {
      const { sent, lost, doubled } = await stop()
      t.comment(`${i === 0 ? 'a to b' : 'b to a'}: ${sent} pings, lost ${lost.length}`)
      t.ok(sent > ROTATIONS * 50, `${sent} pings`)
      t.strictSame(lost, [], 'none lost')
      t.equal(doubled, 0)
    }
    t.ok(known.size >= ROTATIONS + 2, `${known.size} keys in all`)
  })

  await t.test('what was given up is gone: one interface, one key file, one process', async (t) => {
    for (const pod of [a, b]) {
      const links = (await pod.ok('ip -o link show')).split('\n').filter((line) => line.includes(': mzwg'))
      t.equal(links.length, 1)
      t.equal((await pod.ok('find /run/state -name wireguard*.key')).trim().split('\n').length, 1)
      t.equal((await pod.ok('ps -A -o stat=,comm=')).split('\n').filter((line) => /^[^Z].*wireguard-go/.test(line)).length, (await pod.observe('tunnel'))[0]?.detail.mode === 'kernel' ? 0 : 1)
      t.match(await pod.ok('find /run/state -name wireguard*.key -perm 600'), /wireguard/, 'which nobody else may read')
    }
  })

  await t.test('a restart in the middle of an exchange changes nothing', async (t) => {
    const stop = await startPings(a, INNER.b)
    lab.epochs.a++
    await lab.pass('a')
    await a.restart()
    await lab.pass('b')
    await b.restart()
    await settle(lab, 'b')
    const { sent, lost } = await stop()
    t.ok(sent > 50)
    t.strictSame(lost, [])
  })
})
