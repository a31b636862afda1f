/** The lease commands, and those that change a cluster, against an API with a fake agent behind it. */
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { pino } from 'pino'
import t, { type Test } from 'tap'
import type { LeaseView } from '../../../agent/api/view/leases.ts'
import { addAgentRoutes, type RouteDeps } from '../../../agent/api/routes.ts'
import { createEventLog } from '../../../agent/events.ts'
import { run } from '../../../agent/exec.ts'
import type { ClusterResource, LeaseDetail, LeaseEventResource, LeaseResource } from '../../../protocol/api.ts'
import { ConflictError, MusubiError, NoCapacityError, NotFoundError } from '../../../protocol/core/errors.ts'
import { createApi, listenUnix } from '../../../protocol/rest/server.ts'

const CLI = join(dirname(dirname(dirname(import.meta.dirname))), 'cli', 'main.ts')
const nothing = (): never => { throw new Error('not asked for in this test') }

const lease: LeaseResource = {
  leaseId: '3f2a91c4-57a9-4f0f-a8e4-6b0d2c3c7f11-1', clusterId: 'c1', cluster: 'demo', host: 'osaka-1', kind: 'node', name: 'demo-osaka-001', state: 'active', segmentId: 0,
  resources: { vcpus: 2, memoryMib: 2048, diskMib: 0, volumes: 0, bandwidthMbit: 0 }, startMs: 60_000, endMs: 7_200_000, formerEndMs: 0, remainsMs: 7_140_000, token: 5, masterSite: 'tokyo', epoch: 1, masterless: true, heardAgoMs: 100_000, skewMs: -40
}
const event: LeaseEventResource = { seq: 1, at: 1_000, what: 'lease', event: 'hold', leaseId: lease.leaseId, offerId: 'o', clusterId: 'c1', cluster: 'demo', kind: 'node', name: 'demo-osaka-001', from: null, state: 'held', endMs: 7_200_000, token: 3, reason: '' }
const detail: LeaseDetail = {
  ...lease, offerId: '3f2a91c4-57a9-4f0f-a8e4-6b0d2c3c7f11', masterPeer: '12D3a', requester: '12D3b', epochHolder: '12D3c', deadlineMs: 0, confirmByMs: 0, commitToken: 4, activatedMs: 2_000, endedMs: 0, endReason: '', vacated: true, history: [event]
}
const node: ClusterResource['nodes'][number] = {
  name: 'demo-tokyo-001', site: 'tokyo', host: 'tokyo-1', mac: '52:54:00:00:01:01', ip: '10.42.1.1', ready: true, state: 'ready', rxBytes: 0, phases: { leased: 1, defined: 1, dhcp: 1, boot: 1, image: 1, ready: 1 }
}
const cluster: ClusterResource = {
  id: 'c1', name: 'demo', state: 'ready', error: null, createdAt: 0, startsAt: 0, expiresAt: 7_200_000, masterSite: 'tokyo', epoch: 1, lenders: [], cidr: '10.42.0.0/16', domain: 'demo.internal', frontend: null, nodes: [node], volumes: [],
  lease: { sites: 1, holds: 1, negotiateMs: 5, rttMs: 1 }, segment: { vni: 7, ids: {}, mtuInner: 1500, firstPingMs: null }, wan: { bytes: 0, bytesWithoutCache: 0 }, caches: [], heldUntil: null, held: null, cacheRetainMs: null, timings: { createMs: null, deleteMs: null }, problems: []
}

type Master = NonNullable<RouteDeps['master']>
interface Ran { exitCode: number, stdout: string, stderr: string }

/** An agent that answers as told; the commands find it by its socket. */
async function agent (t: Test, leases: Partial<LeaseView>, master: Partial<Master> = {}): Promise<(...args: string[]) => Promise<Ran>> {
  const dir = await mkdtemp(join(tmpdir(), 'mzl-'))
  const api = await createApi({ title: 'test', description: 'test', logger: pino({ level: 'silent' }) })
  addAgentRoutes(api, {
    view: { status: nothing, hosts: () => [], host: nothing, metrics: nothing, sites: () => [], console: nothing, segmentPlan: nothing, leases: nothing, lease: nothing, history: nothing, revoke: nothing, ...leases },
    events: createEventLog(() => 0), master: master as Master, gateways: () => [], policy: null, issuer: null, cordonHost: nothing
  })
  const socket = join(dir, 's')
  await listenUnix(api, socket)
  t.teardown(async () => {
    await api.close()
    await rm(dir, { recursive: true, force: true })
  })
  return async (...args) => await run(process.execPath, [CLI, ...args, '--socket', socket], { okCodes: [0, 1, 2, 3, 4], timeoutMs: 25_000, env: { NODE_OPTIONS: '' } })
}

