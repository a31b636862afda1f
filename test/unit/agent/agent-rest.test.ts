import { existsSync } from 'node:fs'
import { mkdtemp, rm, stat } from 'node:fs/promises'
import { createServer } from 'node:net'
import { once } from 'node:events'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { pino } from 'pino'
import type { AgentMetrics } from '../../../agent/api/metrics/metrics.ts'
import type { AgentView } from '../../../agent/api/view/view.ts'
import { addAgentRoutes, type RouteDeps } from '../../../agent/api/routes.ts'
import { createEventLog } from '../../../agent/events.ts'
import { call, events as follow } from '../../../cli/client.ts'
import { ClusterSchema, type ClusterResource, type EventResource, type InvitationResource } from '../../../protocol/api.ts'
import { type RotationResource } from '../../../protocol/network-api.ts'
import type { PolicyResource } from '../../../protocol/policy-api.ts'
import { ConflictError, MusubiError, NoCapacityError, NotFoundError, UnreachableError } from '../../../protocol/core/errors.ts'
import { HOLD_MARGIN, MAX_HELD_CLUSTERS } from '../../../protocol/core/limits.ts'
import { parseClusterSpec } from '../../../protocol/core/spec.ts'
import { createApi, listenTcp, listenUnix, problemOf, type Api } from '../../../protocol/rest/server.ts'
import { eventually, host, startFederation, wanted } from '../../model/federation.ts'

const log = pino({ level: 'silent' })
const nothing = (): never => { throw new Error('not asked for in this test') }
const view: AgentView = { status: nothing, hosts: () => [], host: nothing, metrics: nothing, sites: () => [], leases: () => Promise.resolve([]), lease: nothing, history: nothing, revoke: nothing, console: nothing, segmentPlan: nothing }

/** Paths of unix sockets are short. */
async function shortDir (t: Test): Promise<string> {
  const dir = await mkdtemp(join(tmpdir(), 'mzr-'))
  t.teardown(() => rm(dir, { recursive: true, force: true }))
  return dir
}

async function api (t: Test, deps: Partial<RouteDeps> = {}): Promise<Api> {
  const server = await createApi({ title: 'test', description: 'test', logger: log })
  addAgentRoutes(server, { view, events: createEventLog(() => 0), master: null, gateways: () => ['tokyo-1'], policy: null, issuer: null, cordonHost: nothing, ...deps })
  t.teardown(() => server.close())
  return server
}

t.test('errors are problem details, with a status for their code', t => {
  for (const [error, status] of [
    [new NotFoundError('x'), 404], [new ConflictError('x'), 409], [new NoCapacityError('x'), 409], [new UnreachableError('x'), 503], [new MusubiError('INVALID_INPUT', 'x'), 400],
    [new MusubiError('NOT_A_GATEWAY', 'x'), 409], [new MusubiError('BUSY', 'x'), 503], [new MusubiError('FORBIDDEN', 'x'), 403], ...['FROZEN', 'NOT_READY', 'MASTER_RESTARTED', 'STILL_REMOVING'].map(code => [new MusubiError(code, 'x'), 503] as const), [new MusubiError('SOMETHING', 'x'), 500], [new Error('x'), 500]
  ] as const) t.match(problemOf(error), { status, detail: 'x', type: 'about:blank', code: error instanceof MusubiError ? error.code : 'INTERNAL' })
  t.equal(problemOf(new NotFoundError('x', 'look there')).hint, 'look there')
  t.notOk('hint' in problemOf(new NotFoundError('x')))
  t.match(problemOf('words'), { status: 500, detail: 'words' })
  t.end()
})

t.test('a host that is no gateway sends people to one that is', async t => {
  const server = await api(t)
  const response = await server.inject({ method: 'POST', url: '/v1/clusters', payload: wanted('demo', 1) })
  t.equal(response.statusCode, 409)
  t.match(response.headers['content-type'], /application\/problem\+json/)
  t.match(response.json(), { code: 'NOT_A_GATEWAY', hint: /tokyo-1/ })
  t.same((await server.inject('/v1/clusters')).json(), [])
  const alone = await api(t, { gateways: () => [] })
  t.match((await alone.inject('/v1/clusters/demo')).json(), { hint: /no gateway of this site is known/ })
})

