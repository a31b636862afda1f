import { join } from 'node:path'
import t, { type Test } from 'tap'
import { stringify } from 'yaml'
import { admissionBy, describeRole, loadFederation, parseFederation, scopesOf, type FederationDocument } from '../../protocol/mesh/federation.ts'
import { createKey, peerIdOf } from '../../protocol/mesh/identity.ts'

const NAMES = ['main', 'spare', 'tokyo/g1', 'tokyo/g2', 'tokyo/c1', 'kyoto/g1', 'kyoto/s1'] as const
type Name = typeof NAMES[number]
const ids = Object.fromEntries(await Promise.all(NAMES.map(async name => [name, peerIdOf(await createKey())] as const))) as Record<Name, string>
const stranger = peerIdOf(await createKey())

type Host = FederationDocument['sites'][number]['hosts'][number]
const host = (name: Name, roles: Host['roles']): Host => ({ name: name.split('/')[1] ?? '', peerId: ids[name], roles, addresses: ['/ip4/192.0.2.1/tcp/4001'] })
const document = (): FederationDocument => ({
  name: 'demo',
  coordinators: [{ name: 'main', peerId: ids.main, addresses: ['/dns4/main.example.org/tcp/4001'] }, { name: 'spare', peerId: ids.spare, addresses: [] }],
  sites: [
    { name: 'tokyo', hosts: [host('tokyo/g1', ['gateway', 'compute']), host('tokyo/g2', ['gateway']), host('tokyo/c1', ['compute'])] },
    { name: 'kyoto', hosts: [host('kyoto/g1', ['gateway']), host('kyoto/s1', ['storage'])] }
  ]
})
const federation = parseFederation(stringify(document()))

t.test('who may connect to whom', t => {
  const table: Record<Name, Name[]> = {
    main: ['main', 'spare', 'tokyo/g1', 'tokyo/g2', 'tokyo/c1', 'kyoto/g1', 'kyoto/s1'],
    spare: ['main', 'spare', 'tokyo/g1', 'tokyo/g2', 'tokyo/c1', 'kyoto/g1', 'kyoto/s1'],
    'tokyo/g1': ['main', 'spare', 'tokyo/g1', 'tokyo/g2', 'tokyo/c1', 'kyoto/g1'],
    'tokyo/g2': ['main', 'spare', 'tokyo/g1', 'tokyo/g2', 'tokyo/c1', 'kyoto/g1'],
    'tokyo/c1': ['main', 'spare', 'tokyo/g1', 'tokyo/g2', 'tokyo/c1'],
    'kyoto/g1': ['main', 'spare', 'tokyo/g1', 'tokyo/g2', 'kyoto/g1', 'kyoto/s1'],
    'kyoto/s1': ['main', 'spare', 'kyoto/g1', 'kyoto/s1']
  }
  for (const own of NAMES) {
    const admission = admissionBy(federation, ids[own])
    t.strictSame(NAMES.filter(other => admission.admits(ids[other])), table[own], `${own} admits`)
    t.notOk(admission.admits(stranger), `${own} admits no stranger`)
    for (const other of NAMES) {
      t.equal(admission.admits(ids[other]), admissionBy(federation, ids[other]).admits(ids[own]), `${own} and ${other} agree`)
    }
  }
  t.notOk(admissionBy(federation, stranger).admits(ids.main), 'who is no member admits nobody')
  t.end()
})

t.test('members are found by PeerId', t => {
  t.strictSame(federation.roleOf(ids['tokyo/g1']), { kind: 'host', site: 'tokyo', host: 'g1', roles: ['gateway', 'compute'] })
  t.strictSame(federation.roleOf(ids.main), { kind: 'coordinator', name: 'main' })
  t.equal(federation.roleOf(stranger), null)
  t.strictSame(federation.members.map(({ peerId }) => peerId), NAMES.map(name => ids[name]))
  t.strictSame(NAMES.map(name => federation.roleOf(ids[name])).map(role => role === null ? '' : describeRole(role)), ['coordinator main', 'coordinator spare', ...NAMES.slice(2)])
  t.end()
})

