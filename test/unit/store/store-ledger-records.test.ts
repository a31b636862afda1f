/** What a ledger keeps beside its leases: who is master, documents by version, history, clock; ledgers of older releases, and damaged ones. */
import { join } from 'node:path'
import t from 'tap'
import { zero } from '../../../protocol/core/capacity.ts'
import { MASTERLESS_MS, MAX_HISTORY_KEPT } from '../../../protocol/core/limits.ts'
import type { ClusterDocument } from '../../../protocol/core/messages.ts'
import { type Ledger, type LedgerOptions, checkLedger, openLedger, repairLedger } from '../../../store/ledger.ts'
import { historyKey, historyOperations } from '../../../store/ledger/history.ts'
import { createLevelStore, openLevelStore } from '../../../store/level.ts'
import { createMemoryStore } from '../../../store/memory.ts'
import type { Store } from '../../../store/store.ts'
import { HOUR, essence, holdRequest, item } from '../../model/fixtures.ts'

const T0 = 1_800_000_000_000
const capacity = { vcpus: 4, memoryMib: 4096, diskMib: 0, volumes: 1, bandwidthMbit: 10 }
const document = (version: number, part: Partial<ClusterDocument> = {}): ClusterDocument => ({
  id: 'c1', name: 'demo', epoch: 1, vni: 1, cidr: '10.42.0.0/16', domain: 'demo.internal', masterSite: 'tokyo', masterPeer: 'p', createdMs: T0, endMs: T0 + HOUR,
  frontend: { name: 'demo-fe', site: 'tokyo', host: 'a1', mac: '', ip: '', mode: 'builtin', leaseId: 'l1' }, sites: [], nodes: [], volumes: [], imageDigest: '', antiSpoofOff: false, sshPublicKey: '', version, startMs: T0, ...part
})

class Host {
  store: Store = createMemoryStore()
  wall = T0
  sinceBoot = 1000
  bootId = 'one'
  open = (options: Partial<LedgerOptions> = {}): Promise<Ledger> => openLedger({ store: this.store, clock: { wall: () => this.wall, sinceBoot: () => this.sinceBoot, bootId: this.bootId }, host: 'a1', capacity, ...options })
  pass (ms: number): void {
    this.wall += ms
    this.sinceBoot += ms
  }

  request = (part: Parameters<typeof holdRequest>[0] = {}): ReturnType<typeof holdRequest> => holdRequest({ startMs: T0, endMs: T0 + HOUR, items: [item('l1', { kind: 'frontend', resources: { ...zero(), vcpus: 1 } })], ...part })
  async running (): Promise<Ledger> {
    const ledger = await this.open()
    await ledger.hold(this.request())
    const { receipts } = await ledger.commit('c1', 'o1', 1)
    await ledger.activate('c1', receipts, { document: document(1), secrets: [] }, 1)
    return ledger
  }
}

t.test('who is master is kept, and heard of anew after a start', async t => {
  const host = new Host()
  const ledger = await host.running()
  t.strictSame(ledger.epochOf('c1'), { epoch: 1, holder: 'peer1' })
  t.equal(ledger.epochOf('c9'), null)
  t.equal(ledger.heardMs('c9'), null)
  host.pass(10_000)
  t.strictSame(await ledger.keepAlive({ clusterId: 'c1', epoch: 1, holder: 'peer1' }), { state: 'active', endMs: T0 + HOUR, epoch: 1, nowMs: T0 + 10_000 })
  t.equal(ledger.heardMs('c1'), T0 + 10_000)
  host.pass(MASTERLESS_MS)
  t.strictSame(await ledger.claim({ clusterId: 'c1', epoch: 2, holder: 'peer2', force: false }), { epoch: 2 })
  host.pass(MASTERLESS_MS)
  const again = await host.open()
  t.strictSame(again.epochOf('c1'), { epoch: 2, holder: 'peer2' })
  t.equal(again.heardMs('c1'), host.wall)
  await t.rejects(again.claim({ clusterId: 'c1', epoch: 3, holder: 'peer3', force: false }), { code: 'MASTER_ALIVE' }, 'a start is no silence')
  await t.rejects(again.release('c1', 'x', { epoch: 1 }), { code: 'STALE_EPOCH' })
})

