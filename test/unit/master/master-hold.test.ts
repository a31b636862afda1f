/** A cluster that waits for its user while all sites hold it: taken in time, given back, or lapsed; the machine alone. */
import t from 'tap'
import { MusubiError } from '../../../protocol/core/errors.ts'
import { HOLD_MARGIN, HOLD_TTL_MS, MAX_HOLD_TTL_MS } from '../../../protocol/core/limits.ts'
import { validUntil } from '../../../protocol/core/master/negotiation/negotiate.ts'
import { ACCEPT_MARGIN_MS } from '../../../protocol/core/master/pace.ts'
import { acceptUntilMs, type MasterRecord } from '../../../protocol/core/master/record.ts'
import { ID, lost, T0, World } from '../../model/master.ts'
import { stoppedEverywhere } from '../../model/master-stops.ts'

const ROOMS = { tokyo: 2, tsukuba: 2, ueno: 2 }
const RUNNING = 4 + 1 + 2 // nodes, frontend, a segment at each of two sites
const TTL_MS = 120_000
const HOUR = 3_600_000

function offered (ttlMs = TTL_MS, startMs = T0): World {
  const world = new World(ROOMS)
  world.create({}, startMs, ttlMs)
  world.settle()
  if (world.record().state !== 'offered') throw new Error(`it is ${world.record().state}: ${world.record().error?.message ?? ''}`)
  return world
}
const methods = (world: World): string[] => world.sent.map(ask => ask.method)
const untilMs = ({ hold }: MasterRecord): number => acceptUntilMs(hold ?? { endsMs: 0 })
/** @returns what the user is answered */
function accept (world: World): MusubiError | null | undefined {
  const before = world.amended.length
  world.submit({ type: 'accept', clusterId: ID, id: world.newId() })
  return world.amended.slice(before)[0]
}

t.test('all sites hold it for as long as was asked for, and nothing is decided', t => {
  const world = offered()
  const endsMs = Math.floor(T0 + TTL_MS * (1 - HOLD_MARGIN))
  t.match(world.record(), { state: 'offered', hold: { ttlMs: TTL_MS, endsMs }, decidedMs: 0, commitByMs: 0, receipts: [], document: null, error: null })
  t.same(world.record().offers.map(offer => [offer.site, offer.ttlMs]), [['tokyo', TTL_MS], ['tsukuba', TTL_MS]])
  t.equal(untilMs(world.record()), endsMs - ACCEPT_MARGIN_MS)
  world.pass(untilMs(world.record()) - world.now - 1_000)
  t.same(methods(world), ['request', 'request'], 'nothing is committed, renewed, or kept alive')
  t.equal(world.copies, 0)
  t.equal(world.live(), 2)
  t.equal(world.disk.get(ID)?.state, 'offered')
  t.end()
})

t.test('accepted, it is decided on the disk before the first commit leaves, then built from what was held', t => {
  const world = offered()
  const { offers } = world.record()
  world.pass(60_000)
  t.equal(accept(world), null)
  t.match(world.disk.get(ID), { state: 'committing', decidedMs: world.now, commitByMs: world.record().hold?.endsMs ?? 0 })
  world.settle()
  t.match(world.record(), { state: 'active', error: null })
  t.same(world.record().offers, offers)
  t.equal(world.running().length, RUNNING)
  t.same(world.problems, [])
  t.equal(world.record().negotiateMs, 0, 'how long its user thought is not counted')
  t.end()
})

t.test('accepted twice, it is answered twice and decided once', t => {
  const world = offered()
  t.equal(accept(world), null)
  t.equal(world.record().state, 'committing')
  t.equal(accept(world), null)
  world.settle()
  t.equal(accept(world), null)
  t.equal(world.record().state, 'active')
  t.same(methods(world).filter(method => method === 'commit').length, 2)
  t.end()
})

