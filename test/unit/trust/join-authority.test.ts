import t from 'tap'
import { createKey, peerIdOf } from '../../../protocol/mesh/identity.ts'
import { authoriseHosts, authoriseSites, coordinatorAuthority, siteAuthority } from '../../../protocol/mesh/join/authority.ts'
import type { HostGrant, Invitation, SiteAuthority } from '../../../protocol/mesh/join/types.ts'
import { LIFETIME_MS, readChain, readMember } from '../../../protocol/mesh/trust/certificate.ts'
import { readRevocation, revoke, RevocationSet } from '../../../protocol/mesh/trust/revocation.ts'
import type { wire } from '../../../protocol/wire/codec.ts'
import { issuedStore } from '../../../store/invitations.ts'
import { createMemoryStore } from '../../../store/memory.ts'
import { createKit } from '../../trust-kit.ts'

const DAY = 24 * 3_600_000
const T0 = 1_800_000_000_000
const kit = await createKit({ sites: [{ name: 'tokyo', hosts: [{ name: 'gw1', roles: ['gateway'], segmentIds: { from: 1000, to: 1999 } }] }, { name: 'osaka', hosts: [{ name: 'o1', roles: ['compute'] }] }] }, T0)
const { federation, coordinatorKey } = kit
const siteKey = kit.siteKeys.get('tokyo')!
const siteChain = kit.siteChains.get('tokyo')!
const gw1 = kit.member('tokyo/gw1')
const peers = await Promise.all(Array.from({ length: 4 }, async () => peerIdOf(await createKey())))
const [p1 = '', p2 = '', p3 = ''] = peers
const grant = (subject: string, name: string, part: Partial<HostGrant> = {}): HostGrant => ({ subject, name, roles: ['compute'], segmentIds: null, quotaPercent: 0, ...part })

interface World { authority: SiteAuthority, clock: { ms: number }, live: Map<string, string>, revocations: RevocationSet, options: Parameters<typeof siteAuthority>[0] }
function world (part: Partial<Parameters<typeof siteAuthority>[0]> = {}): World {
  const clock = { ms: T0 + 1000 }
  const live = new Map<string, string>()
  const revocations = new RevocationSet()
  const options = {
    site: 'tokyo', federation, siteKey, siteChain, issuer: null, now: () => clock.ms, taken: (name: string) => live.get(name) ?? null, revocations, issued: issuedStore(createMemoryStore()),
    gateways: () => [{ name: 'gw1', peerId: gw1.peerId, segmentIds: { from: 1000, to: 1999 }, quotaPercent: 40 }], ...part
  }
  return { authority: siteAuthority(options), clock, live, revocations, options }
}
const issuerOf = (authority: SiteAuthority, roles?: string[]): { key: typeof gw1.key, chain: readonly Uint8Array[] } =>
  ({ key: gw1.key, chain: authority.delegate({ subject: gw1.peerId, name: 'gw1', ...(roles === undefined ? {} : { roles }) }) })

t.test('a host gets what it was granted, under the site', async t => {
  const { authority, clock } = world()
  const member = readMember(await authority.certifyHost(grant(p1, 'a1', { roles: ['storage', 'compute'] })), federation)
  t.match(member, { peerId: p1, role: { kind: 'host', site: 'tokyo', host: 'a1', roles: ['compute', 'storage'] }, joinedMs: clock.ms, notAfterMs: clock.ms + LIFETIME_MS.host })
  const gateway = readMember(await authority.certifyHost(grant(p2, 'gw2', { roles: ['gateway'], segmentIds: { from: 2000, to: 2999 }, quotaPercent: 50 })), federation)
  t.match(gateway, { segmentIds: { from: 2000, to: 2999 }, quotaPercent: 50 })
  t.equal(readMember(await authority.certifyHost(grant(p3, 'a3', { segmentIds: { from: 1, to: 9 }, quotaPercent: 9 })), federation).segmentIds, null, 'only gateways have slices')
  for (const roles of [[], ['king'], ['compute', 'compute']]) await t.rejects(authority.certifyHost(grant(p1, 'a1', { roles })), { code: 'INVALID_INPUT' })
  await t.rejects(authority.certifyHost(grant('nobody', 'n1')), { code: 'INVALID_INPUT' })
  await t.rejects(authority.certifyHost(grant(p1, 'A_1')), { code: 'INVALID_INPUT' })
})

