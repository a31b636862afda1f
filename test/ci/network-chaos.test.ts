/**
 * What goes wrong on a gateway's host, with real links, keeper and wireguard-go: processes killed, links deleted,
 * state put there by hand, and whoever makes it killed before any command of its way. One pass, and all is as planned; the pass says
 * what it mended.
 */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { readFile, rm, writeFile } from 'node:fs/promises'
import { fileURLToPath } from 'node:url'
import t, { type Test } from 'tap'
import { FORWARD_SERVICE } from '../../agent/drivers/network/forward/forwarding.ts'
import { run, runJson } from '../../agent/exec.ts'
import { clusterNamespace, hostBridgeName, type SegmentSpec, type TunnelSpec } from '../../protocol/core/desired.ts'
import { killService } from '../contract/services.ts'
import { macOf, segmentSpecs, TUNNEL, UNDERLAY } from '../host/network-lab.ts'
import { enterPod, podDrivers } from '../host/network-pod.ts'

const SELF = fileURLToPath(import.meta.url)
const DIES = fileURLToPath(new URL('../helper-dies.ts', import.meta.url))
// drivers work in the namespaces of their process: this file runs itself once more inside its own
const INSIDE = 'inside'
/** Makes the segment, in a process of its own that may be killed. */
const MAKES = 'makes'
const VNI = 0x101
const NS = clusterNamespace(VNI)
const NAME = 'c1'
const SPEC: SegmentSpec = segmentSpecs(NAME, VNI, { a: 7, b: 8 }).a1
/** Names the command before which that process ends. */
const ORDER = '/run/dies'

t.setTimeout(240_000)

const signal = (): AbortSignal => AbortSignal.timeout(30_000)
const ok = async (command: string, netns?: string): Promise<string> => {
  const [file = '', ...args] = command.split(' ')
  return (await run(file, args, netns === undefined ? {} : { netns })).stdout
}

/** A map lists its elements in an order of its own. */
const sorted = (part: string): string => part.replace(/elements = \{([^}]*)\}/, (_, elements: string) => elements.split(',').map((one) => one.trim()).sort().join(', '))

/** All that a driver could have made, as text: without numbers that are given out anew each time, and times that run. */
async function stateText (): Promise<string> {
  const lines: string[] = []
  for (const ns of [null, NS]) {
    const where = ns === null ? [] : ['-n', ns]
    const links = await runJson('ip', [...where, '-json', '-details', 'address', 'show']) as Array<Record<string, unknown> & { linkinfo?: Record<string, unknown>, addr_info: Array<Record<string, unknown>> }>
    for (const { ifname, flags, mtu, master = '', link = '', ifalias = '', address, linkinfo = {}, addr_info: addresses } of links.toSorted((a, b) => String(a.ifname) < String(b.ifname) ? -1 : 1)) {
      const data = (linkinfo.info_data ?? {}) as Record<string, unknown>
      const { hairpin, neigh_suppress: suppress } = (linkinfo.info_slave_data ?? {}) as Record<string, unknown>
      lines.push(JSON.stringify([ns, ifname, (flags as string[]).includes('UP'), mtu, master, link, ifalias, linkinfo.info_kind === 'bridge' ? address : '', linkinfo.info_kind, data.id, data.local, data.port, data.mode, data.stp_state, data.mcast_snooping, hairpin, suppress, addresses.map(({ local, prefixlen }) => `${String(local)}/${String(prefixlen)}`)]))
    }
    const entries = await runJson('bridge', [...where, '-json', 'fdb', 'show', 'state', 'permanent', 'state', 'static']) as Array<Record<string, unknown>>
    // those of own MACs are of the links, which have another each time
    lines.push(...entries.filter(({ state, master, dst }) => state === 'static' || (master === undefined && dst !== undefined)).map((entry) => JSON.stringify([ns, entry.mac, entry.ifname, entry.dst, entry.state, entry.flags])).sort())
    const neighbours = await runJson('ip', [...where, '-json', 'neighbour', 'show', 'nud', 'permanent']) as Array<Record<string, unknown>>
    lines.push(...neighbours.map(({ dst, dev, lladdr }) => JSON.stringify([ns, dst, dev, lladdr])).sort())
    const tables = (await ok('nft list ruleset', ns ?? undefined)).replaceAll(/ (timeout|expires) \w+/g, '').split(/^(?=\t(?:chain|set|map) )/m)
    lines.push(...tables.map((part) => part.replaceAll(/^(table .*|\})$/gm, '').trim()).filter((part) => part !== '' && !part.includes('mz_tunnel')).map(sorted).sort())
  }
  lines.push(await ok('ip netns list').then((text) => text.replaceAll(/ \(id: \d+\)/g, '')), String((await podDrivers().services.status(FORWARD_SERVICE)).running))
  return lines.join('\n')
}

