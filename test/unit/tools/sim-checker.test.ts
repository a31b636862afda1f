import t from 'tap'
import { CLUSTER, MINUTE, OTHER, Story, resources } from '../../model/sim-story.ts'
import { Violation } from '../../sim/observation.ts'

/** What a story breaks; '' for nothing. */
function broken (tell: (story: Story) => void): string {
  try {
    tell(new Story())
    return ''
  } catch (error) {
    if (error instanceof Violation) return error.invariant
    throw error
  }
}

type Tell = (story: Story) => void
/** The first story breaks an invariant, the second is the same without the fault. */
function caught (name: string, invariant: string, wrong: Tell, right: Tell): void {
  t.test(name, t => {
    t.equal(broken(wrong), invariant, 'is caught')
    t.equal(broken(right), '', 'mended it passes')
    t.end()
  })
}

const node = (name: string, host: string, vcpus = 2): { kind: string, name: string, host: string, resources: ReturnType<typeof resources> } =>
  ({ kind: 'node', name, host, resources: resources({ vcpus, memoryMib: 512 }) })
const revoked = (story: Story): void => { story.tell({ type: 'operator', trueMs: story.now, host: 's2a', action: 'revoke', clusterId: CLUSTER, detail: '', refused: '' }) }
const bothOffers = (story: Story): object => ({ offers: [story.offerOf('o1'), story.offerOf('o2')] })

t.test('a cluster from its first request to its release breaks nothing', t => {
  t.equal(broken(story => {
    story.cluster()
    for (const [host, id] of [['s1a', 'o1-1'], ['s1b', 'o1-2'], ['s2a', 'o2-1']] as const) story.run(host, id)
    story.pass(20_000).keepAlive('s1a')
    story.keepAlive('s2a')
    story.pass(1_000)
    story.decide('releasing', bothOffers(story))
    story.release('s1a')
    story.release('s2a')
    story.decide('ended', bothOffers(story))
    story.pass(5 * MINUTE)
    story.tell({ type: 'heal', trueMs: story.now })
    story.checker.end(story.now)
  }), '')
  t.end()
})

caught('what does not fit is promised', 'promised-twice',
  story => { story.cluster().offer('o3', 's2a', [node('n9', 's2a', 3)], { clusterId: OTHER, segmentId: 201 }) },
  story => { story.cluster().offer('o3', 's2a', [node('n9', 's2a', 2)], { clusterId: OTHER, segmentId: 201 }) })

caught('a share whose lease has ended and still runs is promised', 'promised-twice',
  story => { story.cluster(); story.run('s2a', 'o2-1'); revoked(story); story.end('s2a', 'o2-1'); story.offer('o3', 's2a', [node('n9', 's2a', 3)], { clusterId: OTHER, segmentId: 201 }) },
  story => { story.cluster(); story.run('s2a', 'o2-1'); story.release('s2a'); story.offer('o3', 's2a', [node('n9', 's2a', 3)], { clusterId: OTHER, segmentId: 201 }) })

const extension = (story: Story, state: string, endMs: number): void => {
  const host = story.host('s2a')
  host.extensions = [{ clusterId: CLUSTER, offerId: 'x1', key: 'x1', requester: 'peer-s1a', state, endMs, leases: [{ id: 'o2-1', formerEndMs: story.endMs }], ttlMs: 30_000, deadlineMs: story.now + 30_000, token: ++host.counter, endedMs: 0 }]
}
const holdExtension = (story: Story): void => {
  story.ask('s2a', 's2a', 'hostExtend', { key: 'x1', clusterId: CLUSTER, offerId: 'x1', endMs: story.endMs + MINUTE, ttlMs: 30_000, epoch: 1, leaseIds: ['o2-1'] }, { receipts: [] }, () => { extension(story, 'held', story.endMs + MINUTE); story.show('s2a') })
}
const after = (story: Story, startMs: number): void => {
  const { endMs } = story
  story.endMs = startMs + 5 * MINUTE
  const item = { ...node('n9', 's2a', 3), leaseId: 'o3-1', token: 0 }
  story.ask('s2a', 's2a', 'hold', story.holdRequest('o3', OTHER, [item], { startMs }), { receipts: [{ leaseId: 'o3-1', host: 's2a', token: 0 }], segmentId: 0 }, () => { story.keep('s2a', 'o3', OTHER, [item], 0, { startMs }) })
  story.endMs = endMs
}
caught('a later end that is held is promised to another', 'promised-twice',
  story => { story.cluster(); holdExtension(story); after(story, story.endMs) },
  story => { story.cluster(); holdExtension(story); after(story, story.endMs + MINUTE) })

