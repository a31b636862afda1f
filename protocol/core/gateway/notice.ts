/** A running cluster whose lender needs its own again: its master is told with every keep-alive, and at the end of the notice it is released. */
import { MusubiError } from '../errors.ts'
import { MIN_TERM_MS } from '../limits.ts'
import type { EventOf, Turn } from './machine.ts'
import type { GatewayRecord } from './record.ts'

/**
 * Takes a notice down, once: it is never made shorter, nor longer than the term. One that is shorter than the shortest lease
 * is none.
 */
export function giveNotice (turn: Turn, { clusterId, noticeMs, reason }: EventOf<'notice'>): void {
  const record = turn.record(clusterId)
  const endMs = turn.now + noticeMs
  if (record?.state !== 'active' || record.notice !== undefined || !Number.isSafeInteger(endMs) || endMs >= record.endMs || noticeMs < MIN_TERM_MS) return
  // On the disk before anybody is told: a notice that a crash forgets would begin anew, and be longer.
  turn.save({ ...record, notice: { endMs, reason: reason.slice(0, 200) } }, true)
  turn.note('lease.notice', `the leases of cluster ${record.cluster} of ${record.masterSite} end at ${new Date(endMs).toISOString()}: ${reason}`, record.cluster)
}

/** When a cluster ends here, as its master is told. */
export const toldEndMs = ({ endMs, notice }: GatewayRecord): number => Math.min(endMs, notice?.endMs ?? endMs)

/** Whether the time of its notice is over. */
export const isNoticeOver = ({ state, notice }: GatewayRecord, now: number): boolean => state === 'active' && notice !== undefined && notice.endMs <= now

/** What ends early is not made longer, nor larger. @throws MusubiError POLICY_PREEMPTED */
export function mustHaveNoNotice (site: string, { cluster, notice }: GatewayRecord): void {
  if (notice === undefined) return
  throw new MusubiError('POLICY_PREEMPTED', `the leases of cluster ${cluster} at site ${site} end at ${new Date(notice.endMs).toISOString()}: ${notice.reason}`, { hint: 'what is needed beyond that time must be asked of other sites' })
}