t.test('a millisecond decides', t => {
  for (const [offMs, state] of [[-1, 'active'], [0, 'failed'], [1, 'failed']] as const) {
    const world = offered()
    const until = untilMs(world.record())
    world.now = until + offMs
    const answer = accept(world)
    world.settle()
    t.equal(world.record().state, state)
    if (state === 'active') { t.equal(answer, null); continue }
    t.match(answer, { code: 'HOLD_LAPSED', message: `cluster demo was held for its user until ${new Date(until).toISOString()}, and not accepted by then`, hint: /plan --hold/ })
    t.notOk(methods(world).includes('commit'))
    t.equal(world.live(), 0, 'what was held is given back at once')
  }
  t.end()
})

t.test('nobody says anything: it lapses by itself, everything is given back, nothing is asked for again', t => {
  const world = offered()
  world.pass(untilMs(world.record()) - world.now)
  t.match(world.record(), { state: 'failed', error: { code: 'HOLD_LAPSED', message: /not accepted by then; what was held is given back/ }, asked: [] })
  t.equal(world.live(), 0)
  world.pass(10 * 60_000, 1_000)
  t.same(methods(world), ['request', 'request', 'release', 'release'])
  t.match(accept(world), { code: 'HOLD_LAPSED' })
  t.end()
})

t.test('a site that is away when it lapses is told until its hold has ended for certain', t => {
  const world = offered(MAX_HOLD_TTL_MS)
  world.twist = (site, ask) => ask.method === 'release' && site === 'tsukuba' ? lost(site) : null
  world.submit({ type: 'delete', clusterId: ID, reason: 'no' })
  world.settle()
  world.pass(MAX_HOLD_TTL_MS - 1_000, 1_000)
  t.match(world.record(), { state: 'releasing', asked: [{ site: 'tsukuba' }] })
  world.pass(60_000, 1_000)
  t.equal(world.record().state, 'ended')
  t.equal(world.live(), 0)
  t.end()
})

t.test('given back at once', t => {
  const world = offered()
  world.submit({ type: 'delete', clusterId: ID, reason: 'too dear' })
  t.equal(world.record().state, 'releasing')
  t.match(accept(world), { code: 'CONFLICT', message: /cannot be accepted any more: it was given back/ })
  world.settle()
  t.equal(world.record().state, 'ended')
  t.equal(world.live(), 0)
  t.match(accept(world), { code: 'CONFLICT' })
  t.equal(world.record().state, 'ended')
  t.end()
})

t.test('wherever the master is stopped: all or nothing, and a restart gives back what waits', t => {
  const go = (world: World): void => {
    world.create({}, T0, TTL_MS)
    world.settle()
    if (world.machine.records.get(ID)?.state === 'offered') accept(world)
    world.settle()
  }
  t.same(stoppedEverywhere(t, () => new World(ROOMS), go, 300_000, RUNNING), ['active', 'failed', 'none'])
  const world = offered()
  world.crash(false)
  t.match(world.record(), { state: 'failed', error: { code: 'MASTER_RESTARTED', message: 'the master restarted while demo was held for its user; what was held is given back' }, asked: [] })
  t.equal(world.live(), 0)
  t.match(accept(world), { code: 'MASTER_RESTARTED' })
  t.end()
})

t.test('there is nothing to accept', t => {
  const world = new World(ROOMS)
  t.match(accept(world), { code: 'NOT_FOUND' })
  world.create({}, T0, TTL_MS)
  t.match(accept(world), { code: 'CONFLICT', message: /sites are still being asked/, retryable: true })
  t.equal(world.record().state, 'negotiating')
  const plain = new World(ROOMS)
  plain.create()
  plain.settle()
  t.match(accept(plain), { code: 'CONFLICT', message: /was asked for without --hold/ })
  t.equal(plain.record().state, 'active')
  t.end()
})

