import { crc32 } from 'node:zlib'
import { InvalidInputError } from '../protocol/core/errors.ts'
import { CorruptRecordError, type StoreEntry, type StoreValue } from './store.ts'

/**
 * How a record lies on the disk: 1 byte mark, 1 byte form (`j` JSON, `b` bytes), 2 bytes version,
 * 4 bytes CRC-32 of everything else, then the value. Big endian.
 */
const MARK = 0x6d
const HEADER_BYTES = 8
const forms = { json: 0x6a, bytes: 0x62 } as const
const MAX_VERSION = 0xffff

const checksum = (record: Uint8Array): number => crc32(record.subarray(HEADER_BYTES), crc32(record.subarray(0, 4)))

/** @throws InvalidInputError when JSON cannot carry the value */
export function encodeRecord (key: string, value: StoreValue, version: number): Uint8Array {
  if (key === '' || !key.isWellFormed()) throw new InvalidInputError('a record needs a key of well-formed text')
  if (!Number.isInteger(version) || version < 0 || version > MAX_VERSION) throw new InvalidInputError(`record "${key}": version ${version} is not a number from 0 to ${MAX_VERSION}`)
  const isBytes = value instanceof Uint8Array
  const text = isBytes ? '' : JSON.stringify(value) as string | undefined
  if (text === undefined) throw new InvalidInputError(`record "${key}": JSON cannot carry a value of type ${typeof value}`)
  const payload = isBytes ? value : Buffer.from(text, 'utf8')
  const record = Buffer.allocUnsafe(HEADER_BYTES + payload.length)
  record[0] = MARK
  record[1] = isBytes ? forms.bytes : forms.json
  record.writeUInt16BE(version, 2)
  record.set(payload, HEADER_BYTES)
  record.writeUInt32BE(checksum(record), 4)
  return record
}

/** @throws CorruptRecordError naming the key */
export function decodeRecord<T> (key: string, bytes: Uint8Array): StoreEntry<T> {
  const record = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  if (record.length < HEADER_BYTES || record[0] !== MARK) throw new CorruptRecordError(key, 'it has no header of ours')
  if (record.readUInt32BE(4) !== checksum(record)) throw new CorruptRecordError(key, 'its checksum does not match')
  const version = record.readUInt16BE(2)
  const payload = record.subarray(HEADER_BYTES)
  if (record[1] === forms.bytes) return { key, value: Uint8Array.from(payload) as T, version }
  if (record[1] !== forms.json) throw new CorruptRecordError(key, `its form ${String(record[1])} is unknown`)
  try {
    return { key, value: JSON.parse(payload.toString('utf8')) as T, version }
  } catch (cause) {
    throw new CorruptRecordError(key, 'it is not JSON', cause)
  }
}

/** As `decodeRecord`; null, after telling, for a damaged one that somebody wants to be told about. */
export function decodeOr<T> (key: string, bytes: Uint8Array, onDamaged?: (damage: CorruptRecordError) => void): StoreEntry<T> | null {
  try {
    return decodeRecord<T>(key, bytes)
  } catch (error) {
    if (onDamaged === undefined || !(error instanceof CorruptRecordError)) throw error
    onDamaged(error)
    return null
  }
}
