import type { Invariant } from '../invariant.ts'
import { type World, leaseText, violated } from '../model.ts'

/** A host that takes no new leases takes none. */
export function cordons (world: World): Invariant {
  const NAME = 'cordoned-takes-none'
  /** since when, true ms */
  const cordoned = new Map<string, number>()
  const arrived = new Map<string, number>()
  return {
    name: NAME,
    operator ({ host, action }) {
      if (action === 'cordon') cordoned.set(host, world.nowMs)
      else if (action === 'uncordon') cordoned.delete(host)
    },
    arrive (host, { call }) {
      if (call.method === 'hold' && call.from !== '') for (const item of (call.request as { items?: Array<{ leaseId: string }> }).items ?? []) if (!arrived.has(item.leaseId)) arrived.set(item.leaseId, world.nowMs)
    },
    lease ({ host, before, after, reread }) {
      const sinceMs = cordoned.get(host.name)
      if (before !== null || after === null || reread || sinceMs === undefined || world.nowMs >= world.healedMs) return
      if ((arrived.get(after.id) ?? 0) > sinceMs) violated(world, NAME, host.name, `${leaseText(after)} was held ${Math.round(world.nowMs - sinceMs)} ms after the host was cordoned`)
    }
  }
}
