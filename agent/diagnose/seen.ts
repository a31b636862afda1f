import type { ClusterDocument } from '../../protocol/core/messages.ts'
import { CACHE_PORTS } from '../../protocol/core/plan.ts'
import type { AnswerFact, Echo, SegmentFacts } from './facts.ts'

const times = ({ rttMs, sent, received }: Echo): string => rttMs === null ? `0 of ${sent} answered` : `${rttMs.avg} ms${received < sent ? `, ${received} of ${sent} answered` : ''}`
const size = (bytes: number | null): string => bytes === null ? '' : `, up to ${bytes} bytes`

/** What was looked at, in lines for people: also where nothing is wrong it tells what the way is like. Pure. */
export function seenLines (facts: SegmentFacts, answers: readonly AnswerFact[]): string[] {
  const { underlay, site, namespace, tunnel, bridge } = facts
  return [
    `underlay   ${site.localAddress} on ${underlay === null ? 'no link' : `${underlay.link}, MTU ${underlay.mtu}`}`,
    `segment    VNI ${facts.vni}, ${facts.trunk === null ? `in-site id ${site.segmentId} at UDP ${site.port}` : `VLAN ${site.segmentId} on ${facts.trunk.nic}`}; ${namespace === null ? 'no gateway' : `namespace ${namespace.name}`}; ${facts.links.filter(({ have }) => have?.up === true).length} of ${facts.links.length} links up, ${facts.chains.filter(({ state }) => state === 'ok').length} of ${facts.chains.length} chains as they should be`,
    ...facts.reach.map(({ what, address, port, site, echo, largestBytes }) => `${what === 'endpoint' ? 'endpoint ' : 'in site  '}  ${site === null ? '' : `of ${site} `}${address} UDP ${port}, underlay ${times(echo)}${size(largestBytes)}`),
    ...tunnel === null ? [] : tunnel.peers.map(peer => `tunnel     to ${peer.site} ${peer.address} through ${tunnel.interface}${tunnel.have === null ? '' : ` (${tunnel.have.mode})`}, ${times(peer.echo)}${size(peer.largestBytes)}; handshake ${peer.latestHandshake === 0 ? 'never' : `${facts.nowSeconds - peer.latestHandshake} s ago`}, endpoint ${peer.endpoint ?? 'none'}`),
    ...bridge === null ? [] : [`gateway    ${bridge.address} by ARP from ${bridge.link}: ${bridge.answered ? `answered${size(bridge.largestBytes)}` : 'no answer'}`],
    ...answers.map(({ kind, name, site, address, echo, largestBytes }) => `${kind.padEnd(9)}  ${name} of ${site} ${address}, ${times(echo)}${size(largestBytes)}`)
  ]
}

/** What the cache of a site does not do, where there is one: figures that leave it out mislead. Pure. */
export function cacheLines ({ sites, name, frontend }: ClusterDocument, site: string): string[] {
  const own = sites.find(one => one.site === site)
  if (own === undefined) return []
  const cached = own.cache ? `HTTP to ${frontend.ip} on port ${CACHE_PORTS.join(', ')} goes through the cache on ${own.gateway.host}; HTTPS passes untouched and is not counted as saved (musubi cache status ${name})` : 'none at this site, which has the frontend'
  return [`cache      ${cached}`]
}
