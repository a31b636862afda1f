import type { Command } from 'commander'
import { call } from '../client.ts'
import { agentEndpoint, wantsJson } from '../context.ts'
import { show } from '../output.ts'
import { hostsTable, hostText } from '../render.ts'
import type { CordonResource, HostDetail, HostResource } from '../../protocol/api.ts'

const pathOf = (name: string): string => `/v1/hosts/${encodeURIComponent(name)}`

/** @returns the group, for what is asked of the helper */
export function addHostCommands (program: Command): Command {
  const host = program.command('host').description('hosts of this site')

  host.command('list').description('state, capacity and path of every host of this site')
    .addHelpText('after', `
Examples:
  musubi host list
  musubi host list --json | jq -r '.[] | select(.state != "alive") | .host'

State: alive; suspect: not heard from, and being asked; dead: no longer answers; leaving: was stopped.
Path: direct, relay (through another member), self, or - when there is no connection just now.`)
    .action(async (_o: object, command: Command) => { show(await call<HostResource[]>(agentEndpoint(command), 'GET', '/v1/hosts'), wantsJson(command), hostsTable) })

  host.command('show <name>').description('inventory, features, certificate, path and free capacity of one host')
    .addHelpText('after', '\nExamples:\n  musubi host show tokyo-2\n  musubi host show tokyo-2 --json | jq .inventory.disks')
    .action(async (name: string, _o: object, command: Command) => { show(await call<HostDetail>(agentEndpoint(command), 'GET', pathOf(name)), wantsJson(command), hostText) })

  const cordon = async (name: string, cordoned: boolean, reason: string, command: Command): Promise<void> => {
    const done = await call<CordonResource>(agentEndpoint(command), 'POST', `${pathOf(name)}/cordon`, { cordoned, reason })
    show(done, wantsJson(command), r => r.cordoned
      ? `${r.host} takes no new leases; those it has go on. Back into use: musubi host uncordon ${r.host}`
      : `${r.host} takes leases`)
  }
  host.command('cordon <name>').description('take no new leases on a host; what it has promised stays')
    .option('--reason <text>', 'told to whoever is refused', '')
    .addHelpText('after', '\nA gateway cordons any host of its site, another host only itself. It lasts over restarts.\nA cordoned gateway takes no new cluster of its site at all: it carries the segment of each.\n\nExamples:\n  musubi host cordon tokyo-2 --reason "new memory on Friday"\n  musubi host uncordon tokyo-2')
    .action(async (name: string, o: { reason: string }, command: Command) => { await cordon(name, true, o.reason, command) })
  host.command('uncordon <name>').description('take a host back into use')
    .addHelpText('after', '\nExample:\n  musubi host uncordon tokyo-2')
    .action(async (name: string, _o: object, command: Command) => { await cordon(name, false, '', command) })
  return host
}
