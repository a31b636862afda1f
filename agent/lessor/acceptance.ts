import { conflicts } from '../reconcile/diff.ts'
import { ConflictError } from '../../protocol/core/errors.ts'
import { desiredFor } from '../../protocol/core/plan.ts'
import { checkAgainstLeases, growthProblem, type HostTruth, type Self } from '../../protocol/core/verify/document.ts'
import type { DocumentRecord, Ledger } from '../../store/ledger.ts'
import type { HostObjects } from './objects.ts'

/** Text from elsewhere in a message: not longer than a name. */
export const brief = (text: string): string => text.length > 64 ? `${text.slice(0, 61)}...` : text

/**
 * Refuses what this host could not run, or not beside what it runs already, before anything changes:
 * one document must not keep the reconciler from all others.
 *
 * @throws ConflictError; NOT_READY, retryable, when only the remains of an ended cluster are in the way
 */
export function mustBeRunnable (record: DocumentRecord, self: Self, ledger: Ledger, objects: HostObjects, truth: HostTruth): void {
  const { document, secrets } = record
  const isActive = (clusterId: string): boolean => ledger.usageState(clusterId) === 'active'
  const running = isActive(document.id) ? ledger.documents.get(document.id)?.document : undefined
  // A version that is not higher is a replay, or an exchange that the ledger refuses.
  const problem = running === undefined || document.version <= running.version ? null : growthProblem(running, document)
  if (problem !== null) throw new ConflictError(`the document of cluster ${document.name} is refused: ${problem}`)
  const others = ledger.documents.list().filter(other => other.document.id !== document.id)
  checkAgainstLeases(document, self, ledger.leases(document.id), others.map(other => ({ document: other.document, active: isActive(other.document.id) })), truth)
  const accounts = new Set(others.flatMap(other => other.secrets.map(secret => secret.user)))
  const taken = secrets.find(secret => accounts.has(secret.user))
  // A target daemon's accounts are global: the second cluster would get, or change, the first one's secret.
  if (taken !== undefined) throw new ConflictError(`the CHAP user ${brief(taken.user)} of cluster ${document.name} belongs to another cluster on ${self.host}`)
  const [conflict] = conflicts([...objects.desiredOf(others.map(other => other.document.id)), ...desiredFor(document, self, secrets)].filter(object => object.kind !== 'tunnel'))
  if (conflict !== undefined) throw new ConflictError(`cluster ${document.name} on ${self.host}: ${conflict.why}`)
}
