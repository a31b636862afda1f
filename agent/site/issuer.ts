import { randomBytes } from 'node:crypto'
import type { Logger } from 'pino'
import { loadKeyIfThere, readChainFile, trustFiles, writeChainFile } from './files.ts'
import { askCoordinators, askGateways, renewHost, type RenewalMesh } from './renewals.ts'
import { createRevoker } from './revoker.ts'
import type { AgentConfig } from '../config.ts'
import type { InvitationResource, InviteBody, InvitedResource, RevokedResource } from '../../protocol/api.ts'
import { describeError, MusubiError } from '../../protocol/core/errors.ts'
import { INVITATION_TTL_MS } from '../../protocol/core/limits.ts'
import { joinAddresses } from '../../protocol/mesh/join/addresses.ts'
import { authoriseHosts, siteAuthority } from '../../protocol/mesh/join/authority.ts'
import { createInvitations } from '../../protocol/mesh/join/invitations.ts'
import { createJoinListener } from '../../protocol/mesh/join/listener.ts'
import { answerHostRenewals, createRenewal } from '../../protocol/mesh/join/renewal.ts'
import type { Invitation, JoinListener, Renewal, SiteAuthority } from '../../protocol/mesh/join/types.ts'
import { peerIdOf, type NodeKey } from '../../protocol/mesh/identity.ts'
import type { Mesh } from '../../protocol/mesh/mesh.ts'
import type { Chain } from '../../protocol/mesh/trust/certificate.ts'
import { readCredentials, writeCredentials, type KnownPeer } from '../../protocol/mesh/trust/credentials.ts'
import type { Trust } from '../../protocol/mesh/trust/trust.ts'
import { invitationStore, issuedStore } from '../../store/invitations.ts'
import type { Store } from '../../store/store.ts'
import type { TrustStore } from '../../store/trust.ts'

/** A host of the site as the directory knows it. */
export interface SiteHost { readonly name: string, readonly peerId: string, readonly roles: readonly string[], readonly alive: boolean }

export interface SiteIssuerOptions {
  readonly config: Pick<AgentConfig, 'name' | 'site' | 'roles' | 'listen' | 'announce' | 'joinListen'>
  readonly stateDir: string
  /** this host's own */
  readonly key: NodeKey
  readonly store: Store
  readonly trustStore: Pick<TrustStore, 'keepRevocation'>
  readonly trust: Trust
  /** not started yet: `renew` is served on it */
  readonly mesh: RenewalMesh & Pick<Mesh, 'serve' | 'addresses'>
  /** hosts of the site that are known, this one among them or not */
  readonly hostNames: () => readonly SiteHost[]
  readonly log: Logger
  readonly now: () => number
}

/**
 * The part of an agent that has to do with certificates: on every host its own renewal; on gateways
 * invitations, the listener for joining, renewals of the site's hosts, and revocations.
 */
export interface SiteIssuer {
  /** whether hosts can be invited here at this moment */
  readonly canIssue: boolean
  readonly hasSiteKey: boolean
  /** After the mesh. What cannot be listened on for joins is a problem in the status, no error. */
  start (): Promise<void>
  stop (): Promise<void>
  /** @throws MusubiError CANNOT_ISSUE, ROLE_NEEDS_SITE_KEY, TOO_MANY_INVITATIONS, CANNOT_LISTEN; InvalidInputError */
  invite (options: InviteBody): Promise<InvitedResource>
  /** newest first */
  invitations (): InvitationResource[]
  /** @throws NotFoundError, ConflictError */
  withdraw (id: string): Promise<InvitationResource>
  /** By host name or PeerId. @throws NotFoundError, ConflictError for this host itself, MusubiError SITE_KEY_NEEDED, CANNOT_ISSUE */
  revoke (host: string, reason: string): Promise<RevokedResource>
  /** The certificate of this host, now. @throws what whoever signs says */
  renewOwn (): Promise<void>
  /** when its certificate is renewed next, and why the last try failed */
  renewal (): ReturnType<Renewal['state']>
  /** answers of the listener for joining by code, for metrics */
  joins (): Readonly<Record<string, number>>
  /** what people should know of, for the status */
  problems (): string[]
}

const DEFAULT_ROLES: NonNullable<InviteBody['roles']> = ['compute', 'storage']
/** How long a gateway without an issuer certificate waits before it asks for one again. */
const ASK_AGAIN_MS = 60_000
const SWEEP_MS = 3_600_000

function shown ({ id, kind, site, roles, segmentIds, note, createdMs, expiresMs, state, wrongProofs, used }: Invitation): InvitationResource {
  return { id, kind, site, roles: [...roles], segmentIds: segmentIds === null ? null : { ...segmentIds }, note, createdMs, expiresMs, state, wrongProofs, used: used === null ? null : { ...used } }
}

