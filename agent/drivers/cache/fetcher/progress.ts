import Type from 'typebox'
import type { Static } from 'typebox'
import { Value } from 'typebox/value'
import { readBounded } from '../account/bounded.ts'

const Failure = Type.Object({ path: Type.String(), error: Type.String() })
const Order = Type.Object({
  state: Type.Union([Type.Literal('running'), Type.Literal('paused'), Type.Literal('done')]),
  reason: Type.String(),
  objects: Type.Integer(), objectsDone: Type.Integer(), bytes: Type.Integer(), bytesDone: Type.Integer(),
  /** what came from the frontend for it; the rest was there */
  bytesFetched: Type.Integer(),
  failures: Type.Integer(), failed: Type.Array(Failure), indexErrors: Type.Array(Failure)
})
const Progress = Type.Object({
  orders: Type.Record(Type.String(), Order),
  aheadParts: Type.Integer(), aheadBytes: Type.Integer(),
  /** paths that verified indexes name */
  listed: Type.Integer(),
  /** false: nothing is kept, as nothing can be written */
  room: Type.Boolean()
})
export type FetchProgress = Static<typeof Progress>

const PROGRESS_BYTES_MAX = 1024 * 1024

/** How far the fetcher is, as it says itself; null when it says nothing that can be read. */
export async function readProgress (file: string): Promise<FetchProgress | null> {
  const text = await readBounded(file, PROGRESS_BYTES_MAX)
  if (text === null) return null
  try {
    const value: unknown = JSON.parse(text)
    return Value.Check(Progress, value) ? value : null
  } catch {
    return null
  }
}

/** Whether the fetcher has read what its frontend lists, or knows that it cannot: an order without a list is no reason to wait. */
export const isListing = (progress: FetchProgress | null): boolean =>
  progress !== null && (progress.listed > 0 || Object.values(progress.orders).some(({ indexErrors }) => indexErrors.some(({ error }) => ANSWERED.test(error))))
const ANSWERED = /^the frontend answers \d/
