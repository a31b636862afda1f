import t from 'tap'
import { clusterNamespace, hostBridgeName } from '../../protocol/core/desired.ts'
import { addNode, counted, HOSTS, macOf, picture, removeNode, segmentSpecs, startLab, TUNNEL, tunnelSpecs, UNDERLAY, withoutKnown } from './network-lab.ts'
import type { Pod } from './network-pod.ts'
import type { HostName, Lab } from './network-lab.ts'

t.setTimeout(240_000)

const C1 = 0x101
const C2 = 0x102
const NODES = [['a1', 0, '10.42.1.1'], ['a2', 1, '10.42.1.2'], ['b1', 2, '10.42.2.1']] as const
const nodeOf = (vni: number, host: HostName): string => `node-${vni}-${HOSTS.findIndex((name) => name === host)}`
const ipOf = (host: HostName): string => NODES.find(([name]) => name === host)?.[2] ?? ''

/** One full-size frame that must not be fragmented inside the segment; tried again until somebody learned the way. */
async function reaches (from: Pod, netns: string, address: string): Promise<boolean> {
  for (let i = 0; i < 20; i++) {
    const { exitCode } = await from.run('ping', ['-M', 'do', '-s', '1472', '-c', '1', '-W', '1', address], { netns })
    if (exitCode === 0) return true
  }
  return false
}

/** Bytes that arrived of a TCP transfer between two nodes. */
async function transfer (lab: Lab, from: HostName, to: HostName, bytes: number): Promise<number> {
  const server = 'require("node:net").createServer((c) => { let n = 0; c.on("data", (d) => { n += d.length }); c.on("end", () => { console.log(n); process.exit(0) }) }).listen(5000)'
  const client = `const connect = (left) => { const c = require('node:net').connect(5000, '${ipOf(to)}'); c.on('connect', () => c.end(Buffer.alloc(${bytes}))); c.on('error', () => left > 0 && setTimeout(connect, 100, left - 1)) }; connect(100)`
  const listening = lab.hosts[to].run(process.execPath, ['-e', server], { netns: nodeOf(C1, to) })
  await lab.hosts[from].run(process.execPath, ['-e', client], { netns: nodeOf(C1, from) })
  return Number((await listening).stdout)
}

/** nft text of a table that counts; each rule's comment is its match's name. */
const counters = (table: string, priority: number, rules: Record<string, string>): string => {
  const lines = Object.entries(rules).map(([name, match]) => `    ${match} counter comment "${name}"`)
  return `table inet ${table} {\n  chain c {\n    type filter hook prerouting priority ${priority};\n${lines.join('\n')}\n  }\n}\n`
}

/** Sends a VXLAN datagram whose inner frame is a broadcast UDP datagram to `marker`, from the host itself. */
async function forge (from: Pod, source: string, to: string, port: number, vni: number, marker: number): Promise<void> {
  const udp = Buffer.alloc(12)
  udp.writeUInt16BE(marker, 0)
  udp.writeUInt16BE(marker, 2)
  udp.writeUInt16BE(udp.length, 4)
  const ip = Buffer.from('4500002000000000401100000a2a09090a2affff', 'hex')
  const sum = Array.from({ length: 10 }, (_, i) => ip.readUInt16BE(i * 2)).reduce((a, b) => a + b, 0)
  ip.writeUInt16BE(~((sum & 0xffff) + (sum >>> 16)) & 0xffff, 10)
  const vxlan = Buffer.alloc(8)
  vxlan.writeUInt8(0x08, 0)
  vxlan.writeUInt32BE(vni << 8, 4)
  const frame = Buffer.concat([vxlan, Buffer.from('ffffffffffff0200000009090800', 'hex'), ip, udp]).toString('hex')
  const script = `const s = require('node:dgram').createSocket('udp4'); s.bind(0, '${source}', () => s.send(Buffer.from('${frame}', 'hex'), ${port}, '${to}', () => s.close()))`
  const { exitCode, stderr } = await from.run(process.execPath, ['-e', script])
  if (exitCode !== 0) throw new Error(stderr)
}

const healthy = async (pod: Pod, kind: 'tunnel' | 'segment'): Promise<Array<[string, boolean]>> =>
  (await pod.observe(kind)).map((o) => [o.name, o.healthy] as [string, boolean]).sort()

/** Process of the user-space tunnel, in the pod's own numbers; null when there is none. */
const wireguardPid = async (pod: Pod): Promise<unknown> => (await pod.observe('tunnel'))[0]?.detail.pid ?? null

