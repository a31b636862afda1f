/** As in test/host, a hundred times. MUSUBI_EXCHANGES. */
import t from 'tap'
import { addVxlan, answers, exchanges, INNER, settle, startTunnelLab } from '../host/tunnel-lab.ts'

t.setTimeout(3_600_000)
const count = Number(process.env.MUSUBI_EXCHANGES ?? 100)

t.test(`${count} exchanges of tunnel keys lose no ping`, { timeout: 3_590_000, skip: process.getuid?.() === 0 ? false : 'needs root' }, async (t) => {
  const lab = await startTunnelLab()
  t.teardown(async () => { await lab.stop() })
  await settle(lab)
  await addVxlan(lab)
  t.ok(await answers(lab.gateways.a, INNER.b), 'frames pass')
  await exchanges(t, lab, count)
})
