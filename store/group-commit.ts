import { MusubiError } from '../protocol/core/errors.ts'

/** Writes that one disk sync may carry; more wait for the next. Bounds memory and latency of a group. */
const MAX_GROUP_WRITES = 1024
/** Writes that may wait; beyond this the disk does not keep up and callers are told. */
const MAX_WAITING_WRITES = 16_384

interface Write<Op> { operations: readonly Op[], sync: boolean, resolve: () => void, reject: (error: unknown) => void }

export interface GroupCommit<Op> {
  /** Resolves when the operations are written, and synced when `sync` is set. All of them or none. */
  write (operations: readonly Op[], sync: boolean): Promise<void>
  /** Waits until nothing is under way. */
  idle (): Promise<void>
  /** The write that failed; null when all is well. */
  failure (): MusubiError | null
  /** Takes writes again after one has failed. */
  resume (): void
}

/**
 * One writer for many callers: while one write to the disk is under way the next ones gather and
 * share the following one, in the order of the calls. One sync then serves all of them.
 *
 * Once one has failed all fail until `resume`: those behind it were decided as if it were there.
 *
 * @param flush writes a list of operations atomically, with a sync when any of their callers wants one
 */
export function createGroupCommit<Op> (flush: (operations: Op[], sync: boolean) => Promise<void>): GroupCommit<Op> {
  const waiting: Array<Write<Op>> = []
  let draining: Promise<void> | null = null
  let failure: MusubiError | null = null

  async function drain (): Promise<void> {
    while (waiting.length > 0) {
      const group = waiting.splice(0, MAX_GROUP_WRITES)
      try {
        await flush(group.flatMap(write => write.operations), group.some(write => write.sync))
        for (const write of group) write.resolve()
      } catch (cause) {
        failure = new MusubiError('STORE_WRITE_FAILED', `writing to the store failed: ${String(cause)}`, { cause, retryable: true })
        for (const write of [...group, ...waiting.splice(0)]) write.reject(failure)
      }
    }
    draining = null
  }

  return {
    write (operations, sync) {
      if (failure !== null) return Promise.reject(failure)
      if (waiting.length >= MAX_WAITING_WRITES) return Promise.reject(new MusubiError('BUSY', `the store has ${waiting.length} writes waiting`, { retryable: true }))
      return new Promise((resolve, reject) => {
        waiting.push({ operations, sync, resolve, reject })
        draining ??= drain()
      })
    },
    async idle () { await draining },
    failure: () => failure,
    resume () { failure = null }
  }
}
