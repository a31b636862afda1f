/** A quote of another site is input: what is made of it must be possible, and must not be more than fits on a screen. */
import { MusubiError } from '../errors.ts'
import { MAX_BANDWIDTH_MBIT, MAX_MEMORY_MIB_PER_NODE, MAX_PRICE_MILLI, MAX_QUOTE_REASONS, MAX_QUOTE_TEXT, MAX_TERM_MS, MAX_VCPUS_PER_NODE } from '../limits.ts'
import type { Quote, QuoteReason } from './quote.ts'

/** As on the wire: 0 where `Quote` has null. */
export interface QuoteMessage {
  site: string
  nowMs: number
  taken: boolean
  reasons: QuoteReason[]
  priceMilli: number
  totalMilli: number
  nodes: number
  earliestMs: number
  vcpus: number
  memoryMib: number
  wanMbit: number
}

const CODE = /^[A-Z][A-Z_]{0,63}$/
/** What moves a cursor, or hides: not in a line for people. */
const UNSEEN = /[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]+/gu

const within = (value: number, least: number, most: number): boolean => Number.isSafeInteger(value) && value >= least && value <= most

export const toMessage = (site: string, nowMs: number, { earliestMs, shape, taken, reasons, priceMilli, totalMilli, nodes, wanMbit }: Quote): QuoteMessage =>
  ({ site, nowMs, taken, reasons, priceMilli, totalMilli, nodes, wanMbit, earliestMs: earliestMs ?? 0, vcpus: shape?.vcpus ?? 0, memoryMib: shape?.memoryMib ?? 0 })

function problemOf (reply: QuoteMessage, asked: { site: string, nodes: number, startMs: number }): string | null {
  const { taken, reasons, nodes, earliestMs, vcpus, memoryMib } = reply
  const checks: ReadonlyArray<readonly [boolean, string]> = [
    [reply.site === asked.site, 'it speaks for another site'],
    [reasons.length <= MAX_QUOTE_REASONS && reasons.every(({ code }) => CODE.test(code)), 'its reasons are too many, or have no code'],
    [taken ? reasons.length === 0 : reasons.length > 0, 'it does not say why, or why not'],
    [within(nodes, 0, asked.nodes) && (taken ? nodes === asked.nodes : nodes < asked.nodes || nodes === 0), 'its number of nodes contradicts it'],
    [within(reply.priceMilli, 0, MAX_PRICE_MILLI) && within(reply.totalMilli, 0, Number.MAX_SAFE_INTEGER), 'its price is none'],
    [earliestMs === 0 || within(earliestMs, 0, asked.startMs + 2 * MAX_TERM_MS), 'its earliest start is no time'],
    [(vcpus === 0 && memoryMib === 0) || (within(vcpus, 1, MAX_VCPUS_PER_NODE) && within(memoryMib, 1, MAX_MEMORY_MIB_PER_NODE)), 'its shape is none'],
    [within(reply.wanMbit, 0, MAX_BANDWIDTH_MBIT), 'its bandwidth is none']
  ]
  return checks.find(([ok]) => !ok)?.[1] ?? null
}

/**
 * What a site has said, made safe to show.
 *
 * @param asked of whom, for how many nodes, from when
 * @throws MusubiError BAD_OFFER
 */
export function quoteOf (reply: QuoteMessage, asked: { site: string, nodes: number, startMs: number }): Quote {
  const problem = problemOf(reply, asked)
  if (problem !== null) throw new MusubiError('BAD_OFFER', `the quote of site ${asked.site} is refused: ${problem}`, { hint: 'its agent may be of another release' })
  const { taken, priceMilli, totalMilli, nodes, earliestMs, vcpus, memoryMib, wanMbit } = reply
  return {
    taken, priceMilli, totalMilli, nodes, wanMbit,
    reasons: reply.reasons.map(({ code, message }) => ({ code, message: message.slice(0, MAX_QUOTE_TEXT).toWellFormed().replace(UNSEEN, ' ') })),
    earliestMs: earliestMs === 0 ? null : earliestMs,
    shape: vcpus === 0 ? null : { vcpus, memoryMib }
  }
}