t.test('leases are listed, shown, and their history read', async t => {
  const asked: unknown[] = []
  const musubi = await agent(t, {
    leases: all => { asked.push(all); return Promise.resolve([lease]) },
    lease: id => id === '3f2a91c4-1' ? Promise.resolve(detail) : Promise.reject(new NotFoundError(`there is no lease "${id}" on osaka-1`, 'see: musubi lease list --all')),
    history: filter => { asked.push(filter); return Promise.resolve([event]) }
  })
  const [list, json, show, none] = await Promise.all([musubi('lease', 'list'), musubi('lease', 'list', '--all', '--json'), musubi('lease', 'show', '3f2a91c4-1'), musubi('lease', 'show', 'x/y')])
  t.match(list.stdout, /3f2a91c4-1 +demo +tokyo +node +demo-osaka-001 +active, masterless +2 vCPU, 2048 MiB +1970-01-01 00:01 +1970-01-01 02:00 +1h59m +-40ms/)
  t.match(list.stdout, /the master of demo \(tokyo\) is not heard of[^]*musubi cluster adopt/)
  t.same(JSON.parse(json.stdout), [lease])
  t.same(asked.splice(0).sort(), [false, true])
  t.match(show.stdout, /epoch 1, held by 12D3c, heard of 1m40s ago, its clock is -40ms off[^]*hold +3f2a91c4-1/)
  t.match(none, { exitCode: 1, stderr: /there is no lease "x\/y"[^]*lease list --all/ })
  t.match((await musubi('lease', 'history', '--cluster', 'demo', '--limit', '7')).stdout, /1970-01-01 00:00:01 +hold +3f2a91c4-1 +demo +node demo-osaka-001 +held +3 /)
  t.same(asked.splice(0), [{ cluster: 'demo', limit: 7 }])
  t.match(await musubi('lease', 'history', '--limit', 'many'), { exitCode: 2, stderr: /--limit must be a whole number/ })
  t.match(await musubi('lease', 'history', '--limit', '0'), { exitCode: 2, stderr: /at least 1/ })
  t.match(await musubi('lease', 'history', '--limit', '1000000'), { exitCode: 2, stderr: /limit/ })
})

t.test('a revocation needs a reason, and somebody who means it', async t => {
  const asked: unknown[] = []
  const musubi = await agent(t, {
    revoke: (name, reason) => {
      asked.push([name, reason])
      if (name !== 'demo') return Promise.reject(new ConflictError('several clusters on osaka-1 are called "twin"', 'say which, by id: c1, c2'))
      return Promise.resolve({ host: 'osaka-1', clusterId: 'c1', cluster: 'demo', masterSite: 'tokyo', ended: 3, reason })
    }
  })
  const [bare, unsure] = await Promise.all([musubi('lease', 'revoke', 'demo', '--yes'), musubi('lease', 'revoke', 'demo', '--reason', 'power off')])
  t.match(bare, { exitCode: 2, stderr: /--reason/ })
  t.match(unsure, { exitCode: 2, stderr: /volumes here are deleted[^]*--yes/ })
  t.same(asked, [], 'nothing was sent')
  t.match(await musubi('lease', 'revoke', 'demo', '--reason', '', '--yes'), { exitCode: 2, stderr: /reason/ })
  t.match(await musubi('lease', 'revoke', 'demo', '--reason', 'power off', '--yes'), { exitCode: 0, stdout: /3 leases of demo \(tokyo\) on osaka-1 revoked/ })
  t.match(await musubi('lease', 'revoke', 'twin', '--reason', 'power off', '--yes', '--json'), { exitCode: 1, stderr: /"code":"CONFLICT".*by id: c1, c2/ })
  t.same(asked, [['demo', 'power off'], ['twin', 'power off']])
})

t.test('a cluster is accepted, extended, scaled, retried and adopted', async t => {
  const asked: unknown[] = []
  const answer = (...words: unknown[]): Promise<ClusterResource> => { asked.push(words); return Promise.resolve(cluster) }
  const musubi = await agent(t, {}, {
    get: () => ({ ...cluster, nodes: [node, { ...node, name: 'demo-tokyo-002' }] }),
    accept: name => answer('accept', name), extend: (name, termMs) => answer('extend', name, termMs), scale: (name, count) => answer('scale', name, count), retry: name => answer('retry', name), adopt: (name, options) => answer('adopt', name, options)
  })
  t.match(await musubi('cluster', 'accept', 'demo'), { exitCode: 0, stdout: /demo +ready/ })
  t.match(await musubi('cluster', 'extend', 'demo', '--term', '1d12h'), { exitCode: 0, stdout: /demo: until 1970-01-01T02:00/ })
  t.match(await musubi('cluster', 'scale', 'demo', '--nodes', '2'), { exitCode: 0, stdout: /demo-tokyo-002/ }, 'waits until all are there')
  t.match(await musubi('cluster', 'scale', 'demo', '--nodes', '3', '--no-wait', '--json'), { exitCode: 0, stdout: /"name": "demo"/ })
  t.match(await musubi('cluster', 'retry', 'demo'), { exitCode: 0, stdout: /demo +ready/ })
  t.match(await musubi('cluster', 'adopt', 'demo'), { exitCode: 0 })
  t.match(await musubi('cluster', 'adopt', 'demo', '--force'), { exitCode: 2, stderr: /even if that is alive[^]*--yes/ })
  t.match(await musubi('cluster', 'adopt', 'demo', '--force', '--yes'), { exitCode: 0 })
  t.same(asked, [['accept', 'demo'], ['extend', 'demo', 129_600_000], ['scale', 'demo', 2], ['scale', 'demo', 3], ['retry', 'demo'], ['adopt', 'demo', { force: false }], ['adopt', 'demo', { force: true }]])
})

