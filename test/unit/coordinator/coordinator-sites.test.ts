/** Whom a coordinator knows, in what state, and how it puts one out. */
import { mkdtemp, readFile, rm } from 'node:fs/promises'
import { randomBytes } from 'node:crypto'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { pino } from 'pino'
import t, { type Test } from 'tap'
import { openAudit } from '../../../coordinator/audit.ts'
import { renderMetrics, coordinatorMetrics } from '../../../coordinator/metrics.ts'
import { createRegistry, type Registry, type SeenGateway } from '../../../coordinator/registry.ts'
import { revokeSite, type RevokeDeps } from '../../../coordinator/revoke.ts'
import { sitesOf, type SitesView } from '../../../coordinator/sites.ts'
import type { CoordinatorStatus } from '../../../protocol/api.ts'
import { peerIdOf } from '../../../protocol/mesh/identity.ts'
import { createInvitations } from '../../../protocol/mesh/join/invitations.ts'
import type { Issued } from '../../../protocol/mesh/join/types.ts'
import type { Records } from '../../../protocol/mesh/records.ts'
import { revoke } from '../../../protocol/mesh/trust/revocation.ts'
import { createTrust, type Trust } from '../../../protocol/mesh/trust/trust.ts'
import type { SiteAd } from '../../../protocol/wire/gen/types.ts'
import { invitationStore } from '../../../store/invitations.ts'
import { createMemoryStore } from '../../../store/memory.ts'
import type { Store } from '../../../store/store.ts'
import { openTrustStore } from '../../../store/trust.ts'
import { createKit, type Kit } from '../../trust-kit.ts'

const NOW = Date.now()
const HOUR = 3_600_000
const PLAN = {
  coordinators: ['main'],
  sites: [{ name: 'tokyo', hosts: [{ name: 'gw1', roles: ['gateway'] as const }, { name: 'gw2', roles: ['gateway'] as const }] }, { name: 'osaka', hosts: [{ name: 'gw', roles: ['gateway'] as const }] }]
}
const log = pino({ level: 'silent' })
const noLink = (): { path: null, rttMs: null } => ({ path: null, rttMs: null })

const ad = (site: string, gateway: string, more: Partial<SiteAd> = {}): SiteAd => ({
  site, gateway, addresses: ['/ip4/127.0.0.1/tcp/1'], hosts: 2, total: { vcpus: 8, memoryMib: 8192, diskMib: 0, volumes: 64, bandwidthMbit: 0 }, free: { vcpus: 4, memoryMib: 4096, diskMib: 0, volumes: 64, bandwidthMbit: 0 },
  freeByHost: [], volumeFreeMib: 0, version: '1', features: ['kvm'], roles: ['gateway'], priceMilli: 5, maxTermMs: 0, relay: false, tunnel: [], ...more
})
const issuedOf = (kit: Kit, site: string, more: Partial<Issued> = {}): Issued =>
  ({ kind: 'site', subject: peerIdOf(kit.siteKeys.get(site)!), name: site, roles: [], segmentIds: null, joinedMs: NOW - HOUR, issuedMs: NOW - HOUR, notAfterMs: NOW + HOUR, ...more })

async function place (): Promise<{ kit: Kit, trust: Trust }> {
  const kit = await createKit(PLAN, NOW)
  const main = kit.member('main')
  const trust = createTrust({ peerId: main.peerId, federation: kit.federation, chain: main.chain, now: () => NOW })
  for (const member of kit.members) if (member !== main) trust.admit(member.peerId, member.chain)
  return { kit, trust }
}

