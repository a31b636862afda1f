/** Members, sites and issuers gone bad: what their keys must not let them do to others. */
import t from 'tap'
import { createRevoker } from '../../../agent/site/revoker.ts'
import { MAX_NEW_REVOCATIONS, MAX_REVOCATIONS, MAX_REVOCATIONS_PER_SITE, NEW_REVOCATIONS_MS } from '../../../protocol/core/limits.ts'
import { createKey, peerIdOf, type NodeKey } from '../../../protocol/mesh/identity.ts'
import { siteAuthority } from '../../../protocol/mesh/join/authority.ts'
import { answerHostRenewals } from '../../../protocol/mesh/join/renewal.ts'
import type { Issued } from '../../../protocol/mesh/join/types.ts'
import { isOffence } from '../../../protocol/mesh/records/intake.ts'
import { CLOCK_SKEW_MS, issue, LIFETIME_MS, readMember, type Chain, type Member } from '../../../protocol/mesh/trust/certificate.ts'
import { readRevocation, revoke, RevocationSet, type RevocationGrant, type Revoked } from '../../../protocol/mesh/trust/revocation.ts'
import { Roster } from '../../../protocol/mesh/trust/roster.ts'
import { createTrust } from '../../../protocol/mesh/trust/trust.ts'
import { createKit } from '../../trust-kit.ts'

const NOW = Date.UTC(2026, 10, 22)
const kit = await createKit({ sites: [{ name: 'tokyo', hosts: [{ name: 'gw1', roles: ['gateway'], segmentIds: { from: 1, to: 9 } }, { name: 'gw2', roles: ['gateway'] }, { name: 'w1', roles: ['compute'] }] }, { name: 'osaka', hosts: [{ name: 'gw1', roles: ['gateway'] }] }] }, NOW)

function keyOf (site: string): { key: NodeKey, chain: Chain } {
  const key = kit.siteKeys.get(site)
  const chain = kit.siteChains.get(site)
  if (key === undefined || chain === undefined) throw new Error(`no key of ${site}`)
  return { key, chain }
}
const tokyo = keyOf('tokyo')
const osaka = keyOf('osaka')
const w1 = readMember(kit.member('tokyo/w1').chain, kit.federation)
const gw1 = kit.member('tokyo/gw1')
const gw2 = kit.member('tokyo/gw2')
const issuerChain = [issue(tokyo.key, { federation: kit.federation, kind: 'issuer', subject: gw2.peerId, site: 'tokyo', name: 'gw2', roles: ['compute'] }, NOW), ...tokyo.chain]
const host = (more: Partial<RevocationGrant> = {}): RevocationGrant => ({ federation: kit.federation, kind: 'host', subject: w1.peerId, site: 'tokyo', name: 'w1', reason: 'stolen', ...more })
const checked = (by: { key: NodeKey, chain: Chain }, grant: RevocationGrant, atMs: number): Revoked => readRevocation(revoke(by.key, by.chain, grant, atMs), kit.federation, NOW)
const someone = async (): Promise<string> => peerIdOf(await createKey())
/** As if it were signed: thousands of signatures take long. */
const unsigned = (site: string, by: Revoked['by'], n: number, revokedMs: number): Revoked => {
  const document = { ...host({ site, subject: `subject ${n} of ${site}`, name: 'x' }), revokedMs }
  return { id: `${site} ${by} ${n}`, document, by, signer: `key of ${site}`, signed: { envelope: new Uint8Array(), chain: [] } }
}

void t.test('no site takes back what another has revoked', t => {
  const set = new RevocationSet()
  set.add(checked(tokyo, host(), NOW + 1), NOW)
  t.ok(set.covering(w1))
  set.add(checked(osaka, host({ site: 'osaka' }), NOW + 60_000), NOW)
  t.ok(set.covering(w1), 'a later revocation of the same key by another site does not replace it')
  t.equal(set.size, 2)
  t.end()
})

