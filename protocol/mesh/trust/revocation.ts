import { createHash } from 'node:crypto'
import { InvalidInputError, MusubiError } from '../../core/errors.ts'
import { MAX_REVOCATIONS, MAX_REVOCATIONS_PER_SITE } from '../../core/limits.ts'
import type { wire } from '../../wire/codec.ts'
import { checkPeerId, type NodeKey } from '../identity.ts'
import { isGateway } from '../roles.ts'
import { CLOCK_SKEW_MS, readChain, type Chain, type Member } from './certificate.ts'
import { seal, unseal } from './envelope.ts'

/** A checked revocation. It covers every certificate of the subject that goes back to an admission before it. */
export interface Revoked {
  /** of the envelope; what peers compare */
  readonly id: string
  readonly document: wire.Revocation
  /** whose key signed: an issuer cannot revoke gateways, as it cannot make them */
  readonly by: 'coordinator' | 'site' | 'issuer'
  /** PeerId of the key that signed */
  readonly signer: string
  readonly signed: wire.SignedRevocation
}

const ID_BYTES = 16
/** Longer than any certificate that it could cover lives, renewed by an issuer that had not heard of it or not. */
export const REVOCATION_KEEP_MS = 400 * 24 * 3_600_000

/** Of a revocation, checked or not: what peers compare, the same before and after it was sent as bytes. */
export const revocationId = ({ envelope }: Pick<wire.SignedRevocation, 'envelope'>): string => idFromBytes(createHash('sha256').update(envelope).digest().subarray(0, ID_BYTES))
export const idToBytes = (id: string): Uint8Array => Uint8Array.from(Buffer.from(id, 'base64url'))
export const idFromBytes = (bytes: Uint8Array): string => Buffer.from(bytes).toString('base64url')

export interface RevocationGrant { readonly federation: string, readonly kind: 'site' | 'host', readonly subject: string, readonly site: string, readonly name: string, readonly reason: string }

/**
 * Signs a revocation.
 *
 * @param chain of the signer: empty for the coordinator key, of the site key or issuer else
 */
export function revoke (signer: NodeKey, chain: Chain, grant: RevocationGrant, nowMs: number): wire.SignedRevocation {
  return { envelope: seal(signer, 'Revocation', { ...grant, reason: grant.reason.slice(0, 200), revokedMs: nowMs }), chain: [...chain] }
}

/** Who may revoke it, by the chain that comes with it. @throws InvalidInputError, NotAdmittedError */
function authorOf (signer: string, document: wire.Revocation, chain: Chain): Revoked['by'] {
  if (document.kind === 'site') {
    if (signer === document.federation && chain.length === 0) return 'coordinator'
    throw new InvalidInputError('only the coordinator key revokes sites')
  }
  const author = readChain(chain, document.federation)
  const kind = author.certificates[0]?.kind
  if (author.peerId !== signer || author.certificates[0]?.site !== document.site || (kind !== 'site' && kind !== 'issuer')) {
    throw new InvalidInputError(`a revocation of ${document.site}/${document.name} is not signed by that site`)
  }
  // a key that was stolen from an old backup has no say about those who came after its time
  if (document.revokedMs > author.notAfterMs) throw new InvalidInputError(`a revocation of ${document.site}/${document.name} is signed with a certificate that had ended`)
  return kind
}

/** @throws InvalidInputError, NotAdmittedError when it is no revocation of this federation, or not by whom it has to be; MusubiError FUTURE_DATED */
export function readRevocation (signed: wire.SignedRevocation, federation: string, nowMs: number): Revoked {
  const { signer, document } = unseal('Revocation', signed.envelope)
  if (document.federation !== federation) throw new InvalidInputError(`a revocation of the federation ${document.federation}`)
  if (document.kind !== 'site' && document.kind !== 'host') throw new InvalidInputError(`a revocation of ${JSON.stringify(document.kind.slice(0, 40))}`)
  checkPeerId(document.subject, 'revocation')
  // else one key could silence what others say later; no fault of who passes it on, whose clock may differ from this one
  if (document.revokedMs > nowMs + CLOCK_SKEW_MS) throw new MusubiError('FUTURE_DATED', `a revocation is dated ${Math.round((document.revokedMs - nowMs) / 1000)} s from now`, { hint: 'compare the clocks of both hosts' })
  return { id: revocationId(signed), document, by: authorOf(signer, document, signed.chain), signer, signed }
}

/** `a` stands when both revoke the same: the later one covers more. */
function supersedes (a: Revoked, b: Revoked): boolean {
  // what a stronger key says is not replaced by a weaker one
  const rank = { coordinator: 2, site: 1, issuer: 0 }
  if (rank[a.by] !== rank[b.by]) return rank[a.by] > rank[b.by]
  return a.document.revokedMs > b.document.revokedMs || (a.document.revokedMs === b.document.revokedMs && a.id > b.id)
}

const authorName = ({ by, signer, document: { site } }: Revoked): string => `${by} ${by === 'coordinator' ? '' : site} ${signer}`
/** Of whom. The site stands in it: what one site says of a key is nothing to another. */
const subjectKey = (kind: string, subject: string, site: string): string => kind === 'site' ? `site/${subject}` : `host/${site}/${subject}`
const keyOf = (revoked: Revoked): string => `${subjectKey(revoked.document.kind, revoked.document.subject, revoked.document.site)}/${authorName(revoked)}`

/** Whose share of the set it takes. */
export const shareOf = (revoked: Revoked): string => `${revoked.document.kind} ${authorName(revoked)}`
/** How often those are looked for that nobody needs any more. */
const SWEEP_MS = 60_000

