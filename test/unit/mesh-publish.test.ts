import { setTimeout as sleep } from 'node:timers/promises'
import t from 'tap'
import { decode, encode, type Methods, type wire } from '../../protocol/wire/codec.ts'
import type { Role, Scope } from '../../protocol/mesh/federation.ts'
import type { Inspect } from '../../protocol/mesh/gossip.ts'
import { createKey, peerIdOf, type NodeKey } from '../../protocol/mesh/identity.ts'
import type { CallContext, Mesh } from '../../protocol/mesh/mesh.ts'
import { createRecords, type Bodies } from '../../protocol/mesh/records.ts'
import { signRecord } from '../../protocol/mesh/records/signed.ts'

const [ownKey, otherKey] = [await createKey(), await createKey()]
const own: Role = { kind: 'host', site: 'tokyo', host: 'c1', roles: ['compute'] }
const other: Role = { kind: 'host', site: 'tokyo', host: 'c2', roles: ['compute'] }
const roleOf = (peerId: string): Role | null => peerId === peerIdOf(ownKey) ? own : peerId === peerIdOf(otherKey) ? other : null
const context: CallContext = { peerId: peerIdOf(otherKey), role: other, signal: new AbortController().signal, deadlineMs: 1000 }
const ad = (host: string, version: string): Bodies['host'] => ({ site: 'tokyo', host, roles: [], addresses: [], underlayAddress: '', total: null, free: null, cordoned: false, accelerator: '', version })

type Sync = (request: Methods['sync']['request'], context: CallContext) => Promise<wire.SyncReply>

/** A mesh without a network: what is published is kept, what would arrive is handed in. */
function fakeMesh (): { mesh: Mesh, published: wire.Record[], hear: (record: wire.Record) => string, sync: Sync } {
  const published: wire.Record[] = []
  let inspect: Inspect = () => 'ignore'
  let sync: Sync | null = null
  const unused = (): never => { throw new Error('not part of this test') }
  const mesh: Mesh = {
    peerId: peerIdOf(ownKey), key: ownKey, role: own, scopes: ['site/tokyo'], roleOf, start: unused, close: unused, addresses: () => [], call: unused,
    learn: () => undefined, connected: () => [], describe: peerId => peerId, onConnect: () => () => undefined, onDisconnect: () => () => undefined,
    serve: (_method, handler) => { sync = handler as unknown as Sync },
    publish: (_scope: Scope, data) => {
      published.push(decode('Record', data))
      return Promise.resolve()
    },
    subscribe: (_scope, listener) => { inspect = listener }
  }
  return {
    mesh,
    published,
    hear: record => inspect(encode('Record', record), 'someone'),
    sync: async (request, ctx) => {
      if (sync === null) throw new Error('nothing serves sync')
      return await sync(request, ctx)
    }
  }
}

const signedBy = (key: NodeKey, host: string, seq: number, version = 'x'): wire.Record => signRecord(key, 'host', { epoch: 1, seq }, 30_000, ad(host, version))

t.test('many changes in a short time are said once; no change is not said at all', async t => {
  const { mesh, published } = fakeMesh()
  const records = createRecords({ mesh, epoch: 5 })
  t.teardown(() => { records.stop() })
  for (let n = 0; n < 50; n++) records.publish('host', ad('c1', `v${n}`))
  while (published.length === 0) await sleep(20)
  records.publish('host', ad('c1', 'v49'))
  await sleep(400)
  t.strictSame(published.map(({ epoch, seq }) => [epoch, seq]), [[5, 1]])
  t.strictSame(records.view('host').map(({ body, peer }) => [peer, body.version]), [[mesh.peerId, 'v49']], 'the last of them')
  records.publish('host', ad('c1', 'later'))
  while (published.length === 1) await sleep(20)
  t.equal(published[1]?.seq, 2)
})

