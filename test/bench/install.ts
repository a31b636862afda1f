/**
 * The reference workload: what the original measured, by real HTTP clients at a worker site behind a link with delay and a rate; without a
 * cache, through Squid as the original had it, through ours cold and preheated, in turns.
 */
import { join } from 'node:path'
import { readPod } from './cache-pod.ts'
import type { BenchOptions, Figure } from './figures.ts'

export const benches: Record<string, (options?: BenchOptions) => AsyncIterable<Figure>> = {
  async * install ({ full = false } = {}) {
    for await (const line of readPod(join(import.meta.dirname, 'install', 'inside.ts'), full ? ['--full'] : [])) yield JSON.parse(line) as Figure
  }
}
