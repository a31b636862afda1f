import { clusterNamespace, hostBridgeName, tapName } from '../../../../protocol/core/desired.ts'
import type { SegmentSpec, Track, TunnelSpec } from '../../../../protocol/core/desired.ts'
import { DIAGNOSE_MAX_REMOTES } from '../../../../protocol/core/limits.ts'
import type { BridgeFact, ChainFact, DropFact, LinkFact, PeerFact, ReachFact, SegmentFacts, TunnelFact } from '../../../diagnose/facts.ts'
import { CommandError, run, runJson } from '../../../exec.ts'
import { chainStateOf } from '../filter.ts'
import { hasGate, type ForwardLook } from '../forward/forwarding.ts'
import { hasIpv6, listNamespaces, readBridgeVlans, readHostAnd } from '../observe/host.ts'
import type { SnoopLook } from '../snoop/snooping.ts'
import { DEFAULT_UNDERLAY_MTU, hostPortName, hostVethName, hostVxlanName, INNER, INNER_MTU, SITE_VXLAN_PORT, TUNNEL_MTU, vlanName } from '../names.ts'
import { TRACKS, tunnelMtuOf, wgInterface } from '../tunnel/names.ts'
import { trunkProblem } from '../vlan/trunk.ts'
import { MAX_TUNNEL_MTU, MIN_TUNNEL_MTU } from '../tunnel/path-search.ts'
import { parseRoutes, type LinkState, type SpaceState } from '../observe/observed.ts'
import { planSegment, type LinkPlan } from '../plan.ts'
import type { SpaceAnswer } from '../observe/spaces.ts'
import { bareAddress, checkTunnel, parseDump, type CheckedTunnel, type WireGuardState } from '../tunnel/wireguard.ts'
import { arpAnswer, echo, largestEcho, SMALL_BYTES, udpAnswer } from './echo.ts'
import { dropsOf } from './ruleset.ts'

const KERNEL_MS = 10_000
/** A user-space WireGuard that does not answer within this hangs. */
const WIREGUARD_MS = 5_000
/** Outer packet of a full one in the tunnel over IPv4: 1420, padded to 16, and 60 of headers. */
const TUNNEL_OUTER_BYTES = 1_484
const COUNT = 3

/** What a host was asked to carry: the segment, and the tunnel if it is a gateway. */
export interface Asked { name: string, spec: SegmentSpec, tunnel: TunnelSpec | null }

/** Address and port of `host:port` with a numeric host. */
export function splitEndpoint (endpoint: string): { address: string, port: number } {
  const at = endpoint.lastIndexOf(':')
  return { address: endpoint.slice(0, at).replace(/^\[|\]$/g, ''), port: Number(endpoint.slice(at + 1)) }
}

function rolesOf (vni: number): Map<string, string> {
  return new Map([
    [hostBridgeName(vni), 'host bridge'], [hostVethName(vni), 'way to the cluster\'s namespace'], [hostVxlanName(vni), 'in-site VXLAN'], [hostPortName(vni), 'in-site port of the bridge'], [vlanName(vni), 'in-site VLAN'],
    [INNER.bridge, 'bridge'], [INNER.hostPort, 'way to the host bridge'], [INNER.siteVxlan, 'in-site VXLAN'], [INNER.sitePort, 'in-site port of the bridge'],
    [INNER.wanVxlan, 'inter-site VXLAN'], [INNER.wanPort, 'inter-site port of the bridge']
  ])
}

function linkFact (want: LinkPlan, space: string | null, have: readonly LinkState[], host: SpaceState, roles: Map<string, string>): LinkFact {
  const found = have.find(({ name }) => name === want.name)
  const vxlan = (of: { id: number, local: string, port: number } | undefined): LinkFact['want']['vxlan'] => of === undefined ? null : { id: of.id, local: of.local, port: of.port }
  // of a NIC in another namespace a link knows the number only
  const nic = (of: LinkState): string => of.lower ?? host.links.find(({ index }) => index === of.lowerIndex)?.name ?? ''
  return {
    space, name: want.name, role: roles.get(want.name) ?? want.kind,
    want: { kind: want.kind, mtu: want.mtu, master: want.master ?? null, address: want.address ?? null, vxlan: vxlan(want.vxlan), ...(want.vlan === undefined ? {} : { vlan: { id: want.vlan.id, nic: want.vlan.trunk } }) },
    have: found === undefined ? null : { kind: found.kind ?? '', up: found.up, mtu: found.mtu, master: found.master ?? null, addresses: found.ipv4, vxlan: vxlan(found.vxlan), ...(found.vlan === undefined ? {} : { vlan: { id: found.vlan.id, nic: nic(found) } }) }
  }
}

