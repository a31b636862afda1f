import type { Command } from 'commander'
import { call, type Endpoint } from '../client.ts'
import { wantsJson } from '../context.ts'
import { show } from '../output.ts'
import { mebibytes, milliseconds, moment, span, thousandths, wholeNumber } from '../quantity.ts'
import { searchText } from '../render/search.ts'
import { InvalidInputError } from '../../protocol/core/errors.ts'
import type { SearchQuery, SearchResult } from '../../protocol/api.ts'

export interface SearchOptions {
  nodes?: string
  vcpus?: string
  memory?: string
  disk?: string
  volume?: string
  role?: string[]
  feature?: string[]
  site?: string[]
  notSite?: string[]
  maxRtt?: string
  maxPrice?: string
  start?: string
  end?: string
  for?: string
  limit?: string
}

const ROLES = ['compute', 'storage', 'gateway']

/** An option that may be given again, or with commas. */
const collect = (text: string, before: string[] = []): string[] => [...before, ...text.split(',')]

function names (list: readonly string[], option: string, allowed: RegExp, example: string): string[] {
  const wrong = list.find(name => !allowed.test(name))
  if (wrong !== undefined) throw new InvalidInputError(`${option}: "${wrong}" is no ${example}`, `several are given as ${option} a,b or by ${option} twice`)
  return [...list]
}

/** The time window: --start to --end, or --for a duration, from now where no start is given. */
function windowOf (o: SearchOptions, nowMs: number): { startMs: number, endMs: number } | null {
  if (o.end !== undefined && o.for !== undefined) throw new InvalidInputError('--end and --for both say when it ends', 'give one of them')
  if (o.start === undefined && o.end === undefined && o.for === undefined) return null
  if (o.end === undefined && o.for === undefined) throw new InvalidInputError('--start without an end is no time window', 'add --end 2026-12-01T16:00 or --for 8h')
  const startMs = o.start === undefined ? nowMs : moment(o.start, '--start')
  const endMs = o.end === undefined ? startMs + span(o.for ?? '', '--for') : moment(o.end, '--end')
  if (endMs <= startMs) throw new InvalidInputError(`--end ${o.end ?? ''} is not after ${o.start === undefined ? 'now' : `--start ${o.start}`}`)
  if (endMs <= nowMs) throw new InvalidInputError(`the time window is over: it ended at ${new Date(endMs).toISOString()}`)
  return { startMs, endMs }
}

/**
 * What was typed as the query of the API; what was not typed is left to the defaults there.
 *
 * @param nowMs where a window without a start begins
 * @throws InvalidInputError naming the option and what it takes
 */
export function searchQueryOf (o: SearchOptions, nowMs: number): Partial<SearchQuery> {
  return {
    ...(o.nodes === undefined ? {} : { nodes: wholeNumber(o.nodes, '--nodes') }),
    ...(o.vcpus === undefined ? {} : { vcpus: wholeNumber(o.vcpus, '--vcpus') }),
    ...(o.memory === undefined ? {} : { memoryMib: mebibytes(o.memory, '--memory') }),
    ...(o.disk === undefined ? {} : { diskMib: mebibytes(o.disk, '--disk') }),
    ...(o.volume === undefined ? {} : { volumeMib: mebibytes(o.volume, '--volume') }),
    ...(o.role === undefined ? {} : { roles: names(o.role, '--role', new RegExp(`^(${ROLES.join('|')})$`), `role (${ROLES.join(', ')})`) }),
    ...(o.feature === undefined ? {} : { features: names(o.feature, '--feature', /^[a-zA-Z0-9][a-zA-Z0-9._-]{0,63}$/, 'name of a feature, such as kvm') }),
    ...(o.site === undefined ? {} : { sites: names(o.site, '--site', /^[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?$/, 'name of a site') }),
    ...(o.notSite === undefined ? {} : { notSites: names(o.notSite, '--not-site', /^[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?$/, 'name of a site') }),
    ...(o.maxRtt === undefined ? {} : { maxRttMs: milliseconds(o.maxRtt, '--max-rtt') }),
    ...(o.maxPrice === undefined ? {} : { maxPriceMilli: thousandths(o.maxPrice, '--max-price') }),
    ...windowOf(o, nowMs),
    ...(o.limit === undefined ? {} : { limit: wholeNumber(o.limit, '--limit') })
  }
}

/** The same search at an agent's own view and at a coordinator's: same options, same answer. */
export function addSearch (parent: Command, where: string, endpointOf: (command: Command) => Endpoint): void {
  const name = `musubi ${parent.parent === null ? '' : `${parent.name()} `}search`
  parent.command('search').description(`which sites could lend what, from ${where}`)
    .option('--nodes <n>', 'how many nodes (default 1)')
    .option('--vcpus <n>', 'virtual CPUs of each (default 1)')
    .option('--memory <size>', 'memory of each, such as 64GiB; a plain number is MiB (default 768)')
    .option('--disk <size>', 'disk of each on its host')
    .option('--volume <size>', 'one data volume')
    .option('--role <role>', 'role that hosts there must have: compute, storage, gateway; may be repeated', collect)
    .option('--feature <name>', 'what hosts there must be able to do, such as kvm; may be repeated', collect)
    .option('--site <site>', 'only this site; may be repeated', collect)
    .option('--not-site <site>', 'any but this site; may be repeated', collect)
    .option('--max-rtt <time>', 'longest round trip from here, such as 50ms')
    .option('--max-price <price>', 'highest price per vCPU and hour, such as 12.5')
    .option('--start <time>', 'when it starts, such as 2026-12-01T08:00 (default now)')
    .option('--end <time>', 'when it ends')
    .option('--for <duration>', 'how long it runs, such as 8h, instead of --end')
    .option('--limit <n>', 'how many sites to show (default 100)')
    .addHelpText('after', `
Sites are ranked by how many of the nodes fit, then RTT, then price. A site that does not take all of it tells why.

Examples:
  ${name} --nodes 8 --vcpus 16 --memory 64GiB
  ${name} --nodes 4 --feature kvm --max-rtt 50ms --max-price 12.5
  ${name} --nodes 4 --start 2026-12-01T08:00 --for 8h --not-site osaka --json`)
    .action(async (o: SearchOptions, command: Command) => {
      show(await call<SearchResult>(endpointOf(command), 'POST', '/v1/search', searchQueryOf(o, Date.now())), wantsJson(command), searchText)
    })
}
