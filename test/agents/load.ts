/** People who create, extend, resize and delete clusters at one master, whatever happens to the agents. */
import { setTimeout as sleep } from 'node:timers/promises'
import { errorCode } from '../../protocol/core/errors.ts'
import type { ClusterResource } from '../../protocol/api.ts'
import type { RealAgent } from './agent.ts'
import { insist, type Book, type Told } from './book.ts'
import type { Random } from './random.ts'

export const LEASED = new Set(['building', 'ready', 'degraded'])
const OVER = new Set(['failed', 'deleted'])
const POLL_MS = 30
/** Nothing that happens here keeps a cluster from settling for longer, but a machine without a core to spare. */
const SETTLE_MS = 120_000

export const spec = (name: string, count: number, more: { volume?: boolean, term?: string } = {}): object => ({
  apiVersion: 'musubi/v1', kind: 'Cluster', metadata: { name },
  spec: { nodes: { count, vcpus: 1, memoryMiB: 512 }, term: more.term ?? '1h', ...(more.volume === true ? { volumes: [{ name: 'data', sizeMiB: 64, node: 1 }] } : {}) }
})

/** A user's view of a cluster; null when the agent does not know it. */
export async function show (master: RealAgent, nameOrId: string): Promise<ClusterResource | null> {
  return await master.get<ClusterResource>(`/v1/clusters/${nameOrId}`).catch((error: unknown) => {
    if (errorCode(error) === 'NOT_FOUND') return null
    throw error
  })
}

export interface Load {
  readonly counts: Record<'asked' | 'leased' | 'refused' | 'extended' | 'resized' | 'deleted', number>
  /** codes of what was refused */
  readonly refusals: Map<string, number>
  /** Nobody starts anything until `go`; resolves when everybody has stopped. */
  halt (): Promise<void>
  go (): void
  /** Everybody goes home after what they do now. */
  end (): Promise<void>
}

/** @param users of each master */
export function startLoad (masters: readonly RealAgent[], users: number, book: Book, random: Random): Load {
  const counts = { asked: 0, leased: 0, refused: 0, extended: 0, resized: 0, deleted: 0 }
  const refusals = new Map<string, number>()
  let ended = false
  const isOver = (): boolean => ended
  let gate: PromiseWithResolvers<undefined> | null = null
  let resting = 0
  let serial = 0
  const refuse = (code: string): void => { refusals.set(code, (refusals.get(code) ?? 0) + 1) }

  const rest = async (): Promise<void> => {
    while (gate !== null) {
      resting++
      await gate.promise
      resting--
    }
  }

  async function settled (told: Told): Promise<ClusterResource | null> {
    for (const end = performance.now() + SETTLE_MS; ;) {
      const view = await insist(async () => await show(told.master, told.id), () => true)
      if (view === null) {
        book.break(`${told.master.name} accepted ${told.name} and does not know it any more`)
        return null
      }
      if (LEASED.has(view.state) || OVER.has(view.state)) return view
      if (performance.now() > end) {
        book.break(`${told.name} is ${view.state} for more than ${SETTLE_MS / 1000} s`)
        return null
      }
      await sleep(POLL_MS)
    }
  }

  async function create (master: RealAgent): Promise<Told | null> {
    const name = `k${++serial}-${master.site}`
    const body = spec(name, random.between(2, 8), { volume: random.chance(0.3) })
    counts.asked++
    try {
      const { id } = await master.post<ClusterResource>('/v1/clusters', body)
      return book.told(id, name, master)
    } catch (error) {
      if (errorCode(error) !== 'UNREACHABLE') {
        refuse(errorCode(error))
        return null
      }
      // nobody knows whether it was taken: then it is looked for, under a name that nobody else uses
      const view = await insist(async () => await show(master, name), () => true)
      return view === null ? null : book.told(view.id, name, master)
    }
  }

  async function change (told: Told, view: ClusterResource): Promise<void> {
    try {
      if (random.chance(0.6)) {
        const after = await told.master.post<ClusterResource>(`/v1/clusters/${told.id}/extend`, { termMs: random.between(3_700, 9_000) * 1000 })
        told.endMs = Math.max(told.endMs, after.expiresAt)
        counts.extended++
      } else {
        // some of its leases may end: which ones is known afterwards
        book.now(told, 'asked')
        told.resized = true
        await told.master.post(`/v1/clusters/${told.id}/scale`, { nodes: Math.max(1, view.nodes.length + random.between(-2, 2)) })
        counts.resized++
      }
    } catch (error) {
      refuse(errorCode(error))
      if (errorCode(error) === 'UNREACHABLE') {
        if (told.state === 'asked') told.unsure = true
        await insist(async () => await show(told.master, told.id), () => true)
      }
    }
    if (told.state === 'asked') book.now(told, 'leased')
  }

  async function remove (told: Told): Promise<void> {
    book.now(told, 'ending')
    await insist(async () => await told.master.delete(`/v1/clusters/${told.id}`), () => true)
    counts.deleted++
  }

  async function user (master: RealAgent): Promise<void> {
    while (!ended) {
      await rest()
      const told = await create(master)
      if (told === null) {
        await sleep(200)
        continue
      }
      const view = await settled(told)
      if (view === null || OVER.has(view.state)) {
        book.now(told, 'ending')
        counts.refused++
        refuse(view?.error?.code ?? 'FORGOTTEN')
        if (random.chance(0.5)) await remove(told)
        await sleep(random.between(50, 300))
        continue
      }
      counts.leased++
      told.endMs = view.expiresAt
      book.now(told, 'leased')
      // where the leases are is heard while it lives, from those hosts that are up
      for (let n = random.between(0, 3); n > 0 && !isOver(); n--) {
        await sleep(random.between(50, 700))
        await rest()
        await change(told, view)
      }
      await sleep(random.between(0, 1500))
      await rest()
      await remove(told)
    }
  }

  const working = masters.flatMap(master => Array.from({ length: users }, async () => { await user(master) }))
  const done = Promise.all(working)
  done.catch(() => undefined)
  return {
    counts, refusals,
    halt: async () => {
      gate ??= Promise.withResolvers()
      for (const end = performance.now() + 2 * SETTLE_MS; resting < working.length;) {
        // what went wrong with one of them is said, not waited for
        await Promise.race([done, sleep(20)])
        if (performance.now() > end) throw new Error(`${working.length - resting} of ${working.length} users are still busy`)
      }
    },
    go: () => {
      gate?.resolve(undefined)
      gate = null
    },
    end: async () => {
      ended = true
      gate?.resolve(undefined)
      gate = null
      await done
    }
  }
}
