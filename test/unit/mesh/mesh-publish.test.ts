import { setTimeout as sleep } from 'node:timers/promises'
import t, { type Test } from 'tap'
import { MAX_OFFENCES_PER_MINUTE, PUBLISH_COALESCE_MS } from '../../../protocol/core/limits.ts'
import { decode, encode, type Methods, type wire } from '../../../protocol/wire/codec.ts'
import type { Inspect } from '../../../protocol/mesh/gossip.ts'
import { signSuspicion } from '../../../protocol/mesh/liveness/suspicion.ts'
import type { CallContext, Mesh } from '../../../protocol/mesh/mesh.ts'
import { createRecords, type Bodies, type Kind, type Records, type RecordsOptions } from '../../../protocol/mesh/records.ts'
import { signRecord, type Statement } from '../../../protocol/mesh/records/signed.ts'
import { scopesOf, type Scope } from '../../../protocol/mesh/roles.ts'
import { CLOCK_SKEW_MS, issue } from '../../../protocol/mesh/trust/certificate.ts'
import { revoke } from '../../../protocol/mesh/trust/revocation.ts'
import { createTrust } from '../../../protocol/mesh/trust/trust.ts'
import { createKit, type KitMember } from '../../trust-kit.ts'

const NOW = Date.now()
const kit = await createKit({ coordinators: ['main'], sites: [{ name: 'tokyo', hosts: [{ name: 'c1', roles: ['compute'] }, { name: 'c2', roles: ['compute'] }, { name: 'g1', roles: ['gateway'] }] }, { name: 'kyoto', hosts: [{ name: 'c1', roles: ['compute'] }] }] }, NOW)
const foreign = await createKit({ sites: [{ name: 'tokyo', hosts: [{ name: 'c2', roles: ['compute'] }] }] }, NOW)
const c2 = kit.member('tokyo/c2')
const ad = (host: string, version: string, site = 'tokyo'): Bodies['host'] => ({ site, host, roles: [], addresses: [], underlayAddress: '', total: null, free: null, cordoned: false, accelerator: '', version, inventory: null, features: [] })
const siteAd = (site: string, gateway: string): Bodies['site'] => ({
  site, gateway, addresses: [], hosts: 0, total: null, free: null, freeByHost: [], volumeFreeMib: 0, version: '', features: [], roles: [], priceMilli: 0, maxTermMs: 0, relay: false, tunnel: []
})

type Handlers = { [M in 'sync' | 'revocations']?: (request: Methods[M]['request'], context: CallContext) => Methods[M]['reply'] | Promise<Methods[M]['reply']> }

interface Fake {
  mesh: Mesh
  records: Records
  published: Array<{ scope: Scope, message: wire.Gossip }>
  /** the records among what was published */
  said: wire.Record[]
  dropped: string[]
  hear: (message: Partial<wire.Gossip>, scope?: Scope) => string
  hearBytes: (data: Uint8Array, from?: string) => string
  sync: (part: Partial<wire.SyncRequest>, from?: string) => Promise<wire.SyncReply>
  revocations: (request: wire.RevocationsRequest) => Promise<wire.RevocationsReply>
}

