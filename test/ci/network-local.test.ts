/** Segments that do not leave their site, with real links: two sites, two clusters with the same networks, addresses and MACs. */
import { fileURLToPath } from 'node:url'
import t from 'tap'
import { clusterNamespace, hostBridgeName, type SegmentSpec, tapName } from '../../protocol/core/desired.ts'
import { localVniOf } from '../../protocol/core/network/local.ts'
import type { ClusterDocument, MemberSite } from '../../protocol/core/messages.ts'
import { localSegmentFor } from '../../protocol/core/plan.ts'
import type { SegmentFacts } from '../../agent/diagnose/facts.ts'
import { judge } from '../../agent/diagnose/judge.ts'
import { ALL, arp, ethernet, send, watch } from '../host/frames.ts'
import { addNode, counted, macOf, picture, segmentSpecs, startLab, tunnelSpecs, UNDERLAY, type HostName, type Lab } from '../host/network-lab.ts'

t.setTimeout(300_000)

const ASK = fileURLToPath(new URL( '../host/diagnose-ask.ts', import.meta.url))
const HOSTS: readonly HostName[] = ['a1', 'a2', 'b1', 'b2']
const VNIS = { c1: 0x101, c2: 0x102 } as const
type Cluster = keyof typeof VNIS
const CLUSTERS = ['c1', 'c2'] as const
/** In-site ids of the local segments; those of the clusters' own are 7, 8 at a and 9, 10 at b. */
const IDS: Record<Cluster, Record<string, number>> = { c1: { a: 17, b: 19 }, c2: { a: 18, b: 20 } }
const siteOf = (host: HostName): string => host.slice(0, 1)
const indexOf = (host: HostName): number => HOSTS.indexOf(host) + 1
/** The same in both clusters. */
const addressOf = (host: HostName): string => `10.43.${siteOf(host) === 'a' ? 1 : 2}.${indexOf(host)}`
const localMac = (host: HostName): string => `52:55:00:00:00:0${indexOf(host)}`

/** As much of a document as says what hosts have of the segments that do not leave their site: a node on each. */
function documentOf (cluster: Cluster): ClusterDocument {
  const site = (name: string): MemberSite => ({
    site: name, segmentId: 0, gatewayAddress: '', gatewayMac: '', cache: false, leaseId: '', localSegmentId: IDS[cluster][name] ?? 0, localLeaseId: 'l',
    gateway: { host: `${name}1`, peer: '', underlayAddress: '', tunnelPublicKey: '', tunnelEndpoint: '', tunnelAddress: '', chain: [] },
    hosts: HOSTS.filter((host) => siteOf(host) === name).map((host) => ({ host, peer: '', underlayAddress: UNDERLAY[host], gateway: host.endsWith('1') }))
  })
  return {
    id: cluster, name: cluster, epoch: 1, vni: VNIS[cluster], cidr: '10.42.0.0/16', localCidr: '10.43.0.0/16', domain: '', masterSite: 'a', masterPeer: '', createdMs: 0, endMs: 0, startMs: 0, version: 1,
    frontend: { name: '', site: 'a', host: 'a1', mac: '', ip: '', mode: 'builtin', leaseId: '' }, sites: [site('a'), site('b')], volumes: [], imageDigest: '', sshPublicKey: '',
    nodes: HOSTS.map((host) => ({ name: host, site: siteOf(host), host, mac: '', ip: '', uuid: '', vcpus: 1, memoryMib: 1, leaseId: '', index: indexOf(host), localMac: localMac(host), localIp: addressOf(host) }))
  }
}
const specOf = (cluster: Cluster, host: HostName): SegmentSpec => {
  const spec = localSegmentFor(documentOf(cluster), { site: siteOf(host), host })
  if (spec === null) throw new Error(`${host} has no node`)
  return spec
}
const nodeOf = (cluster: Cluster): string => `local-${cluster}`

/** A node's second card. */
async function addCard (lab: Lab, cluster: Cluster, host: HostName): Promise<void> {
  const pod = lab.hosts[host]
  const vni = localVniOf(VNIS[cluster])
  const [ns, tap] = [nodeOf(cluster), tapName(vni, indexOf(host))]
  await pod.ok(`ip netns add ${ns}`)
  await pod.ok(`ip link add name ${tap} type veth peer name eth0 netns ${ns}`)
  await pod.ok(`ip link set dev ${tap} master ${hostBridgeName(vni)} up`)
  await pod.ok(`ip -n ${ns} link set dev eth0 address ${localMac(host)} up`)
  await pod.ok(`ip -n ${ns} address add ${addressOf(host)}/16 broadcast + dev eth0`)
}

