/** A release that comes late, or twice, ends nothing of what has been leased anew since. */
import t from 'tap'
import { MusubiError } from '../../../protocol/core/errors.ts'
import { scopeOf } from '../../../protocol/core/gateway/release.ts'
import type { HostAsk } from '../../../protocol/core/gateway/events.ts'
import { GatewayBench } from '../../model/gateway-bench.ts'
import { ID, World } from '../../model/master.ts'

t.test('a gateway names to each host what it is to let go', t => {
  const b = new GatewayBench()
  b.active()
  b.settle(b.releasing())
  const releases = b.asked.filter(({ ask }) => ask.method === 'hostRelease') as Array<{ peer: string, ask: Extract<HostAsk, { method: 'hostRelease' }> }>
  t.ok(releases.length >= 2)
  // Leased anew: what the network kept back of the first life must not end it.
  b.now += 60_000
  const offer = b.offer({ key: 'k2' })
  const receipts = b.commit(offer.offerId)
  b.settle(b.activating(b.document([offer]), receipts))
  const before = b.leases()
  for (const { peer, ask } of releases) b.answer(peer, ask)
  t.same(b.leases(), before)
  t.end()
})

t.test('who gives back all leases of a site gives back the site, whatever is only offered beside them', t => {
  const b = new GatewayBench()
  const { offer } = b.active()
  b.fate = (_peer, ask) => ask.method === 'hostCommit' ? new MusubiError('UNREACHABLE', 'away', { retryable: true }) : null
  b.offer({ key: 'grow', grow: true, nodes: [{ name: 'demo-tokyo-009', vcpus: 1, memoryMib: 512 }] })
  const record = b.record()
  if (record === undefined) throw new Error('no record')
  t.equal(record.amendment?.state, 'offered')
  t.same(scopeOf('tokyo', record, { offerId: '', leaseIds: offer.held.map(held => held.leaseId) }), { kind: 'all' })
  t.throws(() => scopeOf('tokyo', record, { offerId: '', leaseIds: offer.held.filter(held => held.kind === 'segment').map(held => held.leaseId) }), { code: 'INVALID_INPUT' })
  t.end()
})

t.test('what a site borrows counts as long as any of it is there: its share of the quota is not given back alone', t => {
  const b = new GatewayBench()
  b.active()
  const record = b.record()
  if (record === undefined) throw new Error('no record')
  const nodes = record.offer.held.filter(held => held.kind === 'node')
  const quota = { ...record.offer.held[0], leaseId: `${record.offer.offerId}-99`, kind: 'quota', name: 'quota' } as typeof record.offer.held[number]
  const counted = { ...record, offer: { ...record.offer, held: [...record.offer.held, quota] } }
  t.ok(nodes.length >= 2)
  const some = nodes.slice(0, 1).map(held => held.leaseId)
  t.equal(scopeOf('tokyo', counted, { offerId: '', leaseIds: [quota.leaseId] }), null)
  t.same(scopeOf('tokyo', counted, { offerId: '', leaseIds: [...some, quota.leaseId] }), { kind: 'leases', leaseIds: some })
  t.same(scopeOf('tokyo', counted, { offerId: '', leaseIds: counted.offer.held.map(held => held.leaseId) }), { kind: 'all' })
  t.end()
})

t.test('a site that a cluster leaves is told which leases that ends', t => {
  const world = new World({ tokyo: 3, tsukuba: 0, ueno: 4 })
  world.create({ nodes: { count: 4, vcpus: 1, memoryMiB: 768 } })
  world.settle()
  const offer = world.record().offers.find(one => one.site === 'ueno')
  const far = world.record().document?.nodes.filter(node => node.site === 'ueno').map(node => node.name) ?? []
  world.submit({ type: 'shrink', clusterId: ID, nodes: far, id: 'a' })
  const sent = world.sent.findLast(ask => ask.method === 'release')
  if (offer === undefined || sent?.method !== 'release') throw new Error('nothing is released')
  t.same(sent.request.leaseIds, offer.held.filter(held => held.kind !== 'quota').map(held => held.leaseId))
  world.settle()
  t.same(world.lender('ueno').running(), [])
  t.end()
})
