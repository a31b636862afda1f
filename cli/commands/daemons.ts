import type { Command } from 'commander'
import { call } from '../client.ts'
import { agentEndpoint, readToken, wantsJson } from '../context.ts'
import { show } from '../output.ts'
import { spanOrNone } from '../quantity.ts'
import { errorCode } from '../../protocol/core/errors.ts'
import type { AgentStatus } from '../../protocol/api.ts'
import { addAgentViews } from './views.ts'

/**
 * The daemons are subcommands of the one binary. They are loaded only when asked for, so that a
 * short command does not pay for libp2p.
 */
export function addDaemonCommands (program: Command): void {
  const agent = program.command('agent').description('the daemon of a host')
  const config = ['-c, --config <file>', 'configuration', '/etc/musubi/agent.yaml'] as const
  agent.command('join <token>').description('make this host a member of a site, with a token of musubi site invite')
    .option(...config)
    .addHelpText('after', `
The agent need not run. The key of this host is made when there is none. Running it again with the
same token gives the same certificate; a host whose certificate has ended joins again, and keeps its
key, its leases and what it runs. With - the token is read from standard input.

Examples:
  musubi agent join musubi-a...
  musubi agent join - < token
  musubi agent join musubi-a... -c /etc/musubi/agent.yaml --json`)
    .action(async (token: string, o: { config: string }, command: Command) => {
      const { joinAgent } = await import('../../agent/site/join.ts')
      show(await joinAgent(o.config, await readToken(token)), wantsJson(command), r => [
        `${r.site}/${r.host}: ${r.changed ? 'joined' : 'is a member already'} as ${r.roles.join(', ')}`,
        `peer         ${r.peerId}`, `federation   ${r.federation}`, `certificate  until ${new Date(r.notAfterMs).toISOString().slice(0, 10)}; a running agent renews it by itself`, `next         ${r.next}`
      ].join('\n'))
    })
  agent.command('run').description('run in the foreground, as systemd does')
    .option(...config)
    .addHelpText('after', '\nExample:\n  musubi agent run -c /etc/musubi/agent.yaml')
    .action(async (o: { config: string }) => { await (await import('../../agent/main.ts')).runAgent(o.config) })
  const helper = program.command('helper').description('the process of a host that holds the privileges')
  helper.command('run').description('run in the foreground as root, as systemd does; the agent asks it')
    .option(...config)
    .addHelpText('after', '\nIt reads the configuration of the agent: helper.socket, helper.stateDir, helper.agentUser.\n\nExample:\n  musubi helper run -c /etc/musubi/agent.yaml')
    .action(async (o: { config: string }) => { await (await import('../../agent/helper/main.ts')).runHelper(o.config) })
  addAgentViews(agent)
  agent.command('doctor').description('what this host lacks for its roles, and what mends it')
    .option(...config)
    .addHelpText('after', '\nEnds with 3 when something is missing.\n\nExamples:\n  musubi agent doctor\n  musubi agent doctor --json | jq -r .findings[].mend')
    .action(async (o: { config: string }, command: Command) => {
      const { doctor, doctorText } = await import('../../agent/doctor/doctor.ts')
      const report = await doctor(o.config)
      show(report, wantsJson(command), doctorText)
      if (!report.ok) process.exitCode = 3
    })
  agent.command('reset').description('after the state folder was lost: let the next start remove nodes and volumes that no ledger asks for')
    .option(...config)
    .requiredOption('--yes', 'the data of those volumes is given up')
    .option('--longest-lease <duration>', 'how long leases that this host gave out may run on, when it is known; 0s when all of them have ended')
    .addHelpText('after', '\nA gateway gives out no in-site ids, and lends nothing of a quota, until its longest lease has ended, as others may still\nhave some; by default two years, the most that can have been promised.\n\nExamples:\n  musubi agent reset --yes\n  musubi agent reset --yes --longest-lease 8h')
    .action(async (o: { config: string, longestLease?: string }, command: Command) => {
      const longestMs = o.longestLease === undefined ? undefined : spanOrNone(o.longestLease, '--longest-lease')
      show(await (await import('../../agent/main.ts')).resetAgent(o.config, longestMs), wantsJson(command), r => `declared in ${r.stateDir}; next: systemctl start musubi-agent`)
    })

  const image = program.command('image').description('images that nodes boot')
  const store = '--store <dir>'
  image.command('build').description('build the default node image (Debian 12) once; it is kept by digest')
    .option(store, 'image store', '/var/lib/musubi-images')
    .addHelpText('after', '\nExample:\n  musubi image build')
    .action(async (o: { store: string }, command: Command) => {
      const { buildNodeImage } = await import('../../agent/images/build.ts')
      const result = await buildNodeImage({ storeDir: o.store, signal: AbortSignal.timeout(1_800_000), onProgress: step => { if (!wantsJson(command)) process.stderr.write(`${step}\n`) } })
      show(result, wantsJson(command), r => `${r.digest}${r.built ? '  built' : '  already there'}`)
    })
  image.command('list').description('images in the store')
    .option(store, 'image store', '/var/lib/musubi-images')
    .addHelpText('after', '\nExample:\n  musubi image list')
    .action(async (o: { store: string }, command: Command) => {
      const { openImageStore } = await import('../../agent/images/store.ts')
      const images = (await openImageStore(o.store).list()).map(({ digest, dir, manifest }) => ({ digest, dir, files: manifest.files }))
      show(images, wantsJson(command), list => list.length === 0 ? 'No image. Build one with: musubi image build' : list.map(i => i.digest).join('\n'))
    })
}

/** What the agent wants to keep, as `kind name`; null when it does not run. */
async function wantedByAgent (command: Command): Promise<string[] | null> {
  try {
    const { objects } = await call<AgentStatus>(agentEndpoint(command), 'GET', '/v1/status')
    return objects.filter(object => object.state !== 'removing').map(({ kind, name }) => `${kind} ${name}`)
  } catch (error) {
    if (errorCode(error) !== 'UNREACHABLE') throw error
    return null
  }
}

/** Questions to the helper of this host, by root. */
export function addOwnedCommands (host: Command): void {
  const config = ['-c, --config <file>', 'configuration', '/etc/musubi/agent.yaml'] as const
  host.command('owned').description('as root: everything of Musubi on this host, and what belongs to no object')
    .option(...config)
    .addHelpText('after', `
Works: whether the object is as it should be. Fence: granted (a lease stands behind it), revoking (it
is to go), gone, or - (nothing is known of it).

Examples:
  musubi host owned
  musubi host owned --json | jq -r .orphans[].name`)
    .action(async (o: { config: string }, command: Command) => {
      const { owned, ownedText } = await import('../../agent/helper/owned/people.ts')
      show(await owned(o.config), wantsJson(command), ownedText)
    })
  host.command('sweep').description('as root: remove what neither a lease nor the agent wants on this host')
    .option(...config)
    .option('--dry-run', 'only list it')
    .addHelpText('after', `
What the fence has granted stays, and whatever the agent wants. When the agent does not run the fence
alone decides. Kinds that cannot be looked at are left alone. Ends with 1 when something would not go.

Examples:
  musubi host sweep --dry-run
  musubi host sweep`)
    .action(async (o: { config: string, dryRun?: boolean }, command: Command) => {
      const { sweep, sweptText } = await import('../../agent/helper/owned/people.ts')
      const dryRun = o.dryRun === true
      const swept = await sweep(o.config, await wantedByAgent(command), dryRun)
      show(swept, wantsJson(command), r => sweptText(r, dryRun))
      if (swept.failed.length > 0) process.exitCode = 1
    })
}
