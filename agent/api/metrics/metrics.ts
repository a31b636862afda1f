import type { CacheFigures } from '../../master/caches.ts'
import type { ClusterResource } from '../../../protocol/api.ts'
import type { RetainedStoreResource } from '../../../protocol/cache-api.ts'
import { cacheFamilies, retainedFamilies } from './cache.ts'
import { family, type Sample } from './families.ts'

/** Figures of one agent at this moment, for Prometheus. */
export interface AgentMetrics {
  /** connections that were not admitted, by code: `us` refused others, `them` refused us */
  admissionRefusals: { readonly us: Readonly<Record<string, number>>, readonly them: Readonly<Record<string, number>> }
  /** answers of the listener for joining, by code; OK for joins */
  joins: Readonly<Record<string, number>>
  /** records that are known, by kind and state */
  records: ReadonlyArray<{ readonly kind: string, readonly state: string, readonly count: number }>
  /** received records, by what became of them */
  recordOutcomes: Readonly<Record<string, number>>
  /** open connections, by path: direct or relay */
  peers: Readonly<Record<string, number>>
  /** leases in the ledger, by state */
  leases: Readonly<Record<string, number>>
  /** leases whose master is not heard of */
  masterless: number
  /** whether the clock has jumped, so that nothing new is promised */
  frozen: boolean
  /** whether the disk of the ledger has failed, so that nothing is promised */
  ledgerFailed: boolean
  revocations: number
  certificateNotAfterMs: number
  cordoned: boolean
  uptimeMs: number
}

const by = (label: string, counts: Readonly<Record<string, number>>, more: Readonly<Record<string, string>> = {}): Sample[] =>
  Object.entries(counts).sort(([a], [b]) => a < b ? -1 : 1).map(([text, value]) => [{ ...more, [label]: text }, value])

/** The text format of Prometheus, version 0.0.4. @param clusters of this master, with their caches @param figures of these by class and node @param retained stores that outlive their clusters here */
export function metricsText (m: AgentMetrics, clusters: readonly Pick<ClusterResource, 'name' | 'caches'>[] = [], figures: readonly CacheFigures[] = [], retained: readonly Pick<RetainedStoreResource, 'owner' | 'bytes'>[] = []): string {
  const one = (value: number): Sample[] => [[{}, value]]
  return `${[
    ...family('musubi_admission_refusals_total', 'counter', 'Connections that were not admitted, and frames and gossip that ended one, by who refused and why.',
      [...by('code', m.admissionRefusals.us, { by: 'us' }), ...by('code', m.admissionRefusals.them, { by: 'them' })]),
    ...family('musubi_join_answers_total', 'counter', 'Answers to those who came with a token, by outcome.', by('code', m.joins)),
    ...family('musubi_record_outcomes_total', 'counter', 'Received records, by what became of them.', by('outcome', m.recordOutcomes)),
    ...family('musubi_records', 'gauge', 'Advertisements that are known.', m.records.map(({ kind, state, count }) => [{ kind, state }, count])),
    ...family('musubi_peers', 'gauge', 'Open connections, by path.', by('path', m.peers)),
    ...family('musubi_leases', 'gauge', 'Leases in the ledger of this host.', by('state', m.leases)),
    ...family('musubi_leases_masterless', 'gauge', 'Leases whose master is not heard of.', one(m.masterless)),
    ...family('musubi_clock_frozen', 'gauge', '1 when the clock has jumped and nothing new is promised.', one(m.frozen ? 1 : 0)),
    ...family('musubi_ledger_failed', 'gauge', '1 when the disk of the ledger has failed and nothing is promised.', one(m.ledgerFailed ? 1 : 0)),
    ...family('musubi_revocations', 'gauge', 'Revocations that are known.', one(m.revocations)),
    ...family('musubi_certificate_not_after_seconds', 'gauge', 'When the certificate of this host ends, Unix time.', one(Math.floor(m.certificateNotAfterMs / 1000))),
    ...family('musubi_cordoned', 'gauge', '1 when this host takes no new leases.', one(m.cordoned ? 1 : 0)),
    ...cacheFamilies(clusters, figures),
    ...retainedFamilies(retained),
    ...family('musubi_uptime_seconds', 'gauge', 'Time since the start.', one(m.uptimeMs / 1000))
  ].join('\n')}\n`
}