void t.test('an issuer cannot push out what the site key says, nor many sites what another says', async t => {
  const set = new RevocationSet()
  const theft = checked(tokyo, host({ subject: gw2.peerId, name: 'gw2' }), NOW)
  for (let n = 0; n <= MAX_REVOCATIONS_PER_SITE; n++) set.add(checked({ key: gw2.key, chain: issuerChain }, host({ subject: await someone(), name: 'x' }), NOW + 60_000), NOW)
  t.ok(set.add(theft, NOW), 'the bad issuer itself is revoked, whatever it has said before')
  t.ok(set.covering(readMember(gw2.chain, kit.federation)))
  const other = await createKey()
  const otherChain = [issue(tokyo.key, { federation: kit.federation, kind: 'issuer', subject: peerIdOf(other), site: 'tokyo', name: 'gw3', roles: ['compute'] }, NOW), ...tokyo.chain]
  const byOther = checked({ key: other, chain: otherChain }, host(), NOW)
  set.add(byOther, NOW)
  set.add(checked({ key: gw2.key, chain: issuerChain }, host(), NOW + 1), NOW)
  for (let n = 0; n <= MAX_REVOCATIONS_PER_SITE; n++) set.add(checked({ key: gw2.key, chain: issuerChain }, host({ subject: await someone(), name: 'x' }), NOW + 61_000), NOW)
  t.ok(set.ids().includes(byOther.id) && set.covering(w1) !== null, 'nor does it touch what another issuer has said')
  t.equal(set.size, MAX_REVOCATIONS_PER_SITE + 2)
  for (let site = 0; set.size < MAX_REVOCATIONS - 1; site++) for (let n = 0; n < MAX_REVOCATIONS_PER_SITE && set.size < MAX_REVOCATIONS; n++) set.add(unsigned(`bad${site}`, 'site', n, NOW + 60_000 + n), NOW)
  for (let n = 0; n < 20; n++) set.add(unsigned('worse', 'site', n, NOW + 120_000), NOW)
  t.equal(set.size, MAX_REVOCATIONS)
  t.ok(set.ids().includes(theft.id), 'of a full set the largest shares give')
  t.ok(set.covering(readMember(gw2.chain, kit.federation)))
})

void t.test('revocations that nobody can be blamed for, and some that count for nothing', t => {
  const ahead = revoke(tokyo.key, tokyo.chain, host(), NOW + CLOCK_SKEW_MS + 1000)
  let error: unknown
  try {
    readRevocation(ahead, kit.federation, NOW)
  } catch (thrown) {
    error = thrown
  }
  t.match(error, { code: 'FUTURE_DATED' })
  t.notOk(isOffence(error), 'whose clock is a little ahead has passed it on in good faith')
  const ended = revoke(gw2.key, issuerChain, host(), NOW + LIFETIME_MS.issuer + 1)
  t.throws(() => readRevocation(ended, kit.federation, NOW + LIFETIME_MS.issuer + 2), /had ended/, 'an old issuer key says nothing new')
  t.end()
})

void t.test('new revocations are taken up to a rate, and old ones said again do not use it up', async t => {
  let now = NOW
  const me = kit.member('osaka/gw1')
  const trust = createTrust({ peerId: me.peerId, federation: kit.federation, chain: me.chain, now: () => now })
  const early = revoke(tokyo.key, tokyo.chain, host(), NOW - 10)
  t.ok(trust.takeRevocation(early))
  t.ok(trust.takeRevocation(revoke(tokyo.key, tokyo.chain, host(), NOW - 5)), 'a later one of the same')
  for (let n = 0; n < 2 * MAX_NEW_REVOCATIONS; n++) t.equal(trust.takeRevocation(early), null)
  const bad = { key: gw2.key, chain: issuerChain }
  const taken: boolean[] = []
  for (let n = 0; n < MAX_NEW_REVOCATIONS + 10; n++) taken.push(trust.takeRevocation(revoke(bad.key, bad.chain, host({ subject: await someone(), name: 'x' }), NOW + n)) !== null)
  t.equal(taken.filter(Boolean).length, MAX_NEW_REVOCATIONS)
  t.ok(trust.takeRevocation(revoke(tokyo.key, tokyo.chain, host({ subject: gw2.peerId, name: 'gw2' }), NOW)), 'the site key has a rate of its own')
  now += NEW_REVOCATIONS_MS
  t.ok(trust.takeRevocation(revoke(bad.key, bad.chain, host({ subject: await someone(), name: 'x' }), NOW + 1000)), 'later again')
})

void t.test('a revoked gateway does not come back by way of an issuer certificate', async t => {
  const nowMs = NOW + 3_600_000
  const authority = siteAuthority({ site: 'tokyo', federation: kit.federation, siteKey: tokyo.key, siteChain: tokyo.chain, issuer: null, now: () => nowMs, taken: () => null })
  const trust = createTrust({ peerId: gw1.peerId, federation: kit.federation, chain: gw1.chain, now: () => nowMs })
  trust.admit(gw2.peerId, gw2.chain)
  // revoked elsewhere a moment ago: it has not been heard of here
  const { chain } = await answerHostRenewals(authority, trust)({ chain: [...gw2.chain], issuer: true }, { peerId: gw2.peerId })
  const hostKey = await createKey()
  const minted = [issue(gw2.key, { federation: kit.federation, kind: 'host', subject: peerIdOf(hostKey), site: 'tokyo', name: 'x', roles: ['compute'] }, nowMs), ...chain]
  t.equal(trust.admit(peerIdOf(hostKey), minted).peerId, peerIdOf(hostKey))
  trust.takeRevocation(revoke(tokyo.key, tokyo.chain, host({ subject: gw2.peerId, name: 'gw2' }), NOW + 1))
  t.throws(() => trust.admit(peerIdOf(hostKey), minted), { code: 'CERTIFICATE_REVOKED' }, 'what it certifies goes with it')
  t.throws(() => issue(tokyo.key, { federation: kit.federation, kind: 'host', subject: w1.peerId, site: 'tokyo', name: 'w1', roles: ['compute'], joinedMs: NOW + 100 * CLOCK_SKEW_MS }, NOW), /admission/, 'nor is anybody admitted after all revocations to come')
})

