import { constants } from 'node:fs'
import { open, rename, rm, writeFile, type FileHandle } from 'node:fs/promises'

/** A log is moved aside when it is larger than this; with its predecessor it takes twice as much at most, and what comes between two looks. */
export const LOG_MAX_BYTES = 4 * 1024 * 1024
/** Only the end of a log is read; a boot writes less than 1 kB. */
const LOG_TAIL_BYTES = 2 * 1024 * 1024

const older = (path: string): string => `${path}.1`

/**
 * Keeps a log that a daemon has open (for appending) from growing without bound: its end is copied to
 * `<path>.1`, then it is emptied. Lines written between the two are lost.
 */
export async function boundLog (path: string, maxBytes = LOG_MAX_BYTES): Promise<void> {
  // The daemon may write to the folder: a link there must lead this process, which is root, nowhere.
  const handle = await open(path, constants.O_RDWR | constants.O_NOFOLLOW | constants.O_NONBLOCK).catch(() => null)
  if (handle === null) return
  try {
    const stat = await handle.stat()
    if (!stat.isFile() || stat.size <= maxBytes) return
    const temp = `${older(path)}.new`
    await rm(temp, { force: true })
    await writeFile(temp, await endOf(handle, maxBytes), { flag: 'wx', mode: 0o600 })
    await rename(temp, older(path))
    await handle.truncate(0)
  } finally {
    await handle.close()
  }
}

/** The end of a log, begun in its predecessor when it was emptied not long ago. */
export async function readTail (path: string): Promise<string> {
  const now = await readEnd(path, LOG_TAIL_BYTES)
  const room = LOG_TAIL_BYTES - now.length
  const before = room > 0 ? await readEnd(older(path), room) : Buffer.alloc(0)
  return Buffer.concat([before, now]).toString('utf8')
}

async function readEnd (path: string, bytes: number): Promise<Buffer> {
  const handle = await open(path, constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK).catch(() => null)
  if (handle === null) return Buffer.alloc(0)
  try {
    return await endOf(handle, bytes)
  } finally {
    await handle.close()
  }
}

async function endOf (handle: FileHandle, bytes: number): Promise<Buffer> {
  const found = await handle.stat()
  if (!found.isFile()) return Buffer.alloc(0)
  const { size } = found
  const start = Math.max(0, size - bytes)
  const buffer = Buffer.alloc(size - start)
  const { bytesRead } = await handle.read(buffer, 0, buffer.length, start)
  return buffer.subarray(0, bytesRead)
}
