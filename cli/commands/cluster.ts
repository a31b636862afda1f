import { spawnSync } from 'node:child_process'
import { setTimeout as sleep } from 'node:timers/promises'
import type { Command } from 'commander'
import { call } from '../client.ts'
import { agentEndpoint, untilInterrupted, wantsJson } from '../context.ts'
import { duration, show } from '../output.ts'
import { clustersTable, clusterText } from '../render.ts'
import { readYamlFile } from '../../protocol/config-file.ts'
import { InvalidInputError, MusubiError, UnreachableError } from '../../protocol/core/errors.ts'
import type { ClusterResource, ConsoleResource } from '../../protocol/api.ts'
import type { Endpoint } from '../client.ts'

const POLL_MS = 500
/** An agent that restarts answers again by then; what it was asked to do goes on meanwhile. */
const RESTART_PATIENCE_MS = 30_000
const pathOf = (name: string): string => `/v1/clusters/${encodeURIComponent(name)}`

function progressLine (c: ClusterResource): string {
  const phases = c.nodes.map(n => n.state)
  const counts = [...new Set(phases)].map(p => `${phases.filter(x => x === p).length} ${p}`).join(', ')
  const problems = c.state === 'degraded' ? `: ${c.problems.map(p => `${p.host} ${p.kind}: ${p.error}`).join('; ')}` : ''
  return `${c.name}: ${c.state}${counts === '' ? '' : `  (${counts})`}${problems}`
}

/**
 * Follows a cluster until it is in one of the wanted states; prints each change once.
 * @throws MusubiError when it fails or the time is over
 */
export async function waitForCluster (endpoint: Endpoint, name: string, wanted: readonly string[], timeoutMs: number, signal: AbortSignal, onProgress: (line: string) => void): Promise<ClusterResource> {
  const deadline = Date.now() + timeoutMs
  let last = ''
  let answeredAt = Date.now()
  for (;;) {
    const cluster = await call<ClusterResource>(endpoint, 'GET', pathOf(name)).catch((error: unknown) => {
      if (!(error instanceof UnreachableError) || signal.aborted || Date.now() > Math.min(deadline, answeredAt + RESTART_PATIENCE_MS)) throw error
      return null
    })
    if (cluster === null) {
      const away = `the ${endpoint.what} does not answer, still waiting`
      if (away !== last) onProgress(away)
      last = away
      await sleep(POLL_MS)
      continue
    }
    answeredAt = Date.now()
    const line = progressLine(cluster)
    if (line !== last) onProgress(line)
    last = line
    if (wanted.includes(cluster.state)) return cluster
    if (cluster.state === 'failed') throw new MusubiError(cluster.error?.code ?? 'FAILED', cluster.error?.message ?? `cluster ${name} failed`, cluster.error?.hint === undefined ? {} : { hint: cluster.error.hint })
    if (cluster.state === 'deleted') throw new MusubiError('DELETED', `cluster ${cluster.name} was deleted while it was waited for`)
    if (Date.now() > deadline) throw new MusubiError('TIMEOUT', `${name} is still ${cluster.state} after ${duration(timeoutMs)}: ${line}`, { hint: `look at: musubi cluster show ${name}` })
    if (signal.aborted) throw new MusubiError('INTERRUPTED', `stopped waiting; ${name} goes on being ${cluster.state}`, { hint: `look at: musubi cluster show ${name}; end it with: musubi cluster delete ${name}` })
    await sleep(POLL_MS)
  }
}

const seconds = (value: string): number => {
  const n = Number(value)
  if (!Number.isFinite(n) || n <= 0) throw new InvalidInputError(`--timeout must be a number of seconds above 0, not "${value}"`)
  return n * 1000
}

