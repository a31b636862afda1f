/** What peers send to make us count wrong, run out of something, or shut out each other. */
import t from 'tap'
import { MAX_CONNECTIONS_PER_PEER, MAX_CONNECTIONS_PER_SITE, MAX_GATEWAYS_PER_SITE, MAX_MESSAGE_BYTES, MAX_OFFENCES_PER_MINUTE, MAX_RECORDS, MAX_RECORDS_PER_MINUTE, MAX_VERSION, SHUT_OUT_MS } from '../../../protocol/core/limits.ts'
import { SUSPICION_WINDOW } from '../../../protocol/mesh/constants.ts'
import { Gate, Refusals } from '../../../protocol/mesh/gate.ts'
import { createKey, peerIdOf } from '../../../protocol/mesh/identity.ts'
import { Intake, noCounts } from '../../../protocol/mesh/records/intake.ts'
import { OwnRecords } from '../../../protocol/mesh/records/own.ts'
import { signRecord, speaksForItself, type Bodies, type Kind } from '../../../protocol/mesh/records/signed.ts'
import { RecordView } from '../../../protocol/mesh/records/view.ts'
import { issue, readMember } from '../../../protocol/mesh/trust/certificate.ts'
import { createTrust } from '../../../protocol/mesh/trust/trust.ts'
import { decode, encode, type wire } from '../../../protocol/wire/codec.ts'
import { createKit } from '../../trust-kit.ts'

const NOW = Date.now()
const kit = await createKit({ sites: [{ name: 'tokyo', hosts: [{ name: 'g1', roles: ['gateway'] }, { name: 'c1', roles: ['compute'] }] }, { name: 'osaka', hosts: [{ name: 'g1', roles: ['gateway'] }] }] }, NOW)

t.test('codes that peers invent', t => {
  const refusals = new Refusals()
  for (const code of ['constructor', '__proto__', 'toString', 'x'.repeat(7000), 'CERTIFICATE_REVOKED']) refusals.count('them', code)
  for (let n = 0; n < 1000; n++) refusals.count('them', `CODE_${n}`)
  t.equal(refusals.count('them', 'CERTIFICATE_REVOKED'), 2, 'the known ones have their place')
  t.strictSame(refusals.get(), { us: {}, them: { OTHER: 1004, CERTIFICATE_REVOKED: 2 } })
  t.end()
})

t.test('nobody takes the connections of others, nor comes back at once after misbehaving', t => {
  const open: Array<{ remotePeer: { toString (): string } }> = []
  const members = new Map(kit.members.map(({ peerId, chain }) => [peerId, readMember(chain, kit.federation)]))
  const gate = new Gate({ site: 'tokyo', roleOf: peer => members.get(peer)?.role ?? null, connections: peer => open.filter(({ remotePeer }) => peer === undefined || String(remotePeer) === peer) as never })
  const [near, far] = ['tokyo/c1', 'osaka/g1'].map(name => members.get(kit.member(name).peerId))
  if (near === undefined || far === undefined) throw new Error('no member')
  for (let n = 0; n < MAX_CONNECTIONS_PER_PEER; n++) {
    gate.check(near, 0)
    open.push({ remotePeer: near.peerId })
  }
  t.throws(() => { gate.check(near, 0) }, { code: 'TOO_MANY_CONNECTIONS' }, 'one peer')
  for (let n = 0; n < MAX_CONNECTIONS_PER_SITE; n++) {
    const peerId = `gateway ${n}`
    const minted = { ...far, peerId }
    gate.check(minted, 0)
    members.set(peerId, minted)
    open.push({ remotePeer: peerId })
  }
  t.throws(() => { gate.check(far, 0) }, { code: 'TOO_MANY_CONNECTIONS' }, 'all gateways of one site')
  open.splice(0)
  for (let n = 0; n < MAX_OFFENCES_PER_MINUTE; n++) t.notOk(gate.offend(near.peerId, n))
  gate.check(near, 100)
  t.ok(gate.offend(near.peerId, 100))
  t.throws(() => { gate.check(near, 101) }, { code: 'SHUT_OUT' })
  gate.check(far, 101)
  gate.check(near, 100 + SHUT_OUT_MS)
  t.end()
})

