import { mkdir, readFile, rm, stat, writeFile } from 'node:fs/promises'
import { once } from 'node:events'
import { createServer } from 'node:net'
import { join } from 'node:path'
import { randomBytes } from 'node:crypto'
import t, { type Test } from 'tap'
import { stringify } from 'yaml'
import { loadAgentConfig } from '../../../agent/config.ts'
import { trustFiles } from '../../../agent/site/files.ts'
import { loadIdentity, type Identity } from '../../../agent/site/identity.ts'
import { initSite } from '../../../agent/site/init.ts'
import { createSiteIssuer, type SiteHost, type SiteIssuer } from '../../../agent/site/issuer.ts'
import { joinAgent } from '../../../agent/site/join.ts'
import { siteKeyCommand } from '../../../agent/site/key.ts'
import { coordinatorAuthority, authoriseSites } from '../../../protocol/mesh/join/authority.ts'
import { createInvitations } from '../../../protocol/mesh/join/invitations.ts'
import { createJoinListener } from '../../../protocol/mesh/join/listener.ts'
import { answerSiteRenewals } from '../../../protocol/mesh/join/renewal.ts'
import { createKey, peerIdOf } from '../../../protocol/mesh/identity.ts'
import type { HostRoleName } from '../../../protocol/mesh/roles.ts'
import type { Mesh } from '../../../protocol/mesh/mesh.ts'
import { checkDates } from '../../../protocol/mesh/trust/certificate.ts'
import { createTrust, type Trust } from '../../../protocol/mesh/trust/trust.ts'
import type { Methods } from '../../../protocol/wire/codec.ts'
import { invitationStore } from '../../../store/invitations.ts'
import { createMemoryStore } from '../../../store/memory.ts'
import { openTrustStore } from '../../../store/trust.ts'
import { eventually, silent } from '../../model/federation.ts'

const DAY = 24 * 3_600_000
type Renew = (request: Methods['renew']['request'], context: { peerId: string }) => Promise<Methods['renew']['reply']>

/** A coordinator that admits sites, a clock for all, and wires between the agents of this test. */
async function bench (t: Test): Promise<{
  dir: string, clock: { ms: number }, now: () => number, federation: string, siteToken: (site?: string) => Promise<string>
  host: (name: string, roles: HostRoleName[], slice?: { from: number, to: number }, site?: string) => Promise<{ configPath: string, stateDir: string }>
  identity: (configPath: string) => Promise<Identity>
  agent: (configPath: string, hosts?: () => SiteHost[]) => Promise<{ issuer: SiteIssuer, trust: Trust, identity: Identity }>
}> {
  const dir = t.testdir({})
  const clock = { ms: Date.now() }
  const now = (): number => clock.ms
  const coordinatorKey = await createKey()
  const nodeKey = await createKey()
  const federation = peerIdOf(coordinatorKey)
  const authority = coordinatorAuthority({ coordinatorKey, federation, now })
  const chain = authority.certifyCoordinator({ subject: peerIdOf(nodeKey), name: 'main' })
  const invitations = await createInvitations({ store: invitationStore(createMemoryStore()), now, randomBytes })
  const listener = createJoinListener({
    key: nodeKey, federation, listen: ['/ip4/127.41.0.1/tcp/0'], invitations, authorise: authoriseSites(authority), now,
    peers: () => [{ peerId: peerIdOf(nodeKey), addresses: ['/ip4/127.41.0.1/tcp/4100'], chain }]
  })
  await listener.start()
  t.teardown(() => listener.stop())

  /** who answers `renew`, by PeerId */
  const renewers = new Map<string, { answer: Renew, trust: Trust }>()
  const mainTrust = createTrust({ peerId: peerIdOf(nodeKey), federation, chain, now })
  renewers.set(peerIdOf(nodeKey), { answer: answerSiteRenewals(authority, mainTrust), trust: mainTrust })

  return {
    dir, clock, now, federation,
    siteToken: async (site = '') => await listener.token(await invitations.invite({ kind: 'site', site, roles: [], ttlMs: DAY })),
    host: async (name, roles, slice, site = 'tokyo') => {
      const stateDir = join(dir, name)
      await mkdir(stateDir, { recursive: true })
      const configPath = join(dir, `${name}.yaml`)
      await writeFile(configPath, stringify({ name, site, roles, stateDir, runDir: join(stateDir, 'run'), listen: ['/ip4/127.41.0.2/tcp/0'], underlayAddress: '127.41.0.2', ...(slice === undefined ? {} : { segmentIds: slice }) }))
      return { configPath, stateDir }
    },
    identity: async configPath => await loadIdentity(await loadAgentConfig(configPath)),
    agent: async (configPath, hosts = () => []) => {
      const config = await loadAgentConfig(configPath)
      const identity = await loadIdentity(config)
      const peerId = peerIdOf(identity.key)
      const trust = createTrust({ peerId, federation, chain: identity.credentials.chain, now })
      const mesh: Pick<Mesh, 'peerId' | 'addresses' | 'connected' | 'knownPeers' | 'roleOf' | 'call' | 'serve'> = {
        peerId, addresses: () => [`/ip4/127.41.0.2/tcp/4100/p2p/${peerId}`], connected: () => [...renewers.keys()], knownPeers: () => [], roleOf: peer => trust.roleOf(peer),
        serve: (_method, handler) => { renewers.set(peerId, { answer: handler as unknown as Renew, trust }) },
        call: (async (peer: string, _method: 'renew', request: Methods['renew']['request']) => {
          const far = renewers.get(peer)
          if (far === undefined) throw new Error(`nobody serves at ${peer}`)
          far.trust.admit(peerId, trust.own().chain)
          return await far.answer(request, { peerId })
        }) as Mesh['call']
      }
      trust.admit(peerIdOf(nodeKey), chain)
      const store = createMemoryStore()
      const issuer = await createSiteIssuer({ config, stateDir: config.stateDir, key: identity.key, store, trustStore: await openTrustStore(store, now), trust, mesh, hostNames: hosts, log: silent, now })
      await issuer.start()
      t.teardown(() => issuer.stop())
      return { issuer, trust, identity }
    }
  }
}

