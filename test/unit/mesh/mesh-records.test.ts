import t from 'tap'
import fc from 'fast-check'
import type { wire } from '../../../protocol/wire/codec.ts'
import { DEAD_SHOWN_MS, FLOOR_KEEP_MS } from '../../../protocol/mesh/constants.ts'
import type { Role } from '../../../protocol/mesh/roles.ts'
import { createKey, peerIdOf } from '../../../protocol/mesh/identity.ts'
import { bucketOf, isNewer, RecordView } from '../../../protocol/mesh/records/view.ts'
import { checkRecord, decodeBody, isAuthentic, signRecord, speaksForItself, type Bodies, type Statement } from '../../../protocol/mesh/records/signed.ts'

const ALL = { bucket: 0, buckets: 1 }

/** A record of which the signature does not matter: views take only what was checked. */
function record (peer: string, epoch: number, seq: number, ttlMs = 1000, ageMs = 0): wire.Record {
  return { peer, kind: 'host', epoch, seq, ttlMs, body: new Uint8Array([epoch, seq]), signature: new Uint8Array(), ageMs, madeMs: 0, leaving: false, chain: [] }
}
const ids = (view: RecordView<string>): string[] => [...view.entries()].map(({ record: { peer, epoch, seq } }) => `${peer} ${epoch}.${seq}`).sort()
function viewOf (records: readonly wire.Record[], nowMs = 0): RecordView<string> {
  const view = new RecordView<string>(100)
  for (const entry of records) view.merge(entry, 'body', nowMs)
  return view
}

const someRecord = fc.tuple(fc.constantFrom('a', 'b', 'c', 'd'), fc.integer({ min: 0, max: 3 }), fc.integer({ min: 0, max: 5 })).map(([peer, epoch, seq]) => record(peer, epoch, seq))
const withOrder = fc.array(someRecord, { maxLength: 30 }).chain(records => fc.tuple(fc.constant(records), fc.shuffledSubarray(records, { minLength: records.length })))

t.test('the order in which records arrive does not matter, nor how often they do', t => {
  fc.assert(fc.property(withOrder, ([records, shuffled]) => {
    t.strictSame(ids(viewOf([...shuffled, ...records])), ids(viewOf(records)))
  }), { numRuns: 300 })
  t.end()
})

t.test('a view holds the newest of each peer, and nothing that nobody said', t => {
  fc.assert(fc.property(fc.array(someRecord, { maxLength: 30 }), records => {
    const view = viewOf(records)
    for (const { record: held } of view.entries()) t.ok(records.includes(held))
    for (const said of records) {
      const held = view.get(said.peer)?.record
      t.ok(held !== undefined && !isNewer(said, held))
    }
  }), { numRuns: 200 })
  t.end()
})

t.test('two views that exchange what they compare end up equal', t => {
  fc.assert(fc.property(fc.array(someRecord, { maxLength: 20 }), fc.array(someRecord, { maxLength: 20 }), fc.integer({ min: 1, max: 4 }), (left, right, buckets) => {
    const a = viewOf(left)
    const b = viewOf(right)
    for (let bucket = 0; bucket < buckets; bucket++) {
      const part = { bucket, buckets }
      const { give, want } = b.compare(new Map(a.digest(part).map(id => [id.peer, id])), part)
      for (const { record } of give) a.merge(record, 'body', 0)
      for (const { peer } of want) {
        const entry = a.get(peer)
        if (entry !== undefined) b.merge(entry.record, 'body', 0)
      }
    }
    t.strictSame(ids(a), ids(b))
    t.strictSame(ids(a), ids(viewOf([...left, ...right])))
  }), { numRuns: 200 })
  t.end()
})

t.test('a higher epoch beats any seq of an earlier life', t => {
  const view = viewOf([record('a', 1, 900), record('a', 2, 1), record('a', 1, 901)])
  t.strictSame(ids(view), ['a 2.1'])
  t.equal(view.merge(record('a', 2, 1), 'again', 0), 'stale')
  t.end()
})

