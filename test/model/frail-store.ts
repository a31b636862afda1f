/** A store whose disk fails when told, and whose machine loses power when told. */
import { createMemoryStore } from '../../store/memory.ts'
import type { Store, StoreOperation } from '../../store/store.ts'

export interface Failure {
  /** number of the write that fails, from 1 */
  at: number
  errno: string
  /** the write is on the disk nevertheless */
  reached: boolean
  /** writes after it succeed, as no store of ours lets them */
  lenient?: boolean
  /** so often the store cannot be opened again */
  closedFor?: number
}

export interface FrailStore extends Store {
  /** writes so far, failed ones included */
  writes (): number
  /** sets the next failure; counted from now on */
  fail (failure: Failure): void
  /** what is there after the machine has lost power now: everything that was synced, and what came before it */
  afterPowerLoss (): Promise<Store>
}

export function createFrailStore (): FrailStore {
  let inner = createMemoryStore()
  let durable: StoreOperation[] = []
  let volatile: StoreOperation[] = []
  let count = 0
  let failure: Failure | null = null
  let since = 0
  let poisoned: Error | null = null
  let closedFor = 0

  const copyOf = async (operations: readonly StoreOperation[]): Promise<Store> => {
    const copy = createMemoryStore()
    for (const operation of operations) await copy.batch([operation])
    return copy
  }

  async function batch (operations: readonly StoreOperation[], options?: { sync?: boolean }): Promise<void> {
    count++
    if (poisoned !== null && failure?.lenient !== true) throw poisoned
    // Later than the call, as a disk is: whoever asks meanwhile is decided with this one in mind.
    await Promise.resolve()
    const kept = JSON.parse(JSON.stringify(operations)) as StoreOperation[]
    const fails = failure !== null && count - since === failure.at
    if (!fails || failure?.reached === true) {
      volatile.push(...kept)
      if (options?.sync === true) {
        durable = [...durable, ...volatile]
        volatile = []
      }
    }
    if (fails) {
      closedFor = failure?.closedFor ?? 0
      poisoned = Object.assign(new Error(`${failure?.errno ?? ''}: the disk says no`), { code: failure?.errno })
      throw poisoned
    }
    await inner.batch(operations)
  }

  return {
    get: key => inner.get(key),
    read: key => inner.read(key),
    iterate: (prefix, onDamaged) => inner.iterate(prefix, onDamaged),
    batch,
    put: (key, value, options = {}) => batch([{ type: 'put', key, value, version: options.version ?? 1 }], options),
    delete: (key, options) => batch([{ type: 'delete', key }], options),
    close: () => inner.close(),
    async reopen () {
      if (poisoned === null) return
      if (closedFor-- > 0) throw Object.assign(new Error('EIO: cannot be opened'), { code: 'EIO' })
      inner = await copyOf([...durable, ...volatile])
      poisoned = null
      failure = null
    },
    writes: () => count,
    fail (next) {
      failure = next
      since = count
    },
    afterPowerLoss: () => copyOf(durable)
  }
}
