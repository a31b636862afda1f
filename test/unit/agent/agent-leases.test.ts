/** The lease resources and their routes, over a ledger of which every answer is known. */
import { pino } from 'pino'
import t, { type Test } from 'tap'
import { createLeaseView, type LeaseView, type LeaseViewDeps } from '../../../agent/api/view/leases.ts'
import { addAgentRoutes, type RouteDeps } from '../../../agent/api/routes.ts'
import { createEventLog } from '../../../agent/events.ts'
import { LeaseDetailSchema, LeaseEventSchema, LeaseSchema, type LeaseDetail } from '../../../protocol/api.ts'
import { MusubiError, NoCapacityError } from '../../../protocol/core/errors.ts'
import type { Lease } from '../../../protocol/core/lease/lease.ts'
import { emptyLedger, putLease } from '../../../protocol/core/lease/state.ts'
import { MASTERLESS_MS, MAX_HISTORY_ANSWERED } from '../../../protocol/core/limits.ts'
import { shortId } from '../../../protocol/core/notation/short-id.ts'
import { createApi, type Api } from '../../../protocol/rest/server.ts'
import type { HistoryEntry } from '../../../store/ledger/types.ts'

const NOW = 1_000_000
const OFFER = '3f2a91c4-57a9-4f0f-a8e4-6b0d2c3c7f11'
const resources = { vcpus: 2, memoryMib: 2048, diskMib: 0, volumes: 0, bandwidthMbit: 0 }
const lease = (id: string, part: Partial<Lease> = {}): Lease => ({
  id, offerId: OFFER, clusterId: 'c1', cluster: 'demo', kind: 'node', name: `node-${id}`, resources, segmentId: 0, masterSite: 'tokyo', masterPeer: '12D3a', requester: '12D3b',
  state: 'active', startMs: NOW - 200_000, endMs: NOW + 3_600_000, ttlMs: 30_000, deadlineMs: NOW - 100_000, confirmByMs: 0, token: 7, heldToken: 5, commitToken: 6, activatedMs: NOW - 190_000, endedMs: 0, endReason: '', vacated: true, ...part
})
const entry: HistoryEntry = { seq: 5, atMs: NOW - 200_000, what: 'lease', clusterId: 'c1', leaseId: `${OFFER}-1`, offerId: OFFER, kind: 'node', name: 'n', trigger: 'hold', from: null, to: 'held', token: 5, endMs: NOW + 3_600_000, reason: '' }

interface Fake { view: LeaseView, asked: unknown[], events: string[] }
function fake (leases: readonly Lease[], part: Partial<LeaseViewDeps['ledger']> = {}, skewMs: number | null = null): Fake {
  const state = emptyLedger('osaka-1', resources)
  for (const one of leases) putLease(state, one)
  const asked: unknown[] = []
  const events: string[] = []
  return {
    asked, events,
    view: createLeaseView({
      host: 'osaka-1', skewMs: () => skewMs, events: { add: (type, message, cluster) => { events.push(`${type} ${message} ${cluster ?? ''}`) } },
      ledger: {
        state: () => state, now: () => NOW, epochOf: () => ({ epoch: 3, holder: '12D3c' }), heardMs: () => NOW - 1_000,
        history: filter => { asked.push(filter); return Promise.resolve([entry]) },
        revoke: (clusterId, reason) => { asked.push([clusterId, reason]); return Promise.resolve({ receipts: [], segmentId: 0, ended: 2, replay: false }) },
        ...part
      }
    })
  }
}

t.test('what remains: of a hold its time to live, of what is undecided its deadline, of the rest its term', async t => {
  const { view } = fake([
    lease('held', { state: 'held', deadlineMs: NOW + 20_000 }), lease('committed', { state: 'committed', deadlineMs: NOW + 90_000 }), lease('short', { state: 'committed', deadlineMs: NOW + 90_000, endMs: NOW + 5_000 }),
    lease('active'), lease('late', { endMs: NOW - 5 }), lease('ended', { state: 'ended', endedMs: NOW - 10 })
  ])
  t.same((await view.leases(true)).map(l => [l.leaseId, l.remainsMs]), [['held', 20_000], ['committed', 90_000], ['short', 5_000], ['active', 3_600_000], ['late', 0], ['ended', 0]])
  t.same((await view.leases(false)).map(l => l.leaseId), ['held', 'committed', 'short', 'active', 'late'])
})

t.test('masterless is what runs, or waits for its start, and has not heard of its master for long', async t => {
  const leases = [lease('active'), lease('held', { state: 'held' }), lease('undecided', { state: 'committed' }), lease('reserved', { state: 'committed', startMs: NOW + 60_000 }), lease('ended', { state: 'ended' })]
  const marked = async (heardMs: number | null): Promise<string[]> => (await fake(leases, { heardMs: () => heardMs }).view.leases(true)).filter(l => l.masterless).map(l => l.leaseId)
  t.same(await marked(NOW - MASTERLESS_MS), [], 'not yet')
  t.same(await marked(NOW - MASTERLESS_MS - 1), ['active', 'reserved'])
  t.same(await marked(null), [])
  t.match(await fake(leases, {}, 250).view.lease('active'), { skewMs: -250, heardAgoMs: 1_000, epoch: 3, epochHolder: '12D3c' })
  t.match(await fake(leases, { heardMs: () => null, epochOf: () => null }).view.lease('active'), { skewMs: null, heardAgoMs: null, epoch: 0, epochHolder: '' })
})

