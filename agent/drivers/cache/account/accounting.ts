import { constants } from 'node:fs'
import { lstat, open, readdir, readFile, rename, stat, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { MAX_NODES_PER_CLUSTER } from '../../../../protocol/core/limits.ts'
import { REQUEST_CLASSES } from '../classes.ts'
import type { RequestClass } from '../classes.ts'
import { ignoreMissing } from '../folder.ts'

/** Requests of nodes and their bytes. Bytes are those of HTTP, headers included. */
export interface ClassCounters {
  requests: number
  bytesToNodes: number
  /** also what was fetched ahead of nodes */
  bytesFromUpstream: number
}

/** What the engine has done since it was first set up. */
export interface CacheCounters extends ClassCounters {
  /** requests answered from the store alone */
  hits: number
  classes: Record<RequestClass, ClassCounters>
  /** by address, at most `NODES_MAX` */
  nodes: Record<string, { requests: number, bytes: number }>
}

/** Nodes that are counted one by one; a cluster has no more, others have made up addresses. */
const NODES_MAX = MAX_NODES_PER_CLUSTER
/** The cache's own requests come from here: what was fetched ahead, and what orders said. */
const OWN = '127.0.0.1'

/** How far the logs have been read: offset in bytes by identity of the log file. */
export interface LogState {
  counters: CacheCounters
  offsets: Record<string, number>
}

/** A single read is at most this long, so that a full log does not fill memory. */
const CHUNK_BYTES = 1024 * 1024
/** Enough of the first line to tell one log file from another that got the same inode. */
const HEAD_BYTES = 64

const none = (): ClassCounters => ({ requests: 0, bytesToNodes: 0, bytesFromUpstream: 0 })

export const noCounters = (): CacheCounters => ({ ...none(), hits: 0, classes: { listed: none(), named: none(), validated: none(), dynamic: none() }, nodes: {} })

/**
 * Adds one line of the engine's log. Lines of subrequests (further parts of an object; they have
 * received no request of their own, `asked` is 0) count only what they fetched. A line that
 * cannot be read (cut off by a crash or a full disk) changes nothing.
 */
export function addLine (into: CacheCounters, line: string): void {
  let entry: Record<string, unknown>
  try {
    const parsed: unknown = JSON.parse(line)
    if (parsed === null || typeof parsed !== 'object') return
    entry = parsed as Record<string, unknown>
  } catch {
    return
  }
  const { asked, sent, store, fetched, node } = entry
  if (typeof asked !== 'number' || typeof sent !== 'number' || typeof fetched !== 'string' || typeof node !== 'string') return
  const ofNode = asked > 0 && node !== OWN
  const name = REQUEST_CLASSES.find(one => one === entry['class']) ?? 'dynamic'
  for (const counters of [into, into.classes[name]]) {
    // retries and parts are listed like `0, 812 : 4096`
    for (const [bytes] of fetched.matchAll(/\d+/g)) counters.bytesFromUpstream += Number(bytes)
    if (!ofNode) continue
    counters.requests++
    counters.bytesToNodes += sent
  }
  if (!ofNode) return
  if (store === 'HIT') into.hits++
  const known = into.nodes[node] ?? { requests: 0, bytes: 0 }
  if (known.requests === 0 && Object.keys(into.nodes).length >= NODES_MAX) return
  into.nodes[node] = { requests: known.requests + 1, bytes: known.bytes + sent }
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
  const after: LogState = { counters: structuredClone(before.counters), offsets: {} }
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
      for (const line of buffer.toString('utf8', 0, end).split('\n')) addLine(into.counters, line)
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
    const zero = noCounters()
    return { counters: { ...zero, ...value.counters, classes: { ...zero.classes, ...value.counters.classes } }, offsets: { ...value.offsets } }
  } catch {
    return empty
  }
}

/** Bytes of stored objects, and of those on their way in. */
export async function storedBytes (folder: string): Promise<number> {
  // a link of the engine's leads this process, which is root, nowhere
  if ((await lstat(folder).catch(ignoreMissing))?.isDirectory() !== true) return 0
  const entries = await readdir(folder, { recursive: true, withFileTypes: true }).catch(ignoreMissing)
  let sum = 0
  for (const entry of entries ?? []) {
    if (!entry.isFile()) continue
    sum += await stat(join(entry.parentPath, entry.name)).then(found => found.size, () => 0)
  }
  return sum
}
