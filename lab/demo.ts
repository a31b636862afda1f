import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { parse } from 'yaml'
import { buildNodeImage } from '../agent/images/build.ts'
import { call, type Endpoint } from '../cli/client.ts'
import { waitForCluster } from '../cli/waiting.ts'
import { bytes, duration } from '../cli/output.ts'
import { clusterText, hostsTable, searchText } from '../cli/render.ts'
import type { ClusterResource, EventResource, HostResource, SearchResult } from '../protocol/api.ts'
import { describeError, errorCode } from '../protocol/core/errors.ts'
import { HELP, parseDemoOptions, type DemoOptions } from './demo/options.ts'
import { createProgress, type Progress } from './demo/progress.ts'
import { emptyResult, faultsOf, fillCluster, type DemoResult } from './demo/result.ts'
import { demoSites, NODE } from './demo/sites.ts'
import { waitForViews } from './demo/views.ts'
import { checkCrossSite, checkVolume, onNode } from './demo/use.ts'
import { DEFAULT_IMAGE_STORE } from './config.ts'
import { startLab, type Lab } from './lab.ts'
import { WORK_TREE } from './pod.ts'
import { withSignals } from './signals.ts'
import { downLabs } from './state.ts'

const MASTER = 'tokyo-1'
const CREATE_TIMEOUT_MS = 280_000
const DELETE_TIMEOUT_MS = 90_000

interface Demo { options: DemoOptions, progress: Progress, result: DemoResult, signal: AbortSignal }

const timed = async <T>(work: () => Promise<T>): Promise<[T, number]> => {
  const started = performance.now()
  return [await work(), Math.round(performance.now() - started)]
}

/** Prints events of the master as they come, until the signal. */
async function followEvents (api: Endpoint, progress: Progress, signal: AbortSignal): Promise<void> {
  let since = 0
  while (!signal.aborted) {
    const events = await call<EventResource[]>(api, 'GET', `/v1/events?since=${since}`).catch(() => [])
    for (const e of events) {
      since = e.seq
      if (e.type === 'cluster.progress' || e.type.startsWith('node.')) progress.detail(e.message)
    }
    await sleep(300, undefined, { signal }).catch(() => undefined)
  }
}

async function runCluster (lab: Lab, api: Endpoint, { options, progress, result, signal }: Demo): Promise<void> {
  const spec = parse(await readFile(join(WORK_TREE, 'lab', 'demo', 'demo.yaml'), 'utf8')) as { spec: { nodes: { count: number }, image?: string } }
  spec.spec.nodes.count = options.nodes
  if (options.imageDigest !== null) spec.spec.image = options.imageDigest
  const done = new AbortController()
  const events = followEvents(api, progress, done.signal)
  try {
    progress.step(`musubi cluster create -f demo.yaml   at tokyo: 1 frontend and ${options.nodes} nodes`)
    const accepted = await call<ClusterResource>(api, 'POST', '/v1/clusters', spec)
    await waitForCluster(api, accepted.id, ['ready', 'degraded'], CREATE_TIMEOUT_MS, signal, line => { progress.detail(line) })
    progress.step('between the sites: ping, full-size packets, HTTP by name')
    let cluster = await call<ClusterResource>(api, 'GET', `/v1/clusters/${accepted.id}`)
    result.crossSite = await checkCrossSite(lab, MASTER, cluster)
    progress.step('the data volume: write, drop caches, read back')
    result.volume = await checkVolume(lab, MASTER, cluster)
    const first = cluster.nodes[0]
    if (first !== undefined) {
      progress.step(`musubi cluster ssh demo ${first.name} -- uname -a`)
      progress.detail((await onNode(lab, MASTER, 'demo', first.name, ['uname', '-a'])).trim())
    }
    cluster = await call<ClusterResource>(api, 'GET', `/v1/clusters/${accepted.id}`)
    fillCluster(result, cluster)
    printSummary(cluster, result, options)
  } finally {
    done.abort()
    await events
  }
}

function printSummary (cluster: ClusterResource, result: DemoResult, options: DemoOptions): void {
  const out = options.json ? process.stderr : process.stdout
  const yes = (good: boolean): string => good ? 'ok' : 'FAILED'
  out.write(`\n${clusterText(cluster)}\n\n`)
  if (result.crossSite !== null) {
    const c = result.crossSite
    out.write(`${c.from} -> ${c.to}: ping ${yes(c.pingOk)}${c.rttMs === null ? '' : ` (${c.rttMs} ms)`}, full 1500-byte packets ${yes(c.dfPing1472Ok)}, HTTP by name ${yes(c.httpOk)}\n`)
    for (const problem of c.problems) out.write(`  ${problem}\n`)
  }
  if (result.volume !== null) out.write(`volume ${result.volume.iqn} on ${result.volume.host}: write and read back ${yes(result.volume.writeReadOk)}${result.volume.problem === '' ? '' : ` (${result.volume.problem})`}\n`)
  out.write(`over the WAN: ${bytes(cluster.wan.bytes)}; without the cache the far nodes would have pulled ${bytes(cluster.wan.bytesWithoutCache)} over it\n\n`)
}

