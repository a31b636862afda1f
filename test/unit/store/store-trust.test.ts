import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t from 'tap'
import { MAX_PEERS_KEPT, MAX_REVOCATIONS_PER_SITE } from '../../../protocol/core/limits.ts'
import { createKey, peerIdOf } from '../../../protocol/mesh/identity.ts'
import type { KnownPeer } from '../../../protocol/mesh/trust/credentials.ts'
import { revoke } from '../../../protocol/mesh/trust/revocation.ts'
import { openLevelStore } from '../../../store/level.ts'
import { createMemoryStore } from '../../../store/memory.ts'
import type { Store } from '../../../store/store.ts'
import { openTrustStore } from '../../../store/trust.ts'
import { createKit } from '../../trust-kit.ts'

const PLAN = { coordinators: ['main'], sites: [{ name: 'tokyo', hosts: [{ name: 'gw', roles: ['gateway'] as const }] }, { name: 'osaka', hosts: [] }] }

async function* all (store: Store, prefix: string): AsyncGenerator<string> {
  for await (const { key } of store.iterate(prefix)) yield key
}
const keysOf = async (store: Store, prefix: string): Promise<string[]> => await Array.fromAsync(all(store, prefix))

t.test('revocations are synced, and there again on another open', async t => {
  const kit = await createKit(PLAN)
  const dir = await mkdtemp(join(tmpdir(), 'musubi-trust-'))
  t.teardown(() => rm(dir, { recursive: true }))
  const level = await openLevelStore(dir)
  const syncs: Array<boolean | undefined> = []
  const store: Store = { ...level, batch: (operations, options) => { syncs.push(options?.sync); return level.batch(operations, options) } }
  const grant = { federation: kit.federation, kind: 'site' as const, subject: peerIdOf(kit.siteKeys.get('tokyo')!), site: 'tokyo', name: '', reason: 'lost' }
  const earlier = revoke(kit.coordinatorKey, [], grant, Date.now() - 5_000)
  const later = revoke(kit.coordinatorKey, [], grant, Date.now() - 1_000)
  const trust = await openTrustStore(store)
  await trust.keepRevocation(earlier)
  t.same(syncs, [true])
  await trust.keepRevocation(later)
  t.same(await trust.revocations(), [later], 'the later one covers more, so it alone stays')
  await trust.keepRevocation(earlier)
  t.same(await trust.revocations(), [later], 'the earlier one does not come back')
  t.equal((await keysOf(store, 'trust/revocation/')).length, 1)
  await level.close()
  const again = await openLevelStore(dir)
  t.same(await (await openTrustStore(again)).revocations(), [later])
  await again.close()
})

t.test('what an earlier release kept under another id is one with what is heard of it now', async t => {
  const kit = await createKit(PLAN)
  const store = createMemoryStore()
  const signed = revoke(kit.coordinatorKey, [], { federation: kit.federation, kind: 'site', subject: peerIdOf(kit.siteKeys.get('tokyo')!), site: 'tokyo', name: '', reason: 'lost' }, Date.now() - 5_000)
  await (await openTrustStore(store)).keepRevocation(signed)
  const [key = ''] = await keysOf(store, 'trust/revocation/')
  await store.batch([{ type: 'put', key: `${key.slice(0, -1)}_`, value: await store.get(key) }, { type: 'delete', key }])
  const trust = await openTrustStore(store)
  t.same(await keysOf(store, 'trust/revocation/'), [key])
  await trust.keepRevocation(signed)
  t.same(await trust.revocations(), [signed])
  t.same(await (await openTrustStore(store)).revocations(), [signed], 'and still there at the next start')
})

t.test('what is no revocation is not kept', async t => {
  const kit = await createKit(PLAN)
  const stranger = await createKey()
  const store = createMemoryStore()
  const trust = await openTrustStore(store)
  const grant = { federation: kit.federation, kind: 'site' as const, subject: peerIdOf(kit.siteKeys.get('tokyo')!), site: 'tokyo', name: '', reason: '' }
  await t.rejects(trust.keepRevocation(revoke(stranger, [], grant, Date.now())), { code: 'INVALID_INPUT' })
  const signed = revoke(kit.coordinatorKey, [], grant, Date.now())
  const broken = Uint8Array.from(signed.envelope)
  broken[broken.length - 1]! ^= 1
  await t.rejects(trust.keepRevocation({ ...signed, envelope: broken }), { code: 'INVALID_INPUT' })
  t.same(await keysOf(store, 'trust/'), [])
})

