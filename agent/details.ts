import type { ObjectKind } from '../protocol/core/desired.ts'

/** Figures of objects for status and metrics, asked for by people and masters, never used to decide. */
export interface Details { of (kind: ObjectKind, name: string): Promise<Record<string, unknown>> }

/** What drivers of this host can tell beyond `observe`; a failure here is no news worth failing for. */
export interface DetailSources {
  phases?: (name: string) => Promise<Record<string, unknown>>
  cacheStats?: (name: string) => Promise<object | null>
  segmentCounters?: (name: string) => Promise<object | null>
  domainStats?: () => Promise<Record<string, object>>
}

/** One listing of all domains serves every status call of this long: virsh costs some 35 ms. */
const DOMAIN_STATS_KEEP_MS = 400

export function createDetails (sources: DetailSources, monotonic: () => number): Details {
  let domains: { at: number, stats: Promise<Record<string, object>> } | undefined
  function domainStats (): Promise<Record<string, object>> {
    if (domains === undefined || monotonic() - domains.at > DOMAIN_STATS_KEEP_MS) {
      domains = { at: monotonic(), stats: sources.domainStats?.() ?? Promise.resolve({}) }
    }
    return domains.stats
  }
  return {
    async of (kind, name) {
      try {
        switch (kind) {
          case 'frontend': return { phases: await sources.phases?.(name) ?? {} }
          case 'cache': return { ...await sources.cacheStats?.(name) }
          case 'segment': return { ...await sources.segmentCounters?.(name) }
          case 'domain': return { ...(await domainStats())[name] }
          default: return {}
        }
      } catch {
        return {}
      }
    }
  }
}
