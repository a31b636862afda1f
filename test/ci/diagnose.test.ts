/** A segment over two sites is broken in one place after the other: doctor and ping name the place, the address, the port and the size. */
import { fileURLToPath } from 'node:url'
import t, { type Test } from 'tap'
import { createDiagnose, type Diagnose } from '../../agent/diagnose/diagnose.ts'
import { diagnosisText, pingText } from '../../cli/render/segment.ts'
import type { DiagnosisResource } from '../../protocol/network-api.ts'
import { clusterNamespace } from '../../protocol/core/desired.ts'
import type { ClusterDocument, GatewayFacts } from '../../protocol/core/messages.ts'
import { addNode, segmentSpecs, startLab, TUNNEL, tunnelSpecs, UNDERLAY, withoutKnown, type HostName, type Lab } from '../host/network-lab.ts'
import type { Pod } from '../host/network-pod.ts'
import { eventually } from '../contract/services.ts'

const CLI = fileURLToPath(new URL('../../cli/main.ts', import.meta.url))
const ASK = fileURLToPath(new URL('../host/diagnose-ask.ts', import.meta.url))
const VNI = 0x101
const NS = clusterNamespace(VNI)
const ID = '01234567-0000-4000-8000-000000000000'
const SEGMENT = '01234567.segment'
/** Those of the lab's two sites. */
type Here = Exclude<HostName, 'b2' | 'c1'>
const HERE: readonly Here[] = ['a1', 'a2', 'b1']
const SITE_OF: Record<Here, string> = { a1: 'tokyo', a2: 'tokyo', b1: 'osaka' }
const NODES = [['a1', 0, 'c1-tokyo-001', '10.42.1.1'], ['a2', 1, 'c1-tokyo-002', '10.42.1.2'], ['b1', 2, 'c1-osaka-003', '10.42.2.1']] as const

t.setTimeout(240_000)

function documentOf (): ClusterDocument {
  const gateway = (host: 'a1' | 'b1'): GatewayFacts => ({ host, peer: host, underlayAddress: UNDERLAY[host], tunnelPublicKey: '', tunnelEndpoint: `${UNDERLAY[host]}:51820`, tunnelAddress: TUNNEL[host], chain: [] })
  const site = (name: string, own: 'a1' | 'b1', last: number): ClusterDocument['sites'][number] => ({
    site: name, segmentId: 7, gateway: gateway(own), gatewayAddress: `10.42.255.${last}`, gatewayMac: '', cache: false, leaseId: '',
    hosts: HERE.filter(host => SITE_OF[host] === name).map(host => ({ host, peer: host, underlayAddress: UNDERLAY[host], gateway: host === own }))
  })
  const [first, ...others] = NODES
  return {
    id: ID, name: 'c1', epoch: 1, vni: VNI, cidr: '10.42.0.0/16', domain: 'c1.test', masterSite: 'tokyo', masterPeer: 'a1', createdMs: 0, endMs: 0, startMs: 0, version: 1, imageDigest: '', antiSpoofOff: false, sshPublicKey: '', volumes: [],
    // the node at a1 stands for the frontend
    frontend: { name: first[2], site: 'tokyo', host: 'a1', mac: '', ip: first[3], mode: 'builtin', leaseId: '' },
    sites: [site('tokyo', 'a1', 1), site('osaka', 'b1', 2)],
    nodes: others.map(([host, index, name, ip]) => ({ name, site: SITE_OF[host], host, mac: '', ip, uuid: '', vcpus: 1, memoryMib: 1, leaseId: '', index }))
  }
}

/** The agent's part, with the pod's helper behind it. */
function diagnoseOn (lab: Lab, host: Here): Diagnose {
  const ask = async (question: object): Promise<never> => {
    const { stdout, stderr } = await lab.hosts[host].run(process.execPath, [ASK, JSON.stringify(question)], { timeoutMs: 90_000 })
    if (stdout === '') throw new Error(stderr)
    return JSON.parse(stdout) as never
  }
  return createDiagnose({
    site: SITE_OF[host], host, documents: () => [documentOf()], skews: () => [],
    helper: { call: async (verb, params) => verb === 'segment-look' ? await ask({ look: (params as { name: string }).name, ...params }) : await ask({ echo: params }) }
  })
}

