/** What a gateway lets through between masters of other sites and its own hosts. */
import t from 'tap'
import type { Activate, Caller } from '../../../agent/peers.ts'
import type { ClusterDocument, Request } from '../../../protocol/core/messages.ts'
import { HOUR } from '../../model/fixtures.ts'
import { eventually, host as planned, startFederation, wanted } from '../../model/federation.ts'

const idOf = (n: number): string => `${String(n).padStart(8, '0')}-0000-4000-8000-000000000000`
const PLANS = [planned('tokyo', 1, 'gateway compute', 2), planned('tsukuba', 1, 'gateway', 1), planned('tsukuba', 2, 'compute storage', 2)]

t.test('a site learns the secrets of its own volumes', async t => {
  const model = await startFederation(PLANS)
  t.teardown(() => model.stop())
  const { id } = await model.master('tokyo-1').create(wanted('demo', 2, { volumes: [{ name: 'data', sizeMiB: 64, node: 2 }] }))
  await eventually('the cluster', () => model.master('tokyo-1').get(id).state === 'building')
  const told = model.calls.filter(call => call.method === 'activate').map(call => [call.to, (call.request as Activate).secrets.map(secret => secret.name)])
  t.strictSame(told.sort(), [['tokyo-1', []], ['tsukuba-1', ['data']]])
})

t.test('a gateway passes on what it offered, to the master that asked in its own name', async t => {
  const model = await startFederation(PLANS)
  t.teardown(() => model.stop())
  const { gateway } = model.alive('tsukuba-1')
  if (gateway === null) throw new Error('tsukuba-1 is no gateway')
  const caller: Caller = { peerId: 'peer-tokyo-1', site: 'tokyo', host: 'tokyo-1', gateway: true }
  const ask: Request = {
    key: 'k', clusterId: idOf(1), cluster: 'demo', vni: 7, masterSite: 'tokyo', startMs: model.clockMs, endMs: model.clockMs + HOUR,
    nodes: [{ name: 'demo-tsukuba-001', vcpus: 1, memoryMib: 512 }], volumes: [], frontend: false, holdTtlMs: 30_000,
    bandwidthMbit: 0, epoch: 1, sentMs: model.clockMs, grow: false
  }
  await t.rejects(gateway.request({ ...ask, masterSite: 'osaka' }, caller), { code: 'FORBIDDEN', message: /in the name of site osaka/ })
  await t.rejects(gateway.request({ ...ask, clusterId: 'c1' }, caller), { code: 'INVALID_INPUT', message: /no UUID/ })
  t.strictSame(model.calls, [], 'no host was asked')
  const { id } = await model.master('tokyo-1').create(wanted('demo', 3))
  await eventually('the cluster', () => model.master('tokyo-1').get(id).state === 'building')
  const { document, receipts } = model.master('tokyo-1').record(id)
  if (document === null) throw new Error('no document')
  const refused = async (why: RegExp, part: Partial<ClusterDocument>): Promise<void> => {
    await t.rejects(gateway.activate({ clusterId: id, document: { ...document, ...part }, receipts: [...receipts], secrets: [], epoch: 1 }, caller), { code: 'CONFLICT', message: why }, String(why))
  }
  await refused(/had/, { vni: document.vni + 1 })
  await refused(/its master is not tokyo-1/, { masterSite: 'tsukuba' })
  await refused(/its master is not tokyo-1/, { masterPeer: 'peer-tsukuba-1' })
  await refused(/it is of cluster/, { id: idOf(9) })
  await refused(/not as offered/, { sites: document.sites.map(site => ({ ...site, gateway: { ...site.gateway, tunnelEndpoint: '192.0.2.66:1' } })) })
  await gateway.activate({ clusterId: id, document, receipts: [...receipts], secrets: [], epoch: 1 }, caller)
})
