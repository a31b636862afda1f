import type { Command } from 'commander'
import { call } from '../client.ts'
import { agentEndpoint, wantsJson } from '../context.ts'
import { show } from '../output.ts'
import { moment, span } from '../quantity.ts'
import { clusterText } from '../render.ts'
import { differs, heldText, planText } from '../render/plan.ts'
import { follow } from '../waiting.ts'
import { working } from '../working.ts'
import { readYamlFile } from '../../protocol/config-file.ts'
import type { ClusterResource, ClusterState } from '../../protocol/api.ts'
import { formatDuration } from '../../protocol/core/notation/duration.ts'
import { InvalidInputError } from '../../protocol/core/errors.ts'
import { HOLD_TTL_MS, MAX_HOLD_TTL_MS, PLAN_HOLD_MS } from '../../protocol/core/limits.ts'
import type { HeldPlan, PlanResource } from '../../protocol/plan-api.ts'

/** Three rounds of requests, or six where the earliest start is looked for. */
const NEGOTIATION_MS = 180_000
/** What a cluster that is held can have become by the time that it is looked at. */
const HELD: readonly ClusterState[] = ['offered', 'committing', 'preparing', 'activating', 'building', 'ready', 'degraded', 'reserved']

interface PlanOptions { hold?: string | true, file: string, start?: string, end?: string, for?: string, earliest?: boolean, within?: string, sites?: string }

/** @throws InvalidInputError for a time that sites do not hold */
function holdOf (hold: string | true): number {
  const ms = hold === true ? PLAN_HOLD_MS : span(hold, '--hold')
  if (ms < HOLD_TTL_MS || ms > MAX_HOLD_TTL_MS) throw new InvalidInputError(`--hold must be from ${formatDuration(HOLD_TTL_MS)} to ${formatDuration(MAX_HOLD_TTL_MS)}, not ${formatDuration(ms)}`, 'what nobody else can get meanwhile is held for a short time only; without a time it is two minutes')
  return ms
}

function query ({ start, end, for: lasting, earliest, within, sites }: PlanOptions, holdMs?: number): string {
  const given = new URLSearchParams()
  if (holdMs !== undefined) given.set('holdMs', String(holdMs))
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
  cluster.command('plan').description('every site\'s offer for a cluster, side by side, and what create would do; nothing is held without --hold')
    .requiredOption('-f, --file <spec.yaml>', 'cluster specification')
    .option('--start <time>', 'begin then, such as 2026-12-01T08:00; with Z or +09:00 where that is another zone')
    .option('--end <time>', 'end then, instead of the term of the specification')
    .option('--for <time>', 'last so long, such as 8h, instead of it')
    .option('--earliest', 'begin as early as all of it fits, no sooner than --start')
    .option('--within <time>', 'with --earliest: begin no later than so long after that')
    .option('--sites <names>', 'ask only these, with commas between them, beside the own one')
    .option('--hold [time]', 'have all sites hold it for so long, 30s to 5m, default 2m; then: cluster accept')
    .addHelpText('after', `
Each site is asked for all of the cluster. NODES: how many of them it would take; FOR ALL: what all of it
costs there; ALL FROM: when it could take all by itself; ALL NOW WITH: the largest shape of node in which it
could take all at once. Below that is what create would ask for now, or why it would be refused.

Over the WAN go the files of the node image, once to each site without the frontend, but for what a store of
an earlier cluster has there (spec.cache.retain); volumes stay in their site. The time is an estimate: by the
bandwidth that both gateways have free (configured); where they do not say, by the fastest that this gateway
has sent to that one within a day (measured); else it is unknown.

An offer is true of this moment and holds nothing: others can be faster. With --hold, sites are asked in
earnest when it fits, as create asks them; one that refuses then is replaced, so what is held may differ from
the plan, which is said. It waits for you as a cluster in the state "offered", and nothing is decided:
  musubi cluster accept NAME    has it built
  musubi cluster delete NAME    gives it back
It can be accepted until ten seconds before the first site's hold ends: a commit takes its time. After that,
or when the agent here restarts, all is given back, and nothing is renewed. A site of an older release holds
for 30 s at most. "held until" says when; cluster show says it again.

Exit codes: 0 it fits, and with --hold is held; 1 it does not, or could not be planned or held; 2 and 4 as
everywhere.

Examples:
  musubi cluster plan -f demo.yaml
  musubi cluster plan -f demo.yaml --earliest --within 2d
  musubi cluster plan -f demo.yaml --start 2026-12-01T08:00 --for 8h --sites osaka,kyoto
  musubi cluster plan -f demo.yaml --hold
  musubi cluster plan -f demo.yaml --hold 5m --json | jq '.held | {name, heldUntil}'
  musubi cluster plan -f demo.yaml --json | jq '.offers[] | {site, nodes, counter}'`)
    .action(async (options: PlanOptions, command: Command) => {
      const holdMs = options.hold === undefined ? undefined : holdOf(options.hold)
      const endpoint = agentEndpoint(command)
      const path = `/v1/plans${query(options)}`
      const spec = await readYamlFile(options.file)
      const plan = await working('asking sites for their offers', () => call<PlanResource>(endpoint, 'POST', path, spec))
      if (holdMs === undefined || !plan.fits) {
        show(plan, wantsJson(command), planText)
        if (!plan.fits) process.exitCode = 1
        return
      }
      if (!wantsJson(command)) show(plan, false, one => `${planText(one, true)}\n`)
      const asked = await call<ClusterResource>(endpoint, 'POST', `/v1/clusters${query(options, holdMs)}`, spec)
      const cluster = await follow(command, asked, HELD, NEGOTIATION_MS)
      const { id, name, startsAt, expiresAt, heldUntil, held } = cluster
      if (heldUntil == null || held == null) { show(cluster, wantsJson(command), clusterText); return }
      const heldPlan: HeldPlan = { ...plan, held: { id, name, startsAt, expiresAt, heldUntil, sites: held, differs: differs(plan, cluster) } }
      show(heldPlan, wantsJson(command), () => heldText(plan, cluster))
    })
}