const seen = async (): Promise<{ healthy: boolean, missing: string }> => {
  const [one] = await podDrivers().segment.observe(signal())
  return { healthy: one?.healthy ?? false, missing: String(one?.detail.missing) }
}

/** Names of ours that are still there. */
async function leftovers (): Promise<string[]> {
  const links = await runJson('ip', ['-json', 'link', 'show']) as Array<{ ifname: string }>
  const found = [(await ok('ip netns list')), (await ok('nft list tables')), ...links.map(({ ifname }) => ifname)].flatMap((text) => text.split('\n'))
  return [...found.filter((name) => /(^| )mz/.test(name)), ...(await podDrivers().services.list()).map(({ name }) => name)]
}

/** Applies the segment in another process. @returns the signal that ended it, and the commands that it started */
async function makeAndDie (at: number, when: 'before' | 'during'): Promise<{ signal: string | null, commands: string[] }> {
  await rm(`${ORDER}.log`, { force: true })
  await writeFile(ORDER, `${at} ${when}\n`)
  const child = spawn(process.execPath, ['--import', DIES, SELF, MAKES], { env: { ...process.env, MUSUBI_TEST_DIES: ORDER, NODE_COMPILE_CACHE: '/run/compiled', TAP: '', NODE_OPTIONS: '' }, stdio: ['ignore', 'ignore', 'inherit'] })
  const [, ended] = await once(child, 'exit') as [number | null, string | null]
  await rm(ORDER)
  return { signal: ended, commands: (await readFile(`${ORDER}.log`, 'utf8')).trim().split('\n') }
}

