/** A frontend that hands out addresses by itself, with real links, a real DHCP server and real clients: what is learnt, from whom, and what that keeps nodes from. */
import { setTimeout as sleep } from 'node:timers/promises'
import t, { type Test } from 'tap'
import { clusterNamespace, hostBridgeName } from '../../protocol/core/desired.ts'
import { keeperId } from '../../agent/services/keepers.ts'
import { SNOOP_AWAKE_MS } from '../../protocol/core/limits.ts'
import { ALL, dhcpAnswer, dhcpOptions, ethernet, send, udp, type DhcpAnswer } from '../host/frames.ts'
import { asks, needsDhcp, startDhcpSegment } from '../host/dhcp-lab.ts'
import { FRONTEND, joinGateways, learning, macOf, PLACES, segmentSpecs, startLab } from '../host/network-lab.ts'
import { POD_STATE, type Pod } from '../host/network-pod.ts'
import type { LearnedOf } from '../../agent/drivers/network/snoop/snooping.ts'

t.setTimeout(240_000)

const VNI = 0x101
const NS = clusterNamespace(VNI)
const NAME = 'c1'
const FE = 'frontend'
const SLACK_MS = 8_000
const [MAC_A1, MAC_A2, MAC_B1] = [macOf(PLACES.a1.index), macOf(PLACES.a2.index), macOf(PLACES.b1.index)]
const HOSTS = ['a1', 'a2', 'b1'] as const
type Host = typeof HOSTS[number]
const nodeOf = (host: Host): string => `node-${VNI}-${PLACES[host].index}`

async function within (ms: number, what: () => Promise<boolean>): Promise<boolean> {
  const until = performance.now() + ms
  while (performance.now() < until) {
    if (await what()) return true
    await sleep(100)
  }
  return false
}
/** Pairs of MAC and address of a set, sorted; the frontend's own is no lease. */
async function setOf (pod: Pod, netns?: string): Promise<string[]> {
  const text = await pod.ok(`nft list set bridge mz_mss learned_${VNI.toString(16).padStart(6, '0')}`, netns === undefined ? {} : { netns })
  return [...text.matchAll(/((?:[0-9a-f]{2}:){5}[0-9a-f]{2}) \. ([\d.]+)/g)].map(([, mac = '', ip = '']) => `${mac} ${ip}`).filter((pair) => pair !== `${FRONTEND.mac} ${FRONTEND.address}`).sort()
}
const awake = async (pod: Pod): Promise<boolean> => (await pod.ok('nft list ruleset')).includes(`${FRONTEND.mac} . ${FRONTEND.address}`)
const keeperPid = async (pod: Pod): Promise<string> => (await pod.run('pgrep', ['-f', '^perl .*snoop/keeper.pl keep'])).stdout.trim()
const pings = async (pod: Pod, netns: string, to: string, ...args: string[]): Promise<boolean> => (await pod.run('ping', ['-n', '-q', '-c', '2', '-i', '0.2', '-W', '1', ...args, to], { netns })).exitCode === 0
const stateOf = async (pod: Pod): Promise<{ healthy: boolean, missing: string[], learned: LearnedOf }> => {
  const [one] = await pod.observe('segment')
  return { healthy: one?.healthy ?? false, missing: one?.detail.missing as string[], learned: one?.detail.learned as LearnedOf }
}