caught('a share of a site is exceeded', 'quota-exceeded',
  story => { story.host('s2a').quotas = [{ masterSite: 's1', resources: resources({ vcpus: 1 }) }]; story.show('s2a'); story.cluster('offered') },
  story => { story.host('s2a').quotas = [{ masterSite: 's3', resources: resources({ vcpus: 1 }) }]; story.show('s2a'); story.cluster('offered') })

/** Both gateways of a site lend to another one. */
const lendTwice = (story: Story, nodes: number): void => {
  const loan = (host: string, offerId: string): void => {
    const item = { kind: 'quota', name: 'quota', host, resources: { ...resources({ vcpus: 2 }), nodes }, leaseId: `${offerId}-9`, token: 0 }
    story.ask(host, host, 'hold', story.holdRequest(offerId, OTHER, [item]), { receipts: [{ leaseId: item.leaseId, host, token: 0 }], segmentId: 0 }, () => { story.keep(host, offerId, OTHER, [item], 0) })
  }
  for (const [host, vcpus] of [['s1a', 3], ['s1b', 2]] as const) {
    story.host(host).quotas = [{ masterSite: 's1', resources: resources({ vcpus }), whole: { ...resources({ vcpus: 5 }), nodes: 4 } }]
    story.show(host)
  }
  loan('s1a', 'o7')
  loan('s1b', 'o8')
}
caught('two gateways of a site lend more than its quota together', 'quota-shared', story => { lendTwice(story, 3) }, story => { lendTwice(story, 2) })

const refusal = { code: 'NO_CAPACITY', message: 'host s3a: needs 4 vCPU' }
caught('a hold that fits is refused for want of room', 'capacity-conserved',
  story => { const call = story.call('s3a', 's3a', 'hold', story.holdRequest('o9', CLUSTER, [{ ...node('n1', 's3a', 4), leaseId: 'o9-1' }])); story.arrive(call); story.answer(call, null, refusal) },
  story => { const call = story.call('s3a', 's3a', 'hold', story.holdRequest('o9', CLUSTER, [{ ...node('n1', 's3a', 5), leaseId: 'o9-1' }])); story.arrive(call); story.answer(call, null, refusal) })

caught('a segment id of a live cluster is given to another', 'segment-id',
  story => { story.cluster().offer('o3', 's2a', [node('n9', 's2a', 1)], { clusterId: OTHER, segmentId: 200 }) },
  story => { story.cluster().offer('o3', 's2a', [node('n9', 's2a', 1)], { clusterId: OTHER, segmentId: 201 }) })

caught('a segment id is given out again while a host still has it', 'segment-id',
  story => { story.cluster(); story.run('s2a', 'o2-2', { resource: 'segment x', kind: 'segment', segmentId: 200 }); for (const id of ['o2-1', 'o2-2']) { revoked(story); story.end('s2a', id) } story.pass(70_000 - 15_000).offer('o3', 's2a', [node('n9', 's2a', 1)], { clusterId: OTHER, segmentId: 200 }) },
  story => { story.cluster(); story.run('s2a', 'o2-2', { resource: 'segment x', kind: 'segment', segmentId: 200 }); story.release('s2a'); story.stop('s2a'); story.pass(55_000).offer('o3', 's2a', [node('n9', 's2a', 1)], { clusterId: OTHER, segmentId: 200 }) })

caught('an answer leaves before what it says is on the disk', 'promise-kept',
  story => { story.syncs = false; story.cluster('offered') },
  story => { story.cluster('offered') })

