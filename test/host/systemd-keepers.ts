import type { Test } from 'tap'
import { setTimeout as sleep } from 'node:timers/promises'
import { LIVE_SECONDS } from '../../agent/drivers/cache/intercept/nft.ts'
import { serviceNames } from '../../agent/drivers/cache/plan.ts'
import { FORWARD_SERVICE } from '../../agent/drivers/network/forward/forwarding.ts'
import { SNOOP_SERVICE } from '../../agent/drivers/network/snoop/snooping.ts'
import { FORWARD_LIFETIME_MS } from '../../protocol/core/limits.ts'
import { clusterNamespace, hostBridgeName, tapName, type CacheSpec, type SegmentSpec, type TunnelSpec } from '../../protocol/core/desired.ts'
import { eventually } from '../contract/services.ts'
import { TREE_INSIDE, type SystemdHost } from './systemd-host.ts'

const VNI = 0xcace
const PORT = 80
const UNIT = `musubi-svc-${serviceNames(VNI).prober}.service`
const NODE = `${TREE_INSIDE}/node_modules/.bin/node`
const WAIT_MS = 30_000
/** What `systemd-analyze security` may find of the keepers that only talk to the kernel. */
const EXPOSURE_MAX = 4.5
const NETLINK_KEEPERS = [FORWARD_SERVICE, SNOOP_SERVICE].map(name => `musubi-svc-${name}.service`)
const [FRONTEND_MAC, NODE_MAC] = ['52:54:00:00:ca:01', '52:54:00:00:ca:02']
const TAP = tapName(VNI, 0)
/** A node's frame to all, of a type for experiments (IEEE 802): questions by ARP may be answered at home. */
const FRAME = `ffffffffffff${NODE_MAC.replaceAll(':', '')}88b5${'00'.repeat(46)}`
const bridgeMac = '02:00:00:00:ca:ce'
const segment: SegmentSpec = {
  cluster: 'kept', vni: VNI, compute: true, site: { segmentId: 1_009, localAddress: '10.67.0.1', remoteAddresses: [] },
  gateway: { address: '10.42.255.2/16', bridgeMac, tunnel: { localAddress: '100.64.0.1', remoteAddresses: ['100.64.0.2'] } },
  known: {
    antiSpoof: true,
    members: [
      { role: 'frontend', mac: FRONTEND_MAC, address: '10.42.0.1', where: 'host' }, { role: 'gateway', mac: bridgeMac, address: '10.42.255.2', where: 'host' },
      { role: 'node', mac: NODE_MAC, address: null, where: 'host', tap: TAP }
    ]
  }
}
const cache: CacheSpec = { cluster: 'kept', vni: VNI, frontendAddress: '10.42.0.1', ownAddress: '10.42.255.2', bridgeMac, ports: [PORT], maxSizeMiB: 64 }
const tunnel: TunnelSpec = { listenPort: 51_820, address: '100.64.0.1/32', peers: [] }
const order = { clusterId: 'kept', counter: 1 }

/**
 * The keeper of a cache goes on when neither agent nor helper is there, and comes back when it is killed.
 * A site of one host has neither cache nor tunnel, so the helper is asked by hand, in the name of a
 * cluster that only it knows of: what it needs for them it has in its confinement.
 */
