/** A node that asks for an address in the name of another one's MAC. */
import { setTimeout as sleep } from 'node:timers/promises'
import t from 'tap'
import { bare, dhcpOptions, ethernet, ALL, send, udp } from '../host/frames.ts'
import { asks, needsDhcp, startDhcpSegment } from '../host/dhcp-lab.ts'
import { FRONTEND, joinGateways, macOf, PLACES, startLab } from '../host/network-lab.ts'
t.setTimeout(120_000)
const VNI = 0x101, NAME = 'c1', FE = 'frontend'
const nodeOf = (host: keyof typeof PLACES): string => `node-${VNI}-${PLACES[host].index}`
/** One request (INIT-REBOOT, RFC 2131 4.3.2) in the name of `mac`. */
const request = (mac: string, wish: string, clientId: string): string => {
  const hexIp = wish.split('.').map((b) => Number(b).toString(16).padStart(2, '0')).join('')
  const options = dhcpOptions([[53, '03'], [50, hexIp], [61, clientId]])
  return udp('0.0.0.0', '255.255.255.255', 68, 67, `010106001234abcd00008000${'0'.repeat(32)}${bare(mac)}${'0'.repeat(20)}${'0'.repeat(384)}63825363${options}ff${'0'.repeat(120)}`)
}
t.test('nobody asks for an address in the name of another', { skip: needsDhcp }, async (t) => {
  const lab = await startLab()
  t.teardown(async () => { await lab.stop() })
  const { a2, b1 } = lab.hosts
  await joinGateways(lab)
  await startDhcpSegment(lab, { name: NAME, vni: VNI, ids: { a: 7, b: 8 }, netns: FE, leaseTime: '12h' })
  await sleep(3000)
  t.ok(await asks(a2, nodeOf('a2')))
  const ping = async (): Promise<boolean> => (await a2.run('ping', ['-n', '-q', '-c', '2', '-i', '0.2', '-W', '1', FRONTEND.address], { netns: nodeOf('a2') })).exitCode === 0
  await sleep(500)
  t.equal(await ping(), true, 'a2 works')
  const victim = macOf(PLACES.a2.index)
  await send(b1, nodeOf('b1'), [ethernet(ALL, macOf(PLACES.b1.index), '0800', request(victim, '10.42.100.150', 'ff00112233'))])
  await sleep(2000)
  t.equal(await ping(), true, 'whatever another node asks in its name')
  // in fragments: the first has the UDP header alone
  const whole = Buffer.from(request(victim, '10.42.100.151', 'ff00112244'), 'hex')
  const sum = (head: Buffer): Buffer => { head.writeUInt16BE(0, 10); let s = 0; for (let i = 0; i < 20; i += 2) s += head.readUInt16BE(i); while (s > 0xffff) s = (s & 0xffff) + (s >>> 16); head.writeUInt16BE(~s & 0xffff, 10); return head }
  const piece = (from: number, to: number, more: boolean): string => { const head = Buffer.from(whole.subarray(0, 20)); head.writeUInt16BE(20 + to - from, 2); head.writeUInt16BE(0x1234, 4); head.writeUInt16BE((more ? 0x2000 : 0) | (from / 8), 6); return Buffer.concat([sum(head), whole.subarray(20 + from, 20 + to)]).toString('hex') }
  const end = whole.length - 20
  await send(b1, nodeOf('b1'), [piece(0, 8, true), piece(8, end, false)].map((p) => ethernet(ALL, macOf(PLACES.b1.index), '0800', p)))
  await sleep(2000)
  t.equal(await ping(), true, 'nor in fragments')
  t.equal((await b1.run('busybox', ['udhcpc', '-i', 'eth0', '-n', '-q', '-f', '-t', '8', '-T', '1', '-s', '/run/client'], { netns: nodeOf('b1') })).exitCode, 0, 'who asks for itself gets an address')
})
