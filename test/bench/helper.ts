/**
 * `npm run bench -- helper`: what it costs that privileges are with a process of their own.
 * `reconcile-noop` and `against-in-process` need root: they run real drivers on a host of the lab.
 */
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { pino } from 'pino'
import { createHelperClient } from '../../agent/helper/client/client.ts'
import { processesOfPod, signalProcess, until } from '../../lab/process.ts'
import { hostBridgeName, tapName, type DesiredObject, type DomainSpec, type SegmentSpec } from '../../protocol/core/desired.ts'
import { describeError } from '../../protocol/core/errors.ts'
import { helperConfig } from '../helper.ts'
import { startHelperProcess } from '../helper-process.ts'
import { CLUSTER_ID, plansOf, startHelperHost, UNDERLAY, type HelperHost } from '../helper-pod.ts'
import { alone, percentile, round, spread, type BenchOptions, type Figure } from './figures.ts'
import type { Round, Task } from './helper-inside.ts'

const READY_MS = 60_000
const NOOP_GOAL_MS = 1
const RECONCILE_GOAL_MS = 300
const AGAINST_LIMIT = 1.05
const SEGMENTS = 50
const DOMAINS = 30
const NODE_MIB = 32

async function * verbOverhead ({ full = false }: BenchOptions = {}): AsyncGenerator<Figure> {
  const dir = await mkdtemp(join(tmpdir(), 'mzb-'))
  try {
    const file = join(dir, 'agent.yaml')
    await writeFile(file, JSON.stringify({ name: 'h1', site: 'tokyo', roles: ['compute'], listen: ['/ip4/127.0.0.1/tcp/0'], underlayAddress: '127.0.0.1', stateDir: dir, runDir: dir, drivers: 'fake', helper: helperConfig(dir) }))
    await using helper = await startHelperProcess(file)
    const client = createHelperClient({ socketPath: helperConfig(dir).socket, log: pino({ level: 'silent' }) })
    await client.ready(AbortSignal.timeout(READY_MS))
    const samples: number[] = []
    const [warm, count] = [500, full ? 50_000 : 10_000]
    for (let i = -warm; i < count; i++) {
      const started = performance.now()
      await client.call('noop', {})
      if (i >= 0) samples.push(performance.now() - started)
    }
    client.close()
    if (!helper.alive()) throw new Error('the helper has ended')
    yield { ...alone({ bench: 'verb-overhead', figure: 'a verb that does nothing, through the socket', value: percentile(samples, 0.5), unit: 'ms', better: 'lower', limit: NOOP_GOAL_MS }, samples), note: 'one after the other; helper and asker are processes of their own' }
  } finally {
    await rm(dir, { recursive: true, force: true })
  }
}

/** Segments of as many clusters, and nodes on the first of them. */
function many (gateway: boolean): DesiredObject[] {
  const vni = (n: number): number => 0x1000 + n
  const cluster = CLUSTER_ID.slice(0, 8)
  const segment = (n: number): SegmentSpec => ({
    cluster: `c${n}`, vni: vni(n), site: { segmentId: 1000 + n, localAddress: UNDERLAY, remoteAddresses: ['192.0.2.2', '192.0.2.3'] }, compute: true,
    ...(gateway ? { gateway: { address: '10.42.255.1/16', bridgeMac: `02:00:00:00:10:${n.toString(16).padStart(2, '0')}`, tunnel: null } } : {})
  })
  const node = (n: number): DomainSpec => ({
    cluster: `c${n}`, clusterId: CLUSTER_ID, node: `n${n}`, uuid: `6d1f1d3a-6a0a-4f0a-9d32-0c1a2b3c4d${n.toString(16).padStart(2, '0')}`, vcpus: 1, memoryMiB: NODE_MIB, mac: `52:54:00:00:01:${n.toString(16).padStart(2, '0')}`,
    bridge: hostBridgeName(vni(n)), tap: tapName(vni(n), 1), volumes: []
  })
  return [
    ...Array.from({ length: SEGMENTS }, (_, n): DesiredObject => ({ kind: 'segment', name: `${cluster}.segment${n}`, spec: segment(n) })),
    ...Array.from({ length: DOMAINS }, (_, n): DesiredObject => ({ kind: 'domain', name: `${cluster}.n${n}`, spec: node(n) }))
  ]
}

/** Guests that wait for a boot server would take both cores; stopped they still run as far as libvirt knows. */
async function still (host: HelperHost, signal: NodeJS.Signals): Promise<void> {
  for (const one of await processesOfPod(host.pod.pid)) if (one.argv[0]?.includes('qemu-system') === true) signalProcess(one, signal)
}

const summed = (commands: readonly string[]): string => {
  const counts = new Map<string, number>()
  for (const command of commands) {
    // what is the same but for the object that it is about
    const kind = command.replaceAll(/mzf?-[0-9a-f]{6}/g, 'NS').replaceAll(/@@musubi@@.*/g, '...').replace('/usr/sbin/', '')
    counts.set(kind, (counts.get(kind) ?? 0) + 1)
  }
  return [...counts].sort((a, b) => b[1] - a[1]).map(([kind, count]) => `${count} x ${kind}`).join('; ')
}

