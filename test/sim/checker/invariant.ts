import type { AnswerGiven, Arrival, CallMade, HostModel, LeaseChange, ObservationOf, RunningModel } from './model.ts'
import type { ExtensionFacts, HostFacts } from '../observation.ts'

/**
 * One thing that must always be so. Each is told what changed, keeps what it needs of the past, and
 * throws a Violation at the first event after which it is not so.
 */
export interface Invariant {
  readonly name: string
  /** a lease is new, different, or gone */
  lease? (change: LeaseChange): void
  extension? (host: HostModel, before: ExtensionFacts | null, after: ExtensionFacts | null, reread: boolean): void
  /** after all leases of an observation have been told one by one; `before` null at the first */
  host? (host: HostModel, before: HostFacts | null, reread: boolean): void
  /** something began to run, or runs by another command; null: stopped */
  running? (host: HostModel, resource: string, after: RunningModel | null, before: RunningModel | null): void
  call? (call: CallMade): void
  arrive? (host: HostModel, arrival: Arrival): void
  /** `arrival` undefined: it arrived in an earlier life of the process */
  answer? (host: HostModel, answer: AnswerGiven, arrival: Arrival | undefined): void
  decision? (decision: ObservationOf<'decision'>): void
  command? (command: ObservationOf<'command'>): void
  helper? (action: ObservationOf<'helper'>): void
  crash? (crash: ObservationOf<'crash'>): void
  boot? (boot: ObservationOf<'boot'>): void
  diskLost? (lost: ObservationOf<'disk-lost'>): void
  operator? (action: ObservationOf<'operator'>): void
  /** a moment that it asked for by `nextDueMs` has come */
  due? (): void
  /** true ms; nothing is due before */
  nextDueMs? (): number
  /** the run is over */
  end? (): void
}
