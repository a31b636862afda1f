/** Releases at a gateway: side by side, and each done once. */
import t, { type Test } from 'tap'
import type { Gateway } from '../../../agent/gateway/gateway.ts'
import type { Caller } from '../../../agent/peers.ts'
import type { ReleaseRequest, Request } from '../../../protocol/core/messages.ts'
import { eventually, host, startFederation, type FederationModel } from '../../model/federation.ts'

const HOUR = 3_600_000
const PLANS = [host('tokyo', 1, 'gateway compute', 8), host('tsukuba', 1, 'gateway', 1)]
const MASTER: Caller = { peerId: 'peer-tsukuba-1', site: 'tsukuba', host: 'tsukuba-1', gateway: true }
const OTHER: Caller = { peerId: 'peer-osaka-1', site: 'osaka', host: 'osaka-1', gateway: true }
const idOf = (n: number): string => `c${n}000000-0000-4000-8000-000000000000`

const releasing = (clusterId: string): ReleaseRequest => ({ clusterId, reason: 'test', offerId: '', leaseIds: [], epoch: 1 })
const sweep = async (gateway: Gateway): Promise<void> => { await gateway.tick(); await gateway.swept() }

async function bench (t: Test): Promise<{ model: FederationModel, gateway: Gateway, request: (n: number, key?: string) => Request, releases: (n: number) => number, kept: () => Promise<string[]> }> {
  const model = await startFederation(PLANS)
  t.teardown(() => model.stop())
  const { gateway } = model.alive('tokyo-1')
  if (gateway === null) throw new Error('tokyo-1 is no gateway')
  return {
    model, gateway,
    request: (n, key = `k${n}`) => ({
      key, clusterId: idOf(n), cluster: `demo${n}`, vni: n, masterSite: 'tsukuba', startMs: model.clockMs, endMs: model.clockMs + HOUR,
      nodes: [{ name: `demo${n}-tokyo-001`, vcpus: 1, memoryMib: 512 }], volumes: [], frontend: false, holdTtlMs: 30_000, bandwidthMbit: 0, epoch: 1, sentMs: model.clockMs, grow: false
    }),
    releases: n => model.calls.filter(c => c.method === 'hostRelease' && (c.request as { clusterId: string }).clusterId === idOf(n)).length,
    kept: async () => (await Array.fromAsync(model.machine('tokyo-1').disk.iterate('offer/'))).map(({ key }) => key.slice('offer/'.length))
  }
}
const clusterOf = (request: unknown): string => (request as { clusterId: string }).clusterId

t.test('a release that hangs keeps no other from being swept', async t => {
  const { model, gateway, request, kept } = await bench(t)
  for (const n of [1, 2, 3]) await gateway.request(request(n), MASTER)
  model.fate = ({ method }) => method === 'hostRelease' ? 'lose request' : 'deliver'
  for (const n of [1, 2, 3]) await t.rejects(gateway.release(releasing(idOf(n)), MASTER), { code: 'UNREACHABLE' })
  const { promise: go, resolve: finish } = Promise.withResolvers<undefined>()
  model.fate = async ({ method, request: r }) => {
    if (method === 'hostRelease' && clusterOf(r) === idOf(1)) await go
    return 'deliver' as const
  }
  const swept = sweep(gateway)
  await eventually('the others are swept', async () => (await kept()).join() === idOf(1))
  finish(undefined)
  await swept
  t.same(await kept(), [])
})

t.test('who asks for a release that is under way waits for that one', async t => {
  const { model, gateway, request, releases, kept } = await bench(t)
  await gateway.request(request(1), MASTER)
  const { promise: go, resolve: finish } = Promise.withResolvers<undefined>()
  let fail = true
  model.fate = async ({ method }) => {
    if (method !== 'hostRelease') return 'deliver' as const
    await go
    return fail ? 'lose request' as const : 'deliver' as const
  }
  const release = (): Promise<{ ended: number }> => gateway.release(releasing(idOf(1)), MASTER)
  const all = [release(), release(), release()]
  await eventually('it has begun', () => releases(1) === 1)
  const late = release()
  await t.rejects(gateway.release(releasing(idOf(1)), OTHER), { code: 'CONFLICT' }, 'another master joins nothing')
  finish(undefined)
  for (const one of [...all, late]) await t.rejects(one, { code: 'UNREACHABLE' })
  t.equal(releases(1), 1)
  fail = false
  t.equal((await release()).ended, 2, 'after it a new one begins')
  t.same(await kept(), [])
})

t.test('a release while the sweep releases neither blocks nor repeats it for ever', async t => {
  const { model, gateway, request, releases, kept } = await bench(t)
  await gateway.request(request(1), MASTER)
  model.fate = ({ method }) => method === 'hostRelease' ? 'lose request' : 'deliver'
  await t.rejects(gateway.release(releasing(idOf(1)), MASTER))
  model.fate = () => 'deliver'
  const before = releases(1)
  await Promise.all([sweep(gateway), gateway.release(releasing(idOf(1)), MASTER), sweep(gateway), gateway.release(releasing(idOf(1)), MASTER)])
  t.equal(releases(1), before + 1)
  t.same(await kept(), [])
})

t.test('a release after a new request ends that request', async t => {
  const { model, gateway, request, kept } = await bench(t)
  await gateway.request(request(1), MASTER)
  const { promise: go, resolve: finish } = Promise.withResolvers<undefined>()
  model.fate = async ({ method }) => { if (method === 'hostRelease') await go; return 'deliver' as const }
  const first = gateway.release(releasing(idOf(1)), MASTER)
  await eventually('it has begun', () => model.calls.some(c => c.method === 'hostRelease'))
  const again = t.rejects(gateway.request(request(1, 'again'), MASTER), { code: 'CONFLICT', message: /released/ })
  const second = gateway.release(releasing(idOf(1)), MASTER)
  finish(undefined)
  await Promise.all([first, again, second])
  t.same(await kept(), [])
  t.same(model.leases(), [])
})

t.test('a release does not wait for hosts that are slow to hold', async t => {
  const { model, gateway, request, kept } = await bench(t)
  const { promise: go, resolve: finish } = Promise.withResolvers<undefined>()
  model.fate = async ({ method }) => { if (method === 'hold') await go; return 'deliver' as const }
  const asked = t.rejects(gateway.request(request(1), MASTER), { code: 'CONFLICT', message: /released/ })
  await eventually('hosts are asked', () => model.calls.some(c => c.method === 'hold'))
  t.equal((await gateway.release(releasing(idOf(1)), MASTER)).ended, 0)
  await asked
  t.same(await kept(), [])
  finish(undefined)
  await eventually('the hold comes late', () => model.leases().length > 0)
  await model.pass(31_000)
  t.same(model.leases(), [], 'and ends by itself')
})
