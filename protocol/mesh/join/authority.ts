import { InvalidInputError, MusubiError } from '../../core/errors.ts'
import type { wire } from '../../wire/codec.ts'
import { peerIdOf, type NodeKey } from '../identity.ts'
import { HOST_ROLES, type HostRoleName } from '../roles.ts'
import { checkDates, issue, LIFETIME_MS, NotAdmittedError, readChain, readMember, type Chain, type Grant, type Member } from '../trust/certificate.ts'
import type { RevocationSet } from '../trust/revocation.ts'
import { createRegister } from './register.ts'
import type { CoordinatorAuthority, HostGrant, Invitation, IssuedStore, SiteAuthority, Slice } from './types.ts'

interface Common {
  /** wall clock, Unix ms */
  readonly now: () => number
  /** what was certified before; without it only those who are to be seen hold their names */
  readonly issued?: IssuedStore
  /** what is revoked is not renewed, and gives its name back */
  readonly revocations?: RevocationSet
}

export interface CoordinatorAuthorityOptions extends Common {
  readonly coordinatorKey: NodeKey
  readonly federation: string
  /** PeerId of the key of the site that has this name, as far as is known */
  readonly taken?: (site: string) => string | null
}

export interface SiteAuthorityOptions extends Common {
  readonly site: string
  readonly federation: string
  /** null where it is kept elsewhere */
  readonly siteKey: NodeKey | null
  readonly siteChain: Chain
  /** the gateway's own key, with its issuer certificate */
  readonly issuer: { readonly key: NodeKey, readonly chain: Chain } | null
  /** PeerId of the live host that has this name */
  readonly taken: (name: string) => string | null
  /** live gateways of the site, with their slices and their shares of its quotas */
  readonly gateways?: () => ReadonlyArray<{ readonly name: string, readonly peerId: string, readonly segmentIds: Slice | null, readonly quotaPercent: number }>
}

const MINUTE_MS = 60_000

/** Nothing outlives what it stands on. @throws MusubiError CANNOT_ISSUE when too little is left */
function lifetime (wantedMs: number, parents: readonly wire.Certificate[], nowMs: number): number {
  const leftMs = Math.min(wantedMs, ...parents.map(c => c.notAfterMs - nowMs))
  const shortest = parents.find(c => c.notAfterMs - nowMs <= 0)
  if (shortest !== undefined) throw new MusubiError('CANNOT_ISSUE', `the ${shortest.kind} certificate of ${shortest.site} ended ${new Date(shortest.notAfterMs).toISOString()}: nothing can be signed with it`, { hint: shortest.kind === 'site' ? 'renew it: musubi site init --join TOKEN, with a token of the coordinator' : 'a gateway with the site key gives a new one' })
  return leftMs
}

function rolesOf (names: readonly string[]): HostRoleName[] {
  const roles = HOST_ROLES.filter(role => names.includes(role))
  if (roles.length !== names.length || roles.length === 0) throw new InvalidInputError(`roles are ${HOST_ROLES.join(', ')}, each once and at least one; not '${names.join(',').slice(0, 60)}'`)
  return roles
}

/** The chain of somebody who wants it renewed: of this federation, not ended, not revoked. @throws NotAdmittedError */
function checkRenewable (chain: Chain, federation: string, nowMs: number, revocations: RevocationSet | undefined): Member {
  const member = readChain(chain, federation)
  checkDates(member, nowMs)
  const revoked = revocations?.covering(member) ?? null
  if (revoked !== null) throw new NotAdmittedError('CERTIFICATE_REVOKED', `it was revoked ${new Date(revoked.document.revokedMs).toISOString()} and is not renewed`, 'join again with a new token')
  return member
}

/** What a certificate says, for the one that replaces it. */
function grantOf (certificate: wire.Certificate, lifetimeMs: number): Grant {
  return {
    federation: certificate.federation, kind: certificate.kind as Grant['kind'], subject: certificate.subject, site: certificate.site, name: certificate.name,
    roles: rolesOfAny(certificate.roles), segmentIds: certificate.segmentIds, quotaPercent: certificate.quotaPercent, joinedMs: certificate.joinedMs, lifetimeMs, via: certificate.via
  }
}

