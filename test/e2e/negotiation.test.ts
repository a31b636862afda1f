import { copyFile, mkdir, readFile, rm, writeFile } from 'node:fs/promises'
import t from 'tap'
import { parse, stringify } from 'yaml'
import { loadOrCreateKey, peerIdOf } from '../../protocol/mesh/identity.ts'
import { issue } from '../../protocol/mesh/trust/certificate.ts'
import { writeCredentials } from '../../protocol/mesh/trust/credentials.ts'
import { AGENT_CONFIG, MESH_PORT, STATE_DIR } from '../../lab/config.ts'
import { until } from '../../lab/process.ts'
import { WORK_TREE } from '../../lab/pod.ts'
import type { AgentStatus, HostResource, SearchResult, SiteResource } from '../../protocol/api.ts'
import { call } from '../../cli/client.ts'
import { createKit } from '../trust-kit.ts'
import { HOSTS, PATIENCE_MS, spec, startFederation } from './federation.ts'

const skip = process.getuid?.() === 0 ? false : 'needs root to make namespaces'
t.setTimeout(450_000)
const FULL = spec('demo', 5, { volumes: [{ name: 'data', sizeMiB: 64, node: 1 }] })
const FULL_LEASES = [
  'tokyo-1 frontend frontend active', 'tokyo-1 node demo-tokyo-001 active', 'tokyo-1 node demo-tokyo-002 active', 'tokyo-1 segment segment active',
  'tokyo-2 node demo-tokyo-003 active', 'tokyo-2 volume data active', 'tsukuba-1 quota quota active', 'tsukuba-1 segment segment active', 'tsukuba-2 node demo-tsukuba-004 active', 'tsukuba-2 node demo-tsukuba-005 active'
]

