import t from 'tap'
import type { ClusterDocument, Receipt } from '../../../protocol/core/messages.ts'
import { type Ledger, type LedgerOptions, openLedger } from '../../../store/ledger.ts'
import { createMemoryStore } from '../../../store/memory.ts'
import type { Store } from '../../../store/store.ts'
import { HOUR, essence, holdRequest, item } from '../../model/fixtures.ts'

const T0 = 1_800_000_000_000
const capacity = { vcpus: 4, memoryMib: 4096, diskMib: 0, volumes: 0, bandwidthMbit: 0 }
const document = (id: string, leaseId = 'l1'): ClusterDocument => ({
  id, name: 'demo', epoch: 1, vni: 1, cidr: '10.42.0.0/16', domain: 'demo.internal', masterSite: 'tokyo', masterPeer: 'p', createdMs: T0, endMs: T0 + HOUR,
  frontend: { name: 'demo-fe', site: 'tokyo', host: 'a1', mac: '', ip: '', mode: 'builtin', leaseId }, sites: [], nodes: [], volumes: [], imageDigest: '', antiSpoofOff: false, sshPublicKey: '', version: 1, startMs: T0
})

/** One host over restarts: a store, a clock, and the ledger opened on them. */
class Host {
  readonly store: Store
  now = T0
  constructor (store: Store = createMemoryStore()) { this.store = store }
  open = (options: Partial<LedgerOptions> = {}): Promise<Ledger> => openLedger({ store: this.store, now: () => this.now, host: 'a1', capacity, ...options })
  request = (part: Parameters<typeof holdRequest>[0] = {}): ReturnType<typeof holdRequest> => holdRequest({ startMs: this.now, endMs: this.now + HOUR, ...part })
}

t.test('what was answered is there after a restart, and is answered the same', async t => {
  const host = new Host()
  const first = await host.open({ slice: { from: 7, to: 9 } })
  const request = host.request({ items: [item('l1'), item('s1', { kind: 'segment' })] })
  t.equal(first.nextSegmentId(), 7)
  const held = await first.hold(request)
  t.equal(held.segmentId, 7)
  t.equal(first.nextSegmentId(), 8)
  const { receipts } = await first.commit('c1', 'o1')
  await first.activate('c1', receipts, { document: document('c1'), secrets: [{ name: 'v', user: 'u', secret: 's' }] })
  const before = essence(first.state())

  const second = await host.open({ slice: { from: 7, to: 9 } })
  t.strictSame(essence(second.state()), before)
  t.strictSame((await second.hold(request)).receipts, held.receipts)
  t.strictSame((await second.commit('c1', 'o1')).receipts, receipts)
  t.equal(second.clusterState('c1'), 'active')
  t.strictSame(second.activeDocuments(), [{ document: document('c1'), secrets: [{ name: 'v', user: 'u', secret: 's' }] }])
  t.equal(second.free().vcpus, 2)
  t.equal(second.nextSegmentId(), 8)

  const seen = second.state().counter
  await second.release('c1', 'deleted')
  t.strictSame(second.activeDocuments(), [], 'an ended cluster is not to run')
  t.equal(second.free().vcpus, 2)
  await second.vacate('c1', seen)
  t.ok(second.documents.get('c1'), 'looked at before the end: not gone yet')
  await second.vacate('c1')
  t.equal(second.free().vcpus, 4)
  t.equal(second.documents.get('c1'), undefined)
  const third = await host.open()
  t.equal(third.documents.get('c1'), undefined)
  t.equal(third.clusterState('c1'), 'ended')
  t.equal(third.free().vcpus, 4)
})

t.test('time that passed while it was off counts, the clock never goes back', async t => {
  const host = new Host()
  const first = await host.open()
  await first.hold(host.request({ ttlMs: 30_000 }))
  t.equal(first.nextDueMs(), T0 + 30_000)
  host.now -= HOUR
  const second = await host.open()
  t.equal(second.state().clockMs, T0)
  t.equal(second.clusterState('c1'), 'held')
  host.now = T0 + 30_000
  t.equal((await host.open()).clusterState('c1'), 'ended')
  t.equal((await host.open()).nextDueMs() > T0 + HOUR, true)
})

