import type { Lab } from '../lab.ts'
import { call } from '../../cli/client.ts'
import { describeError, MusubiError } from '../../protocol/core/errors.ts'
import type { ClusterResource, ConsoleResource, NodeResource } from '../../protocol/api.ts'

export interface CrossSite { from: string, to: string, pingOk: boolean, dfPing1472Ok: boolean, httpOk: boolean, rttMs: number | null, problems: string[] }
export interface VolumeUse { host: string, iqn: string, writeReadOk: boolean, problem: string }

const SSH_TIMEOUT_MS = 60_000

/** Runs one command on a node by ssh from the frontend's network, as `musubi cluster ssh` does. */
export async function onNode (lab: Lab, master: string, cluster: string, node: string, command: readonly string[]): Promise<string> {
  const console = await call<ConsoleResource>({ socketPath: lab.api(master), what: 'agent' }, 'GET', `/v1/clusters/${cluster}/nodes/${node}/console`)
  const { stdout } = await lab.host(master).pod.exec([...console.argv, ...command], { timeoutMs: SSH_TIMEOUT_MS })
  return stdout
}

/** ping, a full 1500-byte packet that may not be fragmented, and HTTP, from a node of one site to a node of the other. */
export async function checkCrossSite (lab: Lab, master: string, cluster: ClusterResource): Promise<CrossSite> {
  const [from, to] = pairAcross(cluster)
  const problems: string[] = []
  const attempt = async (what: string, command: string[], good: (out: string) => boolean): Promise<string | null> => {
    try {
      const out = await onNode(lab, master, cluster.name, from.name, command)
      if (good(out)) return out
      problems.push(`${what}: ${out.trim().slice(-200)}`)
    } catch (error) {
      problems.push(`${what}: ${describeError(error)}`)
    }
    return null
  }
  const ping = await attempt('ping', ['ping', '-n', '-c', '3', '-i', '0.3', '-W', '3', to.ip], out => / 0% packet loss/.test(out))
  const df = await attempt('ping -M do -s 1472', ['ping', '-n', '-c', '3', '-i', '0.3', '-W', '3', '-M', 'do', '-s', '1472', to.ip], out => / 0% packet loss/.test(out))
  // By name: the frontend's DNS is part of what a cluster is.
  const http = await attempt('http', ['curl', '-sS', '-m', '10', `http://${to.name}/`], out => out.includes(to.name))
  const rtt = /= [\d.]+\/([\d.]+)\//.exec(ping ?? '')?.[1]
  return { from: from.name, to: to.name, pingOk: ping !== null, dfPing1472Ok: df !== null, httpOk: http !== null, rttMs: rtt === undefined ? null : Number(rtt), problems }
}

function pairAcross (cluster: ClusterResource): [NodeResource, NodeResource] {
  const from = cluster.nodes[0]
  const to = cluster.nodes.find(n => n.site !== from?.site)
  if (from === undefined || to === undefined) throw new MusubiError('DEMO', `cluster ${cluster.name} does not span two sites`)
  return [from, to]
}

const PATTERN_BLOCKS = 8

/** Writes random data to the node's volume through the guest's block device, drops caches, reads it back. */
export async function checkVolume (lab: Lab, master: string, cluster: ClusterResource): Promise<VolumeUse> {
  const volume = cluster.volumes[0]
  if (volume === undefined) throw new MusubiError('DEMO', `cluster ${cluster.name} has no volume`)
  const device = `/dev/disk/by-id/virtio-${volume.name}`
  const script = [
    'set -e', `test -b ${device}`,
    `dd if=/dev/urandom of=/run/pattern bs=1M count=${PATTERN_BLOCKS} 2>/dev/null`,
    `dd if=/run/pattern of=${device} bs=1M oflag=direct conv=fsync 2>/dev/null`,
    'echo 3 > /proc/sys/vm/drop_caches',
    `dd if=${device} bs=1M count=${PATTERN_BLOCKS} iflag=direct 2>/dev/null | cmp - /run/pattern && echo same`
  ].join('; ')
  try {
    const out = await onNode(lab, master, cluster.name, volume.node, [script])
    return { host: volume.host, iqn: volume.iqn, writeReadOk: out.trim() === 'same', problem: out.trim() === 'same' ? '' : out.trim() }
  } catch (error) {
    return { host: volume.host, iqn: volume.iqn, writeReadOk: false, problem: describeError(error) }
  }
}
