import { run } from '../../../exec.ts'
import { LIVE_SET, MARK, ROUTE_TABLE, RULE_PRIORITY, TABLE, TFTP_COUNTER, nftComment, renderNft, renderNftRemoval, renderPause } from './nft.ts'
import type { CachePlan } from '../plan.ts'

/** What the kernel of a cluster's namespace has of our interception. */
export interface InterceptionState {
  /** both tables, from this plan */
  tables: boolean
  /** the routing rule and its route */
  routing: boolean
  /** ports in the live set: new connections to them go through the engine */
  live: number[]
  /** packets of TFTP that were kept from other sites since the tables were made; null where nothing keeps them */
  tftpStopped: number | null
}

/** Settings of the namespace that interception and the fail-open path rest on. */
const SYSCTLS = [
  // 1 would push bridged frames through the ip tables, where tproxy breaks them
  'net.bridge.bridge-nf-call-iptables=0',
  'net.ipv4.ip_forward=1',
  'net.ipv4.conf.all.rp_filter=0',
  'net.ipv4.conf.default.rp_filter=0',
  'net.ipv4.conf.br0.rp_filter=0',
  // routing back out of the port it came from would tell nodes of a better way at every packet
  'net.ipv4.conf.all.send_redirects=0',
  'net.ipv4.conf.default.send_redirects=0',
  'net.ipv4.conf.br0.send_redirects=0',
  'net.ipv4.tcp_slow_start_after_idle=0'
]

/** JSON listings of iproute2. */
type Listing = Array<Record<string, unknown>>

/** True when the namespace exists and has the segment's bridge. */
export async function hasBridge (namespace: string, signal: AbortSignal): Promise<boolean> {
  const { exitCode } = await run('ip', ['-n', namespace, 'link', 'show', 'dev', 'br0'], { signal, okCodes: [1, 255] })
  return exitCode === 0
}

export async function observeInterception (plan: CachePlan, signal: AbortSignal): Promise<InterceptionState> {
  const table = async (family: string): Promise<string> =>
    (await run('nft', ['list', 'table', family, TABLE], { netns: plan.namespace, signal, okCodes: [1] })).stdout
  const [bridge, ip, rules, routes] = await Promise.all([
    table('bridge'),
    table('ip'),
    listing(['-json', '-n', plan.namespace, 'rule', 'show', 'priority', String(RULE_PRIORITY)], signal),
    listing(['-json', '-n', plan.namespace, 'route', 'show', 'table', String(ROUTE_TABLE)], signal)
  ])
  // as text: Debian 12's nft leaves comments of tables out of its JSON
  const comment = `comment "${nftComment(plan)}"`
  return {
    tables: bridge.includes(comment) && ip.includes(comment),
    routing: rules.length > 0 && routes.some(route => route['type'] === 'local'),
    live: liveElements(bridge),
    tftpStopped: stoppedPackets(bridge)
  }
}

/** Settings, routing rule and route; each step can be repeated. */
export async function applyRouting (plan: CachePlan, signal: AbortSignal): Promise<void> {
  const ip = ['-n', plan.namespace]
  await run('sysctl', ['-e', '-q', '-w', ...SYSCTLS], { netns: plan.namespace, signal })
  await run('ip', [...ip, 'link', 'set', 'lo', 'up'], { signal })
  await run('ip', [...ip, 'route', 'replace', 'local', '0.0.0.0/0', 'dev', 'lo', 'table', String(ROUTE_TABLE)], { signal })
  const rules = await listing(['-json', ...ip, 'rule', 'show', 'priority', String(RULE_PRIORITY)], signal)
  if (rules.length === 0) {
    await run('ip', [...ip, 'rule', 'add', 'fwmark', `${MARK}/0xffff`, 'lookup', String(ROUTE_TABLE), 'priority', String(RULE_PRIORITY)], { signal })
  }
}

/** Replaces both tables in one transaction; the live set is empty until the prober's next round. */
export async function applyTables (plan: CachePlan, signal: AbortSignal): Promise<void> {
  await run('nft', ['-f', '-'], { netns: plan.namespace, signal, input: renderNft(plan) })
}

/** Takes the interception out until `applyTables`; new connections go directly meanwhile. */
export async function pauseTables (plan: CachePlan, signal: AbortSignal): Promise<void> {
  await run('nft', ['-f', '-'], { netns: plan.namespace, signal, input: renderPause(plan) })
}

/** Takes tables, rule and route out; what is not there is no error. */
export async function removeInterception (namespace: string, signal: AbortSignal): Promise<void> {
  await run('nft', ['-f', '-'], { netns: namespace, signal, input: renderNftRemoval() })
  const ip = ['-n', namespace]
  const rules = await listing(['-json', ...ip, 'rule', 'show', 'priority', String(RULE_PRIORITY)], signal)
  for (let left = rules.length; left > 0; left--) {
    await run('ip', [...ip, 'rule', 'del', 'priority', String(RULE_PRIORITY)], { signal })
  }
  await run('ip', [...ip, 'route', 'flush', 'table', String(ROUTE_TABLE)], { signal, okCodes: [2, 255] })
}

/** True when the kernel and nft take these rules (nothing is applied). @throws CommandError else */
export async function checkTables (plan: CachePlan, signal: AbortSignal): Promise<void> {
  await run('nft', ['-c', '-f', '-'], { signal, input: renderNft(plan) })
}

async function listing (args: readonly string[], signal: AbortSignal): Promise<Listing> {
  // a route table that was never used is an error to ip, with the beginning of a list on stdout
  const { stdout, exitCode } = await run('ip', args, { signal, okCodes: [1, 2, 255] })
  return exitCode !== 0 || stdout.trim() === '' ? [] : JSON.parse(stdout) as Listing
}

/** Ports in the live set, from the listing of the bridge table. Pure. */
export function liveElements (table: string): number[] {
  const elements = new RegExp(`set ${LIVE_SET} \\{[^}]*elements = \\{([^}]*)\\}`).exec(table)?.[1] ?? ''
  return elements.split(',').map(element => Number.parseInt(element, 10)).filter(port => !Number.isNaN(port))
}

/** Packets that the counter of stopped TFTP tells of, from the listing of the bridge table; null without one. Pure. */
export function stoppedPackets (table: string): number | null {
  const packets = new RegExp(`counter ${TFTP_COUNTER} \\{[^}]*packets (\\d+)`).exec(table)?.[1]
  return packets === undefined ? null : Number(packets)
}
