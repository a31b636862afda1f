import t, { type Test } from 'tap'
import type { ClusterResource } from '../../../protocol/api.ts'
import { ACTIVATE_TTL_MS, CONFIRM_MS } from '../../../protocol/core/limits.ts'
import { eventually, host, startFederation, wanted, type Fate, type FederationModel, type HostPlan } from '../../model/federation.ts'

const MINUTE = 60_000
const HOUR = 60 * MINUTE
const TWO = [host('tokyo', 1, 'gateway compute', 3), host('tsukuba', 1, 'gateway', 1), host('tsukuba', 2, 'compute', 2)]
/** All that both sites have beside the frontend. */
const ALL = 4

async function federation (t: Test, plans: readonly HostPlan[] = TWO): Promise<FederationModel> {
  const model = await startFederation(plans)
  t.teardown(() => model.stop())
  return model
}

async function settled (model: FederationModel, id: string, states: readonly string[], master = 'tokyo-1'): Promise<ClusterResource> {
  await eventually(states.join(' or '), () => states.includes(model.master(master).get(id).state), 20_000)
  return model.master(master).get(id)
}

/** Time passes in steps in which a master keeps its reservations alive. */
async function passSlowly (model: FederationModel, ms: number, stepMs: number): Promise<void> {
  for (let left = ms; left > 0; left -= stepMs) {
    await model.pass(Math.min(stepMs, left))
    const before = model.calls.length
    await eventually('keep-alives', () => model.calls.slice(before).some(call => call.method === 'keepAlive' || call.method === 'activate')).catch(() => undefined)
  }
}

t.test('a cluster of the future is reserved, confirmed, and starts when its time has come; nothing of it is there before', async t => {
  const model = await federation(t)
  const startMs = model.clockMs + HOUR
  const { id } = await model.master('tokyo-1').create(wanted('demo', ALL), { startMs, forMs: 2 * HOUR })
  const cluster = await settled(model, id, ['reserved', 'failed'])
  t.match(cluster, { state: 'reserved', startsAt: startMs, expiresAt: startMs + 2 * HOUR, error: null })
  t.equal(cluster.nodes.length, ALL, 'it is known where its nodes will be')
  t.ok(model.leases().every(line => line.endsWith(' committed')))
  t.same(await model.objects(), [])
  t.equal(model.alive('tsukuba-2').ledger.free().vcpus, 2, 'what is free now is not less for it')
  t.equal(model.alive('tsukuba-2').ledger.free(startMs, startMs + HOUR).vcpus, 0)
  await model.pass(HOUR - CONFIRM_MS - MINUTE)
  t.ok([...model.alive('tsukuba-2').ledger.state().leases.values()].every(lease => lease.confirmByMs === startMs), 'so early nothing is confirmed')
  await model.pass(2 * MINUTE)
  await eventually('its confirmation', () => [...model.alive('tsukuba-2').ledger.state().leases.values()].every(lease => lease.confirmByMs === 0))
  t.same(await model.objects(), [])
  model.crash('tokyo-1')
  await model.start('tokyo-1')
  t.equal(model.master('tokyo-1').get('demo').state, 'reserved', 'a master that restarts goes on')
  await model.pass(CONFIRM_MS - MINUTE)
  await settled(model, id, ['building'])
  t.ok(model.leases().every(line => line.endsWith(' active')))
  await eventually('its objects', async () => (await model.objects()).filter(line => line.includes(' domain ')).length === ALL)
})

t.test('a reservation whose master is gone ends at its start, and that is told', async t => {
  const model = await federation(t)
  const startMs = model.clockMs + HOUR
  const { id } = await model.master('tokyo-1').create(wanted('demo', ALL), { startMs })
  await settled(model, id, ['reserved'])
  model.crash('tokyo-1')
  await model.pass(HOUR + 1)
  t.same(model.leases(), ['tokyo-1 is down'])
  const seen = model.alive('tsukuba-2').events.list().filter(event => event.type === 'lease.no_show')
  t.match(seen, [{ cluster: 'demo', message: /^2 leases of cluster demo of tokyo ended unused: not confirmed by its master$/ }])
  const history = await model.alive('tsukuba-2').ledger.history({ clusterId: id })
  t.match(history.at(-1), { trigger: 'expire', from: 'committed', to: 'ended', reason: 'not confirmed by its master' })
  await model.start('tokyo-1')
  t.match(await settled(model, id, ['failed', 'building']), { state: 'failed' }, 'and its master, back too late, says so')
})

