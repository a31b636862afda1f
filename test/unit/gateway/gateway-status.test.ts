/** Looks at hosts on behalf of masters: shared, and never so many that hosts have no time for leases. */
import t, { type Test } from 'tap'
import type { Gateway } from '../../../agent/gateway/gateway.ts'
import type { Caller } from '../../../agent/peers.ts'
import { MAX_IN_FLIGHT_PER_PEER, MAX_LOOKS } from '../../../protocol/core/limits.ts'
import type { Request } from '../../../protocol/core/messages.ts'
import { eventually, host, startFederation, type FederationModel } from '../../model/federation.ts'

const MASTER: Caller = { peerId: 'peer-tsukuba-1', site: 'tsukuba', host: 'tsukuba-1', gateway: true }
const idOf = (n: number): string => `c${String(n).padStart(7, '0')}-0000-4000-8000-000000000000`

async function bench (t: Test, clusters: number): Promise<{ model: FederationModel, gateway: Gateway, looked: () => number }> {
  const model = await startFederation([host('tokyo', 1, 'gateway', 1), host('tokyo', 2, 'compute', clusters), host('tsukuba', 1, 'gateway', 1)])
  t.teardown(() => model.stop())
  const { gateway } = model.alive('tokyo-1')
  if (gateway === null) throw new Error('tokyo-1 is no gateway')
  for (let n = 1; n <= clusters; n++) {
    const request: Request = {
      key: `k${n}`, clusterId: idOf(n), cluster: `demo${n}`, vni: n, masterSite: 'tsukuba', startMs: model.clockMs, endMs: model.clockMs + 3_600_000,
      nodes: [{ name: `demo${n}-tokyo-001`, vcpus: 1, memoryMib: 1 }], volumes: [], frontend: false, holdTtlMs: 30_000, bandwidthMbit: 0, epoch: 1, sentMs: model.clockMs, grow: false
    }
    const { offerId } = await gateway.request(request, MASTER)
    await gateway.commit({ clusterId: idOf(n), offerId, key: 'x', epoch: 1 }, MASTER)
  }
  return { model, gateway, looked: () => model.calls.filter(c => c.method === 'hostStatus' && c.to === 'tokyo-2').length }
}

t.test('who asks for what is being looked at gets the same answer', async t => {
  const { model, gateway, looked } = await bench(t, 1)
  const { promise: go, resolve: finish } = Promise.withResolvers<undefined>()
  model.fate = async ({ method }) => {
    if (method === 'hostStatus') await go
    return 'deliver' as const
  }
  const all = Array.from({ length: 300 }, () => gateway.status({ clusterId: idOf(1) }, MASTER))
  await eventually('it is looked at', () => looked() > 0)
  finish(undefined)
  const answers = await Promise.all(all)
  t.equal(looked(), 1)
  t.match(answers.at(-1)?.hosts, [{ host: 'tokyo-2' }, { host: 'tokyo-1' }])
  await t.rejects(gateway.status({ clusterId: idOf(1) }, { ...MASTER, site: 'osaka' }), { code: 'CONFLICT' })
  await gateway.status({ clusterId: idOf(1) }, MASTER)
  t.equal(looked(), 2, 'later it is looked at again')
})

t.test('looks leave room for leases', t => {
  t.ok(MAX_LOOKS <= MAX_IN_FLIGHT_PER_PEER / 2)
  t.end()
})
