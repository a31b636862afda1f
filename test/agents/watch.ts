/** Looks at all agents: now and then while things happen, and thoroughly when everybody holds still. */
import { setTimeout as sleep } from 'node:timers/promises'
import type { ClusterResource, LeaseResource } from '../../protocol/api.ts'
import type { RealAgent } from './agent.ts'
import type { Book } from './book.ts'
import { until, type RealFederation } from './federation.ts'

const LOOK_MS = 250

/** Listens to what hosts list until it is told to stop. */
export function startWatch (federation: RealFederation, book: Book): { stop: () => Promise<void> } {
  let stopped = false
  const done = (async () => {
    while (!stopped) {
      await Promise.all(federation.agents.filter(a => a.running && !a.frozen).map(async agent => {
        const askedMs = performance.now()
        const leases = await agent.leases().catch(() => null)
        if (leases !== null) book.hear(agent, leases, askedMs, performance.now())
      }))
      await sleep(LOOK_MS)
    }
  })()
  return { stop: async () => { stopped = true; await done } }
}

export interface Look {
  leases: Map<RealAgent, LeaseResource[]>
  objects: Map<RealAgent, string[]>
  views: Map<string, ClusterResource>
}

/** Everything that agents say and hosts have; all of them must answer. */
export async function look (federation: RealFederation): Promise<Look> {
  const [leases, objects, clusters] = await Promise.all([
    Promise.all(federation.agents.map(async (agent): Promise<[RealAgent, LeaseResource[]]> => [agent, await agent.leases()])),
    Promise.all(federation.agents.map(async (agent): Promise<[RealAgent, string[]]> => [agent, await agent.objects()])),
    Promise.all(federation.agents.filter(a => a.gateway).map(async agent => await agent.clusters()))
  ])
  return { leases: new Map(leases), objects: new Map(objects), views: new Map(clusters.flat().map(c => [c.id, c])) }
}

/** Waits until every leased cluster is whole. @throws Error with what is wrong */
export async function allWhole (federation: RealFederation, book: Book, withinMs: number): Promise<void> {
  let wrong: string[] = []
  await until('every leased cluster is whole', async () => {
    const { leases, views } = await look(federation)
    wrong = book.whole(leases, views)
    return wrong.length === 0
  }, withinMs).catch((error: unknown) => { throw new Error(`${String(error)}\n${wrong.join('\n')}`) })
}

/** Waits until nothing is left of what nobody wants. @returns how long that took, ms  @throws Error with what is left */
export async function noOrphans (federation: RealFederation, book: Book, withinMs: number): Promise<number> {
  const from = performance.now()
  let left: string[] = []
  await until('nothing is left of what has ended', async () => {
    const { leases, objects } = await look(federation)
    left = book.orphans(leases, objects)
    return left.length === 0
  }, withinMs).catch((error: unknown) => { throw new Error(`${String(error)}\n${left.join('\n')}`) })
  return performance.now() - from
}