t.test('the shares of gateways in the quotas are never more than the whole', async t => {
  const { authority, options } = world()
  const gateway = (subject: string, name: string, from: number, quotaPercent: number): HostGrant => grant(subject, name, { roles: ['gateway'], segmentIds: { from, to: from + 9 }, quotaPercent })
  await t.rejects(authority.certifyHost(gateway(p2, 'gw2', 2000, 61)), { code: 'QUOTA_TAKEN', message: /gw2 cannot have 61 % of the quotas of site tokyo: gw1 has 40 %/, hint: /at most 60 %/ })
  await t.resolves(authority.certifyHost(gateway(p2, 'gw2', 2000, 50)))
  await t.rejects(authority.certifyHost(gateway(p3, 'gw3', 3000, 11)), { code: 'QUOTA_TAKEN', message: /gw2 has 50 %/ }, 'one that is not to be seen counts, too')
  await t.resolves(authority.certifyHost(gateway(p2, 'gw2', 2000, 60)), 'its own share is not in its way')
  await t.resolves(authority.certifyHost(gateway(p3, 'gw3', 3000, 0)), 'none is always left')
  const given = siteAuthority({ ...options, gateways: () => [{ name: 'gw1', peerId: gw1.peerId, segmentIds: { from: 1000, to: 1999 }, quotaPercent: 10 }, { name: 'gw2', peerId: p2, segmentIds: { from: 2000, to: 2009 }, quotaPercent: 20 }] })
  await t.resolves(given.certifyHost(gateway(p3, 'gw3', 3000, 70)), 'what was given back is for others')
})

t.test('a name belongs to one host', async t => {
  const { authority, clock, live, revocations } = world()
  live.set('a1', p1)
  await t.rejects(authority.certifyHost(grant(p2, 'a1')), { code: 'NAME_TAKEN', hint: /musubi site revoke a1/ })
  await t.resolves(authority.certifyHost(grant(p1, 'a1')), 'its own')
  live.clear()
  await t.rejects(authority.certifyHost(grant(p2, 'a1')), { code: 'NAME_TAKEN' }, 'certified just now, and not to be seen yet')
  clock.ms += 11 * 60_000
  await t.resolves(authority.certifyHost(grant(p2, 'a1')), 'gone and set up again with a new key')
  await t.rejects(authority.certifyHost(grant(p1, 'a1')), { code: 'NAME_TAKEN' })
  revocations.add(readRevocation(revoke(siteKey, siteChain, { federation, kind: 'host', subject: p2, site: 'tokyo', name: 'a1', reason: '' }, clock.ms + 60_000), federation, clock.ms), clock.ms)
  await t.resolves(authority.certifyHost(grant(p1, 'a1')), 'who is revoked holds nothing')
  const back = readMember(await authority.certifyHost(grant(p2, 'a9')), federation)
  t.equal(revocations.covering(back), null, 'and may be admitted anew, also where clocks differ')
})

