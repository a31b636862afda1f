/** Disks that fail and machines that lose power, at every write of a cluster's life. */
import t from 'tap'
import { zero } from '../../../protocol/core/capacity.ts'
import { describeError, errorCode } from '../../../protocol/core/errors.ts'
import { LEDGER_RETRY_MS } from '../../../protocol/core/limits.ts'
import type { Receipt } from '../../../protocol/core/messages.ts'
import { type Ledger, checkLedger, openLedger } from '../../../store/ledger.ts'
import type { Store } from '../../../store/store.ts'
import { HOUR, essence, holdRequest, item } from '../../model/fixtures.ts'
import { createFrailStore } from '../../model/frail-store.ts'

const T0 = 1_800_000_000_000
const capacity = { vcpus: 4, memoryMib: 4096, diskMib: 0, volumes: 0, bandwidthMbit: 0 }
let now = T0
const open = (store: Store): Promise<Ledger> => openLedger({ store, now: () => now, host: 'a1', capacity, slice: { from: 1, to: 9 }, bootId: 'one' })

/** The life of a cluster, each question asked until it is answered, as masters and gateways do. Everything answered is written down. */
async function life (ledger: Ledger, heard: string[], retry: () => Promise<void>): Promise<void> {
  let receipts: Receipt[] = []
  const items = [item('l1', { resources: { ...zero(), vcpus: 2 } }), item('fe', { kind: 'frontend', resources: zero() }), item('s1', { kind: 'segment', resources: zero() })]
  const steps: Array<[string, () => Promise<unknown>]> = [
    ['hold', () => ledger.hold(holdRequest({ startMs: T0, endMs: T0 + HOUR, items, ttlMs: 300_000 }))],
    ['commit', async () => { ({ receipts } = await ledger.commit('c1', 'o1', 1)) }],
    ['activate', () => ledger.activate('c1', receipts, undefined, 1)],
    ['extend', () => ledger.extend({ key: 'x1', clusterId: 'c1', offerId: 'e1', endMs: T0 + 2 * HOUR, ttlMs: 300_000, epoch: 1, leaseIds: [] })],
    ['commit extension', () => ledger.commit('c1', 'e1', 1)],
    ['grow', () => ledger.hold(holdRequest({ key: 'k2', offerId: 'o2', startMs: T0, endMs: T0 + HOUR, items: [item('l2', { resources: { ...zero(), vcpus: 1 } })], ttlMs: 300_000 }))],
    ['shrink', () => ledger.release('c1', 'shrink', { leaseIds: ['l2'], epoch: 1 })],
    ['claim', () => ledger.claim({ clusterId: 'c1', epoch: 2, holder: 'peer2', force: true })],
    ['table', () => ledger.table('t').put('k', heard.length)],
    ['release', () => ledger.release('c1', 'deleted', { epoch: 2 })],
    ['vacate', () => ledger.vacate('c1')]
  ]
  for (const [name, ask] of steps) {
    for (let tries = 0; ; tries++) {
      try {
        await ask()
        break
      } catch (error) {
        if (errorCode(error) !== 'LEDGER_FAILED' || tries > 5) throw error
        await retry()
      }
    }
    heard.push(name)
  }
}