caught('what was answered is gone after a loss of power', 'promise-kept',
  story => { story.cluster('committed'); story.host('s2a').disk.leases.delete('o2-1'); story.reboot('s2a') },
  story => { story.cluster('committed'); story.reboot('s2a') })

caught('a commit is taken back by a loss of power', 'promise-kept',
  story => { story.cluster('decided'); const held = story.host('s2a').leases.get('o2-1'); story.commit('o2'); if (held !== undefined) story.host('s2a').disk.leases.set('o2-1', held); story.reboot('s2a') },
  story => { story.cluster('decided'); story.commit('o2'); story.reboot('s2a') })

caught('the counter goes back behind a receipt', 'counters',
  story => { story.cluster('committed'); story.host('s2a').disk.counter = 2; story.reboot('s2a') },
  story => { story.cluster('committed'); story.reboot('s2a') })

caught('the same key gets another answer', 'same-key-same-answer',
  story => { story.cluster('offered'); story.decide('committing', bothOffers(story)); story.commit('o2'); story.ask('s2a', 's2a', 'hostCommit', { clusterId: CLUSTER, offerId: 'o2', epoch: 1 }, { receipts: story.receipts('o2').map(one => ({ ...one, token: one.token - 1 })) }) },
  story => { story.cluster('offered'); story.decide('committing', bothOffers(story)); story.commit('o2'); story.ask('s2a', 's2a', 'hostCommit', { clusterId: CLUSTER, offerId: 'o2', epoch: 1 }, { receipts: story.receipts('o2') }) })

caught('a lease goes back to an earlier state', 'lease-table',
  story => { story.cluster('committed'); story.change('s2a', 'o2-1', { state: 'held' }) },
  story => { story.cluster('active') })

caught('a lease changes without a new token', 'lease-table',
  story => { story.cluster('committed'); const host = story.host('s2a'); const lease = host.leases.get('o2-1'); if (lease !== undefined) host.leases.set('o2-1', { ...lease, deadlineMs: 0 }); story.show('s2a') },
  story => { story.cluster('committed') })

caught('a hold ends before its time to live', 'ends-early',
  story => { story.cluster('offered').pass(29_000); story.end('s2a', 'o2-1') },
  story => { story.cluster('offered').pass(30_000); story.end('s2a', 'o2-1') })

caught('after a boot a hold does not get its time again', 'ends-early',
  story => { story.decide('negotiating'); story.offer('o2', 's2a', [node('n2', 's2a')]); story.pass(15_000).reboot('s2a'); story.pass(10_000).end('s2a', 'o2-1') },
  story => { story.decide('negotiating'); story.offer('o2', 's2a', [node('n2', 's2a')]); story.pass(15_000).reboot('s2a'); story.pass(30_000).end('s2a', 'o2-1') })

caught('an active lease ends before its end', 'ends-early',
  story => { story.cluster().pass(MINUTE); story.end('s2a', 'o2-1') },
  story => { story.cluster().pass(MINUTE); story.release('s2a') })

caught('a hold never ends', 'always-ends',
  story => { story.cluster('offered').pass(40_000); story.pass(1) },
  story => { story.cluster('offered').pass(30_000); for (const [host, id] of [['s1a', 'o1-1'], ['s1a', 'o1-3'], ['s1b', 'o1-2'], ['s2a', 'o2-1'], ['s2a', 'o2-2']] as const) story.end(host, id); story.pass(20_000) })

caught('a committed lease that nobody activates never ends', 'always-ends',
  story => { story.cluster('committed').pass(126_000); story.pass(1) },
  story => { story.cluster('committed').pass(120_000) })

caught('a lease appears that nobody has asked for', 'asked-for',
  story => { story.keep('s2a', 'o9', CLUSTER, [{ ...node('n1', 's2a'), leaseId: 'o9-1', token: 0 }], 0) },
  story => { story.cluster('offered') })

