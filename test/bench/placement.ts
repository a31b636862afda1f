/**
 * `placement`: VMs placed within a site, on a hundred instances of a fixed seed, against the optimum
 * that HiGHS proves and against Ganeti's hail; and how long a decision takes. Each VM counts as one.
 */
import { type Resources, zero } from '../../protocol/core/capacity.ts'
import { placeAtSite } from '../../protocol/core/placement/at-site.ts'
import { NOWHERE } from '../../protocol/core/placement/packing.ts'
import { placeMost } from '../../protocol/core/placement/place-most.ts'
import { alone, percentile, round, spread, type Bench, type BenchOptions, type Figure } from './figures.ts'
import { instances, random, type Instance } from './placement-instances.ts'
import { hailManyMs, hailPlaced, hailStartMs, optima } from './placement-peers.ts'

const OF_OPTIMUM = 0.98
const OF_HAIL = 1.03
const TIME_OF_HAIL = 0.1
const P99_MS = 5
/** HiGHS for each instance; where it has not closed the gap by then, its bound counts as the optimum. */
const SECONDS = 10
/** Of each request: on a machine that others use too, what one run takes says how busy they are. */
const RUNS = 5
const BENCH = 'placement'

const place = ({ hosts, vms }: Pick<Instance, 'hosts' | 'vms'>): Int32Array => placeMost(vms, hosts.map(free => ({ free, taken: 0 })), { rule: 'pack', maxPerBin: Infinity })

/** How many are placed; throws where a host would be overcommitted, so that no figure is made of that. */
function placed (instance: Instance): number {
  const at = place(instance)
  for (const [h, host] of instance.hosts.entries()) {
    for (const field of ['vcpus', 'memoryMib', 'diskMib'] as const) {
      const sum = instance.vms.reduce((total, vm, i) => total + (at[i] === h ? vm[field] : 0), 0)
      if (sum > host[field]) throw new Error(`host ${h} has ${host[field]} ${field}, ${sum} were placed`)
    }
  }
  return at.filter(bin => bin !== NOWHERE).length
}

const total = (counts: readonly number[]): number => counts.reduce((a, b) => a + b, 0)

async function * optimum ({ full = false }: BenchOptions = {}): AsyncGenerator<Figure> {
  const all = instances()
  const best = await optima(all, full ? 6 * SECONDS : SECONDS)
  const own = all.map(placed)
  const bounds = best.map(({ bound }) => bound)
  const ratios = own.map((count, i) => count / (bounds[i] ?? count))
  const proved = best.filter(({ found, bound }, i) => bound === Math.max(found, all[i]?.perfect === true ? bound : 0)).length
  const value = total(own) / total(bounds)
  yield {
    bench: BENCH, figure: 'vs-optimum', value: round(value), unit: 'part', better: 'higher', peer: 'HiGHS (scipy.optimize.milp)', peerValue: total(bounds), limit: OF_OPTIMUM, ratio: round(value / OF_OPTIMUM), ...spread(ratios),
    note: `VMs of all ${all.length} instances, ${total(own)} of ${total(bounds)}; ${proved} optima proved or planted, of the others the bound of HiGHS after ${full ? 6 * SECONDS : SECONDS} s, where its own best is ${total(best.map(({ found }) => found))} in all; worst instance ${round(Math.min(...ratios))}`
  }
  for (const family of new Set(all.map(one => one.family))) {
    const of = (counts: readonly number[]): number => total(counts.filter((_, i) => all[i]?.family === family))
    yield { ...alone({ bench: BENCH, figure: `vs-optimum, ${family}`, value: of(own) / of(bounds), unit: 'part', better: 'higher' }, ratios.filter((_, i) => all[i]?.family === family)), peer: 'HiGHS', peerValue: of(bounds) }
  }
}

/** By what a VM needs of all there is, each dimension weighed by how scarce it is. */
function bySize ({ hosts, vms }: Instance): number[] {
  const fields = ['vcpus', 'memoryMib', 'diskMib'] as const
  const weights = fields.map(field => total(vms.map(vm => vm[field])) / total(hosts.map(host => host[field])) ** 2)
  const size = (vm: Resources): number => total(fields.map((field, d) => vm[field] * (weights[d] ?? 0)))
  return vms.map((_, i) => i).sort((a, b) => size(vms[b] as Resources) - size(vms[a] as Resources) || a - b)
}

function * hail (): Generator<Figure> {
  const all = instances()
  const own = all.map(placed)
  const counts: Record<'given' | 'largest' | 'smallest', number[]> = { given: [], largest: [], smallest: [] }
  for (const instance of all) {
    const { hosts, vms } = instance
    const down = bySize(instance)
    counts.given.push(hailPlaced(hosts, vms, vms.map((_, i) => i)).length)
    counts.largest.push(hailPlaced(hosts, vms, down).length)
    counts.smallest.push(hailPlaced(hosts, vms, down.toReversed()).length)
  }
  const bestOf = all.map((_, i) => Math.max(counts.given[i] ?? 0, counts.largest[i] ?? 0, counts.smallest[i] ?? 0))
  for (const [order, peer] of [['in the order given', counts.given], ['in the best of three orders', bestOf]] as const) {
    const value = total(own) / total(peer)
    yield {
      bench: BENCH, figure: `vs-hail, ${order}`, value: round(value), unit: 'x', better: 'higher', peer: 'hail of Ganeti 3.0', peerValue: total(peer), limit: OF_HAIL, ratio: round(value / OF_HAIL), ...spread(own.map((count, i) => count / (peer[i] ?? count))),
      note: `VMs placed, ${total(own)} to ${total(peer)}; hail one VM a call, --no-capacity-checks, no memory reserved, policy without limits, 1 MiB more on each host${order === 'in the order given' ? '' : `; largest first ${total(counts.largest)}, smallest first ${total(counts.smallest)}`}`
    }
  }
}

