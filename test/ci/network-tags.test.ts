/**
 * VLANs inside a site with real tags, also on a kernel without 8021q: two sites whose hosts hang on a trunk, under different ids.
 *
 * A stand-in for the sub-interface alone, a veth and two programs of traffic control at the NIC, does what the kernel's would: it
 * takes tags off and puts them on. All else is what the driver plans and does for a site with VLANs: namespaces, bridges,
 * entries, neighbours and filters. Not run here: making a sub-interface and looking at one again (`npm run test:vm` does).
 */
import { fileURLToPath } from 'node:url'
import t, { type Test } from 'tap'
import { run } from '../../agent/exec.ts'
import { ALL, arp, ethernet, MARK, send } from '../host/frames.ts'
import { addNode, macOf, PLACES, segmentSpecs, startLab, TUNNEL, type HostName } from '../host/network-lab.ts'
import type { Pod } from '../host/network-pod.ts'
import { clusterNamespace, type SegmentSpec } from '../../protocol/core/desired.ts'

t.setTimeout(240_000)

const STAND_IN = fileURLToPath(new URL( '../host/vlan-stand-in.pl', import.meta.url))
const VNI = 0x101
const NS = clusterNamespace(VNI)
const HOSTS = ['a1', 'a2', 'b1', 'b2'] as const satisfies HostName[]
type Host = typeof HOSTS[number]
const IDS = { a: 100, b: 200 } as const
type Site = keyof typeof IDS
const siteOf = (host: Host): Site => host.startsWith('a') ? 'a' : 'b'
const nodeOf = (host: Host): string => `node-${VNI}-${PLACES[host].index}`
const indexOf = async (pod: Pod, link: string): Promise<number> => (JSON.parse(await pod.ok(`ip -json link show dev ${link}`)) as Array<{ ifindex: number }>)[0]?.ifindex ?? 0
/** A frame with tags before its type, outermost first. */
const tagged = (ids: readonly number[], mac: string): string => ethernet(ALL, mac, ids.map((id) => `8100${id.toString(16).padStart(4, '0')}`).join('') + '0806', arp(1, mac, '10.42.9.9', '10.42.9.8'))

/** Sub-interface `name` on the trunk of a host, in `netns` or the host's own namespace. */
async function standIn (pod: Pod, id: number, name: string, netns?: string): Promise<void> {
  await pod.ok(`ip link add name sub${id} type veth peer name ${name}${netns === undefined ? '' : ` netns ${netns}`}`)
  await pod.ok(`ip link set dev sub${id} up`)
  await pod.ok('mkdir -p /run/bpf')
  await pod.ok('mount -t bpf bpf /run/bpf')
  await pod.ok(`perl ${STAND_IN} eth1 ${await indexOf(pod, 'eth1')} sub${id} ${await indexOf(pod, `sub${id}`)} ${id} /run/bpf/vlan`)
  for (const [link, way] of [['eth1', 'in'], [`sub${id}`, 'out']] as const) {
    await pod.ok(`tc qdisc add dev ${link} clsact`)
    await pod.ok(`tc filter add dev ${link} ingress protocol all prio 1 bpf da object-pinned /run/bpf/vlan-${way}`)
  }
}

