/** Three lab hosts of two sites on one underlay, and stand-ins for virtual machines. */
import { hostBridgeName, tapName } from '../../protocol/core/desired.ts'
import { tunnelAddressFor } from '../../agent/drivers/network/address.ts'
import { run } from '../../agent/exec.ts'
import { startPod } from './network-pod.ts'
import type { SegmentMember, SegmentSpec, TunnelSpec } from '../../protocol/core/desired.ts'
import type { Trunk } from '../../agent/drivers/network/vlan/trunk.ts'
import type { Pod } from './network-pod.ts'

export type GatewayName = 'a1' | 'b1' | 'c1'
export type HostName = GatewayName | 'a2' | 'b2'
/** Two sites, as most tests have them. */
export const HOSTS: ReadonlyArray<Exclude<HostName, 'b2'>> = ['a1', 'a2', 'b1']
/** Three sites. */
export const MORE_HOSTS: ReadonlyArray<Exclude<HostName, 'b2'>> = [...HOSTS, 'c1']
const isGateway = (host: HostName): host is GatewayName => host.endsWith('1')
const gatewaysOf = (hosts: readonly HostName[]): GatewayName[] => hosts.filter(isGateway)
export const UNDERLAY: Record<HostName, string> = { a1: '10.77.0.1', a2: '10.77.0.2', b1: '10.77.0.3', c1: '10.77.0.4', b2: '10.77.0.5' }
export const TUNNEL: Record<GatewayName, string> = { a1: tunnelAddressFor('gateway of a'), b1: tunnelAddressFor('gateway of b'), c1: tunnelAddressFor('gateway of c') }

export interface Lab {
  underlay: Pod
  /** those that were asked for */
  hosts: Record<HostName, Pod>
  stop (): Promise<void>
}

/**
 * a1, b1 and c1 are gateways of the sites a, b and c, a2 and b2 are compute hosts of a and b; the underlay is a switch with MTU 1500.
 * @param trunks of hosts whose segments go by VLAN inside the site; who wants the NIC makes it
 */