/** Records on a mesh without a network: what is published is kept, what would arrive is handed in. */
function fake (t: Test, name = 'tokyo/c1', options: Partial<RecordsOptions> = {}): Fake {
  const { key, peerId, chain } = kit.member(name)
  const trust = createTrust({ peerId, federation: kit.federation, chain, now: () => NOW })
  const { role } = trust.own()
  const published: Fake['published'] = []
  const said: wire.Record[] = []
  const dropped: string[] = []
  const inspects = new Map<Scope, Inspect>()
  const handlers: Handlers = {}
  const unused = (): never => { throw new Error('not part of this test') }
  const mesh: Mesh = {
    peerId, key, role, scopes: scopesOf(role), trust, roleOf: peer => trust.roleOf(peer), start: unused, close: unused, addresses: () => [], call: unused,
    learn: () => undefined, knownPeers: () => [], relayAddresses: () => [], onRelayAddresses: () => () => undefined, connected: () => [], path: () => null, rttMs: () => null, refusals: () => ({ us: {}, them: {} }), lastRefusal: () => null,
    disconnect: peer => { dropped.push(peer) }, shutOut: peer => { dropped.push(peer) }, describe: peer => peer, onConnect: () => () => undefined, onDisconnect: () => () => undefined,
    serve: (method, handler) => { Object.assign(handlers, { [method]: handler }) },
    publish: (scope, data) => {
      const message = decode('Gossip', data)
      published.push({ scope, message })
      if (message.record !== null) said.push(message.record)
      return Promise.resolve()
    },
    subscribe: (scope, listener) => { inspects.set(scope, listener) }
  }
  const records = createRecords({ mesh, epoch: 1, now: () => NOW, ...options })
  t.teardown(() => { records.stop() })
  const hearBytes = (data: Uint8Array, from = 'someone', scope: Scope = 'site/tokyo'): string => inspects.get(scope)?.(data, from) ?? 'deaf'
  const served = <T>(handler: T | undefined): T => {
    if (handler === undefined) throw new Error('nothing serves it')
    return handler
  }
  const context = (from: string): CallContext => {
    const caller = kit.members.find(({ peerId }) => peerId === from)
    const theirs = caller === undefined ? null : createTrust({ peerId: from, federation: kit.federation, chain: caller.chain, now: () => NOW }).own().role
    if (theirs === null) throw new Error('no such member')
    return { peerId: from, role: theirs, signal: new AbortController().signal, deadlineMs: 1000 }
  }
  return {
    mesh, records, published, said, dropped, hearBytes,
    hear: (message, scope = 'site/tokyo') => hearBytes(encode('Gossip', { record: null, suspicion: null, revocation: null, ...message }), 'someone', scope),
    sync: async (part, from = c2.peerId) => await served(handlers.sync)({ scope: 'site/tokyo', have: [], offer: [], bucket: 0, buckets: 1, revocations: new Uint8Array(), suspicions: [], ping: false, ...part }, context(from)),
    revocations: async request => await served(handlers.revocations)(request, context(c2.peerId))
  }
}

function by (member: Pick<KitMember, 'key' | 'chain'>, seq: number, body: Bodies['host'] = ad('c2', 'x'), part: Partial<Statement> = {}): wire.Record {
  return signRecord(member.key, 'host', { version: { epoch: 1, seq }, ttlMs: 30_000, madeMs: NOW, leaving: false, chain: member.chain, ...part }, body)
}
const hosts = ({ records }: Fake): string[] => records.view('host').map(({ body, state }) => `${body.host} ${body.version} ${state}`).sort()

t.test('a change is said at once, those after it together, and no change not at all', async t => {
  const here = fake(t, 'tokyo/c1', { epoch: 5 })
  here.records.publish('host', ad('c1', 'v0'))
  t.equal(here.said.length, 1, 'without waiting')
  for (let n = 1; n < 50; n++) here.records.publish('host', ad('c1', `v${n}`))
  t.equal(here.said.length, 1)
  const from = performance.now()
  while (here.said.length === 1) await sleep(5)
  t.ok(performance.now() - from < 5 * PUBLISH_COALESCE_MS, 'soon')
  here.records.publish('host', ad('c1', 'v49'))
  await sleep(2 * PUBLISH_COALESCE_MS)
  t.strictSame(here.said.map(({ epoch, seq }) => [epoch, seq]), [[5, 1], [5, 2]])
  t.strictSame(hosts(here), ['c1 v49 alive'], 'the last of them')
  here.records.publish('host', ad('c1', 'later'))
  t.equal(here.said[2]?.seq, 3, 'after a pause at once again')
  t.match(here.said[2], { madeMs: NOW, leaving: false, chain: [...kit.member('tokyo/c1').chain] })
})

t.test('what does not change is said again, slowly', async t => {
  const here = fake(t, 'tokyo/c1', { heartbeatMs: 100 })
  here.records.publish('host', ad('c1', 'v'))
  while (here.said.length < 4) await sleep(10)
  t.strictSame(here.said.slice(0, 4).map(({ seq }) => seq), [1, 2, 3, 4])
})