const rolesOfAny = (names: readonly string[]): HostRoleName[] => names.length === 0 ? [] : rolesOf(names)

/** Who signs for the federation: whoever has the coordinator key. */
export function coordinatorAuthority (options: CoordinatorAuthorityOptions): CoordinatorAuthority {
  const { coordinatorKey: key, federation, now, revocations, taken = () => null } = options
  if (peerIdOf(key) !== federation) throw new MusubiError('WRONG_IDENTITY', `this coordinator key is of the federation ${peerIdOf(key)}, not ${federation}`, { hint: 'use the key that was exported from a coordinator of this federation' })
  const register = createRegister(options)
  return {
    federation,
    certifySite: async ({ subject, site }) => await register.inTurn(async () => {
      await register.checkName('site', site, subject, taken(site))
      const nowMs = now()
      const joinedMs = register.joinedMs('site', subject)
      const own = issue(key, { federation, kind: 'site', subject, site, name: '', roles: [], joinedMs }, nowMs)
      await register.note({ kind: 'site', subject, name: site, roles: [], segmentIds: null, joinedMs, issuedMs: nowMs, notAfterMs: nowMs + LIFETIME_MS.site })
      return [own]
    }),
    certifyCoordinator: ({ subject, name }) => [issue(key, { federation, kind: 'coordinator', subject, site: '', name, roles: [] }, now())],
    renew: async chain => {
      const nowMs = now()
      const member = checkRenewable(chain, federation, nowMs, revocations)
      const [certificate] = member.certificates
      if (certificate === undefined || (certificate.kind !== 'site' && certificate.kind !== 'coordinator')) throw new InvalidInputError('a coordinator renews the certificates of sites and coordinators', 'hosts ask a gateway of their site')
      const renewed = [issue(key, grantOf(certificate, LIFETIME_MS[certificate.kind]), nowMs)]
      if (certificate.kind === 'site') await register.inTurn(async () => { await register.renewed(certificate.subject, nowMs + LIFETIME_MS.site) })
      return renewed
    }
  }
}

