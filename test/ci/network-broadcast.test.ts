import t from 'tap'
import { FLOOD_BURST, FLOOD_PER_SECOND } from '../../protocol/core/limits.ts'
import { clusterNamespace, hostBridgeName, tapName } from '../../protocol/core/desired.ts'
import { hostBridgeMac } from '../../agent/drivers/network/names.ts'
import { ipv6Of } from '../../agent/drivers/network/broadcast/entries.ts'
import { ALL, arp, bare, ethernet, hex4, icmpv6, LINK_LOCAL, MARK, marked, NODES_ALL, send, shout, udp, watch } from '../host/frames.ts'
import { addNode, counted, FRONTEND, macOf, MORE_HOSTS, PLACES, segmentSpecs, startLab, TUNNEL, tunnelSpecs, UNDERLAY } from '../host/network-lab.ts'
import type { HostName } from '../host/network-lab.ts'
import type { Pod } from '../host/network-pod.ts'

t.setTimeout(300_000)

const C1 = 0x101
const C2 = 0x102
const CLUSTERS = [['c1', C1], ['c2', C2]] as const
const GATEWAYS = ['a1', 'b1', 'c1'] as const
const nodeOf = (vni: number, host: HostName): string => `node-${vni}-${PLACES[host].index}`

/** nft text of a table that counts what leaves by the tunnel; `@th` begins at the outer UDP header, see `udp` for what is inside. */
const wanCounters = `table inet wan {
  chain c {
    type filter hook output priority 0;
    oifname "mzwg0" udp dport 4789 @th,224,16 0x0806 counter comment "arp"
    oifname "mzwg0" udp dport 4789 @th,224,16 0x86dd @th,288,8 58 @th,560,8 135 counter comment "ask6"
    oifname "mzwg0" udp dport 4789 @th,224,16 0x86dd @th,288,8 58 @th,560,8 136 counter comment "tell6"
${GATEWAYS.map((name) => `    oifname "mzwg0" ip daddr ${TUNNEL[name]} udp dport 4789 @th,416,16 7005 counter comment "copy-${name}"`).join('\n')}
  }
}
`