t.test('after a boot of the machine holds have their full time again', async t => {
  const host = new Host()
  const first = await host.open({ bootId: 'one' })
  await first.hold(host.request({ ttlMs: 30_000 }))
  host.now += HOUR / 2
  t.equal((await host.open({ bootId: 'two' })).clusterState('c1'), 'held')
  host.now += 29_999
  const again = await host.open({ bootId: 'two' })
  t.equal(again.clusterState('c1'), 'held')
  host.now += 1
  await again.tick()
  t.equal(again.clusterState('c1'), 'ended', 'the same boot: no second helping')
})

t.test('the boot epoch grows at every start', async t => {
  const host = new Host()
  t.equal(await (await host.open()).nextEpoch(), 1)
  const second = await host.open()
  t.strictSame(await Promise.all([second.nextEpoch(), second.nextEpoch()]), [2, 3])
  t.equal(await (await host.open()).nextEpoch(), 4)
})

t.test('nothing is active unless every member has committed', async t => {
  const ledger = await new Host().open()
  await ledger.hold(new Host().request())
  const { receipts } = await ledger.commit('c1', 'o1')
  const elsewhere = { ...document('c1'), nodes: [{ name: 'n', site: 's', host: 'b1', mac: '', ip: '', uuid: '', vcpus: 1, memoryMib: 1, leaseId: 'far', index: 1 }] }
  await t.rejects(ledger.activate('c1', receipts, { document: elsewhere, secrets: [] }), { code: 'CONFLICT', message: /no commit receipt for n/ })
  await t.rejects(ledger.activate('c1', receipts, { document: document('c2'), secrets: [] }), { code: 'INVALID_INPUT' })
  t.equal(ledger.clusterState('c1'), 'committed')
  t.equal(ledger.documents.get('c1'), undefined, 'a refused activation leaves no document')
  const far: Receipt = { leaseId: 'far', host: 'b1', token: 3 }
  await ledger.activate('c1', [...receipts, far], { document: elsewhere, secrets: [] })
  t.equal(ledger.clusterState('c1'), 'active')
})

t.test('concurrent requests never get more than there is', async t => {
  const host = new Host()
  const ledger = await host.open()
  const results = await Promise.allSettled(Array.from({ length: 20 }, (_, i) =>
    ledger.hold(host.request({ key: `k${i}`, offerId: `o${i}`, clusterId: `c${i}`, items: [item(`l${i}`)] }))))
  t.equal(results.filter(one => one.status === 'fulfilled').length, 4)
  t.match(results.find(one => one.status === 'rejected'), { reason: { code: 'NO_CAPACITY', message: 'host a1: needs 1 vCPU, 0 free' } })
})

t.test('every change is written with a sync', async t => {
  const inner = createMemoryStore()
  const unsynced: unknown[] = []
  let synced = 0
  const watched = (what: unknown, options?: { sync?: boolean }): void => {
    if (options?.sync === true) synced++
    else unsynced.push(what)
  }
  const host = new Host({
    ...inner,
    put (key, value, options) { watched(key, options); return inner.put(key, value, options) },
    delete (key, options) { watched(key, options); return inner.delete(key, options) },
    batch (operations, options) { watched(operations, options); return inner.batch(operations, options) }
  })
  const ledger = await host.open()
  await ledger.nextEpoch()
  await ledger.hold(host.request())
  const { receipts } = await ledger.commit('c1', 'o1')
  await ledger.activate('c1', receipts, { document: document('c1'), secrets: [] })
  await ledger.release('c1', 'x')
  await ledger.vacate('c1')
  await ledger.table('t').put('k', 1)
  await ledger.table('t').delete('k')
  t.strictSame(unsynced, [])
  t.equal(synced, 9)
})

/** A store whose disk can be made to hang or fail. */
function frail (): { store: Store, hang: () => void, settle: (error?: Error) => void } {
  const inner = createMemoryStore()
  let gate: PromiseWithResolvers<void> | null = null
  return {
    store: {
      ...inner,
      async batch (operations, options) {
        await gate?.promise
        await inner.batch(operations, options)
      }
    },
    hang () { gate = Promise.withResolvers() },
    settle (error) {
      if (error === undefined) gate?.resolve()
      else gate?.reject(error)
      gate = null
    }
  }
}
const pending = async (promise: Promise<unknown>): Promise<boolean> => {
  const waiting = Symbol('waiting')
  for (let i = 0; i < 20; i++) await Promise.resolve()
  return await Promise.race([promise.then(() => false, () => false), Promise.resolve(waiting)]) === waiting
}

