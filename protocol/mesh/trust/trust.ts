import { MusubiError } from '../../core/errors.ts'
import { MAX_MEMBERS_KEPT, MAX_NEW_REVOCATIONS, NEW_REVOCATIONS_MS } from '../../core/limits.ts'
import type { wire } from '../../wire/codec.ts'
import { describeRole, mayConnect, type Role } from '../roles.ts'
import { checkDates, NotAdmittedError, readMember, type Chain, type Member } from './certificate.ts'
import { Roster } from './roster.ts'
import { readRevocation, revocationId, RevocationSet, shareOf, type Revoked } from './revocation.ts'

export interface TrustOptions {
  /** PeerId of this process's key */
  readonly peerId: string
  /** PeerId of the coordinator key that all trust starts from */
  readonly federation: string
  /** own certificates, the own first */
  readonly chain: Chain
  /** wall clock, Unix ms */
  readonly now: () => number
  /** those known from earlier; what is not valid is left out */
  readonly revocations?: readonly wire.SignedRevocation[]
}

/**
 * Who is who, as far as certificates prove it: the roster of the mesh. Members are learned from
 * connections and records; each stays one until its certificates end or are revoked.
 */
export interface Trust {
  readonly federation: string
  readonly peerId: string
  /** as its certificates say now */
  own (): Member
  /** After a renewal. @throws NotAdmittedError, MusubiError WRONG_IDENTITY when it says something else than before */
  renewed (chain: Chain): void
  /** null for strangers, and for members whose certificates ended or were revoked */
  roleOf (peerId: string): Role | null
  memberOf (peerId: string): Member | null
  /**
   * Checks a chain that is shown for `peerId`, and remembers the member.
   *
   * @throws NotAdmittedError saying why not
   */
  admit (peerId: string, chain: Chain): Member
  /** {@link admit}, and whether the two may have a connection. @throws NotAdmittedError NOT_ALLOWED too */
  admitConnection (peerId: string, chain: Chain): Member
  readonly revocations: RevocationSet
  /** Checks and keeps a revocation. @returns it when it is new. @throws InvalidInputError, NotAdmittedError */
  takeRevocation (signed: wire.SignedRevocation): Revoked | null
  /** Told of every revocation that is new here. @returns ends it */
  onRevoked (listener: (revoked: Revoked) => void): () => void
  /** Told when the own certificates were renewed. @returns ends it */
  onRenewed (listener: (own: Member) => void): () => void
}

const sameRole = (a: Role, b: Role): boolean => describeRole(a) === describeRole(b) && a.kind === b.kind

/**
 * The own certificates may have ended: a host that was away must still end its leases; others will
 * not admit it until it has joined again.
 *
 * @throws NotAdmittedError when the own chain is none for this key
 */
