import { mkdir, open, rename, rm, type FileHandle } from 'node:fs/promises'
import { dirname } from 'node:path'
import { errorCode } from '../../protocol/core/errors.ts'
import { HELPER_MAX_NAMES, HELPER_RECORD_BYTES, HELPER_RECORDS_KEPT } from '../../protocol/core/limits.ts'

/** One line of the record. */
export interface Deed {
  /** wall clock, Unix ms */
  time: number
  /** of the machine: tells lines of one boot apart from those of another */
  boot: string
  verb: string
  resource?: string
  clusterId?: string
  counter?: number
  /** `begun`, `done`, or the code of the error */
  outcome: string
  ms?: number
}

/** What the helper did, line by line, for whoever has to find out what happened here. */
export interface DeedRecord {
  /**
   * Resolves when only a loss of power can take it back. Whoever asked for the deed does not wait for
   * the disk: nothing is ever decided by this record.
   *
   * @param durable it and all before are sent to the disk at once, behind the asker's back
   * @throws Error of this write, or of the disk since the last one
   */
  write (deed: Deed, durable: boolean): Promise<void>
  /** Resolves when all that was to be on the disk is there. */
  close (): Promise<void>
}

/**
 * Opens the record for appending. A file that is full becomes `<path>.1`, and so on; the oldest goes.
 * It is never read by the helper itself.
 */
export async function openDeedRecord (path: string, maxBytes = HELPER_RECORD_BYTES, kept = HELPER_RECORDS_KEPT): Promise<DeedRecord> {
  await mkdir(dirname(path), { recursive: true, mode: 0o700 })
  let file: FileHandle = await open(path, 'a', 0o600)
  let bytes = (await file.stat()).size
  let last: Promise<void> = Promise.resolve()
  const disk: { behind: boolean, syncing: Promise<void> | null, error: Error | null } = { behind: false, syncing: null, error: null }

  /** One at a time: what is written during one is in the next. */
  async function sync (): Promise<void> {
    try {
      while (disk.behind) {
        disk.behind = false
        await file.datasync()
      }
    } catch (error) {
      disk.error = error instanceof Error ? error : new Error(String(error))
    } finally {
      disk.syncing = null
    }
  }

  async function turnOver (): Promise<void> {
    await disk.syncing
    await file.close()
    const old = (n: number): string => n === 0 ? path : `${path}.${n}`
    for (let n = kept; n > 0; n--) await rename(old(n - 1), old(n)).catch((error: unknown) => { if (!(error instanceof Error && 'code' in error && error.code === 'ENOENT')) throw error })
    await rm(old(kept + 1), { force: true })
    file = await open(path, 'a', 0o600)
    bytes = 0
  }

  return {
    write (deed, durable) {
      const line = Buffer.from(`${JSON.stringify(deed)}\n`)
      const mine = last.then(async () => {
        if (bytes > 0 && bytes + line.length > maxBytes) await turnOver()
        await file.appendFile(line)
        bytes += line.length
        if (durable) {
          disk.behind = true
          disk.syncing ??= sync()
        }
        if (disk.error === null) return
        const { error } = disk
        disk.error = null
        throw error
      })
      last = mine.catch(() => undefined)
      return mine
    },
    async close () {
      await last
      await disk.syncing
      await file.close()
    }
  }
}

type Note = (deed: Omit<Deed, 'time' | 'boot'>, durable: boolean) => Promise<void>

/**
 * Puts on record what is tried again and again until it is done: a line when it begins, and one for
 * each outcome that differs from the one before. With a line for each try, an engine that is away for
 * hours would push all else out of the record.
 */
export function createRepeated (note: Note): (deed: Pick<Deed, 'verb' | 'counter' | 'clusterId'> & { resource: string }, work: () => Promise<void>) => Promise<void> {
  const before = new Map<string, { counter: number | undefined, outcome: string }>()
  return async (deed, work) => {
    const { resource, counter } = deed
    const last = before.get(resource)
    const known = last !== undefined && last.counter === counter ? last.outcome : null
    const started = performance.now()
    const end = async (outcome: string): Promise<void> => { await note({ ...deed, outcome, ms: Math.round(performance.now() - started) }, true) }
    if (known === null) await note({ ...deed, outcome: 'begun' }, false)
    try {
      await work()
    } catch (error) {
      const outcome = errorCode(error)
      // of what somebody else has removed meanwhile nobody tells this
      if (before.size >= HELPER_MAX_NAMES) before.clear()
      before.set(resource, { counter, outcome })
      if (outcome !== known) await end(outcome)
      throw error
    }
    before.delete(resource)
    await end('done')
  }
}