t.test('only what one may say of oneself is published', t => {
  const { mesh } = fakeMesh()
  const records = createRecords({ mesh, epoch: 1 })
  t.teardown(() => { records.stop() })
  t.throws(() => { records.publish('host', ad('c2', 'x')) }, { code: 'NOT_IN_SCOPE' })
  t.throws(() => { records.publish('site', { site: 'tokyo', gateway: 'c1', addresses: [], hosts: 0, total: null, free: null, freeByHost: [], volumeFreeMib: 0, version: '' }) }, { code: 'NOT_IN_SCOPE' })
  t.end()
})

t.test('what is heard is judged before it is passed on, and told of when it is news', t => {
  const { mesh, hear } = fakeMesh()
  const records = createRecords({ mesh, epoch: 1 })
  t.teardown(() => { records.stop() })
  const news: string[] = []
  const end = records.onChange((kind, peer) => { news.push(`${kind} ${peer === peerIdOf(otherKey) ? 'c2' : peer}`) })
  const good = signedBy(otherKey, 'c2', 1)
  t.equal(hear(good), 'accept')
  t.equal(hear(good), 'ignore', 'a second time')
  t.equal(hear(signedBy(otherKey, 'c2', 2)), 'accept', 'a heartbeat')
  t.strictSame(news, ['host c2'], 'which is no news')
  t.equal(hear({ ...signedBy(otherKey, 'c2', 3), seq: 4 }), 'reject', 'a changed one')
  t.equal(hear(signedBy(otherKey, 'c7', 5)), 'reject', 'of another host')
  t.equal(hear({ ...good, kind: 'site' }), 'reject', 'of another scope')
  t.equal(hear({ ...good, kind: 'weather' }), 'reject', 'of a kind that there is not')
  t.equal(hear({ ...good, ttlMs: 0 }), 'reject')
  t.equal(hear(signedBy(otherKey, 'c2', 6, 'y')), 'accept')
  end()
  t.equal(hear(signedBy(otherKey, 'c2', 7, 'z')), 'accept')
  t.strictSame(news, ['host c2', 'host c2'], 'until one stops listening')
  t.strictSame(records.counts(), { taken: 4, stale: 1, expired: 0, full: 0, forged: 1, refused: 3, malformed: 1 })
  t.end()
})

t.test('a comparison gives what the other lacks, takes what it offers, and stops at a forgery', async t => {
  const { mesh, sync } = fakeMesh()
  const records = createRecords({ mesh, epoch: 1 })
  t.teardown(() => { records.stop() })
  const ask = async (part: Partial<wire.SyncRequest>): Promise<wire.SyncReply> => await sync({ scope: 'site/tokyo', have: [], offer: [], bucket: 0, buckets: 1, ...part }, context)
  const id = { peer: peerIdOf(otherKey), kind: 'host', epoch: 1, seq: 1 }
  t.strictSame((await ask({ have: [id] })).want, [id], 'it asks for what it lacks')
  await ask({ offer: [signedBy(otherKey, 'c2', 1)] })
  t.equal(records.view('host').length, 1)
  t.match(await ask({}), { records: [{ seq: 1 }], want: [] }, 'and gives it to who has nothing')
  t.strictSame(await ask({ have: [id] }), { records: [], want: [] }, 'but not to who has it')
  await t.rejects(ask({ offer: [{ ...signedBy(otherKey, 'c2', 2), seq: 9 }, signedBy(otherKey, 'c2', 3)] }), { code: 'INVALID_INPUT' })
  t.equal(records.view('host')[0]?.seq, 1, 'what came after the forgery is not looked at')
  await t.rejects(ask({ bucket: 3, buckets: 2 }), { code: 'INVALID_INPUT' })
  await t.rejects(ask({ scope: 'directory' }), { code: 'FORBIDDEN' })
  await t.rejects(sync({ scope: 'site/tokyo', have: [], offer: [], bucket: 0, buckets: 1 }, { ...context, role: { kind: 'coordinator', name: 'main' } }), { code: 'FORBIDDEN' })
})
