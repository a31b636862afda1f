/** What becomes of clusters whose master is gone. */
import t, { type Test } from 'tap'
import { anchorOf, createAdoption, type Adoption } from '../../../agent/master/adopt.ts'
import { createCopies, type Copies, type Copy } from '../../../agent/master/copies.ts'
import { toStored } from '../../../agent/master/stored.ts'
import type { CallPeer } from '../../../agent/peers.ts'
import { errorCode, MusubiError, UnreachableError } from '../../../protocol/core/errors.ts'
import { MASTERLESS_MS, MAX_CLUSTERS, MAX_COPIES, MAX_COPY_BYTES } from '../../../protocol/core/limits.ts'
import type { MasterRecord } from '../../../protocol/core/master/record.ts'
import { advance, emptyMaster } from '../../../protocol/core/master/step.ts'
import { eventually, host, silent, startFederation, wanted } from '../../model/federation.ts'
import { ID, World } from '../../model/master.ts'

function decided (part: Partial<MasterRecord> = {}): MasterRecord {
  const world = new World({ tokyo: 2, tsukuba: 2 })
  world.create()
  world.settle()
  return { ...world.record(), ...part }
}
const json = (record: MasterRecord): Uint8Array => Uint8Array.from(Buffer.from(JSON.stringify(toStored(record))))

function keeper (targets: number, call: (peer: string, method: string, request: { record: Uint8Array }) => Promise<unknown>): { copies: Copies, rows: Map<string, Copy>, clock: { ms: number } } {
  const rows = new Map<string, Copy>()
  const clock = { ms: decided().createdMs }
  const copies = createCopies({
    call: call as unknown as CallPeer, log: silent, now: () => clock.ms, targets: () => Array.from({ length: targets }, (_, i) => ({ host: `h${i}`, peer: `p${i}`, gateway: i === targets - 1 })),
    table: { get: key => rows.get(key), list: () => [...rows.values()], put (key, value) { rows.set(key, value); return Promise.resolve() }, delete (key) { rows.delete(key); return Promise.resolve() } }
  })
  return { copies, rows, clock }
}

t.test('copies go to some hosts of the site, gateways first, and the later ones to the same', async t => {
  const asked: string[] = []
  const { copies } = keeper(9, peer => { asked.push(peer); return peer === 'p1' ? Promise.reject(new UnreachableError('away')) : Promise.resolve({ epoch: 1 }) })
  t.equal(await copies.send(decided()), MAX_COPIES - 1)
  t.same(asked.splice(0).sort(), ['p0', 'p1', 'p2', 'p8'])
  await copies.send(decided())
  t.same(asked.splice(0).slice(0, 3).sort(), ['p0', 'p2', 'p8'], 'who has one gets the next')
  t.equal(await copies.send(decided({ spec: { ...decided().spec, name: 'x'.repeat(MAX_COPY_BYTES) } })), 0)
  t.same(asked, [], 'what is too large goes nowhere')
  const sizes: number[] = []
  const { copies: last } = keeper(1, (_peer, _method, request) => { sizes.push(request.record.length); return Promise.resolve({ epoch: 1 }) })
  await last.send(decided({ state: 'ended' }))
  t.same(sizes, [0], 'of a cluster that is over nothing is kept')
})

