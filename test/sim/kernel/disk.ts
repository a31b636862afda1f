/**
 * A disk under a store: a log of batches of which those up to a watermark are synced. A crash keeps a
 * random number of the batches behind the watermark, never a part of one and none without those
 * before it; that is what leveldb's log promises. A batch that fails may be on the disk or not.
 */
import type { Kernel } from './kernel.ts'
import type { Prng } from './prng.ts'

export type Operation = { type: 'put', key: string, value: Uint8Array } | { type: 'del', key: string }

/** What of a level database is used, as store/level.ts wants it. */
export interface Database {
  open (): Promise<void>
  get (key: string): Promise<Uint8Array | undefined>
  batch (operations: Operation[], options: { sync: boolean }): Promise<void>
  iterator (range: { gte: string }): AsyncIterable<[string, Uint8Array]> & { close (): Promise<void> }
  close (): Promise<void>
}

export type Errno = 'ENOSPC' | 'EIO'
export type WritePoint = 'before' | 'during' | 'after'

interface Batch { number: number, operations: readonly Operation[], undo: Array<[string, Uint8Array | undefined]> }

export interface Disk {
  /**
   * A database for one life of a process; everything of a life that is over never settles. As leveldb
   * does, what the log has is written into a table and synced when it is opened.
   */
  attach (alive: () => boolean): Database
  /** the process died: as the machine is still up, everything written is there */
  killed (): void
  /** the machine lost power @returns batches that are gone */
  lostPower (): number
  /** everything is gone */
  wipe (): void
  fail (errno: Errno | null): void
  /** value of a key as of now, synced or not */
  peek (key: string): Uint8Array | undefined
  /** value of a key as a loss of power now would leave it at worst */
  durable (key: string): Uint8Array | undefined
  /** everything under a prefix as of now, in the order of the keys */
  entries (prefix: string): Array<[string, Uint8Array]>
  /** batches written so far */
  written (): number
  unsynced (): number
}

export interface DiskOptions {
  kernel: Kernel
  chance: Prng
  /** how long a batch takes, ms */
  latencyMs: (sync: boolean) => number
  /** asked at each point of each write; true: the process or machine dies there, by the caller's own doing */
  crashAt: (point: WritePoint, keys: readonly Operation[]) => boolean
  /** called when operations have become safe on the disk */
  onDurable: (operations: readonly Operation[]) => void
}

const never = <T>(): Promise<T> => new Promise<T>(() => undefined)

export function createDisk ({ kernel, chance, latencyMs, crashAt, onDurable }: DiskOptions): Disk {
  const records = new Map<string, Uint8Array>()
  let tail: Batch[] = []
  let errno: Errno | null = null
  let written = 0
  /** leveldb writes nothing more behind a record that may be torn, until it is opened anew */
  let torn = false

  function append (operations: readonly Operation[]): void {
    const undo: Batch['undo'] = []
    for (const operation of operations) {
      undo.push([operation.key, records.get(operation.key)])
      if (operation.type === 'put') records.set(operation.key, operation.value)
      else records.delete(operation.key)
    }
    tail.push({ number: ++written, operations, undo })
  }
  function undoLast (): void {
    const batch = tail.pop()
    if (batch === undefined) return
    for (let i = batch.undo.length - 1; i >= 0; i--) {
      const [key, value] = batch.undo[i] as [string, Uint8Array | undefined]
      if (value === undefined) records.delete(key)
      else records.set(key, value)
    }
  }
  /** @param upTo number of the last batch that is safe now */
  function sync (upTo: number): void {
    const safe = tail.filter(batch => batch.number <= upTo)
    tail = tail.filter(batch => batch.number > upTo)
    for (const { operations } of safe) onDurable(operations)
  }
  const failure = (code: Errno | 'CLOSED'): Error => Object.assign(new Error(code === 'ENOSPC' ? 'No space left on device' : code === 'EIO' ? 'Input/output error' : 'Database is not open'), { code })

  function attach (alive: () => boolean): Database {
    let open = errno === null
    // A new process reads what the one before wrote; leveldb makes a synced table of its log when it is opened.
    if (errno === null) {
      torn = false
      sync(written)
    }
    return {
      open () {
        if (!alive()) return never()
        if (errno !== null) return Promise.reject(failure(errno))
        open = true
        torn = false
        sync(written)
        return Promise.resolve()
      },
      get: key => !alive() ? never() : open ? Promise.resolve(records.get(key)) : Promise.reject(failure('CLOSED')),
      batch: (operations, options) => new Promise<void>((resolve, reject) => {
        if (!alive()) return
        if (!open) { reject(failure('CLOSED')); return }
        if (torn || errno !== null) {
          const why = errno ?? 'EIO'
          // The first one that fails may have reached the disk before the error did; nobody is told.
          if (!torn && chance.chance(0.5)) append(operations)
          torn = true
          kernel.after(latencyMs(options.sync), () => { if (alive()) reject(failure(why)) })
          return
        }
        if (crashAt('before', operations) || !alive()) return
        append(operations)
        if (crashAt('during', operations) || !alive()) return
        if (!options.sync) {
          // In the log of a process that lives: no waiting, and nothing that is safe.
          resolve()
          return
        }
        const mine = written
        kernel.after(latencyMs(true), () => {
          // What was under way when the process died is like any unsynced write: `lostPower` decides.
          if (!alive()) return
          if (errno !== null) {
            torn = true
            reject(failure(errno))
            return
          }
          sync(mine)
          if (crashAt('after', operations) || !alive()) return
          resolve()
        })
      }),
      iterator: ({ gte }) => {
        if (!open) throw failure('CLOSED')
        // As level does: the range is one prefix, read to its end by the caller.
        const keys = [...records.keys()].filter(key => key >= gte).sort()
        const entries = keys.map((key): [string, Uint8Array] => [key, records.get(key) as Uint8Array])
        return {
          async * [Symbol.asyncIterator] () { for (const entry of entries) yield await Promise.resolve(entry) },
          close: () => Promise.resolve()
        }
      },
      close () {
        open = false
        return alive() ? Promise.resolve() : never()
      }
    }
  }

  return {
    attach,
    killed () { torn = false },
    lostPower () {
      const lost = chance.int(0, tail.length)
      for (let i = 0; i < lost; i++) undoLast()
      sync(written)
      torn = false
      return lost
    },
    wipe () {
      records.clear()
      tail = []
      torn = false
    },
    fail (next) { errno = next },
    peek: key => records.get(key),
    durable (key) {
      for (const { undo } of tail) {
        const before = undo.find(one => one[0] === key)
        if (before !== undefined) return before[1]
      }
      return records.get(key)
    },
    entries: prefix => [...records].filter(([key]) => key.startsWith(prefix)).sort(([a], [b]) => a < b ? -1 : 1),
    written: () => written,
    unsynced: () => tail.length
  }
}
