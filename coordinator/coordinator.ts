import { randomBytes } from 'node:crypto'
import { setTimeout } from 'node:timers/promises'
import type { Logger } from 'pino'
import type { CoordinatorConfig } from './config.ts'
import { openAudit } from './audit.ts'
import { identityFiles, type CoordinatorIdentity } from './identity.ts'
import { joinAddresses } from '../protocol/mesh/join/addresses.ts'
import { createRegistry, type Link } from './registry.ts'
import { revokeSite } from './revoke.ts'
import { sitesOf } from './sites.ts'
import { federationState, storeFolder } from './transfer.ts'
import type { FederationState } from './transfer-file.ts'
import type { CoordinatorInvite, CoordinatorInvited, CoordinatorRevoke, CoordinatorRevoked, CoordinatorSite, CoordinatorStatus, InvitationResource, SiteResource } from '../protocol/api.ts'
import { describeError } from '../protocol/core/errors.ts'
import { INVITATION_TTL_MS, MAX_PEERS_KEPT } from '../protocol/core/limits.ts'
import { authoriseSites, coordinatorAuthority } from '../protocol/mesh/join/authority.ts'
import { createInvitations } from '../protocol/mesh/join/invitations.ts'
import { createJoinListener } from '../protocol/mesh/join/listener.ts'
import { answerSiteRenewals, createRenewal } from '../protocol/mesh/join/renewal.ts'
import type { Invitation } from '../protocol/mesh/join/types.ts'
import { createMesh, type Mesh, type MeshLog } from '../protocol/mesh/mesh.ts'
import { createRecords, type Records } from '../protocol/mesh/records.ts'
import { describeRole } from '../protocol/mesh/roles.ts'
import { writeCredentials, type KnownPeer } from '../protocol/mesh/trust/credentials.ts'
import { createTrust } from '../protocol/mesh/trust/trust.ts'
import { VERSION } from '../protocol/version.ts'
import { invitationStore, issuedStore } from '../store/invitations.ts'
import { openLevelStore } from '../store/level.ts'
import type { Store } from '../store/store.ts'
import { openTrustStore, type TrustStore } from '../store/trust.ts'

/** A coordinator that runs: what its API asks of it. */
export interface Coordinator {
  readonly name: string
  readonly peerId: string
  readonly federation: string
  addresses (): string[]
  status (): CoordinatorStatus
  sites (): SiteResource[]
  admissions (): Promise<CoordinatorSite[]>
  invitations (): InvitationResource[]
  /** @throws InvalidInputError; MusubiError TOO_MANY_INVITATIONS, CANNOT_LISTEN */
  invite (request: CoordinatorInvite): Promise<CoordinatorInvited>
  /** @throws NotFoundError, ConflictError */
  withdraw (id: string): Promise<InvitationResource>
  /** @throws NotFoundError, ConflictError */
  revoke (request: CoordinatorRevoke): Promise<CoordinatorRevoked>
  exportState (): Promise<FederationState>
  stop (): Promise<void>
}

const KEEP_PEERS_MS = 30_000
const SWEEP_INVITATIONS_MS = 3_600_000
/** A goodbye waits for nobody who hangs. */
const LEAVE_MS = 2_000

const shown = ({ id, kind, site, roles, segmentIds, note, createdMs, expiresMs, state, used, wrongProofs }: Invitation): InvitationResource =>
  ({ id, kind, site, roles: [...roles], segmentIds, note, createdMs, expiresMs, state, used, wrongProofs })

/** Peers of the last run, of an import, and those that the credentials name. */
async function firstPeers (identity: CoordinatorIdentity, kept: TrustStore): Promise<KnownPeer[]> {
  const known = await kept.peers()
  return [...known, ...identity.credentials.peers.filter(({ peerId }) => !known.some(peer => peer.peerId === peerId))].slice(0, MAX_PEERS_KEPT)
}

