import type { SeenGateway } from './registry.ts'
import type { CoordinatorSite } from '../protocol/api.ts'
import type { Issued } from '../protocol/mesh/join/types.ts'
import type { Member } from '../protocol/mesh/trust/certificate.ts'
import type { Revoked } from '../protocol/mesh/trust/revocation.ts'

export interface SitesView {
  /** sites that this coordinator has certified */
  readonly issued: readonly Issued[]
  readonly gateways: readonly SeenGateway[]
  readonly revocations: readonly Revoked[]
  /** what the certificates of a gateway say; null when they do not hold now */
  readonly memberOf: (peerId: string) => Pick<Member, 'siteKey' | 'siteJoinedMs' | 'certificates'> | null
  readonly path: (peerId: string) => 'direct' | 'relay' | null
}

/** Certificates of a site key as far as they are known here. */
interface Known { readonly site: string, readonly key: string | null, readonly joinedMs: number | null, readonly notAfterMs: number | null, readonly here: boolean }

function knownSites ({ issued, gateways, memberOf }: SitesView): Known[] {
  const known = new Map<string, Known>()
  for (const { kind, name, subject, joinedMs, notAfterMs } of issued) {
    if (kind === 'site') known.set(`${name}/${subject}`, { site: name, key: subject, joinedMs, notAfterMs, here: true })
  }
  for (const { ad: { site }, key, peer } of gateways) {
    const id = `${site}/${key ?? ''}`
    const before = known.get(id)
    const member = memberOf(peer)
    // another coordinator may have renewed it since
    const seen = member?.certificates.find(({ kind }) => kind === 'site')?.notAfterMs ?? null
    const notAfterMs = seen === null ? before?.notAfterMs ?? null : Math.max(seen, before?.notAfterMs ?? 0)
    known.set(id, { site, key, joinedMs: before?.joinedMs ?? member?.siteJoinedMs ?? null, notAfterMs, here: before?.here ?? false })
  }
  return [...known.values()]
}

/**
 * Everybody that this coordinator has admitted, or has heard of: what `musubi coordinator sites`
 * shows. A site that was revoked and came back under another key has two entries.
 */
export function sitesOf (view: SitesView): CoordinatorSite[] {
  const revocations = view.revocations.filter(({ document: { kind } }) => kind === 'site')
  const entries = knownSites(view)
  // revoked by another coordinator, and neither admitted nor heard of here
  for (const { document: { site, subject } } of revocations) {
    if (!entries.some(entry => entry.key === subject)) entries.push({ site, key: subject, joinedMs: null, notAfterMs: null, here: false })
  }
  return entries.map(({ site, key, joinedMs, notAfterMs, here }): CoordinatorSite => {
    const revoked = revocations.find(({ document }) => document.subject === key && document.revokedMs >= (joinedMs ?? 0))?.document ?? null
    const seen = view.gateways.filter(gateway => gateway.ad.site === site && gateway.key === key)
    const [best] = seen
    return {
      site, key, state: revoked !== null ? 'revoked' : best?.state ?? 'never seen', admittedHere: here, admittedAt: joinedMs, certificateExpiresAt: notAfterMs,
      hosts: best?.ad.hosts ?? 0, total: best?.ad.total ?? null, free: best?.ad.free ?? null,
      gateways: seen.map(({ ad, peer, state, ageMs }) => ({ host: ad.gateway, peerId: peer, state, ageMs, path: view.path(peer) })),
      revoked: revoked === null ? null : { at: revoked.revokedMs, reason: revoked.reason }
    }
  }).sort((a, b) => a.site === b.site ? (a.admittedAt ?? 0) - (b.admittedAt ?? 0) : a.site < b.site ? -1 : 1)
}
