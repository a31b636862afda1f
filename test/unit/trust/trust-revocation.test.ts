/** Revocations: who may say them, what they cover, and that their set does not depend on the order of arrival. */
import fc from 'fast-check'
import t from 'tap'
import { MAX_REVOCATIONS_PER_SITE } from '../../../protocol/core/limits.ts'
import { createKey, peerIdOf } from '../../../protocol/mesh/identity.ts'
import type { Mesh } from '../../../protocol/mesh/mesh.ts'
import { answerRevocations, exchangeRevocations } from '../../../protocol/mesh/records/revocations.ts'
import { issue, readMember } from '../../../protocol/mesh/trust/certificate.ts'
import { readRevocation, revoke, RevocationSet, type RevocationGrant } from '../../../protocol/mesh/trust/revocation.ts'
import { createTrust, type Trust } from '../../../protocol/mesh/trust/trust.ts'
import { createKit } from '../../trust-kit.ts'

const NOW = Date.UTC(2026, 10, 22)
const kit = await createKit({ sites: [{ name: 'tokyo', hosts: [{ name: 'gw1', roles: ['gateway'] }, { name: 'w1', roles: ['compute'] }] }, { name: 'osaka', hosts: [{ name: 'gw2', roles: ['gateway'] }] }] }, NOW)
const siteKey = kit.siteKeys.get('tokyo') ?? await createKey()
const siteChain = kit.siteChains.get('tokyo') ?? []
const osakaKey = kit.siteKeys.get('osaka') ?? await createKey()
const osakaChain = kit.siteChains.get('osaka') ?? []
const gatewayKey = kit.member('tokyo/gw1').key
const issuerChain = [issue(siteKey, { federation: kit.federation, kind: 'issuer', subject: peerIdOf(gatewayKey), site: 'tokyo', name: 'gw1', roles: ['compute'] }, NOW), ...siteChain]
const w1 = readMember(kit.member('tokyo/w1').chain, kit.federation)
const gw1 = readMember(kit.member('tokyo/gw1').chain, kit.federation)
const host = (more: Partial<RevocationGrant> = {}): RevocationGrant => ({ federation: kit.federation, kind: 'host', subject: w1.peerId, site: 'tokyo', name: 'w1', reason: 'sold', ...more })

void t.test('who may revoke', t => {
  const later = NOW + 1000
  t.equal(readRevocation(revoke(siteKey, siteChain, host(), later), kit.federation, later).by, 'site')
  t.equal(readRevocation(revoke(gatewayKey, issuerChain, host(), later), kit.federation, later).by, 'issuer')
  t.equal(readRevocation(revoke(kit.coordinatorKey, [], host({ kind: 'site', subject: peerIdOf(siteKey), name: '' }), later), kit.federation, later).by, 'coordinator')
  t.throws(() => readRevocation(revoke(osakaKey, osakaChain, host(), later), kit.federation, later), 'another site')
  t.throws(() => readRevocation(revoke(osakaKey, siteChain, host(), later), kit.federation, later), 'with the chain of another')
  t.throws(() => readRevocation(revoke(siteKey, siteChain, host({ kind: 'site', subject: peerIdOf(osakaKey), site: 'osaka' }), later), kit.federation, later), 'a site revokes no site')
  t.throws(() => readRevocation(revoke(kit.member('tokyo/w1').key, kit.member('tokyo/w1').chain, host(), later), kit.federation, later), 'a host revokes nobody')
  t.throws(() => readRevocation(revoke(siteKey, siteChain, host(), NOW + 3_600_000), kit.federation, NOW), 'not from the future')
  t.end()
})

void t.test('what it covers: admissions before it, not later ones; an issuer no gateway', t => {
  const set = new RevocationSet()
  set.add(readRevocation(revoke(siteKey, siteChain, host(), NOW + 1000), kit.federation, NOW), NOW)
  t.ok(set.covering(w1))
  t.equal(set.covering(gw1), null)
  const again = readMember([issue(siteKey, { federation: kit.federation, kind: 'host', subject: w1.peerId, site: 'tokyo', name: 'w1', roles: ['compute'] }, NOW + 2000), ...siteChain], kit.federation)
  t.equal(set.covering(again), null, 'joined again later')
  const renewed = readMember([issue(siteKey, { federation: kit.federation, kind: 'host', subject: w1.peerId, site: 'tokyo', name: 'w1', roles: ['compute'], joinedMs: NOW }, NOW + 2000), ...siteChain], kit.federation)
  t.ok(set.covering(renewed), 'renewed by one that had not heard of it')
  set.add(readRevocation(revoke(gatewayKey, issuerChain, host({ subject: gw1.peerId, name: 'gw1' }), NOW + 1000), kit.federation, NOW), NOW)
  t.equal(set.covering(gw1), null, 'an issuer cannot revoke a gateway')
  const whole = new RevocationSet()
  whole.add(readRevocation(revoke(kit.coordinatorKey, [], host({ kind: 'site', subject: peerIdOf(siteKey), name: '' }), NOW + 1000), kit.federation, NOW), NOW)
  t.ok(whole.covering(w1) !== null && whole.covering(gw1) !== null, 'a revoked site takes its hosts with it')
  t.end()
})

