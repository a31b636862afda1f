import { setTimeout as delay } from 'node:timers/promises'
import type { Figure } from '../figures.ts'
import { alone, round, spread } from '../figures.ts'
import { memoryBytes } from '../cache-memory.ts'
import { caseFigures } from './cases.ts'
import { WAN_MBIT_PER_S, createInstallSite } from './site.ts'
import type { InstallSite, Measured } from './site.ts'
import { SIZES } from './workload.ts'

/** The script that runs in the pod: prints one figure a line; `--full` for the original's numbers. */

const full = process.argv.includes('--full')
const PART = full ? 1 : 0.1
const NODES = full ? 134 : 16
/** More without a cache would take hours: their time and bytes are multiplied. */
const NODES_WITHOUT_MAX = 16
/** Delay, and turns of our columns: figures that compare delays have two. */
const RTTS_MS = [[0, 2], [20, 1], [100, 2]] as const
const CASES_RTT_MS = 20
const WARM_TURNS = 5
const IDLE_AFTER_MS = 3_000
const PLAIN_TRANSFERS = 3
const COLUMNS = ['none', 'squid', 'cold', 'preheated'] as const
type Column = typeof COLUMNS[number]

const print = (one: Figure): void => { process.stdout.write(`${JSON.stringify(one)}\n`) }
const say = (line: string): void => { process.stderr.write(`install: ${line}\n`) }
/** Of two it is the one between them. */
const median = (samples: readonly number[]): number => round(((sorted: readonly number[]) => ((sorted[Math.floor((sorted.length - 1) / 2)] ?? 0) + (sorted[Math.floor(sorted.length / 2)] ?? 0)) / 2)(samples.toSorted((a, b) => a - b)))

const failures: Record<Column, number> = { none: 0, squid: 0, cold: 0, preheated: 0 }
const failed = (column: Column, lines: readonly string[]): void => {
  failures[column] += lines.length
  for (const line of lines) say(`a node failed (${column}): ${line}`)
}

interface AtRtt { direct: Measured, columns: Record<Column, Measured[]>, preheatedHow: string }

async function runColumn (site: InstallSite, column: Column): Promise<{ measured: Measured, how: string }> {
  const { nodes } = site.lab
  if (column === 'none') {
    await site.off()
    const some = nodes.slice(0, NODES_WITHOUT_MAX)
    const measured = await site.install(some)
    const times = nodes.length / some.length
    return { measured: { ...measured, seconds: measured.seconds * times, wanBytes: measured.wanBytes * times }, how: '' }
  }
  if (column === 'squid') {
    await site.off()
    const stop = await site.squid()
    try {
      // it asks from its own address, for kickstarts as well
      return { measured: await site.install(nodes, { asNodes: false }), how: '' }
    } finally {
      await stop()
    }
  }
  let how = ''
  if (column === 'cold') await site.cold()
  else how = await site.preheated()
  return { measured: await site.install(nodes), how }
}

/** The columns take turns; those that we are held against take longest, so once. */
async function atRtt (site: InstallSite, rttMs: number, turns: number): Promise<AtRtt> {
  const [first] = site.lab.nodes
  if (first === undefined) throw new Error('no nodes')
  await site.lab.setRtt(rttMs)
  await site.off()
  const direct = await site.fetchAll([first])
  failed('none', direct.failures)
  const found: AtRtt = { direct, columns: { none: [], squid: [], cold: [], preheated: [] }, preheatedHow: '' }
  for (let turn = 0; turn < turns; turn++) {
    for (const column of COLUMNS) {
      if (turn > 0 && (column === 'none' || column === 'squid')) continue
      const { measured, how } = await runColumn(site, column)
      failed(column, measured.failures)
      found.columns[column].push(measured)
      if (how !== '') found.preheatedHow = how
      say(`RTT ${rttMs} ms, ${column}: ${round(measured.seconds)} s, ${round(measured.wanBytes / direct.wanBytes)} x, ${measured.connections} connections`)
    }
  }
  return found
}

const seconds = (runs: readonly Measured[]): number[] => runs.map(run => run.seconds)

function * comparisons (rttMs: number, { direct, columns, preheatedHow }: AtRtt): Generator<Figure> {
  const amplification = (column: Column): number[] => columns[column].map(run => run.wanBytes / direct.wanBytes)
  for (const [column, limit] of [['cold', 1.02], ['preheated', 0.02]] as const) {
    const samples = amplification(column)
    yield {
      bench: 'install', figure: `wan-amplification-${column}${rttMs === 0 ? '' : `-rtt${rttMs}`}`, value: round(Math.max(...samples)), unit: 'x', better: 'lower', peer: 'Squid 5.7', peerValue: median(amplification('squid')),
      limit, ratio: round(Math.max(...samples) / limit), ...spread(samples), note: `the largest of ${samples.length}; without a cache ${median(amplification('none'))}${column === 'preheated' ? `; preheated ${preheatedHow}` : ''}`
    }
    for (const peer of ['none', 'squid'] as const) {
      const [mine, other] = [median(seconds(columns[column])), median(seconds(columns[peer]))]
      const extrapolated = peer === 'none' && NODES > NODES_WITHOUT_MAX ? `extrapolated from ${NODES_WITHOUT_MAX} nodes` : ''
      yield { bench: 'install', figure: `all-nodes-${column}-vs-${peer}-rtt${rttMs}`, value: mine, unit: 's', better: 'lower', peer: peer === 'none' ? `no cache${extrapolated === '' ? '' : `, ${extrapolated}`}` : 'Squid 5.7', peerValue: other, limit: null, ratio: round(mine / other), ...spread(seconds(columns[column])) }
    }
  }
}

