/**
 * Until when a gateway may forward which segments: the file that its keeper reads, and who may have a
 * term. Pure. All times are milliseconds since the machine has booted (CLOCK_BOOTTIME).
 */
import { FORWARD_CLOCK_OFF_MS, FORWARD_GUARD_MS, FORWARD_TERM_MAX_MS, HELPER_MAX_NAMES } from '../../../../protocol/core/limits.ts'

/** A promise to one holder that nobody else forwards this segment of this site until then. */
export interface ForwardTerm {
  /** of the cluster, on the gateway */
  namespace: string
  /** who forwards; between gateways the gateway, on one gateway the segment's object */
  holder: string
  untilMs: number
}

export type Admission = { admitted: true, untilMs: number } | { admitted: false, by: string, freeAtMs: number }

const HEAD = 'musubi-forward 1'
const LINE = /^(mz-[0-9a-f]{6}) (\d{1,15}) ([A-Za-z0-9][A-Za-z0-9._-]{0,127})$/

/**
 * Whether somebody may forward a segment: its holder always may go on, another one only when the
 * first one's term has run out, and the guard for clocks. So there are never two, whoever lives. A holder
 * that gives up early is dropped by whoever closed its way, before this is asked.
 *
 * @param held the last term that was promised; null: none ever was
 */
export function admitForwarder (held: Pick<ForwardTerm, 'holder' | 'untilMs'> | null, asked: Pick<ForwardTerm, 'holder' | 'untilMs'>, nowMs: number): Admission {
  const freeAtMs = held === null || held.holder === asked.holder ? nowMs : held.untilMs + FORWARD_GUARD_MS
  if (held !== null && freeAtMs > nowMs) return { admitted: false, by: held.holder, freeAtMs }
  return { admitted: true, untilMs: Math.floor(Math.min(asked.untilMs, nowMs + FORWARD_TERM_MAX_MS)) }
}

/**
 * What is promised from now on, of what is wished for. What was promised and nobody wishes for any
 * more is over; who has a segment keeps it from another of the same namespace.
 */
export function nextTerms (held: readonly ForwardTerm[], wished: readonly ForwardTerm[], nowMs: number): ForwardTerm[] {
  const stands = held.filter((one) => one.untilMs > nowMs && wished.some(({ namespace, holder }) => namespace === one.namespace && holder === one.holder))
  const next = new Map(stands.map((one) => [one.namespace, one]))
  for (const { namespace, holder, untilMs } of [...wished].sort((a, b) => a.holder < b.holder ? -1 : 1)) {
    const before = next.get(namespace) ?? null
    const admission = admitForwarder(before, { holder, untilMs }, nowMs)
    if (!admission.admitted) continue
    // the ledger's clock and this one drift: less than this is written down for nothing
    const slackMs = untilMs > nowMs + FORWARD_TERM_MAX_MS ? FORWARD_TERM_MAX_MS / 2 : FORWARD_CLOCK_OFF_MS
    if (before !== null && Math.abs(before.untilMs - admission.untilMs) <= slackMs) continue
    if (admission.untilMs > nowMs) next.set(namespace, { namespace, holder, untilMs: admission.untilMs })
    else next.delete(namespace)
  }
  return [...next.values()].sort((a, b) => a.namespace < b.namespace ? -1 : 1)
}

/** The file that says so; keeper.pl reads it. */
export function renderTerms (bootId: string, terms: readonly ForwardTerm[]): string {
  return [HEAD, `boot ${bootId}`, ...terms.map(({ namespace, untilMs, holder }) => `${namespace} ${untilMs} ${holder}`)].map((line) => `${line}\n`).join('')
}

/** What a file says; nothing when it is of another boot, or a single line of it is not as it should be. */
export function parseTerms (text: string, bootId: string): ForwardTerm[] {
  const [head, boot, ...lines] = text.split('\n')
  if (head !== HEAD || boot !== `boot ${bootId}` || lines.pop() !== '' || lines.length > HELPER_MAX_NAMES) return []
  const terms = lines.map((line): ForwardTerm | null => {
    const [, namespace, until, holder] = LINE.exec(line) ?? []
    return namespace === undefined || until === undefined || holder === undefined ? null : { namespace, untilMs: Number(until), holder }
  })
  const read = terms.filter((term) => term !== null)
  return read.length === terms.length && new Set(read.map(({ namespace }) => namespace)).size === read.length ? read : []
}