/** Who signs for a site: with the site key where it is, else with an issuer key, which makes no gateways. */
export function siteAuthority (options: SiteAuthorityOptions): SiteAuthority {
  const { site, federation, siteKey, now, revocations, taken, gateways = () => [] } = options
  const register = createRegister(options)
  let siteMember = checkSiteChain(options.siteChain)
  let issuer = options.issuer === null ? null : { key: options.issuer.key, member: checkIssuerChain(options.issuer.chain, options.issuer.key) }

  function checkSiteChain (chain: Chain): Member {
    const member = readChain(chain, federation)
    const [own] = member.certificates
    if (own?.kind !== 'site' || own.site !== site) throw new NotAdmittedError('BAD_CERTIFICATE', `this is no certificate of site ${site}`)
    if (siteKey !== null && own.subject !== peerIdOf(siteKey)) throw new MusubiError('WRONG_IDENTITY', `the certificate of site ${site} is for the key ${own.subject}, the site key here is ${peerIdOf(siteKey)}`, { hint: 'put the right site key back' })
    return member
  }
  function checkIssuerChain (chain: Chain, key: NodeKey): Member {
    const member = readChain(chain, federation)
    if (member.certificates[0]?.kind !== 'issuer' || member.certificates[0].site !== site || member.peerId !== peerIdOf(key)) throw new NotAdmittedError('BAD_CERTIFICATE', `this is no issuer certificate of site ${site} for this host`)
    return member
  }
  const signAs = (name: string, roles: readonly HostRoleName[]): { key: NodeKey, parents: Member } => {
    if (siteKey !== null) return { key: siteKey, parents: siteMember }
    if (roles.includes('gateway')) throw new MusubiError('ROLE_NEEDS_SITE_KEY', `${name} cannot become a gateway of ${site} here: only the site key makes gateways, and it is not on this host`, { hint: `invite it where the key of site ${site} is, or put the key back for the time of the join` })
    if (issuer === null) throw new MusubiError('CANNOT_ISSUE', `this host can certify nobody for ${site}: it has neither the site key nor an issuer certificate`, { hint: 'invite on a gateway that has one of them' })
    const refused = roles.filter(role => !(issuer?.member.certificates[0]?.roles ?? []).includes(role))
    if (refused.length > 0) throw new MusubiError('ROLE_NEEDS_SITE_KEY', `the issuer certificate of this host is not for the role ${refused.join(', ')}`, { hint: `invite ${name} where the key of site ${site} is` })
    const { key, member } = issuer
    const revoked = revocations?.covering(member) ?? null
    if (revoked !== null) throw new MusubiError('CANNOT_ISSUE', `the issuer certificate of this host was revoked ${new Date(revoked.document.revokedMs).toISOString()}`)
    return { key, parents: member }
  }
  const checkSlice = async ({ name, subject, segmentIds: own }: { name: string, subject: string, segmentIds: Slice | null }): Promise<void> => {
    if (own === null) throw new MusubiError('SLICE_NEEDED', `${name} cannot become a gateway without a slice of segment ids of its own`, { hint: 'set segmentIds in its configuration, e.g. {from: 1000, to: 1999}' })
    const others = [...gateways().map(({ name, peerId: subject, segmentIds }) => ({ name, subject, segmentIds })), ...await register.slices()]
    // the same name with another key is a host that was set up again: what it had is its own
    const hit = others.find(other => other.subject !== subject && other.name !== name && other.segmentIds !== null && other.segmentIds.from <= own.to && own.from <= other.segmentIds.to)
    if (hit?.segmentIds) throw new MusubiError('SLICE_OVERLAPS', `${name} asks for segment ids ${own.from}-${own.to}, gateway ${hit.name} has ${hit.segmentIds.from}-${hit.segmentIds.to}`, { hint: `give ${name} a slice that no other gateway of ${site} has, or revoke ${hit.name}` })
  }
  /** Each gateway lends its share without asking the others: together they are never more than the whole. */
  const checkShare = async ({ name, subject, quotaPercent }: { name: string, subject: string, quotaPercent: number }): Promise<void> => {
    if (quotaPercent === 0) return
    // Where a gateway is seen its certificate counts: it may have given some of its share back.
    const shares = new Map([...(await register.slices()).map(issued => ({ ...issued, peerId: issued.subject, quotaPercent: issued.quotaPercent ?? 0 })), ...gateways()].map(one => [one.peerId, one]))
    const others = [...shares.values()].filter(other => other.peerId !== subject && other.name !== name && other.quotaPercent > 0)
    const left = 100 - others.reduce((sum, other) => sum + other.quotaPercent, 0)
    if (quotaPercent > left) throw new MusubiError('QUOTA_TAKEN', `${name} cannot have ${quotaPercent} % of the quotas of site ${site}: ${others.map(other => `${other.name} has ${other.quotaPercent} %`).join(', ')}`, { hint: left > 0 ? `give it at most ${left} %, or let another gateway give some back: musubi site init --quota-percent` : 'let another gateway give some back first, there: musubi site init --quota-percent' })
  }
  const make = (certificate: Grant, lifetimeMs: number): { chain: Chain, notAfterMs: number } => {
    const nowMs = now()
    const { key, parents } = signAs(certificate.name, certificate.roles)
    const ms = lifetime(lifetimeMs, parents.certificates, nowMs)
    return { chain: [issue(key, { ...certificate, lifetimeMs: ms }, nowMs), ...parents.chain], notAfterMs: nowMs + ms }
  }

  return {
    site,
    hasSiteKey: siteKey !== null,
    siteChain: () => siteMember.chain,
    issuerChain: () => issuer?.member.chain ?? null,
    certifyHost: async ({ subject, name, roles: wanted, segmentIds, quotaPercent }: HostGrant) => await register.inTurn(async () => {
      const roles = rolesOf(wanted)
      const isGateway = roles.includes('gateway')
      signAs(name, roles)
      await register.checkName('host', name, subject, taken(name))
      if (isGateway) await checkSlice({ name, subject, segmentIds })
      if (isGateway) await checkShare({ name, subject, quotaPercent })
      const joinedMs = register.joinedMs('host', subject)
      const { chain, notAfterMs } = make({ federation, kind: 'host', subject, site, name, roles, segmentIds: isGateway ? segmentIds : null, quotaPercent: isGateway ? quotaPercent : 0, joinedMs }, LIFETIME_MS.host)
      await register.note({ kind: 'host', subject, name, roles, segmentIds: isGateway ? segmentIds : null, quotaPercent: isGateway ? quotaPercent : 0, joinedMs, issuedMs: now(), notAfterMs })
      return chain
    }),
    delegate: ({ subject, name, roles = ['compute', 'storage'], lifetimeMs = LIFETIME_MS.issuer, joinedMs }) => {
      if (siteKey === null) throw new MusubiError('SITE_KEY_NEEDED', `only the key of site ${site} makes issuers, and it is not on this host`, { hint: 'put it back for the time of the command, or run it where the key is' })
      const nowMs = now()
      const own = rolesOf(roles)
      if (own.includes('gateway')) throw new InvalidInputError('an issuer makes no gateways')
      return [issue(siteKey, { federation, kind: 'issuer', subject, site, name, roles: own, lifetimeMs: lifetime(Math.max(MINUTE_MS, lifetimeMs), siteMember.certificates, nowMs), ...(joinedMs === undefined ? {} : { joinedMs }) }, nowMs), ...siteMember.chain]
    },
    renew: async chain => await register.inTurn(async () => {
      readMember(chain, federation)
      const member = checkRenewable(chain, federation, now(), revocations)
      const [certificate] = member.certificates
      if (certificate?.kind !== 'host' || member.siteKey !== siteMember.peerId) throw new InvalidInputError(`this gateway renews certificates of hosts of ${site}`)
      // whatever the certificate says of it itself: an issuer whose key was stolen can sign anything
      const above = member.certificates[1]
      const via = above?.kind === 'issuer' ? above.subject : certificate.via
      const renewed = make({ ...grantOf(certificate, LIFETIME_MS.host), via }, LIFETIME_MS.host)
      await register.renewed(certificate.subject, renewed.notAfterMs)
      return renewed.chain
    }),
    replace: ({ siteChain, issuerChain }) => {
      if (siteChain !== undefined) {
        const member = checkSiteChain(siteChain)
        if (member.peerId !== siteMember.peerId) throw new MusubiError('WRONG_IDENTITY', `the new certificate of site ${site} is for another key`)
        siteMember = member
      }
      if (issuerChain !== undefined && issuer !== null) issuer = { key: issuer.key, member: checkIssuerChain(issuerChain, issuer.key) }
    }
  }
}

