import type { ClusterResource, NodeResource } from '../../protocol/api.ts'
import type { CrossSite, VolumeUse } from './use.ts'

/** The demo's `--json` document. Later releases add fields and rename none. */
export interface DemoResult {
  ok: boolean
  error: { code: string, message: string } | null
  sites: Array<{ name: string, hosts: string[], nodes: number }>
  nodes: Array<Pick<NodeResource, 'name' | 'site' | 'host' | 'mac' | 'ip' | 'ready' | 'phases' | 'rxBytes'>>
  wan: ClusterResource['wan'] & { caches: ClusterResource['caches'] }
  lease: ClusterResource['lease']
  segment: ClusterResource['segment']
  crossSite: CrossSite | null
  volume: VolumeUse | null
  image: { digest: string, built: boolean }
  leftovers: string[]
  timings: { imageMs: number, labUpMs: number, createMs: number, deleteMs: number, totalMs: number }
}

export function emptyResult (): DemoResult {
  return {
    ok: false, error: null, sites: [], nodes: [], wan: { bytes: 0, bytesWithoutCache: 0, caches: [] },
    lease: { sites: 0, holds: 0, negotiateMs: 0, rttMs: 0 }, segment: { vni: 0, ids: {}, mtuInner: 0, firstPingMs: null },
    crossSite: null, volume: null, image: { digest: '', built: false }, leftovers: [],
    timings: { imageMs: 0, labUpMs: 0, createMs: 0, deleteMs: 0, totalMs: 0 }
  }
}

/** Takes over what the cluster's resource says. */
export function fillCluster (result: DemoResult, cluster: ClusterResource): void {
  result.nodes = cluster.nodes.map(({ name, site, host, mac, ip, ready, phases, rxBytes }) => ({ name, site, host, mac, ip, ready, phases, rxBytes }))
  for (const site of result.sites) site.nodes = cluster.nodes.filter(n => n.site === site.name).length
  result.wan = { ...cluster.wan, caches: cluster.caches }
  result.lease = cluster.lease
  result.segment = cluster.segment
  if (cluster.timings.createMs !== null) result.timings.createMs = cluster.timings.createMs
}

/** What is not as it should be, in words; empty when all is well. */
export function faultsOf (result: DemoResult): string[] {
  const faults: string[] = []
  const check = (good: boolean, fault: string): void => { if (!good) faults.push(fault) }
  check(result.nodes.length > 0 && result.nodes.every(n => n.ready), 'not every node became ready')
  check(new Set(result.nodes.map(n => n.site)).size >= 2, 'the cluster does not span two sites')
  check(new Set(Object.values(result.segment.ids)).size === Object.keys(result.segment.ids).length, 'two sites chose the same segment id')
  check(result.segment.mtuInner === 1500, `packets of ${result.segment.mtuInner} bytes pass, not 1500`)
  check(result.crossSite !== null && result.crossSite.problems.length === 0, `between the sites: ${result.crossSite?.problems.join('; ') ?? 'not tried'}`)
  check(result.volume?.writeReadOk === true, `the volume: ${result.volume?.problem ?? 'not tried'}`)
  check(result.leftovers.length === 0, `left over: ${result.leftovers.join(', ')}`)
  return faults
}