async function runDemo (demo: Demo): Promise<void> {
  const { options, progress, result, signal } = demo
  progress.step('node image (Debian 12, kept by digest)')
  const [image, imageMs] = await timed(async () => options.imageDigest === null
    ? await buildNodeImage({ storeDir: DEFAULT_IMAGE_STORE, signal, onProgress: step => { progress.detail(step) } })
    : { digest: options.imageDigest, built: false })
  result.image = { digest: image.digest, built: image.built }
  result.timings.imageMs = imageMs

  const sites = demoSites(options.nodes)
  result.sites = sites.map(s => ({ name: s.name, hosts: s.hosts.map(h => h.name), nodes: 0 }))
  progress.step(`lab: a coordinator and ${sites.map(s => `${s.name} (${s.hosts.length} hosts)`).join(', ')}, RTT ${options.rttMs} ms, ${options.rateMbit} Mbit/s`)
  const [lab, labUpMs] = await timed(() => startLab({ sites, rttMs: options.rttMs, rateMbit: options.rateMbit, keep: options.keep, signal, onProgress: p => { progress.detail(p.host === undefined ? p.detail : `${p.host}: ${p.detail}`) } }))
  result.timings.labUpMs = labUpMs
  const api: Endpoint = { socketPath: lab.api(MASTER), what: 'agent' }
  let keep = false
  try {
    await waitForViews(lab, MASTER, sites, api, signal)
    progress.step('musubi host list')
    progress.detail(hostsTable(await call<HostResource[]>(api, 'GET', '/v1/hosts')))
    progress.step(`musubi search --nodes ${options.nodes}`)
    progress.detail(searchText(await call<SearchResult>(api, 'POST', '/v1/search', { nodes: options.nodes, vcpus: NODE.vcpus, memoryMib: NODE.memoryMiB })))
    await runCluster(lab, api, demo)
    if (options.keep) { keep = true; printKept(lab); return }
    progress.step('musubi cluster delete demo')
    await call(api, 'DELETE', '/v1/clusters/demo')
    const deleted = await waitForCluster(api, 'demo', ['deleted'], DELETE_TIMEOUT_MS, signal, line => { progress.detail(line) })
    result.timings.deleteMs = deleted.timings.deleteMs ?? 0
    result.leftovers = await lab.leftovers()
    progress.detail(`deleted in ${duration(result.timings.deleteMs)}, left over on the hosts: ${result.leftovers.length === 0 ? 'nothing' : result.leftovers.join(', ')}`)
  } finally {
    if (!keep) {
      progress.step('end of the lab')
      await lab.stop()
      result.leftovers.push(...await lab.leftovers())
      progress.detail(`left over on this machine: ${result.leftovers.length === 0 ? 'nothing' : result.leftovers.join(', ')}`)
    }
  }
}

function printKept (lab: Lab): void {
  const musubi = `node_modules/.bin/node cli/main.ts --socket ${lab.api(MASTER)}`
  process.stderr.write(`Everything is left running. Look around:
  ${musubi} cluster show demo
  ${musubi} events --follow
  ${musubi} lease list
a shell on a host (inside it, musubi finds its agent by itself):
  nsenter -t ${lab.host(MASTER).pod.pid} -n -m -u -i -p bash
from there, a shell on a node:
  ${join(WORK_TREE, 'packaging', 'musubi')} cluster ssh demo
end it:
  npm run demo -- --down\n`)
}

async function main (): Promise<void> {
  const options = parseDemoOptions(process.argv.slice(2))
  if (options === null) { process.stdout.write(`${HELP}\n`); return }
  if (options.down) {
    const ended = await downLabs()
    process.stdout.write(`${ended.length === 0 ? 'no lab was running' : `ended ${ended.join(', ')}`}\n`)
    return
  }
  const ok = await withSignals(signal => demonstrate(options, signal))
  process.exitCode ??= ok ? 0 : 1
}

/** Runs the demo to its end, good or bad, and prints the result. @returns whether all was well */
async function demonstrate (options: DemoOptions, signal: AbortSignal): Promise<boolean> {
  const started = performance.now()
  const demo: Demo = { options, progress: createProgress(() => performance.now()), result: emptyResult(), signal }
  const { result } = demo
  try {
    await runDemo(demo)
    const faults = faultsOf(result)
    result.ok = faults.length === 0
    if (!result.ok) result.error = { code: 'DEMO', message: faults.join('; ') }
  } catch (error) {
    result.error = { code: errorCode(error), message: describeError(error) }
  }
  result.timings.totalMs = Math.round(performance.now() - started)
  if (options.json) process.stdout.write(`${JSON.stringify(result, null, 2)}\n`)
  else process.stdout.write(result.ok ? `All well in ${duration(result.timings.totalMs)}: created in ${duration(result.timings.createMs)}, ${options.keep ? 'left running as asked' : `deleted in ${duration(result.timings.deleteMs)}, nothing left over`}.\n` : `Failed: ${result.error?.message ?? ''}\n`)
  return result.ok
}

try {
  await main()
} catch (error) {
  process.stderr.write(`demo: ${describeError(error)}\n`)
  process.exitCode = 2
}
