import { createHash } from 'node:crypto'
import { PREFIX } from '../../../../protocol/core/desired.ts'
import type { CachePlan } from '../plan.ts'

/** Name of our table in both families; the namespace belongs to one cluster, so there is one of each. */
export const TABLE = `${PREFIX}_cache`
/** Set in the bridge table: ports whose engine answered within the last seconds (dead-man switch). */
export const LIVE_SET = 'live'
/** How long a port stays in the set without being refreshed. */
export const LIVE_SECONDS = 3
/** Counters of what came from the frontend by the port to other sites, in bytes of IP packets. */
export const WIRE_COUNTERS = { static: 'static_in', dynamic: 'dynamic_in' } as const
/** Counter of packets of TFTP that were on their way to another site, and were dropped. */
export const TFTP_COUNTER = 'tftp_stopped'
const TFTP_PORT = 69
/** Packet mark of what goes up to the engine, and where its routing rule leads. */
export const MARK = '0x6d7a'
export const ROUTE_TABLE = 7734
export const RULE_PRIORITY = 7734

/** Ports of `br0` where this site's own nodes are. */
const NODE_PORTS = ['host0', 'site0m']
/** Port of `br0` towards the site of the frontend. */
const WAN_PORT = 'wan0m'

/**
 * The interception, as one transaction that replaces whatever was there. Pure.
 *
 * Frames, not packets, pass `br0`. The bridge table turns those of interest into packets for this
 * host (destination MAC and packet type); the ip table hands them to the engine's sockets, and what
 * no socket takes is simply routed on: that is the fail-open path. A new connection is only lifted
 * while its port is in the live set, so with the engine hung it stays on the bridge; all later
 * segments are lifted always, or flows would change hands when the set runs out.
 *
 * TFTP fails closed: it waits for the other end at each packet, so over a long way it is of no use. Its server has but one
 * port, so what its clients say later is known by that as well.
 */
export function renderNft (plan: CachePlan): string {
  const { spec, listeners } = plan
  const ports = listeners.map(listener => listener.port).join(', ')
  const nodePorts = NODE_PORTS.map(port => `"${port}"`).join(', ')
  const { tftp } = spec
  const lift = `meta pkttype set host ether daddr set ${spec.bridgeMac}`
  const divert = listeners.map(({ port, listenPort }) =>
    `    iifname "br0" ip daddr ${spec.frontendAddress} tcp dport ${port} tcp flags & (syn | ack) == syn tproxy to 127.0.0.1:${listenPort} meta mark set ${MARK} accept`)
  const serve = `    iifname "br0" ip daddr ${spec.frontendAddress} udp dport ${TFTP_PORT} tproxy to ${spec.frontendAddress}:${TFTP_PORT} meta mark set ${MARK} accept`
  const body = (comment: string): string => `table bridge ${TABLE} {
  comment "${comment}"
  set ${LIVE_SET} {
    type inet_service
    flags timeout
  }
  counter ${WIRE_COUNTERS.static} { comment "from the frontend to the cache" }
  counter ${WIRE_COUNTERS.dynamic} { comment "from the frontend to nodes" }
  chain lift {
    type filter hook prerouting priority -300; policy accept;
    iifname "${WAN_PORT}" ip saddr ${spec.frontendAddress} tcp sport { ${ports} } ip daddr ${spec.ownAddress} counter name ${WIRE_COUNTERS.static}
    iifname "${WAN_PORT}" ip saddr ${spec.frontendAddress} tcp sport { ${ports} } ip daddr != ${spec.ownAddress} counter name ${WIRE_COUNTERS.dynamic}
    iifname { ${nodePorts} } ip daddr ${spec.frontendAddress} tcp dport { ${ports} } jump from_nodes
    iifname "${WAN_PORT}" ip saddr ${spec.frontendAddress} tcp sport { ${ports} } ${lift}
${tftp === undefined ? '' : `    iifname { ${nodePorts} } ip daddr ${spec.frontendAddress} udp dport ${TFTP_PORT} ${lift}\n`}  }
  chain from_nodes {
    tcp flags & (syn | ack) == syn tcp dport != @${LIVE_SET} accept
    ${lift}
  }
${tftp === undefined ? '' : renderStop()}}
table ip ${TABLE} {
  comment "${comment}"
  chain divert {
    type filter hook prerouting priority -150; policy accept;
    iifname "br0" ip protocol tcp socket transparent 1 meta mark set ${MARK} accept
${[...divert, ...tftp === undefined ? [] : [serve]].join('\n')}
  }
}
`
  return `${renderNftRemoval()}${body(nftDigest(body('')))}`
}

const renderStop = (): string => `  counter ${TFTP_COUNTER} { comment "TFTP on its way to other sites" }
  chain stop {
    type filter hook postrouting priority 300; policy accept;
    oifname "${WAN_PORT}" udp dport ${TFTP_PORT} counter name ${TFTP_COUNTER} drop
  }
`

/** What takes the place of the tables while they change: nothing is intercepted, and TFTP that stays inside still does. Pure. */
export const renderPause = ({ spec }: CachePlan): string =>
  `${renderNftRemoval()}${spec.tftp === undefined ? '' : `table bridge ${TABLE} {\n${renderStop()}}\n`}`

/** Deletes both tables; no error when there is none. */
export function renderNftRemoval (): string {
  return ['bridge', 'ip'].map(family => `table ${family} ${TABLE}\ndelete table ${family} ${TABLE}\n`).join('')
}

/** The comment that the tables of this plan bear. */
export function nftComment (plan: CachePlan): string {
  return /comment "([0-9a-f]{16})"/.exec(renderNft(plan))?.[1] ?? ''
}

const nftDigest = (text: string): string => createHash('sha256').update(text).digest('hex').slice(0, 16)
