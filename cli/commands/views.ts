import type { Command } from 'commander'
import { call, events } from '../client.ts'
import { agentEndpoint, coordinatorEndpoint, untilInterrupted, wantsJson } from '../context.ts'
import { bytes, show, table } from '../output.ts'
import { hostsTable, leasesTable, searchText, sitesTable, statusText } from '../render.ts'
import { InvalidInputError } from '../../protocol/core/errors.ts'
import type { AgentStatus, ClusterResource, CoordinatorStatus, EventResource, HostResource, LeaseResource, SearchQuery, SearchResult, SiteResource } from '../../protocol/api.ts'
import type { Endpoint } from '../client.ts'

interface SearchOptions { nodes: string, vcpus: string, memory: string, volume: string }

const integer = (text: string, option: string): number => {
  if (!/^\d{1,12}$/.test(text)) throw new InvalidInputError(`${option} must be a whole number, not "${text}"`)
  return Number(text)
}

/** The same search at an agent's own view and at a coordinator's: same options, same answer. */
function addSearch (parent: Command, where: string, endpointOf: (command: Command) => Endpoint): void {
  parent.command('search').description(`which sites could lend what now, from ${where}`)
    .option('--nodes <n>', 'how many nodes', '1')
    .option('--vcpus <n>', 'virtual CPUs of each', '1')
    .option('--memory <MiB>', 'memory of each, MiB', '768')
    .option('--volume <MiB>', 'one data volume, MiB', '0')
    .addHelpText('after', `\nExample:\n  musubi ${parent.parent === null ? '' : `${parent.name()} `}search --nodes 4 --vcpus 2 --memory 2048`)
    .action(async (o: SearchOptions, command: Command) => {
      const query: SearchQuery = { nodes: integer(o.nodes, '--nodes'), vcpus: integer(o.vcpus, '--vcpus'), memoryMib: integer(o.memory, '--memory'), volumeMib: integer(o.volume, '--volume') }
      show(await call<SearchResult>(endpointOf(command), 'POST', '/v1/search', query), wantsJson(command), searchText)
    })
}

export function addViewCommands (program: Command): void {
  const host = program.command('host').description('hosts of this site')
  host.command('list').description('capacity and state of every host of this site')
    .action(async (_o: object, command: Command) => { show(await call<HostResource[]>(agentEndpoint(command), 'GET', '/v1/hosts'), wantsJson(command), hostsTable) })

  addSearch(program, 'the view of this agent', agentEndpoint)

  const lease = program.command('lease').description('what this host has promised')
  lease.command('list').description('leases in the ledger of this host, the only authority over it')
    .option('--all', 'also ended ones')
    .action(async (o: { all?: boolean }, command: Command) => {
      show(await call<LeaseResource[]>(agentEndpoint(command), 'GET', `/v1/leases${o.all === true ? '?all=true' : ''}`), wantsJson(command), leasesTable)
    })

  const segment = program.command('segment').description('the flat networks of clusters')
  segment.command('list').description('VNI and in-site id of each cluster')
    .action(async (_o: object, command: Command) => {
      show(await call<ClusterResource[]>(agentEndpoint(command), 'GET', '/v1/clusters'), wantsJson(command), clusters =>
        table(['cluster', 'vni', 'cidr', 'in-site ids', 'mtu', 'state'], clusters.map(c => [c.name, String(c.segment.vni), c.cidr, Object.entries(c.segment.ids).map(([s, id]) => `${s}=${id}`).join(' '), String(c.segment.mtuInner), c.state])))
    })

  const cache = program.command('cache').description('what the transparent caches saved')
  cache.command('status').description('requests, hits and bytes of each cache')
    .action(async (_o: object, command: Command) => {
      show(await call<ClusterResource[]>(agentEndpoint(command), 'GET', '/v1/clusters'), wantsJson(command), clusters => {
        const rows = clusters.flatMap(c => c.caches.map(k => [c.name, k.site, String(k.requests), String(k.hits), bytes(k.bytesToNodes), bytes(k.bytesFromUpstream)]))
        return rows.length === 0 ? 'No cache is running: a cluster has one at each site without its frontend.' : table(['cluster', 'site', 'requests', 'hits', 'to nodes', 'from frontend'], rows)
      })
    })

  program.command('events').description('what happened here, and with --follow what happens')
    .option('-F, --follow', 'go on until Ctrl-C')
    .action(async (o: { follow?: boolean }, command: Command) => {
      const json = wantsJson(command)
      const print = (e: EventResource): void => { process.stdout.write(json ? `${JSON.stringify(e)}\n` : `${new Date(e.time).toISOString()}  ${e.type.padEnd(16)} ${e.message}\n`) }
      const endpoint = agentEndpoint(command)
      if (o.follow !== true) { for (const e of await call<EventResource[]>(endpoint, 'GET', '/v1/events')) print(e); return }
      for await (const e of events<EventResource>(endpoint, '/v1/events/stream', untilInterrupted())) print(e)
    })
}

export function addAgentViews (agent: Command): void {
  agent.command('status').description('identity, peers, capacity and objects of this agent')
    .action(async (_o: object, command: Command) => { show(await call<AgentStatus>(agentEndpoint(command), 'GET', '/v1/status'), wantsJson(command), statusText) })
}

export function addCoordinatorViews (coordinator: Command): void {
  coordinator.command('sites').description('sites that this coordinator knows')
    .action(async (_o: object, command: Command) => { show(await call<SiteResource[]>(coordinatorEndpoint(command), 'GET', '/v1/sites'), wantsJson(command), sitesTable) })
  addSearch(coordinator, 'the repository of sites', coordinatorEndpoint)
  coordinator.command('status').description('identity and peers of the coordinator')
    .action(async (_o: object, command: Command) => {
      show(await call<CoordinatorStatus>(coordinatorEndpoint(command), 'GET', '/v1/status'), wantsJson(command), s =>
        `${s.name}  musubi ${s.version}  start ${s.epoch}\npeer      ${s.peerId}\nsites     ${s.sites}\npeers     ${s.peers.map(p => p.name).join(', ') || 'none connected'}`)
    })
}
