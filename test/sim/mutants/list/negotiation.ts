import type { Mutant } from '../mutant.ts'

/** Bugs in what masters and gateways do with each other. */
export const negotiationMutants: readonly Mutant[] = [
  {
    name: 'commit-before-decision', file: 'protocol/core/master/negotiation/negotiate.ts',
    find: '  }, `${offers.length} sites hold everything`)', replace: "  }, `${offers.length} sites hold everything`)\n  turn.effects.splice(turn.effects.findIndex(one => one.effect === 'save'), 1)",
    why: 'commits leave without a decision record'
  },
  {
    name: 'stale-holds-committed', file: 'protocol/core/master/carry.ts',
    find: 'if (turn.now >= record.commitByMs) work.problems', replace: 'if (turn.now < 0) work.problems',
    why: 'a master commits what has ended'
  },
  {
    name: 'hold-counted-from-answer', file: 'protocol/core/master/negotiation/negotiate.ts',
    find: 'validUntilMs: validUntil(call.sentMs, ttlMs) })', replace: 'validUntilMs: validUntil(offer.nowMs, ttlMs) + 15_000 })',
    why: 'a master counts on holds for longer than they are held'
  },
  {
    name: 'offered-decides-late', file: 'protocol/core/master/negotiation/negotiate.ts',
    find: 'endsMs: Math.min(firstEnd(round), record.endMs) }', replace: 'endsMs: Math.min(firstEnd(round), record.endMs) + 60_000 }',
    why: 'what is held for a user is decided after its holds have ended'
  },
  {
    name: 'offered-never-lapses', file: 'protocol/core/master/negotiation/accept.ts',
    find: '  if (turn.now < untilMs) return false\n', replace: '  if (untilMs > 0) return false\n',
    why: 'what nobody accepts waits for ever'
  },
  {
    name: 'offered-decides-unasked', file: 'protocol/core/master/negotiation/negotiate.ts',
    find: '  if (hold !== undefined) {\n', replace: '  if (hold !== undefined && hold.ttlMs < 0) {\n',
    why: 'what a user wanted to look at first is decided at once'
  },
  {
    name: 'failed-commit-forgiven', file: 'protocol/core/master/carry.ts',
    find: "if (work.problems.size > 0 && !isBusy(work, 'commit')) fail(turn, record, notCommitted(record, work.problems))", replace: "if (work.problems.size > 0 && !isBusy(work, 'commit') && work.receipts.size > 0) turn.move(record, 'committing', 'committed', { receipts: record.offers.flatMap(one => one.held.map(held => ({ leaseId: held.leaseId, host: held.host, token: work.receipts.get(one.site)?.find(receipt => receipt.leaseId === held.leaseId)?.token ?? held.token }))) }, '')",
    why: 'a cluster goes on with the receipts of some'
  },
  {
    name: 'active-when-some-are', file: 'protocol/core/master/carry.ts',
    find: '!record.offers.every(offer => work.activated.has(offer.site))) return', replace: '!record.offers.some(offer => work.activated.has(offer.site))) return',
    why: 'a cluster counts as active that is not so everywhere'
  },
  {
    name: 'master-gives-up-releasing', file: 'protocol/core/master/live.ts',
    find: 'if (turn.now > mayRunUntilMs(turn, record) && record.asked.every(inVain))', replace: 'if (record.asked.every(inVain))',
    why: 'an orphan: the master forgets a cluster that still runs'
  },
  {
    name: 'offer-of-some-hosts', file: 'protocol/core/gateway/place.ts',
    find: 'const outcome = failed.length > 0 ? null : asHeld({ ...record.offer, held: [...parts] }, job)', replace: "const outcome = { held: [...parts], segmentId: answersOf(job, 'hold').find(one => one.reply.segmentId > 0)?.reply.segmentId ?? 1 }",
    why: 'a gateway offers what not all hosts hold'
  },
  {
    name: 'offer-forgotten', file: 'agent/gateway/gateway.ts',
    find: "effect.effect === 'save' ? { operation: { type: 'put', key: PREFIX + effect.record.clusterId,", replace: "effect.effect === 'save' ? { operation: { type: 'put', key: PREFIX + effect.record.clusterId + (effect.record.state === 'asking' ? '-asked' : ''),",
    why: 'a gateway asks its hosts, and does not keep that it does'
  },
  {
    name: 'gateway-obeys-anyone', file: 'protocol/core/gateway/checks.ts',
    find: 'if (caller.site !== masterSite) throw new ConflictError(`cluster ${clusterId} at site ${site} belongs to another master`)', replace: 'if (caller.site !== masterSite) return',
    why: 'a stranger releases or commits a cluster'
  },
  {
    name: 'gateway-obeys-old-master', file: 'protocol/core/gateway/checks.ts',
    find: "if (epoch < record.epoch) throw new MusubiError('STALE_EPOCH'", replace: "if (epoch < record.epoch && epoch > 0) return\n  if (epoch < 0) throw new MusubiError('STALE_EPOCH'",
    why: 'a master that was replaced still rules'
  },
  {
    name: 'commit-answered-by-some', file: 'protocol/core/gateway/settle.ts',
    find: 'const error = failuresOf(job)[0]?.error ?? (without === undefined ? null :', replace: 'const error = answersOf(job, \'hostCommit\').length > 0 ? null : failuresOf(job)[0]?.error ?? (without === undefined ? null :',
    why: 'a gateway says that all hosts have committed when some have'
  },
  {
    name: 'release-answered-by-some', file: 'protocol/core/gateway/release.ts',
    find: '  if (failed.length > 0) {\n    turn.refuse(job.askers, new UnreachableError(', replace: '  if (failed.length > 0 && job.results.length === failed.length) {\n    turn.refuse(job.askers, new UnreachableError(',
    why: 'a release is confirmed that not every host has confirmed'
  },
  {
    name: 'skew-ignored', file: 'protocol/core/gateway/checks.ts',
    find: 'if (Number.isSafeInteger(sentMs) && Math.abs(skewMs) <= MAX_CLOCK_SKEW_MS) return', replace: 'if (Number.isSafeInteger(sentMs)) return',
    why: 'an offer to a master whose clock tells another time'
  },
  {
    name: 'late-request-supersedes', file: 'protocol/core/gateway/place.ts',
    find: 'if (request.sentMs < record.sentMs) throw', replace: 'if (request.sentMs < 0) throw',
    why: 'an old question that comes late gives up what a newer one got'
  },
  {
    name: 'quota-not-asked-for', file: 'protocol/core/gateway/place.ts',
    find: "...view.quota ? [{ kind: 'quota'", replace: "...view.quota && grow ? [{ kind: 'quota'",
    why: 'what a site borrows is not counted'
  }
]
