/**
 * `idle-agent-rss`, `idle-agent-cpu`, `cold-start`: 20 real agents (fake drivers) of one site, started
 * by the launcher of the package, each in a process of its own.
 */
import { readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { alone, percentile, type BenchOptions, type Figure } from './figures.ts'
import { makeSite, type BenchSite, type SiteAgent } from './mesh-site.ts'

const SIZE = 20
const GOAL_RSS_MIB = 90
const GOAL_CPU_PERCENT = 0.5
const GOAL_COLD_MS = 1500
/** Agents that start at once: all of them would only wait for each other. */
const AT_ONCE = 3
/** After the last start: what is done once is done. */
const SETTLE_MS = 25_000
const MiB = 2 ** 20
/** Clock ticks of /proc/PID/stat, as Linux has them everywhere. */
const TICK_MS = 10

/** Writes what the heap is made of to MUSUBI_BENCH_PROBE on SIGUSR2. */
const PROBE = `data:text/javascript,${encodeURIComponent('import v8 from "node:v8"; import fs from "node:fs"; process.on("SIGUSR2", () => fs.writeFileSync(process.env.MUSUBI_BENCH_PROBE, JSON.stringify({ memory: process.memoryUsage(), spaces: v8.getHeapSpaceStatistics() })))')}`

interface Probe { memory: NodeJS.MemoryUsage, spaces: Array<{ space_name: string, space_size: number }> }

async function cpuMs (pid: number): Promise<number> {
  const fields = (await readFile(`/proc/${pid}/stat`, 'utf8')).split(') ').at(-1)?.split(' ') ?? []
  return (Number(fields[11]) + Number(fields[12])) * TICK_MS
}

/** MiB of a process by what its pages belong to; `files` are shared with other agents of the machine, if there are any. */
async function residentOf (pid: number): Promise<{ rss: number, pss: number, files: number }> {
  const text = await readFile(`/proc/${pid}/smaps_rollup`, 'utf8')
  const mib = (key: string): number => Number(new RegExp(`^${key}:\\s+(\\d+) kB`, 'm').exec(text)?.[1] ?? 0) / 1024
  return { rss: mib('Rss'), pss: mib('Pss'), files: mib('Rss') - mib('Anonymous') }
}

const pidOf = ({ name, process: child }: SiteAgent): number => {
  if (child?.pid === undefined || child.exitCode !== null || child.signalCode !== null) throw new Error(`${name} does not run`)
  return child.pid
}

async function startAll (site: BenchSite, probed: SiteAgent, env: Readonly<Record<string, string>>): Promise<void> {
  const [first] = site.agents
  if (first === undefined) return
  // alone, twice: the others find its compiled modules
  await site.start(first)
  await site.complete(first, 1)
  await site.stop(first)
  for (let n = 0; n < site.agents.length; n += AT_ONCE) {
    const some = site.agents.slice(n, n + AT_ONCE)
    for (const agent of some) await site.start(agent, agent === probed ? env : {})
    await Promise.all(some.map(async agent => { await site.complete(agent, n + some.length) }))
  }
  await Promise.all(site.agents.map(async agent => { await site.complete(agent) }))
}

async function * parts (pid: number, file: string): AsyncGenerator<Figure> {
  process.kill(pid, 'SIGUSR2')
  await sleep(1000)
  const { memory, spaces } = JSON.parse(await readFile(file, 'utf8')) as Probe
  const { rss, files } = await residentOf(pid)
  const code = spaces.filter(({ space_name: name }) => name.includes('code') || name.includes('trusted')).reduce((sum, { space_size: size }) => sum + size, 0)
  const rest = rss - files - (memory.heapTotal + memory.external) / MiB
  for (const [figure, value] of [
    ['of it: node itself and libraries, files shared by all agents', files], ['of it: V8 heap, objects and sources', (memory.heapTotal - code) / MiB], ['of it: V8 heap, bytecode and machine code', code / MiB],
    ['of it: external (buffers, sources held outside of the heap)', memory.external / MiB], ['of it: rest (malloc, stacks, LevelDB)', rest]
  ] as const) yield alone({ bench: 'idle-agent-rss', figure, value, unit: 'MiB', better: 'lower' }, [value])
}

/** When the agent said that it is up, and how long it had needed since its modules were loaded, ms. */
async function upOf (site: BenchSite, agent: SiteAgent): Promise<{ atMs: number, ms: number }> {
  const line = (await site.log(agent)).split('\n').findLast(text => text.includes('"agent is up"'))
  const { time, ms } = JSON.parse(line ?? '{}') as { time?: string, ms?: number }
  return { atMs: Date.parse(time ?? ''), ms: ms ?? NaN }
}

async function * coldStart (site: BenchSite, agent: SiteAgent, times: number): AsyncGenerator<Figure> {
  const [whole, loading, cpu]: [number[], number[], number[]] = [[], [], []]
  for (let n = 0; n < times; n++) {
    await site.stop(agent)
    await sleep(1500)
    const [from, fromWall] = [performance.now(), Date.now()]
    const pid = await site.start(agent)
    await site.complete(agent)
    whole.push(performance.now() - from)
    cpu.push(await cpuMs(pid))
    await sleep(500)
    const { atMs, ms } = await upOf(site, agent)
    loading.push(atMs - fromWall - ms)
  }
  const bench = 'cold-start'
  yield alone({ bench, figure: `process start to a host list of all ${SIZE}`, value: percentile(whole, 0.5), unit: 'ms', better: 'lower', limit: GOAL_COLD_MS }, whole)
  yield alone({ bench, figure: 'of it: until the modules are loaded', value: percentile(loading, 0.5), unit: 'ms', better: 'lower' }, loading)
  yield alone({ bench, figure: 'CPU time of it', value: percentile(cpu, 0.5), unit: 'ms', better: 'lower' }, cpu)
}

async function * idle ({ full = false }: BenchOptions = {}): AsyncGenerator<Figure> {
  const seconds = full ? 60 : 20
  const site = await makeSite(SIZE)
  const file = join(tmpdir(), `musubi-bench-probe-${process.pid}`)
  try {
    const [probed, restarted] = [site.agents.at(-2), site.agents.at(-1)]
    if (probed === undefined || restarted === undefined) return
    await startAll(site, probed, { NODE_OPTIONS: `--import=${PROBE}`, MUSUBI_BENCH_PROBE: file })
    await sleep(SETTLE_MS)
    const others = site.agents.filter(agent => agent !== probed)
    const before = await Promise.all(others.map(async agent => await cpuMs(pidOf(agent))))
    await sleep(seconds * 1000)
    const after = await Promise.all(others.map(async agent => await cpuMs(pidOf(agent))))
    const percents = after.map((ms, n) => (ms - (before[n] ?? 0)) / (10 * seconds))
    const resident = await Promise.all(others.map(async agent => await residentOf(pidOf(agent))))
    const rss = resident.map(r => r.rss)
    yield alone({ bench: 'idle-agent-rss', figure: `resident memory in a site of ${SIZE}, median`, value: percentile(rss, 0.5), unit: 'MiB', better: 'lower', limit: GOAL_RSS_MIB }, rss)
    const pss = resident.map(r => r.pss)
    yield alone({ bench: 'idle-agent-rss', figure: 'the same, shared pages divided (PSS)', value: percentile(pss, 0.5), unit: 'MiB', better: 'lower' }, pss)
    yield * parts(pidOf(probed), file)
    yield alone({ bench: 'idle-agent-cpu', figure: `of one core over ${seconds} s in a site of ${SIZE}, median`, value: percentile(percents, 0.5), unit: '%', better: 'lower', limit: GOAL_CPU_PERCENT }, percents)
    yield * coldStart(site, restarted, full ? 20 : 5)
  } finally {
    await site.close()
    await rm(file, { force: true })
  }
}

export const benches = { idle }
