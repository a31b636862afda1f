import { InvalidInputError, MusubiError } from '../../core/errors.ts'
import { MAX_CERTIFICATE_BYTES, MAX_CHAIN } from '../../core/limits.ts'
import type { wire } from '../../wire/codec.ts'
import { checkPeerId, type NodeKey } from '../identity.ts'
import { describeRole, HOST_ROLES, NAME, type HostRoleName, type Role } from '../roles.ts'
import { seal, unseal } from './envelope.ts'

/**
 * Certificates: coordinator key -> site certificate -> (issuer certificate ->) host certificate.
 * A chain is a list of envelopes, the subject's own first, that ends below the coordinator key.
 * Pure but for signatures: the time is an argument.
 */
export type Chain = readonly Uint8Array[]
export type CertificateKind = 'coordinator' | 'site' | 'issuer' | 'host'

const DAY_MS = 24 * 3_600_000
/** How long certificates of each kind last; they renew themselves after two thirds of it. */
export const LIFETIME_MS: Readonly<Record<CertificateKind, number>> = { coordinator: 90 * DAY_MS, site: 90 * DAY_MS, issuer: 60 * DAY_MS, host: 30 * DAY_MS }
/** Clocks of honest hosts differ by less than this. */
export const CLOCK_SKEW_MS = 5 * 60_000

/** Why a peer is not let in; the code travels to it, so that its log says what to do. */
export class NotAdmittedError extends MusubiError {
  override readonly name = 'NotAdmittedError'
  constructor (code: NotAdmittedCode, message: string, hint?: string) {
    super(code, message, hint === undefined ? {} : { hint })
  }
}
export const NOT_ADMITTED_CODES = ['NO_CERTIFICATE', 'BAD_CERTIFICATE', 'OTHER_FEDERATION', 'CERTIFICATE_EXPIRED', 'CERTIFICATE_NOT_YET_VALID', 'CERTIFICATE_REVOKED', 'SITE_NAME_TAKEN', 'NOT_ALLOWED', 'SHUT_OUT', 'TOO_MANY_CONNECTIONS'] as const
export type NotAdmittedCode = typeof NOT_ADMITTED_CODES[number]

/** A checked chain. */
export interface Member {
  readonly peerId: string
  readonly role: Role
  /** PeerId of the site's key; null for coordinators */
  readonly siteKey: string | null
  /** PeerId of the key that signed the member's own certificate */
  readonly issuer: string
  /** the first one of the chain to begin, the first to end, Unix ms */
  readonly notBeforeMs: number
  readonly notAfterMs: number
  readonly joinedMs: number
  /** when its site was first admitted */
  readonly siteJoinedMs: number
  readonly segmentIds: { readonly from: number, readonly to: number } | null
  readonly quotaPercent: number
  /** every certificate of the chain, the member's own first; for revocations and renewal */
  readonly certificates: readonly wire.Certificate[]
  readonly chain: Chain
}

/** What goes into a new certificate, besides who signs it. */
export interface Grant {
  readonly federation: string
  readonly kind: CertificateKind
  readonly subject: string
  readonly site: string
  readonly name: string
  readonly roles: readonly HostRoleName[]
  readonly segmentIds?: { readonly from: number, readonly to: number } | null
  readonly quotaPercent?: number
  /** PeerId of the issuer that first admitted the host, when the site key renews for it */
  readonly via?: string
  /** first admission, when this is a renewal */
  readonly joinedMs?: number
  readonly lifetimeMs?: number
}

/** Signs a certificate. @throws InvalidInputError when a name, PeerId or role is none */
export function issue (signer: NodeKey, grant: Grant, nowMs: number): Uint8Array {
  const certificate: wire.Certificate = {
    federation: grant.federation, kind: grant.kind, subject: grant.subject, site: grant.site, name: grant.name, roles: [...grant.roles],
    joinedMs: grant.joinedMs ?? nowMs, notBeforeMs: nowMs, notAfterMs: nowMs + (grant.lifetimeMs ?? LIFETIME_MS[grant.kind]),
    segmentIds: grant.segmentIds === undefined || grant.segmentIds === null ? null : { ...grant.segmentIds }, quotaPercent: grant.quotaPercent ?? 0, via: grant.via ?? ''
  }
  checkShape(certificate)
  return seal(signer, 'Certificate', certificate)
}