caught('a refused commit is done', 'refused-changes-nothing',
  story => { story.cluster('decided'); const call = story.call('s2a', 's2a', 'hostCommit', { clusterId: CLUSTER, offerId: 'o2', epoch: 1 }); story.arrive(call); story.answer(call, null, { code: 'CONFLICT', message: 'no' }); story.change('s2a', 'o2-1', { state: 'committed', commitToken: story.host('s2a').counter + 1 }) },
  story => { story.cluster('decided'); const call = story.call('s2a', 's2a', 'hostCommit', { clusterId: CLUSTER, offerId: 'o2', epoch: 1 }); story.arrive(call); story.answer(call, null, { code: 'CONFLICT', message: 'no' }) })

caught('more is held than was asked for', 'held-as-asked',
  story => { const item = { ...node('n1', 's2a', 2), leaseId: 'o9-1', token: 0 }; story.ask('s2a', 's2a', 'hold', story.holdRequest('o9', CLUSTER, [{ ...item, resources: resources({ vcpus: 1, memoryMib: 512 }) }]), {}, () => { story.keep('s2a', 'o9', CLUSTER, [item], 0) }) },
  story => { story.cluster('offered') })

caught('a hold is committed after its time', 'commit-in-time',
  story => { story.cluster('decided').pass(31_000); story.hostCommit('o2', 's2a') },
  story => { story.cluster('decided').pass(29_000); story.hostCommit('o2', 's2a') })

caught('the ledger clock follows a jump of the wall clock', 'ledger-clock',
  story => { story.cluster(); story.host('s2a').offMs = 20 * MINUTE; story.pass(1_000) },
  story => { story.cluster(); story.host('s2a').wallOffMs = 20 * MINUTE; story.pass(1_000) })

caught('something is promised while the clock cannot be trusted', 'frozen-makes-no-promise',
  story => { story.host('s2a').wallOffMs = 20 * MINUTE; story.pass(1_000).cluster('offered') },
  story => { story.host('s2a').wallOffMs = MINUTE / 2; story.pass(1_000).cluster('offered') })

caught('an offer goes to a master whose clock tells another time', 'skew-refused',
  story => { story.host('s1a').offMs = -40_000; story.host('s1a').wallOffMs = -40_000; story.checkFresh('s1a'); story.cluster('offered') },
  story => { story.host('s1a').offMs = -20_000; story.host('s1a').wallOffMs = -20_000; story.checkFresh('s1a'); story.cluster('offered') })

caught('a commit leaves without a decision on the disk', 'decision-first',
  story => { story.cluster('offered').commit('o2') },
  story => { story.cluster('decided').commit('o2') })

caught('a commit leaves for what the decision does not list', 'decision-first',
  story => { story.cluster('offered'); story.decide('committing', { offers: [story.offerOf('o1')] }); story.commit('o2') },
  story => { story.cluster('decided').commit('o2') })

caught('a commit leaves when the hold does not count any more', 'decision-first',
  story => { story.cluster('decided').pass(30_000); story.call('s1a', 's2a', 'commit', { clusterId: CLUSTER, offerId: 'o2', key: '', epoch: 1 }) },
  story => { story.cluster('decided').pass(29_900); story.call('s1a', 's2a', 'commit', { clusterId: CLUSTER, offerId: 'o2', key: '', epoch: 1 }) })

caught('a master goes back', 'master-goes-forward',
  story => { story.cluster(); story.decide('committing', bothOffers(story)) },
  story => { story.cluster(); story.decide('releasing', bothOffers(story)) })

caught('an activation leaves without the receipts of all', 'receipts-of-all',
  story => { story.cluster('committed'); story.decide('activating', bothOffers(story)); story.activate('o1', ['o1', 'o2'], story.receipts('o1')) },
  story => { story.cluster('active') })

caught('a node starts before every lender has committed', 'all-or-nothing',
  story => { story.cluster('decided'); story.commit('o1'); story.hostActivate('s1a', 's1b', ['o1', 'o2'], story.receipts('o1')) },
  story => { story.cluster('active') })

caught('a cluster counts as active that is not so everywhere', 'active-everywhere',
  story => { story.cluster('committed'); story.decide('activating', bothOffers(story)); story.activate('o1', ['o1', 'o2']); story.decide('active', bothOffers(story)) },
  story => { story.cluster('active') })

