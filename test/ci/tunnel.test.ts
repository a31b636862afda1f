import t from 'tap'
import { addVxlan, answers, exchanges, INNER, settle, startPings, startTunnelLab } from '../host/tunnel-lab.ts'

t.setTimeout(240_000)

t.test('keys are exchanged while frames pass', { skip: process.getuid?.() === 0 ? false : 'needs root' }, async (t) => {
  const lab = await startTunnelLab()
  t.teardown(async () => { await lab.stop() })
  const { a, b } = lab.gateways
  await settle(lab)
  await addVxlan(lab)
  t.ok(await answers(a, INNER.b), 'frames pass')

  await t.test('5 times, pinged every 10 ms both ways', async (t) => { await exchanges(t, lab, 5) })

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
