import type { Static, TSchema } from 'typebox'
import { Compile } from 'typebox/compile'

/** A part that could not be read here, and why. */
export interface Absent { part: string, reason: string }

/** What a parser found, or why it found nothing: input is whatever a program printed. */
export type Parsed<T> = { value: T } | { reason: string }

/**
 * One line of printable ASCII of at most `max` characters: names and models come from firmware,
 * and end in tables, logs and records.
 */
export function plain (text: string, max: number): string {
  // cut first: the rest of a huge text is not worth a pass
  return text.slice(0, 4 * max).replace(/[^\x20-\x7e]+/g, ' ').replace(/ {2,}/g, ' ').trim().slice(0, max)
}

/** A check of parsed JSON against a schema that is compiled once. */
export function shape<T extends TSchema> (schema: T): (value: unknown) => value is Static<T> {
  let compiled: { Check: (value: unknown) => boolean } | undefined
  return (value): value is Static<T> => (compiled ??= Compile(schema)).Check(value)
}

/** JSON of this shape. @param tool names the program in the reason */
export function parseJson<V> (text: string, fits: (value: unknown) => value is V, tool: string): Parsed<V> {
  let value: unknown
  try {
    value = JSON.parse(text)
  } catch {
    return { reason: `${tool} printed no JSON` }
  }
  return fits(value) ? { value } : { reason: `${tool} printed JSON of another form` }
}

/** A whole number from 0 to what a double holds exactly, else null. */
export function wholeNumber (value: unknown): number | null {
  const number = typeof value === 'string' && /^\d{1,16}$/.test(value.trim()) ? Number(value) : value
  return typeof number === 'number' && Number.isSafeInteger(number) && number >= 0 ? number : null
}

/** How many numbers a kernel list such as `0-5,48-53` names; null when it is none. */
export function countList (list: string): number | null {
  const text = list.trim()
  if (text === '') return 0
  let count = 0
  for (const range of text.split(',')) {
    const match = /^(\d{1,6})(?:-(\d{1,6}))?$/.exec(range.trim())
    if (match === null) return null
    const [from, to] = [Number(match[1]), Number(match[2] ?? match[1])]
    if (to < from) return null
    count += to - from + 1
  }
  return count
}
