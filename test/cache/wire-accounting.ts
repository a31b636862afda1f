/** What the site's port towards the frontend counted, against what the cache says of itself. */
import { runJson } from '../../agent/exec.ts'

/** Bytes of frames, as the kernel counts them at an interface: what it has put together (GRO) counts as one, with one header. */
export interface WireBytes { received: number, sent: number }

/** What somebody says of them; null: nothing. */
export interface WireSaid { received: number, sent: number | null }

/** The goal of the accounting: this part of what the interface counted may be missing, or be too much. */
export const WIRE_ERROR_MAX = 0.02

/** Counters of a link in a namespace, by default of the segment's port towards the frontend. */
export async function wireBytes (namespace: string, link = 'wan0m'): Promise<WireBytes> {
  const [found] = await runJson('ip', ['-json', '-s', '-n', namespace, 'link', 'show', 'dev', link]) as Array<{ stats64?: { rx: { bytes: number }, tx: { bytes: number } } }>
  if (found?.stats64 === undefined) throw new Error(`ip shows no counters of ${link} in ${namespace}`)
  return { received: found.stats64.rx.bytes, sent: found.stats64.tx.bytes }
}

export const wireDifference = (before: WireBytes, after: WireBytes): WireBytes => ({ received: after.received - before.received, sent: after.sent - before.sent })

/** How far off a statement is, as a part of what was counted: 0 is exact, 0.02 is 2 % too much. */
export function wireError (counted: WireBytes, said: WireSaid): WireSaid {
  const of = (a: number, b: number): number => a === 0 ? (b === 0 ? 0 : Number.POSITIVE_INFINITY) : b / a - 1
  return { received: of(counted.received, said.received), sent: said.sent === null ? null : of(counted.sent, said.sent) }
}
