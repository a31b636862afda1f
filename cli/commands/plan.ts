import type { Command } from 'commander'
import { call } from '../client.ts'
import { agentEndpoint, wantsJson } from '../context.ts'
import { show } from '../output.ts'
import { moment, span } from '../quantity.ts'
import { planText } from '../render/plan.ts'
import { working } from '../working.ts'
import { readYamlFile } from '../../protocol/config-file.ts'
import type { PlanResource } from '../../protocol/plan-api.ts'

interface PlanOptions { file: string, start?: string, end?: string, for?: string, earliest?: boolean, within?: string, sites?: string }

function query ({ start, end, for: lasting, earliest, within, sites }: PlanOptions): string {
  const given = new URLSearchParams()
  if (start !== undefined) given.set('startMs', String(moment(start, '--start')))
  if (end !== undefined) given.set('endMs', String(moment(end, '--end')))
  if (lasting !== undefined) given.set('forMs', String(span(lasting, '--for')))
  if (earliest === true) given.set('earliest', 'true')
  if (within !== undefined) given.set('withinMs', String(span(within, '--within')))
  if (sites !== undefined) given.set('sites', sites)
  return given.size === 0 ? '' : `?${given.toString()}`
}

/** What a cluster would get, before it is asked for. */
export function addPlanCommand (cluster: Command): void {
  cluster.command('plan').description('every site\'s offer for a cluster, side by side, and what create would do; nothing is held')
    .requiredOption('-f, --file <spec.yaml>', 'cluster specification')
    .option('--start <time>', 'begin then, such as 2026-12-01T08:00; with Z or +09:00 where that is another zone')
    .option('--end <time>', 'end then, instead of the term of the specification')
    .option('--for <time>', 'last so long, such as 8h, instead of it')
    .option('--earliest', 'begin as early as all of it fits, no sooner than --start')
    .option('--within <time>', 'with --earliest: begin no later than so long after that')
    .option('--sites <names>', 'ask only these, with commas between them, beside the own one')
    .addHelpText('after', `
Each site is asked for all of the cluster. NODES: how many of them it would take; FOR ALL: what all of it
costs there; ALL FROM: when it could take all by itself; ALL NOW WITH: the largest shape of node in which it
could take all at once. Below that is what create would ask for now, or why it would be refused.

Over the WAN go the files of the node image, once to each site without the frontend, but for what a store of
an earlier cluster has there (spec.cache.retain); volumes stay in their site. The time is an estimate: by the
bandwidth that both gateways have free (configured); where they do not say, by the fastest that this gateway
has sent to that one within a day (measured); else it is unknown.

An offer is true of this moment and holds nothing: others can be faster. To keep one, create the cluster,
with --start for a time to come.

Exit codes: 0 it fits, 1 it does not, or could not be planned; 2 and 4 as everywhere.

Examples:
  musubi cluster plan -f demo.yaml
  musubi cluster plan -f demo.yaml --earliest --within 2d
  musubi cluster plan -f demo.yaml --start 2026-12-01T08:00 --for 8h --sites osaka,kyoto
  musubi cluster plan -f demo.yaml --json | jq '.offers[] | {site, nodes, counter}'`)
    .action(async (options: PlanOptions, command: Command) => {
      const path = `/v1/plans${query(options)}`
      const spec = await readYamlFile(options.file)
      const plan = await working('asking sites for their offers', () => call<PlanResource>(agentEndpoint(command), 'POST', path, spec))
      show(plan, wantsJson(command), planText)
      if (!plan.fits) process.exitCode = 1
    })
}
