/** A segment whose frontend gives out addresses by itself: a real DHCP server, and what nodes ask it with. */
import { existsSync } from 'node:fs'
import { clusterNamespace } from '../../protocol/core/desired.ts'
import { addNode, FRONTEND, HOSTS, learning, PLACES, segmentSpecs, type Lab } from './network-lab.ts'
import type { Pod } from './network-pod.ts'

/** Why tests of it cannot run here; false when they can. */
export const needsDhcp = process.getuid?.() !== 0 ? 'needs root' : existsSync('/usr/bin/busybox') && existsSync('/usr/sbin/dnsmasq') ? false : 'needs busybox and dnsmasq'

/** What busybox calls with what it was given. */
const SCRIPT = '#!/bin/sh\ncase "$1" in bound|renew) ip address flush dev "$interface"; ip address add "$ip/16" broadcast + dev "$interface";; deconfig) ip address flush dev "$interface";; esac\n'

/**
 * The segment on all hosts, a node on each, and the frontend in a namespace of the first gateway.
 *
 * @param netns name of the frontend's namespace
 * @param leaseTime as dnsmasq has it; null: no server
 */
export async function startDhcpSegment (lab: Lab, { name, vni, ids, netns, leaseTime }: { name: string, vni: number, ids: Record<string, number>, netns: string, leaseTime: string | null }): Promise<void> {
  const { a1 } = lab.hosts
  const specs = segmentSpecs(name, vni, ids)
  const cluster = clusterNamespace(vni)
  for (const host of HOSTS) {
    const pod = lab.hosts[host]
    await pod.apply('segment', name, learning(specs[host]))
    await addNode(pod, vni, PLACES[host].index, PLACES[host].address)
    await pod.ok('tee /run/client', { input: SCRIPT })
    await pod.ok('chmod 755 /run/client')
  }
  await a1.ok(`ip netns add ${netns}`)
  await a1.ok(`ip link add name fe0 netns ${cluster} type veth peer name eth0 netns ${netns}`)
  await a1.ok(`ip -n ${netns} link set dev eth0 address ${FRONTEND.mac} up`)
  await a1.ok(`ip -n ${netns} address add ${FRONTEND.address}/16 dev eth0`)
  await a1.ok(`ip -n ${cluster} link set dev fe0 master br0 up`)
  if (leaseTime !== null) await a1.ok(`dnsmasq --conf-file=/dev/null --user=root --port=0 --interface=eth0 --dhcp-range=10.42.100.1,10.42.100.200,255.255.0.0,${leaseTime} --dhcp-authoritative --no-ping --dhcp-leasefile=/run/leases --pid-file=/run/dnsmasq.pid`, { netns })
}

/** Whether a node got an address. */
export const asks = async (pod: Pod, netns: string): Promise<boolean> =>
  (await pod.run('busybox', ['udhcpc', '-i', 'eth0', '-n', '-q', '-f', '-t', '8', '-T', '1', '-s', '/run/client'], { netns })).exitCode === 0
