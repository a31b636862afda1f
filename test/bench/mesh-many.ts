/** `in-process-N`: N members in one process, so one thread does the work of all; how it grows with N. */
import { once } from 'node:events'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { alone, percentile, type BenchOptions, type Figure } from './figures.ts'
import type { ManyResult, News } from './mesh-member.ts'
import { endChild, forkMember } from './mesh-update.ts'

async function run (cacheDir: string, count: number, updates: number): Promise<ManyResult> {
  const { child, order } = forkMember(cacheDir, () => undefined)
  try {
    order({ op: 'many', plan: { count, updates } })
    const [news] = await Promise.race([once(child, 'message') as Promise<[News]>, once(child, 'exit').then((): [News] => [{ kind: 'failed', why: 'it ended' }])])
    if (news.kind !== 'many') throw new Error(`${count} members in one process: ${news.kind === 'failed' ? news.why : news.kind}`)
    return news.result
  } finally {
    child.kill('SIGKILL')
    await endChild(child)
  }
}

async function * many ({ full = false }: BenchOptions = {}): AsyncGenerator<Figure> {
  const cacheDir = await mkdtemp(join(tmpdir(), 'musubi-bench-'))
  try {
    for (const count of full ? [10, 50, 100, 200] : [10, 50, 100]) {
      const { connectedMs, completeMs, updatesMs, deliveries, expected, rssMiB, heapMiB } = await run(cacheDir, count, full ? 50 : 15)
      const bench = `in-process-${count}`
      yield alone({ bench, figure: 'all connected', value: connectedMs, unit: 'ms', better: 'lower' }, [connectedMs])
      yield alone({ bench, figure: 'all know each other', value: completeMs, unit: 'ms', better: 'lower' }, [completeMs])
      yield alone({ bench, figure: 'change of one to the last, p99', value: percentile(updatesMs, 0.99), unit: 'ms', better: 'lower' }, updatesMs)
      yield alone({ bench, figure: 'part of updates that arrived', value: deliveries / expected, unit: '', better: 'higher', limit: 1 }, [deliveries / expected])
      yield alone({ bench, figure: 'RSS per member', value: rssMiB, unit: 'MiB', better: 'lower' }, [rssMiB])
      yield alone({ bench, figure: 'V8 heap per member, after a collection', value: heapMiB, unit: 'MiB', better: 'lower' }, [heapMiB])
    }
  } finally {
    await rm(cacheDir, { recursive: true, force: true })
  }
}

export const benches = { 'in-process': many }
