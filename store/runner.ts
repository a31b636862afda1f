import { MusubiError } from '../protocol/core/errors.ts'
import type { Store, StoreOperation } from './store.ts'

export interface RunnerOptions<Event, Effect> {
  store: Store
  /** works an event into the machine's state, in place; must not throw for what peers send */
  advance: (event: Event) => Effect[]
  /** what an effect writes; null when it is to be performed instead */
  written: (effect: Effect) => { operation: StoreOperation, sync: boolean } | null
  /** does what is not a write; must not throw. Its results come back as events */
  perform: (effect: Effect) => void
  /** told once when a write failed: memory is ahead of the disk, nothing is performed until `recover` */
  onFailure: (error: MusubiError) => void
}

export interface Runner<Event> {
  /**
   * Works one event in. Its effects are performed in the order of the submissions, and none before
   * what it and all events before it wrote is on the disk.
   *
   * @throws MusubiError STORE_WRITE_FAILED when that write, or an earlier one, failed
   */
  submit (event: Event): Promise<void>
  /** The failure that stopped it; null when it works. */
  failure (): MusubiError | null
  /** Goes on after a failure, once the machine's state has been read from the disk anew. */
  recovered (): void
  /** Waits for what is under way. */
  idle (): Promise<void>
}

/** Runs a state machine over a store: decide in memory, write, and only then let anybody know. */
export function createRunner<Event, Effect> (options: RunnerOptions<Event, Effect>): Runner<Event> {
  const { store, advance, written, perform, onFailure } = options
  let failure: MusubiError | null = null
  let last: Promise<void> = Promise.resolve()

  function write (writes: ReadonlyArray<{ operation: StoreOperation, sync: boolean }>): Promise<void> {
    if (writes.length === 0) return Promise.resolve()
    return store.batch(writes.map(one => one.operation), { sync: writes.some(one => one.sync) })
  }

  function fail (cause: unknown): MusubiError {
    if (failure === null) {
      failure = cause instanceof MusubiError ? cause : new MusubiError('STORE_WRITE_FAILED', `the store could not be written: ${String(cause)}`, { cause, retryable: true })
      onFailure(failure)
    }
    return failure
  }

  return {
    submit (event) {
      if (failure !== null) return Promise.reject(failure)
      const writes: Array<{ operation: StoreOperation, sync: boolean }> = []
      const others: Effect[] = []
      for (const effect of advance(event)) {
        const write = written(effect)
        if (write === null) others.push(effect)
        else writes.push(write)
      }
      // Written at once, so that the store groups it with what else waits; performed in order.
      const done = Promise.all([last, write(writes)]).then(() => {
        if (failure !== null) throw failure
        for (const effect of others) perform(effect)
      }).catch((cause: unknown) => { throw fail(cause) })
      last = done.catch(() => undefined)
      return done
    },
    failure: () => failure,
    recovered () { failure = null },
    idle: () => last
  }
}