t.test('keys of the tunnel are exchanged on gateways, and by force only on that word', async t => {
  const asked: boolean[] = []
  const rotate = (force: boolean): Promise<RotationResource> => {
    asked.push(force)
    return force ? Promise.resolve({ epoch: 4, unheard: [{ site: 'osaka', host: 'gw' }] }) : Promise.reject(new MusubiError('GATEWAYS_UNHEARD', 'gw of osaka', { hint: '--force' }))
  }
  const server = await api(t, { tunnels: { show: nothing, rotate } })
  const post = async (payload: object): Promise<{ statusCode: number, json: () => unknown }> => await server.inject({ method: 'POST', url: '/v1/tunnel/rotations', payload })
  const refused = await post({})
  t.equal(refused.statusCode, 409)
  t.match(refused.json(), { code: 'GATEWAYS_UNHEARD', hint: '--force' })
  const taken = await post({ force: true })
  t.equal(taken.statusCode, 202)
  t.same(taken.json(), { epoch: 4, unheard: [{ site: 'osaka', host: 'gw' }] })
  t.equal((await post({ force: 'yes' })).statusCode, 400)
  t.equal((await post({ forced: true })).statusCode, 400)
  t.same(asked, [false, true])
  t.match((await (await api(t)).inject('/v1/tunnel')).json(), { code: 'NOT_A_GATEWAY' })
})

t.test('the plan of a segment is told on any host, of one host or of all', async t => {
  const asked: unknown[] = []
  const segmentPlan: AgentView['segmentPlan'] = (cluster, host) => {
    asked.push([cluster, host])
    if (cluster !== 'demo') throw new NotFoundError(`no ${cluster}`)
    return { cluster, vni: 7, version: 1, hosts: [{ site: 'tokyo', host: host ?? 'tokyo-1', gateway: true, plan: 'VNI 7\n' }] }
  }
  const server = await api(t, { view: { ...view, segmentPlan } })
  t.match((await server.inject('/v1/clusters/demo/segment?host=tokyo-2')).json(), { vni: 7, hosts: [{ host: 'tokyo-2', plan: 'VNI 7\n' }] })
  t.equal((await server.inject('/v1/clusters/other/segment')).statusCode, 404)
  t.equal((await server.inject('/v1/clusters/demo/segment?host=')).statusCode, 400)
  t.strictSame(asked, [['demo', 'tokyo-2'], ['other', undefined]])
})

t.test('what is not there and what is not understood', async t => {
  const server = await api(t)
  t.match((await server.inject('/v2/nothing')).json(), { status: 404, code: 'NOT_FOUND', detail: /GET \/v2\/nothing/, hint: /openapi/ })
  t.match((await server.inject({ method: 'POST', url: '/v1/search', payload: { nodes: 0 } })).json(), { status: 400, code: 'INVALID_INPUT', detail: /nodes/ })
  t.match((await server.inject({ method: 'POST', url: '/v1/search', payload: { nodes: 1, colour: 'red' } })).json(), { status: 400, code: 'INVALID_INPUT', detail: /unknown field colour/ })
  t.match((await server.inject('/v1/leases?all=perhaps')).json(), { status: 400, code: 'INVALID_INPUT', detail: /all/ })
  t.match((await server.inject('/v1/events?since=-1')).json(), { status: 400, code: 'INVALID_INPUT' })
  const body = (type: string, payload: string): Promise<{ statusCode: number, json: () => unknown }> => server.inject({ method: 'POST', url: '/v1/search', headers: { 'content-type': type }, payload })
  t.match((await body('application/json', '{')).json(), { status: 400, code: 'INVALID_INPUT' })
  t.match((await body('application/yaml', 'a: [')).json(), { status: 400, code: 'INVALID_INPUT', detail: /YAML/ })
  t.match((await body('text/csv', 'a,b')).json(), { status: 415, code: 'INVALID_INPUT' })
  t.match((await body('application/json', `"${'x'.repeat(1_100_000)}"`)).json(), { status: 413, code: 'INVALID_INPUT' })
  t.equal((await body('application/yaml', 'nodes: 2')).statusCode, 200)
})

