import { mock } from 'node:test'
import { setImmediate as turn } from 'node:timers/promises'
import t, { type Test } from 'tap'
import { createKey, peerIdOf } from '../../../protocol/mesh/identity.ts'
import { coordinatorAuthority, siteAuthority } from '../../../protocol/mesh/join/authority.ts'
import { answerHostRenewals, answerSiteRenewals, createRenewal } from '../../../protocol/mesh/join/renewal.ts'
import { issue, readChain, readMember, type Chain } from '../../../protocol/mesh/trust/certificate.ts'
import { revoke } from '../../../protocol/mesh/trust/revocation.ts'
import { createTrust, type Trust } from '../../../protocol/mesh/trust/trust.ts'
import { createKit, type Kit, type KitMember } from '../../trust-kit.ts'

const HOUR = 3_600_000
const DAY = 24 * HOUR
const T0 = 1_800_000_000_000

async function kitOf (): Promise<Kit> {
  return await createKit({
    coordinators: ['main'],
    sites: [
      { name: 'tokyo', hosts: [{ name: 'gw1', roles: ['gateway'], segmentIds: { from: 1000, to: 1999 } }, { name: 'a1', roles: ['compute'] }, { name: 'a2', roles: ['compute'] }] },
      { name: 'osaka', hosts: [{ name: 'gw1', roles: ['gateway'] }] }
    ]
  }, T0)
}
const trustOf = (kit: Kit, member: KitMember): Trust => createTrust({ peerId: member.peerId, federation: kit.federation, chain: member.chain, now: Date.now })

/** Time passes as the test says, for clocks and timers. */
function clock (t: Test): (ms: number, stepMs: number) => Promise<void> {
  mock.timers.enable({ apis: ['setTimeout', 'Date'], now: T0 })
  t.teardown(() => { mock.timers.reset() })
  return async (ms, stepMs) => {
    for (let passed = 0; passed < ms; passed += stepMs) {
      mock.timers.tick(stepMs)
      for (let i = 0; i < 20; i++) await turn()
    }
  }
}
interface Line { level: string, text: string, data: Readonly<Record<string, unknown>> }

t.test('for two years nothing ends: host by gateway, gateway by its site key, site by the coordinator', async t => {
  const pass = clock(t)
  const kit = await kitOf()
  const { federation } = kit
  const [host, gateway, coordinator] = [kit.member('tokyo/a1'), kit.member('tokyo/gw1'), kit.member('main')]
  const trusts = { host: trustOf(kit, host), gateway: trustOf(kit, gateway), coordinator: trustOf(kit, coordinator) }
  // who is connected has shown its chain
  const meet = (): void => {
    trusts.gateway.admit(host.peerId, trusts.host.own().chain)
    trusts.coordinator.admit(gateway.peerId, trusts.gateway.own().chain)
  }
  meet()
  const site = siteAuthority({ site: 'tokyo', federation, siteKey: kit.siteKeys.get('tokyo')!, siteChain: kit.siteChains.get('tokyo')!, issuer: null, now: Date.now, taken: () => null, revocations: trusts.gateway.revocations })
  const top = coordinatorAuthority({ coordinatorKey: kit.coordinatorKey, federation, now: Date.now, revocations: trusts.coordinator.revocations })
  const serveHosts = answerHostRenewals(site, trusts.gateway)
  const serveSites = answerSiteRenewals(top, trusts.coordinator)
  const saved = { host: 0, gateway: 0, site: 0, coordinator: 0 }
  const lines: Line[] = []
  const log = (level: string, text: string, data: Readonly<Record<string, unknown>>): void => { lines.push({ level, text, data }) }
  const renewals = [
    createRenewal({ trust: trusts.host, now: Date.now, log, save: () => { saved.host++; return Promise.resolve() }, renew: async chain => (await serveHosts({ chain: [...chain], issuer: false }, { peerId: host.peerId })).chain }),
    createRenewal({ trust: trusts.gateway, now: Date.now, log, save: () => { saved.gateway++; return Promise.resolve() }, renew: async chain => await site.renew(chain) }),
    createRenewal({ trust: trusts.gateway, now: Date.now, log, chain: () => site.siteChain(), what: 'the certificate of site tokyo', save: chain => { saved.site++; site.replace({ siteChain: chain }); return Promise.resolve() }, renew: async chain => (await serveSites({ chain: [...chain], issuer: false }, { peerId: gateway.peerId })).chain }),
    createRenewal({ trust: trusts.coordinator, now: Date.now, log, save: () => { saved.coordinator++; return Promise.resolve() }, renew: async chain => await top.renew(chain) })
  ]
  for (const renewal of renewals) renewal.start()
  const joined = [trusts.host, trusts.gateway, trusts.coordinator].map(trust => trust.own().joinedMs)
  for (let day = 0; day < 730; day++) {
    await pass(DAY, 12 * HOUR)
    meet()
    const left = Math.min(...[trusts.host, trusts.gateway, trusts.coordinator].map(trust => trust.own().notAfterMs - Date.now()), readChain(site.siteChain(), federation).notAfterMs - Date.now())
    if (left < 4 * DAY) throw new Error(`day ${day}: ${left} ms left`)
  }
  for (const renewal of renewals) renewal.stop()
  t.strictSame([trusts.host, trusts.gateway, trusts.coordinator].map(trust => trust.own().joinedMs), joined, 'a revocation still covers them')
  t.ok(saved.host > 30 && saved.host < 200, `the host: ${saved.host} times`)
  t.ok(saved.gateway > 30 && saved.gateway < 200, `the gateway: ${saved.gateway} times`)
  t.ok(saved.site >= 11 && saved.site < 20 && saved.coordinator >= 11 && saved.coordinator < 20, `site ${saved.site}, coordinator ${saved.coordinator}`)
  t.strictSame(lines.filter(({ level }) => level !== 'info'), [], 'and nobody had to be warned')
})

