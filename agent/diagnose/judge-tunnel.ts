import type { PeerFact, ReachFact, SegmentFacts, TunnelFact } from './facts.ts'
import { found, quoted, type Finding } from './findings.ts'

/** WireGuard shakes hands anew after 120 s of traffic and drops a session after 180 s (https://www.wireguard.com/papers/wireguard.pdf, 6.1). */
const SESSION_SECONDS = 180
/** A handshake in the future by more than this is a clock that was set back, not the second that it is told in. */
const CLOCK_SECONDS = 5
/** Outer bytes of a full packet in the tunnel: what must pass between the endpoints. */
const WIREGUARD_HEADERS = 60

const ago = (seconds: number): string => seconds < 120 ? `${seconds} s` : seconds < 7_200 ? `${Math.round(seconds / 60)} min` : `${Math.round(seconds / 3_600)} h`

/** What is wrong between this gateway and the others. Pure. */
export function judgeTunnel (facts: SegmentFacts, skews: ReadonlyArray<{ site: string, ms: number }>): Finding[] {
  const { tunnel } = facts
  if (tunnel === null) return []
  const own = judgeInterface(tunnel)
  if (own !== null) return [own]
  return tunnel.peers.flatMap(peer => judgePeer(facts, tunnel, peer, facts.reach.find(({ what, site }) => what === 'endpoint' && site === peer.site), skews.find(({ site }) => site === peer.site)?.ms ?? 0))
}

function judgeInterface ({ interface: name, have, wantMtu, wantAddress, wantPort, listenPort }: TunnelFact): Finding | null {
  const at = { where: 'tunnel', interface: name, address: wantAddress, port: wantPort }
  const again = 'musubi agent status; the next pass makes it again; where the kernel has no WireGuard: systemctl status musubi-svc-mz-wireguard, or wireguard-go is missing'
  if (have === null) return found('tunnel-missing', { ...at, what: `the tunnel ${name} is not there: nothing listens at UDP ${wantPort}`, try: again })
  if (listenPort === null) return found('tunnel-dead', { ...at, what: `WireGuard of ${name} does not answer${have.mode === 'userspace' ? ': wireguard-go hangs or has ended' : ''}`, try: again })
  if (!have.up) return found('tunnel-down', { ...at, what: `the tunnel ${name} is down`, try: `ip link set ${name} up` })
  if (listenPort !== wantPort) return found('tunnel-port', { ...at, port: listenPort, what: `${name} listens at UDP ${listenPort}, not at ${wantPort}`, try: `wg set ${name} listen-port ${wantPort}` })
  if (have.mtu !== wantMtu) return found('mtu-lowered', { ...at, bytes: have.mtu, what: `the tunnel ${name} has MTU ${have.mtu}, not ${wantMtu}`, try: `ip link set ${name} mtu ${wantMtu}` })
  if (!have.addresses.includes(`${wantAddress}/32`)) return found('address-missing', { ...at, what: `the tunnel ${name} does not have the address ${wantAddress}/32`, try: `ip address add ${wantAddress}/32 dev ${name}` })
  return null
}

function judgePeer ({ nowSeconds, underlay, site: { localAddress } }: SegmentFacts, tunnel: TunnelFact, peer: PeerFact, reach: ReachFact | undefined, skewMs: number): Finding[] {
  const { site, wantEndpoint, endpoint, latestHandshake } = peer
  const [address = '', port = 0] = reach === undefined ? [] : [reach.address, reach.port]
  const at = { where: 'tunnel', site, interface: tunnel.interface, address, port }
  if (!peer.present) return [found('peer-missing', { ...at, what: `${tunnel.interface} does not know the gateway of ${site} (${wantEndpoint})`, try: 'the next pass adds it: musubi agent status' })]
  if (!peer.routed) return [found('route-missing', { ...at, address: peer.address, what: `there is no route to ${peer.address}, the gateway of ${site}, through ${tunnel.interface}`, try: `ip route replace ${peer.address}/32 dev ${tunnel.interface}` })]
  if (latestHandshake - nowSeconds > CLOCK_SECONDS) {
    return [found('clock', { ...at, what: `the latest handshake with ${site} is ${ago(latestHandshake - nowSeconds)} in the future: this host's clock was set back, and ${site} takes no handshake that is older than the last`, try: 'timedatectl; set the clock right, then on the other gateway: wg set mzwg0 peer KEY remove, its next pass adds it again' })]
  }
  if (peer.echo.received > 0) {
    const want = tunnel.wantMtu
    if (peer.largestBytes === null || peer.largestBytes >= want) return []
    const outer = reach?.largestBytes ?? null
    return [found('black-hole', { ...at, bytes: peer.largestBytes, what: `packets of more than ${peer.largestBytes} bytes do not get through the tunnel to ${site} (${peer.address}), of ${want}; on the underlay from ${localAddress} to ${address} ${outer === null ? 'nothing could be measured' : `${outer} bytes pass`}, and ${want + WIREGUARD_HEADERS} are needed`, try: `the MTU between ${localAddress} and ${address}, and whether ICMP "fragmentation needed" is let through` })]
  }
  return [silent()]

  function silent (): Finding {
    const age = latestHandshake === 0 ? 'there never was a handshake' : `the latest handshake was ${ago(Math.max(0, nowSeconds - latestHandshake))} ago`
    const said = `the tunnel to ${site} does not answer (${peer.address}; ${age})`
    const current = endpoint !== null && endpoint !== wantEndpoint ? `; WireGuard sends to ${endpoint}, and ${wantEndpoint} was agreed` : ''
    const theirs = `on the gateway of ${site}: musubi segment doctor, wg show mzwg0`
    if (reach === undefined) return found('tunnel-silent', { ...at, what: said + current, try: theirs })
    if (current !== '') return found('endpoint-wrong', { ...at, address: endpoint, what: said + current, try: `wg set ${tunnel.interface} peer KEY endpoint ${wantEndpoint}; the next pass does it after ${SESSION_SECONDS} s of silence; has ${site} moved? ${theirs}` })
    if (reach.udp === 'blocked') return found('udp-blocked-here', { ...at, what: `${said}: this host's own filter drops what it sends to ${address}, UDP ${port}`, try: 'nft list ruleset, chains of the hook output' })
    if (reach.udp === 'refused') return found('udp-refused', { ...at, what: `${said}: nobody listens at ${address}, UDP ${port}`, try: `${theirs}; is its WireGuard running, and is this its address?` })
    if (reach.echo.received === 0) {
      return found('endpoint-unreachable', { ...at, interface: underlay?.link ?? tunnel.interface, what: `${said}: ${address} cannot be reached from ${localAddress}${quoted(reach.echo.why)}; UDP ${port} gets no answer either`, try: `is ${address} the right address of ${site}? ip route get ${address}; ping ${address}; it may also be that it answers no pings` })
    }
    if (Math.abs(skewMs) > CLOCK_SECONDS * 1000 && latestHandshake === 0) {
      return found('clock', { ...at, what: `${said}; its clock and this one are ${ago(Math.round(Math.abs(skewMs) / 1000))} apart: handshakes that seem older than earlier ones are refused`, try: 'timedatectl on both' })
    }
    return found('udp-dropped', { ...at, what: `${said}: ${address} answers pings, and nothing comes of UDP ${port}: it is dropped on the way or by a filter there, the keys do not fit, or that gateway does not know this one`, try: `${theirs}; nft list ruleset | grep ${port}; the firewall between ${localAddress} and ${address}` })
  }
}
