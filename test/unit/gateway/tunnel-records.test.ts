/** Tunnel keys in signed records: what is forged, stale, foreign or malformed changes no tunnel; and when the own keys are exchanged. */
import t from 'tap'
import { newsOf } from '../../../agent/gateway-news.ts'
import { createTrackBook, type NamedGateway } from '../../../agent/tunnel/book.ts'
import { createOwnKeys, type OwnKeysOptions } from '../../../agent/tunnel/own.ts'
import { foldSite } from '../../../agent/advertise.ts'
import type { PublicTrack } from '../../../agent/drivers/network/tunnel/driver.ts'
import type { SaidTrack } from '../../../protocol/core/network/tracks.ts'
import type { Kind, Records, RecordRow } from '../../../protocol/mesh/records.ts'
import { Intake, noCounts } from '../../../protocol/mesh/records/intake.ts'
import { OwnRecords } from '../../../protocol/mesh/records/own.ts'
import { type Bodies, signRecord, speaksForItself } from '../../../protocol/mesh/records/signed.ts'
import { RecordView } from '../../../protocol/mesh/records/view.ts'
import { chainToText } from '../../../protocol/mesh/trust/base64.ts'
import { revoke } from '../../../protocol/mesh/trust/revocation.ts'
import { createTrust } from '../../../protocol/mesh/trust/trust.ts'
import type { wire } from '../../../protocol/wire/codec.ts'
import { createMemoryStore } from '../../../store/memory.ts'
import { createKit, type KitMember } from '../../trust-kit.ts'

const NOW = Date.UTC(2026, 10, 22)
const HOUR = 3_600_000
const kit = await createKit({ sites: ['tokyo', 'osaka', 'kyoto'].map(name => ({ name, hosts: [{ name: 'gw', roles: ['gateway', 'compute'] as const }, { name: 'c1', roles: ['compute'] as const }] })) }, NOW)
const key = (n: number): string => Buffer.alloc(32, n).toString('base64')
const said = (n: number, part: Partial<SaidTrack> = {}): SaidTrack => ({ track: 0, publicKey: key(n), endpoint: '192.0.2.9:51820', draining: false, ...part })
const ad = (site: string, tunnel: SaidTrack[], gateway = 'gw'): Bodies['site'] => ({ ...foldSite(site, { host: gateway, addresses: [] }, [], '1'), tunnel })
const named = (site: string, n: number): NamedGateway => ({ site, host: 'gw', peer: kit.member(`${site}/gw`).peerId, tunnelPublicKey: key(n) })

