/** Measures a victim and those who call it honestly while something is done to it. */
import { setTimeout as sleep } from 'node:timers/promises'
import type { Test } from 'tap'
import type { Member } from '../../mesh/federation.ts'

const MIB = 1024 * 1024
export const MAX_GROWTH_BYTES = 64 * MIB
/** The aim is 2; other processes share the machine with a test. */
const MAX_RATIO = 5
/** What is faster than this is fast, whatever it was before. */
const FAST_MS = 50

export interface Figures { readonly p50: number, readonly p99: number, readonly calls: number, readonly failed: number, readonly peakBytes: number }

const percentile = (sorted: readonly number[], part: number): number => sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * part))] ?? 0

/** Calls the victim again and again, as an honest peer, until `work` has ended, and at least 50 times. */
export async function during (victim: Member, honest: Member, work: () => Promise<unknown>): Promise<Figures> {
  const attack: { over: boolean, failure: unknown } = { over: false, failure: null }
  const done = work().catch((error: unknown) => { attack.failure = error }).finally(() => { attack.over = true })
  const times: number[] = []
  let failed = 0
  let peakBytes = 0
  while (!attack.over || times.length + failed < 50) {
    const { ms, errors } = await honest.ask('call', { peerId: victim.peerId, clusterId: 'are you there' })
    if (errors.length === 0) times.push(ms)
    else failed++
    if (times.length % 10 === 0) peakBytes = Math.max(peakBytes, await victim.ask('memory', null))
    await sleep(10)
  }
  await done
  if (attack.failure !== null) throw attack.failure instanceof Error ? attack.failure : new Error('the attack failed')
  times.sort((a, b) => a - b)
  return { p50: percentile(times, 0.5), p99: percentile(times, 0.99), calls: times.length, failed, peakBytes: Math.max(peakBytes, await victim.ask('memory', null)) }
}

/** Attacks while an honest peer calls: all its calls succeed, about as fast as before, and the victim keeps its size. */
export async function withstand (t: Test, what: string, { victim, honest, before }: { victim: Member, honest: Member, before: Figures }, attack: () => Promise<unknown>): Promise<void> {
  const fromBytes = await victim.ask('memory', null)
  const figures = await during(victim, honest, attack)
  const ratio = figures.p99 / before.p99
  const growth = figures.peakBytes - fromBytes
  t.comment(`${what}: p99 ${figures.p99.toFixed(1)} ms over ${figures.calls} calls, ${ratio.toFixed(2)} x what it was${ratio > 2 ? ' (the aim is 2)' : ''}; p50 ${figures.p50.toFixed(1)} ms; memory ${growth < 0 ? '' : '+'}${(growth / MIB).toFixed(1)} MiB`)
  t.equal(figures.failed, 0, `${what}: every honest call is answered`)
  t.ok(figures.p99 <= MAX_RATIO * Math.max(before.p99, FAST_MS), `${what}: and in time: p99 ${figures.p99.toFixed(1)} ms, ${before.p99.toFixed(1)} ms before`)
  t.ok(growth <= MAX_GROWTH_BYTES, `${what}: it grows by ${(growth / MIB).toFixed(1)} MiB, at most 64`)
}
