/** A master's record as JSON: on the disk, and in the copies that other hosts of the site keep. */
import { InvalidInputError } from '../../protocol/core/errors.ts'
import type { Grant } from '../../protocol/core/messages.ts'
import type { MasterRecord } from '../../protocol/core/master/record.ts'
import { isName, isUuid } from '../../protocol/core/verify/request.ts'

interface StoredGrant { envelope: string, chain: string[] }
export type StoredRecord = Omit<MasterRecord, 'grant'> & { grant: StoredGrant | null }

const text = (bytes: Uint8Array): string => Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString('base64')
const bytes = (base64: string): Uint8Array => Uint8Array.from(Buffer.from(base64, 'base64'))

/** Bytes are base64, as JSON has none. */
export function toStored (record: MasterRecord): StoredRecord {
  const { grant } = record
  return { ...record, grant: grant === null ? null : { envelope: text(grant.envelope), chain: grant.chain.map(text) } }
}

export function fromStored (stored: StoredRecord): MasterRecord {
  const { grant } = stored
  const read = (one: StoredGrant): Grant => ({ envelope: bytes(one.envelope), chain: one.chain.map(bytes) })
  return { ...stored, grant: grant === null ? null : read(grant) }
}

const isObject = (value: unknown): value is Record<string, unknown> => value !== null && typeof value === 'object' && !Array.isArray(value)
const isTime = (value: unknown): boolean => Number.isSafeInteger(value) && (value as number) >= 0

/**
 * Reads a copy that another host of the own site sent.
 *
 * @throws InvalidInputError saying what is wrong with it
 */
export function readCopy (json: Uint8Array): StoredRecord {
  const bad = (why: string): never => { throw new InvalidInputError(`a copy of a decision record is refused: ${why}`, 'its sender may be of another release') }
  let value: unknown
  try {
    value = JSON.parse(Buffer.from(json.buffer, json.byteOffset, json.byteLength).toString('utf8'))
  } catch {
    bad('it is no JSON')
  }
  if (!isObject(value)) return bad('it is no record')
  const { id, name, masterSite, document, spec } = value
  if (typeof id !== 'string' || !isUuid(id)) bad('its id is no UUID in lower case')
  if (typeof name !== 'string' || !isName(name) || typeof masterSite !== 'string' || !isName(masterSite)) bad('its name or its master\'s site is malformed')
  if (![value.createdMs, value.startMs, value.endMs, value.epoch, value.vni, value.decidedMs, value.commitByMs, value.negotiateMs].every(isTime)) bad('a time or number in it is none')
  if (![value.asked, value.offers, value.receipts, value.secrets, value.dropped, value.behind].every(Array.isArray)) bad('a list is missing')
  if (!isObject(spec) || !isObject(document) || document.id !== id) bad('it has no document of its cluster')
  const { grant } = value
  if (grant !== null && !(isObject(grant) && typeof grant.envelope === 'string' && Array.isArray(grant.chain) && grant.chain.every(one => typeof one === 'string'))) bad('its grant is malformed')
  return value as unknown as StoredRecord
}