t.test('a cluster over REST: accepted, shown, refused, deleted', async t => {
  const model = await startFederation([host('tokyo', 1, 'gateway compute', 4)])
  t.teardown(() => model.stop())
  const server = await api(t, { master: model.master('tokyo-1') })
  const post = async (payload: object, query = ''): Promise<Awaited<ReturnType<typeof server.inject>>> => await server.inject({ method: 'POST', url: `/v1/clusters${query}`, payload })
  const accepted = await post(wanted('demo', 1))
  t.equal(accepted.statusCode, 202)
  t.equal(accepted.headers.location, '/v1/clusters/demo')
  t.same(Object.keys(ClusterSchema.properties).sort(), Object.keys(accepted.json<object>()).sort(), 'every field of the schema, no other')
  t.match((await server.inject('/v1/clusters/demo')).json(), { name: 'demo' })
  t.match((await post(wanted('demo', 1))).json(), { status: 409, code: 'CONFLICT' })
  t.match((await post({})).json(), { status: 400, code: 'INVALID_INPUT', detail: /apiVersion: is required/ })
  t.match((await server.inject({ method: 'POST', url: '/v1/clusters' })).json(), { status: 400, code: 'INVALID_INPUT' })
  t.match((await post(wanted('other', 9), '?dryRun=true')).json(), { status: 409, code: 'NO_CAPACITY', detail: /tokyo/, hint: /search/ })
  t.match((await post(wanted('other', 1), '?dryRun=true')).json(), { explanation: /nothing is held/ })
  t.match((await server.inject('/v1/clusters/other')).json(), { status: 404, code: 'NOT_FOUND', hint: /cluster list/ })
  t.equal((await server.inject({ method: 'DELETE', url: '/v1/clusters/demo' })).statusCode, 202)
  t.equal((await server.inject({ method: 'DELETE', url: '/v1/clusters/other' })).statusCode, 404)
})

