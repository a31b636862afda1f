/** A host's promises over time. Intervals are half open: [fromMs, untilMs). */
import { type Resources, accumulate, lower } from '../capacity.ts'

export interface Booking { resources: Resources, fromMs: number, untilMs: number }

/**
 * The least that is free at any moment of [fromMs, untilMs); below zero where more is promised
 * than there is (an operator may shrink a host).
 */
export function freeDuring (capacity: Resources, bookings: Iterable<Booking>, fromMs: number, untilMs: number): Resources {
  const free = { ...capacity }
  const changes: Array<{ atMs: number, starts: boolean, resources: Resources }> = []
  for (const { resources, fromMs: from, untilMs: until } of bookings) {
    if (until <= fromMs || from >= untilMs || until <= from) continue
    if (from <= fromMs) accumulate(free, resources, -1)
    else changes.push({ atMs: from, starts: true, resources })
    if (until < untilMs) changes.push({ atMs: until, starts: false, resources })
  }
  const least = { ...free }
  if (changes.length === 0) return least
  // At one moment what ends goes first: the next booking may begin where this one ends.
  changes.sort((a, b) => a.atMs - b.atMs || Number(a.starts) - Number(b.starts))
  for (const { starts, resources } of changes) {
    accumulate(free, resources, starts ? -1 : 1)
    if (starts) lower(least, free)
  }
  return least
}
