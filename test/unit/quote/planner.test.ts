/** Plans of a master against what create then does, in a federation of real gateways and ledgers. */
import t, { type Test } from 'tap'
import type { CallPeer } from '../../../agent/peers.ts'
import { createPlanner, type Planner } from '../../../agent/quote/planner.ts'
import { MusubiError } from '../../../protocol/core/errors.ts'
import { END_GUARD_MS } from '../../../protocol/core/lease/lease.ts'
import type { KnownSite } from '../../../protocol/core/master/events.ts'
import { siteCapacityOf } from '../../../protocol/core/placement/site-capacity.ts'
import { eventually, host, IMAGE, startFederation, wanted, type FederationModel, type HostPlan } from '../../model/federation.ts'

const HOUR = 3_600_000
const PLANS = [host('tokyo', 1, 'gateway compute', 3), host('osaka', 1, 'gateway', 1), host('osaka', 2, 'compute storage', 4), host('kyoto', 1, 'gateway', 1), host('kyoto', 2, 'compute', 4)]

interface Bench { model: FederationModel, planner: Planner, sent: Map<string, number>, call: { deny: (peer: string, method: string) => MusubiError | null, said: Array<{ peer: string, method: string }> } }

async function bench (t: Test, plans: readonly HostPlan[] = PLANS): Promise<Bench> {
  const model = await startFederation(plans)
  t.teardown(() => model.stop())
  const call: Bench['call'] = { deny: () => null, said: [] }
  const gateways = [...model.machines.values()].filter(m => m.roles.includes('gateway'))
  const sites = (): KnownSite[] => gateways.map(m => ({
    ...siteCapacityOf(m.site, [...model.machines.values()].filter(one => one.site === m.site).map(one => ({ host: one.host, roles: one.roles, free: one.life?.ledger.free() ?? one.capacity }))), peer: m.peer, gatewayHost: m.host, priceMilli: 100
  }))
  const ask = async (peer: string, method: string, request: unknown): Promise<unknown> => {
    call.said.push({ peer, method })
    const denied = call.deny(peer, method)
    if (denied !== null) throw denied
    const { gateway, told } = model.alive(peer.slice('peer-'.length))
    const caller = { peerId: 'peer-tokyo-1', site: 'tokyo', host: 'tokyo-1', gateway: true }
    return method === 'calendar' ? await told.answer(request as never, caller) : await gateway?.quote(request as never, caller)
  }
  let ids = 0
  const sent: Bench['sent'] = new Map()
  const planner = createPlanner({
    site: 'tokyo', call: ask as CallPeer, sites, now: () => model.clockMs, newId: () => `${(++ids).toString(16).padStart(8, '0')}-0000-4000-8000-000000000000`,
    rttMs: peer => peer === 'peer-osaka-1' ? 20 : null, sentMbit: peer => sent.get(peer) ?? null, image: () => Promise.resolve(IMAGE)
  })
  return { model, planner, call, sent }
}

/** What create makes of the same: nodes by site, or why not. */
async function created (model: FederationModel, spec: object): Promise<Record<string, number> | string> {
  const { id } = await model.master('tokyo-1').create(spec)
  await eventually('its decision', () => ['building', 'ready', 'degraded', 'failed'].includes(model.master('tokyo-1').get(id).state), 20_000)
  const { state, nodes, error } = model.master('tokyo-1').get(id)
  return state === 'failed' ? error?.message ?? '' : Object.fromEntries(Object.entries(Object.groupBy(nodes, node => node.site)).map(([site, of]) => [site, of?.length ?? 0]))
}

const where = (plan: Awaited<ReturnType<Planner['plan']>>): Record<string, number> => Object.fromEntries(plan.placement.map(({ site, nodes }) => [site, nodes]))

t.test('a plan is what create then does, with what it costs', async t => {
  const { model, planner, call } = await bench(t)
  const spec = wanted('demo', 5, { volumes: [{ name: 'data', sizeMiB: 100, node: 1 }] })
  const plan = await planner.plan(spec)
  t.same(model.leases(), [], 'nothing is held')
  t.same([...new Set(call.said.map(({ method }) => method))].sort(), ['calendar', 'quote'], 'and nothing else is asked')
  t.match(plan, { cluster: 'demo', fits: true, problem: '', nodes: 5, startMs: model.clockMs, endMs: model.clockMs + 2 * HOUR, leftOut: 0 })
  t.match(plan.offers.map(({ site, answer, taken, nodes, rttMs, counter }) => ({ site, answer, taken, nodes, rttMs, counter })), [
    { site: 'tokyo', answer: 'quote', taken: false, nodes: 0, rttMs: 0 },
    { site: 'kyoto', answer: 'quote', taken: false, nodes: 0, rttMs: null },
    { site: 'osaka', answer: 'quote', taken: false, nodes: 4, rttMs: 20, counter: '4 of 5 nodes fit now' }
  ])
  t.same(where(plan), { tokyo: 2, osaka: 3 })
  const [tokyo, osaka] = plan.placement
  t.match(tokyo, { frontend: true, volumes: [], wanBytes: 0, wanMs: 0, priceMilli: 250, totalMilli: 1000 })
  t.match(osaka, { frontend: false, volumes: ['data'], wanBytes: 200_000_000, wanMs: null, totalMilli: 1500 })
  t.equal(plan.totalMilli, 2500)
  t.same(await created(model, spec), where(plan))
})