t.test('a cluster that is held for its user over REST: shown, accepted, taken twice, bounded', async t => {
  const model = await startFederation([host('tokyo', 1, 'gateway compute', 64), host('osaka', 1, 'gateway compute', 4)])
  t.teardown(() => model.stop())
  const server = await api(t, { master: model.master('tokyo-1') })
  const post = async (path: string, payload?: object): Promise<Awaited<ReturnType<typeof server.inject>>> => await server.inject({ method: 'POST', url: `/v1/clusters${path}`, ...payload === undefined ? {} : { payload } })
  const shown = async (name: string, state: string): Promise<ClusterResource> => {
    let found: ClusterResource | undefined
    await eventually(`${name} is ${state}`, async () => { found = (await server.inject(`/v1/clusters/${name}`)).json<ClusterResource>(); return found.state === state })
    return found as ClusterResource
  }
  for (const query of ['holdMs=29999', 'holdMs=300001', 'holdMs=soon', 'dryRun=true&holdMs=30000', 'sites=', 'dryRun=true&sites=osaka']) t.match((await post(`?${query}`, wanted('demo', 1))).json(), { status: 400, code: 'INVALID_INPUT' }, query)
  t.match((await post('?holdMs=60000&forMs=60000', wanted('demo', 1))).json(), { status: 400, detail: /held for 60 s and to last 60 s/ })
  t.equal((await post('?holdMs=60000&sites=tokyo', wanted('demo', 1))).statusCode, 202)
  const held = await shown('demo', 'offered')
  t.same(Object.keys(ClusterSchema.properties).sort(), Object.keys(held).sort(), 'every field of the schema, no other')
  t.match(held, { held: [{ site: 'tokyo', nodes: 1, frontend: true, hosts: ['tokyo-1'] }], error: null })
  t.ok(Math.abs((held.heldUntil ?? 0) - held.createdAt - (60_000 * (1 - HOLD_MARGIN) - 10_000)) < 5_000, 'from the request on, less what a commit needs')
  t.ok(model.leases().length > 0 && model.leases().every(line => line.endsWith(' held')))
  t.match((await post('/other/accept')).json(), { status: 404, code: 'NOT_FOUND' })
  t.equal((await post('/demo/accept')).statusCode, 202)
  t.equal((await post('/demo/accept')).statusCode, 202)
  t.match(await shown('demo', 'building'), { heldUntil: null, held: null })

  for (let i = 1; i <= MAX_HELD_CLUSTERS; i++) {
    t.equal((await post('?holdMs=60000', wanted(`held${i}`, 1))).statusCode, 202)
    await shown(`held${i}`, 'offered')
  }
  t.match((await post('?holdMs=60000', wanted('more', 1))).json(), { status: 409, code: 'NO_CAPACITY', detail: /holds 8 clusters for its users/, hint: /delete held1/ })
  t.equal((await post('', wanted('more', 1))).statusCode, 202, 'what is decided by itself is not bounded by it')
  await model.pass(60_000)
  t.match((await shown('held1', 'failed')).error, { code: 'HOLD_LAPSED' })
  t.match((await post('/held1/accept')).json(), { status: 409, code: 'HOLD_LAPSED', hint: /plan --hold/ })
  t.match((await post('/more/accept')).json(), { status: 409, code: 'CONFLICT', detail: /without --hold/ })
  await eventually('nothing is held', () => model.leases().every(line => !line.endsWith(' held')))
})

t.test('what gateways do for their site is refused elsewhere, with the way there', async t => {
  const server = await api(t)
  for (const [method, url, payload] of [['GET', '/v1/policy'], ['PUT', '/v1/policy', {}], ['GET', '/v1/site/invitations'], ['POST', '/v1/site/invitations', {}], ['DELETE', '/v1/site/invitations/x'], ['POST', '/v1/site/revocations', { host: 'x' }]] as const) {
    t.match((await server.inject({ method, url, ...(payload === undefined ? {} : { payload }) })).json(), { status: 409, code: 'NOT_A_GATEWAY', hint: /tokyo-1/ }, `${method} ${url}`)
  }
})