/** Everything of one coordinator, wired. It listens when this resolves. @throws MusubiError saying what is missing or taken */
export async function startCoordinator (config: CoordinatorConfig, identity: CoordinatorIdentity, log: Logger): Promise<Coordinator> {
  const store = await openLevelStore(storeFolder(config))
  try {
    return await wire(config, identity, log, store)
  } catch (error) {
    await store.close()
    throw error
  }
}

async function wire (config: CoordinatorConfig, identity: CoordinatorIdentity, log: Logger, store: Store): Promise<Coordinator> {
  const now = (): number => Date.now()
  const started = performance.now()
  const { name, peerId, federation, coordinatorKey, nodeKey } = identity
  const meshLog: MeshLog = (level, text, data) => { log[level](data, text) }
  const audit = openAudit(config.stateDir, { now })
  const kept = await openTrustStore(store, now)
  const trust = createTrust({ peerId, federation, chain: identity.credentials.chain, now, revocations: await kept.revocations() })
  const mesh = await createMesh({ key: nodeKey, trust, listen: config.listen, announce: config.announce ?? [], relay: config.relay, peers: await firstPeers(identity, kept), log: meshLog })
  const registry = await createRegistry({ store, now })
  const records = createRecords({ mesh, epoch: registry.epoch, log: meshLog })
  const unfollow = registry.follow(records, trust, log)

  /** Coordinators first: who knows several does not notice the loss of one. */
  const firstForOthers = (): KnownPeer[] => {
    const known = mesh.knownPeers()
    const isCoordinator = ({ peerId }: KnownPeer): boolean => mesh.roleOf(peerId)?.kind === 'coordinator'
    return [{ peerId, addresses: mesh.addresses(), chain: trust.own().chain }, ...known.filter(isCoordinator), ...known.filter(peer => !isCoordinator(peer))]
  }
  const issued = issuedStore(store)
  /** also of a site that is silent: its name is not given away */
  const keyOfSite = (site: string): string | null => registry.gateways().find(gateway => gateway.ad.site === site && gateway.key !== null)?.key ?? null
  const authority = coordinatorAuthority({ coordinatorKey, federation, now, issued, taken: keyOfSite, revocations: trust.revocations })
  const invitations = await createInvitations({ store: invitationStore(store), now, randomBytes })
  const certify = authoriseSites(authority)
  const join = joinAddresses(config)
  const joinListener = createJoinListener({
    key: nodeKey, federation, listen: join.listen, announce: join.announce, invitations, now, log: meshLog,
    authorise: async (request, invitation) => {
      const chain = await certify(request, invitation)
      await audit.write('redeem', { site: request.name, key: request.subject, invitation: invitation.id })
      return chain
    },
    peers: firstForOthers
  })
  const renewal = createRenewal({
    trust, now, log: meshLog,
    renew: async chain => await authority.renew(chain),
    save: async chain => { await writeCredentials(identityFiles(config.stateDir).credentials, { ...identity.credentials, chain }) }
  })
  mesh.serve('renew', answerSiteRenewals(authority, trust))
  mesh.serve('search', () => ({ sites: registry.ads() }))

  const admissions = async (): Promise<CoordinatorSite[]> => sitesOf({
    issued: await issued.list(), gateways: registry.gateways(), revocations: trust.revocations.all(),
    memberOf: peer => trust.memberOf(peer), path: peer => mesh.path(peer)
  })
  const link = (peer: string): Link => ({ path: mesh.path(peer), rttMs: mesh.rttMs(peer) })
  const upkeep = startUpkeep({ mesh, records, kept, name, log, sweep: () => invitations.sweep() })
  await mesh.start()
  try {
    records.publish('coordinator', { name, addresses: mesh.addresses(), version: VERSION })
    await joinListener.start()
  } catch (error) {
    await mesh.close()
    throw error
  }
  renewal.start()

  return {
    name, peerId, federation,
    addresses: () => mesh.addresses(),
    sites: () => registry.sites(link),
    admissions,
    status: () => {
      const { nextMs, endsMs, lastError } = renewal.state()
      const { notAdmitted, ...outcomes } = records.counts()
      return {
        name, peerId, federation, version: VERSION, addresses: mesh.addresses(), joinAddresses: joinListener.addresses(), sites: registry.ads().length,
        peers: mesh.connected().map(peer => ({ peerId: peer, name: nameOf(mesh, peer), path: mesh.path(peer), rttMs: mesh.rttMs(peer) })),
        certificate: { expiresAt: endsMs, renewsAt: Math.round(nextMs), error: lastError?.message ?? null },
        invitations: invitations.list().filter(({ state }) => state === 'open').length, revocations: trust.revocations.size,
        refusals: mesh.refusals(), joins: { ...joinListener.counts() }, records: outcomes, recordsNotAdmitted: notAdmitted,
        epoch: registry.epoch, uptimeMs: Math.round(performance.now() - started)
      }
    },
    invitations: () => invitations.list().map(shown),
    invite: async ({ site, ttlMs = INVITATION_TTL_MS, note = '' }) => {
      const invitation = await invitations.invite({ kind: 'site', site, roles: [], ttlMs, note })
      await audit.write('invite', { site, invitation: invitation.id, expires: new Date(invitation.expiresMs).toISOString() })
      return { id: invitation.id, site, expiresAt: invitation.expiresMs, token: await joinListener.token(invitation) }
    },
    withdraw: async id => {
      const invitation = await invitations.withdraw(id)
      await audit.write('withdraw', { site: invitation.site, invitation: id })
      return shown(invitation)
    },
    revoke: async request => {
      const result = await revokeSite({ coordinatorKey, trust, store: kept, invitations, audit, now, sites: admissions }, request)
      log.warn({ site: result.site, key: result.key, already: result.already }, 'a site was revoked')
      return result
    },
    exportState: async () => {
      await audit.write('export', { federation, running: true })
      return await federationState(store, kept, firstForOthers())
    },
    stop: async () => {
      renewal.stop()
      await joinListener.stop()
      await upkeep.stop()
      await unfollow()
      await Promise.race([records.leave(), setTimeout(LEAVE_MS, undefined, { ref: false })])
      records.stop()
      await mesh.close()
      await store.close()
    }
  }
}

