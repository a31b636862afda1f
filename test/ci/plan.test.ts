/** A plan among real agents over libp2p: one site full, one that denies, one that is free. Nothing is held by it, anywhere, unless that is asked for. */
import { mkdir, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import t from 'tap'
import { run } from '../../agent/exec.ts'
import { digestHex, encodeManifest, manifestDigest } from '../../agent/images/manifest.ts'
import { makeFederation, until, type HostPlan, type SitePlan } from '../agents/federation.ts'
import { LEASED, show, spec } from '../agents/load.ts'
import { call } from '../../cli/client.ts'
import { errorCode } from '../../protocol/core/errors.ts'
import type { PlanResource } from '../../protocol/plan-api.ts'

t.setTimeout(200_000)
const CLI = join(import.meta.dirname, '..', '..', 'cli', 'main.ts')

const gateway = (name: string, vcpus: number): HostPlan => ({ name, roles: ['gateway', 'compute'], vcpus, memoryMiB: vcpus * 1024, diskMiB: 0 })
/** tokyo asks */
const SITES: SitePlan[] = [
  { name: 'tokyo', hosts: [gateway('tokyo-1', 3)] }, { name: 'osaka', hosts: [gateway('osaka-1', 16)] },
  { name: 'kyoto', hosts: [gateway('kyoto-1', 5)] }, { name: 'nara', hosts: [gateway('nara-1', 8)] }
]
const IMAGE = [['vmlinuz', 8_000_000], ['initrd.img', 34_000_000], ['root.squashfs', 170_000_000]] as const

t.test('offers side by side, and what create would do', { timeout: 190_000 }, async t => {
  const f = await makeFederation(SITES, { priceMilli: 250 })
  t.teardown(async () => { await f.close() })
  await f.start()
  // only its sizes are looked at
  const manifest = encodeManifest({ format: 1, recipe: 'a'.repeat(64), suite: 'bookworm', kernelRelease: '6.1.0', cmdline: 'quiet', files: IMAGE.map(([name, sizeBytes]) => ({ name, sizeBytes, sha256: 'b'.repeat(64) })) })
  const image = join(f.dir, 'images', digestHex(manifestDigest(manifest)))
  await mkdir(image, { recursive: true, mode: 0o755 })
  await writeFile(join(image, 'manifest.json'), manifest, { mode: 0o644 })
  const [tokyo, osaka, kyoto] = ['tokyo-1', 'osaka-1', 'kyoto-1'].map(name => f.agent(name)) as [typeof f.agents[number], typeof f.agents[number], typeof f.agents[number]]
  await call(osaka.endpoint, 'PUT', '/v1/policy', { sites: { tokyo: { deny: true, reason: 'the contract has ended' } } })
  // its own cluster: frontend and four nodes leave nothing there
  await kyoto.post('/v1/clusters', spec('local', 4))
  await until('the cluster of kyoto is leased', async () => LEASED.has((await show(kyoto, 'local'))?.state ?? ''))
  await until('tokyo has heard that kyoto is full', async () => (await tokyo.get<Array<{ site: string, free: { vcpus: number } }>>('/v1/sites')).some(({ site, free }) => site === 'kyoto' && free.vcpus === 0))
  await until('tokyo knows how far nara is', async () => (await tokyo.get<Array<{ site: string, rttMs: number | null }>>('/v1/sites')).some(({ site, rttMs }) => site === 'nara' && rttMs !== null))
  const ledgers = async (): Promise<unknown> => await Promise.all(f.agents.map(async agent => ({ leases: (await agent.leases()).map(({ leaseId, state, token }) => ({ leaseId, state, token })), history: await agent.get('/v1/ledger/history'), clusters: (await agent.clusters()).map(({ name }) => name) })))
  const before = await ledgers()

  const plan = await tokyo.post<PlanResource>('/v1/plans', spec('demo', 8))
  t.match(plan, { cluster: 'demo', fits: true, nodes: 8, leftOut: 0 })
  t.match(Object.fromEntries(plan.offers.map(({ site, ...offer }) => [site, offer])), {
    tokyo: { answer: 'quote', taken: false, nodes: 2, priceMilli: 0, rttMs: 0, counter: /^2 of 8 nodes fit now/ },
    osaka: { answer: 'quote', taken: false, nodes: 0, reasons: [{ code: 'POLICY_DENIED', message: 'site osaka lends nothing to tokyo: the contract has ended' }], counter: '' },
    kyoto: { answer: 'quote', taken: false, nodes: 0, reasons: [{ code: 'NO_CAPACITY' }] },
    nara: { answer: 'quote', taken: true, nodes: 8, priceMilli: 250, totalMilli: 2000, reasons: [] }
  })
  t.type(plan.offers.find(({ site }) => site === 'nara')?.rttMs, 'number')
  t.same(plan.placement.map(({ site, nodes, frontend }) => ({ site, nodes, frontend })), [{ site: 'tokyo', nodes: 2, frontend: true }, { site: 'nara', nodes: 6, frontend: false }])
  t.equal(plan.totalMilli, 1500)
  t.match(plan.placement.map(({ wanBytes, wanMs }) => ({ wanBytes, wanMs })), [{ wanBytes: 0, wanMs: 0 }, { wanBytes: 212_000_000, wanMs: null }], 'the image crosses once; no bandwidth is known')

  const file = join(f.dir, 'demo.yaml')
  const musubi = async (count: number, ...args: string[]): ReturnType<typeof run> => {
    await writeFile(file, JSON.stringify(spec('demo', count)))
    return await run(process.execPath, [CLI, 'cluster', 'plan', '-f', file, ...args, '--socket', tokyo.socket], { okCodes: [0, 1, 2], timeoutMs: 60_000, env: { NODE_OPTIONS: '' } })
  }
  const fitting = await musubi(8)
  t.comment(fitting.stdout)
  t.match(fitting, { exitCode: 0, stderr: '', stdout: /It fits\. musubi cluster create would ask for:[\s\S]*nara +6[\s\S]*nothing is held$/m })
  const tooMuch = await musubi(12)
  t.comment(tooMuch.stdout)
  t.match(tooMuch, { exitCode: 1, stderr: '', stdout: /It does not fit: [\s\S]*Nearest: 10 of 12 nodes/ })
  t.match(JSON.parse((await musubi(12, '--json', '--sites', 'nara')).stdout), { fits: false, offers: [{ site: 'tokyo' }, { site: 'nara', nodes: 8 }] })
  t.match(await musubi(1, '--sites', 'edo'), { exitCode: 1, stderr: /no site "edo" is known here/ })
  t.match(await musubi(1, '--hold', '10s'), { exitCode: 2, stderr: /--hold must be from 30s to 5m/ })
  t.match(await musubi(12, '--hold'), { exitCode: 1, stdout: /nothing is held$/m })

  t.same(await ledgers(), before, 'nothing is held, and nothing was')

  const nara = f.agent('nara-1')
  const heldBy = async (agent: typeof tokyo): Promise<string[]> => (await agent.leases()).filter(({ state }) => state === 'held').map(({ cluster, kind }) => `${cluster} ${kind}`)
  const state = async (agent: typeof tokyo, name: string): Promise<string> => (await show(agent, name))?.state ?? ''
  const offered = async (agent: typeof tokyo, name: string, count: number): Promise<void> => {
    await agent.post('/v1/clusters?holdMs=30000', spec(name, count))
    await until(`${name} is offered`, async () => await state(agent, name) === 'offered')
  }

  // taken
  const held = await musubi(8, '--hold', '1m')
  t.comment(held.stdout)
  t.match(held, { exitCode: 0, stderr: /demo: offered/, stdout: /tokyo +2 +- +yes +free +free +tokyo-1\nnara +6 +- +- +0\.25 +1\.500 +nara-1\n[^]*musubi cluster accept demo/ })
  t.equal((await heldBy(nara)).filter(one => one === 'demo node').length, 6)
  t.same((await heldBy(tokyo)).sort(), ['demo frontend', 'demo node', 'demo node', 'demo segment'])
  await tokyo.post('/v1/clusters', spec('second', 1))
  await until('a second one has no room at tokyo', async () => await state(tokyo, 'second') === 'failed')
  t.match((await show(tokyo, 'second'))?.error, { code: 'NO_CAPACITY' })
  await nara.post('/v1/clusters', spec('rival', 4))
  await until('the same room is not lent twice', async () => await state(nara, 'rival') === 'failed' || LEASED.has(await state(nara, 'rival')))
  t.match(await show(nara, 'rival'), { state: 'building', nodes: [{ site: 'nara' }, { site: 'osaka' }, { site: 'osaka' }, { site: 'osaka' }] })
  await call(nara.endpoint, 'DELETE', '/v1/clusters/rival')
  await tokyo.post('/v1/clusters/demo/accept')
  await until('what was held is leased', async () => LEASED.has(await state(tokyo, 'demo')))
  const taken = await show(tokyo, 'demo')
  t.same(['tokyo', 'nara'].map(site => taken?.nodes.filter(node => node.site === site).length), [2, 6])
  t.equal(taken?.lenders.find(({ site }) => site === 'nara')?.priceMilli, 250, 'at the price that was offered')
  t.same([...await heldBy(tokyo), ...await heldBy(nara)], [])
  await call(tokyo.endpoint, 'DELETE', '/v1/clusters/demo')
  await until('there is room again', async () => (await Promise.all([[tokyo, 'demo'], [nara, 'rival']].map(async ([agent, name]) => await state(agent as typeof tokyo, name as string)))).every(one => one === 'deleted'))

  // not taken, while another master is killed that holds something elsewhere
  await offered(tokyo, 'late', 2)
  await offered(nara, 'crash', 9)
  t.ok((await heldBy(osaka)).length > 0)
  await nara.end('SIGKILL')
  await nara.start()
  await until('what the killed one held is given back', async () => (await heldBy(osaka)).length + (await heldBy(nara)).length === 0)
  t.match(await show(nara, 'crash'), { state: 'failed', error: { code: 'MASTER_RESTARTED', message: /was held for its user/ } })
  await until('what nobody takes lapses', async () => await state(tokyo, 'late') === 'failed')
  t.match(await show(tokyo, 'late'), { error: { code: 'HOLD_LAPSED' } })
  await until('it is given back', async () => (await heldBy(tokyo)).length === 0)
  t.same(await Promise.all(['late', 'nobody'].map(async name => await tokyo.post(`/v1/clusters/${name}/accept`).catch(errorCode))), ['HOLD_LAPSED', 'NOT_FOUND'])

  await until('tokyo has heard that nara is free', async () => (await tokyo.get<Array<{ site: string, state: string, free: { vcpus: number } }>>('/v1/sites')).some(one => one.site === 'nara' && one.state === 'alive' && one.free.vcpus === 8))
  await tokyo.post('/v1/clusters', spec('demo', 8))
  await until('the cluster of tokyo is leased', async () => LEASED.has((await show(tokyo, 'demo'))?.state ?? ''))
  const nodes = (await show(tokyo, 'demo'))?.nodes ?? []
  t.same(Object.fromEntries(['tokyo', 'nara'].map(site => [site, nodes.filter(node => node.site === site).length])), { tokyo: 2, nara: 6 }, 'create does what the plan says')
})