void t.test('what other sites and issuers revoke frees neither names nor slices', async t => {
  const stored: Issued[] = []
  const revocations = new RevocationSet()
  const authority = siteAuthority({
    site: 'tokyo', federation: kit.federation, siteKey: tokyo.key, siteChain: tokyo.chain, issuer: null, now: () => NOW, taken: () => null, revocations,
    issued: { list: () => Promise.resolve(stored), put: issued => { stored.push(issued); return Promise.resolve() }, delete: () => Promise.resolve() }
  })
  const gateway = { name: 'gw8', subject: await someone(), roles: ['gateway'], segmentIds: { from: 100, to: 199 }, quotaPercent: 0 }
  await authority.certifyHost(gateway)
  revocations.add(checked(osaka, host({ subject: gateway.subject, site: 'osaka', name: 'gw8' }), NOW + 1), NOW)
  revocations.add(checked({ key: gw2.key, chain: issuerChain }, host({ subject: gateway.subject, name: 'gw8' }), NOW + 1), NOW)
  await t.rejects(authority.certifyHost({ ...gateway, name: 'gw9', subject: await someone() }), { code: 'SLICE_OVERLAPS' })
  revocations.add(checked(tokyo, host({ subject: gateway.subject, name: 'gw8' }), NOW + 1), NOW)
  await t.resolves(authority.certifyHost({ ...gateway, name: 'gw9', subject: await someone() }), 'its own site does')
})

void t.test('a host does not evade its revocation by what it says of itself, or by saying nothing', async t => {
  const trust = createTrust({ peerId: gw2.peerId, federation: kit.federation, chain: gw2.chain, now: () => NOW })
  trust.admit(w1.peerId, kit.member('tokyo/w1').chain)
  const revoker = (names: Array<{ name: string, peerId: string, roles: string[], alive: boolean }>): ReturnType<typeof createRevoker> => createRevoker({
    site: 'tokyo', federation: kit.federation, own: gw2.peerId, key: gw2.key, siteKey: null, siteChain: () => tokyo.chain, issuerChain: () => issuerChain, trust,
    trustStore: { keepRevocation: () => Promise.resolve() }, issued: { list: () => Promise.resolve([]), put: () => Promise.resolve(), delete: () => Promise.resolve() }, hostNames: () => names, now: () => NOW
  })
  t.match(await revoker([])(w1.peerId, 'silent'), { host: 'w1', peerId: w1.peerId })
  t.equal(trust.roleOf(w1.peerId), null)
  const again = createTrust({ peerId: gw2.peerId, federation: kit.federation, chain: gw2.chain, now: () => NOW })
  again.admit(w1.peerId, kit.member('tokyo/w1').chain)
  const boaster = createRevoker({
    site: 'tokyo', federation: kit.federation, own: gw2.peerId, key: gw2.key, siteKey: null, siteChain: () => tokyo.chain, issuerChain: () => issuerChain, trust: again,
    trustStore: { keepRevocation: () => Promise.resolve() }, issued: { list: () => Promise.resolve([]), put: () => Promise.resolve(), delete: () => Promise.resolve() },
    hostNames: () => [{ name: 'w1', peerId: w1.peerId, roles: ['compute', 'gateway'], alive: true }], now: () => NOW
  })
  t.match(await boaster('w1', 'boasts'), { host: 'w1' })
  t.equal(again.roleOf(w1.peerId), null)
  await t.rejects(revoker([])(await someone(), 'nobody'), { code: 'NOT_FOUND' })
})

void t.test('who makes members by the thousand makes us forget its own', t => {
  const roster = new Roster(100)
  const made = (peerId: string, issuer: string): Member => ({ ...w1, peerId, issuer })
  for (let n = 0; n < 20; n++) roster.put(made(`honest ${n}`, 'tokyo'), n < 10)
  for (let n = 0; n < 1000; n++) roster.put(made(`bad ${n}`, 'bad'), n === 0)
  t.equal(roster.size, 100)
  for (let n = 0; n < 20; n++) t.ok(roster.get(`honest ${n}`))
  t.ok(roster.get('bad 0'), 'whom we have met stays before those that were only heard of')
  t.ok(roster.get('bad 999'))
  roster.dropSite(w1.siteKey ?? '')
  t.equal(roster.size, 0)
  t.end()
})