const SLICE = { from: 1000, to: 1999 }
const modeOf = async (path: string): Promise<string> => ((await stat(path)).mode & 0o777).toString(8)

t.test('the first gateway: a site key, three certificates, and nothing more when it is run again', async t => {
  const { host, siteToken, identity, federation, clock, now } = await bench(t)
  const { configPath, stateDir } = await host('gw1', ['gateway', 'compute'], SLICE)
  const files = trustFiles(stateDir)
  await t.rejects(initSite(configPath, { token: null, offlineKey: null }, now), { code: 'INVALID_INPUT', hint: /coordinator invite/ })
  const token = await siteToken()
  const first = await initSite(configPath, { token, offlineKey: null }, now)
  t.match(first, { site: 'tokyo', host: 'gw1', federation, changed: true, siteKeyHere: true, next: /systemctl start musubi-agent/ })
  for (const path of Object.values(files)) t.equal(await modeOf(path), '600', path)
  t.match((await identity(configPath)).member, { role: { site: 'tokyo', host: 'gw1', roles: ['gateway', 'compute'] }, segmentIds: SLICE, siteKey: /12D3/ })
  t.equal((await identity(configPath)).credentials.peers.length, 1, 'the coordinator is known')

  const before = await Promise.all(Object.values(files).map(path => readFile(path, 'hex')))
  t.match(await initSite(configPath, { token, offlineKey: null }, now), { changed: false, notAfterMs: first.notAfterMs }, 'with the same token')
  t.match(await initSite(configPath, { token: null, offlineKey: null }, now), { changed: false }, 'and with none')
  t.same(await Promise.all(Object.values(files).map(path => readFile(path, 'hex'))), before)

  const percent = async (): Promise<number> => (await identity(configPath)).member.quotaPercent
  t.equal(await percent(), 100, 'the only gateway has all of the quotas')
  t.match(await initSite(configPath, { token: null, offlineKey: null, quotaPercent: 60 }, now), { changed: true })
  t.equal(await percent(), 60)
  t.match((await identity(configPath)).member, { role: { roles: ['gateway', 'compute'] }, segmentIds: SLICE }, 'and the rest stays')
  await t.rejects(initSite(configPath, { token: null, offlineKey: null, quotaPercent: 61 }, now), { code: 'INVALID_INPUT', message: /has 60 % of the quotas of its site, 61 % is more/ }, 'another gateway may have it by now')
  t.match(await initSite(configPath, { token: null, offlineKey: null, quotaPercent: 60 }, now), { changed: false })

  clock.ms += 65 * DAY
  const ended = (await identity(configPath)).member
  t.throws(() => { checkDates(ended, clock.ms) }, { code: 'CERTIFICATE_EXPIRED' }, 'the agent starts, as a member that others do not admit')
  t.match(await initSite(configPath, { token: await siteToken(), offlineKey: null }, now), { changed: true, siteNotAfterMs: clock.ms + 90 * DAY }, 'a new token renews the site')
  t.equal((await identity(configPath)).member.peerId, first.peerId, 'under the same key')
  clock.ms += 100 * DAY
  await t.rejects(initSite(configPath, { token: null, offlineKey: null }, now), { code: 'CERTIFICATE_EXPIRED', hint: /musubi site init --join TOKEN/ })
})