export async function startLab (names: readonly HostName[] = HOSTS, trunks: Partial<Record<HostName, Trunk>> = {}): Promise<Lab> {
  const pods: Pod[] = []
  const stop = async (): Promise<void> => { await Promise.all(pods.map(async (pod) => { await pod.stop() })) }
  try {
    const start = async (name?: HostName): Promise<Pod> => {
      const trunk = name === undefined ? undefined : trunks[name]
      const pod = await startPod(trunk === undefined ? {} : { trunk })
      pods.push(pod)
      return pod
    }
    const [underlay, ...started] = await Promise.all([start(), ...names.map(async (name) => await start(name))])
    const hosts = Object.fromEntries(names.map((name, n) => [name, started[n]])) as Record<HostName, Pod>
    await underlay.ok('ip link add name switch type bridge stp_state 0 forward_delay 0 mcast_snooping 0')
    await underlay.ok('ip link set dev switch up')
    for (const name of names) {
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

/** A tunnel from each gateway to all others. */
export async function tunnelSpecs (lab: Lab, hosts: readonly HostName[] = HOSTS): Promise<Record<GatewayName, TunnelSpec>> {
  const gateways = gatewaysOf(hosts)
  const keys = new Map(await Promise.all(gateways.map(async (name) => [name, await lab.hosts[name].publicKey()] as const)))
  const spec = (own: GatewayName): TunnelSpec => ({
    listenPort: 51_820,
    address: TUNNEL[own],
    peers: gateways.filter((name) => name !== own).map((name) => ({ site: name, publicKey: keys.get(name) ?? '', endpoint: `${UNDERLAY[name]}:51820`, address: TUNNEL[name] }))
  })
  return Object.fromEntries(gateways.map((name) => [name, spec(name)])) as Record<GatewayName, TunnelSpec>
}

/** Where the nodes of every cluster are: the same numbers and addresses in each. */
export const PLACES: Record<HostName, { index: number, address: string }> = {
  a1: { index: 0, address: '10.42.1.1' }, a2: { index: 1, address: '10.42.1.2' }, b1: { index: 2, address: '10.42.2.1' }, c1: { index: 3, address: '10.42.3.1' }, b2: { index: 4, address: '10.42.2.2' }
}
/** MAC of a node, the same in every cluster. */
export const macOf = (index: number): string => `52:54:00:00:01:0${index}`
/** The frontend of every cluster, at the gateway of site a; who wants it makes `fe0`. */
export const FRONTEND = { mac: '52:54:00:00:00:01', address: '10.42.0.1' } as const

const siteOf = (host: HostName): string => host.slice(0, 1)
const gatewayAt = (site: string): GatewayName => gatewaysOf(MORE_HOSTS).find((host) => siteOf(host) === site) ?? 'a1'

/** Everybody on the segment, as one host sees them. */
function membersOf (vni: number, self: HostName, hosts: readonly HostName[]): SegmentMember[] {
  const place = (host: HostName): Pick<SegmentMember, 'where' | 'via'> => {
    if (host === self) return { where: 'host' }
    if (siteOf(host) === siteOf(self)) return { where: 'site', via: UNDERLAY[host] }
    return isGateway(self) ? { where: 'remote', via: TUNNEL[gatewayAt(siteOf(host))] } : { where: 'remote', via: UNDERLAY[gatewayAt(siteOf(self))] }
  }
  return [
    { role: 'frontend', ...FRONTEND, ...place('a1') },
    ...gatewaysOf(hosts).map((host): SegmentMember => ({ role: 'gateway', ...gatewayOf(vni, host), ...place(host) })),
    ...hosts.map((host): SegmentMember => {
      const { index, address } = PLACES[host]
      return { role: 'node', mac: macOf(index), address, ...place(host), ...(host === self ? { tap: tapName(vni, index) } : {}) }
    })
  ]
}

const gatewayOf = (vni: number, host: GatewayName): { mac: string, address: string } => {
  const last = gatewaysOf(MORE_HOSTS).indexOf(host) + 1
  return { mac: `02:00:00:00:0${last}:${(vni & 0xff).toString(16).padStart(2, '0')}`, address: `10.42.255.${last}` }
}

/** A cluster over all sites, 10.42.0.0/16 like every other; the site ids differ from site to site. */
export function segmentSpecs (cluster: string, vni: number, siteIds: Record<string, number>, hosts: readonly HostName[] = HOSTS): Record<HostName, SegmentSpec> {
  const spec = (host: HostName): SegmentSpec => {
    const site = {
      segmentId: siteIds[siteOf(host)] ?? 0,
      localAddress: UNDERLAY[host],
      remoteAddresses: hosts.filter((other) => siteOf(other) === siteOf(host) && other !== host).map((other) => UNDERLAY[other])
    }
    const own: SegmentSpec = { cluster, vni, site, compute: true, known: { antiSpoof: true, members: membersOf(vni, host, hosts) } }
    if (!isGateway(host)) return own
    const { mac, address } = gatewayOf(vni, host)
    const remoteAddresses = gatewaysOf(hosts).filter((other) => other !== host).map((other) => TUNNEL[other])
    return { ...own, gateway: { address: `${address}/16`, bridgeMac: mac, tunnel: { localAddress: TUNNEL[host], remoteAddresses } } }
  }
  return Object.fromEntries(hosts.map((host) => [host, spec(host)])) as Record<HostName, SegmentSpec>
}

/** As where a frontend gives out addresses that nobody else knows. */
export function withoutKnown (spec: SegmentSpec): SegmentSpec {
  const rest = { ...spec }
  delete rest.known
  return rest
}

/** A virtual machine's place: a namespace whose interface hangs on a tap's name at the host bridge. Its name is that namespace. */
export async function addNode (pod: Pod, vni: number, index: number, address: string): Promise<string> {
  const ns = `node-${vni}-${index}`
  const tap = tapName(vni, index)
  await pod.ok(`ip netns add ${ns}`)
  await pod.ok(`ip link add name ${tap} type veth peer name eth0 netns ${ns}`)
  await pod.ok(`ip link set dev ${tap} master ${hostBridgeName(vni)} up`)
  await pod.ok(`ip -n ${ns} link set dev eth0 address ${macOf(index)}`)
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
  return lines.join('\n').replaceAll(/ (timeout|expires) \w+/g, '').replaceAll(/counter packets \d+ bytes \d+/g, 'counter')
}

/** Packets that the first rule with this comment has counted, in a namespace of a pod. */
export async function counted (pod: Pod, comment: string, netns?: string): Promise<number> {
  const text = await pod.ok('nft list ruleset', netns === undefined ? {} : { netns })
  const line = text.split('\n').find((l) => l.includes(`comment "${comment}"`)) ?? ''
  return Number(/counter packets (\d+)/.exec(line)?.[1] ?? Number.NaN)
}

/** As where a frontend gives out addresses that are learnt from it. */
export const learning = (spec: SegmentSpec): SegmentSpec => spec.known === undefined ? spec : { ...spec, known: { ...spec.known, members: spec.known.members.map((one) => one.role === 'node' ? { ...one, address: null } : one) } }

/** No tunnel: two gateways of one underlay reach each other's tunnel addresses by a route through a link of that name. */
export async function joinGateways ({ hosts: { a1, b1 } }: Lab): Promise<void> {
  for (const [pod, own, far] of [[a1, TUNNEL.a1, TUNNEL.b1], [b1, TUNNEL.b1, TUNNEL.a1]] as const) {
    await pod.ok('ip link add link eth0 name mzwg0 type macvlan mode bridge')
    await pod.ok(`ip address add ${own}/32 dev mzwg0`)
    await pod.ok('ip link set dev mzwg0 up')
    await pod.ok(`ip route add ${far}/32 dev mzwg0`)
  }
}