/** Everything that one host can tell of a segment, its packets included. Changes nothing. @param forwardingOf what is known of the forwarding lease in a namespace @param snoop what was learnt */
export async function lookAtSegment ({ name, spec, tunnel: tunnelSpec }: Asked, gatewayAddress: string | null, forwardingOf: (space: string) => Promise<ForwardLook>, snoop: SnoopLook | null, signal: AbortSignal): Promise<SegmentFacts> {
  const { vni, site } = spec
  const [namespaces, ipv6] = await Promise.all([listNamespaces(), hasIpv6()])
  const { host, spaces } = await readHostAnd([...namespaces.values()], signal)
  const underlay = host.links.find(({ ipv4 }) => ipv4.some(address => address.split('/')[0] === site.localAddress)) ?? null
  const underlayMtu = underlay === null || Number.isNaN(underlay.mtu) ? DEFAULT_UNDERLAY_MTU : underlay.mtu
  const checked = tunnelSpec === null ? null : checkTunnel(tunnelSpec)
  const plan = planSegment(name, spec, underlayMtu, ipv6, tunnelMtuOf(host.links))
  const own = namespaces.has(vni) ? spaces.get(clusterNamespace(vni)) ?? null : null
  const inner: SpaceState | null = own === null || own === 'broken' || own instanceof Error ? null : own
  const space = plan.cluster?.namespace ?? null
  const roles = rolesOf(vni)
  const held: Array<{ space: string | null, want: NonNullable<typeof plan.cluster> | typeof plan.host, have: SpaceState | null }> = [
    { space: null, want: plan.host, have: host }, ...(plan.cluster === null ? [] : [{ space, want: plan.cluster, have: inner }])
  ]

  const chains = held.flatMap(({ space, want, have }) => want.chains.map((chain): ChainFact => {
    return { space, table: `${chain.family} ${chain.table}`, name: chain.name, state: have === null ? 'missing' : chainStateOf(chain, have) }
  }))
  const floods = held.flatMap(({ space, want, have }) => want.links.flatMap(({ name: link, vxlan }) => {
    const missing = vxlan?.remotes.filter(remote => have?.floods.get(link)?.has(remote) !== true) ?? []
    return missing.length === 0 || have?.links.some(one => one.name === link) !== true ? [] : [{ space, link, missing }]
  }))

  const [tunnel, reach, drops, bridge] = await Promise.all([
    spec.gateway?.tunnel === undefined || spec.gateway.tunnel === null || checked === null ? null : lookAtTunnel(checked, spec.gateway.tunnel.remoteAddresses, host, signal),
    lookAtUnderlay(spec, checked, underlayMtu, signal),
    lookForDrops(spec, checked, signal),
    // who is known is answered for at home: that proves nothing of the way
    spec.gateway !== undefined || gatewayAddress === null || spec.known?.members.some(({ address }) => address === gatewayAddress) === true ? null : askByBridge(vni, gatewayAddress, host, signal)
  ])
  const forwarding = space === null || inner === null || !hasGate(spec) ? null : { space, port: INNER.wanPort, open: inner.open.has(INNER.wanPort), ...await forwardingOf(space) }
  return {
    name, cluster: spec.cluster, vni, nowSeconds: Math.floor(Date.now() / 1000),
    site: { segmentId: site.segmentId, port: SITE_VXLAN_PORT, localAddress: site.localAddress, remoteAddresses: [...site.remoteAddresses] },
    trunk: trunkFact(spec, host, await readBridgeVlans(host, [site.trunk ?? ''], signal)),
    underlay: underlay === null ? null : { link: underlay.name, up: underlay.up, mtu: underlay.mtu },
    namespace: space === null ? null : { name: space, state: own === null ? 'missing' : own === 'broken' ? 'broken' : own instanceof Error ? 'unread' : 'ok' },
    links: held.flatMap(({ space, want, have }) => [...want.links.map(link => linkFact(link, space, have?.links ?? [], host, roles)), ...(space === null ? tapsOf(vni, host) : [])]),
    floods, chains, forwarding, snoop: snoop === null ? null : snoopFact(spec, snoop), drops, idUsers: idUsers(spec, host, namespaces, spaces), tunnel, reach, bridge
  }
}

