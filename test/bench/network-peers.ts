/** Other ways to tie two sites into one Ethernet, each between two gateways in pods of their own. */
import { setTimeout as sleep } from 'node:timers/promises'
import type { Pod } from '../host/network-pod.ts'
import { nodeAddressOf, plugNode, startSites, underlayOf } from './network-sites.ts'

/** Two ends that can be measured against each other. */
export interface Ends {
  name: string
  client: { pod: Pod, netns?: string }
  server: { pod: Pod, netns?: string, address: string }
}

export interface Peer extends Ends {
  stop: () => Promise<void>
}

const SPACE = 'segment'
/** Address of the server's end in the tunnel of the way by hand. */
export const BY_HAND_TUNNEL = '10.98.0.2'
const LONG_MS = 3_600_000
/** Nodes hang on a bridge `br1`, or the way has addresses of its own on the hosts. */
type Place = 'bridge' | 'host'
const BRIDGED: Place = 'bridge'

const CIPHER = 'AES-256-GCM'

/**
 * Runs until its pod ends, in a session of its own as our services and those of a system do: the scheduler shares the processors
 * among sessions (autogroup), and a program within that of the bench got a quarter more of them than ours. @throws Error when it ends before `ready` is true
 */
async function startDaemon (pod: Pod, argv: readonly string[], ready: () => Promise<boolean>): Promise<void> {
  const args = [...argv]
  const end = { how: '' }
  void pod.run('setsid', args, { timeoutMs: LONG_MS }).then(({ exitCode, stdout, stderr }) => { end.how = `exit code ${exitCode}: ${stderr}${stdout}` }, () => { end.how = 'its pod ended' })
  for (let i = 0; i < 100; i++) {
    if (await ready()) return
    if (end.how !== '') throw new Error(`${args[0] ?? ''}: ${end.how}`)
    await sleep(100)
  }
  throw new Error(`${args[0] ?? ''} was not ready after 10 s`)
}

const hasLink = (pod: Pod, link: string) => async (): Promise<boolean> => (await pod.run('ip', ['link', 'show', 'dev', link])).exitCode === 0

/**
 * The commands of design and recipe as a person would type them, and no more: WireGuard, VXLAN, macvlan, a bridge in
 * a namespace, MSS clamp, and a bridge of the host that virtual machines can be plugged into, as libvirt needs it.
 */
async function byHand (pods: readonly Pod[]): Promise<Place[]> {
  const keys: Array<{ secret: string, open: string }> = []
  for (const pod of pods) {
    const secret = await pod.ok('wg genkey')
    keys.push({ secret, open: (await pod.ok('wg pubkey', { input: secret })).trim() })
    await startDaemon(pod, ['wireguard-go', '-f', 'wg0'], hasLink(pod, 'wg0'))
  }
  for (const [site, pod] of pods.entries()) {
    const far = 1 - site
    await pod.ok('tee /run/wg0.key', { input: keys[site]?.secret ?? '' })
    await pod.ok(`wg set wg0 listen-port 51820 private-key /run/wg0.key peer ${keys[far]?.open ?? ''} allowed-ips 10.98.0.${far + 1}/32 endpoint ${underlayOf(far)}:51820`)
    await pod.ok(`ip address add 10.98.0.${site + 1}/24 dev wg0`)
    await pod.ok('ip link set dev wg0 mtu 1420 up')
    await pod.ok(`ip netns add ${SPACE}`)
    await pod.ok(`ip -n ${SPACE} link add name br0 type bridge stp_state 0 forward_delay 0`)
    await pod.ok(`ip link add name vx type vxlan id 101 local 10.98.0.${site + 1} dstport 4789 df unset udpcsum`)
    await pod.ok(`ip link set dev vx netns ${SPACE}`)
    await pod.ok(`bridge -n ${SPACE} fdb append 00:00:00:00:00:00 dev vx dst 10.98.0.${far + 1}`)
    await pod.ok(`ip -n ${SPACE} link add name mvx link vx type macvlan mode passthru`)
    await pod.ok(`ip -n ${SPACE} link set dev vx mtu 1500 up`)
    await pod.ok(`ip -n ${SPACE} link set dev mvx mtu 1500 master br0 up`)
    await pod.ok(`ip -n ${SPACE} link set dev br0 up`)
    await pod.ok('ip link add name br1 type bridge stp_state 0 forward_delay 0')
    await pod.ok(`ip link add name up0 type veth peer name host0 netns ${SPACE}`)
    await pod.ok('ip link set dev up0 master br1 up')
    await pod.ok(`ip -n ${SPACE} link set dev host0 master br0 up`)
    await pod.ok('ip link set dev br1 up')
    await pod.ok('nft -f -', { netns: SPACE, input: 'table bridge mss {\n  chain c {\n    type filter hook postrouting priority 0;\n    oifname "mvx" tcp flags & syn == syn tcp option maxseg size > 1330 tcp option maxseg size set 1330\n  }\n}\n' })
  }
  return [BRIDGED, BRIDGED]
}

