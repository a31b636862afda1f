/** What a coordinator keeps in its state folder: identity, audit, and the file that carries it to another disk. */
import { appendFile, chmod, mkdir, mkdtemp, readdir, readFile, rm, stat, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { openAudit } from '../../../coordinator/audit.ts'
import type { CoordinatorConfig } from '../../../coordinator/config.ts'
import { establish, identityFiles, openIdentity } from '../../../coordinator/identity.ts'
import { joinAddresses } from '../../../protocol/mesh/join/addresses.ts'
import { exportCoordinator, importCoordinator, storeFolder, type ExportOptions } from '../../../coordinator/transfer.ts'
import { createKey, peerIdOf } from '../../../protocol/mesh/identity.ts'
import { LIFETIME_MS, readMember } from '../../../protocol/mesh/trust/certificate.ts'
import { revoke } from '../../../protocol/mesh/trust/revocation.ts'
import { issuedStore } from '../../../store/invitations.ts'
import { openLevelStore } from '../../../store/level.ts'
import { openTrustStore } from '../../../store/trust.ts'

const NOW = Date.now()
const now = (): number => NOW

async function folder (t: Test): Promise<string> {
  const dir = await mkdtemp(join(tmpdir(), 'musubi-coordinator-'))
  t.teardown(() => rm(dir, { recursive: true, force: true }))
  return dir
}

const configOf = (dir: string, name?: string): CoordinatorConfig => ({
  ...(name === undefined ? {} : { name }), stateDir: join(dir, 'state'), runDir: join(dir, 'run'), listen: ['/ip4/127.0.0.1/tcp/4001'], relay: true, http: { host: '127.0.0.1', port: 0 }, logLevel: 'error'
})
const modeOf = async (path: string): Promise<string> => ((await stat(path)).mode & 0o777).toString(8)
const neverAsked = (): Promise<unknown> => { throw new Error('it does not run') }

t.test('an identity is made once', async t => {
  const config = configOf(await folder(t), 'main')
  await t.rejects(openIdentity(config, NOW), { code: 'NOT_A_MEMBER', hint: /coordinator init/ })
  const first = await establish(config, undefined, NOW)
  const second = await establish(config, 'main', NOW + 1000)
  t.ok(first.made)
  t.notOk(second.made)
  t.same([second.identity.federation, second.identity.peerId, second.identity.member.notAfterMs], [first.identity.federation, first.identity.peerId, first.identity.member.notAfterMs])
  t.not(first.identity.federation, first.identity.peerId, 'two keys')
  t.same(readMember(first.identity.credentials.chain, first.identity.federation).role, { kind: 'coordinator', name: 'main' })
  for (const file of Object.values<string>({ ...identityFiles(config.stateDir) })) t.equal(await modeOf(file), '600')
  await t.rejects(establish(config, 'other', NOW), { code: 'CONFLICT', message: /called main/ })
  await t.rejects(establish(configOf(await folder(t)), undefined, NOW), { code: 'INVALID_INPUT', hint: /--name/ })
})

t.test('the certificate renews itself, also long after its end', async t => {
  const config = configOf(await folder(t))
  const { identity } = await establish(config, 'main', NOW)
  const before = await openIdentity(config, NOW + LIFETIME_MS.coordinator / 2)
  t.notOk(before.renewed)
  const later = NOW + 5 * LIFETIME_MS.coordinator
  const after = await openIdentity(config, later)
  t.ok(after.renewed)
  t.equal(after.identity.member.notAfterMs, later + LIFETIME_MS.coordinator)
  t.equal(after.identity.member.joinedMs, identity.member.joinedMs, 'the first admission stays')
  t.notOk((await openIdentity(config, later)).renewed, 'it was written')
})

t.test('a lost coordinator key does not become another federation', async t => {
  const config = configOf(await folder(t), 'main')
  await establish(config, undefined, NOW)
  const { coordinatorKey, nodeKey } = identityFiles(config.stateDir)
  const saved = await readFile(coordinatorKey)
  await rm(coordinatorKey)
  await t.rejects(establish(config, undefined, NOW), { code: 'BAD_KEY', hint: /coordinator import/ })
  await t.rejects(openIdentity(config, NOW), { code: 'BAD_KEY' })
  await t.rejects(stat(coordinatorKey), { code: 'ENOENT' })
  await writeFile(coordinatorKey, saved, { mode: 0o644 })
  await t.rejects(establish(config, undefined, NOW), { code: 'KEY_NOT_PRIVATE' })
  await chmod(coordinatorKey, 0o600)
  await rm(nodeKey)
  await t.rejects(establish(config, undefined, NOW), { code: 'WRONG_IDENTITY' })
})

t.test('audit lines are whole, in order, and bounded', async t => {
  const dir = await folder(t)
  const audit = openAudit(dir, { now, maxBytes: 1_000 })
  await Promise.all(Array.from({ length: 100 }, (_, i) => audit.write('invite', { site: `s${i}`, note: 'line\nbreak' })))
  const files = (await readdir(dir)).sort()
  t.same(files, ['audit.log', 'audit.log.1', 'audit.log.2', 'audit.log.3', 'audit.log.4'])
  const lines: string[] = []
  for (const file of [...files].reverse()) {
    const text = await readFile(join(dir, file), 'utf8')
    t.ok(Buffer.byteLength(text) <= 1_000, `${file} is not larger than it may be`)
    t.equal(await modeOf(join(dir, file)), '600')
    lines.push(...text.trimEnd().split('\n'))
  }
  const sites = lines.map(line => (JSON.parse(line) as { act: string, time: string, site: string }))
  t.same(sites.map(({ site }) => site), Array.from({ length: lines.length }, (_, i) => `s${100 - lines.length + i}`), 'the latest, in order')
  t.match(sites[0], { act: 'invite', time: new Date(NOW).toISOString() })
  // after a crash in the middle of a line the next ones are whole again on their own
  await appendFile(join(dir, 'audit.log'), '{"time":"20')
  await openAudit(dir, { now }).write('revoke', { site: 'x' })
  t.match((await readFile(join(dir, 'audit.log'), 'utf8')).split('\n').slice(-3), ['{"time":"20', /^{.*"act":"revoke","site":"x"}$/, ''])
})

t.test('joins: one port above the mesh', t => {
  t.same(joinAddresses({ listen: ['/ip4/0.0.0.0/tcp/4001', '/ip6/::/tcp/0'] }), { listen: ['/ip4/0.0.0.0/tcp/4002', '/ip6/::/tcp/0'], announce: [] })
  t.same(joinAddresses({ listen: ['/ip4/0.0.0.0/tcp/4001'], announce: ['/dns4/musubi.example/tcp/14001'], joinListen: ['/ip4/0.0.0.0/tcp/5000'] }), { listen: ['/ip4/0.0.0.0/tcp/5000'], announce: ['/dns4/musubi.example/tcp/14002'] })
  t.throws(() => joinAddresses({ listen: ['/ip4/127.0.0.1/tcp/65535'] }), { code: 'INVALID_INPUT', hint: /joinListen/ })
  t.throws(() => joinAddresses({ listen: ['/ip4/127.0.0.1/udp/1/quic-v1'] }), { code: 'INVALID_INPUT' })
  t.end()
})

/** A coordinator with a site, a revocation and a known peer. */
async function furnished (t: Test): Promise<{ config: CoordinatorConfig, siteKey: string, goneKey: string, federation: string }> {
  const config = configOf(await folder(t), 'main')
  const { identity: { coordinatorKey, federation } } = await establish(config, undefined, NOW)
  const [siteKey, goneKey] = [peerIdOf(await createKey()), peerIdOf(await createKey())]
  const store = await openLevelStore(storeFolder(config))
  await issuedStore(store).put({ kind: 'site', subject: siteKey, name: 'tokyo', roles: [], segmentIds: null, joinedMs: NOW - 1000, issuedMs: NOW - 1000, notAfterMs: NOW + 1_000_000 })
  const trust = await openTrustStore(store)
  await trust.keepRevocation(revoke(coordinatorKey, [], { federation, kind: 'site', subject: goneKey, site: 'osaka', name: '', reason: 'gone' }, NOW))
  await trust.keepPeers([{ peerId: siteKey, addresses: ['/ip4/127.0.0.9/tcp/1'], chain: identityChain }])
  await store.close()
  return { config, siteKey, goneKey, federation }
}
const identityChain = [Uint8Array.of(1, 2, 3)]

const exportTo = (config: CoordinatorConfig, out: string, more: Partial<ExportOptions> = {}): ReturnType<typeof exportCoordinator> => exportCoordinator(config, { out, now, askRunning: neverAsked, ...more })

async function stateOf (config: CoordinatorConfig): Promise<{ sites: string[], revoked: number, peers: string[] }> {
  const store = await openLevelStore(storeFolder(config))
  try {
    const trust = await openTrustStore(store)
    return { sites: (await issuedStore(store).list()).map(({ name, subject }) => `${name} ${subject}`), revoked: (await trust.revocations()).length, peers: (await trust.peers()).map(({ peerId }) => peerId) }
  } finally {
    await store.close()
  }
}

t.test('export and import: the same coordinator on another disk', async t => {
  const { config, siteKey, federation } = await furnished(t)
  const out = join(await folder(t), 'export.json')
  t.match(await exportTo(config, out), { name: 'main', federation, encrypted: false, sites: 1, revocations: 1 })
  t.equal(await modeOf(out), '600')
  await t.rejects(exportTo(config, out), { code: 'CONFLICT', hint: /nothing is overwritten/ })
  t.match(await readFile(join(config.stateDir, 'audit.log'), 'utf8'), /"act":"export"/)

  const other = configOf(await folder(t))
  const { identity } = await establish(config, undefined, NOW)
  const options = { file: out, asNew: false, now }
  const expected = { federation, peerId: identity.peerId, name: 'main', sites: 1, revocations: 1, restored: true }
  t.same(await importCoordinator(other, options), expected)
  t.same(await importCoordinator(other, options), expected, 'the same again changes nothing')
  t.match(await stateOf(other), { sites: [`tokyo ${siteKey}`], revoked: 1 })
  t.ok((await stateOf(other)).peers.includes(siteKey))
  t.match((await openIdentity(other, NOW)).identity, { name: 'main', peerId: identity.peerId, federation })
  for (const file of Object.values<string>({ ...identityFiles(other.stateDir) })) t.equal(await modeOf(file), '600')

  await t.rejects(importCoordinator(configOf(await folder(t), 'elsewhere'), options), { code: 'CONFLICT', hint: /--new/ })
  await t.rejects(importCoordinator(other, { ...options, asNew: true, name: 'second' }), { code: 'CONFLICT', hint: /stateDir of its own/ })
})

t.test('import --new: another coordinator of the federation', async t => {
  const { config, federation, siteKey } = await furnished(t)
  const out = join(await folder(t), 'export.json')
  await exportTo(config, out)
  const { identity } = await establish(config, undefined, NOW)
  const other = configOf(await folder(t), 'second')
  const made = await importCoordinator(other, { file: out, asNew: true, now })
  t.match(made, { federation, name: 'second', restored: false })
  t.not(made.peerId, identity.peerId)
  t.same(await importCoordinator(other, { file: out, asNew: true, now }), made)
  t.same((await stateOf(other)).peers.sort(), [identity.peerId, siteKey].sort(), 'it knows the first one, and whom that knows')
  await t.rejects(importCoordinator(configOf(await folder(t), 'main'), { file: out, asNew: true, now }), { code: 'CONFLICT', message: /name of the coordinator/ })
  await t.rejects(importCoordinator(configOf(await folder(t)), { file: out, asNew: true, now }), { code: 'INVALID_INPUT', hint: /--name/ })
  await t.rejects(importCoordinator(other, { file: out, asNew: false, name: 'main', now }), { code: 'CONFLICT', hint: /--new/ })
})

t.test('import refuses another federation, a running coordinator, and what is no export', async t => {
  const { config } = await furnished(t)
  const dir = await folder(t)
  const out = join(dir, 'export.json')
  await exportTo(config, out)
  const other = await furnished(t)
  const key = await readFile(identityFiles(other.config.stateDir).coordinatorKey)
  await t.rejects(importCoordinator(other.config, { file: out, asNew: false, now }), { code: 'CONFLICT', message: new RegExp(`of the federation ${other.federation}`) })
  await t.rejects(importCoordinator({ ...other.config, name: 'second' }, { file: out, asNew: true, now }), { code: 'CONFLICT' })
  t.same(await readFile(identityFiles(other.config.stateDir).coordinatorKey), key)

  const store = await openLevelStore(storeFolder(config))
  await t.rejects(importCoordinator(config, { file: out, asNew: false, now }), { code: 'STORE_LOCKED', hint: /stop it/ })
  const running = await exportTo(config, join(dir, 'running.json'), { askRunning: () => Promise.resolve({ sites: [], revocations: [], peers: [] }) })
  t.match(running, { sites: 0, revocations: 0 }, 'export asks the one that runs')
  await t.rejects(exportTo(config, join(dir, 'odd.json'), { askRunning: () => Promise.resolve({ sites: [{ site: 'x' }] }) }), { code: 'INVALID_INPUT', message: /answer of the coordinator/ })
  await store.close()

  const empty = configOf(await folder(t))
  await mkdir(empty.stateDir)
  const good = JSON.parse(await readFile(out, 'utf8')) as { content: { nodeKey: string, coordinatorKey: string } }
  const bad: Array<[string, unknown, { code: string, message?: RegExp }]> = [
    ['no JSON', 'what', { code: 'INVALID_INPUT', message: /no JSON/ }],
    ['another file', {}, { code: 'INVALID_INPUT' }],
    ['a later version', { ...good, version: 2 }, { code: 'INVALID_INPUT', message: /version 2/ }],
    ['a field more', { ...good, more: 1 }, { code: 'INVALID_INPUT' }],
    ['no key', { ...good, content: { ...good.content, nodeKey: 'AAAA' } }, { code: 'INVALID_INPUT', message: /node key/ }],
    ['the key of another', { ...good, content: { ...good.content, coordinatorKey: good.content.nodeKey } }, { code: 'INVALID_INPUT', message: /not that of its federation/ }]
  ]
  for (const [what, content, error] of bad) {
    const file = join(dir, 'bad.json')
    await writeFile(file, typeof content === 'string' ? content : JSON.stringify(content))
    await t.rejects(importCoordinator(empty, { file, asNew: false, now }), error, what)
  }
  t.same(await readdir(empty.stateDir), [], 'nothing was made')
  await t.rejects(importCoordinator(empty, { file: join(dir, 'none'), asNew: false, now }), { code: 'INVALID_INPUT', message: /cannot read/ })
  await t.rejects(exportTo(empty, join(dir, 'x.json')), { code: 'NOT_A_MEMBER' })
})

t.test('an encrypted export opens with its passphrase alone', async t => {
  const { config, siteKey } = await furnished(t)
  const dir = await folder(t)
  const [out, right, wrong, short] = ['export.json', 'right', 'wrong', 'short'].map(name => join(dir, name)) as [string, string, string, string]
  await writeFile(right, 'correct horse battery\n')
  await writeFile(wrong, 'correct horse batterz\n')
  await writeFile(short, 'abc\n')
  await t.rejects(exportTo(config, out, { passphraseFile: short }), { code: 'INVALID_INPUT', message: /3 characters/ })
  t.match(await exportTo(config, out, { passphraseFile: right }), { encrypted: true })
  const text = await readFile(out, 'utf8')
  t.notMatch(text, siteKey)
  t.notMatch(text, (await readFile(identityFiles(config.stateDir).coordinatorKey)).toString('base64'))
  const other = configOf(await folder(t))
  await t.rejects(importCoordinator(other, { file: out, asNew: false, now }), { code: 'PASSPHRASE', hint: /--passphrase-file/ })
  await t.rejects(importCoordinator(other, { file: out, asNew: false, now, passphraseFile: wrong }), { code: 'PASSPHRASE' })
  const renamed = join(dir, 'renamed.json')
  await writeFile(renamed, text.replace('"main"', '"evil"'))
  await t.rejects(importCoordinator(other, { file: renamed, asNew: false, now, passphraseFile: right }), { code: 'PASSPHRASE' }, 'the clear part is covered, too')
  await t.rejects(stat(other.stateDir), { code: 'ENOENT' })
  t.match(await importCoordinator(other, { file: out, asNew: false, now, passphraseFile: right }), { name: 'main', sites: 1 })
})
