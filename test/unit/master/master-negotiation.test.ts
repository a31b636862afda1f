import t, { type Test } from 'tap'
import type { ClusterResource } from '../../../protocol/api.ts'
import type { MasterRecord } from '../../../protocol/core/master/record.ts'
import { eventually, host, startFederation, wanted, type Fate, type FederationModel, type HostPlan } from '../../model/federation.ts'

const TWO = [host('tokyo', 1, 'gateway compute', 3), host('tokyo', 2, 'compute storage', 1), host('tsukuba', 1, 'gateway', 1), host('tsukuba', 2, 'compute', 2)]
const THREE = [...TWO, host('osaka', 1, 'gateway compute', 2)]
const FULL = wanted('demo', 5, { volumes: [{ name: 'data', sizeMiB: 64, node: 1 }] })

async function federation (t: Test, plans: readonly HostPlan[] = TWO): Promise<FederationModel> {
  const model = await startFederation(plans)
  t.teardown(() => model.stop())
  return model
}

async function settled (model: FederationModel, master: string, id: string, states: readonly string[]): Promise<ClusterResource> {
  await eventually(`${states.join(' or ')} instead of ${model.master(master).get(id).state}`, () => states.includes(model.master(master).get(id).state), 20_000)
  return model.master(master).get(id)
}

t.test('a cluster gets all its leases, and gives all of them back', async t => {
  const model = await federation(t)
  const { id } = await model.master('tokyo-1').create(FULL)
  const cluster = await settled(model, 'tokyo-1', id, ['building'])
  t.same(model.leases().sort(), [
    'tokyo-1 frontend frontend active', 'tokyo-1 node demo-tokyo-001 active', 'tokyo-1 node demo-tokyo-002 active', 'tokyo-1 segment segment active',
    'tokyo-2 node demo-tokyo-003 active', 'tokyo-2 volume data active', 'tsukuba-1 segment segment active', 'tsukuba-2 node demo-tsukuba-004 active', 'tsukuba-2 node demo-tsukuba-005 active'
  ])
  t.match(cluster, { masterSite: 'tokyo', lease: { sites: 2, holds: 9 }, error: null })
  await eventually('its objects', async () => (await model.objects()).length === 14)
  t.same((await model.objects()).map(o => o.split(' ').slice(0, 2).join(' ')).sort(), [
    'tokyo-1 domain', 'tokyo-1 domain', 'tokyo-1 frontend', 'tokyo-1 segment', 'tokyo-1 tunnel', 'tokyo-2 domain', 'tokyo-2 segment', 'tokyo-2 volume',
    'tsukuba-1 cache', 'tsukuba-1 segment', 'tsukuba-1 tunnel', 'tsukuba-2 domain', 'tsukuba-2 domain', 'tsukuba-2 segment'
  ])
  await eventually('the defined phase of every node', () => model.master('tokyo-1').get(id).nodes.every(n => n.phases.defined !== null))
  await t.rejects(model.master('tokyo-1').create(wanted('demo', 1)), { code: 'CONFLICT', message: /demo exists already \(building\)/, hint: /musubi cluster delete demo/ })
  await model.master('tokyo-1').remove('demo')
  await settled(model, 'tokyo-1', id, ['deleted'])
  t.same(model.leases(), [])
  t.same(await model.objects(), [])
  t.same(model.master('tokyo-1').list(), [], 'a deleted cluster is listed no more')
  t.equal(model.master('tokyo-1').get('demo').state, 'deleted', 'and can still be looked at')
})

t.test('the decision is on disk before the first commit leaves', async t => {
  const model = await federation(t)
  const decided: Array<Partial<MasterRecord> | undefined> = []
  model.fate = async ({ method, request }): Promise<Fate> => {
    if (method === 'commit') decided.push(await model.machine('tokyo-1').disk.get<MasterRecord>(`cluster/${(request as { clusterId: string }).clusterId}`))
    return 'deliver'
  }
  const { id } = await model.master('tokyo-1').create(FULL)
  await settled(model, 'tokyo-1', id, ['building'])
  t.equal(decided.length, 2)
  for (const record of decided) t.match(record, { state: 'committing', offers: [{ site: 'tokyo' }, { site: 'tsukuba' }], asked: [{ site: 'tokyo' }, { site: 'tsukuba' }] })
  const order = model.calls.map(c => c.method)
  t.ok(order.lastIndexOf('hold') < order.indexOf('commit'), 'everything is held before anything is committed')
  t.ok(order.lastIndexOf('hostCommit') < order.indexOf('activate'), 'and committed before anything is activated')
})