caught('a cluster counts as ended that runs on', 'ended-everywhere',
  story => { story.cluster(); story.decide('releasing', bothOffers(story)); story.release('s1a'); story.decide('ended', bothOffers(story)) },
  story => { story.cluster(); story.decide('releasing', bothOffers(story)); story.release('s1a'); story.release('s2a'); story.decide('ended', bothOffers(story)) })

caught('an offer leaves that a host does not hold', 'offer-is-held',
  story => { story.decide('negotiating'); const call = story.offer('o2', 's2a', [node('n2', 's2a')], { answered: false }); story.answer(call, { ...story.offerOf('o2'), held: [...story.offerOf('o2').held, { leaseId: 'o2-9', kind: 'node', name: 'n3', host: 's2a', token: 1, resources: resources() }] }) },
  story => { story.decide('negotiating'); story.offer('o2', 's2a', [node('n2', 's2a')]) })

caught('a gateway would not remember its offer', 'offer-is-held',
  story => { story.decide('negotiating'); const call = story.offer('o2', 's2a', [node('n2', 's2a')], { answered: false }); story.host('s2a').disk.records.clear(); story.answer(call, story.offerOf('o2')) },
  story => { story.decide('negotiating'); story.offer('o2', 's2a', [node('n2', 's2a')]) })

caught('a gateway says that all have committed when some have', 'offer-is-held',
  story => { story.cluster('decided').commit('o1', { hosts: ['s1a'] }) },
  story => { story.cluster('decided').commit('o1') })

caught('a release is confirmed while a lease lives', 'release-confirmed-when-gone',
  story => { story.cluster(); story.decide('releasing', bothOffers(story)); story.ask('s1a', 's2a', 'release', { clusterId: CLUSTER, reason: '', offerId: '', leaseIds: [], epoch: 1 }, { site: 's2', ended: 0 }) },
  story => { story.cluster(); story.decide('releasing', bothOffers(story)); story.release('s2a') })

caught('a gateway releases what no master has given up', 'released-by-its-master',
  story => { story.cluster(); story.release('s2a', { told: false }) },
  story => { story.cluster(); story.release('s2a') })

caught('a gateway obeys a stranger', 'released-by-its-master',
  story => { story.cluster(); story.release('s2a', { from: 's3a' }) },
  story => { story.cluster(); story.release('s2a') })

const claim = (story: Story, epoch: number, holder = 's1a', force = false): void => {
  story.ask(holder, 's1a', 'claim', { clusterId: CLUSTER, epoch, force }, { epoch }, () => { story.host('s1a').epochs = [{ clusterId: CLUSTER, epoch, holder: `peer-${holder}` }]; story.host('s1a').counter++; story.show('s1a') })
}
caught('an epoch is granted twice', 'one-master',
  story => { story.cluster(); claim(story, 2); claim(story, 2, 's1a'); story.ask('s1b', 's1a', 'claim', { clusterId: CLUSTER, epoch: 2, force: true }, { epoch: 2 }) },
  story => { story.cluster(); claim(story, 2); claim(story, 2) })

caught('a host obeys an epoch that was replaced', 'older-epoch',
  story => { story.cluster(); story.host('s2a').epochs = [{ clusterId: CLUSTER, epoch: 2, holder: 'peer-s1a' }]; story.host('s2a').counter++; story.show('s2a'); story.ask('s2a', 's2a', 'hostActivate', { clusterId: CLUSTER, document: story.document(['o1', 'o2']), receipts: [...story.receipts('o1'), ...story.receipts('o2')], secrets: [], epoch: 1 }, { site: 's2' }) },
  story => { story.cluster(); story.ask('s2a', 's2a', 'hostActivate', { clusterId: CLUSTER, document: story.document(['o1', 'o2']), receipts: [...story.receipts('o1'), ...story.receipts('o2')], secrets: [], epoch: 1 }, { site: 's2' }) })

caught('an epoch goes back', 'counters',
  story => { story.cluster(); claim(story, 2); story.host('s1a').epochs = [{ clusterId: CLUSTER, epoch: 1, holder: 'peer-s1a' }]; story.show('s1a') },
  story => { story.cluster(); claim(story, 2); claim(story, 3) })