t.test('slices of gateways do not overlap, seen or not', async t => {
  const { authority, clock, options, revocations } = world()
  const gateway = (subject: string, name: string, from: number, to: number): HostGrant => grant(subject, name, { roles: ['gateway'], segmentIds: { from, to } })
  await t.rejects(authority.certifyHost(grant(p1, 'gw2', { roles: ['gateway'] })), { code: 'SLICE_NEEDED', hint: /segmentIds/ })
  await t.rejects(authority.certifyHost(gateway(p1, 'gw2', 1999, 2500)), { code: 'SLICE_OVERLAPS', message: /gw2 asks for segment ids 1999-2500, gateway gw1 has 1000-1999/ })
  await authority.certifyHost(gateway(p1, 'gw2', 2000, 2999))
  await t.rejects(authority.certifyHost(gateway(p2, 'gw3', 1, 4000)), { code: 'SLICE_OVERLAPS' }, 'around another')
  const restarted = siteAuthority(options)
  await t.rejects(restarted.certifyHost(gateway(p2, 'gw3', 2500, 3000)), { code: 'SLICE_OVERLAPS', message: /gateway gw2/ }, 'known after a restart')
  await t.resolves(restarted.certifyHost(gateway(p1, 'gw2', 2000, 2499)), 'its own may change')
  clock.ms += 20 * DAY
  await restarted.renew(await restarted.certifyHost(gateway(p1, 'gw2', 2000, 2499)))
  clock.ms += 20 * DAY
  await t.rejects(restarted.certifyHost(gateway(p2, 'gw3', 2400, 3000)), { code: 'SLICE_OVERLAPS' }, 'as long as it is renewed')
  revocations.add(readRevocation(revoke(siteKey, siteChain, { federation, kind: 'host', subject: p1, site: 'tokyo', name: 'gw2', reason: '' }, clock.ms), federation, clock.ms), clock.ms)
  await t.resolves(restarted.certifyHost(gateway(p2, 'gw3', 2400, 3000)), 'revoked: free')
  clock.ms += 31 * DAY
  await t.resolves(restarted.certifyHost(gateway(p3, 'gw4', 2400, 3000)), 'ended: free')
  const together = await Promise.allSettled(peers.map(async (peer, i) => await world().authority.certifyHost(gateway(peer, `g${i}`, 5000, 5001))))
  t.equal(together.filter(({ status }) => status === 'fulfilled').length, peers.length, 'worlds of their own')
  const one = world().authority
  const race = await Promise.allSettled(peers.map(async (peer, i) => await one.certifyHost(gateway(peer, `g${i}`, 5000, 5001))))
  t.equal(race.filter(({ status }) => status === 'fulfilled').length, 1, 'at once: one gets it')
})

t.test('without the site key an issuer makes hosts, and no gateways', async t => {
  const issuer = issuerOf(world().authority)
  const { authority, clock } = world({ siteKey: null, issuer })
  const member = readMember(await authority.certifyHost(grant(p1, 'a1')), federation)
  t.match(member.certificates.map(({ kind }) => kind), ['host', 'issuer', 'site'])
  await t.rejects(authority.certifyHost(grant(p2, 'gw2', { roles: ['gateway', 'compute'], segmentIds: { from: 5000, to: 5999 } })), { code: 'ROLE_NEEDS_SITE_KEY', hint: /where the key of site tokyo is/ })
  t.throws(() => authority.delegate({ subject: p1, name: 'a1' }), { code: 'SITE_KEY_NEEDED' })
  const narrow = world({ siteKey: null, issuer: issuerOf(world().authority, ['compute']) }).authority
  await t.rejects(narrow.certifyHost(grant(p1, 'a1', { roles: ['storage'] })), { code: 'ROLE_NEEDS_SITE_KEY', message: /not for the role storage/ })
  await t.rejects(world({ siteKey: null }).authority.certifyHost(grant(p1, 'a1')), { code: 'CANNOT_ISSUE', hint: /invite on a gateway/ })
  t.throws(() => world().authority.delegate({ subject: p1, name: 'a1', roles: ['gateway'] }), { code: 'INVALID_INPUT' })
  clock.ms = T0 + 61 * DAY
  await t.rejects(authority.certifyHost(grant(p1, 'a1')), { code: 'CANNOT_ISSUE', message: /issuer certificate of tokyo ended/ })
  const revoked = world({ siteKey: null, issuer })
  revoked.revocations.add(readRevocation(revoke(siteKey, siteChain, { federation, kind: 'host', subject: gw1.peerId, site: 'tokyo', name: 'gw1', reason: '' }, T0 + 1000), federation, T0 + 1000), T0 + 1000)
  await t.rejects(revoked.authority.certifyHost(grant(p1, 'a1')), { code: 'CANNOT_ISSUE', message: /revoked/ })
})

t.test('nothing outlives what it stands on', async t => {
  const { authority, clock } = world()
  clock.ms = T0 + 85 * DAY
  const member = readMember(await authority.certifyHost(grant(p1, 'a1')), federation)
  t.equal(member.certificates[0]?.notAfterMs, T0 + LIFETIME_MS.site)
  const chain = authority.delegate({ subject: gw1.peerId, name: 'gw1' })
  t.equal(readChain(chain, federation).certificates[0]?.notAfterMs, T0 + LIFETIME_MS.site)
  clock.ms = T0 + 90 * DAY
  await t.rejects(authority.certifyHost(grant(p1, 'a1')), { code: 'CANNOT_ISSUE', hint: /musubi site init --join/ })
})