/** What a join listener of a gateway asks: the roles and slice of the invitation bind. */
export function authoriseHosts (authority: SiteAuthority): (request: wire.JoinRequest, invitation: Invitation) => Promise<Chain> {
  return async (request, invitation) => {
    const roles = request.roles.length === 0 ? invitation.roles : request.roles
    const more = roles.filter(role => !invitation.roles.includes(role))
    if (more.length > 0) throw new MusubiError('ROLE_NOT_INVITED', `${request.name} asks for the role ${more.join(', ')}, its token is for ${invitation.roles.join(', ')}`, { hint: `musubi site invite --role ${[...new Set([...invitation.roles, ...more])].join(',')}, or take the role out of its configuration` })
    const slice = invitation.segmentIds ?? request.segmentIds
    if (invitation.segmentIds !== null && request.segmentIds !== null && (invitation.segmentIds.from !== request.segmentIds.from || invitation.segmentIds.to !== request.segmentIds.to)) {
      throw new MusubiError('SLICE_DIFFERS', `${request.name} brings segment ids ${request.segmentIds.from}-${request.segmentIds.to}, its token gives ${invitation.segmentIds.from}-${invitation.segmentIds.to}`, { hint: 'set segmentIds in its configuration to those of the token' })
    }
    return await authority.certifyHost({ subject: request.subject, name: request.name, roles, segmentIds: slice, quotaPercent: invitation.quotaPercent })
  }
}

/** What a join listener of a coordinator asks. */
export function authoriseSites (authority: CoordinatorAuthority): (request: wire.JoinRequest, invitation: Invitation) => Promise<Chain> {
  return async (request, invitation) => {
    if (invitation.site !== '' && invitation.site !== request.name) throw new MusubiError('NAME_NOT_INVITED', `the token is for the site ${invitation.site}, not ${request.name}`, { hint: `join as ${invitation.site}, or ask for a token for ${request.name}` })
    return await authority.certifySite({ subject: request.subject, site: request.name })
  }
}
