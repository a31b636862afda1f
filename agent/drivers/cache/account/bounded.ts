import { constants } from 'node:fs'
import { open } from 'node:fs/promises'

/**
 * The text of a small file in a folder of somebody less trusted. A link there leads this process, which is root,
 * nowhere, and a pipe does not hold it up.
 *
 * @returns null when there is no such regular file, or it is longer than `maxBytes`
 */
export async function readBounded (path: string, maxBytes: number): Promise<string | null> {
  const file = await open(path, constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK).catch(() => null)
  if (file === null) return null
  try {
    const found = await file.stat()
    if (!found.isFile() || found.size > maxBytes) return null
    const buffer = Buffer.alloc(found.size)
    const { bytesRead } = await file.read(buffer, 0, found.size, 0)
    return buffer.toString('utf8', 0, bytesRead)
  } finally {
    await file.close()
  }
}