t.test('renewal keeps all but the dates', async t => {
  const { authority, clock, revocations } = world()
  const first = await authority.certifyHost(grant(p1, 'gw2', { roles: ['gateway', 'storage'], segmentIds: { from: 2000, to: 2999 }, quotaPercent: 30 }))
  const was = readMember(first, federation)
  clock.ms += 20 * DAY
  const is = readMember(await authority.renew(first), federation)
  t.match(is, { role: was.role, segmentIds: was.segmentIds, quotaPercent: 30, joinedMs: was.joinedMs, notAfterMs: clock.ms + 30 * DAY, notBeforeMs: clock.ms })
  clock.ms += 10 * DAY
  await t.rejects(authority.renew(first), { code: 'CERTIFICATE_EXPIRED', hint: /musubi agent join TOKEN/ })
  revocations.add(readRevocation(revoke(siteKey, siteChain, { federation, kind: 'host', subject: p1, site: 'tokyo', name: 'gw2', reason: '' }, clock.ms), federation, clock.ms), clock.ms)
  await t.rejects(authority.renew(is.chain), { code: 'CERTIFICATE_REVOKED' })
  await t.rejects(authority.renew((await createKit({ sites: [{ name: 'osaka', hosts: [{ name: 'o1', roles: ['compute'] }] }] }, clock.ms)).members[0]!.chain), { code: 'OTHER_FEDERATION' })
  clock.ms = T0 + 1000
  await t.rejects(authority.renew(kit.member('osaka/o1').chain), /hosts of tokyo/)
  await t.rejects(authority.renew(siteChain), { code: 'BAD_CERTIFICATE' })
  const other = await createKit({ sites: [{ name: 'tokyo', hosts: [{ name: 'a1', roles: ['compute'] }] }] }, T0)
  await t.rejects(authority.renew(other.member('tokyo/a1').chain), { code: 'OTHER_FEDERATION' })
  const issuing = world({ siteKey: null, issuer: issuerOf(authority) })
  await t.rejects(issuing.authority.renew(first), { code: 'ROLE_NEEDS_SITE_KEY' }, 'a gateway needs the site key again')
})

t.test('renewal launders nothing: a host falls with the issuer that admitted it', async t => {
  const { authority, clock } = world()
  const offline = world({ siteKey: null, issuer: issuerOf(authority) }).authority
  const admitted = await offline.certifyHost(grant(p1, 'a1'))
  t.equal(readMember(admitted, federation).issuer, gw1.peerId)
  clock.ms += DAY
  const renewed = readMember(await authority.renew(admitted), federation)
  t.equal(renewed.issuer, peerIdOf(siteKey), 'now signed by the site key')
  const again = readMember(await authority.renew(renewed.chain), federation)
  const set = new RevocationSet()
  const direct = readMember(await authority.certifyHost(grant(p2, 'a2')), federation)
  set.add(readRevocation(revoke(siteKey, siteChain, { federation, kind: 'host', subject: gw1.peerId, site: 'tokyo', name: 'gw1', reason: 'stolen' }, clock.ms), federation, clock.ms), clock.ms)
  t.ok(set.covering(renewed) !== null && set.covering(again) !== null, 'revoked with its issuer, however often it was renewed')
  t.equal(set.covering(direct), null, 'one that the site key admitted is not')
})

t.test('a renewed site certificate is taken over', async t => {
  const { authority, clock } = world()
  const coordinator = coordinatorAuthority({ coordinatorKey, federation, now: () => clock.ms })
  clock.ms = T0 + 80 * DAY
  const renewed = await coordinator.renew(siteChain)
  t.equal(readChain(renewed, federation).joinedMs, readChain(siteChain, federation).joinedMs)
  authority.replace({ siteChain: renewed })
  t.equal(readMember(await authority.certifyHost(grant(p1, 'a1')), federation).notAfterMs, clock.ms + LIFETIME_MS.host)
  t.throws(() => { authority.replace({ siteChain: kit.siteChains.get('osaka')! }) }, { code: 'BAD_CERTIFICATE' })
  const otherKey = await coordinator.certifySite({ subject: p1, site: 'tokyo' })
  t.throws(() => { authority.replace({ siteChain: otherKey }) }, { code: 'WRONG_IDENTITY' })
  t.throws(() => world({ siteKey: gw1.key }), { code: 'WRONG_IDENTITY', message: /the site key here is/ })
})