t.test('one site cannot fill the disk', async t => {
  const kit = await createKit(PLAN)
  const store = createMemoryStore()
  const trust = await openTrustStore(store)
  const [siteKey, chain] = [kit.siteKeys.get('tokyo')!, kit.siteChains.get('tokyo')!]
  const subjects = (await Promise.all(Array.from({ length: MAX_REVOCATIONS_PER_SITE + 20 }, createKey))).map(peerIdOf)
  for (const [i, subject] of subjects.entries()) {
    await trust.keepRevocation(revoke(siteKey, chain, { federation: kit.federation, kind: 'host', subject, site: 'tokyo', name: `h${i}`, reason: '' }, Date.now() - 100_000 + i))
  }
  t.equal((await keysOf(store, 'trust/revocation/')).length, MAX_REVOCATIONS_PER_SITE)
  t.equal((await (await openTrustStore(store)).revocations()).length, MAX_REVOCATIONS_PER_SITE)
})

t.test('peers: a bounded list, written as little as it changes', async t => {
  const kit = await createKit(PLAN)
  const memory = createMemoryStore()
  const batches: number[] = []
  const store: Store = { ...memory, batch: (operations, options) => { batches.push(operations.length); return memory.batch(operations, options) } }
  const trust = await openTrustStore(store)
  const peer = (name: string, port: number): KnownPeer => ({ peerId: kit.member(name).peerId, addresses: [`/ip4/127.0.0.1/tcp/${port}`], chain: kit.member(name).chain })
  const list = [peer('tokyo/gw', 1), peer('main', 2)]
  await trust.keepPeers(list)
  await trust.keepPeers(list)
  t.same(batches, [2], 'the same list is not written twice')
  await trust.keepPeers([peer('tokyo/gw', 3), peer('main', 2)])
  t.same(batches, [2, 1])
  const again = await (await openTrustStore(store)).peers()
  t.strictSame(new Map(again.map(p => [p.peerId, p])), new Map([peer('tokyo/gw', 3), peer('main', 2)].map(p => [p.peerId, p])))
  await trust.keepPeers([peer('main', 2)])
  t.same((await (await openTrustStore(store)).peers()).map(p => p.peerId), [kit.member('main').peerId], 'who is not in the list is forgotten')

  const many = Array.from({ length: MAX_PEERS_KEPT + 10 }, (_, i): KnownPeer => ({ peerId: `peer${i}`, addresses: [], chain: [] }))
  await trust.keepPeers(many)
  t.equal((await trust.peers()).length, MAX_PEERS_KEPT)
})

t.test('calls during a write share the next one', async t => {
  const memory = createMemoryStore()
  const gate = Promise.withResolvers<undefined>()
  let batches = 0
  const store: Store = { ...memory, batch: async (operations, options) => { batches++; await gate.promise; await memory.batch(operations, options) } }
  const trust = await openTrustStore(store)
  const peers = (n: number): KnownPeer[] => [{ peerId: `peer${n}`, addresses: [], chain: [] }]
  const calls = [1, 2, 3, 4, 5].map(n => trust.keepPeers(peers(n)))
  gate.resolve(undefined)
  await Promise.all(calls)
  t.equal(batches, 2)
  t.same((await trust.peers()).map(p => p.peerId), ['peer5'], 'the latest list wins')
})

t.test('a failed write is told, and the next one makes it good', async t => {
  const memory = createMemoryStore()
  let fails = true
  const store: Store = { ...memory, batch: async (operations, options) => { if (fails) throw new Error('disk full'); await memory.batch(operations, options) } }
  const trust = await openTrustStore(store)
  const kit = await createKit(PLAN)
  const signed = revoke(kit.coordinatorKey, [], { federation: kit.federation, kind: 'site', subject: peerIdOf(kit.siteKeys.get('osaka')!), site: 'osaka', name: '', reason: '' }, Date.now())
  await t.rejects(trust.keepRevocation(signed), /disk full/)
  const list: KnownPeer[] = [{ peerId: 'a', addresses: [], chain: [] }]
  await t.rejects(trust.keepPeers(list), /disk full/)
  fails = false
  await trust.keepRevocation(signed)
  await trust.keepPeers(list)
  const again = await openTrustStore(memory)
  t.same(await again.revocations(), [signed])
  t.equal((await again.peers()).length, 1)
})
