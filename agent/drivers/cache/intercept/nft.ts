import { createHash } from 'node:crypto'
import { PREFIX } from '../../../../protocol/core/desired.ts'
import type { CachePlan } from '../plan.ts'
import { RELAY_PORT } from '../tftp/ports.ts'

/** Name of our table in both families; the namespace belongs to one cluster, so there is one of each. */
export const TABLE = `${PREFIX}_cache`
/** Set in the bridge table: ports whose engine answered within the last seconds (dead-man switch). */
export const LIVE_SET = 'live'
/** How long a port stays in the set without being refreshed. */
export const LIVE_SECONDS = 3
/** Counters in bytes of IP packets: what came by the port to other sites, and TFTP that was sent to nodes of this one. */
export const WIRE_COUNTERS = { static: 'static_in', dynamic: 'dynamic_in', https: 'https_in', tftpIn: 'tftp_in', tftpOut: 'tftp_out' } as const
/** Counter of packets that ask for a file by TFTP; one that is asked for again, as its answer was lost, counts again. */
export const TFTP_ASKED = 'tftp_asked'
/** Counter of packets of TFTP that were on their way to another site, and were dropped. */
export const TFTP_COUNTER = 'tftp_stopped'
const TFTP_PORT = 69
/** Passes untouched: it is counted so that people can see what no cache saves. */
const HTTPS_PORT = 443
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
  const fromAfar = `iifname "${WAN_PORT}" ip saddr ${spec.frontendAddress} tcp sport`
  // where that port is a cache's own, it is counted as such
  const https = spec.ports.includes(HTTPS_PORT) ? '' : `    ${fromAfar} ${HTTPS_PORT} counter name ${WIRE_COUNTERS.https}\n`
  const relayed = tftp?.relay === undefined ? '' : `    iifname "${WAN_PORT}" ip saddr ${tftp.relay} tcp sport ${RELAY_PORT} ip daddr ${spec.ownAddress} counter name ${WIRE_COUNTERS.tftpIn}\n`
  // as @th of UDP: behind its header of 8 bytes a request begins with its code, which is 1
  const asked = `udp dport ${TFTP_PORT} @th,64,16 1 counter name ${TFTP_ASKED}`
  const body = (comment: string): string => `table bridge ${TABLE} {
  comment "${comment}"
  set ${LIVE_SET} {
    type inet_service
    flags timeout
  }
  counter ${WIRE_COUNTERS.static} { comment "from the frontend to the cache" }
  counter ${WIRE_COUNTERS.dynamic} { comment "from the frontend to nodes" }
  counter ${WIRE_COUNTERS.https} { comment "HTTPS from the frontend, which passes untouched" }
${tftp === undefined ? '' : renderTftpCounters()}  chain lift {
    type filter hook prerouting priority -300; policy accept;
    ${fromAfar} { ${ports} } ip daddr ${spec.ownAddress} counter name ${WIRE_COUNTERS.static}
    ${fromAfar} { ${ports} } ip daddr != ${spec.ownAddress} counter name ${WIRE_COUNTERS.dynamic}
${https}${relayed}    iifname { ${nodePorts} } ip daddr ${spec.frontendAddress} tcp dport { ${ports} } jump from_nodes
    ${fromAfar} { ${ports} } ${lift}
${tftp === undefined ? '' : `    iifname { ${nodePorts} } ip daddr ${spec.frontendAddress} ${asked}\n    iifname { ${nodePorts} } ip daddr ${spec.frontendAddress} udp dport ${TFTP_PORT} ${lift}\n`}  }
  chain from_nodes {
    tcp flags & (syn | ack) == syn tcp dport != @${LIVE_SET} accept
    ${lift}
  }
${tftp === undefined ? '' : `${renderStop()}  chain given {
    type filter hook postrouting priority 300; policy accept;
    oifname { ${nodePorts} } ip saddr ${spec.frontendAddress} udp sport ${TFTP_PORT} counter name ${WIRE_COUNTERS.tftpOut}
  }
`}}
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

const renderTftpCounters = (): string => `  counter ${WIRE_COUNTERS.tftpIn} { comment "from the relay at the site of the frontend" }
  counter ${WIRE_COUNTERS.tftpOut} { comment "TFTP to nodes" }
  counter ${TFTP_ASKED} { comment "files that nodes asked for by TFTP" }
`

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