t.test('a document of a higher version takes the place of the one that is active, no other', async t => {
  const host = new Host()
  const ledger = await host.running()
  const receipts = [{ leaseId: 'l1', host: 'a1', token: 0 }]
  const activate = (next: ClusterDocument): Promise<unknown> => ledger.activate('c1', receipts, { document: next, secrets: [] }, 1)
  await activate(document(1))
  await t.rejects(activate(document(1, { endMs: T0 })), { code: 'CONFLICT', message: /active on a1 with another document \(version 1, this one 1\)/ })
  await t.rejects(activate(document(2, { vni: 7 })), { code: 'CONFLICT', message: /is of another cluster/ })
  await ledger.hold(host.request({ key: 'k2', offerId: 'o2', items: [item('l2', { resources: { ...zero(), vcpus: 1 } })] }))
  const grown = await ledger.commit('c1', 'o2', 1)
  receipts.push(...grown.receipts)
  await activate(document(2))
  t.equal(ledger.leases('c1').every(lease => lease.state === 'active'), true)
  t.equal(ledger.documents.get('c1')?.document.version, 2)
  await t.rejects(activate(document(1)), { code: 'CONFLICT' }, 'never back')
  await activate(document(3))
  t.equal((await host.open()).documents.get('c1')?.document.version, 3, 'also without new leases')
})

t.test('extensions and quotas are kept', async t => {
  const host = new Host()
  const ledger = await host.running()
  await ledger.extend({ key: 'x1', clusterId: 'c1', offerId: 'e1', endMs: T0 + 2 * HOUR, ttlMs: 30_000, epoch: 1, leaseIds: [] })
  const again = await host.open({ quotas: new Map([['tokyo', zero()]]) })
  t.strictSame(essence(again.state()), essence(ledger.state()))
  await again.commit('c1', 'e1', 1)
  t.equal((await host.open()).leases('c1')[0]?.endMs, T0 + 2 * HOUR)
  const quota = host.request({ key: 'q', offerId: 'q', clusterId: 'q', items: [item('q', { kind: 'quota' })] })
  await t.rejects(again.hold(quota), { code: 'QUOTA_EXCEEDED' })
  again.setQuotas(new Map())
  await again.hold(quota)
  const third = await host.open()
  await third.release('c1', 'given up', { offerId: 'e1', epoch: 1 })
  t.equal((await host.open()).leases('c1')[0]?.endMs, T0 + HOUR)
})

t.test('the history says every promise, in the same write', async t => {
  const host = new Host()
  const ledger = await host.running()
  await ledger.hold(host.request({ key: 'k2', offerId: 'o2', clusterId: 'other', items: [item('l2')] }))
  host.pass(1000)
  await ledger.revoke('c1', 'maintenance')
  const lines = await ledger.history({ clusterId: 'c1' })
  t.strictSame(lines.map(({ what, trigger, from, to }) => [what, trigger, from, to]), [
    ['lease', 'hold', null, 'held'], ['epoch', 'hear', null, '1'], ['lease', 'commit', 'held', 'committed'], ['lease', 'activate', 'committed', 'active'], ['lease', 'revoke', 'active', 'ended']
  ])
  t.match(lines.at(-1), { leaseId: 'l1', atMs: T0 + 1000, reason: 'maintenance', endMs: T0 + HOUR, token: ledger.state().leases.get('l1')?.token })
  t.equal((await ledger.history({ leaseId: 'l2' })).length, 1)
  t.strictSame((await ledger.history({ limit: 2 })).map(line => line.trigger), ['hear', 'revoke'])
  t.strictSame(await ledger.history({ limit: 0 }), [])
  t.strictSame(await (await host.open()).history({ clusterId: 'c1' }), lines)
  const [, oldest] = historyOperations(MAX_HISTORY_KEPT + 5, T0, [{ effect: 'epoch', trigger: 'hear', epoch: { clusterId: 'c', epoch: 1, holder: '', token: 1 } }])
  t.strictSame(oldest, { type: 'delete', key: historyKey(5) }, 'the oldest gives way')
})