/** Exactly these, each as far as it is given: `match` alone takes more of them than are wanted. */
function only (t: Test, { findings }: DiagnosisResource, wanted: ReadonlyArray<Record<string, unknown>>): void {
  t.match(findings, wanted)
  t.equal(findings.length, wanted.length, findings.map(({ code }) => code).join(', '))
}
const codes = ({ findings }: DiagnosisResource): string[] => findings.map(({ code }) => code)

t.test('a broken segment', { skip: process.getuid?.() === 0 ? false : 'needs root' }, async t => {
  const lab = await startLab()
  t.teardown(async () => { await lab.stop() })
  const { a1, a2, b1 } = lab.hosts
  // of members that are not known, so that the gateway itself has to answer a host's ARP
  const all = segmentSpecs('c1', VNI, { a: 7, b: 9 })
  const specs = { a1: withoutKnown(all.a1), a2: withoutKnown(all.a2), b1: withoutKnown(all.b1) }
  const tunnels = await tunnelSpecs(lab)
  // the lab calls sites by their gateways
  for (const [own, peer] of [['a1', 'b1'], ['b1', 'a1']] as const) for (const one of tunnels[own].peers) one.site = SITE_OF[peer]
  const repair = async (...hosts: Here[]): Promise<void> => {
    for (const host of hosts) {
      await lab.hosts[host].apply('segment', SEGMENT, specs[host])
      if (host !== 'a2') await lab.hosts[host].apply('tunnel', 'wg', tunnels[host])
    }
  }
  await repair(...HERE)
  for (const [host, index, , address] of NODES) await addNode(lab.hosts[host], VNI, index, address)
  const at = { a1: diagnoseOn(lab, 'a1'), a2: diagnoseOn(lab, 'a2'), b1: diagnoseOn(lab, 'b1') }
  const drop = async (pod: Pod, rule: string): Promise<void> => { await pod.ok('nft -f -', { input: `table inet site_rules {\n  chain c {\n    type filter hook ${rule}\n  }\n}\n` }) }
  const undrop = async (pod: Pod): Promise<void> => { await pod.ok('nft delete table inet site_rules') }
  const say = (text: string): void => { if (process.env.SHOW !== undefined) process.stderr.write(`${text}\n\n`) }
  const doctor = async (host: Here): Promise<DiagnosisResource> => {
    const found = await at[host].doctor('c1')
    say(diagnosisText(found))
    return found
  }

  await t.test('whole, nothing is wrong on any host, and full size passes every hop', async t => {
    for (const host of HERE) t.match(await doctor(host), { ok: true, findings: [], gateway: host !== 'a2' }, host)
    t.match((await doctor('a2')).seen.join('\n'), /10\.42\.255\.1 by ARP from mzb000101: answered, up to 1500 bytes/)
    const path = await at.a1.ping({ from: 'c1-tokyo-002', to: 'c1-osaka-003', path: true })
    say(pingText(path))
    t.match(path, { ok: true, stopsAt: null, askedBy: 'a1' })
    t.strictSame(path.hops.map(({ hop, to, port, largestBytes }) => [hop, to, port, largestBytes]), [
      ['node', '10.42.1.2', 4790, 1500], ['underlay', UNDERLAY.a2, null, 1500], ['in-site VXLAN', UNDERLAY.a2, 4790, 1500], ['gateway', '10.42.255.1', null, 1500],
      ['underlay', UNDERLAY.b1, 51820, 1484], ['tunnel', TUNNEL.b1, 51820, 1420], ['far gateway', '10.42.255.2', 4789, 1500], ['far node', '10.42.2.1', null, 1500]
    ])
    const plain = await at.a1.ping({ from: 'tokyo', to: 'c1-osaka-003', count: 3 })
    say(pingText(plain))
    t.match(plain, { ok: true, ends: [{ name: 'c1-osaka-003', sent: 3, received: 3, rttMs: { avg: Number } }] })
    await t.rejects(at.a2.ping({ from: 'tokyo', to: 'osaka' }), { code: 'CONFLICT', hint: /run it on a1/ })
    await t.rejects(at.a1.ping({ from: 'tokyo', to: 'kyoto' }), { code: 'NOT_FOUND' })
  })

  await t.test('a link that is down, one with another MTU, a missing entry, a missing chain, an id of somebody else: each by its name', async t => {
    await a1.ok(`ip -n ${NS} link set dev wan0m down`)
    only(t, await doctor('a1'), [{ code: 'link-down', interface: `wan0m in namespace ${NS}` }])
    await repair('a1')
    await a1.ok(`ip -n ${NS} link set dev host0 mtu 1400`)
    only(t, await doctor('a1'), [{ code: 'mtu-lowered', interface: `host0 in namespace ${NS}`, bytes: 1400 }])
    await repair('a1')
    await a1.ok(`bridge -n ${NS} fdb delete 00:00:00:00:00:00 dev site0 dst ${UNDERLAY.a2}`)
    const fdb = await doctor('a1')
    t.match(fdb.findings[0], { code: 'fdb-missing', interface: `site0 in namespace ${NS}`, address: UNDERLAY.a2, port: 4790 })
    t.match(codes(fdb), ['fdb-missing'], 'and what follows from it is not told')
    await repair('a1')
    await a2.ok('nft flush chain inet mz_guard guard_000101')
    only(t, await doctor('a2'), [{ code: 'chain', interface: 'inet mz_guard guard_000101' }])
    await repair('a2')
    await a2.ok('ip link delete dev mzs000101')
    await a2.ok(`ip link add name foreign type vxlan id 7 local ${UNDERLAY.a2} dstport 4790`)
    only(t, await doctor('a2'), [{ code: 'id-in-use', interface: 'foreign', port: 4790 }, { code: 'link-missing', interface: 'mzs000101' }])
    await a2.ok('ip link delete dev foreign')
    await repair('a2')
    t.match(await doctor('a2'), { ok: true })
  })

  await t.test('UDP of the site dropped by the filter of a host: told there by its rule, at the gateway by address and port', async t => {
    await drop(a2, 'input priority 0; policy accept; udp dport 4790 drop')
    only(t, await doctor('a2'), [{ code: 'udp-dropped-here', interface: 'inet site_rules c', port: 4790, what: /udp dport 4790 drop/ }])
    const near = await doctor('a1')
    only(t, near, [{ code: 'in-site-silent', address: UNDERLAY.a2, port: 4790, what: /c1-tokyo-002/ }])
    t.match(await at.a1.ping({ from: 'c1-tokyo-002', to: 'c1-osaka-003', path: true, count: 1 }), { ok: false, stopsAt: 'node', why: /10\.42\.1\.2/ })
    await undrop(a2)
    await drop(a1, 'input priority 0; policy accept; udp dport 4790 drop')
    only(t, await doctor('a2'), [{ code: 'gateway-silent', interface: 'mzb000101', address: '10.42.255.1', port: 4790 }])
    await undrop(a1)
  })

  await t.test('UDP between the sites dropped', async t => {
    await drop(b1, 'input priority 0; policy accept; udp dport { 51820, 51821 } drop')
    only(t, await doctor('a1'), [{ code: 'udp-dropped', site: 'osaka', interface: 'mzwg0', address: UNDERLAY.b1, port: 51820 }])
    t.match((await doctor('b1')).findings[0], { code: 'udp-dropped-here', interface: 'inet site_rules c', port: 51820 })
    const path = await at.a1.ping({ from: 'c1-tokyo-001', to: 'c1-osaka-003', path: true, count: 1 })
    say(pingText(path))
    t.match(path, { ok: false, stopsAt: 'tunnel', hops: { length: 7 } })
    t.match(path.hops.find(({ hop }) => hop === 'underlay'), { ok: true, largestBytes: 1484 })
    await undrop(b1)
    await drop(a1, 'output priority 0; policy drop; udp dport 4790 accept; icmp type echo-request accept; icmp type echo-reply accept')
    t.ok(codes(await doctor('a1')).includes('udp-dropped-here'), 'by a policy')
    await undrop(a1)
  })

  await t.test('a switch that lets less through: the size', async t => {
    await lab.underlay.ok('ip link set dev to-b1 mtu 1300')
    const found = await doctor('a1')
    const [first] = found.findings
    only(t, found, [{ code: 'black-hole', site: 'osaka', address: UNDERLAY.b1, port: 51820, what: /1300 bytes pass, and 1480 are needed/ }])
    t.ok(first?.bytes !== undefined && first.bytes !== null && first.bytes > 1_200 && first.bytes <= 1_240, `${first?.bytes ?? 0} bytes pass the tunnel: 1300 less 60, less padding to 16`)
    const path = await at.a1.ping({ from: 'c1-tokyo-001', to: 'c1-osaka-003', path: true, count: 1 })
    say(pingText(path))
    t.match(path, { stopsAt: 'underlay', why: /only 1300 of 1484 bytes pass/ })
    await lab.underlay.ok('ip link set dev to-b1 mtu 1500')
    await lab.underlay.ok('ip link set dev switch mtu 1500')
    await lab.underlay.ok('ip link set dev to-a2 mtu 1400')
    only(t, await doctor('a1'), [{ code: 'black-hole', interface: 'eth0', address: UNDERLAY.a2, port: 4790, bytes: 1400 }])
    await lab.underlay.ok('ip link set dev to-a2 mtu 1500')
    await lab.underlay.ok('ip link set dev switch mtu 1500')
  })

  await t.test('an endpoint that is wrong, and a wireguard-go that was killed', async t => {
    const key = tunnels.a1.peers[0]?.publicKey ?? ''
    // else WireGuard would follow the far side back to the right one with the next packet from there
    await drop(b1, 'output priority 0; policy accept; udp dport 51820 drop')
    await a1.ok(`wg set mzwg0 peer ${key} endpoint 10.77.0.99:51820`)
    only(t, await doctor('a1'), [{ code: 'endpoint-wrong', site: 'osaka', address: '10.77.0.99:51820', what: /10\.77\.0\.3:51820 was agreed/ }])
    await undrop(b1)
    await a1.ok(`wg set mzwg0 peer ${key} endpoint ${UNDERLAY.b1}:51820`)
    await repair('a1', 'b1')
    t.match(await doctor('a1'), { ok: true })

    const pid = (await a1.observe('tunnel'))[0]?.detail.pid
    await a1.ok(`kill -9 ${String(pid)}`)
    only(t, await doctor('a1'), [{ code: 'tunnel-missing', interface: 'mzwg0', port: 51820 }])
    only(t, await doctor('b1'), [{ code: 'udp-refused', site: 'tokyo', address: UNDERLAY.a1, port: 51820 }])
    await repair('a1')
    await a1.ok(`ip netns delete ${NS}`)
    t.match((await doctor('a1')).findings[0], { code: 'namespace', interface: NS })
    await t.test('and from the other side it is the gateway\'s part', async t => {
      t.match((await doctor('b1')).findings[0], { code: 'far-gateway-silent', site: 'tokyo', address: '10.42.255.1', port: 4789 })
    })
    await repair('a1')
    await a2.ok('ip link set dev eth0 down')
    only(t, await doctor('a2'), [{ code: 'underlay-down', interface: 'eth0', address: UNDERLAY.a2 }])
    await a2.ok('ip link set dev eth0 up')
  })

  await t.test('root takes frames by the helper, into a file of its own, and that is on record', async t => { await captureByCli(t, lab) })
  await t.test('frames are taken where they pass, of what was asked for, and no more', async t => { await captures(t, lab) })
})