/** The later ones first. */
const byDate = (a: Revoked, b: Revoked): number => b.document.revokedMs - a.document.revokedMs || (a.id < b.id ? 1 : -1)

/** All revocations that are known, one per subject and kind of author. The outcome does not depend on the order of arrival. */
export class RevocationSet {
  readonly #byKey = new Map<string, Revoked>()
  readonly #ids = new Set<string>()
  readonly #bySubject = new Map<string, Set<Revoked>>()
  /** sizes of the shares */
  readonly #shares = new Map<string, number>()
  #sweptMs = -Infinity
  #digest: Uint8Array | null = null

  get size (): number {
    return this.#byKey.size
  }

  /** Whether this very one is kept: what is known need not be checked again. */
  has (id: string): boolean {
    return this.#ids.has(id)
  }

  /** @returns whether it is new here, and kept */
  add (revoked: Revoked, nowMs: number): boolean {
    const { kind, subject, site, revokedMs } = revoked.document
    if (nowMs - revokedMs > REVOCATION_KEEP_MS) return false
    const key = keyOf(revoked)
    const known = this.#byKey.get(key)
    if (known !== undefined && !supersedes(revoked, known)) return false
    this.#drop(key)
    this.#byKey.set(key, revoked)
    this.#ids.add(revoked.id)
    const about = subjectKey(kind, subject, site)
    this.#bySubject.set(about, (this.#bySubject.get(about) ?? new Set()).add(revoked))
    this.#shares.set(shareOf(revoked), (this.#shares.get(shareOf(revoked)) ?? 0) + 1)
    this.#digest = null
    this.#bound(revoked, nowMs)
    return this.#byKey.get(key) === revoked
  }

  /** Whether a certificate of this chain is revoked, and by which revocation. */
  covering (member: Member): Revoked | null {
    for (const certificate of member.certificates) {
      const { kind, subject, joinedMs } = certificate
      for (const revoked of this.#bySubject.get(subjectKey(kind === 'site' ? 'site' : 'host', subject, certificate.site)) ?? []) {
        if (revoked.document.revokedMs < joinedMs) continue
        // of two sites that came to one name, neither has a say about the other's hosts
        if (revoked.by === 'site' && revoked.signer !== member.siteKey) continue
        if (revoked.by === 'issuer' && (kind === 'issuer' || isGateway(member.role))) continue
        return revoked
      }
      const revoked = this.#coveringIssuer(certificate, member.siteKey)
      if (revoked !== null) return revoked
    }
    return null
  }

  /** A host falls with the issuer that admitted it, also when the site key has renewed its certificate since. */
  #coveringIssuer ({ via, site, joinedMs }: wire.Certificate, siteKey: string | null): Revoked | null {
    if (via === '') return null
    return [...this.#bySubject.get(subjectKey('host', via, site)) ?? []].find(({ by, signer, document }) => by === 'site' && signer === siteKey && document.revokedMs >= joinedMs) ?? null
  }

  all (): Revoked[] {
    return [...this.#byKey.values()]
  }

  ids (): string[] {
    return [...this.#byKey.values()].map(({ id }) => id)
  }

  /** Equal for equal sets; empty for none. */
  digest (): Uint8Array {
    if (this.#byKey.size === 0) return new Uint8Array()
    this.#digest ??= Uint8Array.from(createHash('sha256').update(this.ids().sort().join(' ')).digest().subarray(0, ID_BYTES))
    return this.#digest
  }

  #drop (key: string): void {
    const revoked = this.#byKey.get(key)
    if (revoked === undefined) return
    this.#ids.delete(revoked.id)
    const about = subjectKey(revoked.document.kind, revoked.document.subject, revoked.document.site)
    const others = this.#bySubject.get(about)
    others?.delete(revoked)
    if (others?.size === 0) this.#bySubject.delete(about)
    this.#byKey.delete(key)
    const left = (this.#shares.get(shareOf(revoked)) ?? 1) - 1
    if (left > 0) this.#shares.set(shareOf(revoked), left)
    else this.#shares.delete(shareOf(revoked))
  }

  /**
   * Nobody can push out what others say: the key of each site has a share, and each of its
   * issuers one of its own; of that the latest stay. When the shares together are too
   * many, the largest ones give.
   */
  #bound (added: Revoked, nowMs: number): void {
    if (Math.abs(nowMs - this.#sweptMs) > SWEEP_MS) {
      this.#sweptMs = nowMs
      for (const [key, { document: { revokedMs } }] of this.#byKey) if (nowMs - revokedMs > REVOCATION_KEEP_MS) this.#drop(key)
    }
    if (added.document.kind !== 'host') return
    const name = shareOf(added)
    if ((this.#shares.get(name) ?? 0) > MAX_REVOCATIONS_PER_SITE) {
      const share = [...this.#byKey].filter(([, r]) => shareOf(r) === name)
      for (const [key] of share.sort(([, a], [, b]) => byDate(a, b)).slice(MAX_REVOCATIONS_PER_SITE)) this.#drop(key)
    }
    while (this.#byKey.size > MAX_REVOCATIONS) {
      const shares = Map.groupBy([...this.#byKey].filter(([, r]) => r.document.kind === 'host'), ([, r]) => shareOf(r))
      // of equal ones any fixed order: that of an issuer comes first by name
      const [largest] = [...shares].sort(([a, m], [b, n]) => n.length - m.length || (a < b ? -1 : 1))
      const last = largest?.[1].reduce((a, b) => byDate(a[1], b[1]) > 0 ? a : b)
      if (last === undefined) return
      this.#drop(last[0])
    }
  }
}