t.test('who refuses is left out, as by create, with the reason beside the others', async t => {
  const { model, planner, call } = await bench(t)
  const denied = new MusubiError('POLICY_DENIED', 'site osaka lends nothing to tokyo')
  call.deny = (peer, method) => peer === 'peer-osaka-1' && method === 'quote' ? denied : null
  const plan = await planner.plan(wanted('demo', 5))
  t.same(where(plan), { tokyo: 2, kyoto: 3 })
  t.match(plan.offers.find(({ site }) => site === 'osaka'), { answer: 'none', nodes: 0, reasons: [{ code: 'POLICY_DENIED', message: 'site osaka lends nothing to tokyo' }] })
  const tooMuch = await planner.plan(wanted('demo', 8))
  t.match(tooMuch, { fits: false, placement: [], totalMilli: 0 })
  t.match(tooMuch.problem, /no room for 2 of 8 nodes/)
  t.match(tooMuch.nearest, /^6 of 8 nodes would fit in that time$/)
  t.same(model.leases(), [])
})

t.test('an older release is counted by what it advertises, and is no failure', async t => {
  const { planner, call } = await bench(t)
  call.deny = (peer, method) => peer === 'peer-osaka-1' && method === 'quote' ? new MusubiError('UNIMPLEMENTED', 'this method is not known here') : null
  const plan = await planner.plan(wanted('demo', 6), {}, ['osaka'])
  t.match(plan.offers.map(({ site, answer, nodes, priceMilli, reasons }) => ({ site, answer, nodes, priceMilli, reasons })), [{ site: 'tokyo' }, { site: 'osaka', answer: 'cannot-quote', nodes: 4, priceMilli: null, reasons: [] }])
  t.match(plan, { fits: true, totalMilli: null })
  t.same(where(plan), { tokyo: 2, osaka: 4 })
  await t.rejects(planner.plan(wanted('demo', 1), {}, ['nara']), { code: 'NOT_FOUND', message: 'no site "nara" is known here' })
})

t.test('a hostile quote is refused, a silent site is told', async t => {
  const { model, planner, call } = await bench(t)
  const gateway = model.alive('osaka-1').gateway
  if (gateway === null) throw new Error('osaka-1 is no gateway')
  gateway.quote = () => Promise.resolve({ site: 'osaka', nowMs: 0, taken: true, reasons: [], priceMilli: 0, totalMilli: 0, nodes: 1_000_000, earliestMs: 0, vcpus: 0, memoryMib: 0, wanMbit: 0 })
  call.deny = (peer, method) => peer === 'peer-kyoto-1' && method === 'quote' ? new MusubiError('UNREACHABLE', 'kyoto did not answer') : null
  const plan = await planner.plan(wanted('demo', 5))
  t.match(plan.offers.filter(({ answer }) => answer === 'none').map(({ site, reasons }) => ({ site, code: reasons[0]?.code })), [{ site: 'kyoto', code: 'UNREACHABLE' }, { site: 'osaka', code: 'BAD_OFFER' }])
  t.equal(plan.fits, false)
})

t.test('a site that asks more than it advertises, and than the cluster allows, is left out with its price', async t => {
  const { planner } = await bench(t)
  const capped = (maxPrice: number): object => {
    const whole = wanted('demo', 5) as { spec: object }
    return { ...whole, spec: { ...whole.spec, placement: { maxPrice } } }
  }
  const plan = await planner.plan(capped(0.2))
  t.equal(plan.fits, false)
  t.match(plan.problem, /(osaka|kyoto) would ask 0.25 per vCPU and hour, more than the cluster allows/)
  t.match(await planner.plan(capped(0.25)), { fits: true })
})

t.test('a later start is found when all of it is taken now', async t => {
  const { model, planner } = await bench(t)
  t.same(await created(model, wanted('first', 10, { term: '3h' })), { tokyo: 2, kyoto: 4, osaka: 4 })
  const now = await planner.plan(wanted('demo', 5))
  const at = new Date(Math.ceil((model.clockMs + 3 * HOUR) / 1000) * 1000).toISOString().slice(0, 16)
  t.equal(now.fits, false)
  t.match(now.nearest, `all of it would fit from ${at}`)
  t.ok(now.offers.every(({ nodes }) => nodes === 0))
  const later = await planner.plan(wanted('demo', 5), { earliest: true })
  t.match(later, { fits: true, problem: '' })
  t.ok(later.startMs >= model.clockMs + 3 * HOUR && later.startMs < model.clockMs + 3 * HOUR + 60_000)
  t.equal(later.endMs - later.startMs, 2 * HOUR)
})