async function segments (t: Test): Promise<void> {
  await ok('ip link add name eth0 type bridge')
  await ok(`ip address add ${UNDERLAY.a1}/24 dev eth0`)
  await ok('ip link set dev eth0 up')
  await podDrivers().segment.apply(NAME, SPEC, signal())
  const planned = await stateText()
  t.match(planned, /"wan0m"/)

  await t.test('state that somebody put there, and what was taken away', async (t) => {
    const bridge = hostBridgeName(VNI)
    const wrongs: Array<[what: string, commands: string[], said: RegExp]> = [
      ['a foreign forwarding entry', [`bridge -n ${NS} fdb add 02:00:00:00:00:99 dev wan0 dst 100.64.0.9`], /forwarding entries of wan0 in mz-000101: 02:00:00:00:00:99/],
      ['a flood to a stranger', [`bridge -n ${NS} fdb append 00:00:00:00:00:00 dev wan0 dst 100.64.0.9`], /forwarding entries of wan0 in mz-000101: 00:00:00:00:00:00/],
      ['a member behind another port', [`bridge -n ${NS} fdb replace ${macOf(2)} dev site0m master static`], new RegExp(`forwarding entries of .*${macOf(2)}`)],
      ['a neighbour with another MAC', [`ip neighbour replace 10.42.2.1 lladdr 02:00:00:00:00:99 nud permanent dev ${bridge}`], new RegExp(`neighbours of ${bridge}: 10.42.2.1`)],
      ['a wrong MTU', [`ip -n ${NS} link set dev wan0m mtu 1400`], /link wan0m in mz-000101: mtu 1500/],
      ['MTUs below that of IPv6', ['ip link set dev mzh000101 mtu 1000', `ip -n ${NS} link set dev br0 mtu 1000`], /link mzh000101: mtu 1500.*IPv6 off/],
      ['a port of no bridge', [`ip -n ${NS} link set dev wan0m nomaster`], /link wan0m in mz-000101: .*master br0/],
      ['a port of another bridge', ['ip link add name other type bridge', 'ip link set dev mzh000101 master other', 'ip link delete dev other'], /link mzh000101: .*master mzb000101/],
      ['a link that is down', [`ip -n ${NS} link set dev site0 down`], /link site0 in mz-000101: up/],
      ['links that flap', [`ip -n ${NS} link set dev br0 down`, `ip -n ${NS} link set dev br0 up`, `ip link set dev ${bridge} down`, `ip link set dev ${bridge} up`], /neighbours of/],
      ['a link that is gone', [`ip -n ${NS} link delete dev site0`], /link site0: made.*link site0m in mz-000101: made/],
      ['the veth gone', ['ip link delete dev mzh000101'], /link mzh000101/],
      ['the bridge gone', [`ip link delete dev ${bridge}`], new RegExp(`link ${bridge}: made`)],
      ['an address of somebody else', [`ip -n ${NS} address add 10.99.0.1/24 dev br0`], /link br0 in mz-000101: address 10.99.0.1\/24/],
      ['a chain gone', [`ip netns exec ${NS} nft delete chain bridge mz_mss ports_000101`], /chain mz_mss ports_000101 in mz-000101/],
      ['the guard as an earlier release made it, with a hook of its own', ['nft delete table inet mz_guard; add table inet mz_guard; add chain inet mz_guard guard_000101 { type filter hook input priority -10; policy accept; }; add rule inet mz_guard guard_000101 udp dport 4790 @th,96,24 7 drop comment "0123456789abcdef.0"'], /chain mz_guard vxlan,chain mz_guard guard_000101/],
      ['nothing leads to a guard', ['nft flush map inet mz_guard ways'], /chain mz_guard guard_000101/],
      ['the way to all guards gone', ['nft delete chain inet mz_guard vxlan'], /chain mz_guard vxlan/],
      ['a chain emptied', ['nft flush chain inet mz_guard guard_000101'], /chain mz_guard guard_000101/],
      ['all tables gone', [`ip netns exec ${NS} nft flush ruleset`], /chain mz_mss forward_000101 in mz-000101.*forwarding lease/],
      ['the namespace gone', [`ip netns delete ${NS}`], /namespace mz-000101: made/]
    ]
    for (const [what, commands, said] of wrongs) {
      for (const command of commands) await ok(command)
      const { healthy, missing } = await seen()
      t.notOk(healthy, what)
      t.match(missing, said, `${what}: it is said`)
      await podDrivers().segment.apply(NAME, SPEC, signal())
      t.equal(await stateText(), planned, `${what}: mended by one pass`)
    }
    const { services } = podDrivers()
    await killService(services, FORWARD_SERVICE)
    t.match(await seen(), { healthy: false, missing: 'keeper of the forwarding lease' })
    await podDrivers().segment.apply(NAME, SPEC, signal())
    t.equal(await stateText(), planned, 'the keeper killed')
  })

  await t.test('what cannot be is refused with its reason, and leaves nothing', async (t) => {
    const driver = podDrivers().segment
    const other = segmentSpecs('c2', VNI + 1, { a: 9, b: 10 }).a1
    const gateway = SPEC.gateway
    if (gateway === undefined) throw new Error('no gateway')
    const refused: Array<[what: string, spec: SegmentSpec, why: RegExp]> = [
      ['a VNI of another', { ...other, vni: VNI }, /VNI 257 is c1's on this host|tap of VNI|is no tap/],
      ['a segment id of another', { ...other, site: { ...other.site, segmentId: 7 } }, /segment id 7 is c1's on this host/],
      ['a network that overlaps the underlay', { ...other, gateway: { ...gateway, address: '10.77.200.1/16' } }, /its network \(10\.77\.200\.1\/16\) overlaps 10\.77\.0\.1\/24 of eth0, the underlay/]
    ]
    const before = await stateText()
    for (const [what, spec, why] of refused) await t.rejects(driver.apply('c2', spec, signal()), { message: why }, what)
    await ok('ip link set dev eth0 mtu 1200')
    await t.rejects(driver.apply('c2', other, signal()), { code: 'CONFLICT', message: /eth0, which has 10\.77\.0\.1, has MTU 1200, and 1280 are needed/ })
    // of the one that is there the rest is mended first
    await ok('nft flush map inet mz_guard ways')
    await ok(`ip -n ${NS} link set dev wan0m nomaster`)
    t.match((await seen()).missing, /chain mz_guard guard_000101.*link wan0m in mz-000101: master br0/)
    await t.rejects(driver.apply(NAME, SPEC, signal()), { code: 'CONFLICT', message: /has MTU 1200/ })
    t.strictSame(await seen(), { healthy: false, missing: '' }, 'nothing else is left')
    t.match(await driver.observe(signal()), [{ name: NAME, healthy: false, detail: { problem: /has MTU 1200/ } }])
    await ok('ip link set dev eth0 mtu 1500')
    await driver.apply(NAME, SPEC, signal())
    t.equal(await stateText(), before)
    t.strictSame((await driver.observe(signal())).map(({ name }) => name), [NAME])
  })
  await podDrivers().segment.remove(NAME, signal())
  t.strictSame(await leftovers(), [])

  await t.test('whoever makes it is killed before any of its commands', async (t) => {
    let ended = false
    let points = 0
    for (let at = 1; !ended; at++) {
      const { signal: by, commands } = await makeAndDie(at, at % 2 === 0 ? 'during' : 'before')
      ended = by === null
      if (ended) break
      points++
      const last = commands.at(-1) ?? ''
      const { missing } = await seen()
      await podDrivers().segment.apply(NAME, SPEC, signal())
      t.equal(await stateText(), planned, `killed at command ${at}, ${last.slice(0, 60)}`)
      t.strictSame(await seen(), { healthy: true, missing: '' }, `and nothing is left to do; it had said: ${missing.slice(0, 200)}`)
      await podDrivers().segment.remove(NAME, signal())
      const left = await leftovers()
      if (left.length > 0) t.strictSame(left, [], 'nothing is left over')
    }
    t.ok(points >= 12, `${points} commands`)
    t.equal(await stateText(), planned, 'and when nobody is killed it is the same')
    await podDrivers().segment.remove(NAME, signal())
  })
}

async function tunnel (t: Test): Promise<void> {
  const key = (await run('wg', ['pubkey'], { input: (await run('wg', ['genkey'])).stdout })).stdout.trim()
  const spec: TunnelSpec = { listenPort: 51_820, address: `${TUNNEL.a1}/32`, peers: [{ site: 'b', publicKey: key, endpoint: `${UNDERLAY.b1}:51820`, address: TUNNEL.b1 }] }
  const make = async (): Promise<void> => { await podDrivers().tunnel.apply('wg', spec, signal()) }
  const dump = async (): Promise<string> => (await ok('wg show mzwg0 dump')).split('\n').map((line) => line.split('\t').filter((_, n) => n < 4).join(' ')).join('\n') + await ok('ip -o address show dev mzwg0').then((text) => text.replace(/^\d+: /, '')) + await ok('ip route show dev mzwg0')
  await make()
  const planned = await dump()
  const wrongs: Array<[what: string, work: () => Promise<unknown>]> = [
    ['wireguard-go killed', async () => { await killService(podDrivers().services, 'mz-wireguard') }],
    ['the interface gone', async () => await ok('ip link delete dev mzwg0')],
    ['it is down, and its routes with it', async () => await ok('ip link set dev mzwg0 down')],
    ['another endpoint', async () => await ok(`wg set mzwg0 peer ${key} endpoint 192.0.2.99:1`)],
    ['a stranger as a peer', async () => await ok(`wg set mzwg0 peer ${Buffer.alloc(32, 9).toString('base64')} allowed-ips 0.0.0.0/0`)],
    ['an MTU that is too small', async () => await ok('ip link set dev mzwg0 mtu 1000')],
    ['its filter gone', async () => await ok('nft delete table inet mz_tunnel')]
  ]
  for (const [what, work] of wrongs) {
    await work()
    const [one] = await podDrivers().tunnel.observe(signal())
    t.equal(one?.healthy, false, `${what}: ${JSON.stringify(one?.detail.missing ?? one?.detail.faults ?? one?.detail.todo ?? one?.detail)}`)
    await make()
    t.equal(await dump(), planned, `${what}: mended by one pass`)
    t.match(await podDrivers().tunnel.observe(signal()), [{ healthy: true }])
  }
  await podDrivers().tunnel.remove('wg', signal())
}

if (process.argv[2] === MAKES) {
  await podDrivers().segment.apply(NAME, SPEC, signal())
  process.exit(0)
} else if (process.argv[2] === INSIDE) {
  await enterPod()
  await t.test('a gateway\'s segment', segments)
  await t.test('a gateway\'s tunnel', tunnel)
} else if (process.getuid?.() !== 0) {
  t.pass('the drivers work as root', { skip: 'needs root' })
} else {
  const unshare = ['--net', '--mount', '--uts', '--pid', '--fork', '--kill-child', '--mount-proc']
  t.spawn('unshare', [...unshare, process.execPath, ...process.execArgv, SELF, INSIDE], {}, 'inside namespaces of its own')
}