t.test('only what one may say of oneself is published, in every kind', t => {
  const host = fake(t)
  t.throws(() => { host.records.publish('host', ad('c2', 'x')) }, { code: 'NOT_IN_SCOPE' })
  t.throws(() => { host.records.publish('site', siteAd('tokyo', 'c1')) }, { code: 'NOT_IN_SCOPE' })
  t.throws(() => { host.records.publish('policy', { site: 'tokyo', host: 'c1', version: 1, document: new Uint8Array(), setBy: '' }) }, { code: 'NOT_IN_SCOPE' })
  const gateway = fake(t, 'tokyo/g1')
  gateway.records.publish('host', ad('g1', 'x'))
  gateway.records.publish('policy', { site: 'tokyo', host: 'g1', version: 1, document: new Uint8Array(), setBy: '' })
  gateway.records.publish('site', siteAd('tokyo', 'g1'))
  t.throws(() => { gateway.records.publish('site', siteAd('tokyo', 'g2')) }, { code: 'NOT_IN_SCOPE' })
  t.throws(() => { gateway.records.publish('coordinator', { name: 'g1', addresses: [], version: '' }) }, { code: 'NOT_IN_SCOPE' })
  t.strictSame(gateway.published.map(({ scope, message }) => `${scope} ${message.record?.kind ?? ''} ${message.record?.seq ?? ''}`), ['site/tokyo host 1', 'site/tokyo policy 2', 'directory site 3'], 'one sequence for all')
  const coordinator = fake(t, 'main')
  coordinator.records.publish('coordinator', { name: 'main', addresses: [], version: '' })
  t.throws(() => { coordinator.records.publish('site', siteAd('tokyo', 'g1')) }, { code: 'NOT_IN_SCOPE' })
  t.end()
})

t.test('what is heard is judged before it is passed on, and told of when it is news', t => {
  const { records, hear, mesh, hearBytes } = fake(t)
  const news: string[] = []
  const end = records.onChange((kind, peer) => { news.push(`${kind} ${peer === c2.peerId ? 'c2' : peer}`) })
  const good = by(c2, 1)
  t.equal(mesh.roleOf(c2.peerId), null, 'a stranger so far')
  t.equal(hear({ record: good }), 'accept')
  t.match(mesh.roleOf(c2.peerId), { host: 'c2' }, 'its certificates came along')
  t.equal(hear({ record: good }), 'ignore', 'a second time')
  t.equal(hear({ record: by(c2, 2) }), 'accept', 'a heartbeat')
  t.strictSame(news, ['host c2'], 'which is no news')
  t.equal(hear({ record: { ...by(c2, 3), seq: 4 } }), 'reject', 'a changed one')
  t.equal(hear({ record: by(c2, 5, ad('c7', 'x')) }), 'reject', 'of another host')
  t.equal(hear({ record: { ...good, kind: 'site' } }), 'reject', 'of another scope')
  t.equal(hear({ record: { ...good, kind: 'weather' } }), 'reject', 'of a kind that there is not')
  t.equal(hear({ record: { ...good, ttlMs: 0 } }), 'reject')
  t.equal(hear({}), 'reject', 'nothing at all')
  t.equal(hearBytes(new Uint8Array([0x0a, 0x7f, 1])), 'reject', 'no message')
  t.equal(hearBytes(new Uint8Array(100_000)), 'reject', 'too large')
  t.equal(hear({ record: by(c2, 6, ad('c2', 'y')) }), 'accept')
  end()
  t.equal(hear({ record: by(c2, 7, ad('c2', 'z')) }), 'accept')
  t.strictSame(news, ['host c2', 'host c2'], 'until one stops listening')
  t.match(records.counts(), { taken: 4, stale: 1, expired: 0, full: 0, forged: 1, refused: 3, malformed: 4, future: 0, replayed: 0, notAdmitted: {} })
  t.end()
})

t.test('a record says when it was made: neither the future nor the far past is believed', t => {
  const { records, hear } = fake(t)
  t.equal(hear({ record: by(c2, 1, ad('c2', 'x'), { madeMs: NOW + CLOCK_SKEW_MS + 1000 }) }), 'reject')
  t.equal(hear({ record: by(c2, 1, ad('c2', 'x'), { madeMs: NOW - 30_000 - CLOCK_SKEW_MS - 1000 }) }), 'reject')
  t.match(records.counts(), { future: 1, replayed: 1, taken: 0 })
  t.equal(hear({ record: by(c2, 1, ad('c2', 'x'), { madeMs: NOW + CLOCK_SKEW_MS - 1000 }) }), 'accept', 'clocks differ')
  t.equal(hear({ record: by(c2, 2, ad('c2', 'x'), { madeMs: NOW - 25_000 - CLOCK_SKEW_MS }) }), 'accept')
  t.end()
})