function snoopFact ({ known }: SegmentSpec, { unit, keeper, learned }: SnoopLook): NonNullable<SegmentFacts['snoop']> {
  const here = (known?.members ?? []).filter(({ tap }) => tap !== undefined)
  return { unit, keeper, nodes: here.length, learned: here.filter(({ mac }) => learned.host.some(one => one.mac === mac)).length }
}

function trunkFact (spec: SegmentSpec, host: SpaceState, vlans: Awaited<ReturnType<typeof readBridgeVlans>>): SegmentFacts['trunk'] {
  const { trunk: nic } = spec.site
  if (nic === undefined) return null
  const link = host.links.find(({ name }) => name === nic)
  const problem = trunkProblem(spec, host, vlans)
  return { nic, carrier: link?.carrier === true, mtu: link?.mtu ?? null, problem: problem === null ? null : { code: problem.code, message: problem.message, hint: problem.hint ?? '' } }
}

/** Taps have no plan here: they are as they should be when they are ports of the bridge and up. */
function tapsOf (vni: number, host: SpaceState): LinkFact[] {
  const prefix = tapName(vni, 0).slice(0, -2)
  return host.links.filter(({ name }) => name.startsWith(prefix)).map(({ name, kind = '', up, mtu, master = null, ipv4 }) => ({
    space: null, name, role: 'tap of a node', want: { kind, mtu: INNER_MTU, master: hostBridgeName(vni), address: null, vxlan: null }, have: { kind, up, mtu, master, addresses: ipv4, vxlan: null }
  }))
}

function idUsers (spec: SegmentSpec, host: SpaceState, namespaces: Map<number, string>, spaces: ReadonlyMap<string, SpaceAnswer>): SegmentFacts['idUsers'] {
  const own = new Set([hostVxlanName(spec.vni), `${clusterNamespace(spec.vni)} ${INNER.siteVxlan}`])
  const all: Array<{ space: string | null, links: readonly LinkState[] }> = [{ space: null, links: host.links }]
  for (const name of namespaces.values()) {
    const found = spaces.get(name)
    if (found !== undefined && found !== null && found !== 'broken' && !(found instanceof Error)) all.push({ space: name, links: found.links })
  }
  return all.flatMap(({ space, links }) => links.flatMap(({ name, vxlan }) =>
    vxlan === undefined || vxlan.id !== spec.site.segmentId || vxlan.port !== SITE_VXLAN_PORT || own.has(space === null ? name : `${space} ${name}`) ? [] : [{ space, link: name, id: vxlan.id, port: vxlan.port }]))
}

/** Where a peer is: at the endpoint of the key that it keeps. */
const endpointOf = ({ endpoint, tracks }: CheckedTunnel['peers'][number]): string => (tracks.find(({ draining }) => !draining) ?? tracks[0])?.endpoint ?? endpoint

async function lookAtUnderlay ({ site, gateway }: SegmentSpec, tunnel: CheckedTunnel | null, mtu: number, signal: AbortSignal): Promise<ReachFact[]> {
  const members = new Set(gateway?.tunnel?.remoteAddresses ?? [])
  const targets: Array<Pick<ReachFact, 'what' | 'address' | 'port' | 'site' | 'wantBytes'>> = [
    ...(site.trunk === undefined ? site.remoteAddresses : []).map(address => ({ what: 'site-host' as const, address, port: SITE_VXLAN_PORT, site: null, wantBytes: mtu })),
    ...(tunnel?.peers ?? []).filter(({ address }) => members.has(bareAddress(address))).map(peer => ({ what: 'endpoint' as const, ...splitEndpoint(endpointOf(peer)), site: peer.site, wantBytes: Math.min(mtu, TUNNEL_OUTER_BYTES) }))
  ]
  return await Promise.all(targets.slice(0, DIAGNOSE_MAX_REMOTES).map(async target => {
    const { address, port, wantBytes } = target
    const [small, udp] = await Promise.all([echo({ address, bytes: SMALL_BYTES, count: COUNT }, signal), udpAnswer(address, port, signal)])
    return { ...target, echo: small, udp, largestBytes: small.received === 0 ? null : await largestEcho({ address }, wantBytes, small, signal) }
  }))
}

