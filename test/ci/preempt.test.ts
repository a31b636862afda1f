/** A site of a higher priority gets by notice what another one runs on, and that one gets it back when it is not needed: real processes, real mesh. */
import t from 'tap'
import { makeFederation, until, type HostPlan } from '../agents/federation.ts'
import type { RealAgent } from '../agents/agent.ts'
import { LEASED, show, spec } from '../agents/load.ts'
import type { ClusterResource, LeaseResource } from '../../protocol/api.ts'
import type { PolicyResource } from '../../protocol/policy-api.ts'

t.setTimeout(300_000)
const gateway = (name: string): HostPlan => ({ name, roles: ['gateway'], vcpus: 1, memoryMiB: 1024, diskMiB: 0 })
const SITES = [
  { name: 'low', hosts: [gateway('low-1')] }, { name: 'high', hosts: [gateway('high-1')] },
  { name: 'osaka', hosts: [{ ...gateway('osaka-1'), quotaPercent: 100 }, { ...gateway('osaka-2'), roles: ['compute' as const], vcpus: 4, memoryMiB: 16_384 }] }
]

t.test('low runs; high is told when, reserves it, gives it up, reserves it again and gets it', async t => {
  const f = await makeFederation(SITES)
  t.teardown(async () => { await f.close() })
  await f.start()
  const [low, high, osaka, host] = ['low-1', 'high-1', 'osaka-1', 'osaka-2'].map(name => f.agent(name)) as [RealAgent, RealAgent, RealAgent, RealAgent]
  await osaka.put<PolicyResource>('/v1/policy', { sites: { low: { priority: 10, preempt: { notice: '1m' } }, high: { priority: 60 } } })
  const settled = async (master: RealAgent, name: string): Promise<ClusterResource> => {
    let view: ClusterResource | null = null
    await until(`${name} is leased, reserved or refused`, async () => {
      view = await show(master, name)
      return view !== null && (LEASED.has(view.state) || view.state === 'failed' || view.state === 'reserved')
    })
    return view as unknown as ClusterResource
  }
  const ends = async (): Promise<number[]> => [...new Set((await host.get<LeaseResource[]>('/v1/leases')).filter(lease => lease.masterSite === 'low').map(lease => lease.endMs))]
  const lender = async (): Promise<ClusterResource['lenders'][number] | undefined> => (await show(low, 'batch'))?.lenders.find(({ site }) => site === 'osaka')

  await low.post('/v1/clusters', spec('batch', 4))
  const batch = await settled(low, 'batch')
  t.ok(LEASED.has(batch.state), batch.error?.message ?? batch.state)
  t.same(await ends(), [batch.expiresAt])

  await high.post('/v1/clusters', spec('refused', 3))
  const refused = await settled(high, 'refused')
  t.match(refused, { state: 'failed', error: { message: /no room|do not fit/ } }, 'not at once')
  t.match(JSON.stringify(refused.error), /from 20\d\d-/, 'but it is told from when on')
  t.same(await ends(), [batch.expiresAt], 'and for that nobody gets notice')

  const within = '?earliest=true&withinMs=600000'
  await high.post(`/v1/clusters${within}`, spec('urgent', 3))
  const urgent = await settled(high, 'urgent')
  t.equal(urgent.state, 'reserved', urgent.error?.message ?? '')
  t.ok(urgent.startsAt < batch.expiresAt - 1_800_000, 'long before the other one would have gone')
  t.same(await ends(), [urgent.startsAt], 'which ends when this one begins')
  t.match(await host.get<LeaseResource[]>('/v1/leases'), [{ masterSite: 'low', formerEndMs: batch.expiresAt }], 'and the host knows until when it was')
  await until('its master is told', async () => (await lender())?.endsAt === urgent.startsAt)
  t.match(await lender(), { state: 'active, preempted', notice: /for site high/ })
  await t.rejects(low.post('/v1/clusters/batch/extend', { termMs: 7_200_000 }), { code: /POLICY_PREEMPTED|CONFLICT|NO_CAPACITY/ })

  await high.delete('/v1/clusters/urgent')
  await until('its end is as it was', async () => (await ends())[0] === batch.expiresAt)
  await until('its master is told', async () => (await lender())?.endsAt === undefined)
  t.match(await lender(), { state: 'active', notice: /was withdrawn/ })

  await high.post(`/v1/clusters${within}`, spec('again', 3))
  const again = await settled(high, 'again')
  t.equal(again.state, 'reserved', again.error?.message ?? '')
  t.same(await ends(), [again.startsAt])
  await until('it begins in time', async () => LEASED.has((await show(high, 'again'))?.state ?? ''), 200_000)
  t.same(await ends(), [], 'on what the other one ran on')
})
