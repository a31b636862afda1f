import type { wire } from '../../wire/codec.ts'
import type { NodeKey } from '../identity.ts'
import type { Chain } from '../trust/certificate.ts'
import type { Credentials, KnownPeer } from '../trust/credentials.ts'

/** What is shared by those who invite and those who join. Functions: see the file named with each type. */

/** What a token admits: a site to the federation, or a host to its site. */
export type InvitationKind = 'site' | 'host'
export interface Slice { readonly from: number, readonly to: number }
/** `open`: waits to be used. */
export type InvitationState = 'open' | 'used' | 'expired' | 'withdrawn' | 'burnt'

/** What an invitation shows of itself: no secret, no certificate. */
export interface Invitation {
  readonly id: string
  readonly kind: InvitationKind
  /** hosts: the inviting site; sites: the name that it must take, or empty for any */
  readonly site: string
  /** hosts: those it may ask for */
  readonly roles: readonly string[]
  /** gateways: the slice of segment ids that it gets; null: the one that it brings */
  readonly segmentIds: Slice | null
  readonly quotaPercent: number
  readonly note: string
  readonly createdMs: number
  readonly expiresMs: number
  readonly state: InvitationState
  readonly used: { readonly subject: string, readonly name: string, readonly atMs: number } | null
  readonly wrongProofs: number
}

/** As it is kept. Bytes are base64, so that it is plain JSON. */
export interface InvitationRecord extends Omit<Invitation, 'state'> {
  readonly secret: string
  readonly withdrawn: boolean
  /** what was answered, to be answered again to the same subject */
  readonly chain: readonly string[]
}

/** Where invitations are kept; store/invitations.ts. */
export interface InvitationStore {
  list (): Promise<InvitationRecord[]>
  /** on the disk when it resolves */
  put (record: InvitationRecord): Promise<void>
  delete (id: string): Promise<void>
}

export interface InviteOptions {
  readonly kind: InvitationKind
  readonly site: string
  readonly roles: readonly string[]
  readonly ttlMs: number
  readonly note?: string
  readonly segmentIds?: Slice | null
  readonly quotaPercent?: number
}

/** Fresh from `invite`: the only time that its secret is shown. */
export interface NewInvitation extends Invitation { readonly secret: Uint8Array }

/** `await createInvitations({ store, now, randomBytes })` in invitations.ts. */
export interface Invitations {
  /** @throws InvalidInputError; MusubiError TOO_MANY_INVITATIONS */
  invite (options: InviteOptions): Promise<NewInvitation>
  /** newest first */
  list (): Invitation[]
  /** Idempotent. @throws NotFoundError; ConflictError when it was used already */
  withdraw (id: string): Promise<Invitation>
  /** @throws MusubiError TOKEN_UNKNOWN, TOKEN_BURNT, BAD_PROOF, TOKEN_WITHDRAWN, TOKEN_EXPIRED, TOKEN_WRONG_KIND */
  check (request: wire.JoinRequest, issuer: string, caller: string): Promise<Invitation>
  /**
   * Uses it, once: what `makeChain` gives is on the disk before this resolves. The same subject gets
   * the same chain again until the token expires.
   *
   * @throws MusubiError TOKEN_USED, and as `check`; what `makeChain` throws leaves it unused
   */
  redeem (id: string, subject: string, name: string, makeChain: (invitation: Invitation) => Promise<Chain>): Promise<Chain>
  /** HMAC-SHA256 with the secret of an invitation, for the proof in a reply; null when it is unknown. */
  prove (id: string, bytes: Uint8Array): Uint8Array | null
  /** until when somebody may have to be answered (open ones, used ones whose answer may be lost); null: nobody */
  answerableUntilMs (): number | null
  /** Forgets what ended more than a day ago. */
  sweep (): Promise<void>
  /** @returns ends it */
  onChange (listener: () => void): () => void
}

/** A host or site that an authority has certified: names and slices that are taken though nobody is to be seen. */
export interface Issued {
  readonly kind: InvitationKind
  readonly subject: string
  /** of the host, or of the site */
  readonly name: string
  readonly roles: readonly string[]
  readonly segmentIds: Slice | null
  /** gateways: share of the site's quotas, per cent; absent: an earlier release has kept it, and nobody was counted */
  readonly quotaPercent?: number
  readonly joinedMs: number
  readonly issuedMs: number
  readonly notAfterMs: number
}

