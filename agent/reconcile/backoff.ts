import type { Action } from './diff.ts'
import { fingerprint } from '../fingerprint.ts'

/** The first pause after a failure, and the longest, ms; each failure in a row doubles it. */
export const BACKOFF_MIN_MS = 1_000
export const BACKOFF_MAX_MS = 60_000
/** Somebody waits for a removal: it is tried again sooner, unless each try takes long. */
export const REMOVE_BACKOFF_MAX_MS = 10_000
/** What was made without an error, and still does not work, is made again this often without a pause. */
const FREE_TRIES = 3

interface Entry {
  /** what was tried: another spec, or a removal instead of an apply, starts anew */
  print: string
  failures: number
  /** tries without an error after which it still had to be done */
  fruitless: number
  dueMs: number
}

/** When to try again what failed, object by object. */
export interface Backoff {
  isDue (action: Action): boolean
  /** Time at which a try starts, to be given to `failed`. */
  start (): number
  failed (action: Action, startedMs: number): void
  succeeded (action: Action): void
  /** Forgets everything but what still has to be done. */
  keep (actions: readonly Action[]): void
  /** Milliseconds until the next pause is over; 0 without any. */
  nextDueMs (): number
}

/** @param monotonic milliseconds */
export function createBackoff (monotonic: () => number): Backoff {
  const entries = new Map<string, Entry>()
  const keyOf = ({ kind, name }: Action): string => `${kind}/${name}`
  const printOf = (action: Action): string => action.op === 'apply' ? `apply ${fingerprint(action.spec)}` : 'remove'

  function current (action: Action): Entry {
    const entry = entries.get(keyOf(action))
    const print = printOf(action)
    if (entry?.print === print) return entry
    const fresh: Entry = { print, failures: 0, fruitless: 0, dueMs: -Infinity }
    entries.set(keyOf(action), fresh)
    return fresh
  }

  const pause = (tries: number, mostMs: number): number => Math.min(mostMs, BACKOFF_MIN_MS * 2 ** Math.min(tries - 1, 10))

  return {
    isDue: action => monotonic() >= current(action).dueMs,
    start: monotonic,
    failed (action, startedMs) {
      const entry = current(action)
      const tookMs = monotonic() - startedMs
      const pauseMs = pause(++entry.failures, action.op === 'remove' ? REMOVE_BACKOFF_MAX_MS : BACKOFF_MAX_MS)
      // What takes long to fail would otherwise take most of the time of all others.
      entry.dueMs = monotonic() + Math.min(BACKOFF_MAX_MS, Math.max(pauseMs, tookMs))
    },
    succeeded (action) {
      const entry = current(action)
      entry.failures = 0
      if (++entry.fruitless >= FREE_TRIES) entry.dueMs = monotonic() + pause(entry.fruitless - FREE_TRIES + 1, BACKOFF_MAX_MS)
    },
    keep (actions) {
      const left = new Set(actions.map(keyOf))
      for (const key of entries.keys()) if (!left.has(key)) entries.delete(key)
    },
    nextDueMs () {
      const pauses = [...entries.values()].map(entry => entry.dueMs - monotonic()).filter(ms => ms > 0)
      return pauses.length === 0 ? 0 : Math.min(...pauses)
    }
  }
}