t.test('confirmed and then left alone, it ends when nobody activates it', async t => {
  const model = await federation(t)
  const startMs = model.clockMs + 2 * MINUTE
  const { id } = await model.master('tokyo-1').create(wanted('demo', ALL), { startMs })
  await settled(model, id, ['reserved'])
  model.crash('tokyo-1')
  await model.pass(2 * MINUTE + ACTIVATE_TTL_MS - 1_000)
  t.ok(model.leases().includes('tsukuba-1 segment segment committed'))
  await model.pass(1_001)
  t.same(model.leases(), ['tokyo-1 is down'])
  t.match(model.alive('tsukuba-1').events.list().filter(event => event.type === 'lease.no_show'), [{ message: /was not activated in time/ }])
})

t.test('a reservation can be deleted, and extended; its nodes are what they are until it runs', async t => {
  const model = await federation(t)
  const master = model.master('tokyo-1')
  const startMs = model.clockMs + HOUR
  const { id } = await master.create(wanted('demo', ALL), { startMs, forMs: HOUR })
  await settled(model, id, ['reserved'])
  t.match(await master.extend('demo', 3 * HOUR), { state: 'reserved', expiresAt: startMs + 3 * HOUR }, 'from its start')
  t.ok([...model.alive('tsukuba-2').ledger.state().leases.values()].every(lease => lease.endMs === startMs + 3 * HOUR))
  await t.rejects(master.scale('demo', 5), { code: 'CONFLICT', message: /starts at .*: before that its nodes cannot be changed/ })
  await t.rejects(master.scale('demo', 2), { code: 'CONFLICT', message: /starts at/ })
  await passSlowly(model, HOUR, 15_000 * 20)
  await settled(model, id, ['building'])
  await master.remove('demo')
  await settled(model, id, ['deleted'])
  const again = await master.create(wanted('demo', ALL), { startMs: model.clockMs + HOUR })
  await settled(model, again.id, ['reserved'])
  await master.remove('demo')
  await settled(model, again.id, ['deleted'])
  t.same(model.leases(), [])
})

t.test('another one fits before and after a reservation, and not beside it', async t => {
  const model = await federation(t)
  const master = model.master('tokyo-1')
  const startMs = model.clockMs + HOUR
  await settled(model, (await master.create(wanted('first', ALL), { startMs, forMs: HOUR })).id, ['reserved'])
  const vcpus = async (from: number, until: number): Promise<unknown> => (await master.freeIn(from, until)).map(site => [site.site, site.freeByHost.map(free => free.vcpus)])
  t.same(await vcpus(model.clockMs, startMs), [['tokyo', [3]], ['tsukuba', [2]]])
  t.same(await vcpus(model.clockMs, startMs + 1), [['tokyo', [0]], ['tsukuba', [0]]])
  t.match(await settled(model, (await master.create(wanted('before', ALL), { endMs: startMs })).id, ['building', 'failed']), { state: 'building' }, 'half open: it ends when the next begins')
  const beside = await settled(model, (await master.create(wanted('beside', ALL), { startMs: startMs + 10 * MINUTE, forMs: HOUR })).id, ['reserved', 'failed'])
  t.match(beside, { state: 'failed', error: { code: 'NO_CAPACITY', hint: new RegExp(`all of it would fit from ${new Date(startMs + HOUR).toISOString().slice(0, 16)}`) } })
  const now = await settled(model, (await master.create(wanted('now', ALL))).id, ['building', 'failed'])
  t.match(now, { state: 'failed', error: { code: 'NO_CAPACITY', hint: /would fit from/ } })
  t.match(await master.plan(wanted('next', ALL), { earliest: true }), { explanation: new RegExp(`would go from ${new Date(startMs + HOUR).toISOString().slice(0, 16)}`) })
  await t.rejects(master.plan(wanted('next', ALL), { earliest: true, withinMs: HOUR }), { code: 'NO_CAPACITY', message: /no start until/ })
  const next = await settled(model, (await master.create(wanted('next', ALL), { earliest: true })).id, ['reserved', 'failed'])
  t.match(next, { state: 'reserved', startsAt: startMs + HOUR, expiresAt: startMs + 3 * HOUR })
  const late = await settled(model, (await master.create(wanted('late', 1), { earliest: true, withinMs: 5 * MINUTE })).id, ['reserved', 'failed'])
  t.match(late, { state: 'failed', error: { code: 'NO_CAPACITY', message: /no start until/, hint: /--within/ } })
})