t.test('segments of two clusters with equal subnets over two sites', { skip: process.getuid?.() === 0 ? false : 'needs root' }, async (t) => {
  const lab = await startLab()
  t.teardown(async () => { await lab.stop() })
  const { a1, a2, b1 } = lab.hosts
  const specs = { c1: segmentSpecs('c1', C1, { a: 7, b: C2 }), c2: segmentSpecs('c2', C2, { a: C1, b: 9 }) }

  // fragments as they arrive, before the kernel puts them together; the host's own table, which nobody may touch
  for (const name of HOSTS) {
    await lab.hosts[name].ok('nft -f -', { input: counters('own', -500, { fragments: 'ip frag-off & 0x3fff != 0' }) })
  }
  const before = Object.fromEntries(await Promise.all(HOSTS.map(async (name) => [name, await picture(lab.hosts[name])] as const)))

  await t.test('nothing is observed on hosts without objects of ours', async (t) => {
    t.strictSame(await a1.observe('segment'), [])
    t.strictSame(await a1.observe('tunnel'), [])
    t.equal(await a1.counters('c1'), null)
  })

  const tunnels = await tunnelSpecs(lab)
  await t.test('all of it comes up', async (t) => {
    t.match(tunnels.a1.peers[0]?.publicKey, /^[A-Za-z0-9+/]{43}=$/, 'keys are there before any tunnel')
    t.match(await b1.ok('stat -c %a /run/state/wireguard.key'), /^600\n/)
    // a segment that comes before its tunnel works once that is there
    for (const name of HOSTS) for (const cluster of ['c1', 'c2'] as const) await lab.hosts[name].apply('segment', cluster, specs[cluster][name])
    for (const name of ['a1', 'b1'] as const) await lab.hosts[name].apply('tunnel', 'wg', tunnels[name])
    for (const name of HOSTS) t.strictSame(await healthy(lab.hosts[name], 'segment'), [['c1', true], ['c2', true]])
    for (const name of ['a1', 'b1'] as const) t.strictSame(await healthy(lab.hosts[name], 'tunnel'), [['wg', true]])
    t.equal(await a1.clusterNamespace('c1'), clusterNamespace(C1))
    t.equal(await a2.clusterNamespace('c1'), null)
    for (const vni of [C1, C2]) for (const [host, index, address] of NODES) await addNode(lab.hosts[host], vni, index, address)
  })

  await t.test('full-size frames pass inside a site, between sites, and from a host that is no gateway', async (t) => {
    for (const vni of [C1, C2]) {
      for (const [from, to] of [['a1', 'a2'], ['a1', 'b1'], ['a2', 'b1'], ['b1', 'a2'], ['b1', 'a1']] as const) {
        t.ok(await reaches(lab.hosts[from], nodeOf(vni, from), ipOf(to)), `${vni}: ${from} to ${to}`)
      }
      t.ok(await reaches(lab.hosts.a2, nodeOf(vni, 'a2'), '10.42.255.2'), `${vni}: the far gateway itself`)
    }
    t.ok(await counted(b1, 'fragments') > 0, 'and are fragmented outside, as only a fallback can')
  })

  await t.test('no frame of one cluster gets into the other', async (t) => {
    // the kernel hands a sender its own broadcast: not counted
    const count = (host: HostName): string => counters('t', -400, { c1: `ip saddr != ${ipOf(host)} udp dport 7001`, c2: `ip saddr != ${ipOf(host)} udp dport 7002` })
    for (const vni of [C1, C2]) for (const host of HOSTS) await lab.hosts[host].ok('nft -f -', { netns: nodeOf(vni, host), input: count(host) })
    const shout = 'const s = require("node:dgram").createSocket("udp4"); s.bind(0, () => { s.setBroadcast(true); for (let i = 0; i < 10; i++) s.send("x", PORT, "10.42.255.255"); setTimeout(() => s.close(), 200) })'
    for (const host of HOSTS) {
      for (const [vni, port] of [[C1, 7001], [C2, 7002]] as const) {
        await lab.hosts[host].run(process.execPath, ['-e', shout.replace('PORT', String(port))], { netns: nodeOf(vni, host) })
      }
    }
    for (const host of HOSTS) {
      const seen = async (vni: number): Promise<number[]> => [await counted(lab.hosts[host], 'c1', nodeOf(vni, host)), await counted(lab.hosts[host], 'c2', nodeOf(vni, host))]
      t.strictSame([await seen(C1), await seen(C2)], [[20, 0], [0, 20]], `${host}: ten frames of each of two others, none of strangers, none twice`)
    }
    for (const vni of [C1, C2]) for (const host of HOSTS) await lab.hosts[host].ok('nft delete table inet t', { netns: nodeOf(vni, host) })
  })

  await t.test('frames from strangers are dropped', async (t) => {
    const node = nodeOf(C1, 'a1')
    await a1.ok('nft -f -', { netns: node, input: counters('t', -400, { forged: 'udp dport 7003' }) })
    const sent = async (): Promise<number> => {
      await forge(b1, UNDERLAY.b1, UNDERLAY.a1, 4789, C1, 7003)
      await forge(b1, UNDERLAY.b1, UNDERLAY.a1, 4790, 7, 7003)
      // what came by the tunnel before is there by the time that a later packet was answered
      await reaches(b1, nodeOf(C1, 'b1'), ipOf('a1'))
      return await counted(a1, 'forged', node)
    }
    t.equal(await sent(), 0, 'on the underlay from a host of another site')
    await a1.apply('segment', 'c1', { ...withoutKnown(specs.c1.a1), gateway: { ...specs.c1.a1.gateway, tunnel: { localAddress: TUNNEL.a1, remoteAddresses: [] } } })
    await forge(b1, TUNNEL.b1, TUNNEL.a1, 4789, C1, 7003)
    await reaches(b1, nodeOf(C2, 'b1'), ipOf('a1'))
    t.equal(await counted(a1, 'forged', node), 0, 'in the tunnel from a gateway that has no part in the cluster')
    await a1.apply('segment', 'c1', specs.c1.a1)
    await forge(b1, TUNNEL.b1, TUNNEL.a1, 4789, C1, 7003)
    await reaches(b1, nodeOf(C1, 'b1'), ipOf('a1'))
    t.equal(await counted(a1, 'forged', node), 1, 'while a member gets through')
    await a1.ok('nft delete table inet mz_guard')
    t.equal(await sent(), 3, 'it is the guard that drops them')
    t.strictSame(await healthy(a1, 'segment'), [['c1', false], ['c2', false]])
    for (const cluster of ['c1', 'c2'] as const) await a1.apply('segment', cluster, specs[cluster].a1)
    t.equal(await sent(), 3)
    await a1.ok('nft delete table inet t', { netns: node })
  })

  await t.test('bulk TCP makes no outer fragments, by a clamped segment size', async (t) => {
    const mss = counters('t', 0, { wan: 'tcp flags & syn == syn tcp option maxseg size 1330', site: 'tcp flags & syn == syn tcp option maxseg size 1410', larger: 'tcp flags & syn == syn tcp option maxseg size > 1410' })
    for (const host of HOSTS) await lab.hosts[host].ok('nft -f -', { netns: nodeOf(C1, host), input: mss })
    const fragments = async (): Promise<number[]> => await Promise.all(HOSTS.map(async (host) => await counted(lab.hosts[host], 'fragments')))
    const start = await fragments()
    const wan = await b1.counters('c1')
    const bytes = 8_000_000
    for (const [from, to] of [['a2', 'b1'], ['b1', 'a1'], ['a1', 'a2']] as const) t.equal(await transfer(lab, from, to, bytes), bytes, `${from} to ${to}`)
    t.strictSame(await fragments(), start)
    const synsWith = async (host: HostName): Promise<boolean[]> => await Promise.all(['wan', 'site', 'larger'].map(async (size) => await counted(lab.hosts[host], size, nodeOf(C1, host)) > 0))
    t.strictSame(await synsWith('b1'), [true, false, false], 'announcements that come from the other site')
    t.strictSame(await synsWith('a2'), [true, true, false], 'and from inside the own')
    const after = await b1.counters('c1')
    t.ok(after?.wanUp)
    const grown = [Number(after?.wanRxBytes) - Number(wan?.wanRxBytes), Number(after?.wanTxBytes) - Number(wan?.wanTxBytes)]
    // headers, acknowledgements and what TCP sent again are in it, but nothing is counted twice
    for (const grow of grown) t.ok(grow > bytes && grow < bytes * 2, `counters grew by ${grow} for ${bytes} bytes of payload`)
    t.equal(await a2.counters('c1'), null)
    for (const host of HOSTS) await lab.hosts[host].ok('nft delete table inet t', { netns: nodeOf(C1, host) })
  })

  await t.test('applied again, also by a restarted agent, changes nothing', async (t) => {
    for (const name of HOSTS) {
      const pod = lab.hosts[name]
      const own = await picture(pod)
      const pids = await wireguardPid(pod)
      for (const restart of [false, true]) {
        if (restart) await pod.restart()
        for (const cluster of ['c1', 'c2'] as const) await pod.apply('segment', cluster, specs[cluster][name])
        if (name !== 'a2') await pod.apply('tunnel', 'wg', tunnels[name])
        t.equal(await picture(pod), own, `${name}${restart ? ' after a restart' : ''}`)
      }
      t.equal(await wireguardPid(pod), pids)
    }
  })

  const inner = clusterNamespace(C1)
  const breaks: Array<[string, HostName, string]> = [
    ['a deleted inter-site VXLAN', 'b1', `ip -n ${inner} link delete dev wan0`],
    ['a deleted inter-site bridge port', 'b1', `ip -n ${inner} link delete dev wan0m`],
    ['a deleted flood entry', 'b1', `bridge -n ${inner} fdb delete 00:00:00:00:00:00 dev wan0 dst ${TUNNEL.a1}`],
    ['a foreign flood entry', 'b1', `bridge -n ${inner} fdb append 00:00:00:00:00:00 dev site0 dst 10.77.0.99`],
    ['a deleted bridge in the cluster namespace', 'b1', `ip -n ${inner} link delete dev br0`],
    ['a port that sends frames back', 'b1', `ip -n ${inner} link set dev wan0m type bridge_slave hairpin on`],
    ['a known member that nobody knows', 'b1', `bridge -n ${inner} fdb delete ${macOf(0)} dev wan0`],
    ['a known member behind somebody else', 'b1', `bridge -n ${inner} fdb replace ${macOf(1)} dev wan0 dst 100.64.9.9`],
    ['a way that another frame can take along', 'b1', `bridge -n ${inner} fdb replace ${macOf(0)} dev wan0m master static`],
    ['a way of somebody else', 'b1', `bridge -n ${inner} fdb add 06:00:00:00:00:01 dev site0m master static`],
    ['a lost neighbour', 'b1', `ip -n ${inner} neighbour delete 10.42.1.1 dev br0`],
    ['a false neighbour', 'b1', `ip -n ${inner} neighbour replace 10.42.1.1 lladdr 06:00:00:00:00:01 nud permanent dev br0`],
    ['a neighbour of somebody else', 'b1', `ip -n ${inner} neighbour add 10.42.9.9 lladdr 06:00:00:00:00:01 nud permanent dev br0`],
    ['a port that asks instead of answering', 'b1', `ip -n ${inner} link set dev wan0m type bridge_slave neigh_suppress off`],
    ['a bridge without IPv6', 'b1', `ip netns exec ${inner} sysctl -qw net.ipv6.conf.br0.disable_ipv6=1`],
    ['a host bridge that was down for a moment', 'b1', `ip link set dev ${hostBridgeName(C1)} down`],
    ['a host bridge that forgot its neighbours', 'a2', `ip neighbour flush nud permanent dev ${hostBridgeName(C1)}`],
    ['ports that let in everything', 'a2', 'nft flush chain bridge mz_mss ports_000101'],
    ['a port that is down', 'b1', `ip -n ${inner} link set dev site0m down`],
    ['a lost address', 'b1', `ip -n ${inner} address flush dev br0`],
    ['a deleted clamp', 'b1', `ip netns exec ${inner} nft flush table bridge mz_mss`],
    ['a deleted cluster namespace', 'b1', `ip netns delete ${inner}`],
    ['a deleted host bridge, with a machine on it', 'b1', `ip link delete dev ${hostBridgeName(C1)}`],
    ['a deleted in-site VXLAN of a compute host', 'a2', 'ip link delete dev mzs000101'],
    ['a lowered MTU', 'a2', 'ip link set dev mzm000101 mtu 1400']
  ]
  await t.test('mends what was broken', async (t) => {
    for (const [what, host, command] of breaks) {
      await lab.hosts[host].ok(command)
      t.strictSame(await healthy(lab.hosts[host], 'segment'), [['c1', false], ['c2', true]], `${what} is seen`)
      await lab.hosts[host].apply('segment', 'c1', specs.c1[host])
      t.strictSame(await healthy(lab.hosts[host], 'segment'), [['c1', true], ['c2', true]], `${what} is mended`)
      t.ok(await reaches(lab.hosts[host], nodeOf(C1, host), ipOf(host === 'b1' ? 'a2' : 'b1')), `frames pass after ${what}`)
    }
  })

  await t.test('mends a namespace whose name leads nowhere, as kill -9 of `ip netns` leaves it', async (t) => {
    await b1.ok(`ip netns delete ${inner}`)
    await b1.ok(`touch /run/netns/${inner}`)
    t.strictSame(await healthy(b1, 'segment'), [['c1', false], ['c2', true]])
    await b1.apply('segment', 'c1', specs.c1.b1)
    t.ok(await reaches(b1, nodeOf(C1, 'b1'), ipOf('a2')))
  })

  await t.test('mends a tunnel whose process was killed or hangs, and one that somebody changed', async (t) => {
    const pid = String(await wireguardPid(b1))
    for (const [what, command] of [
      ...(pid === 'null' ? [] : [['killed', `kill -KILL ${pid}`]] as const),
      ...(pid === 'null' ? [] : [['hanging', 'kill -STOP PID']] as const),
      ['without route', `ip route delete ${TUNNEL.a1} dev mzwg0`],
      ['without peer', `wg set mzwg0 peer ${tunnels.b1.peers[0]?.publicKey ?? ''} remove`],
      ['down', 'ip link set dev mzwg0 down'],
      ['without link', 'ip link delete dev mzwg0']
    ] as const) {
      await b1.ok(command.replace('PID', String(await wireguardPid(b1))))
      // a killed process takes its interface along a moment later
      let seen = await healthy(b1, 'tunnel')
      for (let i = 0; i < 50 && seen[0]?.[1] === true; i++) {
        await b1.ok('sleep 0.1')
        seen = await healthy(b1, 'tunnel')
      }
      t.strictSame(seen, [['wg', false]], `${what} is seen`)
      await b1.apply('tunnel', 'wg', tunnels.b1)
      t.strictSame(await healthy(b1, 'tunnel'), [['wg', true]], `${what} is mended`)
      t.ok(await reaches(b1, nodeOf(C1, 'b1'), ipOf('a2')), `frames pass after ${what}`)
    }
  })

  await t.test('a segment is found by its bridge when the record is lost, and taken over', async (t) => {
    const own = await picture(b1)
    await b1.ok('rm -r /run/state/segments')
    await b1.restart()
    t.strictSame((await b1.observe('segment')).map(({ name, fingerprint, healthy }) => [name, fingerprint, healthy]).sort(), [['c1', null, false], ['c2', null, false]])
    await b1.apply('segment', 'c1', specs.c1.b1)
    t.equal(await picture(b1), own)
    await b1.remove('segment', 'c2')
    t.strictSame(await healthy(b1, 'segment'), [['c1', true]])
    await b1.apply('segment', 'c2', specs.c2.b1)
  })

  await t.test('bad input is refused by name', async (t) => {
    const bad = async (what: RegExp, change: object): Promise<void> => { await t.rejects(a2.apply('segment', 'c9', { ...specs.c1.a2, vni: 0x109, ...change }), { code: 'INVALID_INPUT', message: what }) }
    await bad(/VNI 0 /, { vni: 0 })
    await bad(/no IPv4 address of a site host/, { site: { segmentId: 1, localAddress: '10.0.0.1 dev eth0', remoteAddresses: [] } })
    await bad(/neither compute nor gateway/, { compute: false })
    await t.rejects(a2.apply('segment', 'c9', specs.c1.a2), { code: 'CONFLICT', message: /VNI 257 is c1's/ })
    await t.rejects(a2.apply('segment', 'c9', { ...withoutKnown(specs.c1.a2), vni: 0x109 }), { code: 'CONFLICT', message: /segment id \d+ is c1's/ })
    await t.rejects(a1.apply('tunnel', 'wg', { ...tunnels.a1, listenPort: 0 }), { code: 'INVALID_INPUT', message: /0 is no UDP port/ })
    await t.rejects(a1.apply('tunnel', 'other', tunnels.a1), { code: 'NOT_FOUND' })
    t.strictSame(await healthy(a2, 'segment'), [['c1', true], ['c2', true]])
  })

  await t.test('remove leaves nothing, of whole and of half-built segments', async (t) => {
    for (const vni of [C1, C2]) for (const [host, index] of NODES) await removeNode(lab.hosts[host], vni, index)
    await b1.ok(`ip -n ${inner} link delete dev wan0`)
    await a2.ok('ip link delete dev mzm000102')
    await a1.remove('segment', 'c1')
    t.strictSame(await healthy(a1, 'segment'), [['c2', true]], 'the other cluster stays')
    for (const name of HOSTS) {
      const pod = lab.hosts[name]
      for (const cluster of ['c1', 'c2']) await pod.remove('segment', cluster)
      await pod.remove('tunnel', 'wg')
      await pod.remove('segment', 'c1')
      t.strictSame(await pod.observe('segment'), [])
      t.strictSame(await pod.observe('tunnel'), [])
      t.equal(await picture(pod), before[name], name)
      t.notMatch(await pod.ok('ps -A -o stat,comm'), /^[^Z].*wireguard-go/m)
    }
    t.equal(await a1.publicKey(), tunnels.b1.peers[0]?.publicKey, 'but the key stays')
  })
})