export function addClusterCommands (program: Command): void {
  const cluster = program.command('cluster').description('virtual clusters that this site is the master of')

  cluster.command('create')
    .description('lease machines at one or more sites, tie them together and install them')
    .requiredOption('-f, --file <spec.yaml>', 'cluster specification')
    .option('--dry-run', 'check the specification and say where it would be placed; hold nothing')
    .option('--no-wait', 'return once the request is accepted')
    .option('--timeout <seconds>', 'how long to wait for all nodes', '1800')
    .addHelpText('after', `
Examples:
  musubi cluster create -f demo.yaml
  musubi cluster create -f demo.yaml --dry-run
  musubi cluster create -f demo.yaml --no-wait --json

A specification:
  apiVersion: musubi/v1
  kind: Cluster
  metadata: {name: demo}
  spec:
    nodes: {count: 4, vcpus: 1, memoryMiB: 768}
    volumes: [{name: data, sizeMiB: 64, node: 1}]
    term: 2h`)
    .action(async (options: { file: string, dryRun?: boolean, wait: boolean, timeout: string }, command: Command) => {
      const endpoint = agentEndpoint(command)
      const timeoutMs = seconds(options.timeout)
      const spec = await readYamlFile(options.file)
      if (options.dryRun === true) {
        const plan = await call<{ explanation: string }>(endpoint, 'POST', '/v1/clusters?dryRun=true', spec)
        show(plan, wantsJson(command), p => p.explanation)
        return
      }
      const accepted = await call<ClusterResource>(endpoint, 'POST', '/v1/clusters', spec)
      const done = options.wait
        ? await waitForCluster(endpoint, accepted.id, ['ready', 'degraded'], timeoutMs, untilInterrupted(), line => { if (!wantsJson(command)) process.stderr.write(`${line}\n`) })
        : accepted
      show(done, wantsJson(command), clusterText)
    })

  cluster.command('list').description('all clusters of this master')
    .addHelpText('after', '\nExample:\n  musubi cluster list')
    .action(async (_options: object, command: Command) => {
      show(await call<ClusterResource[]>(agentEndpoint(command), 'GET', '/v1/clusters'), wantsJson(command), clustersTable)
    })

  cluster.command('show <name>').description('nodes, phases, segment, bytes over the WAN')
    .addHelpText('after', '\nExamples:\n  musubi cluster show demo\n  musubi cluster show demo --json | jq -r .nodes[].ip')
    .action(async (name: string, _options: object, command: Command) => {
      show(await call<ClusterResource>(agentEndpoint(command), 'GET', pathOf(name)), wantsJson(command), clusterText)
    })

  cluster.command('delete <name>').description('stop the nodes, give back every lease, remove every trace')
    .option('--no-wait', 'return once the deletion is accepted')
    .option('--timeout <seconds>', 'how long to wait', '300')
    .addHelpText('after', '\nExample:\n  musubi cluster delete demo')
    .action(async (name: string, options: { wait: boolean, timeout: string }, command: Command) => {
      const endpoint = agentEndpoint(command)
      const timeoutMs = seconds(options.timeout)
      const accepted = await call<ClusterResource>(endpoint, 'DELETE', pathOf(name))
      const done = options.wait
        ? await waitForCluster(endpoint, accepted.id, ['deleted'], timeoutMs, untilInterrupted(), line => { if (!wantsJson(command)) process.stderr.write(`${line}\n`) })
        : accepted
      show(done, wantsJson(command), c => `${c.name}: ${c.state}${c.timings.deleteMs === null ? '' : ` in ${duration(c.timings.deleteMs)}`}`)
    })

  cluster.command('ssh <name> [node] [command...]').description('a root shell, or one command, on a node; run it on the master gateway')
    .addHelpText('after', '\nExamples:\n  musubi cluster ssh demo demo-tokyo-001\n  musubi cluster ssh demo demo-tokyo-001 -- uname -a')
    .action(async (name: string, node: string | undefined, words: string[], _options: object, command: Command) => {
      const endpoint = agentEndpoint(command)
      const chosen = node ?? (await call<ClusterResource>(endpoint, 'GET', pathOf(name))).nodes[0]?.name
      if (chosen === undefined) throw new InvalidInputError(`cluster ${name} has no node yet`)
      const console = await call<ConsoleResource>(endpoint, 'GET', `${pathOf(name)}/nodes/${encodeURIComponent(chosen)}/console`)
      if (wantsJson(command)) { show(console, true, () => ''); return }
      const [file, ...args] = [...console.argv, ...words]
      if (file === undefined) throw new MusubiError('INTERNAL', 'the agent gave no command')
      const result = spawnSync(file, args, { stdio: 'inherit' })
      if (result.error !== undefined) throw new MusubiError('COMMAND_FAILED', `${file}: ${result.error.message}`)
      process.exitCode = result.status ?? 1
    })
}