caught('something runs that is only committed', 'runs-under-lease',
  story => { story.cluster('committed'); const host = story.host('s2a'); host.running = [{ resource: 'domain x', kind: 'domain', clusterId: CLUSTER, leaseId: 'o2-1', resources: resources(), segmentId: 0, counter: 1, sinceTrueMs: story.now }]; story.show('s2a') },
  story => { story.cluster('active').run('s2a', 'o2-1') })

caught('something runs on after its end', 'nothing-after-end',
  story => { story.cluster(); story.run('s2a', 'o2-1'); story.release('s1a'); revoked(story); story.end('s2a', 'o2-1'); story.end('s2a', 'o2-2'); story.pass(70_000).pass(1) },
  story => { story.cluster(); story.run('s2a', 'o2-1'); story.release('s1a'); revoked(story); story.end('s2a', 'o2-1'); story.end('s2a', 'o2-2'); story.pass(50_000); story.stop('s2a'); story.pass(70_000) })

caught('what runs counts as gone', 'vacated-when-gone',
  story => { story.cluster(); story.run('s2a', 'o2-1'); revoked(story); story.end('s2a', 'o2-1'); story.change('s2a', 'o2-1', { vacated: true }) },
  story => { story.cluster(); story.run('s2a', 'o2-1'); revoked(story); story.end('s2a', 'o2-1'); story.stop('s2a'); story.change('s2a', 'o2-1', { vacated: true }) })

caught('more runs beside each other than there is', 'runs-beside',
  story => { story.cluster(); story.run('s2a', 'o2-1', { resources: resources({ vcpus: 5 }) }) },
  story => { story.cluster(); story.run('s2a', 'o2-1') })

const revoke = (story: Story, counter: number): void => { story.tell({ type: 'helper', trueMs: story.now, host: 's2a', command: 'revoke', resource: 'domain x', clusterId: CLUSTER, counter, accepted: true, why: '' }) }
const grant = (story: Story, counter: number, accepted: boolean): void => { story.tell({ type: 'helper', trueMs: story.now, host: 's2a', command: 'grant', resource: 'domain x', clusterId: CLUSTER, counter, accepted, why: '' }) }
caught('an older command has an effect', 'fenced',
  story => { story.cluster(); revoke(story, 9); grant(story, 8, true) },
  story => { story.cluster(); revoke(story, 9); grant(story, 8, false); grant(story, 10, true) })

caught('a command leaves that a loss of power would take back', 'fenced',
  story => { story.cluster(); story.run('s2a', 'o2-1', { counter: 99 }) },
  story => { story.cluster(); story.run('s2a', 'o2-1') })

const healed = (story: Story, before: Tell = () => undefined): void => { story.tell({ type: 'heal', trueMs: story.now }); story.pass(2 * MINUTE); before(story); story.checker.end(story.now) }
const lead: Tell = story => { for (const gateway of ['s1a', 's2a']) story.keepAlive(gateway) }
/** A host takes a version of the document, or says so, and has one on its disk. */
const activateAgain = (story: Story, version: number, kept: number): void => {
  story.ask('s2a', 's2a', 'hostActivate', { clusterId: CLUSTER, document: { ...story.document(['o1', 'o2']), version }, receipts: [...story.receipts('o1'), ...story.receipts('o2')], secrets: [], epoch: 1 }, { site: 's2' }, () => {
    story.host('s2a').documents.set(CLUSTER, { version: kept })
    story.host('s2a').sync()
  })
}
caught('after the faults a part of a cluster is left', 'converges',
  story => { story.endMs += 60 * MINUTE; story.cluster(); story.decide('releasing', bothOffers(story)); story.release('s1a'); healed(story) },
  story => { story.endMs += 60 * MINUTE; story.cluster(); story.decide('releasing', bothOffers(story)); story.release('s1a'); story.release('s2a'); healed(story) })

caught('after the faults a node does not run', 'converges',
  story => { story.endMs += 60 * MINUTE; story.cluster().pass(MINUTE); healed(story, lead) },
  story => { story.endMs += 60 * MINUTE; story.cluster(); story.run('s1b', 'o1-2'); story.run('s2a', 'o2-1'); story.pass(MINUTE); healed(story, lead) })