t.test('two bytes that become an object are counted before they do', t => {
  const empties = (count: number): Uint8Array => {
    const body = new Uint8Array(2 * count)
    for (let n = 0; n < count; n++) body.set([7 << 3 | 2, 0], 2 * n)
    return body
  }
  t.equal(decode('SiteAd', empties(1000), { maxBytes: 32_768 }).freeByHost.length, 1000)
  t.throws(() => decode('SiteAd', empties(5000), { maxBytes: 32_768 }), /SiteAd: more than 4096 items/)
  const from = performance.now()
  for (let n = 0; n < 20; n++) t.throws(() => decode('SiteAd', empties(MAX_MESSAGE_BYTES / 2)), { code: 'INVALID_INPUT' })
  t.ok(performance.now() - from < 2000, '20 of them took 6 s when each was decoded')
  const zero = { vcpus: 0, memoryMib: 0, diskMib: 0, volumes: 64, bandwidthMbit: 0 }
  const ad: Bodies['site'] = { site: 'a', gateway: 'b', addresses: [], hosts: 0, total: null, free: null, freeByHost: Array.from({ length: 5000 }, () => zero), volumeFreeMib: 0, version: '', features: [], roles: [], priceMilli: 0, maxTermMs: 0, relay: false, tunnel: [] }
  t.throws(() => encode('SiteAd', ad, { maxBytes: 32_768 }), /items/, 'what nobody would read is not sent')
  t.end()
})

const ad = (host: string, roles: string[] = ['compute']): Bodies['host'] => ({ site: 'tokyo', host, roles, addresses: [], underlayAddress: '', total: null, free: null, cordoned: false, accelerator: '', version: '', inventory: null, features: [] })

t.test('nobody makes a member count beyond what numbers hold', async t => {
  const said: wire.Record[] = []
  const own = new OwnRecords({ key: await createKey(), epoch: 3, ttlMs: 60_000, heartbeatMs: 60_000, now: () => NOW, chain: () => [], emit: (_scope, record) => { said.push(record) } })
  t.teardown(() => { own.stop() })
  own.publish('site/tokyo', 'host', ad('c1'))
  own.refute('site/tokyo', { epoch: 3, seq: Number.MAX_SAFE_INTEGER })
  t.equal(own.version.seq, 1, 'no honest accuser can have meant that, and nobody believes it')
  own.refute('site/tokyo', { epoch: 3, seq: 1 + SUSPICION_WINDOW })
  t.equal(own.version.seq, 1 + SUSPICION_WINDOW, 'that one may be believed')
  t.notOk(own.overtake('host', { epoch: Number.MAX_SAFE_INTEGER, seq: 1 }))
  t.notOk(own.overtake('host', { epoch: MAX_VERSION, seq: 1 }))
  t.ok(own.overtake('host', { epoch: 9, seq: 1 }))
  t.equal(own.version.epoch, 10)
  t.doesNotThrow(() => { own.leave() })
  t.equal(said.at(-1)?.leaving, true)
})

const siteAd = (gateway: string, site = 'osaka'): Bodies['site'] => ({ site, gateway, addresses: [], hosts: 0, total: null, free: null, freeByHost: [], volumeFreeMib: 0, version: '', features: [], roles: [], priceMilli: 0, maxTermMs: 0, relay: false, tunnel: [] })

