import type { Invariant } from '../invariant.ts'
import { type World, field, textOf, violated } from '../model.ts'
import type { Decisions } from './decisions.ts'

/** Within so long after its start a master has settled what its former life was about to ask for; ms. */
const SETTLED_MS = 10_000

interface Interrupted { host: string, clusterId: string, change: string, sinceMs: number }

/**
 * What a master was asking lenders for is known to nobody when it starts anew: it gives that change up,
 * as nothing was decided. Else the cluster could not be changed any more until its end.
 */
export function changes (world: World, { records }: Pick<Decisions, 'records'>): Invariant {
  const NAME = 'change-given-up'
  const interrupted = new Map<string, Interrupted>()

  /** The change of a cluster that runs, or of a reservation, whose lenders are being asked; '' without one. */
  function asking (record: unknown): string {
    const amendment = field(record, 'amendment')
    const state = textOf(record, 'state')
    return (state === 'active' || state === 'activating') && textOf(amendment, 'state') === 'asking' ? textOf(amendment, 'id') : ''
  }
  /** Its next life, or its disk when that works again, begins with what is on the disk then. */
  function forget (host: string): void {
    for (const [key, one] of interrupted) if (one.host === host) interrupted.delete(key)
  }

  return {
    name: NAME,
    boot ({ host, newBoot }) {
      forget(host)
      if (newBoot || world.hosts.get(host)?.malicious === true) return
      for (const [key, record] of records) {
        if (!key.startsWith(`${host} `)) continue
        const change = asking(record)
        if (change !== '') interrupted.set(key, { host, clusterId: key.slice(host.length + 1), change, sinceMs: world.nowMs })
      }
    },
    decision ({ host, clusterId, record }) {
      const key = `${host} ${clusterId}`
      if (interrupted.size > 0 && interrupted.get(key)?.change !== asking(record)) interrupted.delete(key)
    },
    host ({ name, failed, failing }) { if (interrupted.size > 0 && (failed || failing)) forget(name) },
    crash ({ host }) { forget(host) },
    diskLost ({ host }) { forget(host) },
    nextDueMs () {
      let first = Number.POSITIVE_INFINITY
      for (const { sinceMs } of interrupted.values()) first = Math.min(first, sinceMs + SETTLED_MS)
      return first
    },
    due () {
      for (const { host, clusterId, change, sinceMs } of interrupted.values()) {
        if (world.nowMs - sinceMs > SETTLED_MS && world.hosts.get(host)?.failing === false) violated(world, NAME, host, `it was started ${Math.round((world.nowMs - sinceMs) / 1000)} s ago, and its record of cluster ${clusterId.slice(0, 8)} still has the change ${change}, for which nobody is asked any more`)
      }
    }
  }
}
