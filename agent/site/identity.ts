import { trustFiles } from './files.ts'
import type { AgentConfig } from '../config.ts'
import { MusubiError } from '../../protocol/core/errors.ts'
import { loadOrCreateKey, peerIdOf, type NodeKey } from '../../protocol/mesh/identity.ts'
import { describeRole } from '../../protocol/mesh/roles.ts'
import { readMember, type Member } from '../../protocol/mesh/trust/certificate.ts'
import { readCredentials, type Credentials } from '../../protocol/mesh/trust/credentials.ts'

type Named = Pick<AgentConfig, 'name' | 'site' | 'roles' | 'segmentIds' | 'stateDir'>
export interface Identity { readonly key: NodeKey, readonly credentials: Credentials, readonly member: Member }

/**
 * The key of this host and the certificates that say who it is. They may have ended: the agent of a
 * host that was away must start all the same, as nobody else ends its leases.
 *
 * @throws MusubiError NOT_JOINED without credentials; BAD_CREDENTIALS; WRONG_IDENTITY when they say
 * something else than the configuration; NotAdmittedError when they are no certificates of a member
 */
export async function loadIdentity (config: Named): Promise<Identity> {
  const files = trustFiles(config.stateDir)
  const credentials = await readCredentials(files.credentials)
  if (credentials === null) {
    throw new MusubiError('NOT_JOINED', `host ${config.name} is no member of site ${config.site} yet: there is no ${files.credentials}`, {
      hint: `get a token on a gateway of ${config.site} (musubi site invite), then here: musubi agent join TOKEN; the first gateway of a site: musubi site init --join TOKEN`
    })
  }
  const key = await loadOrCreateKey(files.key)
  const member = readMember(credentials.chain, credentials.federation)
  if (member.peerId !== peerIdOf(key)) {
    throw new MusubiError('WRONG_IDENTITY', `${files.credentials} is for the key ${member.peerId}, ${files.key} is ${peerIdOf(key)}`, { hint: 'restore the key that belongs to it, or join again with a new token: musubi agent join TOKEN' })
  }
  checkAgrees(config, member)
  return { key, credentials, member }
}

/** Whether a configuration and a certificate mean the same host. @throws MusubiError WRONG_IDENTITY naming both */
export function checkAgrees (config: Named, member: Member): void {
  const { role, segmentIds: slice } = member
  const wrong = (what: string, hint: string): never => { throw new MusubiError('WRONG_IDENTITY', what, { hint }) }
  if (role.kind !== 'host' || role.site !== config.site || role.host !== config.name) {
    return wrong(`the certificate of this host is for ${describeRole(role)}, the configuration says ${config.site}/${config.name}`, 'make name and site in the configuration agree with it, or join again with a new token')
  }
  const again = 'join again with a token that allows them: musubi site invite --role ROLES, then musubi agent join TOKEN'
  const missing = config.roles.filter(r => !role.roles.includes(r))
  if (missing.length > 0) return wrong(`the configuration gives ${config.name} the roles ${config.roles.join(', ')}, its certificate ${role.roles.join(', ')}: ${missing.join(', ')} is missing`, again)
  if (role.roles.includes('gateway') && !config.roles.includes('gateway')) return wrong(`the certificate of ${config.name} makes it a gateway, the configuration says ${config.roles.join(', ')}`, 'add gateway to roles, or let the site revoke this host and join again without that role')
  const ids = config.segmentIds
  if (config.roles.includes('gateway') && ids !== undefined && slice !== null && (ids.from < slice.from || ids.to > slice.to)) {
    return wrong(`the configuration gives ${config.name} the segment ids ${ids.from}..${ids.to}, its certificate ${slice.from}..${slice.to}`, 'make segmentIds in the configuration lie within those of the certificate, or join again with a new token')
  }
}