export function createTrust (options: TrustOptions): Trust {
  const { peerId: self, federation, now } = options
  const revocations = new RevocationSet()
  const members = new Roster(MAX_MEMBERS_KEPT)
  /** new revocations of late, by who signs them: each is written to the disk and told to everybody */
  const news = new Map<string, { fromMs: number, count: number }>()
  /** the key that holds each site name: of two, the one admitted first */
  const sites = new Map<string, { key: string, joinedMs: number }>()
  const revokedListeners = new Set<(revoked: Revoked) => void>()
  const renewedListeners = new Set<(own: Member) => void>()

  for (const signed of options.revocations ?? []) {
    try {
      revocations.add(readRevocation(signed, federation, now()), now())
    } catch {
      // of another federation, or damaged: what still holds is heard again from peers
    }
  }

  const checkOwn = (chain: Chain): Member => {
    const member = readMember(chain, federation)
    if (member.peerId !== self) throw new NotAdmittedError('BAD_CERTIFICATE', `the own certificate is for the key ${member.peerId}, not ${self}`, 'the key file was exchanged: join again with a new token')
    return member
  }
  let own = checkOwn(options.chain)

  const checkRevoked = (member: Member): void => {
    const revoked = revocations.covering(member)
    if (revoked === null) return
    const { document: { kind, site, name, revokedMs, reason } } = revoked
    throw new NotAdmittedError('CERTIFICATE_REVOKED', `${kind === 'site' ? `site ${site}` : `${site}/${name}`} was revoked ${new Date(revokedMs).toISOString()}${reason === '' ? '' : `: ${reason}`}`, kind === 'site' ? 'ask the administrator of the coordinator' : `ask the administrator of site ${site}`)
  }

  const checkSiteName = (member: Member): void => {
    const { role, siteKey: key } = member
    if (role.kind !== 'host' || key === null) return
    const known = own.role.kind === 'host' && own.role.site === role.site && own.siteKey !== null ? { key: own.siteKey, joinedMs: 0 } : sites.get(role.site)
    if (known !== undefined && known.key !== key) {
      const first = known.joinedMs < member.siteJoinedMs || (known.joinedMs === member.siteJoinedMs && known.key < key)
      if (first) throw new NotAdmittedError('SITE_NAME_TAKEN', `the name ${role.site} belongs to another site, which was admitted first`, 'let a coordinator revoke one of the two, and join under another name')
      members.dropSite(known.key)
    }
    sites.set(role.site, { key, joinedMs: member.siteJoinedMs })
  }

  const admit = (peerId: string, chain: Chain, met: boolean): Member => {
    const member = readMember(chain, federation)
    if (member.peerId !== peerId) throw new NotAdmittedError('BAD_CERTIFICATE', `its certificate is for another key, ${member.peerId}`)
    checkDates(member, now())
    checkRevoked(member)
    checkSiteName(member)
    const known = members.get(peerId)
    // the longer one stays: records from before a renewal still travel
    const kept = known !== undefined && known.notAfterMs > member.notAfterMs && known.joinedMs >= member.joinedMs && valid(known) ? known : member
    members.put(kept, met)
    return kept
  }

  const recentOf = (revoked: Revoked): { fromMs: number, count: number } => {
    const author = shareOf(revoked)
    for (const [other, { fromMs }] of news) if (Math.abs(now() - fromMs) >= NEW_REVOCATIONS_MS) news.delete(other)
    const known = news.get(author)
    const recent = known !== undefined && Math.abs(now() - known.fromMs) < NEW_REVOCATIONS_MS ? known : { fromMs: now(), count: 0 }
    news.set(author, recent)
    return recent
  }

  const valid = (member: Member): boolean => member.notAfterMs > now() && revocations.covering(member) === null

  const memberOf = (peerId: string): Member | null => {
    const member = peerId === self ? own : members.get(peerId)
    return member !== undefined && valid(member) ? member : null
  }

  return {
    federation,
    peerId: self,
    own: () => own,
    renewed: chain => {
      const member = checkOwn(chain)
      checkDates(member, now())
      if (!sameRole(member.role, own.role)) throw new MusubiError('WRONG_IDENTITY', `the new certificate is for ${describeRole(member.role)}, this is ${describeRole(own.role)}`)
      own = member
      for (const listener of renewedListeners) listener(member)
    },
    roleOf: peerId => memberOf(peerId)?.role ?? null,
    memberOf,
    admit: (peerId, chain) => admit(peerId, chain, false),
    admitConnection: (peerId, chain) => {
      const member = admit(peerId, chain, true)
      if (!mayConnect(own.role, member.role)) throw new NotAdmittedError('NOT_ALLOWED', `${describeRole(own.role)} takes no connection of ${describeRole(member.role)}: between sites only gateways meet`)
      return member
    },
    revocations,
    takeRevocation: signed => {
      if (revocations.has(revocationId(signed))) return null
      const revoked = readRevocation(signed, federation, now())
      // what is too much now comes again with anti-entropy; only what counts is counted, so that nobody uses up the share of others by saying old things again
      const recent = recentOf(revoked)
      if (recent.count >= MAX_NEW_REVOCATIONS || !revocations.add(revoked, now())) return null
      if (revoked.by !== 'coordinator') recent.count++
      for (const [name, { key }] of sites) if (revoked.document.kind === 'site' && revoked.document.subject === key) sites.delete(name)
      for (const listener of revokedListeners) listener(revoked)
      return revoked
    },
    onRevoked: listener => {
      revokedListeners.add(listener)
      return () => { revokedListeners.delete(listener) }
    },
    onRenewed: listener => {
      renewedListeners.add(listener)
      return () => { renewedListeners.delete(listener) }
    }
  }
}
