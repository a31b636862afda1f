import type { AgentMetrics } from './metrics.ts'
import type { Cordon } from '../../cordon.ts'
import type { Directory } from '../../directory.ts'
import type { SiteIssuer } from '../../site/issuer.ts'
import type { Mesh } from '../../../protocol/mesh/mesh.ts'
import type { Ledger } from '../../../store/ledger/types.ts'
import { isMasterless } from '../view/leases.ts'

export interface FigureSources { mesh: Mesh, directory: Directory, ledger: Ledger, issuer: SiteIssuer, cordon: Cordon, started: number }

function countBy (names: readonly string[]): Record<string, number> {
  const counts: Record<string, number> = {}
  for (const name of names) counts[name] = (counts[name] ?? 0) + 1
  return counts
}

/** The figures of an agent as they are now. */
export function metricsOf ({ mesh, directory, ledger, issuer, cordon, started }: FigureSources): AgentMetrics {
  const states = (['host', 'site', 'policy', 'coordinator'] as const).flatMap(kind => Object.entries(countBy(directory.records.view(kind, { dead: true }).map(({ state }) => state))).map(([state, count]) => ({ kind, state, count })))
  const { notAdmitted, ...outcomes } = directory.records.counts()
  const leases = [...ledger.state().leases.values()]
  return {
    admissionRefusals: mesh.refusals(), joins: issuer.joins(), records: states, recordOutcomes: { ...outcomes, ...notAdmitted },
    peers: countBy(mesh.connected().flatMap(peer => mesh.path(peer) ?? [])),
    leases: countBy(leases.map(({ state }) => state)), masterless: leases.filter(lease => isMasterless(lease, ledger)).length, frozen: ledger.frozen() !== null, ledgerFailed: ledger.failure() !== null,
    revocations: mesh.trust.revocations.size, certificateNotAfterMs: mesh.trust.own().notAfterMs, cordoned: cordon.get().cordoned,
    uptimeMs: Math.round(performance.now() - started)
  }
}