t.test('a site that refuses is replaced, as always; one of an older release holds for its own time', t => {
  const world = new World(ROOMS)
  world.twist = (site, ask) => ask.method === 'request' && site === 'tsukuba' ? new MusubiError('POLICY_DENIED', 'tsukuba lends nothing') : null
  world.create({}, T0, TTL_MS)
  world.settle()
  t.same([world.record().state, world.record().offers.map(offer => offer.site)], ['offered', ['tokyo', 'ueno']])

  const old = new World(ROOMS)
  old.twist = (site, ask) => ask.method === 'request' && site === 'tsukuba' ? old.lender(site).answer({ ...ask, request: { ...ask.request, holdTtlMs: HOLD_TTL_MS } }) : null
  old.create({}, T0, TTL_MS)
  old.settle()
  t.equal(old.record().hold?.endsMs, Math.floor(T0 + HOLD_TTL_MS * (1 - HOLD_MARGIN)), 'the first hold counts')

  const long = new World(ROOMS)
  long.twist = (site, ask) => ask.method === 'request' && site === 'tsukuba' ? long.lender(site).answer({ ...ask, request: { ...ask.request, holdTtlMs: 4_000_000_000 } }) : null
  long.create({}, T0, TTL_MS)
  long.settle()
  t.equal(long.record().hold?.endsMs, Math.floor(T0 + TTL_MS * (1 - HOLD_MARGIN)), 'no longer than was asked for')
  t.end()
})

t.test('a site that holds it for a moment only is replaced: it would leave the user no time, whatever the others do', t => {
  const world = new World(ROOMS)
  world.twist = (site, ask) => ask.method === 'request' && site === 'tsukuba' ? world.lender(site).answer({ ...ask, request: { ...ask.request, holdTtlMs: ACCEPT_MARGIN_MS / 2 } }) : null
  world.create({}, T0, TTL_MS)
  world.settle()
  t.same([world.record().state, world.record().offers.map(offer => offer.site)], ['offered', ['tokyo', 'ueno']])
  t.equal(world.record().hold?.endsMs, Math.floor(T0 + TTL_MS * (1 - HOLD_MARGIN)))
  t.equal(accept(world), null)
  world.settle()
  t.equal(world.record().state, 'active')

  const alone = new World({ tokyo: 2, tsukuba: 2 })
  alone.twist = (site, ask) => ask.method === 'request' && site === 'tsukuba' ? alone.lender(site).answer({ ...ask, request: { ...ask.request, holdTtlMs: 5_000 } }) : null
  alone.create({}, T0, TTL_MS)
  alone.settle()
  t.match(alone.record().error?.message, /tsukuba.*site tsukuba would hold it for 5000 ms, which leaves its user no time/s)
  t.end()
})

t.test('a start to come, accepted before or after it', t => {
  const ahead = offered(TTL_MS, T0 + HOUR)
  t.equal(accept(ahead), null)
  ahead.settle()
  t.equal(ahead.record().state, 'activating')
  t.same(ahead.running(), [])
  ahead.pass(HOUR + 1_000, 1_000)
  t.equal(ahead.record().state, 'active')

  const passed = offered(TTL_MS, T0 + 30_000)
  passed.pass(60_000)
  t.equal(accept(passed), null)
  passed.settle()
  t.equal(passed.record().state, 'active')
  t.end()
})

t.test('it does not outlast its own term', t => {
  const world = new World(ROOMS)
  world.create({ termMs: 60_000 }, T0, TTL_MS)
  world.settle()
  t.equal(untilMs(world.record()), T0 + 60_000 - ACCEPT_MARGIN_MS)
  t.end()
})

t.test('what changes it later is held no longer than anything else', t => {
  const world = offered()
  accept(world)
  world.settle()
  world.submit({ type: 'grow', clusterId: ID, count: 6, id: world.newId() })
  world.settle()
  const asked = world.sent.flatMap(ask => ask.method === 'request' ? [ask.request] : [])
  t.same(asked.map(request => [request.grow, request.holdTtlMs]), [[false, TTL_MS], [false, TTL_MS], ...asked.slice(2).map(() => [true, HOLD_TTL_MS])])
  t.ok(asked.length > 2)
  t.end()
})

t.test('a hold of an odd length ends at a whole ms, as copies of records hold nothing else', t => {
  for (const ttlMs of [29_999, 30_001, 1]) {
    const until = validUntil(1_000, ttlMs)
    t.ok(Number.isSafeInteger(until) && until <= 1_000 + ttlMs, String(ttlMs))
  }
  t.end()
})