/** Loads what this host has of its site's trust; nothing listens yet. @throws MusubiError BAD_CREDENTIALS, BAD_KEY, WRONG_IDENTITY; NotAdmittedError */
export async function createSiteIssuer (options: SiteIssuerOptions): Promise<SiteIssuer> {
  const { config, key, store, trust, mesh, hostNames, log, now } = options
  const { site, name } = config
  const { federation } = trust
  const files = trustFiles(options.stateDir)
  const isGateway = config.roles.includes('gateway')
  const meshLog = (level: 'debug' | 'info' | 'warn' | 'error', text: string, data: Readonly<Record<string, unknown>>): void => { log[level](data, text) }

  const siteKey = isGateway ? await loadKeyIfThere(files.siteKey) : null
  // gateways that joined by a token have the site's certificate at the end of their own chain
  let siteChain: Chain = (isGateway ? (await readChainFile(files.siteChain))?.chain : undefined) ?? trust.own().chain.slice(-1)
  const issued = issuedStore(store)
  let authority: SiteAuthority | null = null
  let problem: string | null = null

  function authorise (issuerChain: Chain | null): void {
    authority = siteKey === null && issuerChain === null ? null : siteAuthority({
      site, federation, siteKey, siteChain, issuer: issuerChain === null ? null : { key, chain: issuerChain }, now, issued, revocations: trust.revocations,
      taken: host => hostNames().find(h => h.name === host && h.alive)?.peerId ?? null,
      gateways: () => hostNames().filter(h => h.roles.includes('gateway')).map(h => {
        const member = h.peerId === peerIdOf(key) ? trust.own() : trust.memberOf(h.peerId)
        return { name: h.name, peerId: h.peerId, segmentIds: member?.segmentIds ?? null, quotaPercent: member?.quotaPercent ?? 0 }
      })
    })
  }
  if (isGateway) {
    try {
      authorise((await readChainFile(files.issuer))?.chain ?? null)
    } catch (error) {
      // the host itself is a member all the same: it lends and runs, and says what is wrong
      problem = `this gateway can admit nobody: ${describeError(error)}`
      log.warn({ error: describeError(error) }, 'this gateway cannot issue certificates')
    }
  }
  const issuing = (): SiteAuthority => {
    if (authority !== null) return authority
    throw new MusubiError('CANNOT_ISSUE', problem ?? `gateway ${name} has neither the key of site ${site} nor an issuer certificate yet`, { hint: 'it asks the gateway that has the key, which must be running; or invite there' })
  }

  const invitations = await createInvitations({ store: invitationStore(store), now, randomBytes })
  const ownPeer = (): KnownPeer => ({ peerId: mesh.peerId, addresses: mesh.addresses().map(a => a.replace(/\/p2p\/[^/]+$/, '')), chain: trust.own().chain })
  /** Whom a new host connects to first: this gateway, its site, the coordinators. */
  const firstPeers = (): KnownPeer[] => [ownPeer(), ...mesh.knownPeers().filter(({ peerId }) => {
    const role = mesh.roleOf(peerId)
    return role?.kind === 'coordinator' || role?.site === site
  })]
  const addresses = isGateway ? joinAddresses(config) : null
  const listener: JoinListener | null = addresses === null ? null : createJoinListener({
    key, federation, ...addresses, invitations, peers: firstPeers, log: meshLog, now,
    authorise: async (request, invitation) => await authoriseHosts(issuing())(request, invitation)
  })
  if (isGateway) mesh.serve('renew', async (request, context) => await answerHostRenewals(issuing(), trust)(request, context))

  const saveOwn = async (chain: Chain): Promise<void> => {
    const kept = await readCredentials(files.credentials)
    await writeCredentials(files.credentials, { federation, chain, peers: kept?.peers ?? [] })
  }
  const own = createRenewal({ trust, now, log: meshLog, save: saveOwn, renew: async chain => await renewHost(mesh, authority, hostNames(), chain) })
  const renewals: Renewal[] = [own]

  /** Puts the site's new certificate below all that stands on it. */
  async function siteRenewed (chain: Chain): Promise<void> {
    await writeChainFile(files.siteChain, { federation, chain })
    siteChain = chain
    const ownChain = [...trust.own().chain.slice(0, -1), ...chain]
    await saveOwn(ownChain)
    trust.renewed(ownChain)
    const issuerChain = authority?.issuerChain() ?? null
    if (issuerChain === null) authority?.replace({ siteChain: chain })
    else await issuerRenewed([...issuerChain.slice(0, -1), ...chain])
  }
  async function issuerRenewed (chain: Chain): Promise<void> {
    await writeChainFile(files.issuer, { federation, chain })
    if (authority === null || authority.issuerChain() === null) authorise(chain)
    else authority.replace({ siteChain, issuerChain: chain })
    problem = null
  }
  if (isGateway) renewals.push(createRenewal({ trust, now, log: meshLog, what: `the certificate of site ${site}`, chain: () => siteChain, save: siteRenewed, renew: async chain => await askCoordinators(mesh, chain) }))

  const newIssuerChain = async (): Promise<Chain> => authority?.hasSiteKey === true
    ? authority.delegate({ subject: peerIdOf(key), name, joinedMs: trust.own().joinedMs })
    : await askGateways(mesh, hostNames(), trust.own().chain, true)
  const renewIssuer = createRenewal({
    trust, now, log: meshLog, what: `the issuer certificate of ${site}/${name}`, save: issuerRenewed, renew: newIssuerChain,
    chain: () => authority?.issuerChain() ?? trust.own().chain
  })
  let asking: NodeJS.Timeout | undefined

  /** A gateway becomes an issuer as soon as one with the site key answers; hosts can join there then, too. */
  async function becomeIssuer (): Promise<void> {
    try {
      await issuerRenewed(await newIssuerChain())
      log.info({ site, host: name }, 'this gateway can admit hosts now')
      renewIssuer.start()
      renewals.push(renewIssuer)
    } catch (error) {
      log.debug({ error: describeError(error) }, 'no gateway gives an issuer certificate yet')
      asking = setTimeout(() => { void becomeIssuer() }, ASK_AGAIN_MS)
      asking.unref()
    }
  }

  const revoke = createRevoker({ site, own: mesh.peerId, key, siteKey, federation, trust, trustStore: options.trustStore, issued, hostNames, now, siteChain: () => siteChain, issuerChain: () => authority?.issuerChain() ?? null })
  let sweeping: NodeJS.Timeout | undefined
  let listenProblem: string | null = null

  return {
    get canIssue () { return authority !== null },
    hasSiteKey: siteKey !== null,
    async start () {
      for (const renewal of renewals) renewal.start()
      if (!isGateway) return
      if (authority?.issuerChain() != null) {
        renewIssuer.start()
        renewals.push(renewIssuer)
      } else if (problem === null) {
        void becomeIssuer()
      }
      await invitations.sweep()
      sweeping = setInterval(() => { invitations.sweep().catch((error: unknown) => { log.warn({ error: describeError(error) }, 'old invitations could not be swept') }) }, SWEEP_MS)
      sweeping.unref()
      // whoever lends goes on lending when nobody can join
      await listener?.start().catch((error: unknown) => {
        listenProblem = `nobody can join here: ${describeError(error)}`
        log.warn({ error: describeError(error) }, 'cannot listen for joins')
      })
    },
    async stop () {
      clearInterval(sweeping)
      clearTimeout(asking)
      for (const renewal of renewals) renewal.stop()
      await listener?.stop()
    },
    async invite ({ roles = DEFAULT_ROLES, ttlMs = INVITATION_TTL_MS, note = '', quotaPercent = 0 }) {
      const { hasSiteKey } = issuing()
      if (listener === null) throw new MusubiError('NOT_A_GATEWAY', 'this host is no gateway: it admits nobody')
      // said to whoever invites, not first to whoever comes with the token
      if (roles.includes('gateway') && !hasSiteKey) throw new MusubiError('ROLE_NEEDS_SITE_KEY', `gateway ${name} cannot invite gateways: only the key of site ${site} makes them, and it is not here`, { hint: 'invite on the gateway that has the key; where it was moved offline: musubi site key --import FILE, then restart the agent' })
      const invitation = await invitations.invite({ kind: 'host', site, roles, ttlMs, note, quotaPercent })
      try {
        const token = await listener.token(invitation)
        listenProblem = null
        log.info({ invitation: invitation.id, roles, expires: new Date(invitation.expiresMs).toISOString() }, 'a host was invited')
        return { token, invitation: shown(invitation) }
      } catch (error) {
        await invitations.withdraw(invitation.id)
        throw error
      }
    },
    invitations: () => invitations.list().map(shown),
    withdraw: async id => shown(await invitations.withdraw(id)),
    async revoke (host, reason) {
      const revoked = await revoke(host, reason)
      log.warn({ host: revoked.host, peerId: revoked.peerId, reason }, 'a host was revoked')
      return revoked
    },
    renewOwn: async () => { await own.renewNow() },
    renewal: () => own.state(),
    joins: () => listener?.counts() ?? {},
    problems: () => {
      const { failures, lastError, endsMs } = own.state()
      return [...[problem, listenProblem].filter(text => text !== null), ...failures === 0 || lastError === null ? [] : [`the certificate of this host ends ${new Date(endsMs).toISOString()} and could not be renewed yet: ${lastError.message}`]]
    }
  }
}