t.test('of copies the newest epoch stays, then the newest document; what is none is refused', async t => {
  const { copies, rows, clock } = keeper(0, () => Promise.reject(new Error('nobody is called')))
  const keep = (record: MasterRecord, part: Partial<{ clusterId: string, epoch: number, record: Uint8Array }> = {}): Promise<unknown> =>
    copies.keep({ clusterId: record.id, epoch: record.epoch, record: json(record), ...part }, { peerId: 'master' })
  const { document } = decided()
  if (document === null) throw new Error('no document')
  await keep(decided({ epoch: 2, grant: { envelope: new Uint8Array([1, 2, 255]), chain: [new Uint8Array([7])] } }))
  t.match(rows.get(ID), { epoch: 2, from: 'master', record: { grant: { envelope: 'AQL/', chain: ['Bw=='] } } })
  await t.rejects(keep(decided()), { code: 'STALE_EPOCH' })
  await keep(decided({ epoch: 2, document: { ...document, version: 5 } }))
  await keep(decided({ epoch: 2, document: { ...document, version: 4 } }))
  t.equal(rows.get(ID)?.record.document?.version, 5)
  for (const bad of ['', '{', '7', 'null', '[]', '{}', JSON.stringify({ ...toStored(decided()), endMs: 'soon' }), JSON.stringify({ ...toStored(decided()), offers: null }), JSON.stringify({ ...toStored(decided()), grant: 7 }), JSON.stringify({ ...toStored(decided()), document: null })]) {
    if (bad !== '') await t.rejects(keep(decided({ epoch: 3 }), { record: Buffer.from(bad) }), { code: 'INVALID_INPUT' }, bad.slice(0, 40))
  }
  await t.rejects(keep(decided({ epoch: 3 }), { epoch: 4 }), { code: 'INVALID_INPUT', message: /another epoch/ })
  await t.rejects(keep(decided({ epoch: 3 }), { record: new Uint8Array(MAX_COPY_BYTES + 1) }), { code: 'INVALID_INPUT' })
  await t.rejects(keep(decided({ epoch: 1 }), { record: new Uint8Array() }), { code: 'STALE_EPOCH' }, 'a former master takes nothing away')
  for (let i = 1; i < MAX_CLUSTERS; i++) rows.set(`other${i}`, { ...rows.get(ID) as Copy, clusterId: `other${i}` })
  const other = ID.replace('0', 'f')
  await t.rejects(keep(decided({ id: other, document: { ...document, id: other } })), { code: 'TOO_MANY_COPIES' })
  await keep(decided({ epoch: 2 }), { record: new Uint8Array() })
  t.equal(rows.has(ID), false)
  clock.ms = decided().endMs + 1
  await copies.tick()
  t.equal(rows.size, 0, 'after the term there is nothing to take over')
})

interface Site { adoption: Adoption, rows: Map<string, Copy>, own: Map<string, MasterRecord>, clock: { ms: number }, claims: object[] }

/** A gateway that keeps a copy, and an anchor that answers as told. */
async function site (t: Test, anchor: (method: string) => unknown): Promise<Site> {
  const { copies, rows, clock } = keeper(0, () => Promise.reject(new Error('unused')))
  const own = new Map<string, MasterRecord>()
  const claims: object[] = []
  const record = decided()
  await copies.keep({ clusterId: ID, epoch: 1, record: json(record) }, { peerId: 'old' })
  const call = (peer: string, method: string, request: object): Promise<unknown> => {
    t.equal(peer, anchorOf(record).peer, 'only the anchor is asked')
    if (method === 'claim') claims.push(request)
    const answer = anchor(method)
    return answer instanceof Error ? Promise.reject(answer) : Promise.resolve(answer)
  }
  const adoption = createAdoption({
    site: 'tokyo', peer: 'new', call: call as unknown as CallPeer, copies, known: id => own.get(id), own: () => [...own.values()], heardMs: () => null, now: () => clock.ms, jitterMs: () => 0, log: silent,
    events: { add: () => undefined }, adopt (adopted) { own.set(adopted.id, adopted); return Promise.resolve() }
  })
  return { adoption, rows, own, clock, claims }
}
const own = (of: Site, part: Partial<MasterRecord>): void => {
  const record = of.own.get(ID)
  if (record !== undefined) of.own.set(ID, { ...record, ...part })
}
const granted = (method: string): unknown => method === 'claim' ? { epoch: 2, grant: { envelope: new Uint8Array([1]), chain: [] } } : { leaseState: 'active' }

t.test('a silent master is replaced where its anchor agrees, not before, and once', async t => {
  const { adoption, own, clock, claims } = await site(t, granted)
  await adoption.tick()
  clock.ms += MASTERLESS_MS
  await adoption.tick()
  t.same([claims, adoption.masterless()], [[], []], 'not yet')
  clock.ms += 1
  t.match(adoption.masterless(), [{ name: 'demo' }])
  await adoption.tick()
  t.same(claims, [{ clusterId: ID, epoch: 2, force: false }])
  t.match(own.get(ID), { state: 'active', epoch: 2, grant: { envelope: Uint8Array }, document: { masterPeer: 'new' } })
  t.same(adoption.masterless(), [])
  clock.ms += MASTERLESS_MS + 1
  await adoption.tick()
  t.same(claims.length, 2, 'then the anchor hears of it')
  await t.rejects(adoption.adopt('demo', { force: true }), { code: 'CONFLICT', message: /is the master of cluster demo already/ })
  await t.rejects(adoption.adopt('nobody', { force: false }), { code: 'NOT_FOUND' })
})

