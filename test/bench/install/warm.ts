/** What a full cache delivers, against an nginx at its place that has the files on disk. */
import type { Figure } from '../figures.ts'
import { round, spread } from '../figures.ts'
import type { Reporter } from './delays.ts'
import type { InstallSite, Measured } from './site.ts'

const WARM_TURNS = 5
/** The rate inside the site is that of plain transfers of so many nodes: more would take minutes at the original's sizes. */
const LAN_NODES_MAX = 16
const LAN_TURNS = 3

/** Of two it is the one between them. */
export const median = (samples: readonly number[]): number => round(((sorted: readonly number[]) => ((sorted[Math.floor((sorted.length - 1) / 2)] ?? 0) + (sorted[Math.floor(sorted.length / 2)] ?? 0)) / 2)(samples.toSorted((a, b) => a - b)))

/** The same files from a warm cache and from an nginx that has them on disk, in turns. */
export async function * warmFigures (site: InstallSite, { failed }: Reporter): AsyncGenerator<Figure> {
  await site.preheated()
  const nodes = site.lab.nodes.slice(0, LAN_NODES_MAX)
  const { base, stop } = await site.bare()
  const [warm, bare]: [Measured[], Measured[]] = [[], []]
  try {
    for (let turn = 0; turn <= WARM_TURNS; turn++) {
      const [a, b] = [await site.fetchAll(nodes), await site.fetchAll(nodes, base)]
      failed('preheated', a.failures)
      failed('none', b.failures)
      // the first of each fills what the kernel keeps
      if (turn > 0) { warm.push(a); bare.push(b) }
    }
  } finally {
    stop()
  }
  const bytes = site.workload.bytes * nodes.length
  const [ours, theirs] = [warm, bare].map(runs => runs.map(run => run.seconds)) as [number[], number[]]
  const ratios = ours.map((one, i) => (theirs[i] ?? Number.NaN) / one)
  yield { bench: 'install', figure: 'warm-vs-bare-nginx', value: median(ratios), unit: 'x', better: 'higher', peer: 'nginx with the files on disk, same place', peerValue: round(bytes / median(theirs) / 1e6), limit: 0.95, ratio: round(median(ratios) / 0.95), ...spread(ratios), note: `throughput, turn by turn; peerValue in MB/s; ours ${round(bytes / median(ours) / 1e6)} MB/s` }
  const [oursCpu, theirsCpu] = [warm, bare].map(runs => runs.map(run => run.siteCpuSeconds)) as [number[], number[]]
  const cpu = oursCpu.map((one, i) => (theirsCpu[i] ?? Number.NaN) / one)
  yield { bench: 'install', figure: 'warm-vs-bare-nginx-cpu', value: median(cpu), unit: 'x', better: 'higher', peer: 'nginx with the files on disk, same place', peerValue: round(bytes / median(theirsCpu) / 1e6), limit: null, ratio: null, ...spread(cpu), note: `bytes for a second of processor time of all programs at this place, turn by turn: other work on the machine disturbs it less; peerValue in MB/s; ours ${round(bytes / median(oursCpu) / 1e6)} MB/s` }
}

/** Bytes a second that nodes get of the site's own nginx, at its best. */
export async function lanRate (site: InstallSite, { failed }: Reporter): Promise<number> {
  await site.off()
  const nodes = site.lab.nodes.slice(0, LAN_NODES_MAX)
  const { base, stop } = await site.bare()
  try {
    let best = 0
    for (let turn = 0; turn < LAN_TURNS; turn++) {
      const { seconds, failures } = await site.fetchAll(nodes, base)
      failed('none', failures)
      best = Math.max(best, site.workload.bytes * nodes.length / seconds)
    }
    return best
  } finally {
    stop()
  }
}
