/** kill -9 of agents at random moments and right after something has happened, each started again at once. */
import { setTimeout as sleep } from 'node:timers/promises'
import type { RealAgent } from './agent.ts'
import type { Book } from './book.ts'
import type { Random } from './random.ts'
import type { RealFederation } from './federation.ts'

export interface Kills {
  readonly done: number
  /** how often each host was killed */
  readonly byHost: ReadonlyMap<string, number>
  /** texts of events right after which somebody was killed, without names and numbers */
  readonly after: ReadonlyMap<string, number>
}

const EVENT_PATIENCE_MS = 1_500

/** The next event of an agent; null when there is none for a while, or the agent dies. */
async function nextEvent (agent: RealAgent): Promise<string | null> {
  const signal = AbortSignal.timeout(EVENT_PATIENCE_MS)
  try {
    for await (const event of agent.events(signal)) return event.message
  } catch {
    // it was killed meanwhile, by somebody else
  }
  return null
}

const kindOf = (message: string): string => message.replace(/\b(k\d+-\w+(-\d+)?|[0-9a-f]{8}[0-9a-f.-]*|tokyo|osaka|kyoto)(-\d+)?\b/g, '~').replace(/\d+/g, 'N').slice(0, 60)

/**
 * Kills `count` agents, `hands` at the same time, and waits until all of them are up again. As soon as
 * one answers again, what it lists is compared with what it owed when it was killed.
 */
export async function killSome (federation: RealFederation, count: number, hands: number, book: Book, random: Random): Promise<Kills> {
  const byHost = new Map<string, number>()
  const after = new Map<string, number>()
  const taken = new Set<RealAgent>()
  let left = count
  const hand = async (): Promise<void> => {
    while (left > 0) {
      left--
      const gateways = federation.agents.filter(a => a.gateway && a.running)
      if (gateways.length > 0 && random.chance(0.6)) {
        const event = await nextEvent(random.pick(gateways))
        if (event !== null) after.set(kindOf(event), (after.get(kindOf(event)) ?? 0) + 1)
        await sleep(random.chance(0.5) ? 0 : random.between(1, 15))
      } else {
        await sleep(random.between(0, 600))
      }
      const agent = random.pick(federation.agents.filter(a => !taken.has(a)))
      taken.add(agent)
      const owed = book.owed(agent)
      await agent.end('SIGKILL')
      if (random.chance(0.3)) await sleep(random.between(0, 1500))
      await agent.start()
      book.compare(agent, await agent.leases(), owed)
      byHost.set(agent.name, (byHost.get(agent.name) ?? 0) + 1)
      taken.delete(agent)
    }
  }
  await Promise.all(Array.from({ length: hands }, hand))
  return { done: count, byHost, after }
}
