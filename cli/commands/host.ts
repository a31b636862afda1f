import { setTimeout as sleep } from 'node:timers/promises'
import type { Command } from 'commander'
import { call } from '../client.ts'
import { agentEndpoint, untilInterrupted, wantsJson } from '../context.ts'
import { show } from '../output.ts'
import { hostsTable, hostText } from '../render.ts'
import { drainText } from '../render/calendar.ts'
import { timeoutOf } from '../waiting.ts'
import type { CordonResource, HostDetail, HostResource } from '../../protocol/api.ts'
import type { DrainResource } from '../../protocol/calendar-api.ts'
import { MusubiError } from '../../protocol/core/errors.ts'

const DRAIN_POLL_MS = 2_000

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
  host.command('drain <name>').description('cordon a host, and list what must go before it is empty, and when that is')
    .option('--reason <text>', 'told to whoever is refused', '')
    .option('--wait', 'until no lease is left')
    .option('--timeout <seconds>', 'how long to wait', '86400')
    .addHelpText('after', `
Nothing is stopped and nothing is moved: a lease ends when its term does, or when its user lets it go. A
gateway drains any host of its site, another host only itself. Back into use: musubi host uncordon HOST

Exit codes with --wait: 0 the host is empty; 1 it was not within --timeout.

Examples:
  musubi host drain tokyo-2 --reason "new memory on Friday"
  musubi host drain tokyo-2 --wait --timeout 3600
  musubi host drain tokyo-2 --json | jq -r '.leases[].cluster' | sort -u`)
    .action(async (name: string, o: { reason: string, wait?: boolean, timeout: string }, command: Command) => {
      const endpoint = agentEndpoint(command)
      const timeoutMs = timeoutOf(o.timeout)
      const path = `${pathOf(name)}/drain`
      let drain = await call<DrainResource>(endpoint, 'POST', path, { reason: o.reason })
      const signal = untilInterrupted()
      let told = ''
      for (const end = Date.now() + timeoutMs; o.wait === true && drain.leases.length > 0; drain = await call<DrainResource>(endpoint, 'GET', path)) {
        const line = `${name}: ${drain.leases.length} leases of ${[...new Set(drain.leases.map(lease => lease.cluster))].join(', ')}, the last until ${new Date(drain.emptyMs).toISOString()}`
        if (line !== told && !wantsJson(command)) process.stderr.write(`${line}\n`)
        told = line
        if (signal.aborted) throw new MusubiError('INTERRUPTED', `stopped waiting; ${name} stays cordoned`, { hint: `back into use: musubi host uncordon ${name}` })
        if (Date.now() > end) throw new MusubiError('TIMEOUT', line, { hint: `look at: musubi host drain ${name}` })
        await sleep(Math.min(DRAIN_POLL_MS, Math.max(1, end - Date.now())))
      }
      show(drain, wantsJson(command), drainText)
    })
  return host
}
