/** A policy that is set on one gateway holds at once on every host of its site: real processes, real mesh. */
import t from 'tap'
import { makeFederation, until, type HostPlan } from '../agents/federation.ts'
import type { RealAgent } from '../agents/agent.ts'
import { LEASED, show, spec } from '../agents/load.ts'
import type { ClusterResource } from '../../protocol/api.ts'
import type { PolicyCheck, PolicyDocument, PolicyResource } from '../../protocol/policy-api.ts'

t.setTimeout(200_000)
const gateway = (name: string, quotaPercent = 0): HostPlan => ({ name, roles: ['gateway'], vcpus: 1, memoryMiB: 1024, diskMiB: 0, quotaPercent })
const SITES = [
  { name: 'tokyo', hosts: [{ ...gateway('tokyo-1', 100), vcpus: 8, memoryMiB: 16_384 }] },
  { name: 'osaka', hosts: [gateway('osaka-1', 50), gateway('osaka-2', 50), { ...gateway('osaka-3'), roles: ['compute' as const], vcpus: 16, memoryMiB: 65_536 }] }
]

t.test('what a site lends is what its policy says, from the moment that it is set', async t => {
  const f = await makeFederation(SITES)
  t.teardown(async () => { await f.close() })
  await f.start()
  const [master, one, two] = ['tokyo-1', 'osaka-1', 'osaka-2'].map(name => f.agent(name)) as [RealAgent, RealAgent, RealAgent]
  const policyOf = (agent: RealAgent): Promise<PolicyResource> => agent.get<PolicyResource>('/v1/policy')
  const set = async (at: RealAgent, document: PolicyDocument): Promise<PolicyResource> => {
    const inForce = await at.put<PolicyResource>('/v1/policy', document)
    await until('both gateways have it', async () => (await Promise.all([one, two].map(policyOf))).every(({ version }) => version === inForce.version))
    return inForce
  }
  const ask = async (name: string, nodes: number, term = '1h'): Promise<ClusterResource> => {
    await master.post('/v1/clusters', spec(name, nodes, { term }))
    let view: ClusterResource | null = null
    await until(`${name} is leased or refused`, async () => {
      view = await show(master, name)
      return view !== null && (LEASED.has(view.state) || view.state === 'failed')
    })
    return view as unknown as ClusterResource
  }

  await set(two, { default: { longestLease: '30m', reason: 'try it first' } })
  t.match(await ask('toolong', 1), { state: 'failed', error: { message: /osaka lends to tokyo for at most 30m.*try it first/ } }, 'set on one gateway, enforced by the other')

  await set(one, { default: { quota: { nodes: 4, vcpus: 8 } } })
  t.match(await Promise.all([one, two].map(policyOf)), [{ quotaPercent: 50, usage: [] }, { quotaPercent: 50 }])
  const first = await ask('fits', 3)
  t.ok(LEASED.has(first.state), first.error?.message ?? first.state)
  const lenders = await Promise.all([one, two].map(policyOf))
  const at = lenders.findIndex(({ usage }) => usage.some(({ fromOthers }) => fromOthers !== undefined))
  t.match(lenders[at]?.usage, [{ site: 'tokyo', lent: { nodes: 2, vcpus: 3 }, fromOthers: { nodes: 1 }, quota: { nodes: 4, vcpus: 8 }, share: { nodes: 2, vcpus: 4 }, overdrawn: [] }], 'it is counted by the gateway that lent it, up to its share')
  t.match(lenders[1 - at]?.usage, [{ lent: { nodes: 1, vcpus: 0 }, toOthers: { nodes: 1 }, share: { nodes: 2 } }], 'and what that lacks by the other')
  t.match(await ask('over', 2), { state: 'failed', error: { message: /lends no more to site tokyo with osaka-[12]: needs 2 nodes, 1 free/ } }, 'and no more than the quota in all')

  const tight: PolicyDocument = { default: { quota: { nodes: 2 } } }
  const checked = await (at === 0 ? one : two).post<PolicyCheck>('/v1/policy/checks', tight)
  t.match(checked, { errors: [], warnings: [/sites.tokyo: more is lent to it than its quota: nodes/], usage: [{ site: 'tokyo', overdrawn: ['nodes'] }] }, 'what would be overdrawn is told before')
  await set(one, tight)
  t.match((await policyOf(at === 0 ? one : two)).usage, [{ lent: { nodes: 2 }, share: { nodes: 1 }, overdrawn: ['nodes'] }], 'what is lent is kept')
  t.ok(LEASED.has((await show(master, 'fits'))?.state ?? ''))
  t.match(await ask('more', 1), { state: 'failed', error: { message: /lends no more to site tokyo/ } }, 'and nothing new is lent')

  await set(two, { default: { quota: { nodes: 10 } } })
  const again = await ask('again', 1)
  t.ok(LEASED.has(again.state), again.error?.message ?? again.state)
  await t.rejects(one.put('/v1/policy', { default: { windows: [{ zone: 'Mars/Base' }] } }), { code: 'INVALID_INPUT', message: /Mars\/Base/ })
})
