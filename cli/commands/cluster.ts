import { spawnSync } from 'node:child_process'
import type { Command } from 'commander'
import { addAmendments } from './amend.ts'
import { addPlanCommand } from './plan.ts'
import { call } from '../client.ts'
import { agentEndpoint, wantsJson } from '../context.ts'
import { duration, show } from '../output.ts'
import { futureMoment, span } from '../quantity.ts'
import { clustersTable, clusterText } from '../render.ts'
import { clusterPath, follow, timeoutOf } from '../waiting.ts'
import { readYamlFile } from '../../protocol/config-file.ts'
import { InvalidInputError, MusubiError } from '../../protocol/core/errors.ts'
import type { ClusterResource, ConsoleResource } from '../../protocol/api.ts'

interface WhenOptions { start?: string, end?: string, for?: string, earliest?: boolean, within?: string }

/** What is said of its time beside the specification, as the API takes it. */
function whenQuery ({ start, end, for: lasting, earliest, within }: WhenOptions, nowMs: number): string[] {
  return [
    ...start === undefined ? [] : [`startMs=${futureMoment(start, '--start', nowMs)}`],
    ...end === undefined ? [] : [`endMs=${futureMoment(end, '--end', nowMs)}`],
    ...lasting === undefined ? [] : [`forMs=${span(lasting, '--for')}`],
    ...earliest === true ? ['earliest=true'] : [],
    ...within === undefined ? [] : [`withinMs=${span(within, '--within')}`]
  ]
}

export function addClusterCommands (program: Command): void {
  const cluster = program.command('cluster').description('virtual clusters that this site is the master of')

  cluster.command('create')
    .description('lease machines at one or more sites, tie them together and install them')
    .requiredOption('-f, --file <spec.yaml>', 'cluster specification')
    .option('--start <time>', 'begin then: 2026-12-01T08:00, with Z or +09:00 where that is another zone; tomorrow 08:00; +3h')
    .option('--end <time>', 'end then, instead of the term of the specification')
    .option('--for <time>', 'last so long, such as 8h, instead of it')
    .option('--earliest', 'begin as early as all of it fits, no sooner than --start')
    .option('--within <time>', 'with --earliest: begin no later than so long after that')
    .option('--dry-run', 'check the specification and say where it would be placed; hold nothing')
    .option('--no-wait', 'return once the request is accepted')
    .option('--timeout <seconds>', 'how long to wait for all nodes', '1800')
    .addHelpText('after', `
Examples:
  musubi cluster create -f demo.yaml
  musubi cluster create -f demo.yaml --dry-run
  musubi cluster create -f demo.yaml --start 2026-12-01T08:00 --for 8h
  musubi cluster create -f demo.yaml --earliest --within 2d
  musubi cluster create -f demo.yaml --no-wait --json

With a start to come every lease is promised now, and nothing runs before. It is waited until that is so;
whether it starts is for this site to see to: a reservation that its master does not confirm in the ten
minutes before its start ends then.

A specification:
  apiVersion: musubi/v1
  kind: Cluster
  metadata: {name: demo}
  spec:
    nodes: {count: 4, vcpus: 1, memoryMiB: 768}
    volumes: [{name: data, sizeMiB: 64, node: 1}]
    term: 2h`)
    .action(async (options: { file: string, dryRun?: boolean, wait: boolean, timeout: string } & WhenOptions, command: Command) => {
      const endpoint = agentEndpoint(command)
      const timeoutMs = timeoutOf(options.timeout)
      const when = whenQuery(options, Date.now())
      const spec = await readYamlFile(options.file)
      if (options.dryRun === true) {
        const plan = await call<{ explanation: string }>(endpoint, 'POST', `/v1/clusters?${[...when, 'dryRun=true'].join('&')}`, spec)
        show(plan, wantsJson(command), p => p.explanation)
        return
      }
      const accepted = await call<ClusterResource>(endpoint, 'POST', `/v1/clusters${when.length === 0 ? '' : `?${when.join('&')}`}`, spec)
      const done = options.wait
        ? await follow(command, accepted, ['ready', 'degraded', 'reserved'], timeoutMs)
        : accepted
      show(done, wantsJson(command), clusterText)
    })

  cluster.command('list').description('all clusters of this master, and masterless ones of its site')
    .addHelpText('after', '\nmasterless: another gateway of this site was its master and is not heard of. It runs on to its\nend; to look after it from here: musubi cluster adopt NAME\n\nExamples:\n  musubi cluster list\n  musubi cluster list --json')
    .action(async (_options: object, command: Command) => {
      show(await call<ClusterResource[]>(agentEndpoint(command), 'GET', '/v1/clusters'), wantsJson(command), clustersTable)
    })

  cluster.command('show <name>').description('nodes, phases, segment, bytes over the WAN')
    .addHelpText('after', '\nExamples:\n  musubi cluster show demo\n  musubi cluster show demo --json | jq -r .nodes[].ip')
    .action(async (name: string, _options: object, command: Command) => {
      show(await call<ClusterResource>(agentEndpoint(command), 'GET', clusterPath(name)), wantsJson(command), clusterText)
    })

  cluster.command('delete <name>').description('stop the nodes, give back every lease, remove every trace')
    .option('--no-wait', 'return once the deletion is accepted')
    .option('--timeout <seconds>', 'how long to wait', '300')
    .addHelpText('after', '\nExample:\n  musubi cluster delete demo')
    .action(async (name: string, options: { wait: boolean, timeout: string }, command: Command) => {
      const endpoint = agentEndpoint(command)
      const timeoutMs = timeoutOf(options.timeout)
      const accepted = await call<ClusterResource>(endpoint, 'DELETE', clusterPath(name))
      const done = options.wait
        ? await follow(command, accepted, ['deleted'], timeoutMs)
        : accepted
      show(done, wantsJson(command), c => `${c.name}: ${c.state}${c.timings.deleteMs === null ? '' : ` in ${duration(c.timings.deleteMs)}`}`)
    })

  addPlanCommand(cluster)
  addAmendments(cluster)

  cluster.command('ssh <name> [node] [command...]').description('a root shell, or one command, on a node; run it on the master gateway')
    .addHelpText('after', '\nExamples:\n  musubi cluster ssh demo demo-tokyo-001\n  musubi cluster ssh demo demo-tokyo-001 -- uname -a')
    .action(async (name: string, node: string | undefined, words: string[], _options: object, command: Command) => {
      const endpoint = agentEndpoint(command)
      const chosen = node ?? (await call<ClusterResource>(endpoint, 'GET', clusterPath(name))).nodes[0]?.name
      if (chosen === undefined) throw new InvalidInputError(`cluster ${name} has no node yet`)
      const console = await call<ConsoleResource>(endpoint, 'GET', `${clusterPath(name)}/nodes/${encodeURIComponent(chosen)}/console`)
      if (wantsJson(command)) { show(console, true, () => ''); return }
      const [file, ...args] = [...console.argv, ...words]
      if (file === undefined) throw new MusubiError('INTERNAL', 'the agent gave no command')
      const result = spawnSync(file, args, { stdio: 'inherit' })
      if (result.error !== undefined) throw new MusubiError('COMMAND_FAILED', `${file}: ${result.error.message}`)
      process.exitCode = result.status ?? 1
    })
}