t.test('three sites negotiate', { skip, timeout: 440_000 }, async t => {
  const f = await startFederation(t)
  const { lab } = f
  t.afterEach(() => f.reset())

  await t.test('every view becomes the same; what is inside a site stays there', async t => {
    await f.views()
    for (const [host, seen] of [['tokyo-1', ['tokyo-1', 'tokyo-2']], ['tokyo-2', ['tokyo-1', 'tokyo-2']], ['osaka-1', ['osaka-1']]] as const) {
      await until(`the hosts that ${host} sees`, PATIENCE_MS, async () => (await f.get<HostResource[]>(host, '/v1/hosts')).length === seen.length)
      t.same((await f.get<HostResource[]>(host, '/v1/hosts')).map(h => h.host), seen)
    }
    t.same((await f.get<SiteResource[]>('tokyo-2', '/v1/sites')), [], 'only gateways take part between sites')
    const query = { nodes: 6, vcpus: 1, memoryMib: 512 }
    const answers = await Promise.all(['tokyo-1', 'tsukuba-1', 'coordinator'].map(who => call<SearchResult>({ socketPath: lab.api(who), what: who }, 'POST', '/v1/search', query)))
    t.equal(answers[0]?.fits, true)
    for (const answer of answers) t.equal(answer.explanation, answers[0]?.explanation)
  })

  await t.test('a cluster over two sites: leases on every host it needs, and nothing of it afterwards', async t => {
    await f.create('tokyo-1', FULL)
    const cluster = await f.until('tokyo-1', 'demo', ['building', 'failed'])
    t.match(cluster, { state: 'building', error: null, masterSite: 'tokyo', lease: { sites: 2, holds: 10 } })
    t.same(await f.leases(), FULL_LEASES)
    await until('its objects', PATIENCE_MS, async () => (await f.objects()).length === 14)
    t.same([...new Set((await f.objects()).map(o => o.split(' ')[0]))], ['tokyo-1', 'tokyo-2', 'tsukuba-1', 'tsukuba-2'])
    await until('every node defined', PATIENCE_MS, async () => (await f.show('tokyo-1', 'demo')).nodes.every(n => n.phases.defined !== null))
    await t.rejects(f.create('tokyo-1', spec('demo', 1)), { code: 'CONFLICT', message: /exists already/, hint: /cluster delete demo/ })
    await f.remove('tokyo-1', 'demo')
    await f.until('tokyo-1', 'demo', ['deleted'])
    t.same(await f.leases(), [], 'as soon as it is called deleted')
    t.same(await f.objects(), [])
    await f.views()
  })

  await t.test('what cannot be is refused with the reason, and nothing is held', async t => {
    await t.rejects(f.create('tokyo-1', spec('zero', 0)), { code: 'INVALID_INPUT', message: /spec\.nodes\.count/ })
    await t.rejects(f.create('tokyo-1', { ...spec('odd', 1), nodes: 3 }), { code: 'INVALID_INPUT', message: /nodes: unknown field/ })
    await t.rejects(f.create('tokyo-2', spec('demo', 1)), { code: 'NOT_A_GATEWAY', hint: /tokyo-1/ })
    await f.create('tokyo-1', spec('large', 20))
    t.match((await f.until('tokyo-1', 'large', ['failed'])).error, { code: 'NO_CAPACITY', message: /osaka: takes \d of 20[^]*tokyo: takes 3 of 20[^]*tsukuba: takes 2 of 20/, hint: /musubi search/ })
    await f.create('tokyo-1', spec('wide', 1, { volumes: [{ name: 'data', sizeMiB: 5_000, node: 1 }] }))
    t.match((await f.until('tokyo-1', 'wide', ['failed'])).error, { code: 'NO_CAPACITY', message: /data \(5000 MiB\)[^]*tokyo: .*largest free volume 200 MiB/ })
    t.same(await f.leases(), [])
  })

  await t.test('of two clusters that want the last place exactly one gets it', async t => {
    await Promise.all([f.create('tokyo-1', spec('red', 5)), f.create('tsukuba-1', spec('blue', 2))])
    const [red, blue] = await Promise.all([f.until('tokyo-1', 'red', ['building', 'failed']), f.until('tsukuba-1', 'blue', ['building', 'failed'])])
    t.same([red.state, blue.state].sort(), ['building', 'failed'], `red: ${red.error?.message ?? 'won'}; blue: ${blue.error?.message ?? 'won'}`)
    const [winner, loser] = red.state === 'building' ? [red, blue] : [blue, red]
    t.equal(loser.error?.code, 'NO_CAPACITY')
    const leases = await f.leases()
    t.same(leases.filter(l => l.includes(` ${loser.name}-`)), [], 'the other holds nothing')
    t.equal(leases.length, winner.lease.holds)
    await f.reset()
    await f.views()
  })

  await t.test('without its coordinator a master goes on alone; the coordinator knows all again when it is back', async t => {
    await lab.holdAgent('coordinator')
    await lab.killAgent('coordinator')
    await f.create('tokyo-1', spec('alone', 5))
    t.match(await f.until('tokyo-1', 'alone', ['building', 'failed']), { state: 'building', lease: { sites: 2 } })
    await lab.resumeAgent('coordinator')

    await t.test('kill -9 of every agent of the cluster: leases and objects are there again, each start counted', async t => {
      const members = ['tokyo-1', 'tokyo-2', 'tsukuba-1', 'tsukuba-2']
      await until('its objects', PATIENCE_MS, async () => (await f.objects()).length === 13)
      const [leases, objects] = [await f.leases(), await f.objects()]
      const epochs = await Promise.all(members.map(async host => (await f.get<AgentStatus>(host, '/v1/status')).epoch))
      await Promise.all(members.map(host => f.restart(host)))
      t.same(await f.leases(), leases)
      t.same(await f.objects(), objects)
      t.same(await Promise.all(members.map(async host => (await f.get<AgentStatus>(host, '/v1/status')).epoch)), epochs.map(n => n + 1))
      await until('every host answers its master', PATIENCE_MS, async () => {
        const { state, problems } = await f.show('tokyo-1', 'alone')
        return state === 'building' && problems.length === 0
      })
    })
    await f.remove('tokyo-1', 'alone')
    await f.until('tokyo-1', 'alone', ['deleted'])
    t.same(await f.leases(), [])
    t.same(await f.objects(), [])
    await f.views()
  })

  await t.test('kill -9 of the master in the middle of a negotiation: nothing is kept, and it says so', async t => {
    await f.freeze('tokyo-2', true)
    await f.create('tokyo-1', spec('broken', 5))
    await f.event('tokyo-1', /broken: tsukuba holds 2 nodes/)
    t.ok((await f.leases(['tsukuba-2'])).includes('tsukuba-2 node broken-tsukuba-004 held'))
    await lab.killAgent('tokyo-1')
    await f.freeze('tokyo-2', false)
    await lab.waitAgent('tokyo-1')
    t.match((await f.until('tokyo-1', 'broken', ['failed'])).error, { code: 'MASTER_RESTARTED', message: /nothing is kept/, hint: 'ask again' })
    await f.clean()
    await f.views()
  })

  await t.test('the coordinator dies and loses its index: search and joins go on, and it learns all again', async t => {
    await lab.holdAgent('coordinator')
    await lab.killAgent('coordinator')
    const found = await call<SearchResult>({ socketPath: lab.api('tokyo-1'), what: 'agent' }, 'POST', '/v1/search', { nodes: 6, vcpus: 1, memoryMib: 512 })
    t.match(found, { fits: true })
    t.same(found.sites.map(s => s.site).sort(), ['osaka', 'tokyo', 'tsukuba'])

    // a gateway that starts anew finds the peers that it knew
    await f.restart('osaka-1')
    await until('it sees all sites', PATIENCE_MS, async () => (await f.get<SiteResource[]>('osaka-1', '/v1/sites')).filter(s => s.state === 'alive').length === 3)

    // and sites go on to take in hosts
    const { pod, address } = lab.host('tsukuba-2')
    const good = parse(await readFile(pod.path(AGENT_CONFIG), 'utf8')) as object
    await mkdir(pod.path('/tmp/extra'), { mode: 0o700 })
    await writeFile(pod.path('/tmp/extra/agent.yaml'), stringify({ ...good, name: 'extra', stateDir: '/tmp/extra', runDir: '/tmp/extra/run', listen: [`/ip4/${address}/tcp/4996`] }))
    const { token } = JSON.parse((await lab.musubi('tsukuba-1', ['site', 'invite', '--role', 'compute,storage', '--json'])).stdout) as { token: string }
    t.match(JSON.parse((await lab.musubi('tsukuba-2', ['agent', 'join', token, '-c', '/tmp/extra/agent.yaml', '--json'])).stdout), { site: 'tsukuba', host: 'extra', changed: true })

    await rm(lab.coordinator.pod.path(`${STATE_DIR}/store`), { recursive: true })
    await lab.resumeAgent('coordinator')
    await lab.waitAgent('coordinator')
    await f.views()
  })

  await t.test('a stranger with a federation of its own, of which all are members, is not let in', async t => {
    const { pod } = lab.host('osaka-1')
    await mkdir(pod.path('/tmp/stranger'), { mode: 0o700 })
    const nodeKey = await loadOrCreateKey(pod.path('/tmp/stranger/key'))
    const key = peerIdOf(nodeKey)
    const listen = [`/ip4/${lab.host('osaka-1').address}/tcp/4999`]
    const kit = await createKit({ sites: [{ name: 'rogue', hosts: [] }, { name: 'tokyo', hosts: [] }, { name: 'tsukuba', hosts: [] }, { name: 'osaka', hosts: [] }] })
    const certify = (site: string, name: string, subject: string): Uint8Array[] => {
      const siteKey = kit.siteKeys.get(site)
      if (siteKey === undefined) throw new Error(site)
      return [issue(siteKey, { federation: kit.federation, kind: 'host', subject, site, name, roles: ['gateway', 'compute'] }, Date.now()), ...kit.siteChains.get(site) ?? []]
    }
    const coordinator = issue(kit.coordinatorKey, { federation: kit.federation, kind: 'coordinator', subject: lab.coordinator.peerId, site: '', name: 'coordinator', roles: [] }, Date.now())
    await writeCredentials(pod.path('/tmp/stranger/credentials.json'), {
      federation: kit.federation, chain: certify('rogue', 'rogue-1', key),
      peers: [
        { peerId: lab.coordinator.peerId, addresses: [`/ip4/${lab.coordinator.address}/tcp/${MESH_PORT}`], chain: [coordinator] },
        ...['tokyo-1', 'tsukuba-1', 'osaka-1'].map(name => lab.host(name)).map(({ site, name, peerId, address }) => ({ peerId, addresses: [`/ip4/${address}/tcp/${MESH_PORT}`], chain: certify(site, name, peerId) }))
      ]
    })
    await writeFile(pod.path('/tmp/stranger/agent.yaml'), stringify({
      name: 'rogue-1', site: 'rogue', roles: ['gateway', 'compute'], stateDir: '/tmp/stranger', runDir: '/tmp/stranger/run',
      listen, underlayAddress: '192.0.2.1', capacity: { vcpus: 64, memoryMiB: 65536, diskMiB: 0 }, segmentIds: { from: 1, to: 9 }, drivers: 'fake', logLevel: 'debug',
      helper: { socket: '/tmp/stranger/helper/sock', stateDir: '/tmp/stranger/helper/state', agentUser: 0 }
    }))
    const log = `${pod.dir}/stranger.log`
    const itsHelper = await pod.spawn([process.execPath, `${WORK_TREE}/cli/main.ts`, 'helper', 'run', '-c', '/tmp/stranger/agent.yaml'], { log: `${pod.dir}/stranger-helper.log`, env: { NODE_OPTIONS: '' } })
    const stranger = await pod.spawn([process.execPath, `${WORK_TREE}/cli/main.ts`, 'agent', 'run', '-c', '/tmp/stranger/agent.yaml'], { log, env: { NODE_OPTIONS: '' } })
    const at = { socketPath: pod.path('/tmp/stranger/run/agent.sock'), what: 'stranger' }
    await until('the stranger', PATIENCE_MS, () => call(at, 'GET', '/v1/status').then(() => true, () => false), { everyMs: 50 })
    // Everybody has told it more than once that it is of another federation.
    await until('its knocking at every door', PATIENCE_MS, async () => {
      const lines = (await readFile(log, 'utf8')).split('\n').filter(line => line.includes('a peer did not admit us') && line.includes('OTHER_FEDERATION'))
      return ['tokyo/tokyo-1', 'tsukuba/tsukuba-1', 'osaka/osaka-1', 'coordinator coordinator'].every(who => lines.filter(line => line.includes(`"${who} `)).length > 1)
    })
    t.same((await call<SiteResource[]>(at, 'GET', '/v1/sites')).map(s => s.site), ['rogue'])
    for (const who of ['tokyo-1', 'tsukuba-1', 'osaka-1', 'coordinator']) t.notOk((await f.get<AgentStatus>(who, '/v1/status')).peers.some(p => p.peerId === key), `${who} keeps no connection to it`)
    for (const who of ['tokyo-1', 'coordinator']) t.same((await f.get<SiteResource[]>(who, '/v1/sites')).map(s => s.site), ['osaka', 'tokyo', 'tsukuba'])
    stranger.kill('SIGTERM')
    itsHelper.kill('SIGTERM')
    await until('its end', PATIENCE_MS, () => Promise.resolve(!stranger.alive() && !itsHelper.alive()))
  })

  await t.test('an agent that cannot be what it says ends with the reason', async t => {
    const { pod } = lab.host('tsukuba-2')
    const good = parse(await readFile(pod.path(AGENT_CONFIG), 'utf8')) as { capacity: object }
    const start = async (name: string, change: object, own: boolean): Promise<{ exitCode: number, stderr: string }> => {
      const dir = `/tmp/${name}`
      await mkdir(pod.path(dir), { mode: 0o700 })
      for (const file of own ? ['key', 'credentials.json'] : []) await copyFile(pod.path(`${STATE_DIR}/${file}`), pod.path(`${dir}/${file}`))
      await writeFile(pod.path(`${dir}/agent.yaml`), stringify({ ...good, stateDir: dir, runDir: `${dir}/run`, listen: [`/ip4/${lab.host('tsukuba-2').address}/tcp/4998`], ...change }))
      return await lab.musubi('tsukuba-2', ['agent', 'run', '-c', `${dir}/agent.yaml`], { timeoutMs: PATIENCE_MS, okCodes: [1, 2] })
    }
    const [stranger, name, role, port, locked, field, gateway] = await Promise.all([
      start('stranger', {}, false), start('name', { name: 'tsukuba-9' }, true), start('role', { roles: ['gateway', 'compute'], segmentIds: { from: 1, to: 9 } }, true),
      start('port', { listen: [`/ip4/${lab.host('tsukuba-2').address}/tcp/4100`] }, true), start('locked', { stateDir: STATE_DIR }, false),
      start('field', { colour: 'red' }, true), start('gateway', { roles: ['gateway'] }, true)
    ])
    t.match(stranger, { exitCode: 2, stderr: /tsukuba-2 is no member of site tsukuba yet[^]*musubi agent join TOKEN/ })
    t.match(name, { exitCode: 2, stderr: /certificate of this host is for tsukuba\/tsukuba-2, the configuration says tsukuba\/tsukuba-9/ })
    t.match(role, { exitCode: 2, stderr: /its certificate compute, storage: gateway is missing/ })
    t.match(port, { exitCode: 1, stderr: /cannot listen on .*4100[^]*in use/i })
    t.match(locked, { exitCode: 1, stderr: /in use by another process[^]*second agent/ })
    t.match(field, { exitCode: 2, stderr: /unknown field colour/ })
    t.match(gateway, { exitCode: 2, stderr: /segmentIds: a gateway needs a range/ })
    t.same((await f.get<AgentStatus>('tsukuba-2', '/v1/status')).name, 'tsukuba-2', 'the one that runs is not disturbed')
  })

  await t.test('a site that is cut off, and one whose gateway dies, between offer and commit', async t => {
    await f.views()
    await f.freeze('tokyo-2', true)
    await f.create('tokyo-1', spec('lost', 6))
    await Promise.all([f.event('tokyo-1', /lost: tsukuba holds 2 nodes/), f.event('tokyo-1', /lost: osaka holds 1 nodes/)])
    await Promise.all([lab.wan.partition('tsukuba', true), lab.holdAgent('osaka-1').then(() => lab.killAgent('osaka-1'))])
    await f.freeze('tokyo-2', false)
    const { error } = await f.until('tokyo-1', 'lost', ['failed'])
    t.match(error, { code: 'UNREACHABLE', message: /not every site could commit[^]*(tsukuba|osaka)/, hint: /30 s/ })
    await f.clean(['tokyo-1', 'tokyo-2']) // where the master reaches, it is let go behind the error
    await f.clean(['tsukuba-1', 'tsukuba-2']) // on its side of the cut nobody told it
    await lab.wan.partition('tsukuba', false)
    await lab.resumeAgent('osaka-1')
    await lab.waitAgent('osaka-1')
    await f.clean()
    await f.views()
    // What was said before the cut may arrive late: as the errors say, one asks again.
    const again = await until('the same for another cluster', PATIENCE_MS, async () => {
      await f.create('tokyo-1', spec('again', 6))
      const cluster = await f.until('tokyo-1', 'again', ['building', 'failed'])
      return cluster.state === 'building' ? cluster : null
    }, { everyMs: 500 })
    t.equal(again.lease.sites, 3)
    await f.remove('tokyo-1', 'again')
    await f.until('tokyo-1', 'again', ['deleted'])
    await f.clean(HOSTS)
  })
})