t.test('only members are heard', t => {
  const { records, hear } = fake(t)
  t.equal(hear({ record: by(foreign.member('tokyo/c2'), 1) }), 'reject')
  t.equal(hear({ record: by({ ...c2, chain: [] }, 1) }), 'reject')
  t.equal(hear({ record: by({ ...c2, chain: kit.member('tokyo/g1').chain }, 1) }), 'reject', 'with the certificates of another')
  const siteKey = kit.siteKeys.get('tokyo')
  if (siteKey === undefined) throw new Error('no site key')
  const short = issue(siteKey, { federation: kit.federation, kind: 'host', subject: c2.peerId, site: 'tokyo', name: 'c2', roles: ['compute'], lifetimeMs: 1000 }, NOW - 60_000)
  t.equal(hear({ record: by({ ...c2, chain: [short, ...c2.chain.slice(1)] }, 1) }), 'reject')
  t.equal(hear({ record: by(kit.member('kyoto/c1'), 1, ad('c1', 'x', 'kyoto')) }), 'reject', 'a member, but of another site')
  t.strictSame(records.counts().notAdmitted, { OTHER_FEDERATION: 1, NO_CERTIFICATE: 1, BAD_CERTIFICATE: 1, CERTIFICATE_EXPIRED: 1 })
  t.equal(records.counts().refused, 1)
  t.equal(hear({ record: by(c2, 1) }), 'accept')
  t.equal(hear({ record: by({ ...c2, chain: [] }, 2) }), 'reject', 'always: whom it is passed on to may not know the author, and would blame us')
  t.end()
})

t.test('a revocation takes its subject out, and is passed on everywhere', t => {
  const gateway = fake(t, 'tokyo/g1')
  t.equal(gateway.hear({ record: by(c2, 1) }), 'accept')
  const siteKey = kit.siteKeys.get('tokyo')
  const siteChain = kit.siteChains.get('tokyo')
  if (siteKey === undefined || siteChain === undefined) throw new Error('no site key')
  const news: Kind[] = []
  gateway.records.onChange(kind => { news.push(kind) })
  const revocation = revoke(siteKey, siteChain, { federation: kit.federation, kind: 'host', subject: c2.peerId, site: 'tokyo', name: 'c2', reason: 'lost' }, NOW)
  t.equal(gateway.hear({ revocation: { ...revocation, envelope: revocation.envelope.with(40, 7) } }), 'reject')
  t.equal(gateway.hear({ revocation }, 'directory'), 'accept')
  t.equal(gateway.hear({ revocation }), 'ignore')
  t.strictSame(gateway.published.map(({ scope, message }) => [scope, message.revocation !== null]), [['site/tokyo', true], ['directory', true]])
  t.strictSame(gateway.records.view('host', { dead: true }), [])
  t.strictSame(news, ['host'])
  t.equal(gateway.hear({ record: by(c2, 2) }), 'reject')
  t.strictSame(gateway.records.counts().notAdmitted, { CERTIFICATE_REVOKED: 1 })
  t.equal(gateway.records.counts().revocations, 1)
  t.end()
})

t.test('revocations are exchanged both ways', async t => {
  const here = fake(t)
  const siteKey = kit.siteKeys.get('tokyo')
  const siteChain = kit.siteChains.get('tokyo')
  if (siteKey === undefined || siteChain === undefined) throw new Error('no site key')
  const many = Array.from({ length: 250 }, (_, n) => revoke(siteKey, siteChain, { federation: kit.federation, kind: 'host', subject: kit.member('tokyo/g1').peerId, site: 'tokyo', name: 'g1', reason: `${n}` }, NOW - n))
  const [one, other] = many
  if (one === undefined || other === undefined) throw new Error('none')
  t.strictSame((await here.sync({})).revocations, new Uint8Array(), 'none are known')
  t.strictSame(await here.revocations({ ids: [], offer: [other] }), { revocations: [], want: [] })
  t.not((await here.sync({})).revocations.length, 0)
  const reply = await here.revocations({ ids: [new Uint8Array(16).fill(9)], offer: [] })
  t.strictSame([reply.revocations.length, reply.want], [1, [new Uint8Array(16).fill(9)]])
  await here.revocations({ ids: [], offer: [one] })
  t.equal(here.mesh.trust.revocations.size, 1, 'the later one stands')
  await t.rejects(here.revocations({ ids: [], offer: [{ ...one, envelope: one.envelope.with(60, 1) }] }), { code: 'INVALID_INPUT' })
  await t.rejects(here.revocations({ ids: Array.from({ length: 9000 }, () => new Uint8Array(16)), offer: [] }), { code: 'INVALID_INPUT' })
})