async function * reconcileNoop ({ full = false }: BenchOptions = {}): AsyncGenerator<Figure> {
  for (const gateway of [false, true]) {
    await using host = await startHelperHost({ libvirt: true })
    await host.start()
    const desired = many(gateway)
    const brain = host.brain(desired)
    await brain.client.ready(AbortSignal.timeout(READY_MS))
    await until('all objects', 600_000, async () => {
      await brain.reconciler.pass()
      await still(host, 'SIGSTOP')
      return brain.reconciler.states().length === desired.length && brain.reconciler.states().every(({ state }) => state === 'ok')
    })
    await brain.reconciler.pass()
    await host.dieAt(0, 'all')
    await brain.reconciler.pass()
    const commands = await host.started()
    await host.dieAt(null)
    const samples: number[] = []
    for (let i = 0; i < (full ? 60 : 20); i++) {
      const started = performance.now()
      await brain.reconciler.pass()
      samples.push(performance.now() - started)
    }
    const bench = 'reconcile-noop'
    const what = `${SEGMENTS} segments ${gateway ? 'of a gateway' : 'of a compute host'} and ${DOMAINS} domains, nothing to do`
    yield { ...alone({ bench, figure: `a pass over ${what}`, value: percentile(samples, 0.5), unit: 'ms', better: 'lower', limit: RECONCILE_GOAL_MS }, samples), note: 'guests are stopped, so that they leave the cores alone' }
    yield { ...alone({ bench, figure: `processes for a pass over ${what}`, value: commands.length, unit: '', better: 'lower', limit: SEGMENTS + DOMAINS }, [commands.length]), note: summed(commands) }
    await still(host, 'SIGCONT')
    await brain.close()
  }
}

/** Making and removing all of a plan, through the helper. */
async function throughHelper (host: HelperHost, desired: readonly DesiredObject[], rounds: number): Promise<Round[]> {
  const results: Round[] = []
  for (let i = 0; i < rounds; i++) {
    const timed = async (wanted: readonly DesiredObject[]): Promise<number> => {
      const brain = host.brain(wanted)
      await brain.client.ready(AbortSignal.timeout(READY_MS))
      const started = performance.now()
      await brain.reconciler.pass()
      const ms = performance.now() - started
      const wrong = brain.reconciler.states().filter(({ state }) => state !== 'ok')
      await brain.close()
      if (wrong.length > 0) throw new Error(`${wrong[0]?.kind} ${wrong[0]?.name}: ${wrong[0]?.error}`)
      return ms
    }
    results.push({ makeMs: await timed(desired), removeMs: await timed([]) })
  }
  return results
}

async function inProcess (host: HelperHost, desired: DesiredObject[], rounds: number): Promise<Round[]> {
  const task: Task = { desired, rounds, cluster: CLUSTER_ID.slice(0, 8), clusterId: CLUSTER_ID }
  const { stdout } = await host.pod.exec([process.execPath, join(import.meta.dirname, 'helper-inside.ts'), '/etc/musubi/agent.yaml', JSON.stringify(task)], { timeoutMs: 300_000 })
  return JSON.parse(stdout) as Round[]
}

async function * againstInProcess ({ full = false }: BenchOptions = {}): AsyncGenerator<Figure> {
  const bench = 'against-in-process'
  const [blocks, rounds] = full ? [8, 6] : [4, 5]
  for (const plan of ['near', 'far'] as const) {
    try {
      await using host = await startHelperHost({ libvirt: true })
      await host.start()
      const desired = plansOf(host.imageDigest, true)[plan]
      const [ours, theirs]: [Round[], Round[]] = [[], []]
      for (let i = 0; i < blocks; i++) {
        // the first of a block warms up
        ours.push(...(await throughHelper(host, desired, rounds)).slice(1))
        theirs.push(...(await inProcess(host, desired, rounds)).slice(1))
      }
      for (const what of ['makeMs', 'removeMs'] as const) {
        const [own, other] = [ours.map(one => one[what]), theirs.map(one => one[what])]
        const [value, peerValue] = [percentile(own, 0.5), percentile(other, 0.5)]
        yield {
          bench, figure: `${what === 'makeMs' ? 'making' : 'removing'} what ${plan === 'near' ? 'the host of the frontend' : 'the far host'} of a cluster of two nodes runs`, value, unit: 'ms', better: 'lower',
          peer: 'the same drivers and fence in one process', peerValue, limit: AGAINST_LIMIT, ratio: round(value / peerValue), ...spread(own), note: `in turns, ${blocks} x ${rounds - 1} of each; ${desired.length} objects; the quickest ${Math.round(Math.min(...own))} against ${Math.round(Math.min(...other))} ms`
        }
      }
    } catch (error) {
      process.stderr.write(`${bench} has no figures: ${describeError(error)}\n`)
    }
  }
}

export const benches = { 'verb-overhead': verbOverhead, 'reconcile-noop': reconcileNoop, 'against-in-process': againstInProcess }