t.test('a site that refuses is left out of the next placement, and keeps nothing', async t => {
  const model = await federation(t, THREE)
  model.belief.set('tsukuba-2', { vcpus: 8, memoryMib: 8192, diskMib: 0, volumes: 0, bandwidthMbit: 0 })
  const { id } = await model.master('tokyo-1').create(wanted('demo', 5, { memoryMiB: 1024 }))
  await model.machine('tsukuba-2').life?.ledger.hold({
    key: 'k', clusterId: 'other', cluster: 'other', masterSite: 'tsukuba', masterPeer: 'peer-tsukuba-1', startMs: model.clockMs, endMs: model.clockMs + 3_600_000, ttlMs: 0, offerId: 'o', epoch: 1,
    items: [{ leaseId: 'l', kind: 'node', name: 'other', resources: { vcpus: 2, memoryMib: 2048, diskMib: 0, volumes: 0, bandwidthMbit: 0 }, segmentId: 0 }]
  })
  const cluster = await settled(model, 'tokyo-1', id, ['building', 'failed'])
  t.match(cluster, { state: 'building', error: null })
  t.same([...new Set(cluster.nodes.map(n => n.site))].sort(), ['osaka', 'tokyo'])
  t.same(model.leases().filter(l => l.startsWith('tsukuba')), ['tsukuba-2 node other held'])
})

t.test('too little everywhere: every site is named with what it lacks, nothing is held', async t => {
  const model = await federation(t)
  const { id } = await model.master('tokyo-1').create(wanted('demo', 9))
  const { error } = await settled(model, 'tokyo-1', id, ['failed'])
  t.match(error, { code: 'NO_CAPACITY', message: /tokyo: takes 3 of 9[^]*tsukuba: takes 2 of 9/, hint: /musubi search/ })
  t.same(model.leases(), [])
  await t.rejects(model.master('tokyo-1').plan(wanted('demo', 9)), { code: 'NO_CAPACITY', hint: /^5 of 9 nodes would fit in that time; see/ })
  t.match(await model.master('tokyo-1').plan(wanted('demo', 5)), { explanation: /tsukuba/ })
  await t.rejects(model.master('tokyo-1').create(wanted('demo', 0)), { code: 'INVALID_INPUT', message: /count/ })
  await t.rejects(model.master('tokyo-1').create({ ...wanted('demo', 1), extra: 1 }), { code: 'INVALID_INPUT', message: /extra: unknown field/ })
  t.same((await model.master('tokyo-1').remove('demo')).state, 'deleted', 'a failed one is only forgotten')
})

t.test('a site that does not answer is left out; when it alone had room, that is said', async t => {
  const model = await federation(t, THREE)
  model.fate = ({ to, method }) => to === 'osaka-1' && method !== 'status' ? 'lose request' : 'deliver'
  const other = await model.master('tokyo-1').create(wanted('other', 5))
  t.match(await settled(model, 'tokyo-1', other.id, ['building', 'failed']), { state: 'building' })
  t.notOk(model.leases().some(l => l.startsWith('osaka')))
  await model.master('tokyo-1').remove('other')
  await settled(model, 'tokyo-1', other.id, ['deleted'])
  const { id } = await model.master('tokyo-1').create(wanted('demo', 6))
  const { error } = await settled(model, 'tokyo-1', id, ['failed'])
  t.match(error, { code: 'UNREACHABLE', message: /osaka \(osaka-1\):[^]*did not answer request/ })
  t.same(model.leases(), [])
})

