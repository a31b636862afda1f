import type { Mutant } from '../mutant.ts'

/** More bugs in a host's ledger: intervals, shares, extensions, epochs, answers that are given again. */
export const leaseMutants: readonly Mutant[] = [
  {
    name: 'calendar-ignores-start', file: 'protocol/core/calendar/free.ts',
    find: '    else changes.push({ atMs: from, starts: true, resources })\n    if (until < untilMs) changes', replace: '    if (from <= fromMs && until < untilMs) changes',
    why: 'a reservation that begins later is not in the way: its time is promised to others'
  },
  {
    name: 'calendar-sees-the-first-moment', file: 'protocol/core/calendar/free.ts',
    find: '    if (starts) lower(least, free)\n', replace: '',
    why: 'only what is free when it begins is looked at'
  },
  {
    name: 'one-more-than-there-is', file: 'protocol/core/capacity.ts',
    find: '  dimensions.every(({ field }) => valueOf(need, field) <= valueOf(free, field))', replace: '  dimensions.every(({ field }) => valueOf(need, field) <= valueOf(free, field) + 1)',
    why: 'one vCPU more than there is'
  },
  {
    name: 'never-quite-full', file: 'protocol/core/capacity.ts',
    find: '  dimensions.every(({ field }) => valueOf(need, field) <= valueOf(free, field))', replace: '  dimensions.every(({ field }) => valueOf(need, field) === 0 || valueOf(need, field) < valueOf(free, field))',
    why: 'the last of what is free can never be had'
  },
  {
    name: 'volumes-not-counted', file: 'protocol/core/capacity.ts',
    find: '  total.volumes += by * a.volumes\n', replace: '',
    why: 'a host exports more volumes than it may'
  },
  {
    name: 'bandwidth-not-counted', file: 'protocol/core/capacity.ts',
    find: '  total.bandwidthMbit += by * a.bandwidthMbit\n', replace: '',
    why: 'the bandwidth of a site is lent more than once'
  },
  {
    name: 'disk-not-compared-later', file: 'protocol/core/capacity.ts',
    find: '  least.vcpus = Math.min(least.vcpus, a.vcpus)\n', replace: '',
    why: 'of vCPUs only what is free at the beginning is looked at'
  },
  {
    name: 'quota-of-this-moment', file: 'protocol/core/lease/hold.ts',
    find: 'freeQuotaOf(state, masterSite, fromMs, untilMs)', replace: 'freeQuotaOf(state, masterSite)',
    why: 'a share is counted now, not for the time that is asked for'
  },
  {
    name: 'quota-not-split', file: 'protocol/policy/rules.ts',
    find: 'Number(BigInt(whole) * BigInt(percent) / 100n)', replace: 'Number(BigInt(whole) * BigInt(Math.max(percent, 100)) / 100n)',
    why: 'each gateway of a site lends the whole quota'
  },
  {
    name: 'nodes-not-counted', file: 'protocol/core/capacity.ts',
    find: '  if (a.nodes !== undefined && a.nodes !== 0) total.nodes', replace: '  if (a.nodes !== undefined && a.nodes < 0) total.nodes',
    why: 'a site borrows more nodes than it may'
  },
  {
    name: 'quota-of-all-sites', file: 'protocol/core/lease/lease.ts',
    find: 'isQuota(lease) && lease.masterSite === site', replace: 'isQuota(lease)',
    why: 'what one site has borrowed is counted against another'
  },
  {
    name: 'capacity-of-this-moment', file: 'protocol/core/lease/hold.ts',
    find: 'clampToZero(freeOf(state, fromMs, untilMs))', replace: 'clampToZero(freeOf(state, fromMs))',
    why: 'what is free at the beginning is taken for free until the end'
  },
  {
    name: 'extension-of-one', file: 'protocol/core/lease/extend.ts',
    find: 'const receipts = live.map(lease => turn.receipt(turn.move(lease', replace: 'const receipts = live.slice(0, 1).map(lease => turn.receipt(turn.move(lease',
    why: 'an extension is committed for one lease of several'
  },
  {
    name: 'extension-without-way-back', file: 'protocol/core/lease/extend.ts',
    find: 'formerEndMs: lease.endMs }))', replace: 'formerEndMs: endMs }))',
    why: 'an extension that is taken back leaves the later end'
  },
  {
    name: 'extension-not-held-anew', file: 'protocol/core/lease/term.ts',
    find: "  for (const extension of [...state.pending.values()].sort((a, b) => a.token - b.token)) turn.moveExtension(extension, 'restart', { deadlineMs: now + extension.ttlMs })\n", replace: '',
    why: 'after a boot an extension that is held does not get its time again'
  },
  {
    name: 'extension-never-expires', file: 'protocol/core/lease/turn.ts',
    find: "  if (extension.state === 'held') return extension.deadlineMs\n", replace: "  if (extension.state === 'held') return Number.POSITIVE_INFINITY\n",
    why: 'a later end that nobody commits is kept from others'
  },
  {
    name: 'extension-checked-from-now', file: 'protocol/core/lease/extend.ts',
    find: 'checkRoom(turn, open, site, fromMs, untilMs)', replace: 'checkRoom(turn, open, site, turn.now, untilMs)',
    why: 'a lease stands in the way of its own extension'
  },
  {
    name: 'starts-at-once', file: 'protocol/core/lease/hold.ts',
    find: 'startMs: startMs <= now + START_IS_NOW_MS ? now : startMs, ttlMs }', replace: 'startMs: now, ttlMs }',
    why: 'a reservation for later begins now'
  },
  {
    name: 'activated-before-start', file: 'protocol/core/lease/term.ts',
    find: '    if (lease.startMs > turn.now) throw', replace: '    if (lease.startMs < 0) throw',
    why: 'a reservation runs before its time'
  },
  {
    name: 'receipt-not-compared', file: 'protocol/core/lease/term.ts',
    find: 'if (receipt.token !== lease.commitToken) throw', replace: 'if (receipt.token < 0) throw',
    why: 'a receipt of another commit starts it'
  },
  {
    name: 'receipts-of-hosts-not-asked-for', file: 'protocol/core/lease/term.ts',
    find: '    if (receipt === undefined) throw new ConflictError(`the commit', replace: '    if (receipt === undefined) continue\n    if (receipt.leaseId === \'\') throw new ConflictError(`the commit',
    why: 'a host starts what its own receipt is missing for'
  },
  {
    name: 'committed-not-begun-anew', file: 'protocol/core/lease/term.ts',
    find: "    turn.move(lease, 'restart', { deadlineMs: Math.max(now, lease.startMs) + ACTIVATE_TTL_MS, confirmByMs })\n", replace: "    turn.move(lease, 'restart', { confirmByMs })\n",
    why: 'after a boot a committed lease does not get its time again'
  },
  {
    name: 'release-of-one-offer-too-many', file: 'protocol/core/lease/term.ts',
    find: '(offerId === undefined || lease.offerId === offerId)', replace: '(offerId === undefined || lease.offerId >= offerId)',
    why: 'giving up one offer ends another'
  },
  {
    name: 'release-of-all-keeps-held', file: 'protocol/core/lease/term.ts',
    find: 'const live = leasesOf(state, clusterId).filter(lease => isLive(lease) && (offerId', replace: "const live = leasesOf(state, clusterId).filter(lease => lease.state === 'active' && (offerId",
    why: 'a release is confirmed and ends only what was active'
  },
  {
    name: 'release-by-anybody-before', file: 'protocol/core/lease/term.ts',
    find: "export function release ({ clusterId, reason, offerId, leaseIds, epoch }: EventOf<'release'>, turn: Turn): Answer {\n  checkEpoch(turn, clusterId, epoch)\n", replace: "export function release ({ clusterId, reason, offerId, leaseIds, epoch }: EventOf<'release'>, turn: Turn): Answer {\n",
    why: 'a master that was replaced ends a cluster'
  },
  {
    name: 'keep-alive-revives', file: 'protocol/core/lease/sweep.ts',
    find: "    else if (lease.state === 'active') turn.end(lease, 'expire', 'the term is over')\n", replace: "    else if (lease.state === 'active') {\n      if ((state.heard.get(lease.clusterId) ?? 0) <= now - 90_000) turn.end(lease, 'expire', 'the term is over')\n    }\n",
    why: 'a lease goes on beyond its end as long as its master calls'
  },
  {
    name: 'forgets-after-a-minute', file: 'protocol/core/lease/turn.ts',
    find: '  if (!isLive(lease)) return Math.max(lease.endedMs + REPLAY_KEEP_MS, restsUntil(lease))', replace: '  if (!isLive(lease)) return Math.max(lease.endedMs + END_GUARD_MS, restsUntil(lease))',
    why: 'what has ended is forgotten at once: the same key is answered anew'
  },
  {
    name: 'gone-as-soon-as-ended', file: 'protocol/core/lease/turn.ts',
    find: "vacated: lease.state !== 'active', ...this.#rest", replace: 'vacated: true, ...this.#rest',
    why: 'what has ended and still runs counts as gone'
  },
  {
    name: 'lingering-not-counted', file: 'protocol/core/lease/state.ts',
    find: "const isOccupying = (lease: Lease): boolean => lease.state !== 'ended' || !lease.vacated", replace: "const isOccupying = (lease: Lease): boolean => lease.state !== 'ended'",
    why: 'what has ended and still runs is promised again'
  },
  {
    name: 'ids-of-releases-not-kept', file: 'protocol/core/lease/state.ts',
    find: "if (lease.kind === 'segment' && (lease.state !== 'ended' || lease.commitToken > 0))", replace: "if (lease.kind === 'segment' && lease.state !== 'ended')",
    why: 'an id does not rest after its cluster has ended'
  },
  {
    name: 'id-forgotten-in-a-crash', file: 'protocol/core/lease/state.ts',
    find: 'for (const lease of records.leases.toSorted((a, b) => a.heldToken - b.heldToken)) putLease(state, lease)', replace: "for (const lease of records.leases.toSorted((a, b) => a.heldToken - b.heldToken)) if (lease.kind !== 'segment' || lease.state !== 'ended') putLease(state, lease)",
    why: 'after a start of the agent ids do not rest any more'
  },
  {
    name: 'answers-not-read-again', file: 'protocol/core/lease/state.ts',
    find: '  for (const replay of records.replays) putReplay(state, replay)\n', replace: '',
    why: 'after a start of the agent the same key is another question'
  },
  {
    name: 'epochs-not-read-again', file: 'protocol/core/lease/state.ts',
    find: '  for (const epoch of records.epochs) state.epochs.set(epoch.clusterId, epoch)\n', replace: '',
    why: 'after a start of the agent a former master is obeyed'
  },
  {
    name: 'extensions-not-read-again', file: 'protocol/core/lease/state.ts',
    find: '  for (const extension of records.extensions.toSorted((a, b) => a.token - b.token)) putExtension(state, extension)\n', replace: '',
    why: 'after a start of the agent a later end that is held is promised to others'
  },
  {
    name: 'epoch-in-memory', file: 'protocol/core/lease/turn.ts',
    find: "    this.effects.push({ effect: 'epoch', epoch: next, trigger })\n", replace: '',
    why: 'who is master is never written down'
  },
  {
    name: 'epoch-without-counter', file: 'protocol/core/lease/turn.ts',
    find: 'holder, token: ++this.state.counter }', replace: 'holder, token: this.state.counter }',
    why: 'a change of the master does not raise the counter'
  },
  {
    name: 'extension-without-counter', file: 'protocol/core/lease/turn.ts',
    find: 'const next: Extension = { ...extension, token: ++this.state.counter }', replace: 'const next: Extension = { ...extension, token: this.state.counter }',
    why: 'a change of an extension does not raise the counter'
  },
  {
    name: 'higher-epoch-not-noted', file: 'protocol/core/lease/epoch.ts',
    find: "  else if (epoch > known.epoch || (known.holder === '' && holder !== '')) turn.setEpoch(clusterId, epoch, holder, 'raise')\n", replace: '',
    why: 'a host obeys the new master, and the former one as well'
  },
  {
    name: 'master-not-heard', file: 'protocol/core/lease/epoch.ts',
    find: '  state.heard.set(clusterId, turn.now)\n', replace: '',
    why: 'a cluster is taken from a master that calls'
  },
  {
    name: 'commit-not-fenced', file: 'protocol/core/lease/term.ts',
    find: '  const { host } = turn.state\n  checkEpoch(turn, clusterId, epoch)\n  const extension', replace: '  const { host } = turn.state\n  const extension',
    why: 'a master that was replaced commits'
  },
  {
    name: 'hold-not-fenced', file: 'protocol/core/lease/hold.ts',
    find: '  checkEpoch(turn, request.clusterId, request.epoch, request.masterPeer)\n', replace: '',
    why: 'a master that was replaced gets more'
  },
  {
    name: 'key-answers-anything', file: 'protocol/core/lease/hold.ts',
    find: ': replay.asked === canonical(event))', replace: ': replay.asked !== \'\')',
    why: 'another question under the same key gets the answer to the first'
  },
  {
    name: 'answer-of-first-lease', file: 'protocol/core/lease/hold.ts',
    find: '  const answer = answerWith({ receipts, segmentId, ...', replace: '  const answer = answerWith({ receipts, segmentId: 0, ...',
    why: 'a hold is answered without the segment id that it has'
  },
  {
    name: 'one-id-for-both-segments', file: 'protocol/core/lease/hold.ts',
    find: '...others.map(id => ({ id, untilMs: Number.POSITIVE_INFINITY }))]', replace: ']',
    why: 'the segment that does not leave the site gets the id of the cluster\'s own'
  },
  {
    name: 'local-lease-with-other-id', file: 'protocol/core/lease/hold.ts',
    find: 'segmentId: isLocal(item) ? localSegmentId : item', replace: 'segmentId: item',
    why: 'the ledger keeps another id for the segment of the site than it answers'
  },
  {
    name: 'activate-time-from-decision', file: 'protocol/core/lease/term.ts',
    find: 'deadlineMs: Math.max(turn.now, lease.startMs) + ACTIVATE_TTL_MS,\n', replace: 'deadlineMs: turn.now + ACTIVATE_TTL_MS,\n',
    why: 'an advance reservation that starts late ends before it could be activated'
  }
]
