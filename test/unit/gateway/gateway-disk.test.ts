/** The gateway's shell over a disk that fails: what was asked is refused, and it goes on with what the disk says. */
import t, { type Test } from 'tap'
import { createEventLog } from '../../../agent/events.ts'
import { createGateway, type Gateway } from '../../../agent/gateway/gateway.ts'
import type { CallPeer } from '../../../agent/peers.ts'
import { MusubiError } from '../../../protocol/core/errors.ts'
import type { HostAsk } from '../../../protocol/core/gateway/events.ts'
import type { Grant, KeepAliveRequest } from '../../../protocol/core/messages.ts'
import type { Store } from '../../../store/store.ts'
import { silent } from '../../model/federation.ts'
import { facts } from '../../model/fixtures.ts'
import { createFrailStore } from '../../model/frail-store.ts'
import { CLUSTER, GatewayBench, MASTER, SECOND } from '../../model/gateway-bench.ts'

/** A gateway over a store, with hosts as in the bench of its machine. */
async function started (t: Test, store: Store, b: GatewayBench): Promise<Gateway> {
  const call = ((peer: string, method: string, request: unknown) =>
    Promise.resolve().then(() => b.answer(peer, { method, request } as HostAsk).reply)) as CallPeer
  const gateway = createGateway({
    site: 'tokyo', store, call, events: createEventLog(() => b.now), log: silent, now: () => b.now, newId: () => b.view().id,
    siteHosts: () => [...b.view().hosts], facts: () => Promise.resolve(facts('tokyo', 0)),
    holderOf: ({ envelope }) => {
      if (envelope[0] !== 7) throw new MusubiError('INVALID_INPUT', 'forged')
      return { epoch: envelope[1] ?? 0, peer: SECOND.peerId }
    }
  })
  await gateway.start()
  t.teardown(() => gateway.close())
  return gateway
}
const commit = (offerId: string): { clusterId: string, offerId: string, key: string, epoch: number } => ({ clusterId: CLUSTER, offerId, key: 'c', epoch: 1 })

t.test('a write that fails refuses what was asked, says why, and the gateway goes on', async t => {
  for (const reached of [false, true]) {
    for (const at of [1, 2]) {
      const b = new GatewayBench()
      const store = createFrailStore()
      const gateway = await started(t, store, b)
      store.fail({ at, errno: 'ENOSPC', reached, closedFor: 1 })
      await t.rejects(gateway.request(b.request(), MASTER), { code: 'LEDGER_FAILED', retryable: true, message: /ENOSPC/ })
      await t.rejects(gateway.request(b.request(), MASTER), { code: 'LEDGER_FAILED' }, 'nothing is answered from memory')
      t.match(gateway.failure(), { code: 'LEDGER_FAILED' })
      await gateway.tick()
      t.match(gateway.failure(), { code: 'LEDGER_FAILED' }, 'it cannot be opened yet')
      await gateway.tick()
      t.equal(gateway.failure(), null)
      await gateway.swept()
      const offer = await gateway.request(b.request(), MASTER)
      t.equal((await gateway.commit(commit(offer.offerId), MASTER)).receipts.length, offer.held.length)
      t.match(gateway.list(), [{ state: 'committed' }])
    }
  }
})

t.test('who waits for hosts when the disk fails is refused as well', async t => {
  const b = new GatewayBench()
  const store = createFrailStore()
  const gateway = await started(t, store, b)
  const offer = await gateway.request(b.request(), MASTER)
  store.fail({ at: 1, errno: 'EIO', reached: false })
  await t.rejects(gateway.commit(commit(offer.offerId), MASTER), { code: 'LEDGER_FAILED', message: /EIO/ }, 'hosts have committed, the record cannot say so')
  await gateway.tick()
  t.match(gateway.list(), [{ state: 'offered' }], 'as on the disk')
  const receipts = (await gateway.commit(commit(offer.offerId), MASTER)).receipts
  t.equal((await gateway.activate(b.activating(b.document([offer]), receipts).request, MASTER)).site, 'tokyo')
})

t.test('an offer that left before the power was lost is committed after it', async t => {
  const b = new GatewayBench()
  const store = createFrailStore()
  const gateway = await started(t, store, b)
  const offer = await gateway.request(b.request(), MASTER)
  // The gateway's own ledger syncs its hold in the same store, behind the plan.
  const power = createFrailStore()
  await power.put(`offer/${CLUSTER}`, { ...gateway.list()[0], state: 'asking', offer: { ...offer, segmentId: 0, held: offer.held.map(h => ({ ...h, token: 0 })) } }, { version: 2 })
  const again = await started(t, power, b)
  t.same((await again.request(b.request(), MASTER)).held, offer.held, 'as it was answered before')
  t.equal((await again.commit(commit(offer.offerId), MASTER)).receipts.length, offer.held.length)
})

t.test('a keep-alive with a forged grant changes nothing; with a right one the master changes', async t => {
  const b = new GatewayBench()
  const gateway = await started(t, createFrailStore(), b)
  await gateway.request(b.request(), MASTER)
  const alive = (epoch: number, grant: Grant | null): KeepAliveRequest => ({ clusterId: CLUSTER, epoch, sentMs: b.now, grant })
  const grant = (first: number, epoch: number): Grant => ({ envelope: Uint8Array.of(first, epoch), chain: [Uint8Array.of(1)] })
  await t.rejects(gateway.keepAlive(alive(2, grant(6, 2)), SECOND), { code: 'INVALID_INPUT', message: 'forged' })
  await t.rejects(gateway.keepAlive(alive(2, null), SECOND), { code: 'GRANT_NEEDED' })
  t.match(gateway.list(), [{ epoch: 1, masterPeer: MASTER.peerId }])
  t.match(await gateway.keepAlive(alive(2, grant(7, 2)), SECOND), { epoch: 2, state: 'offered' })
  t.match(await gateway.keepAlive(alive(2, grant(6, 2)), SECOND), { epoch: 2 }, 'what was proved is not proved again')
  await t.rejects(gateway.keepAlive(alive(1, null), MASTER), { code: 'STALE_EPOCH' })
  t.same([gateway.heardMs(CLUSTER), gateway.heardMs('other'), gateway.skewMs(CLUSTER)], [b.now, null, 0])
})

t.test('before it has read its records nothing is answered', async t => {
  const b = new GatewayBench()
  const gateway = createGateway({
    site: 'tokyo', store: createFrailStore(), call: () => Promise.reject(new Error('nobody')), events: createEventLog(() => b.now), log: silent, now: () => b.now, newId: () => '',
    siteHosts: () => [], facts: () => Promise.resolve(facts('tokyo', 0))
  })
  await t.rejects(gateway.request(b.request(), MASTER), { code: 'NOT_READY', retryable: true })
})