t.test('when nobody answers: tries that spread, and warnings that say what to do', async t => {
  const pass = clock(t)
  const kit = await kitOf()
  const host = kit.member('tokyo/a1')
  const trust = trustOf(kit, host)
  const site = siteAuthority({ site: 'tokyo', federation: kit.federation, siteKey: kit.siteKeys.get('tokyo')!, siteChain: kit.siteChains.get('tokyo')!, issuer: null, now: Date.now, taken: () => null })
  let tries = 0
  let up = false
  const lines: Line[] = []
  const renewal = createRenewal({
    trust, now: Date.now, log: (level, text, data) => { lines.push({ level, text, data }) }, save: () => Promise.resolve(),
    renew: async chain => {
      tries++
      if (!up) throw new Error('no gateway is connected')
      return await site.renew(chain)
    }
  })
  renewal.start()
  await pass(20 * DAY - HOUR, HOUR)
  t.equal(tries, 0)
  await pass(2 * DAY + 2 * HOUR, HOUR)
  t.ok(tries > 2 && tries < 100, `${tries} tries`)
  t.strictSame(lines.filter(({ level }) => level === 'warn'), [], 'not yet')
  await pass(7.5 * DAY, HOUR / 2)
  const warnings = lines.filter(({ level }) => level === 'warn')
  t.ok(warnings.length >= 2 && warnings.length < 12, `${warnings.length} warnings`)
  t.match(warnings[0]?.data, { what: 'the certificate of tokyo/a1', next: /musubi site invite on a gateway of tokyo, then musubi agent join TOKEN on a1/, err: 'no gateway is connected' })
  t.match(renewal.state(), { failures: tries, lastError: { code: 'INTERNAL' }, endsMs: T0 + 30 * DAY })
  up = true
  await pass(2 * HOUR, HOUR / 6)
  t.ok(trust.own().notAfterMs > Date.now() + 29 * DAY, 'and it is caught up in the last hours')
  t.match(renewal.state(), { failures: 0, lastError: null })
  renewal.stop()
  const before = tries
  await pass(40 * DAY, DAY)
  t.equal(tries, before, 'stopped')
})

t.test('what is not the renewed certificate is not taken', async t => {
  const kit = await kitOf()
  const host = kit.member('tokyo/a1')
  const { federation } = kit
  const siteChain = kit.siteChains.get('tokyo')!
  const now = (): number => T0 + DAY
  const trust = createTrust({ peerId: host.peerId, federation, chain: host.chain, now })
  const shorter: Chain = [issue(kit.siteKeys.get('tokyo')!, { federation, kind: 'host', subject: host.peerId, site: 'tokyo', name: 'a1', roles: ['compute'], lifetimeMs: DAY }, T0 + DAY), ...siteChain]
  const saved: Chain[] = []
  let answer: Chain = []
  const renewal = createRenewal({ trust, now, renew: () => Promise.resolve(answer), save: chain => { saved.push(chain); return Promise.resolve() } })
  for (const [chain, code] of [[kit.member('tokyo/a2').chain, 'BAD_REPLY'], [shorter, 'BAD_REPLY'], [[], 'NO_CERTIFICATE'], [kit.member('tokyo/a1').chain.slice(0, 1), 'BAD_CERTIFICATE'], [siteChain, 'BAD_REPLY']] as const) {
    answer = chain
    await t.rejects(renewal.renewNow(), { code })
  }
  t.strictSame(saved, [])
  const broken = createRenewal({ trust, now, renew: () => Promise.resolve(host.chain), save: () => Promise.reject(new Error('disk full')) })
  const was = trust.own()
  await t.rejects(broken.renewNow(), /disk full/)
  t.equal(trust.own(), was, 'what is not on the disk is not used')
})

