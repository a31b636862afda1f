/** What an answer through the cache may differ in from the direct one, and what not. Pure. */
import { createHash } from 'node:crypto'
import type { RawAnswer } from './raw-http.ts'

/** An answer, or in words what came in its place. */
export type Outcome = RawAnswer | string

export interface Difference {
  /** `status`, `body`, `header NAME`, `request header NAME as the frontend saw it` ... */
  field: string
  direct: string
  cached: string
}

/** Headers that may differ, each with its reason; every other one has to be the same. */
export const IGNORED_HEADERS: Readonly<Record<string, string>> = {
  date: 'when the answer was made: of a stored one that is earlier, and rightly so',
  connection: 'of one connection only (RFC 9110, 7.6.1)',
  'keep-alive': 'of one connection only',
  'transfer-encoding': 'of one connection only: how a body is framed on the way; the body itself is compared',
  'content-length': 'may be told where the frontend did not; has a rule of its own below'
}

const textOf = (values: readonly string[]): string => values.length === 0 ? '(none)' : values.join(' | ')
const short = (text: string): string => text.length <= 90 ? text : `${text.slice(0, 60)}... (${text.length} characters)`

function headersOf (answer: RawAnswer): Map<string, string[]> {
  const found = new Map<string, string[]>()
  for (const [name, value] of answer.headers) found.set(name.toLowerCase(), [...found.get(name.toLowerCase()) ?? [], value])
  return found
}

/** Where multipart bodies have their boundary, which the sender is free to choose. */
function withoutBoundary (answer: RawAnswer): { type: string, body: Buffer } | null {
  const type = headersOf(answer).get('content-type')?.[0] ?? ''
  const boundary = /^multipart\/byteranges; *boundary="?([^"]+)"?$/.exec(type)?.[1]
  if (boundary === undefined) return null
  return { type: 'multipart/byteranges', body: Buffer.from(answer.body.toString('latin1').replaceAll(`--${boundary}`, '--BOUNDARY'), 'latin1') }
}

function bodyDifference (direct: Buffer, cached: Buffer): Difference | null {
  if (direct.equals(cached)) return null
  const digest = (body: Buffer): string => createHash('sha256').update(body).digest('hex').slice(0, 8)
  let at = 0
  while (at < direct.length && direct[at] === cached[at]) at++
  return { field: 'body', direct: `${direct.length} bytes, ${digest(direct)}`, cached: `${cached.length} bytes, ${digest(cached)}, other from byte ${at} on` }
}

/** An echo is compared word by word: what the frontend was told is the point of it. */
function echoDifferences (direct: Buffer, cached: Buffer): Difference[] {
  const read = (body: Buffer): Map<string, string> => {
    const { headers = [], ...rest } = JSON.parse(body.toString()) as { headers?: string[] } & Record<string, unknown>
    const found = new Map(Object.entries(rest).map(([key, value]) => [`request ${key}`, String(value)]))
    for (const line of headers) {
      const key = `request header ${line.slice(0, line.indexOf(':'))}`
      found.set(key, `${found.has(key) ? `${found.get(key) ?? ''} | ` : ''}${line.slice(line.indexOf(':') + 2)}`)
    }
    return found
  }
  let sides: Array<Map<string, string>>
  try {
    sides = [read(direct), read(cached)]
  } catch {
    const found = bodyDifference(direct, cached)
    return found === null ? [] : [found]
  }
  const [a = new Map<string, string>(), b = new Map<string, string>()] = sides
  return [...new Set([...a.keys(), ...b.keys()])].filter(key => a.get(key) !== b.get(key))
    .map(key => ({ field: `${key}, as the frontend saw it`, direct: short(a.get(key) ?? '(none)'), cached: short(b.get(key) ?? '(none)') }))
}

/** All differences of two outcomes of the same request; empty when a node cannot tell them apart. */
export function compare (direct: Outcome, cached: Outcome): Difference[] {
  if (typeof direct === 'string' || typeof cached === 'string') {
    const word = (one: Outcome): string => typeof one === 'string' ? one : `${one.status}, ${one.body.length} bytes`
    return direct === cached ? [] : [{ field: 'answer', direct: word(direct), cached: word(cached) }]
  }
  if (direct.status !== cached.status) return [{ field: 'status', direct: String(direct.status), cached: String(cached.status) }]
  const found: Difference[] = []
  const [a, b] = [headersOf(direct), headersOf(cached)]
  const [partsA, partsB] = [withoutBoundary(direct), withoutBoundary(cached)]
  const multipart = partsA !== null && partsB !== null
  for (const name of [...new Set([...a.keys(), ...b.keys()])].sort()) {
    if (Object.hasOwn(IGNORED_HEADERS, name) || (multipart && name === 'content-type')) continue
    const [x, y] = [textOf(a.get(name) ?? []), textOf(b.get(name) ?? [])]
    if (x !== y) found.push({ field: `header ${name}`, direct: short(x), cached: short(y) })
  }
  const [lengthA, lengthB] = [a.get('content-length')?.[0], b.get('content-length')?.[0]]
  // A boundary of another length makes another length; else a length that was told stays told, and stays the same. HEAD of an
  // unsized body may tell one.
  if (lengthA !== undefined && lengthB !== lengthA && !multipart) found.push({ field: 'header content-length', direct: lengthA, cached: lengthB ?? '(none)' })
  const isEcho = a.get('content-type')?.[0] === 'application/x-echo'
  if (isEcho) found.push(...echoDifferences(direct.body, cached.body))
  else {
    const body = bodyDifference(partsA?.body ?? direct.body, partsB?.body ?? cached.body)
    if (body !== null) found.push(body)
  }
  return found
}