async function all (t: Test): Promise<void> {
  const lab = await startLab()
  t.teardown(async () => { await lab.stop() })
  const { a1, a2, b1 } = lab.hosts
  const specs = segmentSpecs(NAME, VNI, { a: 7, b: 8 })
  await joinGateways(lab)
  await startDhcpSegment(lab, { name: NAME, vni: VNI, ids: { a: 7, b: 8 }, netns: FE, leaseTime: '2m' })
  const ask = async (host: Host): Promise<boolean> => await asks(lab.hosts[host], nodeOf(host))
  const addressOf = async (host: Host): Promise<string> => /inet ([\d.]+)/.exec(await lab.hosts[host].ok('ip -o -4 address show dev eth0', { netns: nodeOf(host) }))?.[1] ?? ''
  const answers = async (list: readonly DhcpAnswer[], perSecond = 400): Promise<void> => { await send(a1, FE, list.map((one) => ethernet(ALL, FRONTEND.mac, '0800', dhcpAnswer(one))), list.length, perSecond) }
  const ready = await Promise.all(HOSTS.map(async (host) => await within(SLACK_MS, async () => await awake(lab.hosts[host]))))
  t.strictSame(ready, [true, true, true], 'keepers run, and say so')

  await t.test('a node that was given no address has none, whatever it says', async (t) => {
    t.match(await stateOf(a2), { healthy: true, learned: { host: [], cluster: [] } })
    t.equal(await pings(a2, nodeOf('a2'), FRONTEND.address), false, 'not even the one of the document')
    t.equal(await pings(b1, nodeOf('b1'), FRONTEND.address), false)
  })

  let given: Record<Host, string> = { a1: '', a2: '', b1: '' }
  await t.test('what the frontend gives is learnt on the node\'s host, and at the frontend\'s gateway', async (t) => {
    for (const host of HOSTS) t.ok(await ask(host), `${host} is given an address`)
    given = { a1: await addressOf('a1'), a2: await addressOf('a2'), b1: await addressOf('b1') }
    for (const host of HOSTS) t.match(given[host], /^10\.42\.100\./)
    const pair = (host: Host): string => `${macOf(PLACES[host].index)} ${given[host]}`
    for (const host of HOSTS) t.ok(await within(SLACK_MS, async () => (await setOf(lab.hosts[host])).includes(pair(host))), `learnt on ${host}`)
    t.strictSame(await setOf(a1, NS), HOSTS.map(pair).sort(), 'its gateway sees all of them')
    for (const host of HOSTS) t.equal(await pings(lab.hosts[host], nodeOf(host), FRONTEND.address), true, `${host} to the frontend`)
    for (const [from, to] of [['a1', 'b1'], ['b1', 'a2'], ['a2', 'a1']] as const) t.equal(await pings(lab.hosts[from], nodeOf(from), given[to]), true, `${from} to ${to}`)
    t.match((await stateOf(a2)).learned.host, [{ mac: MAC_A2, address: given.a2 }], 'status shows it')
    t.ok((await stateOf(a2)).learned.host.every(({ leftSeconds }) => leftSeconds > 0 && leftSeconds <= 120), 'for as long as the frontend said')
  })

  await t.test('the next pass answers for them at home', async (t) => {
    const missing = (await stateOf(a1)).missing.join('; ')
    t.match(missing, new RegExp(`neighbours of br0 in ${NS}: .*10\\.42\\.100\\.`))
    for (const host of HOSTS) await lab.hosts[host].apply('segment', NAME, learning(specs[host]))
    for (const host of HOSTS) t.match(await stateOf(lab.hosts[host]), { healthy: true, missing: [] }, host)
    const neighbours = await a1.ok('ip neighbour show nud permanent dev br0', { netns: NS })
    for (const host of HOSTS) t.ok(neighbours.includes(`${given[host]} lladdr ${macOf(PLACES[host].index)}`), `${host} is answered for`)
    await a1.ok('nft -f -', { netns: NS, input: 'table bridge probe {\n chain out {\n type filter hook postrouting priority 10\n oifname "wan0m" ether type arp counter comment "arp"\n }\n}\n' })
    await a1.ok('ip neighbour flush all', { netns: FE })
    t.equal(await pings(a1, FE, given.b1), true)
    t.match(await a1.ok('nft list table bridge probe', { netns: NS }), /counter packets 0 /, 'the frontend\'s question does not cross')
    await a1.ok('nft delete table bridge probe', { netns: NS })
  })

  await t.test('nobody sends from another\'s address, or for another', async (t) => {
    await b1.ok(`ip address add ${given.a2}/32 dev eth0`, { netns: nodeOf('b1') })
    await b1.ok('ip address add 10.42.9.9/32 dev eth0', { netns: nodeOf('b1') })
    for (const address of [given.a2, '10.42.9.9', FRONTEND.address]) {
      if (address === FRONTEND.address) await b1.ok(`ip address add ${address}/32 dev eth0`, { netns: nodeOf('b1') })
      t.equal(await pings(b1, nodeOf('b1'), given.a1, '-I', address), false, address)
      await b1.ok(`ip address delete ${address}/32 dev eth0`, { netns: nodeOf('b1') })
    }
    t.equal(await pings(b1, nodeOf('b1'), given.a1), true, 'its own')
  })

  const before = async (): Promise<string[][]> => [await setOf(a1), await setOf(a2), await setOf(b1), await setOf(a1, NS), await setOf(b1, NS)]
  await t.test('nodes forge no answers', async (t) => {
    const was = await before()
    const forged = [MAC_B1, FRONTEND.mac, MAC_A2].flatMap((from) => [
      ethernet(ALL, from, '0800', dhcpAnswer({ mac: MAC_A1, address: '10.42.66.1' })), ethernet(ALL, from, '0800', dhcpAnswer({ mac: MAC_B1, address: '10.42.66.2' })),
      ethernet(MAC_A2.replaceAll(':', ''), from, '0800', dhcpAnswer({ mac: MAC_A2, address: '10.42.66.3' }))
    ])
    // what says that a lease is given up, or an address is somebody else's, is no answer
    const given7 = dhcpOptions([[53, '07']])
    const release = ethernet(FRONTEND.mac.replaceAll(':', ''), MAC_B1, '0800', udp(given.b1, FRONTEND.address, 68, 67, `01010600${'0'.repeat(48)}${MAC_A1.replaceAll(':', '')}${'0'.repeat(20)}${'0'.repeat(384)}63825363${given7}ff`))
    await send(b1, nodeOf('b1'), [...forged, release])
    await send(a1, nodeOf('a1'), forged)
    await sleep(1_500)
    t.strictSame(await before(), was)
  })

  await t.test('answers that are not as they should be teach nothing, and hurt nobody', async (t) => {
    const was = await before()
    const own = { mac: MAC_A2, address: '10.42.66.4' }
    const lease = '00000258'
    await answers([
      { ...own, relay: '10.42.0.9' }, { ...own, seconds: 0 }, { ...own, options: dhcpOptions([[53, '02'], [51, lease]]) }, { ...own, options: dhcpOptions([[53, '06'], [51, lease]]) },
      { ...own, options: dhcpOptions([[53, '05']]) }, { ...own, options: dhcpOptions([[53, '05'], [51, '0258']]) }, { ...own, options: dhcpOptions([[53, '05'], [53, '05'], [51, lease]]) },
      { ...own, options: `3501053304${lease}0cff61` }, { ...own, options: '35' }, { ...own, options: '3501' }, { ...own, options: '' }, { ...own, options: dhcpOptions([[52, '0303'], [53, '05'], [51, lease]]) },
      { ...own, options: dhcpOptions([[52, '01'], [53, '05'], [51, lease]]), file: '0cff' }, { ...own, options: '00'.repeat(1_100) },
      ...[FRONTEND.address, '10.42.255.1', '10.42.255.2', '0.0.0.0', '127.0.0.1', '224.0.0.1', '255.255.255.255'].map((address) => ({ mac: MAC_A2, address })),
      { mac: '52:54:00:00:99:99', address: '10.42.66.5' }
    ])
    const whole = dhcpAnswer(own)
    const cut = [20, 28, 29, 60, 200, 267, 268, 272].map((bytes) => ethernet(ALL, FRONTEND.mac, '0800', whole.slice(0, bytes * 2)))
    const longer = [whole.replace(/^(.{4})..../, '$1ffff'), whole.replace(/^(.{12})..../, '$12000'), whole.replace(/^45/, '4f'), whole.replace(/^45/, '41')].map((packet) => ethernet(ALL, FRONTEND.mac, '0800', packet))
    await send(a1, FE, [...cut, ...longer])
    await sleep(1_500)
    t.strictSame(await before(), was)
    await answers([{ ...own, options: dhcpOptions([[52, '03'], [51, lease]]), file: '350105ff' }])
    t.ok(await within(SLACK_MS, async () => (await setOf(a2)).includes(`${MAC_A2} 10.42.66.4`)), 'options may go on in the fields for names')
    t.notOk((await setOf(a2)).includes(`${MAC_A2} ${given.a2}`), 'one address at a time')
  })

  await t.test('10,000 leases: as many are kept as there are nodes', async (t) => {
    const many = Array.from({ length: 10_000 }, (_, n): DhcpAnswer => ({ mac: n % 100 === 0 ? MAC_A2 : `52:54:01:00:${(n >> 8).toString(16).padStart(2, '0')}:${(n & 255).toString(16).padStart(2, '0')}`, address: `10.43.${n >> 8}.${n & 255}` }))
    await answers(many, 5_000)
    await sleep(1_500)
    for (const [pod, netns] of [[a1, undefined], [a2, undefined], [b1, undefined], [a1, NS], [b1, NS]] as const) t.ok((await setOf(pod, netns)).length <= 3)
    t.match(await keeperPid(a2), /^\d+$/)
    await answers([{ mac: MAC_A1, address: given.b1 }, { mac: MAC_A2, address: '10.42.66.6' }])
    t.ok(await within(SLACK_MS, async () => (await setOf(a1, NS)).join().includes(`${MAC_A2} 10.42.66.6`)), 'it still learns')
    t.notOk((await setOf(a1, NS)).join().includes(`${MAC_A1} ${given.b1}`), 'an address stays that of its holder until its lease ends')
    t.ok((await setOf(a1, NS)).join().includes(`${MAC_B1} ${given.b1}`))
    for (const host of HOSTS) t.ok(await ask(host))
    given = { a1: await addressOf('a1'), a2: await addressOf('a2'), b1: await addressOf('b1') }
  })

  await t.test('a lease ends when it ends, or never', async (t) => {
    await answers([{ mac: MAC_A2, address: given.a2, seconds: 3 }, { mac: MAC_B1, address: given.b1, seconds: 0xffff_ffff }])
    t.ok(await within(3_000 + SLACK_MS, async () => !(await setOf(a2)).includes(`${MAC_A2} ${given.a2}`)))
    t.equal(await pings(a2, nodeOf('a2'), given.a1), false)
    t.ok((await setOf(b1)).includes(`${MAC_B1} ${given.b1}`))
    await a1.apply('segment', NAME, learning(specs.a1))
    t.notOk((await a1.ok('ip neighbour show nud permanent dev br0', { netns: NS })).includes(given.a2), 'and nobody answers for it after the next pass')
    t.ok(await ask('a2'), 'it asks again')
    given.a2 = await addressOf('a2')
    t.ok(await within(SLACK_MS, async () => await pings(a2, nodeOf('a2'), given.a1)))
  })

  await t.test('without agent, helper and keeper: what was learnt stands, and nothing passes that nobody could learn', async (t) => {
    const pid = await keeperPid(a2)
    await a2.ok(`kill -KILL ${pid}`)
    const state = await stateOf(a2)
    t.equal(state.healthy, false)
    t.ok(state.missing.includes('keeper that learns addresses'), state.missing.join('; '))
    t.equal(await pings(a2, nodeOf('a2'), given.a1), true)
    t.ok(await within(SNOOP_AWAKE_MS + SLACK_MS, async () => !await awake(a2)))
    t.equal(await pings(a2, nodeOf('a2'), given.a1), true, 'nodes go on')
    const { exitCode } = await a2.run('busybox', ['udhcpc', '-i', 'eth0', '-n', '-q', '-f', '-t', '2', '-T', '1', '-s', '/bin/true'], { netns: nodeOf('a2') })
    t.not(exitCode, 0, 'no address is given that could not be used')
    await a2.restart()
    await a2.apply('segment', NAME, learning(specs.a2))
    t.ok(await within(SLACK_MS, async () => await awake(a2)))
    t.ok((await setOf(a2)).includes(`${MAC_A2} ${given.a2}`), 'the next one takes up what was learnt')
    t.ok(await ask('a2'))
  })

  await t.test('no keeper can stop another', async (t) => {
    const pids = [await keeperPid(a1), (await a1.ok('pgrep -f ^perl.*forward/keeper.pl')).trim()]
    const ids = await Promise.all(pids.map(async (pid) => (await a1.ok(`ps -o uid= -p ${pid}`)).trim()))
    t.strictSame(ids, [String(keeperId('snoop')), String(keeperId('forward'))])
    for (const [own, other] of [[ids[0], pids[1]], [ids[1], pids[0]]] as const) t.equal((await a1.run('setpriv', [`--reuid=${own ?? ''}`, '--clear-groups', 'kill', '-STOP', other ?? ''])).exitCode, 1, 'not permitted')
  })

  await t.test('a set that was changed by hand is as it was after the next look', async (t) => {
    const was = await setOf(a2)
    await a2.ok('nft flush set bridge mz_mss learned_000101')
    t.ok(await within(SLACK_MS, async () => String(await setOf(a2)) === String(was)))
    await a2.ok('nft -f -', { input: `add element bridge mz_mss learned_000101 { ${MAC_A2} . 10.42.77.7, 52:54:00:00:88:88 . 10.42.77.8 }\n` })
    t.ok(await within(SLACK_MS, async () => String(await setOf(a2)) === String(was)))
    await a2.ok('nft delete table bridge mz_mss')
    await a2.apply('segment', NAME, learning(specs.a2))
    t.ok(await within(SLACK_MS, async () => String(await setOf(a2)) === String(was)), 'also with its table')
  })

  await t.test('who is no member any more loses what it had; nothing is left of the last segment', async (t) => {
    const spec = learning(specs.a1)
    const fewer = { ...spec, known: { antiSpoof: true, members: (spec.known?.members ?? []).filter(({ mac }) => mac !== MAC_B1) } }
    await a1.apply('segment', NAME, fewer)
    t.ok(await within(SLACK_MS, async () => !(await setOf(a1, NS)).join().includes(MAC_B1)))
    await a1.apply('segment', NAME, specs.a1)
    t.notMatch(await a1.ok('nft list ruleset'), /learned_/, 'addresses that are known need no set')
    t.equal(await keeperPid(a1), '')
    for (const host of HOSTS) await lab.hosts[host].remove('segment', NAME)
    for (const host of HOSTS) {
      t.equal(await keeperPid(lab.hosts[host]), '')
      t.equal((await lab.hosts[host].run('ls', [`${POD_STATE}/snooping`])).exitCode, 2)
      t.notMatch(await lab.hosts[host].ok('nft list ruleset'), /learned_|mz_/)
    }
    t.notMatch(await a1.ok('ip link show'), new RegExp(hostBridgeName(VNI)))
  })
}

t.test('addresses that a frontend hands out by itself', { skip: needsDhcp }, all)
