/** Which peer may ask what over the mesh. */
import t from 'tap'
import { callerOf, callPeerOf, serveAgent, type ServeDeps } from '../../../agent/serve.ts'
import { MAX_COPY_BYTES } from '../../../protocol/core/limits.ts'
import type { HostRoleName } from '../../../protocol/mesh/roles.ts'
import type { Mesh } from '../../../protocol/mesh/mesh.ts'

const ID = '01234567-89ab-4def-8123-456789abcdef'
type Handler = (request: unknown, context: unknown) => unknown

/** Handlers of an agent of tokyo; what gets through to lessor, gateway and copies is noted as `part.method`. */
function bench (isGateway = true): { handlers: Map<string, Handler>, reached: string[] } {
  const handlers = new Map<string, Handler>()
  const reached: string[] = []
  const part = (name: string): never => new Proxy({}, { get: (_target, method) => (): Promise<object> => { reached.push(`${name}.${String(method)}`); return Promise.resolve({}) } }) as never
  const mesh = { serve: (method: string, handler: Handler) => { handlers.set(method, handler) } } as unknown as Mesh
  const deps: ServeDeps = { site: 'tokyo', lessor: part('lessor'), gateway: isGateway ? part('gateway') : null, copies: part('copies'), callerOf, sites: () => [] }
  serveAgent(mesh, deps)
  return { handlers, reached }
}
const from = (site: string, roles: HostRoleName[]): unknown => ({ peerId: 'p', role: { kind: 'host', site, host: 'h', roles } })
const OWN = from('tokyo', ['gateway'])
const COMPUTE = from('tokyo', ['compute'])
const FOREIGN = from('osaka', ['gateway'])
const COORDINATOR = { peerId: 'c', role: { kind: 'coordinator', name: 'main' } }
const ask = async ({ handlers }: { handlers: Map<string, Handler> }, method: string, context: unknown, request: unknown = { clusterId: ID, epoch: 1, record: new Uint8Array(3), ...(method === 'keepAlive' ? { grant: null } : {}) }): Promise<unknown> => {
  const handler = handlers.get(method)
  if (handler === undefined) throw new Error(`nobody serves ${method}`)
  return await handler(request, context)
}
const FORBIDDEN = { code: 'FORBIDDEN' }

t.test('who is master, and copies of decisions, are between gateways of one site', async t => {
  const agent = bench(false)
  for (const method of ['claim', 'copy', 'hostExtend', 'hostCurtail', 'hostRestore', 'hostKeepAlive', 'hostCommit', 'hostRelease']) {
    for (const context of [COMPUTE, FOREIGN, COORDINATOR]) await t.rejects(ask(agent, method, context), FORBIDDEN, method)
    await ask(agent, method, OWN)
  }
  t.strictSame(agent.reached, ['lessor.claim', 'copies.keep', 'lessor.extend', 'lessor.curtail', 'lessor.restore', 'lessor.keepAlive', 'lessor.commit', 'lessor.release'])
})

t.test('masters ask gateways, whatever their site', async t => {
  const agent = bench()
  for (const method of ['extend', 'keepAlive', 'commit', 'release']) {
    for (const context of [COMPUTE, COORDINATOR]) await t.rejects(ask(agent, method, context), FORBIDDEN, method)
    await ask(agent, method, FOREIGN)
  }
  t.strictSame(agent.reached, ['gateway.extend', 'gateway.keepAlive', 'gateway.commit', 'gateway.release'])
  await t.rejects(ask(bench(false), 'keepAlive', FOREIGN), /nobody serves/, 'a host that is no gateway has no business with other sites')
})

t.test('what is no copy does not get through', async t => {
  const agent = bench()
  await t.rejects(ask(agent, 'copy', OWN, { clusterId: 'c1', epoch: 1, record: new Uint8Array(3) }), { code: 'INVALID_INPUT', message: /no UUID/ })
  await t.rejects(ask(agent, 'copy', OWN, { clusterId: ID, epoch: 0, record: new Uint8Array(3) }), { code: 'INVALID_INPUT', message: /epoch 0/ })
  await t.rejects(ask(agent, 'copy', OWN, { clusterId: ID, epoch: 1, record: new Uint8Array(MAX_COPY_BYTES + 1) }), { code: 'INVALID_INPUT', message: /above/ })
  t.strictSame(agent.reached, [])
})

t.test('what may be left out of a reply is no mistake of the other, also not of an earlier release', async t => {
  const replies: Record<string, unknown> = { calendar: { site: 'osaka', nowMs: 1, hosts: [], held: [], lending: null }, request: { gateway: null } }
  const call = callPeerOf({ call: ((_peer: string, method: string) => Promise.resolve(replies[method])) as never, describe: peer => peer })
  t.same(await call('p', 'calendar', { sentMs: 1, objects: [] }), replies.calendar)
  await t.rejects(call('p', 'request', {} as never), { message: /reply to request from p.gateway is missing/ })
  replies.calendar = { site: 'osaka', nowMs: 1, hosts: [{ roles: [], steps: [{ atMs: 1, free: null }] }], held: [], lending: null }
  await t.rejects(call('p', 'calendar', { sentMs: 1, objects: [] }), { message: /hosts.0.steps.0.free is missing/ })
})