t.test('a record expires by its age, wherever it was on the way', t => {
  const view = new RecordView<string>(10)
  view.merge(record('direct', 1, 1, 1000), 'x', 5000)
  view.merge(record('passed on', 1, 1, 1000, 700), 'x', 5000)
  t.equal(view.merge(record('too old', 1, 1, 1000, 1000), 'x', 5000), 'expired')
  t.strictSame(view.expire(5299).expired, [])
  t.strictSame(view.expire(5300).expired, ['passed on'])
  t.strictSame(view.expire(6000).expired, ['direct'])
  t.equal(view.size, 0)
  t.strictSame(view.digest(ALL), [], 'what is over is not spread')
  t.strictSame([...view.past()].map(({ record }) => record.peer), ['passed on', 'direct'], 'but shown')
  t.strictSame(view.expire(5300 + DEAD_SHOWN_MS).forgotten, ['passed on'], 'for a while')
  t.end()
})

t.test('what has expired does not come back, but its author may', t => {
  const view = viewOf([record('a', 3, 7)])
  view.expire(1000)
  t.equal(view.merge(record('a', 3, 7), 'x', 1100), 'stale', 'the same record from a peer that kept it')
  t.equal(view.merge(record('a', 3, 6), 'x', 1100), 'stale')
  t.strictSame(view.compare(new Map([['a', { peer: 'a', kind: 'host', epoch: 3, seq: 7 }]]), ALL).want, [], 'it is not asked for either')
  t.equal(view.merge(record('a', 3, 8), 'x', 1100), 'taken')
  t.strictSame([...view.past()], [], 'it is not of the past any more')
  t.end()
})

t.test('who lost its epoch is heard again once nobody can replay what it said', t => {
  const view = viewOf([record('a', 3, 7)])
  view.expire(1000)
  view.expire(999 + FLOOR_KEEP_MS)
  t.equal(view.merge(record('a', 1, 1), 'x', 0), 'stale')
  view.expire(1000 + FLOOR_KEEP_MS)
  t.equal(view.merge(record('a', 1, 1), 'x', 0), 'taken')
  t.end()
})

t.test('a goodbye is kept and spread until it expires, and leaves nothing to show', t => {
  const view = viewOf([record('a', 1, 1), { ...record('a', 1, 2), leaving: true }])
  t.strictSame(view.digest(ALL).map(({ seq }) => seq), [2])
  t.equal(view.merge(record('a', 1, 1), 'x', 10), 'stale')
  t.strictSame(view.expire(1000), { expired: [], forgotten: ['a'] })
  t.strictSame([...view.past()], [])
  t.equal(view.merge(record('a', 1, 1), 'x', 1100), 'stale', 'it does not come back')
  t.equal(view.merge(record('a', 2, 1), 'x', 1100), 'taken', 'but its next start does')
  t.end()
})

t.test('who was removed stays out with what it said', t => {
  const view = viewOf([record('a', 1, 1)])
  t.ok(view.remove('a', 0))
  t.notOk(view.remove('a', 0))
  t.equal(view.size, 0)
  t.equal(view.merge(record('a', 1, 1), 'x', 1), 'stale')
  t.end()
})

t.test('a full view takes news of those it knows only', t => {
  const view = new RecordView<string>(2)
  t.equal(view.merge(record('a', 1, 1), 'x', 0), 'taken')
  t.equal(view.merge(record('b', 1, 1), 'x', 0), 'taken')
  t.equal(view.merge(record('c', 1, 1), 'x', 0), 'full')
  t.equal(view.merge(record('a', 1, 2), 'x', 0), 'taken')
  view.expire(1000)
  t.equal(view.merge(record('c', 1, 1), 'x', 1000), 'taken', 'room again')
  t.end()
})

t.test('buckets part the peers evenly enough', t => {
  const counts = [0, 0, 0, 0]
  for (let n = 0; n < 4000; n++) {
    const bucket = bucketOf(`12D3KooW${n}`, 4)
    counts[bucket] = (counts[bucket] ?? 0) + 1
  }
  t.ok(counts.every(count => count > 800 && count < 1200), counts.join(' '))
  t.end()
})

const ad: Bodies['host'] = { site: 'tokyo', host: 'c1', roles: ['compute'], addresses: [], underlayAddress: '', total: { vcpus: 4, memoryMib: 1, diskMib: 1, volumes: 64, bandwidthMbit: 0 }, free: null, cordoned: false, accelerator: '', version: '', inventory: null, features: [] }
const statement = (part: Partial<Statement> = {}): Statement => ({ version: { epoch: 1, seq: 2 }, ttlMs: 1000, madeMs: 1_700_000_000_000, leaving: false, chain: [new Uint8Array([1, 2, 3])], ...part })

