/** `in-process-N`: N members in one process, so one thread does the work of all; how it grows with N. */
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { describeError } from '../../protocol/core/errors.ts'
import { alone, percentile, type BenchOptions, type Figure } from './figures.ts'
import { runMany } from './mesh-update.ts'

async function * many ({ full = false }: BenchOptions = {}): AsyncGenerator<Figure> {
  const cacheDir = await mkdtemp(join(tmpdir(), 'musubi-bench-'))
  try {
    for (const count of full ? [10, 50, 100, 200] : [10, 50, 100]) {
      const result = await runMany(cacheDir, { count, updates: full ? 50 : 15 }, []).catch((error: unknown) => {
        process.stderr.write(`in-process-${count} has no figures: ${describeError(error)}\n`)
        return null
      })
      if (result === null) continue
      const { connectedMs, completeMs, updatesMs, deliveries, expected, rssMiB, heapMiB } = result
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
