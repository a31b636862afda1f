import { readFileSync } from 'node:fs'
import { FETCH_PATH } from '../../../protocol/core/cache/terms.ts'
import { InvalidInputError } from '../../../protocol/core/errors.ts'
import { CACHE_LIST_MAX } from '../../../protocol/core/limits.ts'
import { resolvedArgv } from '../../exec.ts'
import { keeperArgv } from '../../services/keepers.ts'
import { runOutside } from '../../services/outside.ts'
import type { RequestClass } from './classes.ts'

/** An object that a cache keeps, or kept when nodes asked for it. */
export interface StoredObject {
  class: Exclude<RequestClass, 'dynamic'>
  port: number
  path: string
  /** of its parts in the store, with their headers; of all its versions */
  bytes: number
  parts: number
  /** of the whole object; null where no part says it */
  sizeBytes: number | null
  /** hex; null where neither an index nor its name says it */
  sha256: string | null
  /** requests of nodes for it that the log still has */
  asked: number
}

export interface ObjectPage {
  objects: StoredObject[]
  /** the next page begins behind it; null at the end */
  next: string | null
}

export interface Purged {
  parts: number
  bytes: number
}

const PROGRAM = readFileSync(new URL('./store.pl', import.meta.url), 'utf8')
const LINE = /^(listed|named|validated)\t(\d{1,5})\t(\/[\x21-\x7e]{0,511})\t(\d{1,16})\t(\d{1,9})\t(\d{1,15}|-)\t([0-9a-f]{64}|-)\t(\d{1,9})$/
const CURSOR = /^\/[\x21-\x7e]{0,511} \d{1,5} (listed|named|validated)$/
/** A store of a million parts takes some seconds to read on a disk. */
const TIMEOUT_MS = 60_000

/**
 * Root reads nothing and removes nothing in a folder that another user writes to: a program of that user does,
 * without any capability. It gets there by the folder that it is started in, as those above are root's alone.
 */
async function inStore (engine: string, vni: number, args: readonly string[], signal: AbortSignal): Promise<string[]> {
  const [perl = 'perl'] = resolvedArgv(['perl'])
  const [setpriv = 'setpriv', ...as] = keeperArgv('engine', [], vni)
  const { stdout } = await runOutside(setpriv, [...as, perl, '-', ...args], { cwd: engine, input: PROGRAM, timeoutMs: TIMEOUT_MS, signal })
  return stdout.split('\n').filter(line => line !== '')
}

function checkPrefix (prefix: string): void {
  if (prefix !== '' && !FETCH_PATH.test(prefix)) throw new InvalidInputError(`${JSON.stringify(prefix)} is no beginning of a path`, 'such as /install/RPMS/')
}

/**
 * What is in a store, by path.
 *
 * @param engine the engine's folder
 * @param after `next` of the page before; empty: from the beginning
 * @throws InvalidInputError, CommandError
 */
export async function listStore (engine: string, vni: number, prefix: string, after: string, signal: AbortSignal): Promise<ObjectPage> {
  checkPrefix(prefix)
  if (after !== '' && !CURSOR.test(after)) throw new InvalidInputError(`${JSON.stringify(after)} is no end of a page`)
  const lines = await inStore(engine, vni, ['list', prefix, after, String(CACHE_LIST_MAX)], signal)
  const objects = lines.slice(0, CACHE_LIST_MAX).flatMap(readLine)
  const last = objects.at(-1)
  return { objects, next: lines.at(-1) === 'more' && last !== undefined ? `${last.path} ${last.port} ${last.class}` : null }
}

/** Whoever has taken over the engine has taken over this program too: lines that are none are left out. */
function readLine (line: string): StoredObject[] {
  const [, kind, port, path = '', bytes, parts, size, sha256 = '-', asked] = LINE.exec(line) ?? []
  const name = (['listed', 'named', 'validated'] as const).find(one => one === kind)
  if (name === undefined) return []
  return [{ class: name, port: Number(port), path, bytes: Number(bytes), parts: Number(parts), sizeBytes: size === '-' ? null : Number(size), sha256: sha256 === '-' ? null : sha256, asked: Number(asked) }]
}

/**
 * Removes objects from a store; nodes that ask for them get them from the frontend again.
 *
 * @param prefix of their paths; empty: all, also what no path leads to any more
 */
export async function purgeStore (engine: string, vni: number, prefix: string, signal: AbortSignal): Promise<Purged> {
  checkPrefix(prefix)
  const [line = ''] = await inStore(engine, vni, ['purge', prefix], signal)
  const [, parts, bytes] = /^(\d{1,9})\t(\d{1,16})$/.exec(line) ?? []
  return { parts: Number(parts ?? 0), bytes: Number(bytes ?? 0) }
}