t.test('invitations, revocations, policy and cordon over REST: checked, passed on, no secret kept', async t => {
  const invitation: InvitationResource = { id: 'abc', kind: 'host', site: 'tokyo', roles: ['compute'], segmentIds: null, note: '', createdMs: 1, expiresMs: 2, state: 'open', wrongProofs: 0, used: null }
  const asked: unknown[] = []
  const policy: PolicyResource = { site: 'tokyo', version: 3, setBy: 'tokyo-1', document: { default: { longestLease: '8h' }, sites: { osaka: { deny: true } } }, quotaPercent: 100, usage: [], warnings: [] }
  const server = await api(t, {
    policy: { get: () => policy, set: document => { asked.push(document); return Promise.resolve(policy) }, check: document => { asked.push(document); return { errors: [], warnings: ['odd'], usage: [] } } },
    issuer: {
      invite: body => { asked.push(body); return Promise.resolve({ token: 'musubi-secret', invitation }) },
      invitations: () => [{ ...invitation, secret: 'leak' } as InvitationResource],
      withdraw: id => Promise.reject(new NotFoundError(`no ${id}`)),
      revoke: (host, reason) => Promise.resolve({ site: 'tokyo', host, peerId: 'p', revokedMs: 5, reason })
    },
    cordonHost: (host, cordoned, reason) => { asked.push([host, cordoned, reason]); return Promise.resolve({ host, cordoned }) }
  })
  const post = async (url: string, payload: object): Promise<unknown> => (await server.inject({ method: 'POST', url, payload })).json()
  const made = await server.inject({ method: 'POST', url: '/v1/site/invitations', payload: { roles: ['compute'], ttlMs: 60_000 } })
  t.match(made, { statusCode: 201, headers: { 'cache-control': 'no-store' } })
  t.match(made.json(), { token: 'musubi-secret', invitation: { id: 'abc' } })
  t.same(asked.pop(), { roles: ['compute'], ttlMs: 60_000 })
  t.match(await post('/v1/site/invitations', { roles: ['king'] }), { status: 400, detail: /roles/ })
  t.match(await post('/v1/site/invitations', { ttlMs: 1e12 }), { status: 400, detail: /ttlMs/ })
  t.same((await server.inject('/v1/site/invitations')).json(), [invitation], 'what the schema does not know stays inside')
  t.match((await server.inject({ method: 'DELETE', url: '/v1/site/invitations/zzz' })).json(), { status: 404 })
  t.match(await post('/v1/site/revocations', { host: 'tokyo-2', reason: 'sold' }), { host: 'tokyo-2', reason: 'sold' })
  t.match(await post('/v1/site/revocations', {}), { status: 400, detail: /host/ })
  t.same(await post('/v1/hosts/tokyo-2/cordon', { cordoned: true }), { host: 'tokyo-2', cordoned: true })
  t.same(asked.pop(), ['tokyo-2', true, ''])
  t.match(await post('/v1/hosts/tokyo-2/cordon', {}), { status: 400, detail: /cordoned/ })
  t.same((await server.inject('/v1/policy')).json(), policy, 'rules of sites come through')
  t.same((await server.inject({ method: 'PUT', url: '/v1/policy', payload: policy.document })).json(), policy)
  t.same(asked.pop(), policy.document)
  t.same(await post('/v1/policy/checks', { default: { price: -1 } }), { errors: [], warnings: ['odd'], usage: [] }, 'a bad one is judged, not refused')
  t.same(asked.pop(), { default: { price: -1 } })
})

