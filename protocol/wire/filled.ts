import { InvalidInputError } from '../core/errors.ts'

/** A message in which every nested message is set. */
export type Filled<T> = T extends Uint8Array ? T
  : T extends ReadonlyArray<infer U> ? Array<Filled<U>>
  : T extends object ? { [K in keyof T]: Filled<NonNullable<T[K]>> }
  : T

/**
 * The messages of the lease protocol have no optional parts: a sender that leaves one out is of
 * another release or worse. @throws InvalidInputError naming the first missing part
 */
export function filled<T> (message: T, path: string): Filled<T> {
  check(message, path, 0)
  return message as Filled<T>
}

function check (value: unknown, path: string, depth: number): void {
  if (value === null || value === undefined) throw new InvalidInputError(`${path} is missing`)
  if (typeof value !== 'object' || value instanceof Uint8Array || depth > 16) return
  for (const [key, part] of Object.entries(value)) check(part, `${path}.${key}`, depth + 1)
}
