import { open, readdir } from 'node:fs/promises'
import { InvalidInputError } from '../../protocol/core/errors.ts'

/** A process that ends within this time has failed to start. */
export const SETTLE_MS = 200
export const STOP_GRACE_MS = 2_000
/** Logs are for the last words of a service; larger ones are cut to nothing. */
export const LOG_MAX_BYTES = 4 * 1024 * 1024
const NAME_MAX = 100
const TAIL_BYTES = 2_000
const TAIL_LINES = 5

/** Names become file and unit names. @throws InvalidInputError */
export function assertServiceName (name: string): void {
  if (!/^[a-z0-9](?:[a-z0-9.-]*[a-z0-9])?$/.test(name) || name.length > NAME_MAX) {
    throw new InvalidInputError(`service name ${JSON.stringify(name)} is not allowed`, `lower-case letters, digits, dots and dashes, at most ${NAME_MAX}`)
  }
}

/** The last lines of a log in one line, empty when there is none. */
export async function logTail (path: string): Promise<string> {
  try {
    const file = await open(path, 'r')
    try {
      const { size } = await file.stat()
      const length = Math.min(size, TAIL_BYTES)
      const { buffer } = await file.read(Buffer.alloc(length), 0, length, size - length)
      return buffer.toString('utf8').trim().split('\n').slice(-TAIL_LINES).join(' / ')
    } finally {
      await file.close()
    }
  } catch {
    return ''
  }
}

/** The names in a folder; none when there is no such folder. */
export async function namesIn (dir: string): Promise<string[]> {
  try {
    return (await readdir(dir)).sort()
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return []
    throw error
  }
}