t.test('nothing is taken over where the brain would split', async t => {
  const alive = await site(t, () => new MusubiError('MASTER_ALIVE', 'it was heard of', { retryable: true }))
  await t.rejects(alive.adoption.adopt('demo', { force: false }), { code: 'MASTER_ALIVE' })
  alive.clock.ms += MASTERLESS_MS + 1
  await alive.adoption.tick()
  await alive.adoption.tick()
  t.equal(alive.claims.length, 2, 'what the anchor says is a sign of life')
  t.equal(alive.own.size, 0)

  const away = await site(t, () => new UnreachableError('tokyo-1 is not there'))
  await t.rejects(away.adoption.adopt(ID, { force: false }), { code: 'UNREACHABLE', message: /host tokyo-1, which decides who is its master, does not answer/, hint: /--force/ })
  away.clock.ms += MASTERLESS_MS + 1
  await away.adoption.tick()
  await away.adoption.tick()
  t.equal(away.own.size, 0, 'never by itself')
  t.equal(away.claims.length, 2, 'at a bounded rate')
  t.match(await away.adoption.adopt(ID, { force: true }), { epoch: 2, grant: null, state: 'active' })
})

t.test('who was forced in without a grant asks the anchor for it until it has it, or another has it', async t => {
  let anchor: (method: string) => unknown = () => new UnreachableError('tokyo-1 is not there')
  const forced = await site(t, method => anchor(method))
  await forced.adoption.adopt(ID, { force: true })
  const tick = async (): Promise<void> => { forced.clock.ms += 20_000; await forced.adoption.tick() }
  await tick()
  t.match(forced.own.get(ID), { grant: null })
  t.same(forced.claims.at(-1), { clusterId: ID, epoch: 2, force: true }, 'for its own epoch')
  own(forced, { state: 'releasing' })
  anchor = granted
  await tick()
  t.match(forced.own.get(ID), { state: 'releasing', epoch: 2, grant: { envelope: Uint8Array } }, 'also when it only lets go of it')
  own(forced, { state: 'active', grant: null })
  anchor = () => new MusubiError('STALE_EPOCH', 'another has epoch 2')
  await tick()
  t.match(forced.own.get(ID), { state: 'superseded' })
})

t.test('what never ran is adopted to be released, what has ended is forgotten', async t => {
  const never = await site(t, method => method === 'claim' ? granted(method) : { leaseState: 'committed' })
  t.match(await never.adoption.adopt('demo', { force: false }), { state: 'releasing' })
  const ended = await site(t, () => new MusubiError('NOT_FOUND', 'no leases'))
  ended.clock.ms += MASTERLESS_MS + 1
  await ended.adoption.tick()
  t.equal(ended.rows.size, 0)
})

t.test('with real gateways and ledgers: taken over, led on, and the former master gives way', async t => {
  // The frontend goes to the first gateway by name, so that the anchor outlives the master.
  const model = await startFederation([host('tokyo', 1, 'gateway compute', 2), host('tokyo', 2, 'gateway compute', 1), host('tsukuba', 1, 'gateway', 1), host('tsukuba', 2, 'compute', 3)])
  t.teardown(() => model.stop())
  await model.master('tokyo-2').create(wanted('demo', 4))
  await eventually('the cluster', () => model.master('tokyo-2').get('demo').state === 'building')
  const nodes = model.leases().length
  await t.rejects(model.master('tokyo-1').adopt('demo', { force: false }), { code: 'MASTER_ALIVE' })
  await t.rejects(model.master('tokyo-1').remove('demo'), { code: 'CONFLICT', message: /is not the master/, hint: /adopt/ })
  model.crash('tokyo-2')
  await model.pass(MASTERLESS_MS + 1_000)
  t.match(model.master('tokyo-1').get('demo'), { state: 'masterless' })
  await model.master('tokyo-1').adopt('demo', { force: false })
  t.match(model.master('tokyo-1').record('demo'), { epoch: 2, state: 'building' })
  await model.start('tokyo-2')
  await eventually('the end of the former master', async () => { await model.pass(1_000); return model.master('tokyo-2').get('demo').state === 'superseded' })
  t.equal(model.leases().length, nodes, 'nothing has stopped')
  await eventually('keep-alives of the new one', () => model.calls.some(c => c.from === 'tsukuba-1' && c.to === 'tsukuba-2' && c.method === 'hostKeepAlive' && (c.request as { epoch: number }).epoch === 2))
  await model.master('tokyo-1').extend('demo', 24 * 3_600_000)
  await model.master('tokyo-1').scale('demo', 3)
  await eventually('a smaller cluster', () => model.leases().filter(l => l.includes(' node ')).length === 3)
  await eventually('what has gone is gone', async () => { await model.pass(0); return (await model.objects()).filter(o => o.includes(' domain ')).length === 3 })
  await eventually('a larger cluster', async () => {
    await model.pass(0)
    return await model.master('tokyo-1').scale('demo', 5).then(() => true, (error: unknown) => { if (errorCode(error) === 'NOT_READY') return false; throw error })
  })
  t.equal(model.leases().filter(l => l.includes(' node ') && l.endsWith(' active')).length, 5)
  await model.master('tokyo-1').remove('demo')
  await eventually('the deletion', () => model.master('tokyo-1').get('demo').state === 'deleted' && model.leases().length === 0)
  t.equal(model.alive('tokyo-2').copies.list().length, 0, 'no copy is left')
})