t.test('the clock goes on in the same boot, and freezes new promises after a jump', async t => {
  const host = new Host()
  const first = await host.running()
  host.pass(20 * 60_000)
  await first.tick()
  host.wall += 2 * HOUR
  const second = await host.open()
  t.equal(second.now(), T0 + 20 * 60_000)
  t.equal(second.clusterState('c1'), 'active', 'nothing ends early')
  const wanted = host.request({ key: 'k2', offerId: 'o2', items: [item('l2')] })
  await t.rejects(second.hold(wanted), { code: 'FROZEN', message: /jumped forth by 7200 s/ })
  await t.rejects(second.extend({ key: 'x', clusterId: 'c1', offerId: 'e', endMs: T0 + 2 * HOUR, ttlMs: 0, epoch: 1, leaseIds: [] }), { code: 'FROZEN' })
  await second.release('c1', 'x')
  await second.vacate('c1')
  t.equal((await host.open()).frozen(), null, 'with nothing to lose a start takes the wall clock')
  host.wall -= 2 * HOUR
  const third = await host.open()
  t.equal(third.now(), host.wall, 'also back')
  t.equal(third.frozen(), null)
  await third.hold(host.request({ key: 'k3', offerId: 'o3', clusterId: 'c3', startMs: third.now(), endMs: third.now() + HOUR, items: [item('l3')] }))
})

t.test('an idle ledger writes down its clock now and then', async t => {
  const host = new Host()
  let writes = 0
  const inner = host.store
  host.store = { ...inner, batch (...args) { writes++; return inner.batch(...args) } }
  const ledger = await host.open()
  const begun = writes
  for (let i = 0; i < 600; i++) {
    host.pass(1000)
    await ledger.tick()
  }
  t.equal(writes - begun, 10)
  t.match(await host.store.get('ledger/meta'), { mark: { bootId: 'one', sinceBootMs: 601_000 } })
})

t.test('after a declared loss ids rest, also over restarts', async t => {
  const host = new Host()
  const slice = { from: 5, to: 9 }
  const first = await host.open({ slice, quarantineUntilMs: T0 + HOUR })
  t.equal(first.nextSegmentId(), null)
  const again = await host.open({ slice })
  await t.rejects(again.hold(host.request({ items: [item('s', { kind: 'segment' })] })), { code: 'QUARANTINE' })
  host.pass(HOUR)
  t.equal(again.nextSegmentId(), 5)
})