t.test('a comparison gives what the other lacks, takes what it offers, and stops at a forgery', async t => {
  const here = fake(t)
  const { sync, records } = here
  const id = { peer: c2.peerId, kind: 'host', epoch: 1, seq: 1 }
  t.strictSame((await sync({ have: [id] })).want, [id], 'it asks for what it lacks')
  await sync({ offer: [by(c2, 1)] })
  t.equal(records.view('host').length, 1)
  t.match(await sync({}), { records: [{ seq: 1, chain: [...c2.chain] }], want: [] }, 'and gives it to who has nothing')
  t.match(await sync({ have: [id] }), { records: [], want: [] }, 'but not to who has it')
  t.match(await sync({ have: [{ ...id, kind: 'policy' }] }), { records: [{ kind: 'host' }], want: [{ kind: 'policy' }] }, 'kinds are compared one by one')
  t.match(await sync({ ping: true }), { records: [], want: [] }, 'nor to who only asks whether we are here')
  await t.rejects(sync({ offer: [{ ...by(c2, 2), seq: 9 }, by(c2, 3)] }), { code: 'FORGED_RECORD' })
  t.equal(records.view('host')[0]?.seq, 1, 'what came after the forgery is not looked at')
  await t.rejects(sync({ bucket: 3, buckets: 2 }), { code: 'INVALID_INPUT' })
  await t.rejects(sync({ scope: 'directory' }), { code: 'FORBIDDEN' })
  await t.rejects(sync({}, kit.member('main').peerId), { code: 'FORBIDDEN' })
})

t.test('one refused record does not keep others out, and its author is told why', async t => {
  const { sync, records } = fake(t, 'tokyo/g1')
  const late = by(kit.member('tokyo/c1'), 1, ad('c1', 'x'), { madeMs: NOW + 10 * CLOCK_SKEW_MS })
  await sync({ offer: [late, by(c2, 1)] })
  t.equal(records.view('host').length, 1, 'passed on by somebody whose clock is no better')
  await t.rejects(sync({ offer: [late, by(c2, 2)] }, kit.member('tokyo/c1').peerId), { code: 'FUTURE_DATED', hint: /clocks/ })
  t.equal(records.view('host')[0]?.seq, 2)
})

t.test('who keeps passing on forgeries is dropped', t => {
  const { hearBytes, records, dropped } = fake(t)
  const forged = (seq: number): Uint8Array => encode('Gossip', { record: { ...by(c2, 1), seq }, suspicion: null, revocation: null })
  for (let n = 0; n < MAX_OFFENCES_PER_MINUTE; n++) hearBytes(forged(2 + n), 'liar')
  hearBytes(encode('Gossip', { record: by(c2, 1, ad('c2', 'x'), { madeMs: 1 }), suspicion: null, revocation: null }), 'slow clock')
  t.strictSame(dropped, [])
  hearBytes(forged(99), 'liar')
  t.strictSame(dropped, ['liar'])
  t.match(records.counts(), { dropped: 1, forged: MAX_OFFENCES_PER_MINUTE + 1 })
  t.end()
})

t.test('a goodbye is forgotten at once, and stays so', async t => {
  const here = fake(t)
  const { records, hear } = here
  hear({ record: by(c2, 1) })
  t.strictSame(hosts(here), ['c2 x alive'])
  t.equal(hear({ record: by(c2, 2, ad('c2', 'x'), { leaving: true }) }), 'accept')
  t.strictSame(records.view('host', { dead: true }), [])
  t.equal(hear({ record: by(c2, 1) }), 'ignore')
  t.strictSame(hosts(here), [])
  t.match(await here.sync({}), { records: [{ leaving: true, seq: 2 }] }, 'others hear of it by comparing')
  t.equal(hear({ record: by(c2, 0, ad('c2', 'new'), { version: { epoch: 2, seq: 1 } }) }), 'accept')
  t.strictSame(hosts(here), ['c2 new alive'])
  records.publish('host', ad('c1', 'v'))
  await records.leave()
  t.match(here.said.at(-1), { leaving: true, seq: 2 })
  records.publish('host', ad('c1', 'w'))
  t.equal(here.said.length, 2, 'nothing is said after it')
  t.strictSame(hosts(here), ['c2 new alive'])
})

t.test('who is suspected says at once that it is here', async t => {
  const here = fake(t)
  const { hear, records } = here
  records.publish('host', ad('c1', 'v'))
  hear({ record: by(c2, 1) })
  const accuse = (seq: number): string => hear({ suspicion: signSuspicion(c2.key, here.mesh.peerId, 'host', { epoch: 1, seq }) })
  t.equal(accuse(1), 'accept')
  while (here.said.length < 2) await sleep(10)
  t.ok((here.said[1]?.seq ?? 0) > 1)
  await sleep(PUBLISH_COALESCE_MS)
  t.equal(accuse(40), 'accept')
  while (here.said.length < 3) await sleep(10)
  t.ok((here.said[2]?.seq ?? 0) > 40, 'also when the accuser has heard more than we know of')
})