/** On some instances of each family: hail has to be asked VM by VM first, for those that it takes. */
function * decision ({ full = false }: BenchOptions = {}): Generator<Figure> {
  const all = instances().filter((_, i) => full || i < 20)
  const [ours, theirs, starts]: [number[], number[], number[]] = [[], [], []]
  for (let warm = 0; warm < 10; warm++) all.forEach(place)
  for (const instance of all) {
    const { hosts, vms } = instance
    const given = hailPlaced(hosts, vms, vms.map((_, i) => i))
    // In turns, on the same machine in the same moment; the least of some runs, as others work here too.
    const runs = Array.from({ length: RUNS }, () => {
      const [startMs, manyMs, from] = [hailStartMs(), hailManyMs(hosts, vms, given), performance.now()]
      place(instance)
      return { startMs, manyMs, ownMs: performance.now() - from }
    })
    const least = (of: 'startMs' | 'manyMs' | 'ownMs'): number => Math.min(...runs.map(run => run[of]))
    starts.push(least('startMs'))
    theirs.push(Math.max(0, least('manyMs') - least('startMs')) / given.length)
    ours.push(least('ownMs') / vms.length)
  }
  const [value, peerValue] = [percentile(ours, 0.5), percentile(theirs, 0.5)]
  yield {
    bench: BENCH, figure: 'decision-vs-hail', value: round(1000 * value), unit: 'us', better: 'lower', peer: 'hail, all VMs that it takes in one process, less its start', peerValue: round(1000 * peerValue), limit: round(1000 * peerValue * TIME_OF_HAIL), ratio: round(value / peerValue), ...spread(ours.map(ms => 1000 * ms)),
    note: `per VM, medians over ${all.length} instances, each the least of ${RUNS} runs; start and end of hail ${percentile(starts, 0.5)} ms more, for each VM in production; its JSON is read once for all; goal: ratio at most ${TIME_OF_HAIL}`
  }
}

/** A cluster of 200 nodes on 1,000 hosts of a site, which is the largest that there is. */
function * large ({ full = false }: BenchOptions = {}): Generator<Figure> {
  const next = random(7)
  const upTo = (n: number): number => 1 + Math.floor(next() * n)
  const hosts = Array.from({ length: 1000 }, (_, h) => ({ host: `h${String(h).padStart(4, '0')}`, roles: ['compute', 'storage', ...h % 50 === 0 ? ['gateway'] : []], free: { ...zero(), vcpus: upTo(64), memoryMib: upTo(256) * 1024, diskMib: upTo(2000) * 1024, volumes: 64 } }))
  const nodes = (n: number, own: (i: number) => { vcpus: number, memoryMib: number }): Array<{ name: string, vcpus: number, memoryMib: number }> => Array.from({ length: n }, (_, i) => ({ name: `n${i}`, ...own(i) }))
  const volumes = Array.from({ length: 8 }, (_, i) => ({ name: `v${i}`, sizeMib: 10_240 * (1 + i), node: `n${i}` }))
  const cases = [
    { figure: 'p99-1000-hosts', spread: false, shape: (n: number) => { const one = { vcpus: 1 + n % 32, memoryMib: 1024 * (1 + n % 100) }; return () => one }, limit: P99_MS },
    { figure: 'p99-1000-hosts, spread, at most 1 on a host', spread: true, shape: (n: number) => { const one = { vcpus: 1 + n % 16, memoryMib: 1024 * (1 + n % 40) }; return () => one }, limit: P99_MS },
    { figure: 'p99-1000-hosts, every node of another size', spread: false, shape: () => () => ({ vcpus: upTo(48), memoryMib: upTo(160) * 1024 }), limit: P99_MS },
    { figure: 'p99-1000-hosts, every node of another size, not all fit', spread: false, shape: () => () => ({ vcpus: 30 + upTo(34), memoryMib: (120 + upTo(130)) * 1024 }), limit: P99_MS }
  ] as const
  for (const { figure, spread: even, shape, limit } of cases) {
    const samples: number[] = []
    const wall: number[] = []
    let refused = 0
    for (let n = -100; n < (full ? 1000 : 250); n++) {
      const request = { nodes: nodes(200, shape(Math.abs(n))), volumes, frontend: true, spread: even, maxNodesPerHost: even ? 1 : 0 }
      const runs = Array.from({ length: n < 0 ? 1 : RUNS }, () => {
        const from = performance.now()
        return { outcome: placeAtSite(request, hosts), ms: performance.now() - from }
      })
      if (n < 0) continue
      samples.push(Math.min(...runs.map(({ ms }) => ms)))
      wall.push(runs[0]?.ms ?? 0)
      if (runs.some(({ outcome }) => 'refusal' in outcome)) refused++
    }
    const figures = alone({ bench: BENCH, figure, value: percentile(samples, 0.99), unit: 'ms', better: 'lower', limit }, samples)
    yield { ...figures, note: `the whole of a request: 200 nodes, 8 volumes and the frontend, with names and reasons; the 99th percentile over requests, each the least of ${RUNS} runs, as others share the machine; of the first runs alone it is ${percentile(wall, 0.99)} ms (median ${percentile(wall, 0.5)}); ${refused} of ${samples.length} refused` }
  }
}

export const benches: Readonly<Record<string, Bench>> = { 'p99-1000-hosts': large, 'decision-vs-hail': decision, 'vs-hail': hail, 'vs-optimum': optimum }