t.test('a site fills no directory, an author no network', async t => {
  const me = kit.member('tokyo/g1')
  const trust = createTrust({ peerId: me.peerId, federation: kit.federation, chain: me.chain, now: () => NOW })
  const views: { readonly [K in Kind]: RecordView<Bodies[K]> } = { host: new RecordView(MAX_RECORDS), policy: new RecordView(MAX_RECORDS), site: new RecordView(MAX_RECORDS), coordinator: new RecordView(MAX_RECORDS) }
  const own = new OwnRecords({ key: me.key, epoch: 1, ttlMs: 60_000, heartbeatMs: 60_000, now: () => NOW, chain: () => me.chain, emit: () => undefined })
  t.teardown(() => { own.stop() })
  const intake = new Intake({ trust, views, own, counts: noCounts(), now: () => NOW, accepts: (role, _peer, kind, body) => speaksForItself(role, kind, body), merge: (_scope, kind, record, body) => views[kind].merge(record, body, performance.now()), onOvertake: () => undefined })
  const [osakaKey, osakaChain] = [kit.siteKeys.get('osaka'), kit.siteChains.get('osaka')]
  if (osakaKey === undefined || osakaChain === undefined) throw new Error('no site key')
  const outcomes: string[] = []
  for (let n = 0; n < MAX_GATEWAYS_PER_SITE + 3; n++) {
    const key = await createKey()
    const chain = [issue(osakaKey, { federation: kit.federation, kind: 'host', subject: peerIdOf(key), site: 'osaka', name: `g${n}`, roles: ['gateway'] }, NOW), ...osakaChain]
    outcomes.push(intake.take(signRecord(key, 'site', { version: { epoch: 1, seq: 1 }, ttlMs: 60_000, madeMs: NOW, leaving: false, chain }, siteAd(`g${n}`)), 'directory'))
  }
  t.strictSame(outcomes.filter(outcome => outcome !== 'taken'), ['full', 'full', 'full'])
  const c1 = kit.member('tokyo/c1')
  const record = (seq: number, chain = c1.chain, body = ad('c1')): wire.Record => signRecord(c1.key, 'host', { version: { epoch: 1, seq }, ttlMs: 60_000, madeMs: NOW, leaving: false, chain }, body)
  t.throws(() => intake.take(record(1, c1.chain, ad('c1', ['compute', 'gateway'])), 'site/tokyo'), { code: 'REFUSED_RECORD' }, 'in a role that it was not given')
  let taken = 0
  for (let seq = 1; seq <= MAX_RECORDS_PER_MINUTE + 20; seq++) if (intake.take(record(seq), 'site/tokyo') === 'taken') taken++
  t.equal(taken, MAX_RECORDS_PER_MINUTE)
  t.throws(() => intake.take(record(5000, []), 'site/tokyo'), { code: 'NO_CERTIFICATE' }, 'also of somebody known: others would blame us for passing it on')
  t.throws(() => intake.take({ ...record(5001), seq: MAX_VERSION + 1 }, 'site/tokyo'), { code: 'INVALID_INPUT' })
})

t.test('who makes the record of another old does not end it', t => {
  const view = new RecordView<string>(10)
  const record = (ageMs: number): wire.Record => ({ peer: 'c1', kind: 'host', epoch: 1, seq: 5, ttlMs: 60_000, body: new Uint8Array(), signature: new Uint8Array(), ageMs, madeMs: 0, leaving: false, chain: [] })
  t.equal(view.merge(record(59_500), 'x', 0), 'taken', 'the first to pass it on says that it is old')
  t.equal(view.merge(record(20), 'x', 10), 'taken', 'the next one knows better')
  t.strictSame(view.expire(1000), { expired: [], forgotten: [] })
  t.equal(view.merge(record(0), 'x', 100), 'stale', 'what came by another way is no news')
  t.equal(view.merge(record(59_500), 'x', 100), 'stale')
  t.strictSame(view.expire(60_001).expired, ['c1'])
  t.equal(view.merge(record(0), 'x', 60_002), 'stale', 'and when it is over it does not come back')
  t.end()
})