const nameOf = (mesh: Mesh, peer: string): string => {
  const role = mesh.roleOf(peer)
  return role === null ? peer : describeRole(role)
}

interface UpkeepDeps { readonly mesh: Mesh, readonly records: Records, readonly kept: TrustStore, readonly name: string, readonly log: Logger, readonly sweep: () => Promise<void> }

/** What is kept for the next start, and looked after from time to time. */
function startUpkeep ({ mesh, records, kept, name, log, sweep }: UpkeepDeps): { stop: () => Promise<void> } {
  const trying = (what: string, work: () => Promise<void>): void => {
    work().catch((error: unknown) => { log.warn({ error: describeError(error) }, what) })
  }
  const keepPeers = (): Promise<void> => kept.keepPeers(mesh.knownPeers())
  const warned = new Set<string>()
  const stops = [
    mesh.trust.onRevoked(({ signed }) => { trying('cannot keep a revocation', () => kept.keepRevocation(signed)) }),
    records.onChange((kind, peer) => {
      if (kind !== 'coordinator' || peer === mesh.peerId || warned.has(peer)) return
      const role = mesh.roleOf(peer)
      if (role?.kind !== 'coordinator' || role.name !== name) return
      warned.add(peer)
      log.warn({ peer: mesh.describe(peer) }, 'another coordinator has the same name: give one of them another')
    })
  ]
  const timers = [
    setInterval(() => { trying('cannot keep the list of peers', keepPeers) }, KEEP_PEERS_MS),
    setInterval(() => { trying('cannot sweep invitations', sweep) }, SWEEP_INVITATIONS_MS)
  ]
  return {
    stop: async () => {
      for (const stop of stops) stop()
      for (const timer of timers) clearInterval(timer)
      await keepPeers()
    }
  }
}