t.test('what does not fit is said before a token is used', async t => {
  const { host, siteToken, now, dir } = await bench(t)
  const token = await siteToken('tokyo')
  const worker = await host('worker', ['compute'])
  await t.rejects(initSite(worker.configPath, { token, offlineKey: null }, now), { code: 'INVALID_INPUT', message: /the first host of a site is a gateway/ })
  const elsewhere = await host('elsewhere', ['gateway'], SLICE, 'osaka')
  await t.rejects(initSite(elsewhere.configPath, { token, offlineKey: null }, now), { code: 'INVALID_INPUT', message: /for site tokyo.*says site osaka/ })
  await t.rejects(joinAgent(worker.configPath, token, now), { code: 'INVALID_INPUT', message: /admits a site, not a host/, hint: /site init --join/ })
  await t.rejects(joinAgent(worker.configPath, 'musubi-nonsense', now), { code: 'INVALID_INPUT' })
  await t.rejects(initSite(join(dir, 'nothing.yaml'), { token, offlineKey: null }, now), { code: 'INVALID_INPUT', message: /cannot read/ })
  const { configPath } = await host('gw1', ['gateway'], SLICE)
  t.match(await initSite(configPath, { token, offlineKey: null }, now), { changed: true }, 'the token is still good')
})

t.test('hosts join by a token: once, the same again, and after their certificate has ended', async t => {
  const { host, siteToken, identity, agent, clock, now } = await bench(t)
  const gw = await host('gw1', ['gateway'], SLICE)
  await initSite(gw.configPath, { token: await siteToken(), offlineKey: null }, now)
  const { issuer } = await agent(gw.configPath)
  t.ok(issuer.canIssue && issuer.hasSiteKey)
  const { token, invitation } = await issuer.invite({ note: 'rack 4' })
  t.match(invitation, { kind: 'host', site: 'tokyo', roles: ['compute', 'storage'], state: 'open', note: 'rack 4', used: null })
  t.notMatch(JSON.stringify(issuer.invitations()), /secret|chain/, 'lists tell no secret')

  const wrong = await host('wrong', ['compute'], undefined, 'osaka')
  await t.rejects(joinAgent(wrong.configPath, token, now), { code: 'INVALID_INPUT', message: /of site tokyo.*says site osaka/ })
  const one = await host('host1', ['compute'])
  await t.rejects(identity(one.configPath), { code: 'NOT_JOINED', message: /host1 is no member of site tokyo/, hint: /musubi agent join TOKEN/ })
  const joined = await joinAgent(one.configPath, token, now)
  t.match(joined, { site: 'tokyo', host: 'host1', roles: ['compute'], changed: true })
  t.equal(await modeOf(trustFiles(one.stateDir).credentials), '600')
  t.match((await identity(one.configPath)).member.role, { kind: 'host', host: 'host1', roles: ['compute'] })
  t.match(issuer.invitations(), [{ state: 'used', used: { name: 'host1', subject: joined.peerId } }])
  t.match(await joinAgent(one.configPath, token, now), { changed: false, notAfterMs: joined.notAfterMs }, 'the same certificate again')

  const two = await host('host2', ['compute'])
  await t.rejects(joinAgent(two.configPath, token, now), { code: 'TOKEN_USED' })
  const storage = await issuer.invite({ roles: ['storage'] })
  await t.rejects(joinAgent(two.configPath, storage.token, now), { code: 'ROLE_NOT_INVITED', message: /host2 asks for the role compute/ })
  await issuer.withdraw(storage.invitation.id)

  clock.ms += 31 * DAY
  const late = (await identity(one.configPath)).member
  t.throws(() => { checkDates(late, clock.ms) }, { code: 'CERTIFICATE_EXPIRED', hint: /musubi agent join TOKEN/ })
  await t.rejects(joinAgent(one.configPath, token, now), { code: 'TOKEN_EXPIRED' }, 'the old token is over')
  const again = await joinAgent(one.configPath, (await issuer.invite({})).token, now)
  t.match(again, { changed: true, peerId: joined.peerId }, 'the same key, whose ledger goes on')
  await identity(one.configPath)
})