t.test('who may ask a gateway', async t => {
  const kit = await kitOf()
  const { federation } = kit
  const now = (): number => T0 + 1000
  const gateway = kit.member('tokyo/gw1')
  const trust = createTrust({ peerId: gateway.peerId, federation, chain: gateway.chain, now })
  const [a1, a2, other] = [kit.member('tokyo/a1'), kit.member('tokyo/a2'), kit.member('osaka/gw1')]
  for (const { peerId, chain } of [a1, a2, other]) trust.admit(peerId, chain)
  const siteKey = kit.siteKeys.get('tokyo')!
  const siteChain = kit.siteChains.get('tokyo')!
  const serve = answerHostRenewals(siteAuthority({ site: 'tokyo', federation, siteKey, siteChain, issuer: null, now, taken: () => null, revocations: trust.revocations }), trust)
  const ask = async ({ peerId }: KitMember, chain: Chain, issuer = false): Promise<Chain> => (await serve({ chain: [...chain], issuer }, { peerId })).chain
  t.match(readMember(await ask(a1, a1.chain), federation), { peerId: a1.peerId })
  await t.rejects(ask(a1, a2.chain), { code: 'INVALID_INPUT', message: /its own/ })
  await t.rejects(ask(a1, siteChain), { code: 'INVALID_INPUT' })
  await t.rejects(ask(a1, []), { code: 'NO_CERTIFICATE' })
  await t.rejects(ask(other, other.chain), { code: 'NOT_ALLOWED' })
  await t.rejects(ask(a1, a1.chain, true), { code: 'NOT_ALLOWED', message: /only gateways/ })
  await t.rejects(serve({ chain: [...a1.chain], issuer: false }, { peerId: peerIdOf(await createKey()) }), { code: 'NO_CERTIFICATE' })
  const issuer = await ask(gateway, gateway.chain, true)
  t.match(readChain(issuer, federation).certificates, [{ kind: 'issuer', subject: gateway.peerId, name: 'gw1', roles: ['compute', 'storage'] }, { kind: 'site' }])
  trust.takeRevocation(revoke(siteKey, siteChain, { federation, kind: 'host', subject: a1.peerId, site: 'tokyo', name: 'a1', reason: 'lost' }, now()))
  await t.rejects(ask(a1, a1.chain), { code: 'NO_CERTIFICATE' })
  t.ok(await ask(a2, a2.chain))
})

t.test('who may ask a coordinator', async t => {
  const kit = await kitOf()
  const { federation } = kit
  const now = (): number => T0 + 1000
  const [main, gateway, host, other] = [kit.member('main'), kit.member('tokyo/gw1'), kit.member('tokyo/a1'), kit.member('osaka/gw1')]
  const trust = createTrust({ peerId: main.peerId, federation, chain: main.chain, now })
  for (const { peerId, chain } of [gateway, host, other]) trust.admit(peerId, chain)
  const serve = answerSiteRenewals(coordinatorAuthority({ coordinatorKey: kit.coordinatorKey, federation, now, revocations: trust.revocations }), trust)
  const ask = async ({ peerId }: KitMember, chain: Chain): Promise<Chain> => (await serve({ chain: [...chain], issuer: false }, { peerId })).chain
  const siteChain = kit.siteChains.get('tokyo')!
  t.match(readChain(await ask(gateway, siteChain), federation).certificates, [{ kind: 'site', site: 'tokyo', notBeforeMs: now(), joinedMs: T0 }])
  await t.rejects(ask(host, siteChain), { code: 'NOT_ALLOWED' }, 'no gateway')
  await t.rejects(ask(other, siteChain), { code: 'NOT_ALLOWED' }, 'of another site')
  await t.rejects(ask(gateway, gateway.chain), { code: 'NOT_ALLOWED' }, 'hosts are no business of a coordinator')
  await t.rejects(ask(gateway, main.chain), { code: 'NOT_ALLOWED' })
  t.match(readMember(await ask(main, main.chain), federation), { role: { kind: 'coordinator', name: 'main' } })
  trust.takeRevocation(revoke(kit.coordinatorKey, [], { federation, kind: 'site', subject: readChain(siteChain, federation).peerId, site: 'tokyo', name: '', reason: '' }, now()))
  await t.rejects(ask(gateway, siteChain), { code: 'NO_CERTIFICATE' })
})