t.test('a site whose cache would begin with the image comes first, for clusters that leave their own to others', async t => {
  const { model, planner, call } = await bench(t)
  const [kernel = '', root = ''] = IMAGE.files.map(({ sha256 }) => sha256)
  const later = model.clockMs + 24 * HOUR
  const osaka = model.machine('osaka-1')
  const keeps = (held: string[], part: object = {}): void => { osaka.retained = [{ owner: 'tokyo', checked: true, untilMs: later, held, ...part }] }
  const retaining = wanted('demo', 5, { cache: { retain: '7d' } })
  const bytes = (plan: Awaited<ReturnType<Planner['plan']>>): unknown => Object.fromEntries(plan.placement.map(({ site, wanBytes }) => [site, wanBytes]))
  keeps([kernel, root])
  t.same(where(await planner.plan(wanted('demo', 5))), { tokyo: 2, kyoto: 3 }, 'who keeps nothing gets nothing that was kept')
  const whole = await planner.plan(retaining)
  t.same([where(whole), bytes(whole)], [{ tokyo: 2, osaka: 3 }, { tokyo: 0, osaka: 0 }], 'nothing crosses')
  keeps([root])
  t.same(bytes(await planner.plan(retaining)), { tokyo: 0, osaka: 50_000_000 }, 'most of it is enough')
  t.match((await model.master('tokyo-1').plan(retaining)).explanation, /osaka: 3 nodes.*has the image/)
  keeps([kernel])
  t.same(where(await planner.plan(retaining)), { tokyo: 2, kyoto: 3 }, 'a little of it is not')
  t.same(bytes(await planner.plan(retaining, {}, ['osaka'])), { tokyo: 0, osaka: 150_000_000 }, 'but it need not cross')
  for (const part of [{ owner: 'kyoto' }, { checked: false }, { untilMs: model.clockMs }]) {
    keeps([kernel, root], part)
    t.same(where(await planner.plan(retaining)), { tokyo: 2, kyoto: 3 }, JSON.stringify(part))
  }
  keeps([kernel, root])
  const indifferent = { ...retaining, spec: { ...(retaining as { spec: object }).spec, placement: { preferWarmCache: false } } }
  t.same(where(await planner.plan(indifferent)), { tokyo: 2, kyoto: 3 })
  t.notOk(call.said.some(({ method }) => method !== 'calendar' && method !== 'quote'))
  const before = model.calls.length
  t.same(await created(model, retaining), { tokyo: 2, osaka: 3 }, 'as create does')
  t.same(model.calls.slice(before).filter(({ method }) => method === 'calendar').map(({ to, request }) => [to, (request as { onlyObjects?: boolean }).onlyObjects]).sort(), [['kyoto-1', true], ['osaka-1', true]], 'which asks for no calendar')
  await model.master('tokyo-1').remove('demo')
  await eventually('its end', () => model.leases().length === 0)
  await model.pass(END_GUARD_MS) // what has ended counts until a host has seen it gone, or so long
  const after = model.calls.length
  t.same(await created(model, wanted('plain', 5)), { tokyo: 2, kyoto: 3 })
  t.notOk(model.calls.slice(after).some(({ method }) => method === 'calendar'), 'nobody is asked for what would change nothing')
})

t.test('how long the image takes: by what is configured, else by what was sent, else nobody knows', async t => {
  const times = (plan: Awaited<ReturnType<Planner['plan']>>): unknown => Object.fromEntries(plan.placement.map(({ site, wanMs, wanFrom }) => [site, [wanMs, wanFrom]]))
  const { planner, sent } = await bench(t)
  t.same(times(await planner.plan(wanted('demo', 9))), { tokyo: [0, 'unknown'], kyoto: [null, 'unknown'], osaka: [null, 'unknown'] })
  sent.set('peer-osaka-1', 80)
  // 200 MB at 80 Mbit/s, of which another site takes half
  t.same(times(await planner.plan(wanted('demo', 9))), { tokyo: [0, 'unknown'], kyoto: [null, 'unknown'], osaka: [40_000, 'measured'] })
  const wide = PLANS.map(plan => plan.roles.includes('gateway') && plan.site !== 'kyoto' ? { ...plan, capacity: { ...plan.capacity, bandwidthMbit: plan.site === 'tokyo' ? 400 : 100 } } : plan)
  const other = await bench(t, wide)
  other.sent.set('peer-osaka-1', 1)
  t.same(times(await other.planner.plan(wanted('demo', 9))), { tokyo: [0, 'unknown'], kyoto: [null, 'unknown'], osaka: [16_000, 'configured'] }, 'what people have said comes first')
})
