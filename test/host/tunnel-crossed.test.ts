/** Two gateways that greet each other in one instant: WireGuard drops both answers, and would try again after 5 s. */
import t from 'tap'
import { answers, otherSide, startTunnelLab, TUNNELS, type Side, type TunnelLab } from './tunnel-lab.ts'

t.setTimeout(120_000)

/** One end may read the answer before the question that came first. */
const ATTEMPTS = 12
const SIDES: readonly Side[] = ['a', 'b']

interface Peer { latestHandshake: number, rxBytes: number }
interface Detail { begunAnew: number, peers: Peer[], tracks: Array<{ publicKey: string }> }
const detailOf = async (lab: TunnelLab, side: Side): Promise<Detail> => (await lab.gateways[side].observe('tunnel'))[0]?.detail as unknown as Detail

/**
 * What a says first waits in the router, which looks for b; b answers no such question, and is found by its own first word: so
 * both words arrive after both were said.
 *
 * @returns whether they crossed
 */
async function cross (lab: TunnelLab): Promise<boolean> {
  const { gateways: { a, b }, router } = lab
  for (const pod of [a, b]) await pod.publicTracks()
  await b.ok('sysctl -qw net.ipv4.conf.eth0.arp_ignore=8')
  await router.ok('sysctl -qw net.ipv4.neigh.to-b.mcast_solicit=60')
  await router.ok('ip neigh flush dev to-b')
  await b.ok('ip neigh flush dev eth0')
  await lab.pass('a')
  await lab.pass('b')
  await b.ok('sysctl -qw net.ipv4.conf.eth0.arp_ignore=0')
  const peers = await Promise.all([a, b].map(async pod => ((await pod.observe('tunnel'))[0]?.detail.peers as Peer[])[0]))
  return peers.every(peer => peer !== undefined && peer.rxBytes > 0 && peer.latestHandshake === 0)
}

t.test('handshakes that cross are begun anew, by one end', { skip: process.getuid?.() === 0 ? false : 'needs root' }, async t => {
  for (let attempt = 1; attempt <= ATTEMPTS; attempt++) {
    const lab = await startTunnelLab()
    t.teardown(async () => { await lab.stop() })
    if (!await cross(lab)) {
      t.comment(`attempt ${attempt}: they did not cross`)
      await lab.stop()
      continue
    }
    const fromMs = performance.now()
    t.ok(await answers(lab.gateways.a, TUNNELS.b), 'there is a session')
    t.comment(`after ${Math.round(performance.now() - fromMs)} ms`)
    const [a, b] = await Promise.all(SIDES.map(async side => await detailOf(lab, side)))
    const lower = (a?.tracks[0]?.publicKey ?? '') < (b?.tracks[0]?.publicKey ?? '') ? 'a' : 'b'
    const begun = { a: a?.begunAnew, b: b?.begunAnew }
    t.ok((begun[lower] ?? 0) > 0, `by the one with the lower key: ${JSON.stringify(begun)}`)
    t.equal(begun[otherSide(lower)], 0, 'and not by the other one')
    for (const side of SIDES) t.equal((await lab.pass(side)).healthy, true, `${side} is as wanted`)
    return
  }
  t.fail(`no handshakes crossed in ${ATTEMPTS} attempts`)
})