function * acrossRtts (found: ReadonlyMap<number, AtRtt>, limitS: number, note: string): Generator<Figure> {
  const [near, far] = [found.get(0), found.get(100)]
  if (near === undefined || far === undefined) return
  for (const [column, limit] of [['cold', 1.15], ['preheated', 1.05]] as const) {
    const value = median(seconds(far.columns[column])) / median(seconds(near.columns[column]))
    const times = [near, far].map(({ columns }) => round(median(seconds(columns[column])))).join(' and ')
    yield { ...alone({ bench: 'install', figure: `rtt100-vs-rtt0-${column}`, value, unit: 'x', better: 'lower', limit }, [value]), note: `${times} s; each node's kickstart alone takes two round trips, 0.2 s, whatever is kept` }
  }
  for (const [rttMs, { columns }] of [[0, near], [100, far]] as const) {
    const samples = seconds(columns.cold).map(one => one / limitS)
    yield { ...alone({ bench: 'install', figure: `wall-vs-limit-rtt${rttMs}`, value: median(samples), unit: 'x', better: 'lower', limit: 1.1 }, samples), note }
  }
}

/** The same files from a warm cache and from an nginx that has them on disk, in turns. */
async function againstBare (site: InstallSite): Promise<{ figure: Figure, lanBytesPerS: number }> {
  await site.preheated()
  const { base, stop } = await site.bare()
  const [warm, bare]: [number[], number[]] = [[], []]
  try {
    for (let turn = 0; turn <= WARM_TURNS; turn++) {
      const [a, b] = [await site.fetchAll(site.lab.nodes), await site.fetchAll(site.lab.nodes, base)]
      failed('preheated', a.failures)
      failed('none', b.failures)
      // the first of each fills what the kernel keeps
      if (turn > 0) { warm.push(a.seconds); bare.push(b.seconds) }
    }
  } finally {
    stop()
  }
  const bytes = site.workload.bytes * NODES
  const ratios = warm.map((one, i) => (bare[i] ?? Number.NaN) / one)
  return {
    lanBytesPerS: bytes / Math.min(...bare),
    figure: { bench: 'install', figure: 'warm-vs-bare-nginx', value: median(ratios), unit: 'x', better: 'higher', peer: 'nginx with the files on disk, same place', peerValue: round(bytes / median(bare) / 1e6), limit: 0.95, ratio: round(median(ratios) / 0.95), ...spread(ratios), note: `throughput, turn by turn; peerValue in MB/s; ours ${round(bytes / median(warm) / 1e6)} MB/s` }
  }
}

/** The rate of the link as plain transfers see it, at its best: of one node alone, some times. */
async function wanRate (site: InstallSite): Promise<number> {
  await site.off()
  const [node] = site.lab.nodes
  if (node === undefined) throw new Error('no nodes')
  let best = 0
  for (let tries = 0; tries < PLAIN_TRANSFERS; tries++) {
    const { seconds: s, failures: lines } = await site.errands([{ node, downloads: [site.image()] }])
    failed('none', lines)
    best = Math.max(best, site.workload.image.bytes / s)
  }
  return best
}

const dir = '/run/mz-install-bench'
const site = await createInstallSite(dir, NODES, PART)
try {
  say(`${NODES} nodes, each ${site.workload.objects.length} objects of ${site.workload.bytes} bytes, WAN ${WAN_MBIT_PER_S} Mbit/s, sizes log-normal with mu ${SIZES.mu}, sigma ${SIZES.sigma} (${SIZES.source})`)
  await site.cold()
  // what it does when it starts is not idling
  await delay(IDLE_AFTER_MS)
  const idleBytes = await memoryBytes()
  print(alone({ bench: 'install', figure: 'memory-idle-cache', value: idleBytes, unit: 'bytes', better: 'lower', limit: 15e6 }, [idleBytes]))
  const { figure, lanBytesPerS } = await againstBare(site)
  print(figure)
  await site.lab.limitWan(WAN_MBIT_PER_S)
  const plainBytesPerS = await wanRate(site)
  const found = new Map<number, AtRtt>()
  for (const [rttMs, turns] of RTTS_MS) {
    const at = await atRtt(site, rttMs, turns)
    found.set(rttMs, at)
    for (const one of comparisons(rttMs, at)) print(one)
  }
  // without a cache the link is full: also a plain transfer
  const [full0] = found.get(0)?.columns.none ?? []
  const wanBytesPerS = Math.max(plainBytesPerS, full0 === undefined ? 0 : site.workload.bytes * NODES / full0.seconds)
  const limitS = Math.max(site.workload.bytes / wanBytesPerS, site.workload.bytes * NODES / lanBytesPerS)
  const workloadNote = `WAN ${WAN_MBIT_PER_S} Mbit/s, plain transfers ${round(wanBytesPerS / 1e6)} MB/s, LAN ${round(lanBytesPerS / 1e6)} MB/s; ${site.workload.objects.length} objects, ${site.workload.bytes} bytes, sizes with mu ${SIZES.mu}, sigma ${SIZES.sigma} (${SIZES.source})`
  for (const one of acrossRtts(found, limitS, workloadNote)) print(one)
  await site.lab.setRtt(CASES_RTT_MS)
  for await (const one of caseFigures(site, lines => { failed('cold', lines) })) print(one)
  for (const [name, count] of [['failed-nodes', failures.cold + failures.preheated], ['failed-nodes-squid', failures.squid], ['failed-nodes-none', failures.none]] as const) {
    print({ ...alone({ bench: 'install', figure: name, value: count, unit: 'nodes', better: 'lower' }, [count]), ...(name === 'failed-nodes' ? { limit: 0 } : {}) })
  }
} finally {
  await site.close()
}
