/**
 * kill -9 at chosen moments of a negotiation between two sites. Frozen hosts (SIGSTOP) hold it up at
 * the step that is meant, so nothing here depends on being quick.
 */
import { setTimeout as sleep } from 'node:timers/promises'
import t, { type Test } from 'tap'
import { makeFederation, until, type RealFederation } from '../agents/federation.ts'
import type { RealAgent } from '../agents/agent.ts'
import { LEASED, show, spec } from '../agents/load.ts'
import type { ClusterResource, LeaseResource } from '../../protocol/api.ts'

t.setTimeout(400_000)
const PATIENCE_MS = 30_000
/** A hold, or T_activate, and a busy machine: nothing may outlive its master for longer. */
const CLEAN_MS = 150_000

/** Gateways carry frontend and segments, the other hosts two nodes each: a cluster of four needs all of them. */
const SITES = ['tokyo', 'osaka'].map(name => ({
  name,
  hosts: [
    { name: `${name}-1`, roles: ['gateway' as const], vcpus: 1, memoryMiB: 1024, diskMiB: 0 },
    { name: `${name}-2`, roles: ['compute' as const], vcpus: 2, memoryMiB: 4096, diskMiB: 0 }
  ]
}))

const leasesIn = async (agent: RealAgent, state: string): Promise<LeaseResource[]> => (await agent.leases()).filter(l => l.state === state)
const idsOf = (leases: readonly LeaseResource[]): string[] => leases.map(l => l.leaseId).sort()
const ids = async (agent: RealAgent): Promise<string[]> => idsOf(await agent.leases())
const reach = async (agent: RealAgent, state: string): Promise<LeaseResource[]> => {
  let found: LeaseResource[] = []
  await until(`${agent.name} lists a lease as ${state}`, async () => {
    found = await leasesIn(agent, state)
    return found.length > 0
  }, PATIENCE_MS, 5)
  return found
}

/** Waits until the cluster is leased as a whole or not at all. */
async function settled (t: Test, f: RealFederation, master: RealAgent, name: string): Promise<ClusterResource> {
  let view: ClusterResource | null = null
  await until(`${name} settles`, async () => {
    view = await show(master, name)
    return view !== null && (LEASED.has(view.state) || view.state === 'failed')
  }, CLEAN_MS)
  const cluster = view as ClusterResource | null
  if (cluster === null) throw new Error('it is not known')
  const states = async (): Promise<string[]> => (await Promise.all(f.agents.map(async agent => (await agent.leases()).map(l => `${agent.name} ${l.kind} ${l.state}`)))).flat().sort()
  if (LEASED.has(cluster.state)) {
    t.same(await states(), ['osaka-1 quota active', 'osaka-1 segment active', 'osaka-2 node active', 'osaka-2 node active', 'tokyo-1 frontend active', 'tokyo-1 segment active', 'tokyo-2 node active', 'tokyo-2 node active'], 'all of it is active')
  } else {
    t.comment(`failed: ${cluster.error?.code ?? ''} ${cluster.error?.message ?? ''}`)
    await until('nothing of it is left', async () => (await states()).length === 0 && (await Promise.all(f.agents.map(async agent => await agent.objects()))).flat().length === 0, CLEAN_MS).catch(async (error: unknown) => {
      throw new Error(`${String(error)}: ${(await states()).join(', ')}`)
    })
    t.pass('nothing of it is left')
  }
  return cluster
}