t.test('configuration and certificate must mean the same host', async t => {
  const { host, siteToken, identity, now } = await bench(t)
  const { configPath, stateDir } = await host('gw1', ['gateway', 'compute'], SLICE)
  await initSite(configPath, { token: await siteToken(), offlineKey: null }, now)
  const change = async (roles: HostRoleName[], slice = SLICE, name = 'gw1', site = 'tokyo'): Promise<string> => {
    const path = join(stateDir, 'changed.yaml')
    await writeFile(path, stringify({ name, site, roles, stateDir, listen: ['/ip4/127.41.0.2/tcp/0'], underlayAddress: '127.41.0.2', segmentIds: slice }))
    return path
  }
  await t.rejects(identity(await change(['gateway'], SLICE, 'gw2')), { code: 'WRONG_IDENTITY', message: /for tokyo\/gw1, the configuration says tokyo\/gw2/ })
  await t.rejects(identity(await change(['gateway'], SLICE, 'gw1', 'osaka')), { code: 'WRONG_IDENTITY', message: /osaka\/gw1/ })
  await t.rejects(identity(await change(['gateway', 'storage'])), { code: 'WRONG_IDENTITY', message: /storage is missing/ })
  await t.rejects(identity(await change(['compute'])), { code: 'WRONG_IDENTITY', message: /makes it a gateway/ })
  await t.rejects(identity(await change(['gateway'], { from: 1500, to: 2500 })), { code: 'WRONG_IDENTITY', message: /1500\.\.2500, its certificate 1000\.\.1999/ })
  t.match((await identity(await change(['gateway'], { from: 1100, to: 1200 }))).member, { role: { host: 'gw1' } }, 'less than the certificate gives is right')
  await writeFile(trustFiles(stateDir).credentials, '{}')
  await t.rejects(identity(configPath), { code: 'BAD_CREDENTIALS' })
  await rm(trustFiles(stateDir).credentials)
  t.match(await initSite(configPath, { token: null, offlineKey: null }, now), { changed: true }, 'the site key makes them again')
  await rm(trustFiles(stateDir).key)
  await t.rejects(identity(configPath), { code: 'WRONG_IDENTITY', message: /is for the key/ })
})