/** Whether a packet that must not be fragmented inside the segment is answered; some tries, as links come up. */
async function reaches (lab: Lab, cluster: Cluster, from: HostName, to: string, tries = 10, more: string[] = []): Promise<boolean> {
  for (let i = 0; i < tries; i++) {
    const { exitCode } = await lab.hosts[from].run('ping', ['-M', 'do', '-s', '1472', '-c', '1', '-W', '1', ...more, to], { netns: nodeOf(cluster) })
    if (exitCode === 0) return true
  }
  return false
}

t.test('what is of a site stays there, and of a cluster with it', { skip: process.getuid?.() === 0 ? false : 'needs root' }, async (t) => {
  const lab = await startLab(HOSTS)
  t.teardown(async () => { await lab.stop() })
  const { hosts, underlay } = lab
  const tunnels = await tunnelSpecs(lab, HOSTS)
  for (const gateway of ['a1', 'b1'] as const) await hosts[gateway].apply('tunnel', 'wg', tunnels[gateway])
  for (const [i, cluster] of CLUSTERS.entries()) {
    const specs = segmentSpecs(cluster, VNIS[cluster], { a: 7 + i, b: 9 + i }, HOSTS)
    for (const host of HOSTS) await hosts[host].apply('segment', `${cluster}.segment`, specs[host])
  }
  const mainNodes = { a1: await addNode(hosts.a1, VNIS.c1, 0, '10.42.1.1'), b1: await addNode(hosts.b1, VNIS.c1, 2, '10.42.2.1') }
  const before = new Map(await Promise.all(HOSTS.map(async (host) => [host, await picture(hosts[host])] as const)))

  for (const host of HOSTS) for (const cluster of CLUSTERS) await hosts[host].apply('segment', `${cluster}.local`, specOf(cluster, host))
  const made = await picture(hosts.a1)
  for (const cluster of CLUSTERS) await hosts.a1.apply('segment', `${cluster}.local`, specOf(cluster, 'a1'))
  t.equal(await picture(hosts.a1), made, 'the second pass does nothing')
  for (const host of HOSTS) t.strictSame((await hosts[host].observe('segment')).map(({ name, healthy }) => [name, healthy]).sort(), CLUSTERS.flatMap((cluster) => [[`${cluster}.local`, true], [`${cluster}.segment`, true]]), host)
  for (const host of HOSTS) for (const cluster of CLUSTERS) await addCard(lab, cluster, host)

  // what the switch of both sites, and the ways of the gateways to each other, carry of them
  const vxlan = (id: number): string => `ether type ip udp dport 4790 @th,96,24 ${id}`
  await underlay.run('nft', ['-f', '-'], { input: `table bridge seen {\n  chain c {\n    type filter hook forward priority 0;\n${[17, 18].map((id) => `
    oifname { "to-b1", "to-b2" } ${vxlan(id)} counter comment "away-${id}"\n    oifname { "to-a1", "to-a2" } ${vxlan(id)} counter comment "inside-${id}"`).join('')}\n  }\n}\n` })
  for (const gateway of ['a1', 'b1'] as const) {
    for (const cluster of CLUSTERS) {
      const ns = clusterNamespace(VNIS[cluster])
      const { exitCode } = await hosts[gateway].run('nft', ['-f', '-'], { netns: ns, input: `table bridge seen {\n  chain c {\n    type filter hook prerouting priority -400;\n    ether saddr & ff:ff:00:00:00:00 == 52:55:00:00:00:00 counter comment "local"\n    ether saddr ${macOf(0)} counter comment "main"\n  }\n}\n` })
      t.equal(exitCode, 0)
    }
  }

  for (const cluster of CLUSTERS) {
    t.ok(await reaches(lab, cluster, 'a1', addressOf('a2')), `${cluster}: full frames inside site a`)
    t.ok(await reaches(lab, cluster, 'b2', addressOf('b1')), `${cluster}: and b`)
    t.notOk(await reaches(lab, cluster, 'a1', addressOf('b1'), 2), `${cluster}: not to the other site`)
  }
  const bytes = 20_000_000
  const server = 'require(\'node:net\').createServer((c) => { let n = 0; c.on(\'data\', (d) => { n += d.length }); c.on(\'end\', () => { console.log(n); process.exit(0) }) }).listen(5000)'
  const client = `const go = (left) => { const c = require('node:net').connect(5000, '${addressOf('a2')}'); c.on('connect', () => c.end(Buffer.alloc(${bytes}))); c.on('error', () => left > 0 && setTimeout(go, 100, left - 1)) }; go(100)`
  const arrived = hosts.a2.run(process.execPath, ['-e', server], { netns: nodeOf('c1') })
  await hosts.a1.run(process.execPath, ['-e', client], { netns: nodeOf('c1') })
  t.equal(Number((await arrived).stdout), bytes, 'bulk by TCP')

  // broadcasts, below what a node may have copied: they come to the other node of the site and cluster, and to nobody else
  const question = ethernet(ALL, localMac('a1'), '0806', arp(1, localMac('a1'), addressOf('a1'), '10.43.1.99'))
  const heard = Promise.all(CLUSTERS.flatMap((cluster) => HOSTS.filter((host) => host !== 'a1' || cluster === 'c2').map(async (host) => [`${cluster} ${host}`, await watch(hosts[host], nodeOf(cluster), 6)] as const)))
  await new Promise((resolve) => { setTimeout(resolve, 2_000) })
  t.equal(await send(hosts.a1, nodeOf('c1'), [question], 300, 150), 300)
  const got = new Map(await heard)
  t.equal(got.get('c1 a2'), 300, 'the node of its cluster at its site hears them')
  t.strictSame([...got].filter(([who, frames]) => who !== 'c1 a2' && frames > 0), [], 'nobody else does')

  // an address that is none of its own, and the host
  await hosts.a1.ok(`ip -n ${nodeOf('c1')} address add 10.43.1.77/16 dev eth0`)
  t.notOk(await reaches(lab, 'c1', 'a1', addressOf('a2'), 2, ['-I', '10.43.1.77']), 'a node speaks for itself only')
  const mac = (JSON.parse(await hosts.a1.ok(`ip -json link show dev ${hostBridgeName(localVniOf(VNIS.c1))}`)) as Array<{ address: string }>)[0]?.address ?? ''
  await hosts.a1.ok(`ip -n ${nodeOf('c1')} route add ${UNDERLAY.a1}/32 dev eth0`)
  await hosts.a1.ok(`ip -n ${nodeOf('c1')} neighbour replace ${UNDERLAY.a1} lladdr ${mac} dev eth0`)
  await hosts.a1.ok(`ip route add ${addressOf('a1')}/32 dev ${hostBridgeName(localVniOf(VNIS.c1))}`)
  t.notOk(await reaches(lab, 'c1', 'a1', UNDERLAY.a1, 2), 'its host takes nothing from it')
  await hosts.a1.ok(`ip route delete ${addressOf('a1')}/32`)

  t.equal((await hosts.a1.run('ping', ['-c', '1', '-W', '5', '10.42.2.1'], { netns: mainNodes.a1 })).exitCode, 0, 'the segment of the cluster goes to the other site')
  for (const id of [17, 18]) {
    t.ok(await counted(underlay, `inside-${id}`) > 0, `${id} went from host to host`)
    t.equal(await counted(underlay, `away-${id}`), 0, `${id} went to no host of the other site`)
  }
  for (const gateway of ['a1', 'b1'] as const) for (const cluster of CLUSTERS) t.equal(await counted(hosts[gateway], 'local', clusterNamespace(VNIS[cluster])), 0, `nothing came to the namespace of ${cluster} at ${gateway}, where the way between sites begins`)
  t.ok(await counted(hosts.a1, 'main', clusterNamespace(VNIS.c1)) > 0, 'what is counted there is seen')

  const ask = async (asked: object): Promise<unknown> => JSON.parse(await hosts.a1.run(process.execPath, [ASK, JSON.stringify(asked)]).then(({ stdout, stderr }) => stdout === '' ? JSON.stringify(stderr) : stdout))
  const facts = await ask({ look: 'c1.local' }) as SegmentFacts
  t.match(facts, { vni: localVniOf(VNIS.c1), namespace: null, tunnel: null })
  t.strictSame(judge(facts, { answers: [], skews: [] }), [], 'diagnosis finds nothing wrong')
  t.match(await ask({ look: 'c1' }), { name: 'c1.segment' }, 'and a cluster\'s name still means its own segment')
  t.match(await ask({ capture: 'c1.local', request: { port: 'wan', count: 1, seconds: 1, snapBytes: 64, filter: {} } }), /no way to other sites/)
  await hosts.a1.ok(`ip link set dev ${hostBridgeName(localVniOf(VNIS.c1))} mtu 1400`)
  t.ok(judge(await ask({ look: 'c1.local' }) as SegmentFacts, { answers: [], skews: [] }).length > 0, 'and what is wrong is found')

  for (const host of HOSTS) {
    for (const cluster of CLUSTERS) {
      await hosts[host].ok(`ip link delete dev ${tapName(localVniOf(VNIS[cluster]), indexOf(host))}`)
      await hosts[host].ok(`ip netns delete ${nodeOf(cluster)}`)
      await hosts[host].remove('segment', `${cluster}.local`)
    }
  }
  for (const gateway of ['a1', 'b1'] as const) for (const cluster of CLUSTERS) await hosts[gateway].ok('nft delete table bridge seen', { netns: clusterNamespace(VNIS[cluster]) })
  const handles = (text: string): string => text.replaceAll(/ # handle \d+/g, '')
  for (const host of HOSTS) t.equal(handles(await picture(hosts[host])), handles(before.get(host) ?? ''), `${host}: nothing is left, and nothing else was touched`)
})