function isHostRole (text: string): text is HostRoleName {
  return (HOST_ROLES as readonly string[]).includes(text)
}

function checkShape (c: wire.Certificate): void {
  const bad = (why: string): never => { throw new InvalidInputError(`certificate: ${why}`) }
  const name = (text: string, what: string): unknown => NAME.test(text) || bad(`${JSON.stringify(text.slice(0, 40))} is no ${what} name`)
  checkPeerId(c.federation, 'certificate: federation')
  checkPeerId(c.subject, 'certificate: subject')
  if (!['coordinator', 'site', 'issuer', 'host'].includes(c.kind)) bad(`kind ${JSON.stringify(c.kind.slice(0, 40))}`)
  if (c.kind === 'coordinator' ? c.site !== '' : !NAME.test(c.site)) bad(`${JSON.stringify(c.site.slice(0, 40))} is no site name`)
  if (c.kind === 'site' ? c.name !== '' : name(c.name, c.kind) === false) bad('a site certificate names no host')
  if (!c.roles.every(isHostRole) || new Set(c.roles).size !== c.roles.length) bad('unknown or repeated role')
  if ((c.kind === 'host' || c.kind === 'issuer') === (c.roles.length === 0)) bad(`a ${c.kind} with ${c.roles.length} roles`)
  if (c.notAfterMs <= c.notBeforeMs) bad('it ends before it begins')
  // a revocation covers those who joined before it: nobody joins in the far future; clocks differ twice, that of a revocation and that of who signs
  if (c.joinedMs > c.notBeforeMs + 2 * CLOCK_SKEW_MS) bad('its admission lies in its future')
  const slice = c.segmentIds
  if (slice !== null && (c.kind !== 'host' || !c.roles.includes('gateway') || slice.from < 1 || slice.from > slice.to || slice.to > 0xff_ffff)) bad('only gateways have a slice of segment ids, from 1 to 16777215')
  if (c.via !== '') {
    checkPeerId(c.via, 'certificate: via')
    if (c.kind !== 'host') bad('only hosts are admitted by an issuer')
  }
  if (c.quotaPercent > 100) bad('a quota share above 100 %')
}

const opened = new Map<string, { signer: string, certificate: wire.Certificate }>()
const MAX_OPENED = 4096

/** Opens one certificate; the same bytes are verified once: sites and issuers stand in many chains. */
function open (bytes: Uint8Array): { signer: string, certificate: wire.Certificate } {
  if (bytes.length > MAX_CERTIFICATE_BYTES) throw new InvalidInputError(`a certificate of ${bytes.length} bytes`)
  const id = Buffer.from(bytes).toString('latin1')
  const known = opened.get(id)
  if (known !== undefined) return known
  const { signer, document: certificate } = unseal('Certificate', bytes)
  checkShape(certificate)
  if (opened.size >= MAX_OPENED) {
    for (const oldest of opened.keys()) { opened.delete(oldest); break }
  }
  const entry = { signer, certificate }
  opened.set(id, entry)
  return entry
}

/** Which kinds may stand above which. */
const ABOVE: Readonly<Record<CertificateKind, readonly string[]>> = { coordinator: [], site: [], issuer: ['site'], host: ['site', 'issuer'] }

function refuse (code: NotAdmittedCode, message: string, hint?: string): never {
  throw new NotAdmittedError(code, message, hint)
}

/**
 * Reads a chain: signatures, order, names, and what an issuer may give. Does not look at the time
 * or at revocations, see {@link checkDates}.
 *
 * @param federation PeerId of the coordinator key that is trusted
 * @throws NotAdmittedError NO_CERTIFICATE, BAD_CERTIFICATE, OTHER_FEDERATION
 */