t.test('a site that vanishes between offer and commit leaves nothing held, and the error names it', async t => {
  const model = await federation(t)
  model.fate = ({ to, method }) => {
    if (to !== 'tsukuba-1' || (method !== 'commit' && method !== 'release')) return 'deliver'
    model.clockMs += 9_000
    return 'lose request'
  }
  const { id } = await model.master('tokyo-1').create(FULL)
  const cluster = await settled(model, 'tokyo-1', id, ['failed'])
  t.match(cluster.error, { code: 'UNREACHABLE', message: /not every site could commit[^]*tsukuba: tsukuba\/tsukuba-1 did not answer commit/, hint: /30 s/ })
  t.notOk(model.leases().some(l => l.startsWith('tokyo')), 'where the master reaches, nothing is held at once')
  await model.pass(31_000)
  t.same(model.leases(), [], 'elsewhere holds have ended by themselves')
  t.same(await model.objects(), [])
})

t.test('a commit whose answer got lost is asked again and counts once', async t => {
  const model = await federation(t)
  let lost = 0
  model.fate = ({ to, method }) => to === 'tsukuba-1' && method === 'commit' && lost++ === 0 ? 'lose reply' : 'deliver'
  const { id } = await model.master('tokyo-1').create(FULL)
  t.match(await settled(model, 'tokyo-1', id, ['building', 'failed']), { state: 'building', lease: { holds: 9 } })
  t.equal(lost, 2)
})

t.test('committed at a site that is gone after: the lease is inert and ends by itself', async t => {
  const model = await federation(t)
  model.fate = ({ to, method }) => {
    if (to !== 'tsukuba-1' || (method !== 'commit' && method !== 'release')) return 'deliver'
    model.clockMs += 9_000
    return method === 'commit' ? 'lose reply' : 'lose request'
  }
  const { id } = await model.master('tokyo-1').create(FULL)
  await settled(model, 'tokyo-1', id, ['failed'])
  t.ok(model.leases().includes('tsukuba-2 node demo-tsukuba-004 committed'))
  t.same(await model.objects(), [], 'nothing runs anywhere')
  await model.pass(121_000)
  t.same(model.leases(), [])
})

t.test('a hold that ran out while another site was still thinking is not counted on', async t => {
  const model = await federation(t)
  model.fate = ({ to, method }) => {
    if (to === 'tsukuba-1' && method === 'request') model.clockMs += 29_950 // clocks further apart would be refused as such
    return 'deliver'
  }
  const { id } = await model.master('tokyo-1').create(FULL)
  t.match((await settled(model, 'tokyo-1', id, ['failed'])).error, { code: 'UNREACHABLE', message: /the hold at tokyo.* ran out/ })
  t.notOk(model.calls.some(c => c.method === 'commit'))
  await model.pass(31_000)
  t.same(model.leases(), [])
})

t.test('an offer of something else than was asked is refused', async t => {
  const model = await federation(t)
  model.fate = ({ to, method, request }) => {
    if (to === 'tsukuba-1' && method === 'request') (request as { nodes: unknown[] }).nodes.pop()
    return 'deliver'
  }
  const { id } = await model.master('tokyo-1').create(wanted('demo', 5))
  t.match((await settled(model, 'tokyo-1', id, ['failed'])).error, { message: /tsukuba.*something else than was asked/ })
  t.same(model.leases(), [])
})

t.test('activation is tried again while a gateway restarts', async t => {
  const model = await federation(t)
  let tries = 0
  model.fate = ({ to, method }) => to === 'tsukuba-1' && method === 'activate' && tries++ < 2 ? 'lose request' : 'deliver'
  const { id } = await model.master('tokyo-1').create(FULL)
  t.match(await settled(model, 'tokyo-1', id, ['building', 'failed']), { state: 'building' })
  t.equal(tries, 3)
})

t.test('what was activated behind a lost answer is released, however long the site is away', async t => {
  const model = await federation(t)
  let away = true
  model.fate = ({ to, method }) => {
    if (to !== 'tsukuba-1' || !away || (method !== 'activate' && method !== 'release')) return 'deliver'
    model.clockMs += 25_000
    return method === 'activate' ? 'lose reply' : 'lose request'
  }
  const { id } = await model.master('tokyo-1').create(FULL)
  const { error } = await settled(model, 'tokyo-1', id, ['failed'])
  t.match(error, { code: 'UNREACHABLE', message: /site tsukuba could not activate/ })
  t.ok(model.leases().includes('tsukuba-2 node demo-tsukuba-004 active'))
  await eventually('the others have let go', () => !model.leases().some(l => l.startsWith('tokyo')))
  // Not even a restart of the master makes it forget.
  model.crash('tokyo-1')
  await model.start('tokyo-1')
  away = false
  await eventually('the end of what ran at tsukuba', async () => model.leases().length === 0 && (await model.objects()).length === 0)
  t.equal(model.master('tokyo-1').get(id).state, 'failed')
})