/** A ledger as version 1 of the records wrote it: without volumes, bandwidth, epochs, versions of documents, a clock. */
async function ofOld (): Promise<Store> {
  const store = createMemoryStore()
  const old = { id: 'l1', offerId: 'o1', clusterId: 'c1', cluster: 'demo', kind: 'volume', name: 'l1', resources: { vcpus: 0, memoryMib: 0, diskMib: 5 }, segmentId: 0, masterSite: 'tokyo', masterPeer: 'peer1', requester: 'peer1', state: 'active', startMs: T0, endMs: T0 + HOUR, ttlMs: 30_000, deadlineMs: T0 + 120_000, token: 3, heldToken: 1, commitToken: 2, activatedMs: T0, endedMs: 0, endReason: '', vacated: true }
  const { version, startMs, ...oldDocument } = document(1, { frontend: { ...document(1).frontend, leaseId: 'l1' } })
  t.ok(version > 0 && startMs > 0)
  await store.batch([
    { type: 'put', key: 'ledger/meta', version: 1, value: { host: 'a1', counter: 3, clockMs: T0, bootId: 'one' } },
    { type: 'put', key: 'ledger/epoch', version: 1, value: { epoch: 4 } },
    { type: 'put', key: 'ledger/lease/l1', version: 1, value: old },
    { type: 'put', key: 'ledger/replay/k1', version: 1, value: { key: 'k1', offerId: 'o1', startMs: T0, endMs: T0 + HOUR, leaseIds: ['l1'], answer: { receipts: [{ leaseId: 'l1', host: 'a1', token: 1 }], segmentId: 0, ended: 0, replay: false } } },
    { type: 'put', key: 'ledger/table/document/c1', version: 1, value: { document: oldDocument, secrets: [] } },
    { type: 'put', key: 'ledger/table/other/x', version: 1, value: 7 }
  ])
  return store
}

t.test('a ledger of an older release opens, answers as before, and is written in the new form as it changes', async t => {
  const host = new Host()
  host.store = await ofOld()
  t.strictSame((await checkLedger(host.store)).problems, [])
  const ledger = await host.open({ capacity: { ...capacity, diskMib: 10 } })
  t.match(ledger.leases('c1'), [{ resources: { diskMib: 5, volumes: 1, bandwidthMbit: 0 }, confirmByMs: 0, state: 'active' }])
  t.match(ledger.activeDocuments(), [{ document: { version: 1, startMs: T0 } }])
  t.equal(ledger.table('other').get('x'), 7)
  t.equal(await ledger.nextEpoch(), 5)
  t.equal(ledger.epochOf('c1'), null)
  const question = holdRequest({ startMs: T0, endMs: T0 + HOUR, items: [item('l1', { kind: 'volume', resources: { ...zero(), diskMib: 5, volumes: 1 } })] })
  t.strictSame((await ledger.hold(question)).receipts, [{ leaseId: 'l1', host: 'a1', token: 1 }])
  await t.rejects(ledger.hold({ ...question, items: [item('l1')] }), { code: 'CONFLICT' })
  await t.rejects(ledger.hold(host.request({ key: 'k2', offerId: 'o2', items: [item('v2', { kind: 'volume', resources: { ...zero(), volumes: 1 } })] })), { code: 'NO_CAPACITY', message: /needs 1 exported volumes, 0 free/ })
  await ledger.extend({ key: 'x1', clusterId: 'c1', offerId: 'e1', endMs: T0 + 2 * HOUR, ttlMs: 30_000, epoch: 1, leaseIds: [] })
  await ledger.commit('c1', 'e1', 1)
  t.match(await host.store.read('ledger/lease/l1'), { version: 2, value: { endMs: T0 + 2 * HOUR, resources: { volumes: 1 } } })
  t.strictSame(essence((await host.open({ capacity: { ...capacity, diskMib: 10 } })).state()), essence(ledger.state()))
})