t.test('what a growth has brought in is let go by the master that follows', async t => {
  const model = await startFederation([host('tokyo', 1, 'gateway compute', 2), host('tokyo', 2, 'gateway compute', 1), host('tsukuba', 1, 'gateway compute', 3)])
  t.teardown(() => model.stop())
  await model.master('tokyo-2').create(wanted('demo', 1))
  await eventually('the cluster', () => model.master('tokyo-2').get('demo').state === 'building')
  const atHome = model.leases()
  t.notOk(atHome.some(line => line.startsWith('tsukuba')))
  model.fate = ({ from, to, method }) => from === 'tokyo-2' && to === 'tsukuba-1' && method === 'activate' ? 'lose reply' : 'deliver'
  model.master('tokyo-2').scale('demo', 4).catch(() => undefined)
  await eventually('its growth', () => model.leases().some(line => line.startsWith('tsukuba') && line.endsWith(' active')))
  model.crash('tokyo-2')
  model.fate = () => 'deliver'
  await model.pass(MASTERLESS_MS + 1_000)
  await model.master('tokyo-1').adopt('demo', { force: false })
  await eventually('the end of the growth', async () => { await model.pass(500); return !model.leases().some(line => line.startsWith('tsukuba')) })
  t.ok(atHome.filter(line => line.startsWith('tokyo-1')).every(line => model.leases().includes(line)), 'the rest goes on')
})

t.test('a deletion waits for what a growth of the former master has brought in', t => {
  const world = new World({ tokyo: 2, tsukuba: 2 })
  world.create()
  world.settle()
  const former = world.record()
  const [first] = former.offers
  if (first === undefined) throw new Error('there is no offer')
  const brought = { ...first, site: 'ueno', offerId: 'grown', gateway: { ...first.gateway, peer: 'peer-ueno-1', host: 'ueno-1' } }
  const machine = emptyMaster('tokyo')
  const adopted: MasterRecord = {
    ...former, epoch: 2, grant: { envelope: new Uint8Array([1]), chain: [] },
    amendment: { kind: 'grow', id: 'g', state: 'activating', endMs: former.endMs, count: 5, offers: [brought], receipts: [], commitByMs: former.createdMs, document: null }
  }
  const nowMs = former.createdMs + 1_000
  advance(machine, { type: 'adopt', record: adopted }, nowMs)
  const effects = advance(machine, { type: 'delete', clusterId: ID, reason: 'deleted by the user' }, nowMs + 1)
  const told = (method: string): string[] => effects.flatMap(one => one.effect === 'call' && one.ask.method === method ? [one.peer] : [])
  t.same(told('release').sort(), ['peer-tokyo-1', 'peer-tsukuba-1', 'peer-ueno-1'])
  t.ok(told('keepAlive').includes('peer-ueno-1'), 'it is shown the grant, without which it would release nothing')
  for (const one of effects) {
    if (one.effect === 'call' && one.ask.method === 'release' && one.peer !== 'peer-ueno-1') advance(machine, { type: 'reply', callId: one.callId, answer: { method: 'release', reply: { site: '', ended: 1 } } }, nowMs + 2)
  }
  t.match(machine.records.get(ID), { state: 'releasing', asked: [{ site: 'ueno', peer: 'peer-ueno-1' }] })
  const last = effects.find(one => one.effect === 'call' && one.ask.method === 'release' && one.peer === 'peer-ueno-1')
  if (last?.effect !== 'call') throw new Error('it is not told')
  advance(machine, { type: 'reply', callId: last.callId, answer: { method: 'release', reply: { site: 'ueno', ended: 1 } } }, nowMs + 3)
  t.match(machine.records.get(ID), { state: 'ended', asked: [], dropped: [] })
  advance(machine, { type: 'tick' }, nowMs + 25 * 3_600_000)
  t.equal(machine.records.get(ID), undefined, 'a day later it is forgotten')
  t.end()
})