t.test('a lease is found by its id in full, as tables show it, or by a beginning that no other has', async t => {
  const { view } = fake([lease(`${OFFER}-1`), lease(`${OFFER}-2`), lease(`${OFFER}-12`), lease('4a000000-57a9-4f0f-a8e4-6b0d2c3c7f11-1')])
  t.equal(shortId(`${OFFER}-2-12`), '3f2a91c4-2-12')
  t.equal(shortId('not-a-uuid-but-long'), 'not-a-uuid-bu')
  const found = async (id: string): Promise<string> => (await view.lease(id)).leaseId
  t.equal(await found(`${OFFER}-1`), `${OFFER}-1`)
  t.equal(await found('3f2a91c4-1'), `${OFFER}-1`, 'not 12')
  t.equal(await found('4a'), '4a000000-57a9-4f0f-a8e4-6b0d2c3c7f11-1')
  await t.rejects(found('3f2a'), { code: 'CONFLICT', message: /3 leases/, hint: /3f2a91c4-1, 3f2a91c4-2, 3f2a91c4-12/ })
  await t.rejects(found('zzz'), { code: 'NOT_FOUND', hint: /lease list --all/ })
})

t.test('history is asked for by name or id, also of a cluster whose leases are forgotten', async t => {
  const { view, asked } = fake([lease(`${OFFER}-1`), lease('b', { clusterId: 'c2', cluster: 'twin' }), lease('c', { clusterId: 'c3', cluster: 'twin' })])
  t.match(await view.history({ cluster: 'demo', limit: 5 }), [{ cluster: 'demo', event: 'hold', from: null, state: 'held', at: NOW - 200_000 }])
  await view.history({ cluster: 'c2', limit: 5 })
  await view.history({ cluster: 'long-gone', limit: 5 })
  await view.history({ lease: '3f2a91c4-1', limit: 5 })
  await view.history({ lease: 'gone', limit: 5 })
  await view.history({ limit: 9 })
  t.same(asked, [{ clusterId: 'c1', limit: 5 }, { clusterId: 'c2', limit: 5 }, { clusterId: 'long-gone', limit: 5 }, { leaseId: `${OFFER}-1`, limit: 5 }, { leaseId: 'gone', limit: 5 }, { limit: 9 }])
  await t.rejects(view.history({ cluster: 'twin', limit: 5 }), { code: 'CONFLICT', hint: /c2, c3/ })
})

t.test('a revocation names one cluster with live leases here, and is told', async t => {
  const { view, asked, events } = fake([lease('a'), lease('b', { clusterId: 'c2', cluster: 'twin' }), lease('c', { clusterId: 'c3', cluster: 'twin' }), lease('d', { clusterId: 'c4', cluster: 'over', state: 'ended' }), lease('e', { clusterId: 'c5', cluster: 'twin', state: 'ended' })])
  t.same(await view.revoke('demo', 'power off'), { host: 'osaka-1', clusterId: 'c1', cluster: 'demo', masterSite: 'tokyo', ended: 2, reason: 'power off' })
  t.match(events[0], /^lease.revoked demo: 2 leases of tokyo revoked, power off demo$/)
  await t.rejects(view.revoke('twin', 'x'), { code: 'CONFLICT', hint: /c2, c3$/ })
  await t.rejects(view.revoke('over', 'x'), { code: 'NOT_FOUND', hint: /every host revokes its own/ })
  await t.rejects(view.revoke('demo', ' '), { code: 'INVALID_INPUT' })
  t.equal((await view.revoke('c3', 'x')).clusterId, 'c3')
  t.same(asked, [['c1', 'power off'], ['c3', 'x']])
})

const nothing = (): never => { throw new Error('not asked for in this test') }
async function api (t: Test, view: Partial<LeaseView>, master: Partial<NonNullable<RouteDeps['master']>> | null = null): Promise<Api> {
  const server = await createApi({ title: 'test', description: 'test', logger: pino({ level: 'silent' }) })
  addAgentRoutes(server, {
    view: { status: nothing, hosts: nothing, host: nothing, metrics: nothing, sites: nothing, console: nothing, segmentPlan: nothing, leases: nothing, lease: nothing, history: nothing, revoke: nothing, ...view },
    events: createEventLog(() => 0), master: master as RouteDeps['master'], gateways: () => ['tokyo-1'], policy: null, issuer: null, cordonHost: nothing
  })
  t.teardown(() => server.close())
  return server
}

