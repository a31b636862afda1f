/** The forwarding lease of a gateway, with real links: what keeps it up, what ends it, and what does not depend on it. */
import { setTimeout as sleep } from 'node:timers/promises'
import t, { type Test } from 'tap'
import { clusterNamespace } from '../../protocol/core/desired.ts'
import { FORWARD_LIFETIME_MS, FORWARD_LOOK_MS, FORWARD_RENEW_MS } from '../../protocol/core/limits.ts'
import { addNode, joinGateways, picture, segmentSpecs, startLab } from '../host/network-lab.ts'
import { POD_STATE, type Pod } from '../host/network-pod.ts'
import type { HostName } from '../host/network-lab.ts'
import { keeperId } from '../../agent/services/keepers.ts'

t.setTimeout(240_000)

const VNI = 0x101
const NS = clusterNamespace(VNI)
const NAME = 'c1'
const FILE = `${POD_STATE}/forwarding`
const NODES = { a1: [0, '10.42.1.1'], a2: [1, '10.42.1.2'], b1: [2, '10.42.2.1'] } as const
/** A busy machine may be late. */
const SLACK_MS = 8_000

const nodeOf = (host: keyof typeof NODES): string => `node-${VNI}-${NODES[host][0]}`
const pings = async (from: Pod, host: keyof typeof NODES, to: keyof typeof NODES, count = 1): Promise<number> => {
  const { stdout } = await from.run('ping', ['-n', '-q', '-i', '0.2', '-c', String(count), '-W', '1', NODES[to][1]], { netns: nodeOf(host) })
  return Number(/(\d+) received/.exec(stdout)?.[1] ?? Number.NaN)
}
async function within (ms: number, what: () => Promise<boolean>): Promise<boolean> {
  const until = performance.now() + ms
  while (performance.now() < until) {
    if (await what()) return true
    await sleep(100)
  }
  return false
}
const isOpen = async (pod: Pod): Promise<boolean> => (await pod.ok('nft list set bridge mz_mss forward', { netns: NS })).includes('"wan0m"')
const keeperPid = async (pod: Pod): Promise<string> => (await pod.run('pgrep', ['-f', '^perl .*forward/keeper.pl'])).stdout.trim()
const kill = async (pod: Pod): Promise<void> => { await pod.ok(`kill -KILL ${await keeperPid(pod)}`) }
const stateOf = async (pod: Pod): Promise<[boolean, unknown]> => {
  const [one] = await pod.observe('segment')
  return [one?.healthy ?? false, one?.detail.missing]
}
const bootMs = async (pod: Pod): Promise<number> => Number((await pod.ok('cat /proc/uptime')).split(' ')[0]) * 1000

