import { constants } from 'node:fs'
import { open, readdir, readFile, rename, stat, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { ignoreMissing } from './folder.ts'

/** What the engine has done since it was first set up. Bytes are those of HTTP, headers included. */
export interface CacheCounters {
  requests: number
  /** requests answered from the store alone */
  hits: number
  bytesToNodes: number
  bytesFromUpstream: number
}

/** How far the logs have been read: offset in bytes by identity of the log file. */
export interface LogState {
  counters: CacheCounters
  offsets: Record<string, number>
}

/** A single read is at most this long, so that a full log does not fill memory. */
const CHUNK_BYTES = 1024 * 1024
/** Enough of the first line to tell one log file from another that got the same inode. */
const HEAD_BYTES = 64

export const noCounters = (): CacheCounters => ({ requests: 0, hits: 0, bytesToNodes: 0, bytesFromUpstream: 0 })

/**
 * Adds one line of the engine's log. Lines of subrequests (further parts of an object; they have
 * received no request of their own, `asked` is 0) count only what they fetched. Pure; a line that
 * cannot be read (cut off by a crash or a full disk) changes nothing.
 */
export function countLine (counters: CacheCounters, line: string): CacheCounters {
  let entry: Record<string, unknown>
  try {
    const parsed: unknown = JSON.parse(line)
    if (parsed === null || typeof parsed !== 'object') return counters
    entry = parsed as Record<string, unknown>
  } catch {
    return counters
  }
  const { asked, sent, store, fetched } = entry
  if (typeof asked !== 'number' || typeof sent !== 'number' || typeof fetched !== 'string') return counters
  // retries and parts are listed like `0, 812 : 4096`
  const fetchedBytes = [...fetched.matchAll(/\d+/g)].reduce((sum, match) => sum + Number(match[0]), 0)
  const own = asked > 0
  return {
    requests: counters.requests + (own ? 1 : 0),
    hits: counters.hits + (own && store === 'HIT' ? 1 : 0),
    bytesToNodes: counters.bytesToNodes + (own ? sent : 0),
    bytesFromUpstream: counters.bytesFromUpstream + fetchedBytes
  }
}

/**
 * Reads what the log (and its predecessor, see prober.pl) got since the last call, and keeps the
 * sums in `<folder>/counters.json`. Not for two callers at once.
 *
 * @param logs the folder of the logs, in which the engine can do as it likes
 */
export async function readCounters (folder: string, logs = folder): Promise<CacheCounters> {
  const statePath = join(folder, 'counters.json')
  const before = await readState(statePath)
  const after: LogState = { counters: before.counters, offsets: {} }
  for (const file of ['access.log.1', 'access.log']) await readLog(join(logs, file), before.offsets, after)
  if (JSON.stringify(after) !== JSON.stringify(before)) {
    await writeFile(`${statePath}.tmp`, JSON.stringify(after), { mode: 0o600 })
    await rename(`${statePath}.tmp`, statePath)
  }
  return after.counters
}

async function readLog (path: string, offsets: Readonly<Record<string, number>>, into: LogState): Promise<void> {
  // a link of the engine's leads this process, which is root, nowhere, and a pipe does not hold it up
  const file = await open(path, constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK).catch(() => null)
  if (file === null) return
  try {
    const found = await file.stat()
    if (!found.isFile()) return
    const { ino, size } = found
    const head = Buffer.alloc(Math.min(size, HEAD_BYTES))
    await file.read(head, 0, head.length, 0)
    if (head.length < HEAD_BYTES) return // not even one line
    const key = `${ino}:${head.toString('base64')}`
    let offset = offsets[key] ?? 0
    const buffer = Buffer.alloc(CHUNK_BYTES)
    for (;;) {
      const { bytesRead } = await file.read(buffer, 0, CHUNK_BYTES, offset)
      const end = buffer.lastIndexOf(0x0a, bytesRead - 1)
      if (bytesRead === 0 || end < 0) {
        // a line longer than a chunk is none of ours (nginx caps what it logs): step over it
        if (bytesRead < CHUNK_BYTES) break
        offset += bytesRead
        continue
      }
      for (const line of buffer.toString('utf8', 0, end).split('\n')) into.counters = countLine(into.counters, line)
      offset += end + 1
    }
    into.offsets[key] = offset
  } finally {
    await file.close()
  }
}

async function readState (path: string): Promise<LogState> {
  const empty: LogState = { counters: noCounters(), offsets: {} }
  const text = await readFile(path, 'utf8').catch(ignoreMissing)
  if (text === null) return empty
  try {
    const value = JSON.parse(text) as Partial<LogState>
    if (value.counters === undefined || value.offsets === undefined) return empty
    return { counters: { ...noCounters(), ...value.counters }, offsets: { ...value.offsets } }
  } catch {
    return empty
  }
}

/** Bytes of stored objects, and of those on their way in. */
export async function storedBytes (folder: string): Promise<number> {
  const entries = await readdir(folder, { recursive: true, withFileTypes: true }).catch(ignoreMissing)
  let sum = 0
  for (const entry of entries ?? []) {
    if (!entry.isFile()) continue
    sum += await stat(join(entry.parentPath, entry.name)).then(found => found.size, () => 0)
  }
  return sum
}
