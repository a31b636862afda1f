import type { Mutant } from '../mutant.ts'

/** Bugs in what a host promises: calendar, commits, ends, ids. */
export const ledgerMutants: readonly Mutant[] = [
  {
    name: 'calendar-ignores-end', file: 'protocol/core/lease/lease.ts',
    find: 'fromMs: lease.startMs, untilMs: isLive(lease) ? lease.endMs : lingersUntil(lease) }', replace: 'fromMs: lease.startMs, untilMs: lease.startMs + 1 }',
    why: 'a promise counts for its first moment only: its interval is promised again'
  },
  {
    name: 'capacity-one-dimension-off', file: 'protocol/core/capacity.ts',
    find: "  { field: 'volumes', unit: 'exported volumes' },\n", replace: '',
    why: 'one dimension of a host is never compared'
  },
  {
    name: 'ended-counts-as-gone', file: 'protocol/core/lease/lease.ts',
    find: 'const lingersUntil = (lease: Lease): number => lease.vacated ? lease.endedMs : lease.endedMs + END_GUARD_MS', replace: 'const lingersUntil = (lease: Lease): number => lease.endedMs',
    why: 'what has ended and still runs is promised to others'
  },
  {
    name: 'extension-not-booked', file: 'protocol/core/lease/lease.ts',
    find: 'for (const extension of state.pending.values()) {', replace: 'for (const extension of [...state.pending.values()].slice(0, 0)) {',
    why: 'a later end that is held is not in the calendar: somebody else gets it'
  },
  {
    name: 'extension-unchecked', file: 'protocol/core/lease/extend.ts',
    find: '  checkCalendar(leases, endMs, turn)\n', replace: '',
    why: 'an extension is held although its time is promised to somebody else'
  },
  {
    name: 'quota-ignored', file: 'protocol/core/lease/state.ts',
    find: 'return own === undefined ? quotas.get(OTHER_SITES) ?? null : own', replace: 'return own === null ? own : null',
    why: 'a site borrows more than its share'
  },
  {
    name: 'id-reused-early', file: 'protocol/core/lease/lease.ts',
    find: 'Math.max(lease.endedMs + ID_QUARANTINE_MS, lease.deadlineMs, lastMs)', replace: 'lease.endedMs',
    why: 'a segment id is given out while other hosts of the site still carry it'
  },
  {
    name: 'id-of-live-cluster', file: 'protocol/core/lease/lease.ts',
    find: 'if (lease.clusterId !== exceptCluster) yield', replace: "if (lease.clusterId !== exceptCluster && lease.state !== 'held') yield",
    why: 'a segment id that is held is given to another cluster'
  },
  {
    name: 'no-t-activate', file: 'protocol/core/lease/term.ts',
    find: "  const committed = leases.map(lease => turn.move(lease, 'commit', {\n    deadlineMs: Math.max(turn.now, lease.startMs) + ACTIVATE_TTL_MS,", replace: "  const committed = leases.map(lease => turn.move(lease, 'commit', {\n    deadlineMs: Number.MAX_SAFE_INTEGER,",
    why: 'a committed lease that nobody activates stays'
  },
  {
    name: 'hold-too-short', file: 'protocol/core/lease/hold.ts',
    find: 'deadlineMs: turn.now + ttlMs, confirmByMs', replace: 'deadlineMs: turn.now + ttlMs / 2, confirmByMs',
    why: 'a hold ends while its master counts on it'
  },
  {
    name: 'commit-of-expired-hold', file: 'protocol/core/lease/step.ts',
    find: "if (event.type !== 'restart') sweep(turn)", replace: "if (event.type !== 'restart' && event.type !== 'commit') sweep(turn)",
    why: 'a hold whose time is over is committed'
  },
  {
    name: 'restart-forgets-holds', file: 'protocol/core/lease/term.ts',
    find: "if (lease.state === 'held') turn.move(lease, 'restart', { deadlineMs: now + lease.ttlMs })", replace: "if (lease.state === 'held') turn.move(lease, 'restart', { deadlineMs: lease.deadlineMs })",
    why: 'after a boot a hold does not get its time again: nobody knows how long the machine was off'
  },
  {
    name: 'replay-applied-twice', file: 'protocol/core/lease/term.ts',
    find: 'if (leases.every(lease => lease.state !== \'held\')) {\n    return', replace: 'if (leases.every(lease => lease.state === \'ended\')) {\n    return',
    why: 'a commit that comes twice is worked in twice'
  },
  {
    name: 'replay-not-kept', file: 'protocol/core/lease/turn.ts',
    find: "    this.effects.push({ effect: 'replay', replay })\n", replace: '',
    why: 'after a crash the same idempotency key does not get its answer'
  },
  {
    name: 'activate-without-receipt', file: 'protocol/core/document.ts',
    find: 'return parts.filter(part => !have.has(part.leaseId))', replace: 'return parts.slice(0, 1).filter(part => !have.has(part.leaseId))',
    why: 'nodes start although a lender has not committed'
  },
  {
    name: 'release-of-all', file: 'protocol/core/lease/term.ts',
    find: '(wanted === null || wanted.has(lease.id)))', replace: '(wanted === null || wanted.size > 0))',
    why: 'a cluster that shrinks loses everything on the host'
  },
  {
    name: 'epoch-unchecked', file: 'protocol/core/lease/epoch.ts',
    find: 'if (epoch < known.epoch || (epoch', replace: 'if (epoch < 0 || (epoch',
    why: 'a host obeys a master that was replaced'
  },
  {
    name: 'claim-of-living-master', file: 'protocol/core/lease/epoch.ts',
    find: 'known.holder !== holder && silentMs < MASTERLESS_MS', replace: 'known.holder !== holder && silentMs < 0',
    why: 'a cluster is taken from a master that is there'
  },
  {
    name: 'epoch-goes-back', file: 'protocol/core/lease/epoch.ts',
    find: 'if (known !== undefined && epoch <= known.epoch) throw stale(state.host, known, epoch)', replace: 'if (known !== undefined && epoch < 0) throw stale(state.host, known, epoch)',
    why: 'the anchor grants an epoch twice'
  },
  {
    name: 'term-ends-early', file: 'protocol/core/lease/turn.ts',
    find: "if (lease.state === 'active') return lease.endMs", replace: "if (lease.state === 'active') return lease.endMs - 30_000",
    why: 'a cluster ends before the end that was promised'
  },
  {
    name: 'released-extension-stays', file: 'protocol/core/lease/extend.ts',
    find: "if (extension.state === 'ended') return answerWith({ replay: true })\n  const committed", replace: "if (extension.state === 'ended') return answerWith({ replay: true })\n  if (extension.state === 'committed') return answerWith({ replay: true })\n  const committed",
    why: 'an extension that not all lenders have committed stays at some'
  }
]