t.test('no answer before the disk has it, and no replay from a write that is still under way', async t => {
  const disk = frail()
  const host = new Host(disk.store)
  const ledger = await host.open()
  const changes: string[] = []
  ledger.onChange(effects => { for (const one of effects) if (one.effect === 'lease') changes.push(one.lease.state) })
  disk.hang()
  const hold = ledger.hold(host.request())
  const replay = ledger.hold(host.request())
  t.ok(await pending(hold))
  t.ok(await pending(replay))
  t.strictSame(changes, [], 'nobody acts on what is not on the disk')
  disk.settle()
  t.strictSame((await hold).receipts, (await replay).receipts)
  t.strictSame(changes, ['held'])
})

t.test('after a failed write nothing is answered until the disk has been read anew', async t => {
  const disk = frail()
  const host = new Host(disk.store)
  const ledger = await host.open()
  await ledger.hold(host.request())
  disk.hang()
  const commit = ledger.commit('c1', 'o1')
  const replay = ledger.commit('c1', 'o1')
  disk.settle(new Error('disk full'))
  await t.rejects(commit, { code: 'LEDGER_FAILED', message: /ledger of a1 could not be written: disk full/, retryable: true })
  await t.rejects(replay, { code: 'LEDGER_FAILED' })
  await t.rejects(ledger.tick(), { code: 'LEDGER_FAILED' })
  t.equal((await host.open()).clusterState('c1'), 'held', 'opened again it knows what the disk knows')
})

t.test('no new promises while it is frozen, old ones are kept', async t => {
  const host = new Host()
  let why: string | null = null
  const ledger = await host.open({ frozen: () => why })
  const held = await ledger.hold(host.request())
  why = 'the clock jumped by 2 min'
  await t.rejects(ledger.hold(host.request({ key: 'k2', offerId: 'o2', items: [item('l2')] })), { code: 'FROZEN', retryable: true, message: /host a1 makes no new promises: the clock jumped/ })
  t.strictSame((await ledger.hold(host.request())).receipts, held.receipts)
  await ledger.commit('c1', 'o1')
})

t.test('tables', async t => {
  const host = new Host()
  const ledger = await host.open()
  const table = ledger.table<{ n: number }>('decision')
  const value = { n: 1 }
  await table.put('b/1', value)
  await table.put('a', { n: 2 })
  await ledger.table('other').put('a', 'elsewhere')
  value.n = 9
  t.strictSame(table.list(), [{ n: 2 }, { n: 1 }])
  t.strictSame((await host.open()).table('decision').get('b/1'), { n: 1 })
  await table.delete('a')
  t.equal(table.get('a'), undefined)
  t.equal((await host.open()).table('other').get('a'), 'elsewhere')
})

t.test('a ledger that is not as it must be is not opened', async t => {
  const host = new Host()
  const ledger = await host.open()
  await ledger.hold(host.request())
  await t.rejects(host.open({ host: 'a2' }), { code: 'CONFLICT', message: 'the ledger belongs to host a1, not to a2' })
  const lease = await host.store.get<Record<string, unknown>>('ledger/lease/l1')
  await host.store.put('ledger/lease/l1', lease, { version: 3 })
  await t.rejects(host.open(), { code: 'RECORD_TOO_NEW', message: /"ledger\/lease\/l1" was written by a newer release/ })
  await host.store.put('ledger/lease/l1', lease, { version: 0 })
  await t.rejects(host.open(), { code: 'RECORD_TOO_OLD', message: /"ledger\/lease\/l1" has version 0/ })
  const migrations = { lease: { 1: (value: unknown) => value, 0: (value: unknown) => ({ ...value as object, name: 'migrated' }) } }
  t.equal((await host.open({ migrations })).leases('c1')[0]?.name, 'migrated')
  await host.store.put('ledger/lease/l1', { ...lease, token: 99 })
  await t.rejects(host.open(), { code: 'CORRUPT_RECORD', key: 'ledger/lease/l1' })
})
