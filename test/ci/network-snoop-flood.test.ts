/** One cluster's frontend acknowledges without end: what becomes of other clusters on the same hosts. */
import { setTimeout as sleep } from 'node:timers/promises'
import t from 'tap'
import { ALL, dhcpAnswer, ethernet, send } from '../host/frames.ts'
import { asks, needsDhcp, startDhcpSegment } from '../host/dhcp-lab.ts'
import { FRONTEND, joinGateways, macOf, startLab } from '../host/network-lab.ts'
t.setTimeout(200_000)
const BAD = 2
const GOOD = 0x101
t.test('frontends that acknowledge without end', { skip: needsDhcp }, async (t) => {
  const lab = await startLab()
  t.teardown(async () => { await lab.stop() })
  const { a1, a2 } = lab.hosts
  await joinGateways(lab)
  const fe = (vni: number): string => `fe-${vni}`
  const make = async (vni: number, leaseTime: string | null): Promise<void> => {
    await startDhcpSegment(lab, { name: `c${vni}`, vni, ids: { a: vni & 0xff, b: (vni & 0xff) + 50 }, netns: fe(vni), leaseTime })
  }
  await make(GOOD, '12h')
  for (let n = 0; n < BAD; n++) await make(GOOD + 1 + n, null)
  for (let n = 0; n < 50; n++) {
    const one = (await a2.ok('nft list chain bridge mz_mss ports_000101')).replaceAll('ports_000101', `ports_00f0${n.toString(16).padStart(2, '0')}`)
    await a2.ok('nft -f -', { input: one })
  }
  await sleep(3000)
  const ask = async (): Promise<boolean> => await asks(a2, `node-${GOOD}-1`)
  const ping = async (): Promise<boolean> => (await a2.run('ping', ['-n', '-q', '-c', '2', '-i', '0.2', '-W', '1', FRONTEND.address], { netns: `node-${GOOD}-1` })).exitCode === 0
  t.equal(await ask() && await ping(), true, 'before')
  const acks = Array.from({ length: 200 }, (_, n) => ethernet(ALL, FRONTEND.mac, '0800', dhcpAnswer({ mac: macOf(1), address: `10.42.66.${n + 1}` })))
  const SECONDS = 15
  const floods = Array.from({ length: BAD }, (_, n) => send(a1, fe(GOOD + 1 + n), acks, SECONDS * 800, 800))
  await sleep(3000)
  let failed = 0, asked = 0, works = 0, why = ''
  const until = performance.now() + (SECONDS - 5) * 1000
  await Promise.all([(async () => {
    while (performance.now() < until) {
      await a2.observe('segment').catch((error: unknown) => { failed++; why = String(error).slice(0, 200) })
      await sleep(200)
    }
  })(), (async () => {
    while (performance.now() < until) {
      asked++
      if (!await ask()) continue
      await sleep(300)
      if (await ping()) works++
      await sleep(500)
    }
  })()])
  await Promise.all(floods)
  t.equal(failed, 0, `others are observed ${why}`)
  t.equal(works, asked, 'others get addresses that they may use')
})
