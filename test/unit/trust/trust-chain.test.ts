/** Envelopes and chains: what is believed, and what is not. */
import { RecordEnvelope } from '@libp2p/peer-record'
import fc from 'fast-check'
import t from 'tap'
import { createKey, peerIdOf } from '../../../protocol/mesh/identity.ts'
import { checkDates, issue, LIFETIME_MS, NotAdmittedError, readChain, readMember, renewAtMs, type Chain, type Grant } from '../../../protocol/mesh/trust/certificate.ts'
import { seal, unseal } from '../../../protocol/mesh/trust/envelope.ts'
import { decode } from '../../../protocol/wire/codec.ts'
import { createKit } from '../../trust-kit.ts'

const NOW = Date.UTC(2026, 10, 22)
const kit = await createKit({ coordinators: ['main'], sites: [{ name: 'tokyo', hosts: [{ name: 'gw1', roles: ['gateway', 'compute'], segmentIds: { from: 100, to: 199 } }, { name: 'w1', roles: ['compute'] }] }, { name: 'osaka', hosts: [] }] }, NOW)
const siteKey = kit.siteKeys.get('tokyo') ?? await createKey()
const siteChain = kit.siteChains.get('tokyo') ?? []
const issuerKey = await createKey()
const hostKey = await createKey()
const grant = (more: Partial<Grant>): Grant => ({ federation: kit.federation, kind: 'host', subject: peerIdOf(hostKey), site: 'tokyo', name: 'w9', roles: ['compute'], ...more })
const issuer = issue(siteKey, grant({ kind: 'issuer', subject: peerIdOf(issuerKey), name: 'gw1', roles: ['compute', 'storage'] }), NOW)

const codeOf = (work: () => unknown): string => {
  try {
    work()
    return 'admitted'
  } catch (error) {
    return error instanceof NotAdmittedError ? error.code : String(error)
  }
}

void t.test('an envelope is what libp2p calls one: its library opens ours', async t => {
  const own = kit.member('tokyo/w1').chain[0] ?? new Uint8Array()
  const opened = await RecordEnvelope.openAndCertify(own, 'musubi-certificate')
  t.equal(decode('Certificate', opened.payload.subarray()).name, 'w1')
  await t.rejects(RecordEnvelope.openAndCertify(own, 'musubi-revocation'), 'under another purpose the signature is wrong')
})

void t.test('a single changed byte of an envelope is noticed', async () => {
  const own = kit.member('tokyo/w1').chain[0] ?? new Uint8Array()
  const { signer } = unseal('Certificate', own)
  await fc.assert(fc.asyncProperty(fc.nat(own.length - 1), fc.integer({ min: 1, max: 255 }), async (index, flip) => {
    const bad = Uint8Array.from(own)
    bad[index] = (bad[index] ?? 0) ^ flip
    let opened: ReturnType<typeof unseal<'Certificate'>> | null = null
    try {
      opened = unseal('Certificate', bad)
    } catch {
      return
    }
    // protobuf lets some bytes say the same in another way; what it says must be the same then
    if (opened.signer !== signer || JSON.stringify(opened.document) !== JSON.stringify(unseal('Certificate', own).document)) throw new Error(`byte ${index}`)
    await Promise.resolve()
  }), { numRuns: 300 })
})

void t.test('chains of each kind are read', t => {
  t.match(readMember(kit.member('main').chain, kit.federation), { role: { kind: 'coordinator', name: 'main' }, siteKey: null, issuer: kit.federation })
  t.match(readMember(kit.member('tokyo/gw1').chain, kit.federation), { role: { kind: 'host', site: 'tokyo', host: 'gw1', roles: ['gateway', 'compute'] }, segmentIds: { from: 100, to: 199 }, siteKey: peerIdOf(siteKey) })
  const delegated = [issue(issuerKey, grant({}), NOW), issuer, ...siteChain]
  t.match(readMember(delegated, kit.federation), { peerId: peerIdOf(hostKey), issuer: peerIdOf(issuerKey), role: { host: 'w9' } })
  t.end()
})