async function all (t: Test): Promise<void> {
  const lab = await startLab(HOSTS)
  t.teardown(async () => { await lab.stop() })
  const { underlay } = lab
  // a switch for each site carries whatever tag, as a trunk does; what it carries is counted
  for (const site of ['a', 'b'] as const) {
    await underlay.ok(`ip link add name trunk-${site} type bridge stp_state 0 forward_delay 0 mcast_snooping 0`)
    await underlay.ok(`ip link set dev trunk-${site} up`)
  }
  const ports = (site: Site): string => `iifname "${site}*"`
  const counters = (['a', 'b'] as const).flatMap((site) => [
    `${ports(site)} ether type 8021q vlan id ${IDS[site]} counter comment "${site} own"`, `${ports(site)} ether type 8021q vlan id != ${IDS[site]} counter comment "${site} other"`,
    `${ports(site)} ether type != 8021q counter comment "${site} plain"`
  ])
  for (const host of HOSTS) {
    const pod = lab.hosts[host]
    await run('nsenter', ['--net', '--target', String(underlay.pid), 'ip', 'link', 'add', 'name', `${host}-trunk`, 'type', 'veth', 'peer', 'name', 'eth1', 'netns', String(pod.pid)])
    await underlay.ok(`ip link set dev ${host}-trunk master trunk-${siteOf(host)} addrgenmode none up`)
    await pod.ok('ip link set dev eth1 addrgenmode none up')
  }
  await underlay.ok('nft -f -', { input: `table bridge count {\n chain in {\n type filter hook prerouting priority -300\n ${counters.join('\n ')}\n }\n}\n` })
  const count = async (what: string): Promise<number> => Number(new RegExp(`counter packets (\\d+) bytes \\d+ comment "${what}"`).exec(await underlay.ok('nft list ruleset'))?.[1] ?? Number.NaN)

  const specs = segmentSpecs('c1', VNI, IDS, HOSTS)
  for (const host of HOSTS) {
    const pod = lab.hosts[host]
    const isGateway = host.endsWith('1')
    if (host === 'a1' || host === 'b1') {
      // no tunnel: two gateways of one underlay reach each other's tunnel addresses by a route through a link of that name
      const far = host === 'a1' ? TUNNEL.b1 : TUNNEL.a1
      for (const line of ['ip link add link eth0 name mzwg0 type macvlan mode bridge', `ip address add ${TUNNEL[host]}/32 dev mzwg0`, 'ip link set dev mzwg0 up', `ip route add ${far}/32 dev mzwg0`]) await pod.ok(line)
      // the namespace is there before what leads into it
      await pod.ok(`ip netns add ${NS}`)
      await standIn(pod, IDS[siteOf(host)], 'site0m', NS)
    } else await standIn(pod, IDS[siteOf(host)], 'mzv000101')
    const spec: SegmentSpec = { ...specs[host], site: { ...specs[host].site, trunk: 'eth1' } }
    t.equal(await pod.carryTagged('c1', spec), true)
    t.equal(await pod.carryTagged('c1', spec), false, `${host}: a second pass does nothing`)
    await addNode(pod, VNI, PLACES[host].index, PLACES[host].address)
    t.match(await pod.ok(`ip -json link show dev ${isGateway ? 'site0m' : 'mzv000101'}`, isGateway ? { netns: NS } : {}), /"master":"(br0|mzb000101)"/, `${host}: the plan's bridge has it`)
  }
  const pings = async (from: Host, to: Host, ...args: string[]): Promise<boolean> => {
    // a handshake that began before the other gateway was there begins again after 5 s
    for (let i = 0; i < 12; i++) if ((await lab.hosts[from].run('ping', ['-n', '-q', '-c', '1', '-W', '1', ...args, PLACES[to].address], { netns: nodeOf(from) })).exitCode === 0) return true
    return false
  }

  await t.test('inside a site frames carry its own id; between sites none', async (t) => {
    const wan = 'table bridge probe {\n chain out {\n type filter hook postrouting priority 10\n oifname "wan0m" ether type 8021q counter comment "tag"\n oifname "wan0m" ether type != 8021q counter comment "none"\n }\n}\n'
    for (const host of ['a1', 'b1'] as const) await lab.hosts[host].ok('nft -f -', { netns: NS, input: wan })
    for (const [from, to] of [['a2', 'a1'], ['b2', 'b1'], ['a2', 'b2'], ['b2', 'a2'], ['a1', 'b2'], ['b1', 'a2']] as const) t.ok(await pings(from, to), `${from} to ${to}`)
    t.ok(await pings('a2', 'b2', '-M', 'do', '-s', '1472'), 'full frames')
    for (const site of ['a', 'b'] as const) {
      t.ok(await count(`${site} own`) > 0, `${IDS[site]} on the trunk of ${site}`)
      t.strictSame([await count(`${site} other`), await count(`${site} plain`)], [0, 0], 'and nothing else')
    }
    for (const host of ['a1', 'b1'] as const) {
      const text = await lab.hosts[host].ok('nft list table bridge probe', { netns: NS })
      t.match(text, /counter packets 0 bytes 0 comment "tag"/, 'the tag ends at the gateway')
      t.match(text, /counter packets [1-9]\d* bytes \d+ comment "none"/)
      await lab.hosts[host].ok('nft delete table bridge probe', { netns: NS })
    }
  })

  /** Marked frames that any node has got, and that were on a trunk, while something is sent. */
  const got = async (work: () => Promise<void>): Promise<string[]> => {
    const captures = [...HOSTS.map((host) => [host, lab.hosts[host], nodeOf(host), 'eth0'] as const), ...(['a', 'b'] as const).map((site) => [`trunk of ${site}`, underlay, undefined, `trunk-${site}`] as const)]
    const running = captures.map(async ([name, pod, netns, link]) => {
      const { stdout } = await pod.run('timeout', ['4', 'tcpdump', '-A', '-n', '-p', '-i', link, '-Q', 'in', '--immediate-mode'], { timeoutMs: 20_000, ...(netns === undefined ? {} : { netns }) })
      return stdout.includes(MARK) ? [name] : []
    })
    await new Promise((resolve) => setTimeout(resolve, 1_500))
    await work()
    return (await Promise.all(running)).flat()
  }

  await t.test('a node\'s own tags lead nowhere', async (t) => {
    const mac = macOf(PLACES.a2.index)
    const hops = [[100], [200], [300], [100, 200], [200, 100], [0, 200], [4095]].map((ids) => tagged(ids, mac))
    const others = ['88a8', '9100'].map((type) => tagged([200], mac).replace('8100', type))
    t.strictSame(await got(async () => { t.equal(await send(lab.hosts.a2, nodeOf('a2'), [...hops, ...others]), 9) }), [], 'from a host')
    t.strictSame(await got(async () => { t.equal(await send(lab.hosts.b1, nodeOf('b1'), [[200], [100], [200, 100]].map((ids) => tagged(ids, macOf(PLACES.b1.index)))), 3) }), [], 'from a gateway')
  })

  await t.test('what others send on the trunk under other ids, without one or with two gets nowhere; under the own id it is a frame of the segment', async (t) => {
    const stranger = '52:54:00:00:77:77'
    await underlay.ok('ip netns add stranger')
    await underlay.ok('ip link add name x-trunk type veth peer name eth0 netns stranger')
    await underlay.ok('ip link set dev x-trunk master trunk-a up')
    await underlay.ok(`ip -n stranger link set dev eth0 address ${stranger} addrgenmode none up`)
    const from = async (...frames: number[][]): Promise<string[]> => (await got(async () => { await send(underlay, 'stranger', frames.map((ids) => tagged(ids, stranger))) })).filter((name) => !name.startsWith('trunk'))
    t.strictSame(await from([300], [], [100, 200], [100, 100], [200]), [])
    t.strictSame((await from([100])).filter((name) => name.startsWith('a')), ['a1', 'a2'], 'this is how it would be seen')
  })
}

t.test('VLANs of two sites with different ids', { skip: process.getuid?.() === 0 ? false : 'needs root' }, all)