export function readChain (chain: Chain, federation: string): Member {
  if (chain.length === 0) refuse('NO_CERTIFICATE', 'it shows no certificate', 'join first: musubi agent join TOKEN')
  if (chain.length > MAX_CHAIN) refuse('BAD_CERTIFICATE', `its chain has ${chain.length} certificates, at most ${MAX_CHAIN} are used`)
  let links: Array<{ signer: string, certificate: wire.Certificate }>
  try {
    links = chain.map(open)
  } catch (error) {
    refuse('BAD_CERTIFICATE', error instanceof Error ? error.message : 'unreadable')
  }
  const own = links[0]?.certificate
  if (own === undefined) return refuse('NO_CERTIFICATE', 'it shows no certificate')
  if (own.federation !== federation) refuse('OTHER_FEDERATION', `its certificate is of the federation ${own.federation}, not ${federation}`)
  links.forEach(({ signer, certificate: c }, index) => {
    const above = links[index + 1]?.certificate
    const kind = c.kind as CertificateKind
    if (c.federation !== federation) refuse('BAD_CERTIFICATE', 'its chain mixes federations')
    if (above === undefined) {
      if (ABOVE[kind].length > 0) refuse('BAD_CERTIFICATE', `its ${kind} certificate stands on nothing`)
      if (signer !== federation) refuse('BAD_CERTIFICATE', `its ${kind} certificate is not signed by the coordinator key`)
      return
    }
    if (!ABOVE[kind].includes(above.kind)) refuse('BAD_CERTIFICATE', `a ${above.kind} certificate stands above a ${kind} certificate`)
    if (signer !== above.subject) refuse('BAD_CERTIFICATE', `its ${kind} certificate is not signed by the ${above.kind} above it`)
    if (c.site !== above.site) refuse('BAD_CERTIFICATE', `a certificate of site ${above.site} stands above one of site ${c.site}`)
    // slices and quota shares must not overlap: only the site key gives them
    if (above.kind === 'issuer' && (c.roles.includes('gateway') || !c.roles.every(role => above.roles.includes(role)))) refuse('BAD_CERTIFICATE', `issuer ${above.name} may not give ${c.roles.join(', ')}`)
  })
  const site = links.find(({ certificate }) => certificate.kind === 'site')?.certificate
  const certificates = links.map(({ certificate }) => certificate)
  const role: Role = own.kind === 'coordinator'
    ? { kind: 'coordinator', name: own.name }
    : { kind: 'host', site: own.site, host: own.name, roles: own.roles.filter(isHostRole) }
  return {
    peerId: own.subject, role, siteKey: site?.subject ?? null, issuer: links[0]?.signer ?? '',
    notBeforeMs: Math.max(...certificates.map(c => c.notBeforeMs)), notAfterMs: Math.min(...certificates.map(c => c.notAfterMs)),
    joinedMs: own.joinedMs, siteJoinedMs: site?.joinedMs ?? own.joinedMs,
    segmentIds: own.segmentIds, quotaPercent: own.quotaPercent, certificates, chain
  }
}

/** As {@link readChain}, for a member of the mesh. @throws NotAdmittedError also for a chain of a site or issuer key */
export function readMember (chain: Chain, federation: string): Member {
  const member = readChain(chain, federation)
  const kind = member.certificates[0]?.kind
  if (kind !== 'host' && kind !== 'coordinator') refuse('BAD_CERTIFICATE', `a ${kind ?? ''} certificate is no membership`)
  return member
}

/** @throws NotAdmittedError CERTIFICATE_EXPIRED, CERTIFICATE_NOT_YET_VALID */
export function checkDates (member: Member, nowMs: number): void {
  const who = describeRole(member.role)
  const ended = member.certificates.find(c => c.notAfterMs <= nowMs)
  if (ended !== undefined) {
    refuse('CERTIFICATE_EXPIRED', `the ${ended.kind} certificate of ${who} ended ${new Date(ended.notAfterMs).toISOString()}`,
      ended.kind === 'host' ? `on a gateway of ${ended.site}: musubi site invite; then on ${ended.name}: musubi agent join TOKEN (its leases stay)` : `renew the ${ended.kind} certificate of ${ended.site}: musubi site init --join TOKEN, with a token of the coordinator`)
  }
  if (member.notBeforeMs > nowMs + CLOCK_SKEW_MS) refuse('CERTIFICATE_NOT_YET_VALID', `the certificate of ${who} begins ${new Date(member.notBeforeMs).toISOString()}`, 'compare the clocks of both hosts')
}

/** When to renew: after two thirds of the shortest life in the chain. */
export function renewAtMs (member: Member): number {
  return Math.min(...member.certificates.map(c => c.notBeforeMs + (c.notAfterMs - c.notBeforeMs) * 2 / 3))
}