t.test('the site key moves offline: the issuer certificate admits hosts, and no gateways', async t => {
  const { host, siteToken, agent, identity, dir, clock, now } = await bench(t)
  const { configPath, stateDir } = await host('gw1', ['gateway'], SLICE)
  await initSite(configPath, { token: await siteToken(), offlineKey: null }, now)
  const file = join(dir, 'stick', 'site.key')
  const key = async (options: Partial<Parameters<typeof siteKeyCommand>[1]>): ReturnType<typeof siteKeyCommand> => await siteKeyCommand(configPath, { exportTo: null, importFrom: null, remove: false, ...options })
  await t.rejects(key({ remove: true }), { code: 'INVALID_INPUT', message: /needs --export/ })
  t.match(await key({}), { here: true })
  t.match(await key({ exportTo: file, remove: true }), { here: false, notes: [/copied/, /admits and renews hosts that are no gateways/, /site init --offline-key/, /restart/] })
  t.equal(await modeOf(file), '600')
  await t.rejects(stat(trustFiles(stateDir).siteKey), { code: 'ENOENT' })
  await t.rejects(key({ exportTo: join(dir, 'other') }), { code: 'SITE_KEY_NEEDED' })
  await t.rejects(initSite(configPath, { token: null, offlineKey: null }, now), { code: 'SITE_KEY_NEEDED', hint: /--offline-key/ })

  const { issuer } = await agent(configPath)
  t.ok(issuer.canIssue && !issuer.hasSiteKey)
  await t.rejects(issuer.invite({ roles: ['gateway'] }), { code: 'ROLE_NEEDS_SITE_KEY', hint: /site key --import/ })
  const one = await host('host1', ['compute'])
  await joinAgent(one.configPath, (await issuer.invite({})).token, now)
  const member = (await identity(one.configPath)).member
  t.same(member.certificates.map(c => c.kind), ['host', 'issuer', 'site'], 'signed by the issuer key')

  clock.ms += 25 * DAY
  t.match(await initSite(configPath, { token: null, offlineKey: file }, now), { changed: true, siteKeyHere: false, notAfterMs: clock.ms + 30 * DAY })
  await t.rejects(stat(trustFiles(stateDir).siteKey), { code: 'ENOENT' }, 'it is used from there, not brought back')
  const strange = join(dir, 'strange.key')
  await siteKeyCommand((await foreign()).configPath, { exportTo: strange, importFrom: null, remove: false })
  await t.rejects(key({ importFrom: strange }), { code: 'WRONG_IDENTITY' })
  t.match(await key({ importFrom: file }), { here: true })

  async function foreign (): Promise<{ configPath: string }> {
    const other = await host('gw9', ['gateway'], SLICE, 'osaka')
    await initSite(other.configPath, { token: await siteToken(), offlineKey: null }, now)
    return other
  }
})

t.test('a second gateway gets an issuer certificate from the one with the key, and both revoke what they may', async t => {
  const { host, siteToken, agent, now } = await bench(t)
  const one = await host('gw1', ['gateway'], SLICE)
  await initSite(one.configPath, { token: await siteToken(), offlineKey: null }, now)
  const hosts: SiteHost[] = []
  const first = await agent(one.configPath, () => hosts)
  hosts.push({ name: 'gw1', peerId: first.trust.peerId, roles: ['gateway'], alive: true })
  const two = await host('gw2', ['gateway'], { from: 2000, to: 2999 })
  await joinAgent(two.configPath, (await first.issuer.invite({ roles: ['gateway'] })).token, now)
  const second = await agent(two.configPath, () => hosts)
  hosts.push({ name: 'gw2', peerId: second.trust.peerId, roles: ['gateway'], alive: true })
  for (let i = 0; i < 200 && !second.issuer.canIssue; i++) await new Promise(resolve => setTimeout(resolve, 10))
  t.ok(second.issuer.canIssue && !second.issuer.hasSiteKey)
  const worker = await host('host1', ['compute'])
  const joined = await joinAgent(worker.configPath, (await second.issuer.invite({})).token, now)

  const twin = await host('gw3', ['gateway'], { from: 1500, to: 1600 })
  await t.rejects(joinAgent(twin.configPath, (await first.issuer.invite({ roles: ['gateway'] })).token, now), { code: 'SLICE_OVERLAPS', message: /gateway gw1 has 1000-1999/ })

  await t.rejects(second.issuer.revoke('gw2', ''), { code: 'CONFLICT', message: /is this host/ })
  await t.rejects(second.issuer.revoke('gw1', ''), { code: 'SITE_KEY_NEEDED', hint: /gateway that has the key/ })
  await t.rejects(second.issuer.revoke('nobody', ''), { code: 'NOT_FOUND', hint: /gw1, gw2, host1/ })
  t.match(await second.issuer.revoke('host1', 'sold'), { site: 'tokyo', host: 'host1', peerId: joined.peerId, reason: 'sold' })
  const member = { peerId: joined.peerId, chain: (await loadIdentity(await loadAgentConfig(worker.configPath))).credentials.chain }
  t.throws(() => second.trust.admit(member.peerId, member.chain), { code: 'CERTIFICATE_REVOKED', message: /sold/ })
  for (const { signed } of second.trust.revocations.all()) t.ok(first.trust.takeRevocation(signed), 'another gateway takes it')
  t.match(await first.issuer.revoke('gw2', 'moved'), { host: 'gw2' })
  t.equal(first.trust.roleOf(second.trust.peerId), null)
})