t.test('kill -9 between two steps', { timeout: 390_000 }, async t => {
  const f = await makeFederation(SITES)
  t.teardown(async () => { await f.close() })
  t.afterEach(() => { for (const agent of f.agents) if (agent.frozen) agent.freeze(false) })
  await f.start()
  const [master, own, gateway, far] = [f.agent('tokyo-1'), f.agent('tokyo-2'), f.agent('osaka-1'), f.agent('osaka-2')]
  let serial = 0

  /** Asks for a cluster and comes back when osaka holds its part, and tokyo's host is held up. */
  const heldAtOsaka = async (): Promise<string> => {
    const name = `m${++serial}`
    own.freeze(true)
    await master.post('/v1/clusters', spec(name, 4))
    await Promise.all([reach(far, 'held'), reach(gateway, 'held')]).catch(async (error: unknown) => {
      const view = await show(master, name)
      throw new Error(`${String(error)}; ${name} is ${view?.state ?? 'unknown'} ${view?.error?.message ?? ''}`)
    })
    return name
  }
  /** As before, and then: everything is held, the master has decided, tokyo has committed, osaka's host is held up. */
  const committedAtTokyo = async (): Promise<{ name: string, leases: LeaseResource[] }> => {
    const name = await heldAtOsaka()
    await sleep(300) // its answer, and with it the offer, is on its way
    far.freeze(true)
    own.freeze(false)
    return { name, leases: await reach(own, 'committed') }
  }
  const remove = async (name: string): Promise<void> => {
    await master.delete(`/v1/clusters/${name}`)
    await until('everything is free again', async () => (await Promise.all(f.agents.map(async agent => [...await agent.leases(), ...await agent.objects()]))).flat().length === 0, CLEAN_MS)
    // what gateways advertise follows a moment later
    await until('the master sees it', async () => (await master.get<Array<{ free: { vcpus: number }, total: { vcpus: number }, state: string }>>('/v1/sites')).every(s => s.state === 'alive' && s.free.vcpus === s.total.vcpus), PATIENCE_MS)
  }

  // what is killed is started again while the others go on: they wait for a frozen host for some seconds only
  await t.test('the gateway, between hold and commit', async t => {
    const name = await heldAtOsaka()
    const [held, segment] = [await far.leases(), await gateway.leases()]
    await gateway.end('SIGKILL')
    own.freeze(false)
    await gateway.start()
    t.same(await ids(gateway), idsOf(segment), 'its own hold is there again')
    t.same(await ids(far), idsOf(held), 'its host did not notice')
    const { state } = await settled(t, f, master, name)
    t.comment(state)
    await remove(name)
  })

  await t.test('a host, between hold and commit', async t => {
    const name = await heldAtOsaka()
    const held = await far.leases()
    await far.end('SIGKILL')
    own.freeze(false)
    await far.start()
    t.same(await ids(far), idsOf(held), 'what it held is there')
    const { state } = await settled(t, f, master, name)
    t.comment(state)
    await remove(name)
  })

  await t.test('a host, between commit and activation', async t => {
    const { name, leases } = await committedAtTokyo()
    await own.end('SIGKILL')
    await own.start()
    t.same((await own.leases()).map(l => [l.leaseId, l.state, l.token]), leases.map(l => [l.leaseId, 'committed', l.token]), 'what it had committed is committed, with the same tokens')
    t.same(await own.objects(), [], 'and nothing of it has started')
    far.freeze(false)
    const { state } = await settled(t, f, master, name)
    t.ok(LEASED.has(state), 'it goes on as if nothing had been')
    t.same((await own.leases()).map(l => l.leaseId).sort(), leases.map(l => l.leaseId).sort())
    await remove(name)
  })

  await t.test('the master, between its decision and the last commit', async t => {
    const { name } = await committedAtTokyo()
    const { id } = await master.get<ClusterResource>(`/v1/clusters/${name}`)
    await master.end('SIGKILL')
    far.freeze(false)
    t.same((await Promise.all([own, far].map(async agent => await agent.objects()))).flat(), [], 'nothing runs anywhere')
    await master.start()
    t.equal((await show(master, name))?.id, id, 'it knows what it had accepted')
    const { state } = await settled(t, f, master, name)
    t.comment(state)
    await remove(name)
  })

  await t.test('the master for a while, and the host that had not committed for good measure', async t => {
    const { name } = await committedAtTokyo()
    await Promise.all([master.end('SIGKILL'), far.end('SIGKILL')])
    t.same(await own.objects(), [], 'nothing runs')
    await Promise.all([master.start(), far.start()])
    const { state } = await settled(t, f, master, name)
    t.comment(state)
    await remove(name)
  })

  await t.test('everybody at once, before the decision', async t => {
    const name = await heldAtOsaka()
    await Promise.all(f.agents.map(async agent => { await agent.end('SIGKILL') }))
    await f.start()
    const { state } = await settled(t, f, master, name)
    t.comment(state)
    await remove(name)
  })
})
