import type { Test } from 'tap'
import { ID, type World } from './master.ts'

/**
 * Stops a master after each of its effects in turn, what was under way arriving or not, and starts it again.
 *
 * @param world fresh for each run  @param go brings its cluster as far as it comes  @param passMs how long is waited after the start
 * @param running leases of a cluster that runs
 * @returns the states in which it ended
 */
export function stoppedEverywhere (t: Test, world: () => World, go: (world: World) => void, passMs: number, running: number): string[] {
  const outcomes = new Set<string>()
  for (const arrive of [true, false]) {
    for (let fuel = 0; ; fuel++) {
      const one = world()
      one.fuel = fuel
      go(one)
      const ended = one.fuel > 0
      one.crash(arrive)
      one.pass(passMs, 1_000)
      const state = one.disk.get(ID)?.state ?? 'none'
      outcomes.add(state)
      if (state === 'active') t.equal(one.running().length, running, `stopped after ${fuel} effects: everything runs`)
      else t.equal(one.live(), 0, `stopped after ${fuel} effects: ${state}, nothing is left`)
      t.same(one.problems, [], `stopped after ${fuel} effects`)
      if (ended) break
    }
  }
  return [...outcomes].sort()
}
