import { mkdir, open, readdir, readFile, rename, rm } from 'node:fs/promises'
import { dirname, join } from 'node:path'

/** Whether an error of Node's own carries this code, e.g. `ENOENT`. */
export const hasCode = (error: unknown, code: string): boolean => error instanceof Error && 'code' in error && error.code === code

/**
 * Writes a whole file or nothing, on disk before it returns.
 * @param mode of the file; 0600 by default
 */
export async function writeWhole (path: string, text: string, mode = 0o600): Promise<void> {
  await mkdir(dirname(path), { recursive: true, mode: 0o700 })
  const part = `${path}.part`
  // a part left by a crash may have another mode
  await rm(part, { force: true })
  const file = await open(part, 'wx', mode)
  try {
    await file.writeFile(text)
    await file.sync()
  } finally {
    await file.close()
  }
  await rename(part, path)
  const folder = await open(dirname(path), 'r')
  try {
    await folder.sync()
  } finally {
    await folder.close()
  }
}

/** Text of a file, null when there is none. */
export async function readIfThere (path: string): Promise<string | null> {
  try {
    return await readFile(path, 'utf8')
  } catch (error) {
    if (hasCode(error, 'ENOENT')) return null
    throw error
  }
}

/**
 * What a driver was last asked to make, one file per object: the kernel shows what is there, not
 * what was meant. A record is written before its object is built and removed after it is gone. One
 * that cannot be read counts as lost; objects without a record are found on the host.
 */
export interface Records<T> {
  get (name: string): Promise<T | null>
  all (): Promise<Map<string, T>>
  /** Writes unless equal already. */
  put (name: string, value: T): Promise<void>
  delete (name: string): Promise<void>
}

/** @param dir folder of the records, made on first use */
export function createRecords<T> (dir: string): Records<T> {
  // a name is never a path
  const path = (name: string): string => join(dir, `${encodeURIComponent(name)}.json`)
  const parse = (text: string | null): T | null => {
    if (text === null) return null
    try {
      const record = JSON.parse(text) as { version?: unknown, spec?: T }
      return record.version === 1 && record.spec !== undefined ? record.spec : null
    } catch {
      return null
    }
  }
  const get = async (name: string): Promise<T | null> => parse(await readIfThere(path(name)))

  return {
    get,
    async all () {
      const found = new Map<string, T>()
      const files = await readdir(dir).catch((error: unknown) => {
        if (hasCode(error, 'ENOENT')) return []
        throw error
      })
      for (const file of files.filter((f) => f.endsWith('.json')).sort()) {
        const name = decodeURIComponent(file.slice(0, -'.json'.length))
        const record = await get(name)
        if (record !== null) found.set(name, record)
      }
      return found
    },
    async put (name, value) {
      const text = `${JSON.stringify({ version: 1, spec: value })}\n`
      if (await readIfThere(path(name)) !== text) await writeWhole(path(name), text)
    },
    async delete (name) {
      await rm(path(name), { force: true })
      await rm(`${path(name)}.part`, { force: true })
    }
  }
}
