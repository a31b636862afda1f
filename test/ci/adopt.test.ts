/**
 * The master of a running cluster is lost for good: another gateway of its site takes over by itself
 * where the anchor host answers, nobody does while the master lives, and where the anchor is lost too
 * only on the operator's word. Real processes and real times, so most of it is waiting.
 */
import { setTimeout as sleep } from 'node:timers/promises'
import t from 'tap'
import { makeFederation, until, type HostPlan } from '../agents/federation.ts'
import type { RealAgent } from '../agents/agent.ts'
import { LEASED, show, spec } from '../agents/load.ts'
import type { ClusterResource, LeaseResource } from '../../protocol/api.ts'
import { errorCode } from '../../protocol/core/errors.ts'
import { MASTERLESS_MS } from '../../protocol/core/limits.ts'

t.setTimeout(400_000)
const PATIENCE_MS = 60_000
/** The jitter before an automatic take-over is a quarter of this. */
const TAKEN_OVER_MS = 1.25 * MASTERLESS_MS + PATIENCE_MS

const gateway = (name: string): HostPlan => ({ name, roles: ['gateway'], vcpus: 1, memoryMiB: 1024, diskMiB: 0 })
/** Of the gateways of a site the first by name carries frontends: it is the anchor, and in these tests not the master. Nodes go to osaka. */
const SITES = [
  { name: 'tokyo', hosts: [gateway('tokyo-1'), gateway('tokyo-2')] },
  { name: 'kyoto', hosts: [gateway('kyoto-1'), gateway('kyoto-2'), gateway('kyoto-3')] },
  { name: 'osaka', hosts: [{ ...gateway('osaka-1'), roles: ['gateway' as const, 'compute' as const], vcpus: 16, memoryMiB: 65_536 }] }
]

const leaseLines = (agents: readonly RealAgent[], lists: ReadonlyArray<readonly LeaseResource[]>): string[] => lists.flatMap((leases, n) => leases.map(l => `${agents[n]?.name ?? '?'} ${l.kind} ${l.leaseId} ${l.state}`)).sort()

