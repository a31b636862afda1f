import { mkdir, open, rename, rm, type FileHandle } from 'node:fs/promises'
import { dirname } from 'node:path'
import { HELPER_RECORD_BYTES, HELPER_RECORDS_KEPT } from '../../protocol/core/limits.ts'

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
  /** @param durable waits for the disk; else only a loss of power can take it back */
  write (deed: Deed, durable: boolean): Promise<void>
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

  async function turnOver (): Promise<void> {
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
        if (durable) await file.datasync()
      })
      last = mine.catch(() => undefined)
      return mine
    },
    async close () {
      await last
      await file.close()
    }
  }
}