t.test('figures for Prometheus, in its text format', async t => {
  const metrics: AgentMetrics = {
    admissionRefusals: { us: { NOT_ALLOWED: 2, 'odd"code\\\n': 1 }, them: { CERTIFICATE_EXPIRED: 1 } }, joins: { OK: 3 }, recordOutcomes: { taken: 9 }, records: [{ kind: 'host', state: 'alive', count: 4 }],
    peers: { direct: 3, relay: 1 }, leases: { active: 5 }, masterless: 2, frozen: true, ledgerFailed: false, revocations: 1, certificateNotAfterMs: 1_800_000_000_500, cordoned: true, uptimeMs: 1_500
  }
  const response = await (await api(t, { view: { ...view, metrics: () => metrics } })).inject('/metrics')
  t.equal(response.statusCode, 200, response.statusCode === 200 ? 'answered' : response.body)
  t.match(response.headers['content-type'], /^text\/plain; version=0\.0\.4/)
  const lines = response.body.split('\n')
  for (const line of [
    'musubi_admission_refusals_total{by="us",code="NOT_ALLOWED"} 2', 'musubi_admission_refusals_total{by="us",code="odd\\"code\\\\\\n"} 1', 'musubi_admission_refusals_total{by="them",code="CERTIFICATE_EXPIRED"} 1',
    'musubi_join_answers_total{code="OK"} 3', 'musubi_record_outcomes_total{outcome="taken"} 9', 'musubi_records{kind="host",state="alive"} 4', 'musubi_peers{path="relay"} 1', 'musubi_leases{state="active"} 5', 'musubi_leases_masterless 2', 'musubi_clock_frozen 1', 'musubi_ledger_failed 0', 'musubi_certificate_not_after_seconds 1800000000', 'musubi_cordoned 1', 'musubi_uptime_seconds 1.5'
  ]) t.ok(lines.includes(line), line)
  for (const line of lines) t.match(line, /^$|^# (HELP|TYPE) [a-z_]+ .+$|^[a-z_]+(\{[a-z]+="([^"\\\n]|\\["\\n])*"(,[a-z]+="([^"\\\n]|\\["\\n])*")*\})? [\d.e+-]+$/)
  t.ok(response.body.endsWith('\n'))
})

t.test('the routes describe themselves', async t => {
  const { openapi, paths } = (await (await api(t)).inject('/v1/openapi.json')).json<{ openapi: string, paths: Record<string, Record<string, { summary?: string }>> }>()
  t.equal(openapi, '3.1.0')
  for (const [path, methods] of Object.entries(paths)) for (const [method, { summary }] of Object.entries(methods)) t.ok((summary ?? '').length > 5, `${method} ${path}`)
})

t.test('an internal error keeps its details out of nobody\'s way, and is logged', async t => {
  const lines: string[] = []
  const server = await createApi({ title: 'test', description: 'test', logger: pino({ level: 'error' }, { write: line => { lines.push(line) } }) })
  t.teardown(() => server.close())
  addAgentRoutes(server, { view: { ...view, hosts: () => { throw new TypeError('broken inside') } }, events: createEventLog(() => 0), master: null, gateways: () => [], policy: null, issuer: null, cordonHost: nothing })
  t.match((await server.inject('/v1/hosts')).json(), { status: 500, code: 'INTERNAL' })
  t.match(lines.join(''), /broken inside/)
})

t.test('a unix socket is private, replaces a stale one, and says what is wrong', async t => {
  const dir = await shortDir(t)
  const socketPath = join(dir, 'run', 'agent.sock')
  const server = await api(t)
  await listenUnix(server, socketPath)
  t.equal((await stat(socketPath)).mode & 0o777, 0o660)
  t.same(await call({ socketPath, what: 'agent' }, 'GET', '/v1/hosts'), [])
  await t.rejects(listenUnix(await api(t), join(dir, 'x'.repeat(120))), { code: 'LISTEN', hint: /107 bytes/ })
  await server.close()
  t.notOk(existsSync(socketPath))
})

t.test('a port that is taken is named', async t => {
  const holder = createServer().listen(0, '127.0.0.1')
  await once(holder, 'listening')
  t.teardown(() => { holder.close() })
  const { port } = holder.address() as { port: number }
  await t.rejects(listenTcp(await api(t), '127.0.0.1', port), { code: 'LISTEN', message: new RegExp(`127.0.0.1:${port}: the port is in use`), hint: /ss -ltnp/ })
})

t.test('events are listed, and followed as they come', async t => {
  const events = createEventLog(() => 5)
  for (let i = 1; i <= 2_100; i++) events.add('test', `event ${i}`, 'demo')
  t.equal(events.list().length, 2_000, 'only so many are remembered')
  t.equal(events.list(2_099)[0]?.seq, 2_100)
  const socketPath = join(await shortDir(t), 's')
  const server = await api(t, { events })
  await listenUnix(server, socketPath)
  const endpoint = { socketPath, what: 'agent' }
  t.equal((await call<EventResource[]>(endpoint, 'GET', '/v1/events?since=2098')).length, 2)
  const stop = new AbortController()
  const seen: string[] = []
  for await (const event of follow<EventResource>(endpoint, '/v1/events/stream', stop.signal)) {
    seen.push(event.message)
    if (event.seq === 2_100) events.add('test', 'one more')
    if (event.message === 'one more') stop.abort()
  }
  t.equal(seen.length, 2_001)
})

t.test('specs are checked before anything is asked', t => {
  t.throws(() => parseClusterSpec(undefined), { code: 'INVALID_INPUT' })
  t.throws(() => parseClusterSpec(null), { code: 'INVALID_INPUT' })
  t.end()
})