void t.test('the order of arrival does not matter, and one site cannot push out another', async t => {
  const subjects = await Promise.all(Array.from({ length: 8 }, async () => peerIdOf(await createKey())))
  const some = subjects.flatMap((subject, i) => [1, 2].map(k => readRevocation(revoke(k === 1 ? siteKey : gatewayKey, k === 1 ? siteChain : issuerChain, host({ subject, name: `h${i}` }), NOW + i * 10 + k), kit.federation, NOW)))
  fc.assert(fc.property(fc.shuffledSubarray(some, { minLength: some.length }), shuffled => {
    const [a, b] = [new RevocationSet(), new RevocationSet()]
    for (const r of some) a.add(r, NOW)
    for (const r of [...shuffled, ...shuffled.slice(0, 3)]) b.add(r, NOW)
    return Buffer.compare(a.digest(), b.digest()) === 0 && a.size === some.length
  }))
  const set = new RevocationSet()
  const ours = readRevocation(revoke(osakaKey, osakaChain, host({ site: 'osaka', subject: subjects[0] ?? '', name: 'x' }), NOW), kit.federation, NOW)
  set.add(ours, NOW)
  for (let i = 0; i < MAX_REVOCATIONS_PER_SITE + 20; i++) {
    const subject = peerIdOf(await createKey())
    set.add(readRevocation(revoke(siteKey, siteChain, host({ subject, name: `n${i}` }), NOW + i), kit.federation, NOW), NOW)
  }
  t.equal(set.size, MAX_REVOCATIONS_PER_SITE + 1)
  t.ok(set.ids().includes(ours.id))
})

void t.test('whoever asks, both know afterwards what either knew, and what both know is not sent again', async t => {
  const make = (name: string): Trust => createTrust({ peerId: kit.member(name).peerId, federation: kit.federation, chain: kit.member(name).chain, now: () => NOW + 10_000 })
  for (let i = 0; i < 8; i++) {
    const [knows, asked] = [make('tokyo/w1'), make('osaka/gw2')]
    let sent = 0
    const mesh = { trust: knows, call: (_peer: string, _method: string, request: Parameters<typeof answerRevocations>[1]) => {
      const reply = answerRevocations(asked, request)
      sent += reply.revocations.length + request.offer.length
      return Promise.resolve(reply)
    } } as unknown as Mesh
    knows.takeRevocation(revoke(siteKey, siteChain, host({ subject: peerIdOf(await createKey()), name: `told${i}` }), NOW + i))
    await exchangeRevocations(mesh, 'asked')
    t.equal(asked.revocations.size, 1, 'told')
    asked.takeRevocation(revoke(siteKey, siteChain, host({ subject: peerIdOf(await createKey()), name: `heard${i}` }), NOW + i))
    await exchangeRevocations(mesh, 'asked')
    t.equal(knows.revocations.size, 2, 'heard')
    await exchangeRevocations(mesh, 'asked')
    t.equal(sent, 2)
  }
})

void t.test('of two sites with one name the one that was admitted first holds it', async t => {
  const thief = await createKit({ sites: [] }, NOW)
  t.ok(thief.federation !== kit.federation)
  const key = await createKey()
  const hostKey = await createKey()
  const lateSite = issue(kit.coordinatorKey, { federation: kit.federation, kind: 'site', subject: peerIdOf(key), site: 'tokyo', name: '', roles: [] }, NOW + 5000)
  const late = [issue(key, { federation: kit.federation, kind: 'host', subject: peerIdOf(hostKey), site: 'tokyo', name: 'gw1', roles: ['gateway'] }, NOW + 5000), lateSite]
  const me = kit.member('osaka/gw2')
  const make = (): ReturnType<typeof createTrust> => createTrust({ peerId: me.peerId, federation: kit.federation, chain: me.chain, now: () => NOW + 10_000 })
  const first = make()
  first.admit(gw1.peerId, gw1.chain)
  t.throws(() => first.admit(peerIdOf(hostKey), late), { code: 'SITE_NAME_TAKEN' })
  const second = make()
  second.admit(peerIdOf(hostKey), late)
  second.admit(gw1.peerId, gw1.chain)
  t.equal(second.roleOf(peerIdOf(hostKey)), null, 'the later one goes when the first one appears')
  t.throws(() => second.admit(peerIdOf(hostKey), late), { code: 'SITE_NAME_TAKEN' })
  second.takeRevocation(revoke(kit.coordinatorKey, [], host({ kind: 'site', subject: peerIdOf(siteKey), name: '' }), NOW + 9000))
  t.equal(second.admit(peerIdOf(hostKey), late).peerId, peerIdOf(hostKey), 'and has the name once the first one is revoked')
})
