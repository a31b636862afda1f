/** Who is master of a cluster is what its anchor host has signed, and nothing else. */
import t, { type Test } from 'tap'
import type { EpochGrant, Grant } from '../../../protocol/core/messages.ts'
import { decode, encode } from '../../../protocol/wire/codec.ts'
import { CLOCK_SKEW_MS, LIFETIME_MS } from '../../../protocol/mesh/trust/certificate.ts'
import { seal } from '../../../protocol/mesh/trust/envelope.ts'
import { type GrantSubject, readGrant, signGrant } from '../../../protocol/mesh/trust/grant.ts'
import { revoke } from '../../../protocol/mesh/trust/revocation.ts'
import { createTrust, type Trust } from '../../../protocol/mesh/trust/trust.ts'
import { createKit, type KitMember } from '../../trust-kit.ts'

const NOW = Date.UTC(2026, 10, 22)
const ID = '01234567-89ab-4def-8123-456789abcdef'
const OTHER = 'fedcba98-7654-4210-8fed-cba987654321'
const kit = await createKit({ sites: [
  { name: 'tokyo', hosts: [{ name: 'gw1', roles: ['gateway'] }, { name: 'gw2', roles: ['gateway'] }, { name: 'w1', roles: ['compute'] }] },
  { name: 'osaka', hosts: [{ name: 'gw1', roles: ['gateway'] }] }
] }, NOW)
const [anchor, successor, worker, osaka] = ['tokyo/gw1', 'tokyo/gw2', 'tokyo/w1', 'osaka/gw1'].map(name => kit.member(name)) as [KitMember, KitMember, KitMember, KitMember]

const said = (part: Partial<EpochGrant> = {}): EpochGrant => ({ clusterId: ID, epoch: 2, holder: successor.peerId, site: 'tokyo', host: 'gw1', grantedMs: NOW, ...part })
const by = (who: KitMember, part: Partial<EpochGrant> = {}): Grant => signGrant(who.key, who.chain, said(part))
const SUBJECT: GrantSubject = { clusterId: ID, masterSite: 'tokyo', anchor: 'gw1' }
const trustAt = (now: () => number = () => NOW): Trust => createTrust({ peerId: osaka.peerId, federation: kit.federation, chain: osaka.chain, now })
const read = (grant: Grant, subject = SUBJECT, nowMs = NOW): EpochGrant => readGrant(grant, subject, trustAt(() => nowMs), nowMs)
function refused (t: Test, why: RegExp | string, grant: Grant, subject = SUBJECT, nowMs = NOW): void {
  t.throws(() => read(grant, subject, nowMs), typeof why === 'string' ? { code: why } : { message: why }, String(why))
}

void t.test('what the anchor has signed is believed at a site that never met it', t => {
  t.strictSame(read(by(anchor)), said())
  t.strictSame(read(by(anchor), { ...SUBJECT, anchor: '' }), said(), 'also while nobody knows the anchor')
  const wired = decode('Grant', encode('Grant', by(anchor)))
  t.strictSame(read(wired), said(), 'over the wire')
  t.end()
})

void t.test('a grant of another cluster, site or host is none', t => {
  refused(t, /it is about cluster fedcba98/, by(anchor, { clusterId: OTHER }))
  refused(t, /it is about cluster 01234567.*, not fedcba98/, by(anchor), { ...SUBJECT, clusterId: OTHER })
  refused(t, /the cluster belongs to osaka/, by(anchor), { ...SUBJECT, masterSite: 'osaka' })
  refused(t, /w1 decides/, by(anchor), { ...SUBJECT, anchor: 'w1' })
  refused(t, /signed by tokyo\/w1, not by tokyo\/gw1/, by(worker))
  refused(t, /signed by tokyo\/gw2, not by tokyo\/gw1/, by(successor), { ...SUBJECT, anchor: '' })
  refused(t, /signed by osaka\/gw1, not by tokyo\/gw1/, by(osaka))
  t.end()
})

void t.test('a grant that was changed, or shows the certificates of somebody else, is none', t => {
  const good = by(anchor)
  const flipped = Uint8Array.from(good.envelope)
  flipped[flipped.length - 1] = (flipped.at(-1) ?? 0) ^ 1
  refused(t, 'INVALID_INPUT', { ...good, envelope: flipped })
  refused(t, 'INVALID_INPUT', { ...good, envelope: new Uint8Array([1, 2, 3]) })
  const envelope = decode('Envelope', good.envelope)
  const raised = encode('Envelope', { ...envelope, payload: encode('EpochGrant', said({ epoch: 9 })) })
  refused(t, /signature of this epochgrant is wrong/, { ...good, envelope: raised })
  refused(t, 'BAD_CERTIFICATE', { ...by(worker), chain: [...anchor.chain] })
  refused(t, 'NO_CERTIFICATE', { ...good, chain: [] })
  refused(t, /4 certificates/, { ...good, chain: [...anchor.chain, ...anchor.chain] })
  const revocation = seal(anchor.key, 'Revocation', { federation: kit.federation, kind: 'host', subject: worker.peerId, site: 'tokyo', name: 'w1', revokedMs: NOW, reason: '' })
  refused(t, /carries no epochgrant/, { ...good, envelope: revocation })
  t.end()
})

void t.test('what can be no grant is refused before anybody looks for its signer', t => {
  refused(t, /no such epoch/, by(anchor, { epoch: 0 }))
  refused(t, 'INVALID_INPUT', by(anchor, { holder: 'nobody' }))
  refused(t, 'FUTURE_DATED', by(anchor, { grantedMs: NOW + CLOCK_SKEW_MS + 1 }))
  t.throws(() => by(anchor, { epoch: -1 }), { code: 'INVALID_INPUT' })
  t.end()
})

void t.test('a signer that is a member no more has no say', t => {
  refused(t, 'CERTIFICATE_EXPIRED', by(anchor), SUBJECT, NOW + LIFETIME_MS.host + 1)
  const trust = trustAt()
  const siteKey = kit.siteKeys.get('tokyo')
  if (siteKey === undefined) throw new Error('no key of tokyo')
  t.ok(trust.takeRevocation(revoke(siteKey, kit.siteChains.get('tokyo') ?? [], { federation: kit.federation, kind: 'host', subject: anchor.peerId, site: 'tokyo', name: 'gw1', reason: 'stolen' }, NOW)))
  t.throws(() => readGrant(by(anchor), SUBJECT, trust, NOW), { code: 'CERTIFICATE_REVOKED' })
  t.end()
})