t.test('sites: admitted, heard of, never seen, revoked', async t => {
  const { kit, trust } = await place()
  const key = (site: string): string => peerIdOf(kit.siteKeys.get(site)!)
  const seen = (name: string, state: SeenGateway['state'], ageMs: number): SeenGateway => {
    const member = kit.member(name)
    return { peer: member.peerId, key: key(member.site), state, ageMs, ad: ad(member.site, name.split('/')[1]!) }
  }
  const view = (more: Partial<SitesView>): SitesView => ({ issued: [], gateways: [], revocations: [], memberOf: peer => trust.memberOf(peer), path: () => 'direct', ...more })
  t.same(sitesOf(view({})), [])
  t.match(sitesOf(view({ issued: [issuedOf(kit, 'tokyo')] })), [{ site: 'tokyo', key: key('tokyo'), state: 'never seen', admittedHere: true, admittedAt: NOW - HOUR, certificateExpiresAt: NOW + HOUR, hosts: 0, total: null, gateways: [] }])

  const both = sitesOf(view({ issued: [issuedOf(kit, 'tokyo')], gateways: [seen('osaka/gw', 'suspect', 9), seen('tokyo/gw2', 'alive', 5), seen('tokyo/gw1', 'dead', 90_000)] }))
  t.match(both, [
    { site: 'osaka', state: 'suspect', admittedHere: false, admittedAt: NOW, hosts: 2, free: { vcpus: 4 } },
    { site: 'tokyo', state: 'alive', admittedHere: true, gateways: [{ host: 'gw2', state: 'alive', path: 'direct' }, { host: 'gw1', state: 'dead' }] }
  ])
  t.ok((both[1]?.certificateExpiresAt ?? 0) > NOW + 24 * HOUR, 'a certificate that another coordinator has renewed is seen')

  const revoked = revoke(kit.coordinatorKey, [], { federation: kit.federation, kind: 'site', subject: key('osaka'), site: 'osaka', name: '', reason: 'sold' }, NOW)
  trust.takeRevocation(revoked)
  const revocations = trust.revocations.all()
  t.match(sitesOf(view({ revocations })), [{ site: 'osaka', state: 'revoked', revoked: { at: NOW, reason: 'sold' }, admittedHere: false, admittedAt: null }])
  t.match(sitesOf(view({ revocations, issued: [issuedOf(kit, 'osaka')] })), [{ state: 'revoked' }])
  t.match(sitesOf(view({ revocations, issued: [issuedOf(kit, 'osaka', { joinedMs: NOW + 1 })] })), [{ state: 'never seen', revoked: null }], 'it was admitted again')
  t.match(sitesOf(view({ revocations, issued: [issuedOf(kit, 'osaka', { subject: key('tokyo') })] })).map(s => [s.site, s.state]).sort(), [['osaka', 'never seen'], ['osaka', 'revoked']])
})

/** Records that say what they are told to. */
function fakeRecords (): { records: Records, say: (rows: object[]) => void } {
  let rows: object[] = []
  const listeners = new Set<(kind: 'site', peer: string) => void>()
  const records = {
    view: () => rows,
    onChange: (listener: (kind: 'site', peer: string) => void) => { listeners.add(listener); return () => { listeners.delete(listener) } }
  } as unknown as Records
  return { records, say: next => { rows = next; for (const listener of listeners) listener('site', '') } }
}

