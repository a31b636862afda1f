/** A calendar as it would be without some of its promises. */
import { accumulate, type Resources } from '../capacity.ts'
import type { Booking } from './free.ts'
import type { FreeStep } from './timeline.ts'

/**
 * What a host would have free over time if some bookings were not there.
 *
 * @param steps in order; the first holds from ever
 * @returns steps in order, from the same moment on
 */
export function freedBy (steps: readonly FreeStep[], bookings: readonly Booking[]): FreeStep[] {
  const [first] = steps
  if (first === undefined || bookings.length === 0) return [...steps]
  const inside = bookings.flatMap(({ fromMs, untilMs }) => [fromMs, untilMs]).filter(atMs => atMs > first.atMs)
  const moments = [...new Set([...steps.map(({ atMs }) => atMs), ...inside])].sort((a, b) => a - b)
  let next = 0
  let known: Resources = first.free
  return moments.map(atMs => {
    for (let step = steps[next]; step !== undefined && step.atMs <= atMs; step = steps[++next]) known = step.free
    const free = { ...known }
    for (const { fromMs, untilMs, resources } of bookings) if (fromMs <= atMs && atMs < untilMs) accumulate(free, resources, 1)
    return { atMs, free }
  })
}
