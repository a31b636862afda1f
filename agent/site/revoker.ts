import type { SiteHost } from './issuer.ts'
import type { RevokedResource } from '../../protocol/api.ts'
import { ConflictError, MusubiError, NotFoundError } from '../../protocol/core/errors.ts'
import type { IssuedStore } from '../../protocol/mesh/join/types.ts'
import type { NodeKey } from '../../protocol/mesh/identity.ts'
import type { Chain } from '../../protocol/mesh/trust/certificate.ts'
import { revoke as sign } from '../../protocol/mesh/trust/revocation.ts'
import type { Trust } from '../../protocol/mesh/trust/trust.ts'
import type { TrustStore } from '../../store/trust.ts'

export interface RevokerOptions {
  site: string
  federation: string
  /** PeerId of this host */
  own: string
  key: NodeKey
  siteKey: NodeKey | null
  siteChain: () => Chain
  issuerChain: () => Chain | null
  trust: Trust
  trustStore: Pick<TrustStore, 'keepRevocation'>
  issued: IssuedStore
  hostNames: () => readonly SiteHost[]
  now: () => number
}

interface Subject { readonly name: string, readonly peerId: string, readonly roles: readonly string[] }

/** Revokes a host of the site by its name or PeerId: kept first, then acted on, then told to everybody. */
export function createRevoker (options: RevokerOptions): (host: string, reason: string) => Promise<RevokedResource> {
  const { site, federation, siteKey, trust, now } = options

  const rolesOf = (peerId: string): readonly string[] | null => {
    const role = trust.memberOf(peerId)?.role
    return role?.kind === 'host' ? role.roles : null
  }

  /** Every key that has this name: a host that was set up again has a second one. */
  async function subjectsOf (host: string): Promise<Subject[]> {
    const issued = (await options.issued.list()).filter(i => i.kind === 'host').map((i): Subject => ({ name: i.name, peerId: i.subject, roles: i.roles }))
    // what its certificate says of its roles, not what it says itself
    const seen = options.hostNames().map((h): Subject => ({ name: h.name, peerId: h.peerId, roles: rolesOf(h.peerId) ?? h.roles }))
    const known = [...seen, ...issued]
    const found = new Map(known.filter(h => h.name === host || h.peerId === host).reverse().map(h => [h.peerId, h]))
    if (found.size > 0) return [...found.values()].reverse()
    // a member that says nothing of itself is in no list
    const silent = trust.memberOf(host)?.role
    if (silent?.kind === 'host' && silent.site === site) return [{ name: silent.host, peerId: host, roles: silent.roles }]
    const names = [...new Set(known.map(h => h.name))].sort()
    throw new NotFoundError(`site ${site} has no host "${host}"`, names.length === 0 ? 'see: musubi host list' : `it has ${names.slice(0, 20).join(', ')}`)
  }

  function signer (subject: Subject): { key: NodeKey, chain: Chain } {
    if (siteKey !== null) return { key: siteKey, chain: options.siteChain() }
    const chain = options.issuerChain()
    const gateway = subject.roles.includes('gateway')
    if (gateway) throw new MusubiError('SITE_KEY_NEEDED', `${subject.name} is a gateway: only the key of site ${site} revokes it, and it is not on this host`, { hint: 'run it on the gateway that has the key, or bring it back: musubi site key --import FILE' })
    if (chain === null) throw new MusubiError('CANNOT_ISSUE', `this gateway has neither the key of site ${site} nor an issuer certificate`, { hint: 'run it on the gateway that has one' })
    return { key: options.key, chain }
  }

  return async (host, reason) => {
    const subjects = await subjectsOf(host)
    if (subjects.some(s => s.peerId === options.own)) throw new ConflictError(`${host} is this host: it cannot shut itself out`, 'run it on another gateway')
    const signed = subjects.map(subject => {
      const { key, chain } = signer(subject)
      return { subject, revokedMs: now(), signed: sign(key, chain, { federation, kind: 'host', subject: subject.peerId, site, name: subject.name, reason }, now()) }
    })
    for (const revocation of signed) {
      await options.trustStore.keepRevocation(revocation.signed)
      trust.takeRevocation(revocation.signed)
    }
    const [first] = signed
    if (first === undefined) throw new NotFoundError(`site ${site} has no host "${host}"`)
    return { site, host: first.subject.name, peerId: first.subject.peerId, revokedMs: first.revokedMs, reason: reason.slice(0, 200) }
  }
}
