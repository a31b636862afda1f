/** From desired state to the first answer between the two nodes that are farthest apart, and many segments on one gateway. */
import { type BenchOptions, type Figure, alone } from './figures.ts'
import { addNode, nodeAddressOf, nodeSpace, segmentsOf, startSites, tunnelsOf } from './network-sites.ts'
import type { Sites } from './network-sites.ts'

const VNI = 0x201
const SEGMENTS = 50

/** Nothing of ours is left on the gateways, so that the next round begins anew. */
async function clear ({ pods }: Sites, vni: number): Promise<void> {
  await Promise.all(pods.map(async pod => {
    await pod.run('ip', ['netns', 'delete', nodeSpace(vni)])
    await pod.remove('segment', `c${vni}`)
    await pod.remove('tunnel', 'wg')
  }))
}

/** Every gateway gets tunnel and segment and a node at the same time, as their agents do by themselves. */
async function firstPing (sites: Sites): Promise<number> {
  const { pods } = sites
  const [tunnels, segments] = [await tunnelsOf(sites), segmentsOf(pods.length, VNI)]
  const [first] = pods
  const begun = performance.now()
  await Promise.all(pods.map(async (pod, site) => {
    await pod.apply('tunnel', 'wg', tunnels[site])
    await pod.apply('segment', `c${VNI}`, segments[site])
    await addNode(pod, VNI, site)
  }))
  for (let tries = 0; tries < 300; tries++) {
    const answered = (await first?.run('ping', ['-n', '-c', '1', '-W', '0.1', nodeAddressOf(pods.length - 1)], { netns: nodeSpace(VNI) }))?.exitCode === 0
    if (answered) return performance.now() - begun
  }
  throw new Error('the last site was not reached')
}

async function * setup (count: number, limitMs: number, full: boolean): AsyncGenerator<Figure> {
  const sites = await startSites(count)
  try {
    const samples: number[] = []
    for (let turn = 0; turn < (full ? 9 : 3); turn++) {
      samples.push(await firstPing(sites))
      await clear(sites, VNI)
    }
    samples.sort((a, b) => a - b)
    yield alone({ bench: 'network', figure: `setup-${count}-sites`, value: samples[Math.floor(samples.length / 2)] ?? Number.NaN, unit: 'ms', better: 'lower', limit: limitMs }, samples)
  } finally {
    await sites.stop()
  }
}

async function * many ({ full = false }: BenchOptions = {}): AsyncGenerator<Figure> {
  const sites = await startSites(2)
  try {
    const [tunnels, [gateway]] = [await tunnelsOf(sites), sites.pods]
    if (gateway === undefined) throw new Error('no pods')
    const samples: number[] = []
    for (let turn = 0; turn < (full ? 5 : 1); turn++) {
      const begun = performance.now()
      await gateway.apply('tunnel', 'wg', tunnels[0])
      for (let i = 0; i < SEGMENTS; i++) await gateway.apply('segment', `c${VNI + i}`, segmentsOf(2, VNI + i)[0])
      samples.push(performance.now() - begun)
      for (let i = 0; i < SEGMENTS; i++) await gateway.remove('segment', `c${VNI + i}`)
      await gateway.remove('tunnel', 'wg')
    }
    samples.sort((a, b) => a - b)
    yield alone({ bench: 'network', figure: `setup-${SEGMENTS}-segments`, value: samples[Math.floor(samples.length / 2)] ?? Number.NaN, unit: 'ms', better: 'lower', limit: 10_000 }, samples)
  } finally {
    await sites.stop()
  }
}

export const benches: Record<string, (options?: BenchOptions) => AsyncIterable<Figure>> = {
  'setup-2-sites': ({ full = false } = {}) => setup(2, 1_000, full),
  'setup-10-sites': ({ full = false } = {}) => setup(10, 3_000, full),
  'setup-50-segments': many
}