t.test('certificates are renewed: of a host by its gateway, of the site by the coordinator, and what stands on it follows', async t => {
  const { host, siteToken, agent, identity, clock, now } = await bench(t)
  const gw = await host('gw1', ['gateway'], SLICE)
  await initSite(gw.configPath, { token: await siteToken(), offlineKey: null }, now)
  const hosts: SiteHost[] = []
  const gateway = await agent(gw.configPath, () => hosts)
  hosts.push({ name: 'gw1', peerId: gateway.trust.peerId, roles: ['gateway'], alive: true })
  const worker = await host('host1', ['compute'])
  await joinAgent(worker.configPath, (await gateway.issuer.invite({})).token, now)
  const lender = await agent(worker.configPath, () => hosts)
  t.notOk(lender.issuer.canIssue)
  await t.rejects(lender.issuer.invite({}), { code: 'CANNOT_ISSUE' })
  t.same(lender.issuer.invitations(), [])

  const before = lender.trust.own()
  clock.ms += 10 * DAY
  await lender.issuer.renewOwn()
  t.equal(lender.trust.own().notAfterMs, clock.ms + 30 * DAY)
  t.equal(lender.trust.own().joinedMs, before.joinedMs, 'it is the same admission')
  t.equal((await identity(worker.configPath)).member.notAfterMs, clock.ms + 30 * DAY, 'on the disk, too')
  await gateway.issuer.renewOwn()
  t.equal((await identity(gw.configPath)).member.notAfterMs, clock.ms + 30 * DAY)
  t.same(gateway.issuer.problems(), [])
})

t.test('the certificate of the site is renewed by a coordinator when it is due, below everything that stands on it', async t => {
  const { host, siteToken, agent, identity, clock, now } = await bench(t)
  const gw = await host('gw1', ['gateway'], SLICE)
  const first = await initSite(gw.configPath, { token: await siteToken(), offlineKey: null }, now)
  for (let day = 0; day < 66; day += 22) {
    clock.ms += 22 * DAY
    await initSite(gw.configPath, { token: null, offlineKey: null }, now)
  }
  const { issuer, trust } = await agent(gw.configPath)
  const siteEnds = (): number => trust.own().certificates.at(-1)?.notAfterMs ?? 0
  t.equal(first.siteNotAfterMs, clock.ms + 24 * DAY, 'it is due')
  await eventually('it is renewed', () => siteEnds() === clock.ms + 90 * DAY)
  t.equal((await identity(gw.configPath)).member.certificates.at(-1)?.notAfterMs, clock.ms + 90 * DAY, 'in the credentials')
  // One that is under way may still stand on the old one.
  await eventually('certificates that are made now stand on the new one', async () => {
    await issuer.renewOwn()
    return trust.own().notAfterMs === clock.ms + 30 * DAY
  })
  t.match(await initSite(gw.configPath, { token: null, offlineKey: null }, now), { siteNotAfterMs: clock.ms + 90 * DAY })
})

t.test('a port that another program has keeps nobody from lending: the status says so, and so does who invites', async t => {
  const { host, siteToken, agent, now } = await bench(t)
  const gw = await host('gw1', ['gateway'], SLICE)
  await initSite(gw.configPath, { token: await siteToken(), offlineKey: null }, now)
  const holder = createServer().listen(0, '127.41.0.2')
  await once(holder, 'listening')
  t.teardown(() => { holder.close() })
  const { port } = holder.address() as { port: number }
  const text = await readFile(gw.configPath, 'utf8')
  await writeFile(gw.configPath, `${text}joinListen: [/ip4/127.41.0.2/tcp/${port}]\n`)
  const { issuer } = await agent(gw.configPath)
  await t.rejects(issuer.invite({}), { code: 'CANNOT_LISTEN', message: new RegExp(`127.41.0.2/tcp/${port}`), hint: /joinListen/ })
  t.match(issuer.invitations(), [{ state: 'withdrawn' }], 'a token that nobody was given is of no use to anybody')
})
