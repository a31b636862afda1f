/** Which shares of a quota go with other leases: the lender and the master have to agree on it. Pure. */
import type { Held } from './messages.ts'

/** A gateway makes the ids of leases from that of their offer. */
const offerOf = (leaseId: string): string => leaseId.replace(/-\d+$/, '')

/** The quota leases of offers of which nothing else is left when these leases are given back. */
export function sharesGoing (held: readonly Held[], given: ReadonlySet<string>): Held[] {
  const left = new Set(held.filter(one => one.kind !== 'quota' && !given.has(one.leaseId)).map(one => offerOf(one.leaseId)))
  return held.filter(one => one.kind === 'quota' && !given.has(one.leaseId) && !left.has(offerOf(one.leaseId)))
}