async function lookForDrops (spec: SegmentSpec, tunnel: CheckedTunnel | null, signal: AbortSignal): Promise<DropFact[]> {
  const flows = [
    ...(spec.site.remoteAddresses.length === 0 || spec.site.trunk !== undefined ? [] : [{ port: SITE_VXLAN_PORT, addresses: [spec.site.localAddress, ...spec.site.remoteAddresses] }]),
    ...(spec.gateway?.tunnel == null || tunnel === null ? [] : [...new Set([tunnel.listenPort, tunnel.secondPort, ...tunnel.peers.map(peer => splitEndpoint(endpointOf(peer)).port)])].map(port => ({
      port, addresses: [spec.site.localAddress, ...tunnel.peers.map(peer => splitEndpoint(endpointOf(peer)).address)]
    })))
  ]
  return dropsOf(await runJson('nft', ['-j', 'list', 'ruleset'], { signal, timeoutMs: KERNEL_MS }), flows)
}

async function readWireGuard (name: string, signal: AbortSignal): Promise<WireGuardState | null> {
  try {
    return parseDump((await run('wg', ['show', name, 'dump'], { signal, timeoutMs: WIREGUARD_MS })).stdout)
  } catch (error) {
    if (error instanceof CommandError && !signal.aborted) return null
    throw error
  }
}

/** While keys are exchanged there are two interfaces: what is told of the tunnel is told of the one that leads to most members, of a peer that of its own route. */
async function lookAtTunnel (spec: CheckedTunnel, members: readonly string[], host: SpaceState, signal: AbortSignal): Promise<TunnelFact> {
  const there = TRACKS.filter(track => host.links.some(({ name }) => name === wgInterface(track)))
  const routes = there.length === 0 ? [] : await runJson('ip', ['-json', 'route', 'show'], { signal, timeoutMs: KERNEL_MS })
  const routed = new Map(there.map(track => [track, new Set(parseRoutes(routes, wgInterface(track)))]))
  const leads = (track: Track): number => members.filter(address => routed.get(track)?.has(address) === true).length
  const [main = 0] = there.toSorted((a, b) => leads(b) - leads(a))
  const name = wgInterface(main)
  const link = host.links.find(one => one.name === name)
  const state = link === undefined ? null : await readWireGuard(name, signal)
  // The driver fits it to the narrowest path; what is outside of that it has not set.
  const wantMtu = link !== undefined && link.mtu >= MIN_TUNNEL_MTU && link.mtu <= MAX_TUNNEL_MTU ? link.mtu : TUNNEL_MTU
  const peers = spec.peers.filter(({ address }) => members.includes(address)).slice(0, DIAGNOSE_MAX_REMOTES)
  return {
    interface: name, wantMtu, wantAddress: spec.address, wantPort: main === 0 ? spec.listenPort : spec.secondPort, listenPort: state?.listenPort ?? null,
    have: link === undefined ? null : { up: link.up, mtu: link.mtu, addresses: link.ipv4, mode: link.kind === 'wireguard' ? 'kernel' : 'userspace' },
    peers: await Promise.all(peers.map(async (peer): Promise<PeerFact> => {
      const { site, address } = peer
      const track = there.find(one => routed.get(one)?.has(address) === true)
      const want = peer.tracks.find(one => one.track === (track ?? main)) ?? peer.tracks[0]
      const answer = await echo({ address, bytes: SMALL_BYTES, count: COUNT }, signal)
      const largestBytes = answer.received === 0 ? null : await largestEcho({ address }, wantMtu, answer, signal)
      // read after the pings: they make WireGuard shake hands
      const found = (state === null ? null : await readWireGuard(wgInterface(track ?? main), signal))?.peers.find(one => one.publicKey === want?.publicKey)
      return {
        site, address, wantEndpoint: want?.endpoint ?? endpointOf(peer), endpoint: found?.endpoint ?? null, present: found !== undefined, routed: track !== undefined,
        latestHandshake: found?.latestHandshake ?? 0, rxBytes: found?.rxBytes ?? 0, txBytes: found?.txBytes ?? 0, echo: answer, largestBytes
      }
    }))
  }
}

async function askByBridge (vni: number, address: string, host: SpaceState, signal: AbortSignal): Promise<BridgeFact | null> {
  const link = host.links.find(({ name }) => name === hostBridgeName(vni))
  if (link === undefined) return null
  const small = await arpAnswer(link.name, link.mac, address, 46, signal)
  const full = small === null ? null : await arpAnswer(link.name, link.mac, address, INNER_MTU, signal)
  return { link: link.name, address, answered: small !== null, mac: small ?? '', largestBytes: small === null ? null : full === null ? 46 : INNER_MTU }
}
