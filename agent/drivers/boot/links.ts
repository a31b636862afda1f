import { clusterNamespace, frontendNamespace } from '../../../protocol/core/desired.ts'
import type { FrontendSpec } from '../../../protocol/core/desired.ts'
import { MusubiError } from '../../../protocol/core/errors.ts'
import { run, runJson } from '../../exec.ts'
import { namespaceNames, namespaceState } from '../../system/netns.ts'
import { runOutside } from '../../services/outside.ts'

/** Port of the frontend on the cluster's bridge; its peer is `eth0` in the frontend's namespace. */
const PORT = 'fe0'
const BRIDGE = 'br0'

interface LinkInfo {
  ifname: string
  address?: string
  master?: string
  flags?: string[]
  addr_info?: Array<{ local?: string, prefixlen?: number }>
}

/** Frontend namespaces on this host, whoever made them; a name need not lead to a namespace. */
export async function frontendNamespaces (): Promise<string[]> {
  return (await namespaceNames()).filter(name => /^mzf-[0-9a-f]{6}$/.test(name))
}

async function links (namespace: string, signal: AbortSignal): Promise<LinkInfo[]> {
  if (await namespaceState(namespace) !== 'present') return []
  const listed = await runJson('ip', ['-n', namespace, '-json', 'addr', 'show'], { signal, okCodes: [1] }).catch(() => null)
  return Array.isArray(listed) ? listed as LinkInfo[] : []
}

const isUp = (link: LinkInfo): boolean => link.flags?.includes('UP') === true
const hasAddress = (link: LinkInfo, cidr: string): boolean =>
  link.addr_info?.some(entry => `${entry.local ?? ''}/${entry.prefixlen ?? ''}` === cidr) === true

/** What is wrong with namespace and link, in words; empty when they are as the spec says. */
export async function linkFaults (spec: FrontendSpec, signal: AbortSignal): Promise<string[]> {
  const eth0 = (await links(frontendNamespace(spec.vni), signal)).find(link => link.ifname === 'eth0')
  if (eth0 === undefined) return ['eth0 is missing']
  const port = (await links(clusterNamespace(spec.vni), signal)).find(link => link.ifname === PORT)
  const faults: string[] = []
  if (!isUp(eth0)) faults.push('eth0 is down')
  if (eth0.address !== spec.mac) faults.push(`eth0 has MAC ${eth0.address ?? 'none'}`)
  if (!hasAddress(eth0, spec.address)) faults.push(`eth0 lacks ${spec.address}`)
  if (port === undefined || port.master !== BRIDGE) faults.push(`${PORT} is no port of ${BRIDGE}`)
  else if (!isUp(port)) faults.push(`${PORT} is down`)
  return faults
}

/**
 * Makes namespace and link what the spec says; leaves what is right alone.
 *
 * @param beforeFresh called before a namespace or eth0 is made anew: daemons that were bound to the
 *   old one must have ended by then, or a crash in between would leave them running and deaf
 * @throws MusubiError `SEGMENT_MISSING` when the cluster's bridge is not there yet
 */
export async function ensureLinks (spec: FrontendSpec, beforeFresh: () => Promise<void>, signal: AbortSignal): Promise<void> {
  const cluster = clusterNamespace(spec.vni)
  const own = frontendNamespace(spec.vni)
  const outside = await links(cluster, signal)
  if (!outside.some(link => link.ifname === BRIDGE)) {
    throw new MusubiError('SEGMENT_MISSING', `frontend ${spec.name}: no bridge ${BRIDGE} in namespace ${cluster}`, {
      retryable: true, hint: 'the segment of the cluster comes first'
    })
  }
  const before = await namespaceState(own)
  const eth0 = (await links(own, signal)).find(link => link.ifname === 'eth0')
  const fresh = eth0 === undefined || !outside.some(link => link.ifname === PORT)
  if (fresh) {
    await beforeFresh()
    // an `ip netns add` that was ended half-way leaves a name that leads nowhere
    if (before === 'broken') await runOutside('ip', ['netns', 'del', own], { signal })
    if (before !== 'present') await runOutside('ip', ['netns', 'add', own], { signal })
    // half a pair, or a port whose other end went with a namespace that still lives in a process
    if (eth0 !== undefined) await run('ip', ['-n', own, 'link', 'del', 'eth0'], { signal })
    else await deletePort(spec.vni, signal)
    await run('ip', ['link', 'add', 'name', PORT, 'netns', cluster, 'type', 'veth', 'peer', 'name', 'eth0', 'netns', own], { signal })
  }
  const stale = (eth0?.addr_info ?? []).filter(entry => entry.local?.includes('.') === true && `${entry.local}/${entry.prefixlen ?? ''}` !== spec.address)
  await batch(own, [
    'link set lo up',
    `link set eth0 address ${spec.mac} mtu 1500 up`,
    `addr replace ${spec.address} dev eth0`,
    ...(fresh ? [] : stale.map(entry => `addr del ${entry.local ?? ''}/${entry.prefixlen ?? ''} dev eth0`)),
    `addr replace ${advertisedAddress(spec.vni)} dev eth0 nodad`
  ], signal)
  await batch(cluster, [`link set ${PORT} mtu 1500 master ${BRIDGE} up`], signal)
}

/**
 * An own IPv6 prefix of the cluster (unique local), so that dnsmasq has something to advertise:
 * iPXE waits for a router advertisement. The segment itself needs no IPv6.
 */
function advertisedAddress (vni: number): string {
  const hex = vni.toString(16).padStart(6, '0')
  return `fd6d:7a${hex.slice(0, 2)}:${hex.slice(2)}::1/64`
}

/** Removes namespace and port; processes that were left in the namespace are ended. Idempotent. */
export async function removeLinks (namespace: string, signal: AbortSignal): Promise<void> {
  const vni = Number.parseInt(namespace.slice('mzf-'.length), 16)
  const state = await namespaceState(namespace)
  if (state !== 'absent') {
    const { stdout } = state === 'broken' ? { stdout: '' } : await run('ip', ['netns', 'pids', namespace], { signal, okCodes: [1, 255] })
    for (const pid of stdout.split('\n').map(Number).filter(value => value > 1)) endProcess(pid)
    await runOutside('ip', ['netns', 'del', namespace], { signal })
  }
  // the kernel takes a namespace apart in the background: do not wait for it to take the port along
  await deletePort(vni, signal)
}

async function deletePort (vni: number, signal: AbortSignal): Promise<void> {
  const cluster = clusterNamespace(vni)
  if (!(await links(cluster, signal)).some(link => link.ifname === PORT)) return
  // it may go by itself between the two calls
  await run('ip', ['-n', cluster, 'link', 'del', PORT], { signal, okCodes: [1] })
}

async function batch (namespace: string, lines: readonly string[], signal: AbortSignal): Promise<void> {
  await run('ip', ['-n', namespace, '-batch', '-'], { input: lines.map(line => `${line}\n`).join(''), signal })
}

function endProcess (pid: number): void {
  try {
    process.kill(pid, 'SIGKILL')
  } catch {
    // it was on its way out
  }
}