t.test('a suspicion is believed of members only, and ended by any newer record', t => {
  const here = fake(t)
  const { hear, records } = here
  const g1 = kit.member('tokyo/g1')
  hear({ record: by(c2, 3) })
  const said = (key = g1.key, seq = 3, peer = c2.peerId, kind = 'host'): Partial<wire.Gossip> => ({ suspicion: signSuspicion(key, peer, kind, { epoch: 1, seq }) })
  t.equal(hear(said()), 'reject', 'nobody knows the accuser yet')
  hear({ record: signRecord(g1.key, 'host', { version: { epoch: 1, seq: 1 }, ttlMs: 30_000, madeMs: NOW, leaving: false, chain: g1.chain }, ad('g1', 'x')) })
  t.equal(hear(said(g1.key, 2)), 'ignore', 'it has spoken since')
  t.equal(hear(said(c2.key)), 'reject', 'of itself')
  t.equal(hear(said(g1.key, 3, c2.peerId, 'site')), 'reject', 'out of its scope')
  const { suspicion } = said()
  if (suspicion === null || suspicion === undefined) throw new Error('none')
  t.equal(hear({ suspicion: { ...suspicion, signature: new Uint8Array(64) } }), 'reject')
  const news: string[] = []
  records.onChange(kind => { news.push(kind) })
  t.equal(hear(said()), 'accept')
  t.strictSame(hosts(here), ['c2 x suspect', 'g1 x alive'])
  t.equal(hear(said()), 'ignore', 'known')
  t.strictSame(news, ['host'])
  t.equal(hear({ record: by(c2, 4) }), 'accept')
  t.strictSame(hosts(here), ['c2 x alive', 'g1 x alive'])
  t.strictSame(news, ['host', 'host'])
  t.match(records.counts(), { suspicions: 1, suspicionsStale: 2, suspicionsRefused: 3, forged: 1 })
  t.end()
})

t.test('the dead are shown to who asks for them, and comparisons tell of suspicions', async t => {
  const here = fake(t)
  const { records, hear } = here
  const g1 = kit.member('tokyo/g1')
  hear({ record: signRecord(g1.key, 'host', { version: { epoch: 1, seq: 1 }, ttlMs: 30_000, madeMs: NOW, leaving: false, chain: g1.chain }, ad('g1', 'x')) })
  hear({ record: by(c2, 1) })
  await here.sync({ suspicions: [signSuspicion(g1.key, c2.peerId, 'host', { epoch: 1, seq: 1 })] }, g1.peerId)
  t.match(await here.sync({}, g1.peerId), { suspicions: [{ peer: c2.peerId, by: g1.peerId, seq: 1 }] })
  while (hosts(here).length > 1) await sleep(50)
  t.strictSame(hosts(here), ['g1 x alive'])
  t.strictSame(records.view('host', { dead: true }).map(({ body, state }) => `${body.host} ${state}`).sort(), ['c2 dead', 'g1 alive'])
  t.equal(hear({ record: by(c2, 2) }), 'accept')
  t.strictSame(hosts(here), ['c2 x alive', 'g1 x alive'], 'it speaks again')
  await here.sync({ suspicions: [signSuspicion(g1.key, c2.peerId, 'host', { epoch: 1, seq: 2 })] }, g1.peerId)
  t.strictSame(hosts(here), ['c2 x suspect', 'g1 x alive'])
  await here.sync({ ping: true })
  t.strictSame(hosts(here), ['c2 x alive', 'g1 x alive'], 'a call of it shows that it is there')
})

t.test('new certificates are said at once', t => {
  const here = fake(t)
  here.records.publish('host', ad('c1', 'v'))
  const siteKey = kit.siteKeys.get('tokyo')
  const { chain, peerId } = kit.member('tokyo/c1')
  if (siteKey === undefined) throw new Error('no site key')
  const fresh = issue(siteKey, { federation: kit.federation, kind: 'host', subject: peerId, site: 'tokyo', name: 'c1', roles: ['compute'], joinedMs: NOW }, NOW + 1000)
  here.mesh.trust.renewed([fresh, ...chain.slice(1)])
  const wait = async (): Promise<void> => { while (here.said.length < 2) await sleep(10) }
  return wait().then(() => { t.strictSame(here.said[1]?.chain[0], fresh) })
})