t.test('the earliest start is one at which the lender lends: it is asked once', async t => {
  const model = await federation(t)
  const master = model.master('tokyo-1')
  // it is 08:00 there
  const opens = model.clockMs + HOUR
  model.machine('tsukuba-1').policy = { default: { windows: [{ from: '09:00', to: '12:00', zone: 'UTC' }], longestLease: '3h' } }
  const next = await settled(model, (await master.create(wanted('next', ALL), { earliest: true, forMs: 2 * HOUR })).id, ['reserved', 'failed'])
  t.match(next, { state: 'reserved', startsAt: opens, expiresAt: opens + 2 * HOUR })
  t.equal(model.calls.filter(({ method, to }) => method === 'request' && to === 'tsukuba-1').length, 1)
  const after = await settled(model, (await master.create(wanted('after', ALL), { earliest: true, forMs: 2 * HOUR })).id, ['reserved', 'failed'])
  t.match(after, { state: 'reserved', startsAt: opens + 24 * HOUR }, 'what is left of that window is too short')
  t.match(await settled(model, (await master.create(wanted('soon', ALL), { earliest: true, forMs: 2 * HOUR, withinMs: 5 * HOUR })).id, ['reserved', 'failed']), { state: 'failed', error: { code: 'NO_CAPACITY' } })
  const before = model.calls.length
  const long = await settled(model, (await master.create(wanted('long', ALL), { startMs: opens + 48 * HOUR, forMs: 4 * HOUR })).id, ['reserved', 'failed'])
  t.match(long, { state: 'failed', error: { code: 'NO_CAPACITY', message: /tsukuba: it lends for at most 180 minutes, 240 minutes were asked for/ } })
  t.match(await settled(model, (await master.create(wanted('off', ALL), { startMs: opens + 46 * HOUR, forMs: 2 * HOUR })).id, ['reserved', 'failed']), { error: { message: /tsukuba: it lends at certain times only/, hint: new RegExp(`all of it would fit from ${new Date(opens + 48 * HOUR).toISOString().slice(0, 16)}`) } })
  t.notOk(model.calls.slice(before).some(({ method }) => method === 'request'), 'nobody is asked for what is refused')
  model.machine('tsukuba-1').policy = { default: { deny: true } }
  t.match(await settled(model, (await master.create(wanted('none', ALL), { earliest: true })).id, ['reserved', 'failed']), { state: 'failed', error: { code: 'NO_CAPACITY' } })
})

