import type { Mutant } from '../mutant.ts'

/** More bugs in gateways: what they answer before it is so, and what they forget. */
export const gatewayMutants: readonly Mutant[] = [
  {
    name: 'hosts-before-gateway', file: 'protocol/core/gateway/settle.ts',
    find: 'then: calls.filter(call => !isFirst(call)) }, [askId], calls.filter(isFirst))', replace: 'then: [] }, [askId], calls)',
    why: 'a host plugs in an id whose lease at the gateway is not active'
  },
  {
    name: 'activation-answered-half-way', file: 'protocol/core/gateway/settle.ts',
    find: '  if (then.length > 0) {\n    turn.start', replace: '  if (then.length > 999) {\n    turn.start',
    why: 'a gateway says that all hosts run when it alone does'
  },
  {
    name: 'activation-by-some', file: 'protocol/core/gateway/settle.ts',
    find: '  const error = failuresOf(job)[0]?.error\n  if (error !== undefined) {\n    turn.refuse(job.askers, error)\n    return\n  }\n  const { growth', replace: '  const error = failuresOf(job)[0]?.error\n  if (error !== undefined && failuresOf(job).length === job.results.length) {\n    turn.refuse(job.askers, error)\n    return\n  }\n  const { growth',
    why: 'a gateway says that its hosts have activated when some have'
  },
  {
    name: 'extension-offered-by-some', file: 'protocol/core/gateway/settle.ts',
    find: "  const error = failuresOf(job)[0]?.error\n  if (error !== undefined) {\n    const next = turn.amend(record, 'refuse')", replace: "  const error = failuresOf(job).length < job.results.length ? undefined : failuresOf(job)[0]?.error\n  if (error !== undefined) {\n    const next = turn.amend(record, 'refuse')",
    why: 'a gateway offers a later end that not all its hosts hold'
  },
  {
    name: 'extension-of-gateway-only', file: 'protocol/core/gateway/settle.ts',
    find: 'hostsOf(parts).map(({ host, peer }): HostCall => ({\n    host,\n    peer,\n    ask: {\n      method: \'hostExtend\'', replace: 'hostsOf(parts).slice(0, 1).map(({ host, peer }): HostCall => ({\n    host,\n    peer,\n    ask: {\n      method: \'hostExtend\'',
    why: 'a gateway asks one of its hosts for a later end, not all'
  },
  {
    name: 'request-key-answers-anything', file: 'protocol/core/gateway/place.ts',
    find: '  if (known.digest !== requestDigest(request)) throw', replace: '  if (known.digest === \'\') throw',
    why: 'another request under the same key gets the offer of the first'
  },
  {
    name: 'offer-without-quota', file: 'protocol/core/gateway/place.ts',
    find: 'resources: { ...borrowed, nodes: ', replace: 'resources: { ...borrowed, vcpus: Math.max(0, borrowed.vcpus - 1), nodes: ',
    why: 'a site borrows a little more than is counted'
  },
  {
    name: 'lender-counts-too-little', file: 'protocol/core/gateway/shares.ts',
    find: 'parts.set(best.i, best.part)', replace: 'parts.set(best.i, { ...best.part, vcpus: 0, memoryMib: 0, nodes: 1 })',
    why: 'another gateway counts less than it lends'
  },
  {
    name: 'cordon-ignored', file: 'agent/lessor/lessor.ts',
    find: '        deps.cordon?.check()\n', replace: '',
    why: 'a cordoned host takes new leases'
  },
  {
    name: 'notice-cut-short', file: 'protocol/core/gateway/notice.ts',
    find: 'notice !== undefined && notice.endMs <= now', replace: 'notice !== undefined && notice.endMs <= now + 30_000',
    why: 'leases end before the notice that their master was given is over'
  },
  {
    name: 'restore-ignores-calendar', file: 'protocol/core/lease/curtail.ts',
    find: '  checkCameFree(live.filter(lease => lease.formerEndMs !== undefined), nextMs, turn)\n', replace: '',
    why: 'what is withdrawn takes what somebody else has been promised since'
  },
  {
    name: 'curtail-leaves-quota', file: 'protocol/core/lease/curtail.ts',
    find: 'const later = live.filter(lease => lease.noticeSeq !== seq', replace: "const later = live.filter(lease => lease.kind !== 'quota' && lease.noticeSeq !== seq",
    why: 'a site is counted for what it has to give back by a notice'
  },
  {
    name: 'notice-for-nobody', file: 'protocol/core/gateway/notice.ts',
    find: "if (beneficiary !== '' && !isWanted(turn, notice)) return", replace: "if (beneficiary === 'nobody') return",
    why: 'a notice is kept when what it was given for is gone'
  },
  {
    name: 'notice-not-on-disk', file: 'protocol/core/gateway/notice.ts',
    find: 'endMs: notice.endMs, reason: notice.reason }', replace: 'endMs: notice.endMs + 5_000, reason: notice.reason }',
    why: 'hosts are told of another end than stands in the record'
  },
  {
    name: 'gateway-lets-go-first', file: 'protocol/core/gateway/release.ts',
    find: 'binding && peer === record.offer.gateway.peer', replace: 'binding && peer === \'\'',
    why: 'a segment id is free before the hosts of the site have let go of it'
  },
  {
    name: 'keep-alive-not-passed-on', file: 'protocol/core/gateway/keep.ts',
    find: 'hostsOf(allHeld(record)).filter(one => !busy.has(one.peer))', replace: 'hostsOf(allHeld(record)).filter(one => busy.has(one.peer))',
    why: 'hosts do not hear of a master that calls their gateway'
  },
  {
    name: 'probe-forgets-what-runs', file: 'protocol/core/gateway/keep.ts',
    find: 'states.every(({ leaseState, objects }) => RANK[leaseState] === undefined && objects.length === 0)', replace: 'states.some(({ leaseState, objects }) => RANK[leaseState] === undefined && objects.length === 0)',
    why: 'a gateway forgets a cluster of which one host has nothing more'
  },
  {
    name: 'vacated-without-look', file: 'agent/lessor/removal.ts',
    find: '    await reconciler().look()\n', replace: '',
    why: 'what was seen some time ago is taken for what is there'
  },
  {
    name: 'release-does-not-wait', file: 'agent/lessor/lessor.ts',
    find: '      if (ran || objects.left(clusterId).length > 0) await removal.finished(clusterId)\n', replace: '',
    why: 'a release is confirmed while its nodes run'
  },
  {
    name: 'release-waits-without-document', file: 'agent/lessor/lessor.ts',
    find: 'if (ran || objects.left(clusterId).length > 0) await', replace: 'if (ended > 0 && ran) await',
    why: 'a release that is repeated is confirmed while the first one still stops nodes'
  },
  {
    name: 'claim-by-anybody', file: 'protocol/core/lease/epoch.ts',
    find: 'if (!force && known !== undefined && known.holder !== holder && silentMs', replace: 'if (!force && known !== undefined && known.holder === holder && silentMs',
    why: 'a cluster is taken over at any time'
  }
]
