/** Writes of one ledger: one batch at a time, each decided with those before it in mind. */
import { MusubiError } from '../../protocol/core/errors.ts'
import type { Store, StoreOperation } from '../store.ts'

/** Events whose writes one sync may carry. */
const MAX_GROUP = 512
/** Events that may wait for the disk; more are refused before they change anything. */
const MAX_WAITING = 16_384

interface Waiting { operations: readonly StoreOperation[], done: () => void, failed: (error: MusubiError) => void }

export interface LedgerWriter {
  /** @throws MusubiError BUSY when the disk does not keep up */
  mustHaveRoom (): void
  /**
   * Resolves when the operations, and all before them, are on the disk; without operations, when all
   * before are.
   *
   * @param settled called as soon as they are, in the order of the calls
   */
  write (operations: readonly StoreOperation[], settled: () => void): Promise<void>
  idle (): Promise<void>
}

/**
 * While a batch is being synced the next ones gather. Never two at a time: when one fails, nothing that
 * was decided after it may reach the disk, whatever the store does with later batches.
 *
 * @param onFailure makes the error that everybody who waits is told
 */
export function createLedgerWriter (store: Store, onFailure: (cause: unknown) => MusubiError): LedgerWriter {
  let waiting: Waiting[] = []
  let draining: Promise<void> | null = null

  async function drain (): Promise<void> {
    while (waiting.length > 0) {
      const group = waiting.splice(0, MAX_GROUP)
      try {
        const operations = group.flatMap(one => one.operations)
        if (operations.length > 0) await store.batch(operations, { sync: true })
        for (const one of group) one.done()
      } catch (cause) {
        const behind = waiting
        waiting = []
        const error = onFailure(cause)
        for (const one of [...group, ...behind]) one.failed(error)
      }
    }
    draining = null
  }

  return {
    mustHaveRoom () {
      if (waiting.length >= MAX_WAITING) throw new MusubiError('BUSY', `the ledger has ${waiting.length} events waiting for the disk`, { retryable: true })
    },
    write (operations, settled) {
      if (operations.length === 0 && draining === null) {
        settled()
        return Promise.resolve()
      }
      return new Promise((resolve, reject) => {
        waiting.push({ operations, done () { settled(); resolve() }, failed: reject })
        draining ??= drain()
      })
    },
    async idle () { await draining }
  }
}