t.test('a disk that fails at any write: refused, said, still up, and going on with what the disk has', async t => {
  now = T0
  const whole = createFrailStore()
  const calm = await open(whole)
  const begun = whole.writes()
  await life(calm, [], () => Promise.reject(new Error('not needed')))
  const writes = whole.writes() - begun
  t.ok(writes >= 11, `${writes} writes`)
  for (let at = 1; at <= writes; at++) {
    for (const errno of ['ENOSPC', 'EIO']) {
      for (const reached of [false, true]) {
        for (const more of [{}, { lenient: true }, { closedFor: 2 }]) {
          now = T0
          const store = createFrailStore()
          const ledger = await open(store)
          const told: string[] = []
          ledger.onFailure(error => { told.push(`${error.code} ${describeError(error)}`) })
          ledger.onRecovered(() => { told.push('recovered') })
          store.fail({ at, errno, reached, ...more })
          const heard: string[] = []
          await life(ledger, heard, async () => {
            if (ledger.failure() === null) throw new Error('refused without a failure')
            const before = essence(ledger.state())
            await ledger.tick().then(() => t.fail('a tick was answered'), () => undefined)
            if (JSON.stringify(essence(ledger.state())) !== JSON.stringify(before)) t.fail('memory moved while the disk was away')
            for (let i = 0; i < 4 && ledger.failure() !== null; i++) {
              now += LEDGER_RETRY_MS
              await ledger.tick().catch(() => undefined)
            }
          })
          const ok = heard.length === 11 && told.length === 2 && told[0]?.includes('LEDGER_FAILED') === true && told[0].includes(errno) && told[1] === 'recovered' && ledger.clusterState('c1') === 'ended'
          if (!ok) t.fail(`write ${at}, ${errno}, ${reached ? 'reached' : 'lost'}, ${JSON.stringify(more)}: ${JSON.stringify({ heard, told })}`)
          const again = await open(await store.afterPowerLoss())
          t.strictSame(essence(again.state()), essence(ledger.state()), `write ${at}, ${errno}, ${reached ? 'reached' : 'lost'}: the disk has what was answered`)
        }
      }
    }
  }
})

t.test('power lost after any write: everything that was answered is there, and nothing half', async t => {
  for (let at = 1; at <= 12; at++) {
    for (const reached of [false, true]) {
      now = T0
      const store = createFrailStore()
      const ledger = await open(store)
      store.fail({ at, errno: 'EIO', reached, closedFor: 100 })
      const heard: string[] = []
      const states = [essence(ledger.state())]
      ledger.onChange(() => { states.push(essence(ledger.state())) })
      const died = await life(ledger, heard, () => Promise.reject(new Error('power'))).then(() => false, () => true)
      const disk = await store.afterPowerLoss()
      const after = essence((await open(disk)).state())
      const { problems } = await checkLedger(disk)
      t.strictSame(problems, [], `write ${at}: a ledger without contradictions`)
      // Either exactly what was answered, or that and the one write in doubt.
      if (!died || !reached) t.strictSame(after, states.at(-1), `write ${at}: as answered`)
      else t.ok((after as { counter: number }).counter >= (states.at(-1) as { counter: number }).counter, `write ${at}: in doubt, and on the disk`)
    }
  }
})

t.test('what was decided behind a failed write is not written, whatever the store does', async t => {
  now = T0
  const store = createFrailStore()
  const ledger = await open(store)
  await ledger.hold(holdRequest({ startMs: T0, endMs: T0 + HOUR, items: [item('l1', { resources: { ...zero(), vcpus: 4 } })] }))
  store.fail({ at: 1, errno: 'EIO', reached: false, lenient: true })
  // The release fails; the hold that was decided on it must fail with it, or the host is promised twice.
  const release = ledger.release('c1', 'x')
  const hold = ledger.hold(holdRequest({ key: 'k2', offerId: 'o2', clusterId: 'c2', startMs: T0, endMs: T0 + HOUR, items: [item('l2', { resources: { ...zero(), vcpus: 4 } })] }))
  t.strictSame((await Promise.allSettled([release, hold])).map(one => one.status), ['rejected', 'rejected'])
  t.strictSame([ledger.clusterState('c1'), ledger.clusterState('c2')], ['held', ''], 'answers are those of the disk')
  t.equal(await ledger.recover(), true)
  t.equal(ledger.failure(), null)
  t.strictSame([ledger.clusterState('c1'), ledger.clusterState('c2')], ['held', ''])
  t.equal(ledger.free().vcpus, 0)
})

t.test('nothing is shown before it is on the disk', async t => {
  now = T0
  const ledger = await open(createFrailStore())
  const hold = ledger.hold(holdRequest({ startMs: T0, endMs: T0 + HOUR }))
  t.equal(ledger.clusterState('c1'), '')
  t.equal(ledger.free().vcpus, 3, 'but its share is taken already')
  await hold
  t.equal(ledger.clusterState('c1'), 'held')
  const { receipts } = await ledger.commit('c1', 'o1')
  await ledger.activate('c1', receipts)
  const release = ledger.release('c1', 'x')
  t.equal(ledger.clusterState('c1'), 'active', 'nobody stops what may have to go on')
  await release
  t.equal(ledger.clusterState('c1'), 'ended')
})
