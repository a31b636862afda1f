/** Sites of one gateway each on one switch, in pods, and a cluster over them with one node at each. */
import { tunnelAddressFor } from '../../agent/drivers/network/address.ts'
import { run } from '../../agent/exec.ts'
import { hostBridgeName, tapName } from '../../protocol/core/desired.ts'
import type { SegmentMember, SegmentSpec, TunnelSpec } from '../../protocol/core/desired.ts'
import { startPod } from '../host/network-pod.ts'
import type { Pod } from '../host/network-pod.ts'

const LISTEN_PORT = 51_820
const hex2 = (value: number): string => value.toString(16).padStart(2, '0')

/** Underlay address of the n-th site's gateway, counted from 0. */
export const underlayOf = (site: number): string => `10.77.0.${site + 1}`
export const tunnelOf = (site: number): string => tunnelAddressFor(`gateway of site ${site}`)
/** Address of the n-th site's node on every segment. */
export const nodeAddressOf = (site: number): string => `10.42.${site + 1}.1`
export const nodeMacOf = (site: number): string => `52:54:00:00:01:${hex2(site)}`
export const nodeSpace = (vni: number): string => `node-${vni}`
const FRONTEND: Pick<SegmentMember, 'role' | 'mac' | 'address'> = { role: 'frontend', mac: '52:54:00:00:00:01', address: '10.42.0.1' }

export interface Sites {
  pods: Pod[]
  stop: () => Promise<void>
}

/** Pods with `eth0` on a switch with MTU 1500; nothing of ours is in them yet. */
export async function startSites (count: number): Promise<Sites> {
  const pods: Pod[] = []
  const stop = async (): Promise<void> => { await Promise.all(pods.map(async pod => { await pod.stop() })) }
  try {
    const underlay = await startPod()
    pods.push(underlay)
    await underlay.ok('ip link add name switch type bridge stp_state 0 forward_delay 0 mcast_snooping 0')
    await underlay.ok('ip link set dev switch up')
    for (let site = 0; site < count; site++) {
      const pod = await startPod()
      pods.push(pod)
      // only from outside the pods are both namespaces in sight
      await run('nsenter', ['--net', '--target', String(underlay.pid), 'ip', 'link', 'add', 'name', `to-${site}`, 'type', 'veth', 'peer', 'name', 'eth0', 'netns', String(pod.pid)])
      await underlay.ok(`ip link set dev to-${site} master switch up`)
      await pod.ok(`ip address add ${underlayOf(site)}/24 dev eth0`)
      await pod.ok('ip link set dev eth0 up')
    }
    return { pods: pods.slice(1), stop }
  } catch (error) {
    await stop()
    throw error
  }
}

/** Tunnel of every site to all others. */
export async function tunnelsOf ({ pods }: Sites): Promise<TunnelSpec[]> {
  const keys = await Promise.all(pods.map(async pod => await pod.publicKey()))
  return pods.map((_, own) => ({
    listenPort: LISTEN_PORT,
    address: tunnelOf(own),
    peers: keys.flatMap((publicKey, site) => site === own ? [] : [{ site: `s${site}`, publicKey, endpoint: `${underlayOf(site)}:${LISTEN_PORT}`, address: tunnelOf(site) }])
  }))
}

/** A cluster with a node at each of so many sites, as each of their gateways sees it; the frontend is at the first. */
export function segmentsOf (count: number, vni: number): SegmentSpec[] {
  const all = Array.from({ length: count }, (_, site) => site)
  const gateway = (site: number): { mac: string, address: string } => ({ mac: `02:00:00:${hex2(vni >> 8)}:${hex2(vni & 0xff)}:${hex2(site)}`, address: `10.42.255.${site + 1}` })
  return all.map(own => {
    const place = (site: number): Pick<SegmentMember, 'where' | 'via'> => site === own ? { where: 'host' } : { where: 'remote', via: tunnelOf(site) }
    const members: SegmentMember[] = [
      { ...FRONTEND, ...place(0) },
      ...all.map((site): SegmentMember => ({ role: 'gateway', ...gateway(site), ...place(site) })),
      ...all.map((site): SegmentMember => ({ role: 'node', mac: nodeMacOf(site), address: nodeAddressOf(site), ...place(site), ...(site === own ? { tap: tapName(vni, 0) } : {}) }))
    ]
    const { mac, address } = gateway(own)
    return {
      cluster: `c${vni}`,
      vni,
      site: { segmentId: vni, localAddress: underlayOf(own), remoteAddresses: [] },
      compute: true,
      gateway: { address: `${address}/16`, bridgeMac: mac, tunnel: { localAddress: tunnelOf(own), remoteAddresses: all.filter(site => site !== own).map(tunnelOf) } },
      known: { antiSpoof: true, members }
    }
  })
}

/** A namespace in the place of a virtual machine, on the bridge of its host. */
export async function addNode (pod: Pod, vni: number, site: number): Promise<void> {
  const tap = tapName(vni, 0)
  await plugNode(pod, nodeSpace(vni), tap, site)
  await pod.ok(`ip link set dev ${tap} master ${hostBridgeName(vni)} up`)
}

/** A namespace with a node's address; `port` is the other end of its interface. */
export async function plugNode (pod: Pod, space: string, port: string, site: number): Promise<void> {
  await pod.ok(`ip netns add ${space}`)
  await pod.ok(`ip link add name ${port} type veth peer name eth0 netns ${space}`)
  await pod.ok(`ip -n ${space} link set dev eth0 address ${nodeMacOf(site)}`)
  await pod.ok(`ip -n ${space} address add ${nodeAddressOf(site)}/16 broadcast + dev eth0`)
  await pod.ok(`ip -n ${space} link set dev eth0 up`)
}