t.test('the coordinator key certifies sites and coordinators', async t => {
  const clock = { ms: T0 }
  const revocations = new RevocationSet()
  const options = { coordinatorKey, federation, now: () => clock.ms, revocations, issued: issuedStore(createMemoryStore()), taken: (site: string) => site === 'osaka' ? p3 : null }
  const authority = coordinatorAuthority(options)
  const chain = await authority.certifySite({ subject: p1, site: 'kyoto' })
  t.match(readChain(chain, federation).certificates, [{ kind: 'site', site: 'kyoto', subject: p1 }])
  await t.rejects(authority.certifySite({ subject: p2, site: 'osaka' }), { code: 'NAME_TAKEN' }, 'seen')
  clock.ms += 80 * DAY
  await t.rejects(coordinatorAuthority(options).certifySite({ subject: p2, site: 'kyoto' }), { code: 'NAME_TAKEN', hint: /musubi coordinator revoke kyoto/ }, 'certified before, and away')
  await t.resolves(authority.certifySite({ subject: p1, site: 'kyoto' }), 'the same site again')
  const own = authority.certifyCoordinator({ subject: p2, name: 'main' })
  t.match(readMember(own, federation), { role: { kind: 'coordinator', name: 'main' } })
  t.match(readMember(await authority.renew(own), federation), { role: { kind: 'coordinator', name: 'main' } })
  await t.rejects(authority.renew(gw1.chain), { code: 'CERTIFICATE_EXPIRED' })
  clock.ms = T0
  await t.rejects(authority.renew(gw1.chain), { code: 'INVALID_INPUT', hint: /gateway of their site/ })
  revocations.add(readRevocation(revoke(coordinatorKey, [], { federation, kind: 'site', subject: p1, site: 'kyoto', name: '', reason: '' }, clock.ms), federation, clock.ms), clock.ms)
  await t.rejects(authority.renew(chain), { code: 'CERTIFICATE_REVOKED' })
  t.throws(() => coordinatorAuthority({ ...options, coordinatorKey: siteKey }), { code: 'WRONG_IDENTITY' })
})

t.test('an invitation binds what a request may ask', async t => {
  const { authority } = world()
  const invitation: Invitation = { id: 'i', kind: 'host', site: 'tokyo', roles: ['gateway', 'compute'], segmentIds: null, quotaPercent: 20, note: '', createdMs: 0, expiresMs: 0, state: 'open', used: null, wrongProofs: 0 }
  const request: wire.JoinRequest = { tokenId: 'i', kind: 'host', subject: p1, name: 'gw2', roles: ['compute'], segmentIds: { from: 7000, to: 7001 }, addresses: [], proof: new Uint8Array(), subjectSignature: new Uint8Array() }
  const authorise = authoriseHosts(authority)
  t.match(readMember(await authorise(request, invitation), federation), { role: { roles: ['compute'] }, segmentIds: null, quotaPercent: 0 }, 'less than it may')
  await t.rejects(authorise({ ...request, roles: ['storage'] }, invitation), { code: 'ROLE_NOT_INVITED', hint: /--role gateway,compute,storage/ })
  t.match(readMember(await authorise({ ...request, roles: [] }, invitation), federation), { role: { roles: ['gateway', 'compute'] }, segmentIds: { from: 7000, to: 7001 }, quotaPercent: 20 }, 'all that it may')
  await t.rejects(authorise({ ...request, roles: [] }, { ...invitation, segmentIds: { from: 1, to: 9 } }), { code: 'SLICE_DIFFERS' })
  t.match(readMember(await authorise({ ...request, roles: ['gateway'], segmentIds: null }, { ...invitation, segmentIds: { from: 1, to: 9 } }), federation), { segmentIds: { from: 1, to: 9 } })
  const sites = authoriseSites(coordinatorAuthority({ coordinatorKey, federation, now: () => T0 }))
  await t.rejects(sites({ ...request, kind: 'site', name: 'kobe' }, { ...invitation, kind: 'site', site: 'kyoto' }), { code: 'NAME_NOT_INVITED' })
  t.match(readChain(await sites({ ...request, kind: 'site', name: 'kobe' }, { ...invitation, kind: 'site', site: '' }), federation).certificates, [{ site: 'kobe' }])
})
