import { escapeArgument } from './systemd.ts'
import { resolvedArgv, run, type RunOptions, type RunResult } from '../exec.ts'
import { COMMAND_TIMEOUT_MS } from '../../protocol/core/limits.ts'

/** Set by `musubi-helper.service`, which takes from the helper what these few programs need. */
const CONFINED = 'MUSUBI_CONFINED'

/**
 * As `run`, for the few programs that must not run in the confinement of the unit of this process:
 * what is mounted is to be seen by the whole host (`ip netns add`), a network socket is needed
 * (`ping`), or another user's rights (`setpriv`). systemd starts them, as it starts the services; where nothing is confined they are children.
 */
export async function runOutside (file: string, args: readonly string[], options: Omit<RunOptions, 'env'> = {}): Promise<RunResult> {
  if (process.env[CONFINED] !== 'yes') return await run(file, args, options)
  const { netns, cwd, ...rest } = options
  const { timeoutMs = COMMAND_TIMEOUT_MS } = rest
  return await run('systemd-run', [
    // --pipe and --wait: its output, its exit code; --collect: nothing is left of it, however it ends
    '--quiet', '--pipe', '--wait', '--collect', '--service-type=exec', `--description=Musubi: ${file}`,
    // it ends although whoever waits for it is gone
    `--property=RuntimeMaxSec=${Math.ceil(timeoutMs / 1000)}`, '--setenv=LC_ALL=C', ...cwd === undefined ? [] : [`--working-directory=${cwd}`],
    '--', ...resolvedArgv([file, ...args], netns).map(escapeArgument)
  ], rest)
}
