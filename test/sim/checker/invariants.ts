import { fence } from './helper/fence.ts'
import { running } from './helper/running.ts'
import type { Invariant } from './invariant.ts'
import { answers } from './ledger/answers.ts'
import { calendar, conserved } from './ledger/calendar.ts'
import { causes } from './ledger/causes.ts'
import { clocks } from './ledger/clocks.ts'
import { cordons } from './ledger/cordons.ts'
import { counters } from './ledger/counters.ts'
import { ends } from './ledger/ends.ts'
import { notices } from './ledger/notices.ts'
import { promises } from './ledger/promises.ts'
import { segments } from './ledger/segments.ts'
import { shares } from './ledger/shares.ts'
import { leaseTable } from './ledger/table.ts'
import { allOrNothing } from './master/all-or-nothing.ts'
import { copies } from './master/copies.ts'
import { convergence } from './master/convergence.ts'
import { createDecisions, decisions } from './master/decisions.ts'
import { changes } from './master/changes.ts'
import { epochs } from './master/epochs.ts'
import { offers } from './master/offers.ts'
import { releases } from './master/releases.ts'
import type { World } from './model.ts'

/** All that must always be so, each before those that rely on what it has noted. */
export function invariantsOf (world: World): Invariant[] {
  const known = createDecisions()
  return [
    counters(world), leaseTable(world), clocks(world), causes(world), ends(world), promises(world), calendar(world), notices(world), shares(world), conserved(world), segments(world), answers(world), cordons(world),
    decisions(world, known), allOrNothing(world, known), epochs(world, known), releases(world, known), offers(world, known), changes(world, known), copies(world),
    fence(world), running(world), convergence(world, known)
  ]
}
