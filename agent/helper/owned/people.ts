/** What people ask a helper: `musubi host owned` and `musubi host sweep`, as root on the host itself. */
import { pino } from 'pino'
import { loadAgentConfig } from '../../config.ts'
import { createHelperClient } from '../client/client.ts'
import type { Owned, Swept } from './owned.ts'
import type { ParamsOf, VerbName, VerbResults } from '../wire/verbs.ts'

async function askOnce<V extends VerbName> (configPath: string, verb: V, params: ParamsOf<V>): Promise<VerbResults[V]> {
  const { helper } = await loadAgentConfig(configPath)
  const client = createHelperClient({ socketPath: helper.socket, log: pino({ level: 'silent' }), persistent: false })
  try {
    return await client.call(verb, params)
  } finally {
    client.close()
  }
}

/** Everything of ours on this host. @throws InvalidInputError, MusubiError HELPER_UNREACHABLE, HELPER_REFUSED */
export const owned = (configPath: string): Promise<Owned> => askOnce(configPath, 'owned', {})

/** @param keep what the agent wants, as `kind name`; null when it could not be asked: then the fence alone decides */
export async function sweep (configPath: string, keep: readonly string[] | null, dryRun: boolean): Promise<Swept> {
  return await askOnce(configPath, 'sweep', { keep: [...keep ?? []], dryRun })
}

/** Columns as wide as their widest cell. */
function table (rows: ReadonlyArray<readonly string[]>): string[] {
  const widths = (rows[0] ?? []).map((_, column) => Math.max(...rows.map(row => row[column]?.length ?? 0)))
  return rows.map(row => row.map((cell, column) => cell.padEnd(widths[column] ?? 0)).join('  ').trimEnd())
}

const unseenLines = (unseen: Owned['unseen']): string[] => unseen.map(({ kind, why }) => `unseen  ${kind}: ${why}`)

export function ownedText ({ objects, orphans, unseen }: Owned): string {
  if (objects.length + orphans.length + unseen.length === 0) return 'Nothing of Musubi is on this host.'
  return [
    ...objects.length === 0 ? [] : table([['KIND', 'NAME', 'WORKS', 'FENCE', 'CLUSTER'], ...objects.map(({ kind, name, healthy, state, clusterId }) => [kind, name, healthy ? 'yes' : 'no', state ?? '-', clusterId === '' ? '-' : clusterId])]),
    ...orphans.map(({ what, name }) => `orphan  ${what} ${name}`),
    ...unseenLines(unseen),
    ...orphans.length === 0 ? [] : ['Orphans belong to no object. To remove them: musubi host sweep']
  ].join('\n')
}

export function sweptText ({ removed, failed, unseen }: Swept, dryRun: boolean): string {
  if (removed.length + failed.length + unseen.length === 0) return 'There is nothing to sweep.'
  return [
    ...removed.map(what => `${dryRun ? 'would go' : 'removed '}  ${what}`), ...failed.map(({ what, why }) => `failed    ${what}: ${why}`), ...unseenLines(unseen)
  ].join('\n')
}
