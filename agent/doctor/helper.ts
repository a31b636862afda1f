import { stat } from 'node:fs/promises'
import { dirname } from 'node:path'
import { pino } from 'pino'
import type { AgentConfig } from '../config.ts'
import { kindsOf } from '../drivers/registry.ts'
import { run } from '../exec.ts'
import { createHelperClient } from '../helper/client/client.ts'
import { agentAccount } from '../helper/credentials.ts'
import type { HelperHello } from '../helper/wire/verbs.ts'
import { MusubiError } from '../../protocol/core/errors.ts'
import { VERSION } from '../../protocol/version.ts'
import type { Finding } from './report.ts'

/** What was seen of the process that holds the privileges, and of the user whom it obeys. */
export interface HelperFacts {
  /** number of the agent's user; null: there is none of that name */
  uid: number | null
  /** where that user does not get any further on the way to the socket; null: it may open it, or there is no socket */
  barrier: string | null
  /** what the helper said; else why it did not; null: not asked, as it answers only root and the agent's user */
  answer: Pick<HelperHello, 'version' | 'roles' | 'kinds'> | { code: string, why: string } | null
}

const ANSWER_MS = 10_000

/** Who wants to use a file. */
interface User { uid: number, gids: readonly number[] }

/** Whether the mode of a file gives a user this right: 1 to pass a folder, 2 to write, which is to connect. Pure. */
export function mayUse (file: { uid: number, gid: number, mode: number }, { uid, gids }: User, right: 1 | 2): boolean {
  if (uid === 0) return true
  const shift = file.uid === uid ? 6 : gids.includes(file.gid) ? 3 : 0
  return (file.mode >> shift & right) !== 0
}

async function accountOf (user: string | number): Promise<User | null> {
  const account = await agentAccount(user).catch(() => null)
  if (account === null) return null
  const groups = await run('id', ['-G', '--', String(user)]).then(({ stdout }) => stdout.trim().split(' ').map(Number), () => [])
  return { uid: account.uid, gids: [account.gid, ...groups] }
}

async function barrierFor (user: User, socketPath: string): Promise<string | null> {
  const ways: Array<[string, 1 | 2]> = [[socketPath, 2]]
  for (let dir = dirname(socketPath); ; dir = dirname(dir)) {
    ways.unshift([dir, 1])
    if (dir === dirname(dir)) break
  }
  for (const [path, right] of ways) {
    const found = await stat(path).catch(() => null)
    if (found !== null && !mayUse(found, user, right)) return path
  }
  return null
}

/** `ENOENT` and such; empty when it is no error of the system. */
function systemCode (error: unknown): string {
  return error instanceof Error && 'code' in error && typeof error.code === 'string' ? error.code : ''
}

async function ask (socketPath: string, signal: AbortSignal): Promise<HelperFacts['answer']> {
  const client = createHelperClient({ socketPath, log: pino({ level: 'silent' }), persistent: false })
  try {
    return await client.call('hello', {}, { signal: AbortSignal.any([signal, AbortSignal.timeout(ANSWER_MS)]) })
  } catch (error) {
    const cause = error instanceof MusubiError && error.cause !== undefined ? error.cause : error
    return { code: systemCode(cause), why: error instanceof Error ? error.message : String(error) }
  } finally {
    client.close()
  }
}

/** Looks at the helper of this host as the agent would find it. Changes nothing. */
export async function examineHelper ({ helper: { socket, agentUser } }: AgentConfig, signal: AbortSignal): Promise<HelperFacts> {
  const user = await accountOf(agentUser)
  const own = process.getuid?.()
  return {
    uid: user?.uid ?? null,
    barrier: user === null ? null : await barrierFor(user, socket),
    answer: own === 0 || own === user?.uid ? await ask(socket, signal) : null
  }
}

/** What keeps this host's agent from having anything done. Pure. @param systemd it runs here */
export function helperFindings (config: AgentConfig, configPath: string, { uid, barrier, answer }: HelperFacts, systemd: boolean): Finding[] {
  const { socket, agentUser } = config.helper
  const findings: Finding[] = []
  const add = (severity: Finding['severity'], what: string, mend: string): void => { findings.push({ role: 'host', severity, what, mend }) }
  const restart = systemd ? 'systemctl restart musubi-helper; journalctl -u musubi-helper' : `end it and start it again as root: musubi helper run -c ${configPath}`
  if (uid === null) add('missing', `there is no user ${agentUser}, whom the helper is to obey and as whom the agent runs`, systemd ? 'systemd-sysusers, or correct helper.agentUser in the configuration' : `useradd --system ${agentUser}, or correct helper.agentUser in the configuration`)
  if (barrier !== null) add('missing', `user ${agentUser} may not open the helper's socket ${socket}: it is kept out at ${barrier}`, `ls -ld ${barrier}; ${restart}`)
  if (answer === null) return findings
  if ('why' in answer) {
    const start = systemd ? 'systemctl enable --now musubi-helper; systemctl status musubi-helper' : `start it as root: musubi helper run -c ${configPath}`
    const nobody = answer.code === 'ENOENT' || answer.code === 'ECONNREFUSED'
    add('missing', nobody ? `no helper (unit musubi-helper) listens at ${socket}: the agent can make and remove nothing` : `the helper (unit musubi-helper) does not answer at ${socket}: ${answer.why}`, nobody ? start : restart)
    return findings
  }
  if (answer.version !== VERSION) add('warning', `the helper at ${socket} is of version ${answer.version}, this is ${VERSION}`, restart)
  const lacks = (wanted: readonly string[], has: readonly string[]): string[] => wanted.filter(one => !has.includes(one))
  const roles = [...lacks(config.roles, answer.roles), ...lacks(answer.roles, config.roles)]
  const kinds = lacks(kindsOf(config), answer.kinds)
  if (roles.length > 0) add('missing', `the helper at ${socket} runs as ${answer.roles.join(', ')}; ${configPath} says ${config.roles.join(', ')}`, restart)
  else if (kinds.length > 0) add('missing', `the helper at ${socket} has no driver for ${kinds.join(', ')}`, restart)
  return findings
}
