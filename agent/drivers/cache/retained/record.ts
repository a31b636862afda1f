import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { MAX_HELD_OBJECTS } from '../../../../protocol/core/limits.ts'
import { ignoreMissing, writeAtomically } from '../folder.ts'
import type { Link } from '../plan.ts'
import type { Stay } from './policy.ts'

/** The durable record of one store that has outlived its cluster, beside it; its id is the folder's name. */
export interface RetainedRecord extends Omit<Stay, 'id'> {
  /** name of the cluster that used it last */
  cluster: string
  /** from which the size of its parts follows: whoever gets the store goes on with it */
  link: Link
  /** user id of the engine that wrote it */
  engineId: number
  objects: number
  /** only objects are left in it whose bytes are those of their digest */
  checked: boolean
  /** SHA-256 of its largest objects, at most MAX_HELD_OBJECTS; absent: an earlier release has not written it down */
  held?: string[]
  /** name of the cache that is about to get it */
  takenBy?: string
}

const RECORD = 'record.json'
const SHA256 = /^[0-9a-f]{64}$/
const isFigure = (value: unknown): value is number => typeof value === 'number' && Number.isFinite(value) && value >= 0

/** The record in a folder; null when there is none, or it cannot be read: then nobody knows whose store it is. */
export async function readRetained (folder: string): Promise<RetainedRecord | null> {
  const text = await readFile(join(folder, RECORD), 'utf8').catch(ignoreMissing)
  try {
    const value = JSON.parse(text ?? 'null') as Partial<RetainedRecord> | null
    if (value === null || typeof value.owner !== 'string' || typeof value.cluster !== 'string' || typeof value.checked !== 'boolean') return null
    const { owner, cluster, link, engineId, bytes, objects, lastUsedMs, untilMs, checked, takenBy, held } = value
    if (held !== undefined && (!Array.isArray(held) || held.length > MAX_HELD_OBJECTS || !held.every(one => SHA256.test(one)))) return null
    if (!isFigure(link?.rttMs) || !isFigure(link.rateMbitPerS) || ![engineId, bytes, objects, lastUsedMs, untilMs].every(isFigure)) return null
    return { owner, cluster, link, engineId, bytes, objects, lastUsedMs, untilMs, checked, ...(takenBy === undefined ? {} : { takenBy }), ...(held === undefined ? {} : { held }) } as RetainedRecord
  } catch (error) {
    if (error instanceof SyntaxError) return null
    throw error
  }
}

export async function writeRetained (folder: string, record: RetainedRecord): Promise<void> {
  await writeAtomically(join(folder, RECORD), JSON.stringify(record))
}