caught('a master leads a cluster and does not say so', 'converges',
  story => { story.endMs += 60 * MINUTE; story.cluster(); story.run('s1b', 'o1-2'); story.run('s2a', 'o2-1'); healed(story) },
  story => { story.endMs += 60 * MINUTE; story.cluster(); story.run('s1b', 'o1-2'); story.run('s2a', 'o2-1'); healed(story, lead) })

caught('a gateway has no record of what runs', 'converges',
  story => { story.endMs += 60 * MINUTE; story.cluster(); story.run('s1b', 'o1-2'); story.run('s2a', 'o2-1'); story.host('s2a').records.clear(); healed(story, lead) },
  story => { story.endMs += 60 * MINUTE; story.cluster(); story.run('s1b', 'o1-2'); story.run('s2a', 'o2-1'); healed(story, lead) })

caught('a gateway lets go of a segment id before the others of its site', 'segment-id',
  story => { story.cluster(); story.decide('releasing', bothOffers(story)); story.arrive(story.call('s1a', 's1a', 'release', { clusterId: CLUSTER, reason: '', offerId: '', leaseIds: [], epoch: 1 })); story.ask('s1a', 's1a', 'hostRelease', { clusterId: CLUSTER, reason: '', offerId: '', leaseIds: [], epoch: 1 }, { ended: 2 }, () => { story.end('s1a', 'o1-3') }) },
  story => { story.cluster(); story.decide('releasing', bothOffers(story)); story.release('s1a') })

caught('a segment is plugged that its gateway has only committed', 'segment-id',
  story => { story.cluster(); story.change('s1a', 'o1-3', { activatedMs: 0 }); story.run('s1b', 'o1-2', { resource: 'segment x', kind: 'segment', segmentId: 100 }) },
  story => { story.cluster(); story.run('s1b', 'o1-2', { resource: 'segment x', kind: 'segment', segmentId: 100 }) })

caught('an older document takes the place of a later one', 'promise-kept',
  story => { story.cluster(); activateAgain(story, 2, 2); activateAgain(story, 1, 1) },
  story => { story.cluster(); activateAgain(story, 2, 2); activateAgain(story, 1, 2) })

caught('a change does not raise the counter', 'counters',
  story => { story.cluster(); story.host('s2a').epochs = [{ clusterId: CLUSTER, epoch: 2, holder: 'peer-s1a' }]; story.show('s2a') },
  story => { story.cluster(); story.host('s2a').epochs = [{ clusterId: CLUSTER, epoch: 2, holder: 'peer-s1a' }]; story.host('s2a').counter++; story.show('s2a') })

caught('a master decides on less than was asked for', 'decision-first',
  story => { story.cluster('offered'); story.decide('committing', { ...bothOffers(story), spec: { nodes: { count: 3 } } }) },
  story => { story.cluster('offered'); story.decide('committing', { ...bothOffers(story), spec: { nodes: { count: 2 } } }) })

caught('a master counts on a hold for too long', 'decision-first',
  story => { story.cluster('offered'); story.decide('committing', { ...bothOffers(story), commitByMs: story.now + 30_000 }) },
  story => { story.cluster('offered'); story.decide('committing', { ...bothOffers(story), commitByMs: story.now + 29_900 }) })

caught('a master gives its cluster up though there is no other', 'master-goes-forward',
  story => { story.cluster(); story.decide('superseded', bothOffers(story)) },
  story => { story.cluster(); story.decide('releasing', bothOffers(story)) })

caught('a master lets its cluster go before the end', 'master-goes-forward',
  story => { story.isDeleted = false; story.cluster(); story.decide('releasing', bothOffers(story)) },
  story => { story.cluster(); story.decide('releasing', bothOffers(story)) })

caught('a helper is told a later end than was promised', 'fenced',
  story => { story.cluster(); story.run('s2a', 'o2-1', {}, story.endMs + 1) },
  story => { story.cluster(); story.run('s2a', 'o2-1') })
