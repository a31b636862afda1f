import type { SiteHost } from './issuer.ts'
import { errorCode, UnreachableError } from '../../protocol/core/errors.ts'
import type { SiteAuthority } from '../../protocol/mesh/join/types.ts'
import type { Mesh } from '../../protocol/mesh/mesh.ts'
import type { Chain } from '../../protocol/mesh/trust/certificate.ts'

const DEADLINE_MS = 10_000

export type RenewalMesh = Pick<Mesh, 'peerId' | 'connected' | 'knownPeers' | 'roleOf' | 'call'>

/** Asks one after the other, those that a connection is open to first. @throws what the last of them said */
async function ask (mesh: RenewalMesh, peers: readonly string[], chain: Chain, issuer: boolean, whom: string): Promise<Chain> {
  const open = new Set(mesh.connected())
  const ordered = [...new Set(peers)].filter(peer => peer !== mesh.peerId).sort((a, b) => Number(open.has(b)) - Number(open.has(a)))
  let last: unknown = new UnreachableError(`no ${whom} is known`)
  for (const peer of ordered) {
    try {
      return (await mesh.call(peer, 'renew', { chain: [...chain], issuer }, { deadlineMs: DEADLINE_MS })).chain
    } catch (error) {
      last = error
    }
  }
  throw last
}

/** A gateway of the own site signs it. @throws UnreachableError, MusubiError, NotAdmittedError */
export async function askGateways (mesh: RenewalMesh, hosts: readonly SiteHost[], chain: Chain, issuer = false): Promise<Chain> {
  return await ask(mesh, hosts.filter(h => h.roles.includes('gateway')).map(h => h.peerId), chain, issuer, 'other gateway of this site')
}

/** Any coordinator renews the certificate of a site, for its gateways. @throws UnreachableError, MusubiError, NotAdmittedError */
export async function askCoordinators (mesh: RenewalMesh, chain: Chain): Promise<Chain> {
  const peers = [...mesh.connected(), ...mesh.knownPeers().map(({ peerId }) => peerId)]
  return await ask(mesh, peers.filter(peer => mesh.roleOf(peer)?.kind === 'coordinator'), chain, false, 'coordinator')
}

/** With the own authority where that may; else a gateway that may is asked. */
export async function renewHost (mesh: RenewalMesh, authority: SiteAuthority | null, hosts: readonly SiteHost[], chain: Chain): Promise<Chain> {
  if (authority === null) return await askGateways(mesh, hosts, chain)
  try {
    return await authority.renew(chain)
  } catch (error) {
    // only the site key makes gateways
    if (!['ROLE_NEEDS_SITE_KEY', 'CANNOT_ISSUE'].includes(errorCode(error))) throw error
    return await askGateways(mesh, hosts, chain)
  }
}