t.test('a record is authentic only as its peer signed it', async t => {
  const key = await createKey()
  const other = await createKey()
  const signed = signRecord(key, 'host', statement(), ad)
  checkRecord(signed)
  t.ok(isAuthentic(signed))
  t.ok(isAuthentic({ ...signed, ageMs: 500 }), 'the age is not part of what was signed')
  t.ok(isAuthentic({ ...signed, chain: [] }), 'nor the certificates: they prove themselves')
  t.strictSame(decodeBody('host', signed.body), { ...ad, nextStartMs: 0, total: { ...ad.total, nodes: 0 } })
  const forgeries: Record<string, Partial<wire.Record>> = {
    peer: { peer: peerIdOf(other) }, kind: { kind: 'site' }, epoch: { epoch: 2 }, seq: { seq: 3 }, ttlMs: { ttlMs: 2000 },
    body: { body: signed.body.with(3, 0x41) }, signature: { signature: signed.signature.with(0, (signed.signature[0] ?? 0) ^ 1) }, unsigned: { signature: new Uint8Array() },
    madeMs: { madeMs: signed.madeMs + 1 }, leaving: { leaving: true }
  }
  for (const [name, change] of Object.entries(forgeries)) t.notOk(isAuthentic({ ...signed, ...change }), `changed ${name}`)
  t.throws(() => { checkRecord({ ...signed, ttlMs: 0 }) }, { code: 'INVALID_INPUT' })
  t.throws(() => { checkRecord({ ...signed, ttlMs: 86_400_000 }) }, { code: 'INVALID_INPUT' }, 'no record lives for a day')
  t.throws(() => { checkRecord({ ...signed, chain: Array.from({ length: 4 }, () => new Uint8Array(9)) }) }, { code: 'INVALID_INPUT' }, 'a chain that is none')
  t.throws(() => { checkRecord({ ...signed, chain: [new Uint8Array(5000)] }) }, { code: 'INVALID_INPUT' })
  t.throws(() => signRecord(key, 'host', statement(), { ...ad, addresses: Array.from({ length: 400 }, () => 'x'.repeat(100)) }), { code: 'INVALID_INPUT', message: /at most/ })
})

t.test('members speak for themselves only', t => {
  const compute: Role = { kind: 'host', site: 'tokyo', host: 'c1', roles: ['compute'] }
  const gateway: Role = { kind: 'host', site: 'tokyo', host: 'g1', roles: ['gateway'] }
  const site: Bodies['site'] = { site: 'tokyo', gateway: 'g1', addresses: [], hosts: 1, total: null, free: null, freeByHost: [], volumeFreeMib: 0, version: '', features: [], roles: [], priceMilli: 0, maxTermMs: 0, relay: false, tunnel: [] }
  const policy: Bodies['policy'] = { site: 'tokyo', host: 'g1', version: 3, document: new Uint8Array(), setBy: '' }
  const main: Bodies['coordinator'] = { name: 'main', addresses: [], version: '' }
  t.ok(speaksForItself(compute, 'host', ad))
  t.ok(speaksForItself(gateway, 'site', site))
  t.notOk(speaksForItself(gateway, 'host', ad), 'of another host')
  t.notOk(speaksForItself(compute, 'host', { ...ad, site: 'kyoto' }), 'of another site')
  t.notOk(speaksForItself(compute, 'site', site), 'for a site without being its gateway')
  t.notOk(speaksForItself(gateway, 'site', { ...site, site: 'kyoto' }))
  t.notOk(speaksForItself(gateway, 'site', { ...site, gateway: 'g2' }), 'in the name of another gateway')
  t.notOk(speaksForItself({ kind: 'coordinator', name: 'main' }, 'site', site), 'a coordinator')
  t.ok(speaksForItself(gateway, 'policy', policy))
  t.notOk(speaksForItself(compute, 'policy', { ...policy, host: 'c1' }), 'policy is what gateways hold')
  t.notOk(speaksForItself(gateway, 'policy', { ...policy, site: 'kyoto' }))
  t.ok(speaksForItself({ kind: 'coordinator', name: 'main' }, 'coordinator', main))
  t.notOk(speaksForItself({ kind: 'coordinator', name: 'other' }, 'coordinator', main))
  t.notOk(speaksForItself(gateway, 'coordinator', { ...main, name: 'g1' }))
  t.end()
})
