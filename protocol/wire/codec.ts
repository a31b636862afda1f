import './numbers.ts'
import { musubi } from './gen/musubi.js'
import { SCHEMA, type Field, type Messages, type Methods } from './gen/types.ts'
import { checkItems } from './items.ts'
import { InvalidInputError } from '../core/errors.ts'
import { MAX_MESSAGE_BYTES } from '../core/limits.ts'

export type * as wire from './types.ts'
export type { Messages, Methods } from './types.ts'
export { METHODS } from './gen/types.ts'

/** Name of a message of the contract. */
export type MessageName = keyof Messages
/** Name of a method that peers can call on each other. */
export type MethodName = keyof Methods

const MAX_UINT32 = 0xffff_ffff
/** Of each so many bytes that a message may have, one may be an item of a list or a nested message. */
const BYTES_PER_ITEM = 8

function isMessageName (type: string): type is MessageName {
  return Object.hasOwn(SCHEMA, type)
}

function isObject (value: unknown): value is Readonly<Record<string, unknown>> {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

function describe (value: unknown): string {
  if (value === null) return 'null'
  if (typeof value === 'number') return String(value)
  return Array.isArray(value) ? 'an array' : typeof value === 'object' ? 'an object' : `a ${typeof value}`
}

/** Where a value does not fit. The path grows on the way out, so that good data pay nothing for it. */
class Misfit extends Error {
  path = ''
  /** @param step field name or index that led here */
  under (step: string): this {
    this.path = `${step}${this.path}`
    return this
  }
}

/** Adds where it was to a misfit on its way out. */
function at (error: unknown, step: string): unknown {
  return error instanceof Misfit ? error.under(step) : error
}

/** The scalar when it fits its type on the wire. */
function scalar (type: string, value: unknown): unknown {
  switch (type) {
    case 'string':
      // a lone surrogate has no UTF-8 form: the other side could not read it
      if (typeof value === 'string' && value.isWellFormed()) return value
      break
    case 'bool':
      if (typeof value === 'boolean') return value
      break
    case 'uint32':
      if (typeof value === 'number' && Number.isInteger(value) && value >= 0 && value <= MAX_UINT32) return value
      break
    case 'uint64':
      if (typeof value === 'number' && Number.isSafeInteger(value) && value >= 0) return value
      break
    case 'bytes':
      // a copy: a view would keep the whole received frame alive
      if (value instanceof Uint8Array) return new Uint8Array(value)
      break
  }
  throw new Misfit(`expected ${type}, got ${describe(value)}`)
}

const ZERO: Readonly<Record<string, unknown>> = { string: '', bool: false, uint32: 0, uint64: 0, bytes: new Uint8Array() }

type Walk = (type: MessageName, value: unknown) => Record<string, unknown>

/** A field with what is asked about it for every message. */
interface Slot { field: Field, nested: MessageName | null }

/** Looked up once: a negotiation walks over thousands of fields. */
const SLOTS = Object.fromEntries(Object.entries(SCHEMA).map(([name, fields]) => [name, fields.map((field): Slot => ({ field, nested: isMessageName(field.type) ? field.type : null }))])) as Record<MessageName, Slot[]>
const WITH_ONEOF = new Set(Object.entries(SCHEMA).filter(([, fields]) => fields.some(field => field.oneof !== undefined)).map(([name]) => name))

function one ({ field, nested }: Slot, value: unknown, walk: Walk): unknown {
  return nested === null ? scalar(field.type, value) : walk(nested, value)
}

function many (slot: Slot, values: readonly unknown[], walk: Walk): unknown[] {
  const out: unknown[] = []
  try {
    for (const item of values) out.push(one(slot, item, walk))
  } catch (error) {
    throw at(error, `[${out.length}]`)
  }
  return out
}

function checkOneofs (type: MessageName, plain: Readonly<Record<string, unknown>>): void {
  if (!WITH_ONEOF.has(type)) return
  const seen = new Set<string>()
  for (const field of SCHEMA[type]) {
    if (field.oneof === undefined || plain[field.name] === undefined || plain[field.name] === null) continue
    if (seen.has(field.oneof)) throw new Misfit(`more than one member of ${field.oneof} is set`)
    seen.add(field.oneof)
  }
}

/** Plain data -> what the static encoder takes: known fields only, nothing missing, all in range. */
function toStatic (type: MessageName, value: unknown): Record<string, unknown> {
  if (!isObject(value)) throw new Misfit(`expected ${type}, got ${describe(value)}`)
  const out: Record<string, unknown> = {}
  let name = ''
  try {
    for (const slot of SLOTS[type]) {
      name = slot.field.name
      const found = value[name]
      if (!slot.field.repeated) {
        if (found === null && slot.nested !== null) continue
        // left out or zero: the same bytes
        if (slot.field.optional === true && (found === undefined || found === ZERO[slot.field.type])) continue
        out[name] = one(slot, found, toStatic)
      } else if (Array.isArray(found)) out[name] = many(slot, found, toStatic)
      else throw new Misfit(`expected an array, got ${describe(found)}`)
    }
  } catch (error) {
    throw at(error, `.${name}`)
  }
  checkOneofs(type, out)
  return out
}

/** What the static decoder gave -> plain data with every field present. Of a oneof the last member won already. */
function toPlain (type: MessageName, value: unknown): Record<string, unknown> {
  const found = isObject(value) ? value : {}
  const out: Record<string, unknown> = {}
  let name = ''
  try {
    for (const slot of SLOTS[type]) {
      name = slot.field.name
      const item = found[name]
      if (slot.field.repeated) out[name] = Array.isArray(item) ? many(slot, item, toPlain) : []
      else if (item === null || item === undefined) out[name] = slot.nested !== null ? null : ZERO[slot.field.type]
      else out[name] = one(slot, item, toPlain)
    }
  } catch (error) {
    throw at(error, `.${name}`)
  }
  return out
}

/** Runs a walk; what does not fit becomes an error that names the place, like `Offer.held[2].token`. */
function checked<T> (type: MessageName, walk: () => T): T {
  try {
    return walk()
  } catch (error) {
    throw error instanceof Misfit ? new InvalidInputError(`${type}${error.path}: ${error.message}`) : error
  }
}

export interface CodecOptions {
  /** largest encoded size that is accepted, bytes; default MAX_MESSAGE_BYTES */
  maxBytes?: number
}

/**
 * Plain data to bytes. Equal data give equal bytes, so that signatures can be made over them.
 *
 * @throws InvalidInputError when a field is missing, of another type or out of range, or when the
 * result is larger than `maxBytes`
 */
export function encode<T extends MessageName> (type: T, plain: Messages[T], options: CodecOptions = {}): Uint8Array<ArrayBuffer> {
  const maxBytes = options.maxBytes ?? MAX_MESSAGE_BYTES
  const bytes = musubi.v1[type].encode(checked(type, () => toStatic(type, plain))).finish()
  if (bytes.length > maxBytes) throw new InvalidInputError(`${type}: ${bytes.length} bytes encoded, at most ${maxBytes} are allowed`)
  checkItems(type, bytes, Math.ceil(maxBytes / BYTES_PER_ITEM))
  return new Uint8Array(bytes)
}

/**
 * Bytes to plain data: all fields present, lists filled, unset messages null, unknown fields dropped.
 *
 * @throws InvalidInputError for anything that is not such a message, and, before decoding, for
 * more than `maxBytes` or for more items than an honest message of that size has
 */
export function decode<T extends MessageName> (type: T, bytes: Uint8Array, options: CodecOptions = {}): Messages[T] {
  const maxBytes = options.maxBytes ?? MAX_MESSAGE_BYTES
  if (bytes.length > maxBytes) throw new InvalidInputError(`${type}: ${bytes.length} bytes, at most ${maxBytes} are allowed`)
  let message: object
  try {
    checkItems(type, bytes, Math.ceil(maxBytes / BYTES_PER_ITEM))
    message = musubi.v1[type].decode(bytes)
  } catch (cause) {
    if (cause instanceof InvalidInputError) throw cause
    throw new InvalidInputError(`${type}: not a valid message: ${cause instanceof Error ? cause.message : 'unreadable bytes'}`)
  }
  // toPlain gives exactly the fields of the schema that the type was generated from
  return checked(type, () => toPlain(type, message)) as unknown as Messages[T]
}