t.test('more nodes go where they can stay to the end of the cluster', async t => {
  const model = await federation(t, [host('tokyo', 1, 'gateway compute', 2), host('tsukuba', 1, 'gateway compute', 4), host('ueno', 1, 'gateway', 1), host('ueno', 2, 'compute', 3)])
  const master = model.master('tokyo-1')
  const { id } = await master.create(wanted('demo', 1), { forMs: 5 * HOUR })
  await settled(model, id, ['building'])
  // the nearest by name has more room now, and has promised it for later
  const later = await settled(model, (await model.master('tsukuba-1').create(wanted('later', 3), { startMs: model.clockMs + 4 * HOUR, forMs: HOUR })).id, ['reserved', 'failed'], 'tsukuba-1')
  t.match(later, { state: 'reserved' })
  const before = model.calls.length
  await master.scale('demo', 4)
  t.same(master.get('demo').nodes.map(node => node.site).sort(), ['tokyo', 'ueno', 'ueno', 'ueno'])
  t.same(model.calls.slice(before).filter(({ method }) => method === 'request').map(({ to }) => to), ['ueno-1'], 'nobody is asked for what it will need')
  await t.rejects(master.scale('demo', 6), { code: 'NO_CAPACITY' })
})

t.test('who looks for the earliest start and finds somebody faster looks again', async t => {
  const model = await federation(t)
  const master = model.master('tokyo-1')
  let raced = false
  model.fate = async ({ method, to, request }): Promise<Fate> => {
    if (method !== 'hold' || to !== 'tsukuba-2' || raced || (request as { cluster: string }).cluster !== 'slow') return 'deliver'
    raced = true
    await model.alive('tsukuba-2').ledger.hold({
      key: 'k', clusterId: 'other', cluster: 'other', masterSite: 'tsukuba', masterPeer: 'peer-tsukuba-1', startMs: model.clockMs, endMs: model.clockMs + HOUR, ttlMs: 0, offerId: 'o', epoch: 1,
      items: [{ leaseId: 'l', kind: 'node', name: 'other', resources: { vcpus: 2, memoryMib: 2048, diskMib: 0, volumes: 0, bandwidthMbit: 0 }, segmentId: 0 }]
    })
    return 'deliver'
  }
  const begun = model.clockMs
  const cluster = await settled(model, (await master.create(wanted('slow', ALL), { earliest: true })).id, ['reserved', 'building', 'failed'])
  t.ok(raced)
  t.match(cluster, { state: 'reserved', startsAt: begun + HOUR })
})

t.test('times that cannot be are refused with what is wrong', async t => {
  const model = await federation(t)
  const master = model.master('tokyo-1')
  const now = model.clockMs
  const refused = async (when: Parameters<typeof master.create>[1], message: RegExp): Promise<void> => { await t.rejects(master.create(wanted('demo', 1), when), { code: 'INVALID_INPUT', message }) }
  await refused({ startMs: now - 2 * HOUR }, /cluster demo: it is to start at .*in the past/)
  await refused({ startMs: now + HOUR, endMs: now + HOUR / 2 }, /it is to end at .*, before it starts, at/)
  await refused({ endMs: now - HOUR }, /which is in the past/)
  await refused({ startMs: now + 400 * 24 * HOUR }, /more than 366 days from now/)
  await refused({ endMs: now + 1_000 }, /a term is 60 s to 366 days/)
  await refused({ endMs: now + HOUR, forMs: HOUR }, /both given/)
  await refused({ withinMs: HOUR }, /no earliest start/)
  await refused({ earliest: true, endMs: now + HOUR }, /cannot both/)
  const dated = wanted('demo', 1) as { spec: object }
  await t.rejects(master.create({ ...dated, spec: { ...dated.spec, start: '2026-12-01T08:00' } }), { code: 'INVALID_INPUT', message: /spec\.start: "2026-12-01T08:00" is not a time with a zone/ })
  await t.rejects(master.create({ ...dated, spec: { ...dated.spec, end: '2030-02-30T08:00Z', term: '2h' } }), { message: /spec\.end: spec\.term says how long[^]*spec\.end: "2030-02-30T08:00Z" is not a time/ })
  const start = new Date(now + HOUR)
  const { id } = await master.create({ ...dated, spec: { ...dated.spec, start: start.toISOString().replace('.000', ''), end: new Date(now + 3 * HOUR).toISOString().replace('.000', '') } })
  t.match(await settled(model, id, ['reserved', 'failed']), { state: 'reserved', startsAt: now + HOUR, expiresAt: now + 3 * HOUR })
  t.same(model.leases().length > 0, true)
})