void t.test('chains that do not hold are refused by name', async t => {
  const other = await createKit({ sites: [{ name: 'tokyo', hosts: [{ name: 'w1', roles: ['compute'] }] }] }, NOW)
  const osaka = kit.siteChains.get('osaka') ?? []
  const host = issue(siteKey, grant({}), NOW)
  const cases: Array<[string, string, Chain]> = [
    ['nothing', 'NO_CERTIFICATE', []],
    ['another federation', 'OTHER_FEDERATION', other.member('tokyo/w1').chain],
    ['a host alone', 'BAD_CERTIFICATE', [host]],
    ['a site is no member', 'BAD_CERTIFICATE', siteChain],
    ['an issuer is no member', 'BAD_CERTIFICATE', [issuer, ...siteChain]],
    ['above stands another site', 'BAD_CERTIFICATE', [host, ...osaka]],
    ['the site key of another federation', 'BAD_CERTIFICATE', [host, ...(other.siteChains.get('tokyo') ?? [])]],
    ['an issuer gives a gateway', 'BAD_CERTIFICATE', [issue(issuerKey, grant({ roles: ['gateway'] }), NOW), issuer, ...siteChain]],
    ['an issuer below an issuer', 'BAD_CERTIFICATE', [issue(issuerKey, grant({}), NOW), issue(issuerKey, grant({ kind: 'issuer', subject: peerIdOf(issuerKey), roles: ['compute'] }), NOW), issuer, ...siteChain]],
    ['too long', 'BAD_CERTIFICATE', [host, issuer, ...siteChain, ...siteChain]],
    ['a host signs a host', 'BAD_CERTIFICATE', [issue(hostKey, grant({}), NOW), host, ...siteChain]],
    ['garbage', 'BAD_CERTIFICATE', [Uint8Array.of(1, 2, 3)]],
    ['a coordinator below a site', 'BAD_CERTIFICATE', [issue(siteKey, grant({ kind: 'coordinator', site: '', name: 'evil', roles: [] }), NOW), ...siteChain]],
    ['a coordinator that a site made', 'BAD_CERTIFICATE', [issue(siteKey, grant({ kind: 'coordinator', site: '', name: 'evil', roles: [] }), NOW)]],
    ['a revocation is no certificate', 'BAD_CERTIFICATE', [seal(siteKey, 'Revocation', { federation: kit.federation, kind: 'host', subject: peerIdOf(hostKey), site: 'tokyo', name: 'w9', revokedMs: NOW, reason: '' })]]
  ]
  for (const [what, code, chain] of cases) t.equal(codeOf(() => readMember(chain, kit.federation)), code, what)
})

void t.test('dates', t => {
  const member = readMember(kit.member('tokyo/w1').chain, kit.federation)
  t.equal(codeOf(() => { checkDates(member, NOW) }), 'admitted')
  t.equal(codeOf(() => { checkDates(member, NOW - 4 * 60_000) }), 'admitted', 'clocks may differ a little')
  t.equal(codeOf(() => { checkDates(member, NOW - 6 * 60_000) }), 'CERTIFICATE_NOT_YET_VALID')
  t.equal(codeOf(() => { checkDates(member, NOW + LIFETIME_MS.host) }), 'CERTIFICATE_EXPIRED')
  t.ok(renewAtMs(member) > NOW && renewAtMs(member) < NOW + LIFETIME_MS.host)
  const short = readChain([issue(siteKey, grant({ lifetimeMs: 3000 }), NOW), ...siteChain], kit.federation)
  t.equal(renewAtMs(short), NOW + 2000)
  t.end()
})

void t.test('nonsense is not signed in the first place', t => {
  for (const more of [{ name: 'Bad Name' }, { roles: [] }, { subject: 'x' }, { segmentIds: { from: 1, to: 2 } }, { lifetimeMs: 0 }, { quotaPercent: 101 }, { site: '' }]) {
    t.throws(() => issue(siteKey, grant(more), NOW), { code: 'INVALID_INPUT' }, JSON.stringify(more))
  }
  t.end()
})
