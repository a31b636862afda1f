import { checkAgrees } from './identity.ts'
import { trustFiles } from './files.ts'
import { daemonHint } from './running.ts'
import { loadAgentConfig, type AgentConfig } from '../config.ts'
import { asOwnerOf } from '../../protocol/as-owner.ts'
import { ConflictError, errorCode, InvalidInputError } from '../../protocol/core/errors.ts'
import { redeem } from '../../protocol/mesh/join/redeem.ts'
import { parseToken } from '../../protocol/mesh/join/token.ts'
import { loadOrCreateKey, peerIdOf } from '../../protocol/mesh/identity.ts'
import { checkDates, readMember, type Member } from '../../protocol/mesh/trust/certificate.ts'
import { readCredentials, writeCredentials, type Credentials } from '../../protocol/mesh/trust/credentials.ts'

export interface Joined {
  readonly site: string
  readonly host: string
  readonly roles: readonly string[]
  readonly peerId: string
  readonly federation: string
  readonly notAfterMs: number
  /** false: it was a member already */
  readonly changed: boolean
  /** what to do now, for people */
  readonly next: string
}

/** The credentials of a former run; damaged ones count as none: joining again replaces them. */
export async function formerCredentials (path: string): Promise<Credentials | null> {
  try {
    return await readCredentials(path)
  } catch (error) {
    if (errorCode(error) === 'BAD_CREDENTIALS') return null
    throw error
  }
}

/** What these credentials make of this host now; null when they do not hold for its key, configuration or time. */
export function membership (credentials: Credentials | null, config: AgentConfig, peerId: string, nowMs: number): Member | null {
  if (credentials === null) return null
  try {
    const member = readMember(credentials.chain, credentials.federation)
    if (member.peerId !== peerId) return null
    checkAgrees(config, member)
    checkDates(member, nowMs)
    return member
  } catch {
    return null
  }
}

/** A host belongs to one federation: what it has promised was promised there. @throws ConflictError */
export function checkFederation (former: Credentials | null, federation: string, path: string): void {
  if (former === null || former.federation === federation) return
  throw new ConflictError(`this host is a member of the federation ${former.federation}, the token is for ${federation}`, `to move it, let its leases end, then: rm ${path}`)
}

/** What a token says when it cannot be redeemed any more: no fault where it, or another, was redeemed before. */
const SPENT = new Set(['TOKEN_USED', 'TOKEN_EXPIRED', 'TOKEN_UNKNOWN', 'TOKEN_WITHDRAWN', 'UNREACHABLE'])
export const isSpent = (error: unknown): boolean => SPENT.has(errorCode(error))

/**
 * `musubi agent join`: redeems a token for the certificate of this host and keeps it. The key is
 * made when there is none; an existing one, and with it the ledger, stays.
 *
 * @throws InvalidInputError for a bad token or configuration, or a token of another site; ConflictError
 * for another federation; and as `redeem`
 */
export async function joinAgent (configPath: string, tokenText: string, now: () => number = () => Date.now()): Promise<Joined> {
  const config = await loadAgentConfig(configPath)
  const token = parseToken(tokenText)
  if (token.kind !== 'host') throw new InvalidInputError('this token admits a site, not a host', 'on the first gateway of the site: musubi site init --join TOKEN; for a host: musubi site invite, on a gateway of its site')
  if (token.site !== config.site) throw new InvalidInputError(`this token is of site ${token.site}, the configuration ${configPath} says site ${config.site}`, 'ask a gateway of the right site for a token, or correct site in the configuration')
  return await asOwnerOf(config.stateDir, () => joinFolder(config, token.federation, tokenText, now))
}

async function joinFolder (config: AgentConfig, federation: string, tokenText: string, now: () => number): Promise<Joined> {
  const files = trustFiles(config.stateDir)
  const former = await formerCredentials(files.credentials)
  checkFederation(former, federation, files.credentials)
  const key = await loadOrCreateKey(files.key)
  const peerId = peerIdOf(key)
  const before = membership(former, config, peerId, now())
  const done = async (member: Member, changed: boolean): Promise<Joined> => ({
    site: config.site, host: config.name, roles: member.role.kind === 'host' ? member.role.roles : [], peerId, federation,
    notAfterMs: member.notAfterMs, changed, next: await daemonHint(config.runDir, changed, false)
  })
  try {
    const redeemed = await redeem(tokenText, { key, name: config.name, roles: config.roles, segmentIds: config.segmentIds ?? null, addresses: config.announce ?? config.listen, now })
    if (redeemed.kind !== 'host') throw new InvalidInputError('this token admits a site, not a host')
    const { credentials } = redeemed
    const member = readMember(credentials.chain, credentials.federation)
    checkAgrees(config, member)
    const same = former !== null && before !== null && Buffer.concat([...former.chain]).equals(Buffer.concat([...credentials.chain]))
    if (!same) await writeCredentials(files.credentials, credentials)
    return await done(member, !same)
  } catch (error) {
    if (before === null || !isSpent(error)) throw error
    return await done(before, false)
  }
}
