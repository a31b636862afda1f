import protobuf from 'protobufjs/minimal.js'
import { InvalidInputError } from '../core/errors.ts'
import { SCHEMA, type Field, type Messages } from './gen/types.ts'

const LENGTH_DELIMITED = 2

const FIELDS = new Map(Object.entries(SCHEMA).map(([type, fields]) => [type, new Map(fields.map(field => [field.id, field]))]))

/**
 * Counts what would become objects and items of lists, without making any. Two bytes can stand for
 * an empty message, which takes a hundred in memory and as many times longer to decode.
 *
 * @throws InvalidInputError for more than `max`; Error for bytes that are no message
 */
export function checkItems (type: keyof Messages, bytes: Uint8Array, max: number): void {
  // Each has a tag and at least one byte more: most messages are too small to have too many.
  if (bytes.length <= 2 * max) return
  const reader = protobuf.Reader.create(bytes)
  let items = 0
  const scan = (fields: ReadonlyMap<number, Field> | undefined, end: number, depth: number): void => {
    if (depth > protobuf.util.recursionLimit) throw new Error('max depth exceeded')
    while (reader.pos < end) {
      const tag = reader.uint32()
      const field = fields?.get(tag >>> 3)
      const nested = field === undefined ? undefined : FIELDS.get(field.type)
      if ((nested !== undefined || field?.repeated === true) && ++items > max) throw new InvalidInputError(`${type}: more than ${max} items in ${bytes.length} bytes`)
      if (nested !== undefined && (tag & 7) === LENGTH_DELIMITED) scan(nested, reader.uint32() + reader.pos, depth + 1)
      else reader.skipType(tag & 7, depth, tag >>> 3)
    }
  }
  scan(FIELDS.get(type), bytes.length, 0)
}
