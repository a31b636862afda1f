/** Many schedules, one after the other, and what they add up to. */
import { createChecker } from './checker/checker.ts'
import { planOf } from './world/config.ts'
import { rowsSeen } from './world/coverage.ts'
import { runWorld, type Outcome, type WorldOptions } from './world/world.ts'

/** A schedule with less than this is not counted. */
export const MIN_SITES = 3
export const MIN_COMPETING = 2
export const MIN_EVENTS = 200

export interface Totals {
  schedules: number
  counting: number
  events: number
  /** why schedules were not counted */
  short: { events: number, competing: number }
  faults: Record<string, number>
  rows: string[]
  convergedMsMax: number
  convergedMsSum: number
  convergedSeed: number
  /** of the lowest seed */
  violation: Found | null
  /** all of them, where the run goes on after one */
  violations: Found[]
}

type Found = NonNullable<Outcome['violation']> & { seed: number }

export const noTotals = (): Totals => ({ schedules: 0, counting: 0, events: 0, short: { events: 0, competing: 0 }, faults: {}, rows: [], convergedMsMax: 0, convergedMsSum: 0, convergedSeed: 0, violation: null, violations: [] })

export function addOutcome (totals: Totals, outcome: Outcome): void {
  totals.schedules++
  totals.events += outcome.events
  const counts = outcome.sites >= MIN_SITES && outcome.competing >= MIN_COMPETING && outcome.events >= MIN_EVENTS
  if (counts) totals.counting++
  else if (outcome.competing < MIN_COMPETING) totals.short.competing++
  else totals.short.events++
  for (const [kind, count] of Object.entries(outcome.faults)) totals.faults[kind] = (totals.faults[kind] ?? 0) + count
  totals.convergedMsSum += outcome.convergedMs
  if (outcome.convergedMs > totals.convergedMsMax) { totals.convergedMsMax = outcome.convergedMs; totals.convergedSeed = outcome.seed }
  if (outcome.violation === null) return
  const found = { ...outcome.violation, seed: outcome.seed }
  totals.violations.push(found)
  if (totals.violation === null || found.seed < totals.violation.seed) totals.violation = found
}

export function mergeTotals (into: Totals, from: Totals): void {
  into.schedules += from.schedules
  into.counting += from.counting
  into.events += from.events
  into.short.events += from.short.events
  into.short.competing += from.short.competing
  for (const [kind, count] of Object.entries(from.faults)) into.faults[kind] = (into.faults[kind] ?? 0) + count
  into.rows = [...new Set([...into.rows, ...from.rows])].sort()
  into.convergedMsSum += from.convergedMsSum
  if (from.convergedMsMax > into.convergedMsMax) { into.convergedMsMax = from.convergedMsMax; into.convergedSeed = from.convergedSeed }
  into.violations.push(...from.violations)
  if (from.violation !== null && (into.violation === null || from.violation.seed < into.violation.seed)) into.violation = from.violation
}

export const runSeed = (seed: number, trace?: NonNullable<WorldOptions['trace']>): Promise<Outcome> =>
  runWorld({ config: planOf(seed), createChecker, ...(trace === undefined ? {} : { trace }) })

export const rows = (): string[] => [...rowsSeen].sort()
