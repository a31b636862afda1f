import type { Command } from 'commander'
import { call } from '../client.ts'
import { agentEndpoint, confirm, wantsJson } from '../context.ts'
import { show } from '../output.ts'
import { futureMoment, span, wholeNumber, wholeOf } from '../quantity.ts'
import { historyTable, leasesTable, leaseText } from '../render.ts'
import { calendarChart } from '../render/calendar.ts'
import type { LeaseDetail, LeaseEventResource, LeaseResource, LeaseRevoked } from '../../protocol/api.ts'
import type { CalendarResource } from '../../protocol/calendar-api.ts'
import { InvalidInputError } from '../../protocol/core/errors.ts'

function query (fields: Readonly<Record<string, string | undefined>>): string {
  const given = new URLSearchParams()
  for (const [key, value] of Object.entries(fields)) if (value !== undefined) given.set(key, value)
  return given.size === 0 ? '' : `?${given.toString()}`
}

export function addLeaseCommands (program: Command): void {
  const lease = program.command('lease').description('what this host has promised')
  lease.command('list').description('leases in the ledger of this host, the only authority over it')
    .option('--all', 'also ended ones')
    .addHelpText('after', `
State: held: promised for some seconds; committed: promised, nothing runs yet; active; ended.
masterless: its master has not been heard of for a while; it goes on to its end.
Remains: until it ends by itself. Skew: the clock of its master less the clock of this host.

Examples:
  musubi lease list
  musubi lease list --all --json
  musubi lease list --json | jq -r '.[] | select(.masterless) | .cluster'`)
    .action(async (o: { all?: boolean }, command: Command) => {
      show(await call<LeaseResource[]>(agentEndpoint(command), 'GET', `/v1/leases${query({ all: o.all === true ? 'true' : undefined })}`), wantsJson(command), leasesTable)
    })

  lease.command('calendar').description('what is promised when, as a chart: on this host, or on every host of its site')
    .option('--site <name>', 'all hosts of this site; on a gateway of it')
    .option('--from <time>', 'begin there: 2026-12-01T08:00, today 08:00 or +3h; default now')
    .option('--days <number>', 'so many days')
    .option('--for <time>', 'so long, such as 12h; default 1d')
    .addHelpText('after', `
A line for each cluster on each host, from the ledgers themselves. Times are UTC. With --json the leases
and, step by step, what is free.

Examples:
  musubi lease calendar
  musubi lease calendar --site tokyo --days 7
  musubi lease calendar --from "tomorrow 08:00" --for 12h --json | jq .hosts[].steps`)
    .action(async (o: { site?: string, from?: string, days?: string, for?: string }, command: Command) => {
      if (o.days !== undefined && o.for !== undefined) throw new InvalidInputError('give one of --days and --for')
      const spanMs = o.days === undefined ? span(o.for ?? '1d', '--for') : wholeOf(o.days, '--days', 1, 366) * 86_400_000
      const fromMs = o.from === undefined ? Date.now() : futureMoment(o.from, '--from', Date.now())
      const calendar = await call<CalendarResource>(agentEndpoint(command), 'GET', `/v1/calendar${query({ site: o.site, fromMs: String(fromMs), untilMs: String(fromMs + spanMs) })}`)
      const { isTTY, columns } = process.stdout
      show(calendar, wantsJson(command), c => calendarChart(c, { width: isTTY ? columns : 100, colour: isTTY && process.env.NO_COLOR === undefined }))
    })

  lease.command('show <id>').description('one lease: who has it, its term and tokens, what happened to it')
    .addHelpText('after', '\nThe id as in the list, in full, or as much of its beginning as no other has.\n\nExamples:\n  musubi lease show 3f2a91c4-1\n  musubi lease show 3f2a91c4-1 --json | jq .history')
    .action(async (id: string, _o: object, command: Command) => {
      show(await call<LeaseDetail>(agentEndpoint(command), 'GET', `/v1/leases/${encodeURIComponent(id)}`), wantsJson(command), leaseText)
    })

  lease.command('history').description('what the ledger of this host recorded: every change of every lease, oldest first')
    .option('--cluster <name>', 'only of this cluster, by name or id')
    .option('--lease <id>', 'only of this lease')
    .option('--limit <number>', 'the latest so many', '50')
    .addHelpText('after', `
It is part of the ledger, so it outlives restarts. The oldest entries are dropped when it grows long.

Examples:
  musubi lease history
  musubi lease history --cluster demo --limit 500
  musubi lease history --lease 3f2a91c4-1 --json`)
    .action(async (o: { cluster?: string, lease?: string, limit: string }, command: Command) => {
      const limit = wholeNumber(o.limit, '--limit')
      if (limit === 0) throw new InvalidInputError('--limit must be at least 1')
      show(await call<LeaseEventResource[]>(agentEndpoint(command), 'GET', `/v1/ledger/history${query({ cluster: o.cluster, lease: o.lease, limit: String(limit) })}`), wantsJson(command), historyTable)
    })

  lease.command('revoke <cluster>').description('take back what this host lends to a cluster, before its end')
    .requiredOption('--reason <text>', 'kept with the leases and in the history')
    .option('--yes', 'do not ask')
    .addHelpText('after', `
For the operator of the host that lends. Its leases of that cluster end now: nodes here are stopped,
volumes here are deleted, with their data. Other hosts keep theirs; the master shows the cluster as
degraded. To lend no more and let leases run out: musubi host cordon HOST

Examples:
  musubi lease revoke demo --reason "power off at 18:00"
  musubi lease revoke 0c5cf1c2-57a9-4f0f-a8e4-6b0d2c3c7f11 --reason "unpaid" --yes`)
    .action(async (cluster: string, o: { reason: string, yes?: boolean }, command: Command) => {
      await confirm(`this ends every lease of cluster ${cluster} on this host now: its nodes here are stopped, its volumes here are deleted`, o.yes)
      show(await call<LeaseRevoked>(agentEndpoint(command), 'POST', '/v1/ledger/revocations', { cluster, reason: o.reason }), wantsJson(command),
        r => `${r.ended} lease${r.ended === 1 ? '' : 's'} of ${r.cluster} (${r.masterSite}) on ${r.host} revoked; what ran is being removed: musubi agent status`)
    })

  lease.command('fsck').description('check the ledger of this host on its disk; the agent must not run')
    .option('-c, --config <file>', 'configuration', '/etc/musubi/agent.yaml')
    .option('--repair', 'mend what can be mended without breaking a promise')
    .addHelpText('after', `
Reads every record: checksums and versions, what belongs together, tokens against the counter, ids
that two clusters have. Without --repair no record is changed. What cannot be rebuilt from other
records is left as it is, and told.

Exit codes: 0 sound, or all of it mended; 3 something is wrong, or still is; 1 it could not be
looked at, such as STORE_LOCKED while the agent runs; 2 no such configuration or store.

Examples:
  systemctl stop musubi-agent && musubi lease fsck; systemctl start musubi-agent
  musubi lease fsck --repair
  musubi lease fsck --json | jq .findings`)
    .action(async (o: { config: string, repair?: boolean }, command: Command) => {
      const { fsck, fsckText } = await import('../../agent/doctor/fsck.ts')
      const report = await fsck(o.config, o.repair === true)
      show(report, wantsJson(command), fsckText)
      if (!report.sound) process.exitCode = 3
    })
}