async function all (t: Test): Promise<void> {
  const lab = await startLab()
  t.teardown(async () => { await lab.stop() })
  const { a1, a2, b1 } = lab.hosts
  const specs = segmentSpecs(NAME, VNI, { a: 7, b: 8 })
  await joinGateways(lab)
  for (const host of ['a1', 'a2', 'b1'] as const) {
    await lab.hosts[host].apply('segment', NAME, specs[host])
    const [index, address] = NODES[host]
    await addNode(lab.hosts[host], VNI, index, address)
  }

  await t.test('it is there with the segment, and renewed, and nothing of that is a change', async (t) => {
    t.ok(await within(10_000, async () => await pings(a1, 'a1', 'b1') === 1), 'frames cross')
    t.equal(await pings(a2, 'a2', 'a1'), 1, 'and pass inside the site')
    for (const pod of [a1, a2, b1]) t.strictSame(await stateOf(pod), [true, []])
    const before = await picture(a1)
    const elements = async (): Promise<string> => /expires .*/.exec(await a1.ok('nft list set bridge mz_mss forward', { netns: NS }))?.[0] ?? ''
    const first = await elements()
    t.not(first, '')
    t.equal(await pings(a1, 'a1', 'b1', Math.round((FORWARD_LIFETIME_MS + FORWARD_RENEW_MS) / 200)), Math.round((FORWARD_LIFETIME_MS + FORWARD_RENEW_MS) / 200), 'no ping is lost as it is renewed')
    t.not(await elements(), first, 'it is another time')
    await a1.apply('segment', NAME, specs.a1)
    const stable = (text: string): string => text.replaceAll(/ (timeout|expires) \S+/g, '').split('\n').filter((line) => !line.includes('mz_mss')).join('\n')
    t.equal(stable(await picture(a1)), stable(before), 'a second pass changes nothing')
    t.equal(await keeperPid(a2), '', 'a host that is no gateway has no keeper')
  })

  await t.test('the keeper runs without rights that it does not need', async (t) => {
    const status = await a1.ok(`cat /proc/${await keeperPid(a1)}/status`)
    t.match(status, new RegExp(`^Uid:(?:\\s+${keeperId('forward')}){4}$`, 'm'))
    // net_admin 12, dac_read_search 2, sys_admin 21, sys_nice 23
    t.match(status, new RegExp(`^CapBnd:\\s+0*${((1 << 2) | (1 << 12) | (1 << 21) | (1 << 23)).toString(16)}$`, 'm'))
    t.match(status, /^NoNewPrivs:\s+1$/m)
    t.equal((await a1.ok(`stat -c %a:%u ${FILE}`)).trim(), '600:0', 'only root writes what it reads')
  })

  await t.test('it goes on although whoever made it is gone, and the wall clock is somewhere else', async (t) => {
    const pid = await keeperPid(a1)
    await a1.restart()
    t.strictSame(await stateOf(a1), [true, []], 'the next driver takes it over')
    t.equal(await keeperPid(a1), pid)
    t.match(await a1.ok(`cat /proc/${pid}/net/netlink`), /Eth/, 'it returns to the namespace of the host')
    const own = (await a1.ok(`readlink /proc/${pid}/ns/net`)).trim()
    t.equal(own, (await a1.ok('readlink /proc/self/ns/net')).trim(), 'and keeps no cluster\'s alive')
    // the keeper asks no clock but that of the boot: the file holds nothing else
    const [, , line = ''] = (await a1.ok(`cat ${FILE}`)).split('\n')
    t.ok(Number(line.split(' ')[1]) - await bootMs(a1) > 86_400_000)
  })

  await t.test('a keeper that is killed: frames stop within the lifetime, and the next pass mends it', async (t) => {
    await kill(a1)
    t.match(await stateOf(a1), [false, ['keeper of the forwarding lease']], 'it is missed before frames are')
    t.equal(await pings(a1, 'a1', 'b1'), 1, 'they go on for now')
    t.ok(await within(FORWARD_LIFETIME_MS + SLACK_MS, async () => !await isOpen(a1)), 'it runs out')
    t.equal(await pings(a1, 'a1', 'b1'), 0, 'none goes')
    t.equal(await pings(b1, 'b1', 'a2'), 0, 'none comes')
    t.equal(await pings(a2, 'a2', 'a1'), 1, 'what stays in the site takes no notice')
    t.equal((await a1.run('ping', ['-n', '-c', '1', '-W', '1', '10.42.255.2'], { netns: NS })).exitCode, 0, 'nor does the gateway itself, which is asked what is wrong')
    await a1.apply('segment', NAME, specs.a1)
    t.equal(await pings(a1, 'a1', 'b1'), 1)
    t.strictSame(await stateOf(a1), [true, []])
  })

  await t.test('a keeper that was stopped and still is there: the next pass after the lapse brings another', async (t) => {
    const pid = await keeperPid(a1)
    await a1.ok(`kill -STOP ${pid}`)
    t.ok(await within(FORWARD_LIFETIME_MS + SLACK_MS, async () => !await isOpen(a1)), 'it runs out')
    t.match(await stateOf(a1), [false, ['forwarding lease']])
    await a1.apply('segment', NAME, specs.a1)
    t.ok(await isOpen(a1))
    t.not(await keeperPid(a1), pid)
    t.strictSame(await stateOf(a1), [true, []])
  })

  await t.test('a set that was emptied by hand is filled by the keeper, a chain that was taken away by the next pass', async (t) => {
    await a1.ok('nft flush set bridge mz_mss forward', { netns: NS })
    t.ok(await within(FORWARD_RENEW_MS + SLACK_MS, async () => await isOpen(a1)))
    await a1.ok('nft delete chain bridge mz_mss forward_000101', { netns: NS })
    await a1.ok('nft delete set bridge mz_mss forward', { netns: NS })
    t.match(await stateOf(a1), [false, [`chain mz_mss forward_000101 in ${NS}`, 'forwarding lease']])
    await a1.apply('segment', NAME, specs.a1)
    t.strictSame(await stateOf(a1), [true, []])
  })

  await t.test('a term that ends, ends it with nobody there to say so; one of another boot is none', async (t) => {
    const text = await a1.ok(`cat ${FILE}`)
    const write = async (of: string): Promise<void> => { await a1.ok(`tee ${FILE}`, { input: of }) }
    await write(text.replace(/(mz-\S+) \d+/, `$1 ${Math.round(await bootMs(a1)) + 4_000}`))
    const until = performance.now() + 4_000
    t.ok(await within(4_000 + SLACK_MS, async () => !await isOpen(a1)))
    t.ok(performance.now() > until - 1_500, 'not before')
    t.equal(await pings(a1, 'a1', 'b1'), 0)
    await sleep(FORWARD_RENEW_MS + FORWARD_LOOK_MS)
    t.notOk(await isOpen(a1), 'and it stays so')
    await write(text.replace(/boot ./, 'boot x'))
    await sleep(FORWARD_RENEW_MS + FORWARD_LOOK_MS)
    t.notOk(await isOpen(a1), 'a reboot never goes on with what was promised before')
    await write(text.replace('c1', 'c1 and more'))
    await sleep(FORWARD_RENEW_MS + FORWARD_LOOK_MS)
    t.notOk(await isOpen(a1), 'what cannot be understood promises nothing')
    await write(text)
    t.ok(await within(FORWARD_LOOK_MS + SLACK_MS, async () => await isOpen(a1)), 'it is all as it was')
    await a1.ok(`rm ${FILE}`)
    t.ok(await within(FORWARD_LOOK_MS + SLACK_MS, async () => !await isOpen(a1)), 'what is taken back ends at the next look, not after the lifetime')
    await a1.apply('segment', NAME, specs.a1)
    t.ok(await isOpen(a1))
  })

  await t.test('it goes with the segment', async (t) => {
    for (const host of ['a1', 'a2', 'b1'] as const satisfies HostName[]) await lab.hosts[host].remove('segment', NAME)
    t.equal(await keeperPid(a1), '')
    t.equal((await a1.run('ls', [FILE])).exitCode, 2)
    t.strictSame(await a1.observe('segment'), [])
  })
}

t.test('the forwarding lease of a gateway', { skip: process.getuid?.() === 0 ? false : 'needs root' }, all)
