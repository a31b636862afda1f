import { mkdir } from 'node:fs/promises'
import { createCacheDriver } from '../../agent/drivers/cache/driver.ts'
import { run } from '../../agent/exec.ts'
import { createPidfileServices } from '../../agent/services/pidfile.ts'
import { LAB_SPEC, createCacheLab } from './cache-lab.ts'
import type { CacheLab } from './cache-lab.ts'
import { memoryBytes } from './cache-memory.ts'
import type { Figure } from './figures.ts'

/** The script that runs in the pod: prints one figure a line; `--full` for the large objects. */

const NODES = 8
const MIB = 1024 * 1024
/** Rate of the link while whole downloads are compared; like the reference link. */
const WAN_MBIT_PER_S = 200

interface Round { seconds: number, bytes: number }

/** All nodes fetch at once; the time until the last has all, and what crossed the link. */
async function fetchAll (lab: CacheLab, path: string, bytes: number, nodes = lab.nodes): Promise<Round> {
  const start = await lab.wanBytes()
  const begun = performance.now()
  const answers = await Promise.all(nodes.map(async node => await lab.get(node, path)))
  const seconds = (performance.now() - begun) / 1000
  if (answers.some(answer => answer.bytes !== bytes)) throw new Error('a download was cut short')
  return { seconds, bytes: await lab.wanBytes() - start }
}

function figure (name: string, unit: string, better: Figure['better'], samples: readonly number[], against: { peer?: string, peerSamples?: readonly number[], limit?: number }): Figure {
  const sorted = samples.toSorted((a, b) => a - b)
  const at = (share: number): number => sorted[Math.min(sorted.length - 1, Math.floor(share * sorted.length))] ?? 0
  const peers = (against.peerSamples ?? []).toSorted((a, b) => a - b)
  const peerValue = peers[Math.floor(peers.length / 2)] ?? null
  const value = at(0.5)
  const reference = peerValue ?? against.limit ?? null
  return {
    bench: 'cache',
    figure: name,
    value,
    unit,
    better,
    peer: against.peer ?? null,
    peerValue,
    limit: against.limit ?? null,
    ratio: reference === null ? null : value / reference,
    samples: samples.length,
    p50: value,
    p99: at(0.99)
  }
}

const full = process.argv.includes('--full')
const size = (full ? 250 : 32) * MIB
const rounds = full ? 5 : 3
const print = (one: Figure): void => { process.stdout.write(`${JSON.stringify(one)}\n`) }

const dir = '/run/mz-cache-bench'
await mkdir(dir)
const lab = await createCacheLab(dir, NODES)
try {
  const driver = createCacheDriver({ stateDir: `${dir}/cache`, services: createPidfileServices({ dir: `${dir}/services` }) })
  const on = async (): Promise<void> => await driver.apply('bench', LAB_SPEC, AbortSignal.timeout(60_000))
  const off = async (): Promise<void> => await driver.remove('bench', AbortSignal.timeout(60_000))
  await on()
  print(figure('memory-idle-cache', 'bytes', 'lower', [await memoryBytes()], { limit: 15e6 }))

  const amplification: number[] = []
  const coldS: number[] = []
  const directS: number[] = []
  const warmS: number[] = []
  const lanS: number[] = []
  for (let round = 0; round < rounds; round++) {
    await off()
    await lab.limitWan(WAN_MBIT_PER_S)
    const { path } = await lab.publish(size)
    const one = await fetchAll(lab, path, size, lab.nodes.slice(0, 1))
    directS.push((await fetchAll(lab, path, size)).seconds)
    await on()
    const cold = await fetchAll(lab, path, size)
    amplification.push(cold.bytes / one.bytes)
    coldS.push(cold.seconds)
    warmS.push((await fetchAll(lab, path, size)).seconds)
    await off()
    await lab.limitWan(null)
    lanS.push((await fetchAll(lab, path, size)).seconds)
    await run('rm', ['-rf', `${dir}/www/images`])
    await mkdir(`${dir}/www/images`)
  }
  print(figure('wan-amplification-cold', 'x', 'lower', amplification, { limit: 1.02 }))
  print(figure('cold-all-nodes', 's', 'lower', coldS, { peer: `no cache, ${NODES} nodes, ${WAN_MBIT_PER_S} Mbit/s`, peerSamples: directS }))
  print(figure('warm-all-nodes', 's', 'lower', warmS, { peer: `no cache, ${NODES} nodes, link without limit`, peerSamples: lanS }))
} finally {
  await lab.close()
}