t.test('registry', async t => {
  const { kit, trust } = await place()
  let nowMs = NOW
  const store = createMemoryStore()
  const open = (): Promise<Registry> => createRegistry({ store, now: () => nowMs })
  const registry = await open()
  t.equal(registry.epoch, 1)
  const { records, say } = fakeRecords()
  const unfollow = registry.follow(records, trust, log)
  const row = (name: string, state: string, ageMs: number, more: Partial<SiteAd> = {}): object => ({ peer: kit.member(name).peerId, state, ageMs, body: ad(kit.member(name).site, name.split('/')[1]!, more) })

  say([row('tokyo/gw1', 'suspect', 10), row('tokyo/gw2', 'alive', 500, { hosts: 3 }), row('osaka/gw', 'alive', 0)])
  t.match(registry.sites(peer => ({ path: peer === kit.member('osaka/gw').peerId ? 'direct' : null, rttMs: 7 })), [
    { site: 'osaka', state: 'alive', path: 'direct', rttMs: 7, ageMs: 0, priceMilli: 5 },
    { site: 'tokyo', gateway: 'gw2', hosts: 3, state: 'alive', ageMs: 500 }
  ], 'the gateway that lives speaks for the site')
  t.equal(registry.ads().length, 2)
  t.equal(registry.gateways().length, 3)

  nowMs += 30_000
  say([row('tokyo/gw2', 'dead', 30_500, { hosts: 3 }), row('osaka/gw', 'dead', 30_000)])
  t.match(registry.sites(noLink).map(({ site, state }) => [site, state]), [['osaka', 'dead'], ['tokyo', 'dead']])

  await unfollow()
  const again = await open()
  t.equal(again.epoch, 2)
  t.match(again.sites(noLink), [{ site: 'osaka', state: 'suspect', ageMs: 30_000 }, { site: 'tokyo', gateway: 'gw1', state: 'suspect', ageMs: 30_010, features: ['kvm'] }], 'what only the disk remembers is doubtful')
  t.match(again.gateways().map(({ key }) => key).includes(peerIdOf(kit.siteKeys.get('osaka')!)), true)
  nowMs += 200_000
  t.match(again.sites(noLink).map(({ state }) => state), ['dead', 'dead'])

  // a revoked site is forgotten at once, on the disk too
  const end = again.follow(fakeRecords().records, trust, log)
  trust.takeRevocation(revoke(kit.coordinatorKey, [], { federation: kit.federation, kind: 'site', subject: peerIdOf(kit.siteKeys.get('osaka')!), site: 'osaka', name: '', reason: '' }, NOW))
  t.same(again.sites(noLink).map(({ site }) => site), ['tokyo'])
  await end()
  t.same((await open()).sites(noLink).map(({ site }) => site), ['tokyo'])
  nowMs += 25 * HOUR
  t.same((await open()).sites(noLink), [], 'silent for a day: forgotten')
})

async function revokable (t: Test, sites: (kit: Kit, trust: Trust) => SitesView): Promise<{ deps: RevokeDeps, kit: Kit, store: Store, dir: string, steps: string[] }> {
  const { kit, trust } = await place()
  const dir = await mkdtemp(join(tmpdir(), 'musubi-revoke-'))
  t.teardown(() => rm(dir, { recursive: true }))
  const store = createMemoryStore()
  const kept = await openTrustStore(store, () => NOW)
  const steps: string[] = []
  trust.onRevoked(() => { steps.push('acted') })
  const deps: RevokeDeps = {
    coordinatorKey: kit.coordinatorKey, trust, audit: openAudit(dir, { now: () => NOW }), now: () => NOW,
    store: { ...kept, keepRevocation: async signed => { await kept.keepRevocation(signed); steps.push('kept') } },
    invitations: await createInvitations({ store: invitationStore(store), now: () => NOW, randomBytes }),
    sites: () => Promise.resolve(sitesOf({ ...sites(kit, trust), revocations: trust.revocations.all() }))
  }
  return { deps, kit, store, dir, steps }
}
const nobody = { gateways: [], revocations: [], memberOf: () => null, path: () => null }

t.test('revoke: kept before it is acted on, once', async t => {
  const { deps, kit, dir, steps, store } = await revokable(t, kit => ({ ...nobody, issued: [issuedOf(kit, 'tokyo')] }))
  const open = await deps.invitations.invite({ kind: 'site', site: 'tokyo', roles: [], ttlMs: HOUR })
  const other = await deps.invitations.invite({ kind: 'site', site: 'osaka', roles: [], ttlMs: HOUR })
  const key = peerIdOf(kit.siteKeys.get('tokyo')!)
  const first = await revokeSite(deps, { site: 'tokyo', reason: 'lost' })
  t.same(first, { site: 'tokyo', key, revokedAt: NOW, reason: 'lost', already: false, withdrawn: [open.id] })
  t.same(steps, ['kept', 'acted'])
  t.equal(deps.trust.roleOf(kit.member('tokyo/gw1').peerId), null, 'its hosts are out')
  t.ok(deps.trust.roleOf(kit.member('osaka/gw').peerId))
  t.same(deps.invitations.list().filter(({ state }) => state === 'open').map(({ id }) => id), [other.id])
  t.same(await revokeSite(deps, { site: 'tokyo', reason: 'again' }), { ...first, already: true, withdrawn: [] })
  t.same(steps, ['kept', 'acted'])
  t.equal((await (await openTrustStore(store)).revocations()).length, 1)
  t.match((await readFile(join(dir, 'audit.log'), 'utf8')).trimEnd().split('\n').map(line => JSON.parse(line) as object), [{ act: 'revoke', site: 'tokyo', key, reason: 'lost' }])
  await t.rejects(revokeSite(deps, { site: 'kyoto' }), { code: 'NOT_FOUND', hint: 'known are tokyo' })
  await t.rejects(revokeSite(deps, { site: 'tokyo', key: kit.federation }), { code: 'NOT_FOUND', hint: new RegExp(key) })
})

