/**
 * The reference workload: what the original measured, by real HTTP clients at a worker site behind a link with delay and a rate; without a
 * cache, through Squid as the original had it, through ours cold and preheated, in turns. Each part has a site of its own.
 */
import { join } from 'node:path'
import { readPod } from './cache-pod.ts'
import type { Bench, BenchOptions, Figure } from './figures.ts'

const PARTS = ['idle', 'warm', 'delays', 'crowds'] as const

async function * figuresOf (part: typeof PARTS[number], { full = false, alone = false }: BenchOptions): AsyncGenerator<Figure> {
  for await (const line of readPod(join(import.meta.dirname, 'install', 'inside.ts'), [part, ...(full ? ['--full'] : []), ...(alone ? ['--alone'] : [])])) yield JSON.parse(line) as Figure
}

export const benches: Record<string, Bench> = Object.fromEntries(PARTS.map(part => [part, (options: BenchOptions = {}) => figuresOf(part, options)]))