t.test('fsck finds what does not fit together, and repairs what can be rebuilt', async t => {
  const host = new Host()
  const ledger = await host.running()
  t.same((await checkLedger(host.store)).problems, [])
  t.strictSame(await checkLedger(createMemoryStore()), { records: 0, problems: [] })
  const { store } = host
  const lease = await store.get<Record<string, unknown>>('ledger/lease/l1') ?? {}
  const two = { version: 2 }
  await store.put('ledger/lease/twin', { ...lease, id: 'twin' }, two)
  await store.put('ledger/lease/wrong', { ...lease, id: 'other', token: 90 }, two)
  await store.put('ledger/replay/gone', { key: 'gone', kind: 'hold', leaseIds: ['none'], asked: '' }, two)
  await store.put('ledger/master/c7', { clusterId: 'c7', epoch: 1, holder: 'p', token: 1 }, two)
  await store.put(historyKey(99), { seq: 99, atMs: 0, lines: [] }, two)
  await store.put('ledger/surprise', 1, two)
  await store.put('ledger/lease/new', lease, { version: 9 })
  const { records, problems } = await checkLedger(store)
  t.ok(records >= 10)
  const said = problems.map(one => `${one.key}: ${one.problem}`).join('\n')
  for (const pattern of [/lease\/twin: its fencing token \d is also that of/, /lease\/wrong: it is of lease other/, /surprise: no record of a ledger/, /lease\/new: .*newer release/, /meta: its counter \d+ is behind the token 90/]) t.match(said, pattern)
  await store.delete('ledger/lease/new')
  await store.delete('ledger/lease/twin')
  await store.delete('ledger/lease/wrong')
  await store.delete('ledger/surprise')
  await store.put('ledger/meta', { ...await store.get<object>('ledger/meta'), counter: 1 }, two)
  await t.rejects(host.open(), { code: 'CORRUPT_RECORD' })
  const { repaired, left } = await repairLedger(store)
  t.strictSame(repaired.map(one => one.key).sort(), [historyKey(99), 'ledger/master/c7', 'ledger/meta', 'ledger/replay/gone'])
  t.ok(repaired.every(one => one.repair !== undefined))
  t.strictSame(left, [])
  t.strictSame((await checkLedger(store)).problems, [])
  t.strictSame((await host.open()).leases('c1'), ledger.leases('c1'))
})

t.test('fsck reads past damaged records', async t => {
  const folder = join(t.testdir(), 'db')
  const host = new Host()
  host.store = await openLevelStore(folder)
  await host.running()
  await host.store.close()
  const { Level } = await import('level')
  const db = new Level<string, Uint8Array>(folder, { valueEncoding: 'view' })
  for (const key of ['ledger/replay/k1', 'ledger/lease/l1']) await db.put(key, Buffer.from('rubbish'))
  await db.close()
  const store = await openLevelStore(folder)
  t.teardown(() => store.close())
  const { problems } = await checkLedger(store)
  t.strictSame(problems.map(one => [one.key, one.repair !== undefined]), [['ledger/lease/l1', false], ['ledger/replay/k1', true]])
  const { repaired, left } = await repairLedger(store)
  t.strictSame([repaired.map(one => one.key), left.map(one => one.key)], [['ledger/replay/k1'], ['ledger/lease/l1']], 'a lease is never thrown away')
})

t.test('a level store that failed is closed and opened again', async t => {
  const folder = join(t.testdir(), 'db')
  const { Level } = await import('level')
  const db = new Level<string, Uint8Array>(folder, { keyEncoding: 'utf8', valueEncoding: 'view' })
  await db.open()
  let broken = false
  let opened = 0
  const store = createLevelStore({
    get: key => db.get(key),
    batch: (operations, options) => broken ? Promise.reject(new Error('IO error: 000003.log: No space left on device')) : db.batch(operations, options),
    iterator: range => db.iterator(range),
    async open () { opened++; await db.open() },
    close: () => db.close()
  }, folder)
  const ledger = await openLedger({ store, now: () => T0, host: 'a1', capacity })
  await store.reopen()
  t.equal(opened, 0, 'nothing to do while all is well')
  broken = true
  await t.rejects(ledger.hold(holdRequest({ startMs: T0, endMs: T0 + HOUR })), { code: 'LEDGER_FAILED', message: /could not be written \(ENOSPC\)/, retryable: true, hint: /make room/ })
  t.equal(await ledger.recover(), false, 'it can be opened, and still not be written')
  t.match(ledger.failure()?.message, /cannot be opened again \(ENOSPC\)/)
  broken = false
  t.equal(await ledger.recover(), true)
  t.equal(opened, 2)
  await ledger.hold(holdRequest({ startMs: T0, endMs: T0 + HOUR }))
  await ledger.close()
  await store.close()
})