t.test('only what a gateway has signed itself reaches its tunnel', async t => {
  const me = kit.member('tokyo/gw')
  const trust = createTrust({ peerId: me.peerId, federation: kit.federation, chain: me.chain, now: () => NOW + 2_000 })
  const view = new RecordView<Bodies['site']>(100)
  const views = { host: new RecordView<Bodies['host']>(9), policy: new RecordView<Bodies['policy']>(9), site: view, coordinator: new RecordView<Bodies['coordinator']>(9) }
  const own = new OwnRecords({ key: me.key, epoch: 1, ttlMs: 60_000, heartbeatMs: 60_000, now: () => NOW, chain: () => me.chain, emit: () => undefined })
  t.teardown(() => { own.stop() })
  let told: (kind: Kind, peer: string) => void = () => undefined
  const intake = new Intake({
    trust, views, own, counts: noCounts(), now: () => NOW, accepts: (role, _peer, kind, body) => speaksForItself(role, kind, body), onOvertake: () => undefined,
    merge: (_scope, kind, record, body) => {
      const outcome = (views[kind] as unknown as RecordView<typeof body>).merge(record, body, performance.now())
      told(kind, record.peer)
      return outcome
    }
  })
  const records = {
    view: () => [...view.entries()].map(({ record, body }) => ({ ...record, body }) as unknown as RecordRow<'site'>),
    onChange: (listener: typeof told) => { told = listener; return () => undefined }
  } as unknown as Pick<Records, 'view' | 'onChange'>
  const gateways = [named('osaka', 1), named('kyoto', 2)]
  const book = await createTrackBook({ store: createMemoryStore(), records, named: () => gateways, endpoint: '192.0.2.1:51820', ownKeys: () => [], onChange: () => undefined, log: { warn: () => undefined } })
  const record = (author: KitMember, seq: number, body: Bodies['site'], part: { chain?: KitMember['chain'], madeMs?: number } = {}): wire.Record =>
    signRecord(author.key, 'site', { version: { epoch: 1, seq }, ttlMs: 60_000, madeMs: part.madeMs ?? NOW, leaving: false, chain: part.chain ?? author.chain }, body)
  const keys = (site: string): string[] | null => {
    const member = kit.member(`${site}/gw`)
    const news = newsOf(trust, { peer: member.peerId, host: 'gw', chain: chainToText(member.chain) }, site, book)
    return news.revoked ? [] : news.tracks?.map(({ publicKey }) => publicKey) ?? null
  }
  const osaka = kit.member('osaka/gw')
  const kyoto = kit.member('kyoto/gw')

  t.equal(keys('osaka'), null, 'the document\'s key')
  const first = record(osaka, 1, ad('osaka', [said(11)]))
  t.equal(intake.take(first, 'directory'), 'taken')
  t.strictSame(keys('osaka'), [key(11)])

  const newer = record(osaka, 5, ad('osaka', [said(66)]))
  t.throws(() => intake.take({ ...newer, body: record(osaka, 5, ad('osaka', [said(67)])).body }, 'directory'), { code: 'FORGED_RECORD' }, 'changed on the way')
  t.throws(() => intake.take({ ...record(kyoto, 5, ad('osaka', [said(66)])), peer: osaka.peerId, chain: osaka.chain.map(one => one) }, 'directory'), { code: 'FORGED_RECORD' }, 'signed by somebody else')
  t.throws(() => intake.take(record(kyoto, 5, ad('osaka', [said(66)])), 'directory'), { code: 'REFUSED_RECORD' }, 'about another site')
  t.throws(() => intake.take(record(kit.member('osaka/c1'), 5, ad('osaka', [said(66)])), 'directory'), { code: 'REFUSED_RECORD' }, 'by a host that is no gateway')
  t.throws(() => intake.take(record(kit.member('osaka/c1'), 5, ad('osaka', [said(66)], 'gw')), 'directory'), { code: 'REFUSED_RECORD' })
  for (const [tunnel, why] of [
    [[said(11), said(12, { track: 1 }), said(13)], /a site record of osaka\/gw is refused: it has 3 tunnel keys, at most 2/], [[said(11, { track: 7 })], /track 7/], [[said(11, { publicKey: 'short' })], /no WireGuard key/],
    [[said(11, { endpoint: '127.0.0.1:51820' })], /127\.0\.0\.1:51820/], [[said(11, { endpoint: '192.0.2.9:70000' })], /192\.0\.2\.9:70000/], [[said(11), said(11, { track: 1 })], /one tunnel key on two tracks/]
  ] as const) t.throws(() => intake.take(record(osaka, 6, ad('osaka', [...tunnel])), 'directory'), { code: 'REFUSED_RECORD', message: why })
  t.strictSame(keys('osaka'), [key(11)], 'and its last good record stays')
  t.equal(keys('kyoto'), null)

  t.equal(intake.take(record(osaka, 7, ad('osaka', [said(12, { track: 1 })])), 'directory'), 'taken')
  t.equal(intake.take(first, 'directory'), 'stale')
  t.strictSame(keys('osaka'), [key(12)], 'an old one does not come back')
  const osakaKey = kit.siteKeys.get('osaka')
  if (osakaKey === undefined) throw new Error('no site key')
  trust.takeRevocation(revoke(osakaKey, kit.siteChains.get('osaka') ?? [], { federation: kit.federation, kind: 'host', subject: osaka.peerId, site: 'osaka', name: 'gw', reason: 'sold' }, NOW + 1_000))
  t.throws(() => intake.take(record(osaka, 8, ad('osaka', [said(13)])), 'directory'), { code: 'CERTIFICATE_REVOKED' })
  t.strictSame(keys('osaka'), [], 'who is revoked has no tunnel')
})

interface Own { keys: Awaited<ReturnType<typeof createOwnKeys>>, tracks: PublicTrack[], unheard: NamedGateway[], clock: { nowMs: number }, raised: string[], told: () => number, again: () => Promise<Own['keys']> }

async function own (): Promise<Own> {
  const clock = { nowMs: NOW }
  const tracks: PublicTrack[] = [{ track: 0, publicKey: key(1), draining: false, epoch: 0, madeMs: NOW }]
  const unheard: NamedGateway[] = []
  const raised: string[] = []
  let told = 0
  const options: OwnKeysOptions = {
    store: createMemoryStore(), ask: () => Promise.resolve(structuredClone(tracks)), addresses: ['192.0.2.1', '2001:db8::1'], ports: [51820, 51900], maxAgeMs: 7 * 24 * HOUR, now: () => clock.nowMs, monotonic: () => clock.nowMs,
    unheard: () => unheard, onTracks: () => { told++ }, onEpoch: (epoch, why) => { raised.push(`${epoch} ${why}`) }
  }
  return { keys: await createOwnKeys(options), tracks, unheard, clock, raised, told: () => told, again: () => createOwnKeys(options) }
}

