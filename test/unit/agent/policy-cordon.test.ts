import t from 'tap'
import { createCordon, createHostCordon } from '../../../agent/cordon.ts'
import { createEventLog } from '../../../agent/events.ts'
import { createLessor } from '../../../agent/lessor/lessor.ts'
import { tunnelAddressFor } from '../../../agent/drivers/network/address.ts'
import type { CallPeer } from '../../../agent/peers.ts'
import { serveAgent } from '../../../agent/serve.ts'
import type { HoldRequest } from '../../../protocol/core/messages.ts'
import type { Mesh } from '../../../protocol/mesh/mesh.ts'
import { openLedger } from '../../../store/ledger.ts'
import { createMemoryStore } from '../../../store/memory.ts'
import { holdRequest, item } from '../../model/fixtures.ts'

const T0 = 1_800_000_000_000
const idOf = (n: number): string => `0000000${n}-0000-4000-8000-000000000000`
const hold = (key: string, n: number): HoldRequest => holdRequest({ key, clusterId: idOf(n), offerId: idOf(n + 4), items: [item(idOf(n + 2), { name: 'demo-tokyo-001' })], startMs: T0, endMs: T0 + 3_600_000 })

t.test('a cordoned host refuses what is new, answers what it has promised, and stays so over a restart', async t => {
  const store = createMemoryStore()
  const seen: boolean[] = []
  const cordon = await createCordon(store, 'tokyo-2', state => { seen.push(state.cordoned) })
  const ledger = await openLedger({ store: createMemoryStore(), now: () => T0, host: 'tokyo-2', capacity: { vcpus: 8, memoryMib: 8192, diskMib: 1000, volumes: 8, bandwidthMbit: 0 } })
  const lessor = createLessor({
    site: 'tokyo', host: 'tokyo-2', ledger, reconciler: () => { throw new Error('nothing runs here') }, details: { of: () => Promise.resolve({}) }, events: createEventLog(() => T0), now: () => T0, monotonic: () => 0, sleep: () => Promise.resolve(), signGrant: () => ({ envelope: new Uint8Array(), chain: [] }), cordon,
    truth: { isGatewayOf: () => true, tunnelAddressFor, peer: 'peer-tokyo-2', underlayAddress: '192.0.2.2', tunnelEndpoint: '192.0.2.2:51820', addressOf: () => null }
  })
  const first = hold('before', 1)
  const held = await lessor.hold(first)
  await cordon.set(true, 'new memory on Friday')
  await t.rejects(lessor.hold(hold('after', 2)), { code: 'HOST_CORDONED', message: /tokyo-2 takes no new leases: new memory on Friday/, hint: /musubi host uncordon tokyo-2/ })
  t.same(await lessor.hold(first), held, 'the same question gets the same answer')
  t.equal(ledger.state().leases.size, 1)
  await cordon.set(true, 'new memory on Friday')
  const again = await createCordon(store, 'tokyo-2')
  t.same(again.get(), { cordoned: true, reason: 'new memory on Friday' })
  await again.set(false, 'ignored')
  t.same((await createCordon(store, 'tokyo-2')).get(), { cordoned: false, reason: '' })
  t.same(seen, [true], 'told once for each change')
})

t.test('a host is cordoned where it is, or from a gateway of its site', async t => {
  const calls: unknown[] = []
  const call: CallPeer = (peer, method, request) => {
    calls.push([peer, method, request])
    return Promise.resolve({ cordoned: true } as never)
  }
  const cordon = await createCordon(createMemoryStore(), 'gw1')
  const deps = { host: 'gw1', cordon, call, hosts: () => [{ host: 'gw1', peerId: 'p1' }, { host: 'tokyo-2', peerId: 'p2' }], gateways: () => ['gw1'] }
  const from = createHostCordon({ ...deps, isGateway: true })
  t.same(await from('gw1', true, 'why'), { host: 'gw1', cordoned: true })
  t.equal(cordon.get().cordoned, true)
  t.same(await from('tokyo-2', true, 'why'), { host: 'tokyo-2', cordoned: true })
  t.same(calls, [['p2', 'hostCordon', { cordoned: true, reason: 'why' }]])
  await t.rejects(from('tokyo-9', true, ''), { code: 'NOT_FOUND', hint: /gw1, tokyo-2/ })
  await t.rejects(createHostCordon({ ...deps, host: 'tokyo-3', isGateway: false })('tokyo-2', true, ''), { code: 'NOT_A_GATEWAY', hint: /run it on gw1, or on tokyo-2 itself/ })
})

t.test('over the mesh only gateways of the own site cordon a host', async t => {
  const cordon = await createCordon(createMemoryStore(), 'tokyo-2')
  const handlers = new Map<string, (request: unknown, context: unknown) => unknown>()
  const mesh = { serve: (method: string, handler: never) => { handlers.set(method, handler) } } as unknown as Mesh
  const callers = { gw: { peerId: 'a', site: 'tokyo', host: 'gw1', gateway: true }, foreign: { peerId: 'b', site: 'osaka', host: 'gw1', gateway: true }, host: { peerId: 'c', site: 'tokyo', host: 'tokyo-3', gateway: false }, main: { peerId: 'd', site: null, host: 'main', gateway: false } }
  serveAgent(mesh, { site: 'tokyo', lessor: null as never, gateway: null, copies: null as never, cordon, sites: () => [], callerOf: context => callers[(context as unknown as { who: keyof typeof callers }).who] })
  const ask = async (who: keyof typeof callers): Promise<unknown> => await handlers.get('hostCordon')?.({ cordoned: true, reason: '' }, { who })
  for (const who of ['foreign', 'host', 'main'] as const) await t.rejects(ask(who), { code: 'FORBIDDEN' }, who)
  t.equal(cordon.get().cordoned, false)
  t.same(await ask('gw'), { cordoned: true })
  t.equal(cordon.get().cordoned, true)
})