t.test('over REST: every field of the schemas, no other', async t => {
  const { view } = fake([lease(`${OFFER}-1`)])
  const server = await api(t, view)
  const keys = (value: object | undefined): string[] => Object.keys(value ?? {}).sort()
  t.same(keys((await server.inject('/v1/leases')).json<object[]>()[0]), keys(LeaseSchema.properties))
  const detail = (await server.inject('/v1/leases/3f2a91c4-1')).json<LeaseDetail>()
  t.same(keys(detail), keys(LeaseDetailSchema.properties))
  t.same(keys(detail.history[0]), keys(LeaseEventSchema.properties))
  t.equal((await server.inject('/v1/leases/zzz')).statusCode, 404)
  t.equal((await server.inject('/v1/ledger/history?cluster=demo')).json<object[]>().length, 1)
})

t.test('what is asked over REST is checked', async t => {
  const asked: unknown[] = []
  const server = await api(t, { history: filter => { asked.push(filter); return Promise.resolve([]) } })
  const ask = async (method: 'GET' | 'POST', url: string, payload?: object): Promise<unknown> => (await server.inject({ method, url, ...payload === undefined ? {} : { payload } })).json()
  for (const query of ['limit=0', `limit=${MAX_HISTORY_ANSWERED + 1}`, 'limit=-1', 'limit=NaN', 'cluster=', `lease=${'x'.repeat(129)}`]) t.match(await ask('GET', `/v1/ledger/history?${query}`), { status: 400, code: 'INVALID_INPUT' }, query)
  t.same(await ask('GET', '/v1/ledger/history'), [])
  t.same(asked, [{ limit: 50 }], 'and nothing else reached the ledger')
  for (const body of [{}, { cluster: 'demo' }, { cluster: 'demo', reason: '' }, { cluster: '', reason: 'x' }, { cluster: 'demo', reason: 'x'.repeat(201) }, { cluster: 'demo', reason: 'x', colour: 'red' }]) {
    t.match(await ask('POST', '/v1/ledger/revocations', body), { status: 400, code: 'INVALID_INPUT' }, JSON.stringify(body).slice(0, 60))
  }
})

t.test('amendments over REST: checked, passed on, refused with the code of whoever refused', async t => {
  const asked: unknown[] = []
  const refuse = (error: MusubiError, ...words: unknown[]): Promise<never> => { asked.push(words); return Promise.reject(error) }
  const server = await api(t, {}, {
    accept: name => refuse(new MusubiError('HOLD_LAPSED', 'too late'), 'accept', name),
    extend: (name, termMs) => refuse(new NoCapacityError('refused by\n  osaka: full'), 'extend', name, termMs),
    scale: (name, count) => refuse(new MusubiError('POLICY_DENIED', 'no'), 'scale', name, count),
    retry: name => refuse(new MusubiError('CONFLICT', 'it runs'), 'retry', name),
    adopt: (name, options) => refuse(new MusubiError('MASTER_ALIVE', 'it lives', { retryable: true, hint: 'wait' }), 'adopt', name, options)
  })
  const post = async (path: string, payload?: object): Promise<unknown> => (await server.inject({ method: 'POST', url: `/v1/clusters/demo/${path}`, ...payload === undefined ? {} : { payload } })).json()
  for (const [path, body] of [
    ['extend', {}], ['extend', { termMs: -1 }], ['extend', { termMs: 1e18 }], ['extend', { termMs: '2h' }], ['extend', { termMs: 3_600_000.5 }], ['scale', { nodes: 0 }], ['scale', { nodes: 1e9 }], ['scale', {}],
    ['adopt', { force: 'yes' }], ['adopt', { power: true }]
  ] as const) t.match(await post(path, body), { status: 400, code: 'INVALID_INPUT' }, `${path} ${JSON.stringify(body)}`)
  t.same(asked, [], 'nothing reached the master')
  t.match(await post('accept'), { status: 409, code: 'HOLD_LAPSED', detail: 'too late' })
  t.match(await post('extend', { termMs: 7_200_000 }), { status: 409, code: 'NO_CAPACITY', detail: /osaka: full/ })
  t.match(await post('scale', { nodes: 3 }), { status: 403, code: 'POLICY_DENIED' })
  t.match(await post('retry'), { status: 409, code: 'CONFLICT' })
  t.match(await post('adopt', {}), { status: 409, code: 'MASTER_ALIVE', hint: 'wait' })
  t.match(await post('adopt', { force: true }), { status: 409 })
  t.same(asked, [['accept', 'demo'], ['extend', 'demo', 7_200_000], ['scale', 'demo', 3], ['retry', 'demo'], ['adopt', 'demo', { force: false }], ['adopt', 'demo', { force: true }]])
})

t.test('a host that is no gateway sends people to one that is', async t => {
  const server = await api(t, {})
  for (const [path, payload] of [['extend', { termMs: 7_200_000 }], ['scale', { nodes: 2 }], ['retry', undefined], ['accept', undefined], ['adopt', {}]] as const) {
    t.match((await server.inject({ method: 'POST', url: `/v1/clusters/demo/${path}`, ...payload === undefined ? {} : { payload } })).json(), { status: 409, code: 'NOT_A_GATEWAY', hint: /tokyo-1/ }, path)
  }
})