async function captureByCli (t: Test, lab: Lab): Promise<void> {
  const { b1 } = lab.hosts
  const cli = async (...args: string[]): Promise<{ exitCode: number, stdout: string, stderr: string }> => await b1.run(process.execPath, [CLI, ...args, '-c', '/run/agent.yaml'], { timeoutMs: 60_000 })
  const file = JSON.stringify({
    name: 'b1', site: 'osaka', roles: ['gateway', 'compute'], listen: ['/ip4/127.0.0.1/tcp/0'], underlayAddress: UNDERLAY.b1, segmentIds: { from: 1, to: 9 }, stateDir: '/run/agent', runDir: '/run/musubi',
    helper: { socket: '/run/h/helper.sock', stateDir: '/run/helper', agentUser: 64_007 }
  })
  await b1.ok('tee /run/agent.yaml', { input: file })
  await b1.ok('mkdir /run/helper')
  // the records that the pod's drivers keep
  await b1.ok('ln -s /run/state /run/helper/network')
  // it ends with the pod
  b1.run(process.execPath, [CLI, 'helper', 'run', '-c', '/run/agent.yaml'], { timeoutMs: 120_000 }).catch(() => undefined)
  await eventually('the helper answers', async () => (await cli('host', 'owned')).exitCode === 0, 60_000)
  const capture = cli('segment', 'capture', 'c1', '--port', 'wan', '--proto', 'icmp', '--count', '3', '-w', '/run/x.pcap', '--json')
  let done = false
  const ended = capture.finally(() => { done = true })
  while (!done) await b1.run('ping', ['-c', '1', '-W', '1', '10.42.255.1'], { netns: NS })
  const { exitCode, stdout, stderr } = await ended
  t.equal(exitCode, 0, stderr)
  t.strictSame(JSON.parse(stdout), { space: NS, link: 'wan0', frames: 3, file: '/run/x.pcap' })
  t.match(await b1.ok('stat -c %a /run/x.pcap'), /^600\n/)
  t.match((await b1.run('tcpdump', ['-n', '-r', '/run/x.pcap'])).stdout, /10\.42\.255\.2 > 10\.42\.255\.1: ICMP echo request/)
  t.not((await cli('segment', 'capture', 'c1', '-w', '/run/x.pcap')).exitCode, 0, 'a file that is there is not written over')
  t.match(await cli('segment', 'capture', 'nobodys'), { exitCode: 1, stderr: /carries no segment of "nobodys"[^]*c1/ })
  t.match(await cli('segment', 'capture', 'c1', '--proto', 'tcp or udp'), { exitCode: 2, stderr: /--proto must be one of/ })
  t.match(await cli('segment', 'capture', 'c1', '--host', '10.0.0.1 or host 10.0.0.2'), { exitCode: 2 })
  t.match(await b1.ok('cat /run/helper/record.jsonl'), /"verb":"segment-capture","resource":"segment c1"/)
}