t.test('scopes keep what a site says inside it', t => {
  const scopes = (name: Name): string[] => {
    const role = federation.roleOf(ids[name])
    return role === null ? [] : scopesOf(role)
  }
  t.strictSame(scopes('main'), ['directory'])
  t.strictSame(scopes('tokyo/g1'), ['site/tokyo', 'directory'])
  t.strictSame(scopes('kyoto/s1'), ['site/kyoto'])
  t.end()
})

const refused = (t: Test, change: (document: FederationDocument) => void, pattern: RegExp): void => {
  const changed = document()
  change(changed)
  t.throws(() => parseFederation(stringify(changed, { aliasDuplicateObjects: false }), 'fed.yaml'), { code: 'INVALID_INPUT', message: pattern })
}

t.test('a second use of a name or PeerId is refused, naming both places', t => {
  refused(t, ({ sites }) => { if (sites[1]?.hosts[0] !== undefined) sites[1].hosts[0].peerId = ids['tokyo/c1'] }, /host kyoto\/g1: PeerId '.*' is already used by fed\.yaml: host tokyo\/c1/)
  refused(t, ({ sites }) => { if (sites[0]?.hosts[0] !== undefined) sites[0].hosts[0].peerId = ids.main }, /host tokyo\/g1: PeerId '.*' is already used by fed\.yaml: coordinator main/)
  refused(t, ({ sites }) => { if (sites[1] !== undefined) sites[1].name = 'tokyo' }, /site name 'tokyo' is already used/)
  refused(t, ({ sites }) => { if (sites[0]?.hosts[1] !== undefined) sites[0].hosts[1].name = 'g1' }, /host tokyo\/g1: host name 'g1' is already used/)
  refused(t, ({ coordinators }) => { if (coordinators[1] !== undefined) coordinators[1].name = 'main' }, /coordinator name 'main' is already used/)
  t.end()
})

t.test('what does not fit is named', t => {
  refused(t, document => Object.assign(document, { extra: 1 }), /must NOT have additional properties: extra/)
  refused(t, document => { document.name = 'Not A Name' }, /\/name must match pattern/)
  refused(t, ({ sites }) => Object.assign(sites[0]?.hosts[0] ?? {}, { roles: ['router'] }), /\/sites\/0\/hosts\/0\/roles\/0/)
  refused(t, ({ sites }) => Object.assign(sites[0]?.hosts[0] ?? {}, { roles: [] }), /roles must NOT have fewer than 1/)
  refused(t, ({ sites }) => Object.assign(sites[0]?.hosts[0] ?? {}, { peerId: 'QmYwAPJzv5CZsnA625s3Xf2nemtYgPpHdWEz79ojWnPbdG' }), /is not the PeerId of an Ed25519 key/)
  for (const address of ['10.1.2.3:4001', '/ip4/10.1.2.3', '/ip4/10.1.2.3/udp/4001', `/ip4/10.1.2.3/tcp/4001/p2p/${stranger}`, '/ip4/10.1.2.300/tcp/1']) {
    refused(t, ({ coordinators }) => Object.assign(coordinators[0] ?? {}, { addresses: [address] }), /coordinator main: .* is not an address of the form/)
  }
  t.throws(() => parseFederation('a: [', 'fed.yaml'), { code: 'INVALID_INPUT', message: /fed\.yaml is not YAML/ })
  t.throws(() => parseFederation('', 'fed.yaml'), { code: 'INVALID_INPUT' })
  t.throws(() => parseFederation('a: &x [1]\nb: [*x, *x]', 'fed.yaml'), { code: 'INVALID_INPUT' }, 'no aliases: they could blow up')
  t.end()
})

t.test('the file is read with a bound, and a missing one says so', async t => {
  const folder = t.testdir({ 'fed.yaml': stringify(document()), 'large.yaml': '#'.repeat(2 ** 20 + 1) })
  t.equal((await loadFederation(join(folder, 'fed.yaml'))).name, 'demo')
  await t.rejects(loadFederation(join(folder, 'large.yaml')), { code: 'INVALID_INPUT', message: /at most/ })
  await t.rejects(loadFederation(join(folder, 'none.yaml')), { code: 'NO_FEDERATION', message: /none\.yaml/ })
  await t.rejects(loadFederation(folder), { code: 'NO_FEDERATION' }, 'a folder')
})
