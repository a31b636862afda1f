/**
 * Cache figures, measured in a pod of its own: what the link carries for eight cold nodes against
 * one direct download, the time of all nodes cold and warm against the same without a cache, and
 * the memory of an idle cache. Columns of one round follow one another directly.
 */
import { join } from 'node:path'
import { readPod } from './cache-pod.ts'
import type { Figure } from './figures.ts'

export const benches: Record<string, (options?: { full?: boolean }) => AsyncIterable<Figure>> = {
  async * cache ({ full = false } = {}) {
    for await (const line of readPod(join(import.meta.dirname, 'cache-figures.ts'), full ? ['--full'] : [])) yield JSON.parse(line) as Figure
  }
}