/** Where they are kept; store/invitations.ts. */
export interface IssuedStore {
  list (): Promise<Issued[]>
  put (issued: Issued): Promise<void>
  delete (subject: string): Promise<void>
}

/** `createJoinListener({ key, federation, listen, announce, invitations, authorise, peers, log, now })` in listener.ts. */
export interface JoinListener {
  /** Follows the invitations from now on: listens while somebody may come. @throws MusubiError CANNOT_LISTEN */
  start (): Promise<void>
  /** Brings the sockets in line with the invitations now. @throws MusubiError CANNOT_LISTEN */
  refresh (): Promise<void>
  /** multiaddrs without PeerId; empty while it does not listen */
  addresses (): string[]
  /** Makes sure that it listens, and writes the token of an invitation. @throws MusubiError CANNOT_LISTEN */
  token (invitation: NewInvitation): Promise<string>
  /** answers so far by code, `OK` for joins; for metrics */
  counts (): Readonly<Record<string, number>>
  stop (): Promise<void>
}

/** `redeem(text, options)` in redeem.ts. */
export interface RedeemOptions {
  /** node key of this host */
  readonly key: NodeKey
  /** host name, or site name for a site */
  readonly name: string
  readonly roles?: readonly string[]
  readonly segmentIds?: Slice | null
  /** where this member will be reached */
  readonly addresses?: readonly string[]
  /** needed for a token of kind `site` */
  readonly siteKey?: NodeKey
  readonly now: () => number
  readonly signal?: AbortSignal
}

export type Redeemed =
  | { readonly kind: 'host', readonly site: string, readonly credentials: Credentials }
  | { readonly kind: 'site', readonly site: string, readonly federation: string, readonly siteChain: Chain, readonly peers: readonly KnownPeer[] }

/** `createRenewal({ trust, now, renew, save, log, chain?, what? })` in renewal.ts. */
export interface Renewal {
  start (): void
  /** Now, whether due or not. @throws what `renew` throws */
  renewNow (): Promise<Chain>
  stop (): void
  /** for status: when it is tried next, when all ends, why the last try failed */
  state (): { readonly nextMs: number, readonly endsMs: number, readonly failures: number, readonly lastError: { readonly code: string, readonly message: string } | null }
}

/** `coordinatorAuthority({ coordinatorKey, federation, now, issued?, taken?, revocations? })` in authority.ts. */
export interface CoordinatorAuthority {
  readonly federation: string
  /** @throws MusubiError NAME_TAKEN */
  certifySite (request: { readonly subject: string, readonly site: string }): Promise<Chain>
  certifyCoordinator (request: { readonly subject: string, readonly name: string }): Chain
  /** Renews a coordinator's or a site's chain. @throws NotAdmittedError CERTIFICATE_EXPIRED, CERTIFICATE_REVOKED and as readChain */
  renew (chain: Chain): Promise<Chain>
}

export interface HostGrant {
  readonly subject: string
  readonly name: string
  readonly roles: readonly string[]
  readonly segmentIds: Slice | null
  readonly quotaPercent: number
}

/** `siteAuthority({ site, federation, siteKey, siteChain, issuer, now, taken, gateways?, issued?, revocations? })` in authority.ts. */
export interface SiteAuthority {
  readonly site: string
  readonly hasSiteKey: boolean
  /** chain of the site key as it is now */
  siteChain (): Chain
  /** the issuer's chain, null without one */
  issuerChain (): Chain | null
  /** @throws MusubiError ROLE_NEEDS_SITE_KEY, NAME_TAKEN, SLICE_OVERLAPS, SLICE_NEEDED, QUOTA_TAKEN, CANNOT_ISSUE */
  certifyHost (grant: HostGrant): Promise<Chain>
  /**
   * Issuer certificate for a gateway (its node key): [issuer, site].
   *
   * @param request.joinedMs when the gateway itself was admitted, so that what revokes it covers this, too
   * @throws MusubiError SITE_KEY_NEEDED
   */
  delegate (request: { readonly subject: string, readonly name: string, readonly roles?: readonly string[], readonly lifetimeMs?: number, readonly joinedMs?: number }): Chain
  /** Renews a host's chain: all stays but the dates. @throws NotAdmittedError, MusubiError as certifyHost */
  renew (chain: Chain): Promise<Chain>
  /** After renewal of the site certificate or of the issuer's. @throws NotAdmittedError when they do not fit */
  replace (news: { readonly siteChain?: Chain, readonly issuerChain?: Chain }): void
}
