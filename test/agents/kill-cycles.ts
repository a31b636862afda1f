/** The test of kill -9 under load: `cycles` kills in rounds, everybody's promises compared between them. */
import type { Test } from 'tap'
import { Book } from './book.ts'
import { makeFederation, type SitePlan } from './federation.ts'
import { killSome } from './killer.ts'
import { startLoad } from './load.ts'
import { createRandom } from './random.ts'
import { allWhole, noOrphans, startWatch } from './watch.ts'

/** Room for some four clusters of their users, so that they now and then take what another wanted. */
export const KILL_SITES: readonly SitePlan[] = [
  { name: 'tokyo', hosts: [{ name: 'tokyo-1', roles: ['gateway', 'compute'], vcpus: 8, memoryMiB: 16_384, diskMiB: 0 }, { name: 'tokyo-2', roles: ['compute', 'storage'], vcpus: 8, memoryMiB: 16_384, diskMiB: 4_096 }] },
  { name: 'osaka', hosts: [{ name: 'osaka-1', roles: ['gateway', 'compute'], vcpus: 8, memoryMiB: 16_384, diskMiB: 0 }, { name: 'osaka-2', roles: ['compute', 'storage'], vcpus: 8, memoryMiB: 16_384, diskMiB: 4_096 }] },
  { name: 'kyoto', hosts: [{ name: 'kyoto-1', roles: ['gateway', 'compute'], vcpus: 8, memoryMiB: 16_384, diskMiB: 0 }] }
]
const PER_ROUND = 10
/** Killed at the same time: a master and its lender, or both ends of a commit. */
const HANDS = 2
const USERS = 2
/** A decision is carried on by the next process of the master; a hold that nobody remembers ends after 30 s. */
const WHOLE_MS = 60_000
/** The longest that anything may outlive its master: T_activate, and some for a busy machine. */
const CLEAN_MS = 150_000

export async function killCycles (t: Test, cycles: number, seed = Math.floor(Math.random() * 2 ** 31)): Promise<void> {
  t.comment(`seed ${seed}`)
  const random = createRandom(seed)
  const federation = await makeFederation(KILL_SITES)
  t.teardown(async () => { await federation.close() })
  await federation.start()
  const book = new Book()
  const watch = startWatch(federation, book)
  const load = startLoad([federation.agent('tokyo-1'), federation.agent('osaka-1')], USERS, book, random)
  const counted = new Map<string, number>()
  const moments = new Map<string, number>()
  let done = 0
  while (done < cycles && book.broken.length === 0) {
    load.go()
    const kills = await killSome(federation, Math.min(PER_ROUND, cycles - done), HANDS, book, random)
    done += kills.done
    for (const [host, times] of kills.byHost) counted.set(host, (counted.get(host) ?? 0) + times)
    for (const [text, times] of kills.after) moments.set(text, (moments.get(text) ?? 0) + times)
    await load.halt()
    await allWhole(federation, book, WHOLE_MS)
    t.same(book.broken, [], `after ${done} kills every promise stands and every leased cluster is whole`)
  }
  await load.end()
  await Promise.all([...book.clusters.values()].map(async told => {
    book.now(told, 'ending')
    await told.master.delete(`/v1/clusters/${told.id}`).catch(() => undefined) // it may be gone already
  }))
  const cleanMs = await noOrphans(federation, book, CLEAN_MS)
  await watch.stop()
  t.same(book.broken, [], 'no promise was broken')
  t.equal(done, cycles, 'all kills took place')
  t.ok(load.counts.leased >= cycles / 10, JSON.stringify(load.counts))
  t.ok(load.counts.extended + load.counts.resized > 0, 'clusters were changed under way')
  t.comment(`killed ${JSON.stringify(Object.fromEntries(counted))}; right after ${JSON.stringify(Object.fromEntries(moments))}`)
  t.comment(`refusals ${JSON.stringify(Object.fromEntries(load.refusals))}; nothing was left ${Math.round(cleanMs)} ms after the last deletion`)
}
