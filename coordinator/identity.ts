import { access } from 'node:fs/promises'
import { join } from 'node:path'
import type { CoordinatorConfig } from './config.ts'
import { ConflictError, InvalidInputError, MusubiError } from '../protocol/core/errors.ts'
import { keyFile, loadOrCreateKey, peerIdOf, type NodeKey } from '../protocol/mesh/identity.ts'
import { issue, readMember, renewAtMs, type Chain, type Member } from '../protocol/mesh/trust/certificate.ts'
import { readCredentials, writeCredentials, type Credentials } from '../protocol/mesh/trust/credentials.ts'

/** Files of a coordinator: two keys and who it is. */
export interface IdentityFiles { readonly coordinatorKey: string, readonly nodeKey: string, readonly credentials: string }

export const identityFiles = (stateDir: string): IdentityFiles => ({
  coordinatorKey: keyFile('musubi-coordinator.key', join(stateDir, 'coordinator.key')), nodeKey: join(stateDir, 'key'), credentials: join(stateDir, 'credentials.json')
})

/** What a coordinator is. */
export interface CoordinatorIdentity {
  readonly name: string
  /** signs site certificates; shared by all coordinators of the federation */
  readonly coordinatorKey: NodeKey
  /** of this process alone */
  readonly nodeKey: NodeKey
  readonly peerId: string
  /** PeerId of the coordinator key */
  readonly federation: string
  readonly credentials: Credentials
  /** what its own certificate says; it may be about to end */
  readonly member: Member
}

export async function exists (path: string): Promise<boolean> {
  try {
    await access(path)
    return true
  } catch (error) {
    if (error instanceof Error && 'code' in error && error.code === 'ENOENT') return false
    throw error
  }
}

/** A fresh certificate for a coordinator, by the key that it holds itself. The first admission stays. */
export function certifySelf (identity: Pick<CoordinatorIdentity, 'coordinatorKey' | 'federation' | 'peerId' | 'name'>, joinedMs: number | null, nowMs: number): Chain {
  const { coordinatorKey, federation, peerId, name } = identity
  return [issue(coordinatorKey, { federation, kind: 'coordinator', subject: peerId, site: '', name, roles: [], ...(joinedMs === null ? {} : { joinedMs }) }, nowMs)]
}

/**
 * The identity in a state folder; what is missing of it is made, but for the coordinator key once
 * there were credentials of it: that would be another federation.
 *
 * @param name for the first time; later it must be as the certificate says
 * @throws MusubiError BAD_KEY, KEY_NOT_PRIVATE, BAD_CREDENTIALS, WRONG_IDENTITY; InvalidInputError without a name; ConflictError for another one
 */
export async function establish (config: CoordinatorConfig, name: string | undefined, nowMs: number): Promise<{ identity: CoordinatorIdentity, made: boolean }> {
  const files = identityFiles(config.stateDir)
  const kept = await readCredentials(files.credentials)
  const wanted = name ?? config.name
  if (kept === null && wanted === undefined) throw new InvalidInputError('this coordinator has no name', 'give it one: --name NAME, or name: in the configuration')
  if (kept !== null && !await exists(files.coordinatorKey)) {
    throw new MusubiError('BAD_KEY', `${files.coordinatorKey} is gone; the federation ${kept.federation} stands on it`, { hint: 'bring it back: musubi coordinator import FILE, with what musubi coordinator export has written' })
  }
  const coordinatorKey = await loadOrCreateKey(files.coordinatorKey)
  const nodeKey = await loadOrCreateKey(files.nodeKey)
  const federation = peerIdOf(coordinatorKey)
  const peerId = peerIdOf(nodeKey)
  let credentials = kept
  if (credentials === null) {
    credentials = { federation, chain: certifySelf({ coordinatorKey, federation, peerId, name: wanted ?? '' }, null, nowMs), peers: [] }
    await writeCredentials(files.credentials, credentials)
  }
  if (credentials.federation !== federation) throw new MusubiError('WRONG_IDENTITY', `${files.credentials} is of the federation ${credentials.federation}, ${files.coordinatorKey} of ${federation}`, { hint: 'the files of two coordinators are mixed: restore one of them whole' })
  const member = readMember(credentials.chain, federation)
  if (member.peerId !== peerId || member.role.kind !== 'coordinator') throw new MusubiError('WRONG_IDENTITY', `${files.credentials} is for the key ${member.peerId}, ${files.nodeKey} is ${peerId}`, { hint: 'the files of two coordinators are mixed: restore one of them whole' })
  if (wanted !== undefined && wanted !== member.role.name) throw new ConflictError(`this coordinator is called ${member.role.name}, not ${wanted}`, 'a name is for good: use it, or another stateDir for another coordinator')
  return { identity: { name: member.role.name, coordinatorKey, nodeKey, peerId, federation, credentials, member }, made: kept === null }
}

/**
 * For `run`: the identity that `init` or `import` has made, with a certificate that holds. A
 * coordinator that was off for longer than its certificate renews it: it has the key.
 *
 * @throws MusubiError NOT_A_MEMBER before `init`, and as {@link establish}
 */
export async function openIdentity (config: CoordinatorConfig, nowMs: number): Promise<{ identity: CoordinatorIdentity, renewed: boolean }> {
  const files = identityFiles(config.stateDir)
  if (!await exists(files.coordinatorKey) && !await exists(files.credentials)) {
    throw new MusubiError('NOT_A_MEMBER', `there is no coordinator in ${config.stateDir} yet`, { hint: 'make one: musubi coordinator init; or bring one back: musubi coordinator import FILE' })
  }
  const { identity } = await establish(config, undefined, nowMs)
  if (renewAtMs(identity.member) > nowMs && identity.member.notBeforeMs <= nowMs) return { identity, renewed: false }
  const chain = certifySelf(identity, identity.member.joinedMs, nowMs)
  const credentials = { ...identity.credentials, chain }
  await writeCredentials(files.credentials, credentials)
  return { identity: { ...identity, credentials, member: readMember(chain, identity.federation) }, renewed: true }
}
