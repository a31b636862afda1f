import { rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import t from 'tap'
import { createFakeDriver } from '../../../agent/drivers/fake.ts'
import { createMemoryStore } from '../../../store/memory.ts'
import { openLedger } from '../../../store/ledger.ts'
import { declareLost, LONGEST_MS, quarantineAfterLoss, refuseLostLedger, RESTED_MS } from '../../../agent/lost-ledger.ts'
import { zero } from '../../../protocol/core/capacity.ts'

const SPEC = { sizeMiB: 1, iqn: 'iqn.2026-11.org.musubi:c.v', portalAddress: '10.0.0.1', chap: { user: 'u', secret: 's' }, allow: [] }

t.test('an empty ledger beside a volume of ours stops the agent', async t => {
  const dir = t.testdir()
  const volume = createFakeDriver('volume', { dir })
  await volume.apply('c.data', SPEC, AbortSignal.timeout(1000))
  const store = createMemoryStore()
  for (const start of ['first', 'second']) {
    await t.rejects(refuseLostLedger(store, dir, { volume }), { code: 'LEDGER_LOST', message: /volume c\.data/, hint: /agent reset --yes/ }, `the ${start} start`)
  }
})

t.test('a host without objects of ours starts', async t => {
  const dir = t.testdir()
  const store = createMemoryStore()
  const volume = createFakeDriver('volume', { dir })
  await t.resolves(refuseLostLedger(store, dir, { volume }))
  await volume.apply('c.data', SPEC, AbortSignal.timeout(1000))
  await t.resolves(refuseLostLedger(store, dir, { volume }), 'from then on the ledger knows what runs')
})

t.test('an empty ledger where one was in use stops the agent, also without objects: it may have lent quotas, or promised a time to come', async t => {
  const dir = t.testdir()
  const volume = createFakeDriver('volume', { dir })
  const store = createMemoryStore()
  await refuseLostLedger(store, dir, { volume })
  for (const start of ['first', 'second']) await t.rejects(refuseLostLedger(createMemoryStore(), dir, { volume }), { code: 'LEDGER_LOST', message: /one was in use there/, hint: /agent reset --yes/ }, `the ${start} start`)
  await t.resolves(refuseLostLedger(store, dir, { volume }), 'the one that was there goes on')
  await declareLost(dir, 3_600_000)
  const fresh = createMemoryStore()
  t.equal(await quarantineAfterLoss(fresh, dir, 1000), 1000 + 3_600_000 + RESTED_MS)
  await t.resolves(refuseLostLedger(fresh, dir, { volume }))
  await rm(join(dir, 'ledger-in-use'))
  await refuseLostLedger(fresh, dir, { volume })
  await t.rejects(refuseLostLedger(createMemoryStore(), dir, { volume }), { code: 'LEDGER_LOST' }, 'one that an earlier release has begun is known from the next start on')
})

t.test('the operator may declare the loss, once', async t => {
  const dir = t.testdir()
  const volume = createFakeDriver('volume', { dir })
  await volume.apply('c.data', SPEC, AbortSignal.timeout(1000))
  await declareLost(dir)
  await t.resolves(refuseLostLedger(createMemoryStore(), dir, { volume }))
  await t.rejects(refuseLostLedger(createMemoryStore(), dir, { volume }), { code: 'LEDGER_LOST' }, 'a second loss needs a second declaration')
})

t.test('volumes that cannot be seen count as there', async t => {
  const dir = t.testdir()
  const volume = createFakeDriver('volume', { dir, onCall: () => { throw new Error('no tgtd') } })
  await t.rejects(refuseLostLedger(createMemoryStore(), dir, { volume }), { code: 'LEDGER_LOST', message: /no tgtd/ })
})

t.test('ids that a lost ledger gave out rest as long as its longest lease may run', async t => {
  const dir = t.testdir()
  const store = createMemoryStore()
  t.equal(await quarantineAfterLoss(store, dir, 1000), 0, 'nothing was declared')
  await declareLost(dir)
  t.equal(await quarantineAfterLoss(store, dir, 1000), 1000 + LONGEST_MS + RESTED_MS, 'nobody knows what it had promised: the longest that can be')
  await declareLost(dir, 3_600_000)
  t.equal(await quarantineAfterLoss(store, dir, 1000), 1000 + 3_600_000 + RESTED_MS, 'the operator knows')
  await declareLost(dir, 0)
  t.equal(await quarantineAfterLoss(store, dir, 1000), 0, 'every holder has confirmed that it is gone')
  await writeFile(join(dir, 'ledger-declared-lost'), 'declared by the operator\n')
  t.equal(await quarantineAfterLoss(store, dir, 1000), 1000 + LONGEST_MS + RESTED_MS, 'as an earlier release has written it')
})

t.test('a declaration beside a ledger that is in use counts for nothing, also later', async t => {
  const dir = t.testdir()
  const volume = createFakeDriver('volume', { dir })
  const store = createMemoryStore()
  await refuseLostLedger(store, dir, { volume })
  await declareLost(dir)
  t.equal(await quarantineAfterLoss(store, dir, 1000), 0)
  await refuseLostLedger(store, dir, { volume })
  await volume.apply('c.data', SPEC, AbortSignal.timeout(1000))
  await t.rejects(refuseLostLedger(createMemoryStore(), dir, { volume }), { code: 'LEDGER_LOST' }, 'a loss after that needs a declaration of its own')
})

t.test('until the next start only: a ledger keeps its quarantine itself', async t => {
  const store = createMemoryStore()
  const options = { store, host: 'g1', capacity: zero(), slice: { from: 100, to: 101 }, now: () => 1_800_000_000_000 }
  await openLedger({ ...options, quarantineUntilMs: 1_800_000_001_000 })
  const again = await openLedger(options)
  t.equal(again.nextSegmentId(), null)
})
