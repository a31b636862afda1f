import type { Socket } from 'node:net'
import { CommandError, run, runWithSocket } from '../exec.ts'
import { describeError, InvalidInputError, MusubiError } from '../../protocol/core/errors.ts'
import { HELPER_CREDENTIALS_MS } from '../../protocol/core/limits.ts'
import type { Access } from './wire/verbs.ts'

/** Who is at the other end of a connected unix socket, as the kernel noted when it connected. */
export interface PeerCredentials { pid: number, uid: number, gid: number }

/** getsockopt(3, SOL_SOCKET, SO_PEERCRED): a call that Node.js does not have. Numbers as on every architecture of Debian but for MIPS, SPARC and PA-RISC. */
const ASK = 'open(my $s, "+<&=", 3) or exit 1; my $c = getsockopt($s, 1, 17) or exit 2; print join(" ", unpack("lLL", $c))'

/** Asks the kernel who has connected. @throws MusubiError NO_CREDENTIALS when it cannot be told */
export async function peerCredentials (socket: Socket): Promise<PeerCredentials> {
  try {
    const text = await runWithSocket('perl', ['-e', ASK], socket, HELPER_CREDENTIALS_MS)
    const [, pid, uid, gid] = /^(\d+) (\d+) (\d+)$/.exec(text) ?? []
    if (pid === undefined || uid === undefined || gid === undefined) throw new Error(`perl said ${JSON.stringify(text.slice(0, 40))}`)
    return { pid: Number(pid), uid: Number(uid), gid: Number(gid) }
  } catch (error) {
    throw new MusubiError('NO_CREDENTIALS', `cannot find out who has connected: ${describeError(error)}`, { hint: 'the helper needs perl (package perl-base)', cause: error })
  }
}

/** What the user of a connection may ask for; null: nothing. */
export type Admit = (peer: PeerCredentials) => ReadonlySet<Access> | null

/**
 * The agent's user may ask for everything but what passes between guests; root for that, and for what
 * changes nothing that a lease stands behind.
 */
export function createAdmit (agentUid: number): Admit {
  const agent: ReadonlySet<Access> = new Set(['read', 'clean', 'change', ...(agentUid === 0 ? ['watch'] as const : [])])
  const root: ReadonlySet<Access> = new Set(['read', 'clean', 'watch'])
  return ({ uid }) => uid === agentUid ? agent : uid === 0 ? root : null
}

/** The user that the agent runs as. @throws InvalidInputError when there is none of that name */
export async function agentAccount (user: string | number): Promise<{ uid: number, gid: number }> {
  const name = String(user)
  const number = /^\d+$/.test(name) ? Number(name) : null
  const ask = async (what: '-u' | '-g'): Promise<number> => {
    try {
      return Number((await run('id', [what, '--', name])).stdout)
    } catch (error) {
      // id ends with 1 when there is none; anything else may pass, and a bad configuration is not tried again
      if (!(error instanceof CommandError) || error.exitCode !== 1) throw error
      // a number needs no account
      if (number !== null) return number
      throw new InvalidInputError(`there is no user ${name} on this host, whom the helper is to obey: ${describeError(error)}`, `make it (systemd-sysusers, or: useradd --system ${name}), or correct helper.agentUser in the configuration`)
    }
  }
  return { uid: number ?? await ask('-u'), gid: await ask('-g') }
}
