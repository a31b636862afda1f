/** Ids handed out from a slice that belongs to one gateway alone, e.g. segment ids of a site. */

/** Both ends belong to it. */
export interface Slice { from: number, to: number }

/** An id that cannot be given out: for ever (`Infinity`, in use) or until a moment (quarantine). */
export interface IdUse { id: number, untilMs: number }

export const inSlice = (slice: Slice, id: number): boolean => Number.isInteger(id) && id >= slice.from && id <= slice.to

export const isFree = (id: number, uses: Iterable<IdUse>, nowMs: number): boolean => {
  for (const use of uses) if (use.id === id && use.untilMs > nowMs) return false
  return true
}

/** The lowest id of the slice that nobody has and that is not in quarantine; null when there is none. */
export function allocateId (slice: Slice, uses: Iterable<IdUse>, nowMs: number): number | null {
  const taken = new Set<number>()
  for (const use of uses) if (use.untilMs > nowMs) taken.add(use.id)
  for (let id = slice.from; id <= slice.to; id++) if (!taken.has(id)) return id
  return null
}