t.test('a cluster is asked for when it is wanted, and is reserved then', async t => {
  const asked: unknown[] = []
  const reserved = { ...cluster, state: 'reserved' as const, nodes: [], startsAt: Date.now() + 10_900_000 }
  const musubi = await agent(t, {}, {
    create: (spec, when) => { asked.push([spec, when]); return Promise.resolve(reserved) },
    plan: (spec, when) => { asked.push([spec, when]); return Promise.resolve({ explanation: 'it would go to tokyo' }) },
    get: () => reserved
  })
  const file = join(await mkdtemp(join(tmpdir(), 'mzs-')), 'spec.yaml')
  t.teardown(() => rm(dirname(file), { recursive: true, force: true }))
  await writeFile(file, 'a: 1\n')
  t.match(await musubi('cluster', 'create', '-f', file, '--start', '2030-12-01T08:00+09:00', '--for', '8h'), { exitCode: 0, stdout: /demo {2}reserved, starts in 3h01m .* from .* until/ }, 'it is waited until it is reserved')
  t.match(await musubi('cluster', 'create', '-f', file, '--earliest', '--within', '2d', '--dry-run'), { exitCode: 0, stdout: /it would go to tokyo/ })
  t.match(await musubi('cluster', 'create', '-f', file, '--end', '2030-12-01T08:00Z', '--no-wait'), { exitCode: 0 })
  t.same(asked, [
    [{ a: 1 }, { startMs: Date.UTC(2030, 10, 30, 23, 0), forMs: 8 * 3_600_000 }], [{ a: 1 }, { earliest: true, withinMs: 2 * 86_400_000 }], [{ a: 1 }, { endMs: Date.UTC(2030, 11, 1, 8, 0) }]
  ])
  t.match(await musubi('cluster', 'create', '-f', file, '--start', 'soon'), { exitCode: 2, stderr: /--start must be a time/ })
  t.match(await musubi('cluster', 'create', '-f', file, '--earliest', '--within', '1000d'), { exitCode: 2, stderr: /withinMs/ })
  t.match(await musubi('lease', 'calendar', '--days', '1', '--for', '2h'), { exitCode: 2, stderr: /one of --days and --for/ })
  t.equal(asked.length, 3)
})

t.test('what cannot be is refused before anything is asked', async t => {
  const musubi = await agent(t, {}, {})
  const refused: ReadonlyArray<readonly [string[], RegExp]> = [
    [['cluster', 'extend', 'demo'], /--term/], [['cluster', 'extend', 'demo', '--term', 'soon'], /--term must be a duration/], [['cluster', 'extend', 'demo', '--term', '9000d'], /termMs/],
    [['cluster', 'scale', 'demo', '--nodes', '0'], /at least 1[^]*cluster delete demo/], [['cluster', 'scale', 'demo', '--nodes', '-3'], /whole number/], [['cluster', 'scale', 'demo', '--nodes', '100000'], /nodes/],
    [['lease', 'fsck', '-c', '/nonexistent.yaml'], /cannot read \/nonexistent.yaml/]
  ]
  for (const result of await Promise.all(refused.map(async ([args, why]) => ({ args, why, ran: await musubi(...args) })))) t.match(result.ran, { exitCode: 2, stderr: result.why }, result.args.join(' '))
})

t.test('a refusal says why, and which site said so, a line for each', async t => {
  const message = 'cluster demo: refused by\n  osaka (osaka-1): no host would hold it\n  kyoto (kyoto-1): the policy of kyoto lends for 8 h at most'
  const musubi = await agent(t, {}, {
    extend: () => Promise.reject(new NoCapacityError(message, 'ask for less')),
    adopt: () => Promise.reject(new MusubiError('MASTER_ALIVE', 'site tokyo, host tokyo-1: the master tokyo-2 was heard of 3 s ago', { hint: 'only if it is off for good: --force' }))
  })
  t.match(await musubi('cluster', 'extend', 'demo', '--term', '2h'), {
    exitCode: 1, stderr: 'musubi: cluster demo: refused by\n        osaka (osaka-1): no host would hold it\n        kyoto (kyoto-1): the policy of kyoto lends for 8 h at most\n        ask for less\n'
  })
  t.match(await musubi('cluster', 'adopt', 'demo', '--json'), { exitCode: 1, stderr: /"code":"MASTER_ALIVE".*tokyo-2 was heard of.*--force/ })
})