t.test('revoke: two keys hold one name', async t => {
  const { deps, kit } = await revokable(t, kit => ({ ...nobody, issued: [issuedOf(kit, 'tokyo'), issuedOf(kit, 'osaka', { name: 'tokyo' })] }))
  const [a, b] = ['tokyo', 'osaka'].map(site => peerIdOf(kit.siteKeys.get(site)!)) as [string, string]
  await t.rejects(revokeSite(deps, { site: 'tokyo' }), { code: 'CONFLICT', message: /2 keys/, hint: new RegExp(`--key: .*${a}.*${b}|--key: .*${b}.*${a}`) })
  t.match(await revokeSite(deps, { site: 'tokyo', key: b }), { key: b, already: false })
  t.match(await revokeSite(deps, { site: 'tokyo' }), { key: a, already: false }, 'one is left, so it is clear')
})

t.test('revoke: a site that was admitted by a clock that is ahead', async t => {
  const { deps } = await revokable(t, kit => ({ ...nobody, issued: [issuedOf(kit, 'tokyo', { joinedMs: NOW + 60_000 })] }))
  t.match(await revokeSite(deps, { site: 'tokyo' }), { revokedAt: NOW + 60_000 })
  t.match(await deps.sites(), [{ state: 'revoked' }])
})

t.test('metrics as Prometheus reads them', t => {
  const status: CoordinatorStatus = {
    name: 'main', peerId: 'p', federation: 'f', version: '1.0.0', addresses: [], joinAddresses: [], sites: 1,
    peers: [{ peerId: 'a', name: 'a', path: 'direct', rttMs: 1 }, { peerId: 'b', name: 'b', path: 'relay', rttMs: null }],
    certificate: { expiresAt: 1_500_000_000_000, renewsAt: 1, error: null }, invitations: 2, revocations: 3,
    refusals: { us: { NO_CERTIFICATE: 4, 'A"B\nmusubi_peers 99\\': 1 }, them: {} }, joins: { OK: 5 }, records: { taken: 6, stale: 0 }, recordsNotAdmitted: { BAD_CERTIFICATE: 7 }, epoch: 1, uptimeMs: 1500
  }
  const text = renderMetrics(coordinatorMetrics(status, []))
  const lines = text.split('\n')
  for (const line of [
    'musubi_peers{path="direct"} 1', 'musubi_peers{path="relay"} 1', 'musubi_admission_refusals_total{by="us",code="NO_CERTIFICATE"} 4',
    'musubi_admission_refusals_total{by="us",code="A\\"B\\nmusubi_peers 99\\\\"} 1', 'musubi_join_answers_total{code="OK"} 5', 'musubi_records_total{outcome="taken"} 6',
    'musubi_records_not_admitted_total{code="BAD_CERTIFICATE"} 7', 'musubi_invitations 2', 'musubi_revocations 3', 'musubi_certificate_not_after_seconds 1500000000', 'musubi_sites{state="never-seen"} 0', 'musubi_uptime_seconds 1.5'
  ]) t.ok(lines.includes(line), line)
  t.ok(text.endsWith('\n'))
  for (const line of lines.slice(0, -1)) t.match(line, /^(# (HELP|TYPE) musubi_\w+ .+|musubi_\w+(\{(\w+="([^"\\\n]|\\["\\n])*",?)+\})? -?[\d.e+]+)$/)
  t.end()
})
