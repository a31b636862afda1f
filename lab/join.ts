import type { RunResult } from '../agent/exec.ts'
import { MusubiError } from '../protocol/core/errors.ts'

/** Runs the CLI somewhere, as an administrator there would. @throws CommandError */
export type Joiner = (args: readonly string[]) => Promise<RunResult>

function tokenOf ({ stdout }: RunResult, where: string): string {
  const answer = JSON.parse(stdout) as { token?: unknown }
  if (typeof answer.token !== 'string') throw new MusubiError('DAEMON_FAILED', `${where} gave no token: ${stdout.slice(0, 200)}`)
  return answer.token
}

/** A site joins the federation: invited by the coordinator, by its first gateway. */
export async function joinSite (coordinator: Joiner, gateway: Joiner, site: string, config: string): Promise<void> {
  const token = tokenOf(await coordinator(['coordinator', 'invite', site, '--json']), 'the coordinator')
  await gateway(['site', 'init', '--join', token, '--config', config])
}

/** A host joins its site: invited by a gateway. */
export async function joinHost (gateway: Joiner, host: Joiner, { site, roles }: { site: string, roles: readonly string[] }, config: string): Promise<void> {
  const token = tokenOf(await gateway(['site', 'invite', '--role', roles.join(','), '--json']), `the gateway of ${site}`)
  await host(['agent', 'join', token, '--config', config])
}
