/**
 * Child of test/unit/store/store-crash.test.ts: takes and commits leases as fast as it can and prints each
 * answer once it has it. It never ends by itself in good time; it is killed.
 */
import { openLedger } from '../../store/ledger.ts'
import { openLevelStore } from '../../store/level.ts'
import { HOUR, holdRequest, item } from './fixtures.ts'

const [folder, run] = process.argv.slice(2)
if (folder !== undefined && run !== undefined) {
  const ledger = await openLedger({
    store: await openLevelStore(folder), now: Date.now, host: 'a1', capacity: { vcpus: 1_000_000, memoryMib: 1_000_000, diskMib: 0, volumes: 0, bandwidthMbit: 0 }
  })
  const epoch = await ledger.nextEpoch()
  process.stdout.write(`${JSON.stringify({ epoch })}\n`)
  let next = 0
  const worker = async (): Promise<void> => {
    while (next < 100_000) {
      const id = `${run}-${next++}`
      const request = holdRequest({
        key: id, offerId: id, clusterId: id, startMs: Date.now(), endMs: Date.now() + HOUR, masterPeer: id, ttlMs: 120_000,
        items: [item(`${id}-l`, { resources: { vcpus: 1, memoryMib: 1, diskMib: 0, volumes: 0, bandwidthMbit: 0 } })]
      })
      const held = await ledger.hold(request)
      const committed = await ledger.commit(id, id)
      process.stdout.write(`${JSON.stringify({ request, held: held.receipts, committed: committed.receipts })}\n`)
      await ledger.release(id, 'next')
      process.stdout.write(`${JSON.stringify({ released: `${id}-l` })}\n`)
    }
  }
  await Promise.all(Array.from({ length: 16 }, worker))
}
