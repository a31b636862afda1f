import t from 'tap'
import { createFakeDriver } from '../../agent/drivers/fake.ts'
import { createMemoryStore } from '../../store/memory.ts'
import { declareLost, refuseLostLedger } from '../../agent/lost-ledger.ts'

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