export async function keepersTest (t: Test, host: SystemdHost, units: { agent: string, helper: string }): Promise<void> {
  const out = async (...argv: string[]): Promise<string> => (await host.exec(argv, { timeoutMs: WAIT_MS })).stdout.trim()
  const ask = async (...orders: Array<[verb: string, params: object]>): Promise<unknown[]> =>
    JSON.parse(await out('setpriv', '--reuid=musubi', '--regid=musubi', '--clear-groups', 'env', '-u', 'NODE_OPTIONS', NODE, `${TREE_INSIDE}/test/host/systemd-orders.ts`, '/run/musubi-helper/helper.sock', JSON.stringify(orders))) as unknown[]
  const live = async (): Promise<boolean> => (await out('ip', 'netns', 'exec', clusterNamespace(VNI), 'nft', 'list', 'set', 'bridge', 'mz_cache', 'live')).includes(`${PORT} timeout`)
  const prober = (): Promise<string> => out('systemctl', 'show', '--property=MainPID', '--value', UNIT)

  const mainPid = (unit: string): Promise<string> => out('systemctl', 'show', '--property=MainPID', '--value', unit)
  // the container shows a boot's id of its own, but not to units with a /proc of their own: on a host all see the same
  await out('umount', '/proc/sys/kernel/random/boot_id')
  // it would remove what no ledger of its own asks for; and its end is one that nobody has prepared
  await out('kill', '-KILL', await mainPid(units.agent))
  await out('systemctl', 'stop', units.agent)
  const claim = { ...order, endMs: Date.now() + 3_600_000 }
  const made = await ask(
    ['probe', {}], ['apply', { kind: 'tunnel', name: 'wg', spec: tunnel, claim: null }], ['observe', { kind: 'tunnel' }],
    ['apply', { kind: 'segment', name: 'kept.segment', spec: segment, claim }], ['apply', { kind: 'cache', name: 'kept.cache', spec: cache, claim }],
    ['segment-ping', { vni: VNI, address: '10.42.255.2' }], ['observe', { kind: 'cache' }],
    ['segment-look', { name: 'kept' }], ['segment-echo', { name: 'kept', where: 'segment', address: '10.42.255.2', bytes: 1500, count: 2, largest: true }],
    ['cache-list', { name: 'kept.cache' }])
  t.same(made[0], [], 'its drivers lack nothing of what they need')
  t.match(made[2], [{ name: 'wg', healthy: true }])
  t.match(made[5], { ok: true }, 'a socket for ping is had outside of the helper')
  t.match(made[6], [{ name: 'kept.cache', healthy: true }])
  t.match(made[7], { cluster: 'kept', namespace: { name: clusterNamespace(VNI), state: 'ok' } }, 'a segment is looked at')
  t.match(made[8], { echo: { received: 2 }, largestBytes: 1500 })
  t.same(made[9], { objects: [], next: null }, 'a store is read by a program with its engine\'s rights')
  t.match(JSON.parse(await out('musubi', '--json', 'segment', 'capture', 'kept', '--seconds', '1')), { link: hostBridgeName(VNI), frames: 0, pcap: /^[A-Za-z0-9+/]{32}$/ }, 'frames are taken outside of the helper, and come back whole')

  const inside = ['ip', 'netns', 'exec', clusterNamespace(VNI)]
  /** Sends so many frames from the node. @returns how many went out to other sites */
  const crossing = async (count: number): Promise<number> => {
    await host.exec([...inside, 'nft', '-f', '-'], { input: 'table bridge probe\ndelete table bridge probe\ntable bridge probe {\n chain out {\n type filter hook postrouting priority 10\n oifname "wan0m" counter comment "out"\n }\n}\n' })
    const index = (JSON.parse(await out('ip', '-n', 'node', '-json', 'link', 'show', 'dev', 'eth0')) as Array<{ ifindex: number }>)[0]?.ifindex ?? 0
    await host.exec(['ip', 'netns', 'exec', 'node', 'perl', `${TREE_INSIDE}/test/host/frames.pl`, 'send', 'eth0', String(index), String(count), '50'], { input: `${FRAME}\n` })
    return Number(/counter packets (\d+)/.exec(await out(...inside, 'nft', 'list', 'table', 'bridge', 'probe'))?.[1])
  }
  await out('ip', 'netns', 'add', 'node')
  await out('ip', 'link', 'add', 'name', TAP, 'type', 'veth', 'peer', 'name', 'eth0', 'netns', 'node')
  await out('ip', 'link', 'set', 'dev', TAP, 'master', hostBridgeName(VNI), 'up')
  await out('ip', '-n', 'node', 'link', 'set', 'dev', 'eth0', 'address', NODE_MAC, 'addrgenmode', 'none', 'up')
  t.equal(await crossing(20), 20, 'frames cross')
  for (const unit of [...NETLINK_KEEPERS, UNIT]) {
    const exposure = Number(/exposure level for \S+: ([0-9.]+)/.exec(await out('systemd-analyze', 'security', '--no-pager', unit))?.[1])
    if (unit !== UNIT) t.ok(exposure <= EXPOSURE_MAX, `exposure of ${unit}: ${exposure}`)
    t.comment(`exposure of ${unit}: ${exposure}`)
  }
  const kept = await Promise.all(NETLINK_KEEPERS.map(mainPid))

  await out('kill', '-KILL', await mainPid(units.helper))
  await out('systemctl', 'stop', units.helper)
  await sleep(FORWARD_LIFETIME_MS + 2_000)
  t.strictSame(await Promise.all(NETLINK_KEEPERS.map(mainPid)), kept, 'keepers go on')
  t.equal(await crossing(20), 20, 'and frames cross, longer than what was opened last by agent or helper lasts')
  t.match(await out('nft', 'list', 'ruleset'), `${FRONTEND_MAC} . 10.42.0.1`, 'addresses are learnt')
  const [forward = ''] = kept
  await out('kill', '-KILL', forward)
  await eventually('the keeper of the forwarding lease is there again', async () => !['0', forward].includes(await mainPid(NETLINK_KEEPERS[0] ?? '')), WAIT_MS)
  t.equal(await crossing(20), 20)
  const pid = await prober()
  t.match(pid, /^[1-9]/)
  await out('kill', '-KILL', pid)
  // what the one that was killed has kept up runs out
  await sleep((LIVE_SECONDS + 1) * 1000)
  await eventually('it is there again', async () => !['0', pid].includes(await prober()), WAIT_MS)
  await eventually('it does its work again', live, WAIT_MS)

  await out('ip', 'netns', 'delete', 'node')
  await out('systemctl', 'start', units.helper)
  t.match((await ask(['observe', { kind: 'cache' }]))[0], [{ name: 'kept.cache', healthy: true }], 'the next helper takes it over as it is')
  await ask(['remove', { kind: 'tunnel', name: 'wg', claim: null }], ['remove', { kind: 'cache', name: 'kept.cache', claim: order }], ['remove', { kind: 'segment', name: 'kept.segment', claim: order }])
  t.equal(await out('systemctl', 'list-units', '--all', '--plain', '--no-legend', 'musubi-svc-*'), '')
  t.notMatch(await out('ip', 'netns', 'list'), /^mz/m)
}