async function captures (t: Test, lab: Lab): Promise<void> {
  const { a1, b1 } = lab.hosts
  const take = async (pod: Pod, request: object): Promise<{ frames: number, link: string, space: string | null, pcap: string }> => {
    const { stdout, stderr } = await pod.run(process.execPath, [ASK, JSON.stringify({ capture: 'c1', request })], { timeoutMs: 60_000 })
    if (stdout === '') throw new Error(stderr)
    return JSON.parse(stdout) as never
  }
  const request = { port: 'wan', count: 5, seconds: 20, snapBytes: 96, filter: { host: '10.42.255.2', proto: 'icmp' } }
  const taking = take(b1, request)
  let done = false
  const ended = taking.finally(() => { done = true })
  while (!done) await a1.run('ping', ['-c', '1', '-W', '1', '10.42.255.2'], { netns: NS })
  const taken = await ended
  t.match(taken, { frames: 5, link: 'wan0', space: NS })
  const bytes = Buffer.from(taken.pcap, 'base64')
  t.equal(bytes.readUInt32LE(0), 0xa1b2c3d4, 'a pcap file')
  t.ok(bytes.length <= 24 + 5 * (16 + 96))
  t.match(await take(b1, { ...request, seconds: 1, filter: { host: '10.42.9.9' } }), { frames: 0 }, 'of nobody there is nothing, after a second')
  await t.rejects(take(b1, { ...request, count: 10_000, snapBytes: 9_216 }), /at most 4194304 are taken/)
  await t.rejects(take(lab.hosts.a2, request), /no way to other sites/)
}
