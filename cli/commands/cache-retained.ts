import type { Command } from 'commander'
import { call } from '../client.ts'
import { agentEndpoint, confirm, wantsJson } from '../context.ts'
import { bytes, show } from '../output.ts'
import { retainedText } from '../render/cache.ts'
import type { RetainedDeedResource, RetainedStoresResource } from '../../protocol/cache-api.ts'
import { InvalidInputError } from '../../protocol/core/errors.ts'

const PATH = '/v1/cache/retained'

/** `musubi cache retained`: what the gateway that is asked keeps of ended clusters. */
export function addRetainedCommands (cache: Command): void {
  const retained = cache.command('retained').description('stores of this gateway that outlive their clusters')
    .addHelpText('after', `
For the next cluster of the same site that asks for it with spec.cache.retain. Run it on the gateway that had the cache.

Examples:
  musubi cache retained
  musubi cache retained --json | jq '.stores[].bytes'
  musubi cache retained purge tokyo --yes`)
    .action(async (_o: object, command: Command) => {
      show(await call<RetainedStoresResource>(agentEndpoint(command), 'GET', PATH), wantsJson(command), stores => retainedText(stores, Date.now()))
    })
  retained.command('purge [owner]').description('drops those of one site\'s clusters, or all')
    .option('--all', 'of all sites')
    .option('--yes', 'do not ask')
    .addHelpText('after', '\nExamples:\n  musubi cache retained purge tokyo\n  musubi cache retained purge --all --yes')
    .action(async (owner: string | undefined, o: { all?: boolean, yes?: boolean }, command: Command) => {
      if ((owner === undefined) === (o.all !== true)) throw new InvalidInputError('say whose stores go: a site, or --all')
      await confirm(`the stores that are kept${owner === undefined ? '' : ` for site ${owner}`} are dropped: what is in them comes over the WAN again`, o.yes)
      const dropped = await call<RetainedDeedResource>(agentEndpoint(command), 'POST', `${PATH}/purge`, owner === undefined ? { all: true } : { owner })
      show(dropped, wantsJson(command), ({ stores, bytes: freed }) => `${stores} stores, ${bytes(freed)} dropped`)
    })
}
