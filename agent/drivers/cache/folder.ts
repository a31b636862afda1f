import { mkdir, readdir, readFile, rename, rm, writeFile } from 'node:fs/promises'
import { join, resolve } from 'node:path'
import type { CacheSpec } from '../../../protocol/core/desired.ts'
import { InvalidInputError } from '../../../protocol/core/errors.ts'
import { fingerprint } from '../../fingerprint.ts'
import type { Link } from './plan.ts'

/** The durable record of one cache: written before anything of it is made, deleted last. */
export interface CacheRecord {
  name: string
  spec: CacheSpec
  /** fingerprint of `spec` once everything has been brought to it; null while it is being done */
  applied: string | null
  /** the way to the frontend, as it was when the cache was made: parts that are stored have a size that follows from it */
  link?: Link
  /** while the way is not known: how often it was asked for, and when last, in wall-clock milliseconds */
  linkAsked?: LinkAsked
}

export interface LinkAsked { tries: number, lastMs: number }

/** What a record says of the way to the frontend. */
export type KnownWay = Pick<CacheRecord, 'link' | 'linkAsked'>

const RECORD = 'cache.json'
const NAME_MAX = 100

/** Folder of one cache below the state folder; names may hold what path names may not. @throws InvalidInputError */
export function cacheFolder (stateDir: string, name: string): string {
  if (name === '' || name.length > NAME_MAX) throw new InvalidInputError(`cache name ${JSON.stringify(name)} is empty or longer than ${NAME_MAX}`)
  return join(resolve(stateDir), encodeURIComponent(name).replaceAll(/[.!'()*~]/g, character => `%${character.charCodeAt(0).toString(16).toUpperCase()}`))
}

/** All records; a folder without one has nothing running: the record is written first and deleted last. */
export async function readRecords (stateDir: string): Promise<CacheRecord[]> {
  const entries = await readdir(stateDir, { withFileTypes: true }).catch(ignoreMissing) ?? []
  const records: CacheRecord[] = []
  for (const entry of entries) {
    if (!entry.isDirectory()) continue
    const record = await readRecord(join(stateDir, entry.name))
    if (record !== null) records.push(record)
  }
  return records
}

/** The record in a cache's folder, null when there is none or it cannot be read. */
export async function readRecord (folder: string): Promise<CacheRecord | null> {
  try {
    const value = JSON.parse(await readFile(join(folder, RECORD), 'utf8')) as Partial<CacheRecord> | null
    if (typeof value?.name !== 'string' || typeof value.spec?.vni !== 'number') return null
    return { name: value.name, spec: value.spec, applied: value.applied ?? null, ...wayOf(value) }
  } catch (error) {
    return error instanceof SyntaxError ? null : ignoreMissing(error)
  }
}

export async function writeRecord (folder: string, name: string, spec: CacheSpec, applied: boolean, way: KnownWay = {}): Promise<void> {
  await mkdir(folder, { recursive: true, mode: 0o700 })
  const record: CacheRecord = { name, spec, applied: applied ? fingerprint(spec) : null, ...wayOf(way) }
  await writeAtomically(join(folder, RECORD), JSON.stringify(record))
}

const wayOf = ({ link, linkAsked }: KnownWay): KnownWay => ({ ...(link === undefined ? {} : { link }), ...(linkAsked === undefined ? {} : { linkAsked }) })

/** Everything but the record first: after a crash the record still tells what to take away. */
export async function removeFolder (folder: string): Promise<void> {
  const entries = await readdir(folder).catch(ignoreMissing) ?? []
  for (const entry of entries) if (entry !== RECORD) await rm(join(folder, entry), { recursive: true, force: true })
  await rm(folder, { recursive: true, force: true })
}

/** Replaces a file as a whole, and only when its text differs. */
export async function writeAtomically (path: string, text: string): Promise<void> {
  if (await readFile(path, 'utf8').catch(() => null) === text) return
  await writeFile(`${path}.tmp`, text, { mode: 0o600 })
  await rename(`${path}.tmp`, path)
}

/** For `catch`: a file that is not there is an answer, any other failure is one. */
export function ignoreMissing (error: unknown): null {
  if ((error as NodeJS.ErrnoException).code === 'ENOENT') return null
  throw error
}