async function bridgeWith (pod: Pod, link: string): Promise<Place> {
  await pod.ok('ip link add name br1 type bridge stp_state 0 forward_delay 0')
  await pod.ok(`ip link set dev ${link} master br1 up`)
  await pod.ok('ip link set dev br1 up')
  return BRIDGED
}

/** OpenVPN in tap mode with certificates that both have made and pinned. */
async function openvpn (pods: readonly Pod[]): Promise<Place[]> {
  const prints: string[] = []
  for (const pod of pods) {
    await pod.ok('openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout /run/key.pem -out /run/cert.pem -days 2 -subj /CN=bench')
    prints.push((await pod.ok('openssl x509 -in /run/cert.pem -noout -fingerprint -sha256')).trim().split('=')[1] ?? '')
  }
  for (const [site, pod] of pods.entries()) {
    const role = site === 0 ? ['--tls-server', '--dh', 'none'] : ['--tls-client', '--remote', underlayOf(0)]
    await startDaemon(pod, ['openvpn', '--dev', 'tap0', '--dev-type', 'tap', '--proto', 'udp', '--port', '1194', ...role, '--cert', '/run/cert.pem', '--key', '/run/key.pem',
      '--peer-fingerprint', prints[1 - site] ?? '', '--data-ciphers', CIPHER, '--cipher', CIPHER, '--tun-mtu', '1500', '--mssfix', '0', '--verb', '1', '--ping', '5'], hasLink(pod, 'tap0'))
  }
  return await Promise.all(pods.map(async pod => await bridgeWith(pod, 'tap0')))
}

async function tinc (pods: readonly Pod[]): Promise<Place[]> {
  const hosts: string[] = []
  for (const [site, pod] of pods.entries()) {
    await pod.ok('mkdir -p /run/tinc/hosts')
    await pod.ok('tee /run/tinc/tinc.conf', { input: `Name = s${site}\nMode = switch\nDeviceType = tap\nInterface = tap0\nAddressFamily = ipv4\n${site === 0 ? '' : 'ConnectTo = s0\n'}` })
    await pod.ok(`tee /run/tinc/hosts/s${site}`, { input: `Address = ${underlayOf(site)}\n` })
    await pod.ok('tincd -c /run/tinc -K2048', { input: '\n\n' })
    hosts.push(await pod.ok(`cat /run/tinc/hosts/s${site}`))
  }
  for (const [site, pod] of pods.entries()) {
    await pod.ok(`tee /run/tinc/hosts/s${1 - site}`, { input: hosts[1 - site] ?? '' })
    await startDaemon(pod, ['tincd', '-c', '/run/tinc', '-D', '--pidfile=/run/tinc.pid'], hasLink(pod, 'tap0'))
  }
  return await Promise.all(pods.map(async pod => await bridgeWith(pod, 'tap0')))
}

/** n2n has the addresses on its own interfaces: its edges are no ports of a bridge. */
async function n2n (pods: readonly Pod[]): Promise<Place[]> {
  const [first] = pods
  if (first === undefined) throw new Error('no pods')
  await startDaemon(first, ['supernode', '-l', '7654'], async () => (await first.ok('ss -Hlun')).includes(':7654'))
  for (const [site, pod] of pods.entries()) {
    await startDaemon(pod, ['edge', '-d', 'edge0', '-a', nodeAddressOf(site), '-s', '255.255.0.0', '-c', 'bench', '-k', 'a key of this run', '-l', `${underlayOf(0)}:7654`, '-m', `52:54:00:00:02:0${site}`], hasLink(pod, 'edge0'))
  }
  return ['host', 'host']
}

const WAYS: Readonly<Record<string, (pods: readonly Pod[]) => Promise<Place[]>>> = { 'by-hand': byHand, 'openvpn-tap': openvpn, tinc, n2n }

/** @throws Error when the way does not come up, or its ends do not reach each other */
export async function startPeer (name: string): Promise<Peer> {
  const sites = await startSites(2)
  try {
    const [a, b] = sites.pods
    const way = WAYS[name]
    if (a === undefined || b === undefined || way === undefined) throw new Error(`no way ${name}`)
    const places = await way(sites.pods)
    for (const [site, pod] of sites.pods.entries()) {
      if (places[site] === 'host') continue
      await plugNode(pod, 'node', 'port0', site)
      await pod.ok('ip link set dev port0 master br1 up')
    }
    const netns = places[0] === 'host' ? {} : { netns: 'node' }
    return { name, client: { pod: a, ...netns }, server: { pod: b, ...netns, address: nodeAddressOf(1) }, stop: async () => { await sites.stop() } }
  } catch (error) {
    await sites.stop()
    throw error
  }
}
