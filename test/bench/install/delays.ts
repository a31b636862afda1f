/** The workload at several delays: without a cache, through Squid, through ours cold and preheated, in turns. */
import type { Figure } from '../figures.ts'
import { alone, round, spread } from '../figures.ts'
import { lanRate, median } from './warm.ts'
import { WAN_MBIT_PER_S } from './site.ts'
import type { InstallSite, Measured } from './site.ts'
import { SIZES } from './workload.ts'

/** More without a cache would take hours: their time and bytes are multiplied. */
const NODES_WITHOUT_MAX = 16
/** Delay, and turns of our columns: figures that compare delays have two. */
const RTTS_MS = [[0, 2], [20, 1], [100, 2]] as const
/** Without what they are held against, delays that no goal speaks of are left out as well, and one turn is enough. */
const RTTS_ALONE_MS = [[0, 1], [100, 1]] as const
const PLAIN_TRANSFERS = 3
const COLUMNS = ['none', 'squid', 'cold', 'preheated'] as const
export type Column = typeof COLUMNS[number]
const OURS: readonly Column[] = ['cold', 'preheated']
/**
 * Round trips that a node waits for whatever a cache does. Preheated: its kickstart is the frontend's answer to it alone, over a
 * connection of its own (two), and whether repomd.xml has changed is asked over one that is open. Cold: the kickstart, and the first byte
 * of the first object over a connection that is open; what else is asked for meanwhile is under way beside it. How the
 * frontend's TCP finds the rate of the link comes on top, and is not counted.
 */
const ROUND_TRIPS_MIN = { cold: 3, preheated: 3 } as const

export interface Reporter { failed: (column: Column, lines: readonly string[]) => void, say: (line: string) => void }

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
async function atRtt (site: InstallSite, { failed, say }: Reporter, columns: readonly Column[], rttMs: number, turns: number): Promise<AtRtt> {
  const [first] = site.lab.nodes
  if (first === undefined) throw new Error('no nodes')
  await site.lab.setRtt(rttMs)
  await site.off()
  const direct = await site.fetchAll([first])
  failed('none', direct.failures)
  const found: AtRtt = { direct, columns: { none: [], squid: [], cold: [], preheated: [] }, preheatedHow: '' }
  for (let turn = 0; turn < turns; turn++) {
    for (const column of columns) {
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

function * comparisons (nodes: number, rttMs: number, { direct, columns, preheatedHow }: AtRtt): Generator<Figure> {
  const amplification = (column: Column): number[] => columns[column].map(run => run.wanBytes / direct.wanBytes)
  for (const [column, limit] of [['cold', 1.02], ['preheated', 0.02]] as const) {
    const samples = amplification(column)
    const peers = columns.none.length === 0 ? {} : { peer: 'Squid 5.7', peerValue: median(amplification('squid')) }
    yield {
      bench: 'install', figure: `wan-amplification-${column}${rttMs === 0 ? '' : `-rtt${rttMs}`}`, value: round(Math.max(...samples)), unit: 'x', better: 'lower', peer: null, peerValue: null, ...peers,
      limit, ratio: round(Math.max(...samples) / limit), ...spread(samples), note: `the largest of ${samples.length}${columns.none.length === 0 ? '' : `; without a cache ${median(amplification('none'))}`}${column === 'preheated' ? `; preheated ${preheatedHow}` : ''}`
    }
    yield { ...alone({ bench: 'install', figure: `all-nodes-${column}-rtt${rttMs}`, value: median(seconds(columns[column])), unit: 's', better: 'lower' }, seconds(columns[column])) }
    for (const peer of ['none', 'squid'] as const) {
      if (columns[peer].length === 0) continue
      const [mine, other] = [median(seconds(columns[column])), median(seconds(columns[peer]))]
      const extrapolated = peer === 'none' && nodes > NODES_WITHOUT_MAX ? `extrapolated from ${NODES_WITHOUT_MAX} nodes` : ''
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
    yield { ...alone({ bench: 'install', figure: `rtt100-vs-rtt0-${column}`, value, unit: 'x', better: 'lower', limit }, [value]), note: `${times} s` }
    const floor = (median(seconds(near.columns[column])) + ROUND_TRIPS_MIN[column] * 0.1) / median(seconds(near.columns[column]))
    yield { ...alone({ bench: 'install', figure: `rtt100-vs-rtt0-${column}-floor`, value: floor, unit: 'x', better: 'lower' }, [floor]), note: `what ${ROUND_TRIPS_MIN[column]} round trips alone make of it, which no cache can save` }
  }
  for (const [rttMs, { columns }] of [[0, near], [100, far]] as const) {
    const samples = seconds(columns.cold).map(one => one / limitS)
    yield { ...alone({ bench: 'install', figure: `wall-vs-limit-rtt${rttMs}`, value: median(samples), unit: 'x', better: 'lower', limit: 1.1 }, samples), note }
  }
}

/** The rate of the link as plain transfers see it, at its best: of one node alone, some times. */
async function wanRate (site: InstallSite, { failed }: Reporter): Promise<number> {
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

/** @param withoutPeers without columns that ours are held against */
export async function * delayFigures (site: InstallSite, report: Reporter, withoutPeers: boolean): AsyncGenerator<Figure> {
  const { workload, lab } = site
  const lanBytesPerS = await lanRate(site, report)
  await lab.limitWan(WAN_MBIT_PER_S)
  const plainBytesPerS = await wanRate(site, report)
  const found = new Map<number, AtRtt>()
  for (const [rttMs, turns] of withoutPeers ? RTTS_ALONE_MS : RTTS_MS) {
    const at = await atRtt(site, report, withoutPeers ? OURS : COLUMNS, rttMs, turns)
    found.set(rttMs, at)
    for (const one of comparisons(lab.nodes.length, rttMs, at)) yield one
  }
  // without a cache the link is full: also a plain transfer
  const [full0] = found.get(0)?.columns.none ?? []
  const wanBytesPerS = Math.max(plainBytesPerS, full0 === undefined ? 0 : workload.bytes * lab.nodes.length / full0.seconds)
  const limitS = Math.max(workload.bytes / wanBytesPerS, workload.bytes * lab.nodes.length / lanBytesPerS)
  const note = `${round(limitS)} s: WAN ${WAN_MBIT_PER_S} Mbit/s, plain transfers ${round(wanBytesPerS / 1e6)} MB/s, LAN ${round(lanBytesPerS / 1e6)} MB/s; ${workload.objects.length} objects, ${workload.bytes} bytes, sizes with mu ${SIZES.mu}, sigma ${SIZES.sigma} (${SIZES.source})`
  for (const one of acrossRtts(found, limitS, note)) yield one
}
