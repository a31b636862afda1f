/** A gateway with a cluster that runs, and one of a site of higher priority that wants its room. */
import type { SiteAsk } from '../../protocol/core/gateway/events.ts'
import { CLUSTER, GatewayBench, HOUR, OTHER } from './gateway-bench.ts'

export const MINUTE = 60_000
export const T0 = 1_800_000_000_000
export const HIGH = 'c2000000-0000-4000-8000-000000000000'
export const TERM = ['tokyo-1 3600000', 'tokyo-2 3600000', 'tokyo-3 3600000']
export const CUT = ['tokyo-1 900000', 'tokyo-2 900000', 'tokyo-3 900000']

/** A cluster of tsukuba runs, and there is no room beside it; by its notice there is all of it. */
export function bench (): GatewayBench {
  const b = new GatewayBench()
  b.quota = true
  b.active()
  b.byNotice = { clusters: [{ clusterId: CLUSTER, cluster: 'demo', site: 'tsukuba', priority: 10, noticeMs: 10 * MINUTE, seq: 0 }], hosts: b.view().hosts }
  return b
}

/** Osaka asks for a start in a quarter of an hour. */
export const high = (b: GatewayBench, part: { key?: string, startMs?: number, sentMs?: number } = {}): Extract<SiteAsk, { method: 'request' }> => {
  const asking = b.asking({ clusterId: HIGH, cluster: 'high', masterSite: 'osaka', startMs: T0 + 15 * MINUTE, endMs: T0 + 2 * HOUR, key: 'h1', ...part })
  return { ...asking, view: { ...asking.view, hosts: asking.view.hosts.map(host => ({ ...host, free: { ...host.free, vcpus: 0 } })) } }
}
export const commitHigh = (b: GatewayBench, offerId: string): unknown => b.settle({ method: 'commit', request: { clusterId: HIGH, offerId, key: 'c', epoch: 1 } }, OTHER)
export const releaseHigh = (b: GatewayBench): unknown => b.settle({ method: 'release', request: { clusterId: HIGH, reason: 'given up', offerId: '', leaseIds: [], epoch: 1 } }, OTHER)
export const offerOf = (answer: unknown): string => (answer as { reply: { offerId: string } }).reply.offerId
export const noticeOf = (b: GatewayBench): unknown => b.record()?.notice
export const methods = (b: GatewayBench): string[] => b.asked.map(({ peer, ask }) => `${ask.method} ${peer.slice(5)}`)