t.test('a cluster whose master is gone', { timeout: 390_000 }, async t => {
  const f = await makeFederation(SITES)
  t.teardown(async () => { await f.close() })
  await f.start()
  const [anchor, master, lender, farAnchor, farMaster, heir] = ['tokyo-1', 'tokyo-2', 'osaka-1', 'kyoto-1', 'kyoto-2', 'kyoto-3'].map(name => f.agent(name)) as [RealAgent, RealAgent, RealAgent, RealAgent, RealAgent, RealAgent]
  const members = [anchor, master, lender]
  const leasesOf = async (agents: readonly RealAgent[], clusterId: string): Promise<string[]> => leaseLines(agents, await Promise.all(agents.map(async agent => (await agent.leases()).filter(l => l.clusterId === clusterId))))
  const make = async (at: RealAgent, name: string, count: number): Promise<ClusterResource> => {
    await at.post('/v1/clusters', spec(name, count))
    await until(`${name} is leased`, async () => {
      const view = await show(at, name)
      if (view?.state === 'failed') throw new Error(view.error?.message)
      return view !== null && LEASED.has(view.state)
    }, PATIENCE_MS)
    return await at.get<ClusterResource>(`/v1/clusters/${name}`)
  }
  const moved = await make(master, 'moved', 4)
  const lost = await make(farMaster, 'lost', 4)
  t.equal(moved.frontend?.host, 'tokyo-1', 'its anchor is another host than its master')
  t.equal(lost.frontend?.host, 'kyoto-1')
  const before = await leasesOf([anchor, lender], moved.id)
  t.ok(before.some(line => line.startsWith('osaka-1 node')), 'a part of it is at another site')
  await sleep(2_000)

  const refusal = async (at: RealAgent, name: string, body: object): Promise<{ code: string, message: string }> => await at.post(`/v1/clusters/${name}/adopt`, body).then(
    () => ({ code: 'TAKEN', message: '' }), (error: unknown) => error as { code: string, message: string })
  t.match(await refusal(anchor, moved.id, {}), { code: 'MASTER_ALIVE', message: /heard of/ }, 'not while its master lives')
  t.ok(LEASED.has((await show(master, moved.id))?.state ?? ''), 'which remains its master')

  const killedMs = performance.now()
  await Promise.all([master, farAnchor, farMaster].map(async agent => { await agent.end('SIGKILL') }))
  t.match(await refusal(anchor, moved.id, {}), { code: 'MASTER_ALIVE' }, 'nor a moment after')
  t.match(await refusal(heir, lost.id, {}), { code: 'UNREACHABLE', message: /kyoto-1/ }, 'not where the anchor does not answer')
  await t.resolves(heir.post(`/v1/clusters/${lost.id}/adopt`, { force: true }), 'but on the operator\'s word')
  t.ok(LEASED.has((await show(heir, lost.id))?.state ?? ''), 'kyoto-3 is its master then')

  let masterless = 0
  let early = false
  await until('the anchor\'s host has taken it over by itself', async () => {
    // until it is silent for long enough this host says that it is not its master
    const state = (await show(anchor, moved.id).catch((error: unknown) => { if (errorCode(error) !== 'CONFLICT') throw error }))?.state ?? ''
    const marked = [...await anchor.leases(), ...await lender.leases()].some(l => l.clusterId === moved.id && l.masterless)
    if (state === 'masterless' || marked) masterless++
    const taken = LEASED.has(state)
    if ((taken || masterless > 0) && performance.now() - killedMs < MASTERLESS_MS - 25_000) early = true
    return taken
  }, TAKEN_OVER_MS, 100)
  t.comment(`taken over ${Math.round((performance.now() - killedMs) / 1000)} s after the death of its master`)
  t.ok(masterless > 0, 'it was shown as masterless before')
  t.notOk(early, 'and not before it had been silent for as long as is said')
  t.same(await leasesOf([anchor, lender], moved.id), before, 'nothing ended meanwhile, and nothing ends by the take-over')
  t.ok((await anchor.objects()).length > 0 && (await lender.objects()).length > 0, 'and everything runs')

  await t.test('a longer term needs every lender, and the gateway that died with the master is one', async t => {
    await t.rejects(anchor.post(`/v1/clusters/${moved.id}/extend`, { termMs: 7_200_000 }), { code: 'UNREACHABLE', message: /tokyo-2/ })
    t.ok([...await anchor.leases(), ...await lender.leases()].filter(l => l.clusterId === moved.id).every(l => l.endMs === moved.expiresAt), 'nobody has a part of it')
  })

  await t.test('the old one finds that it is superseded, and does nothing any more', async t => {
    await master.start()
    await until('it shows that', async () => (await show(master, moved.id))?.state === 'superseded', PATIENCE_MS)
    await master.delete(`/v1/clusters/${moved.id}`).catch(() => undefined)
    await sleep(3_000)
    const now = await leasesOf(members, moved.id)
    t.same(before.filter(line => !now.includes(line)), [], 'its word ends nothing')
    t.ok(LEASED.has((await show(anchor, moved.id))?.state ?? ''), 'the new one goes on')
  })

  await t.test('the new master is obeyed', async t => {
    const longer = await anchor.post<ClusterResource>(`/v1/clusters/${moved.id}/extend`, { termMs: 7_200_000 })
    t.ok(longer.expiresAt > moved.expiresAt)
    for (const agent of members) t.ok((await agent.leases()).filter(l => l.clusterId === moved.id).every(l => l.endMs === longer.expiresAt && l.epoch >= 2), agent.name)
  })

  await t.test('the new master ends it', async t => {
    await anchor.delete(`/v1/clusters/${moved.id}`)
    await until('nothing is left', async () => (await leasesOf(members, moved.id)).length === 0, PATIENCE_MS)
    await until('and nothing runs', async () => (await Promise.all(members.map(async agent => (await agent.objects()).filter(o => o.includes(moved.id.slice(0, 8)))))).flat().length === 0, PATIENCE_MS)
    t.pass()
  })
})
