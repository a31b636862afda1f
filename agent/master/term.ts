import { InvalidInputError } from '../../protocol/core/errors.ts'
import { MAX_TERM_MS, MIN_TERM_MS } from '../../protocol/core/limits.ts'
import type { Earliest } from '../../protocol/core/master/record.ts'
import type { ClusterSpec } from '../../protocol/core/spec.ts'

/** When a cluster is wanted, as whoever asks says beside its specification, which has `start`, `end` and `term` of its own. Unix ms, or ms. */
export interface When {
  startMs?: number
  endMs?: number
  /** how long, instead of an end */
  forMs?: number
  /** as early as it can be, no sooner than the start */
  earliest?: boolean
  /** how long after the start, or after now, it begins at the latest */
  withinMs?: number
}

/** `endMs` of one that has to look for its start: as if that were `startMs`. */
export interface Term { startMs: number, endMs: number, earliest?: Earliest }

/** A start so little in the past was meant as now: it was typed, or sent, some time ago. */
const PAST_START_MS = 60_000
const days = (ms: number): string => `${ms / 86_400_000} days`
const at = (ms: number): string => new Date(ms).toISOString().replace('.000Z', 'Z')

/**
 * When a cluster is to begin and to end.
 *
 * @param now ledger clock, Unix ms
 * @throws InvalidInputError: a start in the past, an end before the start, a term or a start beyond the limits, words that contradict each other
 */
export function termOf (spec: Pick<ClusterSpec, 'name' | 'termMs' | 'startMs' | 'endMs'>, when: When, now: number): Term {
  const refuse = (why: string, hint?: string): never => { throw new InvalidInputError(`cluster ${spec.name}: ${why}`, hint) }
  const earliest = when.earliest === true
  if (when.endMs !== undefined && when.forMs !== undefined) refuse('its end and how long it lasts are both given', 'give one of --end and --for')
  if (when.withinMs !== undefined && !earliest) refuse('a bound for the earliest start is given, and no earliest start is asked for', '--within goes with --earliest')
  if (when.withinMs !== undefined && when.withinMs > MAX_TERM_MS) refuse(`its start is to be found within ${days(when.withinMs)}, at most ${days(MAX_TERM_MS)} are looked at`)
  const wanted = when.startMs ?? spec.startMs
  const end = when.endMs ?? (when.forMs === undefined ? spec.endMs : undefined)
  if (earliest && end !== undefined) refuse('it cannot both begin as early as it can and end at a fixed time', 'say how long it lasts: --for, or spec.term')
  if (wanted !== undefined && wanted < now - PAST_START_MS) refuse(`it is to start at ${at(wanted)}, which is ${Math.round((now - wanted) / 1000)} s in the past`, 'leave the start out to begin now')
  const startMs = Math.max(now, wanted ?? now)
  if (startMs > now + MAX_TERM_MS) refuse(`it is to start at ${at(startMs)}, more than ${days(MAX_TERM_MS)} from now`)
  if (end !== undefined && end <= startMs) refuse(`it is to end at ${at(end)}, ${end <= now ? 'which is in the past' : `before it starts, at ${at(startMs)}`}`)
  const term = end === undefined ? when.forMs ?? spec.termMs : end - startMs
  if (term < MIN_TERM_MS || term > MAX_TERM_MS) refuse(`it is to last ${term / 1000} s: a term is ${MIN_TERM_MS / 1000} s to ${days(MAX_TERM_MS)}`)
  return { startMs, endMs: startMs + term, ...earliest ? { earliest: { fromMs: startMs, latestMs: startMs + (when.withinMs ?? MAX_TERM_MS) } } : {} }
}
