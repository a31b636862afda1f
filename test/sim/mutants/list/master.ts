import type { Mutant } from '../mutant.ts'

/** More bugs in masters: what they decide, forget and take over. */
export const masterMutants: readonly Mutant[] = [
  {
    name: 'asked-forgotten', file: 'protocol/core/master/negotiation/negotiate.ts',
    find: 'const asked = offers.map(offer => ({ site: offer.site, peer: offer.gateway.peer }))\n', replace: 'const asked = offers.slice(1).map(offer => ({ site: offer.site, peer: offer.gateway.peer }))\n',
    why: 'a site is never told that the cluster is over'
  },
  {
    name: 'decided-by-some', file: 'protocol/core/master/negotiation/negotiate.ts',
    find: 'round.held.size + round.refused.size >= round.parts.size', replace: 'round.held.size + round.refused.size >= round.parts.size - 1',
    why: 'a master decides before every site has answered'
  },
  {
    name: 'holds-count-until-the-last', file: 'protocol/core/master/negotiation/negotiate.ts',
    find: 'export const firstEnd = (round: Round): number => Math.min(', replace: 'export const firstEnd = (round: Round): number => Math.max(',
    why: 'commits leave when the first hold has run out'
  },
  {
    name: 'hold-without-margin', file: 'protocol/core/master/negotiation/negotiate.ts',
    find: 'sentMs + ttlMs * (1 - HOLD_MARGIN)', replace: 'sentMs + ttlMs',
    why: 'clocks run at different rates: a hold may end while its master counts on it'
  },
  {
    name: 'hold-from-decision', file: 'protocol/core/master/negotiation/negotiate.ts',
    find: 'decidedMs: turn.now, commitByMs: firstEnd(round)', replace: 'decidedMs: turn.now, commitByMs: turn.now + 30_000',
    why: 'the time of the holds is counted from the decision'
  },
  {
    name: 'growth-without-decision', file: 'protocol/core/master/changes/amend.ts',
    find: '    turn.save({\n      ...record, asked: alsoAsked(', replace: '    turn.keep({\n      ...record, asked: alsoAsked(',
    why: 'the commits of a growth leave before its decision is on the disk'
  },
  {
    name: 'growth-not-asked-back', file: 'protocol/core/master/changes/amend.ts',
    find: '...record, asked: alsoAsked(record.asked, offers.map(offer => ({ site: offer.site, peer: offer.gateway.peer }))),', replace: '...record,',
    why: 'a site that joined by growth is not told that the cluster is over'
  },
  {
    name: 'extension-done-when-some', file: 'protocol/core/master/changes/amend.ts',
    find: '!commits.every(one => work.amendReceipts.has(one.site))) return', replace: '!commits.some(one => work.amendReceipts.has(one.site))) return',
    why: 'a cluster counts as extended when some lenders have committed'
  },
  {
    name: 'growth-done-when-some', file: 'protocol/core/master/changes/amend.ts',
    find: '!growthMembers(record, amendment).every(member => done.has(member.site))) return', replace: '!growthMembers(record, amendment).some(member => done.has(member.site))) return',
    why: 'a growth counts as done when some sites have activated it'
  },
  {
    name: 'growth-before-copies', file: 'protocol/core/master/changes/amend.ts',
    find: ' && amendment.document !== null && work.amendReady) {', replace: ' && amendment.document !== null) {',
    why: 'a larger cluster is activated before a successor could know of it'
  },
  {
    name: 'activated-before-copies', file: 'protocol/core/master/carry.ts',
    find: "  const next = turn.save({ ...record, document, secrets })\n  turn.effects.push({ effect: 'copy', record: next })\n", replace: "  const next = turn.save({ ...record, document, secrets })\n  turn.effects.push({ effect: 'copy', record: next })\n  turn.move(next, 'preparing', 'prepared', {}, '')\n",
    why: 'nodes start before a successor could know of them'
  },
  {
    name: 'failed-change-kept-at-some', file: 'protocol/core/master/changes/amend.ts',
    find: '    ...record, amendment: null, dropped: [...record.dropped, ...dropped],', replace: '    ...record, amendment: null, dropped: record.dropped,',
    why: 'a change that failed stays at the sites that had taken it'
  },
  {
    name: 'dropped-nodes-not-released', file: 'protocol/core/master/changes/amend.ts',
    find: '  const next = turn.save({ ...left, dropped: [...record.dropped, ...dropped], behind', replace: '  const next = turn.save({ ...left, dropped: record.dropped, behind',
    why: 'nodes that a cluster gave up run on'
  },
  {
    name: 'restart-leaves-negotiation', file: 'protocol/core/master/step.ts',
    find: "    if (record.state === 'negotiating') negotiate.fail(turn, record, restarted(record.name))\n    else if (record.state === 'preparing')", replace: "    if (record.state === 'preparing')",
    why: 'a request that a crash interrupted is never answered'
  },
  {
    name: 'restart-leaves-change', file: 'protocol/core/master/step.ts',
    find: "    else if (isAmendable(record) && amendment?.state === 'asking') amend.reject(turn, record, restarted(record.name))\n", replace: '',
    why: 'a change that a crash interrupted blocks all others'
  },
  {
    name: 'superseded-on-a-word', file: 'protocol/core/master/live.ts',
    find: '  if (call.site !== record.masterSite) {', replace: "  if (call.site === '') {",
    why: 'any lender makes a master give its cluster up'
  },
  {
    name: 'ends-when-some-confirmed', file: 'protocol/core/master/live.ts',
    find: 'const asked = peer === null ? [] : record.asked.filter(one => one.peer !== peer)', replace: 'const asked = peer === null || record.asked.length < 3 ? [] : record.asked.filter(one => one.peer !== peer)',
    why: 'a cluster counts as ended before every site has confirmed'
  },
  {
    name: 'ends-early-by-own-clock', file: 'protocol/core/master/live.ts',
    find: 'export const isExpired = (turn: Turn, record: MasterRecord): boolean => turn.now >= record.endMs + patienceMs(turn, record)', replace: 'export const isExpired = (turn: Turn, record: MasterRecord): boolean => turn.now >= record.endMs - 20_000 + patienceMs(turn, record)',
    why: 'a master lets its cluster go before the end'
  },
  {
    name: 'adopted-without-anchor', file: 'agent/master/adopt.ts',
    find: '      if (force) return { epoch, grant: null }\n', replace: '      if (epoch > 0) return { epoch, grant: null }\n',
    why: 'a cluster is taken over though the anchor was not asked'
  },
  {
    name: 'adopts-by-force', file: 'agent/master/adopt.ts',
    find: '      await take(copy, false)\n', replace: '      await take(copy, true)\n',
    why: 'a gateway takes over by itself although the master lives'
  },
  {
    name: 'adopts-with-old-epoch', file: 'agent/master/adopt.ts',
    find: 'const adopted: MasterRecord = { ...record, document, epoch, grant,', replace: 'const adopted: MasterRecord = { ...record, document, epoch: record.epoch, grant,',
    why: 'a successor works with the epoch of its predecessor'
  },
  {
    name: 'copies-go-back', file: 'agent/master/copies.ts',
    find: '      if (kept?.epoch === epoch && version(kept.record) > version(record)) return { epoch }\n', replace: '',
    why: 'a copy that comes late takes the place of a later one'
  },
  {
    name: 'master-goes-on-from-memory', file: 'agent/master/negotiator.ts',
    find: '      machine = Object.assign(loadMaster(deps.site, await load()), { nextCall, clockMs })\n', replace: '      await load()\n      machine = { ...machine, nextCall, clockMs }\n',
    why: 'after a failed write a master believes what its disk does not say'
  },
  {
    name: 'keep-alive-not-repeated', file: 'protocol/core/master/live.ts',
    find: 'dueMs: call.sentMs + KEEP_ALIVE_MS })', replace: 'dueMs: call.sentMs + 20 * KEEP_ALIVE_MS })',
    why: 'a master that is there is not heard of'
  },
  {
    name: 'late-offer-kept', file: 'protocol/core/master/step.ts',
    find: '        negotiate.takeOffer(record, round, call, answer.reply)\n        if (round.held', replace: '        negotiate.takeOffer(record, round, { ...call, sentMs: turn.now }, answer.reply)\n        if (round.held',
    why: 'the time of a hold is counted from when its answer came'
  }
]
