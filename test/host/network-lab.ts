/** Three lab hosts of two sites on one underlay, and stand-ins for virtual machines. */
import { hostBridgeName, tapName } from '../../protocol/core/desired.ts'
import { tunnelAddressFor } from '../../agent/drivers/network/address.ts'
import { run } from '../../agent/exec.ts'
import { startPod } from './network-pod.ts'
import type { SegmentSpec, TunnelSpec } from '../../protocol/core/desired.ts'
import type { Pod } from './network-pod.ts'

export type HostName = 'a1' | 'a2' | 'b1'
export const HOSTS: readonly HostName[] = ['a1', 'a2', 'b1']
export const UNDERLAY: Record<HostName, string> = { a1: '10.77.0.1', a2: '10.77.0.2', b1: '10.77.0.3' }
export const TUNNEL: Record<'a1' | 'b1', string> = { a1: tunnelAddressFor('gateway of a'), b1: tunnelAddressFor('gateway of b') }

export interface Lab {
  underlay: Pod
  hosts: Record<HostName, Pod>
  stop (): Promise<void>
}

/** a1 and b1 are gateways of the sites a and b, a2 is a compute host of a; the underlay is a switch with MTU 1500. */
export async function startLab (): Promise<Lab> {
  const pods: Pod[] = []
  const stop = async (): Promise<void> => { await Promise.all(pods.map(async (pod) => { await pod.stop() })) }
  try {
    const start = async (): Promise<Pod> => {
      const pod = await startPod()
      pods.push(pod)
      return pod
    }
    const [underlay, a1, a2, b1] = await Promise.all([start(), start(), start(), start()])
    const hosts = { a1, a2, b1 }
    await underlay.ok('ip link add name switch type bridge stp_state 0 forward_delay 0 mcast_snooping 0')
    await underlay.ok('ip link set dev switch up')
    for (const name of HOSTS) {
      // only from outside the pods are both namespaces in sight
      await run('nsenter', ['--net', '--target', String(underlay.pid), 'ip', 'link', 'add', 'name', `to-${name}`, 'type', 'veth', 'peer', 'name', 'eth0', 'netns', String(hosts[name].pid)])
      await underlay.ok(`ip link set dev to-${name} master switch up`)
      await hosts[name].ok(`ip address add ${UNDERLAY[name]}/24 dev eth0`)
      await hosts[name].ok('ip link set dev eth0 up')
    }
    return { underlay, hosts, stop }
  } catch (error) {
    await stop()
    throw error
  }
}

/** One tunnel between the two gateways. */
export async function tunnelSpecs (lab: Lab): Promise<Record<'a1' | 'b1', TunnelSpec>> {
  const keys = { a1: await lab.hosts.a1.publicKey(), b1: await lab.hosts.b1.publicKey() }
  const spec = (own: 'a1' | 'b1', peer: 'a1' | 'b1'): TunnelSpec => ({
    listenPort: 51_820,
    address: TUNNEL[own],
    peers: [{ site: peer, publicKey: keys[peer], endpoint: `${UNDERLAY[peer]}:51820`, address: TUNNEL[peer] }]
  })
  return { a1: spec('a1', 'b1'), b1: spec('b1', 'a1') }
}

/** A cluster over both sites, 10.42.0.0/16 like every other; the site ids differ from site to site. */
export function segmentSpecs (cluster: string, vni: number, siteIds: { a: number, b: number }): Record<HostName, SegmentSpec> {
  const site = (host: HostName): SegmentSpec['site'] => {
    const members = HOSTS.filter((other) => other.startsWith(host.slice(0, 1)))
    return {
      segmentId: host === 'b1' ? siteIds.b : siteIds.a,
      localAddress: UNDERLAY[host],
      remoteAddresses: members.filter((other) => other !== host).map((other) => UNDERLAY[other])
    }
  }
  const gateway = (own: 'a1' | 'b1', peer: 'a1' | 'b1', last: number): NonNullable<SegmentSpec['gateway']> => ({
    address: `10.42.255.${last}/16`,
    bridgeMac: `02:00:00:00:0${last}:${(vni & 0xff).toString(16).padStart(2, '0')}`,
    tunnel: { localAddress: TUNNEL[own], remoteAddresses: [TUNNEL[peer]] }
  })
  return {
    a1: { cluster, vni, site: site('a1'), compute: true, gateway: gateway('a1', 'b1', 1) },
    a2: { cluster, vni, site: site('a2'), compute: true },
    b1: { cluster, vni, site: site('b1'), compute: true, gateway: gateway('b1', 'a1', 2) }
  }
}

/** A virtual machine's place: a namespace whose interface hangs on a tap's name at the host bridge. Its name is that namespace. */
export async function addNode (pod: Pod, vni: number, index: number, address: string): Promise<string> {
  const ns = `node-${vni}-${index}`
  const tap = tapName(vni, index)
  await pod.ok(`ip netns add ${ns}`)
  await pod.ok(`ip link add name ${tap} type veth peer name eth0 netns ${ns}`)
  await pod.ok(`ip link set dev ${tap} master ${hostBridgeName(vni)} up`)
  await pod.ok(`ip -n ${ns} address add ${address}/16 broadcast + dev eth0`)
  await pod.ok(`ip -n ${ns} link set dev eth0 up`)
  return ns
}

export async function removeNode (pod: Pod, vni: number, index: number): Promise<void> {
  await pod.ok(`ip link delete dev ${tapName(vni, index)}`)
  await pod.ok(`ip netns delete node-${vni}-${index}`)
}

/** Everything of a host that a driver could have changed, as text; counters, timers and what sets have learned left out. */
export async function picture (pod: Pod): Promise<string> {
  const lines: string[] = []
  const links = async (ns: string[]): Promise<void> => {
    for (const link of JSON.parse(await pod.ok(['ip', ...ns, '-json', 'address', 'show'].join(' '))) as Array<Record<string, unknown>>) {
      const addresses = (link.addr_info as Array<Record<string, unknown>>).map(({ local, prefixlen }) => `${String(local)}/${String(prefixlen)}`)
      lines.push([...ns, link.ifindex, link.ifname, link.address, link.master ?? '', link.mtu, ...addresses].join(' '))
    }
  }
  await links([])
  lines.push(await pod.ok('ip route show'), await pod.ok('nft -a -t list ruleset'))
  for (const line of (await pod.ok('ip netns list')).split('\n').filter((l) => l !== '').sort()) {
    const ns = line.split(' ')[0] ?? ''
    lines.push(ns)
    await links(['-n', ns])
    lines.push(await pod.ok('nft -a list ruleset', { netns: ns }))
  }
  return lines.join('\n').replaceAll(/counter packets \d+ bytes \d+/g, 'counter')
}

/** Packets that the first rule with this comment has counted, in a namespace of a pod. */
export async function counted (pod: Pod, comment: string, netns?: string): Promise<number> {
  const text = await pod.ok('nft list ruleset', netns === undefined ? {} : { netns })
  const line = text.split('\n').find((l) => l.includes(`comment "${comment}"`)) ?? ''
  return Number(/counter packets (\d+)/.exec(line)?.[1] ?? Number.NaN)
}