t.test('a deletion is repeated until every site has confirmed', async t => {
  const model = await federation(t)
  const { id } = await model.master('tokyo-1').create(FULL)
  await settled(model, 'tokyo-1', id, ['building'])
  await eventually('its objects', async () => (await model.objects()).length === 14)
  let away = true
  model.fate = ({ to, method }) => away && to === 'tsukuba-1' && method === 'release' ? 'lose request' : 'deliver'
  await model.master('tokyo-1').remove('demo')
  await eventually('the release at tokyo', async () => (await model.objects()).every(o => o.startsWith('tsukuba')))
  t.equal(model.master('tokyo-1').get(id).state, 'deleting')
  t.ok(model.leases().some(l => l.startsWith('tsukuba')))
  const asked = model.calls.filter(c => c.to === 'tokyo-1' && c.method === 'release').length
  away = false
  await settled(model, 'tokyo-1', id, ['deleted'])
  t.same(model.leases(), [])
  t.same(await model.objects(), [])
  t.equal(model.calls.filter(c => c.to === 'tokyo-1' && c.method === 'release').length, asked, 'who has confirmed is not asked again')
})

for (const method of ['request', 'commit', 'activate'] as const) {
  t.test(`a cluster that is deleted while it waits for the answer to ${method} is deleted`, async t => {
    const model = await federation(t)
    const { promise: go, resolve } = Promise.withResolvers<undefined>()
    const { promise: reached, resolve: arrive } = Promise.withResolvers<undefined>()
    model.fate = async (message): Promise<Fate> => {
      if (message.to === 'tsukuba-1' && message.method === method) {
        arrive(undefined)
        await go
      }
      return 'deliver'
    }
    const { id } = await model.master('tokyo-1').create(FULL)
    await reached
    t.equal((await model.master('tokyo-1').remove('demo')).state, 'deleting')
    resolve(undefined)
    await settled(model, 'tokyo-1', id, ['deleted'])
    await eventually('nothing is held', () => model.leases().length === 0)
    await eventually('nothing runs', async () => (await model.objects()).length === 0)
  })
}

t.test('the end of the term ends everything, with or without the master', async t => {
  const model = await federation(t)
  const { id } = await model.master('tokyo-1').create(wanted('demo', 5, { term: '10m' }))
  await settled(model, 'tokyo-1', id, ['building'])
  await eventually('its objects', async () => (await model.objects()).length === 13)
  model.fate = ({ from, to }) => from === to || from.startsWith(to.slice(0, -1)) ? 'deliver' : 'lose request'
  await model.pass(601_000)
  t.same(model.leases(), [])
  await eventually('nothing runs', async () => { await model.pass(0); return (await model.objects()).length === 0 })
  await model.pass(61_000) // the guard: a lender whose clock is behind may have run it until then
  await settled(model, 'tokyo-1', id, ['deleted'])
})

t.test('of two clusters that want the last place exactly one gets it, and the other holds nothing', async t => {
  const model = await federation(t)
  const masters = [model.master('tokyo-1'), model.master('tsukuba-1')]
  const made = await Promise.all([masters[0]?.create(wanted('red', 4)), masters[1]?.create(wanted('blue', 2))])
  const ended = await Promise.all([settled(model, 'tokyo-1', made[0]?.id ?? '', ['building', 'failed']), settled(model, 'tsukuba-1', made[1]?.id ?? '', ['building', 'failed'])])
  t.same(ended.map(c => c.state).sort(), ['building', 'failed'])
  const winner = ended.find(c => c.state === 'building')?.name
  const loser = ended.find(c => c.state === 'failed')
  t.equal(loser?.error?.code, 'NO_CAPACITY')
  t.ok(model.leases().every(l => !l.includes(` ${loser?.name ?? ''}-`)), `only ${winner ?? ''} has leases`)
})