t.test('own keys are told with their endpoints, and offers carry one that stays', async t => {
  const { keys, tracks, told } = await own()
  t.strictSame(keys.tracks(), [], 'nothing before the helper has answered')
  await keys.tick()
  t.strictSame(keys.tracks(), [{ track: 0, publicKey: key(1), draining: false, endpoint: '192.0.2.1:51820,[2001:db8::1]:51820' }])
  await keys.tick()
  t.equal(told(), 1, 'the same is told once')
  Object.assign(tracks[0] ?? {}, { draining: true })
  tracks.push({ track: 1, publicKey: key(2), draining: false, epoch: 1, madeMs: NOW })
  t.equal(await keys.current(), key(2))
  t.equal(keys.tracks()[1]?.endpoint, '192.0.2.1:51900,[2001:db8::1]:51900')
  t.equal(told(), 2)
  tracks.splice(0)
  await t.rejects(keys.current(), { code: 'NOT_READY' })
})

t.test('keys are exchanged by age, once, and when everybody hears of it', async t => {
  const { keys, tracks, unheard, clock, raised, again } = await own()
  clock.nowMs += 7 * 24 * HOUR - 1
  await keys.tick()
  t.strictSame(raised, [])
  clock.nowMs += 2
  unheard.push(named('osaka', 1))
  await keys.tick()
  t.strictSame(raised, [])
  t.match(keys.problems(), [/older than 168 hours and is not exchanged, .*: gw of osaka/])
  unheard.splice(0)
  await keys.tick()
  t.strictSame(raised, ['1 a key is older than 168 hours'])
  t.strictSame(keys.problems(), [])
  await keys.tick()
  t.equal(keys.epoch(), 1, 'and not again while it goes on')
  t.equal((await again()).epoch(), 1, 'a restart goes on with it')
  tracks.splice(0, 1, { track: 1, publicKey: key(2), draining: false, epoch: 1, madeMs: clock.nowMs })
  await keys.tick()
  t.equal(keys.epoch(), 1)
  clock.nowMs -= 30 * 24 * HOUR
  await keys.tick()
  t.equal(keys.epoch(), 2, 'a key that was made a month from now was made by a wrong clock')
})

t.test('a gateway that lists no keys puts an exchange off, and does not keep it off', async t => {
  const { keys, unheard, clock, raised, again } = await own()
  unheard.push(named('osaka', 1))
  clock.nowMs += 2 * 7 * 24 * HOUR - 1
  await keys.tick()
  t.strictSame(raised, [])
  t.match(keys.problems(), [/exchanged all the same after 336 hours/])
  clock.nowMs += 2
  await (await again()).tick()
  t.strictSame(raised, [], 'an agent that has just begun has heard of nobody')
  clock.nowMs += HOUR
  await keys.tick()
  t.strictSame(raised, ['1 a key is older than 336 hours, gw of osaka unheard'])
  t.strictSame(keys.problems(), [])
})

t.test('whoever asks is told why not', async t => {
  const { keys, tracks, unheard } = await own()
  unheard.push(named('osaka', 1))
  await t.rejects(keys.rotate(false), { code: 'GATEWAYS_UNHEARD', message: /gw of osaka/, hint: /--force/ })
  t.equal(keys.epoch(), 0)
  t.equal(await keys.rotate(true), 1)
  await t.rejects(keys.rotate(true), { code: 'CONFLICT', message: /being exchanged already/ })
  tracks.splice(0, 1, { track: 1, publicKey: key(2), draining: false, epoch: 41, madeMs: NOW })
  t.equal(await keys.rotate(true), 42, 'above the keys, whatever the store remembers')
  tracks.splice(0, 1, { track: 0, publicKey: key(3), draining: false, epoch: Number.MAX_SAFE_INTEGER, madeMs: NOW })
  await t.rejects(keys.rotate(true), { code: 'CONFLICT', message: /cannot be exchanged/ }, 'a number that the helper would refuse, and the tunnel with it')
  t.equal(keys.epoch(), Number.MAX_SAFE_INTEGER)
})
