import { Command } from 'commander'
import { addCacheCommands } from './commands/cache.ts'
import { addClusterCommands } from './commands/cluster.ts'
import { addCoordinatorCommands } from './commands/coordinator.ts'
import { addDaemonCommands, addOwnedCommands } from './commands/daemons.ts'
import { addHostCommands } from './commands/host.ts'
import { addLeaseCommands } from './commands/lease.ts'
import { addSegmentCommands } from './commands/segment.ts'
import { addSiteCommands } from './commands/site.ts'
import { addTunnelCommands } from './commands/tunnel.ts'
import { addViewCommands } from './commands/views.ts'
import { bashCompletion } from './completion.ts'
import { indented } from './output.ts'
import { MusubiError } from '../protocol/core/errors.ts'
import { VERSION } from '../protocol/version.ts'

/** Input, configuration, key or certificates: the same again cannot work (systemd does not restart after 2). */
const CANNOT_WORK = new Set([
  'INVALID_INPUT', 'NOT_A_MEMBER', 'WRONG_IDENTITY', 'NOT_JOINED', 'BAD_CREDENTIALS', 'BAD_KEY', 'KEY_NOT_PRIVATE',
  'NO_CERTIFICATE', 'BAD_CERTIFICATE', 'OTHER_FEDERATION', 'CERTIFICATE_EXPIRED', 'CERTIFICATE_REVOKED'
])

/** Exit codes: 0 done, 1 the request failed, 2 bad usage or bad input, 3 doctor, ping or fsck found something, 4 nobody answered. */
function exitCodeOf (error: unknown): number {
  if (!(error instanceof MusubiError)) return 1
  if (CANNOT_WORK.has(error.code)) return 2
  if (error.code === 'UNREACHABLE' || error.code === 'HELPER_UNREACHABLE') return 4
  return 1
}

export function buildProgram (): Command {
  const program = new Command('musubi')
    .description('one virtual cluster out of machines at several sites')
    .version(VERSION)
    .option('--json', 'print the resource as JSON')
    .option('--socket <path>', 'unix socket of the agent or coordinator')
    .option('--url <url>', 'HTTP address of the agent or coordinator')
    .enablePositionalOptions(false)
    .showHelpAfterError('(add --help for what there is)')
    .addHelpText('after', `
Examples:
  musubi agent join TOKEN                   make this host a member of a site
  musubi agent doctor                       what this host lacks, and what mends it
  musubi host list                          hosts of this site
  musubi search --nodes 8 --memory 64GiB    which sites could lend that
  musubi cluster plan -f cluster.yaml       what each site would give, and when
  musubi cluster create -f cluster.yaml     build a cluster over the sites
  musubi cluster show demo                  nodes, phases, bytes over the WAN
  musubi cluster delete demo                give everything back
  musubi lease list                         what this host has promised
  source <(musubi completion)               completion for bash

Exit codes: 0 done, 1 refused or failed, 2 bad usage or input, 3 doctor, ping or fsck found something, 4 nobody answered`)
  addDaemonCommands(program)
  addSiteCommands(program)
  addOwnedCommands(addHostCommands(program))
  addCoordinatorCommands(program)
  addClusterCommands(program)
  addLeaseCommands(program)
  addSegmentCommands(program)
  addTunnelCommands(program)
  addCacheCommands(program)
  addViewCommands(program)
  program.command('completion').description('print the completion script for bash')
    .action(() => { process.stdout.write(`${bashCompletion(program)}\n`) })
  exitWithUsageCode(program)
  return program
}

/** Bad usage ends with 2 at every level of the command tree; help and version with 0. */
function exitWithUsageCode (command: Command): void {
  command.exitOverride(error => { process.exit(error.exitCode === 0 ? 0 : 2) })
  for (const sub of command.commands) exitWithUsageCode(sub)
}

// `musubi events | head -1`: a reader that has seen enough is no error.
process.stdout.on('error', (error: NodeJS.ErrnoException) => {
  if (error.code !== 'EPIPE') throw error
  process.exit(0)
})

try {
  await buildProgram().parseAsync()
} catch (error) {
  const json = process.argv.includes('--json')
  const { code, message, hint } = error instanceof MusubiError ? error : { code: 'INTERNAL', message: error instanceof Error ? (error.stack ?? error.message) : String(error), hint: undefined }
  const text = json ? `${JSON.stringify({ error: { code, message, hint } })}\n` : `musubi: ${indented(message, 8)}\n${hint === undefined ? '' : `        ${indented(hint, 8)}\n`}`
  // Not by itself: a daemon that could not start may have sockets and timers open, and would stay for ever.
  process.stderr.write(text, () => process.exit(exitCodeOf(error)))
}