t.test('broadcasts of two clusters with equal subnets, ids and MACs over three sites', { skip: process.getuid?.() === 0 ? false : 'needs root' }, async (t) => {
  const lab = await startLab(MORE_HOSTS)
  t.teardown(async () => { await lab.stop() })
  const { a1, a2, b1, c1 } = lab.hosts
  // an id may be that of the other cluster's VNI, or of another site's segment
  const specs = { c1: segmentSpecs('c1', C1, { a: C2, b: C2, c: 7 }, MORE_HOSTS), c2: segmentSpecs('c2', C2, { a: C1, b: 7, c: C2 }, MORE_HOSTS) }
  const tunnels = await tunnelSpecs(lab, MORE_HOSTS)
  for (const name of GATEWAYS) await lab.hosts[name].apply('tunnel', 'wg', tunnels[name])
  for (const [cluster, vni] of CLUSTERS) {
    for (const name of MORE_HOSTS) {
      await lab.hosts[name].apply('segment', cluster, specs[cluster][name])
      await addNode(lab.hosts[name], vni, PLACES[name].index, PLACES[name].address)
    }
    await a1.ok(`ip netns add fe-${vni}`)
    await a1.ok(`ip link add name fe0 netns ${clusterNamespace(vni)} type veth peer name eth0 netns fe-${vni}`)
    await a1.ok(`ip -n fe-${vni} link set dev eth0 address ${FRONTEND.mac} up`)
    await a1.ok(`ip -n fe-${vni} address add ${FRONTEND.address}/16 dev eth0`)
    await a1.ok(`ip -n ${clusterNamespace(vni)} link set dev fe0 master br0 up`)
  }
  for (const name of GATEWAYS) await lab.hosts[name].ok('nft -f -', { input: wanCounters })
  const crossed = async (what: string): Promise<number> => {
    const each = await Promise.all(GATEWAYS.map(async (name) => await counted(lab.hosts[name], what)))
    return each.reduce((a, b) => a + b, 0)
  }
  const ping = async (pod: Pod, netns: string, ...args: string[]): Promise<boolean> => {
    for (let i = 0; i < 5; i++) if ((await pod.run('ping', ['-n', '-c', '1', '-W', '1', ...args], { netns })).exitCode === 0) return true
    return false
  }

  await t.test('known nodes are found without a frame that crosses sites', async (t) => {
    for (const [, vni] of CLUSTERS) {
      for (const from of MORE_HOSTS) {
        for (const to of MORE_HOSTS.filter((host) => host !== from)) t.ok(await ping(lab.hosts[from], nodeOf(vni, from), PLACES[to].address), `${vni}: ${from} to ${to}`)
        for (const address of [FRONTEND.address, '10.42.255.1', '10.42.255.2', '10.42.255.3']) t.ok(await ping(lab.hosts[from], nodeOf(vni, from), address), `${vni}: ${from} to ${address}`)
      }
    }
    for (const [from, to] of [['a2', 'b1'], ['b1', 'c1'], ['c1', 'a1'], ['a2', 'a1']] as const) {
      const [linkLocal = ''] = ipv6Of(C1, macOf(PLACES[to].index))
      t.ok(await ping(lab.hosts[from], nodeOf(C1, from), '-6', `${linkLocal}%eth0`), `${from} to ${to} by IPv6`)
    }
    t.strictSame([await crossed('arp'), await crossed('ask6'), await crossed('tell6')], [0, 0, 0])
  })

  await t.test('10,000 questions for known addresses are answered at home', async (t) => {
    const each = 2_500
    const replies = 'table arp t {\n  chain c {\n    type filter hook input priority 0;\n    arp operation reply counter comment "replies"\n  }\n}\n'
    const counts = await Promise.all(MORE_HOSTS.map(async (from) => {
      const [pod, ns, own] = [lab.hosts[from], nodeOf(C1, from), PLACES[from]]
      await pod.ok('nft -f -', { netns: ns, input: replies })
      const others = [...MORE_HOSTS.filter((host) => host !== from).map((host) => PLACES[host].address), FRONTEND.address, '10.42.255.1', '10.42.255.3']
      const frames = others.map((target) => ethernet(ALL, macOf(own.index), '0806', arp(1, macOf(own.index), own.address, target)))
      const sent = await send(pod, ns, frames, each, FLOOD_PER_SECOND * 0.8)
      return [sent, await counted(pod, 'replies', ns)] as const
    }))
    for (const [sent, answered] of counts) {
      t.equal(sent, each)
      t.equal(answered, each)
    }
    t.equal(await crossed('arp'), 0)
    await send(a2, nodeOf(C1, 'a2'), [ethernet(ALL, macOf(1), '0806', arp(1, macOf(1), PLACES.a2.address, '10.42.77.77'))])
    t.equal(await crossed('arp'), 2, 'a stranger is asked for, once at every other site')
  })

  await t.test('of 10,000 broadcasts none gets into the other cluster, and each crosses once to every site', async (t) => {
    const each = 10_000 / (MORE_HOSTS.length * CLUSTERS.length)
    const count = (host: HostName): string => `table inet t {\n  chain c {\n    type filter hook prerouting priority -400;\n${[7005, 7006].map((port) => `    ip saddr != ${PLACES[host].address} udp dport ${port} counter comment "p${port}"`).join('\n')}\n  }\n}\n`
    for (const [, vni] of CLUSTERS) for (const host of MORE_HOSTS) await lab.hosts[host].ok('nft -f -', { netns: nodeOf(vni, host), input: count(host) })
    await Promise.all(CLUSTERS.flatMap(([, vni]) => MORE_HOSTS.map(async (host) => {
      await lab.hosts[host].run(process.execPath, ['-e', shout(vni === C1 ? 7005 : 7006, each)], { netns: nodeOf(vni, host) })
    })))
    for (const [, vni] of CLUSTERS) {
      const [own, other] = vni === C1 ? ['p7005', 'p7006'] : ['p7006', 'p7005']
      for (const host of MORE_HOSTS) {
        const [mine, leaked] = [await counted(lab.hosts[host], own, nodeOf(vni, host)), await counted(lab.hosts[host], other, nodeOf(vni, host))]
        t.equal(leaked, 0, `${host} of ${vni}: none of the other cluster`)
        // a crowded machine may lose some in a tunnel; none comes twice
        t.ok(mine <= 3 * each && mine > 2.5 * each, `${host} of ${vni}: ${mine} of ${3 * each} of the own`)
      }
    }
    for (const from of GATEWAYS) {
      const nodes = from === 'a1' ? 2 : 1
      for (const to of GATEWAYS.filter((name) => name !== from)) t.equal(await counted(lab.hosts[from], `copy-${to}`), nodes * each, `${from} to ${to}: one copy of each`)
    }
  })

  const attacker = nodeOf(C1, 'a2')
  const [mac, ip] = [macOf(1), PLACES.a2.address]
  /** What arrives at a node of the same host's site, at one of another site, and at the frontend. */
  const arrives = async (pod: Pod, netns: string, frames: readonly string[]): Promise<number[]> => {
    const seen = [watch(a1, nodeOf(C1, 'a1'), 1.5), watch(b1, nodeOf(C1, 'b1'), 1.5), watch(a1, `fe-${C1}`, 1.5)]
    await pod.ok('sleep 0.5')
    t.equal(await send(pod, netns, frames), frames.length, 'they were sent')
    return await Promise.all(seen)
  }
  const plain = ethernet(ALL, mac, '0800', udp(ip, '10.42.255.255', 7000, 7000))

  await t.test('attacks of a node get nowhere', async (t) => {
    t.strictSame(await arrives(a2, attacker, [plain, ethernet(bare(macOf(0)), mac, '0800', udp(ip, PLACES.a1.address, 7000, 7000, marked, '06'))]), [2, 1, 1], 'honest frames do')
    const router = ethernet('333300000001', mac, '86dd', icmpv6(134, NODES_ALL))
    const attacks: Record<string, string[]> = {
      'a DHCP server of its own': [ethernet(ALL, mac, '0800', udp(ip, '255.255.255.255', 67, 68)), ethernet(bare(macOf(2)), mac, '0800', udp(ip, PLACES.b1.address, 67, 68))],
      'a router advertisement, a redirect': [router, ethernet('333300000001', mac, '86dd', icmpv6(137, NODES_ALL))],
      'frames with one tag, two, and a priority': ['81000005', '88a8000581000006', '81000000', '91000005'].map((tag) => ethernet(ALL, mac, `${tag}0800`, udp(ip, '10.42.255.255', 7000, 7000))),
      'spanning tree': [ethernet('0180c2000000', mac, '0027', `424203${marked}`), ethernet('0180c200000e', mac, '88cc', marked)],
      'the MAC of the frontend, of another node, of nobody': [FRONTEND.mac, macOf(2), '06:00:00:00:00:01'].map((from) => ethernet(ALL, from, '0800', udp(ip, '10.42.255.255', 7000, 7000))),
      'ARP in the name of others': [arp(2, mac, FRONTEND.address, ip), arp(1, mac, PLACES.b1.address, PLACES.a1.address), arp(2, FRONTEND.mac, FRONTEND.address, ip)].map((body) => ethernet(ALL, mac, '0806', body)),
      'TCP of others': [[FRONTEND.mac, ip], [mac, FRONTEND.address]].map(([from = '', source = '']) => ethernet(bare(macOf(0)), from, '0800', udp(source, PLACES.a1.address, 7000, 7000, marked, '06'))),
      'the address of others': [FRONTEND.address, '10.42.255.1', '192.0.2.1'].map((from) => ethernet(ALL, mac, '0800', udp(from, '10.42.255.255', 7000, 7000)))
    }
    for (const [what, frames] of Object.entries(attacks)) t.strictSame(await arrives(a2, attacker, frames), [0, 0, 0], what)
    await a2.ok('ip link set dev eth0 mtu 9000', { netns: attacker })
    await a2.ok(`ip link set dev ${tapName(C1, 1)} mtu 9000`)
    // of no protocol that the kernel would cut up by itself
    const sized = (bytes: number): string => ethernet(ALL, mac, '88b5', marked + '00'.repeat(bytes - MARK.length))
    t.strictSame(await arrives(a2, attacker, [sized(1500), sized(8900)]), [1, 1, 1], 'of a full frame and one of 9,000 bytes the first')
    t.strictSame(await arrives(a2, attacker, [plain]), [1, 1, 1], 'the segment is as it was')
    t.ok((await a2.observe('segment')).every(({ healthy }) => healthy))
  })

  await t.test('the frontend may answer and advertise, and its place cannot be taken', async (t) => {
    const offers = [
      ethernet(ALL, FRONTEND.mac, '0800', udp(FRONTEND.address, '255.255.255.255', 67, 68)),
      ethernet('333300000001', FRONTEND.mac, '86dd', icmpv6(134, NODES_ALL))
    ]
    t.strictSame((await arrives(a1, `fe-${C1}`, offers)).slice(0, 2), [2, 2])
    await a2.apply('segment', 'c1', { ...specs.c1.a2, known: { ...specs.c1.a2.known, antiSpoof: false } })
    const guest = ethernet(ALL, '06:00:00:00:00:01', '0800', udp('10.42.88.88', '10.42.255.255', 7000, 7000))
    t.strictSame(await arrives(a2, attacker, [guest]), [1, 1, 1], 'guests of a node pass where that is allowed')
    t.strictSame(await arrives(a2, attacker, [...offers, ethernet(ALL, macOf(2), '0800', udp(ip, '10.42.255.255', 7000, 7000))]), [0, 0, 0], 'known members do not speak from there')
    await a2.apply('segment', 'c1', specs.c1.a2)
  })

  await t.test('a flood is cut down to what one node may have', async (t) => {
    const seconds = 4
    const seen = watch(b1, nodeOf(C1, 'b1'), seconds)
    await a2.ok('sleep 0.3')
    const strangers = Array.from({ length: 250 }, (_, n) => ethernet(ALL, mac, '0806', arp(1, mac, ip, `10.42.99.${n + 1}`)))
    const unknown = ethernet('06000000aaaa', mac, '0800', udp(ip, '10.42.99.99', 7000, 7000))
    const sent = await send(a2, attacker, [...strangers, unknown], 9_000, 3_000)
    const got = await seen
    t.equal(sent, 9_000)
    t.ok(got > FLOOD_BURST / 2 && got <= FLOOD_BURST + FLOOD_PER_SECOND * (seconds + 1), `${got} of ${sent} arrive at another site`)
    t.ok(await ping(a2, attacker, PLACES.b1.address), 'while the node still reaches others')
  })

  await t.test('nothing of the host itself is reached from a segment', async (t) => {
    await a2.ok('nft -f -', { input: 'table inet own {\n  chain c {\n    type filter hook input priority 0;\n    udp dport 7009 counter comment "own"\n  }\n}\n' })
    const at = ethernet(bare(hostBridgeMac(C1)), mac, '0800', udp(ip, UNDERLAY.a2, 7009, 7009))
    const at6 = ethernet(bare(hostBridgeMac(C1)), mac, '86dd', `60000000${hex4(8)}1140${LINK_LOCAL}${NODES_ALL}1b611b6100080000`)
    await send(a2, attacker, [at, at6])
    t.equal(await counted(a2, 'own'), 0)
    await a2.ok('nft flush chain bridge mz_mss local_000101')
    await send(a2, attacker, [at])
    t.equal(await counted(a2, 'own'), 1, 'it is the filter that keeps them away')
    await a2.apply('segment', 'c1', specs.c1.a2)
    t.equal((await a2.ok(`ip -6 address show dev ${hostBridgeName(C1)}`)).trim(), '', 'and its bridge has no address')
    await a2.ok('nft delete table inet own')
  })

  await t.test('a member of one site does not speak from another', async (t) => {
    const vxlan = (inner: string): string => `0800000000${hex4(C1)}00${inner}`
    const forge = async (from: string): Promise<number> => {
      const seen = watch(a1, nodeOf(C1, 'a1'), 1.5)
      await c1.ok('sleep 0.5')
      const inner = ethernet(ALL, from, '0800', udp('10.42.9.9', '10.42.255.255', 7000, 7000))
      await c1.run(process.execPath, ['-e', `const s = require('node:dgram').createSocket('udp4'); s.bind(0, '${TUNNEL.c1}', () => s.send(Buffer.from('${vxlan(inner)}', 'hex'), 4789, '${TUNNEL.a1}', () => s.close()))`])
      return await seen
    }
    t.equal(await forge('06:00:00:00:00:02'), 1, 'a stranger does')
    for (const [who, from] of [['the frontend', FRONTEND.mac], ['a node of b', macOf(2)], ['a node of a', macOf(0)]] as const) t.equal(await forge(from), 0, who)
    t.equal(await forge(macOf(3)), 1, 'and a node of that site')
  })

  for (const name of MORE_HOSTS) {
    for (const [cluster] of CLUSTERS) t.ok((await lab.hosts[name].observe('segment')).every(({ healthy }) => healthy), `${name}: ${cluster} is as it should be, after all that`)
  }
})
