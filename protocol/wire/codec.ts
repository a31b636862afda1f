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

function within<T> (step: string | number, read: () => T): T {
  try {
    return read()
  } catch (error) {
    throw error instanceof Misfit ? error.under(typeof step === 'number' ? `[${step}]` : `.${step}`) : error
  }
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
      if (value instanceof Uint8Array) return Uint8Array.from(value)
      break
  }
  throw new Misfit(`expected ${type}, got ${describe(value)}`)
}

const ZERO: Readonly<Record<string, unknown>> = { string: '', bool: false, uint32: 0, uint64: 0, bytes: new Uint8Array() }

type Walk = (type: MessageName, value: unknown) => Record<string, unknown>

function one ({ type }: Field, value: unknown, walk: Walk): unknown {
  return isMessageName(type) ? walk(type, value) : scalar(type, value)
}

function many (field: Field, values: readonly unknown[], walk: Walk): unknown[] {
  return values.map((item, index) => within(index, () => one(field, item, walk)))
}

function checkOneofs (type: MessageName, plain: Readonly<Record<string, unknown>>): void {
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
  for (const field of SCHEMA[type]) {
    const found = value[field.name]
    if (found === null && !field.repeated && isMessageName(field.type)) continue
    out[field.name] = within(field.name, () => {
      if (!field.repeated) return one(field, found, toStatic)
      if (!Array.isArray(found)) throw new Misfit(`expected an array, got ${describe(found)}`)
      return many(field, found, toStatic)
    })
  }
  checkOneofs(type, out)
  return out
}

/** What the static decoder gave -> plain data with every field present. Of a oneof the last member won already. */
function toPlain (type: MessageName, value: unknown): Record<string, unknown> {
  const found = isObject(value) ? value : {}
  const out: Record<string, unknown> = {}
  for (const field of SCHEMA[type]) {
    const item = found[field.name]
    out[field.name] = within(field.name, () => {
      if (field.repeated) return Array.isArray(item) ? many(field, item, toPlain) : []
      if (item === null || item === undefined) return isMessageName(field.type) ? null : ZERO[field.type]
      return one(field, item, toPlain)
    })
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
  return Uint8Array.from(bytes)
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
